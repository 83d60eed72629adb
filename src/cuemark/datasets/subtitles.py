r"""Subtitles, one file a video: SubRip (``.srt``) and WebVTT (``.vtt``), the latter also the chapters of a web player.

::

    1                                       WEBVTT
    00:00:12,500 --> 00:00:18,250
    Pour the batter.                        pour-1
                                            00:00:12.500 --> 00:00:18.250 align:start
    2                                       <v Ann>Pour &amp; stir.</v>
    00:00:30,000 --> 00:00:31,000
    <i>A doorbell.</i>                      00:30.000 --> 00:31.000
                                            A doorbell.

Reading: the text of a cue is the ``sentence`` of its segment: subtitles are transcripts, and a cue cannot say that its
text is the name of a class. Line breaks are layout and become blanks; tags (``<i>``, ``<v Ann>``, ``{\an8}``) go, and
WebVTT's ``&amp;`` is ``&``. A WebVTT cue's name is the segment's ``id``; SubRip's numbers only count. Cues may overlap;
they are sorted by their start. Comments, styles and regions of WebVTT are skipped. A cue without text is dropped and
noted, as is one that ends before it starts. Neither file tells length or split.

Writing: the text of a cue is the segment's sentence, or where it has none its label, or its query, or
``[class-agnostic]`` where it has nothing at all, in one line. Times are rounded to milliseconds. Then

    * SubRip comes back with that text as ``sentence``, and holds nothing else: no scores, ids, lengths, splits, rates.
      It has no escapes: ``-->`` becomes ``->``, and what looks like a tag is gone on reading.
    * WebVTT comes back whole. What its cue cannot say stands in a comment before it, which players do not show,
      ``NOTE cuemark {"label": "pour", "score": 0.83}``, and ``NOTE cuemark video {"duration": 82.7}`` at the top. Where
      somebody has changed the cue's text since, the new text replaces the old in the field that it shows.

A segment that begins before 0 is an error: a subtitle cannot.

Traps: a file in another encoding than UTF-8 is refused rather than guessed. Downloaded captions carry their language in
their name (``id.en.vtt`` is read as video ``id.en``), and automatic ones repeat each line in the next cue.
``X-TIMESTAMP-MAP`` shifts the times of a live stream's pieces; it is noted and not followed.

There is no library behind this: pysubs2 1.8.1 takes the next cue's name and comments for text of the cue before, leaves
``&amp;`` as it is, and reads ``->`` for ``-->`` and the hundredth hour as the hour 0 without a word (its readers agree
with ours on the rest, see the tests).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cuemark.datasets import notes
from cuemark.datasets.files import first_of, parse_each, write_each
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.notes import one_line
from cuemark.datasets.rows import read_text, split_lines, write_text
from cuemark.datasets.timeline import in_order
from cuemark.errors import DataError
from cuemark.segments import UNLABELLED, Segment, Truth, VideoTruth

_STAMP = r"(?:(\d{1,6}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMING = re.compile(rf"\s*{_STAMP}\s*-->\s*{_STAMP}(?:\s.*)?", re.ASCII)
_NUMBER = re.compile(r"\s*\d+\s*", re.ASCII)
_LIKE_A_TIME = re.compile(r"\s*\d+:\d+:\d+[.,]\d", re.ASCII)
_SRT_TAG = re.compile(r"</?\s*(?:[ibus]|font)(?:\s[^>]*)?\s*>|\{\\[^}]*\}", re.IGNORECASE)
_VTT_TAG = re.compile(r"<[^>]*>")
_NOTE = re.compile(r"NOTE cuemark (video )?(.*)")


@dataclass
class _Cue:
    where: str
    start: float
    end: float
    lines: list[str] = field(default_factory=list)
    id: str | None = None
    note: dict[str, Any] | None = None


# ---------------------------------------------------------------------------------------------- reading


def srt_parse(path: Path, reading: Reading) -> Truth:
    """Read a SubRip file, or every ``.srt`` of a folder.

    Raises:
        DataError: naming the file, the line and what was expected there.
    """
    return parse_each(path, reading, ".srt", _srt)


def vtt_parse(path: Path, reading: Reading) -> Truth:
    """Read a WebVTT file, or every ``.vtt`` of a folder.

    Raises:
        DataError: naming the file, the line and what was expected there.
    """
    return parse_each(path, reading, ".vtt", _vtt)


def _srt(path: Path, reading: Reading) -> VideoTruth:
    text = read_text(path, "SubRip")
    if not text:
        raise DataError(f"'{path}' is empty; expected a SubRip file.")
    cues: list[_Cue] = []
    lines = split_lines(text)
    for i, line in enumerate(lines):
        where = f"'{path}', line {i + 1}"
        if timing := _timing(line, where, ","):
            if cues and i and _NUMBER.fullmatch(lines[i - 1]) and cues[-1].lines:
                cues[-1].lines.pop()  # it was this cue's number, not text of the one before
            cues.append(_Cue(where, *timing))
        elif "-->" in line or (_LIKE_A_TIME.match(line) and _begins_block(lines, i)):
            raise _no_timing(line, where, ",")
        elif cues:
            cues[-1].lines.append(line)
        elif line.strip() and not _NUMBER.fullmatch(line):
            raise _no_timing(line, where, ",")
    if not cues and text.strip():
        raise DataError(f"'{path}', line {len(lines)}: the file ends where a cue's times were expected.")
    return _video(path, cues, reading, lambda text: _SRT_TAG.sub("", text), {})


def _begins_block(lines: list[str], i: int) -> bool:
    """Whether a line can only be meant as a cue's times: nothing but a number stands between it and a blank one."""
    before = i - 1 if i and _NUMBER.fullmatch(lines[i - 1]) else i
    return before == 0 or not lines[before - 1].strip()


def _vtt(path: Path, reading: Reading) -> VideoTruth:
    lines = split_lines(read_text(path, "WebVTT"))
    if not re.match(r"WEBVTT(\s|$)", lines[0]):
        raise DataError(f"'{path}', line 1: expected WEBVTT, got {lines[0][:40]!r}; this is no WebVTT file.")
    cues: list[_Cue] = []
    told: dict[str, Any] = {}
    pending: dict[str, Any] | None = None
    for first, block in _blocks(lines):
        where = f"'{path}', line {first}"
        if first == 1:
            if any(line.startswith("X-TIMESTAMP-MAP") for line in block):
                reading.note(where, "shifts its times (X-TIMESTAMP-MAP), which is not followed", "kept")
        elif re.match(r"NOTE(\s|$)", block[0]):
            if note := _NOTE.fullmatch(block[0]):
                found = notes.loaded(note[2], where)
                if note[1]:
                    told = found
                else:
                    pending = found
        elif not re.fullmatch(r"(STYLE|REGION)\s*", block[0]):
            named = "-->" not in block[0]
            at = f"'{path}', line {first + named}"
            times = block[1] if named and len(block) > 1 else block[0]
            timing = _timing(times, at, ".")
            if timing is None:
                raise _no_timing(times, at, ".")
            text = block[1 + named:]
            for i, line in enumerate(text):
                if "-->" in line:
                    raise DataError(f"'{path}', line {first + named + 1 + i}: a cue's times within the text of the "
                                    "cue before; put a blank line between them.")
            cues.append(_Cue(at, *timing, text, block[0].strip() if named else None, pending))
            pending = None
    return _video(path, cues, reading, lambda text: html.unescape(_VTT_TAG.sub("", text)), told)


def _blocks(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Lines between blank lines, with the number of the first."""
    block: list[str] = []
    for count, line in enumerate([*lines, ""], 1):
        if line.strip():
            block.append(line)
        elif block:
            yield count - len(block), block
            block = []


def _timing(line: str, where: str, point: str) -> tuple[float, float] | None:
    """Seconds of a line with a cue's times; None where it has none."""
    found = _TIMING.fullmatch(line)
    if found is None:
        return None
    start, end = found.groups()[:4], found.groups()[4:]
    for stamp in (start, end):
        if int(stamp[1]) > 59 or int(stamp[2]) > 59:
            raise _no_timing(line, where, point)
    return _seconds(*start), _seconds(*end)


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    whole = (int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)
    return (whole * 1000 + int(fraction.ljust(3, "0"))) / 1000


def _no_timing(line: str, where: str, point: str) -> DataError:
    return DataError(f"{where}: expected a cue's times, HH:MM:SS{point}mmm --> HH:MM:SS{point}mmm, got {line[:60]!r}.")


def _video(path: Path, cues: list[_Cue], reading: Reading, plain: Any, told: dict[str, Any]) -> VideoTruth:
    segments = []
    for cue in cues:
        text = one_line(plain(" ".join(cue.lines)))
        fields: dict[str, Any] = {"sentence": text}
        if cue.note is not None:
            fields = notes.segment_fields(cue.note, cue.where)
            shows = _shows(fields)
            if text != _text(fields):  # somebody has mended it since
                fields[shows or "sentence"] = text
        elif text == UNLABELLED:
            fields = {}
        elif not text:
            reading.note(cue.where, "has no text", "dropped")
            continue
        if cue.id is not None:
            fields["id"] = cue.id
        segment = reading.segment(cue.start, cue.end, cue.where, **fields)
        if segment is not None:
            segments.append(segment)
    duration, subset, fps = notes.video_fields(told, f"'{path}'")
    if duration is None or path.stem in reading.durations:
        duration = reading.length(path.stem, segments)
    return VideoTruth(duration, tuple(in_order(segments)), subset if subset is not None else reading.subset, fps)


# ---------------------------------------------------------------------------------------------- writing


def srt_write(path: Path, truth: Truth) -> None:
    """Write one SubRip file for one video (a path that ends in ``.srt``), else a folder of them."""
    write_each(path, truth, ".srt", _write_srt)


def vtt_write(path: Path, truth: Truth) -> None:
    """Write one WebVTT file for one video (a path that ends in ``.vtt``), else a folder of them."""
    write_each(path, truth, ".vtt", _write_vtt)


def _write_srt(path: Path, vid: str, video: VideoTruth) -> None:
    cues = [f"{number}\n{_times(segment, vid, ',')}\n{_text(notes.fields_of(segment)).replace('-->', '->')}\n"
            for number, segment in enumerate(in_order(video.annotations), 1)]
    write_text(path, "\n".join(cues) or "\n")  # nothing at all would look like a file that failed


def _write_vtt(path: Path, vid: str, video: VideoTruth) -> None:
    parts = ["WEBVTT", f"NOTE cuemark video {_json(notes.about_video(video), vid)}"]
    for segment in in_order(video.annotations):
        fields, lines = notes.fields_of(segment), []
        text = _text(fields)
        if _is_name(fields.get("id")):
            lines.append(fields.pop("id"))
        lines += [_times(segment, vid, "."), html.escape(text, quote=False)]
        if fields != ({"sentence": text} if text != UNLABELLED else {}):
            parts.append(f"NOTE cuemark {_json(fields, vid)}")
        parts.append("\n".join(lines))
    write_text(path, "\n\n".join(parts) + "\n")


def _shows(fields: dict[str, Any]) -> str | None:
    """Which field the text of a cue is."""
    return next((key for key in ("sentence", "label", "query") if one_line(fields.get(key))), None)


def _text(fields: dict[str, Any]) -> str:
    shows = _shows(fields)
    return one_line(fields[shows]) if shows else UNLABELLED


def _is_name(name: Any) -> bool:
    """Whether a text can be a cue's own line in WebVTT."""
    return (isinstance(name, str) and name == one_line(name) and bool(name) and "-->" not in name
            and not re.match(r"(NOTE|STYLE|REGION)(\s|$)", name))


def _times(segment: Segment, vid: str, point: str) -> str:
    if segment.start < 0:
        raise DataError(f"video '{vid}' has a segment that begins at {segment.start:g} s, and a subtitle cannot begin "
                        "before 0; clip it.")
    return " --> ".join(_stamp(time, point) for time in (segment.start, segment.end))


def _stamp(time: float, point: str) -> str:
    seconds, thousandths = divmod(round(time * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 1_000_000:
        raise DataError(f"{time:g} s cannot be written as a subtitle's time; is it in seconds?")
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{thousandths:03d}"


def _json(note: dict[str, Any], vid: str) -> str:
    """A note as text; a comment may not hold ``-->``."""
    text = notes.dumped(note, f"video '{vid}'", ascii_only=False)
    return text.replace(">", "\\u003e").replace("\x7f", "\\u007f")


# ---------------------------------------------------------------------------------------------- formats


def srt_looks(path: Path, head: str) -> Kind | None:
    """Times with an arrow in the first or second line, or a folder of such."""
    head = first_of(path, head, ".srt")[1]
    first = [line for line in split_lines(head.lstrip("\ufeff \t\r\n"))[:2] if not _NUMBER.fullmatch(line)]
    return "truth" if first and _TIMING.fullmatch(first[0]) else None


def vtt_looks(path: Path, head: str) -> Kind | None:
    """``WEBVTT`` at the beginning, or a folder of such."""
    head = first_of(path, head, ".vtt")[1]
    return "truth" if re.match(r"WEBVTT(\s|$)", head.lstrip("\ufeff")) else None


FORMATS = (
    Format(
        name="srt",
        title="SubRip subtitles",
        source="SubRip; no specification, players agree on this much",
        layout="one file a video: number, HH:MM:SS,mmm --> HH:MM:SS,mmm, text, blank line",
        looks=srt_looks, parse=srt_parse, write=srt_write, several=False,
        traps="The text is read as a sentence, never as a label; scores and ids are not held.",
    ),
    Format(
        name="webvtt",
        title="WebVTT subtitles and chapters",
        source="W3C, WebVTT: The Web Video Text Tracks Format",
        layout="one file a video: WEBVTT, then cues [name,] HH:MM:SS.mmm --> HH:MM:SS.mmm, text, blank line",
        looks=vtt_looks, parse=vtt_parse, write=vtt_write, several=False,
        traps="The text is read as a sentence unless cuemark's comment before the cue says more.",
    ),
)
