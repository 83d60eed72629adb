"""P-GCN: graph convolutional networks for temporal action localization.

Runhao Zeng, Wenbing Huang, Mingkui Tan, Yu Rong, Peilin Zhao, Junzhou Huang, Chuang Gan, ICCV 2019.

It judges the proposals of another localizer: names each, says whether it is complete, and moves its ends. Proposals
are nodes of a graph. Contextual edges lead to those that overlap a proposal well, surrounding edges to the nearest that
lie apart from it; what a proposal says depends on its neighbours, and on theirs. Shapes (``B`` batch, ``T`` positions,
``C`` feature width, ``M`` proposals of all rows, ``N`` nodes that their graphs hold, ``K`` classes, ``S`` streams)::

    features (B, T, C), proposals in seconds
            │  maximum over the stretch before each, over itself, over the stretch after it
        (N, 3, C) ─┬─ itself (N, C) ── two graph convolutions ── with the input (M, 2 C) ─ linear ─ activity (M, K + 1)
                   └─ all (N, 3 C) ─── two graph convolutions ── with the input (M, 6 C)
                                                                           ├─ linear ── completeness (M, K)
                                                                           └─ linear ── regression (M, K, 2)

Class ``k`` of a proposal scores ``softmax(activity)[k] * exp(completeness[k])``; ``regression[k]`` says how far its
middle moves, in its own lengths, and the logarithm of how it grows. With several streams (RGB and flow side by side in
the features) each has a network of its own and they meet in the weighted mean of their answers: their losses are summed
and have no parameter in common, which is as good as training them apart.

In training each video gives 8 proposals, drawn anew each time: a good one, 6 incomplete ones, one of the background;
and each node 4 random ones of its 10 links. An answer is made of all proposals, each linked to its 3 best contextual
neighbours and its nearest surrounding one, which is the share that a random draw gives the two kinds.

Where it differs from the released code, and why:

- Links are not drawn at random in inference: the same proposals have the same answer. Then a node's links are the same
  wherever it stands, and each is pooled and convolved once instead of in 21 places of every graph.
- The release's rows of second-level neighbours are zero, so what those would say is never computed here.
- Seconds, and none of the frames that the release adds to lengths and overlaps. Proposals that only touch lie apart.
- The same proposal twice (a localizer that names proposals lists one for each name) is one node.
- A video without an incomplete or a background proposal shows a good one in their place, as in the release, which then
  learns that it is incomplete; here it counts as the good one that it is.
- Truth with one span and two names (THUMOS14's CliffDiving is Diving too) teaches both: one is drawn each time.
  Proposals that overlap truth of no known name are not background.
- What regression targets are standardised by is learned with the network, as a running mean and variance over the good
  proposals, and travels with it; the release takes both from the training set beforehand and keeps them beside it.
- A proposal may be pooled from the last feature; the release never reads it, unless the proposal begins there.
- The score is ``s / (1 + s)`` of the release's ``s``: the same order, in [0, 1].
- Before a proposal that begins with the video, and after one that ends with it, there is nothing, and zeros are read;
  the release reads the proposal's own first feature, or the last, there: as if it went on beyond.
- A zero feature has no direction; its edges weigh nothing, where the release gives NaN. Losses are finite for every
  batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuemark.batch import Asked, Batch
from cuemark.errors import CallError, ModelError
from cuemark.grid import Features
from cuemark.localizers.layout import Layout
from cuemark.nn import spans
from cuemark.nn.graph import CosineGraph, Links, related
from cuemark.nn.nms import hard_nms
from cuemark.nn.pooling import span_max
from cuemark.segments import Segment, columns, times

_FOREGROUND, _INCOMPLETE, _BACKGROUND, _NEITHER = 0, 1, 2, -1
_NEAR = 1e-6


@dataclass(frozen=True)
class Config:
    """The release's settings for THUMOS14; :meth:`activitynet` and :meth:`two_stream` have the others.

    Raises:
        CallError: a value that cannot be meant.
    """

    streams: tuple[int, ...] = ()
    """Widths of the parts of a concatenated feature (RGB, flow) that have a network each; empty: one for all."""
    stream_weights: tuple[float, ...] = ()
    """What each stream's answers weigh, in proportion; empty: the same."""
    hidden: int = 512
    """Channels between the two graph convolutions."""
    dropout: float = 0.8
    """Before the activity layer."""
    graph_dropout: float = 0.7
    """Between the two graph convolutions."""
    children: int = 4
    """Links of a node: in training so many are drawn of its contextual and surrounding ones."""
    contextual: int = 8
    """A node's links to proposals that overlap it; repeated in turn where there are fewer."""
    surrounding: int = 2
    """A node's links to proposals apart from it, likewise."""
    contextual_tiou: float = 0.7
    """Contextual neighbours overlap by more than this."""
    context: float = 0.5
    """Length of the stretches before and after a proposal, in its own lengths."""
    foreground_tiou: float = 0.7
    """Good proposals overlap a truth by more than this."""
    incomplete_tiou: float = 0.3
    """Incomplete ones overlap their best truth by less than this …"""
    incomplete_overlap: float = 0.01
    """… with more than this share of themselves inside it."""
    background_tiou: float = 0.01
    """Proposals of the background overlap every truth by less than this …"""
    background_coverage: float = 0.02
    """… and are longer than this share of the video."""
    foreground: int = 1
    """Good proposals that a video gives in an update."""
    incomplete: int = 6
    """Incomplete ones."""
    background: int = 1
    """Those of the background."""
    hardest: float = 0.17
    """Share of a video's incomplete proposals, at least one, that the completeness loss counts: the worst."""
    completeness_weight: float = 0.5
    """Weight of the completeness loss."""
    regression_weight: float = 0.5
    """Weight of the regression loss."""
    proposals: int = 1000
    """Best proposals of a video that are judged."""
    proposal_scores: bool = False
    """Multiply the proposals' own scores into the answers'; the release passes them over."""
    candidates: int = 2000
    """Best (proposal, class) pairs of a video that go into suppression."""
    nms: float = 0.35
    """tIoU above which the worse of two segments of a class is dropped."""
    regress_first: bool = False
    """Suppress the segments as they were moved; the release suppresses the proposals they come from, then moves."""
    keep: int = 2000
    """Segments of a video in the answer."""

    def __post_init__(self) -> None:
        for name in ("hidden", "children", "foreground", "incomplete", "background", "proposals", "candidates", "keep"):
            if not getattr(self, name) > 0:
                raise CallError(f"P-GCN's '{name}' must be positive, got {getattr(self, name)}.")
        for name in ("dropout", "graph_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise CallError(f"P-GCN's '{name}' must be at least 0 and below 1, got {getattr(self, name)}.")
        for name in ("contextual_tiou", "foreground_tiou", "incomplete_tiou", "incomplete_overlap", "background_tiou",
                     "background_coverage", "hardest", "nms"):
            if not 0 <= getattr(self, name) <= 1:
                raise CallError(f"P-GCN's '{name}' must be between 0 and 1, got {getattr(self, name)}.")
        if not self.incomplete_tiou <= self.foreground_tiou or not self.background_tiou <= self.foreground_tiou:
            raise CallError("P-GCN's 'incomplete_tiou' and 'background_tiou' cannot exceed 'foreground_tiou': a "
                            "proposal would be both.")
        if self.contextual < 0 or self.surrounding < 0 or self.contextual + self.surrounding < self.children:
            raise CallError(f"P-GCN draws 'children' ({self.children}) of 'contextual' ({self.contextual}) and "
                            f"'surrounding' ({self.surrounding}) links; let these be as many together.")
        if self.context < 0:
            raise CallError(f"P-GCN's 'context' must be at least 0, got {self.context}.")
        if any(width < 1 for width in self.streams):
            raise CallError(f"P-GCN's 'streams' are widths of features, got {list(self.streams)}.")
        if self.stream_weights and (len(self.stream_weights) != max(len(self.streams), 1)
                                    or min(self.stream_weights) < 0 or sum(self.stream_weights) <= 0):
            raise CallError(f"P-GCN's 'stream_weights' {list(self.stream_weights)} must have one weight, at least 0 "
                            f"and not all 0, for each of its {max(len(self.streams), 1)} streams.")

    @classmethod
    def activitynet(cls) -> Config:
        """The release's settings for ActivityNet 1.3."""
        return cls(incomplete_tiou=0.6, incomplete_overlap=0.0, background_tiou=0.1, background_coverage=0.0,
                   candidates=100, nms=0.4, keep=100)

    @classmethod
    def two_stream(cls, rgb: int = 1024, flow: int = 1024) -> Config:
        """The release's for THUMOS14 with RGB and flow features side by side, in this order."""
        return cls(streams=(rgb, flow), stream_weights=(1.0, 1.2), nms=0.32)

    @property
    def best(self) -> tuple[int, int]:
        """How many contextual and surrounding links make up ``children`` in inference: their share of all links."""
        apart = self.children * self.surrounding / (self.contextual + self.surrounding)
        near = min(self.surrounding, max(round(apart), 1)) if self.surrounding else 0
        return self.children - min(near, self.children), min(near, self.children)


class Targets(NamedTuple):
    """What proposals are, and what should be said of them."""

    kind: Tensor
    """``(M,)`` int64: 0 a good proposal, 1 an incomplete one, 2 background, -1 none of these."""
    label: Tensor
    """``(M,)`` int64: class of the truth that it overlaps most; 0 where there is none."""
    offset: Tensor
    """``(M, 2)`` float64: how far that one's middle is, in lengths of the proposal, and the logarithm of its length in
    these; 0 where the proposal is not good."""


@dataclass(frozen=True, slots=True)
class Judged(Segment):
    """A candidate that remembers which proposal it comes from: these are suppressed, and then moved."""

    proposal: tuple[float, float] | None = None
    """Its start and end in seconds."""


class PGCN(nn.Module):
    """The networks, their losses and their answers; see the module's docstring.

    Args:
        config: how large, how trained, how decoded.
        dim: width of the features.
        classes: the labels it can name; truth with other labels (or none) teaches nothing.

    Raises:
        CallError: there is no class, or ``config.streams`` do not add up to ``dim``.
    """

    config_type: ClassVar[type[Config]] = Config
    asked: ClassVar[Asked] = "classes"
    judges: ClassVar[bool] = True

    seen: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, config: Config, dim: int, classes: Sequence[str]) -> None:
        super().__init__()
        if not classes:
            raise CallError("P-GCN names proposals, and it was given no class; label the segments it learns from.")
        if config.streams and sum(config.streams) != dim:
            raise CallError(f"P-GCN's streams {list(config.streams)} do not add up to features of width {dim}; name "
                            "the widths of the parts that were put side by side (cuemark features concat).")
        self.config, self.dim, self.classes = config, dim, tuple(classes)
        self.widths = config.streams or (dim,)
        self.streams = nn.ModuleList(_Stream(width, len(self.classes), config) for width in self.widths)
        # regression targets of the good proposals seen in training; before the first, about what they are anywhere
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("variance", torch.tensor([0.01, 0.04]))

    # ------------------------------------------------------------------------------------------------- network

    def views(self, features: Features) -> list[Features]:
        """The whole video as it is: proposals are pooled, of whatever length.

        Raises:
            DataError: the features have no row, or their video no length.
        """
        spans.refuse_empty(features)
        return [features]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """What is said of the proposals of all rows: of all of them, or in training of those that are drawn.

        In training the truth is among the proposals, draws come from torch's default generator, and the statistics of
        the regression targets move.

        Returns:
            ``"activity"`` ``(M, S, K + 1)`` logits, background first; ``"completeness"`` ``(M, S, K)``;
            ``"regression"`` ``(M, S, K, 2)``, standardised. And what of, on the CPU: ``"row"`` ``(M,)`` int64;
            ``"span"`` ``(M, 2)`` float64 seconds; ``"score"`` ``(M,)`` float64, the proposals' own.

        Raises:
            CallError: the batch has no proposals, or in training no truth.
            ModelError: the features are wider or narrower than the network's.
        """
        if batch.features.shape[2] != self.dim:
            raise ModelError(f"this localizer was made for features of width {self.dim}, these have width "
                             f"{batch.features.shape[2]}; extract them with the encoder it was trained on.")
        pool = _pool(batch, self.config.proposals, self.classes if self.training else ())
        rows, spans = pool.real.nonzero()[:, 0], pool.span[pool.real]  # (N,), (N, 2): all nodes
        number = (pool.real.flatten().cumsum(0) - 1).view(pool.real.shape)
        links, centres = self._drawn(pool, rows, spans, number, batch) if self.training else self._all(pool, number)
        used, places = torch.cat([links.nodes, links.children.flatten()]).unique(return_inverse=True)
        links = Links(*(t.to(batch.features.device) for t in (
            places[:len(links.nodes)], places[len(links.nodes):].view_as(links.children), links.centres)))
        pooled = self._pooled(batch, rows[used], spans[used])
        parts = [stream(part, links) for stream, part in zip(self.streams, pooled.split(list(self.widths), dim=2))]
        out = {name: torch.stack([part[i].float() for part in parts], dim=1)
               for i, name in enumerate(("activity", "completeness", "regression"))}
        return out | {"row": rows[centres], "span": spans[centres], "score": pool.score[pool.real][centres]}

    # ------------------------------------------------------------------------------------------------- training

    def targets(self, rows: Tensor, spans: Tensor, batch: Batch) -> Targets:
        """What proposals are, by the truth of their rows.

        Args:
            rows: ``(M,)`` int64.
            spans: ``(M, 2)`` float64 seconds.

        Raises:
            CallError: the batch has no truth.
        """
        c = self.config
        truth, labels = _truth(batch, self.classes)
        theirs, labels = truth[rows], labels[rows]  # (M, G, 2), (M, G)
        inter = (torch.minimum(spans[:, None, 1], theirs[..., 1])
                 - torch.maximum(spans[:, None, 0], theirs[..., 0])).clamp(min=0)
        length = (spans[:, 1] - spans[:, 0]).clamp(min=1e-9)
        extent = theirs[..., 1] - theirs[..., 0]
        overlap = inter / (length[:, None] + extent - inter).clamp(min=1e-9)
        named = torch.where(labels >= 0, overlap, -1.0)
        if self.training:  # of equals, any
            named = named + 1e-9 * torch.rand(named.shape, dtype=torch.float64)
        best = named.argmax(dim=1, keepdim=True)
        iou, covered = (value.gather(1, best)[:, 0] for value in (torch.where(labels >= 0, overlap, 0.0), inter))
        covered = torch.where(iou > 0, covered, 0.0) / length
        share = length / torch.tensor(batch.durations, dtype=torch.float64)[rows].clamp(min=1e-9)
        kind = torch.full_like(rows, _NEITHER)
        kind[(overlap.amax(dim=1) < c.background_tiou) & (share > c.background_coverage)] = _BACKGROUND
        kind[(iou < c.incomplete_tiou) & (covered > c.incomplete_overlap)] = _INCOMPLETE
        kind[iou > c.foreground_tiou] = _FOREGROUND
        chosen = theirs.gather(1, best[..., None].expand(-1, -1, 2))[:, 0]
        offset = torch.stack([(chosen.sum(dim=1) - spans.sum(dim=1)) / 2 / length,
                              ((chosen[:, 1] - chosen[:, 0]).clamp(min=1e-9) / length).log()], dim=1)
        return Targets(kind, labels.gather(1, best)[:, 0].clamp(min=0),
                       torch.where((kind == _FOREGROUND)[:, None], offset, 0.0))

    def loss(self, out: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``"activity"``, ``"completeness"`` and ``"regression"``, weighted scalars, each summed over the streams.

        Cross entropy of good proposals and the background; a hinge that lifts the completeness of good proposals above
        1, and that of the worst of each video's incomplete ones below -1; smooth L1 of the good ones' standardised
        offsets, of their class. In evaluation all proposals count, and it is a deterministic function of its inputs.
        """
        c, device = self.config, out["activity"].device
        target = self.targets(out["row"], out["span"], batch)
        kind, label, rows = target.kind.to(device), target.label.to(device), out["row"].to(device)
        good, part = kind == _FOREGROUND, kind == _INCOMPLETE

        judged = good | (kind == _BACKGROUND)
        classes = torch.where(good, label + 1, 0)[judged]
        streams = len(self.widths)
        entropy = F.cross_entropy(out["activity"][judged].flatten(0, 1), classes.repeat_interleave(streams),
                                  reduction="sum") / judged.sum().clamp(min=1)

        said = out["completeness"].gather(2, label[:, None, None].expand(-1, streams, 1))[..., 0]  # (M, S)
        worst = F.relu(1 + said[part])
        counts = torch.bincount(rows[part], minlength=len(batch.grids))
        most = (counts * c.hardest).floor().clamp(min=1)
        order = worst.argsort(dim=0, descending=True, stable=True)
        order = order.gather(0, rows[part][order].argsort(dim=0, stable=True))  # by row, the worst first
        row = rows[part][order]
        rank = torch.arange(len(row), device=device)[:, None] - (counts.cumsum(0) - counts)[row]
        kept = rank < most[row]
        hinge = F.relu(1 - said[good]).sum() + torch.where(kept, worst.gather(0, order), 0.0).sum()
        number = good.sum() + torch.minimum(most, counts).sum()

        found = out["regression"].gather(2, label[:, None, None, None].expand(-1, streams, 1, 2))[good][:, :, 0]
        wanted = ((target.offset.to(found) - self.mean) / self.deviation)[good]
        moved = F.smooth_l1_loss(found, wanted[:, None].expand_as(found), reduction="sum") / good.sum().clamp(min=1)
        return {"activity": entropy, "completeness": c.completeness_weight * hinge / number.clamp(min=1),
                "regression": c.regression_weight * moved}

    @property
    def deviation(self) -> Tensor:
        """``(2,)``: standard deviation of the regression targets."""
        return self.variance.sqrt().clamp(min=0.01)

    # ------------------------------------------------------------------------------------------------ inference

    @torch.no_grad()
    def decode(self, out: dict[str, Tensor], batch: Batch) -> list[list[Segment]]:
        """The best (proposal, class) pairs of each row, moved, in seconds inside the video, before suppression.

        They are :class:`Judged`: each knows its proposal.
        """
        c, kinds = self.config, len(self.classes)
        weight = torch.tensor(c.stream_weights or [1.0] * len(self.widths), dtype=torch.float64)
        activity, completeness, regression = (
            torch.tensordot(out[name].cpu().double(), weight / weight.sum(), dims=([1], [0]))
            for name in ("activity", "completeness", "regression"))
        # s / (1 + s) of s = softmax * exp(completeness), by its logarithm, which has room for any
        score = activity.log_softmax(dim=1)[:, 1:] + completeness
        if c.proposal_scores:
            score = score + out["score"].clamp(min=1e-12).log()[:, None]
        confidence, rows = score.sigmoid().numpy(), out["row"].cpu().numpy()
        offset = (regression * self.deviation.cpu() + self.mean.cpu()).numpy()  # (M, K, 2)
        spans = out["span"].cpu().numpy()
        answers: list[list[Segment]] = []
        for row, duration in enumerate(batch.durations):
            mine = np.flatnonzero(rows == row)
            best = np.argsort(-confidence[mine].ravel(), kind="stable")[: c.candidates]
            at, label = mine[best // kinds], best % kinds
            start, end = spans[at].T
            middle = (start + end) / 2 + (end - start) * offset[at, label, 0]
            half = (end - start) / 2 * np.exp(offset[at, label, 1].clip(-10, 10))
            moved = np.stack([middle - half, middle + half], axis=1).clip(0.0, duration)
            answers.append([Judged(a, b, self.classes[k], value, proposal=(p, q)) for (a, b), k, value, (p, q) in zip(
                moved.tolist(), label.tolist(), confidence[at, label].tolist(), spans[at].tolist()) if b > a])
        return answers

    def select(self, candidates: list[Segment]) -> list[Segment]:
        """The answer for one video: NMS per class, of proposals or of what became of them; the best ``keep``."""
        segments, scores, labels = columns(candidates)
        if not self.config.regress_first:
            proposals = [s.proposal if isinstance(s, Judged) and s.proposal else (s.start, s.end) for s in candidates]
            segments = np.array(proposals, np.float64).reshape(-1, 2)
        order, score = hard_nms(segments, scores, self.config.nms, keep=self.config.keep, groups=labels)
        return [Segment(candidates[i].start, candidates[i].end, candidates[i].label, value)
                for i, value in zip(order.tolist(), score.tolist())]

    # -------------------------------------------------------------------------------------------------- private

    def _all(self, pool: _Pool, number: Tensor) -> tuple[Links, Tensor]:
        """Every proposal with its best links: a node has one place, and each is a centre."""
        contextual, surrounding = self.config.best
        at = torch.arange(pool.real.shape[1]).expand(pool.real.shape)
        children = related(pool.span, pool.real, at, contextual, surrounding, self.config.contextual_tiou)
        children = _numbered(number, children)[pool.real]  # (N, k)
        nodes = torch.arange(len(children))
        return Links(nodes, children, torch.cat([nodes[:, None], children], dim=1)), nodes

    def _drawn(self, pool: _Pool, rows: Tensor, spans: Tensor, number: Tensor, batch: Batch) -> tuple[Links, Tensor]:
        """Random proposals of each kind, each with random links of its own, and random links of these."""
        c = self.config
        target = self.targets(rows, spans, batch)
        self._learn(target.offset[(target.kind == _FOREGROUND) & ~pool.true[pool.real]])
        kind = torch.full(pool.real.shape, _NEITHER)
        kind[pool.real] = target.kind
        wanted = torch.tensor([_FOREGROUND] * c.foreground + [_INCOMPLETE] * c.incomplete
                              + [_BACKGROUND] * c.background)
        fits = kind[:, None] == wanted[:, None]  # (B, 8, P)
        fits = torch.where(fits.any(dim=2, keepdim=True), fits, (kind == _FOREGROUND)[:, None])
        centre = torch.rand(fits.shape).masked_fill(~fits, -1.0).argmax(dim=2)  # (B, 8)
        there = fits.any(dim=2)

        def children(at: Tensor) -> Tensor:
            """``(B, n)`` to ``(B, n, k)``: a few of their links, which lead to what can be drawn itself."""
            links = related(pool.span, pool.real & (kind != _NEITHER), at, c.contextual, c.surrounding,
                            c.contextual_tiou)
            return links.gather(2, torch.rand(links.shape).argsort(dim=2)[..., : c.children])

        first = children(centre)  # (B, 8, k)
        second = children(first.flatten(1)).view(*first.shape, -1)  # (B, 8, k, k)
        nodes = torch.cat([centre[..., None], first], dim=2)
        below = torch.cat([first[:, :, None], second], dim=2)
        nodes, below = (_numbered(number, index)[there] for index in (nodes, below))  # (M, 1 + k), (M, 1 + k, k)
        places = torch.arange(nodes.numel()).view(nodes.shape)
        return Links(nodes.flatten(), below.flatten(0, 1), places), nodes[:, 0]

    @torch.no_grad()
    def _learn(self, offsets: Tensor) -> None:
        """Let the mean and the variance of the regression targets take in ``(n, 2)`` more."""
        if not len(offsets):
            return
        offsets = offsets.to(self.mean)
        share = len(offsets) / (self.seen + len(offsets))
        shift = offsets.mean(dim=0) - self.mean
        self.variance.copy_((1 - share) * self.variance + share * offsets.var(dim=0, correction=0)
                            + share * (1 - share) * shift.square())
        self.mean.add_(share * shift)
        self.seen.add_(len(offsets))

    def _pooled(self, batch: Batch, rows: Tensor, spans: Tensor) -> Tensor:
        """``(N, 3, C)``: the maximum over the stretch before each span, over itself, and over the stretch after it.

        A stretch reads the features that were looked at inside it, rounded outwards; at least the one at its start.
        One without length, at the video's edge, reads zeros.
        """
        duration = torch.tensor(batch.durations, dtype=torch.float64)[rows]
        more = self.config.context * (spans[:, 1] - spans[:, 0])
        edges = torch.stack([(spans[:, 0] - more).clamp(min=0), spans[:, 0], spans[:, 1],
                             torch.minimum(spans[:, 1] + more, duration)], dim=1)  # (N, 4)
        grids = batch.grids
        window, step, count = (torch.tensor([value(g) for g in grids], dtype=torch.float64)[rows, None] for value in (
            lambda g: g.window, lambda g: g.step, lambda g: g.count))
        begin = torch.tensor([g.start + (g.step - g.window) / 2 for g in grids], dtype=torch.float64)[rows, None]
        top = count.long() - 1
        first = ((edges[:, :-1] - begin) / step + _NEAR).floor().long().clamp(min=0).minimum(top)
        last = ((edges[:, 1:] - window - begin) / step - _NEAR).ceil().long().minimum(top).maximum(first)
        index = [t.to(batch.features.device) for t in (rows.repeat_interleave(3), first.flatten(), last.flatten())]
        there = (edges[:, 1:] - edges[:, :-1] > _NEAR)[..., None].to(batch.features)
        return span_max(batch.features, *index).view(-1, 3, self.dim) * there


class _Stream(nn.Module):
    """The network of one stream."""

    def __init__(self, width: int, classes: int, config: Config) -> None:
        super().__init__()
        self.activity_graph = CosineGraph(width, config.hidden, config.graph_dropout)
        self.completeness_graph = CosineGraph(3 * width, config.hidden, config.graph_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.activity = nn.Linear(2 * width, classes + 1)
        self.completeness = nn.Linear(6 * width, classes)
        self.regression = nn.Linear(6 * width, 2 * classes)
        for layer in (self.activity, self.completeness, self.regression):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor, links: Links) -> tuple[Tensor, Tensor, Tensor]:
        """``(N, 3, C)`` nodes to ``(M, K + 1)``, ``(M, K)`` and ``(M, K, 2)``."""
        middle, whole = pooled[:, 1], pooled.flatten(1)
        centre = links.nodes[links.centres[:, 0]]
        activity = torch.cat([self.activity_graph(middle, links), middle[centre]], dim=1)
        complete = torch.cat([self.completeness_graph(whole, links), whole[centre]], dim=1)
        return (self.activity(self.dropout(activity)), self.completeness(complete),
                self.regression(complete).unflatten(1, (-1, 2)))


class _Pool(NamedTuple):
    """The proposals of each row, padded to one number; on the CPU."""

    span: Tensor
    """``(B, P, 2)`` float64 seconds."""
    real: Tensor
    """``(B, P)`` bool: True where there is a proposal."""
    true: Tensor
    """``(B, P)`` bool: it is the truth itself."""
    score: Tensor
    """``(B, P)`` float64: the proposals' own, 1 where they have none."""


def _pool(batch: Batch, most: int, classes: Sequence[str]) -> _Pool:
    """The best ``most`` proposals of each row, inside the video, each once; then truth of ``classes``.

    Raises:
        CallError: the batch has no proposals, or classes are asked for and it has no truth.
    """
    if batch.proposals is None:
        raise CallError("P-GCN judges the proposals of another localizer, and the batch has none; collate it with "
                        "them (data.proposals in a recipe).")
    rows = []
    for proposals, duration in zip(batch.proposals, batch.durations, strict=True):
        spans = times(proposals).clip(0.0, duration)
        score = np.array([1.0 if s.score is None else s.score for s in proposals], np.float64)
        order = np.argsort(-score, kind="stable")
        order = order[spans[order, 1] > spans[order, 0]]
        order = order[np.sort(np.unique(spans[order], axis=0, return_index=True)[1])][:most]
        rows.append((spans[order], score[order]))
    truth, labels = _truth(batch, classes) if classes else (torch.zeros(len(rows), 0, 2), torch.zeros(len(rows), 0))
    most = max(1, *(len(score) for _, score in rows))
    span = torch.zeros(len(rows), most, 2, dtype=torch.float64)
    real, scores = torch.zeros(len(rows), most, dtype=torch.bool), torch.ones(len(rows), most, dtype=torch.float64)
    for row, (at, score) in enumerate(rows):
        span[row, : len(at)], real[row, : len(at)] = torch.from_numpy(at), True
        scores[row, : len(at)] = torch.from_numpy(score)
    true = labels >= 0 if classes else labels.bool()
    return _Pool(torch.cat([span, truth.double()], dim=1), torch.cat([real, true], dim=1),
                 torch.cat([torch.zeros_like(real), true], dim=1), torch.cat([scores, torch.ones(true.shape)], dim=1))


def _truth(batch: Batch, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """``(B, G, 2)`` float64 seconds inside the video, and ``(B, G)`` classes: -1 no name we know, -2 nothing there.

    Raises:
        CallError: the batch has no truth.
    """
    if batch.truth is None:
        raise CallError("a loss needs truth; collate the batch with its annotated segments.")
    index = {name: i for i, name in enumerate(classes)}
    most = max(1, *(len(truth) for truth in batch.truth))
    spans = torch.zeros(len(batch.truth), most, 2, dtype=torch.float64)
    labels = torch.full((len(batch.truth), most), -2)
    for row, (truth, duration) in enumerate(zip(batch.truth, batch.durations, strict=True)):
        inside = [s for segment in truth if (s := segment.clipped(0.0, duration)) is not None]
        spans[row, : len(inside)] = torch.from_numpy(times(inside))
        labels[row, : len(inside)] = torch.tensor([index.get(str(s.label), -1) for s in inside], dtype=torch.int64)
    return spans, labels


def _numbered(number: Tensor, index: Tensor) -> Tensor:
    """Indices ``(B, …)`` in each row to the numbers ``(B, P)`` of what is there."""
    return number.gather(1, index.flatten(1)).view(index.shape)


# --------------------------------------------------------------------------------------------------- what was released

_RELEASED = {"Act_GCN.gc1": "activity_graph.first", "Act_GCN.gc2": "activity_graph.second",
             "Comp_GCN.gc1": "completeness_graph.first", "Comp_GCN.gc2": "completeness_graph.second",
             "activity_fc": "activity", "completeness_fc": "completeness", "regressor_fc": "regression"}


def released(state: Mapping[str, Tensor], stream: int = 0) -> dict[str, Tensor]:
    """Weights of the released code (github.com/Alvin-Zeng/PGCN) as ours.

    Args:
        state: a released checkpoint's ``"state_dict"``, with its ``"reg_stats"`` under this name: without them the
            network does not know how far to move anything.
        stream: which of ours it becomes; the release has a checkpoint for each of RGB and flow.

    Raises:
        ModelError: weights are missing or too many.
    """
    if "reg_stats" not in state:
        raise ModelError("the checkpoint has no 'reg_stats', the mean and deviation of what P-GCN's regression says; "
                         "pass it beside the weights, it lies beside them in the released file.")
    theirs = Layout({name: tensor for name, tensor in state.items() if name != "reg_stats"}, "P-GCN")
    mean, deviation = state["reg_stats"].float()
    # counted as many: training that goes on from here keeps them
    found = {"seen": torch.tensor(1e4), "mean": mean, "variance": deviation.square()}
    for name, ours in _RELEASED.items():
        found |= theirs.pair(name, f"streams.{stream}.{ours}")
        if "GCN" in name:  # (inputs, outputs) there
            found[f"streams.{stream}.{ours}.weight"] = found[f"streams.{stream}.{ours}.weight"].T.contiguous()
    theirs.end()
    return found
