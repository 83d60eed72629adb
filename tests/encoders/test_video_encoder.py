"""A video encoder in one file: saved, loaded, taken out of a localizer, read from published weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_encoder

from cuemark import checkpoint
from cuemark.clips import ClipConfig
from cuemark.encoders.resnet3d import Config, ResNet3D
from cuemark.encoders.video_encoder import VideoEncoder, encode
from cuemark.errors import ModelError

CLIPS = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (2, 3, 16, 16, 16)).astype(np.float32))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_saved_encoder_is_the_same_when_loaded(tmp_path):
    encoder = make_encoder(3)
    encoder.classes = ("jump", "run", "swim")
    encoder.class_head = {"weight": torch.randn(3, 32), "bias": torch.randn(3)}
    encoder.extra = {"project_video.weight": torch.randn(4, 32), "log_scale": torch.tensor(2.5)}
    encoder.made = {"system": "clap", "scores": {"score": 0.5}}
    encoder.save(tmp_path / "a.safetensors")
    loaded = VideoEncoder.load(tmp_path / "a.safetensors")
    assert torch.equal(encode(loaded.network, CLIPS), encode(encoder.network, CLIPS))
    assert (loaded.clip, loaded.name, loaded.classes, loaded.made) == (
        encoder.clip, encoder.name, encoder.classes, encoder.made)
    assert loaded.network.config == encoder.network.config
    assert same(loaded.class_head, encoder.class_head)
    assert same(loaded.extra, encoder.extra)
    assert loaded.weights == encoder.weights
    assert not loaded.network.training
    loaded.save(tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_the_digest_is_of_every_weight_and_of_nothing_else():
    encoder, twin = make_encoder(0), make_encoder(0)
    twin.name, twin.classes, twin.made = "another name", ("jump",), {"score": 1}
    assert encoder.weights == twin.weights
    seen = {encoder.weights}
    state = twin.network.state_dict()
    for tensor in state.values():  # running statistics make features too
        tensor.view(-1)[-1] += 1
        seen.add(twin.weights)
    assert len(seen) == len(state) + 1


def test_features_are_float32_without_gradient():
    network = make_encoder(0).network
    for bf16 in (False, True):
        found = encode(network, CLIPS, bf16)
        assert (found.dtype, found.shape, found.requires_grad) == (torch.float32, (2, 32), False)
    assert not torch.equal(encode(network, CLIPS, True), encode(network, CLIPS))


def test_the_encoder_inside_a_localizer(tmp_path, tiny_localizer, tiny_encoder):
    tiny_localizer.save(tmp_path / "localizer.safetensors")
    loaded = VideoEncoder.load(tmp_path / "localizer.safetensors")
    assert (loaded.weights, loaded.clip, loaded.name) == (tiny_encoder.weights, tiny_encoder.clip, tiny_encoder.name)


def test_other_kinds_are_refused(tmp_path, tiny_localizer):
    from dataclasses import replace

    replace(tiny_localizer, encoder=None).save(tmp_path / "bare.safetensors")
    with pytest.raises(ModelError, match=r"bare\.safetensors' is of kind 'localizer', but .* encoder is needed"):
        VideoEncoder.load(tmp_path / "bare.safetensors")
    checkpoint.save(tmp_path / "last.safetensors", {"model.a": torch.zeros(1)}, {"kind": "training"})
    with pytest.raises(ModelError, match="is of kind 'training'"):
        VideoEncoder.load(tmp_path / "last.safetensors")
    with pytest.raises(ModelError, match="does not exist"):
        VideoEncoder.load(tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ModelError, match="not a readable cuemark checkpoint"):
        VideoEncoder.load(tmp_path / "text.safetensors")


def test_weights_that_do_not_fit_the_description(tmp_path):
    encoder = make_encoder(0)
    meta = encoder.to_meta()
    meta["network"] = meta["network"] | {"width": 8}
    checkpoint.save(tmp_path / "a.safetensors", encoder.to_tensors(), {"kind": "encoder", **meta})
    with pytest.raises(ModelError, match=r"a\.safetensors' do not fit the encoder it describes"):
        VideoEncoder.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pth.tar"])
def test_published_weights(tmp_path, suffix):
    torch.manual_seed(0)
    network = ResNet3D(Config(kind="r3d", width=4, blocks=(1, 1, 1, 1), time_strides=(1, 2, 2, 2))).eval()
    state = network.state_dict() | {"fc.weight": torch.randn(5, 32), "fc.bias": torch.randn(5)}
    path = tmp_path / f"r3d-abc{suffix}"
    torch.save(state, path)
    loaded = VideoEncoder.load(path)
    assert torch.equal(encode(loaded.network, CLIPS), encode(network, CLIPS))
    assert loaded.clip == ClipConfig()
    assert (loaded.classes, loaded.class_head) == ((), {})
    assert loaded.made["published"] == path.name
    loaded.save(tmp_path / "own.safetensors")
    assert VideoEncoder.load(tmp_path / "own.safetensors").weights == loaded.weights
