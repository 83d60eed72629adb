"""UnLoc against its released code (Flax), which was run once, elsewhere, on a CPU, with TensorFlow's suppression.

``tests/data/released_unloc.json`` holds what it answered, and nothing else of it: outputs, targets, losses, suppressed
answers, digests of the names and shapes of its weights, and the commit. Weights, features and words come from the seeds
that stand beside: here as there, weights are filled by :func:`filled`.

What its stored frame ``f`` of ``T`` is to us: position ``f (N - 1) / (T - 1)`` of its N anchors, which stand in the
middle of our cells.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuemark.batch import Batch, Sentences
from cuemark.encoders import clip
from cuemark.errors import ModelError
from cuemark.grid import Features, Grid
from cuemark.localizers import unloc
from cuemark.localizers.unloc import Config, UnLoc
from cuemark.segments import Segment
from cuemark.text import ACTION_PROMPTS

N, D, FRAME, WORD, CLASSES = 16, 32, 24, 20, 3
RANGES = ((0.0, 4.0), (4.0, 8.0), (8.0, 10000.0))
SMALL = Config(frames=N, width=D, heads=2, layers=4, text_dim=WORD, head_layers=2, ranges=RANGES)
CASES = {
    "simple": SMALL,
    "simple_all_unshared": replace(SMALL, tokens="all", shared_heads=False),
    "fpn": replace(SMALL, pyramid="fpn"),
    "one_pair": replace(SMALL, per_class=False),
    "retrieve": replace(SMALL, task="retrieve", pyramid="fpn", shared_heads=False),
    "retrieve_all": replace(SMALL, task="retrieve", tokens="all"),
    "segment": replace(SMALL, task="segment", pyramid="none", head_layers=0)}
LOCALIZE = ("simple", "simple_all_unshared", "fpn", "one_pair")
RETRIEVE = ("retrieve", "retrieve_all")


@cache
def recorded() -> Any:
    return json.loads((Path(__file__).parents[1] / "data" / "released_unloc.json").read_text())


# ---------------------------------------------------------------------------------------------------- their weights


def norm(name: str, width: int) -> dict[str, list[int]]:
    return {f"{name}/scale": [width], f"{name}/bias": [width]}


def dense(name: str, *shape: int) -> dict[str, list[int]]:
    return {f"{name}/kernel": list(shape), f"{name}/bias": [shape[-1]]}


def block(name: str, width: int, heads: int, parts: tuple[str, str, str, str, str]) -> dict[str, list[int]]:
    first, attention, second, wide, narrow = (f"{name}/{part}" for part in parts)
    found = {**norm(first, width), **norm(second, width),
             **dense(wide, width, 4 * width), **dense(narrow, 4 * width, width)}
    for part in ("query", "key", "value"):
        found |= {f"{attention}/{part}/kernel": [width, heads, width // heads],
                  f"{attention}/{part}/bias": [heads, width // heads]}
    return {**found, f"{attention}/out/kernel": [heads, width // heads, width], f"{attention}/out/bias": [width]}


def tower(name: str, width: int, layers: int, heads: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for layer in range(layers):
        found |= block(f"{name}/transformer/resblocks.{layer}", width, heads,
                       ("ln_1", "attn", "ln_2", "mlp/c_fc", "mlp/c_proj"))
    return found


def image_layout(width: int, layers: int, heads: int, side: int, patches: int, frames: int) -> dict[str, list[int]]:
    """Their image tower; ``frames`` 0: the mean of patches."""
    inside = "video_encoder/VisionTransformer"
    found = {"video_encoder/conv1/kernel": [side * side * 3, width],
             f"{inside}/positional_embedding": [patches + bool(frames), width],
             **norm(f"{inside}/ln_pre", width), **norm(f"{inside}/ln_post", width),
             **tower(inside, width, layers, heads)}
    return {**found, "video_encoder/class_embedding": [frames, width]} if frames else found


def text_layout(vocabulary: int, length: int, width: int, layers: int, heads: int) -> dict[str, list[int]]:
    name = "text_encoder"
    return {f"{name}/token_embedding/embedding": [vocabulary, width], f"{name}/positional_embedding": [length, width],
            **norm(f"{name}/ln_final", width), **tower(name, width, layers, heads)}


def own_layout(config: Config, dim: int, head: str, project_text: bool = True) -> dict[str, list[int]]:
    """All that is not a tower."""
    c, within = config, "video_text_fusion/video_text_encoder"
    found = {"video_projection/kernel": [dim, c.width]}
    if project_text:
        found["text_projection/kernel"] = [c.text_dim, c.width]
    for layer in range(c.layers):
        found |= block(f"{within}/encoderblock_{layer}", c.width, c.heads,
                       ("LayerNorm_0", "MultiHeadAttention_0", "LayerNorm_1",
                        "MlpBlock_0/Dense_0", "MlpBlock_0/Dense_1"))
    if c.task == "segment":
        return {**found, **norm(f"{within}/encoder_norm", c.width), **dense(f"{head}/output_projection", c.width, 1)}
    for level in range(c.levels):
        found |= {**dense(f"{within}/output_conv_{level}", 3, 1, c.width),
                  **norm(f"{within}/output_ln_{level}", c.width)}
    for kind, outputs in (("ClassificationHead", 1), ("RegressionHead", 2)):
        for number in [""] if c.shared_heads else [f"_{level}" for level in range(c.levels)]:
            for layer in range(c.head_layers):
                found |= {**norm(f"{head}/{kind}{number}/ln{layer}", c.width),
                          **dense(f"{head}/{kind}{number}/conv{layer}", 3, c.width, c.width)}
            found |= dense(f"{head}/{kind}{number}/output_projection", c.width, outputs)
    if c.shared_heads:
        found |= {f"{head}/{name}_{level}": [1] for name in ("scale", "shift") for level in range(c.levels)}
    return found


def digest(layout: dict[str, list[int]]) -> str:
    return hashlib.sha256(json.dumps(sorted(layout.items())).encode()).hexdigest()


def filled(layout: dict[str, list[int]], seed: int) -> dict[str, torch.Tensor]:
    """A released state: random weights, drawn in the order of their sorted names; scales near 1."""
    draw, state = np.random.RandomState(seed), {}
    for name in sorted(layout):
        shape, (*_, last) = layout[name], name.split("/")
        value = draw.randn(*shape)
        if last == "kernel":
            inputs = shape[0] if name.split("/")[-2] in ("query", "key", "value") else np.prod(shape[:-1])
            value = value * (2.0 / inputs) ** 0.5
        elif last.startswith("scale"):
            value = 1.0 + 0.1 * value
        elif last == "bias" or last.startswith("shift"):
            value = 0.1 * value + 2.0 * ("RegressionHead" in name and name.endswith("output_projection/bias"))
        else:
            value = 0.5 * value
        state[name] = torch.from_numpy(np.asarray(value, np.float32))
    return state


HEADS = {"localize": "temporal_localization_head", "retrieve": "moment_retrieval_head",
         "segment": "action_segmentation_head"}


def case_layout(name: str) -> dict[str, list[int]]:
    return own_layout(CASES[name], FRAME, HEADS[CASES[name].task])


@cache
def net(name: str) -> UnLoc:
    made = UnLoc(CASES[name], FRAME)
    made.load_state_dict(unloc.released(filled(case_layout(name), recorded()["cases"][name]["seed"])))
    return made.eval()


# ------------------------------------------------------------------------------------------------------------- asked


def seconds(frame: float) -> float:
    """Where a stored frame is to us, whose cells here are a second long."""
    return frame * (N - 1) / (recorded()["targets"]["total_frames"] - 1) + 0.5


def asked(name: str, truth: list[list[Segment]] | None = None, start: float = 0.0) -> Batch:
    """The recorded case's videos and questions; every class of every video, or a sentence of each."""
    told = recorded()["cases"][name]
    frames = np.random.RandomState(told["video_seed"]).randn(2, N, FRAME).astype(np.float32)
    batch = Batch.collate([Features(row[:count], Grid(start, 1.0, count, 1.0), 2 * start + N)
                           for row, count in zip(frames, told.get("real", [N, N]), strict=True)])
    table = torch.from_numpy(np.random.RandomState(recorded()["table_seed"]).randn(9, WORD).astype(np.float32))
    words = [table[[i for i in ids if i]] for ids in recorded()["ids"]]  # a text ends with its largest id; 0 is padding
    if CASES[name].task == "retrieve":
        about, questions = [0, 1], words[1:]
    else:
        about, questions = [0] * CLASSES + [1] * CLASSES, words * 2
    return replace(batch, sentences=Sentences.collate(questions), about=torch.tensor(about),
                   truth=None if truth is None else [tuple(t) for t in truth])


def close(found: Any, expected: Any, atol: float = 1e-5) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    found = torch.as_tensor(found).detach().double().reshape(expected.shape)
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-5)


def answers(name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What we answer, by video, question and point, as it was recorded; retrieval's, as in training, of all pairs."""
    network = net(name)
    batch = asked(name)
    crossed = CASES[name].task == "retrieve"
    try:
        with torch.no_grad():
            out = network.train(crossed)(batch)
    finally:
        network.eval()
    shape = recorded()["cases"][name]["shape"]
    if not crossed:
        return out["logits"].reshape(shape), out.get("offsets")
    order = torch.arange(4).view(2, 2).T.flatten()  # ours are by question, then video
    return out["logits"][order].reshape(shape), out["offsets"][order]


@pytest.mark.parametrize("name", CASES)
def test_weights_have_the_released_names_and_shapes(name):
    assert digest(case_layout(name)) == recorded()["cases"][name]["layout"]


@pytest.mark.parametrize("name", CASES)
def test_outputs(name):
    told = recorded()["cases"][name]
    logits, offsets = answers(name)
    expected = np.array(told["logits"]).reshape(told["shape"])
    if name == "segment":  # padded frames mean nothing
        for row, count in enumerate(told["real"]):
            close(logits[row, :, :count], expected[row, :, :count])
        return
    close(logits, expected)
    assert offsets is not None
    if name == "one_pair":  # one displacement for all questions of a video
        close(offsets, np.array(told["displacements"]).reshape(2, 1, -1, 2).repeat(CLASSES, axis=1))
    else:
        close(offsets, told["displacements"])
    assert (offsets > 0).float().mean() > 0.8  # else there is little to compare


def test_evaluation_of_retrieval_asks_each_sentence_of_its_own_video():
    for name in RETRIEVE:
        told = recorded()["cases"][name]
        with torch.no_grad():
            out = net(name)(asked(name))
        pairs = np.array(told["logits"]).reshape(told["shape"])
        close(out["logits"], pairs[[0, 1], [0, 1]])


# ---------------------------------------------------------------------------------------------------------- training


def truth_of(name: str) -> list[list[Segment]]:
    told = recorded()["targets"]
    if CASES[name].task == "retrieve":
        return [[Segment(seconds(a), seconds(b))] for a, b in told["captions"]["segments"]]
    return [[Segment(seconds(a), seconds(b)) for a, b, label in row if label == wanted]
            for row in told["segments"] for wanted in range(CLASSES)]


@pytest.mark.parametrize("name", ["simple", "fpn", "simple_all_unshared", *RETRIEVE])
def test_targets(name):
    """Overlapping segments of one class too: the nearest ends, be they of one segment or of two."""
    told = recorded()["targets"]
    told = told["captions"] if CASES[name].task == "retrieve" else told
    target = net(name).targets(asked(name, truth_of(name)))
    classes = target.classes.reshape(2, -1, target.classes.shape[1])  # (B, questions, K)
    positive = np.array(told["positive"]).reshape(-1, np.array(told["positive"]).shape[1])
    if positive.shape[1] == 2:
        positive = np.insert(positive, 1, 0, axis=1)
    assert classes.nonzero().tolist() == positive.tolist()
    close(target.offsets.reshape(*classes.shape, 2)[classes > 0], np.array(told["displacements"]).reshape(-1, 2))


def test_targets_near_the_middle():
    """The radius of 3 strides matters on the last level alone: with the ranges of the others no point is so far."""
    told = recorded()["targets"]["near"]
    near = UnLoc(replace(CASES["simple"], radius=told["radius"]), FRAME)
    target = near.targets(asked("simple", truth_of("simple")))
    assert target.classes.reshape(2, CLASSES, -1).nonzero().tolist() == told["positive"]
    assert len(told["positive"]) < len(recorded()["targets"]["positive"])
    close(target.offsets[target.classes > 0], np.array(told["displacements"]).reshape(-1, 2))


BOXES = [("simple", "iou", "iou"), ("simple", "l1", "l1"), ("simple", "l1+iou", "l1+iou"),
         ("simple", "iou+center_offset_squared", "diou"), ("simple_all_unshared", "iou", "iou"),
         ("simple_all_unshared", "iou+center_offset_squared", "diou"), ("retrieve", "iou", "iou"),
         ("retrieve_all", "iou", "iou")]


@pytest.mark.parametrize(("name", "theirs", "ours"), BOXES)
def test_losses(name, theirs, ours):
    told = recorded()["losses"][name][theirs]
    network = UnLoc(replace(CASES[name], box_loss=ours), FRAME)
    network.load_state_dict(net(name).state_dict())
    batch = asked(name, truth_of(name))
    found = network.loss(network.train()(batch), batch)
    close(found["box"], told["box"])
    close(found["box"] + found["class"], told["total"])


@pytest.mark.parametrize("name", RETRIEVE)
def test_losses_where_sentences_are_asked_of_their_own_videos(name):
    network = UnLoc(replace(CASES[name], pairs="own"), FRAME).train()
    network.load_state_dict(net(name).state_dict())
    batch = asked(name, truth_of(name))
    close(sum(network.loss(network(batch), batch).values()), recorded()["losses"][name]["iou"]["own_pairs_total"])


def test_losses_where_nothing_is_found():
    batch = asked("simple", [[] for _ in range(2 * CLASSES)])
    close(sum(net("simple").loss(net("simple")(batch), batch).values()), recorded()["losses"]["nothing"]["total"])


def test_loss_of_segmentation():
    told = recorded()["cases"]["segment"]
    truth: list[list[Segment]] = [[] for _ in range(2 * CLASSES)]
    for row, label, start, end in told["label"]:
        truth[row * CLASSES + label].append(Segment(float(start), float(end)))
    batch = asked("segment", truth)
    close(net("segment").loss(net("segment")(batch), batch)["class"], told["loss"])


# --------------------------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize("classwise", [False, True], ids=["agnostic", "classwise"])
def test_answers(classwise):
    """TensorFlow's soft-NMS, over all classes of a video together, or of each by itself."""
    told = recorded()["answers"]["simple"]["classwise" if classwise else "agnostic"]
    network, start = UnLoc(replace(CASES["simple"], classwise=classwise, keep=40), FRAME).eval(), 100.0
    network.load_state_dict(net("simple").state_dict())
    batch = asked("simple", start=start)
    with torch.no_grad():
        found = network.decode(network(batch), batch)[:CLASSES]
    assert sum(map(len, found)) == recorded()["answers"]["simple"]["candidates"]
    # our video is so long that nothing is cut; theirs is cut at the middle of its first frame
    kept = network.select([Segment(*theirs(s, start), str(label), s.score)
                           for label, segments in enumerate(found) for s in segments])
    order = np.argsort(-np.array(told["scores"]), kind="stable")
    assert [int(s.label or -1) for s in kept] == np.array(told["labels"])[order].tolist()
    np.testing.assert_allclose([s.score for s in kept], np.array(told["scores"])[order], atol=1e-5)
    where = np.reshape(told["segments"], (-1, 2))[order]
    np.testing.assert_allclose([(s.start, s.end) for s in kept], where, atol=1e-4)


def theirs(segment: Segment, start: float) -> list[float]:
    """Our seconds as the release's, which are those of stored frames, from 0 to their number."""
    told = recorded()["answers"]
    position = np.array([segment.start, segment.end]) - start - 0.5
    frames = position * (told["total_frames"] - 1) / (N - 1)
    return (frames.clip(0, told["total_frames"]) * told["secs_per_timestep"]).tolist()


def test_answers_of_retrieval():
    name, start = "retrieve", 100.0
    batch = replace(asked(name, start=start), about=torch.tensor([0, 0]))  # both sentences of the first video
    with torch.no_grad():
        found = net(name).decode(net(name)(batch), batch)
    for segments, told in zip(found, recorded()["answers"][name], strict=True):
        kept = net(name).select([Segment(*theirs(s, start), None, s.score) for s in segments])
        np.testing.assert_allclose([s.score for s in kept], told["scores"], atol=1e-5)
        np.testing.assert_allclose([(s.start, s.end) for s in kept], np.reshape(told["segments"], (-1, 2)), atol=1e-4)


def test_frames_are_taken_from_the_whole_video():
    for key, rows in recorded()["linspace"].items():
        total, count = map(int, key.split("->"))
        features = Features(np.arange(total, dtype=np.float32)[:, None], Grid.over(0.0, 30.0, total), 30.0)
        (view,) = UnLoc(replace(SMALL, frames=count), 1).views(features)
        assert view.data[:, 0].tolist() == rows


def test_prompts():
    """CLIP's 28 for actions, in the order of its repository; the release reads them from a file that it lacks."""
    told = recorded()["prompts"]
    assert len(ACTION_PROMPTS) == told["count"] == 28
    assert hashlib.sha256(json.dumps(ACTION_PROMPTS).encode()).hexdigest() == told["digest"]


# -------------------------------------------------------------------------------------------------------------- towers


@pytest.mark.parametrize("kind", ["token", "gap"])
def test_image_tower(kind):
    told = recorded()["towers"][kind]
    frames = 4 if kind == "token" else 0
    layout = image_layout(16, 2, 2, 4, 4, frames)
    inner = {name.removeprefix("video_encoder/"): shape for name, shape in layout.items()}
    assert digest(inner) == told["layout"]
    config = clip.Config(image=8, patch=4, width=16, layers=2, heads=2, hidden=64,
                         pooling="frame" if frames else "gap", frames=frames)
    tower = loaded(clip.ImageTower(config), inner, told["seed"], "video_encoder", "image.tower.")
    pictures = np.random.RandomState(told["image_seed"]).randn(2, 4, 8, 8, 3).astype(np.float32)
    with torch.no_grad():
        found = tower.frames(torch.from_numpy(pictures).permute(0, 1, 4, 2, 3))
    close(found, np.reshape(told["out"], told["shape"]))


def test_text_tower():
    told = recorded()["towers"]["text"]
    inner = {name.removeprefix("text_encoder/"): shape for name, shape in text_layout(9, 5, 16, 2, 2).items()}
    assert digest(inner) == told["layout"]
    config = clip.TextConfig(vocabulary=9, length=5, width=16, layers=2, heads=2, hidden=64, dim=16)
    tower = loaded(clip.TextTower(config), inner, told["seed"], "text_encoder", "text.")
    with torch.no_grad():
        found = tower(torch.tensor(recorded()["ids"]))
    expected = np.reshape(told["out"], told["shape"])
    for row, count in enumerate(told["real"]):
        close(found[row, :count], expected[row, :count])


def loaded(tower: Any, inner: dict[str, list[int]], seed: int, theirs: str, ours: str) -> Any:
    """A tower with what :func:`released` makes of it in the whole network's weights."""
    state = {f"{theirs}/{name}": value for name, value in filled(inner, seed).items()}
    found = unloc.released({**filled(case_layout("simple"), 1), **state})
    tower.load_state_dict({name.removeprefix(ours): value for name, value in found.items() if name.startswith(ours)})
    return tower.eval()


# ------------------------------------------------------------------------------------------------------- full size


IMAGE = {"b": (768, 12, 12, 16, 196), "l": (1024, 24, 16, 14, 256)}
TEXT = {"b": (512, 12, 8), "l": (768, 12, 12)}
FULL: list[tuple[str, Config, str, bool, int]] = [
    ("activitynet_tal_linspace_unloc_base_fpn", Config.activitynet("b"), "b", True, 16),
    ("activitynet_tal_linspace_unloc_large_fpn", Config.activitynet("l"), "l", False, 0),
    ("activitynet_cap_linspace_unloc_base_fpn", Config.captions("b"), "b", True, 32),
    ("activitynet_cap_linspace_unloc_large_fpn", Config.captions("l"), "l", False, 16),
    ("charades_sta_linspace_unloc_base_fpn", Config.charades("b"), "b", True, 16),
    ("qvhighlights_linspace_unloc_base_fpn_hd", Config.qvhighlights("b"), "b", True, 32),
    ("qvhighlights_linspace_unloc_large_fpn_hd", Config.qvhighlights("l"), "l", True, 32),
    ("coin_action_seg_unloc_ft_image_clip_large", Config.coin("l"), "l", False, 0)]
"""The release's configuration, ours, its size, whether frames have tokens of their own (or the mean of patches), and
the most tokens of a text (0: texts are embedded beforehand)."""


@pytest.mark.parametrize(("name", "config", "size", "tokens", "length"), FULL, ids=[case[0] for case in FULL])
def test_all_released_configurations_at_full_size(name, config, size, tokens, length):
    told = recorded()["full"][name]
    assert told["frames"] == config.frames
    image, text = IMAGE[size], TEXT[size]
    layout = {**own_layout(config, image[0], f"{told['task']}_head", bool(length)),
              **image_layout(*image, config.frames if tokens else 0),
              **(text_layout(49408, length, *text) if length else {})}
    assert digest(layout) == told["layout"]
    assert sum(int(np.prod(shape)) for shape in layout.values()) == told["total"]
    with torch.device("meta"):
        network = UnLoc(config, image[0])
        state = unloc.released({f"params/{key}": torch.empty(shape) for key, shape in layout.items()})
        width, layers, heads, patch, _ = image
        own = config.frames if tokens else 0
        tower = clip.ImageTower(clip.Config(patch=patch, width=width, layers=layers, heads=heads, hidden=4 * width,
                                            pooling="frame" if own else "gap", frames=own))
        network.image = clip.Frames(tower)
        if length:
            network.text = clip.TextTower(clip.TextConfig(length=length, width=text[0], layers=text[1], heads=text[2],
                                                          hidden=4 * text[0], dim=text[0]))
    assert {key: value.shape for key, value in state.items()} == {
        key: value.shape for key, value in network.state_dict().items()}
    keys_biases = config.layers * config.width  # a softmax takes them out
    projection = text[0] ** 2 if length else 0  # of our text tower: none, as the release's comes after it
    assert sum(p.numel() for p in network.parameters()) == told["total"] - keys_biases + projection


@pytest.mark.parametrize(("name", "config"), [case[:2] for case in FULL], ids=[case[0] for case in FULL])
def test_settings_of_all_released_configurations(name, config):
    told = recorded()["full"][name]
    theirs = {key: value for key, value in told["settings"].items() if value is not None}  # what it sets, and we have
    if "ranges" in theirs:
        theirs["ranges"] = tuple((low, 10000 if high is None else high) for low, high in theirs["ranges"])
    assert {key: getattr(config, key) for key in theirs} == theirs
    assert config.pyramid == told["pyramid"]


def test_what_the_paper_counts():
    """Table 2: 174.9 million with both towers of CLIP-B/16."""
    assert recorded()["full"]["activitynet_tal_linspace_unloc_base_fpn"]["total"] == 174_918_923


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("name", ["video_projection/kernel", "moment_retrieval_head/RegressionHead_2/ln1/scale",
                                  "video_text_fusion/video_text_encoder/encoderblock_1/LayerNorm_1/scale",
                                  "video_text_fusion/video_text_encoder/output_ln_2/bias",
                                  "video_text_fusion/video_text_encoder/encoderblock_3/MultiHeadAttention_0/key/bias"])
def test_a_weight_is_missing(name):
    state = filled(case_layout("retrieve"), 1)
    del state[name]
    with pytest.raises(ModelError, match=re.escape(name)):
        unloc.released(state)


def test_a_weight_too_many():
    state = {**filled(case_layout("simple"), 1), "moment_retrieval_head/scale_0": torch.ones(1)}
    with pytest.raises(ModelError, match="moment_retrieval_head/scale_0"):
        unloc.released(state)
