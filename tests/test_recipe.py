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
from cuemark import localizers
from cuemark.clips import ClipConfig, Sampling
from cuemark.encoders import ENCODERS
from cuemark.encoders.clip import Config as Image
from cuemark.encoders.resnet3d import Config as Network
from cuemark.encoders.resnet3d import ResNet3D
from cuemark.encoders.weights import WEIGHTS
from cuemark.errors import CallError, DataError
from cuemark.localizers import LOCALIZERS
from cuemark.loop import Optim
from cuemark.pretraining import OBJECTIVES
from cuemark.pretraining.clap import VARIANTS
from cuemark.recipe import Data, Encoder, Recipe, header, load_recipe, shipped, tables, whole
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
    changes = ["workers=0", "budget_gb=0.5", "checkpoint_every=7", "seen=there", "tensorboard=true"]
    assert mine == load_recipe(path, changes).identity()
    assert set(load_recipe(path).to_json()) - set(mine) == {"workers", "budget_gb", "checkpoint_every", "keep",
                                                           "seen", "tensorboard"}
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
    with pytest.raises(DataError, match=r"missing\.toml' is neither a file nor one .* cuemark recipes lists them"):
        load_recipe(tmp_path / "missing.toml")
    with pytest.raises(DataError, match=r"did you mean 'world_clap'\?"):
        load_recipe("world_clp")
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


def test_an_image_tower_of_random_weights_has_one_pooling(tmp_path: Path):
    path = written(tmp_path, TEXT + '[towers]\npooling = "gap"\n[towers.network]\nimage = 32\npatch = 8\n')
    recipe = load_recipe(path, ["towers.network.width=48", "towers.network.heads=4"])
    assert recipe.towers.network == Image(image=32, patch=8, width=48, heads=4)
    assert build(Recipe, json.loads(json.dumps(recipe.to_json())), "header") == recipe
    for change in ("towers.network.pooling=gap", "towers.network.pooling=frame", "towers.network.frames=8"):
        with pytest.raises(CallError, match=r"pooling|frames"):
            load_recipe(path, [change])
    with pytest.raises(CallError, match=r"leave pooling and frames out of towers\.network"):
        load_recipe(path, ["towers.network.pooling=gap"])
    with pytest.raises(CallError, match=r"patches of 7 pixels do not tile images of 32"):
        load_recipe(path, ["towers.network.patch=7"])


# ------------------------------------------------------------------------------------- those that ship


def test_there_are_recipes():
    assert {"world_tac", "world_tsp", "world_clap", "world_gtad"} <= {path.stem for path in SHIPPED_FILES}


MEANS_OF_PATCHES = ("activitynet_unloc_l", "anetcaptions_unloc_l", "coin_unloc_l", "kinetics_unloc_l")
"""UnLoc's that look at frames without a token: L's of three data sets in the release, and what these begin with."""


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_and_makes_its_system(path: Path):
    recipe = load_recipe(path)
    start = recipe.encoder.start
    images = (start in WEIGHTS and WEIGHTS[start].hub is not None) or str(start).startswith("clip-gap:openai/")
    if start is not None and not start.startswith("runs/") and not images:
        assert WEIGHTS[start].encoder is not None
    network = ENCODERS[WEIGHTS[start].encoder] if start in WEIGHTS and not images else recipe.encoder.network
    with torch.device("meta"):
        if recipe.system in OBJECTIVES:
            objective, module = OBJECTIVES[recipe.system]
            assert recipe.data.videos is not None
            model = objective(build(module.Config, recipe.options, "recipe", "options"), ResNet3D(network), ["a", "b"])
            assert (getattr(model, "global_pooling", None) is None) or recipe.data.features is not None
        else:
            from_frames = images or recipe.towers.network is not None
            assert (recipe.data.features is None) == from_frames
            assert (recipe.data.videos is not None) == from_frames
            assert recipe.towers.network is None or start is None
            width = sum(recipe.options.get("streams") or [8])
            config = localizers.build(recipe.system, recipe.options, width, ["a", "b"]).config
            assert getattr(config, "span", "video") in ("video", "windows")
            if images:
                assert recipe.encoder.text in WEIGHTS
                gap = path.stem.startswith(MEANS_OF_PATCHES)
                assert recipe.towers.pooling == ("gap" if gap else "frame")
                assert start == {"b": "clip-b16", "l": "clip-gap:openai/clip-vit-large-patch14" if gap else "clip-l14"}[
                    "b" if "_b" in path.stem else "l"]
                assert config.width == (512 if "_b" in path.stem else 768)
    assert all(0 <= recipe.optim.factor(step, 100) <= 1 for step in range(100))
    assert not any(re.match(r"/|~|[A-Za-z]:\\", value) for value in recipe.to_json()["data"].values()
                   if isinstance(value, str)), "paths are relative"


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_begins_with_its_command_cost_and_score(path: Path):
    head = header(path)
    assert len(head.title) > 20
    assert head.title.endswith(".")
    recipe = load_recipe(path)
    command = "pretrain" if recipe.system in OBJECTIVES else "train"
    commands = [shlex.split(part) for call in head.commands for part in call.split("&&")]
    assert any(words[:3] == ["cuemark", command, path.stem] and "--out" in words for words in commands)
    for words in commands:
        if "--set" in words and words[2] == path.stem:
            load_recipe(path, [change for flag, change in pairwise(words) if flag == "--set"])
        if words[1] == "gvf":  # what it writes is what the recipe reads
            assert words[words.index("--out") + 1] == recipe.data.features
            assert recipe.options["global_feature"] == ("mean" if "mean" in words else "max")
    assert re.search(r"\b(second|minute|hour|day)s?\b", head.cost)
    assert re.match(r"\d|no score published|see |average mAP|mAP", head.score)
    assert "Score:" not in head.cost


def test_the_name_says_what_a_recipe_is():
    """``<dataset>_<system>[_variant]_<encoder>``; a localizer has no encoder."""
    for name in shipped():
        dataset, system, *rest = name.split("_")
        recipe = load_recipe(name)
        assert recipe.system == system
        assert dataset in ("world", "kinetics", "activitynet", "activitynet160", "thumos14", "charades", "tacos",
                           "anetcaptions", "qvhighlights", "coin")
        if dataset == "world" or system in LOCALIZERS:
            continue
        encoder = "_".join(rest[-2:])
        start = recipe.encoder.start
        assert (ENCODERS[WEIGHTS[start].encoder] if start else recipe.encoder.network) == ENCODERS[encoder]
        assert (recipe.data.classes is not None) == (dataset == "activitynet160")
        variant = "-".join(rest[:-2])
        if system == "clap":
            extra = {"captions": False} if dataset == "thumos14" else {}  # it has none
            assert recipe.options == {**VARIANTS[variant or "full"], **extra}
        if system == "tsp":
            wanted = {"": ("max", 1.0), "avg-gvf": ("mean", 1.0), "no-gvf": ("none", 1.0), "no-class": ("max", 0.0)}
            assert (recipe.options["global_feature"], recipe.options.get("weight_class", 1.0)) == wanted[variant]


RELEASED = {"tsp-activitynet-r2plus1d_34": (1e-4, 0.002), "tsp-thumos14-r2plus1d_34": (1e-4, 0.004),
            "tac-activitynet-r2plus1d_34": (1e-4, 0.002), "tac-thumos14-r2plus1d_34": (1e-5, 0.002),
            "tsp-activitynet-avg_gvf-r2plus1d_34": (1e-4, 0.004), "tsp-activitynet-no_gvf-r2plus1d_34": (1e-4, 0.004),
            "tsp-activitynet-r2plus1d_18": (1e-4, 0.002), "tac-activitynet-r2plus1d_18": (1e-4, 0.004),
            "tsp-activitynet-r3d_18": (1e-4, 0.002), "tac-activitynet-r3d_18": (1e-3, 0.01)}


@pytest.mark.parametrize("name", [n for n, w in WEIGHTS.items() if w.source.startswith("TSP")])
def test_every_released_encoder_of_tsp_has_its_recipe(name: str):
    """Rates as the names of the release's files have them; the three of Kinetics were not trained by TSP."""
    system, dataset, *variant, encoder = name.split("-")
    recipe = load_recipe("_".join([dataset, system, *variant, encoder]))
    if dataset == "kinetics":
        assert recipe.encoder.start is None
        return
    assert (recipe.optim.lr, recipe.optim.lr_heads) == RELEASED[name]
    if rates := re.search(r"backbone_lr_([\d.]+)-fc_lr_([\d.]+)", WEIGHTS[name].file):
        assert (recipe.optim.lr, recipe.optim.lr_heads) == (float(rates[1]), float(rates[2]))
    assert recipe.encoder.start == f"tac-kinetics-{encoder}"
    assert recipe.encoder.sampling == Sampling(rule="tsp", min_background=5 if dataset == "activitynet" else 1)
    o = recipe.optim
    assert (o.name, o.momentum, o.weight_decay, o.batch, o.frozen) == ("sgd", 0.9, 0.005, 32, ("encoder.stem",))
    assert (recipe.data.train, recipe.data.validate) == (
        (("training",), ("validation",)) if dataset == "activitynet" else (("validation",), ("testing",)))


@pytest.mark.parametrize(("name", "table", "updates", "tokens"), [
    ("activitynet_unloc_b", 6, None, 16), ("activitynet_unloc_l_zero50", 6, None, 16),
    ("anetcaptions_unloc_b", 5, 20 * 155, 32), ("anetcaptions_unloc_l", 5, 40 * 155, 16),
    ("charades_unloc_b", 5, None, 16), ("charades_unloc_l", 5, None, 16), ("qvhighlights_unloc_b", 5, None, 32),
    ("qvhighlights_unloc_l", 5, None, 32), ("coin_unloc_l", 7, 55 * 132, 16)])
def test_unlocs_rows_say_their_table_and_have_the_updates_and_tokens_of_the_release(
        name: str, table: int, updates: int | None, tokens: int):
    """Tables of arXiv 2308.11062; the release counts 9,941 videos of ActivityNet Captions and 8,461 of COIN, by 64.

    Where the release's texts were embedded beforehand (L of ActivityNet, COIN), 16 tokens are Table 3's.
    """
    assert f"Table {table}" in header(name).title
    assert load_recipe(name).optim.steps == updates
    assert load_recipe(name).encoder.max_tokens == tokens


def test_thumos14s_gtad_has_the_settings_of_its_release():
    recipe, config = load_recipe("thumos14_gtad"), LOCALIZERS["gtad"].config_type
    assert build(config, recipe.options, "recipe") == config.thumos()
    assert (recipe.optim.lr, recipe.optim.batch, recipe.optim.clip_norm) == (4e-4, 8, 1.0)


def test_activitynets_bmn_has_the_settings_of_its_release():
    recipe, config = load_recipe("activitynet_bmn"), LOCALIZERS["bmn"].config_type
    assert build(config, recipe.options, "recipe") == config(names="localizer")
    o = recipe.optim
    assert (o.name, o.lr, o.weight_decay, o.batch, o.epochs) == ("adam", 1e-3, 1e-4, 16, 9)
    updates = 627  # of an epoch: 10,024 videos
    factors = [o.factor(step, 9 * updates) for step in range(9 * updates)]
    assert factors == pytest.approx([1.0] * 7 * updates + [0.1] * 2 * updates)


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_a_recipe_in_full_is_the_same_recipe(path: Path, tmp_path: Path):
    copy = tmp_path / "copy.toml"
    copy.write_text(whole(path), encoding="utf-8")
    assert "base" not in tomllib.loads(copy.read_text())
    assert load_recipe(copy) == load_recipe(path)
    assert header(copy) == header(path)


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
    for name in ("activitynet_tac_r2plus1d_34", "activitynet_tsp_r2plus1d_18"):
        assert optim_of(name) == pytest.approx([0.25, 0.75, 1, 1, 1e-2, 1e-2, 1e-4, 1e-4], rel=1e-4)
        assert load_recipe(name).optim.batch == 32
    clap = "activitynet_clap_r2plus1d_18"
    assert optim_of(clap) == pytest.approx([1, 1, 1e-2, 1e-2, 1e-4, 1e-4, 1e-6, 1e-6], rel=1e-4)
    assert load_recipe(clap).optim.lr_heads == 2e-2


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.stem)
def test_what_a_shipped_recipe_freezes_exists(path: Path):
    recipe = load_recipe(path)
    with torch.device("meta"):
        names = [f"encoder.{name}" for name, _ in ResNet3D(recipe.encoder.network).named_parameters()]
    for prefix in recipe.optim.frozen:
        assert any(name.startswith(prefix) for name in names)


# ------------------------------------------------------------------------------------- bases


def put(folder: Path, **files: str) -> Path:
    """Recipes of these names; the folder."""
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def test_a_recipe_is_merged_over_its_base(tmp_path: Path):
    put(tmp_path, mine=TEXT,
        middle='base = "mine"\nseed = 5\n[optim]\ndecay_at = [0.9]\n[encoder.network]\nwidth = 8',
        leaf='base = "middle.toml"\n[options]\ntemperature = 0.3\n[data]\nfeatures = "f"')
    mine, leaf = load_recipe(tmp_path / "mine.toml"), load_recipe(tmp_path / "leaf.toml", ["seed=6"])
    assert leaf.seed == 6
    assert leaf.optim.decay_at == (0.9,)  # a list is replaced whole
    assert (leaf.optim.name, leaf.optim.steps) == ("adamw", 7)
    assert leaf.encoder.network == Network(kind="r3d", blocks=(1, 1, 1, 1), width=8)
    assert leaf.options == {"temperature": 0.3, "same_text": "positive"}
    assert leaf.data == Data(mine.data.truth, mine.data.videos, mine.data.captions, "f", ("training",), ())
    assert load_recipe(tmp_path / "mine.toml") == mine
    assert tables(tmp_path / "leaf.toml")["seed"] == 5


def test_a_base_may_ship_with_cuemark(tmp_path: Path):
    put(tmp_path, mine='base = "world_tac"\nseed = 8', world_tsp='base = "world_tsp"\nseed = 8')
    assert load_recipe(tmp_path / "mine.toml") == load_recipe("world_tac", ["seed=8"])
    assert load_recipe(tmp_path / "world_tsp.toml") == load_recipe("world_tsp", ["seed=8"])  # not itself
    put(tmp_path, world_tac='base = "world_clap"')
    assert load_recipe(tmp_path / "mine.toml") == load_recipe("world_clap", ["seed=8"])  # the one beside it is nearer


@pytest.mark.parametrize(("files", "text"), [
    ({"a": 'base = "a"'}, "a.toml': its base 'a' leads back to itself; name another"),
    ({"a": 'base = "b"', "b": 'base = "c"', "c": 'base = "b"'}, "c.toml': its base 'b' leads back"),
    ({"a": 'base = "b"'}, "a.toml': its base 'b' is neither a file beside it nor one of those that ship"),
    ({"a": 'base = ["b"]'}, "a.toml': base ['b'] is wrong"),
    ({"a": 'base = "b"', "b": "[x"}, "b.toml' is not readable TOML"),
])
def test_bases_that_are_none_are_one_sentence(tmp_path: Path, files: dict[str, str], text: str):
    put(tmp_path, **files)
    with pytest.raises(DataError) as caught:
        load_recipe(tmp_path / "a.toml")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_base_lacks_or_spells_wrong_is_named(tmp_path: Path):
    put(tmp_path, a='base = "b"\n[optim]\nstep = 3', b=TEXT, c='base = "d"', d='system = "tac"')
    with pytest.raises(CallError, match=r"recipe 'a\.toml': unknown setting 'optim\.step'"):
        load_recipe(tmp_path / "a.toml")
    with pytest.raises(DataError, match=r"recipe 'c\.toml': 'data' is missing"):
        load_recipe(tmp_path / "c.toml")


def test_a_recipe_without_a_header_says_nothing(tmp_path: Path):
    put(tmp_path, a=TEXT)
    head = header(tmp_path / "a.toml")
    assert (head.title, head.commands, head.cost, head.score, head.lines) == ("", (), "", "", ())
    with pytest.raises(DataError, match=r"nowhere\.toml' cannot be read"):
        header(tmp_path / "nowhere.toml")


def test_odd_names_and_texts_survive_being_written_in_full(tmp_path: Path):
    put(tmp_path, a='system = "tac"\ndata.truth = "ä \\" \\\\ #.json"\n[options]\n"a b" = "x"\n"ü" = [1.5, true]')
    text = whole(tmp_path / "a.toml")
    assert tomllib.loads(text) == tables(tmp_path / "a.toml")
    assert tables(tmp_path / "a.toml")["data"]["truth"] == 'ä " \\ #.json'
