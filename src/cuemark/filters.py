"""What to look among: conditions on the videos of a library (:mod:`cuemark.library`), as its database asks them."""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cuemark.errors import CallError, within


@dataclass(frozen=True)
class Filter:
    """What to look among; all that is given has to hold."""

    label: str | None = None
    """Moments that overlap a segment with this label: of annotations, corrections, or by the encoder's class head."""
    folder: str | Path | None = None
    """Videos at any depth of this folder."""
    longer: float | None = None
    """Seconds that the video has at least."""
    shorter: float | None = None
    """Seconds that it has at most."""
    since: str | None = None
    """The day its file was written, or a later one: ``2026-01-31``."""
    until: str | None = None
    """That day, or an earlier one."""
    text: str | None = None
    """Videos in whose subtitles, sentences or name all these words are."""
    ids: tuple[str, ...] | None = None
    """These videos."""

    @property
    def empty(self) -> bool:
        """Whether everything passes."""
        return all(value is None for value in asdict(self).values())

    def condition(self) -> tuple[str, list[Any]]:
        """It in SQL, with the values for its question marks: on the rows of videos that are there.

        Raises:
            CallError: what cannot be meant.
        """
        conditions: list[str] = ["state = 'ok'"]
        values: list[Any] = []
        for condition, value in (("duration >= ?", self.longer), ("duration <= ?", self.shorter)):
            if value is not None:
                within("longer" if ">" in condition else "shorter", value, 0)
                conditions.append(condition)
                values.append(value)
        for name, sign, late in (("since", ">=", 0), ("until", "<", 1)):
            if (day := getattr(self, name)) is not None:
                conditions.append(f"modified {sign} ?")
                values.append(_day(name, day, late))
        if self.folder is not None:
            folder = os.path.abspath(self.folder).rstrip(os.sep) + os.sep
            conditions.append("substr(path, 1, ?) = ?")
            values += [len(folder), folder]
        if self.label is not None:
            conditions.append("number IN (SELECT video FROM segments WHERE label = ?)")
            values.append(self.label)
        if self.text is not None:
            if not (words := match_of(self.text)):
                raise CallError(f"there is no word in the text '{self.text}' to look for; give some.")
            # all the words of the filter, in any texts of the video
            for word in words.split(" "):
                conditions.append("number IN (SELECT video FROM texts WHERE id IN "
                                  "(SELECT rowid FROM words WHERE words MATCH ?))")
                values.append(word)
        if self.ids is not None:
            conditions.append(f"id IN ({','.join('?' * len(self.ids))})")
            values += list(self.ids)
        return " AND ".join(conditions), values


def match_of(text: str) -> str:
    """A text as FTS5 looks for all of its words: each a string of its own, so that nothing in it is an operator."""
    return " ".join(f'"{word}"' for word in re.findall(r"\w+", text)[:32])


def _day(name: str, day: str, late: int) -> float:
    """The beginning of a day, or of the one after it, here, in seconds since 1970."""
    try:
        begin = time.strptime(day, "%Y-%m-%d")
        return time.mktime((begin.tm_year, begin.tm_mon, begin.tm_mday + late, 0, 0, 0, 0, 0, -1))
    except (ValueError, OverflowError):
        raise CallError(f"{name} must be a day such as 2026-01-31, got '{day}'.") from None
