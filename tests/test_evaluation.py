"""Scores with their floor beside them: what is scored, what the floor learns from, what the page names."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cuemark.errors import CallError, DataError
from cuemark.evaluation import blind, evaluate_detection, report_files
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, write_predictions, write_truth


def world(seed: int = 0, counts: tuple[tuple[str, int], ...] = (("training", 12), ("validation", 5), ("testing", 6))
          ) -> Truth:
    """Videos of several lengths with two actions each."""
    rng = np.random.default_rng(seed)
    truth = {}
    for name, count in counts:
        for i in range(count):
            duration = float(rng.uniform(20, 90))
            cuts = np.sort(rng.uniform(0, duration, 4))
            truth[f"{name}_{i}"] = VideoTruth(duration, (
                Segment(cuts[0], cuts[1], str(rng.choice(["jump", "run"]))),
                Segment(cuts[2], cuts[3], str(rng.choice(["run", "swim"])))), name)
    return truth


def perfect(truth: Truth, *names: str) -> Predictions:
    return {vid: [replace(s, score=0.9) for s in v.annotations] for vid, v in truth.items() if v.subset in names}


# ---------------------------------------------------------------------------------------------- the floor


def test_the_floor_learns_from_training_alone():
    truth = world()
    training = {v: t for v, t in truth.items() if t.subset == "training"}
    testing = {v: t for v, t in truth.items() if t.subset == "testing"}
    said = blind(training, testing)
    other = {v: replace(t, annotations=(Segment(0, 1, "another"),)) for v, t in testing.items()}
    assert blind(training, other) == said
    changed = {v: replace(t, annotations=(Segment(0, t.duration / 3, "jump"),)) for v, t in training.items()}
    assert blind(changed, testing) != said


def test_the_floor_says_the_same_of_every_video():
    truth = world()
    said = blind({v: t for v, t in truth.items() if t.subset == "training"},
                 {"short": VideoTruth(10.0), "long": VideoTruth(100.0)})
    assert 0 < len(said["short"]) == len(said["long"]) <= 100
    for a, b in zip(said["short"], said["long"]):
        assert (a.label, a.score) == (b.label, b.score)
        assert (a.start * 10, a.end * 10) == pytest.approx((b.start, b.end))
    for vid, duration in (("short", 10.0), ("long", 100.0)):
        assert all(0 <= s.start < s.end <= duration + 1e-9 for s in said[vid])
        scores = [s.score for s in said[vid]]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) > 0


def test_the_floor_by_hand():
    """Three of four instances fill the first half: what matches it is said first, with 3/4."""
    training = {"a": VideoTruth(10, (Segment(0, 5, "jump"),)), "b": VideoTruth(40, (Segment(0, 20, "jump"),)),
                "c": VideoTruth(20, (Segment(0, 10, "jump"), Segment(18, 20, "run")))}
    said = blind(training, {"v": VideoTruth(60)}, cells=4)
    best = [s for s in said["v"] if s.label == "jump"]
    assert {s.score for s in best} == {0.75}
    # tIoU with the first half: 1/2, 1, 2/3, 1/2 and 1/2
    assert {(s.start, s.end) for s in best} == {(0, 15), (0, 30), (0, 45), (0, 60), (15, 30)}
    assert len(blind(training, {"v": VideoTruth(60)}, count=2, cells=4)["v"]) == 2


def test_a_floor_without_anything_to_learn_says_nothing():
    assert blind({"a": VideoTruth(10)}, {"v": VideoTruth(60)}) == {"v": []}


# ---------------------------------------------------------------------------------------------- scores


def test_perfect_predictions_score_one_and_none_score_nothing(tmp_path):
    truth = world()
    result = evaluate_detection(truth, perfect(truth, "testing"))
    assert result.score.average == 1.0
    assert result.missing == ()
    assert 0 < result.floor.average < 0.5
    write_truth(tmp_path / "truth.json", truth)
    write_predictions(tmp_path / "predictions.json", perfect(truth, "testing"))
    from_files = evaluate_detection(tmp_path / "truth.json", str(tmp_path / "predictions.json"))
    assert from_files.to_json() == result.to_json()
    assert evaluate_detection(truth, {v: [] for v in perfect(truth, "testing")}).score.average == 0.0


def test_which_videos_are_scored():
    truth = world()

    def classes_and_missing(found, **options):
        result = evaluate_detection(truth, found, **options)
        return result.score.average, len(result.missing), result.floor is not None

    assert classes_and_missing(perfect(truth, "testing")) == (1.0, 0, True)
    assert classes_and_missing(perfect(truth, "testing", "validation")) == (1.0, 0, True)
    # training is left out where there is another split
    assert classes_and_missing(perfect(truth, "training", "testing")) == (1.0, 0, True)
    # training alone: all are scored, and nothing is left to learn a floor from
    score, missing, floor = classes_and_missing(perfect(truth, "training"))
    assert 0 < score < 1
    assert (missing, floor) == (11, False)
    # by name
    assert classes_and_missing(perfect(truth, "testing"), subsets=("validation",)) == (0.0, 5, True)
    assert classes_and_missing(perfect(truth, "training"), subsets=("training",)) == (1.0, 0, False)
    assert classes_and_missing(perfect(truth, "testing"), training=("validation",))[2] is True
    assert classes_and_missing(perfect(truth, "testing"), training=("elsewhere",))[2] is False
    with pytest.raises(DataError, match="subset 'tset'; the truth has: testing, training, validation"):
        evaluate_detection(truth, perfect(truth, "testing"), ("tset",))


def test_predictions_of_other_splits_change_nothing_but_unknown_videos_do():
    truth = world()
    found = perfect(truth, "testing")
    alone = evaluate_detection(truth, found).score
    wrong = {v: [Segment(0, 1, "run", 1.0)] for v in truth if v.startswith("training")}
    assert evaluate_detection(truth, found | wrong).score.average == alone.average
    strange = evaluate_detection(truth, found | {"nobody": [Segment(0, 1, "run", 1.0)]})
    assert strange.score.unknown == 1
    assert strange.score.average < 1


def test_missing_videos_are_named_and_count_as_missed():
    truth = world()
    found = perfect(truth, "testing")
    del found["testing_2"], found["testing_4"]
    result = evaluate_detection(truth, found)
    assert result.missing == ("testing_2", "testing_4")
    assert 0 < result.score.average < 1
    assert result.to_json()["missing_videos"] == ["testing_2", "testing_4"]
    found["testing_2"] = []  # nothing was found there: it is not missing, and scores the same
    again = evaluate_detection(truth, found)
    assert again.missing == ("testing_4",)
    assert again.score.average == result.score.average


def test_json():
    truth = world()
    told = json.loads(json.dumps(evaluate_detection(truth, perfect(truth, "testing")).to_json()))
    assert told["task"] == "detection"
    assert list(told["mAP"]) == ["0.50", "0.55", "0.60", "0.65", "0.70", "0.75", "0.80", "0.85", "0.90", "0.95"]
    assert told["average_mAP"] == 1.0
    assert told["floor"]["average_mAP"] == pytest.approx(np.mean(list(told["floor"]["mAP"].values())))
    assert evaluate_detection(truth, perfect(truth, "training"), ("training",)).to_json()["floor"] is None


# ---------------------------------------------------------------------------------------------- the page


@pytest.fixture
def on_disk(tmp_path):
    truth = world()
    write_truth(tmp_path / "truth.json", truth)
    good = perfect(truth, "testing")
    write_predictions(tmp_path / "good.json", good)
    write_predictions(tmp_path / "poor.json", {v: [replace(s, end=s.end + 5) for s in row] for v, row in good.items()})
    return tmp_path


def test_the_page_names_the_runs_and_the_floor(on_disk):
    out = on_disk / "pages" / "report.html"
    report_files(on_disk / "truth.json", {"my tsp": on_disk / "good.json", "my clap": on_disk / "poor.json"}, out)
    page = out.read_text()
    assert page.lstrip().lower().startswith("<!doctype html")
    for text in ("my tsp", "my clap", "never looks", "100.0"):
        assert text in page
    report_files(on_disk / "truth.json", {"my tsp": on_disk / "good.json"}, out, show=0)
    assert "my clap" not in out.read_text()


def test_the_page_has_no_floor_without_training_videos(on_disk):
    truth = {v: t for v, t in world().items() if t.subset != "training"}
    write_truth(on_disk / "truth.json", truth)
    report_files(on_disk / "truth.json", {"tsp": on_disk / "good.json"}, on_disk / "report.html")
    assert "never looks" not in (on_disk / "report.html").read_text()


def test_the_page_with_thumbnails_and_features(tiny_world, tiny_features, tmp_path):
    write_predictions(tmp_path / "a.json", perfect(tiny_world.truth, "testing"))
    report_files(tiny_world.folder / "truth.json", {"tsp": tmp_path / "a.json"}, tmp_path / "report.html",
                 tiny_world.folder / "videos", features={"tsp": tiny_features.folder}, show=1)
    page = (tmp_path / "report.html").read_text()
    assert "data:image/jpeg;base64" in page
    report_files(tiny_world.folder / "truth.json", {"tsp": tmp_path / "a.json"}, tmp_path / "less.html", show=1)
    assert len((tmp_path / "less.html").read_text()) < len(page)


def test_features_of_a_run_that_is_not_there(on_disk, tiny_features):
    with pytest.raises(CallError, match=r"tpf.* did you mean 'tsp'"):
        report_files(on_disk / "truth.json", {"tsp": on_disk / "good.json"}, on_disk / "report.html",
                     features={"tpf": tiny_features.folder})
    with pytest.raises(DataError, match=r"nowhere\.json"):
        report_files(on_disk / "truth.json", {"tsp": on_disk / "nowhere.json"}, on_disk / "report.html")
    assert not (on_disk / "report.html").exists()
