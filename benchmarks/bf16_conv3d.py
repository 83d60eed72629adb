"""The bf16 trap of 3-D convolution on a CPU, and what the way around it costs.

    python benchmarks/bf16_conv3d.py [--calls N]

Method. For each shape one input, kernel and output gradient are drawn once. The weight gradient is computed by
``conv3d`` in float32 (the truth), and then ``--calls`` times each under bf16 autocast by ``conv3d`` and by
``cuemark.nn.convolution.Conv3d`` ("ours"), inputs in ``channels_last_3d``. Between calls memory is allocated, filled
and freed, as a training step does, since what comes out is what happened to lie in uninitialised memory. A call is
garbage when its weight gradient is not finite or further from the truth than a tenth of the truth's norm; "worst" is
the largest such relative distance. Rounding to bf16 alone gives 0.003. Times are milliseconds of processor time on one
thread (so that a busy machine changes little), forward and backward together, the fastest of all calls.

Found with torch 2.13.0 on an AMD EPYC with avx512_bf16: ``conv3d`` gave garbage in every call for kernels of three
frames on clips of two frames, and for a strided kernel on clips one pixel wide; ours in none. Kernels split in space
and time took 1.0 to 1.35 times less time than ``conv3d`` in bf16 and 1.3 to 6 times less than in float32. A 3x3x3
kernel runs in float32 here and takes the time of it: 2.5 times that of the wrong answer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cuemark.nn.convolution import Conv3d

# input (B, C, T, H, W), output channels, kernel, stride
CASES = [
    ((48, 144, 2, 8, 8), 64, (3, 1, 1), (1, 1, 1)),
    ((48, 144, 3, 8, 8), 64, (3, 1, 1), (1, 1, 1)),
    ((48, 144, 2, 8, 8), 64, (3, 1, 1), (2, 1, 1)),
    ((48, 230, 2, 3, 3), 128, (3, 1, 1), (1, 1, 1)),
    ((48, 64, 2, 8, 8), 144, (1, 3, 3), (1, 1, 1)),
    ((48, 64, 2, 1, 1), 144, (1, 3, 3), (1, 2, 2)),
    ((48, 64, 2, 8, 8), 64, (3, 3, 3), (1, 1, 1)),
    ((16, 16, 16, 20, 20), 36, (1, 3, 3), (1, 1, 1)),
    ((16, 36, 16, 20, 20), 16, (3, 1, 1), (1, 1, 1)),
    ((4, 64, 8, 28, 28), 144, (1, 3, 3), (1, 1, 1)),
    ((4, 144, 8, 28, 28), 64, (3, 1, 1), (1, 1, 1)),
]


def step(run: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, grad: Tensor | None,
         bf16: bool) -> tuple[Tensor, Tensor, float]:
    """One forward and backward: output, weight gradient, seconds."""
    x = x.detach().requires_grad_()
    weight.grad = None
    began = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = run(x)
    y.backward(torch.ones_like(y) if grad is None else grad.to(y.dtype))
    seconds = time.process_time() - began
    assert weight.grad is not None
    return y.detach(), weight.grad, seconds


def measure(case: tuple, calls: int) -> str:
    shape, planes, kernel, stride = case
    padding = tuple(k // 2 for k in kernel)
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last_3d)
    ours = Conv3d(shape[1], planes, kernel, stride, padding, bias=False)

    def plain(x: Tensor) -> Tensor:
        return F.conv3d(x, ours.weight, None, stride, padding)

    grad = torch.randn_like(step(plain, x, ours.weight, None, False)[0])
    truth = step(plain, x, ours.weight, grad, False)[1]
    cells = []
    for run, bf16 in ((plain, True), (ours, True), (plain, False)):
        garbage, worst, fastest = 0, 0.0, float("inf")
        for _ in range(calls):
            torch.full((int(torch.randint(1, 1 << 20, ())),), 1e30)
            _, found, seconds = step(run, x, ours.weight, grad, bf16)
            error = float((found - truth).norm() / truth.norm())
            error = error if error == error else float("inf")
            garbage, worst, fastest = garbage + (not error < 0.1), max(worst, error), min(fastest, seconds)
        cells.append((f"{garbage / calls:6.0%} {worst:9.2g}", 1e3 * fastest))
    (bad, slow), (good, fast), (_, full) = cells
    name = f"{shape} -> {planes}, {kernel} / {stride}"
    return f"{name:57} {bad}  {good}  {slow:7.1f} {fast:7.1f} {full:7.1f}   {slow / fast:5.2f} {full / fast:5.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="bf16 weight gradients of conv3d against ours")
    parser.add_argument("--calls", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, {options.calls} calls")
    print(f"{'':57} {'conv3d bf16':>16}  {'ours bf16':>16}  {'ms: conv3d, ours, fp32':>23}   conv3d / ours")
    print(f"{'shape -> channels, kernel / stride':57} {'garbage':>6} {'worst':>8}  {'garbage':>6} {'worst':>8}  "
          f"{'bf16':>7} {'bf16':>7} {'conv3d':>7}   {'bf16':>5} {'fp32':>5}")
    for case in CASES:
        print(measure(case, options.calls), flush=True)


if __name__ == "__main__":
    main()
