"""Every file that people take away is opened by a reader that is not ours.

What a reader sees is compared with the moments that were exported, to the unit in which the format counts. Label Studio
and FiftyOne are too large to be installed for this: their files are held against the layout of their documentation, as
JSON Schema. WebVTT and clips are opened by a browser, too (``test_browser.py``).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cuemark.app.export import GROUPS, export
from cuemark.segments import Segment, VideoTruth

FPS = 25.0
MOMENTS = (Segment(1.0, 2.52, "rocking", 0.9), Segment(3.0, 4.2, "a star spins", 0.5, None, "a star spins"))
FRAME, MILLI = 1.01 / FPS, 0.001


def of_json(path: Path) -> list:
    """As ActivityNet's evaluator reads truth: segments and labels by video."""
    told = json.loads(path.read_text())["database"]
    assert list(told) == ["a"]
    assert (told["a"]["duration"], told["a"]["subset"]) == (10.0, "testing")
    return [(*one["segment"], one["label"]) for one in told["a"]["annotations"]]


def of_jsonl(path: Path) -> list:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["start"], row["end"], row["label"]) for row in rows]


def of_csv(path: Path) -> list:
    with open(path, newline="") as file:
        return [(float(row["start"]), float(row["end"]), row["label"]) for row in csv.DictReader(file)]


def of_subtitles(path: Path) -> list:
    pysubs2 = pytest.importorskip("pysubs2")
    text = path.read_text()
    # it takes WebVTT's comments for text
    text = "\n\n".join(block for block in text.split("\n\n") if not block.startswith("NOTE"))
    return [(event.start / 1000, event.end / 1000, event.plaintext)
            for event in pysubs2.SSAFile.from_string(text, format_=path.suffix[1:])]


def of_timeline(path: Path, **options) -> list:
    """OpenTimelineIO and its adapters: where each clip is cut from."""
    otio = pytest.importorskip("opentimelineio")
    read = otio.adapters.read_from_file(str(path), **options)
    found = []
    for clip in read.find_children(descended_from_type=otio.schema.Clip):
        cut = clip.source_range
        name = clip.name if clip.name != "a.mp4" else clip.markers[0].name  # an EDL names the file, and marks the cut
        found.append((cut.start_time.to_seconds(), cut.end_time_exclusive().to_seconds(), name))
    return found


def of_edl(path: Path) -> list:
    return of_timeline(path, rate=FPS)


def of_resolve(path: Path) -> list:
    """Markers, which OpenTimelineIO's adapter takes for cuts of one frame, an hour into the timeline."""
    found = of_timeline(path, rate=FPS)
    names, lengths = [], []
    for line in path.read_text().splitlines():
        if "|M:" in line:
            names.append(line.split("|M:")[1].split(" |")[0])
            lengths.append(int(line.split("|D:")[1]) / FPS)
    return [(start - 3600, start - 3600 + length, name) for (start, _, _), length, name in zip(found, lengths, names)]


def of_premiere(path: Path) -> list:
    def seconds(timecode: str) -> float:
        hours, minutes, whole, frames = map(int, timecode.split(":"))
        return 3600 * hours + 60 * minutes + whole + frames / FPS

    with open(path, newline="", encoding="utf-16" if path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
              ) as file:
        return [(seconds(row["In"]), seconds(row["Out"]), row["Marker Name"])
                for row in csv.DictReader(file, dialect="excel-tab")]


def of_audacity(path: Path) -> list:
    with open(path, newline="") as file:
        return [(float(start), float(end), text) for start, end, text in csv.reader(file, dialect="excel-tab")]


LABEL_STUDIO = {
    "type": "array", "items": {
        "type": "object", "required": ["data", "annotations"],
        "properties": {
            "data": {"type": "object", "required": ["video"], "properties": {"video": {"type": "string"}}},
            "annotations": {"type": "array", "items": {"type": "object", "required": ["result"], "properties": {
                "result": {"type": "array", "items": {
                    "type": "object", "required": ["id", "type", "from_name", "to_name", "value"],
                    "properties": {
                        "id": {"type": "string"}, "type": {"const": "timelinelabels"},
                        "from_name": {"type": "string"}, "to_name": {"type": "string"},
                        "score": {"type": "number"},
                        "value": {
                            "type": "object", "required": ["ranges", "timelinelabels"], "additionalProperties": False,
                            "properties": {
                                "timelinelabels": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                                "ranges": {"type": "array", "minItems": 1, "items": {
                                    "type": "object", "required": ["start", "end"], "additionalProperties": False,
                                    "properties": {"start": {"type": "integer", "minimum": 1},
                                                   "end": {"type": "integer", "minimum": 1}}}}}}}}}}}}}}}
"""Tasks to import, by Label Studio's documentation of its JSON format and of the tag ``TimelineLabels``."""

FIFTYONE = {
    "type": "object", "required": ["classes", "labels"], "additionalProperties": False,
    "properties": {
        "classes": {"type": "array", "items": {"type": "string"}},
        "labels": {"type": "object", "additionalProperties": {"type": ["array", "null"], "items": {
            "type": "object", "required": ["label", "timestamps"], "additionalProperties": False,
            "properties": {"label": {"type": "string"}, "confidence": {"type": "number"},
                           "timestamps": {"type": "array", "minItems": 2, "maxItems": 2,
                                          "items": {"type": "number"}}}}}}}}
"""``labels.json`` by FiftyOne's documentation of ``FiftyOneTemporalDetectionDataset``."""


def held(path: Path, layout: dict):
    jsonschema = pytest.importorskip("jsonschema")
    told = json.loads(path.read_text())
    jsonschema.validate(told, layout)
    return told


def of_label_studio(path: Path) -> list:
    (task,) = held(path, LABEL_STUDIO)
    found = []
    for one in task["annotations"][0]["result"]:
        (span,), (label,) = one["value"]["ranges"], one["value"]["timelinelabels"]
        found.append(((span["start"] - 1) / FPS, span["end"] / FPS, label))  # frames from 1, both ends included
    return found


def of_fiftyone(path: Path) -> list:
    told = held(path, FIFTYONE)
    assert set(told["classes"]) == {one["label"] for one in told["labels"]["a"]}
    return [(*one["timestamps"], one["label"]) for one in told["labels"]["a"]]


def of_elan(path: Path) -> list:
    pympi = pytest.importorskip("pympi", reason="pympi-ling is not installed")
    told = pympi.Eaf(str(path)).get_annotation_data_for_tier("labels")
    return [(start / 1000, end / 1000, text) for start, end, text in sorted(row[:3] for row in told)]


def of_cvat(path: Path) -> list:
    """Tracks, from the first box to the one that is outside."""
    found = []
    for track in ElementTree.parse(path).getroot().iter("track"):
        first, last = (int(box.get("frame", "")) for box in track.iter("box"))
        found.append((first / FPS, last / FPS, track.get("label")))
    return found


def of_via(path: Path) -> list:
    told = json.loads(path.read_text())
    (number, names), = ((n, one["options"]) for n, one in told["attribute"].items() if one["aname"] == "label")
    return [(*one["z"], names[one["av"][number]]) for one in told["metadata"].values()]


def of_boris(path: Path) -> list:
    """State events: they start and stop in turn."""
    events = json.loads(path.read_text())["observations"]["a"]["events"]
    return [(start[0], stop[0], start[2]) for start, stop in zip(events[::2], events[1::2])]


READERS = {
    "cuemark": (of_json, 0.0), "csv": (of_csv, 0.0), "jsonl": (of_jsonl, 0.0),
    "srt": (of_subtitles, MILLI), "webvtt": (of_subtitles, MILLI),
    "otio": (of_timeline, FRAME), "edl": (of_edl, FRAME), "fcpxml": (of_timeline, FRAME),
    "resolve-edl": (of_resolve, FRAME), "premiere-csv": (of_premiere, FRAME), "audacity": (of_audacity, 1e-6),
    "label-studio": (of_label_studio, FRAME), "elan": (of_elan, MILLI), "cvat": (of_cvat, FRAME),
    "via": (of_via, 0.0), "boris": (of_boris, MILLI), "fiftyone": (of_fiftyone, 0.0)}
"""Who reads what is exported, and how many seconds a time may be off."""


@pytest.mark.parametrize("name", [name for names in GROUPS.values() for name in names])
def test_others_read_what_is_exported(tmp_path, name):
    made = export({"a": VideoTruth(10.0, MOMENTS, "testing", FPS)}, name)
    (tmp_path / made.name).write_bytes(made.data)
    read, unit = READERS[name]
    found = read(tmp_path / made.name)
    assert [text for _, _, text in found] == [s.label for s in MOMENTS]
    for (start, end, _), segment in zip(found, MOMENTS):
        assert (start, end) == pytest.approx((segment.start, segment.end), abs=unit)
