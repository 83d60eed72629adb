"""What localizers over a map of spans share. Decoding against slow versions: tests/localizers (G-TAD, BMN)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuemark.batch import Batch
from cuemark.errors import CallError, DataError, ModelError
from cuemark.grid import Features, Grid
from cuemark.nn import losses
from cuemark.nn.maps import boundary_targets, iou_map
from cuemark.nn.spans import (
    Lengths,
    Piece,
    Window,
    lengths,
    map_losses,
    padded,
    pieces,
    proposals,
    shown,
    targets,
    together,
    views,
    windows,
)
from cuemark.segments import Segment


def features(count: int, duration: float = 24.0, dim: int = 2) -> Features:
    data = np.random.default_rng(count).normal(size=(count, dim)).astype(np.float32)
    return Features(data, Grid.over(0.0, duration, count), duration)


def test_a_video_is_one_view_or_windows_that_start_every_half():
    whole, = views(features(30), 8, "video")
    assert (whole.grid.count, whole.grid.start, whole.grid.end) == (8, 0.0, pytest.approx(24.0))
    pieces = views(features(30), 8, "windows")
    assert [p.grid.start for p in pieces] == pytest.approx([0.8 * i for i in range(0, 25, 4)])
    assert pieces[-1].grid.end == pytest.approx(24.0)
    with pytest.raises(DataError, match="0 rows"):
        views(Features(np.zeros((0, 2), np.float32), Grid(0, 1, 0, 1), 10.0), 8, "video")


def test_a_batch_is_padded_to_what_the_network_sees():
    batch = Batch.collate([features(3), features(5)])
    data, mask = padded(batch, 7, 2)
    assert data.shape == (2, 7, 2)
    assert mask.sum(dim=1).tolist() == lengths(batch).tolist() == [3, 5]
    assert not data[~mask].any()
    torch.testing.assert_close(data[:, :5], batch.features)
    with pytest.raises(ModelError, match="width 3, these have width 2"):
        padded(batch, 7, 3)
    with pytest.raises(ModelError, match="4 positions at once, got 5"):
        padded(batch, 4, 2)


def test_targets_are_the_maps_of_the_truth_in_positions():
    rows = [features(12), features(6, duration=12.0)]
    truth = [[Segment(4.0, 12.0, "run"), Segment(5.0, 5.0, "run"), Segment(6.0, 30.0, "other")], [Segment(9.0, 99.0)]]
    found = targets(Batch.collate(rows, truth), 12, 5, ["jump", "run"], (-0.5, 1.5))
    for row, spans in enumerate(([[2.0, 6.0], [3.0, 12.0]], [[4.5, 6.0]])):  # 2 s each, cut to the sequence
        np.testing.assert_allclose(found.iou[row], iou_map(np.array(spans), 5, 12))
        np.testing.assert_allclose((found.start[row], found.end[row]),
                                   boundary_targets(np.array(spans), 12, (-0.5, 1.5)))
    assert (found.rows.tolist(), found.spans.tolist(), found.labels.tolist()) == ([0], [[2.0, 6.0]], [1])
    with pytest.raises(CallError, match="needs truth"):
        targets(Batch.collate(rows), 12, 5, [])


def test_losses_see_what_is_inside_and_nothing_else():
    batch = Batch.collate([features(6), features(4, duration=16.0)], [[Segment(4, 16)], [Segment(0, 15)]])
    target, mask = targets(batch, 6, 6, []), batch.mask
    generator = torch.Generator().manual_seed(0)
    out = {"start": torch.rand(2, 6, generator=generator), "end": torch.rand(2, 6, generator=generator),
           "map": torch.rand(2, 2, 6, 6, generator=generator)}
    torch.manual_seed(1)
    found = map_losses(out, target, mask, training=True)
    inside = torch.zeros(2, 6, 6, dtype=torch.bool)
    for row, length in enumerate((6, 4)):
        for d in range(6):
            for s in range(6):
                inside[row, d, s] = s + d + 1 <= length
    iou = target.iou
    assert found["boundary"] == (losses.boundary_loss(out["start"], target.start, mask)
                                 + losses.boundary_loss(out["end"], target.end, mask))
    assert found["regression"] == losses.iou_regression_loss(out["map"][:, 0], iou, inside,
                                                             torch.Generator().manual_seed(1))
    assert found["confidence"] == losses.iou_classification_loss(out["map"][:, 1], iou, inside)
    for name, outside in (("start", ~mask), ("end", ~mask), ("map", ~inside[:, None].expand(2, 2, 6, 6))):
        out[name] = out[name].masked_fill(outside, 0.99)
    torch.manual_seed(1)
    assert map_losses(out, target, mask, training=True) == found


def test_an_empty_row_has_no_proposal():
    out = {"start": torch.ones(2, 4), "end": torch.ones(2, 4), "map": torch.ones(2, 2, 4, 4)}
    batch = Batch.collate([features(4), features(4)])
    batch.mask[1] = False
    for peaks in (True, False):
        (spans, score), (none, nothing) = proposals(out, batch, 100, peaks=peaks, boundary_scores=True)
        assert spans.shape == (10, 2)
        assert [spans.max(), spans.min()] == [4.0, 0.0]
        assert (score == 1).all()
        assert none.shape == (0, 2)
        assert nothing.shape == (0,)


@pytest.mark.parametrize(("count", "size", "hop"), [(30, 8, 4), (30, 8, 8), (31, 8, 3), (9, 8, 4), (57, 16, 5)])
def test_every_cell_is_answered_for_by_the_one_window_in_which_it_is_farther_from_the_cut(count, size, hop):
    pieces = windows(features(count), size, hop)
    answered = np.zeros(count, int)
    for piece in pieces:
        grid = piece.grid
        assert isinstance(grid, Window)
        offset = round(features(count).grid.position(grid.start))
        np.testing.assert_array_equal(piece.data, features(count).data[offset : offset + size])
        answered[offset + grid.first : offset + grid.stop] += 1
        if offset:
            assert grid.first == (size - hop) // 2
        else:
            assert grid.first == 0
    assert answered.tolist() == [1] * count
    assert windows(features(8), 8, 4)[0].data.shape == (8, 2)
    assert not isinstance(windows(features(8), 8, 4)[0].grid, Window)


def test_a_segment_is_cut_where_its_window_was_cut_and_half_of_it_has_to_remain():
    spans = np.array([[-4.0, 4.0], [-6.0, 2.0], [2.0, 11.0], [1.0, 2.0], [20.0, 21.0]])
    first, second, last = (Window(0.0, 1.0, 8, 1.0, a, b) for a, b in ((0, 6), (2, 6), (2, 8)))
    inside, enough = shown(second, spans)
    assert inside.tolist() == [[0, 4], [0, 2], [2, 8], [1, 2], [8, 8]]
    assert enough.tolist() == [True, False, True, True, False]
    assert shown(first, spans)[0].tolist()[:3] == [[-4, 4], [-6, 2], [2, 8]]  # nothing was cut where the video begins
    assert shown(last, spans)[0].tolist()[:3] == [[0, 4], [0, 2], [2, 11]]
    assert shown(Grid(0.0, 0.5, 8, 1.0), spans)[0].tolist()[0] == [-8, 8]
    assert shown(second, spans[:0])[1].shape == (0,)


def of_clips(count: int, rest: float = 0.0) -> Features:
    """Clips of 16 frames at 15 fps every 4, as an encoder sees a video that ends ``rest`` seconds after the last."""
    grid = Grid.of_clips(count, 4, 16, 15.0)
    return Features(np.arange(count, dtype=np.float32)[:, None], grid, float(grid.windows[-1, 1]) + rest)


@pytest.mark.parametrize(("count", "long"), [(100, 5.0), (101, 5.1), (147, 2.0), (76, 20.0), (150, 7.7), (80, 0.1)])
def test_a_long_video_is_seen_in_pieces_that_are_videos_of_their_own(count, long):
    video = of_clips(count, 0.1)
    parts = pieces(video, Lengths(long, 20.0))
    for part in parts:
        seen = part.features
        first = round(part.start / video.grid.step)
        np.testing.assert_array_equal(seen.data, video.data[first:first + seen.grid.count])
        np.testing.assert_allclose(seen.grid.centres + part.start, video.grid.centres[first:first + seen.grid.count])
        assert seen.grid.start == video.grid.start  # as if it began with its piece
        assert part.start + seen.duration <= video.duration + 1e-9
        shortest = video.grid.window + video.grid.step  # two clips
        assert seen.duration == pytest.approx(max(long, shortest), abs=0.14) or part is parts[-1]
    assert parts[0].start == 0
    assert parts[-1].start + parts[-1].features.duration == pytest.approx(video.duration)


@given(st.integers(76, 400), st.floats(0.3, 20), st.floats(0, 1), st.floats(0.0, 0.5))
def test_every_moment_is_answered_for_and_a_short_one_seen_whole(count, long, at, share):
    video = of_clips(count)
    parts = pieces(video, Lengths(long, 20.0))
    length = share * (max(part.features.grid.count for part in parts) - 1) * video.grid.step  # up to half of a piece
    moment = Segment(start := at * (video.duration - length), start + length)
    (part, (seen,)), = [(part, shown) for part in parts if (shown := part.within([moment]))]
    assert seen.start >= -1e-9
    assert seen.end <= part.features.duration + 1e-9
    said = together({part: [replace(seen, score=0.5)]})
    assert [(s.start, s.end, s.score) for s in said] == [(pytest.approx(moment.start), pytest.approx(moment.end), 0.5)]


def test_neighbours_who_say_the_same_moment_are_one_answer():
    video = of_clips(200)
    parts = pieces(video, Lengths(10.0, 20.0))
    before, after = parts[:2]
    seam = before.high
    assert after.low == seam

    def saying(part, middle, length, label, score):
        start = seam + middle - length / 2 - part.start
        return Segment(start, start + length, label, score)

    answers = {before: [saying(before, *moment) for moment in (
                   (0.3, 4, "a", 0.5), (-1, 2, "b", 0.4), (2, 1, "a", 0.9), (-0.2, 4, "c", 0.7))],
               after: [saying(after, *moment) for moment in (
                   (-0.3, 4, "a", 0.6), (-0.9, 2, "c", 0.1), (0.1, 4, "c", 0.7))]}
    assert [(s.label, s.score, round(s.middle - seam, 3)) for s in together(answers)] == [
        ("c", 0.7, -0.2), ("a", 0.6, -0.3), ("b", 0.4, -1.0)]  # best first; what lies far behind a seam is the other's
    whole = Piece(video)
    assert together({whole: [Segment(3, 4, "a", 0.1), Segment(3, 4, "a", 0.2)]}) == [
        Segment(3, 4, "a", 0.1), Segment(3, 4, "a", 0.2)]  # as the localizer has them
    assert together({before: [], after: []}) == together({}) == []


def test_examples_show_what_else_is_in_their_piece():
    parts = pieces(of_clips(200), Lengths(10.0, 20.0))
    near, far = Segment(2.0, 3.0), Segment(40.0, 41.0)
    shown = parts[0].within([near, Segment(9.0, 9.5), far])
    assert shown == [near, Segment(9.0, 9.5), far]  # what it does not show lies outside of it
    assert parts[0].within([far]) == []


@pytest.mark.parametrize("known", [None, Lengths(5.0, 28.0)])
def test_videos_as_long_as_known_ones_stay_whole(known):
    video = of_clips(99)
    assert video.duration < 28.0
    part, = pieces(video, known)
    assert part.features is video
    assert part.within([Segment(0.0, 40.0)]) == [Segment(0.0, 40.0)]


def test_two_rows_are_no_more_than_a_piece():
    video = Features(np.zeros((2, 1), np.float32), Grid(0, 30, 2, 30), 60.0)
    assert [part.features for part in pieces(video, Lengths(1.0, 10.0))] == [video]
