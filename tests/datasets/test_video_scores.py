"""Video-level class scores, as classifiers of others write them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cuemark.datasets.thumos import CLASS_IDS
from cuemark.datasets.video_scores import read_video_scores
from cuemark.errors import DataError

SCORES = {"a": {"Long jump": 0.75, "Surfing": 0.25}, "b": {"Long jump": 0.125, "Surfing": 0.5}}


def written(tmp_path, data, name="scores.json"):
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


@pytest.mark.parametrize("data", [
    SCORES, {"results": SCORES}, {"version": "1", "results": SCORES, "external_data": {}},
    {"results": {vid: [{"label": k, "score": v} for k, v in row.items()] for vid, row in SCORES.items()}},
    {"class": ["Long jump", "Surfing"], "results": {vid: list(row.values()) for vid, row in SCORES.items()}},
    {"class": ["Long jump", "Surfing"], "results": {f"v_{vid}": [list(row.values())] for vid, row in SCORES.items()}},
])
def test_json_layouts(tmp_path, data):
    assert read_video_scores(written(tmp_path, data)) == SCORES


@pytest.mark.parametrize("text", [
    "video,label,score\na,Long jump,0.75\na,Surfing,0.25\nb,Surfing,0.5\nb,Long jump,0.125\n",
    "score,extra,video,label\n.75,,a,Long jump\n.25,,a,Surfing\n.5,,b,Surfing\n.125,,b,Long jump\n",
    "video,Long jump,Surfing\na,0.75,0.25\n\nb,0.125,0.5\n",
])
def test_csv_layouts(tmp_path, text):
    assert read_video_scores(written(tmp_path, text, "scores.csv")) == SCORES


def test_rows_are_videos_by_their_numbers_and_columns_ucf101(tmp_path):
    """A column for each of 101 classes, in which BaseballPitch is number 7."""
    data = np.zeros((1574, 101), np.float32)
    data[3, 6], data[3, 96], data[1573, 39] = 1.5, 0.5, 2.0
    np.save(tmp_path / "uNet_test.npy", data)
    found = read_video_scores(tmp_path / "uNet_test.npy")
    assert len(found) == 1574
    assert found["video_test_0000004"].keys() == CLASS_IDS.keys()
    assert {k: v for k, v in found["video_test_0000004"].items() if v} == {"BaseballPitch": 1.5,
                                                                           "VolleyballSpiking": 0.5}
    assert {k: v for k, v in found["video_test_0001574"].items() if v} == {"HighJump": 2.0}


def test_columns_of_other_classes(tmp_path):
    np.save(tmp_path / "scores.npy", np.arange(2020).reshape(1010, 2))
    found = read_video_scores(tmp_path / "scores.npy", ["x", "y"])
    assert found["video_validation_0000002"] == {"x": 2.0, "y": 3.0}
    with pytest.raises(DataError, match="2 columns, but UCF101 has 101"):
        read_video_scores(tmp_path / "scores.npy")
    with pytest.raises(DataError, match="2 columns, but there are 3 classes"):
        read_video_scores(tmp_path / "scores.npy", ["x", "y", "z"])


@pytest.mark.parametrize(("name", "data", "message"), [
    ("s.json", [], "no video"),
    ("s.json", {"results": {}}, "no video"),
    ("s.json", {"results": {"a": 3}}, "video 'a': expected {label: score}"),
    ("s.json", {"results": {"a": {"x": "much"}}}, "video 'a': expected the score of 'x'"),
    ("s.json", {"results": {"a": {"x": -1}}}, "turn logits into probabilities"),
    ("s.json", {"results": {"a": [{"label": 133, "score": 17.0}]}}, "expected a label, got 133"),
    ("s.json", {"results": {"a": [{"label": "x", "score": 1}, {"label": "x", "score": 2}]}}, "'x' is there twice"),
    ("s.json", {"class": ["x", "y"], "results": {"a": [1.0]}}, "expected 2 scores"),
    ("s.json", {"class": ["x", "y"], "results": {"a": "?"}}, "expected 2 scores"),
    ("s.json", '{"results": {"a": {"x": NaN}}}', "expected the score of 'x'"),
    ("s.csv", "name,label,score\na,x,1\n", "no column 'video'"),
    ("s.csv", "video,label,score\na,x,1\na,x,2\n", "line 3: label 'x' is there twice"),
    ("s.csv", "video,x\na,1\na,2\n", "line 3: video 'a' is there twice"),
    ("s.csv", "video,x\n,1\n", "expected the name of a video"),
    ("s.txt", "a x 1", "no file of video-level scores"),
    ("s.npy", "no array", "cannot be read as an array"),
])
def test_what_is_wrong_is_named(tmp_path, name, data, message):
    with pytest.raises(DataError, match=message):
        read_video_scores(written(tmp_path, data, name))


def test_arrays_that_are_no_videos(tmp_path):
    for data in (np.zeros((3, 101)), np.zeros(1574), np.full((1574, 101), "a")):
        np.save(tmp_path / "scores.npy", data)
        with pytest.raises(DataError, match="a row for each of THUMOS14's"):
            read_video_scores(tmp_path / "scores.npy")
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read as an array"):
        read_video_scores(tmp_path / "pickle.npy")
    with pytest.raises(DataError, match="does not exist"):
        read_video_scores(tmp_path / "none.npy")
