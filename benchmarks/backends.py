"""R(2+1)D on a CPU: eager, compiled, ONNX Runtime and OpenVINO, in float32 and bf16, on the same clips.

    python benchmarks/backends.py [--kinds r2plus1d_18 r2plus1d_34] [--threads 1 2] [--batch 4] [--rounds 3]

Method. One batch of ``--batch`` clips of 16 frames of ``--pixels`` pixels: coloured waves that drift and turn at a pace
of their own, with noise, in uint8, normalised as extraction does. Weights are random, as ``cuemark.encoders.build``
draws them. Batch norms take their statistics from one pass over other such clips in training mode, so that activations
have the sizes that a trained network's have. Each backend is made ready (``cuemark.encoders.backends.ready``; "set-up"
is its wall time, the first call included) and then every backend encodes the batch once a round, one after the other,
``--rounds`` times. Clips/s is from the median of the wall times of its calls, and the ratio is that to eager float32 in
the same run. The cosine similarity is the smallest over the clips, to eager float32; features of random weights are
closer to one another than those of trained ones, so "others" gives the largest between two different clips, and
"error" the largest distance to float32 divided by the distance of a clip to the mean of the clips.

The rows "channels_last_3d" are eager PyTorch with weights and clips in that memory format (the compiled backend has its
clips in it always), turning the clips included, as an extraction would have to.

On a busy machine: with real-time priority (``chrt -f 20 python benchmarks/backends.py``).
"""

from __future__ import annotations

import argparse
import copy
import time

import numpy as np
import torch
from torch import Tensor, nn

from cuemark.batch import normalised
from cuemark.clips import ClipConfig
from cuemark.encoders import build
from cuemark.encoders.backends import Backend, Run, ready
from cuemark.encoders.resnet3d import ResNet3D
from cuemark.errors import CallError

Choice = tuple[Backend, bool, bool]
"""Backend, whether in bf16, whether in channels_last_3d."""
CHOICES: list[Choice] = [
    ("eager", False, False), ("eager", True, False), ("eager", False, True), ("eager", True, True),
    ("compile", False, False), ("compile", True, False), ("onnx", False, False), ("openvino", False, False),
    ("openvino", True, False)]


def drawn(count: int, pixels: int, seed: int) -> Tensor:
    """``(count, 3, 16, pixels, pixels)`` normalised clips of moving patterns."""
    rng, clip = np.random.default_rng(seed), ClipConfig()
    t, y, x = np.meshgrid(np.arange(16) / 16, *[np.linspace(-1, 1, pixels)] * 2, indexing="ij")
    frames = np.empty((count, 16, pixels, pixels, 3))
    for out in frames:
        for channel in range(3):
            turn, spin, pace = rng.uniform(0, 2 * np.pi), rng.uniform(-1, 1), rng.uniform(-8, 8)
            along = x * np.cos(turn + spin * t) + y * np.sin(turn + spin * t)
            wave = np.sin(rng.uniform(2, 30) * along + pace * t)
            out[..., channel] = rng.uniform(60, 200) + rng.uniform(20, 60) * wave
    frames += rng.normal(0, 8, frames.shape)
    return normalised(frames.clip(0, 255).astype(np.uint8), clip.mean, clip.std)


def network(kind: str, clips: Tensor) -> ResNet3D:
    """Random weights; the statistics of batch norms are those of ``clips``."""
    torch.manual_seed(0)
    model = build(kind)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(clips)
    return model.eval()


def made(model: ResNet3D, choice: Choice, shape: tuple[int, int, int, int, int], threads: int) -> Run:
    """A backend made ready."""
    if not choice[2]:
        return ready(model, choice[0], shape, bf16=choice[1], threads=threads)
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last_3d)
    run = ready(turned, choice[0], shape, bf16=choice[1], threads=threads)
    return lambda clips: run(clips.contiguous(memory_format=torch.channels_last_3d))


def measure(model: ResNet3D, clips: Tensor, threads: int, rounds: int) -> None:
    """Print the table of one network."""
    runs: dict[Choice, Run] = {}
    setup, features = {}, {}
    taken: dict[Choice, list[float]] = {}
    shape = (clips.shape[0], clips.shape[1], clips.shape[2], clips.shape[3], clips.shape[4])
    for choice in CHOICES:
        began = time.perf_counter()
        try:
            runs[choice] = made(model, choice, shape, threads)
        except CallError as error:
            print(f"left out: {error}")
            continue
        features[choice] = runs[choice](clips)
        setup[choice], taken[choice] = time.perf_counter() - began, []
    for _ in range(rounds):
        for choice, run in runs.items():
            began = time.perf_counter()
            run(clips)
            taken[choice].append(time.perf_counter() - began)
    truth = features["eager", False, False]
    seconds = {choice: float(np.median(times)) for choice, times in taken.items()}
    spread = (truth - truth.mean(0)).norm(dim=1)
    print(f"{'backend':<28} {'clips/s':>8} {'ratio':>6} {'cosine':>9} {'error':>7} {'set-up s':>9}")
    for choice, run_seconds in seconds.items():
        cosine = torch.cosine_similarity(features[choice].double(), truth.double()).min()
        error = ((features[choice] - truth).norm(dim=1) / spread).max()
        name = f"{choice[0]}{' channels_last_3d' if choice[2] else ''} {'bf16' if choice[1] else 'fp32'}"
        print(f"{name:<28} {len(clips) / run_seconds:8.2f} {seconds['eager', False, False] / run_seconds:6.2f} "
              f"{cosine:9.6f} {error:7.3f} {setup[choice]:9.1f}", flush=True)
    unit = nn.functional.normalize(truth.double())
    others = (unit @ unit.T).fill_diagonal_(-1).max()
    print(f"others: cosine {others:.6f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="speed and fidelity of the backends")
    parser.add_argument("--kinds", nargs="+", default=["r2plus1d_18", "r2plus1d_34"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    clips = drawn(options.batch, options.pixels, seed=1)
    for kind in options.kinds:
        model = network(kind, drawn(4, options.pixels, seed=0))
        for threads in options.threads:
            print(f"\n{kind}: {options.batch} clips of 16 x {options.pixels} x {options.pixels}, {threads} thread(s), "
                  f"median of {options.rounds}", flush=True)
            measure(model, clips, threads, options.rounds)


if __name__ == "__main__":
    main()
