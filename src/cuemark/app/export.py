"""Chosen moments as one file to download, in any format that can be written."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cuemark.app.answers import Choice
from cuemark.conversion import convert
from cuemark.datasets import FORMATS
from cuemark.errors import CallError, unknown
from cuemark.segments import Truth, write_predictions, write_truth

ENDINGS = {
    "csv": "csv", "jsonl": "jsonl", "tsp": "csv", "thumos-gtad": "csv", "thumos-groundtruth": "csv",
    "epic-kitchens": "csv", "epic-kitchens-noun": "csv", "epic-kitchens-action": "csv", "kinetics": "csv",
    "premiere-csv": "csv", "thumos-detections": "txt", "charades-sta": "txt", "proposal-list": "txt",
    "qvhighlights": "jsonl", "cvat": "xml", "elan": "eaf", "boris": "boris", "audacity": "txt", "srt": "srt",
    "webvtt": "vtt", "otio": "otio", "edl": "edl", "resolve-edl": "edl", "fcpxml": "fcpxml"}
"""What files of a format are called; all others hold JSON, or are folders."""
FOLDERS = ("thumos", "frame-labels")
GROUPS = {
    "Tables": ("csv", "jsonl", "cuemark"),
    "Subtitles": ("srt", "webvtt"),
    "Editing": ("otio", "edl", "fcpxml", "resolve-edl", "premiere-csv", "audacity"),
    "Annotation": ("label-studio", "elan", "cvat", "via", "boris", "fiftyone"),
}
"""What people look for first; everything else is a benchmark's."""
TYPES = {"json": "application/json", "csv": "text/csv", "srt": "application/x-subrip", "vtt": "text/vtt",
         "zip": "application/zip", "xml": "application/xml"}


@dataclass(frozen=True)
class Export:
    """A file to download."""

    name: str
    type: str
    data: bytes


def choices() -> list[Choice]:
    """Every format that can be written: its name, title and group."""
    group = {name: title for title, names in GROUPS.items() for name in names}
    order = [*group, *(name for name in FORMATS if name not in group)]
    return [{"name": name, "title": FORMATS[name].title, "group": group.get(name, "Benchmarks")} for name in order
            if name in FORMATS and (FORMATS[name].write or FORMATS[name].write_predictions)]


def export(moments: Truth, format: str) -> Export:
    """Moments as a file; a ZIP where the format is a folder of files.

    Args:
        moments: each video's, with its length and, where it is known, its frames a second.

    Raises:
        CallError: no format has this name, or it cannot be written.
        DataError: it cannot hold this.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    form = FORMATS[format]
    if form.write is None and form.write_predictions is None:
        raise CallError(f"format {format} can only be read; choose another.")
    if not any(told.annotations for told in moments.values()):
        raise CallError("there is no moment to write; choose some.")
    with tempfile.TemporaryDirectory(prefix="cuemark-export-") as room:
        source = Path(room, "moments.json")
        if form.write is not None:
            write_truth(source, moments)
        else:
            scored = {vid: [s if s.score is not None else replace(s, score=1.0) for s in told.annotations]
                      for vid, told in moments.items()}
            write_predictions(source, scored)
            write_truth(Path(room, "about.json"), moments)
        many = format in FOLDERS or (not form.several and len(moments) > 1)
        ending = ENDINGS.get(format, "json")
        only = _safe(next(iter(moments))) if len(moments) == 1 else "moments"
        out = Path(room, "out") / (format if many else f"{only}.{ending}")
        about = None if form.write is not None else Path(room, "about.json")
        convert(source, out, format, from_="cuemark", truth=about)
        files = sorted(path for path in out.parent.rglob("*") if path.is_file())
        if len(files) == 1 and not many:
            ending = files[0].suffix.lstrip(".")
            return Export(files[0].name, TYPES.get(ending, "application/octet-stream"), files[0].read_bytes())
        return Export(f"moments-{format}.zip", TYPES["zip"], _zipped(files, out.parent))


def _zipped(files: Sequence[Path], base: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.writestr(str(path.relative_to(base)), path.read_bytes())
    return buffer.getvalue()


def _safe(name: str) -> str:
    """A name that any file system takes."""
    return re.sub(r"[^\w. -]+", "_", name).strip(". ")[:80] or "moments"
