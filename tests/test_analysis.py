"""What the features know: against slow, obvious references, in any order, and where nothing can be said."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from cuemark import analysis
from cuemark.analysis import (
    FIGURES,
    analyse,
    clip_kinds,
    contrast,
    counted,
    distances,
    examples,
    side_by_side,
    similarity,
    tabled,
    thinned,
)
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


def test_thinned_features_keep_the_centres_of_their_clips():
    f = features(0, count=10, step=0.5, window=1.0)
    np.testing.assert_array_equal(thinned(f, 10).data, f.data)
    few = thinned(f, 4)  # every third
    np.testing.assert_array_equal(few.data, f.data[[0, 3, 6, 9]])
    np.testing.assert_allclose(few.grid.windows, f.grid.windows[[0, 3, 6, 9]])
    with pytest.raises(CallError, match="most must be a number at least 1"):
        thinned(f, 0)


# ---------------------------------------------------------------------------------------------- all figures


def story(width: int = 12, knowing: bool = True, seed: int = 0, training: int = 12, testing: int = 8, classes: int = 3,
          count: int = 60) -> tuple[dict[str, Features], Truth]:
    """Videos with one action of 5 to 15 s; knowing features: a direction for each class, one for background, and one
    that grows with the log of the distance to the nearest boundary."""
    rng = np.random.default_rng(seed)
    data: dict[str, Features] = {}
    truth: Truth = {}
    for name, videos in (("training", training), ("validation", testing)):
        for i in range(videos):
            grid = Grid.over(0, count / 2, count)
            start = float(rng.uniform(2, 12))
            action = Segment(start, start + float(rng.uniform(5, 15)), f"class {i % classes}")
            x = rng.normal(size=(count, width))
            if knowing:
                x *= 0.001
                inside = (grid.centres > action.start) & (grid.centres < action.end)
                x[:, i % classes] += inside
                x[:, classes] += ~inside
                near = np.minimum(abs(grid.centres - action.start), abs(grid.centres - action.end))
                x[:, classes + 1] += 0.3 * np.log1p(near)
            data[f"{name}_{i}"] = Features(x.astype(np.float32), grid, count / 2)
            truth[f"{name}_{i}"] = VideoTruth(count / 2, (action,), name)
    return data, truth


def test_features_that_know_everything_score_all_there_is():
    found = analyse(*story()).figures
    assert list(found) == list(FIGURES)
    for name in ("contrast_share", "retrieval_class", "retrieval_inside", "probe_class", "probe_inside",
                 "probe_inside_balanced"):
        assert found[name].value == 1, name
        assert found[name].error == 0, name
        assert found[name].floor < 0.8, name
    assert found["probe_boundary"].value < 0.05 * found["probe_boundary"].floor


def test_random_features_stay_at_the_floor():
    """Each figure is within four standard deviations of a binomial with its number of clips; a class probe of noise
    has the chance of a class, which is a third where clips of each class are equally many."""
    data, truth = story(knowing=False, training=60, testing=30)
    truth = {vid: VideoTruth(v.duration, (Segment(5, 20, v.annotations[0].label),), v.subset)
             for vid, v in truth.items()}  # 30 foreground clips and 30 others in every video
    found = analyse(data, truth).figures
    spread = 4 * math.sqrt(0.25 / (30 * 60))
    assert found["probe_inside"].floor == found["probe_inside_balanced"].floor == 0.5
    assert found["probe_inside"].value == pytest.approx(0.5, abs=spread)
    assert found["probe_inside_balanced"].value == pytest.approx(0.5, abs=spread)
    assert found["probe_class"].floor == pytest.approx(1 / 3)
    assert found["probe_class"].value == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / (30 * 30)))
    assert found["contrast_share"].value == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 300))
    # the ten clips of a query are counted as one: they are found by many queries
    assert found["retrieval_inside"].value == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 900))
    chance = 9 * 30 / (29 * 60)
    assert found["retrieval_class"].floor == pytest.approx(chance)
    assert found["retrieval_class"].value == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 900))
    assert found["probe_boundary"].value == pytest.approx(found["probe_boundary"].floor, rel=0.1)


def test_constant_features_are_worth_no_more_than_the_floor():
    data, truth = story()
    same = {vid: Features(np.ones_like(f.data), f.grid, f.duration) for vid, f in data.items()}
    found = analyse(same, truth).figures
    for name in ("probe_class", "probe_inside", "probe_inside_balanced"):
        assert found[name].value == pytest.approx(found[name].floor), name
    assert found["contrast_mean"].value == 0
    assert found["retrieval_inside"].value < 1


def kinds_by_loops(f: Features, video: VideoTruth) -> list[str | None]:
    """Label of a foreground clip, "" of background, None of the rest, where instances are apart."""
    kinds: list[str | None] = []
    for start, end in f.grid.windows:
        kind: str | None = None
        for s in video.annotations:
            if s.start - 1e-6 <= start and end <= s.end + 1e-6:
                kind = s.label
        if all(end <= s.start + 1e-6 or start >= s.end - 1e-6 for s in video.annotations):
            kind = ""
        kinds.append(kind)
    return kinds


def retrieval_by_loops(data: dict[str, Features], truth: Truth) -> dict[str, tuple[float, float]]:
    """Value and chance of both kinds of retrieval."""
    clips = [(vid, kind, row.astype(float)) for vid in truth
             for kind, row in zip(kinds_by_loops(data[vid], truth[vid]), data[vid].data) if kind is not None]
    answers: dict[str, list[tuple[float, float]]] = {"retrieval_class": [], "retrieval_inside": []}
    for vid, kind, row in clips:
        if not kind:
            continue
        others = [c for c in clips if c[0] != vid]
        others.sort(key=lambda c: -(c[2] @ row) / math.sqrt((c[2] @ c[2]) * (row @ row)))
        for name, right in (("retrieval_class", [c[1] == kind for c in others]),
                            ("retrieval_inside", [bool(c[1]) for c in others])):
            if any(right):
                k = min(10, sum(right))
                answers[name].append((sum(right[:k]) / k, sum(right) / len(right)))
    return {name: (float(np.mean([a for a, _ in rows])), float(np.mean([b for _, b in rows])))
            for name, rows in answers.items()}


def test_retrieval_is_what_loops_find():
    data, truth = story(knowing=False, width=5, testing=7, classes=4, count=45)
    few = {vid: VideoTruth(v.duration, (*v.annotations, Segment(0, 1.2, "rare" if vid.endswith("3") else "class 0")),
                           v.subset) for vid, v in truth.items()}
    found = analyse(data, few).figures
    want = retrieval_by_loops(data, {vid: v for vid, v in few.items() if v.subset == "validation"})
    for name, (value, floor) in want.items():
        assert found[name].value == pytest.approx(value, abs=1e-12)
        assert found[name].floor == pytest.approx(floor, abs=1e-12)


def test_retrieval_does_not_depend_on_how_many_are_ranked_at_a_time(monkeypatch):
    want = analyse(*story(knowing=False))
    monkeypatch.setattr(analysis, "_QUERIES", 7)
    found = analyse(*story(knowing=False))
    assert found.figures == want.figures


def test_floors_are_what_is_most_common_in_training():
    data, truth = story(training=9, testing=4)
    found = analyse(data, truth).figures
    told, asked = [], []
    near: dict[str, list[float]] = {"training": [], "validation": []}
    for vid, video in truth.items():
        (told if video.subset == "training" else asked).extend(k for k in kinds_by_loops(data[vid], video)
                                                               if k is not None)
        near[video.subset] += [min(abs(t - x) for s in video.annotations for x in (s.start, s.end))
                               for t in data[vid].grid.centres]
    common = max(sorted({k for k in told if k}), key=[k for k in told if k].count)
    assert found["probe_class"].floor == pytest.approx(np.mean([k == common for k in asked if k]))
    inside = sum(map(bool, told)) > len(told) / 2
    assert found["probe_inside"].floor == pytest.approx(np.mean([bool(k) == inside for k in asked]))
    median = np.median(near["training"])
    assert found["probe_boundary"].floor == pytest.approx(np.mean([abs(median - x) for x in near["validation"]]))


def test_the_standard_error_is_that_of_videos():
    """With equally many clips in each video it is the standard error of the videos' means."""
    rng = np.random.default_rng(0)
    values, video = rng.normal(size=(9, 5)), np.repeat(np.arange(9), 5)
    mean, error = analysis._over_videos(values.ravel(), video)
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.mean(axis=1).std(ddof=1) / 3)
    twice = analysis._over_videos(np.tile(values.ravel(), 2), np.tile(video, 2))
    assert twice == pytest.approx((mean, error))  # the same clips again tell nothing new
    kind = rng.integers(2, size=45)
    balanced, _ = analysis._over_videos(values.ravel(), video, kind)
    assert balanced == pytest.approx((values.ravel()[kind == 0].mean() + values.ravel()[kind == 1].mean()) / 2)
    assert math.isnan(analysis._over_videos(values[0], np.zeros(5, int))[1])


def test_the_probes_find_the_minimum_of_their_losses():
    """No step away from what they found is better."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype(np.float32)
    y = rng.integers(3, size=80)
    found = analysis._Logistic(3).fit(x, y, 0.1).astype(float)

    def logistic(map: np.ndarray) -> float:
        out = x @ map[:-1] + map[-1]
        return float(np.mean([math.log(sum(math.exp(v) for v in row)) - row[k] for row, k in zip(out, y)])
                     + 0.05 * (map[:-1] ** 2).sum())

    real = rng.uniform(0, 2, size=80)
    line = analysis._Ridge(10).fit(x, real, 0.1).astype(float)

    def ridge(map: np.ndarray) -> float:
        return float(np.mean((x @ map[:-1, 0] + map[-1, 0] - real) ** 2) + 0.1 * (map[:-1] ** 2).sum())

    for loss, best in ((logistic, found), (ridge, line)):
        for i in np.ndindex(best.shape):
            for step in (-0.01, 0.01):
                other = best.copy()
                other[i] += step
                assert loss(other) > loss(best)


def test_the_same_figures_every_time_and_in_any_order():
    data, truth = story(knowing=False)
    found = analyse(data, truth).to_json()
    again = analyse(dict(reversed(data.items())), dict(reversed(truth.items()))).to_json()
    assert again == found
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_few_clips_are_drawn_evenly_and_counted():
    data, truth = story(training=6, testing=4)
    found = analyse(data, truth, clips=40)
    assert found.clips == (36, 40)  # 40 // 6 and 40 // 4 of each
    assert found.videos == (6, 4)
    assert analyse(data, truth).clips == (360, 240)
    with pytest.raises(CallError, match="clips must be a number at least 1"):
        analyse(data, truth, clips=0)


def test_test_videos_teach_nothing():
    """Weights of the penalty, classes and floors come from training: other test labels change no probe's choice."""
    data, truth = story(knowing=False)
    other = {vid: v if v.subset == "training" else VideoTruth(v.duration, (Segment(1, 4, "class 1"),), v.subset)
             for vid, v in truth.items()}
    assert analyse(data, truth).weights == analyse(data, other).weights


def test_classes_that_training_lacks_are_counted_and_not_asked():
    data, truth = story()
    odd = dict(truth)
    odd["validation_0"] = VideoTruth(30, (Segment(5, 10, "new"),), "validation")
    found = analyse(data, odd)
    assert found.unseen == 10
    assert found.figures["probe_class"].value == 1


def test_a_clip_in_two_classes_has_none():
    data, truth = story()
    odd = {vid: VideoTruth(v.duration, (*v.annotations, Segment(0, 30, "all of it")), v.subset)
           if vid == "validation_1" else v for vid, v in truth.items()}
    assert analyse(data, odd).unseen < 60  # the clips inside both are in no class
    assert analyse(data, odd).figures["probe_class"].value == 1


def test_encoders_side_by_side_are_asked_about_the_same_videos():
    good, truth = story()
    poor, _ = story(knowing=False)
    del poor["validation_3"], poor["training_1"]
    told: list[str] = []
    found = side_by_side({"good": good, "poor": poor}, truth, on_done=told.append)
    assert told == ["good", "poor"]
    for each in found.values():
        assert (each.missing, each.videos) == (2, (11, 7))
    assert found["good"].figures["probe_inside"].floor == found["poor"].figures["probe_inside"].floor
    heads, rows = tabled(found)
    assert heads == ["figure", "floor", "good", "poor"]
    assert [row[0] for row in rows] == [title for title, _, _ in FIGURES.values()]
    assert rows[4][2] == "100.0 ± 0.0"
    assert counted(found) == [
        "7 videos (420 clips) of validation; probes learnt from 11 videos (660 clips) of training; distances of 70 "
        "draws in 7 videos. 2 videos lack features and were left out."]


def test_floors_that_differ_are_all_shown():
    data, truth = story()
    coarse = {vid: thinned(f, 20) for vid, f in data.items()}
    _, rows = tabled(side_by_side({"fine": data, "coarse": coarse}, truth))
    assert " / " in rows[-1][1]
    assert " / " not in rows[1][1]


def test_videos_to_draw_are_spread_over_the_number_of_instances():
    data, truth = story(testing=5)
    many = {f"validation_{i}": VideoTruth(30, (Segment(1, 2, "a"),) * n, "validation")
            for i, n in enumerate((3, 0, 1, 5, 2))}
    assert examples({"a": data}, many, 3) == ["validation_2", "validation_0", "validation_3"]
    assert examples({"a": data, "b": {"validation_4": data["validation_4"]}}, many, 3) == ["validation_4"]
    assert examples({"a": data}, truth | many, 0) == []


def test_what_cannot_be_analysed_is_one_sentence():
    data, truth = story()
    for change, text in (
        ({"test": ("testing",)}, "no video belongs to subset 'testing'; the truth has: training, validation"),
        ({"train": ("elsewhere",)}, "no video belongs to subset 'elsewhere'"),
    ):
        with pytest.raises(DataError, match=text):
            analyse(data, truth, **change)
    with pytest.raises(CallError, match="'training' is both learnt from and tested on"):
        analyse(data, truth, ("training",), ("training", "validation"))
    with pytest.raises(DataError, match="none of the 8 videos of 'validation' has features"):
        analyse({vid: f for vid, f in data.items() if vid.startswith("training")}, truth)

    def changed(name: str, *segments: Segment) -> Truth:
        return {vid: VideoTruth(v.duration, segments, v.subset) if v.subset == name else v for vid, v in truth.items()}

    with pytest.raises(DataError, match="clips inside actions of 'training' show one class and a probe needs two"):
        analyse(data, changed("training", Segment(5, 15, "only")))
    with pytest.raises(DataError, match="show no class"):
        analyse(data, changed("training", Segment(5, 15)))
    with pytest.raises(DataError, match="no clip of 'validation' lies wholly inside an action"):
        analyse(data, changed("validation"))
    with pytest.raises(DataError, match="no clip of 'training' lies wholly outside every action"):
        analyse(data, changed("training", Segment(0, 30, "a"), Segment(1, 29, "b")))
    with pytest.raises(DataError, match="no clip of 'validation' shows a class of 'training'"):
        analyse(data, changed("validation", Segment(5, 15, "new")))
    one = {vid: v for vid, v in truth.items() if v.subset == "validation"}
    one["training_0"] = VideoTruth(30, (Segment(2, 9, "a"), Segment(12, 20, "class 0")), "training")
    with pytest.raises(DataError, match="of one training video"):
        analyse(data, one)
    data["training_3"] = Features(data["training_3"].data[:, :5], data["training_3"].grid, 30)
    with pytest.raises(DataError, match="'training_3' have 5 numbers and those of video 'training_0' 12"):
        analyse(data, truth)
    data["training_3"] = Features(np.full((60, 12), np.inf), data["training_0"].grid, 30)
    with pytest.raises(DataError, match="'tsp': the features of video 'training_3' contain NaN or infinity"):
        side_by_side({"tsp": data}, truth)
