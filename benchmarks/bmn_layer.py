"""What conv-then-sample saves in BMN's boundary-matching layer: as released, against ours, each in its own process.

Method. As released, the layer multiplies the features with a dense matrix, ``(C, T) x (T, N·D·T)``, which gives the
sampled tensor ``(C, N, D, T)`` of every video, and a Conv3d with a kernel of (N, 1, 1) makes ``(O, D, T)`` of it. Ours
convolves the ``T`` positions first and gathers sparsely (``nn/maps.py``), on the cells whose span ends inside the
video. Both compute the same numbers, bias and ReLU included, from the same weights and the same table.

Each way runs in a fresh process, so that its peak memory is its own; the table of samples comes from a file, for making
it takes memory too. A process makes the layer, runs forward and backward ``--runs`` times on one video, and reports the
fastest forward, the fastest forward and backward together, and how far its peak resident memory rose from the moment
before the layer was made (kept tables included) until after the forward passes without gradients, and until the end.
Answers are compared by a fixed random projection.

    python benchmarks/bmn_layer.py [--positions 100] [--runs 3] [--threads 1]

Prints a table; asserts nothing. Full size takes about a minute and 3 GB; ``--positions 40`` a few seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cuemark.nn.maps import SparseMap, SparseTable, cells, conv_then_sample, extended_point_table

SAMPLES, CHANNELS, OUT = 32, 256, 512
WAYS = {"released": "as released", "ours": "convolve, then sample"}


def peak() -> float:
    """Megabytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 ** 2 if sys.platform == "darwin" else 1024)


def one(way: str, table: SparseTable, length: int, runs: int) -> dict[str, float | list[float]]:
    """Measure one way in this process."""
    torch.manual_seed(0)
    features = torch.randn(1, CHANNELS, length, requires_grad=True)
    weight = torch.randn(SAMPLES, OUT, CHANNELS) / (SAMPLES * CHANNELS) ** 0.5
    bias = torch.randn(OUT, requires_grad=True)
    found = cells(length, length)
    before = peak()

    if way == "released":
        matrix = torch.zeros(length, SAMPLES, length, length)
        row = np.repeat(np.arange(table.outputs), np.diff(table.offsets))
        d, s = found[row].T
        position, bin_ = np.divmod(table.columns, SAMPLES)
        matrix[position, bin_, d, s] = torch.from_numpy(table.weights)
        matrix = matrix.view(length, -1)
        kernel = weight.permute(1, 2, 0)[..., None, None].contiguous().requires_grad_()
        parameters = kernel

        def layer() -> torch.Tensor:
            sampled = (features @ matrix).view(1, CHANNELS, SAMPLES, length, length)
            return F.relu(F.conv3d(sampled, kernel, bias))[:, :, 0]

        def inside(answer: torch.Tensor) -> torch.Tensor:
            return answer[0][:, found[:, 0], found[:, 1]].T
    else:
        sampling = SparseMap(table)
        parameters = weight.requires_grad_()

        def layer() -> torch.Tensor:
            return conv_then_sample(features, weight, sampling).add_(bias).relu_()

        def inside(answer: torch.Tensor) -> torch.Tensor:
            return answer[0]

    forward, both = [], []
    for _ in range(runs):
        began = time.perf_counter()
        with torch.no_grad():
            answer = layer()
        forward.append(time.perf_counter() - began)
    look = peak() - before
    project = torch.randn(OUT, 4, generator=torch.Generator().manual_seed(1))
    summary = inside(answer) @ project
    for _ in range(runs):
        features.grad = parameters.grad = bias.grad = None
        began = time.perf_counter()
        inside(layer()).square().sum().backward()
        both.append(time.perf_counter() - began)
    assert features.grad is not None
    return {"forward": min(forward), "both": min(both), "look": look, "train": peak() - before,
            "answer": summary[:: max(1, len(found) // 200)].flatten().tolist(),
            "gradient": features.grad[0].sum(dim=0).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help="measure this way alone, here, and print JSON; needs --table")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    length = arguments.positions
    if arguments.way:
        with np.load(arguments.table) as kept:
            table = SparseTable(len(kept["offsets"]) - 1, length * SAMPLES, **kept)
        print(json.dumps(one(arguments.way, table, length, arguments.runs)))
        return
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        made, path = extended_point_table(length, length, SAMPLES), Path(folder, "table.npz")
        np.savez(path, offsets=made.offsets, columns=made.columns, weights=made.weights)
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--table", str(path)]
            for name in ("positions", "runs", "threads"):
                command += [f"--{name}", str(getattr(arguments, name))]
            told[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"T = D = {length}, {SAMPLES} samples, {CHANNELS} to {OUT} channels, {len(cells(length, length))} spans, "
          f"{arguments.threads} thread(s), 1 video")
    print(f"{'':24}{'forward':>12}{'and backward':>16}{'memory, forward':>18}{'and backward':>15}")
    for way, title in WAYS.items():
        t = told[way]
        print(f"{title:24}{1000 * t['forward']:>9.0f} ms{1000 * t['both']:>13.0f} ms{t['look']:>15.0f} MB"
              f"{t['train']:>12.0f} MB")
    a, b = told["released"], told["ours"]
    print(f"{'ratio':24}" + "".join(f"{a[key] / b[key]:>{width}.1f}" if b[key] else f"{'-':>{width}}"
                                    for key, width in (("forward", 12), ("both", 16), ("look", 18), ("train", 15))))
    for key in ("answer", "gradient"):
        x, y = (np.array(told[way][key]) for way in WAYS)
        print(f"{key}s differ by at most {np.abs(x - y).max():.1e}, of values up to {np.abs(x).max():.1f}")


if __name__ == "__main__":
    main()
