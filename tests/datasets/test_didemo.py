"""DiDeMo: chunks of five seconds, several people's times for a description."""

from __future__ import annotations

import json

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import didemo
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth


def row(annotation_id=3, times=((1, 1), (0, 2)), **more):
    return {"num_segments": 6, "description": " A cat. ", "dl_link": "somewhere", "times": [list(t) for t in times],
            "video": "a.mov", "annotation_id": annotation_id, **more}


def save(path, data):
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_each_person_s_time_is_an_annotation(tmp_path):
    path = save(tmp_path / "val_data.json", [row(times=[(1, 1), (1, 1), (0, 5)]), row(4, [(2, 3)], video="b.mp4",
                                                                                   num_segments=5), row(5, [(0, 0)])])
    cat = {"sentence": "A cat.", "id": "3"}
    assert didemo.parse(path, Reading()) == {
        "a.mov": VideoTruth(30.0, (Segment(5, 10, **cat), Segment(5, 10, **cat), Segment(0, 30, **cat),
                                   Segment(0, 5, sentence="A cat.", id="5")), "validation"),
        "b.mp4": VideoTruth(25.0, (Segment(10, 20, sentence="A cat.", id="4"),), "validation"),
    }
    told = didemo.parse(path, Reading(durations={"a.mov": 28.4}))
    assert [v.duration for v in told.values()] == [28.4, 25]
    assert told["a.mov"].annotations[2].end == 30  # kept as written


def test_impossible_rows_are_dropped_and_noted(tmp_path):
    path = save(tmp_path / "c.json", [row(times=[(2, 1), (1, 9)]), row(4, description=" \n")])
    reading = Reading()
    (video,) = didemo.parse(path, reading).values()
    assert [(s.start, s.end) for s in video.annotations] == [(5, 50)]  # beyond the video: kept
    assert [(p.where, p.what, p.done) for p in reading.problems] == [
        (f"'{path}', row 0, time 0", "ends before it starts: chunks [2, 1]", "dropped"),
        (f"'{path}', row 1", "has no words", "dropped")]


@pytest.mark.parametrize(("data", "message"), [
    ({}, "not a DiDeMo file"), ([3], "row 0: expected an object"), ([row(video=3)], 'row 0: "video" must be a text'),
    ([row(), row(4, description=None)], 'row 1: "description" must be a text'),
    ([row(), row()], "row 1: annotation_id 3 stands in row 0 too"),
    ([row(1.5)], '"annotation_id" must be a whole number or a text'), ([row(True)], '"annotation_id" must be'),
    ([row(num_segments=None)], '"num_segments" must count chunks'), ([row(num_segments=5.5)], '"num_segments" must'),
    ([row(num_segments=10**30)], '"num_segments" must count chunks'),
    ([row(), row(4, num_segments=5)], "row 1: video 'a.mov' has 5 segments, and 6 in a row before"),
    ([row(times=[(1,)])], '"times" must be a list of'), ([row() | {"times": 3}], '"times" must be a list of'),
    ([row(times=[(1, 2.5)])], '"times" must count chunks'), ([row(times=[(-1, 2)])], '"times" must count chunks'),
    ([row(times=[(0, float("nan"))])], '"times" must count chunks'), ([row(times=[(0, [1])])], '"times" must count'),
])
def test_malformed_files_are_named(tmp_path, data, message):
    path = save(tmp_path / "c.json", data)
    with pytest.raises(DataError, match=message) as error:
        didemo.parse(path, Reading())
    assert str(path) in str(error.value)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=4)), max_size=5))
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("didemo") / "c.json"
    truth = {}
    for i, (vid, named, times) in enumerate(rows):
        told = tuple(Segment(5 * a, 5 * (a + n + 1), sentence=f"{i}.", id=str(i) if named else None) for a, n in times)
        truth[vid] = VideoTruth(30, truth.get(vid, VideoTruth(30)).annotations + told)
    didemo.write(path, truth)
    assert didemo.parse(path, Reading()) == truth


def test_writing_rounds_to_chunks(tmp_path):
    told = (Segment(4, 11, sentence="A.", id="x"), Segment(6, 6, sentence="A.", id="x"), Segment(0, 5, sentence="B."))
    didemo.write(tmp_path / "c.json", {"a": VideoTruth(26.0, told), "none": VideoTruth(9.0)})
    assert json.loads((tmp_path / "c.json").read_text()) == [
        {"num_segments": 6, "description": "A.", "times": [[1, 1], [1, 1]], "video": "a", "annotation_id": "x"},
        {"num_segments": 6, "description": "B.", "times": [[0, 0]], "video": "a"}]
    with pytest.raises(DataError, match="has no sentence"):
        didemo.write(tmp_path / "d.json", {"a": VideoTruth(26.0, (Segment(0, 5, "cat"),))})
    assert not (tmp_path / "d.json").exists()


def test_the_official_file(tmp_path):
    path = shared("annotations/didemo/val_data.json")
    reading = Reading()
    found = didemo.parse(path, reading)
    official = json.loads(path.read_text())
    every = [s for v in found.values() for s in v.annotations]
    assert (len(official), len(found)) == (4_180, 1_094)  # its evaluator's own count of descriptions
    assert len(every) == sum(len(r["times"]) for r in official) == 4_165 * 4 + 15 * 7
    assert len({s.id for s in every}) == 4_180
    assert {v.duration for v in found.values()} == {25, 30}
    assert all(s.end <= v.duration for v in found.values() for s in v.annotations)
    assert {v.subset for v in found.values()} == {"validation"}
    assert not reading.problems
    didemo.write(tmp_path / "val.json", found)
    assert didemo.parse(tmp_path / "val.json", Reading()) == found
    ours = {r["annotation_id"]: r for r in json.loads((tmp_path / "val.json").read_text())}
    for theirs in official:
        del theirs["dl_link"]
        theirs["description"] = theirs["description"].strip()
        assert ours[theirs["annotation_id"]] == theirs


@pytest.mark.parametrize(("head", "kind"), [
    (json.dumps([row()]), "truth"), (json.dumps([row()], indent=2), "truth"),
    (json.dumps([row(), row()])[:-30], "truth"),
    (json.dumps(row()), None), ("[]", None), ("", None), (json.dumps([{"id": 1, "annotations": []}]), None),
    ("[[1, 2]]", None),
])
def test_looks(tmp_path, head, kind):
    assert didemo.looks(tmp_path / "c.json", head) == kind
