"""Rows of text files and tables, each with the place that a message names.

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


def lines(path: Path, what: str) -> Iterator[tuple[str, str]]:
    """Every line that is not blank, stripped, with its place: ``('file', line 3)`` as a message says it."""
    for number, line in enumerate(read_text(path, what).splitlines(), 1):
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


def header(head: str) -> list[str]:
    """The column names in the first line of a CSV file's beginning; ``[]`` where it has none."""
    first = head.removeprefix("\ufeff").lstrip().split("\n", 1)[0].strip()
    try:
        return [cell.strip() for cell in next(csv.reader([first]), [])]
    except csv.Error:
        return []


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


def label_of(value: str | None, video: str, what: str) -> str:
    """A label to be written.

    Raises:
        DataError: the annotation has none, which this format cannot hold.
    """
    if not value:
        raise DataError(f"video '{video}' has an annotation without a label, which {what} cannot hold; label it or "
                        "leave it out.")
    return value


def new_folder(path: Path, what: str, patterns: Sequence[str] = (), names: Sequence[str] = ()) -> None:
    """Make sure that several files can be written into the folder ``path`` and will be all that is read from it.

    Args:
        patterns: what a reader looks for there.
        names: the files to be written.

    Raises:
        DataError: it is, or is called like, a file; or it holds files of another truth, that would be read too.
    """
    if path.is_file() or path.suffix.lower() in (".csv", ".json", ".txt"):
        raise DataError(f"'{path}' cannot be written: {what} is several files; name a folder.")
    others = sorted(p.name for pattern in patterns for p in path.glob(pattern) if p.name not in names)
    if others:
        raise DataError(f"'{path}' cannot be written: it holds '{others[0]}', which would be read as a part of it; "
                        "name an empty folder.")


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
