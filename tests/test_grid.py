"""The converter between indices and seconds, and features that travel with it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from cuemark.grid import Features, Grid

GRIDS = [Grid(0.0, 1.0, 10, 1.0), Grid(-0.25, 0.5, 7, 2.0), Grid.of_clips(31, 16, 16, 15.0), Grid.over(3.0, 8.5, 100),
         Grid.of_clips(5, 4, 32, 29.97), Grid.of_clips(5, 64, 16, 30.0)]


# ------------------------------------------------------------------------------------- indices and seconds


@pytest.mark.parametrize("grid", GRIDS)
def test_seconds_and_positions_are_inverse(grid: Grid):
    positions = np.linspace(-2, grid.count + 2, 57)
    np.testing.assert_allclose(grid.position(grid.seconds(positions)), positions, rtol=0, atol=1e-12)
    seconds = np.linspace(grid.start - 1, grid.end + 1, 57)
    np.testing.assert_allclose(grid.seconds(grid.position(seconds)), seconds, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_edges_and_centres(grid: Grid):
    assert grid.seconds(0) == grid.start
    assert grid.seconds(grid.count) == pytest.approx(grid.end, abs=1e-12)
    np.testing.assert_allclose(grid.centres, [grid.seconds(i + 0.5) for i in range(grid.count)], rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.windows.mean(axis=1), grid.centres, rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.windows[:, 1] - grid.windows[:, 0], grid.window, rtol=0, atol=1e-12)


def test_tensors_and_numbers_are_converted_alike():
    grid = GRIDS[1]
    positions = torch.tensor([0.0, 1.5, 7.0])
    assert grid.seconds(positions).tolist() == [grid.seconds(p) for p in (0.0, 1.5, 7.0)] == [-0.25, 0.5, 3.25]
    assert grid.position(torch.tensor([0.5])).tolist() == [1.5]


@pytest.mark.parametrize("stride", [1, 8, 16, 30])
def test_clips_of_the_tsp_extraction(stride: int):
    """Clip i is [i·stride/15, i·stride/15 + 16/15) s: 16 frames at 15 fps, whose centre is (i·stride + 8)/15 s."""
    grid = Grid.of_clips(count=20, stride=stride, frames=16, fps=15.0)
    i = np.arange(20)
    np.testing.assert_allclose(grid.centres, (i * stride + 8) / 15, rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.windows, np.stack([i * stride, i * stride + 16], 1) / 15, rtol=0, atol=1e-12)
    assert grid.step == stride / 15


def test_cells_of_overlapping_clips_do_not_overlap():
    grid = Grid.of_clips(count=4, stride=8, frames=16, fps=16.0)
    assert (grid.start, grid.step, grid.end) == (0.25, 0.5, 2.25)
    assert grid.windows.tolist() == [[0.0, 1.0], [0.5, 1.5], [1.0, 2.0], [1.5, 2.5]]


def test_over_tiles_the_stretch():
    grid = Grid.over(2.0, 12.0, 4)
    assert grid == Grid(2.0, 2.5, 4, 2.5)
    assert grid.end == 12.0
    assert grid.windows.tolist() == [[2.0, 4.5], [4.5, 7.0], [7.0, 9.5], [9.5, 12.0]]


def test_an_empty_grid():
    grid = Grid(1.0, 0.5, 0, 0.5)
    assert grid.end == 1.0
    assert grid.centres.shape == (0,)
    assert grid.windows.shape == (0, 2)


@pytest.mark.parametrize("grid", GRIDS)
def test_json_round_trip(grid: Grid):
    assert Grid.from_json(json.loads(json.dumps(grid.to_json()))) == grid


@pytest.mark.parametrize("numbers", [(0, 0, 1, 1), (0, -1, 1, 1), (0, 1, -1, 1), (0, 1, 1, 0), (0, math.nan, 1, 1),
                                     (0, 1, 1, math.nan)])
def test_what_is_no_grid(numbers: tuple):
    with pytest.raises(ValueError, match="not a grid"):
        Grid(*numbers)


@pytest.mark.parametrize("numbers", [(math.nan, 1, 1, 1), (0, math.inf, 1, 1), (math.inf, 1, 1, 1)])
def test_a_grid_is_made_of_finite_numbers(numbers: tuple):
    with pytest.raises(ValueError, match="not a grid"):
        Grid(*numbers)


@pytest.mark.parametrize("stretch", [(1.0, 1.0, 4), (3.0, 1.0, 4)])
def test_a_grid_over_nothing(stretch: tuple):
    with pytest.raises(ValueError, match="not a grid"):
        Grid.over(*stretch)


def test_a_grid_of_no_cells_over_a_stretch():
    grid = Grid.over(2.0, 3.0, 0)
    assert (grid.start, grid.end, grid.count) == (2.0, 2.0, 0)
    assert grid.centres.shape == (0,)
    assert grid.windows.shape == (0, 2)
    with pytest.raises(ValueError, match="not a grid"):
        Grid.over(2.0, 3.0, -1)


# ------------------------------------------------------------------------------------- features


def features(count: int, grid: Grid | None = None, duration: float | None = None, seed: int = 0) -> Features:
    data = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    grid = grid or Grid(0.5, 2.0, count, 2.0)
    return Features(data, grid, grid.end if duration is None else duration)


@pytest.mark.parametrize("shape", [(3,), (3, 2, 1), (4, 2)])
def test_features_fit_their_grid(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="grid of 3 cells"):
        Features(np.zeros(shape, np.float32), Grid(0, 1, 3, 1), 3.0)


@pytest.mark.parametrize("count", [1, 2, 7, 50])
@pytest.mark.parametrize("target", [1, 3, 7, 20, 100])
def test_resample_over_its_own_extent_is_torchs_linear_interpolation(count: int, target: int):
    source = features(count)
    resampled = source.resample(target, (source.grid.start, source.grid.end))
    rows = torch.from_numpy(source.data).double().T[None]
    expected = functional.interpolate(rows, size=target, mode="linear", align_corners=False)[0].T.numpy()
    assert resampled.data.shape == (target, 6)
    assert resampled.data.dtype == np.float32
    np.testing.assert_allclose(resampled.data, expected, rtol=0, atol=1e-5)
    assert resampled.grid == Grid.over(source.grid.start, source.grid.end, target)
    assert resampled.duration == source.duration


def test_resample_equals_interpolation_point_by_point():
    source = features(9, Grid.of_clips(9, 8, 16, 15.0), duration=6.1)
    resampled = source.resample(40)
    assert resampled.grid == Grid.over(0.0, 6.1, 40)
    for column in range(6):
        expected = np.interp(resampled.grid.centres, source.grid.centres, source.data[:, column])  # repeats at the ends
        np.testing.assert_allclose(resampled.data[:, column], expected, rtol=0, atol=1e-5)


def test_resample_repeats_the_nearest_row_outside():
    source = features(3, Grid(10.0, 1.0, 3, 1.0), duration=30.0)
    resampled = source.resample(30)
    assert (resampled.data[:10] == source.data[0]).all()
    assert (resampled.data[12:] == source.data[2]).all()
    assert (resampled.data[11] == source.data[1]).all()


def test_resample_to_itself_changes_nothing():
    source = features(8, Grid(0.0, 0.5, 8, 0.5))
    assert (source.resample(8).data == source.data).all()


def test_resample_keeps_a_ramp_a_ramp():
    """Features that say when they are still do so, on any grid inside."""
    grid = Grid(0.0, 0.5, 40, 0.5)
    source = Features(grid.centres[:, None].astype(np.float32), grid, 20.0)
    resampled = source.resample(13, (2.0, 17.0))
    np.testing.assert_allclose(resampled.data[:, 0], resampled.grid.centres, rtol=0, atol=1e-5)


def test_half_precision_is_interpolated_in_single():
    source = features(5)
    half = Features(source.data.astype(np.float16), source.grid, source.duration)
    assert half.resample(9).data.dtype == np.float32
    np.testing.assert_allclose(half.resample(9).data, source.resample(9).data, rtol=0, atol=4e-3)


def test_nothing_cannot_be_resampled():
    with pytest.raises(ValueError, match="there is no feature to interpolate"):
        features(0, Grid(0.0, 1.0, 0, 1.0)).resample(4, (0.0, 2.0))
