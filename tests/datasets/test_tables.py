"""CSV, TSV and JSON lines: one annotation a row. Also: no format of a tool claims another's file, or a benchmark's."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import audacity, boris, cvat, elan, fiftyone, labelstudio, tables, via
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

CSV, JSONL = tables.FORMATS
TOOLS = (*tables.FORMATS, labelstudio.FORMAT, cvat.FORMAT, via.FORMAT, elan.FORMAT, boris.FORMAT, audacity.FORMAT,
         fiftyone.FORMAT)

words = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12).map(str.strip).filter(bool)
times = st.floats(0, 1e6, allow_nan=False)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    start, end = sorted((draw(times), draw(times)))
    maybe = st.none() | words
    return Segment(start, end, draw(maybe), draw(st.none() | st.floats(-1e3, 1e3)), draw(maybe), draw(maybe),
                   draw(maybe))


videos = st.builds(VideoTruth, st.floats(1e6, 1e7), st.lists(segments(), max_size=4).map(tuple),
                   st.sampled_from(("training", "validation", "fold 3")), st.none() | st.floats(1, 240))
truths = st.dictionaries(words, videos, min_size=1, max_size=4)


def read(tmp_path: Path, text: str | bytes, name: str = "a.csv", **known) -> dict[str, VideoTruth]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return (JSONL if name.endswith("jsonl") else CSV).parse(path, Reading(**known))


# ---------------------------------------------------------------------------------------------------- round trip


@settings(max_examples=50, deadline=None)
@given(truth=truths)
def test_what_is_written_is_read(truth, tmp_path_factory):
    folder = tmp_path_factory.mktemp("t")
    for form, name in ((CSV, "a.csv"), (CSV, "a.tsv"), (JSONL, "a.jsonl")):
        form.write(folder / name, truth)
        reading = Reading()
        assert form.parse(folder / name, reading) == truth, name
        assert not reading.problems


def test_only_used_columns_are_written(tmp_path):
    CSV.write(tmp_path / "a.csv", {"v": VideoTruth(9.0, (Segment(1, 2, "run"),)), "w": VideoTruth(3.0)})
    assert (tmp_path / "a.csv").read_text() == (
        "video,start,end,label,duration,subset\nv,1.0,2.0,run,9.0,training\nw,,,,3.0,training\n")
    JSONL.write(tmp_path / "a.jsonl", {"v": VideoTruth(9.0, (Segment(1, 2, score=0.5),), fps=25)})
    assert (tmp_path / "a.jsonl").read_text() == (
        '{"video": "v", "start": 1.0, "end": 2.0, "score": 0.5, "duration": 9.0, "subset": "training", "fps": 25}\n')


def test_what_a_table_cannot_hold_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match="cannot hold"):
        CSV.write(tmp_path / "a.csv", {"v\r": VideoTruth(1.0)})
    with pytest.raises(DataError, match="no text"):
        JSONL.write(tmp_path / "a.jsonl", {"v": VideoTruth(1.0, (Segment(0, 1, "\ud800"),))})
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------- headers


def test_a_spreadsheet_of_a_team(tmp_path, caplog):
    """Byte order mark, Windows' line ends, many names, timecodes, a sentence with a comma, empty cells at the end."""
    text = ("\ufeffFile Name,Begin,End,Class,Description,Annotator,Split\r\n"
            "clips/day 1/cam_2.MP4,00:01:02.5,1:10,walk,\"slowly, to the door\",Ann,val\r\n"
            "\r\n"
            "cam_2.mp4,75:00,01:15:30,run,,Ben,val,,\r\n")
    with caplog.at_level(logging.WARNING, "cuemark"):
        truth = read(tmp_path, text)
    assert truth == {"cam_2": VideoTruth(4530.0, (
        Segment(62.5, 70, "walk", sentence="slowly, to the door"), Segment(4500, 4530, "run")), "validation")}
    assert "ignored Annotator" in caplog.text


def test_a_semicolon_and_a_decimal_comma(tmp_path):
    assert read(tmp_path, "video;start;end;label;score\nv;1,5;2,25;a;0,75\nv;3.5;00:00:04,5;b;1\n") == {
        "v": VideoTruth(4.5, (Segment(1.5, 2.25, "a", 0.75), Segment(3.5, 4.5, "b", 1.0)))}
    assert read(tmp_path, "video\tstart\tend\nv\t1,5\t2\n", "a.tsv")["v"].annotations == (Segment(1.5, 2),)


def test_of_several_names_the_first_counts(tmp_path, caplog):
    truth = read(tmp_path, "filename,video_id,Start (s),start,end,category,label\nx.mp4,v.mp4,9,1,2,no,yes\n")
    assert truth == {"v.mp4": VideoTruth(2.0, (Segment(1, 2, "yes"),))}
    assert "filename, Start (s), category" in caplog.text


def test_a_row_without_times_is_a_video_without_annotations(tmp_path):
    truth = read(tmp_path, "video,start,end,duration,fps\nv,,,30,25\nw,,,,\n", durations={"w": 7.0})
    assert truth == {"v": VideoTruth(30.0, fps=25.0), "w": VideoTruth(7.0)}


def test_inverted_rows_are_dropped_and_counted(tmp_path):
    (tmp_path / "a.csv").write_text("video,start,end,label,duration\nv,5,4,a,10\nv,1,2,b,10\nv,3,3,c,10\nv,8,12,d,10\n")
    reading = Reading()
    truth = CSV.parse(tmp_path / "a.csv", reading)
    assert [s.label for s in truth["v"].annotations] == ["b", "c", "d"]
    (problem,) = reading.problems
    assert problem.done == "dropped"
    assert "line 2" in problem.where


def test_lines_hold_segments_or_starts_and_ends(tmp_path):
    text = ('\ufeff{"video": "v", "segment": [1, "00:00:02"], "label": 3, "split": "test", "Notes": ["x"]}\r\n\n'
            '{"file": "b/w.mkv", "start": "1:00", "end": 61.5, "confidence": "0.5", "query": null}\n'
            '{"video": "u", "duration": 4}\n')
    assert read(tmp_path, text, "a.jsonl") == {
        "v": VideoTruth(2.0, (Segment(1, 2, "3"),), "testing"),
        "w": VideoTruth(61.5, (Segment(60, 61.5, None, 0.5),)), "u": VideoTruth(4.0)}


# ----------------------------------------------------------------------------------------------------- malformed


@pytest.mark.parametrize(("text", "message"), [
    ("", "is empty"),
    ("\n \n", "is empty"),
    ("video,start\nv,1\n", "no column for end among video, start"),
    ("v,1,2\nv,3,4\n", "no column for video and start and end"),
    ("video,start,end,label,label\nv,1,2,a,b\n", "two columns are called 'label'"),
    ("video,start,end\nv,1\n", "line 2: 2 cells where the header has 3"),
    ("video,start,end\nv,1,2,3\n", "line 2: 4 cells where the header has 3"),
    ("video,start,end\n,1,2\n", "line 2: no video is named"),
    ("video,start,end\nv,1,\n", "line 2: a start without an end"),
    ("video,start,end\nv,one,2\n", "line 2: start should be a time: seconds, as 12.5, or HH:MM:SS, got 'one'"),
    ("video,start,end\nv,1,nan\n", "end should be a time"),
    ("video,start,end\nv,1,1e999\n", "end should be a time"),
    ("video,start,end\n\nv,1,\"2\nx\"\n", "line 4: end should be a time"),
    ("video,start,end,score\nv,1,2,high\n", "score should be a number, got 'high'"),
    ("video,start,end,score\nv,1,2,nan\n", "score should be a number"),
    ("video,start,end,score\nv,1,2,1:00\n", "score should be a number"),
    ("video,start,end,fps\nv,1,2,0\n", "fps 0.0 is impossible"),
    ("video,start,end,duration\nv,1,2,-4\n", "duration -4.0 or"),
    ("video,start,end,duration\nv,1,2,9\nv,1,2,8\n", "line 3: duration of video 'v' is 8.0, and 9.0 in an earlier row"),
    ("video,start,end,subset\nv,1,2,train\nv,1,2,val\n", "subset of video 'v' is validation, and training"),
    ("video,start,end,duration\nv,10,14,4\nw,0,3,3\n", "duration is that of each segment"),
    ('video,start,end,label\nv,1,2,"a\n', "mend the quotes"),
    (b"video,start,end\n\xff\xfe,1,2\n", "cannot be read as a table file"),
    ("video,start,end\nv,1,2".encode("utf-16"), "cannot be read as a table file"),
    ("video,start,end\nv\0,1,2", "not text"),
])
def test_malformed_tables(tmp_path, text, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, text)
    assert message in str(error.value)
    assert str(tmp_path / "a.csv") in str(error.value)


@pytest.mark.parametrize(("text", "message"), [
    ("", "is empty"),
    ('{"video": "v", "start": 1, "end": 2}\n{"video": \n', "line 2: not valid JSON at column"),
    ("[1, 2]\n", "line 1: expected one object a line"),
    ("[" * 100000 + "\n", "line 1: not valid JSON"),
    ('{"video": "v", "start": ' + "9" * 5000 + "}\n", "line 1: not valid JSON"),
    ('{"start": 1, "end": 2}\n', "no video is named"),
    ('{"video": ["v"], "start": 1, "end": 2}\n', "video should be text"),
    ('{"video": "v", "start": 1}\n', "a start without an end"),
    ('{"video": "v", "segment": [1]}\n', '"segment" should be [start, end]'),
    ('{"video": "v", "segment": [1, null]}\n', '"segment" should be [start, end]'),
    ('{"video": "v", "segment": [[1], 2]}\n', "start should be a time"),
    ('{"video": "v", "start": true, "end": 2}\n', "start should be a time"),
    ('{"video": "v", "start": NaN, "end": 2}\n', "start should be a time"),
    ('{"video": "v", "start": 1, "end": 2, "label": {}}\n', "label should be text"),
    ('{"video": "v", "start": 1, "end": 2, "score": []}\n', "score should be a number"),
    ('{"video": "v", "start": 1, "end": 1' + "0" * 400 + "}\n", "end should be a time"),
])
def test_malformed_lines(tmp_path, text, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, text, "a.jsonl")
    assert message in str(error.value)
    assert str(tmp_path / "a.jsonl") in str(error.value)


def test_no_file(tmp_path):
    for form in tables.FORMATS:
        with pytest.raises(DataError, match="does not exist"):
            form.parse(tmp_path / "none", Reading())
        with pytest.raises(DataError, match="is a folder"):
            form.parse(tmp_path, Reading())


# --------------------------------------------------------------------------------------------------------- looks


@pytest.mark.parametrize(("head", "kind"), [
    ("video,start,end,label\n", "truth"),
    ("\ufeffVideo ID;Start;End;Confidence\n", "predictions"),
    ("file\tt-start\tt-end\n", "truth"),
    ("label,start,end\n", None),
    ("video,start,label\n", None),
    ("", None),
    # other formats' own headers
    ("video-name,t-start,t-end,action-label,video-duration,filename,fps,video-frames,temporal-region-label\n", None),
    ("video-name,t-init,t-end,f-init,f-end,video-duration,frame-rate,video-frames,label-idx\n", None),
    ("video,type,type_idx,start,end,startFrame,endFrame\n", None),
    ("narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame\n", None),
    ("label,youtube_id,time_start,time_end,split\n", None),
    ("classname,youtube_id,subset,start,end,label\n", None),
    ("Observation id\tMedia file\tSubject\tBehavior\tStart (s)\tStop (s)\n", None),
])
def test_looks_of_a_table(tmp_path, head, kind):
    assert CSV.looks(tmp_path / "a.csv", head) == kind
    assert CSV.looks(tmp_path / "a.json", head) is None


@pytest.mark.parametrize(("head", "kind"), [
    ('{"video": "v", "segment": [1, 2], "label": "a"}\n{"vid', "truth"),
    ('{"file": "v.mp4", "start": 1, "end": 2, "score": 0.5}\n', "predictions"),
    ('{"qid": 2579, "query": "A girl", "duration": 150, "vid": "x", "relevant_windows": [[82, 150]]}\n', None),
    ('{"qid": 2579, "vid": "x", "start": 1, "end": 2}\n', None),
    ('{"video": "v", "label": "a"}\n', None),
    ("[1]\n", None), ('{"video": "v', None), ("", None), ("[" * 70000, None),
])
def test_looks_of_lines(tmp_path, head, kind):
    assert JSONL.looks(tmp_path / "a.jsonl", head) == kind


def test_nothing_of_the_benchmarks_is_claimed():
    seen = 0
    for folder in ("annotations", "predictions", "golden"):
        for path in sorted(shared(folder).rglob("*")):
            if path.is_file() and path.suffix in (".csv", ".txt", ".json", ".jsonl", ".list"):
                with open(path, encoding="utf-8", errors="replace") as file:
                    head = file.read(1 << 16)
                claimed = [f.name for f in TOOLS if f.looks(path, head) is not None]
                assert claimed == [], path
                seen += 1
            elif path.is_dir():
                assert not any(f.looks(path, "") for f in TOOLS), path
    assert seen > 100


def test_every_format_knows_its_own_files_and_no_other(tmp_path):
    truth = {"v": VideoTruth(60.0, (Segment(12, 18, "pour"), Segment(20, 30.48, "stir")), fps=25.0)}
    suffixes = {"csv": ".csv", "jsonl": ".jsonl", "label-studio": ".json", "cvat": ".xml", "via": ".json",
                "elan": ".eaf", "boris": ".boris", "audacity": ".txt", "fiftyone": ".json"}
    for form in TOOLS:
        path = tmp_path / form.name / f"v{suffixes[form.name]}"
        form.write(path, truth)
        head = path.read_text()[: 1 << 16]
        assert [f.name for f in TOOLS if f.looks(path, head)] == [form.name]
        reading = Reading(fps=25.0, durations={"v": 60.0})
        back = form.parse(path, reading)
        assert back["v"].annotations == truth["v"].annotations, form.name
        assert back["v"].duration == 60.0
        assert not reading.problems


@pytest.mark.parametrize("head", ["", "{", "[", "<annotations>", "null", "\0\1\2", "{}", "[{}]", "<a/>", "a,b\n1,2\n"])
def test_looks_is_not_moved_by_anything(tmp_path, head):
    for form in TOOLS:
        for suffix in (".csv", ".json", ".jsonl", ".xml", ".eaf", ".boris", ".txt", ""):
            assert form.looks(tmp_path / f"a{suffix}", head) is None
        assert form.looks(tmp_path, "") is None
