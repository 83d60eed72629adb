"""The pyramid's blocks against PyTorch's own layers, on one sequence without padding at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cuemark.nn.pyramid import (
    ConvHead,
    ConvStack,
    ConvTransformerBlock,
    DepthwiseConv,
    DepthwiseLevel,
    Pyramid,
    ScaledPath,
    halved_max,
    over_three,
    paired_max,
)

LENGTHS = (13, 8, 1)


def rows(width: int = 8, seed: int = 0):
    """Sequences of several lengths, padded with rubbish."""
    x = torch.randn(len(LENGTHS), max(LENGTHS), width, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_a_depthwise_convolution_is_torchs(length, stride):
    layer, x = DepthwiseConv(5, stride), torch.randn(2, length, 5)
    expected = F.conv1d(x.transpose(1, 2), layer.weight.T[:, None], None, stride, 1, groups=5).transpose(1, 2)
    torch.testing.assert_close(layer(x), expected)


def test_halved_maximum_is_over_real_positions():
    x, mask = rows()
    found = halved_max(x, mask)
    for row, length in enumerate(LENGTHS):
        for i in range(found.shape[1]):
            near = [j for j in (2 * i - 1, 2 * i, 2 * i + 1) if 0 <= j < length]
            expected = x[row, near].amax(0) if 2 * i < length else torch.zeros(8)
            torch.testing.assert_close(found[row, i], expected)


def slow_block(block: ConvTransformerBlock, x: torch.Tensor) -> torch.Tensor:
    """One sequence ``(T, C)`` through the block, as it is drawn."""
    width, stride = x.shape[1], block.stride
    normed = block.norm(x).T[None]
    skip = x if stride == 1 else F.max_pool1d(x.T[None], 3, stride, 1)[0].T
    parts = []
    for near, norm, projection in zip(block.near, block.norms, block.projections, strict=True):
        y = F.conv1d(normed, near.weight.T[:, None], None, stride, 1, groups=width)[0].T
        parts.append(projection(norm(y)))
    dim, half = width // block.heads, block.window // 2
    heads = []
    for h in range(block.heads):
        query, key, value = (part[:, h * dim:(h + 1) * dim] for part in parts)
        score = query @ key.T / dim**0.5
        at = torch.arange(len(score))
        if block.window:
            score = score.masked_fill((at[:, None] - at).abs() > half, -torch.inf)
        heads.append(score.softmax(1) @ value)
    x = skip + block.attention_path.scale * block.out(torch.cat(heads, dim=1))
    return x + block.wide_path.scale * block.narrow(F.gelu(block.wide(block.norm_wide(x))))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("window", [0, 3])
def test_a_block_is_what_is_drawn(stride, window):
    torch.manual_seed(0)
    block = ConvTransformerBlock(8, 2, window, stride)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, mask = rows()
    found, kept = block(x * mask[..., None], mask)
    for row, length in enumerate(LENGTHS):
        expected = slow_block(block, x[row, :length])
        assert kept[row].sum() == len(expected)
        torch.testing.assert_close(found[row, : len(expected)], expected, atol=1e-5, rtol=1e-4)
        assert not found[row, len(expected):].any()


def test_a_stack_of_convolutions_is_what_is_drawn():
    torch.manual_seed(0)
    stack = ConvStack(8, 6, 2)
    x, mask = rows()
    found = stack(x, mask)
    for row, length in enumerate(LENGTHS):
        expected = x[row, :length].T[None]
        for convolution, norm in zip(stack.convolutions, stack.norms, strict=True):
            expected = F.relu(norm(F.conv1d(expected, convolution.weight, padding=1).transpose(1, 2))).transpose(1, 2)
        torch.testing.assert_close(found[row, :length], expected[0].T, atol=1e-6, rtol=1e-5)
        assert not found[row, length:].any()


def test_levels_halve_and_every_position_of_them_has_one_below():
    pyramid = Pyramid(8, 2, 1, (3, 3, 0))
    x, mask = rows()
    levels = pyramid(x * mask[..., None], mask)
    assert [y.shape[1] for y, _ in levels] == [13, 7, 4]
    for level, (y, kept) in enumerate(levels):
        assert torch.equal(kept, mask[:, :: 2**level])
        assert not y[~kept].any()


def test_a_path_is_left_out_for_whole_samples_and_keeps_its_mean():
    path = ScaledPath(3, drop=0.25, start=2.0)
    x = torch.ones(4000, 5, 3)
    torch.manual_seed(0)
    out = path(x)
    gone = (out == 0).all(dim=2).all(dim=1)
    torch.testing.assert_close(out[~gone], torch.full_like(out[~gone], 2 / 0.75))
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(path.eval()(x), 2 * x)


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_a_late_depthwise_convolution_sees_what_tensorflow_sees_of_an_even_length(length):
    layer, x = DepthwiseConv(5, 2, bias=True, centred=False), torch.randn(2, length, 5)
    torch.nn.init.normal_(layer.bias)
    padded = F.pad(x.transpose(1, 2), (0, 2))  # output i sees 2i, 2i + 1 and 2i + 2, which is 0 beyond the end
    expected = F.conv1d(padded, layer.weight.T[:, None], layer.bias, 2, groups=5).transpose(1, 2)
    torch.testing.assert_close(layer(x), expected[:, :(length + 1) // 2])
    assert layer(x).shape[1] == (length + 1) // 2
    even = DepthwiseConv(5, 1, centred=False)  # with stride 1 there is no other way
    torch.testing.assert_close(even(x), F.conv1d(x.transpose(1, 2), even.weight.T[:, None], None, 1, 1, groups=5).mT)


def test_a_level_is_a_convolution_and_a_norm_of_real_positions():
    level, (x, mask) = DepthwiseLevel(8, 2), rows()
    found = level(x * mask[..., None], mask[:, ::2])
    for row, length in enumerate(LENGTHS):
        expected = level.norm(level.conv(x[row : row + 1, :length]))
        torch.testing.assert_close(found[row : row + 1, : expected.shape[1]], expected, atol=1e-6, rtol=1e-5)
        assert not found[row, expected.shape[1] :].any()


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("bias", [False, True])
def test_three_shifted_products_are_a_convolution(length, bias):
    layer, x = torch.nn.Conv1d(5, 4, 3, padding=1, bias=bias), torch.randn(2, length, 5)
    torch.testing.assert_close(over_three(layer, x), layer(x.mT).mT, atol=1e-6, rtol=1e-5)


def test_a_head_normalises_convolves_and_projects_real_positions():
    torch.manual_seed(0)
    head, (x, mask) = ConvHead(8, 2, 3, bias=-1.5), rows()
    found, before = head(x, mask), head.features(x, mask)
    for row, length in enumerate(LENGTHS):
        expected = x[row : row + 1, :length]
        for layer in head.layers:
            expected = F.relu(F.conv1d(layer.norm(expected).mT, layer.conv.weight, layer.conv.bias, padding=1)).mT
        torch.testing.assert_close(before[row : row + 1, :length], expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found[row : row + 1, :length], head.out(expected), atol=1e-6, rtol=1e-5)
    assert head.out.bias.tolist() == [-1.5] * 3
    assert ConvHead(8, 1, 0).out is None
    torch.testing.assert_close(ConvHead(8, 0, 0)(x, mask), x)


def test_paired_maximum_is_over_real_positions():
    x, mask = rows()
    found = paired_max(x, mask)
    for row, length in enumerate(LENGTHS):
        for i in range(found.shape[1]):
            pair = x[row, 2 * i : min(2 * i + 2, length)]
            expected = pair.amax(dim=0) if len(pair) else torch.zeros(8)
            torch.testing.assert_close(found[row, i], expected)
