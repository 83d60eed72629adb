"""The bootstrap against distributions that are known, and against resampling by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cuemark.errors import CallError, DataError
from cuemark.metrics.bootstrap import draws, interval, paired


class Mean:
    """The simplest score: the mean of one number for each video, in percent."""

    def __init__(self, values, videos=None, extra=False):
        self.values = np.asarray(values, float)
        self.videos = tuple(videos or (f"v{i}" for i in range(len(self.values))))
        self.extra = extra

    def figures(self, weights=None):
        weights = np.ones(len(self.values)) if weights is None else weights
        found = {"mean": float((weights * self.values).sum() / weights.sum())}
        return found | ({"other": 1.0} if self.extra else {})


def test_draws_are_whole_videos_with_replacement_and_repeat_with_the_seed():
    drawn = list(draws(7, 50, seed=3))
    assert all(w.sum() == 7 and (w >= 0).all() and (w == w.round()).all() for w in drawn)
    assert any((w == 0).any() for w in drawn)
    assert all((a == b).all() for a, b in zip(drawn, draws(7, 50, seed=3)))
    assert not all((a == b).all() for a, b in zip(drawn, draws(7, 50, seed=4)))
    assert np.mean(drawn, axis=0) == pytest.approx(np.ones(7), abs=0.5)


def test_the_interval_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(50, 10, 400)
    low, high = interval(Mean(values), 2000)["mean"]
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.15 * error)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for i in range(200):
        low, high = interval(Mean(rng.exponential(1.0, 100)), 200, seed=i)["mean"]
        covered += low <= 1.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_difference_that_is_the_same_in_every_video_is_real_though_both_scores_scatter():
    base = np.random.default_rng(2).normal(50, 20, 60)
    found = paired(Mean(base), Mean(base + 1), 500)["mean"]
    assert (found.low, found.high) == (pytest.approx(1), pytest.approx(1))
    assert found.real
    assert found.p < 0.01
    back = paired(Mean(base + 1), Mean(base), 500)["mean"]
    assert back.real
    assert back.high < 0


def test_chance_is_not_called_real_more_often_than_it_says():
    rng = np.random.default_rng(3)
    called = [paired(Mean(rng.normal(size=80)), Mean(rng.normal(size=80)), 200, seed=i)["mean"] for i in range(200)]
    assert sum(d.real for d in called) / 200 < 0.1
    assert sum(d.p < 0.05 for d in called) / 200 < 0.1


def test_identical_systems_do_not_differ():
    values = np.random.default_rng(4).normal(size=30)
    found = paired(Mean(values), Mean(values), 100)["mean"]
    assert (found.low, found.high, found.p) == (0, 0, 1)
    assert not found.real


def test_videos_meet_by_name_whatever_their_order():
    rng = np.random.default_rng(5)
    values = rng.normal(size=40)
    names = [f"v{i}" for i in range(40)]
    turned = rng.permutation(40)
    found = paired(Mean(values, names), Mean(values[turned] + 2, [names[i] for i in turned]), 100)["mean"]
    assert (found.low, found.high) == (pytest.approx(2), pytest.approx(2))


def test_only_figures_that_both_have_are_compared():
    assert set(paired(Mean([1, 2], extra=True), Mean([2, 3]), 20)) == {"mean"}


def test_a_figure_that_a_draw_leaves_without_meaning_is_left_out_of_its_percentiles():
    class Sometimes(Mean):
        def figures(self, weights=None):
            weights = np.ones(2) if weights is None else weights
            return {"first": 7.0 if weights[0] else float("nan"), "never": float("nan")}

    found = interval(Sometimes([1, 2]), 50)
    assert found["first"] == (7, 7)
    assert np.isnan(found["never"]).all()


def test_a_figure_that_grows_with_fewer_videos_keeps_its_interval_around_itself():
    """As average precision does: the bare percentiles of the draws would leave the figure out."""
    class Fewer(Mean):
        def figures(self, weights=None):
            weights = np.ones(len(self.values)) if weights is None else weights
            return {"f": super().figures(weights)["mean"] + 100 * float((weights == 0).mean())}

    values = np.random.default_rng(6).normal(50, 10, 400)
    low, high = interval(Fewer(values), 500)["f"]
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * np.hypot(values.std() / 20, 100 * 0.3113 / 20), rel=0.3)


@pytest.mark.parametrize("count", [0, 19, -5, float("nan"), 20.5])
def test_too_few_draws_are_refused(count):
    with pytest.raises(CallError, match="bootstrap draws"):
        interval(Mean([1, 2]), count)


def test_an_interval_does_not_begin_below_0():
    values = np.zeros(30)
    values[:2] = 50
    low, high = interval(Mean(values), 200)["mean"]
    assert low == 0 < high


def test_a_seed_below_0_is_refused():
    with pytest.raises(CallError, match="seed"):
        interval(Mean([1, 2]), 20, seed=-1)


def test_other_videos_cannot_be_compared():
    with pytest.raises(DataError, match="same truth"):
        paired(Mean([1, 2]), Mean([1, 2], ["a", "b"]), 20)
    with pytest.raises(DataError, match="no video"):
        interval(Mean([], []), 20)


def test_every_draw_is_announced():
    count = []
    interval(Mean([1, 2]), 25, on_draw=lambda: count.append(1))
    assert len(count) == 25
