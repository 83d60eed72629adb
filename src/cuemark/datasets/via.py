"""VIA 3, the VGG annotator: temporal segments of a project's JSON, in seconds.

::

    {"project": {"pid": "__VIA_PROJECT_ID__", …, "vid_list": ["1"]}, "config": {"file": {"loc_prefix": …}, "ui": …},
     "attribute": {"1": {"aname": "Activity", "anchor_id": "FILE1_Z2_XY0", "type": 4, "desc": "",
                         "options": {"0": "pour", "1": "stir"}, "default_option_id": ""}},
     "file": {"1": {"fid": "1", "fname": "kitchen_01.mp4", "type": 4, "loc": 1, "src": ""}},
     "metadata": {"1_gX3kW0aQ": {"vid": "1", "flg": 0, "z": [12.5, 18.25], "xy": [], "av": {"1": "0"}}},
     "view": {"1": {"fid_list": ["1"]}}}

A piece of metadata belongs to a view (``vid``) and a view shows files; the first is the video, called as its ``fname``
without folder and extension. ``z`` are its times: two of a segment, one of a moment (kept as zero length). A piece with
coordinates in ``xy`` is a region of the picture and not read, nor one without times, which describes the whole file.
``flg`` 1 is deleted: dropped and noted.

``av`` gives values of attributes. Of one with options (``type`` 2 checkbox, 3 radio, 4 select) it is the option's id,
of a checkbox several with commas between; an id without an option stands for itself. An attribute called sentence,
caption, description, text, transcription or subtitle is the segment's sentence, and score or confidence its score (as
written here); each value of every other attribute is a label, and a segment with several gives one segment for each.

Projects of version 3.1.0, with ``vid_list`` outside ``project``, are read the same. VIA 2 projects are refused. A
segment that ends before it starts is dropped and noted. The file tells neither lengths nor splits.

Writing gives one project that VIA opens: a select attribute ``label``, text attributes ``sentence`` and ``score`` where
they are used. VIA cannot find local files by itself: it asks for each (they are called id + ``.mp4``). Not held:
queries, ids, lengths, splits, rates. Times are written whole; VIA rounds those it changes to milliseconds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cuemark.datasets.files import file_id, file_name
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth, labels_of, read_json, write_json

_SENTENCES = ("sentence", "caption", "description", "text", "transcription", "subtitle")
_SCORES = ("score", "confidence")
_TEXT, _CHECKBOX, _SELECT, _WITH_OPTIONS = 1, 2, 4, (2, 3, 4)


def looks(path: Path, head: str) -> Kind | None:
    """JSON that begins with a VIA project: a list of views and the places of files."""
    text = head.lstrip("\ufeff \t\r\n")
    ours = text[:1] == "{" and '"project"' in text and '"config"' in text
    return "truth" if ours and ('"loc_prefix"' in text or '"FILE1_Z2_XY0"' in text) else None


def parse(path: Path, reading: Reading) -> Truth:
    """Read the temporal segments of a project.

    Raises:
        DataError: naming the file, the piece of metadata and what was expected there.
    """
    data = read_json(path, "VIA 3", unique=True)
    tables = [data.get(k) if isinstance(data, dict) else None for k in ("attribute", "file", "metadata", "view")]
    if not all(isinstance(t, dict) and all(isinstance(item, dict) for item in t.values()) for t in tables):
        hint = " (it looks like a VIA 2 project; import that into VIA 3)" if \
            isinstance(data, dict) and "_via_settings" in data else ""
        raise DataError(f"'{path}' is not a VIA 3 project{hint}; expected an object with attribute, file, metadata "
                        "and view.")
    attributes, files, metadata, views = tables
    found: dict[str, list[Segment]] = {}
    called: dict[str, str] = {}  # view -> video
    for view, item in views.items():  # type: ignore[union-attr]
        where = f"'{path}', view {view}"
        shown = item.get("fid_list")
        file = files.get(str(shown[0])) if isinstance(shown, list) and shown else None  # type: ignore[union-attr]
        vid = file_id(name) if file and isinstance(name := file.get("fname"), str) else ""
        if not vid:
            raise DataError(f"{where}: cannot tell which file it shows; expected a fid_list with a file of the project "
                            "that has a fname.")
        if vid in found:
            raise DataError(f"{where}: another view shows a file called '{vid}'; rename one of the two.")
        called[view], found[vid] = vid, []
    for mid, item in metadata.items():  # type: ignore[union-attr]
        where = f"'{path}', metadata {mid}"
        times, shape, values = item.get("z", []), item.get("xy", []), item.get("av", {})
        if not (isinstance(times, list) and isinstance(shape, list) and isinstance(values, dict)):
            raise DataError(f"{where}: expected z and xy as lists and av as an object, got {str(item)[:60]}.")
        if shape or not times:
            continue
        if len(times) > 2:
            raise DataError(f"{where}: z should be [start, end] in seconds, got {str(times)[:60]}.")
        vid = called.get(str(item.get("vid")), "")
        if not vid:
            raise DataError(f"{where}: its view {str(item.get('vid'))[:40]!r} is not in the project.")
        if item.get("flg") == 1:
            reading.note(where, "was deleted", "dropped")
            continue
        labels, sentence, score = _values(values, attributes, where)  # type: ignore[arg-type]
        for label in labels or [None]:
            segment = reading.segment(times[0], times[-1], where, label=label, sentence=sentence, score=score)
            if segment is not None:
                found[vid].append(segment)
    return {vid: VideoTruth(reading.length(vid, segments), tuple(segments), reading.subset)
            for vid, segments in found.items()}


def _values(values: dict[str, Any], attributes: dict[str, dict[str, Any]], where: str
            ) -> tuple[list[str | None], str | None, float | None]:
    """The labels, the sentence and the score in the ``av`` of a piece of metadata."""
    labels: list[str | None] = []
    sentence: str | None = None
    score: float | None = None
    for aid, value in values.items():
        attribute = attributes.get(aid)
        if attribute is None:
            raise DataError(f"{where}: its attribute {aid[:40]!r} is not in the project.")
        text = "" if value is None else str(value)
        if not text.strip():
            continue
        name, kind, options = str(attribute.get("aname", "")).lower(), attribute.get("type"), attribute.get("options")
        if name in _SCORES:
            if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d{1,3})?", text.strip(), re.ASCII | re.IGNORECASE):
                raise DataError(f"{where}: {name} should be a number, got {text[:40]!r}.")
            score = float(text)
        elif name in _SENTENCES:
            sentence = text
        elif kind in _WITH_OPTIONS and isinstance(options, dict):
            chosen = text.split(",") if kind == _CHECKBOX else [text]
            labels += [str(options.get(c.strip(), c.strip())) for c in chosen if c.strip()]
        else:
            labels.append(text.strip())
    return labels, sentence, score


def write(path: Path, truth: Truth) -> None:
    """Write one project with all the videos."""
    segments = [s for video in truth.values() for s in video.annotations]
    ids = {label: str(i) for i, label in enumerate(labels_of(truth))}
    attributes: dict[str, Any] = {"1": _attribute("label", _SELECT, {i: label for label, i in ids.items()})}
    if any(s.sentence is not None for s in segments):
        attributes["2"] = _attribute("sentence", _TEXT, {})
    if any(s.score is not None for s in segments):
        attributes["3"] = _attribute("score", _TEXT, {})
    files, views, metadata = {}, {}, {}
    for number, (vid, video) in enumerate(truth.items(), 1):
        view = str(number)
        files[view] = {"fid": view, "fname": file_name(vid), "type": 4, "loc": 1, "src": ""}  # a local video
        views[view] = {"fid_list": [view]}
        for i, s in enumerate(video.annotations):
            told = {"1": ids[s.label] if s.label is not None else None, "2": s.sentence,
                    "3": None if s.score is None else repr(s.score)}
            metadata[f"{view}_{i:08d}"] = {"vid": view, "flg": 0, "z": [s.start, s.end], "xy": [],
                                           "av": {k: v for k, v in told.items() if v is not None}}
    write_json(path, {
        "project": {"pid": "__VIA_PROJECT_ID__", "rev": "__VIA_PROJECT_REV_ID__",
                    "rev_timestamp": "__VIA_PROJECT_REV_TIMESTAMP__", "pname": path.stem, "creator": "cuemark",
                    "created": 0, "data_format_version": "3.1.1", "vid_list": list(views)},
        "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}},
                   "ui": {"file_content_align": "center", "file_metadata_editor_visible": True,
                          "spatial_metadata_editor_visible": True, "temporal_segment_metadata_editor_visible": True,
                          "spatial_region_label_attribute_id": "", "gtimeline_visible_row_count": "4"}},
        "attribute": attributes, "file": files, "metadata": metadata, "view": views,
    })


def _attribute(name: str, kind: int, options: dict[str, str]) -> dict[str, Any]:
    return {"aname": name, "anchor_id": "FILE1_Z2_XY0", "type": kind, "desc": "", "options": options,
            "default_option_id": ""}


FORMAT = Format(
    name="via",
    title="VIA 3 project",
    source="Oxford Visual Geometry Group, VIA 3 (data format 3.1)",
    layout='{"file", "view", "attribute", "metadata": {id: {"vid", "z": [start, end], "xy": [], "av"}}}; seconds',
    looks=looks, parse=parse, write=write,
    traps="A value of a select attribute is the id of an option, not its text.",
)
