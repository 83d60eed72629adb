"""TSP's CSV files: the release's rows to the last digit, and the rule of its background."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from hostile import NAMES, broken_table, survives, truths
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.clips import background
from cuemark.datasets import tsp
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth, times

FORMAT = tsp.FORMAT
HEADER = "video-name,t-start,t-end,action-label,video-duration,filename,fps,video-frames,temporal-region-label\n"
SMALL = HEADER + ("a,1.0,3.5,Fun sliding down,10.0,v_a.mp4,30.0,300,Action\n"
                  "a,0.0,1.0,,10.0,v_a.mp4,30.0,300,No action\n")
META = "filename,video-duration,fps,video-frames\nv_b.mp4,4.5,30,135\nv_a.mp4,10.00000001,30,300\n"


def pair(folder: Path, name: str = "toy_train", truth: str = SMALL, meta: str | None = META) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}_tsp_groundtruth.csv"
    path.write_text(truth, encoding="utf-8")
    if meta is not None:
        (folder / f"{name}_metadata.csv").write_text(meta, encoding="utf-8")
    return path


def test_actions_lengths_and_the_videos_without(tmp_path):
    reading = Reading()
    assert FORMAT.parse(pair(tmp_path), reading) == {
        "b": VideoTruth(4.5, (), "training", 30.0),
        "a": VideoTruth(10.0, (Segment(1.0, 3.5, "Fun sliding down"),), "training", 30.0)}
    assert reading.problems == []


def test_metadata_may_lie_elsewhere_or_nowhere(tmp_path):
    path = pair(tmp_path / "one", "toy_valid", meta=None)
    assert {vid: v.subset for vid, v in FORMAT.parse(path, Reading()).items()} == {"a": "validation"}
    (tmp_path / "videos.csv").write_text(META)
    assert list(FORMAT.parse(path, Reading(meta=tmp_path / "videos.csv"))) == ["b", "a"]
    with pytest.raises(DataError, match=r"none\.csv' does not exist"):
        FORMAT.parse(path, Reading(meta=tmp_path / "none.csv"))


def test_a_folder_of_several_splits(tmp_path):
    pair(tmp_path, "x_train")
    pair(tmp_path, "x_test", SMALL.replace("a,", "c,").replace("v_a", "v_c"), None)
    truth = FORMAT.parse(tmp_path, Reading())
    assert {vid: v.subset for vid, v in truth.items()} == {"c": "testing", "b": "training", "a": "training"}
    pair(tmp_path, "x_valid")
    with pytest.raises(DataError, match=r"video '[ab]' is in another file of"):
        FORMAT.parse(tmp_path, Reading())


def test_a_file_whose_name_tells_no_split(tmp_path):
    assert FORMAT.parse(pair(tmp_path, "latest"), Reading(subset="mine"))["a"].subset == "mine"


def test_rows_that_end_before_they_start_are_dropped(tmp_path):
    path = pair(tmp_path, truth=SMALL.replace("1.0,3.5", "3.5,1.0"))
    reading = Reading()
    assert FORMAT.parse(path, reading)["a"].annotations == ()
    assert [(p.where, p.done) for p in reading.problems] == [(f"'{path}', line 2", "dropped")]


@pytest.mark.parametrize(("truth", "meta", "message"), [
    ("video-name,t-start\n", META, r"toy_train_tsp_groundtruth\.csv' has no column 't-end'"),
    (SMALL.replace(",Action", ",Perhaps"), META, "line 2: expected the temporal-region-label 'Action' or 'No action'"),
    (SMALL.replace("Fun sliding down", ""), META, "line 2: an Action has no action-label"),
    (SMALL.replace("3.5", "soon"), META, "line 2: expected a start and an end in seconds, got '1.0' and 'soon'"),
    (SMALL.replace("30.0,300", "0,300"), META, "line 2: expected fps above 0"),
    (SMALL.replace("10.0", "-1"), META, "line 2: expected video-duration in seconds, got '-1'"),
    (SMALL.replace("300", "many"), META, "line 2: expected how many video-frames there are, got 'many'"),
    (SMALL, META.replace("v_b", "v_a"), r"toy_train_metadata\.csv', line 3: video 'a' is there twice"),
    (SMALL, META.replace("fps", "rate"), r"toy_train_metadata\.csv' has no column 'fps'"),
])
def test_malformed_files(tmp_path, truth, meta, message):
    with pytest.raises(DataError, match=message):
        FORMAT.parse(pair(tmp_path, truth=truth, meta=meta), Reading())


def test_paths_without_such_files(tmp_path):
    with pytest.raises(DataError, match=r"holds no \*_tsp_groundtruth\.csv file"):
        FORMAT.parse(tmp_path, Reading())
    with pytest.raises(DataError, match=r"TSP ground-truth file '.*' does not exist"):
        FORMAT.parse(tmp_path / "x.csv", Reading())


def test_broken_files_are_read_or_refused(tmp_path):
    path = pair(tmp_path)
    read, refused = survives(path, broken_table(SMALL), FORMAT.parse)
    assert read > 10
    assert refused > 50
    path.write_text(SMALL)
    meta = tmp_path / "toy_train_metadata.csv"
    read, refused = survives(meta, broken_table(META), lambda p, r: FORMAT.parse(path, r))
    assert read > 5
    assert refused > 20


# ---------------------------------------------------------------------------------------------- the release


@pytest.mark.parametrize(("name", "videos", "actions", "rest", "odd"), [
    ("activitynet/activitynet_v1-3_train", 10_024, 15_410, 15_956, 0),
    ("activitynet/activitynet_v1-3_valid", 4_926, 7_654, 7_747, 0),
    ("thumos14/thumos14_valid", 200, 3_007, 2_178, 1),  # a row of video_validation_0000184 begins at 85.8 for 85.2
    ("thumos14/thumos14_test", 213, 3_358, 2_573, 0),
])
def test_the_released_files_written_again_have_the_same_rows(tmp_path, name, videos, actions, rest, odd):
    path = shared(f"annotations/tsp/{name}_tsp_groundtruth.csv")
    reading = Reading()
    truth = FORMAT.parse(path, reading)
    assert reading.problems == []
    assert len(truth) == videos
    assert sum(len(v.annotations) for v in truth.values()) == actions
    FORMAT.write(tmp_path / "again", truth)
    split = name.rsplit("_", 1)[1]

    def rows(file: Path) -> tuple[np.ndarray, list[tuple[str, ...]]]:
        with open(file, newline="") as opened:
            table = list(csv.DictReader(opened))
        counted = ("t-start", "t-end", "video-duration", "fps", "video-frames")
        numbers = np.array([[float(row[k]) for k in counted if k in row] for row in table])
        return numbers, [tuple(v for k, v in row.items() if k not in counted) for row in table]

    mine, theirs = rows(tmp_path / "again" / f"{split}_tsp_groundtruth.csv"), rows(path)
    assert mine[1] == theirs[1]
    assert len(mine[1]) == actions + rest
    different = (mine[0] != theirs[0]).any(axis=1)
    assert different.sum() == odd
    assert {theirs[1][i][0] for i in np.flatnonzero(different)} <= {"video_validation_0000184"}
    mine = rows(tmp_path / "again" / f"{split}_metadata.csv")
    theirs = rows(path.with_name(f"{path.name.removesuffix('_tsp_groundtruth.csv')}_metadata.csv"))
    assert sorted(mine[1]) == sorted(theirs[1])
    order = [theirs[1].index(row) for row in mine[1]] if len(mine[1]) < 300 else slice(None)
    np.testing.assert_allclose(mine[0], theirs[0][order], rtol=1e-14, atol=0)
    assert FORMAT.parse(tmp_path / "again", Reading()) == truth


# ---------------------------------------------------------------------------------------------- writing


@settings(max_examples=50, deadline=None)
@given(truth=truths(NAMES.filter(lambda t: t.strip() and t != "Ambiguous"),
                    st.text("v_-ab\u00fc .", min_size=1, max_size=13).filter(str.strip),
                    ("training", "validation", "testing"), st.just(30.0) | st.just(30000 / 1001)))
def test_what_is_written_is_read(tmp_path_factory, truth):
    folder = tmp_path_factory.mktemp("tsp") / "again"
    FORMAT.write(folder, truth)
    if truth:
        assert FORMAT.parse(folder, Reading()) == truth


def test_youtube_ids_have_files_with_v(tmp_path):
    truth = {"--0edUL8zmA": VideoTruth(10.0, (), "testing", 30.0),
             "v_C-_abcdef": VideoTruth(10.0, (), "testing", 25.0)}
    FORMAT.write(tmp_path / "t", truth)
    assert (tmp_path / "t" / "test_metadata.csv").read_text() == (
        "filename,video-duration,fps,video-frames\nv_--0edUL8zmA.mp4,10.0,30,300\nv_v_C-_abcdef.mp4,10.0,25,250\n")
    assert FORMAT.parse(tmp_path / "t", Reading()) == truth


def test_ids_that_begin_with_v(tmp_path):
    """Metadata alone: only YouTube's ids lose what was put before them."""
    for ids in (["v_"], ["v_x", "v_"], ["v_QOlSCBRmfW"], ["v_QOlSCBRmfWYY"], ["QOlSCBRmfWY"]):
        truth = {vid: VideoTruth(1.0, (), "training", 30.0) for vid in ids}
        FORMAT.write(tmp_path / "t", truth)
        assert FORMAT.parse(tmp_path / "t", Reading()) == truth


def test_the_shortest_background_and_ambiguous(tmp_path):
    segments = (Segment(2, 8, "x"), Segment(3, 4, "y"), Segment(20, 21, "Ambiguous"))
    name = "video_test_0000004"
    for given_, clips in ((None, 1), (5.0, 5)):
        folder = tmp_path / str(clips)
        tsp.write(folder, {name: VideoTruth(12.0, segments, "testing", 30.0)}, given_)
        with open(folder / "test_tsp_groundtruth.csv", newline="") as file:
            rows = [(float(r["t-start"]), float(r["t-end"]), r["action-label"]) for r in csv.DictReader(file)]
        gaps = background(times(segments[:2]), 12.0, clips * 16 / 15, "tsp")
        assert rows == [(2, 8, "x"), (3, 4, "y"), *((a, b, "") for a, b in gaps)]
    assert len(gaps) == 1  # 8 s after the action that begins last; the one before the first is too short


@pytest.mark.parametrize(("video", "message"), [
    (VideoTruth(9.0, (), "training", None), "video 'a' has no frame rate"),
    (VideoTruth(9.0, (), "novel", 30.0), "video 'a' is of subset 'novel'"),
    (VideoTruth(9.0, (Segment(1, 2),), "training", 30.0), "annotation without a label, which TSP's files cannot hold"),
])
def test_what_cannot_be_written_leaves_nothing(tmp_path, video, message):
    with pytest.raises(DataError, match=message):
        FORMAT.write(tmp_path / "t", {"ok": VideoTruth(9.0, (Segment(1, 2, "x"),), "testing", 30.0), "a": video})
    assert not (tmp_path / "t").exists()
    with pytest.raises(DataError, match="is several files; name a folder"):
        FORMAT.write(tmp_path / "t.csv", {})
    pair(tmp_path / "old", "validation")
    with pytest.raises(DataError, match=r"holds 'validation_tsp_groundtruth\.csv'"):
        FORMAT.write(tmp_path / "old", {"ok": VideoTruth(9.0, (), "testing", 30.0)})
