"""What all tests share: the real data beside the checkout, when it is there, and a few small things made once."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from cuemark.datasets.world import World
    from cuemark.encoders.video_encoder import VideoEncoder
    from cuemark.feature_folder import FeatureFolder
    from cuemark.localizers.trained import TrainedLocalizer

os.environ["CUEMARK_CACHE"] = tempfile.mkdtemp(prefix="cuemark-tests-")  # nobody's own
atexit.register(shutil.rmtree, os.environ["CUEMARK_CACHE"], ignore_errors=True)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
REQUIRED = bool(os.environ.get("CUEMARK_REQUIRE_DATA"))
"""Set by CI where the data is beside the checkout: nothing that needs it may then be skipped unnoticed."""


def shared(path: str) -> Path:
    """A file or folder of the real data that is never shipped; skips the test where it is absent."""
    found = SHARED / path
    if not found.exists():
        absent = f"real data not here: ../shared/data/{path}"
        pytest.fail(f"{absent}, and CUEMARK_REQUIRE_DATA is set") if REQUIRED else pytest.skip(absent)
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Under CUEMARK_REQUIRE_DATA, a golden test (scores of the official evaluators) that skips has failed."""
    report = yield
    if REQUIRED and report.skipped and "golden" in item.nodeid:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CUEMARK_REQUIRE_DATA is set"
    return report


# ---------------------------------------------------------------------------------------------- the command line


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def cuemark(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run one command in this process."""
    from cuemark.cli import main

    def call(*words: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(w) for w in words])
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return call


def complaint(ended: Ended, status: int = 1) -> str:
    """The one sentence of a command that failed."""
    assert ended.status == status, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err
    (line,) = ended.err.splitlines()
    assert line.startswith("cuemark: ")
    assert line.endswith(".")
    return line


# ---------------------------------------------------------------------------------------------- made once
# torch is imported inside, so that tests of files without it stay quick to start

SMALL_GTAD = {"positions": 16, "durations": 16, "h1d": 32, "h2d": 16, "h3d": 32, "width": 16, "groups": 4,
              "inner_bins": 4, "context_bins": 2}
"""Settings of a G-TAD that trains in no time."""


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """18 videos of the built-in world: not to be changed by tests."""
    from cuemark.datasets import world

    config = world.WorldConfig(trimmed=6, training=6, validation=3, testing=3, novel=0)
    return world.make(config, tmp_path_factory.mktemp("tiny_world"))


def make_encoder(seed: int) -> VideoEncoder:
    """Random weights; 32 features from 16 x 16 pixels."""
    import torch

    from cuemark.clips import ClipConfig
    from cuemark.encoders.resnet3d import Config, ResNet3D
    from cuemark.encoders.video_encoder import VideoEncoder

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ResNet3D(Config(width=4, blocks=(1, 1, 1, 1))).eval()
    return VideoEncoder(network, ClipConfig(short_side=20, crop=16), f"tiny {seed}")


@pytest.fixture(scope="session")
def tiny_encoder() -> VideoEncoder:
    """An encoder with random weights: not to be changed by tests."""
    return make_encoder(0)


@pytest.fixture(scope="session")
def tiny_features(tiny_world: World, tiny_encoder: VideoEncoder, tmp_path_factory: pytest.TempPathFactory
                  ) -> FeatureFolder:
    """What ``tiny_encoder`` sees of the untrimmed videos of ``tiny_world``, every 4 frames."""
    from cuemark.extraction import ExtractConfig, extract
    from cuemark.feature_folder import FeatureFolder

    folder = tmp_path_factory.mktemp("tiny_features")
    videos = {v: p for v, p in tiny_world.videos.items() if tiny_world.truth[v].subset != "trimmed"}
    extract(videos, tiny_encoder, folder, ExtractConfig(stride=4))
    return FeatureFolder.open(folder)


@pytest.fixture(scope="session")
def tiny_localizer(tiny_features: FeatureFolder, tiny_encoder: VideoEncoder) -> TrainedLocalizer:
    """An untrained G-TAD for ``tiny_features``, with ``tiny_encoder`` inside: not to be changed by tests."""
    import torch

    from cuemark.localizers import build
    from cuemark.localizers.trained import TrainedLocalizer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build("gtad", SMALL_GTAD, tiny_features.dim, ["bouncing", "rocking"]).eval()
    described = {k: tiny_features.meta[k] for k in ("encoder", "weights", "dim", "clip")}
    return TrainedLocalizer(network, "gtad", described, tiny_encoder)


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of one layer, 24 numbers wide, and random weights."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny_text")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "foreground", "background", "of", "a", "red", "star", "##s"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(words), hidden_size=24, num_hidden_layers=1, num_attention_heads=3,
                            intermediate_size=48, max_position_embeddings=64)
        BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder
