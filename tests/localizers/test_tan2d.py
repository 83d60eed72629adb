"""2D-TAN: the released network's numbers, targets, answers to several sentences of a video, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cuemark.batch import Batch, Sentences
from cuemark.errors import CallError, DataError, ModelError
from cuemark.feature_folder import FeatureFolder
from cuemark.grid import Features, Grid
from cuemark.localizers import RELEASED, build
from cuemark.localizers.questions import Question, Row, collate, predict
from cuemark.localizers.tan2d import TAN2D, Config, released
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.metrics.grounding import grounding
from cuemark.nn.pairs import sparse_pairs
from cuemark.recipe import Recipe
from cuemark.segments import Segment, subset, times
from cuemark.settings import build as settings
from cuemark.training import LOCALIZER_FILE, train

RECORDED = json.loads((Path(__file__).parents[1] / "data/released_tan2d.json").read_text())
TINY = Config(clips=24, nodes=12, scales=(4, 3), hidden=6, kernel=3, layers=3, text_dim=3, text_width=5, text_layers=2)
SETTINGS = {"charades_pool": Config.charades(), "charades_conv": Config.charades("conv"),
            "activitynet_pool": Config.activitynet(), "activitynet_conv": Config.activitynet("conv"),
            "tacos_pool": Config.tacos(), "tacos_conv": Config.tacos("conv")}


def features(count: int, dim: int = 5, duration: float = 24.0, seed: int = 0) -> Features:
    data = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return Features(data, Grid.over(0.0, duration, count), duration)


def network(config: Config = TINY, dim: int = 5) -> TAN2D:
    torch.manual_seed(0)
    net = TAN2D(config, dim)
    for layer in net.map.layers:
        layer.weight.data *= config.kernel**2  # as trained ones: what reaches the end is not nearly nothing
    return net.eval()


def words(sentences) -> list[torch.Tensor]:
    """Three numbers a word, always the same for the same word."""
    return [torch.stack([torch.tensor([len(w) / 4, w.count("a") - 1.0, w.count("e") - 1.0]) for w in s.split()])
            for s in sentences]


def asked(rows: list[tuple[Features, list[str]]], truth: list[list[list[Segment]]] | None = None) -> Batch:
    """Videos, the sentences asked of each, and the moments that answer each sentence."""
    return collate([Row(f, None if truth is None else truth[i], [Question(s) for s in sentences])
                    for i, (f, sentences) in enumerate(rows)], words)


# ------------------------------------------------------------------------------------------- the released network


@pytest.mark.parametrize("key", SETTINGS)
def test_parameters_and_spans_are_as_many_as_the_releases(key):
    count, dim = RECORDED["parameters"][key]
    with torch.device("meta"):
        net = TAN2D(SETTINGS[key], dim)
    assert sum(p.numel() for p in net.parameters()) == count
    spans = {"charades": (136, 136), "activitynet": (1104, 2080), "tacos": (2548, 8256)}[key.split("_")[0]]
    nodes = SETTINGS[key].nodes
    assert (len(net.pairs), nodes * (nodes + 1) // 2) == spans


def weights(case) -> dict[str, torch.Tensor]:
    """What was in the released network: see "recipe" in the file."""
    rs, found = np.random.RandomState(case["seed"]), {}
    for name in sorted(case["names"]):
        shape = tuple(case["names"][name])
        x = rs.standard_normal(shape)
        x *= np.sqrt(1.5 * shape[0] / x.size) * np.prod(shape[2:] if len(shape) == 4 else 1) if len(shape) > 1 else 0.1
        found[name] = torch.from_numpy(x).float()
    return found


def recorded(key: str) -> tuple[TAN2D, Batch]:
    case = RECORDED["cases"][key]
    net = TAN2D(replace(SETTINGS[key], hidden=4, text_dim=3, text_width=6), 5).eval()
    net.load_state_dict(released({f"module.{k}": v for k, v in weights(case).items()}))
    rs = np.random.RandomState(100 + case["seed"])
    clips, vectors = (torch.from_numpy(rs.standard_normal(shape)).float() for shape in ((2, 256, 5), (3, 5, 3)))
    mask = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    batch = Batch(clips, torch.ones(2, 256, dtype=torch.bool), [Grid.over(0.0, d, 256) for d in (30.0, 47.5)],
                  [30.0, 47.5], [(Segment(3.0, 17.0),), (Segment(20.0, 47.5),), (Segment(0.0, 4.1),)],
                  torch.tensor([0, 1, 0]), Sentences(vectors * mask[..., None], mask))
    return net, batch


@pytest.mark.parametrize("key", RECORDED["cases"])
def test_the_network_its_loss_and_its_answers_are_the_released_ones(key):
    case, (net, batch) = RECORDED["cases"][key], recorded(key)
    with torch.no_grad():
        out = net(batch)
        loss = net.loss(out, batch)["iou"]
    order = np.lexsort(sparse_pairs(net.config.nodes, net.config.scales).T[::-1])  # the record goes row by row
    assert len(order) == case["spans"]
    torch.testing.assert_close(out["logits"][:, order][:, :: case["step"]], torch.tensor(case["logits"]),
                               atol=1e-5, rtol=1e-5)
    assert float(loss) == pytest.approx(case["loss"], abs=1e-5)
    for segments, expected in zip(net.decode(out, batch), case["top"], strict=True):
        np.testing.assert_allclose(times(net.select(segments)), expected, atol=1e-4)


def test_clips_are_averaged_as_released_but_for_the_last():
    for count, expected in RECORDED["averaged"].items():
        data = np.random.RandomState(int(count)).standard_normal((int(count), 2)).astype(np.float32)
        net = network(replace(TINY, clips=256, nodes=64, normalize=False), 2)
        view, = net.views(Features(data, Grid.over(0.0, 7.3, int(count)), 7.3))
        np.testing.assert_allclose(view.data[::5, 0][:51], expected, atol=1e-5)  # every 5th, but not the last
        assert (view.grid.start, view.grid.count, view.duration) == (0.0, 256, 7.3)
        last = min(round(255 * len(data) / 256), len(data) - 1)
        np.testing.assert_allclose(view.data[-1], data[last:].mean(axis=0), atol=1e-5)


def test_a_released_checkpoint_knows_what_reads_its_sentences(tiny_features, tmp_path):
    key = next(iter(RECORDED["cases"]))
    torch.save({"state_dict": weights(RECORDED["cases"][key])}, tmp_path / "released.pth")
    shutil.copytree(tiny_features.folder, tmp_path / "features")
    described = json.loads((tmp_path / "features/features.json").read_text()) | {"dim": 5}
    (tmp_path / "features/features.json").write_text(json.dumps(described))
    config = {**asdict(SETTINGS[key]), "hidden": 4, "text_dim": 3, "text_width": 6}
    made = TrainedLocalizer.released(tmp_path / "released.pth", "tan2d", config,
                                     FeatureFolder.open(tmp_path / "features"), text="glove.txt")
    made.save(tmp_path / "ours.safetensors")
    assert TrainedLocalizer.load(tmp_path / "ours.safetensors").text == "glove.txt"


def test_released_weights_that_do_not_fit_are_refused():
    state = weights(RECORDED["cases"]["activitynet_conv"])
    assert RELEASED["tan2d"] is released
    for name in state:
        if name.startswith("prop_layer") or "weight_hh_l2" in name or "convs.3" in name:
            continue  # a smaller network, which the settings refuse
        with pytest.raises(ModelError, match=r"^the checkpoint has"):
            released({k: v for k, v in state.items() if k != name})
    with pytest.raises(ModelError, match=r"'backbone\.weight'"):
        released({**state, "backbone.weight": torch.zeros(1)})


# ----------------------------------------------------------------------------------------------------- network


def plain(net: TAN2D, clips: torch.Tensor, sentence: torch.Tensor) -> dict[tuple[int, int], torch.Tensor]:
    """Logits of one video ``(T, C)`` and one sentence ``(W, E)``, span by span, as published."""
    c = net.config
    size = c.clips // c.nodes
    x = F.relu(F.linear(clips, net.frame.weight, net.frame.bias))
    nodes = [x[i: i + size].mean(dim=0) for i in range(0, len(x), size)]
    cells = [(a, b) for a, b in sparse_pairs(c.nodes, c.scales).tolist() if b < len(nodes)]
    spans = {}
    if net.pool is None:
        spans = {(a, b): torch.stack(nodes[a: b + 1]).amax(dim=0) for a, b in cells}
    else:
        steps, previous, offset = iter(net.pool.steps), 0, 0
        for scale, lengths in enumerate(c.scales):
            for i in range(lengths):
                step, stride = next(steps), 2**scale
                weight = step.weight
                for a in range(0, len(nodes) - offset, stride):
                    back = stride if i else stride // 2  # between the spans that this one is made of
                    parts = ([nodes[a]] if not offset else
                             [spans[a + k * back, a + k * back + previous] for k in range(weight.shape[2])])
                    spans[a, a + offset] = step.bias + sum(weight[:, :, k] @ part for k, part in enumerate(parts))
                previous, offset = offset, offset + stride
            offset += stride
    state = net.lstm(sentence[None])[0][0, -1]
    text = net.text(state)
    reach, edge = c.kernel // 2, c.layers * (c.kernel // 2)
    wide = c.nodes + 2 * edge
    found, there = torch.zeros(wide, wide, c.hidden), torch.zeros(wide, wide, dtype=torch.bool)
    for a, b in cells:
        fused = text * net.visual(spans[a, b])
        found[a + edge, b + edge] = fused / fused.norm()
        there[a + edge, b + edge] = True
    for layer in net.map.layers:
        new, known = torch.zeros_like(found), torch.zeros_like(there)
        for i in range(reach, wide - reach):
            for j in range(reach, wide - reach):
                window = there[i - reach: i + reach + 1, j - reach: j + reach + 1]
                if window.any():
                    patch = found[i - reach: i + reach + 1, j - reach: j + reach + 1]
                    new[i, j] = F.relu(torch.einsum("ijc,ocij->o", patch, layer.weight) + layer.bias) / window.sum()
                    known[i, j] = True
        found, there = new, known
    return {(a, b): net.score(found[a + edge, b + edge])[0] for a, b in cells}


@pytest.mark.parametrize("pooling", ["max", "conv"])
def test_the_network_is_the_published_one_span_by_span(pooling):
    net = network(replace(TINY, pooling=pooling))
    rows = [(features(24), ["a red star", "the end"]), (features(24, seed=1), []), (features(13, seed=2), ["x"])]
    batch = asked(rows)
    with torch.no_grad():
        out = net(batch)
        assert out["logits"].shape == (3, len(net.pairs))
        assert out["map"].shape == (3, 12, 12)
        for q, (row, sentence) in enumerate([(0, "a red star"), (0, "the end"), (2, "x")]):
            expected = plain(net, torch.from_numpy(rows[row][0].data), words([sentence])[0])
            assert len(expected) == len(net.pairs) if row == 0 else 0 < len(expected) < len(net.pairs)
            full = torch.zeros(12, 12)
            for p, cell in enumerate(map(tuple, net.pairs.tolist())):
                if cell in expected:
                    torch.testing.assert_close(out["logits"][q, p], expected[cell], atol=1e-5, rtol=1e-5)
                    full[cell] = expected[cell].sigmoid()
            torch.testing.assert_close(out["map"][q], full, atol=1e-5, rtol=1e-5)
    assert out["logits"].std(dim=1).min() > 1e-3


def test_sentences_of_one_video_share_its_map_and_change_nothing_for_each_other(monkeypatch):
    net = network()
    sentences = ["a red star", "the end", "a", "a red star"]
    seen, spans = [], net._spans
    monkeypatch.setattr(net, "_spans", lambda f, m: seen.append(len(f)) or spans(f, m))
    with torch.no_grad():
        together = net(asked([(features(24), sentences), (features(24, seed=1), ["b"])]))["logits"]
        assert seen == [2]
        for q, sentence in enumerate(sentences):
            torch.testing.assert_close(net(asked([(features(24), [sentence])]))["logits"][0], together[q])
    assert torch.equal(together[0], together[3])
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_it_reads_no_padding():
    net = network()
    batch = asked([(features(17), ["a red star moves away"]), (features(24, seed=1), ["the end"])],
                  [[[Segment(0, 5)]], [[Segment(3, 9)]]])
    with torch.no_grad():
        out, loss = net(batch), net.loss(net(batch), batch)["iou"]
        batch.features = batch.features.masked_fill(~batch.mask[..., None], 7.0)
        batch.sentences.words = batch.sentences.words.masked_fill(~batch.sentences.mask[..., None], 7.0)
        again = net(batch)
        there = out["map"] > 0
        assert torch.equal(again["map"] > 0, there)
        torch.testing.assert_close(again["map"], out["map"])
        torch.testing.assert_close(net.loss(again, batch)["iou"], loss)


def test_bfloat16_autocast_trains():
    net = network().train()
    batch = asked([(features(24), ["a red star"])], [[[Segment(4, 12)]]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(batch)
    net.loss(out, batch)["iou"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with torch.no_grad():
        torch.testing.assert_close(out["map"], net(batch)["map"], atol=0.05, rtol=0)


def test_only_weights_are_in_the_checkpoint():
    assert set(network().state_dict()) == {name for name, _ in network().named_parameters()}


# ------------------------------------------------------------------------------------------------------- views


def test_rows_have_length_one_and_are_averaged_over_their_time():
    data = np.arange(1, 31, dtype=np.float32)[:, None] * np.array([[3.0, 4.0]], np.float32)
    view, = network(dim=2).views(Features(data, Grid.over(0.0, 30.0, 30), 30.0))
    np.testing.assert_allclose(view.data, np.tile([[0.6, 0.8]], (24, 1)), rtol=1e-5)
    # rows from 2 s on, of a video of 12 s: before and after them the nearest is taken
    late = Features(np.arange(4, dtype=np.float32)[:, None] + 1, Grid(2.0, 2.0, 4, 2.0), 12.0)
    view, = network(replace(TINY, normalize=False), 1).views(late)
    assert view.data[:, 0].tolist() == [1.0] * 7 + [2.0] * 3 + [3.0] * 5 + [4.0] * 9  # edges at the nearest row's
    assert (view.grid.start, view.grid.end) == (0.0, pytest.approx(12.0))


def test_rows_can_be_standardised_over_training_and_padding_does_not_count():
    net = network(replace(TINY, normalize=False, standardize=True)).train()
    batch = asked([(features(24, seed=1), ["a"]), (features(12, duration=12.0, seed=2), ["b"])], [[[]], [[]]])
    batch.features = batch.features * 3 + 7  # the padding too
    for _ in range(200):  # the running mean gets there by tenths
        net(batch)
    real = batch.features[batch.mask]
    torch.testing.assert_close(net.standard.running_mean, real.mean(dim=0))
    torch.testing.assert_close(net.standard.running_var, real.var(dim=0))
    plain_net = network(replace(TINY, normalize=False))
    plain_net.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("standard")})
    scaled = replace(batch, features=(batch.features - real.mean(dim=0)) / (real.var(dim=0) + 1e-5).sqrt())
    torch.testing.assert_close(net.eval()(batch)["logits"], plain_net.eval()(scaled)["logits"], atol=1e-5, rtol=1e-4)


def test_one_row_alone_has_no_deviation_and_is_trained_on_as_it_is():
    net = network(replace(TINY, normalize=False, standardize=True, span="windows")).train()
    batch = asked([(features(1), ["a"])], [[[Segment(0.0, 24.0)]]])
    before = net.standard.running_mean.clone()
    assert math.isfinite(net.loss(net(batch), batch)["iou"].item())
    torch.testing.assert_close(net.standard.running_mean, before)


def test_a_row_of_zeros_stays_finite():
    view, = network().views(Features(np.zeros((9, 5), np.float32), Grid.over(0, 9, 9), 9.0))
    assert np.isfinite(view.data).all()


def test_long_videos_can_be_seen_in_windows():
    net = network(replace(TINY, span="windows"))
    views = net.views(Features(features(50).data, Grid(1.0, 0.5, 50, 1.0), 100.0))
    assert [(v.grid.start, v.grid.count) for v in views] == [(1.0, 24), (7.0, 24), (13.0, 24), (19.0, 14)]
    np.testing.assert_allclose(np.linalg.norm(views[3].data, axis=1), 1.0, rtol=1e-5)
    found = predict(net, {"v": Features(features(50).data, Grid(1.0, 0.5, 50, 1.0), 26.0)},
                    questions={"v": [Question("a red star"), Question("the end")]}, words=words)["v"]
    assert [s.query for s in found].count("the end") == 5
    assert all(1.0 <= s.start < s.end <= 26.0 for s in found)


def test_features_without_rows_are_refused():
    with pytest.raises(DataError, match="0 rows"):
        network().views(Features(np.zeros((0, 5), np.float32), Grid(0.0, 1.0, 0, 1.0), 9.0))


# ----------------------------------------------------------------------------------------------- targets and loss


@pytest.mark.parametrize(("low", "high", "bias"), [(0.5, 1.0, 0.0), (0.3, 0.7, 0.0), (0.2, 0.8, 0.25)])
def test_targets_are_scaled_overlaps_with_the_best_moment(low, high, bias):
    net = network(replace(TINY, min_iou=low, max_iou=high, bias=bias))
    truth = [[[Segment(2.0, 9.0), Segment(15.0, 24.0)], [Segment(-3.0, 4.0)], [Segment(5.0, 5.0)], []],
             [[Segment(10.0, 99.0)]]]
    batch = asked([(features(24), list("abcd")), (features(17, duration=34.0), ["e"])], truth)
    found = net.targets(batch)
    assert found.shape == (5, len(net.pairs))
    moments = [[(2, 9), (15, 24)], [(0, 4)], [], [], [(5, 17)]]  # in clips
    for q, spans in enumerate(moments):
        length = 17 if q == 4 else 24
        for p, (a, b) in enumerate(net.pairs.tolist()):
            if b * 2 >= length:
                continue
            start, end, best = a * 2, min(b * 2 + 2, length), 0.0
            for s, e in spans:
                inside = max(0, min(e, end) - max(s, start))
                best = max(best, inside / (e - s + end - start - inside))
            y = (best - low) * (1 - bias) / (high - low)
            y = min(y + bias, 1.0) if y > 0 else 0.0
            assert float(found[q, p]) == pytest.approx(y, abs=1e-6)
    assert (found.max(dim=1).values > 0).tolist() == [True, True, False, False, True]


def test_the_loss_is_the_mean_over_the_spans_that_exist_of_all_questions():
    net = network()
    batch = asked([(features(24), ["a red star", "e"]), (features(9), ["e"])],
                  [[[Segment(2, 9)], []], [[Segment(0, 24)]]])
    with torch.no_grad():
        out, target = net(batch), net.targets(batch)
    total = count = 0.0
    for q, length in enumerate((24, 24, 9)):
        for p, (_, b) in enumerate(net.pairs.tolist()):
            if b * 2 < length:
                prob, y = out["logits"][q, p].double().sigmoid(), float(target[q, p])
                total -= float(y * prob.log() + (1 - y) * (1 - prob).log())
                count += 1
    assert float(net.loss(out, batch)["iou"]) == pytest.approx(total / count, rel=1e-5)


def test_it_needs_questions_and_their_truth():
    net, batch = network(), asked([(features(24), ["a"])])
    with pytest.raises(CallError, match="a loss needs truth"):
        net.loss(net(batch), batch)
    batch.truth = [(), ()]
    with pytest.raises(CallError, match="each question"):
        net.loss(net(batch), batch)
    with pytest.raises(CallError, match="asks none"):
        net(Batch.collate([features(24)]))


def test_words_and_features_of_another_width_are_refused():
    net, batch = network(), asked([(features(24), ["a"])])
    batch.sentences = Sentences.collate([torch.zeros(2, 7)])
    with pytest.raises(ModelError, match="words of width 3, these have width 7"):
        net(batch)
    with pytest.raises(ModelError, match="features of width 5, these have width 6"):
        net(asked([(features(24, 6), ["a"])]))
    with pytest.raises(ModelError, match="24 positions at once, got 25"):
        net(asked([(features(25), ["a"])]))


def test_a_sentence_without_words_is_answered():
    batch = asked([(features(24), ["a"])])
    batch.sentences = Sentences(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool))
    assert network()(batch)["logits"].isfinite().all()


# ----------------------------------------------------------------------------------------------------- answers


def test_candidates_are_all_spans_in_seconds_best_first():
    net = network()
    batch = asked([(features(24, duration=48.0), ["a red star"]), (features(13, duration=26.0), ["the end", "x"])])
    with torch.no_grad():
        out = net(batch)
    found = net.decode(out, batch)
    assert len(found) == 3
    for q, (segments, nodes, end) in enumerate(zip(found, (12, 7, 7), (48.0, 26.0, 26.0), strict=True)):
        expected = {(4.0 * a, min(4.0 * (b + 1), end)): float(out["map"][q, a, b])
                    for a, b in net.pairs.tolist() if b < nodes}
        assert len(segments) == len(expected)
        assert all(expected[s.start, s.end] == pytest.approx(s.score, abs=1e-6) for s in segments)
        scores = [s.score for s in segments]
        assert scores == sorted(scores, reverse=True)


def test_the_answer_overlaps_itself_little():
    net = network(replace(TINY, nms=0.5, keep=3))
    candidates = [Segment(0, 10, score=0.9), Segment(0, 8, score=0.8), Segment(0, 5, score=0.7),
                  Segment(20, 30, score=0.6), Segment(40, 50, score=0.5)]
    assert [s.start for s in net.select(candidates)] == [0.0, 0.0, 20.0]  # a tIoU of exactly 0.5 stays
    assert net.select([]) == []


# ---------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(("changes", "said"), [
    ({"span": "clips"}, "clips"), ({"pooling": "mean"}, "mean"), ({"hidden": 0}, "'hidden' must be positive"),
    ({"nodes": 60}, "must divide 'clips'"), ({"kernel": 4}, "'kernel' must be odd"), ({"scales": ()}, "'scales'"),
    ({"scales": (16, 0)}, "'scales'"), ({"scales": (16, 8, 9)}, "up to 68 nodes, but there are 64"),
    ({"min_iou": 0.8, "max_iou": 0.5}, "'min_iou' < 'max_iou'"), ({"bias": 2.0}, "'bias'"), ({"nms": 1.5}, "'nms'")])
def test_impossible_settings_are_refused(changes, said):
    with pytest.raises(CallError, match=said):
        replace(Config(), **changes)


@pytest.mark.parametrize("config", [*SETTINGS.values(), TINY], ids=[*SETTINGS, "tiny"])
def test_the_longest_span_is_known(config):
    assert config.longest == np.ptp(sparse_pairs(config.nodes, config.scales), axis=1).max()


def test_variants_are_the_releases():
    assert [(c.nms, c.min_iou, c.max_iou, c.keep) for c in SETTINGS.values()] == [
        (0.45, 0.5, 1.0, 5), (0.5, 0.5, 1.0, 5), (0.5, 0.5, 1.0, 5), (0.5, 0.5, 1.0, 5), (0.4, 0.3, 0.7, 5),
        (0.5, 0.3, 0.7, 5)]
    net = build("tan2d", {"variant": "charades", "hidden": 8, "text_width": 8}, 4, ["a class"])
    assert net.config == replace(Config.charades(), hidden=8, text_width=8)
    assert net.classes == ()


# ------------------------------------------------------------------------------------------------ from end to end


def test_it_is_trained_saved_and_asked(tiny_world, tiny_features, tiny_text, tmp_path):
    recipe = settings(Recipe, {
        "system": "tan2d", "validate_every": 8,
        "data": {"truth": str(tiny_world.folder / "truth.json"), "features": str(tiny_features.folder)},
        "encoder": {"text": str(tiny_text)},
        "options": {"clips": 32, "nodes": 16, "scales": [8, 4], "hidden": 16, "kernel": 3, "layers": 2,
                    "text_width": 16, "text_layers": 1, "min_iou": 0.2},
        "optim": {"name": "adam", "lr": 5e-3, "weight_decay": 0.0, "batch": 8, "steps": 16}}, "recipe")
    trained, result = train(recipe, tmp_path)
    assert isinstance(trained.network, TAN2D)
    assert trained.network.config.text_dim == 24  # what reads its sentences says so
    assert 0 < result.best["score"] <= 1

    loaded = TrainedLocalizer.load(tmp_path / LOCALIZER_FILE)
    vid, video = next(iter(subset(tiny_world.truth, "validation").items()))
    sentences = [*(s.sentence for s in video.annotations[:2]), "a red star"]
    questions = {vid: [Question(s) for s in sentences]}
    found = loaded.predict({vid: tiny_features[vid]}, questions)[vid]
    assert list(dict.fromkeys(s.query for s in found)) == list(dict.fromkeys(sentences))
    assert all(0 <= s.start < s.end <= video.duration and 0 <= s.score <= 1 for s in found)
    assert found == trained.predict({vid: tiny_features[vid]}, questions)[vid]

    truth = subset(tiny_world.truth, "validation")
    everything = loaded.predict({v: tiny_features[v] for v in truth}, {
        v: [Question(s.sentence) for s in one.annotations] for v, one in truth.items()})
    assert grounding(truth, everything, tious=(0.5, 0.7)).miou == pytest.approx(result.best["score"], abs=1e-6)
