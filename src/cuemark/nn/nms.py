"""Suppression of segments that say the same thing, in rounds of vector operations.

They take ``(n, 2)`` seconds and ``(n,)`` scores and return which segments stay, best first; :func:`soft_nms_batch` does
so for many videos at once, and :func:`vote` moves the segments that stay. With ``groups`` (class indices, say) only
segments of the same group see each other.
"""

from __future__ import annotations

import numpy as np

from cuemark.segments import tiou


def soft_nms(segments: np.ndarray, scores: np.ndarray, sigma: float, *, keep: int | None = None,
             threshold: float | np.ndarray = 0.0, groups: np.ndarray | None = None
             ) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian soft-NMS (Bodla et al., ICCV 2017): each pick multiplies the rest by ``exp(-tIoU² / sigma)``.

    Args:
        segments: ``(n, 2)`` starts and ends in seconds.
        scores: ``(n,)``, not negative.
        sigma: the larger, the gentler.
        keep: stop after that many; all by default.
        threshold: only segments with a tIoU above it decay; any overlap by default. ``(n,)``: that of each pick.
        groups: ``(n,)`` integers; segments of different groups leave each other alone.

    Returns:
        Indices ``(m,)`` in the order picked, and their decayed scores ``(m,)``, which never increase. Of equal
        scores the first is picked.
    """
    spans, left = _apart(segments, groups), np.array(scores, np.float64)
    limits = np.broadcast_to(threshold, left.shape)
    count = len(left) if keep is None else min(keep, len(left))
    order, final = np.zeros(count, np.int64), np.zeros(count)
    alive = np.arange(len(left))
    for i in range(count):
        best = int(left.argmax())
        order[i], final[i] = alive[best], left[best]
        top = spans[best]
        spans, left, alive = (np.delete(a, best, axis=0) for a in (spans, left, alive))
        overlap = tiou(top, spans)[0]
        left *= np.where(overlap > limits[order[i]], np.exp(-(overlap**2) / sigma), 1.0)
    return order, final


def hard_nms(segments: np.ndarray, scores: np.ndarray, threshold: float, *, keep: int | None = None,
             groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Greedy NMS: each pick removes the rest that overlap it with a tIoU above ``threshold``.

    Args and returns as :func:`soft_nms`; scores stay as they are.
    """
    spans, scores = _apart(segments, groups), np.asarray(scores, np.float64)
    queue = np.argsort(-scores, kind="stable")
    order: list[int] = []
    while len(queue) and (keep is None or len(order) < keep):
        order.append(int(queue[0]))
        rest = queue[1:]
        queue = rest[tiou(spans[queue[0]], spans[rest])[0] <= threshold]
    picked = np.array(order, np.int64)
    return picked, scores[picked]


def soft_nms_batch(segments: np.ndarray, scores: np.ndarray, sigma: float, *, keep: int | None = None,
                   floor: float = 0.0, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """:func:`soft_nms` of many videos at once: each round picks one segment of each.

    Args:
        segments: ``(B, n, 2)`` starts and ends in seconds.
        scores: ``(B, n)``; negative where a video has no further segment.
        sigma: the larger, the gentler.
        keep: stop after that many; all by default.
        floor: a segment stays only while its decayed score is above it; not negative.
        groups: ``(B, n)`` integers; segments of different groups leave each other alone.

    Returns:
        Indices ``(B, m)`` in the order picked, -1 where a video has no more, and their decayed scores ``(B, m)``, 0
        there. ``m`` is what the longest answer needs.
    """
    segments, left = np.asarray(segments, np.float64), np.array(scores, np.float64)
    size, count = left.shape
    spans = _apart(segments.reshape(-1, 2), None if groups is None else np.asarray(groups).reshape(-1))
    start, end = (np.ascontiguousarray(side).reshape(size, count) for side in spans.T)
    length = end - start
    rounds = count if keep is None else min(keep, count)
    order, final = np.full((size, rounds), -1, np.int64), np.zeros((size, rounds))
    row = np.arange(size)
    for i in range(rounds):
        best = left.argmax(axis=1)
        top = left[row, best]
        alive = top > floor
        if not alive.any():
            order, final = order[:, :i], final[:, :i]
            break
        order[alive, i], final[alive, i] = best[alive], top[alive]
        left[row, best] = -1.0
        a, b = start[row, best][:, None], end[row, best][:, None]
        inter = (np.minimum(end, b) - np.maximum(start, a)).clip(min=0)
        union = length + (b - a) - inter
        overlap = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
        left *= np.exp(-(overlap**2) / sigma)
    return order, final


def vote(picked: np.ndarray, segments: np.ndarray, scores: np.ndarray, threshold: float, *,
         picked_groups: np.ndarray | None = None, groups: np.ndarray | None = None) -> np.ndarray:
    """Segment voting: each of ``picked`` moves to the mean of the segments that overlap it well.

    The mean is weighted by score times tIoU (box voting, Gidaris and Komodakis, ICCV 2015, along one axis).

    Args:
        picked: ``(m, 2)`` what suppression left, in seconds.
        segments: ``(n, 2)`` what went into it, in seconds.
        scores: ``(n,)`` of ``segments``, before any decay.
        threshold: only segments with a tIoU of at least this vote.
        picked_groups: ``(m,)`` integers, when only segments of the same group vote.
        groups: ``(n,)`` likewise.

    Returns:
        ``(m, 2)`` seconds; one for whom nobody votes stays where it is.
    """
    picked, segments = (np.asarray(a, np.float64).reshape(-1, 2) for a in (picked, segments))
    overlap = tiou(picked, segments)
    votes = np.where(overlap >= threshold, overlap * np.asarray(scores, np.float64), 0.0)
    if groups is not None and picked_groups is not None:
        votes *= picked_groups[:, None] == groups
    total = votes.sum(axis=1, keepdims=True)
    moved = np.divide(votes @ segments, total, out=picked.copy(), where=total > 0)
    return moved if not len(segments) else moved.clip(segments.min(), segments.max())  # rounding leaves no video


def _apart(segments: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """The segments, each group moved to a stretch of time of its own."""
    spans = np.array(segments, np.float64).reshape(-1, 2)
    if groups is None or not len(spans):
        return spans
    groups = np.unique(groups, return_inverse=True)[1]
    return spans + (groups * (spans.max() - spans.min() + 1.0))[:, None]
