"""What we talk about: segments of videos, and the one JSON file they live in.

A :class:`Segment` is a frozen value in **seconds**. Truth and predictions are made of the same value and share
one schema, a superset of ActivityNet's (design: "One JSON schema"), so that evaluation, reports and pages need
no model:

    truth        {"version", "database": {id: {"subset", "duration", "fps"?, "annotations":
                     [{"segment": [start, end], "label"?, "label_id"?, "sentence"?, "score"?, "id"?}]}}, "taxonomy"}
    predictions  {"version", "results": {id: [{"segment", "label", "score", "query"?, "id"?}]}, "external_data"}

Rules on reading, the same everywhere: a segment with NaN or with its end before its start is refused, naming file,
video and position; zero length is kept (it exists in official truth); an end beyond the video is kept as written
(evaluators count it), and whoever cuts clips clips it. Files are written to a temporary name and renamed.
"""

from __future__ import annotations

import gc
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from cuemark.errors import DataError

SCHEMA_VERSION = "cuemark 1"
UNLABELLED = "[class-agnostic]"
"""The label a prediction carries in a file when its localizer names no class (official readers need one)."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one video: ``start`` and ``end`` in seconds, what it is, and how sure we are.

    Raises:
        ValueError: a time is NaN or infinite, or ``end < start``. Zero length is allowed.
    """

    start: float
    end: float
    label: str | None = None
    score: float | None = None
    sentence: str | None = None
    """What a person wrote about this stretch (a dense caption, a description)."""
    query: str | None = None
    """The sentence that was asked, for answers to a query."""
    id: str | None = None
    """What its file calls this annotation, or the query that it answers."""

    def __post_init__(self) -> None:
        if type(self.start) is not float or type(self.end) is not float or type(self.score) is not float:
            for name in ("start", "end", "score"):  # numpy's numbers become Python's, which JSON can write
                if (value := getattr(self, name)) is not None and type(value) is not float:
                    object.__setattr__(self, name, float(value))
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"segment times must be finite numbers of seconds, got [{self.start}, {self.end}]")
        if self.end < self.start:
            raise ValueError(f"segment ends before it starts: [{self.start}, {self.end}]")

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.end - self.start

    @property
    def middle(self) -> float:
        """Centre in seconds."""
        return (self.start + self.end) / 2

    def overlap(self, other: Segment) -> float:
        """Seconds the two share (0 when they are apart)."""
        return max(0.0, min(self.end, other.end) - max(self.start, other.start))

    def clipped(self, start: float, end: float) -> Segment | None:
        """The part inside ``[start, end]`` seconds, or None when nothing is left."""
        a, b = max(self.start, start), min(self.end, end)
        return replace(self, start=a, end=b) if b > a else None


@dataclass(frozen=True, slots=True)
class VideoTruth:
    """What is known about one video: its length, which split it belongs to, and its annotated segments."""

    duration: float
    """Seconds."""
    annotations: tuple[Segment, ...] = ()
    subset: str = "training"
    fps: float | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """One sentence asked of one video, and what answers it: the truth of a query, or a prediction for it."""

    id: str
    video: str
    query: str
    windows: tuple[Segment, ...]
    """The moments; of predictions best first, each with its ``score``."""
    duration: float | None = None
    """Seconds of the video, where it is told."""
    saliency: np.ndarray | None = None
    """How well clips answer: of truth ``(n, raters)`` for the ``n`` clips named in ``clips``; of predictions ``(T,)``
    for the video's clips in order."""
    clips: np.ndarray | None = None
    """``(n,)`` integers: which clips people rated; clip ``i`` begins at ``i * step``."""
    step: float = 2.0
    """Seconds of a clip."""


Truth = dict[str, VideoTruth]
"""Video id -> what is known about it."""
Predictions = dict[str, list[Segment]]
"""Video id -> segments, best first."""


def times(segments: Sequence[Segment]) -> np.ndarray:
    """``(n, 2)`` float64 array of starts and ends in seconds."""
    return np.array([(s.start, s.end) for s in segments], dtype=np.float64).reshape(-1, 2)


def columns(candidates: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scored segments as suppression takes them: :func:`times`, ``(n,)`` scores, ``(n,)`` integers, one a label."""
    index = {label: i for i, label in enumerate(dict.fromkeys(s.label for s in candidates))}
    return (times(candidates), np.array([s.score for s in candidates], np.float64),
            np.array([index[s.label] for s in candidates], np.int64))


def tiou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Temporal intersection over union of every pair.

    Args:
        a: ``(n, 2)`` starts and ends in seconds.
        b: ``(m, 2)`` likewise.

    Returns:
        ``(n, m)``; a pair whose union has zero length gives 0.
    """
    a, b = np.asarray(a, np.float64).reshape(-1, 2), np.asarray(b, np.float64).reshape(-1, 2)
    inter = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    inter = inter.clip(min=0)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None, :] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def labels_of(truth: Truth) -> list[str]:
    """Every label that occurs, sorted."""
    return sorted({s.label for v in truth.values() for s in v.annotations if s.label is not None})


def subset(truth: Truth, *names: str) -> Truth:
    """The videos of the named splits.

    Raises:
        DataError: no video belongs to any of them; the message lists the splits there are.
    """
    chosen = {vid: v for vid, v in truth.items() if v.subset in names}
    if not chosen:
        have = ", ".join(sorted({v.subset for v in truth.values()})) or "none"
        raise DataError(f"no video belongs to subset {' or '.join(map(repr, names))}; the truth has: {have}.")
    return chosen


# ---------------------------------------------------------------------------------------------- reading


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave the garbage collector out of a block that makes a million objects and no cycles.

    It would walk all of them again and again: reading a million predictions takes half the time without.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def read_json(path: str | Path, what: str, unique: bool = False) -> Any:
    """Parse a JSON file; every failure is a :class:`DataError` that names ``what``, the file and the place.

    ``unique`` refuses an object that has a key twice, of which only the last would be read.
    """
    path = Path(path)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if any(key == k for k, _ in pairs[:i]))
            raise DataError(f"'{path}' has the key {_short(twice)} twice in one object; a {what} file has each once.")
        return found

    try:
        with open(path, encoding="utf-8-sig") as file, uncollected():  # a byte order mark is common and means nothing
            return json.load(file, object_pairs_hook=once if unique else None)
    except FileNotFoundError:
        raise DataError(f"{what} file '{path}' does not exist; check the path.") from None
    except IsADirectoryError:
        raise DataError(f"'{path}' is a folder, not a {what} file; name the JSON file inside it.") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"'{path}' is not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            f"expected a {what} file."
        ) from None
    except (ValueError, RecursionError, OSError) as error:  # not UTF-8, absurdly long numbers, absurdly deep nesting
        raise DataError(f"'{path}' cannot be read as a {what} file: {error}.") from None


Inverted = Callable[[str, str], None]
"""Told of a segment that ends before it starts, which is then left out: file, video and position; what is wrong."""


def _segment(item: Any, where: str, inverted: Inverted | None, **fields: Any) -> Segment | None:
    """One ``{"segment": [start, end], …}`` item of a file; ``where`` names file, video and position."""
    try:
        start, end = item["segment"]
        if not isinstance(item["segment"], list):
            raise TypeError
        a, b = float(start), float(end)  # G-TAD's THUMOS file has its times as strings
        if inverted is not None and math.isfinite(a) and math.isfinite(b) and b < a:
            inverted(where, f"ends before it starts: [{a:g}, {b:g}]")
            return None
        return Segment(a, b, **fields)
    except (TypeError, KeyError):
        raise DataError(f'{where}: expected an object with "segment": [start, end], got {_short(item)}.') from None
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: {error}; mend or remove this segment.") from None


def _plain(item: Any) -> Segment | None:
    """A prediction that has nothing to mend, as nearly all have; None: look closer.

    A file may hold a million of them, and this takes a third of the time.
    """
    if type(item) is not dict or len(item) != 3:
        return None
    span, label, score = item.get("segment"), item.get("label"), item.get("score")
    if (type(span) is list and len(span) == 2 and type(span[0]) is float and type(span[1]) is float
            and span[0] <= span[1] and type(label) is str and label != UNLABELLED and type(score) is float
            and math.isfinite(span[0]) and math.isfinite(span[1])):
        return Segment(span[0], span[1], label, score)
    return None


def _short(item: Any) -> str:
    text = json.dumps(item, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def _optional(item: Mapping[str, Any], key: str, kind: Callable[[Any], Any], where: str) -> Any:
    value = item.get(key) if isinstance(item, Mapping) else None
    if value is None:
        return None
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f'{where}: "{key}" should be a {kind.__name__}, got {_short(value)}.') from None


def _items(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list of segments, got {_short(value)}.")
    return value


@uncollected()
def read_truth(path: str | Path, *, subset: str = "training", inverted: Inverted | None = None, unique: bool = False,
               length: Callable[[str, list[Segment]], float] | None = None) -> Truth:
    """Read a truth file: cuemark's, ActivityNet's, or any in that layout (ActionFormer, OpenTAD, G-TAD).

    Args:
        subset: the split of videos that name none.
        inverted: told of each segment that ends before it starts, which is left out; None: such a file is refused.
        unique: refuse a file that has a video twice, of which only the last would be read.
        length: seconds of a video that does not tell, from its id and its segments; None: the last annotated second.

    Raises:
        DataError: naming the file, the video and the position of what is wrong.
    """
    data = read_json(path, "truth", unique)
    if not isinstance(data, dict) or not isinstance(data.get("database"), dict):
        hint = " (it looks like a prediction file)" if isinstance(data, dict) and "results" in data else ""
        raise DataError(f"'{path}' has no \"database\" object{hint}; a truth file is "
                        '{"database": {video: {"duration", "subset", "annotations"}}}.')
    truth: Truth = {}
    for vid, entry in data["database"].items():
        where = f"'{path}', video '{vid}'"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: expected an object, got {_short(entry)}.")
        annotations = []
        for i, item in enumerate(_items(entry.get("annotations", []), where)):
            at = f"{where}, annotation {i}"
            annotation = _segment(
                item, at, inverted,
                label=_optional(item, "label", str, at),
                score=_optional(item, "score", float, at),
                sentence=_optional(item, "sentence", str, at),
                query=_optional(item, "query", str, at),
                id=_optional(item, "id", str, at),
            )
            if annotation is not None:
                annotations.append(annotation)
        duration = _optional(entry, "duration", float, where)
        if duration is None:  # some THUMOS files leave it out
            last = max((s.end for s in annotations), default=0.0)
            duration = length(str(vid), annotations) if length is not None else last
        if not (math.isfinite(duration) and duration >= 0):
            raise DataError(f'{where}: "duration" must be a number of seconds, got {duration}.')
        truth[str(vid)] = VideoTruth(duration, tuple(annotations), str(entry.get("subset") or subset),
                                     _optional(entry, "fps", float, where))
    return truth


@uncollected()
def read_predictions(path: str | Path, *, inverted: Inverted | None = None, unique: bool = False) -> Predictions:
    """Read a prediction file (cuemark's or ActivityNet's). Order is kept: evaluators break ties by it.

    ``inverted`` and ``unique`` are those of :func:`read_truth`.

    Raises:
        DataError: naming the file, the video and the position of what is wrong.
    """
    data = read_json(path, "prediction", unique)
    if not isinstance(data, dict) or not isinstance(data.get("results"), dict):
        hint = " (it looks like a truth file)" if isinstance(data, dict) and "database" in data else ""
        raise DataError(f"'{path}' has no \"results\" object{hint}; a prediction file is "
                        '{"results": {video: [{"segment", "label", "score"}]}}.')
    predictions: Predictions = {}
    for vid, items in data["results"].items():
        where = f"'{path}', video '{vid}'"
        found = []
        for i, item in enumerate(_items(items, where)):
            if (segment := _plain(item)) is not None:
                found.append(segment)
                continue
            at = f"{where}, prediction {i}"
            label = _optional(item, "label", str, at)
            segment = _segment(
                item, at, inverted,
                label=None if label == UNLABELLED else label,
                score=_optional(item, "score", float, at),
                sentence=_optional(item, "sentence", str, at),
                query=_optional(item, "query", str, at),
                id=_optional(item, "id", str, at),
            )
            if segment is not None:
                found.append(segment)
        predictions[str(vid)] = found
    return predictions


# ---------------------------------------------------------------------------------------------- writing


@contextmanager
def replacing(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and rename it onto ``path`` when the block ends well.

    Nothing half-written is ever seen under the final name; a block that raises leaves the old file, or none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        os.fchmod(handle, 0o644)
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def plain(value: Any) -> Any:
    """``value`` as it looks after a trip through JSON (tuples become lists)."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON atomically. NaN is refused: it is not JSON."""
    with replacing(path) as file:
        try:
            json.dump(data, file, ensure_ascii=False, allow_nan=False)
            file.write("\n")
        except ValueError as error:  # NaN, or text that is no text
            raise DataError(f"'{path}' cannot be written as JSON: {error}.") from None


def _entry(segment: Segment, ids: Mapping[str, int] | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"segment": [segment.start, segment.end]}
    if segment.label is not None:
        entry["label"] = segment.label
        if ids is not None:
            entry["label_id"] = ids[segment.label]
    for key in ("score", "sentence", "query", "id"):
        if (value := getattr(segment, key)) is not None:
            entry[key] = value
    return entry


def write_truth(path: str | Path, truth: Truth, classes: Iterable[str] | None = None) -> None:
    """Write truth that ActivityNet's evaluator, ActionFormer and OpenTAD read unchanged.

    ``label_id`` counts ``classes`` in the order given, by default the sorted labels that occur.
    """
    names = list(classes) if classes is not None else labels_of(truth)
    ids = {name: i for i, name in enumerate(names)}
    strange = sorted(set(labels_of(truth)) - set(ids))
    if strange:
        raise DataError(f"label '{strange[0]}' of the truth is not among the {len(names)} classes given; add it.")
    database = {}
    for vid, video in truth.items():
        entry: dict[str, Any] = {"subset": video.subset, "duration": video.duration}
        if video.fps is not None:
            entry["fps"] = video.fps
        entry["annotations"] = [_entry(s, ids) for s in video.annotations]
        database[vid] = entry
    taxonomy: list[dict[str, Any]] = [{"nodeId": 0, "nodeName": "Root", "parentId": None, "parentName": None}]
    taxonomy += [{"nodeId": i + 1, "nodeName": name, "parentId": 0, "parentName": "Root"} for name, i in ids.items()]
    write_json(path, {"version": SCHEMA_VERSION, "database": database, "taxonomy": taxonomy})


def predictions_json(predictions: Predictions, external_data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Predictions as ActivityNet's evaluator reads them: every one carries a label and a score."""
    results = {vid: [{"label": UNLABELLED, "score": 1.0} | _entry(s) for s in segments]
               for vid, segments in predictions.items()}
    return {"version": SCHEMA_VERSION, "results": results, "external_data": dict(external_data or {})}


def write_predictions(path: str | Path, predictions: Predictions, external_data: Mapping[str, Any] | None = None
                      ) -> None:
    """Write :func:`predictions_json`, atomically."""
    write_json(path, predictions_json(predictions, external_data))
