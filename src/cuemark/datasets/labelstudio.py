"""Label Studio: spans on a video's timeline (``TimelineLabels``), as exported to JSON and as imported.

::

    [{"id": 1, "data": {"video": "/data/upload/1/1a2b3c4d-kitchen_01.mp4", "fps": 25},
      "annotations": [{"id": 7, "completed_by": 1, "was_cancelled": false, "result": [
          {"id": "Zb3", "type": "timelinelabels", "from_name": "videoLabels", "to_name": "video",
           "value": {"ranges": [{"start": 301, "end": 450}], "timelinelabels": ["pour"]}}]}],
      "predictions": [{"model_version": "cuemark", "score": 0.8, "result": […]}]}]

The smaller export "JSON-MIN" is read too: ``[{"video": …, "videoLabels": [{"ranges": …, "timelinelabels": …}]}]``.

**Frames.** Label Studio counts frames from 1 and both ends of a range belong to it, so a range covers the seconds
``(start - 1) / fps`` to ``end / fps``, and a click on one frame is one frame long. The frame rate is that of the
labelling configuration, ``<Video frameRate="25">``, and is in no export: it is 24 where the configuration is silent,
whatever the video's own rate is, and then every time is off by their ratio. A task that carries its rate in its data
(``frameRate="$fps"``) tells it; else it has to be said.

**Which video.** ``data.video_id`` where a task has one (those written here do), else ``data.video``, else the only
value of ``data`` that names a media file: an address or path without folder and extension, and without the eight
digits that an upload puts before the name. Also read from ``data``: ``duration`` (seconds), ``subset``.

**Whose labels.** Of several annotations of a task the one marked ``ground_truth`` counts, else the first that was not
cancelled; cancelled ("skipped") and further ones are noted. A task nobody has annotated is left out and noted: nothing
is known of it, which is not the same as a video without a segment. For predictions the first of a task counts.

Rules: a range that ends before it starts is dropped, one that begins before frame 1 is clipped, both noted. Results of
other kinds (boxes, choices) are not read.

Writing gives a file for *Import*, of tasks with annotations, or of tasks with predictions: pre-annotations that a
person corrects, which closes the circle of labelling, training and localizing. The configuration has to be::

    <View>
      <TimelineLabels name="videoLabels" toName="video"><Label value="pour"/> …</TimelineLabels>
      <Video name="video" value="$video" frameRate="$fps"/>
    </View>

``data.video`` is written as a file of the local storage, ``/data/local-files/?d=kitchen_01.mp4``; change it to where
the videos are. Times are rounded to whole frames, a segment is at least one frame long and begins at frame 1 or later.
Not held: sentences, queries, ids. A segment without a label or a video without a rate is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from cuemark.datasets.files import file_id, file_name
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import label_of, number, objects, split
from cuemark.datasets.timeline import frames_to_seconds, rate_of, seconds_to_frames
from cuemark.errors import DataError
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, read_json, write_json

_CONTROL, _OBJECT = "videoLabels", "video"


def looks(path: Path, head: str) -> Kind | None:
    """JSON that speaks of ``timelinelabels``: truth where it holds annotations, else predictions."""
    text = head.lstrip("\ufeff \t\r\n")
    if text[:1] not in ("[", "{") or not re.search(r'"timelinelabels"\s*:', text):
        return None
    annotated = re.search(r'"annotations"\s*:\s*\[\s*\{', text)
    return "predictions" if not annotated and re.search(r'"predictions"\s*:\s*\[\s*\{', text) else "truth"


def parse(path: Path, reading: Reading) -> Truth:
    """Read what people annotated.

    Raises:
        DataError: naming the file, the task and what was expected there, or that the frame rate is not known.
    """
    truth: Truth = {}
    for where, task in _tasks(path):
        data = task.get("data", task)  # JSON-MIN has no "data"
        vid = _video(data, where)
        if "data" in task:
            result = _annotated(task, where, reading)
        else:
            result = [{"type": "timelinelabels", "value": item} for items in task.values() if isinstance(items, list)
                      for item in items if isinstance(item, dict) and "ranges" in item]
            if vid in truth:
                reading.note(where, f"a further annotation of video '{vid}'", "dropped")
                continue
        if result is None:
            continue
        if vid in truth:
            raise DataError(f"{where}: video '{vid}' has a task before this one; export one project at a time.")
        fps = _fps(data, where)
        segments = _segments(result, where, fps, reading)
        length = _number(data, "duration", where)
        truth[vid] = VideoTruth(reading.length(vid, segments) if length is None else length, tuple(segments),
                                split(str(data.get("subset") or reading.subset)), fps)
    return truth


def parse_predictions(path: Path, reading: Reading) -> Predictions:
    """Read the first prediction of every task that has one.

    Raises:
        DataError: as :func:`parse`.
    """
    predictions: Predictions = {}
    for where, task in _tasks(path):
        data = task.get("data", task)
        if not isinstance(data, dict):
            raise DataError(f'{where}: "data" should be an object, got {str(data)[:60]}.')
        made = objects(task.get("predictions"), f"{where}, predictions")
        if not made:
            continue
        vid = _video(data, where)
        if vid in predictions:
            raise DataError(f"{where}: video '{vid}' has a task before this one; export one project at a time.")
        if len(made) > 1:
            reading.note(where, f"{len(made)} predictions; the first is read", "dropped")
        predictions[vid] = _segments(made[0].get("result"), where, _fps(data, where), reading, made[0].get("score"))
    return predictions


def write(path: Path, truth: Truth) -> None:
    """Write tasks with one annotation each, ready for import.

    Raises:
        DataError: a video has no frame rate, or a segment no label.
    """
    write_json(path, [{"data": _data(vid, video), "annotations": [{"result": _result(vid, video, video.annotations)}]}
                      for vid, video in truth.items()])


def write_predictions(path: Path, predictions: Predictions, truth: Truth) -> None:
    """Write tasks with one prediction each: pre-annotations to be corrected.

    Raises:
        DataError: ``truth`` does not tell a video's frame rate, or a segment has no label.
    """
    tasks = []
    for vid, segments in predictions.items():
        video = truth.get(vid, VideoTruth(max((s.end for s in segments), default=0.0)))
        scores = [s.score for s in segments if s.score is not None]
        made: dict[str, Any] = {"model_version": "cuemark", "result": _result(vid, video, segments)}
        if scores:
            made["score"] = sum(scores) / len(scores)
        tasks.append({"data": _data(vid, video), "predictions": [made]})
    write_json(path, tasks)


# ---------------------------------------------------------------------------------------------- reading


def _tasks(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    data = read_json(path, "Label Studio")
    if isinstance(data, dict):
        data = [data]
    if not isinstance(data, list) or not all(isinstance(task, dict) for task in data):
        raise DataError(f"'{path}' is not a Label Studio export; expected a list of tasks.")
    for i, task in enumerate(data):
        yield f"'{path}', task {i}", task


def _annotated(task: dict[str, Any], where: str, reading: Reading) -> Any:
    """The results that count, or None where nobody annotated."""
    done = []
    for i, annotation in enumerate(objects(task.get("annotations", task.get("completions")), f"{where}, annotations")):
        if annotation.get("was_cancelled"):
            reading.note(f"{where}, annotation {i}", "was cancelled", "dropped")
        else:
            done.append(annotation)
    if not done:
        reading.note(where, "has no annotation", "dropped")
        return None
    chosen = next((a for a in done if a.get("ground_truth")), done[0])
    if len(done) > 1:
        rule = "the one marked ground truth" if chosen.get("ground_truth") else "the first"
        reading.note(where, f"{len(done)} annotations; {rule} is read", "dropped")
    return chosen.get("result") or []


def _segments(result: Any, where: str, fps: float | None, reading: Reading, score: Any = None) -> list[Segment]:
    segments = []
    for i, item in enumerate(objects(result, f"{where}, result")):
        if item.get("type") != "timelinelabels":
            continue
        at = f"{where}, result {i}"
        value = item.get("value")
        ranges = value.get("ranges") if isinstance(value, dict) else None
        labels = value.get("timelinelabels") or [None] if isinstance(value, dict) else None
        if not isinstance(ranges, list) or not isinstance(labels, list) or \
                not all(label is None or isinstance(label, str) for label in labels):
            raise DataError(f'{at}: expected a value with "ranges" and "timelinelabels", got {str(value)[:60]}.')
        rate = reading.rate(at, fps)
        own = _number(item, "score", at)
        if own is None:
            own = _number({"score": score}, "score", at)
        for span in ranges:
            first, last = (_number(span, k, at) for k in ("start", "end")) if isinstance(span, dict) else (None, None)
            if first is None or last is None:
                raise DataError(f'{at}: a range should be {{"start": frame, "end": frame}}, got {str(span)[:60]}.')
            if last < first:
                reading.note(at, f"ends before it starts: frames {first:g} to {last:g}", "dropped")
                continue
            if first < 1:
                reading.note(at, f"begins at frame {first:g}, and frames count from 1", "clipped")
                first, last = 1.0, max(last, 1.0)
            start, end = frames_to_seconds(first, last, rate)
            for label in labels:
                if (segment := reading.segment(start, end, at, label=label, score=own)) is not None:
                    segments.append(segment)
    return segments


def _number(item: dict[str, Any], key: str, where: str) -> float | None:
    value = item.get(key)
    return None if value is None or value == "" else number(value, where, f'"{key}" to be a number')


def _fps(data: dict[str, Any], where: str) -> float | None:
    fps = _number(data, "fps", where)
    if fps is not None and fps <= 0:
        raise DataError(f'{where}: "fps" of the data is {fps:g}, which is impossible; mend it.')
    return fps


def _video(data: Any, where: str) -> str:
    if not isinstance(data, dict):
        raise DataError(f'{where}: "data" should be an object, got {str(data)[:60]}.')
    if isinstance(vid := data.get("video_id"), str) and vid:
        return vid
    named = [data["video"]] if isinstance(data.get("video"), str) else \
        [v for v in data.values() if isinstance(v, str) and _of_address(v) != re.split(r"[/\\]", v)[-1]]
    vid = _of_address(named[0]) if len(named) == 1 else ""
    if not vid:
        raise DataError(f'{where}: cannot tell which video this is; expected its address as "video" in "data".')
    return vid


def _of_address(text: str) -> str:
    """Video id of an address in Label Studio's data."""
    path = text
    if "://" in text or text.startswith("/data/"):
        try:
            parts = urlsplit(text)
        except ValueError:
            return file_id(text)
        path = parse_qs(parts.query)["d"][0] if "d" in parse_qs(parts.query) else unquote(parts.path)
    vid = file_id(path)
    return re.sub(r"^[0-9a-f]{8}-", "", vid) if "/upload/" in path else vid


# ---------------------------------------------------------------------------------------------- writing


def _data(vid: str, video: VideoTruth) -> dict[str, Any]:
    return {"video": f"/data/local-files/?d={quote(file_name(vid))}", "video_id": vid,
            "fps": rate_of(vid, video, "Label Studio"), "duration": video.duration, "subset": video.subset}


def _result(vid: str, video: VideoTruth, segments: Iterable[Segment]) -> list[dict[str, Any]]:
    result = []
    fps = rate_of(vid, video, "Label Studio")
    for i, s in enumerate(segments):
        label, (first, last) = label_of(s.label, vid, "Label Studio"), seconds_to_frames(s.start, s.end, fps)
        item: dict[str, Any] = {"id": f"{i:06d}", "type": "timelinelabels", "from_name": _CONTROL, "to_name": _OBJECT,
                                "value": {"ranges": [{"start": first, "end": last}], "timelinelabels": [label]}}
        if s.score is not None:
            item["score"] = s.score
        result.append(item)
    return result


FORMAT = Format(
    name="label-studio",
    title="Label Studio timeline labels",
    source="HumanSignal, Label Studio documentation, TimelineLabels tag",
    layout='[{"data": {"video", "fps"?}, "annotations": [{"result": [{"value": {"ranges", "timelinelabels"}}]}], '
           '"predictions"}]; frames from 1, both ends included',
    looks=looks, parse=parse, write=write,
    parse_predictions=parse_predictions, write_predictions=write_predictions,
    traps="Frames are counted at the configuration's frameRate (24 where it says nothing), not at the video's.",
)
