r"""Cut lists, for editing programs: OpenTimelineIO, CMX 3600 EDL and FCPXML. One file a video, as written here.

A cut list is a selects reel: one video track on which the moments of a video stand one after the other, in the order of
their start; each clip is the stretch of the video that the moment is, called by its label (or sentence, or query).

::

    otio      {"OTIO_SCHEMA": "Timeline.1", "tracks": {… "source_range": {… "value": 300.0, "rate": 25.0 …}}}
    edl       001  KITCHEN0 V     C        00:00:12:00 00:00:18:06 01:00:00:00 01:00:06:06
              * FROM CLIP NAME:  kitchen_01.mp4
    fcpxml    <asset-clip name="pour" ref="r2" offset="0s" start="12s" duration="156/25s"/>

Frames. All of them count frames, so writing needs the video's ``fps`` (``--fps``), and times are rounded to frames; a
clip has at least one. Rates and timecode: :mod:`cuemark.datasets.timecode`.

Whole again. What a cut list cannot say (exact seconds, score, sentence, query, id; the video's length, split and rate)
it carries as metadata named ``cuemark``, which these programs keep or ignore: in OpenTimelineIO on each clip, and again
on a marker over it, in FCPXML as ``md`` elements, in an EDL as comments. Read back unchanged it gives the same
segments; where an editor has moved a cut, its frames hold instead of the written seconds.

Reading other people's: every clip of a video track is a segment of its source; its name is the label unless that is the
name of its medium (in an EDL, the first locator's). The video is called as the medium, without folder and extension,
else as the file, so one cut list may give several videos. Where the medium says when its own clock begins, that is
subtracted; an EDL cannot say, so times of a camera that began at 10:00:00:00 stay so. Sound, black, titles and gaps are
skipped, compound clips are dropped and noted, and a change of speed is noted but not followed. A clip that ends before
it starts is dropped and noted.

No paths: the medium is called as the video with ``.mp4``, to be found (relinked) in the program. An EDL has 999 events
by the standard; more are written, and some programs stop there.

OpenTimelineIO writes and reads ``.otio``. Its adapters for the other two are not used: at 29.97 the FCPXML one (1.0.0)
writes an empty frame duration and reads 29 frames a second, at 25 it reads some frames one too early, and a name with
an apostrophe stops it; the EDL one (1.0.0) knows neither line numbers nor 15 frames a second, and writes drop-frame
timecode at 29.97 without saying so. Where they work they read what is written here (see the tests).
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree

from cuemark.datasets import notes
from cuemark.datasets.files import file_id, file_name, first_of, parse_all, write_each
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.markup import read_xml, write_xml, xml_text
from cuemark.datasets.notes import one_line
from cuemark.datasets.rows import number, write_text
from cuemark.datasets.timecode import CODE, HOUR, Event, Rate, looks_edl, read_events
from cuemark.datasets.timeline import in_order
from cuemark.errors import DataError
from cuemark.segments import UNLABELLED, Segment, Truth, VideoTruth, read_json

# ---------------------------------------------------------------------------------------------- what is read

_UNTOLD = (None, None, None)


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
    told: dict[str, tuple[float | None, str | None, float | None]] = field(default_factory=dict)
    """Video id -> its length, split and rate, as our own writers said."""
    lengths: dict[str, float] = field(default_factory=dict)
    """Video id -> seconds, as the file's medium has it."""
    fps: float | None = None

    def about(self, told: Mapping[str, Any], where: str) -> None:
        """Take in what our own writers said about a video."""
        vid = notes.text(told, "video", where)
        if vid is None:
            raise DataError(f'{where}, cuemark\'s note: expected the "video" that it is about; mend or remove it.')
        self.told[vid] = notes.video_fields(told, where)


def _parse_cuts(path: Path, reading: Reading, suffix: str, one: Callable[[Path, Reading], _Cuts]) -> Truth:
    return parse_all(path, suffix, lambda file: _truth(file, one(file, reading), reading))


def _truth(path: Path, cuts: _Cuts, reading: Reading) -> Truth:
    found: dict[str, list[Segment]] = {vid: [] for vid in cuts.told}
    for clip in cuts.clips:
        fields: dict[str, Any] = {}
        start, end, told = clip.start, clip.end, clip.told
        vid = clip.video or path.stem
        if told is not None:
            vid = notes.text(told, "video", clip.where) or vid
            fields = notes.segment_fields(told, clip.where)
            start, end = _exact(clip, cuts.told.get(vid, _UNTOLD)[2])
        elif (name := one_line(clip.name)) and name != UNLABELLED and file_id(name) != vid:
            fields = {"label": name}
        segments = found.setdefault(vid, [])
        segment = reading.segment(start, end, clip.where, **fields)
        if segment is not None:
            segments.append(segment)
    truth: Truth = {}
    for vid, segments in (found or {path.stem: []}).items():
        duration, subset, fps = cuts.told.get(vid, _UNTOLD)
        if duration is None:
            duration = cuts.lengths.get(vid)
        if duration is None or vid in reading.durations:
            duration = reading.length(vid, segments)
        truth[vid] = VideoTruth(duration, tuple(in_order(segments)), reading.subset if subset is None else subset,
                                cuts.fps if fps is None else fps)
    return truth


def _exact(clip: _Clip, fps: float | None) -> tuple[float, float]:
    """The seconds that were written, if the clip is still cut where they were."""
    try:
        start, end = (clip.told or {})["segment"]
        segment = Segment(float(start), float(end))
    except (TypeError, KeyError, ValueError, OverflowError):
        return clip.start, clip.end
    if fps is not None:
        rate = Rate.of(fps)
        first, beyond = rate.clip(segment)
        if abs(rate.seconds(first) - clip.start) < 1e-6 and abs(rate.seconds(beyond) - clip.end) < 1e-6:
            return segment.start, segment.end
    return clip.start, clip.end


# ---------------------------------------------------------------------------------------------- what is written


def _name(segment: Segment) -> str:
    """What a clip is called."""
    texts = (segment.label, segment.sentence, segment.query)
    return next((name for text in texts if (name := one_line(text))), UNLABELLED)


def _about_segment(vid: str, segment: Segment) -> dict[str, Any]:
    return {"video": vid, "segment": [segment.start, segment.end]} | notes.fields_of(segment)


def _about_video(vid: str, video: VideoTruth) -> dict[str, Any]:
    return {"video": vid} | notes.about_video(video)


def _json(told: dict[str, Any]) -> str:
    return notes.dumped(told, f"video '{told['video']}'")


# ---------------------------------------------------------------------------------------------- EDL


def edl_parse(path: Path, reading: Reading) -> Truth:
    """Read a CMX 3600 EDL, or every ``.edl`` of a folder.

    Raises:
        DataError: naming the file, the line and what was expected there; or it does not say its frames a second and
            neither does ``reading``.
    """
    return _parse_cuts(path, reading, ".edl", _edl)


def _edl(path: Path, reading: Reading) -> _Cuts:
    header, events = read_events(path, "EDL")
    cuts = _Cuts()
    for where, line in [*header, *(note for event in events for note in event.notes)]:
        if found := re.fullmatch(r"\*\s*CUEMARK VIDEO (.*)", line):
            cuts.about(notes.loaded(found[1], where), where)
    rates = [fps for _, _, fps in cuts.told.values() if fps is not None]
    if not events and not rates:
        return cuts
    cuts.fps = reading.rate(f"'{path}'", rates[0] if rates else None)
    rate = Rate.of(cuts.fps)
    for event in events:
        first, beyond = (rate.named(code, event.where, event.drop) for code in event.codes[:2])
        if first == beyond or event.reel in ("BL", "BLACK", "BARS") or re.fullmatch(r"A[A\d/]*", event.channels):
            continue  # the outgoing half of a dissolve, black, sound
        clip = _Clip(event.where, rate.seconds(first), rate.seconds(beyond))
        _take_notes(clip, event, reading)
        cuts.clips.append(clip)
    return cuts


def _take_notes(clip: _Clip, event: Event, reading: Reading) -> None:
    side = "FROM" if event.kind == "C" else "TO"  # a transition shows the clip that it leads to
    name = locator = ""
    for where, line in event.notes:
        if found := re.fullmatch(r"\*\s*CUEMARK (\{.*)", line):
            clip.told = notes.loaded(found[1], where)
        elif found := re.fullmatch(rf"\*\s*{side} CLIP NAME:\s*(.*)", line):
            name = found[1].strip()
        elif found := re.fullmatch(rf"\*\s*(?:{side} CLIP|{side} FILE|SOURCE FILE):\s*(.*)", line):
            clip.video = file_id(found[1]) or clip.video
        elif found := re.fullmatch(rf"\*\s*LOC:?\s*{CODE}\s+\S+\s*(.*)", line):
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
    rate = Rate.of_video(vid, video)
    reel = re.sub(r"[^A-Z0-9]", "", vid.upper())[:8] or "AX"
    about = f"* CUEMARK VIDEO {_json(_about_video(vid, video))}"
    lines = [f"TITLE: {one_line(vid)[:70]}", "FCM: NON-DROP FRAME"]
    if not video.annotations:
        lines.append(about)
    record = HOUR * rate.nominal  # as tapes and programs begin
    for i, segment in enumerate(in_order(video.annotations), 1):
        first, beyond = rate.clip(segment)
        ends = (first, beyond, record, record := record + beyond - first)
        codes = [rate.timecode(frame, vid) for frame in ends]
        lines += ["", f"{i:03d}  {reel:8} V     C        {' '.join(codes)}",
                  f"* FROM CLIP NAME:  {one_line(file_name(vid))}",
                  f"* LOC: {codes[2]} GREEN   {_name(segment)}",
                  f"* CUEMARK {_json(_about_segment(vid, segment))}"]
        if i == 1:
            lines.append(about)
    write_text(path, "\n".join(lines) + "\n")


def edl_looks(path: Path, head: str) -> Kind | None:
    """Event lines without Resolve's markers."""
    return "truth" if looks_edl(path, head) == "edl" else None


# ---------------------------------------------------------------------------------------------- OpenTimelineIO


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
                cuts.about(notes.loaded(timeline.metadata["cuemark"], f"'{path}'"), f"'{path}'")
        for i, clip in enumerate(clips):
            _take_otio(otio, clip, f"'{path}', clip {i}", cuts, reading)
    except DataError:
        raise
    except Exception as error:  # the library has no common error: KeyError, ValueError, OTIOError …
        raise DataError(f"'{path}' cannot be read as an OpenTimelineIO file: {one_line(str(error))[:200]}.") from None
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
    told = notes.loaded(clip.metadata["cuemark"], where) if "cuemark" in clip.metadata else None
    cuts.clips.append(_Clip(where, float(start), float(start + length), vid, clip.name, told))
    cuts.fps = cuts.fps or float(Rate.of(shown.duration.rate).exact)


def _otio_seconds(time: Any, where: str) -> Fraction:
    if not 0 < time.rate < math.inf:
        raise DataError(f"{where}: {time.rate} frames a second is impossible; expected a number above 0.")
    return Fraction(number(time.value, where, "a number of frames")) / Rate.of(time.rate).exact


def otio_write(path: Path, truth: Truth) -> None:
    """Write one OpenTimelineIO file for one video (a path that ends in ``.otio``), else a folder of them.

    Raises:
        DataError: a video's ``fps`` is not known, or the library is not installed.
    """
    _otio()
    write_each(path, truth, ".otio", _write_otio)


def _write_otio(path: Path, vid: str, video: VideoTruth) -> None:
    otio, rate = _otio(), Rate.of_video(vid, video)
    fps = float(rate.exact)

    def span(first: int, beyond: int) -> Any:
        return otio.opentime.TimeRange(otio.opentime.RationalTime(first, fps),
                                       otio.opentime.RationalTime(beyond - first, fps))

    timeline = otio.schema.Timeline(name=vid, metadata={"cuemark": _told(_about_video(vid, video))})
    track = otio.schema.Track(name="V1", kind=otio.schema.TrackKind.Video)
    timeline.tracks.append(track)
    whole = span(0, _medium_frames(video, rate))
    for segment in in_order(video.annotations):
        shown, told = span(*rate.clip(segment)), _told(_about_segment(vid, segment))
        medium = otio.schema.ExternalReference(target_url=quote(file_name(vid)), available_range=whole)
        marker = otio.schema.Marker(name=_name(segment), marked_range=shown, color=otio.schema.MarkerColor.GREEN,
                                    comment=one_line(segment.sentence or segment.query), metadata={"cuemark": told})
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


def _medium_frames(video: VideoTruth, rate: Rate) -> int:
    ends = [rate.clip(s)[1] for s in video.annotations]
    return max(1, math.ceil(Fraction(video.duration) * rate.exact - Fraction(1, 1000)), *ends)


def otio_looks(path: Path, head: str) -> Kind | None:
    """JSON that names its OpenTimelineIO schema."""
    head = first_of(path, head, ".otio")[1]
    return "truth" if head.lstrip("\ufeff \t\r\n").startswith("{") and '"OTIO_SCHEMA"' in head else None


# ---------------------------------------------------------------------------------------------- FCPXML


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
    root = read_xml(path, "FCPXML", "fcpxml", bare=True)
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
            cuts.about(notes.loaded(md.get("value", ""), f"'{path}'"), f"'{path}'")
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
        told = notes.loaded(md.get("value", ""), where)
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
    rate, where = Rate.of_video(vid, video), f"video '{vid}'"
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
    clips = [(segment, *rate.clip(segment)) for segment in in_order(video.annotations)]
    total = sum(beyond - first for _, first, beyond in clips)
    sequence = add(project, "sequence", format="r1", duration=time(total), tcStart="0s", tcFormat="NDF")
    spine = add(sequence, "spine")
    offset = 0
    for segment, first, beyond in clips:
        clip = add(spine, "asset-clip", ref="r2", name=xml_text(_name(segment), where), offset=time(offset),
                   start=time(first), duration=time(beyond - first), format="r1", tcFormat="NDF")
        if note := one_line(segment.sentence or segment.query):
            add(clip, "note").text = xml_text(note, where)
        add(add(clip, "metadata"), "md", key="cuemark", value=_json(_about_segment(vid, segment)))
        offset += beyond - first
    add(add(sequence, "metadata"), "md", key="cuemark.video", value=_json(_about_video(vid, video)))
    write_xml(path, root)


def fcpxml_looks(path: Path, head: str) -> Kind | None:
    """XML whose root is ``fcpxml``."""
    head = first_of(path, head, ".fcpxml")[1]
    return "truth" if re.search(r"<fcpxml[\s>]", head) else None


# ---------------------------------------------------------------------------------------------- formats


FORMATS = (
    Format(
        name="otio",
        title="OpenTimelineIO cut list",
        source="Academy Software Foundation, OpenTimelineIO",
        layout="JSON: a timeline whose clips are the moments; frames at the video's rate",
        looks=otio_looks, parse=otio_parse, write=otio_write, several=False,
        traps='Needs pip install "cuemark[formats]", and the frames a second to write.',
    ),
    Format(
        name="edl",
        title="CMX 3600 edit decision list",
        source="CMX, EDL 3600; as Resolve, Premiere and Avid write it",
        layout="text: an event a moment, source and record timecodes HH:MM:SS:FF",
        looks=edl_looks, parse=edl_parse, write=edl_write, several=False,
        traps="It does not say its frames a second, nor when its medium's timecode begins.",
    ),
    Format(
        name="fcpxml",
        title="Final Cut Pro XML",
        source="Apple, FCPXML 1.8",
        layout="XML: a project whose asset-clips are the moments; times as fractions of a second",
        looks=fcpxml_looks, parse=fcpxml_parse, write=fcpxml_write, several=False,
        traps="Media must be relinked, as their place is not known; .fcpxmld bundles hold an Info.fcpxml to read.",
    ),
)
