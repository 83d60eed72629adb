"""A video encoder as it is used: network, how it looks at video, and the class head it was trained with, in one file.

The network is a video ResNet, or the image tower of a CLIP, whose clips are single frames. A checkpoint of kind
``encoder`` holds ``network.*`` and, where its objective had one, the linear ``class_head.*``;
its description says the network's and the clips' configuration, the class names, and how it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cuemark import checkpoint
from cuemark.clips import ClipConfig
from cuemark.encoders import clip as images
from cuemark.encoders.clip import ImageTower
from cuemark.encoders.published import load_weights
from cuemark.encoders.resnet3d import Config, ResNet3D
from cuemark.errors import ModelError
from cuemark.settings import build


@dataclass
class VideoEncoder:
    """Clips to features, with everything that says what the features mean."""

    network: ResNet3D | ImageTower
    clip: ClipConfig
    name: str
    """Objective and architecture, for people."""
    classes: tuple[str, ...] = ()
    """Names of the class head's outputs; empty without one."""
    class_head: dict[str, Tensor] = field(default_factory=dict)
    """``weight (K, F)`` and ``bias (K,)``, or empty."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Other parts of the objective that someone may want later (CLAP's projections, CLIP's), by name."""
    made: dict[str, Any] = field(default_factory=dict)
    """Objective, recipe, scores."""

    @property
    def dim(self) -> int:
        """Width of a feature."""
        return self.network.dim

    @property
    def weights(self) -> str:
        """Digest of the network's weights: features from other weights are other features."""
        return checkpoint.digest(self.network.state_dict())

    def to_tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"class_head.{k}": v for k, v in self.class_head.items()}
        return tensors | {f"extra.{k}": v for k, v in self.extra.items()}

    def to_meta(self) -> dict[str, Any]:
        return {"network": asdict(self.network.config), "clip": asdict(self.clip), "name": self.name,
                "classes": list(self.classes), "made": self.made}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], where: str) -> VideoEncoder:
        """The inverse of :meth:`to_tensors` and :meth:`to_meta`; ``where`` names the file in errors."""
        network: ResNet3D | ImageTower
        if meta["network"].get("kind") == "clip":
            network = ImageTower(build(images.Config, meta["network"], where))
        else:
            network = ResNet3D(build(Config, meta["network"], where))
        try:
            network.load_state_dict(checkpoint.section(tensors, "network"))
        except RuntimeError as error:
            raise ModelError(f"the weights in {where} do not fit the encoder it describes "
                             f"({str(error).splitlines()[-1].strip()}).") from None
        return cls(network.eval(), build(ClipConfig, meta["clip"], where), meta["name"], tuple(meta["classes"]),
                   checkpoint.section(tensors, "class_head"), checkpoint.section(tensors, "extra"), dict(meta["made"]))

    def save(self, path: str | Path) -> None:
        """Write an encoder checkpoint, atomically."""
        checkpoint.save(path, self.to_tensors(), {"kind": "encoder", **self.to_meta()})

    @classmethod
    def load(cls, path: str | Path) -> VideoEncoder:
        """Read an encoder checkpoint, take the encoder out of a localizer's, or read published weights.

        ``.pth`` files of torchvision and of TSP look at video as :class:`~cuemark.clips.ClipConfig` does by default;
        their class heads have no names, so they are left out.

        Raises:
            ModelError: see :func:`cuemark.checkpoint.load` and :func:`cuemark.encoders.published.load_weights`.
        """
        if Path(path).suffix in (".pth", ".pt", ".tar"):
            weights = load_weights(path)
            network = ResNet3D(weights.config)
            network.load_state_dict(weights.encoder)
            return cls(network.eval(), ClipConfig(), weights.name or network.config.kind,
                       made={"published": Path(path).name})
        tensors, meta = checkpoint.load(path)
        if meta["kind"] == "localizer" and meta.get("encoder"):
            return cls.from_parts(checkpoint.section(tensors, "encoder"), meta["encoder"], f"'{path}'")
        if meta["kind"] != "encoder":
            raise ModelError(f"'{path}' is of kind '{meta['kind']}', but a checkpoint with an encoder is needed here.")
        return cls.from_parts(tensors, meta, f"'{path}'")


@torch.no_grad()
def encode(network: nn.Module, clips: Tensor, bf16: bool = False) -> Tensor:
    """``(B, 3, T, H, W)`` clips to float32 ``(B, F)`` features, without gradients."""
    with torch.autocast(clips.device.type, torch.bfloat16, enabled=bf16):
        return network(clips).float()
