"""Frames as editing programs count them: rates, timecode, and the events of an EDL.

Rates. 23.976, 29.97, 47.952, 59.94 and 119.88 mean 24000/1001 and so on; timecode counts 24, 30 … frames in their
second, so that at 29.97 an hour of timecode is 3.6 s longer than an hour. It is written non-drop. Drop-frame timecode
(``;`` in it, or ``FCM: DROP FRAME`` above it), which leaves out numbers to keep up with the clock, is read at 29.97 and
59.94, where alone it exists. Timecode holds neither 24 hours nor 100 frames a second.

An EDL is lines of text. An event has a number, a reel, a channel, a kind and four timecodes (of the medium and of the
timeline, in and out), and the lines below it say more; Resolve puts markers there::

    001  001      V     C        01:00:12:00 01:00:12:01 01:00:12:00 01:00:12:01
    Pours the batter. |C:ResolveColorBlue |M:pour |D:156
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from cuemark.datasets.files import first_of
from cuemark.datasets.rows import read_text, split_lines
from cuemark.datasets.timeline import rate_of
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

HOUR = 3600
CODE = r"(\d\d[:;]\d\d[:;]\d\d[:;.,]\d\d)"
"""What a timecode looks like."""
_NTSC = (24, 30, 48, 60, 120)  # rates that television runs a thousandth slower
_EVENT = re.compile(rf"(\d+)\s+(.*?)\s*(\S+)\s+(C|D|W\d+|K[BO]?)\s+(?:\d+\s+)?{CODE}\s+{CODE}\s+{CODE}\s+{CODE}",
                    re.ASCII)
_MARKER = re.compile(r"(.*)\|C:(.*)\|M:(.*)\|D:\s*(\d{1,9})\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """Frames a second: exactly, and as timecode counts them."""

    exact: Fraction
    nominal: int

    @classmethod
    def of(cls, fps: float) -> Rate:
        """What a rounded number of frames a second means."""
        nominal = round(fps)
        if nominal in _NTSC and abs(fps - nominal * 1000 / 1001) < 0.005:
            return cls(Fraction(nominal * 1000, 1001), nominal)
        return cls(Fraction(fps).limit_denominator(1001) if fps > 0.01 else Fraction(fps), nominal)

    @classmethod
    def of_video(cls, vid: str, video: VideoTruth) -> Rate:
        """That of a video that is to be written.

        Raises:
            DataError: it does not tell, or the video has a time that no frame has.
        """
        rate = cls.of(rate_of(vid, video, "what editing programs read"))
        if not 0 <= video.duration < math.inf:
            raise DataError(f"video '{vid}' cannot last {video.duration} seconds; mend its duration.")
        if early := next((s for s in video.annotations if s.start < 0), None):
            raise DataError(f"video '{vid}' has a segment that begins at {early.start:g} s, and a cut cannot begin "
                            "before the video; clip it.")
        return rate

    def frame(self, seconds: float) -> int:
        """The nearest frame."""
        return round(Fraction(seconds) * self.exact)

    def seconds(self, frame: int) -> float:
        """When a frame begins."""
        return float(frame / self.exact)

    def clip(self, segment: Segment) -> tuple[int, int]:
        """First frame of a segment and the one after its last; at least one lies between."""
        first = self.frame(segment.start)
        return first, max(self.frame(segment.end), first + 1)

    def timecode(self, frame: int, vid: str) -> str:
        """Non-drop timecode of a frame.

        Raises:
            DataError: there is none.
        """
        if not 1 <= self.nominal < 100:
            raise DataError(f"video '{vid}' has {float(self.exact):g} frames a second, and timecode counts 1 to 99; "
                            "choose another format, such as otio.")
        seconds, frames = divmod(frame, self.nominal)
        if seconds >= 24 * HOUR:
            raise DataError(f"video '{vid}' needs a timecode beyond 24 hours, which there is none of; choose another "
                            "format, such as otio.")
        return f"{seconds // HOUR:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frames:02d}"

    def named(self, code: str, where: str, drop: bool = False) -> int:
        """Which frame a timecode names; ``;`` in it means drop-frame.

        Raises:
            DataError: none.
        """
        hours, minutes, seconds, frames = (int(part) for part in re.split(r"[:;.,]", code))
        if minutes > 59 or seconds > 59:
            raise DataError(f"{where}: expected a timecode HH:MM:SS:FF, got {code}.")
        if frames >= self.nominal:
            raise DataError(f"{where}: timecode {code} names frame {frames} of a second that has {self.nominal}; say "
                            "the real number with --fps.")
        count = (hours * HOUR + minutes * 60 + seconds) * self.nominal + frames
        if not (drop or ";" in code):
            return count
        if self.exact not in (Fraction(30000, 1001), Fraction(60000, 1001)):
            raise DataError(f"{where}: {code} is drop-frame timecode, which there is at 29.97 and 59.94 frames a "
                            f"second, not at {float(self.exact):g}; say the real number with --fps.")
        past = hours * 60 + minutes  # every minute but each tenth begins with its third (at 59.94: fifth) number
        return count - self.nominal // 15 * (past - past // 10)


# ---------------------------------------------------------------------------------------------- EDL


@dataclass(slots=True)
class Event:
    """An event line of an EDL with the lines that belong to it."""

    where: str
    reel: str
    channels: str
    kind: str
    codes: tuple[str, str, str, str]
    """Timecodes: in and out of the medium, in and out of the timeline."""
    drop: bool
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Where and what: the lines below it."""


def read_events(path: Path, what: str) -> tuple[list[tuple[str, str]], list[Event]]:
    """The lines above the first event, with their places, and the events.

    Raises:
        DataError: a line that begins as an event is none, or the file has neither event nor title.
    """
    header: list[tuple[str, str]] = []
    events: list[Event] = []
    drop = False
    for i, line in enumerate(split_lines(read_text(path, what)), 1):
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
            events.append(Event(where, reel, channels, kind, tuple(codes), drop))  # type: ignore[arg-type]
        else:
            (events[-1].notes if events else header).append((where, line))
    if not events and not any(line.startswith(("TITLE:", "* CUEMARK")) for _, line in header):
        raise DataError(f"'{path}' holds no event and no title; expected an {what} file.")
    return header, events


def _is_text(line: str, events: list[Event]) -> bool:
    """Whether a line that begins with a digit is the note of a Resolve marker."""
    return bool(events) and "|C:" in line and "|M:" in line


def marker(line: str) -> re.Match[str] | None:
    """Note, colour, name and frames of a line of Resolve's markers."""
    return _MARKER.fullmatch(line) if line.count("|") < 20 else None


def looks_edl(path: Path, head: str) -> str | None:
    """Event lines: ``edl``, with Resolve's markers ``resolve-edl``."""
    path, head = first_of(path, head, ".edl")
    lines = [line.strip() for line in split_lines(head.lstrip("\ufeff"))]
    events = [line for line in lines if len(line) < 400 and _EVENT.fullmatch(line)]
    if not events and not (path.suffix.lower() == ".edl" and any(line.startswith("TITLE:") for line in lines)):
        return None
    return "resolve-edl" if any(map(marker, lines)) else "edl"
