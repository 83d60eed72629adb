"""BORIS, for behaviour: a project (``.boris``, JSON), or its tables of events (TSV or CSV).

A project::

    {"time_format": "hh:mm:ss", "project_name": "cages", "project_format_version": "7.0",
     "subjects_conf": {"0": {"key": "1", "name": "mouse A", "description": ""}},
     "behaviors_conf": {"0": {"type": "State event", "key": "d", "code": "drink", …},
                        "1": {"type": "Point event", "key": "j", "code": "jump", …}},
     "observations": {"cage 1, morning": {
         "type": "MEDIA", "date": "2026-01-31T08:00:00", "description": "", "time offset": 0.0,
         "file": {"1": ["videos/kitchen_01.mp4"], "2": []},
         "media_info": {"length": {"videos/kitchen_01.mp4": 359.96}, "fps": {"videos/kitchen_01.mp4": 25.0}, …},
         "events": [[3.3, "mouse A", "drink", "", ""], [7.75, "mouse A", "drink", "", ""], …]}}, …}

An event is ``[seconds, subject, behaviour, modifiers, comment]``, in newer files with a frame number after it. **State
events** are written twice, when they start and when they stop: in the order of their times the events of one subject,
behaviour and set of modifiers start and stop in turn, and nothing else tells which is which. A **point event** has zero
length. An event that starts and never stops is dropped and noted; BORIS refuses to export before it is mended. A
behaviour that is not in the ethogram (``behaviors_conf``) is an error.

The label is the behaviour's code; subjects and modifiers are not read. The comment of a start (or point) is the
sentence. ``time offset``, which BORIS adds to every event, is taken off again, so that times are those of the video.
Of several media that one player plays one after another, the times go on counting: the queue is one video.

The video is called as the observation's only medium of player 1, without folder and extension; where there are several
media or none (live), or where two observations show the same one, as the observation.

Tables, as *Export events* writes them, tab or comma separated: newer ones with a row an event that tells everything
(``Observation id … Subject, Behavior, … Behavior type, Time, Media file name, …`` with START, STOP or POINT), older
ones with the same after a preface of several lines (``Time, Media file path, …, Status``), and *aggregated events*
(``… Behavior type, Start (s), Stop (s), …``). A STOP without START, and a START without STOP, are dropped and noted.

Writing gives a project with an observation a video. A label all of whose segments have zero length becomes a point
event, any other a state event; segments of one label that overlap, which one subject cannot have, go to subjects called
``overlap 2``, ``overlap 3`` …. Times are rounded to milliseconds, as BORIS does. Not held: scores, queries, ids,
splits. A segment without a label is an error.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cuemark.datasets.files import file_id, file_name
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import clock, label_of, read_text
from cuemark.datasets.timeline import in_order, layers
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth, labels_of, read_json, write_json

_STATUS = {"START": "start", "STOP": "stop", "POINT": "point"}


def looks(path: Path, head: str) -> Kind | None:
    """A project by its tables of subjects and observations, an export by the name of its first cell."""
    text = head.lstrip("\ufeff \t\r\n")
    if text[:1] == "{":
        named = path.suffix.lower() == ".boris" or '"subjects_conf"' in text or '"behaviors_conf"' in text
        return "truth" if named and '"observations"' in text else None
    return "truth" if re.match(r'"?Observation id"?[\t,]', text) and "Behavior" in text else None


@dataclass
class _Observation:
    """What a file tells of one observation."""

    media: list[str] = field(default_factory=list)
    """Of player 1, or as far as its events name them."""
    length: float | None = None
    fps: float | None = None
    segments: list[Segment] = field(default_factory=list)


@dataclass(frozen=True)
class _Event:
    where: str
    time: float
    subject: str
    behaviour: str
    modifiers: str
    status: str
    """start, stop, point; "" where START and STOP take turns."""
    comment: str


def parse(path: Path, reading: Reading) -> Truth:
    """Read a project, or a table of events.

    Raises:
        DataError: naming the file, the observation, event or line and what was expected there.
    """
    text = read_text(path, "BORIS")
    found = _project(path, reading) if text.lstrip()[:1] in ("{", "[") else _table(path, text, reading)
    shown = Counter(file_id(o.media[0]) for o in found.values() if len(o.media) == 1)
    truth: Truth = {}
    for name, observation in found.items():
        vid = file_id(observation.media[0]) if len(observation.media) == 1 else ""
        if not vid or shown[vid] > 1:
            vid = name
        if vid in truth:
            raise DataError(f"'{path}', observation '{name}': another one is called '{vid}' too; rename one.")
        length = reading.length(vid, observation.segments) if observation.length is None else observation.length
        truth[vid] = VideoTruth(length, tuple(observation.segments), reading.subset, observation.fps)
    return truth


def _segments(events: Iterable[_Event], offset: float, reading: Reading) -> list[Segment]:
    """Pair starts and stops."""
    open_: dict[tuple[str, str, str], _Event] = {}
    segments = []

    def add(start: _Event, end: _Event) -> None:
        segment = reading.segment(start.time - offset, end.time - offset, start.where, label=start.behaviour,
                                  sentence=start.comment.strip() or None)
        if segment is not None:
            segments.append(segment)

    for event in sorted(events, key=lambda e: e.time):
        key = (event.subject, event.behaviour, event.modifiers)
        if event.status == "point":
            add(event, event)
        elif key in open_ and event.status != "start":
            add(open_.pop(key), event)
        elif event.status == "stop":
            reading.note(event.where, f"'{event.behaviour}' stops and never started", "dropped")
        else:
            if key in open_:
                reading.note(open_[key].where, f"'{event.behaviour}' starts and never stops", "dropped")
            open_[key] = event
    for event in open_.values():
        reading.note(event.where, f"'{event.behaviour}' starts and never stops", "dropped")
    return in_order(segments)


# ---------------------------------------------------------------------------------------------- project


def _project(path: Path, reading: Reading) -> dict[str, _Observation]:
    data = read_json(path, "BORIS", unique=True)
    ethogram = data.get("behaviors_conf") if isinstance(data, dict) else None
    observations = data.get("observations") if isinstance(data, dict) else None
    if not isinstance(ethogram, dict) or not isinstance(observations, dict):
        raise DataError(f"'{path}' is not a BORIS project; expected an object with behaviors_conf and observations.")
    state: dict[str, bool] = {}
    for key, item in ethogram.items():
        if not isinstance(item, dict) or not isinstance(item.get("code"), str) or not isinstance(item.get("type"), str):
            raise DataError(f"'{path}', behaviors_conf {key}: expected a code and a type, got {str(item)[:60]}.")
        state[item["code"]] = item["type"].lower().startswith("state")
    found = {}
    for name, item in observations.items():
        where = f"'{path}', observation '{name}'"
        if not isinstance(item, dict) or not isinstance(item.get("events"), list):
            raise DataError(f"{where}: expected an object with events, got {str(item)[:60]}.")
        if item.get("media_creation_date_as_offset"):
            raise DataError(f"{where}: its times are dates (media creation date as offset), not seconds of the video; "
                            "export its events as a table with times from 0.")
        observation = _Observation(_media(item.get("file"), where))
        told = item.get("media_info") if isinstance(item.get("media_info"), dict) else {}
        lengths, rates = told.get("length"), told.get("fps")  # type: ignore[union-attr]
        if isinstance(lengths, dict) and observation.media and all(m in lengths for m in observation.media):
            observation.length = sum(_seconds(lengths[m], f"{where}, length of '{m}'") for m in observation.media)
        if isinstance(rates, dict) and observation.media and observation.media[0] in rates:
            fps = _seconds(rates[observation.media[0]], f"{where}, fps")
            observation.fps = fps if fps > 0 else None  # BORIS writes 0 where it does not know
        offset = _seconds(item.get("time offset") or 0.0, f"{where}, time offset")
        events = [_event(e, state, f"{where}, event {i}") for i, e in enumerate(item["events"])]
        observation.segments = _segments(events, offset, reading)
        found[name] = observation
    return found


def _media(file: Any, where: str) -> list[str]:
    if isinstance(file, dict):
        file = file.get("1")
    media = [] if file is None else file
    if not isinstance(media, list) or not all(isinstance(m, str) for m in media):
        raise DataError(f'{where}: expected "file" to list the media of each player, got {str(file)[:60]}.')
    return media


def _event(item: Any, state: dict[str, bool], where: str) -> _Event:
    if not isinstance(item, list) or len(item) < 3 or not all(isinstance(t, str) for t in item[1:3]):
        raise DataError(f"{where}: expected [seconds, subject, behaviour, modifiers, comment], got {str(item)[:60]}.")
    time, subject, behaviour = item[:3]
    if behaviour not in state:
        raise DataError(f"{where}: behaviour '{behaviour[:40]}' is not in the ethogram; add it to the project.")
    modifiers, comment = (str(item[i]) if len(item) > i and item[i] is not None else "" for i in (3, 4))
    return _Event(where, _seconds(time, where), subject, behaviour, modifiers, "" if state[behaviour] else "point",
                  comment)


def _seconds(value: Any, where: str) -> float:
    try:
        number = clock(value) if isinstance(value, str) else float(value)
        if isinstance(value, bool) or not abs(number) < float("inf"):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: expected a number of seconds, got {str(value)[:40]!r}.") from None
    return number


# ---------------------------------------------------------------------------------------------- tables


def _table(path: Path, text: str, reading: Reading) -> dict[str, _Observation]:
    delimiter = "\t" if "\t" in text[:4096] else ","
    source = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(source.line_num, row) for row in source]
    except csv.Error as error:
        raise DataError(f"'{path}', line {source.line_num}: {error}; expected a BORIS table of events.") from None
    top = next((i for i, (_, row) in enumerate(rows) if "Behavior" in row), None)
    header = [] if top is None else rows[top][1]
    aggregated = "Start (s)" in header and "Stop (s)" in header
    status = next((name for name in ("Behavior type", "Status") if name in header), None)
    if top is None or not (aggregated or (status is not None and "Time" in header)):
        raise DataError(f"'{path}' is not a BORIS table of events; expected columns Behavior, Time and Behavior type, "
                        "or Behavior, Start (s) and Stop (s).")
    preface = {row[0]: row[1] for _, row in rows[:top] if len(row) > 1}
    events: dict[str, list[_Event]] = {}
    offsets: dict[str, float] = {}
    found: dict[str, _Observation] = {}
    for line, row in rows[top + 1:]:
        if not any(cell.strip() for cell in row):
            continue
        where = f"'{path}', line {line}"
        if len(row) < len(header):
            raise DataError(f"{where}: {len(row)} cells where the header has {len(header)}; mend the row.")
        cells = preface | dict(zip(header, row))
        name = cells.get("Observation id", "").strip() or path.stem
        observation = found.setdefault(name, _Observation())
        medium = next((cells[k] for k in ("Media file name", "Media file path", "Media file") if cells.get(k)), "")
        if medium not in ("", "NA", "Not found") and medium not in observation.media:
            observation.media.append(medium)
        for key, column in (("length", "Media duration (s)"), ("length", "Total length"), ("fps", "FPS")):
            if getattr(observation, key) is None and re.fullmatch(r"\d+(\.\d+)?", cells.get(column, ""), re.ASCII):
                setattr(observation, key, float(cells[column]) or None)
        offsets[name] = _seconds(cells.get("Time offset (s)") or 0.0, f"{where}, time offset")
        modifiers = "|".join(cells[k] for k in header if k.startswith("Modifier"))
        said = (cells.get("Subject", ""), cells["Behavior"], modifiers)
        if not said[1].strip():
            raise DataError(f"{where}: no behaviour; mend or remove the row.")
        if aggregated:
            start = _Event(where, _seconds(cells["Start (s)"], where), *said, "start", cells.get("Comment start", ""))
            point = cells.get("Behavior type") == "POINT"
            end = start.time if point else _seconds(cells["Stop (s)"], where)
            segment = reading.segment(start.time - offsets[name], end - offsets[name], where, label=start.behaviour,
                                      sentence=start.comment.strip() or None)
            if segment is not None:
                observation.segments.append(segment)
            continue
        kind = _STATUS.get(cells[status or ""].strip().upper() or "POINT")  # older tables leave a point's status empty
        if kind is None:
            raise DataError(f"{where}: {status} should be START, STOP or POINT, got {cells[status or ''][:40]!r}.")
        events.setdefault(name, []).append(
            _Event(where, _seconds(cells["Time"], where), *said, kind, cells.get("Comment", "")))
    if not found and preface.get("Observation id"):
        found[preface["Observation id"]] = _Observation()
    for name, listed in events.items():
        found[name].segments = _segments(listed, offsets[name], reading)
    return found


# ---------------------------------------------------------------------------------------------- writing


def write(path: Path, truth: Truth) -> None:
    """Write one project with an observation for every video.

    Raises:
        DataError: a segment has no label.
    """
    labels = labels_of(truth)
    everything = [s for video in truth.values() for s in video.annotations]
    lasting = {s.label for s in everything if round(s.end * 1000) > round(s.start * 1000)}
    deepest = 1
    observations: dict[str, Any] = {}
    for vid, video in truth.items():
        spans: dict[str, list[tuple[int, int, str]]] = {}
        for s in video.annotations:
            spans.setdefault(label_of(s.label, vid, "BORIS"), []).append(
                (round(s.start * 1000), round(s.end * 1000), s.sentence or ""))
        events: list[list[Any]] = []
        for label, listed in spans.items():
            if label not in lasting:
                events += [[start / 1000, "", label, "", comment] for start, _, comment in listed]
                continue
            rows = layers(listed)
            deepest = max(deepest, len(rows))
            for depth, row in enumerate(rows, 1):
                subject = "" if depth == 1 else f"overlap {depth}"
                for start, end, comment in row:
                    events += [[start / 1000, subject, label, "", comment], [end / 1000, subject, label, "", ""]]
        events.sort(key=lambda event: event[0])  # stable: a start stays before its stop
        file = file_name(vid)
        observations[vid] = {
            "type": "MEDIA", "date": "2000-01-01T00:00:00", "description": "", "time offset": 0.0,
            "file": {"1": [file], "2": []}, "events": events, "independent_variables": {},
            "visualize_spectrogram": False, "close_behaviors_between_videos": False,
            "media_info": {"length": {file: video.duration}, "fps": {file: video.fps or 0},
                           "hasVideo": {file: True}, "hasAudio": {file: False}, "offset": {"1": 0.0, "2": 0.0}},
        }
    behaviours: dict[str, Any] = {
        str(i): {"type": "State event" if label in lasting else "Point event", "key": "", "code": label,
                 "description": "", "category": "", "modifiers": {}, "excluded": "", "coding map": ""}
        for i, label in enumerate(labels)}
    subjects = {str(i): {"key": "", "name": f"overlap {i + 2}", "description": ""} for i in range(deepest - 1)}
    write_json(path, {
        "time_format": "hh:mm:ss", "project_date": "2000-01-01T00:00:00", "project_name": path.stem,
        "project_description": "written by cuemark", "project_format_version": "7.0", "subjects_conf": subjects,
        "behaviors_conf": behaviours, "observations": observations, "behavioral_categories": [],
        "behavioral_categories_config": {}, "independent_variables": {}, "coding_map": {}, "behaviors_coding_map": [],
        "converters": {},
    })


FORMAT = Format(
    name="boris",
    title="BORIS project or table of events",
    source="Friard and Gamba, BORIS, project format 7.0 and the tabular and aggregated exports",
    layout='{"behaviors_conf", "observations": {id: {"file", "media_info", "events": [[seconds, subject, code, '
           'modifiers, comment]]}}}; or TSV/CSV with Behavior, Time, START/STOP; seconds',
    looks=looks, parse=parse, write=write,
    traps="Starts and stops are told apart only by taking turns, so one missing event shifts all that follow.",
)
