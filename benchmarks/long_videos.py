"""What a localizer finds in videos longer than any it was trained on: looked at whole, and piece by piece.

Method. Testing videos are joined end to end, as features: 1, 2, 4 … of them are one video, each of them in one video,
in ``--draws`` random orders. What the localizer finds in these is scored; a video of 1 is as it was. Each length is
asked twice: everything resampled to what the network sees at once (as the papers' code does), and piece by piece where
a video is longer than the longest of training (``cuemark.nn.spans.pieces``, what ``cuemark localize`` does). What sees
windows of any video is asked once. Seams between videos are changes of scene that no single video has, and no moment is
longer than those of training.

    python benchmarks/long_videos.py MODEL … --features FOLDER --truth FILE [--subset testing] [--joined 1 2 4 8]

Classes: average mAP. Sentences (each video's own, asked of the whole that it is in): recall of the first answer at
tIoU 0.5; others may mean the same moment elsewhere, so it falls with length for any. Prints a table, asserts nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from world_localizers import named

from cuemark.feature_folder import FeatureFolder
from cuemark.grid import Features
from cuemark.localizers.questions import questions_of, retrieves
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.metrics.detection import detection
from cuemark.metrics.grounding import grounding
from cuemark.nn.spans import Lengths
from cuemark.segments import Truth, VideoTruth, read_truth, subset
from cuemark.training import lengths_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--subset", default="testing")
    parser.add_argument("--joined", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    folder, truth = FeatureFolder.open(arguments.features), read_truth(arguments.truth)
    scored = {vid: video for vid, video in subset(truth, arguments.subset).items() if vid in folder}
    lengths = lengths_of({vid: video for vid, video in subset(truth, "training").items() if vid in folder}, folder)
    print(f"pieces of {lengths.piece:.1f} s, the longest video of training had {lengths.longest:.1f} s\n\n"
          f"| model | joined | seconds | looked at whole | in pieces |\n|---|---:|---:|---:|---:|")
    for path in arguments.models:
        model = TrainedLocalizer.load(path)
        for count in arguments.joined:
            scores: list[tuple[float, ...]] = []
            ways = (None, lengths) if model.network.config.span == "video" else (None,)
            for draw in range(arguments.draws):
                features, joined = join(folder, scored, count, draw)
                scores.append(tuple(score(model, features, joined, known) for known in ways))
            mean, spread = np.mean(scores, axis=0), np.std(scores, axis=0)
            seconds = np.mean([video.duration for video in joined.values()])
            print(f"| {path.parent.name} | {count} | {seconds:.0f} | " + " | ".join(
                f"{100 * m:.1f} ± {100 * s:.1f}" for m, s in zip(mean, spread, strict=True)) + " |", flush=True)


def join(folder: FeatureFolder, truth: Truth, count: int, draw: int) -> tuple[dict[str, Features], Truth]:
    """Videos of ``count`` videos each, in random order; what is left over is left out."""
    order = np.random.default_rng(draw).permutation(sorted(truth)).tolist()
    features: dict[str, Features] = {}
    joined: Truth = {}
    for first in range(0, len(order) - count + 1, count):
        parts = order[first:first + count]
        grid, name = folder[parts[0]].grid, " ".join(parts)
        annotations, begin = [], 0.0
        for vid in parts:
            annotations += [replace(s, start=s.start + begin, end=s.end + begin, id=None)
                            for s in truth[vid].annotations]
            begin += folder[vid].grid.count * grid.step
        data = np.concatenate([folder[vid].data for vid in parts])
        duration = folder[parts[0]].duration if count == 1 else begin + 2 * grid.start
        features[name] = Features(data, replace(grid, count=len(data)), duration)
        joined[name] = VideoTruth(duration, tuple(annotations))
    return features, joined


def score(model: TrainedLocalizer, features: dict[str, Features], truth: Truth, lengths: Lengths | None) -> float:
    model.lengths = lengths
    if retrieves(model.network):
        asked = {vid: [question for question, _ in questions_of(video.annotations)] for vid, video in truth.items()}
        return float(grounding(truth, model.predict(features, asked), tious=(0.5,)).recall[0, 0])
    found = model.predict(features, named(model.classes, truth) if model.network.asked == "text" else None)
    return detection(truth, found).average


if __name__ == "__main__":
    main()
