"""Temporal action detection: mean average precision over tIoU thresholds, and recall, as the benchmarks count them.

Which labelled segments of untrimmed videos were found, and how well do the scores order them? Four measures:

    :func:`detection`   ActivityNet's, which nearly every paper reports, also on THUMOS14 and HACS
    :func:`thumos`      TH14evalDet, the older official one of THUMOS14
    :func:`zero_shot`   the first over splits of the classes into seen and unseen
    :func:`recall_at`   Recall@kx of Ego4D's Moment Queries

Conventions of all
    * Times are seconds. ``tIoU = |a ∩ b| / |a ∪ b|``.
    * The classes are the labels of the truth, in order of first appearance. Truth without a label takes no part, and
      :data:`AMBIGUOUS` is no class.
    * Which videos count is decided by the truth given (``segments.subset``); predictions are never filtered. A
      prediction of a video that the truth lacks is a false positive (counted in ``unknown``).
    * A prediction whose label is no class of the truth is left out and counted in ``ignored``, which changes no
      figure. (ActivityNet's program ends with a KeyError, TH14evalDet warns.)

ActivityNet, :func:`detection`
    The measure of Caba Heilbron et al., "ActivityNet: A Large-Scale Video Benchmark for Human Activity
    Understanding" (CVPR 2015), in the form the yearly challenges fixed: thresholds 0.5, 0.55, … 0.95 and their mean.
    The released code of BMN, G-TAD, P-GCN and DETAD counts the same way. For one class and one threshold:

    1. Predictions are taken by falling score. Equal scores: the one later in the file first; a NaN score before every
       number. (The official code reads an ``argsort`` backwards that is not stable: with many equal scores their order,
       and with it the figure, is another on another processor. One file of real THUMOS14 detections, a tenth of them
       tied, gets 45.19, 45.64 or 45.90 at tIoU 0.3 by what the processor can do. Read backwards, a stable sort is what
       it does with few.)
    2. Each looks at the truths of its own video and class by falling tIoU (equal tIoU: the later truth first) and
       takes the first that is still free, as long as tIoU ``>=`` threshold: a true positive. Unlike in PASCAL VOC it
       may so take its second best. If there is none it is a false positive. (The official sort of tIoUs is not stable
       either: where segments are whole seconds and many tIoUs equal, its mAP moves by up to half a point from one
       processor to another. Here it is the figure of a processor whose sort is plain.)
    3. Precision after k predictions is TP/k, recall TP/number of truths. AP is the area under the precision envelope
       at all points: PASCAL VOC from 2010 on (Everingham et al., "The PASCAL Visual Object Classes Challenge: A
       Retrospective", IJCV 2015), not the older eleven-point mean. A class without predictions has AP 0.

    mAP is the mean of AP over classes, the average mAP the mean of mAP over thresholds. Quirks of the official code,
    kept by ``official=True``:

    * A truth of zero length stays in the count. A prediction of zero length in its video and class matches it at
      every threshold wherever the two lie (0/0 compares as "not below"), and prefers it to any other truth; every
      other tIoU with it is 0.
    * Thresholds are compared as floating point: the ninth of ``TIOUS`` is 0.8999999999999999.
    * Ambiguous stretches of THUMOS14 are background: what is predicted there is a false positive.

    ``official=False`` is the same definition without what nobody meant: truths of zero length are no positives,
    predictions of zero length match nothing, of equal scores (and of equal tIoUs) the first in the file comes first,
    and a NaN score is an error.

THUMOS14, :func:`thumos`
    TH14evalDet.m of the challenge's evaluation kit (Jiang et al., "THUMOS Challenge: Action Recognition with a Large
    Number of Classes", 2014). On real predictions it differs from the former by up to 3 points. For one class and
    threshold, in each video:

    1. Detections stand by falling score; equal scores: in file order. NaN comes last.
    2. The *truths* choose, in file order (the class's file of annotations; here the order in ``VideoTruth``): each
       takes the free detection of highest tIoU (equal: the higher score), as long as tIoU ``>`` threshold: a true
       positive, whatever its score. An earlier truth may so take the only detection of a later one.
    3. A detection left over that shares any time with an :data:`AMBIGUOUS` stretch of the video is dropped; every
       other is a false positive.

    All videos' detections then stand by falling score; of equal scores the video of the (alphabetically) lower name
    first. AP is the sum of the precision at each true positive, divided by the number of truths: no envelope. What
    has zero length shares no time with anything; it stays in its count and is never matched.

Zero-shot, :func:`zero_shot`
    The classes are split into seen (trained on) and unseen, several times over: ten random splits of 50 % and of
    75 % seen classes (Ju et al., "Prompting Visual-Language Models for Efficient Video Understanding", ECCV 2022;
    also STALE and UnLoc). A model is trained on the seen classes of each, so each split has predictions of its own
    (one set of them may answer all). Only unseen classes are asked for: each split is scored by :func:`detection` on
    the videos that show any of its unseen classes, with truth and predictions of those classes alone. Reported is the
    mean over splits. ``spread`` is the standard deviation between them (n - 1).

Ego4D Moment Queries, :func:`recall_at`
    Recall@kx (Grauman et al., "Ego4D: Around the World in 3,000 Hours of Egocentric Video", CVPR 2022): where a video
    has x instances of a class, its best k·x predictions of the class are looked at, and an instance is recalled if
    any of them overlaps it enough; one prediction may recall several. Two programs are in use, and differ:

    * ``over="instances"``: Ego4D's own (episodic-memory, MQ, ``get_retrieval_performance.py``): the share of all
      instances, whatever their class; tIoU ``>`` threshold. (It reads predictions as they stand in the file, which
      its own writer sorts by score; here they are sorted, equal scores in file order.)
    * ``over="classes"``: the ``compute_topkx_recall_detection`` that evaluators in ActionFormer's line carry: recall
      of every class over its instances, then the mean over classes; tIoU ``>=`` threshold; of equal scores the later
      in the file first.

    In both 0/0 recalls nothing.

Weights (``figures``)
    A video that counts w times counts as w videos would that have the same truth and predictions under other names.
    The copies of a prediction then have equal scores; they are counted one after the other, before or after another
    prediction of that score as the prediction itself would be. A class all of whose videos weigh 0 is no class;
    predictions of videos that the truth lacks count once.

Cost: n log n in the number of (prediction, truth) pairs of one video and class; a million predictions take seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuemark.errors import CallError, DataError
from cuemark.metrics.counting import (
    AMBIGUOUS,
    Found,
    Instances,
    before,
    begin_of,
    best_first,
    envelope,
    first_to_reach,
    levels_of,
    pairs,
    refuse_nan,
    tiou_of,
    tiou_of_hull,
    weights_of,
)
from cuemark.segments import UNLABELLED, Predictions, Truth, times

TIOUS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
"""ActivityNet's thresholds."""
TIOUS.flags.writeable = False


# ---------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, eq=False)
class DetectionScore:
    """Average precision of every class at every threshold; fractions in 0..1 but for :meth:`figures`."""

    tious: NDArray[np.float64]
    """``(T,)`` the thresholds."""
    classes: tuple[str, ...]
    """The K labels of the truth, in order of first appearance."""
    ap: NDArray[np.float64]
    """``(K, T)`` average precision."""
    ignored: Mapping[str, int]
    """Label that is no class of the truth -> how many predictions carried it and were left out."""
    unknown: int
    """How many of the predictions counted are of videos that the truth lacks (all false positives)."""
    videos: tuple[str, ...]
    """The V videos of the truth."""
    _counted: _Counted = field(repr=False)

    @property
    def map(self) -> NDArray[np.float64]:
        """``(T,)`` mean over classes, one for each threshold."""
        return self.ap.mean(axis=0)

    @property
    def average(self) -> float:
        """Mean over classes and thresholds: the challenge's figure."""
        return float(self.map.mean())

    @property
    def by_class(self) -> dict[str, NDArray[np.float64]]:
        """Class -> its ``(T,)`` average precision."""
        return dict(zip(self.classes, self.ap, strict=True))

    def figures(self, weights: NDArray[np.float64] | None = None) -> dict[str, float]:
        """mAP at every threshold (``mAP@0.50`` …) and ``average mAP``, in percent.

        Args:
            weights: ``(V,)`` how many times each video counts; None: once. NaN if no truth is left.

        Raises:
            CallError: there is not one weight for each video.
        """
        if weights is None:
            means = self.map
        else:
            ap = self._counted.average_precision(weights_of(weights, self.videos))
            ap = ap[~np.isnan(ap[:, 0])]
            means = ap.mean(axis=0) if len(ap) else np.full(len(self.tious), math.nan)
        row = {f"mAP@{_short(t)}": 100 * float(m) for t, m in zip(self.tious, means, strict=True)}
        return row | {"average mAP": 100 * float(means.mean())}


@dataclass(frozen=True, eq=False)
class ZeroShotScore:
    """One :class:`DetectionScore` for each split of the classes, and their mean."""

    splits: tuple[DetectionScore, ...]
    absent: tuple[tuple[str, ...], ...]
    """Of each split, the unseen classes that the truth does not show; they take no part."""
    missing: tuple[tuple[str, ...], ...]
    """Of each split, the videos that it is scored on and that have no prediction of its classes."""
    unasked: Mapping[str, int]
    """Label -> how many predictions carried it that are of a split which does not ask for it; they were left out."""
    videos: tuple[str, ...]
    """The V videos of the truth that show a class of any split; each is scored on those that show one of its own."""
    unknown: int
    """How many predictions that any split asks for are of videos which the truth lacks."""
    _places: tuple[NDArray[np.int64], ...] = field(repr=False)

    @property
    def map(self) -> NDArray[np.float64]:
        """``(T,)`` mean over splits of their mAP, a fraction."""
        return np.mean([s.map for s in self.splits], axis=0)

    @property
    def average(self) -> float:
        """Mean over splits of their average mAP, a fraction."""
        return float(np.mean([s.average for s in self.splits]))

    @property
    def spread(self) -> dict[str, float]:
        """Standard deviation of every figure between splits, in percent points; NaN for a single split."""
        rows = [s.figures() for s in self.splits]
        return {name: float(np.std([row[name] for row in rows], ddof=1)) if len(rows) > 1 else math.nan
                for name in rows[0]}

    def figures(self, weights: NDArray[np.float64] | None = None) -> dict[str, float]:
        """Means over splits, named and in percent as those of :class:`DetectionScore`.

        Args:
            weights: ``(V,)`` how many times each video counts; None: once. A split that they leave without truth is
                left out of the mean.

        Raises:
            CallError: there is not one weight for each video.
        """
        if weights is None:
            rows = [s.figures() for s in self.splits]
        else:
            each = weights_of(weights, self.videos)
            rows = [s.figures(each[place]) for s, place in zip(self.splits, self._places, strict=True)]
        rows = [row for row in rows if not math.isnan(row["average mAP"])]
        names = self.splits[0].figures()
        return {name: float(np.mean([row[name] for row in rows])) if rows else math.nan for name in names}


@dataclass(frozen=True, eq=False)
class RecallScore:
    """Recall@kx of every class, multiple and threshold; fractions in 0..1 but for :meth:`figures`."""

    multiples: tuple[int, ...]
    """The M values of k."""
    tious: NDArray[np.float64]
    """``(T,)`` the thresholds."""
    classes: tuple[str, ...]
    """The K labels of the truth, in order of first appearance."""
    over: Literal["instances", "classes"]
    ignored: Mapping[str, int]
    """Label that is no class of the truth -> how many predictions carried it."""
    unknown: int
    """How many predictions are of videos that the truth lacks; they change nothing."""
    videos: tuple[str, ...]
    """The V videos of the truth."""
    _recalled: NDArray[np.bool_] = field(repr=False)  # (M, T, m) of every truth
    _video: NDArray[np.int64] = field(repr=False)  # (m,)
    _class: NDArray[np.int64] = field(repr=False)  # (m,)

    @property
    def by_class(self) -> dict[str, NDArray[np.float64]]:
        """Class -> its ``(M, T)`` recall."""
        return {name: self._recalled[:, :, self._class == k].mean(axis=2) for k, name in enumerate(self.classes)}

    @property
    def recall(self) -> NDArray[np.float64]:
        """``(M, T)`` over all instances, or mean over classes."""
        return self._mean(np.ones(len(self.videos)))

    def _mean(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        each = weights[self._video]
        total = np.bincount(self._class, each, len(self.classes))
        if total.sum() == 0:
            return np.full(self._recalled.shape[:2], math.nan)
        if self.over == "classes":
            each = np.divide(each, total[self._class], out=np.zeros_like(each), where=each > 0)
            return self._recalled @ each / np.count_nonzero(total)
        return self._recalled @ each / total.sum()

    def figures(self, weights: NDArray[np.float64] | None = None) -> dict[str, float]:
        """``R@kx,IoU=t`` of every multiple and threshold, in percent.

        Args:
            weights: ``(V,)`` how many times each video counts; None: once. NaN if no truth is left.

        Raises:
            CallError: there is not one weight for each video.
        """
        recall = self.recall if weights is None else self._mean(weights_of(weights, self.videos))
        return {f"R@{k}x,IoU={t:g}": 100 * float(recall[i, j])
                for i, k in enumerate(self.multiples) for j, t in enumerate(self.tious)}


# ---------------------------------------------------------------------------------------------- the four measures


def detection(truth: Truth, predictions: Predictions, tious: ArrayLike = TIOUS, official: bool = True
              ) -> DetectionScore:
    """mAP as ActivityNet counts it; the module's docstring is the definition.

    Args:
        truth: video id -> what is known about it. Only labelled annotations take part.
        predictions: video id -> scored segments in any order. Order matters only between equal scores.
        tious: thresholds in 0..1, at least one.
        official: True: number for number what the released evaluator says, with its quirks; False: without them.

    Raises:
        DataError: the truth has no labelled segment, a prediction has no score, or (not ``official``) it is NaN.
        CallError: ``tious`` is not a row of numbers in 0..1.
    """
    levels = levels_of(tious)
    real = Instances.of_truth(truth, zero_length=official)
    found = Found.of(predictions, truth, real.classes)
    if not official:
        refuse_nan(predictions)
    found = found.sorted(best_first(found.score, found.label, later=official))
    overlap = partial(tiou_of, empty=np.inf) if official else _tiou_of_lengths
    met = pairs(found.span, found.group(real), real.span, real.group, levels.min(), overlap)
    owners = _choose(*met, len(found.span), len(real.span), levels, later=official)
    hits = [np.sort(owner[owner < len(found.span)]) for owner in owners]
    return _score(truth, real, found, levels, hits)


def thumos(truth: Truth, predictions: Predictions, tious: ArrayLike = (0.3, 0.4, 0.5, 0.6, 0.7)) -> DetectionScore:
    """mAP as THUMOS14's TH14evalDet counts it; the module's docstring is the definition.

    Args:
        truth: video id -> what is known about it; annotations in the order of their files. Those labelled
            :data:`AMBIGUOUS` excuse the predictions that overlap them.
        predictions: video id -> scored segments in any order. Order matters only between equal scores.
        tious: thresholds in 0..1, at least one.

    Raises:
        DataError: the truth has no labelled segment that is not ambiguous, or a prediction has no score.
        CallError: ``tious`` is not a row of numbers in 0..1.
    """
    levels = levels_of(tious)
    real = Instances.of_truth(truth)
    found = Found.of(predictions, truth, real.classes)
    rank = {name: i for i, name in enumerate(sorted(predictions))}
    names = np.repeat(np.array([rank[name] for name in predictions], np.int64),
                      np.array([len(row) for row in predictions.values()], np.int64))[found.position]
    found = found.sorted(np.lexsort((names, -found.score, found.label)))  # stable, and NaN last

    more = np.nextafter(levels, np.inf)  # ``> t`` is ``>=`` the next number
    met = pairs(real.span, real.group, found.span, found.group(real), more.min(), tiou_of_hull)
    owners = _choose(*met, len(real.span), len(found.span), more, later=False)
    hits = [np.flatnonzero(owner < len(real.span)) for owner in owners]

    unclear = [(i, s) for i, v in enumerate(truth.values()) for s in v.annotations if s.label == AMBIGUOUS]
    excused = np.zeros(len(found.span), bool)
    meets, _, _ = pairs(found.span, found.video, times([s for _, s in unclear]),
                        np.array([i for i, _ in unclear], np.int64), np.nextafter(0, 1), tiou_of_hull)
    excused[meets] = True
    return _score(truth, real, found, levels, hits, excused)


def zero_shot(truth: Truth, predictions: Predictions | Sequence[Predictions], splits: Sequence[Collection[str]],
              tious: ArrayLike = TIOUS, official: bool = True) -> ZeroShotScore:
    """:func:`detection` of unseen classes, over splits of the classes; the module's docstring is the definition.

    Args:
        truth: video id -> what is known about it: all classes.
        predictions: video id -> scored segments, for each split in turn; or once, for all. Only those of a split's
            unseen classes are counted.
        splits: the unseen classes of each split, by name.
        tious: thresholds in 0..1, at least one.
        official: as in :func:`detection`.

    Raises:
        DataError: the truth shows no class of a split, or a prediction has no score.
        CallError: there is no split, predictions are not as many, or ``tious`` is not a row of numbers in 0..1.
    """
    if not splits or any(isinstance(names, str) or not names for names in splits):
        raise CallError("splits must be one or more collections of class names, each with the unseen classes of one "
                        "split.")
    every = [frozenset(names) for names in splits]
    if isinstance(predictions, Mapping):
        named = frozenset().union(*every)
        runs, unasked = [predictions] * len(every), _others(predictions, named)
        unknown = sum(s.label in named for vid, row in predictions.items() if vid not in truth for s in row)
    else:
        runs = list(predictions)
        if len(runs) != len(every):
            raise CallError(f"there are {len(every)} splits and {len(runs)} sets of predictions; give one for each, or "
                            "one for all.")
        unasked = sum(map(_others, runs, every), Counter())
        unknown = sum(s.label in unseen for unseen, run in zip(every, runs) for vid, row in run.items()
                      if vid not in truth for s in row)
    scores, absent, missing = [], [], []
    for n, (unseen, run) in enumerate(zip(every, runs)):
        asked = {vid: replace(v, annotations=kept) for vid, v in truth.items()
                 if (kept := tuple(s for s in v.annotations if s.label in unseen))}
        if not asked:
            raise DataError(f"split {n}: the truth shows none of its {len(unseen)} classes, of which one is "
                            f"'{min(unseen)}'; check their names and the subset chosen.")
        answers = {vid: [s for s in row if s.label in unseen] for vid, row in run.items()
                   if vid in asked or vid not in truth}
        scores.append(detection(asked, answers, tious, official))
        absent.append(tuple(sorted(unseen - {s.label for v in asked.values() for s in v.annotations})))
        missing.append(tuple(vid for vid in asked if not answers.get(vid)))
    shown = {vid for score in scores for vid in score.videos}
    videos = tuple(vid for vid in truth if vid in shown)
    place = {vid: i for i, vid in enumerate(videos)}
    places = tuple(np.array([place[vid] for vid in score.videos]) for score in scores)
    return ZeroShotScore(tuple(scores), tuple(absent), tuple(missing), dict(unasked), videos, unknown, places)


def _others(predictions: Predictions, names: Collection[str]) -> Counter[str]:
    """The labels of predictions that are none of the names, and how many carry each."""
    return Counter(s.label or UNLABELLED for row in predictions.values() for s in row if s.label not in names)


def recall_at(truth: Truth, predictions: Predictions, multiples: Sequence[int] = (1, 3, 5),
              tious: ArrayLike = (0.1, 0.2, 0.3, 0.4, 0.5), over: Literal["instances", "classes"] = "instances"
              ) -> RecallScore:
    """Recall@kx of Ego4D's Moment Queries; the module's docstring is the definition.

    Args:
        truth: video id -> what is known about it. Only labelled annotations take part.
        predictions: video id -> scored segments in any order. Order matters only between equal scores.
        multiples: the values of k: of a class with x instances in a video, k·x predictions are looked at.
        tious: thresholds in 0..1, at least one.
        over: ``instances`` as Ego4D's evaluator pools them, or ``classes`` for a mean over classes.

    Raises:
        DataError: the truth has no labelled segment, or a prediction has no score.
        CallError: ``multiples`` are not whole numbers from 1 on, ``tious`` is not a row of numbers in 0..1, or
            ``over`` is neither of the two.
    """
    levels = levels_of(tious)
    if not len(multiples) or any(k != int(k) or k < 1 for k in multiples):
        raise CallError(f"multiples, how many predictions for each instance, must be whole numbers from 1 on, "
                        f"got {list(multiples)}.")
    if over not in ("instances", "classes"):
        raise CallError(f"over must be 'instances' or 'classes', got '{over}'.")
    pooled = over == "instances"
    real = Instances.of_truth(truth)
    found = Found.of(predictions, truth, real.classes)
    found = found.sorted(best_first(found.score, found.group(real), later=not pooled))
    reach = np.nextafter(levels, np.inf) if pooled else levels  # ``> t`` is ``>=`` the next number
    first = first_to_reach(found.span, found.group(real), real.span, real.group, reach,
                           tiou_of_hull if pooled else partial(tiou_of, empty=-1.0))
    _, which, count = np.unique(real.group, return_inverse=True, return_counts=True)
    ks = np.array(multiples, np.int64)
    recalled = first < ks[:, None, None] * count[which]
    return RecallScore(tuple(int(k) for k in ks), levels, tuple(real.classes), over, found.ignored,
                       int((found.video < 0).sum()), tuple(truth), recalled, real.video, real.label)


def average_precision(hits: NDArray[np.bool_], positives: int | NDArray[np.integer]) -> NDArray[np.float64]:
    """Area under the envelope of precision over recall, at all points.

    Args:
        hits: ``(…, n)``, best first: is this prediction a true positive?
        positives: how many truths there are, at least 1; ``(…,)`` or one number for all.

    Returns:
        ``(…,)`` in 0..1.
    """
    precision = hits.cumsum(axis=-1) / np.arange(1, hits.shape[-1] + 1)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    # Recall rises by 1/positives at each hit and nowhere else, so the area is a sum over hits.
    return (envelope * hits).sum(axis=-1) / positives


def assign(found: NDArray[np.float64], found_group: NDArray[np.integer], real: NDArray[np.float64],
           real_group: NDArray[np.integer], tious: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which truth each prediction takes, at every threshold: steps 1 and 2 of ActivityNet's definition.

    Predictions and truths meet only inside a group (the same video and class, numbered by the caller). There, in the
    order given, each prediction takes the free truth of highest tIoU that reaches the threshold.

    Args:
        found: ``(n, 2)`` starts and ends of predictions in seconds; in each group the best first.
        found_group: ``(n,)`` integers; one that no truth has is allowed.
        real: ``(m, 2)`` starts and ends of truths in seconds.
        real_group: ``(m,)`` integers.
        tious: ``(T,)`` thresholds.

    Returns:
        ``(T, n)``: index into ``real``, or -1 for a false positive.
    """
    met = pairs(found, found_group, real, real_group, tious.min(), partial(tiou_of, empty=np.inf))
    taken = np.full((len(tious), len(found)), -1, np.int64)
    for row, owner in zip(taken, _choose(*met, len(found), len(real), tious, later=True), strict=True):
        owned = np.flatnonzero(owner < len(found))
        row[owner[owned]] = owned
    return taken


def _short(tiou: float) -> str:
    """0.50; but 0.125, where two digits would tell another threshold."""
    return f"{tiou:.2f}" if abs(tiou - round(tiou, 2)) < 1e-9 else f"{tiou:g}"


# ---------------------------------------------------------------------------------------------- counting


@dataclass(frozen=True, eq=False, slots=True)
class _Counted:
    """What average precision is computed from, for any weights of the videos: who counts, in order, and who hit.

    The n predictions stand class by class, in each best first. A row is one threshold and class, number ``t * K + k``.
    """

    positive_video: NDArray[np.int64]  # (m,) of the truths
    positive_class: NDArray[np.int64]  # (m,)
    video: NDArray[np.int32]  # (n,) or -1
    begin: NDArray[np.int64]  # (K,) where each class begins
    hit: NDArray[np.int64]  # (H,) the true positives, by row and in it best first
    row: NDArray[np.int64]  # (H,)
    levels: int  # T
    excused: NDArray[np.bool_] | None  # (n,) counts only where it hit; None: all count, and precision has an envelope

    def average_precision(self, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """``(K, T)``, each video counted ``weights[v]`` times; NaN for classes without a truth.

        A prediction that counts w times is a block of w alike. Precision rises inside a block of hits and falls
        inside one of misses, so an envelope is decided at the ends of blocks of hits.
        """
        classes = len(self.begin)
        if weights is None:
            weights = np.ones(max(self.positive_video.max(), self.video.max(initial=0)) + 1)
        each = np.append(weights, 1.0)[self.video]  # an unknown video, -1, counts once
        sure = each if self.excused is None else np.where(self.excused, 0, each)
        seen = np.append(0, sure.cumsum())
        seen = seen[self.hit] - seen[self.begin[self.row % classes]]
        begin = begin_of(self.row)
        gain = each[self.hit]
        reached = before(gain, begin)
        if self.excused is None:
            counted = seen + gain
            precision = np.divide(reached + gain, counted, out=np.zeros_like(gain), where=counted > 0)
            area = envelope(precision, self.row) * gain
        else:
            seen = seen + before(gain * self.excused[self.hit], begin)
            area = np.zeros_like(gain)
            for j in range(1, math.ceil(gain.max(initial=0)) + 1):
                area += (gain - (j - 1)).clip(0, 1) * (reached + j) / (seen + j)
        positives = np.bincount(self.positive_class, weights[self.positive_video], classes)
        areas = np.bincount(self.row, area, self.levels * classes).reshape(self.levels, classes)
        return np.divide(areas, positives, out=np.full(areas.shape, math.nan), where=positives > 0).T


def _score(truth: Truth, real: Instances, found: Found, levels: NDArray[np.float64], hits: list[NDArray[np.int64]],
           excused: NDArray[np.bool_] | None = None) -> DetectionScore:
    """``hits``: of each threshold, the predictions that are true positives, rising."""
    classes = len(real.classes)
    hit = np.concatenate(hits)
    row = found.label[hit] + np.repeat(np.arange(len(levels)), [len(h) for h in hits]) * classes
    counted = _Counted(real.video, real.label, found.video.astype(np.int32),
                       np.searchsorted(found.label, np.arange(classes)), hit, row, len(levels), excused)
    return DetectionScore(levels, tuple(real.classes), counted.average_precision(), found.ignored,
                          int((found.video < 0).sum()), tuple(truth), counted)


# ---------------------------------------------------------------------------------------------- who takes whom


def _tiou_of_lengths(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same, where zero length is below every threshold, 0 too."""
    return np.where((a[:, 1] > a[:, 0]) & (b[:, 1] > b[:, 0]), tiou_of(a, b, -1.0), -1.0)


def _choose(who: NDArray[np.int64], what: NDArray[np.int64], iou: NDArray[np.float64], choosers: int, chosen: int,
            levels: NDArray[np.float64], later: bool) -> Iterator[NDArray[np.int64]]:
    """At each threshold, who takes what: one after the other, the free one of highest tIoU that reaches it.

    Args:
        who, what, iou: ``(pairs,)`` of :func:`pairs`.
        choosers, chosen: how many there are of both.
        later: of equal tIoUs, prefer the one of higher index.

    Yields:
        ``(chosen,)`` by whom each was taken, or ``choosers`` if by nobody.
    """
    best_first = np.lexsort((-what if later else what, -iou, who))
    who, what, iou = who[best_first], what[best_first], iou[best_first]
    first = np.searchsorted(who, np.arange(choosers))
    for level in levels:
        # A chooser's pairs fall in tIoU, so those that reach a threshold are the beginning of its list.
        last = first + np.bincount(who[iou >= level], minlength=choosers)
        yield _serve(first, last, what, chosen)


def _serve(first: NDArray[np.int64], last: NDArray[np.int64], wish: NDArray[np.int64], chosen: int
           ) -> NDArray[np.int64]:
    """Let choosers take their pick in order of their index, the lower the earlier; the owner of everything chosen.

    Chooser ``i`` wishes ``wish[first[i]:last[i]]``, best first. Instead of one after the other, all ask at once;
    what they ask for goes to the lowest index that ever asked, and who is refused or loses it asks for the next wish.
    Since all that is chosen ranks choosers alike this deferred acceptance (Gale & Shapley, 1962) ends in the same
    assignment, after a few rounds of array operations.

    Returns:
        ``(chosen,)`` index of a chooser, or ``len(first)`` where nobody owns it.
    """
    nobody = len(first)
    owner = np.full(chosen, nobody, np.int64)
    at = first.copy()
    asking = np.flatnonzero(last > first)
    while asking.size:
        wanted = wish[at[asking]]
        before = owner[wanted]
        np.minimum.at(owner, wanted, asking)
        won = owner[wanted] == asking
        robbed = before[won]
        asking = np.concatenate([asking[~won], robbed[robbed < nobody]])
        at[asking] += 1
        asking = asking[at[asking] < last[asking]]
    return owner
