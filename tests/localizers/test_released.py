"""BMN, G-TAD and ActionFormer against their released code, which was run once, elsewhere, on a CPU.

``tests/data/released_*.json`` hold what it answered, and nothing else of it: the names and shapes of its weights (its
state dict's), its outputs, targets, losses and suppressed proposals, and the commit. Weights, features, answers and
draws come from the seeds that stand beside: here as there, weights are filled by :func:`filled`. G-TAD's ``Align1D``,
which is CUDA's, ran as the C++ that its kernel is; NMS of ActionFormer is its C++.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import complaint

from cuemark import cli
from cuemark.batch import Batch
from cuemark.errors import CallError, ModelError
from cuemark.feature_folder import FeatureFolder
from cuemark.grid import Features, Grid
from cuemark.localizers import LOCALIZERS, RELEASED, actionformer, bmn, build, gtad, variants
from cuemark.localizers.actionformer import ActionFormer
from cuemark.localizers.bmn import BMN
from cuemark.localizers.gtad import GTAD
from cuemark.localizers.layout import weights_in
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.nn.maps import cells, extended_point_table, extended_span_table, valid_cells
from cuemark.nn.spans import map_losses
from cuemark.recipe import load_recipe
from cuemark.segments import Segment

DATA = Path(__file__).parents[1] / "data"
BRANCHES = ("anet", "master")
LEVELS = ((0.0, 4.0), (4.0, 8.0), (8.0, 10000.0))
SMALL_AF = actionformer.Config(positions=32, width=16, heads=2, attention=(5, 5, 0), ranges=LEVELS,
                               encode_positions=True)
NORMS = ("norm", "ln1", "ln2")


@cache
def recorded(name: str) -> Any:
    return json.loads((DATA / f"released_{name}.json").read_text())


def filled(layout: dict[str, list[int]], seed: int, gain: float = 2.0) -> dict[str, torch.Tensor]:
    """A released state dict: random weights, drawn in the order of their sorted names; norms and scales near 1."""
    draw, state = np.random.RandomState(seed), {}
    for name in sorted(layout):
        shape = layout[name]
        if name == "sample_mask":  # BMN's, which is fixed, and made again by us
            state[name] = torch.zeros(shape)
            continue
        value = draw.randn(*shape)
        if any(part in name for part in (*NORMS, "drop_path", ".scale")):
            value = (0.0 if name.endswith("bias") else 1.0) + 0.1 * value
        elif len(shape) == 1:
            value = 0.1 * value
        else:
            value = value * (gain / np.prod(shape[1:])) ** 0.5
        state[name] = torch.from_numpy(np.asarray(value, np.float32))
    return state


def of_features(seed: int, *shape: int) -> Batch:
    """``shape`` (B, T, C)."""
    rows = np.random.RandomState(seed).randn(*shape).astype(np.float32)
    return Batch.collate([Features(row, Grid.over(0.0, float(len(row)), len(row)), float(len(row))) for row in rows])


def of_truth(truth: list[list[Segment]], grid: Grid, duration: float) -> Batch:
    """Rows of nothing on one grid."""
    rows = [Features(np.zeros((grid.count, 16), np.float32), grid, duration) for _ in truth]
    return Batch.collate(rows, truth)


def close(found: torch.Tensor | np.ndarray, expected: Any, atol: float = 1e-5) -> None:
    torch.testing.assert_close(torch.as_tensor(np.asarray(found.detach() if isinstance(found, torch.Tensor) else found),
                                               dtype=torch.float64),
                               torch.tensor(expected, dtype=torch.float64), atol=atol, rtol=1e-5)


def fractions(found: list[Segment]) -> np.ndarray:
    return np.array([(s.start, s.end, s.score) for s in found])


def same_draws(monkeypatch: pytest.MonkeyPatch, *draws: np.ndarray) -> None:
    """The regression loss draws its cells by these numbers."""
    left = [torch.from_numpy(d.astype(np.float32)) for d in draws]
    monkeypatch.setattr(torch, "rand", lambda shape, generator=None: left.pop(0).reshape(shape))


def uniform(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    draw = np.random.RandomState(seed)
    return [torch.from_numpy(draw.uniform(0.02, 0.98, shape).astype(np.float32)) for shape in shapes]


# --------------------------------------------------------------------------------------------------------- layouts


def full_bmn() -> tuple[torch.nn.Module, dict[str, Any]]:
    return BMN(bmn.Config(positions=8, durations=8), 400, ()), recorded("bmn")["full"]


def full_gtad(branch: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    config = gtad.Config() if branch == "anet" else gtad.Config.thumos()
    told = recorded("gtad")[branch]["full"]
    return GTAD(replace(config, positions=8, durations=8), told["dim"], ()), told


def full_actionformer(dataset: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    config = actionformer.Config() if dataset == "thumos" else actionformer.Config.activitynet()
    told = recorded("actionformer")[dataset]
    classes = [str(i) for i in range(told["settings"]["num_classes"])]
    return ActionFormer(config, told["settings"]["input_dim"], classes), told


FULL = [("bmn", full_bmn, (), 4_978_564), ("gtad", full_gtad, ("anet",), 5_563_268),
        ("gtad", full_gtad, ("master",), 5_617_540), ("actionformer", full_actionformer, ("thumos",), 29_251_612),
        ("actionformer", full_actionformer, ("activitynet",), 6_943_497)]


@pytest.mark.parametrize(("name", "make", "which", "count"), FULL)
def test_released_checkpoints_fit_at_full_size(name, make, which, count):
    net, told = make(*which)
    state = {f"module.{key}": torch.empty(shape) for key, shape in told["layout"].items()}
    ours = RELEASED[name](state)
    assert told["parameters"] == count
    assert sum(v.numel() for k, v in state.items() if k != "module.sample_mask") == count
    keys_biases = sum(v.numel() for k, v in state.items() if k.endswith("attn.key.bias"))  # ActionFormer's; not ours
    assert sum(p.numel() for p in net.parameters()) == count - keys_biases == sum(v.numel() for v in ours.values())
    shapes = {k: v.shape for k, v in net.state_dict().items() if k != "positives"}
    assert {k: v.shape for k, v in ours.items()} == shapes


@pytest.mark.parametrize("name", ["bmn", "gtad", "actionformer"])
def test_every_weight_must_be_there_and_no_other(name):
    told = recorded(name)["anet"] if name == "gtad" else recorded(name)
    state = {key: torch.empty(shape) for key, shape in told["forward"]["layout"].items()}
    for key in state:
        with pytest.raises(ModelError, match=r"^the checkpoint has .* another localizer, or of a variant"):
            RELEASED[name]({k: v for k, v in state.items() if k != key})
    with pytest.raises(ModelError, match=r"has 'rel_pe', which .* have not \(1 of that kind\)"):
        RELEASED[name](state | {"rel_pe": torch.empty(3)})


@pytest.mark.parametrize(("name", "key", "shape"), [
    ("bmn", "sample_mask", (100, 31 * 100 * 100)), ("bmn", "sample_mask", (320000,)),
    ("bmn", "x_3d_p.0.weight", (512, 256, 32)), ("bmn", "x_2d_p.0.weight", (128, 512, 3, 3)),
    ("gtad", "localization.0.weight", (512, 16 * 256, 1, 1)), ("gtad", "localization.0.weight", (512, 9217, 1, 1)),
    ("actionformer", "backbone.embd_norm.0.weight", (512,))])
def test_weights_of_other_shapes_are_refused(name, key, shape):
    make, which = next((make, which) for kind, make, which, _ in FULL if kind == name)
    state = {k: torch.empty(s) for k, s in make(*which)[1]["layout"].items()}
    with pytest.raises(ModelError, match=f"'{key}' in the checkpoint has shape"):
        RELEASED[name](state | {key: torch.empty(shape)})


def test_averaged_weights_come_first():
    one, two = {"a": torch.ones(1)}, {"a": torch.zeros(1)}
    assert weights_in({"epoch": 3, "state_dict": one, "state_dict_ema": two}) == two
    assert weights_in({"epoch": 3, "state_dict": one}) == one
    assert weights_in(one) == one
    for nothing in ({}, {"epoch": 3}, {"state_dict": {"a": 3}}):
        with pytest.raises(ModelError, match="no weights by name"):
            weights_in(nothing)


# ------------------------------------------------------------------------------------------------------------- BMN


def test_bmn_answers_as_released():
    told = recorded("bmn")["forward"]
    length = told["positions"]
    net = BMN(bmn.Config(positions=length, durations=length, samples=told["samples"]), told["dim"], ()).eval()
    net.load_state_dict(bmn.released(filled(told["layout"], told["weights"], told["gain"])))
    out = net(of_features(told["features"], 2, length, told["dim"]))
    start, end = np.triu_indices(length)  # the release's map is start x (end - 1)
    close(out["start"], told["start"])
    close(out["end"], told["end"])
    close(out["map"][:, :, end - start, start], told["map"])


def test_bmn_samples_as_released_at_full_size():
    told = recorded("bmn")["sampling"]
    length, bins = told["positions"], told["samples"]
    draw = np.random.RandomState(told["seed"])
    values, mix, some = draw.randn(length), draw.randn(bins), draw.randint(0, 5050, 200)
    table = extended_point_table(length, length, bins)
    row = np.repeat(np.arange(table.outputs), np.diff(table.offsets))
    found = np.bincount(row, table.weights * values[table.columns // bins] * mix[table.columns % bins], table.outputs)
    d, s = cells(length, length).T.copy()
    square = np.zeros((length, length))
    square[s, s + d] = found
    close(square[np.triu_indices(length)][some], told["values"])


def bmn_truth() -> tuple[BMN, Batch, dict[str, Any]]:
    told = recorded("bmn")["targets"]
    length = told["positions"]
    grid = Grid.over(0.0, told["duration"], length)
    truth = [[Segment(a, b) for a, b in segments] for segments in told["videos"]]
    net = BMN(bmn.Config(positions=length, durations=length, h1d=8, h2d=8, h3d=8, samples=2), 16, ())
    return net.eval(), of_truth(truth, grid, told["duration"]), told


def test_bmn_learns_what_the_release_does():
    net, batch, told = bmn_truth()
    target = net.targets(batch)
    start, end = np.triu_indices(told["positions"])
    close(target.start, told["start"])
    close(target.end, told["end"])
    close(target.iou[:, end - start, start], told["map"])


def test_bmn_loses_what_the_release_does(monkeypatch):
    """Its cells are drawn by the same numbers."""
    net, batch, _ = bmn_truth()
    told, length = recorded("bmn")["losses"], net.config.positions
    start, end, square = uniform(told["answers"], (2, length), (2, length), (2, 2, length, length))
    d, s = cells(length, length).T.copy()
    out = {"start": start, "end": end, "map": torch.full((2, 2, length, length), 0.5)}
    out["map"][:, :, d, s] = square[:, :, s, s + d]
    draw, laid = np.random.RandomState(told["draws"]), []
    for numbers in (draw.rand(2, length, length), draw.rand(2, length, length)):
        laid.append(np.zeros_like(numbers))
        laid[-1][:, d, s] = numbers[:, s, s + d]
    same_draws(monkeypatch, *laid)
    found = net.loss(out, batch)
    close(found["boundary"], told["boundary"])
    close(found["regression"], 10 * told["regression"])
    close(found["confidence"], told["confidence"])
    close(sum(found.values()), told["total"])


def test_bmn_proposes_and_suppresses_as_released():
    """But for proposals that reach the end, which the release has not: they score 0 here."""
    told = recorded("bmn")["decoding"]
    length = told["positions"]
    draw = np.random.RandomState(told["answers"])
    start, end = draw.uniform(0, 1, (2, length)).astype(np.float32)
    square = draw.uniform(0, 1, (2, length, length)).astype(np.float32)
    quality = np.zeros_like(square)
    d, s = cells(length, length).T.copy()
    d, s = d[s + d + 1 < length], s[s + d + 1 < length]
    quality[:, d, s] = square[:, s, s + d]
    net, _, _ = bmn_truth()
    batch = of_truth([[]], Grid.over(0.0, 1.0, length), 1.0)
    out = {"start": torch.from_numpy(start)[None], "end": torch.from_numpy(end)[None],
           "map": torch.from_numpy(quality)[None]}
    candidates = net.decode(out, batch)[0]
    assert len(candidates) == len(told["candidates"]) + length
    close(fractions(candidates)[:len(told["candidates"])], told["candidates"])
    close(fractions(net.select(candidates)), told["kept"])


# ----------------------------------------------------------------------------------------------------------- G-TAD


def small_gtad(branch: str) -> GTAD:
    forward = recorded("gtad")[branch]["forward"]
    config = gtad.Config(h1d=64, h2d=16, h3d=32) if branch == "anet" else gtad.Config.thumos()
    return GTAD(replace(config, positions=forward["positions"], durations=forward["durations"]), 16, ()).eval()


@pytest.mark.parametrize("branch", BRANCHES)
def test_gtad_answers_as_released(branch):
    """THUMOS14's 3x3 head reads zeros beyond the end of the sequence, where the release has the first snippet's
    features: cells are compared that it does not reach from there, four away."""
    told = recorded("gtad")[branch]["forward"]
    net = small_gtad(branch)
    net.load_state_dict(gtad.released(filled(told["layout"], told["weights"], told["gain"])))
    out = net(of_features(told["features"], 2, told["positions"], told["dim"]))
    close(out["start"], told["start"])
    close(out["end"], told["end"])
    d, s = cells(told["positions"], told["durations"])[told["cells"]].T.copy()
    seen = s + d + 1 <= told["positions"] - (0 if branch == "anet" else 4)
    assert seen.sum() > 80
    close(out["map"][:, :, d[seen], s[seen]], np.array(told["map"])[:, :, seen].tolist())


@pytest.mark.parametrize("branch", BRANCHES)
def test_gtad_aligns_as_released_at_full_size(branch):
    told = recorded("gtad")[branch]
    config = gtad.Config() if branch == "anet" else gtad.Config.thumos()
    draw = np.random.RandomState(told["sampling"]["seed"])
    values = draw.randn(config.positions).astype(np.float32)
    sizes = (config.inner_bins, config.context_bins)
    mixes = [draw.randn(bins) for bins in sizes]
    some = draw.randint(0, len(cells(config.positions, config.durations)), 100)
    for bins, mix, expected in zip(sizes, mixes, told["sampling"]["values"], strict=True):
        table = extended_span_table(config.positions, config.durations, bins)
        row = np.repeat(np.arange(table.outputs), np.diff(table.offsets))
        parts = table.weights * values[table.columns // bins] * mix[table.columns % bins]
        # the released kernel finds its places in float32: 256 positions are known to 1e-5
        close(np.bincount(row, parts, table.outputs)[some], expected, atol=1e-4)


def gtad_truth(branch: str, offset: float = 0.0) -> tuple[GTAD, Batch, dict[str, Any]]:
    """ActivityNet's in seconds, THUMOS14's in frames; ``offset`` is added to the latter."""
    net, told = small_gtad(branch), recorded("gtad")[branch]["targets"]
    length = net.config.positions
    duration = told["duration"] if branch == "anet" else float(told["skip"] * length)
    truth = [[Segment(a + offset, b + offset) for a, b in v] for v in told["videos" if branch == "anet" else "frames"]]
    return net, of_truth(truth, Grid.over(0.0, duration, length), duration), told


@pytest.mark.parametrize("branch", BRANCHES)
def test_gtad_learns_what_the_release_does(branch):
    """On THUMOS14, the release's map is two frames late, and its boundaries are not: fed so, ours are the same."""
    net, batch, told = gtad_truth(branch)
    target = net.targets(batch)
    close(target.start, told["start"])
    close(target.end, told["end"])
    if branch == "master":
        assert told["offset"] == -2
        target = net.targets(gtad_truth(branch, 2.0)[1])
    d, s = cells(net.config.positions, net.config.durations).T.copy()
    close(target.iou[:, d, s], told["map"])


@pytest.mark.parametrize("branch", BRANCHES)
def test_gtad_loses_what_the_release_does(branch, monkeypatch):
    """Its cells are drawn by the same numbers. On THUMOS14, the release counts ten positives more than there are and
    another ten entries, so that it never divides by zero: with that in the formula, the losses are the same."""
    net, batch, _ = gtad_truth(branch)
    told, c = recorded("gtad")[branch]["losses"], net.config
    target = net.targets(batch)
    if branch == "master":
        target = target._replace(iou=net.targets(gtad_truth(branch, 2.0)[1]).iou)
    shape = (2, c.durations, c.positions)
    start, end, quality = uniform(told["answers"], (2, c.positions), (2, c.positions), (2, *shape))
    quality = quality.reshape(2, 2, *shape[1:])
    draw = np.random.RandomState(told["draws"])
    same_draws(monkeypatch, draw.rand(*shape), draw.rand(*shape))
    out = {"start": start, "end": end, "map": quality}
    found = map_losses(out, target, batch.mask, training=False)
    close(found["boundary"], told["boundary"])
    close(found["regression"], told["regression"])

    inside = valid_cells(batch.mask.sum(1), *shape[1:])
    q, yes = quality[:, 1][inside], target.iou[inside] > 0.9

    def confidence(more: int) -> float:
        positive, entries = int(yes.sum()) + more, len(q) + 2 * more
        ratio = entries / positive
        hit = 0.5 * ratio * torch.log(q[yes] + 1e-6).sum()
        miss = 0.5 * ratio / (ratio - 1) * torch.log(1 - q[~yes] + 1e-6).sum()
        return -float(hit + miss) / entries

    assert confidence(0) == pytest.approx(float(found["confidence"]), rel=1e-5)
    theirs = confidence(0 if branch == "anet" else 10)
    assert theirs == pytest.approx(told["confidence"], rel=1e-5)
    # which term weighs ten
    weights = c.boundary_weight, c.regression_weight, c.confidence_weight
    assert weights == ((1, 10, 1) if branch == "anet" else (1, 1, 10))
    terms = told["boundary"], told["regression"], theirs
    assert sum(w * term for w, term in zip(weights, terms, strict=True)) == pytest.approx(told["total"], rel=1e-5)


@pytest.mark.parametrize("branch", BRANCHES)
def test_gtad_proposes_and_suppresses_as_released(branch):
    """But for proposals that reach the end, which the release has not (they score 0 here), and the last one, which it
    forgets. On THUMOS14 suppression ran once; the release repeats it over all windows."""
    net, told = small_gtad(branch), recorded("gtad")[branch]["decoding"]
    length, durations = net.config.positions, net.config.durations
    draw = np.random.RandomState(told["answers"])
    start, end = draw.uniform(0, 1, (2, length)).astype(np.float32)
    quality = draw.uniform(0, 1, (2, durations, length)).astype(np.float32)
    d, s = np.mgrid[:durations, :length]
    quality = quality * (s + d + 1 < length)
    unit = 1.0 if branch == "anet" else 5.0 * length  # THUMOS14's proposals are in frames
    batch = of_truth([[]], Grid.over(0.0, unit, length), unit)
    out = {"start": torch.from_numpy(start)[None], "end": torch.from_numpy(end)[None],
           "map": torch.from_numpy(quality)[None]}
    candidates = net.decode(out, batch)[0]
    assert sum((x.score or 0) > 0 for x in candidates) == told["candidates"]
    close(fractions(candidates)[:len(told["best"])][:told["candidates"]], told["best"])
    kept = fractions(net.select(candidates))
    assert net.config.keep == (100 if branch == "anet" else 200)
    close(kept[:len(told["kept"])], told["kept"])


def test_gtads_variants_are_the_releases():
    for branch, config in (("anet", gtad.Config()), ("master", gtad.Config.thumos())):
        full = recorded("gtad")[branch]["full"]
        o = full["options"]
        assert [config.inner_bins, config.context_bins] == full["bins"]
        assert (config.positions, config.durations, config.head_kernel, config.head_kernel // 2, config.sigma) == (
            o["temporal_scale"], o["max_duration"], o["kern_2d"], o["pad_2d"], o["nms_thr"])
        assert o["goi_style"] == 1  # context of the last layer
        recipe = load_recipe("activitynet_gtad" if branch == "anet" else "thumos14_gtad")
        assert build("gtad", recipe.options, full["dim"], ["a"]).config == config
        optim, faster = recipe.optim, 1 if branch == "anet" else 10  # TSP's section 4.1
        assert (optim.name, optim.lr, optim.weight_decay, optim.batch, optim.epochs) == (
            "adam", pytest.approx(faster * o["training_lr"]), o["weight_decay"], o["batch_size"], o["train_epochs"])
        assert optim.decay_at == (o["step_size"] / o["train_epochs"],)
        assert optim.gamma == o["step_gamma"]
    assert (gtad.Config().anchor_left, gtad.Config().anchor_right) == (-0.5, 1.5)
    assert (gtad.Config.thumos().anchor_left, gtad.Config.thumos().anchor_right) == (-0.5, 0.5)


def test_a_variant_has_a_name():
    assert variants("gtad") == ["thumos"]
    assert variants("actionformer") == ["activitynet"]
    small = {"positions": 8, "durations": 8, "keep": 7}
    made = build("gtad", {"variant": "thumos", **small}, 16, ["a"]).config
    assert made == replace(gtad.Config.thumos(), positions=8, durations=8, keep=7)
    assert build("actionformer", {"variant": "activitynet"}, 8, ["a"]).config == actionformer.Config.activitynet()
    with pytest.raises(CallError, match=r"unknown variant of localizer 'gtad' 'thumso'; did you mean 'thumos'\?"):
        build("gtad", {"variant": "thumso"}, 16, ["a"])
    with pytest.raises(CallError, match="known: none"):
        build("bmn", {"variant": "thumos"}, 16, ["a"])


# ---------------------------------------------------------------------------------------------------- ActionFormer


def small_actionformer(state: dict[str, torch.Tensor]) -> ActionFormer:
    net = ActionFormer(SMALL_AF, 12, ("a", "b", "c")).eval()
    missing, more = net.load_state_dict(actionformer.released(state), strict=False)
    assert (missing, more) == (["positives"], [])
    return net


def test_actionformer_answers_as_released():
    told = recorded("actionformer")["forward"]
    out = small_actionformer(filled(told["layout"], told["weights"], told["gain"]))(
        of_features(told["features"], 1, 32, 12))
    close(out["class"][0], told["class"])
    close(out["offset"][0], told["offset"])
    assert 0.3 < (out["offset"] > 0).float().mean() < 0.7


def test_actionformer_answers_as_released_beside_padding():
    """The release's convolutions and norms see padding. Not so where its norms have no bias and every level's last
    position is real: then both answer the same."""
    told, forward = recorded("actionformer")["padded"], recorded("actionformer")["forward"]
    state = filled(forward["layout"], forward["weights"], forward["gain"])
    for name, weight in state.items():
        if name.endswith("bias") and any(part in name for part in NORMS):
            weight.zero_()
    whole = of_features(forward["features"], 1, 32, 12).features[0].numpy()
    rows = [Features(whole[:n], Grid.over(0.0, float(n), n), float(n)) for n in (told["real"], 32)]
    batch = Batch.collate(rows)
    out = small_actionformer(state)(batch)
    real = torch.cat([batch.mask[0, :: 2**level] for level in range(3)])
    close(out["class"][0, real], told["class"])
    close(out["offset"][0, real], told["offset"])


def test_actionformer_answers_as_released_with_six_levels_and_windows_of_nineteen():
    told = recorded("actionformer")["six_levels"]
    net = ActionFormer(actionformer.Config(positions=576, width=8), 8, tuple("abcd")).eval()
    net.load_state_dict(actionformer.released(filled(told["layout"], told["weights"], told["gain"])), strict=False)
    out = net(of_features(told["features"], 1, 576, 8))
    # norms over 8 channels are steep: float32 itself is not closer
    close(out["class"][0, told["points"]], told["class"], atol=5e-5)
    close(out["offset"][0, told["points"]], told["offset"], atol=5e-5)


def actionformer_truth(lengths: tuple[int, int]) -> tuple[Batch, dict[str, Any]]:
    """Segments in cells' centres, as the release counts."""
    told = recorded("actionformer")["targets"]
    rows = [Features(np.zeros((n, 12), np.float32), Grid.over(0.0, float(n), n), float(n)) for n in lengths]
    truth = [[Segment(a + 0.5, b + 0.5, "abc"[k]) for (a, b), k in zip(segments, labels, strict=True)]
             for segments, labels in zip(told["segments"], told["labels"], strict=True)]
    return Batch.collate(rows, truth), told


def test_actionformer_learns_what_the_release_does():
    batch, told = actionformer_truth((32, 32))
    target = ActionFormer(SMALL_AF, 12, ("a", "b", "c")).targets(batch)
    assert target.classes.int().tolist() == told["class"]
    assert (target.classes.sum(2) > 1).any()  # two of one length
    for row in range(2):
        close(target.offsets[row, target.positive[row]], told["offset"][row])


def test_actionformer_loses_what_the_release_does():
    told = recorded("actionformer")["losses"]
    batch, _ = actionformer_truth(tuple(told["lengths"]))
    config = replace(SMALL_AF, smoothing=told["smoothing"], regression_weight=told["weight"],
                     positives=told["positives"])
    net = ActionFormer(config, 12, ("a", "b", "c")).train()
    draw = np.random.RandomState(told["answers"])
    logits = draw.randn(2, 56, 3).astype(np.float32)
    offsets = draw.uniform(0, 4, (2, 56, 2)).astype(np.float32)
    found = net.loss({"class": torch.from_numpy(logits), "offset": torch.from_numpy(offsets)}, batch)
    assert float(net.positives) == pytest.approx(told["after"])
    close(found["class"], told["cls_loss"])
    close(found["regression"], told["weight"] * told["reg_loss"])
    close(sum(found.values()), told["final_loss"])


@pytest.mark.parametrize("way", ["classes", "voting"])
def test_actionformer_finds_and_suppresses_as_released(way):
    """Per class without voting, and without classes with it. No segment leaves the video, where the two differ: the
    release cuts after suppression."""
    told = recorded("actionformer")[f"decoding_{way}"]
    test, video = told["settings"], told["video"]
    config = replace(SMALL_AF, candidates=test["pre_nms_topk"], keep=test["max_seg_num"], threshold=test["min_score"])
    if way == "voting":
        config = replace(config, names="none", sigma=test["nms_sigma"], voting=test["voting_thresh"],
                         shortest=test["duration_thresh"])
    net = ActionFormer(config, 12, ("a", "b", "c")).eval()
    draw = np.random.RandomState(told["answers"])
    logits = torch.from_numpy((2 * draw.randn(1, 56, 3 if way == "classes" else 1) - 1).astype(np.float32))
    at = torch.cat([torch.arange(32)[:: 2**level] for level in range(3)]).float()
    stride = torch.cat([torch.full((32 // 2**level,), 2.0**level) for level in range(3)])
    most = torch.stack([(at + 0.4) / stride, (31.4 - at) / stride], dim=1).clamp(max=3)
    offsets = torch.from_numpy(draw.uniform(0, 1, (1, 56, 2)).astype(np.float32)) * most
    grid = Grid.of_clips(32, video["feat_stride"], video["feat_num_frames"], video["fps"])
    batch = Batch.collate([Features(np.zeros((32, 12), np.float32), grid, video["duration"])])
    found = net.select(net.decode({"class": logits, "offset": offsets}, batch)[0])
    close(fractions(found)[:, :2], told["segments"])
    close(fractions(found)[:, 2], told["scores"])
    assert [s.label for s in found] == [None if way == "voting" else "abc"[k] for k in told["labels"]]


def test_actionformers_settings_are_the_releases():
    for dataset, config in (("thumos", actionformer.Config()), ("activitynet", actionformer.Config.activitynet())):
        told = recorded("actionformer")[dataset]["settings"]
        windows = told["n_mha_win_size"]
        windows = [windows] * 6 if isinstance(windows, int) else windows
        assert [max(w, 0) for w in windows] == list(config.attention)
        assert (config.positions, config.encode_positions) == (told["max_seq_len"], told.get("use_abs_pe", False))


# ------------------------------------------------------------------------------------------------------------ doors

BMN_SMALL = ["options.positions=16", "options.durations=16", "options.samples=8"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A features folder of nothing, as wide as the small networks' features."""
    where = tmp_path / "features"
    where.mkdir()
    (where / "features.json").write_text(json.dumps({
        "complete": True, "encoder": "i3d", "weights": "abc", "dim": 16, "clip": None, "precision": "unknown",
        "videos": {}}))
    return where


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What BMN's code writes."""
    told = recorded("bmn")["forward"]
    state = filled(told["layout"], told["weights"], told["gain"])
    torch.save({"epoch": 9, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "BMN_best.pth.tar")
    return tmp_path / "BMN_best.pth.tar"


def test_a_released_checkpoint_becomes_a_localizer(cuemark, checkpoint, folder, tmp_path):
    out = tmp_path / "bmn.safetensors"
    changes = [word for change in BMN_SMALL for word in ("--set", change)]
    ended = cuemark("weights", "localizer", checkpoint, "--recipe", "activitynet_bmn", "--features", folder, "--out",
                    out, *changes)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"{out}: bmn, proposals without names\n"
    trained = TrainedLocalizer.load(out)
    assert trained.made == {"released": "BMN_best.pth.tar"}
    trained.fits(FeatureFolder.open(folder))
    told = recorded("bmn")["forward"]
    out = trained.network(of_features(told["features"], 2, 16, 16))
    close(out["start"], told["start"])
    data = np.random.RandomState(0).randn(16, 16).astype(np.float32)
    found = trained.predict({"v": Features(data, Grid.over(0.0, 30.0, 16), 30.0)})["v"]
    assert len(found) == 100
    assert {s.label for s in found} == {None}


def test_a_released_checkpoint_with_classes(cuemark, folder, tmp_path):
    told = recorded("actionformer")["forward"]
    state = filled(told["layout"], told["weights"], told["gain"])
    path, names = tmp_path / "epoch_001.pth.tar", tmp_path / "names.txt"
    worse = {k: torch.zeros_like(v) for k, v in state.items()}
    torch.save({"epoch": 1, "state_dict": worse, "state_dict_ema": state, "optimizer": {}}, path)
    names.write_text("Diving\nBilliards\nHighJump\n")
    words = ["weights", "localizer", path, "--recipe", "thumos14_actionformer", "--features", folder, "--out",
             tmp_path / "out.safetensors"]
    for change in ("positions=32", "width=16", "heads=2", "attention=[5, 5, 0]", "encode_positions=true",
                   "ranges=[[0, 4], [4, 8], [8, 10000]]"):
        words += ["--set", f"options.{change}"]
    line = complaint(cuemark(*words, "--classes", names))
    assert "features of width 16 and 3 classes" in line
    assert "'embedding.convolutions.0.weight' has shape (16, 12, 3), not (16, 16, 3)" in line

    meta = json.loads((folder / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps(meta | {"dim": 12}))
    line = complaint(cuemark(*words))  # the recipe's truth is not here
    assert "'score.weight' has shape (3, 16, 3), not (1, 16, 3)" in line
    ended = cuemark(*words, "--classes", names)
    assert ended.out == f"{tmp_path / 'out.safetensors'}: actionformer, 3 classes\n"
    trained = TrainedLocalizer.load(tmp_path / "out.safetensors")
    assert trained.classes == ("Diving", "Billiards", "HighJump")
    close(trained.network(of_features(told["features"], 1, 32, 12))["class"][0], told["class"])


def test_a_single_class_has_no_name(folder, tmp_path):
    """As on ActivityNet: ``names`` is "none", whatever the recipe says."""
    told = recorded("actionformer")["forward"]
    layout = {**told["layout"], "cls_head.cls_head.conv.weight": [1, 16, 3], "cls_head.cls_head.conv.bias": [1]}
    torch.save(filled(layout, 0), tmp_path / "one.pth")
    meta = json.loads((folder / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps(meta | {"dim": 12}))
    config = {"positions": 32, "width": 16, "heads": 2, "attention": [5, 5, 0], "ranges": [list(r) for r in LEVELS]}
    trained = TrainedLocalizer.released(tmp_path / "one.pth", "actionformer", config, FeatureFolder.open(folder),
                                        [f"class {i}" for i in range(200)])
    assert trained.network.config.names == "none"


def test_the_command_explains_itself(cuemark):
    ended = cuemark("weights", "localizer", "--help")
    assert (ended.status, ended.err) == (0, "")
    assert "  cuemark weights localizer BMN_best.pth.tar" in ended.out.partition("Examples:")[2]
    told = str(cli.app["weights"]["localizer"].help_epilogue)
    assert max(map(len, told.splitlines())) <= 80
    for line in told.replace("\\\n", "").splitlines():
        if line.startswith("  cuemark "):
            cli.app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)


def test_what_is_no_released_checkpoint(cuemark, checkpoint, folder, tmp_path):
    words = ["--recipe", "activitynet_bmn", "--features", folder, "--out", tmp_path / "out.safetensors"]
    assert "does not exist" in complaint(cuemark("weights", "localizer", tmp_path / "none.pth", *words))
    assert "do not" not in (line := complaint(cuemark("weights", "localizer", checkpoint, *words)))
    assert "'sampled' has shape (8, 512, 256), not (32, 512, 256)" in line
    words[1] = "activitynet_gtad"
    line = complaint(cuemark("weights", "localizer", checkpoint, *words))
    assert "has no 'backbone1.0.weight', which G-TAD's" in line
    words[1] = "world_tsp"
    assert "with released weights 'tsp'" in complaint(cuemark("weights", "localizer", checkpoint, *words), 2)
    assert not (tmp_path / "out.safetensors").exists()
    assert RELEASED.keys() <= LOCALIZERS.keys()
