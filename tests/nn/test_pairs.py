"""Maps over pairs of positions against slow, obvious versions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cuemark.nn import pairs
from cuemark.nn.pairs import PairConv, SpanConv, pair_mask, sparse_pairs
from cuemark.nn.pooling import span_max


def on_map(positions: int, scales: tuple[int, ...]) -> torch.Tensor:
    """``(1, N, N)`` bool."""
    mask = torch.zeros(1, positions, positions, dtype=torch.bool)
    for a, b in sparse_pairs(positions, scales).tolist():
        mask[0, a, b] = True
    return mask


@pytest.mark.parametrize(("positions", "scales", "count", "offsets"), [
    (16, (16,), 136, range(16)),
    (64, (16, 8, 8), 1104, [*range(16), *range(17, 32, 2), *range(35, 64, 4)]),
    (128, (16, 8, 8, 8), 2548, [*range(16), *range(17, 32, 2), *range(35, 64, 4), *range(71, 128, 8)])])
def test_the_spans_of_2d_tans_maps(positions, scales, count, offsets):
    found = sparse_pairs(positions, scales)
    assert len(found) == len({tuple(pair) for pair in found.tolist()}) == count
    expected = []
    for offset in offsets:
        stride = 1 + (offset > 16) + 2 * (offset > 34) + 4 * (offset > 70)
        expected += [(a, a + offset) for a in range(0, positions, stride) if a + offset < positions]
    assert list(map(tuple, found.tolist())) == expected


def test_lengths_that_do_not_fit_have_no_span():
    assert sparse_pairs(3, (5,)).tolist() == [[0, 0], [1, 1], [2, 2], [0, 1], [1, 2], [0, 2]]


def test_a_span_is_there_when_it_ends_inside():
    cells = torch.tensor([[0, 0], [0, 2], [2, 2]])
    assert pair_mask(torch.tensor([0, 1, 3]), cells).tolist() == [[False] * 3, [True, False, False], [True] * 3]


def test_convolved_spans_see_their_positions_and_no_others():
    torch.manual_seed(0)
    positions, scales = 32, (6, 4, 3)
    net = SpanConv(1, scales).double()
    for step in net.steps:
        torch.nn.init.constant_(step.weight, 1.0)
        torch.nn.init.zeros_(step.bias)
    cells = sparse_pairs(positions, scales)
    x = torch.rand(2, 1, positions, dtype=torch.double, requires_grad=True)
    y = net(x)
    assert y.shape == (2, 1, len(cells))
    for p in range(0, len(cells), 7):
        gradient, = torch.autograd.grad(y[1, 0, p], x, retain_graph=True)
        a, b = cells[p]
        assert gradient[1, 0].nonzero()[:, 0].tolist() == list(range(a, b + 1))
        assert not gradient[0].any()


def test_the_maximum_over_spans_is_that_of_repeated_pooling():
    positions, scales = 32, (6, 4, 3)
    x = torch.randn(2, 3, positions)
    steps, y = [], x
    for scale, lengths in enumerate(scales):
        for i in range(lengths):
            y = F.max_pool1d(y, *((2, 1) if i else (3, 2) if scale else (1, 1)))
            steps.append(y)
    cells = torch.from_numpy(sparse_pairs(positions, scales).copy())
    for row in range(2):
        found = span_max(x[row:row + 1].transpose(1, 2), torch.zeros(len(cells), dtype=torch.long), *cells.T)
        assert torch.equal(found.T, torch.cat(steps, dim=2)[row])


def dense(net: PairConv, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As published: pad by all that the layers will take away, let every layer shrink the map, divide by counts."""
    size, kernel = x.shape[-1], 2 * net.reach + 1
    more = len(net.layers) * net.reach
    x = F.pad(x, (more,) * 4)
    there = F.pad(mask, (more,) * 4)
    for layer in net.layers:
        x = F.relu(F.conv2d(x, layer.weight, layer.bias))
        wide = x.shape[-1]
        count = torch.zeros(len(mask), wide, wide)
        for i in range(kernel):
            for j in range(kernel):
                count += there[:, i: i + wide, j: j + wide]
        there = count > 0
        x = torch.where(there[:, None], x / count.clamp(min=1)[:, None], 0.0)
    assert x.shape[-1] == size
    return x


@pytest.mark.parametrize(("positions", "scales", "kernel", "layers"), [
    (8, (8,), 5, 8), (12, (4, 3), 3, 1), (20, (6, 4), 3, 3), (40, (8, 8, 2), 5, 4), (9, (3,), 1, 2),
    (24, (5, 4), 9, 2)])
@pytest.mark.parametrize("rows", [16, 3])
def test_the_map_is_convolved_as_if_it_were_padded_and_whole(positions, scales, kernel, layers, rows, monkeypatch):
    monkeypatch.setattr(pairs, "_ROWS", rows)
    torch.manual_seed(0)
    net = PairConv(3, kernel, layers).double()
    for layer in net.layers:
        layer.weight.data *= kernel**2
    whole = on_map(positions, scales)
    short = whole & (torch.arange(positions) < positions - 3)
    mask = torch.cat([whole, short])
    x = torch.randn(2, 3, positions, positions, dtype=torch.double) * mask[:, None]
    x.requires_grad_()
    expected = dense(net, x, mask)
    found = net(x, net.shares(mask))
    assert found.shape == x.shape
    keep = mask[:, None].expand_as(found)
    torch.testing.assert_close(found[keep], expected[keep])  # elsewhere is not wanted
    assert found[keep].abs().mean() > 1e-3
    weight = torch.randn(found.shape, dtype=torch.double) * keep
    gradients = [torch.autograd.grad((y * weight).sum(), [x, *net.parameters()]) for y in (found, expected)]
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs)


def test_one_share_for_all_rows_that_are_alike():
    torch.manual_seed(0)
    net, mask = PairConv(2, 3, 2), on_map(10, (10,))
    x = torch.randn(3, 2, 10, 10) * mask
    torch.testing.assert_close(net(x, net.shares(mask)), net(x, net.shares(mask.expand(3, -1, -1))))


def test_counts_are_exact_under_autocast():
    net, mask = PairConv(2, 9, 2), on_map(32, (32,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shares = net.shares(mask)
    assert all(torch.equal(a, b) for a, b in zip(shares, net.shares(mask)))
