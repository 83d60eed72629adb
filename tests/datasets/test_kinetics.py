"""Kinetics: a row is a trimmed file."""

from __future__ import annotations

import pytest
from hostile import NAMES, broken_table, survives
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import kinetics
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

FORMAT = kinetics.FORMAT
CSV = ("label,youtube_id,time_start,time_end,split,is_cc\n"
       "\"passing American football (in game), again\",---QUuC4vJs,84,94,validate,0\n"
       "testifying,_dbcJuKJQNs,0,7,train,0\n")
TRUTH = {"---QUuC4vJs_000084_000094": VideoTruth(
             10.0, (Segment(0, 10, "passing American football (in game), again"),), "validation"),
         "_dbcJuKJQNs_000000_000007": VideoTruth(7.0, (Segment(0, 7, "testifying"),), "training")}


def saved(path, text=CSV):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_is_a_trimmed_file(tmp_path):
    reading = Reading()
    assert FORMAT.parse(saved(tmp_path / "k.csv"), reading) == TRUTH
    assert reading.problems == []
    assert FORMAT.looks(tmp_path / "k.csv", CSV) == "truth"


def test_test_files_have_no_labels_and_other_files_no_split(tmp_path):
    path = saved(tmp_path / "k.csv", "youtube_id,time_start,time_end,split\na,1,11,test\n")
    assert FORMAT.parse(path, Reading()) == {"a_000001_000011": VideoTruth(10.0, (), "testing")}
    assert FORMAT.looks(path, path.read_text()) == "truth"
    text = "label,youtube_id,time_start,time_end\nx,a,1,11\n"
    assert FORMAT.parse(saved(tmp_path / "k400_val.csv", text), Reading())["a_000001_000011"].subset == "validation"
    assert FORMAT.parse(saved(tmp_path / "k400.csv", text), Reading(subset="m"))["a_000001_000011"].subset == "m"


def test_several_labels_repetitions_and_inverted_rows(tmp_path):
    path = saved(tmp_path / "k.csv", "label,youtube_id,time_start,time_end,split\nx,a,1,11,train\ny,a,1,11,train\n"
                                     "x,a,1,11,train\n,a,1,11,train\nz,a,11,1,train\nx,a,12,22,train\n")
    reading = Reading()
    assert FORMAT.parse(path, reading) == {
        "a_000001_000011": VideoTruth(10.0, (Segment(0, 10, "x"), Segment(0, 10, "y"))),
        "a_000012_000022": VideoTruth(10.0, (Segment(0, 10, "x"),))}
    assert [(p.where, p.done) for p in reading.problems] == [(f"'{path}', line {n}", "dropped") for n in (4, 5, 6)]


@pytest.mark.parametrize(("change", "message"), [
    (("time_end", "end"), r"k\.csv' has no column 'time_end'"),
    ((",84,", ",soon,"), "line 2: expected time_start in seconds, got 'soon'"),
    ((",84,", ",-84,"), "line 2: expected a youtube_id and a time_start from 0, got '---QUuC4vJs' and -84"),
    (("---QUuC4vJs", ""), "line 2: expected a youtube_id"),
    (("_dbcJuKJQNs,0,7", "---QUuC4vJs,84,94"), "line 3: clip '---QUuC4vJs_000084_000094' is there before, with"),
])
def test_malformed_files(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        FORMAT.parse(saved(tmp_path / "k.csv", CSV.replace(*change)), Reading())


def test_broken_files_are_read_or_refused(tmp_path):
    read, refused = survives(tmp_path / "k.csv", broken_table(CSV), FORMAT.parse)
    assert read > 50
    assert refused > 20


CLIPS = st.tuples(NAMES, st.integers(0, 2_000_000), st.integers(0, 20)).map(
    lambda c: (f"{c[0]}_{c[1]:06d}_{c[1] + c[2]:06d}", float(c[2])))
VIDEO = st.tuples(CLIPS, st.lists(NAMES, max_size=3, unique=True), st.sampled_from(["training", "testing", "other"]))


@settings(max_examples=50, deadline=None)
@given(videos=st.lists(VIDEO, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, videos):
    truth = {vid: VideoTruth(duration, tuple(Segment(0, duration, label) for label in labels), subset)
             for (vid, duration), labels, subset in videos}
    path = tmp_path_factory.mktemp("kinetics") / "k.csv"
    FORMAT.write(path, truth)
    assert FORMAT.parse(path, Reading()) == truth


@pytest.mark.parametrize(("vid", "video", "message"), [
    ("a", VideoTruth(10.0), "video 'a' of 10 s is no trimmed clip of Kinetics"),
    ("a_1_11", VideoTruth(10.0), "is no trimmed clip of Kinetics"),
    ("a_000001_000011", VideoTruth(9.5), "of 9.5 s is no trimmed clip"),
    ("a_0000001_0000011", VideoTruth(10.0), "is no trimmed clip"),
    ("a_000001_000011", VideoTruth(10.0, (Segment(0, 9, "x"),)), "has an annotation that does not cover it"),
    ("a_000001_000011", VideoTruth(10.0, (Segment(0, 10, "x"),) * 2), "or one twice"),
    ("a_000001_000011", VideoTruth(10.0, (Segment(0, 10),)), "an annotation without a label"),
])
def test_what_cannot_be_written_leaves_nothing(tmp_path, vid, video, message):
    with pytest.raises(DataError, match=message):
        FORMAT.write(tmp_path / "k.csv", TRUTH | {vid: video})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("head", ["label,youtube_id,start,end\n", "video,time_start,time_end\n", "", "{}"])
def test_other_files_are_not_kinetics(tmp_path, head):
    assert FORMAT.looks(tmp_path / "k.csv", head) is None
