"""The same promises for every pre-training objective; each one's loss against its paper's equations, term by term."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cuemark.batch import ClipBatch
from cuemark.errors import CallError, DataError
from cuemark.pretraining import OBJECTIVES
from cuemark.pretraining.clap import CLAP, VARIANTS, Config, contrast, contrast_pairwise, motion
from cuemark.pretraining.tac import TAC
from cuemark.pretraining.tac import Config as TACConfig
from cuemark.pretraining.tsp import TSP
from cuemark.pretraining.tsp import Config as TSPConfig
from cuemark.settings import build

DIM, TEXT, CLASSES = 6, 5, ("jump", "run", "swim")


class Encoder(nn.Module):
    """Clips of 3 x 2 x 4 x 4 to DIM numbers."""

    dim = DIM

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 4, (2, 3, 3))
        self.last = nn.Linear(16, DIM)

    def forward(self, clips: Tensor) -> Tensor:
        return torch.tanh(self.last(torch.tanh(self.stem(clips)).flatten(1)))


SYSTEMS: dict[str, Callable[[], nn.Module]] = {
    "tac": lambda: TAC(TACConfig(), Encoder(), CLASSES),
    **{f"tsp {g}": lambda g=g: TSP(TSPConfig(global_feature=g), Encoder(), CLASSES)  # type: ignore[misc]
       for g in ("max", "mean", "none")},
    **{f"clap {name}": lambda v=v: CLAP(Config(text_dim=TEXT, projection=4, **v), Encoder(), CLASSES)  # type: ignore[misc]
       for name, v in VARIANTS.items()},
    "clap learnt temperature": lambda: CLAP(
        Config(text_dim=TEXT, projection=4, learn_temperature=True), Encoder(), CLASSES),
    "clap pairwise": lambda: CLAP(Config(text_dim=TEXT, projection=4, pairwise=True), Encoder(), CLASSES),
    "clap motion": lambda: CLAP(Config(text_dim=TEXT, projection=4, weight_motion=0.5), Encoder(), CLASSES),
}
every = pytest.mark.parametrize("name", SYSTEMS)


def make(name: str) -> Any:
    torch.manual_seed(0)
    return SYSTEMS[name]()


def clips(label: list[int], text_id: list[int] | None = None, seed: int = 0) -> ClipBatch:
    """A batch; -1 is background. Equal ``text_id`` have equal text."""
    generator = torch.Generator().manual_seed(seed)
    n = len(label)
    ids = torch.tensor(text_id if text_id is not None else list(range(n)))
    return ClipBatch(
        torch.randn(n, 3, 2, 4, 4, generator=generator), torch.tensor(label), torch.tensor(label) >= 0,
        torch.randn(n, DIM, generator=generator), torch.randn(50, TEXT, generator=generator)[ids], ids)


MIXED = [0, -1, 2, 1, -1, 0, -1]


def test_every_objective_is_here():
    assert {name.split()[0] for name in SYSTEMS} == OBJECTIVES.keys()
    for name, (kind, module) in OBJECTIVES.items():
        assert kind.__name__ == name.upper()
        assert kind.__module__ == module.__name__ == f"cuemark.pretraining.{name}"
        build(module.Config, {}, "recipe")


# ------------------------------------------------------------------------------------- the same promises


@every
def test_shapes_and_names(name: str):
    model, batch = make(name), clips(MIXED)
    out = model(batch)
    expected = {"feature": (7, DIM), "class": (7, 3)}
    if not name.startswith("tac"):
        expected["region"] = (7, 2)
    if name.startswith("clap"):
        expected |= {"video": (7, 4), "text": (7, 4)}
    if name == "clap no-cls":
        del expected["class"], expected["region"]
    if name == "clap motion":
        expected |= {"motion": (7,), "moves": (7,)}
    assert {k: tuple(v.shape) for k, v in out.items()} == expected
    assert torch.equal(out["feature"], model.encoder(batch.clips))
    losses = model.loss(out, batch)
    contrasted = {"contrast"} if "video" in expected else set()
    assert set(losses) == set(expected) & {"class", "region", "motion"} | contrasted
    assert all(v.shape == () and v.requires_grad for v in losses.values())
    assert model.classes == CLASSES


@every
def test_every_parameter_gets_a_gradient(name: str):
    model, batch = make(name), clips(MIXED)
    sum(model.loss(model(batch), batch).values()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert (parameter.grad != 0).any(), key


BATCHES = {"no foreground": [-1] * 5, "no background": [0, 1, 2, 1, 0], "all alike": [1] * 4,
           "one foreground": [-1, -1, 2, -1], "one background": [0, 1, -1, 2], "two": [0, -1]}


@every
@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES.keys())
def test_any_mixture_gives_finite_losses_and_gradients(name: str, labels: list[int]):
    model, batch = make(name), clips(labels)
    losses = model.loss(model(batch), batch)
    assert all(v.isfinite() for v in losses.values())
    assert all(v >= 0 for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if max(labels) < 0:
        assert float(losses.get("class", torch.zeros(())).detach()) == 0
        if name.startswith("clap") and model.config.mask and not model.config.pairwise:
            assert float(losses["contrast"].detach()) == 0


@every
@pytest.mark.parametrize("label", [0, -1])
def test_one_clip_alone(name: str, label: int):
    model, batch = make(name).eval(), clips([label])
    losses = model.loss(model(batch), batch)
    assert all(v.isfinite() for v in losses.values())
    if "contrast" in losses and not model.config.pairwise:  # which judges the pair by itself
        assert float(losses["contrast"].detach()) == pytest.approx(0, abs=1e-6)


@every
def test_one_clip_alone_in_training(name: str):
    model, batch = make(name), clips([0])
    losses = model.loss(model(batch), batch)
    assert all(v.isfinite() for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every
def test_the_order_of_clips_does_not_matter(name: str):
    model, batch = make(name), clips(MIXED, [0, 1, 2, 3, 1, 0, 6])
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    other = ClipBatch(*(getattr(batch, f)[order] for f in (
        "clips", "label", "foreground", "global_feature", "text", "text_id")))
    a, b = model.loss(model(batch), batch), model.loss(model(other), other)
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-6)


@every
def test_it_learns(name: str):
    """The class is the colour of a clip, background has none; losses fall well below those of knowing nothing."""
    model = make(name)
    labels = [0, 1, 2, -1] * 6
    batch = clips(labels, labels if "clap" not in name else [k % 4 for k in labels])
    with torch.no_grad():
        batch.clips *= 0.3
        batch.clips += torch.eye(4, 3)[torch.tensor(labels) % 4][:, :, None, None, None]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    totals = []
    for _ in range(60):
        loss = sum(model.loss(model(batch), batch).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < 0.25 * totals[0]
    for right, all_ in model.eval().accuracy(model(batch), batch).values():
        assert right > 0.9 * all_
        assert all_ > 0


@every
def test_bf16_autocast_trains(name: str):
    model, batch = make(name), clips(MIXED)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss(model(batch), batch)
    reference = model.loss(model(batch), batch)
    for key, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, reference[key], rtol=0.05, atol=0.02)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_what_each_needs():
    needs = {name: (kind.needs_background, kind.needs_text) for name, (kind, _) in OBJECTIVES.items()}
    assert needs == {"tac": (False, False), "tsp": (True, False), "clap": (True, True)}
    pools = {name: make(name).global_pooling for name in SYSTEMS}
    assert {k: v for k, v in pools.items() if v is not None} == {"tsp max": "max", "tsp mean": "mean"}


# ------------------------------------------------------------------------------------- TSP eq. 1, CLAP eq. 6


def cross_entropy(row: Tensor, target: int) -> float:
    values = [float(v) for v in row.detach().double()]
    top = max(values)
    return math.log(sum(math.exp(v - top) for v in values)) + top - values[target]


def mean(costs: list[float]) -> float:
    return sum(costs) / len(costs) if costs else 0.0


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "clap no-cls"])
@pytest.mark.parametrize("labels", [MIXED, *BATCHES.values()])
def test_classifiers_follow_the_equation(name: str, labels: list[int]):
    """Region on all clips, class on foreground clips; each a mean over the clips it is computed on."""
    model, batch = make(name), clips(labels)
    for head in (model.class_head, *([model.region_head] if hasattr(model, "region_head") else [])):
        nn.init.normal_(head.weight)  # as they begin, all logits are near zero
    out = model(batch)
    losses = model.loss(out, batch)
    classes = mean([cross_entropy(row, k) for row, k in zip(out["class"], labels) if k >= 0])
    assert float(losses["class"].detach()) == pytest.approx(classes, rel=1e-5, abs=1e-7)
    if "region" in losses:
        regions = mean([cross_entropy(row, int(k >= 0)) for row, k in zip(out["region"], labels)])  # 1 is foreground
        assert float(losses["region"].detach()) == pytest.approx(regions, rel=1e-5)


@every
def test_a_foreground_clip_of_an_unknown_class_is_foreground_only(name: str):
    if name == "clap no-cls":
        return
    model, batch = make(name), clips([0, 1, -1, -1])
    batch.foreground[3] = True
    out = model(batch)
    losses = model.loss(out, batch)
    known = mean([cross_entropy(out["class"][i], i) for i in (0, 1)])
    assert float(losses["class"].detach()) == pytest.approx(known, rel=1e-5)
    if "region" in losses:
        regions = mean([cross_entropy(row, int(f)) for row, f in zip(out["region"], [True, True, False, True])])
        assert float(losses["region"].detach()) == pytest.approx(regions, rel=1e-5)


@every
def test_accuracy_counts(name: str):
    model, batch = make(name).eval(), clips(MIXED)
    out = model(batch)
    if name == "clap no-cls":
        return
    out["class"] = torch.eye(3)[torch.tensor([0, 0, 2, 2, 1, 0, 0])]  # right for clips 0, 2, 5 of 0, 2, 3, 5
    expected = {"class": (3, 4)}
    if "region" in out:
        out["region"] = torch.eye(2)[torch.tensor([1, 0, 1, 1, 1, 0, 0])]  # wrong for clips 4, 5
        expected["region"] = (5, 7)
    assert model.accuracy(out, batch) == expected


def test_accuracy_without_classifiers_is_of_sentences():
    model, batch = make("clap no-cls"), clips([0, 1, -1, 2], [5, 6, 7, 5])
    out = model(batch)
    out["video"] = 3 * torch.eye(4)[[3, 2, 2, 1]]  # clip 0 finds clip 3's sentence, which is its own; 1 and 3 are wrong
    out["text"] = torch.eye(4)
    assert model.accuracy(out, batch) == {"contrast": (1, 3)}


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0), (1.0, 0.0)])
def test_tsp_weights_its_heads(weights: tuple[float, float]):
    torch.manual_seed(0)
    model = TSP(TSPConfig(weight_class=weights[0], weight_region=weights[1]), Encoder(), CLASSES)
    batch = clips(MIXED)
    losses, plain = model.loss(model(batch), batch), make("tsp max").loss(make("tsp max")(batch), batch)
    torch.testing.assert_close(losses["class"], weights[0] * plain["class"])
    torch.testing.assert_close(losses["region"], weights[1] * plain["region"])
    sum(losses.values()).backward()
    for head, weight in ((model.class_head, weights[0]), (model.region_head, weights[1])):
        assert (head.weight.grad != 0).any() == (weight > 0)
    assert (model.encoder.stem.weight.grad != 0).any()


def test_only_the_region_head_sees_the_global_feature():
    model, batch = make("tsp max"), clips(MIXED)
    other = replace(batch, global_feature=batch.global_feature + 1)
    a, b = model(batch), model(other)
    assert torch.equal(a["class"], b["class"])
    assert not torch.isclose(a["region"], b["region"]).any()
    assert model.region_head.in_features == 2 * DIM
    of_clip, of_video = model.region_head.weight[:, :DIM], model.region_head.weight[:, DIM:]
    torch.testing.assert_close(a["region"], a["feature"] @ of_clip.T + batch.global_feature @ of_video.T)


def test_without_the_global_feature_the_region_head_sees_the_clip():
    model = make("tsp none")
    assert model.region_head.in_features == DIM
    model(replace(clips(MIXED), global_feature=None))


@pytest.mark.parametrize("name", ["tsp max", "tsp mean"])
def test_a_missing_global_feature_is_named(name: str):
    with pytest.raises(DataError, match=r"needs global video features; .* options\.global_feature = \"none\""):
        make(name)(replace(clips(MIXED), global_feature=None))


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name.startswith("clap")])
def test_a_missing_sentence_is_named(name: str):
    with pytest.raises(DataError, match="CLAP needs a sentence with every clip"):
        make(name)(replace(clips(MIXED), text=None, text_id=None))


# ------------------------------------------------------------------------------------- the contrast: CLAP eqs. 3 to 5


def nce(anchor: Tensor, positive: Tensor, negatives: list[Tensor], tau: float) -> float:
    """Equation 4."""
    def power(z: Tensor) -> float:
        return math.exp(sum(float(a) * float(b) for a, b in zip(anchor, z)) / tau)

    return power(positive) / sum(power(z) for z in [positive, *negatives])


def obvious(video: Tensor, text: Tensor, ids: list[int], foreground: list[bool], config: Config) -> float:
    """Equation 3 (``mask=False``) or 5, with the minus sign, pair by pair."""
    video, text = video.detach().double(), text.detach().double()
    if config.normalise:
        video = torch.stack([v / v.norm() for v in video])
        text = torch.stack([t / t.norm() for t in text])
    n, total, pairs = len(ids), 0.0, 0
    for i in range(n):
        if config.mask and not foreground[i]:
            continue
        pairs += 1
        for mine, others in ((video, text), (text, video)):
            alike = [j for j in range(n) if j != i and ids[j] == ids[i]]
            different = [j for j in range(n) if j != i and ids[j] != ids[i]]
            if config.same_text == "mask":
                terms = [nce(mine[i], others[i], [others[j] for j in different], config.temperature)]
            elif config.same_text == "negative":
                terms = [nce(mine[i], others[i], [others[j] for j in different + alike], config.temperature)]
            else:  # every clip of that sentence is a positive in turn, background only where it counts
                positives = [i, *(j for j in alike if foreground[j] or not config.mask)]
                terms = [nce(mine[i], others[p], [others[j] for j in range(n) if j != p], config.temperature)
                         for p in positives]
            total -= sum(math.log(t) for t in terms) / len(terms)
    return total if config.reduction == "sum" else total / max(pairs, 1)


def embeddings(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    video, text = torch.randn(2, n, 4, generator=generator)
    return video.requires_grad_(), text.requires_grad_()


IDS = [[0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 2, 1, 0, 1], [3, 3, 3, 3, 3, 3, 3], [0, 0, 2, 3, 3, 5, 6]]


@pytest.mark.parametrize("ids", IDS, ids=str)
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("same_text", ["mask", "positive", "negative"])
@pytest.mark.parametrize(("normalise", "reduction", "temperature"), [
    (True, "mean", 0.07), (True, "sum", 0.5), (False, "mean", 1.0), (False, "sum", 0.7)])
def test_the_contrast_is_the_equation(ids, mask, same_text, normalise, reduction, temperature):
    config = Config(mask=mask, same_text=same_text, normalise=normalise, reduction=reduction, temperature=temperature,
                    text_dim=TEXT, projection=4)
    foreground = [k >= 0 for k in MIXED]
    video, text = embeddings(7)
    counts = torch.tensor(foreground) if mask else torch.ones(7, dtype=torch.bool)
    found = contrast(video, text, torch.tensor(ids), counts, config, 1 / temperature)
    expected = obvious(video, text, ids, foreground, config)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    found.backward()
    assert video.grad is not None
    assert video.grad.isfinite().all()
    model, batch = CLAP(config, Encoder(), CLASSES), clips(MIXED, ids)
    out = model(batch)  # and the same inside the model
    expected = obvious(out["video"], out["text"], ids, foreground, config)
    assert float(model.loss(out, batch)["contrast"].detach()) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_differ_from_the_full_clap_as_in_the_paper(name: str):
    config = build(Config, VARIANTS[name], "variant")
    paper = {  # masked pairs, captions, captions of background, classifiers
        "clip": (False, False, None, True), "mask": (True, False, None, True), "no-cls": (True, True, True, False),
        "full": (True, True, True, True), "dagger": (True, True, False, True)}
    mask, captions, of_background, classify = paper[name]
    assert (config.mask, config.captions, config.classify) == (mask, captions, classify)
    if captions:
        assert config.background_captions == of_background
    assert (config.projection, config.text_dim, config.weight_contrast) == (512, 768, 1.0)


def test_the_clip_variant_counts_all_pairs():
    foreground = [k >= 0 for k in MIXED]
    for name in VARIANTS:
        model, batch = make(f"clap {name}"), clips(MIXED)
        out = model(batch)
        found = float(model.loss(out, batch)["contrast"].detach())
        everything = obvious(out["video"], out["text"], list(range(7)), [True] * 7, model.config)
        some = obvious(out["video"], out["text"], list(range(7)), foreground, replace(model.config, mask=True))
        assert abs(everything - some) > 0.01
        assert found == pytest.approx(everything if name == "clip" else some, rel=1e-4)


def test_no_classifiers_without_classification():
    model = make("clap no-cls")
    assert not any("head" in key for key in model.state_dict())
    assert {"class_head.weight", "region_head.weight"} <= make("clap full").state_dict().keys()
    assert make("clap full").region_head.in_features == DIM  # no global video feature


def test_a_background_pair_is_a_negative_and_nothing_else():
    """Equation 5: background stays in the denominators, without a term of its own."""
    config = Config(temperature=1.0)
    foreground = torch.tensor([True, True, False, False])
    ids = torch.arange(4)
    video, text = embeddings(4)

    def loss(v: Tensor, t: Tensor, pairs: Tensor = foreground) -> Tensor:
        return contrast(v, t, ids, pairs, config, 1 / config.temperature)

    before = loss(video, text)
    before.backward()
    assert video.grad is not None
    assert text.grad is not None
    assert (video.grad.abs().sum(1) > 1e-3).all()  # pushed away from foreground sentences
    assert (text.grad.abs().sum(1) > 1e-3).all()
    for which in (2, 3):
        changed = text.detach().clone()
        changed[which] = -changed[which]
        assert abs(float(loss(video, changed).detach()) - float(before.detach())) > 1e-3
    only = torch.tensor([True, False, False, False])  # one foreground pair: whom do its terms touch?
    video, text = embeddings(4)
    a, b = torch.autograd.grad(loss(video, text, only), (video, text))
    video, text = video.detach(), text.detach()
    for i in (1, 2, 3):  # video i meets text 0 alone, and text i meets video 0 alone
        for gradient, own, met in ((a[i], video[i], text[0]), (b[i], text[i], video[0])):
            direction = met / met.norm() - own / own.norm() * torch.cosine_similarity(met, own, dim=0)
            assert float(torch.cosine_similarity(gradient, direction, dim=0)) == pytest.approx(1, abs=1e-4)


def test_two_backgrounds_do_not_meet():
    """Neither their own pair nor each other: the loss does not depend on how alike they are."""
    config = Config(normalise=False)
    foreground, ids = torch.tensor([True, False, False]), torch.arange(3)
    video = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]])
    text = torch.tensor([[0.5, 0, 0], [0.1, 0, 0], [0.2, 0, 0]])
    first = contrast(video, text, ids, foreground, config, 1.0)
    text[1:, 1:] = torch.tensor([[5.0, -5.0], [7.0, 2.0]])  # changes products among backgrounds only
    assert torch.equal(contrast(video, text, ids, foreground, config, 1.0), first)


@pytest.mark.parametrize(("same_text", "meets"), [("mask", False), ("negative", True), ("positive", True)])
def test_masked_pairs_of_one_sentence_leave_each_other_alone(same_text: str, meets: bool):
    config = Config(same_text=same_text)  # type: ignore[arg-type]
    ids, only = torch.tensor([4, 4, 9, 4]), torch.tensor([True, False, False, False])
    video, text = embeddings(4)
    a, b = torch.autograd.grad(contrast(video, text, ids, only, config, 10.0), (video, text))
    for gradient in (a, b):
        assert (gradient[[0, 2]] != 0).any(dim=1).all()
        assert (gradient[[1, 3]] != 0).any() == meets
        assert gradient.isfinite().all()


def test_a_shared_sentence_does_not_pull_background_in():
    """``same_text = "positive"``: background with a foreground clip's sentence stays a negative (equation 5)."""
    positive, negative = Config(same_text="positive"), Config(same_text="negative")
    video, text = embeddings(4)

    def loss(ids: list[int], counts: list[bool], config: Config) -> Tensor:
        return contrast(video, text, torch.tensor(ids), torch.tensor(counts), config, 10.0)

    for counts in ([True, False, False, False], [True, False, True, False]):  # rows 0, 1 and 3 share a sentence
        assert torch.equal(loss([4, 4, 9, 4], counts, positive), loss([4, 4, 9, 4], counts, negative))
    both = [True, False, False, True]
    assert not torch.isclose(loss([4, 4, 9, 4], both, positive), loss([4, 4, 9, 4], both, negative))
    assert torch.equal(loss([4, 4, 9, 4], both, positive), loss([4, 5, 9, 4], both, positive))  # row 1's is no matter


def test_perfect_and_useless_embeddings():
    far = 20 * torch.eye(5)
    ids, everything = torch.arange(5), torch.ones(5, dtype=torch.bool)
    plain = Config(normalise=False)
    assert float(contrast(far, far, ids, everything, plain, 1.0)) == pytest.approx(0, abs=1e-6)
    same = torch.ones(5, 4)
    assert float(contrast(same, same, ids, everything, Config(), 14.0)) == pytest.approx(2 * math.log(5), rel=1e-6)
    swapped = far[[1, 0, 2, 3, 4]]
    assert float(contrast(far, swapped, ids, everything, plain, 1.0)) > 100


def test_length_does_not_matter_to_cosines():
    video, text = embeddings(5)
    ids, everything = torch.arange(5), torch.ones(5, dtype=torch.bool)
    for normalise, equal in ((True, True), (False, False)):
        config = Config(normalise=normalise)
        a, b = (contrast(v, t, ids, everything, config, 1.0) for v, t in ((video, text), (3 * video, 0.1 * text)))
        assert torch.isclose(a, b) == equal


@pytest.mark.parametrize("temperature", [0.005, 0.02, 0.07, 1.0, 5.0])
def test_the_temperature_is_the_one_asked_for(temperature: float):
    config = Config(temperature=temperature, text_dim=TEXT, projection=4)
    model, batch = CLAP(config, Encoder(), CLASSES), clips(MIXED)
    out = model(batch)
    expected = obvious(out["video"], out["text"], list(range(7)), [k >= 0 for k in MIXED], config)
    assert float(model.loss(out, batch)["contrast"].detach()) == pytest.approx(expected, rel=1e-4)


def test_a_fixed_temperature_is_no_parameter_and_a_learnt_one_is():
    fixed, learnt = make("clap full"), make("clap learnt temperature")
    assert "log_scale" in fixed.state_dict()
    assert "log_scale" in learnt.state_dict()
    assert {k for k, _ in learnt.named_parameters()} - {k for k, _ in fixed.named_parameters()} == {"log_scale"}
    assert float(learnt.log_scale.detach().exp()) == pytest.approx(1 / 0.07, rel=1e-6)
    batch = clips(MIXED)
    assert torch.equal(fixed.loss(fixed(batch), batch)["contrast"], learnt.loss(learnt(batch), batch)["contrast"])


@pytest.mark.parametrize(("tau", "used"), [(0.005, 0.01), (0.0101, 0.0101), (0.5, 0.5)])
def test_a_learnt_temperature_stops_at_a_hundredth(tau: float, used: float):
    model, batch = make("clap learnt temperature"), clips(MIXED)
    with torch.no_grad():
        model.log_scale.fill_(math.log(1 / tau))
    out = model(batch)
    expected = obvious(out["video"], out["text"], list(range(7)), [k >= 0 for k in MIXED],
                       replace(model.config, temperature=used))
    assert float(model.loss(out, batch)["contrast"].detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("ids", IDS, ids=str)
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("same_text", ["mask", "positive", "negative"])
def test_the_pairwise_contrast_pair_by_pair(ids, mask, same_text):
    config = Config(mask=mask, same_text=same_text, text_dim=TEXT, projection=4)
    counts = [k >= 0 or not mask for k in MIXED]
    video, text = embeddings(7)
    found = contrast_pairwise(video, text, torch.tensor(ids), torch.tensor(counts), config, 3.0, -1.5)
    total = 0.0
    for i in range(7):
        for j in range(7):
            cosine = float(torch.nn.functional.cosine_similarity(video[i], text[j], dim=0).detach())
            alike = i != j and ids[i] == ids[j]
            if (i == j and not counts[i]) or (alike and same_text == "mask"):
                continue
            positive = i == j or (alike and same_text == "positive" and counts[i] and counts[j])
            total += math.log1p(math.exp((-1 if positive else 1) * (3.0 * cosine - 1.5)))
    assert float(found.detach()) == pytest.approx(total / sum(counts), rel=1e-5)


def test_motion_is_the_change_from_frame_to_frame():
    still = torch.randn(1, 3, 1, 4, 4).expand(1, 3, 5, 4, 4)
    moving = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 3, 5, 4, 4)
    assert motion(moving).tolist() == pytest.approx([0.0])  # one a frame
    assert motion(2 * moving).tolist() == pytest.approx([math.log(2)])
    assert float(motion(still)) < -10
    model = make("clap motion")
    batch = clips(MIXED)
    out = model(batch)
    target = motion(batch.clips)
    target = (target - target.mean()) / target.std(correction=0)
    expected = 0.5 * ((out["motion"] - target) ** 2).mean()
    torch.testing.assert_close(model.loss(out, batch)["motion"], expected)


@pytest.mark.parametrize(("weighed", "other"), [("contrast", "class"), ("class", "contrast")])
def test_weight_of_a_loss(weighed: str, other: str):
    batch = clips(MIXED)
    losses = []
    for weight in (1.0, 0.25):
        torch.manual_seed(0)
        config = Config(text_dim=TEXT, projection=4, **{f"weight_{weighed}": weight})
        model = CLAP(config, Encoder(), CLASSES)
        losses.append(model.loss(model(batch), batch))
    torch.testing.assert_close(losses[1][weighed], 0.25 * losses[0][weighed])
    assert torch.equal(losses[1][other], losses[0][other])


@pytest.mark.parametrize("change", [{"temperature": 0.0}, {"temperature": -1.0}, {"temperature": math.nan},
                                    {"projection": 0}, {"weight_contrast": -1.0}, {"weight_class": -0.5},
                                    {"weight_motion": -1.0}])
def test_impossible_options_are_refused(change: dict[str, Any]):
    with pytest.raises(CallError, match=rf"^options\.{next(iter(change))} must be a number at least "):
        CLAP(build(Config, {"text_dim": TEXT, **change}, "recipe", "options"), Encoder(), CLASSES)
