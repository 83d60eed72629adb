"""ActivityNet as BMN, G-TAD, STALE and MMAction2 train on it: a JSON of the videos and a CSV of their splits.

    anet_anno_action.json
        {"v_QOlSCBRmfWY": {"duration_second": 82.73, "duration_frame": 2067, "feature_frame": 2064,
            "annotations": [{"segment": [6.195294851794072, 77.73085420904837], "label": "Ballet"}]}}
    video_info_new.csv
        video,numFrame,seconds,fps,rfps,subset,featureFrame
        v_QOlSCBRmfWY,2067,82.73,25.0,24.9848906080,training,2064

Seconds. Either file or their folder may be named; the other one is ``reading.meta`` or lies beside it. The split is in
the CSV alone: without one (MMAction2 has ``anet_anno_train.json`` and ``anet_anno_val.json`` instead) it is the one
that the file's name tells. Ids lose their ``v_`` on reading when all have it, and have it again when written.

Rules: a video of the CSV that the JSON lacks is an error; one of the JSON that the CSV lacks is dropped and noted, as
the trainers never see it; a segment that ends before it starts is dropped; times beyond the video are kept. The rate
of a video is its frames over its seconds, what the CSV calls ``rfps``; ``fps`` there is what the video's header claims,
which is off by more than 0.1 for 2,621 of the 19,228, and is not kept.

Traps: of ActivityNet's 19,994 videos 19,228 are left (9,649 training, 4,728 validation, 4,851 testing), those whose
TSN features were computed, and papers compare over 4,728 or 4,926 validation videos. BMN maps features to time by
``feature_frame / duration_frame * duration_second``, "corrected seconds", which is a trainer's business and not kept:
on writing ``feature_frame`` is the frames that 16-frame snippets cover, as in two thirds of the real file. Its
``action_name.csv`` has the classes in an order that is not alphabetical. 12 annotations have zero length, 11 videos
have several labels.

Source: Lin et al., *BMN*, ICCV 2019 (github.com/JJBOY/BMN-Boundary-Matching-Network, data/activitynet_annotations).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cuemark.datasets.files import bare_ids, new_folder
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import (
    above_0,
    header,
    label_of,
    labelled,
    number,
    seconds,
    split,
    split_of,
    table,
    write_table,
)
from cuemark.datasets.timeline import rate_of
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth, read_json, write_json

_JSON, _CSV = "anet_anno_action.json", "video_info_new.csv"
_COLUMNS = ("video", "numFrame", "seconds", "fps", "rfps", "subset", "featureFrame")
_WHAT = "BMN annotation"


def parse(path: Path, reading: Reading) -> Truth:
    """Read the two files: ``path`` is one of them, or their folder.

    Raises:
        DataError: the JSON is not there or is no such file, or the CSV names a video that it lacks.
    """
    annotations, info = _files(path, reading)
    data = read_json(annotations, _WHAT, unique=True)
    if not isinstance(data, dict):
        raise DataError(f"'{annotations}' is not a {_WHAT} file; expected an object with one entry per video.")
    ids = bare_ids(data)
    videos = {name: _video(entry, f"'{annotations}', video '{name}'", reading) for name, entry in data.items()}
    subsets: dict[str, str] = {}
    rates: dict[str, float] = {}
    if info is None:
        subsets = dict.fromkeys(videos, split_of(annotations, reading.subset))
    else:
        for where, row in table(info, "BMN video", ("video", "subset")):
            if row["video"] not in videos:
                raise DataError(f"{where}: video '{row['video']}' has no entry in '{annotations}'; add one.")
            if row["video"] in subsets:
                raise DataError(f"{where}: video '{row['video']}' is there twice; leave one out.")
            subsets[row["video"]] = split(row["subset"])
            if row.get("rfps"):
                rates[row["video"]] = above_0(row["rfps"], where, "rfps")
        for name in videos:
            if name not in subsets:
                reading.note(f"'{annotations}', video '{name}'", f"is not in '{info}'", "dropped")
    return {ids[name]: VideoTruth(duration, tuple(found), subset, rates.get(name, fps))
            for name, subset in subsets.items() for duration, found, fps in (videos[name],)}


def _files(path: Path, reading: Reading) -> tuple[Path, Path | None]:
    """The JSON and the CSV, where there is one."""
    if path.is_dir():
        first, second = _beside(path, _JSON, "anet_anno*.json"), reading.meta or _beside(path, _CSV, "video_info*.csv")
    elif path.suffix.lower() == ".csv":
        first, second = reading.meta or _beside(path.parent, _JSON, "anet_anno*.json"), path
    else:
        first, second = path, reading.meta or _beside(path.parent, _CSV, "video_info*.csv")
    if first is None:
        raise DataError(f"no anet_anno*.json file lies with '{path}', and the annotations are in it; say where it is "
                        "with --meta.")
    return first, second


def _beside(folder: Path, name: str, pattern: str) -> Path | None:
    if (folder / name).is_file():
        return folder / name
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        raise DataError(f"'{folder}' has {len(found)} files {pattern}; say which one with --meta.")
    return found[0] if found else None


def _video(entry: Any, where: str, reading: Reading) -> tuple[float, list[Segment], float | None]:
    """Seconds, annotations and frames a second of one entry."""
    if not isinstance(entry, dict) or not isinstance(entry.get("annotations"), list):
        raise DataError(f'{where}: expected an object with "duration_second", "duration_frame" and a list of '
                        '"annotations".')
    duration = seconds(entry.get("duration_second"), where, '"duration_second", a number of seconds')
    frames = number(entry.get("duration_frame"), where, '"duration_frame", a number of frames')
    found = []
    for i, item in enumerate(entry["annotations"]):
        at = f"{where}, annotation {i}"
        start, end, label = labelled(item, at)
        segment = reading.segment(start, end, at, label=label)
        if segment is not None:
            found.append(segment)
    return duration, found, frames / duration if duration > 0 and frames > 0 else None


def write(path: Path, truth: Truth) -> None:
    """Write ``anet_anno_action.json`` and ``video_info_new.csv`` into the folder ``path``.

    Raises:
        DataError: a video has no fps, or an annotation no label.
    """
    new_folder(path, "BMN's annotations")
    data, rows = {}, []
    for vid, video in truth.items():
        fps = rate_of(vid, video, "BMN's files")
        frames = round(video.duration * fps)
        data[f"v_{vid}"] = {
            "duration_second": video.duration, "duration_frame": frames,
            "annotations": [{"segment": [s.start, s.end], "label": label_of(s.label, vid, "BMN's files")}
                            for s in video.annotations],
            "feature_frame": frames // 16 * 16,
        }
        rows.append((f"v_{vid}", frames, video.duration, fps, fps, video.subset, frames // 16 * 16))
    write_json(path / _JSON, data)
    write_table(path / _CSV, _COLUMNS, rows)


def looks(path: Path, head: str) -> Kind | None:
    """The JSON by its keys, the CSV by its columns, their folder by the JSON's name."""
    if path.is_dir():
        return "truth" if (path / _JSON).is_file() else None
    if '"duration_second"' in head and '"duration_frame"' in head and head.lstrip("\ufeff \t\r\n").startswith("{"):
        return "truth"
    return "truth" if {"video", "numFrame", "seconds", "subset"} <= set(header(head)) else None


FORMAT = Format(
    name="bmn",
    title="ActivityNet as BMN and G-TAD have it",
    source="Lin et al., BMN, ICCV 2019; github.com/JJBOY/BMN-Boundary-Matching-Network",
    layout='JSON {"v_id": {"duration_second", "duration_frame", "feature_frame", "annotations": [{"segment", '
           '"label"}]}} and CSV video,numFrame,seconds,fps,rfps,subset,featureFrame; seconds',
    looks=looks, parse=parse, write=write,
    traps="The split is in the CSV alone; 4,728 of 4,926 validation videos are left; BMN's own time runs by "
          "feature_frame / duration_frame.",
)
