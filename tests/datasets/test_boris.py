"""BORIS: projects, and tables of events."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets.boris import looks, parse, write
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth


def observation(media: list[str], events: list, offset: float = 0.0, kind: str = "MEDIA") -> dict:
    return {"file": {"1": media, "2": []} if kind == "MEDIA" else [], "type": kind, "date": "2026-01-31T08:00:00",
            "description": "", "time offset": offset, "events": events, "independent_variables": {"weather": "sunny"},
            "visualize_spectrogram": False, "close_behaviors_between_videos": False,
            "media_info": {"length": dict.fromkeys(media, 359.96), "fps": dict.fromkeys(media, 25.0),
                           "hasVideo": dict.fromkeys(media, True), "hasAudio": dict.fromkeys(media, False),
                           "offset": {"1": 0.0, "2": 0.0}} if media else {"offset": {}}}


# as BORIS saves a project: two subjects at once, modifiers, a comment, an event that never stops, newer events with a
# frame number, a queue of media, a live observation
FILE = {
    "time_format": "hh:mm:ss", "project_name": "cages", "project_date": "2026-01-31T07:55:22",
    "project_description": "", "project_format_version": "7.0",
    "subjects_conf": {"0": {"key": "1", "name": "A", "description": ""},
                      "1": {"key": "2", "name": "B", "description": ""}},
    "behaviors_conf": {
        "0": {"type": "State event", "key": "d", "code": "drink", "description": "", "category": "", "modifiers": {},
              "excluded": "", "coding map": ""},
        "1": {"type": "Point event", "key": "j", "code": "jump", "description": "", "category": "", "modifiers": {},
              "excluded": "", "coding map": ""}},
    "observations": {
        "cage 1, morning": observation(["videos/cage_1.mp4"], [
            [7.75, "A", "drink", "", "", 193],  # order does not matter
            [3.3, "A", "drink", "", "from the left bottle", 82],
            [5.0, "B", "drink", "", "", 125], [6.0, "B", "drink", "", "", 150],
            [6.5, "A", "drink", "left|slow", "", 162], [9.0, "A", "drink", "left|slow", "", 225],
            [4.0, "A", "jump", "", "", 100], [20.0, "A", "drink", "", "", 500]]),
        "cage 2, all day": observation(["a.mp4", "b.mp4"], [
            [400.0, "", "drink", "", ""], [410.5, "", "drink", "", ""]]),
        "balcony": observation([], [[1.75, "", "jump", "", ""]], kind="LIVE"),
        "clock time": observation(["/videos/yard.MTS"], [[3603.0, "", "jump", "", ""]], offset=3600.0),
    },
    "behavioral_categories": [], "independent_variables": {}, "coding_map": {}, "behaviors_coding_map": [],
    "converters": {},
}

# "Export events", older layout: a preface, then the table
OLD = """Observation id\tobservation #1\t\t\t\t\t\t\t
\t\t\t\t\t\t\t\t
Media file(s)\t\t\t\t\t\t\t\t
\t\t\t\t\t\t\t\t
Player #1\tvideo_25fps.mp4\t\t\t\t\t\t\t
\t\t\t\t\t\t\t\t
Observation date\t2016-11-27 01:57:26\t\t\t\t\t\t\t
\t\t\t\t\t\t\t\t
Time offset (s)\t0.0\t\t\t\t\t\t\t
\t\t\t\t\t\t\t\t
independent variables\t\t\t\t\t\t\t\t
variable\tvalue\t\t\t\t\t\t\t
weather\tsunny\t\t\t\t\t\t\t
\t\t\t\t\t\t\t\t
Time\tMedia file path\tTotal length\tFPS\tSubject\tBehavior\tBehavioral category\tComment\tStatus
3.300\tvideo_25fps.mp4\t359.960\t25.0\tsubject1\tdrink\t\tslowly\tSTART
4.100\tvideo_25fps.mp4\t359.960\t25.0\tsubject1\tjump\t\t\tPOINT
7.750\tvideo_25fps.mp4\t359.960\t25.0\tsubject1\tdrink\t\t\tSTOP
8.000\tvideo_25fps.mp4\t359.960\t25.0\tsubject2\tdrink\t\t\tSTOP
9.900\tvideo_25fps.mp4\t359.960\t25.0\tsubject1\tdrink\t\t\tSTART
"""

# the same of version 9, comma separated
NEW = """Observation id,Observation date,Description,Observation duration,Observation type,Source,Time offset (s),\
Media duration (s),FPS,weather,Subject,Behavior,Behavioral category,Modifier #1,Behavior type,Time,Media file name,\
Image index,Image file path,Comment
"cage 1, morning",2026-01-31 08:00:00,,20.0,Media file(s),player #1:videos/cage_1.mp4,0.0,359.960,25.000,sunny,A,drink,\
,left,START,3.300,videos/cage_1.mp4,82,NA,from the left bottle
"cage 1, morning",2026-01-31 08:00:00,,20.0,Media file(s),player #1:videos/cage_1.mp4,0.0,359.960,25.000,sunny,A,jump,\
,,POINT,4.000,videos/cage_1.mp4,100,NA,
"cage 1, morning",2026-01-31 08:00:00,,20.0,Media file(s),player #1:videos/cage_1.mp4,0.0,359.960,25.000,sunny,A,drink,\
,left,STOP,7.750,videos/cage_1.mp4,193,NA,
"cage 2",2026-01-31 08:00:00,,20.0,Live observation,NA,100.0,NA,NA,sunny,No focal subject,jump,,,POINT,104.5,NA,NA,NA,
"""

# "Export aggregated events"
AGGREGATED = """Observation id\tObservation date\tDescription\tMedia file\tTotal length\tFPS\tweather\tSubject\t\
Behavior\tBehavioral category\tModifiers\tBehavior type\tStart (s)\tStop (s)\tDuration (s)\tComment start\tComment stop
observation #2\t2016-12-01 23:01:31\t\tvideo_180s.mp4\t539.920\t25.0\tsunny\tNo focal subject\ts\t\t\tSTATE\t\
1.800\t8.125\t6.325\t\t
observation #2\t2016-12-01 23:01:31\t\tvideo_180s.mp4\t539.920\t25.0\tsunny\tNo focal subject\tp\t\t\tPOINT\t\
32.825\tNA\tNA\t\t
observation #2\t2016-12-01 23:01:31\t\tvideo_360s.mp4\t539.920\t25.0\tsunny\tsubject1\ts\t\t\tSTATE\t266.165\t276.690\t\
10.525\tlate\t
"""


def saved(tmp_path, data, name="cages.boris"):
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data, indent=1))
    return path


def test_a_project(tmp_path):
    path = saved(tmp_path, FILE)
    assert looks(path, path.read_text()) == "truth"
    reading = Reading(subset="testing")
    assert parse(path, reading) == {
        "cage_1": VideoTruth(359.96, (
            Segment(3.3, 7.75, "drink", sentence="from the left bottle"), Segment(4, 4, "jump"), Segment(5, 6, "drink"),
            Segment(6.5, 9, "drink")), "testing", 25.0),
        "cage 2, all day": VideoTruth(719.92, (Segment(400, 410.5, "drink"),), "testing", 25.0),
        "balcony": VideoTruth(1.75, (Segment(1.75, 1.75, "jump"),), "testing"),
        "yard": VideoTruth(359.96, (Segment(3, 3, "jump"),), "testing", 25.0)}
    assert [(p.where.split(", ", 1)[1], p.what, p.done) for p in reading.problems] == [
        ("observation 'cage 1, morning', event 7", "'drink' starts and never stops", "dropped")]


def test_two_observations_of_one_video_are_called_as_they_are(tmp_path):
    data = copy.deepcopy(FILE)
    data["observations"] = {name: observation(["v.mp4"], []) for name in ("Ann", "Ben")}
    assert list(parse(saved(tmp_path, data), Reading())) == ["Ann", "Ben"]


def test_an_unknown_rate_is_0(tmp_path):
    data = copy.deepcopy(FILE)
    data["observations"]["clock time"]["media_info"]["fps"]["/videos/yard.MTS"] = 0
    assert parse(saved(tmp_path, data), Reading())["yard"].fps is None


def test_an_older_table(tmp_path):
    path = saved(tmp_path, OLD, "events.tsv")
    assert looks(path, OLD) == "truth"
    reading = Reading()
    assert parse(path, reading) == {"video_25fps": VideoTruth(359.96, (
        Segment(3.3, 7.75, "drink", sentence="slowly"), Segment(4.1, 4.1, "jump")), fps=25.0)}
    assert [(p.where.split(", ")[1], p.what) for p in reading.problems] == [
        ("line 19", "'drink' stops and never started"), ("line 20", "'drink' starts and never stops")]


def test_a_newer_table(tmp_path):
    path = saved(tmp_path, "\ufeff" + NEW.replace("\n", "\r\n"), "events.csv")
    assert looks(path, NEW) == "truth"
    reading = Reading()
    assert parse(path, reading) == {
        "cage_1": VideoTruth(359.96, (Segment(3.3, 7.75, "drink", sentence="from the left bottle"),
                                      Segment(4, 4, "jump")), fps=25.0),
        "cage 2": VideoTruth(4.5, (Segment(4.5, 4.5, "jump"),))}
    assert not reading.problems


def test_aggregated_events(tmp_path):
    path = saved(tmp_path, AGGREGATED, "events.tsv")
    assert looks(path, AGGREGATED) == "truth"
    assert parse(path, Reading()) == {"observation #2": VideoTruth(539.92, (
        Segment(1.8, 8.125, "s"), Segment(32.825, 32.825, "p"), Segment(266.165, 276.69, "s", sentence="late")),
        fps=25.0)}


# ------------------------------------------------------------------------------------------------------- round trip


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_round_trip(tmp_path_factory, data):
    time = st.integers(0, 40)
    text = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=6).map(str.strip).filter(bool)
    cut = st.builds(lambda a, b, name, told: Segment(min(a, b) / 1000, max(a, b) / 1000, name, sentence=told),
                    time, time, st.sampled_from(("run", "jump")), st.none() | text)
    truth = {vid: VideoTruth(9.0, tuple(data.draw(st.lists(cut, max_size=6))), fps=fps)
             for vid, fps in (("v", 25.0), ("w.v2", None))}
    path = tmp_path_factory.mktemp("boris") / "p.boris"
    write(path, truth)
    reading = Reading()
    back = parse(path, reading)
    key = lambda s: (s.start, s.end, s.label, s.sentence or "")  # noqa: E731
    assert {vid: (sorted(v.annotations, key=key), v.duration, v.fps) for vid, v in back.items()} == {
        vid: (sorted(v.annotations, key=key), v.duration, v.fps) for vid, v in truth.items()}
    assert not reading.problems


def test_what_is_written(tmp_path):
    """Every subject's starts and stops take turns; overlaps are subjects of their own; points are points."""
    write(tmp_path / "p.boris", {"v": VideoTruth(9.0, (
        Segment(1, 3, "run"), Segment(2, 4, "run", sentence="again"), Segment(3, 3.0004, "run"),
        Segment(5, 5, "jump")), fps=25.0)})
    made = json.loads((tmp_path / "p.boris").read_text())
    assert {b["code"]: b["type"] for b in made["behaviors_conf"].values()} == {
        "run": "State event", "jump": "Point event"}
    assert [s["name"] for s in made["subjects_conf"].values()] == ["overlap 2"]
    assert made["observations"]["v"]["events"] == [
        [1.0, "", "run", "", ""], [2.0, "overlap 2", "run", "", "again"], [3.0, "", "run", "", ""],
        [3.0, "", "run", "", ""], [3.0, "", "run", "", ""], [4.0, "overlap 2", "run", "", ""],
        [5.0, "", "jump", "", ""]]
    assert made["observations"]["v"]["file"] == {"1": ["v.mp4"], "2": []}
    assert made["project_format_version"] == "7.0"
    with pytest.raises(DataError, match="video 'v' has an annotation without a label"):
        write(tmp_path / "none.boris", {"v": VideoTruth(9.0, (Segment(1, 2, sentence="x"),))})
    assert not (tmp_path / "none.boris").exists()


# -------------------------------------------------------------------------------------------------------- malformed


def change(*keys, value):
    data = copy.deepcopy(FILE)
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return data


MORNING = ("observations", "cage 1, morning")


@pytest.mark.parametrize(("data", "message"), [
    ("{", "not valid JSON"), ("[]", "is not a BORIS project"), ("{}", "is not a BORIS project"),
    ("", "is not a BORIS table of events"), ("a,b\n1,2\n", "is not a BORIS table of events"),
    ("Observation id\tBehavior\nx\ty\n", "is not a BORIS table of events"),
    ('{"observations": {"a": {}, "a": {}}}', "twice"),
    (change("behaviors_conf", value=[]), "is not a BORIS project"),
    (change("behaviors_conf", "0", value={"code": 3}), "behaviors_conf 0: expected a code and a type"),
    (change("observations", "balcony", value=3), "observation 'balcony': expected an object with events"),
    (change(*MORNING, "events", value=None), "expected an object with events"),
    (change(*MORNING, "events", value=[3]), "event 0: expected [seconds, subject, behaviour"),
    (change(*MORNING, "events", value=[[1.0, "A"]]), "event 0: expected [seconds, subject, behaviour"),
    (change(*MORNING, "events", value=[[1.0, "A", 3, "", ""]]), "event 0: expected [seconds, subject, behaviour"),
    (change(*MORNING, "events", value=[[1.0, "A", "fly", "", ""]]), "behaviour 'fly' is not in the ethogram"),
    (change(*MORNING, "events", value=[[None, "A", "jump", "", ""]]), "event 0: expected a number of seconds"),
    (change(*MORNING, "events", value=[[True, "A", "jump", "", ""]]), "event 0: expected a number of seconds"),
    (change(*MORNING, "events", value=[[10**400, "A", "jump", "", ""]]), "event 0: expected a number of seconds"),
    (json.dumps(change(*MORNING, "time offset", value=float("nan"))), "time offset: expected a number of seconds"),
    (change(*MORNING, "file", value={"1": "v.mp4"}), 'expected "file" to list the media'),
    (change(*MORNING, "media_info", "length", value={"videos/cage_1.mp4": "long"}), "length of 'videos/cage_1.mp4'"),
    (change(*MORNING, "media_creation_date_as_offset", value=True), "its times are dates"),
    (change("observations", "cage_1", value=observation(["a.mp4", "b.mp4"], [])), "another one is called 'cage_1' too"),
    (OLD.replace("3.300", "early"), "line 16: expected a number of seconds, got 'early'"),
    (OLD.replace("\tSTOP\n", "\tEND\n", 1), "line 18: Status should be START, STOP or POINT, got 'END'"),
    (OLD.replace("\tdrink\t", "\t\t", 1), "line 16: no behaviour"),
    (OLD.replace("\t\t\tPOINT", ""), "line 17: 6 cells where the header has 9"),
    (AGGREGATED.replace("8.125", "NA"), "line 2: expected a number of seconds, got 'NA'"),
])
def test_malformed(tmp_path, data, message):
    with pytest.raises(DataError) as error:
        parse(saved(tmp_path, data), Reading())
    assert message in str(error.value)
    assert "cages.boris" in str(error.value)


def test_inverted_rows_are_dropped(tmp_path):
    reading = Reading()
    truth = parse(saved(tmp_path, AGGREGATED.replace("8.125", "1.125"), "e.tsv"), reading)
    assert len(truth["observation #2"].annotations) == 2
    assert "ends before it starts" in reading.problems[0].what


@pytest.mark.parametrize("head", [
    '{"observations": {}}', '{"database": {}}', "video,start,end\n", "Observation\tBehavior\n", "Observation id\n", ""])
def test_looks_at_other_files(tmp_path, head):
    assert looks(tmp_path / "a.json", head) is None
