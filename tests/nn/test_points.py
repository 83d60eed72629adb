"""Points of a pyramid: who answers for what, against loops over every point and segment; losses against formulas."""

from __future__ import annotations

import math

import pytest
import torch

from cuemark.nn.points import (
    distance_iou_loss,
    focal_loss,
    iou_loss,
    level_sizes,
    nearest_targets,
    point_targets,
    pyramid_points,
)

RANGES = ((0.0, 4.0), (4.0, 8.0), (8.0, 1e4))


def test_points_stand_on_multiples_of_their_stride():
    points = pyramid_points(7, RANGES)
    assert level_sizes(7, 3) == [7, 4, 2]
    assert points.position.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 2, 4, 6, 0, 4]
    assert points.stride.tolist() == [1.0] * 7 + [2.0] * 4 + [4.0] * 2
    assert points.low.tolist() == [0.0] * 7 + [4.0] * 4 + [8.0] * 2
    assert points.high.tolist() == [4.0] * 7 + [8.0] * 4 + [1e4] * 2


def slow(points, segments, labels, classes, radius):
    """Each point by itself: the segments it may answer for, the shortest of them, and those as short."""
    wanted, offsets, positive = [], [], []
    for at, stride, low, high in zip(*(p.tolist() for p in points), strict=True):
        may = []
        for (start, end), label in zip(segments, labels, strict=True):
            middle = (start + end) / 2
            left, right = max(start, middle - radius * stride), min(end, middle + radius * stride)
            if label >= 0 and left < at < right and low <= max(at - start, end - at) <= high:
                may.append((end - start, start, end, label))
        row = [0.0] * classes
        best = min(may, key=lambda m: m[0]) if may else None
        for length, _, _, label in may:
            if length <= best[0] + 1e-3:
                row[label] = 1.0
        wanted.append(row)
        offsets.append([(at - best[1]) / stride, (best[2] - at) / stride] if best else [0.0, 0.0])
        positive.append(bool(may))
    return wanted, offsets, positive


@pytest.mark.parametrize("radius", [0.5, 1.5, 100.0])
@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_targets_are_their_definition(count, radius):
    points = pyramid_points(30, RANGES)
    draw = torch.Generator().manual_seed(count)
    segments = (torch.rand(3, count, 2, generator=draw) * 34 - 2).sort(dim=2).values
    segments = (segments * 4).round() / 4  # on the edges of ranges too
    labels = torch.randint(-1, 3, (3, count), generator=draw)
    if count > 3:
        segments[0, 1] = segments[0, 0]  # a tie
        labels[0, :2] = torch.tensor([0, 2])
    found = point_targets(points, segments, labels, 3, radius)
    for row in range(3):
        classes, offsets, positive = slow(points, segments[row].tolist(), labels[row].tolist(), 3, radius)
        assert found.classes[row].tolist() == classes
        assert found.positive[row].tolist() == positive
        torch.testing.assert_close(found.offsets[row], torch.tensor(offsets), atol=1e-5, rtol=0)
    assert count < 5 or found.positive.any()


def test_two_segments_of_one_place_are_two_classes_of_its_points():
    points = pyramid_points(10, RANGES[:1])
    segments, labels = torch.tensor([[[2.5, 5.5], [2.5, 5.5], [1.5, 6.5]]]), torch.tensor([[0, 1, 2]])
    found = point_targets(points, segments, labels, 3, 1.5)
    assert found.classes[0, 4].tolist() == [1, 1, 0]  # the longer one around them waits
    assert found.offsets[0, 4].tolist() == [1.5, 1.5]


def test_focal_loss_is_its_formula():
    for logit in (-3.0, -0.2, 0.0, 1.7):
        for target in (0.0, 1.0, 0.3):
            p = 1 / (1 + math.exp(-logit))
            entropy = -target * math.log(p) - (1 - target) * math.log(1 - p)
            right = p * target + (1 - p) * (1 - target)
            weight = 0.25 * target + 0.75 * (1 - target)
            found = focal_loss(torch.tensor(logit), torch.tensor(target)).item()
            assert found == pytest.approx(weight * (1 - right) ** 2 * entropy, rel=1e-5)
    assert focal_loss(torch.tensor([-200.0, 200.0]), torch.tensor([0.0, 1.0])).tolist() == [0.0, 0.0]
    assert focal_loss(torch.tensor([-200.0, 200.0]), torch.tensor([1.0, 0.0])).isfinite().all()


def test_distance_iou_loss_is_its_formula():
    offsets = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 5
    target = torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) * 5
    for pair, true, found in zip(offsets.tolist(), target.tolist(), distance_iou_loss(offsets, target).tolist(),
                                 strict=True):
        (a, b), (c, d) = (-pair[0], pair[1]), (-true[0], true[1])
        inter, hull = min(b, d) - max(a, c), max(b, d) - min(a, c)
        union = (b - a) + (d - c) - inter
        assert found == pytest.approx(1 - inter / union + (((a + b) - (c + d)) / 2 / hull) ** 2, rel=1e-4, abs=1e-6)
    assert distance_iou_loss(target, target).abs().max() < 1e-6


def test_distance_iou_loss_of_nothing_is_finite():
    offsets = torch.zeros(1, 2, requires_grad=True)
    loss = distance_iou_loss(offsets, torch.zeros(1, 2)).sum()
    loss.backward()
    assert loss.isfinite()
    assert offsets.grad.isfinite().all()
    assert distance_iou_loss(torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0,)


def slow_nearest(points, segments, radius):
    """Each point by itself: does any segment have it, and where are the nearest start and the nearest end of all?"""
    positive, offsets = [], []
    for at, stride, low, high in zip(*(p.tolist() for p in points), strict=True):
        has = False
        starts, ends = [math.inf], [math.inf]
        for start, end in segments:
            middle = (start + end) / 2
            inside = max(start, middle - radius * stride) <= at <= min(end, middle + radius * stride)
            has = has or (inside and low <= max(at - start, end - at) < high)
            starts += [at - start] * (at >= start)
            ends += [end - at] * (at <= end)
        positive.append(has)
        offsets.append([min(starts) / stride, min(ends) / stride] if has else [0.0, 0.0])
    return positive, offsets


@pytest.mark.parametrize("radius", [1.5, 3.0])
def test_nearest_ends_are_those_of_the_loop(radius):
    draw = torch.Generator().manual_seed(0)
    points = pyramid_points(24, RANGES)
    start = torch.randint(0, 20, (12, 4), generator=draw).float()  # whole numbers: ends on points, ranges met exactly
    segments = torch.stack([start, start + torch.randint(1, 12, (12, 4), generator=draw)], dim=2)
    there = torch.rand(12, 4, generator=draw) < 0.6
    positive, offsets = nearest_targets(points, segments, there, radius)
    for q in range(12):
        expected, reach = slow_nearest(points, segments[q, there[q]].tolist(), radius)
        assert positive[q].tolist() == expected
        torch.testing.assert_close(offsets[q], torch.tensor(reach))
    assert positive.any()
    assert not positive[~there.any(dim=1)].any()


def test_where_two_segments_overlap_the_nearest_start_and_end_may_be_of_either():
    points = pyramid_points(12, ((0.0, 100.0),))
    both = torch.tensor([[[0.0, 8.0], [3.0, 11.0]]])
    positive, offsets = nearest_targets(points, both, torch.ones(1, 2, dtype=torch.bool), 100.0)
    assert positive.all()
    assert offsets[0, 5].tolist() == [2.0, 3.0]  # from 3 to 8, which neither is
    none = nearest_targets(points, both[:, :0], torch.ones(1, 0, dtype=torch.bool), 3.0)
    assert not none[0].any()
    assert not none[1].any()


def test_differences_over_the_union_are_the_iou_loss_and_squared_middles_make_it_distance_iou():
    draw = torch.Generator().manual_seed(0)
    offsets, target = 5 * torch.rand(2, 1000, 2, generator=draw, dtype=torch.float64)
    shared = [min(a, b) + min(c, d) for (a, c), (b, d) in zip(offsets.tolist(), target.tolist(), strict=True)]
    union = [max(a, b) + max(c, d) for (a, c), (b, d) in zip(offsets.tolist(), target.tolist(), strict=True)]
    torch.testing.assert_close(iou_loss(offsets, target),
                               torch.tensor([1 - s / u for s, u in zip(shared, union, strict=True)]).double(),
                               atol=1e-6, rtol=0)
    normalised = (offsets - target).abs().sum(dim=1) / (torch.maximum(offsets, target).sum(dim=1) + 1e-6)
    torch.testing.assert_close(normalised, iou_loss(offsets, target), atol=1e-6, rtol=0)
    middle = ((offsets[:, 1] - offsets[:, 0]) - (target[:, 1] - target[:, 0])) / 2
    hull = torch.maximum(offsets, target).sum(dim=1)
    torch.testing.assert_close(distance_iou_loss(offsets, target),
                               iou_loss(offsets, target) + (middle / hull).square(), atol=1e-6, rtol=0)
    nothing = torch.zeros(1, 2, requires_grad=True)
    iou_loss(nothing, torch.zeros(1, 2)).sum().backward()
    assert nothing.grad.isfinite().all()
