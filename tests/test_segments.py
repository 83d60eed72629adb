"""Segments, and the one JSON file they live in: round trips, what is refused and how it is said, atomic writing."""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from conftest import shared

from cuemark.errors import DataError
from cuemark.segments import (
    SCHEMA_VERSION,
    UNLABELLED,
    Segment,
    Truth,
    VideoTruth,
    labels_of,
    read_json,
    read_predictions,
    read_truth,
    replacing,
    subset,
    times,
    tiou,
    write_json,
    write_predictions,
    write_truth,
)

TRUTH: Truth = {
    "plain": VideoTruth(12.5, (Segment(0.1, 3.25, "run"), Segment(4, 4, "jump")), "validation", 29.97),
    "odd name ü/“x”": VideoTruth(1e-3, (Segment(0.0, 1e-3, "Läufer, 走る"),)),
    "no annotations": VideoTruth(60.0),
    "beyond the end": VideoTruth(10.0, (Segment(5.0, 11.0, "run"), Segment(-1.0, 2.0, "run")), "testing"),
    "captioned": VideoTruth(30.0, (Segment(1 / 3, 2 / 3, None, None, 'She said "jump"\nand jumped.'),
                                   Segment(2.0, 3.0, "", 0.25, ""))),
}


def written(path: Path, data) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def truth_with(annotation=None, **entry) -> dict:
    annotations = [{"segment": [0, 1]}] + ([] if annotation is None else [annotation])
    return {"database": {"good": {"annotations": []}, "vid": {"duration": 9, "annotations": annotations, **entry}}}


def predictions_with(item) -> dict:
    return {"results": {"good": [], "vid": [{"segment": [0, 1], "label": "a", "score": 1}, item]}}


# ------------------------------------------------------------------------------------- the value


def test_a_segment_is_a_value():
    segment = Segment(1.0, 4.0, "run", 0.5)
    assert (segment.duration, segment.middle) == (3.0, 2.5)
    assert segment == Segment(1.0, 4.0, "run", 0.5)
    assert len({segment, Segment(1.0, 4.0, "run", 0.5), Segment(1.0, 4.0, "run", 0.6)}) == 2
    with pytest.raises(FrozenInstanceError):
        segment.start = 2.0  # type: ignore[misc]


def test_zero_length_is_a_segment():
    assert Segment(2.0, 2.0).duration == 0


@pytest.mark.parametrize(("start", "end"), [(math.nan, 1), (0, math.nan), (0, math.inf), (-math.inf, 0), (2, 1.999)])
def test_a_segment_refuses_what_is_no_stretch_of_time(start: float, end: float):
    with pytest.raises(ValueError, match=r"finite numbers of seconds|ends before it starts"):
        Segment(start, end)


@pytest.mark.parametrize(("other", "seconds"), [((0, 2), 1), ((2, 3), 1), ((0, 9), 3), ((4, 9), 0), ((5, 6), 0)])
def test_overlap(other: tuple[float, float], seconds: float):
    a, b = Segment(1, 4), Segment(*other)
    assert a.overlap(b) == b.overlap(a) == seconds


def test_clipped():
    segment = Segment(1, 4, "run", 0.5, "s", "q")
    assert segment.clipped(0, 9) == segment
    assert segment.clipped(2, 3) == Segment(2, 3, "run", 0.5, "s", "q")
    assert segment.clipped(4, 9) is None
    assert segment.clipped(7, 9) is None


def test_times():
    assert times([Segment(1, 2), Segment(3, 5)]).tolist() == [[1, 2], [3, 5]]
    assert times([]).shape == (0, 2)
    assert times([]).dtype == np.float64


def test_tiou_equals_the_definition_pair_by_pair():
    rng = np.random.default_rng(0)
    a = np.sort(rng.integers(0, 9, (30, 2)), axis=1).astype(float)
    b = np.sort(rng.integers(0, 9, (20, 2)), axis=1).astype(float)
    expected = np.zeros((30, 20))
    for i, (s, e) in enumerate(a):
        for j, (t, f) in enumerate(b):
            common = sum(1 for x in range(9) if s <= x < e and t <= x < f)  # whole seconds
            either = sum(1 for x in range(9) if s <= x < e or t <= x < f)
            expected[i, j] = common / either if either else 0
    np.testing.assert_allclose(tiou(a, b), expected, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(tiou(a, b), tiou(b, a).T)


def test_tiou_edges():
    point = [[2.0, 2.0]]
    assert tiou(point, point).tolist() == [[0]]
    assert tiou(point, [[0.0, 4.0]]).tolist() == [[0]]
    assert tiou([], [[0.0, 4.0]]).shape == (0, 1)
    assert tiou([[0.0, 4.0]], []).shape == (1, 0)


def test_labels_and_subsets():
    assert labels_of(TRUTH) == ["", "Läufer, 走る", "jump", "run"]
    assert list(subset(TRUTH, "validation", "testing")) == ["plain", "beyond the end"]
    with pytest.raises(DataError, match=r"subset 'val' or 'test'; the truth has: testing, training, validation\."):
        subset(TRUTH, "val", "test")
    with pytest.raises(DataError, match="the truth has: none"):
        subset({}, "training")


# ------------------------------------------------------------------------------------- round trips


def test_truth_round_trip(tmp_path: Path):
    write_truth(tmp_path / "t.json", TRUTH)
    again = read_truth(tmp_path / "t.json")
    assert again == TRUTH
    assert list(again) == list(TRUTH)


def test_predictions_round_trip_and_keep_their_order(tmp_path: Path):
    predictions = {"z": [Segment(0.1, 0.2, "b", 0.25), Segment(0.1, 0.2, "b", 0.25), Segment(1 / 3, 5, "a", 0.75)],
                   "a": [], "q ü": [Segment(1, 2, None, 1e-12, query="when does she jump?"),
                                    Segment(3, 3, "a", -math.pi)]}
    write_predictions(tmp_path / "p.json", predictions)
    again = read_predictions(tmp_path / "p.json")
    assert again == predictions
    assert list(again) == ["z", "a", "q ü"]


def test_random_times_survive_exactly(tmp_path: Path):
    rng = np.random.default_rng(1)
    rows = [Segment(*sorted((rng.uniform(0, 1, 2) * 10.0 ** rng.integers(-9, 9)).tolist()), "a", float(rng.normal()))
            for _ in range(200)]
    write_predictions(tmp_path / "p.json", {"v": rows})
    assert read_predictions(tmp_path / "p.json") == {"v": rows}


def test_the_same_values_give_the_same_bytes(tmp_path: Path):
    for name in ("one", "two"):
        write_truth(tmp_path / name, TRUTH)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_a_prediction_lacks_is_filled_for_official_readers(tmp_path: Path):
    write_predictions(tmp_path / "p.json", {"v": [Segment(0, 1)]}, external_data={"used": False})
    data = json.loads((tmp_path / "p.json").read_text())
    assert data["results"]["v"] == [{"label": UNLABELLED, "score": 1.0, "segment": [0, 1]}]
    assert data["external_data"] == {"used": False}
    assert read_predictions(tmp_path / "p.json")["v"][0].label is None


def test_a_predicted_sentence_survives(tmp_path: Path):
    captions = {"v": [Segment(0, 1, "a", 0.5, "She jumps.")]}
    write_predictions(tmp_path / "p.json", captions)
    assert read_predictions(tmp_path / "p.json") == captions


# ------------------------------------------------------------------------------------- what others read


def test_truth_has_what_activitynet_actionformer_and_opentad_read(tmp_path: Path):
    write_truth(tmp_path / "t.json", TRUTH)
    data = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert {"database", "taxonomy", "version"} <= set(data)
    assert data["version"] == SCHEMA_VERSION
    plain = data["database"]["plain"]
    assert {k: plain[k] for k in ("subset", "duration", "fps")} == {
        "subset": "validation", "duration": 12.5, "fps": 29.97}
    names = labels_of(TRUTH)
    assert plain["annotations"] == [
        {"segment": [0.1, 3.25], "label": "run", "label_id": names.index("run")},
        {"segment": [4, 4], "label": "jump", "label_id": names.index("jump")},
    ]
    assert "fps" not in data["database"]["no annotations"]
    nodes = {node["nodeName"]: node for node in data["taxonomy"]}
    assert set(nodes) == {"Root", *names}
    assert all(nodes[name]["parentId"] == nodes["Root"]["nodeId"] for name in names)
    assert len({node["nodeId"] for node in data["taxonomy"]}) == len(names) + 1


def test_predictions_have_what_activitynet_reads(tmp_path: Path):
    write_predictions(tmp_path / "p.json", {"v": [Segment(0, 1, "a", 0.5), Segment(2, 3)]})
    data = json.loads((tmp_path / "p.json").read_text())
    assert {"results", "version", "external_data"} <= set(data)
    assert all({"label", "score", "segment"} <= set(item) for item in data["results"]["v"])
    assert all(isinstance(item["label"], str) and isinstance(item["score"], float) for item in data["results"]["v"])


def test_label_ids_follow_the_classes_given(tmp_path: Path):
    write_truth(tmp_path / "t.json", {"v": VideoTruth(9.0, (Segment(0, 1, "run"),))}, classes=["walk", "run", "fall"])
    data = json.loads((tmp_path / "t.json").read_text())
    assert data["database"]["v"]["annotations"][0]["label_id"] == 1
    assert [node["nodeName"] for node in data["taxonomy"]] == ["Root", "walk", "run", "fall"]


def test_a_label_outside_the_classes_given_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"label 'run' of the truth is not among the 1 classes given; add it\."):
        write_truth(tmp_path / "t.json", {"v": VideoTruth(9.0, (Segment(0, 1, "run"),))}, classes=["walk"])
    assert not (tmp_path / "t.json").exists()


# ------------------------------------------------------------------------------------- real files


@pytest.mark.parametrize(("path", "videos", "segments", "subsets"), [
    ("annotations/gtad/thumos_gt.json", 410, 6318, {"train", "test"}),
    ("annotations/thumos14/gt_activitynet_format.json", 410, 6318, {"train", "test"}),
    ("annotations/thumos14/rc3d_thumos14_gt_test.json", 212, 3358, {"test"}),
    ("annotations/detad/thumos14_test_extra_characteristics.json", 212, 3358, {"testing"}),
])
def test_published_truth_is_read(path: str, videos: int, segments: int, subsets: set[str]):
    truth = read_truth(shared(path))
    assert len(truth) == videos
    assert sum(len(v.annotations) for v in truth.values()) == segments
    assert {v.subset for v in truth.values()} == subsets
    assert len(labels_of(truth)) == 20


def test_times_written_as_strings_are_numbers():
    """G-TAD's THUMOS file has them so, and no durations."""
    path = shared("annotations/gtad/thumos_gt.json")
    assert json.loads(path.read_text())["database"]["video_test_0000896"]["annotations"][0]["segment"] == [
        "18.6", "24.8"]
    video = read_truth(path)["video_test_0000896"]
    assert video.annotations[0] == Segment(18.6, 24.8, "HighJump")
    assert video.duration == 94.8  # the last annotated second


def test_published_predictions_are_read():
    predictions = read_predictions(shared("predictions/activitynet/sample_detection_prediction.json"))
    assert len(predictions) == 4926
    assert sum(map(len, predictions.values())) == 7654
    assert predictions["wONwHYy59Tc"] == [Segment(94.52138901727746, 130.48707650118757, "Blow-drying hair", 1.0)]


def test_published_truth_survives_a_round_trip(tmp_path: Path):
    truth = read_truth(shared("annotations/thumos14/rc3d_thumos14_gt_test.json"))
    write_truth(tmp_path / "t.json", truth)
    assert read_truth(tmp_path / "t.json") == truth


@pytest.mark.parametrize("path", ["annotations/bmn/anet_anno_action.json", "annotations/multithumos.json",
                                  "annotations/2d-tan/ActivityNet/val.json"])
def test_other_published_layouts_are_refused_by_name(path: str):
    with pytest.raises(DataError, match=f"{Path(path).name}' has no \"database\" object"):
        read_truth(shared(path))


# ------------------------------------------------------------------------------------- small truths about reading


def test_what_may_be_missing(tmp_path: Path):
    path = written(tmp_path / "t.json", {"database": {"v": {"annotations": [{"segment": [1, 2.5]}]}, "w": {}}})
    assert read_truth(path) == {"v": VideoTruth(2.5, (Segment(1.0, 2.5),), "training", None), "w": VideoTruth(0.0)}


def test_numbers_may_be_strings_and_labels_numbers(tmp_path: Path):
    path = written(tmp_path / "t.json", {"database": {"v": {
        "duration": "9.5", "fps": "25", "annotations": [{"segment": ["1", "2"], "label": 7, "score": "0.5"}]}}})
    assert read_truth(path) == {"v": VideoTruth(9.5, (Segment(1.0, 2.0, "7", 0.5),), "training", 25.0)}


def test_keys_that_nobody_knows_are_passed_over(tmp_path: Path):
    path = written(tmp_path / "t.json", truth_with({"segment": [0, 1], "coverage": 0.5}, url="x") | {"extra": []})
    assert read_truth(path)["vid"].annotations[1] == Segment(0.0, 1.0)


def test_an_end_beyond_the_video_is_kept_as_written(tmp_path: Path):
    assert read_truth(written(tmp_path / "t.json", truth_with({"segment": [5, 99]})))["vid"].annotations[1].end == 99


def test_a_null_subset_is_a_missing_one(tmp_path: Path):
    assert read_truth(written(tmp_path / "t.json", truth_with(subset=None)))["vid"].subset == "training"


# ------------------------------------------------------------------------------------- malformed

BAD_SEGMENTS = [
    pytest.param({"segment": [math.nan, 1]}, "finite numbers of seconds", id="nan"),
    pytest.param({"segment": [0, math.inf]}, "finite numbers of seconds", id="infinite"),
    pytest.param({"segment": [5, 1]}, "ends before it starts", id="reversed"),
    pytest.param({"segment": ["x", "y"]}, "could not convert", id="words"),
    pytest.param({"segment": [1, 2, 3]}, "too many values", id="three times"),
    pytest.param({"segment": [1]}, "not enough values", id="one time"),
    pytest.param({"segment": None}, "expected an object with", id="null"),
    pytest.param({"segment": [None, 1]}, "expected an object with", id="null time"),
    pytest.param({"segment": 3}, "expected an object with", id="number"),
    pytest.param({"label": "a"}, 'expected an object with "segment"', id="absent"),
    pytest.param([0, 1], 'expected an object with "segment"', id="list"),
    pytest.param("0-1", 'expected an object with "segment"', id="string"),
    pytest.param(7, 'expected an object with "segment"', id="number instead"),
    pytest.param({"segment": [0, 1], "score": "high"}, '"score" should be a float, got "high"', id="score"),
    pytest.param({"segment": [0, 1], "score": [1]}, '"score" should be a float', id="score list"),
]


@pytest.mark.parametrize(("item", "message"), BAD_SEGMENTS)
def test_a_bad_annotation_is_named(tmp_path: Path, item, message: str):
    path = written(tmp_path / "t.json", truth_with(item))
    with pytest.raises(DataError) as error:
        read_truth(path)
    assert str(error.value).startswith(f"'{path}', video 'vid', annotation 1: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("item", "message"), BAD_SEGMENTS)
def test_a_bad_prediction_is_named(tmp_path: Path, item, message: str):
    path = written(tmp_path / "p.json", predictions_with(item))
    with pytest.raises(DataError) as error:
        read_predictions(path)
    assert str(error.value).startswith(f"'{path}', video 'vid', prediction 1: ")
    assert message in str(error.value)


@pytest.mark.parametrize("times_", ["12", {"1": 0, "2": 0}])
def test_a_segment_is_a_list(tmp_path: Path, times_):
    item = {"segment": times_}
    for read, content, kind in ((read_truth, truth_with(item), "annotation"),
                                (read_predictions, predictions_with(item), "prediction")):
        path = written(tmp_path / "t.json", content)
        with pytest.raises(DataError, match='expected an object with "segment"') as error:
            read(path)
        assert str(error.value).startswith(f"'{path}', video 'vid', {kind} 1: ")


@pytest.mark.parametrize(("entry", "message"), [
    ({"duration": -1}, '"duration" must be a number of seconds, got -1.0'),
    ({"duration": math.nan}, '"duration" must be a number of seconds, got nan'),
    ({"duration": math.inf}, '"duration" must be a number of seconds, got inf'),
    ({"duration": "long"}, '"duration" should be a float, got "long"'),
    ({"fps": "fast"}, '"fps" should be a float, got "fast"'),
    ({"annotations": None}, "expected a list of segments, got null"),
    ({"annotations": {"segment": [0, 1]}}, "expected a list of segments, got {"),
])
def test_a_bad_video_is_named(tmp_path: Path, entry: dict, message: str):
    path = written(tmp_path / "t.json", truth_with(**entry))
    with pytest.raises(DataError) as error:
        read_truth(path)
    assert str(error.value).startswith(f"'{path}', video 'vid': ")
    assert message in str(error.value)


def test_a_video_that_is_no_object(tmp_path: Path):
    path = written(tmp_path / "t.json", {"database": {"vid": [1, 2]}})
    with pytest.raises(DataError, match=r"video 'vid': expected an object, got \[1, 2\]\."):
        read_truth(path)
    path = written(tmp_path / "p.json", {"results": {"vid": {"segment": [0, 1]}}})
    with pytest.raises(DataError, match="video 'vid': expected a list of segments"):
        read_predictions(path)


def test_long_nonsense_is_shortened(tmp_path: Path):
    with pytest.raises(DataError) as error:
        read_truth(written(tmp_path / "t.json", truth_with(["x" * 5000])))
    assert len(str(error.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("data", [{}, [], 3, None, {"database": []}, {"database": None}])
def test_not_a_truth_file(tmp_path: Path, data):
    path = written(tmp_path / "t.json", data)
    with pytest.raises(DataError, match=r"t\.json' has no \"database\" object; a truth file is"):
        read_truth(path)


@pytest.mark.parametrize("data", [{}, [], 3, None, {"results": []}])
def test_not_a_prediction_file(tmp_path: Path, data):
    path = written(tmp_path / "p.json", data)
    with pytest.raises(DataError, match=r"p\.json' has no \"results\" object; a prediction file is"):
        read_predictions(path)


def test_files_that_were_swapped(tmp_path: Path):
    write_truth(tmp_path / "t.json", TRUTH)
    write_predictions(tmp_path / "p.json", {})
    with pytest.raises(DataError, match="it looks like a prediction file"):
        read_truth(tmp_path / "p.json")
    with pytest.raises(DataError, match="it looks like a truth file"):
        read_predictions(tmp_path / "t.json")


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(DataError, match=r"truth file '.*missing\.json' does not exist"):
        read_truth(tmp_path / "missing.json")
    with pytest.raises(DataError, match="is a folder, not a prediction file"):
        read_predictions(tmp_path)
    path = written(tmp_path / "cut.json", '{"database": {\n  "v": ')
    with pytest.raises(DataError, match=r"cut\.json' is not valid JSON at line 2, column 8 .* a truth file"):
        read_truth(path)
    path = written(tmp_path / "empty.json", "")
    with pytest.raises(DataError, match="not valid JSON at line 1, column 1"):
        read_json(path, "truth")
    path.write_bytes(b"\xff\xfe{\x00")
    with pytest.raises(DataError, match="cannot be read as a truth file"):
        read_truth(path)
    with pytest.raises(DataError, match="cannot be read as a truth file"):
        read_truth(path / "below a file")


@pytest.mark.parametrize(("text", "where"), [
    pytest.param(json.dumps(truth_with({"segment": [0, 10**400]})), ", video 'vid', annotation 1: ", id="time"),
    pytest.param(json.dumps(truth_with({"segment": [0, 1], "score": 10**400})),
                 ", video 'vid', annotation 1: \"score\"", id="score"),
    pytest.param(json.dumps(truth_with(duration=10**400)), ", video 'vid': \"duration\"", id="duration"),
    pytest.param('{"database": ' + "9" * 5000 + "}", " cannot be read as a truth file", id="digits"),
    pytest.param("[" * 200_000, " cannot be read as a truth file", id="depth"),
])
def test_monstrous_numbers_and_nesting_are_data_errors(tmp_path: Path, text: str, where: str):
    path = written(tmp_path / "t.json", text)
    with pytest.raises(DataError) as error:
        read_truth(path)
    assert str(error.value).startswith(f"'{path}'{where}")
    assert len(str(error.value)) < 400


# ------------------------------------------------------------------------------------- atomic writing


def test_a_file_appears_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "new folder" / "deeper" / "file.txt"
    with replacing(path) as file:
        file.write("ü")
        file.flush()
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "ü"
    assert os.listdir(path.parent) == ["file.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644  # not the private mode of a temporary file


def test_bytes_can_be_written(tmp_path: Path):
    with replacing(tmp_path / "b", "wb") as file:
        file.write(b"\x00\xff")
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_failing_write_leaves_what_was_there(tmp_path: Path, old: str | None, failure: type[BaseException]):
    path = tmp_path / "file.json"
    if old is not None:
        path.write_text(old)

    def write() -> None:
        with replacing(path) as file:
            file.write("half of the new one")
            file.flush()
            raise failure

    with pytest.raises(failure):
        write()
    assert os.listdir(tmp_path) == ([] if old is None else ["file.json"])
    assert old is None or path.read_text() == old


@pytest.mark.parametrize("bad", [{"x": math.nan}, {"x": object()}, {"x": [1, math.inf]}])
def test_what_is_not_json_leaves_what_was_there(tmp_path: Path, bad: dict):
    path = tmp_path / "file.json"
    write_json(path, {"old": "ü"})
    with pytest.raises((ValueError, TypeError, DataError)):
        write_json(path, bad)
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": "ü"}
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_nan_score_is_not_written(tmp_path: Path):
    path = tmp_path / "p.json"
    write_predictions(path, {"v": [Segment(0, 1, "a", 0.5)]})
    with pytest.raises((ValueError, DataError)):
        write_predictions(path, {"v": [Segment(0, 1, "a", math.nan)]})
    assert read_predictions(path) == {"v": [Segment(0, 1, "a", 0.5)]}
    assert os.listdir(tmp_path) == ["p.json"]


def test_json_ends_with_a_line_end_and_keeps_letters(tmp_path: Path):
    write_json(tmp_path / "x.json", {"a": "走"})
    assert (tmp_path / "x.json").read_bytes() == '{"a": "走"}\n'.encode()
