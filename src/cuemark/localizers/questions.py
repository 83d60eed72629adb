"""What localizers are asked, in training and afterwards.

Most know a fixed set of classes and are asked nothing: one answer for each video. Others are asked *questions* about a
video, as many as one likes, and answer each for itself: a sentence (:class:`Question` with ``query``), or examples of
what is looked for, with which an answer is named (``examples`` and ``label``). A localizer that judges the proposals of
another gets these beside the features.

Here are the batches of the three kinds that the loop trains on, and :func:`predict`, the one way from features to
segments: cut each video into the views that the network wants, ask, settle the candidates of all views at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cuemark.batch import Batch, Examples, Localizer, Sentences
from cuemark.errors import CallError, DataError
from cuemark.grid import Features
from cuemark.segments import Predictions, Segment, Truth

Words = Callable[[Sequence[str]], list[Tensor]]
"""Sentences to the ``(W, E)`` vectors of the words of each (:meth:`cuemark.text.TextEncoder.words`)."""


class Example(NamedTuple):
    """A video, and where in it is what is looked for."""

    features: Features
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Question:
    """What is asked of a video: a sentence, or examples."""

    query: str | None = None
    """The sentence; answers carry it."""
    examples: tuple[Example, ...] = ()
    label: str | None = None
    """What answers to examples are called."""


class Row(NamedTuple):
    """One view of a video, what is asked about it and what is proposed in it, as :func:`collate` takes them."""

    view: Features
    truth: Sequence[Sequence[Segment]] | None = None
    """In training: the segments of the view's video; with questions, what answers each."""
    questions: Sequence[Question] = ()
    proposals: Sequence[Segment] | None = None


def collate(rows: Sequence[Row], words: Words | None = None) -> Batch:
    """Rows, each with as many questions as it has, as one batch.

    Args:
        words: what reads sentences; only needed where any is asked.
    """
    batch = Batch.collate([row.view for row in rows])
    if all(row.truth is not None for row in rows):
        batch.truth = [tuple(segments) for row in rows for segments in row.truth or ()]
    questions = [question for row in rows for question in row.questions]
    if questions:
        batch.about = torch.tensor([i for i, row in enumerate(rows) for _ in row.questions])
        if words is not None and questions[0].query is not None:
            batch.sentences = Sentences.collate(words([question.query or "" for question in questions]))
        if questions[0].examples:
            batch.examples = Examples.collate([question.examples for question in questions])
    if rows[0].proposals is not None:
        batch.proposals = [tuple(row.proposals or ()) for row in rows]
    return batch


# ---------------------------------------------------------------------------------------------- training


@dataclass
class FeatureData:
    """Batches of rows in an order of their own in every epoch, which depends on (seed, epoch) alone.

    A row is a view of a video with its truth; to a localizer that is asked sentences, with one question.
    """

    rows: list[Row]
    batch: int
    seed: int = 0
    words: Words | None = None

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng((self.seed, number)).permutation(len(self.rows))
        for i in range(skip, len(self)):
            yield collate([self.rows[j] for j in order[i * self.batch : (i + 1) * self.batch]], self.words)


@dataclass
class EpisodeData:
    """Batches of episodes for a localizer that is shown examples, in an order that depends on (seed, epoch) alone.

    An epoch asks once about every view of every video, for each class that is in it: the other videos of the class are
    drawn from for its examples, so that support and query are never the same video. A class that one video alone shows
    teaches nothing. Every row of a batch has one question; its truth is what the query holds of the class.
    """

    queries: list[tuple[str, Features, str]]
    """Id, view and class of each."""
    features: Mapping[str, Features]
    known: Mapping[str, Mapping[str, tuple[Segment, ...]]]
    """Class -> video -> where it is."""
    shots: int
    """Examples of a question; fewer where a class has no more."""
    batch: int
    seed: int = 0

    @classmethod
    def of(cls, network: Localizer, features: Mapping[str, Features], truth: Truth, batch: int, seed: int = 0
           ) -> EpisodeData:
        """From the labelled segments of the videos that have features."""
        known: dict[str, dict[str, tuple[Segment, ...]]] = {}
        for vid, video in truth.items():
            for label in dict.fromkeys(s.label for s in video.annotations if s.label is not None and s.duration > 0):
                if vid in features:
                    known.setdefault(label, {})[vid] = tuple(s for s in video.annotations if s.label == label)
        queries = [(vid, view, label) for label, videos in known.items() if len(videos) > 1 for vid in videos
                   for view in network.views(features[vid]) if any(_shown(view, s) for s in videos[vid])]
        return cls(queries, features, known, network.config.shots, batch, seed)

    def __len__(self) -> int:
        return -(-len(self.queries) // self.batch)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng((self.seed, number)).permutation(len(self.queries))
        for i in range(skip, len(self)):
            yield collate([self._row(number, int(j)) for j in order[i * self.batch : (i + 1) * self.batch]])

    def _row(self, number: int, index: int) -> Row:
        vid, view, label = self.queries[index]
        others = [other for other in self.known[label] if other != vid]
        drawn = np.random.default_rng((self.seed, number, index)).permutation(len(others))[: self.shots]
        examples = tuple(Example(self.features[others[i]], self.known[label][others[i]]) for i in drawn)
        return Row(view, [self.known[label][vid]], [Question(examples=examples, label=label)])


def rows_of(network: Localizer, features: Mapping[str, Features], truth: Truth,
            proposals: Mapping[str, Sequence[Segment]] | None = None) -> list[Row]:
    """What a localizer trains on: each view of each video that has features; asked sentences, one row for each.

    A sentence is asked of the views that show at least half of its moment.
    """
    rows = []
    for vid, video in truth.items():
        if vid not in features:
            continue
        for view in network.views(features[vid]):
            if network.asked == "sentence":
                rows += [Row(view, [moments], [question]) for question, moments in questions_of(video.annotations)
                         if any(_shown(view, s) for s in moments)]
            else:
                rows.append(Row(view, [video.annotations], (),
                                None if proposals is None else list(proposals.get(vid, ()))))
    return rows


def _shown(view: Features, moment: Segment) -> bool:
    shared = min(view.grid.end, moment.end) - max(view.grid.start, moment.start)
    return moment.duration > 0 and shared >= moment.duration / 2


def questions_of(annotations: Sequence[Segment]) -> list[tuple[Question, list[Segment]]]:
    """The sentences of a video's truth and the moments that answer each; those with one ``id`` are one question."""
    found: dict[object, list[Segment]] = {}
    for number, segment in enumerate(annotations):
        if segment.sentence:
            found.setdefault(number if segment.id is None else segment.id, []).append(segment)
    return [(Question(moments[0].sentence), moments) for moments in found.values()]


def shown(support: Sequence[tuple[str, Segment]], features: Mapping[str, Features]) -> list[Question]:
    """The questions that the support of an episode asks: one for each label, with its examples.

    Args:
        support: video ids, each with a labelled segment (:func:`cuemark.metrics.episodes.draw`).
        features: of these videos.

    Raises:
        DataError: an example's video has no features.
    """
    found: dict[str | None, dict[str, list[Segment]]] = {}
    for vid, segment in support:
        if vid not in features:
            raise DataError(f"the example video '{vid}' has no features; extract them, or draw from videos that have.")
        found.setdefault(segment.label, {}).setdefault(vid, []).append(segment)
    return [Question(examples=tuple(Example(features[vid], tuple(spans)) for vid, spans in videos.items()), label=label)
            for label, videos in found.items()]


# ---------------------------------------------------------------------------------------------- answers


@torch.no_grad()
def predict(network: Localizer, features: Mapping[str, Features], batch: int = 16, *,
            questions: Mapping[str, Sequence[Question]] | None = None, words: Words | None = None,
            proposals: Mapping[str, Sequence[Segment]] | None = None) -> Predictions:
    """The segments that a localizer finds in videos whose features are given; best first, in seconds.

    Every video is cut into the views the network wants; candidates of all views of a video (and question) are settled
    together. Answers to questions come question by question, and carry its ``query`` or its ``label``.

    Args:
        batch: views, or questions, that go through the network together.
        questions: of each video, to a localizer that is asked any.
        words: what reads sentences.
        proposals: of each video, to a localizer that judges them.

    Raises:
        CallError: the localizer is asked sentences or examples and ``questions`` are missing, or it judges proposals
            and there are none.
    """
    if network.asked != "classes" and questions is None:
        raise CallError("this localizer answers questions; " + (
            "ask it a sentence (--query)." if network.asked == "sentence" else
            "show it examples of what to find (--examples)."))
    if network.judges and proposals is None:
        raise CallError("this localizer judges the proposals of another; give it some (data.proposals in its recipe).")
    device = next(network.parameters()).device if isinstance(network, nn.Module) else "cpu"
    candidates: dict[tuple[str, int], list[Segment]] = {}
    waiting: list[tuple[str, int, Row]] = []

    def settle() -> None:
        rows = collate([row for _, _, row in waiting], words).to(device)
        keys = [(vid, first + i) for vid, first, row in waiting for i in range(max(len(row.questions), 1))]
        for key, segments in zip(keys, network.decode(network(rows), rows), strict=True):
            candidates[key].extend(segments)
        waiting.clear()

    asked: dict[str, Sequence[Question]] = {vid: (questions or {}).get(vid, ()) for vid in features}
    for vid in features:
        if network.asked != "classes" and not asked[vid]:
            continue
        for number in range(max(len(asked[vid]), 1)):
            candidates[vid, number] = []
        proposed = None if proposals is None else proposals.get(vid, ())
        for view in network.views(features[vid]):
            for first in range(0, max(len(asked[vid]), 1), batch):
                some = asked[vid][first : first + batch]
                if waiting and sum(max(len(row.questions), 1) for _, _, row in waiting) + max(len(some), 1) > batch:
                    settle()
                waiting.append((vid, first, Row(view, None, some, proposed)))
    if waiting:
        settle()
    found: Predictions = {vid: [] for vid in features}
    for (vid, number), segments in candidates.items():
        answer = network.select(segments)
        if asked[vid]:
            question = asked[vid][number]
            answer = [replace(s, query=question.query, label=question.label or s.label) for s in answer]
        found[vid] += answer
    return found
