"""Suppression of segments that say the same thing, in rounds of vector operations.

Both functions take ``(n, 2)`` seconds and ``(n,)`` scores and return which segments stay, best first. With ``groups``
(class indices, say) only segments of the same group suppress each other.
"""

from __future__ import annotations

import numpy as np

from cuemark.segments import tiou


def soft_nms(segments: np.ndarray, scores: np.ndarray, sigma: float, *, keep: int | None = None,
             threshold: float = 0.0, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian soft-NMS (Bodla et al., ICCV 2017): each pick multiplies the rest by ``exp(-tIoU² / sigma)``.

    Args:
        segments: ``(n, 2)`` starts and ends in seconds.
        scores: ``(n,)``, not negative.
        sigma: the larger, the gentler.
        keep: stop after that many; all by default.
        threshold: only segments with a tIoU above it decay; any overlap by default.
        groups: ``(n,)`` integers; segments of different groups leave each other alone.

    Returns:
        Indices ``(m,)`` in the order picked, and their decayed scores ``(m,)``, which never increase. Of equal
        scores the first is picked.
    """
    spans, left = _apart(segments, groups), np.array(scores, np.float64)
    count = len(left) if keep is None else min(keep, len(left))
    order, final = np.zeros(count, np.int64), np.zeros(count)
    alive = np.arange(len(left))
    for i in range(count):
        best = int(left.argmax())
        order[i], final[i] = alive[best], left[best]
        top = spans[best]
        spans, left, alive = (np.delete(a, best, axis=0) for a in (spans, left, alive))
        overlap = tiou(top, spans)[0]
        left *= np.where(overlap > threshold, np.exp(-(overlap**2) / sigma), 1.0)
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


def _apart(segments: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """The segments, each group moved to a stretch of time of its own."""
    spans = np.array(segments, np.float64).reshape(-1, 2)
    if groups is None or not len(spans):
        return spans
    groups = np.unique(groups, return_inverse=True)[1]
    return spans + (groups * (spans.max() - spans.min() + 1.0))[:, None]
