"""Errors a user can act on: one sentence that says what is wrong, where, and what to do next.

Everything cuemark raises on purpose is a :class:`CuemarkError`; the command line prints its sentence on
standard error without a traceback. Anything else that escapes is a bug.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class CuemarkError(Exception):
    """Something the user can mend. Exit status 1 on the command line."""


class VideoError(CuemarkError):
    """A video file that cannot be used: the message names the file and the reason."""


class DataError(CuemarkError):
    """An annotation, prediction, feature or recipe file that is malformed: the message names file and key."""


class ModelError(CuemarkError):
    """A checkpoint that cannot be used, or features that do not fit it."""


class CallError(CuemarkError):
    """A call that cannot be meant: unknown name, impossible option. Exit status 2 on the command line."""


def unknown(kind: str, name: str, known: Iterable[str]) -> CallError:
    """The error for a name that is not in a table: it answers with the known ones.

    >>> str(unknown("localizer", "gtda", ["gtad", "bmn"]))
    "unknown localizer 'gtda'; did you mean 'gtad'? Known: bmn, gtad."
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    known_text = ", ".join(names) or "none"
    return CallError(f"unknown {kind} '{name}'{hint} {'K' if near else 'k'}nown: {known_text}.")


def within(name: str, value: float, low: float, high: float | None = None) -> None:
    """Refuse a setting outside ``[low, high]`` (and NaN, and infinity).

    Raises:
        CallError: naming the setting, its value and the bounds.
    """
    if not low <= value < math.inf or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise CallError(f"{name} must be a number {bounds}, got {value}.")
