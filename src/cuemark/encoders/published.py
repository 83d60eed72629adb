"""Reading the weights that others published for the encoders in ``resnet3d.py``.

Two kinds of file: torchvision's ``.pth`` (a plain state dict ending in ``fc.*``), and TSP's, checkpoints of its
training (``model`` beside ``optimizer``, ``lr_scheduler``, ``epoch`` and ``args``) whose encoder is under
``features.*`` and whose heads are ``fc1.*`` (action), ``fc2.*`` (temporal region), or one ``fc.*``. Files saved from a
data-parallel model have ``module.`` before every name. Which encoder a file holds is told from its shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cuemark import checkpoint
from cuemark.encoders import ENCODERS
from cuemark.encoders.resnet3d import Config, ResNet3D
from cuemark.errors import ModelError

_HEAD = re.compile(r"fc\d*\.")
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.")


class Weights(NamedTuple):
    """What a published file holds."""

    config: Config
    """``ResNet3D(config).load_state_dict(encoder)`` fits exactly. Strides leave no trace in shapes: they are the
    published networks' own."""
    encoder: dict[str, Tensor]
    """The state dict of the encoder, in the file's dtypes."""
    heads: dict[str, Tensor]
    """What was classified with it: ``fc.weight``, ``fc1.bias`` …; empty when the file has none."""

    @property
    def name(self) -> str | None:
        """The name in :data:`cuemark.encoders.ENCODERS`, or None for an encoder of other size."""
        return next((name for name, config in ENCODERS.items() if config == self.config), None)


def load_weights(path: str | Path) -> Weights:
    """Read a ``.pth`` or ``.pth.tar`` of torchvision or TSP. Nothing in it is executed.

    Raises:
        ModelError: no such file, not such a file, or weights that are incomplete, have the wrong shapes or belong to
            another network; the message names the file and the first few of them.
    """
    content: Any = checkpoint.foreign(path)
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    encoder: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    for key, value in content.items():
        name = str(key).removeprefix("module.").removeprefix("features.")
        if not isinstance(value, Tensor):
            raise ModelError(f"'{path}' is not a file of weights: its entry '{key}' is a {type(value).__name__}, "
                             "not a tensor.")
        (heads if _HEAD.match(name) else encoder)[name] = value
    config = _recognise(encoder)
    if config is None:
        raise ModelError(f"'{path}' does not hold a video ResNet: expected 'stem.0.weight', 'layer1.0.conv1.0.weight' "
                         f"and so on, got {_some(encoder) or 'nothing'}.")
    with torch.device("meta"):  # shapes only
        expected = ResNet3D(config).state_dict()
    wrong = [f"{key} missing" for key in expected.keys() - encoder.keys()]
    wrong += [f"{key} unexpected" for key in encoder.keys() - expected.keys()]
    wrong += [f"{key} is {tuple(encoder[key].shape)}, not {tuple(tensor.shape)}"
              for key, tensor in expected.items() if key in encoder and encoder[key].shape != tensor.shape]
    if wrong:
        raise ModelError(f"'{path}' looks like a {config.kind} with blocks {config.blocks} and width {config.width}, "
                         f"but {len(wrong)} of its weights do not fit: {_some(wrong)}; was the file saved complete?")
    return Weights(config, encoder, heads)


def _recognise(encoder: Mapping[str, Tensor]) -> Config | None:
    """The configuration that shapes tell, or None where there is none to tell."""
    def out(name: str) -> int:
        weight = encoder.get(name)
        return len(weight) if weight is not None and weight.dim() == 5 else 0

    found = {(int(m[1]), int(m[2])) for name in encoder if (m := _BLOCK.match(name))}
    blocks = tuple(sum(layer == i for layer, _ in found) for i in range(1, 5))
    kind = "r2plus1d" if "stem.3.weight" in encoder else "r3d"
    width = out("stem.3.weight") if kind == "r2plus1d" else out("stem.0.weight")
    if not width or 0 in blocks:
        return None
    # the layouts differ where a block's first convolution has fewer inputs than its second
    per_block = out("layer2.0.conv1.0.0.weight") == out("layer2.0.conv2.0.0.weight")
    layout = "torchvision" if kind == "r3d" or per_block else "ig65m"
    return Config(kind, blocks, width, layout)


def _some(names: Any, most: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
