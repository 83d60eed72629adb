"""Recipes: what to train, on what, how; a TOML file that begins with its command, its cost and the score to expect.

::

    base = "activitynet_clap_r2plus1d_18"   # optional: a recipe whose tables these are merged over
    system = "clap"                     # a key of pretraining.OBJECTIVES or localizers.LOCALIZERS
    [data]    truth, videos, captions, features; which subsets train and validate
    [encoder] start or network; clip; sampling; text     (pre-training)
    [options] the system's own Config
    [towers]  how a localizer that trains on videos looks at frames; network, if its image tower begins at random
    [optim]   the loop's

Any field can be changed on the command line: ``--set optim.steps=200``. A recipe with a ``base`` says only what is
different: its tables are merged over the base's, field by field, and a list replaces the base's whole. ``cuemark
recipes NAME`` prints the whole.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cuemark.clips import ClipConfig, Sampling
from cuemark.encoders.clip import Config as ImageConfig
from cuemark.encoders.resnet3d import Config as NetworkConfig
from cuemark.errors import CallError, DataError, within
from cuemark.loop import Optim
from cuemark.segments import plain
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
    """Features folder: what a localizer trains on; in pre-training, where TSP's global video features come from, or an
    HDF5 file of them, as ``cuemark gvf`` and TSP's release write it."""
    train: tuple[str, ...] = ("training",)
    """Subsets that are trained on."""
    validate: tuple[str, ...] = ("validation",)
    """Subset that chooses the best weights; empty: the last weights are taken."""
    classes: str | tuple[str, ...] | None = None
    """Train and validate on these classes only: their names, or a file of them (one a line, a JSON list, or a few-shot
    split, whose ``base`` ones are taken). Videos that show any other class are left out whole."""
    proposals: str | None = None
    """What a localizer that judges proposals (P-GCN) is given: the checkpoint of another localizer on the same
    features, which then travels inside its own, or a file of predictions."""


@dataclass(frozen=True)
class Encoder:
    """The video encoder of a pre-training run, and what reads texts.

    Raises:
        CallError: fewer tokens than any text has.
    """

    start: str | None = None
    """Encoder checkpoint to begin from; then ``network`` and ``clip`` are that checkpoint's."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    sampling: Sampling = field(default_factory=Sampling)
    text: str = "bert"
    """Text encoder: "bert", "minilm", or a name or folder for ``transformers``. To a localizer that is asked sentences
    also a file of GloVe's vectors (``.txt``)."""
    max_tokens: int | None = None
    """How many tokens of a text are read, those that mark start and end among them; none: all that the text encoder can
    (CLIP: 77). UnLoc: 16, or 32 of longer sentences."""

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            within("encoder.max_tokens", self.max_tokens, 3)


@dataclass(frozen=True)
class Towers:
    """How a localizer looks at frames where it is trained on videos (``data.videos`` without ``data.features``): with
    the image tower of ``encoder.start``, a CLIP, inside, or one of random weights. Only UnLoc can.

    Raises:
        CallError: a rate that is none, or a ``network`` that says what ``pooling`` says.
    """

    pooling: Literal["cls", "frame", "gap"] = "cls"
    """What stands for a frame: CLIP's own token, a token for each frame's place (UnLoc's B), or the mean of patches
    (most of UnLoc's L)."""
    fps: float = 2.0
    """Frames a second of which those are taken that the localizer sees at once."""
    short_side: int | None = None
    """Pixels that a frame's shorter side is brought to before it is cropped; None: those of the crop. UnLoc: 256."""
    augment: Literal["full", "plain", "none"] = "full"
    """``full``: scale, crop, mirror, RandAugment (UnLoc's for localization and segmentation). ``plain``: crop and
    mirror (moment retrieval)."""
    shift: bool = False
    """Move windows of a video at random (COIN)."""
    network: ImageConfig | None = None
    """In place of a CLIP in ``encoder.start``: an image tower of this shape, which begins with random weights, those of
    the recipe's ``seed``."""

    def __post_init__(self) -> None:
        within("towers.fps", self.fps, 1e-3)
        if self.network is not None and (self.network.pooling, self.network.frames) != ("cls", 0):
            raise CallError("what stands for a frame is said in towers.pooling alone; leave pooling and frames out of "
                            "towers.network.")


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    system: str
    """What is trained: a key of ``pretraining.OBJECTIVES`` or of ``localizers.LOCALIZERS``."""
    data: Data
    """The table below."""
    encoder: Encoder = field(default_factory=Encoder)
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the system's ``Config``."""
    towers: Towers = field(default_factory=Towers)
    """The table above."""
    optim: Optim = field(default_factory=Optim)
    start: str | None = None
    """Localizer checkpoint whose weights this one begins with: one of the same system, or for QAT a G-TAD."""
    seed: int = 0
    """Of weights, order, crops and whatever else is drawn."""
    validate_every: int | None = None
    """Updates between validations; none: each epoch."""
    workers: int = 2
    """Threads that decode ahead."""
    budget_gb: float = 2.0
    """Decoded videos are kept in memory up to this many gigabytes."""
    checkpoint_every: int = 100
    """Updates between checkpoints that a stopped run goes on from."""
    keep: int = 1
    """Of those checkpoints, the last so many stay in the folder."""
    seen: str | None = None
    """Folder for what a frozen image tower says of frames that look the same again, which several runs may share; none:
    one in the run's own."""
    tensorboard: bool = False
    """Write for TensorBoard too (``pip install "cuemark[track]"``)."""

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run: all but how it is worked at."""
        beside = ("workers", "budget_gb", "checkpoint_every", "keep", "seen", "tensorboard")
        return {k: v for k, v in self.to_json().items() if k not in beside}


def load_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.field=value`` changes.

    Args:
        path: a TOML file, or the name of one that ships with cuemark (:data:`SHIPPED`), such as ``world_clap``.

    Raises:
        DataError: no such file, not TOML, a base that is missing or leads back, a value of the wrong type.
        CallError: a field that does not exist (it answers with those that do).
    """
    data = tables(path)
    for change in changes:
        override(data, change)
    return build(Recipe, data, f"recipe '{_file(path).name}'")


def tables(path: str | Path) -> dict[str, Any]:
    """What a recipe says, merged over its base and that one's base; values are not checked.

    A base is a file in the recipe's folder, with or without ``.toml``, or the name of one that ships with cuemark. The
    file itself is passed over: a recipe that was copied under its own name may build on the one that ships.

    Raises:
        DataError: no such file, not TOML, or a base that is missing or leads back.
    """
    return _merged(_file(path), ())


def _file(path: str | Path) -> Path:
    shipped = SHIPPED / f"{path}.toml"
    return shipped if not Path(path).exists() and shipped.exists() else Path(path)


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """``path`` over its base; ``seen`` are the recipes that lead here."""
    seen = (*seen, path.resolve())
    try:
        with open(path, "rb") as file:
            data = tomllib.load(file)
    except FileNotFoundError:
        near = difflib.get_close_matches(str(path), [p.stem for p in SHIPPED.glob("*.toml")], n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise DataError(f"recipe '{path}' is neither a file nor one of those that ship with cuemark{hint}; cuemark "
                        "recipes lists them.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"recipe '{path}' is not readable TOML: {error}.") from None
    base = data.pop("base", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise DataError(f"recipe '{path}': base {base!r} is wrong: it names one recipe, such as \"world_clap\".")
    there = [p for p in (path.parent / base, path.parent / f"{base}.toml", SHIPPED / f"{base}.toml") if p.is_file()]
    other = next((p for p in there if p.resolve() not in seen), None)
    if other is None:
        why = ("leads back to itself; name another" if there else
               "is neither a file beside it nor one of those that ship with cuemark; cuemark recipes lists them")
        raise DataError(f"recipe '{path}': its base '{base}' {why}.")
    return _over(_merged(other, seen), data)


def _over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` over ``base``: tables field by field, everything else whole."""
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


# ---------------------------------------------------------------------------------------------- those that ship


@dataclass(frozen=True)
class Header:
    """What the comment at the top of a recipe says."""

    title: str
    """What it is, and which row of which table."""
    commands: tuple[str, ...]
    """Calls, each on one line."""
    cost: str
    score: str
    lines: tuple[str, ...]
    """The whole comment, as it stands."""


def header(path: str | Path) -> Header:
    """The header of a recipe: a title, commands, ``Cost:`` and ``Score:``; empty where it does not say.

    Raises:
        DataError: no such file, or not text.
    """
    path = _file(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"recipe '{path}' cannot be read: {error}.") from None
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    said = [line.removeprefix("#").strip() for line in lines]
    title = " ".join(said[: said.index("")] if "" in said else said)
    calls = tuple(" ".join(line.split()) for line in "\n".join(said).replace("\\\n", " ").splitlines()
                  if line.startswith("cuemark "))
    whole = " ".join(said)
    cost = re.search(r"\bCost: (.*?)\s*(?=\bScore: |$)", whole)
    score = re.search(r"\bScore: (.*?)\s*(?=\bSettings: |\bSchedule: |$)", whole)
    return Header(title, calls, cost[1] if cost else "", score[1] if score else "", tuple(lines))


def shipped() -> dict[str, Header]:
    """Name -> header of every recipe that ships with cuemark, in the order of their names."""
    return {path.stem: header(path) for path in sorted(SHIPPED.glob("*.toml"))}


def whole(path: str | Path) -> str:
    """A recipe as TOML that needs no base: its header, then every setting it has, from whichever file.

    Raises:
        DataError: see :func:`load_recipe`.
        CallError: likewise.
    """
    load_recipe(path)
    return "\n".join([*header(path).lines, "", *toml_lines(tables(path))]).strip() + "\n"


def toml_lines(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Lines of a table: its values, then the tables in it. JSON's texts, numbers and lists are TOML's too."""
    values = {k: v for k, v in table.items() if not isinstance(v, dict)}
    if path and (values or not table):
        yield from ("", f"[{path}]")
    for name, value in values.items():
        yield f"{_key(name)} = {json.dumps(value, ensure_ascii=False, default=str)}"
    for name, inner in table.items():
        if isinstance(inner, dict):
            yield from toml_lines(inner, f"{path}.{_key(name)}" if path else _key(name))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
