"""TACoS: frames in the file, seconds here."""

from __future__ import annotations

import json

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import tacos
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth


def entry(timestamps=((30, 60),), sentences=("He cuts.",), **more):
    return {"timestamps": [list(t) for t in timestamps], "sentences": list(sentences), "fps": 30.0, "num_frames": 300,
            **more}


def save(path, data):
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_frames_become_seconds(tmp_path):
    rows = entry([(30, 60), (0, 400)], [" He cuts. ", "Long."])
    path = save(tmp_path / "val.json", {"b.avi": rows, "a.avi": entry()})
    reading = Reading()
    found = tacos.parse(path, reading)
    assert list(found) == ["b.avi", "a.avi"]
    assert found["b.avi"] == VideoTruth(10.0, (Segment(1, 2, sentence="He cuts."),
                                               Segment(0, 400 / 30, sentence="Long.")), "validation", 30.0)
    assert not reading.problems  # an end beyond the video is kept as written


def test_impossible_rows_are_dropped_and_noted(tmp_path):
    reading = Reading()
    path = save(tmp_path / "c.json", {"a": entry([(60, 30), (1, 2), (5, 5)], ["no", "  ", "zero"])})
    assert tacos.parse(path, reading)["a"].annotations == (Segment(5 / 30, 5 / 30, sentence="zero"),)
    assert {(p.where[-9:], p.what[:12], p.done) for p in reading.problems} == {
        ("caption 0", "ends before ", "dropped"), ("caption 1", "has no words", "dropped")}


def test_a_rate_that_no_file_tells(tmp_path):
    path = save(tmp_path / "c.json", {"a": entry(fps=None)})
    with pytest.raises(DataError, match=r"video 'a': it counts frames .* --fps"):
        tacos.parse(path, Reading())
    assert tacos.parse(path, Reading(fps=60))["a"] == VideoTruth(5.0, (Segment(0.5, 1, sentence="He cuts."),), fps=60)


@pytest.mark.parametrize(("data", "message"), [
    ([], "not a TACoS file"),
    ({"a": 3}, "video 'a': expected an object"),
    ({"a": {"timestamps": [], "sentences": [], "fps": 30}}, "num_frames"),
    ({"a": entry(num_frames=-1)}, "num_frames"),
    ({"a": entry(num_frames="many")}, "num_frames"),
    ({"a": entry(fps=0)}, "0.0 frames a second is impossible"),
    ({"a": entry(fps=[30])}, 'frames a second as "fps"'),
    ({"a": entry(sentences=[])}, "lists of one length"),
    ({"a": entry([(1,)])}, r"caption 0: expected \[start, end\]"),
    ({"a": entry([(1, "x")])}, "caption 0: expected frames, got 'x'"),
    ({"a": entry([(None, 1)])}, "caption 0: expected frames"),
    ({"a": entry([(0, 10**400)])}, "caption 0: expected frames"),
    ({"a": entry([(0, float("nan"))])}, "caption 0: expected frames"),
    ({"a": entry(sentences=[None])}, "caption 0: expected a sentence"),
])
def test_malformed_files_are_named(tmp_path, data, message):
    path = save(tmp_path / "c.json", data)
    with pytest.raises(DataError, match=message) as error:
        tacos.parse(path, Reading())
    assert str(path) in str(error.value)


def test_a_video_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "c.json").write_text('{"a": {}, "a": {}}')
    with pytest.raises(DataError, match="twice"):
        tacos.parse(tmp_path / "c.json", Reading())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([29.4, 30.0, 25.0, 30000 / 1001]),
       st.lists(st.tuples(st.integers(0, 99_999), st.integers(0, 999))), st.integers(0, 99_999))
def test_what_is_written_is_read(tmp_path_factory, fps, frames, length):
    path = tmp_path_factory.mktemp("tacos") / "c.json"
    told = tuple(Segment(first / fps, (first + n) / fps, sentence=f"{n} frames.") for first, n in frames)
    truth = {"a.avi": VideoTruth(length / fps, told, "training", fps)}
    tacos.write(path, truth)
    assert tacos.parse(path, Reading()) == truth
    assert json.loads(path.read_text())["a.avi"]["timestamps"] == [[first, first + n] for first, n in frames]


def test_writing_needs_a_rate_and_sentences(tmp_path):
    with pytest.raises(DataError, match="video 'a' has no frame rate"):
        tacos.write(tmp_path / "c.json", {"a": VideoTruth(1.0)})
    with pytest.raises(DataError, match=r"of video 'a', .* has no sentence"):
        tacos.write(tmp_path / "c.json", {"a": VideoTruth(1.0, (Segment(0, 1, "cut"),), fps=25)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("split", "videos", "sentences", "beyond", "mean", "subset"), [
    ("train", 75, 9_790, 43, 224, "training"), ("val", 27, 4_436, 0, 387, "validation"),
    ("test", 25, 4_001, 5, 367, "testing"),
])
def test_the_official_files(split, videos, sentences, beyond, mean, subset, tmp_path):
    path = shared(f"annotations/2d-tan/TACoS/{split}.json")
    reading = Reading()
    found = tacos.parse(path, reading)
    every = [(s, v) for v in found.values() for s in v.annotations]
    assert (len(found), len(every)) == (videos, sentences)
    assert sum(s.end > v.duration for s, v in every) == beyond
    assert sum(v.duration for v in found.values()) / videos == pytest.approx(mean, abs=0.5)
    assert {(v.fps, v.subset) for v in found.values()} == {(29.4, subset)}
    assert not reading.problems
    if split == "test":
        lengths = sorted(s.duration for s, _ in every)
        assert sum(lengths) / len(lengths) == pytest.approx(31.9, abs=0.05)
        assert lengths[len(lengths) // 2] == pytest.approx(14.4, abs=0.05)
        assert sum(s.duration / v.duration for s, v in every) / len(every) == pytest.approx(0.088, abs=0.0005)
    tacos.write(tmp_path / path.name, found)
    ours, official = (json.loads(p.read_text("utf-8")) for p in (tmp_path / path.name, path))
    for video in official.values():
        video["sentences"] = [s.strip() for s in video["sentences"]]
    assert ours == official


@pytest.mark.parametrize(("head", "kind"), [
    (json.dumps({"s.avi": entry()}), "truth"),
    (json.dumps({"s.avi": entry()}, indent=1), "truth"),
    (json.dumps({"v_a": {"duration": 1.0, "timestamps": [[0, 1]], "sentences": ["a"]}}), None),
    (json.dumps({"num_frames": 3, "timestamps": [], "sentences": []}), None),
    (json.dumps({"database": {}}), None), ("", None), ("a 0 1##b", None),
])
def test_looks(tmp_path, head, kind):
    assert tacos.looks(tmp_path / "c.json", head) == kind
