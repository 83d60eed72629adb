"""Splits of classes rather than of videos: few-shot and zero-shot protocols. Not a format of annotations.

Few-shot (the lists are QAT's, Nag et al., BMVC 2021; CLAP follows): ActivityNet's 200 classes as 160 to train on, 20
to choose by and 20 that are new. That crosses the split of the videos: 470 of BMN's validation videos show a new class,
469 if a video counts for the class of its first annotation alone (11 videos have several classes).

    activitynet_few_shot_classes.json   {"base": ["Fun sliding down", …], "validation": […], "novel": […]}

Zero-shot (Ju et al., *Prompting Visual-Language Models*, ECCV 2022, github.com/ju-chen/Efficient-Prompt; UnLoc and
STALE have the same lists): ten times, part of the classes are seen in training and the rest in testing; the mean of
the ten is reported (STALE's code uses the first alone). 50 % or 75 % are seen: 100 or 150 of ActivityNet's 200, 10 or
15 of THUMOS14's 20. A folder of one dataset and one ratio is

    train50%; test50%/ActivityNet1.3/train/split_0.list … split_9.list      a class on each line
    train50%; test50%/ActivityNet1.3/test/split_0.list … split_9.list

Trap: STALE's published "zero-shot" figures use a classifier that was trained on all classes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from cuemark.datasets.rows import lines
from cuemark.errors import DataError
from cuemark.segments import Truth, labels_of, read_json

_PARTS = ("base", "validation", "novel")


def few_shot(path: Path) -> dict[str, list[str]]:
    """The classes of each part of a few-shot split: ``base`` (train), ``validation``, ``novel`` (test).

    Raises:
        DataError: a part is missing, empty or no list of names, or a class is there twice.
    """
    data = read_json(path, "few-shot class", unique=True)
    if not isinstance(data, dict) or set(data) != set(_PARTS):
        raise DataError(f"'{path}' is not a few-shot class file; expected an object with the lists base, validation "
                        "and novel.")
    parts = {part: _names(data[part], f"'{path}', {part}") for part in _PARTS}
    _apart([(f"'{path}', {part}", names) for part, names in parts.items()])
    return parts


def zero_shot(folder: Path) -> list[tuple[list[str], list[str]]]:
    """The (seen, unseen) classes of each of the splits in a folder with ``train`` and ``test``.

    Raises:
        DataError: a list is missing or has no partner, a class is there twice, or the splits differ in how many
            classes they have, or in which.
    """
    seen, unseen = (_lists(folder / part) for part in ("train", "test"))
    if not seen:
        raise DataError(f"folder '{folder}' holds no train/split_0.list; name the folder of one dataset, such as "
                        "'train50%; test50%/ActivityNet1.3'.")
    if set(seen) != set(unseen) or set(seen) != set(range(len(seen))):
        odd = min(set(seen) ^ set(unseen) | set(range(len(seen))) - set(seen))
        raise DataError(f"folder '{folder}' lacks split_{odd}.list in train or in test; each split needs both.")
    splits = []
    for i in range(len(seen)):
        first, second = read_classes(seen[i]), read_classes(unseen[i])
        _apart([(f"'{seen[i]}'", first), (f"'{unseen[i]}'", second)])
        splits.append((first, second))
        if len(first) != len(splits[0][0]) or {*first, *second} != {*splits[0][0], *splits[0][1]}:
            raise DataError(f"'{seen[i]}' and its partner have {len(first)} and {len(second)} classes, and not those "
                            "of split 0; all splits are of the same classes, in the same numbers.")
    return splits


def _lists(folder: Path) -> dict[int, Path]:
    """Number -> file of the lists in a folder."""
    found = {p: re.fullmatch(r"split_(\d{1,4})\.list", p.name) for p in folder.glob("split_*.list")}
    return {int(match[1]): p for p, match in found.items() if match is not None}


def read_classes(path: Path) -> list[str]:
    """Class names, in their order: one a line, or a JSON list (``.json``) such as TSP's label mappings.

    Raises:
        DataError: the file cannot be read, has no name, or has one twice.
    """
    if path.suffix.lower() == ".json":
        return _names(read_json(path, "class"), f"'{path}'")
    return _names([line for _, line in lines(path, "class")], f"'{path}'")


def _names(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise DataError(f"{where}: expected a list of class names, got {str(value)[:60]}.")
    _apart([(where, value)])
    return list(value)


def _apart(parts: Sequence[tuple[str, list[str]]]) -> None:
    """Make sure that no class is there twice, in one list or in two."""
    before: dict[str, str] = {}
    for where, names in parts:
        for name in names:
            if name in before:
                other = "twice" if before[name] == where else f"and in {before[name]} too"
                raise DataError(f"{where}: class '{name}' is there {other}; a class belongs to one list, once.")
            before[name] = where


def classes(truth: Truth, names: Collection[str]) -> Truth:
    """Only the annotations of these classes, and only the videos that have one.

    Raises:
        DataError: the truth has no annotation of any of them.
    """
    chosen = set(names)
    kept = {vid: replace(v, annotations=tuple(s for s in v.annotations if s.label in chosen))
            for vid, v in truth.items()}
    kept = {vid: v for vid, v in kept.items() if v.annotations}
    if not kept:
        have = ", ".join(labels_of(truth)[:5]) or "none"
        raise DataError(f"the truth has no annotation of these {len(chosen)} classes; its labels are {have} …")
    return kept
