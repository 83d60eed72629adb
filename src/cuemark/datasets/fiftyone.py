"""FiftyOne's temporal detections: ``labels.json`` of a ``FiftyOneTemporalDetectionDataset``.

::

    {"classes": ["pour", "stir"],
     "labels": {"kitchen_01": [{"label": "pour", "timestamps": [12.5, 18.25], "confidence": 0.91},
                               {"label": 1, "support": [301, 450]}],
                "kitchen_02": null}}

A key is the name of the video below the folder ``data`` beside the file, without its extension. ``timestamps`` are
seconds. ``support`` are frames, counted from 1, both ends included: seconds ``(first - 1) / fps`` to ``last / fps``;
FiftyOne's own exports write these, and the rate has to be said. Where both are there, ``support`` counts, as in
FiftyOne. A label that is a whole number is an index into ``classes``. ``attributes`` are not read.

The file, or the folder with ``labels.json`` in it, is read; a video without labels (``null`` or an empty list) has no
annotation. It tells neither lengths nor splits. A segment that ends before it starts is dropped and noted.

Writing gives ``timestamps``, so that nothing is rounded. Put the videos into ``data`` beside the file and load the
folder with ``fiftyone.Dataset.from_dir``. Not held: sentences, queries, ids, lengths, splits, rates. A segment without
a label is an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cuemark.datasets.files import head_of
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import number
from cuemark.datasets.timeline import frames_to_seconds
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth, labels_of, read_json, write_json


def looks(path: Path, head: str) -> Kind | None:
    """An object with ``labels``, and in them ``timestamps`` or ``support``; or a folder with such a ``labels.json``."""
    if path.is_dir():
        head = head_of(path / "labels.json")
    text = head.lstrip("\ufeff \t\r\n")
    if not re.match(r'\{\s*"(classes|labels)"\s*:', text) or not re.search(r'"labels"\s*:\s*\{', text):
        return None
    if not re.search(r'"(timestamps|support)"\s*:\s*\[\s*[-\d.]', text):
        return None
    return "predictions" if re.search(r'"confidence"\s*:\s*[-\d.]', text) else "truth"


def parse(path: Path, reading: Reading) -> Truth:
    """Read the labels; predictions are annotations with a score.

    Raises:
        DataError: naming the file, the video and what was expected there, or that the frame rate is not known.
    """
    if path.is_dir():
        path = path / "labels.json"
    data = read_json(path, "FiftyOne", unique=True)
    classes = data.get("classes") if isinstance(data, dict) else None
    videos = data.get("labels") if isinstance(data, dict) else None
    if not isinstance(videos, dict) or not (classes is None or isinstance(classes, list)):
        raise DataError(f"'{path}' is not a FiftyOne label file; expected an object with \"classes\" and \"labels\".")
    truth: Truth = {}
    for vid, items in videos.items():
        where = f"'{path}', video '{vid}'"
        if not isinstance(items, list | None):
            raise DataError(f"{where}: expected a list of labels, got {str(items)[:60]}.")
        segments = []
        for i, item in enumerate(items or []):
            segment = _segment(item, classes or [], f"{where}, label {i}", reading)
            if segment is not None:
                segments.append(segment)
        truth[vid] = VideoTruth(reading.length(vid, segments), tuple(segments), reading.subset)
    return truth


def _segment(item: Any, classes: list[Any], where: str, reading: Reading) -> Segment | None:
    if not isinstance(item, dict):
        raise DataError(f"{where}: expected an object, got {str(item)[:60]}.")
    label = item.get("label")
    if isinstance(label, int) and not isinstance(label, bool):
        if not 0 <= label < len(classes):
            raise DataError(f"{where}: label {label} is not among the {len(classes)} classes of the file.")
        label = classes[label]
    if not isinstance(label, str):
        raise DataError(f'{where}: "label" should be a name or the number of a class, got {str(label)[:60]}.')
    key = "support" if item.get("support") is not None else "timestamps"
    pair = item.get(key)
    if not isinstance(pair, list) or len(pair) != 2 or \
            not all(isinstance(t, (int, float)) and not isinstance(t, bool) for t in pair):
        raise DataError(f'{where}: expected "timestamps": [start, end] in seconds, or "support" in frames, '
                        f"got {str(pair)[:60]}.")
    score = item.get("confidence")
    if score is not None:
        score = number(score, where, '"confidence" to be a number')
    if key == "support":
        if pair[1] < pair[0]:
            reading.note(where, f"ends before it starts: frames {str(pair)[:60]}", "dropped")
            return None
        first, last = (number(frame, where, "the number of a frame") for frame in pair)
        start, end = frames_to_seconds(first, last, reading.rate(where))
    else:
        start, end = pair
    return reading.segment(start, end, where, label=label, score=score)


def write(path: Path, truth: Truth) -> None:
    """Write ``labels.json`` with times in seconds.

    Raises:
        DataError: a segment has no label.
    """
    labels: dict[str, list[dict[str, Any]]] = {}
    for vid, video in truth.items():
        labels[vid] = []
        for s in video.annotations:
            if s.label is None:
                raise DataError(f"video '{vid}' has an annotation without a label, which FiftyOne cannot hold; label "
                                "it or leave it out.")
            item: dict[str, Any] = {"label": s.label, "timestamps": [s.start, s.end]}
            if s.score is not None:
                item["confidence"] = s.score
            labels[vid].append(item)
    write_json(path, {"classes": labels_of(truth), "labels": labels})


FORMAT = Format(
    name="fiftyone",
    title="FiftyOne temporal detections",
    source="Voxel51, FiftyOne documentation, FiftyOneTemporalDetectionDataset",
    layout='{"classes", "labels": {video: [{"label", "timestamps": [start, end] in seconds or "support": '
           '[first, last] in frames from 1, "confidence"?}]}}',
    looks=looks, parse=parse, write=write,
    traps="FiftyOne exports frames by default; export with use_timestamps=True for seconds.",
)
