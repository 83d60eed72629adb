"""DiDeMo: a sentence and where several people saw it, in chunks of 5 seconds (Hendricks et al., ICCV 2017).

    [{"annotation_id": 49152, "description": "the man in the hat briefly bends over the machine", "num_segments": 6,
      "times": [[1, 1], [1, 1], [1, 1], [0, 0]], "video": "35034348999@N01_6060447507_dc1a90b8ef.mov",
      "dl_link": "https://…"}, …]

A time names the first and the last chunk, both included: ``[1, 1]`` is 5 to 10 seconds, ``[0, 5]`` 0 to 30.

Rules: **each person's time is an annotation of its own**, so equal ones stay (four to seven for each sentence): the
official scores are means over the best three of them, and a count of votes is lost otherwise. All times of a
description have its ``annotation_id`` as ``id`` and the description, without blanks around it, as ``sentence``. A video
is as long as ``Reading.durations`` says, else 5 s times ``num_segments`` (the last chunk may not be full: videos are
cut at 30 s, and those a little shorter than 25 s have five). Chunks beyond ``num_segments`` are kept; a time that ends
before it starts is dropped, and a description without words. The subset is what the file's name tells
(``val_data.json``), else ``Reading.subset``.

Writing rounds times to chunks and lengths up to chunks; annotations of a video with the same id and sentence become one
row, who has no id a row of its own. Labels, subsets, rates, links and videos without a description have no place there.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import split_of
from cuemark.datasets.sentences import words
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth, read_json, write_json

CHUNK = 5.0
"""Seconds of a chunk."""


def parse(path: Path, reading: Reading) -> Truth:
    """Read a DiDeMo file: videos in the order in which the file first names them.

    Raises:
        DataError: naming the file, the row and the key of what is wrong.
    """
    data = read_json(path, "DiDeMo", unique=True)
    if not isinstance(data, list):
        raise DataError(f"'{path}' is not a DiDeMo file; expected a list of descriptions.")
    subset = split_of(path, reading.subset)
    found: dict[str, list[Segment]] = {}
    lengths: dict[str, int] = {}
    ids: dict[str, int] = {}
    for i, row in enumerate(data):
        where = f"'{path}', row {i}"
        if not isinstance(row, dict):
            raise DataError(f'{where}: expected an object with "video", "description" and "times", got '
                            f"{str(row)[:60]}.")
        video, sentence = (_text(row, key, where) for key in ("video", "description"))
        name = _id(row, where)
        if name is not None and ids.setdefault(name, i) != i:
            raise DataError(f"{where}: annotation_id {name} stands in row {ids[name]} too; give each its own.")
        chunks = _whole(row.get("num_segments"), "num_segments", where)
        if lengths.setdefault(video, chunks) != chunks:
            raise DataError(f"{where}: video '{video}' has {chunks} segments, and {lengths[video]} in a row before; "
                            "mend one.")
        segments = found.setdefault(video, [])
        times = row.get("times")
        if not isinstance(times, list) or any(not isinstance(t, list) or len(t) != 2 for t in times):
            raise DataError(f'{where}: "times" must be a list of [first chunk, last chunk], got {str(times)[:60]}.')
        if not sentence.strip():
            reading.note(where, "has no words", "dropped")
            continue
        for k, pair in enumerate(times):
            first, last = (_whole(chunk, "times", where) for chunk in pair)
            at = f"{where}, time {k}"
            if last < first:  # [2, 1] would become an empty stretch instead
                reading.note(at, f"ends before it starts: chunks [{first}, {last}]", "dropped")
            elif (segment := reading.segment(first * CHUNK, (last + 1) * CHUNK, at, sentence=sentence.strip(), id=name)
                  ) is not None:
                segments.append(segment)
    return {video: VideoTruth(float(reading.durations.get(video, lengths[video] * CHUNK)), tuple(segments),
                              subset) for video, segments in found.items()}


def write(path: Path, truth: Truth) -> None:
    """Write a DiDeMo file; times are rounded to chunks, and none is shorter than one.

    Raises:
        DataError: an annotation has no sentence.
    """
    data: list[dict[str, Any]] = []
    for vid, video in truth.items():
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for s in video.annotations:
            text = words(s, vid)
            row: dict[str, Any] = {"num_segments": math.ceil(video.duration / CHUNK), "description": text, "times": [],
                                   "video": vid}
            if s.id is not None:
                row["annotation_id"] = int(s.id) if re.fullmatch(r"0|[1-9][0-9]{0,17}", s.id) else s.id
            if s.id is None or (s.id, text) not in rows:
                data.append(row)
            if s.id is not None:
                row = rows.setdefault((s.id, text), row)
            first = round(s.start / CHUNK)
            row["times"].append([first, max(first, round(s.end / CHUNK) - 1)])
    write_json(path, data)


def _text(row: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(row.get(key), str):
        raise DataError(f'{where}: "{key}" must be a text, got {str(row.get(key))[:40]}.')
    return str(row[key])


def _id(row: dict[str, Any], where: str) -> str | None:
    name = row.get("annotation_id")
    if isinstance(name, bool) or not isinstance(name, int | str | None):
        raise DataError(f'{where}: "annotation_id" must be a whole number or a text, got {str(name)[:40]}.')
    return None if name is None else str(name)


def _whole(value: Any, key: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**9:
        raise DataError(f'{where}: "{key}" must count chunks of 5 s with whole numbers from 0, got {str(value)[:40]}.')
    return value


def looks(path: Path, head: str) -> Kind | None:
    """A list of objects, the first with ``description``, ``times`` and ``num_segments``."""
    first = head.split("}", 1)[0]
    keys = ("description", "times", "num_segments")
    listed = re.match(r"\s*\[\s*\{", first)
    return "truth" if listed and all(re.search(rf'"{key}"\s*:', first) for key in keys) else None


FORMAT = Format(
    name="didemo",
    title="DiDeMo",
    source="Hendricks et al., Localizing Moments in Video with Natural Language, ICCV 2017",
    layout='JSON [{"annotation_id", "video", "description", "times": [[first, last]], "num_segments"}], chunks of 5 s',
    looks=looks, parse=parse, write=write, repeats=True,
    traps="Both chunks of a time are included. Several people answered each description, and the official scores take "
          "the best three of them: here each is an annotation with the same id. No file says how long a video is.",
)
