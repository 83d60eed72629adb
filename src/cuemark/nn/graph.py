"""Graph convolution over the snippets of a sequence: neighbours in time, and neighbours in meaning.

Shapes: ``B`` batch, ``C`` channels, ``T`` positions, ``k`` neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def nearest(x: Tensor, k: int, mask: Tensor | None = None) -> Tensor:
    """The ``k`` positions whose features are closest in Euclidean distance, the position itself first.

    Args:
        x: ``(B, C, T)``.
        k: how many, itself included. Where there are fewer positions, the rest are links to itself again.
        mask: ``(B, T)`` bool: positions that may be linked to; all by default.

    Returns:
        ``(B, T, k)`` int64.
    """
    with torch.autocast(x.device.type, enabled=False):  # in bfloat16 the nearest would be a matter of rounding
        points = x.detach().float().transpose(1, 2)
        square = points.square().sum(dim=2)
        distance = (square[:, :, None] + square[:, None, :] - 2 * points @ points.transpose(1, 2)).clamp(min=0)
    itself = torch.arange(x.shape[2], device=x.device)
    distance[:, itself, itself] = -1.0
    if mask is not None:
        distance = distance.masked_fill(~mask[:, None, :], torch.inf)
    distance = F.pad(distance, (0, max(k - x.shape[2], 0)), value=torch.inf)
    best, index = distance.topk(k, dim=2, largest=False)
    return torch.where(best.isinf(), itself[:, None], index)


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Features at given positions: ``(B, C, T)`` at ``(B, T, k)`` gives ``(B, C, T, k)``."""
    batch, channels, _ = x.shape
    flat = index.reshape(batch, 1, -1).expand(-1, channels, -1)
    return x.gather(2, flat).reshape(batch, channels, *index.shape[1:])


class GCNeXt(nn.Module):
    """One block of G-TAD's graph convolution (Xu et al., CVPR 2020).

    ``relu(temporal(x) + x + semantic(x))``: the temporal path is a grouped convolution over the two neighbours in
    time; the semantic path convolves ``concat(neighbour, self)`` on the edges to the ``k`` positions nearest in
    feature space (found anew in every call, itself among them) and keeps the maximum over the edges. Both are
    bottlenecks of ``width`` channels in ``groups`` groups. No normalisation, PyTorch's default initialisation.
    """

    def __init__(self, channels: int, width: int = 128, groups: int = 32, neighbours: int = 3) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.temporal_in = nn.Conv1d(channels, width, 1)
        self.temporal = nn.Conv1d(width, width, 3, padding=1, groups=groups)
        self.temporal_out = nn.Conv1d(width, channels, 1)
        self.semantic_in = nn.Conv2d(2 * channels, width, 1)
        self.semantic = nn.Conv2d(width, width, 1, groups=groups)
        self.semantic_out = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The block's output, and whom each position was linked to.

        Args:
            x: ``(B, C, T)``.
            mask: ``(B, T)`` bool, True at real positions; what ``x`` holds elsewhere means nothing.

        Returns:
            ``(B, C, T)``, zero where ``mask`` is False; and ``(B, T, k)`` int64 neighbours.
        """
        keep = torch.ones_like(x[:, :1]) if mask is None else mask[:, None].to(x.dtype)
        # masked before it mixes positions: the bias would make padding visible to the last real ones
        narrow = F.relu(self.temporal_in(x)) * keep
        temporal = self.temporal_out(F.relu(self.temporal(narrow)))

        index = nearest(x, self.neighbours, mask)
        # the first layer is linear in concat(neighbour, self): both halves before the edges multiply the work by k
        weight = self.semantic_in.weight[..., 0]
        theirs = F.conv1d(x, weight[:, : x.shape[1]])
        own = F.conv1d(x, weight[:, x.shape[1]:], self.semantic_in.bias)
        edges = F.relu(gather(theirs, index) + own[..., None])  # (B, width, T, k)
        semantic = self.semantic_out(F.relu(self.semantic(edges)))
        return F.relu(temporal + x + semantic.amax(dim=3)) * keep, index
