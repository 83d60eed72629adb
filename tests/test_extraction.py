"""Whole videos to features: against a slow reference, after kills, among broken files."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_encoder

from cuemark import extraction, video
from cuemark.batch import normalised
from cuemark.checkpoint import software
from cuemark.encoders.video_encoder import VideoEncoder, encode
from cuemark.errors import CallError, DataError, ModelError
from cuemark.extraction import FeatureFolder, extract, features_of, global_features
from cuemark.grid import Features, Grid


def film(path: Path, count: int, fps: float = 30.0, seed: int = 0) -> Path:
    """A video whose every picture is coarse noise, so that no two clips look alike."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    video.write(path, (b.repeat(12, 0).repeat(12, 1) for b in blocks), fps=fps, quality=10)
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """3.4 s at three rates, and a short one."""
    folder = tmp_path_factory.mktemp("films")
    counts = {"thirty": (102, 30.0), "ten": (34, 10.0), "film": (82, 24000 / 1001), "short": (12, 30.0)}
    return {name: film(folder / f"{name}.mp4", n, fps, i) for i, (name, (n, fps)) in enumerate(counts.items())}


def slow_frames(path: Path, encoder: VideoEncoder) -> np.ndarray:
    """The frame shown at each k / 15 s of a video, resized and centre-cropped, by looking at all of them."""
    info, clip = video.probe(path), encoder.clip
    shown = list(video.frames(path, clip.size(info.height, info.width)))
    chosen = []
    for k in range(math.ceil(info.duration * clip.fps - 1e-6)):
        picture = [image for stamp, image in shown if stamp <= k / clip.fps + 1e-4][-1]
        top, left = round((picture.shape[0] - clip.crop) / 2), round((picture.shape[1] - clip.crop) / 2)
        chosen.append(picture[top:top + clip.crop, left:left + clip.crop])
    return np.stack(chosen)


def slow_features(path: Path, encoder: VideoEncoder, stride: int) -> np.ndarray:
    """Decode everything, cut windows by hand, encode one by one."""
    pictures, clip = slow_frames(path, encoder), encoder.clip
    while len(pictures) < clip.frames:
        pictures = np.concatenate([pictures, pictures[-1:]])
    rows, start = [], 0
    while start + clip.frames <= len(pictures):
        tensor = normalised(pictures[None, start:start + clip.frames].copy(), clip.mean, clip.std)
        rows.append(encode(encoder.network, tensor)[0].numpy())
        start += stride
    return np.stack(rows)


# ---------------------------------------------------------------------------------------------- one video


@pytest.mark.parametrize("stride", [4, 16, 20])
@pytest.mark.parametrize("name", ["thirty", "ten", "film"])
def test_features_are_those_of_the_slow_reference(films, tiny_encoder, name, stride):
    found, padded = features_of(films[name], tiny_encoder, stride, batch=3)
    expected = slow_features(films[name], tiny_encoder, stride)
    assert found.data.shape == expected.shape
    assert found.data.dtype == np.float32
    np.testing.assert_allclose(found.data, expected, rtol=0, atol=1e-6)
    assert np.abs(np.diff(expected, axis=0)).max(1).min() > 1e-4  # a window that is off would be seen
    assert not padded
    assert found.duration == video.probe(films[name]).duration


def test_features_of_a_world_video_are_those_of_the_slow_reference(tiny_world, tiny_encoder):
    path = tiny_world.videos["training_0004"]
    np.testing.assert_allclose(features_of(path, tiny_encoder, 8)[0].data, slow_features(path, tiny_encoder, 8),
                               rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 4, 16, 20])
def test_clip_i_is_centred_on_its_middle_frame(films, tiny_encoder, stride):
    grid = features_of(films["thirty"], tiny_encoder, stride)[0].grid
    assert grid.count == (51 - 16) // stride + 1  # 102 frames at 30 fps are 51 at 15
    np.testing.assert_allclose(grid.centres, (np.arange(grid.count) * stride + 8) / 15, rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.windows[:, 1] - grid.windows[:, 0], 16 / 15)


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_the_batch_size_changes_nothing(films, tiny_encoder, size):
    usual = features_of(films["thirty"], tiny_encoder, 4)[0].data
    np.testing.assert_allclose(features_of(films["thirty"], tiny_encoder, 4, batch=size)[0].data, usual,
                               rtol=0, atol=1e-6)


def test_the_bytes_of_a_clip_do_not_depend_on_its_neighbours(tiny_encoder):
    rng = np.random.default_rng(0)
    clips = list(rng.integers(0, 256, (8, 16, 16, 16, 3), dtype=np.uint8))
    together = extraction._encode(tiny_encoder, clips, 8, False)
    backwards = extraction._encode(tiny_encoder, clips[::-1], 8, False)[::-1]
    assert together.tobytes() == np.ascontiguousarray(backwards).tobytes()
    for i in range(8):
        alone = extraction._encode(tiny_encoder, clips[i:i + 1], 8, False)
        assert alone.tobytes() == together[i].tobytes()
    assert len(np.unique(together, axis=0)) == 8


def test_every_frame_is_decoded_once(films, tiny_encoder, monkeypatch):
    decoded: list[float] = []
    passes: list[Path] = []
    real = video.frames

    def counting(path: Path, *arguments, **options) -> Iterator[tuple[float, np.ndarray]]:
        passes.append(path)
        for stamp, image in real(path, *arguments, **options):
            decoded.append(stamp)
            yield stamp, image

    monkeypatch.setattr(video, "frames", counting)
    features_of(films["thirty"], tiny_encoder, 1)  # every picture is in up to 16 clips
    assert passes == [films["thirty"]]
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


# ---------------------------------------------------------------------------------------------- folders


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_folder_says_what_it_holds(films, tiny_encoder, tmp_path):
    result = extract(films, tiny_encoder, tmp_path, stride=4)
    assert (sorted(result.done), result.skipped, result.failed) == (sorted(films), [], {})
    assert {p.name for p in tmp_path.iterdir()} == {"features.json", *(f"{v}.npy" for v in films)}
    meta = json.loads((tmp_path / "features.json").read_text())
    assert meta["complete"] is True
    assert (meta["encoder"], meta["weights"], meta["dim"]) == (tiny_encoder.name, tiny_encoder.weights, 32)
    assert (meta["dtype"], meta["precision"], meta["software"]) == ("float32", "fp32", software())
    assert meta["clip"]["stride"] == 4
    assert (meta["clip"]["frames"], meta["clip"]["fps"], meta["clip"]["crop"]) == (16, 15.0, 16)
    clips = 0
    for vid, path in films.items():
        data = np.load(tmp_path / f"{vid}.npy")
        direct = features_of(path, tiny_encoder, 4)[0]
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
    extract({"a": films["ten"]}, tiny_encoder, tmp_path, dtype="float16")
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
    real = extraction.features_of
    monkeypatch.setattr(extraction, "features_of", lambda *a, **k: pytest.fail("extracted again"))
    again = extract(first, tiny_encoder, tmp_path)
    assert (again.done, again.skipped, again.clips) == ([], ["ten", "short"], 0)
    assert files(tmp_path) == before
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.npy")} == times

    monkeypatch.setattr(extraction, "features_of", real)
    more = extract(second, tiny_encoder, tmp_path)
    assert (more.done, more.skipped) == (["film"], ["ten", "short"])
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.npy") if p.stem != "film"} == times
    assert set(FeatureFolder.open(tmp_path)) == {"ten", "short", "film"}


KILLED = """
import json, os, signal, sys
import numpy as np
from cuemark import extraction
from cuemark.encoders.video_encoder import VideoEncoder
encoder, out, where, videos = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
save, count = np.save, 0
def dying(file, data, **options):
    global count
    count += 1
    if count == 3:
        if where == "writing":
            file.write(b"half of a file")
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(file, data, **options)
np.save = dying
if where == "writing":
    extraction.SECONDS_BETWEEN_MANIFESTS = 0.0
extraction.extract(videos, VideoEncoder.load(encoder), out)
"""


@pytest.mark.parametrize("where", ["writing", "early"])
def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(films, tiny_encoder, tmp_path, where):
    """``writing``: in the middle of a file, with a description of the first two; ``early``: before any description."""
    tiny_encoder.save(tmp_path / "encoder.safetensors")
    arguments = [str(tmp_path / "encoder.safetensors"), str(tmp_path / "killed"), where,
                 json.dumps({v: str(p) for v, p in films.items()})]
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = {p.name for p in (tmp_path / "killed").iterdir()}
    assert {"thirty.npy", "ten.npy"} <= left
    assert not left & {"film.npy", "short.npy"}
    assert ("features.json" in left) is (where == "writing")
    with pytest.raises(DataError, match="finished"):
        FeatureFolder.open(tmp_path / "killed")

    result = extract(films, tiny_encoder, tmp_path / "killed")
    assert len(result.skipped) == (2 if where == "writing" else 0)
    extract(films, tiny_encoder, tmp_path / "undisturbed")
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")


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
    assert folder.meta["failed"] == result.failed
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"features.json", "first.npy", "last.npy"}

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
        extract({"b": films["ten"]}, tiny_encoder, tmp_path, stride=8)
    assert files(tmp_path) == before


@pytest.mark.parametrize("option", [{"stride": 0}, {"stride": -4}, {"batch": 0}])
def test_impossible_strides_and_batches(films, tiny_encoder, tmp_path, option):
    with pytest.raises(CallError, match=f"{next(iter(option))} must be"):
        extract({"a": films["ten"]}, tiny_encoder, tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()


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
