"""AR@AN and its area against the official figures, a slow obvious implementation, and cases worked by hand."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import shared
from test_detection import repeated, same_figures, validation_truth

from cuemark.errors import CallError, DataError
from cuemark.metrics.detection import AMBIGUOUS
from cuemark.metrics.proposals import proposals
from cuemark.segments import Predictions, Segment, Truth, VideoTruth

# ------------------------------------------------------------------------------------- slow and obvious


def slow_tiou(a: Segment, b: Segment) -> float:
    inter = a.overlap(b)
    union = (b.end - b.start) + (a.end - a.start) - inter
    return inter / union if union > 0 else math.nan


def slow_official(truth: Truth, predictions: Predictions, tious, most: float | None
                  ) -> tuple[np.ndarray, np.ndarray]:
    """The axis ``(100,)`` and recall ``(T, 100)``, truth by truth and in the order of the official arithmetic."""
    real = {vid: [s for s in v.annotations if s.label != AMBIGUOUS] for vid, v in truth.items()}
    real = {vid: row for vid, row in real.items() if row}
    total = sum(len(row) for row in predictions.values())
    if not most:
        most = float(total) / len(real)
    ratio = most * float(len(real)) / total
    kept = {}
    for vid in real:
        row = predictions.get(vid, [])
        best = [row[i] for i in sorted(range(len(row)), key=lambda i: (row[i].score, i), reverse=True)]
        kept[vid] = best[:min(int(len(row) * ratio), len(row))]
    retrieved = sum(map(len, kept.values()))
    axis, recall = np.zeros(100), np.zeros((len(tious), 100))
    for j in range(100):
        part = (j + 1) / 100.0 * (most * float(len(real)) / retrieved)
        axis[j] = part * (float(retrieved) / len(real))
        for t, threshold in enumerate(tious):
            matches = 0
            for vid, row in real.items():
                shown = kept[vid][:min(int(len(kept[vid]) * part), len(kept[vid]))]
                matches += sum(any(slow_tiou(p, s) >= threshold for p in shown) for s in row)
            recall[t, j] = matches / sum(map(len, real.values()))
    return axis, recall


def slow_clean(truth: Truth, predictions: Predictions, tious, most: int) -> np.ndarray:
    recall = np.zeros((len(tious), most))
    real = {vid: [s for s in v.annotations if s.label != AMBIGUOUS and s.duration > 0] for vid, v in truth.items()}
    for k in range(1, most + 1):
        for t, threshold in enumerate(tious):
            shown = {vid: sorted(predictions.get(vid, []), key=lambda p: -p.score)[:k] for vid in real}
            hits = [any(slow_tiou(p, s) >= threshold for p in shown[vid]) for vid, row in real.items() for s in row]
            recall[t, k - 1] = np.mean(hits)
    return recall


def random_case(rng: np.random.Generator, distinct: bool = False) -> tuple[Truth, Predictions]:
    """Few different times and scores; videos without truth, without proposals, and unknown ones.

    ``distinct``: no ties inside a video.
    """
    def segment(label: str | None = None, score: float | None = None) -> Segment:
        start, end = sorted(rng.integers(0, 8, 2).tolist())
        return Segment(float(start), float(end), label, score)

    truth = {f"v{v}": VideoTruth(8.0, tuple(segment(str(rng.choice(["a", AMBIGUOUS, "b", "c"])))
                                            for _ in range(rng.integers(0, 4)))) for v in range(6)}
    truth["v0"] = VideoTruth(8.0, (Segment(0.0, 5.0, None), *truth["v0"].annotations))
    predictions: Predictions = {}
    for vid in rng.permutation([*truth, "stranger"]):
        count = int(rng.integers(0, 30))
        scores = rng.permutation(50)[:count] if distinct else rng.integers(0, 5, count)
        predictions[str(vid)] = [segment(score=float(score)) for score in scores]
    predictions["v0"].append(Segment(0.0, 4.0, None, 60.0))
    return truth, predictions


# ------------------------------------------------------------------------------------- the official figures


def golden_predictions() -> Predictions:
    packed = shared("golden/synthetic_detection_seed0.json.gz")
    results = json.loads(gzip.decompress(packed.read_bytes()))["results"]
    return {vid: [Segment(*s["segment"], s["label"], s["score"]) for s in row] for vid, row in results.items()}


def test_golden_figures_of_the_official_evaluator():
    golden = json.loads(shared("golden/golden.json").read_text())["proposals"]
    truth, predictions = validation_truth(), golden_predictions()
    of_hundred = golden["max_avg_nr_proposals_100"]
    score = proposals(truth, predictions)
    assert score.auc == pytest.approx(of_hundred["AUC_pct"] / 100, abs=1e-9, rel=0)
    for number in (1, 5, 10, 100):
        assert score.at(number) == pytest.approx(of_hundred[f"AR@{number}"], abs=1e-9, rel=0)
        assert score.figures()[f"AR@{number}"] == 100 * score.at(number)
    assert score.figures()["AUC"] == 100 * score.auc
    assert score.unknown == 0

    of_all = golden["max_avg_nr_proposals_none"]
    score = proposals(truth, predictions, max_number=None)
    assert score.auc == pytest.approx(of_all["AUC_pct"] / 100, abs=1e-9, rel=0)
    assert score.numbers[-1] == pytest.approx(of_all["last_ppv"], abs=1e-9, rel=0)


def test_golden_figures_of_uniform_random_proposals():
    """100 for each of 4,926 videos, drawn as the official notebook draws them, from seed 42."""
    rng = np.random.RandomState(42)
    truth = validation_truth()
    predictions: Predictions = {}
    for vid, video in truth.items():
        draws = rng.rand(100, 3) * [video.duration, video.duration, 1]
        predictions[vid] = [Segment(c - size / 2, c + size / 2, None, score) for c, size, score in draws.tolist()]
    figures = proposals(truth, predictions).figures()
    assert figures["AUC"] == pytest.approx(44.38425, abs=5e-6, rel=0)
    assert figures["AR@1"] == pytest.approx(5.567, abs=5e-4, rel=0)
    assert figures["AR@10"] == pytest.approx(28.705, abs=5e-4, rel=0)
    assert figures["AR@100"] == pytest.approx(55.639, abs=5e-4, rel=0)


# ------------------------------------------------------------------------------------- the slow implementation


@pytest.mark.parametrize("most", [100, None, 7, 2.5])
def test_equals_the_slow_implementation(most):
    rng = np.random.default_rng(11)
    tious = [0.0, 0.3, 0.5, 2 / 3, 1.0]
    for _ in range(12):
        truth, predictions = random_case(rng)
        axis, recall = slow_official(truth, predictions, tious, most)
        score = proposals(truth, predictions, tious, most)
        np.testing.assert_allclose(score.numbers, axis, rtol=0, atol=1e-12)
        np.testing.assert_allclose(score.recall, recall, rtol=0, atol=1e-12)
        assert score.ar.tolist() == score.recall.mean(axis=0).tolist()
        assert score.auc == pytest.approx(np.trapezoid(recall.mean(axis=0), axis) / axis[-1])
        assert score.unknown == len(predictions["stranger"])


@pytest.mark.parametrize("most", [12, 40])
def test_the_best_of_each_video_equals_the_slow_implementation(most):
    rng = np.random.default_rng(12)
    tious = [0.1, 0.5, 1.0]
    for _ in range(15):
        truth, predictions = random_case(rng)
        recall = slow_clean(truth, predictions, tious, most)
        score = proposals(truth, predictions, tious, most, official=False)
        assert score.numbers.tolist() == list(range(1, most + 1))
        np.testing.assert_allclose(score.recall, recall, rtol=0, atol=1e-12)
        assert score.auc == pytest.approx(recall.mean())
        everything = proposals(truth, predictions, tious, None, official=False)
        longest = max(len(predictions.get(vid, [])) for vid, v in truth.items()
                      if any(s.label != AMBIGUOUS and s.duration > 0 for s in v.annotations))
        assert len(everything.numbers) == longest


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("most", [100, None, 7])
@pytest.mark.parametrize("seed", range(12))
def test_a_video_of_weight_w_counts_as_w_videos(seed: int, most, official: bool):
    rng = np.random.default_rng(seed)
    truth, predictions = random_case(rng, distinct=True)
    weights = rng.integers(0, 4, len(truth)).astype(float)
    weights[0] = max(1.0, weights[0])
    score = proposals(truth, predictions, max_number=most, official=official)
    assert score.videos == tuple(truth)
    again = proposals(*repeated(truth, predictions, weights), max_number=most, official=official)
    same_figures(score.figures(weights), again.figures())
    same_figures(score.figures(np.ones(len(truth))), score.figures())
    assert all(math.isnan(value) for value in score.figures(np.zeros(len(truth))).values())


# ------------------------------------------------------------------------------------- worked by hand


def ranked(*hits: int, count: int = 100) -> list[Segment]:
    """``count`` proposals, of which those of the given ranks (from 1) are at 0 to 10 s, 20 to 30 s …"""
    spans = {rank: (20.0 * i, 20.0 * i + 10) for i, rank in enumerate(hits)}
    return [Segment(*spans.get(rank, (5000.0, 5001.0)), None, -float(rank)) for rank in range(1, count + 1)]


def test_three_points_of_the_official_curve_show_one_proposal_less():
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "a"),))}
    short = [rank for rank in range(1, 101) if proposals(truth, {"v": ranked(rank)}).ar[rank - 1] == 0]
    assert short == [29, 57, 58]
    exact = [proposals(truth, {"v": ranked(rank)}, official=False).ar.tolist() for rank in (29, 57, 58)]
    assert [row.index(1.0) + 1 for row in exact] == [29, 57, 58]


def test_proposals_are_allotted_by_how_many_a_video_has():
    truth = {"few": VideoTruth(100.0, (Segment(0, 10, "a"),)), "many": VideoTruth(100.0, (Segment(0, 10, "a"),))}
    found = {"few": ranked(1, count=20), "many": ranked(3, count=60)}
    score = proposals(truth, found, max_number=40)
    # At 2 on average few shows 20 / 20 and many 60 / 20; just before, none and 2.
    assert score.numbers == pytest.approx(np.arange(1, 101) * 0.4)
    assert score.ar[:5].tolist() == [0, 0, 0, 0, 1]
    assert score.at(2) == 1
    assert proposals(truth, found, max_number=40, official=False).ar[:3].tolist() == [0.5, 0.5, 1.0]


def test_perfect():
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "a"),)), "w": VideoTruth(50.0, (Segment(5, 6),))}
    said = {vid: [replace(s, score=1.0) for s in v.annotations] for vid, v in truth.items()}
    score = proposals(truth, said)
    assert (score.ar == 1).all()
    assert score.figures() == pytest.approx({"AR@1": 100, "AR@5": 100, "AR@10": 100, "AR@100": 100, "AUC": 99})
    assert proposals(truth, said, official=False).figures()["AUC"] == 100


def test_figures_beyond_the_curve_have_no_meaning():
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "a"),))}
    figures = proposals(truth, {"v": ranked(1)}, max_number=7).figures()
    assert [math.isnan(value) for value in figures.values()] == [False, False, True, True, False]
    # The straight line between two points; the curve of 1,000 begins at 10.
    assert proposals(truth, {"v": ranked(6, count=8)}, max_number=8).at(5.98) == pytest.approx(0.75)
    assert math.isnan(proposals(truth, {"v": ranked(1)}, max_number=1000).at(5))


def test_equal_scores():
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "a"),))}
    hit, miss = Segment(0, 10, None, 0.5), Segment(50, 60, None, 0.5)
    assert proposals(truth, {"v": [miss, hit]}, max_number=1).at(1) == 1
    assert proposals(truth, {"v": [hit, miss]}, max_number=1).at(1) == 0
    assert proposals(truth, {"v": [miss, hit]}, max_number=1, official=False).auc == 0
    assert proposals(truth, {"v": [hit, miss]}, max_number=1, official=False).auc == 1


def test_zero_length_is_never_recalled():
    truth = {"v": VideoTruth(100.0, (Segment(5, 5, "a"), Segment(20, 30, "a")))}
    found = {"v": [Segment(5, 5, None, 0.9), Segment(20, 30, None, 0.8)]}
    assert proposals(truth, found).ar[-1] == 0.5
    assert proposals(truth, found, official=False).ar[-1] == 1.0


def test_labels_play_no_part_but_ambiguous_truth_is_left_out():
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "a"), Segment(20, 30), Segment(50, 60, AMBIGUOUS)))}
    found = {"v": [Segment(0, 10, "b", 0.9), Segment(20, 30, None, 0.8)]}
    assert proposals(truth, found).ar[-1] == 1
    with pytest.raises(DataError, match="no annotated segment"):
        proposals({"v": VideoTruth(100.0, (Segment(50, 60, AMBIGUOUS),))}, found)


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("most", [100, None])
@pytest.mark.parametrize("nothing", [{}, {"v": []}, {"elsewhere": [Segment(0, 10, None, 1.0)]}])
def test_no_proposals_recall_nothing(nothing: Predictions, most, official: bool):
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "a"),)), "w": VideoTruth(10.0)}
    score = proposals(truth, nothing, max_number=most, official=official)
    assert (score.recall == 0).all()
    assert score.auc == 0
    assert score.figures(np.array([2.0, 1.0]))["AUC"] == 0


def test_order_of_file_and_names_do_not_matter_without_ties():
    rng = np.random.default_rng(2)
    truth, predictions = random_case(rng, distinct=True)
    before = proposals(truth, predictions)
    shuffled_truth = {str(vid): replace(truth[vid], annotations=truth[vid].annotations[::-1])
                      for vid in rng.permutation(list(truth))}
    shuffled = {vid: predictions[vid][::-1] for vid in reversed(predictions)}
    after = proposals(shuffled_truth, shuffled)
    assert (after.recall == before.recall).all()
    assert after.figures() == before.figures()


@pytest.mark.parametrize("truth", [{}, {"v": VideoTruth(10.0)}])
def test_truth_without_segments_is_refused(truth: Truth):
    with pytest.raises(DataError, match="no annotated segment"):
        proposals(truth, {"v": [Segment(0, 1, None, 1.0)]})


@pytest.mark.parametrize("official", [True, False])
def test_scores_that_order_nothing_are_refused(official: bool):
    truth = {"v": VideoTruth(100.0, (Segment(0, 10, "a"),))}
    with pytest.raises(DataError, match="video 'v', prediction 1: there is no score"):
        proposals(truth, {"u": [], "v": [Segment(0, 1, None, 1.0), Segment(0, 2)]}, official=official)
    with pytest.raises(DataError, match="video 'v', prediction 0: its score is NaN"):
        proposals(truth, {"u": [], "v": [Segment(0, 1, None, math.nan)]}, official=official)


@pytest.mark.parametrize(("most", "official"),
                         [(0, True), (-1, True), (math.nan, True), (math.inf, True), (2.5, False)])
def test_impossible_numbers(most, official: bool):
    with pytest.raises(CallError, match="max_number must be a"):
        proposals({"v": VideoTruth(9.0, (Segment(0, 1),))}, {}, max_number=most, official=official)


def test_impossible_thresholds_and_weights():
    truth = {"v": VideoTruth(9.0, (Segment(0, 1),))}
    with pytest.raises(CallError, match="numbers from 0 to 1"):
        proposals(truth, {}, [50, 75])
    with pytest.raises(CallError, match="each of the 1 videos"):
        proposals(truth, {}).figures(np.ones(2))
