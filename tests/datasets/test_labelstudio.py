"""Label Studio's timeline labels."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets.format import Reading
from cuemark.datasets.labelstudio import (
    looks,
    parse,
    parse_predictions,
    write,
    write_predictions,
)
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth


def region(first: int, last: int, *labels: str, **more) -> dict:
    return {"original_length": 20.0, "value": {"ranges": [{"start": first, "end": last}],
                                               "timelinelabels": list(labels)},
            "id": f"r{first}", "from_name": "videoLabels", "to_name": "video", "type": "timelinelabels",
            "origin": "manual"} | more


# as Export > JSON writes it
EXPORT = [
    {"id": 1, "annotations": [
        {"id": 7, "completed_by": 1, "was_cancelled": True, "ground_truth": False, "result": [region(1, 2, "no")]},
        {"id": 8, "completed_by": 2, "was_cancelled": False, "ground_truth": False,
         "created_at": "2026-01-31T08:00:00Z", "lead_time": 12.3, "prediction": {}, "task": 1, "result": [
             region(1, 1, "click"), region(301, 450, "pour", "spill"),
             {"value": {"choices": ["night"]}, "id": "c", "from_name": "light", "to_name": "video",
              "type": "choices"}]},
        {"id": 9, "completed_by": 3, "was_cancelled": False, "ground_truth": False, "result": []}],
     "file_upload": "1a2b3c4d-kitchen_01.mp4", "drafts": [], "predictions": [],
     "data": {"video": "/data/upload/3/1a2b3c4d-kitchen_01.mp4"}, "meta": {}, "inner_id": 1, "project": 3},
    {"id": 2, "annotations": [], "predictions": [], "data": {"video": "/data/upload/3/99999999-kitchen_02.mp4"}},
    {"id": 3, "annotations": [{"id": 10, "was_cancelled": False, "result": []}], "predictions": [],
     "data": {"video": "s3://bucket/clips/kitchen%2003.mp4", "fps": 50, "duration": 12, "subset": "val"}},
]


def saved(tmp_path: Path, data) -> Path:
    path = tmp_path / "export.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_an_export(tmp_path):
    path = saved(tmp_path, EXPORT)
    assert looks(path, path.read_text()) == "truth"
    reading = Reading(fps=25)
    assert parse(path, reading) == {
        "kitchen_01": VideoTruth(18.0, (Segment(0, 0.04, "click"), Segment(12, 18, "pour"), Segment(12, 18, "spill"))),
        "kitchen 03": VideoTruth(12.0, (), "validation", 50.0)}
    assert [(p.where.split(", ", 1)[1], p.what) for p in reading.problems] == [
        ("task 0, annotation 0", "was cancelled"), ("task 0", "2 annotations; the first is read"),
        ("task 1", "has no annotation")]


def test_ground_truth_goes_before_the_first(tmp_path):
    export = copy.deepcopy(EXPORT[:1])
    export[0]["annotations"][2].update(ground_truth=True, result=[region(26, 50, "stir")])
    reading = Reading(fps=25)
    assert parse(saved(tmp_path, export), reading)["kitchen_01"].annotations == (Segment(1, 2, "stir"),)
    assert "ground truth" in reading.problems[-1].what


def test_the_rate_of_a_task_goes_before_the_one_said(tmp_path):
    export = copy.deepcopy(EXPORT[:1])
    export[0]["data"]["fps"] = "10"
    assert parse(saved(tmp_path, export), Reading(fps=25))["kitchen_01"] == VideoTruth(
        45.0, (Segment(0, 0.1, "click"), Segment(30, 45, "pour"), Segment(30, 45, "spill")), fps=10.0)


def test_the_smaller_export(tmp_path):
    row = {"video": "/data/upload/3/1a2b3c4d-kitchen_01.mp4", "id": 1, "annotator": 1, "annotation_id": 7,
           "videoLabels": [{"ranges": [{"start": 301, "end": 450}], "timelinelabels": ["pour"]}]}
    path = saved(tmp_path, [row, row | {"annotation_id": 8, "videoLabels": []}])
    assert looks(path, path.read_text()) == "truth"
    reading = Reading(fps=25)
    assert parse(path, reading) == {"kitchen_01": VideoTruth(18.0, (Segment(12, 18, "pour"),))}
    assert "a further annotation" in reading.problems[0].what


@pytest.mark.parametrize(("data", "vid"), [
    ({"video": "/data/local-files/?d=clips/a%20b.mp4"}, "a b"), ({"video": "https://x.org/v/a.webm?token=1"}, "a"),
    ({"video": "a#1.mp4"}, "a#1"), ({"video": "/data/upload/1/1a2b3c4d-a.mp4", "video_id": "mine.v2"}, "mine.v2"),
    ({"clip": "gs://b/a.mov", "note": "a note"}, "a"), ({"video": "1a2b3c4d-a.mp4"}, "1a2b3c4d-a"),
    ({"video": "http://[x/a.mp4"}, "a")])
def test_names_of_videos(tmp_path, data, vid):
    task = {"data": data, "annotations": [{"result": []}]}
    assert list(parse(saved(tmp_path, [task]), Reading())) == [vid]
    assert list(parse(saved(tmp_path, task), Reading())) == [vid]  # one task alone


def test_predictions(tmp_path):
    export = [{"data": {"video": "v.mp4", "fps": 25}, "predictions": [
        {"model_version": "a", "score": 0.5, "result": [region(1, 25, "pour", score=0.9), region(26, 50, "stir")]},
        {"model_version": "b", "result": []}]}, {"data": {"video": "w.mp4"}, "annotations": [{"result": []}]}]
    path = saved(tmp_path, export)
    assert looks(path, json.dumps(export[:1])) == "predictions"
    reading = Reading()
    assert parse_predictions(path, reading) == {"v": [Segment(0, 1, "pour", 0.9), Segment(1, 2, "stir", 0.5)]}
    assert [p.what for p in reading.problems] == ["2 predictions; the first is read"]


times = st.integers(0, 10**5)
cuts = st.tuples(times, times, st.sampled_from(("pour", "stir", "ü"))).map(
    lambda t: Segment(min(t[:2]) / 25, (max(t[:2]) + 1) / 25, t[2]))
truths = st.dictionaries(st.sampled_from(("v", "a b", "w.v2", "é&?")), st.builds(
    VideoTruth, st.floats(5000, 6000), st.lists(cuts, max_size=4).map(tuple), st.sampled_from(("testing", "fold")),
    st.just(25.0)), min_size=1)


@settings(max_examples=40, deadline=None)
@given(truth=truths)
def test_round_trip(truth, tmp_path_factory):
    path = tmp_path_factory.mktemp("ls") / "t.json"
    write(path, truth)
    reading = Reading()
    assert parse(path, reading) == truth
    assert not reading.problems


def test_predictions_come_back_as_annotations_to_correct(tmp_path):
    truth = {"v": VideoTruth(60.0, fps=25.0)}
    predictions = {"v": [Segment(12, 18, "pour", 0.75), Segment(20, 21, "stir", 0.25), Segment(0, 1, "mix")]}
    write_predictions(tmp_path / "p.json", predictions, truth)
    assert looks(tmp_path / "p.json", (tmp_path / "p.json").read_text()) == "predictions"
    (task,) = json.loads((tmp_path / "p.json").read_text())
    assert task["data"] == {"video": "/data/local-files/?d=v.mp4", "video_id": "v", "fps": 25.0, "duration": 60.0,
                            "subset": "training"}
    assert "annotations" not in task
    (made,) = task["predictions"]
    assert made["model_version"] == "cuemark"
    assert made["score"] == 0.5
    assert made["result"][0] == {"id": "000000", "type": "timelinelabels", "from_name": "videoLabels",
                                 "to_name": "video", "score": 0.75,
                                 "value": {"ranges": [{"start": 301, "end": 450}], "timelinelabels": ["pour"]}}
    back = parse_predictions(tmp_path / "p.json", Reading())["v"]
    assert back[:2] == predictions["v"][:2]
    assert back[2] == Segment(0, 1, "mix", 0.5)  # a segment without a score has the task's


@pytest.mark.parametrize(("truth", "message"), [
    ({"v": VideoTruth(9.0, (Segment(0, 1, "a"),))}, "video 'v' has no frame rate"),
    ({"v": VideoTruth(9.0, fps=0.0)}, "video 'v' cannot have 0.0 frames a second"),
    ({"v": VideoTruth(9.0, (Segment(0, 1, sentence="a"),), fps=25.0)}, "video 'v' has an annotation without a label"),
])
def test_what_cannot_be_written(tmp_path, truth, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path / "t.json", truth)
    with pytest.raises(DataError, match=message):
        write_predictions(tmp_path / "t.json", {"v": list(truth["v"].annotations)}, truth)
    with pytest.raises(DataError, match="video 'w' has no frame rate"):
        write_predictions(tmp_path / "t.json", {"w": []}, {})
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------- malformed


def test_inverted_ranges_and_frame_0(tmp_path):
    task = {"data": {"video": "v.mp4"}, "annotations": [{"result": [
        region(5, 4, "a"), region(0, 50, "b"), region(-9, -8, "c")]}]}
    reading = Reading(fps=25)
    assert parse(saved(tmp_path, [task]), reading)["v"].annotations == (Segment(0, 2, "b"), Segment(0, 0.04, "c"))
    assert [p.done for p in reading.problems] == ["dropped", "clipped", "clipped"]


def one(**value) -> list:
    return [{"data": {"video": "v.mp4"}, "annotations": [{"result": [{"type": "timelinelabels", "value": value}]}]}]


@pytest.mark.parametrize(("data", "message"), [
    ("{", "not valid JSON"), ("", "not valid JSON"), ("3", "expected a list of tasks"),
    ("[1]", "expected a list of tasks"),
    ([{"data": {}, "annotations": []}], "task 0: cannot tell which video this is"),
    ([{"data": 3}], '"data" should be an object'),
    ([{"data": {"video": "v.mp4", "fps": "x"}, "annotations": [{"result": []}]}], '"fps" to be a number'),
    ([{"data": {"video": "v.mp4", "fps": -1}, "annotations": [{"result": []}]}], '"fps" of the data is -1'),
    ([{"data": {"video": "v.mp4"}, "annotations": 3}], "expected a list of objects"),
    ([{"data": {"video": "v.mp4"}, "annotations": [{"result": {}}]}, 0], "expected a list of tasks"),
    ([{"data": {"video": "v.mp4"}, "annotations": [{"result": {"a": 1}}]}], "expected a list of objects"),
    ([EXPORT[2], EXPORT[2]], "task 1: video 'kitchen 03' has a task before this one"),
    (one(), 'expected a value with "ranges"'),
    (one(ranges=3, timelinelabels=["a"]), 'expected a value with "ranges"'),
    (one(ranges=[], timelinelabels=[3]), 'expected a value with "ranges"'),
    (one(ranges=[[1, 2]], timelinelabels=["a"]), "a range should be"),
    (one(ranges=[{"start": 1, "end": None}], timelinelabels=["a"]), "a range should be"),
    (one(ranges=[{"start": "x", "end": 2}], timelinelabels=["a"]), '"start" to be a number'),
    (one(ranges=[{"start": 1, "end": 10**400}], timelinelabels=["a"]), '"end" to be a number'),
])
def test_malformed(tmp_path, data, message):
    path = saved(tmp_path, data)
    with pytest.raises(DataError) as error:
        parse(path, Reading(fps=25))
    assert message in str(error.value)
    assert "export.json" in str(error.value)


def test_without_a_rate(tmp_path):
    with pytest.raises(DataError, match="say so with --fps"):
        parse(saved(tmp_path, EXPORT), Reading())


def test_malformed_predictions(tmp_path):
    for data, message in ((3, "expected a list of tasks"), ([{"data": 3, "predictions": []}], '"data" should be'),
                          ([{"data": {"video": "v.mp4"}, "predictions": [3]}], "expected a list of objects")):
        with pytest.raises(DataError, match=message):
            parse_predictions(saved(tmp_path, json.dumps(data)), Reading(fps=25))
    task = {"data": {"video": "v.mp4"}, "predictions": [{"result": [region(1, 2, "a")]}]}
    with pytest.raises(DataError, match="has a task before"):
        parse_predictions(saved(tmp_path, [task, task]), Reading(fps=25))


@pytest.mark.parametrize("head", [
    '{"database": {"v": {"annotations": [{"segment": [1, 2], "label": "a"}]}}}',
    '[{"data": {"image": "a.png"}, "annotations": [{"result": [{"type": "rectanglelabels"}]}]}]',
    "timelinelabels", '<timelinelabels/>'])
def test_looks_at_other_files(tmp_path, head):
    assert looks(tmp_path / "a.json", head) is None
