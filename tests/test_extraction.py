"""Whole videos to features: against a slow reference, after kills, among broken files."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_encoder
from kills import files, kill_at_random

from cuemark import extraction, feature_folder, folders, video
from cuemark.batch import normalised
from cuemark.checkpoint import software
from cuemark.encoders.video_encoder import VideoEncoder, encode
from cuemark.errors import CallError, CuemarkError, DataError, ModelError, VideoError
from cuemark.extraction import ExtractConfig, extract, features_of, growing
from cuemark.feature_folder import FeatureFolder, global_features
from cuemark.folders import LOCK, failures, locked
from cuemark.grid import Features, Grid

pytestmark = pytest.mark.timeout(60)  # threads that wait for each other would wait for ever


def film(path: Path, count: int, fps: float = 30.0, seed: int = 0, high: int = 4, wide: int = 5) -> Path:
    """A video whose every picture is coarse noise, so that no two clips look alike."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, high, wide, 3), dtype=np.uint8)
    video.write(path, (b.repeat(12, 0).repeat(12, 1) for b in blocks), fps=fps, quality=10)
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """3.4 s at three rates, and a short one."""
    folder = tmp_path_factory.mktemp("films")
    counts = {"thirty": (102, 30.0), "ten": (34, 10.0), "film": (82, 24000 / 1001), "short": (12, 30.0)}
    return {name: film(folder / f"{name}.mp4", n, fps, i) for i, (name, (n, fps)) in enumerate(counts.items())}


def slow_frames(path: Path, encoder: VideoEncoder, place: float = 0.5) -> np.ndarray:
    """The frame shown at each k / 15 s of a video, resized and cropped, by looking at all of them.

    ``place``: of the square along the longer side; 0 the left or upper end, 1 the other.
    """
    info, clip = video.probe(path), encoder.clip
    shown = list(video.frames(path, clip.size(info.height, info.width)))
    chosen = []
    for k in range(math.ceil(info.duration * clip.fps - 1e-6)):
        picture = [image for stamp, image in shown if stamp <= k / clip.fps + 1e-4][-1]
        down, across = picture.shape[0] - clip.crop, picture.shape[1] - clip.crop
        top, left = (down / 2, across * place) if across >= down else (down * place, across / 2)
        top, left = round(top), round(left)
        chosen.append(picture[top:top + clip.crop, left:left + clip.crop])
    return np.stack(chosen)


def slow_features(path: Path, encoder: VideoEncoder, stride: int, place: float = 0.5,
                  network: Callable[[torch.Tensor], torch.Tensor] | None = None) -> np.ndarray:
    """Decode everything, cut windows by hand, encode one by one."""
    pictures, clip = slow_frames(path, encoder, place), encoder.clip
    while len(pictures) < clip.frames:
        pictures = np.concatenate([pictures, pictures[-1:]])
    rows, start = [], 0
    while start + clip.frames <= len(pictures):
        tensor = normalised(pictures[None, start:start + clip.frames].copy(), clip.mean, clip.std)
        rows.append(encode(network or encoder.network, tensor)[0].numpy())
        start += stride
    return np.stack(rows)


# ---------------------------------------------------------------------------------------------- one video


@pytest.mark.parametrize("stride", [4, 16, 20])
@pytest.mark.parametrize("name", ["thirty", "ten", "film"])
def test_features_are_those_of_the_slow_reference(films, tiny_encoder, name, stride):
    found, padded = features_of(films[name], tiny_encoder, ExtractConfig(stride, batch=3))
    expected = slow_features(films[name], tiny_encoder, stride)
    assert found.data.shape == expected.shape
    assert found.data.dtype == np.float32
    np.testing.assert_allclose(found.data, expected, rtol=0, atol=1e-6)
    assert np.abs(np.diff(expected, axis=0)).max(1).min() > 1e-4  # a window that is off would be seen
    assert not padded
    assert found.duration == video.probe(films[name]).duration


@pytest.fixture
def slow_encoder(tiny_encoder, monkeypatch) -> Iterator[VideoEncoder]:
    """Takes its time over every clip, so that somebody can look while it works."""
    monkeypatch.setattr(extraction, "IDLE", 0.005)
    monkeypatch.setattr(extraction, "PAUSE", 0.0)
    handle = tiny_encoder.network.register_forward_pre_hook(lambda *_: time.sleep(0.03))
    yield tiny_encoder
    handle.remove()


@pytest.mark.parametrize("workers", [1, 3])
def test_parts_of_a_video_come_while_it_is_read(films, slow_encoder, workers):
    config = ExtractConfig(2, batch=2)
    *parts, (whole, last) = growing(films["thirty"], slow_encoder, config, workers=workers)
    everything = features_of(films["thirty"], slow_encoder, config)[0]
    np.testing.assert_array_equal(whole.data, everything.data)
    assert (last, whole.grid, whole.duration) == (True, everything.grid, everything.duration)
    assert parts
    counts = [part.grid.count for part, _ in parts]
    assert counts == sorted(set(counts))
    assert counts[-1] <= everything.grid.count
    for part, of_all in parts:
        assert not of_all
        np.testing.assert_array_equal(part.data, everything.data[:part.grid.count])
        np.testing.assert_array_equal(part.grid.centres, everything.grid.centres[:part.grid.count])
        assert part.duration == pytest.approx(((part.grid.count - 1) * 2 + 16) / 15)  # where its last clip ends


def test_nobody_is_told_early_who_did_not_ask(films, slow_encoder):
    (found, whole), = growing(films["thirty"], slow_encoder, ExtractConfig(2, batch=2), early=False)
    assert whole
    assert found.grid.count == 18


def test_looking_at_parts_costs_a_tenth(films, slow_encoder):
    looks = []
    for part, whole in growing(films["thirty"], slow_encoder, ExtractConfig(1, batch=1), workers=1):
        looks.append((part, whole))
        time.sleep(0 if whole else 0.6)  # the rest takes less than nine times that
    assert [whole for _, whole in looks] == [False, True]


def test_a_video_that_breaks_later_has_shown_its_beginning(films, slow_encoder, monkeypatch):
    real, looked = video.frames_every, threading.Event()

    def breaking(*given):
        for number, picture in enumerate(real(*given)):
            if number == 40:
                looked.wait(30)
                raise VideoError("video 'thirty' is damaged.")
            yield picture

    monkeypatch.setattr(video, "frames_every", breaking)
    parts = growing(films["thirty"], slow_encoder, ExtractConfig(2, batch=1))
    found = [next(parts)]
    looked.set()
    with pytest.raises(VideoError, match="damaged"):
        found.extend(parts)
    assert not any(whole for _, whole in found)


def test_whoever_has_seen_enough_may_leave(films, slow_encoder):
    before = set(threading.enumerate())
    parts = growing(films["thirty"], slow_encoder, ExtractConfig(1, batch=1))
    assert not next(parts)[1]
    assert set(threading.enumerate()) - before
    parts.close()
    assert not set(threading.enumerate()) - before


def test_features_of_a_world_video_are_those_of_the_slow_reference(tiny_world, tiny_encoder):
    path = tiny_world.videos["training_0004"]
    found = features_of(path, tiny_encoder, ExtractConfig(8))[0].data
    np.testing.assert_allclose(found, slow_features(path, tiny_encoder, 8), rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 4, 16, 20])
def test_clip_i_is_centred_on_its_middle_frame(films, tiny_encoder, stride):
    grid = features_of(films["thirty"], tiny_encoder, ExtractConfig(stride))[0].grid
    assert grid.count == (51 - 16) // stride + 1  # 102 frames at 30 fps are 51 at 15
    np.testing.assert_allclose(grid.centres, (np.arange(grid.count) * stride + 8) / 15, rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.windows[:, 1] - grid.windows[:, 0], 16 / 15)


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_the_batch_size_changes_nothing(films, tiny_encoder, size):
    usual = features_of(films["thirty"], tiny_encoder, ExtractConfig(4))[0].data
    np.testing.assert_allclose(features_of(films["thirty"], tiny_encoder, ExtractConfig(4, batch=size))[0].data, usual,
                               rtol=0, atol=1e-6)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_bytes_of_a_clip_depend_neither_on_its_neighbours_nor_on_the_number_of_threads(films, tiny_encoder,
                                                                                           tmp_path, bf16):
    config = ExtractConfig(4, bf16=bf16, batch=5)
    extract(films, tiny_encoder, tmp_path / "two", config, workers=2)
    extract(dict(reversed(films.items())), tiny_encoder, tmp_path / "three", config, workers=3)
    for vid, path in films.items():
        alone = features_of(path, tiny_encoder, config, workers=1)[0].data
        assert len(np.unique(alone, axis=0)) == len(alone)
        for folder in ("two", "three"):
            assert np.load(tmp_path / folder / f"{vid}.npy").tobytes() == alone.tobytes()


def test_every_frame_is_decoded_once(films, tiny_encoder, monkeypatch):
    decoded: list[float] = []
    real = video.pictures_from

    def counting(path: Path, *arguments, **options) -> Iterator[tuple[float, object]]:
        for stamp, picture in real(path, *arguments, **options):
            decoded.append(stamp)
            yield stamp, picture

    monkeypatch.setattr(video, "pictures_from", counting)
    features_of(films["thirty"], tiny_encoder, ExtractConfig(1))  # every picture is in up to 16 clips
    assert decoded.pop(0) == 0.0  # probe's
    assert len(decoded) == len(set(decoded))
    assert 100 <= len(decoded) <= 102


def test_a_short_video_is_padded_with_its_last_frame_and_says_so(films, tiny_encoder, tmp_path):
    found, padded = features_of(films["short"], tiny_encoder)
    assert padded
    assert found.data.shape == (1, 32)
    pictures = slow_frames(films["short"], tiny_encoder)
    assert len(pictures) == 6
    clip = np.concatenate([pictures, np.repeat(pictures[-1:], 10, axis=0)])
    tensor = normalised(clip[None], tiny_encoder.clip.mean, tiny_encoder.clip.std)
    np.testing.assert_allclose(found.data, encode(tiny_encoder.network, tensor).numpy(), rtol=0, atol=1e-6)
    extract({"short": films["short"], "long": films["ten"]}, tiny_encoder, tmp_path)
    told = json.loads((tmp_path / "features.json").read_text())["videos"]
    assert {vid: entry["padded"] for vid, entry in told.items()} == {"short": True, "long": False}


@pytest.mark.parametrize(("count", "clips", "padded"), [(15, 1, True), (16, 1, False), (31, 1, False), (32, 2, False)])
def test_what_is_left_at_the_end_is_dropped(tmp_path, tiny_encoder, count, clips, padded):
    found, said = features_of(film(tmp_path / "a.mp4", count, 15.0), tiny_encoder)
    assert (found.grid.count, said) == (clips, padded)


@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (4, 9), (9, 4), (4, 4)])
def test_three_crops_are_the_mean_of_three_squares(tmp_path, tiny_encoder, shape):
    path = film(tmp_path / "a.mp4", 60, 15.0, 0, *shape)
    expected = [slow_features(path, tiny_encoder, 20, place) for place in (0, 0.5, 1)]
    if shape != (4, 4):
        assert min(np.abs(expected[i] - expected[i - 1]).max() for i in range(3)) > 1e-4
    for batch in (1, 3, 8):
        found = features_of(path, tiny_encoder, ExtractConfig(20, crops=3, batch=batch))[0].data
        np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=0, atol=1e-6)


def test_the_largest_of_the_last_layer(films, tiny_encoder):
    network = tiny_encoder.network

    def slow(clips: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            for layer in (network.stem, network.layer1, network.layer2, network.layer3, network.layer4):
                clips = layer(clips)
        return torch.from_numpy(clips.numpy().reshape(len(clips), 32, -1).max(2))

    found = features_of(films["thirty"], tiny_encoder, ExtractConfig(8, pooling="max"))[0].data
    expected = slow_features(films["thirty"], tiny_encoder, 8, network=slow)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert (found >= features_of(films["thirty"], tiny_encoder, ExtractConfig(8))[0].data - 1e-6).all()


@pytest.mark.parametrize("fps", [7.5, 10.0, 30.0])
def test_another_rate_than_the_encoders(films, tiny_encoder, fps):
    other = VideoEncoder(tiny_encoder.network, replace(tiny_encoder.clip, fps=fps), "other")
    found = features_of(films["thirty"], tiny_encoder, ExtractConfig(4, fps=fps))[0]
    np.testing.assert_allclose(found.data, slow_features(films["thirty"], other, 4), rtol=0, atol=1e-6)
    assert found.grid == Grid.of_clips(len(found.data), 4, 16, fps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("bf16", [False, True])
def test_a_gpu_sees_what_a_cpu_sees(films, tiny_encoder, tmp_path, bf16):
    extract(films, tiny_encoder, tmp_path, ExtractConfig(4, bf16=bf16), device="cuda")
    for vid, path in films.items():
        here = torch.from_numpy(features_of(path, tiny_encoder, ExtractConfig(4))[0].data)
        there = torch.from_numpy(np.load(tmp_path / f"{vid}.npy"))
        assert torch.cosine_similarity(here, there).min() > 0.999


def test_rows_go_to_the_file_and_not_to_memory(films, tiny_encoder, tmp_path):
    found = extraction._Video(films["ten"], tmp_path / "a.npy", tiny_encoder, ExtractConfig(4))
    assert found.rows is None
    rows = np.random.default_rng(0).normal(size=(found.count, 32)).astype(np.float32)
    order = np.random.default_rng(1).permutation(found.count)
    assert [found.put(i, rows[i]) for i in order] == [False] * (found.count - 1) + [True]
    assert not (tmp_path / "a.npy").exists()
    found.finish()
    np.save(tmp_path / "expected.npy", rows)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


# ---------------------------------------------------------------------------------------------- folders


def test_the_folder_says_what_it_holds(films, tiny_encoder, tmp_path):
    result = extract(films, tiny_encoder, tmp_path, ExtractConfig(4))
    assert (sorted(result.done), result.skipped, result.failed) == (sorted(films), [], {})
    assert {p.name for p in tmp_path.iterdir()} == {"features.json", LOCK, *(f"{v}.npy" for v in films)}
    meta = json.loads((tmp_path / "features.json").read_text())
    assert meta["complete"] is True
    assert (meta["encoder"], meta["weights"], meta["dim"]) == (tiny_encoder.name, tiny_encoder.weights, 32)
    assert (meta["dtype"], meta["precision"], meta["software"]) == ("float32", "fp32", software())
    assert meta["clip"]["stride"] == 4
    assert (meta["clip"]["frames"], meta["clip"]["fps"], meta["clip"]["crop"]) == (16, 15.0, 16)
    clips = 0
    for vid, path in films.items():
        data = np.load(tmp_path / f"{vid}.npy")
        direct = features_of(path, tiny_encoder, ExtractConfig(4))[0]
        assert data.dtype == np.float32
        assert data.tobytes() == direct.data.tobytes()
        assert Grid.from_json(meta["videos"][vid]["grid"]) == direct.grid
        assert meta["videos"][vid]["duration"] == direct.duration
        clips += len(data)
    assert result.clips == clips


def test_an_opened_folder_is_a_mapping(tiny_features, tiny_world):
    untrimmed = {v for v, t in tiny_world.truth.items() if t.subset != "trimmed"}
    assert set(tiny_features) == untrimmed
    assert len(tiny_features) == 12
    assert "training_0000" in tiny_features
    assert "trimmed_0000" not in tiny_features
    assert (tiny_features.dim, tiny_features.meta["clip"]["stride"]) == (32, 4)
    one = tiny_features["training_0000"]
    assert one.data.shape == (one.grid.count, 32)
    assert one.duration == pytest.approx(tiny_world.truth["training_0000"].duration, abs=1e-3)


def test_half_precision(films, tiny_encoder, tmp_path):
    extract({"a": films["ten"]}, tiny_encoder, tmp_path, ExtractConfig(dtype="float16"))
    data = np.load(tmp_path / "a.npy")
    assert data.dtype == np.float16
    np.testing.assert_array_equal(data, features_of(films["ten"], tiny_encoder)[0].data.astype(np.float16))
    assert FeatureFolder.open(tmp_path)["a"].data.dtype == np.float16
    assert global_features(FeatureFolder.open(tmp_path))["a"].dtype == np.float32
    with pytest.raises(ModelError, match="dtype float16, but these would have float32"):
        extract({"a": films["ten"]}, tiny_encoder, tmp_path)


def test_what_is_there_is_skipped(films, tiny_encoder, tmp_path, monkeypatch):
    first, second = ({v: films[v] for v in names} for names in (("ten", "short"), ("ten", "short", "film")))
    extract(first, tiny_encoder, tmp_path)
    before = files(tmp_path)
    times = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.npy")}
    real = extraction.clips_of
    monkeypatch.setattr(extraction, "clips_of", lambda *a, **k: pytest.fail("extracted again"))
    again = extract(first, tiny_encoder, tmp_path)
    assert (again.done, again.skipped, again.clips) == ([], ["ten", "short"], 0)
    assert files(tmp_path) == before
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.npy")} == times

    monkeypatch.setattr(extraction, "clips_of", real)
    more = extract(second, tiny_encoder, tmp_path)
    assert (more.done, more.skipped) == (["film"], ["ten", "short"])
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.npy") if p.stem != "film"} == times
    assert set(FeatureFolder.open(tmp_path)) == {"ten", "short", "film"}


@pytest.mark.parametrize("damage", ["longer", "shorter", "header", "another", "half", "gone"])
def test_an_array_that_was_damaged_is_made_again(films, tiny_encoder, tmp_path, damage):
    videos = {vid: films[vid] for vid in ("ten", "short")}
    extract(videos, tiny_encoder, tmp_path)
    before, path = files(tmp_path), tmp_path / "ten.npy"
    data = before["ten.npy"]
    if damage == "another":
        np.save(path, np.zeros((7, 32), np.float32))
    elif damage == "half":
        np.save(path, np.load(path).astype(np.float16))
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"longer": data + b"x", "shorter": data[:-4], "header": b"?" * 20 + data[20:]}[damage])
    again = extract(videos, tiny_encoder, tmp_path)
    assert (again.done, again.skipped) == (["ten"], ["short"])
    assert files(tmp_path) == before


def test_another_video_of_the_same_size_is_noticed(films, tiny_encoder, tmp_path):
    path, out = Path(shutil.copy(films["ten"], tmp_path / "a.mp4")), tmp_path / "out"
    extract({"a": path}, tiny_encoder, out)
    os.utime(path, (1, 1))
    shutil.copy(path, tmp_path / "b.mp4")
    assert extract({"a": tmp_path / "b.mp4"}, tiny_encoder, out).skipped == ["a"]  # touched and copied
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert extract({"a": path}, tiny_encoder, out).done == ["a"]
    assert json.loads((out / "features.json").read_text())["videos"]["a"]["mark"] == video.mark(path)


def test_folders_from_before_there_were_marks(films, tiny_encoder, tmp_path):
    out = tmp_path / "out"
    extract({"a": films["ten"]}, tiny_encoder, out)
    told = json.loads((out / "features.json").read_text())
    for size, done in ((films["ten"].stat().st_size, False), (7, True)):
        del told["videos"]["a"]["mark"]
        told["videos"]["a"]["bytes"] = size
        (out / "features.json").write_text(json.dumps(told))
        assert bool(extract({"a": films["ten"]}, tiny_encoder, out).done) is done
        told = json.loads((out / "features.json").read_text())
        assert ("mark" in told["videos"]["a"]) is done
        told["videos"]["a"]["mark"] = ""


def test_broken_videos_are_named_and_the_rest_goes_on(films, tiny_encoder, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    videos = {"first": films["ten"], "bad": tmp_path / "bad.mp4", "gone": tmp_path / "gone.mp4",
              "last": films["short"]}
    result = extract(videos, tiny_encoder, tmp_path / "out")
    assert result.done == ["first", "last"]
    assert list(result.failed) == ["bad", "gone"]
    assert str(tmp_path / "bad.mp4") in result.failed["bad"]
    assert str(tmp_path / "gone.mp4") in result.failed["gone"]
    assert capsys.readouterr().err.count("left out") == 2
    folder = FeatureFolder.open(tmp_path / "out")
    assert set(folder) == {"first", "last"}
    told = failures(tmp_path / "out")
    assert told == {v: why.replace(f"{tmp_path}/", "") for v, why in result.failed.items()}  # no path of this machine
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"features.json", "failed.json", LOCK, "first.npy",
                                                              "last.npy"}

    shutil.copy(films["film"], tmp_path / "bad.mp4")  # mended meanwhile
    again = extract(videos, tiny_encoder, tmp_path / "out")
    assert (again.done, sorted(again.skipped), list(again.failed)) == (["bad"], ["first", "last"], ["gone"])


def test_features_of_another_encoder_or_stride_are_refused(films, tiny_encoder, tmp_path):
    extract({"a": films["ten"]}, tiny_encoder, tmp_path)
    before, other = files(tmp_path), make_encoder(1)
    assert other.weights != tiny_encoder.weights
    with pytest.raises(ModelError, match=r"encoder tiny 0, but these would have tiny 1"):
        extract({"b": films["ten"]}, other, tmp_path)
    other.name = tiny_encoder.name  # trained again
    with pytest.raises(ModelError) as caught:
        extract({"b": films["ten"]}, other, tmp_path)
    assert tiny_encoder.weights in str(caught.value)
    assert other.weights in str(caught.value)
    with pytest.raises(ModelError, match=r"'stride': 16.* 'stride': 8"):
        extract({"b": films["ten"]}, tiny_encoder, tmp_path, ExtractConfig(8))
    assert files(tmp_path) == before


@pytest.mark.parametrize("option", [{"stride": 0}, {"stride": -4}, {"batch": 0}])
def test_impossible_strides_and_batches(films, tiny_encoder, tmp_path, option):
    with pytest.raises(CallError, match=f"{next(iter(option))} must be"):
        extract({"a": films["ten"]}, tiny_encoder, tmp_path / "out", ExtractConfig(**option))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [{"pooling": "avg"}, {"dtype": "float64"}])
def test_unknown_choices(option):
    with pytest.raises(CallError, match=f"unknown {next(iter(option))} '{next(iter(option.values()))}'"):
        ExtractConfig(**option)


@pytest.mark.parametrize("name", ["sub/a", "../a", "/a", ""])
def test_nothing_is_written_outside_the_folder(films, tiny_encoder, tmp_path, name):
    with pytest.raises(CallError, match="cannot be the name of a file"):
        extract({name: films["ten"]}, tiny_encoder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_none(tmp_path, films, tiny_encoder):
    with pytest.raises(DataError, match="does not exist"):
        FeatureFolder.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no features\.json"):
        FeatureFolder.open(tmp_path)
    for content in ("[]", "{}", '{"videos": 3}', '"text"'):
        (tmp_path / "features.json").write_text(content)
        with pytest.raises(DataError, match="does not describe features"):
            FeatureFolder.open(tmp_path)
        with pytest.raises(DataError, match="does not describe features"):
            extract({"a": films["ten"]}, tiny_encoder, tmp_path)


def test_an_array_that_is_not_the_described_one(films, tiny_encoder, tmp_path):
    extract({"a": films["ten"], "b": films["film"]}, tiny_encoder, tmp_path)
    folder = FeatureFolder.open(tmp_path)
    np.save(tmp_path / "a.npy", np.zeros((7, 32), np.float32))
    with pytest.raises(DataError, match=r"a\.npy"):
        folder["a"]
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"a\.npy"):
        folder["a"]
    (tmp_path / "a.npy").unlink()
    with pytest.raises(DataError, match=r"a\.npy"):
        folder["a"]
    assert folder["b"].data.shape[1] == 32
    assert extract({"a": films["ten"], "b": films["film"]}, tiny_encoder, tmp_path).done == ["a"]
    assert FeatureFolder.open(tmp_path)["a"].data.shape[1] == 32


def test_global_features():
    data = {"a": np.array([[1, 5], [4, 2], [1, 2]], np.float16), "b": np.array([[-1, -2]], np.float32)}
    features = {v: Features(d, Grid.of_clips(len(d), 16, 16, 15), 9.0) for v, d in data.items()}
    largest, mean = global_features(features), global_features(features, "mean")
    assert {v: f.tolist() for v, f in largest.items()} == {"a": [4, 5], "b": [-1, -2]}
    assert {v: f.tolist() for v, f in mean.items()} == {"a": [2, 3], "b": [-1, -2]}


def test_extraction_leaves_the_encoder_as_it_was(films, tiny_encoder):
    before = tiny_encoder.weights
    features_of(films["ten"], tiny_encoder)
    assert tiny_encoder.weights == before
    assert not any(p.grad is not None for p in tiny_encoder.network.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_files_are_those_that_numpy_writes(films, tiny_encoder, tmp_path, dtype):
    extract(films, tiny_encoder, tmp_path / "out", ExtractConfig(4, dtype=dtype))
    for vid in films:
        written = tmp_path / "out" / f"{vid}.npy"
        np.save(tmp_path / "expected.npy", np.load(written))
        assert written.read_bytes() == (tmp_path / "expected.npy").read_bytes()
        assert written.stat().st_mode & 0o777 == 0o644


def test_many_videos_that_fill_no_batch(films, tiny_encoder, tmp_path):
    videos = {f"{name}{i}": path for i in range(5) for name, path in films.items() if name != "thirty"}
    extract(videos, tiny_encoder, tmp_path / "out", ExtractConfig(batch=64), workers=3)
    folder = FeatureFolder.open(tmp_path / "out")
    assert list(folder) == sorted(videos)
    for name in ("ten", "film", "short"):
        alone = features_of(films[name], tiny_encoder)[0]
        for i in range(5):
            np.testing.assert_allclose(folder[f"{name}{i}"].data, alone.data, rtol=0, atol=1e-6)
            assert folder[f"{name}{i}"].grid == alone.grid


def test_a_folder_does_not_say_where_when_or_in_what_order_it_was_made(films, tiny_encoder, tmp_path):
    outs = []
    for place in ("one", "another/place"):
        (tmp_path / place).mkdir(parents=True)
        for vid, path in films.items():
            shutil.copy(path, tmp_path / place / f"{vid}.mp4")  # with a time of its own
        (tmp_path / place / "bad.mp4").write_bytes(b"this is no video")
        videos = {vid: tmp_path / place / f"{vid}.mp4" for vid in (*films, "bad", "gone")}
        order = reversed(videos) if outs else videos
        outs.append(tmp_path / place / "out")
        result = extract({vid: videos[vid] for vid in order}, tiny_encoder, outs[-1], ExtractConfig(4))
        assert set(result.failed) == {"bad", "gone"}
    assert files(outs[0]) == files(outs[1])
    assert set(files(outs[0])) >= {"features.json", "failed.json"}
    assert str(tmp_path).encode() not in b"".join(files(outs[0]).values())


def test_extraction_leaves_the_number_of_threads_as_it_was(films, tiny_encoder, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        extract({"a": films["ten"]}, tiny_encoder, tmp_path, workers=2)
        seen = [torch.get_num_threads()]
        new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        new.start()
        new.join()
        assert seen == [3, 3]
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------- accidents


def whole(out: Path, undisturbed: dict[str, bytes]) -> None:
    """What has its final name is what an undisturbed run leaves there, and all that is described is there."""
    for path in out.glob("*.npy"):
        assert path.read_bytes() == undisturbed[path.name]
    for name in ("features.json", "failed.json"):
        if (out / name).exists():
            told, right = json.loads((out / name).read_bytes()), json.loads(undisturbed[name])
            if name == "features.json":
                assert {**told, "complete": True, "videos": {}} == {**right, "videos": {}}
                told, right = told["videos"], right["videos"]
                assert all((out / f"{vid}.npy").exists() for vid in told)
            assert told.items() <= right.items()


def handles() -> set[str]:
    """Every file that this process has open, by its name, where the system tells."""
    found, told = set(), Path("/proc/self/fd")
    for link in told.iterdir() if told.exists() else ():
        try:
            found.add(os.readlink(link))
        except FileNotFoundError:  # the folder that is read here
            continue
    return found


@contextmanager
def nothing_left(out: Path) -> Iterator[None]:
    """No thread, no handle, no temporary file and no lock outlives the block."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert list(out.glob(".*.tmp")) == []
    assert not any(str(out) in name for name in handles())
    if out.is_dir():
        with locked(out):
            pass


@pytest.mark.timeout(120)
def test_kill_at_any_moment_and_run_again(films, tiny_encoder, tmp_path):
    tiny_encoder.save(tmp_path / "encoder.safetensors")
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    videos = {f"{vid}{i}": str(path) for i in range(2) for vid, path in films.items()}
    videos["bad"] = str(tmp_path / "bad.mp4")
    setup = f"""
from cuemark import extraction, feature_folder
from cuemark.encoders.video_encoder import VideoEncoder
encoder = VideoEncoder.load({str(tmp_path / "encoder.safetensors")!r})
def work(out, between):
    feature_folder.SECONDS_BETWEEN_MANIFESTS = between
    extraction.extract({videos!r}, encoder, out, extraction.ExtractConfig(2), workers=2)
"""
    undisturbed = kill_at_random(tmp_path, setup, whole, "*.npy", 2 * len(films), told=(5.0, 0.0))
    assert set(undisturbed) == {"features.json", "failed.json", LOCK, *(f"{vid}.npy" for vid in videos if vid != "bad")}


def test_a_folder_that_shall_hold_more_is_not_complete_until_it_does(films, tiny_encoder, tmp_path, monkeypatch):
    """Else a kill would leave one that says so, and lacks videos."""
    out = tmp_path / "out"
    extract({"ten": films["ten"]}, tiny_encoder, out)
    before, seen = files(out), []

    def look(path: Path, number: int) -> None:
        with pytest.raises(DataError, match="has not finished"):
            FeatureFolder.open(out)
        seen.append(number)

    with monkeypatch.context() as patch:
        watching(patch, look)
        extract({"ten": films["ten"], "short": films["short"]}, tiny_encoder, out)
    assert seen
    assert set(FeatureFolder.open(out)) == {"ten", "short"}
    assert files(out)["ten.npy"] == before["ten.npy"]


@pytest.mark.parametrize("call", [1, 3, 6])
@pytest.mark.parametrize("name", ["pwrite", "fsync", "replace", "open"])
def test_a_full_disk(films, tiny_encoder, tmp_path, monkeypatch, name, call):
    """From one moment on nothing can be written any more; what is there by then is whole, and the next run goes on."""
    extract(films, tiny_encoder, tmp_path / "undisturbed", ExtractConfig(4))
    undisturbed, out = files(tmp_path / "undisturbed"), tmp_path / "out"
    extract({"ten": films["ten"]}, tiny_encoder, out, ExtractConfig(4))
    real, calls, flags = getattr(os, name), [], os.O_CREAT

    def full(*arguments: Any, **options: Any) -> Any:
        if name == "open" and (not arguments[1] & flags or LOCK in str(arguments[0])):
            return real(*arguments, **options)
        calls.append(arguments)
        if len(calls) >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **options)

    with nothing_left(out):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            patch.setattr(feature_folder, "SECONDS_BETWEEN_MANIFESTS", 0.0)
            with pytest.raises(DataError, match=r"out' cannot be written \(No space left on device\); free some space "
                                                "and run the same again: it goes on with what is missing"):
                extract(films, tiny_encoder, out, ExtractConfig(4), workers=2)
        whole(out, undisturbed)
        assert (out / "ten.npy").exists()
    assert set(extract(films, tiny_encoder, out, ExtractConfig(4)).skipped) >= {"ten"}
    assert files(out) == undisturbed


def test_a_disk_that_takes_half_a_row(films, tiny_encoder, tmp_path):
    """The kernel writes as much of the eleventh row as fits below a file's largest size, and says how much."""
    extract({"a": films["thirty"]}, tiny_encoder, tmp_path / "undisturbed", ExtractConfig(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with nothing_left(tmp_path / "out"):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (128 + 10 * 128 + 50, hard))
            with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); free some space"):
                extract({"a": films["thirty"]}, tiny_encoder, tmp_path / "out", ExtractConfig(1), workers=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert set(files(tmp_path / "out")) == {LOCK}
    extract({"a": films["thirty"]}, tiny_encoder, tmp_path / "out", ExtractConfig(1))
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


def test_folders_that_cannot_be_written(films, tiny_encoder, tmp_path):
    (tmp_path / "file").write_text("somebody's")
    for out in (tmp_path / "file", tmp_path / "file" / "out", Path("/proc/nowhere")):
        with pytest.raises(DataError, match=rf"'{out}' cannot be written \(.*\); mend that") as caught:
            extract({"a": films["ten"]}, tiny_encoder, out)
        assert str(caught.value).endswith(".")
    assert (tmp_path / "file").read_text() == "somebody's"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_read_only_folder(films, tiny_encoder, tmp_path):
    out = tmp_path / "out"
    extract({"a": films["ten"]}, tiny_encoder, out)
    before = files(out)
    out.chmod(0o555)
    try:
        with pytest.raises(DataError, match=r"out' cannot be written \(Permission denied\)"):
            extract({"a": films["ten"], "b": films["short"]}, tiny_encoder, out)
    finally:
        out.chmod(0o755)
    assert files(out) == before


def watching(monkeypatch: pytest.MonkeyPatch, before: Callable[[Path, int], None]) -> None:
    """Call ``before`` with a video's path and the number of each of its clips, before the clip is cut."""
    real = extraction.clips_of

    def clips(info: video.VideoInfo, *arguments: Any) -> Iterator[np.ndarray]:
        with closing(real(info, *arguments)) as found:
            number = 0
            while True:
                before(Path(info.path), number)
                try:
                    clip = next(found)
                except StopIteration:
                    return
                yield clip
                number += 1

    monkeypatch.setattr(extraction, "clips_of", clips)


def test_a_video_that_changes_while_it_is_read(films, tiny_encoder, tmp_path, monkeypatch):
    moving = Path(shutil.copy(films["thirty"], tmp_path / "moving.mp4"))
    videos, out = {"first": films["ten"], "moving": moving, "last": films["film"]}, tmp_path / "out"

    def change(path: Path, number: int) -> None:
        if path == moving and number == 1:
            with open(path, "ab") as file:
                file.write(bytes(8))

    with monkeypatch.context() as patch, nothing_left(out):
        watching(patch, change)
        result = extract(videos, tiny_encoder, out, ExtractConfig(4))
    assert (result.done, list(result.failed)) == (["first", "last"], ["moving"])
    assert failures(out) == {"moving": "video 'moving.mp4' changed while it was being read; run the same again."}
    assert set(files(out)) == {"features.json", "failed.json", LOCK, "first.npy", "last.npy"}
    assert extract(videos, tiny_encoder, out, ExtractConfig(4)).done == ["moving"]
    extract(videos, tiny_encoder, tmp_path / "undisturbed", ExtractConfig(4))
    assert files(out) == files(tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        watching(patch, change)
        with pytest.raises(VideoError, match="changed while it was being read"):
            features_of(moving, tiny_encoder, ExtractConfig(4))


def test_videos_that_were_replaced_taken_away_and_broken_between_two_runs(films, tiny_encoder, tmp_path, monkeypatch):
    videos, out = {vid: tmp_path / f"{vid}.mp4" for vid in films}, tmp_path / "out"
    for vid, path in videos.items():
        shutil.copy(films[vid], path)
    extract(videos, tiny_encoder, out, ExtractConfig(4))
    before = files(out)
    shutil.copy(films["film"], videos["thirty"])
    videos["ten"].unlink()
    videos["short"].write_bytes(b"this is no video")

    def look(path: Path, number: int) -> None:
        with pytest.raises(DataError, match="has not finished"):  # or a kill would leave features of another video
            FeatureFolder.open(out)

    with monkeypatch.context() as patch:
        watching(patch, look)
        result = extract(videos, tiny_encoder, out, ExtractConfig(4))
    assert (result.done, result.skipped, list(result.failed)) == (["thirty"], ["ten", "film"], ["short"])
    after = files(out)
    assert set(after) == set(before) - {"short.npy"} | {"failed.json"}
    assert after["thirty.npy"] == after["film.npy"] != before["thirty.npy"]
    assert after["ten.npy"] == before["ten.npy"]
    folder = FeatureFolder.open(out)
    assert set(folder) == {"thirty", "ten", "film"}
    assert folder["thirty"].duration == folder["film"].duration
    assert list(failures(out)) == ["short"]


def test_two_runs_at_once(films, tiny_encoder, tmp_path, monkeypatch):
    out, begun, go = tmp_path / "out", threading.Event(), threading.Event()

    def wait(path: Path, number: int) -> None:
        begun.set()
        assert go.wait(30)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "PATIENCE", 0.1)
        watching(patch, wait)
        first = threading.Thread(target=extract, args=(films, tiny_encoder, out, ExtractConfig(4)))
        first.start()
        try:
            assert begun.wait(30)
            before = set(os.listdir(out))
            began = time.monotonic()
            with pytest.raises(CuemarkError, match=r"another run is at work in '.*out'; wait until it has finished"):
                extract(films, tiny_encoder, out, ExtractConfig(4))
            assert 0.1 < time.monotonic() - began < 10
            assert set(os.listdir(out)) >= before  # what is being written is not swept away
        finally:
            go.set()
            first.join()
    extract(films, tiny_encoder, tmp_path / "undisturbed", ExtractConfig(4))
    assert files(out) == files(tmp_path / "undisturbed")


def test_a_video_that_breaks_off_while_its_clips_are_on_their_way(films, tiny_encoder, tmp_path, monkeypatch):
    videos, out = {**films, "bad": Path(shutil.copy(films["thirty"], tmp_path / "bad.mp4"))}, tmp_path / "out"
    extract(films, tiny_encoder, tmp_path / "undisturbed", ExtractConfig(4))

    def break_off(path: Path, number: int) -> None:
        if path.name == "bad.mp4" and number == 3:
            raise VideoError(f"video '{path}' cannot be decoded after 2 s.")

    for batch in (1, 2, 64):  # clips encoded before it breaks, and after
        with monkeypatch.context() as patch, nothing_left(out):
            watching(patch, break_off)
            result = extract(videos, tiny_encoder, out, ExtractConfig(4, batch=batch), workers=2)
        assert list(result.failed) == ["bad"]
        left = files(out)
        assert left.pop("failed.json") == b'{"bad": "video \'bad.mp4\' cannot be decoded after 2 s."}\n'
        assert set(left) == set(files(tmp_path / "undisturbed"))
        for vid in films:
            np.testing.assert_allclose(np.load(out / f"{vid}.npy"), np.load(tmp_path / "undisturbed" / f"{vid}.npy"),
                                       rtol=0, atol=1e-6)
        shutil.rmtree(out)


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["reader", "encoder", "caller"])
def test_whatever_else_goes_wrong_reaches_the_caller(films, tiny_encoder, tmp_path, monkeypatch, where, kind):
    out, calls, real, config = tmp_path / "out", [], extraction.backends.ready, ExtractConfig(4, batch=2)
    extract(films, tiny_encoder, tmp_path / "undisturbed", config)

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) >= 3:
            if where == "caller":  # what Ctrl-C does, and what a failing bar would
                raise kind("no memory, or no patience")
            raise kind("a mistake")

    def ready(*arguments: Any, **options: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        run = real(*arguments, **options)
        return lambda batch: fail() or run(batch)

    with monkeypatch.context() as patch, nothing_left(out):
        if where == "reader":
            watching(patch, fail)
        elif where == "encoder":
            patch.setattr(extraction.backends, "ready", ready)
        else:
            patch.setattr(extraction.Bar, "advance", fail)
        with pytest.raises(kind, match=r"mistake|no memory"):
            extract(films, tiny_encoder, out, config, workers=2)
    whole(out, files(tmp_path / "undisturbed"))
    extract(films, tiny_encoder, out, config)
    assert files(out) == files(tmp_path / "undisturbed")


def test_control_c(films, tiny_encoder, tmp_path, monkeypatch):
    out, config = tmp_path / "out", ExtractConfig(4, batch=2)
    extract(films, tiny_encoder, tmp_path / "undisturbed", config)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    def interrupt(path: Path, number: int) -> None:
        if number == 3 and path == films["thirty"]:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        if number >= 3:
            time.sleep(0.2)  # the caller has nothing to do but to wait

    try:
        with monkeypatch.context() as patch, nothing_left(out):
            watching(patch, interrupt)
            with pytest.raises(KeyboardInterrupt):
                extract(films, tiny_encoder, out, config, workers=2)
    finally:
        signal.signal(signal.SIGINT, before)
    whole(out, files(tmp_path / "undisturbed"))
    extract(films, tiny_encoder, out, config)
    assert files(out) == files(tmp_path / "undisturbed")


def test_who_stops_listening_ends_the_work(films, tiny_encoder, tmp_path, monkeypatch):
    """Also what nobody sweeps: every video that was begun takes its temporary file with it."""
    watching(monkeypatch, lambda path, number: time.sleep(0.1 * (path == films["thirty"])))  # 36 times
    with nothing_left(tmp_path):
        outcomes = extraction.extracted(films, tiny_encoder, tmp_path, ExtractConfig(1, batch=2), 2, "cpu")
        vid, entry = next(outcomes)
        assert isinstance(entry, dict)
        outcomes.close()
    assert (tmp_path / f"{vid}.npy").exists()
    assert not (tmp_path / "thirty.npy").exists()


def test_a_call_that_cannot_be_meant_leaves_no_description(films, tiny_encoder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(CallError, match="workers must be"):
        extract({"a": films["ten"]}, tiny_encoder, out, workers=0)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        patch.setitem(sys.modules, "onnx", None)
        with pytest.raises(CallError, match="the backend 'onnx' needs"):
            extract({"a": films["ten"]}, tiny_encoder, out, ExtractConfig(backend="onnx"))
    assert set(files(out)) == {LOCK}
    extract({"a": films["ten"]}, tiny_encoder, out)  # with another backend: nothing is in its way
    before = files(out)
    with pytest.raises(CallError, match="workers must be"):
        extract({"a": films["ten"], "b": films["short"]}, tiny_encoder, out, workers=0)
    assert files(out) == before


@pytest.mark.parametrize("name", ["caf\udce9", "a\0b"])
def test_names_that_are_no_text(films, tiny_encoder, tmp_path, name):
    """They are refused before hours of work; only a broken file's own name is told as it can be."""
    with pytest.raises(CallError, match="cannot be the name of a file"):
        extract({name: films["ten"]}, tiny_encoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = extract({"good": films["ten"], "bad": tmp_path / f"{name}.mp4"}, tiny_encoder, tmp_path / "out")
    assert (result.done, list(result.failed)) == (["good"], ["bad"])
    assert list(failures(tmp_path / "out")) == ["bad"]


def test_nothing_but_broken_videos(tiny_encoder, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    for _ in range(2):
        result = extract({"bad": tmp_path / "bad.mp4"}, tiny_encoder, tmp_path / "out")
        assert list(result.failed) == ["bad"]
        assert set(files(tmp_path / "out")) == {"failed.json", LOCK}
