"""Losses against their formulas, and where the formulas divide by zero."""

from __future__ import annotations

import pytest
import torch

from cuemark.nn.losses import (
    balanced_logistic,
    boundary_loss,
    iou_classification_loss,
    iou_regression_loss,
)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def literal(q: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """The formula as BMN writes it."""
    p = positive.float()
    r = p.numel() / p.sum()
    c0, c1 = 0.5 * r / (r - 1), 0.5 * r
    return -(c1 * torch.log(q + 1e-6) * p + c0 * torch.log(1 - q + 1e-6) * (1 - p)).mean()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_balanced_logistic_is_the_papers_formula(share):
    q, positive = uniform(4, 50), uniform(4, 50, seed=1) < share
    torch.testing.assert_close(balanced_logistic(q, positive), literal(q, positive))


def test_boundary_and_classification_thresholds():
    q, target = uniform(3, 20), uniform(3, 20, seed=1)
    target[0, :2] = torch.tensor([0.5, 0.9])
    torch.testing.assert_close(boundary_loss(q, target), literal(q, target > 0.5))
    torch.testing.assert_close(iou_classification_loss(q, target), literal(q, target > 0.9))


@pytest.mark.parametrize("loss", [boundary_loss, iou_classification_loss])
def test_masked_entries_do_not_count(loss):
    q, target, mask = uniform(2, 30), uniform(2, 30, seed=1), uniform(2, 30, seed=2) < 0.6
    expected = loss(q[mask], target[mask])
    torch.testing.assert_close(loss(q, target, mask), expected)
    torch.testing.assert_close(loss(torch.where(mask, q, 0.5), torch.where(mask, target, 1.0), mask), expected)


def test_without_positives_only_the_negatives_cost():
    q = uniform(1, 9).requires_grad_()
    loss = boundary_loss(q, torch.zeros(1, 9))
    torch.testing.assert_close(loss, -0.5 * torch.log(1 - q + 1e-6).mean())
    loss.backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("loss", [boundary_loss, iou_classification_loss, iou_regression_loss])
@pytest.mark.parametrize("target", [0.0, 0.2, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_finite_whatever_is_missing(loss, target, masked):
    for value in (0.0, 0.3, 1.0):
        q = torch.full((2, 3, 4), value, requires_grad=True)
        result = loss(q, torch.full((2, 3, 4), target), torch.full((2, 3, 4), not masked))
        result.backward()
        assert result.isfinite()
        assert q.grad is not None
        assert q.grad.isfinite().all()
        if masked:
            assert result == 0


def test_regression_is_the_papers_formula():
    q, iou, mask = uniform(2, 20, 20), uniform(2, 20, 20, seed=1) ** 3, uniform(2, 20, 20, seed=2) < 0.8
    found = iou_regression_loss(q, iou, mask, torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    first, second = torch.rand(iou.shape, generator=draws), torch.rand(iou.shape, generator=draws)
    g = iou * mask
    h, m, l = (g > 0.7).float(), ((g > 0.3) & (g <= 0.7)).float(), ((g > 0) & (g <= 0.3)).float()
    w = h + (m * first > 1 - h.sum() / m.sum()).float() + (l * second > 1 - h.sum() / l.sum()).float()
    assert h.sum() < m.sum() < l.sum()  # where the formula is defined
    assert w.max() == 1
    torch.testing.assert_close(found, 0.5 * ((w * (q - g)) ** 2).sum() / w.sum())


def test_regression_balances_good_middling_and_poor():
    iou = torch.cat([torch.full((50,), 0.8), torch.full((2000,), 0.5), torch.full((4000,), 0.1)])
    touched = torch.zeros_like(iou)
    for seed in range(20):
        q = torch.full_like(iou, 0.3, requires_grad=True)
        iou_regression_loss(q, iou, generator=torch.Generator().manual_seed(seed)).backward()
        touched += q.grad != 0
    good, middling, poor = (part.sum() / 20 for part in touched.split([50, 2000, 4000]))
    assert good == 50
    assert middling == pytest.approx(50, abs=8)
    assert poor == pytest.approx(50, abs=8)


def test_regression_takes_all_of_a_band_that_is_rare_and_none_outside():
    iou = torch.tensor([0.9, 0.8, 0.75, 0.5, 0.1, 0.0, 0.5])
    mask = torch.tensor([True, True, True, True, True, True, False])
    q = torch.zeros(7, requires_grad=True)
    iou_regression_loss(q, iou, mask).backward()
    assert (q.grad != 0).tolist() == [True, True, True, True, True, False, False]


def test_regression_with_a_fresh_generator_is_deterministic():
    q, iou = uniform(1, 30, 30), uniform(1, 30, 30, seed=1) ** 3
    a, b, c = (iou_regression_loss(q, iou, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert a == b
    assert a != c
