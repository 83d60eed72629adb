"""Batches: padding and its mask, the clocks that travel along, and moving to a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cuemark.batch import Batch, ClipBatch
from cuemark.grid import Features, Grid
from cuemark.segments import Segment


def features(count: int, dim: int = 3, dtype: type = np.float32) -> Features:
    data = np.random.default_rng(count).normal(size=(count, dim)).astype(dtype)
    return Features(data, Grid.of_clips(count, 8, 16, 15.0), count * 8 / 15 + 1.0)


def test_collate_pads_and_masks():
    rows = [features(5), features(2), features(9)]
    batch = Batch.collate(rows)
    assert batch.features.shape == (3, 9, 3)
    assert batch.features.dtype == torch.float32
    assert batch.mask.dtype == torch.bool
    assert batch.mask.sum(dim=1).tolist() == [5, 2, 9]
    for i, row in enumerate(rows):
        count = row.grid.count
        assert torch.equal(batch.features[i, :count], torch.from_numpy(row.data))
        assert batch.mask[i, :count].all()
        assert (batch.features[i, count:] == 0).all()
    assert batch.grids == [row.grid for row in rows]
    assert batch.durations == [row.duration for row in rows]
    assert batch.truth is None


def test_collate_takes_truth_and_half_precision():
    truth = [[Segment(0, 1, "a")], [], (Segment(2, 3, "b"), Segment(4, 5))]
    batch = Batch.collate([features(1), features(2), features(3, dtype=np.float16)], truth)
    assert batch.truth == [(Segment(0, 1, "a"),), (), (Segment(2, 3, "b"), Segment(4, 5))]
    assert batch.features.dtype == torch.float32
    assert torch.equal(batch.features[2], torch.from_numpy(features(3, dtype=np.float16).data).float())


def test_collate_copies():
    row = features(4)
    batch = Batch.collate([row])
    batch.features += 1
    assert (row.data == features(4).data).all()


def test_a_row_without_features():
    batch = Batch.collate([features(0), features(2)])
    assert batch.mask.tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("dims", [(3, 4), (3, 1), (1, 3)])
def test_rows_of_unequal_width_are_refused(dims: tuple[int, int]):
    widths = rf"\[{min(dims)}, {max(dims)}\]"
    with pytest.raises(ValueError, match=f"2 rows of widths {widths} with no truths make no batch"):
        Batch.collate([features(2, dims[0]), features(3, dims[1])])


def test_a_batch_has_rows():
    for truth in (None, []):
        with pytest.raises(ValueError, match=r"0 rows .* with (no|0) truths make no batch"):
            Batch.collate([], truth)


@pytest.mark.parametrize("truth", [[], [()], [(), (), ()]])
def test_truth_is_one_per_row(truth: list):
    with pytest.raises(ValueError, match=rf"2 rows .* with {len(truth)} truths make no batch"):
        Batch.collate([features(2), features(3)], truth)


def test_to_moves_every_tensor_and_nothing_else():
    batch = Batch.collate([features(5), features(2)], [[Segment(0, 1)], []])
    moved = batch.to("meta")
    assert moved.features.device.type == moved.mask.device.type == "meta"
    assert moved.features.shape == batch.features.shape
    assert (moved.grids, moved.durations, moved.truth) == (batch.grids, batch.durations, batch.truth)
    assert batch.features.device.type == "cpu"


def test_clips_move_too():
    clips = ClipBatch(torch.zeros(2, 3, 4, 8, 8), torch.tensor([1, -1]), torch.tensor([True, False]),
                      text=torch.zeros(2, 7))
    moved = clips.to(torch.device("meta"))
    assert isinstance(moved, ClipBatch)
    for name in ("clips", "label", "foreground", "text"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).dtype == getattr(clips, name).dtype
    assert moved.global_feature is None
    assert moved.text_id is None
