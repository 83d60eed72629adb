"""Are answers that say 0.7 right seven times in ten? Which answers are right, and the expected calibration error.

Right (:func:`judged`)
    An answer is right where it has a tIoU of 0.5 or more with a truth of its video and of its label (of its sentence,
    where it answers one; with any truth, where it has neither) that no better answer has taken: steps 1 and 2 of
    ActivityNet's definition (:mod:`cuemark.metrics.detection`). Answers with a label that is none of the truth's are
    left out.

Reliability (:func:`reliability`)
    Answers are sorted into ten bins of equal width by what they say. In each stand how many there are, what they say
    on average, and the share that is right; the expected calibration error (Guo et al., "On Calibration of Modern
    Neural Networks", ICML 2017, equation 3; Naeini et al., AAAI 2015) is the mean distance of the two over answers.

    A detector gives many answers of hardly any score, which are wrong and say so: over all of them the error is small
    whatever the others do. The bins say more than their mean.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuemark.metrics.counting import best_first, refuse_nan, scores_of
from cuemark.metrics.detection import assign
from cuemark.segments import Predictions, Segment, Truth, labels_of, times

BINS = 10


@dataclass(frozen=True, eq=False)
class Reliability:
    """``(B,)`` each; a bin without answers has 0 in all three."""

    count: NDArray[np.int64]
    said: NDArray[np.float64]
    """Mean of what the answers say, 0 to 1."""
    right: NDArray[np.float64]
    """Share of them that is right."""

    @property
    def error(self) -> float:
        """Expected calibration error, 0 to 1; NaN without an answer."""
        total = int(self.count.sum())
        return float((self.count * np.abs(self.said - self.right)).sum() / total) if total else float("nan")


def judged(truth: Truth, predictions: Predictions, tiou: float = 0.5
           ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What each answer says, and whether it is right.

    Args:
        truth: the videos that count; an answer in any other is wrong.

    Returns:
        ``(n,)`` scores and ``(n,)`` bool, in no order that means anything.

    Raises:
        DataError: a prediction has no score.
    """
    refuse_nan(predictions)
    known = set(labels_of(truth))
    kept = {vid: [s for s in row if s.query is not None or s.label is None or s.label in known]
            for vid, row in predictions.items()}
    numbers: dict[Hashable, int] = {}
    found = [s for row in kept.values() for s in row]
    group = np.array([numbers.setdefault((vid, *_asked(s)), len(numbers)) for vid, row in kept.items() for s in row],
                     np.int64)
    real: list[Segment] = []
    owner: list[int] = []
    for vid, video in truth.items():
        for s in video.annotations:
            for kind in (("query", s.sentence), ("label", s.label), ("any", None)):
                if (number := numbers.get((vid, *kind))) is not None:
                    real.append(s)
                    owner.append(number)
    score = scores_of(kept)
    order = best_first(score, group, later=False)
    taken = assign(times(found)[order], group[order], times(real), np.array(owner, np.int64), np.array([tiou]))[0]
    return score[order], taken >= 0


def _asked(answer: Segment) -> tuple[str, str | None]:
    if answer.query is not None:
        return "query", answer.query
    return ("any", None) if answer.label is None else ("label", answer.label)


def reliability(said: ArrayLike, right: ArrayLike, bins: int = BINS) -> Reliability:
    """Bins of answers by what they say.

    Args:
        said: ``(n,)`` in 0..1.
        right: ``(n,)`` bool.
    """
    said, right = np.asarray(said, np.float64), np.asarray(right, bool)
    place = np.minimum((said * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    return Reliability(count, *(np.bincount(place, values, bins) / np.maximum(count, 1)
                                for values in (said, right.astype(np.float64))))
