"""UnLoc from frames on the built-in world: is an image tower better tuned or frozen, and what is pre-training worth?

Method. ``benchmarks/world_pretraining.py OUT`` has drawn a world for each seed. A small CLIP with random weights
(vision: patches of 8, 48 wide, three layers) gives the image tower, MiniLM reads names; no weight of others is used:

- pre-trained as the paper describes it (a sigmoid for each class, image tower tuned, text frozen) on the world's
  trimmed clips, or not;
- then localization on untrimmed videos from their frames, with the tower tuned, or frozen.

Scored: average mAP and mAP at tIoU 0.5 on testing videos, asked for all trained classes by name; floor: the stretches
that are commonest in training. One frame tells no motion, so all that tells classes apart is where things are in
several frames.

    python benchmarks/world_towers.py OUT [--seeds 0 1 2] [--steps 1200 240]

Prints a table, asserts nothing; OUT/seed<n>/towers/<row>/scores.json holds what is done. About 35 minutes a seed on one
core.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel
from world_localizers import named

from cuemark import floors
from cuemark.localizers.frames import Footage
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.metrics.detection import detection
from cuemark.recipe import load_recipe
from cuemark.segments import Truth, read_json, read_truth, subset, write_json
from cuemark.training import LOCALIZER_FILE, train
from cuemark.video import find_videos

ROWS = {"scratch, frozen": (False, True), "scratch, tuned": (False, False),
        "pre-trained, frozen": (True, True), "pre-trained, tuned": (True, False)}
"""Name -> (begins with the pre-trained one, image tower frozen)."""
LOOKS = {"options.frames": 64, "towers.pooling": "frame", "towers.fps": 15.0, "towers.augment": "none"}
CLASSIFIES = {"options.task": "classify", "options.frames": 16, "options.pyramid": "none", "options.head_layers": 0,
              "options.class_bias": -2.0, "data.train": ["trimmed"], "data.validate": [], "optim.batch": 64,
              "optim.lr": 2e-3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs=2, default=[1200, 240], help="of pre-training, of localization")
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ROWS}
    for seed in arguments.seeds:
        out = arguments.out / f"seed{seed}"
        for name in ROWS:
            path = out / "towers" / name.replace(", ", "_") / "scores.json"
            if not path.exists():
                write_json(path, measure(out, name, seed, arguments.steps))
            rows[name].append(read_json(path, "scores"))
            print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.4g}" for k, v in rows[name][-1].items()), flush=True)
    keys = list(next(iter(rows.values()))[0])
    print(f"\n| {len(arguments.seeds)} seed(s) | " + " | ".join(keys) + " |\n|---|" + "---:|" * len(keys))
    for name, found in rows.items():
        values = np.array([[row[key] for key in keys] for row in found])
        print(f"| {name} | " + " | ".join(f"{m:.1f} ± {s:.1f}" for m, s in zip(
            values.mean(0), values.std(0, ddof=len(values) > 1), strict=True)) + " |")


def measure(out: Path, name: str, seed: int, steps: list[int]) -> dict[str, float]:
    folder, (begins, frozen) = out / "towers", ROWS[name]
    truth = read_truth(out / "world" / "truth.json")
    clip = made_clip(folder / "clip", seed)
    common = {"data.truth": str(out / "world" / "truth.json"), "data.videos": str(out / "world" / "videos"),
              "encoder.start": str(clip), "seed": seed, "optim.steps": steps[1]} | LOOKS
    seconds = {"pre-training, s": 0.0}
    if begins:
        seconds["pre-training, s"] = learnt(folder / "pre-trained", common | CLASSIFIES | {"optim.steps": steps[0]})
        common["start"] = str(folder / "pre-trained" / LOCALIZER_FILE)
    run = folder / name.replace(", ", "_")
    seconds["training, s"] = learnt(run, common | {"options.freeze_image": frozen})
    model, scored = TrainedLocalizer.load(run / LOCALIZER_FILE), subset(truth, "testing")
    score, floor = detection(scored, answers(model, scored, out)), detection(
        scored, floors.blind(subset(truth, "training"), scored))
    return {"average mAP": 100 * score.average, "mAP@0.5": 100 * float(score.map[0]),
            "floor": 100 * floor.average, "floor@0.5": 100 * float(floor.map[0])} | seconds


def answers(model: TrainedLocalizer, scored: Truth, out: Path) -> Any:
    assert model.clip is not None
    footage = Footage(find_videos(out / "world" / "videos", scored), model.clip)
    return model.predict(footage.clocks(), named(model.classes, scored), footage=footage)


def learnt(folder: Path, changes: dict[str, Any]) -> float:
    told = folder / "seconds.json"
    if not told.exists():
        began = time.perf_counter()
        recipe = load_recipe("world_unloc", [f"{name}={json.dumps(value)}" for name, value in changes.items()])
        train(replace(recipe, data=replace(recipe.data, features=None)), folder)
        write_json(told, time.perf_counter() - began)
    return float(read_json(told, "seconds"))


def made_clip(folder: Path, seed: int) -> Path:
    """A CLIP's folder with random weights."""
    if not (folder / "config.json").exists():
        torch.manual_seed(seed)
        vision = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
                  "image_size": 32, "patch_size": 8}
        text = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=48)).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
