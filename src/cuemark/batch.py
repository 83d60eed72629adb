"""What models receive: a batch of clips (pre-training) or a batch of feature sequences (localization).

Shape legend, used in every file above this one: ``B`` batch, ``T`` time, ``C`` channels, ``H W`` pixels,
``K`` classes, ``E`` text-embedding width, ``D`` duration axis of a start x duration map, ``Q`` questions (a sentence,
or examples) that are asked of the rows, ``W`` words of a sentence, ``S`` example videos ("shots") of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from cuemark import ranks
from cuemark.grid import Features, Grid
from cuemark.segments import Segment, times

Asked = Literal["classes", "sentence", "examples", "text"]


class _Moves:
    def to(self, device: torch.device | str) -> Self:
        """The same batch with its tensors on ``device``."""
        moved = {f.name: v.to(device) for f in fields(self)  # type: ignore[arg-type]
                 if isinstance(v := getattr(self, f.name), Tensor | _Moves)}
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass
class ClipBatch(_Moves):
    """Clips with their labels, as the pre-training objectives see them."""

    clips: Tensor
    """``(B, 3, T, H, W)`` float32, normalised."""
    label: Tensor
    """``(B,)`` int64: index of the action class, -1 for background (TSP's ``ignore_index``)."""
    foreground: Tensor
    """``(B,)`` bool: inside an action (the papers' ``y^r = 1``) or outside it."""
    global_feature: Tensor | None = None
    """``(B, F)`` frozen global video feature of each clip's video (TSP), when the objective asks for it."""
    text: Tensor | None = None
    """``(B, E)`` frozen text embedding of each clip's sentence (CLAP), when the objective asks for it."""
    text_id: Tensor | None = None
    """``(B,)`` int64: equal where two clips carry the same sentence, in any batch."""

    def split(self, size: int) -> list[ClipBatch]:
        """The same clips in batches of at most ``size``, as even as they can be."""
        count = -(-len(self.clips) // size)
        parts = {f.name: v.tensor_split(count) for f in fields(self)
                 if isinstance(v := getattr(self, f.name), Tensor)}
        return [replace(self, **{name: rows[i] for name, rows in parts.items()}) for i in range(count)]

    def gathered(self) -> ClipBatch:
        """What losses compare outputs with, of the clips of all processes; the clips themselves stay where they are."""
        found = {name: ranks.gathered(v) for name in ("label", "foreground", "text_id")
                 if (v := getattr(self, name)) is not None}
        return replace(self, **found)


@dataclass
class Sentences(_Moves):
    """The sentences of Q questions, word by word, padded to one length."""

    words: Tensor
    """``(Q, W, E)`` float32 frozen vectors, one a word (or token); zeros where ``mask`` is False."""
    mask: Tensor
    """``(Q, W)`` bool: True where there is a word."""

    @classmethod
    def collate(cls, sentences: Sequence[Tensor]) -> Sentences:
        """Pad ``(W, E)`` vectors of each sentence to the longest and stack them."""
        lengths = torch.tensor([len(words) for words in sentences])
        padded = torch.nn.utils.rnn.pad_sequence(list(sentences), batch_first=True)
        return cls(padded, torch.arange(padded.shape[1]) < lengths[:, None])


@dataclass
class Examples(_Moves):
    """The example videos of Q questions, S of each, padded to one length: this is what is looked for."""

    features: Tensor
    """``(Q, S, T, C)`` float32; zeros where ``mask`` is False."""
    mask: Tensor
    """``(Q, S, T)`` bool: True where there is a feature."""
    inside: Tensor
    """``(Q, S, T)`` float32: the share of each cell that is inside what is looked for."""

    @classmethod
    def collate(cls, questions: Sequence[Sequence[tuple[Features, Sequence[Segment]]]]) -> Examples:
        """Pad example videos, each with its segments in seconds, to the longest, and every question to as many.

        A question with fewer examples than another gets empty ones: its answer does not depend on the other.
        """
        most = max(len(examples) for examples in questions)
        first = questions[0][0][0]
        empty = Features(first.data[:0], replace(first.grid, count=0), first.duration), ()
        rows = [row for examples in questions for row in (*examples, *[empty] * (most - len(examples)))]
        batch = Batch.collate([features for features, _ in rows])
        inside = torch.zeros(batch.mask.shape)
        for i, (features, segments) in enumerate(rows):
            inside[i, : features.grid.count] = torch.from_numpy(features.grid.covered(times(segments)))
        shape = len(questions), most, *batch.mask.shape[1:]
        return cls(batch.features.view(*shape, -1), batch.mask.view(shape), inside.view(shape))


@dataclass
class Batch(_Moves):
    """Feature sequences of B videos (or windows of videos), padded to one length, with their clocks.

    What is asked of them, where a localizer is asked anything (:mod:`cuemark.localizers.questions`), are Q questions,
    each about one row; several may be about the same one, whose features are there once.
    """

    features: Tensor
    """``(B, T, C)`` float32; zeros where ``mask`` is False."""
    mask: Tensor
    """``(B, T)`` bool: True where there is a feature."""
    grids: list[Grid]
    """One per row: where its cells are, in seconds."""
    durations: list[float]
    """Seconds of each row's video."""
    truth: list[tuple[Segment, ...]] | None = None
    """The annotated segments of each row's video, in training; where there are questions, what answers each."""
    about: Tensor | None = None
    """``(Q,)`` int64: the row that each question is about."""
    sentences: Sentences | None = None
    """The questions, to a localizer that is asked sentences."""
    examples: Examples | None = None
    """The questions, to a localizer that is shown examples."""
    frames: Tensor | None = None
    """``(B, T, 3, H, W)`` uint8, to a localizer with an image tower inside; black where ``mask`` is False. ``features``
    then say which frames these are (:mod:`cuemark.localizers.frames`)."""
    tokens: Tensor | None = None
    """``(Q, W)`` int64 ids of words, to a localizer with a text tower inside; 0 where ``sentences.mask`` is False."""
    weight: Tensor | None = None
    """``(Q,)`` float32, in training on some of many classes: how many classes each question stands for."""
    proposals: list[tuple[Segment, ...]] | None = None
    """Scored proposals of each row's video in seconds, best first, to a localizer that judges those of another."""

    @classmethod
    def collate(cls, rows: Sequence[Features], truth: Sequence[Sequence[Segment]] | None = None) -> Batch:
        """Pad ``rows`` to the longest and stack them.

        Raises:
            ValueError: there are no rows, rows of several widths, or another number of truths.
        """
        if len({f.data.shape[1] for f in rows}) != 1 or (truth is not None and len(truth) != len(rows)):
            raise ValueError(f"{len(rows)} rows of widths {sorted({f.data.shape[1] for f in rows})} with "
                             f"{'no' if truth is None else len(truth)} truths make no batch")
        length, dim = max(f.grid.count for f in rows), rows[0].data.shape[1]
        features = np.zeros((len(rows), length, dim), np.float32)
        mask = np.zeros((len(rows), length), bool)
        for i, f in enumerate(rows):
            features[i, : f.grid.count] = f.data
            mask[i, : f.grid.count] = True
        return cls(torch.from_numpy(features), torch.from_numpy(mask), [f.grid for f in rows],
                   [f.duration for f in rows], None if truth is None else [tuple(t) for t in truth])


def normalised(frames: np.ndarray | Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(B, T, H, W, 3)`` uint8 to normalised float32 ``(B, 3, T, H, W)`` in channels-last memory, where they are."""
    scaled = torch.as_tensor(frames).float().div_(255)
    scaled.sub_(torch.tensor(mean, device=scaled.device)).div_(torch.tensor(std, device=scaled.device))
    return scaled.permute(0, 4, 1, 2, 3)


class Trainable(Protocol):
    """All that the training loop knows of a model."""

    def __call__(self, batch: Any) -> dict[str, Tensor]: ...

    def loss(self, out: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
        """Named scalars; the loop sums and logs them."""
        ...


class Localizer(Trainable, Protocol):
    """All that ``localization.py`` knows of a model."""

    asked: ClassVar[Asked]
    """What it answers: where are your classes, where is this sentence, where is more of this? Or ``"text"``: where is
    this class or sentence, whichever words they are."""
    judges: ClassVar[bool]
    """Whether it judges the proposals of another localizer (``batch.proposals``)."""
    classes: tuple[str, ...]
    """Names it gives; none where it names nothing."""
    config: Any
    """Its own ``Config``."""

    def views(self, features: Features) -> list[Features]:
        """The pieces of a video that the network sees at once: the whole rescaled, or windows."""
        ...

    def decode(self, out: dict[str, Tensor], batch: Batch) -> list[list[Segment]]:
        """Candidates of each row, or of each question where there are any; best first, in seconds, inside the video.

        They are not suppressed yet.
        """
        ...

    def select(self, candidates: list[Segment]) -> list[Segment]:
        """The final answer for one video (or question) from the candidates of all its views (suppression, top k)."""
        ...
