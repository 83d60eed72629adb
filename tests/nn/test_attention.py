"""Attention near each position, against one query at a time."""

from __future__ import annotations

import math

import pytest
import torch

from cuemark.nn.attention import TransformerBlock, attend, sinusoids


def slow(query, key, value, mask, window):
    """Softmax over the real positions within reach, for each query by itself."""
    out = torch.zeros_like(query)
    size, heads, length, dim = query.shape
    for b in range(size):
        for h in range(heads):
            for i in range(length):
                near = [j for j in range(length)
                        if mask[b, j] and (window == 0 or abs(i - j) <= window // 2)]
                if near:
                    weight = (key[b, h, near] @ query[b, h, i] / math.sqrt(dim)).softmax(0)
                    out[b, h, i] = weight @ value[b, h, near]
    return out


def some(length: int, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 3, 2, length, 4, generator=draw)
    mask = torch.arange(length) < torch.tensor([length, max(length // 2, 1), 1])[:, None]
    return query, key, value, mask


@pytest.mark.parametrize("length", [1, 2, 19, 32, 33, 70])
@pytest.mark.parametrize("window", [0, 1, 3, 19, 81])
def test_attention_is_its_definition(length, window):
    query, key, value, mask = some(length)
    found, expected = attend(query, key, value, mask, window), slow(query, key, value, mask, window)
    real = mask[:, None, :, None]
    torch.testing.assert_close(found * real, expected * real, atol=1e-6, rtol=1e-5)
    assert found.isfinite().all()


@pytest.mark.parametrize("window", [0, 5])
def test_a_sequence_without_real_positions_gives_no_nan(window):
    query, key, value, _ = some(40)
    query.requires_grad_()
    out = attend(query, key, value, torch.zeros(3, 40, dtype=torch.bool), window)
    out.sum().backward()
    assert out.isfinite().all()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("window", [0, 7])
def test_what_padding_holds_and_how_long_it_is_means_nothing(window):
    query, key, value, _ = some(50)
    mask = torch.arange(50) < 37
    expected = attend(query[:, :, :37], key[:, :, :37], value[:, :, :37], mask[:37].expand(3, -1), window)
    key[:, :, 37:], value[:, :, 37:] = 1e3, -1e3
    found = attend(query, key, value, mask.expand(3, -1), window)[:, :, :37]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_sinusoids_are_their_definition():
    table = sinusoids(9, 6)
    for t in range(9):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert sinusoids(0, 6).shape == (0, 6)


def slow_block(block, x, mask):
    """One sequence: every head and every position by itself."""
    def normed(norm, y):
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt() * norm.weight \
            + norm.bias

    a, dim = block.attention, x.shape[1] // block.attention.heads
    y = normed(block.norm1, x)
    query, key, value = y @ a.q.weight.T + a.q.bias, y @ a.k.weight.T, y @ a.v.weight.T + a.v.bias
    seen = torch.zeros_like(x)
    for head in range(a.heads):
        part = slice(head * dim, (head + 1) * dim)
        for i in range(len(x)):
            seen[i, part] = (key[mask][:, part] @ query[i, part] / math.sqrt(dim)).softmax(0) @ value[mask][:, part]
    x = x + seen @ a.out.weight.T + a.out.bias
    wide = normed(block.norm2, x) @ block.mlp[0].weight.T + block.mlp[0].bias
    gelu = wide / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    return x + gelu @ block.mlp[2].weight.T + block.mlp[2].bias


@torch.no_grad()
def test_a_block_is_its_definition():
    torch.manual_seed(0)
    block = TransformerBlock(8, 2)
    for parameter in block.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape))
    x = torch.randn(2, 7, 8)
    mask = torch.arange(7) < torch.tensor([7, 4])[:, None]
    found = block(x, mask)
    for row in range(2):
        torch.testing.assert_close(found[row], slow_block(block, x[row], mask[row]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(block(x, None)[0], found[0], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_first_positions_alone_and_what_is_projected_before_are_the_same():
    torch.manual_seed(0)
    block, x = TransformerBlock(8, 2), torch.randn(2, 7, 8)
    whole = block(x)
    torch.testing.assert_close(block(x, count=3), whole[:, :3])
    torch.testing.assert_close(block(x, None, 3, block.project(x)), whole[:, :3])
