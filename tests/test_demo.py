"""The demo's story, whole but tiny: once, and again in the same folder."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from conftest import SMALL_GTAD

from cuemark import demo
from cuemark.cli import main
from cuemark.datasets import world
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import DataError
from cuemark.feature_folder import FeatureFolder
from cuemark.library import Library
from cuemark.recipe import Recipe, load_recipe
from cuemark.segments import read_predictions, subset

ENCODER = ["encoder.network.width=4", "encoder.clip.short_side=20", "encoder.clip.crop=16", "optim.batch=4",
           "optim.steps=2"]
GTAD = ["optim.steps=2", *(f"options.{k}={v}" for k, v in SMALL_GTAD.items())]


class Told:
    """One demo, told once for all tests of this file."""

    def __init__(self, folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.text, self.opened = folder, text, list[str]()
        self.prepare(monkeypatch)
        self.scores = demo.tell(folder, seed=0)

    def prepare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def cut(name: str, changes: list[str]) -> Recipe:
            small = GTAD if name == "world_gtad" else [*ENCODER, f"encoder.text={json.dumps(str(self.text))}"]
            return load_recipe(name, [*changes, *small])

        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(demo.sys, "platform", "linux")
        monkeypatch.setattr(demo.webbrowser, "open", self.opened.append)
        monkeypatch.setattr(demo, "SMALL", {"trimmed": 4, "training": 4, "validation": 2, "testing": 3, "novel": 0})
        monkeypatch.setattr(demo, "load_recipe", cut)


@pytest.fixture(scope="module")
def told(tmp_path_factory, tiny_text) -> Told:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return Told(tmp_path_factory.mktemp("demo"), tiny_text, monkeypatch)


def test_the_story_is_scored_and_reported(told):
    assert list(told.scores) == ["tac", "tsp", "clap", "floor"]
    assert all(0 <= score.average <= 1 for score in told.scores.values())
    page = (told.folder / "report.html").read_text()
    for text in ("TAC", "TSP", "CLAP", "never looks", "not real footage", "cuemark localize VIDEO"):
        assert text in page
    with closing(Library.open(told.folder / "library")) as library:
        assert [entry.id for entry in library.videos()] == ["testing_0000", "testing_0001", "testing_0002"]
    for system in demo.SYSTEMS:
        assert (told.folder / system / "encoder.safetensors").exists()
        assert (told.folder / f"gtad_{system}" / "localizer.safetensors").exists()
        folder = FeatureFolder.open(told.folder / f"features_{system}")
        assert (len(folder), folder.meta["clip"]["stride"]) == (9, 4)
        found = read_predictions(told.folder / f"predictions_{system}.json")
        assert set(found) == {f"testing_000{i}" for i in range(3)}
        assert all(found.values())


def test_no_browser_is_opened_without_a_display(told):
    assert told.opened == []


def test_its_checkpoints_are_what_localize_uses(told, capsys):
    (video,) = (told.folder / "one_more" / "videos").iterdir()
    for system in demo.SYSTEMS:
        model = told.folder / f"gtad_{system}" / "localizer.safetensors"
        with pytest.raises(SystemExit) as ended:
            main(["localize", str(video), "--model", str(model), "--json"])
        assert ended.value.code == 0
        assert json.loads(capsys.readouterr().out)["results"][video.stem]


def test_a_second_call_goes_on_without_training_again(told, monkeypatch, capsys):
    told.prepare(monkeypatch)
    for name in ("pretrain", "train"):
        monkeypatch.setattr(demo, name, lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setenv("DISPLAY", ":0")
    kept = {p: p.read_bytes() for p in told.folder.rglob("*") if p.suffix in (".safetensors", ".npy", ".mp4")}
    predictions = (told.folder / "predictions_clap.json").read_bytes()
    (told.folder / "report.html").unlink()

    again = demo.tell(told.folder, seed=0, open_report=False)
    assert {name: score.average for name, score in again.items()} == {
        name: score.average for name, score in told.scores.items()}
    assert {p: p.read_bytes() for p in told.folder.rglob("*") if p.suffix in (".safetensors", ".npy", ".mp4")} == kept
    assert (told.folder / "predictions_clap.json").read_bytes() == predictions
    page = (told.folder / "report.html").resolve()
    assert f"report: {page}\n" in capsys.readouterr().out
    assert told.opened == []  # asked not to

    demo.tell(told.folder, seed=0)
    assert told.opened == [page.as_uri()]


def test_another_seed_needs_another_folder(told, monkeypatch):
    told.prepare(monkeypatch)
    with pytest.raises(DataError, match="holds another world"):
        demo.tell(told.folder, seed=1)


def test_the_floor_and_the_scores_are_of_videos_that_nothing_saw(told):
    made = world.load(told.folder / "world")
    for system in demo.SYSTEMS:
        data = VideoEncoder.load(told.folder / system / "encoder.safetensors").made["recipe"]["data"]
        assert "testing" not in (*data["train"], *data["validate"])
    assert set(read_predictions(told.folder / "predictions_tsp.json")) == set(subset(made.truth, "testing"))
