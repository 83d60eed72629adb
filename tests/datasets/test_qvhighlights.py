"""QVHighlights: all of a file as moments, and its windows as truth and predictions."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import qvhighlights
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Moments, Segment, VideoTruth


def asked(qid=7, windows=((0, 16),), **more):
    return {"qid": qid, "query": "A dog runs.", "duration": 126, "vid": "a_0.0_150.0",
            "relevant_windows": [list(w) for w in windows], **more}


def answered(qid=7, windows=((4.0, 8.0, 0.5),), **more):
    return {"qid": qid, "query": "A dog runs.", "vid": "a_0.0_150.0",
            "pred_relevant_windows": [list(w) for w in windows], **more}


def save(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def same(a, b):
    """Two lists of moments hold the same."""
    def plain(m):
        return (m.id, m.video, m.query, m.windows, m.duration, m.step,
                *(None if x is None else (x.shape, x.tolist()) for x in (m.saliency, m.clips)))
    return list(map(plain, a)) == list(map(plain, b))


# ---------------------------------------------------------------------------------------------- moments


def test_moments_of_truth(tmp_path):
    path = save(tmp_path / "q.jsonl", asked(relevant_clip_ids=[0, 1], saliency_scores=[[4, 1, 1], [4, 2, 0]]), "",
                asked("x_1") | {"relevant_windows": None, "query": " B. ", "duration": None})
    first, second = qvhighlights.moments(path)
    assert (first.id, first.video, first.query, first.duration, first.step) == (
        "7", "a_0.0_150.0", "A dog runs.", 126.0, 2.0)
    assert first.windows == (Segment(0, 16, sentence="A dog runs.", id="7"),)
    assert first.clips.tolist() == [0, 1]
    assert first.clips.dtype == np.int64
    assert first.saliency.tolist() == [[4, 1, 1], [4, 2, 0]]
    assert (second.id, second.query, second.windows, second.duration) == ("x_1", "B.", (), None)
    assert second.clips is second.saliency is None


def test_moments_of_predictions_keep_the_order_listed(tmp_path):
    path = save(tmp_path / "p.jsonl", answered(windows=[(4, 8, 0.1), (0, 2, 0.9)], pred_saliency_scores=[-1.5, 2, 0]),
                answered(8, ()))
    first, second = qvhighlights.moments(path)
    assert first.windows == (Segment(4, 8, score=0.1, query="A dog runs.", id="7"),
                             Segment(0, 2, score=0.9, query="A dog runs.", id="7"))
    assert first.saliency.tolist() == [-1.5, 2.0, 0.0]
    assert first.clips is first.duration is second.saliency is None
    assert second.windows == ()


@pytest.mark.parametrize("rows", [
    [asked(relevant_clip_ids=[0, 7], saliency_scores=[[4, 1], [0, 0.5]]), asked("7b", [(0.25, 3), (5, 6)])],
    [asked(windows=[], relevant_clip_ids=[], saliency_scores=[])],
    [answered(pred_saliency_scores=[0.25, -1.0]), answered("a", ())],
    [answered(windows=(), pred_saliency_scores=[1.0])],
    [],
])
def test_moments_are_written_as_they_were_read(tmp_path, rows):
    found = qvhighlights.moments(save(tmp_path / "q.jsonl", *rows))
    qvhighlights.write_moments(tmp_path / "again.jsonl", found)
    assert [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()] == rows
    assert same(qvhighlights.moments(tmp_path / "again.jsonl"), found)


@pytest.mark.parametrize(("moments", "message"), [
    ([Moments("1", "v", "q", ()), Moments("1", "w", "q", ())], "query '1' is there twice"),
    ([Moments("1", "v", "q", (Segment(0, 1),)), Moments("2", "v", "q", (Segment(0, 1, score=1),))], "without a score"),
    ([Moments("1", "v", "q", (Segment(0, 1, score=float("nan")),))], "not finite"),
    ([Moments("1", "v", "q", (Segment(0, 1, score=1),), saliency=np.zeros((2, 3)))], r"saliency of shape \(2, 3\)"),
    ([Moments("1", "v", "q", (), saliency=np.zeros((2, 3)))], r"shape \(2, 3\) for 0 clips"),
    ([Moments("1", "v", "q", (), saliency=np.zeros((2, 3)), clips=np.arange(3))], r"shape \(2, 3\) for 3 clips"),
    ([Moments("1", "v", "q", (), saliency=np.full((1, 3), np.nan), clips=np.arange(1))], "not finite"),
])
def test_moments_that_cannot_be_written(tmp_path, moments, message):
    with pytest.raises(DataError, match=message):
        qvhighlights.write_moments(tmp_path / "q.jsonl", moments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("row", "message"), [
    ("{", "no valid JSON"), ("[" * 100_000, "no valid JSON"), ('{"qid": ' + "9" * 5000 + "}", "no valid JSON"),
    ("[1]", "expected an object"), ("3", "expected an object"),
    ({"query": "q", "vid": "v"}, '"qid" must be a whole number or a text, got None'),
    (asked(1.5), '"qid" must be'), (asked(True), '"qid" must be'), (asked([1]), '"qid" must be'),
    (asked(vid=3), '"vid" must be a text'), (asked(query=" "), '"query" must be a text'),
    (asked(query=None), '"query" must be a text'),
    (asked(duration="long"), 'expected a "duration" in seconds'), (asked(duration=-1), 'expected a "duration"'),
    (asked() | {"relevant_windows": 3}, '"relevant_windows" must be a list'),
    (asked(windows=[(1, 2, 3)]), r"window 0: expected \[start, end\]"),
    (asked(windows=[(0, 1), (1, "x")]), "window 1: expected a start and an end in seconds"),
    (asked(windows=[(0, float("nan"))]), "window 0: expected a start and an end in seconds"),
    (asked(windows=[(None, 1)]), "window 0: expected a start and an end in seconds"),
    (asked(relevant_clip_ids=[0.5]), '"relevant_clip_ids" must be whole numbers'),
    (asked(relevant_clip_ids=[-1]), '"relevant_clip_ids" must be whole numbers'),
    (asked(relevant_clip_ids=["a"]), '"relevant_clip_ids" must be numbers'),
    (asked(relevant_clip_ids={"a": 1}), '"relevant_clip_ids" must be numbers'),
    (asked(relevant_clip_ids=[True]), '"relevant_clip_ids" must be numbers'),
    (asked(saliency_scores=[[1, 2, 3]]), "a row for each"),
    (asked(relevant_clip_ids=[1], saliency_scores=[[1], [2]]), "a row for each"),
    (asked(relevant_clip_ids=[1, 2], saliency_scores=[[1], [2, 3]]), '"saliency_scores" must be rows of numbers'),
    (asked(relevant_clip_ids=[1], saliency_scores=[1]), '"saliency_scores" must be rows of numbers'),
    (asked(relevant_clip_ids=[1], saliency_scores=[[None]]), '"saliency_scores" must be rows of numbers'),
    (asked(relevant_clip_ids=[1], saliency_scores=[[float("inf")]]), '"saliency_scores" must be rows of numbers'),
    (answered(windows=[(1, 2)]), r"window 0: expected \[start, end, score\]"),
    (answered(windows=[(1, 2, "x")]), "window 0: expected a score"),
    (answered(windows=[(1, 2, float("nan"))]), "window 0: expected a score"),
    (answered(pred_saliency_scores=[[1]]), '"pred_saliency_scores" must be numbers'),
    (answered(pred_saliency_scores=[10**400]), '"pred_saliency_scores" must be numbers'),
])
def test_malformed_lines_are_named(tmp_path, row, message):
    good = answered(1) if isinstance(row, dict) and "pred_relevant_windows" in row else asked(1)
    path = save(tmp_path / "q.jsonl", good, "", row)
    with pytest.raises(DataError, match=message) as error:
        qvhighlights.moments(path)
    assert f"'{path}', line 3" in str(error.value)


def test_a_qid_may_stand_once_and_a_file_is_of_one_kind(tmp_path):
    with pytest.raises(DataError, match="line 3: qid 7 stands in line 1 too"):
        qvhighlights.moments(save(tmp_path / "q.jsonl", asked(), asked(8), asked("7")))
    with pytest.raises(DataError, match=r"line 2: expected truth .* got predictions"):
        qvhighlights.moments(save(tmp_path / "q.jsonl", asked(), answered(8)))
    with pytest.raises(DataError, match="line 1: expected predictions with \"pred_relevant_windows\", got truth"):
        qvhighlights.parse_predictions(save(tmp_path / "q.jsonl", asked()), Reading())
    with pytest.raises(DataError, match="line 1: expected truth"):
        qvhighlights.parse(save(tmp_path / "q.jsonl", answered()), Reading())


def test_inverted_windows_are_dropped_and_noted(tmp_path, caplog):
    path = save(tmp_path / "p.jsonl", answered(windows=[(8, 4, 0.9), (3, 3, 0.5), (-1, 999, 0.1)]))
    reading = Reading()
    (found,) = qvhighlights.moments(path, reading)
    assert [(w.start, w.end) for w in found.windows] == [(3, 3), (-1, 999)]
    assert [(p.where, p.done) for p in reading.problems] == [(f"'{path}', line 1, window 0", "dropped")]
    with caplog.at_level(logging.WARNING, logger="cuemark"):
        qvhighlights.moments(path)
    assert len(caplog.records) == 1


# ---------------------------------------------------------------------------------------------- truth


def test_truth_of_several_queries_for_a_video(tmp_path):
    path = save(tmp_path / "highlight_val_release.jsonl", asked(7, [(0, 16), (20, 22)]),
                asked(8, [(2, 4)], vid="b", duration=10), asked(9, [(1, 3)], query="A cat."))
    assert qvhighlights.parse(path, Reading()) == {
        "a_0.0_150.0": VideoTruth(126.0, (Segment(0, 16, sentence="A dog runs.", id="7"),
                                          Segment(20, 22, sentence="A dog runs.", id="7"),
                                          Segment(1, 3, sentence="A cat.", id="9")), "validation"),
        "b": VideoTruth(10.0, (Segment(2, 4, sentence="A dog runs.", id="8"),), "validation"),
    }


def test_a_query_without_a_window_is_noted(tmp_path):
    reading = Reading(durations={"c": 5.0})
    path = save(tmp_path / "q.jsonl", asked(7, []), asked(8, [], vid="c", duration=None))
    assert qvhighlights.parse(path, reading) == {"a_0.0_150.0": VideoTruth(126.0), "c": VideoTruth(5.0)}
    assert [(p.what, p.done) for p in reading.problems] == [("has no window", "dropped")] * 2


def test_what_is_asked_without_its_moments_is_a_question_too(tmp_path):
    """The rows of the test split."""
    path = save(tmp_path / "q.jsonl", asked(7, [[2, 4]]), asked(8, []))
    (video,) = qvhighlights.queries(path).values()
    assert [(s.id, s.sentence is not None, s.start, s.end) for s in video.annotations] == [
        ("7", True, 2, 4), ("8", True, 0, 0)]


def test_one_sentence_of_two_queries_answers_both(tmp_path):
    truth = {"v": VideoTruth(9, (Segment(0, 1, sentence="Dogs.", id="7"), Segment(2, 3, sentence="Dogs.", id="9")))}
    found = {"v": [Segment(3, 4, score=1, query="Dogs.")]}
    qvhighlights.write_predictions(tmp_path / "p.jsonl", found, truth, {("v", "Dogs."): np.array([0.5, 0.25])})
    rows = qvhighlights.moments(tmp_path / "p.jsonl")
    assert [(m.id, len(m.windows), m.saliency.tolist()) for m in rows] == [("7", 1, [0.5, 0.25]), ("9", 1, [0.5, 0.25])]


def test_one_video_has_one_length(tmp_path):
    with pytest.raises(DataError, match=r"qid 8: video 'a_0.0_150.0' lasts 127 s, and 126 s in a row before"):
        qvhighlights.parse(save(tmp_path / "q.jsonl", asked(), asked(8, duration=127)), Reading())


def test_truth_is_written_with_the_clips_it_touches(tmp_path):
    dogs = Segment(1, 3, "L", sentence="Dogs.", id="5"), Segment(6.5, 20, sentence="Dogs.", id="5")
    cats = Segment(2, 4, sentence="A cat."), Segment(2, 2, sentence=" A cat.\n")
    truth = {"v": VideoTruth(9.0, dogs + cats),
             "w": VideoTruth(4.0, (Segment(0, 4, sentence="Dogs.", id="0"),)), "none": VideoTruth(3.0)}
    qvhighlights.write(tmp_path / "q.jsonl", truth)
    assert [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()] == [
        {"qid": 5, "query": "Dogs.", "duration": 9, "vid": "v", "relevant_clip_ids": [0, 1, 3, 4],
         "relevant_windows": [[1, 3], [6.5, 20]]},
        {"qid": 1, "query": "A cat.", "duration": 9, "vid": "v", "relevant_clip_ids": [1],  # 0 is taken
         "relevant_windows": [[2, 4], [2, 2]]},
        {"qid": 0, "query": "Dogs.", "duration": 4, "vid": "w", "relevant_clip_ids": [0, 1],
         "relevant_windows": [[0, 4]]},
    ]


WORDS = st.text(st.characters(exclude_categories=["C"]), min_size=1).map(str.strip).filter(bool)
WINDOWS = st.lists(st.tuples(st.floats(-5, 500), st.floats(0, 100)), min_size=1, max_size=3)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.integers(0, 99), st.tuples(st.sampled_from("abc"), WORDS, WINDOWS), max_size=6))
def test_what_is_written_is_read(tmp_path_factory, queries):
    path = tmp_path_factory.mktemp("qvh") / "q.jsonl"
    truth, found = {}, {}
    for qid, (vid, text, windows) in queries.items():
        before = truth.get(vid, VideoTruth(150.5)).annotations
        truth[vid] = VideoTruth(150.5, (*before, *(Segment(a, a + n, sentence=text, id=str(qid)) for a, n in windows)))
        found.setdefault(vid, []).extend(Segment(a, a + n, score=n, query=text, id=str(qid)) for a, n in windows)
    qvhighlights.write(path, truth)
    assert qvhighlights.parse(path, Reading()) == truth
    qvhighlights.write_predictions(path, found, truth)
    assert qvhighlights.parse_predictions(path, Reading()) == found


@pytest.mark.parametrize(("truth", "message"), [
    ({"v": VideoTruth(9, (Segment(0, 1, "Ballet"),))}, "of video 'v', .* has no sentence"),
    ({"v": VideoTruth(9, (Segment(0, 1, sentence="a", id="1"), Segment(0, 1, sentence="b", id="1")))}, "two queries"),
    ({"v": VideoTruth(9, (Segment(0, 1, sentence="a", id="1"),)),
      "w": VideoTruth(9, (Segment(0, 1, sentence="a", id="1"),))}, "id '1' is of two queries"),
    ({"v": VideoTruth(1e300, (Segment(0, 1, sentence="a"),))}, "too long to name its clips"),
])
def test_truth_that_cannot_be_written(tmp_path, truth, message):
    with pytest.raises(DataError, match=message):
        qvhighlights.write(tmp_path / "q.jsonl", truth)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- predictions


def test_predictions_keep_their_order(tmp_path):
    path = save(tmp_path / "p.jsonl", answered(7, [(4, 8, 0.1), (0, 2, 0.9)]), answered(9, [(1, 2, 0.3)], vid="b"),
                answered(8, [(5, 6, 0.7)], query="A cat."))
    found = qvhighlights.parse_predictions(path, Reading())
    assert found == {
        "a_0.0_150.0": [Segment(4, 8, score=0.1, query="A dog runs.", id="7"),
                        Segment(0, 2, score=0.9, query="A dog runs.", id="7"),
                        Segment(5, 6, score=0.7, query="A cat.", id="8")],
        "b": [Segment(1, 2, score=0.3, query="A dog runs.", id="9")],
    }


def test_predictions_find_the_ids_of_their_truth(tmp_path):
    """Truth whose sentences have no id is numbered; predictions for it get the same numbers."""
    truth = {"v": VideoTruth(9, (Segment(0, 1, sentence="Dogs."), Segment(1, 2, sentence="Cats."))),
             "w": VideoTruth(9, (Segment(0, 1, sentence="Dogs."), Segment(0, 2, sentence="Cows.", id="k")))}
    qvhighlights.write(tmp_path / "q.jsonl", truth)
    numbers = {(m.video, m.query): m.id for m in qvhighlights.moments(tmp_path / "q.jsonl")}
    found = {"w": [Segment(3, 4, score=1, query="Dogs. "), Segment(3, 4, score=1, id="k")],
             "v": [Segment(0, 1, score=0.5, query="Cats."), Segment(0, 1, score=0.5, query="Birds?"),
                   Segment(5, 6, score=0.25, query="Cats.")]}
    qvhighlights.write_predictions(tmp_path / "p.jsonl", found, truth)
    rows = qvhighlights.moments(tmp_path / "p.jsonl")
    assert [(m.video, m.query, len(m.windows)) for m in rows] == [
        ("w", "Dogs.", 1), ("w", "Cows.", 1), ("v", "Cats.", 2), ("v", "Birds?", 1)]
    assert all(m.id == numbers[m.video, m.query] for m in rows if m.query != "Birds?")
    assert len({m.id for m in rows} | set(numbers.values())) == len(numbers) + 1


@pytest.mark.parametrize(("segment", "message"), [
    (Segment(0, 1, "Ballet", 0.5), "does not say which sentence"), (Segment(0, 1, score=1, id="9"), "does not say"),
    (Segment(0, 1, score=1, query=" "), "does not say"), (Segment(0, 1, query="q"), "has no score"),
])
def test_predictions_that_cannot_be_written(tmp_path, segment, message):
    with pytest.raises(DataError, match=message):
        qvhighlights.write_predictions(tmp_path / "p.jsonl", {"v": [segment]}, {})
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- real files


def test_the_official_truth(tmp_path):
    path = shared("annotations/qvhighlights/highlight_val_release.jsonl")
    found = qvhighlights.moments(path)
    assert len(found) == 1_550
    assert len({m.video for m in found}) == 1_519
    assert sum(len(m.windows) for m in found) == 2_803
    assert max(len(m.windows) for m in found) == 25
    assert sum(m.duration < 150 for m in found) == 39
    assert min(m.duration for m in found) == 120
    assert all(m.saliency.shape == (len(m.clips), 3) for m in found)
    assert {x for m in found for x in np.unique(m.saliency)} == {0, 1, 2, 3, 4}

    qvhighlights.write_moments(tmp_path / "all.jsonl", found)
    assert (tmp_path / "all.jsonl").read_text().splitlines() == path.read_text().splitlines()

    truth = qvhighlights.parse(path, Reading())
    assert (len(truth), sum(len(v.annotations) for v in truth.values())) == (1_519, 2_803)
    assert {v.subset for v in truth.values()} == {"validation"}
    qvhighlights.write(tmp_path / "q_val.jsonl", truth)
    ours, official = ({r["qid"]: r for r in map(json.loads, p.read_text().splitlines())}
                      for p in (tmp_path / "q_val.jsonl", path))
    for row in official.values():
        del row["saliency_scores"]
    assert ours == official  # clips too
    assert qvhighlights.parse(tmp_path / "q_val.jsonl", Reading()) == truth


@pytest.mark.parametrize("name", ["qddetr_QDDETR_onlyclip_best_hl_val_preds.jsonl",
                                  "moment_detr/sample_val_preds.jsonl"])
def test_real_predictions(name, tmp_path):
    path = shared(f"predictions/qvhighlights/{name}")
    found = qvhighlights.moments(path)
    truth = qvhighlights.moments(shared("annotations/qvhighlights/highlight_val_release.jsonl"))
    assert {m.id for m in found} == {m.id for m in truth}
    assert {len(m.windows) for m in found} == {10}
    assert {m.saliency.ndim for m in found} == {1}
    qvhighlights.write_moments(tmp_path / "p.jsonl", found)
    assert [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()] == [
        json.loads(line) for line in path.read_text().splitlines()]
    predictions = qvhighlights.parse_predictions(path, Reading())
    assert sum(map(len, predictions.values())) == 15_500
    assert predictions[found[0].video][:10] == list(found[0].windows)


# ---------------------------------------------------------------------------------------------- recognising


@pytest.mark.parametrize(("head", "kind"), [
    (json.dumps(asked()), "truth"),
    (json.dumps(asked(), separators=(",", ":")) + "\n" + json.dumps(asked()), "truth"),
    (json.dumps({"qid": "x", "query": "q", "vid": "v"}), "truth"),
    (json.dumps(answered())[:-10], "predictions"),
    ("\ufeff\n" + json.dumps(answered()), "predictions"),
    (json.dumps(asked(), indent=1), None),
    (json.dumps([asked()]), None),
    (json.dumps({"database": {"v": asked()}}), None),
    (json.dumps({"results": {"v": [{"segment": [0, 1], "query": "q"}]}}), None),
    ('{"video": "a", "start": 0, "end": 1, "label": "x"}', None),
    ("qid,query,vid\n", None), ("", None),
])
def test_looks(tmp_path, head, kind):
    assert qvhighlights.looks(tmp_path / "q.jsonl", head) == kind
