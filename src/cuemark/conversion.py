"""Annotation files as a whole: which format one has, reading it, writing it in another, and what is wrong with it.

Formats are in :data:`cuemark.datasets.FORMATS`; this module only asks them.

Truth and predictions. A format with a layout of its own for predictions reads and writes them as such. Everywhere else
predictions are segments with a ``score``: a table with a score column is both, the predictions and, as their videos'
annotations, a truth. So predictions can be written in any format: where the target has no layout for them they become
the annotations of their videos, score and all. Not the other way: a truth has no scores, and inventing them would make
a result that nobody predicted.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cuemark.datasets import FORMATS
from cuemark.datasets.format import Format, Kind, Problem, Reading, rounded
from cuemark.errors import CallError, CuemarkError, DataError, VideoError, unknown
from cuemark.segments import Predictions, Segment, Truth, VideoTruth

_log = logging.getLogger("cuemark")

HEAD = 1 << 16
"""Bytes of a file that formats get to look at."""
CLOSE = 1e-6
"""Seconds that are no difference."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """What a file or folder holds."""

    format: Format
    kind: Kind
    truth: Truth | None
    """None for predictions in a layout of their own."""
    predictions: Predictions | None
    """None for a truth."""
    problems: tuple[Problem, ...]
    """What its reader dropped, clipped or found strange."""
    guessed: bool
    """Whether the format was recognised, not named."""

    def losses(self, path: str | Path) -> list[str]:
        """What the reader of ``path`` dropped and what it clipped: a line for each, with how many and the first."""
        found = {done: [p for p in self.problems if p.done == done] for done in ("dropped", "clipped")}
        return [f"'{path}': {len(some)} {done}, the first: {_inside(some[0].where, path)}: {some[0].what}"
                for done, some in found.items() if some]


def _inside(where: str, path: str | Path) -> str:
    """A place in a file whose name is said already."""
    return where.removeprefix(f"'{path}', ")


# ---------------------------------------------------------------------------------------------- reading


def guess(path: str | Path) -> tuple[Format, Kind]:
    """Which format a file or folder has, by what is in it.

    Raises:
        DataError: it does not exist, no format recognises it, or several do.
    """
    path = Path(path)
    found = recognised(path)
    if not found:
        if not (any(path.iterdir()) if path.is_dir() else path.stat().st_size):
            raise DataError(f"{'folder ' if path.is_dir() else ''}'{path}' is empty; check the path.")
        raise DataError(f"'{path}' is in no format that is known by its content; if it is in one, cuemark convert and "
                        f"check take its name as --from: {', '.join(sorted(FORMATS))}.")
    if len(found) > 1:
        raise DataError(f"'{path}' could be {' or '.join(form.name for form, _ in found)}; say which with --from.")
    return found[0]


def recognised(path: Path) -> list[tuple[Format, Kind]]:
    """The formats that claim a path, and as what.

    Raises:
        DataError: it does not exist or cannot be read.
    """
    head = _head(path)
    kinds = ((form, form.looks(path, head)) for form in FORMATS.values())
    return [(form, kind) for form, kind in kinds if kind is not None]


def _head(path: Path) -> str:
    if path.is_dir():
        return ""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD).decode("utf-8", "replace")
    except FileNotFoundError:
        raise DataError(f"'{path}' does not exist; check the path.") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}; check the path.") from None


def _named(name: str) -> Format:
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


def read(path: str | Path, name: str | None = None, reading: Reading | None = None) -> Annotations:
    """Read a file or folder in any format.

    Args:
        name: its format; None: recognise it.
        reading: what the file does not tell (frame rate, lengths …); its ``problems`` grow.

    Raises:
        CallError: no format has this name, or the reading's fps is not above 0.
        DataError: the file is not recognised, or is malformed: naming file and line or key.
    """
    path, reading = Path(path), reading if reading is not None else Reading()
    if reading.fps is not None and not 0 < reading.fps < math.inf:
        raise CallError(f"fps must be a number above 0, got {reading.fps}.")
    if name is None:
        form, kind = guess(path)
    else:
        form = _named(name)
        claims = recognised(path)  # where it does not know its own, one of its kin may tell the kind
        kind = next((kind for claimed, kind in [*(c for c in claims if c[0] is form), *claims]), "truth")
    before = len(reading.problems)
    truth, predictions = None, None
    if form.parse_predictions is not None and (kind == "predictions" or form.parse is None):
        kind, predictions = "predictions", form.parse_predictions(path, reading)
    elif form.parse is not None:
        truth = form.parse(path, reading)
        if kind == "predictions":
            predictions = {vid: list(video.annotations) for vid, video in truth.items()}
    else:
        raise CallError(f"format {form.name} can only be written; '{path}' must be in another.")
    return Annotations(form, kind, truth, predictions, tuple(reading.problems[before:]), name is None)


def _noted(source: Any, format: str | None, fps: float | None, notes: list[str] | None) -> Annotations:
    found = read(Path(source), format, Reading(fps=fps))
    for line in found.losses(source):
        if notes is None:
            _log.warning("%s.", line)
        elif f"{line}." not in notes:
            notes.append(f"{line}.")
    return found


def truth_of(source: str | Path | Truth, format: str | None = None, fps: float | None = None,
             notes: list[str] | None = None) -> Truth:
    """Truth from a file in any format, or as it is.

    Args:
        format: its name; None: recognise it.
        fps: frames a second, where the file counts frames and does not say.
        notes: grows by what the reader dropped or clipped; None: that is logged.

    Raises:
        DataError: the file is malformed, is in no known format, or holds predictions.
    """
    if isinstance(source, dict):
        return source
    found = _noted(source, format, fps, notes)
    if found.truth is None:
        raise DataError(f"'{source}' holds predictions (format {found.format.name}), and truth is needed; perhaps "
                        "the two files are swapped.")
    return found.truth


def predictions_of(source: Any, format: str | None = None, fps: float | None = None, notes: list[str] | None = None
                   ) -> Predictions:
    """Predictions from a file in any format, or as they are; where a format makes no difference, its segments.

    Args:
        format, fps, notes: as :func:`truth_of` has them.

    Raises:
        DataError: the file is malformed or is in no known format.
    """
    if isinstance(source, dict):
        return source
    found = _noted(source, format, fps, notes)
    if found.predictions is not None:
        return found.predictions
    assert found.truth is not None
    return {vid: list(video.annotations) for vid, video in found.truth.items()}


def _videos(found: Annotations, subset: str) -> Truth:
    """As a truth; videos of predictions in a layout of their own are as long as their last segment."""
    if found.truth is not None:
        return found.truth
    return {vid: VideoTruth(max((s.end for s in segments), default=0.0), tuple(segments), subset)
            for vid, segments in (found.predictions or {}).items()}


def _length_is_told(video: VideoTruth) -> bool:
    """Whether a video's length can be more than the end of its last segment, which stands in for an unknown one."""
    return video.duration != max((s.end for s in video.annotations), default=0.0)


# ------------------------------------------------------------------------------------------- converting


def convert(source: str | Path, out: str | Path, to: str, from_: str | None = None, reading: Reading | None = None,
            videos: str | Path | None = None, fps: float | None = None, truth: str | Path | None = None
            ) -> Annotations:
    """Write a file or folder in another format. Nothing half-written is ever seen as ``out``.

    Lengths and rates that the source does not tell come from ``truth``, else (rates) ``fps``, else ``videos``; a length
    that nothing tells is the end of the last segment.

    Args:
        source: what to read.
        out: what to write: a file (an old one is replaced), or a folder that is new or empty.
        to: the target's format.
        from_: the source's format; None: recognise it.
        reading: what the source does not tell.
        videos: folder of the videos, to be measured.
        fps: frames a second, for sources and targets that count frames.
        truth: truth of the same videos, in a format that is recognised: lengths, rates, splits and queries.

    Returns:
        What was read, with its reader's problems.

    Raises:
        CallError: no format has this name, or it cannot hold this; ``out`` is the source, or a folder that already
            holds something.
        DataError: the source is malformed, or has something that the target cannot hold.
    """
    source, out, target = Path(source), Path(out), _named(to)
    _check_out(source, out)
    reading = replace(reading, problems=[]) if reading is not None else Reading()
    if fps is not None:
        reading.fps = fps
    known: Truth = {}
    if truth is not None:
        about = read(truth, None, replace(reading, problems=[], meta=None))
        if about.truth is None:
            raise CallError(f"'{truth}' holds predictions; name the truth of their videos.")
        known = about.truth
        reading.durations = {vid: v.duration for vid, v in known.items()} | dict(reading.durations)
    found = read(source, from_, reading)
    if found.predictions is not None and target.write_predictions is not None:
        predictions, write_predictions = found.predictions, target.write_predictions
        told = _completed(_videos(found, reading.subset), known, reading, videos)
        asked = known | {vid: replace(video, annotations=known[vid].annotations if vid in known else ())
                         for vid, video in told.items()}
        _place(out, lambda path: write_predictions(path, predictions, asked))
    elif target.write is not None:
        write, told = target.write, _completed(_videos(found, reading.subset), known, reading, videos)
        _place(out, lambda path: write(path, told))
    else:
        able = ", ".join(sorted(form.name for form in FORMATS.values() if form.write is not None))
        held = "holds predictions only" if target.write_predictions is not None else "can only be read"
        what = "a truth" if found.kind == "truth" else "predictions"
        raise CallError(f"format {target.name} {held}, and '{source}' is {what}; write it as one of {able}.")
    return found


def _completed(videos: Truth, known: Truth, reading: Reading, folder: str | Path | None) -> Truth:
    """The videos with lengths, rates and splits that their file does not tell."""
    found: Truth = {}
    for vid, video in videos.items():
        other = known.get(vid)
        if other is not None:
            video = replace(video, subset=other.subset, fps=video.fps if video.fps is not None else other.fps,
                            duration=video.duration if _length_is_told(video) else other.duration)
        found[vid] = replace(video, fps=video.fps if video.fps is not None else reading.fps,
                             duration=float(reading.durations.get(vid, video.duration)))
    if folder is not None:
        lacking = [vid for vid, video in found.items() if video.fps is None or not (
            _length_is_told(video) or vid in known or vid in reading.durations)]
        measured, broken, _ = _measured(folder, lacking)
        for reason in broken.values():
            _log.warning("%s", reason)
        for vid, (duration, rate) in measured.items():
            video = found[vid]
            told = _length_is_told(video) or vid in known or vid in reading.durations
            found[vid] = replace(video, duration=video.duration if told else duration,
                                 fps=video.fps if video.fps is not None else rate)
    return found


def _measured(folder: str | Path, ids: Collection[str]
              ) -> tuple[dict[str, tuple[float, float]], dict[str, str], list[str]]:
    """Seconds and frames a second of each video file, why some cannot be measured, and the ids without a file."""
    from cuemark.video import find_videos, probe  # brings FFmpeg, which nothing else here needs

    files = find_videos(folder, ids)
    measured: dict[str, tuple[float, float]] = {}
    broken: dict[str, str] = {}
    for vid, file in files.items():
        try:
            info = probe(file)
        except VideoError as error:
            broken[vid] = str(error)
        else:
            measured[vid] = info.duration, rounded(info.fps)
    return measured, broken, [vid for vid in ids if vid not in files]


def _check_out(source: Path, out: Path) -> None:
    if out.exists() and source.exists() and out.samefile(source):
        raise CallError(f"'{out}' is the source itself; write to another path.")
    if out.is_dir() and any(out.iterdir()):
        raise CallError(f"folder '{out}' already holds something; name a new or an empty one.")


def _place(out: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file or a folder elsewhere, and put it in its place when all of it is there."""
    final = Path(os.path.abspath(out))
    final.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent))
    try:
        try:
            write(room / final.name)
        except CuemarkError as error:
            raise type(error)(str(error).replace(str(room / final.name), str(out))) from None
        made = {item: final.parent / item.name for item in sorted(room.iterdir())}
        for item, place in made.items():
            if place.is_dir() and not item.is_dir():
                raise CallError(f"'{out}' is a folder, and this format is a file; name a file.")
            if item.is_dir() and place.exists() and not place.is_dir():
                raise CallError(f"'{out}' is a file, and this format is a folder of files; name a folder.")
        for item, place in made.items():
            os.replace(item, place)
    finally:
        shutil.rmtree(room, ignore_errors=True)


# --------------------------------------------------------------------------------------------- checking


class Finding(NamedTuple):
    """Something that is wrong, or looks so."""

    kind: str
    """One of :data:`KINDS`."""
    where: str
    what: str


KINDS = {
    "dropped": "rows that the reader left out, such as one that ends before it starts",
    "clipped": "rows that the reader cut to the video",
    "kept": "what the reader found strange",
    "empty": "no annotation at all",
    "before the video": "begins before 0",
    "beyond the video": "ends after the video's end",
    "no length": "begins and ends at once",
    "duplicate": "the same video, times, label and sentence as an earlier one, such as another person's same answer",
    "overlap": "begins before an earlier one of the same class and video has ended (of truth only)",
    "unknown label": "a label that is not among those given",
    "unused label": "a label given that no annotation has",
    "no annotations": "a video without any (of truth only)",
    "missing video": "no file of this name in the videos' folder",
    "broken video": "a file that cannot be read",
    "other length": "the video file is longer or shorter than the annotations say, by more than 1 s and 2 %",
}
"""What can be found -> what it means."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """How often one label occurs."""

    label: str
    instances: int
    videos: int
    mean: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class SubsetRow:
    """How much there is of one split."""

    subset: str
    videos: int
    annotations: int
    hours: float
    """Length of its videos."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long segments are; NaN where there is none."""

    min: float
    median: float
    mean: float
    max: float


@dataclass(frozen=True, slots=True)
class Report:
    """What is in an annotation file, and what is wrong with it."""

    path: Path
    read: Annotations
    videos: int
    annotations: int
    findings: list[Finding]
    classes: list[ClassRow]
    """By label."""
    sentences: int
    """Annotations with a sentence or a query."""
    lengths: dict[str, Lengths]
    """``"seconds"``, and ``"relative"``: parts of the video's length."""
    subsets: list[SubsetRow]

    def counts(self) -> dict[str, int]:
        """Kind of finding -> how many, in the order of :data:`KINDS`."""
        counted = Counter(finding.kind for finding in self.findings)
        return {kind: counted[kind] for kind in KINDS if counted[kind]}

    def to_json(self) -> dict[str, Any]:
        """For programs; a number without meaning is null."""
        lengths = {name: {key: value if math.isfinite(value) else None for key, value in asdict(row).items()}
                   for name, row in self.lengths.items()}
        return {
            "path": str(self.path), "format": self.read.format.name, "guessed": self.read.guessed,
            "kind": self.read.kind, "videos": self.videos, "annotations": self.annotations,
            "sentences": self.sentences, "counts": self.counts(), "findings": [f._asdict() for f in self.findings],
            "lengths": lengths, "subsets": [asdict(row) for row in self.subsets],
            "classes": [asdict(row) for row in self.classes],
        }

    def tables(self, show: int = 20) -> Iterator[tuple[str, list[str], list[list[str | float]]]]:
        """Title, columns and rows of what there is to tell; at most ``show`` findings of a kind."""
        yield "Videos", ["split", "videos", "annotations", "hours"], [
            [row.subset, str(row.videos), str(row.annotations), round(row.hours, 2)] for row in self.subsets]
        if self.annotations:
            yield "Lengths", ["", "min", "median", "mean", "max"], [
                [name, *(round(v, 3) if math.isfinite(v) else "" for v in (row.min, row.median, row.mean, row.max))]
                for name, row in self.lengths.items()]
        if self.classes:
            yield "Classes", ["label", "instances", "videos", "mean seconds"], [
                [row.label, str(row.instances), str(row.videos), round(row.mean, 2)] for row in self.classes]
        for kind, count in self.counts().items():
            some = [f for f in self.findings if f.kind == kind][:show]
            rows: list[list[str | float]] = [[_inside(f.where, self.path), f.what] for f in some]
            if count > len(some):
                rows.append(["…", f"and {count - len(some)} more"])
            yield f"{kind.capitalize()}: {count} ({KINDS[kind]})", ["where", "what"], rows


def check(path: str | Path, name: str | None = None, videos: str | Path | None = None,
          labels: Collection[str] | None = None, reading: Reading | None = None) -> Report:
    """What is in an annotation file, and what is wrong with it.

    Args:
        name: its format; None: recognise it.
        videos: folder of the videos: are they all there, and as long as the file says?
        labels: the labels there may be.
        reading: what the file does not tell.

    Raises:
        CallError: no format has this name.
        DataError: the file cannot be read at all.
        VideoError: there is no such folder of videos.
    """
    reading = reading if reading is not None else Reading()
    found = read(path, name, reading)
    truth, findings = _videos(found, reading.subset), [Finding(p.done, p.where, p.what) for p in found.problems]
    measured: dict[str, tuple[float, float]] = {}
    if videos is not None:
        measured, broken, missing = _measured(videos, truth)
        findings += [Finding("missing video", f"video '{vid}'", f"no file of this name in '{videos}'")
                     for vid in missing]
        findings += [Finding("broken video", f"video '{vid}'", reason) for vid, reason in broken.items()]
        findings += _other_lengths(truth, measured, found.truth is not None)
    if not any(video.annotations for video in truth.values()):
        findings.append(Finding("empty", f"'{path}'", "holds no annotation"))
    for vid, video in truth.items():
        told = found.truth is not None and _length_is_told(video)
        length = video.duration if told else measured[vid][0] if vid in measured else math.inf
        findings += _wrong(vid, video, length, found.kind, found.format.repeats)
    if labels is not None:
        findings += _strange_labels(truth, labels)
    order = list(KINDS)
    findings.sort(key=lambda finding: order.index(finding.kind))  # within a kind as they were found
    return _summary(Path(path), found, truth, findings)


def _wrong(vid: str, video: VideoTruth, length: float, kind: Kind, repeats: bool) -> Iterator[Finding]:
    """What is wrong with the segments of one video that lasts ``length`` seconds."""
    if not video.annotations and kind == "truth":
        yield Finding("no annotations", f"video '{vid}'", f"{video.duration:g} s without any")
    seen: dict[Any, int] = {}
    alone: list[tuple[str, float, float, int]] = []
    for i, s in enumerate(video.annotations):
        where = f"video '{vid}', annotation {i}"
        if s.start < -CLOSE:
            yield Finding("before the video", where, f"{_span(s)} begins before 0")
        if s.end > length + CLOSE:
            which = "begins" if s.start >= length else "ends"
            yield Finding("beyond the video", where, f"{_span(s)} {which} after the video's {length:.6g} s")
        if s.end == s.start:
            yield Finding("no length", where, f"{_span(s)}")
        first = seen.setdefault((s.start, s.end, s.label, s.sentence, s.query), i)
        if first != i and not repeats:
            yield Finding("duplicate", where, f"{_span(s)} is annotation {first} again")
        elif s.label is not None and kind == "truth":
            alone.append((s.label, s.start, s.end, i))
    alone.sort()
    for (_, _, end, i), (*_, j) in _overlapping(alone):
        yield Finding("overlap", f"video '{vid}', annotation {j}",
                      f"{_span(video.annotations[j])} begins before annotation {i} ends at {end:g}")


def _overlapping(rows: list[tuple[str, float, float, int]]
                 ) -> Iterator[tuple[tuple[str, float, float, int], tuple[str, float, float, int]]]:
    """Of rows sorted by label and start, each that begins before the end of one of its label, with that one."""
    last: tuple[str, float, float, int] | None = None
    for row in rows:
        if last is not None and last[0] == row[0]:
            if row[1] < last[2] - CLOSE:
                yield last, row
            if row[2] <= last[2]:
                continue
        last = row


def _span(segment: Segment) -> str:
    text = f"[{segment.start:g}, {segment.end:g}]"
    return text if segment.label is None else f"{text} {segment.label}"


def _other_lengths(truth: Truth, measured: Mapping[str, tuple[float, float]], told: bool) -> Iterator[Finding]:
    for vid, (real, _) in measured.items():
        video = truth[vid]
        far = abs(real - video.duration) > max(1.0, 0.02 * real)
        # a length that is the last segment's end may be nobody's claim; too long it is wrong in any case
        if told and far and (_length_is_told(video) or video.duration > real):
            yield Finding("other length", f"video '{vid}'",
                          f"the file says {video.duration:.2f} s, and the video lasts {real:.2f} s")


def _strange_labels(truth: Truth, labels: Collection[str]) -> Iterator[Finding]:
    known, counted = set(labels), Counter[str]()
    first: dict[str, str] = {}
    for vid, video in truth.items():
        for i, s in enumerate(video.annotations):
            if s.label is not None:
                counted[s.label] += 1
                first.setdefault(s.label, f"video '{vid}', annotation {i}")
    for label in counted:
        if label not in known:
            near = difflib.get_close_matches(label, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            yield Finding("unknown label", first[label], f"'{label}', {counted[label]} times{hint}")
    for label in sorted(known - set(counted)):
        yield Finding("unused label", f"'{label}'", "no annotation has it")


def _summary(path: Path, found: Annotations, truth: Truth, findings: list[Finding]) -> Report:
    seconds: dict[str, list[float]] = {}
    where: dict[str, set[str]] = {}
    subsets: dict[str, tuple[int, int, float]] = {}
    lengths, parts, sentences = [], [], 0
    for vid, video in truth.items():
        count, segments, total = subsets.get(video.subset, (0, 0, 0.0))
        subsets[video.subset] = count + 1, segments + len(video.annotations), total + video.duration
        for s in video.annotations:
            lengths.append(s.duration)
            sentences += s.sentence is not None or s.query is not None
            if video.duration > 0:
                parts.append(s.duration / video.duration)
            if s.label is not None:
                seconds.setdefault(s.label, []).append(s.duration)
                where.setdefault(s.label, set()).add(vid)
    classes = [ClassRow(label, len(seconds[label]), len(where[label]), float(np.mean(seconds[label])))
               for label in sorted(seconds)]
    return Report(
        path, found, len(truth), len(lengths), findings, classes, sentences,
        {"seconds": _lengths(lengths), "relative": _lengths(parts)},
        [SubsetRow(subset, videos, segments, total / 3600) for subset, (videos, segments, total) in subsets.items()])


def _lengths(values: list[float]) -> Lengths:
    if not values:
        return Lengths(math.nan, math.nan, math.nan, math.nan)
    array = np.array(values)
    return Lengths(float(array.min()), float(np.median(array)), float(array.mean()), float(array.max()))
