"""Predictions and truth to scores, with the floor beside them: what a predictor that never looks would get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuemark.errors import unknown
from cuemark.extraction import FeatureFolder
from cuemark.metrics.detection import DetectionScore, detection
from cuemark.report import Run, write_report
from cuemark.segments import Predictions, Segment, Truth, labels_of, read_predictions, read_truth, subset, times, tiou
from cuemark.video import find_videos


@dataclass(frozen=True)
class Evaluation:
    """A score and its floor."""

    score: DetectionScore
    floor: DetectionScore | None
    """Of :func:`blind`; None where the truth has no training videos to learn it from."""
    missing: tuple[str, ...]
    """Videos of the truth without any prediction; their instances count as missed."""

    def to_json(self) -> dict[str, Any]:
        return {"task": "detection", **_json(self.score), "missing_videos": list(self.missing),
                "floor": _json(self.floor) if self.floor else None}


def _json(score: DetectionScore) -> dict[str, Any]:
    return {"average_mAP": score.average,
            "mAP": {f"{t:.2f}": float(m) for t, m in zip(score.tious, score.map, strict=True)}}


def evaluate_detection(truth: str | Path | Truth, predictions: str | Path | Predictions,
                       subsets: tuple[str, ...] | None = None, training: tuple[str, ...] = ("training",)) -> Evaluation:
    """ActivityNet mAP of predictions, from files or from what they hold.

    Args:
        subsets: which splits of the truth are scored; None: those that have predictions and are not ``training``,
            or all if no other is there.
        training: splits that the floor learns from.

    Raises:
        DataError: a file is malformed, or no video of these splits is in the truth.
    """
    everything = truth if isinstance(truth, dict) else read_truth(truth)
    found = predictions if isinstance(predictions, dict) else read_predictions(predictions)
    scored, learn = _split(everything, found, subsets, training)
    floor = detection(scored, blind(learn, scored)) if learn else None
    missing = tuple(vid for vid in scored if vid not in found)
    # the official evaluator counts what is predicted in other videos as false; here they are other splits' answers
    kept = {vid: s for vid, s in found.items() if vid in scored or vid not in everything}
    return Evaluation(detection(scored, kept), floor, missing)


def _split(truth: Truth, found: Predictions, subsets: tuple[str, ...] | None, training: tuple[str, ...]
           ) -> tuple[Truth, Truth]:
    """The videos that are scored, and the annotated training videos that the floor learns from."""
    if subsets is None:
        present = {truth[v].subset for v in found if v in truth} - set(training)
        subsets = tuple(sorted(present)) or tuple(sorted({v.subset for v in truth.values()}))
    scored = subset(truth, *subsets)
    learn = {vid: v for vid, v in truth.items() if v.subset in training and vid not in scored and labels_of({vid: v})}
    return scored, learn


def blind(training: Truth, videos: Truth, count: int = 100, cells: int = 20) -> Predictions:
    """What a predictor says that never looks: the same stretches of every video, by how common they were in training.

    Candidates are all spans between ``cells`` + 1 equal marks of a video, for each class. Each is scored by the number
    of training instances of the class that it would match at tIoU 0.5, relative to their videos' lengths; the best
    ``count`` are said of every video. It learns from training truth only.
    """
    instances, owners = [], []
    names = labels_of(training)
    for video in training.values():
        for s in video.annotations:
            if s.label is not None and video.duration > 0:
                instances.append(Segment(s.start / video.duration, s.end / video.duration))
                owners.append(names.index(s.label))
    if not instances:
        return {vid: [] for vid in videos}
    marks = np.linspace(0, 1, cells + 1)
    spans = np.array([(a, b) for i, a in enumerate(marks) for b in marks[i + 1:]])
    hits = tiou(spans, times(instances)) >= 0.5
    votes = np.stack([hits[:, np.array(owners) == k].sum(1) for k in range(len(names))], axis=1)
    best = np.argsort(-votes, axis=None, kind="stable")[:count]
    said = [(spans[i // len(names)], names[i % len(names)], votes.flat[i] / len(instances)) for i in best]
    return {vid: [Segment(float(a * v.duration), float(b * v.duration), name, float(score))
                  for (a, b), name, score in said if score > 0] for vid, v in videos.items()}


def report_files(truth: str | Path, predictions: Mapping[str, str | Path], out: str | Path,
                 videos: str | Path | None = None, subsets: tuple[str, ...] | None = None,
                 features: Mapping[str, str | Path] | None = None, show: int = 4) -> None:
    """Prediction files against a truth file as one HTML page, with the floor as a run of its own.

    Args:
        predictions: name of a run -> its file.
        videos: folder of the videos, for thumbnails.
        subsets: see :func:`evaluate_detection`; by default those that any run has predictions for.
        features: name of a run -> its features folder.

    Raises:
        DataError: a file is malformed, or no video of these splits is in the truth.
        CallError: features are named for a run that is not there.
    """
    everything = read_truth(truth)
    found = {name: read_predictions(path) for name, path in predictions.items()}
    folders = {name: FeatureFolder.open(path) for name, path in (features or {}).items()}
    for name in folders:
        if name not in found:
            raise unknown("run among --features", name, found)
    merged: Predictions = {vid: [] for run in found.values() for vid in run}
    scored, learn = _split(everything, merged, subsets, ("training",))
    runs = [Run(name, {v: s for v, s in run.items() if v in scored or v not in everything}, features=folders.get(name))
            for name, run in found.items()]
    if learn:
        runs.append(Run("never looks", blind(learn, scored), floor=True,
                        note="the most common stretches and classes of training"))
    files = find_videos(videos, scored) if videos is not None else {}
    write_report(out, scored, runs, videos=files, show=show)
