"""Self-attention over padded sequences, near each position or over all of them.

Shapes: ``B`` batch, ``H`` heads, ``T`` positions, ``d`` channels of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

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
