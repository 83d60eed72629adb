"""SubRip and WebVTT: in, out, against an independent reader, and what real files get wrong."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import subtitles
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

SRT, VTT = subtitles.FORMATS

SRT_FILE = """1
00:00:12,500 --> 00:00:18,250 X1:100 X2:200
Pour the
<i>batter</i>.

2
00:00:30,000 --> 00:00:31,000
{\\an8}1 < 2 & <b>done</b>

Second paragraph.

3
00:00:01,5 --> 100:00:02,000
42
"""

VTT_FILE = """\ufeffWEBVTT - a title
Kind: captions

NOTE
a comment
over two lines

STYLE
::cue { color: red }

pour-1
00:00:12.500 --> 00:00:18.250 align:start
<v Ann>Pour &amp; <c.loud>stir</c>.</v>

00:30.000 --> 00:31.000
a &lt; b
and&nbsp;more
"""


def save(path, text, newline="\n"):
    path.write_bytes(text.replace("\n", newline).encode())
    return path


def read(form, path, **known):
    reading = Reading(**known)
    return form.parse(path, reading)[path.stem], reading.problems


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_srt_texts_are_sentences_sorted_by_start(tmp_path, newline):
    video, problems = read(SRT, save(tmp_path / "talk.srt", SRT_FILE, newline), durations={"talk": 400000.0})
    assert video == VideoTruth(400000.0, (
        Segment(1.5, 360002.0, sentence="42"),
        Segment(12.5, 18.25, sentence="Pour the batter."),
        Segment(30.0, 31.0, sentence="1 < 2 & done Second paragraph."),
    ))
    assert problems == []


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_vtt_names_tags_and_escapes(tmp_path, newline):
    video, problems = read(VTT, save(tmp_path / "talk.vtt", VTT_FILE, newline), subset="testing")
    assert video == VideoTruth(31.0, (
        Segment(12.5, 18.25, sentence="Pour & stir.", id="pour-1"),
        Segment(30.0, 31.0, sentence="a < b and more"),
    ), "testing")
    assert problems == []


def test_srt_without_numbers_or_blank_lines(tmp_path):
    text = "00:00:01,000 --> 00:00:02,000\none\n2\n00:00:03,000 --> 00:00:04,000\ntwo"
    video, _ = read(SRT, save(tmp_path / "a.srt", text))
    assert [s.sentence for s in video.annotations] == ["one", "two"]


@pytest.mark.parametrize("form", [SRT, VTT], ids=lambda f: f.name)
def test_backward_and_empty_cues_are_dropped_and_noted(tmp_path, form):
    head = "WEBVTT\n\n" if form is VTT else ""
    text = f"{head}1\n00:00:05.000 --> 00:00:04.000\nback\n\n2\n00:00:06.000 --> 00:00:07.000\n<i></i>\n"
    video, problems = read(form, save(tmp_path / f"a.{form.name[-3:]}", text))
    assert video.annotations == ()
    assert [(p.done, p.what.split(":")[0]) for p in problems] == [
        ("dropped", "ends before it starts"), ("dropped", "has no text")]
    assert "line" in problems[0].where


@pytest.mark.parametrize(("text", "words"), [
    ("", ["is empty"]),
    ("hello\n", ["line 1", "HH:MM:SS,mmm", "hello"]),
    ("1\n00:00:01,000 -> 00:00:02,000\nx\n", ["line 2", "->"]),
    ("1\n00:00:01,000 --> 00:00:02,000\nx\n\n2\n00:00:03,000 -> 00:00:04,000\nlost\n", ["line 6"]),
    ("1\n00:00:01,000 --> 00:00:0x,000\nx\n", ["line 2"]),
    ("1\n00:61:01,000 --> 00:62:01,000\nx\n", ["line 2", "00:61"]),
    ("1\n", ["ends where"]),
    ("1\n00:00:01,000 --> 00:00:02,000\nx\0y\n", ["not text"]),
])
def test_malformed_srt_names_the_line(tmp_path, text, words):
    path = save(tmp_path / "a.srt", text)
    with pytest.raises(DataError) as caught:
        SRT.parse(path, Reading())
    assert all(word in str(caught.value) for word in [str(path), *words]), str(caught.value)


@pytest.mark.parametrize(("text", "words"), [
    ("", ["line 1", "WEBVTT"]),
    ("WEBVTTX\n", ["line 1", "WEBVTT"]),
    ("WEBVTT\n\nid\n00:00:01.000 -> 00:00:02.000\nx\n", ["line 4", "->"]),
    ("WEBVTT\n\nlost paragraph\n", ["line 4", "lost paragraph"]),
    ("WEBVTT\n\n00:01.000 --> 00:02.000\none\n00:03.000 --> 00:04.000\ntwo\n", ["line 5", "blank line"]),
    ("WEBVTT\n\nNOTE cuemark {\n\n00:01.000 --> 00:02.000\none\n", ["line 3", "JSON object"]),
    ('WEBVTT\n\nNOTE cuemark {"label": 5}\n\n00:01.000 --> 00:02.000\none\n', ["line 5", '"label"', "5"]),
    ('WEBVTT\n\nNOTE cuemark {"score": NaN}\n\n00:01.000 --> 00:02.000\none\n', ["line 5", '"score"']),
    ('WEBVTT\n\nNOTE cuemark video {"duration": -5}\n', ["-5"]),
    ('WEBVTT\n\nNOTE cuemark video {"fps": true}\n', ['"fps"']),
])
def test_malformed_vtt_names_the_line(tmp_path, text, words):
    path = save(tmp_path / "a.vtt", text)
    with pytest.raises(DataError) as caught:
        VTT.parse(path, Reading())
    assert all(word in str(caught.value) for word in [str(path), *words]), str(caught.value)


def test_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.srt").write_bytes(SRT_FILE.encode("utf-16"))
    with pytest.raises(DataError, match="cannot be read as a SubRip file"):
        SRT.parse(tmp_path / "a.srt", Reading())


def test_shifted_live_times_are_noted(tmp_path):
    head = "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000"
    path = save(tmp_path / "a.vtt", f"{head}\n\n00:01.000 --> 00:02.000\nx")
    _, problems = read(VTT, path)
    assert [(p.done, "X-TIMESTAMP-MAP" in p.what) for p in problems] == [("kept", True)]


# --------------------------------------------------------------------------------------------- writing

milliseconds = st.integers(0, 10**7).map(lambda n: n / 1000)
texts = st.none() | st.text() | st.sampled_from([
    "pour", "Pour the batter.", "7", "a --> b", "<b>&amp;</b>", "two\nlines  ", "", "[class-agnostic]", "NOTE this",
    "00:00:01,000 x", "日本", "\x1f\u2028"])


@st.composite
def segments(draw):
    start, end = sorted((draw(milliseconds), draw(milliseconds)))
    return Segment(start, end, draw(texts), draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
                   draw(texts), draw(texts), draw(texts))


videos = st.builds(VideoTruth, milliseconds, st.lists(segments(), max_size=4).map(tuple), st.text("abc", min_size=1),
                   st.none() | st.sampled_from([25.0, 29.97]))


@settings(max_examples=50, deadline=None)
@given(videos)
def test_vtt_comes_back_whole_sorted_by_start(tmp_path_factory, video):
    folder = tmp_path_factory.mktemp("vtt")
    VTT.write(folder / "a.vtt", {"a": video})
    expected = sorted(video.annotations, key=lambda s: (s.start, s.end))
    found, problems = read(VTT, folder / "a.vtt")
    assert found == VideoTruth(video.duration, tuple(expected), video.subset, video.fps)
    assert problems == []


def test_text_mended_by_hand_replaces_what_it_shows(tmp_path):
    before = (Segment(0, 1, "pour", 0.5), Segment(2, 3, "stir", sentence="He stirs."))
    VTT.write(tmp_path / "a.vtt", {"a": VideoTruth(9.0, before)})
    text = (tmp_path / "a.vtt").read_text()
    text = text.replace("\npour\n", "\npouring\n").replace("\nHe stirs.\n", "\nShe stirs.\n")
    video, _ = read(VTT, save(tmp_path / "a.vtt", text))
    assert video.annotations == (Segment(0, 1, "pouring", 0.5), Segment(2, 3, "stir", sentence="She stirs."))


def test_srt_shows_sentence_or_label_or_query(tmp_path):
    told = (Segment(0, 1, "pour", 0.5, sentence="He  pours\n\nbatter."), Segment(1, 2, "stir", query="q", id="x"),
            Segment(2, 3, query="a doorbell"), Segment(3, 4), Segment(4, 4, "a --> b"), Segment(0.0004, 3600.1236, "7"))
    SRT.write(tmp_path / "a.srt", {"a": VideoTruth(9.0, told, "testing", 25.0)})
    assert (tmp_path / "a.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:01,000\nHe pours batter.\n\n2\n")
    video, problems = read(SRT, tmp_path / "a.srt")
    assert [(s.start, s.end, s.sentence) for s in video.annotations] == [
        (0, 1, "He pours batter."), (0, 3600.124, "7"), (1, 2, "stir"), (2, 3, "a doorbell"), (3, 4, None),
        (4, 4, "a -> b")]
    assert all(s == Segment(s.start, s.end, sentence=s.sentence) for s in video.annotations)
    assert problems == []


@settings(max_examples=50, deadline=None)
@given(videos)
def test_whatever_srt_is_written_is_read(tmp_path_factory, video):
    folder = tmp_path_factory.mktemp("srt")
    SRT.write(folder / "a.srt", {"a": video})
    found, problems = read(SRT, folder / "a.srt")
    assert len(found.annotations) + len(problems) == len(video.annotations)
    assert all(p.what == "has no text" for p in problems)  # nothing but what SubRip takes for tags


@pytest.mark.parametrize("form", [SRT, VTT], ids=lambda f: f.name)
def test_one_file_or_a_folder(tmp_path, form):
    suffix = {"srt": ".srt", "webvtt": ".vtt"}[form.name]
    truth = {"a": VideoTruth(1.0, (Segment(0, 1, sentence="x"),)), "b": VideoTruth(0.0)}
    form.write(tmp_path / "out", truth)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a" + suffix, "b" + suffix]
    assert form.parse(tmp_path / "out", Reading()) == truth
    with pytest.raises(DataError, match="can hold one video"):
        form.write(tmp_path / f"x{suffix}", truth)
    with pytest.raises(DataError, match="begins at -1 s"):
        form.write(tmp_path / f"x{suffix}", {"a": VideoTruth(1.0, (Segment(-1, 1),))})
    with pytest.raises(DataError, match="is no text that"):
        form.write(tmp_path / f"x{suffix}", {"a": VideoTruth(1.0, (Segment(0, 1, "half \ud800"),))})
    assert not (tmp_path / f"x{suffix}").exists()


# --------------------------------------------------------------------------------- an independent reader


@pytest.mark.parametrize("form", [SRT, VTT], ids=lambda f: f.name)
def test_pysubs2_reads_what_is_written(tmp_path, form):
    pysubs2 = pytest.importorskip("pysubs2")
    told = (Segment(0, 1.001, "pour"), Segment(0.5, 99.25, sentence="He stirs, twice."), Segment(3599.999, 7200, "x"))
    path = tmp_path / ("a.srt" if form is SRT else "a.vtt")
    form.write(path, {"a": VideoTruth(9000.0, told)})
    text = path.read_text()
    if form is VTT:  # it takes comments for text
        text = "\n\n".join(block for block in text.split("\n\n") if not block.startswith("NOTE"))
    found = [(e.start, e.end, e.plaintext) for e in pysubs2.SSAFile.from_string(text, format_=path.suffix[1:])]
    assert found == [(0, 1001, "pour"), (500, 99250, "He stirs, twice."), (3599999, 7200000, "x")]


@pytest.mark.parametrize("form", [SRT, VTT], ids=lambda f: f.name)
def test_what_pysubs2_writes_is_read(tmp_path, form):
    pysubs2 = pytest.importorskip("pysubs2")
    subs = pysubs2.SSAFile()
    for start, end, text in [(0, 1500, "one\\Ntwo"), (1000, 2000, "{\\i1}three{\\i0}"), (3600000, 3600001, "4")]:
        subs.append(pysubs2.SSAEvent(start=start, end=end, text=text))
    path = tmp_path / ("a.srt" if form is SRT else "a.vtt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subs.save(str(path))
    video, problems = read(form, path)
    assert [(s.start, s.end, s.sentence) for s in video.annotations] == [
        (0, 1.5, "one two"), (1, 2, "three"), (3600, 3600.001, "4")]
    assert problems == []


# ----------------------------------------------------------------------------------------- recognising


def test_looks(tmp_path):
    assert SRT.looks(tmp_path / "a", SRT_FILE) == "truth"
    assert VTT.looks(tmp_path / "a", VTT_FILE) == "truth"
    save(tmp_path / "a.srt", SRT_FILE)
    assert SRT.looks(tmp_path, "") == "truth"
    assert VTT.looks(tmp_path, "") is None


@pytest.mark.parametrize("head", [
    '{"database": {}}', "video,start,end\n1,2,3\n", "1 2 3\n", "<?xml version='1.0'?>", "", "12.5\t18.2\tpour\n",
    "TITLE: x\n001  AX V C 00:00:00:00 00:00:01:00 00:00:00:00 00:00:01:00", "\ufffd\ufffd\0\0",
])
def test_does_not_claim_others(tmp_path, head):
    (tmp_path / "x").write_text("x")
    assert SRT.looks(tmp_path / "x", head) is None
    assert VTT.looks(tmp_path / "x", head) is None
