"""QVHighlights: a sentence asked of a video, its moments, how good each clip is; one JSON object a line, in seconds.

Truth (Lei et al., *QVHighlights*, NeurIPS 2021); clip ``i`` lasts from ``2 i`` to ``2 i + 2`` seconds, three people
rated each clip of ``relevant_clip_ids`` from 0 (very bad) to 4 (very good):

    {"qid": 8737, "query": "A family is playing basketball …", "duration": 126, "vid": "bP5KfdFJzC4_660.0_810.0",
     "relevant_windows": [[0, 16]], "relevant_clip_ids": [0, 1, …], "saliency_scores": [[4, 1, 1], …]}

Predictions; windows in the order in which the official evaluator takes them, one saliency for each 2 s of the video:

    {"qid": 2579, "query": "A girl and her mother …", "vid": "NUsG9BgSes0_210.0_360.0",
     "pred_relevant_windows": [[88.0, 148.0, 0.9775], …], "pred_saliency_scores": [-11.7, …]}

Lighthouse writes other datasets (Charades-STA, ActivityNet Captions, TACoS, CASTELLA …) in the same layout without
clips and saliency, with ``qid`` a number or a text, ``relevant_windows`` null where there are none, and ``vid`` as that
dataset calls it (``v_…`` for ActivityNet's). Its per-clip ``label`` of TVSum and YouTube Highlights is not read.

The subset is what the file's name tells (``highlight_val_release.jsonl``), else ``Reading.subset``.

Rules: a window that ends before it starts is dropped; one beyond the video is kept as written, as the official
evaluator keeps it; blanks around a sentence are dropped. A qid that stands twice is refused, since evaluators look
queries up by it. The rows of one video may not differ in its duration.

Two ways to read. :func:`moments` gives all of it, and :func:`write_moments` writes all of it. As
:data:`~cuemark.segments.Truth`, a window is an annotation whose ``sentence`` is the query and whose ``id`` the qid;
saliency does not travel, nor a query that has no window (noted as dropped). As
:data:`~cuemark.segments.Predictions`, a window is a segment with ``query``, ``id`` and ``score``, those of one query in
the order listed, a video's queries one after the other.

Writing Truth makes one row of all annotations of a video with the same id (where there is none, the same sentence),
and ``relevant_clip_ids`` of the 2 s clips they touch; what has no id is numbered, and predictions for that truth get
the same numbers. Labels, subsets, rates and videos without a query have no place there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import lines, number, seconds, split_of, write_text
from cuemark.datasets.sentences import words
from cuemark.errors import DataError
from cuemark.segments import Moments, Predictions, Segment, Truth, VideoTruth

STEP = 2.0
"""Seconds of a clip."""
MOST = 1e7
"""Seconds (16 weeks) of the longest video whose clips are written one by one."""


# ---------------------------------------------------------------------------------------------- all of a file


def moments(path: Path, reading: Reading | None = None) -> list[Moments]:
    """Read a file of truth or of predictions, whichever it is, with all that it says, in its order.

    Args:
        reading: where to note what is dropped; None: the log hears of it.

    Returns:
        For each line its query. Windows of truth have ``sentence`` and ``id``, those of predictions ``query``, ``id``
        and ``score``, in the order listed.

    Raises:
        DataError: naming the file and the line of what is wrong.
    """
    told = Reading() if reading is None else reading
    found = list(_rows(path, told, None))
    if reading is None:
        told.report(path)
    return found


def write_moments(path: Path, moments: Sequence[Moments]) -> None:
    """Write truth or, where any window has a score or any saliency is one row for each clip, predictions.

    Times of truth that are whole seconds are written without a fraction, as in the official files, and so is an id that
    is a whole number.

    Raises:
        DataError: the moments are some of truth and some of predictions, an id stands twice, or a number is not finite.
    """
    predicted = any(w.score is not None for m in moments for w in m.windows) or any(
        m.saliency is not None and m.saliency.ndim == 1 for m in moments)
    seen: set[str] = set()
    written = []
    for m in moments:
        if m.id in seen:
            raise DataError(f"query '{m.id}' is there twice, and evaluators look queries up by their id; rename one.")
        seen.add(m.id)
        row = _predicted_row(m) if predicted else _truth_row(m)
        try:
            written.append(json.dumps(row, allow_nan=False) + "\n")
        except ValueError:
            raise DataError(f"query '{m.id}' has a number that is not finite; mend its scores.") from None
    write_text(path, "".join(written))


def _truth_row(m: Moments) -> dict[str, Any]:
    row: dict[str, Any] = {"qid": _qid(m.id), "query": m.query}
    if m.duration is not None:
        row["duration"] = _plain(m.duration)
    row["vid"] = m.video
    if m.clips is not None:
        row["relevant_clip_ids"] = [int(i) for i in m.clips]
    if m.saliency is not None:
        if m.saliency.ndim != 2 or m.clips is None or len(m.clips) != len(m.saliency):
            raise DataError(f"query '{m.id}' has saliency of shape {m.saliency.shape} for "
                            f"{0 if m.clips is None else len(m.clips)} clips; truth has a row for each clip it names.")
        row["saliency_scores"] = [[_plain(x) for x in clip] for clip in m.saliency.tolist()]
    row["relevant_windows"] = [[_plain(w.start), _plain(w.end)] for w in m.windows]
    return row


def _predicted_row(m: Moments) -> dict[str, Any]:
    row: dict[str, Any] = {"qid": _qid(m.id), "query": m.query}
    if m.duration is not None:
        row["duration"] = _plain(m.duration)
    row["vid"] = m.video
    if any(w.score is None for w in m.windows):
        raise DataError(f"query '{m.id}' has a window without a score among predictions; give each one.")
    row["pred_relevant_windows"] = [[w.start, w.end, w.score] for w in m.windows]
    if m.saliency is not None:
        if m.saliency.ndim != 1:
            raise DataError(f"query '{m.id}' has saliency of shape {m.saliency.shape}; predictions have one number for "
                            "each clip of the video.")
        row["pred_saliency_scores"] = m.saliency.tolist()
    return row


def _qid(name: str) -> int | str:
    return int(name) if re.fullmatch(r"0|[1-9][0-9]{0,17}", name) else name


def _plain(x: float) -> float | int:
    return int(x) if math.isfinite(x) and x == int(x) else x


# ---------------------------------------------------------------------------------------------- reading


def _rows(path: Path, reading: Reading, kind: Kind | None) -> Iterator[Moments]:
    """The queries of a file that must be of ``kind``, or of any one kind."""
    where_of: dict[str, str] = {}
    for where, line in lines(path, "QVHighlights"):
        row = _row(line, where)
        kind = kind or _kind(row)
        if _kind(row) != kind:
            keys = {"truth": "relevant_windows", "predictions": "pred_relevant_windows"}
            raise DataError(f'{where}: expected {kind} with "{keys[kind]}", got {_kind(row)}; give each its own file.')
        query = _query(row, where, kind, reading)
        if query.id in where_of:
            raise DataError(f"{where}: qid {query.id} stands in {where_of[query.id]} too; give each query its "
                            "own.")
        where_of[query.id] = where.rpartition(", ")[2]
        yield query


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        text = error.msg if isinstance(error, json.JSONDecodeError) else "a number or a nesting beyond all bounds"
        raise DataError(f"{where}: no valid JSON ({text}); expected one object a line.") from None
    if not isinstance(row, dict):
        raise DataError(f'{where}: expected an object with "qid", "query" and "vid", got {line[:60]}.')
    return row


def _kind(row: dict[str, Any]) -> Literal["truth", "predictions"]:
    return "predictions" if any(key.startswith("pred_") for key in row) else "truth"


def _query(row: dict[str, Any], where: str, kind: Kind, reading: Reading) -> Moments:
    query, video, qid = _text(row, "query", where).strip(), _text(row, "vid", where), row.get("qid")
    if isinstance(qid, bool) or not isinstance(qid, int | str):
        raise DataError(f'{where}: "qid" must be a whole number or a text, got {str(qid)[:40]}.')
    duration = row.get("duration")
    duration = None if duration is None else seconds(duration, where, 'a "duration" in seconds')
    key = "pred_relevant_windows" if kind == "predictions" else "relevant_windows"
    windows = row.get(key)
    if not isinstance(windows, list | None):
        raise DataError(f'{where}: "{key}" must be a list of windows, got {str(windows)[:40]}.')
    found = []
    for i, window in enumerate(windows or []):
        at = f"{where}, window {i}"
        if kind == "predictions":
            if not isinstance(window, list) or len(window) != 3:
                raise DataError(f"{at}: expected [start, end, score], got {str(window)[:60]}.")
            score = number(window[2], at, "a score")
            found.append(reading.segment(window[0], window[1], at, score=score, query=query, id=str(qid)))
        else:
            if not isinstance(window, list) or len(window) != 2:
                raise DataError(f"{at}: expected [start, end], got {str(window)[:60]}.")
            found.append(reading.segment(window[0], window[1], at, sentence=query, id=str(qid)))
    kept = tuple(w for w in found if w is not None)
    if kind == "predictions":
        saliency = _array(row.get("pred_saliency_scores"), 1, "pred_saliency_scores", where)
        return Moments(str(qid), video, query, kept, duration, saliency, step=STEP)
    clips = _array(row.get("relevant_clip_ids"), 1, "relevant_clip_ids", where)
    if clips is not None and not (np.all(clips >= 0) and np.all(clips == np.round(clips)) and np.all(clips < 2**53)):
        raise DataError(f'{where}: "relevant_clip_ids" must be whole numbers from 0.')
    saliency = _array(row.get("saliency_scores"), 2, "saliency_scores", where)
    if saliency is not None and (clips is None or len(clips) != len(saliency)):
        raise DataError(f'{where}: "saliency_scores" must have a row for each of the "relevant_clip_ids".')
    return Moments(str(qid), video, query, kept, duration, saliency,
                   None if clips is None else clips.astype(np.int64), STEP)


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f'{where}: "{key}" must be a text, got {str(value)[:40]!r}.')
    return value


def _array(value: Any, axes: int, key: str, where: str) -> np.ndarray | None:
    if value is None:
        return None
    try:
        array = np.zeros((0,) * axes) if value == [] else np.asarray(value)
        if array.dtype.kind not in "iuf" or array.ndim != axes or not np.all(np.isfinite(array)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise DataError(f'{where}: "{key}" must be {"rows of numbers of one length" if axes == 2 else "numbers"}, got '
                        f"{str(value)[:60]}.") from None
    return array.astype(np.float64)


# ---------------------------------------------------------------------------------------------- as a format


def parse(path: Path, reading: Reading) -> Truth:
    """Read truth: for each video its length, and an annotation for each window of each query.

    Raises:
        DataError: naming the file and the line of what is wrong.
    """
    return _truth(path, reading, secret=False)


def queries(path: Path) -> Truth:
    """All that a file asks of its videos: as :func:`parse`, and a query whose windows nobody tells (the test split) as
    a segment without length.

    Raises:
        DataError: naming the file and the line of what is wrong.
    """
    reading = Reading()
    found = _truth(path, reading, secret=True)
    reading.report(path)
    return found


def _truth(path: Path, reading: Reading, secret: bool) -> Truth:
    lengths: dict[str, float] = {}
    subset = split_of(path, reading.subset)
    found: dict[str, list[Segment]] = {}
    for m in _rows(path, reading, "truth"):
        where = f"'{path}', qid {m.id}"
        told = m.windows or ((Segment(0.0, 0.0, sentence=m.query, id=m.id),) if secret else ())
        found.setdefault(m.video, []).extend(told)
        if not told:
            reading.note(where, "has no window", "dropped")
        if m.duration is not None and lengths.setdefault(m.video, m.duration) != m.duration:
            raise DataError(f"{where}: video '{m.video}' lasts {m.duration:g} s, and {lengths[m.video]:g} s in a row "
                            "before; mend one.")
    return {video: VideoTruth(lengths[video] if video in lengths else reading.length(video, segments), tuple(segments),
                              subset) for video, segments in found.items()}


def write(path: Path, truth: Truth) -> None:
    """Write truth: windows and the clips they touch, no saliency.

    Raises:
        DataError: an annotation has no sentence, or one id is of two sentences or of two videos.
    """
    rows = []
    for asked in _asked(truth):
        length = truth[asked.video].duration
        if length > MOST:
            raise DataError(f"video '{asked.video}' lasts {length:g} s, too long to name its clips; mend its duration.")
        touched = {i for s in asked.segments
                   for i in range(max(0, math.floor(s.start / STEP)), math.ceil(min(s.end, length) / STEP))}
        rows.append(Moments(asked.id, asked.video, asked.text, tuple(Segment(s.start, s.end) for s in asked.segments),
                            length, clips=np.array(sorted(touched), np.int64)))
    write_moments(path, rows)


def parse_predictions(path: Path, reading: Reading) -> Predictions:
    """Read predictions: a video's queries in the order of the file, the windows of each in the order listed.

    Raises:
        DataError: naming the file and the line of what is wrong.
    """
    predictions: Predictions = {}
    for m in _rows(path, reading, "predictions"):
        predictions.setdefault(m.video, []).extend(m.windows)
    return predictions


def write_predictions(path: Path, predictions: Predictions, truth: Truth,
                      saliency: Mapping[tuple[str, str], np.ndarray] | None = None) -> None:
    """Write predictions: a row for each query; its windows in the order they have.

    What lacks an ``id`` gets that of the query with its sentence in ``truth``, as :func:`write` numbers it, and what
    lacks a ``query`` the sentence of its id.

    Args:
        saliency: video and sentence -> one number for each ``STEP`` seconds; these are rows even without a window.

    Raises:
        DataError: a prediction has no score, or neither it nor ``truth`` says which query it answers.
    """
    known = list(_asked(truth))
    ids = {(a.video, a.text): a.id for a in reversed(known)}
    texts = {(a.video, a.id): a.text for a in known}
    fresh = _fresh({a.id for a in known} | {s.id for found in predictions.values() for s in found if s.id is not None})
    rows: dict[tuple[str, str], _Asked] = {}
    for vid, segments in predictions.items():
        for s in segments:
            text = s.query if s.query is not None else texts.get((vid, s.id)) if s.id is not None else None
            if text is None or not text.strip():
                raise DataError(f"a prediction of video '{vid}', [{s.start:g}, {s.end:g}], does not say which sentence "
                                "it answers; predict with queries, or name the truth with theirs.")
            if s.score is None:
                raise DataError(f"a prediction of video '{vid}', [{s.start:g}, {s.end:g}], has no score; give it one.")
            text = text.strip()
            qid = s.id if s.id is not None else ids.get((vid, text))
            if qid is None:
                qid = ids[vid, text] = next(fresh)
            rows.setdefault((vid, qid), _Asked(qid, vid, text)).segments.append(s)
    said = {(vid, text.strip()): numbers for (vid, text), numbers in (saliency or {}).items()}
    for vid, text in said:
        qid = ids.get((vid, text)) or next(fresh)
        rows.setdefault((vid, qid), _Asked(qid, vid, text))
    for a in known:  # one sentence may be several queries
        same = rows.get((a.video, ids[a.video, a.text]))
        if same is not None:
            rows.setdefault((a.video, a.id), replace(same, id=a.id))
    write_moments(path, [Moments(a.id, a.video, a.text, tuple(a.segments),
                                 saliency=said.get((a.video, a.text))) for a in rows.values()])


@dataclass
class _Asked:
    """One query of a truth."""

    id: str
    video: str
    text: str
    segments: list[Segment] = field(default_factory=list)


def _asked(truth: Truth) -> Iterator[_Asked]:
    """The queries of a truth in its order, each with an id."""
    fresh = _fresh({s.id for v in truth.values() for s in v.annotations if s.id is not None})
    video_of: dict[str, str] = {}
    for vid, video in truth.items():
        asked: dict[tuple[str | None, str], _Asked] = {}
        for s in video.annotations:
            text = words(s, vid)
            key = (s.id, "" if s.id is not None else text)
            if key not in asked:
                asked[key] = _Asked(s.id if s.id is not None else next(fresh), vid, text)
            one = asked[key]
            if one.text != text or video_of.setdefault(one.id, vid) != vid:
                raise DataError(f"id '{one.id}' is of two queries, one of video '{vid}'; give each its own.")
            one.segments.append(s)
        yield from asked.values()


def _fresh(taken: set[str]) -> Iterator[str]:
    return (str(i) for i in count() if str(i) not in taken)


def looks(path: Path, head: str) -> Kind | None:
    """The first line is an object with ``qid``, ``query`` and ``vid``."""
    first = head.lstrip("\ufeff \t\r\n").split("\n", 1)[0]
    keys = set(re.findall(r'"(\w+)"\s*:', first))
    if not first.startswith("{") or not {"qid", "query", "vid"} <= keys or keys & {"database", "results"}:
        return None
    return "predictions" if any(key.startswith("pred_") for key in keys) else "truth"


FORMAT = Format(
    name="qvhighlights",
    title="QVHighlights, and what Lighthouse writes like it",
    source="Lei et al., QVHighlights: Detecting Moments and Highlights in Videos via Natural Language Queries, "
           "NeurIPS 2021",
    layout='JSON lines {"qid", "query", "vid", "duration", "relevant_windows": [[start, end]], "relevant_clip_ids", '
           '"saliency_scores"}; predictions "pred_relevant_windows": [[start, end, score]], seconds',
    looks=looks, parse=parse, write=write, parse_predictions=parse_predictions, write_predictions=write_predictions,
    traps="The evaluator takes windows in the order listed, not by score, and only the first ten; it wants exactly the "
          "truth's qids, each with a window. Saliency is relative, and may be negative.",
)
