"""DETAD's truth: ActivityNet's layout, and with each annotation what it is like.

    {"taxonomy": [], "version": [], "database": {"video_test_0000896": {"subset": "testing", "annotations": [
        {"segment": [18.6, 24.8], "label": "HighJump", "length": 6.2, "coverage": 0.0273, "num-instances": 7,
         "context-size": null, "context-distance": null, "agreement": null, "all-segments": null}, …]}}}

``length`` is in seconds, ``coverage`` that length as a share of the video, ``num-instances`` the annotations of the
video, all labels together. What people annotated on ActivityNet alone, null elsewhere: ``context-size`` (how much of
what surrounds the action tells of it, 0 to 6), ``context-distance`` (how far away that is: 1 near, 2, 3 far; 0 for
none, which the paper calls Inf), ``agreement`` (of several people on the segment, 0 to 1) and ``all-segments`` (theirs;
not read).

The videos' lengths are not in the files: a video is as long as its first annotation that has both says, by
``length / coverage``, else as :attr:`Reading.durations` says, else as its last annotation. On writing, a ``duration``
stands beside ``subset``, which the official program passes over and this reader believes; the three characteristics
that follow from the segments are computed, the others are null.

Rules: a segment that ends before it starts is dropped and noted; times beyond the video and zero length are kept
(:mod:`cuemark.metrics.diagnosis` removes them, as the official program does). Scores, sentences, ids and rates cannot
be held. Splits get their official names, as in :mod:`cuemark.datasets.activitynet`; ids stay as they are.

Traps: read as ActivityNet's, such a file has videos that end with their last annotation, and so wrong coverages. The
file of THUMOS14's test split has 212 videos and 3,358 annotations, without Ambiguous; its subset is ``testing``, that
of the validation split ``validation``.

Source: Alwassel et al., *Diagnosing Error in Temporal Action Detectors*, ECCV 2018 (github.com/HumamAlwassel/DETAD).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import label_of, labelled, number, seconds, split
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth, read_json, write_json

CHARACTERISTICS = ("context-size", "context-distance", "agreement", "coverage", "length", "num-instances")
"""What an annotation is told to be like, each a number or null."""
_WHAT = "DETAD truth"


def parse(path: Path, reading: Reading) -> Truth:
    """Read the annotations, without what they are like.

    Raises:
        DataError: the file or an annotation is malformed.
    """
    truth: Truth = {}
    for vid, entry, where, rows in _videos(path, reading):
        told = entry.get("duration")
        known = next((x for _, row in rows if (x := _length_of_video(row)) is not None), None)
        if told is not None:
            duration = seconds(told, where, '"duration" in seconds')
        else:
            duration = known if known is not None else reading.length(vid, [s for s, _ in rows])
        truth[vid] = VideoTruth(duration, tuple(s for s, _ in rows), split(str(entry.get("subset") or reading.subset)))
    return truth


def characteristics(path: str | Path) -> dict[tuple[str, int], dict[str, float]]:
    """Read what the annotations are like: (video id, number of the annotation as :func:`parse` counts) -> values.

    Nulls are left out. This is what :func:`cuemark.metrics.diagnosis.diagnose` takes.

    Raises:
        DataError: as :func:`parse`, or no annotation has any.
    """
    found = {(vid, i): row for vid, _, _, rows in _videos(Path(path), Reading()) for i, (_, row) in enumerate(rows)}
    if not any(found.values()):
        raise DataError(f"'{path}' tells nothing of what its annotations are like (\"{CHARACTERISTICS[0]}\" …); name "
                        "one of DETAD's extra_characteristics.json files.")
    return found


def _videos(path: Path, reading: Reading
            ) -> Iterator[tuple[str, dict[str, Any], str, list[tuple[Segment, dict[str, float]]]]]:
    """Of each video its id, entry, place, and the segments that are kept with what they are like."""
    data = read_json(path, _WHAT, unique=True)
    database = data.get("database") if isinstance(data, dict) else None
    if not isinstance(database, dict):
        raise DataError(f"'{path}' has no \"database\" object; a {_WHAT} file is "
                        '{"database": {video: {"subset", "annotations"}}}.')
    for vid, entry in database.items():
        where = f"'{path}', video '{vid}'"
        if not isinstance(entry, dict) or not isinstance(entry.get("annotations"), list):
            raise DataError(f'{where}: expected an object with "subset" and a list of "annotations".')
        rows = []
        for i, item in enumerate(entry["annotations"]):
            at = f"{where}, annotation {i}"
            start, end, label = labelled(item, at)
            values = {key: _value(item[key], at, key) for key in CHARACTERISTICS if item.get(key) is not None}
            segment = reading.segment(start, end, at, label=label)
            if segment is not None:
                rows.append((segment, values))
        yield vid, entry, where, rows


def _length_of_video(row: dict[str, float]) -> float | None:
    length, coverage = row.get("length", 0.0), row.get("coverage", 0.0)
    whole = length / coverage if length > 0 and coverage > 0 else math.inf
    return whole if math.isfinite(whole) else None


def _value(value: Any, where: str, key: str) -> float:
    if not isinstance(value, int | float):
        raise DataError(f"{where}: expected a number or null as \"{key}\", got {str(value)[:40]!r}.")
    return number(value, where, f'a number or null as "{key}"')


def write(path: Path, truth: Truth) -> None:
    """Write truth that DETAD's program reads.

    Raises:
        DataError: an annotation has no label, or lies in a video of no length.
    """
    database = {}
    for vid, video in truth.items():
        if video.annotations and not video.duration > 0:
            raise DataError(f"video '{vid}' has no length, and DETAD's files tell how much of it an annotation covers; "
                            "give its duration.")
        database[vid] = {"subset": video.subset, "duration": video.duration, "annotations": [
            {"segment": [s.start, s.end], "label": label_of(s.label, vid, "DETAD's files"), "length": s.duration,
             "coverage": s.duration / video.duration, "num-instances": len(video.annotations), "context-size": None,
             "context-distance": None, "agreement": None, "all-segments": None} for s in video.annotations]}
    write_json(path, {"version": [], "taxonomy": [], "database": database})


def looks(path: Path, head: str) -> Kind | None:
    """ActivityNet's ``database``, and keys that only DETAD has."""
    start = head.removeprefix("\ufeff").lstrip().startswith("{")
    keys = ('"database"', '"num-instances"', '"context-size"', '"coverage"')
    return "truth" if start and all(key in head for key in keys) else None


FORMAT = Format(
    name="detad",
    title="DETAD's truth with characteristics",
    source="Alwassel et al., Diagnosing Error in Temporal Action Detectors, ECCV 2018; github.com/HumamAlwassel/DETAD",
    layout='JSON {"database": {video: {"subset", "annotations": [{"segment", "label", "length", "coverage", '
           '"num-instances", "context-size", "context-distance", "agreement"}]}}}; seconds',
    looks=looks, parse=parse, write=write,
    traps="Lengths of videos are in length / coverage alone; read as ActivityNet's, they end with the last annotation.",
)
