"""What the features know: how alike clips are, whether background looks like action, and what a line can read off.

Two pictures from the papers, as numbers (``pictures.py`` and ``report.py`` draw them):

- :func:`similarity`: the matrix of TSP's Figure 2. A good encoder makes a block of each action (consensus) with hard
  edges against its surroundings (sharpness).
- :func:`distances`: the probe of CLAP's Figure 2a. In one video, a background clip should be farther from a foreground
  clip than another foreground clip is.

Two more measures, ours, that no training of a localizer stands between:

- Retrieval. A foreground clip asks for clips of *other* videos (those of its own are alike anyway: they share camera
  and place), which are ranked by cosine similarity. Of the first ten, or of as many as there are right ones where
  those are fewer, how many show its class, and how many are foreground at all? A query whose class no other video
  shows is not asked for it. Straddling clips are not ranked.
- Linear probes. What a linear map of the features, learnt on training videos, tells about clips of other videos: the
  class of a foreground clip, whether a clip is foreground or background, and how many seconds its centre is from the
  nearest boundary.

:func:`analyse` takes all of them of one encoder, :func:`side_by_side` of several on the same videos. Each figure has
its floor, what is had without looking at the features, and its standard error over videos.

Which clips count, the same everywhere here. A clip is what its feature was described from, the *window* of its grid
cell. It is **foreground** when its window lies wholly inside one instance, **background** when its window touches
none, and neither when it straddles a boundary. Labels play no part: two foreground clips of a video may show one
instance, two of the same class, or two of different classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cuemark.errors import CallError, DataError, within
from cuemark.grid import Features, Grid
from cuemark.segments import Segment, Truth, VideoTruth, labels_of, subset, times

DRAWS = 10
"""Per video in :func:`contrast`, where figures are shown: the paper has one, but also thousands of videos."""
CLIPS = 20_000
"""Clips of a side, training or test, that probes and retrieval look at, at most."""
_FIRST = 10
"""Retrieved clips that are looked at."""
_QUERIES = 256
"""Ranked at a time: no more than this many rows of similarities are in memory."""
_WEIGHTS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the probes' L2 penalty, to choose from."""
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
    inside, outside = _against(features.grid, times(list(annotations)))
    return np.any(inside, axis=1), np.all(outside, axis=1)


def _against(grid: Grid, instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every clip and instance: does the window lie inside it, does it miss it? ``(T, n)`` bool each."""
    start, end = grid.windows[:, None, 0], grid.windows[:, None, 1]
    inside = (start >= instances[:, 0] - _SLACK) & (end <= instances[:, 1] + _SLACK)
    outside = (end <= instances[:, 0] + _SLACK) | (start >= instances[:, 1] - _SLACK)
    return inside, outside


def thinned(features: Features, most: int) -> Features:
    """Every k-th clip, with the smallest k that leaves ``most`` or fewer; the similarity matrix of hours is no picture.

    Raises:
        CallError: ``most`` is below 1.
    """
    within("most", most, 1)
    grid = features.grid
    k = max(1, -(-grid.count // most))
    data = features.data[::k]
    start = grid.start + (1 - k) * grid.step / 2  # the clips that stay keep their centres
    return Features(data, Grid(start, grid.step * k, len(data), grid.window), features.duration)


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
    return _contrast(features, features, truth, seed, per_video, normalised)


def _contrast(features: Mapping[str, Features], asked: Collection[str], truth: Mapping[str, VideoTruth], seed: int,
              per_video: int, normalised: bool) -> Contrast:
    """The same of the videos ``asked``; the features of others are never read."""
    if per_video < 1:
        raise CallError(f"per_video must be at least 1, got {per_video}.")
    near, far = [np.zeros(0)], [np.zeros(0)]
    for vid in sorted(asked):
        data = _finite(features[vid], f"the features of video '{vid}'")
        foreground, background = clip_kinds(features[vid], truth[vid].annotations if vid in truth else ())
        fg, bg = np.flatnonzero(foreground), np.flatnonzero(background)
        if len(fg) < 2 or not len(bg):
            continue
        rng = _rng(seed, vid)
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
    return Contrast(values, used, len(asked) - used)


def distances(
    features: Mapping[str, Features],
    truth: Mapping[str, VideoTruth],
    seed: int = 0,
    per_video: int = 1,
    normalised: bool = False,
) -> np.ndarray:
    """The values of :func:`contrast` alone: ``(videos * per_video,)`` float64, positive is desired."""
    return contrast(features, truth, seed, per_video, normalised).values


def _rng(seed: int, vid: str) -> np.random.Generator:
    """A video's own draws, whatever others there are."""
    word = hashlib.sha256(vid.encode("utf-8", "surrogatepass")).digest()[:8]
    return np.random.default_rng([seed, int.from_bytes(word, "big")])


def _finite(features: Features, what: str) -> np.ndarray:
    data = features.data.astype(np.float64)
    if not np.isfinite(data).all():
        raise DataError(f"{what} contain NaN or infinity; extract them again.")
    return data


# ---------------------------------------------------------------------------------------------- all figures


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure, and what it is worth."""

    value: float
    """NaN: nothing could be asked."""
    floor: float
    """What is had without looking at the features, on the same clips."""
    error: float
    """Standard error of the value over videos, since clips of one video are no independent draws; NaN if one video."""


@dataclass(frozen=True)
class Analysis:
    """What the features of one encoder know (:func:`analyse`)."""

    figures: dict[str, Measure]
    """By the names of :data:`FIGURES`, in their order."""
    contrast: Contrast
    """The draws behind the first two figures, in units of the encoder's mean distance."""
    weights: dict[str, float]
    """Name of a probe -> weight of its L2 penalty, chosen on training videos."""
    train: tuple[str, ...]
    """Subsets that probes learnt from."""
    test: tuple[str, ...]
    """Subsets that every figure is taken on."""
    videos: tuple[int, int]
    """Videos of train and of test."""
    clips: tuple[int, int]
    """Clips of train and of test that probes and retrieval looked at."""
    missing: int
    """Videos of these subsets that have no features and were left out."""
    unseen: int
    """Foreground clips of test that show a class which training lacks; the class probe is not asked about them."""

    def to_json(self) -> dict[str, Any]:
        """All but the draws, ready for JSON; None in place of NaN."""
        told = {name: {key: None if math.isnan(x) else x for key, x in asdict(measure).items()}
                for name, measure in self.figures.items()}
        sides = ("train", "test")
        return {"figures": told, "train": list(self.train), "test": list(self.test),
                "videos": dict(zip(sides, self.videos)), "clips": dict(zip(sides, self.clips)),
                "videos_without_features": self.missing, "clips_of_unseen_classes": self.unseen,
                "contrast_videos": self.contrast.videos, "contrast_draws": len(self.contrast.values),
                "l2": self.weights}


FIGURES: dict[str, tuple[str, float, int]] = {
    "contrast_mean": ("fg-bg minus fg-fg, mean", 1, 2),
    "contrast_share": ("fg-bg minus fg-fg > 0, %", 100, 1),
    "retrieval_class": ("retrieval, same class, %", 100, 1),
    "retrieval_inside": ("retrieval, inside, %", 100, 1),
    "probe_class": ("probe, class, %", 100, 1),
    "probe_inside": ("probe, inside, %", 100, 1),
    "probe_inside_balanced": ("probe, inside, balanced, %", 100, 1),
    "probe_boundary": ("probe, boundary, s off", 1, 2),
}
"""Name -> what a table calls it, what it is multiplied by there, and decimals. Of the last, less is better."""

EXPLAINED = (
    "fg-bg minus fg-fg: differences of L2 distances between random clips of one video, in units of the encoder's mean "
    "distance (CLAP, Figure 2a). Retrieval: of the clips of other videos that are most like a clip inside an action, "
    "how many are right. Probes: linear maps, learnt on training videos; inside: inside or outside an action "
    "(balanced: both count the same); boundary: error of the distance to the nearest boundary in seconds, less is "
    "better. Floor: chance, or always what is most common in training. ±: standard error over videos."
)
"""What the figures of a table mean, in a few sentences."""


def analyse(
    features: Mapping[str, Features],
    truth: Truth,
    train: Collection[str] = ("training",),
    test: Collection[str] = ("validation",),
    seed: int = 0,
    clips: int = CLIPS,
) -> Analysis:
    """All figures of one encoder.

    Probes are logistic (class, inside) and ridge regression (boundary) of features standardised by their training
    statistics. The weight of the L2 penalty is chosen on a quarter of the training videos, then the probe is fitted
    anew on all of them; test videos choose nothing. The boundary probe fits log(1 + seconds), so that clips far from
    every action do not rule, and is scored in seconds (mean absolute error); its floor says the median of training.

    Args:
        features: video id -> features of one encoder; those of videos in other subsets are never read.
        truth: video id -> what is known about it.
        train: subsets that probes learn from.
        test: subsets that every figure is taken on.
        seed: of all draws.
        clips: of each of the two sides, probes and retrieval look at this many clips at most (but at least one of each
            video), drawn uniformly within each video and evenly over the videos. It bounds memory and time.

    Raises:
        CallError: a subset is both learnt from and tested on, or ``clips`` is below 1.
        DataError: a subset has no video or none with features; training has one class or one video; there is no
            clip inside or none outside an action; a feature is NaN or infinite.
    """
    return _analyse(features, features, truth, train, test, seed, clips)


def _analyse(features: Mapping[str, Features], known: Collection[str], truth: Truth, train: Collection[str],
             test: Collection[str], seed: int, clips: int) -> Analysis:
    """The same, where only the videos of ``known`` count as having features."""
    within("clips", clips, 1)
    both = sorted(set(train) & set(test))
    if both:
        raise CallError(f"subset '{both[0]}' is both learnt from and tested on; a probe is tested on other videos.")
    names = labels_of(truth)
    (learnt, learn, without), (scored, score, too) = (
        _side(features, known, truth, side, names, seed, clips) for side in (train, test))
    if learn.data.shape[1] != score.data.shape[1]:
        raise DataError(f"features of {_either(train)} have {learn.data.shape[1]} numbers and those of {_either(test)} "
                        f"{score.data.shape[1]}; extract all of them with one encoder.")
    classes = np.unique(learn.label[learn.label >= 0])
    if len(classes) < 2:
        raise DataError(f"clips inside actions of {_either(train)} show {'one class' if len(classes) else 'no class'} "
                        "and a probe needs two; name other subsets, or give the truth its labels.")
    drawn = _contrast(features, scored, truth, seed, DRAWS, normalised=True)
    of = np.repeat(np.arange(drawn.videos), DRAWS)
    figures = {"contrast_mean": Measure(drawn.mean, 0.0, _over_videos(drawn.values, of)[1]),
               "contrast_share": Measure(drawn.share, 0.5, _over_videos(drawn.values > 0, of)[1])}
    figures |= _retrieval(score, seed)
    weights = {}

    a, b = learn.label >= 0, np.isin(score.label, classes)
    if not b.any():
        raise DataError(f"no clip of {_either(test)} shows a class of {_either(train)}; name other subsets.")
    told, right = np.searchsorted(classes, learn.label[a]), np.searchsorted(classes, score.label[b])
    found, weights["class"] = _probe(learn, a, told, score, b, _Logistic(len(classes)))
    figures["probe_class"] = _correct(found.argmax(axis=1) == right, right == _commonest(told), score.video[b])

    a, b = learn.foreground | learn.background, score.foreground | score.background
    told, right = learn.foreground[a].astype(int), score.foreground[b].astype(int)
    found, weights["inside"] = _probe(learn, a, told, score, b, _Logistic(2))
    hit, blind = found.argmax(axis=1) == right, right == _commonest(told)
    figures["probe_inside"] = _correct(hit, blind, score.video[b])
    figures["probe_inside_balanced"] = _correct(hit, blind, score.video[b], right)

    a, b = np.isfinite(learn.distance), np.isfinite(score.distance)
    near, real = learn.distance[a], score.distance[b]
    ridge = _Ridge(near.max())
    found, weights["boundary"] = _probe(learn, a, np.log1p(near), score, b, ridge)
    value, error = _over_videos(abs(ridge.seconds(found) - real), score.video[b])
    figures["probe_boundary"] = Measure(value, float(abs(np.median(near) - real).mean()), error)

    return Analysis({name: figures[name] for name in FIGURES}, drawn, weights, tuple(train), tuple(test),
                    (len(learnt), len(scored)), (len(learn.video), len(score.video)), without + too,
                    int((score.label >= 0).sum() - np.isin(score.label, classes).sum()))


def side_by_side(
    encoders: Mapping[str, Mapping[str, Features]],
    truth: Truth,
    train: Collection[str] = ("training",),
    test: Collection[str] = ("validation",),
    seed: int = 0,
    clips: int = CLIPS,
    on_done: Callable[[str], None] = lambda name: None,
) -> dict[str, Analysis]:
    """:func:`analyse` of several encoders, on the videos that all of them have features of.

    Args:
        encoders: name -> features of one encoder.
        on_done: told the name of each encoder that is done.

    Raises:
        CallError: as :func:`analyse`.
        DataError: as :func:`analyse`; the message names the encoder.
    """
    common = {vid for vid in truth if all(vid in features for features in encoders.values())}
    found = {}
    for name, features in encoders.items():
        try:
            found[name] = _analyse(features, common, truth, train, test, seed, clips)
        except DataError as error:
            raise DataError(f"'{name}': {error}") from None
        on_done(name)
    return found


def tabled(analyses: Mapping[str, Analysis]) -> tuple[list[str], list[list[str]]]:
    """Encoders side by side, as the command line and the report show them.

    Returns:
        Heads (figure, floor, and the encoders' names) and rows of words, one for each of :data:`FIGURES`. Encoders on
        different grids were asked about different clips; where their floors differ, all are shown.
    """
    rows = []
    for name, (title, factor, decimals) in FIGURES.items():
        def shown(x: float, by: float = factor, places: int = decimals) -> str:
            return "–" if math.isnan(x) else f"{by * x:.{places}f}"

        measures = [analysis.figures[name] for analysis in analyses.values()]
        floors = dict.fromkeys(shown(m.floor) for m in measures)
        rows.append([title, " / ".join(floors), *(
            shown(m.value) + ("" if math.isnan(m.error) else f" ± {shown(m.error)}") for m in measures)])
    return ["figure", "floor", *analyses], rows


def counted(analyses: Mapping[str, Analysis]) -> list[str]:
    """What the figures were taken on, in sentences: one for each encoder, or one if all say the same."""
    lines = {}
    for name, a in analyses.items():
        line = (f"{a.videos[1]:,} videos ({a.clips[1]:,} clips) of {' and '.join(a.test)}; probes learnt from "
                f"{a.videos[0]:,} videos ({a.clips[0]:,} clips) of {' and '.join(a.train)}; distances of "
                f"{len(a.contrast.values):,} draws in {a.contrast.videos:,} videos.")
        if a.missing:
            line += f" {a.missing:,} videos lack features and were left out."
        if a.unseen:
            line += f" {a.unseen:,} clips show a class that training lacks; the class probe was not asked about them."
        lines[name] = line
    if len(set(lines.values())) == 1:
        return list(lines.values())[:1]
    return [f"{name}: {line}" for name, line in lines.items()]


def examples(encoders: Mapping[str, Mapping[str, Features]], truth: Truth, count: int) -> list[str]:
    """Videos to draw: ``count`` of those that have annotations and two clips or more from every encoder.

    They are spread evenly over the number of instances; equal numbers stand in the order of their ids.
    """
    able = [vid for vid in sorted(truth) if truth[vid].annotations and all(vid in f for f in encoders.values())]
    able.sort(key=lambda vid: len(truth[vid].annotations))
    spread = np.linspace(0, len(able) - 1, max(0, min(count, len(able)))).round().astype(int)
    return [able[i] for i in spread if all(f[able[i]].grid.count > 1 for f in encoders.values())]


# ---------------------------------------------------------------------------------------------- clips of many videos


@dataclass(frozen=True, slots=True)
class _Clips:
    """``n`` clips of several videos."""

    data: np.ndarray
    """``(n, C)`` float32."""
    video: np.ndarray
    """``(n,)`` int: number of its video."""
    foreground: np.ndarray
    background: np.ndarray
    label: np.ndarray
    """``(n,)`` int: the one class of the instances it lies in; -1: none, or several."""
    distance: np.ndarray
    """``(n,)`` seconds from its centre to the nearest boundary; infinite in a video without annotations."""


def _side(features: Mapping[str, Features], known: Collection[str], truth: Truth, subsets: Collection[str],
          names: list[str], seed: int, most: int) -> tuple[list[str], _Clips, int]:
    """The videos of ``subsets`` that have features, clips drawn from them, and how many videos have none."""
    there = subset(truth, *subsets)
    vids = sorted(vid for vid in there if vid in known)
    if not vids:
        raise DataError(f"none of the {len(there)} videos of {_either(subsets)} has features; extract them, or name "
                        "other subsets.")
    ids = {name: i for i, name in enumerate(names)}
    each = max(1, most // len(vids))
    parts: list[_Clips] = []
    for number, vid in enumerate(vids):
        f, annotations = features[vid], truth[vid].annotations
        data = _finite(f, f"the features of video '{vid}'")
        keep = np.arange(len(data))
        if len(data) > each:
            keep = np.sort(_rng(seed, vid).choice(len(data), each, replace=False))
        inside, outside = _against(f.grid, times(annotations))
        inside, outside = inside[keep], outside[keep]
        foreground: np.ndarray = np.any(inside, axis=1)
        label = np.full(len(keep), -1)
        for i in np.flatnonzero(foreground):
            shown = {annotations[j].label for j in np.flatnonzero(inside[i])}
            if len(shown) == 1 and (only := shown.pop()) is not None:
                label[i] = ids[only]
        gaps = abs(f.grid.centres[keep, None] - times(annotations).reshape(-1))
        if parts and data.shape[1] != parts[0].data.shape[1]:
            raise DataError(f"the features of video '{vid}' have {data.shape[1]} numbers and those of video "
                            f"'{vids[0]}' {parts[0].data.shape[1]}; extract all of them with one encoder.")
        parts.append(_Clips(data[keep].astype(np.float32), np.full(len(keep), number), foreground,
                            np.all(outside, axis=1), label, gaps.min(axis=1, initial=np.inf)))
    found = _Clips(*(np.concatenate([getattr(part, name) for part in parts]) for name in _Clips.__slots__))
    for kind, where in ((found.foreground, "inside an"), (found.background, "outside every")):
        if not kind.any():
            raise DataError(f"no clip of {_either(subsets)} lies wholly {where} action; name other subsets, or extract "
                            "shorter clips.")
    return vids, found, len(there) - len(vids)


def _either(subsets: Collection[str]) -> str:
    return " or ".join(f"'{name}'" for name in subsets)


def _over_videos(values: np.ndarray, video: np.ndarray, kind: np.ndarray | None = None) -> tuple[float, float]:
    """Mean of ``values`` (of the means of each ``kind``), and its standard error over videos.

    The error is that of a ratio estimate from a sample of clusters (Cochran, "Sampling Techniques", 1977), which are
    the videos: the residuals of a video are summed before they are squared.
    """
    if not len(values):
        return math.nan, math.nan
    kind = np.zeros(len(values), int) if kind is None else kind
    _, kind, counts = np.unique(kind, return_inverse=True, return_counts=True)
    means = np.bincount(kind, values) / counts
    residuals = np.bincount(np.unique(video, return_inverse=True)[1],
                            (values - means[kind]) / (counts[kind] * len(counts)))
    n = len(residuals)
    return float(means.mean()), math.sqrt(n / (n - 1) * (residuals ** 2).sum()) if n > 1 else math.nan


def _correct(hit: np.ndarray, blind: np.ndarray, video: np.ndarray, kind: np.ndarray | None = None) -> Measure:
    value, error = _over_videos(hit, video, kind)
    return Measure(value, _over_videos(blind, video, kind)[0], error)


def _commonest(y: np.ndarray) -> int:
    return int(np.bincount(y).argmax())


# ---------------------------------------------------------------------------------------------- retrieval


def _retrieval(clips: _Clips, seed: int) -> dict[str, Measure]:
    """Precision of the first clips that a foreground clip finds in other videos (module docstring)."""
    gallery = np.flatnonzero(clips.foreground | clips.background)
    gallery = np.random.default_rng(seed).permutation(gallery)  # of clips that are equally alike, none comes first
    norm = np.linalg.norm(clips.data, axis=1, keepdims=True)
    unit = torch.from_numpy(np.divide(clips.data, norm, out=np.zeros_like(clips.data), where=norm > 0))
    stored, video, label, inside = unit[gallery], clips.video[gallery], clips.label[gallery], clips.foreground[gallery]
    rows: dict[str, list[np.ndarray]] = {"retrieval_class": [], "retrieval_inside": []}
    queries = np.flatnonzero(clips.foreground)
    for some in np.split(queries, range(_QUERIES, len(queries), _QUERIES)):
        other: np.ndarray = video != clips.video[some, None]
        asked = clips.label[some, None]
        same: np.ndarray = (label == asked) & (asked >= 0)
        alike = (unit[some] @ stored.T).masked_fill_(torch.from_numpy(~other), -math.inf)
        first = alike.topk(min(_FIRST, len(gallery)), dim=1).indices.numpy()
        for name, right in (("retrieval_class", same & other), ("retrieval_inside", inside & other)):
            many = right.sum(axis=1)
            k = np.minimum(many, first.shape[1])
            hits = np.take_along_axis(right, first, axis=1) & (np.arange(first.shape[1]) < k[:, None])
            able = many > 0  # the others do not ask
            rows[name].append(np.stack([hits.sum(axis=1)[able] / k[able], many[able] / other.sum(axis=1)[able],
                                        clips.video[some][able]]))
    found = {}
    for name, parts in rows.items():
        precision, chance, of = np.concatenate(parts, axis=1)
        value, error = _over_videos(precision, of)
        found[name] = Measure(value, float(chance.mean()) if len(chance) else math.nan, error)
    return found


# ---------------------------------------------------------------------------------------------- probes


@dataclass(frozen=True, slots=True)
class _Logistic:
    """Multinomial logistic regression: ``y`` are the numbers of classes."""

    classes: int

    def fit(self, x: np.ndarray, y: np.ndarray, weight: float) -> np.ndarray:
        """``(C + 1, classes)``, the last row the bias: the minimum of cross entropy + weight/2 · ‖W‖²."""
        inputs, told = torch.from_numpy(x), torch.from_numpy(y)
        matrix = torch.zeros(x.shape[1], self.classes, requires_grad=True)
        bias = torch.zeros(self.classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([matrix, bias], max_iter=200, tolerance_grad=1e-5, tolerance_change=1e-8,
                                      line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(inputs @ matrix + bias, told) + weight / 2 * matrix.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        return torch.cat([matrix, bias[None]]).detach().numpy()

    def loss(self, found: np.ndarray, y: np.ndarray) -> float:
        return float(nn.functional.cross_entropy(torch.from_numpy(found), torch.from_numpy(y)))


@dataclass(frozen=True, slots=True)
class _Ridge:
    """Ridge regression: ``y`` are log(1 + seconds)."""

    most: float
    """Seconds; a line knows no ends, so what it says is cut off here."""

    def seconds(self, found: np.ndarray) -> np.ndarray:
        return np.expm1(found[:, 0].astype(np.float64).clip(0, math.log1p(self.most)))

    def fit(self, x: np.ndarray, y: np.ndarray, weight: float) -> np.ndarray:
        """``(C + 1, 1)``, the last row the bias: the minimum of mean squared error + weight · ‖W‖²."""
        centre, middle = x.mean(axis=0, dtype=np.float64), y.mean()
        inner = x.T @ x / len(x) - np.outer(centre, centre)
        found = np.linalg.solve(inner + weight * np.eye(len(inner)), x.T @ (y - middle) / len(x))
        return np.append(found, middle - centre @ found)[:, None].astype(np.float32)

    def loss(self, found: np.ndarray, y: np.ndarray) -> float:
        return float(abs(self.seconds(found) - np.expm1(y)).mean())


def _probe(learn: _Clips, a: np.ndarray, y: np.ndarray, score: _Clips, b: np.ndarray, kind: _Logistic | _Ridge
           ) -> tuple[np.ndarray, float]:
    """What a linear map learnt on the clips ``a`` of training says of the clips ``b`` of test, and its weight of L2."""
    x, video = learn.data[a], learn.video[a]
    videos = np.random.default_rng(0).permutation(np.unique(video))
    if len(videos) < 2:
        raise DataError("the clips that a probe learns from are of one training video; it needs two or more, as some "
                        "of them choose the weight of its penalty.")
    held = np.isin(video, videos[:max(1, len(videos) // 4)])

    def outputs(fit: np.ndarray, weight: float, asked: np.ndarray) -> np.ndarray:
        mean, std = x[fit].mean(axis=0), x[fit].std(axis=0)
        std[std == 0] = 1
        learnt = kind.fit((x[fit] - mean) / std, y[fit], weight)
        return (asked - mean) / std @ learnt[:-1] + learnt[-1]

    weight = min(_WEIGHTS, key=lambda weight: kind.loss(outputs(~held, weight, x[held]), y[held]))
    return outputs(np.ones(len(x), bool), weight, score.data[b]), weight
