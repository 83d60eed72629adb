"""CVAT's XML 1.1: segments as tracks of shapes, or as runs of frame tags.

CVAT has no segments of time. People draw a box over the whole frame, or tag every frame, and export:

"CVAT for video 1.1" holds tracks, and **no tags**, even where frames were tagged::

    <annotations>
      <version>1.1</version>
      <meta>
        <task> <name>kitchen</name> <size>500</size> <mode>interpolation</mode> <subset>Train</subset>
          <start_frame>0</start_frame> <stop_frame>499</stop_frame> <frame_filter></frame_filter>
          <labels> <label> <name>pour</name> … <source>kitchen_01.mp4</source> </task> … </meta>
      <track id="0" label="pour" source="manual">
        <box frame="300" outside="0" occluded="0" keyframe="1" xtl="0.00" ytl="0.00" xbr="640.00" ybr="360.00" …/>
        <box frame="450" outside="1" occluded="0" keyframe="1" …/>
      </track>
    </annotations>

"CVAT for images 1.1" holds tags::

    <image id="300" name="frame_000300" width="640" height="360"> <tag label="pour" source="manual"></tag> </image>

**Frames** count from 0 and carry no rate, which has to be said. Frame ``f`` covers the seconds ``f/fps`` to
``(f+1)/fps``. A track is visible from a shape with ``outside="0"`` up to, not including, the next with ``outside="1"``;
shapes listed between do not matter, and each visible stretch is a segment (a skeleton is outside where all its points
are). A track still visible at its last shape is so until the video ends, as CVAT shows it. Tags of one label on
consecutive frames are one segment; people who tag only the first and the last frame get two. In a task that takes every
n-th frame (``frame_filter`` ``step=n``) numbers are still those of the video, and a tagged frame stands for n of them.

The video is called as ``source``, else as the task, without extension: the file itself is always ``annotations.xml``.
Its length is ``stop_frame + 1`` frames (or ``size``). ``subset`` "default" is none. Boxes of images
("CVAT for images" cuts tracks into boxes) are no segments: a file with them and without tags is refused, and so is an
export of a project with several tasks. Attributes are not read. A document type is refused.

Writing gives one file a video in the first form: a track for each segment with a dummy box of 16 × 16 pixels in the
top left corner, since the size of the picture is not known here. Make the task with these labels and upload the file
as "CVAT 1.1"; the ends of a segment are then moved by its key frames. Times are rounded to whole frames, a segment is
at least one frame long, begins at frame 0 or later and ends with the video at the latest. Not held: scores, sentences,
queries, ids. A segment without a label or outside the video, or a video without a rate, is an error.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from cuemark.datasets.files import file_id, file_name, first_of, parse_all, write_each
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.markup import read_xml, write_xml, xml_text
from cuemark.datasets.rows import label_of, split
from cuemark.datasets.timeline import rate_of
from cuemark.errors import DataError
from cuemark.segments import Truth, VideoTruth

_SHAPES = ("box", "polygon", "polyline", "points", "cuboid", "ellipse", "mask", "skeleton")


def looks(path: Path, head: str) -> Kind | None:
    """XML whose root is ``annotations`` with a version 1, and a task, a track or an image in it; a folder of such."""
    head = first_of(path, head, ".xml")[1]
    ours = re.match(r"\ufeff?\s*(<\?xml[^>]*\?>)?\s*<annotations>\s*(<!--.*?-->\s*)*<version>\s*1\.", head, re.DOTALL)
    return "truth" if ours and re.search(r"<(task|job|project|track|image)\b", head) else None


def parse(path: Path, reading: Reading) -> Truth:
    """Read an export, or every ``.xml`` of a folder.

    Raises:
        DataError: naming the file, the track or image and what was expected there, or that the rate is not known.
    """
    return parse_all(path, ".xml", lambda file: dict([_parse_one(file, reading)]))


# ---------------------------------------------------------------------------------------------- reading


def _parse_one(path: Path, reading: Reading) -> tuple[str, VideoTruth]:
    root = read_xml(path, "CVAT", "annotations")
    tasks = root.findall("meta/task") + root.findall("meta/job") + root.findall("meta/project/tasks/task")
    if len(tasks) > 1:
        raise DataError(f"'{path}' is an export of a project with {len(tasks)} tasks; export each task.")
    meta = tasks[0] if tasks else ElementTree.Element("task")
    source = (meta.findtext("source") or root.findtext("meta/source") or "").strip()
    vid = file_id(source) or file_id(meta.findtext("name") or "") or path.stem

    step, stop = _timeline(meta, f"'{path}', meta")
    spans = _tracks(root, path, step, stop) + _tags(root, path, step, stop)
    segments = []
    if spans:
        fps = reading.rate(f"'{path}'")
        for first, end, label, where in sorted(spans):
            segment = reading.segment(first / fps, end / fps, where, label=label)
            if segment is not None:
                segments.append(segment)
    known = reading.durations.get(vid)
    length = reading.length(vid, segments)
    if known is None and stop is not None and reading.fps:
        length = stop / reading.rate(f"'{path}'")
    subset = (meta.findtext("subset") or "").strip()
    return vid, VideoTruth(length, tuple(segments), reading.subset if subset in ("", "default") else split(subset),
                           reading.fps)


def _timeline(meta: ElementTree.Element, where: str) -> tuple[int, int | None]:
    """How many frames a number stands for, and how many frames the video has."""
    step = re.search(r"step\s*=\s*(\d{1,9})", meta.findtext("frame_filter") or "")
    every = max(int(step[1]), 1) if step else 1
    if (stop := meta.findtext("stop_frame")) and stop.strip():
        return every, _count(stop, f"{where}, stop_frame") + 1
    if (size := meta.findtext("size")) and size.strip():
        first = meta.findtext("start_frame") or "0"
        return every, _count(first, f"{where}, start_frame") + _count(size, f"{where}, size") * every
    return every, None


def _count(text: str | None, where: str) -> int:
    if text is None or not re.fullmatch(r"\s*\d{1,12}\s*", text, re.ASCII):
        raise DataError(f"{where}: expected the number of a frame, got {str(text)[:40]!r}.")
    return int(text)


def _label(element: ElementTree.Element, where: str) -> str:
    label = element.get("label")
    if not label:
        raise DataError(f'{where}: expected a label="…"; mend or remove it.')
    return label


def _tracks(root: ElementTree.Element, path: Path, step: int, stop: int | None) -> list[tuple[int, int, str, str]]:
    """First frame, frame after the last, label and place of every visible stretch."""
    spans = []
    for i, track in enumerate(root.findall("track")):
        where = f"'{path}', track {track.get('id', i)}"
        label = _label(track, where)
        shapes = []
        for shape in track:
            if shape.tag in _SHAPES:
                parts = shape.findall("points") if shape.tag == "skeleton" else [shape]
                hidden = [part.get("outside", "0") for part in parts]
                if strange := set(hidden) - {"0", "1"}:
                    raise DataError(f'{where}: outside should be "0" or "1", got {min(strange)[:40]!r}.')
                shapes.append((_count(shape.get("frame"), f"{where}, {shape.tag}"), hidden != [] and "0" not in hidden))
        shapes.sort()
        since: int | None = None
        for frame, outside in shapes:
            if not outside and since is None:
                since = frame
            elif outside and since is not None:
                spans.append((since, frame, label, where))
                since = None
        if since is not None:
            last = shapes[-1][0] + step
            spans.append((since, last if stop is None else max(stop, since + 1), label, where))
    return spans


def _tags(root: ElementTree.Element, path: Path, step: int, stop: int | None) -> list[tuple[int, int, str, str]]:
    """The same of every run of tags."""
    tagged: dict[str, set[int]] = defaultdict(set)
    shapes = False
    for i, image in enumerate(root.findall("image")):
        where = f"'{path}', image {image.get('id', i)}"
        for child in image:
            if child.tag == "tag":
                tagged[_label(child, where)].add(_count(image.get("id"), where))
            shapes |= child.tag in _SHAPES
    if shapes and not tagged:
        raise DataError(f"'{path}' holds shapes of single images and no tags, so no segments; "
                        'export the task as "CVAT for video 1.1", where tracks are whole.')
    spans = []
    for label, frames in tagged.items():
        ordered = sorted(frames)
        first = ordered[0]
        for frame, following in zip(ordered, [*ordered[1:], None]):
            if following is None or following > frame + step:
                end = frame + step if stop is None else max(min(frame + step, stop), frame + 1)
                spans.append((first, end, label, f"'{path}', image {first}"))
                first = frame if following is None else following
    return spans


# ---------------------------------------------------------------------------------------------- writing


def write(path: Path, truth: Truth) -> None:
    """Write one file for one video (a path that ends in ``.xml``), else a folder of them.

    Raises:
        DataError: a video has no frame rate, a segment no label, or a segment lies outside its video.
    """
    documents = {vid: _document(vid, video) for vid, video in truth.items()}  # before the first file is written
    write_each(path, truth, ".xml", lambda file, vid, _: write_xml(file, documents[vid]))


def _document(vid: str, video: VideoTruth) -> ElementTree.Element:
    fps = rate_of(vid, video, "CVAT")
    names = [xml_text(label_of(s.label, vid, "CVAT"), f"a label of video '{vid}'") for s in video.annotations]
    for i, s in enumerate(video.annotations):
        if s.start > video.duration or s.end < 0:
            raise DataError(f"segment {i} of video '{vid}' lies outside the video, [{s.start:g}, {s.end:g}] of "
                            f"{video.duration:g} s, and CVAT has no frame for it; mend it or the duration.")
    frames = max(round(video.duration * fps), 1)
    root = ElementTree.Element("annotations")

    def add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> ElementTree.Element:
        child = ElementTree.SubElement(parent, tag, attributes)
        child.text = text
        return child

    add(root, "version", "1.1")
    task = add(add(root, "meta"), "task")
    for tag, value in (("name", xml_text(vid, f"video '{vid}'")), ("size", str(frames)), ("mode", "interpolation"),
                       ("subset", xml_text(video.subset, f"video '{vid}'")), ("start_frame", "0"),
                       ("stop_frame", str(frames - 1)), ("frame_filter", None)):
        add(task, tag, value)
    labels = add(task, "labels")
    for label in sorted(set(names)):
        element = add(labels, "label")
        add(element, "name", label)
        add(element, "attributes")
    add(task, "source", file_name(vid))
    box = {"occluded": "0", "keyframe": "1", "xtl": "0.00", "ytl": "0.00", "xbr": "16.00", "ybr": "16.00",
           "z_order": "0"}
    for i, (s, name) in enumerate(zip(video.annotations, names)):
        first = min(max(round(s.start * fps), 0), frames - 1)
        end = min(max(round(s.end * fps), first + 1), frames)
        track = add(root, "track", id=str(i), label=name, source="file")
        add(track, "box", frame=str(first), outside="0", **box)
        if end < frames:  # a shape after the last frame is refused by CVAT
            add(track, "box", frame=str(end), outside="1", **box)
    return root


FORMAT = Format(
    name="cvat",
    title="CVAT for video 1.1",
    source="CVAT documentation, XML annotation format 1.1",
    layout="<annotations> with <track label> of shapes with frame and outside, or <image id> with <tag label>; "
           "frames from 0, no rate",
    looks=looks, parse=parse, write=write, several=False,
    traps='Tags are only in "CVAT for images" exports; tracks are whole only in "CVAT for video" exports.',
)
