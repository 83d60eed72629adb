"""Maps and sampling against slow, obvious versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cuemark.nn.maps import (
    SparseMap,
    SparseTable,
    align_table,
    boundary_targets,
    cells,
    conv_then_sample,
    extended_point_table,
    extended_span_table,
    iou_map,
    on_map,
    span_mean,
    valid_cells,
)

TRUTH = [np.zeros((0, 2)), np.array([[0.0, 8.0]]), np.array([[1.3, 4.2], [4.0, 4.9], [6.5, 8.0]]),
         np.array([[2.0, 2.0]])]


def overlap(a0: float, a1: float, b0: float, b1: float) -> float:
    return max(0.0, min(a1, b1) - max(a0, b0))


@pytest.mark.parametrize("truth", TRUTH)
def test_iou_map_is_the_best_overlap_of_each_cell(truth):
    found = iou_map(truth, 5, 8)
    assert found.shape == (5, 8)
    for d in range(5):
        for s in range(8):
            best = 0.0
            for start, end in truth:
                inter = overlap(s, s + d + 1, start, end)
                union = d + 1 + end - start - inter
                best = max(best, inter / union)
            assert found[d, s] == pytest.approx(best, abs=1e-6)


def test_iou_map_is_one_exactly_where_the_span_is_the_truth():
    found = iou_map(np.array([[3.0, 8.0]]), 8, 8)  # reaches the end
    assert found[4, 3] == 1.0
    assert (found == 1.0).sum() == 1


@pytest.mark.parametrize("truth", TRUTH)
@pytest.mark.parametrize("anchor", [(-0.5, 0.5), (-0.5, 1.5)])
def test_boundary_targets_are_covered_shares_of_anchors(truth, anchor):
    found = boundary_targets(truth, 8, anchor)
    assert found.shape == (2, 8)
    for side in (0, 1):
        for i in range(8):
            best = 0.0
            for segment in truth:
                b = segment[side]
                shared = overlap(i + anchor[0], i + anchor[1], b - 1.5, b + 1.5)
                best = max(best, shared / (anchor[1] - anchor[0]))
            assert found[side, i] == pytest.approx(best, abs=1e-6)


def test_cells_are_those_that_end_inside():
    assert cells(3, 2).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]
    mask = valid_cells(torch.tensor([3, 2, 0]), 2, 3)
    assert mask[0].tolist() == [[True, True, True], [True, True, False]]
    assert mask[1].tolist() == [[True, True, False], [True, False, False]]
    assert not mask[2].any()


def naive_align(features: np.ndarray, start: float, end: float, bins: int) -> np.ndarray:
    """RoIAlign of one span, one sample at a time: ``(C, T)`` to ``(C, bins)``."""
    channels, length = features.shape
    out = np.zeros((channels, bins))
    width = max(end - start, 1.0) / bins
    count = math.ceil(width)
    for p in range(bins):
        for k in range(count):
            at = start + p * width + (k + 0.5) * width / count
            if at < -1 or at > length:
                continue
            at = max(at, 0.0)
            low = int(at)
            if low >= length - 1:
                value = features[:, length - 1]
            else:
                value = features[:, low] * (1 - (at - low)) + features[:, low + 1] * (at - low)
            out[:, p] += value / count
    return out


def dense(table: SparseTable) -> np.ndarray:
    matrix = np.zeros((table.outputs, table.inputs))
    for r in range(table.outputs):
        for i in range(table.offsets[r], table.offsets[r + 1]):
            matrix[r, table.columns[i]] += table.weights[i]
    return matrix


@pytest.mark.parametrize(("length", "bins"), [(1, 1), (2, 3), (7, 4), (9, 2), (12, 1)])
def test_align_table_is_roi_align(length, bins):
    rng = np.random.default_rng(0)
    spans = np.concatenate([np.sort(rng.uniform(-length, 2 * length, (30, 2)), axis=1),
                            [[0, 0], [-1, -1], [0, length], [-0.5, 0.25], [length - 1, length], [length, length + 5],
                             [-30, -20], [-length, 2 * length]]])
    features = rng.normal(size=(3, length))
    matrix = dense(align_table(spans, length, bins)).reshape(len(spans), length, bins)
    for row, (start, end) in zip(matrix, spans):
        np.testing.assert_allclose(features @ row, naive_align(features, start, end, bins), atol=1e-5)


def test_extended_spans_are_those_of_sgalign():
    table = dense(extended_span_table(6, 4, 3)).reshape(-1, 6, 3)
    features = np.random.default_rng(1).normal(size=(2, 6))
    assert len(table) == len(cells(6, 4))
    for row, (d, s) in zip(table, cells(6, 4)):
        start, end = s - 0.5 * (d + 1), s + d + 0.5 * (d + 1)
        np.testing.assert_allclose(features @ row, naive_align(features, start, end, 3), atol=1e-5)


@pytest.mark.parametrize(("length", "durations", "bins", "points"), [
    (1, 1, 2, 3), (6, 4, 3, 2), (9, 9, 4, 3), (7, 7, 1, 4)])
def test_extended_points_are_means_of_points_read_one_at_a_time(length, durations, bins, points):
    table = dense(extended_point_table(length, durations, bins, points)).reshape(-1, length, bins)
    features = np.random.default_rng(1).normal(size=(2, length))
    padded = np.pad(features, ((0, 0), (0, 1)))  # zero after the end
    assert len(table) == len(cells(length, durations))
    for row, (d, s) in zip(table, cells(length, durations)):
        first, last = s - (d + 2) / 2, s + d + 1 + (d + 2) / 2
        expected = np.zeros((2, bins))
        for i in range(bins * points):
            at = first + i * (last - first) / (bins * points - 1)
            low = math.floor(at)
            if -1 < at < 0:
                value = features[:, 0]
            elif 0 <= low < length:
                value = padded[:, low] * (low + 1 - at) + padded[:, low + 1] * (at - low)
            else:
                value = np.zeros(2)
            expected[:, i // points] += value / points
        np.testing.assert_allclose(features @ row, expected, atol=1e-5)


def test_a_shorter_sequence_is_a_sequence_with_zeros_behind_it():
    """Extended points read the same of both, wherever a span ends inside the shorter."""
    short, long = (dense(extended_point_table(n, n, 3)).reshape(-1, n, 3) for n in (5, 8))
    place = {tuple(cell): i for i, cell in enumerate(cells(8, 8).tolist())}
    for row, cell in zip(short, cells(5, 5).tolist()):
        np.testing.assert_allclose(long[place[tuple(cell)]][:5], row, atol=1e-6)


@pytest.mark.parametrize("filled", [False, True])
def test_on_map_puts_every_cell_in_its_place(filled):
    generator = torch.Generator().manual_seed(0)
    values, fill = torch.randn(2, 3, 4, generator=generator), torch.randn(4, generator=generator).requires_grad_()
    found = on_map(values, torch.tensor([7, 0, 5]), 2, 5, fill if filled else None)
    assert found.shape == (2, 4, 2, 5)
    for i, place in enumerate((7, 0, 5)):
        torch.testing.assert_close(found[:, :, place // 5, place % 5], values[:, i], atol=0, rtol=0)
    rest = found.flatten(2)[:, :, [1, 2, 3, 4, 6, 8, 9]]
    other = fill if filled else torch.zeros(4)
    torch.testing.assert_close(rest, other[None, :, None].expand(2, 4, 7), atol=0, rtol=0)
    if filled:
        found.sum().backward()
        assert fill.grad.tolist() == [14.0] * 4


def test_a_table_adds_up_entries_and_transposes():
    table = SparseTable.from_entries(3, 4, np.array([2, 0, 2, 2]), np.array([1, 3, 1, 0]), np.array([1.0, 2, 3, 0]))
    expected = np.zeros((3, 4))
    expected[2, 1], expected[0, 3] = 4, 2
    np.testing.assert_array_equal(dense(table), expected)
    assert len(table.weights) == 2
    np.testing.assert_array_equal(dense(table.transposed()), expected.T)


@pytest.mark.parametrize(("batch", "length", "durations", "bins"), [(1, 6, 6, 4), (3, 9, 5, 2), (2, 1, 1, 3)])
def test_conv_then_sample_equals_sample_then_conv(batch, length, durations, bins):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, 4, length, generator=generator, dtype=torch.float64)
    weight = torch.randn(bins, 5, 4, generator=generator, dtype=torch.float64)
    found = cells(length, durations)
    upstream = torch.randn(batch, len(found), 5, generator=generator, dtype=torch.float64)

    # the naive way: sample (B, C, P, N), concatenate the bins, then one dense contraction
    matrices = []
    for d, s in found:
        half = 0.5 * (d + 1)
        matrices.append(naive_align(np.eye(length), s - half, s + d + half, bins))  # (T, P)
    sampled = torch.einsum("bct,ntp->bcpn", features_a := features.clone().requires_grad_(),
                           torch.from_numpy(np.stack(matrices)))
    slow = torch.einsum("bcpn,poc->bno", sampled, weight_a := weight.clone().requires_grad_())
    (slow * upstream).sum().backward()

    features_b, weight_b = features.float().requires_grad_(), weight.float().requires_grad_()
    fast = conv_then_sample(features_b, weight_b, SparseMap(extended_span_table(length, durations, bins)))
    (fast * upstream.float()).sum().backward()

    assert fast.shape == (batch, len(found), 5)
    torch.testing.assert_close(fast.double(), slow, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features_b.grad.double(), features_a.grad, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(weight_b.grad.double(), weight_a.grad, atol=1e-4, rtol=1e-5)


def test_sampling_is_linear_to_the_second_derivative():
    """Its gradient is a differentiable function too (gradient penalties, Hessian products)."""
    sampling = SparseMap(extended_span_table(5, 5, 2))
    x = torch.randn(1, 10, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradient, = torch.autograd.grad(sampling(x).square().sum(), x, create_graph=True)
    again, = torch.autograd.grad(gradient.sum(), x)
    matrix = torch.from_numpy(dense(extended_span_table(5, 5, 2))).float()
    expected = (2 * matrix.T @ matrix).sum(dim=0)[None, :, None].expand_as(x)
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)


def test_sampling_under_autocast_stays_float32():
    sampling = SparseMap(extended_span_table(6, 6, 2))
    features = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = conv_then_sample(features, weight, sampling).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = conv_then_sample(features, weight, sampling)
    found.sum().backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.05)
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_tables_are_never_in_a_checkpoint():
    assert SparseMap(extended_span_table(4, 4, 2)).state_dict() == {}


def test_span_mean_integrates_a_step_function():
    values = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))
    spans = torch.tensor([[0.0, 7.0], [1.0, 2.0], [0.25, 0.5], [2.4, 5.1], [6.9, 7.0], [3.0, 3.0]])
    rows = torch.tensor([0, 1, 0, 1, 1, 0])
    found = span_mean(values, rows, spans)
    for mean, row, (start, end) in zip(found[:-1], rows.tolist(), spans.tolist()):
        total = torch.zeros(3)
        for i in range(7):
            total += values[row, i] * overlap(start, end, i, i + 1)
        torch.testing.assert_close(mean, total / (end - start), atol=1e-4, rtol=1e-4)
    assert not found[-1].any()
    assert span_mean(values, rows[:0], spans[:0]).shape == (0, 3)
