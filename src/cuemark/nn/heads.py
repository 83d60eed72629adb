"""Linear heads on clip features, and the losses that go with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear_head(dim: int, outputs: int) -> nn.Linear:
    """A linear layer with weights from N(0, 0.01) and zero bias (TSP's release)."""
    head = nn.Linear(dim, outputs)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def labelled_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross entropy over the rows whose ``label`` is not negative; 0, never NaN, where there is none.

    Args:
        logits: ``(B, K)``.
        label: ``(B,)`` int64.
    """
    labelled = (label >= 0).sum()
    total = F.cross_entropy(logits.float(), label, ignore_index=-1, reduction="sum")
    return total / labelled.clamp(min=1)


def correct(logits: Tensor, label: Tensor) -> tuple[int, int]:
    """How many labelled rows are classified right, and how many there are."""
    labelled = label >= 0
    return int(((logits.argmax(1) == label) & labelled).sum()), int(labelled.sum())


class Projection(nn.Sequential):
    """Batch normalisation, then a linear layer (CLAP section 4.1): ``(B, dim)`` to ``(B, outputs)``.

    A batch of one row has no statistics of its own: it is normalised by the running ones, in training too.
    """

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__(nn.BatchNorm1d(dim), nn.Linear(dim, outputs))

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):  # similarities need more than bf16's 8 bits
            if self.training and len(input) == 1:
                norm, linear = self[0], self[1]
                assert isinstance(norm, nn.BatchNorm1d)
                return linear(F.batch_norm(input.float(), norm.running_mean, norm.running_var, norm.weight, norm.bias,
                                           eps=norm.eps))
            return super().forward(input.float())
