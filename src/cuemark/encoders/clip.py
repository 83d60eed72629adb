"""CLIP's two towers: frames to features and tokens to word vectors, frozen or to be trained.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021); the parts that
change are UnLoc's (Yan et al., ICCV 2023, section 3.1 and its release). Weights are read from a folder in transformers'
layout (``config.json`` and safetensors, or ``pytorch_model.bin``, of which nothing is executed); the networks are
written here, so that their checkpoints do not hang on a version of transformers, which computes the same
(``tests/encoders/test_clip.py``).

Data flow of ViT-B/16 (``B`` rows, ``T`` frames, 196 patches)::

    frames (B, T, 3, 224, 224) -> patches (B T, 196, 768) + positions -> LN -> 12 pre-LN blocks
      "cls"    one learned token before the patches; its LN'd state is the feature        -> (B, T, 768)
      "frame"  a learned token of its own for each of N frames, begun as N times that one -> (B, T, 768)
      "gap"    no such token, nor its position; the mean of the LN'd patches              -> (B, T, 768)
    tokens (Q, W) -> embeddings (Q, W, 512) + positions -> 12 causal blocks -> LN -> projection: every token (Q, W, 512)

Image features are from before CLIP's projection: UnLoc learns one of its own, begun as CLIP's
(``VideoEncoder.extra["projection"]``). Features of ``"cls"`` times that, brought to length 1, lie where CLIP compares
images with texts (:mod:`cuemark.similarity`).

The activation is the approximation ``x * sigmoid(1.702 x)`` in OpenAI's weights ("quick GELU"), and the exact GELU in
most of OpenCLIP's. A folder's ``config.json`` says which; the two differ by enough to spoil features silently.

A row of fewer frames than N, which others are longer than, has the first tokens, as in the release, which fills it up
to N. A tower for another N begins with tokens interpolated linearly between their middles.

Where it differs from UnLoc's release: patches lie in PyTorch's order of pixels (the weights are the same);
``jax.image.resize`` also smooths where another N is smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from cuemark import checkpoint
from cuemark.errors import CallError, DataError, ModelError, unknown, within
from cuemark.segments import read_json
from cuemark.text import folder_of, model_kind

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""RGB of CLIP's normalisation, on a 0-1 scale."""
POOLINGS = ("cls", "frame", "gap")
ACTIVATIONS = ("quick_gelu", "gelu")


@dataclass(frozen=True)
class Config:
    """An image tower; the defaults are ViT-B/16's.

    Raises:
        CallError: an unknown pooling or activation, or numbers that make no network.
    """

    kind: Literal["clip"] = "clip"
    """Tells it from a video ResNet's in a checkpoint."""
    image: int = 224
    """Side of a frame, in pixels."""
    patch: int = 16
    """Side of a patch."""
    width: int = 768
    """Of a token, and of the feature."""
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    """Width inside a block's two-layer perceptron."""
    activation: str = "quick_gelu"
    """``"quick_gelu"`` (OpenAI) or ``"gelu"``."""
    eps: float = 1e-5
    """Of layer norms."""
    pooling: Literal["cls", "frame", "gap"] = "cls"
    """What stands for a frame, see above; a recipe says it in ``towers.pooling``."""
    frames: int = 0
    """N: how many frames have a token of their own (``"frame"``); 0 otherwise."""

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise unknown("pooling of an image tower", self.pooling, POOLINGS)
        _check(self, "image", "patch")
        within("frames", self.frames, 1 if self.pooling == "frame" else 0, None if self.pooling == "frame" else 0)
        if self.image % self.patch:
            raise CallError(f"patches of {self.patch} pixels do not tile images of {self.image}; choose a divisor.")

    @property
    def dim(self) -> int:
        """Width of a feature."""
        return self.width


@dataclass(frozen=True)
class TextConfig:
    """A text tower; the defaults are those beside ViT-B/16.

    Raises:
        CallError: an unknown activation, or numbers that make no network.
    """

    vocabulary: int = 49408
    length: int = 77
    """Most tokens of a text."""
    width: int = 512
    layers: int = 12
    heads: int = 8
    hidden: int = 2048
    dim: int = 512
    """Width of the vectors, after the projection."""
    activation: str = "quick_gelu"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        _check(self, "vocabulary", "length", "dim")


def _check(config: Config | TextConfig, *positive: str) -> None:
    for name in (*positive, "width", "layers", "heads", "hidden"):
        within(name, getattr(config, name), 1)
    if config.activation not in ACTIVATIONS:
        raise unknown("activation of a CLIP tower", config.activation, ACTIVATIONS)
    if config.width % config.heads:
        raise CallError(f"{config.heads} heads do not share {config.width} channels evenly; choose a divisor.")


# ---------------------------------------------------------------------------------------------- networks


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``."""
    return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    """Pre-LN self-attention and perceptron, both added to what came in."""

    def __init__(self, config: Config | TextConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width, config.eps)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm2 = nn.LayerNorm(width, config.eps)
        self.inner, self.outer = nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)
        self.activate = quick_gelu if config.activation == "quick_gelu" else F.gelu

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        seen = self.norm1(x)
        query, key, value = (part(seen).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                             for part in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        x = x + self.out(found.transpose(1, 2).flatten(2))
        return x + self.outer(self.activate(self.inner(self.norm2(x))))


class _Tower(nn.Module):
    """What both towers are made of: a stack of blocks, initialised as CLIP was (Radford et al., their code)."""

    def __init__(self, config: Config | TextConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.recompute = False
        """Whether blocks keep no activations but compute them again in the backward pass."""
        deep = config.width**-0.5 * (2 * config.layers) ** -0.5
        for block in self.blocks:
            assert isinstance(block, _Block)
            for layer, std in ((block.query, deep), (block.key, deep), (block.value, deep),
                               (block.out, config.width**-0.5), (block.inner, (2 * config.width) ** -0.5),
                               (block.outer, deep)):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def through(self, x: Tensor, causal: bool = False) -> Tensor:
        """``(n, tokens, width)`` through all blocks."""
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = recomputed(partial(block, causal=causal), x, use_reentrant=False)
            else:
                x = block(x, causal)
        return x


class ImageTower(_Tower):
    """Frames to features, each frame for itself."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        self.dim = config.dim
        width, patches = config.width, (config.image // config.patch) ** 2
        self.patch = nn.Conv2d(3, width, config.patch, config.patch, bias=False)
        tokens = {"cls": 1, "frame": config.frames, "gap": 0}[config.pooling]
        self.cls = nn.Parameter(torch.randn(tokens, width) * width**-0.5) if tokens else None
        self.position = nn.Parameter(torch.randn(patches + bool(tokens), width) * 0.02)
        self.before, self.after = nn.LayerNorm(width, config.eps), nn.LayerNorm(width, config.eps)
        nn.init.normal_(self.patch.weight, std=0.02)
        if config.pooling == "frame" and self.cls is not None:  # all begin as one
            self.cls.data.copy_(self.cls.data[:1].expand(tokens, -1))

    def forward(self, clips: Tensor, pooling: Literal["mean", "max"] = "mean") -> Tensor:
        """Features of clips, as a video encoder gives them.

        Args:
            clips: ``(B, 3, T, H, W)`` float, normalised.
            pooling: over the frames of a clip, of which there is one as a rule.

        Returns:
            ``(B, dim)`` float32.
        """
        found = self.frames(clips.transpose(1, 2))
        return found.amax(1).float() if pooling == "max" else found.mean(1, dtype=torch.float32)

    def frames(self, frames: Tensor) -> Tensor:
        """``(B, T, 3, H, W)`` float, normalised, to ``(B, T, dim)``.

        Raises:
            ValueError: frames are of another size than the tower's.
        """
        side = self.config.image
        if frames.shape[2:] != (3, side, side):
            raise ValueError(f"frames of shape {tuple(frames.shape[2:])} for a tower of (3, {side}, {side})")
        rows, count = frames.shape[:2]
        x = self.patch(frames.flatten(0, 1)).flatten(2).transpose(1, 2)
        if self.cls is None:
            x = x + self.position
        else:
            own = self.cls if self.config.pooling == "cls" else self.cls[:count] if count < len(self.cls) else (
                stretched(self.cls, count))
            own = own.expand(count, -1).repeat(rows, 1)[:, None].to(x.dtype)
            x = torch.cat([own, x], dim=1) + self.position
        x = self.through(self.before(x))
        found = self.after(x).mean(1) if self.cls is None else self.after(x[:, 0])
        return found.unflatten(0, (rows, count))


class TextTower(_Tower):
    """Tokens to the projected vector of each: what :class:`cuemark.text.TextEncoder` computes, to be trained."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        self.config = config
        self.dim = config.dim
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Parameter(torch.randn(config.length, config.width) * 0.01)
        self.after = nn.LayerNorm(config.width, config.eps)
        self.projection = nn.Linear(config.width, config.dim, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.projection.weight, std=config.width**-0.5)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(Q, W)`` int64 to ``(Q, W, dim)``.

        Whatever is behind the end of a text, where ``mask`` is False, changes nothing: a token sees those before it.
        """
        x = self.token(tokens) + self.position[: tokens.shape[1]]
        return self.projection(self.after(self.through(x, causal=True)))


def stretched(tokens: Tensor, count: int) -> Tensor:
    """``(N, width)`` tokens of N frames linearly interpolated to ``(count, width)``."""
    if len(tokens) == count:
        return tokens
    return F.interpolate(tokens.T[None], count, mode="linear", align_corners=False)[0].T


class Frames(nn.Module):
    """An image tower as a localizer has it inside (``UnLoc.image``): frames as they are decoded to features.

    Args:
        tower: frozen towers are those whose parameters want no gradient (:meth:`frozen`).
        mean: RGB, see :class:`cuemark.clips.ClipConfig`.
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tower: ImageTower, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> None:
        super().__init__()
        self.tower = tower
        self.dim = tower.dim
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    @property
    def recompute(self) -> bool:
        """Whether the tower's blocks keep no activations but compute them again in the backward pass."""
        return self.tower.recompute

    @recompute.setter
    def recompute(self, on: bool) -> None:
        self.tower.recompute = on

    def frozen(self) -> Frames:
        """Itself, with a tower that is not trained: features carry no gradient."""
        self.requires_grad_(False)
        return self

    def forward(self, frames: Tensor) -> Tensor:
        """``(B, T, 3, H, W)``, uint8 or float32 and normalised, to ``(B, T, dim)``.

        Where nothing is learned, row by row, so that memory does not grow with B.
        """
        learning = torch.is_grad_enabled() and next(self.parameters()).requires_grad
        with torch.set_grad_enabled(learning):
            parts = [frames] if learning else frames.split(1)
            return torch.cat([self.tower.frames(self._normalised(part)) for part in parts])

    def _normalised(self, frames: Tensor) -> Tensor:
        return ((frames.float() / 255) - self.mean) / self.std if frames.dtype == torch.uint8 else frames


# ---------------------------------------------------------------------------------------------- reading weights


@dataclass(frozen=True)
class Folder:
    """A CLIP in transformers' layout: its description and its weights under their names there."""

    path: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]

    @classmethod
    def read(cls, source: str | Path) -> Folder:
        """Read a folder, or OpenAI's weights by name (:data:`cuemark.text.CLIP`), or a model of the hub.

        Raises:
            ModelError: there is no such folder or model, or it does not hold a CLIP, or files are missing or damaged.
        """
        path = folder_of(str(source))
        if model_kind(path) != "clip":
            raise ModelError(f"'{path}' does not hold a CLIP; name a folder with its config.json and weights, as "
                             "transformers' save_pretrained writes it.")
        return cls(path, read_json(path / "config.json", "model"), _weights(path))

    def part(self, name: Literal["vision", "text"]) -> dict[str, Any]:
        """What the description says of one tower, its defaults filled in."""
        usual = dict(_VISION if name == "vision" else _TEXT)
        told = self.config.get(f"{name}_config")
        found = usual | {k: v for k, v in (told if isinstance(told, dict) else {}).items() if v is not None}
        if found["hidden_act"] not in ACTIVATIONS:
            raise ModelError(f"the {name} tower in '{self.path}' computes with '{found['hidden_act']}', but CLIP's are "
                             "quick_gelu (OpenAI's) or gelu; correct hidden_act in its config.json.")
        return found

    @property
    def projection(self) -> Tensor:
        """``(P, width)``: from image features to where CLIP compares; what UnLoc's ``video_projection`` begins with."""
        return self._named("visual_projection.weight").float()

    @property
    def mean(self) -> tuple[float, float, float]:
        """RGB mean of its pixels, as ``preprocessor_config.json`` says; CLIP's where there is none."""
        return self._colours("image_mean", MEAN)

    @property
    def std(self) -> tuple[float, float, float]:
        """RGB standard deviation likewise."""
        return self._colours("image_std", STD)

    def _colours(self, name: str, usual: tuple[float, float, float]) -> tuple[float, float, float]:
        file = self.path / "preprocessor_config.json"
        try:
            red, green, blue = read_json(file, "preprocessor").get(name, usual) if file.is_file() else usual
            return float(red), float(green), float(blue)
        except (DataError, AttributeError, TypeError, ValueError):
            raise ModelError(f"'{file}' does not say {name} of three colours; copy or download it again.") from None

    def _named(self, name: str) -> Tensor:
        if name not in self.weights:
            raise ModelError(f"'{self.path}' lacks the weights '{name}' of its CLIP; copy or download it again.")
        return self.weights[name]

    def load(self, tower: ImageTower | TextTower, names: Mapping[str, str]) -> None:
        """Fill a tower: the plain ``names`` (ours -> theirs), and its blocks.

        Raises:
            ModelError: something is missing or has another shape.
        """
        side = "vision_model" if isinstance(tower, ImageTower) else "text_model"
        state = {ours: self._named(theirs) for ours, theirs in names.items()}
        for i in range(len(tower.blocks)):
            for ours, theirs in _BLOCK.items():
                for kind in ("weight", "bias"):
                    state[f"blocks.{i}.{ours}.{kind}"] = self._named(f"{side}.encoder.layers.{i}.{theirs}.{kind}")
        if isinstance(tower, ImageTower):
            first = state.pop("cls")
            if tower.cls is None:
                state["position"] = state["position"][1:]
            else:
                state["cls"] = first.expand(len(tower.cls), -1)
        try:
            tower.load_state_dict({k: v.float() for k, v in state.items()})
        except RuntimeError as error:
            raise ModelError(f"the weights in '{self.path}' do not fit its config.json "
                             f"({str(error).splitlines()[-1].strip()}).") from None


_BLOCK = {"norm1": "layer_norm1", "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
          "out": "self_attn.out_proj", "norm2": "layer_norm2", "inner": "mlp.fc1", "outer": "mlp.fc2"}
_VISION = {"image_size": 224, "patch_size": 32, "hidden_size": 768, "num_hidden_layers": 12,  # transformers' defaults
           "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_size": 512, "num_hidden_layers": 12,
         "num_attention_heads": 8, "intermediate_size": 2048, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}


def _weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files and not (folder / "pytorch_model.bin").is_file():
        raise ModelError(f"'{folder}' has no model.safetensors; copy or download it again.")
    if not files:
        return {str(k): v for k, v in checkpoint.foreign(folder / "pytorch_model.bin").items() if isinstance(v, Tensor)}
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            found |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"'{file}' cannot be read ({error}); copy or download it again.") from None
    return found


def image_tower(folder: Folder, pooling: Literal["cls", "frame", "gap"] = "cls", frames: int = 0) -> ImageTower:
    """The image tower of a CLIP, in evaluation.

    Args:
        pooling: see :class:`Config`.
        frames: N, for ``"frame"``.

    Raises:
        ModelError: its weights are incomplete or do not fit.
    """
    told = folder.part("vision")
    tower = ImageTower(Config(
        "clip", told["image_size"], told["patch_size"], told["hidden_size"], told["num_hidden_layers"],
        told["num_attention_heads"], told["intermediate_size"], told["hidden_act"], told["layer_norm_eps"], pooling,
        frames))
    own = "vision_model.embeddings."
    folder.load(tower, {
        "cls": f"{own}class_embedding", "patch.weight": f"{own}patch_embedding.weight",
        "position": f"{own}position_embedding.weight",
        **{f"{ours}.{kind}": f"vision_model.{theirs}.{kind}" for kind in ("weight", "bias")
           for ours, theirs in (("before", "pre_layrnorm"), ("after", "post_layernorm"))}})
    return tower.eval()


def text_tower(folder: Folder) -> TextTower:
    """The text tower of a CLIP, in evaluation.

    Raises:
        ModelError: its weights are incomplete or do not fit.
    """
    told = folder.part("text")
    tower = TextTower(TextConfig(
        told["vocab_size"], told["max_position_embeddings"], told["hidden_size"], told["num_hidden_layers"],
        told["num_attention_heads"], told["intermediate_size"], int(folder.config.get("projection_dim") or 512),
        told["hidden_act"], told["layer_norm_eps"]))
    folder.load(tower, {
        "token.weight": "text_model.embeddings.token_embedding.weight",
        "position": "text_model.embeddings.position_embedding.weight",
        "projection.weight": "text_projection.weight",
        **{f"after.{kind}": f"text_model.final_layer_norm.{kind}" for kind in ("weight", "bias")}})
    return tower.eval()


def refitted(tower: ImageTower, frames: int) -> ImageTower:
    """The same tower with a token for each of so many frames, interpolated from those it has; from one, all the same.

    Raises:
        CallError: the tower has none (``"gap"``).
    """
    if tower.cls is None:
        raise CallError("an image tower that takes the mean of its patches has no token that frames could begin with.")
    made = ImageTower(replace(tower.config, pooling="frame", frames=frames))
    made.load_state_dict({**tower.state_dict(), "cls": stretched(tower.cls.detach(), frames)})
    return made.train(tower.training)
