"""BMN: boundary-matching network for temporal action proposal generation.

Tianwei Lin, Xiao Liu, Xin Li, Errui Ding, Shilei Wen, ICCV 2019.

Where may an action begin, where may it end, and how well does each pair of the two fit? All pairs are judged in one
pass: features are sampled at 32 places of every span of the start x duration map, context included, and a small
network looks at the whole map. Shapes (``B`` batch, ``T`` positions, ``C`` feature width, ``D`` durations, ``N`` cells
whose span ends inside the sequence, ``K`` classes)::

    features (B, T, C) ── Conv1d k3 twice ── base (B, 256, T)
            │               ├─ TEM: Conv1d k3, Conv1d 1x1, sigmoid ── start (B, T), and the same for end (B, T)
            │               └─ PEM: Conv1d k3 ── (B, 256, T) ── boundary matching: 32 samples of every span,
            │                       each the mean of 3 points, all convolved to one vector ── (B, N, 512)
            │                       Conv 1x1 ── (B, 128, T, T), start x end ── two Conv2d k3, Conv 1x1, sigmoid
            │                                                               ── map (B, 2, D, T), duration x start
            └─ linear ── class (B, T, K) logits, if names are wanted (:mod:`cuemark.localizers.classify`)

``map[:, 0]`` regresses a span's tIoU, ``map[:, 1]`` says whether it exceeds 0.9. Cell ``(d, s)`` is the span
``[s, s + d + 1]``. Its score is start · end · both of the map's, and soft-NMS orders the proposals. They have no class
by default: ActivityNet's systems borrow one from a video classifier (:func:`cuemark.localizers.classify.fuse`).

The paper draws the map as duration x start. The release convolves it as start x end, where neighbours differ in one
boundary, and so do we; the answer is handed out as duration x start, the house's map. Cells without a span hold what
the layer answers to nothing (its bias), as in the release.

Where it differs from the released code, and why:

- Proposals may reach the end of the video (``s + d + 1 == T``); 12 % of ActivityNet's annotations do. Such an end
  reads the last position's end score.
- The convolution over the 32 samples is applied before the sampling, which is sparse (:mod:`cuemark.nn.maps`): the
  same numbers without the (256, 32, T, T) tensor and the dense (T, 32·T·T) matrix, which is in no checkpoint either.
- Losses are finite for every batch; those of the release are not where a batch has no positive. Cells of the
  regression loss are drawn from torch's generator, which the training loop seeds by (seed, step), and from a fixed one
  in evaluation. Where a batch has more good cells than middling ones all of the latter count, and no others.
- One clock, the grid's seconds, in training and inference; the release trains on a corrected duration.
- Padding is masked everywhere, and cells that end outside the sequence are cells without a span.
- Soft-NMS answers with 100 proposals; the release collects 101. With names, suppression is per class.
- It can work in windows of a long video, which the paper does not do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuemark.batch import Asked, Batch
from cuemark.errors import CallError, ModelError, unknown
from cuemark.grid import Features
from cuemark.localizers.classify import NAMES, SpanClassifier, classifier, name_by, named, span_loss
from cuemark.localizers.layout import Layout
from cuemark.nn import spans
from cuemark.nn.maps import SparseMap, cells, conv_then_sample, extended_point_table, on_map, valid_cells
from cuemark.nn.nms import soft_nms
from cuemark.segments import Segment, columns


@dataclass(frozen=True)
class Config:
    """The paper's settings for ActivityNet; where it is silent, the release's.

    Raises:
        CallError: a value that cannot be meant.
    """

    span: str = "video"
    """What the network sees at once: the whole ``"video"`` resampled to ``positions``, or overlapping ``"windows"``
    of as many snippets, every half window."""
    positions: int = 100
    """T: snippets the network sees at once."""
    durations: int = 100
    """D: the longest proposal, in positions."""
    h1d: int = 256
    """Channels along time."""
    h2d: int = 128
    """Channels of the map."""
    h3d: int = 512
    """Channels of a span's vector after boundary matching."""
    groups: int = 4
    """Groups of the base's and TEM's convolutions; divides the feature width and ``h1d``."""
    samples: int = 32
    """N: places of a span at which its features are sampled."""
    points: int = 3
    """Points that one sample is the mean of."""
    boundary_weight: float = 1.0
    """Weight of the start and end losses."""
    regression_weight: float = 10.0
    """Weight of the tIoU regression loss."""
    confidence_weight: float = 1.0
    """Weight of the tIoU classification loss."""
    naming_weight: float = 1.0
    """Weight of the names' cross entropy (``names = "localizer"``); it shares no parameter with the others."""
    candidates: int = 5050
    """Best proposals of a view that go into suppression; all cells of 100 x 100."""
    alpha: float = 0.4
    """Soft-NMS: what overlaps a pick is multiplied by ``exp(-tIoU² / alpha)`` …"""
    overlap_low: float = 0.5
    """… if the tIoU exceeds this for a pick of no length …"""
    overlap_high: float = 0.9
    """… and this for one as long as the video; in between, linearly."""
    keep: int = 100
    """Proposals of a video in the answer; with names, ``keep * top_names`` segments."""
    names: str = "none"
    """Where class names come from: ``"none"`` (proposals without a label; see
    :func:`cuemark.localizers.classify.fuse`), ``"localizer"`` (learned with it), or ``"encoder"``
    (:meth:`BMN.name_by`)."""
    top_names: int = 2
    """With names, every proposal is emitted with this many best classes."""

    def __post_init__(self) -> None:
        if self.span not in spans.SPANS:
            raise unknown("span", self.span, spans.SPANS)
        if self.names not in NAMES:
            raise unknown("source of names", self.names, NAMES)
        for name in ("positions", "durations", "h1d", "h2d", "h3d", "groups", "samples", "points", "candidates",
                     "alpha", "keep", "top_names"):
            if not getattr(self, name) > 0:
                raise CallError(f"BMN's '{name}' must be positive, got {getattr(self, name)}.")
        if self.durations > self.positions:
            raise CallError(f"BMN's 'durations' ({self.durations}) cannot exceed 'positions' ({self.positions}); "
                            "a proposal is no longer than what the network sees.")
        if self.h1d % self.groups:
            raise CallError(f"BMN's 'groups' must divide 'h1d', got {self.groups} and {self.h1d}.")
        if not 0 <= self.overlap_low <= self.overlap_high <= 1:
            raise CallError("BMN's 'overlap_low' and 'overlap_high' must be 0 <= low <= high <= 1, got "
                            f"{self.overlap_low} and {self.overlap_high}.")


class BMN(nn.Module):
    """The network, its losses and its answers; see the module's docstring.

    Args:
        config: how large, how trained, how decoded.
        dim: width of the features.
        classes: the labels it can name, if it names; truth with other labels (or none) still teaches it to propose.

    Raises:
        CallError: ``dim`` does not fit ``config.groups``.
    """

    config_type: ClassVar[type[Config]] = Config
    asked: ClassVar[Asked] = "classes"
    judges: ClassVar[bool] = False

    _by_duration: Tensor
    _by_end: Tensor

    def __init__(self, config: Config, dim: int, classes: Sequence[str]) -> None:
        super().__init__()
        c = config
        if dim % c.groups:
            raise CallError(f"BMN's first convolution has {c.groups} groups, which do not divide features of width "
                            f"{dim}; set 'groups' to a divisor of it.")
        self.config, self.dim, self.classes = c, dim, tuple(classes)

        self.base = nn.ModuleList([nn.Conv1d(width, c.h1d, 3, padding=1, groups=c.groups) for width in (dim, c.h1d)])
        self.start_hidden, self.end_hidden = (nn.Conv1d(c.h1d, c.h1d, 3, padding=1, groups=c.groups) for _ in range(2))
        self.start, self.end = nn.Conv1d(c.h1d, 1, 1), nn.Conv1d(c.h1d, 1, 1)
        self.spread = nn.Conv1d(c.h1d, c.h1d, 3, padding=1)

        # the convolution over all samples of a span, stored as conv_then_sample wants it
        self.sampled = nn.Parameter(torch.empty(c.samples, c.h3d, c.h1d))
        self.sampled_bias = nn.Parameter(torch.empty(c.h3d))
        bound = 1 / math.sqrt(c.samples * c.h1d)  # PyTorch's default for that convolution
        for parameter in (self.sampled, self.sampled_bias):
            nn.init.uniform_(parameter, -bound, bound)
        self.sample = SparseMap(extended_point_table(c.positions, c.durations, c.samples, c.points))

        self.squeeze = nn.Linear(c.h3d, c.h2d)
        self.head = nn.ModuleList([nn.Conv2d(c.h2d, c.h2d, 3, padding=1) for _ in range(2)])
        self.confidence = nn.Linear(c.h2d, 2)
        d, s = cells(c.positions, c.durations).T
        self.register_buffer("_by_duration", torch.from_numpy(d * c.positions + s), persistent=False)
        self.register_buffer("_by_end", torch.from_numpy(s * c.positions + s + d), persistent=False)

        self.names: SpanClassifier | None = classifier(c.names, dim, self.classes)

    def name_by(self, weight: Tensor, bias: Tensor, classes: Sequence[str] | None = None) -> None:
        """Name proposals by the video encoder's linear class head (``config.names = "encoder"``).

        Args:
            weight: ``(classes, dim)``.
            bias: ``(classes,)``.
            classes: the head's labels in its order, among them all of the localizer's; by default the localizer's.

        Raises:
            CallError: the localizer learns its own names, or has none.
            ModelError: the head does not know all labels, or was made for other features.
        """
        name_by(self.names, self.config.names, self.classes, weight, bias, classes)

    # ------------------------------------------------------------------------------------------------- network

    def views(self, features: Features) -> list[Features]:
        """The whole video resampled to T positions, or windows of T snippets that start every T/2 until one ends it.

        Raises:
            DataError: the features have no row, or their video no length.
        """
        return spans.views(features, self.config.positions, self.config.span)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Probabilities and logits by name; shorter sequences are padded to T, and their padding means nothing.

        Returns:
            ``"start"`` and ``"end"`` ``(B, T)`` and ``"map"`` ``(B, 2, D, T)`` in [0, 1], the map 0 where a cell ends
            outside its sequence; with names, ``"class"`` ``(B, T, K)`` logits.

        Raises:
            ModelError: the features are wider or narrower than the network's, or longer than T.
        """
        c = self.config
        features, mask = spans.padded(batch, c.positions, self.dim)
        x, keep = features.transpose(1, 2), mask[:, None]
        for layer in self.base:
            x = F.relu(layer(x)) * keep
        start, end = (out(F.relu(hidden(x)))[:, 0] for hidden, out in (
            (self.start_hidden, self.start), (self.end_hidden, self.end)))

        x = F.relu(self.spread(x)) * keep
        # in place: a fresh (B, N, h3d) costs more than the sums themselves
        sampled = conv_then_sample(x, self.sampled, self.sample).add_(self.sampled_bias).relu_()
        empty = F.relu(self.squeeze(F.relu(self.sampled_bias)))  # where there is no span
        inside = valid_cells(mask.sum(dim=1), c.durations, c.positions)
        found = torch.where(inside.flatten(1)[:, self._by_duration, None], F.relu(self.squeeze(sampled)), empty)
        square = on_map(found, self._by_end, c.positions, c.positions, empty)  # (B, h2d, T, T), start x end
        for layer in self.head:
            square = F.relu(layer(square))
        quality = self.confidence(square.flatten(2)[:, :, self._by_end].transpose(1, 2)).float().sigmoid()
        out = {"start": start.float().sigmoid(), "end": end.float().sigmoid(),
               "map": on_map(quality, self._by_duration, c.durations, c.positions) * inside[:, None]}
        if self.names is not None:
            out["class"] = self.names(features)
        return out

    # ------------------------------------------------------------------------------------------------- training

    def targets(self, batch: Batch) -> spans.Targets:
        """Truth in seconds to what the network should answer. Truth is cut to each row's grid.

        Raises:
            CallError: the batch has no truth.
        """
        return spans.targets(batch, self.config.positions, self.config.durations, self.classes)

    def loss(self, out: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``"boundary"``, ``"regression"``, ``"confidence"`` and, for learned names, ``"naming"``; weighted scalars.

        In training the regression loss draws its cells from torch's default generator; in evaluation it is a
        deterministic function of its inputs.
        """
        c, target = self.config, self.targets(batch)
        _, mask = spans.padded(batch, c.positions, self.dim)
        found = spans.map_losses(out, target, mask, self.training)
        result = {"boundary": c.boundary_weight * found["boundary"],
                  "regression": c.regression_weight * found["regression"],
                  "confidence": c.confidence_weight * found["confidence"]}
        if self.names is not None and c.names == "localizer":
            result["naming"] = c.naming_weight * span_loss(out["class"], target.rows, target.spans, target.labels)
        return result

    # ------------------------------------------------------------------------------------------------ inference

    @torch.no_grad()
    def decode(self, out: dict[str, Tensor], batch: Batch) -> list[list[Segment]]:
        """Candidates of each row, best first, in seconds inside the video, before suppression.

        Raises:
            ModelError: names should come from an encoder that was never given (:meth:`name_by`).
        """
        c = self.config
        found = spans.proposals(out, batch, c.candidates, peaks=False, boundary_scores=True)
        return named(found, batch, self.names, out.get("class"), self.classes, c.top_names)

    def select(self, candidates: list[Segment]) -> list[Segment]:
        """The answer for one video from the candidates of all its views: soft-NMS per class, the best ``keep``.

        How long the video is, is read from the candidates: when none was left out, some reach its end.
        """
        c = self.config
        keep = c.keep * (1 if self.names is None else min(c.top_names, len(self.classes)))
        segments, scores, labels = columns(candidates)
        # the release's soft-NMS: the longer the pick, the more must a segment overlap it to decay
        width = (segments[:, 1] - segments[:, 0]) / max(segments[:, 1].max(initial=0.0), 1e-9)
        threshold = c.overlap_low + (c.overlap_high - c.overlap_low) * width
        order, score = soft_nms(segments, scores, c.alpha, keep=keep, threshold=threshold, groups=labels)
        return [Segment(candidates[i].start, candidates[i].end, candidates[i].label, value)
                for i, value in zip(order, score.tolist())]


# --------------------------------------------------------------------------------------------------- what was released


def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the released code (github.com/JJBOY/BMN-Boundary-Matching-Network) as ours, without names.

    Args:
        state: ``state_dict`` of a ``BMN_best.pth.tar``. The sampling matrix in it is made again, not read.

    Raises:
        ModelError: weights are missing, too many or of another shape.
    """
    theirs = Layout(state, "BMN")
    whole = theirs.take("x_3d_p.0.weight", 5)  # (h3d, h1d, N, 1, 1)
    matrix = theirs.take("sample_mask", 2)  # (T, N * T * T)
    if matrix.shape[1] != whole.shape[2] * matrix.shape[0] ** 2:
        raise ModelError(f"'sample_mask' in the checkpoint has shape {tuple(matrix.shape)}, which does not sample "
                         f"{whole.shape[2]} places of every span of {matrix.shape[0]} positions; it is one of another "
                         "variant, or damaged.")
    ours = {"sampled": whole.flatten(2).permute(2, 0, 1).contiguous(), "sampled_bias": theirs.take("x_3d_p.0.bias")}
    for layer, name in (("x_1d_b.0", "base.0"), ("x_1d_b.2", "base.1"), ("x_1d_s.0", "start_hidden"),
                        ("x_1d_s.2", "start"), ("x_1d_e.0", "end_hidden"), ("x_1d_e.2", "end"), ("x_1d_p.0", "spread"),
                        ("x_2d_p.2", "head.0"), ("x_2d_p.4", "head.1")):
        ours |= theirs.pair(layer, name)
    ours |= theirs.flat("x_2d_p.0", "squeeze") | theirs.flat("x_2d_p.6", "confidence")
    theirs.end()
    return ours
