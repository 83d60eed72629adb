"""What a score is worth: its floor and its ceiling.

**Floor**: what a predictor gets that never looks at the video. It may know what every participant knows, the training
truth and how long a test video is, and says the same of every video, stretched to its length. Where there is more than
one such predictor, the one that does best *on the training truth* is taken; test truth chooses nothing. A method that
does not clear its floor has not been shown to see anything; several published comparisons do not.

**Ceiling**: what a perfect oracle gets, the truth itself handed in as predictions, under the limits of the metric: one
proposal a video at AR@1, raters who disagree, truth of zero length that nothing can match.

Functions here make predictions, scored like any others. Times are seconds; inside, spans are fractions of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuemark.segments import Moments, Predictions, Segment, Truth, labels_of, tiou

CELLS = 40
"""Spans begin and end on this many equal marks of a video."""


# ---------------------------------------------------------------------------------------------- spans of training


def relative(training: Truth, keep: Callable[[Segment], bool] = lambda s: True
             ) -> tuple[NDArray[np.float64], list[Segment]]:
    """Annotated spans as fractions of their videos: ``(n, 2)``, and the segments they are of."""
    rows, owners = [], []
    for video in training.values():
        for s in video.annotations:
            if keep(s) and video.duration > 0 and s.end > s.start:
                rows.append((s.start / video.duration, s.end / video.duration))
                owners.append(s)
    return np.array(rows).reshape(-1, 2).clip(0, 1), owners


def spans(cells: int = CELLS) -> NDArray[np.float64]:
    """Every span between ``cells`` + 1 equal marks of 0..1: ``(cells (cells + 1) / 2, 2)``."""
    marks = np.linspace(0, 1, cells + 1)
    first, last = np.triu_indices(cells + 1, 1)
    return np.stack([marks[first], marks[last]], axis=1)


def covering(real: NDArray[np.float64], count: int, tious: Sequence[float] = (0.3, 0.5, 0.7),
             cells: int = CELLS) -> NDArray[np.float64]:
    """``count`` spans that together match as many of the ``real`` ones as they can, the most useful first.

    Greedy: each adds the most (span, threshold) pairs that no earlier one has matched; when nothing is left to add,
    the rest are those that match most on their own.

    Args:
        real: ``(n, 2)`` fractions of a video.

    Returns:
        ``(count, 2)`` at most.
    """
    candidates = spans(cells)
    if not len(real):
        return candidates[:0]
    if len(real) > 20_000:  # a larger sample changes no choice and costs memory
        real = real[np.random.default_rng(0).permutation(len(real))[:20_000]]
    overlap = tiou(candidates, real).astype(np.float32)
    alone = sum((overlap >= t).sum(1) for t in tious)
    gain = np.array(alone)
    free = [np.ones(len(real), bool) for _ in tious]
    chosen: list[int] = []
    while len(chosen) < min(count, len(candidates)):
        best = int(gain.argmax())
        if gain[best] <= 0:
            rest = np.argsort(-np.asarray(alone), kind="stable")
            chosen += [int(i) for i in rest[~np.isin(rest, chosen)]][:count - len(chosen)]
            break
        chosen.append(best)
        for t, left in zip(tious, free):
            newly = left & (overlap[best] >= t)
            gain -= (overlap[:, newly] >= t).sum(1)
            left &= ~newly
    return candidates[chosen]


def _stretched(fractions: NDArray[np.float64], duration: float, **fields: Any) -> list[Segment]:
    """The spans in a video of ``duration`` seconds, best first, scored by rank."""
    n = len(fractions)
    return [Segment(float(a * duration), float(b * duration), score=1 - i / n, **fields)
            for i, (a, b) in enumerate(fractions)]


def boxes(fractions: NDArray[np.float64], duration: float, labels: Sequence[str]) -> list[Segment]:
    """The spans in a video of ``duration`` seconds under each of the labels, best first."""
    return [s for label in labels for s in _stretched(fractions, duration, label=label)]


# ---------------------------------------------------------------------------------------------- detection, proposals


def blind(training: Truth, videos: Truth, count: int = 200, cells: int = 20) -> Predictions:
    """Detections by how common stretches are in training, as fractions of a video, for each class.

    Candidates are all spans between ``cells`` + 1 equal marks of a video. For each class they are scored by the share
    of training instances that are of the class and that they would match, mean over tIoU 0.5, 0.55 … 0.95; of every
    video the same best ones of each class are said, ``count`` in all where the classes are fewer, else one of each.
    """
    real, owners = relative(training, lambda s: s.label is not None)
    if not len(real):
        return {vid: [] for vid in videos}
    names = labels_of(training)
    index = {name: k for k, name in enumerate(names)}
    which = np.array([index[str(s.label)] for s in owners])
    candidates = spans(cells)
    # how many of ten thresholds each pair reaches: levels are compared as the metric compares them
    hits = np.searchsorted(np.linspace(0.5, 0.95, 10), tiou(candidates, real), side="right")
    said = []
    for k, name in enumerate(names):
        votes = hits[:, which == k].sum(1)
        best = np.argsort(-votes, kind="stable")[:max(1, count // len(names))]
        said += [(*candidates[i], name, votes[i] / (10 * len(real))) for i in best if votes[i] > 0]
    said.sort(key=lambda row: -row[-1])
    return {vid: [Segment(float(a * v.duration), float(b * v.duration), name, float(score))
                  for a, b, name, score in said] for vid, v in videos.items()}


def tiled(training: Truth, videos: Truth, count: int = 1000) -> Predictions:
    """Detections for long videos of short actions: windows of each class's usual length in seconds, side by side.

    Every class has one length, the median of its training instances; a video is tiled with it at a stride of half a
    length, each tile scored by how much of the training time the class fills. Where that would be more than ``count``
    tiles in all, each class keeps its share of them, evenly spaced; one at least.
    """
    lengths: dict[str, list[float]] = {}
    filled: dict[str, float] = {}
    total = sum(v.duration for v in training.values()) or 1.0
    for video in training.values():
        for s in video.annotations:
            if s.label is not None and s.end > s.start:
                lengths.setdefault(s.label, []).append(s.duration)
                filled[s.label] = filled.get(s.label, 0.0) + s.duration
    usual = {name: float(np.median(found)) for name, found in lengths.items()}
    classes = sorted(usual, key=lambda name: (-filled[name], name))
    most = max(1, count // max(1, len(classes)))
    found: Predictions = {}
    for vid, video in videos.items():
        found[vid] = []
        for name in classes:
            starts = np.arange(0.0, max(video.duration - usual[name] / 2, 1e-9), usual[name] / 2)
            if len(starts) > most:
                starts = starts[((np.arange(most) + 0.5) * len(starts) / most).astype(int)]
            found[vid] += [Segment(float(a), float(min(a + usual[name], max(video.duration, a))), name,
                                   filled[name] / total) for a in starts]
    return found


def proposals(training: Truth | None, videos: Truth, count: int = 100, seed: int = 0) -> Predictions:
    """Class-agnostic stretches: those that cover training best, or uniform random ones where there is no training."""
    if training is not None:
        real, _ = relative(training)
        fractions = covering(real, count, np.linspace(0.5, 0.95, 10).tolist())
        if len(fractions):
            return {vid: _stretched(fractions, v.duration) for vid, v in videos.items()}
    rng = np.random.default_rng(seed)
    return {vid: [Segment(float(a * v.duration), float(b * v.duration), score=float(score))
                  for a, b, score in zip(*np.sort(rng.random((2, count)), axis=0), rng.random(count))]
            for vid, v in videos.items()}


# ---------------------------------------------------------------------------------------------- sentences


def asked(truth: Truth) -> list[tuple[str, Segment]]:
    """Every sentence of the truth once for each video and id it has: (video, an annotation that carries it)."""
    seen: dict[tuple[str, str | None, str], Segment] = {}
    for vid, video in truth.items():
        for s in video.annotations:
            if s.sentence is not None:
                seen.setdefault((vid, s.id, s.sentence), s)
    return [(vid, s) for (vid, _, _), s in seen.items()]


def answers(fractions: NDArray[np.float64], videos: Truth) -> Predictions:
    """The same spans to every sentence that is asked."""
    found: Predictions = {vid: [] for vid in videos}
    for vid, s in asked(videos):
        found[vid] += _stretched(fractions, videos[vid].duration, query=s.sentence, id=s.id)
    return found


WHOLE: NDArray[np.float64] = np.array([[0.0, 1.0]])
"""The span that is the whole video."""


def said(training: Truth, sample: int = 2000) -> str | None:
    """The training sentence that is most like all others: the highest mean cosine of word counts (first of equals)."""
    sentences = list(dict.fromkeys(s.sentence for v in training.values() for s in v.annotations if s.sentence))
    if not sentences:
        return None
    chosen = [sentences[i] for i in np.random.default_rng(0).permutation(len(sentences))[:sample]]
    words = {word: i for i, word in enumerate(sorted({w for s in chosen for w in s.lower().split()}))}
    counts = np.zeros((len(chosen), len(words)), np.float32)
    for i, sentence in enumerate(chosen):
        for word in sentence.lower().split():
            counts[i, words[word]] += 1
    counts /= np.linalg.norm(counts, axis=1, keepdims=True).clip(min=1e-9)
    return chosen[int((counts @ counts.sum(0)).argmax())]


def captions(training: Truth, videos: Truth, at: Predictions | None = None, count: int = 5) -> Predictions:
    """One sentence for everything: at the spans that cover training best, or at the segments of ``at``."""
    sentence = said(training)
    if sentence is None:
        return {vid: [] for vid in videos}
    if at is not None:
        return {vid: [replace(s, sentence=sentence) for s in row] for vid, row in at.items()}
    fractions = covering(relative(training, lambda s: s.sentence is not None)[0], count)
    return {vid: _stretched(fractions, v.duration, sentence=sentence) for vid, v in videos.items()}


def highlights(training: Sequence[Moments] | None, asked: Sequence[Moments]) -> list[Moments]:
    """Stretches and a curve that are the same for every sentence.

    Without training: the whole video, and no clip better than another (equal scores: the first clip is taken). With
    it: the spans that cover its windows best, and how high each part of a video was rated on average.
    """
    fractions, curve = WHOLE, np.zeros(CELLS)
    if training:
        rows = [(w.start / m.duration, w.end / m.duration) for m in training if m.duration for w in m.windows]
        fractions = covering(np.array(rows).reshape(-1, 2).clip(0, 1), 10)
        total, times = np.zeros(CELLS), np.zeros(CELLS)
        for m in training:
            if m.duration and m.saliency is not None and m.clips is not None and len(m.clips):
                cell = np.minimum(((m.clips + 0.5) * m.step / m.duration * CELLS).astype(int), CELLS - 1)
                rated = np.zeros(CELLS)  # a clip that nobody rated is outside the moments: 0
                np.maximum.at(rated, cell, m.saliency.mean(-1))
                total += rated
                times += 1
        curve = total / np.maximum(times, 1)
    found = []
    for m in asked:
        duration = m.duration or max((w.end for w in m.windows), default=m.step)
        clips = max(1, int(duration / m.step))
        at = np.minimum(((np.arange(clips) + 0.5) / clips * CELLS).astype(int), CELLS - 1)
        found.append(replace(m, windows=tuple(_stretched(fractions, duration)), saliency=curve[at], clips=None))
    return found


# ---------------------------------------------------------------------------------------------- frames


def commonest(training: Truth, videos: Truth, cells: int = 1, background: str = "background") -> Predictions:
    """For each of ``cells`` equal parts of a video the label that fills most of that part in training.

    Time without a label counts as ``background``. One cell is the constant answer; many know what comes first.
    """
    time: dict[str, NDArray[np.float64]] = {background: np.zeros(cells)}
    edges = np.linspace(0, 1, cells + 1)
    for video in training.values():
        if video.duration <= 0:
            continue
        labelled = np.zeros(cells)
        for s in video.annotations:
            if s.label is None:
                continue
            inside = (np.minimum(edges[1:], s.end / video.duration) - np.maximum(edges[:-1], s.start / video.duration)
                      ).clip(min=0) * video.duration
            time.setdefault(s.label, np.zeros(cells))
            time[s.label] = time[s.label] + inside
            labelled += inside
        time[background] += (video.duration / cells - labelled).clip(min=0)
    names = list(time)
    best = [names[i] for i in np.stack([time[name] for name in names]).argmax(0)]
    return {vid: [Segment(float(a * v.duration), float(b * v.duration), name, 1.0)
                  for a, b, name in zip(edges[:-1], edges[1:], best)] for vid, v in videos.items()}


# ---------------------------------------------------------------------------------------------- ceilings


def oracle(truth: Truth) -> Predictions:
    """The truth itself as predictions of score 1; a sentence answers itself."""
    return {vid: [replace(s, score=1.0, query=s.sentence) for s in v.annotations] for vid, v in truth.items()}


def oracle_proposals(truth: Truth, count: int = 100) -> Predictions:
    """The truth of every video, filled up to ``count`` by saying it again at lower scores.

    Filled up, for proposals may be allotted to videos in proportion to how many each has: an oracle with fewer for
    videos that show less would be cut short where one answer a video is looked at.
    """
    found: Predictions = {}
    for vid, video in truth.items():
        row = list(video.annotations)
        said = range(max(count, len(row)) if row else 0)
        found[vid] = [replace(row[i % len(row)], score=1 - i / len(said)) for i in said]
    return found


def oracle_highlights(truth: Sequence[Moments]) -> list[Moments]:
    """Every window, and the mean rating of every clip."""
    found = []
    for m in truth:
        duration = m.duration or max((w.end for w in m.windows), default=m.step)
        clips = max(int(np.ceil(duration / m.step)), 1 + (int(m.clips.max()) if m.clips is not None and len(m.clips)
                                                           else 0))
        curve = np.zeros(clips)
        if m.clips is not None and m.saliency is not None and len(m.clips):
            curve[m.clips] = m.saliency.mean(-1)
        found.append(replace(m, windows=tuple(replace(w, score=1.0) for w in m.windows), saliency=curve, clips=None))
    return found
