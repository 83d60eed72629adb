"""ActivityNet's JSON, as its authors and those who followed them write it.

The layout is that of :mod:`cuemark.segments` already. What differs from file to file is how a video is called (the
official file says ``QOlSCBRmfWY``, features and captions say ``v_QOlSCBRmfWY``) and how a split is called
(``training`` in the official file, ``train``, ``Test`` or ``val`` in files made from it). Here a video has no ``v_``
and the splits have their official names; any other split keeps the name it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cuemark.segments import Truth, read_truth, write_truth

_SPLITS = {"train": "training", "val": "validation", "valid": "validation", "test": "testing"}


def bare_ids(names: Iterable[str]) -> dict[str, str]:
    """Name in a file -> video id: without ``v_`` when every name of the file has one.

    A rule for the whole file, because a YouTube id may itself begin with ``v_`` (two of ActivityNet's do).
    """
    names = list(names)
    prefixed = all(name.startswith("v_") for name in names)
    return {name: name[2:] if prefixed else name for name in names}


def parse(path: str | Path) -> Truth:
    """Read a truth file in ActivityNet's layout.

    Raises:
        DataError: as :func:`cuemark.segments.read_truth`.
    """
    truth = read_truth(path)
    ids = bare_ids(truth)
    return {ids[name]: replace(video, subset=_split(video.subset)) for name, video in truth.items()}


def write(path: str | Path, truth: Truth) -> None:
    """Write truth that ActivityNet's evaluator reads: ``taxonomy`` and ``label_id`` added, ids as they are."""
    write_truth(path, truth)


def _split(name: str) -> str:
    lower = name.lower()
    return _SPLITS.get(lower, lower if lower in _SPLITS.values() else name)
