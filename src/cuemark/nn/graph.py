"""Graph convolution over the snippets of a sequence: neighbours in time, and neighbours in meaning.

And over spans, such as proposals: to those that overlap a span well, and to those that lie beside it.

Shapes: ``B`` batch, ``C`` channels, ``T`` positions, ``k`` neighbours; ``P`` spans of a sequence, ``n`` spans that ask.
"""

from __future__ import annotations

import math
from typing import NamedTuple

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


# ---------------------------------------------------------------------------------------------- graphs over spans

_TIE = 1e-12


def related(spans: Tensor, real: Tensor, at: Tensor, contextual: int, surrounding: int, tiou: float) -> Tensor:
    """Whom a span is linked to: those that overlap it best, and those that lie apart from it but nearest.

    The edges of P-GCN (Zeng et al., ICCV 2019, section 3.2). Two spans are near when their middles are, measured by
    the length of the stretch that holds both. Where there are fewer than asked for, they are repeated in turn; a span
    that has none is linked to itself. Of equals the first comes first.

    Args:
        spans: ``(B, P, 2)`` float64 seconds.
        real: ``(B, P)`` bool: spans that may be linked to.
        at: ``(B, n)`` int64: the spans that ask.
        contextual: so many that overlap it, with a tIoU above ``tiou``.
        surrounding: so many that do not overlap it.

    Returns:
        ``(B, n, contextual + surrounding)`` int64, the best first in each part.
    """
    mine = spans.gather(1, at[..., None].expand(-1, -1, 2))[:, :, None]  # (B, n, 1, 2)
    theirs = spans[:, None]  # (B, 1, P, 2)
    inter = (torch.minimum(mine[..., 1], theirs[..., 1]) - torch.maximum(mine[..., 0], theirs[..., 0])).clamp(min=0)
    hull = torch.maximum(mine[..., 1], theirs[..., 1]) - torch.minimum(mine[..., 0], theirs[..., 0])
    length = (mine[..., 1] - mine[..., 0]) + (theirs[..., 1] - theirs[..., 0])
    overlap = inter / (length - inter).clamp(min=_TIE)  # (B, n, P)
    apart = ((mine.sum(dim=3) - theirs.sum(dim=3)) / 2).abs() / hull.clamp(min=_TIE)
    index = torch.arange(spans.shape[1], device=spans.device)
    others = real[:, None] & (index != at[..., None])

    def slots(score: Tensor, valid: Tensor, count: int) -> Tensor:
        score = (score - index * _TIE).masked_fill(~valid, -torch.inf)
        best = score.topk(min(count, score.shape[2]), dim=2).indices
        have = valid.sum(dim=2, keepdim=True)  # (B, n, 1)
        turn = torch.arange(count, device=spans.device) % have.clamp(1, best.shape[2])
        return torch.where(have > 0, best.gather(2, turn), at[..., None])

    return torch.cat([slots(overlap, others & (overlap > tiou), contextual),
                      slots(-apart, others & (inter <= 0), surrounding)], dim=2)


class Links(NamedTuple):
    """Graphs two links deep around ``M`` centres. A *place* is a node as it stands in one of them.

    A node stands in as many places as it is seen with different children; where a node's children are always the
    same, it has one place for all graphs.
    """

    nodes: Tensor
    """``(L,)`` int64: the node at each place."""
    children: Tensor
    """``(L, k)`` int64: the nodes that the place is linked to."""
    centres: Tensor
    """``(M, 1 + k)`` int64 places: of a centre, then of each of its children, in the order of its ``children``."""


class CosineGraph(nn.Module):
    """Two graph convolutions around each centre, whose edges weigh as much as two nodes are alike.

    ``X' = A X W + b``, a ReLU after the first (Kipf and Welling, ICLR 2017). ``A`` is 1 from a node to itself and
    ``max(cos, 0) / k`` to each of its ``k`` children, the cosine being of their features (P-GCN, Zeng et al., ICCV
    2019, equation 5). Weights are uniform in ``1 / sqrt(outputs)``, as in the release.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.first, self.second = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        for layer in (self.first, self.second):
            bound = 1 / math.sqrt(layer.out_features)
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.uniform_(layer.bias, -bound, bound)

    def forward(self, x: Tensor, links: Links) -> Tensor:
        """``(N, dim)`` nodes to ``(M, dim)`` centres."""
        k = links.children.shape[1]
        unit = F.normalize(x.float(), dim=1)
        mine = unit[links.nodes]
        # child by child: all at once, their features would take k times the memory of the nodes'
        alike = [(mine * unit[links.children[:, i]]).sum(dim=1) for i in range(k)]
        weight = torch.stack(alike, dim=1).clamp(min=0)[..., None] / k  # (L, k, 1)
        support = F.linear(x, self.first.weight)  # of each node once, in however many places it stands
        hidden = F.relu(support[links.nodes] + (weight * support[links.children]).sum(dim=1) + self.first.bias)
        hidden = F.dropout(hidden, self.dropout, self.training)
        centre, children = links.centres[:, 0], links.centres[:, 1:]
        return self.second(hidden[centre] + (weight[centre] * hidden[children]).sum(dim=1))
