"""TSP: temporally-sensitive pre-training (Alwassel, Giancola, Ghanem, ICCV Workshops 2021).

The encoder learns two things from every clip: which action it shows, where it shows one, and whether it lies inside
or outside an action. A clip alone hardly knows the second, so the region head also sees the *global video feature*
(GVF): the clip features of the whole video under the encoder before this training, max-pooled, frozen (section 3.3).

Dataflow::

    clips (B,3,T,H,W) -> encoder -> feature f (B,F) -> linear              -> class logits  (B,K)  on foreground
                         GVF (B,F) ----------------+
                         f ------------------------+-> concat -> linear    -> region logits (B,2)  on all
    loss (equation 1) = weight_region * CE(region) + weight_class * CE(class), the second over foreground clips only

Where this differs from the release (HumamAlwassel/TSP):
- region index 1 is foreground, as in the paper's ``y^r``; the release has Action = 0 and No action = 1;
- a batch without foreground costs 0 in the class head; the release returns NaN there;
- every clip is drawn by its own seed; the release's workers all draw the same jitter, again in each epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cuemark.batch import ClipBatch
from cuemark.encoders.resnet3d import ResNet3D
from cuemark.errors import DataError
from cuemark.nn.heads import correct, labelled_cross_entropy, linear_head


@dataclass(frozen=True)
class Config:
    """Equation 1 and the ablations of Tables 1 and 2."""

    global_feature: Literal["max", "mean", "none"] = "max"
    """How the clip features of a video are pooled into the GVF that the region head sees; none: it sees f alone."""
    weight_class: float = 1.0
    """Alpha^c; 0 is "TSP without the action-label head" (Table 2)."""
    weight_region: float = 1.0
    """Alpha^r; 0 is TAC on untrimmed videos (Table 2)."""


class TSP(nn.Module):
    """Encoder, class head and temporal-region head.

    Args:
        config: see :class:`Config`.
        encoder: ``(B,3,T,H,W) -> (B, encoder.dim)``; the GVF has the same width.
        classes: names in the order of the class head's outputs.
    """

    needs_background = True
    needs_text = False

    def __init__(self, config: Config, encoder: ResNet3D, classes: Sequence[str]) -> None:
        super().__init__()
        self.config, self.encoder, self.classes = config, encoder, tuple(classes)
        self.global_pooling: Literal["max", "mean"] | None = (
            None if config.global_feature == "none" else config.global_feature)
        self.class_head = linear_head(encoder.dim, len(self.classes))
        self.region_head = linear_head(encoder.dim * (2 if self.global_pooling else 1), 2)

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        feature = self.encoder(batch.clips)
        context = feature
        if self.global_pooling:
            if batch.global_feature is None:
                raise DataError("TSP's region head needs global video features; give a features folder of the encoder "
                                "it starts from, or set options.global_feature = \"none\".")
            context = torch.cat([feature, batch.global_feature.to(feature.dtype)], dim=1)
        return {"feature": feature, "class": self.class_head(feature), "region": self.region_head(context)}

    def loss(self, out: dict[str, Tensor], batch: ClipBatch) -> dict[str, Tensor]:
        return {
            "class": self.config.weight_class * labelled_cross_entropy(out["class"], batch.label),
            "region": self.config.weight_region * labelled_cross_entropy(out["region"], batch.foreground.long()),
        }

    def accuracy(self, out: dict[str, Tensor], batch: ClipBatch) -> dict[str, tuple[int, int]]:
        """Right and all of each head that is trained, for model selection (section 4.1: the mean of the two)."""
        found = {}
        if self.config.weight_class:
            found["class"] = correct(out["class"], batch.label)
        if self.config.weight_region:
            found["region"] = correct(out["region"], batch.foreground.long())
        return found
