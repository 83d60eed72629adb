"""THUMOS14 in its four layouts: the same annotations, counted as the reference counts them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from conftest import shared
from hostile import NAMES, broken_table, survives, truths
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import activitynet, thumos
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth

TEXT, GTAD, TURN, DETECTIONS = thumos.FORMATS
A, B = "video_validation_0000266", "video_test_0000004"


def saved(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def contents(truth: Truth) -> dict[str, list[tuple[str | None, float, float]]]:
    return {vid: sorted((str(s.label), s.start, s.end) for s in v.annotations) for vid, v in sorted(truth.items())}


# ---------------------------------------------------------------------------------------------- text files


def test_a_folder_of_classes(tmp_path):
    saved(tmp_path, Diving_val=f"{A}  3.0 4.5\r\n{A} 1.0 2\r\n\r\n", Ambiguous_test=f"\ufeff{B}\t0.5 0.5\n",
          CliffDiving_val=f"{A} 3.0 4.5", README="not a class's file", th14_val_durations=f"/somewhere/{A}.mp4\n9.25\n")
    reading = Reading()
    truth = TEXT.parse(tmp_path, reading)
    assert truth == {
        B: VideoTruth(0.5, (Segment(0.5, 0.5, "Ambiguous"),), "testing"),
        A: VideoTruth(9.25, (Segment(3, 4.5, "CliffDiving"), Segment(3, 4.5, "Diving"), Segment(1, 2, "Diving")),
                      "validation")}
    assert reading.problems == []
    assert TEXT.parse(tmp_path / "Diving_val.txt", Reading()) == {
        A: VideoTruth(9.25, (Segment(3, 4.5, "Diving"), Segment(1, 2, "Diving")), "validation")}


def test_folders_as_they_are_unpacked(tmp_path):
    saved(tmp_path / "TH14_Temporal_annotations_validation" / "annotation", Diving_val=f"{A} 3.0 4.5")
    saved(tmp_path / "TH14_Temporal_Annotations_Test" / "annotations" / "annotation", Diving_test=f"{B} 1 2")
    assert contents(TEXT.parse(tmp_path, Reading())) == {A: [("Diving", 3, 4.5)], B: [("Diving", 1, 2)]}


def test_where_lengths_come_from(tmp_path):
    saved(tmp_path / "a", Diving_val=f"{A} 3.0 4.5", Diving_test=f"{B} 1 2")
    saved(tmp_path, th14_val_durations=f"{A}.mp4\n9.25\n", mine=f"{B}.avi\n7\n")

    def lengths(**known):
        return {vid: v.duration for vid, v in TEXT.parse(tmp_path / "a", Reading(**known)).items()}

    assert lengths() == {A: 9.25, B: 2.0}  # beside the folder, else the last annotation
    assert lengths(meta=tmp_path / "mine.txt") == {A: 4.5, B: 7.0}
    assert lengths(durations={A: 1.0, B: 100.0}) == {A: 1.0, B: 100.0}


def test_the_split_is_in_the_videos_names_else_in_the_files(tmp_path):
    saved(tmp_path, Diving_val=f"mine 3.0 4.5\n{B} 1 2", Diving_test="yours 3.0 4.5")
    assert {vid: v.subset for vid, v in TEXT.parse(tmp_path, Reading(subset="x")).items()} == {
        "mine": "validation", B: "testing", "yours": "testing"}


def test_annotations_that_end_before_they_start_are_dropped(tmp_path):
    saved(tmp_path, Diving_val=f"{A} 3 2\n{A} 4 5\n{B} 2 1\n")
    reading = Reading()
    truth = TEXT.parse(tmp_path, reading)
    assert contents(truth) == {B: [], A: [("Diving", 4, 5)]}
    assert [(p.where, p.done) for p in reading.problems] == [
        (f"'{tmp_path / 'Diving_val.txt'}', line {n}", "dropped") for n in (1, 3)]


@pytest.mark.parametrize(("name", "text", "message"), [
    ("Diving_val", f"{A} 3", r"Diving_val\.txt', line 1: expected a video, a start and an end in seconds, got"),
    ("Diving_val", f"\n{A} 3 4 5", "line 2: expected a video"),
    ("Diving_val", f"{A} a b", "line 1: expected a start and an end in seconds, got 'a' and 'b'"),
    ("Diving_val", f"{A} 0 nan", "line 1: expected a start and an end in seconds"),
    ("th14_val_durations", A, r"th14_val_durations\.txt' has 1 lines; expected a line with a video and one with its"),
    ("th14_val_durations", f"{A}\nlong", "line 2: expected the video's seconds, got 'long'"),
    ("th14_val_durations", f"{A}\n-1", "line 2: expected the video's seconds, got '-1'"),
])
def test_malformed_text(tmp_path, name, text, message):
    saved(tmp_path, **{"Shotput_val": f"{A} 1 2", name: text})
    with pytest.raises(DataError, match=message):
        TEXT.parse(tmp_path, Reading())


def test_paths_without_such_files(tmp_path):
    saved(tmp_path, README="x")
    for path, message in ((tmp_path, "holds no file such as 'BaseballPitch_val.txt'"),
                          (tmp_path / "README.txt", "holds no file such as"), (tmp_path / "no", "does not exist")):
        with pytest.raises(DataError, match=message):
            TEXT.parse(path, Reading())
    (tmp_path / "Diving_val.txt").write_bytes(b"\xff\0")
    with pytest.raises(DataError, match="cannot be read as a THUMOS14 annotation file"):
        TEXT.parse(tmp_path, Reading())


# ---------------------------------------------------------------------------------------------- the real files


def test_the_official_files():
    """200 validation videos, 213 test videos; 0001292 has nothing but Ambiguous; CliffDiving is Diving too."""
    truth = TEXT.parse(shared("annotations/thumos14"), reading := Reading())
    assert reading.problems == []
    assert Counter(v.subset for v in truth.values()) == {"validation": 200, "testing": 213}
    assert Counter((v.subset, s.label == "Ambiguous") for v in truth.values() for s in v.annotations) == {
        ("validation", False): 3_007, ("validation", True): 89, ("testing", False): 3_358, ("testing", True): 99}
    assert {s.label for s in truth["video_test_0001292"].annotations} == {"Ambiguous"}
    odd = truth["video_test_0000270"]
    assert (max(s.end for s in odd.annotations), odd.duration) == (713.7, 176.246)
    for v in truth.values():
        diving = {(s.start, s.end) for s in v.annotations if s.label == "Diving"}
        assert all((s.start, s.end) in diving for s in v.annotations if s.label == "CliffDiving")
    for folder, n in (("test", 3_457), ("validation", 3_096)):
        part = TEXT.parse(shared(f"annotations/thumos14/temporal_annotations_{folder}"), Reading())
        assert sum(len(v.annotations) for v in part.values()) == n
        assert all(part[vid] == truth[vid] for vid in part)


def test_all_layouts_hold_the_same_annotations():
    official = TEXT.parse(shared("annotations/thumos14"), Reading())
    parts = {s: {vid: v for vid, v in official.items() if v.subset == s} for s in ("validation", "testing")}
    validation = GTAD.parse(shared("annotations/gtad/val_Annotation.csv"), Reading())
    testing = GTAD.parse(shared("annotations/gtad/test_Annotation.csv"), Reading())
    turn = TURN.parse(shared("annotations/gtad/thumos14_test_groundtruth.csv"), Reading())
    assert contents(validation) == contents(parts["validation"])
    assert contents(testing) == contents(parts["testing"]) == contents(turn)
    assert {v.subset for v in validation.values()} == {"validation"}
    assert {v.subset for v in (testing | turn).values()} == {"testing"}
    assert Counter(round(v.fps or 0, 2) for v in turn.values()) == {30: 196, 29.97: 11, 25: 5, 24: 1}
    assert max(abs(v.duration - official[vid].duration) for vid, v in turn.items()) < 0.2
    for path in ("gtad/thumos_gt.json", "thumos14/rc3d_thumos14_gt_test.json"):
        others = activitynet.parse(shared(f"annotations/{path}"), Reading())
        missing = set(official) - set(others)
        assert len([vid for vid in missing if vid.startswith("video_test")]) == (3 if "gtad" in path else 1)
        for vid, video in others.items():
            clear = [s for s in official[vid].annotations if s.label != "Ambiguous"]
            assert contents({vid: video}) == contents({vid: VideoTruth(0, tuple(clear))})


def test_the_class_numbers_are_those_of_gtads_files():
    with open(shared("annotations/gtad/test_Annotation.csv"), newline="") as file:
        found = {row["type"]: int(row["type_idx"]) for row in csv.DictReader(file)}
    assert found == thumos.CLASS_IDS | {"Ambiguous": 0}
    assert list(thumos.CLASS_IDS) == sorted(thumos.CLASS_IDS)
    assert len(thumos.CLASS_IDS) == 20


def test_the_official_files_written_again(tmp_path):
    truth = TEXT.parse(shared("annotations/thumos14"), Reading())
    TEXT.write(tmp_path / "again", truth)
    assert TEXT.parse(tmp_path / "again", Reading()) == truth
    for split in ("validation", "test"):
        for file in shared(f"annotations/thumos14/temporal_annotations_{split}").iterdir():
            mine = sorted(line.split() for line in (tmp_path / "again" / file.name).read_text().splitlines())
            theirs = (line.split() for line in file.read_text().splitlines())
            assert mine == sorted([v, str(float(a)), str(float(b))] for v, a, b in theirs)


def test_turns_file_written_again(tmp_path):
    path = shared("annotations/gtad/thumos14_test_groundtruth.csv")
    truth = TURN.parse(path, Reading())
    TURN.write(tmp_path / "t.csv", truth)
    assert TURN.parse(tmp_path / "t.csv", Reading()) == truth

    def rows(file):
        with open(file, newline="") as opened:
            return sorted(tuple(v if k == "video-name" else float(v) for k, v in row.items())
                          for row in csv.DictReader(opened))

    assert rows(tmp_path / "t.csv") == rows(path)


def test_gtads_file_written_again(tmp_path):
    path = shared("annotations/gtad/val_Annotation.csv")
    truth = {vid: VideoTruth(v.duration, v.annotations, v.subset, 30.0)
             for vid, v in GTAD.parse(path, Reading()).items()}
    GTAD.write(tmp_path / "t.csv", truth)
    assert contents(GTAD.parse(tmp_path / "t.csv", Reading())) == contents(truth)
    with open(tmp_path / "t.csv", newline="") as mine, open(path, newline="") as theirs:
        for a, b in zip(csv.DictReader(mine), csv.DictReader(theirs), strict=True):
            assert (a["video"], a["type"], a["type_idx"]) == (b["video"], b["type"], b["type_idx"])
            assert (float(a["start"]), float(a["end"])) == (float(b["start"]), float(b["end"]))


# ---------------------------------------------------------------------------------------------- broken tables

SMALL_GTAD = f"video,type,type_idx,start,end,startFrame,endFrame\n{B},CricketBowling,23,0.2,1.1,6,33\n"
SMALL_TURN = ("video-name,t-init,t-end,f-init,f-end,video-duration,frame-rate,video-frames,label-idx\n"
              f"{B},0.0,1.4,0,42,215.5,30.0,6465,-1\n{B},2.0,3.5,60,105,215.5,30.0,6465,0\n")
SMALL_DETECTIONS = f"{B} 0.2 1.1 23 0.875\n\n{A}\t2 3.5 7 -1.5\n"


def test_small_tables(tmp_path):
    (tmp_path / "t.csv").write_text(SMALL_GTAD)
    assert GTAD.parse(tmp_path / "t.csv", Reading(durations={B: 9.0})) == {
        B: VideoTruth(9.0, (Segment(0.2, 1.1, "CricketBowling"),), "testing")}
    (tmp_path / "t.csv").write_text(SMALL_TURN)
    assert TURN.parse(tmp_path / "t.csv", Reading()) == {
        B: VideoTruth(215.5, (Segment(0, 1.4, "Ambiguous"), Segment(2, 3.5, "BaseballPitch")), "testing", 30.0)}


@pytest.mark.parametrize(("one", "text", "message"), [
    (GTAD, SMALL_GTAD.replace("type_idx", "idx"), "has no column 'type_idx'"),
    (GTAD, SMALL_GTAD.replace("0.2", "x"), "line 2: expected a start and an end in seconds, got 'x' and '1.1'"),
    (TURN, SMALL_TURN.replace(",-1\n", ",20\n"), "line 2: expected a label-idx from -1 \\(Ambiguous\\) to 19, got 20"),
    (TURN, SMALL_TURN.replace(",-1\n", ",1.5\n"), "line 2: expected a label-idx from -1"),
    (TURN, SMALL_TURN.replace("30.0", "0"), "line 2: expected a frame-rate above 0, got 0"),
    (TURN, SMALL_TURN.replace("215.5", "-2"), "line 2: expected the video's seconds, got '-2'"),
])
def test_malformed_tables(tmp_path, one, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        one.parse(tmp_path / "t.csv", Reading())


def test_broken_tables_are_read_or_refused(tmp_path):
    for one, text in ((GTAD, SMALL_GTAD), (TURN, SMALL_TURN)):
        read, refused = survives(tmp_path / "t.csv", broken_table(text), one.parse)
        assert read > 10
        assert refused > 50


def test_inverted_rows_of_tables_are_dropped(tmp_path):
    for one, text in ((GTAD, SMALL_GTAD.replace("0.2", "9")), (TURN, SMALL_TURN.replace("2.0,3.5", "4,3"))):
        (tmp_path / "t.csv").write_text(text)
        reading = Reading()
        one.parse(tmp_path / "t.csv", reading)
        assert [p.done for p in reading.problems] == ["dropped"]


# ---------------------------------------------------------------------------------------------- detections


def test_detections(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text(SMALL_DETECTIONS)
    found = DETECTIONS.parse_predictions(path, Reading())
    assert found == {B: [Segment(0.2, 1.1, "CricketBowling", 0.875)], A: [Segment(2, 3.5, "BaseballPitch", -1.5)]}
    assert DETECTIONS.looks(path, SMALL_DETECTIONS) == "predictions"
    DETECTIONS.write_predictions(tmp_path / "again.txt", found, {})
    assert DETECTIONS.parse_predictions(tmp_path / "again.txt", Reading()) == found
    assert (tmp_path / "again.txt").read_text().splitlines()[0] == f"{B} 0.2 1.1 23 0.875"


@pytest.mark.parametrize(("text", "message"), [
    (f"{B} 0.2 1.1 23", r"d\.txt', line 1: expected a video, a start and an end in seconds, a class and a confidence"),
    (f"{B} 0.2 1.1 3 0.5", "line 1: class 3 is not in the detection task; its 20 classes have UCF101's numbers, 7, 9,"),
    (f"{B} 0.2 1.1 Diving 0.5", "line 1: expected a class's number, got 'Diving'"),
    (f"{B} 0.2 1.1 26 high", "line 1: expected a confidence, got 'high'"),
    (f"{B} 0.2 1.1 26 nan", "line 1: expected a confidence, got 'nan'"),
    (f"{B} 0.2 x 26 0.5", "line 1: expected a start and an end in seconds, got '0.2' and 'x'"),
])
def test_malformed_detections(tmp_path, text, message):
    (tmp_path / "d.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        DETECTIONS.parse_predictions(tmp_path / "d.txt", Reading())


def test_inverted_detections_are_dropped(tmp_path):
    (tmp_path / "d.txt").write_text(f"{B} 2 1 26 0.5\n{B} 2 1.5 26 0.5\n{B} 1 2 26 0.5\n")
    reading = Reading()
    assert DETECTIONS.parse_predictions(tmp_path / "d.txt", reading) == {B: [Segment(1, 2, "Diving", 0.5)]}
    assert len(reading.problems) == 2


@pytest.mark.parametrize(("segment", "message"), [
    (Segment(0, 1, "Diving"), "has a prediction without a score"),
    (Segment(0, 1, "Walk", 0.5), "has the label 'Walk', which has no number among THUMOS14's 20 classes"),
    (Segment(0, 1, "Ambiguous", 0.5), "has the label 'Ambiguous'"),
    (Segment(0, 1, None, 0.5), "has the label None"),
    (Segment(0, 1, "Diving", float("nan")), "has a prediction without a score"),
])
def test_detections_that_cannot_be_written(tmp_path, segment, message):
    with pytest.raises(DataError, match=message):
        DETECTIONS.write_predictions(tmp_path / "d.txt", {B: [Segment(0, 1, "Diving", 0.5), segment]}, {})
    with pytest.raises(DataError, match="has blanks or slashes in its name"):
        DETECTIONS.write_predictions(tmp_path / "d.txt", {"a b": []}, {})
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- writing

LABELS = st.sampled_from([*thumos.CLASS_IDS, "Ambiguous"])
IDS = st.integers(0, 3).map(lambda n: f"video_test_{n:07d}")


@settings(max_examples=50, deadline=None)
@given(truth=truths(NAMES.filter(lambda t: "/" not in t and "\\" not in t and not t.startswith(".")), NAMES.filter(
    lambda t: t.split() == [t] and "/" not in t).map(lambda t: f"x{t}x"), ("validation", "testing"), empty=False))
def test_text_that_is_written_is_read(tmp_path_factory, truth):
    folder = tmp_path_factory.mktemp("thumos") / "again"
    TEXT.write(folder, truth)
    if truth:
        again = TEXT.parse(folder, Reading())
        assert contents(again) == contents(truth)
        assert {vid: (v.duration, v.subset) for vid, v in again.items()} == {
            vid: (v.duration, v.subset) for vid, v in truth.items()}


@settings(max_examples=25, deadline=None)
@given(truth=truths(LABELS, IDS, ("testing",), st.just(30.0) | st.just(30000 / 1001), empty=False))
def test_tables_that_are_written_are_read(tmp_path_factory, truth):
    path = tmp_path_factory.mktemp("thumos") / "t.csv"
    TURN.write(path, truth)
    assert TURN.parse(path, Reading()) == truth
    GTAD.write(path, truth)
    again = GTAD.parse(path, Reading(durations={vid: v.duration for vid, v in truth.items()}))
    assert again == {vid: VideoTruth(v.duration, v.annotations, v.subset) for vid, v in truth.items()}


@pytest.mark.parametrize(("one", "video", "message"), [
    (TEXT, VideoTruth(9.0, (Segment(1, 2),), "testing"), "an annotation without a label"),
    (TEXT, VideoTruth(9.0, (Segment(1, 2, "a/b"),), "testing"), "label 'a/b' cannot be the name of a file"),
    (TEXT, VideoTruth(9.0, (Segment(1, 2, "..\\x"),), "testing"), "cannot be the name of a file"),
    (TEXT, VideoTruth(9.0, (Segment(1, 2, "ä" * 101),), "testing"), "cannot be the name of a file"),
    (TEXT, VideoTruth(9.0, (), "novel"), "is of subset 'novel'"),
    (GTAD, VideoTruth(9.0, (Segment(1, 2, "Diving"),), "testing"), "has no frame rate, which G-TAD's file cannot"),
    (GTAD, VideoTruth(9.0, (Segment(1, 2, "Walk"),), "testing", 30.0), "has the label 'Walk'"),
    (TURN, VideoTruth(9.0, (Segment(1, 2, "Diving"),), "testing"), "has no frame rate"),
    (TURN, VideoTruth(9.0, (Segment(1, 2, None),), "testing", 30.0), "has the label None"),
])
def test_what_cannot_be_written_leaves_nothing(tmp_path, one, video, message):
    with pytest.raises(DataError, match=message):
        one.write(tmp_path / "t", {A: VideoTruth(9.0, (Segment(1, 2, "Diving"),), "testing", 30.0), B: video})
    assert not list(tmp_path.iterdir())


def test_text_is_not_written_where_it_could_not_be_read_alone(tmp_path):
    truth = {A: VideoTruth(9.0, (Segment(1, 2, "Diving"),), "training")}
    TEXT.write(tmp_path / "t", truth)
    TEXT.write(tmp_path / "t", truth)
    assert TEXT.parse(tmp_path / "t", Reading())[A].subset == "validation"
    with pytest.raises(DataError, match=r"holds 'Diving_val\.txt', which would be read as a part of it"):
        TEXT.write(tmp_path / "t", {A: VideoTruth(9.0, (Segment(1, 2, "Shotput"),), "training")})
    with pytest.raises(DataError, match="has blanks or slashes in its name"):
        TEXT.write(tmp_path / "u", {"a b": VideoTruth(9.0, (Segment(1, 2, "Diving"),), "testing")})


@pytest.mark.parametrize(("one", "name", "head", "kind"), [
    (TEXT, "Diving_val.txt", f"{A}  3.0 4.5\n", "truth"), (TEXT, "Walking_val.txt", f"{A}  3.0 4.5\n", None),
    (TEXT, "Diving_val.txt", "something else", None), (TEXT, "Diving.txt", f"{A}  3.0 4.5\n", None),
    (GTAD, "x.csv", SMALL_GTAD, "truth"), (GTAD, "x.csv", SMALL_TURN, None), (TURN, "x.csv", SMALL_TURN, "truth"),
    (TURN, "x.csv", "video-name,t-start,t-end\n", None), (DETECTIONS, "x", SMALL_DETECTIONS, "predictions"),
    (DETECTIONS, "x", f"{B} 0.2 1.1 3 0.875\n", None), (DETECTIONS, "x", "a 0.2 1.1 23 0.875\n", None),
    (DETECTIONS, "x", f"{B} 0.2 1.1\n", None), (DETECTIONS, "x", "", None),
])
def test_whose_file_it_is(tmp_path, one, name, head, kind):
    assert one.looks(tmp_path / name, head) == kind
