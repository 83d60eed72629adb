"""Charades-STA: one sentence and its moment a line, in seconds (Gao et al., TALL, ICCV 2017).

    3MSZA 24.3 30.4##person turn a light on.
    VIDEO START END##SENTENCE

The lengths of the videos are in Charades' own tables, ``Charades_v1_train.csv`` and ``Charades_v1_test.csv`` (columns
``id`` and ``length``, seconds, among others). They are looked for beside the file, or are ``Reading.meta``; a length in
``Reading.durations`` goes before them, and a video of which neither tells is as long as its last annotation.

Rules, those of 2D-TAN and of all who compare with it: an end beyond the video is **clipped** to its length (1,805 rows
of the training file, 562 of the test file), then a row whose start is not before its end is dropped (4 of the training
file, 3 of which also end beyond the video). So is one without words.

The sentence is kept as people wrote it, without blanks around it: **its final dot stays**. 2D-TAN strips the dot before
it looks words up; whoever splits sentences at blanks must do so too.

A file holds no subset (it is what the file's name tells, else ``Reading.subset``), no lengths, no label, id or score,
no video without a moment, and no line break in a sentence (written as a blank).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import above_0, lines, split_of, table, write_text
from cuemark.datasets.sentences import words
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth


def parse(path: Path, reading: Reading) -> Truth:
    """Read a Charades-STA file: videos in the order in which the file first names them.

    Raises:
        DataError: naming the file and the line of what is wrong.
    """
    lengths, subset = _lengths(path, reading), split_of(path, reading.subset)
    found: dict[str, list[Segment]] = {}
    for where, line in lines(path, "Charades-STA"):
        left, marks, sentence = line.partition("##")
        row = left.strip().rsplit(None, 2)
        if not marks or len(row) != 3:
            raise DataError(f"{where}: expected 'VIDEO START END##SENTENCE', got {line[:60]!r}.")
        video, start, end = row
        segments = found.setdefault(video, [])
        if not sentence.strip():
            reading.note(where, "has no words", "dropped")
            continue
        segment = reading.segment(start, end, where, lengths.get(video), sentence=sentence.strip())
        if segment is not None and segment.duration == 0:
            reading.note(where, f"starts where it ends: [{segment.start:g}, {segment.end:g}]", "dropped")
        elif segment is not None:
            segments.append(segment)
    return {video: VideoTruth(lengths[video] if video in lengths else reading.length(video, segments), tuple(segments),
                              subset) for video, segments in found.items()}


def write(path: Path, truth: Truth) -> None:
    """Write a Charades-STA file; a video without annotations is not in it, and no length is.

    Raises:
        DataError: an annotation has no sentence, or a video's id cannot stand in such a line.
    """
    rows = []
    for vid, video in truth.items():
        if not vid or vid != vid.strip() or "##" in vid or "\n" in vid or "\r" in vid:
            raise DataError(f"video {vid!r} cannot be named in a Charades-STA line; rename it.")
        for s in video.annotations:
            sentence = re.sub(r"\s*[\r\n]\s*", " ", words(s, vid))
            rows.append(f"{vid} {s.start!r} {s.end!r}##{sentence}\n")
    write_text(path, "".join(rows))


def _lengths(path: Path, reading: Reading) -> dict[str, float]:
    """Seconds of the videos that ``Reading.durations`` or a table names."""
    if reading.meta is not None:
        tables: Iterable[Path] = [reading.meta]
    else:
        beside = {split: path.parent / f"Charades_v1_{split}.csv" for split in ("train", "test")}
        named = [file for split, file in beside.items() if split in path.name]
        tables = [file for file in named or beside.values() if file.is_file()]
    lengths: dict[str, float] = {}
    for file in tables:
        lengths |= _table(file)
    return lengths | {video: float(seconds) for video, seconds in reading.durations.items()}


def _table(path: Path) -> dict[str, float]:
    lengths: dict[str, float] = {}
    for where, row in table(path, "Charades", ("id", "length")):
        length = above_0(row["length"], where, "a length in seconds")
        if row["id"] in lengths:
            raise DataError(f"{where}: video '{row['id']}' is there twice; remove one of the rows.")
        lengths[row["id"]] = length
    return lengths


def looks(path: Path, head: str) -> Kind | None:
    """Every whole line has a video, two numbers and ``##``."""
    lines = [line for line in head.lstrip("\ufeff").split("\n")[:20] if line.strip()]
    row = re.compile(r"\S+ -?\d+(\.\d*)? -?\d+(\.\d*)?##.*")
    return "truth" if lines and all(row.match(line) for line in lines[:-1] or lines) else None


FORMAT = Format(
    name="charades-sta",
    title="Charades-STA",
    source="Gao et al., TALL: Temporal Activity Localization via Language Query, ICCV 2017",
    layout="text, a line each: VIDEO START END##SENTENCE, seconds; lengths in Charades_v1_{train,test}.csv beside it",
    looks=looks, parse=parse, write=write,
    traps="Without Charades' tables nothing says how long the videos are, and one row in seven ends after its video "
          "does. The sentence keeps its final dot here; 2D-TAN strips it. Moments are so much alike that guessing from "
          "the training file's alone gives R@5, tIoU 0.5 of 80.67.",
)
