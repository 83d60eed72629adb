"""Frame labels: a label for each frame in the files, segments in seconds here."""

from __future__ import annotations

import logging
from itertools import pairwise

import numpy as np
import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import framelabels
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

HEADER = "### Frame level recognition: ###"


def dataset(folder, **videos):
    (folder / "groundTruth").mkdir(parents=True)
    for vid, labels in videos.items():
        (folder / "groundTruth" / f"{vid}.txt").write_text("\n".join(labels.split()) + "\n")
    return folder


def result(folder, **videos):
    folder.mkdir(exist_ok=True)
    for vid, labels in videos.items():
        (folder / vid).write_text(f"{HEADER}\n{labels}")
    return folder


A = VideoTruth(0.5, (Segment(0, 0.2, "background"), Segment(0.2, 0.4, "take"), Segment(0.4, 0.5, "background")),
               fps=10.0)


def test_runs_become_segments_background_too(tmp_path):
    folder = dataset(tmp_path / "gtea", S1_A="background background take take background", S1_B="stir")
    truth = {"S1_A": A, "S1_B": VideoTruth(0.1, (Segment(0, 0.1, "stir"),), fps=10.0)}
    assert framelabels.parse(folder, Reading(fps=10)) == truth
    assert framelabels.parse(folder / "groundTruth", Reading(fps=10)) == truth
    assert framelabels.parse(folder / "groundTruth" / "S1_A.txt", Reading(fps=10)) == {"S1_A": A}
    (folder / "mapping.txt").write_text("0 background\n1 take\n2\tstir\n")
    (folder / "groundTruth" / "mapping.txt").write_text("0 background\r\n1 take\r\n2 stir\r\n")
    (folder / "groundTruth" / ".DS_Store").write_bytes(b"\xff\0")
    (folder / "groundTruth" / "notes.md").write_text("mine")
    (folder / "groundTruth" / "S1_A.txt").write_bytes(
        b"\xef\xbb\xbfbackground\r\nbackground\r\ntake\r\ntake\r\nbackground")
    assert framelabels.parse(folder, Reading(fps=10)) == truth


def test_a_bundle_chooses_videos(tmp_path):
    folder = dataset(tmp_path / "gtea", a="x", b="x", c="x")
    bundle = tmp_path / "test.split1.bundle"
    bundle.write_text("c.txt\ngroundTruth/a.txt\nc\n\n")
    found = framelabels.parse(folder, Reading(fps=10, meta=bundle))
    assert {vid: v.subset for vid, v in found.items()} == {"c": "testing", "a": "testing"}
    assert list(found) == ["c", "a"]
    assert list(framelabels.parse_predictions(result(tmp_path / "r", a="x", b="x", c="x"),
                                              Reading(fps=10, meta=bundle))) == ["c", "a"]
    bundle.write_text("a.txt\nd.txt\n")
    with pytest.raises(DataError, match=r"line 2: video 'd' has no file"):
        framelabels.parse(folder, Reading(fps=10, meta=bundle))
    with pytest.raises(DataError, match=r"bundle file .* does not exist"):
        framelabels.parse(folder, Reading(fps=10, meta=tmp_path / "none"))


def test_the_rate_must_be_told(tmp_path):
    folder = dataset(tmp_path / "gtea", a="x")
    for read in framelabels.parse, framelabels.parse_predictions:
        with pytest.raises(DataError, match=r"--fps \(Breakfast and GTEA 15, 50Salads 30\)"):
            read(folder, Reading())
        with pytest.raises(DataError, match="impossible"):
            read(folder, Reading(fps=0))


def test_breakfast_s_coarse_files(tmp_path):
    path = tmp_path / "P03_cam01_P03_cereals.txt"
    path.write_text("1-30 SIL  \n31-150 take_cup\n160-150 pour\n151-165 SIL\n\n")
    reading = Reading(fps=15, subset="mine")
    assert framelabels.parse(path, reading) == {"P03_cam01_P03_cereals": VideoTruth(
        11.0, (Segment(0, 2, "SIL"), Segment(2, 10, "take_cup"), Segment(10, 11, "SIL")), "mine", 15.0)}
    assert [(p.where, p.done) for p in reading.problems] == [(f"'{path}', line 3", "dropped")]


@pytest.mark.parametrize(("text", "message"), [
    (b"", "is empty"), (b"\n \n", "is empty"), (b"a\n\nb\n", "line 2 is blank"), (b"caf\xe9\n", "cannot be read"),
    (b"a\0\n", "not text"), (b"a\nstir\n", r"line 2: label 'stir' is not in the mapping\.txt"),
    (b"1-30 SIL\n31 take\n", "line 2: expected 'FIRST-LAST LABEL'"),
    (b"0-30 SIL\n", "line 1: expected 'FIRST-LAST LABEL'"),
    (b"1-30 SIL\n31-99999999999999999999 take\n", "line 2: expected 'FIRST-LAST LABEL'"),
])
def test_malformed_files_are_named(tmp_path, text, message):
    folder = dataset(tmp_path / "gtea", v="a")
    (folder / "mapping.txt").write_text("0 a\n1 b\n")
    path = folder / "groundTruth" / "v.txt"
    path.write_bytes(text)
    with pytest.raises(DataError, match=message) as error:
        framelabels.parse(folder, Reading(fps=10))
    assert str(path) in str(error.value)


def test_paths_that_hold_nothing(tmp_path):
    for read in framelabels.parse, framelabels.parse_predictions:
        with pytest.raises(DataError, match="does not exist"):
            read(tmp_path / "none", Reading(fps=10))
        with pytest.raises(DataError, match="holds no file of frame labels"):
            read(tmp_path, Reading(fps=10))


# ---------------------------------------------------------------------------------------------- predictions


def test_results_have_their_labels_in_line_two(tmp_path):
    folder = result(tmp_path / "r", S1_A="background background take take background", **{"s17-d69.avi": "stir stir"})
    (folder / "split.model").write_bytes(b"\xff\0")  # of no concern
    (folder / "c.txt").write_text("take\ntake\n")  # the truth's layout
    assert framelabels.parse_predictions(folder, Reading(fps=10)) == {
        "S1_A": list(A.annotations), "s17-d69.avi": [Segment(0, 0.2, "stir")], "c": [Segment(0, 0.2, "take")]}
    assert framelabels.parse_predictions(folder / "S1_A", Reading(fps=10)) == {"S1_A": list(A.annotations)}


@pytest.mark.parametrize(("text", "message"), [
    (f"{HEADER}\n", r"has 1 line\(s\); expected two"), (f"{HEADER}\na b\nc", r"has 3 line\(s\)"), ("", "is empty"),
    ("a a b\n", f"line 1: expected '{HEADER}'"),
])
def test_malformed_results_are_named(tmp_path, text, message):
    (result(tmp_path / "r", a="x") / "b").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        framelabels.parse_predictions(tmp_path / "r", Reading(fps=10))
    assert str(tmp_path / "r" / "b") in str(error.value)


def test_a_video_may_have_one_file(tmp_path):
    (result(tmp_path / "r", a="x") / "a.txt").write_text("x\n")
    with pytest.raises(DataError, match="are of one video"):
        framelabels.parse_predictions(tmp_path / "r", Reading(fps=10))


# ---------------------------------------------------------------------------------------------- writing


def obvious(video, segments):
    """Frame by frame; of several segments the last in the list."""
    labels = []
    for i in range(round(video.duration * video.fps)):
        middle = (i + 0.5) / video.fps
        holding = [s.label for s in segments if s.start <= middle < s.end]
        labels.append(holding[-1] if holding else "background")
    return labels


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([15.0, 30.0, 29.97, 24.0]), st.integers(1, 60), st.lists(
    st.tuples(st.floats(-1, 3), st.floats(0, 2), st.sampled_from("abc"))))
def test_frames_take_the_label_of_their_middle(tmp_path_factory, fps, frames, rows):
    path = tmp_path_factory.mktemp("labels")
    segments = [Segment(a, a + n, label, score=0.5) for a, n, label in rows]
    video = VideoTruth(frames / fps, tuple(segments), fps=fps)
    framelabels.write(path / "data", {"v": video})
    assert (path / "data/groundTruth/v.txt").read_text().split() == obvious(video, sorted(segments,
                                                                                         key=lambda s: s.start))
    framelabels.write_predictions(path / "results", {"v": segments}, {"v": video})
    header, labels = (path / "results/v").read_text().splitlines()
    assert (header, labels.split()) == (HEADER, obvious(video, segments[::-1]))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([15.0, 30.0, 30000 / 1001]), st.dictionaries(
    st.text("abc.-_ ", min_size=1).map(lambda x: f"v{x}v"), st.lists(st.sampled_from("pqr"), min_size=1, max_size=40)))
def test_what_is_written_is_read(tmp_path_factory, fps, videos):
    path = tmp_path_factory.mktemp("labels")
    truth = {}
    for vid, labels in videos.items():
        cuts = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1]), len(labels)]
        truth[vid] = VideoTruth(len(labels) / fps, tuple(
            Segment(a / fps, b / fps, labels[a]) for a, b in pairwise(cuts)), fps=fps)
    if not truth:
        return
    framelabels.write(path / "data", truth)
    assert framelabels.parse(path / "data", Reading(fps=fps)) == truth
    found = {vid: list(video.annotations) for vid, video in truth.items()}
    framelabels.write_predictions(path / "results", found, truth)
    assert framelabels.parse_predictions(path / "results", Reading(fps=fps)) == found


def test_a_dataset_is_written_whole(tmp_path):
    truth = {"a": VideoTruth(0.4, (Segment(0.1, 0.2, "take the cup"), Segment(0.2, 0.3, "Stir")), fps=10.0)}
    framelabels.write(tmp_path / "d", truth)
    assert (tmp_path / "d/groundTruth/a.txt").read_text() == "background\ntake_the_cup\nStir\nbackground\n"
    assert (tmp_path / "d/mapping.txt").read_text() == "0 Stir\n1 background\n2 take_the_cup\n"
    framelabels.write(tmp_path / "one.txt", truth)
    assert (tmp_path / "one.txt").read_text() == (tmp_path / "d/groundTruth/a.txt").read_text()
    with pytest.raises(DataError, match=r"holds 'a\.txt'"):
        framelabels.write(tmp_path / "d", {"b": truth["a"]})


def test_overlaps_are_told_once(tmp_path, caplog):
    both = VideoTruth(1.0, (Segment(0, 0.5, "a"), Segment(0.3, 1, "b")), fps=10.0)
    with caplog.at_level(logging.WARNING, logger="cuemark"):
        framelabels.write(tmp_path / "d", {"v": both, "w": both})
    assert [r.getMessage() for r in caplog.records] == [
        f"'{tmp_path / 'd'}': 4 frame(s) are in several segments and keep the label of one."]
    assert (tmp_path / "d/groundTruth/v.txt").read_text().split() == ["a"] * 3 + ["b"] * 7


@pytest.mark.parametrize(("vid", "video", "message"), [
    ("v", VideoTruth(1.0, (Segment(0, 1, "a"),)), "video 'v' has no frame rate"),
    ("v", VideoTruth(1.0, (Segment(0, 1, sentence="a"),), fps=10.0), "an annotation without a label"),
    ("v", VideoTruth(1.0, (Segment(0, 1, " "),), fps=10.0), "an annotation without a label"),
    ("v", VideoTruth(1.0, (Segment(0, 1, "a b"), Segment(0, 1, "a_b")), fps=10.0), "would both be written 'a_b'"),
    ("v", VideoTruth(1.0, (Segment(0, 1, "\ud800"),), fps=10.0), "is no text"),
    ("v", VideoTruth(0.0, (), fps=10.0), "no number of frames"),
    ("v", VideoTruth(1e300, (), fps=1e300), "no number of frames"),
    ("v", VideoTruth(1e9, (), fps=30.0), "no number of frames"),
    ("v/w", VideoTruth(1.0, (), fps=10.0), "cannot be the name of a file"),
])
def test_what_cannot_be_written(tmp_path, vid, video, message):
    with pytest.raises(DataError, match=message):
        framelabels.write(tmp_path / "d", {vid: video})
    with pytest.raises(DataError, match=message):
        framelabels.write_predictions(tmp_path / "r", {vid: list(video.annotations)}, {vid: video})
    assert not list(tmp_path.iterdir())


def test_predictions_need_their_truth_to_be_written(tmp_path):
    with pytest.raises(DataError, match="video 'v' has predictions and no truth"):
        framelabels.write_predictions(tmp_path / "r", {"v": []}, {})
    with pytest.raises(DataError, match=r"one\.txt' can hold one video"):
        framelabels.write(tmp_path / "one.txt", {"a": A, "b": A})


# ---------------------------------------------------------------------------------------------- real labels


@pytest.mark.parametrize(("data", "mats", "fps"), [
    ("GTEA", "GTEA/video_SVM", 15), ("50Salads", "50Salads/mid/mid_video_SVM", 30)])
def test_real_labels_survive(data, mats, fps, tmp_path):
    """The labels of people and of a program for real videos, with the official split that names them."""
    from scipy.io import loadmat

    folder = shared("predictions/segmentation_tcn")
    mat = next(p for p in sorted((folder / mats).iterdir()) if p.stem.endswith("1"))
    split = folder / "splits" / data / "Split_1" / "test.txt"
    names = split.read_text().split()
    held = loadmat(mat)
    truth, found = ({name: np.ravel(x).astype(int) for name, x in zip(names, held[key].ravel())} for key in "YP")
    assert len(names) == held["Y"].size > 5
    (tmp_path / "groundTruth").mkdir()
    (tmp_path / "mapping.txt").write_text("".join(f"{i} action_{i}\n" for i in range(20)))
    for name, labels in truth.items():
        (tmp_path / f"groundTruth/{name}.txt").write_text("".join(f"action_{i}\n" for i in labels))
    result(tmp_path / "r", **{name: " ".join(f"action_{i}" for i in labels) for name, labels in found.items()})

    reading = Reading(fps=fps, meta=split)
    parsed, predicted = framelabels.parse(tmp_path, reading), framelabels.parse_predictions(tmp_path / "r", reading)
    assert list(parsed) == list(predicted) == names
    for name in names:
        labels = truth[name]
        assert parsed[name].duration == len(labels) / fps
        assert len(parsed[name].annotations) == 1 + np.count_nonzero(np.diff(labels))
        assert len(predicted[name]) == 1 + np.count_nonzero(np.diff(found[name]))
    framelabels.write(tmp_path / "again", parsed)
    framelabels.write_predictions(tmp_path / "r2", predicted, parsed)
    for name in names:
        assert (tmp_path / f"again/groundTruth/{name}.txt").read_text() == (
            tmp_path / f"groundTruth/{name}.txt").read_text()
        assert (tmp_path / "r2" / name).read_text().split() == (tmp_path / "r" / name).read_text().split()


# ---------------------------------------------------------------------------------------------- recognising


@pytest.mark.parametrize(("name", "head", "kind"), [
    ("a.txt", "SIL\nSIL\nSIL\ntake_cup\ntake_cup\ntak", "truth"), ("a.txt", "1-30 SIL  \n31-150 take_cup\n", "truth"),
    ("a", f"{HEADER}\nSIL SIL", "predictions"), ("a.txt", f"{HEADER}\nSIL SIL", "predictions"),
    ("classes.txt", "Archery\nBallet\nBowling\nCurling\nDiving\n", None), ("a.txt", "A 0 1##b\nA 0 1##b\n", None),
    ("a.txt", "1\n1\n1\n1\n1\n1\n", None), ("a.csv", "SIL\nSIL\nSIL\nSIL\nSIL\n", None), ("a.txt", "", None),
    ("a.txt", "video_test_0000004  0.2  1.1\n" * 9, None), ("a.json", "{}", None), ("a.txt", "0.5\t1.5\tx\n" * 9, None),
])
def test_looks(tmp_path, name, head, kind):
    assert framelabels.looks(tmp_path / name, head) == kind


def test_looks_into_folders(tmp_path):
    assert framelabels.looks(dataset(tmp_path / "d", a="x x x y y", b="x x x x"), "") == "truth"
    assert framelabels.looks(tmp_path / "d" / "groundTruth", "") == "truth"
    assert framelabels.looks(result(tmp_path / "r", a="x"), "") == "predictions"
    assert framelabels.looks(tmp_path, "") is None
    (tmp_path / "t").mkdir()
    (tmp_path / "t/Diving_test.txt").write_text("video_test_0000004  0.2  1.1\n" * 9)
    assert framelabels.looks(tmp_path / "t", "") is None
