"""VIA 3 projects."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets.format import Reading
from cuemark.datasets.via import looks, parse, write
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

# as VIA's video annotator saves a project: its own default attribute, a checkbox, a text, regions beside segments
FILE = {
    "project": {"pid": "__VIA_PROJECT_ID__", "rev": "__VIA_PROJECT_REV_ID__",
                "rev_timestamp": "__VIA_PROJECT_REV_TIMESTAMP__", "pname": "kitchen",
                "creator": "VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)",
                "created": 1738310400000, "vid_list": ["1", "2"]},
    "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}},
               "ui": {"file_content_align": "center", "gtimeline_visible_row_count": "4"}},
    "attribute": {
        "1": {"aname": "TEMPORAL-SEGMENTS", "anchor_id": "FILE1_Z2_XY0", "type": 4, "desc": "",
              "options": {"default": "Default", "1": "pour"}, "default_option_id": ""},
        "2": {"aname": "Hands", "anchor_id": "FILE1_Z2_XY0", "type": 2, "desc": "",
              "options": {"0": "left", "1": "right"}, "default_option_id": ""},
        "3": {"aname": "Transcription", "anchor_id": "FILE1_Z2_XY0", "type": 1, "desc": "", "options": {},
              "default_option_id": ""},
        "4": {"aname": "Object", "anchor_id": "FILE1_Z1_XY1", "type": 1, "desc": "", "options": {},
              "default_option_id": ""}},
    "file": {"1": {"fid": "1", "fname": "kitchen_01.mp4", "type": 4, "loc": 1, "src": ""},
             "2": {"fid": 2, "fname": "https://x.org/kitchen_02.webm", "type": 4, "loc": 2, "src": ""}},
    "metadata": {
        "1_gX3kW0aQ": {"vid": "1", "flg": 0, "z": [12.5, 18.25], "xy": [], "av": {"1": "1"}},
        "1_default0": {"vid": "1", "flg": 0, "z": [2, 3.5], "xy": [], "av": {"1": "default"}},
        "1_handsBot": {"vid": "1", "flg": 0, "z": [1, 2], "xy": [], "av": {"1": "spilled", "2": "0,1"}},
        "1_sentence": {"vid": "1", "flg": 0, "z": [4, 5], "xy": [], "av": {"3": "She pours, slowly."}},
        "1_bothBoth": {"vid": "1", "flg": 0, "z": [5, 6], "xy": [], "av": {"1": "1", "3": "More."}},
        "1_nothing0": {"vid": "1", "flg": 0, "z": [6, 7], "xy": [], "av": {"1": ""}},
        "1_deleted0": {"vid": "1", "flg": 1, "z": [1, 9], "xy": [], "av": {"1": "1"}},
        "1_momentPt": {"vid": "1", "flg": 0, "z": [8], "xy": [], "av": {"1": "1"}},
        "1_region00": {"vid": "1", "flg": 0, "z": [0.9], "xy": [2, 10, 20, 40, 50], "av": {"4": "cup"}},
        "1_fileText": {"vid": "1", "flg": 0, "z": [], "xy": [], "av": {"4": "indoors"}},
    },
    "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": [2]}},
}


def saved(tmp_path, data):
    path = tmp_path / "via.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_a_project(tmp_path):
    path = saved(tmp_path, FILE)
    assert looks(path, path.read_text()) == "truth"
    reading = Reading(durations={"kitchen_02": 30.0})
    assert parse(path, reading) == {
        "kitchen_01": VideoTruth(18.25, (
            Segment(12.5, 18.25, "pour"), Segment(2, 3.5, "Default"),
            Segment(1, 2, "spilled"), Segment(1, 2, "left"), Segment(1, 2, "right"),
            Segment(4, 5, sentence="She pours, slowly."), Segment(5, 6, "pour", sentence="More."), Segment(6, 7),
            Segment(8, 8, "pour"))),
        "kitchen_02": VideoTruth(30.0)}
    assert [(p.what, p.done) for p in reading.problems] == [("was deleted", "dropped")]


def test_the_layout_before(tmp_path):
    """3.1.0: the list of views outside the project, a path instead of prefixes, numbers in fid_list."""
    old = copy.deepcopy(FILE)
    old["vid_list"] = old["project"].pop("vid_list")
    old["config"] = {"file": {"path": "/videos/"}, "ui": {}}
    old["project"]["data_format_version"] = "3.1.0"
    path = saved(tmp_path, old)
    assert looks(path, path.read_text()) == "truth"
    assert len(parse(path, Reading())["kitchen_01"].annotations) == 9


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_round_trip(tmp_path_factory, data):
    time = st.floats(0, 1e5, allow_nan=False)
    text = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=6).filter(str.strip)
    cut = st.builds(lambda a, b, name, score, told: Segment(min(a, b), max(a, b), name, score, told), time, time,
                    st.none() | text, st.none() | st.floats(-1e6, 1e6), st.none() | text)
    truth = {vid: VideoTruth(2e5, tuple(data.draw(st.lists(cut, max_size=4)))) for vid in ("v", "w.v2", "ü")}
    path = tmp_path_factory.mktemp("via") / "p.json"
    write(path, truth)
    reading = Reading(durations=dict.fromkeys(truth, 2e5))
    assert parse(path, reading) == truth
    assert not reading.problems


def test_what_is_written(tmp_path):
    write(tmp_path / "kitchen.json", {"v": VideoTruth(9.0, (Segment(1, 2, "b"), Segment(3, 4, "a"))),
                                      "w.avi": VideoTruth(9.0)})
    made = json.loads((tmp_path / "kitchen.json").read_text())
    assert set(made) == {"project", "config", "attribute", "file", "metadata", "view"}
    assert made["project"]["vid_list"] == ["1", "2"]
    assert made["project"]["pname"] == "kitchen"
    assert {made["project"][k] for k in ("pid", "rev", "rev_timestamp")} == {
        "__VIA_PROJECT_ID__", "__VIA_PROJECT_REV_ID__", "__VIA_PROJECT_REV_TIMESTAMP__"}  # what VIA takes for local
    assert made["attribute"] == {"1": {"aname": "label", "anchor_id": "FILE1_Z2_XY0", "type": 4, "desc": "",
                                       "options": {"0": "a", "1": "b"}, "default_option_id": ""}}
    assert [f["fname"] for f in made["file"].values()] == ["v.mp4", "w.avi"]
    assert list(made["metadata"].values()) == [
        {"vid": "1", "flg": 0, "z": [1.0, 2.0], "xy": [], "av": {"1": "1"}},
        {"vid": "1", "flg": 0, "z": [3.0, 4.0], "xy": [], "av": {"1": "0"}}]
    assert made["view"] == {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}}


def change(*keys, value):
    data = copy.deepcopy(FILE)
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return data


MID = ("metadata", "1_gX3kW0aQ")


@pytest.mark.parametrize(("data", "message"), [
    ("{", "not valid JSON"), ("[]", "is not a VIA 3 project;"), ("{}", "is not a VIA 3 project;"),
    ({"_via_settings": {}, "_via_img_metadata": {}}, "it looks like a VIA 2 project"),
    (change("metadata", value=[]), "is not a VIA 3 project"),
    (change("view", value={"1": 3}), "is not a VIA 3 project"),
    (change("view", "1", "fid_list", value=[]), "view 1: cannot tell which file"),
    (change("view", "1", "fid_list", value=["9"]), "view 1: cannot tell which file"),
    (change("file", "1", "fname", value=None), "view 1: cannot tell which file"),
    (change("file", "2", "fname", value="other/kitchen_01.mkv"), "another view shows a file called 'kitchen_01'"),
    (change(*MID, "vid", value="7"), "metadata 1_gX3kW0aQ: its view '7' is not in the project"),
    (change(*MID, "z", value=3), "expected z and xy as lists"), (change(*MID, "av", value=[]), "av as an object"),
    (change(*MID, "z", value=[1, 2, 3]), "z should be [start, end]"),
    (change(*MID, "z", value=["a", 2]), "expected a start and an end in seconds"),
    (change(*MID, "z", value=[1, None]), "expected a start and an end in seconds"),
    (change(*MID, "z", value=[1, 10**400]), "expected a start and an end in seconds"),
    (change(*MID, "av", value={"77": "x"}), "its attribute '77' is not in the project"),
    (change("attribute", "1", "aname", value="Score") | {}, "score should be a number, got 'default'"),
    ('{"project": {}, "view": {"1": {}, "1": {}}}', "twice"),
])
def test_malformed(tmp_path, data, message):
    if isinstance(data, dict) and data.get("attribute", {}).get("1", {}).get("aname") == "Score":
        data["metadata"].pop("1_gX3kW0aQ")
    with pytest.raises(DataError) as error:
        parse(saved(tmp_path, data), Reading())
    assert message in str(error.value)
    assert "via.json" in str(error.value)


def test_inverted_segments_are_dropped(tmp_path):
    reading = Reading()
    truth = parse(saved(tmp_path, change(*MID, "z", value=[5, 4])), reading)
    assert len(truth["kitchen_01"].annotations) == 8
    assert "ends before it starts" in reading.problems[0].what


@pytest.mark.parametrize("head", [
    '{"_via_settings": {"ui": {}}, "_via_img_metadata": {}}', '{"project": {"id": 1}, "config": 3}',
    '{"database": {}}', '"project" "config" "loc_prefix"', ""])
def test_looks_at_other_files(tmp_path, head):
    assert looks(tmp_path / "a.json", head) is None
