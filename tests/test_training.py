"""The two trainings on a tiny world: from recipes that ship with cuemark, cut to a few updates, to checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_GTAD, make_encoder, shared
from tiny_clip import save_clip

from cuemark import checkpoint, folders, training
from cuemark.datasets import FORMATS
from cuemark.datasets.world import World
from cuemark.encoders import weights
from cuemark.encoders.clip import MEAN, Frames
from cuemark.encoders.clip import Config as Image
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, CuemarkError, DataError, ModelError, VideoError
from cuemark.extraction import ExtractConfig, extract, features_of
from cuemark.feature_files import write_global
from cuemark.feature_folder import FeatureFolder, global_features
from cuemark.localizers.questions import FeatureData, Row, predict
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.loop import Result
from cuemark.recipe import Data, Recipe, Towers, load_recipe
from cuemark.segments import Segment, labels_of, read_truth, subset, write_truth
from cuemark.training import ENCODER_FILE, LOCALIZER_FILE, SWEEP_FILE, pretrain, sweep, train

CUT = ["encoder.network.width=4", "encoder.clip.short_side=20", "encoder.clip.crop=16", "optim.batch=4",
       "optim.steps=3", "optim.precision=fp32", "workers=0"]
GTAD = [f"options.{k}={v}" for k, v in SMALL_GTAD.items()]


def recipe(world: World, system: str, *changes: str) -> Recipe:
    """``world_<system>`` on ``world``, with a network and a number of updates for tests."""
    paths = [f"data.truth={json.dumps(str(world.folder / 'truth.json'))}"]
    if system != "gtad":
        paths.append(f"data.videos={json.dumps(str(world.folder / 'videos'))}")
    if system == "clap":
        paths.append(f"data.captions={json.dumps(str(world.folder / 'captions.json'))}")
    cut = [c for c in CUT if not c.startswith("encoder")] + GTAD if system == "gtad" else CUT
    return load_recipe(f"world_{system}", [*paths, *cut, *changes])


@dataclass
class Runs:
    """What was trained once for all tests, each in a folder of its name."""

    folder: Path
    recipes: dict[str, Recipe]
    results: dict[str, Result]
    features: FeatureFolder
    """Of TAC's encoder."""


@pytest.fixture(scope="module")
def runs(tiny_world, tiny_text, tmp_path_factory) -> Runs:
    """TAC, TSP and CLAP from it, and a G-TAD on TAC's features."""
    out = tmp_path_factory.mktemp("runs")
    start = f"encoder.start={json.dumps(str(out / 'tac' / ENCODER_FILE))}"
    features = f"data.features={json.dumps(str(out / 'features'))}"
    recipes = {
        "tac": recipe(tiny_world, "tac"),
        "tsp": recipe(tiny_world, "tsp", start, features),
        "tsp_none": recipe(tiny_world, "tsp", start, "options.global_feature=none", "optim.steps=2"),
        "clap": recipe(tiny_world, "clap", start, f"encoder.text={json.dumps(str(tiny_text))}"),
        "gtad": recipe(tiny_world, "gtad", features, start, "validate_every=2"),
    }
    results = {}
    for name, one in recipes.items():
        results[name] = (train if name == "gtad" else pretrain)(one, out / name)[1]
        if name == "tac":
            videos = {v: p for v, p in tiny_world.videos.items() if tiny_world.truth[v].subset != "trimmed"}
            extract(videos, VideoEncoder.load(out / "tac" / ENCODER_FILE), out / "features", ExtractConfig(stride=4))
    return Runs(out, recipes, results, FeatureFolder.open(out / "features"))


# ---------------------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize("system", ["tac", "tsp", "tsp_none", "clap"])
def test_the_encoder_loads_with_nothing_beside_it(runs, tiny_world, tmp_path, system):
    moved = shutil.copy(runs.folder / system / ENCODER_FILE, tmp_path / "alone.safetensors")
    encoder = VideoEncoder.load(moved)
    assert encoder.dim == 32
    assert (encoder.clip.short_side, encoder.clip.crop) == (20, 16)
    assert encoder.name == f"{system[:4].rstrip('_')} r2plus1d"
    part = "trimmed" if system == "tac" else "training"
    assert encoder.classes == tuple(labels_of(subset(tiny_world.truth, part)))
    assert encoder.class_head["weight"].shape == (len(encoder.classes), 32)
    assert encoder.made["system"] == runs.recipes[system].system
    assert encoder.made["recipe"] == runs.recipes[system].to_json()
    found = features_of(tiny_world.videos["testing_0000"], encoder)[0].data
    assert found.shape[1] == 32
    assert np.isfinite(found).all()


def test_each_objective_leaves_its_own_parts(runs):
    extra = {name: VideoEncoder.load(runs.folder / name / ENCODER_FILE).extra for name in ("tac", "tsp", "tsp_none",
                                                                                           "clap")}
    assert extra["tac"] == {}
    assert extra["tsp"]["region_head.weight"].shape == (2, 64)  # beside the global video feature
    assert extra["tsp_none"]["region_head.weight"].shape == (2, 32)
    assert {name.partition(".")[0] for name in extra["clap"]} == {
        "project_video", "project_text", "region_head", "log_scale"}


def test_training_changes_the_encoder_and_starts_from_the_given_one(runs):
    digests = {name: VideoEncoder.load(runs.folder / name / ENCODER_FILE).weights
               for name in ("tac", "tsp", "tsp_none", "clap")}
    assert len(set(digests.values())) == 4
    tac, tsp = (VideoEncoder.load(runs.folder / n / ENCODER_FILE).network.stem[0].weight for n in ("tac", "tsp"))
    fresh = make_encoder(1).network.stem[0].weight
    assert (tac - tsp).abs().max() < 0.1 < (tac - fresh).abs().max()


def test_results_say_what_happened(runs):
    for name, result in runs.results.items():
        assert result.steps == runs.recipes[name].optim.steps
        assert result.skipped == 0
        assert all(np.isfinite(v) for v in result.losses.values())
    assert runs.results["tac"].best is None  # it does not validate
    assert {"class", "region", "score"} <= runs.results["tsp"].best.keys()
    parts = {"class", "region"}
    assert runs.results["tsp"].losses.keys() == {"loss", *parts, "class_accuracy", "region_accuracy"}
    assert runs.results["clap"].losses.keys() == {*runs.results["tsp"].losses, "contrast"}
    for result in (runs.results["tsp"], runs.results["clap"]):
        assert result.best["score"] == pytest.approx((result.best["class"] + result.best["region"]) / 2)
        assert 0 <= result.best["score"] <= 1


@pytest.mark.parametrize("system", ["tac", "tsp", "clap", "gtad"])
def test_a_finished_run_is_not_trained_again(runs, monkeypatch, system):
    out = runs.folder / system
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        monkeypatch.setattr(kind, "step", lambda *a, **k: pytest.fail("trained again"))
    _, result = (train if system == "gtad" else pretrain)(runs.recipes[system], out)
    assert (result.steps, result.best) == (runs.results[system].steps, runs.results[system].best)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_the_same_recipe_gives_the_same_bytes(runs, tmp_path):
    pretrain(runs.recipes["tsp"], tmp_path)
    assert (tmp_path / ENCODER_FILE).read_bytes() == (runs.folder / "tsp" / ENCODER_FILE).read_bytes()


def test_threads_change_nothing_and_the_seed_everything(runs, tmp_path):
    tac = (runs.folder / "tac" / ENCODER_FILE)
    threads, _ = pretrain(replace(runs.recipes["tac"], workers=2, budget_gb=0.0), tmp_path / "threads")
    assert threads.weights == VideoEncoder.load(tac).weights
    seed, _ = pretrain(replace(runs.recipes["tac"], seed=1), tmp_path / "seed")
    assert seed.weights != VideoEncoder.load(tac).weights


def test_another_recipe_does_not_go_on_in_the_folder(runs):
    before = (runs.folder / "tac" / ENCODER_FILE).read_bytes()
    with pytest.raises(ModelError, match="other settings"):
        pretrain(replace(runs.recipes["tac"], seed=1), runs.folder / "tac")
    assert (runs.folder / "tac" / ENCODER_FILE).read_bytes() == before


def test_other_captions_under_the_same_name_are_another_run(runs, tiny_world, tmp_path):
    captions = tmp_path / "captions.json"
    shutil.copy(tiny_world.folder / "captions.json", captions)
    one = without(runs.recipes["clap"], captions=str(captions))
    pretrain(one, tmp_path / "run")
    before = (tmp_path / "run" / ENCODER_FILE).read_bytes()
    pretrain(one, tmp_path / "run")
    assert (tmp_path / "run" / ENCODER_FILE).read_bytes() == before
    captions.write_text(captions.read_text().replace("star", "cube").replace("circle", "cube"))
    with pytest.raises(ModelError, match="other settings"):
        pretrain(one, tmp_path / "run")


def test_one_run_at_a_time_in_a_folder(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE", 0.1)
    for make, name in ((pretrain, "tac"), (train, "gtad")):
        with folders.locked(tmp_path / name), pytest.raises(CuemarkError, match="another run is at work"):
            make(runs.recipes[name], tmp_path / name)
        make(runs.recipes[name], tmp_path / name)


def test_a_localizer_trains_without_validation(runs, tmp_path):
    _, result = train(without(runs.recipes["gtad"], validate=()), tmp_path / "out")
    assert result.best is None
    assert (tmp_path / "out" / LOCALIZER_FILE).exists()


def test_unknown_systems(runs, tmp_path):
    with pytest.raises(CallError, match=r"unknown objective 'tacc'; did you mean 'tac'\? Known: clap, tac, tsp"):
        pretrain(replace(runs.recipes["tac"], system="tacc"), tmp_path / "out")
    with pytest.raises(CallError, match=r"unknown localizer 'gtda'; did you mean 'gtad'\? Known: .*gtad"):
        train(replace(runs.recipes["gtad"], system="gtda"), tmp_path / "out")
    with pytest.raises(CallError, match="temprature"):
        pretrain(replace(runs.recipes["clap"], options={"temprature": 1.0}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def without(one: Recipe, **changes) -> Recipe:
    return replace(one, data=replace(one.data, **changes))


CASES: dict[str, tuple[str, dict, type[CuemarkError], str]] = {
    "no videos": ("tac", {"videos": None}, DataError, r"data\.videos"),
    "no such folder of videos": ("tac", {"videos": "nowhere"}, VideoError, "'nowhere' does not exist"),
    "no captions": ("clap", {"captions": "nowhere.json"}, DataError, r"nowhere\.json"),
    "no truth": ("tac", {"truth": "nowhere.json"}, DataError, r"nowhere\.json"),
    "no features": ("tsp", {"features": None}, DataError, r"data\.features.*options\.global_feature"),
    "no features folder": ("tsp", {"features": "nowhere"}, DataError, "nowhere"),
    "no such subset": ("tac", {"train": ("training2",)}, DataError, "subset 'training2'; the truth has: testing"),
    "no subset to validate": ("tsp", {"validate": ("valid",)}, DataError, "subset 'valid'"),
    "features for a localizer": ("gtad", {"features": None}, DataError, r"data\.features"),
    "features folder for a localizer": ("gtad", {"features": "nowhere"}, DataError, "nowhere"),
    "features of other videos": ("gtad", {"train": ("trimmed",)}, DataError, "none of the 6 training videos; 'trimmed"),
    "global features of other videos": ("tsp", {"train": ("trimmed",)}, DataError, "6 videos have no global video"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_missing_is_one_sentence(runs, tmp_path, name):
    system, changes, kind, text = CASES[name]
    with pytest.raises(kind, match=text) as caught:
        (train if system == "gtad" else pretrain)(without(runs.recipes[system], **changes), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / ENCODER_FILE).exists()
    assert not (tmp_path / "out" / LOCALIZER_FILE).exists()


def test_a_missing_video_is_named(runs, tiny_world, tmp_path):
    for path in sorted(tiny_world.videos.values())[:-1]:
        (tmp_path / path.name).symlink_to(path)
    gone = sorted(tiny_world.videos)[-1]
    with pytest.raises(DataError, match=f"'{gone}'"):
        pretrain(without(runs.recipes["tsp_none"], videos=str(tmp_path), validate=("validation",)), tmp_path / "out")


def test_global_features_of_another_width_are_refused(runs, tiny_world, tmp_path):
    wide = make_encoder(0)
    wide.network = type(wide.network)(replace(wide.network.config, width=8)).eval()
    extract({v: tiny_world.videos[v] for v in ("training_0000",)}, wide, tmp_path / "wide")
    with pytest.raises(DataError, match=r"width 64 .* has 32"):
        pretrain(without(runs.recipes["tsp"], features=str(tmp_path / "wide")), tmp_path / "out")


# ---------------------------------------------------------------------------------------------- localizers


def test_the_localizer_loads_with_nothing_beside_it(runs, tiny_world, tmp_path):
    moved = shutil.copy(runs.folder / "gtad" / LOCALIZER_FILE, tmp_path / "alone.safetensors")
    model = TrainedLocalizer.load(moved)
    assert model.classes == tuple(labels_of(subset(tiny_world.truth, "training")))
    assert model.extraction.stride == 4
    assert model.encoder is not None
    assert model.encoder.weights == runs.features.meta["weights"] == model.features["weights"]
    assert model.made["missing"] == 0
    assert model.made["scores"] == runs.results["gtad"].best
    found = predict(model.network, {"a": runs.features["testing_0000"]})["a"]
    assert found
    assert {s.label for s in found} <= set(model.classes)


def test_a_localizer_can_be_trained_without_an_encoder(runs, tmp_path):
    bare = replace(runs.recipes["gtad"], encoder=replace(runs.recipes["gtad"].encoder, start=None))
    trained, result = train(bare, tmp_path / "bare")
    assert trained.encoder is None
    assert TrainedLocalizer.load(tmp_path / "bare" / LOCALIZER_FILE).encoder is None
    assert result.best["step"] in (2, 3)
    given, _ = train(bare, tmp_path / "given", VideoEncoder.load(runs.folder / "tac" / ENCODER_FILE))
    assert given.encoder is not None
    same = [checkpoint.section(checkpoint.load(tmp_path / n / LOCALIZER_FILE)[0], "network") for n in ("bare", "given")]
    assert all(torch.equal(same[0][k], same[1][k]) for k in same[0])


def test_truth_may_be_in_any_format(runs, tiny_world, tmp_path):
    FORMATS["csv"].write(tmp_path / "labels.csv", tiny_world.truth)
    given = without(runs.recipes["gtad"], truth=str(tmp_path / "labels.csv"))
    trained, _ = train(given, tmp_path / "out")
    known, _ = train(runs.recipes["gtad"], runs.folder / "gtad")
    assert trained.classes == known.classes


def test_features_of_another_encoder_are_refused(runs, tmp_path):
    other = make_encoder(5)
    with pytest.raises(DataError) as caught:
        train(runs.recipes["gtad"], tmp_path / "out", other)
    assert other.weights in str(caught.value)
    assert runs.features.meta["weights"] in str(caught.value)
    other.save(tmp_path / "other.safetensors")
    named = replace(runs.recipes["gtad"].encoder, start=str(tmp_path / "other.safetensors"))
    with pytest.raises(DataError, match=other.weights):
        train(replace(runs.recipes["gtad"], encoder=named), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_features_do_not_go_on_with_a_run(runs, tiny_features):
    with pytest.raises(ModelError, match="other settings"):
        train(without(replace(runs.recipes["gtad"], encoder=replace(runs.recipes["gtad"].encoder, start=None)),
                      features=str(tiny_features.folder)), runs.folder / "gtad")


def test_names_from_the_encoder(runs, tmp_path):
    """Its class head becomes the localizer's, whose classes are the same."""
    names = replace(runs.recipes["gtad"], options=runs.recipes["gtad"].options | {"names": "encoder"})
    encoder = VideoEncoder.load(runs.folder / "tac" / ENCODER_FILE)
    trained, _ = train(names, tmp_path)
    tensors = checkpoint.section(checkpoint.load(tmp_path / LOCALIZER_FILE)[0], "network")
    rows = [encoder.classes.index(c) for c in trained.classes]
    heads = [t for k, t in tensors.items() if t.shape == (len(rows), 32)]
    assert len(heads) == 1
    assert torch.equal(heads[0], encoder.class_head["weight"][rows])


def test_videos_without_features_are_counted(runs, tiny_world, tmp_path):
    truth = read_truth(tiny_world.folder / "truth.json")
    truth["extra"] = replace(truth["training_0000"])
    write_truth(tmp_path / "truth.json", truth)
    trained, _ = train(without(runs.recipes["gtad"], truth=str(tmp_path / "truth.json")), tmp_path / "out")
    assert trained.made["missing"] == 1


def test_every_epoch_has_every_row_once_in_an_order_of_its_own(runs):
    rows = [Row(runs.features[v], [()]) for v in sorted(runs.features)[:5]]
    data = FeatureData(rows, batch=2, seed=3)
    lengths = [row.view.grid.count for row in rows]

    def drawn(epoch: int, skip: int = 0) -> list[int]:
        return [int(n) for b in data.epoch(epoch, skip) for n in b.mask.sum(1)]

    assert len(data) == 3
    assert sorted(drawn(0)) == sorted(drawn(1)) == sorted(lengths)
    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(e)) for e in range(6)}) > 1
    assert drawn(1, skip=1) == drawn(1)[2:]
    assert len(FeatureData(rows, 8)) == 1


# ---------------------------------------------------------------------------------------------- global features


def test_a_file_of_global_features_is_what_its_folder_is(runs, tmp_path):
    """Also when it calls its videos as the release does: v_ and the name up to the first dot."""
    pooled = global_features(runs.features, "max")
    write_global(tmp_path / "r-max_gvf.h5", {f"v_{vid}.mp4": v for vid, v in pooled.items()})
    encoder, _ = pretrain(without(runs.recipes["tsp"], features=str(tmp_path / "r-max_gvf.h5")), tmp_path / "out")
    assert encoder.weights == VideoEncoder.load(runs.folder / "tsp" / ENCODER_FILE).weights


def test_the_pooling_of_global_features_reaches_the_region_head(runs, tmp_path):
    mean = replace(runs.recipes["tsp"], options={"global_feature": "mean"})
    encoder, _ = pretrain(mean, tmp_path / "mean")
    other = VideoEncoder.load(runs.folder / "tsp" / ENCODER_FILE)
    assert not torch.equal(encoder.extra["region_head.weight"], other.extra["region_head.weight"])


@pytest.mark.parametrize(("name", "pooling", "said"), [
    ("r3d_18-avg_gvf.h5", "max", "is called mean"), ("R3D-MAX.hdf5", "mean", "is called max"),
    ("r3d_18-avg_gvf.h5", "mean", None), ("maximal.h5", "mean", None), ("gvf.h5", "max", None),
    ("max-and-mean.h5", "mean", None)])
def test_a_name_that_contradicts_the_recipe_is_said(tmp_path, capsys, name, pooling, said):
    write_global(tmp_path / name, {"a": np.ones(4, np.float32)})
    found = training._global_features(str(tmp_path / name), pooling, 4, ["a", "b"])
    assert list(found) == ["a"]
    assert (said in capsys.readouterr().err) if said else capsys.readouterr().err == ""


def test_a_file_of_global_features_that_does_not_fit(runs, tmp_path):
    vectors = {vid: np.ones(64, np.float32) for vid in runs.features}
    write_global(tmp_path / "wide.h5", vectors)
    with pytest.raises(DataError, match=r"wide\.h5' has global video features of width 64, .* has 32"):
        pretrain(without(runs.recipes["tsp"], features=str(tmp_path / "wide.h5")), tmp_path / "out")
    write_global(tmp_path / "few.h5", {vid: v[:32] for vid, v in list(vectors.items())[:1]})
    with pytest.raises(DataError, match="videos have no global video feature"):
        pretrain(without(runs.recipes["tsp"], features=str(tmp_path / "few.h5")), tmp_path / "out")
    with pytest.raises(DataError, match=r"nowhere\.h5"):
        pretrain(without(runs.recipes["tsp"], features="nowhere.h5"), tmp_path / "out")


# ---------------------------------------------------------------------------------------------- classes


def test_only_videos_of_these_classes_alone_are_seen(runs, tiny_world, tmp_path, monkeypatch):
    """A video that shows another class too is never drawn from, in training or validation: not even as background."""
    truth = read_truth(tiny_world.folder / "truth.json")
    base = labels_of(truth)
    mixed = ("training_0001", "validation_0000")
    for vid in mixed:
        truth[vid] = replace(truth[vid], annotations=(*truth[vid].annotations, Segment(0.0, 2.0, "juggling")))
    write_truth(tmp_path / "truth.json", truth)
    drawn: set[str] = set()
    original = training.ClipSet

    def spied(part, *rest):
        drawn.update(part)
        return original(part, *rest)

    monkeypatch.setattr(training, "ClipSet", spied)
    given = without(runs.recipes["tsp_none"], truth=str(tmp_path / "truth.json"))
    assert "juggling" in pretrain(given, tmp_path / "all")[0].classes
    assert set(mixed) <= drawn
    drawn.clear()
    encoder, _ = pretrain(without(given, classes=tuple(base)), tmp_path / "base")
    assert drawn == {vid for vid, t in truth.items() if t.subset in ("training", "validation")} - set(mixed)
    assert set(encoder.classes) <= set(base)
    with pytest.raises(DataError, match="has no video that shows only classes"):
        training._truth(Data(str(tmp_path / "truth.json"), classes=("juggling",)))


def test_classes_may_be_a_file(tiny_world, tmp_path, capsys):
    truth = str(tiny_world.folder / "truth.json")
    labels = labels_of(tiny_world.truth)
    base, held = labels[:-2], labels[-2:]
    (tmp_path / "base.txt").write_text("\n".join(base) + "\n")
    (tmp_path / "base.json").write_text(json.dumps(base))
    (tmp_path / "split.json").write_text(json.dumps({"base": base, "validation": held[:1], "novel": held[1:]}))
    wanted = {v for v, t in tiny_world.truth.items() if t.annotations and {s.label for s in t.annotations} <= {*base}}
    assert 0 < len(wanted) < len(tiny_world.truth)
    for given in (str(tmp_path / "base.txt"), str(tmp_path / "base.json"), str(tmp_path / "split.json"), tuple(base)):
        assert set(training._truth(Data(truth, classes=given))) == wanted
    assert capsys.readouterr().err == ""
    assert set(training._truth(Data(truth, classes=(*base, "juggling")))) == wanted
    assert "1 of the" in (said := capsys.readouterr().err)
    assert "'juggling' first" in said
    with pytest.raises(DataError, match=r"shows only classes of data\.classes \(juggling …\); its labels"):
        training._truth(Data(truth, classes=("juggling",)))
    with pytest.raises(DataError, match="gone"):
        training._truth(Data(truth, classes=str(tmp_path / "gone.txt")))


def test_the_base_classes_of_activitynet():
    """8,004 of 10,024 and 3,945 of 4,926 videos show base classes alone; 3 + 3 show both kinds."""
    split = str(shared("annotations/activitynet_few_shot_classes.json"))
    for part, all_, kept in (("train", 10024, 8004), ("valid", 4926, 3945)):
        path = str(shared(f"annotations/tsp/activitynet/activitynet_v1-3_{part}_tsp_groundtruth.csv"))
        assert len(training._truth(Data(path))) == all_
        assert len(training._truth(Data(path, classes=split))) == kept


# ---------------------------------------------------------------------------------------------- sweeps


def test_a_sweep_keeps_the_best_and_can_be_called_again(runs, tmp_path, monkeypatch):
    given = replace(runs.recipes["tsp_none"], validate_every=1)
    found = sweep(given, "head_lr", [0.5, 0.02], tmp_path)
    assert [run.folder for run in found.runs] == ["optim.lr_heads=0.5", "optim.lr_heads=0.02"]
    best = max(found.runs, key=lambda run: run.scores["score"])
    assert found.best == best
    assert found.runs[1].scores["score"] == pytest.approx(
        (found.runs[1].scores["class"] + found.runs[1].scores["region"]) / 2)
    assert (tmp_path / ENCODER_FILE).read_bytes() == (tmp_path / best.folder / ENCODER_FILE).read_bytes()
    for run in found.runs:
        made = VideoEncoder.load(tmp_path / run.folder / ENCODER_FILE).made
        assert made["recipe"]["optim"]["lr_heads"] == run.value
        assert made["scores"] == run.scores
        assert run.epoch is None  # this recipe counts updates
    assert json.loads((tmp_path / SWEEP_FILE).read_text()) == found.to_json()
    assert {p.name for p in tmp_path.iterdir()} == {ENCODER_FILE, SWEEP_FILE, *(run.folder for run in found.runs)}
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *a, **k: pytest.fail("trained again"))
    before = (tmp_path / SWEEP_FILE).read_bytes()
    assert sweep(given, "optim.lr_heads", [0.5, 0.02], tmp_path) == found
    assert (tmp_path / SWEEP_FILE).read_bytes() == before


def fake(scores: dict[float, float | None], seen: list[float]):
    """A ``pretrain`` that gives these scores, by the heads' rate, at update 6 of 8."""

    def run(one: Recipe, out: Path, device: object) -> tuple[None, Result]:
        seen.append(one.optim.lr_heads)
        out.mkdir(parents=True)
        (out / ENCODER_FILE).write_text(str(one.optim.lr_heads))
        score = scores[one.optim.lr_heads]
        return None, Result(8, {}, None if score is None else {"score": score, "step": 6}, 0, 0.0)

    return run


def test_a_sweep_takes_the_highest_score_and_the_first_of_equals(runs, tmp_path, monkeypatch):
    given = replace(runs.recipes["tsp"], optim=replace(runs.recipes["tsp"].optim, steps=None, epochs=4))
    seen: list[float] = []
    monkeypatch.setattr(training, "pretrain", fake({0.1: 0.5, 0.2: 0.7, 0.3: 0.7, 0.4: None}, seen))
    found = sweep(given, "head_lr", [0.1, 0.2, 0.3, 0.4], tmp_path)
    assert seen == [0.1, 0.2, 0.3, 0.4]
    assert (found.best.value, found.best.epoch) == (0.2, 3)
    assert (tmp_path / ENCODER_FILE).read_text() == "0.2"
    assert (found.runs[3].scores, found.runs[3].epoch) == ({}, None)
    monkeypatch.setattr(training, "pretrain", fake({0.4: None}, seen))
    with pytest.raises(ModelError, match="no run of the sweep"):
        sweep(given, "head_lr", [0.4], tmp_path / "other")


@pytest.mark.parametrize(("field", "values", "kind", "text"), [
    ("head_lr", [], CallError, "needs values"),
    ("optim.lr_haeds", [0.1], CallError, "did you mean 'optim.lr_heads'"),
    ("head_lr", [0.1, "fast"], DataError, "lr_heads 'fast' is wrong"),
    ("head_lr", [0.1, -1.0], CallError, "optim.lr_heads must be"),
    ("encoder.start", ["a", "runs/a.safetensors"], CallError, "cannot be the name of a folder"),
    ("data.validate", [["validation"], []], DataError, "chooses by the validation"),
])
def test_a_sweep_that_cannot_be_meant_trains_nothing(runs, tmp_path, monkeypatch, field, values, kind, text):
    monkeypatch.setattr(training, "pretrain", lambda *a: pytest.fail("trained"))
    with pytest.raises(kind, match=text):
        sweep(runs.recipes["tsp"], field, values, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sweep_does_not_go_into_a_run(runs):
    before = (runs.folder / "tsp" / ENCODER_FILE).read_bytes()
    with pytest.raises(DataError, match="holds a run of its own"):
        sweep(runs.recipes["tsp"], "head_lr", [0.1], runs.folder / "tsp")
    assert (runs.folder / "tsp" / ENCODER_FILE).read_bytes() == before


# ---------------------------------------------------------------------------------------------- towers

TOWERS = ["options.frames=8", "options.width=8", "options.heads=2", "options.layers=1", "options.head_layers=1",
          "options.ranges=[[0.0, 10000.0]]", "options.recompute=false", "optim.batch=4", "optim.steps=4",
          "validate_every=2", "optim.lr=0.01"]


def from_frames(world: World, name: str, *changes: str) -> Recipe:
    """A recipe that trains on the frames of ``world``, cut to a few updates."""
    return load_recipe(name, [f"data.truth={json.dumps(str(world.folder / 'truth.json'))}",
                              f"data.videos={json.dumps(str(world.folder / 'videos'))}", *TOWERS, *changes])


def losses(run: Path) -> list[dict[str, float]]:
    """What a run's log has of its losses and scores."""
    beside = ("time", "per_second", "data_wait", "memory_mb")
    return [{k: v for k, v in json.loads(line).items() if k not in beside}
            for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("pooling", ["cls", "frame", "gap"])
def test_a_frozen_tower_looks_at_each_video_once(tiny_world, tmp_path, monkeypatch, pooling):
    """Over two epochs, two validations and the calibration; a run without memory has the same numbers."""
    save_clip(tmp_path / "clip")
    start = f"clip-gap:{tmp_path / 'clip'}" if pooling == "gap" else str(tmp_path / "clip")
    one = from_frames(tiny_world, "activitynet_unloc_b", "options.freeze_image=true", "towers.augment=none",
                      f"towers.pooling={pooling}", f"encoder.start={start}", f"encoder.text={tmp_path / 'clip'}",
                      "towers.fps=4", "towers.short_side=36")
    calls, forward = [], Frames.forward
    monkeypatch.setattr(Frames, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    trained, _ = train(one, tmp_path / "run")
    kept = sorted((tmp_path / "run" / training.SEEN).iterdir())
    assert sum(calls) == len(kept) == 6 + 3 + 1  # a validation video is seen in two pieces
    again = {file.name: file.stat().st_mtime_ns for file in kept}

    (tmp_path / "run" / "last.safetensors").unlink()  # the run once more; it looks at one damaged row alone
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    calls.clear()
    train(one, tmp_path / "run")
    assert sum(calls) == 1
    assert [file.name for file in kept if file.stat().st_mtime_ns != again[file.name]] == [kept[0].name]

    with monkeypatch.context() as patch:
        patch.setattr(training, "Seen", lambda *_: None)
        plain, _ = train(one, tmp_path / "plain")
    assert sum(calls) > 2 * len(kept)
    assert losses(tmp_path / "run")[-len(losses(tmp_path / "plain")):] == losses(tmp_path / "plain")
    state, other = trained.network.state_dict(), plain.network.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in state.items())


def test_frames_that_are_changed_are_looked_at_anew(tiny_world, tmp_path, monkeypatch):
    save_clip(tmp_path / "clip")
    one = from_frames(tiny_world, "activitynet_unloc_b", "options.freeze_image=true", "towers.augment=plain",
                      f"encoder.start={tmp_path / 'clip'}", f"encoder.text={tmp_path / 'clip'}", "towers.fps=4",
                      "towers.short_side=36")
    calls, forward = [], Frames.forward
    monkeypatch.setattr(Frames, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    train(one, tmp_path / "run")
    assert sum(calls) == 2 * 6 + 4  # two epochs; the validation, a video of it in two pieces, once
    assert len(list((tmp_path / "run" / training.SEEN).iterdir())) == 4


@pytest.mark.parametrize("pooling", ["gap", "frame"])
def test_a_tower_of_random_weights_is_pre_trained_and_goes_on(tiny_world, tiny_text, tmp_path, pooling):
    """World's two recipes after each other, and a raw video."""
    changes = ["optim.steps=2", f"towers.pooling={pooling}", f"encoder.text={tiny_text}"]
    first, _ = train(from_frames(tiny_world, "world_unloc_clips", *changes), tmp_path / "clips")
    told = f"start={tmp_path / 'clips' / LOCALIZER_FILE}"
    frozen = from_frames(tiny_world, "world_unloc_frames", *changes, told, "options.freeze_image=true", "optim.lr=0.0",
                         "optim.lr_heads=0.0")
    train(frozen, tmp_path / "frames")
    model = TrainedLocalizer.load(tmp_path / "frames" / LOCALIZER_FILE)
    towers = [m.network.image.tower if m.encoder is None else m.encoder.network for m in (first, model)]
    assert all(tower.config == replace(frozen.towers.network, pooling=pooling, frames=8 if pooling == "frame" else 0)
               for tower in towers)
    for name, value in towers[0].state_dict().items():
        torch.testing.assert_close(towers[1].state_dict()[name], value, rtol=0, atol=0)
    drawn = weights.random_tower(replace(frozen.towers.network, pooling="gap"), frozen.seed).network.state_dict()
    assert any(not torch.equal(value, towers[0].state_dict()[name]) for name, value in drawn.items()
               if name != "position")
    (answer,) = model.localize(tiny_world.videos["testing_0000"])
    assert set(answer.asked) == set(model.classes) > {"bouncing"}


def test_weights_of_a_tower_are_drawn_by_the_seed():
    shape = Image(image=32, patch=8, width=48, layers=3, heads=4, hidden=96, pooling="gap")
    before = torch.get_rng_state()
    first, again, other = (weights.random_tower(shape, seed) for seed in (3, 3, 4))
    assert first.weights == again.weights != other.weights
    assert torch.equal(torch.get_rng_state(), before)
    assert (first.clip.frames, first.clip.crop, first.clip.mean) == (1, 32, MEAN)
    assert first.dim == 48


def test_a_tower_begins_in_one_way(tiny_world, tmp_path):
    one = from_frames(tiny_world, "world_unloc_frames", "encoder.start=clip-b16")
    with pytest.raises(CallError, match=r"either .* \(encoder\.start\) or .* \(towers\.network\), and both are given"):
        train(one, tmp_path / "out")
    with pytest.raises(DataError, match=r"encoder\.start, such as .* or its shape: towers\.network"):
        train(replace(one, encoder=replace(one.encoder, start=None), towers=Towers()), tmp_path / "out")


def test_a_recipe_from_frames_trains_on_features_too(runs, tiny_world, tiny_text, tmp_path):
    """Nothing is inside whose activations could be computed again, as the release's recipes want."""
    one = from_frames(tiny_world, "activitynet_unloc_b", f"data.features={json.dumps(str(runs.folder / 'features'))}",
                      f"encoder.start={json.dumps(str(runs.folder / 'tac' / ENCODER_FILE))}",
                      f"encoder.text={tiny_text}", "optim.steps=1", "data.validate=[]")
    assert one.optim.recompute
    assert one.data.videos is not None
    trained, result = train(one, tmp_path / "out")
    assert result.steps == 1
    assert trained.network.image is None
    assert trained.encoder.weights == runs.features.meta["weights"]


# ---------------------------------------------------------------------------------------------- several processes


def test_torchrun_trains_the_encoder_of_one_process(runs, tiny_world, tmp_path):
    """Through the real door, with frozen statistics: the same weights to rounding, one progress, no other files."""
    start = runs.folder / "tac" / ENCODER_FILE
    changes = [f"data.truth={json.dumps(str(tiny_world.folder / 'truth.json'))}",
               f"data.videos={json.dumps(str(tiny_world.folder / 'videos'))}", *CUT,
               f"encoder.start={json.dumps(str(start))}", "options.global_feature=none", "optim.steps=4", "keep=2",
               "optim.frozen_statistics=true", "optim.chunk=1", "validate_every=2", "checkpoint_every=2"]
    result = pretrain(load_recipe("world_tsp", changes), tmp_path / "alone")[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
               "--master-port", str(_free_port()), "-m", "cuemark", "pretrain", "world_tsp", "--out",
               str(tmp_path / "both"), *(word for change in changes for word in ("--set", change))]
    threads = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=threads)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pre-training tsp: 4/4 loss ") == 1
    assert str(tmp_path / "both" / ENCODER_FILE) in done.stdout
    names = [folders.LOCK, "best.safetensors", ENCODER_FILE, "last.safetensors", "log.jsonl", "step-2.safetensors"]
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == names
    both = VideoEncoder.load(tmp_path / "both" / ENCODER_FILE)
    assert both.made["scores"] == result.best
    before, after, other = (checkpoint.load(path)[0] for path in (
        start, tmp_path / "alone" / ENCODER_FILE, tmp_path / "both" / ENCODER_FILE))
    moved = sum(float((after[k] - before[k]).double().square().sum()) for k in after if k.startswith("network"))
    apart = sum(float((after[k] - other[k]).double().square().sum()) for k in after)
    assert moved > 0
    assert apart < 1e-8 * moved  # of squares


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
