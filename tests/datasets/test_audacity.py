"""Audacity's label tracks."""

from __future__ import annotations

import pytest

from cuemark.datasets.audacity import FORMAT, looks, parse, write
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

# as Audacity writes it with spectral selections switched on
FILE = ("1.000000\t1.000000\tThis point was clicked\n"
        "\\\t6928.456055\t6928.456055\n"
        "2.000000\t2.500000\tpour, slowly\n"
        "\\\t-1.000000\t6334.588867\n"
        "3.400000\t6.100000\t\n")


def test_a_file_of_audacity(tmp_path):
    path = tmp_path / "kitchen_01.txt"
    path.write_bytes(b"\xef\xbb\xbf" + FILE.replace("\n", "\r\n").encode() + b"\r\n")
    assert looks(path, path.read_text(encoding="utf-8-sig")) == "truth"
    assert parse(path, Reading(subset="testing", durations={"kitchen_01": 9.0})) == {"kitchen_01": VideoTruth(9.0, (
        Segment(1, 1, "This point was clicked"), Segment(2, 2.5, "pour, slowly"), Segment(3.4, 6.1)), "testing")}


def test_old_points_and_decimal_commas(tmp_path):
    (tmp_path / "v.txt").write_text("1,5\tdoorbell\n2,5\t3,0\n")
    assert parse(tmp_path / "v.txt", Reading())["v"].annotations == (Segment(1.5, 1.5, "doorbell"), Segment(2.5, 3))


def test_round_trip_of_a_folder(tmp_path):
    truth = {"v": VideoTruth(12.0, (Segment(0, 1 / 3, "a b"), Segment(5, 5, "ü"), Segment(1, 2))), "w": VideoTruth(0.0)}
    write(tmp_path / "out", truth)
    assert (tmp_path / "out" / "v.txt").read_text() == (
        "0.000000\t0.333333\ta b\n5.000000\t5.000000\tü\n1.000000\t2.000000\t\n")
    back = parse(tmp_path / "out", Reading(durations={"v": 12.0}))
    assert back["w"] == truth["w"]
    assert [(s.label, s.end) for s in back["v"].annotations] == [("a b", 0.333333), ("ü", 5.0), (None, 2.0)]


def test_a_segment_gives_one_text_on_one_line(tmp_path):
    write(tmp_path / "v.txt", {"v": VideoTruth(3.0, (
        Segment(0, 1, "a", sentence="not this"), Segment(1, 2, sentence="two\tor\nthree"), Segment(2, 3, query="q")))})
    assert [line.split("\t")[2] for line in (tmp_path / "v.txt").read_text().splitlines()] == ["a", "two or three", "q"]


def test_inverted_labels_are_dropped(tmp_path):
    (tmp_path / "v.txt").write_text("3\t2\tx\n1\t2\ty\n")
    reading = Reading()
    assert parse(tmp_path / "v.txt", reading)["v"].annotations == (Segment(1, 2, "y"),)
    assert [p.done for p in reading.problems] == ["dropped"]


@pytest.mark.parametrize(("text", "message"), [
    ("one\t2\tx\n", "line 1: expected start, tab, end"),
    ("1 2 x\n", "line 1: expected start, tab, end"),
    ("1\t2\tx\n3\tfour\tx\n", "line 2: the end should be a number of seconds, got 'four'"),
    ("nan\t2\tx\n", "expected start, tab, end"),
    ("1" * 400 + "\t2\tx\n", "expected a start and an end in seconds"),
    (b"1\t2\t\xff\n", "cannot be read as a label file"),
])
def test_malformed(tmp_path, text, message):
    (tmp_path / "v.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as error:
        parse(tmp_path / "v.txt", Reading())
    assert message in str(error.value)
    assert "v.txt" in str(error.value)


def test_paths(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        parse(tmp_path / "v.txt", Reading())
    with pytest.raises(DataError, match=r"holds no \.txt"):
        parse(tmp_path, Reading())
    with pytest.raises(DataError, match="can hold one video"):
        write(tmp_path / "v.txt", {"v": VideoTruth(1.0), "w": VideoTruth(1.0)})
    assert not FORMAT.several


@pytest.mark.parametrize(("name", "head"), [
    ("v.txt", "video_test_0000004  0.2 1.1\n"),  # THUMOS14
    ("v.txt", "AO8RW 0.0 6.9##a person is putting a book on a shelf.\n"),  # Charades-STA
    ("v.txt", "pour\npour\nstir\n"), ("v.txt", "1\t2\t3\n4\t5\t6\n"), ("v.txt", "1\t2\tx\tmore\n"), ("v.txt", ""),
    ("v.tsv", "1.0\t2.0\tx\n"), ("v.txt", "a\tb\tc\n1\t2\tx\n"),
])
def test_looks_at_other_files(tmp_path, name, head):
    assert looks(tmp_path / name, head) is None


def test_looks_where_the_head_was_cut(tmp_path):
    head = ("1.000000\t2.000000\tpour\n" * 4000)[: 1 << 16]
    assert looks(tmp_path / "v.txt", head) == "truth"
