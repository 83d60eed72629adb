"""QAT: its equations once more and slowly, its released code run once, and few shots end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_GTAD

from cuemark.batch import Batch, Examples
from cuemark.errors import CallError, DataError, ModelError
from cuemark.feature_folder import FeatureFolder
from cuemark.grid import Features, Grid
from cuemark.localization import answer_episodes
from cuemark.localizers import build, qat
from cuemark.localizers.qat import QAT, Config, adapt, balanced, released
from cuemark.localizers.questions import EpisodeData, Example, Question, Row, collate, predict, shown
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.metrics.episodes import Episode, draw, read_episodes
from cuemark.metrics.episodes import episodes as scored
from cuemark.nn.nms import soft_nms
from cuemark.recipe import load_recipe
from cuemark.segments import Segment, VideoTruth, labels_of, read_predictions, subset, write_json, write_truth
from cuemark.training import LOCALIZER_FILE, train

RELEASED = json.loads((Path(__file__).parents[1] / "data" / "released_qat.json").read_text(encoding="utf-8"))
"""Numbers of the released code on seeded weights; how they were made is in test_released below."""
DIM, T = 8, 12
TINY = Config(positions=T, h1d=16, width=16, groups=4, adapt_steps=6)


def network(config: Config = TINY, dim: int = DIM, seed: int = 0) -> QAT:
    torch.manual_seed(seed)
    return QAT(config, dim, ["a"]).eval()


def noise(length: int, seed: int = 0, dim: int = DIM, step: float = 1.5) -> Features:
    data = np.random.default_rng(seed).normal(size=(length, dim)).astype(np.float32)
    return Features(data, Grid(0.0, step, length, step), length * step)


def example(seed: int, *spans: tuple[float, float], length: int = T) -> Example:
    return Example(noise(length, seed), tuple(Segment(a * 1.5, b * 1.5) for a, b in spans))


def asking(seed: int = 0) -> Batch:
    """Two rows; two questions about the first, one about the second, with two examples each."""
    first = [Question(examples=(example(seed + 1, (3, 8)), example(seed + 2, (6, 12)))),
             Question(examples=(example(seed + 3, (0, 4), (5, 7.5)), example(seed + 4, (2, 10))))]
    second = [Question(examples=(example(seed + 5, (1, 3)), example(seed + 6, (4, 9))))]
    return collate([Row(noise(T, seed + 7), [[Segment(3.0, 9.0)], []], first),
                    Row(noise(9, seed + 8), [[Segment(0.0, 4.5), Segment(6.0, 13.5)]], second)])


# ------------------------------------------------------------------------------------------- the equations, slowly


def slowly(net: QAT, batch: Batch, question: int) -> tuple[list[float], list[float]]:
    """Logits and match of one question: loops over snippets, autograd and torch's SGD for the adaptation."""
    c, row = net.config, int(batch.about[question])
    length = int(batch.mask[row].sum())
    query = net.encode(batch.features[row : row + 1, :length], batch.mask[row : row + 1, :length])[0].detach()
    inside, outside = [], []
    for s in range(batch.examples.features.shape[1]):
        x = net.encode(batch.examples.features[question, s][None], batch.examples.mask[question, s][None])[0].detach()
        for snippet, share in zip(x, batch.examples.inside[question, s].tolist()):
            inside.append((share, snippet / snippet.norm()))
            outside.append((1 - share, inside[-1][1]))
    query = [snippet / snippet.norm() for snippet in query]

    def mean(pairs):
        return sum(weight * value for weight, value in pairs) / sum(weight for weight, _ in pairs)

    def logit(w, x):
        return c.temperature * (w @ x) / (w.norm() * x.norm())

    def halfway(w):
        return (mean([(a, logit(w, x)) for a, x in inside]) + mean([(a, logit(w, x)) for a, x in outside])) / 2

    w = mean(inside).requires_grad_()
    start = sum(logit(w, x) for x in query) / len(query) if c.transductive else halfway(w)
    b = start.detach().clone().requires_grad_()
    sgd = torch.optim.SGD([w, b], lr=c.adapt_rate)
    for _ in range(c.adapt_steps):
        loss = -c.adapt_weight / 2 * (mean([(a, F.logsigmoid(logit(w, x) - b)) for a, x in inside])
                                      + mean([(a, F.logsigmoid(b - logit(w, x))) for a, x in outside]))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    w, b = w.detach(), b.detach()
    match = [torch.sigmoid(logit(w, x) - halfway(w)).item() for x in query]
    if net.adapter is not None:
        before, d, a = halfway(w), c.h1d, net.adapter
        heads = []
        for h in range(c.heads):
            rows = slice(h * d, (h + 1) * d)
            q = a.query.weight[rows] @ w
            looks = torch.stack([q @ (a.key.weight[rows] @ x) / d**0.5 for x in query]).softmax(0)
            heads.append(sum(look * (a.value.weight[rows] @ x) for look, x in zip(looks, query)))
        y = w + a.out.weight @ torch.cat(heads) + a.out.bias
        y = (y - y.mean()) / (y.var(unbiased=False) + 1e-5).sqrt()
        w = (y * a.norm.weight + a.norm.bias).detach()
        b = b + halfway(w) - before if c.bias_follows else b
    return [(logit(w, x) - b).item() for x in query], match


@pytest.mark.parametrize("changes", [{}, {"transductive": True}, {"transformer": False}, {"bias_follows": False},
                                     {"adapt_steps": 0}])
def test_forward_is_its_equations(changes):
    net, batch = network(replace(TINY, **changes)), asking()
    with torch.no_grad():
        out = net(batch)
    for question in range(3):
        logit, match = slowly(net, batch, question)
        count = len(logit)
        assert out["logit"][question, :count].tolist() == pytest.approx(logit, abs=2e-4)  # 20 times float32 cosines
        assert out["match"][question, :count].tolist() == pytest.approx(match, abs=2e-5)
        assert not out["logit"][question, count:].any()
        assert not out["match"][question, count:].any()


def test_adaptation_lowers_the_loss_and_is_differentiable():
    torch.manual_seed(0)
    x = torch.randn(2, 10, 4, dtype=torch.float64, requires_grad=True)
    hit = (torch.arange(10) < 4).double().expand(2, -1)
    weight, bias = torch.randn(2, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)

    def after(x: torch.Tensor, steps: int) -> torch.Tensor:
        w, b = adapt(weight, bias, x, hit, 1 - hit, temperature=5.0, steps=steps, rate=0.1, scale=1.5)
        return balanced(qat.cosine(w, x) * 5.0 - b[:, None], hit, 1 - hit)

    losses = [after(x, steps).sum().item() for steps in (0, 10, 50)]
    assert losses[0] > losses[1] > losses[2]
    assert torch.autograd.gradcheck(lambda x: after(x, 3), x)


def test_the_loss_is_its_equation():
    net, batch = network(), asking()
    with torch.no_grad():
        out = net(batch)
    expected = []
    for question, (row, truth) in enumerate(zip(batch.about.tolist(), batch.truth)):
        grid, hits, misses = batch.grids[row], [], []
        for i in range(grid.count):
            share = sum(s.overlap(Segment(i * 1.5, (i + 1) * 1.5)) for s in truth) / 1.5
            p = 1 / (1 + np.exp(-float(out["logit"][question, i])))
            hits.append((share, np.log(p)))
            misses.append((1 - share, np.log(1 - p)))
        expected.append(-0.5 * sum(sum(a * v for a, v in side) / max(sum(a for a, _ in side), 1e-10)
                                   for side in (hits, misses)))
    assert net.loss(out, batch)["query"].item() == pytest.approx(np.mean(expected), abs=1e-5)


def test_foreground_and_background_weigh_the_same_and_pull_apart():
    """The release's weights give the background's term the wrong sign, so that "everything" is the best answer."""
    hit = torch.zeros(1, 100)
    hit[:, :30] = 1
    right, everything, nothing = (torch.full((1, 100), v) for v in (-8.0, 8.0, -8.0))
    right[:, :30] = 8.0
    assert balanced(right, hit, 1 - hit).item() < 1e-3
    assert balanced(everything, hit, 1 - hit).item() == balanced(nothing, hit, 1 - hit).item() == pytest.approx(4, 1e-3)


# ----------------------------------------------------------------------------------------------- examples


def test_examples_of_any_length_are_seen_as_the_network_sees_videos():
    net = network()
    for length in (1, 5, 12, 31):
        one = example(3, (0.2 * length, 0.7 * length), length=length)
        examples = Examples.collate([[one, example(4, (2, 3), length=40)]])
        features, real, inside = net._examples(examples)
        whole = one.features.resample(T)
        np.testing.assert_allclose(features[0, 0], whole.data, atol=1e-5)
        share = [sum(examples.inside[0, 0, i].item() * max(min((j + 1) * length / T, i + 1) - max(j * length / T, i), 0)
                     for i in range(length)) * T / length for j in range(T)]
        assert inside[0, 0].tolist() == pytest.approx(share, abs=1e-5)
        assert real.all()


def test_questions_do_not_see_each_other_or_their_padding():
    net, batch = network(), asking()
    with torch.no_grad():
        together = net(batch)
        for question, row in enumerate(batch.about.tolist()):
            length = int(batch.mask[row].sum())
            alone = Batch(batch.features[row : row + 1, :length], batch.mask[row : row + 1, :length],
                          [batch.grids[row]], [batch.durations[row]], None, torch.tensor([0]), None,
                          Examples(*(torch.nn.functional.pad(v[question : question + 1].transpose(1, -1), (0, 0))
                                     .transpose(1, -1) for v in (batch.examples.features, batch.examples.mask,
                                                                 batch.examples.inside))))
            torch.testing.assert_close(net(alone)["logit"][0], together["logit"][question], atol=2e-4, rtol=0)


@pytest.mark.parametrize("spans", [[(0, 12)], [(5, 5)], [(4.9, 5.0)]])
def test_examples_without_an_outside_or_an_inside_give_finite_answers(spans):
    net = network().train()
    batch = collate([Row(noise(T), [[Segment(0, 6)]], [Question(examples=(example(1, *spans),))])])
    loss = net.loss(net(batch), batch)["query"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_an_answer_does_not_depend_on_how_many_examples_another_question_has():
    net, seen = network(), {"a": noise(T, 7)}
    one = Question(examples=(example(1, (3, 8)), example(2, (6, 12))), label="one")
    more = Question(examples=(example(3, (0, 4)), example(4, (2, 10)), example(5, (1, 3))), label="more")
    alone = predict(net, seen, questions={"a": [one]})["a"]
    beside = [s for s in predict(net, seen, questions={"a": [one, more]})["a"] if s.label == "one"]
    assert len(alone) > 3
    assert [(s.start, s.end, s.score) for s in beside] == [
        pytest.approx((s.start, s.end, s.score), abs=1e-5) for s in alone]


def test_windows_see_examples_whole():
    net = network(replace(TINY, span="windows"))
    assert [v.grid.count for v in net.views(noise(30))] == [12, 12, 12, 12]
    batch = collate([Row(net.views(noise(30))[0], None, [Question(examples=(example(1, (3, 20), length=40),))])])
    assert net(batch)["logit"].shape == (1, T)


def test_a_held_backbone_gets_no_gradient():
    net = network(replace(TINY, train_backbone=False)).train()
    net.loss(net(asking()), asking())["query"].backward()
    assert {k.split(".")[0] for k, p in net.named_parameters() if p.grad is not None} == {"adapter"}


# ----------------------------------------------------------------------------------------------- candidates


def curves(count: int, length: int, seed: int = 0) -> np.ndarray:
    z = np.random.default_rng(seed).normal(size=(count, length + 4))
    return 1 / (1 + np.exp(-2 * (z[:, :-4] + z[:, 1:-3] + z[:, 2:-2] + z[:, 3:-1] + z[:, 4:])))


def test_stretches_are_all_runs_above_all_thresholds():
    p, lengths = curves(4, 20), np.array([20, 13, 1, 20])
    p[3] = 0.4
    row, places = qat.stretches(p, lengths)
    expected = set()
    for q, n in enumerate(lengths.tolist()):
        low, high = min(p[q, :n]), max(p[q, :n])
        expected.add((q, 0, n))
        for k in range(1, 10):
            run = None
            for t in range(n + 1):
                above = t < n and p[q, t] > low + (high - low) * (k / 10)
                if above and run is None:
                    run = t
                if not above and run is not None:
                    expected.add((q, run, t))
                    run = None
    found = list(zip(row.tolist(), *places.T.tolist()))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert row.tolist() == sorted(row.tolist())


def test_contrast_is_inside_minus_beside():
    p, lengths = curves(2, 20), np.array([20, 15])
    row, places = qat.stretches(p, lengths)
    for q, (a, b), score in zip(row.tolist(), places.tolist(), qat.contrast(p, lengths, row, places).tolist()):
        n, wide = lengths[q], max((b - a + 2) // 4, 1)
        beside = [*p[q, max(a - wide, 0) : a], *p[q, b : min(b + wide, n)]]
        assert score == pytest.approx((1 + np.mean(p[q, a:b]) - (np.mean(beside) if beside else 0.5)) / 2)


def answered(net: QAT, p: np.ndarray, match: np.ndarray | float = 1.0) -> list[list[Segment]]:
    batch = collate([Row(noise(len(p)), None, [Question(examples=(example(1, (3, 8)),))])])
    logit = torch.from_numpy(np.log(p / (1 - p))).float()[None]
    return net.decode({"logit": logit, "match": torch.ones_like(logit) * torch.as_tensor(match)}, batch)


def test_several_instances_are_found_apart():
    net = network()
    p = np.array([0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1])
    best = net.select(answered(net, p)[0])
    assert {(s.start, s.end) for s in best[:2]} == {(1.5, 4.5), (10.5, 15.0)}
    assert [s.score for s in best] == sorted((s.score for s in best), reverse=True)


def test_a_stretch_that_looks_less_like_the_examples_scores_less():
    net = network()
    p = np.array([0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1])
    match = torch.ones(1, T)
    match[:, :5] = 0.2
    assert [(s.start, s.end) for s in answered(net, p, match)[0][:1]] == [(10.5, 13.5)]


# ----------------------------------------------------------------------------------------------- the release


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The released state dict by the recipe that the recorded numbers were made with."""
    rng, state = np.random.RandomState(RELEASED["seed"]), {}
    for name in sorted(shapes):
        value = rng.standard_normal(shapes[name])
        value = value / np.sqrt(np.prod(shapes[name][1:])) if value.ndim > 1 else 0.1 * value
        state[name] = torch.from_numpy((value + (name == "layer_norm.weight")).astype(np.float32))
    return state


def test_released():
    """Weights of the released code are ours: backbone, prototype, transductive bias, transformer, logits."""
    net = network(Config(positions=T, h1d=16, transductive=True))
    net.load_state_dict(released(weights(RELEASED["shapes"])))
    rng = np.random.RandomState(RELEASED["seed"] + 1)
    support, query = (torch.from_numpy(rng.standard_normal((n, DIM, T)).astype(np.float32)).transpose(1, 2)
                      for n in (2, 1))
    inside = torch.zeros(1, 2, T)
    inside[0, 0, 3:8] = inside[0, 1, 6:] = 1
    real = torch.ones(2, T, dtype=torch.bool)
    with torch.no_grad():
        xs, x = net.encode(support, real).flatten(0, 1)[None], net.encode(query, real[:1])
        weight = qat.prototype(xs, inside.flatten(1))
        bias = 20 * qat.cosine(weight, x).mean(dim=1)
        updated = net.adapter(weight, x, real[:1])
    near = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(x[0].T, torch.tensor(RELEASED["features"]), **near)
    torch.testing.assert_close(weight[0], torch.tensor(RELEASED["prototype"]), **near)
    torch.testing.assert_close(bias, torch.tensor([RELEASED["bias"]]), **near)
    before = torch.sigmoid(20 * qat.cosine(weight, x) - bias)
    torch.testing.assert_close(before[0], torch.tensor(RELEASED["before"]), **near)
    torch.testing.assert_close(updated[0], torch.tensor(RELEASED["updated"]), **near)
    after = 20 * qat.cosine(updated, x) - bias
    torch.testing.assert_close(after[0], torch.tensor(RELEASED["after"]), atol=2e-5, rtol=1e-5)


def curve(seed: int) -> np.ndarray:
    """A probability sequence as the recorded candidates are of."""
    z = np.convolve(np.random.RandomState(seed).standard_normal(100), np.ones(9) / 9, "same") * 4
    return (1 / (1 + np.exp(-z))).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_released_candidates(seed):
    """As recorded, but for those of the slice [9, 97): they are 9 positions later, where they belong."""
    p, slices = curve(seed), []
    for threshold in np.arange(1, 10) / 10:
        for low, high in ((9, 97), (0, 100)):
            at = [i for i in range(low, high) if p[i] > threshold]
            if at and (at[-1] - at[0]) / 100 > 0.1:
                slices.append((at[0], at[-1], low))
    theirs = [[(a - low) / 100, (b - low) / 100, max(p[a - low : b - low])] for a, b, low in slices]
    np.testing.assert_allclose(RELEASED["proposals"][seed], theirs, atol=1e-6)

    row, places, score = qat.outermost(np.stack([p, p]), np.array([100, 100]))
    ours = sorted(zip(*places[row == 1].T.tolist(), score[row == 1].tolist()))
    assert ours == sorted((a, b, float(max(p[a:b]))) for a, b, _ in slices)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_released_suppression(seed):
    """Its loop ends before the last segment, and tells them apart by their place alone."""
    given, expected = np.array(RELEASED["proposals"][seed]), np.array(RELEASED["suppressed"][seed])
    order, score = soft_nms(given[:, :2], given[:, 2], 0.8, keep=100)
    np.testing.assert_allclose(score[:-1], expected[:, 2], atol=1e-5)
    assert len(order) == len(expected) + 1


def test_released_proposals_are_an_option():
    net = network(replace(TINY, proposals="released"))
    p = np.array([0.05, 0.05, 0.95, 0.05, 0.05, 0.05, 0.05, 0.95, 0.95, 0.95, 0.05, 0.05])
    found, = answered(net, p)
    assert {(s.start, s.end) for s in found} == {(3.0, 13.5)}  # one stretch, to where its last position begins
    assert all(s.score == pytest.approx(0.95) for s in found)
    assert answered(net, np.full(T, 0.01)) == [[]]
    assert net.select([]) == []


def test_parameters_at_full_size():
    net = QAT(Config(), 400, [])
    assert sum(p.numel() for p in net.adapter.parameters()) == RELEASED["sizes"]["transformer"] == 525_056
    assert sum(p.numel() for k, p in net.named_parameters() if k.startswith(qat._BACKBONE)) == 410_880
    assert RELEASED["sizes"]["backbone"] == 410_880


def test_the_released_layout():
    """Both checkpoints in one; what else is in the G-TAD's is left out."""
    state = {f"module.{k}": v for k, v in weights(RELEASED["shapes"]).items()}
    state |= {"module.regu_s.1.bias": torch.zeros(1), "module.localization.0.bias": torch.zeros(3)}
    assert released(state).keys() == network(Config(positions=T, h1d=16)).state_dict().keys()
    with pytest.raises(ModelError, match=r"no 'fc\.weight'"):
        released({k: v for k, v in state.items() if "fc" not in k})
    with pytest.raises(ModelError, match="'stranger'"):
        released(state | {"stranger": torch.zeros(1)})


# ----------------------------------------------------------------------------------------------- beginnings


def test_it_begins_with_the_backbone_of_a_gtad_or_with_another_qat():
    small = {"positions": T, "durations": T, "h1d": 16, "h2d": 8, "h3d": 8, "width": 16, "groups": 4, "inner_bins": 4,
             "context_bins": 2}
    gtad, net = build("gtad", small, DIM, ["a"]), network()
    before = net.adapter.query.weight.clone()
    net.begin(gtad)
    assert torch.equal(net.map_graph.semantic.weight, gtad.map_graph.semantic.weight)
    assert torch.equal(net.base.weight, gtad.base.weight)
    assert torch.equal(net.adapter.query.weight, before)
    other = network(seed=5)
    net.begin(other)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values()))
    with pytest.raises(ModelError, match=r"'base\.weight' should be"):
        net.begin(build("gtad", small | {"h1d": 32}, DIM, ["a"]))
    with pytest.raises(ModelError, match="nothing"):
        net.begin(torch.nn.Linear(2, 2))


# ----------------------------------------------------------------------------------------------- episodes


DIRECTIONS = np.linalg.qr(np.random.default_rng(7).normal(size=(16, 16)))[0][:12]
CLASSES = [f"c{k}" for k in range(12)]


def made(count: int, classes: range, seed: int, part: str) -> tuple[dict[str, Features], dict[str, VideoTruth]]:
    """Noise in a scene of its own; inside one or two stretches a direction, which is the class."""
    features, truth = {}, {}
    for i in range(count):
        rng, k = np.random.default_rng((seed, i)), classes[i % len(classes)]
        data = rng.normal(0, 0.35, (24, 16)) + rng.normal(0, 0.5, 16)
        edges = np.sort(rng.choice(np.arange(0, 25, 2), 2 * int(rng.integers(1, 3)), replace=False)).reshape(-1, 2)
        for a, b in edges:
            data[a:b] += 2 * DIRECTIONS[k]
        features[f"{part}{i}"] = Features(data.astype(np.float32), Grid(0.0, 1.5, 24, 1.5), 36.0)
        truth[f"{part}{i}"] = VideoTruth(36.0, tuple(Segment(a * 1.5, b * 1.5, CLASSES[k]) for a, b in edges), part)
    return features, truth


SMALL = Config(positions=24, h1d=32, width=16, groups=4, shots=3, adapt_steps=20)


def test_episodes_are_drawn_as_they_promise():
    features, truth = made(20, range(4), 0, "training")
    truth["alone"] = VideoTruth(36.0, (Segment(1, 5, "rare"), Segment(3, 3, "c0")), "training")
    features["alone"] = features["training0"]
    net = network(SMALL, 16)
    data = EpisodeData.of(net, features, truth, batch=6, seed=1)
    assert len(data) == 4
    assert sorted(vid for vid, _, _ in data.queries) == sorted(f"training{i}" for i in range(20))
    owner = {features[vid].data.tobytes(): vid for vid in truth if vid != "alone"}

    def told(batch: Batch) -> list[tuple[str, tuple[str, ...]]]:
        assert batch.examples.features.shape[:2] == (len(batch.grids), 3)
        return [(owner[batch.features[i].numpy().tobytes()],
                 tuple(owner[x.numpy().tobytes()] for x in batch.examples.features[i]))
                for i in range(len(batch.grids))]

    first = [row for batch in data.epoch(0) for row in told(batch)]
    assert sorted(vid for vid, _ in first) == sorted(vid for vid, _, _ in data.queries)
    for vid, support in first:
        assert vid not in support
        assert len(set(support)) == 3
        assert {truth[s].annotations[0].label for s in support} == {truth[vid].annotations[0].label}
    assert [row for batch in data.epoch(0, skip=2) for row in told(batch)] == first[12:]
    assert [row for batch in data.epoch(1) for row in told(batch)] != first
    for batch in data.epoch(0):
        assert batch.truth == [truth[owner[x.numpy().tobytes()]].annotations for x in batch.features]


def test_questions_of_a_support():
    features = {"u": noise(T, 1), "v": noise(T, 2)}
    asked = shown([("u", Segment(0, 3, "a")), ("v", Segment(1, 2, "b")), ("u", Segment(6, 9, "a"))], features)
    assert [(q.label, [len(e.segments) for e in q.examples]) for q in asked] == [("a", [2]), ("b", [1])]
    with pytest.raises(DataError, match="'w' has no features"):
        shown([("w", Segment(0, 3, "a"))], features)


def test_it_finds_classes_that_it_was_never_trained_on():
    """Eight classes teach it to find four others, far above what a constant box gets, with the class told and not."""
    features, truth = made(64, range(8), 0, "training")
    asked, novel = made(20, range(8, 12), 9, "novel")
    net = network(replace(SMALL, adapt_steps=8), 16).train()
    data, adam = EpisodeData.of(net, features, truth, 8), torch.optim.Adam(net.parameters(), 4e-3)
    torch.manual_seed(0)
    for epoch in range(4):
        for batch in data.epoch(epoch):
            loss = net.loss(net(batch), batch)["query"]
            adam.zero_grad()
            loss.backward()
            adam.step()
    net.eval()
    for ways in (1, 4):
        drawn = draw(novel, novel, CLASSES[8:], ways, 3, 2)
        answers, boxes = [], []
        for episode in drawn:
            questions = dict.fromkeys(episode.queries, shown(episode.support, asked))
            answers.append(predict(net, {vid: asked[vid] for vid in episode.queries}, questions=questions))
            boxes.append({vid: [Segment(1.8, 34.2, label, 1.0) for label in episode.classes]
                          for vid in episode.queries})
        found, floor = (scored(novel, drawn, given).average for given in (answers, boxes))
        assert found > 2 * floor + 0.1


# ----------------------------------------------------------------------------------------------- end to end


def few(tiny_world, tiny_features: FeatureFolder, folder: Path, *changes: str):
    """world_qat cut to a few updates; all videos of the tiny world show one of two classes, so that all have pairs."""
    truth = {}
    for i, (vid, video) in enumerate(tiny_world.truth.items()):
        name = ("even", "odd")[i % 2]
        truth[vid] = replace(video, annotations=tuple(replace(s, label=name) for s in video.annotations))
    write_truth(folder / "truth.json", truth)
    return truth, load_recipe("world_qat", [
        f"data.truth={json.dumps(str(folder / 'truth.json'))}",
        f"data.features={json.dumps(str(tiny_features.folder))}",
        "options.positions=16", "options.h1d=32", "options.width=16", "options.groups=4", "options.adapt_steps=3",
        "options.shots=2", "optim.steps=3", "optim.batch=4", *changes])


def test_trained_saved_loaded_and_asked(tiny_world, tiny_features, tiny_encoder, tmp_path):
    truth, recipe = few(tiny_world, tiny_features, tmp_path)
    trained, result = train(recipe, tmp_path / "run", tiny_encoder)
    assert result.steps == 3
    assert {"score", "map50"} <= result.best.keys()
    again = TrainedLocalizer.load(tmp_path / "run" / LOCALIZER_FILE)
    assert (again.name, again.classes, again.network.asked) == ("qat", ("even", "odd"), "examples")
    videos = [vid for vid in tiny_features if truth[vid].annotations]
    question = Question(examples=tuple(Example(tiny_features[vid], truth[vid].annotations) for vid in videos[:2]),
                        label="more of it")
    found = again.predict({videos[2]: tiny_features[videos[2]]}, {videos[2]: [question]})[videos[2]]
    assert found == trained.predict({videos[2]: tiny_features[videos[2]]}, {videos[2]: [question]})[videos[2]]
    assert found
    assert all(s.label == "more of it" and 0 <= s.start < s.end <= truth[videos[2]].duration for s in found)
    assert train(recipe, tmp_path / "run", tiny_encoder)[1].best == result.best  # finished, not trained again
    with pytest.raises(CallError, match="--examples"):
        again.predict({videos[2]: tiny_features[videos[2]]})


def test_episodes_are_answered_from_a_features_folder(tiny_world, tiny_features, tmp_path, cuemark):
    truth, recipe = few(tiny_world, tiny_features, tmp_path, "data.validate=[]")
    trained, _ = train(recipe, tmp_path / "run")
    path = tmp_path / "run" / LOCALIZER_FILE
    support, query = subset(truth, "training"), subset(truth, "testing")
    drawn = draw(support, query, labels_of(query), len(labels_of(query)), 1, 2)
    answers = answer_episodes(tiny_features, trained, drawn)
    assert [set(a) for a in answers] == [set(e.queries) for e in drawn]
    assert {s.label for a in answers for row in a.values() for s in row} == set(labels_of(query)) == {"even", "odd"}
    (tmp_path / "names.txt").write_text("even\nodd\n")
    write_truth(tmp_path / "query.json", query)
    assert 0 <= scored(truth, drawn, answers).average <= 1
    told = cuemark("episodes", "--support", tmp_path / "truth.json", "--classes", tmp_path / "names.txt", "--query",
                   tmp_path / "query.json", "--ways", 2, "--shots", 1, "--draws", 2, "--out",
                   tmp_path / "drawn.json", "--model", path, "--features", tiny_features.folder, "--answers",
                   tmp_path / "answers", "--json")
    assert told.status == 0, told
    figure = json.loads(told.out)["figures"]["average mAP"]
    assert figure["floor"] is not None
    drawn = read_episodes(tmp_path / "drawn.json")
    given = [read_predictions(tmp_path / "answers" / f"draw{i}.json") for i in range(2)]
    assert scored(truth, drawn, given).figures()["average mAP"] == pytest.approx(figure["value"])
    refused = cuemark("episodes", "--support", tmp_path / "truth.json", "--classes", tmp_path / "names.txt", "--out",
                      tmp_path / "drawn.json", "--model", path)
    assert "--model and --features go together" in refused.err
    with pytest.raises(DataError, match="no features of 'gone'"):
        answer_episodes(tiny_features, trained, [Episode(drawn[0].classes, drawn[0].support, ("gone",))])


def test_a_run_begins_with_a_gtads_backbone(tiny_world, tiny_features, tmp_path):
    _, recipe = few(tiny_world, tiny_features, tmp_path, "data.validate=[]", "optim.steps=1")
    gtad = replace(recipe, system="gtad", options=dict(SMALL_GTAD))
    first, _ = train(gtad, tmp_path / "gtad")
    started = replace(recipe, start=str(tmp_path / "gtad" / LOCALIZER_FILE),
                      options={**recipe.options, "train_backbone": False})
    trained, _ = train(started, tmp_path / "run")
    for name, value in first.network.state_dict().items():
        if name.startswith(qat._BACKBONE):
            assert torch.equal(trained.network.state_dict()[name], value)
    again, _ = train(replace(gtad, start=started.start, optim=replace(gtad.optim, lr=0.0)), tmp_path / "again")
    assert torch.equal(again.network.base.weight, first.network.base.weight)
    with pytest.raises(ModelError, match="do not fit this gtad"):
        train(replace(gtad, start=started.start, options={**SMALL_GTAD, "h2d": 8}), tmp_path / "other")
    with pytest.raises(ModelError, match="a gtad cannot begin"):
        train(replace(gtad, start=str(tmp_path / "run" / LOCALIZER_FILE)), tmp_path / "other")


def test_novel_classes_are_neither_trained_on_nor_chosen_by(tiny_world, tiny_features, tmp_path, monkeypatch):
    truth, recipe = few(tiny_world, tiny_features, tmp_path)
    parts = {"base": ["b"], "validation": ["v"], "novel": ["n"]}
    names, seen = "bvn", {"training": 0, "validation": 0, "testing": 0}
    for vid, video in truth.items():
        if video.subset in seen and video.annotations:
            label = ("bbvvnn" if video.subset == "training" else names)[seen[video.subset] % 6 % (
                6 if video.subset == "training" else 3)]
            seen[video.subset] += 1
            truth[vid] = replace(video, annotations=tuple(replace(s, label=label) for s in video.annotations))
    write_truth(tmp_path / "split.json", truth)
    write_json(tmp_path / "classes.json", parts)
    looked: list[tuple[str, set[str]]] = []
    kept = EpisodeData.of.__func__

    def of(cls, network, features, known, batch, seed=0):
        looked.append(("trained", set(labels_of(known))))
        return kept(cls, network, features, known, batch, seed)

    monkeypatch.setattr(EpisodeData, "of", classmethod(of))
    import cuemark.training as training
    draws = training.draw
    monkeypatch.setattr(training, "draw", lambda s, q, names, *rest: looked.append(("chosen", set(names)))
                        or draws(s, q, names, *rest))
    trained, result = train(replace(recipe, data=replace(
        recipe.data, truth=str(tmp_path / "split.json"), classes=str(tmp_path / "classes.json"))), tmp_path / "run")
    assert ("trained", {"b"}) in looked
    assert {name for what, names in looked for name in names if what == "chosen"} == {"v"}
    assert trained.classes == ("b",)
    assert "score" in result.best


# ----------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(("changes", "message"), [
    ({"span": "vide"}, "did you mean 'video'"), ({"proposals": "stretch"}, "did you mean 'stretches'"),
    ({"positions": 0}, "must be positive"), ({"adapt_steps": -1}, "cannot be negative"), ({"dropout": 1.0}, "dropout"),
    ({"groups": 3}, "must divide"), ({"shots": 0}, "must be positive")])
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(CallError, match=message):
        replace(TINY, **changes)


def test_what_does_not_fit_is_refused():
    with pytest.raises(CallError, match="input_groups"):
        network(dim=7)
    net = network()
    with pytest.raises(CallError, match="give it questions with examples"):
        net(Batch.collate([noise(T)]))
    batch = asking()
    batch.truth = None
    with pytest.raises(CallError, match="needs truth"):
        net.loss(net(batch), batch)
    strange = collate([Row(noise(T), None, [Question(examples=(Example(noise(T, dim=4), (Segment(1, 2),)),))])])
    with pytest.raises(ModelError, match="those of the examples have width 4"):
        net(strange)
