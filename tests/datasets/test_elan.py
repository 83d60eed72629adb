"""ELAN's annotation documents; pympi-ling, where it is installed, says what other readers see."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets.elan import looks, parse, write
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

# as ELAN 6 writes it: slots shared between neighbours, a divided annotation, notes on annotations, an empty tier
FILE = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-31T12:00:00+01:00" FORMAT="3.0" VERSION="3.0"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">
    <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
        <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/videos/kitchen%2001.mp4" MIME_TYPE="video/mp4"
            RELATIVE_MEDIA_URL="./kitchen%2001.mp4"/>
        <PROPERTY NAME="URN">urn:nl-mpi-tools-elan-eaf:0a0b</PROPERTY>
        <PROPERTY NAME="lastUsedAnnotationId">9</PROPERTY>
    </HEADER>
    <TIME_ORDER>
        <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="1000"/>
        <TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="2500"/>
        <TIME_SLOT TIME_SLOT_ID="ts3"/>
        <TIME_SLOT TIME_SLOT_ID="ts4"/>
        <TIME_SLOT TIME_SLOT_ID="ts5" TIME_VALUE="4000"/>
        <TIME_SLOT TIME_SLOT_ID="ts6" TIME_VALUE="12345"/>
    </TIME_ORDER>
    <TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="actions">
        <ANNOTATION>
            <ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
                <ANNOTATION_VALUE>pour</ANNOTATION_VALUE>
            </ALIGNABLE_ANNOTATION>
        </ANNOTATION>
        <ANNOTATION>
            <ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts6">
                <ANNOTATION_VALUE></ANNOTATION_VALUE>
            </ALIGNABLE_ANNOTATION>
        </ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="divided" PARENT_REF="actions" TIER_ID="parts">
        <ANNOTATION>
            <ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts3">
                <ANNOTATION_VALUE>one</ANNOTATION_VALUE>
            </ALIGNABLE_ANNOTATION>
        </ANNOTATION>
        <ANNOTATION>
            <ALIGNABLE_ANNOTATION ANNOTATION_ID="a4" PREVIOUS_ANNOTATION="a3" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4">
                <ANNOTATION_VALUE>two</ANNOTATION_VALUE>
            </ALIGNABLE_ANNOTATION>
        </ANNOTATION>
        <ANNOTATION>
            <ALIGNABLE_ANNOTATION ANNOTATION_ID="a5" PREVIOUS_ANNOTATION="a4" TIME_SLOT_REF1="ts4" TIME_SLOT_REF2="ts5">
                <ANNOTATION_VALUE>three</ANNOTATION_VALUE>
            </ALIGNABLE_ANNOTATION>
        </ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="Captions">
        <ANNOTATION>
            <ALIGNABLE_ANNOTATION ANNOTATION_ID="a6" TIME_SLOT_REF1="ts5" TIME_SLOT_REF2="ts6">
                <ANNOTATION_VALUE>She pours &amp; stirs.</ANNOTATION_VALUE>
            </ALIGNABLE_ANNOTATION>
        </ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="note" PARENT_REF="actions" TIER_ID="notes">
        <ANNOTATION>
            <REF_ANNOTATION ANNOTATION_ID="a7" ANNOTATION_REF="a1">
                <ANNOTATION_VALUE>left hand</ANNOTATION_VALUE>
            </REF_ANNOTATION>
        </ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="unused"/>
    <LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="default-lt" TIME_ALIGNABLE="true"/>
    <LINGUISTIC_TYPE CONSTRAINTS="Time_Subdivision" GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="divided"
        TIME_ALIGNABLE="true"/>
    <LINGUISTIC_TYPE CONSTRAINTS="Symbolic_Association" GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="note"
        TIME_ALIGNABLE="false"/>
    <CONSTRAINT DESCRIPTION="1-1 association with a parent annotation" STEREOTYPE="Symbolic_Association"/>
</ANNOTATION_DOCUMENT>
"""


def read(tmp_path, text, name="kitchen 01.eaf", **known):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    reading = Reading(**known)
    return parse(tmp_path / name, reading), reading


def test_a_document(tmp_path):
    truth, reading = read(tmp_path, FILE, durations={"kitchen 01": 20.0}, subset="testing")
    assert looks(tmp_path / "a", FILE) == "truth"
    assert truth == {"kitchen 01": VideoTruth(20.0, (
        Segment(1, 2, "one"), Segment(1, 2.5, "pour"), Segment(2, 3, "two"), Segment(2.5, 12.345, "actions"),
        Segment(3, 4, "three"), Segment(4, 12.345, sentence="She pours & stirs.")), "testing")}
    assert [(p.where.split(", ")[1], p.what) for p in reading.problems] == [
        ("tier 'notes'", "refers to another tier instead of to times")]


def test_the_medium(tmp_path):
    """Its time origin is where ELAN's clock starts; another name is noted."""
    moved = FILE.replace('MIME_TYPE="video/mp4"', 'MIME_TYPE="video/mp4" TIME_ORIGIN="10000"')
    truth, reading = read(tmp_path, moved, "session.eaf")
    assert truth["session"].annotations[1] == Segment(11, 12.5, "pour")
    assert ("links the medium 'kitchen 01'" in reading.problems[0].what, reading.problems[0].done) == (True, "kept")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_round_trip(tmp_path_factory, data):
    time = st.integers(0, 10**7)
    text = st.text(st.characters(min_codepoint=32, blacklist_categories=("Cs", "Cn", "Cc")), min_size=1, max_size=6)
    text = text.map(str.strip).filter(bool)
    cut = st.builds(lambda a, b, name, told: Segment(min(a, b) / 1000, (max(a, b) + 1) / 1000,
                                                     name if told is None else None, sentence=told),
                    time, time, text, st.none() | text)
    truth = {vid: VideoTruth(2e5, tuple(data.draw(st.lists(cut, max_size=5)))) for vid in ("v", "w.v2", "a b")}
    folder = tmp_path_factory.mktemp("elan")
    write(folder, truth)
    reading = Reading(durations=dict.fromkeys(truth, 2e5))
    back = parse(folder, reading)
    key = lambda s: (s.start, s.end, s.label or "", s.sentence or "")  # noqa: E731
    assert {vid: sorted(v.annotations, key=key) for vid, v in back.items()} == {
        vid: sorted(v.annotations, key=key) for vid, v in truth.items()}
    assert not reading.problems


def test_what_is_written(tmp_path):
    """Overlaps on tiers of their own; zero length is 1 ms; time slots in order."""
    write(tmp_path / "v.eaf", {"v": VideoTruth(9.0, (
        Segment(1, 3, "a"), Segment(2, 4, "b"), Segment(3, 3, "c"), Segment(0, 1.2345, query="when?")))})
    root = ElementTree.parse(tmp_path / "v.eaf").getroot()
    assert root.find("HEADER/MEDIA_DESCRIPTOR").get("RELATIVE_MEDIA_URL") == "./v.mp4"
    slots = {s.get("TIME_SLOT_ID"): int(s.get("TIME_VALUE")) for s in root.iterfind("TIME_ORDER/TIME_SLOT")}
    assert list(slots.values()) == sorted(slots.values())
    assert {t.get("TIER_ID"): [(a.findtext("ANNOTATION_VALUE"), slots[a.get("TIME_SLOT_REF1")],
                                slots[a.get("TIME_SLOT_REF2")]) for a in t.iterfind("ANNOTATION/*")]
            for t in root.iterfind("TIER")} == {
        "labels": [("a", 1000, 3000), ("c", 3000, 3001)], "labels 2": [("b", 2000, 4000)],
        "sentences": [("when?", 0, 1234)]}
    assert parse(tmp_path / "v.eaf", Reading())["v"].annotations == (
        Segment(0, 1.234, sentence="when?"), Segment(1, 3, "a"), Segment(2, 4, "b"), Segment(3, 3.001, "c"))
    write(tmp_path / "w.eaf", {"w": VideoTruth(9.0)})
    assert parse(tmp_path / "w.eaf", Reading(durations={"w": 9.0})) == {"w": VideoTruth(9.0)}


def test_pympi_reads_what_we_write_and_we_what_it_writes(tmp_path):
    pympi = pytest.importorskip("pympi", reason="pympi-ling is not installed")
    write(tmp_path / "v.eaf", {"v": VideoTruth(9.0, (Segment(1, 3, "a & <b>"), Segment(2, 4, "ü")))})
    theirs = pympi.Eaf(str(tmp_path / "v.eaf"))
    assert theirs.get_annotation_data_for_tier("labels") == [(1000, 3000, "a & <b>")]
    assert theirs.get_annotation_data_for_tier("labels 2") == [(2000, 4000, "ü")]
    made = pympi.Eaf(author="a")
    made.add_linked_file("file:///videos/w.mp4", "./w.mp4")
    made.add_tier("jumps")
    made.add_annotation("jumps", 250, 1750, "high")
    made.add_annotation("jumps", 2000, 3000)
    made.to_file(str(tmp_path / "w.eaf"))
    reading = Reading()
    assert parse(tmp_path / "w.eaf", reading)["w"].annotations == (Segment(0.25, 1.75, "high"), Segment(2, 3, "jumps"))
    assert not reading.problems


@pytest.mark.parametrize(("segment", "message"), [
    (Segment(0, 1), "segment 0 of video 'v' has no label"), (Segment(-1, 1, "a"), "starts before 0"),
    (Segment(0, 1, "a\x07"), "which XML cannot hold")])
def test_what_cannot_be_written(tmp_path, segment, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path / "out", {"u": VideoTruth(1.0), "v": VideoTruth(9.0, (segment,))})
    assert not list(tmp_path.iterdir())


def test_inverted_annotations_are_dropped(tmp_path):
    truth, reading = read(tmp_path, FILE.replace('TIME_SLOT_ID="ts1" TIME_VALUE="1000"',
                                                 'TIME_SLOT_ID="ts1" TIME_VALUE="3000"'))
    assert "pour" not in [s.label for s in truth["kitchen 01"].annotations]
    assert [p.done for p in reading.problems if "ends before" in p.what] == ["dropped"]


@pytest.mark.parametrize(("old", "new", "message"), [
    (FILE, "", "is not valid XML"), ("</TIME_ORDER>", "", "is not valid XML at line"),
    ("ANNOTATION_DOCUMENT", "DOCUMENT", "its root is <DOCUMENT>"),
    ("<ANNOTATION_DOCUMENT", '<!DOCTYPE a [<!ENTITY b "c">]><ANNOTATION_DOCUMENT', "declares a document type"),
    ("milliseconds", "PAL-frames", "times are in PAL-frames"),
    ('TIME_VALUE="2500"', 'TIME_VALUE="2.5"', "time slot ts2: expected a whole number of milliseconds"),
    ('TIME_VALUE="2500"', f'TIME_VALUE="{"9" * 5000}"', "expected a whole number of milliseconds"),
    ('TIME_SLOT_REF1="ts5"', 'TIME_SLOT_REF1="ts77"', "annotation a6: its time slot 'ts77' does not exist"),
    ('TIME_SLOT_REF1="ts5"', "", "its time slot None does not exist"),
    ('TIME_SLOT_ID="ts6" TIME_VALUE="12345"', 'TIME_SLOT_ID="ts6"', "time slot 'ts6' has no time and no neighbour"),
    ('MIME_TYPE="video/mp4"', 'MIME_TYPE="video/mp4" TIME_ORIGIN="x"', "MEDIA_DESCRIPTOR: expected a whole number"),
])
def test_malformed(tmp_path, old, new, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, FILE.replace(old, new))
    assert message in str(error.value)
    assert "kitchen 01.eaf" in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    with pytest.raises(DataError, match="cannot be read as a ELAN file"):
        read(tmp_path, FILE.encode("utf-16"))


@pytest.mark.parametrize("head", ["<annotations><version>1.1</version>", "<TIER/>", "ANNOTATION_DOCUMENT", ""])
def test_looks_at_other_files(tmp_path, head):
    assert looks(tmp_path / "a.eaf", head) is None
