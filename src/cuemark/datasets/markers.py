"""Markers on the timeline of an editing program: DaVinci Resolve's (EDL) and Premiere Pro's (CSV). One file, one video.

::

    resolve-edl   001  001      V     C        01:00:12:00 01:00:12:01 01:00:12:00 01:00:12:01
                  Pours the batter. |C:ResolveColorBlue |M:pour |D:156
    premiere-csv  pour <tab> Pours the batter. <tab> 00:00:12:00 <tab> 00:00:18:06 <tab> 00:00:06:06 <tab> Comment

Markers are put on a timeline that shows the whole video from its beginning, and the video is called as the file. They
count frames at a rate that no file tells (``--fps``; timecode: :mod:`cuemark.datasets.timecode`), so times are rounded
to frames, and a Resolve marker has at least one. They hold a name, which is the label, and a note, which is the
sentence: a text without a label is written as both, and is read as a sentence where both are one.

Resolve's markers count from the beginning of the timeline, 01:00:00:00 in Resolve unless changed: when all are at 1 h
or later, 1 h is subtracted. It keeps one marker a frame. Colours tell labels apart on writing and are not read. A row
that ends before it starts is dropped and noted. Not held: scores, ids, lengths, splits, rates; ``|`` becomes ``/``.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cuemark.datasets.files import first_of, parse_each, write_each
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.notes import one_line
from cuemark.datasets.rows import read_text, write_text
from cuemark.datasets.timecode import CODE, HOUR, Rate, looks_edl, marker, read_events
from cuemark.datasets.timeline import in_order
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth

_COLOURS = ("Blue", "Green", "Yellow", "Red", "Purple", "Cyan", "Pink", "Mint", "Sand", "Fuchsia", "Sky", "Lemon",
            "Rose", "Lavender", "Cocoa", "Cream")
_COLUMNS = ("Marker Name", "Description", "In", "Out", "Duration", "Marker Type")


def _name_and_note(segment: Segment) -> tuple[str, str]:
    label, text = one_line(segment.label), one_line(segment.sentence or segment.query)
    return label or text, text


def _from_name_and_note(name: str, note: str) -> dict[str, Any]:
    name, note = one_line(name), one_line(note)
    return {"label": None if name == note else name or None, "sentence": note or None}


def _marked(path: Path, rows: Iterable[tuple[str, int, int, str, str]], reading: Reading, fps: float) -> VideoTruth:
    rate, segments = Rate.of(fps), []
    for where, first, beyond, name, note in rows:
        segment = reading.segment(rate.seconds(first), rate.seconds(beyond), where, **_from_name_and_note(name, note))
        if segment is not None:
            segments.append(segment)
    return VideoTruth(reading.length(path.stem, segments), tuple(in_order(segments)), reading.subset, fps)


# ---------------------------------------------------------------------------------------------- DaVinci Resolve


def resolve_parse(path: Path, reading: Reading) -> Truth:
    """Read timeline markers that DaVinci Resolve exported, or every ``.edl`` of a folder.

    Raises:
        DataError: naming the file and the line; or ``reading`` does not say the frames a second.
    """
    return parse_each(path, reading, ".edl", _resolve)


def _resolve(path: Path, reading: Reading) -> VideoTruth:
    _, events = read_events(path, "Resolve marker EDL")
    if not events:
        return VideoTruth(reading.length(path.stem, []), (), reading.subset, reading.fps)
    fps = reading.rate(f"'{path}'")
    rate = Rate.of(fps)
    markers: list[tuple[str, int, int, str, str]] = []
    for event in events:
        first = rate.named(event.codes[2], event.where, event.drop)
        marked = [found for _, line in event.notes if (found := marker(line))]
        if not marked:
            raise DataError(f"{event.where}: expected a line |C:colour |M:name |D:frames below the event; a cut list "
                            "without markers is read as edl.")
        markers += [(event.where, first, first + int(found[4]), found[3], found[1]) for found in marked]
    hour = HOUR * rate.nominal
    origin = hour if all(first >= hour for _, first, *_ in markers) else 0
    rows = ((where, first - origin, beyond - origin, name, note) for where, first, beyond, name, note in markers)
    return _marked(path, rows, reading, fps)


def resolve_write(path: Path, truth: Truth) -> None:
    """Write one file of Resolve's timeline markers for one video (a path that ends in ``.edl``), else a folder.

    Raises:
        DataError: a video's ``fps`` is not known, or timecode cannot count it.
    """
    write_each(path, truth, ".edl", _write_resolve)


def _write_resolve(path: Path, vid: str, video: VideoTruth) -> None:
    rate = Rate.of_video(vid, video)
    labels = sorted({s.label or "" for s in video.annotations})
    colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(labels)}
    lines = [f"TITLE: {one_line(vid)[:70]}", "FCM: NON-DROP FRAME"]
    for i, segment in enumerate(in_order(video.annotations), 1):
        first, beyond = rate.clip(segment)
        at = first + HOUR * rate.nominal
        codes = f"{rate.timecode(at, vid)} {rate.timecode(at + 1, vid)}"
        name, note = (text.replace("|", "/") for text in _name_and_note(segment))
        lines += ["", f"{i:03d}  001      V     C        {codes} {codes}  ",
                  f"{note} |C:ResolveColor{colours[segment.label or '']} |M:{name} |D:{beyond - first}"]
    write_text(path, "\n".join(lines) + "\n")


def resolve_looks(path: Path, head: str) -> Kind | None:
    """Event lines with Resolve's markers."""
    return "truth" if looks_edl(path, head) == "resolve-edl" else None


# ---------------------------------------------------------------------------------------------- Premiere Pro


def premiere_parse(path: Path, reading: Reading) -> Truth:
    """Read markers that Premiere Pro exported as CSV (UTF-8 or UTF-16), or every ``.csv`` of a folder.

    Raises:
        DataError: naming the file and the line; or ``reading`` does not say the frames a second.
    """
    return parse_each(path, reading, ".csv", _premiere)


def _premiere(path: Path, reading: Reading) -> VideoTruth:
    rows = _premiere_rows(path)
    _, first = next(rows, ("", []))
    if missing := [name for name in ("Marker Name", "In", "Out") if name not in first]:
        raise DataError(f"'{path}' has no column '{missing[0]}' in its first line; Premiere's markers have, with tabs "
                        f"between, {', '.join(_COLUMNS)}.")
    found = list(rows)
    if not found:
        return VideoTruth(reading.length(path.stem, []), (), reading.subset, reading.fps)
    fps = reading.rate(f"'{path}'")
    rate = Rate.of(fps)

    def markers() -> Iterator[tuple[str, int, int, str, str]]:
        for where, row in found:
            cells = dict(zip(first, row))
            codes = [cells.get(key, "").strip() for key in ("In", "Out")]
            if not all(re.fullmatch(CODE, code) for code in codes):
                raise DataError(f"{where}: expected timecodes HH:MM:SS:FF as In and Out, got {codes[0][:20]!r} and "
                                f"{codes[1][:20]!r}.")
            begin, end = (rate.named(code, where) for code in codes)
            yield where, begin, end, cells.get("Marker Name", ""), cells.get("Description", "")

    return _marked(path, markers(), reading, fps)


def _premiere_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        with open(path, "rb") as file:
            wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        text = path.read_bytes().decode("utf-16") if wide else read_text(path, "Premiere marker")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read as a Premiere marker file: {error}.") from None
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    try:
        for row in rows:
            if any(cell.strip() for cell in row):
                yield f"'{path}', line {rows.line_num}", row
    except csv.Error as error:
        raise DataError(f"'{path}', line {rows.line_num}: not a row with tabs ({error}).") from None


def premiere_write(path: Path, truth: Truth) -> None:
    """Write one file of Premiere's markers for one video (a path that ends in ``.csv``), else a folder of them.

    Raises:
        DataError: a video's ``fps`` is not known, or timecode cannot count it.
    """
    write_each(path, truth, ".csv", _write_premiere)


def _write_premiere(path: Path, vid: str, video: VideoTruth) -> None:
    rate = Rate.of_video(vid, video)
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    for segment in in_order(video.annotations):
        begin, end = rate.frame(segment.start), rate.frame(segment.end)
        writer.writerow([*_name_and_note(segment), *(rate.timecode(f, vid) for f in (begin, end, end - begin)),
                         "Comment"])
    write_text(path, table.getvalue())


def premiere_looks(path: Path, head: str) -> Kind | None:
    """The columns of Premiere's markers in the first line."""
    first = first_of(path, head, ".csv")[1].lstrip("\ufeff\ufffd").replace("\0", "").split("\n", 1)[0]
    return "truth" if [c.strip() for c in first.split("\t")][:4] == list(_COLUMNS[:4]) else None


FORMATS = (
    Format(
        name="resolve-edl",
        title="DaVinci Resolve timeline markers",
        source="Blackmagic Design, Timelines > Export > Timeline Markers to EDL",
        layout="text: a one-frame event a marker, then [note] |C:colour |M:name |D:frames",
        looks=resolve_looks, parse=resolve_parse, write=resolve_write, several=False,
        traps="Timelines begin at 01:00:00:00 unless changed; one marker a frame is kept; no scores.",
    ),
    Format(
        name="premiere-csv",
        title="Premiere Pro markers",
        source="Adobe, File > Export > Markers",
        layout="a table with tabs: Marker Name, Description, In, Out, Duration, Marker Type; timecodes",
        looks=premiere_looks, parse=premiere_parse, write=premiere_write, several=False,
        traps="It does not say its frames a second; the columns are read in English; no scores.",
    ),
)
