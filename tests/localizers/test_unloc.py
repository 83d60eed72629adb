"""UnLoc against its equations once more, slowly: one pair, one position, one tap at a time."""

from __future__ import annotations

import copy
import itertools
import math
import re
import shlex
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cuemark.batch import Batch, Sentences
from cuemark.encoders import clip, t5
from cuemark.errors import CallError, ModelError
from cuemark.grid import Features, Grid
from cuemark.localizers import build, unloc
from cuemark.localizers.questions import Question, Row, collate, predict
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.localizers.unloc import Config, UnLoc
from cuemark.nn.points import pyramid_points
from cuemark.nn.spans import Window
from cuemark.recipe import header, load_recipe, shipped
from cuemark.segments import Segment, times, tiou

DIM, WORD, FRAMES = 6, 4, 16
CLASSES = ("a", "b")
SMALL = {"frames": FRAMES, "width": 16, "heads": 2, "layers": 3, "text_dim": WORD, "head_layers": 2, "chunk": 3,
         "ranges": [[0, 4], [4, 8], [8, 1000]], "recompute": False}
FLAT = {"pyramid": "none", "ranges": [[0, 1000]]}
FRAMEWISE = {"pyramid": "none", "head_layers": 1, "class_bias": -1.0}
SETTINGS = {
    "vitdet": {}, "centred": {"centred": True}, "fpn": {"pyramid": "fpn"}, "none": FLAT, "all": {"tokens": "all"},
    "unshared": {"shared_heads": False}, "unshared fpn": {"shared_heads": False, "pyramid": "fpn", "tokens": "all"},
    "one box": {"per_class": False}, "late": {"fusion": "late"}, "classes": {"fusion": "none"},
    "first": {"pooling": "first"}, "late first": {"pooling": "first", "fusion": "late", "tokens": "all"},
    "mean": {"pooling": "mean"}, "late mean": {"pooling": "mean", "fusion": "late", "tokens": "all"},
    "classes one box": {"fusion": "none", "per_class": False}, "segment": {"task": "segment", **FRAMEWISE},
    "classify": {"task": "classify", **FRAMEWISE}, "segment late": {"task": "segment", "fusion": "late", **FRAMEWISE},
    "classify classes": {"task": "classify", "fusion": "none", **FRAMEWISE},
    "retrieve": {"task": "retrieve"}, "retrieve own": {"task": "retrieve", "pairs": "own", "pyramid": "fpn"},
}
every = pytest.mark.parametrize("name", list(SETTINGS))


def make(seed: int = 0, noise: float = 0.2, **settings) -> UnLoc:
    """A small network whose every parameter has moved from where it begins."""
    torch.manual_seed(seed)
    net = build("unloc", {**SMALL, **settings}, DIM, CLASSES)
    assert isinstance(net, UnLoc)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(noise * torch.randn(parameter.shape))
    return net.eval()


def asked(net: UnLoc, lengths=(16, 11), about=(0, 1, 0, 1, 1), words=(3, 1, 2, 3, 2), seed: int = 0, truth=True
          ) -> Batch:
    """Videos of some lengths and questions of some words, with rubbish where nothing is."""
    draw = torch.Generator().manual_seed(seed)
    rows, most = len(lengths), max(words)
    width = len(CLASSES) if net.config.fusion == "none" else WORD
    said = torch.randn(len(about), most, width, generator=draw)
    if net.config.fusion == "none":
        said = F.one_hot(torch.arange(len(about)) % len(CLASSES), len(CLASSES)).float()[:, None].repeat(1, most, 1)
    batch = Batch(torch.randn(rows, max(lengths), DIM, generator=draw),
                  torch.arange(max(lengths)) < torch.tensor(lengths)[:, None],
                  [Grid(0.5, 2.0, n, 2.0) for n in lengths], [2.0 * n + 1 for n in lengths],
                  about=torch.tensor(about),
                  sentences=Sentences(said, torch.arange(most) < torch.tensor(words)[:, None]))
    if truth:
        batch.truth = [(Segment(0.5, 12.5),), (Segment(2.5, 8.5), Segment(6.5, 20.5)), (), (Segment(1.0, 3.0),),
                       (Segment(4.0, 4.0),)][: len(about)]
    return batch


# ---------------------------------------------------------------------------------------------- the network, slowly


def norm(layer, x):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias


def gelu(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def block(layer, x):
    a, dim = layer.attention, x.shape[1] // layer.attention.heads
    y = norm(layer.norm1, x)
    query, key, value = y @ a.q.weight.T + a.q.bias, y @ a.k.weight.T, y @ a.v.weight.T + a.v.bias
    seen = [torch.cat([(key[:, h * dim:(h + 1) * dim] @ query[i, h * dim:(h + 1) * dim] / math.sqrt(dim)).softmax(0)
                       @ value[:, h * dim:(h + 1) * dim] for h in range(a.heads)]) for i in range(len(x))]
    x = x + torch.stack(seen) @ a.out.weight.T + a.out.bias
    wide, narrow = layer.mlp[0], layer.mlp[2]
    return x + gelu(norm(layer.norm2, x) @ wide.weight.T + wide.bias) @ narrow.weight.T + narrow.bias


def at(x, i):
    return x[i] if 0 <= i < len(x) else torch.zeros(x.shape[1])


def level(stage, x, stride, centred):
    first = -1 if centred or stride == 1 else 0  # the release looks half a step later
    taps = [sum(at(x, i * stride + first + k) * stage.conv.weight[k] for k in range(3)) + stage.conv.bias
            for i in range(math.ceil(len(x) / stride))]
    return norm(stage.norm, torch.stack(taps))


def head(layers, x):
    for layer in layers:
        y = norm(layer.norm, x)
        x = torch.stack([sum(layer.conv.weight[:, :, k] @ at(y, i + k - 1) for k in range(3)) + layer.conv.bias
                         for i in range(len(x))]).relu()
    return x


def position(t, width):
    return torch.tensor([(math.sin if i % 2 == 0 else math.cos)(t / 10000 ** (2 * (i // 2) / width))
                         for i in range(width)])


def levels(net, frames, said):
    """``frames (T, C)`` and, where they meet in the transformer, words ``(W, E)`` to every level's ``(T_l, d)``."""
    c = net.config
    x = torch.stack([net.video.weight @ f + position(t, c.width) for t, f in enumerate(frames)])
    if said is not None:
        more = [net.text_projection.weight @ w + position(c.frames + t, c.width) for t, w in enumerate(said)]
        x = torch.cat([x, torch.stack(more)])
    n, found = len(frames), []
    for number, layer in enumerate(net.blocks):
        x = block(layer, x)
        if c.pyramid == "fpn" and number >= c.layers - c.levels:
            found.append(x[:n])
            halves = [x[i:min(i + 2, n)].amax(dim=0) for i in range(0, n, 2)]
            x, n = torch.cat([torch.stack(halves), x[n:]]), len(halves)
    if c.pyramid == "none":
        return [norm(net.norm, x[:n])]
    if c.pyramid == "fpn":
        for l in range(c.levels - 2, -1, -1):
            found[l] = torch.stack([y + found[l + 1][i // 2] for i, y in enumerate(found[l])])
        return [level(stage, y, 1, True) for stage, y in zip(net.pyramid, found, strict=True)]
    x = x[:n]
    for l, stage in enumerate(net.pyramid):
        x = level(stage, x, 2 if l else 1, c.centred)
        found.append(x)
    return found


def displacements(net, found):
    c, out = net.config, []
    for l, x in enumerate(found):
        one = net.offset_head[0 if c.shared_heads else l]
        raw = head(one.layers, x) @ one.out.weight.T + one.out.bias
        out.append((raw * net.scale[l] + net.shift[l] if c.shared_heads else raw).relu())
    return torch.cat(out)


def whole(net, said):
    """What stands for all words of a question: ``(W, E)`` to ``(E,)``."""
    return {"last": said[-1], "first": said[0], "mean": sum(said) / len(said)}[net.config.pooling]


def slow(net, batch, row, question):
    """Logits and offsets of one pair, from its real frames and words alone."""
    c = net.config
    frames = batch.features[row][batch.mask[row]]

    def read(number):
        said = batch.sentences.words[number][batch.sentences.mask[number]]
        return whole(net, said)[None] if c.tokens == "one" else said

    said = read(question)
    found = levels(net, frames, said if c.fusion == "mid" else None)
    before = [head(net.class_head[0 if c.shared_heads else l].layers, x) for l, x in enumerate(found)]
    if c.fusion == "late":
        text = net.text_projection.weight @ whole(net, said)
        cosine = torch.cat([torch.stack([z @ text / z.norm() / text.norm() for z in x]) for x in before])
        logits = cosine * net.temperature.exp() + net.class_bias
    else:
        outs = [net.class_head[0 if c.shared_heads else l].out for l in range(len(found))]
        which = int(said[0].argmax()) if c.fusion == "none" else 0
        logits = torch.cat([x @ out.weight[which] + out.bias[which] for x, out in zip(before, outs, strict=True)])
    if c.task == "classify":
        return logits.mean()[None], None
    if not c.boxes:
        return logits, None
    if c.fusion == "mid" and not c.per_class:
        each = [levels(net, frames, read(q)) for q in (batch.about == row).nonzero()[:, 0].tolist()]
        found = [sum(x) / len(each) for x in zip(*each, strict=True)]
    reach = displacements(net, found)
    if c.fusion == "none" and c.per_class:
        which = int(said[0].argmax())
        reach = reach[:, 2 * which:2 * which + 2]
    return logits, reach


def real(net, batch):
    return torch.cat([batch.mask[:, ::2**l] for l in range(net.config.levels)], dim=1)


@every
@torch.no_grad()
def test_every_pair_is_what_the_equations_say(name):
    net = make(**SETTINGS[name])
    batch = asked(net)
    out, there = net(batch), real(net, batch)
    assert ("offsets" in out) == net.config.boxes
    for q, row in enumerate(batch.about.tolist()):
        logits, offsets = slow(net, batch, row, q)
        kept = there[row] if net.config.task != "classify" else torch.tensor([True])
        torch.testing.assert_close(out["logits"][q][kept], logits, atol=1e-5, rtol=1e-5)
        if offsets is not None:
            torch.testing.assert_close(out["offsets"][q][kept], offsets, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("length", [16, 13, 7, 1])
@pytest.mark.parametrize("settings", [{}, {"centred": True}, {"pyramid": "fpn", "tokens": "all"}])
def test_a_video_of_any_length_is_the_equations_of_its_frames(length, settings):
    net = make(**settings)
    batch = asked(net, (16, length), (1, 1), (2, 3))
    logits, offsets = slow(net, batch, 1, 0)
    out, kept = net(batch), real(net, batch)[1]
    torch.testing.assert_close(out["logits"][0][kept], logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out["offsets"][0][kept], offsets, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_training_of_retrieval_asks_every_question_of_every_video():
    net = make(task="retrieve", tokens="all")
    batch = asked(net)
    each, own, there = net.train()(batch), net.eval()(batch), real(net, batch)
    assert each["logits"].shape == (10, 28)
    for p in range(10):
        question, row = divmod(p, 2)
        logits, offsets = slow(net, batch, row, question)
        torch.testing.assert_close(each["logits"][p][there[row]], logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(each["offsets"][p][there[row]], offsets, atol=1e-5, rtol=1e-5)
    assert net.decode(each, batch) == net.decode(own, batch)
    assert make(task="retrieve", pairs="own").train()(batch)["logits"].shape == (5, 28)


@every
@torch.no_grad()
def test_chunks_padding_and_order_change_nothing(name):
    net = make(**SETTINGS[name])
    batch = asked(net, (12, 7))
    expected, there, losses = net(batch), real(net, batch), net.loss(net(batch), batch)
    net.config = replace(net.config, chunk=100)
    sentences = batch.sentences
    wide = replace(batch, features=F.pad(batch.features, (0, 0, 0, 4), value=7.0), mask=F.pad(batch.mask, (0, 4)),
                   sentences=Sentences(F.pad(sentences.words, (0, 0, 0, 2), value=5.0), F.pad(sentences.mask, (0, 2))))
    found, still = net(wide), real(net, wide)
    for q, row in enumerate(batch.about.tolist()):
        for key in expected:
            a, b = (out[key][q] if net.config.task == "classify" else out[key][q][kept[row]]
                    for out, kept in ((expected, there), (found, still)))
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net.loss(found, wide), losses, atol=1e-5, rtol=1e-5)
    order = torch.tensor([3, 0, 4, 2, 1])
    turned = net(replace(batch, about=batch.about[order],
                         sentences=Sentences(sentences.words[order], sentences.mask[order])))
    for key in expected:
        torch.testing.assert_close(turned[key], expected[key][order], atol=1e-5, rtol=1e-5)


@every
def test_what_is_computed_again_gives_the_same_loss_and_gradients(name):
    found = []
    for recompute in (False, True):
        net = make(**SETTINGS[name], similarity_weight=0.0).train()
        net.config = replace(net.config, recompute=recompute)
        batch = asked(net)
        losses = net.loss(net(batch), batch)
        sum(losses.values()).backward()
        found.append((losses, {k: p.grad for k, p in net.named_parameters()}))
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-5)
    assert all(grad is not None and grad.isfinite().all() for grad in found[0][1].values())


@pytest.mark.parametrize("name", [n for n in SETTINGS if "classes" not in n])
def test_every_parameter_learns(name):
    net = make(**{**SETTINGS[name], "similarity_weight": 0.5, "class_bias": 0.0}).train()
    batch = asked(net, (16, 16))
    batch.truth = [(Segment(0.5 + 2 * a, 0.5 + 2 * b),) for a, b in ((1, 3), (2, 7), (1, 13), (0, 16), (4, 6))]
    sum(net.loss(net(batch), batch).values()).backward()
    assert [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


# ------------------------------------------------------------------------------------------------ truth and losses


def slow_targets(config, grid, count, truth):
    """One question: what each real point should say."""
    classes, offsets = [], []
    for l, (low, high) in enumerate(config.ranges):
        for a in range(0, count, 2**l):
            good, before, after = 0.0, math.inf, math.inf
            for segment in truth:
                s, e = ((x - grid.start) / grid.step - 0.5 for x in (segment.start, segment.end))
                if e <= s:
                    continue
                middle, near = (s + e) / 2, config.radius * 2**l
                if max(s, middle - near) <= a <= min(e, middle + near) and low <= max(a - s, e - a) < high:
                    good = 1.0
                before = min(before, a - s if a >= s else math.inf)
                after = min(after, e - a if a <= e else math.inf)
            classes.append(good)
            offsets.append([before / 2**l, after / 2**l] if good else [0.0, 0.0])
    return torch.tensor(classes), torch.tensor(offsets)


@pytest.mark.parametrize("radius", [1.0, 3.0])
def test_targets_are_those_of_the_loop(radius):
    net = make(radius=radius)
    batch = asked(net)
    found, there = net.targets(batch), real(net, batch)
    for q, row in enumerate(batch.about.tolist()):
        count = int(batch.mask[row].sum())
        classes, offsets = slow_targets(net.config, batch.grids[row], count, batch.truth[q])
        torch.testing.assert_close(found.classes[q][there[row]], classes)
        torch.testing.assert_close(found.offsets[q][there[row]], offsets, atol=1e-5, rtol=0)
        assert not found.classes[q][~there[row]].any()
    assert found.classes.any()


def test_targets_of_frames_and_of_videos():
    net = make(task="segment", **FRAMEWISE)
    batch = asked(net)
    found = net.targets(batch).classes
    for q, row in enumerate(batch.about.tolist()):
        for i, centre in enumerate(batch.grids[row].centres):
            assert found[q, i] == any(s.start <= centre < s.end for s in batch.truth[q])
    assert make(task="classify", **FRAMEWISE).targets(batch).classes.tolist() == [[1], [1], [0], [1], [0]]


def test_truth_is_cut_with_its_window_and_left_out_where_half_is_gone():
    net = make()
    batch = asked(net, (16,), (0, 0), (1, 1))
    batch.grids = [Window(0.0, 1.0, 16, 1.0, 4, 12)]
    batch.truth = [(Segment(-4.0, 6.0),), (Segment(-8.0, 6.0),)]
    found = net.targets(batch)
    assert found.classes[0].any()
    assert not found.classes[1].any()
    assert found.offsets[0][found.classes[0] > 0][:, 0].max() <= 6.0


def focal(x, t, alpha=0.25, gamma=2.0):
    p = 1 / (1 + math.exp(-x))
    return -alpha * (1 - p) ** gamma * math.log(p) if t else -(1 - alpha) * p**gamma * math.log(1 - p)


BOXES = {
    "iou": lambda s, e, a, b: 1 - (min(s, a) + min(e, b)) / (max(s, a) + max(e, b) + 1e-6),
    "l1": lambda s, e, a, b: (abs(s - a) + abs(e - b)) / (max(s, a) + max(e, b) + 1e-6),
    "l1_plain": lambda s, e, a, b: abs(s - a) + abs(e - b),
    "diou": lambda s, e, a, b: (1 - (min(s, a) + min(e, b)) / (max(s, a) + max(e, b))
                                + (((e - s) - (b - a)) / 2 / (max(s, a) + max(e, b))) ** 2),
    "l1+iou": lambda s, e, a, b: BOXES["iou"](s, e, a, b) + BOXES["l1"](s, e, a, b),
}


@torch.no_grad()
@pytest.mark.parametrize("box", sorted(BOXES))
@pytest.mark.parametrize("task", ["localize", "retrieve"])
def test_losses_are_those_of_the_loop(task, box):
    net = make(task=task, box_loss=box).train()
    batch = asked(net)
    batch.weight = torch.tensor([1.0, 1.0, 2.5, 1.0, 4.0])
    out, target, there = net(batch), net.targets(batch), real(net, batch)
    losses = net.loss(out, batch)
    total, boxes, points = 0.0, [], 0
    for q, p in itertools.product(range(5), range(2)):
        own = batch.about[q] == p
        if task == "localize" and not own:
            continue
        pair = 2 * q + p if task == "retrieve" else q
        for k in there[p].nonzero()[:, 0].tolist():
            wanted = bool(own and target.classes[q, k])
            total += float(batch.weight[q]) * focal(float(out["logits"][pair, k]), wanted)
            points += 1
            if wanted:
                boxes.append(BOXES[box](*out["offsets"][pair, k].tolist(), *target.offsets[q, k].tolist()))
    if task == "localize":
        points = int(there.sum())
    assert losses["class"].item() == pytest.approx(10 * total / points, rel=1e-5)
    assert losses["box"].item() == pytest.approx(sum(boxes) / len(boxes), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("task", ["segment", "classify"])
def test_losses_of_frames_and_of_videos_are_those_of_the_loop(task):
    net = make(task=task, **FRAMEWISE)
    batch = asked(net)
    out, target = net(batch), net.targets(batch).classes
    total = 0.0
    for q, row in enumerate(batch.about.tolist()):
        for k in batch.mask[row].nonzero()[:, 0].tolist() if task == "segment" else [0]:
            p = 1 / (1 + math.exp(-float(out["logits"][q, k])))
            total -= math.log(p if target[q, k] else 1 - p)
    assert net.loss(out, batch) == {"class": pytest.approx(total / (27 if task == "segment" else 2), rel=1e-5)}


@torch.no_grad()
def test_the_released_l1_is_the_iou_loss():
    first, second = make(box_loss="l1"), make(box_loss="iou")
    batch = asked(first)
    a, b = (net.loss(net(batch), batch)["box"].item() for net in (first, second))
    assert a == pytest.approx(b, abs=1e-6)
    assert a != pytest.approx(make(box_loss="l1_plain").loss(first(batch), batch)["box"].item(), abs=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vitdet", "segment", "classify"])
def test_some_of_the_classes_stand_for_all_of_them(name):
    """The mean loss over all ways to draw 2 of 4 negatives is the loss of all."""
    net = make(**SETTINGS[name])
    batch = asked(net, (16,), (0,) * 5, (1,) * 5)
    batch.truth = [(Segment(0.5, 12.5),), (), (), (), ()]
    whole = net.loss(net(batch), batch)
    found = []
    for drawn in itertools.combinations(range(1, 5), 2):
        chosen = torch.tensor([0, *drawn])
        some = replace(batch, about=batch.about[chosen], truth=[batch.truth[i] for i in chosen.tolist()],
                       sentences=Sentences(batch.sentences.words[chosen], batch.sentences.mask[chosen]),
                       weight=torch.tensor([1.0, 2.0, 2.0]))
        found.append(net.loss(net(some), some))
    for key, value in whole.items():
        assert sum(losses[key].item() for losses in found) / len(found) == pytest.approx(value.item(), rel=1e-5)


@torch.no_grad()
def test_two_rows_of_one_video_are_no_negatives_of_each_other():
    net = make(task="retrieve").train()
    batch = asked(net, (16, 16, 16), (0, 1, 2), (1, 1, 1))
    batch.truth = [(Segment(0.5, 12.5),), (Segment(4.5, 8.5),), (Segment(2.5, 9.5),)]
    batch.features[1] = batch.features[0]
    out = net(batch)
    worse = out["logits"].clone()
    worse[[1, 3]] = 9.0  # question 0 of row 1, and question 1 of row 0
    assert net.loss({**out, "logits": worse}, batch)["class"] == net.loss(out, batch)["class"]
    worse[2] = 9.0  # question 0 of another video
    assert net.loss({**out, "logits": worse}, batch)["class"] > net.loss(out, batch)["class"]


def test_losses_need_truth_for_each_question():
    net = make()
    batch = asked(net, truth=False)
    with pytest.raises(CallError, match="needs truth"):
        net.loss(net(batch), batch)


@every
def test_a_batch_with_no_answer_or_no_question_gives_finite_losses(name):
    net = make(**SETTINGS[name]).train()
    batch = asked(net)
    batch.truth = [()] * 5
    losses = net.loss(net(batch), batch)
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    sentences = batch.sentences
    none = replace(batch, about=batch.about[:0], truth=[], sentences=Sentences(sentences.words[:0], sentences.mask[:0]))
    out = net(none)
    assert all(v.item() == 0 for v in net.loss(out, none).values())
    assert net.decode(out, none) == []


# ---------------------------------------------------------------------------------------------------- the answers


@torch.no_grad()
@pytest.mark.parametrize("task", ["localize", "retrieve"])
def test_answers_are_those_of_the_loop(task):
    net = make(task=task, threshold=0.4, class_bias=0.0)
    batch = asked(net)
    batch.grids[1] = Window(-3.0, 2.0, 11, 2.0, 2, 9)
    out = net(batch)
    found = net.decode(out, batch)
    assert all(found)
    points = pyramid_points(16, net.config.ranges)
    for q, row in enumerate(batch.about.tolist()):
        grid, expected = batch.grids[row], []
        for k in real(net, batch)[row].nonzero()[:, 0].tolist():
            a, stride = float(points.position[k]), float(points.stride[k])
            score = 1 / (1 + math.exp(-float(out["logits"][q, k])))
            if (row == 1 and not 2 <= a < 9) or (task == "localize" and score < 0.4):
                continue
            ds, de = out["offsets"][q, k].tolist()
            start, end = (min(max(grid.start + (x + 0.5) * 2.0, 0.0), batch.durations[row])
                          for x in (a - stride * ds, a + stride * de))
            if end > start:
                expected.append((score, start, end))
        expected.sort(key=lambda e: -e[0])
        assert len(found[q]) == len(expected)
        np.testing.assert_allclose([(s.score, s.start, s.end) for s in found[q]], expected, atol=1e-5)


def tensorflow_nms(segments, sigma, keep, floor):
    """The best is taken, all others are multiplied by ``exp(-tIoU^2 / (2 sigma))``, again and again."""
    left, answer = [(s.score, s.start, s.end, s.label) for s in segments], []
    while left and len(answer) < keep:
        best = max(left, key=lambda s: s[0])
        if best[0] <= floor:
            break
        left.remove(best)
        answer.append(best)
        decayed = []
        for score, a, b, label in left:
            shared = max(0.0, min(b, best[2]) - max(a, best[1]))
            overlap = shared / (b - a + best[2] - best[1] - shared)
            decayed.append((score * math.exp(-0.5 * overlap**2 / sigma), a, b, label))
        left = decayed
    return answer


@pytest.mark.parametrize("classwise", [False, True])
def test_suppression_is_tensorflows(classwise):
    rng = np.random.default_rng(0)
    start, length = rng.uniform(0, 50, 60), rng.uniform(1, 20, 60)
    candidates = [Segment(a, a + b, "ab"[i % 2], rng.uniform(0.01, 1))
                  for i, (a, b) in enumerate(zip(start, length, strict=True))]
    net = make(classwise=classwise, keep=20, threshold=0.05)
    found = net.select(candidates)
    groups = [[s for s in candidates if s.label == label] for label in "ab"] if classwise else [candidates]
    expected = sorted((s for group in groups for s in tensorflow_nms(group, 0.3, 20, 0.05)), key=lambda s: -s[0])
    assert [(s.start, s.end, s.label) for s in found] == [e[1:] for e in expected]
    np.testing.assert_allclose([s.score for s in found], [e[0] for e in expected])
    assert net.select([]) == []


def test_frames_go_to_the_best_question_and_background_to_none():
    net = make(task="segment", **FRAMEWISE)
    batch = asked(net, (8, 6), (0, 1, 0), (1, 1, 1))
    logits = torch.tensor([[2.0, 2, -1, -1, -1, 1, 1, 3], [9.0] * 8, [1.0, 1, 4, 4, -1, -1, 2, 2]])
    first, second, third = net.decode({"logits": logits}, batch)
    spans = [(s.start, s.end) for s in first]
    assert spans == [(14.5, 16.5), (0.5, 4.5), (10.5, 12.5)]  # by score; frames of 2 s from 0.5 s
    assert [(s.start, s.end) for s in second] == [(0.5, 12.5)]
    assert [(s.start, s.end) for s in third] == [(4.5, 8.5), (12.5, 14.5)]
    assert third[0].score == pytest.approx(1 / (1 + math.exp(-4)))
    net.config = replace(net.config, background=3.5)
    assert [len(s) for s in net.decode({"logits": logits}, batch)] == [0, 1, 1]


def test_segments_of_frames_go_on_from_one_window_into_the_next():
    net = make(task="segment", **FRAMEWISE)
    found = net.select([Segment(4.0, 8.0, "a", 0.5), Segment(0.0, 4.0, "a", 0.9), Segment(8.0, 9.0, "b", 0.8),
                        Segment(9.5, 10.0, "a", 0.1)])
    assert [(s.start, s.end, s.label) for s in found] == [(8, 9, "b"), (0, 8, "a"), (9.5, 10, "a")]
    assert found[1].score == pytest.approx(0.7)


@torch.no_grad()
def test_classification_answers_with_the_whole_video():
    net = make(task="classify", **FRAMEWISE)
    batch = asked(net)
    out = net(batch)
    found = net.decode(out, batch)
    assert [len(s) for s in found] == [1] * 5
    assert (found[1][0].start, found[1][0].end) == (0.0, 23.0)
    assert found[1][0].score == pytest.approx(out["logits"][1, 0].sigmoid().item())
    assert [s.score for s in net.select([s for group in found for s in group])] == sorted(
        (s.score for group in found for s in group), reverse=True)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vitdet", "fpn", "none", "one box", "retrieve", "segment", "classes"])
def test_every_frame_has_a_score_for_every_question(name):
    net = make(**SETTINGS[name])
    batch = asked(net)
    out = net(batch)
    found = net.saliency(out, batch)
    assert found.shape == (5, 16)
    assert not found[torch.tensor([1, 3, 4]), 11:].any()
    points = pyramid_points(16, net.config.ranges if net.config.boxes else ((0, 1),), "cpu")
    for question, row in enumerate(batch.about.tolist()):
        scores = out["logits"][question].sigmoid().tolist()
        for frame in range(int(batch.mask[row].sum())):
            if not net.config.boxes:
                assert found[question, frame] == pytest.approx(scores[frame], abs=1e-6)
                continue
            stands = around = 0.0
            for k, score in enumerate(scores):
                position, stride = int(points.position[k]), int(points.stride[k])
                if not batch.mask[row, position]:
                    continue
                left, right = (out["offsets"][question, k] * stride).tolist()
                if position <= frame < position + stride:
                    stands = max(stands, score)
                if position + 0.5 - left <= frame + 0.5 <= position + 0.5 + right:
                    around = max(around, score)
            assert found[question, frame] == pytest.approx(math.sqrt(stands * around), abs=1e-6)


def test_whole_videos_have_no_frames_to_score():
    net = make(task="classify", **FRAMEWISE)
    batch = asked(net)
    with pytest.raises(CallError, match="classify whole videos"):
        net.saliency(net(batch), batch)


# ------------------------------------------------------------------------------------------------ what is looked at


def features(count: int, step: float = 1.0, seed: int = 0) -> Features:
    data = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return Features(data, Grid(0.0, step, count, step), count * step)


@pytest.mark.parametrize("count", [40, 16, 5, 2])
def test_a_video_is_the_frames_nearest_to_even_places_and_its_clock_says_where_they_are(count):
    seen, = make().views(features(count, 0.5))
    index = [int(x) for x in np.linspace(0, count - 1, FRAMES)]
    np.testing.assert_array_equal(seen.data, features(count, 0.5).data[index])
    np.testing.assert_allclose(seen.grid.centres, 0.25 + 0.5 * np.linspace(0, count - 1, FRAMES))
    # a segment from frame g to frame h is where the release has it: g (N - 1) / (T - 1)
    assert seen.grid.position(0.25 + 0.5) - 0.5 == pytest.approx((FRAMES - 1) / (count - 1))


def test_a_video_of_one_row_and_means_of_rows():
    seen, = make().views(features(1))
    assert seen.data.shape == (FRAMES, DIM)
    assert (seen.data == features(1).data).all()
    given = features(48, 0.5)
    seen, = make(sampling="mean").views(given)
    np.testing.assert_allclose(seen.data, given.data.reshape(FRAMES, 3, DIM).mean(axis=1), rtol=1e-5, atol=1e-6)
    assert (seen.grid.start, seen.grid.end) == (0.0, 24.0)
    short, = make(sampling="mean").views(features(4, 4.0))  # nothing lies in most cells: they take the nearest
    np.testing.assert_array_equal(short.data, np.repeat(features(4, 4.0).data, 4, axis=0))


def test_windows_at_several_rates_each_answer_for_the_whole_video_once():
    net = make(span="windows", steps=[1.0, 4.0])
    given = features(200, 0.5)
    pieces = net.views(given)
    assert [p.grid.step for p in pieces] == [1.0] * 12 + [4.0] * 3
    for step in (1.0, 4.0):
        answered = []
        for piece in (p for p in pieces if p.grid.step == step):
            assert piece.grid.count <= FRAMES
            answered += piece.grid.centres[piece.grid.first:piece.grid.stop].tolist()
            rows = np.floor(piece.grid.centres / 0.5).astype(int)
            np.testing.assert_array_equal(piece.data, given.data[rows])
        np.testing.assert_allclose(answered, np.arange(step / 2, 100, step))
    assert len(net.views(features(20, 0.5))) == 2  # 10 s: one view at each rate
    own = make(span="windows", overlap=0.0).views(features(40))
    assert [(p.grid.start, p.grid.count) for p in own] == [(0, 16), (16, 16), (32, 8)]


# --------------------------------------------------------------------------------------------------- many questions


@torch.no_grad()
@pytest.mark.parametrize("pooling", unloc.POOLINGS)
def test_only_the_most_similar_questions_are_asked(pooling):
    read = {"pooling": pooling, "tokens": "all"}
    net = make(top=2, **read)
    batch = asked(net, truth=False)
    out = net(batch)
    every_one = make(**read)(batch)
    said = zip(batch.sentences.words, batch.sentences.mask, strict=True)
    text = F.normalize(net.text_projection(torch.stack([whole(net, words[mask]) for words, mask in said])), dim=1)
    frames = F.normalize(net.video(batch.features), dim=2)
    similar = [float((frames[row][batch.mask[row]] @ text[q]).max()) for q, row in enumerate(batch.about.tolist())]
    for row in (0, 1):
        mine = [q for q in range(5) if batch.about[q] == row]
        best = sorted(mine, key=lambda q: -similar[q])[:2]
        for q in mine:
            if q in best:
                torch.testing.assert_close(out["logits"][q], every_one["logits"][q])
                torch.testing.assert_close(out["offsets"][q], every_one["offsets"][q])
            else:
                assert (out["logits"][q] == -100).all()
                assert net.decode(out, batch)[q] == []
    assert make(top=5, **read)(batch)["logits"].equal(every_one["logits"])
    net.config = replace(net.config, task="retrieve", pairs="own")
    assert sorted(bool(found) for found in net.decode(out, batch)) == [False, True, True, True, True]


def test_a_similarity_can_be_learned_beside():
    net = make(similarity_weight=0.5).train()
    batch = asked(net)
    batch.weight = torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0])
    out = net(batch)
    answered = net.targets(batch).classes.amax(dim=1)
    entropy = F.binary_cross_entropy(out["similarity"].sigmoid(), answered, weight=batch.weight, reduction="sum") / 7
    torch.testing.assert_close(net.loss(out, batch)["similarity"], 0.5 * entropy)


@torch.no_grad()
def test_it_runs_in_bfloat16_and_its_losses_are_in_float32():
    net = make(tokens="all").train()
    batch = asked(net)
    exact = net(batch)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(batch)
        losses = net.loss(out, batch)
    assert all(v.dtype == torch.float32 and v.isfinite() for v in losses.values())
    torch.testing.assert_close(out["logits"].float(), exact["logits"], atol=0.2, rtol=0.05)


# -------------------------------------------------------------------------------------------------- towers inside


class Image(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(DIM))

    def forward(self, frames):
        return frames.flatten(3).mean(3).repeat(1, 1, 2) @ self.weight


class Text(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(9, WORD)

    def forward(self, tokens, mask):
        return self.table(tokens) * mask[..., None]


@pytest.mark.parametrize(("freeze_image", "freeze_text"), list(itertools.product((False, True), repeat=2)))
def test_towers_inside_are_tuned_or_frozen(freeze_image, freeze_text):
    net = make(freeze_image=freeze_image, freeze_text=freeze_text).train()
    net.image, net.text = Image(), Text()
    batch = asked(net)
    frames, tokens = torch.randn(2, 16, 3, 2, 2), torch.randint(0, 9, (5, 3))
    batch.frames, batch.tokens = frames, tokens
    out = net(batch)
    plain = replace(batch, features=net.image(frames).detach(), sentences=Sentences(
        net.text(tokens, batch.sentences.mask).detach(), batch.sentences.mask))
    plain.frames = plain.tokens = None
    torch.testing.assert_close(net(plain)["logits"], out["logits"])
    sum(net.loss(out, batch).values()).backward()
    assert (net.image.weight.grad is None) == freeze_image
    assert (net.text.table.weight.grad is None) == freeze_text
    assert net.video.weight.grad.any()


# ------------------------------------------------------------------------------------------------------- it learns


def planted(seed: int, count: int = FRAMES, spans=None) -> tuple[Features, dict[str, list[Segment]]]:
    """Noise of a second a row, with one class or the other in an interval."""
    rng = np.random.default_rng(seed)
    data = rng.normal(0, 0.3, (count, DIM)).astype(np.float32)
    if spans is None:
        a = int(rng.integers(0, count - 2))
        spans = {CLASSES[seed % 2]: [(a, int(rng.integers(a + 2, min(a + 10, count) + 1)))]}
    for label, places in spans.items():
        for a, b in places:
            data[a:b, CLASSES.index(label)] += 2.0
    truth = {label: [Segment(float(a), float(b)) for a, b in spans.get(label, ())] for label in CLASSES}
    return Features(data, Grid(0.0, 1.0, count, 1.0), float(count)), truth


def words(sentences):
    return [torch.eye(WORD)[[CLASSES.index(s)]] * 2 for s in sentences]


def question(net, label):
    return Question(label) if net.config.task == "retrieve" else Question(label=label)


def training_batch(net, seeds) -> Batch:
    rows = []
    for seed in seeds:
        view, truth = planted(seed)
        labels = [CLASSES[seed % 2]] if net.config.task == "retrieve" else CLASSES
        rows.append(Row(view, [truth[label] for label in labels], [question(net, label) for label in labels]))
    return collate(rows, net.one_hot if net.config.fusion == "none" else words)


LEARNED = {"localize": {}, "retrieve": {"task": "retrieve", "class_bias": -1.0},
           "segment": {"task": "segment", **FRAMEWISE}, "classify": {"task": "classify", **FRAMEWISE},
           "late": {"fusion": "late"}, "classes": {"fusion": "none"}}


@cache
def _learned(name: str) -> UnLoc:
    net = make(noise=0.0, layers=2, ranges=[[0, 4], [4, 1000]], chunk=64,
               **{"class_bias": -2.0, **{k: v for k, v in LEARNED[name].items() if k != "ranges"}})
    net.train()
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for step in range(120 if name == "late" else 80):
        batch = training_batch(net, range(1000 + 8 * step, 1008 + 8 * step))
        optimiser.zero_grad()
        sum(net.loss(net(batch), batch).values()).backward()
        optimiser.step()
    return net.eval()


def learned(name: str) -> UnLoc:
    return copy.deepcopy(_learned(name))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", list(LEARNED))
def test_it_learns_each_task(name):
    net = learned(name)
    reader = net.one_hot if net.config.fusion == "none" else words
    for seed in range(6):
        view, truth = planted(seed)
        label = CLASSES[seed % 2]
        labels = [label] if name == "retrieve" else CLASSES
        found = predict(net, {"v": view}, questions={"v": [question(net, one) for one in labels]}, words=reader)["v"]
        if name == "classify":
            assert found[0].label == label
            continue
        assert tiou(times(found[:1]), times(truth[label]))[0, 0] > (0.4 if name in ("late", "classes") else 0.6)
        assert (found[0].query if name == "retrieve" else found[0].label) == label


def test_a_checkpoint_holds_it_whole(tmp_path):
    net = make(steps=[1.0], tokens="all")
    described = {"encoder": "e", "weights": "w", "dim": DIM, "clip": {}, "precision": "float32"}
    TrainedLocalizer(net, "unloc", described, text="glove").save(tmp_path / "unloc.safetensors")
    again = TrainedLocalizer.load(tmp_path / "unloc.safetensors")
    assert (again.network.config, again.classes, again.text) == (net.config, CLASSES, "glove")
    batch = asked(net)
    with torch.no_grad():
        torch.testing.assert_close(again.network(batch), net(batch))


@pytest.mark.timeout(60)
def test_an_hour_holds_a_moment_of_three_seconds():
    net = learned("localize")
    net.config = replace(net.config, span="windows", steps=(1.0, 4.0))
    given, _ = planted(7, 3600, {"a": [(2347, 2350)], "b": [(900, 1300)]})
    found = predict(net, {"v": given}, questions={"v": [Question(label="a")]}, words=words)["v"]
    assert tiou(times(found[:1]), np.array([[2347.0, 2350.0]]))[0, 0] > 0.5
    # at the paper's rate, a frame every 240 s, nothing is seen of it
    net.config = replace(net.config, span="video")
    found = predict(net, {"v": given}, questions={"v": [Question(label="a")]}, words=words)["v"]
    assert all(s.duration > 30 for s in found if s.start < 2350 and s.end > 2347)


# ------------------------------------------------------------------------------------------- sizes and settings


def count(config: Config, dim: int) -> int:
    with torch.device("meta"):
        net = UnLoc(config, dim)
    projections = ("video.", "text_projection.")  # CLIP's own
    return sum(p.numel() for name, p in net.named_parameters() if not name.startswith(projections))


def test_parameters_are_the_papers():
    d = 512
    fusion = 6 * (4 * d * d + 3 * d + 2 * 4 * d * d + 5 * d + 4 * d)  # the release's keys have d biases more
    heads = 2 * 4 * (3 * d * d + d + 2 * d) + (d + 1) + (2 * d + 2) + 2 * 4
    pyramid = 4 * (4 * d + 2 * d)
    assert count(Config.activitynet("b"), 768) == fusion + heads + pyramid == 25_228_811
    clip = 149_620_737 - 1  # CLIP ViT-B/16 with both projections, but for its temperature
    clip += (128 - 1) * 768 - (77 - 16) * 512  # a class token for each frame, positions of 16 words
    assert round((clip + 25_228_811 + 6 * d) / 1e6, 1) == 174.9  # Table 2
    large = count(Config.activitynet("l"), 1024)
    d = 768
    assert large == (6 * (12 * d * d + 12 * d) + 2 * 4 * (3 * d * d + 3 * d) + 3 * (d + 1) + 2 * 5 + 5 * 6 * d)
    assert round(large / 1e6, 1) == 56.7


@pytest.mark.parametrize(("text", "millions"), [
    (t5.Config(), 147.1), (t5.Config(d_model=768, num_layers=12, num_heads=12, d_ff=3072), 221.5)], ids=["s", "b"])
def test_parameters_beside_a_t5_are_the_papers(text, millions):
    """Table 2: T5-S and T5-B in the place of CLIP's text tower."""
    with torch.device("meta"):
        net = UnLoc(replace(Config.activitynet("b"), text_dim=text.d_model), 768)
        net.image = clip.Frames(clip.ImageTower(clip.Config(pooling="frame", frames=128)))
        net.text = t5.T5Tower(text)
    keys_biases = 6 * 512  # the release's
    assert round((sum(p.numel() for p in net.parameters()) + keys_biases) / 1e6, 1) == millions


@pytest.mark.parametrize(("name", "size", "expected"), [
    ("activitynet", "b", (128, 4, 4, True, "vitdet", -5.0, 2.0)),
    ("activitynet", "l", (160, 5, 4, True, "vitdet", -5.0, 2.0)), ("captions", "b", (128, 4, 3, False, "vitdet", 0, 2)),
    ("captions", "l", (128, 4, 4, True, "fpn", 0, 2)), ("charades", "b", (128, 4, 3, False, "fpn", 0, 0)),
    ("qvhighlights", "b", (144, 4, 3, True, "vitdet", 0, 2)), ("qvhighlights", "l", (144, 4, 3, True, "vitdet", 0, 2)),
    ("coin", "l", (512, 1, 0, True, "none", -6.6, 2)), ("kinetics", "b", (128, 1, 0, True, "none", -6.0, 2)),
])
def test_settings_of_the_data_sets(name, size, expected):
    c = getattr(Config, name)(size)
    assert (c.frames, c.levels, c.head_layers, c.shared_heads, c.pyramid, c.class_bias, c.offset_bias) == expected
    assert (c.width, c.heads, c.text_dim) == ((512, 8, 512) if size == "b" else (768, 12, 768))
    with pytest.raises(CallError, match="size"):
        getattr(Config, name)("xl")


def test_variants_are_built_by_name():
    with torch.device("meta"):
        net = build("unloc", {"variant": "coin", "layers": 1}, 1024, ["pour"])
    assert (net.config.task, net.config.steps, net.asked, net.classes) == ("segment", (0.5,), "text", ("pour",))


@pytest.mark.parametrize(("settings", "match"), [
    ({"task": "caption"}, "task"), ({"fusion": "early"}, "fusion"), ({"heads": 3}, "divide"),
    ({"width": 0}, "positive"),
    ({"frames": 18}, "multiple of 4"), ({"pyramid": "none"}, "one level"), ({"task": "segment"}, "about frames"),
    ({"pyramid": "fpn", "layers": 2}, "2 blocks"), ({"project_text": False}, "its own width"),
    ({"top": -1}, "negative"),
    ({"fusion": "none", "task": "retrieve"}, "cannot retrieve"), ({"ranges": [[4, 4]]}, "smaller to a larger"),
    ({"steps": [0.0]}, "seconds between"), ({"overlap": 1.0}, "in \\[0, 1\\)"), ({"focal_alpha": 2.0}, "focal_alpha"),
    ({"task": "segment", "steps": [1.0, 2.0], **FRAMEWISE}, "one rate"), ({"negatives": 0}, "negatives"),
    ({"box_loss": "giou"}, "box loss"), ({"tokens": "two"}, "tokens"), ({"pooling": "max"}, "pooling"),
    ({"sampling": "max"}, "sampling"),
])
def test_impossible_settings_are_refused(settings, match):
    with pytest.raises(CallError, match=match):
        make(**settings)


def test_what_does_not_fit_is_refused():
    net = make()
    batch = asked(net)
    with pytest.raises(CallError, match="asks none"):
        net(replace(batch, sentences=None))
    with pytest.raises(ModelError, match="features of width 6"):
        net(replace(batch, features=batch.features[..., :5]))
    with pytest.raises(ModelError, match="words of width 4"):
        net(replace(batch, sentences=Sentences(batch.sentences.words[..., :3], batch.sentences.mask)))
    with pytest.raises(ModelError, match="16 frames"):
        net(asked(net, (17,), (0,), (1,)))
    with pytest.raises(CallError, match="class"):
        make(fusion="none").one_hot(["c"])
    with pytest.raises(CallError, match="give it some"):
        UnLoc(replace(Config(), fusion="none"), DIM)
    assert unloc.Config() == Config.activitynet()


# ---------------------------------------------------------------------------------------------- what it begins with


def test_what_was_learnt_by_classifying_is_taken_over_by_what_localizes():
    torch.manual_seed(0)
    small = {"frames": 16, "width": 16, "heads": 2, "layers": 2, "text_dim": 6, "head_layers": 1,
             "ranges": ((0.0, 4.0), (4.0, 100.0))}
    first = build("unloc", small | {"task": "classify", "pyramid": "none", "head_layers": 0}, 8, ["a", "b"])
    net = build("unloc", small, 8, ["c"])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.begin(first)
    after, theirs = net.state_dict(), first.state_dict()
    taken = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name.split(".")[0] for name in taken} == {"video", "blocks", "text_projection"}
    assert all(torch.equal(after[name], theirs[name]) for name in taken)
    for block in ("blocks.0.", "blocks.1."):
        assert sum(name.startswith(block) for name in taken) == 6  # weights; norms and biases begin alike
    again = build("unloc", small, 8, ["d"])
    again.begin(net)  # of the same task: all of it
    assert all(torch.equal(value, after[name]) for name, value in again.state_dict().items())
    for other in (build("unloc", small | {"layers": 1}, 8, []), build("unloc", small, 9, []), torch.nn.Linear(2, 2)):
        with pytest.raises(ModelError, match="begins with"):
            net.begin(other)
    with pytest.raises(ModelError, match=r"'blocks\.2.*should be nothing"):
        net.begin(build("unloc", small | {"layers": 3}, 8, []))


ROWS = [name for name in shipped() if "_unloc_" in name and not name.startswith(("kinetics", "world"))]


def shapes(recipe, *changes, frames=None):
    """The network of a recipe with its image tower inside, and ``frames`` tokens in place of its own number."""
    made = load_recipe(recipe, changes)
    with torch.device("meta"):
        width, heads, patch = (768, 12, 16) if made.encoder.text == "clip-b16" else (1024, 16, 14)
        net = build("unloc", made.options, width, ["a"])
        own = (frames or net.config.frames) if made.towers.pooling == "frame" else 0
        config = clip.Config(patch=patch, width=width, layers=1, heads=heads, hidden=4 * width,
                             pooling=made.towers.pooling, frames=own)
        net.image = clip.Frames(clip.ImageTower(config))
    return made, net


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_tables_begins_with_kinetics_as_its_header_says(name):
    """Most with the recipe as it is; those with a pooling of their own with the command that they give."""
    assert len(ROWS) == 14
    head = header(name)
    size = "b" if "_unloc_b" in name else "l"
    first = f"kinetics_unloc_{size}"
    calls = [shlex.split(call) for call in (*head.commands, *header(first).commands)]
    began = re.search(r"--set start=(\S+)/localizer\.safetensors", "\n".join(head.lines))[1]
    call = next(words for words in calls if words[:3] == ["cuemark", "train", first] and began in words)
    changes = [change for flag, change in itertools.pairwise(call) if flag == "--set"]
    row, net = shapes(name)
    pretrained, other = shapes(first, *changes, frames=net.config.frames)
    before, after = pretrained.encoder, row.encoder
    assert (before.start, before.text, pretrained.towers.pooling) == (after.start, after.text, row.towers.pooling)
    net.begin(other)


@pytest.mark.parametrize("name", ["charades_unloc_l", "qvhighlights_unloc_l"])
def test_tokens_of_frames_cannot_begin_with_a_tower_that_has_none(name):
    _, net = shapes(name)
    with pytest.raises(ModelError, match=r"'image\.tower\..*the other has"):
        net.begin(shapes("kinetics_unloc_l")[1])
