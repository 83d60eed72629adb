"""Ego4D's Moment Queries: ``moments_train.json``, ``moments_val.json``, ``moments_test_unannotated.json``.

    {"version": "…", "date": "…", "description": "…", "videos": [{"video_uid": "3af4cfae-…", "split": "val", "clips": [
        {"clip_uid": "139b2d83-…", "video_start_sec": 1082.13, "video_end_sec": 1562.0, "video_start_frame": 32464,
         "video_end_frame": 46860, …, "annotations": [{"annotator_uid": "…", "labels": [
            {"start_time": 434.28, "end_time": 471.49, "video_start_time": 1516.41, "video_end_time": 1553.62,
             "label": "use_phone", "primary": true, …}]}]}]}]}

The rule, as the challenge's own code and ActionFormer's have it: **one clip is one video**, called by its ``clip_uid``;
times are seconds of the clip (``start_time``; where it is missing, ``video_start_time`` less where the clip begins);
only labels that are ``primary`` count (110 classes); those of all annotators count, one after the other, so that a
moment may be there several times. A clip lasts from ``video_start_sec`` (0 where
it is below) to ``video_end_sec``; its rate is its frames over its seconds. A clip that is listed again adds its
annotations to the first.

A moment that ends before it starts is dropped and noted; one beyond the clip is kept as written. Clips without a
primary label are kept, without annotations; the challenge's code leaves them out of training and validation, and
ActionFormer's also leaves out moments shorter than 0.25 s and clips whose rate is not between 10 and 100. On writing
each clip is the only one of a video of its own name, by one annotator, from second 0. Scores, sentences and ids cannot
be held.

The layout is from the annotation schema and the two converters, not from the files, which need a licence agreement:
unverified is whether a real file has what none of these speaks of.

Source: Grauman et al., *Ego4D*, CVPR 2022; ego4d-data.org/docs/data/annotations-schemas;
github.com/EGO4D/episodic-memory (MQ).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import label_of, number, objects, split
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth, read_json, write_json

_WRITTEN = {"training": "train", "validation": "val", "testing": "test"}


def parse(path: Path, reading: Reading) -> Truth:
    """Read a Moment Queries file: of each clip its length and its primary moments.

    Raises:
        DataError: something is not an object, a list or a number where it should be.
    """
    data = read_json(path, "Ego4D moments", unique=True)
    if not isinstance(data, dict) or not isinstance(data.get("videos"), list):
        raise DataError(f"'{path}' has no list of \"videos\"; an Ego4D moments file is "
                        '{"videos": [{"video_uid", "split", "clips"}]}.')
    clips: dict[str, tuple[float, str, float | None]] = {}
    found: dict[str, list[Segment]] = {}
    for v, video in enumerate(objects(data["videos"], f"'{path}', videos")):
        for c, clip in enumerate(objects(video.get("clips"), f"'{path}', video {v}, clips")):
            vid = clip.get("clip_uid")
            if not isinstance(vid, str) or not vid:
                raise DataError(f"'{path}', video {v}, clip {c}: expected a \"clip_uid\", got {str(vid)[:40]!r}.")
            where = f"'{path}', clip '{vid}'"
            begin = max(number(clip.get("video_start_sec"), where, '"video_start_sec" in seconds'), 0.0)
            duration = number(clip.get("video_end_sec"), where, '"video_end_sec" in seconds') - begin
            if duration < 0:
                raise DataError(f"{where}: it ends before it begins; mend video_start_sec and video_end_sec.")
            told = (duration, split(str(video.get("split") or reading.subset)), _rate(clip, duration, where))
            if clips.setdefault(vid, told) != told:
                raise DataError(f"{where}: it is listed twice, with other times or another split; leave one out.")
            found.setdefault(vid, []).extend(_moments(clip, begin, where, reading))
    return {vid: VideoTruth(duration, tuple(found[vid]), subset, fps)
            for vid, (duration, subset, fps) in clips.items()}


def _rate(clip: dict[str, Any], duration: float, where: str) -> float | None:
    """Frames over seconds, where the clip tells its frames."""
    if clip.get("video_end_frame") is None or duration == 0:
        return None
    first = max(number(clip.get("video_start_frame"), where, '"video_start_frame"'), 0.0)
    frames = number(clip["video_end_frame"], where, '"video_end_frame"') - first
    return frames / duration if frames > 0 else None


def _moments(clip: dict[str, Any], begin: float, where: str, reading: Reading) -> list[Segment]:
    """The primary moments of all annotators of a clip that begins at ``begin`` seconds of its video."""
    found = []
    for a, annotator in enumerate(objects(clip.get("annotations"), where)):
        for i, item in enumerate(objects(annotator.get("labels"), f"{where}, annotation {a}")):
            at = f"{where}, annotation {a}, label {i}"
            primary, label = item.get("primary", True), item.get("label")
            if not isinstance(primary, bool) or not isinstance(label, str) or not label:
                raise DataError(f'{at}: expected a "label" and a "primary" that is true or false, got '
                                f"{str(label)[:40]!r} and {str(primary)[:20]}.")
            times = [item.get("start_time"), item.get("end_time")]
            if None in times:
                times = [number(item.get(key), at, f'"{key}" in seconds') - begin
                         for key in ("video_start_time", "video_end_time")]
            segment = reading.segment(times[0], times[1], at, label=label) if primary else None
            if segment is not None:
                found.append(segment)
    return found


def write(path: Path, truth: Truth) -> None:
    """Write a Moment Queries file; each video becomes a clip, and a video of its own.

    Raises:
        DataError: an annotation has no label.
    """
    videos = []
    for vid, video in truth.items():
        clip: dict[str, Any] = {"clip_uid": vid, "video_start_sec": 0.0, "video_end_sec": video.duration,
                                "clip_start_sec": 0.0, "clip_end_sec": video.duration}
        if video.fps is not None:
            frames = round(video.fps * video.duration)
            clip |= {"video_start_frame": 0, "video_end_frame": frames, "clip_start_frame": 0, "clip_end_frame": frames}
        clip["annotations"] = [{"annotator_uid": "cuemark", "labels": [
            {"start_time": s.start, "end_time": s.end, "video_start_time": s.start, "video_end_time": s.end,
             "label": label_of(s.label, vid, "Ego4D's file"), "primary": True} for s in video.annotations]}]
        videos.append({"video_uid": vid, "split": _WRITTEN.get(video.subset, video.subset), "clips": [clip]})
    write_json(path, {"version": "cuemark", "description": "Moment Queries", "videos": videos})


def looks(path: Path, head: str) -> Kind | None:
    """JSON with ``videos`` of ``clips`` whose labels are ``primary`` or not; the test file by its name."""
    ours = re.search(r'"videos"\s*:\s*\[', head) and '"video_uid"' in head and '"clip_uid"' in head
    if not ours or '"language_queries"' in head or '"query_sets"' in head:
        return None
    return "truth" if '"primary"' in head or re.match(r"moments?_", path.name) else None


FORMAT = Format(
    name="ego4d-mq",
    title="Ego4D Moment Queries",
    source="Grauman et al., Ego4D, CVPR 2022; ego4d-data.org",
    layout='JSON {"videos": [{"video_uid", "split", "clips": [{"clip_uid", "video_start_sec", "video_end_sec", '
           '"annotations": [{"labels": [{"start_time", "end_time", "label", "primary"}]}]}]}]}; seconds of the clip',
    looks=looks, parse=parse, write=write,
    traps="A clip is what others call a video; only primary labels count; every annotator's moments are there.",
)
