"""Encoders: clips ``(B, 3, T, H, W)`` to features ``(B, dim)``."""

from __future__ import annotations

from cuemark.encoders.resnet3d import Config, ResNet3D
from cuemark.errors import unknown

ENCODERS: dict[str, Config] = {
    "r3d_18": Config(kind="r3d"),
    "r2plus1d_18": Config(kind="r2plus1d"),
    "r2plus1d_34": Config(kind="r2plus1d", blocks=(3, 4, 6, 3), layout="ig65m"),
    # for a CPU and clips of few pixels: 0.8 million parameters, trained from scratch in minutes
    "r2plus1d_tiny": Config(kind="r2plus1d", blocks=(1, 1, 1, 1), width=16),
}
"""Name -> configuration. The first three are those of TSP (section 4.1), for which weights are published."""


def build(encoder: str | Config) -> ResNet3D:
    """A new encoder, with random weights from torch's global generator.

    Args:
        encoder: a name in :data:`ENCODERS`, or a configuration of one's own.

    Raises:
        CallError: no such name; the message lists the names there are.
    """
    if isinstance(encoder, str):
        if encoder not in ENCODERS:
            raise unknown("encoder", encoder, ENCODERS)
        encoder = ENCODERS[encoder]
    return ResNet3D(encoder)
