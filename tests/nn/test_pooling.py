"""Maxima over spans, whatever their lengths."""

from __future__ import annotations

import pytest
import torch

from cuemark.nn.pooling import span_max


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 40])
def test_span_max_is_the_maximum_over_the_span(length):
    values = torch.randn(3, length, 5, generator=torch.Generator().manual_seed(length))
    spans = [(row, a, b) for row in range(3) for a in range(length) for b in range(a, length)]
    rows, first, last = torch.tensor(spans).T
    found = span_max(values, rows, first, last)
    expected = torch.stack([values[row, a:b + 1].amax(dim=0) for row, a, b in spans])
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_no_span_has_no_maximum():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert span_max(torch.zeros(2, 6, 4), nothing, nothing, nothing).shape == (0, 4)


def test_gradients_go_to_the_largest():
    values = torch.tensor([[[1.0], [4.0], [2.0], [3.0]]], requires_grad=True)
    zero, two, three = torch.tensor([0, 0]), torch.tensor([0, 2]), torch.tensor([2, 3])
    span_max(values, zero, two, three).sum().backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == [0, 1, 0, 1]
