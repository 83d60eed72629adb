"""Naming what was found: class scores for spans, from inside the localizer or from an external classifier.

G-TAD and BMN propose segments without a class; the papers borrow the names from a second, video-level classifier.
There are three ways to names here:

- ``"localizer"``: a linear layer on the snippets, learned with the localizer (:func:`span_loss`).
- ``"encoder"``: the same layer, but filled with the class head of the video encoder and frozen
  (:meth:`SpanClassifier.fill`).
- outside: :func:`fuse` multiplies nameless proposals with any per-video ``{label: score}`` (the papers' way);
  :func:`name_predictions` does so for all videos. Such scores come from a file of somebody else's classifier
  (:func:`cuemark.datasets.video_scores.read_video_scores`), from the class head of our video encoder
  (:func:`encoder_scores`), or from how like the words of a label the video is (:func:`text_scores`).

Shapes: ``B`` batch, ``T`` positions, ``C`` channels, ``K`` classes, ``n`` spans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuemark.batch import Batch
from cuemark.checkpoint import section
from cuemark.datasets.video_scores import VideoScores
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, DataError, ModelError
from cuemark.feature_folder import FeatureFolder
from cuemark.grid import Features
from cuemark.nn.heads import Projection
from cuemark.nn.maps import span_mean
from cuemark.segments import Predictions, Segment
from cuemark.text import TextEncoder, prompt

NAMES = ("localizer", "encoder", "none")
"""Where a localizer's class names can come from."""


class SpanClassifier(nn.Module):
    """A linear layer on snippet features, whose logits are averaged over a span."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, classes)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, T, C)`` snippets to ``(B, T, K)`` logits."""
        return self.linear(features)

    def empty(self) -> SpanClassifier:
        """Freeze it without an opinion, to be filled later (by :meth:`fill` or from a checkpoint)."""
        for parameter in self.requires_grad_(False).parameters():
            parameter.zero_()
        return self

    @property
    def filled(self) -> bool:
        """False while it has no opinion."""
        return bool(self.linear.weight.detach().any())

    def fill(self, weight: Tensor, bias: Tensor) -> None:
        """Take over the video encoder's linear class head, and freeze it.

        Args:
            weight: ``(K, C)``.
            bias: ``(K,)``.

        Raises:
            ModelError: the head has other classes or other features than this layer.
        """
        if weight.shape != self.linear.weight.shape or bias.shape != self.linear.bias.shape:
            classes, dim = self.linear.weight.shape
            raise ModelError(f"a class head of shape {tuple(weight.shape)} with bias {tuple(bias.shape)} cannot name "
                             f"{classes} classes from {dim}-dimensional features; give the localizer the classes and "
                             "the features of that encoder.")
        self.requires_grad_(False)
        self.linear.weight.copy_(weight.detach())
        self.linear.bias.copy_(bias.detach())


def classifier(names: str, dim: int, classes: Sequence[str]) -> SpanClassifier | None:
    """What a localizer names with: nothing, a layer to be learned, or one that waits for the encoder's class head.

    Args:
        names: one of :data:`NAMES`.
        dim: width of the features.
    """
    if names == "none" or not classes:
        return None
    layer = SpanClassifier(dim, len(classes))
    return layer.empty() if names == "encoder" else layer


def name_by(layer: SpanClassifier | None, names: str, labels: Sequence[str], weight: Tensor, bias: Tensor,
            classes: Sequence[str] | None = None) -> None:
    """Fill a localizer's ``layer`` with the video encoder's linear class head.

    Args:
        names: the localizer's setting, one of :data:`NAMES`.
        labels: the localizer's classes.
        weight: ``(classes, C)``.
        bias: ``(classes,)``.
        classes: the head's labels in its order, among them all of ``labels``; by default ``labels``.

    Raises:
        CallError: the localizer learns its own names, or has none.
        ModelError: the head does not know all labels, or was made for other features.
    """
    if layer is None or names != "encoder":
        raise CallError(f"a localizer with names = '{names}' and {len(labels)} classes cannot take an encoder's class "
                        "head; build it with names = 'encoder' and that head's classes.")
    if classes is not None:
        place = {label: i for i, label in enumerate(classes)}
        missing = [label for label in labels if label not in place]
        if missing:
            raise ModelError(f"the encoder's class head does not know '{missing[0]}' ({len(missing)} of the "
                             f"localizer's {len(labels)} classes); pre-train it on these classes, or use "
                             "names = 'localizer'.")
        order = [place[label] for label in labels]
        weight, bias = weight[order], bias[order]
    layer.fill(weight, bias)


def named(proposals: Sequence[tuple[np.ndarray, np.ndarray]], batch: Batch, layer: SpanClassifier | None,
          logits: Tensor | None, labels: Sequence[str], top: int) -> list[list[Segment]]:
    """Proposals of each row as segments in seconds inside the video, each with its ``top`` best names, best first.

    Args:
        proposals: for each row ``(n, 2)`` spans in positions and ``(n,)`` scores.
        layer: what named; None leaves them without a label.
        logits: ``(B, T, K)`` from that layer.
        labels: the localizer's classes.

    Raises:
        ModelError: the names should come from an encoder that was never given (:func:`name_by`).
    """
    if layer is not None and not layer.linear.weight.requires_grad and not layer.filled:
        raise ModelError("this localizer names by the video encoder's class head but was never given one; call "
                         "name_by(weight, bias), or build it with names = 'none'.")
    answers = []
    for row, (spans, score) in enumerate(proposals):
        seconds = np.clip(batch.grids[row].seconds(spans), 0.0, batch.durations[row])
        inside = seconds[:, 1] > seconds[:, 0]
        spans, score, seconds = spans[inside], score[inside], seconds[inside]
        names: list[str | None] = [None] * len(score)
        if layer is not None and logits is not None:
            at = torch.from_numpy(spans).to(logits.device)
            rows = torch.full((len(at),), row, device=at.device)
            best, index = span_scores(logits, rows, at).topk(min(top, len(labels)), dim=1)
            seconds = seconds.repeat(best.shape[1], axis=0)
            score = (score[:, None] * best.cpu().numpy()).ravel()
            names = [labels[i] for i in index.ravel().tolist()]
        order = np.argsort(-score, kind="stable")
        answers.append([Segment(a, b, names[i], s)
                        for i, (a, b), s in zip(order, seconds[order].tolist(), score[order].tolist())])
    return answers


def span_scores(logits: Tensor, rows: Tensor, spans: Tensor) -> Tensor:
    """Probability of each class for each span: softmax of the mean logits.

    Args:
        logits: ``(B, T, K)``.
        rows: ``(n,)`` int64: which sequence each span belongs to.
        spans: ``(n, 2)`` in positions, within the sequence's real positions.

    Returns:
        ``(n, K)``.
    """
    return span_mean(logits, rows, spans).softmax(dim=1)


def span_loss(logits: Tensor, rows: Tensor, spans: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of the true spans' mean logits; 0 when there is none.

    Args:
        logits: ``(B, T, K)``.
        rows: ``(n,)`` int64: which sequence each span belongs to.
        spans: ``(n, 2)`` in positions, within the sequence's real positions.
        labels: ``(n,)`` int64 class indices.
    """
    return F.cross_entropy(span_mean(logits, rows, spans), labels, reduction="sum") / max(len(labels), 1)


def fuse(segments: Sequence[Segment], video_scores: Mapping[str, float], top: int = 2) -> list[Segment]:
    """Name one video's proposals by a video-level classifier, as ActivityNet's systems do.

    Args:
        segments: proposals; a missing score counts as 1.
        video_scores: label -> score of the whole video (CUHK's 200, UntrimmedNet's 101 …). With none the proposals
            stay as they are.
        top: how many of the best labels every proposal is emitted with (2 in G-TAD and BMN).

    Returns:
        ``len(segments) * top`` segments whose score is the proposal's times the label's, best first.

    Raises:
        CallError: ``top`` is not positive.
    """
    if top < 1:
        raise CallError(f"proposals cannot be named by their {top} best labels; choose top >= 1.")
    best = sorted(video_scores.items(), key=lambda item: -item[1])[:top]
    if not best:
        return list(segments)
    named = [replace(s, label=label, score=(1.0 if s.score is None else s.score) * float(score))
             for s in segments for label, score in best]
    return sorted(named, key=lambda s: -(s.score or 0.0))


def name_predictions(predictions: Predictions, scores: Mapping[str, Mapping[str, float]], top: int = 2
                     ) -> Predictions:
    """:func:`fuse` of every video: proposals named by video-level scores, best first.

    Args:
        predictions: of each video; labels that are there are replaced.
        scores: video id -> label -> score, not negative. A video without any keeps its proposals as they are.
        top: how many of the best labels every proposal is emitted with.

    Raises:
        CallError: ``top`` is not positive.
        DataError: there are predictions and scores, but of no video both.
    """
    if predictions and scores and not any(scores.get(vid) for vid in predictions):
        raise DataError(f"the video-level scores are of other videos: '{next(iter(predictions))}' is the first "
                        f"predicted, '{next(iter(scores))}' the first scored; bring the names of both together.")
    return {vid: fuse(segments, scores.get(vid, {}), top) for vid, segments in predictions.items()}


# ------------------------------------------------------------------------------------------ scores of whole videos


@torch.no_grad()
def encoder_scores(features: Mapping[str, Features], encoder: VideoEncoder, share: float = 1.0) -> VideoScores:
    """Which of its encoder's classes a video shows: the encoder's class head on all clips, pooled over the video.

    Args:
        features: of each video, made by ``encoder``.
        share: a class's logit is the mean over this share of the clips, those where it is highest: 1 is the mean
            video, less lets a short action in a long video speak.

    Returns:
        Of each video the softmax of these logits.

    Raises:
        CallError: ``share`` is not in (0, 1].
        ModelError: the encoder has no class head, or did not make these features.
    """
    if not (encoder.class_head and encoder.classes):
        raise ModelError(f"the encoder '{encoder.name}' has no class head with names, so it cannot name what it sees; "
                         "pre-train one with a class head (TAC, TSP, CLAP), or give scores of another classifier.")
    weight, bias = encoder.class_head["weight"].float(), encoder.class_head["bias"].float()
    return _over_videos(features, encoder, encoder.classes, lambda rows: F.linear(rows, weight, bias), share)


@torch.no_grad()
def text_scores(features: Mapping[str, Features], encoder: VideoEncoder, labels: Mapping[str, str] | Sequence[str],
                read: Callable[[Sequence[str]], Tensor] | None = None, share: float = 0.25) -> VideoScores:
    """Which of any labels a video shows: cosine of its clips and the labels' sentences where CLAP compares them.

    Labels need not be among those that the encoder was trained on.

    Args:
        features: of each video, made by ``encoder``.
        encoder: one that carries CLAP's projections (:func:`projections`).
        labels: label -> sentence; of labels alone the sentence is the prompt of foreground clips
            (:func:`cuemark.text.prompt`).
        read: sentences to ``(n, E)`` vectors; by default the text encoder that CLAP was trained with.
        share: a label's similarity is the mean over this share of the clips, those that are most like it.

    Returns:
        Of each video the softmax over the labels of similarity / temperature, the one CLAP was trained with.

    Raises:
        CallError: ``share`` is not in (0, 1], or there is no label.
        ModelError: the encoder has no such projections, did not make these features, or ``read`` is not the text
            encoder that they were trained with.
    """
    video_side, text_side = projections(encoder)
    if not labels:
        raise CallError("there is no label to compare videos with; give at least one.")
    sentences = dict(labels) if isinstance(labels, Mapping) else {label: prompt(label, True) for label in labels}
    vectors = (read or _reader(encoder))(list(sentences.values()))
    width = text_side[0].num_features
    if vectors.shape[1] != width:
        raise ModelError(f"the encoder '{encoder.name}' compares videos with vectors of {width} numbers, but this text "
                         f"encoder makes {vectors.shape[1]}; name the one that it was trained with.")
    said = F.normalize(text_side(vectors), dim=1)
    scale = float(encoder.extra["log_scale"].exp()) if "log_scale" in encoder.extra else 1 / 0.07
    return _over_videos(features, encoder, list(sentences),
                        lambda rows: scale * F.normalize(video_side(rows), dim=1) @ said.T, share)


def projections(encoder: VideoEncoder) -> tuple[Projection, Projection]:
    """Of features and of sentence vectors into the space where CLAP compares them; in evaluation, frozen.

    Raises:
        ModelError: the encoder carries none.
    """
    found = []
    for name in ("project_video", "project_text"):
        state = section(encoder.extra, name)
        if not state:
            raise ModelError(f"the encoder '{encoder.name}' cannot compare videos with sentences; that takes one that "
                             "was pre-trained by CLAP (cuemark pretrain world_clap).")
        made = Projection(state["0.weight"].shape[0], state["1.weight"].shape[0])
        made.load_state_dict(state)
        found.append(made.eval().requires_grad_(False))
    return found[0], found[1]


def reader_of(encoder: VideoEncoder) -> str | None:
    """The name of the text encoder that an encoder says it was made with."""
    recipe = (encoder.made.get("recipe") or {}).get("encoder") or {}
    name = recipe.get("text") or encoder.made.get("text")
    return str(name) if name else None


def tokens_of(encoder: VideoEncoder) -> int | None:
    """How many tokens of a sentence were read when it was trained; None: all that its text encoder can."""
    most: int | None = ((encoder.made.get("recipe") or {}).get("encoder") or {}).get("max_tokens")
    return most


def _reader(encoder: VideoEncoder) -> Callable[[Sequence[str]], Tensor]:
    name = reader_of(encoder)
    if not name:
        raise ModelError(f"the encoder '{encoder.name}' does not say which text encoder it was trained with; name it.")
    return TextEncoder.load(name, max_tokens=tokens_of(encoder)).encode


def _over_videos(features: Mapping[str, Features], encoder: VideoEncoder, labels: Sequence[str],
                 judge: Callable[[Tensor], Tensor], share: float) -> VideoScores:
    """What ``judge`` says of the clips of each video, ``(T, C)`` to ``(T, K)`` logits, as scores of the video."""
    if not 0 < share <= 1:
        raise CallError(f"scores of a video are pooled over a share of its clips above 0 and at most 1, got {share}.")
    if isinstance(features, FeatureFolder) and features.meta.get("weights") != encoder.weights:
        raise ModelError(f"'{features.folder}' was made by an encoder with weights {features.meta.get('weights')}, not "
                         f"by '{encoder.name}' ({encoder.weights}); extract with the encoder that names them.")
    found: VideoScores = {}
    for vid in features:
        rows = torch.from_numpy(features[vid].data).float()
        if rows.shape[1] != encoder.dim:
            raise ModelError(f"the features of '{vid}' have width {rows.shape[1]}, but '{encoder.name}' makes "
                             f"{encoder.dim}; give the features of that encoder.")
        if not len(rows):
            continue  # nothing was seen
        best = judge(rows).topk(math.ceil(share * len(rows)), dim=0).values.mean(dim=0)
        found[vid] = dict(zip(labels, best.softmax(dim=0).tolist(), strict=True))
    return found
