"""Self-attention over padded sequences, near each position or over all of them.

Shapes: ``B`` batch, ``H`` heads, ``T`` positions, ``d`` channels of a head, ``W = H d`` channels of a position.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BLOCK = 32  # queries that share a slice of keys: few and large products of matrices, at most half of it in vain


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, window: int = 0) -> Tensor:
    """Scaled dot-product attention to real positions, at most ``window // 2`` away.

    The cost grows with ``T * window``: queries are taken in blocks, and each block is multiplied with the keys around
    it (the sliding window of Beltagy et al., "Longformer", 2020, section 3.1).

    Args:
        query: ``(B, H, T, d)``.
        key: likewise.
        value: likewise; finite where ``mask`` is False too.
        mask: ``(B, T)`` bool, True at real positions. What a padded query answers is finite and means nothing.
        window: odd number of positions seen, the query's own in the middle; 0: all of them.

    Returns:
        ``(B, H, T, d)``.
    """
    size, _, length, _ = query.shape
    half = window // 2
    if window == 0 or half >= length - 1:
        keys = mask | ~mask.any(dim=1, keepdim=True)  # a softmax over nothing would be NaN
        return F.scaled_dot_product_attention(query, key, value, attn_mask=keys[:, None, None])
    block = max(_BLOCK, half)
    count = math.ceil(length / block)
    more = count * block - length
    span = block + 2 * half

    def around(x: Tensor) -> Tensor:
        """``(B, H, T, d)`` to ``(B * count, H, span, d)``: what the queries of each block may see."""
        pieces = F.pad(x, (0, 0, half, half + more)).unfold(2, span, block)  # (B, H, count, d, span)
        return pieces.permute(0, 2, 1, 4, 3).flatten(0, 1)

    blocks = F.pad(query, (0, 0, 0, more)).unflatten(2, (count, block)).transpose(1, 2).flatten(0, 1)
    away = (torch.arange(span, device=mask.device) - half) - torch.arange(block, device=mask.device)[:, None]
    keys = F.pad(mask, (half, half + more)).unfold(1, span, block).flatten(0, 1)  # (B * count, span)
    # its own position is always there: a softmax over nothing would be NaN
    seen = ((away.abs() <= half) & keys[:, None]) | (away == 0)
    out = F.scaled_dot_product_attention(blocks, around(key), around(value), attn_mask=seen[:, None])
    return out.unflatten(0, (size, count)).transpose(1, 2).flatten(2, 3)[:, :, :length]


def sinusoids(length: int, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """``(length, dim)`` sines (even channels) and cosines (odd ones) of the position, for any length.

    Channels ``2i`` and ``2i + 1`` turn by ``10000^(-2i / dim)`` per position (Vaswani et al., NeurIPS 2017, 3.5).
    """
    channel = torch.arange(dim, device=device)
    rate = 10000.0 ** (-2 * (channel // 2) / dim)
    angle = torch.arange(length, device=device)[:, None] * rate
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, ``(B, H, T, d)`` each."""


class Attention(nn.Module):
    """Attention of all positions to all; weights begin as Glorot's, biases at 0.

    Keys have no bias: a softmax would take it out.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.v, self.out = (nn.Linear(width, width) for _ in range(3))
        self.k = nn.Linear(width, width, bias=False)
        for layer in (self.q, self.k, self.v, self.out):
            begin(layer)

    def project(self, x: Tensor) -> Heads:
        """``(B, T, W)`` to queries, keys and values; each position by itself."""
        query, key, value = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
                             for layer in (self.q, self.k, self.v))
        return query, key, value

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """What queries ``(B, H, S, d)`` find at positions ``(B, H, T, d)``: ``(B, S, W)``.

        Args:
            mask: ``(B, T)`` bool, True at real positions, of which every row has one; None: all are real.
        """
        keys = None if mask is None else mask[:, None, None]
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        found: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return found


class TransformerBlock(nn.Module):
    """Pre-norm transformer block (Vaswani et al., NeurIPS 2017): attention, then a perceptron of four times the width.

    Its two halves can be told apart: :meth:`project` looks at each position by itself, so what several sequences have
    in common is projected once.
    """

    def __init__(self, width: int, heads: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(begin(nn.Linear(width, 4 * width)), nn.GELU(approximate="tanh"),
                                 begin(nn.Linear(4 * width, width)))

    def project(self, x: Tensor) -> Heads:
        """Queries, keys and values of ``(B, T, W)``, normalised first."""
        return self.attention.project(self.norm1(x))

    def forward(self, x: Tensor, mask: Tensor | None = None, count: int | None = None, projected: Heads | None = None
                ) -> Tensor:
        """``(B, T, W)`` to ``(B, T, W)``, or to the first ``count`` positions alone.

        Args:
            mask: ``(B, T)`` bool, True at real positions; None: all are. What padded ones say means nothing.
            count: how many positions are wanted; the others are still seen.
            projected: :meth:`project` of ``x``, where it is known already.
        """
        query, key, value = self.project(x) if projected is None else projected
        if count is not None:
            x, query = x[:, :count], query[:, :, :count]
        x = x + self.attention(query, key, value, mask)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


def begin(layer: nn.Linear) -> nn.Linear:
    """The layer with weights drawn as Glorot and Bengio do (AISTATS 2010) and no bias yet."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
