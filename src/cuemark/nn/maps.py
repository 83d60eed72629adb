"""Start x duration maps, and sampling features inside spans as fixed linear maps.

A map has one cell for every candidate span of a sequence of ``T`` positions: cell ``(d, s)`` is the span
``[s, s + d + 1]`` in positions (:mod:`cuemark.grid`: 0 is the left edge of the first snippet, ``T`` the right edge of
the last), so a span can reach the very end. Cells with ``s + d + 1 > T`` are outside and exist only to keep the map
rectangular.

Features of a span are sampled by 1-D RoIAlign (:func:`align_table`), which for constant spans is a linear map of the
sequence. The layer after it is a 1x1 convolution, linear too, so the two commute: :func:`conv_then_sample` applies
the convolution to the ``T`` positions and gathers its answers sparsely, instead of building ``C·P`` numbers for every
cell and convolving those.

Shapes: ``B`` batch, ``T`` positions, ``C`` channels in, ``O`` channels out, ``P`` bins of a span, ``D`` durations,
``N`` cells inside the sequence, ``K`` values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuemark.segments import tiou

# ------------------------------------------------------------------------------------------------ cells and targets


@lru_cache(maxsize=32)
def cells(positions: int, durations: int) -> np.ndarray:
    """The cells inside a sequence of ``positions``: ``(N, 2)`` int64 rows ``(d, s)``, ordered by ``d``, then ``s``."""
    d, s = np.mgrid[:durations, :positions]
    inside = s + d + 1 <= positions
    found = np.stack([d[inside], s[inside]], axis=1)
    found.flags.writeable = False  # it is shared between callers
    return found


def valid_cells(lengths: Tensor, durations: int, positions: int) -> Tensor:
    """Which cells end inside their sequence: ``s + d + 1 <= length``.

    Args:
        lengths: ``(B,)`` number of real positions of each sequence.

    Returns:
        ``(B, durations, positions)`` bool. For a full sequence, row ``d`` is True for ``s < positions - d``.
    """
    d = torch.arange(durations, device=lengths.device)[:, None]
    s = torch.arange(positions, device=lengths.device)[None, :]
    return (s + d + 1)[None] <= lengths[:, None, None]


def on_map(values: Tensor, place: Tensor, rows: int, columns: int, fill: Tensor | None = None) -> Tensor:
    """Values of some cells laid out as a map.

    Args:
        values: ``(B, N, X)``.
        place: ``(N,)`` int64: each cell's place, ``row * columns + column``.
        fill: ``(X,)``: what stands in the other cells; zeros by default.

    Returns:
        ``(B, X, rows, columns)``.
    """
    size, _, width = values.shape
    empty = (values.new_zeros(size, rows * columns, width) if fill is None
             else fill.to(values.dtype).expand(size, rows * columns, width))
    # without the copy a convolution would get channels last, whose backward pass takes 2.5 times as long on a CPU
    return empty.index_copy(1, place, values).view(size, rows, columns, width).permute(0, 3, 1, 2).contiguous()


def iou_map(segments: np.ndarray, durations: int, positions: int) -> np.ndarray:
    """How well each cell fits the truth: the highest tIoU of its span ``[s, s + d + 1]`` with any segment.

    Args:
        segments: ``(n, 2)`` starts and ends in positions; none gives zeros.

    Returns:
        ``(durations, positions)`` float32. Cells outside the sequence hold their formula's value too: mask them.
    """
    d, s = np.mgrid[:durations, :positions]
    spans = np.stack([s, s + d + 1], axis=-1).reshape(-1, 2)
    best = tiou(spans, segments).max(axis=1, initial=0.0)
    return best.reshape(durations, positions).astype(np.float32)


def boundary_targets(segments: np.ndarray, positions: int, anchor: tuple[float, float] = (-0.5, 0.5),
                     region: float = 3.0) -> np.ndarray:
    """How much of each position's anchor lies within a region around a start, and around an end.

    Position ``i`` has the anchor ``[i + anchor[0], i + anchor[1]]``; a boundary ``b`` has the region
    ``[b - region / 2, b + region / 2]``; the target is the largest share of the anchor that one region covers.
    BSN, BMN and G-TAD on THUMOS14 have anchors of one unit, G-TAD on ActivityNet ``[i - 0.5, i + 1.5]``.

    Args:
        segments: ``(n, 2)`` starts and ends in positions.

    Returns:
        ``(2, positions)`` float32: starts, ends; in [0, 1].
    """
    left = np.arange(positions) + anchor[0]
    width = anchor[1] - anchor[0]
    boundary = np.asarray(segments, np.float64).reshape(-1, 2).T[:, :, None]  # (2, n, 1)
    shared = np.minimum(left + width, boundary + region / 2) - np.maximum(left, boundary - region / 2)
    return (shared.clip(min=0) / width).max(axis=1, initial=0.0).astype(np.float32)


# ------------------------------------------------------------------------------------------ sampling as a linear map


@dataclass(frozen=True)
class SparseTable:
    """A fixed sparse matrix ``(outputs, inputs)`` in compressed rows.

    Output ``r`` is the sum of ``weights[i] * input[columns[i]]`` for ``i`` in ``offsets[r]:offsets[r + 1]``.
    """

    outputs: int
    inputs: int
    offsets: np.ndarray
    """``(outputs + 1,)`` int64."""
    columns: np.ndarray
    """``(nnz,)`` int64."""
    weights: np.ndarray
    """``(nnz,)`` float32."""

    @classmethod
    def from_entries(cls, outputs: int, inputs: int, row: np.ndarray, column: np.ndarray, weight: np.ndarray
                     ) -> SparseTable:
        """From ``(row, column, weight)`` entries in any order; entries of the same place add up, zeros are dropped."""
        place, which = np.unique(row.astype(np.int64) * inputs + column, return_inverse=True)
        total = np.bincount(which, weight, minlength=len(place))
        place, total = place[total != 0], total[total != 0]
        offsets = np.zeros(outputs + 1, np.int64)
        np.cumsum(np.bincount(place // inputs, minlength=outputs), out=offsets[1:])
        return cls(outputs, inputs, offsets, place % inputs, total.astype(np.float32))

    def transposed(self) -> SparseTable:
        """The matrix with rows and columns exchanged."""
        row = np.repeat(np.arange(self.outputs), np.diff(self.offsets))
        return SparseTable.from_entries(self.inputs, self.outputs, self.columns, row, self.weights)


def align_table(spans: np.ndarray, positions: int, bins: int) -> SparseTable:
    """1-D RoIAlign (He et al., ICCV 2017; SGAlign's kernel in Xu et al., CVPR 2020) of constant spans.

    A span of ``[start, end]`` positions with ``L = max(end - start, 1)`` is cut into ``bins`` equal bins of
    ``L / bins``. Each bin averages ``ceil(L / bins)`` equally spaced samples of the sequence, interpolated linearly.
    A sample before -1 or after ``positions`` is zero; one in [-1, 0] reads position 0, one after ``positions - 1``
    the last.

    Args:
        spans: ``(N, 2)`` in positions; may leave the sequence on both sides.

    Returns:
        ``(N, positions * bins)``: column ``t * bins + p`` is bin ``p``'s weight on position ``t``.
    """
    start, end = np.asarray(spans, np.float64).reshape(-1, 2).T
    width = np.maximum(end - start, 1.0) / bins
    samples = np.ceil(width).astype(np.int64)  # in each bin of a span
    span = np.repeat(np.arange(len(start)), samples * bins)
    first = np.cumsum(samples * bins) - samples * bins
    p, k = np.divmod(np.arange(len(span)) - first[span], samples[span])
    at = start[span] + p * width[span] + (k + 0.5) * width[span] / samples[span]
    share = np.where((at < -1) | (at > positions), 0.0, 1.0 / samples[span])
    at = at.clip(0, positions - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, positions - 1)
    return SparseTable.from_entries(
        len(start), positions * bins, np.concatenate([span, span]),
        np.concatenate([low * bins + p, high * bins + p]),
        np.concatenate([share * (1 - (at - low)), share * (at - low)]),
    )


@lru_cache(maxsize=16)
def extended_span_table(positions: int, durations: int, bins: int) -> SparseTable:
    """:func:`align_table` of every cell of :func:`cells`, widened by half its length on both sides.

    Cell ``(d, s)`` with length ``l = d + 1`` samples ``[s - l/2, s + d + l/2]`` (SGAlign, Xu et al., CVPR 2020).
    """
    d, s = cells(positions, durations).T
    half = (d + 1) / 2
    return align_table(np.stack([s - half, s + d + half], axis=1), positions, bins)


@lru_cache(maxsize=16)
def extended_point_table(positions: int, durations: int, bins: int, points: int = 3) -> SparseTable:
    """Means of equally spaced points of every cell of :func:`cells`, widened on both sides (BMN's layer).

    Cell ``(d, s)`` is widened by ``(d + 2) / 2`` on both sides, and ``bins * points`` points stand in it at equal
    distances, the first and the last on its edges. A bin averages ``points`` neighbours, each read by linear
    interpolation between the two positions around it. The sequence is zero beyond its first and last position, except
    that a point in (-1, 0) reads position 0 in full. (Lin et al., ICCV 2019, section 4.2; widths of the release.)

    Returns:
        ``(N, positions * bins)``: column ``t * bins + p`` is bin ``p``'s weight on position ``t``.
    """
    d, s = cells(positions, durations).T
    half = (d + 2) / 2
    at = np.linspace(s - half, s + d + 1 + half, bins * points, axis=1)  # (N, bins * points)
    low = np.floor(at)
    part = np.where(low < 0, 0.0, at - low)
    column = np.where((low == -1) & (at > -1), 0.0, low)  # (-1, 0) reads position 0
    bin_ = np.broadcast_to(np.arange(bins).repeat(points), at.shape)
    cell = np.broadcast_to(np.arange(len(at))[:, None], at.shape)
    row, place, weight, p = (np.concatenate([a.ravel(), b.ravel()]) for a, b in (
        (cell, cell), (column, column + 1), (1 - part, part), (bin_, bin_)))
    inside = (place >= 0) & (place < positions)
    return SparseTable.from_entries(len(at), positions * bins, row[inside],
                                    place[inside].astype(np.int64) * bins + p[inside], weight[inside] / points)


class SparseMap(nn.Module):
    """A :class:`SparseTable` applied to ``(B, inputs, O)`` tensors, giving ``(B, outputs, O)`` in float32.

    Measured (2 threads, T = D = 100, 36 bins, 512 channels, forward + backward): ``F.embedding_bag`` in both
    directions 34 ms, ``F.embedding_bag`` with its own backward 69 ms, ``torch.sparse`` CSR in both directions 48 ms.
    The table and its transpose are non-persistent buffers: they follow the module to its device and are never in a
    checkpoint.
    """

    columns: Tensor
    offsets: Tensor
    weights: Tensor
    back_columns: Tensor
    back_offsets: Tensor
    back_weights: Tensor

    def __init__(self, table: SparseTable) -> None:
        super().__init__()
        for prefix, t in (("", table), ("back_", table.transposed())):
            for name in ("columns", "offsets", "weights"):
                self.register_buffer(prefix + name, torch.from_numpy(getattr(t, name)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, O)`` to ``(B, outputs, O)``; float32 also under autocast (the sums are long)."""
        forth = self.columns, self.offsets, self.weights.float()
        back = self.back_columns, self.back_offsets, self.back_weights.float()
        # one sequence at a time: its (inputs, O) rows stay in the cache, a whole batch's would not
        answers = [_Sparse.apply(rows, *forth, *back) for rows in x.float()]
        return torch.stack(answers) if len(answers) > 1 else answers[0][None]


class _Sparse(torch.autograd.Function):
    """Multiply ``(inputs, O)`` by a sparse matrix; the gradient is a multiplication by its transpose, as fast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *tables: Tensor) -> Tensor:
        ctx.save_for_backward(*tables)
        columns, offsets, weights = tables[:3]
        return F.embedding_bag(columns, x.contiguous(), offsets, mode="sum", per_sample_weights=weights,
                               include_last_offset=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tables = ctx.saved_tensors
        return _Sparse.apply(grads[0], *tables[3:], *tables[:3]), *[None] * 6


def conv_then_sample(features: Tensor, weight: Tensor, sampling: SparseMap) -> Tensor:
    """The 1x1 convolution of features sampled in ``P`` bins of every span, in the cheap order.

    Equal to sampling ``(B, C, P, N)`` and contracting ``C`` and ``P`` with ``weight`` (without bias).

    Args:
        features: ``(B, C, T)``.
        weight: ``(P, O, C)``: what each bin contributes. (Bins first, so that no copy is needed.)
        sampling: a map of ``T * P`` inputs, as :func:`align_table` orders them, to ``N`` spans.

    Returns:
        ``(B, N, O)`` float32.
    """
    batch, channels, length = features.shape
    bins, out, _ = weight.shape
    answers = F.linear(features.transpose(1, 2), weight.reshape(bins * out, channels))  # (B, T, P·O)
    return sampling(answers.reshape(batch, length * bins, out))


def span_mean(values: Tensor, rows: Tensor, spans: Tensor) -> Tensor:
    """The mean over spans of values that are constant within each position.

    Args:
        values: ``(B, T, K)``.
        rows: ``(n,)`` int64: which sequence each span belongs to.
        spans: ``(n, 2)`` in positions, within ``[0, T]`` and within the sequence's real positions: what is outside
            is averaged like the rest.

    Returns:
        ``(n, K)`` float32; an empty span gives 0.
    """
    values = values.float()
    total = F.pad(values.cumsum(dim=1), (0, 0, 1, 0))  # (B, T + 1, K): the sum before each position
    whole = spans.floor().long().clamp(0, values.shape[1] - 1)
    part = (spans - whole)[..., None].to(values)
    upto = total[rows[:, None], whole] + part * values[rows[:, None], whole]  # (n, 2, K): the integral up to there
    length = (spans[:, 1] - spans[:, 0]).to(values).clamp(min=1e-6)
    return (upto[:, 1] - upto[:, 0]) / length[:, None]
