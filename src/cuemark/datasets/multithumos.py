"""MultiTHUMOS: THUMOS14's untrimmed videos, with all that happens in them in 65 classes.

    {"video_test_0000896": {"subset": "testing", "duration": 226.77,
        "actions": [[12, 18.6, 24.8], [25, 18.27, 22.57], …]}}

An action is a class, a start and an end in seconds (two decimals). Classes count from 1 as in the dataset's
``class_list.txt``: THUMOS14's 20 in their alphabetical order, then 45 further ones, from Walk (21) to NoHuman (65).
That is the JSON of those who train on it (*super-events*, PDAN, …). The authors publish a folder of text files, one
per class, with lines ``video start end``, as THUMOS14's own; a folder is read as that (see
:mod:`cuemark.datasets.thumos`).

Rules: an action that ends before it starts is dropped and noted (there is none); times beyond the video are kept as
written (65 end there, 7 have zero length). Splits keep the file's names, ``training`` for THUMOS's validation videos;
in the text files those are ``validation``. Scores, sentences, ids and rates cannot be held.

Traps: Charades in this layout has the same keys and counts its 157 classes from 0: it is not this format. 413 videos,
38,690 actions; annotations overlap heavily and frame-level mAP is what is usually reported.

Source: Yeung et al., *Every Moment Counts*, IJCV 2018; JSON: github.com/piergiaj/super-events-cvpr18.
"""

from __future__ import annotations

import re
from pathlib import Path

from cuemark.datasets import thumos
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import seconds, split, whole
from cuemark.errors import DataError
from cuemark.segments import Truth, VideoTruth, read_json, write_json

CLASSES = (
    *thumos.CLASS_IDS,
    "Walk", "Sit", "StandUp", "Stand", "Run", "Jump", "Fall", "PickUp", "Hug", "PatPerson", "HighFive", "FistPump",
    "ClapHands", "OneRaisedArmCelebrate", "TwoRaisedArmCelebrate", "Throw", "Drop", "OneHandedCatch",
    "TwoHandedCatch", "BodyRoll", "BodyTurn", "BodyBend", "BodyContract", "Squat", "BasketballDribble",
    "BasketballPass", "BasketballBlock", "BasketballShot", "BasketballGuard", "VolleyballSet", "VolleyballBump",
    "VolleyballBlock", "VolleyballServe", "WeightliftingClean", "WeightliftingJerk", "HammerThrowWindUp",
    "HammerThrowSpin", "HammerThrowRelease", "PoleVaultPlantPole", "ShotPutBend", "DiscusWindUp", "DiscusRelease",
    "TalkToCamera", "CloseUpTalkToCamera", "NoHuman",
)
"""The 65 classes; class ``i`` of a file is ``CLASSES[i - 1]``."""


def parse(path: Path, reading: Reading) -> Truth:
    """Read the JSON, or the authors' folder of text files.

    Raises:
        DataError: an entry or an action is malformed, or a class is not one from 1 to 65.
    """
    if path.is_dir():
        files = [(label, reading.subset, place / f"{label}.txt") for place in (path, path / "annotations")
                 for label in sorted(CLASSES) if (place / f"{label}.txt").is_file()]
        if not files:
            raise DataError(f"folder '{path}' holds no file such as 'BasketballGuard.txt'; name the folder of "
                            "MultiTHUMOS's text files, or its JSON file.")
        return thumos.parse_classes(files, path, reading)
    data = read_json(path, "MultiTHUMOS", unique=True)
    if not isinstance(data, dict):
        raise DataError(f"'{path}' is not a MultiTHUMOS file; expected an object with one entry per video.")
    truth: Truth = {}
    for vid, entry in data.items():
        where = f"'{path}', video '{vid}'"
        if not isinstance(entry, dict) or not isinstance(entry.get("actions"), list):
            raise DataError(f'{where}: expected an object with "duration", "subset" and a list of "actions".')
        found = []
        for i, action in enumerate(entry["actions"]):
            at = f"{where}, action {i}"
            if not isinstance(action, list) or len(action) != 3:
                raise DataError(f"{at}: expected [class, start, end], got {str(action)[:60]}.")
            number = whole(action[0], at, "a class from 1 to 65")
            if not 1 <= number <= len(CLASSES):
                raise DataError(f"{at}: expected a class from 1 to 65, got {number}.")
            segment = reading.segment(action[1], action[2], at, label=CLASSES[number - 1])
            if segment is not None:
                found.append(segment)
        told = entry.get("duration")
        duration = reading.length(vid, found) if told is None else seconds(told, where, '"duration" in seconds')
        truth[vid] = VideoTruth(duration, tuple(found), split(str(entry.get("subset") or reading.subset)))
    return truth


def write(path: Path, truth: Truth) -> None:
    """Write the JSON.

    Raises:
        DataError: a label is not one of the 65.
    """
    numbers = {label: i for i, label in enumerate(CLASSES, 1)}
    data = {}
    for vid, video in truth.items():
        if strange := [s.label for s in video.annotations if s.label not in numbers]:
            raise DataError(f"video '{vid}' has the label {strange[0]!r}, which is none of MultiTHUMOS's 65 classes; "
                            "rename it or leave it out.")
        data[vid] = {"subset": video.subset, "duration": video.duration,
                     "actions": [[numbers[str(s.label)], s.start, s.end] for s in video.annotations]}
    write_json(path, data)


def looks(path: Path, head: str) -> Kind | None:
    """THUMOS14's videos with ``actions``, or a folder with a class's text file."""
    if path.is_dir():
        found = any((place / "BasketballGuard.txt").is_file() for place in (path, path / "annotations"))
        return "truth" if found else None
    start = re.match(r'\s*\{\s*"video_(validation|test)_\d{7}"\s*:\s*\{', head.removeprefix("\ufeff"))
    return "truth" if start and re.search(r'"actions"\s*:\s*\[', head) else None


FORMAT = Format(
    name="multithumos",
    title="MultiTHUMOS",
    source="Yeung et al., Every Moment Counts, IJCV 2018; github.com/piergiaj/super-events-cvpr18",
    layout='JSON {video: {"subset", "duration", "actions": [[class from 1, start, end]]}}, or a folder of {class}.txt; '
           "seconds",
    looks=looks, parse=parse, write=write,
    traps="Classes count from 1; Charades in the same layout counts from 0 and is not this format.",
)
