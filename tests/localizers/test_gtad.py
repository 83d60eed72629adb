"""G-TAD: sizes, targets, decoding, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import shared

from cuemark.batch import Batch
from cuemark.errors import CallError, DataError, ModelError
from cuemark.grid import Features, Grid
from cuemark.localizers import build
from cuemark.localizers.gtad import GTAD, Config
from cuemark.nn.graph import gather, nearest
from cuemark.nn.maps import cells
from cuemark.segments import Segment

TINY = Config(positions=12, durations=12, h1d=8, h2d=6, h3d=10, width=8, groups=4, inner_bins=4, context_bins=2)
CLASSES = ("jump", "run", "swim")


def features(count: int, dim: int = 8, duration: float = 24.0, seed: int = 0) -> Features:
    data = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return Features(data, Grid.over(0.0, duration, count), duration)


def network(config: Config = TINY, classes=CLASSES, dim: int = 8) -> GTAD:
    torch.manual_seed(0)
    return GTAD(config, dim, classes).eval()


def size(net: GTAD) -> int:
    return sum(p.numel() for name, p in net.named_parameters() if not name.startswith("names."))


# ----------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize(("key", "config", "dim"), [
    ("gtad_anet_400", Config(), 400), ("gtad_anet_512", Config(), 512), ("gtad_thumos_2048", Config.thumos(), 2048)])
def test_parameters_are_as_many_as_the_releases(key, config, dim):
    counts = {"gtad_anet_400": 5_563_268, "gtad_anet_512": 5_584_772, "gtad_thumos_2048": 5_617_540}
    with torch.device("meta"):
        assert size(GTAD(replace(config, positions=8, durations=8), dim, ["a"])) == counts[key]


def test_the_counts_are_the_golden_ones():
    golden = json.loads(shared("golden/golden.json").read_text())["parameters"]
    assert (golden["gtad_anet_400"], golden["gtad_anet_512"], golden["gtad_thumos_2048"]) == (
        5_563_268, 5_584_772, 5_617_540)


def naive_map(net: GTAD, x: torch.Tensor) -> torch.Tensor:
    """The map of one sequence, as the paper draws it: sample densely, concatenate bins, then convolve.

    Graphs see the sequence without any padding, spans see zeros after it.
    """
    c, length = net.config, x.shape[2]
    nodes, _ = net.map_graph(net.base_graph(F.relu(net.base(x)))[0])
    around = F.pad(gather(nodes, nearest(nodes, c.neighbours)).mean(dim=3), (0, c.positions - length))
    nodes = F.pad(nodes, (0, c.positions - length))

    def sample(source, bins):  # (C, T) to (C, bins, D, T)
        out = torch.zeros(source.shape[0], bins, c.durations, c.positions)
        for d, s in cells(c.positions, c.durations):
            start, width = s - 0.5 * (d + 1), (2 * d + 1) / bins
            count = math.ceil(width)
            for p in range(bins):
                for k in range(count):
                    at = start + p * width + (k + 0.5) * width / count
                    if -1 <= at <= c.positions:
                        at = min(max(at, 0.0), c.positions - 1)
                        low = int(at)
                        high = min(low + 1, c.positions - 1)
                        out[:, p, d, s] += (source[:, low] * (1 - at + low) + source[:, high] * (at - low)) / count
        return out

    sampled = torch.cat([sample(nodes[0], c.inner_bins), sample(around[0], c.context_bins)], dim=1)
    weight = torch.cat([net.inner, net.context])  # (P, O, C)
    spans = torch.einsum("cpds,poc->ods", sampled, weight) + net.sampled_bias[:, None, None]
    cube = F.relu(F.conv2d(F.relu(spans)[None], net.squeeze.weight[:, :, None, None], net.squeeze.bias))
    inside = torch.zeros(c.durations, c.positions)
    for d, s in cells(c.positions, c.durations):
        inside[d, s] = float(s + d + 1 <= length)
    cube = cube * inside
    for layer in net.head:
        weight = layer.weight.reshape(c.h2d, c.h2d, c.head_kernel, c.head_kernel)
        cube = F.relu(F.conv2d(cube, weight, layer.bias, padding=c.head_kernel // 2)) * inside
    weight = net.confidence.weight[:, :, None, None]
    return F.conv2d(cube, weight, net.confidence.bias).sigmoid() * inside


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_map_equals_dense_sampling_then_convolution(kernel):
    net = network(replace(TINY, durations=9, head_kernel=kernel))
    batch = Batch.collate([features(12), features(7, seed=1), features(2, seed=2)])
    with torch.no_grad():
        found = net(batch)["map"]
        for row, length in enumerate((12, 7, 2)):
            expected = naive_map(net, batch.features[row:row + 1, :length].transpose(1, 2))
            torch.testing.assert_close(found[row:row + 1], expected, atol=1e-5, rtol=1e-5)


def test_named_tensors_and_their_shapes():
    out = network(replace(TINY, durations=5))(Batch.collate([features(12), features(7)]))
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "start": (2, 12), "end": (2, 12), "map": (2, 2, 5, 12), "class": (2, 12, 3)}
    for name in ("start", "end", "map"):
        assert ((out[name] >= 0) & (out[name] <= 1)).all()


def test_sampling_tables_are_not_in_the_checkpoint():
    assert sum(v.numel() for v in network().state_dict().values()) == sum(p.numel() for p in network().parameters())


def test_bfloat16_autocast_trains():
    net = network().train()
    batch = Batch.collate([features(12)], [[Segment(4, 12, "run")]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(batch)
    sum(net.loss(out, batch).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with torch.no_grad():
        torch.testing.assert_close(out["map"], net(batch)["map"], atol=0.03, rtol=0)


# ------------------------------------------------------------------------------------------------------- views


def test_a_whole_video_is_one_view_from_its_start_to_its_end():
    view, = network().views(features(30, duration=21.0))
    assert (view.grid.start, view.grid.end, view.grid.count) == (0.0, pytest.approx(21.0), 12)


@pytest.mark.parametrize(("count", "firsts", "sizes"), [
    (5, [0], [5]), (12, [0], [12]), (13, [0, 6], [12, 7]), (18, [0, 6], [12, 12]),
    (25, [0, 6, 12, 18], [12, 12, 12, 7])])
def test_windows_start_every_half_window_and_miss_nothing(count, firsts, sizes):
    whole = Features(np.arange(count * 8, dtype=np.float32).reshape(count, 8), Grid(3.0, 0.5, count, 1.0), 100.0)
    views = network(replace(TINY, span="windows")).views(whole)
    assert [v.grid.count for v in views] == sizes
    for view, first in zip(views, firsts, strict=True):
        assert view.grid.start == 3.0 + 0.5 * first
        assert (view.grid.step, view.grid.window, view.duration) == (0.5, 1.0, 100.0)
        np.testing.assert_array_equal(view.data, whole.data[first:first + 12])


def test_empty_features_are_refused():
    with pytest.raises(DataError, match="0 rows"):
        network().views(Features(np.zeros((0, 8), np.float32), Grid(0, 1, 0, 1), 10.0))


# ----------------------------------------------------------------------------------------------------- targets


def test_targets_speak_of_the_truth_in_seconds():
    batch = Batch.collate([features(12)], [[Segment(4.0, 12.0, "run"), Segment(18.0, 24.0, "unheard of")]])
    target = network().targets(batch)
    assert target.iou[0, 3, 2] == 1  # 2 s per position: [2, 6]
    assert target.iou[0, 2, 9] == 1  # [9, 12] reaches the end
    assert (target.iou == 1).sum() == 2
    assert target.start[0].argmax() in (1, 2)
    assert (target.rows.tolist(), target.spans.tolist(), target.labels.tolist()) == ([0], [[2.0, 6.0]], [1])


def test_truth_is_cut_to_the_window():
    window = Features(np.zeros((12, 8), np.float32), Grid(10.0, 0.5, 12, 0.5), 100.0)
    truth = [Segment(0, 5, "run"), Segment(8, 12, "run"), Segment(13, 13, "run"), Segment(50, 60, "run")]
    target = network().targets(Batch.collate([window], [truth]))
    assert target.spans.tolist() == [[0.0, 4.0]]
    assert target.iou[0, 3, 0] == 1
    assert (target.iou == 1).sum() == 1


def test_truth_beyond_a_short_sequence_is_cut_to_it():
    target = network().targets(Batch.collate([features(5, duration=10.0), features(12)], [[Segment(4, 99, "run")], []]))
    assert target.spans.tolist() == [[2.0, 5.0]]
    assert target.iou[0, 2, 2] == 1
    assert not target.iou[1].any()


def test_unnamed_truth_teaches_proposals_but_no_names():
    net = network()
    batch = Batch.collate([features(12)], [[Segment(4.0, 12.0, "unheard of")]])
    loss = net.loss(net(batch), batch)
    assert loss["naming"] == 0
    assert loss["regression"] > 0


def test_loss_in_evaluation_is_deterministic_and_draws_nothing():
    net = network()
    batch = Batch.collate([features(12)], [[Segment(4.0, 6.0, "run")]])
    out = net(batch)
    state = torch.get_rng_state()
    assert net.loss(out, batch)["regression"] == net.loss(out, batch)["regression"]
    assert torch.equal(torch.get_rng_state(), state)


def test_what_lies_outside_the_sequence_costs_nothing():
    net = network(replace(TINY, names="none"))
    batch = Batch.collate([features(7, duration=14.0)], [[Segment(4.0, 14.0, "run")]])
    out = net(batch)
    before = net.loss(out, batch)
    outside = torch.ones(12, 12, dtype=torch.bool)
    for d, s in cells(7, 7):
        outside[d, s] = False
    for name in ("start", "end"):
        out[name] = out[name].clone()
        out[name][:, 7:] = 0.99
    out["map"] = torch.where(outside, 0.99, out["map"])
    assert net.loss(out, batch) == before


def test_a_loss_needs_truth():
    net = network()
    batch = Batch.collate([features(12)])
    with pytest.raises(CallError, match="needs truth"):
        net.loss(net(batch), batch)


# ------------------------------------------------------------------------------------------------------ decoding


def answer(net: GTAD, start, end, quality, length: int, duration: float = 24.0) -> tuple[dict, Batch]:
    out = {"start": torch.as_tensor(start)[None], "end": torch.as_tensor(end)[None],
           "map": torch.as_tensor(quality)[None]}
    if net.names is not None:
        out["class"] = torch.zeros(1, net.config.positions, len(net.classes))
    return out, Batch.collate([features(length, duration=duration)])


@pytest.mark.parametrize("length", [12, 7, 1])
@pytest.mark.parametrize("peaks", [True, False])
@pytest.mark.parametrize("boundary", [True, False])
def test_decode_is_its_description(length, peaks, boundary):
    net = network(replace(TINY, names="none", peaks=peaks, boundary_scores=boundary, durations=9))
    rng = np.random.default_rng(0)
    start, end, quality = rng.random(12), rng.random(12), rng.random((2, 9, 12))
    found, = net.decode(*answer(net, start, end, quality, length))

    def likely(score, i):
        score = score[:length].tolist()
        around = score[max(i - 1, 0):i + 2]
        return score[i] == max(around) or score[i] > 0.5 * max(score)

    expected = []
    for s in range(length):
        for e in range(s + 1, min(s + 9, length) + 1):
            last = min(e, length - 1)
            if peaks and not ((s == 0 or likely(start, s)) and (last == length - 1 or likely(end, last))):
                continue
            score = quality[0, e - s - 1, s] * quality[1, e - s - 1, s] * (start[s] * end[last] if boundary else 1)
            expected.append((score, s * 24 / length, e * 24 / length))
    expected.sort(reverse=True)
    assert len(found) == len(expected)
    for segment, (score, a, b) in zip(found, expected):
        assert (segment.score, segment.start, segment.end) == (
            pytest.approx(score, rel=1e-5), pytest.approx(a), pytest.approx(b))
        assert segment.label is None


def test_a_proposal_can_reach_the_end_of_the_video():
    net = network()
    quality = np.zeros((2, 12, 12), np.float32)
    quality[:, 4, 7] = 1  # [7, 12]
    best = net.decode(*answer(net, np.zeros(12), np.zeros(12), quality, 12))[0][0]
    assert (best.start, best.end) == (14.0, 24.0)


def test_proposals_are_clipped_to_the_video():
    net = network(replace(TINY, peaks=False, names="none"))
    out, batch = answer(net, np.ones(12), np.ones(12), np.ones((2, 12, 12)), 12)
    batch.grids, batch.durations = [Grid(-2.0, 2.0, 12, 2.0)], [15.0]
    found, = net.decode(out, batch)
    assert found
    assert all(0 <= s.start < s.end <= 15.0 for s in found)


def test_every_proposal_is_named_by_its_span():
    net = network(replace(TINY, top_names=2))
    quality = np.zeros((2, 12, 12), np.float32)
    quality[:, 2, 0], quality[:, 2, 6] = 0.9, 0.8
    out, batch = answer(net, np.ones(12), np.ones(12), quality, 12)
    out["class"][0, :3, 0], out["class"][0, 6:9, 2], out["class"][0, :, 1] = 9.0, 9.0, 4.0
    top = net.decode(out, batch)[0][:4]
    sure, less = torch.tensor([9.0, 4.0, 0.0]).softmax(0)[:2].tolist()
    assert [(s.start, s.end, s.label) for s in top] == [
        (0, 6, "jump"), (12, 18, "swim"), (0, 6, "run"), (12, 18, "run")]
    assert [s.score for s in top] == pytest.approx([0.81 * sure, 0.64 * sure, 0.81 * less, 0.64 * less], rel=1e-5)


def test_select_suppresses_per_class_and_keeps_the_best():
    net = network(replace(TINY, keep=2, top_names=2, sigma=0.5))
    candidates = [Segment(0, 10, "run", 0.9), Segment(0, 10, "jump", 0.8), Segment(0, 10, "run", 0.7),
                  Segment(0, 10, "run", 0.6), Segment(20, 30, "run", 0.3), Segment(20, 30, "jump", 0.01)]
    found = net.select(candidates)
    assert [(s.start, s.label) for s in found] == [(0, "run"), (0, "jump"), (20, "run"), (0, "run")]
    assert [s.score for s in found] == pytest.approx([0.9, 0.8, 0.3, 0.7 * math.exp(-1 / 0.5)])
    assert net.select([]) == []


def test_suppression_per_class_is_the_papers_order_when_a_video_has_one_set_of_names():
    """Suppress the proposals, then emit each with the video's top names: the same answer."""
    rng = np.random.default_rng(0)
    spans, score = np.sort(rng.uniform(0, 50, (40, 2)), axis=1), rng.random(40)
    proposals = [Segment(a, b, None, s) for (a, b), s in zip(spans.tolist(), score.tolist())]
    plain = network(replace(TINY, names="none", keep=40)).select(proposals)
    names = (("run", 0.6), ("swim", 0.3))
    paper = sorted((s.score * p, s.start, label) for s in plain for label, p in names)
    named = [Segment(s.start, s.end, label, s.score * p) for s in proposals for label, p in names]
    found = sorted((s.score, s.start, s.label) for s in network(replace(TINY, keep=40)).select(named))
    assert [f[1:] for f in found] == [p[1:] for p in paper]
    assert [f[0] for f in found] == pytest.approx([p[0] for p in paper])


# -------------------------------------------------------------------------------------------------------- names


def test_without_names_or_classes_there_is_no_class_output():
    for net in (network(replace(TINY, names="none")), network(classes=())):
        batch = Batch.collate([features(12)], [[Segment(0, 5, "run")]])
        out = net(batch)
        assert set(out) == {"start", "end", "map"}
        assert set(net.loss(out, batch)) == {"boundary", "regression", "confidence"}
        assert all(s.label is None for s in net.select(net.decode(out, batch)[0]))


def test_names_of_the_encoder():
    net = network(replace(TINY, names="encoder"))
    batch = Batch.collate([features(12)], [[Segment(0, 5, "run")]])
    with pytest.raises(ModelError, match="never given one"):
        net.decode(net(batch), batch)
    weight, bias = torch.randn(4, 8), torch.randn(4)
    net.name_by(weight, bias, ["swim", "dance", "jump", "run"])
    torch.testing.assert_close(net(batch)["class"], F.linear(batch.features, weight[[2, 3, 0]], bias[[2, 3, 0]]))
    assert "naming" not in net.loss(net(batch), batch)
    assert {s.label for s in net.decode(net(batch), batch)[0]} <= set(CLASSES)
    again = network(replace(TINY, names="encoder"))
    again.load_state_dict(net.state_dict())
    assert again.decode(again(batch), batch) == net.decode(net(batch), batch)


def test_an_encoder_that_does_not_know_the_classes_is_refused():
    net = network(replace(TINY, names="encoder"))
    with pytest.raises(ModelError, match="does not know 'jump'"):
        net.name_by(torch.zeros(1, 8), torch.zeros(1), ["run"])
    with pytest.raises(ModelError, match="cannot name 3 classes"):
        net.name_by(torch.zeros(2, 8), torch.zeros(2))
    with pytest.raises(CallError, match="names = 'localizer'"):
        network().name_by(torch.zeros(3, 8), torch.zeros(3))


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(("changes", "message"), [
    ({"span": "vide"}, "did you mean 'video'"), ({"names": "encodr"}, "did you mean 'encoder'"),
    ({"durations": 13}, "cannot exceed"), ({"positions": 0}, "must be positive"), ({"head_kernel": 2}, "odd"),
    ({"groups": 3}, "must divide"), ({"anchor_right": -0.5}, "anchor_right"), ({"sigma": 0.0}, "must be positive")])
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(CallError, match=message):
        replace(TINY, **changes)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(CallError, match="input_groups"):
        network(dim=7)
    with pytest.raises(ModelError, match="width 8, these have width 4"):
        network()(Batch.collate([features(12, dim=4)]))
    with pytest.raises(ModelError, match="views"):
        network()(Batch.collate([features(13)]))


def test_build_by_name():
    net = build("gtad", {"positions": 12, "durations": 6, "sigma": 1, "names": "none", "peaks": False}, 8, ["a"])
    assert net.config == Config(positions=12, durations=6, sigma=1.0, names="none", peaks=False)
    assert net.classes == ("a",)


@pytest.mark.parametrize(("name", "config", "error", "message"), [
    ("gtda", {}, CallError, "did you mean 'gtad'"), ("gtad", {"posisions": 3}, CallError, "did you mean '.*positions'"),
    ("gtad", {"positions": "many"}, DataError, "positions 'many'"),
    ("gtad", {"positions": "12"}, DataError, "positions '12'"), ("gtad", {"sigma": True}, DataError, "sigma True"),
    ("gtad", {"sigma": -1}, CallError, "positive")])
def test_build_refuses_what_it_does_not_know(name, config, error, message):
    with pytest.raises(error, match=message):
        build(name, config, 8, ["a"])
