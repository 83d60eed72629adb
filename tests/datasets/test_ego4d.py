"""Ego4D's Moment Queries: clips, annotators and primary labels."""

from __future__ import annotations

import copy
import json

import pytest
from hostile import NAMES, broken_json, survives, truths
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import ego4d
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

FORMAT = ego4d.FORMAT


def moment(start, end, label="use_phone", primary=True, offset=1082.0, **more):
    return {"start_time": start, "end_time": end, "video_start_time": start + offset, "video_end_time": end + offset,
            "label": label, "primary": primary, **more}


DATA = {"version": "1", "videos": [
    {"video_uid": "V", "split": "val", "clips": [
        {"clip_uid": "c1", "video_start_sec": 1082.0, "video_end_sec": 1562.0, "video_start_frame": 32460,
         "video_end_frame": 46860, "annotations": [
             {"annotator_uid": "x", "labels": [moment(434.25, 471.5), moment(1, 2, "watch_television", False)]},
             {"annotator_uid": "y", "labels": [moment(434.5, 481.0)]}]},
        {"clip_uid": "c2", "video_start_sec": -0.5, "video_end_sec": 8.0, "annotations": []}]},
    {"video_uid": "W", "split": "train", "clips": [{"clip_uid": "c3", "video_start_sec": 0, "video_end_sec": 9}]},
    {"video_uid": "X", "split": "test", "clips": []}]}
MOMENTS = (Segment(434.25, 471.5, "use_phone"), Segment(434.5, 481.0, "use_phone"))
TRUTH = {"c1": VideoTruth(480.0, MOMENTS, "validation", 30.0),
         "c2": VideoTruth(8.0, (), "validation"), "c3": VideoTruth(9.0, (), "training")}


def saved(path, data=DATA):
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def changed(**fields):
    """The data with fields of the first clip, or with ``moments``, its first annotator's."""
    data = copy.deepcopy(DATA)
    clip = data["videos"][0]["clips"][0]
    if "moments" in fields:
        clip["annotations"][0]["labels"] = fields.pop("moments")
    clip |= fields
    return data


def test_a_clip_is_a_video_and_primary_labels_count(tmp_path):
    reading = Reading()
    assert FORMAT.parse(saved(tmp_path / "moments_val.json"), reading) == TRUTH
    assert reading.problems == []


def test_times_of_the_video_are_used_where_those_of_the_clip_are_missing(tmp_path):
    item = moment(434.25, 471.5)
    del item["start_time"]
    truth = FORMAT.parse(saved(tmp_path / "m.json", changed(moments=[item])), Reading())
    assert truth["c1"].annotations[0] == Segment(434.25, 471.5, "use_phone")


def test_inverted_moments_are_dropped(tmp_path):
    path = saved(tmp_path / "m.json", changed(moments=[moment(3, 2), moment(4, 5)]))
    reading = Reading()
    assert FORMAT.parse(path, reading)["c1"].annotations == (Segment(4, 5, "use_phone"), TRUTH["c1"].annotations[1])
    assert [(p.where, p.done) for p in reading.problems] == [
        (f"'{path}', clip 'c1', annotation 0, label 0", "dropped")]


def test_a_clip_that_is_listed_again(tmp_path):
    data = copy.deepcopy(DATA)
    data["videos"][0]["clips"].append(copy.deepcopy(data["videos"][0]["clips"][0]))
    truth = FORMAT.parse(saved(tmp_path / "m.json", data), Reading())
    assert truth["c1"].annotations == TRUTH["c1"].annotations * 2
    data["videos"][0]["clips"][-1]["video_end_sec"] = 1563.0
    with pytest.raises(DataError, match="clip 'c1': it is listed twice, with other times or another split"):
        FORMAT.parse(saved(tmp_path / "m.json", data), Reading())


@pytest.mark.parametrize(("data", "message"), [
    ([], r"m\.json' has no list of \"videos\""), ({"videos": {}}, 'has no list of "videos"'),
    ({"videos": [3]}, "videos: expected a list of objects"),
    ({"videos": [{"clips": 3}]}, "video 0, clips: expected a list of objects, got 3"),
    ({"videos": [{"clips": [{}]}]}, "video 0, clip 0: expected a \"clip_uid\", got 'None'"),
    (changed(video_start_sec=None), "clip 'c1': expected \"video_start_sec\" in seconds, got 'None'"),
    (changed(video_end_sec=1), "clip 'c1': it ends before it begins"),
    (changed(video_start_frame="x"), "clip 'c1': expected \"video_start_frame\", got 'x'"),
    (changed(annotations=[{"labels": {}}]), "clip 'c1', annotation 0: expected a list of objects"),
    (changed(moments=[moment(1, 2, None)]), 'annotation 0, label 0: expected a "label" and a "primary"'),
    (changed(moments=[moment(1, 2, primary="yes")]), "got 'use_phone' and yes"),
    (changed(moments=[moment(1, 2) | {"end_time": "x"}]), "expected a start and an end in seconds, got '1' and 'x'"),
    (changed(moments=[{"label": "x"}]), 'label 0: expected "video_start_time" in seconds, got \'None\''),
])
def test_malformed_files(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        FORMAT.parse(saved(tmp_path / "m.json", data), Reading())


def test_broken_files_are_read_or_refused(tmp_path):
    read, refused = survives(tmp_path / "m.json", broken_json(DATA), FORMAT.parse)
    assert read > 50
    assert refused > 50


@settings(max_examples=50, deadline=None)
@given(truth=truths(NAMES, NAMES, ("training", "validation", "testing", "other"), st.none() | st.just(32.0)))
def test_what_is_written_is_read(tmp_path_factory, truth):
    path = tmp_path_factory.mktemp("ego4d") / "m.json"
    FORMAT.write(path, truth)
    again = FORMAT.parse(path, Reading())
    assert {vid: (v.duration, v.annotations, v.subset) for vid, v in again.items()} == {
        vid: (v.duration, v.annotations, v.subset) for vid, v in truth.items()}
    for vid, v in again.items():  # the rate is told to the nearest frame of the clip
        if v.fps is not None:
            assert abs(v.fps - 32.0) * v.duration <= 0.5 + 1e-9
        else:
            assert truth[vid].fps is None or truth[vid].duration * 32 < 0.5 + 1e-9


def test_official_names_of_splits_are_written(tmp_path):
    FORMAT.write(tmp_path / "m.json", TRUTH)
    data = json.loads((tmp_path / "m.json").read_text())
    assert [v["split"] for v in data["videos"]] == ["val", "val", "train"]
    assert FORMAT.parse(tmp_path / "m.json", Reading()) == TRUTH
    with pytest.raises(DataError, match="video 'a' has an annotation without a label, which Ego4D's file cannot hold"):
        FORMAT.write(tmp_path / "n.json", {"a": VideoTruth(9.0, (Segment(1, 2),))})
    assert not (tmp_path / "n.json").exists()


@pytest.mark.parametrize(("name", "head", "kind"), [
    ("x.json", json.dumps(DATA), "truth"),
    ("moments_test_unannotated.json", '{"videos": [{"video_uid": "a", "clips": [{"clip_uid": "b"}]}]}', "truth"),
    ("x.json", '{"videos": [{"video_uid": "a", "clips": [{"clip_uid": "b"}]}]}', None),
    ("nlq_val.json", '{"videos": [{"video_uid": "a", "clips": [{"clip_uid": "b", "annotations": [{"language_queries": '
                     '[{"primary": true}]}]}]}]}', None),
    ("x.json", '{"videos": []}', None), ("x.json", "", None)])
def test_whose_file_it_is(tmp_path, name, head, kind):
    assert FORMAT.looks(tmp_path / name, head) == kind
