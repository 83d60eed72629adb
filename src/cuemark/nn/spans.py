"""What localizers over a start x duration map share: what they see, the truth on the map, its losses, its proposals.

Such a localizer sees ``T`` positions at once and answers with three tensors of probabilities: ``"start"`` and
``"end"`` ``(B, T)``, and ``"map"`` ``(B, 2, D, T)``, whose cells are the spans of :mod:`cuemark.nn.maps`:
``map[:, 0]`` regresses a span's tIoU with the truth, ``map[:, 1]`` says whether it is nearly exact.

Shapes: ``B`` batch, ``T`` positions, ``D`` durations, ``C`` feature width, ``n`` spans.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cuemark.batch import Batch
from cuemark.errors import CallError, DataError, ModelError
from cuemark.grid import Features, Grid
from cuemark.nn import losses
from cuemark.nn.maps import boundary_targets, cells, iou_map, valid_cells
from cuemark.segments import Segment, times, tiou

SPANS = ("video", "windows")
_MORE = 1 / 16
"""Of a piece's length: how far beyond its seams it is heard."""

# ------------------------------------------------------------------------------------------------------ what is seen


def refuse_empty(features: Features) -> None:
    """Nothing can be found where there is nothing.

    Raises:
        DataError: the features have no row, or their video no length.
    """
    if not (features.grid.count and features.duration > 0):
        raise DataError(f"features with {features.grid.count} rows of a video of {features.duration} s cannot be "
                        "localized in; extract them again, or leave the video out.")


def views(features: Features, size: int, span: str) -> list[Features]:
    """The whole video resampled to ``size`` positions (``span = "video"``), or windows of ``size`` snippets.

    Windows start every half window until one ends the video.

    Raises:
        DataError: the features have no row, or their video no length.
    """
    refuse_empty(features)
    grid = features.grid
    if span == "video":
        return [features.resample(size)]
    stride = max(size // 2, 1)
    last = max(math.ceil((grid.count - size) / stride), 0) * stride
    pieces = []
    for first in range(0, last + 1, stride):
        data = features.data[first:first + size]
        pieces.append(Features(data, Grid(grid.seconds(first), grid.step, len(data), grid.window), features.duration))
    return pieces


@dataclass(frozen=True, slots=True)
class Window(Grid):
    """The grid of a part of a video: its cells, and those of them that it answers for; others do for the rest."""

    first: int
    """The first cell it answers for; 0 only where the features begin."""
    stop: int
    """After the last one; ``count`` only where the features end."""


def windows(features: Features, size: int, hop: int) -> list[Features]:
    """Windows of ``size`` rows that begin every ``hop``, none where all fits into one.

    What two neighbours share, each answers half of: that which is farther from its own cut.
    """
    grid = features.grid
    if grid.count <= size:
        return [features]
    firsts = range(0, math.ceil((grid.count - size) / hop) * hop + 1, hop)
    seams = [0, *(first + (size - hop) // 2 for first in firsts[1:]), grid.count]
    pieces = []
    for first, begin, stop in zip(firsts, seams[:-1], seams[1:], strict=True):
        data = features.data[first:first + size]
        part = Window(grid.seconds(first), grid.step, len(data), grid.window, begin - first, stop - first)
        pieces.append(Features(data, part, features.duration))
    return pieces


class Lengths(NamedTuple):
    """Seconds of the videos that something was trained to see as a whole."""

    piece: float
    """Of the parts in which it sees longer ones."""
    longest: float


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a long video as a video of its own, whose clock begins with it."""

    features: Features
    start: float = 0.0
    """Seconds of the video at which it begins."""
    low: float = -math.inf
    """It answers for what has its middle between these seconds of the video; its neighbours answer for the rest."""
    high: float = math.inf

    def within(self, segments: Sequence[Segment]) -> list[Segment]:
        """A video's segments by its own clock, if it answers for any of them."""
        if not any(self.low <= s.middle < self.high for s in segments):
            return []
        return [replace(s, start=s.start - self.start, end=s.end - self.start) for s in segments]


def pieces(features: Features, known: Lengths | None) -> list[Piece]:
    """A video longer than any known one in parts that overlap by half; others as they are.

    What sees videos whole, brought to one size, would see everything in a longer one smaller than it ever was. A moment
    of half a part's length is whole in the part that answers for it.

    Args:
        known: None: nothing is, and all videos stay as they are.
    """
    grid = features.grid
    size = max(2, round((known.piece - grid.window) / grid.step) + 1) if known is not None else grid.count
    if known is None or features.duration <= known.longest or grid.count <= size:
        return [Piece(features)]
    parts = []
    for part in windows(features, size, size // 2):
        assert isinstance(part.grid, Window)
        shift = part.grid.start - grid.start
        first = round(shift / grid.step)
        begins, ends = first == 0, first + part.grid.count == grid.count
        own = Grid(grid.start, grid.step, part.grid.count, grid.window)
        parts.append(Piece(
            Features(part.data, own, features.duration - shift if ends else float(own.windows[-1, 1])), shift,
            -math.inf if begins else float(grid.seconds(first + part.grid.first)),
            math.inf if ends else float(grid.seconds(first + part.grid.stop))))
    return parts


def together(answers: Mapping[Piece, Sequence[Segment]]) -> list[Segment]:
    """What the pieces of a video say, by the clock of the video, best first.

    Each says what it answers for and, as a middle is not found to the second, a little more; of two neighbours that say
    the same moment (one label, a tIoU of half or more), the surer is heard.
    """
    said: list[list[Segment]] = []
    for piece, answer in answers.items():
        more = _MORE * piece.features.duration
        there = [replace(s, start=s.start + piece.start, end=s.end + piece.start) for s in answer]
        said.append([s for s in there if piece.low - more <= s.middle < piece.high + more])
    for before, after in pairwise(said):
        labels, others = (np.array([s.label for s in part], object) for part in (before, after))
        scores, theirs = (np.array([s.score or 0.0 for s in part]) for part in (before, after))
        alike = (tiou(times(before), times(after)) >= 0.5) & (labels[:, None] == others)
        surer = scores[:, None] >= theirs
        before[:] = [s for s, gone in zip(before, (alike & ~surer).any(axis=1).tolist(), strict=True) if not gone]
        after[:] = [s for s, gone in zip(after, (alike & surer).any(axis=0).tolist(), strict=True) if not gone]
    everything = [s for part in said for s in part]
    return sorted(everything, key=lambda s: -(s.score or 0.0)) if len(said) > 1 else everything


def shown(grid: Grid, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(n, 2)`` seconds to the positions that a part of a video shows of them, and ``(n,)`` whether half or more is.

    They are cut where a :class:`Window` was cut from its video; nowhere else.
    """
    whole = grid.position(spans)
    low, high = -math.inf, math.inf
    if isinstance(grid, Window):
        low = -math.inf if grid.first == 0 else 0.0
        high = math.inf if grid.stop == grid.count else float(grid.count)
    inside = whole.clip(low, high)
    return inside, (inside[:, 1] - inside[:, 0]) >= 0.5 * (whole[:, 1] - whole[:, 0])


def padded(batch: Batch, size: int, dim: int) -> tuple[Tensor, Tensor]:
    """``(B, T, C)`` features and ``(B, T)`` mask, padded from the batch's length to ``T = size``.

    Raises:
        ModelError: the features are not ``dim`` wide, or longer than ``size``.
    """
    _, length, width = batch.features.shape
    if width != dim:
        raise ModelError(f"this localizer was made for features of width {dim}, these have width {width}; "
                         "extract them with the encoder it was trained on.")
    if length > size:
        raise ModelError(f"this localizer sees {size} positions at once, got {length}; cut the features with its "
                         "views().")
    more = size - length
    return F.pad(batch.features, (0, 0, 0, more)), F.pad(batch.mask, (0, more))


def lengths(batch: Batch) -> np.ndarray:
    """``(B,)`` real positions of each row."""
    return batch.mask.sum(dim=1).cpu().numpy()


# --------------------------------------------------------------------------------------------- what should be answered


class Targets(NamedTuple):
    """What the network should answer for a batch."""

    start: Tensor
    """``(B, T)`` in [0, 1]."""
    end: Tensor
    """``(B, T)`` in [0, 1]."""
    iou: Tensor
    """``(B, D, T)`` in [0, 1]."""
    rows: Tensor
    """``(n,)``: which sequence each span with a known name belongs to."""
    spans: Tensor
    """``(n, 2)`` positions."""
    labels: Tensor
    """``(n,)`` class indices."""


def targets(batch: Batch, positions: int, durations: int, classes: Sequence[str],
            anchor: tuple[float, float] = (-0.5, 0.5)) -> Targets:
    """Truth in seconds to what the network should answer. Truth is cut to each row's grid.

    Args:
        classes: the labels that count as names; truth with other labels (or none) is on the map all the same.
        anchor: of :func:`cuemark.nn.maps.boundary_targets`.

    Raises:
        CallError: the batch has no truth.
    """
    if batch.truth is None:
        raise CallError("a loss needs truth; collate the batch with its annotated segments.")
    real_positions = lengths(batch)
    indices = {name: i for i, name in enumerate(classes)}
    starts, ends, ious = [], [], []
    rows: list[int] = []
    labels: list[int] = []
    spans = [np.zeros((0, 2))]
    for row, (grid, truth) in enumerate(zip(batch.grids, batch.truth, strict=True)):
        at = grid.position(times(truth)).clip(0, real_positions[row])
        real = at[:, 1] > at[:, 0]
        boundaries = boundary_targets(at[real], positions, anchor)
        starts.append(boundaries[0])
        ends.append(boundaries[1])
        ious.append(iou_map(at[real], durations, positions))
        named = [i for i, s in enumerate(truth) if real[i] and s.label in indices]
        spans.append(at[named])
        rows += [row] * len(named)
        labels += [indices[str(truth[i].label)] for i in named]
    device = batch.features.device
    start, end, iou = (torch.from_numpy(np.stack(a)).to(device) for a in (starts, ends, ious))
    return Targets(start, end, iou, torch.tensor(rows, dtype=torch.int64, device=device),
                   torch.from_numpy(np.concatenate(spans)).float().to(device),
                   torch.tensor(labels, dtype=torch.int64, device=device))


def map_losses(out: Mapping[str, Tensor], target: Targets, mask: Tensor, training: bool) -> dict[str, Tensor]:
    """``"boundary"``, ``"regression"`` and ``"confidence"``, not weighted (:mod:`cuemark.nn.losses`).

    Args:
        mask: ``(B, T)`` bool.
        training: the regression loss draws its cells from torch's default generator; otherwise they are always the
            same, so that the losses are a function of their inputs.
    """
    generator = None if training else torch.Generator().manual_seed(0)
    _, durations, positions = target.iou.shape
    inside = valid_cells(mask.sum(dim=1), durations, positions)
    return {"boundary": (losses.boundary_loss(out["start"], target.start, mask)
                         + losses.boundary_loss(out["end"], target.end, mask)),
            "regression": losses.iou_regression_loss(out["map"][:, 0], target.iou, inside, generator),
            "confidence": losses.iou_classification_loss(out["map"][:, 1], target.iou, inside)}


# ------------------------------------------------------------------------------------------------- what is answered


def proposals(out: Mapping[str, Tensor], batch: Batch, most: int, *, peaks: bool, boundary_scores: bool
              ) -> list[tuple[np.ndarray, np.ndarray]]:
    """The best spans of each row, before suppression.

    A span that ends with the sequence is a proposal like any other; the very end has no position of its own, so it
    reads the last position's end score.

    Args:
        most: of a row, at most so many.
        peaks: propose only between peaks of the start and end scores, or between whatever exceeds half the highest;
            the first position and the last are always among them.
        boundary_scores: multiply the two scores of the map by the start and end scores.

    Returns:
        For each row ``(n, 2)`` spans in positions and ``(n,)`` scores, best first.
    """
    start, end, quality = (out[name].float().cpu().numpy() for name in ("start", "end", "map"))
    d, s = cells(quality.shape[3], quality.shape[2]).T
    return [_proposals(start[row], end[row], quality[row], int(length), d, s, most, peaks, boundary_scores)
            for row, length in enumerate(lengths(batch))]


def _proposals(start: np.ndarray, end: np.ndarray, quality: np.ndarray, length: int, d: np.ndarray, s: np.ndarray,
               most: int, peaks: bool, boundary_scores: bool) -> tuple[np.ndarray, np.ndarray]:
    inside = s + d + 1 <= length
    d, s = d[inside], s[inside]
    last = np.minimum(s + d + 1, length - 1)
    if peaks and length:
        begins, stops = _peaks(start[:length]), _peaks(end[:length])
        begins[0] = stops[-1] = True
        likely = begins[s] & stops[last]
        d, s, last = d[likely], s[likely], last[likely]
    score = (quality[0, d, s] * quality[1, d, s]).astype(np.float64)
    if boundary_scores:
        score *= start[s] * end[last]
    best = np.argsort(-score, kind="stable")[:most]
    return np.stack([s, s + d + 1], axis=1)[best].astype(np.float64), score[best]


def _peaks(score: np.ndarray) -> np.ndarray:
    """Local maxima (a plateau counts whole) and whatever exceeds half the maximum: ``(T,)`` bool."""
    beside = np.pad(score, 1, constant_values=-np.inf)
    return ((score >= beside[:-2]) & (score >= beside[2:])) | (score > 0.5 * score.max())
