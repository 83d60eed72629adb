"""The same promises for every localizer. A new one joins by a small configuration in SMALL."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from cuemark.batch import Batch
from cuemark.grid import Features, Grid
from cuemark.localizers import LOCALIZERS, build
from cuemark.localizers.questions import Example, Question, Row, collate
from cuemark.segments import Segment, times, tiou

SMALL = {
    "actionformer": {"positions": 32, "width": 32, "heads": 2, "attention": [5, 5, 0],
                     "ranges": [[0, 4], [4, 8], [8, 1000]], "drop_path": 0.0, "positives": 10.0},
    "bmn": {"positions": 24, "durations": 24, "h1d": 32, "h2d": 16, "h3d": 32, "samples": 8, "names": "localizer"},
    "gtad": {"positions": 24, "durations": 24, "h1d": 32, "h2d": 16, "h3d": 32, "width": 16, "groups": 4,
             "inner_bins": 8, "context_bins": 4},
    "tan2d": {"clips": 24, "nodes": 24, "scales": [24], "hidden": 32, "kernel": 3, "layers": 1, "normalize": False,
              "min_iou": 0.3, "max_iou": 0.9, "text_dim": 6, "text_width": 32, "text_layers": 1},
    "pgcn": {"hidden": 64, "dropout": 0.0, "graph_dropout": 0.0, "foreground": 2, "foreground_tiou": 0.8,
             "incomplete_tiou": 0.5, "hardest": 0.5},
    "qat": {"positions": 24, "h1d": 32, "width": 16, "groups": 4, "adapt_steps": 20},
    "unloc": {"frames": 24, "width": 32, "heads": 2, "layers": 2, "ranges": [[0, 4], [4, 8], [8, 1000]],
              "head_layers": 2, "text_dim": 6, "tokens": "all", "class_bias": -2.0, "sampling": "mean", "alpha": 1.0,
              "centred": True, "recompute": False, "chunk": 64},
}
STEPS: dict[str, int] = {"pgcn": 150, "qat": 30, "tan2d": 200, "unloc": 120}
"""Updates on the toy task, where 60 are too few or too many."""
DIM, LENGTH, DURATION = 16, 24, 36.0
WORD = 6
CLASSES = ["high", "low"]

every = pytest.mark.parametrize("name", sorted(LOCALIZERS))


def test_every_localizer_is_here():
    assert SMALL.keys() == LOCALIZERS.keys()


def make(name: str, seed: int = 0):
    torch.manual_seed(seed)
    return build(name, SMALL[name], DIM, CLASSES)


def toy(seed: int, span: tuple[int, int] | None = None, length: int = LENGTH, other: bool = False
        ) -> tuple[Features, list[Segment]]:
    """Noise with a bump in one interval; where the bump is tells the class. With ``other``, a bump of the other class
    stands beside it, where there is room: that is not what is asked for."""
    rng = np.random.default_rng(seed)
    if span is None:
        a = int(rng.integers(0, length - 6))
        span = a, int(rng.integers(a + 4, min(a + 16, length) + 1))
    a, b = span
    label = CLASSES[seed % 2]
    data = rng.normal(0, 0.3, (length, DIM)).astype(np.float32)
    bumps = [(a, b, label)]
    if other:
        before, after = (0, a - 1), (b + 1, length)
        c, d = max(before, after, key=lambda room: room[1] - room[0])
        bumps += [(c, min(d, c + 6), CLASSES[1 - seed % 2])] * (d - c >= 3)
    for a, b, kind in bumps:
        data[a:b, :4] += 1.5
        data[a:b, 4 if kind == "high" else 5] += 1.5
    step = DURATION / LENGTH
    grid = Grid(0.0, step, length, step)
    return Features(data, grid, length * step), [Segment(bumps[0][0] * step, bumps[0][1] * step, label)]


def words(sentences):
    """A vector for each word; the two classes' are apart from each other."""
    index = {"high": 0, "low": 1}
    return [torch.stack([torch.eye(WORD)[index.get(word, 2)] * 2 for word in s.split()]) for s in sentences]


def row(net, features: Features, truth: list[Segment], view: bool = True) -> list[Row]:
    """The views of a video, and what this kind of localizer is asked and given: to find ``truth``."""
    label = truth[0].label if truth else "high"
    questions = []
    if net.asked == "sentence":
        questions = [Question(f"the {label} one")]
    elif net.asked == "text":
        questions = [Question(label=label)]
    elif net.asked == "examples":
        shown = [toy(500 + 2 * i + CLASSES.index(label), other=True) for i in range(2)]
        questions = [Question(examples=tuple(Example(f, tuple(t)) for f, t in shown), label=label)]
    proposals = None
    if net.judges:  # every span, whatever is in the video
        step, marks = features.grid.step, range(features.grid.count + 1)
        proposals = [Segment(a * step, b * step, None, 0.5) for a in marks for b in marks if b > a]
    return [Row(v, [truth], questions, proposals) for v in (net.views(features) if view else [features])]


def batch(name: str, rows) -> Batch:
    """Of features and truths, as they are seen."""
    net = make(name)
    seen = [row(net, f, t) for f, t in rows]
    assert all(len(views) == 1 for views in seen)
    return collate([views[0] for views in seen], words)


def localize(net, features: Features, truth: list[Segment]) -> list[Segment]:
    views = collate(row(net, features, truth), words)
    with torch.no_grad():
        return net.select([s for found in net.decode(net(views), views) for s in found])


def asked_for_one(name: str) -> bool:
    return LOCALIZERS[name].asked != "classes"


@cache
def _trained(name: str):
    """Adam on the toy task."""
    net = make(name)
    optimiser = torch.optim.Adam(net.parameters(), lr=4e-3)
    for step in range(STEPS.get(name, 60)):
        rows = batch(name, [toy(1000 + 16 * step + i, other=asked_for_one(name)) for i in range(16)])
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
        features, (truth,) = toy(seed, other=asked_for_one(name))
        best = localize(net, features, [truth])[0]
        assert tiou(times([best]), times([truth]))[0, 0] > 0.7
        assert best.label == (None if asked_for_one(name) else truth.label)


@every
@pytest.mark.parametrize("span", [(14, 24), (0, 8), (0, 24)])
def test_truth_at_the_edges_of_the_video_is_found(name, span):
    features, (truth,) = toy(3, span)
    best = localize(trained(name), features, [truth])[0]
    assert tiou(times([best]), times([truth]))[0, 0] > 0.7
    if span[1] == LENGTH:
        far = name == "unloc" and span[0] == 0  # longer than anything it was shown: its best falls short by regression
        assert best.end == pytest.approx(DURATION, abs=DURATION / LENGTH * (3 if far else 1))
        # whole cells reach it exactly; one that moves ends, by its regression
        near = {"pgcn": DURATION / LENGTH / 4, "unloc": DURATION / LENGTH}.get(name)
        assert max(s.end for s in localize(trained(name), features, [truth])) == pytest.approx(DURATION, abs=near)


@every
@pytest.mark.parametrize("learned", [False, True])
def test_answers_are_sorted_inside_the_video_in_seconds(name, learned):
    net = trained(name) if learned else make(name).eval()
    for seed, length in ((0, LENGTH), (1, 5), (2, 1), (3, 60)):
        features, truth = toy(seed, (0, 1), length)
        rows = collate(row(net, features, truth), words)
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
            assert all((s.label is None) if asked_for_one(name) else (s.label in CLASSES) for s in segments)


@every
def test_padding_does_not_change_answers(name):
    net = trained(name)
    short, long = row(net, *toy(4, (3, 8), length=11), view=False), row(net, *toy(5), view=False)
    alone, together = collate(short, words), collate(long + short, words)
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
    losses = []
    for more in (0, 5, LENGTH - 11):
        rows = collate(row(net, *toy(4, (3, 8), length=11), view=False), words)
        padded = replace(rows, features=torch.nn.functional.pad(rows.features, (0, 0, 0, more)),
                         mask=torch.nn.functional.pad(rows.mask, (0, more)))
        with torch.no_grad():
            losses.append({k: float(v) for k, v in net.loss(net(padded), padded).items()})
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)


@every
def test_the_order_of_a_batch_does_not_matter(name):
    net = trained(name)
    rows = [row(net, *toy(i), view=False)[0] for i in range(3)]
    forward, backward = collate(rows, words), collate(rows[::-1], words)
    with torch.no_grad():
        a, b = net.decode(net(forward), forward), net.decode(net(backward), backward)
    for first, second in zip(a, b[::-1]):
        np.testing.assert_allclose([s.score for s in first], [s.score for s in second], atol=1e-5)


@every
def test_save_and_load_round_trips(name, tmp_path):
    net, other = trained(name), make(name, seed=1).eval()
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    features, truth = toy(0)
    assert localize(other, features, truth) == localize(net, features, truth)
    assert localize(make(name, seed=1).eval(), features, truth) != localize(net, features, truth)


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
