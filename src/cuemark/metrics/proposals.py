"""Temporal proposals: average recall over the average number of proposals, AR@AN, and the area under that curve.

Would a localizer's class-agnostic candidates cover what happens, and with how few of them? The measure is that of
ActivityNet's proposal task (``eval_proposal.py``, challenges of 2016 to 2019), which BSN, BMN and their successors
report: thresholds 0.5, 0.55, … 0.95.

Conventions
    * Times are seconds, ``tIoU = |a ∩ b| / |a ∪ b|``. Labels play no part, in truth and in proposals; only truth
      labelled ``Ambiguous`` (THUMOS14) is left out.
    * A truth is recalled if any proposal that is looked at has tIoU ``>=`` threshold with it; one proposal may recall
      several. Recall is over all truths of all videos, AR its mean over thresholds.
    * Proposals are taken by falling score; a NaN score is an error.

Official (``official=True``)
    Proposals are allotted to videos in proportion to how many each has, not equally. With V annotated videos, ``n_v``
    proposals in video v and N in the whole file (also those of other videos):

    1. ``max_number`` A is the most looked at per video, on average; None: N / V. Video v keeps its best
       ``min(int(n_v · A V / N), n_v)``; all together they keep R.
    2. The curve has 100 points. At point j, video v shows the best ``int(kept_v · j/100 · A V / R)`` it kept. Its
       place on the axis, the average number of proposals, is ``j/100 · A V / R · R / V = j A / 100``.
    3. The area is by trapezoids over the axis, divided by the last place on it. As the axis begins at A/100, perfect
       proposals have an area of 0.99.

    So AR@1 is one proposal per video *on average*: the same as the best of each only where all videos have equally
    many. Both ``int`` truncate after floating point: with exactly 100 proposals a video AN = 29, 57 and 58 show 28,
    56 and 57. Fewer than A proposals per video continue as a plateau up to A. Equal scores: the later in the file
    first (the official sort is not stable: see ``metrics.detection``). A truth of zero length stays in the count and
    is never recalled. If no annotated video has a proposal (the official program divides by zero), recall and area
    are 0.

Clean (``official=False``)
    At point k every video shows its best k, for k = 1 … ``max_number`` (None: as many as any annotated video has).
    The area is the mean of AR over these k, so that perfect proposals have 1. Truths of zero length, which nothing can
    recall, are left out; equal scores: the earlier in the file first.

Weights (``figures``)
    A video that counts w times counts as w videos would that have the same truth and proposals under other names. V,
    N and R, and with them the allotment, are those of the weighted whole. Proposals of videos that the truth lacks
    count once.

Cost: n log n in the number of (proposal, truth) pairs of a video; half a million proposals take about a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuemark.errors import CallError, DataError
from cuemark.metrics.counting import (
    AMBIGUOUS,
    best_first,
    first_to_reach,
    levels_of,
    refuse_nan,
    scores_of,
    tiou_of,
    videos_of,
    weights_of,
)
from cuemark.metrics.detection import TIOUS
from cuemark.segments import Predictions, Truth, times

SHOWN = (1, 5, 10, 100)
"""The average numbers of proposals whose AR papers print."""
POINTS = 100
"""Of the official curve."""


@dataclass(frozen=True, eq=False)
class ProposalScore:
    """The curve of recall over the average number of proposals; fractions in 0..1 but for :meth:`figures`."""

    tious: NDArray[np.float64]
    """``(T,)`` the thresholds."""
    numbers: NDArray[np.float64]
    """``(N,)`` the average number of proposals per video at each point of the curve."""
    recall: NDArray[np.float64]
    """``(T, N)``."""
    official: bool
    unknown: int
    """How many proposals are of videos that the truth lacks."""
    videos: tuple[str, ...]
    """The V videos of the truth."""
    _ranks: _Ranks = field(repr=False)

    @property
    def ar(self) -> NDArray[np.float64]:
        """``(N,)`` average recall: mean over thresholds."""
        return self.recall.mean(axis=0)

    @property
    def auc(self) -> float:
        """Area under ``ar`` over ``numbers``: the challenge's figure, here as a fraction."""
        return _area(self.numbers, self.ar, self.official)

    def at(self, number: float) -> float:
        """AR at an average number of proposals, on the straight line between two points; NaN beyond the curve."""
        return _at(self.numbers, self.ar, number)

    def figures(self, weights: NDArray[np.float64] | None = None) -> dict[str, float]:
        """``AR@1``, ``AR@5``, ``AR@10``, ``AR@100`` (NaN where the curve does not reach) and ``AUC``, in percent.

        Args:
            weights: ``(V,)`` how many times each video counts; None: once. NaN if no truth is left.

        Raises:
            CallError: there is not one weight for each video.
        """
        if weights is None:
            numbers, ar = self.numbers, self.ar
        else:
            numbers, recall = self._ranks.curve(weights_of(weights, self.videos))
            ar = recall.mean(axis=0)
        row = {f"AR@{k}": 100 * _at(numbers, ar, k) for k in SHOWN}
        return row | {"AUC": 100 * _area(numbers, ar, self.official)}


def proposals(truth: Truth, predictions: Predictions, tious: ArrayLike = TIOUS, max_number: float | None = 100,
              official: bool = True) -> ProposalScore:
    """Score proposals against truth; the module's docstring is the definition.

    Args:
        truth: video id -> what is known about it. All annotations count but ambiguous ones.
        predictions: video id -> scored segments in any order. Order matters only between equal scores.
        tious: thresholds in 0..1, at least one.
        max_number: where the curve ends, in proposals per video on average; None: with all there are.
        official: True: number for number what the released evaluator says; False: the best k of every video.

    Raises:
        DataError: the truth has no annotated segment, or a prediction has no score or NaN.
        CallError: ``tious`` is not a row of numbers in 0..1, or ``max_number`` is not above 0 (not ``official``: a
            whole number from 1 on).
    """
    levels = levels_of(tious)
    if max_number is not None and not (0 < max_number < math.inf and (official or max_number == int(max_number))):
        raise CallError(f"max_number must be a {'' if official else 'whole '}number above 0, got {max_number}.")
    real = [(i, s) for i, v in enumerate(truth.values()) for s in v.annotations
            if s.label != AMBIGUOUS and (official or s.end > s.start)]
    if not real:
        raise DataError("the truth has no annotated segment to propose; check the file and the subset chosen.")
    real_video = np.array([i for i, _ in real], np.int64)

    score = scores_of(predictions)
    refuse_nan(predictions)
    video = videos_of(predictions, truth)
    order = best_first(score, video, later=official)
    unknown = int(np.count_nonzero(video < 0))
    order = order[unknown:]
    video = video[order]
    span = times([s for row in predictions.values() for s in row])[order]
    first = first_to_reach(span, video, times([s for _, s in real]), real_video, levels, partial(tiou_of, empty=-1.0))
    have = np.bincount(video, minlength=len(truth))
    ranks = _Ranks(first, real_video, have, unknown, max_number, official)
    return ProposalScore(levels, *ranks.curve(np.ones(len(truth))), official, unknown, tuple(truth), ranks)


@dataclass(frozen=True, eq=False, slots=True)
class _Ranks:
    """What the curve is computed from, for any weights of the videos."""

    first: NDArray[np.int64]  # (T, m) rank in its video, from 0, of the first proposal that reaches each truth
    real_video: NDArray[np.int64]  # (m,)
    have: NDArray[np.int64]  # (V,) proposals
    unknown: int
    max_number: float | None
    official: bool

    def curve(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``(N,)`` average numbers of proposals and ``(T, N)`` recall, each video counted ``weights[v]`` times."""
        each = weights[self.real_video]
        numbers, shown, of = self._allotted(weights) if self.official else self._best(weights)
        if each.sum() == 0:
            return numbers, np.full((len(self.first), len(numbers)), math.nan)
        # Point at which each truth is recalled: the first that shows more proposals than its rank. Rows of ``shown``
        # rise, so all can be searched at once if each is moved above the one before.
        apart = shown.max(initial=0) + 2
        ladder = (shown + np.arange(len(shown))[:, None] * apart).ravel()
        rank = np.minimum(self.first, apart - 2)  # beyond what any video shows: never recalled
        row = of[self.real_video]
        point = np.searchsorted(ladder, rank + row * apart, side="right") - row * len(numbers)
        won = np.array([np.bincount(p, each, len(numbers) + 1)[:-1] for p in point])
        return numbers, won.cumsum(axis=1) / each.sum()

    def _allotted(self, weights: NDArray[np.float64]
                  ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """The axis; ``(rows, N)`` how many proposals are shown at each point; ``(V,)`` which row is each video's.

        Every product is taken in the official order, for the truncations follow the last bit.
        """
        annotated = np.zeros(len(weights))
        annotated[self.real_video] = weights[self.real_video]
        videos, total = annotated.sum(), weights @ self.have + self.unknown
        most = self.max_number if self.max_number is not None else (total / videos if videos else 0.0)
        share = np.arange(1, POINTS + 1) / float(POINTS)
        ratio = most * videos / total if total else 0.0
        kept = np.minimum((self.have * ratio).astype(np.int64), self.have)
        retrieved = annotated @ kept
        if not retrieved:
            return share * most, np.zeros((1, POINTS), np.int64), np.zeros(len(weights), np.int64)
        part = share * (most * videos / retrieved)
        counts, of = np.unique(kept, return_inverse=True)
        shown = np.minimum((counts[:, None] * part).astype(np.int64), counts[:, None])
        return part * (retrieved / videos), shown, of

    def _best(self, weights: NDArray[np.float64]
              ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        most = self.max_number
        if most is None:
            counted = self.real_video[weights[self.real_video] > 0]
            most = self.have[counted].max(initial=1)
        k = np.arange(1, int(most) + 1)
        return k.astype(np.float64), k[None], np.zeros(len(weights), np.int64)


def _area(numbers: NDArray[np.float64], ar: NDArray[np.float64], official: bool) -> float:
    if not official:
        return float(ar.mean())
    return float(np.trapezoid(ar, numbers) / numbers[-1]) if numbers[-1] > 0 else float(ar[-1])


def _at(numbers: NDArray[np.float64], ar: NDArray[np.float64], number: float) -> float:
    point = np.flatnonzero(np.isclose(numbers, number, rtol=1e-9, atol=0))
    if point.size:  # rounding of the axis moves nothing
        return float(ar[point[0]])
    return float(np.interp(number, numbers, ar, left=math.nan, right=math.nan))
