"""What players and editing programs are given of a segment: one line of text, and a note of all that it cannot say.

A note is a JSON object that cuemark writes into a comment or metadata and reads back, and that programs pass over. It
is somebody else's file by then, so that what is in it is checked like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cuemark.datasets import rows
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

FIELDS = ("label", "score", "sentence", "query", "id")
"""What a segment may have beside its times."""


def one_line(text: str | None) -> str:
    """The text without line breaks, control characters and blanks in a row; "" of none."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text or "").split())


def fields_of(segment: Segment) -> dict[str, Any]:
    """The :data:`FIELDS` that a segment has."""
    return {key: value for key in FIELDS if (value := getattr(segment, key)) is not None}


def about_video(video: VideoTruth) -> dict[str, Any]:
    """Its length, its split and, where it is known, its rate."""
    told: dict[str, Any] = {"duration": video.duration, "subset": video.subset}
    return told if video.fps is None else told | {"fps": video.fps}


def dumped(note: Mapping[str, Any], where: str, ascii_only: bool = True) -> str:
    """A note as text.

    Raises:
        DataError: a number in it is not finite.
    """
    try:
        return json.dumps(note, allow_nan=False, ensure_ascii=ascii_only)
    except ValueError:
        raise DataError(f"{where} has a score or a duration that is no finite number; mend it.") from None


def loaded(text: str, where: str) -> dict[str, Any]:
    """A note from its text.

    Raises:
        DataError: it is no JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected a JSON object as cuemark's note, got {text[:60]!r}.")
    return found


def text(note: Mapping[str, Any], key: str, where: str) -> str | None:
    """A text of a note; None where it has none.

    Raises:
        DataError: it is something else.
    """
    value = note.get(key)
    if not (value is None or isinstance(value, str)):
        raise DataError(f'{where}, cuemark\'s note: expected a text as "{key}", got {str(value)[:40]!r}.')
    return value


def number(note: Mapping[str, Any], key: str, where: str) -> float | None:
    """A finite number of a note; None where it has none.

    Raises:
        DataError: it is something else.
    """
    value = note.get(key)
    return None if value is None else rows.number(value, f"{where}, cuemark's note", f'a number as "{key}"')


def segment_fields(note: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All :data:`FIELDS` of a note about a segment, None for those that it lacks."""
    return {key: number(note, key, where) if key == "score" else text(note, key, where) for key in FIELDS}


def video_fields(note: Mapping[str, Any], where: str) -> tuple[float | None, str | None, float | None]:
    """Length, split and rate of a note about a video.

    Raises:
        DataError: they cannot be.
    """
    duration, subset, fps = number(note, "duration", where), text(note, "subset", where), number(note, "fps", where)
    if (duration is not None and duration < 0) or (fps is not None and fps <= 0):
        raise DataError(f"{where}: cuemark's note says {duration} s at {fps} frames a second, which cannot be; mend or "
                        "remove it.")
    return duration, subset, fps
