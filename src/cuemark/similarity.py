"""Moments without a trained localizer: how like a sentence each clip is, smoothed and grouped into segments.

For those who have footage, an encoder that shares a space with text, and no model. Nothing is learned here, so nothing
knows where an action begins: the answer is where a video is *more like the sentence than elsewhere in the same video*.
A sentence that nothing in the video is like still has such a place; whether an answer means anything is for whoever
compares it with other videos (:mod:`cuemark.library` does, and says "nothing found"). Beside a trained localizer it is
a floor with eyes; beside it belongs the floor without (:func:`cuemark.floors.blind`), and ``benchmarks/search.py``
prints both.

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

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cuemark import video
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import ModelError, within
from cuemark.grid import Features, Grid
from cuemark.localizers.classify import projections, reader_of
from cuemark.nn.nms import hard_nms
from cuemark.segments import Predictions, Segment
from cuemark.text import TextEncoder

Floats = NDArray[np.float32]
_LOOK = (27, 48)
"""Height and width of the grey pictures that :func:`cuts` compares."""


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
            encoder says it was trained with. It is loaded when the first sentence comes.

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
            loaded.append(TextEncoder.load(name) if isinstance(name, str) else name)
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


# ---------------------------------------------------------------------------------------------- videos


def find(features: Features, space: Space, queries: Sequence[str], config: Config | None = None,
         shots: np.ndarray | None = None) -> list[Segment]:
    """When is a video most like these sentences? All of them in one pass; best first of each, query by query.

    Args:
        features: of one video, made by the encoder of ``space``.
        shots: seconds of shot boundaries, which no segment crosses; by default those that the features show.

    Returns:
        Segments that carry their ``query``; ``score`` is the contrast of the docstring above, between -1 and 1,
        comparable among the answers to one sentence.
    """
    rows = space.see(features.data)
    cosines = rows @ space.read(queries).T
    if shots is None:
        shots = features.grid.seconds(boundaries(rows).astype(float))
    found = moments(cosines, features.grid, features.duration, config, shots)
    return [Segment(s.start, s.end, None, s.score, query=query)
            for query, segments in zip(queries, found, strict=True) for s in segments]


def find_all(features: Mapping[str, Features], space: Space, queries: Sequence[str], config: Config | None = None
             ) -> Predictions:
    """:func:`find` in many videos."""
    return {vid: find(features[vid], space, queries, config) for vid in features}


def find_classes(features: Features, space: Space, labels: Sequence[str], config: Config | None = None
                 ) -> list[Segment]:
    """:func:`find` for classes by name, in the words that the space was made with; segments carry their ``label``."""
    asked = [space.prompt.format(label) for label in labels]
    names = dict(zip(asked, labels))
    return [Segment(s.start, s.end, names[str(s.query)], s.score)
            for s in find(features, space, list(names), config)]


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
    config = config or Config()
    count = len(cosines)
    if not count:
        return [[] for _ in range(cosines.shape[1])]
    edges = np.unique(np.concatenate([[0], _cells(shots, grid), [count]]))
    calm = smoothed(cosines, config.smooth / grid.step, edges)
    return [_segments(calm[:, q], grid, duration, config, edges) for q in range(calm.shape[1])]


def _cells(shots: np.ndarray | None, grid: Grid) -> NDArray[np.int64]:
    """The first cell of each shot but the first."""
    if shots is None or not len(shots):
        return np.zeros(0, np.int64)
    cells = np.rint(grid.position(np.asarray(shots, np.float64))).astype(np.int64)
    return cells[(cells > 0) & (cells < grid.count)]


def smoothed(cosines: np.ndarray, sigma: float, edges: np.ndarray) -> Floats:
    """A Gaussian over time, ``(T, Q)`` to ``(T, Q)``; its weights count only what is in the same shot.

    Args:
        sigma: in cells.
        edges: first cells of the shots, and the count of cells.
    """
    cosines = np.asarray(cosines, np.float32)
    if sigma <= 0:
        return cosines
    reach = max(1, math.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    shot = np.searchsorted(edges, np.arange(len(cosines)), side="right")
    total, weight = np.zeros_like(cosines), np.zeros((len(cosines), 1), np.float32)
    for shift, share in zip(range(-reach, reach + 1), kernel):
        low, high = max(0, -shift), min(len(cosines), len(cosines) - shift)
        if low >= high:
            continue
        same = (shot[low:high] == shot[low + shift : high + shift])[:, None] * share
        total[low:high] += same * cosines[low + shift : high + shift]
        weight[low:high] += same
    return np.asarray(total / weight, np.float32)


def _segments(curve: Floats, grid: Grid, duration: float, config: Config, edges: np.ndarray) -> list[Segment]:
    """One query: ``(T,)`` to its segments."""
    spans = grouped(curve, config.levels, config.tolerances, edges)
    score = contrast(curve, spans)
    seconds = grid.seconds(spans.astype(np.float64))
    # the first cell reaches back to the beginning, the last to the end: overlapping clips leave half a step there
    seconds[spans[:, 0] == 0, 0] = 0.0
    seconds[spans[:, 1] == grid.count, 1] = duration
    seconds = seconds.clip(0.0, duration)
    length = seconds[:, 1] - seconds[:, 0]
    good = (length > 0) & (length >= config.shortest)
    if not good.any():
        return []
    seconds, score = seconds[good], score[good]
    # suppression ranks by scores that are not negative
    order, _ = hard_nms(seconds, score - score.min(), config.nms, keep=config.top)
    return [Segment(float(seconds[i, 0]), float(seconds[i, 1]), None, float(score[i])) for i in order]


def grouped(curve: np.ndarray, levels: int, tolerances: Sequence[float], edges: np.ndarray) -> NDArray[np.int64]:
    """Temporal actionness grouping of ``(T,)``: the distinct groups as ``(n, 2)`` cells, first and one past the last.

    Args:
        edges: first cells of the shots, and the count of cells; no group crosses one.
    """
    low, high = float(curve.min()), float(curve.max())
    found = [np.stack([edges[:-1], edges[1:]], axis=1)]  # whole shots, too: a video may be about nothing else
    shares = np.asarray(tolerances, np.float64)[None, :]
    for level in np.linspace(low, high, levels + 2)[1:-1]:
        above = np.zeros(len(curve) + 2, bool)
        above[1:-1] = curve >= level
        steps = np.diff(above.astype(np.int8))
        # a shot boundary inside a basin makes two of it
        inner = edges[1:-1][above[edges[1:-1]] & above[edges[1:-1] + 1]]
        starts = np.sort(np.concatenate([np.flatnonzero(steps == 1), inner]))
        ends = np.sort(np.concatenate([np.flatnonzero(steps == -1), inner]))
        if not len(starts):
            continue
        filled = np.concatenate([[0], np.cumsum(ends - starts)])
        shot = np.searchsorted(edges, starts, side="right")
        seeds = np.arange(len(starts))
        last = np.repeat(seeds[:, None], shares.shape[1], axis=1)
        growing = np.ones(last.shape, bool)
        for ahead in range(1, len(starts)):
            reached = np.minimum(seeds + ahead, len(starts) - 1)
            fits = (seeds + ahead < len(starts)) & (shot[reached] == shot)
            share = (filled[reached + 1] - filled[seeds]) / (ends[reached] - starts)
            growing &= fits[:, None] & (share[:, None] >= shares)
            if not growing.any():
                break
            last = np.where(growing, reached[:, None], last)
        found.append(np.stack([np.repeat(starts, shares.shape[1]), ends[last].ravel()], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def contrast(curve: np.ndarray, spans: np.ndarray) -> NDArray[np.float64]:
    """``(n,)``: the root of the between-class variance of each of ``(n, 2)`` spans of cells and the rest, signed."""
    total = np.concatenate([[0.0], np.cumsum(curve, dtype=np.float64)])
    inside = (spans[:, 1] - spans[:, 0]).astype(np.float64)
    within_ = total[spans[:, 1]] - total[spans[:, 0]]
    outside = len(curve) - inside
    mean_in = within_ / np.maximum(inside, 1)
    mean_out = np.where(outside > 0, (total[-1] - within_) / np.maximum(outside, 1), mean_in)
    return np.asarray(np.sqrt(inside * outside) / len(curve) * (mean_in - mean_out))


# ---------------------------------------------------------------------------------------------- shots


def boundaries(rows: np.ndarray, ratio: float = 4.0, least: float = 0.15, around: int = 4) -> NDArray[np.int64]:
    """Cells of a feature sequence that begin a new shot, ``(n,)``, by the adaptive rule on cosine distances.

    Cell ``t`` begins a shot where its distance from cell ``t - 1`` is at least ``least``, the largest of its
    neighbourhood, and ``ratio`` times the mean of the ``around`` distances on either side. Clips that overlap a
    boundary see both shots, so the distances next to the largest are left out of that mean.

    Args:
        rows: ``(T, D)`` unit rows.
    """
    return _peaks(1 - (rows[1:] * rows[:-1]).sum(1), ratio, least, around, skip=1) + 1


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
    """Indices of ``(n,)`` differences that stand out of their neighbourhood."""
    if not len(steps):
        return np.zeros(0, np.int64)
    padded = np.pad(np.asarray(steps, np.float64), around + skip, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * (around + skip) + 1)
    middle = around + skip
    others = np.concatenate([windows[:, :around], windows[:, middle + skip + 1 :]], axis=1)
    here = ~np.isnan(others)
    mean = np.where(here, others, 0).sum(1) / np.maximum(here.sum(1), 1)
    largest = np.nanmax(windows, axis=1)
    known = here.any(1)  # what has no neighbours stands out of nothing
    return np.flatnonzero(known & (steps >= least) & (steps >= ratio * mean) & (steps == largest))
