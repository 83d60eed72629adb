"""UnLoc from frames on the built-in world: is an image tower better tuned or frozen, and what is pre-training worth?

Method: table 4 of UnLoc's paper for action segmentation, small: the recipes world_unloc_clips and world_unloc_frames.
The image tower begins with random weights (patches of 8, 48 wide, three layers, the mean of patches); MiniLM reads
names, and stays as it is. For each seed:

- a world is drawn that is easier than the usual one (WorldConfig.easy), for a transformer of single frames learns
  little else in minutes.
- pre-training as the paper describes it (a sigmoid for each class, image tower tuned, text frozen) on 3,000 trimmed
  clips. One frame tells no motion: the tower has to say where things are and how they look, and fusion what that means
  in a row. Scored: how often the likeliest class is right on 600 clips of another world; floor: the commonest class.
- then segmentation of untrimmed videos from their frames, in windows at the rate of the clips, with the image tower
  frozen or tuned, and once from the random weights. Fusion is trained in all; validation videos choose the weights.

Scored on testing videos: the share of frames labelled right, 10 a second, their mAP, and F1 at tIoU 0.5; floor: nothing
happens.

    python benchmarks/world_towers.py OUT [--seeds 0 1 2] [--rows …] [--set name=value …] [--quick]

Prints a table, asserts nothing; OUT/seed<n>/towers/<row>/scores.json holds what is done, and several processes may
share the seeds (with OMP_NUM_THREADS=1). Three quarters of an hour a seed on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from world_localizers import named, table
from world_pretraining import folder_of

from cuemark import folders
from cuemark.datasets.world import WorldConfig, make
from cuemark.errors import CuemarkError
from cuemark.extraction import ExtractConfig, features_of
from cuemark.localizers.questions import Question
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.metrics.frames import frames
from cuemark.recipe import load_recipe
from cuemark.segments import Predictions, Truth, read_json, read_truth, subset, write_json
from cuemark.training import LOCALIZER_FILE, train
from cuemark.video import find_videos

ROWS = {"pre-trained, frozen": (True, True), "pre-trained, tuned": (True, False), "scratch, tuned": (False, False)}
"""Name -> (begins with the pre-trained one, image tower frozen)."""
VIDEOS = {"trimmed": 3000, "training": 400, "validation": 32, "testing": 96, "novel": 0}
FRESH = {"trimmed": 600, "training": 0, "validation": 0, "testing": 0, "novel": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--set", action="append", default=[], help="change of every recipe")
    parser.add_argument("--quick", action="store_true", help="a tiny world and a few updates, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.set = [*arguments.set, "optim.steps=4", "validate_every=2"]
    left = [(name, seed) for seed in arguments.seeds for name in arguments.rows]
    while left:
        for name, seed in list(left):
            if one(arguments.out / f"seed{seed}", name, seed, arguments):
                left.remove((name, seed))
        time.sleep(5 if left else 0)  # another process has the rest
    rows = {name: [read_json(folder_of(arguments.out / f"seed{seed}" / "towers", name) / "scores.json", "scores")
                   for seed in arguments.seeds] for name in arguments.rows}
    table(rows, list(dict.fromkeys(key for runs in rows.values() for key in runs[0])))


def one(out: Path, name: str, seed: int, arguments: argparse.Namespace) -> bool:
    """Whether this row of this seed is done now; False: somebody else is at work on this seed."""
    path = folder_of(out / "towers", name) / "scores.json"
    if path.exists():
        return True
    try:
        with folders.locked(out / "towers"):
            if not path.exists():
                scores = measure(out, name, seed, arguments)
                write_json(path, scores)
                print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.4g}" for k, v in scores.items()), flush=True)
    except CuemarkError as error:
        if "another run" not in str(error):
            raise
        return False
    return True


def drawn(out: Path, seed: int, videos: dict[str, Any], quick: bool) -> Path:
    if quick:
        videos = {name: min(n, 24) for name, n in videos.items()}
    make(WorldConfig.easy(seed=seed, **videos), out, workers=1)
    return out


def measure(out: Path, name: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    begins, frozen = ROWS[name]
    world = drawn(out / "world of clips", 2000 + seed, VIDEOS, arguments.quick)
    changes = {"data.truth": str(world / "truth.json"), "data.videos": str(world / "videos"), "seed": seed}
    scores: dict[str, float] = {}
    if begins:
        before = out / "towers" / "pre-trained"
        scores["pre-training, s"] = learnt(before, "world_unloc_clips", changes, arguments.set)
        if not (before / "scores.json").exists():
            fresh = drawn(out / "world of fresh clips", 3000 + seed, FRESH, arguments.quick)
            write_json(before / "scores.json", recognized(before, read_truth(world / "truth.json"), fresh))
        scores |= read_json(before / "scores.json", "scores")
        changes["start"] = str(before / LOCALIZER_FILE)
    run = folder_of(out / "towers", name)
    changes["options.freeze_image"] = frozen
    scores["training, s"] = learnt(run, "world_unloc_frames", changes, arguments.set)
    truth, model = read_truth(world / "truth.json"), TrainedLocalizer.load(run / LOCALIZER_FILE)
    scored = subset(truth, "testing")
    for key, found in (("{}", answers(model, world, named(model.classes, scored), scored)),
                       ("{}, floor", {vid: [] for vid in scored})):
        figures = frames(scored, found, 10.0).figures()
        scores |= {key.format(figure): figures[figure] for figure in ("accuracy", "frame mAP", "F1@50")}
    return scores


def recognized(run: Path, learnt_from: Truth, fresh: Path) -> dict[str, float]:
    """How often the likeliest class of a clip is right."""
    truth, model = read_truth(fresh / "truth.json"), TrainedLocalizer.load(run / LOCALIZER_FILE)
    found = answers(model, fresh, named(model.classes, truth), truth)
    label = {vid: video.annotations[0].label for vid, video in truth.items()}
    common = Counter(v.annotations[0].label for v in subset(learnt_from, "trimmed").values()).most_common(1)[0][0]
    best = {vid: max(segments, key=lambda s: s.score or 0.0).label for vid, segments in found.items()}
    return {"clips": 100 * float(np.mean([best[vid] == label[vid] for vid in truth])),
            "clips, floor": 100 * float(np.mean([common == label[vid] for vid in truth]))}


def answers(model: TrainedLocalizer, world: Path, asked: dict[str, list[Question]], truth: Truth) -> Predictions:
    assert model.encoder is not None
    videos, looks = find_videos(world / "videos", truth), ExtractConfig.of(model.features)
    seen = {vid: features_of(path, model.encoder, looks)[0] for vid, path in videos.items()}
    return model.predict(seen, asked)


def learnt(folder: Path, name: str, changes: dict[str, Any], said: list[str]) -> float:
    told = folder / "seconds.json"
    if not told.exists():
        began = time.perf_counter()
        train(load_recipe(name, [*(f"{key}={json.dumps(value)}" for key, value in changes.items()), *said]), folder)
        write_json(told, time.perf_counter() - began)
    return float(read_json(told, "seconds"))


if __name__ == "__main__":
    main()
