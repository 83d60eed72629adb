"""What conv-then-sample saves in G-TAD's alignment: the cheap order against the plain one, side by side.

Method. At ActivityNet's size (T = D = 100, 32 inner bins, 256 to 512 channels) the plain way samples every span's
features with a dense matrix, ``(C, T) x (T, P*N)``, and applies the 1x1 convolution to the result; ours applies the
convolution first and gathers sparsely (``nn/maps.py``). Both compute the same numbers. Each is run alternately, forward
and backward, and the fastest of the runs is reported, with the largest difference between the answers.

    python benchmarks/gtad_alignment.py [--runs 3] [--positions 100]

Prints a table; asserts nothing. About a minute.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from cuemark.nn.maps import SparseMap, conv_then_sample, extended_span_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--positions", type=int, default=100)
    arguments = parser.parse_args()
    length, bins, channels, out = arguments.positions, 32, 256, 512
    table = extended_span_table(length, length, bins)
    dense = torch.zeros(table.outputs, table.inputs)
    row = np.repeat(np.arange(table.outputs), np.diff(table.offsets))
    dense[torch.from_numpy(row), torch.from_numpy(table.columns)] = torch.from_numpy(table.weights)
    dense = dense.view(table.outputs, length, bins).permute(1, 2, 0).reshape(length, bins * table.outputs).contiguous()
    sampling = SparseMap(table)
    torch.manual_seed(0)
    features = torch.randn(1, channels, length, requires_grad=True)
    weight = torch.randn(bins, out, channels, requires_grad=True)

    def plain() -> torch.Tensor:
        sampled = (features[0] @ dense).view(channels, bins, table.outputs)
        return torch.einsum("cpn,poc->no", sampled, weight)[None]

    def ours() -> torch.Tensor:
        return conv_then_sample(features, weight, sampling)

    best = {}
    answers = {}
    for _ in range(arguments.runs):
        for name, way in (("sample, then convolve", plain), ("convolve, then sample", ours)):
            began = time.perf_counter()
            answer = way()
            forward = time.perf_counter() - began
            answer.sum().backward()
            both = time.perf_counter() - began
            old = best.get(name, (np.inf, np.inf))
            best[name] = (min(old[0], forward), min(old[1], both))
            answers[name] = answer.detach()
    print(f"T = D = {length}, {bins} bins, {table.outputs} spans, {torch.get_num_threads()} threads")
    print(f"{'':26}{'forward':>12}{'and backward':>16}")
    for name, (forward, both) in best.items():
        print(f"{name:26}{1000 * forward:>9.0f} ms{1000 * both:>13.0f} ms")
    a, b = best.values()
    print(f"{'ratio':26}{a[0] / b[0]:>12.1f}{a[1] / b[1]:>16.1f}")
    first, second = answers.values()
    print(f"largest difference {(first - second).abs().max():.1e} of values up to {first.abs().max():.0f}")


if __name__ == "__main__":
    main()
