"""MultiTHUMOS: the JSON, the authors' text files, and what both share with THUMOS14."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from conftest import shared
from hostile import broken_json, survives, truths
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import multithumos, thumos
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

FORMAT = multithumos.FORMAT
A, B = "video_validation_0000266", "video_test_0000896"
DATA = {B: {"subset": "testing", "duration": 226.77, "actions": [[12, 18.6, 24.8], [25, 18.27, 22.57]]},
        A: {"subset": "training", "duration": 9, "actions": []}}


def saved(path, data):
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_classes_count_from_1(tmp_path):
    assert FORMAT.parse(saved(tmp_path / "m.json", DATA), Reading()) == {
        B: VideoTruth(226.77, (Segment(18.6, 24.8, "HighJump"), Segment(18.27, 22.57, "Run")), "testing"),
        A: VideoTruth(9.0, (), "training")}
    assert multithumos.CLASSES[:20] == tuple(thumos.CLASS_IDS)
    assert len(set(multithumos.CLASSES)) == 65


def test_the_real_file(tmp_path):
    """The counts of each class are those of the authors' text files, by which the order of the names is known."""
    truth = FORMAT.parse(shared("annotations/multithumos.json"), reading := Reading())
    assert reading.problems == []
    assert Counter(v.subset for v in truth.values()) == {"testing": 213, "training": 200}
    segments = [(s, v) for v in truth.values() for s in v.annotations]
    assert len(segments) == 38_690
    assert sum(s.duration == 0 for s, _ in segments) == 7
    assert sum(s.end > v.duration for s, v in segments) == 65
    counts = Counter(s.label for s, _ in segments)
    assert set(counts) == set(multithumos.CLASSES)
    assert counts.most_common(6) == [("Run", 3693), ("Jump", 3496), ("Walk", 3059), ("Stand", 2808), ("Throw", 1971),
                                     ("Sit", 1798)]
    assert counts.most_common()[-4:] == [("GolfSwing", 67), ("PatPerson", 46), ("VolleyballServe", 30),
                                         ("VolleyballBump", 15)]
    FORMAT.write(tmp_path / "m.json", truth)
    assert FORMAT.parse(tmp_path / "m.json", Reading()) == truth
    mine, theirs = (json.loads(p.read_text()) for p in (tmp_path / "m.json", shared("annotations/multithumos.json")))
    assert mine == theirs


def test_thumos14_is_in_it():
    """The 20 classes of THUMOS14 have as many annotations there."""
    truth = FORMAT.parse(shared("annotations/multithumos.json"), Reading())
    official = thumos.FORMATS[0].parse(shared("annotations/thumos14"), Reading())
    assert set(truth) == set(official)
    counts = [Counter(s.label for v in t.values() for s in v.annotations if s.label in thumos.CLASS_IDS)
              for t in (truth, official)]
    assert counts[0] == counts[1]


def test_the_authors_text_files(tmp_path):
    (tmp_path / "annotations").mkdir()
    saved(tmp_path / "annotations" / "BasketballGuard.txt", f"{B} 17.57 18.33\n{A} 2 1\n{A} 1 2\n")
    saved(tmp_path / "annotations" / "Walk.txt", f"{B} 3 4\n")
    saved(tmp_path / "class_list.txt", "1 BaseballPitch\n")
    reading = Reading()
    for path in (tmp_path, tmp_path / "annotations"):
        assert FORMAT.looks(path, "") == "truth"
        assert FORMAT.parse(path, reading) == {
            B: VideoTruth(18.33, (Segment(17.57, 18.33, "BasketballGuard"), Segment(3, 4, "Walk")), "testing"),
            A: VideoTruth(2.0, (Segment(1, 2, "BasketballGuard"),), "validation")}
    assert [p.done for p in reading.problems] == ["dropped", "dropped"]
    assert thumos.FORMATS[0].looks(tmp_path, "") is None
    with pytest.raises(DataError, match=r"holds no file such as 'BasketballGuard\.txt'"):
        FORMAT.parse(shared("annotations/gtad"), Reading())


@pytest.mark.parametrize(("data", "message"), [
    ([], r"m\.json' is not a MultiTHUMOS file; expected an object with one entry per video"),
    ({B: []}, f"video '{B}': expected an object with \"duration\", \"subset\" and a list of \"actions\""),
    ({B: {"duration": 1, "actions": [[1, 2]]}}, "action 0: expected \\[class, start, end\\], got \\[1, 2\\]"),
    ({B: {"duration": 1, "actions": [[0, 1, 2]]}}, "action 0: expected a class from 1 to 65, got 0"),
    ({B: {"duration": 1, "actions": [[66, 1, 2]]}}, "action 0: expected a class from 1 to 65, got 66"),
    ({B: {"duration": 1, "actions": [["Run", 1, 2]]}}, "action 0: expected a class from 1 to 65, got 'Run'"),
    ({B: {"duration": 1, "actions": [[1, 1, "x"]]}}, "action 0: expected a start and an end in seconds"),
    ({B: {"duration": "long", "actions": []}}, 'expected "duration" in seconds, got \'long\''),
    (f'{{"{B}": {{}}, "{B}": {{}}}}', f'has the key "{B}" twice in one object'),
])
def test_malformed_files(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        FORMAT.parse(saved(tmp_path / "m.json", data), Reading())


def test_what_is_missing_is_filled_and_what_is_inverted_dropped(tmp_path):
    path = saved(tmp_path / "m.json", {B: {"actions": [[1, 2, 3], [1, 3, 2]]}})
    reading = Reading(subset="mine")
    assert FORMAT.parse(path, reading) == {B: VideoTruth(3.0, (Segment(2, 3, "BaseballPitch"),), "mine")}
    assert [(p.where, p.done) for p in reading.problems] == [(f"'{path}', video '{B}', action 1", "dropped")]


def test_broken_files_are_read_or_refused(tmp_path):
    read, refused = survives(tmp_path / "m.json", broken_json(DATA), FORMAT.parse)
    assert read > 10
    assert refused > 50


@settings(max_examples=25, deadline=None)
@given(truth=truths(st.sampled_from(multithumos.CLASSES), st.text("ab\u00fc", max_size=3), ("training", "other")))
def test_what_is_written_is_read(tmp_path_factory, truth):
    path = tmp_path_factory.mktemp("multi") / "m.json"
    FORMAT.write(path, truth)
    assert FORMAT.parse(path, Reading()) == truth


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    for label in (None, "Ambiguous"):
        with pytest.raises(DataError, match=f"has the label {label!r}, which is none of MultiTHUMOS's 65 classes"):
            FORMAT.write(tmp_path / "m.json", {B: VideoTruth(9.0, (Segment(1, 2, label),))})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("head", "kind"), [
    (json.dumps(DATA), "truth"),
    ('{"46GP8": {"subset": "training", "duration": 3, "actions": [[92, 11.9, 21.2]]}}', None),  # Charades
    ('{"video_test_0000896": {"subset": "test", "annotations": []}}', None), ("", None)])
def test_whose_file_it_is(tmp_path, head, kind):
    assert FORMAT.looks(tmp_path / "m.json", head) == kind
