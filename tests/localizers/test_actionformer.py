"""ActionFormer: sizes, windows, targets, losses, decoding, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cuemark.batch import Batch
from cuemark.errors import CallError, DataError, ModelError
from cuemark.grid import Features, Grid
from cuemark.localizers import build
from cuemark.localizers.actionformer import ActionFormer, Config
from cuemark.localizers.questions import predict
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.nn.points import distance_iou_loss, focal_loss, level_sizes, pyramid_points
from cuemark.nn.spans import Window
from cuemark.recipe import load_recipe
from cuemark.segments import Segment, tiou
from cuemark.settings import build as settings
from cuemark.training import LOCALIZER_FILE, train

TINY = Config(positions=32, width=8, heads=2, stem=1, attention=(3, 3, 0), ranges=((0, 4), (4, 8), (8, 1000)),
              drop_path=0.0, positives=5.0)
CLASSES = ("jump", "run", "swim")


def features(count: int, dim: int = 8, step: float = 2.0, seed: int = 0) -> Features:
    data = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return Features(data, Grid.over(0.0, count * step, count), count * step)


def network(config: Config = TINY, classes=CLASSES, dim: int = 8) -> ActionFormer:
    torch.manual_seed(0)
    return ActionFormer(config, dim, classes).eval()


# ----------------------------------------------------------------------------------------------------- network


def test_the_networks_size_is_what_the_paper_draws():
    """THUMOS14: 2 convolutions, 2 + 5 blocks, 6 norms, 2 heads, 6 scales; the keys' bias is left out."""
    width, dim, classes = 512, 2048, 20
    norm = 2 * width
    stack = 3 * width * width + norm
    block = (3 * (3 * width + norm) + 2 * norm + 4 * width * width + 3 * width
             + 2 * 4 * width * width + 5 * width + 2 * width)
    expected = (3 * dim * width + norm + stack + 7 * block + 6 * norm + 4 * stack
                + 3 * width * classes + classes + 3 * width * 2 + 2 + 6)
    with torch.device("meta"):
        net = ActionFormer(Config(), dim, [str(i) for i in range(classes)])
    assert sum(p.numel() for p in net.parameters()) == expected


def test_named_tensors_and_their_shapes():
    out = network()(Batch.collate([features(27), features(7)]))
    points = 27 + 14 + 7
    assert {k: tuple(v.shape) for k, v in out.items()} == {"class": (2, points, 3), "offset": (2, points, 2)}
    assert (out["offset"] >= 0).all()


def test_before_training_every_class_is_as_unlikely_as_the_prior():
    net = network()
    torch.nn.init.zeros_(net.score.weight)
    assert net(Batch.collate([features(9)]))["class"].sigmoid().allclose(torch.tensor(0.01))


def test_positions_are_told_only_where_asked():
    """Constant features, global attention: without positions all points far from the edges say the same."""
    data = Features(np.ones((32, 8), np.float32), Grid.over(0, 32, 32), 32.0)
    for told in (False, True):
        net = network(replace(TINY, attention=(0,), ranges=((0, 1000),), encode_positions=told))
        middle = net(Batch.collate([data]))["class"][0, 10:20]
        assert middle.allclose(middle[:1].expand(10, -1), atol=1e-6) == (not told)


def test_bfloat16_autocast_trains():
    net = network().train()
    batch = Batch.collate([features(32)], [[Segment(4, 12, "run"), Segment(14, 60, "swim"), Segment(20, 34, "jump")]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(batch)
        losses = net.loss(out, batch)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


# ------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("count", [1, 32, 33, 48, 49, 100])
def test_windows_overlap_by_half_and_every_row_is_asked_once(count):
    whole = Features(np.arange(count * 8, dtype=np.float32).reshape(count, 8), Grid(3.0, 0.5, count, 1.0), 100.0)
    views = network().views(whole)
    if count <= 32:
        assert views == [whole]
        return
    asked = []
    for view in views:
        grid = view.grid
        assert isinstance(grid, Window)
        first = round(grid.position(3.0) * -1)
        assert (first % 16, grid.count <= 32, grid.step, grid.window, view.duration) == (0, True, 0.5, 1.0, 100.0)
        np.testing.assert_array_equal(view.data, whole.data[first:first + grid.count])
        asked += range(first + grid.first, first + grid.stop)
        assert grid.first == 0 or grid.first >= 8  # a quarter of a window away from every cut
        assert grid.stop == grid.count or grid.count - grid.stop >= 8
    assert asked == list(range(count))


def test_a_whole_video_is_resampled_from_its_start_to_its_end():
    view, = network(replace(TINY, span="video")).views(features(50))
    assert (view.grid.start, view.grid.end, view.grid.count) == (0.0, pytest.approx(100.0), 32)


def test_windows_find_what_the_whole_video_would_without_seams():
    """With a reach below a quarter of a window, no answer knows that its video was cut."""
    config = replace(TINY, positions=128, attention=(3,), ranges=((0, 1000),), threshold=0.0, candidates=10000)
    net, whole = network(replace(config, positions=512)), features(400)
    cut = network(config)
    cut.load_state_dict(net.state_dict())
    answers = []
    for model in (net, cut):
        views = model.views(whole)
        rows = Batch.collate(views)
        found = [s for row in model.decode(model(rows), rows) for s in row]
        answers.append(sorted((s.start, s.end, s.label, s.score) for s in found))
    assert len(cut.views(whole)) > 1
    assert len(answers[0]) == len(answers[1]) > 1000
    assert [a[2] for a in answers[0]] == [a[2] for a in answers[1]]
    np.testing.assert_allclose([(a[0], a[1], a[3]) for a in answers[0]], [(a[0], a[1], a[3]) for a in answers[1]],
                               rtol=1e-5, atol=1e-5)


def test_empty_features_are_refused():
    with pytest.raises(DataError, match="0 rows"):
        network().views(Features(np.zeros((0, 8), np.float32), Grid(0, 1, 0, 1), 10.0))


# ----------------------------------------------------------------------------------------------------- targets


def test_targets_speak_of_the_truth_in_seconds():
    """2 s per row: [4, 12] s is rows 2 to 6, from the centre of row 1.5 to that of row 5.5."""
    batch = Batch.collate([features(12)], [[Segment(4.0, 12.0, "run"), Segment(18.0, 24.0, "unheard of")]])
    target = network().targets(batch)
    at = pyramid_points(12, TINY.ranges).position
    assert at[target.positive[0]].tolist() == [3, 4]  # of level 0: inside, within 1.5 of 3.5
    assert target.classes[0].sum(0).tolist() == [0, 2, 0]
    assert target.offsets[0, 3].tolist() == [1.5, 2.5]


def test_without_names_all_truth_is_one_class():
    net = network(replace(TINY, names="none"))
    batch = Batch.collate([features(12)], [[Segment(4.0, 12.0, "run"), Segment(14.0, 22.0)]])
    target = net.targets(batch)
    assert target.classes.shape[2] == 1
    assert target.positive[0, [3, 8]].all()
    out = net(batch)
    assert out["class"].shape[2] == 1
    assert {s.label for s in net.select(net.decode(out, batch)[0])} == {None}
    assert network(classes=())(batch)["class"].shape[2] == 1


def test_truth_is_cut_where_a_window_was_cut_and_left_out_below_half():
    whole = features(80, step=1.0)
    first, *_, last = network().views(whole)
    truth = [Segment(-5, 6, "run"), Segment(28, 35, "swim"), Segment(29, 40, "jump"), Segment(74, 90, "run")]
    target = network().targets(Batch.collate([first, last], [truth, truth]))
    assert first.grid.stop < first.grid.count
    assert target.classes[0].sum(0).bool().tolist() == [False, True, True]  # [29, 32] is less than half of [29, 40]
    swim = target.offsets[0, :32][target.classes[0, :32, 2] > 0]
    assert swim.sum(dim=1).tolist() == [4.0] * len(swim)  # 28 to 32
    run = target.offsets[1][target.classes[1, :, 1] > 0]
    assert len(run)  # truth beyond the end of the features is as it was written
    strides = pyramid_points(32, TINY.ranges).stride[target.classes[1, :, 1] > 0]
    assert (run.sum(dim=1) * strides).tolist() == [16.0] * len(run)


def test_padded_points_are_never_positive():
    target = network().targets(Batch.collate([features(30), features(5)], [[], [Segment(0, 60, "run")]]))
    real = torch.cat([torch.arange(size) * 2**level < 5 for level, size in enumerate(level_sizes(30, 3))])
    assert not target.positive[1, ~real].any()
    assert not target.classes[1, ~real].any()


# ------------------------------------------------------------------------------------------------------- losses


def test_loss_is_its_definition():
    config = replace(TINY, smoothing=0.1, regression_weight=2.0)
    net = network(config).train()
    truth = [[Segment(4.0, 12.0, "run"), Segment(14.0, 50.0, "swim")], [Segment(2.0, 9.0, "jump")]]
    batch = Batch.collate([features(32), features(11, seed=1)], truth)
    out, target = net(batch), net.targets(batch)
    focal, apart, count = 0.0, 0.0, 0
    for row, length in enumerate((32, 11)):
        points = pyramid_points(32, TINY.ranges)
        for i, at in enumerate(points.position.tolist()):
            if at >= length:
                continue
            for k in range(3):
                soft = target.classes[row, i, k] * 0.9 + 0.1 / 4
                focal += focal_loss(out["class"][row, i, k], soft).item()
            if target.positive[row, i]:
                count += 1
                apart += distance_iou_loss(out["offset"][row, i], target.offsets[row, i]).item()
    average = 0.9 * 5 + 0.1 * count
    assert count > 3
    losses = net.loss(out, batch)
    assert losses["class"].item() == pytest.approx(focal / average, rel=1e-4)
    assert losses["regression"].item() == pytest.approx(2 * apart / average, rel=1e-4)
    assert net.positives.item() == pytest.approx(average)


def test_the_average_number_of_positives_moves_in_training_and_is_saved():
    net = network()
    batch = Batch.collate([features(12)], [[Segment(4.0, 12.0, "run")]])
    out = net(batch)
    assert net.loss(out, batch) == net.loss(out, batch)
    assert net.positives == 5
    net.train()
    for _ in range(3):
        net.loss(out, batch)
    assert net.positives.item() == pytest.approx(5 * 0.9**3 + 2 * (1 - 0.9**3))
    again = network()
    again.load_state_dict(net.state_dict())
    assert again.positives == net.positives
    batch.truth = [()]
    for _ in range(200):  # of nothing there is one: it never comes near 0
        net.loss(out, batch)
    assert net.positives.item() == pytest.approx(1.0)


def test_two_losses_can_go_back_together():
    net = network().train()
    batch = Batch.collate([features(12)], [[Segment(4.0, 12.0, "run")]])
    first, second = net.loss(net(batch), batch), net.loss(net(batch), batch)
    (sum(first.values()) + sum(second.values())).backward()
    assert net.score.weight.grad.isfinite().all()


def test_a_loss_needs_truth():
    net = network()
    batch = Batch.collate([features(12)])
    with pytest.raises(CallError, match="needs truth"):
        net.loss(net(batch), batch)


# ------------------------------------------------------------------------------------------------------ decoding


@pytest.mark.parametrize("candidates", [3, 1000])
def test_decode_is_its_description(candidates):
    net = network(replace(TINY, candidates=candidates, threshold=0.3, shortest=1.0))
    batch = Batch.collate([features(12), features(7)])
    batch.durations = [21.0, 14.0]
    draw = torch.Generator().manual_seed(0)
    points = pyramid_points(12, TINY.ranges)
    count = len(points.position)
    out = {"class": torch.randn(2, count, 3, generator=draw), "offset": torch.rand(2, count, 2, generator=draw) * 2}
    for row, found in enumerate(net.decode(out, batch)):
        expected = []
        first = 0
        for level, size in enumerate(level_sizes(12, 3)):
            here = []
            for i in range(first, first + size):
                at = (i - first) * 2**level
                if at >= (12, 7)[row]:
                    continue
                left, right = (out["offset"][row, i].double() * 2**level).tolist()
                a, b = 2 * (at + 0.5 - left), 2 * (at + 0.5 + right)
                for k, logit in enumerate(out["class"][row, i].tolist()):
                    here.append((1 / (1 + math.exp(-logit)), a, b, CLASSES[k]))
            expected += sorted(here, reverse=True)[:candidates]
            first += size
        end = batch.durations[row]
        expected = [(s, max(a, 0), min(b, end), k) for s, a, b, k in expected if s > 0.3 and b - a > 2]
        expected = sorted((e for e in expected if e[1] < e[2]), reverse=True)
        assert len(found) == len(expected) > 2
        for segment, (score, a, b, label) in zip(found, expected, strict=True):
            assert (segment.score, segment.start, segment.end) == (
                pytest.approx(score, rel=1e-5), pytest.approx(a, abs=1e-5), pytest.approx(b, abs=1e-5))
            assert segment.label == label


def test_a_window_answers_for_its_own_cells_only():
    net = network(replace(TINY, threshold=0.0, shortest=0.0))
    view = features(32)
    view = Features(view.data, Window(100.0, 2.0, 32, 2.0, 8, 24), 1000.0)
    rows = Batch.collate([view])
    out = net(rows)
    out["offset"] = torch.full_like(out["offset"], 0.25)
    middles = {round((s.middle - 100) / 2 - 0.5, 3) for s in net.decode(out, rows)[0]}
    assert middles == set(range(8, 24))


def test_select_is_soft_nms_per_class_then_voting():
    net = network(replace(TINY, keep=4, sigma=0.5, threshold=0.05))
    candidates = [Segment(0, 10, "run", 0.9), Segment(0, 10, "jump", 0.8), Segment(0, 9, "run", 0.7),
                  Segment(20, 30, "run", 0.3), Segment(20, 30, "jump", 0.04)]
    found = net.select(candidates)
    overlap = tiou(np.array([[0, 10]]), np.array([[0, 9]]))[0, 0]
    assert [(s.start, s.end, s.label) for s in found] == [
        (0, 10, "run"), (0, 10, "jump"), (20, 30, "run"), (0, 9, "run")]
    assert [s.score for s in found] == pytest.approx([0.9, 0.8, 0.3, 0.7 * math.exp(-overlap**2 / 0.5)])
    voted = network(replace(net.config, voting=0.85)).select(candidates)
    mean = (0.9 * 10 + 0.7 * 0.9 * 9) / (0.9 + 0.7 * 0.9)
    assert [(s.start, s.label) for s in voted] == [(s.start, s.label) for s in found]
    assert [s.score for s in voted] == [s.score for s in found]
    assert voted[0].end == pytest.approx(mean)
    assert voted[1].end == 10  # of another class
    assert net.select([]) == []


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(("changes", "message"), [
    ({"span": "vide"}, "did you mean 'video'"), ({"names": "nne"}, "did you mean 'none'"),
    ({"positions": 36}, "multiple of 8"), ({"positions": 0}, "must be positive"), ({"heads": 3}, "must divide"),
    ({"attention": (3, 3)}, "one value per level"), ({"attention": (3, 4, 0)}, "odd"), ({"sigma": 0.0}, "positive"),
    ({"ranges": ((0, 4), (8, 4), (8, 9))}, "smaller to a larger"), ({"voting": 1.0}, r"\[0, 1\)"),
    ({"drop_path": math.nan}, r"\[0, 1\)"), ({"prior": 0.0}, "prior"), ({"shortest": -1.0}, "negative")])
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(CallError, match=message):
        replace(TINY, **changes)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="width 8, these have width 4"):
        network()(Batch.collate([features(12, dim=4)]))
    with pytest.raises(ModelError, match="views"):
        network()(Batch.collate([features(33)]))


def test_build_by_name():
    options = {"positions": 32, "width": 8, "heads": 2, "stem": 1, "attention": [3, 3, 0], "drop_path": 0.0,
               "ranges": [[0, 4], [4, 8], [8, 1000]], "positives": 5.0}
    net = build("actionformer", options, 8, CLASSES)
    assert net.config == TINY
    with pytest.raises(DataError, match="ranges"):
        build("actionformer", {"ranges": [[0, 4, 8]]}, 8, CLASSES)


@pytest.mark.parametrize(("name", "config"), [("thumos14", Config()), ("activitynet", Config.activitynet())])
def test_the_recipes_have_the_settings_of_the_release(name, config):
    recipe = load_recipe(f"{name}_actionformer")
    assert settings(Config, recipe.options, "recipe") == config
    optim = recipe.optim
    assert (optim.name, optim.weight_decay, optim.clip_norm, optim.ema) == ("adamw", 0.05, 1.0, 0.999)
    assert optim.warmup * optim.epochs == pytest.approx(5)
    assert (optim.lr, optim.batch, optim.epochs) == ((1e-4, 2, 35) if name == "thumos14" else (1e-3, 16, 15))


def test_every_side_of_every_point_can_be_learned_from_the_start():
    """A ReLU that is 0 at all points of a side lets no gradient through."""
    for seed in range(5):
        torch.manual_seed(seed)
        net = ActionFormer(replace(TINY, width=64), 8, CLASSES).eval()
        rows = Batch.collate([Features(f.data * 0.1 + 2.0, f.grid, f.duration) for f in (features(32), features(9))])
        offset = net(rows)["offset"][net._real(rows)]
        assert (offset > 0).float().mean(dim=0).min() > 0.9


# ------------------------------------------------------------------------------------------------ a whole training


def test_a_run_that_was_stopped_ends_like_one_that_was_not(tiny_world, tiny_features, tmp_path, monkeypatch):
    """The average of the weights and that of the number of positives go on too."""
    changes = {"data.truth": str(tiny_world.folder / "truth.json"), "data.features": str(tiny_features.folder),
               "options.width": 16, "options.stem": 1, "optim.steps": 5, "optim.batch": 2, "checkpoint_every": 2,
               "validate_every": 5}
    recipe = load_recipe("world_actionformer", [f"{k}={json.dumps(v)}" for k, v in changes.items()])
    whole, result = train(recipe, tmp_path / "whole")
    assert whole.network.positives != recipe.options.get("positives", Config().positives)
    assert result.skipped == 0

    loss, calls = ActionFormer.loss, []

    def stopping(self, out, batch):
        calls.append(1)
        if len(calls) == 4:
            raise InterruptedError
        return loss(self, out, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ActionFormer, "loss", stopping)
        with pytest.raises(InterruptedError):
            train(recipe, tmp_path / "stopped")
    again, _ = train(recipe, tmp_path / "stopped")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name

    loaded = TrainedLocalizer.load(tmp_path / "whole" / LOCALIZER_FILE)
    assert loaded.network.config == whole.network.config
    one = dict(list(tiny_features.items())[:2])
    found = predict(loaded.network, one)
    assert found == predict(whole.network, one)
    assert any(found.values())
