"""Grounding sentences: recall of the asked moment among the first n answers, and mean tIoU of the first.

A sentence is asked of a video, a system answers with segments, best first. The measure is that of Gao et al.,
"TALL: Temporal Activity Localization via Language Query" (ICCV 2017), for which Charades-STA was made, and of Zhang
et al., "Learning 2D Temporal Adjacent Networks for Moment Localization" (AAAI 2020, "2D-TAN"), whose released code
gives the figures usually quoted on Charades-STA, ActivityNet Captions and TACoS.

Definition
    * A query is one annotation of the truth that has a ``sentence``. Annotations of one video that share an ``id``
      are one query with several windows (QVHighlights, DiDeMo); an answer is then as good as its best tIoU with any.
    * ``R@n,IoU=m`` is the share of queries of which at least one of the first n answers has tIoU ``>= m``; with
      ``strict``, ``> m``. 2D-TAN counts strictly, QVHighlights and UnLoc do not. The two differ where a tIoU is the
      threshold itself, as happens with round times and answers on a grid.
    * ``mIoU`` is the mean over queries of the tIoU of the first answer.
    * ``tIoU = |a ∩ b| / |a ∪ b|`` in seconds. 2D-TAN divides by the hull instead of the union, which is the same for
      segments that overlap, and for others both give 0; so does this file, for the hull is rounded less often and
      annotators like halves (30 moments of ActivityNet Captions' val_2 fill exactly half of their video). Two
      segments of zero length: 0.

Which answers belong to which query
    A prediction is looked up among the queries of its own video:
    1. It carries an ``id``, and so does any query of the video: it answers the query with this id, or none.
    2. Otherwise it answers each query with its text: its ``query`` (if that is None, its ``sentence``) equals the
       sentence up to upper and lower case and white space (the sentences of ActivityNet Captions begin with a blank).
       Charades-STA asks some sentences twice of one video, with different moments: the answers then serve both. A
       system that was asked twice has answered twice, so of such answers with equal times and score the repeated
       ones are left out.
    3. What meets no query is left out and counted in ``unknown``, predictions of videos without queries too.
    A query that nothing answers is missed (tIoU 0) and counted in ``missing``.

Order of the answers of one query
    * ``order="score"`` (default): falling score, equal scores as listed; as listed when any of them has no score.
    * ``order="listed"``: as listed, whatever the scores: what QVHighlights' evaluator does.
    * ``nms``: then greedy suppression, as 2D-TAN does it: of the answers still there the first is kept, and those whose
      tIoU with it is ``> nms`` are dropped. (2D-TAN: 0.5, Charades-STA with "pool" 0.45, TACoS with "pool" 0.4.) Here
      it does divide by the union, and the rounding decides: answers on a grid have tIoUs of exactly one half.

Edge cases
    No query in the truth, or a score that is NaN, is a DataError; no predictions at all give 0.

Floors, for comparison (test splits, ``strict``; one answer, the whole video): R@1 at .3/.5/.7 and mIoU are 35.00/0.43/
0.00 and 27.13 on Charades-STA, 47.99/21.07/12.41 and 34.57 on ActivityNet Captions (val_2); on TACoS at .1/.3/.5/.7
25.27/5.90/1.55/0.77 and 8.76. Five answers that know neither video nor sentence, only where moments lie in training,
reach R@5,IoU=0.5 of 80.67 on Charades-STA: that figure tells systems apart from each other, not from chance.

Finding is not reading
    A system that never reads the sentence, but answers with any of the moments that a video's annotations describe, is
    far above those floors: it draws, and a video has few moments. :attr:`GroundingScore.choice` is the measure of
    reading alone: of the first answers that meet one of several moments, how many meet the asked one, and how many a
    draw would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cuemark.errors import CallError, DataError
from cuemark.metrics.counting import levels_of, pairs, refuse_nan, tiou_of, tiou_of_hull, weights_of
from cuemark.segments import Predictions, Segment, Truth, times

MEETS = 0.5
"""The tIoU from which an answer is one of a video's moments, for :attr:`GroundingScore.choice`."""
FEWEST = 20
"""Queries from which on it is said that answers are no better than a draw."""


class Choice(NamedTuple):
    """Whether the sentence decides which of a video's moments is answered."""

    queries: int
    """Those whose first answer is one of several moments of the video (tIoU at least :data:`MEETS`), some of which
    would be wrong."""
    right: float
    """Share of them that are answered with the asked one."""
    draw: float
    """The share that would be if one of the video's moments were drawn."""


@dataclass(frozen=True, eq=False)
class GroundingScore:
    """How well each query was answered; fractions in 0..1 but for :meth:`figures`."""

    videos: tuple[str, ...]
    """The V videos with a query, in order of the truth."""
    video: NDArray[np.int64]
    """``(Q,)`` index into ``videos`` of each query."""
    ns: tuple[int, ...]
    tious: tuple[float, ...]
    hits: NDArray[np.bool_]
    """``(Q, N, T)``: one of the first ``ns[i]`` answers reaches ``tious[t]``."""
    iou: NDArray[np.float64]
    """``(Q,)`` tIoU of the first answer, 0 without one."""
    first: NDArray[np.float64]
    """``(Q, 2)`` the first answer in seconds, NaN without one."""
    windows: tuple[NDArray[np.float64], ...]
    """Of each query the ``(W, 2)`` moments that answer it."""
    missing: int
    """Queries that nothing answers."""
    unknown: int
    """Predictions that answer no query and were left out."""

    @property
    def recall(self) -> NDArray[np.float64]:
        """``(N, T)`` share of queries found among the first n answers at each threshold."""
        return self.hits.mean(axis=0)

    @property
    def miou(self) -> float:
        """Mean over queries of the tIoU of the first answer."""
        return float(self.iou.mean())

    @cached_property
    def near(self) -> NDArray[np.float64]:
        """``(Q,)`` tIoU of the first answer with the nearest moment of any query of its video."""
        moments, owner = self._moments
        who, _, iou = pairs(self.first, self.video, moments, self.video[owner], 0.0, tiou_of_hull)
        near = np.zeros(len(self.first))
        np.maximum.at(near, who, iou)
        return near

    @cached_property
    def draw(self) -> NDArray[np.float64]:
        """``(Q,)`` share of the video's moments that would answer the query (tIoU :data:`MEETS`)."""
        moments, owner = self._moments
        video = self.video[owner]
        who, what, _ = pairs(moments, video, moments, video, MEETS, tiou_of_hull)
        right = np.unique(np.stack([owner[who], what], axis=1), axis=0)[:, 0]  # of several windows, any
        return np.bincount(right, minlength=len(self.first)) / np.bincount(video)[self.video]

    @cached_property
    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """All that is asked for, ``(M, 2)`` seconds, and the query of each."""
        return np.concatenate(self.windows), np.repeat(np.arange(len(self.windows)), [len(w) for w in self.windows])

    @property
    def choice(self) -> Choice:
        """Of first answers that meet one of several moments: how many meet the asked one, and how many by a draw."""
        of = (self.draw < 1) & (self.near >= MEETS)
        if not of.any():
            return Choice(0, math.nan, math.nan)
        return Choice(int(of.sum()), float((self.iou[of] >= MEETS).mean()), float(self.draw[of].mean()))

    @property
    def doubt(self) -> str | None:
        """A sentence where no more answers are right than a draw would have, but for chance (two deviations)."""
        count, right, draw = self.choice
        if count < FEWEST or right > draw + 2 * math.sqrt(draw * (1 - draw) / count):
            return None
        return (f"sentences may not be read: where a video has several moments, the first answer is the asked one in "
                f"{right:.0%} of {count} queries that meet any, and a draw would be in {draw:.0%}.")

    def figures(self, weights: NDArray[np.float64] | None = None) -> dict[str, float]:
        """``R@n,IoU=m`` of every n and m, and ``mIoU``, in percent.

        Args:
            weights: ``(V,)`` how many times each video counts; None: once.

        Raises:
            CallError: there is not one weight for each video.
        """
        if weights is None:
            recall, miou = self.recall, self.miou
        else:
            each = weights_of(weights, self.videos)[self.video]
            if (total := each.sum()) > 0:
                recall, miou = np.tensordot(each, self.hits, 1) / total, float(each @ self.iou / total)
            else:
                recall, miou = np.full(self.hits.shape[1:], math.nan), math.nan
        row = {f"R@{n},IoU={m:g}": 100 * float(recall[i, t])
               for i, n in enumerate(self.ns) for t, m in enumerate(self.tious)}
        return row | {"mIoU": 100 * miou}


def grounding(truth: Truth, predictions: Predictions, ns: Sequence[int] = (1, 5),
              tious: Sequence[float] = (0.3, 0.5, 0.7), strict: bool = False, nms: float | None = None,
              order: Literal["score", "listed"] = "score") -> GroundingScore:
    """Score answers to sentences; the module's docstring is the definition.

    Args:
        truth: video id -> what is known about it. Annotations with a ``sentence`` are the queries.
        predictions: video id -> segments with the ``query`` they answer, or its ``id``.
        ns: how many answers are looked at.
        tious: thresholds in 0..1.
        strict: tIoU must be above the threshold, not just reach it.
        nms: suppress answers whose tIoU with a better one is above this; None keeps all.
        order: by falling score, or as listed.

    Raises:
        DataError: the truth has no sentence; one id stands for different sentences of a video; a score is NaN.
        CallError: ``ns``, ``tious``, ``nms`` or ``order`` cannot be meant.
    """
    _check(ns, nms, order)
    levels = levels_of(tious)
    refuse_nan(predictions)
    videos, video, windows, by_id, by_text = _queries(truth)
    answers: list[list[Segment]] = [[] for _ in windows]
    unknown = 0
    for vid, found in predictions.items():
        ids, texts = by_id.get(vid, {}), by_text.get(vid, {})
        seen = set()
        for s in found:
            if ids and s.id is not None:
                asked = ids.get(s.id, [])
            else:
                asked = texts.get(_text(s.query if s.query is not None else s.sentence), [])
            unknown += not asked
            if len(asked) > 1:  # one sentence asked several times: each answer once
                if (answer := (asked[0], s.start, s.end, s.score)) in seen:
                    continue
                seen.add(answer)
            for q in asked:
                answers[q].append(s)
    if order == "score":
        for row in answers:
            if all(s.score is not None for s in row):
                row.sort(key=lambda s: -s.score)  # type: ignore[operator]

    most = max(ns)
    best = _best(answers if nms is not None else [row[:most] for row in answers], windows, nms, most)
    reached = np.maximum.accumulate(best, axis=1)[:, [n - 1 for n in ns], None]
    hits = reached > levels if strict else reached >= levels
    # A query without answers has -1, which reaches no threshold, not even 0.
    first = np.array([(row[0].start, row[0].end) if row else (math.nan, math.nan) for row in answers])
    return GroundingScore(tuple(videos), np.array(video, np.int64), tuple(ns), tuple(levels.tolist()), hits,
                          best[:, 0].clip(min=0), first, tuple(windows), sum(not row for row in answers), unknown)


def _check(ns: Sequence[int], nms: float | None, order: str) -> None:
    if not ns or any(isinstance(n, bool) or n != int(n) or n < 1 for n in ns):
        raise CallError(f"ns, how many answers are looked at, must be whole numbers from 1 on, got {list(ns)}.")
    if nms is not None and not 0 <= nms <= 1:
        raise CallError(f"nms, the tIoU above which a lower answer is dropped, must be from 0 to 1, got {nms}.")
    if order not in ("score", "listed"):
        raise CallError(f"order must be 'score' or 'listed', got '{order}'.")


def _text(sentence: str | None) -> str | None:
    return None if sentence is None else " ".join(sentence.casefold().split())


def _queries(truth: Truth) -> tuple[list[str], list[int], list[NDArray[np.float64]],
                                    dict[str, dict[str, list[int]]], dict[str, dict[str | None, list[int]]]]:
    """The queries of the truth: videos; of each query its video and windows; where to find them by id and by text."""
    videos: list[str] = []
    video: list[int] = []
    windows: list[NDArray[np.float64]] = []
    by_id: dict[str, dict[str, list[int]]] = {}
    by_text: dict[str, dict[str | None, list[int]]] = {}
    for vid, known in truth.items():
        grouped: dict[str | int, list[Segment]] = {}
        for i, s in enumerate(known.annotations):
            if s.sentence is not None:
                grouped.setdefault(i if s.id is None else s.id, []).append(s)
        if not grouped:
            continue
        ids, texts = by_id.setdefault(vid, {}), by_text.setdefault(vid, {})
        for key, segments in grouped.items():
            said = {_text(s.sentence) for s in segments}
            if len(said) > 1:
                raise DataError(f"video '{vid}': id '{key}' stands for {len(said)} different sentences; an id must "
                                "name one query.")
            if isinstance(key, str):
                ids[key] = [len(windows)]
            texts.setdefault(said.pop(), []).append(len(windows))
            video.append(len(videos))
            windows.append(times(segments))
        videos.append(vid)
    if not windows:
        raise DataError("the truth has no annotation with a sentence to ground; check the file and the subset chosen.")
    return videos, video, windows, by_id, by_text


def _best(answers: Sequence[Sequence[Segment]], windows: Sequence[NDArray[np.float64]], nms: float | None, most: int
          ) -> NDArray[np.float64]:
    """``(Q, most)`` best tIoU with any window of the first ``most`` answers that ``nms`` leaves; -1 where none is."""
    count = np.array([len(row) for row in answers], np.int64)
    query = np.repeat(np.arange(len(answers)), count)
    spans = times([s for row in answers for s in row])
    rank = np.arange(len(query)) - np.repeat(count.cumsum() - count, count)
    if nms is not None:
        kept, rank = _suppress(spans, query, len(answers), nms, most)
        spans, query = spans[kept], query[kept]
    # Every (answer, window) pair of a query.
    number = np.array([len(w) for w in windows], np.int64)
    start = number.cumsum() - number
    pair = np.repeat(np.arange(len(query)), number[query])
    within = np.arange(len(pair)) - np.repeat(number[query].cumsum() - number[query], number[query])
    real = np.concatenate(windows)[start[query[pair]] + within]
    best = np.full((len(answers), most), -1.0)
    np.maximum.at(best, (query[pair], rank[pair]), tiou_of_hull(spans[pair], real))
    return best


def _suppress(spans: NDArray[np.float64], query: NDArray[np.int64], queries: int, nms: float, most: int
              ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Greedy suppression in all queries at once: which answers are kept, and the rank of each in its query.

    Args:
        spans: ``(n, 2)`` seconds, best first in each query.
        query: ``(n,)`` rising.
    """
    kept, ranks = [], []
    alive = np.arange(len(query))  # of those still there, in order; so the first of a query is its best
    for rank in range(most):
        if not alive.size:
            break
        own, head = np.unique(query[alive], return_index=True)
        leader = np.empty(queries, np.int64)
        leader[own] = alive[head]
        kept.append(alive[head])
        ranks.append(np.full(len(head), rank))
        chosen = leader[query[alive]]
        alive = alive[(alive != chosen) & (tiou_of(spans[alive], spans[chosen], empty=0.0) <= nms)]
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *kept]), np.concatenate([empty, *ranks])
