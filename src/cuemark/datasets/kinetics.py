"""Kinetics' CSV: trimmed clips of videos, one label each.

    label,youtube_id,time_start,time_end,split,is_cc
    testifying,---QUuC4vJs,84,94,validate

The rule: **one row is one trimmed file**, called as its distributors call it, the YouTube id and the whole seconds of
the original video with six digits, ``---QUuC4vJs_000084_000094``. Such a video lasts ``time_end - time_start`` seconds
(10, as a rule) and has one annotation, which covers it. A clip with several labels has as many rows, and annotations.

Kinetics-400's files have ``is_cc`` (which is not kept), 600's and 700's do not; the official test files have no
``label``: their videos have no annotations. The split is ``train``, ``val`` or ``validate``, ``test``; where the column
is missing, the one that the file's name tells, else ``reading.subset``. The same row twice counts once and is noted; a
row that ends before it starts is dropped and noted.

Written are videos of such names whose annotations cover them; anything else is an error, as there is no place for it.

Traps: the original video's times are gone once the file is cut: the clip begins at 0. A file that was cut may be a
little shorter or longer than its name says. Labels have apostrophes, parentheses and commas.

Source: Kay et al., *The Kinetics Human Action Video Dataset*, 2017; Smaira et al. for Kinetics-700-2020.
"""

from __future__ import annotations

import re
from pathlib import Path

from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import header, label_of, number, split, split_of, table, write_table
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth

_NEEDED = ("youtube_id", "time_start", "time_end")
_NAME = re.compile(r"(?P<id>.+)_(?P<start>\d{6,})_(?P<end>\d{6,})", re.DOTALL)
_WRITTEN = {"training": "train", "validation": "val", "testing": "test"}


def parse(path: Path, reading: Reading) -> Truth:
    """Read a CSV file: a video of each row.

    Raises:
        DataError: a column is missing, a time is no number from 0, or a clip is in two splits.
    """
    found: dict[str, VideoTruth] = {}
    for where, row in table(path, "Kinetics", _NEEDED):
        start = number(row["time_start"], where, "time_start in seconds")
        end = number(row["time_end"], where, "time_end in seconds")
        if start < 0 or not row["youtube_id"]:
            raise DataError(f"{where}: expected a youtube_id and a time_start from 0, got {row['youtube_id']!r} and "
                            f"{start:g}.")
        if end < start:
            reading.note(where, f"ends before it starts: [{start:g}, {end:g}]", "dropped")
            continue
        name = f"{row['youtube_id']}_{round(start):06d}_{round(end):06d}"
        subset = split(row["split"]) if row.get("split") else split_of(path, reading.subset)
        label = row.get("label")
        annotations = (Segment(0.0, end - start, label),) if label else ()
        if name not in found:
            found[name] = VideoTruth(end - start, annotations, subset)
        elif found[name].subset != subset or found[name].duration != end - start:
            raise DataError(f"{where}: clip '{name}' is there before, with another split or length; leave one out.")
        elif not annotations or annotations[0] in found[name].annotations:
            reading.note(where, f"clip '{name}' is there before", "dropped")
        else:
            found[name] = VideoTruth(end - start, found[name].annotations + annotations, subset)
    return found


def write(path: Path, truth: Truth) -> None:
    """Write a CSV file.

    Raises:
        DataError: a video is not called ``<youtube id>_<start>_<end>`` or is not as long as that says, or an
            annotation has no label or does not cover its video.
    """
    rows = []
    for vid, video in truth.items():
        match = _NAME.fullmatch(vid)
        times = (int(match["start"]), int(match["end"])) if match is not None else (0, 0)
        if match is None or times[1] - times[0] != video.duration or vid != (
                f"{match['id']}_{times[0]:06d}_{times[1]:06d}"):
            raise DataError(f"video '{vid}' of {video.duration:g} s is no trimmed clip of Kinetics, which is called as "
                            "its YouTube id and its start and end, '---QUuC4vJs_000084_000094'; rename it.")
        labels = [label_of(s.label, vid, "Kinetics' file") for s in video.annotations]
        if any((s.start, s.end) != (0.0, video.duration) for s in video.annotations) or len(set(labels)) < len(labels):
            raise DataError(f"video '{vid}' has an annotation that does not cover it, or one twice, which Kinetics' "
                            "file cannot hold; write another format.")
        rows += [(label, match["id"], *times, _WRITTEN.get(video.subset, video.subset)) for label in labels or [""]]
    write_table(path, ("label", "youtube_id", "time_start", "time_end", "split"), rows)


def looks(path: Path, head: str) -> Kind | None:
    """A CSV with Kinetics' columns."""
    return "truth" if set(_NEEDED) <= set(header(head)) else None


FORMAT = Format(
    name="kinetics",
    title="Kinetics-400, -600, -700",
    source="Kay et al., The Kinetics Human Action Video Dataset, 2017",
    layout="CSV label,youtube_id,time_start,time_end,split[,is_cc]; whole seconds of the original video",
    looks=looks, parse=parse, write=write,
    traps="A row is a trimmed file of its own, which begins at 0; the official test files have no labels.",
)
