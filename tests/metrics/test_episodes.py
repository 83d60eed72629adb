"""Few-shot scores: floors of the released protocol on ActivityNet, and episodes that can be drawn and read again."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import shared

from cuemark.errors import CallError, DataError
from cuemark.metrics.detection import detection
from cuemark.metrics.episodes import (
    Episode,
    draw,
    episodes,
    half_width,
    read_episodes,
    released,
    t_quantile,
    write_episodes,
)
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, write_json

# ------------------------------------------------------------------------------------- the released protocol


def activitynet() -> tuple[Truth, list[str]]:
    """BMN's files in the order of its table of videos, and the 20 novel classes."""
    entries = json.loads(shared("annotations/bmn/anet_anno_action.json").read_text())
    truth = {}
    with open(shared("annotations/bmn/video_info_new.csv")) as file:
        for row in csv.DictReader(file):
            entry = entries[row["video"]]
            found = tuple(Segment(*sorted(a["segment"]), a["label"]) for a in entry["annotations"])
            truth[row["video"]] = VideoTruth(entry["duration_second"], found, row["subset"])
    return truth, json.loads(shared("annotations/activitynet_few_shot_classes.json").read_text())["novel"]


def constant(truth: Truth, low: float, high: float) -> Predictions:
    """One segment for every video, of equal score; of equal scores the last is counted first, so ids fall."""
    return {vid: [Segment(low * truth[vid].duration, high * truth[vid].duration, score=1.0)]
            for vid in sorted(truth, reverse=True)}


def four(score) -> list[float]:
    """mAP at .5, .75, .95 and the average, in percent."""
    figures = score.figures()
    return [round(figures[k], 2) for k in ("mAP@0.50", "mAP@0.75", "mAP@0.95", "average mAP")]


def test_golden_floors() -> None:
    truth, novel = activitynet()
    videos = {vid: v for vid, v in truth.items() if v.subset == "validation" and v.annotations
              and {s.label for s in v.annotations} <= set(novel)}
    assert (len(videos), sum(len(v.annotations) for v in videos.values())) == (469, 715)
    single = {vid: v for vid, v in videos.items() if len(v.annotations) == 1}
    assert len(single) == 371
    assert four(released(single, constant(single, 0, 1))) == [61.04, 32.61, 7.09, 34.84]
    assert four(released(single, constant(single, 0.05, 0.95))) == [64.44, 38.81, 1.73, 38.81]
    assert four(released(videos, constant(videos, 0, 1)))[3] == 20.86
    assert four(released(videos, constant(videos, 0.05, 0.95)))[3] == 23.24
    # The truth of videos without predictions is not missed: leaving out all but one class's leaves its figure.
    part = {vid: v for vid, v in single.items() if v.annotations[0].label == "BMX"}
    assert released(single, constant(part, 0, 1)).map == pytest.approx(released(part, constant(part, 0, 1)).map)


def test_released_knows_the_label() -> None:
    truth = {"v": VideoTruth(9.0, (Segment(0, 1), Segment(1, 2, "a"), Segment(3, 4, "b"))),
             "w": VideoTruth(9.0, (Segment(5, 6, "b"),)), "x": VideoTruth(9.0, (Segment(5, 6, "c"),))}
    found = {"v": [Segment(1, 2, "wrong", 0.5), Segment(3, 4, "b", 0.4)], "w": [Segment(5, 6, score=0.9)]}
    score = released(truth, found)
    assert score.classes == ("a", "b")  # x was not predicted, so c is not missed
    assert dict(zip(score.classes, score.ap[:, 0])) == {"a": 1.0, "b": 0.5}  # all of v count as a
    with pytest.raises(DataError, match="no labelled"):
        released(truth, {})
    with pytest.raises(DataError, match="no score"):
        released(truth, {"v": [Segment(0, 1)]})


# ------------------------------------------------------------------------------------------------ drawing


def small(prefix: str, seed: int) -> Truth:
    """40 videos of classes c0 … c5; some have two classes, or several segments of one."""
    rng = np.random.default_rng(seed)
    truth = {}
    for v in range(40):
        labels = [f"c{v % 6}"] + [f"c{rng.integers(6)}" for _ in range(rng.integers(0, 3))]
        starts = rng.uniform(0, 80, len(labels))
        truth[f"{prefix}{v}"] = VideoTruth(100.0, tuple(Segment(a, a + rng.uniform(5, 20), label)
                                                        for a, label in zip(starts, labels)))
    return truth


CLASSES = [f"c{k}" for k in range(6)]


def test_episodes_are_what_they_promise() -> None:
    support, query = small("s", 0), small("q", 1)
    drawn = draw(support, query, CLASSES, ways=3, shots=2, draws=20)
    assert len(drawn) == 20
    assert len({e.classes for e in drawn}) > 10
    for e in drawn:
        assert len(set(e.classes)) == 3
        assert [s.label for _, s in e.support] == [c for c in e.classes for _ in range(2)]
        for name in e.classes:
            videos = [vid for vid, s in e.support if s.label == name]
            assert len(set(videos)) == 2
        assert all(s in support[vid].annotations for vid, s in e.support)
        having = {vid for vid, v in query.items() if {s.label for s in v.annotations} & set(e.classes)}
        assert len(e.queries) == len(set(e.queries))
        assert set(e.queries) == having


def test_support_is_never_searched_even_in_one_pool() -> None:
    pool = small("v", 0)
    for e in draw(pool, pool, CLASSES, ways=2, shots=3, draws=20):
        shown = {vid for vid, _ in e.support}
        having = {vid for vid, v in pool.items() if {s.label for s in v.annotations} & set(e.classes)}
        assert set(e.queries) == having - shown


def test_a_draw_can_be_drawn_again() -> None:
    support, query = small("s", 0), small("q", 1)
    drawn = draw(support, query, CLASSES, 3, 2, 5, seed=7)
    turned = {vid: support[vid] for vid in reversed(support)}
    assert draw(turned, query, reversed(CLASSES), 3, 2, 5, seed=7) == drawn
    assert draw(support, query, CLASSES, 3, 2, 9, seed=7)[:5] == drawn
    assert draw(support, query, CLASSES, 3, 2, 5, seed=8) != drawn


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"ways": 0}, CallError, "ways must be at least 1"), ({"shots": 0}, CallError, "shots must be at least 1"),
    ({"draws": 0}, CallError, "draws must be at least 1"), ({"seed": -1}, CallError, "seed must be at least 0"),
    ({"ways": 7}, CallError, "7 ways need as many classes, but there are 6"),
    ({"classes": [*CLASSES, "c9"]}, DataError, "class 'c9' has 0 videos in the support truth, too few for 1 shots"),
    ({"shots": 30}, DataError, "class 'c0' has .* too few for 30 shots"),
    ({"query": {"v": VideoTruth(3.0)}}, DataError, "episode 0 has no video to search for 'c"),
])
def test_impossible_draws(arguments: dict, error: type[Exception], message: str) -> None:
    usual = {"support": small("s", 0), "query": small("q", 1), "classes": CLASSES, "ways": 2, "shots": 1, "draws": 2}
    with pytest.raises(error, match=message):
        draw(**usual | arguments)


def test_draws_on_activitynet() -> None:
    truth, novel = activitynet()
    parts = [{vid: v for vid, v in truth.items() if v.subset == name} for name in ("training", "validation")]
    one = draw(*parts, novel, ways=20, shots=5, draws=1)[0]
    assert (len(one.support), len(one.queries)) == (100, 470)  # one of them has a class besides that is not novel


# ------------------------------------------------------------------------------------------------ scoring


def answered(truth: Truth, e: Episode, rng: np.random.Generator) -> Predictions:
    """Truth shaken, of the right and of wrong classes, for most of the queries and for a stranger."""
    found: Predictions = {"stranger": [Segment(0, 1, e.classes[0], 0.5)]}
    for vid in e.queries:
        if rng.random() < 0.8:
            found[vid] = [Segment(max(0, s.start + rng.normal()), s.end + 3 + rng.normal(), str(rng.choice(CLASSES)),
                                  rng.random()) for s in truth[vid].annotations for _ in range(3)]
    return found


def test_score_is_the_mean_of_detection() -> None:
    support, query = small("s", 0), small("q", 1)
    drawn = draw(support, query, CLASSES, 3, 2, 4)
    rng = np.random.default_rng(0)
    answers = [answered(query, e, rng) for e in drawn]
    score = episodes(query, drawn, answers, tious=[0.5, 0.7])
    averages = []
    for e, found in zip(drawn, answers):
        limited = {vid: replace(query[vid], annotations=tuple(s for s in query[vid].annotations
                                                              if s.label in e.classes)) for vid in e.queries}
        averages.append(detection(limited, {v: r for v, r in found.items() if v in limited}, [0.5, 0.7]).average)
    assert score.averages.tolist() == averages
    assert score.average == pytest.approx(np.mean(averages))
    assert score.unknown == 4
    assert score.videos == tuple(vid for vid in query if any(vid in e.queries for e in drawn))
    spread = math.sqrt(sum((a - np.mean(averages)) ** 2 for a in averages) / 3)
    assert score.interval == pytest.approx(3.182446305284263 * spread / 2)  # t(0.975, 3) from tables
    figures = score.figures()
    assert list(figures) == ["mAP@0.50", "mAP@0.70", "average mAP", "average mAP ±"]
    assert figures["average mAP"] == pytest.approx(100 * score.average)
    assert figures["average mAP ±"] == pytest.approx(100 * score.interval)
    assert [figures["mAP@0.50"], figures["mAP@0.70"]] == pytest.approx((100 * score.map).tolist())


def test_perfect_empty_and_single() -> None:
    support, query = small("s", 0), small("q", 1)
    drawn = draw(support, query, CLASSES, 2, 1, 2)
    perfect = [{vid: [replace(s, score=1.0) for s in query[vid].annotations] for vid in e.queries} for e in drawn]
    assert list(episodes(query, drawn, perfect).figures().values())[-2:] == [100, 0]
    assert episodes(query, drawn, [{}, {}]).average == 0
    single = episodes(query, drawn[:1], perfect[:1])
    assert math.isnan(single.interval)
    assert math.isnan(single.figures()["average mAP ±"])


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_videos_repeated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    query = small("q", seed)
    drawn = draw(small("s", 0), query, CLASSES, 2, 1, 3, seed)
    answers = [answered(query, e, rng) for e in drawn]
    # Scores that differ by video, for copies have equal scores in another order than their originals.
    answers = [{vid: [replace(s, score=round(s.score, 3) + i * 1e-6) for s in row] for i, (vid, row)
                in enumerate(sorted(found.items()))} for found in answers]
    score = episodes(query, drawn, answers)
    assert score.figures(np.ones(len(score.videos))) == pytest.approx(score.figures())
    weights = rng.integers(0, 4, len(score.videos))
    of = dict(zip(score.videos, weights))
    truth = {f"{vid} {k}": v for vid, v in query.items() for k in range(of.get(vid, 0))}
    again = [replace(e, queries=tuple(f"{vid} {k}" for vid in e.queries for k in range(of[vid]))) for e in drawn]
    found = [{f"{vid} {k}": row for vid, row in a.items() for k in range(of.get(vid, 0))} for a in answers]
    assert score.figures(weights) == pytest.approx(episodes(truth, again, found).figures(), abs=1e-6)
    assert all(math.isnan(v) for v in score.figures(np.zeros(len(score.videos))).values())
    with pytest.raises(CallError, match="one number from 0 on"):
        score.figures(np.ones(3))


def test_what_cannot_be_scored() -> None:
    query = small("q", 1)
    drawn = draw(small("s", 0), query, CLASSES, 2, 1, 1)
    for asked, answers, message in (
            ([], [], "0 episodes and 0 answers"), (drawn, [], "1 episodes and 0 answers"),
            ([replace(drawn[0], queries=("nobody",))], [{}], "episode 0: its query 'nobody' is not in the truth"),
            ([replace(drawn[0], classes=("z",))], [{}], "episode 0: its query 'q.*' has none of its classes"),
            (drawn, [{drawn[0].queries[0]: [Segment(0, 1, "c0")]}], "no score")):
        with pytest.raises(DataError, match=message):
            episodes(query, asked, answers)


# ------------------------------------------------------------------------------------------- the interval


def test_t_quantiles() -> None:
    # From tables of Student's t; beside them the normal distribution's 1.959964.
    for freedom, value in ((1, 12.706205), (2, 4.302653), (3, 3.182446), (4, 2.776445), (9, 2.262157), (29, 2.045230),
                           (30, 2.042272), (120, 1.979930), (100_000, 1.959988)):
        assert t_quantile(0.975, freedom) == pytest.approx(value, abs=1e-6)
    assert t_quantile(0.5, 5) == pytest.approx(0, abs=1e-9)
    assert t_quantile(0.995, 7) == pytest.approx(3.499483, abs=1e-6)
    for probability, freedom in ((0.3, 2), (1.0, 2), (math.nan, 2), (0.9, 0)):
        with pytest.raises(CallError, match="quantile of t"):
            t_quantile(probability, freedom)


def test_t_quantiles_equal_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (*range(1, 40), 99, 1000):
        for probability in (0.6, 0.9, 0.975, 0.9995):
            assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, (4000, 5))
    covered = np.mean([abs(row.mean() - 3.0) <= half_width(row) for row in draws])
    assert 0.94 < covered < 0.96
    assert math.isnan(half_width(np.array([1.0])))


# -------------------------------------------------------------------------------------------------- files


def test_episodes_are_read_as_written(tmp_path: Path) -> None:
    drawn = draw(small("s", 0), small("q", 1), CLASSES, 3, 2, 4)
    write_episodes(tmp_path / "episodes.json", drawn)
    assert read_episodes(tmp_path / "episodes.json") == drawn
    assert [p.name for p in tmp_path.iterdir()] == ["episodes.json"]
    with pytest.raises(DataError, match="cannot be written"):
        write_episodes(tmp_path / "episodes.json", [replace(drawn[0], support=(("v", Segment(0, 1, "\ud800")),))])
    assert read_episodes(tmp_path / "episodes.json") == drawn  # what was there is still there


GOOD = {"classes": ["a"], "support": [{"video": "v", "segment": [0, 1], "label": "a"}], "queries": ["w"]}
ITEM = GOOD["support"][0]


@pytest.mark.parametrize(("data", "message"), [
    ([], 'has no "episodes" list'), ({"episodes": {}}, 'has no "episodes" list'),
    ({"episodes": [GOOD, 3]}, "episode 1: expected an object"),
    ({"episodes": [GOOD | {"classes": "a"}]}, 'episode 0: "classes" should be a list of names'),
    ({"episodes": [GOOD | {"queries": []}]}, 'episode 0: "queries" should be a list of names, at least one'),
    ({"episodes": [GOOD | {"queries": ["w", "w"]}]}, '"queries" names something twice'),
    ({"episodes": [GOOD | {"support": None}]}, '"support" should be a list'),
    *(({"episodes": [GOOD | {"support": [item]}]}, '"support" item 0 should be') for item in (
        None, {}, ITEM | {"video": 3}, ITEM | {"label": None}, ITEM | {"segment": [2, 1]}, ITEM | {"segment": "ab"},
        ITEM | {"segment": [0, 1, 2]}, ITEM | {"segment": 5}, ITEM | {"segment": [0, 10 ** 400]},
        ITEM | {"segment": [0, [1]]})),
    ({"episodes": [GOOD | {"classes": ["a", "b"]}]}, "every class needs an example"),
    ({"episodes": [GOOD | {"queries": ["v", "w"]}]}, "video 'v' is support and query at once"),
])
def test_malformed_files(tmp_path: Path, data: object, message: str) -> None:
    write_json(tmp_path / "e.json", data)
    with pytest.raises(DataError, match=message) as caught:
        read_episodes(tmp_path / "e.json")
    assert "e.json" in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_episodes(tmp_path / "none.json")
