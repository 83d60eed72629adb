"""Predictions and truth to scores, with what they are worth beside them: floor, ceiling, and how sure they are."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cuemark import conversion, floors
from cuemark.conversion import predictions_of, truth_of
from cuemark.datasets import qvhighlights
from cuemark.datasets.splits import few_shot, read_classes
from cuemark.errors import CallError, DataError, unknown
from cuemark.metrics import TaskName
from cuemark.metrics.bootstrap import Difference, Score, interval, paired
from cuemark.metrics.captions import captions
from cuemark.metrics.detection import ZeroShotScore, detection, recall_at, thumos, zero_shot
from cuemark.metrics.diagnosis import ACTIVITYNET, THUMOS, diagnose
from cuemark.metrics.episodes import Episode, draw, episodes, released, write_episodes
from cuemark.metrics.frames import frames
from cuemark.metrics.grounding import grounding
from cuemark.metrics.highlights import highlights
from cuemark.metrics.proposals import proposals
from cuemark.saliency import Saliency, read_saliency
from cuemark.segments import Moments, Predictions, Segment, Truth, labels_of, read_json, subset

_log = logging.getLogger("cuemark")

Source = str | Path | Truth
CHOOSING = 500
"""The floor is chosen on this many training videos at most: more change no choice and cost seconds."""


@dataclass(frozen=True)
class Evaluation:
    """A score, and what it is worth. Figures are in the unit papers print."""

    task: str
    score: Score
    figures: dict[str, float]
    floor: dict[str, float] | None
    """Of the same figures; None where no floor can be had."""
    floor_of: str
    """How the floor was made, or why there is none."""
    ceiling: dict[str, float] | None
    ceiling_of: str
    interval: dict[str, tuple[float, float]] | None = None
    """95 % over draws of videos, where asked for."""
    missing: tuple[str, ...] = ()
    """Videos of the truth without any prediction; their instances count as missed."""
    notes: tuple[str, ...] = ()
    """What was left out or strange, a sentence each."""

    @property
    def spread(self) -> dict[str, float] | None:
        """Standard deviation of every figure between zero-shot splits; None where there are none."""
        return self.score.spread if isinstance(self.score, ZeroShotScore) else None

    def to_json(self) -> dict[str, Any]:
        """For programs; a figure without meaning is null."""
        rows, spread = {}, self.spread
        for name, value in self.figures.items():
            row = {"value": _number(value)}
            for key, column in (("floor", self.floor), ("ceiling", self.ceiling)):
                row[key] = _number(column[name]) if column is not None and name in column else None
            if self.interval is not None and name in self.interval:
                row["low"], row["high"] = map(_number, self.interval[name])
            if spread is not None:
                row["spread"] = _number(spread[name])
            rows[name] = row
        return {"task": self.task, "figures": rows, "floor": self.floor_of, "ceiling": self.ceiling_of,
                "videos": len(self.score.videos), "missing_videos": list(self.missing), "notes": list(self.notes)}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class Task:
    """How one task is scored. T is :data:`~cuemark.segments.Truth`, or a list of Moments."""

    score: Callable[[Any, Any], Score]
    floors: Callable[[Any | None, Any, Any], dict[str, Any]]
    """(training or None, videos, predictions) -> what each predictor that never looks says of the videos."""
    ceiling: Callable[[Any], Any]
    needs: str = "labelled segments"
    """What training truth must have to learn a floor from."""
    own: Callable[[Any, Any], Score] | None = None
    """How the predictions themselves are scored, where they say more than floor and ceiling do."""
    several: bool = False
    """Whether it takes a list of predictions too, one for each of its parts."""


# ---------------------------------------------------------------------------------------------- tasks


def _detection(style: str = "activitynet", tious: Sequence[float] | None = None, official: bool = True,
               recall: Collection[int] = (), splits: Sequence[Collection[str]] | None = None) -> Task:
    if style not in ("activitynet", "thumos14"):
        raise unknown("style of detection", style, ("activitynet", "thumos14"))
    if (style != "activitynet") + bool(recall) + (splits is not None) > 1:
        raise CallError("style thumos14, recall and zero-shot splits are three ways of scoring; choose one.")
    chosen: dict[str, Any] = {} if tious is None else {"tious": tious}
    if splits is not None:
        return Task(partial(zero_shot, splits=splits, official=official, **chosen), partial(_unseen, splits),
                    floors.oracle, "labelled segments of the seen classes", several=True)
    if recall:
        score: Callable[[Any, Any], Score] = partial(recall_at, multiples=tuple(recall), **chosen)
    elif style == "thumos14":
        score = partial(thumos, **chosen)
    else:
        score = partial(detection, official=official, **chosen)

    def say(training: Truth | None, videos: Truth, found: Predictions) -> dict[str, Predictions]:
        if training is None:
            return {}
        tiles = min(1000, 500_000 // max(1, len(videos)))  # an hour of many classes has thousands
        return {"the commonest stretches of training": floors.blind(training, videos),
                "windows of each class's usual length": floors.tiled(training, videos, count=tiles)}

    return Task(score, say, floors.oracle)


def _unseen(splits: Sequence[Collection[str]], training: Truth | None, videos: Truth, found: Any
            ) -> dict[str, list[Predictions]]:
    """Floors of zero-shot splits: of unseen classes nothing is known but their names, which a floor cannot read.

    There is one, so that nothing is chosen: on training truth, by the figures of a split, unseen classes would choose.
    """
    real, owners = floors.relative(training or {}, lambda s: s.label is not None)
    seen = [real[[s.label not in names for s in owners]] for names in map(set, splits)]
    if not all(map(len, seen)):
        return {}
    most = min(200, 500_000 // max(1, len(videos)))
    said = []
    for names, stretches in zip(splits, seen):
        spans = floors.covering(stretches, max(1, most // len(names)), np.linspace(0.5, 0.95, 10).tolist())
        said.append({vid: floors.boxes(spans, v.duration, list(names)) for vid, v in videos.items()
                     if any(s.label in names for s in v.annotations)})  # in others a split is not scored
    return {"the stretches that cover the seen classes best, under every unseen class": said}


def _proposals(max_number: int | None = 100, official: bool = True, tious: Sequence[float] | None = None) -> Task:
    chosen: dict[str, Any] = {} if tious is None else {"tious": tious}

    def say(training: Truth | None, videos: Truth, found: Predictions) -> dict[str, Predictions]:
        uniform = {"uniform random stretches": floors.proposals(None, videos)}
        if training is None:
            return uniform
        return {"the stretches that cover training best": floors.proposals(training, videos)} | uniform

    return Task(partial(proposals, max_number=max_number, official=official, **chosen),
                say, partial(floors.oracle_proposals, count=max_number or 100), "segments")


def _grounding(tious: Sequence[float] = (0.3, 0.5, 0.7), ns: Sequence[int] = (1, 5), strict: bool = False) -> Task:
    def say(training: Truth | None, videos: Truth, found: Predictions) -> dict[str, Predictions]:
        whole = {"the whole video": floors.answers(floors.WHOLE, videos)}
        if training is None:
            return whole
        real, _ = floors.relative(training, lambda s: s.sentence is not None)
        spans = floors.covering(real, max(ns), tuple(tious))
        return {"the stretches that cover training best": floors.answers(spans, videos)} | whole

    return Task(partial(grounding, ns=tuple(ns), tious=tuple(tious), strict=strict), say, floors.oracle,
                "sentences")


def _highlights() -> Task:
    def say(training: list[Moments] | None, asked: list[Moments], found: Any) -> dict[str, list[Moments]]:
        constant = {"the whole video, every clip alike": floors.highlights(None, asked)}
        if training is None:
            return constant
        return {"the stretches and clips that training likes best": floors.highlights(training, asked)} | constant

    return Task(highlights, say, floors.oracle_highlights, "sentences")


def _frames(fps: float | None = None, background: Collection[str] = ("background",),
            saliency: str | Path | Mapping[str, Saliency] | None = None) -> Task:
    said = read_saliency(saliency) if isinstance(saliency, str | Path) else saliency
    first = next(iter(background), "background")

    def say(training: Truth | None, videos: Truth, found: Predictions) -> dict[str, Predictions]:
        nothing = {"background everywhere": {vid: [Segment(0.0, v.duration, first, 1.0)] for vid, v in videos.items()}}
        if training is None:
            return nothing
        common = partial(floors.commonest, training, videos, background=first)
        return {"the commonest label": common(cells=1), "the commonest label of each part": common(cells=50)} | nothing

    score = partial(frames, fps=fps, background=tuple(background))
    return Task(score, say, floors.oracle, own=None if said is None else partial(score, saliency=said))


def _captions(tious: Sequence[float] = (0.3, 0.5, 0.7, 0.9), meteor: bool | None = None,
              more: Sequence[Truth] = ()) -> Task:
    def score(truth: Truth, found: Predictions) -> Score:
        return captions([truth, *more], found, tious=tuple(tious), meteor=meteor)

    def say(training: Truth | None, videos: Truth, found: Predictions) -> dict[str, Predictions]:
        if training is None:
            return {}
        given = any(found.values()) and all(_spans(row) <= _spans(videos[vid].annotations)
                                            for vid, row in found.items() if vid in videos)
        if given:  # captions of the truth's own segments are on another scale; so must be their floor
            return {"one typical sentence at the truth's segments": floors.captions(training, videos, at={
                vid: list(v.annotations) for vid, v in videos.items()})}
        return {"one typical sentence at the stretches that cover training best": floors.captions(training, videos)}

    return Task(score, say, floors.oracle, "sentences")


def _spans(segments: Collection[Segment]) -> set[tuple[float, float]]:
    """Where they are, to a hundredth of a second: predictions often went through 32-bit numbers."""
    return {(round(s.start, 2), round(s.end, 2)) for s in segments}


def _episodes(draws: Sequence[Episode] | None = None, tious: Sequence[float] | None = None) -> Task:
    chosen: dict[str, Any] = {} if tious is None else {"tious": tious}

    def score(truth: Truth, found: Any) -> Score:
        if draws is None:
            if not any(vid in truth for vid in found):
                raise DataError("no prediction is of a video of the truth and the splits chosen, and the released "
                                "protocol scores no others; check the files.")
            return released(truth, found, **chosen)
        return episodes(truth, draws, found if isinstance(found, list) else [found] * len(draws),
                        **chosen)

    def say(training: Truth | None, videos: Truth, found: Any) -> dict[str, Any]:
        boxes = {"the whole video": floors.WHOLE, "5 % to 95 % of the video": np.array([[0.05, 0.95]])}
        if training is not None:
            boxes["the stretches that cover the base classes best"] = floors.covering(
                floors.relative(training)[0], 8, np.linspace(0.5, 0.95, 10).tolist())
        if draws is None:  # the released protocol tells the label of every video
            return {name: {vid: floors.boxes(spans, v.duration, labels_of({vid: v})) for vid, v in videos.items()}
                    for name, spans in boxes.items()}
        name, spans = boxes.popitem()  # a draw cannot be tried on training videos: no choice, but the last
        return {name: [{vid: floors.boxes(spans, videos[vid].duration, draw.classes) for vid in draw.queries}
                       for draw in draws]}

    return Task(score, say, floors.oracle, several=draws is not None)


def _diagnosis(buckets: str = "activitynet", characteristics: Mapping[Any, Any] | None = None,
               tious: Sequence[float] | None = None, official: bool = True) -> Task:
    known = {"activitynet": ACTIVITYNET, "thumos14": THUMOS}
    if buckets not in known:
        raise unknown("buckets", buckets, known)
    chosen: dict[str, Any] = {} if tious is None else {"tious": tious}

    def say(training: Truth | None, videos: Truth, found: Predictions) -> dict[str, Predictions]:
        return {"the commonest stretches of training": floors.blind(training, videos)} if training else {}

    return Task(partial(diagnose, buckets=known[buckets], characteristics=characteristics, official=official,
                        **chosen), say, floors.oracle)


TASKS: dict[str, Callable[..., Task]] = {
    "detection": _detection, "proposals": _proposals, "grounding": _grounding, "highlights": _highlights,
    "frames": _frames, "captions": _captions, "episodes": _episodes,
    "diagnosis": _diagnosis,
}


# ---------------------------------------------------------------------------------------------- doing it


def evaluate(task: TaskName, truth: Source | Sequence[Moments], predictions: Any, *,
             train: Source | Sequence[Moments] | None = None, subsets: Collection[str] | None = None,
             training: Collection[str] = ("training",), fps: float | None = None, bootstrap: int = 0, seed: int = 0,
             worth: bool = True, on_draw: Callable[[], object] = lambda: None, **options: Any) -> Evaluation:
    """Score predictions with the field's metric, its floor and its ceiling.

    Args:
        task: one of :data:`TASKS`.
        truth: a file in any format of :data:`cuemark.datasets.FORMATS`, or what such a file holds.
        predictions: likewise; a list of them, one for each, where there are zero-shot ``splits`` or ``draws``.
        train: truth to learn the floor from, where it is in a file of its own; by default the truth's videos of the
            splits ``training``.
        subsets: which splits of the truth are scored; None: those that have predictions and are not ``training``,
            or all if no other is there.
        fps: frames a second of files that count frames and do not say how fast they run; the task ``frames`` counts at
            this rate too.
        bootstrap: draws of videos for a 95 % interval; 0: none.
        worth: give floor and ceiling; False is faster.
        options: of the task's metric (``style``, ``tious``, ``strict``, ``background`` …).

    Raises:
        CallError: an unknown task, an option it does not have, or several predictions where one is taken.
        DataError: a file is malformed, or no video of these splits is in the truth.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if task == "frames":
        options["fps"] = fps
    taken = inspect.signature(TASKS[task]).parameters
    if strange := [name for name in options if name not in taken]:
        raise CallError(f"task '{task}' does not take the option '{strange[0]}'; "
                        f"it takes {', '.join(taken) or 'none'}.")
    how = TASKS[task](**options)
    if task != "highlights" and isinstance(predictions, list | tuple) and not how.several:
        raise CallError(f"task '{task}' takes one set of predictions here, and {len(predictions)} were given; several "
                        "go with the zero-shot splits of detection or the draws of episodes.")
    notes: list[str] = []
    load = _moments if task == "highlights" else _videos
    real, learn, found = load(truth, predictions, train, subsets, training, fps, notes)
    score = (how.own or how.score)(real, found)
    floor, floor_of = _floor(how, real, learn, found) if worth else (None, "not asked for")
    ceiling = how.score(real, how.ceiling(real)).figures() if worth else None
    sure = interval(score, bootstrap, seed, on_draw) if bootstrap else None
    predicted = {m.video for m in found} if task == "highlights" else _predicted(found)
    lost = set().union(*score.missing) if isinstance(score, ZeroShotScore) else set(score.videos) - predicted
    missing = tuple(video for video in score.videos if video in lost)
    if predicted and predicted.isdisjoint(score.videos):
        notes.append(f"none of the videos that are scored is predicted: they are called such as '{score.videos[0]}', "
                     f"those of the predictions such as '{min(predicted)}'.")
    return Evaluation(task, score, score.figures(), floor, floor_of, ceiling,
                      "the truth itself, under the metric's limits" if worth else "not asked for", sure, missing,
                      (*notes, *notes_of(task, score)))


def compare(task: TaskName, truth: Source | Sequence[Moments], first: Any, second: Any, *, bootstrap: int = 1000,
            seed: int = 0, subsets: Collection[str] | None = None, training: Collection[str] = ("training",),
            fps: float | None = None, on_draw: Callable[[], object] = lambda: None, **options: Any
            ) -> dict[str, Difference]:
    """Is the second system better than the first? Every figure's difference, by paired bootstrap over videos.

    What was left out or strange in either is logged, a line each.

    Raises:
        CallError, DataError: as :func:`evaluate`.
    """
    one, other = (evaluate(task, truth, found, subsets=subsets, training=training, fps=fps, worth=False, **options)
                  for found in (first, second))
    for which, result in (("first", one), ("second", other)):
        lost = [f"{len(result.missing)} videos have no prediction, '{result.missing[0]}' first."
                ] if result.missing else []
        for line in (*lost, *result.notes):
            _log.warning("%s: %s", which, line)
    return paired(one.score, other.score, bootstrap, seed, on_draw)


def _floor(task: Task, real: Any, learn: Any | None, found: Any) -> tuple[dict[str, float] | None, str]:
    """For every figure, what the predictor that never looks gets that is best at it on training truth; their names."""
    said = task.floors(learn, real, found)
    if not said:
        return None, f"needs training truth with {task.needs} to learn from: give it with --train"
    first = next(iter(said))
    if learn is None:
        return task.score(real, said[first]).figures(), f"{first} (no training truth was given)"
    got = {name: task.score(real, row).figures() for name, row in said.items()}
    if len(said) == 1:
        return got[first], f"{first}, learnt from training truth"
    sample = _sample(learn)
    tried = {name: task.score(sample, row).figures() for name, row in task.floors(learn, sample, {}).items()}
    chosen = {figure: max(said, key=lambda name: (not math.isnan(tried[name][figure]), tried[name][figure]))
              for figure in got[first]}
    names = " or ".join(dict.fromkeys(chosen.values()))
    return {figure: got[name][figure] for figure, name in chosen.items()}, f"{names}, chosen on training truth"


def _sample(learn: Any) -> Any:
    chosen = np.random.default_rng(0).permutation(len(learn))[:CHOOSING]
    if isinstance(learn, dict):
        names = list(learn)
        return {names[i]: learn[names[i]] for i in sorted(chosen)}
    return [learn[i] for i in sorted(chosen)]


def _predicted(found: Any) -> set[str]:
    return set().union(*found) if isinstance(found, list) else {vid for vid, row in found.items() if row}


def notes_of(task: str, score: Any) -> tuple[str, ...]:
    """What a score left out or found strange, from the fields that some scores have."""
    notes = []
    ignored = getattr(score, "ignored", None)
    if ignored:
        first, more = next(iter(ignored)), len(ignored) - 1
        notes.append(f"{sum(ignored.values())} predictions carry a label that is no class of the truth "
                     f"('{first}'{f' and {more} more' if more else ''}) and were left out.")
    if isinstance(score, ZeroShotScore):
        notes += _notes_of_splits(score)
    if strange := getattr(score, "unknown", 0):
        notes.append(f"{strange} predictions are of videos or sentences that the truth does not have.")
    if task == "grounding" and (lost := getattr(score, "missing", 0)):
        notes.append(f"{lost} sentences have no prediction; they count as missed.")
    if doubt := getattr(score, "doubt", None):
        notes.append(doubt[0].upper() + doubt[1:])
    return tuple(notes)


def _notes_of_splits(score: ZeroShotScore) -> Iterator[str]:
    if score.unasked:
        first, more = next(iter(score.unasked)), len(score.unasked) - 1
        yield (f"{sum(score.unasked.values())} predictions carry a label that is no unseen class of their split "
               f"('{first}'{f' and {more} more' if more else ''}) and were left out.")
    if any(score.absent):
        counts = ", ".join(f"{len(names)} of split {n}" for n, names in enumerate(score.absent) if names)
        yield f"Unseen classes that the truth does not show take no part: {counts}."
    empty = [str(n) for n, one in enumerate(score.splits) if len(score.missing[n]) == len(one.videos)]
    if 0 < len(empty) < len(score.splits):
        yield f"No video that is scored is predicted in split {', '.join(empty)}; check its file."


# ---------------------------------------------------------------------------------------------- what is scored


def _videos(truth: Any, predictions: Any, train: Any, subsets: Collection[str] | None, training: Collection[str],
            fps: float | None, notes: list[str] | None) -> tuple[Truth, Truth | None, Any]:
    everything = truth_of(truth, fps=fps, notes=notes)
    several = isinstance(predictions, list | tuple)
    found = [_meeting(predictions_of(p, fps=fps, notes=notes), everything)
             for p in (predictions if several else [predictions])]
    merged: Predictions = {vid: [] for run in found for vid in run}
    scored, learn = split(everything, merged, subsets, training)
    if train is not None:
        given = truth_of(train, fps=fps, notes=notes)
        learn = {vid: v for vid, v in given.items() if v.annotations and vid not in scored}
        chosen = {vid: v for vid, v in learn.items() if v.subset in training}
        learn = chosen or learn  # a file of training alone may call its split anything
    # the official evaluators count what is predicted in other videos as false; here they are other splits' answers
    kept = [{vid: s for vid, s in run.items() if vid in scored or vid not in everything} for run in found]
    return scored, learn or None, kept if several else kept[0]


def _meeting(found: Predictions, truth: Truth) -> Predictions:
    """The same under the truth's names: ActivityNet's videos are called with ``v_`` in some files, without in others.

    Only where no name meets as it is, and all that meet then do so in one way.
    """
    if not truth or any(vid in truth for vid in found):
        return found
    for rename in (lambda vid: f"v_{vid}", lambda vid: vid.removeprefix("v_")):
        if any(rename(vid) in truth for vid in found):
            return {rename(vid): row for vid, row in found.items()}
    return found


def _moments(truth: Any, predictions: Any, train: Any, subsets: Any, training: Any, fps: Any, notes: Any
             ) -> tuple[list[Moments], list[Moments] | None, list[Moments]]:
    def rows(source: Any, kind: str) -> list[Moments]:
        if not isinstance(source, str | Path):
            return list(source)
        claims = {form.name: found for form, found in conversion.recognised(Path(source))}
        if claims and qvhighlights.FORMAT.name not in claims:
            raise DataError(f"'{source}' is in format {next(iter(claims))}, and highlights are scored on files of "
                            "QVHighlights, one JSON object a line; check the path and the task.")
        if kind == "truth" and claims.get(qvhighlights.FORMAT.name) == "predictions":
            raise DataError(f"'{source}' holds predictions, and truth is needed; perhaps the two files are swapped.")
        return qvhighlights.moments(Path(source))

    if subsets is not None:
        raise CallError("highlights have no splits to choose from: a file of QVHighlights is one split.")
    real = rows(truth, "truth")
    videos = {m.video for m in real}
    learn = [m for m in rows(train, "truth") if m.video not in videos] if train is not None else []
    return real, learn or None, rows(predictions, "predictions")


def split(truth: Truth, found: Predictions, subsets: Collection[str] | None, training: Collection[str]
           ) -> tuple[Truth, Truth]:
    """The videos that are scored, and the annotated training videos that a floor learns from."""
    if not truth:
        raise DataError("the truth holds no video; check the file.")
    if subsets is None:
        present = {truth[v].subset for v in found if v in truth} - set(training)
        subsets = tuple(sorted(present)) or tuple(sorted({v.subset for v in truth.values()}))
    scored = subset(truth, *subsets)
    learn = {vid: v for vid, v in truth.items() if v.subset in training and vid not in scored and v.annotations}
    return scored, learn


def draw_episodes(support: Source, classes: str | Path | Collection[str], out: str | Path, *,
                  query: Source | None = None, ways: int = 5, shots: int = 5, draws: int = 10, seed: int = 0
                  ) -> list[Episode]:
    """Draw few-shot episodes and write them; see :mod:`cuemark.metrics.episodes`.

    Args:
        support: truth that examples are drawn from: its training videos, where it has any.
        classes: the novel classes, or a file of them: a list (:func:`cuemark.datasets.splits.read_classes`) or a
            few-shot split (:func:`cuemark.datasets.splits.few_shot`), whose ``novel`` ones are taken.
        query: truth of the videos that are asked; by default the others of ``support``.

    Raises:
        DataError: there is nothing to ask, or a class has too few examples.
    """
    names = _novel(Path(classes)) if isinstance(classes, str | Path) else list(classes)
    everything = truth_of(support)
    shown = {vid: v for vid, v in everything.items() if v.subset == "training"} or everything
    asked = truth_of(query) if query is not None else {v: t for v, t in everything.items() if v not in shown}
    if not asked:
        raise DataError("no video is left to ask: examples are drawn from all of the truth, since it has "
                        f"{'only' if shown is not everything else 'no'} training videos; name others with --query.")
    drawn = draw(shown, asked, names, ways, shots, draws, seed)
    write_episodes(out, drawn)
    return drawn


def _novel(path: Path) -> list[str]:
    if path.suffix.lower() == ".json" and isinstance(read_json(path, "class"), dict):
        return few_shot(path)["novel"]
    return read_classes(path)
