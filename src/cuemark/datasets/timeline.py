"""Segments on a timeline: in order, in layers that do not overlap, in whole frames."""

from __future__ import annotations

from collections.abc import Iterable

from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth


def in_order(segments: Iterable[Segment]) -> list[Segment]:
    """By their start, then by their end."""
    return sorted(segments, key=lambda s: (s.start, s.end))


def layers(spans: Iterable[tuple[int, int, str]]) -> list[list[tuple[int, int, str]]]:
    """Spread spans (start, end, text) over as few rows as they need so that none overlap in a row, each in order."""
    rows: list[list[tuple[int, int, str]]] = []
    for span in sorted(spans):
        row = next((row for row in rows if row[-1][1] <= span[0]), None)
        if row is None:
            rows.append([span])
        else:
            row.append(span)
    return rows


def rate_of(vid: str, video: VideoTruth, what: str) -> float:
    """Frames a second of a video that is to be written in frames.

    Raises:
        DataError: it does not tell, or it cannot be.
    """
    if video.fps is None:
        raise DataError(f"video '{vid}' has no frame rate, which {what} cannot do without; say it with --fps.")
    if not 0 < video.fps < float("inf"):
        raise DataError(f"video '{vid}' cannot have {video.fps} frames a second; say the real number with --fps.")
    return video.fps


def frames_to_seconds(first: float, last: float, fps: float) -> tuple[float, float]:
    """Seconds that the frames ``first`` to ``last`` cover, counted from 1, both included."""
    return (first - 1) / fps, last / fps


def seconds_to_frames(start: float, end: float, fps: float) -> tuple[int, int]:
    """The nearest whole frames, counted from 1, both included; at least one."""
    first = max(round(start * fps) + 1, 1)
    return first, max(round(end * fps), first)
