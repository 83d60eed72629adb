"""Maps whose cells are pairs of positions, a first and a last one, of which only some exist.

Cell ``(a, b)`` with ``a <= b`` is the span from the left edge of position ``a`` to the right edge of position ``b``; a
map of ``N`` positions is ``N x N`` with the cells in its upper right triangle. Of the longer spans only every second,
fourth … is there (:func:`sparse_pairs`), which keeps a long video affordable. Here is what describes each of them by
convolutions (:class:`SpanConv`; by a maximum: :func:`cuemark.nn.pooling.span_max`), and how a map is convolved when
most of it is empty (:class:`PairConv`).

Shapes: ``B`` batch, ``C`` channels, ``N`` positions, ``P`` spans that exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 16  # of a map that are convolved together: more compute more of the empty triangle, fewer are slower


@lru_cache(maxsize=32)
def sparse_pairs(positions: int, scales: tuple[int, ...]) -> np.ndarray:
    """The spans of 2D-TAN's sparse map (Zhang et al., AAAI 2020, section 3.2 and its released code).

    Scale ``s`` has a stride of ``2^s`` positions, in starts and in lengths, and ``scales[s]`` lengths. The first scale
    begins with spans of one position, each next one two steps of the previous scale above its longest: ``b - a`` is
    0, 1 … 15, then 17, 19 … 31, then 35, 39 … 63 for ``(16, 8, 8)``.

    Args:
        positions: N.
        scales: number of lengths of each scale.

    Returns:
        ``(P, 2)`` int64 rows ``(a, b)``, ordered by length, then start. Lengths that no span fits have none.
    """
    found = []
    offset = 0
    for scale, lengths in enumerate(scales):
        stride = 2**scale
        for _ in range(lengths):
            start = np.arange(0, max(positions - offset, 0), stride)
            found.append(np.stack([start, start + offset], axis=1))
            offset += stride
        offset += stride  # a second step: what a convolution of kernel 3 adds to the longest
    pairs = np.concatenate(found)
    pairs.flags.writeable = False  # it is shared between callers
    return pairs


def pair_mask(lengths: Tensor, pairs: Tensor) -> Tensor:
    """Which spans end inside their sequence: ``(B,)`` lengths and ``(P, 2)`` spans to ``(B, P)`` bool."""
    return pairs[:, 1] < lengths[:, None]


class SpanConv(nn.Module):
    """A feature of every span of :func:`sparse_pairs` by stacked convolutions: ``(B, C, N)`` to ``(B, C, P)``.

    Each length is convolved from the one before it: kernel 2, stride 1, within a scale; kernel 3, stride 2, to the
    first length of the next scale; kernel 1 for spans of one position. No activation between them. (2D-TAN, "conv".)
    """

    def __init__(self, channels: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, stride)
            for scale, lengths in enumerate(scales)
            for kernel, stride in [(1, 1) if scale == 0 else (3, 2), *[(2, 1)] * (lengths - 1)])

    def forward(self, x: Tensor) -> Tensor:
        spans = []
        for step in self.steps:
            x = step(x)
            spans.append(x)
        return torch.cat(spans, dim=-1)


class PairConv(nn.Module):
    """Convolutions over a map most of whose cells are empty: ``(B, C, N, N)`` to ``(B, C, N, N)``.

    Each layer is a convolution and ReLU; then every cell is divided by how many cells under the kernel were there, and
    is empty (zero) where none was. A cell is there after a layer if any under the kernel was before it: also outside
    the map, where such cells are kept as long as they reach back into it. (2D-TAN's masked map convolution.)

    The released code pads the first layer by ``layers * (kernel // 2)`` cells and lets the map shrink to ``N`` again.
    The same numbers come from fewer cells. After layer ``l`` of ``L`` only those matter that the first ``l`` layers
    reached and from which the last ``L - l`` reach the map, which is a margin of ``min(l, L - l) * (kernel // 2)``;
    and the lower left triangle, apart from a band as wide, is empty and not computed: a convolution is taken over
    strips of 16 rows, each beginning where its first row does. Cells convolved, all layers: 4,480 instead of the
    release's 7,872 (N = 16, 8 layers, kernel 5), 14,592 instead of 23,424 (64, 4, 9), 90,496 instead of 161,984
    (128, 8, 5).
    """

    def __init__(self, channels: int, kernel: int, layers: int) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels, kernel) for _ in range(layers))

    def margin(self, done: int) -> int:
        """Cells around the map that matter when ``done`` layers are done."""
        return min(done, len(self.layers) - done) * self.reach

    def shares(self, mask: Tensor) -> list[Tensor]:
        """What each layer's cells are multiplied by, ``1 / count``: ``(B, 1, N + 2 margin, N + 2 margin)`` each.

        Args:
            mask: ``(B, N, N)`` bool: the cells that are there; none in the lower left triangle.
        """
        found = []
        there = mask[:, None].float()
        ones = there.new_ones(1, 1, 2 * self.reach + 1, 2 * self.reach + 1)
        with torch.autocast(mask.device.type, enabled=False):  # counts exceed bfloat16's 8 bits
            for done in range(1, len(self.layers) + 1):
                more = self.margin(done) - self.margin(done - 1) + self.reach
                count = F.conv2d(F.pad(there, (more,) * 4), ones).round()
                there = (count > 0).float()
                found.append(there / count.clamp(min=1))
        return found

    def forward(self, x: Tensor, shares: Sequence[Tensor]) -> Tensor:
        """The map after all layers.

        Args:
            x: ``(B, C, N, N)``, zero where there is no cell.
            shares: from :meth:`shares`; of every row, or of all alike (``B = 1``).
        """
        for number, (layer, share) in enumerate(zip(self.layers, shares, strict=True), start=1):
            margin = self.margin(number)
            more = margin - self.margin(number - 1) + self.reach
            assert isinstance(layer, nn.Conv2d)
            x = F.relu(self._strips(layer, F.pad(x, (more,) * 4), margin)) * share
        return x

    def _strips(self, layer: nn.Conv2d, x: Tensor, margin: int) -> Tensor:
        """The convolution of ``x``, and zeros to the left of where row ``i`` of the result is empty."""
        size = x.shape[-1] - 2 * self.reach
        strips = []
        for top in range(0, size, _ROWS):
            left = max(top - 2 * margin, 0)  # cell (r, c) counted from the map is empty for c < r - 2 margin
            rows = x[:, :, top: top + _ROWS + 2 * self.reach, left:]
            strips.append(F.pad(layer(rows), (left, 0)))
        return torch.cat(strips, dim=2) if len(strips) > 1 else strips[0]
