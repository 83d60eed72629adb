"""BMN: the release's formulas, written slowly; sizes, losses, decoding, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cuemark.batch import Batch
from cuemark.errors import CallError, ModelError
from cuemark.grid import Features, Grid
from cuemark.localizers import build
from cuemark.localizers.bmn import BMN, Config
from cuemark.nn.maps import extended_point_table
from cuemark.segments import Segment

TINY = Config(positions=12, durations=12, h1d=8, h2d=6, h3d=10, samples=4)
CLASSES = ("jump", "run", "swim")


def features(count: int, dim: int = 8, duration: float = 24.0, seed: int = 0) -> Features:
    data = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return Features(data, Grid.over(0.0, duration, count), duration)


def network(config: Config = TINY, classes=CLASSES, dim: int = 8) -> BMN:
    torch.manual_seed(0)
    return BMN(config, dim, classes).eval()


# ----------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize(("dim", "count"), [(400, 4_978_564), (512, 5_000_068)])
def test_parameters_are_as_many_as_the_releases(dim, count):
    with torch.device("meta"):
        net = BMN(replace(Config(), positions=8, durations=8), dim, ["a"])
    assert sum(p.numel() for p in net.parameters()) == count


def test_the_table_has_as_many_entries_as_the_releases_matrix():
    """479,238 of (100, 320000). Of those, 40 are rounding: 1e-17 beside a point that stands on a position."""
    assert (extended_point_table(100, 100, 32).weights > 1e-9).sum() == 479_238 - 40


def dense_matrix(positions: int, samples: int, points: int) -> torch.Tensor:
    """The release's sampling matrix, point by point: ``(T, samples, T, T)`` over start x end."""
    matrix = torch.zeros(positions, samples, positions, positions, dtype=torch.float64)
    for start in range(positions):
        for end in range(start, positions):
            low, high = start, end + 1
            more = 0.5 * (high - low + 1)
            step = (high - low + 2 * more) / (samples * points - 1)
            for i in range(samples * points):
                at = low - more + i * step
                part, floor = math.modf(at)  # towards zero: of -0.3 the floor is 0 and the part -0.3
                for place, weight in ((int(floor), 1 - part), (math.ceil(at), part)):
                    if 0 <= place < positions:
                        matrix[place, i // points, start, end] += weight / points
    return matrix


def plain(net: BMN, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The network as it is drawn and released, in double: ``(C, length)`` to start, end, and the map start x end.

    A sequence shorter than T has zeros behind it after each layer, and holes where a span would end there.
    """
    c, length = net.config, x.shape[1]
    p = {name: value.double() for name, value in net.named_parameters()}

    def conv(x, name, groups=1):
        y = F.conv1d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=p[f"{name}.weight"].shape[2] // 2,
                     groups=groups)
        y[:, :, length:] = -1e9  # zero after the ReLU
        return y

    x = F.pad(x.double(), (0, c.positions - length))[None]
    for name in ("base.0", "base.1"):
        x = F.relu(conv(x, name, c.groups))
    start, end = (conv(F.relu(conv(x, f"{side}_hidden", c.groups)), side).sigmoid()[0, 0] for side in ("start", "end"))

    x = F.relu(conv(x, "spread"))
    matrix = dense_matrix(c.positions, c.samples, c.points)
    holes = torch.ones(c.positions, c.positions, dtype=torch.bool)
    for s in range(c.positions):
        for e in range(s, min(s + c.durations, length)):
            holes[s, e] = False
    matrix[:, :, holes] = 0
    cube = torch.einsum("bct,tnse->bcnse", x, matrix)
    weight = p["sampled"].permute(1, 2, 0)[..., None, None]  # (h3d, h1d, N, 1, 1): a Conv3d's
    y = F.relu(F.conv3d(cube, weight, p["sampled_bias"]))[:, :, 0]
    y = F.relu(F.conv2d(y, p["squeeze.weight"][..., None, None], p["squeeze.bias"]))
    for i in range(2):
        y = F.relu(F.conv2d(y, p[f"head.{i}.weight"], p[f"head.{i}.bias"], padding=1))
    y = F.conv2d(y, p["confidence.weight"][..., None, None], p["confidence.bias"]).sigmoid()[0]
    return {"start": start, "end": end, "square": y.masked_fill(holes, 0.0)}


@pytest.mark.parametrize("changes", [{}, {"durations": 7}, {"samples": 5, "points": 2, "groups": 2}])
def test_the_network_is_the_released_one(changes):
    net = network(replace(TINY, **changes))
    c = net.config
    batch = Batch.collate([features(12), features(7, seed=1), features(1, seed=2)])
    with torch.no_grad():
        found = net(batch)
        for row, length in enumerate((12, 7, 1)):
            expected = plain(net, batch.features[row, :length].T)
            for name in ("start", "end"):
                torch.testing.assert_close(found[name][row, :length].double(), expected[name][:length],
                                           atol=1e-6, rtol=1e-5)
            turned = torch.zeros(2, c.durations, c.positions, dtype=torch.float64)
            for s in range(c.positions):
                for e in range(s, min(s + c.durations, c.positions)):
                    turned[:, e - s, s] = expected["square"][:, s, e]
            torch.testing.assert_close(found["map"][row].double(), turned, atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_the_released_network():
    net = network()
    x = features(12)
    upstream = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    upstream = upstream * torch.ones(12, 12).triu()
    (plain(net, torch.from_numpy(x.data).T)["square"] * upstream).sum().backward()
    slow = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    turned = torch.zeros(2, 12, 12)
    for s in range(12):
        for e in range(s, 12):
            turned[:, e - s, s] = upstream[:, s, e]
    (net(Batch.collate([x]))["map"][0] * turned).sum().backward()
    assert {"sampled", "sampled_bias", "spread.weight", "base.0.weight", "squeeze.bias"} <= slow.keys()
    for name, gradient in slow.items():
        torch.testing.assert_close(dict(net.named_parameters())[name].grad, gradient, atol=1e-5, rtol=1e-4)


def test_named_tensors_and_their_shapes():
    out = network(replace(TINY, durations=5, names="localizer"))(Batch.collate([features(12), features(7)]))
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "start": (2, 12), "end": (2, 12), "map": (2, 2, 5, 12), "class": (2, 12, 3)}
    for d in range(5):
        for s in range(12):
            assert (out["map"][0, :, d, s] > 0).all() == (s + d + 1 <= 12)  # the last of them ends the video
            assert (out["map"][1, :, d, s] > 0).all() == (s + d + 1 <= 7)


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


def test_windows_of_a_long_video():
    views = network(replace(TINY, span="windows")).views(features(25))
    assert [v.grid.count for v in views] == [12, 12, 12, 7]


# -------------------------------------------------------------------------------------------------------- losses


def literal(q: np.ndarray, positive: np.ndarray) -> float:
    r = positive.size / positive.sum()
    c0, c1 = 0.5 * r / (r - 1), 0.5 * r
    return -np.mean(c1 * np.log(q + 1e-6) * positive + c0 * np.log(1 - q + 1e-6) * ~positive)


@pytest.mark.parametrize("durations", [12, 7])
def test_losses_are_the_releases_formulas(durations):
    net = network(replace(TINY, durations=durations))
    truth = [[Segment(3.1, 12.0), Segment(20.5, 24.0)], [Segment(0.0, 7.9)]]
    batch = Batch.collate([features(12), features(12, seed=1)], truth)
    out = net(batch)
    start, end, quality = (out[k].detach().double().numpy() for k in ("start", "end", "map"))

    # everything in positions of 2 s; boundaries have regions of 3 positions, positions are one wide around i
    at = [[(s.start / 2, s.end / 2) for s in row] for row in truth]

    def near(i, boundary):
        return max(0.0, min(i + 0.5, boundary + 1.5) - max(i - 0.5, boundary - 1.5))

    g_start, g_end = (np.array([[max(near(i, t[side]) for t in row) for i in range(12)] for row in at])
                      for side in (0, 1))
    inside = np.array([[s + d + 1 <= 12 for s in range(12)] for d in range(durations)])

    def iou(a, b, c, d):
        shared = max(0.0, min(b, d) - max(a, c))
        return shared / (b - a + d - c - shared)

    g = np.array([[[max(iou(s, s + d + 1, *t) for t in row) for s in range(12)] for d in range(durations)]
                  for row in at]) * inside
    both = np.broadcast_to(inside, g.shape)

    # the draws of evaluation: one map for the middling cells, one for the poor
    generator = torch.Generator().manual_seed(0)
    high, middle, low = g > 0.7, (g > 0.3) & (g <= 0.7), (g > 0) & (g <= 0.3)
    chosen = high.copy()
    for band in (middle, low):
        draw = torch.rand(g.shape, generator=generator).double().numpy()
        chosen |= band & (draw > 1 - high.sum() / band.sum())
    assert 0 < high.sum() < chosen.sum() < (g > 0).sum()
    regression = 0.5 * (((quality[:, 0] - g) * chosen) ** 2).sum() / chosen.sum()

    found = {name: value.item() for name, value in net.loss(out, batch).items()}
    assert found["boundary"] == pytest.approx(
        literal(start, g_start > 0.5) + literal(end, g_end > 0.5), rel=1e-5)
    assert found["regression"] == pytest.approx(10 * regression, rel=1e-5)
    assert found["confidence"] == pytest.approx(literal(quality[:, 1][both], g[both] > 0.9), rel=1e-5)
    assert found.keys() == {"boundary", "regression", "confidence"}


@pytest.mark.parametrize("truth", [[], [Segment(0.0, 2.0)], [Segment(0.0, 0.01)]])
def test_losses_are_finite_without_positives_and_without_negatives(truth):
    """One position and one cell: the truth makes everything positive, nothing, or the boundaries alone."""
    net = network(replace(TINY, positions=1, durations=1)).train()
    batch = Batch.collate([features(1, duration=2.0)], [truth])
    found = net.loss(net(batch), batch)
    assert all(v.isfinite() for v in found.values())
    assert found["confidence"] > 0
    sum(found.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_cells_are_drawn_by_the_seed_of_the_step_in_training_and_not_at_all_in_evaluation():
    net = network(replace(TINY, positions=12)).train()
    batch = Batch.collate([features(12)], [[Segment(4.0, 10.0)]])
    out = net(batch)

    def drawn(seed):
        torch.manual_seed(seed)
        return float(net.loss(out, batch)["regression"].detach())

    assert drawn(3) == drawn(3)
    assert len({drawn(seed) for seed in range(8)}) > 1
    net.eval()
    state = torch.get_rng_state()
    assert net.loss(out, batch)["regression"] == net.loss(out, batch)["regression"]
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------------------------------------------ decoding


def answer(net: BMN, start, end, quality, length: int, duration: float = 24.0) -> tuple[dict, Batch]:
    out = {"start": torch.as_tensor(start)[None], "end": torch.as_tensor(end)[None],
           "map": torch.as_tensor(quality)[None]}
    return out, Batch.collate([features(length, duration=duration)])


@pytest.mark.parametrize("length", [12, 7, 1])
@pytest.mark.parametrize("candidates", [5050, 9])
def test_decode_scores_every_pair_of_start_and_end(length, candidates):
    net = network(replace(TINY, durations=9, candidates=candidates))
    rng = np.random.default_rng(0)
    start, end, quality = rng.random(12), rng.random(12), rng.random((2, 9, 12))
    found, = net.decode(*answer(net, start, end, quality, length))
    expected = []
    for s in range(length):
        for e in range(s + 1, min(s + 9, length) + 1):
            score = start[s] * end[min(e, length - 1)] * quality[0, e - s - 1, s] * quality[1, e - s - 1, s]
            expected.append((score, s * 24 / length, e * 24 / length))
    expected = sorted(expected, reverse=True)[:candidates]
    assert [s.score for s in found] == pytest.approx([e[0] for e in expected], rel=1e-5)
    np.testing.assert_allclose([(s.start, s.end) for s in found], [e[1:] for e in expected], atol=1e-9)
    assert all(s.label is None for s in found)


def test_a_proposal_can_reach_the_end_of_the_video():
    net = network()
    quality = np.zeros((2, 12, 12), np.float32)
    quality[:, 4, 7] = 1  # [7, 12]
    best = net.select(net.decode(*answer(net, np.ones(12), np.ones(12), quality, 12))[0])[0]
    assert (best.start, best.end, best.score) == (14.0, 24.0, 1.0)


def slow_soft_nms(rows: list[tuple[float, float, float]], alpha: float, low: float, high: float, keep: int
                  ) -> list[tuple[float, float, float]]:
    """The release's, in fractions of the video: ``(start, end, score)``."""
    rows, picked = list(rows), []
    while rows and len(picked) < keep:
        top = max(rows, key=lambda r: r[2])
        rows.remove(top)
        picked.append(top)
        for i, (start, end, score) in enumerate(rows):
            shared = max(0.0, min(end, top[1]) - max(start, top[0]))
            overlap = shared / (end - start + top[1] - top[0] - shared)
            if overlap > low + (high - low) * (top[1] - top[0]):
                rows[i] = start, end, score * math.exp(-overlap * overlap / alpha)
    return picked


@pytest.mark.parametrize("changes", [{}, {"alpha": 0.75, "overlap_low": 0.1, "overlap_high": 0.6}, {"keep": 500}])
def test_suppression_is_the_releases(changes):
    net = network(replace(TINY, keep=30) if not changes else replace(TINY, **changes))
    c, rng = net.config, np.random.default_rng(0)
    # off the grid, where no tIoU equals a threshold; one reaches the end of the video of 24 s
    spans = [*np.sort(rng.uniform(0, 24, (77, 2)), axis=1).tolist(), [15.0, 24.0]]
    candidates = [Segment(a, b, None, score) for (a, b), score in zip(spans, np.sort(rng.random(78))[::-1].tolist())]
    expected = slow_soft_nms([(s.start / 24, s.end / 24, s.score) for s in candidates], c.alpha, c.overlap_low,
                             c.overlap_high, c.keep)
    found = net.select(candidates)
    assert len(found) == min(c.keep, 78)
    np.testing.assert_allclose([(s.start / 24, s.end / 24, s.score) for s in found], expected, rtol=1e-9)
    assert any(score < before.score for score, before in zip([s.score for s in found], candidates))  # some decayed


def test_nothing_to_select_from():
    assert network().select([]) == []


def test_suppression_is_per_class():
    net = network(replace(TINY, names="localizer", keep=2, top_names=2))
    found = net.select([Segment(0, 10, "run", 0.9), Segment(0, 10, "jump", 0.8), Segment(0, 10, "run", 0.7),
                        Segment(20, 30, "run", 0.3), Segment(20, 30, "jump", 0.01)])
    assert [(s.start, s.label) for s in found] == [(0, "run"), (0, "jump"), (20, "run"), (0, "run")]
    assert [s.score for s in found] == pytest.approx([0.9, 0.8, 0.3, 0.7 * math.exp(-1 / 0.4)])


# -------------------------------------------------------------------------------------------------------- names


def test_proposals_have_no_class_by_default():
    net = network()
    batch = Batch.collate([features(12)], [[Segment(0, 5, "run")]])
    out = net(batch)
    assert set(out) == {"start", "end", "map"}
    assert all(s.label is None for s in net.select(net.decode(out, batch)[0]))


def test_names_of_the_encoder():
    net = network(replace(TINY, names="encoder"))
    batch = Batch.collate([features(12)], [[Segment(0, 5, "run")]])
    with pytest.raises(ModelError, match="never given one"):
        net.decode(net(batch), batch)
    with pytest.raises(ModelError, match="does not know 'jump'"):
        net.name_by(torch.zeros(1, 8), torch.zeros(1), ["run"])
    weight, bias = torch.randn(4, 8), torch.randn(4)
    net.name_by(weight, bias, ["swim", "dance", "jump", "run"])
    torch.testing.assert_close(net(batch)["class"], F.linear(batch.features, weight[[2, 3, 0]], bias[[2, 3, 0]]))
    assert "naming" not in net.loss(net(batch), batch)
    assert {s.label for s in net.decode(net(batch), batch)[0]} <= set(CLASSES)
    with pytest.raises(CallError, match="names = 'none'"):
        network().name_by(torch.zeros(3, 8), torch.zeros(3))


def test_learned_names_cost():
    net = network(replace(TINY, names="localizer"))
    batch = Batch.collate([features(12)], [[Segment(4.0, 12.0, "run")]])
    assert net.loss(net(batch), batch)["naming"] > 0


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(("changes", "message"), [
    ({"span": "vide"}, "did you mean 'video'"), ({"names": "encodr"}, "did you mean 'encoder'"),
    ({"durations": 13}, "cannot exceed"), ({"samples": 0}, "must be positive"), ({"groups": 3}, "must divide"),
    ({"alpha": 0.0}, "must be positive"), ({"overlap_low": 0.95}, "overlap_low")])
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(CallError, match=message):
        replace(TINY, **changes)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(CallError, match="groups"):
        network(dim=7)
    with pytest.raises(ModelError, match="width 8, these have width 4"):
        network()(Batch.collate([features(12, dim=4)]))
    with pytest.raises(ModelError, match="views"):
        network()(Batch.collate([features(13)]))


def test_build_by_name():
    net = build("bmn", {"positions": 12, "durations": 6, "alpha": 1}, 8, ["a"])
    assert net.config == Config(positions=12, durations=6, alpha=1.0)
    assert isinstance(net, BMN)
