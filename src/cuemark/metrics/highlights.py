"""Moments and highlights as QVHighlights counts them: which windows answer a query, and which clips answer it best.

The measure is that of Lei, Berg & Bansal, "QVHighlights: Detecting Moments and Highlights in Videos via Natural
Language Queries" (NeurIPS 2021), in the form of the evaluator released with Moment-DETR, which every later system on
this benchmark has used. Prediction files published with its figures give the same 104 numbers here.

Moment retrieval ("MR"), over the queries that have a window
    * ``R1@m``: the first window **listed** has tIoU ``>= m`` with the window of the truth that it overlaps best. Scores
      play no part: whoever writes the file sorts it.
    * ``mAP@m``: average precision of each query over its first ten windows listed, taken by falling score (equal
      scores as listed), then the mean over queries. A window takes the free window of the truth of highest tIoU, if
      that is ``>= m`` (equal tIoU: the later one); precision is made monotone, area over all points. Beyond ten windows
      of the truth nothing can be recalled: the truth itself as prediction gets 99.76 on val.
    * Thresholds are 0.5, 0.55, … 0.95; ``mAP`` is the mean over them.
    * ``short``, ``middle``, ``long``: only windows of the truth whose length is in (0, 10], (10, 30], (30, 150] seconds
      count, and only queries that have one; all predictions stay, so those that find the other windows of the query
      are false positives (the truth itself gets 79.75, 89.80, 92.73 on val). A window longer than 150 s is in none.

Highlight detection ("HL"), over the queries whose clips people rated (QVHighlights: three people, 0 to 4)
    * Clips are ``step`` seconds (2) long; a video has ``int(duration / step)``. A clip that nobody rated has 0. A clip
      is positive for one rater if rated at least 2 ("Fair"), 3 ("Good"), 4 ("VeryGood").
    * Predicted saliency is padded with 0, or cut, to the number of clips. It may be negative: that is normal.
    * ``mAP``: for each query and rater the precision, made monotone, at every distinct saliency that recalls more;
      their **mean** (for saliency without ties that is average precision); no positive clip: 0; only positive ones: 1.
      Then the mean over queries and raters. The truth itself gets 60.81 at "VeryGood", where most raters see nothing.
    * ``Hit1``: the clip of highest saliency (the first of several, looked for before cutting) is positive for at least
      one rater.

Edge cases
    * The ids of truth and predictions must be the same set, each once; otherwise a DataError says how many are not.
    * A query without predicted windows has recall and precision 0, one without predicted saliency is as one whose
      saliency is 0 throughout. When no prediction has saliency, or no truth has ratings, HL figures are NaN; when no
      truth has windows (of a range), MR figures (of the range) are.
    * Windows of zero length have tIoU 0 with all. NaN in saliency or scores is a DataError.
    * Scores missing: all windows of that query count as equal, so the order listed is kept.

Figures are over queries; ``videos`` are the videos they are asked of, which is what a bootstrap must draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuemark.errors import DataError
from cuemark.metrics.counting import tiou_of_hull, weights_of
from cuemark.metrics.detection import average_precision
from cuemark.segments import Moments, times

TIOUS: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
RANGES: Mapping[str, tuple[float, float]] = {"full": (-math.inf, math.inf), "long": (30, 150), "middle": (10, 30),
                                             "short": (0, 10)}
"""Seconds: a window belongs to a range if it is longer than the first and not longer than the second."""
LEVELS: Mapping[str, int] = {"Fair": 2, "Good": 3, "VeryGood": 4}
"""Name -> least rating of a positive clip."""
WINDOWS = 10
"""How many predicted windows of a query count for average precision."""
CLIPS = 1_000_000
"""No video has as many clips; what says so is mistaken."""
BLOCK = 256
"""So many queries are padded to one length."""


@dataclass(frozen=True, eq=False)
class HighlightScore:
    """What every query scored; fractions in 0..1 but for :meth:`figures` and :meth:`report`."""

    videos: tuple[str, ...]
    """The V videos asked, in order of first appearance."""
    video: NDArray[np.int64]
    """``(Q,)`` index into ``videos`` of each query."""
    ids: tuple[str, ...]
    """The Q queries, in order of the truth."""
    iou: Mapping[str, NDArray[np.float64]]
    """Range -> ``(Q,)`` tIoU of the first window; NaN where the query has no window of this range."""
    ap: Mapping[str, NDArray[np.float64]]
    """Range -> ``(Q, 10)`` average precision at ``TIOUS``; NaN likewise."""
    saliency_ap: Mapping[str, NDArray[np.float64]]
    """Level -> ``(Q,)`` average precision of the saliency, mean over raters; NaN where nobody rated."""
    hit: Mapping[str, NDArray[np.float64]]
    """Level -> ``(Q,)`` 1 or 0: the most salient clip is positive; NaN likewise."""

    def recall(self, name: str = "full", weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """``(10,)`` R1 at ``TIOUS`` for windows of a range."""
        iou = self.iou[name][:, None]
        return self._mean(np.where(np.isnan(iou), np.nan, iou >= np.array(TIOUS)), weights)

    def map(self, name: str = "full", weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """``(10,)`` mAP at ``TIOUS`` for windows of a range."""
        return self._mean(self.ap[name], weights)

    def _mean(self, values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Mean over the queries that take part, ``(Q, n)`` -> ``(n,)``; NaN where none does."""
        counts = ~np.isnan(values[:, 0])
        values = values[counts]
        if weights is None:
            return values.mean(axis=0) if len(values) else np.full(values.shape[1], np.nan)
        each = weights_of(weights, self.videos)[self.video[counts]]
        return each @ values / each.sum() if each.sum() > 0 else np.full(values.shape[1], np.nan)

    def _saliency(self, weights: NDArray[np.float64] | None = None) -> dict[str, tuple[float, float]]:
        """Level -> mAP and Hit1."""
        rows = {}
        for level in LEVELS:
            both = self._mean(np.stack([self.saliency_ap[level], self.hit[level]], axis=1), weights)
            rows[level] = (float(both[0]), float(both[1]))
        return rows

    def figures(self, weights: NDArray[np.float64] | None = None) -> dict[str, float]:
        """The figures that the official evaluator calls brief, under its names, in percent and not rounded.

        Args:
            weights: ``(V,)`` how many times each video counts; None: once.

        Raises:
            CallError: there is not one weight for each video.
        """
        recall = dict(zip(TIOUS, self.recall("full", weights).tolist()))
        average = {name: self.map(name, weights) for name in RANGES}
        full = dict(zip(TIOUS, average["full"].tolist()))
        row = {"MR-full-R1@0.5": recall[0.5], "MR-full-R1@0.7": recall[0.7],
               "MR-full-mAP": float(average["full"].mean()), "MR-full-mAP@0.5": full[0.5],
               "MR-full-mAP@0.75": full[0.75]}
        row |= {f"MR-{name}-mAP": float(average[name].mean()) for name in RANGES if name != "full"}
        for level, (precision, hit) in self._saliency(weights).items():
            row |= {f"HL-min-{level}-mAP": precision, f"HL-min-{level}-Hit1": hit}
        return {name: 100 * value for name, value in row.items()}

    def report(self) -> dict[str, Any]:
        """All figures in the layout of the official evaluator's JSON: percent, rounded to two decimals.

        What has no meaning here (no saliency given, no window of a range) is left out.
        """
        report: dict[str, Any] = {"brief": {k: _rounded(v) for k, v in self.figures().items() if not math.isnan(v)}}
        for level, (precision, hit) in self._saliency().items():
            if not math.isnan(precision):
                report[f"HL-min-{level}"] = {"HL-mAP": _rounded(100 * precision), "HL-Hit1": _rounded(100 * hit)}
        for name in RANGES:
            average, recall = 100 * self.map(name), 100 * self.recall(name)
            if not np.isnan(average).any():
                rows = {str(m): _rounded(v) for m, v in zip(TIOUS, average)} | {"average": _rounded(average.mean())}
                report[name] = {"MR-mAP": rows, "MR-R1": {str(m): _rounded(v) for m, v in zip(TIOUS, recall)}}
        return report


def _rounded(percent: float) -> float:
    """Two decimals, rounded as decimal text is."""
    return float(f"{percent:.2f}")


def highlights(truth: Sequence[Moments], predictions: Sequence[Moments]) -> HighlightScore:
    """Score moments and saliency; the module's docstring is the definition.

    Args:
        truth: the queries: windows in seconds, and ``saliency`` ``(n, raters)`` of the clips named in ``clips``.
        predictions: the answers, joined by ``id`` in any order: windows best first, and ``saliency`` ``(T,)``.

    Raises:
        DataError: there is no query; ids differ or repeat; a rated clip lies outside its video or the video's duration
            is not known; shapes do not fit; NaN. The message names the query.
    """
    answers = _joined(truth, predictions)
    index = {vid: i for i, vid in enumerate(dict.fromkeys(m.video for m in truth))}
    iou, ap = _moments(truth, answers)
    saliency_ap, hit = _clips(truth, answers)
    return HighlightScore(tuple(index), np.array([index[m.video] for m in truth], np.int64),
                          tuple(m.id for m in truth), iou, ap, saliency_ap, hit)


def _joined(truth: Sequence[Moments], predictions: Sequence[Moments]) -> list[Moments]:
    """The prediction of every query of the truth, in its order."""
    if not truth:
        raise DataError("the truth has no query; check the file.")
    for rows, what in ((truth, "truth"), (predictions, "predictions")):
        seen: set[str] = set()
        for row in rows:
            if row.id in seen:
                raise DataError(f"the {what} have query id '{row.id}' more than once; every query must stand there "
                                "once.")
            seen.add(row.id)
    given = {m.id: m for m in predictions}
    missing = [m.id for m in truth if m.id not in given]
    strange = given.keys() - {m.id for m in truth}
    if missing or strange:
        example = missing[0] if missing else min(strange)
        raise DataError(f"truth and predictions must have the same query ids: {len(missing)} of {len(truth)} queries "
                        f"are not predicted, {len(strange)} predicted ones are not in the truth (as '{example}'); "
                        "mend the file, or score the split that it was made for.")
    return [given[m.id] for m in truth]


# ---------------------------------------------------------------------------------------------- windows


def _moments(truth: Sequence[Moments], answers: Sequence[Moments]
             ) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """For each range the tIoU of the first window ``(Q,)`` and the average precision ``(Q, 10)``."""
    first = {name: np.empty(len(truth)) for name in RANGES}
    ap = {name: np.empty((len(truth), len(TIOUS))) for name in RANGES}
    for begin in range(0, len(truth), BLOCK):  # so that one query of many windows does not pad all of them
        block = slice(begin, begin + BLOCK)
        for name, (best, area) in _retrieved(truth[block], answers[block]).items():
            first[name][block], ap[name][block] = best, area
    return first, ap


def _retrieved(truth: Sequence[Moments], answers: Sequence[Moments]
               ) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Range -> tIoU of the first window ``(Q,)``, average precision ``(Q, 10)``."""
    real, real_count = _padded([times(m.windows) for m in truth])
    found, found_count = _padded([times(m.windows[:WINDOWS]) for m in answers])
    score = np.full(found.shape[:2], -np.inf)
    for row, m in zip(score, answers):
        own = [s.score for s in m.windows[:WINDOWS]]
        if any(s is not None and math.isnan(s) for s in own):
            raise DataError(f"query '{m.id}': a predicted window has score NaN; give every window a number.")
        row[:len(own)] = 0 if None in own else own
    iou = tiou_of_hull(found[:, :, None], real[:, None])  # (Q, P, G)

    # By falling score; what is padding stays behind its query's windows, however low their scores.
    order = np.lexsort((-score, np.arange(found.shape[1]) >= found_count[:, None]), axis=-1)
    sorted_iou = np.take_along_axis(iou, order[:, :, None], axis=1)
    valid = np.arange(found.shape[1]) < found_count[:, None]
    length = real[:, :, 1] - real[:, :, 0]
    rows = {}
    for name, (low, high) in RANGES.items():
        inside = (length > low) & (length <= high) & (np.arange(real.shape[1]) < real_count[:, None])
        number = inside.sum(axis=1)
        best = np.where(inside, iou[:, 0], 0).max(axis=1, initial=0)
        hits = _assigned(np.where(inside[:, None, :] & valid[:, :, None], sorted_iou, -1.0))
        area = average_precision(hits, np.maximum(number, 1)[:, None])
        rows[name] = np.where(number > 0, best, np.nan), np.where(number[:, None] > 0, area, np.nan)
    return rows


def _padded(rows: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """``(Q, most, 2)`` with zeros behind the windows of each query, and how many it has; ``most`` is at least 1."""
    count = np.array([len(row) for row in rows], np.int64)
    padded = np.zeros((len(rows), max(int(count.max()), 1), 2))
    for i, row in enumerate(rows):
        padded[i, :len(row)] = row
    return padded, count


def _assigned(iou: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which windows are true positives.

    Args:
        iou: ``(Q, P, G)`` tIoU of predicted windows, best first, with those of the truth; -1 where there is none.

    Returns:
        ``(Q, 10, P)`` at each of ``TIOUS``.
    """
    queries, found, real = iou.shape
    hits = np.zeros((queries, len(TIOUS), found), bool)
    every = np.arange(queries)
    for t, tiou in enumerate(TIOUS):
        free = np.ones((queries, real), bool)
        for p in range(found):
            candidates = np.where(free, iou[:, p], -1.0)
            best = real - 1 - candidates[:, ::-1].argmax(axis=1)  # the last of equal ones
            hits[:, t, p] = candidates[every, best] >= tiou
            free[every[hits[:, t, p]], best[hits[:, t, p]]] = False
    return hits


# ------------------------------------------------------------------------------------------------ clips


def _clips(truth: Sequence[Moments], answers: Sequence[Moments]
           ) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """For each level the average precision and the hit of every query, ``(Q,)`` each; NaN where nobody rated."""
    precision = {level: np.full(len(truth), np.nan) for level in LEVELS}
    hit = {level: np.full(len(truth), np.nan) for level in LEVELS}
    rated = [i for i, m in enumerate(truth) if m.saliency is not None]
    if not rated or all(m.saliency is None for m in answers):
        return precision, hit

    for begin in range(0, len(rated), BLOCK):  # so that one long video does not pad all of them
        block = rated[begin:begin + BLOCK]
        rows = _rated([_ratings(truth[i]) for i in block], [answers[i] for i in block])
        for level, (average, found) in rows.items():
            precision[level][block] = average
            hit[level][block] = found
    return precision, hit


def _rated(ratings: Sequence[NDArray[np.float64]], answers: Sequence[Moments]
           ) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Level -> average precision and hit, ``(Q,)`` each, of queries with ``ratings`` of ``(clips, raters)``."""
    length = np.array([len(r) for r in ratings])
    raters = np.array([r.shape[1] for r in ratings])
    queries, columns = len(ratings), int(length.max())
    known = np.full((queries, columns, int(raters.max())), -np.inf)
    score = np.zeros((queries, columns))
    top = np.zeros(queries, np.int64)
    for k, answer in enumerate(answers):
        known[k, :length[k], :raters[k]] = ratings[k]
        if answer.saliency is None:
            continue
        given = np.asarray(answer.saliency, np.float64)
        if given.ndim != 1 or np.isnan(given).any():
            raise DataError(f"query '{answer.id}': predicted saliency must be a row of numbers, one for each clip, got "
                            f"shape {given.shape}{' with NaN' if np.isnan(given).any() else ''}.")
        top[k] = given.argmax() if given.size else 0
        score[k, :min(length[k], len(given))] = given[:length[k]]

    inside = np.arange(columns) < length[:, None]
    order = np.lexsort((-score, ~inside), axis=-1)
    score = np.take_along_axis(score, order, axis=1)
    # Where a run of equal saliency ends, for precision is known only there.
    ends = np.arange(columns) == length[:, None] - 1
    ends[:, :-1] |= inside[:, 1:] & (score[:, 1:] != score[:, :-1])
    present = np.arange(known.shape[2]) < raters[:, None]
    rows = {}
    for level, least in LEVELS.items():
        positive = known >= least
        each = _precision(np.take_along_axis(positive, order[:, :, None], axis=1), ends, length)
        chosen = np.take_along_axis(positive, np.minimum(top, columns - 1)[:, None, None], axis=1).any(axis=(1, 2))
        rows[level] = np.where(present, each, 0).sum(axis=1) / raters, chosen & (top < length)
    return rows


def _ratings(m: Moments) -> NDArray[np.float64]:
    """``(clips, raters)``: what people gave to every clip of the video of one query, 0 where they were not asked."""
    if m.duration is None:
        raise DataError(f"query '{m.id}': its clips are rated but the duration of video '{m.video}' is not known; "
                        "give it.")
    if not (m.step > 0 and 1 <= m.duration / m.step < CLIPS):
        raise DataError(f"query '{m.id}': {m.duration} s of video '{m.video}' are not 1 to {CLIPS:,} clips of "
                        f"{m.step} s; mend its duration.")
    number = int(m.duration / m.step)
    given = np.asarray(m.saliency, np.float64)
    clips = np.arange(given.shape[0] if given.ndim else 0) if m.clips is None else np.asarray(m.clips)
    if given.size == 0:  # nobody found anything worth rating
        given = given.reshape(0, 1)
    if given.ndim != 2 or given.shape[1] == 0 or len(clips) != len(given) or np.isnan(given).any():
        raise DataError(f"query '{m.id}': ratings must be one row of numbers for each of the {len(clips)} clips named, "
                        f"got shape {given.shape}.")
    if len(clips) and (clips.dtype.kind not in "iu" or not 0 <= clips.min() <= clips.max() < number):
        raise DataError(f"query '{m.id}': rated clips must be whole numbers below {number}, for video '{m.video}' has "
                        f"{number} clips of {m.step:g} s; mend its clips or its duration.")
    ratings = np.zeros((number, given.shape[1]))
    ratings[clips.astype(np.int64)] = given
    return ratings


def _precision(positive: NDArray[np.bool_], ends: NDArray[np.bool_], length: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the monotone precision at each distinct saliency that recalls more.

    Args:
        positive: ``(Q, T, R)`` most salient clip first; False in the padding.
        ends: ``(Q, T)``: here a run of equal saliency ends.
        length: ``(Q,)`` clips of each video.

    Returns:
        ``(Q, R)``; 0 without a positive clip, 1 without a negative one.
    """
    found = positive.cumsum(axis=1)
    precision = np.where(ends[:, :, None], found / np.arange(1, positive.shape[1] + 1)[:, None], 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # How many were found when the run before ended: the latest end that lies earlier.
    before = np.maximum.accumulate(np.where(ends[:, :, None], found, 0), axis=1)
    before = np.concatenate([np.zeros_like(before[:, :1]), before[:, :-1]], axis=1)
    more = ends[:, :, None] & (found > before)
    number = more.sum(axis=1)
    mean = (envelope * more).sum(axis=1) / np.maximum(number, 1)
    return np.where(found[:, -1] == length[:, None], 1.0, mean)
