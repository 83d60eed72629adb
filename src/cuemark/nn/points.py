"""Points of a pyramid that each answer for a segment around them: where they are, what they should say, what it costs.

Point ``i`` of level ``l`` is at ``i * 2^l`` and says how far its segment reaches to both sides, in units of ``2^l``
(FCOS, Tian et al., ICCV 2019, along one axis). A level answers for segments of its own range of sizes.

Point coordinates are cells of level 0, with 0 at the *centre* of the first one: half a cell less than the positions of
:class:`cuemark.grid.Grid`.

Shapes: ``B`` batch, ``N`` points of all levels, the finest first, ``M`` segments, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_TIE = 1e-3


class Points(NamedTuple):
    """``(N,)`` each, in point coordinates."""

    position: Tensor
    stride: Tensor
    low: Tensor
    """A point answers for segments whose farther end is at least this far …"""
    high: Tensor
    """… and at most this far."""


class PointTargets(NamedTuple):
    """What points should say."""

    classes: Tensor
    """``(B, N, K)`` 0 or 1."""
    offsets: Tensor
    """``(B, N, 2)`` distances to start and end, in strides; 0 where the point is not positive."""
    positive: Tensor
    """``(B, N)`` bool: the point answers for a segment."""


def level_sizes(length: int, levels: int) -> list[int]:
    """How many points each level has over ``length`` positions."""
    return [-(-length // 2**level) for level in range(levels)]


def pyramid_points(length: int, ranges: Sequence[tuple[float, float]], device: torch.device | str = "cpu") -> Points:
    """The points over ``length`` positions of a pyramid with one of ``ranges`` per level."""
    sizes = level_sizes(length, len(ranges))
    position = torch.cat([torch.arange(size, device=device) * 2.0**level for level, size in enumerate(sizes)])
    told = torch.tensor([(2.0**level, *pair) for level, pair in enumerate(ranges)], device=device)
    stride, low, high = told.repeat_interleave(torch.tensor(sizes, device=device), dim=0).unbind(1)
    return Points(position, stride, low, high)


def point_targets(points: Points, segments: Tensor, labels: Tensor, classes: int, radius: float) -> PointTargets:
    """Which points answer for which segments.

    A point may answer for a segment when it lies inside it, at most ``radius`` strides from its middle, and the
    farther end is in the point's range. Of several the shortest counts; those as short (within 0.001) add their
    classes.

    Args:
        points: of :func:`pyramid_points`.
        segments: ``(B, M, 2)`` in point coordinates.
        labels: ``(B, M)`` int64 class indices, -1 where there is no segment.
        classes: K.
        radius: of centre sampling, in strides.
    """
    if segments.shape[1] == 0:  # a minimum over nothing is an error
        segments, labels = F.pad(segments, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
    at, stride = points.position[:, None], points.stride[:, None]  # (N, 1)
    start, end = segments[:, None, :, 0], segments[:, None, :, 1]  # (B, 1, M)
    middle, length = (start + end) / 2, end - start
    near = radius * stride
    central = (at > torch.maximum(middle - near, start)) & (at < torch.minimum(middle + near, end))
    farther = torch.maximum(at - start, end - at)
    fits = (farther >= points.low[:, None]) & (farther <= points.high[:, None])
    length = torch.where(central & fits & (labels >= 0)[:, None], length, torch.inf)  # (B, N, M)
    shortest, index = length.min(dim=2)
    positive = shortest.isfinite()
    tied = (length <= shortest[..., None] + _TIE) & length.isfinite()
    named = F.one_hot(labels.clamp(min=0), classes).to(segments.dtype)
    chosen = segments.gather(1, index[..., None].expand(-1, -1, 2))  # (B, N, 2)
    offsets = torch.stack([points.position - chosen[..., 0], chosen[..., 1] - points.position], dim=2)
    return PointTargets((tied.to(segments.dtype) @ named).clamp(max=1),
                        torch.where(positive[..., None], offsets / stride, 0.0), positive)


def nearest_targets(points: Points, segments: Tensor, there: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Which points answer a question, and how far around them the answer reaches.

    As :func:`point_targets` for each question by itself, but nothing is chosen: where several segments answer, a point
    reaches back to the nearest start and on to the nearest end, be they of one segment or of two. Ends count as inside,
    and a level's range ends before its upper bound.

    Args:
        points: of :func:`pyramid_points`.
        segments: ``(Q, M, 2)`` in point coordinates.
        there: ``(Q, M)`` bool: there is such a segment.
        radius: of centre sampling, in strides.

    Returns:
        ``(Q, N)`` bool, and ``(Q, N, 2)`` distances in strides; 0 where a point does not answer.
    """
    if segments.shape[1] == 0:  # a minimum over nothing is an error
        segments, there = F.pad(segments, (0, 0, 0, 1)), F.pad(there, (0, 1))
    at, stride, there = points.position[:, None], points.stride[:, None], there[:, None]
    start, end = segments[:, None, :, 0], segments[:, None, :, 1]  # (Q, 1, M)
    before, after, middle = at - start, end - at, (start + end) / 2  # (Q, N, M)
    farther = torch.maximum(before, after)
    fits = (farther >= points.low[:, None]) & (farther < points.high[:, None])
    near = radius * stride
    central = (at >= torch.maximum(start, middle - near)) & (at <= torch.minimum(end, middle + near))
    positive = (central & fits & there).any(dim=2)
    nearest = [torch.where((side >= 0) & there, side, torch.inf).amin(dim=2) for side in (before, after)]
    reach = torch.stack(nearest, dim=2)
    return positive, torch.where(positive[..., None], reach / stride, 0.0)


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss of every entry (Lin et al., ICCV 2017, equation 5); ``target`` may be soft.

    ``alpha_t (1 - p_t)^gamma`` times the cross entropy, where ``p_t = p t + (1 - p)(1 - t)`` and ``alpha_t`` likewise.
    """
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missing = p + target - 2 * p * target  # 1 - p_t
    return (alpha * target + (1 - alpha) * (1 - target)) * missing**gamma * entropy


def distance_iou_loss(offsets: Tensor, target: Tensor) -> Tensor:
    """1 - tIoU + squared distance of the middles over squared length of the hull (DIoU, Zheng et al., AAAI 2020).

    Args:
        offsets: ``(…, 2)`` distances, not negative, from a point to the start before it and the end after it.
        target: ``(…, 2)`` likewise, from the same point.

    Returns:
        ``(…)`` in [0, 1.25].
    """
    inner, hull = torch.minimum(offsets, target).sum(dim=-1), torch.maximum(offsets, target).sum(dim=-1)
    tiny = torch.finfo(hull.dtype).eps
    # both segments hold the point, so their union is their hull
    apart = ((offsets - target) * offsets.new_tensor([-0.5, 0.5])).sum(dim=-1)
    return 1 - inner / hull.clamp(min=tiny) + (apart / hull.clamp(min=tiny)).square()


def iou_loss(offsets: Tensor, target: Tensor) -> Tensor:
    """1 - tIoU of the segments around a point (both hold it, so their union is their hull): ``(…, 2)`` to ``(…)``.

    For distances that are not negative it is also the sum of absolute differences, divided by the union.
    """
    inner, hull = torch.minimum(offsets, target).sum(dim=-1), torch.maximum(offsets, target).sum(dim=-1)
    return 1 - inner / (hull + 1e-6)
