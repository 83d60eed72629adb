"""One label for each frame: how action segmentation keeps its truth (Breakfast, 50Salads, GTEA; MS-TCN's files).

A dataset is a folder, a video a text file in it:

    groundTruth/S1_Cheese_C1.txt    a line for each frame: ``background``, ``take``, ``take``, …
    mapping.txt                     a line for each label: ``0 take``; the number is the network's
    splits/test.split1.bundle       a line for each video of a split: ``S1_Cheese_C1.txt``

Breakfast's own coarse files say the same in stretches, frames counted from 1, both included, and are read too:

    1-30 SIL
    31-150 take_cup

A result of MS-TCN and of those after it has no suffix, and the labels in its second line:

    ### Frame level recognition: ###
    background take take …

No file says how many frames make a second: **Breakfast and GTEA have 15, 50Salads 30** (MS-TCN's network sees every
second frame of 50Salads; its labels and results are of all). ``Reading.fps`` must tell it.

Rules: the path is the dataset's folder, its ``groundTruth``, another folder of such files, or one of them; a video is
called as its file without ``.txt``. ``Reading.meta`` may name a bundle: then only its videos are read, in its order,
and its name tells the subset (else it is ``Reading.subset``).
Frame ``i`` lasts from ``i / fps`` to ``(i + 1) / fps`` seconds, each run of one label is an annotation, and
**background labels are labels like any other** (``background`` in GTEA, ``SIL`` in Breakfast, ``action_start`` and
``action_end`` in 50Salads). A label that a ``mapping.txt`` beside the files lacks is refused. Predictions may also be
``.txt`` files in the layout of the truth. A stretch of a coarse file that ends before it starts is dropped.

Writing needs each video's rate. Frame ``i`` takes the label of the segment that holds its middle, ``(i + 0.5) / fps``:
of several the one that starts last, of predictions the one listed first (the log hears of it); of none, ``background``.
A blank in a label becomes ``_``. There is no place for subsets, sentences, ids and scores. Truth is written as
``groundTruth`` and ``mapping.txt``, unless the path ends in ``.txt``; predictions as MS-TCN's results.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from itertools import groupby, islice, pairwise
from pathlib import Path

import numpy as np

from cuemark.datasets.files import head_of, new_folder, write_each
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import holdable, label_of, lines, read_text, split_of
from cuemark.datasets.timeline import frames_to_seconds, rate_of
from cuemark.errors import DataError
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, replacing

_log = logging.getLogger("cuemark")

BACKGROUND = "background"
"""What a frame is called that no segment holds."""
HEADER = "### Frame level recognition: ###"
MOST = 10**8
"""Frames of the longest video that is written: 38 days at 30 a second."""
_STRETCH = re.compile(r"([0-9]{1,12})-([0-9]{1,12})\s+(\S.*)")


# ---------------------------------------------------------------------------------------------- reading


def parse(path: Path, reading: Reading) -> Truth:
    """Read label files: for each video its runs of one label, background too, and its rate.

    Raises:
        DataError: naming the file and the line of what is wrong; or no rate is told.
    """
    return {name: _video(file, reading) for name, file in _files(path, reading, results=False).items()}


def parse_predictions(path: Path, reading: Reading) -> Predictions:
    """Read results of MS-TCN, or files in the layout of the truth: segments with a label, in order of time.

    Raises:
        DataError: naming the file and the line of what is wrong; or no rate is told.
    """
    files = _files(path, reading, results=True)
    return {name: list(_video(file, reading).annotations) for name, file in files.items()}


def _files(path: Path, reading: Reading, results: bool) -> dict[str, Path]:
    """Video -> its file: of a folder every ``.txt``, and of results also what has no suffix, or their first line."""
    if not path.exists():
        raise DataError(f"'{path}' does not exist; check the path.")
    if (path / "groundTruth").is_dir():
        path = path / "groundTruth"
    if path.is_file():
        found = {_name(path.name): path}
    else:
        found = {}
        for file in sorted(path.iterdir()):
            if file.name == "mapping.txt" or file.name[0] == "." or not file.is_file():
                continue
            if file.suffix == ".txt" or (results and (file.suffix == "" or _is_result(file))):
                if other := found.get(_name(file.name)):
                    raise DataError(f"'{file}' and '{other.name}' are of one video; remove one.")
                found[_name(file.name)] = file
        if not found:
            raise DataError(f"folder '{path}' holds no file of frame labels; name the folder that does.")
    if reading.meta is None:
        return found
    chosen = {}
    for where, line in lines(reading.meta, "bundle"):
        if name := _name(line.rpartition("/")[2]):
            if name not in found:
                raise DataError(f"{where}: video '{name}' has no file in '{path}'; check which "
                                "dataset the bundle is of.")
            chosen[name] = found[name]
    return chosen


def _name(file: str) -> str:
    return file.removesuffix(".txt")


def _is_result(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(HEADER)) == HEADER.encode()


def _video(path: Path, reading: Reading) -> VideoTruth:
    if reading.fps is None:
        raise DataError(f"'{path}': frame labels do not say how many frames make a second; say so with --fps "
                        "(Breakfast and GTEA 15, 50Salads 30).")
    fps = reading.rate(f"'{path}'")
    subset = split_of(reading.meta, reading.subset) if reading.meta is not None else reading.subset
    rows = [line.strip() for line in read_text(path, "frame label").split("\n")]
    while rows and not rows[-1]:
        rows.pop()
    if not rows:
        raise DataError(f"'{path}' is empty; expected a label for each frame.")
    if rows[0] == HEADER:
        if len(rows) != 2:
            raise DataError(f"'{path}' has {len(rows)} line(s); expected two, and in the second the labels of all "
                            "frames.")
        return _runs(rows[1].split(), fps, subset)
    if path.suffix != ".txt":
        raise DataError(f"'{path}', line 1: expected '{HEADER}', got {rows[0][:40]!r}; one label a line is for .txt.")
    if _STRETCH.fullmatch(rows[0]):
        return _stretches(path, rows, fps, subset, reading)
    known = _mapping(path)
    for number, label in enumerate(rows, 1):
        if not label:
            raise DataError(f"'{path}', line {number} is blank; expected a label for each frame.")
        if known is not None and label not in known:
            raise DataError(f"'{path}', line {number}: label {label[:40]!r} is not in the mapping.txt beside it; add "
                            "it there, or mend the line.")
    return _runs(rows, fps, subset)


def _runs(labels: Sequence[str], fps: float, subset: str) -> VideoTruth:
    segments, first = [], 0
    for label, run in groupby(labels):
        last = first + len(list(run))
        segments.append(Segment(first / fps, last / fps, label))
        first = last
    return VideoTruth(first / fps, tuple(segments), subset, fps)


def _stretches(path: Path, lines: Sequence[str], fps: float, subset: str, reading: Reading) -> VideoTruth:
    segments = []
    for number, line in enumerate(lines, 1):
        where = f"'{path}', line {number}"
        row = _STRETCH.fullmatch(line)
        if row is None or int(row[1]) < 1:
            raise DataError(f"{where}: expected 'FIRST-LAST LABEL' with frames counted from 1, got {line[:40]!r}.")
        start, end = frames_to_seconds(int(row[1]), int(row[2]), fps)
        if end <= start:
            reading.note(where, f"ends before it starts: frames {row[1]} to {row[2]}", "dropped")
        elif (segment := reading.segment(start, end, where, label=row[3])) is not None:
            segments.append(segment)
    return VideoTruth(max((s.end for s in segments), default=0.0), tuple(segments), subset, fps)


def _mapping(path: Path) -> set[str] | None:
    """The labels of the ``mapping.txt`` in the file's folder or in the one above, when there is one."""
    for folder in (path.parent, path.parent.parent):
        if (mapping := folder / "mapping.txt").is_file():
            rows = (line.split(None, 1) for _, line in lines(mapping, "mapping"))
            return {row[1] for row in rows if len(row) == 2}
    return None


# ---------------------------------------------------------------------------------------------- writing


def write(path: Path, truth: Truth) -> None:
    """Write label files: ``path/groundTruth/<video>.txt`` and ``path/mapping.txt``, or the one file ``path``.

    Raises:
        DataError: a video has no rate, an annotation no label, or two labels differ in blanks alone.
    """
    frames = _paint({vid: (video, sorted(video.annotations, key=lambda s: s.start)) for vid, video in truth.items()},
                    path)

    def one(file: Path, vid: str, video: VideoTruth) -> None:
        with replacing(file) as out:
            out.writelines(f"{label}\n" for label in frames[vid])

    if path.suffix == ".txt":
        write_each(path, truth, ".txt", one)
        return
    new_folder(path / "groundTruth", "a data set of frame labels", ("*.txt",), [f"{vid}.txt" for vid in truth])
    write_each(path / "groundTruth", truth, ".txt", one)
    with replacing(path / "mapping.txt") as out:
        used = sorted({label for labels in frames.values() for label in labels})
        out.writelines(f"{i} {label}\n" for i, label in enumerate(used))


def write_predictions(path: Path, predictions: Predictions, truth: Truth) -> None:
    """Write MS-TCN's results, ``path/<video>``; lengths and rates are those of ``truth``.

    Raises:
        DataError: ``truth`` lacks a video or its rate, a prediction has no label, or two labels differ in blanks alone.
    """
    for vid in predictions:
        if vid not in truth:
            raise DataError(f"video '{vid}' has predictions and no truth, which says how many frames it has; name the "
                            "truth that has it.")
        if not vid or vid[0] == "." or vid.endswith(".txt") or re.search(r"[/\\\0]", vid):
            raise DataError(f"video '{vid}' cannot be the name of a file in '{path}'; rename it.")
    new_folder(path, "results of frame labels", ("*",), list(predictions))
    frames = _paint({vid: (truth[vid], segments[::-1]) for vid, segments in predictions.items()}, path)
    for vid, labels in frames.items():
        with replacing(path / vid) as out:
            out.write(f"{HEADER}\n{' '.join(labels)}\n")


def _paint(videos: Mapping[str, tuple[VideoTruth, Sequence[Segment]]], path: Path) -> dict[str, list[str]]:
    """The labels of all frames of each video; where segments overlap, the later one in its sequence is seen."""
    frames: dict[str, list[str]] = {}
    words: dict[str, str] = {}
    hidden = 0
    for vid, (video, segments) in videos.items():
        fps = rate_of(vid, video, "a file of frame labels")
        if not 0.5 < video.duration * fps <= MOST:
            raise DataError(f"video '{vid}' lasts {video.duration:g} s at {fps:g} frames a second, which is no "
                            "number of frames to label; mend its duration.")
        labels, seen = [BACKGROUND], np.zeros(round(video.duration * fps), np.int64)
        for s in segments:
            labels.append(_word(s, vid, words, path))
            first, last = (int(np.clip(np.ceil(t * fps - 0.5), 0, len(seen))) for t in (s.start, s.end))
            hidden += int(np.count_nonzero(seen[first:last]))
            seen[first:last] = len(labels) - 1
        frames[vid] = [labels[i] for i in seen]
    if hidden:
        _log.warning("'%s': %d frame(s) are in several segments and keep the label of one.", path, hidden)
    return frames


def _word(segment: Segment, video: str, told: dict[str, str], path: Path) -> str:
    """A segment's label without blanks; ``told``: the labels so far by what they became."""
    label = segment.label or ""
    word = holdable(re.sub(r"\s", "_", label_of(label.strip(), video, "a file of frame labels")), path)
    if told.setdefault(word, label) != label:
        raise DataError(f"labels {told[word]!r} and {label!r} would both be written {word!r}; rename one.")
    return word


# ---------------------------------------------------------------------------------------------- recognising


def looks(path: Path, head: str) -> Kind | None:
    """A text whose lines are words that mostly repeat the line before, or stretches of frames; or a folder of such."""
    if not path.is_dir():
        return _kind(head, path.suffix)
    folder = path / "groundTruth" if (path / "groundTruth").is_dir() else path
    kinds = set()
    try:
        files = (p for p in folder.iterdir() if p.suffix in ("", ".txt") and p.name[0] != "." and p.is_file())
        for file in islice((p for p in files if p.name != "mapping.txt"), 3):
            kinds.add(_kind(head_of(file), file.suffix))
    except OSError:
        return None
    return kinds.pop() if len(kinds) == 1 else None


def _kind(head: str, suffix: str) -> Kind | None:
    if suffix not in ("", ".txt"):
        return None
    if head.startswith(HEADER):
        return "predictions"
    lines = [line.strip() for line in head.lstrip("\ufeff").split("\n")]
    lines = lines[:-1][:200] if len(lines) > 1 else lines  # the last may be cut
    if lines and all(_STRETCH.fullmatch(line) for line in lines):
        return "truth"
    if len(lines) < 4 or not all(re.fullmatch(r"[^\W\d][^\s,;:{}<>\[\]\"]*", line) for line in lines):
        return None
    return "truth" if 2 * sum(a == b for a, b in pairwise(lines)) >= len(lines) else None


FORMAT = Format(
    name="frame-labels",
    title="Frame labels (Breakfast, 50Salads, GTEA as MS-TCN keeps them)",
    source="Kuehne et al., Breakfast, CVPR 2014; Stein and McKenna, 50 Salads, UbiComp 2013; Fathi et al., GTEA, CVPR "
           "2011; layout: Abu Farha and Gall, MS-TCN, CVPR 2019",
    layout="folder groundTruth/VIDEO.txt, a label a line for each frame (or 'FIRST-LAST LABEL'), mapping.txt; "
           "predictions: a file VIDEO with the labels in line 2; frames",
    looks=looks, parse=parse, write=write, parse_predictions=parse_predictions, write_predictions=write_predictions,
    traps="Needs --fps: Breakfast and GTEA 15, 50Salads 30. Background is a label here and counts in frame accuracy; "
          "which labels are background is up to the metric. 50Salads' labels are not the original ones: frames are cut "
          "from the end, and pauses inside belong to the action before.",
    several=False,
)
