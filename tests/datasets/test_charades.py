"""Charades-STA: a line a moment, lengths from Charades' tables."""

from __future__ import annotations

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import charades
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth


def save(path, text, table=None):
    path.write_bytes(text.encode())
    if table is not None:
        (path.parent / "Charades_v1_test.csv").write_text(table)
    return path


TABLE = 'id,subject,script,length\nAAAAA,S1,"He says ""no"", twice",30.5\nBBBBB,S2,,10\n'


def test_rows_by_video_with_lengths_from_the_table(tmp_path):
    path = save(tmp_path / "charades_sta_test.txt", "BBBBB 0.0 9##  person sits.\r\nAAAAA 1.5 30##a ##b.\r\n"
                "BBBBB 2 4##person stands. \r\n\r\n", TABLE)
    reading = Reading()
    assert charades.parse(path, reading) == {
        "BBBBB": VideoTruth(10.0, (Segment(0, 9, sentence="person sits."), Segment(2, 4, sentence="person stands.")),
                            "testing"),
        "AAAAA": VideoTruth(30.5, (Segment(1.5, 30, sentence="a ##b."),), "testing"),
    }
    assert not reading.problems


def test_rows_are_clipped_and_dropped_and_noted(tmp_path):
    path = save(tmp_path / "charades_sta_test.txt",
                "BBBBB 4 12.5##a\nBBBBB 10 12##b\nBBBBB 5 4##c\nBBBBB 5 5##d\nBBBBB 0 1## \nBBBBB -1 1##e\n", TABLE)
    reading = Reading()
    assert charades.parse(path, reading)["BBBBB"].annotations == (
        Segment(4, 10, sentence="a"), Segment(0, 1, sentence="e"))
    assert [(p.where.split()[-1], p.done) for p in reading.problems] == [
        ("1", "clipped"), ("2", "dropped"), ("3", "dropped"), ("4", "dropped"), ("5", "dropped"), ("6", "clipped")]


def test_where_lengths_come_from(tmp_path):
    path = save(tmp_path / "mine.txt", "AAAAA 1 40##a\nCCCCC 1 40##a\n")
    assert [v.duration for v in charades.parse(path, Reading()).values()] == [40, 40]  # nothing tells
    save(path, path.read_text(), TABLE)
    (tmp_path / "Charades_v1_train.csv").write_text("id,length\nCCCCC,35\n")
    assert [v.duration for v in charades.parse(path, Reading()).values()] == [30.5, 35]  # both tables are beside it
    assert [v.duration for v in charades.parse(path, Reading(durations={"CCCCC": 36.0})).values()] == [30.5, 36]
    other = tmp_path / "other.csv"
    other.write_text("id,length\nAAAAA,33\n")
    found = charades.parse(path, Reading(meta=other))
    assert [(v.duration, v.annotations[0].end) for v in found.values()] == [(33, 33), (40, 40)]


@pytest.mark.parametrize(("text", "message"), [
    ("AAAAA 1 2#text", "line 1: expected 'VIDEO START END##SENTENCE'"),
    ("AAAAA 1 2##a\n\nAAAAA 1##b", "line 3: expected 'VIDEO START END##SENTENCE'"),
    ("##a", "line 1: expected 'VIDEO START END##SENTENCE'"),
    ("AAAAA one 2##a", "line 1: expected a start and an end in seconds"),
    ("AAAAA 1 nan##a", "line 1: expected a start and an end in seconds"),
    ("AAAAA 1 inf##a", "line 1: expected a start and an end in seconds"),
    ("AAAAA 1 1e999##a", "line 1: expected a start and an end in seconds"),
    ('{"a": 1}', "line 1: expected 'VIDEO START END##SENTENCE'"),
])
def test_malformed_lines_are_named(tmp_path, text, message):
    path = save(tmp_path / "c.txt", text, TABLE)
    with pytest.raises(DataError, match=message) as error:
        charades.parse(path, Reading())
    assert str(path) in str(error.value)


def test_what_is_no_text_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        charades.parse(tmp_path / "none.txt", Reading())
    with pytest.raises(DataError, match="folder"):
        charades.parse(tmp_path, Reading())
    (tmp_path / "c.txt").write_bytes(b"A 0 1##caf\xe9\n")
    with pytest.raises(DataError, match="cannot be read as a Charades-STA file"):
        charades.parse(tmp_path / "c.txt", Reading())


@pytest.mark.parametrize(("table", "message"), [
    ("id,seconds\nA,1\n", "no column 'length'"),
    ("id,length\nA,long\n", "line 2: expected a length in seconds"),
    ("id,length\nA,0\n", "line 2: expected a length in seconds above 0, got 0"),
    ("id,length\nA,1\nA,1\n", "line 3: video 'A' is there twice"),
    ("id,length\nA\n", "line 2: expected 2 cells"),
    ("", "is empty"),
])
def test_malformed_tables_are_named(tmp_path, table, message):
    path = save(tmp_path / "charades_sta_test.txt", "A 0 1##a", table)
    with pytest.raises(DataError, match=message) as error:
        charades.parse(path, Reading())
    assert "Charades_v1_test.csv" in str(error.value)


def test_a_table_that_was_named_must_be_there(tmp_path):
    path = save(tmp_path / "c.txt", "A 0 1##a")
    with pytest.raises(DataError, match=r"absent\.csv' does not exist"):
        charades.parse(path, Reading(meta=tmp_path / "absent.csv"))


WORDS = st.text(st.characters(exclude_categories=["C"]), min_size=1).map(str.strip).filter(bool)
MOMENTS = st.builds(lambda start, length, sentence: Segment(start, start + length, sentence=sentence),
                    st.floats(0, 1e5), st.floats(1e-3, 1e4), WORDS)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(WORDS.filter(lambda x: "##" not in x and not x.endswith("#")),
                       st.lists(MOMENTS, min_size=1, max_size=4)))
def test_what_is_written_is_read(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("charades") / "c.txt"
    truth = {vid: VideoTruth(max(s.end for s in segments), tuple(segments)) for vid, segments in found.items()}
    charades.write(path, truth)
    assert charades.parse(path, Reading()) == truth


def test_a_sentence_on_two_lines_is_written_on_one(tmp_path):
    charades.write(tmp_path / "c.txt", {"A": VideoTruth(2, (Segment(0, 1, sentence="one \r\n two\nthree."),)),
                                        "B": VideoTruth(2)})
    assert (tmp_path / "c.txt").read_text() == "A 0.0 1.0##one two three.\n"


@pytest.mark.parametrize(("video", "sentence", "message"), [
    ("A##", "a", "cannot be named"), (" A", "a", "cannot be named"), ("", "a", "cannot be named"),
    ("A\nB", "a", "cannot be named"), ("A", None, "has no sentence"), ("A", " ", "has no sentence"),
    ("A", "\ud800", "is no text"), ("A", "a\0b", "cannot hold"),
])
def test_what_cannot_be_written(tmp_path, video, sentence, message):
    with pytest.raises(DataError, match=message):
        charades.write(tmp_path / "c.txt", {video: VideoTruth(2, (Segment(0, 1, "x", sentence=sentence),))})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("split", "videos", "rows", "kept", "beyond", "mean"), [
    ("train", 5_338, 12_408, 12_404, 1_805, 30.9), ("test", 1_334, 3_720, 3_720, 562, 29.5),
])
def test_the_official_files(split, videos, rows, kept, beyond, mean, tmp_path):
    path = shared(f"annotations/2d-tan/Charades-STA/charades_sta_{split}.txt")
    lines = path.read_text().splitlines()
    reading = Reading()
    found = charades.parse(path, reading)
    every = [s for v in found.values() for s in v.annotations]
    assert (len(lines), len(found), len(every)) == (rows, videos, kept)
    done = [p.done for p in reading.problems]
    dropped_beyond = 3 if split == "train" else 0  # rows that end before they start and after the video
    assert (done.count("clipped") + dropped_beyond, done.count("dropped")) == (beyond, rows - kept)
    assert all(s.start < s.end <= v.duration for v in found.values() for s in v.annotations)
    assert sum(v.duration for v in found.values()) / videos == pytest.approx(mean, abs=0.05)
    if split == "test":
        lengths = sorted(s.duration for s in every)
        assert sum(lengths) / kept == pytest.approx(7.83, abs=0.005)
        assert lengths[kept // 2] == pytest.approx(7.0, abs=0.05)
        assert sum(s.duration / v.duration for v in found.values() for s in v.annotations) / kept == pytest.approx(
            0.271, abs=0.0005)
    charades.write(tmp_path / path.name, found)  # a row that was not clipped is written as it was read
    ours = set((tmp_path / path.name).read_text().splitlines())
    assert sum(line in ours for line in lines) >= rows - beyond - (rows - kept)
    touched = {int(p.where.split()[-1]) for p in reading.problems}
    assert all(line in ours for i, line in enumerate(lines, 1) if i not in touched)


@pytest.mark.parametrize(("head", "kind"), [
    ("3MSZA 24.3 30.4##person turn a light on.\n", "truth"),
    ("3MSZA 24.3 30.4##person turn a light on.\r\n3MSZA 1 3##per", "truth"),
    ("3MSZA 24.3 30.4##person turn a light on.\n3MS", "truth"),
    ("video_test_0000004  0.2  1.1\n", None),
    ("a,b,c\n", None), ("", None), ("{}", None), ("## A title\n", None), ("A 1 2##b\nsomething else\nA 1 2##b\n", None),
])
def test_looks(tmp_path, head, kind):
    assert charades.looks(tmp_path / "c.txt", head) == kind
