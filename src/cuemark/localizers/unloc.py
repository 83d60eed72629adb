"""UnLoc: a unified framework for video localization tasks.

Shen Yan, Xuehan Xiong, Arsha Nagrani, Anurag Arnab, Zhonghao Wang, Weina Ge, David Ross, Cordelia Schmid, ICCV 2023
(arXiv 2308.11062).

A class name or a sentence is asked of a video, and every frame is told how well it answers and how far around it the
answer reaches. The words stand beside the frames in one transformer, so the frames are looked at anew for each
question: what was never named in training can be asked. Shapes (``B`` videos, ``N`` frames, ``C`` feature width, ``Q``
questions, ``W`` words of each, ``E`` width of a word, ``d`` width, ``L`` levels, ``K = N + N/2 + N/4 …`` points,
``P`` pairs of a video and a question)::

    features (B, N, C) ── linear ── (B, N, d) ─┐ each question with its video, sinusoids of the position added
    words (Q, W, E) ──── linear ─── (Q, W, d) ─┴─ (P, N + W, d) ── 6 transformer blocks ── frames (P, N, d)
        level l-1 ── depthwise Conv1d k3, stride 2 (level 0: 1), LayerNorm ── level l (P, N / 2^l, d)
        each level ─┬─ 4 x [LayerNorm, Conv1d k3, ReLU], linear ── logits (P, K)
                    └─ 4 x [LayerNorm, Conv1d k3, ReLU], linear, x scale + shift of the level, ReLU ── offsets (P, K, 2)

    "localize"  questions are classes; focal loss of all points, tIoU loss of the positive ones; soft-NMS
    "retrieve"  questions are sentences; as "localize", but in training each is asked of every video of the batch
    "segment"   questions are classes; frames (no pyramid), LayerNorm, linear; a frame is of the best class, or of none
    "classify"  pre-training on trimmed videos; as "segment", and a video's logit is the mean of its frames'

``offsets`` are in strides of the point's level. With both towers frozen, ``features`` and ``words`` are what they said
once; tuned, they are modules inside (:attr:`UnLoc.image`, :attr:`UnLoc.text`).

Where it differs from the released code, and why (what the paper and the release contradict each other in is a setting,
with the release's default unless it says otherwise):

- Pairs go through the network ``chunk`` at a time, so memory does not grow with the number of questions. What a video's
  pairs have in common (frames up to the first block's attention) is computed once, and so is what a sentence's have;
  the last block computes frames alone. The numbers are the same. In training, chunks are computed again in the backward
  pass (``recompute``).
- Padding means nothing: convolutions read real frames only. The positions of the words begin after N, however long the
  video.
- A sentence that is asked of several videos with the same features (two rows of one video) is no negative there.
- Training may ask for some of the classes that a video does not show; ``batch.weight`` says how many each stands for.
- Of a large vocabulary, only the ``top`` questions need be asked: those whose words are most like one of the video's
  frames after the projections, which CLIP's towers know before training and ``similarity_weight`` teaches others.
- Long videos can be seen in windows at several rates (``span = "windows"``). A point is asked in one window only, the
  one in which it is farther from the cut. Truth that a cut leaves less than half of is left out. Segments of frames go
  on from one window into the next.
- With one displacement for all classes (``per_class = False``), each positive pair has its own target; the release
  takes the nearest ends over all classes.
- Classification, which the release refuses: the mean of the frames' logits, and the sum over classes of the binary
  cross entropy, as for frames.
- Keys have no bias (a softmax takes it out).
- One clock, the grid's seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cuemark.batch import Asked, Batch
from cuemark.errors import CallError, ModelError, unknown
from cuemark.grid import Features, Grid
from cuemark.localizers.layout import Layout
from cuemark.nn import spans
from cuemark.nn.attention import Heads, TransformerBlock, begin, sinusoids
from cuemark.nn.nms import soft_nms
from cuemark.nn.points import (
    Points,
    distance_iou_loss,
    focal_loss,
    iou_loss,
    level_sizes,
    nearest_targets,
    pyramid_points,
)
from cuemark.nn.pyramid import ConvHead, DepthwiseLevel, paired_max
from cuemark.segments import Segment, columns, times

TASKS = ("localize", "retrieve", "segment", "classify")
POOLINGS = ("last", "first", "mean")
FUSIONS = ("mid", "late", "none")
PYRAMIDS = ("vitdet", "fpn", "none")
BOX_LOSSES = ("iou", "diou", "l1+iou", "l1", "l1_plain")
SAMPLINGS = ("nearest", "mean")
RANGES = ((0.0, 4.0), (4.0, 8.0), (8.0, 16.0), (16.0, 10000.0))
_NEVER = -100.0  # the logit of what was not asked; its loss is finite, and its score 0


@dataclass(frozen=True)
class Config:
    """The release's settings for ActivityNet (B); the class methods have those of the other data sets.

    Raises:
        CallError: a value that cannot be meant.
    """

    task: str = "localize"
    """What is asked: ``"localize"``, ``"retrieve"``, ``"segment"`` or ``"classify"``."""
    frames: int = 128
    """N: frames the network sees at once."""
    span: str = "video"
    """What it sees at once: the whole ``"video"``, of which N frames are taken evenly, or ``"windows"`` of N frames."""
    steps: tuple[float, ...] = ()
    """Windows: seconds from one frame to the next, of each rate at which the video is looked at; none: every row."""
    overlap: float = 0.5
    """Windows: share of a window that the next one sees again."""
    sampling: str = "nearest"
    """Of frames from features that have more: the ``"nearest"``, as the release and all training from frames does it,
    or the ``"mean"`` of those around, which no frame looks like but sees all there is."""
    width: int = 512
    """d: channels."""
    heads: int = 8
    """Of attention."""
    layers: int = 6
    """Transformer blocks."""
    text_dim: int = 512
    """E: width of a word; training sets it to what reads the questions."""
    project_text: bool = True
    """A linear layer on the words; it begins as no change where E = d. The release trains CLIP's own, also where its
    text tower is frozen, and has none where the text was embedded beforehand."""
    tokens: str = "one"
    """How much of a question is read: ``"one"`` vector (CLIP's end of text, T5's mean) or ``"all"``. The paper finds
    all better, the release uses one."""
    pooling: str = "last"
    """Which of a question's words stand for the whole of it: the ``"last"`` (CLIP's end of text), the ``"first"``
    (BERT's CLS) or the ``"mean"`` of all (MiniLM, T5, GloVe); training sets it to what reads the questions. It decides
    nothing where a question is read as one vector already (``tokens = "one"``, no text tower inside)."""
    fusion: str = "mid"
    """Where words meet frames: in the transformer (``"mid"``), in a product with the finished frames (``"late"``), or
    nowhere: ``"none"`` knows its classes alone, each with weights of its own."""
    pyramid: str = "vitdet"
    """``"vitdet"``, ``"fpn"`` (maxima between the last blocks, and back from the top), or ``"none"``: frames alone."""
    centred: bool = False
    """Strided convolutions around the frame that the point stands for; if not, half a step later, as in the release."""
    ranges: tuple[tuple[float, float], ...] = RANGES
    """For each level, from where to where (excluded) the farther end of its segments is, in frames."""
    head_layers: int = 4
    """M: convolutions of each head. The paper finds 3 enough."""
    shared_heads: bool = True
    """One pair of heads for all levels, with a scale and a shift for each; if not, a pair for each."""
    per_class: bool = True
    """Displacements for each question; if not, one for all that a video is asked."""
    class_bias: float = -5.0
    """Where logits begin."""
    offset_bias: float = 2.0
    """Where displacements begin, in strides; from 0 or less a ReLU may never learn."""
    radius: float = 3.0
    """Centre sampling: positives are at most that many strides from the middle of their segment."""
    box_loss: str = "iou"
    """``"iou"``, ``"diou"``, ``"l1+iou"``, ``"l1"``, or ``"l1_plain"``. The paper says L1; the release uses IoU, and
    its L1 is divided by the union, which makes it the same. ``"l1_plain"`` is in strides."""
    alpha: float = 10.0
    """Weight of the class loss beside the box loss, of localization and retrieval."""
    focal_alpha: float = 0.25
    """Weight of positives."""
    focal_gamma: float = 2.0
    """How much less is asked of what is answered well."""
    pairs: str = "all"
    """Training of retrieval: a sentence is asked of ``"all"`` videos of the batch, or of its ``"own"``."""
    negatives: int | None = None
    """Training on classes: how many that a video does not show are asked of it, drawn anew each time; none: all."""
    freeze_image: bool = False
    """Frames go through the image tower, where it is inside, without training it."""
    freeze_text: bool = True
    """Words go through the text tower, where it is inside, without training it."""
    chunk: int = 32
    """Pairs that go through the network together."""
    recompute: bool = True
    """In training, keep only what goes into a chunk, and compute the rest again in the backward pass."""
    top: int = 0
    """In inference, ask only so many of a video's questions, those most similar to one of its frames; 0: all."""
    similarity_weight: float = 0.0
    """Of a loss that teaches that similarity which questions have an answer; with CLIP's towers it knows before."""
    threshold: float = 0.001
    """Lowest score of an answer; of localization, of a candidate too."""
    background: float = 0.0
    """Segmentation: a frame whose best logit is not above it is of no class."""
    sigma: float = 0.3
    """Gaussian soft-NMS in TensorFlow's terms: ``exp(-tIoU² / (2 sigma))``."""
    classwise: bool = False
    """Suppress each class by itself, and keep ``keep`` of each."""
    keep: int = 100
    """Segments of a video (of a sentence) in the answer."""

    def __post_init__(self) -> None:
        for what, value, known in (("task", self.task, TASKS), ("span", self.span, spans.SPANS),
                                   ("sampling", self.sampling, SAMPLINGS), ("tokens", self.tokens, ("one", "all")),
                                   ("pooling", self.pooling, POOLINGS), ("fusion", self.fusion, FUSIONS),
                                   ("pyramid", self.pyramid, PYRAMIDS), ("box loss", self.box_loss, BOX_LOSSES),
                                   ("pairs", self.pairs, ("all", "own"))):
            if value not in known:
                raise unknown(what, value, known)
        for name in ("width", "heads", "layers", "text_dim", "radius", "alpha", "chunk", "sigma", "keep"):
            if not getattr(self, name) > 0:
                raise CallError(f"UnLoc's '{name}' must be positive, got {getattr(self, name)}.")
        for name in ("head_layers", "focal_gamma", "top", "similarity_weight"):
            if not getattr(self, name) >= 0:
                raise CallError(f"UnLoc's '{name}' cannot be negative, got {getattr(self, name)}.")
        for name in ("threshold", "overlap"):
            if not 0 <= getattr(self, name) < 1:
                raise CallError(f"UnLoc's '{name}' must be in [0, 1), got {getattr(self, name)}.")
        if self.negatives is not None and not self.negatives > 0:
            raise CallError(f"UnLoc's 'negatives' must be positive, or none for all classes, got {self.negatives}.")
        if not 0 <= self.focal_alpha <= 1:
            raise CallError(f"UnLoc's 'focal_alpha' must be in [0, 1], got {self.focal_alpha}.")
        if self.width % self.heads:
            raise CallError(f"UnLoc's 'heads' ({self.heads}) must divide 'width' ({self.width}).")
        if any(not step > 0 for step in self.steps):
            raise CallError(f"UnLoc's 'steps' are seconds between frames, got {list(self.steps)}.")
        if self.boxes and (not self.ranges or any(not 0 <= low < high for low, high in self.ranges)):
            raise CallError("UnLoc's 'ranges' go from a smaller to a larger distance, one for each level; got "
                            f"{[list(pair) for pair in self.ranges]}.")
        if self.pyramid == "none" and self.levels > 1:
            raise CallError(f"UnLoc without a pyramid has one level, but 'ranges' has {self.levels}; give it one, such "
                            "as [[0, 10000]].")
        if not self.boxes and self.pyramid != "none":
            raise CallError(f"UnLoc's task '{self.task}' is about frames; set pyramid = \"none\".")
        if self.frames < 2 or self.frames % 2 ** (self.levels - 1):
            raise CallError(f"UnLoc's 'frames' must be a multiple of {max(2 ** (self.levels - 1), 2)} with "
                            f"{self.levels} levels, got {self.frames}.")
        if self.pyramid == "fpn" and self.levels > self.layers:
            raise CallError(f"UnLoc's pyramid \"fpn\" has a block for each level, but there are {self.layers} blocks "
                            f"and {self.levels} levels.")
        if not self.project_text and self.fusion != "none" and self.text_dim != self.width:
            raise CallError(f"UnLoc without 'project_text' takes words of its own width ({self.width}), got "
                            f"{self.text_dim}.")
        if self.task == "segment" and len(self.steps) > 1:
            raise CallError("UnLoc segments a video at one rate; give it one of 'steps'.")
        if self.fusion == "none" and self.task == "retrieve":
            raise CallError("UnLoc without text (fusion = \"none\") cannot retrieve sentences.")

    @property
    def boxes(self) -> bool:
        """Whether points tell how far their answer reaches; otherwise frames have scores alone."""
        return self.task in ("localize", "retrieve")

    @property
    def levels(self) -> int:
        """L."""
        return len(self.ranges) if self.boxes else 1

    @classmethod
    def activitynet(cls, size: Literal["b", "l"] = "b") -> Config:
        """ActivityNet: image tower tuned, text tower frozen (L: embedded beforehand)."""
        if size == "b":
            return cls()
        return _sized(cls(frames=160, ranges=(*RANGES[:3], (16.0, 32.0), (32.0, 10000.0)), project_text=False), size)

    @classmethod
    def captions(cls, size: Literal["b", "l"] = "b") -> Config:
        """ActivityNet Captions. B: image tower frozen, text tower tuned. L: the other way round; another pyramid."""
        if size == "b":
            return cls(task="retrieve", head_layers=3, shared_heads=False, class_bias=0.0, freeze_image=True,
                       freeze_text=False)
        return _sized(cls(task="retrieve", pyramid="fpn", class_bias=0.0), size)

    @classmethod
    def charades(cls, size: Literal["b", "l"] = "b") -> Config:
        """Charades-STA. L was never released: it is B's with L's width."""
        return _sized(cls(task="retrieve", pyramid="fpn", head_layers=3, shared_heads=False, class_bias=0.0,
                          offset_bias=0.0), size)

    @classmethod
    def qvhighlights(cls, size: Literal["b", "l"] = "b") -> Config:
        """QVHighlights. B: both towers tuned. L: image tower frozen."""
        ends = (6.0, 18.0, 32.0) if size == "b" else (6.0, 12.0, 24.0)
        ranges = tuple(zip((0.0, *ends), (*ends, 10000.0), strict=True))
        return _sized(cls(task="retrieve", frames=144, head_layers=3, ranges=ranges, class_bias=0.0, pairs="own",
                          freeze_text=False, freeze_image=size != "b"), size)

    @classmethod
    def coin(cls, size: Literal["b", "l"] = "l") -> Config:
        """COIN, at the paper's 2 frames a second (the release's: ``steps = (0.1,)``). B was never released."""
        return _sized(cls(task="segment", frames=512, span="windows", steps=(0.5,), overlap=0.0, pyramid="none",
                          head_layers=0, class_bias=-6.6, project_text=False), size)

    @classmethod
    def kinetics(cls, size: Literal["b", "l"] = "b") -> Config:
        """Pre-training, of which nothing was released; logits begin at one class of 400.

        Words are not projected: not all that begins with it has such a layer, and elsewhere it begins as no change.
        """
        return _sized(cls(task="classify", pyramid="none", head_layers=0, class_bias=-6.0, project_text=False), size)


def _sized(config: Config, size: str) -> Config:
    """B's width, or L's."""
    if size not in ("b", "l"):
        raise unknown("size", size, ("b", "l"))
    return config if size == "b" else replace(config, width=768, heads=12, text_dim=768)


class Targets(NamedTuple):
    """What the points should say to each question."""

    classes: Tensor
    """``(Q, K)`` 0 or 1; of classification ``(Q, 1)``."""
    offsets: Tensor
    """``(Q, K, 2)`` distances to start and end, in strides; 0 where the point is not positive."""


class UnLoc(nn.Module):
    """The network, its losses and its answers; see the module's docstring.

    Args:
        config: how large, how trained, how decoded.
        dim: width of the features.
        classes: what it was trained on. It can be asked for others, except with ``fusion = "none"``.

    Raises:
        CallError: there are no classes, and nothing reads what is asked (``fusion = "none"``).
    """

    config_type: ClassVar[type[Config]] = Config
    asked: ClassVar[Asked] = "text"
    judges: ClassVar[bool] = False

    image: nn.Module | None
    """Frames ``(B, T, 3, H, W)`` to features ``(B, T, dim)``, where the tower is inside."""
    text: nn.Module | None
    """Tokens ``(Q, W)`` and their mask to words ``(Q, W, E)``, where the tower is inside."""

    def __init__(self, config: Config, dim: int, classes: Sequence[str] = ()) -> None:
        super().__init__()
        c = config
        self.config, self.dim, self.classes = c, dim, tuple(classes)
        if c.fusion == "none" and not self.classes:
            raise CallError("UnLoc without text (fusion = \"none\") knows its classes alone; give it some.")
        self.image = self.text = None
        self.video = begin(nn.Linear(dim, c.width, bias=False))
        read = c.fusion != "none"
        self.text_projection = _text_projection(c.text_dim, c.width) if read and c.project_text else None
        self.blocks = nn.ModuleList(TransformerBlock(c.width, c.heads) for _ in range(c.layers))
        self.pyramid = nn.ModuleList(
            DepthwiseLevel(c.width, 2 if level and c.pyramid == "vitdet" else 1, c.centred)
            for level in range(0 if c.pyramid == "none" else c.levels))
        self.norm = nn.LayerNorm(c.width, 1e-6) if c.pyramid == "none" else None
        heads = 1 if c.shared_heads else c.levels
        names = 1 if read else len(self.classes)
        self.class_head = nn.ModuleList(
            ConvHead(c.width, c.head_layers, 0 if c.fusion == "late" else names, c.class_bias) for _ in range(heads))
        self.offset_head = nn.ModuleList(
            ConvHead(c.width, c.head_layers, 2 * (names if c.per_class else 1), c.offset_bias)
            for _ in range(heads if c.boxes else 0))
        if c.boxes and c.shared_heads:
            self.scale, self.shift = nn.Parameter(torch.ones(c.levels)), nn.Parameter(torch.zeros(c.levels))
        if c.fusion == "late":  # CLIP's temperature before training
            self.temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
            self.class_bias = nn.Parameter(torch.tensor(c.class_bias))
        if c.similarity_weight:
            self.sharpness, self.prior = nn.Parameter(torch.tensor(math.log(10.0))), nn.Parameter(torch.tensor(0.0))

    def begin(self, other: nn.Module) -> None:
        """Take over what another UnLoc has learned, whatever its task was: towers, projections and fusion, and pyramid
        and heads where all of these have the same shapes.

        A tower that the other has not inside stays as it is.

        Raises:
            ModelError: the other is no UnLoc, or its projections, fusion or towers have other shapes.
        """
        if not isinstance(other, UnLoc):
            raise ModelError(f"UnLoc begins with the weights of another UnLoc, and this is a {type(other).__name__}.")
        mine, theirs = self.state_dict(), other.state_dict()
        shared = ("video.", "blocks.", *("text_projection.",) * (other.text_projection is not None),
                  *("image.",) * (other.image is not None), *("text.",) * (other.text is not None))
        sizes = [{name: tuple(value.shape) for name, value in state.items()} for state in (mine, theirs)]
        unlike = [name for name in dict.fromkeys([*mine, *theirs]) if sizes[0].get(name) != sizes[1].get(name)]
        strange = next((name for name in unlike if name.startswith(shared)), None)
        if strange is not None:
            own, found = (size.get(strange, "nothing") for size in sizes)
            raise ModelError("UnLoc begins with another one's towers and fusion where these are of its own shape; "
                             f"'{strange}' should be {own}, the other has {found}.")
        alike = all(name.startswith(("image.", "text.")) for name in unlike)
        self.load_state_dict({name: theirs[name] if name in theirs and (alike or name.startswith(shared)) else value
                              for name, value in mine.items()})

    # ------------------------------------------------------------------------------------------------- network

    @property
    def towers(self) -> list[nn.Module]:
        """Those that are inside."""
        return [tower for tower in (self.image, self.text) if tower is not None]

    @property
    def paced(self) -> list[nn.Module]:
        """What learns at the rate of an encoder: towers inside and the projections behind them, as in the release."""
        projections = [part for part in (self.video, self.text_projection) if part is not None]
        return [*self.towers, *projections] if self.towers else []

    def views(self, features: Features) -> list[Features]:
        """The whole video as N frames, or windows of N frames at each rate; a part shorter than that is as it is.

        Raises:
            DataError: the features have no row, or their video no length.
        """
        c = self.config
        spans.refuse_empty(features)
        if c.span == "video":
            return [_evenly(features, c.frames, c.sampling)]
        hop = max(c.frames - round(c.overlap * c.frames), 1)
        seen = [_every(features, step, c.sampling) for step in c.steps] or [features]
        return [view for rate in seen for view in spans.windows(rate, c.frames, hop)]

    def one_hot(self, names: Sequence[str]) -> list[Tensor]:
        """What reads class names where nothing else does (``fusion = "none"``): ``(1, classes)`` of each.

        Raises:
            CallError: a name that it was not trained on.
        """
        strange = next((name for name in names if name not in self.classes), None)
        if strange is not None:
            raise unknown("class", strange, self.classes)
        index = torch.tensor([self.classes.index(name) for name in names], dtype=torch.int64)
        return list(F.one_hot(index, len(self.classes)).float()[:, None])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """How well each point answers each question; what padded ones say means nothing.

        Returns:
            ``"logits"`` ``(P, K)``, of frames ``(P, T)`` without a pyramid, ``(P, 1)`` of classification; and
            ``"offsets"`` ``(P, K, 2)`` distances to start and end, not negative, in strides of the point's level, where
            there are any. There is one pair for each question, but in training of retrieval (``pairs = "all"``)
            ``P = Q B``: question ``p // B`` and row ``p % B``. With ``top``, what was not asked has the logit -100.
            With ``similarity_weight``, also ``"similarity"`` ``(Q,)``, a logit.

        Raises:
            CallError: the batch asks nothing.
            ModelError: features or words are wider or narrower than the network's, or there are more than N frames.
        """
        c = self.config
        features, words, word_mask, about = self._read(batch)
        video, mask = self.video(features), batch.mask
        rows, questions = _pairs(len(features), about, self._crossed and self.training)
        found: dict[str, Tensor] = {}
        vector = self._vector(words, word_mask)
        if c.tokens == "one":
            words, word_mask = vector[:, None], word_mask.any(dim=1, keepdim=True)
        kept = None
        if c.fusion != "none" and (c.similarity_weight or 0 < c.top < len(about)):
            cosine = _cosine(video, mask, vector, about)
            if c.similarity_weight:
                found["similarity"] = cosine * self.sharpness.exp() + self.prior
            if c.top and not self.training:
                kept = _best_of_each(cosine, about, c.top)
                rows, questions = rows[kept], questions[kept]
        where = sinusoids(c.frames + words.shape[1], c.width, video.device).to(self.video.weight.dtype)
        video = video + where[:features.shape[1]]
        if c.fusion == "mid":
            logits, offsets = self._asked(video, mask, words + where[c.frames:], word_mask, rows, questions)
        else:
            logits, offsets = self._compared(video, mask, vector, rows, questions)
        if kept is not None:
            logits = logits.new_full((len(about), *logits.shape[1:]), _NEVER).index_copy(0, kept, logits)
            if offsets is not None:
                offsets = offsets.new_zeros((len(about), *offsets.shape[1:])).index_copy(0, kept, offsets)
        found["logits"] = logits
        if offsets is not None:
            found["offsets"] = offsets
        return found

    # ------------------------------------------------------------------------------------------------- training

    def targets(self, batch: Batch) -> Targets:
        """Truth in seconds to what each question's own row should say; padded points are never positive.

        Truth is cut where a window is cut from its video, and left out where less than half of it remains.

        Raises:
            CallError: the batch has no truth, or not one for each question.
        """
        c = self.config
        if batch.truth is None or batch.about is None or len(batch.truth) != len(batch.about):
            raise CallError("a loss needs truth; collate the batch with the segments that answer each question.")
        device, length = batch.features.device, batch.mask.shape[1]
        most = max((len(segments) for segments in batch.truth), default=0)
        at = np.zeros((len(batch.truth), most, 2), np.float32)
        there = np.zeros((len(batch.truth), most), bool)
        for number, (row, truth) in enumerate(zip(batch.about.tolist(), batch.truth, strict=True)):
            inside, enough = spans.shown(batch.grids[row], times(truth))
            at[number, :len(truth)] = inside
            there[number, :len(truth)] = enough & (inside[:, 1] > inside[:, 0])
        segments, known = torch.from_numpy(at).to(device), torch.from_numpy(there).to(device)
        if c.task == "classify":
            answers = known.any(dim=1, keepdim=True)
            return Targets(answers.float(), segments.new_zeros(len(answers), 1, 2))
        if c.boxes:
            points = pyramid_points(length, c.ranges, device)
            positive, offsets = nearest_targets(points, segments - 0.5, known, c.radius)
        else:
            middle = torch.arange(length, device=device)[:, None] + 0.5
            inside_one = (middle >= segments[:, None, :, 0]) & (middle < segments[:, None, :, 1]) & known[:, None]
            positive = inside_one.any(dim=2)
            offsets = segments.new_zeros(*positive.shape, 2)
        positive = positive & self._real(batch)[batch.about]
        return Targets(positive.float(), offsets * positive[..., None])

    def loss(self, out: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``"class"`` and, where there are displacements, ``"box"``: weighted scalars, finite for every batch.

        The class loss is summed over questions and averaged over points (of retrieval, over points and pairs); each
        question counts ``batch.weight`` times. The box loss is averaged over positive points.
        """
        c, target = self.config, self.targets(batch)
        assert batch.about is not None
        about, rows, count = batch.about, len(batch.mask), len(batch.about)
        logits, real = out["logits"].float(), self._real(batch)
        if c.task == "classify":
            real = real.any(dim=1, keepdim=True)
        weight = logits.new_ones(count) if batch.weight is None else batch.weight.to(logits)
        wanted, seen = target.classes, real[about]  # (Q, K) each
        if len(logits) != count:  # every question was asked of every row
            own = F.one_hot(about, rows).bool()  # (Q, B)
            other = _same(batch)[about] & ~own
            seen = (real & ~other[..., None]).flatten(0, 1)
            wanted = (wanted[:, None] * own[..., None]).flatten(0, 1)
            weight = weight.repeat_interleave(rows)
        if c.boxes:
            each = c.alpha * focal_loss(logits, wanted, c.focal_alpha, c.focal_gamma)
        else:
            each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        if c.task == "retrieve":
            points = seen.sum()
        else:  # of each row once, whatever it is asked
            points = real[torch.zeros(rows, device=about.device).index_fill(0, about, 1).bool()].sum()
        losses = {"class": (each * seen * weight[:, None]).sum() / points.clamp(min=1)}
        if c.boxes:
            positive = target.classes > 0
            apart = _box_loss(self._own(out["offsets"], batch).float()[positive], target.offsets[positive], c.box_loss)
            losses["box"] = apart.sum() / positive.sum().clamp(min=1)
        if c.similarity_weight:
            answered = target.classes.amax(dim=1)
            entropy = F.binary_cross_entropy_with_logits(out["similarity"].float(), answered, reduction="none")
            share = logits.new_ones(count) if batch.weight is None else batch.weight.to(logits)
            losses["similarity"] = c.similarity_weight * (entropy * share).sum() / share.sum().clamp(min=1)
        return losses

    # ------------------------------------------------------------------------------------------------ inference

    @torch.no_grad()
    def decode(self, out: dict[str, Tensor], batch: Batch) -> list[list[Segment]]:
        """Candidates of each question, best first, in seconds inside the video, before suppression.

        Segmentation lets all questions that the batch asks of a row compete, frame by frame; classification answers
        with the whole video.
        """
        assert batch.about is not None
        c, about = self.config, batch.about
        logits = self._own(out["logits"], batch).float()
        if c.task == "classify":
            found = zip(about.tolist(), logits[:, 0].sigmoid().tolist(), strict=True)
            return [[Segment(0.0, batch.durations[row], score=s)] for row, s in found]
        if c.task == "segment":
            return self._runs(logits, batch)
        length = batch.mask.shape[1]
        points = pyramid_points(length, c.ranges, logits.device)
        asked = (self._real(batch) & _answering(batch, points))[about] & (logits > _NEVER)
        if c.task == "localize":
            asked &= logits.sigmoid() >= c.threshold
        scores, order = torch.where(asked, logits.double().sigmoid(), -1.0).sort(dim=1, descending=True, stable=True)
        reach = self._own(out["offsets"], batch).double() * points.stride[:, None]
        at = points.position.double() + 0.5
        around = torch.stack([at - reach[..., 0], at + reach[..., 1]], dim=2)
        placed = around.gather(1, order[..., None].expand(-1, -1, 2)).cpu().numpy()
        counts, values = asked.sum(dim=1).tolist(), scores.cpu().numpy()
        answers = []
        for number, row in enumerate(about.tolist()):
            n = counts[number]
            seconds = np.clip(batch.grids[row].seconds(placed[number, :n]), 0.0, batch.durations[row])
            kept = seconds[:, 1] > seconds[:, 0]
            answers.append([Segment(a, b, score=s) for (a, b), s in
                            zip(seconds[kept].tolist(), values[number, :n][kept].tolist(), strict=True)])
        return answers

    @torch.no_grad()
    def saliency(self, out: dict[str, Tensor], batch: Batch) -> Tensor:
        """How well each frame answers each question: ``(Q, T)`` in [0, 1], 0 at padding (highlights).

        Where frames are what is scored, these scores. Where points answer with segments, the geometric mean of two: the
        score of the best segment around the frame, and that of the best point, of any level, that stands for it.
        (Neither paper nor release says how. Level 0 alone, whose points are never positive for longer moments, ranks
        frames worse.)

        Raises:
            CallError: the task is to classify, which frames have no score for.
        """
        assert batch.about is not None
        c, length = self.config, batch.mask.shape[1]
        if c.task == "classify":
            raise CallError("this localizer was trained to classify whole videos, and scores no frames.")
        scores = self._own(out["logits"], batch).float().sigmoid() * self._real(batch)[batch.about]
        if c.boxes:
            points = pyramid_points(length, c.ranges, scores.device)
            stands = torch.stack([level.repeat_interleave(2**number, dim=1)[:, :length] for number, level in
                                  enumerate(scores.split(level_sizes(length, c.levels), dim=1))]).amax(dim=0)
            reach = self._own(out["offsets"], batch).float() * points.stride[:, None]
            start, end = points.position + 0.5 - reach[..., 0], points.position + 0.5 + reach[..., 1]
            middle = torch.arange(length, device=scores.device) + 0.5
            around = [(s[..., None] * ((middle >= a[..., None]) & (middle <= b[..., None]))).amax(dim=1) for s, a, b in
                      zip(scores.split(c.chunk), start.split(c.chunk), end.split(c.chunk), strict=True)]
            scores = (torch.cat(around) * stands).sqrt() if around else stands
        return scores * batch.mask[batch.about]

    def select(self, candidates: list[Segment]) -> list[Segment]:
        """The answer for one video, or one sentence, from the candidates of all its views and questions.

        Soft-NMS of all together, or of each label by itself; of segmentation, what touches in time is one.
        """
        c = self.config
        if c.task == "segment":
            return _joined(candidates)[:c.keep]
        if c.task == "classify":
            return sorted(candidates, key=lambda s: -(s.score or 0.0))[:c.keep]
        where, scores, labels = columns(candidates)
        order, left = soft_nms(where, scores, 2 * c.sigma, keep=c.keep, floor=c.threshold,
                               videos=labels if c.classwise else None)
        best = np.argsort(-left, kind="stable")
        return [replace(candidates[i], score=value)
                for i, value in zip(order[best].tolist(), left[best].tolist(), strict=True)]

    # -------------------------------------------------------------------------------------------------- private

    @property
    def _crossed(self) -> bool:
        return self.config.task == "retrieve" and self.config.pairs == "all"

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features ``(B, T, C)``, words ``(Q, W, d)`` and their mask, and the row of each question."""
        c = self.config
        frames, tokens, features, sentences = batch.frames, batch.tokens, batch.features, batch.sentences
        if sentences is None or batch.about is None:
            raise CallError("UnLoc answers questions, and the batch asks none; give each row classes or a query, and "
                            "what reads them.")
        if self.image is not None and frames is not None:
            features = self.image(frames)
            features = features.detach() if c.freeze_image else features
        words, mask = sentences.words, sentences.mask
        if self.text is not None and tokens is not None:
            words = self.text(tokens, mask)
            words = words.detach() if c.freeze_text else words
        if features.shape[2] != self.dim:
            raise ModelError(f"this localizer was made for features of width {self.dim}, these have width "
                             f"{features.shape[2]}; extract them with the encoder it was trained on.")
        if features.shape[1] > c.frames:
            raise ModelError(f"this localizer sees {c.frames} frames at once, got {features.shape[1]}; cut the "
                             "features with its views().")
        width = len(self.classes) if c.fusion == "none" else c.text_dim
        if words.shape[2] != width:
            raise ModelError(f"this localizer reads words of width {width}, these have width {words.shape[2]}; read "
                             "the questions with what it was trained on.")
        return features, words if self.text_projection is None else self.text_projection(words), mask, batch.about

    def _vector(self, words: Tensor, mask: Tensor) -> Tensor:
        """What stands for each whole question, ``(Q, d)``: its last word, its first, or the mean of all."""
        if self.config.pooling == "first":
            return words[:, 0]
        if self.config.pooling == "mean":
            return (words * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return words[torch.arange(len(words), device=words.device), (mask.sum(dim=1) - 1).clamp(min=0)]

    def _asked(self, video: Tensor, mask: Tensor, words: Tensor, word_mask: Tensor, rows: Tensor, questions: Tensor
               ) -> tuple[Tensor, Tensor | None]:
        """Each pair through the network, some at a time; frames and words are looked at once."""
        c = self.config
        first = self.blocks[0]
        assert isinstance(first, TransformerBlock)
        seen, read = first.project(video), first.project(words)
        # attention is faster where it is told that nothing is padded
        whole = bool(mask.all()) and bool(word_mask.all())
        again = c.recompute and self.training and torch.is_grad_enabled()
        logits, offsets, total = [], [], None
        for chosen in torch.arange(len(rows), device=rows.device).split(c.chunk):
            given = (video, mask, words, word_mask, rows[chosen], questions[chosen], seen, read, whole)
            if again:
                part: tuple[Tensor, Tensor | None, Tensor | None] = checkpoint(self._some, *given, use_reentrant=False)
            else:
                part = self._some(*given)
            logits.append(part[0])
            if part[1] is not None:
                offsets.append(part[1])
            if part[2] is not None:
                total = part[2].new_zeros(len(video), *part[2].shape[1:]) if total is None else total
                total = total.index_add(0, rows[chosen], part[2])
        found = torch.cat(logits)
        if total is None:
            return found, torch.cat(offsets) if offsets else None
        # one displacement for all that a row is asked
        count = torch.bincount(rows, minlength=len(video)).clamp(min=1)
        levels = (total / count[:, None, None]).split(level_sizes(mask.shape[1], c.levels), dim=1)
        return found, self._offsets(list(levels), mask)[rows]

    def _some(self, video: Tensor, mask: Tensor, words: Tensor, word_mask: Tensor, rows: Tensor, questions: Tensor,
              seen: Heads, read: Heads, whole: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Logits of some pairs, and their offsets or their levels."""
        c = self.config
        x = torch.cat([video[rows], words[questions]], dim=1)
        query, key, value = (torch.cat([a[rows], b[questions]], dim=2) for a, b in zip(seen, read, strict=True))
        real = mask[rows]
        levels = self._levels(x, real, word_mask[questions], (query, key, value), whole)
        logits = self._logits(levels, real)
        if not c.boxes:
            return logits, None, None
        if c.per_class:
            return logits, self._offsets(levels, real), None
        return logits, None, torch.cat(levels, dim=1)

    def _levels(self, x: Tensor, mask: Tensor, word_mask: Tensor | None, projected: Heads | None, whole: bool
                ) -> list[Tensor]:
        """Frames ``(P, T, d)`` and what stands behind them through the blocks and the pyramid: every level's."""
        c, length = self.config, mask.shape[1]
        levels: list[Tensor] = []
        masks = [mask[:, ::2**level] for level in range(c.levels)]
        here = mask
        for number, block in enumerate(self.blocks):
            last = number == c.layers - 1
            keys = None
            if not whole:
                keys = here if word_mask is None else torch.cat([here, word_mask], dim=1)
                keys = keys | ~keys.any(dim=1, keepdim=True)  # a softmax over nothing would be NaN
            x = block(x, keys, here.shape[1] if last else None, projected)
            projected = None
            if c.pyramid == "fpn" and number >= c.layers - c.levels:
                frames = x[:, :here.shape[1]]
                levels.append(frames * here[..., None])
                if not last:
                    halved = paired_max(frames, here)
                    here = masks[len(levels)]
                    x = torch.cat([halved, x[:, frames.shape[1]:]], dim=1)
        if self.norm is not None:
            return [self.norm(x) * mask[..., None]]
        if c.pyramid == "fpn":
            for level in reversed(range(c.levels - 1)):
                below = levels[level + 1].repeat_interleave(2, dim=1)[:, :levels[level].shape[1]]
                levels[level] = (levels[level] + below) * masks[level][..., None]
            return [stage(y, m) for stage, y, m in zip(self.pyramid, levels, masks, strict=True)]
        x = x[:, :length] * mask[..., None]
        for stage, m in zip(self.pyramid, masks, strict=True):
            x = stage(x, m)
            levels.append(x)
        return levels

    def _logits(self, levels: list[Tensor], mask: Tensor) -> Tensor:
        logits = _headed(self.class_head, levels, mask)[..., 0]
        return self._pooled(logits, mask) if self.config.task == "classify" else logits

    def _pooled(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The mean of real frames' logits: ``(P, T)`` to ``(P, 1)``."""
        return (logits * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)

    def _offsets(self, levels: list[Tensor], mask: Tensor) -> Tensor:
        """``(P, K, 2 n)``, not negative."""
        raw = _headed(self.offset_head, levels, mask)
        if self.config.shared_heads:
            sizes = torch.tensor(level_sizes(mask.shape[1], self.config.levels), device=raw.device)
            raw = raw * self.scale.repeat_interleave(sizes)[:, None] + self.shift.repeat_interleave(sizes)[:, None]
        return F.relu(raw)

    def _compared(self, video: Tensor, mask: Tensor, vectors: Tensor, rows: Tensor, questions: Tensor
                  ) -> tuple[Tensor, Tensor | None]:
        """Frames are finished without the question; it is compared with them at the end, or picks its class."""
        c = self.config
        levels = self._levels(video, mask, None, None, bool(mask.all()))
        offsets = None
        if c.fusion == "late":
            finished = F.normalize(_headed(self.class_head, levels, mask, features=True).float(), dim=2)  # (B, K, d)
            weights = F.normalize(vectors.float(), dim=1) * self.temperature.exp()
            logits = torch.cat([torch.bmm(finished[a], weights[b][..., None])[..., 0]
                                for a, b in zip(rows.split(c.chunk), questions.split(c.chunk), strict=True)])
            logits = logits + self.class_bias
            if c.boxes:
                offsets = self._offsets(levels, mask)[rows]
        else:
            known = vectors.argmax(dim=1)[questions]
            logits = _headed(self.class_head, levels, mask)[rows, :, known]
            if c.boxes:
                each = self._offsets(levels, mask).unflatten(2, (-1, 2))  # (B, K, classes or 1, 2)
                offsets = each[rows, :, known if c.per_class else torch.zeros_like(known)]
        return (self._pooled(logits, mask[rows]) if c.task == "classify" else logits), offsets

    def _real(self, batch: Batch) -> Tensor:
        """``(B, K)`` bool: points that stand on a real frame."""
        return torch.cat([batch.mask[:, ::2**level] for level in range(self.config.levels)], dim=1)

    def _own(self, said: Tensor, batch: Batch) -> Tensor:
        """What each question's own row says, ``(Q, …)``, where questions were asked of every row."""
        assert batch.about is not None
        count = len(batch.about)
        if len(said) == count:
            return said
        return said.unflatten(0, (count, len(batch.mask)))[torch.arange(count, device=said.device), batch.about]

    def _runs(self, logits: Tensor, batch: Batch) -> list[list[Segment]]:
        """Runs of frames whose best question is the same and good enough, of each question, best first."""
        assert batch.about is not None
        length = batch.mask.shape[1]
        points = pyramid_points(length, ((0.0, 1.0),), logits.device)
        mask = (batch.mask & _answering(batch, points)).cpu().numpy()
        about, all_logits = batch.about.cpu().numpy(), logits.cpu().numpy()
        scores = logits.double().sigmoid().cpu().numpy()
        answers: list[list[Segment]] = [[] for _ in about]
        for row, grid in enumerate(batch.grids):
            mine = np.flatnonzero(about == row)
            if not len(mine):
                continue
            best = all_logits[mine].argmax(axis=0)
            on = mask[row] & (all_logits[mine].max(axis=0) > self.config.background)
            best = np.where(on, best, -1)
            edges = np.flatnonzero(np.diff(best, prepend=-2, append=-2))
            for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                start, end = np.clip(grid.seconds(np.array([a, b])), 0.0, batch.durations[row]).tolist()
                if best[a] >= 0 and end > start:
                    number = mine[best[a]]
                    answers[number].append(Segment(start, end, score=scores[number, a:b].mean()))
        return [sorted(found, key=lambda s: -(s.score or 0.0)) for found in answers]


# -------------------------------------------------------------------------------------------------------- what is seen


def _evenly(features: Features, count: int, how: str) -> Features:
    """The whole video as ``count`` frames: the nearest to even places from the first row to the last, or means."""
    grid = features.grid
    if how == "mean" or grid.count == 1:
        return _taken(features, Grid.over(0.0, features.duration, count), how)
    step = grid.step * (grid.count - 1) / (count - 1)
    index = np.linspace(0, grid.count - 1, count).astype(np.int64)
    target = Grid(grid.seconds(0.5) - step / 2, step, count, grid.window)
    return Features(features.data[index].astype(np.float32), target, features.duration)


def _every(features: Features, step: float, how: str) -> Features:
    """The video as one frame every ``step`` seconds."""
    count = max(math.ceil(features.duration / step - 1e-6), 1)
    return _taken(features, Grid(0.0, step, count, features.grid.window), how)


def _taken(features: Features, target: Grid, how: str) -> Features:
    """The rows around the centres of ``target``'s cells, or the means of those whose centres are inside."""
    grid, rows = features.grid, features.grid.count
    nearest = np.floor(grid.position(target.centres)).clip(0, rows - 1).astype(np.int64)
    data = features.data.astype(np.float32)
    if how == "nearest":
        return Features(data[nearest], target, features.duration)
    edges = np.ceil(grid.position(target.seconds(np.arange(target.count + 1))) - 0.5 - 1e-6)  # the first row's inside
    edges = edges.clip(0, rows).astype(np.int64)
    first, count = np.minimum(edges[:-1], rows - 1), np.diff(edges)[:, None]
    stop = max(int(edges[-1]), int(first[-1]) + 1)
    sums = np.add.reduceat(data[:stop], first, axis=0)
    return Features(np.where(count > 0, sums / np.maximum(count, 1), data[nearest]).astype(np.float32), target,
                    features.duration)


# ------------------------------------------------------------------------------------------------------------ the pairs


def _pairs(rows: int, about: Tensor, crossed: bool) -> tuple[Tensor, Tensor]:
    """The row and the question of each pair: every question with its own row, or with every row."""
    each = torch.arange(len(about), device=about.device)
    if not crossed:
        return about, each
    return torch.arange(rows, device=about.device).repeat(len(about)), each.repeat_interleave(rows)


def _same(batch: Batch) -> Tensor:
    """``(B, B)`` bool: rows that show the same."""
    told = torch.stack([batch.features.double().sum(dim=(1, 2)), batch.features.double().square().sum(dim=(1, 2)),
                        batch.mask.sum(dim=1).double()], dim=1)
    return (told[:, None] == told).all(dim=2)


def _cosine(video: Tensor, mask: Tensor, vectors: Tensor, about: Tensor) -> Tensor:
    """``(Q,)``: the cosine of each question's vector ``(Q, d)`` with the frame of its row that is most like it."""
    frames, vectors = F.normalize(video.float(), dim=2), F.normalize(vectors.float(), dim=1)
    best = vectors.new_zeros(len(vectors))
    for row in range(len(frames)):
        mine = (about == row).nonzero()[:, 0]
        alike = (vectors[mine] @ frames[row].T).masked_fill(~mask[row], -1.0)
        best = best.index_copy(0, mine, alike.amax(dim=1))
    return best


def _best_of_each(score: Tensor, about: Tensor, most: int) -> Tensor:
    """Indices, rising, of the ``most`` highest scores of each row."""
    order = score.argsort(descending=True, stable=True)
    order = order[about[order].argsort(stable=True)]
    counts = torch.bincount(about)
    rank = torch.arange(len(about), device=about.device) - (counts.cumsum(0) - counts)[about[order]]
    return order[rank < most].sort().values


def _text_projection(dim: int, width: int) -> nn.Linear:
    layer = nn.Linear(dim, width, bias=False)
    if dim == width:
        nn.init.eye_(layer.weight)
        return layer
    return begin(layer)


# ------------------------------------------------------------------------------------------------- levels and points


def _headed(heads: nn.ModuleList, levels: list[Tensor], mask: Tensor, features: bool = False) -> Tensor:
    """What the head, or each level's own, says of every point: ``(P, K, O)``; with ``features``, before its last layer.

    One head reads all levels as one sequence, with an empty position between them that no convolution reaches across.
    """
    asked = [head for head in heads if isinstance(head, ConvHead)]
    say = [head.features if features else head for head in asked]
    masks = [mask[:, ::2**level] for level in range(len(levels))]
    if len(say) == len(levels):
        return torch.cat([one(x, m) for one, x, m in zip(say, levels, masks, strict=True)], dim=1)
    gap, off = levels[0].new_zeros(len(mask), 1, levels[0].shape[2]), mask.new_zeros(len(mask), 1)
    row = torch.cat([part for x in levels for part in (x, gap)], dim=1)
    real = torch.cat([part for m in masks for part in (m, off)], dim=1)
    there = torch.cat([torch.arange(m.shape[1] + 1, device=mask.device) < m.shape[1] for m in masks])
    return say[0](row, real)[:, there]


def _answering(batch: Batch, points: Points) -> Tensor:
    """``(B, K)`` bool: points that answer, of a window that others overlap."""
    answers = torch.ones(len(batch.grids), len(points.position), dtype=torch.bool, device=points.position.device)
    for row, grid in enumerate(batch.grids):
        if isinstance(grid, spans.Window):
            answers[row] = (points.position >= grid.first) & (points.position < grid.stop)
    return answers


def _box_loss(offsets: Tensor, target: Tensor, kind: str) -> Tensor:
    """``(n, 2)`` displacements from points that are inside to ``(n,)``."""
    if kind == "diou":
        return distance_iou_loss(offsets, target)
    if kind == "l1_plain":
        return (offsets - target).abs().sum(dim=1)
    normalised = (offsets - target).abs().sum(dim=1) / (torch.maximum(offsets, target).sum(dim=1) + 1e-6)
    if kind == "l1":
        return normalised
    return iou_loss(offsets, target) + (normalised if kind == "l1+iou" else 0.0)


def _joined(candidates: Sequence[Segment]) -> list[Segment]:
    """Segments of one label that touch are one; its score is the mean over time. Best first."""
    joined: list[Segment] = []
    for segment in sorted(candidates, key=lambda s: (s.label or "", s.start)):
        last = joined[-1] if joined else None
        if last is None or last.label != segment.label or segment.start > last.end + 1e-6:
            joined.append(segment)
            continue
        total = last.duration + segment.duration
        score = ((last.score or 0.0) * last.duration + (segment.score or 0.0) * segment.duration) / total
        joined[-1] = Segment(last.start, max(last.end, segment.end), last.label, score)
    return sorted(joined, key=lambda s: -(s.score or 0.0))


# ----------------------------------------------------------------------------------------------- released weights

_HEADS = ("temporal_localization_head", "moment_retrieval_head", "highlight_detection_head", "action_segmentation_head")


def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the released code (github.com/google-research/scenic, projects/unloc) as ours.

    No checkpoint was ever released, only what trains one. Its settings are those of the class methods of
    :class:`Config`, with ``text_dim`` the width inside the text tower.

    Args:
        state: the parameters by their Flax names, joined by ``/``, with one task's head. The towers may be among them;
            they become those of :attr:`UnLoc.image` (a :class:`cuemark.encoders.clip.Frames`) and :attr:`UnLoc.text`,
            whose own projection is then none, as the release's comes after it.

    Raises:
        ModelError: weights are missing, too many or of another shape.
    """
    state = {name.removeprefix("params/"): value for name, value in state.items()}
    theirs = Layout(state, "UnLoc")
    fusion = "video_text_fusion/video_text_encoder"
    ours = {"video.weight": _turned(theirs.take("video_projection/kernel", 2))}
    if "text_projection/kernel" in state:  # none where texts were embedded beforehand
        ours["text_projection.weight"] = _turned(theirs.take("text_projection/kernel", 2))
    for layer in range(max(theirs.count(f"{fusion}/encoderblock_{{}}/LayerNorm_0/scale"), 1)):
        block = f"{fusion}/encoderblock_{layer}"
        ours |= _block(theirs, f"blocks.{layer}", f"{block}/LayerNorm_0", f"{block}/MultiHeadAttention_0",
                       f"{block}/LayerNorm_1", (f"{block}/MlpBlock_0/Dense_0", f"{block}/MlpBlock_0/Dense_1"),
                       ("attention.q", "attention.k", "attention.v", "attention.out", "mlp.0", "mlp.2"))
        del ours[f"blocks.{layer}.attention.k.bias"]  # a softmax takes it out
    for level in range(theirs.count(f"{fusion}/output_conv_{{}}/kernel")):
        kernel = theirs.take(f"{fusion}/output_conv_{level}/kernel", 3)  # (3, 1, d)
        ours |= {f"pyramid.{level}.conv.weight": kernel.squeeze(1),
                 f"pyramid.{level}.conv.bias": theirs.take(f"{fusion}/output_conv_{level}/bias"),
                 **_norm(theirs, f"{fusion}/output_ln_{level}", f"pyramid.{level}.norm")}
    head = next((name for name in _HEADS if any(key.startswith(f"{name}/") for key in state)), _HEADS[0])
    if head == "action_segmentation_head":
        ours |= {**_norm(theirs, f"{fusion}/encoder_norm", "norm"),
                 **_dense(theirs, f"{head}/output_projection", "class_head.0.out")}
    else:
        for name, our in (("ClassificationHead", "class_head"), ("RegressionHead", "offset_head")):
            apart = theirs.count(f"{head}/{name}_{{}}/output_projection/kernel")
            for level in range(max(apart, 1)):
                ours |= _head(theirs, f"{head}/{name}_{level}" if apart else f"{head}/{name}", f"{our}.{level}")
        levels = theirs.count(f"{head}/scale_{{}}")
        if levels:  # of heads that all levels share
            for name in ("scale", "shift"):
                ours[name] = torch.cat([theirs.take(f"{head}/{name}_{level}", 1) for level in range(levels)])
    if "video_encoder/conv1/kernel" in state:
        ours |= _image(theirs, "video_encoder/class_embedding" in state)
    if "text_encoder/token_embedding/embedding" in state:
        ours |= _text(theirs)
    theirs.end()
    return ours


def _turned(kernel: Tensor) -> Tensor:
    """Flax has inputs first and outputs last, PyTorch outputs first: ``(I, O)`` and ``(3, I, O)``."""
    return kernel.permute(*reversed(range(kernel.ndim))).contiguous()


def _dense(theirs: Layout, name: str, ours: str) -> dict[str, Tensor]:
    return {f"{ours}.weight": _turned(theirs.take(f"{name}/kernel")), f"{ours}.bias": theirs.take(f"{name}/bias")}


def _norm(theirs: Layout, name: str, ours: str) -> dict[str, Tensor]:
    return {f"{ours}.weight": theirs.take(f"{name}/scale", 1), f"{ours}.bias": theirs.take(f"{name}/bias", 1)}


def _head(theirs: Layout, name: str, ours: str) -> dict[str, Tensor]:
    found = _dense(theirs, f"{name}/output_projection", f"{ours}.out")
    for layer in range(theirs.count(f"{name}/conv{{}}/kernel")):
        found |= {**_norm(theirs, f"{name}/ln{layer}", f"{ours}.layers.{layer}.norm"),
                  **_dense(theirs, f"{name}/conv{layer}", f"{ours}.layers.{layer}.conv")}
    return found


def _block(theirs: Layout, ours: str, norm1: str, attention: str, norm2: str, mlp: tuple[str, str],
           names: tuple[str, ...]) -> dict[str, Tensor]:
    """A transformer block; ``names`` are ours of query, key, value, output and the perceptron's two layers."""
    found = {**_norm(theirs, norm1, f"{ours}.norm1"), **_norm(theirs, norm2, f"{ours}.norm2")}
    for name, our in zip(("query", "key", "value"), names, strict=False):  # (d, heads, d / heads), and without the d
        kernel, bias = theirs.take(f"{attention}/{name}/kernel", 3), theirs.take(f"{attention}/{name}/bias", 2)
        found |= {f"{ours}.{our}.weight": _turned(kernel.flatten(1)), f"{ours}.{our}.bias": bias.flatten()}
    found |= {f"{ours}.{names[3]}.weight": _turned(theirs.take(f"{attention}/out/kernel", 3).flatten(0, 1)),
              f"{ours}.{names[3]}.bias": theirs.take(f"{attention}/out/bias", 1)}
    return found | _dense(theirs, mlp[0], f"{ours}.{names[4]}") | _dense(theirs, mlp[1], f"{ours}.{names[5]}")


def _tower(theirs: Layout, name: str, ours: str) -> dict[str, Tensor]:
    """CLIP's blocks."""
    found: dict[str, Tensor] = {}
    for layer in range(max(theirs.count(f"{name}/transformer/resblocks.{{}}/ln_1/scale"), 1)):
        block = f"{name}/transformer/resblocks.{layer}"
        found |= _block(theirs, f"{ours}.blocks.{layer}", f"{block}/ln_1", f"{block}/attn", f"{block}/ln_2",
                        (f"{block}/mlp/c_fc", f"{block}/mlp/c_proj"),
                        ("query", "key", "value", "out", "inner", "outer"))
    return found


def _image(theirs: Layout, tokens: bool) -> dict[str, Tensor]:
    """The image tower, with a token for each frame or with none."""
    within, ours = "video_encoder/VisionTransformer", "image.tower"
    kernel = theirs.take("video_encoder/conv1/kernel", 2)  # (side * side * 3, width)
    side = math.isqrt(len(kernel) // 3)
    found = {f"{ours}.patch.weight": kernel.unflatten(0, (side, side, 3)).permute(3, 2, 0, 1).contiguous(),
             f"{ours}.position": theirs.take(f"{within}/positional_embedding", 2),
             **_norm(theirs, f"{within}/ln_pre", f"{ours}.before"),
             **_norm(theirs, f"{within}/ln_post", f"{ours}.after")}
    if tokens:
        found[f"{ours}.cls"] = theirs.take("video_encoder/class_embedding", 2)
    return found | _tower(theirs, within, ours)


def _text(theirs: Layout) -> dict[str, Tensor]:
    """The text tower."""
    name, ours = "text_encoder", "text"
    token = theirs.take(f"{name}/token_embedding/embedding", 2)
    return {f"{ours}.token.weight": token, f"{ours}.position": theirs.take(f"{name}/positional_embedding", 2),
            f"{ours}.projection.weight": torch.eye(token.shape[1], dtype=token.dtype, device=token.device),
            **_norm(theirs, f"{name}/ln_final", f"{ours}.after"), **_tower(theirs, name, ours)}
