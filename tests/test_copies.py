"""The same footage twice: sequences laid over each other, and who stands for whom."""

from __future__ import annotations

import numpy as np
import pytest

from cuemark.copies import LONGEST_STRETCH, aligned, means, standing, stretches
from cuemark.grid import Grid


def test_sequences_are_aligned():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((60, 8))
    for b, shift in ((a[10:50], -10), (np.concatenate([rng.standard_normal((7, 8)), a]), 7), (a, 0)):
        found, correlation = aligned(a, b + 0.1 * rng.standard_normal(b.shape))
        assert found == shift
        assert correlation > 0.9
    assert aligned(a, rng.standard_normal((60, 8)))[1] < 0.5
    assert aligned(a[:2], a[:2]) == (0, 0.0)
    slow = []
    b = rng.standard_normal((25, 8))
    middle = np.concatenate([a, b]).mean(0)
    x, y = ((v - middle) / np.linalg.norm(v - middle, axis=1, keepdims=True) for v in (a, b))
    for shift in range(-59, 25):
        pairs = [float(x[i] @ y[i + shift]) for i in range(60) if 0 <= i + shift < 25]
        if len(pairs) >= 13:
            slow.append((np.mean(pairs), shift))
    assert aligned(a, b) == (max(slow)[1], pytest.approx(max(slow)[0]))


def test_stretches_are_shots_and_no_longer_than_they_may_be():
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.standard_normal((2, 16)), [20, 50], axis=0) + 0.05 * rng.standard_normal((70, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    grid = Grid(0.0, 1.0, 70, 1.0)
    cells = stretches(rows, grid)
    assert cells.tolist() == [0, 20, 45, 70]
    assert (np.diff(cells) * grid.step <= LONGEST_STRETCH).all()
    slow = [rows[a:b].mean(0) / np.linalg.norm(rows[a:b].mean(0)) for a, b in ((0, 20), (20, 45), (45, 70))]
    np.testing.assert_allclose(means(rows, cells), slow, atol=1e-6)


def test_who_stands_for_footage():
    # 5 s of video 1 is 7 s of video 2; 7 s of video 2 is 6 s of video 3; 4 and 9 are others
    pairs = [(1, 2, 2.0), (2, 3, -1.0), (4, 8, 1.0)]
    assert standing([3, 1, 2, 9, 4], pairs[:2]) == {3: (3, 0.0), 2: (3, -1.0), 1: (3, 1.0), 9: (9, 0.0), 4: (4, 0.0)}
    assert standing([1, 3], pairs[2:]) == {1: (1, 0.0), 3: (3, 0.0)}
    assert standing([], pairs[:0]) == {}
