"""TAC: trimmed action classification, the pre-training that every other one is compared with and starts from.

The usual recipe for video encoders (Tran et al., "A Closer Look at Spatiotemporal Convolutions", CVPR 2018), as TSP
(Alwassel et al., ICCVW 2021, section 3.1) and CLAP (Xu et al., ECCVW 2022, Table 1) use it: on trimmed clips
("TAC on Kinetics") or on the foreground clips of untrimmed videos ("TAC on ActivityNet"). It never sees background.

Dataflow::

    clips (B,3,T,H,W) -> encoder -> feature (B,F) -> linear -> class logits (B,K) -> cross entropy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from cuemark.batch import ClipBatch
from cuemark.encoders.resnet3d import ResNet3D
from cuemark.nn.heads import correct, labelled_cross_entropy, linear_head


@dataclass(frozen=True)
class Config:
    """TAC has nothing to choose."""


class TAC(nn.Module):
    """Encoder and class head.

    Args:
        config: none to choose.
        encoder: ``(B,3,T,H,W) -> (B, encoder.dim)``.
        classes: names in the order of the head's outputs.
    """

    needs_background = False
    needs_text = False
    global_pooling: Literal["max", "mean"] | None = None

    def __init__(self, config: Config, encoder: ResNet3D, classes: Sequence[str]) -> None:
        super().__init__()
        self.config, self.encoder, self.classes = config, encoder, tuple(classes)
        self.class_head = linear_head(encoder.dim, len(self.classes))

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        feature = self.encoder(batch.clips)
        return {"feature": feature, "class": self.class_head(feature)}

    def loss(self, out: dict[str, Tensor], batch: ClipBatch) -> dict[str, Tensor]:
        return {"class": labelled_cross_entropy(out["class"], batch.label)}

    def accuracy(self, out: dict[str, Tensor], batch: ClipBatch) -> dict[str, tuple[int, int]]:
        """Right and all of each head, for model selection."""
        return {"class": correct(out["class"], batch.label)}
