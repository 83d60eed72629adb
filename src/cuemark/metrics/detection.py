"""Temporal action detection: mean average precision over tIoU thresholds, as ActivityNet's evaluator counts it.

Which labelled segments of untrimmed videos were found, and how well do the scores order them? The measure is that of
Caba Heilbron et al., "ActivityNet: A Large-Scale Video Benchmark for Human Activity Understanding" (CVPR 2015), in
the form the yearly challenges fixed: thresholds 0.5, 0.55, … 0.95 and their mean. The released code of BMN, G-TAD,
P-GCN and DETAD counts the same way; on THUMOS14 the thresholds usually reported are 0.3, 0.4, … 0.7.

Conventions
    * Times are seconds. ``tIoU = |a ∩ b| / |a ∪ b|``.
    * The classes are the labels of the truth, in order of first appearance. Truth without a label takes no part.
    * Which videos count is decided by the truth given (``segments.subset``); predictions are never filtered.

Definition, for one class and one threshold
    1. Predictions are taken by falling score. Equal scores: the one later in the file first. (This is what the
       official reversed ``argsort`` does; a NaN score comes before every number.)
    2. Each looks at the truths of its own video and class by falling tIoU (equal tIoU: the later truth first) and
       takes the first that is still free, as long as tIoU ``>=`` threshold: a true positive. Unlike in PASCAL VOC it
       may so take its second best. If there is none it is a false positive.
    3. Precision after k predictions is TP/k, recall TP/number of truths. AP is the area under the precision envelope
       at all points: PASCAL VOC from 2010 on (Everingham et al., "The PASCAL Visual Object Classes Challenge: A
       Retrospective", IJCV 2015), not the older eleven-point mean. A class without predictions has AP 0.

    mAP is the mean of AP over classes, the average mAP the mean of mAP over thresholds.

Edge cases, each as the official code has it
    * A prediction of a video that the truth lacks is a false positive (counted in ``unknown``).
    * A truth of zero length stays in the count. A prediction of zero length in its video and class matches it at
      every threshold wherever the two lie (0/0 compares as "not below"), and prefers it to any other truth; every
      other tIoU with it is 0.
    * Thresholds are compared as floating point: the ninth of ``TIOUS`` is 0.8999999999999999.

One departure: a prediction whose label is no class of the truth ends the official program with a KeyError; here it
is left out and counted in ``ignored``, which changes no figure.

Cost: n log n in the number of (prediction, truth) pairs of one video and class; a million predictions take seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuemark.errors import CallError, DataError
from cuemark.segments import UNLABELLED, Predictions, Truth, times

TIOUS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
"""ActivityNet's thresholds."""
TIOUS.flags.writeable = False


@dataclass(frozen=True, eq=False)
class DetectionScore:
    """Average precision of every class at every threshold; all figures are fractions in 0..1, not percent."""

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

    @property
    def map(self) -> NDArray[np.float64]:
        """``(T,)`` mean over classes, one for each threshold."""
        return self.ap.mean(axis=0)

    @property
    def average(self) -> float:
        """Mean over classes and thresholds: the challenge's figure."""
        return float(self.map.mean())


def detection(truth: Truth, predictions: Predictions, tious: ArrayLike = TIOUS) -> DetectionScore:
    """Score predictions against truth; the module's docstring is the definition.

    Args:
        truth: video id -> what is known about it. Only labelled annotations take part.
        predictions: video id -> scored segments in any order. Order matters only between equal scores.
        tious: thresholds in 0..1, at least one.

    Raises:
        DataError: the truth has no labelled segment, or a prediction has no score.
        CallError: ``tious`` is not a row of numbers in 0..1.
    """
    levels = np.array(tious, np.float64, ndmin=1)
    if levels.ndim != 1 or levels.size == 0 or not ((levels >= 0) & (levels <= 1)).all():
        raise CallError(f"tIoU thresholds must be one or more numbers from 0 to 1, got {levels.tolist()}.")

    real = [(i, s) for i, v in enumerate(truth.values()) for s in v.annotations if s.label is not None]
    classes = {label: k for k, label in enumerate(dict.fromkeys(s.label for _, s in real))}
    if not classes:
        raise DataError("the truth has no labelled segment to detect; check the file and the subset chosen.")
    real_class = np.array([classes[s.label] for _, s in real])
    real_group = np.array([i for i, _ in real]) * len(classes) + real_class

    found = [s for segments in predictions.values() for s in segments]
    if any(s.score is None for s in found):
        vid, i = next((vid, i) for vid, row in predictions.items() for i, s in enumerate(row) if s.score is None)
        raise DataError(f"video '{vid}', prediction {i}: there is no score to order it by; give every prediction one.")
    index = {vid: i for i, vid in enumerate(truth)}
    video = np.repeat(np.array([index.get(vid, -1) for vid in predictions], np.int64),
                      np.array([len(segments) for segments in predictions.values()], np.int64))
    label = np.array([classes.get(s.label, -1) for s in found], np.int64)
    score = np.array([s.score for s in found], np.float64)

    # By class, in it by falling score, in that the later first: a sort that keeps order, read backwards.
    order = np.argsort(score, kind="stable")[::-1]
    order = order[np.argsort(label[order], kind="stable")]
    order = order[np.count_nonzero(label < 0):]
    video, label = video[order], label[order]

    taken = assign(times(found)[order], video * len(classes) + label,
                   times([s for _, s in real]), real_group, levels)
    positives = np.bincount(real_class, minlength=len(classes))
    edges = np.searchsorted(label, np.arange(len(classes) + 1))
    ap = np.array([average_precision(taken[:, edges[k]:edges[k + 1]] >= 0, positives[k]) for k in range(len(classes))])
    ignored = Counter(UNLABELLED if s.label is None else s.label for s in found if s.label not in classes)
    return DetectionScore(levels, tuple(str(name) for name in classes), ap, dict(ignored), int((video < 0).sum()))


def average_precision(hits: NDArray[np.bool_], positives: int) -> NDArray[np.float64]:
    """Area under the envelope of precision over recall, at all points.

    Args:
        hits: ``(…, n)``, best first: is this prediction a true positive?
        positives: how many truths there are, at least 1.

    Returns:
        ``(…,)`` in 0..1.
    """
    precision = hits.cumsum(axis=-1) / np.arange(1, hits.shape[-1] + 1)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    # Recall rises by 1/positives at each hit and nowhere else, so the area is a sum over hits.
    return (envelope * hits).sum(axis=-1) / positives


def assign(found: NDArray[np.float64], found_group: NDArray[np.integer], real: NDArray[np.float64],
           real_group: NDArray[np.integer], tious: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which truth each prediction takes, at every threshold: steps 1 and 2 of the definition.

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
    who, what, iou = _pairs(found, found_group, real, real_group, tious.min())
    best_first = np.lexsort((-what, -iou, who))
    who, what, iou = who[best_first], what[best_first], iou[best_first]
    first = np.searchsorted(who, np.arange(len(found)))
    taken = np.full((len(tious), len(found)), -1, np.int64)
    for row, tiou in zip(taken, tious):
        # A prediction's pairs fall in tIoU, so those that reach a threshold are the beginning of its list.
        last = first + np.bincount(who[iou >= tiou], minlength=len(found))
        owner = _serve(first, last, what, len(real))
        owned = np.flatnonzero(owner < len(found))
        row[owner[owned]] = owned
    return taken


def _pairs(found: NDArray[np.float64], found_group: NDArray[np.integer], real: NDArray[np.float64],
           real_group: NDArray[np.integer], least: float
           ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Every (prediction, truth) of one group with tIoU of at least ``least``: two indices and the tIoU.

    The tIoU of two segments of zero length is given as infinity: it beats all others and reaches every threshold.
    """
    by_group = np.argsort(real_group, kind="stable")
    start = np.searchsorted(real_group[by_group], found_group, side="left")
    count = np.searchsorted(real_group[by_group], found_group, side="right") - start
    who = np.repeat(np.arange(len(found)), count)
    what = by_group[np.arange(len(who)) + np.repeat(start - (count.cumsum() - count), count)]
    a, b = found[who], real[what]
    inter = (np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0])).clip(min=0)
    union = (b[:, 1] - b[:, 0]) + (a[:, 1] - a[:, 0]) - inter
    iou = np.divide(inter, union, out=np.full(len(who), np.inf), where=union > 0)
    keep = iou >= least
    return who[keep], what[keep], iou[keep]


def _serve(first: NDArray[np.int64], last: NDArray[np.int64], wish: NDArray[np.int64], truths: int
           ) -> NDArray[np.int64]:
    """Let predictions choose truths in order of their index, the lower the earlier; the owner of every truth.

    Prediction ``i`` wishes ``wish[first[i]:last[i]]``, best first. Instead of one after the other, all ask at once;
    a truth goes to the lowest index that ever asked, and who is refused or loses it asks for the next wish. Since
    all truths rank predictions alike this deferred acceptance (Gale & Shapley, 1962) ends in the same assignment,
    after a few rounds of array operations.

    Returns:
        ``(truths,)`` index of a prediction, or ``len(first)`` where nobody owns it.
    """
    nobody = len(first)
    owner = np.full(truths, nobody, np.int64)
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
