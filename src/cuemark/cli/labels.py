"""Annotation files: convert, check."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cuemark.cli.shell import Fps_, From_, Json_, Videos_, app, examples, screen, tabulated
from cuemark.errors import CallError

if TYPE_CHECKING:
    from cuemark.conversion import Annotations


@app.command(help_epilogue=examples(
    "cuemark convert thumos_gt.json --to csv --out thumos.csv",
    "cuemark convert project-12.json --from label-studio --fps 25 --to cuemark --out truth.json",
    "cuemark convert predictions.json --to srt --out subtitles/",
))
def convert(file: Path, *, to: str, out: Path, from_: From_ = None, fps: Fps_ = None, videos: Videos_ = None,
            truth: Path | None = None, meta: Path | None = None, subset: str = "training") -> None:
    """Annotations or predictions from one format to another.

    Parameters
    ----------
    file
        What to convert: a file, or a folder of them.
    to
        The format to write, such as csv, cuemark, label-studio, srt; a name that is none is answered with all.
    out
        The file, or for formats of one video the folder, to write.
    truth
        Of predictions: truth of their videos, for lengths, rates and queries.
    meta
        The file beside it that some formats need (lengths, label names), where it is not where its authors put it.
    subset
        The split of videos whose file names none.
    """
    from cuemark import conversion
    from cuemark.datasets.format import Reading

    read = conversion.convert(file, out, to, from_=from_, videos=videos, fps=fps, truth=truth,
                               reading=Reading(fps=fps, meta=meta, subset=subset))
    _said(read, file)
    rows = [len(v.annotations) for v in read.truth.values()] if read.truth is not None else [
        len(row) for row in (read.predictions or {}).values()]
    print(f"{sum(rows)} segments of {len(rows)} videos in {out}")


def _said(read: Annotations, file: Path) -> None:
    """Which format was guessed, and what was dropped or clipped."""
    if read.guessed:
        print(f"'{file}' looks like {read.format.name} ({read.format.title}); --from names another format",
              file=sys.stderr)
    for line in read.losses(file):
        print(line, file=sys.stderr)


@app.command(help_epilogue=examples(
    "cuemark check truth.json",
    "cuemark check charades_sta_train.txt --videos Charades_v1 --json",
))
def check(file: Path, *, from_: From_ = None, videos: Videos_ = None, classes: Path | None = None, fps: Fps_ = None,
          meta: Path | None = None, show: int = 20, json: Json_ = None) -> int:
    """What is wrong in an annotation file, and what is in it. Status 1 when something is wrong.

    Parameters
    ----------
    classes
        The labels there may be: one a line, or a JSON list.
    meta
        The file beside it that some formats need.
    show
        Show this many findings of a kind.
    """
    if show < 0:
        raise CallError(f"--show must be 0 or more, got {show}.")
    from cuemark import conversion
    from cuemark.datasets.format import Reading
    from cuemark.datasets.splits import read_classes
    from cuemark.segments import write_json

    labels = read_classes(classes) if classes is not None else None
    report = conversion.check(file, from_, videos=videos, labels=labels, reading=Reading(fps=fps, meta=meta))
    if json == "-":
        print(jsonlib.dumps(report.to_json()))
        return 1 if report.findings else 0
    if json is not None:
        write_json(json, report.to_json())
    _said(report.read, file)
    console = screen()
    for title, columns, rows in report.tables(show):
        console.print(tabulated(columns, rows, title))
    print(f"{len(report.findings)} findings" if report.findings else "nothing is wrong")
    return 1 if report.findings else 0
