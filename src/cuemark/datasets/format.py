"""What every annotation format is: how it is recognised, read and written, and what its reader found wrong.

A reader takes a path and a :class:`Reading` and gives the types of :mod:`cuemark.segments`. Rules, the same in every
format, so that a number does not depend on which file it came through:

    * A file that is not what it should be (a missing column, a time that is no number, a list where an object belongs)
      is refused as a whole with one :class:`~cuemark.errors.DataError` naming file, line or key, and what was expected.
    * A row that is well formed and still impossible, its end before its start, is **dropped** and noted.
    * A time outside the video is kept as written, since official evaluators count it so, unless the dataset's own code
      clips it; then it is **clipped**, a segment of which nothing is left is dropped, and both are noted.
    * Zero length is kept: it exists in official truth.
    * A video whose length no file tells is as long as its last annotation, which is all that is known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cuemark.errors import DataError
from cuemark.segments import Predictions, Segment, Truth

_log = logging.getLogger("cuemark")

Kind = Literal["truth", "predictions"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a file that does not make it useless."""

    where: str
    """File, and line, key or video and position in it."""
    what: str
    done: Literal["dropped", "clipped", "kept"]


@dataclass
class Reading:
    """What a reader may have to know beyond its file, and what it found wrong there."""

    fps: float | None = None
    """Frames a second, for files that count frames and do not say how fast they run."""
    durations: Mapping[str, float] = field(default_factory=dict)
    """Video id -> seconds, for files that do not say (read from the videos, or from another file)."""
    meta: Path | None = None
    """The file beside it that some formats need (lengths, label names); None: where the dataset's authors put it."""
    subset: str = "training"
    """The split of videos whose file names none."""
    problems: list[Problem] = field(default_factory=list)

    def note(self, where: str, what: str, done: Literal["dropped", "clipped", "kept"]) -> None:
        """Remember a problem."""
        self.problems.append(Problem(where, what, done))

    def segment(self, start: Any, end: Any, where: str, duration: float | None = None, **fields: Any) -> Segment | None:
        """A segment by the module's rules, or None where it had to be dropped.

        Args:
            start, end: seconds: numbers, or text that is one.
            where: file and place, for messages.
            duration: clip to ``[0, duration]`` seconds; None: keep the times as written.
            fields: further fields of the :class:`Segment`.

        Raises:
            DataError: a time is no finite number.
        """
        try:
            if isinstance(start, bool) or isinstance(end, bool):
                raise ValueError
            a, b = float(start), float(end)
            if not (abs(a) < float("inf") and abs(b) < float("inf")):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"{where}: expected a start and an end in seconds, got {str(start)[:40]!r} and "
                            f"{str(end)[:40]!r}.") from None
        if b < a:
            self.note(where, f"ends before it starts: [{a:g}, {b:g}]", "dropped")
            return None
        segment = Segment(a, b, **fields)
        if duration is None or (a >= 0 and b <= duration):
            return segment
        inside = segment.clipped(0.0, duration)
        if inside is None:
            self.note(where, f"lies outside the video: [{a:g}, {b:g}] of {duration:g} s", "dropped")
        else:
            self.note(where, f"reaches beyond the video: [{a:g}, {b:g}] of {duration:g} s", "clipped")
        return inside

    def length(self, video: str, segments: list[Segment]) -> float:
        """Seconds of a video whose file does not tell: from ``durations``, else the end of its last segment."""
        known = self.durations.get(video)
        return float(known) if known is not None else max((s.end for s in segments), default=0.0)

    def rate(self, where: str, told: float | None = None) -> float:
        """Frames a second: what the file tells, else ``fps``.

        Raises:
            DataError: neither is there, or it is not above 0.
        """
        rate = told if told is not None else self.fps
        if rate is None:
            raise DataError(f"{where}: it counts frames and does not say how many make a second; say so with --fps.")
        if not 0 < rate < float("inf"):
            raise DataError(f"{where}: {rate} frames a second is impossible; say the real number with --fps.")
        return rate

    def report(self, path: str | Path) -> None:
        """Log what was dropped and clipped, one line for each."""
        for done in ("dropped", "clipped"):
            if found := [p for p in self.problems if p.done == done]:
                _log.warning("'%s': %s %d annotation(s), the first: %s %s.", path, done, len(found),
                             found[0].where, found[0].what)


@dataclass(frozen=True, slots=True)
class Format:
    """One annotation format. A function that is None does not exist for it."""

    name: str
    """As on the command line."""
    title: str
    """What people call it: dataset or tool."""
    source: str
    """Who defines it: paper, program, address."""
    layout: str
    """One line: what the file looks like, with its units."""
    looks: Callable[[Path, str], Kind | None]
    """Is this path one of mine, and of which kind? Gets the path and the first 64 KiB of its text ("" for a folder)."""
    parse: Callable[[Path, Reading], Truth] | None = None
    write: Callable[[Path, Truth], None] | None = None
    parse_predictions: Callable[[Path, Reading], Predictions] | None = None
    """Only where predictions have a layout of their own; elsewhere they are segments with a score."""
    write_predictions: Callable[[Path, Predictions, Truth], None] | None = None
    """Gets the videos' truth too, for lengths, rates and queries; it may be empty."""
    traps: str = ""
    """What has cost people a day."""
    repeats: bool = False
    """True: several people answered the same question, and the same answer twice is no mistake."""
    several: bool = True
    """False: a file holds one video, called as the file; several videos are a folder of files."""


def rounded(fps: float) -> float:
    """A rate to 6 digits, so that 30000/1001 and 29.97003 name one rate."""
    return round(fps, 6)
