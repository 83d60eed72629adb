"""ActivityNet Captions: in, out, and what real files get wrong."""

from __future__ import annotations

import json
import logging

import pytest
from conftest import shared

from cuemark.datasets import captions
from cuemark.errors import DataError
from cuemark.segments import Segment


def entry(duration=10.0, timestamps=((0.0, 4.0),), sentences=("A man sits.",)):
    return {"duration": duration, "timestamps": [list(t) for t in timestamps], "sentences": list(sentences)}


def save(path, data):
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_reads_in_file_order_without_the_prefix(tmp_path):
    path = save(tmp_path / "c.json", {
        "v_b": entry(timestamps=[(3, 9), (0, 4)], sentences=["  Later. ", "Früher."]),
        "v_a": entry(),
        "v_v_x": entry(),  # one prefix is the file's, the other belongs to the id
    })
    found = captions.parse(path)
    assert list(found) == ["b", "a", "v_x"]
    assert found["b"] == [Segment(3.0, 9.0, sentence="Later."), Segment(0.0, 4.0, sentence="Früher.")]


def test_round_trip(tmp_path):
    told = {"b": [Segment(1.25, 2.5, sentence="One."), Segment(0.0, 9.0, sentence="Zwei.")], "a": []}
    captions.write(tmp_path / "c.json", told, {"a": 5.0, "b": 9.5})
    assert list(json.loads((tmp_path / "c.json").read_text())) == ["v_b", "v_a"]
    assert captions.parse(tmp_path / "c.json") == told
    truth = captions.truth(tmp_path / "c.json", "testing")
    assert {vid: (v.duration, v.subset) for vid, v in truth.items()} == {"b": (9.5, "testing"), "a": (5.0, "testing")}


def test_ids_stay_where_not_all_have_the_prefix(tmp_path):
    assert list(captions.parse(save(tmp_path / "c.json", {"v_a": entry(), "b": entry()}))) == ["v_a", "b"]


def test_an_id_that_begins_with_the_prefix_survives(tmp_path):
    captions.write(tmp_path / "c.json", {"v_a": [Segment(0, 1, sentence="x", label="y"), Segment(0, 1)]}, {"v_a": 1})
    assert json.loads((tmp_path / "c.json").read_text()) == {"v_v_a": entry(1, [(0, 1)], ["x"])}
    assert list(captions.parse(tmp_path / "c.json")) == ["v_a"]


def test_writing_needs_every_duration(tmp_path):
    with pytest.raises(DataError, match="video 'b' has captions but no duration"):
        captions.write(tmp_path / "c.json", {"a": [], "b": []}, {"a": 1.0})
    assert not list(tmp_path.iterdir())


def test_rows_that_end_before_they_start_are_dropped_and_counted_once(tmp_path, caplog):
    path = save(tmp_path / "c.json", {
        "v_a": entry(timestamps=[(4, 3), (1, 1), (0, 99)], sentences=["no", "zero", "long"]),
        "v_b": entry(timestamps=[(9, 0)], sentences=["no"]),
    })
    with caplog.at_level(logging.WARNING, logger="cuemark"):
        found = captions.parse(path)
    assert [(s.start, s.end, s.sentence) for s in found["a"]] == [(1, 1, "zero"), (0, 99, "long")]
    assert found["b"] == []
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "dropped 2" in message
    assert "caption 0 of video 'v_a'" in message


@pytest.mark.parametrize(("data", "message"), [
    ([], "not a caption file"),
    ({"v_a": 3}, "video 'v_a': expected an object with"),
    ({"v_a": {"duration": 1, "timestamps": []}}, "expected an object with"),
    ({"v_a": entry(duration="long")}, "expected an object with"),
    ({"v_a": entry(duration=float("nan"))}, '"duration" must be a number of seconds'),
    ({"v_a": entry(duration=-1)}, '"duration" must be a number of seconds'),
    ({"v_a": entry(sentences=["a", "b"])}, "lists of one length"),
    ({"v_a": {"duration": 1, "timestamps": "ab", "sentences": "cd"}}, "lists of one length"),
    ({"v_a": entry(timestamps=[(0, 1), (1,)], sentences=["a", "b"])}, r"'v_a', caption 1: expected \[start, end\]"),
    ({"v_a": entry(timestamps=[(0, "x")])}, r"caption 0: expected \[start, end\]"),
    ({"v_a": entry(timestamps=[(0, float("nan"))])}, "caption 0: segment times must be finite"),
    ({"v_a": entry(sentences=[7])}, "caption 0: expected a sentence, got 7"),
])
def test_malformed_files_are_named(tmp_path, data, message):
    path = save(tmp_path / "c.json", data)
    with pytest.raises(DataError, match=message) as error:
        captions.parse(path)
    assert str(path) in str(error.value)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        captions.parse(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"v_a": {"duration": 1')
    with pytest.raises(DataError, match="not valid JSON"):
        captions.parse(tmp_path / "half.json")


@pytest.mark.parametrize(("split", "videos", "sentences", "dropped"), [
    ("train", 10_009, 37_421, 2), ("val", 4_917, 17_505, 0), ("test", 4_885, 17_031, 0),
])
def test_the_official_files(split, videos, sentences, dropped, tmp_path, caplog):
    path = shared(f"annotations/2d-tan/ActivityNet/{split}.json")
    with caplog.at_level(logging.WARNING, logger="cuemark"):
        found = captions.truth(path)
    assert len(found) == videos
    assert sum(len(v.annotations) for v in found.values()) == sentences - dropped
    assert len(caplog.records) == (1 if dropped else 0)
    assert sum(vid.startswith("v_") for vid in found) <= 2  # ids of YouTube that begin so; the files' own is gone
    assert {len(vid) for vid in found} == {11}
    assert all(s.sentence and s.sentence == s.sentence.strip() for v in found.values() for s in v.annotations)
    if split == "val":  # written and read again it is the same
        told = {vid: list(v.annotations) for vid, v in found.items()}
        captions.write(tmp_path / "again.json", told, {vid: v.duration for vid, v in found.items()})
        assert captions.truth(tmp_path / "again.json") == found
        ours, official = (json.loads(p.read_text("utf-8")) for p in (tmp_path / "again.json", path))
        assert list(ours) == list(official)
        assert all(ours[v]["timestamps"] == official[v]["timestamps"] for v in official)
