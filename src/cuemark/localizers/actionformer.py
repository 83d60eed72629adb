"""ActionFormer: localizing moments of actions with transformers.

Chen-Lin Zhang, Jianxin Wu, Yin Li, ECCV 2022 (arXiv 2202.07925).

A pyramid of transformer blocks with local attention, and two heads of convolutions that all its levels share. Every
point of every level says which classes are there and how far the segment around it reaches to both sides: no anchors,
no proposals, no second classifier. Shapes (``B`` batch, ``T`` positions, ``C`` feature width, ``W`` width, ``L``
levels, ``N = T + ceil(T/2) + ceil(T/4) …`` points, ``K`` classes)::

    features (B, T, C) ── 2 x [Conv1d k3, LayerNorm, ReLU] ── 2 blocks ── level 0 (B, T, W)
        level l-1 ── block with stride 2 ── level l (B, ceil(T / 2^l), W);  LayerNorm on each level
        each level ─┬─ 2 x [Conv1d k3, LayerNorm, ReLU], Conv1d k3 ── class (B, N, K) logits, a sigmoid each
                    └─ 2 x [Conv1d k3, LayerNorm, ReLU], Conv1d k3, x scale of the level, ReLU ── offset (B, N, 2)

    training   a point near the middle of a segment whose size suits its level is positive; focal loss of all points
               and distance-IoU loss of the positive ones, both over a moving average of the number of positives
    inference  points with a score above 0.001, the best 2000 of a level; soft-NMS per class, and voting

``offset`` is in strides of the point's level.

Where it differs from the released code, and why:

- Padding means nothing: convolutions and the maximum of the skip path read real positions only.
- A video longer than ``positions`` is cut into windows that overlap by half, in training and inference. In inference a
  point is asked in one of them only, the one in which it is farther from the cut, so nothing is found twice and
  nothing decays twice. The release trains on a random window of a video at a time, and sees the whole video in
  inference. As there, truth that a cut leaves less than half of is left out.
- The names are the network's own for every dataset. The release learns a single class on ActivityNet and borrows the
  names from an external classifier: ``names = "none"``, with :func:`cuemark.localizers.classify.fuse`.
- Candidates are cut to the video before they are suppressed; in the release, afterwards.
- Voting is per class, when asked for; the release votes only where suppression knows no classes, so its setting for
  THUMOS14 (0.7) does nothing there, and is off here.
- Offsets begin near 2 strides to both sides. From 0, a side that is below 0 at every point never learns, because its
  ReLU lets no gradient through: on the world's features one run validated at 0.04 average mAP, and at 0.30 from 2.
- The keys' projection has no bias (a softmax takes it out).
- Weight decay falls on every parameter; the release spares biases, norms and scales.
- One clock, the grid's seconds: a point is at the centre of its cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuemark.batch import Asked, Batch
from cuemark.errors import CallError, ModelError, unknown
from cuemark.grid import Features
from cuemark.localizers.layout import Layout
from cuemark.nn import spans
from cuemark.nn.attention import sinusoids
from cuemark.nn.nms import soft_nms, vote
from cuemark.nn.points import (
    PointTargets,
    distance_iou_loss,
    focal_loss,
    level_sizes,
    point_targets,
    pyramid_points,
)
from cuemark.nn.pyramid import ConvStack, Pyramid, along_time
from cuemark.segments import Segment, columns, times

SPANS = ("video", "windows")
NAMES = ("localizer", "none")
_REACH = 2.0  # strides that a point reaches to both sides before training, as do the segments of most levels
RANGES = ((0.0, 4.0), (4.0, 8.0), (8.0, 16.0), (16.0, 32.0), (32.0, 64.0), (64.0, 10000.0))


@dataclass(frozen=True)
class Config:
    """The release's settings for THUMOS14; :meth:`activitynet` has those for ActivityNet.

    Raises:
        CallError: a value that cannot be meant.
    """

    span: str = "windows"
    """What the network sees at once: ``"windows"`` of at most ``positions`` rows (the whole video where it fits), or
    the whole ``"video"`` resampled to ``positions``."""
    positions: int = 2304
    """T: rows the network sees at once; a multiple of twice the stride of the last level."""
    width: int = 512
    """W: channels."""
    embedding: int = 2
    """Convolutions before the transformer."""
    stem: int = 2
    """Blocks before level 0."""
    heads: int = 4
    """Of attention."""
    attention: tuple[int, ...] = (19, 19, 19, 19, 19, 19)
    """For each level, how many of its positions a position attends to: an odd number, or 0 for all."""
    encode_positions: bool = False
    """Add sinusoids of the position, divided by the root of ``width``, to the embedding."""
    drop_path: float = 0.1
    """Probability of leaving out a block's path, per sample."""
    head_layers: int = 2
    """Convolutions of each head before its last."""
    ranges: tuple[tuple[float, float], ...] = RANGES
    """For each level, from where to where the farther end of its segments is, in rows of features."""
    radius: float = 1.5
    """Centre sampling: positives are at most that many strides from the middle of their segment."""
    prior: float = 0.01
    """Score of every class before training."""
    regression_weight: float = 1.0
    """Weight of the regression loss."""
    smoothing: float = 0.0
    """Of the class targets: ``(1 - smoothing) * target + smoothing / (K + 1)``."""
    positives: float = 100.0
    """What the moving average of the number of positive points of a batch begins with."""
    momentum: float = 0.9
    """Of that average."""
    names: str = "localizer"
    """Where class names come from: ``"localizer"``, or ``"none"``: one score for any action, segments without a label
    (see :func:`cuemark.localizers.classify.fuse`)."""
    threshold: float = 0.001
    """Lowest score of a candidate, and of an answer."""
    candidates: int = 2000
    """Best candidates of a level."""
    shortest: float = 0.05
    """Length of the shortest candidate, in rows of features."""
    sigma: float = 0.5
    """Gaussian soft-NMS."""
    voting: float = 0.0
    """Answers move to the mean of the candidates of their class with at least this tIoU; 0: they stay."""
    keep: int = 200
    """Segments of a video in the answer."""

    def __post_init__(self) -> None:
        if self.span not in SPANS:
            raise unknown("span", self.span, SPANS)
        if self.names not in NAMES:
            raise unknown("source of names", self.names, NAMES)
        for name in ("positions", "width", "embedding", "stem", "heads", "head_layers", "radius", "positives",
                     "candidates", "sigma", "keep"):
            if not getattr(self, name) > 0:
                raise CallError(f"ActionFormer's '{name}' must be positive, got {getattr(self, name)}.")
        for name in ("drop_path", "smoothing", "momentum", "threshold", "voting"):
            if not 0 <= getattr(self, name) < 1:
                raise CallError(f"ActionFormer's '{name}' must be in [0, 1), got {getattr(self, name)}.")
        if not 0 < self.prior < 1:
            raise CallError(f"ActionFormer's 'prior' must be in (0, 1), got {self.prior}.")
        if not self.regression_weight >= 0 or not self.shortest >= 0:
            raise CallError("ActionFormer's 'regression_weight' and 'shortest' cannot be negative, got "
                            f"{self.regression_weight} and {self.shortest}.")
        if self.width % self.heads:
            raise CallError(f"ActionFormer's 'heads' ({self.heads}) must divide 'width' ({self.width}).")
        if not self.attention or len(self.attention) != len(self.ranges):
            raise CallError("ActionFormer's 'attention' and 'ranges' have one value per level; got "
                            f"{len(self.attention)} and {len(self.ranges)}.")
        if any(w < 0 or (w > 0 and w % 2 == 0) for w in self.attention):
            raise CallError(f"ActionFormer's 'attention' is odd at each level, or 0 for all positions; got "
                            f"{list(self.attention)}.")
        if any(not 0 <= low < high for low, high in self.ranges):
            raise CallError(f"ActionFormer's 'ranges' go from a smaller to a larger distance; got "
                            f"{[list(pair) for pair in self.ranges]}.")
        if self.positions % (2 * self.coarsest):
            raise CallError(f"ActionFormer's 'positions' must be a multiple of {2 * self.coarsest} with "
                            f"{len(self.attention)} levels, got {self.positions}.")

    @property
    def coarsest(self) -> int:
        """Stride of the last level, in rows of features."""
        return int(2 ** (len(self.attention) - 1))

    @classmethod
    def activitynet(cls) -> Config:
        """The release's settings for ActivityNet, but for the names, which it does not learn."""
        return cls(span="video", positions=192, width=256, attention=(7, 7, 7, 7, 7, 0), encode_positions=True,
                   regression_weight=2.0, smoothing=0.1, positives=200.0, shortest=0.001, sigma=0.75, voting=0.9,
                   keep=100)


class ActionFormer(nn.Module):
    """The network, its losses and its answers; see the module's docstring.

    Args:
        config: how large, how trained, how decoded.
        dim: width of the features.
        classes: the labels it can name; truth with other labels (or none) is background to it, unless it names
            none.
    """

    config_type: ClassVar[type[Config]] = Config
    asked: ClassVar[Asked] = "classes"
    judges: ClassVar[bool] = False

    positives: Tensor
    """Moving average of the number of positive points of a batch: what losses are divided by."""

    def __init__(self, config: Config, dim: int, classes: Sequence[str]) -> None:
        super().__init__()
        c = config
        self.config, self.dim, self.classes = c, dim, tuple(classes)
        self.named = c.names != "none" and bool(self.classes)
        self.embedding = ConvStack(dim, c.width, c.embedding)
        self.pyramid = Pyramid(c.width, c.heads, c.stem, c.attention, c.drop_path)
        self.class_head = ConvStack(c.width, c.width, c.head_layers)
        self.offset_head = ConvStack(c.width, c.width, c.head_layers)
        self.score = nn.Conv1d(c.width, len(self.classes) if self.named else 1, 3, padding=1)
        self.offset = nn.Conv1d(c.width, 2, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(len(c.attention)))
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
        assert self.score.bias is not None
        assert self.offset.bias is not None
        nn.init.constant_(self.score.bias, -math.log((1 - c.prior) / c.prior))
        # a side that begins below 0 at every point would never learn: the ReLU lets no gradient through
        nn.init.constant_(self.offset.bias, _REACH)
        self.register_buffer("positives", torch.tensor(c.positives))

    # ------------------------------------------------------------------------------------------------- network

    def views(self, features: Features) -> list[Features]:
        """The whole video, as it is or resampled; one longer than T in windows of T rows that overlap by half.

        Windows begin at multiples of the last level's stride, so all levels have their points where those of the
        whole video are.

        Raises:
            DataError: the features have no row, or their video no length.
        """
        size = self.config.positions
        spans.refuse_empty(features)
        return [features.resample(size)] if self.config.span == "video" else spans.windows(features, size, size // 2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """What every point says, the points of the finest level first; what padded ones say means nothing.

        Returns:
            ``"class"`` ``(B, N, K)`` logits (K = 1 without names) and ``"offset"`` ``(B, N, 2)`` distances to start
            and end, not negative, in strides of the point's level.

        Raises:
            ModelError: the features are wider or narrower than the network's, or longer than T.
        """
        _, length, dim = batch.features.shape
        if dim != self.dim:
            raise ModelError(f"this localizer was made for features of width {self.dim}, these have width {dim}; "
                             "extract them with the encoder it was trained on.")
        if length > self.config.positions:
            raise ModelError(f"this localizer sees {self.config.positions} positions at once, got {length}; cut the "
                             "features with its views().")
        x = self.embedding(batch.features, batch.mask)
        if self.config.encode_positions:
            x = x + sinusoids(length, self.config.width, x.device).to(x) / math.sqrt(self.config.width)
            x = x * batch.mask[..., None]
        scores, offsets = [], []
        for (level, mask), scale in zip(self.pyramid(x, batch.mask), self.scale, strict=True):
            scores.append(along_time(self.score, self.class_head(level, mask)))
            offsets.append(F.relu(along_time(self.offset, self.offset_head(level, mask)) * scale))
        return {"class": torch.cat(scores, dim=1), "offset": torch.cat(offsets, dim=1)}

    # ------------------------------------------------------------------------------------------------- training

    def targets(self, batch: Batch) -> PointTargets:
        """Truth in seconds to what the points should say; padded points are never positive.

        Truth is cut where a window is cut from its video, and left out where less than half of it remains.

        Raises:
            CallError: the batch has no truth.
        """
        if batch.truth is None:
            raise CallError("a loss needs truth; collate the batch with its annotated segments.")
        indices = {name: i for i, name in enumerate(self.classes)}
        rows: list[tuple[np.ndarray, list[int]]] = []
        for grid, truth in zip(batch.grids, batch.truth, strict=True):
            meant = [s for s in truth if s.duration > 0 and (not self.named or s.label in indices)]
            inside, kept = spans.shown(grid, times(meant))
            labels = [indices[str(s.label)] if self.named else 0 for s, k in zip(meant, kept, strict=True) if k]
            rows.append((inside[kept] - 0.5, labels))
        most, device = max(len(labels) for _, labels in rows), batch.features.device
        segments = np.zeros((len(rows), most, 2), np.float32)
        known = np.full((len(rows), most), -1)
        for i, (at, labels) in enumerate(rows):
            segments[i, : len(labels)], known[i, : len(labels)] = at, labels
        points = pyramid_points(batch.features.shape[1], self.config.ranges, device)
        found = point_targets(points, torch.from_numpy(segments).to(device), torch.from_numpy(known).to(device),
                              len(self.classes) if self.named else 1, self.config.radius)
        real = self._real(batch)
        return PointTargets(found.classes * real[..., None], found.offsets, found.positive & real)

    def loss(self, out: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``"class"`` and ``"regression"``; weighted scalars, finite for every batch.

        In training the average number of positives moves first; in evaluation it stays as it is.
        """
        c, target = self.config, self.targets(batch)
        if self.training:
            with torch.no_grad():
                count = target.positive.sum().clamp(min=1).to(self.positives)
                self.positives.mul_(c.momentum).add_((1 - c.momentum) * count)
        share = 1 / self.positives.clone()  # the next batch moves it in place
        soft = target.classes * (1 - c.smoothing) + c.smoothing / (target.classes.shape[2] + 1)
        focal = focal_loss(out["class"].float(), soft)[self._real(batch)].sum()
        apart = distance_iou_loss(out["offset"].float()[target.positive], target.offsets[target.positive]).sum()
        return {"class": focal * share, "regression": c.regression_weight * apart * share}

    # ------------------------------------------------------------------------------------------------ inference

    @torch.no_grad()
    def decode(self, out: dict[str, Tensor], batch: Batch) -> list[list[Segment]]:
        """Candidates of each row, best first, in seconds inside the video, before suppression."""
        c, length = self.config, batch.features.shape[1]
        points = pyramid_points(length, c.ranges, batch.features.device)
        asked = self._real(batch)
        for row, grid in enumerate(batch.grids):
            if isinstance(grid, spans.Window):
                asked[row] &= (points.position >= grid.first) & (points.position < grid.stop)
        score = out["class"].float().sigmoid() * asked[..., None]
        classes = score.shape[2]
        # the best of each level, of all rows at once
        best, index, first = [], [], 0
        for size in level_sizes(length, len(c.ranges)):
            flat = score[:, first:first + size].flatten(1)
            top, at = flat.topk(min(c.candidates, flat.shape[1]), dim=1)
            best.append(top)
            index.append(at + first * classes)
            first += size
        scores, order = torch.cat(best, dim=1).sort(dim=1, descending=True, stable=True)
        chosen = torch.cat(index, dim=1).gather(1, order)
        point, label = chosen // classes, (chosen % classes).cpu().numpy()
        reach = out["offset"].double().gather(1, point[..., None].expand(-1, -1, 2)) * points.stride[point][..., None]
        at = points.position[point].double()
        placed = torch.stack([at - reach[..., 0], at + reach[..., 1]], dim=2).cpu().numpy() + 0.5
        found = scores.double().cpu().numpy()

        answers = []
        for row, grid in enumerate(batch.grids):
            seconds = np.clip(grid.seconds(placed[row]), 0.0, batch.durations[row])
            long = placed[row, :, 1] - placed[row, :, 0] > c.shortest
            kept = long & (found[row] > c.threshold) & (seconds[:, 1] > seconds[:, 0])
            answers.append([Segment(a, b, self.classes[k] if self.named else None, s) for (a, b), k, s in
                            zip(seconds[kept].tolist(), label[row, kept].tolist(), found[row, kept].tolist(),
                                strict=True)])
        return answers

    def select(self, candidates: list[Segment]) -> list[Segment]:
        """The answer for one video from the candidates of all its views: soft-NMS and voting per class, the best."""
        c = self.config
        spans, scores, groups = columns(candidates)
        order, left = soft_nms(spans, scores, c.sigma, keep=c.keep, floor=c.threshold, groups=groups)
        chosen = vote(order, spans, scores, c.voting, groups=groups) if c.voting else spans[order]
        return [Segment(a, b, candidates[i].label, value)
                for (a, b), i, value in zip(chosen.tolist(), order.tolist(), left.tolist(), strict=True)]

    # -------------------------------------------------------------------------------------------------- private

    def _real(self, batch: Batch) -> Tensor:
        """``(B, N)`` bool: points that stand on a real position."""
        return torch.cat([batch.mask[:, :: 2**level] for level in range(len(self.config.attention))], dim=1)


# --------------------------------------------------------------------------------------------------- what was released


def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the released code (github.com/happyharrycn/actionformer_release) as ours.

    All but ``positives``, which the release does not keep.

    Args:
        state: ``state_dict_ema`` of an ``epoch_….pth.tar``, or its ``state_dict``.

    Raises:
        ModelError: weights are missing, too many or of another shape.
    """
    theirs = Layout(state, "ActionFormer")
    ours: dict[str, Tensor] = {}

    def norm(layer: str, name: str) -> None:  # (1, C, 1)
        ours.update({f"{name}.{part}": theirs.take(f"{layer}.{part}", 3).flatten() for part in ("weight", "bias")})

    def stack(layers: str, norms: str, name: str) -> None:
        for i in range(theirs.count(layers + ".{}.conv.weight")):
            ours[f"{name}.convolutions.{i}.weight"] = theirs.take(f"{layers}.{i}.conv.weight", 3)
            norm(f"{norms}.{i}", f"{name}.norms.{i}")

    def block(layer: str, name: str) -> None:
        for i, part in enumerate(("query", "key", "value")):
            near = theirs.take(f"{layer}.attn.{part}_conv.conv.weight", 3)  # (C, 1, 3)
            ours[f"{name}.near.{i}.weight"] = near.squeeze(1).T.contiguous()
            norm(f"{layer}.attn.{part}_norm", f"{name}.norms.{i}")
            ours.update(theirs.flat(f"{layer}.attn.{part}", f"{name}.projections.{i}"))
        del ours[f"{name}.projections.1.bias"]  # a softmax takes it out
        for part, mine in (("attn.proj", "out"), ("mlp.0", "wide"), ("mlp.3", "narrow")):
            ours.update(theirs.flat(f"{layer}.{part}", f"{name}.{mine}"))
        for part, mine in (("ln1", "norm"), ("ln2", "norm_wide")):
            norm(f"{layer}.{part}", f"{name}.{mine}")
        for part, mine in (("attn", "attention_path"), ("mlp", "wide_path")):
            ours[f"{name}.{mine}.scale"] = theirs.take(f"{layer}.drop_path_{part}.scale", 3).flatten()

    stack("backbone.embd", "backbone.embd_norm", "embedding")
    levels = theirs.count("backbone.branch.{}.ln1.weight") + 1
    for row, blocks in (("stem", theirs.count("backbone.stem.{}.ln1.weight")), ("branch", levels - 1)):
        for i in range(blocks):
            block(f"backbone.{row}.{i}", f"pyramid.{row}.{i}")
    for i in range(levels):
        norm(f"neck.fpn_norms.{i}", f"pyramid.norms.{i}")
    for head, name, last, mine in (("cls_head", "class_head", "cls_head", "score"),
                                   ("reg_head", "offset_head", "offset_head", "offset")):
        stack(f"{head}.head", f"{head}.norm", name)
        ours.update(theirs.pair(f"{head}.{last}.conv", mine))
    ours["scale"] = torch.stack([theirs.take(f"reg_head.scale.{i}.scale", 0) for i in range(levels)])
    theirs.end()
    return ours
