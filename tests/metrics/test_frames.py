"""Frame and segment scores against a slow obvious implementation, on real segmentations, and on cases by hand."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import shared

from cuemark.errors import CallError, DataError
from cuemark.metrics.frames import OVERLAPS, edit_score, f1_counts, frames, frames_of_labels
from cuemark.segments import Predictions, Segment, Truth, VideoTruth

# ------------------------------------------------------------------------------------- slow and obvious


def slow_runs(row: list, background: set) -> list[tuple[object, int, int]]:
    runs: list[list] = []
    for i, label in enumerate(row):
        label = None if label in background else label
        if runs and runs[-1][0] == label:
            runs[-1][2] = i + 1
        else:
            runs.append([label, i, i + 1])
    return [tuple(r) for r in runs if r[0] is not None]


def slow_edit(true: list, predicted: list, background: set) -> float:
    a = [r[0] for r in slow_runs(true, background)]
    b = [r[0] for r in slow_runs(predicted, background)]
    table = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    return 1 - table[-1][-1] / max(len(a), len(b)) if a or b else 1.0


def slow_counts(true: list, predicted: list, background: set, overlap: float) -> list[int]:
    real, found = slow_runs(true, background), slow_runs(predicted, background)
    taken: set[int] = set()
    hits = 0
    for label, start, end in found:
        overlaps = [(min(end, e) - max(start, s)) / (max(end, e) - min(start, s)) * (label == name)
                    for name, s, e in real]
        best = overlaps.index(max(overlaps)) if overlaps else None
        if best is not None and overlaps[best] >= overlap and best not in taken:
            taken.add(best)
            hits += 1
    return [hits, len(found) - hits, len(real) - hits]


def slow_ap(positive: list[bool], score: list[float]) -> float:
    """Σ (R_k - R_{k-1}) P_k over distinct scores."""
    if not any(positive):
        return math.nan
    area, before = 0.0, 0.0
    for least in sorted(set(score), reverse=True):
        taken = [p for p, s in zip(positive, score) if s >= least]
        recall = sum(taken) / sum(positive)
        area += (recall - before) * sum(taken) / len(taken)
        before = recall
    return area


def slow_labels(segments, n: int, fps: float) -> list[str | None]:
    row: list[str | None] = []
    for i in range(n):
        middle = (i + 0.5) / fps
        covering = [(k, s) for k, s in enumerate(segments) if s.start <= middle < s.end]
        if all(s.score is not None for s in segments):
            covering.sort(key=lambda c: (c[1].score, c[0]))
        row.append(covering[-1][1].label if covering else None)
    return row


def slow_figures(true: dict[str, list], predicted: dict[str, list], background: set) -> dict[str, float]:
    """Everything but frame mAP, in percent."""
    background = {None, *background}
    clean = {vid: [None if x in background else x for x in row] for vid, row in true.items()}
    found = {vid: [None if x in background else x for x in predicted.get(vid, [None] * len(row))]
             for vid, row in true.items()}
    pairs = [(t, p) for vid in clean for t, p in zip(clean[vid], found[vid])]
    action = [(t, p) for t, p in pairs if t is not None]
    figures = {"accuracy": np.mean([t == p for t, p in pairs]),
               "accuracy without background": np.mean([t == p for t, p in action]) if action else math.nan,
               "edit": np.mean([slow_edit(clean[v], found[v], background) for v in clean if clean[v]])}
    for k in OVERLAPS:
        hit, false, missed = np.sum([slow_counts(clean[v], found[v], background, k) for v in clean], axis=0)
        figures[f"F1@{round(100 * k)}"] = 2 * hit / (2 * hit + false + missed) if hit + false + missed else 1.0
    return {name: 100 * float(v) for name, v in figures.items()}


# ----------------------------------------------------------------------------------------- rows of labels


def label_case(rng: np.random.Generator) -> tuple[dict[str, list], dict[str, list], set]:
    names = ["a", "b", "c", "background", None][: rng.integers(1, 6)]
    true, predicted = {}, {}
    for v in range(rng.integers(1, 5)):
        n = int(rng.integers(1, 40))
        rows = []
        for _ in range(2):
            runs = rng.choice(len(names), n)
            rows.append([names[i] for i in np.repeat(runs, rng.integers(1, 6, n))[:n]])
        true[f"v{v}"], predicted[f"v{v}"] = rows
    return true, predicted, {"background"} if rng.random() < 0.5 else set()


@pytest.mark.parametrize("seed", range(100))
def test_labels_equal_the_slow_ones(seed: int) -> None:
    true, predicted, background = label_case(np.random.default_rng(seed))
    score = frames_of_labels(true, predicted, background)
    figures = score.figures()
    assert math.isnan(figures.pop("frame mAP"))
    assert figures == pytest.approx(slow_figures(true, predicted, background), abs=1e-9, nan_ok=True)
    for i, vid in enumerate(true):
        args = true[vid], predicted[vid], background
        assert edit_score(*args) == score.edits[i] == pytest.approx(slow_edit(*args[:2], {None, *background}))
        assert f1_counts(*args).tolist() == score.segments[i].tolist()


def test_counts_at_a_threshold_and_where_the_best_is_taken() -> None:
    assert f1_counts(list("aaaaaaaaaa"), list("aaaaabbbbb"), overlaps=[0.5, 0.51]).tolist() == [[1, 1, 0], [0, 2, 1]]
    # The second a overlaps both true ones, the first more; that one is taken, so it is false though the other is free.
    true, found = "aaaaaaaa--aaa", "aaaa-aaaaaaa-"
    assert f1_counts(list(true), list(found), "-", [0.1]).tolist() == [[1, 1, 1]]
    # Of two as good ones the first.
    assert f1_counts(list("aa--aa"), list("aaaaaa"), "-", [0.3]).tolist() == [[1, 0, 1]]
    assert f1_counts(list("aa"), list("aaaa")).tolist() == [[1, 0, 0]] * 3  # rows may differ in length


def test_empty_rows_have_values() -> None:
    assert edit_score([], []) == edit_score(["x"], ["x"], ["x"]) == 1
    assert edit_score(["x"], []) == edit_score([], ["x"]) == edit_score(["x", "y"], ["x", "x"], ["x"]) == 0
    assert f1_counts([], ["x"]).tolist() == [[0, 1, 0]] * 3
    assert f1_counts(["x"], []).tolist() == [[0, 0, 1]] * 3
    nothing = frames_of_labels({"v": [None, None]}, {"v": [None, None]})
    figures = nothing.figures()
    assert [figures[k] for k in ("accuracy", "edit", "F1@10", "F1@50")] == [100] * 4
    assert math.isnan(figures["accuracy without background"])
    assert math.isnan(figures["frame mAP"])
    only_true = frames_of_labels({"v": ["a", None]}, {"v": [None, None]}).figures()
    assert [only_true[k] for k in ("accuracy", "accuracy without background", "edit", "F1@10")] == [50, 0, 0, 0]
    no_frames = frames_of_labels({"v": []}, {"v": []})
    assert no_frames.videos == ()
    assert all(math.isnan(v) for v in no_frames.figures().values())


def test_perfect_renamed_and_permuted() -> None:
    rng = np.random.default_rng(0)
    true, predicted, _ = {f"v{v}": rng.integers(0, 5, 60) for v in range(4)}, {}, None
    assert set(list(frames_of_labels(true, true).figures().values())[:-1]) == {100.0}
    predicted = {vid: np.where(rng.random(60) < 0.3, rng.integers(0, 5, 60), row) for vid, row in true.items()}
    figures = frames_of_labels(true, predicted, [0]).figures()
    names = {vid: [f"class {x}" for x in row] for vid, row in true.items()}
    renamed = {vid: [f"class {x}" for x in predicted[vid]] for vid in reversed(predicted)}
    assert frames_of_labels(names, renamed, "class 0").figures() == pytest.approx(figures, nan_ok=True)


def test_missing_and_unknown_videos() -> None:
    score = frames_of_labels({"v": ["a", None], "w": ["a", "a"]}, {"w": ["a", "a"], "x": ["b"]})
    assert (score.missing, score.unknown) == (1, 1)
    assert score.accuracy == 0.75


def test_long_rows_are_fast() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 20, (2, 4000))
    begin = time.perf_counter()
    edit_score(a, b)
    f1_counts(a, b)
    assert time.perf_counter() - begin < 2  # cell by cell it takes some ten


@pytest.mark.parametrize("seed", range(10))
def test_frame_map_of_dense_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = {f"v{v}": rng.integers(0, 4, rng.integers(1, 20)) for v in range(3)}
    scores = {vid: rng.integers(-3, 4, (len(row), 6)) / 2 for vid, row in true.items()}
    score = frames_of_labels(true, true, background=[0], scores=scores, classes=[3, 0, 1, 9, 2, 3])
    slow = []
    for column, name in enumerate([3, 0, 1, 9, 2, 3]):
        if name != 0:
            slow.append(slow_ap([x == name for row in true.values() for x in row],
                                [s for row in scores.values() for s in row[:, column]]))
    assert score.classes == ("3", "1", "9", "2", "3")
    assert score.ap == pytest.approx(slow, nan_ok=True)
    assert score.map == pytest.approx(np.nanmean(slow))


@pytest.mark.parametrize(("true", "predicted", "more", "message"), [
    ({}, {}, {}, "no video"),
    ({"v": ["a"]}, {"v": ["a", "b"]}, {}, "video 'v' has 1 frames in the truth but 2 in the predictions"),
    ({"v": np.zeros((1, 5))}, {}, {}, "video 'v': frame labels must be one row.* shape \\(1, 5\\)"),
    ({"v": "aab"}, {}, {}, "video 'v': frame labels must be one row.* a text"),
    ({"v": [["a"]]}, {}, {}, "video 'v': a frame label is a list"),
    ({"v": ["a"]}, {}, {"scores": {}, "classes": ["a"]}, "video 'v' has no frame scores"),
    ({"v": ["a"]}, {}, {"scores": {"v": [[1.0, 2.0]]}, "classes": ["a"]}, "must be \\(1, 1\\) numbers.*\\(1, 2\\)"),
    ({"v": ["a"]}, {}, {"scores": {"v": [[math.nan]]}, "classes": ["a"]}, "with NaN"),
])
def test_malformed_labels(true: dict, predicted: dict, more: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        frames_of_labels(true, predicted, **more)


def test_impossible_overlaps() -> None:
    with pytest.raises(CallError, match="overlaps must be"):
        f1_counts(["a"], ["a"], overlaps=[0.0])


# ------------------------------------------------------------------------------------------ real labels


def matlab(pattern: str) -> list[dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """For each split: video -> true labels, predicted labels, scores."""
    io = pytest.importorskip("scipy.io")
    folder = shared("predictions/segmentation_tcn")
    return [{f"{path.stem} {i}": (y.ravel(), p.ravel(), s) for i, (y, p, s)
             in enumerate(zip(*(io.loadmat(path)[key].ravel() for key in "YPS")))}
            for path in sorted(folder.glob(pattern))]


@pytest.mark.parametrize(("pattern", "splits", "background", "published"), [
    ("50Salads/mid/mid_video_SVM/*.mat", 5, set(), 54.9), ("GTEA/video_SVM/*.mat", 3, {0}, None)])
def test_golden_segmentations(pattern: str, splits: int, background: set, published: float | None) -> None:
    parts = matlab(pattern)
    assert len(parts) == splits
    means = []
    for part in parts:
        true = {vid: y for vid, (y, _, _) in part.items()}
        predicted = {vid: p for vid, (_, p, _) in part.items()}
        classes = range(next(iter(part.values()))[2].shape[1])
        score = frames_of_labels(true, predicted, background, {vid: s for vid, (_, _, s) in part.items()}, classes)
        figures = score.figures()
        average = figures.pop("frame mAP")
        lists = {vid: y.tolist() for vid, y in true.items()}, {vid: p.tolist() for vid, p in predicted.items()}
        assert figures == pytest.approx(slow_figures(*lists, background), abs=1e-9)
        every = np.concatenate(list(true.values()))
        scores = np.concatenate([s for _, _, s in part.values()])
        ap = []
        for c in set(classes) - background:
            order = np.argsort(-scores[:, c], kind="stable")  # no ties here, so precision at each hit is enough
            hits = every[order] == c
            ap.append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean() if hits.any() else math.nan)
            assert len(np.unique(scores[:, c])) == len(every)
        assert average == pytest.approx(100 * np.nanmean(ap))
        means.append(np.mean(score.right / score.frames))
    # Lea et al. (CVPR 2017, table of 50 Salads, "Spatial CNN"), who average over videos, then over splits.
    if published is not None:
        assert round(100 * np.mean(means), 1) == published


# ---------------------------------------------------------------------------------------------- segments


def segment_case(rng: np.random.Generator) -> tuple[Truth, Predictions, float | None]:
    names = ["a", "b", "c", "background", None, "Ambiguous"]

    def segment(scored: bool) -> Segment:
        a, b = sorted((rng.integers(-4, 40, 2) / 4).tolist())
        score = float(rng.choice([-1.0, 0.0, 0.5, 0.9])) if scored else None
        return Segment(a, b, names[rng.integers(6)], score)

    truth = {f"v{v}": VideoTruth(float(rng.integers(0, 9)), tuple(segment(False) for _ in range(rng.integers(0, 5))),
                                 fps=float(rng.choice([1.0, 2.0, 3.7]))) for v in range(rng.integers(1, 5))}
    truth["last"] = VideoTruth(5.0, (Segment(1, 2, "a"),), fps=2.0)
    predictions = {vid: [segment(rng.random() < 0.95) for _ in range(rng.integers(0, 6))] for vid in [*truth, "x"]}
    if rng.random() < 0.5:
        del predictions["v0"]
    return truth, predictions, None if rng.random() < 0.5 else 2.5


def usable(segments) -> list[Segment]:
    return [s for s in segments if s.label not in (None, "Ambiguous")]


def slow_frame_map(truth: Truth, predictions: Predictions, fps: float | None, classes: list[str]) -> list[float]:
    result = []
    for name in classes:
        positive, score = [], []
        for vid, known in truth.items():
            rate = fps or known.fps
            for i in range(round(known.duration * rate)):
                middle = (i + 0.5) / rate
                positive.append(any(s.label == name and s.start <= middle < s.end for s in known.annotations))
                score.append(max((1.0 if s.score is None else s.score for s in predictions.get(vid, ())
                                  if s.label == name and s.start <= middle < s.end), default=-math.inf))
        result.append(slow_ap(positive, score))
    return result


@pytest.mark.parametrize("seed", range(100))
def test_segments_equal_the_slow_ones(seed: int) -> None:
    truth, predictions, fps = segment_case(np.random.default_rng(seed))
    score = frames(truth, predictions, fps)
    rate = {vid: fps or known.fps for vid, known in truth.items()}
    number = {vid: round(known.duration * rate[vid]) for vid, known in truth.items()}
    true = {vid: slow_labels(usable(known.annotations), number[vid], rate[vid]) for vid, known in truth.items()}
    found = {vid: slow_labels(usable(predictions.get(vid, [])), number[vid], rate[vid]) for vid in truth}
    figures = score.figures()
    average = figures.pop("frame mAP")
    assert figures == pytest.approx(slow_figures(true, found, {"background"}), abs=1e-9, nan_ok=True)
    assert score.videos == tuple(vid for vid in truth if number[vid])
    assert set(score.classes) == {s.label for v in truth.values() for s in usable(v.annotations)} - {"background"}
    slow = slow_frame_map(truth, predictions, fps, list(score.classes))
    assert score.ap == pytest.approx(slow, nan_ok=True)
    assert average == pytest.approx(100 * np.nanmean(slow))  # "a" has a frame in the last video
    labels = frames_of_labels(true, found, ["background"]).figures()
    assert figures == pytest.approx({k: v for k, v in labels.items() if k != "frame mAP"}, nan_ok=True)


@pytest.mark.parametrize("seed", range(15))
def test_weights_are_videos_repeated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predictions, fps = segment_case(rng)
    score = frames(truth, predictions, fps)
    assert score.figures(np.ones(len(score.videos))) == pytest.approx(score.figures(), nan_ok=True)
    weights = rng.integers(0, 4, len(score.videos))
    weights[-1] = 2
    copies = [(vid, f"{vid} {k}") for vid, w in zip(score.videos, weights) for k in range(w)]
    again = frames({new: truth[old] for old, new in copies},
                   {new: predictions[old] for old, new in copies if old in predictions}, fps, scored=score.classes)
    assert score.figures(weights) == pytest.approx(again.figures(), nan_ok=True)
    assert all(math.isnan(v) for v in score.figures(np.zeros(len(score.videos))).values())
    with pytest.raises(CallError, match="one number from 0 on"):
        score.figures(np.ones(99))


ONE: Truth = {"v": VideoTruth(4.0, (Segment(0, 2, "a"), Segment(2, 3, "b")), fps=1.0)}


def test_perfect_and_empty_segments() -> None:
    assert set(frames(ONE, ONE).figures().values()) == {100.0}
    listed = {vid: list(known.annotations) for vid, known in ONE.items()}
    assert frames(ONE, listed).figures() == frames(ONE, ONE).figures()
    empty = frames(ONE, {})
    assert (empty.missing, empty.accuracy, empty.edit, empty.f1.tolist()) == (1, 0.25, 0, [0, 0, 0])
    assert empty.ap.tolist() == [0.5, 0.25]  # what is left when no frame stands out: the share of the class


def test_frames_are_looked_at_in_their_middle() -> None:
    found = {"v": [Segment(0.5, 1.5, "a")]}  # middles 0.5, 1.5, 2.5, 3.5: the start is inside, the end is not
    assert frames(ONE, found).right.tolist() == [2]
    assert frames(ONE, found, fps=2).frames.tolist() == [8]


def test_highest_score_else_last_listed_wins() -> None:
    low, high = Segment(0, 4, "b", 0.1), Segment(0, 4, "a", 0.9)
    for row, accuracy in (([high, low], 0.5), ([replace(high, score=None), low], 0.25),
                          ([replace(high, score=0.1), low], 0.25), ([low, replace(high, score=0.1)], 0.5)):
        assert frames(ONE, {"v": row}).accuracy == accuracy


def test_overlapping_truth_counts_for_each_class_of_frame_map() -> None:
    truth = {"v": VideoTruth(4.0, (Segment(0, 4, "a"), Segment(0, 2, "b")), fps=1.0)}
    assert frames(truth, truth).ap.tolist() == [1.0, 1.0]
    assert frames(truth, truth, scored=["b", "z"]).classes == ("b", "z")
    assert frames(truth, truth, scored=["b", "z"]).map == 1.0  # a class that no frame has is not in the mean


def test_negative_scores_stay_above_what_nothing_covers() -> None:
    found = {"v": [Segment(0, 2, "a", -1.0), Segment(2, 3, "b", -3.0)]}
    assert frames(ONE, found).ap.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("truth", "found", "fps", "message"), [
    ({}, {}, 1.0, "no labelled segment"),
    ({"v": VideoTruth(4.0, (Segment(0, 1, sentence="x"),))}, {}, 1.0, "no labelled segment"),
    ({"v": VideoTruth(4.0, (Segment(0, 1, "a"),))}, {}, None, "video 'v': its frame rate is not known; give fps"),
    ({"v": VideoTruth(4.0, (Segment(0, 1, "a"),), fps=0.0)}, {}, None, "video 'v': its frame rate is 0.0"),
    ({"v": VideoTruth(1e300, (Segment(0, 1, "a"),))}, {}, 1.0, "1e\\+300 s at 1.0 frames a second"),
    ({"v": VideoTruth(math.nan, (Segment(0, 1, "a"),))}, {}, 1.0, "nan s at 1.0 frames a second"),
    (ONE, {"v": [Segment(0, 1, "a", math.nan)]}, None, "video 'v': a prediction has score NaN"),
])
def test_malformed_segments(truth: Truth, found: Predictions, fps: float | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        frames(truth, found, fps)


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf])
def test_impossible_frame_rates(fps: float) -> None:
    with pytest.raises(CallError, match="fps must be a number above 0"):
        frames(ONE, {}, fps)
