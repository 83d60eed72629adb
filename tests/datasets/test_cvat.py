"""CVAT's XML: tracks and tags."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets.cvat import looks, parse, write
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

META = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>5</id>
      <name>kitchen task</name>
      <size>{size}</size>
      <mode>interpolation</mode>
      <overlap>5</overlap>
      <bugtracker></bugtracker>
      <created>2026-01-31 08:00:00.000000+00:00</created>
      <updated>2026-01-31 09:00:00.000000+00:00</updated>
      <subset>{subset}</subset>
      <start_frame>{start}</start_frame>
      <stop_frame>{stop}</stop_frame>
      <frame_filter>{step}</frame_filter>
      <segments><segment><id>5</id><start>0</start><stop>99</stop><url>http://localhost/api/jobs/5</url></segment></segments>
      <owner><username>ann</username><email></email></owner>
      <assignee></assignee>
      <labels><label><name>pour</name><color>#fa3253</color><type>any</type><attributes></attributes></label></labels>
      <original_size><width>640</width><height>360</height></original_size>
      <source>kitchen_01.mp4</source>
    </task>
    <dumped>2026-01-31 10:00:00.000000+00:00</dumped>
  </meta>
"""


def shape(frame: int, outside: int = 0, keyframe: int = 1) -> str:
    return (f'    <box frame="{frame}" outside="{outside}" occluded="0" keyframe="{keyframe}" xtl="0.00" ytl="0.00" '
            'xbr="640.00" ybr="360.00" z_order="0">\n      <attribute name="hand">left</attribute>\n    </box>\n')


def track(*shapes: str, label: str = "pour", number: int = 0) -> str:
    return f'  <track id="{number}" label="{label}" source="manual">\n' + "".join(shapes) + "  </track>\n"


def image(frame: int, *labels: str) -> str:
    tags = "".join(f'    <tag label="{label}" source="manual">\n    </tag>\n' for label in labels)
    return f'  <image id="{frame}" name="frame_{frame:06d}" width="640" height="360">\n{tags}  </image>\n'


def read(tmp_path, *body: str, size=100, subset="default", start=0, stop="99", step="", **known):
    path = tmp_path / "annotations.xml"
    path.write_text(META.format(size=size, subset=subset, start=start, stop=stop, step=step) + "".join(body)
                    + "</annotations>\n")
    reading = Reading(**({"fps": 10} | known))
    return parse(path, reading), reading


def test_tracks(tmp_path):
    """All frames listed, as CVAT exports them; twice visible; to the end of the video; one frame only."""
    every = [shape(f, keyframe=int(f == 20)) for f in range(20, 35)]
    truth, reading = read(
        tmp_path, track(*every, shape(35, 1), shape(60), shape(61, 0, 0), shape(62, 1)),
        track(shape(90), number=1, label="a &amp; b"), track(shape(5), shape(6, 1), number=2), subset="Train")
    assert truth == {"kitchen_01": VideoTruth(10.0, (
        Segment(0.5, 0.6, "pour"), Segment(2, 3.5, "pour"), Segment(6, 6.2, "pour"), Segment(9, 10, "a & b")),
        "training", 10)}
    assert not reading.problems


def test_key_frames_alone_hold_until_the_next(tmp_path):
    truth, _ = read(tmp_path, track(shape(40, 1), shape(10), shape(25)))  # order does not matter
    assert truth["kitchen_01"].annotations == (Segment(1, 4, "pour"),)


def test_a_skeleton_is_outside_where_all_its_points_are(tmp_path):
    def skeleton(frame: int, *outside: int) -> str:
        points = "".join(f'<points label="1" outside="{o}" occluded="0" points="1,2"/>' for o in outside)
        return f'<skeleton frame="{frame}" keyframe="1" z_order="0">{points}</skeleton>'

    truth, _ = read(tmp_path, track(skeleton(5, 0, 0), skeleton(8, 0, 1), skeleton(9, 1, 1)))
    assert truth["kitchen_01"].annotations == (Segment(0.5, 0.9, "pour"),)


def test_tags(tmp_path):
    body = [image(f, *(["pour"] if f in (3, 4, 5, 9, 99) else []), *(["stir"] if f in (5, 6) else []))
            for f in (*range(3, 10), 99)]
    truth, _ = read(tmp_path, *reversed(body))
    assert truth["kitchen_01"].annotations == (
        Segment(0.3, 0.6, "pour"), Segment(0.5, 0.7, "stir"), Segment(0.9, 1.0, "pour"), Segment(9.9, 10, "pour"))


def test_a_task_of_every_fifth_frame(tmp_path):
    """Numbers are those of the video's frames."""
    tags = [image(f, "pour") for f in (10, 15, 20, 30, 95)]
    truth, _ = read(tmp_path, *tags, track(shape(40), shape(50, 1)), step="step=5", size=20, stop="97")
    assert truth["kitchen_01"] == VideoTruth(9.8, (
        Segment(1, 2.5, "pour"), Segment(3, 3.5, "pour"), Segment(4, 5, "pour"), Segment(9.5, 9.8, "pour")), fps=10)
    truth, _ = read(tmp_path, track(shape(40)), step="step=5", size=20, stop="", start=10)
    assert truth["kitchen_01"] == VideoTruth(11.0, (Segment(4, 11, "pour"),), fps=10)


def test_without_a_length(tmp_path):
    path = tmp_path / "v.xml"
    path.write_text("<annotations><version>1.1</version>" + track(shape(10), shape(20)) + "</annotations>")
    assert parse(path, Reading(fps=10)) == {"v": VideoTruth(2.1, (Segment(1, 2.1, "pour"),), fps=10)}


def test_names(tmp_path):
    path = tmp_path / "v.xml"
    head = "<annotations><version>1.1</version><meta>"
    for meta, vid in (("<task><name>day 1.mp4</name></task>", "day 1"),
                      ("<job><source>a/b.mkv</source></job>", "b"),
                      ("<task><name>x</name></task><source>c.mp4</source>", "c"),
                      ("<project><tasks><task><name>x</name><source>d.mp4</source></task></tasks></project>", "d")):
        path.write_text(f"{head}{meta}</meta></annotations>")
        assert list(parse(path, Reading())) == [vid]


def test_a_folder(tmp_path):
    truth = {"v": VideoTruth(10.0, (Segment(1, 2, "a"),), fps=10), "w": VideoTruth(5.0, fps=10)}
    write(tmp_path / "out", truth)
    assert parse(tmp_path / "out", Reading(fps=10)) == truth
    (tmp_path / "out" / "again.xml").write_bytes((tmp_path / "out" / "v.xml").read_bytes())
    with pytest.raises(DataError, match="video 'v' is also in another file"):
        parse(tmp_path / "out", Reading(fps=10))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_round_trip(tmp_path_factory, data):
    frame = st.integers(0, 499)
    label = st.text(st.characters(min_codepoint=32, blacklist_categories=("Cs", "Cn")), min_size=1, max_size=6)
    cut = st.builds(lambda a, b, name: Segment(min(a, b) / 25, (max(a, b) + 1) / 25, name), frame, frame, label)
    truth = {"v": VideoTruth(20.0, tuple(data.draw(st.lists(cut, max_size=4))), fps=25.0)}
    path = tmp_path_factory.mktemp("cvat") / "v.xml"
    write(path, truth)
    reading = Reading(fps=25.0)
    back = parse(path, reading)
    key = lambda s: (s.start, s.end, s.label)  # noqa: E731
    assert sorted(back["v"].annotations, key=key) == sorted(truth["v"].annotations, key=key)
    assert (back["v"].duration, back["v"].fps, back["v"].subset) == (20.0, 25.0, "training")
    assert not reading.problems


def test_what_is_written(tmp_path):
    """No shape after the last frame, which CVAT refuses; zero length becomes a frame; an end beyond is cut."""
    write(tmp_path / "v.xml", {"v": VideoTruth(10.0, (Segment(1, 2, "b"), Segment(3, 3, "a"), Segment(9, 12, "a")),
                                               "validation", 10.0)})
    root = ElementTree.parse(tmp_path / "v.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [root.findtext(f"meta/task/{k}") for k in ("name", "size", "mode", "start_frame", "stop_frame", "source")
            ] == ["v", "100", "interpolation", "0", "99", "v.mp4"]
    assert [e.text for e in root.iterfind("meta/task/labels/label/name")] == ["a", "b"]
    assert [(t.get("label"), [(b.get("frame"), b.get("outside"), b.get("keyframe")) for b in t])
            for t in root.iterfind("track")] == [
        ("b", [("10", "0", "1"), ("20", "1", "1")]), ("a", [("30", "0", "1"), ("31", "1", "1")]),
        ("a", [("90", "0", "1")])]
    assert parse(tmp_path / "v.xml", Reading(fps=10))["v"] == VideoTruth(10.0, (
        Segment(1, 2, "b"), Segment(3, 3.1, "a"), Segment(9, 10, "a")), "validation", 10)


@pytest.mark.parametrize(("video", "message"), [
    (VideoTruth(9.0, (Segment(0, 1, "a"),)), "has no frame rate"),
    (VideoTruth(9.0, (Segment(0, 1),), fps=25.0), "video 'v' has an annotation without a label"),
    (VideoTruth(9.0, (Segment(10, 11, "a"),), fps=25.0), "lies outside the video"),
    (VideoTruth(9.0, (Segment(-2, -1, "a"),), fps=25.0), "lies outside the video"),
    (VideoTruth(9.0, (Segment(0, 1, "a\x00"),), fps=25.0), "which XML cannot hold"),
])
def test_what_cannot_be_written(tmp_path, video, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path / "v.xml", {"v": video})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("body", "message"), [
    (track(shape(10)).replace(' label="pour"', ""), 'track 0: expected a label="…"'),
    (track(shape(10)).replace('outside="0"', 'outside="no"'), 'outside should be "0" or "1"'),
    (track(shape(10)).replace('frame="10"', 'frame="-1"'), "track 0, box: expected the number of a frame, got '-1'"),
    (track(shape(10)).replace(' frame="10"', ""), "expected the number of a frame"),
    (track(shape(10)).replace('frame="10"', f'frame="{"9" * 5000}"'), "expected the number of a frame"),
    (image(3, "pour").replace('id="3"', 'id="x"'), "image x: expected the number of a frame"),
    (image(3, "pour").replace('label="pour" ', ""), "image 3: expected a label"),
    (f'<image id="3">{shape(3)}</image>', 'export the task as "CVAT for video 1.1"'),
    ("<track>", "is not valid XML at line"),
])
def test_malformed(tmp_path, body, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, body)
    assert message in str(error.value)
    assert "annotations.xml" in str(error.value)


@pytest.mark.parametrize(("text", "message"), [
    ("", "is not valid XML"), (b"\xff\xfe<\0", "cannot be read as a CVAT file"),
    ("<html/>", "its root is <html>, expected <annotations>"),
    ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "declares a document type"),
    ("<annotations><meta><project><tasks><task/><task/></tasks></project></meta></annotations>",
     "project with 2 tasks; export each task"),
    ("<annotations><meta><task><stop_frame>x</stop_frame></task></meta></annotations>", "meta, stop_frame: expected"),
    ("<annotations><meta><task><size>x</size></task></meta></annotations>", "meta, size: expected"),
])
def test_no_export(tmp_path, text, message):
    (tmp_path / "a.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as error:
        parse(tmp_path / "a.xml", Reading(fps=10))
    assert message in str(error.value)
    assert "a.xml" in str(error.value)


def test_frames_need_a_rate(tmp_path):
    with pytest.raises(DataError, match="say so with --fps"):
        read(tmp_path, track(shape(1)), fps=None)
    truth, _ = read(tmp_path, fps=None)  # nothing to convert
    assert truth == {"kitchen_01": VideoTruth(0.0)}


def test_looks(tmp_path):
    path = tmp_path / "annotations.xml"
    read(tmp_path, track(shape(1)))
    assert looks(path, path.read_text()) == "truth"
    assert looks(path, path.read_text()[:700]) == "truth"
    for head in ("<annotation><folder>VOC</folder></annotation>", "<annotations><item/></annotations>",
                 "<annotations><version>1.1</version></annotations>", "<ANNOTATION_DOCUMENT/>", ""):
        assert looks(path, head) is None
