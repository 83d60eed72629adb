"""ActivityNet's JSON under its several spellings."""

from __future__ import annotations

import csv
import json
from collections import Counter

import numpy as np
import pytest
from conftest import shared

from cuemark.datasets import activitynet
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth, labels_of, times


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
