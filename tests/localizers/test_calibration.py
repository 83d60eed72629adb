"""From scores to probabilities: order is kept, what is known is found again, and what tells nothing is refused."""

from __future__ import annotations

import numpy as np
import pytest

from cuemark.localizers import calibration
from cuemark.localizers.calibration import Calibration, fit
from cuemark.metrics.reliability import reliability
from cuemark.segments import Segment


def drawn(a: float, b: float, c: float, count: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a detector's kind, most of them small, and what is right by a known link."""
    rng = np.random.default_rng(seed)
    score = np.concatenate([rng.beta(0.2, 3, count // 2), rng.random(count // 2)])
    return score, rng.random(count) < Calibration(a, b, c, 0, 0).probability(score)


@pytest.mark.parametrize("known", [(1.0, 1.0, 0.0), (0.4, 6.0, -3.0), (2.0, 0.5, 1.0)])
def test_a_known_link_is_found_again(known):
    found = fit(*drawn(*known))
    grid = np.linspace(0.001, 0.999, 500)
    np.testing.assert_allclose(found.probability(grid), Calibration(*known, 0, 0).probability(grid), atol=0.03)
    score, right = drawn(*known, seed=1)
    assert reliability(found.probability(score), right).error < 0.01
    if known != (1.0, 1.0, 0.0):
        assert reliability(score, right).error > 0.02  # the scores themselves are no probabilities


def test_the_fit_is_the_most_likely_one():
    """The slow, obvious version: no step in any direction is better."""
    score, right = drawn(0.5, 3.0, -1.0, 400)
    found = fit(score, right)

    def worth(a: float, b: float, c: float) -> float:
        sure = 1 / (1 + np.exp(-(a * np.log(score) - b * np.log(1 - score) + c)))
        held = ((a - 1) ** 2 + (b - 1) ** 2 + c**2) / (2 * calibration.PRIOR**2)
        return np.log(np.where(right, sure, 1 - sure)).sum() - held

    best = worth(found.a, found.b, found.c)
    for step in np.random.default_rng(0).standard_normal((50, 3)):
        assert worth(found.a + 1e-2 * step[0], found.b + 1e-2 * step[1], found.c + 1e-2 * step[2]) < best


@pytest.mark.parametrize("link", [(0.3, 17.0, -3.0), (5.0, 0.01, 6.0), (0.01, 3.0, -2.0), (1.0, 1.0, 0.0)])
def test_order_is_kept_at_both_ends(link):
    score = np.unique(np.concatenate([np.logspace(-20, -1, 300), np.linspace(0.1, 0.999999, 300), [0.0, 1.0]]))
    made = Calibration(*link, 0, 0)
    sure = made.probability(score)
    assert (np.diff(sure) > 0).all()
    assert sure[0] >= 0
    assert sure[-1] <= 1
    np.testing.assert_allclose(made.score(sure[score > 1e-3]), score[score > 1e-3], atol=1e-4)
    segments = [Segment(0, 1, "a", s) for s in (0.9, 0.5, 0.1)]
    applied = made.applied(segments)
    assert [s.score for s in applied] == sorted((s.score for s in applied), reverse=True)
    assert [(s.start, s.end, s.label) for s in applied] == [(0, 1, "a")] * 3


def test_a_link_that_would_fall_is_all_but_flat():
    """Where small scores are more often right than middle ones, ``a`` would be negative."""
    rng = np.random.default_rng(0)
    score = rng.random(4000)
    found = fit(score, rng.random(4000) < np.where(score < 0.3, 0.5 - score, 0.2 + 0.7 * (score - 0.3)))
    assert found.a == calibration.FLATTEST
    assert found.b > calibration.FLATTEST


def test_what_tells_nothing_is_refused():
    rng = np.random.default_rng(0)
    score = rng.random(4000)
    assert fit(score, rng.random(4000) < 1 - score) is None  # the better the score, the worse
    right = np.zeros(4000, bool)
    right[: calibration.FEWEST - 1] = True
    assert fit(score, right) is None
    assert fit([], []) is None
    right[calibration.FEWEST - 1] = True
    assert fit(np.where(right, 0.9, 0.1), right) is not None
