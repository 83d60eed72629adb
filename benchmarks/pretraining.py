"""What an update of TAC, TSP and CLAP costs, and what workers, chunks, precision and processes change.

    python benchmarks/pretraining.py [--kind world|r2plus1d_18|...] [--pixels 32] [--batch 32] [--rounds 5]
                                     [--parts step workers memory speed]

The encoder is that of the world's recipes (R(2+1)D of 4 blocks, width 8, 32 pixels) unless --kind and --pixels say
otherwise; clips have 16 frames. Network weights are random, statistics live, SGD with momentum.

step. Clips of a small world that was decoded before, and sentences' vectors from a dictionary, as training has them
from its second epoch on. An update is cut into data (drawing, normalising, stacking), forward, loss, backward and
optimiser (with the norm of the gradients). The three objectives take turns, a round each, the first of them another one
each round, after a round that is not counted; medians over the rounds. TSP has global features, CLAP its full loss.
What an objective costs over TAC, and CLAP over TSP, is in percent of the sum of the medians, data included and left
out.
workers. ``loop.fit`` with TSP, no video kept in memory: clips a second over a run, and the share of it that the loop
waited for data, both from the log; workers take turns, medians over the rounds.
memory. Two updates of CLAP with AdamW in a process of its own for each setting: the peak of resident memory less what
the process had when the batch was there; so the batch's own bytes are not in it. Linux.
speed. Updates of CLAP on a batch that stays in memory, clips a second: fp32 and bf16 in turns; and ``loop.fit`` in one
process with two threads and under torchrun in two processes with one thread each, processes of their own, in turns.

Prints tables. Asserts nothing. On the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from unloc import resident

from cuemark import ranks
from cuemark.batch import ClipBatch, normalised
from cuemark.clips import ClipConfig, ClipSet, Sampling
from cuemark.datasets import world
from cuemark.encoders import ENCODERS
from cuemark.encoders.resnet3d import Config, ResNet3D
from cuemark.loop import Optim, fit, gradients
from cuemark.pretraining import clap, tac, tsp
from cuemark.pretraining.data import ClipData
from cuemark.segments import Segment, labels_of, read_json, subset

WORLD = Config(blocks=(1, 1, 1, 1), width=8, stem_stride=2, time_strides=(1, 1, 2, 2))
CLASSES = tuple(f"class {i}" for i in range(10))
TEXT = 384
SYSTEMS = ("TAC", "TSP", "CLAP")
PARTS = ("data", "forward", "loss", "backward", "optimiser")
BATCHES = (32, 64, 128, 256)
OPTIM = Optim(lr=1e-3, lr_heads=1e-3, steps=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="world", choices=["world", *ENCODERS])
    parser.add_argument("--pixels", type=int, default=32, help="side of the square")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="updates of a run, where a whole run is timed")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="whose memory is measured")
    parser.add_argument("--parts", nargs="+", default=["step", "workers", "memory", "speed"],
                        choices=["step", "workers", "memory", "speed"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        {"peak": peak, "run": run}[json.loads(arguments.one)["what"]](arguments, **json.loads(arguments.one)["how"])
        return
    print(f"{arguments.kind}, {arguments.pixels} pixels, batch {arguments.batch}, {torch.get_num_threads()} threads, "
          f"{arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        if {"step", "workers"} & set(arguments.parts):
            made = small_world(Path(folder))
        for part in arguments.parts:
            began = time.monotonic()
            if part in ("step", "workers"):
                {"step": step, "workers": workers}[part](arguments, made)
            else:
                {"memory": memory, "speed": speed}[part](arguments)
            print(f"  ({time.monotonic() - began:.0f} s)", flush=True)


def encoder_of(arguments: argparse.Namespace) -> ResNet3D:
    torch.manual_seed(0)
    return ResNet3D(WORLD if arguments.kind == "world" else ENCODERS[arguments.kind])


def model_of(arguments: argparse.Namespace, system: str, classes: Sequence[str] = CLASSES) -> nn.Module:
    encoder = encoder_of(arguments)
    if system == "TAC":
        return tac.TAC(tac.Config(), encoder, classes)
    if system == "TSP":
        return tsp.TSP(tsp.Config(), encoder, classes)
    return clap.CLAP(clap.Config(text_dim=TEXT), encoder, classes)


def random_batch(arguments: argparse.Namespace, rows: int, dim: int) -> ClipBatch:
    """Half of it background; a third of the sentences occur twice."""
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 256, (rows, 16, arguments.pixels, arguments.pixels, 3), np.uint8)
    label = torch.from_numpy(draw.integers(0, len(CLASSES), rows))
    label[::2] = -1
    told = torch.from_numpy(draw.integers(0, rows, rows))
    clip = ClipConfig()
    return ClipBatch(normalised(frames, clip.mean, clip.std), label, label >= 0, torch.zeros(rows, dim),
                     torch.randn(rows, TEXT, generator=torch.Generator().manual_seed(0))[told], told)


# ---------------------------------------------------------------------------------------------- data


@dataclass
class Made:
    """A small world, and what the objectives read of it."""

    world: world.World
    captions: dict[str, list[Segment]]


class Dictionary:
    """Stands in for a text encoder that has met every sentence."""

    dim = TEXT

    def __init__(self) -> None:
        self.known: dict[str, Tensor] = {}

    def encode(self, sentences: Sequence[str]) -> Tensor:
        for sentence in sentences:
            if sentence not in self.known:
                self.known[sentence] = torch.randn(TEXT)
        return torch.stack([self.known[sentence] for sentence in sentences])


def small_world(folder: Path) -> Made:
    made = world.make(world.WorldConfig(trimmed=0, training=12, validation=0, testing=0, novel=0), folder / "world")
    told = read_json(made.folder / "captions.json", "captions")
    captions = {name.removeprefix("v_"): [Segment(a, b, sentence=s) for (a, b), s in zip(one["timestamps"],
                                                                                     one["sentences"], strict=True)]
                for name, one in told.items()}
    return Made(made, captions)


def data_of(arguments: argparse.Namespace, made: Made, system: str, workers: int, memory: float) -> ClipData:
    truth = subset(made.world.truth, "training")
    clip = ClipConfig(short_side=round(arguments.pixels * 8 / 7), crop=arguments.pixels)
    clips = ClipSet(truth, {vid: made.world.videos[vid] for vid in truth}, clip, Sampling(short="centre"),
                    with_background=system != "TAC", training=True, budget_bytes=memory)
    dim = encoder_of(arguments).dim
    return ClipData(clips, labels_of(truth), arguments.batch, Dictionary() if system == "CLAP" else None,
                    made.captions if system == "CLAP" else {}, workers=workers,
                    global_features={vid: np.zeros(dim, np.float32) for vid in truth} if system == "TSP" else None)


# ---------------------------------------------------------------------------------------------- the parts of a step


def step(arguments: argparse.Namespace, made: Made) -> None:
    ways: dict[str, Callable[[], list[float]]] = {}
    for system in SYSTEMS:
        data = data_of(arguments, made, system, workers=0, memory=4e9)
        model = model_of(arguments, system, data.classes).train()
        ways[system] = timed(model, endless(data))
        for number in range(len(data.clips.regions)):
            data.clips.draw(number)  # decodes every video
    took: dict[str, list[list[float]]] = {system: [] for system in SYSTEMS}
    for i in range(arguments.rounds + 1):
        for k in range(len(SYSTEMS)):
            system = SYSTEMS[(i + k) % len(SYSTEMS)]
            found = ways[system]()
            if i:
                took[system].append(found)
    medians = {system: [median(times) for times in zip(*took[system], strict=True)] for system in SYSTEMS}
    print("\nmilliseconds of an update\n" + "".join(f"{name:>12}" for name in ("", *PARTS, "all", "no data")))
    for system, times in medians.items():
        print(f"{system:>12}" + "".join(f"{1000 * t:12.2f}" for t in (*times, sum(times), sum(times[1:]))))
    for a, b in (("TSP", "TAC"), ("CLAP", "TAC"), ("CLAP", "TSP")):
        with_data, alone = (100 * (sum(medians[a][k:]) / sum(medians[b][k:]) - 1) for k in (0, 1))
        beside = 100 * (medians[a][2] - medians[b][2]) / sum(medians[b][1:])
        print(f"  {a} over {b}: {with_data:+.1f} % with data, {alone:+.1f} % without, of which the loss {beside:+.1f}",
              flush=True)


def endless(data: ClipData) -> Iterator[ClipBatch]:
    epoch = 0
    while True:
        yield from data.epoch(epoch)
        epoch += 1


def timed(model: Any, batches: Iterator[ClipBatch]) -> Callable[[], list[float]]:
    """Times of the parts of one update each time that it is called."""
    optimiser = torch.optim.SGD(model.parameters(), 1e-3, 0.9)

    def once() -> list[float]:
        marks = [time.perf_counter()]
        batch = next(batches)
        marks.append(time.perf_counter())
        optimiser.zero_grad(set_to_none=True)
        out = model(batch)
        marks.append(time.perf_counter())
        loss = torch.stack(list(model.loss(out, batch).values())).sum()
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        optimiser.step()
        marks.append(time.perf_counter())
        return [b - a for a, b in pairwise(marks)]

    return once


# ---------------------------------------------------------------------------------------------- workers


def workers(arguments: argparse.Namespace, made: Made) -> None:
    counts, found = (0, 1, 2), {count: [] for count in (0, 1, 2)}  # type: dict[int, list[tuple[float, float]]]
    for _ in range(min(arguments.rounds, 3)):
        for count in counts:
            data = data_of(arguments, made, "TSP", count, memory=0)
            found[count].append(logged(model_of(arguments, "TSP", data.classes), data, arguments.steps))
    print("\nworkers    clips/s    waiting for data")
    for count, told in found.items():
        print(f"{count:7}{median(r for r, _ in told):11.1f}{100 * median(w for _, w in told):18.1f} %")


def logged(model: nn.Module, data: Any, steps: int, **change: Any) -> tuple[float, float]:
    """Clips a second and share of waiting, of a whole run; rank 0's."""
    with tempfile.TemporaryDirectory() as folder:
        fit(model, data, replace(OPTIM, steps=steps, **change), folder, log_every=steps, checkpoint_every=10**9)
        if ranks.rank():
            return 0.0, 0.0
        last = json.loads((Path(folder) / "log.jsonl").read_text().splitlines()[-1])
    return last["per_second"], last["data_wait"]


# ---------------------------------------------------------------------------------------------- memory


def memory(arguments: argparse.Namespace) -> None:
    ways: dict[str, dict[str, Any]] = {"whole": {}, "recompute": {"recompute": True}, "chunk = 32": {"chunk": 32}}
    print("\nMB beyond the batch at the peak of an update (CLAP)\n" + f"{'batch':>22}"
          + "".join(f"{rows:>10}" for rows in arguments.batches))
    print(f"{'the batch itself':>22}" + "".join(
        f"{rows * 16 * 3 * 4 * arguments.pixels ** 2 / 1e6:10.0f}" for rows in arguments.batches))
    for name, how in ways.items():
        peaks = [alone(arguments, "peak", {"rows": rows, **how}, threads=2) for rows in arguments.batches]
        print(f"{name:>22}" + "".join(f"{found:10.0f}" for found in peaks), flush=True)


def peak(arguments: argparse.Namespace, rows: int, chunk: int | None = None, recompute: bool = False) -> None:
    model = model_of(arguments, "CLAP").train()
    model.encoder.recompute = recompute
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    gradients(model, random_batch(arguments, 2, model.encoder.dim))
    optimiser.step()  # what the libraries and the optimiser hold themselves
    batch = random_batch(arguments, rows, model.encoder.dim)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    before = resident()
    for number in range(2):
        optimiser.zero_grad(set_to_none=True)
        gradients(model, batch, chunk, number)
        optimiser.step()
    print((resident() - before) / 1e6)


def alone(arguments: argparse.Namespace, what: str, how: dict[str, Any], threads: int, processes: int = 1) -> float:
    """The last number that processes of their own print."""
    command = [__file__, "--kind", arguments.kind, "--pixels", str(arguments.pixels), "--batch", str(arguments.batch),
               "--steps", str(arguments.steps), "--one", json.dumps({"what": what, "how": how})]
    if processes > 1:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *command]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


# ---------------------------------------------------------------------------------------------- precision, processes


def speed(arguments: argparse.Namespace) -> None:
    models = {name: model_of(arguments, "CLAP").train() for name in ("fp32", "bf16")}
    batch = random_batch(arguments, arguments.batch, models["fp32"].encoder.dim)
    took: dict[str, list[float]] = {name: [] for name in models}
    for i in range(arguments.rounds + 1):
        for name, model in models.items():
            optimiser = torch.optim.SGD(model.parameters(), 1e-4)
            began = time.perf_counter()
            optimiser.zero_grad(set_to_none=True)
            gradients(model, batch, dtype=torch.bfloat16 if name == "bf16" else None)
            optimiser.step()
            if i:
                took[name].append(time.perf_counter() - began)
    print("\nclips/s, CLAP, one batch in memory")
    for name, times in took.items():
        print(f"  {name:35}{arguments.batch / median(times):9.1f}")
    ways = {"fit, 1 process of 2 threads": (2, 1), "fit, 2 processes of 1 thread": (1, 2)}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(min(arguments.rounds, 3)):
        for name, (threads, processes) in ways.items():
            rates[name].append(alone(arguments, "run", {}, threads, processes))
    for name, found in rates.items():
        print(f"  {name:35}{median(found):9.1f}")


@dataclass
class Same:
    """One batch, again and again; a rank has its rows of it."""

    batch: ClipBatch

    def __len__(self) -> int:
        return 100

    def epoch(self, number: int, skip: int = 0) -> Iterator[ClipBatch]:
        mine = self.batch.split(len(self.batch.clips) // ranks.count())[ranks.rank()]
        for _ in range(skip, 100):
            yield mine


def run(arguments: argparse.Namespace) -> None:
    with ranks.together("cpu"):
        model = model_of(arguments, "CLAP")
        batch = random_batch(arguments, arguments.batch, model.encoder.dim)
        rate, _ = logged(model, Same(batch), arguments.steps)
        if ranks.rank() == 0:
            print(rate)


if __name__ == "__main__":
    main()
