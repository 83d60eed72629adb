"""From clips to answers: what is said, once, and why."""

from __future__ import annotations

import numpy as np

from cuemark.grid import Grid
from cuemark.ranking import FUSED, Candidate, around, fused, once
from cuemark.segments import Segment
from cuemark.similarity import Curve


def candidate(number: int, start: float, end: float, why: str = "looks like it") -> Candidate:
    return Candidate(number, Segment(start, end), 0.5, start, [why])


def test_moments_answer_where_a_best_clip_lies_in_them():
    cosines = np.zeros(10, np.float32)
    cosines[[2, 7]] = 0.8, 0.6
    curve = Curve(cosines, Grid(0.0, 1.0, 10, 1.0), 10.0, np.zeros(0, np.int64))
    moments = [Segment(2.0, 4.0), Segment(2.0, 3.5), Segment(6.0, 9.0), Segment(0.0, 1.0)]
    found = around(5, curve, [2, 7], moments, "why", False)
    assert [(c.number, c.segment, c.similarity, c.picture) for c in found] == [
        (5, Segment(2.0, 4.0), np.float32(0.8), 2.5), (5, Segment(6.0, 9.0), np.float32(0.6), 7.5)]
    assert [c.segment for c in around(5, curve, [7], moments, "why", False)] == [Segment(6.0, 9.0)]
    assert [c.segment for c in around(5, curve, [7], moments, "why", True)] == [moments[i] for i in (0, 2, 3)]
    alone, = around(5, curve, [5, 7], [], "why", False)
    assert (alone.segment, alone.similarity) == (Segment(5.0, 6.0), 0.0)


def test_two_rankings_are_fused_by_reciprocal_ranks():
    seen = [candidate(1, 0, 2), candidate(2, 0, 2), candidate(3, 0, 2)]
    told = [candidate(3, 1, 3, "said"), candidate(4, 0, 1, "said"), candidate(3, 1, 2, "written")]
    both = fused(seen, told)
    assert [c.number for c in both] == [3, 1, 2, 4]
    assert both[0].rank == 1 / (FUSED + 3) + 1 / (FUSED + 1)  # the second text of it only says why
    assert both[0].why == ["looks like it", "said", "written"]


def test_footage_that_is_there_twice_answers_once():
    # a time t of video 2 is t + 10 on the clock of video 1
    stands = {1: (1, 0.0), 2: (1, 10.0), 3: (3, 0.0)}
    first, same, later, other, inside = (candidate(1, 10, 14), candidate(2, 0, 4), candidate(2, 6, 9),
                                         candidate(3, 10, 14), candidate(1, 10, 13))
    kept = once([first, same, later, other, inside], stands)
    assert [id(c) for c in kept] == [id(c) for c in (first, later, other)]
    assert [c.also for c in kept] == [[2], [], []]
    assert once([], {}) == []
