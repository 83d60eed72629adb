"""Heads: how they begin, what they leave out, and what precision they compute in."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from cuemark.nn.heads import Projection, correct, labelled_cross_entropy, linear_head


def test_a_head_begins_as_in_tsps_release():
    torch.manual_seed(0)
    head = linear_head(500, 400)
    assert (head.bias == 0).all()
    weight = head.weight.detach()
    assert weight.shape == (400, 500)
    assert float(weight.std()) == pytest.approx(0.01, rel=0.01)
    assert abs(float(weight.mean())) < 1e-4
    kurtosis = float((weight / 0.01).pow(4).mean())  # 3 for a normal distribution, 1.8 for a uniform one
    assert kurtosis == pytest.approx(3, abs=0.1)


# ------------------------------------------------------------------------------------- cross entropy


def obvious(logits: torch.Tensor, label: torch.Tensor) -> float:
    costs = []
    for row, k in zip(logits.tolist(), label.tolist()):
        if k >= 0:
            costs.append(math.log(sum(math.exp(v - row[k]) for v in row)))
    return sum(costs) / len(costs) if costs else 0.0


@pytest.mark.parametrize("labels", [[0, 1, 2, 1], [-1, 2, -1, 0], [-1, -1, -1, 1], [2, 2, 2, 2]])
def test_cross_entropy_is_the_mean_over_labelled_rows(labels: list[int]):
    torch.manual_seed(1)
    logits, label = torch.randn(4, 3), torch.tensor(labels)
    assert float(labelled_cross_entropy(logits, label)) == pytest.approx(obvious(logits, label), rel=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_without_a_label_it_is_zero_with_gradients_of_zero(rows: int):
    logits = torch.randn(rows, 3, requires_grad=True)
    loss = labelled_cross_entropy(logits, torch.full((rows,), -1))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_rows_without_a_label_have_no_part_in_it():
    torch.manual_seed(2)
    logits, label = torch.randn(5, 3, requires_grad=True), torch.tensor([0, -1, 2, -1, 1])
    loss = labelled_cross_entropy(logits, label)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(1) > 0).tolist() == [True, False, True, False, True]
    changed = logits.detach().clone()
    changed[[1, 3]] = torch.tensor([1e4, -1e4, 0.0])
    assert torch.equal(labelled_cross_entropy(changed, label), loss.detach())
    assert torch.equal(labelled_cross_entropy(logits[label >= 0], label[label >= 0]), loss)


def test_the_order_of_rows_does_not_matter():
    torch.manual_seed(3)
    logits, label = torch.randn(6, 4).double(), torch.tensor([0, -1, 3, 2, -1, 1])
    order = torch.randperm(6)
    found, expected = labelled_cross_entropy(logits[order], label[order]), labelled_cross_entropy(logits, label)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_the_right_answer_costs_nothing_and_no_answer_costs_log_k():
    label = torch.tensor([0, 1, 2])
    assert float(labelled_cross_entropy(1e4 * torch.eye(3), label)) == 0
    assert float(labelled_cross_entropy(torch.zeros(3, 3), label)) == pytest.approx(math.log(3), rel=1e-6)


def test_half_precision_logits_are_summed_in_single():
    logits = torch.randn(64, 10).bfloat16()
    label = torch.arange(64) % 10
    loss = labelled_cross_entropy(logits, label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), label))


# ------------------------------------------------------------------------------------- accuracy


def test_correct_counts_labelled_rows():
    logits = torch.eye(4)[[0, 1, 2, 3, 0, 1]]
    assert correct(logits, torch.tensor([0, 1, 2, 3, 0, 1])) == (6, 6)
    assert correct(logits, torch.tensor([0, -1, 2, -1, 1, 1])) == (3, 4)
    assert correct(logits, torch.full((6,), -1)) == (0, 0)
    assert correct(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)) == (0, 0)
    assert all(type(n) is int for n in correct(logits, torch.tensor([0, -1, 2, -1, 1, 1])))


# ------------------------------------------------------------------------------------- projection


def test_projection_is_batch_norm_then_linear():
    """CLAP section 4.1."""
    torch.manual_seed(4)
    projection = Projection(5, 3)
    x = torch.randn(16, 5) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]) + 7
    mean, variance = x.double().mean(0), x.double().var(0, correction=0)
    standard = (x.double() - mean) / (variance + 1e-5).sqrt()
    weights = dict(projection.named_parameters())
    assert [tuple(w.shape) for w in weights.values()] == [(5,), (5,), (3, 5), (3,)]
    linear = projection[1]
    expected = standard @ linear.weight.double().T + linear.bias.double()
    torch.testing.assert_close(projection(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_projection_uses_what_it_saw_in_training():
    torch.manual_seed(5)
    projection = Projection(5, 3)
    projection(torch.randn(8, 5))
    projection.eval()
    x = torch.randn(4, 5)
    torch.testing.assert_close(projection(x[:1]), projection(x)[:1])


def test_projection_of_one_row_in_training_uses_what_it_saw():
    """One row has no variance; what was seen before stands in, and learns nothing from it."""
    torch.manual_seed(7)
    projection = Projection(5, 3)
    projection(3 * torch.randn(8, 5) + 1)
    before = {name: value.clone() for name, value in projection.state_dict().items()}
    x = torch.randn(1, 5)
    found = projection(x)
    assert projection.training
    assert all(torch.equal(value, before[name]) for name, value in projection.state_dict().items())
    found.sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in projection.parameters())
    torch.testing.assert_close(found, projection.eval()(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(projection.train()(x), found)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_projection_computes_in_single_precision_under_autocast(kind: torch.dtype):
    torch.manual_seed(6)
    projection = Projection(32, 16).eval()
    x = torch.randn(4, 32).to(kind)
    expected = projection(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = projection(x)
        assert torch.is_autocast_enabled("cpu")
        assert torch.nn.Linear(32, 2)(x.float()).dtype == torch.bfloat16  # outside, autocast works as ever
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
