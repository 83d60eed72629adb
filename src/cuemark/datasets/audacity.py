"""Audacity's label track, as exported to a text file: one label a line, times in seconds, tabs between.

::

    12.500000	18.250000	pour
    30.000000	30.000000	doorbell
    \\	-1.000000	6334.588867

A label with equal times is a point and is kept as a segment of zero length. A line that begins with a backslash is the
frequency range of the label above it, which Audacity's extended format adds; it is skipped. The third column may be
missing or empty (a label without text). Old Audacity (1.2) wrote ``start<tab>text``, a point; a second column that is
no number is read so. A comma in a time is a decimal comma.

Rules: one file holds one video and is called as it; the text is the label. A line that ends before it starts is dropped
and noted. The file tells neither length nor split.

Writing rounds to 6 digits as Audacity does. A segment gives its label, or where it has none its sentence or its query.
Not held: scores, sentences beside labels, ids, lengths, splits, rates; a tab or a line break in the text becomes a
blank.
"""

from __future__ import annotations

import re
from pathlib import Path

from cuemark.datasets.files import first_of, parse_each, write_each
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import read_text, split_lines, write_text
from cuemark.errors import DataError
from cuemark.segments import Truth, VideoTruth

_TIME = re.compile(r"-?\d+([.,]\d+)?", re.ASCII)


def looks(path: Path, head: str) -> Kind | None:
    """A ``.txt`` whose every line is start, tab, end, and somewhere a third column that is no number, or a folder."""
    path, head = first_of(path, head, ".txt")
    lines = [line for line in head.lstrip("\ufeff").split("\n") if line.strip() and not line.startswith("\\")]
    if path.suffix.lower() != ".txt" or not lines:
        return None
    if len(head) >= 1 << 16:
        lines = lines[:-1]  # the last one may be cut
    cells = [line.rstrip("\r").split("\t") for line in lines]
    if any(len(c) not in (2, 3) or not _TIME.fullmatch(c[0]) or not _TIME.fullmatch(c[1]) for c in cells):
        return None
    return "truth" if any(len(c) == 3 and c[2].strip() and not _TIME.fullmatch(c[2]) for c in cells) else None


def parse(path: Path, reading: Reading) -> Truth:
    """Read a label file, or every ``.txt`` of a folder.

    Raises:
        DataError: naming the file, the line and what was expected there.
    """
    return parse_each(path, reading, ".txt", _parse_one)


def _parse_one(path: Path, reading: Reading) -> VideoTruth:
    segments = []
    for number, line in enumerate(split_lines(read_text(path, "label")), 1):
        if not line.strip() or line.startswith("\\"):
            continue
        where = f"'{path}', line {number}"
        start, tab, rest = line.partition("\t")
        end, _, text = rest.partition("\t")
        if not tab or not _TIME.fullmatch(start.strip()):
            raise DataError(f"{where}: expected start, tab, end, tab, label with times in seconds, got {line[:60]!r}.")
        if not _TIME.fullmatch(end.strip()):
            if text:
                raise DataError(f"{where}: the end should be a number of seconds, got {end[:40]!r}.")
            end, text = start, end
        segment = reading.segment(start.replace(",", "."), end.replace(",", "."), where, label=text.strip() or None)
        if segment is not None:
            segments.append(segment)
    return VideoTruth(reading.length(path.stem, segments), tuple(segments), reading.subset)


def write(path: Path, truth: Truth) -> None:
    """Write one label file for one video (a path that ends in ``.txt``), else a folder of them."""
    write_each(path, truth, ".txt", _write_one)


def _write_one(path: Path, vid: str, video: VideoTruth) -> None:
    lines = []
    for s in video.annotations:
        text = re.sub(r"[\t\r\n]+", " ", s.label or s.sentence or s.query or "")
        lines.append(f"{s.start:.6f}\t{s.end:.6f}\t{text}\n")
    write_text(path, "".join(lines))


FORMAT = Format(
    name="audacity",
    title="Audacity labels",
    source="Audacity manual, Importing and Exporting Labels",
    layout="start, tab, end, tab, label a line; seconds",
    looks=looks, parse=parse, write=write, several=False,
    traps="Lines that begin with a backslash are frequency ranges, not labels.",
)
