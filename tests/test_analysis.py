"""What the features know: against slow, obvious references, in any order, and where nothing can be said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cuemark.analysis import clip_kinds, contrast, distances, similarity
from cuemark.errors import CallError, DataError
from cuemark.grid import Features, Grid
from cuemark.segments import Segment, Truth, VideoTruth


def features(seed: int, count: int = 40, width: int = 8, step: float = 0.5, window: float = 1.0) -> Features:
    rng = np.random.default_rng(seed)
    grid = Grid(start=window / 2 - step / 2, step=step, count=count, window=window)
    return Features(rng.normal(size=(count, width)).astype(np.float32), grid, grid.windows[-1, 1])


def world(n: int = 12) -> tuple[dict[str, Features], Truth]:
    data = {f"v{i:02d}": features(i) for i in range(n)}
    truth = {vid: VideoTruth(f.duration, (Segment(2, 6, "a"), Segment(9, 12.5, "b"))) for vid, f in data.items()}
    return data, truth


def test_similarity_is_the_cosine_of_every_pair():
    f = features(0, count=7)
    found = similarity(f)
    assert found.shape == (7, 7)
    assert found.dtype == np.float32
    for i in range(7):
        for j in range(7):
            a, b = f.data[i].astype(float), f.data[j].astype(float)
            want = sum(x * y for x, y in zip(a, b)) / (math.sqrt(sum(a * a)) * math.sqrt(sum(b * b)))
            assert found[i, j] == pytest.approx(want, abs=1e-6)
    assert np.array_equal(found, found.T)


def test_similarity_knows_neither_scale_nor_zero_vectors():
    f = features(1, count=5)
    data = f.data.copy()
    data[2] = 0
    scaled = Features(data * np.array([[1], [2], [3], [400], [1e-3]], np.float32), f.grid, f.duration)
    found = similarity(scaled)
    assert not found[2].any()
    assert not found[:, 2].any()
    np.testing.assert_allclose(np.delete(found, 2, 0), np.delete(similarity(f) * (np.arange(5) != 2), 2, 0), atol=1e-6)


def test_half_precision_features_do_not_overflow():
    grid = Grid.over(0, 2, 2)
    f = Features(np.full((2, 4096), 60000, np.float16), grid, 2)
    np.testing.assert_allclose(similarity(f), 1, atol=1e-6)


def test_clips_are_foreground_background_or_neither():
    f = features(0, count=12, step=1.0, window=2.0)  # clip i is seen through [i, i + 2] s
    foreground, background = clip_kinds(f, [Segment(3, 6), Segment(5, 8), Segment(10.5, 10.5)])
    assert np.flatnonzero(foreground).tolist() == [3, 4, 5, 6]  # 5 is in the second, 4 in the first only
    # 0, 1 end at or before 3 s; 8 begins at 8 s; 9 and 10 show the instance of zero length; 11 is after it.
    assert np.flatnonzero(background).tolist() == [0, 1, 8, 11]


def test_a_clip_across_two_adjoining_instances_is_in_neither():
    f = features(0, count=3, step=1.0, window=2.0)
    foreground, background = clip_kinds(f, [Segment(0, 2), Segment(2, 4)])
    assert foreground.tolist() == [True, False, True]
    assert not background.any()


def test_boundaries_that_are_not_exact_in_binary_count_as_touched():
    grid = Grid.of_clips(count=9, stride=16, frames=16, fps=15)  # clip i is [16 i / 15, 16 (i + 1) / 15] s
    f = Features(np.zeros((9, 1), np.float32), grid, 9 * 16 / 15)
    foreground, background = clip_kinds(f, [Segment(3 * 16 / 15, 6 * 16 / 15)])
    assert np.flatnonzero(foreground).tolist() == [3, 4, 5]
    assert np.flatnonzero(background).tolist() == [0, 1, 2, 6, 7, 8]


def reference(f: Features, video: VideoTruth) -> set[float]:
    """Every value a draw can give, by loops."""
    fg, bg = [], []
    for row, (start, end) in zip(f.data.astype(float), f.grid.windows):
        if any(s.start - 1e-6 <= start and end <= s.end + 1e-6 for s in video.annotations):
            fg.append(row)
        elif all(end <= s.start + 1e-6 or start >= s.end - 1e-6 for s in video.annotations):
            bg.append(row)
    return {
        round(math.dist(a, c) - math.dist(a, b), 9)
        for i, a in enumerate(fg) for j, b in enumerate(fg) if i != j for c in bg
    }


def test_every_value_is_one_of_the_possible_ones_and_all_come_up():
    data, truth = world(3)
    short = {vid: VideoTruth(v.duration, (Segment(2, 4, "a"),)) for vid, v in truth.items()}
    found = distances(data, short, per_video=4000).round(9).reshape(3, -1)
    for row, (vid, f) in zip(found, data.items()):
        possible = reference(f, short[vid])
        assert len(possible) == 3 * 2 * 35
        assert set(row) == possible


def test_draws_do_not_depend_on_order_or_on_the_other_videos():
    data, truth = world()
    want = distances(data, truth, seed=3)
    assert np.array_equal(want, distances(dict(reversed(data.items())), dict(reversed(truth.items())), seed=3))
    few = {vid: data[vid] for vid in ("v07", "v02")}
    assert np.array_equal(want[[2, 7]], distances(few, truth, seed=3))


def test_each_video_has_draws_of_its_own():
    data, truth = world(1)
    twins = {"v00": data["v00"], "twin": data["v00"]}
    found = distances(twins, truth | {"twin": truth["v00"]}, per_video=20).reshape(2, 20)
    assert not np.array_equal(found[0], found[1])


def test_the_seed_decides():
    data, truth = world()
    assert np.array_equal(distances(data, truth, seed=1), distances(data, truth, seed=1))
    assert not np.array_equal(distances(data, truth, seed=1), distances(data, truth, seed=2))


def test_features_that_know_background_score_above_those_that_do_not():
    data, truth = world()
    blind = contrast(data, truth, per_video=200)
    assert blind.share == pytest.approx(0.5, abs=0.1)
    knowing = {}
    for vid, f in data.items():
        _, background = clip_kinds(f, truth[vid].annotations)
        knowing[vid] = Features(f.data + 9 * background[:, None].astype(np.float32), f.grid, f.duration)
    found = contrast(knowing, truth, per_video=200)
    assert found.share == 1
    assert found.mean > blind.mean + 10
    assert found.mean == found.values.mean()


def test_normalised_values_do_not_depend_on_the_scale_of_the_features():
    data, truth = world()
    large = {vid: Features(f.data * 1024, f.grid, f.duration) for vid, f in data.items()}
    plain, scaled = distances(data, truth), distances(large, truth)
    np.testing.assert_allclose(scaled, plain * 1024, rtol=1e-6)
    unit = distances(data, truth, normalised=True)
    np.testing.assert_allclose(distances(large, truth, normalised=True), unit, rtol=1e-6)
    np.testing.assert_allclose(unit / unit[0], plain / plain[0])  # one divisor for all: only the unit changes


def test_normalised_values_are_in_units_of_the_mean_distance():
    grid = Grid.over(0, 4, 4)
    f = Features(np.array([[0], [2], [5], [5]], np.float32), grid, 4)  # fg 0, 2; bg 5
    truth = {"v": VideoTruth(4, (Segment(0, 2, "a"),))}
    raw, unit = distances({"v": f}, truth), distances({"v": f}, truth, normalised=True)
    far = {3.0: 5.0, 1.0: 3.0}[raw[0]]  # from clip 0: 5 - 2, from clip 1: 3 - 2
    assert unit[0] == pytest.approx(raw[0] / ((far + 2) / 2))


def test_videos_that_cannot_be_asked_are_skipped_and_counted():
    data, truth = world(6)
    whole = data["v01"].duration
    truth["v01"] = VideoTruth(whole, (Segment(0, whole, "a"),))  # no background
    truth["v02"] = VideoTruth(whole, (Segment(2, 3.2, "a"),))  # one foreground clip
    truth["v03"] = VideoTruth(whole)
    del truth["v04"]
    found = contrast(data, truth, per_video=3)
    assert (found.videos, found.skipped, found.values.shape) == (2, 4, (6,))


def test_nothing_to_ask_is_an_empty_answer():
    found = contrast({}, {}, normalised=True)
    assert (found.videos, found.skipped, len(found.values)) == (0, 0, 0)
    assert math.isnan(found.mean)
    assert math.isnan(found.share)


def test_constant_features_know_nothing():
    data, truth = world(2)
    same = {vid: Features(np.ones_like(f.data), f.grid, f.duration) for vid, f in data.items()}
    found = contrast(same, truth, normalised=True)
    assert not found.values.any()
    assert found.share == 0


def test_bad_input_is_named():
    data, truth = world(2)
    data["v01"].data[3, 1] = np.nan
    with pytest.raises(DataError, match="features of video 'v01' contain NaN"):
        distances(data, truth)
    with pytest.raises(DataError, match="these features contain NaN"):
        similarity(data["v01"])
    with pytest.raises(CallError, match="per_video must be at least 1, got 0"):
        distances({}, {}, per_video=0)
