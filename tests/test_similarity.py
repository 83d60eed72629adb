"""Moments without training: the grouping once more, slowly; shots; the space of an encoder and sentences."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
import torch
from conftest import make_encoder

from cuemark import similarity, video
from cuemark.errors import CallError, ModelError
from cuemark.grid import Features, Grid
from cuemark.localization import Similarity
from cuemark.localizers.answers import Answer
from cuemark.nn.heads import Projection
from cuemark.similarity import NOTHING, Config, Space, boundaries, boundaries_of, cuts, moments, space_of

GRID = Grid(0.25, 0.5, 40, 1.0)


def curve_of(count: int, seed: int = 0) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def slow_groups(curve, levels, tolerances, edges):
    """Temporal actionness grouping as the paper tells it: basins, one after the other."""
    found = {(int(a), int(b)) for a, b in pairwise(edges)}
    low, high = float(curve.min()), float(curve.max())
    for level in [low + (high - low) * (i + 1) / (levels + 1) for i in range(levels)]:
        for a, b in pairwise(edges):
            basins, t = [], int(a)
            while t < b:
                if curve[t] >= level:
                    first = t
                    while t < b and curve[t] >= level:
                        t += 1
                    basins.append((first, t))
                else:
                    t += 1
            for tolerance in tolerances:
                for i, (start, end) in enumerate(basins):
                    filled = end - start
                    for first, last in basins[i + 1 :]:
                        filled += last - first
                        if filled / (last - start) < tolerance:
                            break
                        end = last
                    found.add((start, end))
    return sorted(found)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("edges", [(0, 40), (0, 7, 8, 25, 40)])
def test_grouping_is_the_papers(seed, edges):
    curve = curve_of(40, seed)
    found = similarity.grouped(curve, 9, (0.5, 0.75, 1.0), np.array(edges))
    assert list(map(tuple, found.tolist())) == slow_groups(curve, 9, (0.5, 0.75, 1.0), edges)


def test_a_group_reaches_over_a_gap_that_its_tolerance_allows():
    curve = np.array([0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0], np.float32)
    spans = set(map(tuple, similarity.grouped(curve, 1, (0.8,), np.array([0, 14])).tolist()))
    assert spans == {(0, 14), (1, 8), (5, 8), (12, 13)}
    strict = set(map(tuple, similarity.grouped(curve, 1, (1.0,), np.array([0, 14])).tolist()))
    assert strict == {(0, 14), (1, 4), (5, 8), (12, 13)}


def test_contrast_is_the_root_of_the_between_class_variance():
    curve = curve_of(30, 3)
    spans = np.array([(a, b) for a in range(30) for b in range(a + 1, 31)])
    for (a, b), score in zip(spans.tolist(), similarity.contrast(curve, spans)):
        inside, outside = curve[a:b].astype(float), np.r_[curve[:a], curve[b:]].astype(float)
        share = (b - a) / 30
        apart = inside.mean() - outside.mean() if len(outside) else 0.0
        assert score == pytest.approx(np.sqrt(share * (1 - share)) * apart, abs=1e-5)


def test_smoothing_stays_within_shots():
    values, edges, sigma = curve_of(20)[:, None], np.array([0, 8, 20]), 1.3
    slow = np.zeros(20)
    for t in range(20):
        same = [s for s in range(20) if (s < 8) == (t < 8) and abs(s - t) <= 4]
        weights = np.array([np.exp(-0.5 * ((s - t) / sigma) ** 2) for s in same])
        slow[t] = (weights * values[same, 0]).sum() / weights.sum()
    np.testing.assert_allclose(similarity.smoothed(values, sigma, edges)[:, 0], slow, atol=1e-5)
    np.testing.assert_array_equal(similarity.smoothed(values, 0, edges), values)


def test_a_moment_is_found_where_it_is():
    cosines = np.zeros((40, 2), np.float32)
    cosines[10:20, 0] = 0.3
    cosines[30:, 1] = 0.2
    first, second = moments(cosines, GRID, 20.5)
    assert (first[0].start, first[0].end) == (5.25, 10.25)
    assert (second[0].start, second[0].end) == (15.25, 20.5)  # the last cell reaches to the end
    for found in (first, second):
        assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
        assert all(0 <= s.start < s.end <= 20.5 for s in found)
    assert len(moments(cosines, GRID, 20.5, Config(top=1))[0]) == 1
    assert all(s.duration >= 4 for s in moments(cosines, GRID, 20.5, Config(shortest=4))[0])


def test_no_moment_crosses_a_shot():
    cosines = curve_of(40, 5)[:, None]
    for segment in moments(cosines, GRID, 20.5, Config(top=100, nms=0.99), np.array([6.25, 14.25]))[0]:
        for shot in (6.25, 14.25):
            assert not segment.start < shot < segment.end


def test_queries_do_not_see_each_other():
    cosines = np.stack([curve_of(40, i) for i in range(3)], axis=1)
    assert moments(cosines, GRID, 20.5) == [moments(cosines[:, i : i + 1], GRID, 20.5)[0] for i in range(3)]


def test_little_and_level_curves():
    assert moments(np.zeros((0, 2), np.float32), replace(GRID, count=0), 1.0) == [[], []]
    (whole,), = moments(np.full((1, 1), 0.2, np.float32), replace(GRID, count=1), 1.0)
    assert (whole.start, whole.end) == (0, 1)
    for found in moments(np.full((40, 1), 0.2, np.float32), GRID, 20.5):
        assert all(s.score == pytest.approx(0, abs=1e-6) for s in found)


@pytest.mark.parametrize("wrong", [{"smooth": -1.0}, {"levels": 0}, {"tolerances": (1.5,)}, {"nms": 2.0}, {"top": 0}])
def test_impossible_settings(wrong):
    with pytest.raises(CallError, match=next(iter(wrong))):
        Config(**wrong)


# ---------------------------------------------------------------------------------------------- shots


def test_boundaries_of_features():
    rng = np.random.default_rng(0)
    scenes = rng.standard_normal((3, 16))
    rows = np.concatenate([np.tile(scenes[i], (n, 1)) for i, n in enumerate((12, 20, 9))])
    rows += 0.05 * rng.standard_normal(rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert boundaries(rows).tolist() == [12, 32]
    assert boundaries(rows[:12]).tolist() == []
    assert boundaries(rows[:1]).tolist() == boundaries(rows[:0]).tolist() == []
    videos = [rows, rows[:12], rows[:0], rows[5:], rows[:1], rows[:2], rows[10:40]]
    assert [found.tolist() for found in boundaries_of(videos)] == [boundaries(part).tolist() for part in videos]
    assert boundaries_of([]) == []


def test_cuts_of_a_video(tmp_path):
    rng = np.random.default_rng(0)
    pictures = []
    for number, count in enumerate((20, 25, 15)):
        scene = rng.integers(0, 255, (6, 8, 3)).repeat(8, 0).repeat(8, 1)
        pictures += [np.roll(scene, i % 3, axis=1).astype(np.uint8) for i in range(count)]
        assert number < 3
    video.write(tmp_path / "v.mp4", pictures, fps=25)
    np.testing.assert_allclose(cuts(tmp_path / "v.mp4"), [20 / 25, 45 / 25], atol=1e-3)
    np.testing.assert_allclose(cuts(tmp_path / "v.mp4", start=1.0), [45 / 25], atol=1e-3)


# ---------------------------------------------------------------------------------------------- the space


def clap(text_dim: int = 24, outputs: int = 12, seed: int = 0):
    """The tiny encoder with CLAP's projections."""
    encoder, extra = make_encoder(seed), {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, dim in (("project_video", 32), ("project_text", text_dim)):
            extra |= {f"{name}.{k}": v for k, v in Projection(dim, outputs).state_dict().items()}
    return replace(encoder, extra=extra)


def test_the_space_of_clap(tiny_text, tiny_features):
    encoder = clap()
    space = space_of(encoder, str(tiny_text))
    features = next(iter(tiny_features.values()))
    rows, said = space.see(features.data), space.read(["a red star", "a star"])
    assert rows.shape == (features.grid.count, 12)
    assert said.shape == (2, space.dim)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    model = Similarity(encoder, space, Config())
    asked = model.asks(["a red star", "a star"], ["star"])
    named, red, plain = model.answers({"a": features}, {"a": asked})["a"]
    assert [a.asked for a in (named, red, plain)] == [("star",), ("a red star",), ("a star",)]
    assert {s.label for s in named.segments} == {"star"}
    assert {s.query for s in red.segments} == {"a red star"}
    for answer, sentence in ((named, "foreground of star"), (red, "a red star"), (plain, "a star")):
        (alone,) = model.answers({"a": features}, {"a": model.asks([sentence])})["a"]
        np.testing.assert_allclose([(s.start, s.end, s.score) for s in answer.segments],
                                   [(s.start, s.end, s.score) for s in alone.segments], atol=1e-5)


def test_the_space_of_an_image_tower(tiny_text):
    """What a CLIP carries is a projection alone; its text encoder is in the space already."""
    encoder = replace(make_encoder(0), extra={"projection": torch.eye(24, 32)})
    space = space_of(encoder, str(tiny_text))
    data = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    np.testing.assert_allclose(space.see(data), data[:, :24] / np.linalg.norm(data[:, :24], axis=1, keepdims=True),
                               atol=1e-5)
    assert space.prompt.format("x") == "a photo of x."


def test_encoders_without_a_space(tiny_encoder, tiny_text):
    with pytest.raises(ModelError, match="does not say which text encoder"):
        space_of(clap())
    with pytest.raises(ModelError, match="cannot compare videos with sentences"):
        space_of(tiny_encoder, str(tiny_text))
    with pytest.raises(ModelError, match="vectors of 30 numbers, but this text encoder makes 24"):
        space_of(clap(text_dim=30), str(tiny_text)).read(["a star"])
    with pytest.raises(ModelError, match="which makes 32 numbers"):
        space_of(clap(), str(tiny_text)).see(np.zeros((2, 31), np.float32))


def planted(strength: float = 1.0) -> tuple[Similarity, Features]:
    """A video whose clips 12 to 21 are like "it", for one that reads every other sentence as a direction of its own."""
    rng = np.random.default_rng(0)
    known: dict[str, np.ndarray] = {}

    def read(said):
        for text in said:
            known.setdefault(text, unit(np.random.default_rng(len(known)).standard_normal((1, 24))))
        return np.concatenate([known[text] for text in said]).astype(np.float32)

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    rows = 0.3 * rng.standard_normal((40, 24)).astype(np.float32)
    rows[12:22] += strength * read(["it"])
    space = Space(lambda data: unit(data).astype(np.float32), read, 24)
    return Similarity(make_encoder(0), space, Config()), Features(rows, GRID, 20.5)


def test_a_sentence_is_found_where_clips_are_like_it():
    model, features = planted()
    (answer,) = model.answers({"v": features}, {"v": model.asks(["it"])})["v"]
    best = answer.segments[0]
    assert (best.start, best.end) == pytest.approx((6.25, 11.25), abs=0.5)
    assert (best.query, answer.absent) == ("it", ())
    (cut, *_), = (a.segments for a in model.answers({"v": features}, {"v": model.asks(["it"])}, {"v": [8.75]})["v"])
    assert not cut.start < 8.75 < cut.end


def test_a_sentence_about_nothing_in_the_video_is_not_found():
    model, features = planted()
    asked = {"v": model.asks(["it", "the tax return"], ["it"])}
    named, there, strange = model.answers({"v": features}, asked, least=0.95)["v"]
    assert there.sure > 0.999
    assert there.segments
    assert named.segments  # the prompt of this space is the name alone
    assert strange.sure < 0.95
    assert (strange.segments, strange.absent) == ((), ("the tax return",))
    without = model.answers({"v": features}, asked)["v"]
    assert without[2].segments
    assert [a.sure for a in without] == [a.sure for a in (named, there, strange)]
    best = (model.space.see(features.data) @ model.space.read(NOTHING).T).max(0)
    itself = (model.space.see(features.data) @ model.space.read(["the tax return"]).T).max()
    assert strange.sure == pytest.approx(NormalDist(best.mean(), best.std()).cdf(itself), abs=1e-4)


def test_without_training_there_are_no_examples_and_no_classes_of_its_own():
    model, features = planted()
    for call, why in ((lambda: model.localize("a.mp4"), "knows no classes of its own"),
                      (lambda: model.localize("a.mp4", [" "]), "ask it a sentence"),
                      (lambda: model.localize("a.mp4", examples=["a.mp4:0-1"]), "cannot be shown examples"),
                      (lambda: model.localize("a.mp4", ["it"], least=2), "least must be")):
        with pytest.raises(CallError, match=why):
            call()
    assert model.answers({"v": features}, {"v": []})["v"] == [Answer("v")]
