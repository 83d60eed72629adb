"""Clips as batches: real (tiny) videos in, the same tensors whoever decodes them and wherever one begins."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuemark import ranks, training, video
from cuemark.batch import ClipBatch
from cuemark.clips import ClipConfig, ClipSet, Sampling
from cuemark.errors import CallError, DataError
from cuemark.pretraining.clap import VARIANTS
from cuemark.pretraining.data import ClipData, _number
from cuemark.recipe import Recipe
from cuemark.segments import Segment, Truth, VideoTruth, write_truth
from cuemark.settings import build

CLIP = ClipConfig(frames=4, fps=10.0, short_side=40, crop=32)  # 0.4 s
CLASSES = ("jump", "run", "swim")
TRUTH: Truth = {
    "a": VideoTruth(4.0, (Segment(0.5, 1.5, "run"), Segment(2.5, 3.5, "jump"))),
    "b": VideoTruth(3.0, (Segment(0.0, 3.0, "swim"),)),
    "c": VideoTruth(3.0, (Segment(1.0, 2.0, "fly"), Segment(1.0, 2.0, "run"))),
}
REGIONS = 3 + 2 + 1 + 2 + 2  # background, foreground; of a, b, c
CAPTIONS = {"a": [Segment(0.0, 2.0, sentence="She runs."), Segment(2.0, 4.0, sentence="He jumps.")],
            "b": [Segment(0.0, 3.0, sentence="She runs.")]}


class Reader:
    """Stands in for a TextEncoder: remembers what it was asked, and gives each sentence its own vector."""

    dim = 5

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def encode(self, sentences: Sequence[str]) -> torch.Tensor:
        self.asked.append(list(sentences))
        seeds = [torch.Generator().manual_seed(sum(s.encode())) for s in sentences]
        return torch.stack([torch.randn(5, generator=seed) for seed in seeds])


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """48 x 40 pixels at 10 fps; the grey level is the video's and the frame's number, with a mark that moves."""
    folder = tmp_path_factory.mktemp("videos")
    for k, (name, truth) in enumerate(TRUTH.items()):
        images = []
        for i in range(int(truth.duration * 10)):
            image = np.full((40, 48, 3), 40 * k + 3 * i, np.uint8)
            image[:, (7 * i) % 40 : (7 * i) % 40 + 8, k] = 255
            images.append(image)
        video.write(folder / f"{name}.mp4", images, fps=10, quality=10)
    return {name: folder / f"{name}.mp4" for name in TRUTH}


def data(videos: Mapping[str, Path], batch: int = 8, training: bool = True, seed: int = 0, truth: Truth = TRUTH,
         sampling: Sampling = Sampling(), budget: float = 1e9, **how: Any) -> ClipData:  # noqa: B008
    clips = ClipSet(truth, videos, CLIP, sampling, training=training, seed=seed, budget_bytes=budget)
    return ClipData(clips, CLASSES, batch, **{"workers": 0, **how})


def same(a: ClipBatch, b: ClipBatch) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(ClipBatch)]
    return all((x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y)) for x, y in pairs)


def everything(videos: Mapping[str, Path], **how: Any) -> ClipData:
    """With sentences and global features."""
    pooled = {name: np.full(6, k, np.float16) for k, name in enumerate(TRUTH)}
    return data(videos, text=Reader(), captions=CAPTIONS, global_features=pooled, **how)


# ------------------------------------------------------------------------------------- what a batch holds


def test_shapes_and_kinds(videos):
    batches = list(everything(videos).epoch(0))
    assert len(batches) == len(everything(videos)) == REGIONS * 5 // 8
    for batch in batches:
        assert {f.name: (tuple(getattr(batch, f.name).shape), getattr(batch, f.name).dtype) for f in fields(batch)} == {
            "clips": ((8, 3, 4, 32, 32), torch.float32), "label": ((8,), torch.int64),
            "foreground": ((8,), torch.bool), "global_feature": ((8, 6), torch.float32),
            "text": ((8, 5), torch.float32), "text_id": ((8,), torch.int64)}
    plain = next(data(videos).epoch(0))
    assert (plain.text, plain.text_id, plain.global_feature) == (None, None, None)


def test_clips_lie_in_memory_as_the_encoders_want_them(videos):
    for batch in data(videos).epoch(0):
        assert batch.clips.is_contiguous(memory_format=torch.channels_last_3d)
    batch = next(data(videos, batch=1).epoch(0))
    assert batch.clips.is_contiguous(memory_format=torch.channels_last_3d)


def test_pixels_are_the_clips_normalised(videos):
    reader = data(videos, training=False, batch=1)
    batch = next(reader.epoch(0))
    clip, _ = reader.clips.draw(0)
    for channel in range(3):
        expected = (clip.frames[..., channel] / 255 - CLIP.mean[channel]) / CLIP.std[channel]
        np.testing.assert_allclose(batch.clips[0, channel].numpy(), expected, rtol=0, atol=1e-5)


def test_labels_are_those_of_the_region(videos):
    """In validation, where the order is known."""
    reader = everything(videos, training=False)
    regions = [reader.clips.regions[k % REGIONS] for k in range(REGIONS * 5)]
    label = torch.cat([batch.label for batch in reader.epoch(0)]).tolist()
    foreground = torch.cat([batch.foreground for batch in reader.epoch(0)]).tolist()
    pooled = torch.cat([batch.global_feature for batch in reader.epoch(0)])[:, 0].tolist()
    assert foreground == [r.foreground for r in regions]
    assert label == [{"jump": 0, "run": 1, "swim": 2}.get(r.label or "", -1) for r in regions]
    assert pooled == [float("abc".index(r.video)) for r in regions]
    unknown = [k for k, r in enumerate(regions) if r.label == "fly"]
    assert len(unknown) == 5
    assert all(label[k] == -1 and foreground[k] for k in unknown)


def test_classes_may_be_unknown_to_the_truth(videos):
    reader = data(videos)
    reader = ClipData(reader.clips, ("dive", "swim", "climb"), 8, workers=0)
    assert {int(k) for batch in reader.epoch(0) for k in batch.label} == {-1, 1}


# ------------------------------------------------------------------------------------- what a batch depends on


@pytest.mark.parametrize("training", [True, False])
def test_batches_do_not_depend_on_who_decodes(videos, training: bool):
    expected = list(everything(videos, training=training).epoch(1))
    for workers, budget in ((1, 1e9), (3, 1e9), (3, 0), (0, 2e5)):  # all, none, or one video in memory
        found = list(everything(videos, training=training, workers=workers, budget=budget).epoch(1))
        assert len(found) == len(expected)
        assert all(same(a, b) for a, b in zip(found, expected))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_may_begin_anywhere(videos, training: bool, workers: int):
    reader = everything(videos, training=training, workers=workers)
    whole = list(reader.epoch(2))
    for skip in range(len(reader) + 2):
        rest = list(everything(videos, training=training, workers=workers).epoch(2, skip=skip))
        assert len(rest) == max(0, len(whole) - skip)
        assert all(same(a, b) for a, b in zip(rest, whole[skip:]))


def test_an_epoch_may_be_left_in_the_middle(videos):
    reader = everything(videos, workers=3)
    first = reader.epoch(0)
    batch = next(first)
    first.close()
    assert same(next(reader.epoch(0)), batch)


def test_epochs_and_seeds_differ(videos):
    def shown(seed: int, epoch: int) -> set[bytes]:
        return {clip.numpy().tobytes() for batch in everything(videos, seed=seed).epoch(epoch) for clip in batch.clips}

    first = shown(0, 0)
    assert first == shown(0, 0)
    assert len(first) > 40
    for other in (shown(0, 1), shown(1, 0), shown(1, 1)):
        assert len(first & other) < 0.2 * len(first)


def test_an_epoch_shows_every_region_equally_often(videos):
    """TSP section 4.1: five clips of each; those that do not fill the last batch are left out."""
    reader = data(videos, batch=5)
    assert len(reader) == REGIONS
    counts = Counter(int(k) for batch in reader.epoch(0) for k in batch.label)
    assert counts == {0: 5, 1: 10, 2: 5, -1: 30}  # jump; run in a and c; swim; 5 background regions and fly
    order = [batch.label.tolist() for batch in reader.epoch(0)]
    assert order != [batch.label.tolist() for batch in reader.epoch(1)]


# ------------------------------------------------------------------------------------- validation


def test_validation_is_the_same_every_time_and_complete(videos):
    reader = data(videos, training=False, batch=8, seed=0)
    assert len(reader) == math.ceil(REGIONS * 5 / 8)
    batches = list(reader.epoch(0))
    assert [len(batch.clips) for batch in batches] == [8] * 6 + [2]
    for again in (reader.epoch(0), reader.epoch(3), data(videos, training=False, seed=9).epoch(1)):
        assert all(same(a, b) for a, b in zip(again, batches, strict=True))


def test_validation_spaces_clips_evenly(videos):
    """Video b is one region: its five clips show frames 0, 6.5, 13, 19.5 and 26."""
    truth = {"b": TRUTH["b"]}
    (batch,) = data(videos, training=False, truth=truth).epoch(0)
    grey = batch.clips[:, 0, 0].flatten(1).median(dim=1).values * CLIP.std[0] + CLIP.mean[0]
    np.testing.assert_allclose((grey.numpy() * 255 - 40) / 3, [0, 6.5, 13, 19.5, 26], atol=1)


def test_training_batches_are_full_and_no_larger_than_the_data(videos):
    truth = {"b": TRUTH["b"]}
    reader = data(videos, truth=truth, batch=32)
    assert len(reader) == 1
    assert [len(batch.clips) for batch in reader.epoch(0)] == [5]
    assert [len(batch.clips) for batch in data(videos, truth=truth, batch=4).epoch(0)] == [4]
    assert [len(batch.clips) for batch in data(videos, truth=truth, batch=4, training=False).epoch(0)] == [4, 1]


# ------------------------------------------------------------------------------------- sentences


def test_text_ids_are_equal_where_sentences_are(videos):
    reader = everything(videos)
    assert isinstance(reader.text, Reader)
    batches = [batch for epoch in range(2) for batch in reader.epoch(epoch)]
    alike = 0
    for batch, sentences in zip(batches, reader.text.asked, strict=True):
        ids = batch.text_id.tolist()
        for i in range(len(ids)):
            for j in range(i):
                assert (ids[i] == ids[j]) == (sentences[i] == sentences[j])
                alike += ids[i] == ids[j]
        assert torch.equal(batch.text, Reader().encode(sentences))
    assert alike > 10


def test_prompts_name_the_action_or_the_nearest(videos):
    reader = data(videos, training=False, text=Reader())
    list(reader.epoch(0))
    asked = [s for batch in reader.text.asked for s in batch]
    assert asked == [f"{'foreground' if r.foreground else 'background'} of {r.near}"
                     for r in (reader.clips.regions[k % REGIONS] for k in range(REGIONS * 5))]


def drawn(videos: Mapping[str, Path], p: float = 0.5, epochs: int = 8, **how: Any) -> Counter[tuple[bool, bool, bool]]:
    """Counts of (foreground, a caption overlaps, a caption was taken) over epochs of training."""
    reader = data(videos, text=Reader(), batch=REGIONS * 5, sampling=Sampling(p_caption=p),
                  **{"captions": CAPTIONS, **how})
    assert isinstance(reader.text, Reader)
    counts: Counter[tuple[bool, bool, bool]] = Counter()
    for epoch in range(epochs):
        next(reader.epoch(epoch))
        for number, sentence in zip(reader.clips.order(epoch), reader.text.asked[-1], strict=True):
            region = reader.clips.regions[number % REGIONS]
            told = {c.sentence for c in CAPTIONS.get(region.video, ())}
            taken = sentence in told
            assert taken or sentence == f"{'foreground' if region.foreground else 'background'} of {region.near}"
            counts[region.foreground, bool(told), taken] += 1
    return counts


def share(counts: Counter[tuple[bool, bool, bool]], foreground: bool) -> tuple[float, float]:
    """Of captioned clips among those that a caption overlaps, and five standard deviations of it at one half."""
    taken, left = counts[foreground, True, True], counts[foreground, True, False]
    assert taken + left >= 100
    return taken / (taken + left), 5 * 0.5 / math.sqrt(taken + left)


def test_captions_are_taken_half_the_time(videos):
    counts = drawn(videos)
    for foreground in (True, False):
        found, bound = share(counts, foreground)
        assert abs(found - 0.5) < bound
        assert counts[foreground, False, True] == 0
        assert counts[foreground, False, False] > 0


@pytest.mark.parametrize(("p", "expected"), [(0.0, 0.0), (1.0, 1.0), (0.2, 0.2)])
def test_the_probability_is_a_setting(videos, p: float, expected: float):
    counts = drawn(videos, p)
    for foreground in (True, False):
        found, bound = share(counts, foreground)
        assert abs(found - expected) <= (bound if 0 < p < 1 else 0)


def test_the_dagger_keeps_captions_from_background(videos):
    counts = drawn(videos, background_captions=False)
    found, bound = share(counts, True)
    assert abs(found - 0.5) < bound
    assert share(counts, False)[0] == 0


def test_without_captions_there_are_prompts(videos):
    assert not any(taken for _, _, taken in drawn(videos, captions={}, epochs=2))


def test_captions_change_nothing_but_the_sentences(videos):
    """Clips of two objectives can be compared: they are the same clips."""
    for a, b in zip(everything(videos).epoch(0), data(videos).epoch(0), strict=True):
        assert torch.equal(a.clips, b.clips)
        assert torch.equal(a.label, b.label)


# ------------------------------------------------------------------------------------- global features


def test_a_video_without_a_global_feature_is_named(videos):
    with pytest.raises(DataError, match=r"2 videos have no global video feature, 'b' first; extract features"):
        data(videos, global_features={"a": np.zeros(6, np.float32)})
    with pytest.raises(DataError, match="3 videos have no global video feature, 'a' first"):
        data(videos, global_features={})
    data(videos, global_features={name: np.zeros(6) for name in (*TRUTH, "another")})


# ------------------------------------------------------------------------------------- one pass for each video


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("budget", [0, 1e9])
@pytest.mark.parametrize("together", [1, 3, 8])
def test_a_batch_reads_each_video_once_and_is_what_its_clips_are_alone(
        videos, together: int, budget: float, training: bool, monkeypatch: pytest.MonkeyPatch):
    sampling = Sampling(clips_per_video=together)
    reader = everything(videos, sampling=sampling, budget=budget, training=training)
    alone = everything(videos, sampling=sampling, budget=budget, training=training)
    read: list[Path] = []
    real = reader.clips.reader.read
    monkeypatch.setattr(reader.clips.reader, "read", lambda path, times: read.append(path) or real(path, times))
    order = reader.clips.order(1)
    for i, batch in enumerate(reader.epoch(1)):
        numbers = order[8 * i : 8 * i + 8].tolist()
        drawn = [alone.clips.draw(n, 1) for n in numbers]
        assert same(batch, alone._collate([(clip, alone._sentence(clip, rng)) for clip, rng in drawn]))
        assert Counter(read) == Counter({videos[clip.region.video] for clip, _ in drawn})
        read.clear()
    assert reader.text.asked == alone.text.asked


# ------------------------------------------------------------------------------------- from a recipe


class Caught(Exception):
    pass


@pytest.mark.parametrize("variant", VARIANTS)
def test_options_of_a_recipe_reach_the_data(videos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str):
    """CLAP's variants: captions or none, and the dagger's prompts for background."""
    caught: list[Any] = []

    def fit(model: Any, data: ClipData, *rest: Any, **how: Any) -> None:
        caught[:] = [model, data, how["validate"]]
        raise Caught

    write_truth(tmp_path / "truth.json", TRUTH)
    (tmp_path / "captions.json").write_text(json.dumps({
        f"v_{vid}": {"duration": TRUTH[vid].duration, "timestamps": [[c.start, c.end] for c in segments],
                     "sentences": [c.sentence for c in segments]} for vid, segments in CAPTIONS.items()}))
    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(training.TextEncoder, "load", lambda name, max_tokens: Reader())
    recipe = build(Recipe, {
        "system": "clap", "workers": 0, "options": dict(VARIANTS[variant]) | {"projection": 8}, "optim": {"batch": 50},
        "data": {"truth": str(tmp_path / "truth.json"), "videos": str(videos["a"].parent), "validate": ["training"],
                 "captions": str(tmp_path / "captions.json")},
        "encoder": {"network": {"width": 4, "blocks": [1, 1, 1, 1]},
                    "clip": {"frames": 4, "fps": 10, "short_side": 40, "crop": 32}}}, "recipe")
    with pytest.raises(Caught):
        training.pretrain(recipe, tmp_path / "run")
    model, reader, validate = caught
    assert model.classes == ("fly", "jump", "run", "swim")
    assert model.config.text_dim == 5
    list(reader.epoch(0))
    asked = [s for batch in reader.text.asked for s in batch]
    regions = [reader.clips.regions[k % REGIONS] for k in reader.clips.order(0)]
    for foreground in (True, False):
        captioned = [s for s, r in zip(asked, regions, strict=True) if r.foreground == foreground and " of " not in s]
        wanted = variant in ("full", "no-cls") or (variant == "dagger" and foreground)
        assert bool(captioned) == wanted
    scores = validate(model.eval())
    assert set(scores) == ({"contrast", "score"} if variant == "no-cls" else {"class", "region", "score"})
    assert 0 <= scores["score"] <= 1


def test_tsp_asks_for_the_features_it_pools(videos, tmp_path: Path):
    write_truth(tmp_path / "truth.json", TRUTH)
    recipe = build(Recipe, {
        "system": "tsp", "data": {"truth": str(tmp_path / "truth.json"), "videos": str(videos["a"].parent)},
        "encoder": {"network": {"width": 4, "blocks": [1, 1, 1, 1]}}}, "recipe")
    with pytest.raises(DataError, match=r"name a features folder .*\(data\.features\), or set options\.global_feature"):
        training.pretrain(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------- several processes


def of_ranks(monkeypatch: pytest.MonkeyPatch, count: int, draw: Callable[[], list[ClipBatch]]) -> list[list[ClipBatch]]:
    """What each of ``count`` processes reads; tests/test_ranks.py has real ones."""
    monkeypatch.setattr(ranks, "count", lambda: count)
    found = []
    for rank in range(count):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        found.append(draw())
    monkeypatch.undo()
    return found


def joined(parts: Sequence[ClipBatch]) -> ClipBatch:
    return ClipBatch(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(ClipBatch)})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_rows_of_all_ranks_are_the_batch(videos, monkeypatch, count: int, together: int, workers: int):
    how: dict[str, Any] = {"sampling": Sampling(clips_per_video=together), "workers": workers}
    alone = list(everything(videos, **how).epoch(1, skip=1))
    parts = of_ranks(monkeypatch, count, lambda: list(everything(videos, **how).epoch(1, skip=1)))
    assert {len(part) for part in parts} == {len(alone)}
    for i, batch in enumerate(alone):
        assert same(joined([part[i] for part in parts]), batch)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_ranks_share_validation_by_whole_batches(videos, monkeypatch, count: int):
    """Every clip is judged once, in the company that it has in one process; the last ranks may have nothing to do."""
    alone = list(everything(videos, training=False).epoch(0))
    parts = of_ranks(monkeypatch, count, lambda: list(everything(videos, training=False).epoch(0)))
    assert sorted(len(part) for part in parts)[0] == len(alone) // count
    for rank, part in enumerate(parts):
        assert len(part) == len(alone[rank::count])
        assert all(same(a, b) for a, b in zip(part, alone[rank::count], strict=True))


def test_a_batch_that_ranks_cannot_share(videos, monkeypatch):
    with pytest.raises(CallError, match=r"a batch of 8 cannot be shared evenly by 3 processes; change optim\.batch"):
        of_ranks(monkeypatch, 3, lambda: list(data(videos).epoch(0)))
    with pytest.raises(CallError, match="a batch of 5 cannot be shared evenly by 2 processes"):  # all that there are
        of_ranks(monkeypatch, 2, lambda: list(data(videos, truth={"b": TRUTH["b"]}, batch=32).epoch(0)))


def test_sentences_have_the_same_number_in_every_process():
    """Python's own hash has not."""
    assert _number("a star bounces") == int(hashlib.blake2b(b"a star bounces", digest_size=8).hexdigest(), 16) // 2
    assert 0 <= _number("") < 2**63
    assert len({_number(f"sentence {i}") for i in range(2000)}) == 2000


def test_a_batch_is_split_in_order(videos):
    batch = next(everything(videos).epoch(0))
    for size, lengths in ((1, [1] * 8), (3, [3, 3, 2]), (8, [8]), (9, [8])):
        parts = batch.split(size)
        assert [len(part.clips) for part in parts] == lengths
        assert same(joined(parts), batch)
        assert all(part.clips.is_contiguous(memory_format=torch.channels_last_3d) for part in parts)
    plain = next(data(videos).epoch(0)).split(4)
    assert [(part.text, part.text_id, part.global_feature) for part in plain] == [(None, None, None)] * 2
