"""A trained localizer as it is used: network, class names, what its features are, and what makes them.

A checkpoint of kind ``localizer`` holds ``network.*`` and, when it was made with an encoder at hand, ``encoder.*``:
then it loads and runs on a raw video with nothing beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cuemark import checkpoint
from cuemark.batch import Batch, Localizer
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import ModelError
from cuemark.extraction import ExtractConfig
from cuemark.feature_folder import USUAL, FeatureFolder
from cuemark.grid import Features
from cuemark.localizers import build
from cuemark.segments import Predictions, Segment


@dataclass
class TrainedLocalizer:
    """Features, or raw video when the encoder is inside, to segments."""

    network: Localizer
    name: str
    """Key in :data:`cuemark.localizers.LOCALIZERS`."""
    features: dict[str, Any]
    """What ``features.json`` said of the features it was trained on: encoder, weights, clip, dim."""
    encoder: VideoEncoder | None = None
    made: dict[str, Any] = field(default_factory=dict)
    """Recipe and scores."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names it can give; empty for class-agnostic proposals."""
        return self.network.classes

    @property
    def extraction(self) -> ExtractConfig:
        """How the features it was trained on were made; those of a raw video are made so too."""
        return ExtractConfig.of(self.features)

    def fits(self, folder: FeatureFolder) -> None:
        """Refuse features that are not the ones it was trained on (they would give 0 mAP, silently).

        Raises:
            ModelError: naming both sides.
        """
        for key in ("weights", "clip", "crops", "pooling", "dim"):
            if self.features.get(key, USUAL.get(key)) != folder.meta.get(key, USUAL.get(key)):
                raise ModelError(
                    f"'{folder.folder}' has features with {key} {folder.meta.get(key)} ({folder.meta.get('encoder')}), "
                    f"but this localizer was trained on {self.features.get(key)} ({self.features.get('encoder')}); "
                    "extract with the encoder it was trained on, or train again on these features.")

    def save(self, path: str | Path) -> None:
        """Write a localizer checkpoint, atomically."""
        assert isinstance(self.network, nn.Module)
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        meta: dict[str, Any] = {
            "kind": "localizer", "name": self.name, "config": asdict(self.network.config),  # type: ignore[call-overload]
            "classes": list(self.classes), "features": self.features, "made": self.made, "encoder": None}
        if self.encoder is not None:
            tensors |= {f"encoder.{k}": v for k, v in self.encoder.to_tensors().items()}
            meta["encoder"] = self.encoder.to_meta()
        checkpoint.save(path, tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> TrainedLocalizer:
        """Read a localizer checkpoint.

        Raises:
            ModelError: see :func:`cuemark.checkpoint.load`.
        """
        tensors, meta = checkpoint.load(path, "localizer")
        network = build(meta["name"], meta["config"], int(meta["features"]["dim"]), meta["classes"])
        try:
            network.load_state_dict(checkpoint.section(tensors, "network"))
        except RuntimeError as error:
            raise ModelError(f"the weights in '{path}' do not fit the {meta['name']} it describes "
                             f"({str(error).splitlines()[-1].strip()}).") from None
        encoder = None
        if meta["encoder"] is not None:
            encoder = VideoEncoder.from_parts(checkpoint.section(tensors, "encoder"), meta["encoder"], f"'{path}'")
        return cls(network.eval(), meta["name"], meta["features"], encoder, meta["made"])


@torch.no_grad()
def predict(network: Localizer, features: Mapping[str, Features], batch: int = 16) -> Predictions:
    """The segments that a localizer finds in videos whose features are given; best first, in seconds.

    Every video is cut into the views the network wants; candidates of all views of a video are settled together.
    """
    found: Predictions = {}
    candidates: dict[str, list[Segment]] = {}
    waiting: list[tuple[str, Features]] = []

    def settle() -> None:
        rows = Batch.collate([view for _, view in waiting])
        for (vid, _), segments in zip(waiting, network.decode(network(rows), rows), strict=True):
            candidates[vid].extend(segments)
        waiting.clear()

    for vid in features:
        candidates[vid] = []
        for view in network.views(features[vid]):
            waiting.append((vid, view))
            if len(waiting) == batch:
                settle()
    if waiting:
        settle()
    for vid, segments in candidates.items():
        found[vid] = network.select(segments)
    return found
