"""QAT: few-shot localization with a query-adaptive transformer. Show K examples of something; find more of it.

Sauradip Nag, Xiatian Zhu, Tao Xiang, "Few-Shot Temporal Action Localization with Query Adaptive Transformer", BMVC
2021. Its adaptation of a classifier to the examples is derived from RePRI (Boudiaf et al., CVPR 2021), its backbone is
the base of G-TAD (:mod:`cuemark.localizers.gtad`), trained on base classes.

A question is K example videos ("support") with what is looked for marked in them; it is about one other video
("query"). Shapes (``B`` batch, ``Q`` questions, ``S`` examples of each, ``T`` positions, ``C`` feature width)::

    query (B, T, C), examples (Q, S, T, C) ── Conv1d k3, GCNeXt, GCNeXt, L2 norm ── x (Q, T, 256), xs (Q, S·T, 256)
    prototype   w = mean of xs inside the examples                                        (Q, 256)
    bias        b = mean of 20 cos(w, x) over the query (transductive)                    (Q,)
    adaptation  99 steps of SGD on (w, b): cross entropy of σ(20 cos(w, xs) - b) on the examples, inside against outside
    transformer w' = LayerNorm(w + FC(attention of 2 heads, query w, keys and values x))  (Q, 256)
    answer      b follows w', as the examples have it; p = σ(20 cos(w', x) - b)           (Q, T)

Connected stretches of the video in which ``p`` is above a threshold are the candidates. Training draws episodes, in
which the query is labelled too: the loss is the cross entropy of ``p``. The adaptation is differentiable, and the loss
reaches the backbone through all its steps; with ``train_backbone = False`` (the paper's second phase, after one of
G-TAD on base classes: a recipe's ``start``) the transformer alone is trained.

Where it differs from the released code, and why:

- The query's label is never used in inference; a candidate carries the question's label and no other classifier's
  score. The release emits the true label.
- ``p`` is the foreground's probability. The release reads proposals from channel 0, the background's.
- The cross entropy is balanced as it was meant: half the mean over what is inside plus half the mean over the rest, of
  each question. The release takes the length of a tensor (its batch, 2 in all) for the number of snippets, which turns
  the sign of the background's term, and its shapes mix the examples of a question.
- The query's loss is balanced in the same way. The release counts the query's foreground only, which an answer of
  "everything" minimises.
- One transformer is learned across episodes, by the recipe's optimiser. The release makes a new one in each episode,
  takes one step and saves the last.
- Support and query are different videos (:class:`cuemark.localizers.questions.EpisodeData`), and base training sees
  base classes only (``data.classes``); in the release an example may be the query, and videos of novel classes are in.
- Features are L2-normalised over channels. The release names the axis of the examples, and does so in training only.
- The bias follows the transformer (``bias_follows``). A layer normalisation turns the classifier of non-negative
  features by so much that, with the bias it came with, the answer is near 0 everywhere until the transformer has
  unlearned it (docs/notes.md).
- Snippets count by the share of them that is inside. The release rounds.
- Training takes videos with short segments too; the release leaves out those below 15 % of the video. Attention weights
  are not dropped (release: 0.1 of them), what attention gives is.
- Candidates are the stretches above each of nine thresholds, many per video, so that many instances can be found. The
  release takes the first and the last position above one, once over the video and once over the slice [9, 97) of 100,
  whose offset it forgets; ``proposals = "released"`` does that, with the offset.
- A candidate's score is its inside-minus-outside contrast of ``p`` times how much it looks like the inside of the
  examples rather than their outside (``match``), for which the query's own mean plays no part: so the answers to
  several questions can compete. The release takes the highest ``p``, and so does ``proposals = "released"``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuemark.batch import Asked, Batch, Examples
from cuemark.errors import CallError, ModelError, unknown
from cuemark.grid import Features
from cuemark.localizers.classify import named
from cuemark.localizers.layout import Layout
from cuemark.nn import spans
from cuemark.nn.attention import attend
from cuemark.nn.graph import GCNeXt
from cuemark.nn.nms import soft_nms
from cuemark.segments import Segment, columns, times

PROPOSALS = ("stretches", "released")
_THRESHOLDS = np.arange(1, 10) / 10
_SLICE = 0.09, 0.97  # of the video; the release's second look
_SHORTEST = 0.1  # of the video; the release's candidates are longer
_BACKBONE = ("base.", "base_graph.", "map_graph.")
_UNUSED = ("regu_s.", "regu_e.", "goi_align.", "localization.")
_EPS = 1e-10


@dataclass(frozen=True)
class Config:
    """The paper's settings for ActivityNet.

    Raises:
        CallError: a value that cannot be meant.
    """

    span: str = "video"
    """What the network sees at once: the whole ``"video"`` resampled to ``positions``, or overlapping ``"windows"``
    of as many snippets, every half window; examples are then seen whole."""
    positions: int = 100
    """T: snippets the network sees at once."""
    h1d: int = 256
    """Channels along time."""
    input_groups: int = 4
    """Groups of the first convolution; divides the feature width and ``h1d``."""
    width: int = 128
    """Channels of a graph block's bottleneck."""
    groups: int = 32
    """Groups of a graph block's bottleneck; divides ``width``."""
    neighbours: int = 3
    """k: semantic edges of a snippet, itself included."""
    train_backbone: bool = True
    """Let the loss reach the backbone, through the adaptation too; otherwise the transformer alone is trained."""
    shots: int = 5
    """K: examples of a question in training; afterwards there may be more or fewer."""
    temperature: float = 20.0
    """What cosines are multiplied by."""
    adapt_steps: int = 99
    """Steps of SGD on the examples; 0: none."""
    adapt_rate: float = 0.025
    """Their learning rate."""
    adapt_weight: float = 1.5
    """Weight of their loss."""
    transductive: bool = True
    """The bias begins as the mean over the query, which half of it then exceeds; otherwise as that of the examples."""
    bias_follows: bool = True
    """Move the bias by as much as the transformer moves the middle between the logits inside the examples and outside
    of them; otherwise it stays, as released."""
    transformer: bool = True
    """Adapt the classifier to the query; without it, that of the examples answers."""
    heads: int = 2
    """Of the transformer, ``h1d`` channels each."""
    dropout: float = 0.5
    """Of what its attention gives, in training."""
    proposals: str = "stretches"
    """Candidates: all ``"stretches"`` above each threshold, or the ``"released"`` first to last position above it."""
    sigma: float = 0.8
    """Gaussian soft-NMS."""
    keep: int = 100
    """Segments of a video in the answer."""

    def __post_init__(self) -> None:
        if self.span not in spans.SPANS:
            raise unknown("span", self.span, spans.SPANS)
        if self.proposals not in PROPOSALS:
            raise unknown("kind of proposals", self.proposals, PROPOSALS)
        for name in ("positions", "h1d", "input_groups", "width", "groups", "neighbours", "shots", "temperature",
                     "heads", "sigma", "keep"):
            if not getattr(self, name) > 0:
                raise CallError(f"QAT's '{name}' must be positive, got {getattr(self, name)}.")
        for name in ("adapt_steps", "adapt_rate", "adapt_weight"):
            if not getattr(self, name) >= 0:
                raise CallError(f"QAT's '{name}' cannot be negative, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise CallError(f"QAT's 'dropout' must be in [0, 1), got {self.dropout}.")
        if self.h1d % self.input_groups or self.width % self.groups:
            raise CallError("QAT's 'input_groups' must divide 'h1d', and 'groups' must divide 'width'; got "
                            f"{self.input_groups} and {self.h1d}, {self.groups} and {self.width}.")


class QAT(nn.Module):
    """The network, its losses and its answers; see the module's docstring.

    Args:
        config: how large, how trained, how decoded.
        dim: width of the features.
        classes: the base classes it is trained with; its answers carry the names of the questions instead.

    Raises:
        CallError: ``dim`` does not fit ``config.input_groups``.
    """

    config_type: ClassVar[type[Config]] = Config
    asked: ClassVar[Asked] = "examples"
    judges: ClassVar[bool] = False

    def __init__(self, config: Config, dim: int, classes: Sequence[str]) -> None:
        super().__init__()
        c = config
        if dim % c.input_groups:
            raise CallError(f"QAT's first convolution has {c.input_groups} groups, which do not divide features of "
                            f"width {dim}; set 'input_groups' to a divisor of it.")
        self.config, self.dim, self.classes = c, dim, tuple(classes)
        self.base = nn.Conv1d(dim, c.h1d, 3, padding=1, groups=c.input_groups)
        self.base_graph = GCNeXt(c.h1d, c.width, c.groups, c.neighbours)
        self.map_graph = GCNeXt(c.h1d, c.width, c.groups, c.neighbours)
        self.adapter = QueryAdapter(c.h1d, c.heads, c.dropout) if c.transformer else None

    def begin(self, other: nn.Module) -> None:
        """Take over what another localizer has learned: a G-TAD's backbone, or all of another QAT.

        Raises:
            ModelError: the other has no such backbone, or one of another shape.
        """
        mine, theirs = self.state_dict(), other.state_dict()
        wanted = {k: v for k, v in mine.items() if k.startswith(_BACKBONE) or isinstance(other, QAT)}
        for name, value in wanted.items():
            if name not in theirs or theirs[name].shape != value.shape:
                found = f"{tuple(theirs[name].shape)}" if name in theirs else "nothing"
                raise ModelError(f"QAT begins with the backbone of a G-TAD or a QAT of its own shape; '{name}' should "
                                 f"be {tuple(value.shape)}, the other ({type(other).__name__}) has {found}.")
        self.load_state_dict(mine | {name: theirs[name] for name in wanted})

    # ------------------------------------------------------------------------------------------------- network

    def views(self, features: Features) -> list[Features]:
        """The whole video resampled to T positions, or windows of T snippets that start every T/2 until one ends it.

        Raises:
            DataError: the features have no row, or their video no length.
        """
        return spans.views(features, self.config.positions, self.config.span)

    def encode(self, features: Tensor, mask: Tensor) -> Tensor:
        """The backbone: ``(n, T, C)`` features, real where ``mask`` ``(n, T)`` is, to ``(n, T, h1d)``, 0 elsewhere."""
        base, _ = self.base_graph(F.relu(self.base(features.transpose(1, 2))), mask)
        found, _ = self.map_graph(base, mask)
        return found.transpose(1, 2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """What the video of each question holds of what its examples show.

        Returns:
            ``"logit"`` ``(Q, T)``, whose sigmoid is ``p``, and ``"match"`` ``(Q, T)`` in [0, 1]: whether a position
            looks like the inside of the examples rather than their outside. Padding is 0 in both and means nothing.

        Raises:
            CallError: the batch has no examples.
            ModelError: the features are wider or narrower than the network's, or longer than T.
        """
        c = self.config
        if batch.examples is None or batch.about is None:
            raise CallError("QAT finds more of what it is shown; give it questions with examples.")
        features, mask = spans.padded(batch, c.positions, self.dim)
        shown, real, inside = self._examples(batch.examples)
        hit = inside.flatten(1)
        miss = real.flatten(1).float() - hit
        with torch.set_grad_enabled(c.train_backbone and torch.is_grad_enabled()):
            query = F.normalize(self.encode(features, mask).float(), dim=2)[batch.about]
            support = F.normalize(self.encode(shown.flatten(0, 1), real.flatten(0, 1)).float(), dim=2)
            support = support.unflatten(0, real.shape[:2]).flatten(1, 2)
            mask = mask[batch.about]
            with torch.autocast(features.device.type, enabled=False):  # twenty cosines need more than bf16's 8 bits
                weight, bias, match = self._classifier(query, mask.float(), support, hit, miss)
        with torch.autocast(features.device.type, enabled=False):
            if self.adapter is not None:
                before = self._halfway(weight, query, mask.float(), support, hit, miss)
                weight = self.adapter(weight, query, mask)
                if c.bias_follows:
                    bias = bias + self._halfway(weight, query, mask.float(), support, hit, miss) - before
            logit = cosine(weight, query) * c.temperature - bias[:, None]
        return {"logit": logit * mask, "match": match * mask}

    # ------------------------------------------------------------------------------------------------- training

    def targets(self, batch: Batch) -> Tensor:
        """The share of each position that is inside what answers a question: ``(Q, T)`` in [0, 1].

        Raises:
            CallError: the batch has no truth, or not one for each question.
        """
        if batch.truth is None or batch.about is None or len(batch.truth) != len(batch.about):
            raise CallError("a loss needs truth; collate the batch with what answers each of its questions.")
        share = torch.zeros(len(batch.truth), self.config.positions)
        for i, (row, truth) in enumerate(zip(batch.about.tolist(), batch.truth, strict=True)):
            grid = batch.grids[row]
            share[i, : grid.count] = torch.from_numpy(grid.covered(times(truth)))
        return share.to(batch.features.device)

    def loss(self, out: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``"query"``: the balanced cross entropy of ``p``, mean over questions."""
        _, mask = spans.padded(batch, self.config.positions, self.dim)
        assert batch.about is not None
        there = mask[batch.about].float()
        hit = self.targets(batch) * there
        return {"query": balanced(out["logit"], hit, there - hit).mean()}

    # ------------------------------------------------------------------------------------------------ inference

    @torch.no_grad()
    def decode(self, out: dict[str, Tensor], batch: Batch) -> list[list[Segment]]:
        """Candidates of each question, best first, in seconds inside its video, before suppression; without names."""
        assert batch.about is not None
        about = batch.about.tolist()
        p, match = (value.float().cpu().numpy() for value in (out["logit"].sigmoid(), out["match"]))
        lengths = spans.lengths(batch)[about]
        if self.config.proposals == "released":
            row, places, score = outermost(p, lengths)
        else:
            row, places = stretches(p, lengths)
            score = contrast(p, lengths, row, places) * inside_mean(match, row, places)
        cut = np.searchsorted(row, np.arange(1, len(about)))
        candidates = list(zip(np.split(places.astype(np.float64), cut), np.split(score, cut), strict=True))
        asked = replace(batch, grids=[batch.grids[i] for i in about], durations=[batch.durations[i] for i in about])
        return named(candidates, asked, None, None, (), 1)

    def select(self, candidates: list[Segment]) -> list[Segment]:
        """The answer to one question from the candidates of all views: soft-NMS, the best ``keep``."""
        segments, scores, _ = columns(candidates)
        order, score = soft_nms(segments, scores, self.config.sigma, keep=self.config.keep)
        return [replace(candidates[i], score=value) for i, value in zip(order, score.tolist())]

    # -------------------------------------------------------------------------------------------------- private

    def _classifier(self, query: Tensor, mask: Tensor, support: Tensor, hit: Tensor, miss: Tensor
                    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weight ``(Q, h1d)`` and bias ``(Q,)`` as the examples have them, and the match ``(Q, T)`` of the query."""
        c = self.config
        weight = prototype(support, hit)
        bias = (mean(cosine(weight, query) * c.temperature, mask) if c.transductive
                else self._halfway(weight, query, mask, support, hit, miss))
        weight, bias = adapt(weight, bias, support, hit, miss, temperature=c.temperature, steps=c.adapt_steps,
                             rate=c.adapt_rate, scale=c.adapt_weight)
        middle = self._halfway(weight, query, mask, support, hit, miss)
        return weight, bias, torch.sigmoid(cosine(weight, query) * c.temperature - middle[:, None])

    def _halfway(self, weight: Tensor, query: Tensor, mask: Tensor, support: Tensor, hit: Tensor, miss: Tensor
                 ) -> Tensor:
        """``(Q,)`` between the mean logits inside the examples and outside of them.

        Examples that are inside all over are held against the mean of the query.
        """
        apart = cosine(weight, support) * self.config.temperature
        alike = mean(cosine(weight, query) * self.config.temperature, mask)
        return 0.5 * (mean(apart, hit) + torch.where(miss.sum(dim=1) > _EPS, mean(apart, miss), alike))

    def _examples(self, examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``(Q, S, T, C)``, mask and inside ``(Q, S, T)`` of the examples, as the network sees videos."""
        if examples.features.shape[3] != self.dim:
            raise ModelError(f"this localizer was made for features of width {self.dim}, those of the examples have "
                             f"width {examples.features.shape[3]}; extract them with the encoder it was trained on.")
        if self.config.span != "video":
            return examples.features, examples.mask, examples.inside * examples.mask
        features = resampled(examples.features.flatten(0, 1), examples.mask.flatten(0, 1), self.config.positions)
        inside = shares(examples.inside.flatten(0, 1), examples.mask.flatten(0, 1), self.config.positions)
        real = examples.mask.any(dim=2, keepdim=True).expand(-1, -1, self.config.positions)
        return features.unflatten(0, real.shape[:2]), real, inside.unflatten(0, real.shape[:2]) * real


class QueryAdapter(nn.Module):
    """The query-adaptive transformer: a classifier looks at the video that it is about to judge (section 3.3).

    ``LayerNorm(w + dropout(FC(attention)))`` with one query ``w`` and the video's positions as keys and values; each
    head has as many channels as ``w``. Initialised as the release is, but for the last layer, whose weights are a tenth
    as large: learning begins near the classifier that came in, where the release begins anywhere.
    """

    def __init__(self, channels: int, heads: int = 2, dropout: float = 0.5) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(channels, heads * channels, bias=False) for _ in range(3))
        self.out, self.norm, self.dropout = nn.Linear(heads * channels, channels), nn.LayerNorm(channels), dropout
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=math.sqrt(1 / channels))
        nn.init.xavier_normal_(self.out.weight, 0.1)

    def forward(self, weight: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Classifiers ``(Q, C)`` and their videos ``(Q, T, C)``, real where ``mask`` ``(Q, T)`` is, to ``(Q, C)``."""
        def split(y: Tensor) -> Tensor:
            return y.unflatten(2, (self.heads, -1)).transpose(1, 2)

        seen = attend(split(self.query(weight[:, None])), split(self.key(x)), split(self.value(x)), mask)
        told = self.out(seen.transpose(1, 2).flatten(2)[:, 0])
        return self.norm(weight + F.dropout(told, self.dropout, self.training))


# ---------------------------------------------------------------------------------------------- the classifier


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of each row of ``(Q, n)``; 0 where nothing weighs."""
    return (values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=_EPS)


def prototype(x: Tensor, hit: Tensor) -> Tensor:
    """``(Q, C)``: the mean of the snippets ``(Q, n, C)`` that are inside, each by its share ``(Q, n)``."""
    return torch.einsum("qn,qnc->qc", hit, x) / hit.sum(dim=1, keepdim=True).clamp(min=_EPS)


def cosine(weight: Tensor, x: Tensor) -> Tensor:
    """``(Q, n)``: of ``(Q, C)`` with each of ``(Q, n, C)``; 0 where either is zero."""
    return torch.einsum("qc,qnc->qn", F.normalize(weight, dim=1), F.normalize(x, dim=2))


def balanced(logit: Tensor, hit: Tensor, miss: Tensor) -> Tensor:
    """Cross entropy ``(Q,)`` in which what is inside and what is not weigh the same, each half.

    Args:
        logit: ``(Q, n)``.
        hit: ``(Q, n)`` share of each snippet that is inside; 0 for padding.
        miss: ``(Q, n)`` share that is not; 0 for padding.
    """
    return -0.5 * (mean(F.logsigmoid(logit), hit) + mean(F.logsigmoid(-logit), miss))


def adapt(weight: Tensor, bias: Tensor, x: Tensor, hit: Tensor, miss: Tensor, *, temperature: float, steps: int,
          rate: float, scale: float) -> tuple[Tensor, Tensor]:
    """Gradient descent of a cosine classifier on ``scale`` times :func:`balanced`, of all questions at once.

    The gradient is written out, so that it needs no autograd in inference and is itself differentiable in training.

    Args:
        weight: ``(Q, C)``.
        bias: ``(Q,)``, taken from the logits.
        x: ``(Q, n, C)`` snippets of the examples.
        hit: ``(Q, n)`` as :func:`balanced` takes it.
        miss: likewise.

    Returns:
        The weight and the bias after ``steps``.
    """
    x = F.normalize(x, dim=2)
    pull = 0.5 * hit / hit.sum(dim=1, keepdim=True).clamp(min=_EPS)
    push = 0.5 * miss / miss.sum(dim=1, keepdim=True).clamp(min=_EPS)
    for _ in range(steps):
        norm = weight.norm(dim=1, keepdim=True).clamp(min=1e-12)
        unit = weight / norm
        p = torch.sigmoid(torch.einsum("qc,qnc->qn", unit, x) * temperature - bias[:, None])
        slope = scale * (push * p - pull * (1 - p))  # of the loss, by each logit
        along = torch.einsum("qn,qnc->qc", slope, x) * temperature
        weight = weight - rate * (along - (along * unit).sum(dim=1, keepdim=True) * unit) / norm
        bias = bias + rate * slope.sum(dim=1)
    return weight, bias


def resampled(features: Tensor, mask: Tensor, count: int) -> Tensor:
    """Sequences ``(n, T, C)`` of the lengths in ``mask`` to ``(n, count, C)``, each interpolated linearly in time.

    What :meth:`cuemark.grid.Features.resample` does over the extent of a grid.
    """
    length = mask.sum(dim=1, keepdim=True)
    at = (torch.arange(count, device=mask.device) + 0.5) * length / count - 0.5
    at = torch.minimum(at.clamp(min=0), (length - 1).clamp(min=0))
    low = at.floor().long()
    high = torch.minimum(low + 1, (length - 1).clamp(min=0))
    part = (at - low)[:, :, None].to(features.dtype)
    rows = torch.arange(len(features), device=mask.device)[:, None]
    return features[rows, low] * (1 - part) + features[rows, high] * part


def shares(inside: Tensor, mask: Tensor, count: int) -> Tensor:
    """Shares ``(n, T)`` of the cells of sequences to those of ``count`` equal cells over the same time: exact means."""
    length = mask.sum(dim=1, keepdim=True)
    total = F.pad((inside * mask).double().cumsum(dim=1), (1, 0))
    edge = torch.arange(count + 1, device=mask.device) * length.double() / count
    low = edge.floor().long().clamp(max=inside.shape[1])
    high = (low + 1).clamp(max=inside.shape[1])
    at = total.gather(1, low) + (edge - low) * (total.gather(1, high) - total.gather(1, low))
    return (at.diff(dim=1) * count / length.clamp(min=1)).clamp(0, 1).to(inside.dtype)


# ---------------------------------------------------------------------------------------------- candidates


def stretches(p: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every longest stretch whose positions are all above a threshold, for nine thresholds.

    The thresholds divide each row's own range from its lowest to its highest value into tenths: an answer that is sure
    of itself everywhere has finer and coarser stretches too. The whole row is always among them.

    Args:
        p: ``(Q, T)``.
        lengths: ``(Q,)`` real positions of each row.

    Returns:
        ``(n,)`` rows, in order, and ``(n, 2)`` first positions and ends (the position after the last); none twice.
    """
    real = np.arange(p.shape[1]) < lengths[:, None]
    low = np.where(real, p, np.inf).min(axis=1, initial=np.inf)
    high = np.where(real, p, -np.inf).max(axis=1, initial=-np.inf)
    levels = low[:, None] + (high - low)[:, None] * _THRESHOLDS
    above = (p[:, None] > levels[:, :, None]) & real[:, None]
    above = np.concatenate([real[:, None], above], axis=1)
    edge = np.diff(np.pad(above, ((0, 0), (0, 0), (1, 1))).astype(np.int8), axis=2)
    row, _, first = np.nonzero(edge == 1)
    _, _, end = np.nonzero(edge == -1)
    found = np.unique(np.stack([row, first, end], axis=1), axis=0)
    return found[:, 0], found[:, 1:]


def inside_mean(values: np.ndarray, row: np.ndarray, places: np.ndarray) -> np.ndarray:
    """``(n,)``: the mean of ``(Q, T)`` over each of the places ``(n, 2)`` in its row."""
    total = np.pad(np.cumsum(values, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    first, end = places.T
    return ((total[row, end] - total[row, first]) / np.maximum(end - first, 1)).clip(0, 1)


def contrast(p: np.ndarray, lengths: np.ndarray, row: np.ndarray, places: np.ndarray) -> np.ndarray:
    """``(n,)`` in [0, 1]: ½ (1 + mean ``p`` inside a place - mean ``p`` beside it).

    Beside it is a quarter of its length, at least one position, on either side; where nothing is, at a whole row,
    ``p`` is held against ½.
    """
    total = np.pad(np.cumsum(p, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    first, end = places.T
    around = np.maximum((end - first + 2) // 4, 1)
    left, right = np.maximum(first - around, 0), np.minimum(end + around, lengths[row])
    beside = (total[row, first] - total[row, left]) + (total[row, right] - total[row, end])
    count = (first - left) + (right - end)
    beside = np.where(count > 0, beside / np.maximum(count, 1), 0.5)
    return (0.5 * (1 + inside_mean(p, row, places) - beside)).clip(0, 1)


def outermost(p: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The released candidates: from the first position above a threshold to the last one, for 0.1, 0.2, … 0.9.

    Once over the whole row and once over its slice from 9 % to 97 %; longer than a tenth of the row. As released, such
    a candidate ends where its last position begins, and its score is the highest ``p`` before that.

    Args and first returns as :func:`stretches`; and ``(n,)`` scores. Rows may be without any.
    """
    at = np.arange(p.shape[1])
    real = at < lengths[:, None]
    begins, ends = (np.floor(lengths * part + 0.5)[:, None] for part in _SLICE)
    looks = np.stack([real, real & (at >= begins) & (at < ends)], axis=1)  # (Q, 2, T)
    above = (p[:, None, None] > _THRESHOLDS[:, None, None]) & looks[:, None]  # (Q, 9, 2, T)
    first, last = above.argmax(axis=3), p.shape[1] - 1 - above[..., ::-1].argmax(axis=3)
    kept = above.any(axis=3) & (last - first > _SHORTEST * lengths[:, None, None])
    row = np.nonzero(kept)[0]
    places = np.stack([first[kept], last[kept]], axis=1)
    within = (at >= places[:, :1]) & (at < places[:, 1:])
    return row, places, np.where(within, p[row], 0.0).max(axis=1, initial=0.0).astype(np.float64)


# ---------------------------------------------------------------------------------------------- the release


def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released weights to those of :class:`QAT`.

    Args:
        state: what its two checkpoints hold, in one: the G-TAD's (``backbone1.…``, ``backbone2.…``; its other parts are
            left out) and the transformer's (``w_qs.weight``, …).

    Raises:
        ModelError: weights are missing or too many.
    """
    names = [name.removeprefix("module.") for name in state]
    theirs = Layout({name: value for name, value in zip(names, state.values(), strict=True)
                     if not name.startswith(_UNUSED)}, "QAT")
    ours = theirs.pair("backbone1.0", "base")
    for block, mine in (("backbone1.2", "base_graph"), ("backbone2.0", "map_graph")):
        for path, kind in (("tconvs", "temporal"), ("sconvs", "semantic")):
            for number, part in ((0, "_in"), (2, ""), (4, "_out")):
                ours |= theirs.pair(f"{block}.{path}.{number}", f"{mine}.{kind}{part}")
    for layer, mine in (("w_qs", "query"), ("w_ks", "key"), ("w_vs", "value")):
        ours[f"adapter.{mine}.weight"] = theirs.take(f"{layer}.weight")
    for layer, mine in (("fc", "out"), ("layer_norm", "norm")):
        ours |= theirs.pair(layer, f"adapter.{mine}")
    theirs.end()
    return ours
