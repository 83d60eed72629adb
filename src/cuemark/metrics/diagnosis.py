"""Where a detector's errors are: what its false positives are, which instances it finds, which it misses.

DETAD: Alwassel et al., "Diagnosing Error in Temporal Action Detectors" (ECCV 2018). One number says how good a
detector is; this says what is wrong with it, and what mending each fault would be worth.

Conventions
    * Who takes whom, and the order of predictions, is that of :func:`cuemark.metrics.detection.detection`: best score
      first, of equal scores the later in the file, NaN before all numbers; a prediction takes the free truth of its
      video and class with the highest tIoU that reaches the threshold.
    * Times are seconds. Truth without a label takes no part, nor does THUMOS14's ``Ambiguous`` (which DETAD's files do
      not have).
    * Instances that cover more than all of their video, and those without length, are removed first (``removed``).
    * Classes are the labels that are left. DETAD's thresholds are ``TIOUS`` on ActivityNet and 0.5 alone on THUMOS14.

Normalised average precision, AP_N
    The precision of a class grows with the number of its instances: of two equally good detectors of two classes, that
    of the more frequent class seems better. So precision is taken as if all classes were equally frequent,

        precision = R N / (R N + FP),    N = instances / classes,

    with R the recall of the class and FP its false positives so far. AP_N is the area under the envelope of that
    precision at all points; a class without predictions has 0. mAP_N is the mean over classes and thresholds.

False positives
    Of each class j, with N_j instances, only its best 10 N_j predictions are looked at. A prediction that takes no
    truth is told by the truth, of any class, that has the highest tIoU with it (of equal ones the earlier):

        tIoU >= threshold   the same label: double detection    another: wrong label
        0.1 <= tIoU         the same label: localization        another: confusion
        below, or no truth in its video: background

    ``profile``: the first slice holds every class' best N_j predictions, the second the next N_j, … the tenth; shares
    are of the predictions that a slice has. ``gains``: mAP_N of the best 10 N_j when all predictions of one kind are
    taken away, minus mAP_N of the best 10 N_j. Both are means over thresholds.

Sensitivity and false negatives, by what an instance is like
    ``coverage`` (its length / that of the video), ``length`` (seconds), ``num-instances`` (in its video, of all
    classes), and, where people annotated them, ``context-size``, ``context-distance`` and ``agreement`` (given as
    ``characteristics``; :func:`cuemark.datasets.detad.characteristics` reads them). Values fall into buckets that are
    closed on the right, the first also on the left; an instance without a value is in no bucket.

    Sensitivity: mAP_N of a bucket looks at the truths of the bucket, and at the predictions that take one of them or
    none at all. N stays that of all truths; the mean is over the classes that have an instance in the bucket.
    ``relative`` is that divided by mAP_N of all.
    False negatives: the share of a bucket's truths that no prediction takes, where a prediction at whose rank the
    normalised precision is 0.05 or less takes nothing. Mean over thresholds.

Official quirks
    * The filter of sensitivity runs over all thresholds: a prediction that takes a truth outside the bucket at one
      threshold is gone at all others too. ``official=False`` filters at each threshold on its own. With a single
      threshold the two are the same.
    * Where truths of several labels have the same tIoU with a false positive, the order of the file decides what it
      is. THUMOS14 has each of its 217 CliffDivings a second time as Diving, and a second detection of one counts as
      the wrong label if the other comes first in the file. With ``official=False`` a truth of its own label does.
    * Five buckets of ActivityNet's coverage end at multiples of 0.2 as floating point has them: the third at
      0.6000000000000001.

Departures, each where the official code fails or depends on chance
    * A prediction whose label the truth lacks ends the official program; here it is left out (``ignored``). So does
      a class without predictions in the analysis of sensitivity; here its AP_N is 0, as in the others.
    * Of several predictions in one video without truth, the official code compares all but one with the truth of
      another video, or stops if it has seen none yet. Here they are all background.
    * Equal scores across the end of the best 10 N_j: the official code keeps the earlier in the file, though it ranks
      the later higher; here there is one order.
    * A class of which nothing is left after the removal still counts in the official N and means, as 0 without
      predictions and as NaN with them; here it is no class.
    * A bucket without instances, and a slice without predictions, is NaN.

Weights (``figures``)
    A video that counts w times counts as w videos would that have the same truth and predictions under other names; the
    copies of a prediction follow each other. Predictions of videos that the truth lacks count once.

Cost: that of matching, and one tIoU for each prediction and truth of a video; 500,000 predictions take seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuemark.errors import CallError, DataError
from cuemark.metrics.counting import (
    AMBIGUOUS,
    PAIRS,
    Found,
    Instances,
    before,
    begin_of,
    best_first,
    envelope,
    levels_of,
    weights_of,
)
from cuemark.metrics.detection import TIOUS, assign
from cuemark.segments import Predictions, Segment, Truth, tiou

KINDS = ("true positive", "double detection", "wrong label", "localization", "confusion", "background")
"""What a prediction can be."""
SLICES = 10
"""So many times N_j predictions of class j are told apart; DETAD's ``limit_factor``."""
_NEAR = 0.1
"""The tIoU below which a prediction is background."""
_HOPELESS = 0.05
"""Normalised precision at which a prediction finds nothing."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scale:
    """How the values of a characteristic fall into buckets: ``edges[i] < value <= edges[i + 1]`` is ``names[i]``.

    Raises:
        CallError: edges do not rise, or there is not one name for each bucket.
    """

    names: tuple[str, ...]
    edges: tuple[float, ...]
    """One more than names. The first belongs to the first bucket."""
    unit: str = ""
    whole: bool = False
    """Values are whole numbers: ``2–4`` and not ``1–4``, above 1."""

    def __post_init__(self) -> None:
        if not self.names or len(self.edges) != len(self.names) + 1 or not all(
                a < b for a, b in zip(self.edges, self.edges[1:])):
            raise CallError(f"a scale needs rising edges, one more than its names; got names {list(self.names)} and "
                            f"edges {list(self.edges)}.")

    def bucket(self, values: ArrayLike) -> Ints:
        """``(n,)`` the bucket of each value, -1 for NaN and what is outside."""
        numbers = np.asarray(values, np.float64)
        found = np.searchsorted(self.edges, numbers, side="left") - 1
        found = np.where(numbers == self.edges[0], 0, found)
        return np.where(np.isnan(numbers) | (found >= len(self.names)), -1, found)

    @property
    def ranges(self) -> tuple[str, ...]:
        """``0–30 s``, ``> 180 s``, ``2–4``, ``≤ 1``: what each name stands for."""
        unit = f" {self.unit}" if self.unit else ""
        found = []
        for low, high in zip(self.edges, self.edges[1:]):
            first = low + 1 if self.whole else low
            if math.isinf(high):
                found.append(f"> {low:g}{unit}")
            elif first == high:
                found.append(f"{high:g}{unit}")
            elif low < 0:
                found.append(f"≤ {high:g}{unit}")
            else:
                found.append(f"{first:g}–{high:g}{unit}")
        return tuple(found)


_XS_TO_XL = ("XS", "S", "M", "L", "XL")
_FIFTHS = tuple(np.linspace(0, 1, 6).tolist())

ACTIVITYNET: Mapping[str, Scale] = {
    "context-size": Scale(("0", "1", "2", "3", "4", "5", "6"), (-1, 0, 1, 2, 3, 4, 5, 6), whole=True),
    "context-distance": Scale(("Inf", "N", "M", "F"), (-1, 0, 1, 2, 3), whole=True),
    "agreement": Scale(("XW", "W", "M", "H", "XH"), _FIFTHS),
    "coverage": Scale(_XS_TO_XL, _FIFTHS),
    "length": Scale(_XS_TO_XL, (0, 30, 60, 120, 180, math.inf), "s"),
    "num-instances": Scale(("XS", "S", "M", "L"), (-1, 1, 4, 8, math.inf), whole=True),
}
"""DETAD's buckets for ActivityNet, in the order of its figures."""

THUMOS: Mapping[str, Scale] = {
    "coverage": Scale(_XS_TO_XL, (0, 0.02, 0.04, 0.06, 0.08, 1)),
    "length": Scale(_XS_TO_XL, (0, 3, 6, 12, 18, math.inf), "s"),
    "num-instances": Scale(("XS", "S", "M", "L"), (-1, 1, 40, 80, math.inf), whole=True),
}
"""DETAD's buckets for THUMOS14; its threshold there is 0.5."""


@dataclass(frozen=True)
class Bucket:
    """The instances of one bucket, and how they fare; fractions in 0..1."""

    name: str
    range: str
    """The values in it, in words."""
    instances: int
    map_n: float
    """mAP_N of the bucket; NaN without instances."""
    relative: float
    """``map_n`` divided by mAP_N of all instances; NaN where that is 0."""
    missed: float
    """Share of its instances that are false negatives; NaN without instances."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Where the errors are; fractions in 0..1 but for :meth:`figures`, :meth:`tables` and :meth:`to_json`."""

    tious: Floats
    """``(T,)`` the thresholds."""
    classes: tuple[str, ...]
    """The K labels of the truth that is left, in order of first appearance."""
    videos: tuple[str, ...]
    """The V videos of the truth."""
    map_n: float
    """Mean over classes and thresholds of AP_N."""
    map_n_top: float
    """The same of every class' best 10 N_j predictions: what ``gains`` are measured from."""
    profile: Floats
    """``(10, 6)`` share of each of :data:`KINDS` in each slice; NaN where a slice is empty."""
    shares: Floats
    """``(6,)`` share of each of :data:`KINDS` in all ten slices."""
    gains: Mapping[str, float]
    """Kind of false positive -> by how much mAP_N rises without it."""
    buckets: Mapping[str, tuple[Bucket, ...]]
    """Characteristic -> its buckets."""
    removed: int
    """Instances that cover more than their video or have no length, and took no part."""
    ignored: Mapping[str, int]
    """Label that is no class -> how many predictions carried it and were left out."""
    unknown: int
    """How many predictions are of videos that the truth lacks."""
    official: bool
    _matched: _Matched = field(repr=False)
    _numbers: _Numbers = field(repr=False)

    def figures(self, weights: Floats | None = None) -> dict[str, float]:
        """mAP_N, shares, gains, and every bucket's mAP_N and missed share, in percent.

        Args:
            weights: ``(V,)`` how many times each video counts; None: once. What they leave without meaning is NaN.

        Raises:
            CallError: there is not one weight for each video.
        """
        numbers = self._numbers if weights is None else _count(self._matched, weights_of(weights, self.videos))
        row = {"mAP_N": numbers.map_n, "mAP_N of the top 10G": numbers.map_n_top}
        row |= {f"share of {kind}": share for kind, share in zip(KINDS, numbers.profile[-1], strict=True)}
        row |= {f"gain without {kind}": gain for kind, gain in zip(KINDS[1:], numbers.gains, strict=True)}
        for name, map_n, missed in zip(self.buckets, numbers.map_n_in, numbers.missed, strict=True):
            row |= {f"mAP_N {name} {b.name}": x for b, x in zip(self.buckets[name], map_n, strict=True)}
            row |= {f"missed {name} {b.name}": x for b, x in zip(self.buckets[name], missed, strict=True)}
        return {name: 100 * float(x) for name, x in row.items()}

    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[str | int | float | None, ...]]]]:
        """(title, columns, rows) to be shown; percent, None for what has no meaning."""
        profile: list[tuple[str | int | float | None, ...]] = [
            (f"{i}G" if i <= SLICES else "all", *(_percent(x) for x in row))
            for i, row in enumerate([*self.profile, self.shares], 1)]
        gains: list[tuple[str | int | float | None, ...]] = [(kind, _percent(x)) for kind, x in self.gains.items()]
        by: list[tuple[str | int | float | None, ...]] = [
            (f"{name} {b.name}", b.range, b.instances, _percent(b.map_n), _plain(b.relative), _percent(b.missed))
            for name, buckets in self.buckets.items() for b in buckets]
        return [
            ("False positives: what the best predictions are, in %", ("slice", *KINDS), profile),
            (f"What mAP_N of {_percent(self.map_n_top) or 0:.2f} % gains without an error, in points",
             ("without", "gain"), gains),
            (f"By kind of instance: mAP_N ({_percent(self.map_n) or 0:.2f} % of all) and what is missed, in %",
             ("bucket", "values", "instances", "mAP_N", "relative", "missed"), by),
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON can hold it: percent (``relative`` is a ratio), null for what has no meaning."""
        return {
            "metric": "diagnosis", "official": self.official, "tious": self.tious.tolist(),
            "videos": len(self.videos), "classes": list(self.classes), "removed": self.removed,
            "ignored": dict(self.ignored), "unknown": self.unknown,
            "mAP_N": _percent(self.map_n), "mAP_N_top": _percent(self.map_n_top),
            "false_positives": {
                "profile": [{kind: _percent(x) for kind, x in zip(KINDS, row, strict=True)} for row in self.profile],
                "shares": {kind: _percent(x) for kind, x in zip(KINDS, self.shares, strict=True)},
                "gains": {kind: _percent(x) for kind, x in self.gains.items()},
            },
            "buckets": {name: [{"name": b.name, "values": b.range, "instances": b.instances,
                                "mAP_N": _percent(b.map_n), "relative": _plain(b.relative),
                                "missed": _percent(b.missed)} for b in buckets]
                        for name, buckets in self.buckets.items()},
        }


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _percent(value: float) -> float | None:
    return _plain(100 * value)


def diagnose(truth: Truth, predictions: Predictions, tious: ArrayLike = TIOUS,
             buckets: Mapping[str, Scale] = ACTIVITYNET,
             characteristics: Mapping[tuple[str, int], Mapping[str, float | None]] | None = None,
             official: bool = True) -> Diagnosis:
    """Tell a detector's errors apart; the module's docstring is the definition.

    Args:
        truth: video id -> what is known about it.
        predictions: video id -> scored segments in any order. Order matters only between equal scores.
        tious: thresholds in 0..1, at least one.
        buckets: characteristic -> its scale: :data:`ACTIVITYNET`, :data:`THUMOS`, or one's own. A characteristic of
            which no instance has a value is left out.
        characteristics: (video id, number of the annotation in it) -> characteristic -> value. They come before those
            computed here (coverage, length, num-instances); videos that the truth lacks are passed over.
        official: keep DETAD's quirks, its filter over all thresholds among them.

    Raises:
        DataError: no labelled segment is left, a prediction has no score, or ``characteristics`` do not fit the truth.
        CallError: ``tious`` is not a row of numbers in 0..1.
    """
    levels = levels_of(tious)
    rows = [(v, i, s) for v, video in enumerate(truth.values()) for i, s in enumerate(video.annotations)
            if s.label is not None and s.label != AMBIGUOUS]
    values = _values(truth, rows, characteristics or {})
    kept = np.array([s.end > s.start for _, _, s in rows], bool) & (values["coverage"] <= 1)
    removed = len(rows) - int(kept.sum())
    rows = [row for row, keep in zip(rows, kept, strict=True) if keep]
    if not rows:
        raise DataError("the truth has no labelled segment with a length to detect; check the file, the subset "
                        "chosen and the videos' durations.")
    real = Instances.of([(v, s) for v, _, s in rows])
    found_in = {name: scale.bucket(values[name][kept]) for name, scale in buckets.items() if name in values}
    found_in = {name: found for name, found in found_in.items() if (found >= 0).any()}

    found = Found.of(predictions, truth, real.classes)
    found = found.sorted(best_first(found.score, found.label, later=True))
    taken = assign(found.span, found.group(real), real.span, real.group, levels)
    best, same = _nearest(found, real, official)
    tier = np.where(best >= levels[:, None], np.int8(1), np.where(best >= _NEAR, np.int8(3), np.int8(5)))
    kind = np.where(taken >= 0, np.int8(0), tier + (~same & (tier < 5)))
    level, hit = np.nonzero(taken >= 0)
    ever, at = np.unique(hit, return_inverse=True)
    matched = _Matched(real.video, real.label, list(found_in.values()), [len(buckets[name].names) for name in found_in],
                       len(real.classes), found.video, found.label, kind, level, hit, taken[level, hit], ever, at,
                       official)
    numbers = _count(matched, None)
    return Diagnosis(
        levels, tuple(real.classes), tuple(truth), numbers.map_n, numbers.map_n_top, numbers.profile[:-1],
        numbers.profile[-1], dict(zip(KINDS[1:], numbers.gains.tolist(), strict=True)),
        {name: tuple(Bucket(word, span, int(count), float(map_n), _ratio(map_n, numbers.map_n), float(missed))
                     for word, span, count, map_n, missed in zip(buckets[name].names, buckets[name].ranges,
                                                                 *of_name, strict=True))
         for name, *of_name in zip(found_in, numbers.instances, numbers.map_n_in, numbers.missed, strict=True)},
        removed, found.ignored, int((found.video < 0).sum()), official, matched, numbers)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else math.nan


def _values(truth: Truth, rows: list[tuple[int, int, Segment]],
            given: Mapping[tuple[str, int], Mapping[str, float | None]]) -> dict[str, Floats]:
    """Characteristic -> ``(len(rows),)`` values, NaN where there is none."""
    names, videos = list(truth), list(truth.values())
    counts = np.bincount([v for v, _, _ in rows], minlength=len(names))
    length = np.array([s.duration for _, _, s in rows], np.float64)
    whole = np.array([videos[v].duration for v, _, _ in rows], np.float64)
    values = {
        "coverage": np.divide(length, whole, out=np.full(len(rows), math.inf), where=whole > 0),
        "length": length,
        "num-instances": np.array([counts[v] for v, _, _ in rows], np.float64),
    }
    strange = next((key for key in given if key[0] in truth and not 0 <= key[1] < len(truth[key[0]].annotations)), None)
    if strange is not None:
        raise DataError(f"video '{strange[0]}' has no annotation {strange[1]}, and characteristics are given for it; "
                        "take both from the same file.")
    if given and not any(vid in truth for vid, _ in given):
        raise DataError("characteristics are given for none of the truth's videos; take both from the same file.")
    for row, (v, i, _) in enumerate(rows):
        for name, value in given.get((names[v], i), {}).items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise DataError(f"video '{names[v]}', annotation {i}: characteristic '{name}' must be a number, got "
                                f"{str(value)[:40]!r}.")
            values.setdefault(name, np.full(len(rows), math.nan))[row] = value
    return values


def _nearest(found: Found, real: Instances, official: bool) -> tuple[Floats, NDArray[np.bool_]]:
    """Of each prediction, the tIoU of the truth of its video that overlaps it best, and whether that has its label."""
    best, same = np.full(len(found.span), -1.0), np.zeros(len(found.span), bool)
    by_video = np.argsort(found.video, kind="stable")
    known, begin = np.unique(real.video, return_index=True)  # truths stand video by video
    ends = np.append(begin[1:], len(real.video))
    firsts, lasts = (np.searchsorted(found.video[by_video], known, side) for side in ("left", "right"))
    for a, b, first, last in zip(begin, ends, firsts, lasts, strict=True):
        step = max(1, PAIRS // (b - a))
        for i in range(first, last, step):
            who = by_video[i:min(i + step, last)]
            iou = tiou(found.span[who], real.span[a:b])
            nearest = iou.argmax(axis=1)  # of equal ones the first
            best[who] = iou[np.arange(len(who)), nearest]
            if official:
                same[who] = real.label[a:b][nearest] == found.label[who]
            else:
                own = real.label[a:b] == found.label[who][:, None]
                same[who] = ((iou == best[who][:, None]) & own).any(axis=1)
    return best, same


# ---------------------------------------------------------------------------------------------- counting


@dataclass(frozen=True, eq=False, slots=True)
class _Matched:
    """Who took whom: all that the figures need, whatever the videos' weights.

    The n predictions stand class by class, in each best first; the H hits by threshold, then as the predictions.
    """

    real_video: Ints  # (m,)
    real_class: Ints  # (m,)
    real_bucket: list[Ints]  # of each characteristic (m,), -1 for none
    sizes: list[int]  # of each characteristic, how many buckets
    classes: int
    video: Ints  # (n,) -1 for one that the truth lacks
    label: Ints  # (n,)
    kind: NDArray[np.int8]  # (T, n) index into KINDS
    level: Ints  # (H,) threshold
    hit: Ints  # (H,) prediction
    taken: Ints  # (H,) truth
    ever: Ints  # (M,) predictions that hit at some threshold, rising
    at: Ints  # (H,) place of each hit's prediction among them
    official: bool


@dataclass(frozen=True, eq=False, slots=True)
class _Numbers:
    """The figures for some weights; fractions."""

    map_n: float
    map_n_top: float
    profile: Floats  # (SLICES + 1, 6): the last is all slices
    gains: Floats  # (5,)
    instances: list[Floats]  # of each characteristic (B,)
    map_n_in: list[Floats]
    missed: list[Floats]


@dataclass(frozen=True, eq=False, slots=True)
class _Classes:
    """How often each class occurs, and what follows for precision."""

    positives: Floats  # (K,) in the truths looked at
    usual: float  # N

    def precision(self, label: Ints, found: Floats, wrong: Floats) -> Floats:
        """``(H,)`` normalised, after ``found`` true and ``wrong`` false positives of class ``label``."""
        of_class = self.positives[label]
        recall = np.divide(found, of_class, out=np.zeros(len(found)), where=of_class > 0)
        return np.divide(recall * self.usual, recall * self.usual + wrong, out=np.zeros(len(found)), where=found > 0)

    def map(self, label: Ints, level: Ints, gain: Floats, seen: Floats, levels: int) -> float:
        """Mean over thresholds and over classes that occur.

        A prediction that counts w times is a block of w alike. Precision rises inside a block of hits and falls inside
        one of misses, so the envelope is decided at the ends of blocks of hits.

        Args:
            label, level: ``(H,)`` class and threshold of every hit, thresholds rising, in them classes, best first.
            gain: ``(H,)`` how often each counts.
            seen: ``(H,)`` how many false positives stand before each.
        """
        row = level * len(self.positives) + label
        precision = envelope(self.precision(label, before(gain, begin_of(row)) + gain, seen), row)
        area = _sums(label, precision * gain, len(self.positives))
        there = self.positives > 0
        return float((area[there] / self.positives[there]).mean() / levels) if there.any() else math.nan


def _sums(index: NDArray[np.integer], values: Floats, size: int) -> Floats:
    """``(size,)`` sum of the values at each index."""
    return np.bincount(index, values, size).astype(np.float64, copy=False)


def _count(m: _Matched, weights: Floats | None) -> _Numbers:
    """All figures, each video counted ``weights[v]`` times."""
    levels = len(m.kind)
    of_real = np.ones(len(m.real_video)) if weights is None else weights[m.real_video]
    each = np.ones(len(m.video)) if weights is None else np.where(m.video >= 0, weights[m.video], 1.0)
    positives = _sums(m.real_class, of_real, m.classes)
    usual = float(positives.sum()) / max(1, int(np.count_nonzero(positives)))
    whole = _Classes(positives, usual)

    ahead = before(each, begin_of(m.label))
    gain, label = each[m.hit], m.label[m.hit]
    row = m.level * m.classes + label
    found = before(gain, begin_of(row))
    wrong = ahead[m.hit] - found
    map_n = whole.map(label, m.level, gain, wrong, levels)

    # Of a block of w hits some may stand at hopeless ranks and the later ones, where precision is higher, not.
    first = whole.precision(label, found + gain.clip(max=1), wrong)
    last = whole.precision(label, found + gain, wrong)
    late = wrong * positives[label] * _HOPELESS / (usual * (1 - _HOPELESS)) if usual > 0 else wrong
    some = gain - (np.floor(late) - found).clip(0, gain)
    saved = np.where(first > _HOPELESS, gain, np.where(last > _HOPELESS, some, 0))

    instances, map_n_in, missed = [], [], []
    for bucket, size in zip(m.real_bucket, m.sizes, strict=True):
        counts = _sums(bucket + 1, of_real, size + 1)[1:]
        saves = _sums(bucket[m.taken] + 1, saved, size + 1)[1:] / levels
        instances.append(counts)
        missed.append(np.divide(counts - saves, counts, out=np.full(size, math.nan), where=counts > 0))
        map_n_in.append(_sensitivity(m, bucket, size, of_real, each, ahead, wrong, usual))

    map_n_top, profile, gains = _false_positives(m, each, ahead, whole)
    return _Numbers(map_n, map_n_top, profile, gains, instances, map_n_in, missed)


def _sensitivity(m: _Matched, bucket: Ints, size: int, of_real: Floats, each: Floats, ahead: Floats, wrong: Floats,
                 usual: float) -> Floats:
    """``(size,)`` mAP_N of each bucket of one characteristic."""
    levels = len(m.kind)
    of_hit = bucket[m.taken]
    ever, at = m.ever, m.at
    # The one bucket that a prediction's truths of all thresholds are in; -1 where there is none, or several.
    low, high = np.full(len(ever), size, np.int64), np.full(len(ever), -1, np.int64)
    np.minimum.at(low, at, of_hit)
    np.maximum.at(high, at, of_hit)
    home = np.where(low == high, low, -1)
    begin = begin_of(m.label[ever])
    matchless = ahead[ever] - before(each[ever], begin)  # before each, those that never take a truth
    found = np.full(size, math.nan)
    for b in range(size):
        positives = _sums(m.real_class[bucket == b], of_real[bucket == b], m.classes)
        use = np.flatnonzero(of_hit == b)
        if m.official:
            use = use[home[at[use]] == b]
            kept = np.where(home == b, each[ever], 0)
            seen = (matchless + before(kept, begin))[at[use]]
            seen -= before(each[m.hit[use]], begin_of(m.level[use] * m.classes + m.label[m.hit[use]]))
        else:
            seen = wrong[use]
        found[b] = _Classes(positives, usual).map(m.label[m.hit[use]], m.level[use], each[m.hit[use]], seen, levels)
    return found


def _false_positives(m: _Matched, each: Floats, ahead: Floats, whole: _Classes) -> tuple[float, Floats, Floats]:
    """mAP_N of the best 10 N_j predictions, the profile of their kinds, and the gain without each kind."""
    levels = len(m.kind)
    share = whole.positives[m.label]
    top = np.flatnonzero((ahead < SLICES * share) & (each > 0))
    share, low = share[top], ahead[top]
    high = np.minimum(low + each[top], SLICES * share)
    kind = m.kind[:, top]
    label = m.label[top]

    counts = np.zeros((SLICES + 1, len(KINDS)))
    for i in range(SLICES):
        part = np.minimum(high, (i + 1) * share) - np.maximum(low, i * share)
        here = np.flatnonzero(part > 0)
        weight = np.broadcast_to(part[here], (levels, len(here)))
        counts[i] = _sums(kind[:, here].ravel(), weight.ravel(), len(KINDS))
    counts[-1] = counts[:-1].sum(axis=0)
    total = counts.sum(axis=1, keepdims=True)
    profile = np.divide(counts, total, out=np.full(counts.shape, math.nan), where=total > 0)

    hits = [np.flatnonzero(row == 0) for row in kind]
    hit = np.concatenate(hits)
    level = np.repeat(np.arange(levels), [len(h) for h in hits])
    seen = np.empty((len(KINDS), len(hit)))  # of each kind, how many stand before each hit
    count, begin = high - low, begin_of(label)
    for t in range(levels):
        of_level = slice(*np.searchsorted(level, [t, t + 1]))
        for k in range(1, len(KINDS)):
            total = np.append(0, np.where(kind[t] == k, count, 0).cumsum())
            seen[k, of_level] = total[hits[t]] - total[begin[hits[t]]]
    wrong = seen[1:].sum(axis=0)
    base = whole.map(label[hit], level, count[hit], wrong, levels)
    without = [whole.map(label[hit], level, count[hit], wrong - seen[k], levels) for k in range(1, len(KINDS))]
    return base, profile, np.array(without) - base
