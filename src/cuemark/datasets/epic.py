"""EPIC-KITCHENS-100's CSV: what a cook narrated, as a verb, its nouns and the stretch of the action.

    narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,
        narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes
    P01_11_1,P01,P01_11,00:00:01.700,00:00:01.56,00:00:02.45,93,147,put down plate,put-down,1,plate,2,['plate'],[2]

Times are ``HH:MM:SS.ss``; they count, frames (of videos at 50 or 60 a second, whatever their rate) are passed over.
``path`` is one of the files or the folder of ``EPIC_100_train.csv``, ``EPIC_100_validation.csv`` and
``EPIC_100_test_timestamps.csv``, whose names tell the split. An annotation's ``id`` is its ``narration_id`` and its
``sentence`` the narration.

The label is a **class**, and there are three formats because there are three tasks, as ActionFormer and the challenge
have them: ``epic-kitchens`` gives the verb's class (97), ``epic-kitchens-noun`` that of the first noun (300), and
``epic-kitchens-action`` both, with a blank between: ``put plate``. The columns ``verb`` and ``noun`` are no labels,
they are the narrator's words: ``take``, ``pick-up`` and ``grab`` are all class 0. A class is called as the ``key`` of
``EPIC_100_verb_classes.csv`` and ``EPIC_100_noun_classes.csv`` says (beside the file, or in the folder
``reading.meta``); where they are not there, it is called by its number, which is noted. Lengths and rates are from
``EPIC_100_video_info.csv`` there (``reading.durations`` goes before it), else a video is as long as its last
annotation. The test file has no classes: its annotations have no label.

Rules: an action that stops before it starts is dropped and noted (there is none in the validation file: 9,668 actions
of 138 videos); ends beyond the video are kept. Rows are sorted by ``narration_id`` as text (0, 1, 10, 100, 2), and that
order is kept.

Written are the files named above, of a task's own columns (a verb's are empty in ``epic-kitchens-noun``). Times get
their 10 ms. A class keeps its number where the labels are numbers or where the folder has the classes' file already;
else classes are numbered alphabetically and the file is written. An annotation without id is called after its video
and place. Scores, splits other than the three and videos without annotations cannot be held.

Source: Damen et al., *Rescaling Egocentric Vision*, IJCV 2022; github.com/epic-kitchens/epic-kitchens-100-annotations.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Literal

from cuemark.datasets.files import new_folder
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import above_0, header, seconds, split_of, table, whole, write_table
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth

Task = Literal["verb", "noun", "action"]
_COLUMNS = ("narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp",
            "start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns",
            "all_noun_classes")
_NEEDED = ("narration_id", "video_id", "start_timestamp", "stop_timestamp")
_FILES = {"training": "EPIC_100_train.csv", "validation": "EPIC_100_validation.csv",
          "testing": "EPIC_100_test_timestamps.csv"}
_INFO = "EPIC_100_video_info.csv"
_TIME = re.compile(r"(\d{1,4}):([0-5]?\d):([0-5]?\d(?:\.\d{1,9})?)")
_PARTS: dict[Task, tuple[str, ...]] = {"verb": ("verb",), "noun": ("noun",), "action": ("verb", "noun")}


def _time(text: str, where: str) -> float:
    """Seconds of ``HH:MM:SS.ss``."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise DataError(f"{where}: expected a time HH:MM:SS.ss, got {text[:40]!r}.")
    return float(3600 * int(match[1]) + 60 * int(match[2]) + Decimal(match[3]))


def _clock(time: float, vid: str) -> str:
    """``HH:MM:SS.ss`` of seconds."""
    if time < 0:
        raise DataError(f"video '{vid}' has an annotation at {time:g} s, which EPIC-KITCHENS' file cannot hold; clip "
                        "it to the video.")
    hundredths = round(time * 100)
    return (f"{hundredths // 360000:02d}:{hundredths // 6000 % 60:02d}:{hundredths // 100 % 60:02d}"
            f".{hundredths % 100:02d}")


def _classes(part: str, folder: Path) -> dict[int, str] | None:
    """Number -> name of the verbs' or nouns' classes, where their file is in the folder."""
    file = folder / f"EPIC_100_{part}_classes.csv"
    if not file.is_file():
        return None
    names: dict[int, str] = {}
    for where, row in table(file, f"{part} classes", ("id", "key")):
        index = whole(row["id"], where, "a class's number")
        if index in names or not row["key"]:
            raise DataError(f"{where}: class {index} is there twice or has no name; each needs one.")
        names[index] = row["key"]
    return names


def _videos(folder: Path) -> dict[str, tuple[float, float | None]]:
    """Seconds and frames a second of the videos, where their file is in the folder."""
    file = folder / _INFO
    if not file.is_file():
        return {}
    found: dict[str, tuple[float, float | None]] = {}
    for where, row in table(file, "EPIC-KITCHENS video", ("video_id", "duration", "fps")):
        fps = above_0(row["fps"], where, "fps") if row["fps"] else None
        found[row["video_id"]] = (seconds(row["duration"], where), fps)
    return found


def parse(path: Path, reading: Reading, task: Task = "verb") -> Truth:
    """Read a file, or the folder of the three.

    Raises:
        DataError: a column is missing, a time is malformed, an id is there twice, or a class has no name.
    """
    folder = path if path.is_dir() else path.parent
    files = [path]
    if path.is_dir():
        files = [path / name for name in _FILES.values() if (path / name).is_file()]
        if not files:
            raise DataError(f"folder '{path}' holds none of {', '.join(_FILES.values())}; name the folder that does.")
    if reading.meta is not None:
        folder = reading.meta if reading.meta.is_dir() else reading.meta.parent
    names = {part: _classes(part, folder) for part in _PARTS[task]}
    for part in _PARTS[task]:
        if names[part] is None:
            reading.note(f"'{folder}'", f"has no EPIC_100_{part}_classes.csv: classes are numbers", "kept")
    info = _videos(folder)
    found: dict[str, list[Segment]] = {}
    subsets: dict[str, str] = {}
    seen: set[str] = set()
    for file in files:
        for where, row in table(file, "EPIC-KITCHENS-100", _NEEDED):
            vid, narration = row["video_id"], row["narration_id"]
            if narration in seen:
                raise DataError(f"{where}: narration_id '{narration}' is there twice; leave one out.")
            seen.add(narration)
            subsets.setdefault(vid, split_of(file, reading.subset))
            labels = [_label(row.get(f"{part}_class", ""), names[part], where, part) for part in _PARTS[task]]
            segment = reading.segment(
                _time(row["start_timestamp"], where), _time(row["stop_timestamp"], where), where,
                label=" ".join(label for label in labels if label) if all(labels) else None,
                sentence=row.get("narration") or None, id=narration or None)
            found.setdefault(vid, []).extend([segment] if segment is not None else [])
    truth: Truth = {}
    for vid, segments in found.items():
        length, fps = info.get(vid, (None, None))
        if length is None or vid in reading.durations:
            length = reading.length(vid, segments)
        truth[vid] = VideoTruth(length, tuple(segments), subsets[vid], fps)
    return truth


def _label(text: str, names: dict[int, str] | None, where: str, part: str) -> str | None:
    """A class's name, or its number where there are no names; None where the row has no class."""
    if not text:
        return None
    index = whole(text, where, f"a {part}_class, a number")
    if names is None:
        return str(index)
    if index not in names:
        raise DataError(f"{where}: {part}_class {index} is not in EPIC_100_{part}_classes.csv; take the file that "
                        "belongs to these annotations.")
    return names[index]


def write(path: Path, truth: Truth, task: Task = "verb") -> None:
    """Write the files into the folder ``path``.

    Raises:
        DataError: a video is of another split, a time is below 0, a label is not among the classes of the folder's
            file or, of ``action``, is not a verb and a noun.
    """
    parts = _PARTS[task]
    labels: dict[str, set[str]] = {part: set() for part in parts}
    for vid, video in truth.items():
        if video.subset not in _FILES:
            raise DataError(f"video '{vid}' is of subset '{video.subset}', which EPIC-KITCHENS' files cannot hold; "
                            "they are named by training, validation and testing.")
        for s in video.annotations:
            for part, name in zip(parts, _split(s.label, task, vid)):
                labels[part].add(name)
    used = {_FILES[v.subset] for v in truth.values()}
    new_folder(path, "EPIC-KITCHENS' annotations", list(_FILES.values()), list(used))
    numbers = {part: _numbers(part, labels[part], path) for part in parts}
    rows: dict[str, list[tuple[object, ...]]] = {name: [] for name in used}
    for vid, video in truth.items():
        for i, s in enumerate(video.annotations):
            cells: dict[str, object] = {"verb": None, "noun": None}
            for part, name in zip(parts, _split(s.label, task, vid)):
                cells |= {part: name, f"{part}_class": numbers[part][name]}
            noun, index = cells["noun"], cells.get("noun_class")
            frames = (None, None) if video.fps is None else tuple(int(t * video.fps) for t in (s.start, s.end))
            rows[_FILES[video.subset]].append((
                s.id or f"{vid}_{i}", vid.split("_")[0], vid, None, _clock(s.start, vid), _clock(s.end, vid), *frames,
                s.sentence, cells["verb"], cells.get("verb_class"), noun, index,
                None if noun is None else f"[{noun!r}]", None if index is None else f"[{index}]"))
    for part in parts:
        if numbers[part] and not all(name.isdecimal() for name in numbers[part]):
            file = path / f"EPIC_100_{part}_classes.csv"
            if not file.is_file():
                write_table(file, ("id", "key", "instances", "category"),
                            [(i, name, f"[{name!r}]", None) for name, i in numbers[part].items()])
    write_table(path / _INFO, ("video_id", "duration", "fps", "resolution"),
                [(vid, v.duration, v.fps, None) for vid, v in truth.items()])
    for name, lines in rows.items():
        write_table(path / name, _COLUMNS, lines)


def _split(label: str | None, task: Task, vid: str) -> tuple[str, ...]:
    """The classes of which a label is made; none of an annotation without one."""
    if not label:
        return ()
    names = tuple(label.split(" ")) if task == "action" else (label,)
    if len(names) != len(_PARTS[task]) or not all(names):
        raise DataError(f"video '{vid}' has the label {label!r}, which is not a verb, a blank and a noun; write it as "
                        "epic-kitchens, or rename it.")
    return names


def _numbers(part: str, labels: set[str], folder: Path) -> dict[str, int]:
    """Class -> its number: those of the folder's file, else the labels themselves, else alphabetical."""
    known = _classes(part, folder)
    if known is not None:
        numbers = {name: index for index, name in known.items()}
        if strange := sorted(labels - set(numbers)):
            raise DataError(f"'{strange[0]}' is not in '{folder / f'EPIC_100_{part}_classes.csv'}'; rename it, or "
                            "write into an empty folder.")
        return numbers
    if all(name.isdecimal() and str(int(name)) == name for name in labels):
        return {name: int(name) for name in sorted(labels)}
    return {name: i for i, name in enumerate(sorted(labels))}


def looks(path: Path, head: str) -> Kind | None:
    """A CSV with EPIC-KITCHENS-100's columns, or the folder of its files."""
    if path.is_dir():
        return "truth" if any((path / name).is_file() for name in _FILES.values()) else None
    return "truth" if set(_NEEDED) <= set(header(head)) else None


def _never(path: Path, head: str) -> Kind | None:
    """The other tasks' files are the same: they are not guessed."""
    return None


def _format(name: str, title: str, task: Task, guess: Callable[[Path, str], Kind | None]) -> Format:
    return Format(
        name=name, title=title,
        source="Damen et al., IJCV 2022; github.com/epic-kitchens/epic-kitchens-100-annotations",
        layout="CSV narration_id,…,video_id,…,start_timestamp,stop_timestamp,…,verb_class,…,noun_class,…; HH:MM:SS.ss",
        looks=guess, parse=partial(parse, task=task), write=partial(write, task=task),
        traps="verb and noun are the narrator's words, not classes; the classes' names and the videos' lengths are in "
              "other files; rows are in the order of ids as text.",
    )


FORMATS = (
    _format("epic-kitchens", "EPIC-KITCHENS-100, labelled by verb", "verb", looks),
    _format("epic-kitchens-noun", "EPIC-KITCHENS-100, labelled by noun", "noun", _never),
    _format("epic-kitchens-action", "EPIC-KITCHENS-100, labelled by verb and noun", "action", _never),
)
