"""DETAD's file: truth, and what each annotation is like."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from conftest import shared
from hostile import NAMES, broken_json, survives, truths
from hypothesis import given, settings

from cuemark.datasets import detad
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.metrics.diagnosis import ACTIVITYNET, THUMOS, diagnose
from cuemark.segments import Segment, VideoTruth

FORMAT = detad.FORMAT
FILE = "annotations/detad/thumos14_test_extra_characteristics.json"


def annotation(start: float, end: float, label: str = "Ballet", **more) -> dict:
    return {"segment": [start, end], "label": label, "length": end - start, "coverage": (end - start) / 40,
            "num-instances": 2, "context-size": None, "context-distance": None, "agreement": None,
            "all-segments": None} | more


DATA = {"taxonomy": [], "version": [], "database": {
    "a": {"subset": "testing", "annotations": [
        annotation(1, 11, coverage=None), annotation(2, 12, "Cumbia", agreement=0.8, **{"context-size": 3})]},
    "b": {"subset": "val", "annotations": []},
}}


def saved(path: Path, data=DATA) -> Path:
    path.write_text(json.dumps(data))
    return path


def test_truth_and_characteristics(tmp_path):
    path = saved(tmp_path / "t.json")
    reading = Reading(durations={"a": 99.0, "b": 7.0})
    assert FORMAT.parse(path, reading) == {
        "a": VideoTruth(40.0, (Segment(1, 11, "Ballet"), Segment(2, 12, "Cumbia")), "testing"),
        "b": VideoTruth(7.0, (), "validation")}
    assert reading.problems == []
    assert detad.characteristics(path) == {
        ("a", 0): {"length": 10.0, "num-instances": 2.0},
        ("a", 1): {"length": 10.0, "coverage": 0.25, "num-instances": 2.0, "agreement": 0.8, "context-size": 3.0}}


def test_both_count_the_annotations_that_are_kept(tmp_path):
    rows = [annotation(1, 11, agreement=0.1), annotation(9, 8, agreement=0.2), annotation(3, 4, agreement=0.3)]
    path = saved(tmp_path / "t.json", {"database": {"a": {"subset": "testing", "annotations": rows}}})
    reading = Reading()
    assert [s.start for s in FORMAT.parse(path, reading)["a"].annotations] == [1, 3]
    assert [(p.what, p.done) for p in reading.problems] == [("ends before it starts: [9, 8]", "dropped")]
    assert [detad.characteristics(path)["a", i]["agreement"] for i in range(2)] == [0.1, 0.3]


def test_a_video_whose_length_nothing_tells_ends_with_its_last_annotation(tmp_path):
    rows = [annotation(1, 11, coverage=0), annotation(2, 12, length=None), annotation(3, 9, coverage=1e-320)]
    path = saved(tmp_path / "t.json", {"database": {"a": {"annotations": rows}}})
    assert FORMAT.parse(path, Reading(subset="mine"))["a"].subset == "mine"
    assert FORMAT.parse(path, Reading())["a"].duration == 12
    assert FORMAT.parse(path, Reading(durations={"a": 50}))["a"].duration == 50


@pytest.mark.parametrize(("data", "message"), [
    ([], 'has no "database" object'),
    ({"database": []}, 'has no "database" object'),
    ({"database": {"a": []}}, r"t\.json', video 'a': expected an object"),
    ({"database": {"a": {"annotations": [{"segment": [1, 2]}]}}},
     r"video 'a', annotation 0: expected .* a \"label\""),
    ({"database": {"a": {"annotations": [annotation(1, 2) | {"segment": [1]}]}}},
     r"expected an object with \"segment\""),
    ({"database": {"a": {"annotations": [annotation(1, 2) | {"segment": ["x", 2]}]}}}, "a start and an end in seconds"),
    ({"database": {"a": {"annotations": [annotation(1, 2, coverage="much")]}}},
     'annotation 0: expected a number or null as "coverage", got \'much\''),
    ({"database": {"a": {"annotations": [annotation(1, 2, agreement=True)]}}}, 'null as "agreement", got \'True\''),
])
def test_malformed(tmp_path, data, message):
    path = saved(tmp_path / "t.json", data)
    with pytest.raises(DataError, match=message):
        FORMAT.parse(path, Reading())
    with pytest.raises(DataError, match=message):
        detad.characteristics(path)


def test_a_malformed_duration(tmp_path):
    for duration in ("long", -1, [], True):
        with pytest.raises(DataError, match="video 'a': expected \"duration\" in seconds"):
            FORMAT.parse(saved(tmp_path / "t.json", {"database": {"a": {"duration": duration, "annotations": []}}}),
                         Reading())


def test_a_file_without_characteristics_is_refused_as_such(tmp_path):
    path = saved(tmp_path / "t.json", {"database": {"a": {"annotations": [{"segment": [1, 2], "label": "x"}]}}})
    assert len(FORMAT.parse(path, Reading())["a"].annotations) == 1
    with pytest.raises(DataError, match="tells nothing of what its annotations are like"):
        detad.characteristics(path)
    with pytest.raises(DataError, match="does not exist"):
        detad.characteristics(tmp_path / "absent.json")


def test_broken_files_are_read_or_refused(tmp_path):
    for parse in (FORMAT.parse, lambda path, reading: detad.characteristics(path)):
        read, refused = survives(tmp_path / "t.json", broken_json(DATA), parse)
        assert read > 20
        assert refused > 20


@settings(max_examples=50, deadline=None)
@given(truth=truths(NAMES, NAMES, ("training", "other")))
def test_what_is_written_is_read(tmp_path_factory, truth):
    path = tmp_path_factory.mktemp("detad") / "t.json"
    if any(v.annotations and not v.duration for v in truth.values()):
        with pytest.raises(DataError, match="has no length"):
            FORMAT.write(path, truth)
        assert not path.exists()
        return
    FORMAT.write(path, truth)
    assert FORMAT.parse(path, Reading()) == truth
    if any(v.annotations for v in truth.values()):
        values = detad.characteristics(path)
        for vid, video in truth.items():
            for i, s in enumerate(video.annotations):
                assert values[vid, i] == {"length": s.duration, "coverage": s.duration / video.duration,
                                          "num-instances": len(video.annotations)}


def test_without_a_label_nothing_is_written(tmp_path):
    with pytest.raises(DataError, match="without a label, which DETAD's files cannot hold"):
        FORMAT.write(tmp_path / "t.json", {"a": VideoTruth(9.0, (Segment(1, 2),))})
    assert not list(tmp_path.iterdir())


def test_looks():
    assert FORMAT.looks(Path("x.json"), "\ufeff" + json.dumps(DATA)) == "truth"
    plain = {"database": {"a": {"duration": 9, "subset": "testing", "annotations": [{"segment": [1, 2]}]}}}
    results = {"results": {"a": [annotation(1, 2)]}}
    for head in ("", "[]", "database,num-instances,context-size,coverage", json.dumps(plain), json.dumps(results)):
        assert FORMAT.looks(Path("x.json"), head) is None


def test_the_real_file(tmp_path):
    path = shared(FILE)
    assert FORMAT.looks(path, path.read_text()[:65536]) == "truth"
    reading = Reading()
    truth = FORMAT.parse(path, reading)
    assert reading.problems == []
    assert Counter(v.subset for v in truth.values()) == {"testing": 212}
    assert sum(len(v.annotations) for v in truth.values()) == 3358
    values = detad.characteristics(path)
    assert len(values) == 3358
    assert all(set(row) == {"coverage", "length", "num-instances"} for row in values.values())
    for (vid, i), row in values.items():
        video = truth[vid]
        assert row["length"] == pytest.approx(video.annotations[i].duration, abs=1e-12)
        assert row["num-instances"] == len(video.annotations)
        assert row["coverage"] == pytest.approx(row["length"] / video.duration, rel=1e-12)
    diagnosis = diagnose(truth, {}, 0.5, THUMOS, values)
    counts = {name: [b.instances for b in row] for name, row in diagnosis.buckets.items()}
    assert counts["num-instances"] == [15, 2203, 727, 413]
    FORMAT.write(tmp_path / "again.json", truth)
    assert FORMAT.parse(tmp_path / "again.json", Reading()) == truth
    again = diagnose(truth, {}, 0.5, THUMOS, detad.characteristics(tmp_path / "again.json"))
    assert {name: [b.instances for b in row] for name, row in again.buckets.items()} == counts


def test_the_real_videos_are_as_long_as_thumos_says():
    truth = FORMAT.parse(shared(FILE), Reading())
    lines = shared("annotations/thumos14/th14_test_durations.txt").read_text().split()
    told = {Path(name).stem: float(length) for name, length in zip(lines[::2], lines[1::2], strict=True)}
    assert set(truth) <= set(told)
    assert max(abs(v.duration - told[vid]) for vid, v in truth.items()) < 0.1


def test_its_characteristics_are_those_of_the_diagnosis():
    assert set(detad.CHARACTERISTICS) == set(ACTIVITYNET)
