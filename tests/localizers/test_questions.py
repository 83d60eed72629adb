"""What localizers are asked: batches of questions, and the way from features to answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from cuemark.batch import Batch, Examples, Sentences
from cuemark.errors import CallError
from cuemark.grid import Features, Grid
from cuemark.localizers import questions
from cuemark.localizers.questions import (
    Example,
    FeatureData,
    Question,
    Row,
    asked_for,
    collate,
    predict,
    questions_of,
    rows_of,
)
from cuemark.nn.spans import Lengths
from cuemark.segments import Segment, VideoTruth


def features(length: int, first: float = 0.0) -> Features:
    """One number a cell, which counts on from ``first``; a cell is two seconds."""
    return Features(np.arange(first, first + length, dtype=np.float32)[:, None], Grid(0, 2, length, 2), 2.0 * length)


def words(sentences):
    return [torch.tensor([[float(len(word))] for word in s.split()]) for s in sentences]


@dataclass
class Echo:
    """Answers each question with what it was given: cells seen, words or example cells, and proposals, as scores."""

    asked: str = "classes"
    judges: bool = False
    size: int = 100
    classes: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()

    def views(self, features: Features) -> list[Features]:
        pieces = []
        for first in range(0, features.grid.count, self.size):
            data = features.data[first:first + self.size]
            grid = Grid(features.grid.seconds(first), features.grid.step, len(data), features.grid.window)
            pieces.append(Features(data, grid, features.duration))
        return pieces

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        total = (batch.features[..., 0] * batch.mask).sum(1)
        if batch.about is not None:
            total = total[batch.about]
            self.batches += (len(batch.about),)
        if batch.sentences is not None:
            total = total + 1000 * (batch.sentences.words[..., 0] * batch.sentences.mask).sum(1)
        if batch.examples is not None:
            total = total + 1000 * (batch.examples.features[..., 0] * batch.examples.inside).sum((1, 2))
        if batch.proposals is not None:
            total = total + torch.tensor([1e6 * len(p) for p in batch.proposals])
        return {"total": total}

    def decode(self, out, batch: Batch) -> list[list[Segment]]:
        rows = range(len(batch.grids)) if batch.about is None else batch.about.tolist()
        return [[Segment(batch.grids[r].start, batch.grids[r].end, "x", float(t))]
                for r, t in zip(rows, out["total"], strict=True)]

    def select(self, candidates: list[Segment]) -> list[Segment]:
        return [Segment(min(s.start for s in candidates), max(s.end for s in candidates), None,
                        sum(s.score for s in candidates))]


def told(found) -> dict:
    return {vid: [(s.start, s.end, s.score, s.query, s.label) for s in segments] for vid, segments in found.items()}


def test_nothing_is_asked_of_one_that_knows_its_classes():
    found = predict(Echo(size=2), {"a": features(3), "b": features(1, 7)}, batch=2)
    assert told(found) == {"a": [(0, 6, 3, None, None)], "b": [(0, 2, 7, None, None)]}
    assert predict(Echo(), {}) == {}


@pytest.mark.parametrize("batch", [1, 2, 3, 16])
def test_every_sentence_is_answered_from_all_views(batch):
    asked = {"a": [Question("one two"), Question("three")], "b": [], "c": [Question("of me")]}
    videos = {"a": features(3), "b": features(2), "c": features(5, 1)}
    net = Echo("sentence", size=2)
    found = predict(net, videos, batch, questions=asked, words=words)
    assert told(found) == {
        "a": [(0, 6, 3 + 2 * 6000, "one two", None), (0, 6, 3 + 2 * 5000, "three", None)], "b": [],
        "c": [(0, 10, 15 + 3 * 4000, "of me", None)]}
    assert max(net.batches) <= batch
    assert sum(net.batches) == 2 * 2 + 3


def test_a_video_that_is_asked_much_goes_through_in_parts():
    asked = {"a": [Question("x" * n) for n in range(1, 8)]}
    net = Echo("sentence")
    found = predict(net, {"a": features(1, 5)}, 3, questions=asked, words=words)
    assert [s.score for s in found["a"]] == [5 + 1000 * n for n in range(1, 8)]
    assert net.batches == (3, 3, 1)


def test_examples_are_shown_and_name_the_answers():
    shown = Question(examples=(Example(features(2, 3), (Segment(0, 2),)), Example(features(1, 9), (Segment(1, 2),))),
                     label="jump")
    found = predict(Echo("examples"), {"a": features(1, 1)}, questions={"a": [shown]})
    assert told(found) == {"a": [(0, 2, 1 + 1000 * (3 + 4.5), None, "jump")]}


@dataclass
class Bright(Echo):
    """Finds every run of cells that are not 0; the score is how long it is in cells of the view. Sees videos whole."""

    def decode(self, out, batch: Batch) -> list[list[Segment]]:
        found = []
        for features, mask, grid in zip(batch.features[..., 0], batch.mask, batch.grids, strict=True):
            lit = np.diff(np.pad((features * mask > 0).numpy().astype(int), 1))
            runs = zip(np.flatnonzero(lit == 1), np.flatnonzero(lit == -1), strict=True)
            found.append([Segment(grid.seconds(int(a)), grid.seconds(int(b)), "x", float(b - a)) for a, b in runs])
        return found if batch.about is None else [found[row] for row in batch.about.tolist()]

    def select(self, candidates: list[Segment]) -> list[Segment]:
        return candidates


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_what_sees_videos_whole_sees_long_ones_in_pieces(batch):
    data = np.zeros((60, 1), np.float32)
    for a, b in ((0, 2), (5, 9), (17, 20), (31, 32), (44, 47), (59, 60)):  # some across the seams of pieces of ten
        data[a:b] = 1
    video, known = Features(data, Grid(0, 2, 60, 2), 120.0), Lengths(20.0, 40.0)
    found = predict(Bright(), {"a": video, "short": features(3, 1)}, batch, lengths=known)
    assert found["short"] == [Segment(0, 6, "x", 3.0)]
    assert sorted((s.start, s.end) for s in found["a"]) == [(0, 4), (10, 18), (34, 40), (62, 64), (88, 94), (118, 120)]
    assert [s.score for s in found["a"]] == [4, 3, 3, 2, 1, 1]  # best first, whatever its piece
    asked = [Question("one"), Question("two")]
    answers = predict(Bright("sentence"), {"a": video}, batch, questions={"a": asked}, words=words, lengths=known)
    assert [(s.query, s.start) for s in answers["a"]] == [
        (q, s.start) for q in ("one", "two") for s in found["a"]]


def test_examples_of_long_videos_are_seen_close():
    long = features(60, 0)
    shown = Question(examples=(Example(long, (Segment(100, 102), Segment(4, 6))),), label="jump")
    (found,) = predict(Echo("examples"), {"a": features(1, 1)}, questions={"a": [shown]},
                       lengths=Lengths(20.0, 40.0))["a"]
    assert found.score == 1 + 1000 * (50 + 2)  # the same cells
    seen = predict(Echo("examples"), {"a": features(1, 1)}, questions={"a": [shown]})["a"]
    assert [s.score for s in seen] == [found.score]
    close = questions._close(shown, Lengths(20.0, 40.0))
    assert [(e.features.grid.count, e.segments) for e in close.examples] == [
        (10, (Segment(100, 102), Segment(4, 6))), (10, (Segment(10, 12), Segment(-86, -84)))]


def test_proposals_go_with_their_video():
    given = {"a": [Segment(0, 1), Segment(1, 2)]}
    found = predict(Echo(judges=True), {"a": features(1, 1), "b": features(1, 2)}, proposals=given)
    assert [s.score for vid in "ab" for s in found[vid]] == [2e6 + 1, 2]


def test_what_is_missing_is_said():
    with pytest.raises(CallError, match="--query"):
        predict(Echo("sentence"), {"a": features(1)})
    with pytest.raises(CallError, match="--examples"):
        predict(Echo("examples"), {"a": features(1)})
    with pytest.raises(CallError, match="proposals"):
        predict(Echo(judges=True), {"a": features(1)})


# ---------------------------------------------------------------------------------------------- batches


def test_rows_with_several_questions_share_their_features():
    batch = collate([Row(features(2), [[Segment(0, 1)], [Segment(1, 2)]], [Question("a bb"), Question("ccc")]),
                     Row(features(3), [[]], [Question("dddd e f")])], words)
    assert batch.features.shape == (2, 3, 1)
    assert batch.about.tolist() == [0, 0, 1]
    assert batch.truth == [(Segment(0, 1),), (Segment(1, 2),), ()]
    assert batch.sentences.words[..., 0].tolist() == [[1, 2, 0], [3, 0, 0], [4, 1, 1]]
    assert batch.sentences.mask.tolist() == [[True, True, False], [True, False, False], [True] * 3]
    assert batch.examples is batch.proposals is None
    moved = batch.to("meta")
    assert {moved.features.device.type, moved.about.device.type, moved.sentences.words.device.type} == {"meta"}
    assert collate([Row(features(2))]).truth is None


def test_examples_say_how_much_of_each_cell_is_inside():
    examples = Examples.collate([[(features(3), [Segment(1, 4), Segment(3, 5)])],
                                 [(features(1), [Segment(0, 2)]), (features(2), [Segment(9, 10)])]])
    assert examples.features.shape == (2, 2, 3, 1)
    assert examples.inside[0].tolist() == [[0.5, 1, 0.5], [0, 0, 0]]
    assert examples.mask[0].tolist() == [[True] * 3, [False] * 3]  # it has one example
    assert examples.inside[1].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert examples.mask[1].tolist() == [[True, False, False], [True, True, False]]


def test_the_share_of_cells_that_spans_cover():
    rng = np.random.default_rng(0)
    grid = Grid(1.0, 0.5, 20, 0.5)
    for _ in range(20):
        spans = np.sort(rng.uniform(-1, 13, (int(rng.integers(0, 6)), 2)), axis=1)
        fine = np.linspace(1, 11, 20 * 400, endpoint=False) + 10 / 16000
        inside = ((fine[:, None] >= spans[:, 0]) & (fine[:, None] < spans[:, 1])).any(1)
        near = 0.006 * max(len(spans), 1)
        np.testing.assert_allclose(grid.covered(spans), inside.reshape(20, 400).mean(1), atol=near)
    assert grid.covered(np.zeros((0, 2))).tolist() == [0] * 20


def test_sentences_of_a_truth_are_its_questions():
    one = Segment(0, 2, sentence="she sits", id="q1")
    two, other = Segment(5, 9, sentence="she sits", id="q1"), Segment(0, 2, sentence="she sits")
    asked = questions_of([one, Segment(1, 2, "label"), other, two])
    assert [(q.query, s) for q, s in asked] == [("she sits", [one, two]), ("she sits", [other])]


def test_a_sentence_is_asked_of_views_that_show_its_moment():
    truth = {"a": VideoTruth(20.0, (Segment(0, 3, sentence="x"), Segment(6, 9, sentence="y"),
                                    Segment(19, 19, sentence="z"), Segment(1, 2, "l"))),
             "gone": VideoTruth(5.0, (Segment(0, 3, sentence="x"),))}
    net = Echo("sentence", size=4)
    rows = rows_of(net, {"a": features(10)}, truth)
    assert [(row.view.grid.start, row.questions[0].query) for row in rows] == [(0, "x"), (0, "y")]
    rows = rows_of(replace(net, size=3), {"a": features(10)}, truth)
    assert [(row.view.grid.start, row.questions[0].query) for row in rows] == [(0, "x"), (6, "y")]


def test_what_classes_are_learned_from():
    truth = {"a": VideoTruth(6.0, (Segment(0, 3, "x"),)), "b": VideoTruth(2.0)}
    rows = rows_of(Echo(judges=True, size=2), {"b": features(1), "a": features(3)}, truth, {"a": [Segment(0, 1)]})
    assert [(row.view.grid.count, list(row.truth), row.proposals) for row in rows] == [
        (2, [(Segment(0, 3, "x"),)], [Segment(0, 1)]), (1, [(Segment(0, 3, "x"),)], [Segment(0, 1)]), (1, [()], [])]
    assert rows_of(Echo(), {"a": features(3)}, truth)[0].proposals is None


def test_epochs_of_sentences_are_batches_of_questions():
    rows = [Row(features(n), [[Segment(0, 1)]], [Question("w" * n)]) for n in range(1, 6)]
    data = FeatureData(rows, 2, seed=1, words=words)
    assert len(data) == 3
    seen = [b.sentences.words.flatten().tolist() for b in data.epoch(0)]
    assert sorted(x for some in seen for x in some) == [1, 2, 3, 4, 5]
    assert [b.sentences.words.flatten().tolist() for b in data.epoch(0, skip=1)] == seen[1:]
    assert isinstance(next(data.epoch(0)).sentences, Sentences)


# ---------------------------------------------------------------------------------------------- classes by their names


@dataclass
class Names(Echo):
    """Keeps what it is given in the answer: one list for all classes of a video."""

    asked: str = "text"

    def select(self, candidates: list[Segment]) -> list[Segment]:
        return sorted(candidates, key=lambda s: -s.score)


def test_classes_are_answered_together_and_sentences_each_for_itself():
    asked = {"a": [Question(label="ab"), Question("four four"), Question(label="abc")]}
    found = predict(Names(size=2), {"a": features(3)}, questions=asked, words=words, prompts=("a {}",))
    read = {"ab": 1 + 2, "abc": 1 + 3, "four four": 8}  # letters of what was said; the row's numbers are 1 and 2 in all
    assert [(s.label, s.query, s.score) for s in found["a"]] == [
        ("abc", None, 1000 * read["abc"] + 2), ("abc", None, 1000 * read["abc"] + 1),
        ("ab", None, 1000 * read["ab"] + 2), ("ab", None, 1000 * read["ab"] + 1),
        ("x", "four four", 1000 * read["four four"] + 2), ("x", "four four", 1000 * read["four four"] + 1)]


def test_several_prompts_average_what_the_network_says():
    asked = {"a": [Question(label="ab")]}
    each = [predict(Names(), {"a": features(3)}, questions=asked, words=words, prompts=(p,))["a"][0].score
            for p in ("{}", "a {}", "of the {}")]
    together = predict(Names(), {"a": features(3)}, questions=asked, words=words, prompts=("{}", "a {}", "of the {}"))
    assert together["a"][0].score == pytest.approx(np.mean(each))
    only = predict(Names(), {"a": features(3)}, questions={"a": [Question("ab")]}, words=words, prompts=("{}", "a {}"))
    assert only["a"][0].score == each[0]  # a sentence is said once, as it is


def test_all_classes_of_a_video_go_through_together_however_many():
    net = Names()
    predict(net, {"a": features(3), "b": features(2)}, batch=2, words=words,
            questions={v: [Question(label=name) for name in "abcde"] for v in "ab"})
    assert net.batches == (5, 5)


def test_one_of_an_open_vocabulary_wants_to_be_asked():
    with pytest.raises(CallError, match="--classes"):
        predict(Names(), {"a": features(3)})


def test_training_asks_for_what_is_there_and_some_of_the_rest():
    row = Row(features(4), [[Segment(0, 2, "b"), Segment(2, 4, "d"), Segment(4, 8, "b")]])
    whole = asked_for(row, list("abcdef"), None, np.random.default_rng(0))
    assert [q.label for q in whole.questions] == ["b", "d", "a", "c", "e", "f"]
    assert [len(segments) for segments in whole.truth] == [2, 1, 0, 0, 0, 0]
    seen: dict[str, int] = {}
    for seed in range(200):
        some = asked_for(row, list("abcdef"), 2, np.random.default_rng(seed))
        assert [q.label for q in some.questions[:2]] == ["b", "d"]
        assert [q.weight for q in some.questions] == [1, 1, 2, 2]  # four are absent, two stand for them
        for q in some.questions[2:]:
            seen[q.label] = seen.get(q.label, 0) + 1
    assert seen.keys() == set("acef")
    assert min(seen.values()) > 70  # 100 of 200 are expected


def test_batches_of_classes_depend_on_seed_and_epoch_alone():
    rows = [Row(features(4, i), [[Segment(0, 2, "ab")]]) for i in range(5)]
    data = FeatureData(rows, 2, 3, words, ["ab", "c", "def"], 1, ("{}", "so much {}"))
    first, again, later = list(data.epoch(0)), list(data.epoch(0, skip=1)), list(data.epoch(1))
    assert torch.equal(first[1].sentences.words, again[0].sentences.words)
    assert torch.equal(first[0].about, torch.tensor([0, 0, 1, 1]))
    assert torch.equal(first[0].weight, torch.tensor([1.0, 2.0, 1.0, 2.0]))
    assert [len(segments) for segments in first[0].truth] == [1, 0, 1, 0]
    assert any(not torch.equal(a.sentences.words, b.sentences.words) for a, b in zip(first, later))
