"""What the metrics share, against one-at-a-time loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cuemark.errors import CallError, DataError
from cuemark.metrics.counting import (
    Found,
    Instances,
    before,
    begin_of,
    best_first,
    envelope,
    first_to_reach,
    levels_of,
    refuse_nan,
    scores_of,
    tiou_of,
    tiou_of_hull,
    videos_of,
    weights_of,
)
from cuemark.segments import UNLABELLED, Predictions, Segment, Truth, VideoTruth

TRUTH: Truth = {
    "a": VideoTruth(10, (Segment(0, 2, "jump"), Segment(1, 5), Segment(3, 3, "run"), Segment(4, 5, "Ambiguous"))),
    "b": VideoTruth(10, (Segment(6, 8, "jump"),)),
}
PREDICTIONS: Predictions = {
    "b": [Segment(6, 8, "jump", 0.5), Segment(0, 1, "swim", 0.9)],
    "x": [Segment(0, 1, "run", 0.1)],
    "a": [Segment(0, 1, None, 0.2), Segment(0, 2, "jump", 0.7)],
}


@pytest.mark.parametrize("seed", range(20))
def test_sums_and_envelopes_in_rows_are_those_of_each_row_alone(seed: int):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 7, size=rng.integers(1, 6))
    row = np.repeat(np.sort(rng.choice(20, len(lengths), replace=False)), lengths)
    values = rng.integers(0, 9, len(row)).astype(np.float64)
    begin, sums, highest = begin_of(row), before(values, begin_of(row)), envelope(values, row)
    for i in range(len(row)):
        own = np.flatnonzero(row == row[i])
        assert begin[i] == own[0]
        assert sums[i] == values[own[own < i]].sum()
        assert highest[i] == values[own[own >= i]].max()


def test_no_row_at_all():
    nothing = np.empty(0, np.int64)
    assert begin_of(nothing).size == before(np.empty(0), nothing).size == envelope(np.empty(0), nothing).size == 0


def test_an_envelope_leaves_its_values_alone():
    values = np.array([1.0, 2.0])
    envelope(values, np.array([0, 0]))
    assert values.tolist() == [1, 2]


def test_best_first_of_each_group_with_equal_scores_and_nan():
    score = np.array([0.5, math.nan, 0.5, 0.9, 0.1])
    group = np.array([7, 7, 7, 7, 3])
    assert best_first(score, group, later=True).tolist() == [4, 1, 3, 2, 0]
    assert best_first(score, group, later=False).tolist() == [4, 3, 0, 2, 1]


def test_truth_as_arrays_has_labelled_segments_only():
    real = Instances.of_truth(TRUTH)
    assert real.classes == {"jump": 0, "run": 1}
    assert real.span.tolist() == [[0, 2], [3, 3], [6, 8]]
    assert (real.video.tolist(), real.label.tolist(), real.group.tolist()) == ([0, 0, 1], [0, 1, 0], [0, 1, 2])
    assert Instances.of_truth(TRUTH, zero_length=False).classes == {"jump": 0}
    with pytest.raises(DataError, match="no labelled segment"):
        Instances.of_truth({"a": VideoTruth(10, (Segment(0, 1),))})


def test_predictions_as_arrays_have_known_classes_only():
    real = Instances.of_truth(TRUTH)
    found = Found.of(PREDICTIONS, TRUTH, real.classes)
    assert videos_of(PREDICTIONS, TRUTH).tolist() == [1, 1, -1, 0, 0]
    assert (found.video.tolist(), found.label.tolist(), found.position.tolist()) == ([1, -1, 0], [0, 1, 0], [0, 2, 4])
    assert found.ignored == {"swim": 1, UNLABELLED: 1}
    assert not set(found.group(real)[found.video < 0]) & set(real.group.tolist())
    turned = found.sorted(np.array([2, 1, 0]))
    assert (turned.score.tolist(), turned.span.tolist()) == ([0.7, 0.1, 0.5], [[0, 2], [0, 1], [6, 8]])


def test_tiou_over_union_and_over_hull():
    a = np.array([[0, 2], [0, 2], [0, 2], [1, 1], [1, 1]], np.float64)
    b = np.array([[1, 3], [2, 4], [5, 6], [1, 1], [0, 2]], np.float64)
    assert tiou_of(a, b, empty=-1.0).tolist() == [1 / 3, 0, 0, -1, 0]
    assert tiou_of_hull(a, b).tolist() == [1 / 3, 0, 0, 0, 0]
    every = tiou_of_hull(a[:, None], b[None])
    assert every.shape == (5, 5)
    assert every[1, 0] == 1 / 3


@pytest.mark.parametrize("seed", range(10))
def test_the_first_to_reach_a_truth(seed: int):
    rng = np.random.default_rng(seed)
    found, real = (np.sort(rng.integers(0, 9, (n, 2)), axis=1).astype(np.float64) for n in (12, 5))
    found_group, real_group = np.sort(rng.integers(0, 3, 12)), rng.integers(0, 3, 5)
    levels = np.array([0.3, 0.5, 1.0])
    first = first_to_reach(found, found_group, real, real_group, levels, tiou_of_hull)
    for t, level in enumerate(levels):
        for j in range(5):
            own = np.flatnonzero(found_group == real_group[j])
            ranks = [r for r, i in enumerate(own) if tiou_of_hull(found[i], real[j]) >= level]
            assert first[t, j] == min(ranks, default=np.iinfo(np.int64).max)


@pytest.mark.parametrize("tious", [[], [[0.5]], [1.5], [-0.1], [math.nan]])
def test_thresholds_that_cannot_be_meant(tious: list):
    with pytest.raises(CallError, match="from 0 to 1"):
        levels_of(tious)


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, -1], [1, math.nan], [1, math.inf], 1])
def test_weights_that_cannot_be_meant(weights: object):
    with pytest.raises(CallError, match="each of the 2 videos"):
        weights_of(weights, ("a", "b"))  # type: ignore[arg-type]


def test_scores_that_are_missing_or_nan():
    with pytest.raises(DataError, match="video 'v', prediction 1: there is no score"):
        scores_of({"v": [Segment(0, 1, score=1.0), Segment(0, 1)]})
    refuse_nan({"v": [Segment(0, 1)]})
    with pytest.raises(DataError, match="video 'v', prediction 0: its score is NaN"):
        refuse_nan({"v": [Segment(0, 1, score=math.nan)]})
