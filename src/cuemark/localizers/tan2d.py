"""2D-TAN: learning 2D temporal adjacent networks for moment localization with natural language.

Songyang Zhang, Houwen Peng, Jianlong Fu, Jiebo Luo, AAAI 2020.

A sentence is asked of a video, and every span of a start x end map is told how well it answers. The spans' features
are made from the video alone; they meet the sentence in a product, and convolutions over the map let neighbouring
spans compare themselves. Shapes (``B`` videos, ``T`` clips, ``C`` feature width, ``N`` nodes, ``H`` hidden channels,
``P`` spans that exist, ``Q`` sentences, ``W`` words, ``E`` width of a word's vector)::

    features (B, T, C) ── linear, ReLU, mean of every T/N clips ── nodes (B, H, N)
            │   "max": maximum over each span; "conv": stacked Conv1d (:mod:`cuemark.nn.pairs`) ── (B, P, H)
            └── linear ── spans (B, P, H) ─┐  each sentence takes those of its video
    words (Q, W, E) ── LSTM, last state, linear ── (Q, H) ─┴─ product, length 1 over H ── (Q, P, H)
            └── on the map ── 8 x Conv2d k5 or 4 x k9, ReLU, / number of cells ── (Q, H, N, N)
            └── at the spans ── linear ── logits (Q, P) ── sigmoid ── map (Q, N, N)

Cell ``(a, b)`` of the map is the span ``[a, b + 1]`` in nodes. Of long spans only some exist: 136 of 136
(Charades-STA, N = 16), 1,104 of 2,080 (ActivityNet Captions, 64), 2,548 of 8,256 (TACoS, 128). The target of a span
is its tIoU with the moment, scaled: 0 up to ``min_iou``, 1 from ``max_iou``.

Where it differs from the released code, and why:

- Several sentences of one video share its spans; the release computes them anew for each.
- Only cells that can matter are convolved (:class:`cuemark.nn.pairs.PairConv`): the same numbers from 57 to 62 % of
  the work. The maximum over spans is taken in ``log N`` steps.
- The video is averaged to T clips on the grid's clock, and its last clip counts; the release leaves it out of the last
  mean, and takes clips to tile the video evenly.
- A moment may have several windows; a span's target is its best tIoU with any.
- Long videos can be seen in overlapping windows. Padding is masked: a node is the mean of its real clips, a span that
  needs more nodes than there are does not exist, and the last one ends with the clips.
- The logits' cross entropy replaces that of probabilities: it is the same, and has a gradient where they saturate.
- Equal scores are answered in a fixed order, and spans that do not exist are never answered.
- Training: the release lowers its rate when the validation loss *falls* (or never), and chooses its weights on the
  test split; our recipes keep the rate and choose on held-out videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuemark.batch import Asked, Batch, Sentences
from cuemark.errors import CallError, ModelError, unknown
from cuemark.grid import Features, Grid
from cuemark.localizers.layout import Layout
from cuemark.nn import spans
from cuemark.nn.nms import hard_nms
from cuemark.nn.pairs import PairConv, SpanConv, pair_mask, sparse_pairs
from cuemark.nn.pooling import span_max
from cuemark.segments import Segment, columns, times

POOLINGS = ("max", "conv")


@dataclass(frozen=True)
class Config:
    """The release's settings for ActivityNet Captions; :meth:`charades` and :meth:`tacos` have those of the others.

    Raises:
        CallError: a value that cannot be meant.
    """

    span: str = "video"
    """What the network sees at once: the whole ``"video"`` averaged to ``clips``, or overlapping ``"windows"`` of as
    many clips, every half window."""
    clips: int = 256
    """T: clips the network sees at once."""
    nodes: int = 64
    """N: positions of the map, each the mean of ``clips / nodes`` clips."""
    scales: tuple[int, ...] = (16, 8, 8)
    """Number of spans' lengths at each scale; the stride doubles from one to the next."""
    pooling: str = "max"
    """What describes a span: the ``"max"`` of its nodes, or stacked convolutions, ``"conv"``."""
    hidden: int = 512
    """H: channels of nodes, spans and map."""
    kernel: int = 9
    """Of the map's convolutions; odd."""
    layers: int = 4
    """Convolutions of the map."""
    text_dim: int = 300
    """E: width of a word's vector; training sets it to what reads the sentences."""
    text_width: int = 512
    """Channels of the LSTM."""
    text_layers: int = 3
    """Layers of the LSTM."""
    normalize: bool = True
    """Scale every row of features to length 1 first."""
    standardize: bool = False
    """Then take the training videos' mean out of every number and divide by their deviation, both learnt as a running
    mean. Features that are never negative, such as an encoder's last ReLU, are else so alike that the products of
    spans and sentences hardly differ; the release's principal components have no mean."""
    min_iou: float = 0.5
    """A span with at most this tIoU has the target 0 …"""
    max_iou: float = 1.0
    """… and one with at least this has 1; between them it is linear."""
    bias: float = 0.0
    """Where the linear part begins."""
    nms: float = 0.5
    """Greedy suppression: an answer overlaps no better one with a tIoU above this."""
    keep: int = 5
    """Answers to a sentence."""

    def __post_init__(self) -> None:
        if self.span not in spans.SPANS:
            raise unknown("span", self.span, spans.SPANS)
        if self.pooling not in POOLINGS:
            raise unknown("pooling", self.pooling, POOLINGS)
        for name in ("clips", "nodes", "hidden", "kernel", "layers", "text_dim", "text_width", "text_layers", "keep"):
            if not getattr(self, name) > 0:
                raise CallError(f"2D-TAN's '{name}' must be positive, got {getattr(self, name)}.")
        if self.clips % self.nodes:
            raise CallError(f"2D-TAN's 'nodes' ({self.nodes}) must divide 'clips' ({self.clips}); a node is the mean "
                            "of a whole number of clips.")
        if self.kernel % 2 == 0:
            raise CallError(f"2D-TAN's 'kernel' must be odd, got {self.kernel}.")
        if not self.scales or min(self.scales) < 1:
            raise CallError(f"2D-TAN's 'scales' must be positive numbers of lengths, got {list(self.scales)}.")
        if self.longest >= self.nodes:
            raise CallError(f"2D-TAN's 'scales' {list(self.scales)} have spans of up to {self.longest + 1} nodes, but "
                            f"there are {self.nodes}; leave out some lengths.")
        if not 0 <= self.min_iou < self.max_iou <= 1 or not 0 <= self.bias <= 1:
            raise CallError("2D-TAN's targets need 0 <= 'min_iou' < 'max_iou' <= 1 and 0 <= 'bias' <= 1, got "
                            f"{self.min_iou}, {self.max_iou} and {self.bias}.")
        if not 0 <= self.nms <= 1:
            raise CallError(f"2D-TAN's 'nms' is a tIoU between 0 and 1, got {self.nms}.")

    @property
    def longest(self) -> int:
        """``b - a`` of the longest span."""
        strides = [2**scale for scale in range(len(self.scales))]
        return sum(n * s for n, s in zip(self.scales, strides, strict=True)) + sum(strides[:-1]) - strides[-1]

    @classmethod
    def charades(cls, pooling: Literal["max", "conv"] = "max") -> Config:
        """The release's settings for Charades-STA."""
        return cls(nodes=16, scales=(16,), pooling=pooling, kernel=5, layers=8, nms=0.45 if pooling == "max" else 0.5)

    @classmethod
    def activitynet(cls, pooling: Literal["max", "conv"] = "max") -> Config:
        """The release's settings for ActivityNet Captions."""
        return cls(pooling=pooling)

    @classmethod
    def tacos(cls, pooling: Literal["max", "conv"] = "max") -> Config:
        """The release's settings for TACoS."""
        return cls(nodes=128, scales=(16, 8, 8, 8), pooling=pooling, kernel=5, layers=8, min_iou=0.3, max_iou=0.7,
                   nms=0.4 if pooling == "max" else 0.5)


class TAN2D(nn.Module):
    """The network, its loss and its answers; see the module's docstring.

    Args:
        config: how large, how trained, how decoded.
        dim: width of the features.
        classes: not used; it answers sentences.
    """

    config_type: ClassVar[type[Config]] = Config
    asked: ClassVar[Asked] = "sentence"
    judges: ClassVar[bool] = False

    pairs: Tensor
    cell: Tensor

    def __init__(self, config: Config, dim: int, classes: Sequence[str] = ()) -> None:
        super().__init__()
        self.config, self.dim = config, dim
        self.classes: tuple[str, ...] = ()
        c = config
        pairs = sparse_pairs(c.nodes, tuple(c.scales))
        self.standard = nn.BatchNorm1d(dim, affine=False) if c.standardize else None
        self.frame = nn.Linear(dim, c.hidden)
        self.pool = SpanConv(c.hidden, c.scales) if c.pooling == "conv" else None
        self.visual = nn.Linear(c.hidden, c.hidden)
        self.lstm = nn.LSTM(c.text_dim, c.text_width, c.text_layers, batch_first=True)
        self.text = nn.Linear(c.text_width, c.hidden)
        self.map = PairConv(c.hidden, c.kernel, c.layers)
        self.score = nn.Linear(c.hidden, 1)
        self.register_buffer("pairs", torch.from_numpy(pairs.copy()), persistent=False)
        self.register_buffer("cell", torch.from_numpy(pairs[:, 0] * c.nodes + pairs[:, 1]), persistent=False)

    # ------------------------------------------------------------------------------------------------- network

    def views(self, features: Features) -> list[Features]:
        """The whole video averaged to T clips, or windows of T clips that start every T/2 until one ends it.

        Raises:
            DataError: the features have no row, or their video no length.
        """
        spans.refuse_empty(features)
        if self.config.normalize:
            length = np.linalg.norm(features.data.astype(np.float32), axis=1, keepdims=True)
            features = Features(features.data / np.maximum(length, 1e-12), features.grid, features.duration)
        if self.config.span == "windows":
            return spans.views(features, self.config.clips, "windows")
        return [_averaged(features, self.config.clips)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """How well each span of its video answers each sentence; padding of clips, words or questions means nothing.

        Returns:
            ``"logits"`` ``(Q, P)`` of the spans of :func:`cuemark.nn.pairs.sparse_pairs`, meaningless where a span is
            longer than its video; ``"map"`` ``(Q, N, N)`` their probabilities, ``[q, a, b]`` that of ``[a, b + 1]``, 0
            where there is no span.

        Raises:
            CallError: the batch asks no sentence.
            ModelError: the features or the words are wider or narrower than the network's, or there are more than T
                clips.
        """
        c = self.config
        if batch.sentences is None or batch.about is None:
            raise CallError("2D-TAN answers sentences, and the batch asks none; give each row a question with a query, "
                            "and what reads it.")
        features, mask = spans.padded(batch, c.clips, self.dim)
        there = pair_mask(self._nodes(batch), self.pairs)  # (B, P)
        each = batch.about

        video = self.visual(self._spans(features, mask))  # (B, P, H)
        sentence = self._read(batch.sentences)  # (Q, H)
        fused = F.normalize(sentence.float()[:, None] * video.float()[each], dim=2) * there[each][..., None]
        cells = self._on_map(fused.transpose(1, 2))
        shares = self.map.shares(self._on_map(there[:, None])[:, 0])
        if len(there) > 1:
            shares = [share[each] for share in shares]
        found = self.map(cells, shares).flatten(2)[:, :, self.cell]  # (Q, H, P)
        logits = self.score(found.transpose(1, 2))[..., 0].float()
        probability = logits.detach().sigmoid() * there[each]
        return {"logits": logits, "map": self._on_map(probability[:, None])[:, 0]}

    # ------------------------------------------------------------------------------------------------- training

    def targets(self, batch: Batch) -> Tensor:
        """``(Q, P)`` in [0, 1]: the scaled tIoU of each span with the best of its question's moments.

        Moments are cut to what the row shows; one that is not shown, or has no length, is none.

        Raises:
            CallError: the batch has no truth, or not one for each question.
        """
        c = self.config
        if batch.truth is None or batch.about is None or len(batch.truth) != len(batch.about):
            raise CallError("a loss needs truth; collate the batch with the moments that answer each question.")
        most = max((len(moments) for moments in batch.truth), default=0)
        at = np.zeros((len(batch.truth), max(most, 1), 2))
        for number, (row, moments) in enumerate(zip(batch.about.tolist(), batch.truth, strict=True)):
            at[number, :len(moments)] = batch.grids[row].position(times(moments))
        device = batch.features.device
        clips = batch.mask.sum(dim=1)[batch.about]  # (Q,)
        moment = torch.from_numpy(at).to(device).clamp(min=0).minimum(clips[:, None, None])
        start, end = self._edges(clips)  # (Q, P)
        inside = (torch.minimum(end[:, :, None], moment[:, None, :, 1])
                  - torch.maximum(start[:, :, None], moment[:, None, :, 0])).clamp(min=0)
        either = (end - start)[:, :, None] + (moment[..., 1] - moment[..., 0])[:, None] - inside
        iou = (inside / either.clamp(min=1e-9)).amax(dim=2)
        scaled = (iou - c.min_iou) * (1 - c.bias) / (c.max_iou - c.min_iou)
        return torch.where(scaled > 0, scaled + c.bias, 0.0).clamp(max=1).float()

    def loss(self, out: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``"iou"``: the mean binary cross entropy over all spans that exist, of all questions (equation 4)."""
        target = self.targets(batch)
        assert batch.about is not None
        there = pair_mask(self._nodes(batch), self.pairs)[batch.about].float()
        each = F.binary_cross_entropy_with_logits(out["logits"].float(), target, reduction="none") * there
        return {"iou": each.sum() / there.sum().clamp(min=1)}

    # ------------------------------------------------------------------------------------------------ inference

    @torch.no_grad()
    def decode(self, out: dict[str, Tensor], batch: Batch) -> list[list[Segment]]:
        """All spans that exist, for each question: best first, in seconds inside the video, before suppression."""
        assert batch.about is not None
        clips = batch.mask.sum(dim=1)[batch.about]
        edges = torch.stack(self._edges(clips), dim=-1).cpu().numpy()  # (Q, P, 2)
        there = pair_mask(self._nodes(batch), self.pairs)[batch.about].cpu().numpy()
        score = out["logits"].float().sigmoid().cpu().numpy()
        answers = []
        for number, row in enumerate(batch.about.tolist()):
            seconds = np.clip(batch.grids[row].seconds(edges[number]), 0.0, batch.durations[row])
            real = np.flatnonzero(there[number] & (seconds[:, 1] > seconds[:, 0]))
            best = real[np.argsort(-score[number, real], kind="stable")]
            answers.append([Segment(a, b, score=s) for (a, b), s in zip(seconds[best].tolist(),
                                                                       score[number, best].tolist(), strict=True)])
        return answers

    def select(self, candidates: list[Segment]) -> list[Segment]:
        """The answer to one question from the candidates of all its views: greedy suppression, the best ``keep``."""
        segments, scores, _ = columns(candidates)
        order, _ = hard_nms(segments, scores, self.config.nms, keep=self.config.keep)
        return [candidates[i] for i in order]

    # -------------------------------------------------------------------------------------------------- private

    def _nodes(self, batch: Batch) -> Tensor:
        """``(B,)`` nodes with a real clip."""
        size = self.config.clips // self.config.nodes
        return -(-batch.mask.sum(dim=1) // size)

    def _spans(self, features: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, C)`` clips to ``(B, P, H)`` spans."""
        keep = mask[..., None].to(features.dtype)
        if self.standard is not None and not (self.training and mask.sum() < 2):  # one row has no deviation
            features = features.masked_scatter(mask[..., None], self.standard(features[mask]))
        clips = (F.relu(self.frame(features)) * keep).unflatten(1, (self.config.nodes, -1))
        count = keep.unflatten(1, (self.config.nodes, -1)).sum(dim=2)
        nodes = clips.sum(dim=2) / count.clamp(min=1)
        if self.pool is not None:
            return self.pool(nodes.transpose(1, 2)).transpose(1, 2)
        size, many = len(nodes), len(self.pairs)
        rows = torch.arange(size, device=nodes.device).repeat_interleave(many)
        first, last = self.pairs.T
        return span_max(nodes, rows, first.repeat(size), last.repeat(size)).unflatten(0, (size, many))

    def _read(self, sentences: Sentences) -> Tensor:
        """``(Q, H)``: the LSTM's state after each sentence's last word, which padding behind it cannot change.

        Raises:
            ModelError: the words' vectors have another width.
        """
        if sentences.words.shape[2] != self.config.text_dim:
            raise ModelError(f"this localizer was made for words of width {self.config.text_dim}, these have width "
                             f"{sentences.words.shape[2]}; read the sentences with what it was trained with.")
        with torch.autocast(sentences.words.device.type, enabled=False):  # few CPUs have an LSTM in bfloat16
            states = self.lstm(sentences.words.float())[0]
        last = sentences.mask.sum(dim=1).clamp(min=1) - 1
        return self.text(states[torch.arange(len(last), device=last.device), last])

    def _on_map(self, values: Tensor) -> Tensor:
        """``(…, X, P)`` values of the spans to ``(…, X, N, N)``, zero elsewhere."""
        n = self.config.nodes
        empty = values.new_zeros(*values.shape[:-1], n * n)
        return empty.index_copy(-1, self.cell, values).unflatten(-1, (n, n))

    def _edges(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """``(Q, P)`` starts and ends of every span in clips; the last one ends with the row's ``(Q,)`` clips."""
        size = self.config.clips // self.config.nodes
        start, end = self.pairs[:, 0] * size, (self.pairs[:, 1] + 1) * size
        return start.double().expand(len(clips), -1), end.double().minimum(clips[:, None].double())


def _averaged(features: Features, count: int) -> Features:
    """The whole video as ``count`` equal clips, each the mean of the rows of its stretch of time.

    A stretch begins and ends at the nearest row's edge (halves go to the even one, as in the release); one without any
    row takes the row that it begins in.
    """
    grid, rows = features.grid, features.grid.count
    target = Grid.over(0.0, features.duration, count)
    # rounded twice: whether an edge is a half must not depend on the last bit
    edges = np.rint(np.round(grid.position(target.seconds(np.arange(count + 1))), 6)).clip(0, rows).astype(np.int64)
    first = np.minimum(edges[:-1], rows - 1)
    data = features.data[: max(int(edges[-1]), int(first[-1]) + 1)].astype(np.float32)
    sums = np.add.reduceat(data, first, axis=0)  # an empty stretch gives its first row
    return Features(sums / np.diff(first, append=len(data)).clip(min=1)[:, None].astype(np.float32), target,
                    features.duration)


# ----------------------------------------------------------------------------------------------- released weights


def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the released code (github.com/microsoft/2D-TAN) as ours.

    Args:
        state: the state dict of any of its six checkpoints; the settings it needs are those of :meth:`Config.charades`,
            :meth:`Config.activitynet` or :meth:`Config.tacos`, with the checkpoint's pooling.

    Raises:
        ModelError: weights are missing, too many or of another shape.
    """
    theirs = Layout(state, "2D-TAN")
    ours = {**theirs.flat("frame_layer.vis_conv", "frame"), **theirs.flat("fusion_layer.vis_conv", "visual"),
            **theirs.pair("fusion_layer.tex_linear", "text"), **theirs.flat("pred_layer", "score")}
    for layer in range(max(theirs.count("fusion_layer.textual_encoder.weight_ih_l{}"), 1)):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            ours[f"lstm.{name}_l{layer}"] = theirs.take(f"fusion_layer.textual_encoder.{name}_l{layer}")
    for layer in range(max(theirs.count("map_layer.convs.{}.weight"), 1)):
        ours |= theirs.pair(f"map_layer.convs.{layer}", f"map.layers.{layer}")
    number = 0
    for scale in range(theirs.count("prop_layer.layers.{}.0.weight")):  # none where spans are maxima
        for step in range(theirs.count(f"prop_layer.layers.{scale}.{{}}.weight")):
            ours |= theirs.pair(f"prop_layer.layers.{scale}.{step}", f"pool.steps.{number}")
            number += 1
    theirs.end()
    return ours
