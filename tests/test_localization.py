"""Raw videos and features to segments: the same answer both ways, in seconds, whatever else is broken."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_GTAD, complaint, make_encoder
from tiny_clip import save_clip

from cuemark import checkpoint, localization, training
from cuemark.encoders import weights
from cuemark.encoders.clip import Frames, stretched
from cuemark.errors import CallError, DataError, ModelError, VideoError
from cuemark.extraction import ExtractConfig, extract, features_of
from cuemark.grid import Features, Grid
from cuemark.localization import Shown, Similarity, by_name, load, localize, localize_all, localize_features, names_by
from cuemark.localizers import build, calibration, trained
from cuemark.localizers.calibration import Calibration
from cuemark.localizers.frames import Footage, Inputs
from cuemark.localizers.questions import Question, Row, collate, reading
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.loop import Optim
from cuemark.metrics.grounding import Choice, GroundingScore
from cuemark.metrics.reliability import judged
from cuemark.recipe import Data, Encoder, Recipe, Towers
from cuemark.segments import Segment, VideoTruth, read_predictions, write_truth
from cuemark.text import ACTION_PROMPTS
from cuemark.training import LOCALIZER_FILE, train


def alike(a: list[Segment], b: list[Segment]) -> bool:
    return len(a) == len(b) and all(
        s.label == t.label and np.allclose((s.start, s.end, s.score), (t.start, t.end, t.score), rtol=0, atol=1e-5)
        for s, t in zip(a, b))


@pytest.fixture
def model(tiny_localizer, tmp_path) -> TrainedLocalizer:
    """Saved, and loaded from a file with nothing beside it."""
    tiny_localizer.save(tmp_path / "localizer.safetensors")
    return load(tmp_path / "localizer.safetensors")


def test_a_raw_video_gives_what_its_features_give(model, tiny_features, tiny_world):
    from_features = localize_features(tiny_features, model)
    assert set(from_features) == set(tiny_features)
    for vid in ("testing_0000", "testing_0001", "training_0003"):
        raw = localize(tiny_world.videos[vid], model)
        assert raw
        assert alike(raw, from_features[vid])
    assert not alike(from_features["testing_0000"], from_features["testing_0001"])


def test_a_loaded_localizer_is_the_saved_one(model, tiny_localizer, tiny_features, tmp_path):
    only = ["testing_0000"]
    assert localize_features(tiny_features, model, only) == localize_features(tiny_features, tiny_localizer, only)
    assert (model.classes, model.extraction.stride, model.features) == (
        ("bouncing", "rocking"), 4, tiny_localizer.features)
    model.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "localizer.safetensors").read_bytes()


def test_segments_are_seconds_inside_the_video_best_first(model, tiny_features, tiny_world):
    for vid, segments in localize_features(tiny_features, model).items():
        duration = tiny_world.truth[vid].duration
        assert segments
        assert all(0 <= s.start < s.end <= duration + 1e-6 for s in segments)
        assert all(s.label in model.classes for s in segments)
        scores = [s.score for s in segments]
        assert scores == sorted(scores, reverse=True)
        assert max(s.end for s in segments) > 0.5 * duration  # seconds, not cells or shares


def test_the_answer_does_not_depend_on_the_other_videos(model, tiny_features):
    together = localize_features(tiny_features, model)
    for vid in tiny_features:
        assert alike(localize_features(tiny_features, model, [vid])[vid], together[vid])


def test_only_some_videos(model, tiny_features):
    assert list(localize_features(tiny_features, model, ["testing_0001", "nowhere", "testing_0000"])) == [
        "testing_0001", "testing_0000"]
    assert localize_features(tiny_features, model, []) == {}


def test_a_sentence_that_a_truth_has_twice_is_asked_once(tiny_localizer, tiny_features, tiny_text, tmp_path):
    model = load(asking("tan2d", tiny_localizer, tmp_path, tiny_text))
    vid = "testing_0000"
    twice = VideoTruth(9.0, (Segment(0, 1, sentence="a star"), Segment(1, 2, sentence="a star"),
                             Segment(2, 3, sentence="red")))
    found = localization.answer_features(tiny_features, model, [vid], truth={vid: twice})
    once = localization.answer_features(tiny_features, model, [vid], queries=["a star", "red"])
    assert found == once


def test_one_bad_file_ends_nothing(model, tiny_world, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    files = [tiny_world.videos["testing_0000"], tmp_path / "bad.mp4", tmp_path / "gone.mp4",
             tiny_world.videos["training_0004"]]
    found, failed = localize_all(files, model)
    assert list(found) == ["testing_0000", "training_0004"]
    assert list(failed) == ["bad", "gone"]
    for name, reason in failed.items():
        assert str(tmp_path / f"{name}.mp4") in reason
    assert capsys.readouterr().err.count("left out: ") == 2
    assert found["testing_0000"] == localize(files[0], model)
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        localize(tmp_path / "gone.mp4", model)


def test_videos_under_names_of_ones_own(model, tiny_world):
    found, failed = localize_all({"mine": tiny_world.videos["training_0004"]}, model)
    assert (list(found), failed) == (["mine"], {})
    assert localize_all([], model) == ({}, {})


def test_equal_stems_are_told_apart():
    named = by_name(["a/x.mp4", "b/x.mp4", Path("c/y.mkv")])
    assert named == {"a/x.mp4": Path("a/x.mp4"), "b/x.mp4": Path("b/x.mp4"), "y": Path("c/y.mkv")}


def test_a_localizer_without_an_encoder_cannot_look(tiny_localizer, tiny_world, tiny_features, tmp_path):
    replace(tiny_localizer, encoder=None).save(tmp_path / "bare.safetensors")
    bare = load(tmp_path / "bare.safetensors")
    assert bare.encoder is None
    for call in (lambda: localize(tiny_world.videos["testing_0000"], bare), lambda: localize_all([], bare),
                 lambda: localize_all([tiny_world.videos["testing_0000"]], bare)):
        with pytest.raises(ModelError, match="without an encoder"):
            call()
    assert localize_features(tiny_features, bare, ["testing_0000"])["testing_0000"]


def test_features_of_another_encoder_are_refused(model, tiny_world, tmp_path):
    other = make_encoder(1)
    videos = {"a": tiny_world.videos["training_0004"]}
    extract(videos, other, tmp_path / "other", ExtractConfig(stride=4))
    with pytest.raises(ModelError) as caught:
        localize_features(localization.FeatureFolder.open(tmp_path / "other"), model)
    for side in (other.weights, other.name, model.features["weights"], "tiny 0", str(tmp_path / "other")):
        assert side in str(caught.value)


def test_features_of_another_stride_are_refused(model, tiny_world, tiny_encoder, tmp_path):
    extract({"a": tiny_world.videos["training_0004"]}, tiny_encoder, tmp_path / "other", ExtractConfig(stride=8))
    with pytest.raises(ModelError, match=r"'stride': 8.*'stride': 4"):
        localize_features(localization.FeatureFolder.open(tmp_path / "other"), model)


def test_files_that_are_no_localizers(tiny_encoder, tmp_path):
    tiny_encoder.save(tmp_path / "encoder.safetensors")
    with pytest.raises(ModelError, match="is of kind 'encoder'"):
        load(tmp_path / "encoder.safetensors")
    with pytest.raises(ModelError, match="does not exist"):
        load(tmp_path / "nowhere.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "encoder.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"half\.safetensors"):
        load(tmp_path / "half.safetensors")


# ---------------------------------------------------------------------------------------------- the verb


def folder_of(tmp_path: Path, tiny_world, *names: str) -> Path:
    (tmp_path / "videos").mkdir()
    for name in names:
        (tmp_path / "videos" / f"{name}.mp4").symlink_to(tiny_world.videos[name])
    return tmp_path / "videos"


def test_the_first_video_answers_before_the_second_is_opened(model, tiny_world, tmp_path, monkeypatch):
    opened = []
    real = trained.growing
    monkeypatch.setattr(trained, "growing", lambda path, *more, **named: (
        opened.append(Path(path).stem), real(path, *more, **named))[1])
    folder = folder_of(tmp_path, tiny_world, "testing_0000", "training_0004")
    answers = model.localize(folder)
    assert opened == []
    first = next(answers)
    assert opened == ["testing_0000"]
    assert (first.video, first.path, first.asked, first.absent) == (
        "testing_0000", str(folder / "testing_0000.mp4"), (), ())
    (second,) = answers
    assert opened == ["testing_0000", "training_0004"]
    for answer in (first, second):
        assert list(answer.segments) == localize(tiny_world.videos[answer.video], model)
        assert answer.sure is None


def test_one_video_that_cannot_be_used_is_an_error_and_one_of_several_an_answer(model, tiny_world, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    alone = model.localize(tmp_path / "bad.mp4")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        next(alone)
    bad, good = model.localize([tmp_path / "bad.mp4", tiny_world.videos["training_0004"]])
    assert (bad.video, bad.segments, bad.absent) == ("bad", (), ())
    assert str(tmp_path / "bad.mp4") in bad.failed
    assert good.segments
    assert good.failed is None
    with pytest.raises(CallError, match="no video found"):
        model.localize([folder_of(tmp_path, tiny_world)])


def test_many_sentences_are_one_pass_and_an_answer_each(tiny_localizer, tiny_world, tiny_text, tmp_path, monkeypatch):
    model = load(asking("tan2d", tiny_localizer, tmp_path, tiny_text))
    passes = []
    real = trained.growing
    monkeypatch.setattr(trained, "growing", lambda *given, **named: (passes.append(1), real(*given, **named))[1])
    asked = ["a red star", "a star", "a red star"]
    answers = list(model.localize(tiny_world.videos["testing_0000"], asked))
    assert passes == [1]
    assert [a.asked for a in answers] == [("a red star",), ("a star",)]
    for answer in answers:
        assert answer.segments
        assert {s.query for s in answer.segments} == set(answer.asked)


@pytest.fixture
def in_parts(monkeypatch) -> None:
    """A video is read in four parts, however fast it goes."""
    def parts(path, encoder, config=None, *, early=True, device="cpu"):
        seen = features_of(path, encoder, config, device=device)[0]
        for count in (seen.grid.count * k // 4 for k in (1, 2, 3) if early):
            grid = replace(seen.grid, count=count)
            yield Features(seen.data[:count], grid, float(grid.windows[-1, 1])), False
        yield seen, True

    for module in (trained, localization):
        monkeypatch.setattr(module, "growing", parts)


def test_first_answers_come_early_and_the_last_are_about_all(model, tiny_world, tiny_features, in_parts):
    video = tiny_world.videos["testing_0000"]
    *early, last = model.localize(video, early=True)
    (usual,) = model.localize(video)
    assert last == usual
    assert last.until is None
    assert len(early) == 3
    seen = tiny_features["testing_0000"]
    for answer in early:
        count = int(np.searchsorted(seen.grid.windows[:, 1], answer.until + 1e-6))
        cut = Features(seen.data[:count], replace(seen.grid, count=count), answer.until)
        assert alike(list(answer.segments), model.predict({"v": cut})["v"])
        assert all(s.end <= answer.until + 1e-6 for s in answer.segments)
        assert answer.path == str(video)
    assert [a.until for a in early] == sorted({a.until for a in early})


def test_each_question_is_answered_early(tiny_localizer, tiny_world, tiny_text, tmp_path, in_parts):
    model = load(asking("tan2d", tiny_localizer, tmp_path, tiny_text))
    videos = [tiny_world.videos[vid] for vid in ("testing_0000", "testing_0001")]
    answers = list(model.localize(videos, ["a red star", "a star"], early=True))
    assert [(a.video, a.asked[0], a.until is None) for a in answers] == [
        (vid, query, whole) for vid in ("testing_0000", "testing_0001") for whole in (False, False, False, True)
        for query in ("a red star", "a star")]


def test_a_clip_answers_early_without_training(tmp_path, tiny_world, in_parts):
    save_clip(tmp_path / "clip")
    model, video = load(tmp_path / "clip"), tiny_world.videos["testing_0000"]
    answers = list(model.localize(video, ["run of jump"], early=True))
    assert [a.until is None for a in answers] == [False, False, False, True]
    assert answers[-1:] == list(model.localize(video, ["run of jump"]))


def test_the_command_line_says_what_comes_early(model, tiny_world, tiny_features, tmp_path, in_parts, cuemark,
                                                monkeypatch):
    video = tiny_world.videos["testing_0000"]
    words = ("localize", video, "--model", tmp_path / "localizer.safetensors", "--top", 1)
    usual, lines = cuemark(*words, "--json"), cuemark(*words, "--json", "--early").out.splitlines()
    assert json.loads(lines[-1]) == json.loads(usual.out)
    told = [json.loads(line)["external_data"] for line in lines[:-1]]
    assert [line["asked"] for line in told] == [[]] * 3
    assert all(0 < line["until"] < tiny_world.truth["testing_0000"].duration for line in told)
    plain = cuemark(*words, "--early").out
    assert plain.count("looked at, so far:") == 3
    assert plain.endswith(cuemark(*words).out)
    refused = cuemark("localize", tiny_features.folder, *words[2:], "--early")
    assert refused.status == 2
    assert "--early goes with videos" in refused.err
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    assert json.loads(cuemark(*words, "--json").out) == json.loads(usual.out)
    for more, times in (((), 3), (("--no-early",), 0), (("--out", tmp_path / "found.json"), 0)):
        ended = cuemark(*words, *more)
        assert ended.status == 0
        assert ended.out.count(" of 0:00:") == times
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    ended = cuemark("localize", tmp_path / "bad.mp4", *words[2:])
    assert ended.status == 1
    assert str(tmp_path / "bad.mp4") in ended.err


# ---------------------------------------------------------------------------------------------- how sure

LINK = Calibration(1.0, 2.0, 0.5, 100, 20)


def test_calibrated_scores_keep_their_order_and_unlikely_ones_are_not_said(model, tiny_features, tmp_path):
    vid = "testing_0000"
    plain = localize_features(tiny_features, model, [vid])[vid]
    replace(model, calibration=LINK).save(tmp_path / "calibrated.safetensors")
    sure = load(tmp_path / "calibrated.safetensors")
    assert sure.calibration == LINK
    found = localize_features(tiny_features, sure, [vid])[vid]
    assert [replace(s, score=None) for s in found] == [replace(s, score=None) for s in plain]
    np.testing.assert_allclose([s.score for s in found], LINK.probability([s.score for s in plain]))
    (answer,) = localization.answer_features(tiny_features, sure, [vid], least=found[3].score)
    assert list(answer.segments) == found[:4]
    assert answer.sure == found[0].score
    (nothing,) = localization.answer_features(tiny_features, sure, [vid], least=1.0)
    assert (nothing.segments, nothing.sure) == ((), found[0].score)
    assert sure.predict({vid: tiny_features[vid]})[vid] == plain  # what other systems build on is as it was


def test_who_is_not_calibrated_leaves_nothing_out(model, tiny_features, tmp_path):
    for one, why in ((model, "is not calibrated, so"),
                     (replace(model, calibration=LINK, ensemble="outputs"), "for other names, questions or prompts")):
        with pytest.raises(CallError, match=why):
            one.localize("a.mp4", least=0.1)
    (tmp_path / "scores.json").write_text('{"results": {"testing_0000": {"jump": 0.5}}}')
    sure, vid = replace(model, calibration=LINK), "testing_0000"
    named = names_by(tmp_path / "scores.json", sure)
    with pytest.raises(CallError, match="for other names, questions or prompts"):
        localization.answer_features(tiny_features, sure, [vid], names=named, least=0.1)
    assert (localize_features(tiny_features, sure, [vid], names=named)
            == localize_features(tiny_features, model, [vid], names=named))
    with pytest.raises(CallError, match="least must be"):
        sure.localize("a.mp4", least=1.5)


def test_a_checkpoint_from_before_loads(model, tmp_path):
    tensors, meta = checkpoint.load(tmp_path / "localizer.safetensors")
    del meta["calibration"], meta["lengths"]
    checkpoint.save(tmp_path / "old.safetensors", tensors, meta)
    old = load(tmp_path / "old.safetensors")
    assert (old.calibration, old.lengths) == (None, None)


@pytest.mark.parametrize(("moments", "piece"), [([], 20.0), ([3.0, 4.0], 20.0), ([15.0] * 20, 30.0), ([25.0], 40.0)])
def test_pieces_are_as_long_as_the_usual_video_or_twice_most_moments(moments, piece):
    durations = {"a": 10.0, "b": 20.0, "c": 40.0}
    seen = {vid: Features(np.zeros((2, 1), np.float32), Grid.over(0, d, 2), d) for vid, d in durations.items()}
    truth = {vid: VideoTruth(d) for vid, d in durations.items()}
    truth["c"] = VideoTruth(40.0, tuple(Segment(0.0, length) for length in moments))
    assert training.lengths_of(truth, seen) == (piece, 40.0)


def test_training_ends_with_a_calibration(tiny_features, tiny_world, tmp_path, monkeypatch, capsys):
    write_truth(tmp_path / "truth.json", tiny_world.truth)
    data = Data(str(tmp_path / "truth.json"), features=str(tiny_features.folder))
    recipe = Recipe("gtad", data, options=SMALL_GTAD, optim=Optim(batch=4, steps=2))
    bare, _ = train(recipe, tmp_path / "few")
    assert bare.calibration is None
    assert "not calibrated" in capsys.readouterr().err
    monkeypatch.setattr(calibration, "FEWEST", 1)
    made, _ = train(recipe, tmp_path / "run")
    validation = {vid: v for vid, v in tiny_world.truth.items() if v.subset == "validation"}
    answers = made.predict({vid: tiny_features[vid] for vid in validation})
    learnt = {vid: v for vid, v in tiny_world.truth.items() if v.subset == "training"}
    seen = [tiny_features[vid].duration for vid in learnt]
    assert made.lengths == training.lengths_of(learnt, tiny_features)
    assert made.lengths.longest == max(seen)
    assert np.median(seen) <= made.lengths.piece <= max(seen)
    assert load(tmp_path / "run" / LOCALIZER_FILE).lengths == made.lengths
    assert made.calibration is not None
    assert made.calibration == calibration.fit(*judged(validation, answers))
    assert load(tmp_path / "run" / LOCALIZER_FILE).calibration == made.calibration
    without, _ = train(replace(recipe, data=replace(data, validate=())), tmp_path / "none")
    assert without.calibration is None
    assert "no validation videos: scores are not calibrated" in capsys.readouterr().err


def test_training_says_where_it_does_not_read(tiny_features, tiny_world, tmp_path, monkeypatch, capsys):
    write_truth(tmp_path / "truth.json", tiny_world.truth)
    data = Data(str(tmp_path / "truth.json"), features=str(tiny_features.folder))
    options = {"clips": 16, "nodes": 8, "scales": [4], "hidden": 4, "kernel": 3, "layers": 1, "text_width": 4,
               "text_layers": 1}
    recipe = Recipe("tan2d", data, encoder=Encoder(text="minilm"), options=options, optim=Optim(batch=4, steps=2))
    monkeypatch.setattr(GroundingScore, "choice", Choice(30, 0.5, 0.5))
    train(recipe, tmp_path / "run")
    said = capsys.readouterr().err
    assert "on the validation videos, sentences may not be read" in said
    assert "More sentences or more updates may teach it to read." in said
    monkeypatch.setattr(GroundingScore, "choice", Choice(30, 0.9, 0.5))
    train(recipe, tmp_path / "reads")
    assert "may not be read" not in capsys.readouterr().err


def test_sentences_of_other_videos_are_asked_too():
    asked = training._with_strange({"a": [Question("1"), Question("2")], "b": [Question("2"), Question("3")],
                                    "c": [Question("1")]})
    assert {vid: [q.query for q in questions] for vid, questions in asked.items()} == {
        "a": ["1", "2", "3"], "b": ["2", "3", "1"], "c": ["1", "2"]}


def test_what_is_not_found_is_named(tiny_localizer, tiny_world, tiny_text, tmp_path, cuemark):
    path, video = asking("tan2d", tiny_localizer, tmp_path, tiny_text), tiny_world.videos["testing_0000"]
    model = load(path)
    best = {a.asked[0]: a.segments[0].score for a in model.localize(video, ["a star", "a red star"])}
    weaker, better = sorted(best, key=best.get)
    replace(model, calibration=LINK).save(path)
    least = float(LINK.probability((best[weaker] + best[better]) / 2))
    words = ("localize", video, "--model", path, "--query", weaker, better, "--least", least)
    ended = cuemark(*words, "--json")
    assert ended.status == 0
    told = json.loads(ended.out)
    assert told["external_data"]["not_found"] == {"testing_0000": [weaker]}
    assert told["external_data"]["calibration"]["a"] == LINK.a
    assert {item["query"] for item in told["results"]["testing_0000"]} == {better}
    ended = cuemark(*words)
    sure = 100 * float(LINK.probability(best[weaker]))
    assert f"testing_0000: {weaker}: not found (the best is {sure:.0f} % likely right)\n" in ended.out
    assert "probability" in ended.out


# ---------------------------------------------------------------------------------------------- without training


def test_a_clip_localizes_without_training(tmp_path, tiny_world, cuemark):
    save_clip(tmp_path / "clip")
    model = load(tmp_path / "clip")
    assert isinstance(model, Similarity)
    video, vid = tiny_world.videos["testing_0000"], "testing_0000"
    named, said = model.localize(video, ["run of jump"], ["jump"])
    assert (named.asked, said.asked) == (("jump",), ("run of jump",))
    assert {s.label for s in named.segments} == {"jump"}
    duration = tiny_world.truth[vid].duration
    for answer in (named, said):
        assert [s.score for s in answer.segments] == sorted((s.score for s in answer.segments), reverse=True)
        assert all(0 <= s.start < s.end <= duration + 1e-6 for s in answer.segments)
        assert 0 <= answer.sure <= 1
    extract({vid: video}, model.encoder, tmp_path / "features", model.extraction)
    features = localization.FeatureFolder.open(tmp_path / "features")
    assert alike(list(said.segments), localize_features(features, model, queries=["run of jump"])[vid])
    words = ("localize", video, "--model", tmp_path / "clip", "--query", "run of jump")
    ended = cuemark(*words, "--out", tmp_path / "p.json")
    assert ended.status == 0
    assert ended.err.count("training-free") == 1
    share = f"(it is more like this than {100 * said.sure:.0f} % of sentences about nothing)"
    assert f"{vid}: run of jump {share}" in " ".join(ended.out.split())  # lines are as wide as the terminal
    assert alike(read_predictions(tmp_path / "p.json")[vid], list(said.segments))
    told = json.loads((tmp_path / "p.json").read_text())["external_data"]
    assert told == {"without_training": model.name}
    ended = cuemark(*words, "--least", 1)
    assert f"{vid}: run of jump: not found {share}" in " ".join(ended.out.split())
    for more, why in ((["--examples", f"{video}:0-1"], "cannot be shown examples"), (["--shortlist", 3], "encoder"),
                      (["--names", "encoder"], "no trained localizer")):
        ended = cuemark(*words, *more)
        assert ended.status == 2
        assert why in ended.err


def test_features_of_another_encoder_are_not_compared(tmp_path, tiny_features):
    save_clip(tmp_path / "clip")
    with pytest.raises(ModelError, match="tiny 0"):
        localize_features(tiny_features, load(tmp_path / "clip"), queries=["run"])


# ---------------------------------------------------------------------------------------------- addresses


@pytest.fixture
def site(tiny_world) -> Iterator[str]:
    """A server on this machine: a film, one that is cut off, a page, and ways to other places."""
    film = tiny_world.videos["training_0004"].read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            moved = {"/moved.mp4": "/film.mp4", "/file.mp4": f"file://{tiny_world.videos['training_0004']}",
                     "/ftp.mp4": "ftp://127.0.0.1/film.mp4"}.get(self.path)
            if moved is not None:
                self.send_response(302)
                self.send_header("Location", moved)
                self.end_headers()
                return
            body = {"/film.mp4": film, "/cut.mp4": film, "/page.mp4": b"<html>no video</html>"}.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write((body or b"")[: 1000 if self.path == "/cut.mp4" else None])

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_address_is_read_where_that_is_allowed(model, tiny_world, site, cuemark, tmp_path):
    local = localize(tiny_world.videos["training_0004"], model)
    with pytest.raises(CallError, match=r"is an address, and videos are not fetched .* --urls"):
        model.localize(f"{site}/film.mp4")
    for place in ("film.mp4", "moved.mp4"):
        (answer,) = model.localize(f"{site}/{place}", urls=True)
        assert alike(list(answer.segments), local)
        assert (answer.video, answer.path) == (Path(place).stem, f"{site}/{place}")
    words = ("localize", f"{site}/film.mp4", "--model", tmp_path / "localizer.safetensors", "--json")
    ended = cuemark(*words)
    assert ended.status == 2
    assert "--urls" in ended.err
    ended = cuemark(*words, "--urls")
    assert ended.status == 0
    assert len(json.loads(ended.out)["results"]["film"]) == len(local)


def test_other_places_are_not_read(model, tiny_world, site):
    for address in (f"file://{tiny_world.videos['training_0004']}", "ftp://127.0.0.1/film.mp4", "rtsp://127.0.0.1/x"):
        with pytest.raises(CallError, match="only those with http and https"):
            model.localize(address, urls=True)
    for place, why in (("file.mp4", "cannot be fetched"), ("ftp.mp4", "cannot be fetched"), ("gone.mp4", "404"),
                       ("cut.mp4", "ended early"), ("page.mp4", "not a video")):
        with pytest.raises(VideoError, match=why) as caught:
            next(model.localize(f"{site}/{place}", urls=True))
        assert f"'{site}/{place}'" in str(caught.value)
        assert "cuemark-" not in str(caught.value)  # not where it lay for a while
    failed, found = model.localize([f"{site}/gone.mp4", f"{site}/film.mp4"], urls=True)
    assert "404" in failed.failed
    assert found.segments


# ---------------------------------------------------------------------------------------------- questions

SMALL = {"tan2d": {"clips": 16, "nodes": 8, "scales": [8], "hidden": 8, "kernel": 3, "layers": 1, "text_dim": 24,
                   "text_width": 8, "text_layers": 1},
         "qat": {"positions": 16, "h1d": 16, "width": 8, "groups": 4, "adapt_steps": 2}}


def asking(name: str, tiny_localizer: TrainedLocalizer, folder: Path, text: Path | None = None) -> Path:
    """An untrained one with the tiny encoder inside, saved."""
    torch.manual_seed(0)
    network = build(name, SMALL[name], 32, ["bouncing"]).eval()
    made = replace(tiny_localizer, network=network, name=name, text=None if text is None else str(text))
    made.save(folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def test_sentences_are_answered_on_raw_video_as_on_features(tiny_localizer, tiny_features, tiny_world, tiny_text,
                                                            tmp_path, cuemark):
    path = asking("tan2d", tiny_localizer, tmp_path, tiny_text)
    model, vid, asked = load(path), "testing_0000", ["a red star", "a star"]
    raw = localize(tiny_world.videos[vid], model, asked)
    assert [s.query for s in raw] == sorted((s.query for s in raw), key=asked.index)
    assert {s.query for s in raw} == set(asked)
    assert alike(raw, localize_features(tiny_features, model, [vid], queries=asked)[vid])
    one = localize(tiny_world.videos[vid], model, asked[1:])
    assert alike(one, [s for s in raw if s.query == asked[1]])
    ended = cuemark("localize", tiny_world.videos[vid], "--model", path, "--query", *asked, "--out",
                    tmp_path / "p.json", "--top", 1)
    assert ended.status == 0
    assert all(f"{vid}: {query}" in ended.out for query in asked)
    assert [s.query for s in read_predictions(tmp_path / "p.json")[vid]] == [s.query for s in raw]


def test_each_video_is_asked_the_sentences_of_its_truth(tiny_localizer, tiny_features, tiny_world, tiny_text, tmp_path,
                                                        cuemark):
    path = asking("tan2d", tiny_localizer, tmp_path, tiny_text)
    truth = {"testing_0000": VideoTruth(3.0, (Segment(0, 1, sentence="a star"), Segment(1, 2, "x")), "testing"),
             "training_0000": VideoTruth(3.0, (Segment(0, 1, sentence="a red star"),), "training")}
    write_truth(tmp_path / "truth.json", truth)
    words = ("localize", tiny_features.folder, "--model", path, "--truth", tmp_path / "truth.json", "--out",
             tmp_path / "p.json")
    assert cuemark(*words).status == 0
    found = read_predictions(tmp_path / "p.json")
    assert {vid: {s.query for s in segments} for vid, segments in found.items()} == {
        "testing_0000": {"a star"}, "training_0000": {"a red star"}}
    assert cuemark(*words, "--subset", "testing").status == 0
    assert list(read_predictions(tmp_path / "p.json")) == ["testing_0000"]
    folder = tiny_world.videos["testing_0000"].parent
    raw = ("localize", folder, *words[2:])
    assert cuemark(*raw).status == 0
    looked = read_predictions(tmp_path / "p.json")
    assert {vid: {s.query for s in segments} for vid, segments in looked.items()} == {
        "testing_0000": {"a star"}, "training_0000": {"a red star"}}
    assert alike(looked["testing_0000"], found["testing_0000"])
    assert cuemark(*raw, "--query", "a blue star", "--subset", "testing").status == 0
    assert {s.query for s in read_predictions(tmp_path / "p.json")["testing_0000"]} == {"a blue star"}
    write_truth(tmp_path / "silent.json", {vid: replace(v, annotations=()) for vid, v in truth.items()})
    silent = (*words[2:5], tmp_path / "silent.json")
    for asked, status, why in ((("localize", folder, *silent), 1, "none of the truth's videos that have sentences"),
                               (("localize", tmp_path, *words[2:]), 1, "none of the truth's videos"),
                               (("localize", folder, tmp_path, *words[2:]), 2, "one folder")):
        ended = cuemark(*asked)
        assert ended.status == status
        assert why in ended.err
    ended = cuemark("localize", tiny_features.folder, "--model", path, "--query", "a star", "--subset", "testing")
    assert ended.status == 2
    assert "--truth" in ended.err


def test_more_is_found_of_what_is_shown(tiny_localizer, tiny_features, tiny_world, tmp_path, cuemark):
    path = asking("qat", tiny_localizer, tmp_path)
    model, vid = load(path), "testing_0000"
    shown = [f"{tiny_world.videos['training_0000']}:0.2-1.5", f"{tiny_world.videos['training_0001']}:0-1"]
    raw = localize(tiny_world.videos[vid], model, examples=shown)
    assert raw
    assert alike(raw, localize_features(tiny_features, model, [vid], examples=[Shown.parse(s) for s in shown])[vid])
    ended = cuemark("localize", tiny_world.videos[vid], "--examples", *shown, "--model", path, "--json")
    assert ended.status == 0
    assert f'"{vid}"' in ended.out


def test_what_cannot_be_asked_is_said(model, tiny_localizer, tiny_world, tiny_text, tmp_path):
    video = tiny_world.videos["testing_0000"]
    sentences, examples = (load(asking(name, tiny_localizer, tmp_path, tiny_text)) for name in ("tan2d", "qat"))
    for call, why in (
        (lambda: localize(video, model, ["a star"]), "cannot be asked sentences; it finds its classes: bouncing"),
        (lambda: localize(video, model, examples=[f"{video}:0-1"]), "cannot be shown examples"),
        (lambda: localize(video, sentences), "--query"),
        (lambda: localize(video, sentences, [" "]), "--query"),
        (lambda: localize(video, examples), "--examples"),
        (lambda: localize(video, examples, ["a star"]), "cannot be asked sentences; show it"),
        (lambda: localize(video, examples, examples=[str(video)]), "is no example; write FILE:START-END"),
        (lambda: localize(video, examples, examples=[f"{video}:3-2"]), "is no example"),
        (lambda: localize(video, examples, examples=[f"{video}:900-901"]), "begins after its video has ended"),
    ):
        with pytest.raises(CallError, match=why):
            call()
    with pytest.raises(VideoError, match="gone"):
        localize(video, examples, examples=["gone.mp4:0-1"])


def test_proposals_without_a_name_are_named(tiny_localizer, tiny_features, tiny_world, tmp_path, cuemark):
    network = build("gtad", SMALL_GTAD | {"names": "none"}, 32, []).eval()
    replace(tiny_localizer, network=network).save(tmp_path / "nameless.safetensors")
    model, vid = load(tmp_path / "nameless.safetensors"), "testing_0000"
    plain = localize_features(tiny_features, model, [vid])[vid]
    (tmp_path / "scores.json").write_text('{"results": {"testing_0000": {"jump": 0.5, "run": 0.25, "sit": 0.1}}}')
    named = localize_features(tiny_features, model, [vid], names=names_by(tmp_path / "scores.json", model))[vid]
    assert len(named) == 2 * len(plain)
    assert {s.label for s in named} == {"jump", "run"}
    assert named[0].score == pytest.approx(plain[0].score / 2)
    words = ("localize", tiny_world.videos[vid], "--model", tmp_path / "nameless.safetensors")
    ended = cuemark(*words, "--names", tmp_path / "scores.json", "--json")
    assert ended.status == 0
    assert '"jump"' in ended.out
    ended = cuemark(*words, "--names", tmp_path / "scores.json", "--labels", "a")
    assert ended.status == 2
    with pytest.raises(DataError, match="of other videos"):
        localize_features(tiny_features, model, ["training_0000"], names=names_by(tmp_path / "scores.json", model))
    with pytest.raises(ModelError, match="has no class head"):
        localize_features(tiny_features, model, [vid], names=names_by("encoder", model))
    with pytest.raises(ModelError, match="pre-trained by CLAP"):
        localize_features(tiny_features, model, [vid], names=names_by(["jump"], model))
    with pytest.raises(ModelError, match="without an encoder"):
        names_by("encoder", replace(model, encoder=None))


# ---------------------------------------------------------------------------------------------- any class, any sentence

SMALL_UNLOC = {"frames": 16, "width": 20, "heads": 2, "layers": 1, "head_layers": 1, "threshold": 0.0,
               "ranges": [[0.0, 8.0], [8.0, 10000.0]]}


@pytest.mark.parametrize(("pooling", "freeze_text"), [("cls", True), ("frame", False)])
def test_an_image_tower_is_tuned_from_videos_and_looks_at_new_ones(tmp_path, tiny_world, pooling, freeze_text):
    save_clip(tmp_path / "clip")
    write_truth(tmp_path / "truth.json", tiny_world.truth)
    options = SMALL_UNLOC | {"freeze_text": freeze_text}
    videos = tiny_world.videos["training_0000"].parent
    data = Data(str(tmp_path / "truth.json"), videos=str(videos), validate=())
    recipe = Recipe("unloc", data, Encoder(start=str(tmp_path / "clip"), text=str(tmp_path / "clip")), options,
                    Towers(pooling, 4.0, None, "full"), Optim(batch=2, steps=3, lr_heads=1e-2, lr=1e-2))
    trained, _ = train(recipe, tmp_path / "run")
    model = load(tmp_path / "run" / LOCALIZER_FILE)
    assert (model.clip is None) == (pooling == "cls")  # it stays inside, or has become the encoder
    assert (model.encoder is None) == (pooling == "frame")
    video = next(path for vid, path in tiny_world.videos.items() if tiny_world.truth[vid].subset == "testing")
    found = localize(video, model, classes=["a thing never named", "jump"])
    assert {s.label for s in found} == {"a thing never named", "jump"}
    assert alike(found, localize(video, trained, classes=["a thing never named", "jump"]))
    model.ensemble = "outputs"
    once = localize(video, model, classes=["jump"])
    if pooling == "frame":
        frames: list[int] = []
        forward = Frames.forward
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Frames, "forward", lambda self, x: frames.append(len(x)) or forward(self, x))
            assert localize(video, model, classes=["jump"]) == once
            assert len(frames) == 1  # whatever is said, 28 times, frames look the same
        footage, words = Footage({"": video}, model.clip), reading(model.network, model.text)[0]
        (view,) = model.network.views(footage.clocks()[""])
        batches = [collate([Row(view, None, [Question(label="jump")])], words, (prompt,)) for prompt in ACTION_PROMPTS]
        with torch.no_grad():
            each = [model.network(Inputs(footage, tokens=True)(batch)) for batch in batches]
        mean = {name: sum(out[name] for out in each) / len(each) for name in each[0]}
        slow = model.network.select(model.network.decode(mean, batches[0])[0])
        assert alike([replace(s, label="jump") for s in slow], once)
    model.ensemble = "first"
    assert not alike(localize(video, model, classes=["jump"]), once)
    said = localize(video, model, queries=["run of jump"])
    assert {s.query for s in said} == {"run of jump"}
    assert {s.label for s in localize(video, model)} <= set(model.classes)
    before = weights.load(str(tmp_path / "clip")).network.state_dict()
    tower = model.encoder.network if model.encoder is not None else model.network.image.tower
    assert any(not torch.equal(value, before[name]) for name, value in tower.state_dict().items() if name in before)


@pytest.mark.parametrize("pooling", ["cls", "frame", "gap"])
def test_what_was_pre_trained_on_clips_is_where_localization_begins(tmp_path, tiny_world, pooling):
    save_clip(tmp_path / "clip")
    write_truth(tmp_path / "truth.json", tiny_world.truth)
    clip = f"clip-gap:{tmp_path / 'clip'}" if pooling == "gap" else str(tmp_path / "clip")
    data = Data(str(tmp_path / "truth.json"), videos=str(tiny_world.videos["training_0000"].parent), validate=())
    classify = SMALL_UNLOC | {"task": "classify", "pyramid": "none", "head_layers": 0, "frames": 8}
    recipe = Recipe("unloc", data, Encoder(start=clip, text=str(tmp_path / "clip")), classify,
                    Towers(pooling, 4.0, None, "none"), Optim(batch=2, steps=2, lr=1e-2))
    first, _ = train(recipe, tmp_path / "first")
    told = replace(recipe, options=SMALL_UNLOC | {"freeze_image": True},
                   optim=Optim(batch=2, steps=1, lr=0.0, lr_heads=0.0), start=str(tmp_path / "first" / LOCALIZER_FILE))
    then, _ = train(told, tmp_path / "then")
    learnt, kept = (m.network.image.tower if m.encoder is None else m.encoder.network for m in (first, then))
    assert type(learnt) is type(kept)
    before = weights.load(clip).network.state_dict()
    for name, value in kept.state_dict().items():
        expected = learnt.state_dict()[name]
        if name == "cls" and pooling == "frame":
            assert (len(expected), len(value)) == (8, 16)  # a token for the place of each frame
            expected = stretched(expected, 16)
        torch.testing.assert_close(value, expected, rtol=0, atol=0)
    moved = [name for name, value in kept.state_dict().items()
             if name != "cls" and not torch.equal(value, before[name])]
    assert moved  # it had been tuned
    assert torch.equal(then.network.blocks[0].attention.out.weight,
                       first.network.blocks[0].attention.out.weight)


def small_unloc(task: str = "localize", text: str | None = None, **options) -> TrainedLocalizer:
    network = build("unloc", SMALL_UNLOC | {"task": task, "text_dim": 384} | options, 4, ["jump", "run"]).eval()
    return TrainedLocalizer(network, "unloc", {"dim": 4}, calibration=LINK, text=text)


@pytest.mark.parametrize(("task", "own", "others"), [
    ("localize", Question(label="jump"), [Question(label="juggle"), Question("a dog jumps")]),
    ("retrieve", Question("a dog jumps"), [Question(label="jump"), Question(label="juggle")]),
])
def test_a_probability_is_of_what_was_learnt(task, own, others):
    sure = small_unloc(task)
    assert sure.link(asked=[own]) == LINK
    for other in others:
        assert sure.link(asked=[own, other]) is None
        with pytest.raises(CallError, match="for other names, questions or prompts"):
            sure.answers({}, {"a": [other]}, least=0.1)


def test_names_never_learnt_have_a_score_and_no_probability(tmp_path, tiny_world, cuemark):
    encoder = make_encoder(0)
    network = build("unloc", SMALL_UNLOC | {"text_dim": 384}, encoder.dim, ["jump", "run"]).eval()
    sure = TrainedLocalizer(network, "unloc", ExtractConfig().described(encoder), encoder, text="minilm")
    replace(sure, calibration=LINK).save(tmp_path / "unloc.safetensors")
    words = ("localize", tiny_world.videos["testing_0000"], "--model", tmp_path / "unloc.safetensors")
    for classes, told in (("jump", True), ("jump,juggle", False)):
        assert ("probability" in cuemark(*words, "--classes", classes).out) == told
        answered = json.loads(cuemark(*words, "--classes", classes, "--json").out)
        assert ("calibration" in answered["external_data"]) == told


def test_names_come_from_a_file_too(tmp_path, tiny_world, cuemark, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder = make_encoder(0)
    network = build("unloc", SMALL_UNLOC | {"text_dim": 384}, encoder.dim, ["jump", "run"]).eval()
    TrainedLocalizer(network, "unloc", ExtractConfig().described(encoder), encoder, text="minilm").save(
        tmp_path / "unloc.safetensors")
    (tmp_path / "names.list").write_text("opening a door, slowly\njuggle\n")
    (tmp_path / "names.json").write_text('["swim", "juggle"]')
    words = ("localize", tiny_world.videos["testing_0000"], "--model", "unloc.safetensors", "--json", "--classes")
    for classes, labels in (
            (["@names.list"], {"opening a door, slowly", "juggle"}),
            (["run, @names.json", "@names.list,jump"],
             {"run", "swim", "juggle", "opening a door, slowly", "jump"})):
        found = json.loads(cuemark(*words, *classes).out)["results"]
        assert {s["label"] for rows in found.values() for s in rows} == labels
    for classes, said in (("run,@gone.list", "class file 'gone.list' does not exist"), ("@", "'.' is a folder, not a"),
                          ("@names.list,@bad.json", "'bad.json'")):
        (tmp_path / "bad.json").write_text('{"run": 1}')
        assert said in complaint(cuemark(*words[:3], "gone.safetensors", "--classes", classes))


def test_a_shortlist_is_of_one_that_knows_what_a_video_looks_like(tmp_path, capsys):
    for name, options, warned in (("plain", {}, True), ("learnt", {"similarity_weight": 0.3}, False)):
        small_unloc(text="minilm", **options).save(tmp_path / f"{name}.safetensors")
        assert load(tmp_path / f"{name}.safetensors", shortlist=1).network.config.top == 1
        assert ("little better than drawn" in capsys.readouterr().err) == warned
    with pytest.raises(CallError, match="--prompts embeddings"):
        load(tmp_path / "learnt.safetensors", shortlist=1, ensemble="outputs")
    small_unloc(text="minilm", similarity_weight=0.3, top=1).save(tmp_path / "short.safetensors")
    with pytest.raises(CallError, match="--prompts embeddings"):
        load(tmp_path / "short.safetensors", ensemble="outputs")


def test_other_localizers_are_not_asked_for_classes(model, tmp_path):
    with pytest.raises(CallError, match="train an unloc"):
        model.asks(classes=["jump"])
    with pytest.raises(CallError, match="shortlist"):
        load(tmp_path / "localizer.safetensors", shortlist=3)
