"""Pooling over many spans of the same sequences at once.

Shapes: ``B`` batch, ``T`` positions, ``C`` channels, ``n`` spans.
"""

from __future__ import annotations

import torch
from torch import Tensor


def span_max(values: Tensor, rows: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The maximum over spans of whole positions, whatever their lengths, in ``log2(T)`` passes over the sequences.

    A sparse table: pass ``k`` holds the maximum of ``2^k`` positions from each on, and two of its entries that overlap
    make up any span of ``2^k`` to ``2^(k+1) - 1`` positions. Only one pass is in memory at a time.

    Args:
        values: ``(B, T, C)``.
        rows: ``(n,)`` int64: which sequence each span belongs to.
        first: ``(n,)`` int64: its first position.
        last: ``(n,)`` int64: its last position, included; not before ``first``.

    Returns:
        ``(n, C)``.
    """
    powers = 2 ** torch.arange(1, max(values.shape[1].bit_length(), 2), device=rows.device)
    level = (last - first + 1 >= powers[:, None]).sum(dim=0)  # floor(log2(length)), exactly
    answer = values.new_empty(len(rows), values.shape[2])
    table = values
    for k in range(int(level.max()) + 1 if len(rows) else 0):
        chosen = (level == k).nonzero()[:, 0]
        row, left, right = rows[chosen], first[chosen], last[chosen] - 2**k + 1
        answer[chosen] = torch.maximum(table[row, left], table[row, right])
        table = torch.maximum(table[:, : -(2**k)], table[:, 2**k :])
    return answer
