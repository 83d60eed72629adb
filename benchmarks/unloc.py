"""What UnLoc costs a video: questions C, frames N and words T against time and memory, naive and ours side by side.

Method. UnLoc at the paper's size (B; ``--size l`` for L) with random weights; the towers are cached, so a video is its
N frame features and a question its T word vectors, drawn at random. All ways have the same weights and dtype, and
alternate in one run, after a small one to warm up:

- naive: one class at a time, a batch of one question each (what a loop over class names does);
- ours: all questions of the video in one batch, ``chunk`` pairs at a time; largest difference of the logits beside it;
- shortlist: the ``--top`` questions most like the video (``Config.top``). Random weights say nothing about what that
  costs in accuracy.

Training: one step on all C classes against a step on ``--negatives`` drawn ones, with and without recomputation.
Memory is the peak of a process of its own for each figure, less what the process had before. FLOPs are those of the
reference's formula (C 6 S (24 d² + 4 S d) for the fusion, C 2 M 6 d² K for the heads), so that time over FLOPs tells
whether cost follows it.

    python benchmarks/unloc.py [--classes 1 20 200] [--frames 128] [--words 1] [--size b] [--device cpu] [--quick]

Prints tables, asserts nothing. About ten minutes on one core; the training step of 200 classes wants 8 GB.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from cuemark.batch import Batch, Sentences
from cuemark.grid import Grid
from cuemark.localizers.unloc import Config, UnLoc
from cuemark.segments import Segment

IMAGE = {"b": 768, "l": 1024}
TIMES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 20, 200])
    parser.add_argument("--frames", type=int, nargs="+", default=[128])
    parser.add_argument("--words", type=int, nargs="+", default=[1])
    parser.add_argument("--size", choices=sorted(IMAGE), default="b")
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--negatives", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a small network, to see that it runs")
    parser.add_argument("--peak", nargs=4, metavar=("WAY", "C", "N", "T"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        way, *numbers = arguments.peak
        print(peak(way, *map(int, numbers), arguments))
        return
    print(f"UnLoc-{arguments.size.upper()}, {arguments.device}, {'bf16' if arguments.bf16 else 'fp32'}, one thread, "
          f"chunk {arguments.chunk}")
    print(f"{'C':>5}{'N':>6}{'T':>4}{'GFLOP':>8} | {'naive, s':>9}{'ours, s':>9}{'ratio':>7}{'top, s':>8}{'ratio':>7}"
          f" | {'MB':>6}{'top':>6} | {'differ':>8}")
    for frames in arguments.frames:
        for words in arguments.words:
            for count in arguments.classes:
                inference(count, frames, words, arguments)
    print(f"\ntraining step, one video (of {arguments.negatives} drawn classes: those it shows and so many others)")
    print(f"{'C':>5} | {'all, s':>8}{'drawn, s':>9}{'ratio':>7} | {'all, MB':>8}{'kept, MB':>9}{'drawn, MB':>10}")
    for count in arguments.classes:
        training(count, arguments.frames[0], arguments.words[0], arguments)


def network(frames: int, arguments: argparse.Namespace, **changes: object) -> UnLoc:
    config = Config.activitynet(arguments.size)
    ranges = config.ranges if frames % 2 ** (config.levels - 1) == 0 else config.ranges[:1]
    config = replace(config, frames=frames, ranges=ranges, chunk=arguments.chunk, tokens="all",
                     negatives=None, **changes)
    if arguments.quick:
        config = replace(config, width=64, heads=2, layers=2, text_dim=64)
    torch.manual_seed(0)
    return UnLoc(config, IMAGE[arguments.size]).to(arguments.device).eval()


def video(count: int, net: UnLoc, words: int, device: str, training: bool = False) -> Batch:
    """One video, asked for ``count`` classes; the first is there."""
    length = net.config.frames
    torch.manual_seed(1)
    truth = [(Segment(length / 4, length / 2),), *[() for _ in range(count - 1)]] if training else None
    return Batch(torch.randn(1, length, net.dim), torch.ones(1, length, dtype=torch.bool),
                 [Grid(0.0, 1.0, length, 1.0)], [float(length)], truth, torch.zeros(count, dtype=torch.int64),
                 Sentences(torch.randn(count, words, net.config.text_dim), torch.ones(count, words, dtype=torch.bool))
                 ).to(device)


def one_by_one(batch: Batch) -> list[Batch]:
    assert batch.sentences is not None
    return [replace(batch, about=torch.zeros_like(batch.mask[:, 0], dtype=torch.int64),
                    sentences=Sentences(words[None], mask[None]))
            for words, mask in zip(batch.sentences.words, batch.sentences.mask)]


def inference(count: int, frames: int, words: int, arguments: argparse.Namespace) -> None:
    net = network(frames, arguments)
    short = network(frames, arguments, top=arguments.top)
    batch = video(count, net, words, arguments.device)
    singles = one_by_one(batch)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "naive": lambda: torch.cat([net(single)["logits"] for single in singles]),
        "ours": lambda: net(batch)["logits"], "top": lambda: short(batch)["logits"]}
    took, said = side_by_side(ways, arguments)
    apart = float((said["naive"].float() - said["ours"].float()).abs().max())
    memory = [of_process(way, count, frames, words, arguments) for way in ("ours", "top")]
    print(f"{count:>5}{frames:>6}{words:>4}{flops(count, net, words) / 1e9:>8.1f} | {took['naive']:>9.2f}"
          f"{took['ours']:>9.2f}{took['naive'] / took['ours']:>6.2f}x{took['top']:>8.2f}"
          f"{took['naive'] / took['top']:>6.2f}x | {memory[0]:>6.0f}{memory[1]:>6.0f} | {apart:>8.0e}", flush=True)


def training(count: int, frames: int, words: int, arguments: argparse.Namespace) -> None:
    net = network(frames, arguments).train()
    stepped(net, video(2, net, words, arguments.device, training=True))
    whole = video(count, net, words, arguments.device, training=True)
    few = min(count, 1 + arguments.negatives)
    drawn = video(few, net, words, arguments.device, training=True)
    took, _ = side_by_side({"all": lambda: stepped(net, whole), "drawn": lambda: stepped(net, drawn)}, arguments, 1)
    memory = [of_process(way, n, frames, words, arguments)
              for way, n in (("train", count), ("keep", count), ("train", few))]
    print(f"{count:>5} | {took['all']:>8.2f}{took['drawn']:>9.2f}{took['all'] / took['drawn']:>6.2f}x | "
          f"{memory[0]:>8.0f}{memory[1]:>9.0f}{memory[2]:>10.0f}", flush=True)


def stepped(net: UnLoc, batch: Batch) -> torch.Tensor:
    net.zero_grad(set_to_none=True)
    loss = torch.stack(list(net.loss(net(batch), batch).values())).sum()
    loss.backward()
    return loss.detach()


def side_by_side(ways: dict[str, Callable[[], torch.Tensor]], arguments: argparse.Namespace, times: int = TIMES
                 ) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The shortest of ``times`` alternating runs of each way, and what it said."""
    best = dict.fromkeys(ways, float("inf"))
    said: dict[str, torch.Tensor] = {}
    learning = torch.is_grad_enabled() and "all" in ways
    with torch.set_grad_enabled(learning), torch.autocast(arguments.device.split(":")[0], torch.bfloat16,
                                                          enabled=arguments.bf16):
        for _ in range(times):
            for name, way in ways.items():
                clock(arguments.device)
                began = clock(arguments.device)
                said[name] = way()
                best[name] = min(best[name], clock(arguments.device) - began)
    return best, said


def clock(device: str) -> float:
    """Processor time on a CPU, which other jobs disturb less; wall time on a GPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""glibc gives freed memory back at once; else what it keeps in pieces grows with the number of calls."""


def of_process(way: str, count: int, frames: int, words: int, arguments: argparse.Namespace) -> float:
    told = [f"--{name}" for name in ("bf16", "quick") if getattr(arguments, name)]
    told += ["--size", arguments.size, "--chunk", str(arguments.chunk), "--top", str(arguments.top)]
    command = [sys.executable, __file__, *told, "--device", arguments.device, "--peak", way,
               *map(str, (count, frames, words))]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | GIVEN_BACK)
    return float(done.stdout) if done.returncode == 0 else float("nan")


def peak(way: str, count: int, frames: int, words: int, arguments: argparse.Namespace) -> float:
    """MB that one forward pass (or step) adds to what the process had."""
    changes = {"top": {"top": arguments.top}, "keep": {"recompute": False}}.get(way, {})
    net = network(frames, arguments, **changes)
    learning = way in ("train", "keep")
    batch = video(count, net, words, arguments.device, learning)
    cuda = arguments.device != "cpu"
    before = torch.cuda.memory_allocated(arguments.device) if cuda else resident()
    with torch.set_grad_enabled(learning), torch.autocast(arguments.device.split(":")[0], torch.bfloat16,
                                                          enabled=arguments.bf16):
        if learning:
            stepped(net.train(), batch)
        else:
            net(batch)
    return ((torch.cuda.max_memory_allocated(arguments.device) if cuda else resident()) - before) / 1e6


def resident() -> float:
    """The most memory the process has had, bytes. (``ru_maxrss`` is at least that of the process that started it.)"""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])


def flops(count: int, net: UnLoc, words: int) -> float:
    c: Config = net.config
    sequence, points = c.frames + words, sum(c.frames // 2**level for level in range(c.levels))
    fusion = c.layers * sequence * (24 * c.width**2 + 4 * sequence * c.width)
    return count * (fusion + 2 * c.head_layers * 6 * c.width**2 * points)


if __name__ == "__main__":
    main()
