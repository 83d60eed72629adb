"""The same footage twice: a copy, another encoding, a longer cut.

It is found in two steps. Stretches, pieces between changes of shot, whose vectors have a cosine of :data:`ALIKE` at
least name candidates. Then both videos' clips, less the mean of the two, are laid over each other at every shift, and
the mean cosine along the best one (a normalised cross-correlation over time) has to reach :data:`SAME` over half of the
shorter (:func:`aligned`). Two recordings of the same kind by a still camera are alike, but not at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from cuemark import similarity
from cuemark.grid import Grid
from cuemark.vectors import Ints, unit

LONGEST_STRETCH = 30.0
"""Seconds; what has no change of shot is cut into pieces of this length."""
ALIKE, SAME, SHORTEST_COPY = 0.9, 0.8, 4
"""Cosine of stretches that makes candidates of two videos; correlation that makes them the same; clips they share."""


def stretches(rows: np.ndarray, grid: Grid) -> Ints:
    """First cells of the pieces between changes of shot, of :data:`LONGEST_STRETCH` at most, and the count of cells."""
    most = max(1, int(LONGEST_STRETCH / grid.step))
    edges = np.concatenate([[0], similarity.boundaries(rows), [len(rows)]]).astype(np.int64)
    cells = [np.linspace(a, b, -(-(b - a) // most) + 1).round().astype(np.int64)[:-1]
             for a, b in zip(edges[:-1].tolist(), edges[1:].tolist())]
    return np.concatenate([*cells, edges[-1:]])


def means(rows: np.ndarray, cells: Ints) -> np.ndarray:
    """What stands for each piece (:func:`stretches`) of a video: the direction of the mean of its rows."""
    return unit(np.add.reduceat(rows, cells[:-1], axis=0) if len(rows) else rows)


def aligned(a: np.ndarray, b: np.ndarray) -> tuple[int, float]:
    """The shift at which two sequences are most alike, and how alike they are then.

    Both lose the mean of the two together; then, for every shift that lays at least half of the shorter one (and
    :data:`SHORTEST_COPY` rows) over the other, the mean of the cosines of rows that lie over each other.

    Args:
        a: ``(T, D)`` rows.
        b: ``(S, D)``.

    Returns:
        ``shift``: row ``i`` of ``a`` lies over row ``i + shift`` of ``b``; and the mean cosine, 0 where no shift is
        long enough.
    """
    least = max(SHORTEST_COPY, math.ceil(min(len(a), len(b)) / 2))
    if min(len(a), len(b)) < least:
        return 0, 0.0
    middle = np.concatenate([a, b]).mean(0)
    a, b = unit(a - middle), unit(b - middle)
    count = len(a) + len(b) - 1
    size = 1 << (count - 1).bit_length()
    # the sums along all diagonals of a @ b.T, number by number of the vectors, by the convolution theorem
    spectrum = np.fft.rfft(a, size, axis=0) * np.conj(np.fft.rfft(b, size, axis=0))
    sums = np.fft.irfft(spectrum.sum(1), size)
    shifts = np.arange(-(len(b) - 1), len(a))
    shared = np.minimum(len(a), len(b) + shifts) - np.maximum(0, shifts)
    mean = np.where(shared >= least, sums[shifts] / np.maximum(shared, 1), -1.0)
    best = int(mean.argmax())
    return int(-shifts[best]), float(max(mean[best], 0.0))


def standing(numbers: Sequence[int], pairs: Iterable[tuple[int, int, float]]) -> dict[int, tuple[int, float]]:
    """Of each video the one that stands for its footage, and the seconds between their clocks.

    Args:
        numbers: of videos; the first that holds some footage stands for it.
        pairs: two videos that hold the same footage, and the seconds to add to a time of the first for the same picture
            in the second.

    Returns:
        ``(first, shift)``: a time ``t`` of the video is ``t + shift`` on the clock of the first.
    """
    near: dict[int, list[tuple[int, float]]] = {}
    for a, b, shift in pairs:
        near.setdefault(a, []).append((b, -shift))  # a time t of b is t - shift of a
        near.setdefault(b, []).append((a, shift))
    stands: dict[int, tuple[int, float]] = {}
    for first in numbers:
        waiting = [(first, 0.0)]
        while waiting:
            number, shift = waiting.pop()
            if number not in stands:
                stands[number] = first, shift
                waiting += [(other, shift + more) for other, more in near.get(number, ())]
    return stands
