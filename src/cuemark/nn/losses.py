"""Losses of boundary and confidence maps (BMN, Lin et al., ICCV 2019, section 4; shared by G-TAD).

All take probabilities, a mask of the entries that exist, and are finite for every batch: counts are taken inside the
mask and never divide by zero, so a batch without positives costs only its negatives (the released code gives NaN).
"""

from __future__ import annotations

import torch
from torch import Tensor

_EPS = 1e-6


def balanced_logistic(probability: Tensor, positive: Tensor, mask: Tensor | None = None) -> Tensor:
    """Weighted binary logistic loss in which positives and negatives weigh the same.

    With ``r = n / n_positive``, entries weigh ``r/2`` where positive and ``r / (2 (r - 1))`` where not, and the loss
    is the mean over all ``n``: which is half the mean over the positives plus half the mean over the negatives.

    Args:
        probability: any shape, in [0, 1].
        positive: the same shape, bool.
        mask: the same shape, bool: entries that count; all by default.
    """
    q = probability.float()
    mask = torch.ones_like(positive) if mask is None else mask
    yes, no = (positive & mask).to(q), (~positive & mask).to(q)
    hit = (yes * torch.log(q + _EPS)).sum() / yes.sum().clamp(min=1)
    miss = (no * torch.log(1 - q + _EPS)).sum() / no.sum().clamp(min=1)
    return -0.5 * (hit + miss)


def boundary_loss(probability: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Temporal evaluation loss of starts or of ends: :func:`balanced_logistic` with ``target > 0.5`` as positive.

    Args:
        probability: ``(B, T)``.
        target: ``(B, T)`` in [0, 1], from :func:`cuemark.nn.maps.boundary_targets`.
        mask: ``(B, T)`` bool.
    """
    return balanced_logistic(probability, target > 0.5, mask)


def iou_classification_loss(probability: Tensor, iou: Tensor, mask: Tensor | None = None) -> Tensor:
    """Is the span nearly exact? :func:`balanced_logistic` with ``iou > 0.9`` as positive.

    Args:
        probability: ``(B, D, T)``.
        iou: ``(B, D, T)`` from :func:`cuemark.nn.maps.iou_map`.
        mask: ``(B, D, T)`` bool.
    """
    return balanced_logistic(probability, iou > 0.9, mask)


def iou_regression_loss(probability: Tensor, iou: Tensor, mask: Tensor | None = None,
                        generator: torch.Generator | None = None) -> Tensor:
    """Half the mean squared error of the predicted tIoU, over as many good, middling and poor cells.

    All cells with ``iou > 0.7`` count; of those in (0.3, 0.7] and in (0, 0.3] a random part of the same expected
    number (all, where there are fewer); those that touch no truth do not.

    Args:
        probability: ``(B, D, T)``.
        iou: ``(B, D, T)`` from :func:`cuemark.nn.maps.iou_map`.
        mask: ``(B, D, T)`` bool.
        generator: a CPU generator to draw from; torch's default one when None. A freshly seeded one makes the loss
            a deterministic function of its inputs.
    """
    q = probability.float()
    mask = torch.ones_like(iou, dtype=torch.bool) if mask is None else mask
    high = (iou > 0.7) & mask
    chosen = high
    for low, top in ((0.3, 0.7), (0.0, 0.3)):
        band = (iou > low) & (iou <= top) & mask
        share = high.sum().clamp(min=1) / band.sum().clamp(min=1)
        draw = torch.rand(iou.shape, generator=generator).to(iou.device)  # drawn on the CPU: the same on every device
        chosen = chosen | (band & (draw > 1 - share))
    error = torch.where(chosen, q - iou, 0.0)
    return 0.5 * error.square().sum() / chosen.sum().clamp(min=1)
