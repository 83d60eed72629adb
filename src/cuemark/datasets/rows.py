"""Rows of text files, tables and JSON lists, each with the place that a message names; numbers, labels and splits.

Read as UTF-8, with or without a byte order mark; blank lines and Windows' line ends mean nothing. Written with plain
line ends, numbers so that reading gives the same ones.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cuemark.errors import DataError
from cuemark.segments import replacing

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d{1,2}(?:\.\d*)?)", re.ASCII)


def read_text(path: Path, what: str) -> str:
    """The whole text of a file.

    Raises:
        DataError: it does not exist, is a folder, or is no UTF-8 text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{what} file '{path}' does not exist; check the path.") from None
    except IsADirectoryError:
        raise DataError(f"'{path}' is a folder, not a {what} file; name the file inside it.") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"'{path}' cannot be read as a {what} file: {error}.") from None
    if "\0" in text:
        raise DataError(f"'{path}' cannot be read as a {what} file: it is not text.")
    return text


def split_lines(text: str) -> list[str]:
    """The lines of a text, whichever system wrote it; ``str.splitlines`` would also split sentences."""
    return re.split(r"\r\n|\r|\n", text)


def lines(path: Path, what: str) -> Iterator[tuple[str, str]]:
    """Every line that is not blank, stripped, with its place: ``('file', line 3)`` as a message says it."""
    for number, line in enumerate(split_lines(read_text(path, what)), 1):
        if line.strip():
            yield f"'{path}', line {number}", line.strip()


def table(path: Path, what: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file by the names in its first line, with their places.

    Args:
        columns: those that must be there; others may be, in any order.

    Raises:
        DataError: a column is missing, or a row has not as many cells as the first line.
    """
    rows = csv.reader(io.StringIO(read_text(path, what), newline=""), strict=True)
    names: list[str] | None = None
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if names is None:
                names = [cell.strip() for cell in row]
                if missing := [c for c in columns if c not in names]:
                    raise DataError(f"'{path}' has no column '{missing[0]}' in its first line; a {what} file has "
                                    f"{','.join(columns)}.")
                continue
            where = f"'{path}', line {rows.line_num}"
            if len(row) != len(names):
                raise DataError(f"{where}: expected {len(names)} cells, as the first line has, got {len(row)}.")
            yield where, dict(zip(names, row))
    except csv.Error as error:
        raise DataError(f"'{path}', line {rows.line_num}: not a CSV row ({error}).") from None
    if names is None:
        raise DataError(f"'{path}' is empty; a {what} file begins with the line {','.join(columns)}.")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, atomically; None is an empty cell.

    Raises:
        DataError: a cell has a character that a table cannot hold.
    """
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            for cell in row:
                if isinstance(cell, str):
                    holdable(cell, path)
            writer.writerow(["" if cell is None else cell for cell in row])


def holdable(text: str, path: Path) -> str:
    """The text again, where a text file can hold it.

    Raises:
        DataError: it has a carriage return, a NUL, or half a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{ascii(text)[:60]} is no text that '{path}' can hold; rename it.") from None
    if "\0" in text or "\r" in text:
        raise DataError(f"{ascii(text)[:60]} has a character that '{path}' cannot hold; rename it.")
    return text


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically.

    Raises:
        DataError: as :func:`holdable`.
    """
    for line in text.split("\n"):
        holdable(line, path)
    with replacing(path) as file:
        file.write(text)


def header(head: str) -> list[str]:
    """The column names in the first line of a CSV file's beginning; ``[]`` where it has none."""
    first = head.removeprefix("\ufeff").lstrip().split("\n", 1)[0].strip()
    try:
        return [cell.strip() for cell in next(csv.reader([first]), [])]
    except csv.Error:
        return []


# ---------------------------------------------------------------------------------------------- numbers


def number(value: Any, where: str, what: str) -> float:
    """A finite number.

    Raises:
        DataError: it is none; the message says where, and what it should have been.
    """
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(value)
        if not math.isfinite(found):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: expected {what}, got {str(value)[:40]!r}.") from None
    return found


def whole(value: Any, where: str, what: str) -> int:
    """A whole number, as :func:`number`."""
    found = number(value, where, what)
    if found != int(found):
        raise DataError(f"{where}: expected {what}, got {str(value)[:40]!r}.")
    return int(found)


def seconds(value: Any, where: str, what: str = "the video's seconds") -> float:
    """A length: a finite number not below 0, as :func:`number`."""
    found = number(value, where, what)
    if found < 0:
        raise DataError(f"{where}: expected {what}, got {str(value)[:40]!r}.")
    return found


def above_0(value: Any, where: str, what: str) -> float:
    """A rate: a finite number above 0, as :func:`number`."""
    found = number(value, where, what)
    if found <= 0:
        raise DataError(f"{where}: expected {what} above 0, got {found:g}.")
    return found


def clock(text: str, comma: bool = False) -> float:
    """Seconds from ``12.5``, ``MM:SS(.f)`` or ``HH:MM:SS(.f)``; with ``comma`` also ``12,5``.

    Raises:
        ValueError: it is none of these.
    """
    text = text.strip()
    if comma or ":" in text:
        text = text.replace(",", ".")
    if _NUMBER.fullmatch(text):
        return float(text)
    parts = _CLOCK.fullmatch(text)
    if parts is None:
        raise ValueError(f"'{text}' is no time")
    hours, minutes, rest = parts.groups()
    if float(rest) >= 60 or (hours and float(minutes) >= 60):
        raise ValueError(f"'{text}' is no time")
    return float(hours or 0) * 3600 + float(minutes) * 60 + float(rest)


# ---------------------------------------------------------------------------------------------- items of JSON


def objects(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects; ``[]`` where it is missing.

    Raises:
        DataError: it is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{where}: expected a list of objects, got {str(value)[:60]}.")
    return value


def labelled(item: Any, where: str) -> tuple[Any, Any, str]:
    """The two times and the label of ``{"segment": [start, end], "label": …}``.

    Raises:
        DataError: it is no such object.
    """
    times = item.get("segment") if isinstance(item, dict) else None
    if not isinstance(times, list) or len(times) != 2 or not isinstance(item.get("label"), str):
        raise DataError(f'{where}: expected an object with "segment": [start, end] and a "label", got '
                        f"{str(item)[:60]}.")
    return times[0], times[1], item["label"]


# ---------------------------------------------------------------------------------------------- labels and splits


def label_of(value: str | None, video: str, what: str) -> str:
    """A label to be written.

    Raises:
        DataError: the annotation has none, which this format cannot hold.
    """
    if not value:
        raise DataError(f"video '{video}' has an annotation without a label, which {what} cannot hold; label it or "
                        "leave it out.")
    return value


SPLITS = {"training": "training", "train": "training", "validation": "validation", "validate": "validation",
          "valid": "validation", "val": "validation", "testing": "testing", "test": "testing"}
"""How files call the three splits -> how ActivityNet does, and so we do."""


def split(name: str) -> str:
    """ActivityNet's name of a split; any other split keeps the name it has."""
    return SPLITS.get(name.lower(), name)


def split_of(path: Path, otherwise: str) -> str:
    """The split that a file's name tells: its last word that is the name of one (``anet_train_2.json``: training)."""
    words = re.findall(r"[a-z]+", path.stem.lower())
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), otherwise)
