"""Grounding against a slow obvious implementation, floors measured with the released evaluators, and cases by hand."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import shared

from cuemark.errors import CallError, DataError
from cuemark.metrics.grounding import grounding
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, tiou

SENTENCES = ["A person opens a door.", "she laughs", "The dog runs away", "Music"]


# ------------------------------------------------------------------------------------- slow and obvious


def slow_tiou(a: Segment, b: Segment) -> float:
    union = a.duration + b.duration - a.overlap(b)
    return a.overlap(b) / union if union > 0 else 0.0


def same(a: str, b: str) -> bool:
    return a.lower().split() == b.lower().split()


def slow_queries(truth: Truth) -> list[tuple[str, str | None, str, list[Segment]]]:
    """Video, id, sentence, windows."""
    queries: list[tuple[str, str | None, str, list[Segment]]] = []
    for vid, known in truth.items():
        for s in known.annotations:
            if s.sentence is None:
                continue
            met = [q for q in queries if s.id is not None and q[0] == vid and q[1] == s.id]
            if met:
                met[0][3].append(s)
            else:
                queries.append((vid, s.id, s.sentence, [s]))
    return queries


def slow_answers(queries, query, predictions: Predictions, order: str, nms: float | None) -> list[Segment]:
    vid, identity, sentence, _ = query
    has_ids = any(q[1] is not None for q in queries if q[0] == vid)
    twins = [q for q in queries if q[0] == vid and same(q[2], sentence)]
    answers: list[Segment] = []
    by_text: list[tuple] = []
    for s in predictions.get(vid, []):
        if has_ids and s.id is not None:
            meets = s.id == identity
        else:
            text = s.query if s.query is not None else s.sentence
            meets = text is not None and same(text, sentence)
            if meets and len(twins) > 1:
                meets = (s.start, s.end, s.score) not in by_text
                by_text.append((s.start, s.end, s.score))
        if meets:
            answers.append(s)
    if order == "score" and all(s.score is not None for s in answers):
        answers.sort(key=lambda s: s.score, reverse=True)  # Python keeps the order of equal ones in reverse too
    if nms is not None:
        kept: list[Segment] = []
        for s in answers:
            if all(slow_tiou(s, k) <= nms for k in kept):
                kept.append(s)
        answers = kept
    return answers


def slow_grounding(truth, predictions, ns, tious, strict, nms, order) -> tuple[dict[str, float], int]:
    queries = slow_queries(truth)
    found: list[list[float]] = []
    missing = 0
    for query in queries:
        answers = slow_answers(queries, query, predictions, order, nms)
        missing += not answers
        found.append([max(slow_tiou(s, w) for w in query[3]) for s in answers])
    figures = {}
    for n in ns:
        for m in tious:
            hits = [any(v > m if strict else v >= m for v in row[:n]) for row in found]
            figures[f"R@{n},IoU={m:g}"] = 100 * sum(hits) / len(hits)
    figures["mIoU"] = 100 * sum(row[0] if row else 0 for row in found) / len(found)
    return figures, missing


def coarse_case(rng: np.random.Generator) -> tuple[Truth, Predictions]:
    """Few different times, scores and texts, so that ties, twins and exact thresholds are common."""
    with_ids = rng.random() < 0.5

    def span() -> tuple[float, float]:
        a, b = sorted(rng.integers(0, 9, 2).tolist())
        return float(a), float(b)

    truth: Truth = {}
    for v in range(rng.integers(1, 5)):
        rows = []
        for i in range(rng.integers(0, 5)):
            text = str(rng.choice(SENTENCES))
            rows.append(Segment(*span(), sentence=text, id=f"q{i}" if with_ids and rng.random() < 0.8 else None))
            if rows[-1].id is not None and rng.random() < 0.4:
                rows.append(Segment(*span(), sentence=text, id=f"q{i}"))
        rows.insert(0, Segment(*span(), "a label only"))
        truth[f"v{v}"] = VideoTruth(9.0, tuple(rows))
    if not slow_queries(truth):
        truth["v0"] = VideoTruth(9.0, (Segment(1, 2, sentence="Music"),))

    def prediction() -> Segment:
        score = None if rng.random() < 0.02 else float(rng.choice([0.1, 0.5, 0.9]))
        text = str(rng.choice([*SENTENCES, "nobody asked", " SHE  laughs "]))
        kind = rng.integers(4)
        return Segment(*span(), score=score, id=f"q{rng.integers(6)}" if kind < 2 else None,
                       query=text if kind in (1, 2) else None, sentence=text if kind == 3 else None)

    predictions = {vid: [prediction() for _ in range(rng.integers(0, 25))] for vid in [*truth, "stranger"]}
    for vid in [v for v in predictions if rng.random() < 0.1]:
        del predictions[vid]
    return truth, predictions


# ------------------------------------------------------------------------------------- against the slow one


@pytest.mark.parametrize("seed", range(120))
def test_equals_the_slow_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predictions = coarse_case(rng)
    options = {"ns": [1, 3, 2], "tious": [0.0, 0.25, 0.5, 1.0], "strict": bool(seed % 2),
               "nms": [None, 0.0, 0.5, 1.0][rng.integers(4)], "order": ["score", "listed"][rng.integers(2)]}
    score = grounding(truth, predictions, **options)
    figures, missing = slow_grounding(truth, predictions, **options)
    assert list(score.figures()) == list(figures)
    assert score.figures() == pytest.approx(figures, abs=1e-9)
    assert score.missing == missing
    queries = slow_queries(truth)
    met = {id(s) for q in queries for s in slow_answers(queries, q, predictions, "listed", None)}
    texts = {(q[0], q[2].casefold()) for q in queries}
    if len(texts) == len(queries):  # no twins, so nothing is left out but what nobody asked
        assert score.unknown == sum(len(row) for row in predictions.values()) - len(met)


@pytest.mark.parametrize("seed", range(10))
def test_weights_are_videos_repeated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predictions = coarse_case(rng)
    score = grounding(truth, predictions)
    assert score.figures(np.ones(len(score.videos))) == pytest.approx(score.figures(), abs=1e-9)
    weights = rng.integers(0, 4, len(score.videos))
    if not weights.any():
        weights[0] = 2
    copies = [(vid, f"{vid} copy {k}") for vid, w in zip(score.videos, weights) for k in range(w)]
    again = grounding({new: truth[old] for old, new in copies}, {new: predictions.get(old, []) for old, new in copies})
    assert score.figures(weights) == pytest.approx(again.figures(), abs=1e-9)


def test_weights_of_nothing_have_no_meaning() -> None:
    score = grounding(PAIR, {})
    assert all(math.isnan(v) for v in score.figures(np.zeros(1)).values())
    with pytest.raises(CallError, match="one number from 0 on for each of the 1 videos"):
        score.figures(np.ones(2))


# ------------------------------------------------------------------------------------------------ by hand

PAIR: Truth = {"v": VideoTruth(10.0, (Segment(0, 4, sentence="A door opens."), Segment(6, 10, sentence="it closes")))}


def test_perfect_empty_and_missing() -> None:
    perfect = {vid: [replace(s, query=s.sentence, sentence=None) for s in known.annotations]
               for vid, known in PAIR.items()}
    assert set(grounding(PAIR, perfect).figures().values()) == {100.0}
    nothing = grounding(PAIR, {})
    assert set(nothing.figures().values()) == {0.0}
    assert (nothing.missing, nothing.unknown) == (2, 0)
    assert grounding(PAIR, {}, tious=[0.0]).recall.tolist() == [[0.0], [0.0]]  # a missed query reaches no threshold
    half = grounding(PAIR, {"v": [Segment(0, 4, query="a DOOR  opens.\n")], "w": [Segment(0, 1, query="it closes")]})
    assert (half.missing, half.unknown, half.miou) == (1, 1, 0.5)
    assert half.figures()["R@1,IoU=0.7"] == 50.0


def test_threshold_itself_counts_only_when_not_strict() -> None:
    truth = {"v": VideoTruth(10.0, (Segment(0, 5, sentence="x"),))}
    answer = {"v": [Segment(0, 10, query="x")]}
    assert grounding(truth, answer, [1], [0.5]).recall.tolist() == [[1.0]]
    assert grounding(truth, answer, [1], [0.5], strict=True).recall.tolist() == [[0.0]]


def test_several_windows_and_ids() -> None:
    truth = {"v": VideoTruth(20.0, (Segment(0, 2, sentence="x", id="7"), Segment(10, 14, sentence="x", id="7"),
                                    Segment(5, 6, sentence="x", id="8")))}
    found = {"v": [Segment(10, 14, query="x", id="7"), Segment(5, 6, query="x", id="8"),
                   Segment(0, 2, query="x", id="9")]}
    score = grounding(truth, found)
    assert (len(score.iou), score.miou, score.unknown) == (2, 1.0, 1)  # the id decides, the text does not
    by_text = grounding(truth, {"v": [replace(s, id=None) for s in found["v"]]}, ns=[1, 3])
    assert by_text.iou.tolist() == [1.0, 0.0]  # without ids each serves both queries
    assert by_text.recall[1].tolist() == [1.0, 1.0, 1.0]


def test_twins_take_an_answer_given_twice_once() -> None:
    truth = {"v": VideoTruth(20.0, (Segment(0, 2, sentence="x"), Segment(10, 14, sentence="x")))}
    found = {"v": [Segment(0, 2, query="x", score=0.9), Segment(10, 14, query="x", score=0.8)] * 2}
    assert grounding(truth, found, ns=[2]).recall.tolist() == [[1.0, 1.0, 1.0]]
    once = {"v": VideoTruth(20.0, (Segment(10, 14, sentence="x"),))}
    assert grounding(once, {"v": [found["v"][0], *found["v"]]}, ns=[2]).recall.tolist() == [[0.0, 0.0, 0.0]]


def test_order_of_answers() -> None:
    truth = {"v": VideoTruth(20.0, (Segment(0, 2, sentence="x"),))}
    wrong, right = Segment(5, 9, query="x", score=0.1), Segment(0, 2, query="x", score=0.9)
    assert grounding(truth, {"v": [wrong, right]}).miou == 1
    assert grounding(truth, {"v": [wrong, right]}, order="listed").miou == 0
    assert grounding(truth, {"v": [wrong, replace(right, score=0.1)]}).miou == 0  # equal: as listed
    assert grounding(truth, {"v": [replace(wrong, score=None), right]}).miou == 0  # a score is lacking: as listed


def test_suppression_keeps_what_touches_the_threshold() -> None:
    truth = {"v": VideoTruth(20.0, (Segment(8, 9, sentence="x"),))}
    found = {"v": [Segment(0, 4, query="x"), Segment(0, 2, query="x"), Segment(8, 9, query="x")]}
    assert grounding(truth, found, ns=[2]).recall[0, 0] == 0
    assert grounding(truth, found, ns=[2], nms=0.5).recall[0, 0] == 0  # tIoU is 0.5: kept
    assert grounding(truth, found, ns=[2], nms=0.49).recall[0, 0] == 1


@pytest.mark.parametrize(("first", "second", "kept"), [
    ((0, 0.3), (0, 0.6), False),  # 0.3 / (0.3 + 0.6 - 0.3) is 0.5000000000000001; over the hull it is 0.5
    ((0.1, 0.8), (0.2, 1.3), True),  # the other way round
])
def test_suppression_divides_by_the_union(first: tuple[float, float], second: tuple[float, float], kept: bool) -> None:
    truth = {"v": VideoTruth(20.0, (Segment(8, 9, sentence="x"),))}
    found = {"v": [Segment(*first, query="x"), Segment(*second, query="x"), Segment(8, 9, query="x")]}
    assert grounding(truth, found, ns=[2], nms=0.5).recall[0, 0] == (not kept)


@pytest.mark.parametrize(("truth", "found", "message"), [
    ({}, {}, "no annotation with a sentence"),
    ({"v": VideoTruth(3.0, (Segment(0, 1, "label"),))}, {}, "no annotation with a sentence"),
    ({"v": VideoTruth(3.0, (Segment(0, 1, sentence="x", id="1"), Segment(0, 1, sentence="y", id="1")))}, {},
     "video 'v': id '1' stands for 2 different sentences"),
    (PAIR, {"v": [Segment(0, 1, query="x", score=math.nan)]}, "video 'v', prediction 0: its score is NaN"),
])
def test_malformed_data(truth: Truth, found: Predictions, message: str) -> None:
    with pytest.raises(DataError, match=message):
        grounding(truth, found)


@pytest.mark.parametrize(("options", "message"), [
    ({"ns": []}, "whole numbers from 1"), ({"ns": [0]}, "whole numbers from 1"), ({"ns": [1.5]}, "whole numbers"),
    ({"tious": []}, "numbers from 0 to 1"), ({"tious": [math.nan]}, "numbers from 0 to 1"),
    ({"nms": 2.0}, "from 0 to 1"), ({"nms": math.nan}, "from 0 to 1"), ({"order": "best"}, "'score' or 'listed'"),
])
def test_impossible_calls(options: dict, message: str) -> None:
    with pytest.raises(CallError, match=message):
        grounding(PAIR, {}, **options)


# ---------------------------------------------------------------------------------- floors on real test sets


def charades(split: str) -> Truth:
    folder = shared("annotations/2d-tan/Charades-STA")
    with open(folder / f"Charades_v1_{split}.csv") as file:
        length = {row["id"]: float(row["length"]) for row in csv.DictReader(file)}
    rows: dict[str, list[Segment]] = {}
    for line in (folder / f"charades_sta_{split}.txt").read_text().splitlines():
        head, sentence = line.split("##")
        vid, start, end = head.split()
        if float(start) < min(float(end), length[vid]):
            rows.setdefault(vid, []).append(Segment(float(start), min(float(end), length[vid]), sentence=sentence))
    return {vid: VideoTruth(length[vid], tuple(own)) for vid, own in rows.items()}


def captions(path: str, normalised: bool = False) -> Truth:
    """ActivityNet Captions or TACoS in 2D-TAN's layout; ``normalised``: with the video's length as unit of time."""
    truth = {}
    for vid, entry in json.loads(shared(f"annotations/2d-tan/{path}").read_text()).items():
        unit = entry.get("fps", 1)
        duration = entry["duration"] if unit == 1 else entry["num_frames"] / unit
        scale = duration if normalised else 1
        truth[vid] = VideoTruth(duration / scale, tuple(
            Segment(max(0, a / unit) / scale, min(b / unit, duration) / scale, sentence=sentence)
            for (a, b), sentence in zip(entry["timestamps"], entry["sentences"])
            if max(0, a / unit) < min(b / unit, duration)))
    return truth


def whole(truth: Truth) -> Predictions:
    return {vid: [Segment(0, known.duration, query=text) for text in {s.sentence for s in known.annotations}]
            for vid, known in truth.items()}


def rounded(score, *names: str) -> list[float]:
    figures = score.figures()
    return [round(figures[name], 2) for name in names]


R1 = ("R@1,IoU=0.3", "R@1,IoU=0.5", "R@1,IoU=0.7")


def test_golden_whole_video_charades() -> None:
    truth = charades("test")
    score = grounding(truth, whole(truth), strict=True)
    assert len(score.iou) == 3720
    assert rounded(score, *R1, "mIoU") == [35.00, 0.43, 0.00, 27.13]


def test_golden_whole_video_activitynet() -> None:
    truth = captions("ActivityNet/test.json")
    score = grounding(truth, whole(truth), strict=True)
    assert (len(score.videos), len(score.iou), score.missing) == (4885, 17031, 0)
    assert rounded(score, *R1, "mIoU") == [47.99, 21.07, 12.41, 34.57]
    # 30 moments fill exactly half of their video, so it matters how their times were rounded: measured with the length
    # of the video as unit, 3 of them come to lie at 0.5 or below. That is the reference's figure.
    truth = captions("ActivityNet/test.json", normalised=True)
    assert rounded(grounding(truth, whole(truth), strict=True), *R1, "mIoU") == [47.99, 21.06, 12.41, 34.57]


def test_golden_whole_video_tacos() -> None:
    truth = captions("TACoS/test.json")
    score = grounding(truth, whole(truth), tious=(0.1, 0.3, 0.5, 0.7), strict=True)
    assert rounded(score, "R@1,IoU=0.1", *R1, "mIoU") == [25.27, 5.90, 1.55, 0.77, 8.76]


def cells(scales: list[tuple[range, int]], n: int) -> np.ndarray:
    """2D-TAN's candidates: for each scale the lengths (in cells, less one) and the stride of starts."""
    return np.array([(a / n, (a + k + 1) / n) for lengths, stride in scales for k in lengths
                     for a in range(0, n - k, stride)])


def prior(train: Truth, candidates: np.ndarray) -> np.ndarray:
    """How good each candidate is as the answer to all sentences of training: 2D-TAN's target, averaged."""
    moments = np.array([(s.start / v.duration, s.end / v.duration) for v in train.values() for s in v.annotations])
    total = np.zeros(len(candidates))
    for k in range(0, len(moments), 4000):
        total += np.clip((tiou(candidates, moments[k:k + 4000]) - 0.5) / 0.5, 0, 1).sum(axis=1)
    return total / len(moments)


def answers(truth: Truth, candidates: np.ndarray, score: np.ndarray) -> Predictions:
    return {vid: [Segment(a * known.duration, b * known.duration, score=s, query=text)
                  for text in dict.fromkeys(s.sentence for s in known.annotations)
                  for (a, b), s in zip(candidates.tolist(), score.tolist())] for vid, known in truth.items()}


def best_first(candidates: np.ndarray, score: np.ndarray, nms: float) -> list[int]:
    """Five of them, the slow way."""
    kept: list[int] = []
    for i in np.argsort(-score, kind="stable"):
        if len(kept) < 5 and all(tiou(candidates[i], candidates[k])[0, 0] <= nms for k in kept):
            kept.append(int(i))
    return kept


R5 = ("R@5,IoU=0.3", "R@5,IoU=0.5", "R@5,IoU=0.7")


def test_golden_prior_charades() -> None:
    # All 136 candidates are given as answers, so that suppression is tested with them.
    truth, candidates = charades("test"), cells([(range(16), 1)], 16)
    score = grounding(truth, answers(truth, candidates, prior(charades("train"), candidates)), strict=True, nms=0.45)
    assert rounded(score, *R1, "mIoU") == [41.26, 30.70, 16.18, 28.53]
    assert rounded(score, *R5) == [97.42, 80.67, 44.87]


def test_golden_prior_activitynet() -> None:
    truth = captions("ActivityNet/test.json")
    candidates = cells([(range(16), 1), (range(17, 32, 2), 2), (range(35, 64, 4), 4)], 64)
    assert len(candidates) == 1104
    scores = prior(captions("ActivityNet/train.json"), candidates)
    kept = best_first(candidates, scores, 0.5)
    score = grounding(truth, answers(truth, candidates[kept], scores[kept]), strict=True)
    assert rounded(score, *R1, "mIoU") == [49.10, 27.15, 13.78, 33.71]
    assert rounded(score, *R5) == [81.05, 65.08, 45.85]


def test_golden_prior_tacos() -> None:
    truth = captions("TACoS/test.json")
    candidates = cells([(range(16), 1), (range(17, 32, 2), 2), (range(35, 64, 4), 4), (range(71, 128, 8), 8)], 128)
    assert len(candidates) == 2548
    scores = prior(captions("TACoS/train.json"), candidates)
    kept = best_first(candidates, scores, 0.4)
    score = grounding(truth, answers(truth, candidates[kept], scores[kept]), tious=(0.1, 0.3, 0.5, 0.7), strict=True)
    assert rounded(score, "R@1,IoU=0.1", *R1, "mIoU") == [20.24, 8.97, 3.85, 1.22, 7.05]
    assert rounded(score, "R@5,IoU=0.1", *R5) == [70.28, 39.77, 17.50, 5.15]


# ------------------------------------------------------------------------------------------- finding and reading


def two_of_each(count: int, answer: str) -> tuple[Truth, Predictions]:
    """``count`` videos with two moments and a sentence for each, and answers: the asked one, always the first, or
    beside both."""
    truth, found = {}, {}
    for i in range(count):
        moments = [Segment(0.0, 4.0, sentence="a"), Segment(6.0, 9.0, sentence="b")]
        spans = {"asked": [(0.5, 4), (6, 9)], "first": [(0, 4), (0, 4)], "beside": [(4, 6), (4, 6)]}[answer]
        truth[f"v{i}"] = VideoTruth(10.0, tuple(moments))
        found[f"v{i}"] = [Segment(*span, score=0.5, query=s.sentence) for span, s in zip(spans, moments, strict=True)]
    return truth, found


def test_finding_any_moment_is_told_from_reading_the_sentence():
    read = grounding(*two_of_each(10, "asked"))
    assert read.choice == (20, 1.0, 0.5)
    assert read.doubt is None
    drawn = grounding(*two_of_each(10, "first"))
    assert drawn.choice == (20, 0.5, 0.5)
    assert drawn.figures()["R@1,IoU=0.7"] == 50  # which looks like something
    assert drawn.doubt == ("sentences may not be read: where a video has several moments, the first answer is the "
                           "asked one in 50% of 20 queries that meet any, and a draw would be in 50%.")
    assert grounding(*two_of_each(9, "first")).doubt is None  # too few to say
    beside = grounding(*two_of_each(10, "beside"))
    assert beside.choice[0] == 0
    assert beside.doubt is None
    np.testing.assert_array_equal(beside.near, 0)


def test_moments_that_overlap_and_videos_of_one_moment_are_no_choice():
    truth = {"same": VideoTruth(10.0, (Segment(0, 4, sentence="a"), Segment(0, 5, sentence="b"))),
             "one": VideoTruth(10.0, (Segment(0, 4, sentence="a"),)),
             "three": VideoTruth(10.0, (Segment(0, 4, sentence="a"), Segment(0, 4.5, sentence="b"),
                                        Segment(5, 9, sentence="c")))}
    found = {vid: [Segment(0, 4, score=1.0, query=s.sentence) for s in v.annotations] for vid, v in truth.items()}
    del found["three"][1]  # not answered
    score = grounding(truth, found)
    np.testing.assert_allclose(score.draw, [1, 1, 1, 2 / 3, 2 / 3, 1 / 3])
    np.testing.assert_allclose(score.near, [1, 1, 1, 1, 0, 1])
    assert score.choice == (2, 0.5, pytest.approx(0.5))
