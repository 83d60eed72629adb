"""Backends: the features of the network itself, from one thread or several, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cuemark.encoders.backends import BACKENDS, Backend, Run, ready
from cuemark.encoders.resnet3d import Config, Pooling, ResNet3D
from cuemark.encoders.video_encoder import encode
from cuemark.errors import CallError

EVERY: list[tuple[Backend, bool]] = [*((backend, False) for backend in BACKENDS),
                                     ("eager", True), ("compile", True), ("openvino", True)]
every = pytest.mark.parametrize(("backend", "bf16"), EVERY)
runtimes = pytest.mark.parametrize("backend", ["onnx", "openvino"])

NETWORKS = {
    "r3d": Config("r3d", (1, 1, 1, 1), 4),
    "r2plus1d": Config("r2plus1d", (1, 1, 1, 1), 8),
    "ig65m": Config("r2plus1d", (1, 2, 1, 1), 4, "ig65m"),
    "strides": Config("r2plus1d", (1, 1, 1, 1), 4, stem_stride=1, time_strides=(2, 1, 1, 2)),
}
SHAPE = (3, 3, 8, 20, 24)


@cache
def network(name: str = "r2plus1d") -> ResNet3D:
    """Batch norms have weights and statistics of their own."""
    torch.manual_seed(0)
    model = ResNet3D(NETWORKS[name])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    with torch.no_grad():
        model(torch.randn(4, 3, 8, 20, 24))
    return model.eval()


def clips(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(model: ResNet3D, backend: Backend, bf16: bool = False, pooling: Pooling = "mean", shape=SHAPE) -> Run:
    for package in {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}.get(backend, ()):
        if find_spec(package) is None:  # importorskip would import openvino with its telemetry
            pytest.skip(f"{package} is not installed")
    return ready(model, backend, shape, pooling=pooling, bf16=bf16)


made_once = cache(lambda backend, bf16: made(network(), backend, bf16))
"""Compiling takes seconds."""


def assert_near(features: Tensor, truth: Tensor, bf16: bool) -> None:
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert features.shape == truth.shape
    if bf16:
        assert torch.cosine_similarity(features, truth).min() > 0.999
        assert not torch.equal(features, truth)  # it was bf16
    else:
        torch.testing.assert_close(features, truth, rtol=1e-4, atol=1e-5)


@every
def test_features_are_those_of_the_network(backend, bf16):
    run, x = made_once(backend, bf16), clips(1)
    features = run(x)
    assert_near(features, encode(network(), x), bf16)
    torch.testing.assert_close(features, run(x), rtol=0, atol=0)


def test_eager_is_what_encode_does_bit_for_bit():
    for bf16 in (False, True):
        x = clips(1)
        torch.testing.assert_close(made_once("eager", bf16)(x), encode(network(), x, bf16), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [SHAPE, (1, 3, 16, 17, 9), (2, 3, 1, 16, 16)])
@pytest.mark.parametrize("name", NETWORKS)
@runtimes
def test_written_graphs_are_every_network(backend, name, shape):
    x = clips(2, shape)
    assert_near(made(network(name), backend, shape=shape)(x), encode(network(name), x), bf16=False)


@every
def test_maximum(backend, bf16):
    if backend == "compile" and bf16:
        pytest.skip("seconds of compiling for what float32 shows")
    x = clips(3)
    with torch.no_grad():
        truth = network()(x, "max")
    assert_near(made(network(), backend, bf16, "max")(x), truth, bf16)


@every
def test_a_clip_depends_neither_on_its_neighbours_nor_on_its_place(backend, bf16):
    run, x = made_once(backend, bf16), clips(4)
    features = run(x)
    torch.testing.assert_close(run(x.flip(0)).flip(0), features, rtol=0, atol=0)
    others = torch.cat([clips(5)[:1], x[1:2], torch.zeros_like(x[:1])])
    torch.testing.assert_close(run(others)[1], features[1], rtol=0, atol=0)
    torch.testing.assert_close(run(x[[2, 2, 2]]), features[[2, 2, 2]], rtol=0, atol=0)


@every
def test_memory_format_changes_nothing(backend, bf16):
    run, x = made_once(backend, bf16), clips(6)
    features = run(x)
    torch.testing.assert_close(run(x.contiguous(memory_format=torch.channels_last_3d)), features, rtol=0, atol=0)
    torch.testing.assert_close(run(x.repeat(1, 1, 1, 1, 2)[..., :24]), features, rtol=0, atol=0)


@every
def test_several_threads_at_once(backend, bf16):
    """And no thread compiles anew, whatever its number of torch threads."""
    run, batches = made_once(backend, bf16), [clips(seed) for seed in range(12)]
    truth = [run(x) for x in batches]
    with torch.compiler.set_stance("fail_on_recompile"):
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(run, batches))
        with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            found += list(pool.map(run, batches))
    for features, expected in zip(found, truth + truth):
        torch.testing.assert_close(features, expected, rtol=0, atol=0)


@runtimes
def test_the_network_is_copied(backend):
    model = ResNet3D(NETWORKS["r2plus1d"]).eval()
    run, x = made(model, backend), clips(7)
    before = run(x)
    with torch.no_grad():
        model.stem[0].weight.zero_()  # type: ignore[operator]
    torch.testing.assert_close(run(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "compile"])
def test_threads_of_torch_are_as_before(backend):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made(network(), backend)(clips(8))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_two_threads():
    for backend in ("eager", "onnx", "openvino"):
        made(network(), backend)  # skips where it is not installed
        x = clips(9)
        assert_near(ready(network(), backend, SHAPE, threads=2)(x), encode(network(), x), bf16=False)


def test_another_shape_is_refused():
    run = ready(network(), "eager", SHAPE)
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 20, 24\) where \(3, 3, 8, 20, 24\)"):
        run(clips(0)[:2])


@pytest.mark.parametrize(("backend", "options", "message"), [
    ("openvina", {}, "unknown backend 'openvina'; did you mean 'openvino'? Known: compile, eager, onnx, openvino."),
    ("eager", {"threads": 0}, "threads must be a number at least 1, got 0."),
    ("onnx", {"bf16": True}, "the backend 'onnx' computes in float32 only; leave bf16 out, or take another backend."),
])
def test_impossible_calls(backend, options, message):
    with pytest.raises(CallError) as caught:
        ready(network(), backend, SHAPE, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(("backend", "package"),
                         [("onnx", "onnxruntime"), ("onnx", "onnx"), ("openvino", "openvino")])
def test_a_missing_package_is_named(backend, package, monkeypatch):
    if package == "onnxruntime":
        monkeypatch.setitem(sys.modules, "onnx", sys)  # there, so that the other one is missed
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CallError) as caught:
        ready(network(), backend, SHAPE)
    assert str(caught.value) == f'the backend \'{backend}\' needs {package}; pip install "cuemark[{backend}]".'


def test_a_missing_compiler_is_named():
    from torch._inductor import config

    torch.compiler.reset()
    with config.patch({"cpp.cxx": ("/no/such/compiler",)}), pytest.raises(CallError) as caught:
        ready(network("ig65m"), "compile", SHAPE)
    message = str(caught.value)
    assert message.startswith("the backend 'compile' could not compile the network (")
    assert message.endswith("it needs a C++ compiler such as g++: install one, or take another backend.")
    assert "\n" not in message


ALONE = """
import json, sys
asked = []
sys.addaudithook(lambda event, _: asked.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
import cuemark, cuemark.encoders.backends as backends
early = [name for name in ("onnx", "onnxruntime", "openvino", "torch._inductor") if name in sys.modules]
from cuemark.encoders.resnet3d import Config, ResNet3D
import torch
network, shape = ResNet3D(Config("r2plus1d", (1, 1, 1, 1), 4)).eval(), (1, 3, 8, 16, 16)
backends.ready(network, sys.argv[1], shape)(torch.ones(shape))
print(json.dumps([early, asked, "openvino_telemetry" in sys.modules]))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_left_behind_nor_sent(backend, tmp_path):
    made(network(), backend) if backend != "compile" else None
    home = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", ALONE, backend], env={**os.environ, **home}, capture_output=True,
                           text=True, check=False)
    assert ended.stderr == ""
    assert json.loads(ended.stdout) == [[], [], False]
    left = [path.relative_to(tmp_path).parts for path in Path(tmp_path).rglob("*") if path.is_file()]
    assert [parts for parts in left if parts[1:2] != ("precompiled_headers",)] == []
    assert not left or backend == "compile"
