"""What the features know: how alike the clips of one video are, and whether background looks like action.

Two pictures from the papers, as numbers (``report.py`` draws them):

- :func:`similarity`: the matrix of TSP's Figure 2. A good encoder makes a block of each action (consensus) with hard
  edges against its surroundings (sharpness).
- :func:`distances`: the probe of CLAP's Figure 2a. In one video, a background clip should be farther from a foreground
  clip than another foreground clip is.

Which clips count, the same everywhere here. A clip is what its feature was described from, the *window* of its grid
cell. It is **foreground** when its window lies wholly inside one instance, **background** when its window touches
none, and neither when it straddles a boundary. Labels play no part: two foreground clips of a video may show one
instance, two of the same class, or two of different classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cuemark.errors import CallError, DataError
from cuemark.grid import Features
from cuemark.segments import Segment, VideoTruth, times

_SLACK = 1e-6
"""Seconds by which a window may miss a boundary: 16/15 s and the like are not exact in binary."""


def similarity(features: Features) -> np.ndarray:
    """Cosine similarity between all clips of one video (TSP, Section 5 and Figure 2).

    Returns:
        ``(T, T)`` float32 in [-1, 1], symmetric; rows and columns in time order. A clip whose feature is all zeros has
        similarity 0 with every clip, itself included.

    Raises:
        DataError: a feature is NaN or infinite.
    """
    data = _finite(features, "these features")
    norm = np.linalg.norm(data, axis=1, keepdims=True)
    unit = np.divide(data, norm, out=np.zeros_like(data), where=norm > 0)
    return (unit @ unit.T).clip(-1, 1).astype(np.float32)


def clip_kinds(features: Features, annotations: Iterable[Segment]) -> tuple[np.ndarray, np.ndarray]:
    """Which clips are foreground and which are background (module docstring); the rest straddle a boundary.

    Returns:
        Two ``(T,)`` bool arrays: foreground, background.
    """
    window = features.grid.windows[:, None]
    instance = times(list(annotations))[None]
    inside = (window[..., 0] >= instance[..., 0] - _SLACK) & (window[..., 1] <= instance[..., 1] + _SLACK)
    outside = (window[..., 1] <= instance[..., 0] + _SLACK) | (window[..., 0] >= instance[..., 1] - _SLACK)
    return np.any(inside, axis=1), np.all(outside, axis=1)


@dataclass(frozen=True, slots=True)
class Contrast:
    """CLAP's Figure 2a for one encoder: the drawn values and how many videos they stand for."""

    values: np.ndarray
    """``(videos * per_video,)`` float64, L2(fg, bg) - L2(fg, fg); videos in the order of their sorted ids."""
    videos: int
    """Videos that were used."""
    skipped: int
    """Videos with features but without two foreground clips and a background clip, or without truth."""

    @property
    def mean(self) -> float:
        """Mean of the values; positive is desired; NaN when no video could be used."""
        return float(self.values.mean()) if len(self.values) else float("nan")

    @property
    def share(self) -> float:
        """Share of the values above zero, in [0, 1]; 0.5 is chance; NaN when no video could be used."""
        return float((self.values > 0).mean()) if len(self.values) else float("nan")


def contrast(
    features: Mapping[str, Features],
    truth: Mapping[str, VideoTruth],
    seed: int = 0,
    per_video: int = 1,
    normalised: bool = False,
) -> Contrast:
    """How much farther background is from foreground than foreground from itself (CLAP, Figure 2a).

    Each draw takes two different foreground clips ``a, b`` and one background clip ``c`` of one video, uniformly, and
    gives ``L2(a, c) - L2(a, b)``. The draws of a video depend on ``seed``, its id and its clips only: the order of the
    videos, or which others there are, changes nothing, and encoders with the same grid are asked about the same clips.

    Args:
        features: video id -> features of one encoder.
        truth: video id -> what is known about it; all subsets given are used.
        seed: of the draws.
        per_video: draws per video; the paper has 1.
        normalised: distances scale with the features, so values of two encoders do not compare. If set, all values are
            divided by one number, the mean of all L2(a, b) and L2(a, c) drawn: 0.1 then reads "farther by a tenth of
            the encoder's typical distance between clips of a video". Signs and order do not change.

    Raises:
        CallError: ``per_video`` is below 1.
        DataError: a feature is NaN or infinite; the message names the video.
    """
    if per_video < 1:
        raise CallError(f"per_video must be at least 1, got {per_video}.")
    near, far = [np.zeros(0)], [np.zeros(0)]
    for vid in sorted(features):
        data = _finite(features[vid], f"the features of video '{vid}'")
        foreground, background = clip_kinds(features[vid], truth[vid].annotations if vid in truth else ())
        fg, bg = np.flatnonzero(foreground), np.flatnonzero(background)
        if len(fg) < 2 or not len(bg):
            continue
        word = hashlib.sha256(vid.encode("utf-8", "surrogatepass")).digest()[:8]
        rng = np.random.default_rng([seed, int.from_bytes(word, "big")])
        first = rng.integers(len(fg), size=per_video)
        second = (first + rng.integers(1, len(fg), size=per_video)) % len(fg)  # never the same clip twice
        third = rng.integers(len(bg), size=per_video)
        a, b, c = data[fg[first]], data[fg[second]], data[bg[third]]
        near.append(np.linalg.norm(a - b, axis=1))
        far.append(np.linalg.norm(a - c, axis=1))
    fg2fg, fg2bg = np.concatenate(near), np.concatenate(far)
    values = fg2bg - fg2fg
    if normalised and len(values):
        values = values / ((fg2fg.mean() + fg2bg.mean()) / 2 or 1.0)  # all distances 0: the values are 0 already
    used = len(near) - 1
    return Contrast(values, used, len(features) - used)


def distances(
    features: Mapping[str, Features],
    truth: Mapping[str, VideoTruth],
    seed: int = 0,
    per_video: int = 1,
    normalised: bool = False,
) -> np.ndarray:
    """The values of :func:`contrast` alone: ``(videos * per_video,)`` float64, positive is desired."""
    return contrast(features, truth, seed, per_video, normalised).values


def _finite(features: Features, what: str) -> np.ndarray:
    data = features.data.astype(np.float64)
    if not np.isfinite(data).all():
        raise DataError(f"{what} contain NaN or infinity; extract them again.")
    return data
