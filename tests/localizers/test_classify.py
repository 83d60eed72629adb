"""Naming spans."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, DataError, ModelError
from cuemark.feature_folder import FeatureFolder
from cuemark.grid import Features, Grid
from cuemark.localizers import classify
from cuemark.localizers.classify import (
    SpanClassifier,
    encoder_scores,
    fuse,
    name_predictions,
    projections,
    span_loss,
    span_scores,
    text_scores,
)
from cuemark.nn.heads import Projection
from cuemark.segments import Segment


def test_scores_are_the_softmax_of_the_mean_over_the_span():
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    found = span_scores(logits, torch.tensor([1, 0]), torch.tensor([[1.0, 4.0], [2.5, 3.5]]))
    torch.testing.assert_close(found[0], logits[1, 1:4].mean(dim=0).softmax(dim=0))
    torch.testing.assert_close(found[1], logits[0, 2:4].mean(dim=0).softmax(dim=0))


def test_the_loss_is_cross_entropy_over_the_true_spans():
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows, spans, labels = torch.tensor([0, 1]), torch.tensor([[0.0, 2.0], [1.0, 6.0]]), torch.tensor([2, 0])
    expected = F.cross_entropy(torch.stack([logits[0, :2].mean(dim=0), logits[1, 1:].mean(dim=0)]), labels)
    torch.testing.assert_close(span_loss(logits, rows, spans, labels), expected)


def test_the_loss_without_spans_is_zero_with_a_gradient():
    logits = torch.randn(1, 4, 3).requires_grad_()
    loss = span_loss(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_averaging_logits_is_naming_the_average_snippet():
    layer, features = SpanClassifier(4, 3), torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    whole = span_scores(layer(features), torch.tensor([0]), torch.tensor([[0.0, 5.0]]))
    torch.testing.assert_close(whole[0], layer(features.mean(dim=1)).softmax(dim=1)[0])


def test_an_encoders_head_is_taken_over_and_frozen():
    layer = SpanClassifier(4, 3).empty()
    assert not layer.filled
    head = torch.nn.Linear(4, 3)
    layer.fill(head.weight, head.bias)
    assert layer.filled
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(layer(x), head(x))
    assert not any(p.requires_grad for p in layer.parameters())
    again = SpanClassifier(4, 3).empty()
    again.load_state_dict(layer.state_dict())
    assert again.filled


def test_an_encoders_head_that_does_not_fit_is_refused():
    with pytest.raises(ModelError, match=r"\(2, 4\).*3 classes from 4-dimensional"):
        SpanClassifier(4, 3).fill(torch.zeros(2, 4), torch.zeros(2))


PROPOSALS = [Segment(0, 2, score=0.8), Segment(1, 3, score=0.5), Segment(5, 6)]


def test_fuse_emits_every_proposal_with_the_best_labels():
    named = fuse(PROPOSALS, {"a": 0.1, "b": 0.7, "c": 0.2}, top=2)
    assert [(s.start, s.label, s.score) for s in named] == [
        (5, "b", pytest.approx(0.7)), (0, "b", pytest.approx(0.56)), (1, "b", pytest.approx(0.35)),
        (5, "c", pytest.approx(0.2)), (0, "c", pytest.approx(0.16)), (1, "c", pytest.approx(0.1))]


def test_fuse_without_scores_leaves_proposals_nameless():
    assert fuse(PROPOSALS, {}) == PROPOSALS
    assert fuse([], {"a": 1.0}) == []


def test_fuse_with_fewer_labels_than_asked_for():
    assert len(fuse(PROPOSALS, {"a": 1.0}, top=5)) == 3


def test_fuse_needs_a_label_each():
    with pytest.raises(CallError, match="top >= 1"):
        fuse(PROPOSALS, {"a": 1.0}, top=0)


def test_every_video_is_named_by_its_own_scores():
    found = name_predictions({"x": PROPOSALS, "y": PROPOSALS[:1], "z": PROPOSALS}, {
        "x": {"a": 0.1, "b": 0.7}, "y": {"c": 0.5}, "unseen": {"a": 1.0}}, top=1)
    assert found == {"x": fuse(PROPOSALS, {"b": 0.7}), "y": [Segment(0, 2, "c", 0.4)], "z": PROPOSALS}
    assert name_predictions({}, {"x": {"a": 1.0}}) == {}
    assert name_predictions({"x": PROPOSALS}, {}) == {"x": PROPOSALS}


def test_scores_of_other_videos_are_refused():
    with pytest.raises(DataError, match="'v_x' is the first predicted, 'x' the first scored"):
        name_predictions({"v_x": PROPOSALS}, {"x": {"a": 0.1}})


# ------------------------------------------------------------------------------------------ scores of whole videos


def seen(count: int, dim: int, seed: int = 0) -> Features:
    data = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return Features(data, Grid(0.0, 2.0, count, 2.0), 2.0 * count)


def with_head(tiny_encoder: VideoEncoder) -> VideoEncoder:
    draw = torch.Generator().manual_seed(0)
    head = {"weight": torch.randn(3, tiny_encoder.dim, generator=draw), "bias": torch.randn(3, generator=draw)}
    return replace(tiny_encoder, classes=("a", "b", "c"), class_head=head)


def slow_pool(logits: list[list[float]], share: float) -> list[float]:
    """Softmax of each class's mean over its highest clips."""
    count = int(np.ceil(share * len(logits)))
    best = [sum(sorted((row[k] for row in logits), reverse=True)[:count]) / count for k in range(len(logits[0]))]
    whole = sum(np.exp(value) for value in best)
    return [float(np.exp(value) / whole) for value in best]


@pytest.mark.parametrize("share", [1.0, 0.3, 0.01])
def test_the_encoders_class_head_scores_videos(tiny_encoder, share):
    encoder = with_head(tiny_encoder)
    videos = {"x": seen(7, encoder.dim), "y": seen(1, encoder.dim, 1), "nothing": seen(0, encoder.dim)}
    found = encoder_scores(videos, encoder, share)
    assert list(found) == ["x", "y"]
    weight, bias = (encoder.class_head[name].numpy() for name in ("weight", "bias"))
    for vid, scores in found.items():
        assert list(scores) == ["a", "b", "c"]
        logits = [[float(row @ weight[k] + bias[k]) for k in range(3)] for row in videos[vid].data]
        assert list(scores.values()) == pytest.approx(slow_pool(logits, share), abs=1e-5)


def test_a_class_that_shows_briefly_speaks_when_a_share_is_pooled(tiny_encoder):
    encoder = replace(with_head(tiny_encoder), class_head={"weight": torch.eye(3, tiny_encoder.dim),
                                                           "bias": torch.zeros(3)})
    video = seen(10, encoder.dim)
    video.data[:] = 0
    video.data[:, 0], video.data[4, 1] = 1.0, 6.0
    best = [max(scores, key=scores.get) for share in (1.0, 0.1)
            for scores in [encoder_scores({"x": video}, encoder, share)["x"]]]
    assert best == ["a", "b"]


def with_projections(tiny_encoder: VideoEncoder, width: int = 6) -> VideoEncoder:
    """A CLAP encoder's two projections, with running statistics that are not the first ones."""
    torch.manual_seed(0)
    extra = {"log_scale": torch.tensor(1.5)}
    for name, dim in (("project_video", tiny_encoder.dim), ("project_text", width)):
        made = Projection(dim, 4)
        made(torch.randn(50, dim) * 2 + 1)
        extra |= {f"{name}.{key}": value for key, value in made.state_dict().items()}
    return replace(tiny_encoder, extra=extra)


def told(sentences) -> torch.Tensor:
    """A text encoder: 6 numbers that depend on the sentence alone."""
    return torch.stack([torch.from_numpy(np.random.default_rng(list(s.encode())).normal(size=6)).float()
                        for s in sentences])


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_labels_score_videos_by_their_words(tiny_encoder, share):
    encoder, video = with_projections(tiny_encoder), seen(7, tiny_encoder.dim)
    found = text_scores({"x": video}, encoder, ["Long jump", "Surfing"], told, share)["x"]
    assert list(found) == ["Long jump", "Surfing"]

    def project(name: str, row: torch.Tensor) -> np.ndarray:
        state = {key.removeprefix(f"{name}."): v.double().numpy() for key, v in encoder.extra.items() if name in key}
        normal = (row.numpy() - state["0.running_mean"]) / np.sqrt(state["0.running_var"] + 1e-5)
        found = state["1.weight"] @ (normal * state["0.weight"] + state["0.bias"]) + state["1.bias"]
        return found / np.linalg.norm(found)

    words = [project("project_text", row) for row in told(["foreground of Long jump", "foreground of Surfing"])]
    logits = [[float(np.exp(1.5) * project("project_video", torch.from_numpy(row)) @ word) for word in words]
              for row in video.data]
    assert list(found.values()) == pytest.approx(slow_pool(logits, share), abs=1e-5)
    sentences = {"jump": "foreground of Long jump", "wave": "foreground of Surfing"}
    assert list(text_scores({"x": video}, encoder, sentences, told, share)["x"].items()) == [
        ("jump", found["Long jump"]), ("wave", found["Surfing"])]


def test_the_text_encoder_is_the_one_that_clap_was_trained_with(tiny_encoder, monkeypatch):
    def load(name, max_tokens):
        assert (name, max_tokens) == ("its own", 9)
        return SimpleNamespace(encode=told)

    monkeypatch.setattr(classify.TextEncoder, "load", load)
    made = {"recipe": {"encoder": {"text": "its own", "max_tokens": 9}}}
    encoder = replace(with_projections(tiny_encoder), made=made)
    videos = {"x": seen(3, encoder.dim)}
    assert text_scores(videos, encoder, ["a", "b"]) == text_scores(videos, encoder, ["a", "b"], told)
    with pytest.raises(ModelError, match="which text encoder it was trained with"):
        text_scores(videos, replace(encoder, made={}), ["a", "b"])


def test_projections_are_frozen_and_in_evaluation(tiny_encoder):
    for side in projections(with_projections(tiny_encoder)):
        assert not side.training
        assert not any(p.requires_grad for p in side.parameters())


def test_encoders_that_cannot_score_are_refused(tiny_encoder, tmp_path):
    encoder, plain = with_head(with_projections(tiny_encoder)), tiny_encoder
    videos = {"x": seen(3, encoder.dim)}
    with pytest.raises(ModelError, match="has no class head"):
        encoder_scores(videos, plain)
    with pytest.raises(ModelError, match="pre-trained by CLAP"):
        text_scores(videos, plain, ["a"], told)
    with pytest.raises(ModelError, match="vectors of 6 numbers, but this text encoder makes 5"):
        text_scores(videos, encoder, ["a"], lambda sentences: told(sentences)[:, :5])
    with pytest.raises(ModelError, match="'x' have width 9"):
        encoder_scores({"x": seen(3, 9)}, encoder)
    with pytest.raises(CallError, match="no label"):
        text_scores(videos, encoder, [], told)
    for share in (0.0, 1.5):
        with pytest.raises(CallError, match="above 0 and at most 1"):
            encoder_scores(videos, encoder, share)
    np.save(tmp_path / "x.npy", videos["x"].data)
    entry = {"grid": videos["x"].grid.to_json(), "duration": videos["x"].duration}
    folder = FeatureFolder(tmp_path, {"weights": encoder.weights, "videos": {"x": entry}})
    assert encoder_scores(folder, encoder) == encoder_scores(videos, encoder)
    foreign = replace(folder, meta={**folder.meta, "weights": "others"})
    with pytest.raises(ModelError, match="made by an encoder with weights others"):
        encoder_scores(foreign, encoder)
