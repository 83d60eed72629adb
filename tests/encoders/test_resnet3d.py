"""Video ResNets: names and numbers of the published networks, and features that a plain reference agrees with."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cuemark.encoders import ENCODERS, build
from cuemark.encoders.resnet3d import Config, ResNet3D
from cuemark.errors import CallError

SMALL = {
    "r3d": Config("r3d", (1, 1, 1, 1), 4),
    "r2plus1d": Config("r2plus1d", (1, 1, 1, 1), 4),
    "ig65m": Config("r2plus1d", (1, 2, 1, 1), 4, "ig65m"),
    "strides": Config("r2plus1d", (1, 1, 1, 1), 4, stem_stride=1, time_strides=(2, 1, 1, 2)),
}


def on_meta(config: Config) -> ResNet3D:
    """Shapes without numbers."""
    with torch.device("meta"):
        return ResNet3D(config)


def batch_norm(name: str, planes: int) -> dict[str, tuple[int, ...]]:
    shapes = {f"{name}.{part}": (planes,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def expected_shapes(kind: str, blocks: tuple[int, ...], per_conv: bool) -> dict[str, tuple[int, ...]]:
    """Every entry of the published state dicts, written out."""
    shapes: dict[str, tuple[int, ...]] = {}
    if kind == "r3d":
        shapes["stem.0.weight"] = (64, 3, 3, 7, 7)
        shapes |= batch_norm("stem.1", 64)
    else:
        shapes["stem.0.weight"] = (45, 3, 1, 7, 7)
        shapes |= batch_norm("stem.1", 45)
        shapes["stem.3.weight"] = (64, 45, 3, 1, 1)
        shapes |= batch_norm("stem.4", 64)
    planes_of = {1: 64, 2: 128, 3: 256, 4: 512}
    for layer, planes in planes_of.items():
        for block in range(blocks[layer - 1]):
            inputs = planes_of[layer - 1] if layer > 1 and block == 0 else planes
            middle = (inputs * planes * 3 * 3 * 3) // (inputs * 3 * 3 + 3 * planes)
            for number, (into, mid) in enumerate([(inputs, middle), (planes, middle)], 1):
                name = f"layer{layer}.{block}.conv{number}"
                if per_conv:
                    mid = (into * planes * 27) // (into * 9 + 3 * planes)
                if kind == "r3d":
                    shapes[f"{name}.0.weight"] = (planes, into, 3, 3, 3)
                else:
                    shapes[f"{name}.0.0.weight"] = (mid, into, 1, 3, 3)
                    shapes |= batch_norm(f"{name}.0.1", mid)
                    shapes[f"{name}.0.3.weight"] = (planes, mid, 3, 1, 1)
                shapes |= batch_norm(f"{name}.1", planes)
            if layer > 1 and block == 0:
                shapes[f"layer{layer}.0.downsample.0.weight"] = (planes, inputs, 1, 1, 1)
                shapes |= batch_norm(f"layer{layer}.0.downsample.1", planes)
    return shapes


@pytest.mark.parametrize(
    ("name", "kind", "blocks", "per_conv"),
    [
        ("r3d_18", "r3d", (2, 2, 2, 2), False),
        ("r2plus1d_18", "r2plus1d", (2, 2, 2, 2), False),
        ("r2plus1d_34", "r2plus1d", (3, 4, 6, 3), True),
    ],
)
def test_names_and_shapes_are_the_published_ones(name, kind, blocks, per_conv):
    found = {key: tuple(tensor.shape) for key, tensor in on_meta(ENCODERS[name]).state_dict().items()}
    assert found == expected_shapes(kind, blocks, per_conv)


def test_the_layouts_differ_in_the_second_convolution_of_a_widening_block():
    ig65m, torchvision = on_meta(ENCODERS["r2plus1d_34"]), on_meta(ENCODERS["r2plus1d_18"])
    key = "layer2.0.conv2.0.0.weight"
    assert (len(ig65m.state_dict()[key]), len(torchvision.state_dict()[key])) == (288, 230)


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [("r3d_18", 33_166_272, 40.70), ("r2plus1d_18", 31_300_125, 40.52), ("r2plus1d_34", 63_491_975, 76.18)],
)
def test_parameter_counts_and_multiplications(name, parameters, gmacs):
    """Measured on torchvision's and TSP's own networks."""
    found = measure(ENCODERS[name])
    assert (found[0], round(found[1], 2)) == (parameters, gmacs)


def measure(config: Config) -> tuple[int, float]:
    """Parameters, and billions of multiplications of one clip of 16 x 112 x 112."""
    model, total = on_meta(config), 0

    def count(module: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        total += out.numel() * module.weight[0].numel()  # type: ignore[operator, index, union-attr]

    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(count)
    features = model(torch.empty(1, 3, 16, 112, 112, device="meta"))
    assert features.shape == (1, config.dim) == (1, 512)
    return sum(p.numel() for p in model.parameters()), total / 1e9


@pytest.mark.parametrize(("name", "eps", "momentum"),
                         [("r3d_18", 1e-5, 0.1), ("r2plus1d_18", 1e-5, 0.1), ("r2plus1d_34", 1e-3, 0.9)])
def test_batch_norms(name, eps, momentum):
    norms = [m for m in on_meta(ENCODERS[name]).modules() if isinstance(m, nn.BatchNorm3d)]
    assert {(m.eps, m.momentum) for m in norms} == {(eps, momentum)}


def reference(config: Config, weights: dict[str, Tensor], x: Tensor, pooling: str = "mean") -> Tensor:
    """The network in evaluation, in float64 and as plain functions of the state dict."""
    w = {k: v.double() for k, v in weights.items()}
    eps = 1e-3 if config.layout == "ig65m" else 1e-5

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (w[f"{name}.{part}"].view(-1, 1, 1, 1)
                                   for part in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / (var + eps).sqrt() * weight + bias

    def conv(x: Tensor, name: str, time: int, space: int) -> Tensor:
        kernel = w[f"{name}.weight"]
        return F.conv3d(x, kernel, None, (time, space, space), tuple(k // 2 for k in kernel.shape[2:]))

    def split(x: Tensor, name: str, time: int, space: int) -> Tensor:
        if config.kind == "r3d":
            return conv(x, f"{name}.0", time, space)
        return conv(norm(conv(x, f"{name}.0.0", 1, space), f"{name}.0.1").relu(), f"{name}.0.3", time, 1)

    x = norm(conv(x.double(), "stem.0", 1, config.stem_stride), "stem.1").relu()
    if config.kind == "r2plus1d":
        x = norm(conv(x, "stem.3", 1, 1), "stem.4").relu()
    for layer in range(4):
        for block in range(config.blocks[layer]):
            name = f"layer{layer + 1}.{block}"
            time, space = (config.time_strides[layer], 1 if layer == 0 else 2) if block == 0 else (1, 1)
            y = norm(split(x, f"{name}.conv1", time, space), f"{name}.conv1.1").relu()
            y = norm(split(y, f"{name}.conv2", 1, 1), f"{name}.conv2.1")
            if f"{name}.downsample.0.weight" in w:
                x = norm(conv(x, f"{name}.downsample.0", time, space), f"{name}.downsample.1")
            x = (x + y).relu()
    return x.mean(dim=(2, 3, 4)) if pooling == "mean" else x.flatten(2).max(-1).values


def scrambled(config: Config) -> ResNet3D:
    """A network whose batch norms, too, have weights and statistics of their own."""
    torch.manual_seed(0)
    model = ResNet3D(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("size", [(2, 3, 8, 20, 24), (1, 3, 1, 9, 7), (2, 3, 5, 8, 8)])
@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_features_are_those_of_a_plain_reference(name, size, pooling):
    model = scrambled(SMALL[name])
    x = torch.randn(size)
    features = model(x, pooling)
    assert features.shape == (size[0], model.dim) == (size[0], 32)
    assert features.dtype == torch.float32
    truth = reference(model.config, model.state_dict(), x, pooling)
    assert truth.std() > 0.01
    torch.testing.assert_close(features.double(), truth, rtol=1e-4, atol=1e-5)


def test_the_mean_is_taken_unless_the_maximum_is_asked_for():
    model, x = scrambled(SMALL["r2plus1d"]), torch.randn(2, 3, 8, 20, 24)
    torch.testing.assert_close(model(x), model(x, "mean"), rtol=0, atol=0)
    assert bool((model(x, "max") >= model(x)).all())
    assert not torch.equal(model(x, "max"), model(x))


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    model = ResNet3D(SMALL[name])
    model(torch.randn(4, 3, 8, 24, 24)).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("name", SMALL)
def test_memory_format_changes_nothing(name):
    torch.manual_seed(0)
    model, x = ResNet3D(SMALL[name]), torch.randn(4, 3, 8, 24, 24)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        model.zero_grad()
        features = model(x.contiguous(memory_format=layout))
        features.square().mean().backward()
        found.append([features, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_bf16_gradients_are_near_those_of_float32():
    """Sixteen frames are two in the last layer, where torch's own conv3d gives garbage (1e30) in bf16.

    The bound is wide because rounding flips the sign of some inputs of each of the 18 ReLUs in a row; that every single
    convolution is right to within rounding is tested in tests/nn.
    """
    torch.manual_seed(0)
    model = ResNet3D(Config("r2plus1d", (1, 1, 1, 1), 16)).eval()
    x, target = torch.randn(8, 3, 16, 24, 24), torch.randn(8, 128)
    found = []
    for bf16 in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            features = model(x)
        assert features.dtype == torch.float32
        (features * target).sum().backward()
        found.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    for key, truth in found[0].items():
        assert (found[1][key] - truth).norm() < 0.5 * truth.norm(), key


def test_no_activation_is_copied_but_by_the_strides_of_the_shortcuts():
    torch.manual_seed(0)
    model = ResNet3D(Config("r2plus1d", (1, 1, 1, 1), 4)).eval()
    x = torch.randn(2, 3, 8, 24, 24).contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad(), torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as profile:
        model(x)
    copied = {tuple(e.input_shapes[0]) for e in profile.events() if e.name == "aten::copy_"}
    weights = {tuple(p.shape[:2]) for p in model.parameters()}
    activations = {s for s in copied if len(s) > 1 and s[:2] not in weights}
    assert activations == {(2, 4, 4, 6, 6), (2, 8, 2, 3, 3), (2, 16, 1, 2, 2)}


def test_initialised_as_torchvision():
    torch.manual_seed(0)
    state = build("r2plus1d_18").state_dict()
    for key in ("layer3.0.conv1.0.0.weight", "layer4.1.conv2.0.3.weight", "layer4.0.downsample.0.weight"):
        weight = state[key]
        fan_out = len(weight) * weight[0, 0].numel()
        assert abs(weight.std().item() / (2 / fan_out) ** 0.5 - 1) < 0.02
        assert abs(weight.mean().item()) < 0.02 * weight.std().item()
    assert all(bool((state[k] == 1).all()) for k in state if k.endswith("conv2.1.weight"))


def test_a_config_survives_json():
    for config in (*ENCODERS.values(), *SMALL.values()):
        assert Config(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "r2plus"}, "unknown kind of video ResNet 'r2plus'; did you mean 'r2plus1d'?"),
        ({"layout": "caffe"}, "unknown layout of video ResNet 'caffe'"),
        ({"blocks": (1, 1, 1)}, "blocks of a video ResNet must be four numbers"),
        ({"blocks": (1, 1, 0, 1)}, "blocks of a video ResNet must be four numbers"),
        ({"time_strides": [1, 2, 2]}, "time_strides of a video ResNet must be four numbers"),
        ({"width": 0}, "width and stem_stride"),
        ({"stem_stride": 0}, "width and stem_stride"),
    ],
)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(CallError) as caught:
        Config(**options)
    assert message in str(caught.value)


def test_build_by_name_and_by_configuration():
    assert build("r2plus1d_tiny").config == ENCODERS["r2plus1d_tiny"]
    assert build(SMALL["r3d"]).config == SMALL["r3d"]
    with pytest.raises(CallError, match=r"unknown encoder 'r2plus1d_43'; did you mean 'r2plus1d_34'\? Known: r2plus1d"):
        build("r2plus1d_43")


# ------------------------------------------------------------------------------------- activations computed again


def step(name: str, recompute: bool, training: bool = True) -> tuple[ResNet3D, Tensor, int]:
    """A network after a backward pass, its features, and the bytes that it saved for that pass, weights aside."""
    torch.manual_seed(0)
    model, x = ResNet3D(SMALL[name]), torch.randn(4, 3, 8, 24, 24)
    model.recompute = recompute
    model.train(training)
    own, saved = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = model(x)
    features.square().mean().backward()
    return model, features.detach(), sum(saved.values())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_recomputing_changes_nothing_but_memory(name, training):
    (plain, features, much), (again, same, little) = step(name, False, training), step(name, True, training)
    assert torch.equal(features, same)
    for (key, p), (_, q) in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        assert p.grad is not None, key
        assert q.grad is not None, key
        assert torch.equal(p.grad, q.grad), key
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    assert {int(v) for k, v in state.items() if k.endswith("tracked")} == {1 if training else 0}
    assert 0 < little < 0.7 * much


def test_statistics_are_where_they_were_after_recomputing():
    """An optimiser or an average may hold them: the buffers themselves are put back."""
    torch.manual_seed(0)
    model = ResNet3D(SMALL["r2plus1d"])
    model.recompute = True
    before = {name: (id(buffer), buffer.clone()) for name, buffer in model.named_buffers()}
    for _ in range(2):
        model(torch.randn(4, 3, 8, 24, 24)).square().mean().backward()
    for name, buffer in model.named_buffers():
        assert id(buffer) == before[name][0]
        assert not torch.equal(buffer, before[name][1])


def test_nothing_is_computed_again_without_gradients():
    torch.manual_seed(0)
    model = ResNet3D(SMALL["r2plus1d"])
    model.recompute = True
    with torch.no_grad():
        model(torch.randn(4, 3, 8, 24, 24))
    assert {int(v) for k, v in model.state_dict().items() if k.endswith("tracked")} == {1}
