"""Every localizer on the same features of the built-in world, over seeds: what it finds, what it costs, and the floors.

Method. ``benchmarks/world_pretraining.py OUT`` has made, for each seed, a world and a CLAP encoder's features of it
(OUT/seed<n>/world, OUT/seed<n>/CLAP; ``--encoder`` names another of its rows). Here each localizer is trained on these
features by its world recipe with that seed; validation videos choose its weights, and testing videos are scored:

- asked classes: average mAP and mAP at tIoU 0.5, 0.75, 0.95; as proposals, whatever their names, the area under AR@AN
  and AR at 1, 10 and 100. Floors: the stretches that are commonest in training, of each class; and of any.
- asked sentences: recall of the first answer at tIoU 0.3, 0.5, 0.7, of the first five at 0.5, and mean tIoU, for the
  sentences of testing videos and of novel classes. Floor: the stretches that match most of training's moments. These
  have a world of their own, of other videos and four times as many, seen by the same encoder: there a video with
  several moments shows two motions, where else one is usual and whoever finds any moment has much of the score
  (``cuemark world WORLD --seed 1000 --trimmed 0 --training 640 --two-classes 1``). "any moment" is how often the
  first answer is one of the video's moments, "never reads" the recall of one that always is and draws which; "chosen",
  where there is a choice, how often one that is any is the asked one, and how often a draw would be; "there or
  not" how often a sentence of the video has a better first answer than one of another video with other motions (50:
  never reads); "highlight" ranks stretches of half a second by its saliency.
- one with an open vocabulary is asked for the trained classes by their names, and in 240 videos of a world of its own
  for the novel classes, whose names it never read. Its floor there knows no text either: the stretches that match most
  of training, under every novel class alike; a stricter one gives each name the same network's answers to another.
  One that learned which classes a video looks like is also asked for a shortlist alone.
- one that labels frames: the share of frames labelled right, 10 a second, and their mAP, by the answered segments and
  by the score of every class at every frame (saliency); floor: nothing happens.
- shown examples: average mAP and mAP at 0.5 over one-way episodes drawn from the novel videos, whose classes occur in
  no other, and, for comparison, of trained classes (examples from training videos). Floor: the stretches that match
  most of training, under the class that is looked for.
- one that judges proposals is given those of a G-TAD without names, trained first (its time is ``proposer``).
- ablations (``--names ablations``, or one by its name) are UnLoc with one setting changed, scored as it is.

Beside them: seconds to train, seconds for an hour of video (features to segments), and peak memory of a process that
does both. Nothing of a floor looks at a video.

    python benchmarks/world_localizers.py OUT [--seeds 0 1 2] [--names bmn gtad …] [--encoder CLAP] [--quick]

Localizer by localizer, and of each seed by seed, each in a process of its own;
OUT/seed<n>/<encoder>/localizers/<name>/scores.json holds what is done. A run that was stopped goes on, and several
processes may share the work (on few cores one for each, with OMP_NUM_THREADS=1). Prints tables. Asserts nothing. One to
five minutes a localizer and seed on one core.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from world_pretraining import VIDEOS, features_of, folder_of

from cuemark import floors, folders
from cuemark.datasets.world import WorldConfig, make
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CuemarkError
from cuemark.feature_folder import FeatureFolder
from cuemark.grid import Features, Grid
from cuemark.localizers import LOCALIZERS
from cuemark.localizers.questions import Question, questions_of, shown
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.metrics.bootstrap import draws
from cuemark.metrics.detection import detection
from cuemark.metrics.episodes import draw, episodes
from cuemark.metrics.frames import frames
from cuemark.metrics.grounding import MEETS, grounding
from cuemark.metrics.highlights import highlights
from cuemark.metrics.proposals import proposals
from cuemark.recipe import Recipe, load_recipe
from cuemark.segments import (
    Moments,
    Predictions,
    Segment,
    Truth,
    labels_of,
    read_json,
    read_truth,
    subset,
    times,
    write_json,
)
from cuemark.training import ENCODER_FILE, LOCALIZER_FILE, train

NAMES = ("actionformer", "bmn", "gtad", "pgcn", "qat", "tan2d", "unloc", "unloc_retrieve", "unloc_segment")
"""Of the recipes ``world_<name>``."""
ABLATIONS: dict[str, tuple[str, list[str]]] = {
    "unloc, shortlist": ("unloc", ["options.similarity_weight=0.3"]),
    "unloc, no text": ("unloc", ["options.fusion=none"]),
    "unloc, sampled classes": ("unloc", ["options.negatives=3"]),
    "unloc, all tokens": ("unloc", ["options.tokens=all"]),
    "retrieval, one token": ("unloc_retrieve", ["options.tokens=one"]),
    "retrieval, all videos": ("unloc_retrieve", ["options.pairs=all"]),
    "retrieval, alpha 10": ("unloc_retrieve", ["options.alpha=10.0"]),
} | {f"{of}, {what}": (recipe, changes) for of, recipe in (("retrieval", "unloc_retrieve"), ("unloc", "unloc"))
     for what, changes in {
        "late fusion": ["options.fusion=late"],
        "one layer": ["options.layers=1"],
        "six layers": ["options.layers=6"],
        "no pyramid": ["options.pyramid=none", "options.ranges=[[0, 10000]]"],
        "FPN, four layers": ["options.pyramid=fpn", "options.layers=4"],
        "L1": ["options.box_loss=l1_plain"],
        "DIoU": ["options.box_loss=diou"],
        "L1 and IoU": ["options.box_loss=l1+iou"],
        **{f"heads of {n}": [f"options.head_layers={n}"] for n in (1, 3, 4)},
    }.items()}
"""Name -> (recipe ``world_<…>``, changes of it): what tables 1 to 4 of UnLoc's paper ask and needs no real towers."""
SENTENCES = {"trimmed": 0, "training": 640}
"""Videos of the world of those that are asked sentences."""
NOVEL = {**dict.fromkeys(VIDEOS, 0), "novel": 240}
"""Videos of the world of novel classes."""
SHORTLISTS = (2, 5)
CLIP = 0.5
"""Seconds of a stretch that is a highlight or none."""
BUSY = 3
"""Exit status of a process that found another one at its work."""
QUICK = {"optim.steps": 6, "validate_every": 3}
COSTS = ("train, s", "proposer, s", "an hour, s", "memory, MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--names", nargs="+", choices=[*NAMES, *ABLATIONS, "ablations"],
                        default=list(NAMES))
    parser.add_argument("--encoder", default="CLAP", help="row of world_pretraining.py whose features are taken")
    parser.add_argument("--subset", default="testing", help="videos that are scored (tune on validation)")
    parser.add_argument("--draws", type=int, default=50, help="episodes of one that is shown examples")
    parser.add_argument("--set", action="append", default=[], help="change of every recipe")
    parser.add_argument("--quick", action="store_true", help="a few updates, to see that it runs")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.names = [n for name in arguments.names for n in (ABLATIONS if name == "ablations" else [name])]
    if arguments.quick:
        arguments.set = [f"{name}={value}" for name, value in QUICK.items()] + arguments.set
    if arguments.one:
        sys.exit(one(arguments.one[0], int(arguments.one[1]), arguments))
    left, failed = [(name, seed) for name in arguments.names for seed in arguments.seeds], []
    while left:
        before = len(left)
        for name, seed in list(left):
            command = [sys.executable, __file__, *sys.argv[1:], "--one", name, str(seed)]
            done = (place(arguments, name, seed) / "scores.json").exists()
            status = 0 if done else subprocess.run(command).returncode
            if status != BUSY:
                left.remove((name, seed))
            if status not in (0, BUSY):
                failed.append((name, seed))
        time.sleep(5 if len(left) == before else 0)  # another process has the rest
    show(arguments)
    for name, seed in failed:
        print(f"failed: {name}, seed {seed}")


def place(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    return folder_of(folder_of(arguments.out / f"seed{seed}", arguments.encoder) / "localizers", name)


def recipe_of(name: str, changes: Sequence[str] = ()) -> Recipe:
    recipe, own = ABLATIONS.get(name, (name, []))
    return load_recipe(f"world_{recipe}", [*own, *changes])


def one(name: str, seed: int, arguments: argparse.Namespace) -> int:
    """Measure one localizer with one seed, in this process alone."""
    folder = place(arguments, name, seed)
    try:
        with folders.locked(folder / "measured"):
            if not (folder / "scores.json").exists():
                measure(name, seed, folder, arguments)
    except CuemarkError as error:
        if "another run" in str(error):
            return BUSY
        print(f"{name}, seed {seed}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def measure(name: str, seed: int, folder: Path, arguments: argparse.Namespace) -> None:
    out = arguments.out / f"seed{seed}"
    made, drawn, seen_at = folder_of(out, arguments.encoder), out / "world", "features"
    encoder = VideoEncoder.load(made / ENCODER_FILE)
    if kind_of(name) == "sentence":
        drawn, seen_at = out / "world of sentences", "features of sentences"
        config = replace(WorldConfig(), seed=1000 + seed, two_classes=1.0, **VIDEOS | SENTENCES)
        features_of(made, make(config, drawn, workers=1), encoder, out=seen_at)
    truth, features = read_truth(drawn / "truth.json"), FeatureFolder.open(made / seen_at)
    costs: dict[str, float] = {}
    changes = {"data.truth": str(drawn / "truth.json"), "data.features": str(made / seen_at), "seed": seed}
    if LOCALIZERS[recipe_of(name).system].judges:
        changes["data.proposals"] = str(folder / "proposer" / LOCALIZER_FILE)
        costs["proposer, s"] = learnt("gtad", folder / "proposer", encoder, {
            k: v for k, v in changes.items() if k != "data.proposals"} | {"options.names": "none"}, arguments)
    costs["train, s"] = learnt(name, folder, encoder, changes, arguments)

    model = TrainedLocalizer.load(folder / LOCALIZER_FILE)
    seen = {vid: features[vid] for vid in truth if vid in features}
    scored, novel = subset(truth, arguments.subset), subset(truth, "novel")
    if kind_of(name) == "names" and not arguments.quick:
        more = make(replace(WorldConfig(), seed=4000 + seed, **NOVEL), out / "world of novel classes", workers=1)
        features_of(made, more, encoder, out="features of novel classes")
        novel = more.truth
        seen |= FeatureFolder.open(made / "features of novel classes")
    training = subset(truth, "training")
    scores, took = SCORES[kind_of(name)](
        model, seen, training, scored, novel, arguments.draws, seed)
    costs["an hour, s"] = took
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 ** 2 if sys.platform == "darwin" else 1024)
    scores |= costs | {"memory, MB": peak}
    write_json(folder / "scores.json", {k: None if v != v else v for k, v in scores.items()})
    print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.4g}" for k, v in scores.items()), flush=True)


def kind_of(name: str) -> str:
    """What it is asked: classes, names of classes, sentences, examples, or a label for each frame."""
    recipe = recipe_of(name)
    asked = LOCALIZERS[recipe.system].asked
    if asked != "text":
        return asked
    return {"localize": "names", "retrieve": "sentence", "segment": "frames"}[recipe.options["task"]]


def learnt(name: str, folder: Path, encoder: VideoEncoder, changes: dict[str, Any], arguments: argparse.Namespace
           ) -> float:
    """Train unless it is trained; seconds, of all the runs that it took."""
    told = folder / "seconds.json"
    if not (folder / LOCALIZER_FILE).exists() or not told.exists():
        began = time.perf_counter()
        said = [f"{k}={json.dumps(v)}" for k, v in changes.items()] + arguments.set
        train(recipe_of(name, said), folder, encoder)
        write_json(told, time.perf_counter() - began)
    return float(read_json(told, "seconds"))


# ---------------------------------------------------------------------------------------------------------- scores


def hours(truth: Truth, times: int = 1) -> float:
    return times * sum(video.duration for video in truth.values()) / 3600


def by_classes(model: TrainedLocalizer, seen: dict[str, Features], training: Truth, scored: Truth, novel: Truth,
               draws: int, seed: int) -> tuple[dict[str, float], float]:
    began = time.perf_counter()
    found = model.predict({vid: seen[vid] for vid in scored},
                          named(model.classes, scored) if model.network.asked == "text" else None)
    took = (time.perf_counter() - began) / hours(scored)
    return of_classes(scored, found) | floor_of(of_classes(
        scored, floors.blind(training, scored), floors.proposals(training, scored))), took


def by_names(model: TrainedLocalizer, seen: dict[str, Features], training: Truth, scored: Truth, novel: Truth,
             draws: int, seed: int) -> tuple[dict[str, float], float]:
    scores, took = by_classes(model, seen, training, scored, novel, draws, seed)
    config = model.network.config
    for top in SHORTLISTS if config.similarity_weight else ():
        model.network.config = replace(config, top=top)
        found = model.predict({vid: seen[vid] for vid in scored}, named(model.classes, scored))
        scores[f"average mAP, top {top}"] = 100 * detection(scored, found).average
    model.network.config = config
    if novel and config.fusion != "none":
        labels = labels_of(novel)
        common = floors.covering(floors.relative(training)[0], 100, np.linspace(0.5, 0.95, 10).tolist())
        found = model.predict({vid: seen[vid] for vid in novel}, named(labels, novel))
        blind = {vid: floors.boxes(common, video.duration, labels) for vid, video in novel.items()}
        for key, answers in (("{}", found), ("{}, floor", blind)):
            score = detection(novel, answers)
            scores[f"{key.format('average mAP')}, novel"] = 100 * score.average
            scores[f"{key.format('mAP@0.5')}, novel"] = 100 * float(score.map[0])
        rounds = [dict(zip(labels, [*labels[k:], *labels[:k]], strict=True)) for k in range(1, len(labels))]
        exchanged = [{vid: [replace(s, label=other[str(s.label)]) for s in segments] for vid, segments in found.items()}
                     for other in rounds]
        scores["names exchanged, novel"] = 100 * float(np.mean([detection(novel, one).average for one in exchanged]))
        for what, others in (("the floor", [blind]), ("exchanged names", exchanged)):
            low, high = gain(novel, found, others)
            scores |= {f"above {what}, from, novel": low, f"above {what}, to, novel": high}
    return scores, took


def gain(truth: Truth, found: Predictions, others: Sequence[Predictions]) -> tuple[float, float]:
    """The 95 % interval, over draws of videos, of how much more average mAP answers have than others on average."""
    mine, *theirs = (detection(truth, one) for one in (found, *others))
    name = next(name for name in mine.figures() if name.startswith("average"))

    def more(weights: np.ndarray | None = None) -> float:
        return mine.figures(weights)[name] - float(np.mean([score.figures(weights)[name] for score in theirs]))

    drawn = np.array([more(weights) for weights in draws(len(truth), 1000)])
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) + more() - np.nanmean(drawn)
    return float(low), float(high)


def named(labels: Sequence[str], truth: Truth) -> dict[str, list[Question]]:
    return {vid: [Question(label=label) for label in labels] for vid in truth}


def by_frames(model: TrainedLocalizer, seen: dict[str, Features], training: Truth, scored: Truth, novel: Truth,
              draws: int, seed: int) -> tuple[dict[str, float], float]:
    began = time.perf_counter()
    told = {vid: answer for vid, (answer,) in model.answers(
        {vid: seen[vid] for vid in scored}, named(model.classes, scored), every=0.1).items()}
    took = (time.perf_counter() - began) / hours(scored)
    scores = {}
    found: Predictions = {vid: list(answer.segments) for vid, answer in told.items()}
    for key, answers in (("{}", found), ("{}, floor", {vid: [] for vid in scored})):
        figures = frames(scored, answers, 10.0).figures()
        scores |= {key.format(name): figures[name] for name in ("accuracy", "frame mAP", "edit", "F1@50")}
    said = {vid: answer.saliency for vid, answer in told.items() if answer.saliency is not None}
    scores["frame mAP, every class"] = frames(scored, found, 10.0, saliency=said).figures()["frame mAP"]
    return scores, took


def of_classes(truth: Truth, found: Predictions, stretches: Predictions | None = None) -> dict[str, float]:
    score, proposed = detection(truth, found), proposals(truth, stretches or nameless(found))
    return {"average mAP": 100 * score.average, **{f"mAP@{t}": 100 * float(score.map[i])
                                                   for i, t in ((0, "0.5"), (5, "0.75"), (9, "0.95"))},
            "AUC": 100 * proposed.auc, **{f"AR@{n}": 100 * proposed.at(n) for n in (1, 10, 100)}}


def nameless(found: Predictions) -> Predictions:
    """Each stretch once, with the best of its scores."""
    best: Predictions = {}
    for vid, segments in found.items():
        kept: dict[tuple[float, float], Segment] = {}
        for s in sorted(segments, key=lambda s: -(s.score or 0)):
            kept.setdefault((s.start, s.end), s)
        best[vid] = list(kept.values())
    return best


def by_sentences(model: TrainedLocalizer, seen: dict[str, Features], training: Truth, scored: Truth, novel: Truth,
                 draws: int, seed: int) -> tuple[dict[str, float], float]:
    scores: dict[str, float] = {}
    spent, length = 0.0, 0.0
    common = floors.covering(floors.relative(training, lambda s: s.sentence is not None)[0], 5)
    for part, truth in (("", scored), (", novel", novel)):
        if not truth:
            continue
        asked = {vid: [question for question, _ in questions_of(video.annotations)] for vid, video in truth.items()}
        began = time.perf_counter()
        found = model.predict({vid: seen[vid] for vid in truth}, asked)
        spent, length = spent + time.perf_counter() - began, length + hours(truth)
        mine, floor = of_sentences(truth, found), of_sentences(truth, floors.answers(common, truth))
        scores |= {name + part: value for name, value in (mine | floor_of(floor)).items()}
        scores |= {name + part: value for name, value in reading(model, seen, truth, found).items()}
        if model.salient:
            scores |= {name + part: value for name, value in highlighted(model, seen, training, truth, asked).items()}
    return scores, spent / length


def highlighted(model: TrainedLocalizer, seen: dict[str, Features], training: Truth, truth: Truth,
                asked: dict[str, list[Question]]) -> dict[str, float]:
    """mAP and HIT@1 of stretches of half a second as QVHighlights counts them: good is what a moment covers half of."""
    told = model.answers({vid: seen[vid] for vid in truth}, asked, every=CLIP)
    said = {(vid, answer.asked[0]): answer.saliency for vid, answers in told.items() for answer in answers}
    real, found = rated(truth), []
    for m in real:
        curve = said[m.video, m.query]
        assert curve is not None
        found.append(replace(m, saliency=curve.data[:, 0], clips=None, windows=(replace(m.windows[0], score=1.0),)))
    scores = {}
    for key, answers in (("highlight {}", found), ("highlight {}, floor", floors.highlights(rated(training), real))):
        figures = highlights(real, answers).figures()
        scores |= {key.format(name): figures[f"HL-min-VeryGood-{figure}"]
                   for name, figure in (("mAP", "mAP"), ("HIT@1", "Hit1"))}
    return scores


def rated(truth: Truth) -> list[Moments]:
    """The sentences of a truth as those of QVHighlights."""
    rows = []
    for vid, video in truth.items():
        grid = Grid(0.0, CLIP, int(video.duration / CLIP), CLIP)
        for question, moments in questions_of(video.annotations):
            good = grid.covered(times(moments)) >= 0.5
            rows.append(Moments(str(len(rows)), vid, str(question.query), tuple(moments), video.duration,
                                4.0 * good[:, None], np.arange(grid.count), CLIP))
    return rows


def reading(model: TrainedLocalizer, seen: dict[str, Features], truth: Truth, found: Predictions) -> dict[str, float]:
    """What of the score is finding any moment, and whether sentences of other videos are told apart."""
    strange: dict[str, list[Question]] = {}
    for vid, video in truth.items():
        motions = {s.label for s in video.annotations}
        every = [q for v in truth.values() for q, of in questions_of(v.annotations) if of[0].label not in motions]
        strange[vid] = every[len(strange) % max(1, len(every)):][:len(video.annotations)]
    answers = model.predict({vid: seen[vid] for vid in truth}, strange)

    def sure(said: Predictions, asked: dict[str, list[Question]]) -> np.ndarray:
        return np.array([first(said[vid], question).score for vid in truth for question in asked[vid]], float)

    own = sure(found, {vid: [question for question, _ in questions_of(v.annotations)] for vid, v in truth.items()})
    other = sure(answers, strange)
    a, b, score = own[:, None], other[None, :], grounding(truth, found)
    return {"any moment": 100 * float((score.near >= MEETS).mean()),
            "any moment, never reads": 100 * float(score.draw.mean()),
            "chosen": 100 * score.choice.right, "chosen, never reads": 100 * score.choice.draw,
            "there or not": 100 * float(((a > b) + 0.5 * (a == b)).mean()) if len(other) else float("nan")}


def first(answers: Sequence[Segment], question: Question) -> Segment:
    return max((s for s in answers if s.query == question.query), key=lambda s: s.score or 0.0)


def of_sentences(truth: Truth, found: Predictions) -> dict[str, float]:
    score = grounding(truth, found, ns=(1, 5), tious=(0.3, 0.5, 0.7))
    return {**{f"R@1,IoU={t}": 100 * float(score.recall[0, i]) for i, t in enumerate(score.tious)},
            "R@5,IoU=0.5": 100 * float(score.recall[1, 1]), "mIoU": 100 * score.miou}


def by_examples(model: TrainedLocalizer, seen: dict[str, Features], training: Truth, scored: Truth, novel: Truth,
                draws: int, seed: int) -> tuple[dict[str, float], float]:
    scores: dict[str, float] = {}
    spent, length = 0.0, 0.0
    for part, support, truth in (("novel", novel, novel), ("trained", training, scored)):
        found, took, asked = few_shot(model, seen, training, support, truth, draws, seed)
        scores |= {f"{name}, {part}": value for name, value in found.items()}
        spent, length = spent + took, length + asked
    return scores, spent / length


def few_shot(model: TrainedLocalizer, seen: dict[str, Features], training: Truth, support: Truth, truth: Truth,
             draws: int, seed: int) -> tuple[dict[str, float], float, float]:
    """Scores of one-way episodes with their floors, seconds spent, and hours of video that were searched."""
    common = floors.covering(floors.relative(training)[0], 100, np.linspace(0.5, 0.95, 10).tolist())
    labels = [label for label in labels_of(truth) if label in labels_of(support)]
    most: int = model.network.config.shots
    having = [sum(any(s.label == label for s in v.annotations) for v in support.values()) for label in labels]
    shots = max(1, min(most, min(having) - (support is truth)))  # one is left to be searched
    drawn = draw(support, truth, labels, 1, shots, draws, seed)
    found, blind = [], []
    spent, length = 0.0, 0.0
    for episode in drawn:
        asked, began = shown(episode.support, seen), time.perf_counter()
        found.append(model.predict({vid: seen[vid] for vid in episode.queries}, dict.fromkeys(episode.queries, asked)))
        spent += time.perf_counter() - began
        length += hours({vid: truth[vid] for vid in episode.queries})
        blind.append({vid: floors.boxes(common, truth[vid].duration, episode.classes) for vid in episode.queries})
    both = [episodes(truth, drawn, answers) for answers in (found, blind)]
    mine, floor = ({"average mAP": 100 * score.average, "±": 100 * score.interval, "mAP@0.5": 100 * float(score.map[0])}
                   for score in both)
    return mine | floor_of(floor) | {"shots": shots}, spent, length


def floor_of(scores: dict[str, float]) -> dict[str, float]:
    return {f"{name}, floor": value for name, value in scores.items()}


SCORES = {"classes": by_classes, "names": by_names, "frames": by_frames, "sentence": by_sentences,
          "examples": by_examples}

# ----------------------------------------------------------------------------------------------------------- tables


def show(arguments: argparse.Namespace) -> None:
    """Means and standard deviations over the seeds that are done, of each kind of localizer."""
    kinds: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in arguments.names:
        paths = [place(arguments, name, seed) / "scores.json" for seed in arguments.seeds]
        runs = [read_json(path, "scores") for path in paths if path.exists()]
        if runs:
            kinds.setdefault(kind_of(name), {})[name] = runs
    write_json(arguments.out / f"localizers of {arguments.encoder}.json", {"seeds": arguments.seeds, "rows": kinds})
    for asked, rows in kinds.items():
        first = next(iter(rows.values()))
        keys = list(dict.fromkeys(key for runs in rows.values() for key in runs[0]
                                  if "floor" not in key and key not in COSTS))
        print(f"\nasked {asked}: mean ± standard deviation of {max(map(len, rows.values()))} seed(s), percent")
        floor = [{key: run.get(floor_name(key)) for key in keys} for run in first]
        table({"floor (never looks)": floor, **rows}, keys)
        for name, runs in rows.items():
            for what in ("the floor", "exchanged names"):
                ends = [[run.get(f"above {what}, {end}, novel") for end in ("from", "to")] for run in runs]
                if all(end is not None for pair in ends for end in pair):
                    low, high = pooled(np.array(ends))
                    print(f"{name}, novel classes, above {what}, over the seeds: {low:.1f} to {high:.1f}")
    print("\ncosts")
    table({name: runs for rows in kinds.values() for name, runs in rows.items()}, COSTS)


def pooled(ends: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean from those of its parts, ``(n, 2)``, whose videos are others in each."""
    spread = np.sqrt(np.square(np.diff(ends, axis=1) / 2).sum()) / len(ends)
    return float(ends.mean() - spread), float(ends.mean() + spread)


def floor_name(key: str) -> str:
    name, comma, part = key.partition(", ")
    return f"{name}, floor{comma}{part}"


def table(rows: dict[str, list[dict[str, Any]]], keys: Any) -> None:
    for start in range(0, len(keys), 8):
        some = keys[start:start + 8]
        width = max(15, *(len(key) + 2 for key in some))
        print(f"{'':22}{'n':>3}" + "".join(f"{key:>{width}}" for key in some))
        for name, runs in rows.items():
            cells = [cell([run[key] for run in runs if run.get(key) is not None]) for key in some]
            print(f"{name:22}{len(runs):>3}" + "".join(f"{text:>{width}}" for text in cells))


def cell(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
