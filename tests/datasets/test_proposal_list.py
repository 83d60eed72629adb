"""Lists of proposals: frames and shares, their truth, and what a proposal overlaps."""

from __future__ import annotations

import pytest
from hostile import survives
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.conversion import convert, predictions_of
from cuemark.datasets import proposal_list
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth, times, write_predictions, write_truth

FORMAT = proposal_list.FORMAT
LIST = """# 0
/frames/video_test_0000004
300
1
2
2 30 60
1 90 120
3
2 0.8182 0.9000 33 60
0 0.0000 0.0000 150 240
1 0.3333 0.3333 60 150
# 1
video_test_0000006
90
1
0
0
"""
SHARES = """#1
video_test_0000004
1
1
1
3 0.2000 0.4000
2
3 0.5000 1.0000 0.2000 0.3000
0 0 0 0.5 1.0000
"""


def saved(folder, text=LIST, name="bsn_test_proposal_list.txt"):
    path = folder / name
    path.write_text(text)
    return path


def test_frames_become_seconds(tmp_path):
    path = saved(tmp_path)
    assert FORMAT.looks(path, LIST) == "predictions"
    assert FORMAT.parse_predictions(path, Reading(fps=30)) == {
        "video_test_0000004": [Segment(1.1, 2.0), Segment(5.0, 8.0), Segment(2.0, 5.0)], "video_test_0000006": []}
    truth = FORMAT.parse(path, Reading(fps=30))
    assert truth == {
        "video_test_0000004": VideoTruth(10.0, (Segment(1.0, 2.0, "2"), Segment(3.0, 4.0, "1")), "testing", 30),
        "video_test_0000006": VideoTruth(3.0, (), "testing", 30)}
    names = tmp_path / "classes.txt"
    names.write_text("Billiards\nDiving\n")
    named = FORMAT.parse(path, Reading(fps=30, meta=names))["video_test_0000004"]
    assert [s.label for s in named.annotations] == ["Diving", "Billiards"]
    with pytest.raises(DataError, match="does not say how many make a second"):
        FORMAT.parse_predictions(path, Reading())


def test_the_factor_may_be_the_rate(tmp_path):
    """Seconds times a rate are frames too."""
    path = saved(tmp_path, LIST.replace("300\n1\n", "10\n30\n"))
    truth = FORMAT.parse(path, Reading(fps=25))
    assert truth["video_test_0000004"] == VideoTruth(
        10.0, (Segment(1.0, 2.0, "2"), Segment(3.0, 4.0, "1")), "testing", 30)


def test_shares_become_seconds(tmp_path):
    path = saved(tmp_path, SHARES, "thumos14_tag_val_normalized_proposal_list.txt")
    assert FORMAT.looks(path, SHARES) == "predictions"
    reading = Reading(durations={"video_test_0000004": 20.0})
    assert FORMAT.parse_predictions(path, reading) == {"video_test_0000004": [Segment(4.0, 6.0), Segment(10.0, 20.0)]}
    assert FORMAT.parse(path, reading) == {
        "video_test_0000004": VideoTruth(20.0, (Segment(4.0, 8.0, "3"),), "validation", None)}
    with pytest.raises(DataError, match="shares of video 'video_test_0000004', whose length"):
        FORMAT.parse_predictions(path, Reading(fps=30))
    counted = saved(tmp_path, SHARES.replace("\n1\n1\n1\n", "\n600\n1\n1\n"))
    assert FORMAT.parse_predictions(counted, Reading(fps=30)) == FORMAT.parse_predictions(path, reading)


def test_a_list_without_proposals_is_a_truth(tmp_path):
    truth = {"a": VideoTruth(4.0, (Segment(1.0, 2.5, "1"),), "training", 30.0)}
    FORMAT.write(tmp_path / "list.txt", truth)
    text = (tmp_path / "list.txt").read_text()
    assert text == "# 0\na\n120\n1\n1\n1 30 75\n0\n"
    assert FORMAT.looks(tmp_path / "list.txt", text) == "truth"
    assert FORMAT.parse(tmp_path / "list.txt", Reading(fps=30)) == truth


def test_what_a_proposal_overlaps_is_written(tmp_path):
    truth = {"a": VideoTruth(10.0, (Segment(1, 3, "run"), Segment(2, 6, "jump")), "testing", 10.0)}
    proposals = {"a": [Segment(1, 2.5, None, 0.9), Segment(3, 7, None, 0.8), Segment(7, 9, None, 0.7),
                       Segment(4, 4, None, 0.6)]}
    FORMAT.write_predictions(tmp_path / "list.txt", proposals, truth)
    assert (tmp_path / "list.txt").read_text().splitlines() == [
        "# 0", "a", "100", "1", "2", "2 10 30", "1 20 60", "4", "2 0.7500 1.0000 10 25", "1 0.6000 0.7500 30 70",
        "0 0.0000 0.0000 70 90", "0 0.0000 0.0000 40 40"]
    assert FORMAT.parse_predictions(tmp_path / "list.txt", Reading(fps=10))["a"] == [
        Segment(s.start, s.end) for s in proposals["a"]]
    with pytest.raises(DataError, match="nothing tells how long video 'b' is"):
        FORMAT.write_predictions(tmp_path / "list.txt", {"b": []}, truth)
    with pytest.raises(DataError, match="no frame rate"):
        FORMAT.write_predictions(tmp_path / "list.txt", proposals, {"a": VideoTruth(10.0)})


def test_our_proposals_and_truth_become_a_list(tmp_path):
    """What its users ask for most: proposals of any localizer as P-GCN's file, and back."""
    write_truth(tmp_path / "truth.json", {"a": VideoTruth(10.0, (Segment(1, 3, "run"),), "testing", 10.0),
                                          "b": VideoTruth(5.0, (), "testing", 10.0)})
    write_predictions(tmp_path / "found.json", {"a": [Segment(1, 2.5, "run", 0.9), Segment(4, 6, None, 0.5)]})
    convert(tmp_path / "found.json", tmp_path / "list.txt", "proposal-list", truth=tmp_path / "truth.json")
    assert "1 0.7500 1.0000 10 25\n0 0.0000 0.0000 40 60\n" in (tmp_path / "list.txt").read_text()
    assert predictions_of(tmp_path / "list.txt", fps=10) == {"a": [Segment(1, 2.5), Segment(4, 6)]}
    convert(tmp_path / "list.txt", tmp_path / "again.json", "cuemark", fps=10)
    assert times(predictions_of(tmp_path / "again.json")["a"]).tolist() == [[1, 2.5], [4, 6]]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.sampled_from(["run", "jump"])), max_size=4),
       st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=5))
@settings(deadline=None, max_examples=50)
def test_written_lists_are_read_again(tmp_path_factory, truth, proposals):
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    known = tuple(Segment(min(a, b) / 8, max(a, b) / 8, name) for a, b, name in truth)
    found = [Segment(min(a, b) / 8, max(a, b) / 8) for a, b in proposals]
    FORMAT.write_predictions(path, {"v": found}, {"v": VideoTruth(50.0, known, "training", 8.0)})
    assert FORMAT.parse_predictions(path, Reading(fps=8)) == {"v": found}
    names = sorted({s.label for s in known})
    read = FORMAT.parse(path, Reading(fps=8))["v"]
    assert read.duration == 50.0
    assert [(s.start, s.end, names[int(s.label) - 1]) for s in read.annotations] == [
        (s.start, s.end, s.label) for s in known]


def test_what_ends_before_it_starts_is_dropped(tmp_path):
    reading = Reading(fps=30)
    found = FORMAT.parse_predictions(saved(tmp_path, LIST.replace("150 240", "240 150")), reading)
    assert len(found["video_test_0000004"]) == 2
    assert [p.done for p in reading.problems] == ["dropped"]


@pytest.mark.parametrize(("old", "new", "message"), [
    ("# 0\n", "", "first line does not begin with #"),
    ("2 30 60", "2 30", "line 6: expected 3 numbers for one of the truths"),
    ("0 0.0000 0.0000 150 240", "0 150 240", "line 10: expected 5 numbers for one of the proposals"),
    ("\n3\n", "\n2\n", "line 11: expected the next video"), ("\n3\n", "\n4\n", "ends before the last of its proposals"),
    ("\n3\n", "\nmany\n", "expected the number of proposals"), ("0\n0\n", "0\n", "ends before the number of proposals"),
    ("300", "long", "expected the video's frames"), ("300\n1", "300\n0", "a factor on the frames above 0"),
    ("video_test_0000006", "video_test_0000004", "is there twice"), ("150 240", "150 x", "a start and an end"),
    ("0.8182", "x", "a tIoU and a share")])
def test_malformed_lists(tmp_path, old, new, message):
    text = new + LIST[len(old):] if LIST.startswith(old) else new.join(LIST.rsplit(old, 1))
    with pytest.raises(DataError, match=message):
        FORMAT.parse_predictions(saved(tmp_path, text), Reading(fps=30))


def test_classes_that_cannot_be(tmp_path):
    names = tmp_path / "classes.txt"
    names.write_text("Billiards\n")
    with pytest.raises(DataError, match="class 2 is none of the 1 that are named"):
        FORMAT.parse(saved(tmp_path), Reading(fps=30, meta=names))
    with pytest.raises(DataError, match="expected a class's number, got -2"):
        FORMAT.parse(saved(tmp_path, LIST.replace("2 30 60", "-2 30 60")), Reading(fps=30))


def test_hostile_lists(tmp_path):
    def broken():
        rows = LIST.splitlines()
        for i, row in enumerate(rows):
            for bad in ("", "x", "nan", "-1", "1e999", "1e400 1 1", "\ud7ff", "#", "9" * 400):
                yield "\n".join([*rows[:i], bad, *rows[i + 1:]])
            yield "\n".join(rows[:i])
            yield "\n".join([*rows[:i], row, row, *rows[i + 1:]])

    def parse(path, reading):
        reading.fps = 30
        return FORMAT.parse(path, reading), FORMAT.parse_predictions(path, reading)

    read, refused = survives(tmp_path / "list.txt", broken(), parse)
    assert read > 10
    assert refused > 50


def test_what_it_is_not(tmp_path):
    for text in ("", "# a comment\na,b\n1,2\n", "#EXTM3U\nx\ny\n1\n2\n", "1\n2\n"):
        assert FORMAT.looks(tmp_path / "x.txt", text) is None
    assert FORMAT.looks(tmp_path, "") is None
