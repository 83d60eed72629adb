"""Moments without a trained localizer: how like a sentence each clip is, smoothed and grouped into segments.

For those who have footage, an encoder that shares a space with text, and no model. Nothing is learned here, so nothing
knows where an action begins: the answer is where a video is *more like the sentence than elsewhere in the same video*.
A sentence that nothing in the video is like still has such a place; whether an answer means anything is for whoever
compares the sentence with :data:`NOTHING`, in one video (:class:`cuemark.localization.Similarity`, the door to this
room) or in many (:mod:`cuemark.library`). Beside a trained localizer it is a floor with eyes; beside it belongs the
floor without (``cuemark evaluate grounding`` prints it).

Dataflow, all queries at once::

    features (T, C) -> space.see -> (T, D) unit rows  \\
    Q sentences     -> space.read -> (Q, D) unit rows  > cosines (T, Q)
    cosines -> Gaussian over time, within shots -> scaled to 0..1 in this video
            -> basins above each of ``levels`` thresholds, grouped under each of ``tolerances`` (watershed)
            -> every group scored by its contrast -> suppression of what overlaps -> segments in seconds, best first

Where the parts are from:

- The space: CLAP's projections (:func:`cuemark.localizers.classify.projections`), or the two towers of a CLIP (Radford
  et al., ICML 2021), whose image projection an encoder carries as ``extra["projection"]``.
- Grouping: Temporal Actionness Grouping (Zhao et al., "Temporal Action Detection with Structured Segment Networks",
  ICCV 2017, section 4). At a threshold, stretches above it are basins; from each basin on, the following ones are
  absorbed while basins fill at least a share (the tolerance) of what they span. The groups of all thresholds and
  tolerances are the candidates. There, a trained classifier says how much action there is; here, the cosine does.
- Contrast of a candidate: ``sqrt(w (1 - w)) (mean inside - mean outside)``, with ``w`` the share of the video inside:
  the root of Otsu's between-class variance (IEEE Trans. SMC 1979) for one stretch against the rest, signed. The plain
  difference of means, which TFVTG (Zheng et al., ECCV 2024) uses for proposals of a language model, favours the single
  best clip.
- Shots: a clip is a boundary where it differs from the one before far more than its neighbours do
  (:func:`boundaries`), the adaptive detector of PySceneDetect on features or on small grey pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cuemark import video
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import ModelError, within
from cuemark.grid import Grid
from cuemark.localizers.classify import projections, reader_of, tokens_of
from cuemark.nn.nms import hard_nms
from cuemark.segments import Segment
from cuemark.text import TextEncoder

Floats = NDArray[np.float32]
_LOOK = (27, 48)
"""Height and width of the grey pictures that :func:`cuts` compares."""
NOTHING = (
    "the committee postponed its decision until spring", "interest rates rose by a quarter of a percent",
    "the square root of two is irrational", "his argument rests on a false assumption",
    "inflation expectations remain anchored", "the treaty was never ratified", "she inherited a debt of honour",
    "the hypothesis could not be rejected", "copyright expires after seventy years", "loyalty is its own reward",
    "the verb agrees with its subject", "the warranty excludes consequential damages",
    "nobody remembers who proposed the amendment", "the theory predicts a smaller constant",
    "his reputation preceded him", "the contract renews automatically", "a majority voted against the motion",
    "prices are quoted without tax", "the sequence converges almost surely", "memory is an unreliable witness",
    "the deadline was moved to next quarter", "irony is lost on the literal minded", "the patent claims priority",
    "justice delayed is justice denied", "the footnote contradicts the text", "entropy never decreases on its own",
    "the merger awaits approval by the regulator", "she changed her mind about free will",
    "the adjective has no superlative", "the pension is indexed to wages", "the password expires in ninety days",
    "history does not repeat itself")
"""Sentences about what no picture shows."""


@dataclass(frozen=True)
class Config:
    """How cosines become segments."""

    smooth: float = 0.4
    """Standard deviation of the Gaussian over time, in seconds; 0: none."""
    levels: int = 19
    """Thresholds, evenly spaced between the least and the most of the video."""
    tolerances: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Shares of a group that its basins fill at least."""
    shortest: float = 0.0
    """Seconds; shorter segments are not said."""
    nms: float = 0.5
    """Of segments with a larger tIoU only the best is said."""
    top: int = 10
    """Segments of each query of a video at most."""

    def __post_init__(self) -> None:
        within("smooth", self.smooth, 0)
        within("levels", self.levels, 1, 1000)
        for tolerance in self.tolerances:
            within("tolerances", tolerance, 0, 1)
        within("shortest", self.shortest, 0)
        within("nms", self.nms, 0, 1)
        within("top", self.top, 1)


# ---------------------------------------------------------------------------------------------- the space


@dataclass(frozen=True)
class Space:
    """Where clips and sentences are compared; both come out as float32 rows of length 1."""

    see: Callable[[np.ndarray], Floats]
    """``(T, C)`` features of the encoder to ``(T, D)``."""
    read: Callable[[Sequence[str]], Floats]
    """n sentences to ``(n, D)``."""
    dim: int
    """D."""
    prompt: str = "{}"
    """The sentence of a class, with its name for the braces."""


def space_of(encoder: VideoEncoder, text: str | TextEncoder | None = None) -> Space:
    """The space that an encoder shares with sentences.

    Args:
        encoder: one that was pre-trained by CLAP, or the image tower of a CLIP (``extra["projection"]``).
        text: what reads sentences, or its name (:meth:`cuemark.text.TextEncoder.load`); by default the one that the
            encoder says it was trained with, and as many tokens. It is loaded when the first sentence comes.

    Raises:
        ModelError: the encoder shares no space with sentences, or does not say with which text encoder.
    """
    name = text if text is not None else reader_of(encoder)
    if name is None:
        raise ModelError(f"the encoder '{encoder.name}' does not say which text encoder it was trained with; name it "
                         "(--text).")
    loaded: list[TextEncoder] = []

    def vectors(sentences: Sequence[str]) -> Tensor:
        if not loaded:
            most = tokens_of(encoder) if text is None else None
            loaded.append(TextEncoder.load(name, max_tokens=most) if isinstance(name, str) else name)
        if len(sentences) == 1:  # somebody waits for it
            return loaded[0].quickly(sentences[0])[None]
        return loaded[0].encode(list(sentences)).float()

    if "projection" in encoder.extra:
        weight = encoder.extra["projection"].detach().float().cpu()
        weight = weight if weight.shape[1] == encoder.dim else weight.T
        return _space(encoder, weight.shape[0], lambda rows: F.linear(rows, weight), lambda said: said, vectors,
                      weight.shape[0], "a photo of {}.")
    video_side, text_side = projections(encoder)
    outputs = len(encoder.extra["project_video.1.bias"])
    return _space(encoder, outputs, video_side, text_side, vectors,
                  len(encoder.extra["project_text.0.weight"]), "foreground of {}")


def _space(encoder: VideoEncoder, dim: int, see: Callable[[Tensor], Tensor], said: Callable[[Tensor], Tensor],
           vectors: Callable[[Sequence[str]], Tensor], width: int, prompt: str) -> Space:
    @torch.no_grad()
    def seen(rows: np.ndarray) -> Floats:
        if rows.ndim != 2 or rows.shape[1] != encoder.dim:
            raise ModelError(f"features of shape {rows.shape} are not those of '{encoder.name}', which makes "
                             f"{encoder.dim} numbers a clip; give the features of that encoder.")
        return F.normalize(see(torch.from_numpy(np.ascontiguousarray(rows, np.float32))), dim=1).numpy()

    @torch.no_grad()
    def read(sentences: Sequence[str]) -> Floats:
        given = vectors(sentences)
        if given.shape[1] != width:
            raise ModelError(f"the encoder '{encoder.name}' compares videos with vectors of {width} numbers, but this "
                             f"text encoder makes {given.shape[1]}; name the one that it was trained with.")
        return F.normalize(said(given), dim=1).numpy()

    return Space(seen, read, dim, prompt)


def chance(best: np.ndarray) -> NormalDist:
    """What nonsense reaches: the normal distribution of the best cosines of :data:`NOTHING`, ``(n,)``. Its share below
    a cosine says how far that stands out from chance."""
    return NormalDist(float(best.mean()), max(float(best.std()), 1e-3))


# ---------------------------------------------------------------------------------------------- videos


def moments(cosines: np.ndarray, grid: Grid, duration: float, config: Config | None = None,
            shots: np.ndarray | None = None) -> list[list[Segment]]:
    """Cosines to segments: smoothing, watershed, contrast, suppression.

    Args:
        cosines: ``(T, Q)`` of each clip with each query, on ``grid``.
        duration: seconds of the video; segments lie within.
        shots: seconds of shot boundaries: smoothing does not reach over them, and no segment crosses one.

    Returns:
        For each query its segments, best first; ``score`` is the contrast.
    """
    starts = np.unique(_cells(shots, grid))
    return moments_of([Curve(column, grid, duration, starts) for column in cosines.T], config)


@dataclass(frozen=True)
class Curve:
    """How like a query each clip of a video is."""

    cosines: np.ndarray
    """``(T,)``, on ``grid``."""
    grid: Grid
    duration: float
    """Seconds of the video."""
    shots: NDArray[np.int64]
    """The first cell of each shot but the first, rising."""


def moments_of(curves: Sequence[Curve], config: Config | None = None) -> list[list[Segment]]:
    """:func:`moments` of many curves in one pass, each as if it were alone: they lie one after the other, and where one
    ends a shot does. 48 videos of 50 clips take a tenth of the time of one after the other."""
    config = config or Config()
    answers: list[list[Segment]] = [[] for _ in curves]
    some = [i for i, curve in enumerate(curves) if len(curve.cosines)]
    if not some:
        return answers
    lengths = np.array([len(curves[i].cosines) for i in some])
    begin = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(some)), lengths)
    edges = np.concatenate([*(np.r_[first, first + curves[i].shots] for i, first in zip(some, begin.tolist())),
                            [len(owner)]]).astype(np.int64)
    steps = np.array([curves[i].grid.step for i in some])
    calm = smoothed(np.concatenate([curves[i].cosines for i in some])[:, None], (config.smooth / steps)[owner],
                    edges)[:, 0]
    low, high = (of.reduceat(calm, begin).astype(np.float64) for of in (np.minimum, np.maximum))
    spans = grouped((calm - low[owner]) / np.maximum(high - low, 1e-12)[owner], config.levels, config.tolerances, edges)
    mine = owner[spans[:, 0]]  # rises, as spans do
    spans = spans - begin[mine, None]
    score = contrast(calm, spans, begin, mine)
    parts = np.split(spans.astype(np.float64), np.searchsorted(mine, np.arange(1, len(some))))
    seconds = np.concatenate([curves[i].grid.seconds(part) for i, part in zip(some, parts)])
    # the first cell reaches back to the beginning, the last to the end: overlapping clips leave half a step there
    duration = np.array([curves[i].duration for i in some])[mine]
    seconds[spans[:, 0] == 0, 0] = 0.0
    whole = spans[:, 1] == lengths[mine]
    seconds[whole, 1] = duration[whole]
    seconds = seconds.clip(0.0, duration[:, None])
    length = seconds[:, 1] - seconds[:, 0]
    good = np.flatnonzero((length > 0) & (length >= config.shortest))
    if len(good):
        # suppression ranks by scores that are not negative
        order, _ = hard_nms(seconds[good], score[good] - score[good].min(), config.nms, keep=config.top,
                            videos=mine[good])
        for i in good[order]:
            answers[some[mine[i]]].append(Segment(float(seconds[i, 0]), float(seconds[i, 1]), None, float(score[i])))
    return answers


def _cells(shots: np.ndarray | None, grid: Grid) -> NDArray[np.int64]:
    """The first cell of each shot but the first."""
    if shots is None or not len(shots):
        return np.zeros(0, np.int64)
    cells = np.rint(grid.position(np.asarray(shots, np.float64))).astype(np.int64)
    return cells[(cells > 0) & (cells < grid.count)]


def smoothed(cosines: np.ndarray, sigma: float | np.ndarray, edges: np.ndarray) -> Floats:
    """A Gaussian over time, ``(T, Q)`` to ``(T, Q)``; its weights count only what is in the same shot.

    Args:
        sigma: in cells; one for all cells, or ``(T,)``.
        edges: first cells of the shots, and the count of cells.
    """
    cosines = np.asarray(cosines, np.float32)
    width = np.broadcast_to(np.asarray(sigma, np.float32), len(cosines))
    if not (width > 0).any():
        return cosines
    reach = np.maximum(1, np.ceil(3 * width))
    widest = int(reach.max())
    shot = np.searchsorted(edges, np.arange(len(cosines)), side="right")
    total, weight = np.zeros_like(cosines), np.zeros((len(cosines), 1), np.float32)
    for shift in range(-widest, widest + 1):
        low, high = max(0, -shift), min(len(cosines), len(cosines) - shift)
        if low >= high:
            continue
        share = np.exp(-0.5 * (shift / np.maximum(width[low:high], 1e-6)) ** 2) * (reach[low:high] >= abs(shift))
        same = ((shot[low:high] == shot[low + shift : high + shift]) * share)[:, None].astype(np.float32)
        total[low:high] += same * cosines[low + shift : high + shift]
        weight[low:high] += same
    return np.asarray(total / weight, np.float32)


def grouped(curve: np.ndarray, levels: int, tolerances: Sequence[float], edges: np.ndarray) -> NDArray[np.int64]:
    """Temporal actionness grouping of ``(T,)``: the distinct groups as ``(n, 2)`` cells, first and one past the last.

    Basins of all thresholds lie one after the other, ``T`` cells for each. From basin ``i`` on, a group takes in basin
    ``j`` while ``filled[j + 1] - filled[i] >= tolerance (end[j] - start[i])``, which is ``a[j] >= b[i]`` with a number
    of each basin on either side: where that first fails is found by halving, over minima of 1, 2, 4 … basins.

    Args:
        edges: first cells of the shots, and the count of cells; no group crosses one.
    """
    count = len(curve)
    heights = np.linspace(float(curve.min()), float(curve.max()), levels + 2)[1:-1]
    above = curve[None, :] >= heights[:, None]
    cut = np.zeros(count, bool)
    cut[edges[:-1]] = True
    rises, falls = above.copy(), above.copy()
    rises[:, 1:] &= ~above[:, :-1] | cut[1:]
    falls[:, :-1] &= ~above[:, 1:] | cut[1:]
    starts, ends = np.flatnonzero(rises), np.flatnonzero(falls) + 1
    found = [np.stack([edges[:-1], edges[1:]], axis=1)]  # whole shots, too: a video may be about nothing else
    if len(starts):
        level, cell = np.divmod(starts, count)
        shot = level * len(edges) + np.searchsorted(edges, cell, side="right")
        alone = np.diff(shot, prepend=-1) > 0  # nothing before it is in its shot
        filled = np.r_[0, np.cumsum(ends - starts)]
        longest = int(np.diff(np.flatnonzero(np.r_[alone, True])).max())
        seeds, last = np.arange(len(starts)), len(starts)
        for tolerance in tolerances:
            a = np.r_[np.where(alone, -np.inf, filled[1:] - tolerance * ends), -np.inf]
            b = filled[:-1] - tolerance * starts - 1e-6  # rounding is not a gap
            least = [a]
            while 1 << len(least) <= longest:
                ahead = np.minimum(np.arange(last + 1) + (1 << len(least) - 1), last)
                least.append(np.minimum(least[-1], least[-1][ahead]))
            reached = seeds + 1
            for power in range(len(least) - 1, -1, -1):
                reached += (least[power][reached] >= b).astype(np.int64) << power
            found.append(np.stack([cell, (ends[reached - 1] - 1) % count + 1], axis=1))
    spans = np.sort(np.concatenate(found) @ [count + 1, 1])  # np.unique takes ten times as long
    first, end = np.divmod(spans[np.diff(spans, prepend=-1) > 0], count + 1)
    return np.stack([first, end], axis=1)


def contrast(curve: np.ndarray, spans: np.ndarray, begin: np.ndarray | None = None, mine: np.ndarray | None = None
             ) -> NDArray[np.float64]:
    """``(n,)``: the root of the between-class variance of each of ``(n, 2)`` spans of cells and the rest, signed.

    Args:
        curve: ``(T,)``, or several one after the other.
        spans: in cells of their own curve.
        begin: where each curve begins; by default there is one.
        mine: ``(n,)`` the curve that each span is of.
    """
    begin = np.zeros(1, np.int64) if begin is None else begin
    mine = np.zeros(len(spans), np.int64) if mine is None else mine
    lengths = np.diff(begin, append=len(curve))
    sums = np.concatenate([np.r_[0.0, np.cumsum(part, dtype=np.float64)] for part in np.split(curve, begin[1:])])
    at = begin + np.arange(len(begin))  # of each curve's first sum, which is 0
    whole = sums[at + lengths][mine]
    inside = (spans[:, 1] - spans[:, 0]).astype(np.float64)
    within_ = sums[at[mine] + spans[:, 1]] - sums[at[mine] + spans[:, 0]]
    outside = lengths[mine] - inside
    mean_in = within_ / np.maximum(inside, 1)
    mean_out = np.where(outside > 0, (whole - within_) / np.maximum(outside, 1), mean_in)
    return np.asarray(np.sqrt(inside * outside) / lengths[mine] * (mean_in - mean_out))


# ---------------------------------------------------------------------------------------------- shots


def boundaries(rows: np.ndarray, ratio: float = 4.0, least: float = 0.15, around: int = 4) -> NDArray[np.int64]:
    """Cells of a feature sequence that begin a new shot, ``(n,)``, by the adaptive rule on cosine distances.

    Cell ``t`` begins a shot where its distance from cell ``t - 1`` is at least ``least``, the largest of its
    neighbourhood, and ``ratio`` times the mean of the ``around`` distances on either side. Clips that overlap a
    boundary see both shots, so the distances next to the largest are left out of that mean.

    Args:
        rows: ``(T, D)`` unit rows.
    """
    return boundaries_of([rows], ratio, least, around)[0]


def boundaries_of(videos: Sequence[np.ndarray], ratio: float = 4.0, least: float = 0.15, around: int = 4
                  ) -> list[NDArray[np.int64]]:
    """:func:`boundaries` of many sequences in one pass, each as if it were alone."""
    gap = np.full(around + 1, np.nan)  # nobody's neighbourhood reaches over it
    steps = [np.r_[1 - np.einsum("td,td->t", rows[1:], rows[:-1]), gap] for rows in videos]
    ends = np.cumsum([len(part) for part in steps])
    found = _peaks(np.concatenate(steps), ratio, least, around, skip=1) if steps else np.zeros(0, np.int64)
    return [part - end + len(step) + 1
            for part, end, step in zip(np.split(found, np.searchsorted(found, ends[:-1])), ends.tolist(), steps)]


def cuts(path: str | Path, start: float = 0.0, end: float | None = None, ratio: float = 3.0, least: float = 15.0,
         around: int = 5) -> NDArray[np.float64]:
    """Seconds at which the shot changes, by the same rule on the mean differences of small grey pictures (of 255).

    Every picture between ``start`` and ``end`` is decoded. Fades and dissolves are not seen.

    Raises:
        VideoError: the file cannot be used.
    """
    stamps: list[float] = []
    steps: list[float] = []
    before: np.ndarray | None = None
    for at, picture in video.frames(path, _LOOK, start, end):
        grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        if before is not None:
            stamps.append(at)
            steps.append(float(np.abs(grey - before).mean()))
        before = grey
    return np.array(stamps)[_peaks(np.array(steps), ratio, least, around, skip=0)]


def _peaks(steps: np.ndarray, ratio: float, least: float, around: int, skip: int) -> NDArray[np.int64]:
    """Indices of ``(n,)`` differences that stand out of their neighbourhood; NaN is no difference."""
    at = np.flatnonzero(steps >= least)
    if not len(at):
        return at
    padded = np.pad(np.asarray(steps, np.float64), around + skip, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * (around + skip) + 1)[at]
    middle = around + skip
    others = np.concatenate([windows[:, :around], windows[:, middle + skip + 1 :]], axis=1)
    here = ~np.isnan(others)
    mean = np.where(here, others, 0).sum(1) / np.maximum(here.sum(1), 1)
    known = here.any(1)  # what has no neighbours stands out of nothing
    return at[known & (steps[at] >= ratio * mean) & (steps[at] == np.fmax.reduce(windows, axis=1))]
