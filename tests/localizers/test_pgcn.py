"""P-GCN: the release's numbers, its equations in slow motion, what is drawn, what is answered, what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_GTAD

from cuemark.batch import Batch
from cuemark.errors import CallError, DataError, ModelError
from cuemark.grid import Features, Grid
from cuemark.localization import localize_features
from cuemark.localizers.pgcn import PGCN, Config, Judged, released
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.nn.graph import Links
from cuemark.nn.nms import hard_nms
from cuemark.recipe import Data, Recipe
from cuemark.segments import Segment, labels_of, subset, times, tiou, write_predictions, write_truth
from cuemark.training import train

RELEASE = json.loads((Path(__file__).parents[1] / "data" / "released_pgcn.json").read_text())
"""What the released network and its scripts answer on random weights; the recipe is in :func:`released_state`."""
CLASSES = ("jump", "run", "swim")
TINY = Config(hidden=16)


def network(config: Config = TINY, dim: int = 6, classes: Sequence[str] = CLASSES, seed: int = 0) -> PGCN:
    """One whose answers are not all the same."""
    torch.manual_seed(seed)
    net = PGCN(config, dim, classes)
    for name, parameter in net.named_parameters():
        if "graph" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def video(seed: int, length: int = 40, dim: int = 6, most: int = 30) -> tuple[Features, list[Segment], list[Segment]]:
    """Features, truth, and proposals: copies of the truth that are moved about, and others anywhere."""
    rng = np.random.default_rng(seed)
    grid = Grid.of_clips(length, 4, 8, 8.0)  # a row every half second, each seen through a second
    duration = grid.end + 0.25
    features = Features(rng.normal(size=(length, dim)).astype(np.float32), grid, duration)
    truth = [Segment(a, a + 3.0, CLASSES[k]) for k, a in enumerate((1.0, 7.0, 13.0))]
    found = []
    for i in range(most):
        s = truth[i % 3]
        a, b = np.array([s.start, s.end]) + rng.normal(0, (0.2, 0.5, 1.0, 3.0)[i % 4], 2)
        if i % 5 == 4:
            a, b = rng.uniform(0, duration, 2) if i > 4 else (17.0, 20.0)
        a, b = sorted(np.clip([a, b + 0.01], 0, duration))
        found.append(Segment(a, b, None, float(rng.random())))
    return features, truth, found


def batch(*seeds: int, truth: bool = True, **kwargs) -> Batch:
    rows = [video(seed, **kwargs) for seed in seeds]
    made = Batch.collate([r[0] for r in rows], [r[1] for r in rows] if truth else None)
    made.proposals = [tuple(r[2]) for r in rows]
    return made


# ------------------------------------------------------------------------------------------------- the release


def test_parameters_are_as_many_as_the_releases():
    names = [str(i) for i in range(20)]
    assert sum(p.numel() for p in PGCN(Config(), 1024, names).parameters()) == 4_611_153
    assert sum(p.numel() for p in PGCN(Config.two_stream(), 2048, names).parameters()) == 2 * 4_611_153


def released_state(classes: int, width: int, rng: np.random.RandomState) -> dict[str, torch.Tensor]:
    """A state dict with the release's names and shapes: filled in their order, so that outputs are about 1."""
    graphs = {f"{graph}.{layer}": (a, b) for graph, n in (("Act_GCN", width), ("Comp_GCN", 3 * width))
              for layer, (a, b) in (("gc1", (n, 512)), ("gc2", (512, n)))}
    heads = {"activity_fc": (classes + 1, 2 * width), "completeness_fc": (classes, 6 * width),
             "regressor_fc": (2 * classes, 6 * width)}
    shapes = {f"{name}.weight": shape for name, shape in (graphs | heads).items()}
    shapes |= {f"{name}.bias": (b,) for name, (_, b) in graphs.items()} | {
        f"{name}.bias": (a,) for name, (a, _) in heads.items()}
    state = {}
    for name in sorted(shapes):
        shape = shapes[name]
        fan = shape[0] if "GCN" in name else shape[-1]
        scale = math.sqrt(fan) if len(shape) == 2 else 10
        state[name] = torch.from_numpy(rng.standard_normal(shape).astype(np.float32) / np.float32(scale))
    return state


def as_released() -> tuple[PGCN, Batch, np.random.RandomState]:
    """The released network in ours, and its video at 30 frames a second."""
    r, fps = RELEASE, 30.0
    rng = np.random.RandomState(r["seed"])
    state = released_state(r["classes"], r["width"], rng)
    state["reg_stats"] = torch.tensor(r["statistics"])
    data = rng.uniform(-1, 2, (r["features"], r["width"])).astype(np.float32)
    rows = Batch.collate([Features(data, Grid.of_clips(r["features"], 8, 64, fps), r["frames"] / fps)])
    rows.proposals = [tuple(Segment(a / fps, b / fps, None, 1.0) for a, b in r["proposals"])]
    config = Config(candidates=r["top"], nms=r["nms"])
    net = PGCN(config, r["width"], [str(i) for i in range(r["classes"])]).eval()
    net.load_state_dict(released(state))
    return net, rows, rng


def test_it_says_what_the_release_says():
    net, rows, _ = as_released()
    with torch.no_grad():
        out = net(rows)
    for name in ("activity", "completeness", "regression"):
        torch.testing.assert_close(out[name][:, 0], torch.tensor(RELEASE[name]), atol=1e-5, rtol=1e-5)


def test_it_finds_what_the_release_finds():
    net, rows, _ = as_released()
    with torch.no_grad():
        found = net.select(net.decode(net(rows), rows)[0])
    expected = RELEASE["detections"]  # class, start and end as shares of the video, score
    assert len(found) == len(expected)
    for s, (label, start, end, score) in zip(found, expected):
        assert s.label == str(int(label))
        assert (s.start, s.end) == (pytest.approx(start * rows.durations[0], abs=1e-4),
                                    pytest.approx(end * rows.durations[0], abs=1e-4))
        assert s.score == pytest.approx(score / (1 + score), abs=1e-5)


def test_its_links_are_among_the_releases():
    net, rows, _ = as_released()
    links = []
    net.streams[0].register_forward_hook(lambda module, args, out: links.append(args[1]))
    net(rows)
    assert links[0].children.tolist() == RELEASE["children"]


def test_drawn_graphs_say_what_the_releases_say():
    """Graphs of 21 places, in each of which a node has other children: the centre, its 4, and the 4 of each."""
    net, rows, _ = as_released()
    trees = torch.tensor(RELEASE["drawn"])
    spans = torch.from_numpy(times(rows.proposals[0]))
    nodes = trees[:, :5]
    children = torch.stack([trees[:, 1 + 4 * i:5 + 4 * i] for i in range(5)], dim=1)
    links = Links(nodes.flatten(), children.flatten(0, 1), torch.arange(nodes.numel()).view(nodes.shape))
    with torch.no_grad():
        pooled = net._pooled(rows, torch.zeros(len(spans), dtype=torch.int64), spans)
        activity, completeness, regression = net.streams[0](pooled, links)
    found = torch.cat([activity, completeness, regression.flatten(1)], dim=1)
    torch.testing.assert_close(found, torch.tensor(RELEASE["drawn_out"]), atol=1e-5, rtol=1e-5)


def test_losses_are_the_releases():
    """Two videos of a good proposal, six incomplete ones and one of the background, whose answers are random."""
    _, _, rng = as_released()
    count, width = RELEASE["classes"], len(RELEASE["proposals"])
    rng.randint(0, width, (3, 21))  # those of the graphs above
    activity, completeness, regression = (
        torch.from_numpy(rng.standard_normal(shape).astype(np.float32))[:, None]
        for shape in ((16, count + 1), (16, count), (16, count, 2)))
    labels = rng.randint(1, count + 1, (2, 8))
    assert labels.tolist() == RELEASE["labels"]
    wanted = rng.standard_normal((2, 2)).astype(np.float32)
    net = PGCN(Config(completeness_weight=1.0, regression_weight=1.0), 4, [str(i) for i in range(count)]).eval()
    net.variance.fill_(0.05**2)
    spans, truth = [], []
    for row in range(2):
        truth.append([Segment(100 * j, 100 * j + 10, str(labels[row, j] - 1)) for j in range(7)])
        shift, grown = 0.05 * wanted[row].astype(float)
        length = 10 * math.exp(-grown)
        spans.append([5 - shift * length - length / 2, 5 - shift * length + length / 2])
        spans += [[100 * j, 100 * j + 50] for j in range(1, 7)] + [[700, 800]]
    spans = torch.tensor(spans, dtype=torch.float64) + 50
    rows = Batch.collate([Features(np.zeros((2, 4), np.float32), Grid.over(0, 1000, 2), 1000.0)] * 2,
                         [[Segment(s.start + 50, s.end + 50, s.label) for s in t] for t in truth])
    out = {"activity": activity, "completeness": completeness, "regression": regression,
           "row": torch.arange(2).repeat_interleave(8), "span": spans}
    assert {k: float(v) for k, v in net.loss(out, rows).items()} == pytest.approx(RELEASE["losses"], rel=1e-5)


def test_released_names():
    state = released_state(3, 6, np.random.RandomState(0)) | {"reg_stats": torch.tensor([[0.1, 0.2], [0.3, 0.4]])}
    net = PGCN(Config(), 6, CLASSES)
    plain = released(state)
    net.load_state_dict(plain)
    wrapped = released({name if name == "reg_stats" else f"module.{name}": v for name, v in state.items()})
    assert all(torch.equal(plain[name], wrapped[name]) for name in plain)
    assert net.mean.tolist() == pytest.approx([0.1, 0.2])
    assert net.deviation.tolist() == pytest.approx([0.3, 0.4])
    two = PGCN(Config(streams=(6, 6)), 12, CLASSES)
    two.load_state_dict(released(state) | released(state, stream=1))
    with pytest.raises(ModelError, match=r"no 'reg_stats'.*pass it beside"):
        released({name: v for name, v in state.items() if name != "reg_stats"})
    with pytest.raises(ModelError, match=r"no 'Comp_GCN\.gc2\.weight'"):
        released({name: v for name, v in state.items() if name != "Comp_GCN.gc2.weight"})
    with pytest.raises(ModelError, match=r"'other\.weight', which P-GCN's"):
        released(state | {"other.weight": torch.zeros(2)})


# ------------------------------------------------------------------------------------------------- in slow motion


def naive(net: PGCN, rows: Batch, row: int) -> list[tuple[Segment, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What is said of each proposal of a row, best first: every graph drawn for itself, 21 nodes, dense matrices."""
    c, grid, data = net.config, rows.grids[row], rows.features[row]
    proposals = sorted(rows.proposals[row], key=lambda s: -s.score)

    def pool(start: float, end: float) -> torch.Tensor:
        if start == end:  # nothing before the video, or after it
            return torch.zeros(net.dim)
        windows = grid.windows
        inside = [i for i, (a, b) in enumerate(windows) if a > start - grid.step + 1e-6 and b < end + grid.step - 1e-6]
        first = min(max(math.floor((start - windows[0, 0]) / grid.step + 1e-6), 0), grid.count - 1)
        if not inside or inside[-1] < first:
            return data[first]
        return data[inside[0]:inside[-1] + 1].amax(dim=0)

    def node(s: Segment) -> torch.Tensor:
        more = c.context * s.duration
        return torch.stack([pool(max(s.start - more, 0.0), s.start), pool(s.start, s.end),
                            pool(s.end, min(s.end + more, rows.durations[row]))])

    def children(s: Segment) -> list[Segment]:
        others = [o for o in proposals if o is not s]
        iou = {id(o): tiou(times([s]), times([o]))[0, 0] for o in others}
        near = sorted((o for o in others if iou[id(o)] > c.contextual_tiou), key=lambda o: -iou[id(o)])[:3] or [s]
        apart = [o for o in others if s.overlap(o) == 0]
        beside = sorted(apart, key=lambda o: abs(o.middle - s.middle) / (max(s.end, o.end) - min(s.start, o.start)))
        return [*(near * 3)[:3], *(beside or [s])[:1]]

    def graph(layer, x: list[torch.Tensor]) -> torch.Tensor:
        x = torch.stack(x)  # centre, its 4, the 4 of each
        matrix = torch.zeros(21, 21)
        for i in range(5):
            matrix[i, i] = 1
            for j in range(1 + 4 * i, 5 + 4 * i):
                matrix[i, j] = F.cosine_similarity(x[i], x[j], dim=0).clamp(min=0) / 4
        h = F.relu(matrix @ (x @ layer.first.weight.T) + layer.first.bias)
        return torch.cat([(matrix @ (h @ layer.second.weight.T) + layer.second.bias)[0], x[0]])

    stream = net.streams[0]
    said = []
    for s in proposals:
        tree = [s, *children(s)]
        for i in range(1, 5):
            tree += children(tree[i])
        nodes = [node(t) for t in tree]
        activity = graph(stream.activity_graph, [n[1] for n in nodes])
        complete = graph(stream.completeness_graph, [n.flatten() for n in nodes])
        said.append((s, stream.activity(activity), stream.completeness(complete), stream.regression(complete)))
    return said


def test_it_is_the_papers_equations():
    net, rows = network(), batch(1, 2)
    rows.proposals[1] = rows.proposals[1][:7]
    with torch.no_grad():
        out = net(rows)
        for row in range(2):
            mine = (out["row"] == row).nonzero()[:, 0].tolist()
            expected = naive(net, rows, row)
            assert len(mine) == len(expected)
            for i, (s, activity, completeness, regression) in zip(mine, expected, strict=True):
                assert out["span"][i].tolist() == [s.start, s.end]
                assert float(out["score"][i]) == s.score
                torch.testing.assert_close(out["activity"][i, 0], activity, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(out["completeness"][i, 0], completeness, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(out["regression"][i, 0].flatten(), regression, atol=1e-5, rtol=1e-5)


def test_answers_are_its_description():
    net, rows = network(replace(TINY, candidates=50, nms=0.4)), batch(3)
    net.mean.copy_(torch.tensor([0.1, -0.2]))
    net.variance.copy_(torch.tensor([0.04, 0.09]))
    with torch.no_grad():
        said = naive(net, rows, 0)
        candidates = net.decode(net(rows), rows)[0]
    pairs = []
    for s, activity, completeness, regression in said:
        for k in range(3):
            score = float(activity.softmax(dim=0)[k + 1] * completeness[k].exp())
            shift, grown = (regression.view(3, 2)[k] * net.deviation + net.mean).tolist()
            middle, length = s.middle + shift * s.duration, s.duration * math.exp(grown)
            ends = np.clip([middle - length / 2, middle + length / 2], 0, rows.durations[0])
            pairs.append((score / (1 + score), *ends, CLASSES[k], (s.start, s.end)))
    pairs = sorted(pairs, key=lambda p: -p[0])[:50]
    assert [s.label for s in candidates] == [p[3] for p in pairs]
    for s, (score, a, b, _, proposal) in zip(candidates, pairs, strict=True):
        assert isinstance(s, Judged)
        assert (s.score, s.start, s.end) == (pytest.approx(score, abs=1e-5), pytest.approx(a, abs=1e-4),
                                             pytest.approx(b, abs=1e-4))
        assert s.proposal == proposal
    for first in (False, True):
        spans = np.array([(p[1:3] if first else p[4]) for p in pairs])
        kept, _ = hard_nms(spans, np.array([p[0] for p in pairs]), 0.4,
                           groups=np.array([CLASSES.index(p[3]) for p in pairs]))
        found = network(replace(net.config, regress_first=first)).select(candidates)
        assert [(s.label, round(s.start, 3)) for s in found] == [(pairs[i][3], round(pairs[i][1], 3)) for i in kept]
        assert all(type(s) is Segment for s in found)
    assert len(network(replace(net.config, keep=3)).select(candidates)) == 3
    assert net.select([]) == []
    assert net.select([Segment(0, 4, "run", 0.5), Segment(0, 4.1, "run", 0.7)]) == [Segment(0, 4.1, "run", 0.7)]


def test_the_proposals_own_scores_can_count():
    rows = batch(3)
    net, other = network(), network(replace(TINY, proposal_scores=True))
    with torch.no_grad():
        out = net(rows)
        plain, scaled = (n.decode(out, rows)[0] for n in (net, other))
    own = {(s.start, s.end): s.score for s in rows.proposals[0]}
    by_pair = {(s.proposal, s.label): s.score / (1 - s.score) for s in plain}
    assert len(scaled) == len(plain) == 90
    for s in scaled:
        assert s.score / (1 - s.score) == pytest.approx(by_pair[s.proposal, s.label] * own[s.proposal], rel=1e-6)


# ------------------------------------------------------------------------------------------------- training


def test_targets_are_their_description():
    net = network()
    rows = batch(0)
    rows.truth = [(Segment(2, 6, "run"), Segment(5, 9, "swim"), Segment(12, 15, "unheard of"))]
    spans = [(2, 6), (2.2, 6.4), (5, 8.5), (1, 5), (0, 14), (4, 5), (9, 12), (9, 9.1), (12, 15), (5.9, 17), (13, 20)]
    found = net.targets(torch.zeros(len(spans), dtype=torch.int64), torch.tensor(spans, dtype=torch.float64), rows)
    for i, (a, b) in enumerate(spans):
        ious = tiou(np.array([[a, b]]), times(rows.truth[0]))[0]
        best = int(ious[:2].argmax())
        s = rows.truth[0][best]
        kind, offset = -1, (0.0, 0.0)
        if ious[best] > 0.7:
            kind = 0
            offset = (s.middle - (a + b) / 2) / (b - a), math.log(s.duration / (b - a))
        elif ious[best] < 0.3 and s.overlap(Segment(a, b)) / (b - a) > 0.01:
            kind = 1
        elif ious.max() < 0.01 and (b - a) / rows.durations[0] > 0.02:
            kind = 2
        assert int(found.kind[i]) == kind, (a, b)
        assert found.offset[i].tolist() == pytest.approx(offset)
        if kind in (0, 1):
            assert int(found.label[i]) == CLASSES.index(s.label)
    assert found.kind.tolist() == [0, 0, 0, -1, 1, 1, 2, -1, -1, 1, -1]


def test_each_video_gives_one_good_six_incomplete_and_one_of_the_background():
    net, rows = network().train(), batch(0, 1, 2)
    torch.manual_seed(3)
    out = net(rows)
    assert out["row"].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    target = net.targets(out["row"], out["span"], rows)
    assert target.kind.view(3, 8).tolist() == [[0, 1, 1, 1, 1, 1, 1, 2]] * 3
    known = [{(s.start, s.end) for s in (*p, *t)} for p, t in zip(rows.proposals, rows.truth)]
    assert all(tuple(span) in known[row] for row, span in zip(out["row"].tolist(), out["span"].tolist()))
    again = net(rows)
    assert not torch.equal(again["span"], out["span"])
    torch.manual_seed(3)
    other = network().train()
    torch.manual_seed(3)
    assert torch.equal(other(rows)["span"], out["span"])


def test_links_are_drawn_from_the_best_ones():
    net, rows = network().train(), batch(0, most=60)
    seen: list[Links] = []
    net.streams[0].register_forward_hook(lambda module, args, out: seen.append(args[1]))
    for _ in range(20):
        net(rows)
    places = seen[0]
    assert places.children.shape == (8 * 5, 4)
    assert places.centres.shape == (8, 5)
    for links in seen:  # a centre's links are the other places of its graph, in order
        assert torch.equal(links.nodes[links.centres[:, 1:]], links.children[links.centres[:, 0]])
    mean = sum(len(set(map(tuple, links.children.tolist()))) for links in seen) / len(seen)
    assert mean > 10  # they vary


def test_where_a_kind_is_missing_good_ones_take_its_place():
    net, rows = network().train(), batch(0)
    rows.proposals = [()]  # the truth alone
    out = net(rows)
    assert net.targets(out["row"], out["span"], rows).kind.tolist() == [0] * 8
    losses = net.loss(out, rows)
    assert all(v.isfinite() for v in losses.values())
    rows.truth = [()]
    rows.proposals = [(Segment(3, 9, None, 1.0),)]
    out = net(rows)
    assert net.targets(out["row"], out["span"], rows).kind.tolist() == [2]


def test_nothing_to_judge_costs_nothing():
    net, rows = network().train(), batch(0, 1)
    rows.proposals, rows.truth = [(), ()], [(), ()]
    out = net(rows)
    losses = net.loss(out, rows)
    assert {k: v.item() for k, v in losses.items()} == {"activity": 0, "completeness": 0, "regression": 0}
    sum(losses.values()).backward()
    with torch.no_grad():
        assert net.eval().decode(net(rows), rows) == [[], []]


def test_the_loss_in_evaluation_is_its_description():
    net, rows = network(replace(TINY, hardest=0.4)), batch(0, 1)
    net.mean.copy_(torch.tensor([0.02, -0.1]))
    with torch.no_grad():
        out = net(rows)
        found = net.loss(out, rows)
        target = net.targets(out["row"], out["span"], rows)
    entropy, moved, hinge, number = [], [], 0.0, 0
    for row in range(2):
        worst = []
        for i in (out["row"] == row).nonzero()[:, 0].tolist():
            kind, label = int(target.kind[i]), int(target.label[i])
            activity, completeness = out["activity"][i, 0], float(out["completeness"][i, 0, label])
            if kind in (0, 2):
                entropy.append(-float(activity.log_softmax(0)[label + 1 if kind == 0 else 0]))
            if kind == 0:
                hinge += max(0.0, 1 - completeness)
                number += 1
                wanted = (target.offset[i] - net.mean) / net.deviation
                moved.append(float(F.smooth_l1_loss(out["regression"][i, 0, label].double(), wanted)) * 2)
            if kind == 1:
                worst.append(max(0.0, 1 + completeness))
        most = max(int(len(worst) * 0.4), 1)
        hinge += sum(sorted(worst, reverse=True)[:most])
        number += most
    assert {k: float(v) for k, v in found.items()} == pytest.approx(
        {"activity": np.mean(entropy), "completeness": 0.5 * hinge / number, "regression": 0.5 * np.mean(moved)},
        rel=1e-5)


def test_what_targets_are_standardised_by_is_learned():
    net = network().train()
    assert net.deviation.tolist() == pytest.approx([0.1, 0.2])
    offsets = []
    for seed in range(5):
        rows = batch(seed, seed + 10)
        for row in range(2):
            spans = torch.from_numpy(times(rows.proposals[row]))
            target = net.targets(torch.full((len(spans),), row), spans, rows)
            offsets.append(target.offset[target.kind == 0])
        net(rows)
    offsets = torch.cat(offsets)
    assert int(net.seen) == len(offsets) > 20
    torch.testing.assert_close(net.mean, offsets.mean(dim=0).float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net.deviation, offsets.std(dim=0, correction=0).float(), atol=1e-5, rtol=1e-4)
    before = net.mean.clone()
    net.eval()(rows)
    assert torch.equal(net.mean, before)


def test_one_span_with_two_names_teaches_both():
    net, rows = network().train(), batch(0)
    rows.truth = [(Segment(2, 6, "run"), Segment(2, 6, "swim"))]
    span = torch.tensor([[2.0, 6.0]] * 100, dtype=torch.float64)
    labels = net.targets(torch.zeros(100, dtype=torch.int64), span, rows).label
    assert set(labels.tolist()) == {1, 2}
    assert set(net.eval().targets(torch.zeros(100, dtype=torch.int64), span, rows).label.tolist()) == {1}


# ------------------------------------------------------------------------------------------------- streams


def test_streams_are_networks_of_their_own_whose_answers_are_averaged():
    config = Config(hidden=16, streams=(4, 2), stream_weights=(1.0, 3.0))
    both, rows = network(config), batch(0, 1)
    apart = []
    for i, (low, high) in enumerate(((0, 4), (4, 6))):
        net = PGCN(TINY, high - low, CLASSES).eval()
        state = both.state_dict()
        net.load_state_dict({k.replace(f"streams.{i}.", "streams.0."): v for k, v in state.items()
                             if k.startswith(f"streams.{i}.") or not k.startswith("streams.")})
        part = replace(rows, features=rows.features[..., low:high])
        apart.append((net, part))
    with torch.no_grad():
        out = both(rows)
        single = [net(part) for net, part in apart]
        losses = [net.loss(o, part) for o, (net, part) in zip(single, apart)]
        found = both.loss(out, rows)
        mixed = both.decode(out, rows)
        for name in ("activity", "completeness", "regression"):
            for i in range(2):
                torch.testing.assert_close(out[name][:, i], single[i][name][:, 0], atol=1e-5, rtol=1e-5)
        mean = {name: (single[0][name] + 3 * single[1][name]) / 4 if single[0][name].ndim > 2 else single[0][name]
                for name in out}
        expected = apart[0][0].decode(mean, rows)
    assert {k: float(v) for k, v in found.items()} == pytest.approx(
        {k: float(losses[0][k] + losses[1][k]) for k in found}, rel=1e-5)
    for row, other in zip(mixed, expected, strict=True):
        assert [s.label for s in row] == [s.label for s in other]
        np.testing.assert_allclose(times(row), times(other), atol=1e-5)


def test_the_settings_of_the_release():
    assert Config.two_stream(512).streams == (512, 1024)
    assert Config.two_stream().nms == 0.32
    assert (Config.activitynet().candidates, Config.activitynet().incomplete_tiou) == (100, 0.6)
    assert Config().best == (3, 1)
    assert Config(surrounding=0).best == (4, 0)
    assert Config(contextual=0, surrounding=4).best == (0, 4)


# ------------------------------------------------------------------------------------------------- promises


def test_answers_do_not_depend_on_draws_order_or_company():
    net, rows = network(), batch(0, 1, truth=False)
    with torch.no_grad():
        first = net.decode(net(rows), rows)
        assert net.decode(net(rows), rows) == first
        turned = replace(rows, proposals=[p[::-1] for p in rows.proposals])
        for a, b in zip(net.decode(net(turned), turned), first, strict=True):
            np.testing.assert_allclose(times(a), times(b), atol=1e-5)
        alone = batch(1, truth=False, most=30)
        np.testing.assert_allclose(times(net.decode(net(alone), alone)[0]), times(first[1]), atol=1e-5)


def test_the_same_proposal_twice_is_one_and_only_the_best_are_judged():
    rows = batch(0, truth=False)
    twice = tuple(replace(s, label=name, score=s.score * share) for s in rows.proposals[0]
                  for name, share in (("jump", 1.0), ("run", 0.5)))
    outside = (Segment(-4, -1, None, 2.0), Segment(30, 40, None, 2.0), Segment(5, 5, None, 2.0))
    with torch.no_grad():
        plain = network()(rows)
        doubled = network()(replace(rows, proposals=[twice + outside]))
        few = network(replace(TINY, proposals=5))(rows)
    assert torch.equal(doubled["span"], plain["span"])
    torch.testing.assert_close(doubled["activity"], plain["activity"])
    assert torch.equal(few["span"], plain["span"][:5])


def test_proposals_without_scores_keep_their_order():
    rows = batch(0, truth=False)
    bare = tuple(replace(s, score=None) for s in rows.proposals[0])
    with torch.no_grad():
        out = network()(replace(rows, proposals=[bare]))
    assert out["span"].tolist() == [[s.start, s.end] for s in bare]
    assert out["score"].unique().tolist() == [1.0]


def test_bfloat16_autocast_trains():
    net, rows = network().train(), batch(0, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(rows)
    sum(net.loss(out, rows).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_extreme_answers_stay_segments():
    net, rows = network(), batch(0, truth=False)
    with torch.no_grad():
        out = net(rows)
    out["completeness"] *= 1e4
    out["regression"] *= 1e4
    found, = net.decode(out, rows)
    assert all(0 <= s.start < s.end <= rows.durations[0] and 0 <= s.score <= 1 for s in found)


# ------------------------------------------------------------------------------------------------- end to end


def test_it_trains_on_the_proposals_of_another_and_takes_it_along(tiny_world, tiny_features, tiny_localizer, tmp_path):
    write_truth(tmp_path / "truth.json", tiny_world.truth)
    proposer = replace(tiny_localizer, encoder=None,
                       features=tiny_localizer.features | {"precision": tiny_features.meta["precision"]})
    proposer.save(tmp_path / "gtad.safetensors")
    recipe = Recipe("pgcn", Data(str(tmp_path / "truth.json"), features=str(tiny_features.folder),
                                 proposals=str(tmp_path / "gtad.safetensors")), options={"hidden": 16})
    recipe = replace(recipe, optim=replace(recipe.optim, batch=3, steps=4, lr=1e-3))
    trained, result = train(recipe, tmp_path / "run")
    assert result.steps == 4
    assert trained.network.seen > 0 or trained.proposer is not None
    again = TrainedLocalizer.load(tmp_path / "run" / "localizer.safetensors")
    assert isinstance(again.network, PGCN)
    assert again.proposer is not None
    assert again.proposer.name == "gtad"
    assert again.proposer.network.config.positions == SMALL_GTAD["positions"]
    found = localize_features(tiny_features, again)
    assert set(found) == set(tiny_features)
    labels = set(labels_of(subset(tiny_world.truth, "training")))
    assert all(segments and {s.label for s in segments} <= labels for segments in found.values())

    given = again.proposer.predict({vid: tiny_features[vid] for vid in tiny_features})
    write_predictions(tmp_path / "proposals.json", given)
    by_file, _ = train(replace(recipe, data=replace(recipe.data, proposals=str(tmp_path / "proposals.json"))),
                       tmp_path / "by_file")
    assert by_file.proposer is None
    features = {vid: tiny_features[vid] for vid in tiny_features}
    assert by_file.predict(features, proposals=given) == again.predict(features)
    with pytest.raises(CallError, match="judges the proposals of another"):
        by_file.predict(features)


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(("changes", "message"), [
    ({"hidden": 0}, "'hidden' must be positive"), ({"dropout": 1.0}, "below 1"), ({"nms": 1.2}, "between 0 and 1"),
    ({"incomplete_tiou": 0.8}, "cannot exceed"), ({"contextual": 1, "surrounding": 1}, "as many together"),
    ({"context": -1.0}, "'context'"), ({"streams": (4, 0)}, "widths"), ({"stream_weights": (1.0, 2.0)}, "1 streams"),
    ({"streams": (4, 4), "stream_weights": (0.0, 0.0)}, "not all 0"), ({"incomplete": 0}, "'incomplete'")])
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(CallError, match=message):
        replace(TINY, **changes)


def test_what_does_not_fit_is_refused():
    with pytest.raises(CallError, match="given no class"):
        PGCN(TINY, 6, ())
    with pytest.raises(CallError, match=r"\[4, 4\] do not add up to features of width 6"):
        PGCN(Config(streams=(4, 4)), 6, CLASSES)
    with pytest.raises(ModelError, match="width 6, these have width 4"):
        network()(batch(0, dim=4))
    rows = batch(0)
    rows.proposals = None
    with pytest.raises(CallError, match=r"data\.proposals"):
        network()(rows)
    with pytest.raises(CallError, match="needs truth"):
        network().train()(batch(0, truth=False))
    with pytest.raises(DataError, match="0 rows"):
        network().views(Features(np.zeros((0, 6), np.float32), Grid(0, 1, 0, 1), 10.0))
    features = video(0)[0]
    assert network().views(features) == [features]
