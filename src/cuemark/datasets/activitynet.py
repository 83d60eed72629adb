"""ActivityNet's JSON, as its authors and those who followed them write it; and cuemark's own, which is a superset.

    {"version": "VERSION 1.3", "taxonomy": […], "database": {"QOlSCBRmfWY": {"duration": 82.73, "subset": "training",
        "resolution": "640x360", "url": "…", "annotations": [{"segment": [6.19, 77.73], "label": "Ballet"}]}}}

    {"version": "VERSION 1.3", "external_data": {}, "results": {"QOlSCBRmfWY": [
        {"label": "Ballet", "score": 0.64, "segment": [30.02, 64.75]}]}}

The same layout: ActivityNet 1.2 and 1.3; HACS Segments (``HACS_segments_v1.1.1.json``, whose durations are text);
what ActionFormer and OpenTAD read for THUMOS14, EPIC-Kitchens, Ego4D and others (``fps``, ``label_id``,
``segment(frames)`` beside); G-TAD's ``thumos_gt.json`` (times are text, no durations); R-C3D's; DETAD's, too, but it
is taken for :mod:`cuemark.datasets.detad`'s, which reads its further keys; BMN's proposals (no label). Times are
seconds.

What differs from file to file is how a video is called (the official file says ``QOlSCBRmfWY``, features and captions
say ``v_QOlSCBRmfWY``) and how a split is called (``training`` in the official file, ``train``, ``Test`` or ``val`` in
files made from it). Here a video has no ``v_`` and the splits have their official names; any other split keeps the
name it has. The format ``cuemark`` (the ``version`` begins with ``cuemark``) leaves both as they are.

Rules: a segment that ends before it starts is dropped and noted; times beyond the video are kept as written, as the
evaluator counts them; zero length is kept (3 in ActivityNet's validation split); a video without a duration is as
long as :attr:`Reading.durations` says, else as its last annotation. A file that has a video twice is refused: a JSON
reader sees only the second.

Traps: the official ``activity_net.v1-3.min.json`` has no annotations for the test split; 216 validation videos were
once blocked by the evaluation server, and papers differ in whether they count them; 19 annotations of the validation
split are there twice; THUMOS14 in this layout calls its validation videos ``train``, which becomes ``training`` here
and is ``validation`` in :mod:`cuemark.datasets.thumos`; ``thumos_gt.json`` lacks ``Ambiguous`` and three of the 213
test videos (0000270, 0001292, 0001496).
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from cuemark.datasets.files import bare_ids
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import split
from cuemark.segments import (
    Predictions,
    Segment,
    Truth,
    read_predictions,
    read_truth,
    write_predictions,
    write_truth,
)


def _read_truth(path: str | Path, reading: Reading | None) -> Truth:
    if reading is None:
        return read_truth(path)

    def length(name: str, segments: list[Segment]) -> float:
        return reading.length(name if name in reading.durations else name.removeprefix("v_"), segments)

    return read_truth(path, subset=reading.subset, unique=True, length=length,
                      inverted=lambda where, what: reading.note(where, what, "dropped"))


def _read_predictions(path: str | Path, reading: Reading | None) -> Predictions:
    if reading is None:
        return read_predictions(path)
    return read_predictions(path, unique=True, inverted=lambda where, what: reading.note(where, what, "dropped"))


def parse(path: str | Path, reading: Reading | None = None) -> Truth:
    """Read a truth file in ActivityNet's layout.

    Without a ``reading`` there is nowhere to note what is wrong, and a segment that ends before it starts is an error.

    Raises:
        DataError: as :func:`cuemark.segments.read_truth`.
    """
    truth = _read_truth(path, reading)
    ids = bare_ids(truth)
    return {ids[name]: replace(video, subset=split(video.subset)) for name, video in truth.items()}


def write(path: str | Path, truth: Truth) -> None:
    """Write truth that ActivityNet's evaluator reads: ``taxonomy`` and ``label_id`` added, ids as they are."""
    write_truth(path, truth)


def parse_predictions(path: str | Path, reading: Reading | None = None) -> Predictions:
    """Read predictions, in the order of the file; ids without ``v_`` as in :func:`parse`.

    Raises:
        DataError: as :func:`cuemark.segments.read_predictions`.
    """
    found = _read_predictions(path, reading)
    ids = bare_ids(found)
    return {ids[name]: segments for name, segments in found.items()}


def save_predictions(path: Path, predictions: Predictions, truth: Truth) -> None:
    """Write predictions that ActivityNet's evaluator reads: every one has a label and a score."""
    write_predictions(path, predictions)


_OURS = re.compile(r'\s*\{\s*"version"\s*:\s*"cuemark\b')
_TRUTH = re.compile(r'"database"\s*:\s*\{')
_RESULTS = re.compile(r'"results"\s*:\s*\{\s*(\}|"(?:[^"\\]|\\.)*"\s*:\s*\[)')


def _kind(head: str) -> Kind | None:
    if not head.removeprefix("\ufeff").lstrip().startswith("{"):
        return None
    if _TRUTH.search(head):  # COIN has "annotation", captions "timestamps", DETAD's further keys are read by detad.py
        return None if re.search(r'"(annotation|timestamps|num-instances)"\s*:', head) else "truth"
    if _RESULTS.search(head):  # dense captions have "timestamp"
        segments = '"segment"' in head or re.search(r'"results"\s*:\s*\{\s*(\}|"(?:[^"\\]|\\.)*"\s*:\s*\[\s*\])', head)
        return "predictions" if segments and '"timestamp"' not in head else None
    return None


def looks(path: Path, head: str) -> Kind | None:
    """Truth has a ``database``, predictions have ``results``; cuemark's own are the other format's."""
    return None if _OURS.match(head.removeprefix("\ufeff")) else _kind(head)


def looks_ours(path: Path, head: str) -> Kind | None:
    """``{"version": "cuemark 1", …``."""
    return _kind(head) if _OURS.match(head.removeprefix("\ufeff")) else None


FORMATS = (
    Format(
        name="activitynet",
        title="ActivityNet JSON (also HACS Segments, ActionFormer, OpenTAD, G-TAD)",
        source="Caba Heilbron et al., ActivityNet, CVPR 2015; github.com/activitynet/ActivityNet",
        layout='{"database": {video: {"duration", "subset", "annotations": [{"segment": [start, end], "label"}]}}}; '
               '{"results": {video: [{"segment", "label", "score"}]}}; seconds',
        looks=looks, parse=parse, write=write, parse_predictions=parse_predictions, write_predictions=save_predictions,
        traps="Ids lose a v_ that all of a file have; train, val and test become training, validation and testing.",
    ),
    Format(
        name="cuemark",
        title="cuemark JSON",
        source="cuemark.segments",
        layout='ActivityNet\'s, with "fps" of videos and "sentence", "query", "score" and "id" of segments; seconds',
        looks=looks_ours, parse=_read_truth, write=write, parse_predictions=_read_predictions,
        write_predictions=save_predictions,
        traps="Ids and splits are kept as written.",
    ),
)
