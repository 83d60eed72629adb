"""Suppression against slow, obvious versions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cuemark.nn import nms
from cuemark.nn.nms import hard_nms, soft_nms, vote


def iou(a, b) -> float:
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    return inter / union if union > 0 else 0.0


def slow_soft(segments, scores, sigma, keep, threshold, groups, floor=-math.inf):
    """Of one video; ``threshold``: that of each pick. The exponential is numpy's, so that bits can be compared."""
    left = {i: float(s) for i, s in enumerate(scores) if s > floor}
    order, final = [], []
    while left and len(order) < keep:
        best = max(left, key=lambda i: (left[i], -i))
        order.append(best)
        final.append(left.pop(best))
        for i in list(left):
            overlap = iou(segments[best], segments[i])
            if groups[i] == groups[best] and overlap > threshold[best]:
                left[i] *= float(np.exp(-(overlap * overlap) / sigma))
            if left[i] <= floor:
                del left[i]
    return order, final


def slow_hard(segments, scores, keep, threshold, groups):
    order: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(groups[i] != groups[j] or iou(segments[i], segments[j]) <= threshold[j] for j in order):
            order.append(i)
    return order[:keep], [scores[i] for i in order[:keep]]


def some(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    segments = np.sort(rng.uniform(-5, 30, (n, 2)), axis=1)
    segments[: n // 10, 1] = segments[: n // 10, 0]  # zero length exists
    scores = rng.uniform(0, 1, n).round(2)  # ties exist
    return segments, scores, rng.choice([3, 7, 40], n)


def each_video(slow, segments, scores, groups, videos, *rest, threshold, **more):
    """What ``slow`` says of each video, one after the other, in indices of all."""
    order: list[int] = []
    final: list[float] = []
    for video in sorted(set(videos.tolist())):
        mine = np.flatnonzero(videos == video)
        found, score = slow(segments[mine], scores[mine], *rest, threshold[mine], groups[mine], **more)
        order += mine[found].tolist()
        final += [float(s) for s in score]
    return order, final


ways = pytest.mark.parametrize(("grouped", "many"), [(False, False), (True, False), (False, True), (True, True)])


@pytest.mark.parametrize("n", [0, 1, 2, 80])
@pytest.mark.parametrize("sigma", [0.3, 0.8])
@pytest.mark.parametrize("threshold", [0.0, 0.4, "each"])
@pytest.mark.parametrize("floor", [-math.inf, 0.0, 0.2])
@ways
def test_soft_nms_is_its_definition_to_the_last_bit(n, sigma, threshold, floor, grouped, many):
    segments, scores, groups = some(n)
    videos = np.random.default_rng(3).choice([-1, 5, 6], n)
    limits = np.linspace(0.2, 0.6, n) if threshold == "each" else np.full(n, threshold)
    nothing = np.zeros(n, int)
    for keep in (None, 0, 1, n // 8, n // 2, n + 5):
        order, final = soft_nms(segments, scores, sigma, keep=keep, floor=floor,
                                threshold=limits if threshold == "each" else threshold,
                                groups=groups if grouped else None, videos=videos if many else None)
        expected = each_video(slow_soft, segments, scores, groups if grouped else nothing,
                              videos if many else nothing, sigma, n if keep is None else keep,
                              threshold=limits, floor=floor)
        assert (order.tolist(), final.tolist()) == expected


@pytest.mark.parametrize("n", [0, 1, 2, 80])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0, "each"])
@ways
def test_hard_nms_is_its_definition(n, threshold, grouped, many):
    segments, scores, groups = some(n, seed=1)
    videos = np.random.default_rng(4).choice([-1, 5, 6], n)
    limits = np.linspace(0.2, 0.6, n) if threshold == "each" else np.full(n, threshold)
    nothing = np.zeros(n, int)
    for keep in (None, 0, 1, n // 8, n // 2, n + 5):
        order, final = hard_nms(segments, scores, limits if threshold == "each" else threshold, keep=keep,
                                groups=groups if grouped else None, videos=videos if many else None)
        assert (order.tolist(), final.tolist()) == each_video(
            slow_hard, segments, scores, groups if grouped else nothing, videos if many else nothing,
            n if keep is None else keep, threshold=limits)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_a_video_are_its_best_however_uneven_its_groups_are(seed):
    """One class has most of the candidates and, by turns, the best or the worst; several hundred rounds at once."""
    rng = np.random.default_rng(seed)
    n = 400
    segments = np.sort(rng.uniform(0, 100, (n, 2)), axis=1)
    groups = np.where(rng.uniform(size=n) < 0.7, 0, rng.integers(1, 30, n))
    scores = rng.uniform(0, 1, n) * np.where(groups == 0, 0.2 + 0.4 * (seed % 3), 0.8)
    videos = np.where(np.arange(n) < 350, 0, 1)
    for keep in (3, 40, 120):
        expected = each_video(slow_soft, segments, scores, groups, videos, 0.4, keep, threshold=np.zeros(n))
        order, final = soft_nms(segments, scores, 0.4, keep=keep, groups=groups, videos=videos)
        assert (order.tolist(), final.tolist()) == expected


@pytest.mark.parametrize("keep", [1, 5, 12])
@pytest.mark.parametrize("sigma", [0.05, 0.8])
@pytest.mark.parametrize("kind", ["spread", "equal", "on one place", "few above the floor"])
def test_the_best_candidates_decide_where_they_can(keep, sigma, kind, monkeypatch):
    segments, scores, groups = some(80, 3)
    floor = -math.inf
    if kind == "equal":
        scores[:] = 0.5
    elif kind == "on one place":  # all overlap, so that good ones fall below bad ones that were left out
        segments[:] = [0.0, 10.0]
    elif kind == "few above the floor":
        floor = 0.9
    calls = []
    real = nms._rounds
    monkeypatch.setattr(nms, "_rounds", lambda *given: (calls.append(len(given[1])), real(*given))[1])
    order, final = slow_soft(segments, scores, sigma, keep, [0.0] * 80, groups, floor)
    picked, found = soft_nms(segments, scores, sigma, keep=keep, groups=groups, floor=floor)
    assert (picked.tolist(), found.tolist()) == (order, final)
    assert calls[0] >= 3 * keep  # with those as good as the last of them
    if kind == "spread" and keep == 5 and sigma == 0.8:
        assert calls == [15]  # the others were never looked at
    if kind == "on one place" and keep == 12:
        assert calls == [36, 80]
    order, final = slow_hard(segments, scores, keep, [0.4] * 80, groups)
    picked, found = hard_nms(segments, scores, 0.4, keep=keep, groups=groups)
    assert (picked.tolist(), found.tolist()) == (order, final)


def test_each_pick_may_have_a_threshold_of_its_own():
    segments = np.array([[0.0, 10.0], [1.0, 10.0], [20.0, 24.0], [21.0, 24.0]])  # tIoU 0.9 and 0.75
    scores, limits = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.95, 0.95, 0.5, 0.5])
    order, final = soft_nms(segments, scores, 0.4, threshold=limits)
    assert order.tolist() == [0, 1, 2, 3]
    assert final.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6 * np.exp(-(0.75**2) / 0.4)])


def test_of_equal_scores_the_first_is_picked_whatever_its_group():
    segments = np.array([[0.0, 1.0], [5.0, 6.0], [0.0, 1.0], [5.0, 6.0]])
    for suppress in (lambda **more: soft_nms(segments, np.ones(4), 0.5, floor=0.5, **more),
                     lambda **more: hard_nms(segments, np.ones(4), 0.5, **more)):
        assert suppress()[0].tolist() == [0, 1]
        assert suppress(groups=np.array([9, 1, 1, 9]))[0].tolist() == [0, 1, 2, 3]
        assert suppress(videos=np.array([9, 1, 1, 9]))[0].tolist() == [1, 2, 0, 3]


def test_inputs_are_left_alone():
    segments, scores, groups = some(20)
    before = segments.copy(), scores.copy(), groups.copy()
    order, _ = soft_nms(segments, scores, 0.5, groups=groups, videos=groups)
    hard_nms(segments, scores, 0.5, groups=groups, videos=groups)
    vote(order, segments, scores, 0.5, groups=groups, videos=groups)
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


# ------------------------------------------------------------------------------------------------------- voting


def slow_vote(order, segments, scores, threshold, groups, videos):
    answers = []
    for i in order:
        votes = [(scores[j] * iou(segments[i], segments[j]), segments[j]) for j in range(len(segments))
                 if groups[j] == groups[i] and videos[j] == videos[i] and iou(segments[i], segments[j]) >= threshold]
        total = sum(weight for weight, _ in votes)
        answers.append([sum(weight * other[side] for weight, other in votes) / total if total else segments[i][side]
                        for side in (0, 1)])
    return answers


@pytest.mark.parametrize("pairs", [1, 50, 1 << 16])
@pytest.mark.parametrize("n", [0, 1, 2, 60])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
@ways
def test_voting_is_its_definition(n, threshold, pairs, grouped, many, monkeypatch):
    monkeypatch.setattr(nms, "_PAIRS", pairs)  # in parts, or at once
    segments, scores, groups = some(n)
    scores[n // 2:] = 0.0  # a vote without weight
    videos = np.random.default_rng(5).choice([-1, 5], n)
    order, nothing = np.arange(n)[::-3], np.zeros(n)
    found = vote(order, segments, scores, threshold, groups=groups if grouped else None,
                 videos=videos if many else None)
    assert found.shape == (len(order), 2)
    expected = slow_vote(order, segments, scores, threshold, groups if grouped else nothing,
                         videos if many else nothing)
    np.testing.assert_allclose(found, np.reshape(expected, (-1, 2)), rtol=1e-9, atol=1e-9)


def test_voting_leaves_no_video():
    """The mean of equal times is that time, whatever the weights round to."""
    segments, scores = np.full((7, 2), (0.1, 5.7)), np.random.default_rng(0).uniform(size=7)
    assert (vote(np.arange(7), segments, scores, 0.5) == segments).all()
