"""From the best clips of a library to its answers: moments around them, two rankings made one, nothing said twice.

Moments (:mod:`cuemark.similarity`, or a localizer's) are answers where a best clip lies in them. What was said or
written is found by words, and both rankings are fused by reciprocal ranks (Cormack et al., SIGIR 2009; constant 60).
Answers that overlap in one video, or in footage that is there twice (:mod:`cuemark.copies`), are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cuemark.nn.nms import hard_nms
from cuemark.segments import Segment, times, tiou
from cuemark.similarity import Curve

FUSED = 60
"""The constant of reciprocal rank fusion."""


@dataclass
class Candidate:
    """An answer on its way."""

    number: int
    """Of its video."""
    segment: Segment
    similarity: float | None
    """The best cosine of its clips; None where only words led there."""
    picture: float
    """Seconds of the moment to show."""
    why: list[str]
    rank: float = 0.0
    also: list[int] = field(default_factory=list)
    """Videos that hold the same footage."""


def around(number: int, curve: Curve, clips: Sequence[int], moments: Sequence[Segment], why: str, missed: bool
           ) -> list[Candidate]:
    """What of a video's moments answers: those with one of its best clips in them, each but once.

    Args:
        clips: cells of the video that are among the best of the library, best first.
        moments: best first.
        missed: whether a moment without such a clip answers too: who says where it is saw more than clips.
    """
    cosines, centres, hit = curve.cosines, curve.grid.centres, np.sort(clips)
    bounds = times(moments)
    firsts, lasts = np.searchsorted(centres, bounds[:, 0]), np.searchsorted(centres, bounds[:, 1], "right")
    hits = np.searchsorted(hit, lasts) > np.searchsorted(hit, firsts)
    kept: list[Segment] = []
    found = []
    for i, moment in enumerate(moments):
        if not (missed or hits[i]):
            continue  # of this video, another moment is meant
        if any(moment.overlap(other) > 0.5 * min(moment.duration, other.duration) for other in kept):
            continue  # within a better one, or around it
        first, last = int(firsts[i]), int(lasts[i])
        at = (first + int(cosines[first:last].argmax()) if first < last
              else int(np.abs(centres - moment.middle).argmin()))
        kept.append(moment)
        found.append(Candidate(number, Segment(moment.start, moment.end), float(cosines[at]),
                               float(np.clip(centres[at], moment.start, moment.end)), [why]))
    if not kept:  # what was hit stands out of no neighbourhood: then it alone
        start, end = curve.grid.windows[clips[0]].clip(0.0, curve.duration).tolist()
        found.append(Candidate(number, Segment(start, end), float(cosines[clips[0]]), (start + end) / 2, [why]))
    return found


def fused(seen: Sequence[Candidate], told: Sequence[Candidate]) -> list[Candidate]:
    """Two rankings as one by reciprocal ranks; what overlaps in one video is one answer, with both reasons."""
    for rank, candidate in enumerate(seen):
        candidate.rank = 1 / (FUSED + 1 + rank)
    alone = []
    for rank, words in enumerate(told):
        words.rank = 1 / (FUSED + 1 + rank)
        match = next((c for c in seen if c.number == words.number and c.segment.overlap(words.segment) > 0), None)
        if match is None:
            alone.append(words)
        elif words.why[0] not in match.why:
            if len(match.why) == 1:  # the first text counts, its like only says why
                match.rank += words.rank
            if len(match.why) < 4:
                match.why += words.why
    return sorted([*seen, *alone], key=lambda c: -c.rank)


def once(candidates: Sequence[Candidate], stands: Mapping[int, tuple[int, float]]) -> list[Candidate]:
    """Without what overlaps something better, in its video or in one that holds the same footage.

    Args:
        candidates: best first.
        stands: of each video (:func:`cuemark.copies.standing`).
    """
    if not candidates:
        return []
    spans = times([c.segment for c in candidates])
    spans = spans + np.array([stands[c.number][1] for c in candidates])[:, None]
    footage = np.array([stands[c.number][0] for c in candidates], np.int64)
    ranks = np.arange(len(candidates), 0, -1, dtype=np.float64)
    kept, _ = hard_nms(spans, ranks, 0.5, groups=footage)
    hidden = tiou(spans, spans[kept]) > 0.5
    hidden &= footage[:, None] == footage[kept]
    for i in np.flatnonzero(hidden.any(1)).tolist():
        number, better = candidates[i].number, candidates[kept[hidden[i].argmax()]]
        if better.number != number and number not in better.also:
            better.also.append(number)
    return [candidates[i] for i in kept]
