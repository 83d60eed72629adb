"""QVHighlights' figures: two published prediction files number for number, a slow implementation, cases by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import shared

from cuemark.errors import CallError, DataError
from cuemark.metrics.highlights import LEVELS, RANGES, TIOUS, highlights
from cuemark.segments import Moments, Segment

# ------------------------------------------------------------------------------------------- real files


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def val() -> list[Moments]:
    return [Moments(str(r["qid"]), r["vid"], r["query"], tuple(Segment(*w) for w in r["relevant_windows"]),
                    r["duration"], np.array(r["saliency_scores"]), np.array(r["relevant_clip_ids"]))
            for r in read_rows(shared("annotations/qvhighlights/highlight_val_release.jsonl"))]


PUBLISHED = ["qddetr_QDDETR_onlyclip_best_hl_val_preds", "moment_detr/sample_val_preds"]


def published(name: str) -> list[Moments]:
    return [Moments(str(r["qid"]), r["vid"], r["query"],
                    tuple(Segment(a, b, score=s) for a, b, s in r["pred_relevant_windows"]),
                    saliency=np.array(r["pred_saliency_scores"]))
            for r in read_rows(shared(f"predictions/qvhighlights/{name}.jsonl"))]


def leaves(report: dict) -> int:
    return sum(leaves(v) if isinstance(v, dict) else 1 for v in report.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_published(name: str) -> None:
    official = json.loads(shared(f"predictions/qvhighlights/{name}_metrics.json").read_text())
    assert leaves(official) == 104
    score = highlights(val(), published(name)[::-1])  # the order of queries does not matter
    assert json.dumps(score.report()) == json.dumps(official)  # the order of keys too
    assert {k: round(v, 2) for k, v in score.figures().items()} == pytest.approx(official["brief"], abs=0.0051)
    assert list(score.figures()) == list(official["brief"])


def test_golden_ceilings() -> None:
    """The truth as prediction: the saliency of a clip is the mean of its ratings."""
    truth = val()
    found = []
    for m in truth:
        saliency = np.zeros(int(m.duration / 2))
        saliency[m.clips] = m.saliency.mean(axis=1)
        found.append(replace(m, windows=tuple(replace(w, score=1.0) for w in m.windows), saliency=saliency))
    report = highlights(truth, found).report()
    assert report["full"]["MR-R1"]["0.5"] == report["full"]["MR-R1"]["0.95"] == 100
    brief = {k: v for k, v in report["brief"].items() if "R1" not in k}
    assert list(brief.values()) == [99.76, 99.76, 99.76, 92.73, 89.80, 79.75, 97.14, 100, 88.27, 99.87, 60.81, 95.68]


def test_golden_floors() -> None:
    """The whole video, every clip as good as any other."""
    truth = val()
    found = [replace(m, windows=(Segment(0, m.duration, score=1),), saliency=np.ones(75)) for m in truth]
    assert list(highlights(truth, found).report()["brief"].values()) == [
        9.03, 6.06, 5.58, 8.01, 5.17, 16.01, 0, 0, 24.78, 21.10, 19.45, 19.74, 11.04, 14.97]


# ------------------------------------------------------------------------------------- slow and obvious


def slow_tiou(a: Segment, b: Segment) -> float:
    union = a.duration + b.duration - a.overlap(b)
    return a.overlap(b) / union if union > 0 else 0.0


def slow_ap(windows: list[Segment], found: list[Segment], threshold: float) -> float:
    free = list(range(len(windows)))
    hits = []
    for s in sorted(found, key=lambda s: -(s.score or 0)):
        best = max(free, key=lambda g: (slow_tiou(s, windows[g]), g), default=None)
        hits.append(best is not None and slow_tiou(s, windows[best]) >= threshold)
        if hits[-1]:
            free.remove(best)
    precision = [sum(hits[:k + 1]) / (k + 1) for k in range(len(hits))]
    return sum(max(precision[k:]) for k in range(len(hits)) if hits[k]) / len(windows)


def slow_saliency_ap(positive: list[bool], score: list[float]) -> float:
    if all(positive):
        return 1.0
    curve = []  # recall and precision of taking all clips down to each score
    for least in sorted(set(score), reverse=True):
        taken = [p for p, s in zip(positive, score) if s >= least]
        curve.append((sum(taken), sum(taken) / len(taken)))
    steps = [k for k in range(len(curve)) if curve[k][0] > (curve[k - 1][0] if k else 0)]
    return float(np.mean([max(p for _, p in curve[k:]) for k in steps])) if steps else 0.0


def slow_figures(truth: list[Moments], predictions: list[Moments]) -> dict[str, float]:
    answers = {m.id: m for m in predictions}
    figures = {}
    for name, (low, high) in {"full": (-1, 1e9), "long": (30, 150), "middle": (10, 30), "short": (0, 10)}.items():
        recall, average = [], []
        for m in truth:
            windows = [w for w in m.windows if low < w.duration <= high]
            found = list(answers[m.id].windows[:10])
            if windows:
                best = max(slow_tiou(found[0], w) for w in windows) if found else 0
                recall.append([best >= t for t in TIOUS])
                average.append([slow_ap(windows, found, t) for t in TIOUS])
        recall = 100 * np.mean(recall, axis=0) if recall else np.full(10, np.nan)
        average = 100 * np.mean(average, axis=0) if average else np.full(10, np.nan)
        if name == "full":
            figures |= {"MR-full-R1@0.5": recall[0], "MR-full-R1@0.7": recall[4], "MR-full-mAP": average.mean(),
                        "MR-full-mAP@0.5": average[0], "MR-full-mAP@0.75": average[5]}
        else:
            figures[f"MR-{name}-mAP"] = average.mean()
    for level, least in {"Fair": 2, "Good": 3, "VeryGood": 4}.items():
        average, hits = [], []
        for m in truth:
            if m.saliency is None:
                continue
            given = answers[m.id].saliency
            given = [] if given is None else list(given)
            clips = int(m.duration / m.step)
            ratings = np.zeros((clips, m.saliency.shape[1]))
            for row, clip in zip(m.saliency, m.clips):
                ratings[clip] = row
            score = [given[k] if k < len(given) else 0 for k in range(clips)]
            average.append(np.mean([slow_saliency_ap(list(column >= least), score) for column in ratings.T]))
            top = given.index(max(given)) if given else 0
            hits.append(top < clips and (ratings[top] >= least).any())
        figures |= {f"HL-min-{level}-mAP": 100 * np.mean(average) if average else math.nan,
                    f"HL-min-{level}-Hit1": 100 * np.mean(hits) if hits else math.nan}
    return figures


def coarse_case(rng: np.random.Generator) -> tuple[list[Moments], list[Moments]]:
    """Few different times, scores and ratings, so that ties are common; lengths of all ranges."""
    truth, predictions = [], []
    for q in range(rng.integers(1, 12)):
        step = float(rng.choice([2.0, 5.0]))
        duration = float(rng.integers(10, 80))
        clips = rng.permutation(int(duration / step))[:rng.integers(0, 6)]

        def window(limit: float = duration, scored: bool = False) -> Segment:
            a, b = sorted((rng.integers(0, limit / 4, 2) * 4.0).tolist())
            return Segment(a, b, score=float(rng.choice([0.1, 0.5])) if scored else None)

        rated = rng.random() < 0.8
        truth.append(Moments(str(q), f"v{rng.integers(4)}", "?", tuple(window() for _ in range(rng.integers(0, 4))),
                             duration, rng.integers(0, 5, (len(clips), rng.integers(2, 4))) if rated else None,
                             clips if rated else None, step))
        saliency = rng.integers(-2, 3, rng.integers(0, 50)).astype(float) if rng.random() < 0.9 else None
        predictions.append(Moments(str(q), "", "?", tuple(window(90, rng.random() < 0.98)
                                                          for _ in range(rng.integers(0, 14))), saliency=saliency))
        if any(w.score is None for w in predictions[-1].windows):
            same = tuple(replace(w, score=None) for w in predictions[-1].windows)
            predictions[-1] = replace(predictions[-1], windows=same)
    return truth, [predictions[i] for i in rng.permutation(len(predictions))]


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_slow_one(seed: int) -> None:
    truth, predictions = coarse_case(np.random.default_rng(seed))
    slow = slow_figures(truth, predictions)
    if all(m.saliency is None for m in predictions):
        slow |= {name: math.nan for name in slow if name.startswith("HL")}
    assert highlights(truth, predictions).figures() == pytest.approx(slow, abs=1e-9, nan_ok=True)


def test_more_queries_than_are_padded_at_once() -> None:
    rng = np.random.default_rng(0)
    truth, predictions = [], []
    for part in range(60):
        for m, p in zip(*(sorted(rows, key=lambda m: m.id) for rows in coarse_case(rng))):
            truth.append(replace(m, id=f"{part} {m.id}"))
            predictions.append(replace(p, id=f"{part} {m.id}"))
    assert sum(m.saliency is not None for m in truth) > 256
    assert highlights(truth, predictions).figures() == pytest.approx(slow_figures(truth, predictions), abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_weights_are_videos_repeated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predictions = coarse_case(rng)
    score = highlights(truth, predictions)
    assert score.figures(np.ones(len(score.videos))) == pytest.approx(score.figures(), abs=1e-9, nan_ok=True)
    weights = rng.integers(0, 4, len(score.videos))
    weights[0] = 2
    of = dict(zip(score.videos, weights))
    answers = {m.id: m for m in predictions}
    copies = [(m, k) for m in truth for k in range(of[m.video])]
    again = highlights([replace(m, id=f"{m.id} {k}", video=f"{m.video} {k}") for m, k in copies],
                       [replace(answers[m.id], id=f"{m.id} {k}") for m, k in copies])
    hits = score.figures(weights)
    if not any(answers[m.id].saliency is not None for m, _ in copies):  # left with no saliency at all it is not scored
        hits = {k: v for k, v in hits.items() if k.startswith("MR")}
    assert hits == pytest.approx({k: again.figures()[k] for k in hits}, abs=1e-9, nan_ok=True)


# ------------------------------------------------------------------------------------------------ by hand


def asked(*windows: Segment, **more) -> Moments:
    return Moments("1", "v", "a dog", windows, 20.0, **more)


def test_first_listed_window_is_the_answer() -> None:
    wrong, right = Segment(10, 20, score=0.1), Segment(0, 5, score=0.9)
    score = highlights([asked(Segment(0, 5))], [asked(wrong, right)])
    assert score.recall().tolist() == [0.0] * 10
    assert score.map().tolist() == [1.0] * 10  # which looks at scores
    unscored = [asked(replace(wrong, score=None), right)]
    assert highlights([asked(Segment(0, 5))], unscored).map().tolist() == [0.5] * 10  # as listed


def test_only_ten_windows_count() -> None:
    wrong = [Segment(10, 20, score=1.0)] * 9
    right = Segment(0, 5, score=0.5)
    truth = [asked(Segment(0, 5))]
    assert highlights(truth, [asked(*wrong, right)]).map()[0] == pytest.approx(0.1)
    assert highlights(truth, [asked(*wrong, wrong[0], right)]).map()[0] == 0


def test_ranges_drop_the_other_windows_of_a_query() -> None:
    truth = [replace(asked(Segment(0, 10), Segment(20, 50), Segment(60, 200), Segment(5, 5)), duration=210.0)]
    found = [replace(truth[0], windows=tuple(replace(w, score=1 - i / 10) for i, w in enumerate(truth[0].windows)))]
    score = highlights(truth, found)
    assert [score.map(name)[0] for name in RANGES] == [0.75, pytest.approx(1 / 3), 0.5, 1.0]
    assert [score.recall(name)[0] for name in RANGES] == [1.0, 0.0, 0.0, 1.0]


def test_threshold_itself_counts() -> None:
    score = highlights([asked(Segment(0, 10))], [asked(Segment(0, 6, score=1))])
    assert score.recall().tolist() == [1, 1, 1] + [0] * 7
    assert score.map().tolist() == [1, 1, 1] + [0] * 7


def test_saliency_by_hand() -> None:
    # 10 clips; the first rater likes clips 2 and 3, the second nothing, the third everything that was rated
    ratings, clips = np.array([[4, 0, 2], [2, 1, 3]]), np.array([2, 3])
    truth = [asked(saliency=ratings, clips=clips)]
    score = highlights(truth, [asked(saliency=np.array([0, 0, -1, 5.0, 0, 0, 0, 0, 0, 0]))])
    assert score.hit["Fair"][0] == 1
    assert score.hit["VeryGood"][0] == 0
    assert score.saliency_ap["Fair"][0] == pytest.approx((0.6 + 0 + 0.6) / 3)  # (1 + 2/10) / 2 for two of three
    assert score.saliency_ap["VeryGood"][0] == pytest.approx(0.1 / 3)
    cut = highlights(truth, [asked(saliency=np.array([0.0] * 10 + [9.0]))])  # the best clip lies behind the video
    assert cut.hit["Fair"][0] == 0
    assert cut.saliency_ap["Fair"][0] == pytest.approx((0.2 + 0 + 0.2) / 3)
    padded = highlights(truth, [asked(saliency=np.array([-1.0, -1.0]))])  # eight padded clips at 0 lead
    assert padded.saliency_ap["Fair"][0] == pytest.approx((0.25 + 0 + 0.25) / 3)


def test_all_positive_is_one_and_none_is_zero() -> None:
    everything = [Moments("1", "v", "?", (), 4.0, np.full((2, 1), 4), np.array([0, 1]))]
    assert highlights(everything, [asked(saliency=np.array([1.0, 2.0]))]).saliency_ap["VeryGood"][0] == 1
    nothing = [replace(everything[0], saliency=np.zeros((0, 3)), clips=np.array([]))]
    score = highlights(nothing, [asked(saliency=np.array([1.0, 2.0]))])
    assert [score.saliency_ap[level][0] for level in LEVELS] == [0, 0, 0]


def test_what_was_not_asked_has_no_meaning() -> None:
    moments_only = highlights([asked(Segment(0, 20))], [asked(Segment(0, 20, score=1.0))])
    figures = moments_only.figures()
    assert figures["MR-full-mAP"] == figures["MR-middle-mAP"] == 100
    assert all(math.isnan(figures[k]) for k in figures if "HL" in k or "short" in k or "long" in k)
    report = moments_only.report()
    assert list(report) == ["brief", "full", "middle"]
    json.dumps(report, allow_nan=False)
    highlights_only = highlights([asked(saliency=np.array([[4]]), clips=np.array([0]))],
                                 [asked(saliency=np.array([1.0]))]).report()
    assert list(highlights_only) == ["brief", "HL-min-Fair", "HL-min-Good", "HL-min-VeryGood"]
    nothing_found = highlights([asked(Segment(0, 20))], [asked()]).figures()
    assert nothing_found["MR-full-R1@0.5"] == nothing_found["MR-full-mAP"] == 0


RATED = asked(Segment(0, 5), saliency=np.ones((2, 3)), clips=np.array([0, 1]))


@pytest.mark.parametrize(("truth", "found", "message"), [
    ([], [], "no query"),
    ([RATED], [], "1 of 1 queries are not predicted, 0 predicted ones are not in the truth \\(as '1'\\)"),
    ([RATED], [RATED, replace(RATED, id="x")], "0 of 1 queries .* 1 predicted ones are not in the truth \\(as 'x'\\)"),
    ([RATED, RATED], [RATED], "truth have query id '1' more than once"),
    ([RATED], [RATED, RATED], "predictions have query id '1' more than once"),
    ([replace(RATED, duration=None)], [asked(saliency=np.ones(3))], "duration of video 'v' is not known"),
    ([replace(RATED, duration=math.nan)], [asked(saliency=np.ones(3))], "nan s of video 'v' are not 1 to"),
    ([replace(RATED, duration=1e300)], [asked(saliency=np.ones(3))], "1e\\+300 s of video 'v' are not 1 to"),
    ([replace(RATED, step=0.0)], [asked(saliency=np.ones(3))], "clips of 0.0 s"),
    ([replace(RATED, duration=2.0)], [asked(saliency=np.ones(3))], "below 1, for video 'v' has 1 clips of 2 s"),
    ([replace(RATED, clips=np.array([0, -1]))], [asked(saliency=np.ones(3))], "whole numbers below 10"),
    ([replace(RATED, clips=np.array([0, 0.5]))], [asked(saliency=np.ones(3))], "whole numbers below 10"),
    ([replace(RATED, clips=np.array([0]))], [asked(saliency=np.ones(3))], "each of the 1 clips named, got shape"),
    ([replace(RATED, saliency=np.ones(2))], [asked(saliency=np.ones(3))], "got shape \\(2,\\)"),
    ([replace(RATED, saliency=np.full((2, 3), math.nan))], [asked(saliency=np.ones(3))], "ratings must be"),
    ([RATED], [asked(saliency=np.array([1.0, math.nan]))], "query '1': predicted saliency .* with NaN"),
    ([RATED], [asked(saliency=np.ones((3, 2)))], "predicted saliency .* got shape \\(3, 2\\)"),
    ([RATED], [asked(Segment(0, 1, score=math.nan))], "query '1': a predicted window has score NaN"),
])
def test_malformed(truth: list[Moments], found: list[Moments], message: str) -> None:
    with pytest.raises(DataError, match=message):
        highlights(truth, found)


def test_wrong_weights() -> None:
    score = highlights([RATED], [asked(Segment(0, 5, score=1.0), saliency=np.ones(3))])
    with pytest.raises(CallError, match="one number from 0 on for each of the 1 videos"):
        score.figures(np.ones(3))
    assert all(math.isnan(v) for v in score.figures(np.zeros(1)).values())
