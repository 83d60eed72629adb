"""Cut lists: in, out, against OpenTimelineIO's adapters, and what other programs write. With markers: the limits."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from xml.etree import ElementTree

import pytest
from cuts import CUTS, FCP, FORMATS, OTHERS, PREMIERE, RATES, RESOLVE, SOME, SUFFIX, at, frames, ordered, read, videos
from hypothesis import given, settings

from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

# --------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("name", CUTS)
def test_cut_lists_come_back_whole(tmp_path, name, fps):
    form, video = FORMATS[name], replace(SOME, fps=fps)
    form.write(tmp_path / f"any{SUFFIX[name]}", {"kitchen 01.a": video})
    found, problems = read(form, tmp_path / f"any{SUFFIX[name]}")
    assert found == {"kitchen 01.a": ordered(video)}
    assert problems == []


@pytest.mark.parametrize("name", CUTS)
@settings(max_examples=40, deadline=None)
@given(video=videos)
def test_any_cut_list_comes_back_whole(tmp_path_factory, name, video):
    form, path = FORMATS[name], tmp_path_factory.mktemp("cuts") / f"v{SUFFIX[name]}"
    form.write(path, {"v": video})
    found, problems = read(form, path)
    assert found == {"v": ordered(video)}
    assert problems == []


@pytest.mark.parametrize("name", FORMATS)
def test_one_file_or_a_folder(tmp_path, name):
    form = FORMATS[name]
    one = VideoTruth(2.0, (Segment(1.0, 2.0, "x"),), "training", 25.0)
    truth = {"a": one, "b": VideoTruth(0.0, (), "training", 25.0)}
    form.write(tmp_path / "out", truth)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"a{SUFFIX[name]}", f"b{SUFFIX[name]}"]
    assert read(form, tmp_path / "out", fps=25.0)[0] == truth
    assert form.looks(tmp_path / "out", "") == "truth"
    with pytest.raises(DataError, match="can hold one video"):
        form.write(tmp_path / f"x{SUFFIX[name]}", truth)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("video", "words"), [
    (VideoTruth(2.0, (Segment(0, 1, "x"),)), ["'a'", "--fps"]),
    (VideoTruth(2.0, (Segment(0, 1, "x"),), fps=0.0), ["'a'", "0.0 frames"]),
    (VideoTruth(2.0, (Segment(-1, 1, "x"),), fps=25.0), ["'a'", "-1 s"]),
    (VideoTruth(float("nan"), (Segment(0, 1, "x"),), fps=25.0), ["'a'", "nan"]),
    (VideoTruth(2.0, (Segment(0, 1, "half \ud800"),), fps=25.0), ["ud800"]),
])
def test_what_cannot_be_written_leaves_nothing(tmp_path, name, video, words):
    with pytest.raises(DataError) as caught:
        FORMATS[name].write(tmp_path / f"a{SUFFIX[name]}", {"a": video})
    assert all(word in str(caught.value) for word in words) or "is no text" in str(caught.value), str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["edl", "resolve-edl", "premiere-csv"])
def test_timecode_has_its_limits(tmp_path, name):
    path, form = tmp_path / f"a{SUFFIX[name]}", FORMATS[name]
    with pytest.raises(DataError, match="24 hours"):
        form.write(path, {"a": VideoTruth(1e6, (Segment(90000, 90001, "x"),), fps=25.0)})
    with pytest.raises(DataError, match="1 to 99"):
        form.write(path, {"a": VideoTruth(10.0, (Segment(0, 1, "x"),), fps=120.0)})
    assert not path.exists()


def test_scores_must_be_numbers(tmp_path):
    for name in CUTS:
        with pytest.raises(DataError, match="score"):
            FORMATS[name].write(tmp_path / f"a{SUFFIX[name]}",
                                {"a": VideoTruth(1.0, (Segment(0, 1, "x", float("inf")),), fps=25.0)})
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- EDL


def test_edl_as_written(tmp_path):
    path = tmp_path / "a.edl"
    FORMATS["edl"].write(path, {"kitchen_01": replace(SOME, fps=29.97, annotations=SOME.annotations[:2])})
    lines = path.read_text().splitlines()
    assert lines[:2] == ["TITLE: kitchen_01", "FCM: NON-DROP FRAME"]
    assert lines[3:6] == [
        "001  KITCHEN0 V     C        00:00:03:10 00:00:04:27 01:00:00:00 01:00:01:17",
        "* FROM CLIP NAME:  kitchen_01.mp4",
        "* LOC: 01:00:00:00 GREEN   stir"]
    # at 29.97 frame 360 (12.012 s) is the nearest to 12 s, and non-drop timecode calls it 12 seconds flat
    assert "00:00:12:00 00:00:18:07 01:00:01:17 01:00:07:24" in path.read_text()


def test_edl_of_another_program(tmp_path):
    (tmp_path / "cut.edl").write_bytes(OTHERS.replace("\n", "\r\n").encode())
    found, problems = read(FORMATS["edl"], tmp_path / "cut.edl", fps=29.97)
    assert found == {
        "street": VideoTruth(at(1800), (
            Segment(at(1799), at(1800), "honk"),), fps=29.97),
        "park": VideoTruth(at(18282), (  # 10 min of drop-frame timecode are 17982 frames
            Segment(at(17982), at(18282), "shot 12"),), fps=29.97),
        "cut": VideoTruth(at(180), (Segment(at(150), at(180)),), fps=29.97),
    }
    assert [(p.done, p.where[-7:]) for p in problems] == [("kept", "line 15"), ("dropped", "line 16")]


def test_a_moved_cut_holds_against_the_written_seconds(tmp_path):
    path = tmp_path / "v.edl"
    moments = (Segment(1.01, 2.01, "a", 0.5), Segment(3.01, 4.01, "b"))
    FORMATS["edl"].write(path, {"v": VideoTruth(9.0, moments, fps=25.0)})
    path.write_text(path.read_text().replace("00:00:01:00 00:00:02:00 01", "00:00:01:05 00:00:02:00 01"))
    found, _ = read(FORMATS["edl"], path)
    assert found["v"].annotations == (Segment(1.2, 2.0, "a", 0.5), Segment(3.01, 4.01, "b"))


@pytest.mark.parametrize(("text", "words"), [
    ("", ["no event and no title"]),
    ("hello\n", ["no event and no title"]),
    ("TITLE: x\n001  AX V C 00:00:00:00 00:00:01:00 00:00:00:00\n", ["line 2", "four timecodes"]),
    ("TITLE: x\n001  AX V C 00:00:00:00 00:00:01:25 00:00:00:00 00:00:01:25\n", ["line 2", "frame 25", "--fps"]),
    ("TITLE: x\n001  AX V C 00:00:00:00 00:61:01:20 00:00:00:00 00:00:01:20\n", ["line 2", "00:61:01:20"]),
    ("TITLE: x\n001  AX V C 00:00:00;00 00:00:01;20 00:00:00:00 00:00:01:20\n", ["line 2", "drop-frame", "--fps"]),
    ("TITLE: x\n001  AX V C 00:00:00:00 00:00:01:20 00:00:00:00 00:00:01:20\n* CUEMARK {]\n", ["line 3", "JSON"]),
    ('TITLE: x\n001  AX V C 00:00:00:00 00:00:01:20 00:00:00:00 00:00:01:20\n* CUEMARK {"label": []}\n', ["label"]),
    ('TITLE: x\n* CUEMARK VIDEO {"video": "x", "fps": 0}\n', ["line 2", "0.0 frames"]),
    ('TITLE: x\n* CUEMARK VIDEO {"video": 5}\n', ["line 2", '"video"']),
    ("001  " + "A" * 100000, ["line 1"]),
])
def test_malformed_edl_names_the_line(tmp_path, text, words):
    (tmp_path / "a.edl").write_text(text)
    with pytest.raises(DataError) as caught:
        FORMATS["edl"].parse(tmp_path / "a.edl", Reading(fps=25.0))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_edl_must_be_told_its_rate(tmp_path):
    (tmp_path / "a.edl").write_text(OTHERS)
    with pytest.raises(DataError, match="--fps"):
        FORMATS["edl"].parse(tmp_path / "a.edl", Reading())


# ------------------------------------------------------------------------------------ against the adapters


def adapter(name):
    otio = pytest.importorskip("opentimelineio")
    if name not in otio.adapters.available_adapter_names():
        pytest.skip(f"OpenTimelineIO's {name} adapter is not installed")
    return otio


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0, 60.0])
def test_the_edl_adapter_reads_our_cuts(tmp_path, fps):
    otio = adapter("cmx_3600")
    FORMATS["edl"].write(tmp_path / "v.edl", {"v": replace(SOME, fps=fps)})
    timeline = otio.adapters.read_from_file(str(tmp_path / "v.edl"), rate=fps)
    found = [c.source_range for c in timeline.find_clips()]
    expected = [frames(s, fps, 1) for s in ordered(SOME).annotations]
    assert [(r.start_time.to_seconds(), r.end_time_exclusive().to_seconds()) for r in found] == [
        pytest.approx(e) for e in expected]
    assert {c.name for c in timeline.find_clips()} == {"v.mp4"}


def selects(otio, fps):
    """A timeline as a program might build it, with frames 250-275 of a medium whose clock begins at 100 frames."""
    def time(frame):
        return otio.opentime.RationalTime(frame, fps)

    timeline = otio.schema.Timeline(name="cut")
    video, sound = otio.schema.Track(name="V1"), otio.schema.Track(name="A1", kind=otio.schema.TrackKind.Audio)
    available = otio.opentime.TimeRange(time(100), time(5000))
    medium = otio.schema.ExternalReference("file:///footage/my%20park.mov", available)
    for track in (video, sound):
        track.append(otio.schema.Clip("throw", medium, otio.opentime.TimeRange(time(250), time(25))))
        timeline.tracks.append(track)
    return timeline


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0])
def test_we_read_what_the_edl_adapter_writes(tmp_path, fps):
    otio = adapter("cmx_3600")
    timeline = selects(otio, fps)
    del timeline.tracks[1]
    otio.adapters.write_to_file(timeline, str(tmp_path / "x.edl"))
    found, problems = read(FORMATS["edl"], tmp_path / "x.edl", fps=fps)
    assert problems == []
    assert found == {"my%20park": VideoTruth(275 / fps, (Segment(250 / fps, 275 / fps, "throw"),), fps=fps)}


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0, 60.0])
def test_the_fcpxml_adapter_reads_our_cuts(tmp_path, fps):
    otio = adapter("fcpx_xml")
    FORMATS["fcpxml"].write(tmp_path / "v.fcpxml", {"v": replace(SOME, fps=fps)})
    collection = otio.adapters.read_from_file(str(tmp_path / "v.fcpxml"))
    clips = list(collection.find_children(descended_from_type=otio.schema.Clip))
    assert [c.name for c in clips] == ["stir", "pour", "when does it rain?", 'A doorbell, "twice" | <loud> & clear.',
                                       "[class-agnostic]", "player's throw"]
    for clip, segment in zip(clips, ordered(SOME).annotations):
        start, end = frames(segment, fps, 1)
        # the adapter cuts fractions off, so that it may be a frame early
        assert clip.source_range.start_time.to_seconds() == pytest.approx(start, abs=1.01 / fps)
        assert clip.source_range.duration.to_seconds() == pytest.approx(end - start, abs=1.01 / fps)
        assert clip.media_reference.target_url == "v.mp4"


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0])
def test_we_read_what_the_fcpxml_adapter_writes(tmp_path, fps):
    otio = adapter("fcpx_xml")
    otio.adapters.write_to_file(selects(otio, fps), str(tmp_path / "x.fcpxml"))
    found, problems = read(FORMATS["fcpxml"], tmp_path / "x.fcpxml")
    assert problems == []
    (vid, video), = found.items()
    assert (vid, video.fps, video.duration) == ("my park", fps, pytest.approx(5000 / fps))
    assert video.annotations == (Segment(150 / fps, 175 / fps, "throw"),)


# --------------------------------------------------------------------------------------------------- OTIO


def test_otio_of_another_program(tmp_path):
    otio = pytest.importorskip("opentimelineio")
    timeline = selects(otio, 30000 / 1001)
    timeline.tracks[0].append(otio.schema.Gap(duration=otio.opentime.RationalTime(5, 24)))
    clip = timeline.tracks[0][0]
    clip.effects.append(otio.schema.LinearTimeWarp(time_scalar=2.0))
    black = otio.schema.Clip("black", otio.schema.GeneratorReference("black"), clip.source_range)
    lost = otio.schema.Clip("wave", otio.schema.MissingReference(), clip.source_range)
    timeline.tracks[0].extend([black, lost])
    (tmp_path / "cut.otio").write_text(timeline.to_json_string())
    found, problems = read(FORMATS["otio"], tmp_path / "cut.otio")
    assert found == {
        "my park": VideoTruth(at(5000), (Segment(at(150), at(175), "throw"),), fps=30000 / 1001),
        "cut": VideoTruth(at(275), (Segment(at(250), at(275), "wave"),), fps=30000 / 1001)}
    assert [(p.done, p.what) for p in problems] == [("kept", "changes the speed, which is not followed")]


def test_otio_carries_a_marker_for_each_segment(tmp_path):
    otio = pytest.importorskip("opentimelineio")
    FORMATS["otio"].write(tmp_path / "v.otio", {"v": SOME})
    timeline = otio.adapters.read_from_file(str(tmp_path / "v.otio"))
    clip = timeline.tracks[0][1]
    assert (clip.name, clip.media_reference.target_url, clip.source_range.start_time.rate) == ("pour", "v.mp4", 25)
    marker, = clip.markers
    assert (marker.name, marker.comment) == ("pour", "She pours the batter.")
    assert marker.marked_range == clip.source_range
    assert dict(marker.metadata["cuemark"])["score"] == 0.8125
    assert "/tmp" not in (tmp_path / "v.otio").read_text()


@pytest.mark.parametrize(("text", "words"), [
    ("", ["not valid JSON"]),
    ("[]", ["OTIO_SCHEMA"]),
    ("[" * 100000, ["cannot be read"]),
    ('{"OTIO_SCHEMA": "Timeline.1"}', ["OpenTimelineIO", "tracks"]),
    ('{"OTIO_SCHEMA": "Timeline.99"}', ["OpenTimelineIO"]),
    ('{"OTIO_SCHEMA": "Bogus.1"}', ["Bogus.1"]),
    ('{"OTIO_SCHEMA": 5}', ["OpenTimelineIO"]),
])
def test_malformed_otio(tmp_path, text, words):
    pytest.importorskip("opentimelineio")
    (tmp_path / "a.otio").write_text(text)
    with pytest.raises(DataError) as caught:
        FORMATS["otio"].parse(tmp_path / "a.otio", Reading())
    assert all(word in str(caught.value) for word in [str(tmp_path / "a.otio"), *words]), str(caught.value)


@pytest.mark.parametrize("change", [
    ('"rate": 25.0', '"rate": 0.0'), ('"value": 83.0', '"value": NaN'), ('"fps": 25.0', '"fps": "x"'),
    ('"label": "stir"', '"label": 5'), ('"score": 0.8125', '"score": "high"'),
], ids=str)
def test_tampered_otio_is_refused(tmp_path, change):
    pytest.importorskip("opentimelineio")
    path = tmp_path / "v.otio"
    FORMATS["otio"].write(path, {"v": SOME})
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(DataError):
        FORMATS["otio"].parse(path, Reading())


def test_without_the_library(tmp_path, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    for call in (lambda: FORMATS["otio"].parse(tmp_path / "a.otio", Reading()),
                 lambda: FORMATS["otio"].write(tmp_path / "a.otio", {"a": SOME})):
        (tmp_path / "a.otio").write_text("{}")
        with pytest.raises(DataError, match=r'pip install "cuemark\[formats\]"'):
            call()


# ------------------------------------------------------------------------------------------------- FCPXML

def test_fcpxml_of_another_program(tmp_path):
    (tmp_path / "cut.fcpxml").write_text(FCP)
    found, problems = read(FORMATS["fcpxml"], tmp_path / "cut.fcpxml")
    assert found == {"my park": VideoTruth(60.06, (
        Segment(0.0, 60.06, "whole"), Segment(1.0, 2.001), Segment(25.0, 27.0, "throw"),
    ), fps=30000 / 1001)}
    assert [p.done for p in problems] == ["kept", "dropped"]


def test_fcpxml_lies_on_frame_borders(tmp_path):
    FORMATS["fcpxml"].write(tmp_path / "v.fcpxml", {"v": replace(SOME, fps=29.97)})
    root = ElementTree.parse(tmp_path / "v.fcpxml").getroot()
    assert root.find("resources/format").get("frameDuration") == "1001/30000s"
    for element in root.iter():
        for key in ("start", "offset", "duration"):
            if value := element.get(key):
                top, _, bottom = value.removesuffix("s").partition("/")
                assert (Fraction(int(top), int(bottom or 1)) * 30000) % 1001 == 0, (element.tag, key, value)


@pytest.mark.parametrize(("change", "words"), [
    (("<!DOCTYPE fcpxml>", '<!DOCTYPE fcpxml [<!ENTITY a "b">]>'), ["document type"]),
    (("<!DOCTYPE fcpxml>", '<!DOCTYPE x SYSTEM "y">'), ["document type"]),
    (("</fcpxml>", ""), ["not valid XML", "line"]),
    (("fcpxml", "xmeml"), ["root is <xmeml>"]),
    (("36001s", "36001"), ["start", "36001"]),
    (("1001/30000s", "1001/0s"), ["frameDuration"]),
    (("1001/30000s", "0s"), ["cannot last 0s"]),
    (("36000s", "x" * 99), ["asset 'r2'", "start"]),
])
def test_malformed_fcpxml(tmp_path, change, words):
    text = FCP.replace("<!DOCTYPE fcpxml>", "") if change[0] == "fcpxml" else FCP
    (tmp_path / "a.fcpxml").write_text(text.replace(*change))
    with pytest.raises(DataError) as caught:
        FORMATS["fcpxml"].parse(tmp_path / "a.fcpxml", Reading())
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_xml_cannot_hold_everything(tmp_path):
    with pytest.raises(DataError, match="cannot hold"):
        FORMATS["fcpxml"].write(tmp_path / "a.fcpxml", {"a": VideoTruth(1.0, (Segment(0, 1, "a\ufffe"),), fps=25.0)})
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------- recognising


def test_looks_at_its_own_and_no_other(tmp_path):
    heads = {"srt": "1\n00:00:01,000 --> 00:00:02,000\nx\n", "json": json.dumps({"database": {}}), "empty": "",
             "csv": "video,start,end\n", "tsv": "video\tstart\tend\n", "xml": "<annotations/>", "text": "a 1 2\n",
             "resolve-edl": RESOLVE, "edl": OTHERS, "fcpxml": FCP, "premiere-csv": PREMIERE}
    for name, form in FORMATS.items():
        path = tmp_path / f"v{SUFFIX[name]}"
        form.write(path, {"v": SOME})
        heads[f"our {name}"] = path.read_text()
    for name, head in heads.items():
        (tmp_path / "x").write_text(head)
        claimed = [form.name for form in FORMATS.values() if form.looks(tmp_path / "x", head)]
        assert claimed == [n for n in FORMATS if name.removeprefix("our ") == n], name
