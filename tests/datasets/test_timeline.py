"""Order, layers and whole frames."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuemark.datasets.timeline import frames_to_seconds, in_order, layers, rate_of, seconds_to_frames
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth


def test_in_order():
    a, b, c = Segment(0, 3), Segment(0, 1), Segment(1, 2)
    assert in_order([c, a, b]) == [b, a, c]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=12))
def test_layers(pairs):
    spans = [(start, start + length, str(i)) for i, (start, length) in enumerate(pairs)]
    rows = layers(spans)
    assert sorted(span for row in rows for span in row) == sorted(spans)
    for row in rows:
        assert all(a[1] <= b[0] for a, b in pairwise(row))
    deepest = max((sum(s <= t < e for s, e, _ in spans) for t in range(30)), default=0)
    if all(length for _, length in pairs):
        assert len(rows) == deepest  # as few as can be


@pytest.mark.parametrize(("fps", "message"), [
    (None, "video 'v' has no frame rate, which CVAT cannot do without; say it with --fps"), (0.0, "cannot have 0.0"),
    (-25.0, "cannot have -25.0 frames"), (math.nan, "cannot have nan frames"), (math.inf, "cannot have inf frames")])
def test_a_rate_to_write_with(fps, message):
    assert rate_of("v", VideoTruth(1.0, fps=29.97), "CVAT") == 29.97
    with pytest.raises(DataError, match=message):
        rate_of("v", VideoTruth(1.0, fps=fps), "CVAT")


@given(first=st.integers(1, 10**6), length=st.integers(0, 10**5),
       fps=st.sampled_from((10, 24, 25, 30000 / 1001, 59.94)))
def test_frames_come_back(first, length, fps):
    """Frames count from 1 and both ends belong: n of them last n / fps seconds."""
    start, end = frames_to_seconds(first, first + length, fps)
    assert start == (first - 1) / fps
    assert end - start == pytest.approx((length + 1) / fps, rel=1e-6)
    assert seconds_to_frames(start, end, fps) == (first, first + length)


def test_seconds_become_whole_frames():
    assert seconds_to_frames(0, 1, 25) == (1, 25)
    assert seconds_to_frames(1, 2, 25) == (26, 50)  # touching segments share no frame
    assert seconds_to_frames(1, 1, 25) == (26, 26)
    assert seconds_to_frames(-3, -1, 25) == (1, 1)
