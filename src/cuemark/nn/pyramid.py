"""A pyramid of sequences, each half as long as the one before, made by transformer blocks with convolutions in them.

Position ``i`` of level ``l`` stands for position ``i * 2^l`` of level 0: every step of 2 is centred on the position it
keeps. Everything is masked before it mixes positions, so padding means nothing.

Shapes: ``B`` batch, ``T`` positions, ``C`` channels. Sequences are ``(B, T, C)``, masks ``(B, T)`` bool.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuemark.nn.attention import attend


class ConvStack(nn.Module):
    """``layers`` times: convolution over 3 positions without bias, layer norm, ReLU."""

    def __init__(self, dim: int, width: int, layers: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width if i else dim, width, 3, padding=1, bias=False) for i in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, dim)`` to ``(B, T, width)``, zero where ``mask`` is False."""
        keep = mask[..., None]
        x = x * keep
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(along_time(convolution, x))) * keep
        return x


def along_time(convolution: nn.Module, x: Tensor) -> Tensor:
    """A ``Conv1d`` on ``(B, T, C)``."""
    y: Tensor = convolution(x.transpose(1, 2))
    return y.transpose(1, 2)


class DepthwiseConv(nn.Module):
    """Each channel by itself over 3 positions, every ``stride``-th of them: ``(B, T, C)``.

    Args:
        dim: C.
        stride: how many positions apart the outputs are.
        bias: whether a constant is added.
        centred: output ``i`` sees the positions around ``i * stride``; if not, and with stride 2, those from ``2 i`` to
            ``2 i + 2``, half a step later, as TensorFlow pads an even length ("SAME").
    """

    def __init__(self, dim: int, stride: int = 1, bias: bool = False, centred: bool = True) -> None:
        super().__init__()
        self.stride, self.late = stride, not centred and stride == 2
        self.weight = nn.Parameter(torch.empty(3, dim).uniform_(-(3**-0.5), 3**-0.5))  # PyTorch's default
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        step, (before, here, after) = self.stride, self.weight
        # positions beyond the end are 0; an odd length needs one more where every window begins late
        x = F.pad(x, (0, 0, 0, 1 + x.shape[1] % 2) if self.late else (0, 0, 1, 1))
        y = x[:, :-2:step] * before + x[:, 1:-1:step] * here + x[:, 2::step] * after
        return y if self.bias is None else y + self.bias


class DepthwiseLevel(nn.Module):
    """A level of a pyramid without attention: a :class:`DepthwiseConv` with bias, and a layer norm."""

    def __init__(self, width: int, stride: int = 1, centred: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        self.conv = DepthwiseConv(width, stride, True, centred)
        self.norm = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, ceil(T / stride), C)``, zero where its mask is False.

        Args:
            x: zero where its own mask is False.
            mask: ``(B, ceil(T / stride))`` bool.
        """
        y: Tensor = self.norm(self.conv(x)) * mask[..., None]
        return y


class ConvHead(nn.Module):
    """``layers`` times: layer norm, convolution over 3 positions, ReLU. Then a linear layer.

    Args:
        width: C, of all layers.
        layers: how many; 0: the linear layer alone.
        outputs: O; 0: none, :meth:`features` are what is wanted.
        bias: what the outputs begin near.
    """

    def __init__(self, width: int, layers: int, outputs: int, bias: float = 0.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_HeadLayer(width, eps) for _ in range(layers))
        self.out = nn.Linear(width, outputs) if outputs else None
        if self.out is not None:
            nn.init.xavier_normal_(self.out.weight)
            nn.init.constant_(self.out.bias, bias)

    def features(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, T, C)``; positions where ``mask`` is False are not seen, and mean nothing."""
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, T, O)``."""
        x = self.features(x, mask)
        return x if self.out is None else self.out(x)


class _HeadLayer(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.conv = nn.Conv1d(width, width, 3, padding=1)
        nn.init.normal_(self.conv.weight, std=(3 * width) ** -0.5)  # LeCun's
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return F.relu(over_three(self.conv, self.norm(x) * mask[..., None]))


def over_three(convolution: nn.Conv1d, x: Tensor) -> Tensor:
    """A ``Conv1d`` over 3 positions, padded by 1, on ``(B, T, C)``, as one product of matrices and two shifts.

    The same as :func:`along_time` to rounding; 1.7 times as fast on a CPU at width 512, as nothing is transposed.
    """
    before, here, after = F.linear(x, convolution.weight.permute(2, 0, 1).flatten(0, 1)).chunk(3, dim=2)
    y = here + F.pad(before[:, :-1], (0, 0, 1, 0)) + F.pad(after[:, 1:], (0, 0, 0, 1))
    return y if convolution.bias is None else y + convolution.bias


class ScaledPath(nn.Module):
    """A learned factor per channel, small at first; in training, each sample is left out with probability ``drop``.

    (Layer scale of Touvron et al., "Going deeper with image transformers", ICCV 2021, and stochastic depth.)
    """

    def __init__(self, dim: int, drop: float = 0.0, start: float = 1e-4) -> None:
        super().__init__()
        self.drop = drop
        self.scale = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        if not (self.training and self.drop):
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.drop
        return x * kept / (1 - self.drop)


class ConvTransformerBlock(nn.Module):
    """Pre-norm transformer block whose queries, keys and values first see their neighbours in time.

    Attention of ``norm(depthwise convolution(norm(x)))`` within ``window`` positions (0: all), then a perceptron of
    four times the width with GELU, each on a :class:`ScaledPath`. With ``stride`` 2, three strided convolutions halve
    the sequence, and the skip is the maximum over 3 positions. Keys have no bias: softmax would take it out.
    """

    def __init__(self, width: int, heads: int, window: int = 0, stride: int = 1, drop: float = 0.0) -> None:
        super().__init__()
        self.heads, self.window, self.stride = heads, window, stride
        self.norm, self.norm_wide = nn.LayerNorm(width), nn.LayerNorm(width)
        self.near = nn.ModuleList(DepthwiseConv(width, stride) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.projections = nn.ModuleList(nn.Linear(width, width, bias=name != "key")
                                         for name in ("query", "key", "value"))
        self.out = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.attention_path, self.wide_path = ScaledPath(width, drop), ScaledPath(width, drop)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, T, C)`` and its mask to ``(B, ceil(T / stride), C)``, zero where its mask is False, and that mask."""
        normed = self.norm(x) * mask[..., None]
        if self.stride > 1:
            x = halved_max(x, mask)
            mask = mask[:, ::self.stride]
        keep = mask[..., None]
        query, key, value = (
            projection(norm(near(normed))).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for near, norm, projection in zip(self.near, self.norms, self.projections, strict=True))
        seen = attend(query, key, value, mask, self.window).transpose(1, 2).flatten(2)
        x = (x + self.attention_path(self.out(seen))) * keep
        wide = self.narrow(F.gelu(self.wide(self.norm_wide(x))))
        return x + self.wide_path(wide * keep), mask


def halved_max(x: Tensor, mask: Tensor) -> Tensor:
    """Maximum over the real ones of 3 positions around every other one: ``(B, T, C)`` to ``(B, ceil(T / 2), C)``.

    Zero where the position in the middle is not real.
    """
    return _every_other_max(x, mask, 3, padding=1, ceil=False)


def paired_max(x: Tensor, mask: Tensor) -> Tensor:
    """Maximum over the real ones of positions ``2 i`` and ``2 i + 1``: ``(B, T, C)`` to ``(B, ceil(T / 2), C)``.

    Zero where position ``2 i`` is not real.
    """
    return _every_other_max(x, mask, 2, padding=0, ceil=True)


def _every_other_max(x: Tensor, mask: Tensor, kernel: int, padding: int, ceil: bool) -> Tensor:
    low = x.masked_fill(~mask[..., None], torch.finfo(x.dtype).min)
    pooled = F.max_pool1d(low.transpose(1, 2), kernel, 2, padding, ceil_mode=ceil).transpose(1, 2)
    return pooled.masked_fill(~mask[:, ::2, None], 0.0)


class Pyramid(nn.Module):
    """``stem`` blocks at the full length, then one that halves it for every further level; a layer norm on each level.

    Args:
        width: channels, of all levels.
        heads: of attention; divides ``width``.
        stem: blocks before level 0.
        windows: of attention at each level, in that level's positions; 0: all.
        drop: of :class:`ScaledPath`.
    """

    def __init__(self, width: int, heads: int, stem: int, windows: Sequence[int], drop: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.ModuleList(ConvTransformerBlock(width, heads, windows[0], 1, drop) for _ in range(stem))
        self.branch = nn.ModuleList(ConvTransformerBlock(width, heads, w, 2, drop) for w in windows[1:])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in windows)

    def forward(self, x: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """``(B, T, C)`` and its mask to those of every level, the finest first, zero where the mask is False."""
        for block in self.stem:
            x, mask = block(x, mask)
        levels = [(x, mask)]
        for block in self.branch:
            levels.append(block(*levels[-1]))
        return [(norm(y) * m[..., None], m) for norm, (y, m) in zip(self.norms, levels, strict=True)]
