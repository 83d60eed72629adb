"""Which label has every frame? Frame accuracy, frame mAP, segmental edit score and segmental F1.

Temporal action segmentation gives each frame of a video one label, often "background". Accuracy alone does not punish
flicker, which is why Lea et al., "Temporal Convolutional Networks for Action Segmentation and Detection" (CVPR 2017),
added the segmental measures. What papers report since is the form of the code released with Abu Farha & Gall, "MS-TCN:
Multi-Stage Temporal Convolutional Network for Action Segmentation" (CVPR 2019). Frame mAP is what Yan et al., "UnLoc: A
Unified Framework for Video Localization Tasks" (ICCV 2023) add on COIN.

Conventions
    * The labels named ``background`` are one label, and so is a frame that no segment covers. (The MS-TCN code knows
      one name; with several the official accuracy would tell them apart.) With ``background=()`` only frames without
      any label are background.
    * Segments are the longest runs of one label other than background.

From segments to frames (:func:`frames`)
    * A video has ``n = round(duration * fps)`` frames, and frame ``i`` is looked at in its middle: it has the label of
      the segment with ``start <= (i + 0.5) / fps < end``; of several that of the highest score, of equal scores, or
      where any of the video's segments has no score, that of the last listed. A video too short for one frame takes
      no part. Segments without a label, and those labelled "Ambiguous" (THUMOS14), are left out. What lies
      outside the video is not looked at.

Definition
    * ``accuracy``: right frames / frames, over all frames of all videos at once, background included.
    * ``accuracy without background``: the same, over the frames whose true label is not background.
    * ``edit``: 1 - Levenshtein distance of the two rows of segment labels / length of the longer row; mean over videos.
      Times do not matter, only what happens in which order.
    * ``F1@k``: each predicted segment, in order of time, looks at the true segment of its label with the highest IoU
      (of equal ones the first). It is a true positive if that IoU is ``>= k`` percent and nobody has taken the segment
      before; else it is a false positive, even where it reaches a second true segment too. True segments left are
      false negatives. Counts are summed over videos, then F1 = 2 TP / (2 TP + FP + FN). IoU is counted in frames.
    * ``frame mAP``: for each class average precision over all frames of all videos, positive being those that any
      segment of the class covers (more than one class may), then the mean over classes with a positive frame. The
      score of a class at a frame is the highest among the predicted segments of the class that cover it, a segment
      without a score counting as 1; where none covers it, it is below all scores (as 0 is below probabilities). Where
      saliency is given, a score of every class every so many seconds, as UnLoc's release ranks, it is that.
      Precision is not made monotone, and equal scores enter together: AP = Σ (R_k - R_{k-1}) P_k over distinct
      scores, as scikit-learn's ``average_precision_score`` has it.

Edge cases, where the released code stops with an error or gives NaN
    * Edit: no segment in either row: 1. In one of them: 0.
    * F1: no segment in any video of either: 1. Otherwise the formula, which is 0 without a true positive.
    * ``accuracy without background`` without such frames, frame mAP without scores or without classes: NaN.
    * A video without predictions is predicted as background throughout (counted in ``missing``); a predicted video
      that the truth lacks is left out (``unknown``).
    * A predicted label that the truth lacks is wrong wherever it stands. NaN as a score is a DataError.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuemark.errors import CallError, DataError
from cuemark.metrics.counting import AMBIGUOUS, weights_of
from cuemark.saliency import Saliency
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, times

OVERLAPS: tuple[float, ...] = (0.1, 0.25, 0.5)
"""Thresholds of segmental F1."""
FRAMES = 100_000_000
"""No video has as many frames; what says so is mistaken."""

_BACKGROUND = 0
"""Code of the one background label; others count from 1."""

Labels = Sequence[Hashable] | NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class FrameScore:
    """What is counted in every video; fractions in 0..1 but for :meth:`figures`."""

    videos: tuple[str, ...]
    """The V videos of the truth that have a frame."""
    frames: NDArray[np.int64]
    """``(V,)`` how many."""
    right: NDArray[np.int64]
    """``(V,)`` how many have the right label."""
    foreground: NDArray[np.int64]
    """``(V,)`` frames whose true label is not background."""
    right_foreground: NDArray[np.int64]
    """``(V,)`` how many of these have the right label."""
    edits: NDArray[np.float64]
    """``(V,)`` edit score."""
    segments: NDArray[np.int64]
    """``(V, 3, 3)``: at each of ``OVERLAPS`` the true positives, false positives, false negatives."""
    classes: tuple[str, ...]
    """The C classes of frame mAP."""
    missing: int
    """Videos of the truth without predictions."""
    unknown: int
    """Predicted videos that the truth lacks."""
    _ranking: _Ranking | _Everywhere | None

    @property
    def accuracy(self) -> float:
        """Right frames / frames, background included."""
        return _share(self.right, self.frames, None)

    @property
    def accuracy_without_background(self) -> float:
        """Right frames / frames, over those whose true label is not background."""
        return _share(self.right_foreground, self.foreground, None)

    @property
    def edit(self) -> float:
        """Mean edit score over videos."""
        return float(self.edits.mean()) if len(self.edits) else math.nan

    @property
    def f1(self) -> NDArray[np.float64]:
        """``(3,)`` at ``OVERLAPS``."""
        return _f1(self.segments, None)

    @property
    def ap(self) -> NDArray[np.float64]:
        """``(C,)`` average precision over frames of each class; NaN where no frame has it."""
        return self._ap(None)

    @property
    def map(self) -> float:
        """Frame mAP: the mean of ``ap`` where it is a number."""
        return _mean(self.ap)

    def _ap(self, weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        if self._ranking is None:
            return np.full(len(self.classes), np.nan)
        return self._ranking.ap(np.ones(len(self.videos)) if weights is None else weights, self.frames)

    def figures(self, weights: NDArray[np.float64] | None = None) -> dict[str, float]:
        """Everything in percent, in the order in which papers print it.

        Args:
            weights: ``(V,)`` how many times each video counts; None: once.

        Raises:
            CallError: there is not one weight for each video.
        """
        if weights is not None:
            weights = weights_of(weights, self.videos)
            total = weights.sum()
            edit = float(weights @ self.edits / total) if total > 0 else math.nan
        else:
            edit = self.edit
        row = {"accuracy": _share(self.right, self.frames, weights),
               "accuracy without background": _share(self.right_foreground, self.foreground, weights),
               "edit": edit}
        row |= {f"F1@{round(100 * k)}": float(v) for k, v in zip(OVERLAPS, _f1(self.segments, weights))}
        row["frame mAP"] = _mean(self._ap(weights))
        return {name: 100 * value for name, value in row.items()}


def _share(part: NDArray[np.int64], whole: NDArray[np.int64], weights: NDArray[np.float64] | None) -> float:
    upper, lower = (part.sum(), whole.sum()) if weights is None else (weights @ part, weights @ whole)
    return float(upper / lower) if lower > 0 else math.nan


def _f1(segments: NDArray[np.int64], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    if not (len(segments) if weights is None else weights.sum() > 0):
        return np.full(len(OVERLAPS), np.nan)
    hit, false, missed = (segments.sum(axis=0) if weights is None else np.tensordot(weights, segments, 1)).T
    return np.divide(2 * hit, 2 * hit + false + missed, out=np.ones(len(OVERLAPS)), where=hit + false + missed > 0)


def _mean(values: NDArray[np.float64]) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan


# --------------------------------------------------------------------------------------- rows of labels


def edit_score(true: Labels, predicted: Labels, background: Collection[Hashable] = ()) -> float:
    """Segmental edit score of two rows of frame labels, 0..1; the rows may differ in length."""
    codes = _codes(background)
    return _edit(_runs(_coded(true, codes))[0], _runs(_coded(predicted, codes))[0])


def f1_counts(true: Labels, predicted: Labels, background: Collection[Hashable] = (),
              overlaps: Sequence[float] = OVERLAPS) -> NDArray[np.int64]:
    """Segmental counts of two rows of frame labels.

    Args:
        true: one label for each frame.
        predicted: likewise; the rows may differ in length.
        background: labels that make no segments.
        overlaps: K thresholds of IoU, above 0.

    Returns:
        ``(K, 3)`` true positives, false positives, false negatives.

    Raises:
        CallError: an overlap is not in (0, 1].
    """
    if not all(0 < k <= 1 for k in overlaps):
        raise CallError(f"overlaps must be numbers above 0 and up to 1, got {list(overlaps)}.")
    codes = _codes(background)
    return _counts(_runs(_coded(true, codes)), _runs(_coded(predicted, codes)), overlaps)


def frames_of_labels(true: Mapping[str, Labels], predicted: Mapping[str, Labels],
                     background: Collection[Hashable] = (), scores: Mapping[str, ArrayLike] | None = None,
                     classes: Sequence[Hashable] = ()) -> FrameScore:
    """Score rows of frame labels; the module's docstring is the definition.

    Args:
        true: video id -> one label for each frame (names, or integers as networks number them).
        predicted: video id -> likewise, as many.
        background: labels that count as no action.
        scores: video id -> ``(n, C)`` how sure of each class at each frame, for frame mAP.
        classes: the C labels in the order of the columns of ``scores``; those in ``background`` are not averaged.

    Raises:
        DataError: there is no video; rows of one video differ in length; scores are missing, of another shape or NaN.
    """
    if not true:
        raise DataError("the truth has no video; check the folder and the split chosen.")
    codes = _codes(background)
    videos: list[str] = []
    rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for vid, row in true.items():
        real = _coded(row, codes, vid)
        found = np.zeros_like(real) if vid not in predicted else _coded(predicted[vid], codes, vid)
        if len(real) != len(found):
            raise DataError(f"video '{vid}' has {len(real)} frames in the truth but {len(found)} in the predictions; "
                            "both must have the same frame rate and length.")
        if len(real):
            videos.append(vid)
            rows.append((real, found))
    chosen = [(c, name) for c, name in enumerate(classes) if codes.get(name) != _BACKGROUND]
    wanted = np.array([codes.get(name, -1) for _, name in chosen], np.int64)
    ranking = None if scores is None else _everywhere(
        [real[:, None] == wanted for real, _ in rows],
        [_scores_of(scores, vid, (len(real), len(classes)))[:, [c for c, _ in chosen]]
         for vid, (real, _) in zip(videos, rows)])
    return _scored(videos, rows, tuple(str(name) for _, name in chosen), ranking,
                   sum(vid not in predicted for vid in true), sum(vid not in true for vid in predicted))


def _scores_of(scores: Mapping[str, ArrayLike], vid: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    if vid not in scores:
        raise DataError(f"video '{vid}' has no frame scores; give those of every video, or of none.")
    array = np.asarray(scores[vid], np.float64)
    if array.shape != shape or np.isnan(array).any():
        raise DataError(f"video '{vid}': frame scores must be {shape} numbers, one for each frame and class, got shape "
                        f"{array.shape}{' with NaN' if np.isnan(array).any() else ''}.")
    return array


def _codes(background: Collection[Hashable]) -> dict[Hashable, int]:
    """Label -> code, as far as known: no label at all and those named are background."""
    named = (background,) if isinstance(background, str) else background
    return dict.fromkeys((None, *named), _BACKGROUND)


def _coded(row: Labels, codes: dict[Hashable, int], vid: str | None = None) -> NDArray[np.int64]:
    """Labels as integers; a label seen for the first time gets the next one."""
    where = "" if vid is None else f"video '{vid}': "
    if isinstance(row, str) or (isinstance(row, np.ndarray) and row.ndim != 1):
        raise DataError(f"{where}frame labels must be one row, one label for each frame, got "
                        f"{'a text' if isinstance(row, str) else f'an array of shape {row.shape}'}.")
    items = row.tolist() if isinstance(row, np.ndarray) else row
    try:
        return np.array([codes.setdefault(item, len(codes) + 1) for item in items], np.int64)
    except TypeError:
        raise DataError(f"{where}a frame label is a list or an object; one name or number for each frame is "
                        "expected.") from None


def _scored(videos: Sequence[str], rows: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
            classes: tuple[str, ...], ranking: _Ranking | _Everywhere | None, missing: int, unknown: int) -> FrameScore:
    """Count everything in every video, from codes of its true and predicted frames."""
    frames, right, action, right_action = np.zeros((4, len(rows)), np.int64)
    edits = np.zeros(len(rows))
    segments = np.zeros((len(rows), len(OVERLAPS), 3), np.int64)
    for v, (real, found) in enumerate(rows):
        frames[v] = len(real)
        right[v] = np.count_nonzero(real == found)
        action[v] = np.count_nonzero(real != _BACKGROUND)
        right_action[v] = np.count_nonzero((real == found) & (real != _BACKGROUND))
        a, b = _runs(real), _runs(found)
        edits[v] = _edit(a[0], b[0])
        segments[v] = _counts(a, b, OVERLAPS)
    return FrameScore(tuple(videos), frames, right, action, right_action, edits, segments, classes, missing, unknown,
                      ranking)


_Runs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _runs(codes: NDArray[np.int64]) -> _Runs:
    """Label, first frame and end (exclusive) of each longest run of one label other than background."""
    edges = np.flatnonzero(np.diff(codes)) + 1
    start = np.concatenate([[0], edges])[:len(codes)]  # of no frames no run
    end = np.concatenate([edges, [len(codes)]])[:len(codes)]
    label = codes[start]
    action = label != _BACKGROUND
    return label[action], start[action], end[action]


def _edit(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    longer = max(len(a), len(b))
    return 1 - _levenshtein(a, b) / longer if longer else 1.0


def _levenshtein(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Fewest insertions, deletions and substitutions that turn ``a`` into ``b``.

    One row of the usual table at a time. Inside a row a cell also depends on its left neighbour plus one; taking
    ``column`` off, that becomes a running minimum.
    """
    if len(a) > len(b):
        a, b = b, a
    column = np.arange(len(b) + 1)
    row = column.copy()
    step = row.copy()
    for i, label in enumerate(a):
        step[0] = i + 1
        np.minimum(row[:-1] + (b != label), row[1:] + 1, out=step[1:])
        row = np.minimum.accumulate(step - column) + column
    return int(row[-1])


def _counts(real: _Runs, found: _Runs, overlaps: Sequence[float]) -> NDArray[np.int64]:
    """``(K, 3)`` true positives, false positives, false negatives at each threshold of IoU, all above 0."""
    # Runs of one row are disjoint and in order, so those that a run of the other row meets are neighbours.
    first = np.searchsorted(real[2], found[1], side="right")
    number = np.searchsorted(real[1], found[2], side="left") - first
    who = np.repeat(np.arange(len(first)), number)
    what = np.arange(len(who)) - np.repeat(number.cumsum() - number - first, number)
    same = found[0][who] == real[0][what]
    who, what = who[same], what[same]
    inter = np.minimum(found[2][who], real[2][what]) - np.maximum(found[1][who], real[1][what])
    iou = inter / (np.maximum(found[2][who], real[2][what]) - np.minimum(found[1][who], real[1][what]))
    order = np.lexsort((what, -iou, who))
    best = order[np.unique(who[order], return_index=True)[1]]
    # The first to reach a true segment takes it and later ones are false positives: hits are the segments reached.
    hits = np.array([len(np.unique(what[best][iou[best] >= k])) for k in overlaps], np.int64)
    return np.stack([hits, len(found[0]) - hits, len(real[0]) - hits], axis=1)


# ------------------------------------------------------------------------------------------ frame mAP


@dataclass(frozen=True, eq=False)
class _Ranking:
    """Frames by falling score, class after class; frames of one video, class and score that lie together are one entry.

    What no entry covers comes last, all at once.
    """

    video: NDArray[np.int64]
    """``(E,)`` index into the videos."""
    frames: NDArray[np.int64]
    """``(E,)`` how many."""
    right: NDArray[np.int64]
    """``(E,)`` how many of them have the class."""
    run: NDArray[np.int64]
    """``(G,)`` first entry of each run of one class and one score."""
    owner: NDArray[np.int64]
    """``(G,)`` class of each run, rising."""
    positives: NDArray[np.int64]
    """``(V, C)`` frames that have the class."""

    def ap(self, weights: NDArray[np.float64], frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """``(C,)``; ``frames`` ``(V,)`` is how many frames each video has."""
        positives = weights @ self.positives
        total = float(weights @ frames)
        each = weights[self.video]
        found = hit = np.empty(0)
        if len(self.run):
            found, hit = np.add.reduceat(each * self.frames, self.run), np.add.reduceat(each * self.right, self.run)
        edges = np.searchsorted(self.owner, np.arange(len(positives) + 1))
        ap = np.full(len(positives), np.nan)
        for c in np.flatnonzero(positives > 0):
            own = slice(edges[c], edges[c + 1])
            seen, hits = found[own].cumsum(), hit[own].cumsum()
            area = (hit[own] * np.divide(hits, seen, out=np.zeros_like(seen), where=seen > 0)).sum()
            left = positives[c] - (hits[-1] if len(hits) else 0)
            ap[c] = (area + left * positives[c] / total) / positives[c]
        return ap


def _ranked(label: NDArray[np.int64], score: NDArray[np.float64], video: NDArray[np.int64],
            frames: NDArray[np.int64], right: NDArray[np.int64], positives: NDArray[np.int64]) -> _Ranking:
    """Sort entries, all ``(E,)``; ``label`` is the index of the class."""
    order = np.lexsort((-score, label))
    label, score = label[order], score[order]
    new = np.ones(len(order), bool)
    new[1:] = (label[1:] != label[:-1]) | (score[1:] != score[:-1])
    run = np.flatnonzero(new)
    return _Ranking(video[order], frames[order], right[order], run, label[run], positives)


@dataclass(frozen=True, eq=False)
class _Everywhere:
    """Every frame by falling score, class by class, where every class has a score at every frame; F frames in all."""

    video: NDArray[np.int32]
    """``(C, F)`` index into the videos."""
    right: NDArray[np.bool_]
    """``(C, F)`` whether the frame has the class."""
    last: NDArray[np.bool_]
    """``(C, F)`` the last frame of each run of one score."""

    def ap(self, weights: NDArray[np.float64], frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """``(C,)``, as :meth:`_Ranking.ap`."""
        ap = np.full(len(self.video), np.nan)
        for c in range(len(ap) if self.video.size else 0):
            each = weights[self.video[c]]
            hits = (each * self.right[c]).cumsum()
            if hits[-1] > 0:
                found, seen = hits[self.last[c]], each.cumsum()[self.last[c]]
                precision = np.divide(found, seen, out=np.zeros_like(seen), where=seen > 0)
                ap[c] = (np.diff(found, prepend=0.0) * precision).sum() / found[-1]
        return ap


def _everywhere(has: Sequence[NDArray[np.bool_]], scores: Sequence[NDArray[np.floating]]) -> _Everywhere:
    """From ``(n, C)`` of each video: whether its frames have the class, and the scores."""
    video = np.repeat(np.arange(len(has), dtype=np.int32), [len(h) for h in has])
    shape = scores[0].shape[1] if scores else 0, len(video)
    found = _Everywhere(np.zeros(shape, np.int32), np.zeros(shape, bool), np.ones(shape, bool))
    for c in range(shape[0]):  # one at a time: COIN has 778, and 800,000 frames
        score = np.concatenate([s[:, c] for s in scores])
        order = np.argsort(-score, kind="stable")
        found.video[c], found.right[c] = video[order], np.concatenate([h[:, c] for h in has])[order]
        found.last[c, :-1] = score[order][1:] != score[order][:-1]
    return found


# -------------------------------------------------------------------------------------------- segments


def frames(truth: Truth, predictions: Predictions | Truth, fps: float | None = None,
           background: Collection[str] = ("background",), scored: Collection[str] | None = None,
           saliency: Mapping[str, Saliency] | None = None) -> FrameScore:
    """Score segments frame by frame; the module's docstring is the definition.

    Args:
        truth: video id -> what is known about it. Annotations without a label are left out.
        predictions: video id -> segments with labels; scores decide between segments that overlap and make frame mAP.
        fps: frames a second to look at; None: each video's own ``fps``. COIN's is 10, or 2 in UnLoc.
        background: labels that count as no action.
        scored: the classes of frame mAP; None: every label of the truth that is not background.
        saliency: video id -> how well each stretch of it answers each class, which frame mAP ranks in the place of the
            segments' scores; what it does not say of a video or of a class is below all that it says.

    Raises:
        DataError: the truth has no label; no frame rate is known; a duration is impossible; a score is NaN; the
            saliency is of no video and no class of the truth.
        CallError: ``fps`` is not above 0.
    """
    if fps is not None and not 0 < fps < math.inf:
        raise CallError(f"fps must be a number above 0, got {fps}.")
    names = dict.fromkeys(s.label for v in truth.values() for s in _named(v.annotations))
    if not names:
        raise DataError("the truth has no labelled segment; check the file and the subset chosen.")
    codes = _codes(background)
    ranked = tuple(str(n) for n in dict.fromkeys(names if scored is None else scored) if codes.get(n) != _BACKGROUND)

    videos: list[str] = []
    rows, pieces, cover = [], [], []
    has: list[NDArray[np.bool_]] = []
    scores: list[NDArray[np.floating]] = []
    for vid, known in truth.items():
        middles = _middles(vid, known, fps)
        if not len(middles):
            continue
        given = predictions.get(vid, ())
        found = _named(given.annotations if isinstance(given, VideoTruth) else given)
        if any(s.score is not None and math.isnan(s.score) for s in found):
            raise DataError(f"video '{vid}': a prediction has score NaN; give every prediction a number.")
        real = _named(known.annotations)
        for s in (*real, *found):
            codes.setdefault(s.label, len(codes) + 1)
        spans = [np.searchsorted(middles, times(segments)) for segments in (real, found)]
        rows.append((_painted(real, spans[0], len(middles), codes), _painted(found, spans[1], len(middles), codes)))
        if saliency is None:
            covered, piece = _pieces(real, found, spans[0], spans[1], len(middles), ranked, len(videos))
            cover.append(covered)
            pieces.append(piece)
        else:
            has.append(_covered(real, spans[0], len(middles), ranked))
            scores.append(_said(saliency.get(vid), middles, ranked))
        videos.append(vid)
    ranking: _Ranking | _Everywhere | None = None if saliency is None else _everywhere(has, scores)
    if saliency is not None and scores and all(np.isneginf(s).all() for s in scores):
        raise DataError("the saliency says nothing about any class or video of the truth; check the files and the "
                        "subset chosen.")
    if pieces:
        label, score, video, number, right = (np.concatenate(column) for column in zip(*pieces))
        ranking = _ranked(label, score, video, number, right, np.stack(cover))
    return _scored(videos, rows, ranked, ranking, sum(vid not in predictions for vid in truth),
                   sum(vid not in truth for vid in predictions))


def _covered(segments: Sequence[Segment], spans: NDArray[np.int64], number: int, classes: Sequence[str]
             ) -> NDArray[np.bool_]:
    """``(number, C)``: the classes of every frame."""
    index: dict[str | None, int] = {name: c for c, name in enumerate(classes)}
    has = np.zeros((number, len(classes)), bool)
    for s, (a, b) in zip(segments, spans.tolist()):
        if s.label in index:
            has[a:b, index[s.label]] = True
    return has


def _said(saliency: Saliency | None, middles: NDArray[np.float64], classes: Sequence[str]) -> NDArray[np.floating]:
    """``(n, C)``: the scores of the frames with these middles; minus infinity where none is said."""
    scores = np.full((len(middles), len(classes)), -np.inf, np.float32)
    if saliency is not None:
        place = {name: column for column, name in enumerate(saliency.asked)}
        at = saliency.at(middles)
        for c, name in enumerate(classes):
            if name in place:
                scores[:, c] = at[:, place[name]]
    return scores


def _named(segments: Sequence[Segment]) -> list[Segment]:
    """Those with a label that can be scored."""
    return [s for s in segments if s.label is not None and s.label != AMBIGUOUS]


def _middles(vid: str, known: VideoTruth, fps: float | None) -> NDArray[np.float64]:
    """Seconds of the middle of every frame of a video."""
    rate = known.fps if fps is None else fps
    if rate is None or not 0 < rate < math.inf:
        raise DataError(f"video '{vid}': its frame rate is {'not known' if rate is None else rate}; give fps (--fps).")
    if not 0 <= known.duration * rate < FRAMES:
        raise DataError(f"video '{vid}': {known.duration} s at {rate} frames a second are not 0 to {FRAMES:,} frames; "
                        "mend its duration.")
    return (np.arange(round(known.duration * rate), dtype=np.float64) + 0.5) / rate


def _by_score(segments: Sequence[Segment]) -> Sequence[int]:
    """The order in which to paint: the one to be seen last comes last."""
    if any(s.score is None for s in segments):
        return range(len(segments))
    return sorted(range(len(segments)), key=lambda i: segments[i].score)  # type: ignore[arg-type, return-value]


def _painted(segments: Sequence[Segment], spans: NDArray[np.int64], number: int,
             codes: Mapping[Hashable, int]) -> NDArray[np.int64]:
    """``(number,)`` the code of every frame."""
    row = np.full(number, _BACKGROUND, np.int64)
    for i in _by_score(segments):
        row[spans[i, 0]:spans[i, 1]] = codes[segments[i].label]
    return row


def _pieces(real: Sequence[Segment], found: Sequence[Segment], real_spans: NDArray[np.int64],
            found_spans: NDArray[np.int64], number: int, classes: Sequence[str], video: int
            ) -> tuple[NDArray[np.int64], tuple[NDArray, ...]]:
    """One video for frame mAP: between two edges of any segments nothing changes, so such pieces are counted whole.

    Returns:
        ``(C,)`` frames that have each class; and of the pieces that a predicted segment covers: class, score, video,
        frames, frames that have the class.
    """
    index: dict[str | None, int] = {name: c for c, name in enumerate(classes)}
    edges = np.unique(np.concatenate([[0, number], real_spans.ravel(), found_spans.ravel()]))
    length = np.diff(edges)
    local = {name: k for k, name in enumerate(dict.fromkeys(s.label for s in (*real, *found) if s.label in index))}
    has = np.zeros((len(local), len(length)), bool)
    for s, (a, b) in zip(real, np.searchsorted(edges, real_spans)):
        if s.label in local:
            has[local[s.label], a:b] = True
    score = np.full(has.shape, np.nan)
    at = np.searchsorted(edges, found_spans)
    sure = [1.0 if s.score is None else s.score for s in found]
    for i in sorted(range(len(found)), key=sure.__getitem__):
        if found[i].label in local:
            score[local[found[i].label], at[i, 0]:at[i, 1]] = sure[i]
    of = np.array([index[name] for name in local], np.int64)
    positives = np.zeros(len(classes), np.int64)
    positives[of] = has @ length
    row, column = np.nonzero(~np.isnan(score))
    frame = length[column]
    return positives, (of[row], score[row, column], np.full(len(row), video), frame, frame * has[row, column])
