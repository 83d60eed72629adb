"""ActivityNet's JSON under its several spellings."""

from __future__ import annotations

import csv
import json
from collections import Counter

import numpy as np
import pytest
from conftest import shared
from hostile import NAMES, broken_json, survives, truths
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import activitynet, bmn, coin, ego4d, epic, files, kinetics, multithumos, thumos, tsp
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import UNLABELLED, Segment, VideoTruth, labels_of, read_truth, times


def save(path, database):
    path.write_text(json.dumps({"version": "VERSION 1.3", "database": database}), encoding="utf-8")
    return path


def test_ids_and_splits_get_their_official_names(tmp_path):
    path = save(tmp_path / "t.json", {
        "v_a": {"subset": "train", "duration": 9.0, "annotations": [{"segment": [1, 2], "label": "Ballet"}]},
        "v_b": {"subset": "Validation", "duration": 8.0, "annotations": []},
        "v_c": {"subset": "val", "duration": 7.0, "annotations": []},
        "v_d": {"subset": "Test", "duration": 7.0, "annotations": []},
        "v_e": {"subset": "Novel", "duration": 7.0, "annotations": []},
    })
    truth = activitynet.parse(path)
    assert truth["a"] == VideoTruth(9.0, (Segment(1.0, 2.0, "Ballet"),), "training")
    assert {vid: v.subset for vid, v in truth.items()} == {
        "a": "training", "b": "validation", "c": "validation", "d": "testing", "e": "Novel"}


def test_round_trip(tmp_path):
    truth = {"a": VideoTruth(9.0, (Segment(1.0, 2.0, "Ballet"), Segment(3.5, 3.5, "Archery")), "training", 30.0),
             "b": VideoTruth(4.0, (), "testing")}
    activitynet.write(tmp_path / "t.json", truth)
    assert activitynet.parse(tmp_path / "t.json") == truth
    data = json.loads((tmp_path / "t.json").read_text())
    assert [node["nodeName"] for node in data["taxonomy"]] == ["Root", "Archery", "Ballet"]


def test_the_prefix_goes_only_where_all_have_it(tmp_path):
    entries = {"v_a": {"duration": 1}, "v_v_b": {"duration": 1}}
    assert list(activitynet.parse(save(tmp_path / "t.json", entries))) == ["a", "v_b"]
    assert list(activitynet.parse(save(tmp_path / "t.json", entries | {"c": {"duration": 1}}))) == ["v_a", "v_v_b", "c"]


def test_a_malformed_file_is_named(tmp_path):
    path = save(tmp_path / "t.json", {"v_a": {"duration": 1, "annotations": [{"segment": [2, 1]}]}})
    with pytest.raises(DataError, match=r"t\.json', video 'v_a', annotation 0: segment ends before it starts"):
        activitynet.parse(path)


def test_real_thumos_in_this_layout():
    truth = activitynet.parse(shared("annotations/gtad/thumos_gt.json"))
    assert Counter(v.subset for v in truth.values()) == {"training": 200, "testing": 210}
    assert len(labels_of(truth)) == 20


def test_activitynet_rebuilt_from_bmn_agrees_with_tsp(tmp_path):
    """BMN's release has ids with ``v_``, TSP's has them without: after parsing they meet."""
    bmn = json.loads(shared("annotations/bmn/anet_anno_action.json").read_text())
    truth = activitynet.parse(save(tmp_path / "t.json", {
        vid: {"duration": v["duration_second"], "annotations": v["annotations"]} for vid, v in bmn.items()}))
    assert len(truth) == len(bmn)
    rows: dict[str, list[Segment]] = {}
    with open(shared("annotations/tsp/activitynet/activitynet_v1-3_valid_tsp_groundtruth.csv"), newline="") as file:
        for row in csv.DictReader(file):
            if row["temporal-region-label"] == "Action":
                segment = Segment(float(row["t-start"]), float(row["t-end"]), row["action-label"])
                rows.setdefault(row["video-name"], []).append(segment)
    both = sorted(truth.keys() & rows.keys())
    assert len(both) == 4_728  # the videos of the validation split that BMN has features of
    ours = [s for vid in both for s in sorted(truth[vid].annotations, key=lambda s: (s.start, s.end))]
    theirs = [s for vid in both for s in sorted(rows[vid], key=lambda s: (s.start, s.end))]
    assert [s.label for s in ours] == [s.label for s in theirs]
    np.testing.assert_allclose(times(ours), times(theirs), atol=1e-9)


# ---------------------------------------------------------------------------------------------- as a format

ACTIVITYNET, CUEMARK = activitynet.FORMATS


def saved(path, data):
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_a_reading_notes_what_it_drops(tmp_path):
    path = save(tmp_path / "t.json", {"v_a": {"duration": 9, "annotations": [
        {"segment": [2, 1], "label": "x"}, {"segment": [3, 3], "label": "y"}, {"segment": [8, 12], "label": "y"}]}})
    reading = Reading()
    assert ACTIVITYNET.parse(path, reading) == {"a": VideoTruth(9.0, (Segment(3, 3, "y"), Segment(8, 12, "y")))}
    problem, = reading.problems
    assert (problem.where, problem.what, problem.done) == (
        f"'{path}', video 'v_a', annotation 0", "ends before it starts: [2, 1]", "dropped")


def test_a_reading_knows_lengths_and_splits_that_files_do_not_tell(tmp_path):
    path = save(tmp_path / "t.json", {
        "v_a": {"annotations": [{"segment": ["2", "4"]}]}, "v_b": {"annotations": [{"segment": [2, 3]}]},
        "v_c": {"duration": 5, "subset": "Test"}})
    reading = Reading(durations={"a": 7.5, "c": 99.0}, subset="validation")
    assert {vid: (v.duration, v.subset) for vid, v in ACTIVITYNET.parse(path, reading).items()} == {
        "a": (7.5, "validation"), "b": (3.0, "validation"), "c": (5.0, "testing")}


def test_predictions(tmp_path):
    path = saved(tmp_path / "p.json", {"version": "VERSION 1.3", "external_data": {}, "results": {
        "v_b": [{"label": "x", "score": 0.25, "segment": [1, 2]}, {"score": 0.5, "segment": [3, 2]},
                {"score": 0.75, "segment": ["0", "2"]}], "v_a": []}})
    reading = Reading()
    found = ACTIVITYNET.parse_predictions(path, reading)
    assert found == {"b": [Segment(1, 2, "x", 0.25), Segment(0, 2, None, 0.75)], "a": []}
    assert [(p.where, p.done) for p in reading.problems] == [(f"'{path}', video 'v_b', prediction 1", "dropped")]
    ACTIVITYNET.write_predictions(tmp_path / "again.json", found, {})
    assert activitynet.parse_predictions(tmp_path / "again.json") == found
    assert json.loads((tmp_path / "again.json").read_text())["results"]["b"][1]["label"] == UNLABELLED
    with pytest.raises(DataError, match="prediction 1: segment ends before it starts"):
        activitynet.parse_predictions(path)


@pytest.mark.parametrize(("read", "text"), [
    ("parse", '{"database": {"a": {"duration": 1}, "b": {}, "a": {}}}'),
    ("parse_predictions", '{"results": {"a": [], "b": [], "a": []}}')])
def test_a_video_that_is_there_twice_is_refused(tmp_path, read, text):
    path = saved(tmp_path / "t.json", text)
    for one in (ACTIVITYNET, CUEMARK):
        with pytest.raises(DataError, match=r't\.json\' has the key "a" twice in one object'):
            getattr(one, read)(path, Reading())


def test_a_byte_order_mark_means_nothing(tmp_path):
    path = saved(tmp_path / "t.json", '\ufeff{"database": {"v_a": {"duration": 2}}}')
    assert ACTIVITYNET.parse(path, Reading()) == {"a": VideoTruth(2.0)}
    assert ACTIVITYNET.looks(path, path.read_text(encoding="utf-8")) == "truth"


def test_cuemarks_own_files_are_left_as_they_are(tmp_path):
    segments = (Segment(1, 2, "x", 0.5, "a sentence", "a query", "7"), Segment(3, 4))
    truth = {"v_a": VideoTruth(9.0, segments, "val", 25.0),
             "v_b": VideoTruth(1.0, (), "Novel")}
    CUEMARK.write(tmp_path / "t.json", truth)
    assert CUEMARK.parse(tmp_path / "t.json", Reading()) == truth
    assert set(ACTIVITYNET.parse(tmp_path / "t.json", Reading())) == {"a", "b"}
    predictions = {"v_a": [Segment(1, 2, "x", 0.5, query="q", id="7"), Segment(1, 2, None, 1.0)]}
    CUEMARK.write_predictions(tmp_path / "p.json", predictions, truth)
    assert CUEMARK.parse_predictions(tmp_path / "p.json", Reading()) == predictions


@settings(max_examples=50, deadline=None)
@given(truth=truths(st.none() | NAMES, st.text("v_ab", max_size=4), ("training", "testing", "other"),
                    st.none() | st.just(29.97), sentence=st.none() | NAMES))
def test_any_truth_survives_cuemarks_own(tmp_path_factory, truth):
    path = tmp_path_factory.mktemp("own") / "t.json"
    CUEMARK.write(path, truth)
    assert CUEMARK.parse(path, Reading()) == truth
    bare = files.bare_ids(truth)
    assert ACTIVITYNET.parse(path, Reading()) == {bare[vid]: v for vid, v in truth.items()}


def test_broken_files_are_read_or_refused(tmp_path):
    truth = {"database": {"v_a": {"subset": "val", "duration": 3, "fps": 25, "annotations": [
        {"segment": [1, 2.5], "label": "x", "score": 0.5, "sentence": "s", "id": "1"}]}}}
    read, refused = survives(tmp_path / "t.json", broken_json(truth), ACTIVITYNET.parse)
    assert read > 10
    assert refused > 10
    predictions = {"results": {"v_a": [{"segment": [1, 2.5], "label": "x", "score": 0.5, "query": "q"}]}}
    read, refused = survives(tmp_path / "t.json", broken_json(predictions), CUEMARK.parse_predictions)
    assert read > 10
    assert refused > 10


# ---------------------------------------------------------------------------------------------- whose file is it?

OURS = (*activitynet.FORMATS, tsp.FORMAT, bmn.FORMAT, *thumos.FORMATS, multithumos.FORMAT, *epic.FORMATS, ego4d.FORMAT,
        coin.FORMAT, kinetics.FORMAT)


def guesses(path):
    head = "" if path.is_dir() else path.read_bytes()[:65536].decode("utf-8", errors="replace")
    return [(f.name, kind) for f in OURS if (kind := f.looks(path, head)) is not None]


@pytest.mark.parametrize(("path", "name"), [
    ("gtad/thumos_gt.json", "activitynet"), ("thumos14/gt_activitynet_format.json", "activitynet"),
    ("thumos14/rc3d_thumos14_gt_test.json", "activitynet"),
    ("../predictions/activitynet/sample_detection_prediction.json", "activitynet"),
    ("tsp/activitynet/activitynet_v1-3_train_tsp_groundtruth.csv", "tsp"),
    ("tsp/thumos14/thumos14_test_tsp_groundtruth.csv", "tsp"), ("tsp/thumos14", "tsp"),
    ("bmn/anet_anno_action.json", "bmn"), ("bmn/video_info_new.csv", "bmn"), ("bmn", "bmn"),
    ("thumos14", "thumos"), ("thumos14/temporal_annotations_test", "thumos"),
    ("thumos14/temporal_annotations_test/Ambiguous_test.txt", "thumos"),
    ("gtad/val_Annotation.csv", "thumos-gtad"), ("gtad/thumos14_test_groundtruth.csv", "thumos-groundtruth"),
    ("multithumos.json", "multithumos"),
])
def test_real_files_are_recognised_by_one_format(path, name):
    assert guesses(shared(f"annotations/{path}")) == [(name, "predictions" if "predictions" in path else "truth")]


@pytest.mark.parametrize("path", [
    "2d-tan/ActivityNet/val.json", "2d-tan/Charades-STA/Charades_v1_test.csv",
    "2d-tan/Charades-STA/charades_sta_test.txt",
    "2d-tan/TACoS/val.json", "activitynet_few_shot_classes.json", "bmn/action_name.csv", "bmt_val_1_no_missings.json",
    "didemo/val_data.json", "gebd_tapos_val.csv", "nextgqa/gsub_val.json", "qvhighlights/highlight_val_release.jsonl",
    "detad/thumos14_test_extra_characteristics.json", "thumos14/th14_val_durations.txt", "2d-tan", "didemo",
    "tsp/activitynet/activitynet_v1-3_valid_metadata.csv", "tsp/thumos14/thumos14_action_label_mapping.json",
    "../predictions/captions/bmt_val_1.json", "../predictions/qvhighlights/moment_detr/sample_val_preds.jsonl",
    "zero_shot_splits",
])
def test_real_files_of_others_are_not(path):
    assert guesses(shared(f"annotations/{path}")) == []


@pytest.mark.parametrize(("head", "expected"), [
    ('{"version": "cuemark 1", "database": {}}', [("cuemark", "truth")]),
    ('{\n  "version": "cuemark 1",\n  "results": {}, "external_data": {}}', [("cuemark", "predictions")]),
    ('{"results": {"a": []}, "version": "VERSION 1.3"}', [("activitynet", "predictions")]),
    ('{"database": {"--0edUL8zmA": {"annotations": [{"label": "Dodgeball", "segment": [5.40, 11.60]}]}}}',
     [("activitynet", "truth")]),
    ('{"results": {"v_a": [{"sentence": "s", "timestamp": [0, 1]}]}}', []),
    ('[{"database": {}}]', []), ('{"databases": 3}', []), ('{"results": [1]}', []), ("", []), ("\0\0", []),
])
def test_beginnings(tmp_path, head, expected):
    assert guesses(saved(tmp_path / "x.json", head)) == expected


def test_the_reading_of_the_written_is_that_of_the_official_layout(tmp_path):
    """``segments.read_truth`` without options reads what ``activitynet.write`` writes."""
    truth = {"a": VideoTruth(9.0, (Segment(1, 2, "x"),))}
    activitynet.write(tmp_path / "t.json", truth)
    assert read_truth(tmp_path / "t.json") == truth
