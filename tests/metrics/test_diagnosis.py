"""The diagnosis against a slow obvious implementation, on cases worked by hand, and on THUMOS14's real truth."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import shared

from cuemark.errors import CallError, DataError
from cuemark.metrics.detection import TIOUS, detection
from cuemark.metrics.diagnosis import ACTIVITYNET, KINDS, SLICES, THUMOS, Diagnosis, Scale, diagnose
from cuemark.segments import Predictions, Segment, Truth, VideoTruth

ODD: dict[str, Scale] = {
    "coverage": Scale(("S", "L"), (0, 0.5, 1)),
    "length": Scale(("S", "M", "L"), (0, 2, 4, math.inf), "s"),
    "num-instances": Scale(("few", "many"), (-1, 3, math.inf)),
    "agreement": Scale(("none", "some"), (-1, 0, 1)),
}
"""Few buckets, so that small random data fills them."""

# ------------------------------------------------------------------------------------- slow and obvious


def slow_tiou(a: Segment, b: Segment) -> float:
    inter = max(min(a.end, b.end) - max(a.start, b.start), 0.0)
    union = (b.end - b.start) + (a.end - a.start) - inter
    return inter / union if union > 0 else 0.0


def slow_bucket(scale: Scale, value: float | None) -> str | None:
    for i, name in enumerate(scale.names):
        low, high = scale.edges[i], scale.edges[i + 1]
        if value is not None and (low < value <= high or (i == 0 and value == low)):
            return name
    return None


def slow_ap_n(hits: list[bool], positives: int, usual: float) -> float:
    """The envelope of normalised precision over recall, point by point."""
    recall, precision = [0.0], [0.0]
    for k in range(1, len(hits) + 1):
        r, wrong = sum(hits[:k]) / positives, hits[:k].count(False)
        recall.append(r)
        precision.append(r * usual / (r * usual + wrong) if r else 0.0)
    return sum((recall[k] - recall[k - 1]) * max(precision[k:]) for k in range(1, len(recall)))


def slow_diagnosis(truth: Truth, predictions: Predictions, tious, scales, given=None, official=True
                   ) -> dict[str, float]:
    """Every figure in percent, and the shares of every slice, as the definition says it one after the other."""
    given = given or {}
    instances = []  # (video, label, segment, values)
    for vid, video in truth.items():
        counted = [(i, s) for i, s in enumerate(video.annotations) if s.label not in (None, "Ambiguous")]
        for i, s in counted:
            values = {"coverage": (s.end - s.start) / video.duration, "length": s.end - s.start,
                      "num-instances": len(counted)}
            values |= {name: x for name, x in given.get((vid, i), {}).items() if x is not None}
            if values["coverage"] <= 1 and s.end > s.start:
                instances.append((vid, s.label, s, values))
    classes = list(dict.fromkeys(label for _, label, _, _ in instances))
    usual = len(instances) / len(classes)
    positives = {label: sum(row[1] == label for row in instances) for label in classes}

    ranked = {}  # label -> (video, segment), best first
    for label in classes:
        rows = [(vid, s) for vid, found in predictions.items() for s in found if s.label == label]
        ranks = [(math.isnan(s.score), 0.0 if math.isnan(s.score) else s.score, n) for n, (_, s) in enumerate(rows)]
        ranked[label] = [rows[n] for _, _, n in sorted(ranks, reverse=True)]

    taken = {}  # (tiou, label, rank) -> number of the instance or None
    kind = {}
    for tiou in tious:
        free = set(range(len(instances)))
        for label in classes:
            for rank, (vid, s) in enumerate(ranked[label]):
                overlaps = [(slow_tiou(s, row[2]), n) for n, row in enumerate(instances) if row[0] == vid]
                wanted = sorted((o for o in overlaps if instances[o[1]][1] == label), reverse=True)
                own = next((n for iou, n in wanted if iou >= tiou and n in free), None)
                free.discard(own)
                taken[tiou, label, rank] = own
                best = max((iou for iou, _ in overlaps), default=0.0)
                nearest = [instances[n][1] for iou, n in overlaps if iou == best]  # their labels, in the file's order
                same = label in (nearest[:1] if official else nearest)
                if own is not None:
                    what = "true positive"
                elif best >= tiou:
                    what = "double detection" if same else "wrong label"
                elif best >= 0.1:
                    what = "localization" if same else "confusion"
                else:
                    what = "background"
                kind[tiou, label, rank] = what

    def hits(tiou, label, ranks):
        return [taken[tiou, label, rank] is not None for rank in ranks]

    def mean(values):
        return sum(values) / len(values) if len(values) else math.nan

    figures = {"mAP_N": mean([slow_ap_n(hits(t, c, range(len(ranked[c]))), positives[c], usual)
                              for t in tious for c in classes])}
    top = {c: range(min(len(ranked[c]), SLICES * positives[c])) for c in classes}
    base = figures["mAP_N of the top 10G"] = mean(
        [slow_ap_n(hits(t, c, top[c]), positives[c], usual) for t in tious for c in classes])
    kinds = [kind[t, c, rank] for t in tious for c in classes for rank in top[c]]
    for name in KINDS:
        figures[f"share of {name}"] = mean([k == name for k in kinds])
        if name != KINDS[0]:
            rest = [slow_ap_n(hits(t, c, [r for r in top[c] if kind[t, c, r] != name]), positives[c], usual)
                    for t in tious for c in classes]
            figures[f"gain without {name}"] = mean(rest) - base
        for i in range(SLICES):
            here = [kind[t, c, rank] for t in tious for c in classes for rank in top[c]
                    if rank // positives[c] == i]
            figures[f"{i + 1}G {name}"] = mean([k == name for k in here])

    for name, scale in scales.items():
        at = [slow_bucket(scale, row[3].get(name)) for row in instances]
        for bucket in scale.names:
            inside = {n for n, b in enumerate(at) if b == bucket}
            per_class = []
            for c in classes:
                wanted = sum(instances[n][1] == c for n in inside)
                if not wanted:
                    continue
                for t in tious:
                    kept = [rank for rank in range(len(ranked[c]))
                            if {taken[u, c, rank] for u in (tious if official else [t])} <= inside | {None}]
                    per_class.append(slow_ap_n(hits(t, c, kept), wanted, usual))
            figures[f"mAP_N {name} {bucket}"] = mean(per_class)
            saved = 0
            for t in tious:
                for c in classes:
                    row = hits(t, c, range(len(ranked[c])))
                    for rank in range(len(row)):
                        r, wrong = sum(row[:rank + 1]) / positives[c], row[:rank + 1].count(False)
                        if row[rank] and r * usual / (r * usual + wrong) > 0.05:
                            saved += taken[t, c, rank] in inside
            figures[f"missed {name} {bucket}"] = 1 - saved / len(tious) / len(inside) if inside else math.nan
    return {name: 100 * x for name, x in figures.items()}


def everything(diagnosis: Diagnosis) -> dict[str, float]:
    """The figures, and the profile beside them under the names of the slow implementation."""
    profile = {f"{i + 1}G {kind}": 100 * x for i, row in enumerate(diagnosis.profile) for kind, x in zip(KINDS, row)}
    return diagnosis.figures() | profile


def agree(found: dict[str, float], expected: dict[str, float]) -> None:
    """The same, where a characteristic without any value may be absent instead of NaN."""
    for name, value in expected.items():
        if name not in found:
            assert math.isnan(value), name
        else:
            assert found[name] == pytest.approx(value, abs=1e-9, rel=0, nan_ok=True), name
    assert set(found) <= set(expected)


# ------------------------------------------------------------------------------------- what is compared


def coarse_case(rng: np.random.Generator, distinct: bool = False) -> tuple[Truth, Predictions, dict]:
    """Few different times and scores: ties, doubles, zero length, coverage above 1, several labels at one place."""
    grid, labels = int(rng.integers(4, 10)), ["b", "a", "c"][: rng.integers(1, 4)]

    def segment(label: str, score: float | None = None) -> Segment:
        start, end = sorted(rng.integers(0, grid, 2).tolist())
        return Segment(float(start), float(end), label, score)

    truth: Truth = {}
    for v in range(rng.integers(1, 5)):
        names = [*labels, *(["Ambiguous"] if rng.random() < 0.2 else [])]
        rows = tuple(segment(str(rng.choice(names))) for _ in range(rng.integers(0, 7)))
        truth[f"v{v}"] = VideoTruth(float(rng.choice([grid, grid - 3])), rows)
    truth["v0"] = replace(truth["v0"], annotations=(*truth["v0"].annotations, Segment(0, 1, "b"), Segment(0, 1)))
    total = 100
    scores = (rng.permutation(10 * total) / 7).tolist() if distinct else [0.1, 0.5, 0.5, 0.9, math.nan, math.inf]
    predictions: Predictions = {}
    for vid in rng.permutation([*truth, "stranger"]):
        predictions[str(vid)] = [
            segment(str(rng.choice([*labels, "other"])), scores.pop() if distinct else float(rng.choice(scores)))
            for _ in range(rng.integers(0, 30))]
    given = {(vid, i): {"agreement": rng.choice([None, -1.0, 0.0, 0.3, 1.0, 7.0])}
             for vid, video in truth.items() for i in range(len(video.annotations)) if rng.random() < 0.8}
    return truth, predictions, given


def jittered(truth: Truth, seed: int, often: float) -> Predictions:
    """Plausible detections: around each instance some, near, wrong or elsewhere; the nearer, the higher the score."""
    rng = np.random.default_rng(seed)
    labels = sorted({s.label for v in truth.values() for s in v.annotations})
    predictions: Predictions = {}
    for vid, video in truth.items():
        rows = []
        for s in video.annotations:
            for _ in range(rng.poisson(often)):
                noise = float(rng.exponential(0.25))
                a, b = np.sort(rng.normal([s.start, s.end], noise * s.duration)).tolist()
                label = s.label if rng.random() < 0.85 else str(rng.choice(labels))
                rows.append(Segment(a, b, label, float(rng.uniform() / (1 + 3 * noise))))
            if rng.random() < often / 4:
                a, b = np.sort(rng.uniform(0, video.duration, 2)).tolist()
                rows.append(Segment(a, b, str(rng.choice(labels)), float(rng.uniform(0, 0.6))))
        predictions[vid] = rows
    return predictions


def one_video(*annotations: Segment, duration: float = 100.0) -> Truth:
    return {"v": VideoTruth(duration, annotations)}


# ------------------------------------------------------------------------------------- the slow implementation


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_slow_implementation_where_ties_abound(seed: int, official: bool):
    rng = np.random.default_rng(seed)
    for _ in range(8):
        truth, predictions, given = coarse_case(rng)
        tious = [0.1, 0.3, 0.5, 2 / 3, 1.0][: rng.integers(1, 6)]
        found = diagnose(truth, predictions, tious, ODD, given, official)
        agree(everything(found), slow_diagnosis(truth, predictions, tious, ODD, given, official))


def test_the_two_filters_differ_only_over_several_thresholds():
    rng = np.random.default_rng(1)
    differ = 0
    for _ in range(20):
        truth, predictions, _ = coarse_case(rng)
        for tious in ([0.3], [0.3, 0.5, 0.9]):
            a, b = (diagnose(truth, predictions, tious, ODD, official=flag).figures() for flag in (True, False))
            same = all(a[name] == pytest.approx(b[name], abs=1e-12, nan_ok=True) for name in a if "AP_N" in name)
            assert same or len(tious) > 1
            differ += not same
    assert differ > 0


def check_weights(truth: Truth, predictions: Predictions, given: dict, weights: np.ndarray, official: bool) -> None:
    diagnosis = diagnose(truth, predictions, [0.3, 0.6], ODD, given, official)
    assert diagnosis.figures(np.ones(len(truth))) == pytest.approx(diagnosis.figures(), abs=1e-12, nan_ok=True)
    copies = [(f"{vid} {i}", vid) for vid, w in zip(truth, weights) for i in range(int(w))]
    repeated = {name: truth[vid] for name, vid in copies}
    found = {name: predictions[vid] for name, vid in copies if vid in predictions}
    found |= {vid: row for vid, row in predictions.items() if vid not in truth}
    again = {(name, i): given[vid, i] for name, vid in copies for i in range(99) if (vid, i) in given}
    agree(diagnose(repeated, found, [0.3, 0.6], ODD, again, official).figures(), diagnosis.figures(weights))


@pytest.mark.parametrize("official", [True, False])
def test_weights_count_a_video_as_often_as_they_say(official: bool):
    rng = np.random.default_rng(2)
    for _ in range(12):
        truth, predictions, given = coarse_case(rng, distinct=True)
        weights = rng.integers(0, 4, len(truth)).astype(float)
        weights[0] = max(weights[0], 1)
        check_weights(truth, predictions, given, weights, official)


@pytest.mark.parametrize(("wrong", "missed"), [(37, 25), (38, 50), (39, 50), (57, 75), (76, 100)])
def test_weights_where_a_limit_falls_inside_of_a_repeated_prediction(wrong: int, missed: float):
    # Copy c of four alike stands at precision c / (c + wrong), against 0.05. Of all, the best 40 are looked at.
    truth = one_video(Segment(0, 10, "a")) | {"w": VideoTruth(100.0)}
    found = {"v": [Segment(0, 10, "a", 0.1)], "w": [Segment(50, 60, "a", 0.9 - i / 1000) for i in range(wrong)]}
    check_weights(truth, found, {}, np.array([4.0, 1.0]), True)
    assert diagnose(truth, found, 0.5).figures(np.array([4.0, 1.0]))["missed length XS"] == missed


def test_weights_that_leave_nothing_give_nan():
    truth = one_video(Segment(0, 10, "a")) | {"empty": VideoTruth(9.0)}
    figures = diagnose(truth, {"v": [Segment(0, 10, "a", 1.0)]}, 0.5).figures(np.array([0.0, 5.0]))
    assert all(math.isnan(x) for x in figures.values())


# ------------------------------------------------------------------------------------- worked by hand


def test_normalised_precision():
    truth = one_video(Segment(0, 10, "a"), Segment(20, 30, "a"), Segment(40, 50, "a"), Segment(60, 70, "b"))
    found = [Segment(0, 10, "a", 0.9), Segment(80, 90, "a", 0.8), Segment(20, 30, "a", 0.7),
             Segment(80, 90, "b", 0.9), Segment(60, 70, "b", 0.8)]
    # N = 2. Class a: precision 1 at recall 1/3, (4/3) / (4/3 + 1) = 4/7 at 2/3. Class b: 2 / (2 + 1) at 1.
    assert diagnose(truth, {"v": found}, 0.5).map_n == pytest.approx(((1 + 4 / 7) / 3 + 2 / 3) / 2)
    assert detection(truth, {"v": found}, 0.5).average == pytest.approx(((1 + 2 / 3) / 3 + 1 / 2) / 2)


def test_one_of_each_kind():
    truth = one_video(Segment(0, 10, "a"), Segment(50, 60, "b")) | {"w": VideoTruth(100.0)}
    found = {
        "v": [Segment(0, 10, "a", 0.9), Segment(1, 10, "a", 0.8), Segment(50, 61, "a", 0.7), Segment(5, 12, "a", 0.6),
              Segment(58, 70, "a", 0.5), Segment(9.5, 30, "a", 0.4)],
        "w": [Segment(0, 10, "a", 0.3)], "elsewhere": [Segment(0, 10, "a", 0.2), Segment(0, 10, "a", 0.1)],
    }
    diagnosis = diagnose(truth, found, 0.5)
    assert diagnosis.profile[:9].argmax(axis=1).tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 5]  # N_a = 1: one in each slice
    assert (diagnosis.profile[:9].max(axis=1) == 1).all()
    assert np.isnan(diagnosis.profile[9]).all()
    np.testing.assert_allclose(diagnosis.shares, np.array([1, 1, 1, 1, 1, 4]) / 9)
    assert diagnosis.unknown == 2
    assert all(gain == 0 for gain in diagnosis.gains.values())  # all errors stand below the one hit


def test_of_two_equally_near_truths_the_earlier_tells_the_kind():
    between = Segment(5, 15, "a", 1.0)
    for labels, kind in (("ab", "localization"), ("ba", "confusion")):
        truth = one_video(Segment(0, 10, labels[0]), Segment(10, 20, labels[1]))
        assert diagnose(truth, {"v": [between]}, 0.5).shares[KINDS.index(kind)] == 1
        assert diagnose(truth, {"v": [between]}, 0.5, official=False).shares[KINDS.index("localization")] == 1


def test_what_removing_an_error_gains():
    truth = one_video(Segment(0, 10, "a"), Segment(20, 30, "a"))
    found = [Segment(50, 60, "a", 0.9), Segment(0, 10, "a", 0.8), Segment(0, 10, "a", 0.7), Segment(20, 30, "a", 0.6)]
    diagnosis = diagnose(truth, {"v": found}, 0.5)
    assert diagnosis.map_n == diagnosis.map_n_top == pytest.approx(1 / 2)  # precisions 1/2 and 2/4
    assert diagnosis.gains["background"] == pytest.approx((1 + 2 / 3) / 2 - 1 / 2)
    assert diagnosis.gains["double detection"] == pytest.approx(2 / 3 - 1 / 2)
    assert diagnosis.gains["wrong label"] == 0


def test_only_the_best_ten_times_as_many_are_told_apart():
    truth = one_video(Segment(0, 10, "a"))
    found = [Segment(50, 60, "a", 1 - i / 100) for i in range(10)] + [Segment(0, 10, "a", 0.1)]
    diagnosis = diagnose(truth, {"v": found}, 0.5)
    assert diagnosis.map_n == pytest.approx(1 / 11)
    assert diagnosis.map_n_top == 0
    assert (diagnosis.profile[:, 5] == 1).all()
    assert set(diagnosis.gains.values()) == {0.0}


@pytest.mark.parametrize(("wrong", "missed"), [(18, 0), (19, 1)])
def test_what_is_found_at_a_hopeless_rank_is_missed(wrong: int, missed: float):
    found = [Segment(50, 60, "a", 0.9)] * wrong + [Segment(0, 10, "a", 0.1)]
    diagnosis = diagnose(one_video(Segment(0, 10, "a")), {"v": found}, 0.5)  # precision 1 / (1 + wrong) against 0.05
    assert diagnosis.buckets["length"][0].missed == missed
    assert diagnosis.map_n == pytest.approx(1 / (1 + wrong))


def test_sensitivity_leaves_out_what_takes_other_truths():
    truth = one_video(Segment(0, 10, "a"), Segment(40, 90, "a"))
    found = [Segment(0, 10, "a", 0.9), Segment(20, 30, "a", 0.8), Segment(40, 90, "a", 0.7)]
    diagnosis = diagnose(truth, {"v": found}, 0.5)
    short, long = diagnosis.buckets["length"][0], diagnosis.buckets["length"][1]
    assert (short.range, short.instances, long.range, long.instances) == ("0–30 s", 1, "30–60 s", 1)
    assert short.map_n == 1
    assert long.map_n == pytest.approx(2 / 3)  # recall 1 of the bucket's, N = 2 of all, one false positive
    assert diagnosis.map_n == pytest.approx((1 + 2 / 3) / 2)
    assert short.relative == pytest.approx(1 / diagnosis.map_n)
    assert math.isnan(diagnosis.buckets["length"][2].map_n)
    assert short.missed == long.missed == 0


def test_the_official_filter_runs_over_all_thresholds():
    # The second prefers the long truth; at 0.5 the first has taken it and it makes do with the short one.
    truth = one_video(Segment(0, 28, "a"), Segment(0, 36, "a"))
    found = {"v": [Segment(14, 36, "a", 0.9), Segment(0, 35, "a", 0.8)]}
    official, each = (diagnose(truth, found, [0.5, 0.7], official=flag) for flag in (True, False))
    assert official.map_n == each.map_n == pytest.approx((1 + 0.5 * (1 / 2)) / 2)
    assert [b.map_n for b in official.buckets["length"][:2]] == [0, pytest.approx(0.5)]
    # At 0.5 each finds its own; at 0.7 the second finds the long one, after a false positive: 2 / (2 + 1).
    assert [b.map_n for b in each.buckets["length"][:2]] == [pytest.approx(0.5), pytest.approx((1 + 2 / 3) / 2)]


def test_what_has_no_length_or_covers_too_much_is_removed():
    truth = one_video(Segment(0, 10, "a"), Segment(5, 5, "a"), Segment(0, 101, "a"), Segment(0, 5, "Ambiguous"),
                      Segment(0, 1), Segment(0, 0, "gone"))
    diagnosis = diagnose(truth, {"v": [Segment(0, 10, "a", 1.0), Segment(0, 101, "gone", 1.0)]}, 0.5)
    assert diagnosis.removed == 3
    assert diagnosis.classes == ("a",)
    assert diagnosis.ignored == {"gone": 1}
    assert diagnosis.map_n == 1
    assert [b.instances for b in diagnosis.buckets["num-instances"]] == [0, 1, 0, 0]  # counted before the removal: 4


def test_given_characteristics_come_first_and_none_is_no_value():
    truth = one_video(Segment(0, 10, "a"), Segment(20, 30, "a"), Segment(40, 50, "a"))
    given = {("v", 0): {"context-size": 0, "length": 200.0}, ("v", 1): {"context-size": None, "coverage": 1.5},
             ("v", 2): {"context-size": 6, "agreement": None}, ("other", 7): {"context-size": 1}}
    diagnosis = diagnose(truth, {}, characteristics=given)
    assert diagnosis.removed == 1
    assert [b.instances for b in diagnosis.buckets["context-size"]] == [1, 0, 0, 0, 0, 0, 1]
    assert [b.instances for b in diagnosis.buckets["length"]] == [1, 0, 0, 0, 1]
    assert list(diagnosis.buckets) == ["context-size", "coverage", "length", "num-instances"]


def test_scales_close_on_the_right():
    scale = THUMOS["length"]
    assert scale.bucket([0, 3, 3.01, 6, 18, 18.01, 1e9, -1, math.nan]).tolist() == [0, 0, 1, 1, 3, 4, 4, -1, -1]
    assert ACTIVITYNET["coverage"].bucket([0, 0.2, 0.6, 0.6000000000000001, 0.61, 1, 1.01]).tolist() == [
        0, 0, 2, 2, 3, 4, -1]
    assert ACTIVITYNET["context-distance"].bucket([-1, 0, 1, 2, 3, 4]).tolist() == [0, 0, 1, 2, 3, -1]
    assert ACTIVITYNET["num-instances"].ranges == ("≤ 1", "2–4", "5–8", "> 8")
    assert ACTIVITYNET["context-size"].ranges == ACTIVITYNET["context-size"].names
    assert THUMOS["length"].ranges == ("0–3 s", "3–6 s", "6–12 s", "12–18 s", "> 18 s")


# ------------------------------------------------------------------------------------- real truth


@pytest.fixture(scope="module")
def thumos() -> tuple[Truth, dict]:
    """DETAD's file, read here without its reader."""
    data = json.loads(shared("annotations/detad/thumos14_test_extra_characteristics.json").read_text())["database"]
    truth: Truth = {}
    given = {}
    for vid, entry in data.items():
        rows = entry["annotations"]
        truth[vid] = VideoTruth(rows[0]["length"] / rows[0]["coverage"],
                                tuple(Segment(*row["segment"], row["label"]) for row in rows), entry["subset"])
        for i, row in enumerate(rows):
            given[vid, i] = {name: row[name] for name in ACTIVITYNET}
    return truth, given


COUNTS = {"coverage": [2384, 657, 166, 61, 90], "length": [1626, 851, 730, 114, 37],
          "num-instances": [15, 2203, 727, 413]}
"""Of THUMOS14's 3,358 test instances, counted in the file by comparing with the edges one by one."""


@pytest.mark.parametrize("own", [True, False])
def test_buckets_of_thumos(thumos, own: bool):
    truth, given = thumos
    diagnosis = diagnose(truth, {}, 0.5, THUMOS, given if own else None)
    assert {name: [b.instances for b in row] for name, row in diagnosis.buckets.items()} == COUNTS
    assert len(diagnosis.videos) == 212
    assert len(diagnosis.classes) == 20
    assert diagnosis.removed == 0
    assert list(diagnose(truth, {}, 0.5, ACTIVITYNET, given).buckets) == ["coverage", "length", "num-instances"]


def test_perfect_predictions_of_thumos(thumos):
    truth, _ = thumos
    rng = np.random.default_rng(0)
    perfect = {vid: [replace(s, score=float(rng.uniform())) for s in v.annotations] for vid, v in truth.items()}
    diagnosis = diagnose(truth, perfect, TIOUS, THUMOS)
    assert diagnosis.map_n == pytest.approx(1, abs=1e-12)
    assert diagnosis.profile[0].tolist() == [1, 0, 0, 0, 0, 0]
    assert np.isnan(diagnosis.profile[1:]).all()
    assert set(diagnosis.gains.values()) == {0.0}
    for row in diagnosis.buckets.values():
        assert [b.missed for b in row] == [0] * len(row)
        assert [b.map_n for b in row] == pytest.approx([1] * len(row), abs=1e-12)


def test_no_predictions_of_thumos(thumos):
    diagnosis = diagnose(thumos[0], {}, 0.5, THUMOS)
    assert diagnosis.map_n == 0
    assert np.isnan(diagnosis.profile).all()
    assert all(b.missed == 1 and b.map_n == 0 and math.isnan(b.relative) for row in diagnosis.buckets.values()
               for b in row)


def test_equals_the_slow_implementation_on_thumos(thumos):
    truth, given = thumos
    few = {vid: truth[vid] for vid in list(truth)[::5]}
    predictions = jittered(few, 0, 2.5)
    expected = slow_diagnosis(few, predictions, [0.5], THUMOS, given)
    agree(everything(diagnose(few, predictions, 0.5, THUMOS, given)), expected)
    assert 20 < expected["mAP_N"] < 80
    assert all(expected[f"share of {kind}"] > 0 for kind in KINDS)


@pytest.mark.parametrize("official", [True, False])
def test_order_of_file_and_names_do_not_matter_without_ties(thumos, official: bool):
    rng = np.random.default_rng(3)
    truth, _ = thumos
    predictions = jittered(truth, 1, 2)
    before = diagnose(truth, predictions, [0.3, 0.5, 0.7], THUMOS, official=official)

    def mixed(video: VideoTruth) -> VideoTruth:
        order = range(len(video.annotations)) if official else rng.permutation(len(video.annotations))
        return replace(video, annotations=tuple(video.annotations[i] for i in order))  # official: see CliffDiving

    shuffled = {f"new {vid}": mixed(truth[vid]) for vid in rng.permutation(list(truth))}
    found = {f"new {vid}": [predictions[vid][i] for i in rng.permutation(len(predictions[vid]))]
             for vid in rng.permutation(list(predictions))}
    after = diagnose(shuffled, found, [0.3, 0.5, 0.7], THUMOS, official=official)
    assert after.figures() == pytest.approx(before.figures(), abs=1e-9)
    np.testing.assert_allclose(after.profile, before.profile, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------- shown, and refused


def test_tables_and_json_hold_the_same(thumos):
    truth, given = thumos
    diagnosis = diagnose(truth, jittered(truth, 2, 2), 0.5, THUMOS, given)
    (_, kinds, profile), (_, _, gains), (_, columns, by) = diagnosis.tables()
    assert kinds == ("slice", *KINDS)
    assert [row[0] for row in profile] == [*(f"{i}G" for i in range(1, 11)), "all"]
    assert sum(profile[0][1:]) == pytest.approx(100)
    assert [row[0] for row in gains] == list(KINDS[1:])
    assert all(len(row) == len(columns) for row in by)
    assert by[0][:3] == ("coverage XS", "0–0.02", 2384)
    data = json.loads(json.dumps(diagnosis.to_json(), allow_nan=False))
    assert data["mAP_N"] == pytest.approx(diagnosis.figures()["mAP_N"])
    assert data["buckets"]["coverage"][0]["missed"] == pytest.approx(by[0][5])
    assert data["false_positives"]["gains"]["background"] == pytest.approx(gains[-1][1])
    empty = diagnose(truth, {}, 0.5, THUMOS)
    assert json.dumps(empty.to_json(), allow_nan=False)
    assert empty.tables()[0][2][0][1:] == (None,) * 6


def test_arguments_are_left_as_they_were():
    truth, predictions, given = coarse_case(np.random.default_rng(5), distinct=True)
    again = coarse_case(np.random.default_rng(5), distinct=True)
    diagnose(truth, predictions, [0.3, 0.5], ODD, given)
    assert (truth, predictions, given) == again


@pytest.mark.parametrize("truth", [
    {}, {"v": VideoTruth(10.0)}, one_video(Segment(0, 1)), one_video(Segment(0, 1, "Ambiguous")),
    one_video(Segment(3, 3, "a")), one_video(Segment(0, 11, "a"), duration=10.0),
    one_video(Segment(0, 11, "a"), duration=0.0)])
def test_nothing_to_diagnose(truth: Truth):
    with pytest.raises(DataError, match="no labelled segment"):
        diagnose(truth, {"v": [Segment(0, 1, "a", 1.0)]})


def test_refused():
    truth = one_video(Segment(0, 10, "a"))
    with pytest.raises(DataError, match="video 'v', prediction 0: there is no score"):
        diagnose(truth, {"v": [Segment(0, 1, "a")]})
    with pytest.raises(CallError, match="numbers from 0 to 1"):
        diagnose(truth, {}, [50])
    with pytest.raises(DataError, match="video 'v' has no annotation 1"):
        diagnose(truth, {}, characteristics={("v", 1): {"agreement": 1.0}})
    with pytest.raises(DataError, match="none of the truth's videos"):
        diagnose(truth, {}, characteristics={("w", 0): {"agreement": 1.0}})
    for bad in ("1", math.nan, True, [1]):
        with pytest.raises(DataError, match="'agreement' must be a number"):
            diagnose(truth, {}, characteristics={("v", 0): {"agreement": bad}})
    with pytest.raises(CallError, match="one number"):
        diagnose(truth, {}).figures(np.ones(2))
    for names, edges in [((), (0,)), (("a",), (0,)), (("a", "b"), (0, 1, 1)), (("a",), (0, math.nan))]:
        with pytest.raises(CallError, match="rising edges"):
            Scale(names, edges)
