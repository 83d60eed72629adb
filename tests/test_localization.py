"""Raw videos and features to segments: the same answer both ways, in seconds, whatever else is broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_encoder

from cuemark import localization
from cuemark.errors import ModelError, VideoError
from cuemark.extraction import ExtractConfig, extract
from cuemark.localization import by_name, load, localize, localize_all, localize_features
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.segments import Segment


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
