"""What localizers cost, and what the fast ways in ``nn/`` save against straightforward ones, side by side in one run.

Method. Features are noise of the right shape (512 wide, as TSP's), weights are random: costs do not depend on them, but
for what goes into suppression, so there more candidates survive than after training.

``sampling``     BMN's layer (means of points) and G-TAD's (1-D RoIAlign), then the convolution over the samples of
                 every span: as released, a dense matrix makes the sampled features of every span, and a convolution
                 reads them; ours convolves the positions first and gathers sparsely (``nn/maps.py``). The same numbers
                 from the same weights, compared by a random projection. Each way runs in a process of its own, on one
                 video (ours on ``--batch`` too), which reports the fastest of ``--runs`` and how far its peak memory
                 (ru_maxrss) rose above what it was before the layer was made.
``suppression``  soft-NMS, hard NMS and voting at the localizers' sizes against a loop over segments, as the releases
                 have it; that both answer alike is checked and printed (order, and scores in units in the last place:
                 C's ``exp`` and numpy's differ by one at times).
``localizers``   each localizer at the size of each recipe that it has for a dataset, else at its Config's: a training
                 step (forward, loss, backward) of the recipe's batch, and inference for an hour of video (videos as
                 long as the dataset's, one question each), split into network, decoding and suppression; peak memory of
                 a process that does both.
``curves``       inference of one view, and a training step, as positions (T), durations (D) and questions grow, those
                 that a localizer has.
``profile``      the operations that take most of a training step, of the localizers named with ``--names``.

    python benchmarks/localizers.py [SECTION …] [--names bmn …] [--runs 3] [--threads 1] [--cpu] [--quick]

Prints tables; asserts nothing. All at full size: about half an hour on one core, and 6 GB. ``--quick``: a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cuemark.batch import Batch
from cuemark.grid import Features, Grid
from cuemark.localizers import LOCALIZERS, build
from cuemark.localizers.questions import Example, Question, Row, collate
from cuemark.nn.maps import SparseMap, SparseTable, cells, conv_then_sample, extended_point_table, extended_span_table
from cuemark.nn.nms import hard_nms, soft_nms, vote
from cuemark.recipe import load_recipe, shipped
from cuemark.segments import Segment

SECTIONS = ("sampling", "suppression", "localizers", "curves")
DIM = 512
DATASETS = {"activitynet": (120.0, 16 / 15, 200, 2), "thumos14": (210.0, 4 / 15, 20, 15),
            "charades": (30.0, 16 / 15, 1, 2), "tacos": (290.0, 16 / 15, 1, 20)}
"""Name of recipes -> seconds of a usual video, seconds of a feature, classes, annotations of a video."""
QUICK = {"positions": 64, "durations": 32}


def peak() -> float:
    """Megabytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 ** 2 if sys.platform == "darwin" else 1024)


clock = time.perf_counter


def fastest(way: Callable[[], Any], runs: int) -> float:
    """Milliseconds of the fastest of some runs."""
    took = []
    for _ in range(runs):
        began = clock()
        way()
        took.append(clock() - began)
    return 1000 * min(took)


def apart(arguments: argparse.Namespace, **job: Any) -> dict[str, Any]:
    """Measure a job in a fresh process, so that its peak memory is its own; why not, where it fails."""
    command = [sys.executable, __file__, "--job", json.dumps(job), "--runs", str(arguments.runs),
               "--threads", str(arguments.threads), *["--cpu"] * arguments.cpu]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        return {"failed": (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1]}
    return json.loads(ended.stdout)


# ---------------------------------------------------------------------------------------------- sampling inside spans

LAYERS: dict[str, Callable[[int, int, int], SparseTable]] = {
    "BMN: 32 means of 3 points": extended_point_table, "G-TAD: 32 RoIAligned bins": extended_span_table}
BINS, CHANNELS, OUT = 32, 256, 512


def sampling(arguments: argparse.Namespace) -> None:
    length = 32 if arguments.quick else 100
    print(f"\nSampling inside spans: T = D = {length}, {BINS} samples, {CHANNELS} to {OUT} channels, "
          f"{len(cells(length, length))} spans, {arguments.threads} thread(s)")
    print(f"{'':48}{'forward':>12}{'and backward':>16}{'memory, forward':>18}{'and backward':>15}")
    for title, make in LAYERS.items():
        told: dict[tuple[str, int], dict[str, Any]] = {}
        with tempfile.TemporaryDirectory() as folder:
            table, path = make(length, length, BINS), Path(folder, "table.npz")  # making it takes memory too
            np.savez(path, offsets=table.offsets, columns=table.columns, weights=table.weights)
            for way, videos in (("released", 1), ("ours", 1), ("ours", arguments.batch)):
                found = apart(arguments, kind="sampling", way=way, table=str(path), length=length, videos=videos)
                told[way, videos] = found
                print(f"{title if way == 'released' else '':28}", end="")
                row(f"{way}, {videos} video{'s'[:videos - 1]}", found,
                    [("forward", "ms"), ("both", "ms"), ("look", "MB"), ("train", "MB")], (12, 16, 18, 15), 20)
        a, b = told["released", 1], told["ours", 1]
        if "failed" in a or "failed" in b:
            continue
        ratios = [f"{a[key] / b[key]:.1f}" if b[key] >= 1 else "–" for key in ("forward", "both", "look", "train")]
        print(f"{'':28}{'ratio':20}" + "".join(f"{text:>{width}}" for text, width in zip(ratios, (12, 16, 18, 15))))
        for key in ("answer", "gradient"):
            x, y = np.array(a[key]), np.array(b[key])
            print(f"{'':28}{key}s differ by at most {np.abs(x - y).max():.1e}, of values up to {np.abs(x).max():.1f}")


def row(name: str, found: dict[str, Any], keys: Sequence[tuple[str, str]], widths: Sequence[int], first: int) -> None:
    if "failed" in found:
        print(f"{name:{first}}  failed: {found['failed'][:90]}", flush=True)
        return
    print(f"{name:{first}}" + "".join(f"{found[key]:>{width - 3}.{0 if found[key] >= 10 else 2}f} {unit}"
                                      for (key, unit), width in zip(keys, widths)), flush=True)


def job_sampling(way: str, table: str, length: int, videos: int, runs: int) -> dict[str, Any]:
    torch.manual_seed(0)
    with np.load(table) as kept:
        entries = SparseTable(len(kept["offsets"]) - 1, length * BINS, **kept)
    features = torch.randn(1, CHANNELS, length).expand(videos, -1, -1).contiguous().requires_grad_()
    weight = torch.randn(BINS, OUT, CHANNELS) / (BINS * CHANNELS) ** 0.5
    bias = torch.randn(OUT, requires_grad=True)
    found = torch.from_numpy(cells(length, length))
    before = peak()
    if way == "released":
        matrix = torch.zeros(length, BINS, length, length)
        output = np.repeat(np.arange(entries.outputs), np.diff(entries.offsets))
        position, bin_ = np.divmod(entries.columns, BINS)
        d, s = found[output].T
        matrix[position, bin_, d, s] = torch.from_numpy(entries.weights)
        matrix = matrix.view(length, -1)
        kernel = weight.permute(1, 2, 0)[..., None, None].contiguous().requires_grad_()

        def layer() -> torch.Tensor:
            sampled = (features @ matrix).view(videos, CHANNELS, BINS, length, length)
            return F.relu(F.conv3d(sampled, kernel, bias))[:, :, 0, found[:, 0], found[:, 1]].transpose(1, 2)
    else:
        gather, kernel = SparseMap(entries), weight.requires_grad_()

        def layer() -> torch.Tensor:
            return conv_then_sample(features, kernel, gather).add_(bias).relu_()

    def learn() -> None:
        features.grad = kernel.grad = bias.grad = None
        layer().square().sum().backward()

    with torch.no_grad():
        answer = layer()[0] @ torch.randn(OUT, 4, generator=torch.Generator().manual_seed(1))
        forward = fastest(layer, runs)
    look, both = peak() - before, fastest(learn, runs)
    assert features.grad is not None
    return {"forward": forward, "both": both, "look": look, "train": peak() - before,
            "answer": answer[:: max(1, len(found) // 200)].flatten().tolist(),
            "gradient": features.grad[0].sum(dim=0).tolist()}


# ---------------------------------------------------------------------------------------------------- suppression


def loop_soft(segments: list[list[float]], scores: list[float], sigma: float, keep: int, threshold: list[float],
              groups: list[int]) -> tuple[list[int], list[float]]:
    """As the releases do it: take the best, lower each of the others, again."""
    start, end = ([s[side] for s in segments] for side in (0, 1))
    left, who, order, final = list(scores), list(range(len(scores))), [], []
    while who and len(order) < keep:
        best = left.index(max(left))
        a, b, i = start[best], end[best], who[best]
        order.append(i)
        final.append(left[best])
        for column in (start, end, left, who):
            column.pop(best)
        for j, other in enumerate(who):
            if groups[other] != groups[i]:
                continue
            shared = max(0.0, min(b, end[j]) - max(a, start[j]))
            union = (end[j] - start[j]) + (b - a) - shared
            overlap = shared / union if union > 0 else 0.0
            if overlap > threshold[i]:
                left[j] *= math.exp(-(overlap * overlap) / sigma)
    return order, final


def loop_each(videos: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], sigma: float, keep: int
              ) -> tuple[list[int], list[float]]:
    """:func:`loop_soft` of each video."""
    order: list[int] = []
    final: list[float] = []
    before = 0
    for spans, scores, groups in videos:
        found, decayed = loop_soft(spans.tolist(), scores.tolist(), sigma, keep, [0.0] * len(scores), groups.tolist())
        order += [before + i for i in found]
        final += decayed
        before += len(scores)
    return order, final


def loop_hard(segments: list[list[float]], scores: list[float], threshold: float, keep: int, groups: list[int]
              ) -> tuple[list[int], list[float]]:
    """Best first, each against all that were kept."""
    order: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        a, b = segments[i]
        for j in order:
            c, d = segments[j]
            shared = max(0.0, min(b, d) - max(a, c))
            if groups[i] == groups[j] and shared > threshold * ((b - a) + (d - c) - shared):
                break
        else:
            order.append(i)
            if len(order) == keep:
                break
    return order, [scores[i] for i in order]


def loop_vote(order: list[int], segments: list[list[float]], scores: list[float], threshold: float, groups: list[int]
              ) -> tuple[list[int], list[list[float]]]:
    moved = []
    for i in order:
        (a, b), total, left, right = segments[i], 0.0, 0.0, 0.0
        for j, (c, d) in enumerate(segments):
            shared = max(0.0, min(b, d) - max(a, c))
            union = (b - a) + (d - c) - shared
            if groups[i] == groups[j] and union > 0 and shared >= threshold * union:
                weight = scores[j] * shared / union
                total, left, right = total + weight, left + weight * c, right + weight * d
        moved.append([left / total, right / total] if total else [a, b])
    return order, moved


def candidates(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segments of all lengths in a video of two minutes; most scores are low, and few classes have most of them."""
    rng = np.random.default_rng(seed)
    middle, half = rng.uniform(0, 120, count), np.exp(rng.uniform(0, np.log(120), count)) / 2
    spans = np.stack([middle - half, middle + half], axis=1).clip(0, 120)
    share = 1 / np.arange(1, classes + 1)
    return spans, rng.uniform(0, 1, count) ** 3, rng.choice(classes, count, p=share / share.sum())


def suppression(arguments: argparse.Namespace) -> None:
    print(f"\nSuppression: a loop over segments against rounds of all groups, {arguments.runs} runs")
    print(f"{'':44}{'loop':>12}{'ours':>12}{'ratio':>8}  same order, scores apart by")
    less, runs = 10 if arguments.quick else 1, arguments.runs
    for title, count, classes, keep, sigma, wide in (
            ("soft-NMS, BMN's 5050 cells", 5050, 1, 100, 0.4, True),
            ("soft-NMS, G-TAD's 1000, named twice", 2000, 10, 200, 0.8, False),
            ("soft-NMS, 2000 of 200 classes", 2000, 200, 200, 0.5, False),
            ("soft-NMS, 12000 of 20 classes", 12000, 20, 200, 0.5, False)):
        spans, scores, groups = candidates(count // less, classes, 0)
        limit = 0.5 + 0.4 * (spans[:, 1] - spans[:, 0]) / 120 if wide else np.zeros(len(spans))
        slow = partial(loop_soft, spans.tolist(), scores.tolist(), sigma, keep, limit.tolist(), groups.tolist())
        fast = partial(soft_nms, spans, scores, sigma, keep=keep, groups=groups, threshold=limit if wide else 0.0)
        compare(title, slow, fast, runs)

    size = 2000 // less
    many = [candidates(size, 10, seed) for seed in range(16)]
    spans, scores, groups = (np.concatenate(part) for part in zip(*many))
    slow = partial(loop_each, many, 0.8, 200)
    compare("soft-NMS, 16 videos of 2000, together", slow, partial(
        soft_nms, spans, scores, 0.8, keep=200, groups=groups, videos=np.arange(16).repeat(size)), runs)

    def each() -> tuple[np.ndarray, np.ndarray]:
        order, final = zip(*(soft_nms(s, p, 0.8, keep=200, groups=g) for s, p, g in many))
        return np.concatenate([found + size * i for i, found in enumerate(order)]), np.concatenate(final)

    compare("soft-NMS, 16 videos of 2000, one by one", slow, each, runs)
    for title, count, classes, keep in (("hard NMS, the best 5 of 2080", 2080, 1, 5),
                                        ("hard NMS, all of 5050", 5050, 1, 5050),
                                        ("hard NMS, all of 2000 of 200 classes", 2000, 200, 2000)):
        spans, scores, groups = candidates(count // less, classes, 0)
        compare(title, partial(loop_hard, spans.tolist(), scores.tolist(), 0.5, keep, groups.tolist()),
                partial(hard_nms, spans, scores, 0.5, keep=keep, groups=groups), runs)
    for title, count, classes in (("voting, 200 of 2000 of 200 classes", 2000, 200), ("voting, 200 of 5050", 5050, 1)):
        spans, scores, groups = candidates(count // less, classes, 0)
        order, _ = soft_nms(spans, scores, 0.5, keep=200, groups=groups)
        compare(title, partial(loop_vote, order.tolist(), spans.tolist(), scores.tolist(), 0.7, groups.tolist()),
                lambda: (order, vote(order, spans, scores, 0.7, groups=groups)), runs)  # noqa: B023


def compare(title: str, slow: Callable[[], tuple[Any, Any]], fast: Callable[[], tuple[np.ndarray, np.ndarray]],
            runs: int) -> None:
    (order, expected), (picked, found) = slow(), fast()
    same, expected = order == picked.tolist(), np.array(expected)
    units = np.abs(expected - found) / np.spacing(np.abs(expected)) if same else np.array([np.nan])
    loop, ours = fastest(slow, 1), fastest(fast, runs)
    print(f"{title:44}{loop:>9.1f} ms{ours:>9.2f} ms{loop / ours:>8.1f}  {'yes' if same else 'NO'}, "
          f"{units.max(initial=0):.0f} ulp", flush=True)


# ----------------------------------------------------------------------------------------------------- localizers


def sizes(name: str) -> dict[str, tuple[dict[str, Any], int, str]]:
    """Recipe -> options, batch and dataset, of a localizer; without recipes those of its Config."""
    found = {}
    for recipe in shipped():
        dataset = recipe.split("_")[0]
        if dataset in DATASETS:
            made = load_recipe(recipe)
            if made.system == name and sum(made.options.get("streams", [DIM])) == DIM:
                found[recipe] = dict(made.options), made.optim.batch, dataset
    usual = "charades" if LOCALIZERS[name].asked == "sentence" else "activitynet"
    return found or {f"{name} (defaults)": ({}, 16, usual)}


def network_of(name: str, options: dict[str, Any], dataset: str) -> Any:
    torch.manual_seed(0)
    return build(name, options, DIM, [f"class {i}" for i in range(DATASETS[dataset][2])])


def words(sentences: Sequence[str], width: int) -> list[torch.Tensor]:
    return [torch.randn(9, width) for _ in sentences]


def video(dataset: str, seed: int, asked: str, judges: bool, shots: int, questions: int = 1
          ) -> tuple[Features, list[Segment], list[Question], list[Segment] | None]:
    """A video of noise, its truth, what is asked about it and what is proposed in it."""
    duration, step, classes, count = DATASETS[dataset]
    rng = np.random.default_rng(seed)
    rows = max(1, round(duration / step))
    whole = Features(rng.normal(size=(rows, DIM)).astype(np.float32), Grid.over(0.0, duration, rows), duration)
    spans = np.sort(rng.uniform(0, duration, (count, 2)), axis=1).tolist()
    truth = [Segment(a, b, f"class {i % classes}") for i, (a, b) in enumerate(spans)]
    ask: list[Question] = []
    if asked == "sentence":
        ask = [Question(f"sentence {i}") for i in range(questions)]
    if asked == "examples":
        shown = [Example(video(dataset, 1000 + 7 * seed + i, "classes", False, 0)[0], tuple(truth[:1]))
                 for i in range(shots)]
        ask = [Question(None, tuple(shown), f"class {i}") for i in range(questions)]
    boxes = np.sort(rng.uniform(0, duration, (1000, 2)), axis=1).tolist()
    proposed = sorted((Segment(a, b, None, s) for (a, b), s in zip(boxes, rng.uniform(size=1000).tolist())),
                      key=lambda s: -(s.score or 0))
    return whole, truth, ask, [*truth, *proposed][:1000] if judges else None


def batch_of(network: Any, dataset: str, count: int, questions: int = 1) -> Batch:
    """A training batch: a view of each of some videos."""
    shots = getattr(network.config, "shots", 1)
    rows = []
    for seed in range(count):
        whole, truth, ask, proposed = video(dataset, seed, network.asked, network.judges, shots, questions)
        rows.append(Row(network.views(whole)[0], [truth[:1]] * len(ask) or [truth], ask,
                        None if proposed is None else [replace(s, score=s.score or 1.0) for s in proposed]))
    return collate(rows, lambda said: words(said, network.config.text_dim))


def step_of(network: Any, rows: Batch) -> Callable[[], None]:
    def step() -> None:
        network.zero_grad(set_to_none=True)
        sum(network.loss(network(rows), rows).values()).backward()
    return step


def job_localizer(name: str, options: dict[str, Any], batch: int, dataset: str, minutes: float, runs: int
                  ) -> dict[str, Any]:
    network = network_of(name, options, dataset)
    step = fastest(step_of(network.train(), batch_of(network, dataset, batch)), runs)
    network.eval()
    took = dict.fromkeys(("network", "decode", "select"), 0.0)
    count = max(1, round(60 * minutes / DATASETS[dataset][0]))
    for seed in range(count):
        whole, _, ask, proposed = video(dataset, seed, network.asked, network.judges,
                                        getattr(network.config, "shots", 1))
        views = network.views(whole)
        rows = collate([Row(view, None, ask, proposed) for view in views],
                       lambda said: words(said, network.config.text_dim))
        with torch.no_grad():
            marks = [clock()]
            out = network(rows)
            marks.append(clock())
            found = network.decode(out, rows)
            marks.append(clock())
            network.select([s for segments in found for s in segments])
            marks.append(clock())
        for key, a, b in zip(took, marks, marks[1:]):
            took[key] += b - a
    share = 3600 / (count * DATASETS[dataset][0])
    hour = {key: share * value for key, value in took.items()}
    return {"parameters": sum(p.numel() for p in network.parameters()), "step": step, "each": step / batch, **hour,
            "hour": sum(hour.values()), "memory": peak()}


def localizers(arguments: argparse.Namespace) -> None:
    print(f"\nLocalizers, {DIM} wide features, {arguments.threads} thread(s), {arguments.minutes:g} minutes of video")
    print(f"{'':28}{'parameters':>12}{'batch':>7}{'step':>12}{'a video':>11}{'an hour':>10}{'network':>10}"
          f"{'decode':>10}{'select':>10}{'peak':>10}")
    for name in arguments.names:
        for title, (options, batch, dataset) in sizes(name).items():
            options, batch = small(name, options, batch, arguments)
            found = apart(arguments, kind="localizer", name=name, options=options, batch=batch, dataset=dataset,
                          minutes=arguments.minutes)
            if "failed" not in found:
                print(f"{title:28}{found['parameters']:>12,}{batch:>7}", end="")
            row("" if "failed" not in found else title, found,
                [("step", "ms"), ("each", "ms"), *((key, "s ") for key in ("hour", "network", "decode", "select")),
                 ("memory", "MB")], (12, 11, 10, 10, 10, 10, 10), 0 if "failed" not in found else 28)


def small(name: str, options: dict[str, Any], batch: int, arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    if not arguments.quick:
        return options, batch
    has = {f.name for f in fields(LOCALIZERS[name].config_type)}
    return options | {key: value for key, value in QUICK.items() if key in has}, min(batch, 2)


# --------------------------------------------------------------------------------------------------------- curves


def job_curve(name: str, options: dict[str, Any], dataset: str, questions: int, runs: int) -> dict[str, Any]:
    network = network_of(name, options, dataset)
    rows = batch_of(network, dataset, 1, questions)
    with torch.no_grad():
        network.eval()
        look = fastest(lambda: network.decode(network(rows), rows), runs)
    return {"look": look, "step": fastest(step_of(network.train(), rows), runs), "memory": peak()}


def curves(arguments: argparse.Namespace) -> None:
    print(f"\nCost curves: one view, {arguments.threads} thread(s)")
    print(f"{'':40}{'network, decode':>17}{'training step':>16}{'peak':>12}")
    lengths = (32, 64) if arguments.quick else (50, 100, 200, 400)
    for name in arguments.names:
        config: Any = LOCALIZERS[name].config_type
        has = {f.name for f in fields(config)}
        (options, _, dataset), *_ = sizes(name).values()
        jobs: list[tuple[str, dict[str, Any], int]] = []
        if "durations" in has:
            most = min(lengths[-1], 100)
            jobs += [(f"T = {t}, D = {min(t, most)}", {"positions": t, "durations": min(t, most)}, 1) for t in lengths]
            jobs += [(f"T = {most}, D = {d}", {"positions": most, "durations": d}, 1) for d in
                     (most // 8, most // 4, most // 2, most)]
        elif "positions" in has:
            jobs += [(f"T = {t}", {"positions": t}, 1) for t in (64, 256, 1024) + (() if arguments.quick else (4096,))]
        if LOCALIZERS[name].asked != "classes":
            jobs += [(f"{q} questions", {}, q) for q in ((1, 4) if arguments.quick else (1, 4, 16, 64))]
        for title, changes, questions in jobs:
            found = apart(arguments, kind="curve", name=name, options={**options, **changes}, dataset=dataset,
                          questions=questions)
            row(f"{name}, {title}", found, [("look", "ms"), ("step", "ms"), ("memory", "MB")], (17, 16, 12), 40)


def profile(arguments: argparse.Namespace) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    for name in arguments.names:
        title, (options, batch, dataset) = next(iter(sizes(name).items()))
        options, batch = small(name, options, batch, arguments)
        network = network_of(name, options, dataset).train()
        step = step_of(network, batch_of(network, dataset, batch))
        step()
        with watch(activities=[ProfilerActivity.CPU]) as seen:
            step()
        print(f"\n{title}, a training step of {batch}")
        print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=50))


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "sampling": job_sampling, "localizer": job_localizer, "curve": job_curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join((*SECTIONS, "profile")) + "; all but "
                        "the last by default")
    parser.add_argument("--names", nargs="+", choices=sorted(LOCALIZERS), default=sorted(LOCALIZERS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="processor time in place of time on the wall: the same with "
                        "one thread, but on a machine that has other work")
    parser.add_argument("--batch", type=int, default=16, help="videos that our sampling takes together")
    parser.add_argument("--minutes", type=float, default=10, help="of video, from which an hour is reckoned")
    parser.add_argument("--quick", action="store_true", help="small maps and batches, to see that it runs")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    global clock
    clock = time.process_time if arguments.cpu else time.perf_counter
    if arguments.job:
        job = json.loads(arguments.job)
        print(json.dumps(JOBS[job.pop("kind")](**job, runs=arguments.runs)))
        return
    if arguments.quick:
        arguments.runs, arguments.minutes, arguments.batch = 1, min(arguments.minutes, 2), min(arguments.batch, 2)
    ways = {"sampling": sampling, "suppression": suppression, "localizers": localizers, "curves": curves,
            "profile": profile}
    for section in arguments.sections or SECTIONS:
        if section not in ways:
            parser.error(f"unknown section '{section}'")
        ways[section](arguments)


if __name__ == "__main__":
    main()
