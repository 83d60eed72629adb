"""Detection mAP against the official figures, against a slow obvious implementation, and on cases worked by hand.

``python tests/metrics/test_detection.py`` (from the project's root) writes the small committed fixture again.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import shared

from cuemark.errors import CallError, DataError
from cuemark.metrics.detection import TIOUS, DetectionScore, assign, average_precision, detection
from cuemark.segments import (
    Predictions,
    Segment,
    Truth,
    VideoTruth,
    read_predictions,
    read_truth,
    write_json,
    write_predictions,
    write_truth,
)

DATA = Path(__file__).resolve().parents[1] / "data"


# ------------------------------------------------------------------------------------- slow and obvious


def slow_tiou(a: Segment, b: Segment) -> float:
    """As the official code computes it: two segments of zero length give NaN."""
    inter = max(min(a.end, b.end) - max(a.start, b.start), 0.0)
    union = (b.end - b.start) + (a.end - a.start) - inter
    return inter / union if union > 0 else math.nan


def slow_taken(truth: Truth, predictions: Predictions, label: str, threshold: float) -> list[bool]:
    """True positive or not, for the predictions of one class in the order in which they are counted."""
    rows = [(vid, s) for vid, segments in predictions.items() for s in segments if s.label == label]
    # NaN before all numbers; of two equal scores the later first.
    ranks = [(math.isnan(s.score), 0.0 if math.isnan(s.score) else s.score, n) for n, (_, s) in enumerate(rows)]
    rows = [rows[n] for _, _, n in sorted(ranks, reverse=True)]
    free = {(vid, i) for vid, v in truth.items() for i, s in enumerate(v.annotations) if s.label == label}
    hits = []
    for vid, prediction in rows:
        annotations = truth[vid].annotations if vid in truth else ()
        candidates = [(slow_tiou(prediction, s), i) for i, s in enumerate(annotations) if s.label == label]
        candidates.sort(key=lambda c: (math.inf if math.isnan(c[0]) else c[0], c[1]), reverse=True)
        hit = False
        for iou, i in candidates:
            if iou < threshold:
                break
            if (vid, i) in free:
                free.remove((vid, i))
                hit = True
                break
        hits.append(hit)
    return hits


def slow_ap(hits: list[bool], positives: int) -> float:
    """Area under the precision envelope, point by point."""
    recall, precision = [0.0], [0.0]
    for k in range(1, len(hits) + 1):
        recall.append(sum(hits[:k]) / positives)
        precision.append(sum(hits[:k]) / k)
    recall.append(1.0)
    precision.append(0.0)
    area = 0.0
    for k in range(1, len(recall)):
        area += (recall[k] - recall[k - 1]) * max(precision[k:])
    return area


def slow_detection(truth: Truth, predictions: Predictions, tious=TIOUS) -> tuple[list[str], np.ndarray]:
    """Classes in order of first appearance, and ``(K, T)`` AP."""
    classes: list[str] = []
    for v in truth.values():
        for s in v.annotations:
            if s.label is not None and s.label not in classes:
                classes.append(s.label)
    ap = np.zeros((len(classes), len(tious)))
    for k, label in enumerate(classes):
        positives = sum(s.label == label for v in truth.values() for s in v.annotations)
        for t, threshold in enumerate(tious):
            ap[k, t] = slow_ap(slow_taken(truth, predictions, label, threshold), positives)
    return classes, ap


# ------------------------------------------------------------------------------------- what is compared


def coarse_case(rng: np.random.Generator) -> tuple[Truth, Predictions]:
    """Few different times and scores, so that ties, duplicates, zero lengths and NaN scores are common."""
    grid, labels = int(rng.integers(2, 12)), ["b", "a", "c"][: rng.integers(1, 4)]

    def segment(label: str, score: float | None = None) -> Segment:
        start, end = sorted(rng.integers(0, grid, 2).tolist())
        return Segment(float(start), float(end), label, score)

    truth = {f"v{v}": VideoTruth(float(grid), tuple(segment(rng.choice(labels)) for _ in range(rng.integers(0, 7))))
             for v in range(rng.integers(1, 4))}
    if not any(v.annotations for v in truth.values()):
        truth["v0"] = VideoTruth(float(grid), (segment("b"),))
    scores = [0.1, 0.5, 0.5, 0.9, math.nan, math.inf, -math.inf][: rng.integers(1, 8)]
    names = rng.permutation([*truth, "stranger"])
    predictions = {str(vid): [segment(rng.choice([*labels, "other"]), float(rng.choice(scores)))
                              for _ in range(rng.integers(0, 12))] for vid in names}
    return truth, predictions


def crowded_case(rng: np.random.Generator) -> tuple[Truth, Predictions]:
    """Many long truths over one another: long wish lists, and predictions that drive each other on."""
    def segment(score: float | None = None) -> Segment:
        start = rng.uniform(0, 10)
        return Segment(start, start + rng.uniform(15, 25), "a", score)

    truth = {f"v{v}": VideoTruth(40.0, tuple(segment() for _ in range(25))) for v in range(2)}
    return truth, {vid: [segment(rng.uniform()) for _ in range(40)] for vid in truth}


def small_case(seed: int = 7) -> tuple[Truth, Predictions]:
    """The committed fixture: plausible detections of four classes in eight videos."""
    rng = np.random.default_rng(seed)
    labels = ["Long jump", "Beer pong", "Kneeling", "Never found"]
    truth: Truth = {}
    predictions: Predictions = {}
    for v in range(8):
        duration = round(rng.uniform(30, 200), 2)
        annotations, found = [], []
        for _ in range(rng.integers(1, 5)):
            start = round(rng.uniform(0, duration * 0.8), 2)
            end = round(min(duration, start + rng.uniform(2, duration * 0.4)), 2)
            label = labels[rng.integers(len(labels))]
            annotations.append(Segment(start, end, label))
            for _ in range(0 if label == "Never found" else rng.integers(0, 4)):
                jitter = rng.normal(0, 0.12 * (end - start), 2)
                a, b = sorted(np.clip(np.array([start, end]) + jitter, 0, duration).tolist())
                found.append(Segment(round(a, 2), round(b, 2), label, round(rng.uniform(0.3, 1), 1)))
        for _ in range(3):
            a, b = sorted(rng.uniform(0, duration, 2).tolist())
            found.append(Segment(round(a, 2), round(b, 2), labels[rng.integers(3)], round(rng.uniform(0, 0.7), 1)))
        truth[f"video_{v}"] = VideoTruth(duration, tuple(annotations), subset="validation")
        predictions[f"video_{v}"] = found
    twin = truth["video_1"].annotations[0]
    truth["video_1"] = replace(truth["video_1"], annotations=(*truth["video_1"].annotations, twin))
    truth["video_2"] = replace(truth["video_2"], annotations=(*truth["video_2"].annotations,
                                                              Segment(5.0, 5.0, "Kneeling")))
    predictions["video_2"].append(Segment(9.0, 9.0, "Kneeling", 0.5))
    predictions["not_in_truth"] = [Segment(1.0, 8.0, "Beer pong", 0.6)]
    return truth, predictions


def validation_truth() -> Truth:
    """ActivityNet 1.3 validation as TSP's release lists it; the rows 'No action' are not annotations."""
    truth: Truth = {}
    with open(shared("annotations/tsp/activitynet/activitynet_v1-3_valid_tsp_groundtruth.csv"), newline="") as file:
        for row in csv.DictReader(file):
            if row["temporal-region-label"] == "Action":
                video = truth.get(row["video-name"], VideoTruth(float(row["video-duration"]), (), "validation"))
                segment = Segment(float(row["t-start"]), float(row["t-end"]), row["action-label"])
                truth[row["video-name"]] = replace(video, annotations=(*video.annotations, segment))
    return truth


def one_video(*annotations: Segment) -> Truth:
    return {"v": VideoTruth(100.0, annotations)}


def ap_at(threshold: float, truth: Truth, *found: Segment) -> float:
    return detection(truth, {"v": list(found)}, [threshold]).average


# ------------------------------------------------------------------------------------- the official figures


@pytest.mark.parametrize("name", ["detection", "detection_perfect"])
def test_golden_figures_of_the_official_evaluator(name: str, tmp_path: Path):
    golden = json.loads(shared("golden/golden.json").read_text())[name]
    path = shared(golden["file"])
    if path.suffix == ".gz":
        unpacked = tmp_path / "predictions.json"
        unpacked.write_bytes(gzip.decompress(path.read_bytes()))
        path = unpacked
    score = detection(validation_truth(), read_predictions(path))
    assert len(score.classes) == 200
    np.testing.assert_allclose(score.map, golden["mAP"], rtol=0, atol=1e-9)
    assert score.average == pytest.approx(golden["average_mAP"], abs=1e-9, rel=0)
    assert score.ignored == {}
    assert score.unknown == 0


def test_small_fixture_has_the_recorded_figures():
    truth = read_truth(DATA / "detection_small_truth.json")
    predictions = read_predictions(DATA / "detection_small_predictions.json")
    recorded = json.loads((DATA / "detection_small.json").read_text())
    score = detection(truth, predictions)
    assert score.classes == tuple(recorded["classes"])
    np.testing.assert_allclose(score.tious, recorded["tious"], rtol=0, atol=1e-15)
    np.testing.assert_allclose(score.ap, recorded["ap"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(score.map, recorded["mAP"], rtol=0, atol=1e-12)
    assert score.average == pytest.approx(recorded["average_mAP"], abs=1e-12, rel=0)
    assert score.unknown == recorded["unknown"] == 1
    assert 0.05 < score.average < 0.95  # a fixture of zeros or ones would notice nothing


def test_small_fixture_is_what_the_slow_implementation_says():
    truth = read_truth(DATA / "detection_small_truth.json")
    predictions = read_predictions(DATA / "detection_small_predictions.json")
    classes, ap = slow_detection(truth, predictions)
    recorded = json.loads((DATA / "detection_small.json").read_text())
    assert classes == recorded["classes"]
    np.testing.assert_allclose(ap, recorded["ap"], rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------- the slow implementation


@pytest.mark.parametrize("seed", range(10))
def test_equals_the_slow_implementation_where_ties_abound(seed: int):
    rng = np.random.default_rng(seed)
    for _ in range(25):
        truth, predictions = coarse_case(rng)
        tious = [0.0, 0.1, 0.5, 2 / 3, 1.0]
        classes, ap = slow_detection(truth, predictions, tious)
        score = detection(truth, predictions, tious)
        assert list(score.classes) == classes
        np.testing.assert_allclose(score.ap, ap, rtol=0, atol=1e-12)
        assert sum(score.ignored.values()) == sum(
            s.label not in classes for segments in predictions.values() for s in segments)
        assert score.unknown == sum(s.label in classes for s in predictions["stranger"])


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_implementation_where_truths_crowd(seed: int):
    truth, predictions = crowded_case(np.random.default_rng(seed))
    _, ap = slow_detection(truth, predictions)
    np.testing.assert_allclose(detection(truth, predictions).ap, ap, rtol=0, atol=1e-12)


def test_assign_names_the_truth_that_each_prediction_takes():
    real = np.array([[0, 10], [2, 12], [50, 60]], float)
    found = np.array([[1, 11], [2, 12], [0, 10], [50, 60]], float)
    group = np.zeros(3, int)
    taken = assign(found, np.array([0, 0, 0, 7]), real, group, np.array([0.5, 0.9, 1.0]))
    # The first lies between two truths and takes the later; the second wants that one and makes do, or not.
    assert taken.tolist() == [[1, 0, -1, -1], [-1, 1, 0, -1], [-1, 1, 0, -1]]


# ------------------------------------------------------------------------------------- worked by hand


def test_average_precision_takes_the_envelope_at_all_points():
    assert average_precision(np.array([True, False, True]), 2) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([False, True, True]), 2) == pytest.approx(2 / 3)
    assert average_precision(np.array([False, False]), 3) == 0
    assert average_precision(np.zeros((4, 0), bool), 3).tolist() == [0, 0, 0, 0]


def test_a_threshold_is_reached_by_equality():
    truth = one_video(Segment(0, 10, "a"))
    assert ap_at(0.5, truth, Segment(0, 5, "a", 1.0)) == 1
    assert ap_at(0.5, truth, Segment(0, 4.99, "a", 1.0)) == 0


def test_a_truth_is_found_once():
    truth = one_video(Segment(0, 10, "a"), Segment(50, 60, "a"))
    again = [Segment(0, 10, "a", 0.9), Segment(0, 10, "a", 0.8), Segment(50, 60, "a", 0.7)]
    assert ap_at(0.5, truth, *again) == pytest.approx((1 + 2 / 3) / 2)


def test_a_prediction_may_take_its_second_best():
    truth = one_video(Segment(0, 10, "a"), Segment(0, 12, "a"))
    found = [Segment(0, 10, "a", 0.9), Segment(0, 10, "a", 0.8)]
    assert ap_at(0.8, truth, *found) == 1
    assert ap_at(0.85, truth, *found) == 0.5  # 10/12 does not reach it


def test_equal_scores_count_the_later_first():
    truth = one_video(Segment(0, 10, "a"))
    hit, miss = Segment(0, 10, "a", 0.5), Segment(50, 60, "a", 0.5)
    assert ap_at(0.5, truth, miss, hit) == 1
    assert ap_at(0.5, truth, hit, miss) == 0.5
    two = {"v": VideoTruth(100.0, (Segment(0, 10, "a"),)), "w": VideoTruth(100.0)}
    assert detection(two, {"w": [miss], "v": [hit]}).average == 1  # later in the file, not in the truth
    assert detection(two, {"v": [hit], "w": [miss]}).average == 0.5


def test_equal_tious_take_the_later_truth():
    early, late = Segment(0, 10, "a"), Segment(2, 12, "a")
    between, needs_late = Segment(1, 11, "a", 0.9), Segment(2.5, 12.5, "a", 0.8)
    assert ap_at(0.8, one_video(early, late), between, needs_late) == 0.5
    assert ap_at(0.8, one_video(late, early), between, needs_late) == 1


def test_a_nan_score_comes_first():
    truth = one_video(Segment(0, 10, "a"))
    sure = Segment(0, 10, "a", math.inf)
    assert ap_at(0.5, truth, sure, Segment(50, 60, "a", math.nan)) == 0.5
    assert ap_at(0.5, truth, Segment(50, 60, "a", -math.inf), sure) == 1


def test_zero_length():
    point = one_video(Segment(5, 5, "a"), Segment(20, 30, "a"))
    assert ap_at(1.0, point, Segment(90, 90, "a", 0.9)) == 0.5  # wherever it lies
    assert ap_at(0.5, point, Segment(4, 6, "a", 0.9), Segment(20, 30, "a", 0.8)) == 0.25  # the truth stays in the count
    assert ap_at(0.5, point, Segment(25, 25, "a", 0.9), Segment(26, 26, "a", 0.8)) == 0.5  # once only
    assert ap_at(0.5, one_video(Segment(0, 10, "a")), Segment(5, 5, "a", 0.9)) == 0


def test_videos_and_classes_do_not_mix():
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "a"),)), "w": VideoTruth(100.0, (Segment(0, 10, "b"),))}
    crossed = {"v": [Segment(0, 10, "b", 0.9)], "w": [Segment(0, 10, "a", 0.9)]}
    assert detection(truth, crossed).average == 0


def test_classes_come_in_order_of_appearance_and_count_zero_without_predictions():
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "z"), Segment(20, 30, "a"), Segment(40, 50, "z"))),
             "w": VideoTruth(100.0, (Segment(0, 10, "m"),))}
    score = detection(truth, {"w": [Segment(0, 10, "m", 0.1)]})
    assert score.classes == ("z", "a", "m")
    assert score.ap.shape == (3, 10)
    assert score.ap.mean(axis=1).tolist() == [0, 0, 1]
    assert score.map.tolist() == pytest.approx([1 / 3] * 10)
    assert score.average == pytest.approx(1 / 3)


def test_unknown_videos_are_false_positives():
    truth = one_video(Segment(0, 10, "a"))
    hit = Segment(0, 10, "a", 0.5)
    score = detection(truth, {"v_v": [replace(hit, score=0.9)], "v": [hit]})
    assert score.average == 0.5
    assert score.unknown == 1


def test_labels_outside_the_truth_are_ignored_and_counted():
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "a"), Segment(20, 30)))}
    hit = Segment(0, 10, "a", 0.5)
    others = [Segment(0, 10, "A", 0.9), Segment(20, 30, None, 0.9), Segment(0, 10, "A", 0.8)]
    score = detection(truth, {"v": [*others, hit]})
    assert score.average == 1
    assert score.ignored == {"A": 2, "[class-agnostic]": 1}
    assert score.classes == ("a",)  # the annotation without a label is no class


# ------------------------------------------------------------------------------------- perfect, empty, permuted, bad


def as_predictions(truth: Truth) -> Predictions:
    return {vid: [replace(s, score=1.0) for s in v.annotations] for vid, v in truth.items()}


def test_perfect():
    truth, _ = small_case()
    score = detection(truth, as_predictions(truth))
    assert (score.ap == 1).all()
    assert score.average == 1


@pytest.mark.parametrize("nothing", [{}, {"video_0": []}, {"elsewhere": []}])
def test_no_predictions_score_zero(nothing: Predictions):
    truth, _ = small_case()
    score = detection(truth, nothing)
    assert score.ap.shape == (4, 10)
    assert (score.ap == 0).all()
    assert score.average == 0
    assert score.ignored == {}


def test_only_ignored_predictions_score_zero():
    assert detection(one_video(Segment(0, 10, "a")), {"v": [Segment(0, 10, "b", 1.0)]}).average == 0


def test_order_of_file_and_names_do_not_matter_without_ties():
    rng = np.random.default_rng(3)
    truth, predictions = small_case()
    count = sum(map(len, predictions.values()))
    distinct = iter(rng.permutation(count) / count)
    predictions = {vid: [replace(s, score=float(next(distinct))) for s in row] for vid, row in predictions.items()}
    before = detection(truth, predictions)
    shuffled_truth = {str(vid): replace(truth[vid], annotations=tuple(
        truth[vid].annotations[i] for i in rng.permutation(len(truth[vid].annotations))))
        for vid in rng.permutation(list(truth))}
    shuffled = {str(vid): [predictions[vid][i] for i in rng.permutation(len(predictions[vid]))]
                for vid in rng.permutation(list(predictions))}
    after = detection(shuffled_truth, shuffled)
    assert set(after.classes) == set(before.classes)
    rows = [after.classes.index(name) for name in before.classes]
    np.testing.assert_allclose(after.ap[rows], before.ap, rtol=0, atol=1e-12)
    # Only the order of scores counts, not their values.
    cubed = {vid: [replace(s, score=s.score**3 - 5) for s in row] for vid, row in predictions.items()}
    assert (detection(truth, cubed).ap == before.ap).all()


def test_arguments_are_left_as_they_were():
    truth, predictions = small_case()
    again_truth, again_predictions = small_case()
    detection(truth, predictions)
    assert (truth, predictions) == (again_truth, again_predictions)


def test_thresholds():
    truth, predictions = small_case()
    score = detection(truth, predictions, [0.3, 0.7])
    assert isinstance(score, DetectionScore)
    assert score.tious.tolist() == [0.3, 0.7]
    assert score.ap.shape == (4, 2)
    assert score.map[0] > score.map[1]
    assert detection(truth, predictions, 0.3).average == score.map[0]
    assert TIOUS[8] < 0.9 < TIOUS[9]
    with pytest.raises(ValueError, match="read-only"):
        TIOUS[0] = 0.1


@pytest.mark.parametrize("tious", [[], [50, 75], [-0.1], [math.nan], [[0.5, 0.7]]])
def test_impossible_thresholds(tious):
    with pytest.raises(CallError, match="numbers from 0 to 1"):
        detection(one_video(Segment(0, 10, "a")), {}, tious)


@pytest.mark.parametrize("truth", [{}, {"v": VideoTruth(10.0)}, {"v": VideoTruth(10.0, (Segment(0, 1),))}])
def test_truth_without_labels_is_refused(truth: Truth):
    with pytest.raises(DataError, match="no labelled segment"):
        detection(truth, {"v": [Segment(0, 1, "a", 1.0)]})


def test_a_prediction_without_score_is_refused():
    predictions = {"u": [], "v": [Segment(0, 1, "a", 1.0), Segment(0, 2, "a")]}
    with pytest.raises(DataError, match="video 'v', prediction 1"):
        detection(one_video(Segment(0, 1, "a")), predictions)


def write_fixture() -> None:
    """Generate the small files again; the figures come from the slow implementation."""
    truth, predictions = small_case()
    classes, ap = slow_detection(truth, predictions)
    write_truth(DATA / "detection_small_truth.json", truth)
    write_predictions(DATA / "detection_small_predictions.json", predictions)
    write_json(DATA / "detection_small.json", {
        "about": "Detection AP of the two files beside this one, computed by slow_detection in test_detection.py",
        "tious": TIOUS.tolist(), "classes": classes, "ap": ap.tolist(), "mAP": ap.mean(axis=0).tolist(),
        "average_mAP": float(ap.mean()), "unknown": len(predictions["not_in_truth"]),
    })


if __name__ == "__main__":
    write_fixture()
