"""Naming spans."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cuemark.errors import CallError, ModelError
from cuemark.localizers.classify import SpanClassifier, fuse, span_loss, span_scores
from cuemark.segments import Segment


def test_scores_are_the_softmax_of_the_mean_over_the_span():
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    found = span_scores(logits, torch.tensor([1, 0]), torch.tensor([[1.0, 4.0], [2.5, 3.5]]))
    torch.testing.assert_close(found[0], logits[1, 1:4].mean(dim=0).softmax(dim=0))
    torch.testing.assert_close(found[1], logits[0, 2:4].mean(dim=0).softmax(dim=0))


def test_the_loss_is_cross_entropy_over_the_true_spans():
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows, spans, labels = torch.tensor([0, 1]), torch.tensor([[0.0, 2.0], [1.0, 6.0]]), torch.tensor([2, 0])
    expected = F.cross_entropy(torch.stack([logits[0, :2].mean(dim=0), logits[1, 1:].mean(dim=0)]), labels)
    torch.testing.assert_close(span_loss(logits, rows, spans, labels), expected)


def test_the_loss_without_spans_is_zero_with_a_gradient():
    logits = torch.randn(1, 4, 3).requires_grad_()
    loss = span_loss(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_averaging_logits_is_naming_the_average_snippet():
    layer, features = SpanClassifier(4, 3), torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    whole = span_scores(layer(features), torch.tensor([0]), torch.tensor([[0.0, 5.0]]))
    torch.testing.assert_close(whole[0], layer(features.mean(dim=1)).softmax(dim=1)[0])


def test_an_encoders_head_is_taken_over_and_frozen():
    layer = SpanClassifier(4, 3).empty()
    assert not layer.filled
    head = torch.nn.Linear(4, 3)
    layer.fill(head.weight, head.bias)
    assert layer.filled
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(layer(x), head(x))
    assert not any(p.requires_grad for p in layer.parameters())
    again = SpanClassifier(4, 3).empty()
    again.load_state_dict(layer.state_dict())
    assert again.filled


def test_an_encoders_head_that_does_not_fit_is_refused():
    with pytest.raises(ModelError, match=r"\(2, 4\).*3 classes from 4-dimensional"):
        SpanClassifier(4, 3).fill(torch.zeros(2, 4), torch.zeros(2))


PROPOSALS = [Segment(0, 2, score=0.8), Segment(1, 3, score=0.5), Segment(5, 6)]


def test_fuse_emits_every_proposal_with_the_best_labels():
    named = fuse(PROPOSALS, {"a": 0.1, "b": 0.7, "c": 0.2}, top=2)
    assert [(s.start, s.label, s.score) for s in named] == [
        (5, "b", pytest.approx(0.7)), (0, "b", pytest.approx(0.56)), (1, "b", pytest.approx(0.35)),
        (5, "c", pytest.approx(0.2)), (0, "c", pytest.approx(0.16)), (1, "c", pytest.approx(0.1))]


def test_fuse_without_scores_leaves_proposals_nameless():
    assert fuse(PROPOSALS, {}) == PROPOSALS
    assert fuse([], {"a": 1.0}) == []


def test_fuse_with_fewer_labels_than_asked_for():
    assert len(fuse(PROPOSALS, {"a": 1.0}, top=5)) == 3


def test_fuse_needs_a_label_each():
    with pytest.raises(CallError, match="top >= 1"):
        fuse(PROPOSALS, {"a": 1.0}, top=0)
