"""Suppression of segments that say the same thing, of one video or of many at once.

:func:`soft_nms` and :func:`hard_nms` take ``(n, 2)`` seconds and ``(n,)`` scores and return which segments stay, best
first, with their scores; :func:`vote` moves those that stay. Two kinds of integers, one a segment, say who sees whom:

- ``groups`` (classes, say): only segments of the same group see each other, but an answer ranks all of them;
- ``videos`` (or questions): the same, and every video has an answer of its own.

How it works. Suppression picks one segment after the other, but groups do not wait for each other: each round picks the
best of *every* group of every video, so there are as many rounds as the longest group has picks. Scores of a group's
picks never rise, so the answer of a video is its groups' picks, sorted. When a video has ``keep`` of them, whatever
scores below the last can never be among its best, and leaves; so does what has decayed to ``floor``. Groups lie one
after the other in flat arrays, without padding: memory is linear in ``n``, however uneven they are.

The answers are those of the obvious loop over segments, to the last bit where that loop calls numpy's ``exp`` (C's may
differ by one unit in the last place).

Measured (one core): 2000 candidates of 200 classes, 200 kept, 1.4 ms; picking over all classes at once 14 ms. In numpy,
because answers are made video by video, where torch took 1.8 times as long (5050 candidates, 100 kept; 16 such videos
in one padded batch took half as long in torch as here).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FEW = 3
"""Of a class-wise answer of k, the 3 k best candidates are looked at first: a class has few picks, which decay little,
and mostly these decide."""
_PAIRS = 1 << 16
"""Pairs of segments that voting looks at together: they fit into a cache."""


def soft_nms(segments: np.ndarray, scores: np.ndarray, sigma: float, *, keep: int | None = None,
             threshold: float | np.ndarray = 0.0, floor: float = -math.inf, groups: np.ndarray | None = None,
             videos: np.ndarray | None = None) -> tuple[Ints, Floats]:
    """Gaussian soft-NMS (Bodla et al., ICCV 2017): each pick multiplies the rest by ``exp(-tIoU² / sigma)``.

    Args:
        segments: ``(n, 2)`` starts and ends in seconds.
        scores: ``(n,)``, not negative.
        sigma: the larger, the gentler.
        keep: of each video, at most so many; all by default.
        threshold: only segments with a tIoU above it decay; any overlap by default. ``(n,)``: that of each pick.
        floor: a segment stays only while its decayed score is above it; all stay by default.
        groups: ``(n,)`` integers; segments of different groups leave each other alone.
        videos: ``(n,)`` integers; so do those of different videos, which are answered one by one.

    Returns:
        Indices ``(m,)``, video by video (by rising integer) and of each in the order picked, and their decayed scores
        ``(m,)``, which never increase within a video. Of equal scores the first is picked.
    """
    everywhere = np.ndim(threshold) == 0 and float(threshold) == 0

    def decay(left: Floats, overlap: Floats, limit: float | Floats) -> None:
        if everywhere and 2 * np.count_nonzero(overlap) > len(left):  # what does not overlap is multiplied by 1
            np.square(overlap, out=overlap)
            np.divide(overlap, -sigma, out=overlap)
            left *= np.exp(overlap, out=overlap)
        else:
            hit = (overlap > limit).nonzero()[0]
            left[hit] *= np.exp(np.square(overlap[hit]) / -sigma)

    return _settled(segments, scores, decay, threshold, floor, keep, groups, videos)


def hard_nms(segments: np.ndarray, scores: np.ndarray, threshold: float | np.ndarray, *, keep: int | None = None,
             groups: np.ndarray | None = None, videos: np.ndarray | None = None) -> tuple[Ints, Floats]:
    """Greedy NMS: each pick removes the rest that overlap it with a tIoU above ``threshold``.

    Args and returns as :func:`soft_nms`; scores stay as they are.
    """
    def remove(left: Floats, overlap: Floats, limit: float | Floats) -> None:
        left[overlap > limit] = -np.inf

    return _settled(segments, scores, remove, threshold, -math.inf, keep, groups, videos)


def vote(order: np.ndarray, segments: np.ndarray, scores: np.ndarray, threshold: float, *,
         groups: np.ndarray | None = None, videos: np.ndarray | None = None) -> Floats:
    """Segment voting: what suppression left moves to the mean of the segments that overlap it well.

    The mean is weighted by score times tIoU (box voting, Gidaris and Komodakis, ICCV 2015, along one axis).

    Args:
        order: ``(m,)`` indices of what is left, as suppression returns them.
        segments: ``(n, 2)`` what went into it, in seconds.
        scores: ``(n,)`` of ``segments``, before any decay.
        threshold: only segments with a tIoU of at least this vote.
        groups, videos: ``(n,)`` integers, when only segments of the same group of the same video vote.

    Returns:
        ``(m, 2)`` seconds; one for whom nobody votes stays where it is.
    """
    spans, order = np.asarray(segments, np.float64).reshape(-1, 2), np.asarray(order, np.int64)
    moved = spans[order]
    row = _codes(videos, len(spans)) * max(len(spans), 1) + _codes(groups, len(spans))
    place = np.argsort(row, kind="stable")
    start, end, worth = *spans[place].T.copy(), np.asarray(scores, np.float64)[place]
    length = end - start
    first, last = (np.searchsorted(row[place], row[order], side) for side in ("left", "right"))
    count = last - first
    parts = np.flatnonzero(np.diff(np.cumsum(count) // _PAIRS)) + 1
    for part in np.split(np.arange(len(order)), parts):
        many = count[part]
        other = np.repeat(first[part] - (np.cumsum(many) - many), many)
        other += np.arange(len(other))
        a, b = moved[part].T
        overlap = _tiou(start[other], end[other], length[other], *(np.repeat(v, many) for v in (a, b, b - a)))
        near = np.flatnonzero(overlap >= threshold)
        weight = overlap[near] * worth[other[near]]
        near, weight = near[weight > 0], weight[weight > 0]
        if not len(near):
            continue
        owner, other = np.repeat(part, many)[near], other[near]
        begin = _begins(owner).nonzero()[0]
        total = np.add.reduceat(weight, begin)
        for side, said in enumerate((start[other], end[other])):
            mean = np.add.reduceat(weight * said, begin) / total
            # a mean is among its voters, rounded or not: it leaves no video
            moved[owner[begin], side] = mean.clip(np.minimum.reduceat(said, begin), np.maximum.reduceat(said, begin))
    return moved


# ---------------------------------------------------------------------------------------------------- the rounds

Suppress = Callable[[Floats, Floats, "float | Floats"], None]
"""Lowers scores ``(n,)`` in place, from each segment's tIoU with its group's pick and that pick's threshold."""


def _settled(segments: np.ndarray, scores: np.ndarray, suppress: Suppress, threshold: float | np.ndarray, floor: float,
             keep: int | None, groups: np.ndarray | None, videos: np.ndarray | None) -> tuple[Ints, Floats]:
    """:func:`_rounds`; of the best alone, where that decides.

    Scores only fall: who begins below the last of an answer was picked after it by all, and has changed nothing.
    """
    scores = np.asarray(scores, np.float64)
    if groups is not None and videos is None and keep and _FEW * keep < len(scores):
        least = np.partition(scores, -_FEW * keep)[-_FEW * keep]
        some = (scores >= least).nonzero()[0]
        bounds = threshold if np.ndim(threshold) == 0 else np.asarray(threshold)[some]
        picks, values = _rounds(np.asarray(segments)[some], scores[some], suppress, bounds, floor, keep,
                                np.asarray(groups)[some], None)
        if len(picks) == keep and values[-1] >= least:
            return some[picks], values
    return _rounds(segments, scores, suppress, threshold, floor, keep, groups, videos)


def _rounds(segments: np.ndarray, scores: np.ndarray, suppress: Suppress, threshold: float | np.ndarray, floor: float,
            keep: int | None, groups: np.ndarray | None, videos: np.ndarray | None) -> tuple[Ints, Floats]:
    spans, left = np.asarray(segments, np.float64).reshape(-1, 2), np.asarray(scores, np.float64)
    limits = float(threshold) if np.ndim(threshold) == 0 else np.asarray(threshold, np.float64)
    video = _codes(videos, len(left))
    row = video * max(len(left), 1) + _codes(groups, len(left))
    place = np.argsort(row, kind="stable")  # groups lie one after the other, each in the order given
    most = len(left) if keep is None else keep
    picks, values = np.zeros(0, np.int64), np.zeros(0)
    found: list[tuple[Ints, Floats]] = []

    alive, number, last = left[place] > floor, 0, np.full(int(video.max(initial=0)) + 1, -np.inf)
    left, row, start, end = left[place], row[place], *spans[place].T
    while number < most and alive.any():
        if number == 0 or alive.mean() < 0.8:  # those that left are carried along for a while
            row, place = row[alive], place[alive]
            left, start, end = left[alive], start[alive], end[alive]
            length, limit = end - start, limits if isinstance(limits, float) else limits[place]
            begins = _begins(row)
            begin, mine = begins.nonzero()[0], begins.cumsum() - 1
        least = last[video[place[begin]]]
        stop = min(number + 1 if number < 4 else number + 8, most)  # the first picks suppress most
        while number < stop:
            best = _first_best(left, begin, mine)
            value = left[best]
            here = (value > floor) & (value >= least)
            if not here.any():
                break
            found.append((place[best[here]], value[here]))
            left[best] = -np.inf
            a, b, width, bound = (v if isinstance(v, float) else v[best] if len(best) == 1 else v[best].take(mine)
                                  for v in (start, end, length, limit))
            end[best] = -np.inf  # nothing overlaps a pick any more
            suppress(left, _tiou(start, end, length, a, b, width), bound)
            number += 1
        picks, values = (np.concatenate(parts) for parts in zip((picks, values), *found, strict=True))
        found.clear()
        picks, values, last = _best_of_each(video, picks, values, most)
        alive = (left > floor) & (left >= last[video[place]])
        if number < stop:
            break
    return picks, values


def _first_best(left: Floats, begin: Ints, mine: Ints) -> Ints:
    """The index of the highest score of each group, of equal ones the first.

    Args:
        left: ``(n,)``.
        begin: ``(g,)`` where each group begins.
        mine: ``(n,)`` which group each is of.
    """
    if len(begin) == 1:
        return np.array([left.argmax()])
    top = (left == np.maximum.reduceat(left, begin).take(mine)).nonzero()[0]
    return top if len(top) == len(begin) else top[_begins(mine[top])]


def _begins(sorted_: Ints) -> NDArray[np.bool_]:
    """Where another integer begins (np.diff with prepend costs ten times as much)."""
    found = np.ones(len(sorted_), bool)
    np.not_equal(sorted_[1:], sorted_[:-1], out=found[1:])
    return found


def _best_of_each(video: Ints, picks: Ints, values: Floats, most: int) -> tuple[Ints, Floats, Floats]:
    """The ``most`` best picks of each video, video by video, and what is needed to be among them (-inf: anything)."""
    order = np.lexsort((picks, -values, video[picks]))
    picks, values = picks[order], values[order]
    which = video[picks]
    kept = np.arange(len(picks)) - np.searchsorted(which, which) < most
    picks, values, which = picks[kept], values[kept], which[kept]
    last = np.full(int(video.max(initial=0)) + 1, -np.inf)
    full = np.flatnonzero(np.bincount(which, minlength=len(last)) >= most)
    last[full] = values[np.searchsorted(which, full, "right") - 1]
    return picks, values, last


def _codes(labels: np.ndarray | None, count: int) -> Ints:
    """``(n,)`` integers as 0, 1, 2 … by rising value; all 0 where there are none."""
    if labels is None:
        return np.zeros(count, np.int64)
    return np.unique(np.asarray(labels).reshape(-1), return_inverse=True)[1].astype(np.int64)


def _tiou(start: Floats, end: Floats, length: Floats, a: float | Floats, b: float | Floats, width: float | Floats
          ) -> Floats:
    """tIoU of each segment with ``[a, b]``, its own or the same for all; two of zero length have 0."""
    shared = np.minimum(end, b)
    shared -= np.maximum(start, a)
    np.maximum(shared, 0.0, out=shared)
    union = length + width
    union -= shared
    np.maximum(union, np.finfo(np.float64).tiny, out=union)
    shared /= union
    return shared
