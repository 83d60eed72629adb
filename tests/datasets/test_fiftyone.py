"""FiftyOne's temporal detections."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets.fiftyone import looks, parse, write
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

# as FiftyOne's documentation lays it out: seconds or frames, names or numbers of classes
FILE = {"classes": ["pour", "stir"], "labels": {
    "kitchen_01": [{"label": "pour", "timestamps": [12.5, 18.25], "confidence": 0.91, "attributes": {"hand": "left"}},
                   {"label": 1, "support": [301, 450]},
                   {"label": "stir", "support": [1, 1], "timestamps": [5, 6], "confidence": None}],
    "sub/kitchen_02": None, "kitchen_03": []}}


def saved(tmp_path, data):
    path = tmp_path / "labels.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_a_file(tmp_path):
    path = saved(tmp_path, FILE)
    assert looks(path, path.read_text()) == "predictions"
    expected = {"kitchen_01": VideoTruth(18.25, (
        Segment(12.5, 18.25, "pour", 0.91), Segment(12, 18, "stir"), Segment(0, 0.04, "stir")), "testing"),
        "sub/kitchen_02": VideoTruth(9.0, (), "testing"), "kitchen_03": VideoTruth(0.0, (), "testing")}
    reading = Reading(fps=25, durations={"sub/kitchen_02": 9.0}, subset="testing")
    assert parse(path, reading) == expected
    assert looks(tmp_path, "") == "predictions"  # the folder, as from_dir takes it
    assert parse(tmp_path, reading) == expected


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_round_trip(tmp_path_factory, data):
    time = st.floats(0, 1e5, allow_nan=False)
    label = st.text(st.characters(blacklist_categories=("Cs",)), max_size=5)
    cut = st.builds(lambda a, b, name, score: Segment(min(a, b), max(a, b), name, score), time, time, label,
                    st.none() | st.floats(-1e6, 1e6))
    truth = {vid: VideoTruth(2e5, tuple(data.draw(st.lists(cut, max_size=3)))) for vid in ("v", "w")}
    path = tmp_path_factory.mktemp("fo") / "labels.json"
    write(path, truth)
    assert parse(path, Reading(durations={"v": 2e5, "w": 2e5})) == truth


def test_what_is_written(tmp_path):
    write(tmp_path / "labels.json", {"v": VideoTruth(9.0, (Segment(1, 2, "b", 0.5), Segment(2, 3, "a"))),
                                     "w": VideoTruth(3.0)})
    assert json.loads((tmp_path / "labels.json").read_text()) == {"classes": ["a", "b"], "labels": {
        "v": [{"label": "b", "timestamps": [1.0, 2.0], "confidence": 0.5}, {"label": "a", "timestamps": [2.0, 3.0]}],
        "w": []}}
    with pytest.raises(DataError, match="video 'v' has an annotation without a label"):
        write(tmp_path / "none.json", {"v": VideoTruth(9.0, (Segment(1, 2, sentence="x"),))})
    assert not (tmp_path / "none.json").exists()


def test_inverted_labels_are_dropped(tmp_path):
    reading = Reading(fps=25)
    truth = parse(saved(tmp_path, {"labels": {"v": [{"label": "a", "timestamps": [2, 1]},
                                                    {"label": "a", "support": [2, 1]}]}}), reading)
    assert truth["v"].annotations == ()
    assert [p.done for p in reading.problems] == ["dropped", "dropped"]


def one(**item):
    return {"classes": ["a"], "labels": {"v": [item]}}


@pytest.mark.parametrize(("data", "message"), [
    ("{", "not valid JSON"), ("[]", "is not a FiftyOne label file"), ({"labels": []}, "is not a FiftyOne label file"),
    ({"classes": 3, "labels": {}}, "is not a FiftyOne label file"),
    ('{"labels": {"v": [], "v": []}}', "twice"),
    ({"labels": {"v": 3}}, "video 'v': expected a list"), ({"labels": {"v": [3]}}, "label 0: expected an object"),
    (one(timestamps=[1, 2]), '"label" should be'), (one(label=True, timestamps=[1, 2]), '"label" should be'),
    (one(label=1, timestamps=[1, 2]), "label 1 is not among the 1 classes"),
    (one(label="a"), 'expected "timestamps"'), (one(label="a", timestamps=[1]), 'expected "timestamps"'),
    (one(label="a", timestamps=["1", 2]), 'expected "timestamps"'),
    (one(label="a", support=3), 'expected "timestamps"'),
    (one(label="a", timestamps=[1, 10**400]), "expected a start and an end in seconds"),
    (one(label="a", support=[1, 10**400]), "expected the number of a frame"),
    ('{"labels": {"v": [{"label": "a", "timestamps": [NaN, 2]}]}}', "expected a start and an end in seconds"),
    (one(label="a", timestamps=[1, 2], confidence=[]), '"confidence" to be a number'),
    (one(label="a", timestamps=[1, 2], confidence=10**400), '"confidence" to be a number'),
])
def test_malformed(tmp_path, data, message):
    with pytest.raises(DataError) as error:
        parse(saved(tmp_path, data), Reading(fps=25))
    assert message in str(error.value)
    assert "labels.json" in str(error.value)


def test_frames_need_a_rate(tmp_path):
    with pytest.raises(DataError, match="say so with --fps"):
        parse(saved(tmp_path, FILE), Reading())
    with pytest.raises(DataError, match="does not exist"):
        parse(tmp_path / "none", Reading())


@pytest.mark.parametrize("head", [
    '{"database": {"v": {"annotations": []}}}', '{"labels": ["a"]}', '{"classes": ["a"], "labels": {"v": "pour"}}',
    '{"v_x": {"duration": 55, "timestamps": [[0.28, 55.15]], "sentences": ["a"]}}', "[]"])
def test_looks_at_other_files(tmp_path, head):
    assert looks(tmp_path / "labels.json", head) is None
