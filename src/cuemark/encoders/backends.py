"""A video ResNet made ready for fast, fixed-shape inference on a CPU: four ways to run the same network.

``eager``
    The network as it is; needs nothing.
``compile``
    ``torch.compile`` with the weights frozen into the code, batch norms folded. Needs a C++ compiler. What it
    compiles is deleted as soon as it is loaded, but for the C++ header that PyTorch keeps precompiled, for good, in
    ``torchinductor_<user>`` of the folder for temporary files: without it every piece of code takes seconds.
``onnx``
    ONNX Runtime, in float32 only.
``openvino``
    OpenVINO's CPU plugin.

``benchmarks/backends.py`` compares their speed and how near their features are to float32.

The two runtimes get the network as a graph of convolutions, additions and ReLUs that is written here node by node, in
memory. That takes a second, where ``torch.onnx`` and ``openvino.convert_model`` trace for several, warn, and need more
packages; and batch norms are folded into the convolutions before (``y = s (x - m) + b`` is linear in evaluation).
Convolutions are 3-D there and in ``compile``: the bf16 trap that ``cuemark.nn.convolution`` avoids is in the backward
pass alone. Pooling stays with PyTorch, in float32.
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from cuemark.encoders.clip import ImageTower
from cuemark.encoders.resnet3d import Pooling, ResNet3D, pooled
from cuemark.errors import CallError, unknown, within

Backend = Literal["eager", "compile", "onnx", "openvino"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

Shape = tuple[int, int, int, int, int]
Run = Callable[[Tensor], Tensor]


def ready(network: ResNet3D | ImageTower, backend: Backend, clips: Shape, *, pooling: Pooling = "mean",
          bf16: bool = False, threads: int = 1) -> Run:
    """Make a network ready for clips of one shape; all that is slow (compiling, folding) happens here.

    The function that comes back may be called from several threads at once. Each call computes on ``threads`` threads;
    PyTorch's own number (``torch.set_num_threads``) is set for the call where it differs, and set back. For OpenVINO,
    which runs one call at a time on one compiled network, as many are compiled as calls ever ran at once: one here,
    each further one (half a second, and another copy of the weights) by the call that first needs it.

    A clip's features do not depend on the other clips of its batch, nor on its place in it. They do depend, in the last
    bits, on ``backend``, ``threads`` and the shape.

    Args:
        network: in evaluation mode, on the CPU. ``eager`` runs it as it is now and will be; the others take a copy.
        backend: one of :data:`BACKENDS`.
        clips: the shape ``(B, 3, T, H, W)`` of every batch to come.
        pooling: see :meth:`cuemark.encoders.resnet3d.ResNet3D.forward`.
        bf16: compute in bfloat16, pool in float32. On a processor without bfloat16, OpenVINO computes in float32.
        threads: threads of one call.

    Returns:
        A function from float32 ``(B, 3, T, H, W)`` of exactly that shape, in any memory format, to float32
        ``(B, F)``, without gradients. It raises ``ValueError`` for any other shape.

    Raises:
        CallError: an unknown backend, fewer than one thread, a package or compiler that is not there, ``bf16`` with
            ``onnx``, or any but ``eager`` for the image tower of a CLIP.
    """
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    within("threads", threads, 1)
    if backend == "eager":
        run = _eager(network, clips, pooling, bf16, threads)
    elif isinstance(network, ImageTower):
        raise CallError(f"the backend '{backend}' computes video ResNets; use eager for the image tower of a CLIP.")
    elif backend == "onnx":
        run = _onnx(network, clips, pooling, bf16, threads)
    elif backend == "openvino":
        run = _openvino(network, clips, pooling, bf16, threads)
    else:
        run = _compiled(network, clips, pooling, bf16, threads)

    def checked(batch: Tensor) -> Tensor:
        if batch.shape != clips:
            raise ValueError(f"clips of shape {tuple(batch.shape)} where {clips} was announced")
        with torch.no_grad(), _threads(threads):
            return run(batch)

    return checked


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch on ``count`` threads, for calls from this thread."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------- PyTorch


def _eager(network: ResNet3D | ImageTower, clips: Shape, pooling: Pooling, bf16: bool, threads: int) -> Run:
    def run(batch: Tensor) -> Tensor:
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=bf16):
            return network(batch, pooling)

    return run


def _compiled(network: ResNet3D, clips: Shape, pooling: Pooling, bf16: bool, threads: int) -> Run:
    from torch._dynamo.exc import TorchDynamoException  # a second of imports
    from torch._inductor import config

    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    for module in frozen.modules():
        if isinstance(module, nn.Conv3d):
            module.__class__ = nn.Conv3d  # from ours: compiled in a fifth of the time, and a little faster
    compiled = torch.compile(_eager(frozen, clips, pooling, bf16, threads), fullgraph=True, dynamic=False)
    device = next(network.parameters()).device
    x = torch.zeros(clips, device=device).to(memory_format=torch.channels_last_3d)
    strides = x.stride()

    def run(batch: Tensor) -> Tensor:
        if batch.stride() != strides:  # other strides would be compiled for anew
            batch = torch.empty_strided(clips, strides, device=device).copy_(batch)
        return compiled(batch)

    try:
        # the option freezing of torch.compile comes too late: the tracer looks at this one
        with (torch.no_grad(), _threads(threads), config.patch(freezing=True, compile_threads=1),
              warnings.catch_warnings(action="ignore"), TemporaryDirectory() as folder,
              _environment("TORCHINDUCTOR_CACHE_DIR", folder)):
            run(x)  # compiled code is loaded here, and needs its folder no more
    except TorchDynamoException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2]).rstrip(".")
        raise CallError(f"the backend 'compile' could not compile the network ({reason}); it needs a C++ compiler "
                        "such as g++: install one, or take another backend.") from None
    return run


# ---------------------------------------------------------------------------------------------- runtimes


def _onnx(network: ResNet3D, clips: Shape, pooling: Pooling, bf16: bool, threads: int) -> Run:
    if bf16:
        raise CallError("the backend 'onnx' computes in float32 only; leave bf16 out, or take another backend.")
    with _environment("ORT_DISABLE_TELEMETRY", "1"):  # it reports over the network since 1.29
        onnx, runtime = _package("onnx", "onnx"), _package("onnxruntime", "onnx")
    nodes: list[Any] = []
    weights: list[Any] = []

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(onnx.helper.make_node(kind, inputs, [f"{kind}{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def constant(array: np.ndarray) -> str:
        weights.append(onnx.numpy_helper.from_array(array, f"weight{len(weights)}"))
        return weights[-1].name

    def conv(x: str, weight: np.ndarray, bias: np.ndarray, stride: list[int], padding: list[int]) -> str:
        return add("Conv", x, constant(weight), constant(bias), strides=stride, pads=padding * 2)

    last = _layers(network, "clips", conv, lambda x, y: add("Add", x, y), lambda x: add("Relu", x))
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(nodes, "network", [onnx.helper.make_tensor_value_info("clips", floats, clips)],
                                   [onnx.helper.make_tensor_value_info(last, floats, None)], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to others
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> Tensor:
        (out,) = session.run([last], {"clips": batch.contiguous().numpy()})
        return pooled(torch.from_numpy(out), pooling)

    return run


def _openvino(network: ResNet3D, clips: Shape, pooling: Pooling, bf16: bool, threads: int) -> Run:
    with _without_telemetry():
        openvino, ops = _package("openvino", "openvino"), _package("openvino.opset13", "openvino")

    def conv(x: Any, weight: np.ndarray, bias: np.ndarray, stride: list[int], padding: list[int]) -> Any:
        out = ops.convolution(x, ops.constant(weight), stride, padding, padding, [1, 1, 1])
        return ops.add(out, ops.constant(bias.reshape(1, -1, 1, 1, 1)))

    x = ops.parameter(clips, np.float32)
    model = openvino.Model([_layers(network, x, conv, ops.add, ops.relu)], [x])
    core = openvino.Core()
    options = {
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "ENABLE_CPU_PINNING": False,  # or networks that run at once share one core
    }

    def compiled() -> Any:
        return core.compile_model(model, "CPU", options).create_infer_request()

    idle = [compiled()]

    def run(batch: Tensor) -> Tensor:
        try:
            request = idle.pop()
        except IndexError:  # every one there is runs in another thread
            request = compiled()
        try:
            (out,) = request.infer([batch.contiguous().numpy()], share_inputs=True, share_outputs=True).values()
            return pooled(torch.from_numpy(out), pooling)
        finally:
            idle.append(request)

    return run


def _layers(network: ResNet3D, x: Any, conv: Callable[..., Any], add: Callable[[Any, Any], Any],
            relu: Callable[[Any], Any]) -> Any:
    """The network up to its last layer, written with the operations of a runtime; ``x`` and the result are its nodes.

    Args:
        conv: takes a node, the weight ``(O, I, kt, kh, kw)``, the bias ``(O,)``, stride and padding in time, height
            and width.
    """

    def chain(part: nn.Module, x: Any) -> Any:
        modules = [m for m in part.modules() if isinstance(m, (nn.Conv3d, nn.BatchNorm3d, nn.ReLU))]
        for module, after in zip(modules, [*modules[1:], None]):
            if isinstance(module, nn.Conv3d):
                assert isinstance(after, nn.BatchNorm3d)  # in every ResNet, and no convolution has a bias
                x = conv(x, *_folded(module, after), list(module.stride), list(module.padding))
            elif isinstance(module, nn.ReLU):
                x = relu(x)
        return x

    x = chain(network.stem, x)
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in layer:
            parts = dict(block.named_children())
            shortcut = chain(parts["downsample"], x) if "downsample" in parts else x
            x = relu(add(chain(parts["conv2"], chain(parts["conv1"], x)), shortcut))
    return x


@torch.no_grad()
def _folded(conv: nn.Conv3d, norm: nn.BatchNorm3d) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of the convolution that does what ``conv`` and then ``norm`` do in evaluation; float32."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * scale
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1, 1)
    return weight.float().numpy(), bias.float().numpy()


def _package(name: str, extra: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise CallError(f'the backend \'{extra}\' needs {name.partition(".")[0]}; pip install "cuemark[{extra}]".'
                        ) from None


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Import openvino as if openvino_telemetry were not installed, which would report every import over the network
    and leave a folder in the user's home. A program that imported openvino before has chosen for itself.
    """
    name = "openvino_telemetry"
    modules = cast("dict[str, Any]", sys.modules)
    before = modules.get(name)
    modules[name] = None  # how Python marks what cannot be imported
    try:
        yield
    finally:
        del modules[name]
        if before is not None:
            modules[name] = before
