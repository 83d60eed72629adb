r"""What editing programs read: cut lists (OpenTimelineIO, CMX 3600 EDL, FCPXML) and markers (Resolve, Premiere).

A **cut list** is a selects reel: one video track on which the moments of a video stand one after the other, in the
order of their start; each clip is the stretch of the video that the moment is, called by its label (or sentence, or
query). **Markers** are put on a timeline that shows the whole video from its beginning. One file holds one video.

::

    otio      {"OTIO_SCHEMA": "Timeline.1", "tracks": {… "source_range": {… "value": 300.0, "rate": 25.0 …}}}
    edl       001  KITCHEN0 V     C        00:00:12:00 00:00:18:06 01:00:00:00 01:00:06:06
              * FROM CLIP NAME:  kitchen_01.mp4
    fcpxml    <asset-clip name="pour" ref="r2" offset="0s" start="12s" duration="156/25s"/>
    resolve   001  001      V     C        01:00:12:00 01:00:12:01 01:00:12:00 01:00:12:01
              Pours the batter. |C:ResolveColorBlue |M:pour |D:156
    premiere  pour <tab> Pours the batter. <tab> 00:00:12:00 <tab> 00:00:18:06 <tab> 00:00:06:06 <tab> Comment

Frames. All of them count frames, so writing needs the video's ``fps`` (``--fps``), and times are rounded to frames; a
clip or a Resolve marker has at least one. 23.976, 29.97, 47.952, 59.94 and 119.88 mean 24000/1001 and so on. Timecode
is written non-drop: frames are counted 24, 30 or 60 to the second, so that at 29.97 an hour of timecode is 3.6 s longer
than an hour. Drop-frame timecode (``;``, or ``FCM: DROP FRAME``) is read, at 29.97 and 59.94, where alone it exists.

Whole again. The cut lists carry what they cannot say (exact seconds, score, sentence, query, id; the video's length,
split and rate) as metadata named ``cuemark``, which these programs keep or ignore: in OpenTimelineIO on each clip, and
again on a marker over it, in FCPXML as ``md`` elements, in an EDL as comments. Read back unchanged they give the same
segments; where an editor has moved a cut, its frames hold instead of the written seconds. Marker files hold label and
sentence only: a text without a label is written as name and as note, and is read as a sentence where both are one.

Reading other people's: every clip of a video track is a segment of its source; its name is the label unless that is the
name of its medium (in an EDL, the first locator's). The video is called as the medium, without folder and extension,
else as the file, so one cut list may give several videos. Where the medium says when its own clock begins, that is
subtracted; an EDL cannot say, so times of a camera that began at 10:00:00:00 stay so. Sound, black, titles and gaps are
skipped, compound clips are dropped and noted, and a change of speed is noted but not followed. Resolve's markers count
from the beginning of the timeline, 01:00:00:00 in Resolve unless changed: when all are at 1 h or later, 1 h is
subtracted. A row that ends before it starts is dropped and noted.

No paths: the medium is called as the video with ``.mp4``, to be found (relinked) in the program. Timecode holds neither
24 hours nor 100 frames a second. An EDL has 999 events by the standard; more are written, and some programs stop there.
Resolve keeps one marker a frame.

OpenTimelineIO writes and reads ``.otio``. Its adapters for the other two are not used: at 29.97 the FCPXML one (1.0.0)
writes an empty frame duration and reads 29 frames a second, at 25 it reads some frames one too early, and a name with
an apostrophe stops it; the EDL one (1.0.0) knows neither line numbers nor 15 frames a second, and writes drop-frame
timecode at 29.97 without saying so. Where they work they read what is written here (see the tests).
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree

from cuemark.datasets.cvat import write_xml, xml_text
from cuemark.datasets.format import Format, Kind, Reading, parse_each, write_each
from cuemark.datasets.rows import number, read_text
from cuemark.datasets.tables import file_id, file_name, write_text
from cuemark.errors import DataError
from cuemark.segments import UNLABELLED, Segment, Truth, VideoTruth, read_json

_NTSC = (24, 30, 48, 60, 120)  # rates that television runs a thousandth slower
_HOUR = 3600


@dataclass(frozen=True, slots=True)
class _Rate:
    """Frames a second: exactly, and as timecode counts them."""

    exact: Fraction
    nominal: int

    def frame(self, seconds: float) -> int:
        return round(Fraction(seconds) * self.exact)

    def seconds(self, frame: int) -> float:
        return float(frame / self.exact)

    def clip(self, segment: Segment) -> tuple[int, int]:
        """First frame of a segment and the one after its last; at least one lies between."""
        first = self.frame(segment.start)
        return first, max(self.frame(segment.end), first + 1)


def _rate(fps: float) -> _Rate:
    nominal = round(fps)
    if nominal in _NTSC and abs(fps - nominal * 1000 / 1001) < 0.005:
        return _Rate(Fraction(nominal * 1000, 1001), nominal)
    return _Rate(Fraction(fps).limit_denominator(1001) if fps > 0.01 else Fraction(fps), nominal)


def _rate_of(vid: str, video: VideoTruth) -> _Rate:
    if video.fps is None:
        raise DataError(f"video '{vid}' does not say how many frames make a second, which editing programs count in; "
                        "say so with --fps.")
    if not 0 <= video.duration < math.inf:
        raise DataError(f"video '{vid}' cannot last {video.duration} seconds; mend its duration.")
    if not 0 < video.fps < math.inf:
        raise DataError(f"video '{vid}' cannot have {video.fps} frames a second; say the real number with --fps.")
    if early := next((s for s in video.annotations if s.start < 0), None):
        raise DataError(f"video '{vid}' has a segment that begins at {early.start:g} s, and a cut cannot begin before "
                        "the video; clip it.")
    return _rate(video.fps)


def _in_order(video: VideoTruth) -> list[Segment]:
    return sorted(video.annotations, key=lambda s: (s.start, s.end))


def _one_line(text: str | None) -> str:
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text or "").split())


def _name(segment: Segment) -> str:
    """What a clip is called."""
    texts = (segment.label, segment.sentence, segment.query)
    return next((name for text in texts if (name := _one_line(text))), UNLABELLED)


# ------------------------------------------------------------------------------------------ what cut lists carry


def _about_segment(vid: str, segment: Segment) -> dict[str, Any]:
    told: dict[str, Any] = {"video": vid, "segment": [segment.start, segment.end]}
    for key in ("label", "score", "sentence", "query", "id"):
        if (value := getattr(segment, key)) is not None:
            told[key] = value
    return told


def _about_video(vid: str, video: VideoTruth) -> dict[str, Any]:
    return {"video": vid, "duration": video.duration, "subset": video.subset, "fps": video.fps}


def _json(told: dict[str, Any]) -> str:
    try:
        return json.dumps(told, allow_nan=False)
    except ValueError:
        raise DataError(f"video '{told['video']}' has a score that is no finite number; mend it.") from None


def _unjson(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected a JSON object as its cuemark metadata, got {text[:60]!r}.")
    return found


def _text(told: Mapping[str, Any], key: str, where: str) -> str | None:
    value = told.get(key)
    if not (value is None or isinstance(value, str)):
        raise DataError(f'{where}, its cuemark metadata: expected a text as "{key}", got {str(value)[:40]!r}.')
    return value


def _number(told: Mapping[str, Any], key: str, where: str) -> float | None:
    value = told.get(key)
    return None if value is None else number(value, f"{where}, its cuemark metadata", f'a number as "{key}"')


@dataclass(slots=True)
class _Clip:
    """A stretch of a medium that a cut list shows."""

    where: str
    start: float
    end: float
    video: str | None = None
    name: str = ""
    told: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Cuts:
    """What a cut list holds."""

    clips: list[_Clip] = field(default_factory=list)
    told: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Video id -> what our own writers said about it."""
    lengths: dict[str, float] = field(default_factory=dict)
    """Video id -> seconds, as the file's medium has it."""
    fps: float | None = None

    def about(self, told: Mapping[str, Any], where: str) -> None:
        """Take in what our own writers said about a video."""
        vid = _text(told, "video", where)
        fps, duration = _number(told, "fps", where), _number(told, "duration", where)
        _text(told, "subset", where)
        if vid is None or (fps is not None and fps <= 0) or (duration is not None and duration < 0):
            raise DataError(f"{where}: its cuemark metadata is about video {vid!r} of {duration} s at {fps} frames a "
                            "second, which cannot be; mend or remove it.")
        self.told[vid] = told


def _parse_cuts(path: Path, reading: Reading, suffix: str, one: Callable[[Path, Reading], _Cuts]) -> Truth:
    truth: Truth = {}

    def add(file: Path, reading: Reading) -> VideoTruth:
        found = _truth(file, one(file, reading), reading)
        for vid in found:
            if vid in truth:
                raise DataError(f"'{file}': video '{vid}' is also in another file of the folder; keep one of them.")
        truth.update(found)
        return VideoTruth(0.0)

    parse_each(path, reading, (suffix,), add)
    return truth


def _truth(path: Path, cuts: _Cuts, reading: Reading) -> Truth:
    found: dict[str, list[Segment]] = {vid: [] for vid in cuts.told}
    for clip in cuts.clips:
        fields: dict[str, Any] = {}
        start, end, told = clip.start, clip.end, clip.told
        vid = clip.video or path.stem
        if told is not None:
            vid = _text(told, "video", clip.where) or vid
            fields = {key: _text(told, key, clip.where) for key in ("label", "sentence", "query", "id")}
            fields["score"] = _number(told, "score", clip.where)
            start, end = _exact(clip, cuts.told.get(vid, {}).get("fps"))
        elif (name := _one_line(clip.name)) and name != UNLABELLED and file_id(name) != vid:
            fields = {"label": name}
        segments = found.setdefault(vid, [])
        segment = reading.segment(start, end, clip.where, **fields)
        if segment is not None:
            segments.append(segment)
    truth: Truth = {}
    for vid, segments in (found or {path.stem: []}).items():
        about = cuts.told.get(vid, {})
        duration = about.get("duration", cuts.lengths.get(vid))
        if duration is None or vid in reading.durations:
            duration = reading.length(vid, segments)
        fps, subset = about.get("fps", cuts.fps), about.get("subset")
        truth[vid] = VideoTruth(float(duration), tuple(sorted(segments, key=lambda s: (s.start, s.end))),
                                reading.subset if subset is None else subset, None if fps is None else float(fps))
    return truth


def _exact(clip: _Clip, fps: float | None) -> tuple[float, float]:
    """The seconds that were written, if the clip is still cut where they were."""
    try:
        start, end = (clip.told or {})["segment"]
        segment = Segment(float(start), float(end))
    except (TypeError, KeyError, ValueError, OverflowError):
        return clip.start, clip.end
    if fps is not None:
        rate = _rate(float(fps))
        first, beyond = rate.clip(segment)
        if abs(rate.seconds(first) - clip.start) < 1e-6 and abs(rate.seconds(beyond) - clip.end) < 1e-6:
            return segment.start, segment.end
    return clip.start, clip.end


# ------------------------------------------------------------------------------------------ timecode


_TC = r"(\d\d[:;]\d\d[:;]\d\d[:;.,]\d\d)"
_EVENT = re.compile(rf"(\d+)\s+(.*?)\s*(\S+)\s+(C|D|W\d+|K[BO]?)\s+(?:\d+\s+)?{_TC}\s+{_TC}\s+{_TC}\s+{_TC}", re.ASCII)


def _timecode(frame: int, rate: _Rate, vid: str) -> str:
    """Non-drop timecode of a frame."""
    if not 1 <= rate.nominal < 100:
        raise DataError(f"video '{vid}' has {float(rate.exact):g} frames a second, and timecode counts 1 to 99; choose "
                        "another format, such as otio.")
    seconds, frames = divmod(frame, rate.nominal)
    if seconds >= 24 * _HOUR:
        raise DataError(f"video '{vid}' needs a timecode beyond 24 hours, which there is none of; choose another "
                        "format, such as otio.")
    return f"{seconds // _HOUR:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frames:02d}"


def _frame(code: str, rate: _Rate, where: str, drop: bool) -> int:
    """Which frame a timecode names; ``;`` in it means drop-frame."""
    hours, minutes, seconds, frames = (int(part) for part in re.split(r"[:;.,]", code))
    if minutes > 59 or seconds > 59:
        raise DataError(f"{where}: expected a timecode HH:MM:SS:FF, got {code}.")
    if frames >= rate.nominal:
        raise DataError(f"{where}: timecode {code} names frame {frames} of a second that has {rate.nominal}; say the "
                        "real number with --fps.")
    count = (hours * _HOUR + minutes * 60 + seconds) * rate.nominal + frames
    if not (drop or ";" in code):
        return count
    if rate.exact not in (Fraction(30000, 1001), Fraction(60000, 1001)):
        raise DataError(f"{where}: {code} is drop-frame timecode, which there is at 29.97 and 59.94 frames a second, "
                        f"not at {float(rate.exact):g}; say the real number with --fps.")
    past = hours * 60 + minutes  # every minute but each tenth begins with its third (at 59.94: fifth) number
    return count - rate.nominal // 15 * (past - past // 10)


@dataclass(slots=True)
class _Event:
    """An event line of an EDL with the lines that belong to it."""

    where: str
    reel: str
    channels: str
    kind: str
    codes: tuple[str, str, str, str]
    drop: bool
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Where and what: the lines below it."""


def _events(path: Path, what: str) -> tuple[list[tuple[str, str]], list[_Event]]:
    """The lines above the first event, and the events."""
    header: list[tuple[str, str]] = []
    events: list[_Event] = []
    drop = False
    for i, line in enumerate(re.split(r"\r\n|\r|\n", read_text(path, what)), 1):
        where, line = f"'{path}', line {i}", line.strip()
        if not line:
            continue
        if line.startswith("FCM:"):
            drop = bool(re.match(r"FCM:\s*DROP", line))
        elif line[0].isdigit() and (events == [] or re.match(r"\d+\s", line)) and not _is_text(line, events):
            found = _EVENT.fullmatch(line) if len(line) < 400 else None
            if found is None:
                raise DataError(f"{where}: expected an event, number reel channel C and four timecodes, "
                                f"got {line[:60]!r}.")
            _, reel, channels, kind, *codes = found.groups()
            events.append(_Event(where, reel, channels, kind, tuple(codes), drop))  # type: ignore[arg-type]
        else:
            (events[-1].notes if events else header).append((where, line))
    if not events and not any(line.startswith(("TITLE:", "* CUEMARK")) for _, line in header):
        raise DataError(f"'{path}' holds no event and no title; expected an {what} file.")
    return header, events


def _is_text(line: str, events: list[_Event]) -> bool:
    """Whether a line that begins with a digit is the note of a Resolve marker."""
    return bool(events) and "|C:" in line and "|M:" in line


# ------------------------------------------------------------------------------------------ EDL


def edl_parse(path: Path, reading: Reading) -> Truth:
    """Read a CMX 3600 EDL, or every ``.edl`` of a folder.

    Raises:
        DataError: naming the file, the line and what was expected there; or it does not say its frames a second and
            neither does ``reading``.
    """
    return _parse_cuts(path, reading, ".edl", _edl)


def _edl(path: Path, reading: Reading) -> _Cuts:
    header, events = _events(path, "EDL")
    cuts = _Cuts()
    for where, line in [*header, *(note for event in events for note in event.notes)]:
        if found := re.fullmatch(r"\*\s*CUEMARK VIDEO (.*)", line):
            cuts.about(_unjson(found[1], where), where)
    rates = [told["fps"] for told in cuts.told.values() if told.get("fps") is not None]
    if not events and not rates:
        return cuts
    cuts.fps = reading.rate(f"'{path}'", rates[0] if rates else None)
    rate = _rate(cuts.fps)
    for event in events:
        first, beyond = (_frame(code, rate, event.where, event.drop) for code in event.codes[:2])
        if first == beyond or event.reel in ("BL", "BLACK", "BARS") or re.fullmatch(r"A[A\d/]*", event.channels):
            continue  # the outgoing half of a dissolve, black, sound
        clip = _Clip(event.where, rate.seconds(first), rate.seconds(beyond))
        _take_notes(clip, event, reading)
        cuts.clips.append(clip)
    return cuts


def _take_notes(clip: _Clip, event: _Event, reading: Reading) -> None:
    side = "FROM" if event.kind == "C" else "TO"  # a transition shows the clip that it leads to
    name = locator = ""
    for where, line in event.notes:
        if found := re.fullmatch(r"\*\s*CUEMARK (\{.*)", line):
            clip.told = _unjson(found[1], where)
        elif found := re.fullmatch(rf"\*\s*{side} CLIP NAME:\s*(.*)", line):
            name = found[1].strip()
        elif found := re.fullmatch(rf"\*\s*(?:{side} CLIP|{side} FILE|SOURCE FILE):\s*(.*)", line):
            clip.video = file_id(found[1]) or clip.video
        elif found := re.fullmatch(rf"\*\s*LOC:?\s*{_TC}\s+\S+\s*(.*)", line):
            locator = locator or found[2].strip()
        elif re.match(r"M2\s", line):
            reading.note(where, "changes the speed, which is not followed", "kept")
    clip.video = clip.video or file_id(name) or None
    clip.name = name if name and file_id(name) != clip.video else locator


def edl_write(path: Path, truth: Truth) -> None:
    """Write one EDL for one video (a path that ends in ``.edl``), else a folder of them.

    Raises:
        DataError: a video's ``fps`` is not known, or timecode cannot count it.
    """
    write_each(path, truth, ".edl", _write_edl)


def _write_edl(path: Path, vid: str, video: VideoTruth) -> None:
    rate = _rate_of(vid, video)
    reel = re.sub(r"[^A-Z0-9]", "", vid.upper())[:8] or "AX"
    about = f"* CUEMARK VIDEO {_json(_about_video(vid, video))}"
    lines = [f"TITLE: {_one_line(vid)[:70]}", "FCM: NON-DROP FRAME"]
    if not video.annotations:
        lines.append(about)
    record = _HOUR * rate.nominal  # as tapes and programs begin
    for i, segment in enumerate(_in_order(video), 1):
        first, beyond = rate.clip(segment)
        ends = (first, beyond, record, record := record + beyond - first)
        codes = [_timecode(frame, rate, vid) for frame in ends]
        lines += ["", f"{i:03d}  {reel:8} V     C        {' '.join(codes)}",
                  f"* FROM CLIP NAME:  {_one_line(file_name(vid))}",
                  f"* LOC: {codes[2]} GREEN   {_name(segment)}",
                  f"* CUEMARK {_json(_about_segment(vid, segment))}"]
        if i == 1:
            lines.append(about)
    write_text(path, "\n".join(lines) + "\n")


def edl_looks(path: Path, head: str) -> Kind | None:
    """Event lines without Resolve's markers."""
    return "truth" if _edl_kind(path, head) == "edl" else None


def _edl_kind(path: Path, head: str) -> str | None:
    head = head or _first_head(path, ".edl")
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", head.lstrip("\ufeff"))]
    events = [line for line in lines if len(line) < 400 and _EVENT.fullmatch(line)]
    if not events and not (path.suffix.lower() == ".edl" and any(line.startswith("TITLE:") for line in lines)):
        return None
    return "resolve-edl" if any(map(_marker, lines)) else "edl"


def _first_head(folder: Path, suffix: str) -> str:
    """The beginning of the first file of its kind in a folder."""
    if not folder.is_dir():
        return ""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == suffix and not p.name.startswith("."))
    if not files:
        return ""
    with open(files[0], "rb") as file:
        return file.read(1 << 14).decode("utf-8", "replace")


# ------------------------------------------------------------------------------------------ OpenTimelineIO


def _otio() -> Any:
    try:
        return importlib.import_module("opentimelineio")
    except ImportError:
        raise DataError('OpenTimelineIO files need the library opentimelineio; pip install "cuemark[formats]".'
                        ) from None


def otio_parse(path: Path, reading: Reading) -> Truth:
    """Read an OpenTimelineIO file, or every ``.otio`` of a folder.

    Raises:
        DataError: naming the file and what is wrong; or the library is not installed.
    """
    return _parse_cuts(path, reading, ".otio", _read_otio)


def _read_otio(path: Path, reading: Reading) -> _Cuts:
    otio = _otio()
    data = read_json(path, "OpenTimelineIO")  # first, because the library dies of deeply nested files
    if not isinstance(data, dict) or "OTIO_SCHEMA" not in data:
        raise DataError(f"'{path}' is no OpenTimelineIO file: expected an object with \"OTIO_SCHEMA\".")
    cuts = _Cuts()
    try:
        top = otio.core.deserialize_json_from_string(json.dumps(_sealed(data)))
        if isinstance(top, otio.schema.Clip):
            clips = [top]
        elif hasattr(top, "find_clips"):
            clips = list(top.find_clips())
        else:
            raise DataError(f"'{path}' holds {data['OTIO_SCHEMA']!s:.40}; expected a timeline.")
        timelines = [top, *(top.find_children(descended_from_type=otio.schema.Timeline)
                            if hasattr(top, "find_children") else ())]
        for timeline in timelines:
            if isinstance(timeline, otio.schema.Timeline) and "cuemark" in timeline.metadata:
                cuts.about(_unjson(timeline.metadata["cuemark"], f"'{path}'"), f"'{path}'")
        for i, clip in enumerate(clips):
            _take_otio(otio, clip, f"'{path}', clip {i}", cuts, reading)
    except DataError:
        raise
    except Exception as error:  # the library has no common error: KeyError, ValueError, OTIOError …
        raise DataError(f"'{path}' cannot be read as an OpenTimelineIO file: {_one_line(str(error))[:200]}.") from None
    return cuts


def _sealed(data: Any) -> Any:
    """The same with what we wrote as text, which the library leaves as it is: it reads numbers a last digit off."""
    if isinstance(data, dict):
        return {key: json.dumps(value) if key == "cuemark" else _sealed(value) for key, value in data.items()}
    return [_sealed(item) for item in data] if isinstance(data, list) else data


def _take_otio(otio: Any, clip: Any, where: str, cuts: _Cuts, reading: Reading) -> None:
    track, medium = clip.parent(), clip.media_reference
    kind = getattr(track, "kind", otio.schema.TrackKind.Video)
    if kind != otio.schema.TrackKind.Video or isinstance(medium, otio.schema.GeneratorReference):
        return
    shown = clip.trimmed_range()
    start, length = (_otio_seconds(time, where) for time in (shown.start_time, shown.duration))
    url = unquote(getattr(medium, "target_url", "") or getattr(medium, "name_prefix", "") or medium.name or "")
    vid = file_id(url) or None
    if (available := medium.available_range) is not None:
        begins, lasts = (_otio_seconds(time, where) for time in (available.start_time, available.duration))
        start -= begins
        if vid:
            cuts.lengths.setdefault(vid, float(lasts))
    if any(isinstance(effect, otio.schema.TimeEffect) for effect in clip.effects):
        reading.note(where, "changes the speed, which is not followed", "kept")
    told = _unjson(clip.metadata["cuemark"], where) if "cuemark" in clip.metadata else None
    cuts.clips.append(_Clip(where, float(start), float(start + length), vid, clip.name, told))
    cuts.fps = cuts.fps or float(_rate(shown.duration.rate).exact)


def _otio_seconds(time: Any, where: str) -> Fraction:
    if not 0 < time.rate < math.inf:
        raise DataError(f"{where}: {time.rate} frames a second is impossible; expected a number above 0.")
    return Fraction(number(time.value, where, "a number of frames")) / _rate(time.rate).exact


def otio_write(path: Path, truth: Truth) -> None:
    """Write one OpenTimelineIO file for one video (a path that ends in ``.otio``), else a folder of them.

    Raises:
        DataError: a video's ``fps`` is not known, or the library is not installed.
    """
    _otio()
    write_each(path, truth, ".otio", _write_otio)


def _write_otio(path: Path, vid: str, video: VideoTruth) -> None:
    otio, rate = _otio(), _rate_of(vid, video)
    fps = float(rate.exact)

    def span(first: int, beyond: int) -> Any:
        return otio.opentime.TimeRange(otio.opentime.RationalTime(first, fps),
                                       otio.opentime.RationalTime(beyond - first, fps))

    timeline = otio.schema.Timeline(name=vid, metadata={"cuemark": _told(_about_video(vid, video))})
    track = otio.schema.Track(name="V1", kind=otio.schema.TrackKind.Video)
    timeline.tracks.append(track)
    whole = span(0, _medium_frames(video, rate))
    for segment in _in_order(video):
        shown, told = span(*rate.clip(segment)), _told(_about_segment(vid, segment))
        medium = otio.schema.ExternalReference(target_url=quote(file_name(vid)), available_range=whole)
        marker = otio.schema.Marker(name=_name(segment), marked_range=shown, color=otio.schema.MarkerColor.GREEN,
                                    comment=_one_line(segment.sentence or segment.query), metadata={"cuemark": told})
        track.append(otio.schema.Clip(name=_name(segment), media_reference=medium, source_range=shown,
                                      markers=[marker], metadata={"cuemark": told}))
    write_text(path, timeline.to_json_string(indent=2) + "\n")


def _told(told: dict[str, Any]) -> dict[str, Any]:
    """The same where it is text and finite numbers throughout; half a character would end the library."""
    for value in told.values():
        if isinstance(value, str):
            _characters(value)
    return json.loads(_json(told))


def _characters(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{ascii(text)[:60]} is no text that can be written; rename it.") from None
    return text


def _medium_frames(video: VideoTruth, rate: _Rate) -> int:
    ends = [rate.clip(s)[1] for s in video.annotations]
    return max(1, math.ceil(Fraction(video.duration) * rate.exact - Fraction(1, 1000)), *ends)


def otio_looks(path: Path, head: str) -> Kind | None:
    """JSON that names its OpenTimelineIO schema."""
    head = head or _first_head(path, ".otio")
    return "truth" if head.lstrip("\ufeff \t\r\n").startswith("{") and '"OTIO_SCHEMA"' in head else None


# ------------------------------------------------------------------------------------------ FCPXML


_SECONDS = re.compile(r"(-?\d{1,18})(?:/(\d{1,18}))?s", re.ASCII)
_COMPOUND = ("ref-clip", "sync-clip", "mc-clip")


def fcpxml_parse(path: Path, reading: Reading) -> Truth:
    """Read a Final Cut Pro XML file (not a ``.fcpxmld`` bundle), or every ``.fcpxml`` of a folder.

    Raises:
        DataError: naming the file and the element that is wrong.
    """
    return _parse_cuts(path, reading, ".fcpxml", _fcpxml)


@dataclass(frozen=True, slots=True)
class _Asset:
    video: str | None
    start: Fraction
    duration: Fraction | None
    sound: bool


def _fcpxml(path: Path, reading: Reading) -> _Cuts:
    root = _fcpxml_root(path)
    cuts = _Cuts()
    assets: dict[str, _Asset] = {}
    for asset in root.iterfind("resources/asset"):
        where = f"'{path}', asset '{asset.get('id')}'"
        source = asset.get("src") or next((r.get("src", "") for r in asset.iterfind("media-rep")), "")
        length = _fraction(asset, "duration", where) if asset.get("duration") else None
        assets[asset.get("id", "")] = _Asset(
            file_id(unquote(source)) or asset.get("name") or None, _fraction(asset, "start", where), length,
            asset.get("hasVideo") == "0")
    count = 0
    for sequence in root.iterfind(".//project/sequence"):
        for md in sequence.iterfind("metadata/md[@key='cuemark.video']"):
            cuts.about(_unjson(md.get("value", ""), f"'{path}'"), f"'{path}'")
        cuts.fps = cuts.fps or _fcpxml_rate(root, sequence, path)
        inside: set[ElementTree.Element] = set()
        for element in sequence.iter():
            if element.tag not in ("asset-clip", "clip", "video", *_COMPOUND) or element in inside:
                continue
            where = f"'{path}', {element.tag} {count} ({element.get('name', '')[:40]!r})"
            count += 1
            inside.update(element.iterfind("video"))
            if element.tag in _COMPOUND:
                reading.note(where, "is a compound clip, whose media are not followed", "dropped")
            elif (clip := _fcpxml_clip(element, assets, where)) is not None:
                if element.find("timeMap") is not None:
                    reading.note(where, "changes the speed, which is not followed", "kept")
                cuts.clips.append(clip)
    for known in assets.values():
        if known.video and known.duration is not None:
            cuts.lengths.setdefault(known.video, float(known.duration))
    return cuts


def _fcpxml_root(path: Path) -> ElementTree.Element:
    text = re.sub(r"<!DOCTYPE\s+fcpxml\s*>", "", read_text(path, "FCPXML"), count=1)
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise DataError(f"'{path}' declares a document type other than fcpxml, or an entity; remove the declaration.")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        line, column = error.position
        raise DataError(f"'{path}' is not valid XML at line {line}, column {column + 1}; expected an FCPXML file."
                        ) from None
    if root.tag != "fcpxml":
        raise DataError(f"'{path}' is no FCPXML file: its root is <{root.tag[:40]}>, expected <fcpxml>.")
    return root


def _fcpxml_clip(element: ElementTree.Element, assets: Mapping[str, _Asset], where: str) -> _Clip | None:
    """What an element shows of its asset; None for sound, titles and generators."""
    shows: ElementTree.Element | None = element if element.tag != "clip" else element.find("video")
    asset = assets.get(shows.get("ref", "")) if shows is not None else None
    if shows is None or asset is None or asset.sound or element.get("srcEnable") == "audio":
        return None
    if element is shows:
        start = _fraction(element, "start", where, asset.start)
    else:  # a clip has a clock of its own, on which its picture lies at an offset
        start = _fraction(element, "start", where)
        start += _fraction(shows, "start", where) - _fraction(shows, "offset", where)
    length = _fraction(element, "duration", where, asset.duration)
    start -= asset.start
    told = None
    for md in element.iterfind("metadata/md[@key='cuemark']"):
        told = _unjson(md.get("value", ""), where)
    return _Clip(where, float(start), float(start + length), asset.video, element.get("name", ""), told)


def _fcpxml_rate(root: ElementTree.Element, sequence: ElementTree.Element, path: Path) -> float | None:
    for form in root.iterfind("resources/format"):
        if form.get("id") == sequence.get("format") and form.get("frameDuration"):
            where = f"'{path}', format '{form.get('id')}'"
            step = _fraction(form, "frameDuration", where)
            if step <= 0:
                raise DataError(f"{where}: a frame cannot last {form.get('frameDuration')}; expected more than 0s.")
            return float(1 / step)
    return None


def _fraction(element: ElementTree.Element, key: str, where: str, otherwise: Fraction | None = Fraction(0)) -> Fraction:
    """Seconds as FCPXML writes them, ``1001/30000s``."""
    value = element.get(key)
    if value is None and otherwise is not None:
        return otherwise
    found = _SECONDS.fullmatch(value or "")
    if found is None or (found[2] is not None and int(found[2]) == 0):
        raise DataError(f"{where}: expected {key} as seconds such as 5s or 1001/30000s, got {str(value)[:40]!r}.")
    return Fraction(int(found[1]), int(found[2] or 1))


def fcpxml_write(path: Path, truth: Truth) -> None:
    """Write one FCPXML 1.8 file for one video (a path that ends in ``.fcpxml``), else a folder of them.

    Raises:
        DataError: a video's ``fps`` is not known, or a text has a character that XML cannot hold.
    """
    write_each(path, truth, ".fcpxml", _write_fcpxml)


def _write_fcpxml(path: Path, vid: str, video: VideoTruth) -> None:
    rate, where = _rate_of(vid, video), f"video '{vid}'"
    name = xml_text(vid, where)

    def time(frames: int) -> str:
        value = frames / rate.exact
        return f"{value.numerator}s" if value.denominator == 1 else f"{value.numerator}/{value.denominator}s"

    def add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
        return ElementTree.SubElement(parent, tag, attributes)

    root = ElementTree.Element("fcpxml", version="1.8")
    resources = add(root, "resources")
    # the shortest way to write a rate's frame is not the one that programs expect for whole rates
    step = time(1) if rate.exact.denominator != 1 else f"100/{rate.nominal * 100}s"
    add(resources, "format", id="r1", frameDuration=step)
    add(resources, "asset", id="r2", name=name, src=quote(_characters(file_name(vid))), start="0s",
        duration=time(_medium_frames(video, rate)), hasVideo="1", format="r1")
    project = add(add(root, "event", name=name), "project", name=name)
    clips = [(segment, *rate.clip(segment)) for segment in _in_order(video)]
    total = sum(beyond - first for _, first, beyond in clips)
    sequence = add(project, "sequence", format="r1", duration=time(total), tcStart="0s", tcFormat="NDF")
    spine = add(sequence, "spine")
    offset = 0
    for segment, first, beyond in clips:
        clip = add(spine, "asset-clip", ref="r2", name=xml_text(_name(segment), where), offset=time(offset),
                   start=time(first), duration=time(beyond - first), format="r1", tcFormat="NDF")
        if note := _one_line(segment.sentence or segment.query):
            add(clip, "note").text = xml_text(note, where)
        add(add(clip, "metadata"), "md", key="cuemark", value=_json(_about_segment(vid, segment)))
        offset += beyond - first
    add(add(sequence, "metadata"), "md", key="cuemark.video", value=_json(_about_video(vid, video)))
    write_xml(path, root)


def fcpxml_looks(path: Path, head: str) -> Kind | None:
    """XML whose root is ``fcpxml``."""
    head = head or _first_head(path, ".fcpxml")
    return "truth" if re.search(r"<fcpxml[\s>]", head) else None


# ------------------------------------------------------------------------------------------ markers


_MARKER = re.compile(r"(.*)\|C:(.*)\|M:(.*)\|D:\s*(\d{1,9})\s*", re.ASCII)
_COLOURS = ("Blue", "Green", "Yellow", "Red", "Purple", "Cyan", "Pink", "Mint", "Sand", "Fuchsia", "Sky", "Lemon",
            "Rose", "Lavender", "Cocoa", "Cream")
_COLUMNS = ("Marker Name", "Description", "In", "Out", "Duration", "Marker Type")


def _marker(line: str) -> re.Match[str] | None:
    """Note, colour, name and frames of a line of Resolve's markers."""
    return _MARKER.fullmatch(line) if line.count("|") < 20 else None


def _name_and_note(segment: Segment) -> tuple[str, str]:
    label, text = _one_line(segment.label), _one_line(segment.sentence or segment.query)
    return label or text, text


def _from_name_and_note(name: str, note: str) -> dict[str, Any]:
    name, note = _one_line(name), _one_line(note)
    return {"label": None if name == note else name or None, "sentence": note or None}


def resolve_parse(path: Path, reading: Reading) -> Truth:
    """Read timeline markers that DaVinci Resolve exported, or every ``.edl`` of a folder.

    Raises:
        DataError: naming the file and the line; or ``reading`` does not say the frames a second.
    """
    return parse_each(path, reading, (".edl",), _resolve)


def _resolve(path: Path, reading: Reading) -> VideoTruth:
    _, events = _events(path, "Resolve marker EDL")
    if not events:
        return VideoTruth(reading.length(path.stem, []), (), reading.subset, reading.fps)
    fps = reading.rate(f"'{path}'")
    rate = _rate(fps)
    markers: list[tuple[str, int, int, str, str]] = []
    for event in events:
        first = _frame(event.codes[2], rate, event.where, event.drop)
        marked = [found for _, line in event.notes if (found := _marker(line))]
        if not marked:
            raise DataError(f"{event.where}: expected a line |C:colour |M:name |D:frames below the event; a cut list "
                            "without markers is read as edl.")
        markers += [(event.where, first, first + int(found[4]), found[3], found[1]) for found in marked]
    hour = _HOUR * rate.nominal
    origin = hour if all(first >= hour for _, first, *_ in markers) else 0
    rows = ((where, first - origin, beyond - origin, name, note) for where, first, beyond, name, note in markers)
    return _marked(path, rows, reading, fps)


def _marked(path: Path, rows: Iterable[tuple[str, int, int, str, str]], reading: Reading, fps: float) -> VideoTruth:
    rate, segments = _rate(fps), []
    for where, first, beyond, name, note in rows:
        segment = reading.segment(rate.seconds(first), rate.seconds(beyond), where, **_from_name_and_note(name, note))
        if segment is not None:
            segments.append(segment)
    segments.sort(key=lambda s: (s.start, s.end))
    return VideoTruth(reading.length(path.stem, segments), tuple(segments), reading.subset, fps)


def resolve_write(path: Path, truth: Truth) -> None:
    """Write one file of Resolve's timeline markers for one video (a path that ends in ``.edl``), else a folder.

    Raises:
        DataError: a video's ``fps`` is not known, or timecode cannot count it.
    """
    write_each(path, truth, ".edl", _write_resolve)


def _write_resolve(path: Path, vid: str, video: VideoTruth) -> None:
    rate = _rate_of(vid, video)
    labels = sorted({s.label or "" for s in video.annotations})
    colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(labels)}
    lines = [f"TITLE: {_one_line(vid)[:70]}", "FCM: NON-DROP FRAME"]
    for i, segment in enumerate(_in_order(video), 1):
        first, beyond = rate.clip(segment)
        at = first + _HOUR * rate.nominal
        codes = f"{_timecode(at, rate, vid)} {_timecode(at + 1, rate, vid)}"
        name, note = (text.replace("|", "/") for text in _name_and_note(segment))
        lines += ["", f"{i:03d}  001      V     C        {codes} {codes}  ",
                  f"{note} |C:ResolveColor{colours[segment.label or '']} |M:{name} |D:{beyond - first}"]
    write_text(path, "\n".join(lines) + "\n")


def resolve_looks(path: Path, head: str) -> Kind | None:
    """Event lines with Resolve's markers."""
    return "truth" if _edl_kind(path, head) == "resolve-edl" else None


def premiere_parse(path: Path, reading: Reading) -> Truth:
    """Read markers that Premiere Pro exported as CSV (UTF-8 or UTF-16), or every ``.csv`` of a folder.

    Raises:
        DataError: naming the file and the line; or ``reading`` does not say the frames a second.
    """
    return parse_each(path, reading, (".csv",), _premiere)


def _premiere(path: Path, reading: Reading) -> VideoTruth:
    rows = _premiere_rows(path)
    _, first = next(rows, ("", []))
    if missing := [name for name in ("Marker Name", "In", "Out") if name not in first]:
        raise DataError(f"'{path}' has no column '{missing[0]}' in its first line; Premiere's markers have, with tabs "
                        f"between, {', '.join(_COLUMNS)}.")
    found = list(rows)
    if not found:
        return VideoTruth(reading.length(path.stem, []), (), reading.subset, reading.fps)
    fps = reading.rate(f"'{path}'")
    rate = _rate(fps)

    def markers() -> Iterator[tuple[str, int, int, str, str]]:
        for where, row in found:
            cells = dict(zip(first, row))
            codes = [cells.get(key, "").strip() for key in ("In", "Out")]
            if not all(re.fullmatch(_TC, code) for code in codes):
                raise DataError(f"{where}: expected timecodes HH:MM:SS:FF as In and Out, got {codes[0][:20]!r} and "
                                f"{codes[1][:20]!r}.")
            begin, end = (_frame(code, rate, where, False) for code in codes)
            yield where, begin, end, cells.get("Marker Name", ""), cells.get("Description", "")

    return _marked(path, markers(), reading, fps)


def _premiere_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        with open(path, "rb") as file:
            wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        text = path.read_bytes().decode("utf-16") if wide else read_text(path, "Premiere marker")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read as a Premiere marker file: {error}.") from None
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    try:
        for row in rows:
            if any(cell.strip() for cell in row):
                yield f"'{path}', line {rows.line_num}", row
    except csv.Error as error:
        raise DataError(f"'{path}', line {rows.line_num}: not a row with tabs ({error}).") from None


def premiere_write(path: Path, truth: Truth) -> None:
    """Write one file of Premiere's markers for one video (a path that ends in ``.csv``), else a folder of them.

    Raises:
        DataError: a video's ``fps`` is not known, or timecode cannot count it.
    """
    write_each(path, truth, ".csv", _write_premiere)


def _write_premiere(path: Path, vid: str, video: VideoTruth) -> None:
    rate = _rate_of(vid, video)
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    for segment in _in_order(video):
        begin, end = rate.frame(segment.start), rate.frame(segment.end)
        writer.writerow([*_name_and_note(segment), *(_timecode(f, rate, vid) for f in (begin, end, end - begin)),
                         "Comment"])
    write_text(path, table.getvalue())


def premiere_looks(path: Path, head: str) -> Kind | None:
    """The columns of Premiere's markers in the first line."""
    first = (head or _first_head(path, ".csv")).lstrip("\ufeff\ufffd").replace("\0", "").split("\n", 1)[0]
    return "truth" if [c.strip() for c in first.split("\t")][:4] == list(_COLUMNS[:4]) else None


# ------------------------------------------------------------------------------------------ formats


FORMATS = (
    Format(
        name="otio",
        title="OpenTimelineIO cut list",
        source="Academy Software Foundation, OpenTimelineIO",
        layout="JSON: a timeline whose clips are the moments; frames at the video's rate",
        looks=otio_looks,
        parse=otio_parse,
        write=otio_write,
        traps='Needs pip install "cuemark[formats]", and the frames a second to write.',
        several=False,
    ),
    Format(
        name="edl",
        title="CMX 3600 edit decision list",
        source="CMX, EDL 3600; as Resolve, Premiere and Avid write it",
        layout="text: an event a moment, source and record timecodes HH:MM:SS:FF",
        looks=edl_looks,
        parse=edl_parse,
        write=edl_write,
        traps="It does not say its frames a second, nor when its medium's timecode begins.",
        several=False,
    ),
    Format(
        name="fcpxml",
        title="Final Cut Pro XML",
        source="Apple, FCPXML 1.8",
        layout="XML: a project whose asset-clips are the moments; times as fractions of a second",
        looks=fcpxml_looks,
        parse=fcpxml_parse,
        write=fcpxml_write,
        traps="Media must be relinked, as their place is not known; .fcpxmld bundles hold an Info.fcpxml to read.",
        several=False,
    ),
    Format(
        name="resolve-edl",
        title="DaVinci Resolve timeline markers",
        source="Blackmagic Design, Timelines > Export > Timeline Markers to EDL",
        layout="text: a one-frame event a marker, then [note] |C:colour |M:name |D:frames",
        looks=resolve_looks,
        parse=resolve_parse,
        write=resolve_write,
        traps="Timelines begin at 01:00:00:00 unless changed; one marker a frame is kept; no scores.",
        several=False,
    ),
    Format(
        name="premiere-csv",
        title="Premiere Pro markers",
        source="Adobe, File > Export > Markers",
        layout="a table with tabs: Marker Name, Description, In, Out, Duration, Marker Type; timecodes",
        looks=premiere_looks,
        parse=premiere_parse,
        write=premiere_write,
        traps="It does not say its frames a second; the columns are read in English; no scores.",
        several=False,
    ),
)
