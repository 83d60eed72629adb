"""G-TAD: sub-graph localization for temporal action detection.

Mengmeng Xu, Chen Zhao, David S. Rojas, Ali Thabet, Bernard Ghanem, CVPR 2020.

Snippets are nodes of a graph with edges in time and edges in meaning (the nearest in feature space). Every span of
the start x duration map is a sub-graph: its features are sampled inside it and in its context, and two confidences
are predicted for it. Shapes (``B`` batch, ``T`` positions, ``C`` feature width, ``D`` durations, ``N`` cells whose
span ends inside the sequence, ``K`` classes)::

    features (B, T, C) ── Conv1d k3, GCNeXt ── base (B, 256, T) ─┬─ GCNeXt, Conv1d 1x1, sigmoid ── start (B, T)
            │                                                    ├─ GCNeXt, Conv1d 1x1, sigmoid ── end (B, T)
            │                                                    └─ GCNeXt ─┬─ nodes (B, 256, T)
            │                                                               └─ mean of the nodes nearest to each
            │        SGAlign: 32 bins of the nodes + 4 of the neighbours per span, Conv 1x1 ── (B, N, 512)
            │        Conv 1x1 ── (B, 128, D, T), two Conv2d, Conv 1x1, sigmoid ── map (B, 2, D, T)
            └─ linear ── class (B, T, K) logits: names for the proposals (:mod:`cuemark.localizers.classify`)

``map[:, 0]`` regresses a span's tIoU, ``map[:, 1]`` says whether it exceeds 0.9. Cell ``(d, s)`` is the span
``[s, s + d + 1]``.

Where it differs from the released code, and why:

- Proposals may reach the end of the video (``s + d + 1 == T``); 12 % of ActivityNet's annotations do. Such an end
  reads the last position's end score.
- One clock, the grid's seconds, in training and inference; the release trains on a corrected duration (ActivityNet)
  or shifted by two frames (THUMOS14).
- The 1x1 convolution over the sampled bins is applied before the sampling (:mod:`cuemark.nn.maps`): the same numbers
  without 368 MB of sampled features per video.
- Losses are finite for every batch (on THUMOS14 the release counts ten positives more than there are), and random
  sub-sampling is seeded in evaluation.
- A plateau of a boundary score is a peak as a whole; in the release it is none.
- Padding is masked everywhere, and cells that end outside the sequence are empty: the 3x3 head of THUMOS14 sees
  zeros there, where the release has the features of the first snippets.
- Overlapping windows are suppressed once, together; the release decays THUMOS14's scores twice. Long THUMOS14
  proposals are not thrown away.
- Names can come from the localizer itself or the video encoder, per proposal; then suppression is per class, which
  is the paper's order (suppress, then name) whenever all proposals of a video have the same names.
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
from cuemark.nn.graph import GCNeXt, gather, nearest
from cuemark.nn.maps import SparseMap, cells, conv_then_sample, extended_span_table, on_map, valid_cells
from cuemark.nn.nms import soft_nms
from cuemark.segments import Segment, columns


@dataclass(frozen=True)
class Config:
    """The paper's settings for ActivityNet; :meth:`thumos` has those for THUMOS14.

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
    """Channels of a span's sampled features after the first 1x1 convolution."""
    input_groups: int = 4
    """Groups of the first convolution; divides the feature width and ``h1d``."""
    width: int = 128
    """Channels of a graph block's bottleneck."""
    groups: int = 32
    """Groups of a graph block's bottleneck; divides ``width``."""
    neighbours: int = 3
    """k: semantic edges of a snippet, itself included."""
    inner_bins: int = 32
    """Bins in which a span's snippets are sampled."""
    context_bins: int = 4
    """Bins in which the neighbours of its snippets are sampled."""
    head_kernel: int = 1
    """Kernel of the map's two hidden convolutions: 1 (ActivityNet) or 3 (THUMOS14)."""
    anchor_left: float = -0.5
    """Boundary targets: position i looks from ``i + anchor_left`` …"""
    anchor_right: float = 1.5
    """… to ``i + anchor_right``. (-0.5, 1.5) is the release's for ActivityNet, (-0.5, 0.5) for THUMOS14 and BMN's."""
    boundary_weight: float = 1.0
    """Weight of the start and end losses."""
    regression_weight: float = 10.0
    """Weight of the tIoU regression loss."""
    confidence_weight: float = 1.0
    """Weight of the tIoU classification loss."""
    naming_weight: float = 1.0
    """Weight of the names' cross entropy (``names = "localizer"``); it shares no parameter with the others."""
    peaks: bool = True
    """Propose only between peaks of the start and end scores (ActivityNet), or every cell (THUMOS14)."""
    boundary_scores: bool = False
    """Multiply the start and end scores into a proposal's score, as BMN does."""
    candidates: int = 1000
    """Best proposals of a view that go into suppression."""
    sigma: float = 0.8
    """Gaussian soft-NMS."""
    keep: int = 100
    """Proposals of a video in the answer; with names, ``keep * top_names`` segments."""
    names: str = "localizer"
    """Where class names come from: ``"localizer"`` (learned with it), ``"encoder"`` (:meth:`GTAD.name_by`), or
    ``"none"`` (proposals without a label; see :func:`cuemark.localizers.classify.fuse`)."""
    top_names: int = 2
    """Every proposal is emitted with this many best classes."""

    def __post_init__(self) -> None:
        if self.span not in spans.SPANS:
            raise unknown("span", self.span, spans.SPANS)
        if self.names not in NAMES:
            raise unknown("source of names", self.names, NAMES)
        for name in ("positions", "durations", "h1d", "h2d", "h3d", "input_groups", "width", "groups", "neighbours",
                     "inner_bins", "context_bins", "head_kernel", "candidates", "sigma", "keep", "top_names"):
            if not getattr(self, name) > 0:
                raise CallError(f"G-TAD's '{name}' must be positive, got {getattr(self, name)}.")
        if self.durations > self.positions:
            raise CallError(f"G-TAD's 'durations' ({self.durations}) cannot exceed 'positions' ({self.positions}); "
                            "a proposal is no longer than what the network sees.")
        if self.head_kernel % 2 == 0:
            raise CallError(f"G-TAD's 'head_kernel' must be odd, got {self.head_kernel}.")
        if self.anchor_right <= self.anchor_left:
            raise CallError("G-TAD's 'anchor_right' must be larger than 'anchor_left'.")
        if self.h1d % self.input_groups or self.width % self.groups:
            raise CallError("G-TAD's 'input_groups' must divide 'h1d', and 'groups' must divide 'width'; got "
                            f"{self.input_groups} and {self.h1d}, {self.groups} and {self.width}.")

    @classmethod
    def thumos(cls) -> Config:
        """The release's settings for THUMOS14. (Its factor 10 falls on the classification term.)"""
        return cls(span="windows", positions=256, durations=64, inner_bins=16, context_bins=16, head_kernel=3,
                   anchor_right=0.5, regression_weight=1.0, confidence_weight=10.0, peaks=False, sigma=0.46, keep=200)


class GTAD(nn.Module):
    """The network, its losses and its answers; see the module's docstring.

    Args:
        config: how large, how trained, how decoded.
        dim: width of the features.
        classes: the labels it can name; truth with other labels (or none) still teaches it to propose.

    Raises:
        CallError: ``dim`` does not fit ``config.input_groups``.
    """

    config_type: ClassVar[type[Config]] = Config
    asked: ClassVar[Asked] = "classes"
    judges: ClassVar[bool] = False

    _cell: Tensor

    def __init__(self, config: Config, dim: int, classes: Sequence[str]) -> None:
        super().__init__()
        c = config
        if dim % c.input_groups:
            raise CallError(f"G-TAD's first convolution has {c.input_groups} groups, which do not divide features of "
                            f"width {dim}; set 'input_groups' to a divisor of it.")
        self.config, self.dim, self.classes = c, dim, tuple(classes)

        def graph() -> GCNeXt:
            return GCNeXt(c.h1d, c.width, c.groups, c.neighbours)

        self.base = nn.Conv1d(dim, c.h1d, 3, padding=1, groups=c.input_groups)
        self.base_graph, self.start_graph, self.end_graph, self.map_graph = graph(), graph(), graph(), graph()
        self.start, self.end = nn.Conv1d(c.h1d, 1, 1), nn.Conv1d(c.h1d, 1, 1)

        # the 1x1 convolution over all bins of a span, stored as conv_then_sample wants it
        self.inner = nn.Parameter(torch.empty(c.inner_bins, c.h3d, c.h1d))
        self.context = nn.Parameter(torch.empty(c.context_bins, c.h3d, c.h1d))
        self.sampled_bias = nn.Parameter(torch.empty(c.h3d))
        bound = 1 / math.sqrt((c.inner_bins + c.context_bins) * c.h1d)  # PyTorch's default for that convolution
        for parameter in (self.inner, self.context, self.sampled_bias):
            nn.init.uniform_(parameter, -bound, bound)
        self.sample_inner = SparseMap(extended_span_table(c.positions, c.durations, c.inner_bins))
        self.sample_context = SparseMap(extended_span_table(c.positions, c.durations, c.context_bins))

        self.squeeze = nn.Linear(c.h3d, c.h2d)
        self.head = nn.ModuleList(
            nn.Linear(c.h2d, c.h2d) if c.head_kernel == 1  # a convolution that needs no map
            else nn.Conv2d(c.h2d, c.h2d, c.head_kernel, padding=c.head_kernel // 2)
            for _ in range(2))
        self.confidence = nn.Linear(c.h2d, 2)
        d, s = cells(c.positions, c.durations).T
        self.register_buffer("_cell", torch.from_numpy(d * c.positions + s), persistent=False)

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
        features, mask = spans.padded(batch, self.config.positions, self.dim)
        x, keep = features.transpose(1, 2), mask[:, None]
        base, _ = self.base_graph(F.relu(self.base(x)), mask)
        start = self.start(self.start_graph(base, mask)[0])[:, 0]
        end = self.end(self.end_graph(base, mask)[0])[:, 0]

        nodes, _ = self.map_graph(base, mask)
        # the nearest of what the last block answered, not of what it was given
        around = gather(nodes, nearest(nodes, self.config.neighbours, mask)).mean(dim=3) * keep
        # in place: a fresh (B, N, h3d) costs more than the sums themselves
        sampled = (conv_then_sample(nodes, self.inner, self.sample_inner)
                   .add_(conv_then_sample(around, self.context, self.sample_context)).add_(self.sampled_bias).relu_())
        found = F.relu(self.squeeze(sampled))  # (B, N, h2d)
        inside = valid_cells(mask.sum(dim=1), self.config.durations, self.config.positions)[:, None]
        if self.config.head_kernel == 1:
            for layer in self.head:
                found = F.relu(layer(found))
        else:
            cube = self._cube(found) * inside
            for layer in self.head:
                cube = F.relu(layer(cube)) * inside
            found = cube.flatten(2)[:, :, self._cell].transpose(1, 2)
        out = {"start": start.float().sigmoid(), "end": end.float().sigmoid(),
               "map": self._cube(self.confidence(found).float().sigmoid()) * inside}
        if self.names is not None:
            out["class"] = self.names(features)
        return out

    # ------------------------------------------------------------------------------------------------- training

    def targets(self, batch: Batch) -> spans.Targets:
        """Truth in seconds to what the network should answer. Truth is cut to each row's grid.

        Raises:
            CallError: the batch has no truth.
        """
        c = self.config
        return spans.targets(batch, c.positions, c.durations, self.classes, (c.anchor_left, c.anchor_right))

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
        found = spans.proposals(out, batch, c.candidates, peaks=c.peaks, boundary_scores=c.boundary_scores)
        return named(found, batch, self.names, out.get("class"), self.classes, c.top_names)

    def select(self, candidates: list[Segment]) -> list[Segment]:
        """The answer for one video from the candidates of all its views: soft-NMS per class, the best ``keep``."""
        keep = self.config.keep * (1 if self.names is None else min(self.config.top_names, len(self.classes)))
        segments, scores, labels = columns(candidates)
        order, score = soft_nms(segments, scores, self.config.sigma, keep=keep, groups=labels)
        return [Segment(candidates[i].start, candidates[i].end, candidates[i].label, value)
                for i, value in zip(order, score.tolist())]

    # -------------------------------------------------------------------------------------------------- private

    def _cube(self, values: Tensor) -> Tensor:
        """``(B, N, X)`` values of the cells inside to ``(B, X, D, T)``, zero elsewhere."""
        c = self.config
        return on_map(values, self._cell, c.durations, c.positions)


# --------------------------------------------------------------------------------------------------- what was released


def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the released code (github.com/frostinassiky/gtad) as ours, without names.

    Args:
        state: ``state_dict`` of a ``GTAD_best.pth.tar`` of either branch, ``anet`` (:class:`Config`) or ``master``
            (:meth:`Config.thumos`); how many bins the spans have tells which.

    Raises:
        ModelError: weights are missing, too many or of another shape.
    """
    theirs = Layout(state, "G-TAD")
    base, whole = theirs.pair("backbone1.0", "base"), theirs.take("localization.0.weight", 4)
    channels = len(base["base.bias"])
    inner = {config.inner_bins + config.context_bins: config.inner_bins for config in (Config(), Config.thumos())}
    bins = whole.shape[1] // channels
    if bins * channels != whole.shape[1] or bins not in inner:
        raise ModelError(f"'localization.0.weight' in the checkpoint has shape {tuple(whole.shape)}, which is neither "
                         f"{' nor '.join(map(str, inner))} bins of {channels} channels; it is one of a variant that is "
                         "not known here.")
    sampled = whole.flatten(1).unflatten(1, (channels, bins)).permute(2, 0, 1)
    ours = {**base, "inner": sampled[:inner[bins]].contiguous(), "context": sampled[inner[bins]:].contiguous(),
            "sampled_bias": theirs.take("localization.0.bias")}
    for block, name in (("backbone1.2", "base_graph"), ("regu_s.0", "start_graph"), ("regu_e.0", "end_graph"),
                        ("backbone2.0", "map_graph")):
        for path, kind in (("tconvs", "temporal"), ("sconvs", "semantic")):
            for number, part in ((0, "_in"), (2, ""), (4, "_out")):
                ours |= theirs.pair(f"{block}.{path}.{number}", f"{name}.{kind}{part}")
    for layer, name in (("regu_s.1", "start"), ("regu_e.1", "end")):
        ours |= theirs.pair(layer, name)
    for layer, name in (("localization.2", "squeeze"), ("localization.8", "confidence")):
        ours |= theirs.flat(layer, name)
    for layer, name in (("localization.4", "head.0"), ("localization.6", "head.1")):
        found = theirs.pair(layer, name)
        if found[f"{name}.weight"].shape[2:].numel() == 1:
            found[f"{name}.weight"] = found[f"{name}.weight"].flatten(1)
        ours |= found
    theirs.end()
    return ours
