"""EPIC-KITCHENS-100's CSV: three tasks from one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hostile import NAMES, broken_table, survives, truths
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import epic
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

VERB, NOUN, ACTION = epic.FORMATS
HEADER = ("narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
          "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n")
ROWS = ("P01_11_1,P01,P01_11,00:00:01.700,00:00:01.56,01:02:02.45,93,147,put down plate,put-down,1,plate,2,['plate'],"
        "[2]\n"
        "P01_11_10,P01,P01_11,,00:00:00.00,00:00:01.89,1,113,\"take knife, then fork\",pick-up,0,knife,4,"
        "\"['knife', 'fork']\",\"[4, 5]\"\n"
        "P08_01_0,P08,P08_01,,00:00:09.00,00:00:09.50,540,570,open,open,3,,,,\n")
VERBS = ("id,key,instances,category\n0,take,\"['take', 'pick-up']\",retrieve\n1,put,['put'],leave\n"
         "3,open,['open'],access\n")
NOUNS = "id,key,instances,category\n2,plate,['plate'],crockery\n4,board:chopping,['knife'],cutlery\n"
INFO = "video_id,duration,fps,resolution\nP01_11,561.527633,59.9400599400599,1920x1080\n"


def saved(folder: Path, names: bool = True, rows: str = HEADER + ROWS) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "EPIC_100_validation.csv"
    path.write_text(rows, encoding="utf-8")
    if names:
        for name, text in (("verb_classes", VERBS), ("noun_classes", NOUNS), ("video_info", INFO)):
            (folder / f"EPIC_100_{name}.csv").write_text(text)
    return path


def expected(labels: list[str | None], duration: float = 561.527633, fps: float | None = 59.9400599400599):
    return {"P01_11": VideoTruth(duration, (
                Segment(1.56, 3722.45, labels[0], sentence="put down plate", id="P01_11_1"),
                Segment(0.0, 1.89, labels[1], sentence="take knife, then fork", id="P01_11_10")), "validation", fps),
            "P08_01": VideoTruth(9.5, (Segment(9.0, 9.5, labels[2], sentence="open", id="P08_01_0"),), "validation")}


@pytest.mark.parametrize(("one", "labels"), [
    (VERB, ["put", "take", "open"]), (NOUN, ["plate", "board:chopping", None]),
    (ACTION, ["put plate", "take board:chopping", None])])
def test_a_label_is_a_class(tmp_path, one, labels):
    path = saved(tmp_path)
    for place in (path, tmp_path):
        reading = Reading()
        assert one.parse(place, reading) == expected(labels)
        assert reading.problems == []


def test_without_the_classes_names_there_are_numbers(tmp_path):
    path = saved(tmp_path, names=False)
    reading = Reading(durations={"P08_01": 77.0})
    truth = expected(["1 2", "0 4", None], 3722.45, None)
    truth["P08_01"] = VideoTruth(77.0, truth["P08_01"].annotations, "validation")
    assert ACTION.parse(path, reading) == truth
    assert [(p.where, p.done) for p in reading.problems] == [(f"'{tmp_path}'", "kept")] * 2
    saved(tmp_path / "names")
    for meta in (tmp_path / "names", tmp_path / "names" / "EPIC_100_verb_classes.csv"):
        reading = Reading(meta=meta)
        assert VERB.parse(path, reading) == expected(["put", "take", "open"])
        assert reading.problems == []


def test_the_test_file_has_no_labels(tmp_path):
    path = saved(tmp_path).rename(tmp_path / "EPIC_100_test_timestamps.csv")
    path.write_text("narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
                    "start_frame,stop_frame\nP01_11_0,P01,P01_11,00:00:02.851,00:00:02.86,00:00:03.87,143,193\n")
    assert VERB.parse(path, Reading()) == {
        "P01_11": VideoTruth(561.527633, (Segment(2.86, 3.87, id="P01_11_0"),), "testing", 59.9400599400599)}


def test_a_folder_of_all_splits(tmp_path):
    saved(tmp_path)
    (tmp_path / "EPIC_100_train.csv").write_text(HEADER + ROWS.replace("P08_01", "P09_01").splitlines()[2] + "\n")
    assert {vid: v.subset for vid, v in VERB.parse(tmp_path, Reading()).items()} == {
        "P09_01": "training", "P01_11": "validation", "P08_01": "validation"}
    (tmp_path / "EPIC_100_train.csv").write_text(HEADER + ROWS)
    with pytest.raises(DataError, match=r"EPIC_100_validation\.csv', line 2: narration_id 'P01_11_1' is there twice"):
        VERB.parse(tmp_path, Reading())


def test_inverted_actions_are_dropped(tmp_path):
    path = saved(tmp_path, rows=HEADER + ROWS.replace("00:00:09.00", "00:01:09.00"))
    reading = Reading()
    assert VERB.parse(path, reading)["P08_01"].annotations == ()
    assert [(p.where, p.done) for p in reading.problems] == [(f"'{path}', line 4", "dropped")]


@pytest.mark.parametrize(("change", "message"), [
    (("video_id", "video"), "has no column 'video_id'"),
    (("00:00:01.56", "1.56"), r"validation\.csv', line 2: expected a time HH:MM:SS\.ss, got '1\.56'"),
    (("00:00:01.56", "00:60:01.56"), r"line 2: expected a time HH:MM:SS\.ss"),
    (("00:00:01.56", "-0:00:01.56"), r"line 2: expected a time HH:MM:SS\.ss"),
    (("put-down,1,", "put-down,put,"), "line 2: expected a verb_class, a number, got 'put'"),
    (("put-down,1,", "put-down,2,"), r"line 2: verb_class 2 is not in EPIC_100_verb_classes\.csv"),
])
def test_malformed_files(tmp_path, change, message):
    path = saved(tmp_path, rows=(HEADER + ROWS).replace(*change))
    with pytest.raises(DataError, match=message):
        VERB.parse(path, Reading())


@pytest.mark.parametrize(("name", "text", "message"), [
    ("verb_classes", VERBS + "1,again,,\n", "line 5: class 1 is there twice or has no name"),
    ("verb_classes", VERBS + "9,,,\n", "line 5: class 9 is there twice or has no name"),
    ("verb_classes", "id,name\n", "has no column 'key'"),
    ("video_info", INFO.replace("59.94", "-9.94"), "line 2: expected fps above 0, got -9.94006"),
    ("video_info", INFO.replace("561", "x"), "line 2: expected the video's seconds, got 'x"),
])
def test_malformed_files_beside(tmp_path, name, text, message):
    path = saved(tmp_path)
    (tmp_path / f"EPIC_100_{name}.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        VERB.parse(path, Reading())


def test_broken_files_are_read_or_refused(tmp_path):
    path = saved(tmp_path)
    read, refused = survives(path, broken_table(HEADER + ROWS), ACTION.parse)
    assert read > 100
    assert refused > 100
    path.write_text(HEADER + ROWS)
    for name, text in (("verb_classes", VERBS), ("video_info", INFO)):
        beside = tmp_path / f"EPIC_100_{name}.csv"
        read, refused = survives(beside, broken_table(text), lambda _, reading: VERB.parse(path, reading))
        assert read > 10
        assert refused > 10
        saved(tmp_path)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"holds none of EPIC_100_train\.csv, EPIC_100_validation\.csv"):
        VERB.parse(tmp_path, Reading())


# ---------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("one", epic.FORMATS, ids=lambda f: f.name)
def test_what_was_read_is_written_and_read(tmp_path, one):
    truth = one.parse(saved(tmp_path / "a"), Reading())
    one.write(tmp_path / "b", truth)
    assert one.parse(tmp_path / "b", Reading()) == truth
    numbers = one.parse(saved(tmp_path / "c", names=False), Reading())
    one.write(tmp_path / "d", numbers)
    assert one.parse(tmp_path / "d", Reading()) == numbers
    assert not list((tmp_path / "d").glob("*_classes.csv"))


def test_classes_keep_the_numbers_of_the_folder(tmp_path):
    truth = VERB.parse(saved(tmp_path / "a"), Reading())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "EPIC_100_verb_classes.csv").write_text(VERBS)
    VERB.write(tmp_path / "b", truth)
    rows = (tmp_path / "b" / "EPIC_100_validation.csv").read_text().splitlines()
    assert rows[1] == "P01_11_1,P01,P01_11,,00:00:01.56,01:02:02.45,93,223123,put down plate,put,1,,,,"
    assert (tmp_path / "b" / "EPIC_100_verb_classes.csv").read_text() == VERBS
    with pytest.raises(DataError, match=r"'cut' is not in '.*EPIC_100_verb_classes\.csv'; rename it, or write into an"):
        VERB.write(tmp_path / "b", {"P01_11": VideoTruth(9.0, (Segment(1, 2, "cut"),), "validation")})


VIDEOS = st.integers(0, 5).map(lambda n: f"P0{n}_1{n}")
WORDS = NAMES.filter(lambda t: t.split() == [t])


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_truth_is_written_and_read(tmp_path_factory, data):
    one, labels = data.draw(st.sampled_from([
        (VERB, NAMES), (NOUN, NAMES), (ACTION, st.tuples(WORDS, WORDS).map(" ".join))]))
    truth = data.draw(truths(st.none() | labels, VIDEOS, ("training", "validation", "testing"),
                             st.none() | st.just(50.0), empty=False, sentence=st.none() | NAMES))
    folder = tmp_path_factory.mktemp("epic") / "again"
    one.write(folder, truth)
    if truth:
        named = {vid: replace(v, annotations=tuple(replace(s, id=f"{vid}_{i}") for i, s in enumerate(v.annotations)))
                 for vid, v in truth.items()}
        assert one.parse(folder, Reading()) == named


@pytest.mark.parametrize(("one", "video", "message"), [
    (VERB, VideoTruth(9.0, (), "novel"), "is of subset 'novel'"),
    (ACTION, VideoTruth(9.0, (Segment(1, 2, "take"),), "testing"), "label 'take', which is not a verb, a blank and a"),
    (ACTION, VideoTruth(9.0, (Segment(1, 2, "take a knife"),), "testing"), "which is not a verb, a blank and a noun"),
    (VERB, VideoTruth(9.0, (Segment(-1, 2, "take"),), "testing"), "an annotation at -1 s"),
])
def test_what_cannot_be_written_leaves_nothing(tmp_path, one, video, message):
    with pytest.raises(DataError, match=message):
        one.write(tmp_path / "t", {"P01_11": VideoTruth(9.0, (Segment(1, 2, "x y"),), "training"), "P02_01": video})
    assert not list(tmp_path.iterdir())
    saved(tmp_path)
    with pytest.raises(DataError, match=r"holds 'EPIC_100_validation\.csv', which would be read as a part of it"):
        VERB.write(tmp_path, {"P01_11": VideoTruth(9.0, (), "training")})


def test_only_the_verbs_format_is_guessed(tmp_path):
    assert [f.looks(tmp_path / "x.csv", HEADER) for f in epic.FORMATS] == ["truth", None, None]
    assert [f.looks(tmp_path, "") for f in epic.FORMATS] == [None, None, None]
    saved(tmp_path)
    assert [f.looks(tmp_path, "") for f in epic.FORMATS] == ["truth", None, None]
    assert VERB.looks(tmp_path / "x.csv", "narration_id,narration\nP01_11_0,take plate\n") is None
