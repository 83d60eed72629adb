"""From the score of an answer to how likely it is right, by what was right in validation videos.

Scores rank answers, and that is all they are trained for: products of confidences, decayed by suppression. A localizer
whose score says how often such an answer is right can be told "nothing is there". The link is beta calibration (Kull,
Silva Filho & Flach, AISTATS 2017)::

    p = sigmoid(a ln s - b ln(1 - s) + c),    a, b > 0

Temperature scaling (Guo et al., ICML 2017) is ``a = b, c = 0`` of it, and Platt's line on logits ``a = b``. Both bend
small and large scores alike, so that a detector's thousands of small ones decide about its few large ones; on videos
that they were not fitted on, three numbers were better than one or two (``docs/notes.md``). Since few answers to
validation videos are right, the three are held near 1, 1, 0 (the score as it is) by a Gaussian prior.

The link rises, so no order changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuemark.segments import Segment

FEWEST = 10
"""Right answers without which there is nothing to fit."""
PRIOR = 3.0
"""Standard deviation of ``a``, ``b`` and ``c`` around 1, 1 and 0."""
FLATTEST = 0.01
"""Of ``a`` and ``b``, where the best would not rise: order is kept."""
_OWN = 1e-6
"""Share of the score itself in a probability: where the sigmoid rounds to 1, order is kept."""
_START = np.array([1.0, 1.0, 0.0])

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The link of a localizer, and what it was fitted on."""

    a: float
    b: float
    c: float
    answers: int
    """To validation videos."""
    right: int
    """Of these; see :func:`cuemark.metrics.reliability.judged`."""

    def probability(self, score: ArrayLike) -> Floats:
        """How likely an answer with this score is right; of the same shape, and of the same order."""
        score = np.clip(np.asarray(score, np.float64), 0.0, 1.0)
        linear = _columns(score) @ (self.a, self.b, self.c)
        return (1 - _OWN) * np.exp(-np.logaddexp(0.0, -linear)) + _OWN * score

    def score(self, probability: ArrayLike) -> Floats:
        """The score that has this probability, to four digits: what a file would hold without calibration."""
        logits = np.linspace(-700.0, 37.0, 1 << 17)
        scores = np.exp(-np.logaddexp(0.0, -logits))
        return np.asarray(np.interp(np.asarray(probability, np.float64), self.probability(scores), scores))

    def applied(self, segments: Sequence[Segment]) -> list[Segment]:
        """The same segments, with the probability for their score."""
        sure = self.probability([s.score or 0.0 for s in segments]).tolist()
        return [replace(s, score=p) for s, p in zip(segments, sure, strict=True)]


def _columns(score: Floats) -> Floats:
    """``(…, 3)``: what ``a``, ``b`` and ``c`` are multiplied with."""
    low, high = np.log(score.clip(min=1e-300)), -np.log1p(-score.clip(max=1 - 2.0**-53))
    return np.stack([low, high, np.ones_like(score)], axis=-1)


def fit(score: ArrayLike, right: ArrayLike) -> Calibration | None:
    """Fit the link: the likelihood of what was right, with the prior, by Newton's method.

    Args:
        score: ``(n,)`` in 0..1.
        right: ``(n,)`` bool.

    Returns:
        None where fewer than :data:`FEWEST` answers are right, or scores do not tell right from wrong.
    """
    score, right = np.clip(np.asarray(score, np.float64), 0.0, 1.0), np.asarray(right, bool)
    if right.sum() < FEWEST:
        return None
    columns = _columns(score)
    free = [0, 1, 2]
    while True:
        found = np.zeros(3)
        found[free] = _newton(columns[:, free], right, _START[free])
        wrong = [i for i in free if i < 2 and found[i] < 0]
        if not wrong:
            break
        free.remove(min(wrong, key=lambda i: found[i]))  # as Kull et al. do: without it, fitted again
    if free == [2]:
        return None
    a, b, c = found.tolist()
    return Calibration(max(a, FLATTEST), max(b, FLATTEST), c, len(score), int(right.sum()))


def _newton(columns: Floats, right: NDArray[np.bool_], start: Floats) -> Floats:
    """The coefficients of a logistic regression that is held near ``start``."""
    hold = 1 / PRIOR**2

    def loss(at: Floats) -> float:
        linear = columns @ at
        return float(np.logaddexp(0.0, linear).sum() - linear[right].sum() + hold / 2 * ((at - start) ** 2).sum())

    at, now = start.copy(), loss(start)
    for _ in range(100):
        sure = np.exp(-np.logaddexp(0.0, -(columns @ at)))
        slope = columns.T @ (sure - right) + hold * (at - start)
        bend = (columns * (sure * (1 - sure))[:, None]).T @ columns + hold * np.eye(len(at))
        step = np.linalg.solve(bend, slope)
        while (then := loss(at - step)) > now and np.abs(step).max() > 1e-12:
            step /= 2
        if then > now or now - then <= 1e-10 * abs(now):
            break
        at, now = at - step, then
    return at
