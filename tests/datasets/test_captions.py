"""ActivityNet Captions: in, out, and what real files get wrong; predicted captions."""

from __future__ import annotations

import json
import logging

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import captions
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth


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
    assert found["b"] == VideoTruth(10.0, (Segment(3.0, 9.0, sentence="Later."), Segment(0.0, 4.0, sentence="Früher.")))


def test_the_subset_is_what_the_name_tells_else_what_was_said(tmp_path):
    for name, subset in ("val_1.json", "validation"), ("train.json", "training"), ("c.json", "mine"):
        assert captions.parse(save(tmp_path / name, {"v_a": entry()}), Reading(subset="mine"))["a"].subset == subset


def test_ids_stay_where_not_all_have_the_prefix(tmp_path):
    assert list(captions.parse(save(tmp_path / "c.json", {"v_a": entry(), "b": entry()}))) == ["v_a", "b"]


def test_an_id_that_begins_with_the_prefix_survives(tmp_path):
    captions.write(tmp_path / "c.json", {"v_a": VideoTruth(1.0, (Segment(0, 1, sentence="x", label="y"),))})
    assert json.loads((tmp_path / "c.json").read_text()) == {"v_v_a": entry(1, [(0, 1)], ["x"])}
    assert list(captions.parse(tmp_path / "c.json")) == ["v_a"]


TEXT = st.text(st.characters(exclude_categories=["C"]), min_size=1).map(str.strip).filter(bool)
SEGMENTS = st.builds(lambda start, length, sentence: Segment(start, start + length, sentence=sentence),
                     st.floats(-5, 1e5), st.floats(0, 1e4), TEXT)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(TEXT, st.builds(VideoTruth, st.floats(0, 1e5), st.lists(SEGMENTS, max_size=4).map(tuple))))
def test_what_is_written_is_read(tmp_path_factory, truth):
    path = tmp_path_factory.mktemp("captions") / "c.json"
    captions.write(path, truth)
    assert captions.parse(path, Reading()) == truth
    found = {vid: list(video.annotations) for vid, video in truth.items()}
    captions.write_predictions(path, found, {})
    assert captions.parse_predictions(path, Reading()) == found


@pytest.mark.parametrize("sentence", [None, "", " \n "])
def test_writing_needs_sentences(tmp_path, sentence):
    with pytest.raises(DataError, match=r"of video 'b', \[2, 3\], has no sentence"):
        captions.write(tmp_path / "c.json", {"b": VideoTruth(9.0, (Segment(2, 3, "Ballet", sentence=sentence),))})
    assert not list(tmp_path.iterdir())


def test_rows_that_are_impossible_are_dropped_and_noted(tmp_path, caplog):
    path = save(tmp_path / "c.json", {
        "v_a": entry(timestamps=[(4, 3), (1, 1), (0, 99)], sentences=["no", "zero", "long"]),
        "v_b": entry(timestamps=[(9, 0), (0, 1)], sentences=["no", " "]),
    })
    reading = Reading()
    found = captions.parse(path, reading)
    assert [(s.start, s.end, s.sentence) for s in found["a"].annotations] == [(1, 1, "zero"), (0, 99, "long")]
    assert found["b"].annotations == ()
    assert [(p.where, p.what, p.done) for p in reading.problems] == [
        (f"'{path}', video 'v_a', caption 0", "ends before it starts: [4, 3]", "dropped"),
        (f"'{path}', video 'v_b', caption 1", "has no words", "dropped"),
        (f"'{path}', video 'v_b', caption 0", "ends before it starts: [9, 0]", "dropped"),
    ]
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="cuemark"):  # without a reading the log hears of it, once
        assert captions.parse(path) == found
    assert [record.getMessage() for record in caplog.records] == [
        f"'{path}': dropped 3 annotation(s), the first: {reading.problems[0].where} {reading.problems[0].what}."]


@pytest.mark.parametrize(("data", "message"), [
    ([], "not a caption file"),
    ({"v_a": 3}, "video 'v_a': expected an object with"),
    ({"v_a": {"duration": 1, "timestamps": []}}, "expected an object with"),
    ({"v_a": {"timestamps": [], "sentences": []}}, 'expected a "duration" in seconds'),
    ({"v_a": entry(duration="long")}, 'expected a "duration" in seconds'),
    ({"v_a": entry(duration=float("nan"))}, 'expected a "duration" in seconds'),
    ({"v_a": entry(duration=-1)}, 'expected a "duration" in seconds'),
    ({"v_a": entry(duration=10**400)}, 'expected a "duration" in seconds'),
    ({"v_a": entry(duration=True)}, 'expected a "duration" in seconds'),
    ({"v_a": entry(sentences=["a", "b"])}, "lists of one length"),
    ({"v_a": {"duration": 1, "timestamps": "ab", "sentences": "cd"}}, "lists of one length"),
    ({"v_a": entry(timestamps=[(0, 1), (1,)], sentences=["a", "b"])}, r"'v_a', caption 1: expected \[start, end\]"),
    ({"v_a": entry(timestamps=[(0, "x")])}, "caption 0: expected a start and an end in seconds"),
    ({"v_a": entry(timestamps=[([0], 1)])}, "caption 0: expected a start and an end in seconds"),
    ({"v_a": entry(timestamps=[(None, 1)])}, "caption 0: expected a start and an end in seconds"),
    ({"v_a": entry(timestamps=[(0, 10**400)])}, "caption 0: expected a start and an end in seconds"),
    ({"v_a": entry(timestamps=[(0, float("nan"))])}, "caption 0: expected a start and an end in seconds"),
    ({"v_a": entry(sentences=[7])}, "caption 0: expected a sentence, got 7"),
])
def test_malformed_files_are_named(tmp_path, data, message):
    path = save(tmp_path / "c.json", data)
    with pytest.raises(DataError, match=message) as error:
        captions.parse(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("read", [captions.parse, captions.parse_predictions])
def test_a_missing_or_broken_file_is_named(tmp_path, read):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.json")
    for text, message in (b'{"v_a": {"duration": 1', "not valid JSON"), (b"\xff\xfe", "cannot be read"), (b"", "JSON"):
        (tmp_path / "half.json").write_bytes(text)
        with pytest.raises(DataError, match=message):
            read(tmp_path / "half.json")


def test_a_video_that_is_there_twice_is_refused(tmp_path):
    one = json.dumps(entry())
    (tmp_path / "c.json").write_text(f'{{"v_a": {one}, "v_a": {one}}}')
    with pytest.raises(DataError, match='"v_a" twice'):
        captions.parse(tmp_path / "c.json")


@pytest.mark.parametrize(("split", "videos", "sentences", "dropped", "kept", "beyond", "subset"), [
    ("train", 10_009, 37_421, 2, 37_417, 29, "training"),
    ("val", 4_917, 17_505, 0, 17_505, 5, "validation"),
    ("test", 4_885, 17_031, 0, 17_031, 1, "testing"),
])
def test_the_official_files(split, videos, sentences, dropped, kept, beyond, subset, tmp_path):
    path = shared(f"annotations/2d-tan/ActivityNet/{split}.json")
    reading = Reading()
    found = captions.parse(path, reading)
    every = [(s, v) for v in found.values() for s in v.annotations]
    assert len(found) == videos
    assert len(every) == sentences - dropped
    assert [p.done for p in reading.problems] == ["dropped"] * dropped
    assert sum(max(s.start, 0) < min(s.end, v.duration) for s, v in every) == kept  # what 2D-TAN would keep
    # all by 0.01 s; some hundred more ends are written with 14 decimals and lie 3e-14 s beyond
    assert sum(s.end > v.duration + 1e-9 for s, v in every) == beyond
    assert {v.subset for v in found.values()} == {subset}
    assert sum(vid.startswith("v_") for vid in found) <= 2  # ids of YouTube that begin so; the files' own is gone
    assert {len(vid) for vid in found} == {11}
    assert all(s.sentence and s.sentence == s.sentence.strip() for s, _ in every)
    if split == "val":  # written and read again it is the same
        captions.write(tmp_path / "val.json", found)
        assert captions.parse(tmp_path / "val.json") == found
        ours, official = (json.loads(p.read_text("utf-8")) for p in (tmp_path / "val.json", path))
        assert list(ours) == list(official)
        assert all(ours[v]["timestamps"] == official[v]["timestamps"] for v in official)


def test_the_lengths_of_moments_are_the_reference_s():
    found = captions.parse(shared("annotations/2d-tan/ActivityNet/test.json"))
    lengths = sorted(s.duration for v in found.values() for s in v.annotations)
    assert sum(lengths) / len(lengths) == pytest.approx(40.25, abs=0.005)
    assert lengths[len(lengths) // 2] == pytest.approx(26.4, abs=0.05)


# ---------------------------------------------------------------------------------------------- predictions


def predictions(*rows, video="v_a"):
    return {"version": "VERSION 1.0", "external_data": {"used": False, "details": ""}, "results": {video: list(rows)}}


def test_predictions_in_and_out(tmp_path):
    data = predictions({"sentence": "She cooks", "timestamp": [5, 7.5]},
                       {"sentence": "She eats", "timestamp": [1, 2], "proposal_score": 0.25})
    found = captions.parse_predictions(save(tmp_path / "p.json", data))
    assert found == {"a": [Segment(5, 7.5, sentence="She cooks"), Segment(1, 2, sentence="She eats", score=0.25)]}
    captions.write_predictions(tmp_path / "again.json", found, {})
    assert json.loads((tmp_path / "again.json").read_text()) == data


def test_a_prediction_without_a_sentence_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="prediction 1 of video 'a' has no sentence"):
        captions.write_predictions(tmp_path / "p.json", {"a": [Segment(0, 1, sentence=""), Segment(0, 1, "x")]}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("data", "message"), [
    ([], 'no "results" object'),
    ({"v_a": entry()}, 'no "results" object'),
    ({"results": {"v_a": {}}}, "video 'v_a': expected a list"),
    (predictions(3), "'v_a', caption 0: expected an object"),
    (predictions({"timestamp": [0, 1]}), "caption 0: expected an object with \"sentence\""),
    (predictions({"sentence": "a"}), r"caption 0: expected \[start, end\]"),
    (predictions({"sentence": "a", "timestamp": [0, "x"]}), "expected a start and an end in seconds"),
    (predictions({"sentence": "a", "timestamp": [0, 1], "proposal_score": "high"}), 'a number as "proposal_score"'),
    (predictions({"sentence": "a", "timestamp": [0, 1], "proposal_score": float("nan")}), "proposal_score"),
])
def test_malformed_predictions_are_named(tmp_path, data, message):
    path = save(tmp_path / "p.json", data)
    with pytest.raises(DataError, match=message) as error:
        captions.parse_predictions(path)
    assert str(path) in str(error.value)


def test_inverted_predictions_are_dropped_and_noted(tmp_path):
    reading = Reading()
    path = save(tmp_path / "p.json", predictions({"sentence": "a", "timestamp": [3, 1]}))
    assert captions.parse_predictions(path, reading) == {"a": []}
    assert [p.done for p in reading.problems] == ["dropped"]


def test_real_predictions_meet_their_truth():
    found = captions.parse_predictions(shared("predictions/captions/bmt_val_1.json"))
    truth = captions.parse(shared("annotations/bmt_val_1_no_missings.json"))
    assert found.keys() == truth.keys()
    assert (len(found), sum(map(len, found.values()))) == (4_483, 15_921)
    assert sum(len(v.annotations) for v in truth.values()) == 15_921
    assert {v.subset for v in truth.values()} == {"validation"}
    assert all(s.sentence and s.score is None for segments in found.values() for s in segments)


# ---------------------------------------------------------------------------------------------- recognising


@pytest.mark.parametrize(("head", "kind"), [
    (json.dumps({"v_a": entry()}), "truth"),
    (json.dumps({"v_a": entry()}, indent=2), "truth"),
    (json.dumps({"v_a": entry(sentences=["cut"])})[:-5], "truth"),
    (json.dumps(predictions({"sentence": "a", "timestamp": [0, 1]})), "predictions"),
    (json.dumps({"results": {"a": [{"segment": [0, 1], "label": "x", "score": 1, "sentence": "s"}]}}), None),
    (json.dumps({"database": {"a": {"duration": 1, "annotations": []}}}), None),
    (json.dumps({"a.avi": {"timestamps": [], "sentences": [], "fps": 29.4, "num_frames": 3, "duration": 1}}), None),
    (json.dumps({"qid": 1, "query": "q", "vid": "v", "duration": 3, "relevant_windows": []}), None),
    (json.dumps([entry()]), None),
    ("", None), ("v_a 0 1##text", None), ("start,end,label", None), ("<xml/>", None),
])
def test_looks(tmp_path, head, kind):
    assert captions.looks(tmp_path / "c.json", head) == kind
