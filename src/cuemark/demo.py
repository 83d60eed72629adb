"""The story that ``cuemark demo`` tells: the CLAP paper's, on the built-in world, in minutes, on a CPU.

Real encoded videos are drawn; one small encoder is trained three ways (TAC on trimmed clips, then TSP and CLAP from it
on untrimmed videos, the same number of updates each); each one's features train a G-TAD; the three are scored on videos
none of them saw, beside the floor of a predictor that never looks; a report is written, and the best checkpoint is
asked about one more video. One seed here; the benchmark (``benchmarks/world_pretraining.py``) has more of them.

Every step is a public function that a command of its own calls; a demo that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import sys
import time
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

from cuemark.datasets import world
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.extraction import ExtractConfig, extract
from cuemark.feature_folder import FeatureFolder
from cuemark.floors import blind
from cuemark.library import DESCRIPTION, Library
from cuemark.localization import load, localize, localize_features
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.metrics.detection import DetectionScore, detection
from cuemark.progress import Bar, say
from cuemark.recipe import load_recipe
from cuemark.report import Run, write_report
from cuemark.segments import Predictions, Segment, VideoTruth, subset, write_predictions
from cuemark.training import ENCODER_FILE, LOCALIZER_FILE, pretrain, train

T = TypeVar("T")
STRIDE = 4
"""Frames at 15 fps between clips: instances of half a second need features that are closer than a clip is long."""
SYSTEMS = ("tac", "tsp", "clap")
SMALL = {"trimmed": 600, "training": 160, "validation": 32, "testing": 48, "novel": 0}
"""Videos of the demo's world."""


def tell(out: str | Path = "demo", *, seed: int = 0, open_report: bool = True) -> dict[str, DetectionScore]:
    """Tell the story in the folder ``out``; returns the scores of the testing videos by system, and the floor's.

    Raises:
        CuemarkError: a folder that holds another story, or no disk space …
    """
    out = Path(out)
    steps: list[tuple[str, float]] = []
    began = time.monotonic()

    def step(name: str, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        say(f"— {name}")
        start = time.monotonic()
        result = work(*arguments, **options)
        steps.append((name, time.monotonic() - start))
        return result

    made = step("drawing the world", make_world, out / "world", seed, SMALL)
    truth = {name: subset(made.truth, name) for name in ("training", "validation", "testing")}
    unseen = truth["testing"]

    # ------------------------------------------------------------------------------ encoders and features
    folders: dict[str, FeatureFolder] = {}
    for system in SYSTEMS:
        step(f"pre-training {system.upper()}", train_encoder, out, system, seed)
        folders[system] = step(f"extracting features with {system.upper()}", extract_features, out, system, made)

    # ------------------------------------------------------------------------------ localizers and scores
    found: dict[str, Predictions] = {}
    runs: list[Run] = []
    for system in SYSTEMS:
        step(f"training G-TAD on {system.upper()}", train_localizer, out, system, seed)
        model = TrainedLocalizer.load(out / f"gtad_{system}" / LOCALIZER_FILE)
        found[system] = localize_features(folders[system], model, list(unseen))
        write_predictions(out / f"predictions_{system}.json", found[system])
        runs.append(Run(system.upper(), found[system], features=folders[system], calibration=model.calibration))
    never_looks = blind(truth["training"], unseen)
    scores = {system: detection(unseen, found[system]) for system in SYSTEMS}
    scores["floor"] = detection(unseen, never_looks)

    # ------------------------------------------------------------------------------ one more video, raw
    best = max(SYSTEMS[1:], key=lambda s: scores[s].average)
    one_more = make_world(out / "one_more", seed + 1_000_000, dict.fromkeys(SMALL, 0) | {"testing": 1})
    (video_id, path), = one_more.videos.items()
    moments = step("localizing in one more video", localize, path, load(out / f"gtad_{best}" / LOCALIZER_FILE))

    # ------------------------------------------------------------------------------ a library to ask
    step("indexing a library", index_library, out / "library", out / "clap" / ENCODER_FILE,
         [made.videos[vid] for vid in unseen])

    # ------------------------------------------------------------------------------ the report
    runs.append(Run("never looks", never_looks, note="the most common stretches and classes of training", floor=True))
    step("writing the report", write_report, out / "report.html", unseen, runs,
         title="cuemark demo: encoders that feel time",
         summary=SUMMARY.format(training=len(truth["training"]), testing=len(unseen), seed=seed),
         videos={v: made.videos[v] for v in unseen}, steps=steps, training=truth["training"],
         notes=[("What this is", NOTE),
                ("Ask it yourself", f"cuemark localize VIDEO --model {out}/gtad_{best}/{LOCALIZER_FILE}")])
    _tell_scores(scores, steps, time.monotonic() - began)
    _tell_moments(path, moments, one_more.truth[video_id], best)
    page = (out / "report.html").resolve()
    print(f"\nreport: {page}")
    lanes = " ".join(f"{system.upper()}={out}/predictions_{system}.json" for system in SYSTEMS)
    print(f"ask the {len(unseen)} testing videos in the browser:\n"
          f"cuemark serve --library {out}/library --predictions {lanes}")
    if open_report and _has_display():
        webbrowser.open(page.as_uri())
    return scores


SUMMARY = (
    "One small video encoder, trained three ways on the same {training} untrimmed videos of the built-in world (TAC: "
    "on trimmed clips alone), a G-TAD on the features of each, scored on {testing} videos that nothing here ever saw. "
    "Seed {seed}.")
NOTE = (
    "The built-in world is a controlled experiment, not real footage: actors of simple shapes act inside scenes that "
    "go with the action most of the time, and stay on screen before and after it, so that only motion tells an action "
    "from its background. benchmarks/world_pretraining.py does this with more seeds, and its means are in "
    "docs/notes.md; one seed of a small world says little about the order of close rows.")


def make_world(folder: Path, seed: int, videos: dict[str, int]) -> world.World:
    """``cuemark world``: so many videos of each subset."""
    config = replace(world.WorldConfig(), seed=seed, **videos)  # type: ignore[arg-type]
    with Bar("drawing", sum(videos.values())) as bar:
        return world.make(config, folder, workers=2, on_progress=lambda done, total: bar.advance(done - bar.done))


def index_library(folder: Path, encoder: Path, videos: Sequence[Path]) -> None:
    """``cuemark index``; what is there already is kept."""
    there = (folder / DESCRIPTION).exists()
    library = Library.open(folder) if there else Library.create(
        folder, VideoEncoder.load(encoder), config=ExtractConfig(stride=STRIDE))
    library.index(videos)
    library.close()


def train_encoder(out: Path, system: str, seed: int) -> VideoEncoder:
    """``cuemark pretrain world_<system>``; an encoder that is there already is kept."""
    if (out / system / ENCODER_FILE).exists():
        return VideoEncoder.load(out / system / ENCODER_FILE)
    changes = [f"data.truth={json.dumps(str(out / 'world' / 'truth.json'))}",
               f"data.videos={json.dumps(str(out / 'world' / 'videos'))}", f"seed={seed}"]
    if system != "tac":
        changes += [f"encoder.start={json.dumps(str(out / 'tac' / ENCODER_FILE))}"]
    if system == "tsp":
        changes += [f"data.features={json.dumps(str(out / 'features_tac'))}"]
    if system == "clap":
        changes += [f"data.captions={json.dumps(str(out / 'world' / 'captions.json'))}"]
    return pretrain(load_recipe(f"world_{system}", changes), out / system)[0]


def extract_features(out: Path, system: str, made: world.World) -> FeatureFolder:
    """``cuemark extract``: the untrimmed videos through one encoder."""
    videos = {v: p for v, p in made.videos.items() if made.truth[v].subset in ("training", "validation", "testing")}
    encoder = VideoEncoder.load(out / system / ENCODER_FILE)
    config = ExtractConfig(stride=STRIDE, bf16=torch.cpu._is_avx512_bf16_supported())
    extract(videos, encoder, out / f"features_{system}", config)
    return FeatureFolder.open(out / f"features_{system}")


def train_localizer(out: Path, system: str, seed: int) -> None:
    """``cuemark train world_gtad``; a localizer that is there already is kept."""
    if (out / f"gtad_{system}" / LOCALIZER_FILE).exists():
        return
    recipe = load_recipe("world_gtad", [f"data.truth={json.dumps(str(out / 'world' / 'truth.json'))}",
                                        f"data.features={json.dumps(str(out / f'features_{system}'))}"])
    recipe = replace(recipe, seed=seed)
    train(recipe, out / f"gtad_{system}", VideoEncoder.load(out / system / ENCODER_FILE))


def _tell_scores(scores: dict[str, DetectionScore], steps: list[tuple[str, float]], seconds: float) -> None:
    console = Console()
    table = Table("step", "seconds", title="How long it took", title_justify="left", header_style="bold")
    for name, took in steps:
        table.add_row(name, f"{took:.1f}")
    table.add_row("all", f"{seconds:.1f}", style="bold")
    console.print(table)
    table = Table("pre-training", "avg mAP", "@0.5", "@0.75", "@0.95", title="Unseen videos, G-TAD on the features of",
                  title_justify="left", header_style="bold")
    for name, score in scores.items():
        shown = [f"{100 * v:.2f}" for v in (score.average, score.map[0], score.map[5], score.map[9])]
        table.add_row(name.upper() if name in SYSTEMS else "floor (never looks)", *shown)
    console.print(table)
    console.print("One seed of a small world: the means over seeds are in docs/notes.md.")


def _tell_moments(path: Path, moments: list[Segment], truth: VideoTruth, best: str) -> None:
    console = Console(markup=False, emoji=False)  # a folder's name may look like rich's markup
    table = Table("start", "end", "what", "score", title=f"One more video through {best.upper()}: {path}",
                  title_justify="left", header_style="bold")
    for s in moments[:5]:
        table.add_row(f"{s.start:.2f} s", f"{s.end:.2f} s", s.label or "", f"{s.score or 0:.3f}")
    console.print(table)
    said = "; ".join(f"{s.label} {s.start:.2f}-{s.end:.2f} s" for s in truth.annotations)
    console.print(f"true: {said}")


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
