"""Suppression against slow, obvious versions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cuemark.nn.nms import hard_nms, soft_nms, soft_nms_batch, vote


def iou(a, b) -> float:
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = a[1] - a[0] + b[1] - b[0] - inter
    return inter / union if union > 0 else 0.0


def slow_soft(segments, scores, sigma, keep, threshold, groups):
    left = {i: float(s) for i, s in enumerate(scores)}
    order, final = [], []
    while left and len(order) < keep:
        best = max(left, key=lambda i: (left[i], -i))
        order.append(best)
        final.append(left.pop(best))
        for i in left:
            overlap = iou(segments[best], segments[i])
            if groups[i] == groups[best] and overlap > threshold:
                left[i] *= math.exp(-overlap * overlap / sigma)
    return order, final


def slow_hard(segments, scores, threshold, keep, groups):
    order = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(groups[i] != groups[j] or iou(segments[i], segments[j]) <= threshold for j in order):
            order.append(i)
    return order[:keep]


def some(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    segments = np.sort(rng.uniform(-5, 30, (n, 2)), axis=1)
    segments[: n // 10, 1] = segments[: n // 10, 0]  # zero length exists
    scores = rng.uniform(0, 1, n).round(2)  # ties exist
    return segments, scores, rng.choice([3, 7, 40], n)


@pytest.mark.parametrize("n", [0, 1, 2, 60])
@pytest.mark.parametrize("sigma", [0.3, 0.8])
@pytest.mark.parametrize("threshold", [0.0, 0.4])
@pytest.mark.parametrize("grouped", [False, True])
def test_soft_nms_is_its_definition(n, sigma, threshold, grouped):
    segments, scores, groups = some(n)
    for keep in (n, n // 2, n + 5):
        order, final = soft_nms(segments, scores, sigma, keep=keep, threshold=threshold,
                                groups=groups if grouped else None)
        expected = slow_soft(segments, scores, sigma, keep, threshold, groups if grouped else [0] * n)
        assert order.tolist() == expected[0]
        np.testing.assert_allclose(final, expected[1], rtol=1e-9)
        assert (np.diff(final) <= 0).all()


def test_each_pick_may_have_a_threshold_of_its_own():
    segments = np.array([[0.0, 10.0], [1.0, 10.0], [20.0, 24.0], [21.0, 24.0]])  # tIoU 0.9 and 0.75
    scores, limits = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.95, 0.95, 0.5, 0.5])
    order, final = soft_nms(segments, scores, 0.4, threshold=limits)
    assert order.tolist() == [0, 1, 2, 3]
    assert final.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6 * np.exp(-(0.75**2) / 0.4)])


@pytest.mark.parametrize("n", [0, 1, 2, 60])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_hard_nms_is_its_definition(n, threshold, grouped):
    segments, scores, groups = some(n, seed=1)
    for keep in (None, 0, n // 2):
        order, final = hard_nms(segments, scores, threshold, keep=keep, groups=groups if grouped else None)
        assert order.tolist() == slow_hard(segments, scores, threshold, n if keep is None else keep,
                                           groups if grouped else [0] * n)
        np.testing.assert_array_equal(final, scores[order])


def test_inputs_are_left_alone():
    segments, scores, groups = some(20)
    before = segments.copy(), scores.copy(), groups.copy()
    soft_nms(segments, scores, 0.5, groups=groups)
    hard_nms(segments, scores, 0.5, groups=groups)
    for a, b in zip(before, (segments, scores, groups)):
        np.testing.assert_array_equal(a, b)


def test_a_permutation_keeps_the_same_segments():
    segments, _, _ = some(40)
    scores = np.random.default_rng(2).permutation(40) / 40.0  # no ties
    shuffle = np.random.default_rng(3).permutation(40)
    order, final = soft_nms(segments, scores, 0.5, keep=10)
    again, same = soft_nms(segments[shuffle], scores[shuffle], 0.5, keep=10)
    assert shuffle[again].tolist() == order.tolist()
    np.testing.assert_array_equal(final, same)


# ------------------------------------------------------------------------------------------- many videos at once


@pytest.mark.parametrize("n", [0, 1, 2, 40])
@pytest.mark.parametrize("floor", [0.0, 0.2])
@pytest.mark.parametrize("grouped", [False, True])
def test_soft_nms_of_a_batch_is_that_of_each(n, floor, grouped):
    rows = [some(n, seed) for seed in range(3)]
    segments, scores, groups = (np.stack(part) for part in zip(*rows, strict=True))
    real = [n, n // 2, 0]
    for row, count in enumerate(real):
        scores[row, count:] = -1.0
    for keep in (None, n // 2, n + 5):
        order, final = soft_nms_batch(segments, scores, 0.5, keep=keep, floor=floor,
                                      groups=groups if grouped else None)
        assert order.shape == final.shape
        for row, count in enumerate(real):
            expected, decayed = slow_soft(segments[row, :count], scores[row, :count], 0.5,
                                          n if keep is None else keep, 0.0, groups[row] if grouped else [0] * n)
            stay = [i for i, score in enumerate(decayed) if score > floor]
            assert order[row].tolist() == [expected[i] for i in stay] + [-1] * (order.shape[1] - len(stay))
            np.testing.assert_allclose(final[row, : len(stay)], [decayed[i] for i in stay], rtol=1e-9)
            assert not final[row, len(stay):].any()


def slow_vote(picked, segments, scores, threshold, picked_groups, groups):
    answers = []
    for span, group in zip(picked, picked_groups, strict=True):
        weight = [score * iou(span, other) if iou(span, other) >= threshold and mine == group else 0.0
                  for other, score, mine in zip(segments, scores, groups, strict=True)]
        answers.append([sum(w * other[side] for w, other in zip(weight, segments, strict=True)) / sum(weight)
                        if sum(weight) else span[side] for side in (0, 1)])
    return answers


@pytest.mark.parametrize("n", [0, 1, 2, 60])
@pytest.mark.parametrize("threshold", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_voting_is_its_definition(n, threshold, grouped):
    segments, scores, groups = some(n)
    order = np.arange(n)[::3]
    ask = {"picked_groups": groups[order], "groups": groups} if grouped else {}
    found = vote(segments[order], segments, scores, threshold, **ask)
    same = groups if grouped else np.zeros(n)
    assert found.shape == (len(order), 2)
    np.testing.assert_allclose(found.tolist(), slow_vote(segments[order], segments, scores, threshold, same[order],
                                                         same), rtol=1e-9, atol=1e-9)


def test_a_batch_is_left_alone():
    segments, scores, groups = (a[None] for a in some(20))
    before = segments.copy(), scores.copy(), groups.copy()
    order, _ = soft_nms_batch(segments, scores, 0.5, groups=groups)
    vote(segments[0, order[0]], segments[0], scores[0], 0.5)
    for a, b in zip(before, (segments, scores, groups)):
        np.testing.assert_array_equal(a, b)
