"""ActivityNet Captions: sentences about stretches of a video (Krishna et al., *Dense-Captioning Events in Videos*).

Truth, in seconds: ``train.json``, and two files that different people wrote for the same validation videos,
``val_1.json`` and ``val_2.json`` (2D-TAN calls them ``val.json`` and ``test.json``, BMT cuts them to the videos left):

    {"v_QOlSCBRmfWY": {"duration": 82.73, "timestamps": [[0.83, 19.86], …], "sentences": ["A young woman …", …]}}

Predictions of dense captioning, as the official evaluator reads them; ``proposal_score`` is optional:

    {"version": "VERSION 1.0", "external_data": {"used": false, "details": ""},
     "results": {"v_ecUypvzBAOQ": [{"sentence": "She then …", "timestamp": [51.26, 151.42], "proposal_score": 0.8}]}}

Rules: ids carry a ``v_`` in the file and none in memory, so that they meet ActivityNet's own; it is stripped on reading
(from a file whose ids all have one) and added on writing. Blanks around a sentence are dropped (most of the official
ones begin with one). A row that ends before it starts is dropped (the training file has two), and one without words.
Zero length and ends beyond the video are kept as written, as the official evaluator keeps them; 2D-TAN clips both ends
to the video and drops what is then empty, four rows of the training file. Two files of reference are read one by one.

A file holds no subset (it is what the file's name tells, as ``val_1.json`` does, else ``Reading.subset``), no rate, no
label, no id, and of truth no score. A predicted sentence is the segment's ``sentence``, as written, ``proposal_score``
its ``score``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cuemark.datasets.files import bare_ids
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import number, seconds, split_of
from cuemark.datasets.sentences import stamp, timed_sentences, words
from cuemark.errors import DataError
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, read_json, write_json


def parse(path: str | Path, reading: Reading | None = None) -> Truth:
    """Read a caption file: for each video its length and, in the order of the file, its captions.

    Args:
        reading: what to know beyond the file, and where to note what is dropped; None: the log hears of it.

    Raises:
        DataError: naming the file, the video and the position of what is wrong.
    """
    told = Reading() if reading is None else reading
    data = read_json(path, "caption", unique=True)
    if not isinstance(data, dict):
        raise DataError(f"'{path}' is not a caption file; expected an object with one entry per video.")
    ids, subset = bare_ids(data), split_of(Path(path), told.subset)
    truth: Truth = {}
    for name, entry in data.items():
        where = f"'{path}', video '{name}'"
        captions = [told.segment(start, end, at, sentence=sentence)
                    for at, start, end, sentence in timed_sentences(entry, where, told)]
        duration = seconds(entry.get("duration"), where, 'a "duration" in seconds')
        truth[ids[name]] = VideoTruth(duration, tuple(c for c in captions if c is not None), subset)
    if reading is None:
        told.report(path)
    return truth


def write(path: str | Path, truth: Truth) -> None:
    """Write a caption file in ActivityNet Captions' form.

    Raises:
        DataError: an annotation has no sentence.
    """
    data = {f"v_{vid}": {
        "duration": video.duration,
        "timestamps": [[s.start, s.end] for s in video.annotations],
        "sentences": [words(s, vid) for s in video.annotations],
    } for vid, video in truth.items()}
    write_json(path, data)


def parse_predictions(path: str | Path, reading: Reading | None = None) -> Predictions:
    """Read predicted captions in the order of the file: times in seconds, ``sentence``, ``score`` where one is told.

    Raises:
        DataError: naming the file, the video and the position of what is wrong.
    """
    told = Reading() if reading is None else reading
    data = read_json(path, "caption prediction", unique=True)
    if not isinstance(data, dict) or not isinstance(data.get("results"), dict):
        raise DataError(f"'{path}' has no \"results\" object; predicted captions are "
                        '{"results": {video: [{"sentence", "timestamp": [start, end]}]}}.')
    ids = bare_ids(data["results"])
    predictions: Predictions = {}
    for name, items in data["results"].items():
        if not isinstance(items, list):
            raise DataError(f"'{path}', video '{name}': expected a list of captions, got {str(items)[:60]}.")
        captions = (_predicted(item, f"'{path}', video '{name}', caption {i}", told) for i, item in enumerate(items))
        predictions[ids[name]] = [c for c in captions if c is not None]
    if reading is None:
        told.report(path)
    return predictions


def write_predictions(path: str | Path, predictions: Predictions, truth: Truth) -> None:
    """Write predicted captions as the official evaluator reads them (``truth`` is not needed for it).

    Raises:
        DataError: a prediction has no sentence.
    """
    results = {}
    for vid, segments in predictions.items():
        rows: list[dict[str, Any]] = []
        for i, s in enumerate(segments):
            if s.sentence is None:
                raise DataError(f"prediction {i} of video '{vid}' has no sentence, and predicted captions are "
                                "sentences; predict with a captioning model.")
            row: dict[str, Any] = {"sentence": s.sentence, "timestamp": [s.start, s.end]}
            rows.append(row if s.score is None else row | {"proposal_score": s.score})
        results[f"v_{vid}"] = rows
    write_json(path, {"version": "VERSION 1.0", "results": results, "external_data": {"used": False, "details": ""}})


def _predicted(item: Any, where: str, reading: Reading) -> Segment | None:
    if not isinstance(item, dict) or not isinstance(item.get("sentence"), str):
        raise DataError(f'{where}: expected an object with "sentence" and "timestamp", got {str(item)[:60]}.')
    start, end = stamp(item.get("timestamp"), where)
    score = item.get("proposal_score")
    score = None if score is None else number(score, where, 'a number as "proposal_score"')
    return reading.segment(start, end, where, sentence=item["sentence"], score=score)


def looks(path: Path, head: str) -> Kind | None:
    """Truth: an object of objects with the three keys. Predictions: ``results`` of objects with ``timestamp``."""
    if not re.match(r'\s*\{\s*"', head) or re.search(r'"(segment|num_frames|fps|database)"\s*:', head):
        return None
    if all(re.search(rf'"{key}"\s*:', head) for key in ("results", "timestamp", "sentence")):
        return "predictions"
    entry = re.match(r'\s*\{\s*"[^"]*"\s*:\s*\{', head)
    keys = ("duration", "timestamps", "sentences")
    return "truth" if entry and all(re.search(rf'"{key}"\s*:', head) for key in keys) else None


FORMAT = Format(
    name="activitynet-captions",
    title="ActivityNet Captions",
    source="Krishna et al., Dense-Captioning Events in Videos, ICCV 2017; predictions: its evaluator, densevid_eval",
    layout='JSON {"v_id": {"duration", "timestamps": [[start, end]], "sentences": [text]}}, seconds',
    looks=looks, parse=parse, write=write, parse_predictions=parse_predictions, write_predictions=write_predictions,
    traps="The validation videos have two files of references (val_1, val_2): dense captioning is scored against both, "
          "grounding usually against val_2 alone. Many published numbers are of the videos that could still be "
          "downloaded (4,483 of 4,917 of val_1): a missing video scores 0.",
)
