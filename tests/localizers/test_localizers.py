"""The same promises for every localizer. A new one joins by a small configuration in SMALL."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch

from cuemark.batch import Batch
from cuemark.grid import Features, Grid
from cuemark.localizers import LOCALIZERS, build
from cuemark.segments import Segment, times, tiou

SMALL = {
    "actionformer": {"positions": 32, "width": 32, "heads": 2, "attention": [5, 5, 0],
                     "ranges": [[0, 4], [4, 8], [8, 1000]], "drop_path": 0.0, "positives": 10.0},
    "bmn": {"positions": 24, "durations": 24, "h1d": 32, "h2d": 16, "h3d": 32, "samples": 8, "names": "localizer"},
    "gtad": {"positions": 24, "durations": 24, "h1d": 32, "h2d": 16, "h3d": 32, "width": 16, "groups": 4,
             "inner_bins": 8, "context_bins": 4},
}
DIM, LENGTH, DURATION = 16, 24, 36.0
CLASSES = ["high", "low"]

every = pytest.mark.parametrize("name", sorted(LOCALIZERS))


def test_every_localizer_is_here():
    assert SMALL.keys() == LOCALIZERS.keys()


def make(name: str, seed: int = 0):
    torch.manual_seed(seed)
    return build(name, SMALL[name], DIM, CLASSES)


def toy(seed: int, span: tuple[int, int] | None = None, length: int = LENGTH) -> tuple[Features, list[Segment]]:
    """Noise with a bump in one interval; where the bump is tells the class."""
    rng = np.random.default_rng(seed)
    if span is None:
        a = int(rng.integers(0, length - 6))
        span = a, int(rng.integers(a + 4, min(a + 16, length) + 1))
    a, b = span
    label = CLASSES[seed % 2]
    data = rng.normal(0, 0.3, (length, DIM)).astype(np.float32)
    data[a:b, :4] += 1.5
    data[a:b, 4 if label == "high" else 5] += 1.5
    step = DURATION / LENGTH
    grid = Grid(0.0, step, length, step)
    return Features(data, grid, length * step), [Segment(a * step, b * step, label)]


def batch(name: str, rows, truth: bool = True) -> Batch:
    net = make(name)
    views = [net.views(f) for f, _ in rows]
    assert all(len(v) == 1 for v in views)
    return Batch.collate([v[0] for v in views], [t for _, t in rows] if truth else None)


def localize(net, features: Features) -> list[Segment]:
    views = Batch.collate(net.views(features))
    with torch.no_grad():
        return net.select([s for row in net.decode(net(views), views) for s in row])


@cache
def _trained(name: str):
    """60 steps of Adam on the toy task."""
    net = make(name)
    optimiser = torch.optim.Adam(net.parameters(), lr=4e-3)
    for step in range(60):
        rows = batch(name, [toy(1000 + 16 * step + i) for i in range(16)])
        loss = sum(net.loss(net(rows), rows).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


def trained(name: str):
    return copy.deepcopy(_trained(name))


@every
def test_every_parameter_gets_a_gradient(name):
    net = make(name).train()
    rows = batch(name, [toy(i) for i in range(4)])
    sum(net.loss(net(rows), rows).values()).backward()
    assert [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad.isfinite().all() for p in net.parameters())


@every
@pytest.mark.timeout(60)
def test_it_learns_a_toy_task(name):
    net = trained(name)
    for seed in range(8):  # none was seen in training
        features, (truth,) = toy(seed)
        best = localize(net, features)[0]
        assert tiou(times([best]), times([truth]))[0, 0] > 0.7
        assert best.label == truth.label


@every
@pytest.mark.parametrize("span", [(14, 24), (0, 8), (0, 24)])
def test_truth_at_the_edges_of_the_video_is_found(name, span):
    features, (truth,) = toy(3, span)
    best = localize(trained(name), features)[0]
    assert tiou(times([best]), times([truth]))[0, 0] > 0.7
    if span[1] == LENGTH:
        assert best.end == pytest.approx(DURATION, abs=DURATION / LENGTH)
        assert max(s.end for s in localize(trained(name), features)) == pytest.approx(DURATION)


@every
@pytest.mark.parametrize("learned", [False, True])
def test_answers_are_sorted_inside_the_video_in_seconds(name, learned):
    net = trained(name) if learned else make(name).eval()
    for seed, length in ((0, LENGTH), (1, 5), (2, 1), (3, 60)):
        features, _ = toy(seed, (0, 1), length)
        rows = Batch.collate(net.views(features))
        with torch.no_grad():
            candidates = net.decode(net(rows), rows)
        assert len(candidates) == len(rows.grids)
        answers = net.select([s for row in candidates for s in row])
        assert answers
        for segments in (*candidates, answers):
            scores = [s.score for s in segments]
            assert scores == sorted(scores, reverse=True)
            assert all(0 <= s.start < s.end <= features.duration for s in segments)
            assert all(0 <= score <= 1 for score in scores)
            assert all(s.label in CLASSES for s in segments)


@every
def test_padding_does_not_change_answers(name):
    net = trained(name)
    short, _ = toy(4, (3, 8), length=11)
    long, _ = toy(5)
    alone, together = Batch.collate([short]), Batch.collate([long, short])
    with torch.no_grad():
        a, b = net(alone), net(together)
        first, (_, second) = net.decode(a, alone)[0], net.decode(b, together)
    assert len(first) == len(second)
    np.testing.assert_allclose(times(first), times(second), atol=1e-5)
    np.testing.assert_allclose([s.score for s in first], [s.score for s in second], atol=1e-5)
    assert [s.label for s in first] == [s.label for s in second]


@every
def test_padding_does_not_change_the_loss(name):
    net = trained(name)
    short, truth = toy(4, (3, 8), length=11)
    losses = []
    for more in (0, 5, LENGTH - 11):
        rows = Batch.collate([short], [truth])
        padded = Batch(torch.nn.functional.pad(rows.features, (0, 0, 0, more)),
                       torch.nn.functional.pad(rows.mask, (0, more)), rows.grids, rows.durations, rows.truth)
        with torch.no_grad():
            losses.append({k: float(v) for k, v in net.loss(net(padded), padded).items()})
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)


@every
def test_the_order_of_a_batch_does_not_matter(name):
    net = trained(name)
    rows = [toy(i)[0] for i in range(3)]
    forward, backward = Batch.collate(rows), Batch.collate(rows[::-1])
    with torch.no_grad():
        a, b = net.decode(net(forward), forward), net.decode(net(backward), backward)
    for first, second in zip(a, b[::-1]):
        np.testing.assert_allclose([s.score for s in first], [s.score for s in second], atol=1e-5)


@every
def test_save_and_load_round_trips(name, tmp_path):
    net, other = trained(name), make(name, seed=1).eval()
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    features, _ = toy(0)
    assert localize(other, features) == localize(net, features)
    assert localize(make(name, seed=1).eval(), features) != localize(net, features)


@every
def test_a_batch_without_truth_gives_finite_losses_and_gradients(name):
    net = make(name).train()
    rows = batch(name, [toy(0), toy(1)])
    for truth in ([(), ()], [(Segment(1.0, 1.0, "high"),), ()], [(Segment(0.0, DURATION, "unheard of"),), ()]):
        rows.truth = truth
        net.zero_grad()
        losses = net.loss(net(rows), rows)
        assert all(v.isfinite() for v in losses.values())
        sum(losses.values()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
