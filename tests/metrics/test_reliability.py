"""Which answers are right, slowly and obviously; and how far what they say is from that."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cuemark.errors import DataError
from cuemark.metrics.reliability import judged, reliability
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, tiou


def sample(seed: int) -> tuple[Truth, Predictions]:
    rng = np.random.default_rng(seed)

    def spans(count: int) -> np.ndarray:
        return np.sort(rng.integers(0, 30, (count, 2)), axis=1).astype(float)

    truth = {f"v{i}": VideoTruth(30.0, tuple(
        Segment(a, b, str(rng.choice(["x", "y"])), sentence=str(rng.choice(["one", "two"]))) for a, b in spans(3)
        if b > a)) for i in range(4)}
    found = {vid: [Segment(a, b, None if kind == 2 else "xyz"[rng.integers(3)], float(rng.random()),
                           query=["one", "two", "three"][rng.integers(3)] if kind == 1 else None)
                   for (a, b), kind in zip(spans(25), rng.integers(0, 3, 25)) if b > a] for vid in [*truth, "strange"]}
    return truth, found


def slow(truth: Truth, found: Predictions) -> list[tuple[float, bool]]:
    answers = []
    for vid, row in found.items():
        annotations = truth[vid].annotations if vid in truth else ()
        taken: set[tuple[str, int]] = set()
        for s in sorted(row, key=lambda s: -s.score):
            if s.query is not None:
                name, real = f"query {s.query}", [t.sentence == s.query for t in annotations]
            elif s.label is None:
                name, real = "any", [True] * len(annotations)
            elif not any(t.label == s.label for v in truth.values() for t in v.annotations):
                continue
            else:
                name, real = s.label, [t.label == s.label for t in annotations]
            free = [(float(tiou(np.array([[s.start, s.end]]), np.array([[t.start, t.end]]))[0, 0]), i)
                    for i, t in enumerate(annotations) if real[i] and (name, i) not in taken]
            best = max(free, default=(0.0, -1))
            if best[0] >= 0.5:
                taken.add((name, best[1]))
            answers.append((s.score, best[0] >= 0.5))
    return sorted(answers)


@pytest.mark.parametrize("seed", range(8))
def test_right_is_what_the_definition_says(seed):
    truth, found = sample(seed)
    score, right = judged(truth, found)
    assert sorted(zip(score.tolist(), right.tolist())) == slow(truth, found)
    assert 0 < right.sum() < len(right)


def test_little():
    truth = {"v": VideoTruth(10.0, (Segment(0, 5, "x"),))}
    for found in ({}, {"v": []}, {"v": [Segment(0, 5, "unknown", 0.5)]}):
        score, right = judged(truth, found)
        assert (len(score), len(right)) == (0, 0)
        assert math.isnan(reliability(score, right).error)
    with pytest.raises(DataError, match="no score"):
        judged(truth, {"v": [Segment(0, 5, "x")]})


def test_bins_by_hand():
    said, right = [0.05, 0.07, 0.55, 0.95, 1.0], [False, True, True, True, False]
    found = reliability(said, right)
    assert found.count.tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    np.testing.assert_allclose(found.said[[0, 1, 5, 9]], [0.06, 0, 0.55, 0.975])
    np.testing.assert_allclose(found.right[[0, 1, 5, 9]], [0.5, 0, 1, 0.5])
    assert found.error == pytest.approx((2 * 0.44 + 0.45 + 2 * 0.475) / 5)
    assert reliability([1.0, 0.0], [True, False]).error == 0
