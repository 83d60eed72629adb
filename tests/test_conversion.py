"""Recognising, reading, converting and checking annotation files."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark import video
from cuemark.conversion import CLOSE, KINDS, Report, check, convert, guess, read
from cuemark.datasets import FORMATS
from cuemark.datasets.format import Format, Reading
from cuemark.errors import CallError, CuemarkError, DataError, VideoError
from cuemark.segments import Segment, VideoTruth, read_truth, write_predictions, write_truth

TRUTH = {
    "a": VideoTruth(20.0, (Segment(1.0, 5.0, "pour"), Segment(6.0, 9.5, "stir")), "training", 25.0),
    "b": VideoTruth(30.0, (Segment(0.0, 30.0, "pour"),), "testing", 25.0),
}
TOLD = {vid: VideoTruth(v.duration, tuple(Segment(s.start, s.end, sentence=f"They {s.label}.") for s in v.annotations),
                        v.subset, v.fps) for vid, v in TRUTH.items()}
PREDICTIONS = {
    "a": [Segment(1.0, 5.5, "pour", 0.9), Segment(2.0, 3.0, "stir", 0.25)],
    "c": [Segment(0.0, 4.0, "pour", 0.5)],
}
LABELS = ("activitynet", "cuemark", "tsp", "bmn", "thumos", "epic-kitchens", "ego4d-mq", "coin", "csv", "jsonl",
          "label-studio", "cvat", "via", "elan", "boris", "audacity", "fiftyone")
SENTENCES = ("charades-sta", "tacos", "activitynet-captions", "qvhighlights", "didemo")
EITHER = ("srt", "webvtt", "otio", "edl", "fcpxml", "resolve-edl", "premiere-csv")


@pytest.fixture
def truth_file(tmp_path):
    write_truth(tmp_path / "truth.json", TRUTH)
    return tmp_path / "truth.json"


@pytest.fixture
def prediction_file(tmp_path):
    write_predictions(tmp_path / "predictions.json", PREDICTIONS)
    return tmp_path / "predictions.json"


@pytest.fixture
def formats(monkeypatch):
    """Add formats for a test."""
    def add(**known):
        for name, functions in known.items():
            functions.setdefault("looks", lambda path, head: None)
            monkeypatch.setitem(FORMATS, name, Format(name, name, "here", "any", **functions))
    return add


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder with two seconds of video called ``a``, one broken called ``b``."""
    folder = tmp_path_factory.mktemp("films")
    video.write(folder / "a.mp4", (np.full((32, 32, 3), i, np.uint8) for i in range(40)), fps=20)
    (folder / "b.mp4").write_bytes(b"nothing")
    return folder


# ------------------------------------------------------------------------------------------- recognising


def test_guess(truth_file, prediction_file, tmp_path):
    assert guess(truth_file) == (FORMATS["cuemark"], "truth")
    assert guess(prediction_file)[1] == "predictions"
    (tmp_path / "x").write_text("gibberish")
    with pytest.raises(DataError, match=r"'.*x' is in no format.*--from: .*activitynet.*webvtt"):
        guess(tmp_path / "x")
    with pytest.raises(DataError, match="does not exist"):
        guess(tmp_path / "no")


def test_ambiguity_is_told(truth_file, formats):
    formats(mine={"looks": lambda path, head: "truth" if '"database"' in head else None})
    with pytest.raises(DataError, match=r"could be cuemark or mine; say which with --from"):
        guess(truth_file)
    assert read(truth_file, "cuemark").truth == TRUTH


def test_folders_have_no_text(tmp_path, formats):
    formats(mine={"looks": lambda path, head: "truth" if path.is_dir() and head == "" else None})
    assert guess(tmp_path)[0].name == "mine"


@pytest.mark.parametrize(("path", "name", "kind"), [
    ("annotations/2d-tan/ActivityNet/val.json", "activitynet-captions", "truth"),
    ("annotations/2d-tan/Charades-STA/charades_sta_test.txt", "charades-sta", "truth"),
    ("annotations/2d-tan/TACoS/val.json", "tacos", "truth"),
    ("annotations/bmn", "bmn", "truth"),
    ("annotations/didemo/val_data.json", "didemo", "truth"),
    ("annotations/gtad/test_Annotation.csv", "thumos-gtad", "truth"),
    ("annotations/gtad/thumos_gt.json", "activitynet", "truth"),
    ("annotations/multithumos.json", "multithumos", "truth"),
    ("annotations/qvhighlights/highlight_val_release.jsonl", "qvhighlights", "truth"),
    ("annotations/thumos14", "thumos", "truth"),
    ("annotations/tsp/thumos14", "tsp", "truth"),
])
def test_real_files_are_recognised(path, name, kind):
    form, found = guess(shared(path))
    assert (form.name, found) == (name, kind)


# ------------------------------------------------------------------------------------------------ reading


def test_read(truth_file, prediction_file):
    found = read(truth_file)
    assert (found.format.name, found.kind, found.truth, found.predictions, found.guessed) == (
        "cuemark", "truth", TRUTH, None, True)
    found = read(prediction_file, "cuemark")
    assert (found.kind, found.truth, found.predictions, found.guessed) == ("predictions", None, PREDICTIONS, False)
    with pytest.raises(CallError, match="unknown format 'cuemrk'; did you mean 'cuemark'"):
        read(truth_file, "cuemrk")
    with pytest.raises(DataError):
        read(truth_file, "csv")


def test_a_table_with_scores_is_both(tmp_path):
    (tmp_path / "p.csv").write_text("video,start,end,label,score\na,1,5,pour,0.5\na,0,2,stir,0.25\n")
    found = read(tmp_path / "p.csv")
    assert found.kind == "predictions"
    assert found.predictions == {"a": [Segment(1, 5, "pour", 0.5), Segment(0, 2, "stir", 0.25)]}
    assert found.truth == {"a": VideoTruth(5.0, tuple(found.predictions["a"]))}


def test_problems_are_those_of_this_file(tmp_path):
    (tmp_path / "t.csv").write_text("video,start,end,label\na,5,1,pour\na,0,2,stir\n")
    reading = Reading()
    reading.note("elsewhere", "strange", "kept")
    found = read(tmp_path / "t.csv", reading=reading)
    assert [p.done for p in found.problems] == ["dropped"]
    assert len(reading.problems) == 2


def test_a_format_may_only_be_written(tmp_path, formats):
    formats(mine={"write": lambda path, truth: None})
    (tmp_path / "x").write_text("x")
    with pytest.raises(CallError, match="mine can only be written"):
        read(tmp_path / "x", "mine")


# --------------------------------------------------------------------------------------------- converting


@pytest.mark.parametrize(("truth", "to"), [
    *((TRUTH, name) for name in LABELS + EITHER), *((TOLD, name) for name in SENTENCES + EITHER)])
def test_truth_to_a_format_and_back(tmp_path, truth, to):
    write_truth(tmp_path / "truth.json", truth)
    convert(tmp_path / "truth.json", tmp_path / "out", to)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "truth.json"]
    found = read(tmp_path / "out", to, Reading(fps=25.0))
    assert found.kind == "truth"
    assert found.problems == ()
    assert found.truth is not None
    assert {vid: len(v.annotations) for vid, v in found.truth.items()} == {"a": 2, "b": 1}
    for vid, v in truth.items():
        for before, after in zip(v.annotations, sorted(found.truth[vid].annotations, key=lambda s: s.start)):
            off = 5 if to == "didemo" else 0.1  # DiDeMo counts pieces of 5 s
            assert (after.start, after.end) == pytest.approx((before.start, before.end), abs=off)


@pytest.mark.parametrize(("truth", "to"), [*((TRUTH, name) for name in SENTENCES), (TOLD, "coin"), (TOLD, "cvat")])
def test_a_format_that_cannot_hold_it_says_so(tmp_path, truth, to):
    write_truth(tmp_path / "truth.json", truth)
    with pytest.raises(DataError, match=r"has no (sentence|label)|without a label"):
        convert(tmp_path / "truth.json", tmp_path / "out", to)
    assert [p.name for p in tmp_path.iterdir()] == ["truth.json"]


@pytest.mark.parametrize("to", ["webvtt", "edl", "fcpxml", "otio"])
def test_a_whole_round(truth_file, tmp_path, to):
    convert(truth_file, tmp_path / "there", to)
    convert(tmp_path / "there", tmp_path / "back.json", "cuemark")
    assert read_truth(tmp_path / "back.json") == TRUTH


def test_predictions_in_their_own_layout(prediction_file, tmp_path):
    found = convert(prediction_file, tmp_path / "p.json", "activitynet")
    assert found.predictions == PREDICTIONS
    assert read(tmp_path / "p.json", "activitynet").predictions == PREDICTIONS


def test_a_table_of_predictions_becomes_a_prediction_file(tmp_path):
    (tmp_path / "p.csv").write_text("video,start,end,label,score\na,1,5,pour,0.5\n")
    convert(tmp_path / "p.csv", tmp_path / "p.json", "cuemark")
    assert read(tmp_path / "p.json").predictions == {"a": [Segment(1, 5, "pour", 0.5)]}


def test_predictions_as_scored_segments(prediction_file, truth_file, tmp_path, films):
    def lengths(**known):
        convert(prediction_file, tmp_path / "out", "webvtt", **known)
        found = read(tmp_path / "out").truth
        for file in (tmp_path / "out").iterdir():
            file.unlink()
        assert {vid: sorted(v.annotations, key=repr) for vid, v in found.items()} == {
            vid: sorted(s, key=repr) for vid, s in PREDICTIONS.items()}
        return {vid: (v.duration, v.fps, v.subset) for vid, v in found.items()}

    assert lengths() == {"a": (5.5, None, "training"), "c": (4.0, None, "training")}
    assert lengths(truth=truth_file, fps=10.0) == {"a": (20.0, 25.0, "training"), "c": (4.0, 10.0, "training")}
    assert lengths(videos=films) == {"a": (2.0, 20.0, "training"), "c": (4.0, None, "training")}
    assert lengths(videos=films, fps=10.0) == {"a": (2.0, 10.0, "training"), "c": (4.0, 10.0, "training")}
    told = Reading(durations={"c": 7.0}, subset="testing")
    assert lengths(reading=told) == {"a": (5.5, None, "testing"), "c": (7.0, None, "testing")}
    with pytest.raises(CallError, match="name the truth of their videos"):
        lengths(truth=prediction_file)


def test_writers_of_predictions_get_the_truth(prediction_file, truth_file, tmp_path, formats):
    got = []
    formats(mine={"write_predictions": lambda path, predictions, truth: (got.append((predictions, truth)),
                                                                         path.write_text("x"))})
    convert(prediction_file, tmp_path / "out", "mine", truth=truth_file, fps=5.0)
    assert got == [(PREDICTIONS, TRUTH | {"c": VideoTruth(4.0, (), "training", 5.0)})]


def test_what_the_source_tells_is_kept(tmp_path, films):
    write_truth(tmp_path / "t.json", {"a": VideoTruth(20.0, (Segment(0, 1, "x"),), fps=25.0),
                                      "b": VideoTruth(20.0, (Segment(0, 1, "x"),))})
    convert(tmp_path / "t.json", tmp_path / "out.json", "cuemark", videos=films, fps=10.0)
    found = read_truth(tmp_path / "out.json")
    assert {vid: (v.duration, v.fps) for vid, v in found.items()} == {"a": (20.0, 25.0), "b": (20.0, 10.0)}


def test_a_truth_is_not_made_predictions(truth_file, tmp_path):
    with pytest.raises(CallError, match=r"thumos-detections holds predictions only, and '.*' is a truth; .*csv"):
        convert(truth_file, tmp_path / "out.txt", "thumos-detections")
    assert not (tmp_path / "out.txt").exists()
    with pytest.raises(CallError, match="unknown format 'vtt'"):
        convert(truth_file, tmp_path / "out.vtt", "vtt")


def test_what_is_there_is_safe(truth_file, tmp_path):
    with pytest.raises(CallError, match="is the source itself"):
        convert(truth_file, truth_file, "activitynet")
    (tmp_path / "link.json").symlink_to(truth_file)
    with pytest.raises(CallError, match="is the source itself"):
        convert(truth_file, tmp_path / "link.json", "activitynet")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    with pytest.raises(CallError, match="already holds something"):
        convert(truth_file, tmp_path / "full", "srt")
    (tmp_path / "empty").mkdir()
    convert(truth_file, tmp_path / "empty", "srt")
    assert sorted(p.name for p in (tmp_path / "empty").iterdir()) == ["a.srt", "b.srt"]
    (tmp_path / "none").mkdir()
    with pytest.raises(CallError, match="is a folder, and this format is a file"):
        convert(truth_file, tmp_path / "none", "cuemark")
    (tmp_path / "old.json").write_text("old")
    with pytest.raises(CallError, match="is a file, and this format is a folder of files"):
        convert(truth_file, tmp_path / "old.json", "srt")
    assert (tmp_path / "old.json").read_text() == "old"
    convert(truth_file, tmp_path / "old.json", "cuemark")
    assert read_truth(tmp_path / "old.json") == TRUTH


def test_never_half_written(truth_file, tmp_path, formats):
    def halfway(path, truth):
        path.mkdir()
        (path / "first").write_text("done")
        raise DataError(f"'{path}' cannot hold 'b'; rename it.")

    def beside(path, truth):
        path.write_text("main")
        path.with_suffix(".meta").write_text("beside")

    formats(halfway={"write": halfway}, beside={"write": beside})
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=f"^'{tmp_path}/out' cannot hold 'b'; rename it.$"):
        convert(truth_file, tmp_path / "out", "halfway")
    assert not list((tmp_path / "out").iterdir())
    convert(truth_file, tmp_path / "new" / "x.txt", "beside")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["x.meta", "x.txt"]
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]


def test_a_relative_path(truth_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert(Path("truth.json"), Path("out.csv"), "csv")
    with open("out.csv", newline="") as file:
        assert len(list(csv.reader(file))) == 4


# ----------------------------------------------------------------------------------------------- checking


def found_in(report):
    return {kind: [(f.where, f.what) for f in report.findings if f.kind == kind] for kind in report.counts()}


def test_nothing_is_wrong(truth_file):
    report = check(truth_file)
    assert report.findings == []
    assert (report.videos, report.annotations, report.sentences) == (2, 3, 0)
    assert [(r.label, r.instances, r.videos, r.mean) for r in report.classes] == [
        ("pour", 2, 2, 17.0), ("stir", 1, 1, 3.5)]
    seconds, relative = report.lengths["seconds"], report.lengths["relative"]
    assert (seconds.min, seconds.median, seconds.max) == (3.5, 4.0, 30.0)
    assert seconds.mean == pytest.approx(12.5)
    assert (relative.min, relative.median, relative.max) == (0.175, 0.2, 1.0)
    assert [(r.subset, r.videos, r.annotations, r.hours) for r in report.subsets] == [
        ("training", 1, 2, 20 / 3600), ("testing", 1, 1, 30 / 3600)]


def test_everything_that_is_wrong(tmp_path, films):
    write_truth(tmp_path / "t.json", {
        "a": VideoTruth(10.0, (
            Segment(-1, 2, "pour"), Segment(1, 3, "pour"), Segment(2.5, 2.75, "pour"), Segment(3, 3, "pour"),
            Segment(4, 5, "stir"), Segment(4, 5, "stir"), Segment(4, 5, "stir", sentence="She stirs."),
            Segment(9, 11, "stri"), Segment(10, 12, "wave"))),
        "b": VideoTruth(3.0),
        "c": VideoTruth(10.0, (Segment(0, 1, sentence="x"), Segment(0, 1, sentence="y"), Segment(0, 10))),
    })
    report = check(tmp_path / "t.json", videos=films, labels=["pour", "stir", "wave", "throw"])
    assert list(report.counts()) == [kind for kind in KINDS if kind in report.counts()]
    found = found_in(report)
    at = "video 'a', annotation {}".format
    assert found.pop("before the video") == [(at(0), "[-1, 2] pour begins before 0")]
    assert found.pop("beyond the video") == [(at(7), "[9, 11] stri ends after the video's 10 s"),
                                             (at(8), "[10, 12] wave begins after the video's 10 s")]
    assert found.pop("no length") == [(at(3), "[3, 3] pour")]
    assert found.pop("duplicate") == [(at(5), "[4, 5] stir is annotation 4 again")]
    assert found.pop("overlap") == [
        (at(1), "[1, 3] pour begins before annotation 0 ends at 2"),
        (at(2), "[2.5, 2.75] pour begins before annotation 1 ends at 3"),
        (at(6), "[4, 5] stir begins before annotation 4 ends at 5")]
    assert found.pop("unknown label") == [(at(7), "'stri', 1 times; did you mean 'stir'?")]
    assert found.pop("unused label") == [("'throw'", "no annotation has it")]
    assert found.pop("no annotations") == [("video 'b'", "3 s without any")]
    assert found.pop("missing video") == [("video 'c'", f"no file of this name in '{films}'")]
    (where, what), = found.pop("broken video")
    assert where == "video 'b'"
    assert "b.mp4" in what
    assert found.pop("other length") == [("video 'a'", "the file says 10.00 s, and the video lasts 2.00 s")]
    assert found == {}
    assert report.sentences == 3
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["counts"] == report.counts()
    assert data["findings"][0].keys() == {"kind", "where", "what"}


def test_lengths_that_nobody_told(tmp_path, films):
    """A length that is the last segment's end may be a guess: too short it says nothing, too long it is wrong."""
    (tmp_path / "t.csv").write_text("video,start,end,label\na,0,0.5,pour\n")
    assert found_in(check(tmp_path / "t.csv", videos=films)) == {}
    (tmp_path / "t.csv").write_text("video,start,end,label\na,0,4.5,pour\n")
    assert list(found_in(check(tmp_path / "t.csv", videos=films))) == ["beyond the video", "other length"]
    with pytest.raises(VideoError):
        check(tmp_path / "t.csv", videos=tmp_path / "no")


def test_predictions_may_overlap(prediction_file, films):
    assert check(prediction_file).findings == []
    report = check(prediction_file, videos=films)
    assert list(found_in(report)) == ["beyond the video", "missing video"]
    assert (report.videos, report.annotations) == (2, 3)


def test_dropped_rows_are_findings(tmp_path):
    (tmp_path / "t.csv").write_text("video,start,end,label\na,5,1,pour\n")
    report = check(tmp_path / "t.csv")
    assert list(found_in(report))[:2] == ["dropped", "empty"]
    assert "line 2" in report.findings[0].where


def test_empty(tmp_path):
    write_truth(tmp_path / "t.json", {})
    report = check(tmp_path / "t.json")
    assert list(found_in(report)) == ["empty"]
    assert report.to_json()["lengths"]["seconds"] == {"min": None, "median": None, "mean": None, "max": None}
    assert [title for title, *_ in report.tables()] == ["Videos", "Empty: 1 (no annotation at all)"]


def test_tables_show_some(tmp_path):
    write_truth(tmp_path / "t.json", {"a": VideoTruth(9.0, tuple(Segment(i, i, "x") for i in range(7)))})
    tables = {title: (columns, rows) for title, columns, rows in check(tmp_path / "t.json").tables(3)}
    columns, rows = tables["No length: 7 (begins and ends at once)"]
    assert len(rows) == 4
    assert rows[-1] == ["…", "and 4 more"]
    for columns, rows in tables.values():
        assert all(len(row) == len(columns) and all(isinstance(cell, str | float) for cell in row) for row in rows)


spans = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.sampled_from("xy")), max_size=12)


@settings(max_examples=50, deadline=None)
@given(spans)
def test_overlaps_against_every_pair(tmp_path_factory, rows):
    segments = tuple(dict.fromkeys(Segment(a, a + n, label) for a, n, label in rows))  # no duplicates
    path = tmp_path_factory.mktemp("t") / "t.json"
    write_truth(path, {"a": VideoTruth(99.0, segments)})
    found = {f.where for f in check(path).findings if f.kind == "overlap"}

    def rank(i):
        return (segments[i].start, segments[i].end, i)

    expected = {f"video 'a', annotation {i}" for i, s in enumerate(segments) if any(
        o.label == s.label and rank(j) < rank(i) and o.end > s.start + CLOSE for j, o in enumerate(segments))}
    assert found == expected


def test_four_times_as_many_take_about_four_times_as_long(tmp_path):
    """Not sixteen times, as pairs of each with each would."""

    def checked(each: int) -> tuple[Report, float]:
        starts = np.random.default_rng(0).uniform(0, each / 2, (50, each))
        path = tmp_path / f"{each}.json"
        write_truth(path, {f"v{i}": VideoTruth(each / 2 + 5, tuple(
            Segment(start, start + 5, f"c{j % 20}") for j, start in enumerate(row))) for i, row in enumerate(starts)})
        before = time.process_time()
        return check(path), time.process_time() - before

    _, fast = checked(500)
    report, slow = checked(2000)
    assert slow < 9 * fast
    assert report.annotations == 100_000
    assert report.counts()["overlap"] > 10_000



def test_real_captions_have_two_backward_rows():
    report = check(shared("annotations/2d-tan/ActivityNet/train.json"))
    assert report.counts()["dropped"] == 2
    assert (report.videos, report.annotations) == (10009, 37419)


def test_bad_files_stay_errors(tmp_path):
    (tmp_path / "t.csv").write_text("video,start,end,label\na,x,1,pour\n")
    with pytest.raises(CuemarkError, match="line 2"):
        check(tmp_path / "t.csv")


def test_the_same_answer_of_several_people_is_no_duplicate():
    """DiDeMo asks at least four people; of the official file's answers nine thousand are like another one."""
    report = check(shared("annotations/didemo/val_data.json"))
    assert "duplicate" not in report.counts()
