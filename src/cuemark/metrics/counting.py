"""What the metrics share: checked arguments, truth and predictions as arrays, tIoU of pairs, and sums in rows.

Nothing here decides a figure; each metric's own file says how it counts.

Conventions
    * Times are seconds.
    * Videos are numbered in the order of the truth; -1 is a video that the truth lacks.
    * Classes are numbered in the order in which the truth first shows them. Truth without a label takes no part, and
      :data:`AMBIGUOUS` is no class.
    * A row is what stands together and is counted on its own, such as the hits of one class at one threshold; it is
      told by its number, and equal numbers are neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuemark.errors import CallError, DataError
from cuemark.segments import UNLABELLED, Predictions, Segment, Truth, times

AMBIGUOUS = "Ambiguous"
"""THUMOS14's label for stretches that may or may not show an action: a class to no measure."""
PAIRS = 1 << 20
"""So many (prediction, truth) pairs are compared at a time, which bounds memory."""


# ---------------------------------------------------------------------------------------------- what is asked for


def levels_of(tious: ArrayLike) -> NDArray[np.float64]:
    """``(T,)`` thresholds, checked.

    Raises:
        CallError: they are not a row of one or more numbers in 0..1.
    """
    levels = np.array(tious, np.float64, ndmin=1)
    if levels.ndim != 1 or levels.size == 0 or not ((levels >= 0) & (levels <= 1)).all():
        raise CallError(f"tIoU thresholds must be one or more numbers from 0 to 1, got {levels.tolist()}.")
    return levels


def weights_of(weights: ArrayLike, videos: Sequence[str]) -> NDArray[np.float64]:
    """``(V,)`` how many times each video counts, checked.

    Raises:
        CallError: there is not one number from 0 on for each video.
    """
    each = np.asarray(weights, np.float64)
    if each.shape != (len(videos),) or not ((each >= 0) & np.isfinite(each)).all():
        raise CallError(f"weights must be one number from 0 on for each of the {len(videos)} videos, got an array of "
                        f"shape {each.shape}.")
    return each


def scores_of(predictions: Predictions) -> NDArray[np.float64]:
    """The scores of all predictions in file order.

    Raises:
        DataError: a prediction has none.
    """
    scores = [s.score for row in predictions.values() for s in row]
    if None in scores:
        vid, i = next((vid, i) for vid, row in predictions.items() for i, s in enumerate(row) if s.score is None)
        raise DataError(f"video '{vid}', prediction {i}: there is no score to order it by; give every prediction one.")
    return np.array(scores, np.float64)


def refuse_nan(predictions: Predictions) -> None:
    """Raise the DataError of the first prediction whose score is NaN."""
    for vid, row in predictions.items():
        for i, s in enumerate(row):
            if s.score != s.score:
                raise DataError(f"video '{vid}', prediction {i}: its score is NaN; give every prediction a number.")


# ---------------------------------------------------------------------------------------------- as arrays


def videos_of(predictions: Predictions, truth: Truth) -> NDArray[np.int64]:
    """``(n,)`` the video of every prediction, in file order."""
    index = {vid: i for i, vid in enumerate(truth)}
    return np.repeat(np.array([index.get(vid, -1) for vid in predictions], np.int64),
                     np.array([len(row) for row in predictions.values()], np.int64))


@dataclass(frozen=True, eq=False, slots=True)
class Instances:
    """The labelled truth as arrays: m instances of K classes."""

    classes: dict[str, int]
    span: NDArray[np.float64]  # (m, 2) seconds
    video: NDArray[np.int64]  # (m,) index into the truth's videos
    label: NDArray[np.int64]  # (m,)

    @property
    def group(self) -> NDArray[np.int64]:
        """``(m,)`` a number for each video and class."""
        return self.video * len(self.classes) + self.label

    @classmethod
    def of(cls, rows: Sequence[tuple[int, Segment]]) -> Instances:
        """Of labelled segments, each with its video's number, in the order of the truth; at least one."""
        classes = {str(label): k for k, label in enumerate(dict.fromkeys(s.label for _, s in rows))}
        return cls(classes, times([s for _, s in rows]), np.array([i for i, _ in rows], np.int64),
                   np.array([classes[str(s.label)] for _, s in rows], np.int64))

    @classmethod
    def of_truth(cls, truth: Truth, zero_length: bool = True) -> Instances:
        """All that have a class.

        Raises:
            DataError: there is none.
        """
        rows = [(i, s) for i, v in enumerate(truth.values()) for s in v.annotations
                if s.label is not None and s.label != AMBIGUOUS and (zero_length or s.end > s.start)]
        if not rows:
            raise DataError("the truth has no labelled segment to detect; check the file and the subset chosen.")
        return cls.of(rows)


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """The predictions of known classes as arrays, in file order until sorted."""

    span: NDArray[np.float64]  # (n, 2) seconds
    video: NDArray[np.int64]  # (n,) index into the truth's videos, or -1
    label: NDArray[np.int64]  # (n,)
    score: NDArray[np.float64]  # (n,)
    position: NDArray[np.int64]  # (n,) among all predictions of the file
    ignored: dict[str, int]
    """Label that is no class -> how many predictions carried it; they are not here."""

    def group(self, real: Instances) -> NDArray[np.int64]:
        """``(n,)`` numbers like the truth's; of unknown videos one that no truth has."""
        return self.video * len(real.classes) + self.label

    def sorted(self, order: NDArray[np.int64]) -> Found:
        """Those at ``order``, in that order."""
        return Found(self.span[order], self.video[order], self.label[order], self.score[order], self.position[order],
                     self.ignored)

    @classmethod
    def of(cls, predictions: Predictions, truth: Truth, classes: dict[str, int]) -> Found:
        """All whose label is a class.

        Raises:
            DataError: a prediction has no score.
        """
        score = scores_of(predictions)
        every = [s for row in predictions.values() for s in row]
        video = videos_of(predictions, truth)
        label = np.array([classes.get(s.label, -1) for s in every], np.int64)  # type: ignore[arg-type]
        strange = Counter(UNLABELLED if every[i].label is None else str(every[i].label)
                          for i in np.flatnonzero(label < 0))
        kept = np.flatnonzero(label >= 0)
        return cls(times(every)[kept], video[kept], label[kept], score[kept], kept, dict(strange))


def best_first(score: NDArray[np.float64], group: NDArray[np.integer], later: bool) -> NDArray[np.int64]:
    """``(n,)`` order by rising group, in it by falling score.

    Of equal scores the later comes first, and NaN before all numbers; without ``later`` the earlier, and NaN last.
    """
    order = np.argsort(score, kind="stable")[::-1] if later else np.argsort(-score, kind="stable")
    return order[np.argsort(group[order], kind="stable")]


# ---------------------------------------------------------------------------------------------- tIoU of pairs


def tiou_of(a: NDArray[np.float64], b: NDArray[np.float64], empty: float) -> NDArray[np.float64]:
    """``(n,)`` tIoU of n pairs, as ActivityNet's code rounds it; ``empty`` where both have zero length."""
    inter = (np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0])).clip(min=0)
    union = (b[:, 1] - b[:, 0]) + (a[:, 1] - a[:, 0]) - inter
    return np.divide(inter, union, out=np.full(len(a), empty), where=union > 0)


def tiou_of_hull(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(…)`` tIoU of pairs of ``(…, 2)``, over the hull, which is the union where they meet and is rounded less often.

    So TH14evalDet, 2D-TAN, Ego4D and QVHighlights have it. What has zero length meets nothing.
    """
    inter = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    hull = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    return np.divide(inter, hull, out=np.zeros(inter.shape), where=inter > 0)


def pairs(a: NDArray[np.float64], a_group: NDArray[np.integer], b: NDArray[np.float64], b_group: NDArray[np.integer],
          least: float, overlap: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
          ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Every pair of one group with ``overlap`` of at least ``least``: index into a, rising, into b, and the overlap."""
    by_group = np.argsort(b_group, kind="stable")
    start = np.searchsorted(b_group[by_group], a_group, side="left")
    count = np.searchsorted(b_group[by_group], a_group, side="right") - start
    ends = count.cumsum()
    cuts = np.unique(np.append(np.searchsorted(ends, np.arange(0, ends[-1] if len(ends) else 0, PAIRS)), len(a)))
    parts = []
    for i, j in zip(np.append(0, cuts), cuts):
        who = np.repeat(np.arange(i, j), count[i:j])
        what = by_group[np.arange(len(who)) + np.repeat(start[i:j] - (count[i:j].cumsum() - count[i:j]), count[i:j])]
        iou = overlap(a[who], b[what])
        keep = iou >= least
        parts.append((who[keep], what[keep], iou[keep]))
    who, what, iou = (np.concatenate(column) for column in zip(*parts))
    return who, what, iou


def first_to_reach(found: NDArray[np.float64], found_group: NDArray[np.integer], real: NDArray[np.float64],
                   real_group: NDArray[np.integer], levels: NDArray[np.float64],
                   overlap: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
                   ) -> NDArray[np.int64]:
    """``(T, m)`` rank in its group, from 0, of the best prediction that reaches each truth at each threshold.

    Where none does it is the largest number. Predictions stand by rising group, in it best first.
    """
    rank = np.arange(len(found)) - begin_of(found_group)
    who, what, iou = pairs(found, found_group, real, real_group, levels.min(), overlap)
    first = np.full((len(levels), len(real)), np.iinfo(np.int64).max)
    for row, level in zip(first, levels, strict=True):
        np.minimum.at(row, what[iou >= level], rank[who[iou >= level]])
    return first


# ---------------------------------------------------------------------------------------------- sums in rows


def begin_of(row: NDArray[np.integer]) -> NDArray[np.int64]:
    """``(n,)`` where the row of each begins."""
    new = np.append(True, row[1:] != row[:-1])[:len(row)]
    return np.maximum.accumulate(np.where(new, np.arange(len(row)), 0))


def before(gain: NDArray[np.float64], begin: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(n,)`` sum of what stands before each in its row, which begins at :func:`begin_of`."""
    total = np.append(0, gain.cumsum())
    return total[:-1] - total[begin]


def envelope(values: NDArray[np.float64], row: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(n,)`` the highest of its row from each on, in log2(longest row) steps that each look twice as far."""
    values = values.copy()
    step, longest = 1, np.bincount(row).max(initial=0)
    while step < longest:
        further = np.where(row[step:] == row[:-step], values[step:], 0)
        np.maximum(values[:-step], further, out=values[:-step])
        step *= 2
    return values
