"""The only converter between indices and seconds, and the array that travels with it.

A :class:`Grid` is a row of equal cells on a video's time line. Cell ``i`` is ``[start + i·step, start + (i+1)·step)``;
what was looked at to describe it, the *window*, is centred on the cell and may be longer (overlapping clips) or
shorter than it. For clips of 16 frames at 15 fps taken every ``stride`` frames, clip ``i`` covers
``[i·stride/15, i·stride/15 + 16/15)`` s and its centre is ``(i·stride + 8)/15`` s (TSP's extraction).

Positions are real numbers in units of cells: 0 is the left edge of cell 0, ``count`` the right edge of the last.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Grid:
    """``count`` cells of ``step`` seconds from ``start`` seconds; each was seen through ``window`` seconds.

    Raises:
        ValueError: ``step`` or ``window`` is not positive, ``count`` is negative, or something is not finite.
    """

    start: float
    step: float
    count: int
    window: float

    def __post_init__(self) -> None:
        if not (0 < self.step < np.inf and 0 < self.window < np.inf and self.count >= 0 and np.isfinite(self.start)):
            raise ValueError(f"not a grid: {self}")

    @classmethod
    def of_clips(cls, count: int, stride: int, frames: int, fps: float) -> Grid:
        """The grid of clips of ``frames`` frames at ``fps`` that start every ``stride`` frames, from 0 s."""
        window = frames / fps
        step = stride / fps
        return cls(start=window / 2 - step / 2, step=step, count=count, window=window)

    @classmethod
    def over(cls, start: float, end: float, count: int) -> Grid:
        """``count`` equal cells that tile ``[start, end]`` seconds."""
        step = (end - start) / max(count, 1)
        return cls(start=start, step=step, count=count, window=step)

    @property
    def end(self) -> float:
        """Right edge of the last cell, in seconds."""
        return self.start + self.count * self.step

    @property
    def centres(self) -> np.ndarray:
        """``(count,)`` seconds."""
        return self.start + (np.arange(self.count) + 0.5) * self.step

    @property
    def windows(self) -> np.ndarray:
        """``(count, 2)`` starts and ends, in seconds, of what each cell was described from."""
        half = self.window / 2
        return np.stack([self.centres - half, self.centres + half], axis=1)

    def seconds(self, position: Any) -> Any:
        """Positions (numbers, arrays or tensors, in cells) to seconds."""
        return self.start + position * self.step

    def position(self, seconds: Any) -> Any:
        """Seconds to positions in cells; not clipped."""
        return (seconds - self.start) / self.step

    def covered(self, spans: np.ndarray) -> np.ndarray:
        """``(count,)`` float32: the share of each cell that lies inside any of ``spans``, ``(n, 2)`` seconds."""
        left = np.arange(self.count, dtype=np.float64)
        share, reached = np.zeros(self.count), -np.inf
        for a, b in self.position(np.asarray(spans, np.float64).reshape(-1, 2)[np.argsort(spans[:, 0])]).tolist():
            share += (np.minimum(left + 1, b) - np.maximum(left, max(a, reached))).clip(min=0)  # an overlap counts once
            reached = max(b, reached)
        return share.clip(max=1).astype(np.float32)

    def to_json(self) -> dict[str, float | int]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Grid:
        return cls(float(data["start"]), float(data["step"]), int(data["count"]), float(data["window"]))


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """``data`` of shape ``(T, C)`` that knows when its rows are, and how long (seconds) its video is.

    Raises:
        ValueError: ``data`` is not two-dimensional or its rows are not the grid's cells.
    """

    data: np.ndarray
    grid: Grid
    duration: float

    def __post_init__(self) -> None:
        if self.data.ndim != 2 or len(self.data) != self.grid.count:
            raise ValueError(f"features of shape {self.data.shape} on a grid of {self.grid.count} cells")

    def resample(self, count: int, over: tuple[float, float] | None = None) -> Features:
        """Interpolate linearly in time to ``count`` equal cells over ``[start, end]`` seconds.

        ``over`` is the whole video by default, so that a proposal can begin at 0 and reach the end; before the first
        and after the last centre the nearest row is repeated. Over the grid's own extent this is what
        ``torch.nn.functional.interpolate(mode="linear", align_corners=False)`` does (G-TAD, BMN with TSP features).
        """
        if not self.grid.count:
            raise ValueError("there is no feature to interpolate")
        target = Grid.over(*(over or (0.0, self.duration)), count)
        at = np.clip(self.grid.position(target.centres) - 0.5, 0, self.grid.count - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, self.grid.count - 1)
        weight = (at - low)[:, None].astype(np.float32)
        data = self.data[low].astype(np.float32) * (1 - weight) + self.data[high].astype(np.float32) * weight
        return Features(data, target, self.duration)
