"""Video ResNets: R3D-18, R(2+1)D-18 and R(2+1)D-34, the encoders of TAC, TSP and CLAP, and smaller ones.

Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition" (CVPR 2018); chosen by TSP
(Alwassel et al., ICCVW 2021, section 4.1). Parameter names are those of torchvision's ``VideoResNet`` without ``fc``,
so that published weights load as they are (``cuemark.encoders.published``).

Data flow at 112 x 112 pixels, width 64 (``B`` clips of ``T`` frames; strides 1, 2, 2, 2 in space and in time)::

    clips (B, 3, T, 112, 112) -> stem (B, 64, T, 56, 56) -> layer1 (B, 64, T, 56, 56)
      -> layer2 (B, 128, T/2, 28, 28) -> layer3 (B, 256, T/4, 14, 14) -> layer4 (B, 512, T/8, 7, 7)
      -> mean (or maximum) over time and space (B, 512)

``r2plus1d`` writes every 3x3x3 kernel as a 1x3x3 kernel, batch norm, ReLU and a 3x1x1 kernel, with as many planes
between them as keep the number of parameters. The two layouts of it that weights exist for differ in where that number
is computed: once per block (``torchvision``) or for each convolution (``ig65m``, the R(2+1)D-34 that was trained on 65
million Instagram videos and that TSP starts from; its layer2.0.conv2 has 288 planes where the other has 230). ``ig65m``
also has batch norms of its own: eps 1e-3, and momentum 0.9. The latter is Caffe2's number, which means the opposite
in PyTorch (running statistics are almost those of the last batch); it is kept because TSP was trained with it.

Differences from the released code: features are averaged in float32 also under autocast; convolutions are
``cuemark.nn.convolution.Conv3d``, equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cuemark.errors import CallError, unknown
from cuemark.nn.convolution import Conv3d

KINDS = ("r3d", "r2plus1d")
LAYOUTS = ("torchvision", "ig65m")
Pooling = Literal["mean", "max"]


@dataclass(frozen=True)
class Config:
    """A video ResNet. Lists, as JSON has them, are taken for tuples.

    Raises:
        CallError: an unknown kind or layout, or numbers that make no network.
    """

    kind: str = "r2plus1d"
    """``"r3d"``: 3x3x3 kernels. ``"r2plus1d"``: each split into space and time."""
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks of two convolutions in each of the four layers: (2, 2, 2, 2) is 18 deep, (3, 4, 6, 3) is 34."""
    width: int = 64
    """Channels of the first layer; each further layer has twice as many, so features have ``8 * width``."""
    layout: str = "torchvision"
    """``"torchvision"`` or ``"ig65m"``: see above."""
    stem_stride: int = 2
    """Stride in space of the first convolution; 1 for clips of few pixels."""
    time_strides: tuple[int, ...] = (1, 2, 2, 2)
    """Stride in time of each layer (the strides in space are 1, 2, 2, 2)."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of video ResNet", self.kind, KINDS)
        if self.layout not in LAYOUTS:
            raise unknown("layout of video ResNet", self.layout, LAYOUTS)
        for name in ("blocks", "time_strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != 4 or min(getattr(self, name)) < 1:
                raise CallError(f"{name} of a video ResNet must be four numbers from 1 on, got {getattr(self, name)}.")
        if self.width < 1 or self.stem_stride < 1:
            raise CallError("width and stem_stride of a video ResNet must be at least 1, "
                            f"got {self.width} and {self.stem_stride}.")

    @property
    def dim(self) -> int:
        """Width of the features."""
        return 8 * self.width


class ResNet3D(nn.Module):
    """Clips to features. Initialised as torchvision does: convolutions from a normal distribution of variance
    2 / fan-out (He et al. 2015), batch norms at one and zero, also the last of each block.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.recompute = False
        """Whether blocks keep no activations but compute them again in the backward pass."""
        if config.layout == "ig65m":
            norm: Callable[[int], nn.Module] = partial(nn.BatchNorm3d, eps=1e-3, momentum=0.9)
        else:
            norm = nn.BatchNorm3d
        self.stem = _stem(config, norm)
        layers, channels = [], config.width
        for i, (blocks, time) in enumerate(zip(config.blocks, config.time_strides)):
            planes, space = config.width << i, 1 if i == 0 else 2
            first = _Block(config, norm, channels, planes, time, space)
            rest = (_Block(config, norm, planes, planes, 1, 1) for _ in range(blocks - 1))
            layers.append(nn.Sequential(first, *rest))
            channels = planes
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips: Tensor, pooling: Pooling = "mean") -> Tensor:
        """Features of clips.

        Args:
            clips: ``(B, 3, T, H, W)`` float, normalised.
            pooling: over time and space of the last layer; ``"mean"`` is what the published weights were trained with.

        Returns:
            ``(B, dim)`` float32.
        """
        x = clips.contiguous(memory_format=torch.channels_last_3d)
        for part in (self.stem, *self.layer1, *self.layer2, *self.layer3, *self.layer4):
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(part, x, use_reentrant=False, context_fn=partial(_twice, part))
            else:
                x = part(x)
        return pooled(x, pooling)


def _twice(layer: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first forward pass of a layer and of its repetition, which leaves batch norms' memories alone."""
    return nullcontext(), _forgetful(layer)


@contextmanager
def _forgetful(layer: nn.Module) -> Iterator[None]:
    """Batch norms average into copies meanwhile. (Without statistics at all they would save fewer tensors for the
    backward pass than the first time, which PyTorch refuses.)"""
    norms = [m for m in layer.modules() if isinstance(m, nn.BatchNorm3d) and m.training]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers()]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


def pooled(x: Tensor, pooling: Pooling) -> Tensor:
    """``(B, C, T, H, W)`` to float32 ``(B, C)``."""
    return x.amax((2, 3, 4)).float() if pooling == "max" else x.mean((2, 3, 4), dtype=torch.float32)


class _Block(nn.Module):
    """Two convolutions and a shortcut, which is a 1x1x1 convolution where the shape changes."""

    def __init__(self, config: Config, norm: Callable[[int], nn.Module], inputs: int, planes: int,
                 time: int, space: int) -> None:
        super().__init__()
        middle = _middle(inputs, planes)
        again = _middle(planes, planes) if config.layout == "ig65m" else middle
        self.conv1 = nn.Sequential(_conv(config, norm, inputs, middle, planes, time, space), norm(planes),
                                   nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(_conv(config, norm, planes, again, planes, 1, 1), norm(planes))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if inputs != planes or (time, space) != (1, 1):
            shortcut = Conv3d(inputs, planes, 1, (time, space, space), bias=False)
            self.downsample = nn.Sequential(shortcut, norm(planes))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


def _middle(inputs: int, planes: int) -> int:
    """Planes between the halves of a split kernel: as many parameters as the whole one has (Tran et al., 3.5)."""
    return inputs * planes * 27 // (inputs * 9 + 3 * planes)


def _conv(config: Config, norm: Callable[[int], nn.Module], inputs: int, middle: int, planes: int,
          time: int, space: int) -> nn.Module:
    if config.kind == "r3d":
        return Conv3d(inputs, planes, 3, (time, space, space), 1, bias=False)
    return nn.Sequential(
        Conv3d(inputs, middle, (1, 3, 3), (1, space, space), (0, 1, 1), bias=False), norm(middle),
        nn.ReLU(inplace=True),
        Conv3d(middle, planes, (3, 1, 1), (time, 1, 1), (1, 0, 0), bias=False),
    )


def _stem(config: Config, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    width, stride = config.width, (1, config.stem_stride, config.stem_stride)
    if config.kind == "r3d":
        return nn.Sequential(Conv3d(3, width, (3, 7, 7), stride, (1, 3, 3), bias=False), norm(width),
                             nn.ReLU(inplace=True))
    middle = max(1, 45 * width // 64)  # 45 at width 64, where _middle would give 23: it knows no 7x7 kernels
    return nn.Sequential(
        Conv3d(3, middle, (1, 7, 7), stride, (0, 3, 3), bias=False), norm(middle), nn.ReLU(inplace=True),
        Conv3d(middle, width, (3, 1, 1), 1, (1, 0, 0), bias=False), norm(width), nn.ReLU(inplace=True),
    )
