"""COIN: the steps of instructional videos, in a layout like ActivityNet's.

    {"database": {"LtRSn-ntcLY": {"duration": 131.0309, "class": "ReplaceCDDriveWithSSD", "recipe_type": 131,
        "video_url": "https://www.youtube.com/embed/LtRSn-ntcLY", "subset": "training", "start": 56.64, "end": 85.71,
        "annotation": [{"id": "212", "segment": [60.0, 69.0], "label": "take out the laptop CD drive"}, …]}}}

Seconds. An annotation's label is the step's text, its ``id`` the step's number (1 to 778). The 778 steps have 749
texts: who counts classes by text has fewer than who counts them by number. The task (``class``, ``recipe_type``) is not
kept, nor where the interesting part of the video begins and ends (``start``, ``end``): the steps of a task are in the
taxonomy (:func:`taxonomy`). The list is called ``annotation`` here, ``annotations`` in ActivityNet's files.

Rules: a step that ends before it starts is dropped and noted; times beyond the video are kept as written. On writing a
step without a number gets one after the largest there is, in alphabetical order; ``class`` and ``recipe_type`` are left
out. Scores and sentences cannot be held.

The layout is that of the dataset's description (README); ``COIN.json`` itself was not at hand. Unverified: whether the
second split is called ``validation``, as the description says, or ``testing``, as others report (either is read), and
whether any id is missing. ``taxonomy.xlsx`` was at hand: 778 rows.

Source: Tang et al., *COIN*, CVPR 2019; github.com/coin-dataset/annotations.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.markup import parse_xml
from cuemark.datasets.rows import label_of, labelled, seconds, split, table, whole
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth, read_json, write_json


def parse(path: Path, reading: Reading) -> Truth:
    """Read ``COIN.json``.

    Raises:
        DataError: something is not an object, a list or a number where it should be.
    """
    data = read_json(path, "COIN", unique=True)
    if not isinstance(data, dict) or not isinstance(data.get("database"), dict):
        raise DataError(f"'{path}' has no \"database\" object; a COIN file is "
                        '{"database": {video: {"duration", "subset", "annotation"}}}.')
    truth: Truth = {}
    for vid, entry in data["database"].items():
        where = f"'{path}', video '{vid}'"
        if not isinstance(entry, dict) or not isinstance(entry.get("annotation"), list):
            raise DataError(f'{where}: expected an object with "duration", "subset" and a list "annotation".')
        found = []
        for i, item in enumerate(entry["annotation"]):
            segment = _step(item, f"{where}, annotation {i}", reading)
            if segment is not None:
                found.append(segment)
        told = entry.get("duration")
        duration = reading.length(vid, found) if told is None else seconds(told, where, '"duration" in seconds')
        truth[vid] = VideoTruth(duration, tuple(found), split(str(entry.get("subset") or reading.subset)))
    return truth


def _step(item: Any, where: str, reading: Reading) -> Segment | None:
    start, end, label = labelled(item, where)
    number = item.get("id")
    if number is not None and (isinstance(number, bool) or not isinstance(number, (str, int))):
        raise DataError(f'{where}: expected a step\'s number as "id", got {str(number)[:40]}.')
    return reading.segment(start, end, where, label=label, id=None if number is None else str(number))


def write(path: Path, truth: Truth) -> None:
    """Write a COIN file.

    Raises:
        DataError: an annotation has no label.
    """
    steps = [(label_of(s.label, vid, "COIN's file"), s.id) for vid, v in truth.items() for s in v.annotations]
    first = 1 + max((int(i) for _, i in steps if i is not None and re.fullmatch(r"\d{1,9}", i, re.ASCII)), default=0)
    new = {label: str(first + n) for n, label in enumerate(sorted({label for label, i in steps if i is None}))}
    write_json(path, {"database": {vid: {
        "duration": video.duration, "subset": video.subset, "start": 0.0, "end": video.duration,
        "annotation": [{"id": s.id if s.id is not None else new[str(s.label)], "segment": [s.start, s.end],
                        "label": s.label} for s in video.annotations],
    } for vid, video in truth.items()}})


def looks(path: Path, head: str) -> Kind | None:
    """A ``database`` whose videos have an ``annotation``."""
    return "truth" if re.search(r'"database"\s*:\s*\{', head) and re.search(r'"annotation"\s*:\s*\[', head) else None


# ---------------------------------------------------------------------------------------------- taxonomy


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a task."""

    id: int
    """The number that COIN's annotations have."""
    label: str
    task_id: int
    task: str
    domain: str | None = None
    """Where the task belongs, such as ``Vehicle``; None where the file does not tell."""


_COLUMNS = ("Target Id", "Target Label", "Action Id", "Action Label")
_DOMAINS = ("Domains", "Targets")
_MOST = 64 * 2**20
"""Bytes of a sheet, unpacked, beyond which a workbook is refused."""


def taxonomy(path: Path) -> list[Step]:
    """Read COIN's taxonomy: ``taxonomy.xlsx``, or its sheet ``target_action_mapping`` as CSV, or as a JSON list.

    Raises:
        DataError: the file cannot be read, has no such sheet or columns, or numbers a step twice.
    """
    domains: dict[str, str] = {}
    if path.suffix.lower() == ".xlsx":
        found = None
        for sheet in _sheets(path):
            rows = [dict(zip(sheet[0], row)) for row in sheet[1:]] if sheet else []
            if sheet and set(_COLUMNS) <= set(sheet[0]):
                found = [(f"'{path}', row {n}", row) for n, row in enumerate(rows, 2) if any(row.values())]
            elif sheet and set(_DOMAINS) <= set(sheet[0]):
                domains = {row.get("Targets", "").strip(): row.get("Domains", "").strip() for row in rows}
        if found is None:
            raise DataError(f"'{path}' has no sheet with the columns {', '.join(_COLUMNS)}; take COIN's taxonomy.xlsx.")
    elif path.suffix.lower() == ".json":
        data = read_json(path, "COIN taxonomy")
        if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
            raise DataError(f"'{path}' is not a COIN taxonomy; expected a list of objects with {', '.join(_COLUMNS)}.")
        found = [(f"'{path}', entry {n}", {k: "" if v is None else str(v) for k, v in row.items()})
                 for n, row in enumerate(data)]
    else:
        found = list(table(path, "COIN taxonomy", _COLUMNS))
    steps: dict[int, Step] = {}
    for where, row in found:
        number = whole(row.get("Action Id"), where, "an Action Id")
        task, label = row.get("Target Label", "").strip(), row.get("Action Label", "").strip()
        if not task or not label or number in steps:
            raise DataError(f"{where}: step {number} has no label or no task, or is there twice; mend the row.")
        steps[number] = Step(number, label, whole(row.get("Target Id"), where, "a Target Id"), task, domains.get(task))
    return list(steps.values())


def _sheets(path: Path) -> Iterator[list[list[str]]]:
    """The cells of a workbook's sheets, as text."""
    try:
        with zipfile.ZipFile(path) as book:
            names = [n for n in book.namelist() if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", n)]
            shared = "xl/sharedStrings.xml"
            items = list(_xml(book, shared)) if shared in book.namelist() else []
            texts = ["".join(part.text or "" for part in item.iter() if _tag(part) == "t") for item in items]
            for name in sorted(names):
                yield [_cells(row, texts) for row in _xml(book, name).iter() if _tag(row) == "row"]
    except FileNotFoundError:
        raise DataError(f"COIN taxonomy file '{path}' does not exist; check the path.") from None
    except (zipfile.BadZipFile, ElementTree.ParseError, OSError, EOFError, RuntimeError, NotImplementedError,
            ValueError, LookupError) as error:
        raise DataError(f"'{path}' cannot be read as a workbook: {error}.") from None


def _xml(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if book.getinfo(name).file_size > _MOST:
        raise ValueError(f"{name} is too large")
    with book.open(name) as file:
        text = file.read(_MOST).decode("utf-8-sig")
    return parse_xml(text)


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _cells(row: ElementTree.Element, texts: list[str]) -> list[str]:
    """The cells of a row at their columns, A first."""
    found: dict[int, str] = {}
    for cell in row:
        letters = re.match(r"[A-Z]{1,2}", cell.get("r", ""))
        column = len(found)
        if letters is not None:
            column = -1
            for letter in letters[0]:
                column = 26 * (column + 1) + ord(letter) - ord("A")
        value = "".join(part.text or "" for part in cell.iter() if _tag(part) in ("v", "t"))
        found[column] = texts[int(value)] if cell.get("t") == "s" else value
    return [found.get(i, "") for i in range(max(found, default=-1) + 1)]


FORMAT = Format(
    name="coin",
    title="COIN",
    source="Tang et al., COIN, CVPR 2019; github.com/coin-dataset/annotations",
    layout='JSON {"database": {video: {"duration", "class", "subset", "annotation": [{"id", "segment", "label"}]}}}; '
           "seconds",
    looks=looks, parse=parse, write=write,
    traps='The list is called "annotation"; 778 steps have 749 texts: the id is the class. Frame accuracy counts the '
          "background, of which 58.9 % consists, at 10 frames a second.",
)
