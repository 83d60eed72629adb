"""Detection measures against official figures, against slow obvious implementations, and on cases worked by hand.

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
from cuemark.metrics import counting
from cuemark.metrics.detection import (
    AMBIGUOUS,
    TIOUS,
    DetectionScore,
    assign,
    average_precision,
    detection,
    recall_at,
    thumos,
    zero_shot,
)
from cuemark.segments import (
    UNLABELLED,
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


def slow_clean(truth: Truth, predictions: Predictions, tious=TIOUS) -> dict[str, list[float]]:
    """``official=False``: class -> AP at each threshold. No zero lengths, the first of equals first."""
    truth = {vid: replace(v, annotations=tuple(s for s in v.annotations if s.duration > 0)) for vid, v in truth.items()}
    found = {}
    for label in dict.fromkeys(s.label for v in truth.values() for s in v.annotations):
        rows = [(vid, s) for vid, segments in predictions.items() for s in segments if s.label == label]
        rows.sort(key=lambda row: -row[1].score)
        found[label] = []
        for threshold in tious:
            free = {(vid, i): s for vid, v in truth.items() for i, s in enumerate(v.annotations) if s.label == label}
            positives, hits = len(free), []
            for vid, p in rows:
                open_to = [(slow_tiou(p, s), -i) for (w, i), s in free.items() if w == vid and p.duration > 0]
                best = max(open_to, default=(-1.0, 0))
                hits.append(best[0] >= threshold)
                if hits[-1]:
                    del free[vid, -best[1]]
            found[label].append(slow_ap(hits, positives))
    return found


def hull_tiou(a: Segment, b: Segment) -> float:
    """As TH14evalDet and Ego4D's evaluator compute it; nothing shared, nothing met."""
    inter = min(a.end, b.end) - max(a.start, b.start)
    return inter / (max(a.end, b.end) - min(a.start, b.start)) if inter > 0 else 0.0


def slow_thumos(truth: Truth, predictions: Predictions, label: str, threshold: float) -> float:
    """AP of one class, video by video as TH14evalDet goes."""
    positives, flagged = 0, []
    for vid in sorted({*truth, *predictions}):
        annotations = truth[vid].annotations if vid in truth else ()
        real = [s for s in annotations if s.label == label]
        unclear = [s for s in annotations if s.label == AMBIGUOUS]
        found = [s for s in predictions.get(vid, []) if s.label == label]
        found.sort(key=lambda s: (math.isnan(s.score), -s.score))
        positives += len(real)
        free = list(range(len(found)))
        for s in real:
            if free:
                best = max(free, key=lambda i: (hull_tiou(s, found[i]), -i))
                if hull_tiou(s, found[best]) > threshold:
                    free.remove(best)
        for i, s in enumerate(found):
            if i not in free or not any(s.overlap(u) > 0 for u in unclear):
                flagged.append((s.score, i not in free))
    flagged.sort(key=lambda f: (math.isnan(f[0]), -f[0]))
    precisions = [sum(hit for _, hit in flagged[:k + 1]) / (k + 1) for k, (_, hit) in enumerate(flagged) if hit]
    return sum(precisions) / positives


def slow_recall(truth: Truth, predictions: Predictions, k: int, threshold: float, over: str) -> float:
    recalled: dict[str, list[bool]] = {}
    for vid, v in truth.items():
        for label in dict.fromkeys(s.label for s in v.annotations):
            real = [s for s in v.annotations if s.label == label]
            found = [(n, s) for n, s in enumerate(predictions.get(vid, [])) if s.label == label]
            if over == "instances":
                found.sort(key=lambda f: (math.isnan(f[1].score), -f[1].score))
            else:
                found.sort(key=lambda f: (math.isnan(f[1].score), f[1].score, f[0]), reverse=True)
            for s in real:
                shown = [p for _, p in found[:k * len(real)]]
                if over == "instances":
                    hit = any(hull_tiou(p, s) > threshold for p in shown)
                else:
                    hit = any(slow_tiou(p, s) >= threshold for p in shown)
                recalled.setdefault(label, []).append(hit)
    if over == "classes":
        return float(np.mean([np.mean(hits) for hits in recalled.values()]))
    return float(np.mean([hit for hits in recalled.values() for hit in hits]))


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


def with_ambiguous(rng: np.random.Generator, truth: Truth) -> Truth:
    """Every fourth annotation or so is ambiguous, but never all."""
    unclear = {vid: replace(v, annotations=tuple(replace(s, label=AMBIGUOUS) if rng.uniform() < 0.25 else s
                                                 for s in v.annotations)) for vid, v in truth.items()}
    return unclear if any(s.label != AMBIGUOUS for v in unclear.values() for s in v.annotations) else truth


def without_nan(predictions: Predictions) -> Predictions:
    return {vid: [replace(s, score=0.2) if math.isnan(s.score) else s for s in row] for vid, row in predictions.items()}


def repeated(truth: Truth, predictions: Predictions, weights) -> tuple[Truth, Predictions]:
    """What weights mean: video v as often as they say, under other names."""
    names = {vid: [f"{vid} #{n}" for n in range(int(w))] for vid, w in zip(truth, weights, strict=True)}
    return ({new: v for vid, v in truth.items() for new in names[vid]},
            {new: row for vid, row in predictions.items() for new in names.get(vid, [vid])})


def weighed_case(seed: int) -> tuple[Truth, Predictions, np.ndarray]:
    """A case in which scores are tied between videos at most, and weights for its videos: some 0, some several."""
    rng = np.random.default_rng(seed)
    truth, predictions = coarse_case(rng)
    truth = with_ambiguous(rng, {**truth, **{f"w{v}": VideoTruth(12.0, tuple(
        Segment(float(a), float(a + rng.integers(1, 6)), str(rng.choice(["a", "b", "rare"]))) for a in
        rng.integers(0, 6, rng.integers(0, 4)))) for v in range(4)}})
    for vid in [*truth, "stranger"]:
        row = list(predictions.get(vid, []))
        for s in truth[vid].annotations if vid in truth else ():
            row += [Segment(s.start, s.end + float(rng.uniform(0, 2)), s.label, 0.0) for _ in range(2)]
        scores = rng.permutation(2 * len(row) + 1)
        predictions[vid] = [replace(s, score=float(score)) for s, score in zip(row, scores)]
    weights = rng.integers(0, 4, len(truth)).astype(float)
    if not any(s.label not in (None, AMBIGUOUS) for w, v in zip(weights, truth.values()) if w for s in v.annotations):
        weights[:] = 2
    return truth, predictions, weights


def same_figures(a: dict[str, float], b: dict[str, float]) -> None:
    assert list(a) == list(b)
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=0, atol=1e-10)


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


@pytest.mark.parametrize("seed", range(4))
def test_comparing_pairs_in_small_parts_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch):
    truth, predictions = crowded_case(np.random.default_rng(seed))
    before = [detection(truth, predictions).ap, thumos(truth, predictions).ap, recall_at(truth, predictions).recall]
    monkeypatch.setattr(counting, "PAIRS", 7)
    after = [detection(truth, predictions).ap, thumos(truth, predictions).ap, recall_at(truth, predictions).recall]
    assert all((a == b).all() for a, b in zip(before, after))


@pytest.mark.parametrize("seed", range(6))
def test_without_quirks_equals_the_slow_implementation(seed: int):
    rng = np.random.default_rng(seed)
    scored = 0
    for _ in range(25):
        truth, predictions = coarse_case(rng)
        predictions = without_nan(predictions)
        tious = [0.0, 0.1, 0.5, 2 / 3, 1.0]
        ap = slow_clean(truth, predictions, tious)
        if not ap:
            with pytest.raises(DataError, match="no labelled segment"):
                detection(truth, predictions, tious, official=False)
            continue
        score = detection(truth, predictions, tious, official=False)
        assert list(score.classes) == list(ap)
        np.testing.assert_allclose(score.ap, list(ap.values()), rtol=0, atol=1e-12)
        scored += 1
    assert scored > 10


@pytest.mark.parametrize("seed", range(10))
def test_thumos_equals_the_slow_implementation_where_ties_abound(seed: int):
    rng = np.random.default_rng(seed)
    for _ in range(25):
        truth, predictions = coarse_case(rng)
        truth = with_ambiguous(rng, truth)
        tious = [0.0, 0.1, 0.5, 2 / 3, 1.0]
        score = thumos(truth, predictions, tious)
        assert AMBIGUOUS not in score.classes
        slow = [[slow_thumos(truth, predictions, label, t) for t in tious] for label in score.classes]
        np.testing.assert_allclose(score.ap, slow, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_thumos_equals_the_slow_implementation_where_truths_crowd(seed: int):
    truth, predictions = crowded_case(np.random.default_rng(seed))
    tious = [0.3, 0.5, 0.7]
    slow = [[slow_thumos(truth, predictions, "a", t) for t in tious]]
    np.testing.assert_allclose(thumos(truth, predictions, tious).ap, slow, rtol=0, atol=1e-12)


@pytest.mark.parametrize("over", ["instances", "classes"])
@pytest.mark.parametrize("seed", range(5))
def test_recall_equals_the_slow_implementation_where_ties_abound(seed: int, over):
    rng = np.random.default_rng(seed)
    for _ in range(25):
        truth, predictions = coarse_case(rng)
        multiples, tious = (1, 2, 5), [0.0, 0.3, 0.5, 1.0]
        score = recall_at(truth, predictions, multiples, tious, over)
        slow = [[slow_recall(truth, predictions, k, t, over) for t in tious] for k in multiples]
        np.testing.assert_allclose(score.recall, slow, rtol=0, atol=1e-12)
        assert list(score.figures().values()) == pytest.approx(100 * np.ravel(slow))


# ------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("seed", range(40))
def test_a_video_of_weight_w_counts_as_w_videos(seed: int):
    truth, predictions, weights = weighed_case(seed)
    more_truth, more_predictions = repeated(truth, predictions, weights)
    tious = [0.1, 0.3, 0.5, 0.7]
    for measure in (detection, lambda t, p, i: detection(t, p, i, official=False), thumos,
                    lambda t, p, i: recall_at(t, p, (1, 3), i),
                    lambda t, p, i: recall_at(t, p, (1, 3), i, "classes")):
        score = measure(truth, predictions, tious)
        assert score.videos == tuple(truth)
        same_figures(score.figures(weights), measure(more_truth, more_predictions, tious).figures())
        same_figures(score.figures(np.ones(len(truth))), score.figures())
        assert all(math.isnan(value) for value in score.figures(np.zeros(len(truth))).values())


def test_weights_where_many_are_false_before_a_hit():
    """Where precision inside a block of hits rises from far below, and far from 1."""
    rng = np.random.default_rng(5)
    truth, predictions = crowded_case(rng)
    truth |= {f"w{i}": VideoTruth(40.0, (Segment(i, i + 10.0, "a"),)) for i in range(8)}
    predictions |= {f"w{i}": [Segment(i, i + 10.5, "a", rng.uniform()), Segment(30.0, 31.0, "a", rng.uniform())]
                    for i in range(8)}
    weights = rng.integers(0, 9, len(truth)).astype(float)
    for measure in (detection, thumos):
        same_figures(measure(truth, predictions).figures(weights),
                     measure(*repeated(truth, predictions, weights)).figures())


def test_figures_are_the_plain_numbers_in_percent():
    truth, predictions = small_case()
    score = detection(truth, predictions)
    figures = score.figures()
    assert list(figures) == [*(f"mAP@{t:.2f}" for t in np.arange(50, 100, 5) / 100), "average mAP"]
    assert list(figures.values()) == [*(100 * score.map).tolist(), 100 * score.average]
    assert list(detection(truth, predictions, [0.125, 0.3]).figures()) == ["mAP@0.125", "mAP@0.30", "average mAP"]
    assert list(score.by_class) == list(score.classes)
    assert (score.by_class["Kneeling"] == score.ap[score.classes.index("Kneeling")]).all()


@pytest.mark.parametrize("weights", [[1.0], [1.0] * 9, [[1.0] * 8], [-1.0] + [1.0] * 7, [math.nan] + [1.0] * 7])
def test_weights_must_be_one_for_each_video(weights):
    truth, predictions = small_case()
    for score in (detection(truth, predictions), recall_at(truth, predictions)):
        with pytest.raises(CallError, match="each of the 8 videos"):
            score.figures(np.array(weights))


# ------------------------------------------------------------------------------------- assignment


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


def test_ambiguous_is_background_to_activitynet():
    truth = one_video(Segment(0, 10, "a"), Segment(50, 60, AMBIGUOUS))
    hit, there = Segment(0, 10, "a", 0.5), Segment(50, 60, "a", 0.9)
    assert detection(truth, {"v": [hit]}).classes == ("a",)
    assert ap_at(0.5, truth, hit, there) == 0.5
    assert detection(truth, {"v": [Segment(50, 60, AMBIGUOUS, 0.9), hit]}).ignored == {AMBIGUOUS: 1}
    for measure in (detection, thumos, recall_at):
        with pytest.raises(DataError, match="no labelled segment"):
            measure(one_video(Segment(50, 60, AMBIGUOUS)), {})


# ------------------------------------------------------------------------------------- without quirks, by hand


def clean_at(threshold: float, truth: Truth, *found: Segment) -> float:
    return detection(truth, {"v": list(found)}, [threshold], official=False).average


def test_without_quirks_zero_length_neither_counts_nor_matches():
    point = one_video(Segment(5, 5, "a"), Segment(20, 30, "a"), Segment(40, 40, "b"))
    score = detection(point, {"v": [Segment(20, 30, "a", 0.9), Segment(40, 40, "b", 0.9)]}, official=False)
    assert score.classes == ("a",)
    assert score.average == 1
    assert score.ignored == {"b": 1}
    assert clean_at(0.0, point, Segment(25, 25, "a", 0.9), Segment(20, 30, "a", 0.8)) == 0.5


def test_without_quirks_the_first_of_equals_comes_first():
    truth = one_video(Segment(0, 10, "a"))
    hit, miss = Segment(0, 10, "a", 0.5), Segment(50, 60, "a", 0.5)
    assert clean_at(0.5, truth, hit, miss) == 1
    assert clean_at(0.5, truth, miss, hit) == 0.5
    early, late = Segment(0, 10, "a"), Segment(2, 12, "a")
    between, needs_late = Segment(1, 11, "a", 0.9), Segment(2.5, 12.5, "a", 0.8)
    assert clean_at(0.8, one_video(early, late), between, needs_late) == 1
    assert clean_at(0.8, one_video(late, early), between, needs_late) == 0.5


def test_without_quirks_a_nan_score_is_refused():
    found = [Segment(0, 10, "a", 0.5), Segment(0, 10, "elsewhere", math.nan)]
    with pytest.raises(DataError, match=r"video 'v', prediction 1.*NaN"):
        clean_at(0.5, one_video(Segment(0, 10, "a")), *found)


# ------------------------------------------------------------------------------------- THUMOS14, by hand


def thumos_at(threshold: float, truth: Truth, *found: Segment) -> float:
    return thumos(truth, {"v": list(found)}, [threshold]).average


def test_thumos_wants_more_than_the_threshold():
    truth = one_video(Segment(0, 10, "a"))
    assert thumos_at(0.5, truth, Segment(0, 5, "a", 1.0)) == 0
    assert thumos_at(0.5, truth, Segment(0, 5.01, "a", 1.0)) == 1
    assert thumos_at(0.0, truth, Segment(10, 20, "a", 1.0)) == 0
    assert thumos_at(1.0, truth, Segment(0, 10, "a", 1.0)) == 0


def test_thumos_gives_a_truth_its_best_detection_whatever_the_score():
    truth = one_video(Segment(0, 10, "a"))
    assert thumos_at(0.5, truth, Segment(0, 8, "a", 0.9), Segment(0, 10, "a", 0.1)) == 0.5
    assert ap_at(0.5, truth, Segment(0, 8, "a", 0.9), Segment(0, 10, "a", 0.1)) == 1


def test_thumos_lets_truths_choose_in_file_order():
    first, second = Segment(0, 10, "a"), Segment(1, 11, "a")
    only = [Segment(1, 11, "a", 0.9), Segment(-8, 4, "a", 0.8)]
    assert thumos_at(0.2, one_video(second, first), *only) == 1  # the other is left for the second, at 4/18
    assert thumos_at(0.2, one_video(first, second), *only) == 0.5  # it is taken, and the other does not meet the second


def test_thumos_has_no_envelope():
    truth = one_video(Segment(0, 10, "a"), Segment(20, 30, "a"), Segment(40, 50, "a"))
    found = [Segment(80, 90, "a", 0.9), Segment(0, 10, "a", 0.8), Segment(20, 30, "a", 0.7)]
    assert thumos_at(0.5, truth, *found) == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert ap_at(0.5, truth, *found) == pytest.approx((2 / 3 + 2 / 3) / 3)


def test_thumos_excuses_what_overlaps_ambiguous():
    truth = one_video(Segment(0, 10, "a"), Segment(50, 60, AMBIGUOUS))
    hit = Segment(0, 10, "a", 0.5)
    assert thumos_at(0.5, truth, Segment(59, 80, "a", 0.9), hit) == 1
    assert thumos_at(0.5, truth, Segment(60, 80, "a", 0.9), hit) == 0.5  # touching is not overlapping
    assert thumos_at(0.5, truth, Segment(55, 55, "a", 0.9), hit) == 0.5  # zero length shares no time
    elsewhere = {"w": [Segment(50, 60, "a", 0.9)], "v": [hit]}
    assert thumos(truth, elsewhere).average == 0.5  # the stretch of one video excuses none of another
    covered = one_video(Segment(50, 58, "a"), Segment(50, 60, AMBIGUOUS))
    assert thumos_at(0.5, covered, Segment(50, 58, "a", 0.9)) == 1  # and a true positive stays one


def test_thumos_orders_equal_scores_by_video_and_file():
    truth = {"b": VideoTruth(100.0, (Segment(0, 10, "x"),)), "a": VideoTruth(100.0)}
    hit, miss = Segment(0, 10, "x", 0.5), Segment(50, 60, "x", 0.5)
    assert thumos(truth, {"b": [hit], "a": [miss]}).average == 0.5
    assert thumos(truth, {"b": [hit], "c": [miss]}).average == 1
    assert thumos(truth, {"b": [miss, hit]}).average == 0.5
    assert thumos(truth, {"b": [hit, miss]}).average == 1
    assert thumos(truth, {"b": [replace(miss, score=math.nan), replace(hit, score=-math.inf)]}).average == 1


def test_thumos_of_the_official_annotations():
    truth: Truth = {}
    for path in sorted(shared("annotations/thumos14/temporal_annotations_test").glob("*_test.txt")):
        for line in path.read_text().splitlines():
            if line.strip():
                vid, start, end = line.split()
                old = truth.get(vid, VideoTruth(0.0)).annotations
                truth[vid] = VideoTruth(0.0, (*old, Segment(float(start), float(end), path.stem.removesuffix("_test"))))
    said = {vid: [replace(s, score=1.0) for s in v.annotations] for vid, v in truth.items()}
    score = thumos(truth, said)
    assert (len(score.classes), len(truth)) == (20, 213)
    assert score.ignored == {AMBIGUOUS: 99}
    assert (score.ap == 1).all()
    assert (detection(truth, said).ap == 1).all()
    # Guesses at every ambiguous stretch: false positives to one measure, nothing to the other.
    guess = {vid: row + [replace(s, label=label, score=2.0) for s in truth[vid].annotations if s.label == AMBIGUOUS
                         for label in ("Diving", "CliffDiving")] for vid, row in said.items()}
    assert (thumos(truth, guess).ap == 1).all()
    assert detection(truth, guess).average < 0.99


# ------------------------------------------------------------------------------------- recall, by hand


def test_recall_looks_at_k_times_as_many_as_there_are():
    truth = one_video(Segment(0, 10, "a"), Segment(20, 30, "a"), Segment(40, 50, "b"))
    found = [Segment(0, 10, "a", 0.9), Segment(1, 10, "a", 0.8), Segment(20, 30, "a", 0.7),
             Segment(80, 90, "b", 0.9), Segment(40, 50, "b", 0.8)]
    score = recall_at(truth, {"v": found, "w": found}, (1, 2), [0.5])
    assert score.recall.tolist() == [[1 / 3], [1.0]]  # the third of a is beyond 1 x 2, the second of b beyond 1 x 1
    assert score.unknown == 5
    assert score.figures() == pytest.approx({"R@1x,IoU=0.5": 100 / 3, "R@2x,IoU=0.5": 100.0})
    by_class = score.by_class
    assert (by_class["a"][0, 0], by_class["b"][0, 0]) == (0.5, 0.0)
    assert recall_at(truth, {"v": found}, (1,), [0.5], "classes").recall.tolist() == [[0.25]]


def test_one_prediction_may_recall_several():
    truth = one_video(Segment(0, 10, "a"), Segment(0, 11, "a"))
    assert recall_at(truth, {"v": [Segment(0, 10, "a", 1.0)]}, (1,), [0.5]).recall.tolist() == [[1.0]]


def test_recall_at_the_threshold_itself():
    truth, found = one_video(Segment(0, 10, "a")), {"v": [Segment(0, 5, "a", 1.0)]}
    assert recall_at(truth, found, (1,), [0.5]).recall.tolist() == [[0.0]]
    assert recall_at(truth, found, (1,), [0.5], "classes").recall.tolist() == [[1.0]]


@pytest.mark.parametrize("multiples", [(), (0,), (1.5,), (-1,)])
def test_impossible_multiples(multiples):
    with pytest.raises(CallError, match="whole numbers from 1"):
        recall_at(one_video(Segment(0, 10, "a")), {}, multiples)


def test_recall_over_something_else():
    with pytest.raises(CallError, match="'instances' or 'classes', got 'videos'"):
        recall_at(one_video(Segment(0, 10, "a")), {}, over="videos")


# ------------------------------------------------------------------------------------- zero-shot


def test_a_split_is_scored_on_its_own_classes_and_videos():
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "a"), Segment(20, 30, "b"))),
             "w": VideoTruth(100.0, (Segment(0, 10, "c"),))}
    everything = {"v": [Segment(0, 10, "a", 0.5), Segment(20, 30, "b", 0.5), Segment(50, 60, "c", 0.9)],
                  "w": [Segment(0, 10, "c", 0.5), Segment(50, 60, "a", 0.9)]}
    score = zero_shot(truth, everything, [["a", "b"], {"c"}, ["a", "c", "gone"]], [0.5])
    # In the first split w is no test video; in the last it is, and its guess at a comes before the hit.
    assert [s.average for s in score.splits] == [1, 1, 0.5]
    assert score.absent == ((), (), ("gone",))
    assert score.average == pytest.approx(2.5 / 3)
    assert score.map.tolist() == pytest.approx([2.5 / 3])
    assert score.figures() == pytest.approx({"mAP@0.50": 250 / 3, "average mAP": 250 / 3})
    assert score.spread["average mAP"] == pytest.approx(100 * math.sqrt(1 / 12))
    assert math.isnan(zero_shot(truth, everything, [["a"]]).spread["average mAP"])
    stranger = {**everything, "stranger": [Segment(0, 1, "b", 0.9), Segment(0, 1, "c", 0.1)]}
    strange = zero_shot(truth, stranger, [["a", "b"], ["a"]])
    assert [s.unknown for s in strange.splits] == [1, 0]
    assert strange.unknown == 1
    assert strange.videos == ("v",)  # w shows no class of a split, so no draw of videos may hold it


def test_each_split_may_have_its_own_predictions():
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "a"), Segment(20, 30, "b"))),
             "w": VideoTruth(100.0, (Segment(0, 10, "c"), Segment(40, 50, "b")))}
    first = {"v": [Segment(0, 10, "a", 0.5)], "w": [Segment(0, 10, "a", 0.9)]}
    second = {"v": [Segment(20, 30, "b", 0.4), Segment(0, 10, "a", 0.9)], "w": [Segment(0, 10, None, 1.0)],
              "stranger": [Segment(0, 1, "b", 0.1)]}
    splits = [["a"], ["b", "gone"]]
    score = zero_shot(truth, [first, second], splits, [0.5])
    by_hand = [detection({"v": replace(truth["v"], annotations=truth["v"].annotations[:1])}, {"v": first["v"]}, [0.5]),
               detection({vid: replace(v, annotations=v.annotations[1:]) for vid, v in truth.items()},
                         {"v": second["v"][:1], "stranger": second["stranger"]}, [0.5])]
    assert [s.average for s in by_hand] == [1, 0.5]
    assert [s.average for s in score.splits] == [1, 0.5]
    assert score.average == 0.75
    assert (score.missing, score.unknown) == (((), ("w",)), 1)  # whose label is none of its classes
    assert score.unasked == {"a": 1, UNLABELLED: 1}  # of the second; the first has only labels that it is asked for
    # one set for both: a label is strange that no split asks for, and each split takes its own
    merged = {vid: [*first.get(vid, []), *second.get(vid, [])] for vid in second}
    both = zero_shot(truth, merged, splits, [0.5])
    assert both.unasked == {UNLABELLED: 1}
    assert both.splits[1].average == 0.5
    assert zero_shot(truth, {"stranger": [Segment(0, 1, "b", 0.1)]}, [["a", "b"], ["b"]]).unknown == 1  # not twice
    swapped = zero_shot(truth, [second, {"w": first["w"]}], splits, [0.5])
    assert swapped.missing == ((), ("v", "w"))  # what it says of w is of another class
    assert [s.average for s in swapped.splits] == [1, 0]
    with pytest.raises(CallError, match="2 splits and 1 sets of predictions; give one for each, or one for all"):
        zero_shot(truth, [first], splits)


@pytest.mark.parametrize("seed", range(10))
def test_zero_shot_weights(seed: int):
    truth, predictions, weights = weighed_case(seed)
    splits = [[name] for name in sorted({s.label for v in truth.values() for s in v.annotations} - {AMBIGUOUS})]
    score = zero_shot(truth, predictions, splits)
    same_figures(score.figures(np.ones(len(score.videos))), score.figures())
    more_truth, more_predictions = repeated(truth, predictions, weights)
    left = [names for names in splits if any(s.label in names for v in more_truth.values() for s in v.annotations)]
    ours = np.array([weight for vid, weight in zip(truth, weights) if vid in score.videos])
    same_figures(score.figures(ours), zero_shot(more_truth, more_predictions, left).figures())
    assert all(math.isnan(value) for value in score.figures(np.zeros(len(ours))).values())


def test_zero_shot_over_the_published_splits():
    folder = shared("annotations/zero_shot_splits") / "train50%; test50%" / "ActivityNet1.3" / "test"
    splits = [path.read_text().split("\n") for path in sorted(folder.glob("split_*.list"))]
    splits = [[name.strip() for name in names if name.strip()] for names in splits]
    assert [len(names) for names in splits] == [100] * 10
    truth = validation_truth()
    score = zero_shot(truth, as_predictions(truth), splits)
    assert [len(s.classes) for s in score.splits] == [100] * 10
    assert score.absent == ((),) * 10
    assert score.average == 1


@pytest.mark.parametrize("splits", [[], [[]], ["abc"]])
def test_impossible_splits(splits):
    with pytest.raises(CallError, match="collections of class names"):
        zero_shot(one_video(Segment(0, 1, "a")), {}, splits)


def test_a_split_without_truth_is_refused():
    with pytest.raises(DataError, match=r"split 1: the truth shows none of its 2 classes.*'b'"):
        zero_shot(one_video(Segment(0, 1, "a")), {}, [["a"], ["c", "b"]])


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
