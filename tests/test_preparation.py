"""Transcoding: the frames that the source shows, exactly where asked for, whatever happens in between."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import shared
from kills import kill_at_random

from cuemark import folders, preparation, video
from cuemark.datasets import tsp
from cuemark.datasets.format import Reading
from cuemark.errors import CallError, CuemarkError, DataError
from cuemark.folders import LOCK
from cuemark.preparation import prepare

H, W = 48, 64


def picture(i: int, h: int = H, w: int = W) -> np.ndarray:
    """The number ``i`` as eight bars, lowest bit left."""
    bars = np.where(i >> np.arange(8) & 1, 230, 20).astype(np.uint8)
    return np.broadcast_to(bars[np.arange(w) * 8 // w][None, :, None], (h, w, 3)).copy()


def number(image: np.ndarray) -> int:
    """What :func:`picture` was asked to show."""
    middles = (np.arange(8) * 2 + 1) * image.shape[1] // 16
    return sum(int(v > 127) << b for b, v in enumerate(image[:, middles].mean((0, 2))))


def film(path: Path, count: int = 40, fps: float = 30, h: int = H, w: int = W) -> Path:
    video.write(path, (picture(i, h, w) for i in range(count)), fps=fps)
    return path


def make(path: Path, times: Sequence[int], images: Sequence[np.ndarray], tick: Fraction = Fraction(1, 1000),
         codec: str = "libx264", pix_fmt: str = "yuv420p", colours: tuple[int, int] | None = None,
         clicks: Sequence[float] = (), sound: tuple[float, float] = (0, 0), layout: str = "stereo",
         rate: int = 44100) -> Path:
    """Pictures at ``times`` (ticks), and sound in ``[sound)`` seconds of the same clock: silence with clicks."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "12", "qp": "8"} if codec == "libx264" else {})
        planes = images[0].ndim == 2  # of yuv420p, below each other
        stream.height, stream.width = images[0].shape[0] * (2 if planes else 3) // 3, images[0].shape[1]
        stream.pix_fmt, stream.time_base = pix_fmt, tick
        stream.codec_context.time_base = tick
        if colours is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = colours
        voice = container.add_stream("pcm_s16le", rate=rate, layout=layout) if sound[1] > sound[0] else None
        for at, image in zip(times, images, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="yuv420p" if planes else "rgb24")
            frame.pts, frame.time_base = at, tick
            if colours is not None:
                frame.colorspace, frame.color_range = colours
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice is not None:
            first, last = round(sound[0] * rate), round(sound[1] * rate)
            wave = np.zeros(last - first, np.int16)
            for click in clicks:
                wave[round(click * rate) - first:][:20] = 20000
            channels = 1 if layout == "mono" else 2
            for begin in range(0, len(wave), 1000):
                part = wave[begin:begin + 1000].repeat(channels)[None]
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="s16", layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, first + begin, Fraction(1, rate)
                container.mux(voice.encode(frame))
            container.mux(voice.encode(None))
    return path


def contents(folder: Path) -> dict[str, str]:
    """Every file, hidden or not, and what is in it."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def described(out: Path) -> dict:
    return json.loads((out / "prepared.json").read_text())


def packets(path: Path) -> tuple[list[Fraction], list[int]]:
    """Every packet's time in seconds, in order, and which are keyframes."""
    with av.open(str(path)) as container:
        found = sorted((p.pts * p.time_base, p.is_keyframe) for p in container.demux(video=0) if p.size)
    return [at for at, _ in found], [i for i, (_, key) in enumerate(found) if key]


def heard(path: Path, rate: int = 44100) -> np.ndarray:
    """Samples of the first channel from 0 s on."""
    parts = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            at, samples = round(frame.time * rate), frame.to_ndarray()[0]
            parts.append((at, samples[max(0, -at):]))
    out = np.zeros(max(max(at, 0) + len(samples) for at, samples in parts), np.float32)
    for at, samples in parts:
        out[max(at, 0):][:len(samples)] = samples
    return out


# --------------------------------------------------------------------------------------------- the frames

UNEVEN = np.cumsum(np.random.default_rng(7).integers(5, 300, 60)).tolist()  # ms: 3 to 200 fps within one file


@pytest.mark.parametrize(("fps", "begin"), [(30, 0), (12.5, 10_000), (29.97, 3_600_000), (7, 50)])
def test_frame_k_is_what_the_source_shows_at_k_over_fps(tmp_path: Path, fps: float, begin: int) -> None:
    times = [begin + t for t in UNEVEN]
    source = make(tmp_path / "v.mkv", times, [picture(i) for i in range(len(times))])
    entry = prepare([source], tmp_path / "out", fps=fps, short_side=None, quality=8, workers=0).videos["v"]
    exact = Fraction(30000, 1001) if fps == 29.97 else Fraction(fps)
    seconds = [(t - times[0]) / 1000 for t in times]
    expected = [max(0, bisect_right(seconds, k / exact + 0.0009) - 1) for k in range(entry["frames"])]
    stamps, images = zip(*video.frames(tmp_path / "out" / "v.mp4"), strict=True)
    assert [number(image) for image in images] == expected
    assert stamps == pytest.approx([float(k / exact) for k in range(len(expected))], abs=1e-9)
    info = video.probe(source)
    assert abs(entry["duration"] - info.duration) <= 0.5 / fps + 1e-9
    assert packets(tmp_path / "out" / "v.mp4")[0] == [k / exact for k in range(entry["frames"])]


def test_a_video_of_the_same_rate_keeps_every_frame(tmp_path: Path) -> None:
    film(tmp_path / "v.mp4", 200)
    prepare([tmp_path / "v.mp4"], tmp_path / "out", short_side=None, workers=0)
    assert [number(image) for _, image in video.frames(tmp_path / "out" / "v.mp4")] == list(range(200))


REAL = {  # file -> height and width when the short side becomes 96 at most
    "androidx_bbb_176x144_128kbps_15fps_h263.3gp": (96, 118),
    "androidx_bbb_800x640_768kbps_30fps_avc_2b_firstpts_10_sec.mp4": (96, 120),
    "androidx_iibbibb_editlist_videoonly.mp4": (96, 118),
    "androidx_sample_h264.ts": (96, 170),
    "androidx_sample_partially_fragmented.mp4": (96, 144),
    "androidx_sample_vvc.mp4": (96, 170),
    "decord_corrupted.mp4": (96, 170),
    "decord_unordered.mov": (50, 50),
    "decord_video_180.mov": (96, 170),
    "decord_video_270.mov": (170, 96),
    "decord_video_90.mov": (170, 96),
    "hf_test_video_66x50.mov": (50, 66),
    "jcodec_cat_avc_clip.mp4": (80, 144),
    "mp4parse_tiny_av1.mp4": (64, 64),
    "muxjs_sintel-captions.ts": (96, 226),
    "phpffmpeg_portrait.MOV": (170, 96),
    "rails_video.webm": (96, 128),
    "rails_video_with_undefined_display_aspect_ratio.mp4": (96, 128),
    "small_webm.webm": (8, 8),
    "streamio_sideways movie.mov": (128, 96),
    "streamio_weird_aspect.small.mpg": (96, 118),
    "te[s]t_ video ' _ .flv": (96, 128),
    "torchcodec_h265_10bits.mp4": (96, 96),
    "torchcodec_h265_video.mp4": (96, 96),
}
CHARTS = {"androidx_iibbibb_editlist_videoonly.mp4", "decord_corrupted.mp4", "torchcodec_h265_10bits.mp4"}
"""Their coloured edges, a pixel wide here, show that colours have half the size."""
BROKEN = ["androidx_invalid-bitstream.webm", "androidx_sample_audio_only.mp4",
          "androidx_sample_fragmented_clearkey.mp4", "androidx_sample_malformed_free_box.mp4",
          "androidx_video_init.mp4", "moviepy_result.webm", "phpffmpeg_WrongFile.mp4", "small_FlashVideo.flv",
          "streamio_broken.mp4"]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, preparation.Preparation]:
    edge, out = shared("videos/edge"), tmp_path_factory.mktemp("real") / "out"
    return out, prepare([edge / name for name in (*BROKEN, *REAL)], out, short_side=96, quality=6, audio=True)


@pytest.mark.parametrize("name", REAL)
def test_odd_files_become_plain_ones(real: tuple[Path, preparation.Preparation], name: str) -> None:
    out, result = real
    source, entry = shared("videos/edge") / name, result.videos[Path(name).stem]
    target, was = out / entry["file"], video.probe(source)
    info = video.probe(target)
    assert (info.height, info.width) == (entry["height"], entry["width"]) == REAL[name]
    assert (info.codec, info.start, info.rotation, info.frames) == ("h264", 0, 0, entry["frames"])
    assert entry["duration"] == entry["frames"] / 30 == pytest.approx(info.duration)
    assert abs(info.duration - was.duration) <= 1 / 60 + 1e-9
    assert entry["source"]["codec"] == was.codec
    stamps, keys = packets(target)
    assert stamps == [Fraction(k, 30) for k in range(entry["frames"])]
    assert keys == list(range(0, entry["frames"], 16))
    last = entry["frames"] - 1
    times = np.array(sorted({0, 1 % (last + 1), last // 3, last // 2, last})) / 30
    seen, meant = video.frames_at(target, times), video.frames_at(source, times, REAL[name])
    off = seen.astype(float) - meant
    assert np.abs(off @ [0.299, 0.587, 0.114]).mean((1, 2)).max() < (8 if name in CHARTS else 2)  # of lightness
    assert np.abs(off).mean((1, 2, 3)).max() < (8 if name in CHARTS else 4)  # colour is kept at half of 96 pixels


def test_broken_videos_are_named_and_do_not_stop_the_rest(real: tuple[Path, preparation.Preparation]) -> None:
    out, result = real
    told = described(out)
    failed = json.loads((out / "failed.json").read_text())
    assert set(result.failed) == set(failed) == {Path(name).stem for name in BROKEN}
    assert set(result.done) == set(told["videos"]) == {Path(name).stem for name in REAL}
    assert told["complete"] is True
    assert "is empty (0 bytes)" in failed["moviepy_result"]
    assert "is encrypted" in failed["androidx_sample_fragmented_clearkey"]
    text = (out / "prepared.json").read_text() + (out / "failed.json").read_text()
    assert str(out.parent) not in text
    assert "/" not in text.replace("copy or download", "")
    (_, columns, rows), (_, _, reasons) = result.tables()
    assert [dict(zip(columns, row))["frames"] for row in rows] == [str(e["frames"]) for e in result.videos.values()]
    assert [why for _, why in reasons] == list(failed.values())


def test_a_browser_can_play_while_it_loads(real: tuple[Path, preparation.Preparation]) -> None:
    out, _ = real
    data = (out / "muxjs_sintel-captions.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert b"Lavf" not in data
    with av.open(str(out / "muxjs_sintel-captions.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.pix_fmt, stream.codec_context.codec.canonical_name) == ("yuv420p", "h264")
        assert [s.codec_context.codec.canonical_name for s in container.streams.audio] == ["aac"]


# --------------------------------------------------------------------------------------------- sizes and colours


@pytest.mark.parametrize(("h", "w", "short", "enlarge", "expected"), [
    (240, 320, None, False, None), (240, 320, 240, False, None), (240, 320, 128, False, (128, 170)),
    (320, 240, 128, False, (170, 128)), (240, 320, 480, False, None), (240, 320, 480, True, (480, 640)),
    (49, 65, 45, False, (44, 60)), (2000, 3, 2, False, (1334, 2)), (1080, 1920, 128, False, (128, 228)),
])
def test_scaled_sizes(h: int, w: int, short: int | None, enlarge: bool, expected: tuple[int, int] | None) -> None:
    assert preparation._scaled(h, w, short, enlarge) == expected


def test_small_videos_are_scaled_up_only_when_asked(tmp_path: Path) -> None:
    film(tmp_path / "v.mp4", 3)
    assert prepare([tmp_path / "v.mp4"], tmp_path / "a", workers=0).videos["v"]["height"] == H
    entry = prepare([tmp_path / "v.mp4"], tmp_path / "b", enlarge=True, workers=0).videos["v"]
    assert (entry["height"], entry["width"]) == (128, 170)


def test_odd_sides_repeat_their_edge(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (5, 9, 1), np.uint8).repeat(9, 0).repeat(7, 1).repeat(3, 2)  # 45 x 63, grey
    make(tmp_path / "v.mkv", [0, 40, 80], [still] * 3, codec="ffv1", pix_fmt="yuv444p")
    prepare([tmp_path / "v.mkv"], tmp_path / "out", quality=1, workers=0)
    seen = next(video.frames(tmp_path / "out" / "v.mp4"))[1].astype(int)
    meant = next(video.frames(tmp_path / "v.mkv"))[1].astype(int)
    assert seen.shape == (46, 64, 3)
    inner = np.abs(seen[:45, :63] - meant)
    assert np.median(inner) <= 3
    assert np.abs(seen[45, :63] - meant[44]).mean() < 10
    assert np.abs(seen[:45, 63] - meant[:, 62]).mean() < 10


@pytest.mark.parametrize(("pix_fmt", "codec", "colours", "tags"), [
    ("yuv420p", "libx264", None, (5, 1)), ("yuv420p", "libx264", (1, 1), (1, 1)),
    ("yuv420p", "libx264", (1, 2), (1, 2)), ("yuvj420p", "mjpeg", None, (5, 2)),
    ("yuv420p", "libx264", (9, 1), (9, 1)), ("rgb24", "png", None, (5, 1)), ("gray", "ffv1", None, (5, 1)),
    ("argb", "qtrle", None, (5, 1)), ("yuv422p", "mjpeg", (5, 2), (5, 2)),
])
def test_colours_are_kept_and_said(tmp_path: Path, pix_fmt: str, codec: str, colours: tuple[int, int] | None,
                                   tags: tuple[int, int]) -> None:
    four = np.array([[[200, 60, 30], [20, 180, 90], [240, 240, 10], [5, 5, 5]]], np.uint8)
    flat = four.repeat(16, 1).repeat(64, 0)
    source = tmp_path / ("v.mov" if codec in ("png", "qtrle") else "v.mkv")
    make(source, [0, 40, 80], [flat] * 3, codec=codec, pix_fmt=pix_fmt, colours=colours)
    prepare([source], tmp_path / "out", quality=1, workers=0)
    with av.open(str(tmp_path / "out" / "v.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (int(frame.colorspace), int(frame.color_range)) == tags
    seen = next(video.frames(tmp_path / "out" / "v.mp4"))[1].astype(int)
    meant = next(video.frames(source))[1].astype(int)
    assert np.abs(seen[8:56, 4::16] - meant[8:56, 4::16]).max() <= 4


def test_luma_is_not_touched_where_nothing_is_scaled(tmp_path: Path) -> None:
    ramp = np.full((144, 64), 128, np.uint8)  # the planes of 96 x 64 pixels
    ramp[:64] = np.arange(64, dtype=np.uint8) * 4  # beyond the limited range too, which a detour over RGB would cut
    make(tmp_path / "v.mkv", [0, 40], [ramp] * 2, codec="ffv1")
    prepare([tmp_path / "v.mkv"], tmp_path / "out", quality=1, workers=0)
    with av.open(str(tmp_path / "out" / "v.mp4")) as container:
        seen = next(container.decode(video=0)).to_ndarray()
    assert np.abs(seen.astype(int) - ramp).max() <= 2


# --------------------------------------------------------------------------------------------- sound


def clicks_in(samples: np.ndarray, rate: int = 44100) -> list[float]:
    """Seconds at which something loud begins."""
    loud = np.flatnonzero(np.abs(samples) > 0.25)
    return [float(i / rate) for i, gap in zip(loud, np.diff(loud, prepend=-rate)) if gap > rate / 20]


@pytest.mark.parametrize(("begin", "sound", "layout"), [
    (0, (0, 3), "stereo"), (10, (9.4, 14), "mono"), (2, (2.77, 4.5), "stereo"),
])
def test_sound_stays_with_the_pictures(tmp_path: Path, begin: float, sound: tuple[float, float], layout: str) -> None:
    times = [round(1000 * begin) + 40 * i for i in range(75)]
    clicks = [begin + t for t in (1.0, 1.731, 2.4)]
    source = make(tmp_path / "v.mkv", times, [picture(i) for i in range(75)], clicks=clicks, sound=sound, layout=layout)
    entry = prepare([source], tmp_path / "out", audio=True, workers=0).videos["v"]
    assert entry["source"]["audio"] == "pcm_s16le"
    with av.open(str(tmp_path / "out" / "v.mp4")) as container:
        assert container.streams.audio[0].layout.name == layout
        assert container.duration <= 3_000_000
    samples = heard(tmp_path / "out" / "v.mp4")
    assert clicks_in(samples) == pytest.approx([1.0, 1.731, 2.4], abs=0.002)
    assert len(samples) <= 44100 * 3 + 2048


def test_real_sound_stays_where_it_was(real: tuple[Path, preparation.Preparation]) -> None:
    out, _ = real
    source = shared("videos/edge") / "muxjs_sintel-captions.ts"  # its clock begins at 10 s
    start = video.probe(source).start
    meant = np.zeros(48000 * 8)
    with av.open(str(source)) as container:
        for frame in container.decode(audio=0):
            at = round((frame.time - start) * frame.sample_rate)
            samples = frame.to_ndarray()[0][max(0, -at):]
            room = meant[max(at, 0):][:len(samples)]
            room[:] = samples[:len(room)]
        rate = frame.sample_rate
    seen = heard(out / "muxjs_sintel-captions.mp4", rate)[:rate * 8]
    assert np.corrcoef(seen, meant[:len(seen)])[0, 1] > 0.99


def test_sound_is_left_out_unless_asked_for_and_may_be_absent(tmp_path: Path) -> None:
    make(tmp_path / "loud.mkv", range(0, 400, 40), [picture(i) for i in range(10)], sound=(0, 0.4))
    film(tmp_path / "mute.mp4", 10)
    prepare([tmp_path / "loud.mkv"], tmp_path / "a", workers=0)
    result = prepare([tmp_path / "loud.mkv", tmp_path / "mute.mp4"], tmp_path / "b", audio=True, workers=0)
    assert result.videos["mute"]["source"]["audio"] is None
    counts = []
    for path in (tmp_path / "a/loud.mp4", tmp_path / "b/loud.mp4", tmp_path / "b/mute.mp4"):
        with av.open(str(path)) as container:
            counts.append(len(container.streams.audio))
    assert counts == [0, 1, 0]


# --------------------------------------------------------------------------------------------- the folder


def test_what_the_folder_says(tmp_path: Path) -> None:
    film(tmp_path / "b.mp4", 40)
    film(tmp_path / "a.mp4", 25, fps=25)
    result = prepare([tmp_path / "b.mp4", tmp_path / "a.mp4"], tmp_path / "out", fps=29.97, short_side=None, workers=0)
    told = described(tmp_path / "out")
    assert told["settings"] == {"fps": 29.97003, "short_side": None, "enlarge": False, "keyframe_every": 16,
                                "audio": False, "quality": 23}
    assert list(told["videos"]) == ["a", "b"]
    a = told["videos"]["a"]
    assert a == {
        "file": "a.mp4", "duration": 30 * 1001 / 30000, "frames": 30, "width": W, "height": H,
        "bytes": (tmp_path / "out" / "a.mp4").stat().st_size,
        "source": {"name": "a.mp4", "mark": video.mark(tmp_path / "a.mp4"), "codec": "h264", "duration": 1.0,
                   "frames": 25, "fps": 25.0, "width": W, "height": H}}
    assert result.videos == told["videos"]
    assert (result.done, result.frames) == (["a", "b"], a["frames"] + told["videos"]["b"]["frames"])


def test_the_table_is_tsps(tmp_path: Path) -> None:
    film(tmp_path / "x1.mp4", 40)
    film(tmp_path / "x2.mp4", 10)
    prepare([tmp_path / "x1.mp4", tmp_path / "x2.mp4"], tmp_path / "out", workers=0)
    assert (tmp_path / "out" / "metadata.csv").read_text() == (
        f"filename,video-duration,fps,video-frames\nx1.mp4,{40 / 30},30,40\nx2.mp4,{10 / 30},30,10\n")
    truth = tmp_path / "train_tsp_groundtruth.csv"
    truth.write_text(",".join(tsp._TRUTH) + f"\nx1,0.1,1.0,run,{40 / 30},x1.mp4,30.0,40,Action\n")
    read = tsp.parse(truth, Reading(meta=tmp_path / "out" / "metadata.csv"))
    assert {vid: (v.duration, v.fps, len(v.annotations)) for vid, v in read.items()} == {
        "x1": (40 / 30, 30.0, 1), "x2": (10 / 30, 30.0, 0)}


def test_processes_give_the_same_bytes(tmp_path: Path) -> None:
    clips = [film(tmp_path / f"{i}.mp4", 60 + i, h=96, w=128) for i in range(4)]
    clips.append(tmp_path / "broken.mp4")
    clips[-1].write_bytes(b"no video at all")
    for name, workers in (("a", 0), ("b", 2), ("c", 0)):
        prepare(clips, tmp_path / name, workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    assert sorted(contents(tmp_path / "a")) == [LOCK, *(f"{i}.mp4" for i in range(4)), "failed.json", "metadata.csv",
                                                "prepared.json"]


def test_what_is_done_is_skipped_and_what_changed_is_not(tmp_path: Path) -> None:
    out, sources = tmp_path / "out", [film(tmp_path / f"{c}.mp4", 20 + i) for i, c in enumerate("abcd")]
    prepare(sources, out, workers=0)
    before = contents(out)
    (out / ".z.mp4.tmp").write_bytes(b"left by a kill")
    stamps = {p.name: p.stat().st_mtime_ns for p in out.glob("*.mp4")}
    again = prepare(sources, out, workers=0)
    assert (again.done, again.skipped, again.frames) == ([], ["a", "b", "c", "d"], 0)
    assert contents(out) == before
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.mp4")} == stamps

    os.utime(sources[3], ns=(1, 1))  # touched
    data = bytearray(sources[0].read_bytes())
    data[-1] ^= 1
    sources[0].write_bytes(data)  # other bytes, as many
    film(sources[1], 33)  # another video
    (out / "c.mp4").write_bytes((out / "c.mp4").read_bytes()[:100])  # cut by hand
    changed = prepare(sources, out, workers=0)
    assert (changed.done, changed.skipped) == (["a", "b", "c"], ["d"])
    assert described(out)["videos"]["b"]["frames"] == 33
    assert contents(out)["c.mp4"] == before["c.mp4"]

    more = prepare([film(tmp_path / "e.mp4", 5)], out, workers=0)  # a folder may grow
    assert more.done == ["e"]
    assert list(described(out)["videos"]) == list("abcde")


def test_folders_from_before_there_were_marks(tmp_path: Path) -> None:
    out, source = tmp_path / "out", film(tmp_path / "v.mp4", 10)
    prepare([source], out, workers=0)
    told = described(out)
    del told["videos"]["v"]["source"]["mark"]
    told["videos"]["v"]["source"] |= {"bytes": source.stat().st_size, "modified": source.stat().st_mtime_ns}
    (out / "prepared.json").write_text(json.dumps(told | {"failed": {"w": "was broken"}}))
    assert prepare([source], out, workers=0).skipped == ["v"]
    assert json.loads((out / "failed.json").read_text()) == {"w": "was broken"}
    assert "failed" not in described(out)
    os.utime(source, ns=(1, 1))
    assert prepare([source], out, workers=0).done == ["v"]
    assert described(out)["videos"]["v"]["source"]["mark"] == video.mark(source)


def test_as_many_processes_as_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(preparation, "_answers", lambda jobs, workers, lock: seen.append(workers) or iter(()))
    monkeypatch.setattr(preparation.os, "sched_getaffinity", lambda _: set(range(5)))
    monkeypatch.setattr(preparation, "closing", nullcontext)
    prepare([film(tmp_path / "v.mp4", 3)], tmp_path / "out")
    assert seen == [5]


def test_a_broken_source_can_be_mended_and_a_good_one_can_break(tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "v.mp4"
    path.write_bytes(b"nothing")
    assert "v" in prepare([path], out, workers=0).failed
    film(path)
    assert prepare([path], out, workers=0).done == ["v"]
    assert not (out / "failed.json").exists()
    path.unlink()  # a drive that is away is no reason to throw away what was made
    result = prepare([path], out, workers=0)
    assert "does not exist" in result.failed["v"]
    assert (out / "v.mp4").exists()
    assert "v" in described(out)["videos"]
    path.write_bytes(b"nothing")
    assert "v" in prepare([path], out, workers=0).failed
    assert not (out / "v.mp4").exists()
    assert described(out)["videos"] == {}


@pytest.mark.parametrize("change", [{"fps": 25}, {"short_side": 64}, {"quality": 30}, {"audio": True},
                                    {"keyframe_every": 8}, {"enlarge": True}])
def test_other_settings_are_refused(tmp_path: Path, change: dict) -> None:
    clip = film(tmp_path / "v.mp4", 3)
    prepare([clip], tmp_path / "out", workers=0)
    before = contents(tmp_path / "out")
    with pytest.raises(CallError, match=f"prepared with {next(iter(change))} .* give another folder"):
        prepare([clip], tmp_path / "out", workers=0, **change)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("text", ["[]", "{}", '{"settings": {}, "videos": {"v": {}}, "failed": {}}', "{"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    clip = film(tmp_path / "v.mp4", 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "prepared.json").write_text(text)
    with pytest.raises(DataError, match=r"prepared\.json"):
        prepare([clip], tmp_path / "out", workers=0)


def test_names_that_would_meet_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    a, b = film(tmp_path / "v.mp4", 3), film(tmp_path / "x" / "v.mp4", 3)
    with pytest.raises(CallError, match=r"v\.mp4' and '.*x/v\.mp4' would both become 'v\.mp4'"):
        prepare([a, b], tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(CallError, match="would be replaced by what is made from it"):
        prepare([a], tmp_path, workers=0)
    with pytest.raises(CallError, match=r"exists, and no prepared\.json"):
        prepare([a], tmp_path / "x", workers=0)
    with pytest.raises(CallError, match="no videos to prepare"):
        prepare([], tmp_path / "out")
    with pytest.raises(CallError, match="too long"):
        prepare([tmp_path / ("n" * 240)], tmp_path / "out")
    with pytest.raises(DataError, match="rename"):
        prepare([Path(os.fsdecode(b"\xff.mp4"))], tmp_path / "out")
    assert prepare([a, a], tmp_path / "out", workers=0).done == ["v"]  # named twice
    other = a.rename(tmp_path / "v.mov")
    with pytest.raises(CallError, match=r"was made from 'v\.mp4'"):
        prepare([other], tmp_path / "out", workers=0)


@pytest.mark.parametrize("change", [{"fps": 0}, {"fps": float("nan")}, {"short_side": 1}, {"quality": 0},
                                    {"quality": 52}, {"keyframe_every": 0}, {"workers": -1}, {"fps": 1e9},
                                    {"short_side": 0}])
def test_impossible_settings(tmp_path: Path, change: dict) -> None:
    with pytest.raises(CallError, match=next(iter(change))):
        prepare([tmp_path / "v.mp4"], tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------- accidents


def whole(out: Path, undisturbed: dict[str, bytes]) -> None:
    """What has its final name is what an undisturbed run leaves there, and all that is described is there."""
    for path in out.glob("*.mp4"):
        assert path.read_bytes() == undisturbed[path.name]
    right = json.loads(undisturbed["prepared.json"])
    told = described(out) if (out / "prepared.json").exists() else {"videos": {}}
    assert told["videos"].items() <= right["videos"].items()
    assert all((out / entry["file"]).exists() for entry in told["videos"].values())
    assert not told.get("complete") or told == right
    if (out / "failed.json").exists():
        assert (out / "failed.json").read_bytes() == undisturbed["failed.json"]


@pytest.mark.timeout(180)
def test_kill_at_any_moment_and_run_again(tmp_path: Path) -> None:
    sources = [str(film(tmp_path / f"{i}.mp4", 40 + i)) for i in range(5)] + [str(tmp_path / "bad.mp4")]
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    setup = f"""
from cuemark import preparation
def work(out, between):
    preparation.SECONDS_BETWEEN_MANIFESTS = between
    preparation.prepare({sources!r}, out, short_side=None, audio=True, workers=0)
"""
    undisturbed = kill_at_random(tmp_path, setup, whole, "*.mp4", 5, told=(5.0, 0.0))
    assert set(undisturbed) == {LOCK, "prepared.json", "metadata.csv", "failed.json", *(f"{i}.mp4" for i in range(5))}


def test_kill_with_processes_and_run_again(tmp_path: Path) -> None:
    clips = [film(tmp_path / f"{i}.mp4", 200, h=192, w=256) for i in range(5)]
    prepare(clips, tmp_path / "calm", short_side=None, workers=2)
    code = ("import sys; from pathlib import Path; from cuemark.preparation import prepare; "
            f"prepare([Path(p) for p in {[str(c) for c in clips]}], {str(tmp_path / 'out')!r}, short_side=None)")
    out, interrupted = tmp_path / "out", 0
    for wanted in (1, 3):  # killed while a file is written, after so many are finished
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < until:
            if len(list(out.glob("[0-9].mp4"))) >= wanted and list(out.glob(".*.mp4.tmp")):
                process.send_signal(signal.SIGKILL)
                process.wait()
                interrupted += not described(out)["complete"]
                break
            time.sleep(0.002)
        process.wait()
    assert interrupted
    assert b" threads=1 " in (tmp_path / "calm" / "0.mp4").read_bytes()  # x264's note: whatever the machine has
    result = prepare(clips, out, short_side=None)  # waits until the processes of the one before are gone
    assert result.done
    assert contents(out) == contents(tmp_path / "calm")


def test_a_killed_run_takes_its_processes_with_it(tmp_path: Path) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("finds the processes of a process in /proc")
    clip, out = shared("videos/untrimmed/one-by-one-person-detection.mp4"), tmp_path / "out"  # 9 s of work
    code = f"from cuemark.preparation import prepare; prepare([{str(clip)!r}], {str(out)!r}, short_side=None)"
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while not list(out.glob(".*.mp4.tmp")) and time.monotonic() < until:
            time.sleep(0.01)
        child = _child(parent.pid)
        os.kill(child, signal.SIGSTOP)  # busy with something else while its parent dies
        while Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)  # on a busy machine the signal takes a moment
    finally:
        parent.kill()
        parent.wait()
    try:
        with open(out / LOCK, "r+") as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.kill(child, signal.SIGCONT)
            until = time.monotonic() + 4
            while time.monotonic() < until:
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.05)
            else:
                pytest.fail("it is still at work")
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    assert not (out / f"{clip.stem}.mp4").exists()


def _child(pid: int) -> int:
    """The child that some thread of a process has started."""
    return next(int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split())


def test_two_runs_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = film(tmp_path / "v.mp4", 3)
    out = tmp_path / "out"
    prepare([clip], out, workers=0)
    monkeypatch.setattr(folders, "PATIENCE", 0.1)
    with open(out / LOCK, "r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CuemarkError, match="another run is at work in"):
            prepare([clip], out, workers=0)
    assert prepare([clip], out, workers=0).skipped == ["v"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_grows_too_large(tmp_path: Path, workers: int) -> None:
    """FFmpeg's own writing fails: the kernel stops it at 30 kB."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 96, 128, 3), np.uint8)
    video.write(tmp_path / "large.mp4", noise)
    film(tmp_path / "small.mp4", 10)
    code = ("import resource, sys; from cuemark.preparation import prepare; "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000)); "
            f"prepare(sys.argv[2:], sys.argv[1], short_side=None, workers={workers})")
    arguments = [str(tmp_path / name) for name in ("out", "large.mp4", "small.mp4")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(contents(tmp_path / "out")) == [LOCK, "failed.json", "metadata.csv", "prepared.json",
                                                  "small.mp4"]
    assert json.loads((tmp_path / "out" / "failed.json").read_text()) == {
        "large": "video 'large.mp4' cannot be encoded (File too large)."}


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [film(tmp_path / f"{i}.mp4", 10) for i in range(3)]
    real, calls = os.replace, []

    def full(source: Path, target: Path) -> None:
        calls.append(target)
        if Path(target).name == "1.mp4":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        real(source, target)

    monkeypatch.setattr(preparation.os, "replace", full)
    with pytest.raises(DataError, match=r"1\.mp4' cannot be written \(No space left on device\); free some space"):
        prepare(clips, tmp_path / "out", workers=0)
    assert sorted(contents(tmp_path / "out")) == [LOCK, "0.mp4", "metadata.csv", "prepared.json"]
    told = described(tmp_path / "out")
    assert (told["complete"], list(told["videos"])) == (False, ["0"])
    monkeypatch.undo()
    assert prepare(clips, tmp_path / "out", workers=0).done == ["1", "2"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    clip = film(tmp_path / "v.mp4", 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        prepare([clip], tmp_path / "file" / "out", workers=0)


def test_a_process_that_crashes_costs_one_video(tmp_path: Path) -> None:
    clip = film(tmp_path / "v.mp4", 3)
    lock = os.open(tmp_path, os.O_RDONLY)
    worker = preparation._Worker(lock)
    try:
        job = {"source": str(clip), "target": str(tmp_path / "w.mp4"), "rate": "30", "state": {},
               "settings": {"short_side": None, "enlarge": False, "audio": False, "quality": 23, "keyframe_every": 16}}
        assert worker.attempt(job)["entry"]["frames"] == 3
        assert worker.process is not None
        worker.process.kill()
        assert "crashed (signal 9)" in worker.attempt(job)["broken"]
        assert worker.attempt(job)["entry"]["frames"] == 3
    finally:
        worker.end()
        worker.close()
        os.close(lock)
