"""Markers of Resolve and Premiere: in, out, and what the programs write."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cuts import FORMATS, MARKERS, PREMIERE, RESOLVE, SOME, SUFFIX, at, frames, read, videos
from hypothesis import given, settings

from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth


@pytest.mark.parametrize("name", MARKERS)
@settings(max_examples=40, deadline=None)
@given(video=videos)
def test_markers_come_back_to_the_frame_with_label_and_sentence(tmp_path_factory, name, video):
    form, path = FORMATS[name], tmp_path_factory.mktemp("marks") / f"v{SUFFIX[name]}"
    form.write(path, {"v": video})
    found, problems = read(form, path, fps=video.fps, durations={"v": video.duration}, subset=video.subset)

    def text(value):
        value = " ".join((value or "").split())
        return (value.replace("|", "/") if name == "resolve-edl" else value) or None

    expected = []
    for s in video.annotations:
        label, sentence = text(s.label), text(s.sentence or s.query)
        expected.append(Segment(*frames(s, video.fps, name == "resolve-edl"),
                                None if label == sentence else label, sentence=sentence))
    assert sorted(found["v"].annotations, key=repr) == sorted(expected, key=repr)
    assert replace(found["v"], annotations=()) == replace(video, annotations=())
    assert problems == []


def test_resolve_markers(tmp_path):
    (tmp_path / "t.edl").write_text(RESOLVE)
    form = FORMATS["resolve-edl"]
    found, problems = read(form, tmp_path / "t.edl", fps=25.0)
    assert found == {"t": VideoTruth(62.48, (
        Segment(5.0, 5.04, "Marker 1"), Segment(60.48, 62.48, "enter", sentence="3 people | enter")), fps=25.0)}
    assert problems == []
    (tmp_path / "t.edl").write_text(RESOLVE.replace("01:00:05", "00:00:05"))  # so it does not begin at 1 h
    found, _ = read(form, tmp_path / "t.edl", fps=25.0)
    assert [s.start for s in found["t"].annotations] == [5.0, 3660.48]
    (tmp_path / "t.edl").write_text(RESOLVE.replace(" |C:ResolveColorBlue |M:Marker 1 |D:1", ""))
    with pytest.raises(DataError, match=r"line 4: expected a line \|C:"):
        form.parse(tmp_path / "t.edl", Reading(fps=25.0))


def test_resolve_as_written(tmp_path):
    video = replace(SOME, annotations=(Segment(12.0, 18.24, "pour", sentence="So | much"), Segment(20, 20, "stir")))
    FORMATS["resolve-edl"].write(tmp_path / "v.edl", {"v": video})
    assert (tmp_path / "v.edl").read_text() == (
        "TITLE: v\nFCM: NON-DROP FRAME\n\n"
        "001  001      V     C        01:00:12:00 01:00:12:01 01:00:12:00 01:00:12:01  \n"
        "So / much |C:ResolveColorBlue |M:pour |D:156\n\n"
        "002  001      V     C        01:00:20:00 01:00:20:01 01:00:20:00 01:00:20:01  \n"
        " |C:ResolveColorGreen |M:stir |D:1\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_premiere_markers(tmp_path, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes(PREMIERE.encode(encoding))
    found, problems = read(FORMATS["premiere-csv"], path, fps=29.97)
    assert found == {"t": VideoTruth(at(1830), (
        Segment(at(150), at(150)), Segment(at(1800), at(1830), "pour", sentence="She pours.")), fps=29.97)}
    assert problems == []
    assert FORMATS["premiere-csv"].looks(path, path.read_bytes().decode("utf-8", "replace")) == "truth"


@pytest.mark.parametrize(("text", "words"), [
    ("", ["no column 'Marker Name'"]),
    ("a,b\n1,2\n", ["no column 'Marker Name'"]),
    (PREMIERE.replace("Out", "End"), ["no column 'Out'"]),
    (PREMIERE.replace("00;01;00;02", "1:0"), ["line 2", "1:0"]),
    (PREMIERE.replace("00;01;00;02", "00;01;00;31"), ["line 2", "frame 31"]),
    (PREMIERE.replace("pour", "x" * 200000), ["line 2"]),
])
def test_malformed_premiere(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        FORMATS["premiere-csv"].parse(tmp_path / "a.csv", Reading(fps=29.97))
    assert all(word in str(caught.value) for word in words), str(caught.value)
