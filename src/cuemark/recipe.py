"""Recipes: what to train, on what, how; a TOML file that begins with its command, its cost and the score to expect.

::

    system = "clap"                     # a key of pretraining.OBJECTIVES or localizers.LOCALIZERS
    [data]    truth, videos, captions, features; which subsets train and validate
    [encoder] start or network; clip; sampling; text     (pre-training)
    [options] the system's own Config
    [optim]   the loop's

Any field can be changed on the command line: ``--set optim.steps=200``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cuemark.clips import ClipConfig, Sampling
from cuemark.encoders.resnet3d import Config as NetworkConfig
from cuemark.errors import DataError
from cuemark.extraction import read_back
from cuemark.loop import Optim
from cuemark.settings import build, override

SHIPPED = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Data:
    """Where the data is; paths are relative to the current folder."""

    truth: str
    """Truth file."""
    videos: str | None = None
    """Folder of video files named ``<id>.*`` or ``v_<id>.*`` (pre-training)."""
    captions: str | None = None
    """Dense captions in ActivityNet Captions form (CLAP)."""
    features: str | None = None
    """Features folder: what a localizer trains on; in pre-training, where TSP's global video features come from."""
    train: tuple[str, ...] = ("training",)
    validate: tuple[str, ...] = ("validation",)
    """Subset that chooses the best weights; empty: the last weights are taken."""


@dataclass(frozen=True)
class Encoder:
    """The video encoder of a pre-training run."""

    start: str | None = None
    """Encoder checkpoint to begin from; then ``network`` and ``clip`` are that checkpoint's."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    sampling: Sampling = field(default_factory=Sampling)
    text: str = "bert"
    """Text encoder: "bert", "minilm", or a name or folder for ``transformers``."""


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    system: str
    data: Data
    encoder: Encoder = field(default_factory=Encoder)
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the system's ``Config``."""
    optim: Optim = field(default_factory=Optim)
    seed: int = 0
    validate_every: int | None = None
    """Updates between validations; none: each epoch."""
    workers: int = 2
    """Threads that decode ahead."""
    budget_gb: float = 2.0
    """Decoded videos are kept in memory up to this many gigabytes."""
    checkpoint_every: int = 100
    """Updates between checkpoints that a stopped run goes on from."""
    tensorboard: bool = False
    """Write for TensorBoard too (``pip install "cuemark[track]"``)."""

    def to_json(self) -> dict[str, Any]:
        return read_back(asdict(self))

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run: all but how it is worked at."""
        beside = ("workers", "budget_gb", "checkpoint_every", "tensorboard")
        return {k: v for k, v in self.to_json().items() if k not in beside}


def load_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.field=value`` changes.

    Args:
        path: a TOML file, or the name of one that ships with cuemark (:data:`SHIPPED`), such as ``world_clap``.

    Raises:
        DataError: no such file, not TOML, a value of the wrong type.
        CallError: a field that does not exist (it answers with those that do).
    """
    if not Path(path).exists() and (SHIPPED / f"{path}.toml").exists():
        path = SHIPPED / f"{path}.toml"
    try:
        with open(path, "rb") as file:
            data = tomllib.load(file)
    except FileNotFoundError:
        raise DataError(f"recipe '{path}' is neither a file nor one of those that ship with cuemark: "
                        f"{', '.join(sorted(p.stem for p in SHIPPED.glob('*.toml')))}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"recipe '{path}' is not readable TOML: {error}.") from None
    for change in changes:
        override(data, change)
    return build(Recipe, data, f"recipe '{Path(path).name}'")
