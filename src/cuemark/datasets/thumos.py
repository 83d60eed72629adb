"""THUMOS14's temporal annotations: the official text files, two CSV files made from them, and official detections.

``thumos``, the official folder: one file per class, ``{class}_val.txt`` and ``{class}_test.txt``, 20 classes and
``Ambiguous``; video, start and end in seconds:

    BaseballPitch_val.txt       video_validation_0000266  72.8 76.4
    Ambiguous_test.txt          video_test_0000278  0.0 1.4
    th14_test_durations.txt     video_test_0000764.mp4        (not official: a line with a path, a line with seconds)
                                51.328000

``thumos-gtad``, G-TAD's and P-GCN's ``{val,test}_Annotation.csv``; the class has its number among UCF101's 101 (1 to
101, ``Ambiguous`` 0), frames are rounded down from a rate that the file does not tell:

    video,type,type_idx,start,end,startFrame,endFrame
    video_test_0000004,CricketBowling,23,0.2,1.1,6,33

``thumos-groundtruth``, the CSV of TURN's line of work; the class counts from 0 in the alphabet of the 20, ``Ambiguous``
is -1:

    video-name,t-init,t-end,f-init,f-end,video-duration,frame-rate,video-frames,label-idx
    video_test_0000278,0.0,1.4,0,42,215.166667,30.0,6455,-1

``thumos-detections``, what ``TH14evalDet`` reads: video, start, end, the class's number among the 101, confidence:

    video_test_0000004 0.2 1.1 23 0.87

Rules, for all: seconds count, frames are passed over; an annotation that ends before it starts is dropped and noted
(there is none in the official files); times beyond the video are kept as written; ``Ambiguous`` is an annotation like
any other, of which each metric says what it does with it. A video's split is the one in its name
(``video_validation_…``: ``validation``, ``video_test_…``: ``testing``), else that of the file. Lengths: those of
``reading.durations``, else of ``th14_*_durations.txt`` (``reading.meta``, or beside the files), else the last
annotation.

What they cannot hold: scores, sentences, ids, videos without annotations; all but ``thumos-groundtruth`` no rate (it
is needed to write the frames of ``thumos-gtad``). On writing, ``training`` counts as ``val``, as everyone trains on
the validation videos; the text files get all the digits that a time has (the official ones have one decimal).

Traps: 200 validation videos with 3,007 annotations and 89 ``Ambiguous``, 213 test videos with 3,358 and 99.
``video_test_0001292`` has none but ``Ambiguous``; ``video_test_0000270`` has annotations to 713.7 s in a video of
176 s; the files of those who evaluate with ActivityNet's code (:mod:`cuemark.datasets.activitynet`,
``thumos_gt.json``) lack these two and ``video_test_0001496``. Every CliffDiving is there a second time as Diving.
G-TAD trains on ``Ambiguous`` as if it were a class. Rates differ: 196 test videos have 30 frames a second, 11 have
29.97, 5 have 25, one has 24.

Sources: Jiang et al., *THUMOS Challenge 2014*, crcv.ucf.edu/THUMOS14; github.com/frostinassiky/gtad;
github.com/jiyanggao/TURN-TAP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cuemark.datasets.files import new_folder
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import (
    above_0,
    header,
    holdable,
    label_of,
    lines,
    number,
    seconds,
    split_of,
    table,
    whole,
    write_table,
    write_text,
)
from cuemark.datasets.timeline import rate_of
from cuemark.errors import DataError
from cuemark.segments import Predictions, Segment, Truth, VideoTruth

AMBIGUOUS = "Ambiguous"
"""The label of stretches that the annotators could not decide about."""

CLASS_IDS = {
    "BaseballPitch": 7, "BasketballDunk": 9, "Billiards": 12, "CleanAndJerk": 21, "CliffDiving": 22,
    "CricketBowling": 23, "CricketShot": 24, "Diving": 26, "FrisbeeCatch": 31, "GolfSwing": 33, "HammerThrow": 36,
    "HighJump": 40, "JavelinThrow": 45, "LongJump": 51, "PoleVault": 68, "Shotput": 79, "SoccerPenalty": 85,
    "TennisSwing": 92, "ThrowDiscus": 93, "VolleyballSpiking": 97,
}
"""The 20 classes of the detection task, in alphabetical order -> their number among UCF101's 101."""

_LABELS = {number: name for name, number in CLASS_IDS.items()}
_FILE = re.compile(r"(?P<label>.+)_(?P<split>val|test)\.txt", re.DOTALL)
_SUFFIXES = {"training": "val", "validation": "val", "testing": "test"}
_VIDEO = r"video_(?:validation|test)_\d{7}"


def _subset(video: str, otherwise: str) -> str:
    """The split that a video's name tells."""
    if video.startswith("video_validation_"):
        return "validation"
    return "testing" if video.startswith("video_test_") else otherwise


# ---------------------------------------------------------------------------------------------- text files


def parse(path: Path, reading: Reading) -> Truth:
    """Read the official text files: a folder of them, of folders of them (as unpacked), or a single one.

    Raises:
        DataError: there is no such file, a line is not video, start and end, or the durations are malformed.
    """
    if path.is_dir():
        files = [p for depth in ("*", "*/*", "*/*/*", "*/*/*/*") for p in sorted(path.glob(f"{depth}.txt"))]
    elif path.is_file():
        files = [path]
    else:
        raise DataError(f"'{path}' does not exist; name the folder of THUMOS14's text files.")
    named = [(match["label"], split_of(Path(match["split"]), reading.subset), file)
             for file in files if (match := _FILE.fullmatch(file.name)) and not file.name.startswith(".")]
    if not named:
        raise DataError(f"'{path}' holds no file such as 'BaseballPitch_val.txt' or 'BaseballPitch_test.txt'; name the "
                        "folder of THUMOS14's text files.")
    return parse_classes(sorted(named), path if path.is_dir() else path.parent, reading)


def parse_classes(files: Iterable[tuple[str, str, Path]], folder: Path, reading: Reading) -> Truth:
    """Read files of ``video start end`` lines, one class each.

    Args:
        files: of each its label, the split of videos whose name tells none, and its path.
        folder: where to look for the videos' durations.
        reading: see the module.
    """
    found: dict[str, list[Segment]] = {}
    subsets: dict[str, str] = {}
    for label, split, file in files:
        for where, line in lines(file, "THUMOS14 annotation"):
            parts = line.split()
            if len(parts) != 3:
                raise DataError(f"{where}: expected a video, a start and an end in seconds, got {line[:60]!r}.")
            video, start, end = parts
            subsets.setdefault(video, _subset(video, split))
            segment = reading.segment(start, end, where, label=label)
            found.setdefault(video, []).extend([segment] if segment is not None else [])
    return _truth(found, subsets, folder, reading)


def _truth(found: dict[str, list[Segment]], subsets: dict[str, str], folder: Path, reading: Reading) -> Truth:
    known = durations(folder, reading)
    return {video: VideoTruth(known.get(video, reading.length(video, segments)), tuple(segments), subsets[video])
            for video, segments in found.items()}


def durations(folder: Path, reading: Reading) -> dict[str, float]:
    """Seconds of videos: ``reading.durations`` before ``reading.meta`` (such a file), else those beside ``folder``.

    Raises:
        DataError: a file does not alternate between paths and seconds.
    """
    files = [reading.meta] if reading.meta is not None else [
        p for place in (folder, folder.parent) for p in sorted(place.glob("th14_*durations.txt"))]
    found: dict[str, float] = {}
    for file in files:
        rows = list(lines(file, "durations"))
        if len(rows) % 2:
            raise DataError(f"'{file}' has {len(rows)} lines; expected a line with a video and one with its seconds, "
                            "in turn.")
        for (_, video), (where, value) in zip(rows[::2], rows[1::2]):
            found.setdefault(Path(video).stem, seconds(value, where))
    return found | {video: float(value) for video, value in reading.durations.items()}


def write(path: Path, truth: Truth) -> None:
    """Write ``{label}_{val,test}.txt`` and ``th14_{val,test}_durations.txt`` into the folder ``path``.

    Raises:
        DataError: a video is of another split or its name has blanks or slashes, an annotation has no label or one
            that cannot be a file's name, or the folder holds such files of other labels.
    """
    texts: dict[str, list[str]] = {}
    for vid, video in truth.items():
        if video.subset not in _SUFFIXES:
            raise DataError(f"video '{vid}' is of subset '{video.subset}', which THUMOS14's files cannot hold; they "
                            "are named by validation and testing.")
        suffix = _SUFFIXES[video.subset]
        _plain(vid, path)
        for s in video.annotations:
            label = holdable(label_of(s.label, vid, "THUMOS14's files"), path)
            if "/" in label or "\\" in label or label.startswith(".") or len(label.encode()) > 200:
                raise DataError(f"label '{label}' cannot be the name of a file in '{path}'; rename it.")
            texts.setdefault(f"{label}_{suffix}.txt", []).append(f"{vid}  {s.start!r} {s.end!r}")
        if video.annotations:
            texts.setdefault(f"th14_{suffix}_durations.txt", []).extend([f"{vid}.mp4", repr(video.duration)])
    new_folder(path, "THUMOS14's annotations", ["*_val.txt", "*_test.txt", "th14_*durations.txt"], list(texts))
    for name, rows in texts.items():
        write_text(path / name, "\n".join(rows) + "\n")


def _plain(vid: str, path: Path) -> None:
    """Make sure that a video's name can stand in a line and be that of a file."""
    if not vid or vid.split() != [vid] or Path(f"{vid}.mp4").stem != vid:
        raise DataError(f"video '{vid}' has blanks or slashes in its name, which '{path}' cannot hold; rename it.")
    holdable(vid, path)


def looks(path: Path, head: str) -> Kind | None:
    """A class's file by its name and first line, or a folder with the file of a known class in it."""
    if path.is_dir():
        names = [f"{label}_{split}.txt" for label in (*CLASS_IDS, AMBIGUOUS) for split in ("val", "test")]
        return "truth" if any(p.name in names for depth in ("*", "*/*") for p in path.glob(f"{depth}_*.txt")) else None
    match = _FILE.fullmatch(path.name)
    known = match is not None and match["label"] in (*CLASS_IDS, AMBIGUOUS)
    return "truth" if known and re.match(r"\S+[ \t]+[\d.]+[ \t]+[\d.]+\s", head.lstrip("\ufeff \t\r\n")) else None


# ---------------------------------------------------------------------------------------------- G-TAD's CSV

_GTAD = ("video", "type", "type_idx", "start", "end", "startFrame", "endFrame")


def parse_gtad(path: Path, reading: Reading) -> Truth:
    """Read G-TAD's CSV; the class is its ``type``.

    Raises:
        DataError: a column is missing, or a time is no number.
    """
    found: dict[str, list[Segment]] = {}
    subsets: dict[str, str] = {}
    for where, row in table(path, "G-TAD annotation", _GTAD):
        video = row["video"]
        subsets.setdefault(video, _subset(video, split_of(path, reading.subset)))
        segment = reading.segment(row["start"], row["end"], where, label=row["type"] or None)
        found.setdefault(video, []).extend([segment] if segment is not None else [])
    return _truth(found, subsets, path.parent, reading)


def write_gtad(path: Path, truth: Truth) -> None:
    """Write G-TAD's CSV.

    Raises:
        DataError: a label is not one of THUMOS14's, or a video has no fps.
    """
    rows = []
    for vid, video in truth.items():
        for s in video.annotations:
            fps = rate_of(vid, video, "G-TAD's file")
            class_id = 0 if s.label == AMBIGUOUS else _class_id(s.label, vid)
            rows.append((vid, s.label, class_id, s.start, s.end, round(s.start * fps), round(s.end * fps)))
    write_table(path, _GTAD, rows)


def _class_id(label: str | None, vid: str) -> int:
    if label not in CLASS_IDS:
        raise DataError(f"video '{vid}' has the label {label!r}, which has no number among THUMOS14's 20 classes; "
                        "rename it or leave it out.")
    return CLASS_IDS[label]


def looks_gtad(path: Path, head: str) -> Kind | None:
    """A CSV with G-TAD's columns."""
    return "truth" if set(_GTAD) <= set(header(head)) else None


# ---------------------------------------------------------------------------------------------- TURN's CSV

_TURN = ("video-name", "t-init", "t-end", "f-init", "f-end", "video-duration", "frame-rate", "video-frames",
         "label-idx")
_INDICES = {-1: AMBIGUOUS} | dict(enumerate(CLASS_IDS))


def parse_groundtruth(path: Path, reading: Reading) -> Truth:
    """Read TURN's CSV, with the videos' lengths and rates.

    Raises:
        DataError: a column is missing, a number is none, or a class is not one from -1 to 19.
    """
    found: dict[str, list[Segment]] = {}
    known: dict[str, tuple[float, float]] = {}
    for where, row in table(path, "THUMOS14 ground-truth", _TURN):
        index = whole(row["label-idx"], where, "a label-idx from -1 (Ambiguous) to 19")
        if index not in _INDICES:
            raise DataError(f"{where}: expected a label-idx from -1 (Ambiguous) to 19, got {index}.")
        rate = above_0(row["frame-rate"], where, "a frame-rate")
        known.setdefault(row["video-name"], (seconds(row["video-duration"], where), rate))
        segment = reading.segment(row["t-init"], row["t-end"], where, label=_INDICES[index])
        found.setdefault(row["video-name"], []).extend([segment] if segment is not None else [])
    otherwise = split_of(path, reading.subset)
    return {video: VideoTruth(known[video][0], tuple(segments), _subset(video, otherwise), known[video][1])
            for video, segments in found.items()}


def write_groundtruth(path: Path, truth: Truth) -> None:
    """Write TURN's CSV, videos in the order of the truth.

    Raises:
        DataError: a label is not one of THUMOS14's, or a video has no fps.
    """
    numbers = {label: index for index, label in _INDICES.items()}
    rows = []
    for vid, video in truth.items():
        for s in video.annotations:
            fps = rate_of(vid, video, "THUMOS14's ground truth")
            if s.label != AMBIGUOUS:
                _class_id(s.label, vid)
            rows.append((vid, s.start, s.end, round(s.start * fps), round(s.end * fps), video.duration, fps,
                         round(video.duration * fps), numbers[str(s.label)]))
    write_table(path, _TURN, rows)


def looks_groundtruth(path: Path, head: str) -> Kind | None:
    """A CSV with TURN's columns."""
    return "truth" if set(_TURN) <= set(header(head)) else None


# ---------------------------------------------------------------------------------------------- detections


def parse_detections(path: Path, reading: Reading) -> Predictions:
    """Read official detections, in the order of the file, by which the evaluator breaks ties.

    Raises:
        DataError: a line is not video, start, end, class and confidence, or the class is none of the 20.
    """
    found: Predictions = {}
    for where, line in lines(path, "THUMOS14 detection"):
        parts = line.split()
        if len(parts) != 5:
            raise DataError(f"{where}: expected a video, a start and an end in seconds, a class and a confidence, got "
                            f"{line[:60]!r}.")
        video, start, end, class_id, score = parts
        known = whole(class_id, where, "a class's number")
        if known not in _LABELS:
            raise DataError(f"{where}: class {known} is not in the detection task; its 20 classes have UCF101's "
                            f"numbers, {', '.join(map(str, sorted(_LABELS)))}.")
        segment = reading.segment(start, end, where, label=_LABELS[known],
                                  score=number(score, where, "a confidence"))
        found.setdefault(video, []).extend([segment] if segment is not None else [])
    return found


def write_detections(path: Path, predictions: Predictions, truth: Truth) -> None:
    """Write official detections.

    Raises:
        DataError: a prediction has no score, or its label is none of THUMOS14's 20.
    """
    rows = []
    for vid, segments in predictions.items():
        _plain(vid, path)
        for s in segments:
            if s.score is None or s.score != s.score:
                raise DataError(f"video '{vid}' has a prediction without a score, and THUMOS14's file needs one; give "
                                "it one.")
            rows.append(f"{vid} {s.start!r} {s.end!r} {_class_id(s.label, vid)} {s.score!r}\n")
    write_text(path, "".join(rows))


def looks_detections(path: Path, head: str) -> Kind | None:
    """Lines of a THUMOS14 video, three numbers, of which the third is a class of the 20, and a fourth."""
    match = re.match(rf"{_VIDEO}[ \t]+\S+[ \t]+\S+[ \t]+(\d+)[ \t]+-?[\d.]+", head.lstrip("\ufeff \t\r\n"))
    return "predictions" if match and int(match[1]) in _LABELS else None


FORMATS = (
    Format(
        name="thumos",
        title="THUMOS14 text files",
        source="THUMOS Challenge 2014; crcv.ucf.edu/THUMOS14",
        layout="folder of {class}_{val,test}.txt with lines 'video start end'; seconds",
        looks=looks, parse=parse, write=write,
        traps="Ambiguous is a file like the others; lengths are in another file; CliffDiving is in Diving too.",
    ),
    Format(
        name="thumos-gtad",
        title="THUMOS14 as G-TAD has it",
        source="github.com/frostinassiky/gtad",
        layout="CSV video,type,type_idx,start,end,startFrame,endFrame; seconds, and frames of an untold rate",
        looks=looks_gtad, parse=parse_gtad, write=write_gtad,
        traps="Ambiguous (type_idx 0) is among the rows; type_idx is the number among UCF101's 101 classes.",
    ),
    Format(
        name="thumos-groundtruth",
        title="THUMOS14 as TURN has it",
        source="github.com/jiyanggao/TURN-TAP; github.com/frostinassiky/gtad",
        layout="CSV video-name,t-init,t-end,f-init,f-end,video-duration,frame-rate,video-frames,label-idx; seconds",
        looks=looks_groundtruth, parse=parse_groundtruth, write=write_groundtruth,
        traps="label-idx counts from 0 in the alphabet of the 20 classes; -1 is Ambiguous.",
    ),
    Format(
        name="thumos-detections",
        title="THUMOS14 detections (TH14evalDet)",
        source="THUMOS Challenge 2014 evaluation toolkit",
        layout="text lines 'video start end class confidence'; seconds, class among UCF101's 101",
        looks=looks_detections, parse_predictions=parse_detections, write_predictions=write_detections,
        traps="Classes are numbered as in UCF101, 7 to 97, not from 1 to 20.",
    ),
)
