"""TSP's ground truth: actions and the background between them, one CSV row each, and a CSV of the videos beside it.

    activitynet_v1-3_train_tsp_groundtruth.csv
        video-name,t-start,t-end,action-label,video-duration,filename,fps,video-frames,temporal-region-label
        sJFgo9H6zNo,0.01,123.42336739937599,Fun sliding down,138.96666666666667,v_sJFgo9H6zNo.mp4,30.0,4169,Action
        --0edUL8zmA,0.0,5.464839815912637,,92.03333333333332,v_--0edUL8zmA.mp4,30.0,2761,No action
    activitynet_v1-3_train_metadata.csv
        filename,video-duration,fps,video-frames
        v_sJFgo9H6zNo.mp4,138.966666666667,30,4169

Seconds. A video's name has no ``v_``, its file on ActivityNet has. All *Action* rows come first, in the order of the
videos, then all *No action* rows, videos in alphabetical order. The split is in the files' names alone: ``train``,
``valid`` or ``test`` (so that THUMOS14's videos are of ``validation`` and ``testing``).

Rules: background rows are derived from the others, so they are checked and then passed over on reading and derived
again on writing, by the rule of the release (:func:`cuemark.clips.background`, ``tsp``): between the end of an action
and the start of the one that begins next, even where an earlier one still lasts, when at least 5 clips of 16/15 s long
on ActivityNet and 1 clip on THUMOS14. Of the 28,454 background rows of the four released files 28,453 follow from it;
one, of ``video_validation_0000184``, begins at 85.8 s where it should begin at 85.2 s. Videos without an action are in
the metadata alone. An action that ends before it starts is dropped; ends beyond the video (568 in ActivityNet's
validation split, whose videos were re-encoded) are kept as written.

What these files cannot hold: scores, sentences, splits other than the three, THUMOS's ``Ambiguous`` (left out on
writing, as in the release). A video is written as ``v_<name>.mp4`` where all names are YouTube's (11 characters), else
as ``<name>.mp4``. The durations of the metadata are rounded to 15 digits; those of the ground truth are not, and count.

Source: Alwassel, Giancola and Ghanem, *TSP*, ICCV Workshops 2021, and its release (data/*/).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cuemark.datasets.files import bare_ids, new_folder
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import above_0, header, label_of, seconds, split_of, table, whole, write_table
from cuemark.datasets.timeline import rate_of
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth, times

_TRUTH = ("video-name", "t-start", "t-end", "action-label", "video-duration", "filename", "fps", "video-frames",
          "temporal-region-label")
_META = ("filename", "video-duration", "fps", "video-frames")
_ENDING = "_tsp_groundtruth.csv"
_NAMES = {"training": "train", "validation": "valid", "testing": "test"}
_CLIP = 16 / 15
"""Seconds of TSP's clip."""


def parse(path: Path, reading: Reading) -> Truth:
    """Read a ground-truth file with the metadata beside it (or ``reading.meta``), or a folder of such pairs.

    Raises:
        DataError: a column is missing, a number is none, a region is neither ``Action`` nor ``No action``, or a video
            is in two files.
    """
    if not path.is_dir():
        return _parse_file(path, reading)
    files = sorted(p for p in path.glob(f"*{_ENDING}") if not p.name.startswith("."))
    if not files:
        raise DataError(f"folder '{path}' holds no *{_ENDING} file; name the folder that does.")
    truth: Truth = {}
    for file in files:
        for vid, video in _parse_file(file, reading).items():
            if vid in truth:
                raise DataError(f"'{file}': video '{vid}' is in another file of '{path}' too; a video has one split.")
            truth[vid] = video
    return truth


def _parse_file(path: Path, reading: Reading) -> Truth:
    subset = split_of(path, reading.subset)
    known: dict[str, tuple[float, float]] = {}
    videos: dict[str, str] = {}
    found: dict[str, list[Segment]] = {}
    for where, row in table(path, "TSP ground-truth", _TRUTH):
        name = row["video-name"]
        videos.setdefault(row["filename"], name)
        if name not in known:
            known[name] = _length(where, row)
            found[name] = []
        if row["temporal-region-label"] not in ("Action", "No action"):
            raise DataError(f"{where}: expected the temporal-region-label 'Action' or 'No action', got "
                            f"{row['temporal-region-label'][:40]!r}.")
        background = row["temporal-region-label"] == "No action"
        if not background and not row["action-label"]:
            raise DataError(f"{where}: an Action has no action-label; name the action.")
        segment = reading.segment(row["t-start"], row["t-end"], where, label=row["action-label"] or None)
        if segment is not None and not background:
            found[name].append(segment)
    meta = reading.meta or path.with_name(path.name.removesuffix(_ENDING) + "_metadata.csv")
    every: dict[str, tuple[float, float]] = {}
    if reading.meta is not None or (meta != path and meta.is_file()):
        rows = [(where, row, row["filename"].rsplit(".", 1)[0]) for where, row in table(meta, "TSP metadata", _META)]
        if videos:  # the rows show whether files have a v_ before the name
            kept = not all(file.startswith(f"v_{name}.") for file, name in videos.items())
        else:
            kept = any(len(stem) != len("v_QOlSCBRmfWY") for *_, stem in rows)
        bare = bare_ids(stem for *_, stem in rows)
        for where, row, stem in rows:
            name = videos.get(row["filename"], stem if kept else bare[stem])
            if name in every:
                raise DataError(f"{where}: video '{name}' is there twice; leave one out.")
            every[name] = _length(where, row)
    return {name: VideoTruth(duration, tuple(found.get(name, ())), subset, fps)
            for name, (duration, fps) in (every | known).items()}


def _length(where: str, row: dict[str, str]) -> tuple[float, float]:
    whole(row["video-frames"], where, "how many video-frames there are")
    fps = above_0(row["fps"], where, "fps")
    return seconds(row["video-duration"], where, "video-duration in seconds"), fps


def write(path: Path, truth: Truth, min_background: float | None = None) -> None:
    """Write ``{train,valid,test}_tsp_groundtruth.csv`` and ``…_metadata.csv`` of each split into the folder ``path``.

    Args:
        path: a folder.
        truth: its videos need their ``fps`` (30 in the release, to which TSP re-encodes all videos).
        min_background: the shortest background, in clips of 16/15 s; by default 1 for THUMOS14's videos, else 5.

    Raises:
        DataError: a video has no fps or is of another split, or an annotation has no label.
    """
    from cuemark.clips import background  # brings a video decoder, which reading does without

    for vid, video in truth.items():
        if video.subset not in _NAMES:
            raise DataError(f"video '{vid}' is of subset '{video.subset}', which TSP's files cannot hold; they are "
                            "named by training, validation and testing.")
    youtube = all(re.fullmatch(r"[\w-]{11}", vid, re.ASCII) for vid in truth)
    if min_background is None:
        thumos = truth and all(re.fullmatch(r"video_(validation|test)_\d{7}", vid) for vid in truth)
        min_background = 1 if thumos else 5
    planned = []
    for subset, name in _NAMES.items():
        videos = {vid: v for vid, v in truth.items() if v.subset == subset}
        actions, rest, meta = [], {}, []
        for vid, video in videos.items():
            fps = rate_of(vid, video, "TSP's files")
            frames = round(video.duration * fps)
            filename = f"v_{vid}.mp4" if youtube else f"{vid}.mp4"
            tail: Sequence[object] = (video.duration, filename, fps, frames)
            meta.append((filename, video.duration, int(fps) if fps.is_integer() else fps, frames))
            kept = [s for s in video.annotations if s.label != "Ambiguous"]
            actions += [(vid, s.start, s.end, label_of(s.label, vid, "TSP's files"), *tail, "Action") for s in kept]
            gaps = background(times(kept), video.duration, min_background * _CLIP, "tsp").tolist() if kept else []
            rest[vid] = [(vid, a, b, None, *tail, "No action") for a, b in gaps]
        if videos:
            planned.append((name, actions + [row for vid in sorted(rest) for row in rest[vid]], meta))
    new_folder(path, "TSP ground truth", [f"*{_ENDING}"], [f"{name}{_ENDING}" for name, *_ in planned])
    for name, rows, meta in planned:
        write_table(path / f"{name}{_ENDING}", _TRUTH, rows)
        write_table(path / f"{name}_metadata.csv", _META, meta)


def looks(path: Path, head: str) -> Kind | None:
    """A CSV with TSP's columns, or a folder with such a file by its name."""
    if path.is_dir():
        return "truth" if any(path.glob(f"*{_ENDING}")) else None
    names = header(head)
    return "truth" if {"video-name", "t-start", "t-end", "temporal-region-label"} <= set(names) else None


FORMAT = Format(
    name="tsp",
    title="TSP ground truth (ActivityNet, THUMOS14)",
    source="Alwassel et al., TSP, ICCV Workshops 2021; github.com/HumamAlwassel/TSP",
    layout="CSV video-name,t-start,t-end,action-label,video-duration,filename,fps,video-frames,temporal-region-label "
           "with a metadata CSV beside it; seconds",
    looks=looks, parse=parse, write=write,
    traps="The split is in the file's name alone; background rows overlap actions that contain others; videos without "
          "an action are in the metadata file only.",
)
