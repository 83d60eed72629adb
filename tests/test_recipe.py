"""Recipes: read, changed, refused; and those that ship, which say what they cost and what they give."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import cuemark
from cuemark.clips import ClipConfig, Sampling
from cuemark.encoders.resnet3d import Config as Network
from cuemark.encoders.resnet3d import ResNet3D
from cuemark.errors import CallError, DataError
from cuemark.localizers import LOCALIZERS
from cuemark.loop import Optim
from cuemark.pretraining import OBJECTIVES
from cuemark.recipe import Data, Encoder, Recipe, load_recipe
from cuemark.settings import build

SHIPPED_FILES = sorted((Path(cuemark.__file__).parent / "recipes").glob("*.toml"))

TEXT = """
system = "clap"
seed = 3
[data]
truth = "truth.json"
videos = "videos"
captions = "captions.json"
validate = []
[encoder]
text = "minilm"
[encoder.network]
kind = "r3d"
blocks = [1, 1, 1, 1]
[encoder.clip]
fixed_size = [128, 171]
[encoder.sampling]
rule = "tsp"
[options]
temperature = 0.1
same_text = "positive"
[optim]
name = "adamw"
decay_at = [0.25, 0.5]
frozen = ["encoder.stem"]
steps = 7
"""


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_is_read(tmp_path: Path):
    assert load_recipe(written(tmp_path)) == Recipe(
        system="clap", seed=3,
        data=Data("truth.json", "videos", "captions.json", None, ("training",), ()),
        encoder=Encoder(None, Network(kind="r3d", blocks=(1, 1, 1, 1)), ClipConfig(fixed_size=(128, 171)),
                        Sampling(rule="tsp"), "minilm"),
        options={"temperature": 0.1, "same_text": "positive"},
        optim=Optim(name="adamw", decay_at=(0.25, 0.5), frozen=("encoder.stem",), steps=7))


def test_little_is_needed(tmp_path: Path):
    recipe = load_recipe(str(written(tmp_path, 'system = "tac"\ndata.truth = "t"')))
    assert recipe == Recipe("tac", Data("t"))


def test_it_survives_its_own_json(tmp_path: Path):
    """As a checkpoint's header holds it."""
    recipe = load_recipe(written(tmp_path))
    header = json.dumps(recipe.to_json(), allow_nan=False)
    assert json.loads(header) == recipe.to_json()
    assert build(Recipe, json.loads(header), "header") == recipe


def test_how_a_run_is_worked_at_does_not_make_another_run(tmp_path: Path):
    path = written(tmp_path)
    mine = load_recipe(path).identity()
    changes = ["workers=0", "budget_gb=0.5", "checkpoint_every=7", "tensorboard=true"]
    assert mine == load_recipe(path, changes).identity()
    assert set(load_recipe(path).to_json()) - set(mine) == {"workers", "budget_gb", "checkpoint_every", "tensorboard"}
    for change in ("seed=4", "optim.lr=1e-5", "data.validate=['x']", "options.mask=false", "validate_every=3",
                   "system=tsp", "encoder.text=bert"):
        assert load_recipe(path, [change]).identity() != mine, change


def test_changes_come_after_the_file_in_their_order(tmp_path: Path):
    recipe = load_recipe(written(tmp_path), [
        "optim.steps=200", "optim.steps=300", "optim.decay_at=[0.5]", "encoder.sampling.p_caption=0", "seed=4",
        "data.train=['a', 'b']", "options.temperature=0.2", "options.mask=false", "encoder.text=bert", "optim.lr=1e-5"])
    assert (recipe.optim.steps, recipe.optim.decay_at, recipe.optim.lr, recipe.seed) == (300, (0.5,), 1e-5, 4)
    assert recipe.encoder.sampling == Sampling(rule="tsp", p_caption=0.0)
    assert recipe.data.train == ("a", "b")
    assert recipe.options == {"temperature": 0.2, "same_text": "positive", "mask": False}
    assert recipe.encoder.text == "bert"
    assert recipe.optim.name == "adamw"


def test_a_change_may_add_what_the_file_lacks(tmp_path: Path):
    assert load_recipe(written(tmp_path, 'system = "tac"'), ["data.truth=t.json"]).data.truth == "t.json"


@pytest.mark.parametrize(("change", "path", "near"), [
    ("optim.step=3", "optim.step", "optim.steps"), ("optm.steps=3", "optm", "optim"), ("sed=1", "sed", "seed"),
    ("encoder.clip.crp=3", "encoder.clip.crp", "encoder.clip.crop"),
    ("encoder.network.widht=3", "encoder.network.widht", "encoder.network.width")])
def test_an_unknown_field_is_answered(tmp_path: Path, change: str, path: str, near: str):
    with pytest.raises(CallError) as error:
        load_recipe(written(tmp_path), [change])
    assert str(error.value).startswith(f"recipe 'mine.toml': unknown setting '{path}'; did you mean '{near}'? Known: ")


@pytest.mark.parametrize(("change", "message"), [
    ("optim.steps=1.5", r"optim\.steps 1\.5 is wrong"), ("optim.name=sdg", r"optim\.name 'sdg' is wrong"),
    ("data.train=training", r"data\.train 'training' is wrong"), ("optim=3", "optim 3 is wrong"),
    ("encoder.clip.mean=[0.1]", r"'encoder\.clip\.mean\.1' is missing"), ("options=3", "options 3 is wrong"),
    ("encoder.sampling.short=middle", r"encoder\.sampling\.short 'middle' is wrong: .*'drop' or 'centre'"),
    ("validate_every=often", "validate_every 'often' is wrong")])
def test_a_wrong_value_is_named(tmp_path: Path, change: str, message: str):
    with pytest.raises(DataError, match=rf"^recipe 'mine\.toml': {message}"):
        load_recipe(written(tmp_path), [change])


def test_a_missing_value_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"'data' is missing"):
        load_recipe(written(tmp_path, 'system = "tac"'))
    with pytest.raises(DataError, match=r"'data\.truth' is missing"):
        load_recipe(written(tmp_path, 'system = "tac"\n[data]\nvideos = "v"'))


def test_what_is_no_recipe_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"missing\.toml' is neither a file nor one of those that ship") as e:
        load_recipe(tmp_path / "missing.toml")
    assert all(path.stem in str(e.value) for path in SHIPPED_FILES)
    with pytest.raises(DataError, match=r"recipe '.*' is not readable TOML"):
        load_recipe(tmp_path)
    with pytest.raises(DataError, match=r"recipe '.*mine\.toml' is not readable TOML: .*line 2"):
        load_recipe(written(tmp_path, 'system = "tac"\n[data\n'))
    with pytest.raises(DataError, match="is not readable TOML"):
        load_recipe(written(tmp_path, 'system = "tac"\nsystem = "tsp"'))
    path = written(tmp_path)
    path.write_bytes(b'system = "\xff"')
    with pytest.raises(DataError, match=r"recipe '.*mine\.toml' is not readable TOML"):
        load_recipe(path)


@pytest.mark.parametrize("change", ["optim.batch=0", "optim.batch=-1", "optim.epochs=-1.0", "optim.steps=-5",
                                    "optim.warmup=1.5", "optim.lr=nan", "encoder.clip.frames=0", "encoder.clip.fps=0",
                                    "encoder.sampling.clips_per_region=0", "encoder.sampling.p_caption=2"])
def test_an_impossible_value_is_refused(tmp_path: Path, change: str):
    with pytest.raises(CallError, match=change.split("=")[0].split(".")[-1]):
        load_recipe(written(tmp_path), [change])


# ------------------------------------------------------------------------------------- those that ship


def header(path: Path) -> list[str]:
    """The comment a recipe begins with, line by line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def test_there_are_recipes():
    assert {"world_tac", "world_tsp", "world_clap", "world_gtad"} <= {path.stem for path in SHIPPED_FILES}


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads(path: Path):
    recipe = load_recipe(path)
    if recipe.system in OBJECTIVES:
        config = OBJECTIVES[recipe.system][1].Config
        assert recipe.data.videos is not None
    else:
        config = LOCALIZERS[recipe.system].config_type
        assert recipe.data.features is not None
    build(config, recipe.options, "recipe", "options")
    assert all(0 <= recipe.optim.factor(step, 100) <= 1 for step in range(100))
    assert not any(re.match(r"/|~|[A-Za-z]:\\", value) for value in recipe.to_json()["data"].values()
                   if isinstance(value, str)), "paths are relative"


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_begins_with_its_command_cost_and_score(path: Path):
    lines = header(path)
    assert len(lines[0]) > 20
    assert lines[0].endswith(".")
    system = tomllib.loads(path.read_text())["system"]
    command = "pretrain" if system in OBJECTIVES else "train"
    whole = "\n".join(lines).replace("\\\n", " ").splitlines()
    commands = [shlex.split(part) for line in whole if line.startswith("cuemark ") for part in line.split("&&")]
    assert any(words[:3] == ["cuemark", command, path.stem] and "--out" in words for words in commands)
    for words in commands:
        if "--set" in words and words[2] == path.stem:
            load_recipe(path, [change for flag, change in pairwise(words) if flag == "--set"])
    text = " ".join(lines)
    assert re.search(r"\bCost: .*\b(second|minute|hour|day)s?\b", text)
    assert re.search(r"\bScore: \S+", text)


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_goes_by_its_name(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(path.stem) == load_recipe(Path(path.stem)) == load_recipe(path)
    assert load_recipe(path.stem, ["seed=9"]).seed == 9


def test_a_file_here_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path).rename(tmp_path / "world_tac")
    assert load_recipe("world_tac").system == "clap"


def optim_of(name: str) -> list[float]:
    """The rate's factor in the middle of each of the 8 epochs."""
    optim = load_recipe(name).optim
    assert (optim.name, optim.epochs, optim.steps, optim.lr) == ("sgd", 8, None, 1e-4)
    return [optim.factor(2 * epoch + 1, 16) for epoch in range(8)]


def test_published_schedules():
    """TSP section 4.1 (warm-up over 2 epochs, x 0.01 at epochs 4 and 6); CLAP section 4.1 (x 0.01 every 2 epochs)."""
    for name in ("activitynet_tac", "activitynet_tsp"):
        assert optim_of(name) == pytest.approx([0.25, 0.75, 1, 1, 1e-2, 1e-2, 1e-4, 1e-4], rel=1e-4)
        assert load_recipe(name).optim.batch == 32
    assert optim_of("activitynet_clap") == pytest.approx([1, 1, 1e-2, 1e-2, 1e-4, 1e-4, 1e-6, 1e-6], rel=1e-4)
    assert load_recipe("activitynet_clap").optim.lr_heads == 2e-2


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_what_a_shipped_recipe_freezes_exists(path: Path):
    recipe = load_recipe(path)
    with torch.device("meta"):
        names = [f"encoder.{name}" for name, _ in ResNet3D(recipe.encoder.network).named_parameters()]
    for prefix in recipe.optim.frozen:
        assert any(name.startswith(prefix) for name in names)
