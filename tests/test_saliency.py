"""How well each stretch answers: gathered from frames, said by those that can, written, read and scored."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import complaint, make_encoder
from test_localization import SMALL_UNLOC
from tiny_clip import save_clip

from cuemark.datasets import qvhighlights
from cuemark.errors import CallError, DataError
from cuemark.extraction import ExtractConfig, extract
from cuemark.grid import Features, Grid
from cuemark.localization import load
from cuemark.localizers import build
from cuemark.localizers.questions import Question, Row, collate, reading
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.metrics.frames import frames, frames_of_labels
from cuemark.nn.spans import Lengths, Window, pieces
from cuemark.saliency import Heard, Saliency, read_saliency, writing
from cuemark.segments import Moments, Segment, VideoTruth, read_predictions, write_truth


def test_a_row_is_the_mean_of_the_frames_in_it_and_lies_between_its_neighbours_where_there_is_none():
    rng = np.random.default_rng(0)
    heard = Heard(2.0)
    heard.begin("a", 19.0, 3)
    seconds, scores = rng.uniform(0, 19, 30), rng.normal(size=(2, 30))
    seconds = seconds[(seconds < 6) | (seconds > 10)]  # rows 3 and 4 have none
    heard.add("a", 1, seconds[:9], scores[:, :9])
    heard.add("a", 1, seconds[9:], scores[:, 9:len(seconds)])
    heard.add("a", 0, np.array([3.0, 18.9]), np.array([[1.0, 3.0]]))
    found = heard.of("a", ["x", "y", "z"])
    assert (found.asked, found.every, found.data.shape) == (("x", "y", "z"), 2.0, (10, 3))
    for q in (0, 1):
        means = [np.mean([s for s, t in zip(scores[q], seconds) if i * 2 <= t < i * 2 + 2] or [np.nan])
                 for i in range(10)]
        means[3], means[4] = (2 * means[2] + means[5]) / 3, (means[2] + 2 * means[5]) / 3
        np.testing.assert_allclose(found.data[:, q + 1], means, rtol=1e-5)
    np.testing.assert_allclose(found.data[:, 0], [1, 1, *(1 + 2 * i / 8 for i in range(1, 9))], rtol=1e-6)
    np.testing.assert_array_equal(found.at(np.array([0.0, 3.9, 99.0])), found.data[[0, 1, 9]])
    with pytest.raises(CallError, match="every must be a number at least"):
        Heard(0.0)


# ---------------------------------------------------------------------------------------------- files


def test_a_file_gives_back_what_was_written(tmp_path):
    a = Saliency(("jump", "run"), np.random.default_rng(0).random((5, 2), np.float32), 0.5)
    b = Saliency(("a dog jumps",), np.random.default_rng(1).random((5, 1), np.float32), 0.5)
    with writing(tmp_path / "s.npz") as kept:
        kept.add("v/1", a)
        kept.add("v/1", b)
        kept.add("v2", a)
    found = read_saliency(tmp_path / "s.npz")
    assert list(found) == ["v/1", "v2"]
    assert (found["v/1"].asked, found["v/1"].every) == (("jump", "run", "a dog jumps"), 0.5)
    np.testing.assert_array_equal(found["v/1"].data, np.concatenate([a.data, b.data], axis=1))
    np.testing.assert_array_equal(np.load(tmp_path / "s.npz")["2"], a.data)
    assert found.get("v3") is None


def test_a_stopped_one_leaves_nothing_and_a_strange_file_is_said(tmp_path):
    def stopped() -> None:
        with writing(tmp_path / "s.npz") as kept:
            kept.add("a", Saliency(("x",), np.zeros((1, 1), np.float32), 1.0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not list(tmp_path.iterdir())
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("no")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(DataError, match="is no file of saliency"):
            read_saliency(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_saliency(tmp_path / "none.npz")
    with writing(tmp_path / "s.npz") as kept:
        kept.add("a", Saliency(("x",), np.zeros((4, 1), np.float32), 1.0))
    with zipfile.ZipFile(tmp_path / "s.npz") as good, zipfile.ZipFile(tmp_path / "cut.npz", "w") as bad:
        bad.writestr("about.json", good.read("about.json"))
        bad.writestr("0.npy", good.read("0.npy")[:-3])
    with pytest.raises(DataError, match="is no file of saliency, or a damaged one"):
        read_saliency(tmp_path / "cut.npz")["a"]
    for array, every in ((np.array([["x"]]), 1.0), (np.array([[np.nan]], np.float32), 1.0), (np.zeros((0, 1)), 1.0),
                         (np.zeros((2, 1), np.float32), 0.0)):
        with zipfile.ZipFile(tmp_path / "bad.npz", "w") as bad:
            rows = [{"video": "a", "array": "0", "asked": 0, "every": every}]
            bad.writestr("about.json", json.dumps({"asked": [["x"]], "rows": rows}))
            with bad.open("0.npy", "w") as target:
                np.lib.format.write_array(target, array)
        with pytest.raises(DataError, match="or a damaged one"):
            read_saliency(tmp_path / "bad.npz")["a"]


# ---------------------------------------------------------------------------------------------- who says it


def unloc(**options) -> TrainedLocalizer:
    torch.manual_seed(0)
    network = build("unloc", SMALL_UNLOC | {"text_dim": 384} | options, 4, ["jump", "run"]).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return TrainedLocalizer(network, "unloc", {"dim": 4}, text="minilm")


def seen(count: int, seed: int = 0) -> Features:
    data = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    return Features(data, Grid(0.0, 0.5, count, 0.5), 0.5 * count)


def test_it_changes_no_answer_and_each_question_has_its_own(tmp_path):
    model = unloc()
    features = {"a": seen(40), "b": seen(31, 1)}
    asked = [Question("a dog jumps"), Question(label="run"), Question(label="a dog jumps"), Question("it sleeps")]
    plain = model.answers(features, dict.fromkeys(features, asked))
    curves = model.answers(features, dict.fromkeys(features, asked), every=1.0)
    assert plain == curves  # curves aside
    assert all(answer.saliency is None for answers in plain.values() for answer in answers)
    named, first, second = (answer.saliency for answer in curves["b"])
    assert [s.asked for s in (named, first, second)] == [("run", "a dog jumps"), ("a dog jumps",), ("it sleeps",)]
    assert [s.data.shape for s in (named, first, second)] == [(16, 2), (16, 1), (16, 1)]
    (alone,) = model.answers({"b": features["b"]}, {"b": asked[3:]}, every=1.0)["b"]
    np.testing.assert_allclose(second.data, alone.saliency.data, atol=1e-6)
    assert np.ptp(first.data - named.data[:, 1:]) > 0  # the class is asked in other words than the sentence


@pytest.mark.parametrize("options", [
    {"task": "segment", "pyramid": "none", "head_layers": 0, "span": "windows", "overlap": 0.5},
    {"span": "windows", "overlap": 0.25}, {}])
def test_every_moment_is_said_by_the_one_view_that_answers_for_it(options):
    model = unloc(**options)
    model.lengths = None if "span" in options else Lengths(6.0, 9.0)
    network, video = model.network, seen(50)
    (answer,) = model.answers({"a": video}, {"a": [Question(label="run")]}, every=0.5)["a"]
    words, prompts = reading(network, model.text)
    sums, counts = np.zeros(50), np.zeros(50)
    for piece in pieces(video, model.lengths):
        for view in network.views(piece.features):
            batch = collate([Row(view, None, [Question(label="run")])], words, prompts)
            with torch.no_grad():
                scores = network.saliency(network(batch), batch)[0].tolist()
            for i, score in enumerate(scores):
                at = view.grid.start + (i + 0.5) * view.grid.step + piece.start
                here = piece.low <= at < piece.high and (
                    not isinstance(view.grid, Window) or view.grid.first <= i < view.grid.stop)
                sums[min(int(at / 0.5), 49)] += score * here
                counts[min(int(at / 0.5), 49)] += here
    known = counts > 0
    assert known.mean() > 0.6
    if "span" in options:
        assert (counts == 1).all()
    np.testing.assert_allclose(answer.saliency.data[known, 0], sums[known] / counts[known], atol=1e-5)


def test_who_has_no_scores_of_frames_says_so(tiny_localizer, tiny_world):
    with pytest.raises(CallError, match="does not say how well each stretch"):
        tiny_localizer.localize(tiny_world.videos["testing_0000"], every=1.0)
    with pytest.raises(CallError, match="not trained to classify"):
        unloc(task="classify", pyramid="none", head_layers=0).answers({}, {}, every=1.0)


def test_without_training_it_is_the_cosine(tmp_path, tiny_world):
    save_clip(tmp_path / "clip")
    model = load(tmp_path / "clip")
    (answer,) = model.localize(tiny_world.videos["testing_0000"], ["run of jump"], every=0.5)
    found = answer.saliency
    assert found.asked == ("run of jump",)
    assert found.data.shape == (int(np.ceil(tiny_world.truth["testing_0000"].duration / 0.5 - 1e-6)), 1)
    assert -1 <= found.data.min() < found.data.max() <= 1
    with pytest.raises(CallError, match="every must be"):
        model.localize(tiny_world.videos["testing_0000"], ["run"], every=-1.0)


# ---------------------------------------------------------------------------------------------- what it is worth


def test_frame_map_of_saliency_is_that_of_scores_of_frames():
    rng = np.random.default_rng(0)
    truth = {vid: VideoTruth(10.0, (Segment(1.0, 4.0, "a"), Segment(5.0, 6.5, "b"), Segment(7.0, 9.0, "a")), "testing")
             for vid in ("x", "y")} | {"z": VideoTruth(6.0, (), "testing")}
    said = {vid: Saliency(("b", "c", "a"), rng.integers(0, 9, (int(v.duration * 2), 3)).astype(np.float32), 0.5)
            for vid, v in truth.items()}
    found = {vid: [Segment(0.0, 3.0, "a", 0.5)] for vid in truth}
    score = frames(truth, found, 4.0, saliency=said)
    rows = {vid: [next((s.label for s in v.annotations if s.start <= (i + 0.5) / 4 < s.end), "background")
                  for i in range(int(v.duration * 4))] for vid, v in truth.items()}
    expected = frames_of_labels(rows, rows, ("background",), {vid: np.repeat(s.data, 2, axis=0)[:, [2, 0]]
                                                              for vid, s in said.items()}, ("a", "b"))
    np.testing.assert_allclose(score.ap, expected.ap)
    weights = np.array([2.0, 0.0, 1.0])
    assert score.figures(weights)["frame mAP"] == pytest.approx(expected.figures(weights)["frame mAP"])
    # everything else is the segments'
    plain = frames(truth, found, 4.0).figures()
    assert {k: v for k, v in score.figures().items() if k != "frame mAP"} == {
        k: v for k, v in plain.items() if k != "frame mAP"}


def test_what_saliency_does_not_say_is_below_all_that_it_says():
    truth = {vid: VideoTruth(4.0, (Segment(0.0, 2.0, "a"),), "testing") for vid in ("x", "y")}
    low = Saliency(("a",), np.full((4, 1), -50.0, np.float32), 1.0)
    score = frames(truth, {}, 1.0, saliency={"x": low})
    assert score.map == pytest.approx(0.5 * 0.5 + 0.5 * 0.5)  # two of four frames of x, then two of all eight
    with pytest.raises(DataError, match="says nothing about any class or video"):
        frames(truth, {}, 1.0, saliency={"x": replace(low, asked=("b",))})


def test_from_the_command_line_to_a_submission_and_its_scores(tmp_path, tiny_world, cuemark, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder = make_encoder(0)
    network = build("unloc", SMALL_UNLOC | {"text_dim": 384, "task": "retrieve"}, encoder.dim, ["jump"]).eval()
    TrainedLocalizer(network, "unloc", ExtractConfig().described(encoder), encoder, text="minilm").save("m.safetensors")
    vid, video = "testing_0000", tiny_world.videos["testing_0000"]
    length = tiny_world.truth[vid].duration
    clips = int(length / 2)
    qvhighlights.write_moments(tmp_path / "truth.jsonl", [
        Moments(str(i), vid, text, (Segment(0.0, 2.0),), length, np.full((1, 3), 4.0), np.array([0]))
        for i, text in ((7, "it spins"), (9, "it hops"))])
    ended = cuemark("localize", video.parent, "--model", "m.safetensors", "--truth", "truth.jsonl", "--out",
                    "found.jsonl", "--saliency", "s.npz")
    assert ended.status == 0, ended.err
    rows = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [(row["qid"], row["vid"], row["query"]) for row in rows] == [(7, vid, "it spins"), (9, vid, "it hops")]
    assert all(len(row["pred_saliency_scores"]) >= clips and row["pred_relevant_windows"] for row in rows)
    told = read_saliency("s.npz")[vid]
    assert (told.asked, told.every) == (("it spins", "it hops"), 2.0)
    np.testing.assert_allclose(told.data.T, [row["pred_saliency_scores"] for row in rows])
    figures = json.loads(cuemark("evaluate", "highlights", "--truth", "truth.jsonl", "--predictions", "found.jsonl",
                                 "--json").out)["figures"]
    assert 0 < figures["HL-min-Good-mAP"]["value"] <= 100

    # of the test split nobody tells the moments
    secret = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({k: v for k, v in row.items() if k in (
        "qid", "query", "vid", "duration")}) + "\n" for row in secret))
    extract({vid: video}, encoder, tmp_path / "features", ExtractConfig())
    for source in (video.parent, "features"):
        assert cuemark("localize", source, "--model", "m.safetensors", "--truth", "test.jsonl", "--out",
                       "test_found.jsonl").status == 0
        again = [json.loads(line) for line in (tmp_path / "test_found.jsonl").read_text().splitlines()]
        assert [row["qid"] for row in again] == [7, 9]
        np.testing.assert_allclose(again[1]["pred_saliency_scores"], rows[1]["pred_saliency_scores"], atol=1e-5)

    ask = ("localize", video, "--model", "m.safetensors")
    ended = cuemark(*ask, "--classes", "jump,run", "--out", "p.json", "--saliency", "s.npz", "--every", 0.1)
    assert ended.status == 0, ended.err
    assert set(read_predictions("p.json")) == {vid}
    shown = (Segment(0.0, 1.0, "jump"), Segment(1.0, 2.0, "run"))
    write_truth("classes.json", {vid: VideoTruth(length, shown, "testing")})
    words = ("evaluate", "frames", "--truth", "classes.json", "--predictions", "p.json", "--fps", 10, "--json")
    plain, ranked = (json.loads(cuemark(*words, *more).out)["figures"] for more in ((), ("--saliency", "s.npz")))
    assert plain["frame mAP"]["value"] != ranked["frame mAP"]["value"]
    assert plain["frame mAP"]["floor"] == ranked["frame mAP"]["floor"]  # which says nothing of the kind
    assert plain["accuracy"] == ranked["accuracy"]

    said = ("--query", "it spins")
    for more, why in ((("--classes", "jump", "--out", "p.jsonl"), "answers to sentences"),
                      ((*said, "--every", 1), "--every is about --saliency"),
                      ((*said, "--saliency", "s.npz", "--every", 0), "every must be a number"),
                      ((*said, "--out", "p.jsonl", "--saliency", "s", "--every", 1), "of every 2 s"),
                      ((*said, "--saliency", "."), "'.' is a folder; name a file"),
                      (("--classes", " , "), "--classes names no class")):
        assert why in complaint(cuemark(*ask, *more), 2)
    (tmp_path / "file").write_text("")
    assert "'file/p.json' cannot be written" in complaint(cuemark(*ask, *said, "--out", "file/p.json"))
    assert "no file of saliency" in complaint(cuemark(*words[:-1], "--saliency", "p.json"))
