"""Few-shot localization: the released protocol with its floors, and N-way K-shot episodes that anyone can draw again.

A few-shot localizer gets K examples of each of N classes that it was not trained on, and finds these classes in other
videos. On ActivityNet the classes are split 160/20/20 into base, validation and test (novel).

As released (:func:`released`)
    Nag, Zhu & Xiang, "Few-Shot Temporal Action Localization with Query Adaptive Transformer" (BMVC 2021, "QAT"); CLAP's
    few-shot table adopts it. In the released code
    1. every prediction of a video carries the **true** label of the video (in :func:`released`: that of its first
       labelled annotation), so that nothing is classified;
    2. only videos with predictions count as truth: one that was never drawn, or is left out, is not missed;
    3. the rest is ActivityNet's detection mAP, average of tIoU 0.5, 0.55, … 0.95.
    On videos with a single annotation of a novel class, which covers 68 % of the video on average, constants do as well
    as methods: the whole video gets mAP@.5/.75/.95/average 61.04/32.61/7.09/34.84, one segment from 5 % to 95 % of each
    video 64.44/38.81/1.73/38.81 (371 videos of the validation subset). Reported: QAT 37.37, CLAP 40.25. A figure of
    this protocol means nothing without these floors beside it. (All scores are equal there, so the order decides:
    these figures take the videos by rising id. Other orders give averages from 33.8 to 35.1 and from 37.8 to 39.1.)

Episodes (:func:`draw`, :func:`episodes`)
    * An episode has N classes (``ways``), drawn without replacement, in the order drawn.
    * Support: for each class K videos (``shots``), drawn without replacement from the videos of the support truth that
      have the class, and of each one segment of the class, drawn if there are several. A video that has two of the
      classes can stand in the support of both.
    * Queries: every video of the query truth that has any of the classes, once, except those of the support. With
      support from the training subset and queries from validation nothing is lost by that.
    * Score of an episode: detection mAP on its queries, counting truth of its N classes only. The class must be
      predicted (with one way it is known); a prediction of another label is left out, a query that nothing answers is
      missed, a prediction of a video that is no query of the episode is left out and counted in ``unknown``.
    * Score of all: mean over episodes, with the 95 % interval of that mean, mean ± t(0.975, n - 1) · s / √n, where s is
      the standard deviation over the n episodes with n - 1 below. Draws share videos, so this is the uncertainty of
      drawing classes and examples, not of the choice of videos; the bootstrap (``figures(weights)``) is for that. With
      one episode there is no interval: NaN.
    * ``figures`` are those of detection, and ``average mAP ±``, half the width of the interval.

Drawing depends on ``seed``, on the number of the draw, the names of classes and the ids of videos: not on the order of
the truth's videos, nor on how many episodes are drawn in all. :func:`write_episodes` keeps a draw in a file

    {"version": "cuemark 1", "episodes": [{"classes": ["BMX", …],
        "support": [{"video": "v_1", "segment": [1.5, 20.0], "label": "BMX"}, …], "queries": ["v_7", …]}, …]}

so that other people's systems are asked the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuemark.errors import CallError, DataError
from cuemark.metrics.counting import weights_of
from cuemark.metrics.detection import TIOUS, DetectionScore, detection
from cuemark.segments import SCHEMA_VERSION, Predictions, Segment, Truth, read_json, write_json

LEVEL = 0.95
"""Of the interval."""


@dataclass(frozen=True, slots=True)
class Episode:
    """What a few-shot localizer is asked once."""

    classes: tuple[str, ...]
    """The N classes."""
    support: tuple[tuple[str, Segment], ...]
    """The N·K examples, class after class: video id, and the segment with its label."""
    queries: tuple[str, ...]
    """Ids of the videos to be searched, none of them of the support."""


@dataclass(frozen=True, eq=False)
class EpisodeScore:
    """How well episodes were answered; fractions in 0..1 but for :meth:`figures`."""

    videos: tuple[str, ...]
    """The V videos that are a query of any episode, in order of the truth."""
    scores: tuple[DetectionScore, ...]
    """Of each of the D episodes; its ``videos`` are the episode's queries."""
    unknown: int
    """Predictions of videos that are no query of their episode; they were left out."""

    @property
    def averages(self) -> NDArray[np.float64]:
        """``(D,)`` average mAP of each episode."""
        return np.array([score.average for score in self.scores])

    @property
    def map(self) -> NDArray[np.float64]:
        """``(T,)`` mAP at each threshold, mean over episodes."""
        return np.array([score.map for score in self.scores]).mean(axis=0)

    @property
    def average(self) -> float:
        """Average mAP, mean over episodes."""
        return float(self.averages.mean())

    @property
    def interval(self) -> float:
        """Half the width of the 95 % interval of ``average``; NaN with one episode."""
        return half_width(self.averages)

    def figures(self, weights: NDArray[np.float64] | None = None) -> dict[str, float]:
        """The figures of detection, mean over episodes, and half the width of the interval of the last; in percent.

        An episode that ``weights`` leave without truth does not count in the mean.

        Args:
            weights: ``(V,)`` how many times each video counts; None: once.

        Raises:
            CallError: there is not one weight for each video.
        """
        if weights is None:
            rows = [score.figures() for score in self.scores]
        else:
            of = dict(zip(self.videos, weights_of(weights, self.videos)))
            rows = [score.figures(np.array([of[vid] for vid in score.videos])) for score in self.scores]
        table = np.array([list(row.values()) for row in rows])
        table = table[~np.isnan(table).any(axis=1)]
        mean = table.mean(axis=0) if len(table) else np.full(table.shape[1], math.nan)
        figures = dict(zip(rows[0], mean.tolist()))
        return figures | {"average mAP ±": half_width(table[:, list(figures).index("average mAP")])}


def released(truth: Truth, predictions: Predictions, tious: ArrayLike = TIOUS) -> DetectionScore:
    """Score as QAT's released code does: true labels given, truth of videos with predictions only.

    Args:
        truth: the query videos; what is left of the truth when only novel classes count.
        predictions: video id -> scored segments; their labels do not matter.
        tious: thresholds in 0..1.

    Raises:
        DataError: no predicted video has a labelled annotation; a prediction has no score.
    """
    limited = {vid: known for vid, known in truth.items() if vid in predictions}
    label = {vid: next((s.label for s in known.annotations if s.label is not None), None)
             for vid, known in limited.items()}
    told = {vid: [replace(s, label=label.get(vid)) for s in found] for vid, found in predictions.items()}
    return detection(limited, told, tious)


def _has(truth: Truth, label: str) -> dict[str, list[Segment]]:
    """Videos with segments of a class, by rising id."""
    found = {vid: [s for s in truth[vid].annotations if s.label == label] for vid in sorted(truth)}
    return {vid: segments for vid, segments in found.items() if segments}


def draw(support: Truth, query: Truth, classes: Collection[str], ways: int, shots: int, draws: int, seed: int = 0
         ) -> list[Episode]:
    """Draw N-way K-shot episodes; the module's docstring says how.

    Args:
        support: where examples come from, such as the training subset.
        query: what is searched, such as the validation subset.
        classes: the classes to draw from, such as the 20 novel ones.
        ways: N, classes of an episode.
        shots: K, examples of each.
        draws: how many episodes.
        seed: the same seed draws the same.

    Raises:
        CallError: ``ways``, ``shots`` or ``draws`` is below 1, ``seed`` below 0, or there are fewer classes than
            ``ways``.
        DataError: a class has fewer videos in ``support`` than ``shots``; an episode has no query.
    """
    names = sorted(set(classes))
    for what, value, least in (("ways", ways, 1), ("shots", shots, 1), ("draws", draws, 1), ("seed", seed, 0)):
        if value < least:
            raise CallError(f"{what} must be at least {least}, got {value}.")
    if ways > len(names):
        raise CallError(f"{ways} ways need as many classes, but there are {len(names)}.")
    having = {name: _has(support, name) for name in names}
    for name, videos in having.items():
        if len(videos) < shots:
            raise DataError(f"class '{name}' has {len(videos)} videos in the support truth, too few for {shots} shots; "
                            "draw fewer shots or leave the class out.")
    asked = {name: set(_has(query, name)) for name in names}
    result = []
    for number in range(draws):
        rng = np.random.default_rng([seed, number])
        chosen = [names[i] for i in rng.permutation(len(names))[:ways]]
        examples: list[tuple[str, Segment]] = []
        for name in chosen:
            known = list(having[name].items())
            for i in rng.permutation(len(known))[:shots]:
                vid, segments = known[i]
                examples.append((vid, segments[int(rng.integers(len(segments)))]))
        queries = set().union(*(asked[name] for name in chosen)) - {vid for vid, _ in examples}
        if not queries:
            raise DataError(f"episode {number} has no video to search for {', '.join(map(repr, chosen))}; check the "
                            "query truth.")
        result.append(Episode(tuple(chosen), tuple(examples), tuple(sorted(queries))))
    return result


def episodes(truth: Truth, episodes: Sequence[Episode], answers: Sequence[Predictions], tious: ArrayLike = TIOUS
             ) -> EpisodeScore:
    """Score the answers to episodes; the module's docstring is the definition.

    Args:
        truth: at least the queries of all episodes.
        episodes: D episodes, as :func:`draw` or :func:`read_episodes` give them.
        answers: for each episode in turn, video id -> scored segments with labels.
        tious: thresholds in 0..1.

    Raises:
        DataError: there is no episode, or not one answer for each; a query is not in the truth, or has none of the
            episode's classes; a prediction has no score.
    """
    if not episodes or len(episodes) != len(answers):
        raise DataError(f"there are {len(episodes)} episodes and {len(answers)} answers; there must be at least one, "
                        "and one answer for each.")
    scores, unknown = [], 0
    for number, (episode, found) in enumerate(zip(episodes, answers)):
        limited: Truth = {}
        for vid in episode.queries:
            known = truth.get(vid)
            own = () if known is None else tuple(s for s in known.annotations if s.label in episode.classes)
            if known is None or not own:
                raise DataError(f"episode {number}: its query '{vid}' "
                                f"{'is not in the truth' if known is None else 'has none of its classes'}; score it "
                                "with the truth that it was drawn from.")
            limited[vid] = replace(known, annotations=own)
        unknown += sum(len(row) for vid, row in found.items() if vid not in limited)
        scores.append(detection(limited, {vid: row for vid, row in found.items() if vid in limited}, tious))
    queries = {vid for episode in episodes for vid in episode.queries}
    return EpisodeScore(tuple(vid for vid in truth if vid in queries), tuple(scores), unknown)


# ------------------------------------------------------------------------------------------- the interval


def half_width(values: NDArray[np.float64], level: float = LEVEL) -> float:
    """Half the width of the confidence interval of the mean of ``(n,)`` draws, by Student's t; NaN for n < 2."""
    if len(values) < 2:
        return math.nan
    return t_quantile((1 + level) / 2, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))


def t_quantile(probability: float, freedom: int) -> float:
    """The value that Student's t with ``freedom`` degrees of freedom stays below with ``probability``.

    For whole degrees of freedom the distribution function is a finite sum (Abramowitz & Stegun, "Handbook of
    Mathematical Functions", 26.7.3 and 26.7.4) of the angle atan(t / √freedom); it is inverted by halving that angle's
    interval until nothing is left of it.

    Raises:
        CallError: ``probability`` is not in [0.5, 1), or ``freedom`` is below 1.
    """
    if not 0.5 <= probability < 1 or freedom < 1:
        raise CallError(f"a quantile of t needs a probability from 0.5 to below 1 and at least one degree of freedom, "
                        f"got {probability} and {freedom}.")
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if (1 + _within(middle, freedom)) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.tan(high) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """Probability that t is within ± tan(angle)·√freedom."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


# -------------------------------------------------------------------------------------------------- files


def write_episodes(path: str | Path, episodes: Sequence[Episode]) -> None:
    """Write episodes as JSON, atomically; the layout is in the module's docstring."""
    rows = [{"classes": list(e.classes),
             "support": [{"video": vid, "segment": [s.start, s.end], "label": s.label} for vid, s in e.support],
             "queries": list(e.queries)} for e in episodes]
    write_json(path, {"version": SCHEMA_VERSION, "episodes": rows})


def read_episodes(path: str | Path) -> list[Episode]:
    """Read what :func:`write_episodes` wrote.

    Raises:
        DataError: naming the file, the episode and the key of what is wrong; among others a support video that is
            searched too, a class without support, or a support label that is no class of the episode.
    """
    data = read_json(path, "episode")
    if not isinstance(data, dict) or not isinstance(data.get("episodes"), list):
        raise DataError(f"'{path}' has no \"episodes\" list; an episode file is "
                        '{"episodes": [{"classes", "support", "queries"}]}.')
    return [_episode(row, f"'{path}', episode {number}") for number, row in enumerate(data["episodes"])]


def _episode(row: Any, where: str) -> Episode:
    if not isinstance(row, dict):
        raise DataError(f'{where}: expected an object with "classes", "support" and "queries".')
    classes, queries = _texts(row, "classes", where), _texts(row, "queries", where)
    support = []
    items = row.get("support")
    if not isinstance(items, list):
        raise DataError(f'{where}: "support" should be a list of {{"video", "segment", "label"}}.')
    for i, item in enumerate(items):
        try:
            (start, end), video, label = item["segment"], item["video"], item["label"]
            if not (isinstance(video, str) and isinstance(label, str)):
                raise TypeError
            support.append((video, Segment(start, end, label)))
        except (TypeError, KeyError, ValueError, OverflowError):
            raise DataError(f'{where}: "support" item {i} should be {{"video": id, "segment": [start, end], "label": '
                            "class}, in seconds.") from None
    if (labels := {s.label for _, s in support}) != set(classes):
        raise DataError(f'{where}: the labels of "support" ({_some(labels)}) are not its "classes" '
                        f"({_some(classes)}); every class needs an example.")
    if both := {vid for vid, _ in support} & set(queries):
        raise DataError(f"{where}: video '{min(both)}' is support and query at once; it cannot be both.")
    return Episode(classes, tuple(support), queries)


def _texts(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    items = row.get(key)
    if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
        raise DataError(f'{where}: "{key}" should be a list of names, at least one.')
    if len(set(items)) < len(items):
        raise DataError(f'{where}: "{key}" names something twice; each may stand there once.')
    return tuple(items)


def _some(names: Collection[str | None]) -> str:
    listed = sorted(map(repr, names))
    return ", ".join(listed[:5]) + (" …" if len(listed) > 5 else "")
