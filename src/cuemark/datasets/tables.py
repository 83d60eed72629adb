"""Plain tables: one annotation a row of CSV, TSV or JSON lines. What a team with own videos already has.

CSV (``csv``), separated by comma, semicolon or tab, with a header::

    video,start,end,label,score,sentence,query,id,duration,subset,fps
    kitchen_01,12.5,18.25,pour,0.91,,,,120.0,validation,25.0
    kitchen_02,,,,,,,,95.5,validation,25.0

JSON lines (``jsonl``), one object a line, the same keys; ``"segment": [start, end]`` may stand for the two::

    {"video": "kitchen_01", "segment": [12.5, 18.25], "label": "pour", "duration": 120.0}

**Columns**, in any order, in any case, ``Start (s)`` and ``t-start`` like ``start_s`` and ``t_start``; of several names
for one thing the first in this list counts, and whatever is not here is ignored and named in the log:

    video      video, video_id, videoid, video_name, vid: as written;
               file, filename, file_name, video_file, video_path, path: without folder and extension
    start      start, start_s, start_sec, start_seconds, start_time, t_start, begin, begin_s, onset
    end        end, end_s, end_sec, end_seconds, end_time, t_end, stop, stop_s, stop_time
    label      label, class, class_name, action, activity, category, event
    score      score, confidence, conf, probability
    sentence   sentence, caption, text, description
    query, id (or segment_id, annotation_id)
    of the video, the same in all its rows: duration (or duration_s, video_duration; seconds), fps (or frame_rate),
               subset (or split; train, val, test … get ActivityNet's names)

A video and a start and an end are needed. **Times** are seconds, or ``MM:SS``, ``HH:MM:SS`` with or without a fraction;
where the separator is no comma, ``12,5`` is 12.5. A row with neither start nor end says that the video exists and adds
no annotation. Blanks around a cell do not count, and an empty cell is the same as none.

Rules: a row that ends before it starts is dropped and noted; times outside the video are kept. A column ``duration``
that holds the length of the segments, as many tools write it, is refused: it would pass for the video's.

Writing gives the columns that are used, and video, start, end, duration and subset always; ``.tsv`` and ``.tab`` are
separated by tabs. Numbers are written so that they come back the same. Not held: text that is empty or begins or ends
with a blank; a carriage return is an error.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cuemark.datasets.files import file_id
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.notes import fields_of
from cuemark.datasets.rows import clock, lines, read_text, split, write_text
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth

_log = logging.getLogger("cuemark")

_NAMES: dict[str, tuple[str, ...]] = {
    "video": ("video", "video_id", "videoid", "video_name", "vid"),
    "file": ("file", "filename", "file_name", "video_file", "video_path", "path"),
    "start": ("start", "start_s", "start_sec", "start_seconds", "start_time", "t_start", "begin", "begin_s", "onset"),
    "end": ("end", "end_s", "end_sec", "end_seconds", "end_time", "t_end", "stop", "stop_s", "stop_time"),
    "label": ("label", "class", "class_name", "action", "activity", "category", "event"),
    "score": ("score", "confidence", "conf", "probability"),
    "sentence": ("sentence", "caption", "text", "description"),
    "query": ("query",),
    "id": ("id", "segment_id", "annotation_id"),
    "duration": ("duration", "duration_s", "video_duration"),
    "subset": ("subset", "split"),
    "fps": ("fps", "frame_rate"),
}
_WRITTEN = ("video", "start", "end", "label", "score", "sentence", "query", "id", "duration", "subset", "fps")
_FOREIGN = frozenset({  # columns and keys by which other formats' tables are known
    "temporal_region_label", "video_frames", "narration_id", "participant_id", "youtube_id", "type_idx", "label_idx",
    "t_init", "f_init", "startframe", "numframe", "observation_id", "behavioral_category", "qid", "relevant_windows",
    "relevant_clip_ids", "saliency_scores", "pred_relevant_windows", "pred_saliency_scores",
})


# ---------------------------------------------------------------------------------------------- CSV


def csv_looks(path: Path, head: str) -> Kind | None:
    """A header with a video, a start and an end, and without the columns of a benchmark's own tables."""
    if path.suffix.lower() not in (".csv", ".tsv", ".tab", ".txt"):
        return None
    line = next((line for line in head.lstrip("\ufeff").splitlines() if line.strip()), "")
    return _kind(_cells(line, _delimiter(line)))


def csv_parse(path: Path, reading: Reading) -> Truth:
    """Read a table; predictions are annotations with a score.

    Raises:
        DataError: naming the file, the line and what was expected there.
    """
    text = read_text(path, "table")
    first = next((line for line in text.splitlines() if line.strip()), None)
    if first is None:
        raise DataError(f"'{path}' is empty; expected a header with video, start and end, and a row an annotation.")
    delimiter = _delimiter(first)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    def records() -> Iterator[tuple[str, dict[str, Any]]]:
        columns: dict[str, int] = {}
        width = 0
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise DataError(f"'{path}', line {rows.line_num}: {error}; mend the quotes there.") from None
            if row is None:
                return
            where = f"'{path}', line {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                columns, width = _columns(row, str(path)), len(row)
                continue
            while len(row) > width and not row[-1].strip():  # spreadsheets add empty cells at the end
                row.pop()
            if len(row) != width:
                raise DataError(f"{where}: {len(row)} cells where the header has {width}; mend the row.")
            yield where, {role: row[i] for role, i in columns.items()}

    return _truth(records(), reading, path, comma=delimiter != ",")


def csv_write(path: Path, truth: Truth) -> None:
    """Write a table, separated by tabs where the path ends in ``.tsv`` or ``.tab``, else by commas."""
    rows = list(_rows(truth))
    columns = [c for c in _WRITTEN if c in ("video", "start", "end", "duration", "subset") or any(c in r for r in rows)]
    file = io.StringIO(newline="")
    out = csv.writer(file, delimiter="\t" if path.suffix.lower() in (".tsv", ".tab") else ",", lineterminator="\n")
    out.writerow(columns)
    for row in rows:
        out.writerow([row.get(c, "") for c in columns])
    write_text(path, file.getvalue())


# ---------------------------------------------------------------------------------------------- JSON lines


def jsonl_looks(path: Path, head: str) -> Kind | None:
    """A first line that is an object with a video and a segment, or a start and an end, and no benchmark's own keys."""
    if path.suffix.lower() not in (".jsonl", ".ndjson", ".jsonlines"):
        return None
    line = next((line for line in head.lstrip("\ufeff").splitlines() if line.strip()), "")
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(item, dict):
        return None
    keys = list(item)
    if isinstance(item.get("segment"), list):
        keys += ["start", "end"]
    return _kind(keys)


def jsonl_parse(path: Path, reading: Reading) -> Truth:
    """Read one annotation a line; predictions are annotations with a score.

    Raises:
        DataError: naming the file, the line and what was expected there.
    """
    rows = list(lines(path, "JSON lines"))
    if not rows:
        raise DataError(f"'{path}' is empty; expected one object a line with video, start and end.")
    ignored: set[str] = set()

    def records() -> Iterator[tuple[str, dict[str, Any]]]:
        for where, line in rows:
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: not valid JSON at column {error.colno} ({error.msg}); "
                                "expected one object a line.") from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not valid JSON ({error}); expected one object a line.") from None
            if not isinstance(item, dict):
                raise DataError(f"{where}: expected one object a line, got {line[:60]}.")
            if "segment" in item:
                pair = item.pop("segment")
                if not isinstance(pair, list) or len(pair) != 2 or None in pair:
                    raise DataError(f'{where}: "segment" should be [start, end] in seconds, got {str(pair)[:60]}.')
                item["start"], item["end"] = pair
            roles = _roles(item)
            ignored.update(set(item) - set(roles.values()))
            yield where, {role: item[key] for role, key in roles.items()}

    truth = _truth(records(), reading, path, comma=False)
    _report_ignored(path, sorted(ignored))
    return truth


def jsonl_write(path: Path, truth: Truth) -> None:
    """Write one object a line."""
    rows = (json.dumps({c: row[c] for c in _WRITTEN if c in row}, ensure_ascii=False) for row in _rows(truth))
    write_text(path, "".join(f"{row}\n" for row in rows))


# ---------------------------------------------------------------------------------------------- headers


def _plain(name: str) -> str:
    """``Start (s)`` -> ``start_s``."""
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def _roles(names: Iterable[str]) -> dict[str, str]:
    """Role -> the name that plays it; of several the first in :data:`_NAMES`."""
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(_plain(name), name)
    roles = {}
    for role, aliases in _NAMES.items():
        if found := next((by_plain[a] for a in aliases if a in by_plain), None):
            roles[role] = found
    if "video" in roles:
        roles.pop("file", None)
    return roles


def _kind(names: list[str]) -> Kind | None:
    roles = _roles(names)
    if not ("video" in roles or "file" in roles) or "start" not in roles or "end" not in roles:
        return None
    if _FOREIGN & {_plain(name) for name in names}:
        return None
    return "predictions" if "score" in roles else "truth"


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _delimiter(line: str) -> str:
    """The separator with which most columns of a header are known."""
    return max((",", ";", "\t"), key=lambda d: len(_roles(_cells(line, d))))


def _columns(header: list[str], path: str) -> dict[str, int]:
    names = [cell.strip() for cell in header]
    roles = _roles(names)
    missing = [r for r in ("video", "start", "end") if r not in roles and not (r == "video" and "file" in roles)]
    if missing:
        raise DataError(f"'{path}', line 1: no column for {' and '.join(missing)} among {', '.join(names)[:200]}; "
                        "name the columns video, start, end, label.")
    twice = next((name for name in roles.values() if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"'{path}', line 1: two columns are called '{twice}'; rename one.")
    _report_ignored(Path(path), [name for name in names if name and name not in roles.values()])
    return {role: names.index(name) for role, name in roles.items()}


def _report_ignored(path: Path, names: list[str]) -> None:
    if names:
        _log.warning("'%s': ignored %s, which mean nothing here; known are %s.", path, ", ".join(names),
                     ", ".join(_WRITTEN))


# ---------------------------------------------------------------------------------------------- rows to truth


@dataclass
class _Video:
    segments: list[Segment] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    """Its duration, fps and subset, as far as rows tell."""


def _truth(records: Iterable[tuple[str, dict[str, Any]]], reading: Reading, path: Path, comma: bool) -> Truth:
    videos: dict[str, _Video] = {}
    with_length = lengths_of_segments = beyond = 0
    for where, values in records:
        vid = _text(values.get("video"), "video", where)
        if vid is None:
            vid = file_id(_text(values.get("file"), "file", where) or "")
        if not vid:
            raise DataError(f"{where}: no video is named; give every row a video.")
        video = videos.setdefault(vid, _Video())
        length = _number(values.get("duration"), "duration", where, comma, time=True)
        fps = _number(values.get("fps"), "fps", where, comma)
        if (length is not None and length < 0) or (fps is not None and fps <= 0):
            raise DataError(f"{where}: duration {length} or fps {fps} is impossible; mend it or leave the cell empty.")
        part = _text(values.get("subset"), "subset", where)
        told: dict[str, Any] = {"duration": length, "fps": fps, "subset": None if part is None else split(part)}
        for key, value in told.items():
            if value is not None and video.told.setdefault(key, value) != value:
                raise DataError(f"{where}: {key} of video '{vid}' is {value}, and {video.told[key]} in an earlier row; "
                                "it is the video's, so let all its rows say the same.")
        start, end = (_number(values.get(k), k, where, comma, time=True) for k in ("start", "end"))
        if start is None and end is None:
            continue
        if start is None or end is None:
            raise DataError(f"{where}: a start without an end, or an end without a start; give both or neither.")
        fields: dict[str, Any] = {key: _text(values.get(key), key, where)
                                  for key in ("label", "sentence", "query", "id")}
        fields["score"] = _number(values.get("score"), "score", where, comma)
        segment = reading.segment(start, end, where, **fields)
        if segment is None:
            continue
        video.segments.append(segment)
        if length is not None:
            with_length += 1
            lengths_of_segments += abs(segment.duration - length) <= 1e-3
            beyond += segment.end > length + 1e-3
    if beyond and lengths_of_segments == with_length:
        raise DataError(f"'{path}': its duration is that of each segment, not of the video; rename that column.")
    truth: Truth = {}
    for vid, video in videos.items():
        length = video.told.get("duration")
        truth[vid] = VideoTruth(reading.length(vid, video.segments) if length is None else length,
                                tuple(video.segments), video.told.get("subset", reading.subset), video.told.get("fps"))
    return truth


def _text(value: Any, key: str, where: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, (bool, float, list, dict)):
        raise DataError(f"{where}: {key} should be text, got {str(value)[:60]}.")
    return str(value).strip() or None


def _number(value: Any, key: str, where: str, comma: bool, time: bool = False) -> float | None:
    """A finite number, or None for an empty cell."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        if isinstance(value, str):
            if not time and ":" in value:
                raise ValueError
            number = clock(value, comma)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            number = float(value)
        else:
            raise TypeError
        if not abs(number) < float("inf"):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        expected = "a time: seconds, as 12.5, or HH:MM:SS" if time else "a number"
        raise DataError(f"{where}: {key} should be {expected}, got {str(value)[:40]!r}.") from None
    return number


def _rows(truth: Truth) -> Iterator[Mapping[str, Any]]:
    """What is to be written: a row an annotation, and one for a video without any."""
    for vid, video in truth.items():
        whole: dict[str, Any] = {"video": vid, "duration": video.duration, "subset": video.subset}
        if video.fps is not None:
            whole["fps"] = video.fps
        if not video.annotations:
            yield whole
        for s in video.annotations:
            yield whole | {"start": s.start, "end": s.end} | fields_of(s)


FORMATS = (
    Format(
        name="csv",
        title="CSV table",
        source="cuemark; one annotation a row, as spreadsheets and scripts write it",
        layout="header with video, start, end and label, score, sentence … (many names are known); seconds or HH:MM:SS",
        looks=csv_looks, parse=csv_parse, write=csv_write,
        traps="`duration` is the video's, in seconds; a comma inside a sentence needs quotes.",
    ),
    Format(
        name="jsonl",
        title="JSON lines",
        source="cuemark; one annotation a line",
        layout='{"video", "segment": [start, end], "label", "score", "sentence", …} a line; seconds or HH:MM:SS',
        looks=jsonl_looks, parse=jsonl_parse, write=jsonl_write,
        traps="`duration` is the video's, in seconds.",
    ),
)
