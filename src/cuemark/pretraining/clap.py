"""CLAP: contrastive language-action pre-training (Xu, Gundogdu, Lapin, Ghanem, Donoser, Bazzani, ECCVW 2022).

Each clip comes with a sentence: its temporally closest dense caption, or "foreground of <action>" / "background of
<action>". Clips and sentences are contrasted in both directions; pairs of background are *masked*: they stay in the
denominators as negatives but are not pulled together, since backgrounds look alike and captions seldom describe them.
TSP's two classifiers, without the global video feature, are trained beside it.

Dataflow::

    clips (B,3,T,H,W) -> encoder -> h_v (B,F) -> BatchNorm, linear -> z_v (B,P)     equation 1
    sentences         -> frozen  -> h_t (B,E) -> BatchNorm, linear -> z_t (B,P)     equation 2
    z_v z_t' / tau (B,B) -> InfoNCE of rows and of columns, over foreground pairs   equations 4, 5
    h_v -> linear -> class logits (B,K); h_v -> linear -> region logits (B,2)       equation 6
    loss = contrast + class + region                                                section 3.4

The projections are dropped for localization: features are h_v. Equations 3 and 5 lack the minus sign that makes them
losses; it is here. No code was released. What the paper leaves open is a field of :class:`Config` marked *our choice*:
the temperature, normalisation, sum or mean over pairs, the weight between the losses, and what becomes of two clips of
a batch that carry the same sentence. Negatives are those of the whole batch, over all processes and chunks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cuemark.batch import ClipBatch
from cuemark.encoders.resnet3d import ResNet3D
from cuemark.errors import DataError, within
from cuemark.nn.heads import Projection, correct, labelled_cross_entropy, linear_head


@dataclass(frozen=True)
class Config:
    """Section 3; the defaults are the full CLAP."""

    mask: bool = True
    """Equation 5: only foreground pairs are pulled together. False is equation 3, all pairs."""
    captions: bool = True
    """Clips take their dense caption with probability ``sampling.p_caption``; False: prompts only."""
    background_captions: bool = True
    """False is the paper's dagger: background clips always carry their prompt."""
    classify: bool = True
    """Equation 6 beside the contrast; False is "no-cls"."""
    projection: int = 512
    """Width of the shared space (section 4.1)."""
    text_dim: int = 768
    """Width of the frozen text encoder's vectors (BERT's CLS)."""
    temperature: float = 0.07
    """Tau of equation 4 (our choice)."""
    learn_temperature: bool = False
    """Learn log(1 / tau), starting from ``temperature``, as CLIP does (our choice: fixed)."""
    normalise: bool = True
    """Compare by cosine; equation 4 writes a dot product (our choice)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over the pairs of a batch; the paper writes a sum, which ties the weight to the batch size (our choice)."""
    weight_contrast: float = 1.0
    """Of the contrastive loss beside the classifiers (section 3.4 adds them)."""
    weight_class: float = 1.0
    """Of the class head's loss, TSP's alpha^c; the region head's is 1."""
    same_text: Literal["mask", "positive", "negative"] = "negative"
    """Two clips with one sentence: push the pair apart like any other, leave it out of the denominators, or count it as
    a positive (our choice: like any other, which equation 4 says as written; leaving it out gained nothing)."""
    pairwise: bool = False
    """Beyond the paper: judge every pair by itself, with a sigmoid, a learned temperature (from 0.1) and a learned bias
    (from -10), in place of a softmax over the batch (Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV
    2023). Pairs of background, which do not count, are judged in neither way."""
    weight_motion: float = 0.0
    """Beyond the paper: weight of a target that needs no label, how much each clip's pixels change from frame to frame
    (:func:`motion`, standardised over the batch), predicted by a linear head."""

    def __post_init__(self) -> None:
        within("options.temperature", self.temperature, 1e-6)
        within("options.projection", self.projection, 1)
        within("options.weight_contrast", self.weight_contrast, 0)
        within("options.weight_class", self.weight_class, 0)
        within("options.weight_motion", self.weight_motion, 0)


VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "clip": {"mask": False, "captions": False},
    "mask": {"captions": False},
    "no-cls": {"classify": False},
    "full": {},
    "dagger": {"background_captions": False},
})
"""The rows of CLAP Tables 1 and 2 as changes to :class:`Config`."""


def contrast(video: Tensor, text: Tensor, text_id: Tensor, counts: Tensor, config: Config, scale: Tensor | float
             ) -> Tensor:
    """The masked symmetric InfoNCE of equations 3 to 5.

    Args:
        video, text: ``(B, P)`` projected embeddings; row ``i`` of both is a pair.
        text_id: ``(B,)`` equal where two sentences are the same.
        counts: ``(B,)`` bool: pairs that are pulled together. The others remain negatives.
        scale: 1 / tau.

    Returns:
        A scalar; 0 where no pair counts.
    """
    if config.normalise:
        video, text = F.normalize(video, dim=1), F.normalize(text, dim=1)
    logits = scale * video @ text.T
    pair = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    same = text_id[:, None] == text_id[None, :]
    positive = pair
    if config.same_text == "mask":
        logits = logits.masked_fill(same & ~pair, -torch.inf)
    elif config.same_text == "positive":
        positive = pair | (same & counts[:, None] & counts[None, :])
    weight = positive.float() / positive.sum(1, keepdim=True)
    total = logits.new_zeros(())
    for direction in (logits, logits.T):  # both masks are symmetric
        log_nce = direction.log_softmax(1).masked_fill(~positive, 0.0)
        total = total - ((log_nce * weight).sum(1) * counts).sum()
    return total if config.reduction == "sum" else total / counts.sum().clamp(min=1)


def contrast_pairwise(video: Tensor, text: Tensor, text_id: Tensor, counts: Tensor, config: Config,
                      scale: Tensor | float, bias: Tensor | float) -> Tensor:
    """Sigmoid loss of every pair of a clip and a sentence; the arguments are those of :func:`contrast`.

    A clip's own sentence is its positive, all others are negatives. ``config.same_text`` says what the same sentence
    of another clip is.
    """
    if config.normalise:
        video, text = F.normalize(video, dim=1), F.normalize(text, dim=1)
    logits = scale * video @ text.T + bias
    pair = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    same = text_id[:, None] == text_id[None, :]
    positive = pair | (same & counts[:, None] & counts[None, :]) if config.same_text == "positive" else pair
    judged = ~pair | counts
    if config.same_text == "mask":
        judged = judged & (pair | ~same)
    losses = -F.logsigmoid(torch.where(positive, logits, -logits).float()) * judged
    return losses.sum() if config.reduction == "sum" else losses.sum() / counts.sum().clamp(min=1)


def motion(clips: Tensor) -> Tensor:
    """``(B,)``: logarithm of the mean absolute change from frame to frame of ``(B, 3, T, H, W)`` clips."""
    return clips.diff(dim=2).abs().mean((1, 2, 3, 4), dtype=torch.float32).clamp(min=1e-6).log()


class CLAP(nn.Module):
    """Encoder, projections and classifiers.

    Args:
        config: see :class:`Config`.
        encoder: ``(B,3,T,H,W) -> (B, encoder.dim)``.
        classes: names in the order of the class head's outputs.
    """

    needs_background = True
    needs_text = True
    global_pooling: Literal["max", "mean"] | None = None

    def __init__(self, config: Config, encoder: ResNet3D, classes: Sequence[str]) -> None:
        super().__init__()
        self.config, self.encoder, self.classes = config, encoder, tuple(classes)
        self.project_video = Projection(encoder.dim, config.projection)
        self.project_text = Projection(config.text_dim, config.projection)
        log_scale = torch.tensor(math.log(10.0 if config.pairwise else 1 / config.temperature))
        if config.pairwise:
            self.bias = nn.Parameter(torch.tensor(-10.0))
        if config.weight_motion:
            self.motion_head = linear_head(encoder.dim, 1)
        if config.learn_temperature or config.pairwise:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)
        if config.classify:
            self.class_head = linear_head(encoder.dim, len(self.classes))
            self.region_head = linear_head(encoder.dim, 2)

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        if batch.text is None:
            raise DataError("CLAP needs a sentence with every clip; name a text encoder in the recipe: text = 'bert'.")
        feature = self.encoder(batch.clips)
        out = {"feature": feature, "video": self.project_video(feature), "text": self.project_text(batch.text)}
        if self.config.classify:
            out |= {"class": self.class_head(feature), "region": self.region_head(feature)}
        if self.config.weight_motion:
            out |= {"motion": self.motion_head(feature)[:, 0], "moves": motion(batch.clips)}
        return out

    def loss(self, out: dict[str, Tensor], batch: ClipBatch) -> dict[str, Tensor]:
        assert batch.text_id is not None
        counts = batch.foreground if self.config.mask else torch.ones_like(batch.foreground)
        scale = self.log_scale.exp()
        if isinstance(self.log_scale, nn.Parameter):
            scale = scale.clamp(max=100.0)  # as CLIP's: a learned temperature can run away
        pairs = out["video"], out["text"], batch.text_id, counts, self.config, scale
        contrasted = contrast_pairwise(*pairs, self.bias) if self.config.pairwise else contrast(*pairs)
        losses = {"contrast": self.config.weight_contrast * contrasted}
        if self.config.weight_motion:
            spread = out["moves"].std(correction=0).clamp(min=1e-6)
            target = (out["moves"] - out["moves"].mean()) / spread
            losses["motion"] = self.config.weight_motion * F.mse_loss(out["motion"].float(), target.detach())
        if self.config.classify:
            losses["class"] = self.config.weight_class * labelled_cross_entropy(out["class"], batch.label)
            losses["region"] = labelled_cross_entropy(out["region"], batch.foreground.long())
        return losses

    def accuracy(self, out: dict[str, Tensor], batch: ClipBatch) -> dict[str, tuple[int, int]]:
        """Right and all of each head; without them, clips whose own sentence is the best of the batch."""
        if self.config.classify:
            return {
                "class": correct(out["class"], batch.label),
                "region": correct(out["region"], batch.foreground.long()),
            }
        assert batch.text_id is not None
        best = (F.normalize(out["video"], dim=1) @ F.normalize(out["text"], dim=1).T).argmax(1)
        right = (batch.text_id[best] == batch.text_id) & batch.foreground
        return {"contrast": (int(right.sum()), int(batch.foreground.sum()))}
