"""What localizers are asked, in training and afterwards.

Most know a fixed set of classes and are asked nothing: one answer for each video. Others are asked *questions* about a
video, as many as one likes, and answer each for itself: a sentence (:class:`Question` with ``query``), or examples of
what is looked for, with which an answer is named (``examples`` and ``label``). One with an open vocabulary is asked
for classes by their names (``label`` alone), all together in one answer, or sentences. A localizer that judges the
proposals of another gets these beside the features.

Here are the batches of the three kinds that the loop trains on, and :func:`predict`, the one way from features to
segments: cut each video into the views that the network wants, ask, settle the candidates of all views at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cuemark.batch import Batch, Examples, Localizer, Sentences
from cuemark.errors import CallError, DataError
from cuemark.grid import Features
from cuemark.localizers.frames import Inputs, ids_of
from cuemark.localizers.unloc import UnLoc
from cuemark.nn.spans import Lengths, Piece, Window, pieces, together
from cuemark.saliency import Heard
from cuemark.segments import Predictions, Segment, Truth
from cuemark.text import ACTION_PROMPTS, GloVe, TextEncoder, words_of

_CLASSES = -1
"""In place of a question's number: all classes that are asked for by their names."""
PLAIN = ("{}",)
"""The name of a class alone is said for it."""
Words = Callable[[Sequence[str]], list[Tensor]]
"""Sentences to the ``(W, E)`` vectors of the words of each (:meth:`cuemark.text.TextEncoder.words`)."""


class Example(NamedTuple):
    """A video, and where in it is what is looked for."""

    features: Features
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Question:
    """What is asked of a video: a sentence, examples, or a class by its name."""

    query: str | None = None
    """The sentence; answers carry it."""
    examples: tuple[Example, ...] = ()
    label: str | None = None
    """What answers to examples are called; without examples, the class that is asked for."""
    weight: float = 1.0
    """In training on some of many classes: how many this one stands for."""

    def said(self, prompt: str = "{}") -> str:
        """What is read: the sentence, or the class in the words of ``prompt``."""
        return self.query if self.query is not None else prompt.format(self.label)

    @property
    def named(self) -> bool:
        """Whether it asks for a class by its name."""
        return self.query is None and not self.examples and self.label is not None


class Row(NamedTuple):
    """One view of a video, what is asked about it and what is proposed in it, as :func:`collate` takes them."""

    view: Features
    truth: Sequence[Sequence[Segment]] | None = None
    """In training: the segments of the view's video; with questions, what answers each."""
    questions: Sequence[Question] = ()
    proposals: Sequence[Segment] | None = None


def collate(rows: Sequence[Row], words: Words | None = None, prompts: Sequence[str] = PLAIN) -> Batch:
    """Rows, each with as many questions as it has, as one batch.

    Args:
        words: what reads sentences; only needed where any is asked.
        prompts: what is said for a class (``"a photo of {}."``); with several, one for each question in turn.
    """
    batch = Batch.collate([row.view for row in rows])
    if all(row.truth is not None for row in rows):
        batch.truth = [tuple(segments) for row in rows for segments in row.truth or ()]
    questions = [question for row in rows for question in row.questions]
    if questions:
        batch.about = torch.tensor([i for i, row in enumerate(rows) for _ in row.questions])
        if words is not None and not questions[0].examples:
            said = [question.said(prompts[i % len(prompts)]) for i, question in enumerate(questions)]
            batch.sentences = Sentences.collate(words(said))
            if any(question.weight != 1 for question in questions):
                batch.weight = torch.tensor([question.weight for question in questions])
        if questions[0].examples:
            batch.examples = Examples.collate([question.examples for question in questions])
    if rows[0].proposals is not None:
        batch.proposals = [tuple(row.proposals or ()) for row in rows]
    return batch


# ---------------------------------------------------------------------------------------------- training


@dataclass
class FeatureData:
    """Batches of rows in an order of their own in every epoch, which depends on (seed, epoch) alone.

    A row is a view of a video with its truth; to a localizer that is asked sentences, with one question. With
    ``classes``, each row is asked for classes by their names: all, or those that it shows and ``negatives`` others.
    """

    rows: list[Row]
    batch: int
    seed: int = 0
    words: Words | None = None
    classes: Sequence[str] = ()
    negatives: int | None = None
    """How many of the classes that a row does not show it is asked for, drawn anew each time; each then stands for as
    many as were left out. None: all."""
    prompts: Sequence[str] = PLAIN
    """What is said for a class, drawn for each question."""

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng((self.seed, number)).permutation(len(self.rows))
        for i in range(skip, len(self)):
            rows = [self.rows[j] for j in order[i * self.batch : (i + 1) * self.batch]]
            if not self.classes:
                yield collate(rows, self.words)
                continue
            rng = np.random.default_rng((self.seed, number, i))
            rows = [asked_for(row, self.classes, self.negatives, rng) for row in rows]
            count = sum(len(row.questions) for row in rows)
            drawn = [self.prompts[k] for k in rng.integers(len(self.prompts), size=count)]
            yield collate(rows, self.words, drawn)


def asked_for(row: Row, classes: Sequence[str], negatives: int | None, rng: np.random.Generator) -> Row:
    """A row of training with its segments sorted into one question for each class.

    Args:
        row: its truth is one list, of labelled segments.
        negatives: see :attr:`FeatureData.negatives`.
    """
    segments = [s for part in row.truth or () for s in part]
    there = {s.label for s in segments}
    absent = [name for name in classes if name not in there]
    weight = 1.0
    if negatives is not None and negatives < len(absent):
        weight = len(absent) / negatives if negatives else 1.0
        absent = [absent[i] for i in sorted(rng.permutation(len(absent))[:negatives])]
    asked = [Question(label=name, weight=1.0) for name in classes if name in there]
    asked += [Question(label=name, weight=weight) for name in absent]
    return Row(row.view, [[s for s in segments if s.label == question.label] for question in asked], asked,
               row.proposals)


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


def reading(network: Localizer, text: str | None, max_tokens: int | None = None
            ) -> tuple[Words | None, Sequence[str]]:
    """What reads the questions of a localizer, and what is said for a class in inference.

    Args:
        text, max_tokens: see :func:`cuemark.text.words_of`; None where nothing is read, and for all tokens.

    Raises:
        CallError: vectors of words have none for a whole sentence, or ``max_tokens`` cannot be.
        ModelError: see :func:`cuemark.text.words_of`.
    """
    if isinstance(network, UnLoc) and network.config.fusion == "none":
        return network.one_hot, PLAIN
    if text is None:
        return None, PLAIN
    reader = words_of(text, max_tokens)
    if isinstance(network, UnLoc) and network.text is not None and isinstance(reader, TextEncoder):
        return ids_of(reader), ACTION_PROMPTS[:1]
    if network.asked != "text" or network.config.tokens == "all":
        return reader.words, ACTION_PROMPTS[:1]
    if isinstance(reader, GloVe):
        raise CallError(f"'{text}' has vectors of words, and none of whole sentences; name a text encoder, such as "
                        "minilm, or set options.tokens = \"all\".")
    # an encoder that scales sentences to length 1 would whisper beside the sinusoids of the positions, which are near 1
    # in every number; CLIP's vectors are not scaled
    loud = math.sqrt(reader.dim) if reader.normalize else 1.0
    return lambda said: list(loud * reader.encode(said)[:, None]), ACTION_PROMPTS[:1]


def rows_of(network: Localizer, features: Mapping[str, Features], truth: Truth,
            proposals: Mapping[str, Sequence[Segment]] | None = None) -> list[Row]:
    """What a localizer trains on: each view of each video that has features; asked sentences, one row for each.

    A sentence is asked of the views that show at least half of its moment. One that is asked text is asked sentences
    where its task is to ``"retrieve"``.
    """
    rows = []
    for vid, video in truth.items():
        if vid not in features:
            continue
        for view in network.views(features[vid]):
            if retrieves(network):
                rows += [Row(view, [moments], [question]) for question, moments in questions_of(video.annotations)
                         if any(_shown(view, s) for s in moments)]
            else:
                rows.append(Row(view, [video.annotations], (),
                                None if proposals is None else list(proposals.get(vid, ()))))
    return rows


def retrieves(network: Localizer) -> bool:
    """Whether what it learns to answer are sentences."""
    return network.asked == "sentence" or (network.asked == "text" and network.config.task == "retrieve")


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
            prompts: Sequence[str] = PLAIN, proposals: Mapping[str, Sequence[Segment]] | None = None,
            look: Inputs | None = None, lengths: Lengths | None = None, heard: Heard | None = None) -> Predictions:
    """The segments that a localizer finds in videos whose features are given; best first, in seconds.

    Every video is cut into the views the network wants; candidates of all views of a video (and question) are settled
    together. Answers to questions come question by question, and carry its ``query`` or its ``label``; classes that are
    asked for by their names are one question, settled together.

    Args:
        batch: views, or questions, that go through the network together.
        questions: of each video, to a localizer that is asked any.
        words: what reads sentences.
        prompts: what is said for a class that is asked for by its name; with several, the network is asked in each and
            its outputs are averaged (UnLoc's ensemble, so many times the work).
        proposals: of each video, to a localizer that judges them.
        look: gives batches what towers inside the localizer are fed (:class:`cuemark.localizers.frames.Inputs`).
        lengths: of the videos it was trained on; longer ones are looked at piece by piece, and each piece is settled by
            itself (:func:`cuemark.nn.spans.pieces`).
        heard: gathers how well each frame answers each question, of an UnLoc.

    Raises:
        CallError: the localizer is asked sentences, examples or text and ``questions`` are missing, or it judges
            proposals and there are none.
    """
    if network.asked != "classes" and questions is None:
        raise CallError("this localizer answers questions; " + {
            "sentence": "ask it a sentence (--query).", "examples": "show it examples of what to find (--examples).",
            "text": "ask it for classes (--classes) or a sentence (--query)."}[network.asked])
    if network.judges and proposals is None:
        raise CallError("this localizer judges the proposals of another; give it some (data.proposals in its recipe).")
    device = next(network.parameters()).device if isinstance(network, nn.Module) else "cpu"
    asked = {vid: [_close(question, lengths) for question in (questions or {}).get(vid, ())] for vid in features}
    # what is settled together, in each piece: a question by its number, or all classes of a video asked for by name
    candidates: dict[tuple[str, int], dict[Piece, list[Segment]]] = {}
    waiting: list[tuple[str, int, Piece, Row]] = []

    def group(vid: str, number: int) -> tuple[str, int]:
        return vid, _CLASSES if asked[vid] and asked[vid][number].named else number

    def settle() -> None:
        keys = [(vid, first + i, piece) for vid, first, piece, row in waiting
                for i in range(max(len(row.questions), 1))]
        out, batch_of = _said(network, [row for *_, row in waiting], words, prompts, look, device)
        answers = network.decode(out, batch_of)
        if heard is not None:
            assert isinstance(network, UnLoc)
            _hear(heard, network, out, batch_of, waiting)
        for (vid, number, piece), segments in zip(keys, answers, strict=True):
            key = group(vid, number)
            if key[1] == _CLASSES:
                segments = [replace(s, label=asked[vid][number].label) for s in segments]
            candidates[key].setdefault(piece, []).extend(segments)
        waiting.clear()

    for vid in features:
        if network.asked != "classes" and not asked[vid]:
            continue
        for number in range(max(len(asked[vid]), 1)):
            candidates[group(vid, number)] = {}
        if heard is not None:
            heard.begin(vid, features[vid].duration, len(asked[vid]))
        proposed = None if proposals is None else proposals.get(vid, ())
        whole = len(asked[vid]) if network.asked == "text" else batch  # its classes may have to be compared
        for piece, view in ((p, v) for p in pieces(features[vid], lengths) for v in network.views(p.features)):
            for first in range(0, max(len(asked[vid]), 1), whole):
                some = asked[vid][first : first + whole]
                if waiting and sum(max(len(row.questions), 1) for *_, row in waiting) + max(len(some), 1) > batch:
                    settle()
                waiting.append((vid, first, piece, Row(view, None, some, proposed)))
    if waiting:
        settle()
    found: Predictions = {vid: [] for vid in features}
    for (vid, number), parts in candidates.items():
        answer = together({piece: network.select(segments) for piece, segments in parts.items()})
        if asked[vid] and number != _CLASSES:
            question = asked[vid][number]
            answer = [replace(s, query=question.query, label=question.label or s.label) for s in answer]
        found[vid] += answer
    return found


def _close(question: Question, lengths: Lengths | None) -> Question:
    """The question with examples of long videos seen in the pieces that show them."""
    if not question.examples:
        return question
    close = [(piece.features, piece.within(example.segments))
             for example in question.examples for piece in pieces(example.features, lengths)]
    return replace(question, examples=tuple(Example(features, tuple(shown)) for features, shown in close if shown))


def _hear(heard: Heard, network: UnLoc, out: dict[str, Tensor], batch: Batch,
          waiting: Sequence[tuple[str, int, Piece, Row]]) -> None:
    """Scores of the frames that each view answers for; of pieces and windows that share frames, one does."""
    assert batch.about is not None
    scores, about = network.saliency(out, batch).cpu().numpy(), batch.about.cpu().numpy()
    for number, ((vid, first, piece, _), grid) in enumerate(zip(waiting, batch.grids, strict=True)):
        cells = np.arange(grid.count)
        seconds = grid.centres + piece.start
        mine = (seconds >= piece.low) & (seconds < piece.high)
        if isinstance(grid, Window):
            mine &= (cells >= grid.first) & (cells < grid.stop)
        heard.add(vid, first, seconds[mine], scores[about == number][:, cells[mine]])


def _said(network: Localizer, rows: Sequence[Row], words: Words | None, prompts: Sequence[str],
          look: Inputs | None, device: torch.device | str) -> tuple[dict[str, Tensor], Batch]:
    """The network's mean output over ``prompts``, and what it was fed."""
    if not any(question.named for row in rows for question in row.questions):
        prompts = prompts[:1]
    total: dict[str, Tensor] = {}
    seen: Tensor | None = None
    for prompt in prompts:
        batch = collate(rows, words, (prompt,))
        if look is not None:
            batch = look(batch) if seen is None else look.with_tokens(replace(batch, features=seen))
        batch = batch.to(device)
        image = getattr(network, "image", None)
        if image is not None and batch.frames is not None and len(prompts) > 1:  # whatever is said, they look the same
            seen = image(batch.frames)
            batch = replace(batch, features=seen, frames=None)
        out = network(batch)
        total = {name: total[name] + out[name] if total else out[name] for name in out}
    mean = {name: tensor / len(prompts) for name, tensor in total.items()} if len(prompts) > 1 else total
    return mean, batch
