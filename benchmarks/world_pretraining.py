"""What each pre-training is worth on the built-in world: the comparison of TSP Table 1 and CLAP Table 1, over seeds.

Method. For each seed a world of its own is drawn (training, validation, testing: same classes, other videos; novel:
classes that occur nowhere else). One small encoder is trained by TAC on trimmed clips. From it, with the same number of
updates, start: TAC on the untrimmed videos' foreground, TSP, TSP without the global feature, and CLAP with its
variants. Each encoder's features train a G-TAD with the same recipe and seed; weights of the localizers are chosen on
validation videos, scores are of testing videos. The floor never looks at a video.

What only language gives is measured beside it, with CLAP's two projections: clip to sentence (which of the sentences
that differ in one attribute belongs to the clip in the middle of an instance), on trained combinations, on held-out
ones and on novel classes, against chance; and text to moment (R@1 at tIoU 0.5 and 0.3): an instance's own sentence is
compared with every clip of its video, and the stretch with the largest sum of similarity above the midpoint of the
video's mean and maximum is the answer; its floor is the one stretch that matches most training instances.

Rows beyond the papers are compared with CLAP by the accuracies of the heads and by language alone, without a localizer.

Beside them stands what the features know (``cuemark analyze``: contrast of Figure 2a, probes, retrieval), fitted on
training videos and measured on testing videos, and the accuracies of the heads on validation videos.

    python benchmarks/world_pretraining.py OUT [--seeds 0 1 2] [--rows …] [--quick]

Row by row, and for each row seed by seed, the most important first; OUT/seed<n>/<row>/scores.json holds what is done. A
run that was stopped goes on, and several processes may share the work (on few cores, one for each with
OMP_NUM_THREADS=1 is twice as fast as one on all). Prints tables. Asserts nothing. About four minutes a row and seed on
one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from cuemark import folders, video
from cuemark.analysis import analyse
from cuemark.batch import normalised
from cuemark.clips import cut
from cuemark.datasets import world
from cuemark.encoders.video_encoder import VideoEncoder, encode
from cuemark.errors import CuemarkError
from cuemark.extraction import ExtractConfig, extract
from cuemark.feature_folder import FeatureFolder
from cuemark.floors import blind
from cuemark.localization import load, localize_features
from cuemark.localizers.classify import projections
from cuemark.metrics.detection import detection
from cuemark.recipe import load_recipe
from cuemark.segments import Truth, read_json, subset, times, tiou, write_json
from cuemark.text import TextEncoder
from cuemark.training import ENCODER_FILE, LOCALIZER_FILE, pretrain, train

VIDEOS = {"trimmed": 600, "training": 160, "validation": 32, "testing": 64, "novel": 16}
QUICK = {"trimmed": 40, "training": 24, "validation": 8, "testing": 16, "novel": 8}
STRIDE = 8
FIRST = "TAC, trimmed"
ENCODERS: dict[str, tuple[str, list[str]]] = {
    FIRST: ("tac", []),
    "TSP": ("tsp", []),
    "CLAP": ("clap", []),
    "TAC, untrimmed": ("tac", ['data.train=["training"]', "optim.lr=2e-3", "optim.lr_heads=2e-3", "optim.steps=220",
                                "encoder.sampling.short=centre"]),
    "TSP without GVF": ("tsp", ["options.global_feature=none"]),
    "CLAP (mask)": ("clap", ["options.captions=false"]),
    "CLAP (clip)": ("clap", ["options.mask=false", "options.captions=false"]),
    "TSP, region head alone": ("tsp", ["options.weight_class=0"]),
    "CLAP no-cls": ("clap", ["options.classify=false", "options.weight_contrast=1"]),
}
"""Row -> (system, changes of its world recipe): the papers'."""
BEYOND: dict[str, tuple[str, list[str]]] = {
    "CLAP + motion target": ("clap", ["options.weight_motion=0.3"]),
    "CLAP + pairwise sigmoid": ("clap", ["options.pairwise=true"]),
    "CLAP + learned temperature": ("clap", ["options.learn_temperature=true"]),
    "CLAP + same prompt pushed apart": ("clap", ["options.same_text=negative"]),
    "CLAP + five prompts": ("clap", ["encoder.sampling.prompts=5"]),
    "CLAP + four clips of a video": ("clap", ["encoder.sampling.clips_per_video=4"]),
    "CLAP + background beside actions": ("clap", ["encoder.sampling.near=0.5"]),
}
"""What the papers do not have; each against CLAP with the same seeds."""
ROWS = ENCODERS | BEYOND


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ENCODERS), choices=list(ROWS))
    parser.add_argument("--set", action="append", default=[], help="change of every pre-training recipe")
    parser.add_argument("--quick", action="store_true", help="a tiny world, to see that it runs")
    parser.add_argument("--subset", default="testing", help="videos that are scored (tune on validation)")
    arguments = parser.parse_args()
    rows = [FIRST, *(r for r in arguments.rows if r != FIRST)]
    left = [(row, seed) for row in rows for seed in arguments.seeds]
    while left:
        for row, seed in list(left):
            if one(arguments.out / f"seed{seed}", row, seed, arguments):
                left.remove((row, seed))
                show(arguments.out, rows, arguments.seeds)
        time.sleep(5 if left else 0)  # another process has the rest, or what the rest begins with
    show(arguments.out, rows, arguments.seeds)


def one(out: Path, row: str, seed: int, arguments: argparse.Namespace) -> bool:
    """Whether this row of this seed is done now; False: somebody else is at it, or the first row is not there yet."""
    folder = folder_of(out, row)
    if (folder / "scores.json").exists():
        return True
    if row != FIRST and not (folder_of(out, FIRST) / "scores.json").exists():
        return False
    try:
        with folders.locked(folder / "measured"):
            if not (folder / "scores.json").exists():
                measure(folder, out, row, seed, arguments)
    except CuemarkError as error:
        if "another run" in str(error):
            return False
        raise
    return True


def measure(folder: Path, out: Path, row: str, seed: int, arguments: argparse.Namespace) -> None:
    config = replace(world.WorldConfig(), seed=seed, **(QUICK if arguments.quick else VIDEOS))
    made = world.make(config, out / "world", workers=1)
    scored = subset(made.truth, arguments.subset)
    system, changes = ROWS[row]
    encoder = made_encoder(folder, out, row, system, changes + arguments.set, seed)
    scores: dict[str, float] = {}
    if row in BEYOND:  # heads and language tell; a localizer would take two thirds of the time
        features = features_of(folder, made, encoder, (arguments.subset, "novel"))
    else:
        features = features_of(folder, made, encoder)
        train_localizer(folder, out, encoder, seed)
        found = localize_features(features, load(folder / "gtad" / LOCALIZER_FILE), list(scored))
        scores = scores_of(scored, found)
        known = analyse(features, made.truth, ("training",), (arguments.subset,))
        for name, measured in known.figures.items():
            scores |= {name: measured.value, f"{name}, floor": measured.floor}
    heads = encoder.made.get("scores") or {}
    scores |= {f"valid_{name}": heads[name] for name in ("class", "region") if name in heads}
    if system == "clap":
        scores |= language(made, encoder, features, arguments.subset)
    if row == FIRST:
        floor = scores_of(scored, blind(subset(made.truth, "training"), scored))
        write_json(out / "floor.json", floor)
    write_json(folder / "scores.json", {k: None if v != v else v for k, v in scores.items()})
    print(f"seed {seed}, {row}: " + ", ".join(f"{k} {v:.4g}" for k, v in scores.items()), flush=True)


def folder_of(out: Path, row: str) -> Path:
    return out / "".join(c if c.isalnum() else "_" for c in row)


def made_encoder(folder: Path, out: Path, row: str, system: str, changes: list[str], seed: int) -> VideoEncoder:
    if (folder / ENCODER_FILE).exists():
        return VideoEncoder.load(folder / ENCODER_FILE)
    paths = {"data.truth": out / "world/truth.json", "data.videos": out / "world/videos"}
    if row != FIRST:
        paths["encoder.start"] = folder_of(out, FIRST) / ENCODER_FILE
    if system == "tsp":
        paths["data.features"] = folder_of(out, FIRST) / "features"
    if system == "clap":
        paths["data.captions"] = out / "world/captions.json"
    changes = [f"{k}={json.dumps(str(v))}" for k, v in paths.items()] + [f"seed={seed}", *changes]
    return pretrain(load_recipe(f"world_{system}", changes), folder)[0]


def features_of(folder: Path, made: world.World, encoder: VideoEncoder, parts: Sequence[str] = world.SUBSETS[1:],
                out: str = "features") -> FeatureFolder:
    untrimmed = {v: p for v, p in made.videos.items() if made.truth[v].subset in parts}
    config = ExtractConfig(stride=STRIDE, bf16=torch.cpu._is_avx512_bf16_supported())
    extract(untrimmed, encoder, folder / out, config)
    return FeatureFolder.open(folder / out)


def train_localizer(folder: Path, out: Path, encoder: VideoEncoder, seed: int) -> None:
    if (folder / "gtad" / LOCALIZER_FILE).exists():
        return
    paths = {"data.truth": out / "world/truth.json", "data.features": folder / "features"}
    changes = [f"{k}={json.dumps(str(v))}" for k, v in paths.items()] + [f"seed={seed}"]
    train(load_recipe("world_gtad", changes), folder / "gtad", encoder)


def scores_of(truth: Truth, found: dict) -> dict[str, float]:
    score = detection(truth, found)
    return {"avg": score.average, "@0.5": float(score.map[0]), "@0.75": float(score.map[5]),
            "@0.95": float(score.map[9])}


# ---------------------------------------------------------------------------------------------- language


def language(made: world.World, encoder: VideoEncoder, features: FeatureFolder, part: str) -> dict[str, float]:
    """Clip-to-sentence accuracies and text-to-moment recalls of a CLAP encoder, with their floors."""
    see, read = projected(encoder)
    text = TextEncoder.load("minilm")
    result: dict[str, float] = {}
    config = made.config
    held = set(config.held_out)
    groups: dict[str, list[tuple[str, list[str]]]] = {}
    for scenario in made.scenarios:
        if scenario.subset not in (part, "novel"):
            continue
        for instance in scenario.instances:
            if instance.end - instance.start < encoder.clip.seconds / 2:
                continue
            mine = (scenario.actor.shape, scenario.actor.colour, instance.speed, instance.extent)
            kind = ("novel" if scenario.subset == "novel" else
                    "held out" if any((instance.motion, a) in held for a in mine) else "trained")
            motions = config.novel_classes if kind == "novel" else config.classes
            tests = {"motion": motions, "colour": list(world.COLOURS), "shape": list(world.SHAPES),
                     "speed": list(world.SPEEDS)}
            clip = middle_clip(made.videos[scenario.id], encoder, (instance.start + instance.end) / 2)
            seen = see(clip)
            for attribute, values in tests.items():
                choices = world.alternatives(scenario, instance, **{attribute: values})
                right = int((read(text.encode(choices)) @ seen.T)[:, 0].argmax()) == 0
                groups.setdefault(f"{attribute}, {kind}", []).append((right, 1 / len(choices)))
    for name, tests in groups.items():
        result[f"{name}"] = float(np.mean([r for r, _ in tests]))
        result[f"{name}, chance"] = float(np.mean([c for _, c in tests]))

    spans = np.concatenate([times(v.annotations) / v.duration for v in subset(made.truth, "training").values()])
    marks = np.linspace(0, 1, 21)
    boxes = np.array([(a, b) for i, a in enumerate(marks) for b in marks[i + 1:]])
    for subset_name in (part, "novel"):
        hits, floor = [], []
        for vid, truth in subset(made.truth, subset_name).items():
            rows = features[vid]
            seen = F.normalize(see.project(torch.from_numpy(rows.data).float()), dim=1)
            for s in truth.annotations:
                similarity = (read(text.encode([s.sentence])) @ seen.T)[0].numpy()
                a, b = best_stretch(similarity)
                answer = np.array([[rows.grid.seconds(a), rows.grid.seconds(b)]])
                hits.append(tiou(answer, times([s]))[0, 0])
                blind_box = boxes[(tiou(boxes, spans) >= 0.5).sum(1).argmax()] * truth.duration
                floor.append(tiou(blind_box, times([s]))[0, 0])
        for t in (0.3, 0.5):
            name = f"R@1 tIoU {t}" + (", novel" if subset_name == "novel" else "")
            result[name] = float((np.array(hits) >= t).mean())
            result[f"{name}, floor"] = float((np.array(floor) >= t).mean())
    return result


def projected(encoder: VideoEncoder):
    """Functions that bring clips and sentence vectors into CLAP's shared space, normalised."""
    video_side, text_side = projections(encoder)

    def see(clip: torch.Tensor) -> torch.Tensor:
        return F.normalize(see.project(encode(encoder.network, clip)), dim=1)

    see.project = lambda feature: video_side(feature).detach()
    return see, lambda vectors: F.normalize(text_side(vectors).detach(), dim=1)


def middle_clip(path: Path, encoder: VideoEncoder, middle: float) -> torch.Tensor:
    clip = encoder.clip
    info = video.probe(path)
    start = min(max(0.0, middle - clip.seconds / 2), max(0.0, info.duration - clip.seconds))
    frames = video.frames_at(path, [float(t) for t in clip.times(start)], clip.size(info.height, info.width))
    return normalised(cut(frames, clip.crop)[None], clip.mean, clip.std)


def best_stretch(similarity: np.ndarray) -> tuple[int, int]:
    """The run of positions with the largest sum above the midpoint of mean and maximum: ``[a, b)``."""
    above = similarity - (similarity.mean() + similarity.max()) / 2
    best, span, total, start = -np.inf, (0, 1), 0.0, 0
    for i, value in enumerate(above):
        if total <= 0:
            total, start = 0.0, i
        total += value
        if total > best:
            best, span = total, (start, i + 1)
    return span


def show(out: Path, rows: list[str], seeds: list[int]) -> None:
    """Means and standard deviations over the seeds that are done."""
    results: dict[str, list[dict[str, float]]] = {}
    for row in ["floor (never looks)", *rows]:
        for seed in seeds:
            base = out / f"seed{seed}"
            path = base / "floor.json" if row.startswith("floor") else folder_of(base, row) / "scores.json"
            if path.exists():
                results.setdefault(row, []).append(read_json(path, "scores"))
    write_json(out / "results.json", {"seeds": seeds, "rows": results})
    keys = ("avg", "@0.5", "@0.75", "@0.95")
    table(results, list(keys), "percent")
    if FIRST in results:
        names = [k for k in results[FIRST][0] if k not in keys]
        table({r: v for r, v in results.items() if r in ROWS}, [*names, "valid_region", "valid_class"], "")
    told = {row: runs for row, runs in results.items() if "R@1 tIoU 0.5" in runs[0]}
    if told:
        names = [k for k in next(iter(told.values()))[0] if "," in k or "R@1" in k]
        table(told, [k for k in names if "retrieval" not in k and "probe" not in k and "contrast" not in k], "percent")


def table(results: dict[str, list[dict[str, float]]], keys: list[str], unit: str) -> None:
    print(f"\n{max(map(len, results.values()), default=0)} seed(s): mean +- standard deviation {unit}")
    print(f"{'':34}{'n':>3} " + "".join(f"{k[:15]:>17}" for k in keys))
    for row, runs in results.items():
        print(f"{row:34}{len(runs):>3} " + "".join(f"{cell([r.get(k) for r in runs]):>17}" for k in keys))


def cell(values: list[float | None]) -> str:
    there = [v for v in values if v is not None]
    if not there:
        return "–"
    spread = f" +- {100 * np.std(there, ddof=1):.2f}" if len(there) > 1 else ""
    return f"{100 * np.mean(there):.2f}{spread}"


if __name__ == "__main__":
    main()
