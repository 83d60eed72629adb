"""BMN's two files of ActivityNet: in any order, in any folder."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from hostile import NAMES, broken_json, broken_table, survives, truths
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import bmn, tsp
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

FORMAT = bmn.FORMAT
DATA = {
    "v_b": {"duration_second": 82.73, "duration_frame": 2067, "feature_frame": 2064,
            "annotations": [{"segment": [6.25, 77.5], "label": "Ballet"}, {"segment": [3, 99], "label": "Cumbia"}]},
    "v_a": {"duration_second": 10, "duration_frame": 300, "feature_frame": 288, "annotations": []},
}
INFO = ("video,numFrame,seconds,fps,rfps,subset,featureFrame\n"
        "v_a,300,10,30.0,30.0,testing,288\nv_b,2067,82.73,25.0,24.984890608,validation,2064\n")
TRUTH = {
    "a": VideoTruth(10.0, (), "testing", 30.0),
    "b": VideoTruth(82.73, (Segment(6.25, 77.5, "Ballet"), Segment(3, 99, "Cumbia")), "validation", 24.984890608),
}


def saved(folder: Path, data=DATA, info: str | None = INFO) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "anet_anno_action.json").write_text(json.dumps(data))
    if info is not None:
        (folder / "video_info_new.csv").write_text(info)
    return folder


def test_either_file_or_the_folder(tmp_path):
    saved(tmp_path)
    for path in (tmp_path, tmp_path / "anet_anno_action.json", tmp_path / "video_info_new.csv"):
        reading = Reading()
        truth = FORMAT.parse(path, reading)
        assert truth == TRUTH
        assert list(truth) == ["a", "b"]
        assert reading.problems == []


def test_the_other_file_may_be_elsewhere(tmp_path):
    one, two = saved(tmp_path / "one") / "anet_anno_action.json", saved(tmp_path / "two") / "video_info_new.csv"
    (tmp_path / "one" / "video_info_new.csv").unlink()
    (tmp_path / "two" / "anet_anno_action.json").unlink()
    assert FORMAT.parse(one, Reading(meta=two)) == TRUTH
    assert FORMAT.parse(two, Reading(meta=one)) == TRUTH
    with pytest.raises(DataError, match="no anet_anno\\*\\.json file lies with"):
        FORMAT.parse(two, Reading())


def test_without_the_csv_the_name_tells_the_split(tmp_path):
    saved(tmp_path, info=None)
    (tmp_path / "anet_anno_action.json").rename(tmp_path / "anet_anno_val.json")
    truth = FORMAT.parse(tmp_path, Reading())
    assert {vid: v.subset for vid, v in truth.items()} == {"b": "validation", "a": "validation"}
    assert truth["b"].fps == pytest.approx(24.98489, abs=1e-5)
    (tmp_path / "anet_anno_val.json").rename(tmp_path / "anet_anno.json")
    assert FORMAT.parse(tmp_path, Reading(subset="mine"))["a"].subset == "mine"


def test_several_candidates_are_asked_about(tmp_path):
    saved(tmp_path, info=None)
    for name in ("video_info_1.csv", "video_info_2.csv"):
        (tmp_path / name).write_text(INFO)
    with pytest.raises(DataError, match="has 2 files video_info\\*\\.csv; say which one with --meta"):
        FORMAT.parse(tmp_path, Reading())


def test_what_the_two_do_not_share(tmp_path):
    saved(tmp_path, info=INFO.splitlines()[0] + "\n" + INFO.splitlines()[1] + "\n")
    reading = Reading()
    assert FORMAT.parse(tmp_path, reading) == {"a": TRUTH["a"]}
    assert [(p.what.split("'")[0], p.done) for p in reading.problems] == [("is not in ", "dropped")]
    saved(tmp_path, data={"v_a": DATA["v_a"]})
    with pytest.raises(DataError, match=r"video_info_new\.csv', line 3: video 'v_b' has no entry in"):
        FORMAT.parse(tmp_path, Reading())


def test_inverted_segments_are_dropped(tmp_path):
    saved(tmp_path, data=DATA | {"v_a": DATA["v_a"] | {"annotations": [{"segment": [2, 1], "label": "x"}]}})
    reading = Reading()
    assert FORMAT.parse(tmp_path, reading) == TRUTH
    assert [(p.where.split("'")[3], p.done) for p in reading.problems] == [("v_a", "dropped")]


@pytest.mark.parametrize(("entry", "message"), [
    ([], r"video 'v_a': expected an object with \"duration_second\""),
    ({"duration_second": "x", "duration_frame": 1, "annotations": []}, 'expected "duration_second", a number'),
    ({"duration_second": 1, "annotations": []}, 'expected "duration_frame", a number of frames, got \'None\''),
    ({"duration_second": 1, "duration_frame": 1, "annotations": [{"segment": [1]}]}, "'v_a', annotation 0: expected"),
    ({"duration_second": 1, "duration_frame": 1, "annotations": [{"segment": [1, 2]}]}, 'and a "label"'),
    ({"duration_second": 1, "duration_frame": 1, "annotations": [{"segment": [1, "x"], "label": "y"}]},
     "expected a start and an end in seconds"),
])
def test_malformed_entries(tmp_path, entry, message):
    with pytest.raises(DataError, match=message):
        FORMAT.parse(saved(tmp_path, DATA | {"v_a": entry}), Reading())


def test_malformed_tables(tmp_path):
    for info, message in ((INFO.replace("v_b", "v_a"), "line 3: video 'v_a' is there twice"),
                          (INFO.replace("subset", "set"), "has no column 'subset'"),
                          (INFO.replace("30.0,testing", "0,testing"), "line 2: expected rfps above 0, got 0")):
        with pytest.raises(DataError, match=message):
            FORMAT.parse(saved(tmp_path, info=info), Reading())


def test_broken_files_are_read_or_refused(tmp_path):
    saved(tmp_path)
    for file, texts in (("anet_anno_action.json", broken_json(DATA)), ("video_info_new.csv", broken_table(INFO))):
        read, refused = survives(tmp_path / file, texts, FORMAT.parse)
        assert read > 20
        assert refused > 20
        saved(tmp_path)


def test_the_real_files():
    """The counts of the release; with TSP's videos of the same split the annotations agree."""
    reading = Reading()
    truth = FORMAT.parse(shared("annotations/bmn"), reading)
    assert reading.problems == []
    assert Counter(v.subset for v in truth.values()) == {"training": 9_649, "validation": 4_728, "testing": 4_851}
    assert Counter(v.subset for v in truth.values() for _ in v.annotations) == {"training": 14_859, "validation": 7_293}
    assert sum(s.duration == 0 for v in truth.values() for s in v.annotations) == 12
    assert sum(len({s.label for s in v.annotations}) > 1 for v in truth.values()) == 11
    for split in ("train", "valid"):
        file = shared(f"annotations/tsp/activitynet/activitynet_v1-3_{split}_tsp_groundtruth.csv")
        for vid, video in tsp.FORMAT.parse(file, Reading()).items():
            if vid in truth:
                assert truth[vid].subset == video.subset
                mine, theirs = (sorted((round(s.start, 6), round(s.end, 6), s.label) for s in v.annotations)
                                for v in (truth[vid], video))
                assert [s[2] for s in mine] == [s[2] for s in theirs]
                np.testing.assert_allclose([s[:2] for s in mine], [s[:2] for s in theirs], atol=2e-6)


def test_the_real_files_written_again(tmp_path):
    folder = shared("annotations/bmn")
    truth = FORMAT.parse(folder, Reading())
    FORMAT.write(tmp_path / "again", truth)
    assert FORMAT.parse(tmp_path / "again", Reading()) == truth
    mine, theirs = (json.loads((f / "anet_anno_action.json").read_text()) for f in (tmp_path / "again", folder))
    assert mine.keys() == theirs.keys()
    for name, entry in theirs.items():
        assert {k: v for k, v in mine[name].items() if k != "feature_frame"} == {
            k: v for k, v in entry.items() if k != "feature_frame"}
    same = sum(mine[name]["feature_frame"] == entry["feature_frame"] for name, entry in theirs.items())
    assert same == 12_721  # features of the others are of more or fewer frames than the video has
    with open(tmp_path / "again" / "video_info_new.csv", newline="") as a, open(folder / "video_info_new.csv") as b:
        for row, real in zip(csv.DictReader(a), csv.DictReader(b), strict=True):
            assert (row["video"], row["numFrame"], row["subset"]) == (real["video"], real["numFrame"], real["subset"])
            assert float(row["rfps"]) == float(real["rfps"])
            assert float(row["seconds"]) == pytest.approx(float(real["seconds"]), rel=1e-12)  # the JSON's are as long


@settings(max_examples=50, deadline=None)
@given(truth=truths(NAMES, NAMES, ("training", "other"), st.just(25.0) | st.just(30000 / 1001)))
def test_what_is_written_is_read(tmp_path_factory, truth):
    folder = tmp_path_factory.mktemp("bmn") / "again"
    FORMAT.write(folder, truth)
    assert FORMAT.parse(folder, Reading()) == truth


@pytest.mark.parametrize(("video", "message"), [
    (VideoTruth(9.0, (), "training", None), "video 'a' has no frame rate, which BMN's files cannot do without"),
    (VideoTruth(9.0, (Segment(1, 2),), "training", 30.0), "an annotation without a label"),
])
def test_what_cannot_be_written_leaves_nothing(tmp_path, video, message):
    with pytest.raises(DataError, match=message):
        FORMAT.write(tmp_path / "t", {"a": video})
    with pytest.raises(DataError, match="is several files; name a folder"):
        FORMAT.write(tmp_path / "t.json", {})
    assert not list(tmp_path.iterdir())
