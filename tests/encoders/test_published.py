"""Published weights: what torchvision's and TSP's files hold is read whole, or refused with its name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cuemark.encoders import ENCODERS, build
from cuemark.encoders.published import load_weights
from cuemark.encoders.resnet3d import Config, ResNet3D
from cuemark.errors import ModelError

SMALL = {
    "r3d": Config("r3d", (2, 2, 2, 2), 3),
    "r2plus1d": Config("r2plus1d", (2, 2, 2, 2), 4),
    "ig65m": Config("r2plus1d", (3, 4, 6, 3), 4, "ig65m"),
}


def trained(config: Config) -> ResNet3D:
    """A network whose statistics are not those of a new one."""
    torch.manual_seed(0)
    model = ResNet3D(config)
    with torch.no_grad():
        model(torch.randn(2, 3, 4, 16, 16))
    return model.eval()


def head(name: str, inputs: int, outputs: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(outputs, inputs), f"{name}.bias": torch.randn(outputs)}


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def tsp(model: ResNet3D, heads: dict[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """A checkpoint as TSP's training writes it."""
    weights = {f"{prefix}features.{k}": v for k, v in model.state_dict().items()}
    weights |= {prefix + k: v for k, v in heads.items()}
    return {
        "model": weights,
        "optimizer": {"state": {0: {"momentum_buffer": torch.randn(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "lr_scheduler": {"last_epoch": 5, "_last_lr": [1e-4]},
        "epoch": 5,
        "args": argparse.Namespace(backbone="r2plus1d_34", lr=1e-4, label_columns=["action-label"]),
    }


def check(path: Path, model: ResNet3D, heads: dict[str, Tensor]) -> None:
    config, encoder, found = load_weights(path)
    assert config == model.config
    again = build(config).eval()
    again.load_state_dict(encoder)  # strict
    x = torch.randn(2, 3, 4, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert found.keys() == heads.keys()
    assert all(torch.equal(found[k], heads[k]) for k in heads)


@pytest.mark.parametrize("name", SMALL)
def test_torchvision_file(tmp_path, name):
    model = trained(SMALL[name])
    heads = head("fc", model.dim, 400)
    check(save(tmp_path / "weights.pth", {**model.state_dict(), **heads}), model, heads)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", SMALL)
def test_tsp_checkpoint(tmp_path, name, prefix):
    model = trained(SMALL[name])
    heads = head("fc1", model.dim, 200) | head("fc2", 2 * model.dim, 2)
    check(save(tmp_path / "epoch_5.pth.tar", tsp(model, heads, prefix)), model, heads)


def test_one_headed_checkpoint_and_bare_encoder(tmp_path):
    model = trained(SMALL["r3d"])
    heads = head("fc", model.dim, 20)
    check(save(tmp_path / "tac.pth", tsp(model, heads)), model, heads)
    check(save(tmp_path / "bare.pth", {"state_dict": model.state_dict()}), model, {})


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18", "r2plus1d_34"])
def test_the_three_published_encoders_are_recognised(tmp_path, name):
    one = torch.zeros(())
    with torch.device("meta"):
        shapes = ResNet3D(ENCODERS[name]).state_dict()
    weights = {k: one.expand(v.shape) for k, v in shapes.items()}  # one number on the disk stands for all
    found = load_weights(save(tmp_path / "weights.pth", weights))
    assert (found.name, found.config) == (name, ENCODERS[name])


def test_another_size_has_no_name(tmp_path):
    assert load_weights(save(tmp_path / "w.pth", trained(SMALL["r3d"]).state_dict())).name is None


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = trained(SMALL["ig65m"]).state_dict()
    path = tmp_path / "weights.pth"

    message = refused(save(path, {k: v for k, v in state.items() if k != "layer2.1.conv1.1.bias"}))
    assert "layer2.1.conv1.1.bias missing" in message
    assert "1 of its weights" in message

    message = refused(save(path, state | {"neck.weight": torch.zeros(3)}))
    assert "neck.weight unexpected" in message

    message = refused(save(path, state | {"layer4.2.conv2.0.3.weight": torch.zeros(32, 1, 3, 1, 1)}))
    assert "layer4.2.conv2.0.3.weight is (32, 1, 3, 1, 1), not (32, 72, 3, 1, 1)" in message

    message = refused(save(path, {k: v for k, v in state.items() if not k.endswith(".running_var")}))
    assert "69 of its weights" in message  # 2 batch norms in the stem, 4 in each of 16 blocks, 3 in shortcuts
    assert message.count(" missing") == 3
    assert "and 66 more" in message


def test_a_mixture_of_layouts_is_refused(tmp_path):
    per_conv = ResNet3D(Config("r2plus1d", (2, 2, 2, 2), 4, "ig65m")).state_dict()
    per_block = ResNet3D(SMALL["r2plus1d"]).state_dict()
    mixed = per_conv | {k: v for k, v in per_block.items() if k.startswith("layer3.0.conv2")}
    assert "layer3.0.conv2.0.0.weight is" in refused(save(tmp_path / "mixed.pth", mixed))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "does not hold a video ResNet"),
        ({"model": {}}, "got nothing"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.x": torch.zeros(2)}, "got conv1.weight, layer1.0.x"),
        ({"stem.0.weight": torch.zeros(()), "layer1.0.x": torch.zeros(2)}, "does not hold a video ResNet"),
        ({"stem.0.weight": torch.zeros(0, 3, 3, 7, 7)}, "does not hold a video ResNet"),
        ({"epoch": 3}, "'epoch' is a int"),
        ({"model": {"fc.weight": "text"}}, "'fc.weight' is a str"),
        ([torch.zeros(3)], "holds a list"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    assert message in refused(save(tmp_path / "weights.pth", content))


def test_no_file_and_no_pickle(tmp_path):
    assert "does not exist" in refused(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("hello")
    assert "cannot be read" in refused(tmp_path / "text.pth")
    assert "cannot be read" in refused(save(tmp_path / "object.pth", {"model": {"fc.weight": Path("x")}}))
