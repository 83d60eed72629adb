"""Videos: the right picture at the right second, from files of every kind, and one clear error for the rest.

The files written here carry their own answer: picture ``i`` shows the binary digits of ``i`` as eight light and dark
bars, so a test can read off *which* picture it was given. The real files' answers are in their manifest.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tracemalloc
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from av.stream import Disposition
from conftest import SHARED, shared
from PIL import Image

from cuemark import video
from cuemark.errors import CallError, VideoError

H, W = 48, 64


def picture(i: int, h: int = H, w: int = W) -> np.ndarray:
    """The number ``i`` as eight bars, lowest bit left."""
    bars = np.where(i >> np.arange(8) & 1, 230, 20).astype(np.uint8)
    return np.broadcast_to(bars[np.arange(w) * 8 // w][None, :, None], (h, w, 3)).copy()


def number(image: np.ndarray) -> int:
    """What :func:`picture` was asked to show."""
    middles = (np.arange(8) * 2 + 1) * image.shape[1] // 16
    return sum(int(v > 127) << b for b, v in enumerate(image[:, middles].mean((0, 2))))


def make(path: Path, times: Sequence[int] | int = 60, tick: Fraction = Fraction(1, 25), codec: str = "libx264",
         format: str | None = None, options: dict[str, str] | None = None, images: Sequence[np.ndarray] | None = None,
         pix_fmt: str = "yuv420p", matrix: Sequence[int] | None = None, muxer: dict[str, str] | None = None,
         title: str = "") -> Path:
    """Encode ``picture(0), picture(1), …`` (or ``images``) at ``times`` (in ticks)."""
    times = range(times) if isinstance(times, int) else times
    images = images or [picture(i) for i in range(len(times))]
    fast = {"preset": "ultrafast", "g": "12", "bf": "2"} if codec == "libx264" else {"g": "12"}
    with av.open(str(path), "w", format=format, container_options=muxer or {}) as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=25, options=fast | (options or {}))
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = tick
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for at, image in zip(times, images, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = at, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shown(times: Sequence[float], t: float) -> int:
    """Index of the last picture at or before ``t``, clamped: the obvious answer to "what is shown then"."""
    return max(0, bisect_right(times, t + 1e-4) - 1)


MS = Fraction(1, 1000)
UNEVEN = np.cumsum(np.random.default_rng(7).integers(5, 400, 80)).tolist()  # ms: 2.5 to 200 fps within one file


# --------------------------------------------------------------------------------------------- written, then read


@pytest.mark.parametrize(("h", "w"), [(48, 64), (47, 65), (2, 2), (1, 3)])
def test_written_file_comes_back(tmp_path: Path, h: int, w: int) -> None:
    images = [picture(i, h, w) for i in range(40)]
    video.write(tmp_path / "v.mp4", iter(images), fps=29.97)
    info = video.probe(tmp_path / "v.mp4")
    assert (info.height, info.width) == (h + h % 2, w + w % 2)
    assert (info.frames, info.codec, info.start, info.rotation) == (40, "h264", 0, 0)
    assert info.fps == pytest.approx(30000 / 1001)
    assert info.duration == pytest.approx(40 * 1001 / 30000)
    times, read = zip(*video.frames(tmp_path / "v.mp4"), strict=True)
    assert times == pytest.approx(np.arange(40) * 1001 / 30000)
    if w >= 8:
        assert [number(x[:, :w]) for x in read] == list(range(40))
        assert np.abs(read[5][:h, :w].astype(int) - images[5]).mean() < 3
    assert (read[5][-1] == read[5][-1 - h % 2]).mean() > 0.5  # the padding repeats the edge


def test_writing_keeps_colours_and_says_which_they_are(tmp_path: Path) -> None:
    flat = np.full((32, 32, 3), (200, 60, 30), np.uint8)
    video.write(tmp_path / "v.mp4", [flat] * 3)
    assert np.abs(next(video.frames(tmp_path / "v.mp4"))[1].astype(int) - flat).max() <= 3
    with av.open(str(tmp_path / "v.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (int(frame.colorspace), int(frame.color_range)) == (5, 1)  # BT.601, limited


def test_writing_is_deterministic_and_has_the_keyframes_asked_for(tmp_path: Path) -> None:
    images = [picture(i, 240, 320) for i in range(50)]
    for name in ("a.mp4", "b.mp4"):
        video.write(tmp_path / name, images, keyframe_every=16)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert b" threads=1 " in (tmp_path / "a.mp4").read_bytes()  # x264's note: the bytes do not depend on the machine
    with av.open(str(tmp_path / "a.mp4")) as container:
        keys = [p.pts // p.duration for p in container.demux(video=0) if p.size and p.is_keyframe]
    assert max(np.diff([*keys, 50])) <= 16
    video.write(tmp_path / "c.mp4", images, quality=40)
    assert (tmp_path / "c.mp4").stat().st_size < (tmp_path / "a.mp4").stat().st_size


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("before", [None, b"old"])
def test_interrupted_write_leaves_what_was_there(tmp_path: Path, error: type[BaseException], before: bytes | None
                                                 ) -> None:
    if before is not None:
        (tmp_path / "v.mp4").write_bytes(before)

    def images():
        yield from (picture(i) for i in range(30))
        raise error

    with pytest.raises(error):
        video.write(tmp_path / "v.mp4", images())
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([] if before is None else [("v.mp4", before)])


@pytest.mark.parametrize(("images", "options", "says"), [
    ([], {}, "no images"),
    ([np.zeros((4, 4, 3))], {}, "float64"),
    ([np.zeros((4, 4), np.uint8)], {}, "image 0"),
    ([picture(0), picture(1, 20, 64)], {}, "image 1 is 64x20"),
    ([np.zeros((0, 4, 3), np.uint8)], {}, "empty"),
    ([picture(0)], {"fps": 0}, "fps"),
    ([picture(0)], {"fps": float("nan")}, "fps"),
    ([picture(0)], {"quality": 99}, "quality"),
    ([picture(0)], {"keyframe_every": 0}, "keyframe_every"),
])
def test_what_cannot_be_written(tmp_path: Path, images: list[np.ndarray], options: dict, says: str) -> None:
    with pytest.raises(CallError, match=says):
        video.write(tmp_path / "v.mp4", images, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VideoError, match=r"file/v\.mp4' cannot be written"):
        video.write(tmp_path / "file" / "v.mp4", [picture(0)])


# --------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4", "v.mov", "v.webm"])
@pytest.mark.parametrize("offset", [0, 10_000, 3 * 3600_000])
def test_variable_frame_rate_and_any_first_timestamp(tmp_path: Path, name: str, offset: int) -> None:
    codec = "libvpx" if name.endswith("webm") else "libx264"
    options = {"deadline": "realtime", "cpu-used": "8"} if codec == "libvpx" else {}
    path = make(tmp_path / name, [offset + t for t in UNEVEN], MS, codec, options=options)
    truth = [(t - UNEVEN[0]) / 1000 for t in UNEVEN]
    info = video.probe(path)
    assert info.start == pytest.approx(offset / 1000 + UNEVEN[0] / 1000)
    assert info.frames == len(truth)
    assert truth[-1] < info.duration < truth[-1] + 0.5
    assert info.fps == info.frames / info.duration
    times, read = zip(*video.frames(path), strict=True)
    assert times == pytest.approx(truth)
    assert [number(x) for x in read] == list(range(len(truth)))
    asked = [*np.random.default_rng(1).uniform(-1, truth[-1] + 1, 30), *truth[::7], truth[3], truth[3]]
    assert [number(x) for x in video.frames_at(path, asked)] == [shown(truth, t) for t in asked]


def test_pictures_are_counted_not_believed(tmp_path: Path) -> None:
    """Half of the pictures left out: the header's rate stays, time does not care."""
    path = make(tmp_path / "v.mkv", [i for i in range(60) if i % 3 == 0], Fraction(1, 25))
    info = video.probe(path)
    assert (info.frames, info.fps) == (20, pytest.approx(25 / 3, rel=0.05))
    assert number(video.frames_at(path, [1.0])[0]) == 25 // 3


@pytest.mark.parametrize(("name", "fps", "offset"), [("v.mkv", 30, 0), ("v.mkv", 30, 33), ("v.flv", 30, 0),
                                                     ("v.mkv", 1000, 0), ("v.mp4", 30, 0), ("v.avi", 30, 0)])
def test_moments_meant_by_index_find_their_picture(tmp_path: Path, name: str, fps: int, offset: int) -> None:
    """Milliseconds cannot say 2/30 s; asking for k/30 must still give every picture once."""
    codec = "flv" if name.endswith("flv") else "mpeg4" if name.endswith("avi") else "libx264"
    tick = Fraction(1, 1000) if name[-3:] in ("mkv", "flv") else Fraction(1, fps)
    path = make(tmp_path / name, [round(i / fps / tick) + offset for i in range(90)], tick, codec)
    assert [number(x) for x in video.frames_at(path, np.arange(90) / fps)] == list(range(90))
    for k in (1, 44, 45, 46):
        assert number(next(video.frames(path, start=k / fps))[1]) == k
        assert number(list(video.frames(path, end=k / fps))[-1][1]) == k - 1


def test_range_begins_with_what_is_shown_and_ends_before_the_end(tmp_path: Path) -> None:
    path = make(tmp_path / "v.mkv", UNEVEN, MS)
    truth = [(t - UNEVEN[0]) / 1000 for t in UNEVEN]

    def span(start: float, end: float | None = None) -> list[int]:
        return [number(x) for _, x in video.frames(path, start=start, end=end)]

    for start in (0.0, 0.3, 1.0, 7.77, truth[40], truth[79] - 0.01):
        for end in (start + 0.05, start + 2, truth[60]):
            first = shown(truth, start)
            want = [i for i in range(80) if i == first or (first < i and truth[i] < end)] if end > start else []
            assert span(start, end) == want
    assert span(truth[-1] + 100) == [79]  # the last picture stays
    assert span(-5, 0) == span(1, 1) == span(2, 1) == []
    assert span(-5) == list(range(80))


def test_moments_far_apart_are_reached_by_seeking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "v.mp4", 250, Fraction(1, 5))
    decoded = []
    timed = video._timed
    monkeypatch.setattr(video, "_timed", lambda *a: (decoded.append(p) or p for p in timed(*a)))
    assert [number(x) for x in video.frames_at(path, [0, 48.0, 24.05, 24.3, 48.0])] == [0, 240, 120, 121, 240]
    assert len(decoded) < 60  # of 250: three runs, each from the keyframe before


def test_no_moments_and_impossible_ones(tmp_path: Path) -> None:
    path = make(tmp_path / "v.mp4", 3)
    assert video.frames_at(path, []).shape == (0, H, W, 3)
    assert video.frames_at(path, [], size=(8, 9)).shape == (0, 8, 9, 3)
    for times in ([float("nan")], [float("inf")], [[0.0]]):
        with pytest.raises(CallError, match="finite"):
            video.frames_at(path, times)  # type: ignore[arg-type]
    for size in ((0, 4), (4,), (4, -1)):
        with pytest.raises(CallError, match="size"):
            video.frames_at(path, [0], size=size)  # type: ignore[arg-type]
        with pytest.raises(CallError, match="size"):
            video.frames(path, size=size)  # type: ignore[arg-type]
    with pytest.raises(CallError, match="numbers of seconds"):
        video.frames(path, start=float("nan"))


# Every kind of index (or none), open and closed groups of pictures, and files that begin in the middle of one.
KINDS = {
    "open.mp4": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "fragments.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "h264.ts": {"options": {"x264-params": "open-gop=1:bframes=3"}, "format": "mpegts"},
    "refresh.ts": {"options": {"x264-params": "intra-refresh=1:keyint=24:bframes=0", "bf": "0"}, "format": "mpegts"},
    "mpeg2.ts": {"codec": "mpeg2video", "format": "mpegts", "options": {"bf": "2"}},
    "mpeg4.ts": {"codec": "mpeg4", "format": "mpegts", "options": {"bf": "2"}},
    "cut.ts": {"codec": "mpeg2video", "format": "mpegts", "options": {"bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "format": "vob", "options": {"bf": "2"}},
    "sparse.mpg": {"codec": "mpeg4", "format": "vob", "options": {"g": "300"}},
    "mpeg1.mpg": {"codec": "mpeg1video", "format": "mpeg", "options": {"bf": "2"}},
    "h264.avi": {},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "raw.h264": {"format": "h264"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "wmv.asf": {"codec": "wmv2"},
    "flv.flv": {"codec": "flv"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "animated.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}


@pytest.mark.parametrize("name", KINDS)
def test_random_access_equals_reading_through(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / name, 120, **KINDS[name])
    lost = 0
    if name == "cut.ts":  # a recording that begins in the middle of a group of pictures
        path.write_bytes(path.read_bytes()[188 * 20:])
        lost = 120 - video.probe(path).frames
        assert 0 < lost < 30
    sequence = list(video.frames(path))
    times = [t for t, _ in sequence]
    assert [number(x) for _, x in sequence] == list(range(lost, 120))
    assert times == pytest.approx(np.arange(120 - lost) / 25, abs=1e-3)
    info = video.probe(path)
    assert (info.frames, info.fps) == (120 - lost, pytest.approx(25, rel=0.003))
    monkeypatch.setattr(video, "SKIP", 0.9)
    asked = [*np.random.default_rng(3).uniform(0, times[-1], 7), times[-1]]
    for t, image in zip(asked, video.frames_at(path, asked), strict=True):
        assert np.array_equal(image, sequence[shown(times, t + 9e-4)][1]) or \
            np.array_equal(image, sequence[shown(times, t)][1])
        first = shown(times, times[shown(times, t)])
        span = list(video.frames(path, start=times[first], end=times[first] + 0.3))
        assert [round(a * 1e6) for a, _ in span] == [round(a * 1e6) for a in times[first:first + len(span)]]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(span, sequence[first:]))
        assert len(span) >= min(7, len(times) - first)


def test_times_that_run_backwards_are_dropped_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make(tmp_path / "twice.ts", 50, format="mpegts")
    path.write_bytes(path.read_bytes() * 2)
    times = [t for t, _ in video.frames(path)]
    assert times == sorted(set(times))
    assert times[:50] == pytest.approx(np.arange(50) / 25)
    assert len(caplog.messages) == 1
    assert "go back in time" in caplog.messages[0]


# --------------------------------------------------------------------------------------------- space

ONE = 1 << 16
ORIENTATIONS = {  # display matrix (a, b, c, d) -> what numpy does to the stored picture, clockwise degrees
    "upright": ((1, 0, 0, 1), lambda x: x, 0),
    "90 clockwise": ((0, 1, -1, 0), lambda x: np.rot90(x, -1), 90),
    "180": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2), 180),
    "90 counterclockwise": ((0, -1, 1, 0), lambda x: np.rot90(x, 1), 270),
    "mirrored": ((-1, 0, 0, 1), lambda x: x[:, ::-1], None),
    "upside down": ((1, 0, 0, -1), lambda x: x[::-1], None),
    "transposed": ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2), None),
    "transposed the other way": ((0, -1, -1, 0), lambda x: np.rot90(x, 2).transpose(1, 0, 2), None),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_display_matrix_is_applied(tmp_path: Path, name: str) -> None:
    (a, b, c, d), turn, degrees = ORIENTATIONS[name]
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :32], stored[:16, 32:], stored[16:, :32] = (220, 30, 30), (30, 220, 30), (30, 30, 220)
    path = make(tmp_path / "v.mp4", 3, images=[stored] * 3,
                matrix=[a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30])
    want = turn(stored)
    info = video.probe(path)
    assert (info.height, info.width) == want.shape[:2]
    if degrees is not None:
        assert info.rotation == degrees
    image = video.frames_at(path, [0.0])[0]
    assert image.shape == want.shape
    assert image.flags.c_contiguous
    assert np.abs(image.astype(int) - want).mean() < 6
    h, w = want.shape[0] // 2, want.shape[1] // 4
    small = video.frames_at(path, [0.0], size=(h, w))[0]
    assert small.shape == (h, w, 3)
    assert np.abs(small.astype(int) - want[1::2, 2::4]).mean() < 25  # edges are smooth now


def test_size_is_that_of_the_output_and_scaling_is_smooth(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], 96, 0).repeat(3, 2)
    path = make(tmp_path / "v.mp4", 2, images=[ramp] * 2)
    _, image = next(video.frames(path, size=(33, 17)))
    assert image.shape == (33, 17, 3)
    assert image.dtype == np.uint8
    assert np.abs(image[16, :, 0] - np.linspace(255 / 34, 255 - 255 / 34, 17)).max() < 4


def test_scaling_averages_and_does_not_pick_pixels(tmp_path: Path) -> None:
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    path = make(tmp_path / "v.mp4", 1, images=[stripes], options={"crf": "1"})
    assert np.abs(next(video.frames(path, size=(8, 16)))[1][:, 1:-1].astype(int) - 127).max() < 15


def test_size_of_the_first_picture_holds(tmp_path: Path) -> None:
    a = make(tmp_path / "a.h264", 10, format="h264")
    b = make(tmp_path / "b.h264", 10, format="h264", images=[picture(i + 10, 96, 128) for i in range(10)])
    (tmp_path / "v.h264").write_bytes(a.read_bytes() + b.read_bytes())
    read = [x for _, x in video.frames(tmp_path / "v.h264")]
    assert {x.shape for x in read} == {(H, W, 3)}
    assert [number(x) for x in read] == list(range(20))


@pytest.mark.parametrize(("space", "full", "rgb"), [(1, False, (173, 84, 18)), (5, False, (165, 79, 21)),
                                                    (1, True, (166, 87, 29))])
def test_colours_follow_the_files_tags(tmp_path: Path, space: int, full: bool, rgb: tuple[int, int, int]) -> None:
    """Y, Cb, Cr = 100, 90, 170 by the formulas of BT.709 (1) and BT.601 (5)."""
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = space, 2 if full else 1
        frame = av.VideoFrame(32, 32, "yuv420p")
        for plane, value in zip(frame.planes, (100, 90, 170), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.abs(next(video.frames(tmp_path / "v.mkv"))[1][9, 9].astype(int) - rgb).max() <= 3


def test_reserved_colour_numbers_are_read_as_unsaid(tmp_path: Path) -> None:
    frame = av.VideoFrame.from_ndarray(np.full((48, 32), 128, np.uint8), format="yuv420p")
    for space in (3, 14, 65):
        frame.colorspace = space
        assert np.abs(video._Painter(tmp_path, None)(frame).astype(int) - 130).max() <= 1


# --------------------------------------------------------------------------------------------- broken files


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name -> file that is no video, and a word of the reason."""
    good = make(folder / "good.mp4", 30).read_bytes()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    contents = {
        "empty.mp4": (b"", "empty"),
        "text.txt": (b"hello world\n" * 1000, "not a video"),  # FFmpeg would "play" it as a terminal recording
        "text.mp4": (b"hello world\n" * 1000, "not a video"),
        "noise.mkv": (np.random.default_rng(0).bytes(50_000), "not a video"),
        "picture.mp4": (png(), "not a video"),
        "list.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\ngood.mp4\n#EXT-X-ENDLIST\n", "not a video"),
        "list.txt": (b"ffconcat version 1.0\nfile good.mp4\n", "not a video"),
        "sound.mp4": (sound("mp4", "aac"), "only audio"),
        "sound with a cover.m4a": (sound("mp4", "aac", cover=True), "only audio"),
        "no index.mp4": (good[: len(good) // 2], "cannot be opened"),
        "no data.mp4": (blank(good, b"mdat"), "unreadable packets"),
        "bytes \udcff.mp4": (b"x", "not a video"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    files = {name: (folder / name, reason) for name, (_, reason) in contents.items()}
    files |= {"missing": (folder / "missing.mp4", "does not exist"), "folder": (folder / "folder.mp4", "is a folder"),
              "pipe": (folder / "pipe.mp4", "a pipe"), "nul": (folder / "a\0b.mp4", "cannot be read")}
    return files


def sound(format: str, codec: str, cover: bool = False, muxer: dict[str, str] | None = None) -> bytes:
    """A second of silence."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format, container_options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=44100)
        if cover:
            picture_stream = container.add_stream("mjpeg", rate=25)
            picture_stream.height, picture_stream.width, picture_stream.pix_fmt = H, W, "yuvj420p"
            picture_stream.disposition = Disposition.attached_pic
            container.mux(picture_stream.encode(av.VideoFrame.from_ndarray(picture(1), format="rgb24")))
        kind = "fltp" if codec == "aac" else "s16"
        silence = np.zeros((1, 44100), np.float32 if codec == "aac" else np.int16)
        frame = av.AudioFrame.from_ndarray(silence, format=kind, layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture(3)).save(file, "PNG")
    return file.getvalue()


def blank(data: bytes, box: bytes) -> bytes:
    """An MP4 with the content of one box set to zeros."""
    at = data.index(box) - 4
    size = int.from_bytes(data[at:at + 4], "big")
    return data[:at + 8] + bytes(size - 8) + data[at + size:]


def test_every_unusable_file_is_one_error_that_names_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, (path, reason) in bad_files(tmp_path).items():
        for call in (video.probe, lambda p: next(video.frames(p)), lambda p: video.frames_at(p, [1.0]),
                     lambda p: next(video.frames(p, start=0.5))):
            with pytest.raises(VideoError, match=reason) as caught:
                call(path)
            assert path.name in str(caught.value), name
            assert str(caught.value).count("\n") == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("threads", [1, 4, 16])
def test_damage_in_the_middle_is_skipped_and_told_once(tmp_path: Path, threads: int, caplog: pytest.LogCaptureFixture,
                                                       monkeypatch: pytest.MonkeyPatch,
                                                       capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(video, "THREADS", threads)
    path = make(tmp_path / "v.mp4", 120, codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(path)) as container:
        places = {i: (p.pos, p.size) for i, p in enumerate(p for p in container.demux(video=0) if p.size)}
    data = bytearray(path.read_bytes())
    for i in (30, 70, 119):  # in the middle, and the very last, where threads lose most
        at, size = places[i]
        data[at:at + size] = bytes(size)
    path.write_bytes(data)
    assert video.probe(path).frames == 120
    with caplog.at_level(logging.WARNING, "cuemark"):
        good = [i for i in range(120) if i not in (30, 70, 119)]
        read = list(video.frames(path))
        assert [number(x) for _, x in read] == good
        assert [t for t, _ in read] == pytest.approx(np.array(good) / 25)
        assert [number(x) for x in video.frames_at(path, [30 / 25, 4.7, 0.2])] == [29, 117, 5]
        assert [number(x) for _, x in video.frames(path, start=2.6)] == good[64:]
    assert len(caplog.messages) == 1
    assert "v.mp4" in caplog.text
    assert "3 unreadable packets" in caplog.text
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4", "v.ts", "v.avi"])
def test_a_file_that_was_cut_off_is_served_as_far_as_it_goes(tmp_path: Path, name: str) -> None:
    muxer = {"movflags": "faststart"} if name == "v.mp4" else None
    path = make(tmp_path / name, 100, options={"bf": "0"}, muxer=muxer)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    times, images = zip(*video.frames(path), strict=True)
    numbers = [number(x) for x in images]
    assert numbers[:-1] == list(range(len(numbers) - 1))  # the last may be the remains of a packet
    assert 20 < len(numbers) < 100
    assert len(numbers) <= video.probe(path).frames <= len(numbers) + 2
    assert number(video.frames_at(path, [times[-2]])[0]) == numbers[-2]
    assert video.frames_at(path, [100.0]).shape == (1, H, W, 3)


def test_a_file_that_cannot_be_read_on_is_served_as_far_as_it_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture
                                                                   ) -> None:
    path = make(tmp_path / "v.mp4", 100, muxer={"movflags": "frag_keyframe+empty_moov"})
    data = bytearray(path.read_bytes())
    fragment = [i for i in range(len(data)) if data[i:i + 4] == b"tfhd"][5]
    data[fragment + 12] = 255  # where the sixth fragment's data begins: before the file
    path.write_bytes(data)
    numbers = [number(x) for _, x in video.frames(path)]
    assert numbers == list(range(60))
    assert "1 unreadable packets" in caplog.text


def test_a_stream_that_begins_late_does_no_harm(tmp_path: Path) -> None:
    path = make(tmp_path / "v.ts", 50, format="mpegts")
    nothing = (b"\x47\x1f\xff\x10" + b"\xff" * 184) * 16_000  # 3 MB: FFmpeg looks for streams no further than this
    late = sound("mpegts", "mp2", muxer={"mpegts_start_pid": "500"})
    path.write_bytes(path.read_bytes() + nothing + late + nothing + path.read_bytes())
    assert video.probe(path).frames == 50
    assert [number(x) for _, x in video.frames(path)][:50] == list(range(50))


def test_no_damage_makes_anything_else_escape(tmp_path: Path) -> None:
    """Bytes changed at random, in the headers and anywhere: a video error or a video, nothing in between."""
    rng = np.random.default_rng(5)
    outcomes = set()
    for name in ("h264.ts", "mpeg4.avi", "open.mp4", "mpeg2.mpg", "wmv.asf", "flv.flv"):
        original = make(tmp_path / name, 20, **KINDS[name]).read_bytes()
        for turn in range(12):
            data = bytearray(original)
            for at in rng.integers(len(data) if turn % 2 else 600, size=6):
                data[at] = rng.integers(256)
            (tmp_path / name).write_bytes(data[: rng.integers(200, len(data))] if turn % 3 == 0 else data)
            try:
                info = video.probe(tmp_path / name)
                times = [t for t, _ in video.frames(tmp_path / name, size=(8, 8))]
                two = video.frames_at(tmp_path / name, [0.3, 0.1])
            except VideoError as error:
                outcomes.add(name in str(error))
                continue
            assert times == sorted(set(times))
            assert min(info.duration, info.frames, info.fps) > 0
            assert len(two) == 2
            outcomes.add("video")
    assert outcomes == {"video", True}


# --------------------------------------------------------------------------------------------- resources


def test_reading_streams(tmp_path: Path) -> None:
    path = make(tmp_path / "v.mp4", 150, images=[picture(i, 240, 320) for i in range(150)])
    tracemalloc.start()
    count = sum(1 for _ in video.frames(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 150
    assert peak < 10 * 240 * 320 * 3  # bytes: a few pictures, not 150


def test_probing_does_not_keep_the_file_in_memory(tmp_path: Path) -> None:
    """In a process of its own: packets are FFmpeg's memory, of which only the process's peak tells."""
    pytest.importorskip("resource")
    for name, n in (("small.mkv", 2), ("large.mkv", 150)):
        make(tmp_path / name, n, codec="rawvideo", images=[np.full((480, 640, 3), 99, np.uint8)] * n)
    assert (tmp_path / "large.mkv").stat().st_size > 60e6
    script = ("import resource; from cuemark.video import probe\n"
              "for name in ('small.mkv', 'large.mkv'):\n"
              "    probe(name); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())  # KiB
    assert large - small < 20_000


def test_containers_are_closed_even_when_reading_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "v.mp4")
    opened = []
    real = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(real(*a, **k)) or opened[-1])
    reader = video.frames(path)
    next(reader)
    del reader
    for _ in video.frames(path, start=1.0):
        break
    video.frames_at(path, [0.5])
    video.probe(path)
    assert len(opened) >= 5
    for container in opened:
        with pytest.raises(AssertionError, match="not open"):
            container.seek(0)


@pytest.mark.parametrize("name", ["a%03d.mp4", "http:x.mp4", "-i.mp4", "te[s]t ' \" $x.mp4", "视频 é.mp4", "no_suffix",
                                  "line\nbreak.mp4", "bytes \udcff.mp4"])
def test_hostile_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, name):
        video.write(path, [picture(9)] * 3)
        assert video.probe(path).frames == 3
        assert number(video.frames_at(path, [0])[0]) == 9


def test_a_title_in_an_unknown_alphabet(tmp_path: Path) -> None:
    path = make(tmp_path / "v.mkv", 3, title="TITLE")
    path.write_bytes(path.read_bytes().replace(b"TITLE", b"\xff\xfeT\xe9\xff"))
    assert video.probe(path).frames == 3


# --------------------------------------------------------------------------------------------- thumbnails, finding


def test_jpeg_is_the_image() -> None:
    from PIL import Image

    image = picture(77, 40, 56)
    with Image.open(io.BytesIO(video.jpeg(image))) as back:
        assert back.format == "JPEG"
        assert np.abs(np.asarray(back).astype(int) - image).mean() < 5
    assert len(video.jpeg(image, quality=20)) < len(video.jpeg(image, quality=95))
    with pytest.raises(CallError, match="float"):
        video.jpeg(image / 255)


def decode_benchmark() -> ModuleType:
    """What it calls error() is the slow reference: all of a picture to exact RGB, then Pillow's scaling in floats."""
    spec = importlib.util.spec_from_file_location("decode", Path(__file__).parents[1] / "benchmarks" / "decode.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("width", "height", "pix_fmt"), [(161, 90, "yuv444p"), (160, 91, "yuv420p")])
def test_colours_and_geometry_are_those_of_a_slow_reference(tmp_path: Path, width: int, height: int, pix_fmt: str
                                                            ) -> None:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(3):  # soft colours with edges, as cameras see them
        coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).resize((width, height), Image.BICUBIC)
        images.append(np.asarray(coarse).copy())
        images[-1][20:50, 30:80] = rng.integers(0, 256, 3)
    path = make(tmp_path / "v.mkv", images=images * 14, times=42, codec="ffv1", pix_fmt=pix_fmt)
    for size in ((44, 64), (64, 114), (height, width)):
        assert decode_benchmark().error(path, *size) < 1


def test_colours_and_geometry_of_a_real_video_are_those_of_a_slow_reference() -> None:
    assert decode_benchmark().error(shared("videos/edge") / "androidx_sample_h264.ts", 96, 170) < 1


def test_find_videos(tmp_path: Path) -> None:
    for name in ("a.mp4", "v_b.MKV", "sub/c.webm", "c.txt", "d.mp4.part", "v_e.mp4", "e.avi", "f.avi", "f.mkv",
                 "v_v_g.mp4", "-h.i.mov", "._a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = video.find_videos(tmp_path, iter(["a", "b", "c", "d", "e", "f", "v_g", "-h.i", "v_b", "nobody"]))
    assert {i: p.relative_to(tmp_path).as_posix() for i, p in found.items()} == {
        "a": "a.mp4", "b": "v_b.MKV", "c": "sub/c.webm", "e": "e.avi", "f": "f.mkv", "v_g": "v_v_g.mp4",
        "-h.i": "-h.i.mov", "v_b": "v_b.MKV"}
    with pytest.raises(VideoError, match="nowhere"):
        video.find_videos(tmp_path / "nowhere", ["a"])


def test_expand_looks_into_folders_at_any_depth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.mp4", "a/z.MKV", "a/deep/c.rmvb", "a/.hidden.mp4", ".git/d.mp4", ".b.mp4.x.tmp", "out/e.mp4",
                 "notes.txt", "a/t.json", "a/README"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = video.expand([tmp_path, "gone.mp4", tmp_path / "notes.txt"], leave_out=tmp_path / "out")
    assert found == [*(tmp_path / name for name in ("a/deep/c.rmvb", "a/z.MKV", "b.mp4")), Path("gone.mp4"),
                     tmp_path / "notes.txt"]
    assert capsys.readouterr().err == (f"'{tmp_path}': videos: 3; files not looked at, by their extensions "
                                       "(.json, .txt, none): 3\n")
    assert video.expand([tmp_path / "out"], leave_out=tmp_path / "out") == [tmp_path / "out" / "e.mp4"]
    assert capsys.readouterr().err == ""
    for path in ("nope", tmp_path / "nope.d"):
        with pytest.raises(VideoError, match=f"'{path}' does not exist; check the path"):
            video.expand([path])


@pytest.mark.parametrize("extension", [
    ".asf", ".mxf", ".m2v", ".rm", ".divx", ".qt", ".3g2", ".y4m", ".f4v", ".vob", ".mts", ".m2ts", ".ogm", ".dv"])
def test_what_ffmpeg_reads_counts_as_video(extension: str) -> None:
    assert extension in video.EXTENSIONS
    assert len(set(video.EXTENSIONS)) == len(video.EXTENSIONS)


@pytest.mark.parametrize("size", [0, 1, 3 * video.MARKED, 3 * video.MARKED + 1, 10 * video.MARKED])
def test_a_mark_tells_contents_apart(tmp_path: Path, size: int) -> None:
    path, data = tmp_path / "a", np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    path.write_bytes(data)
    usual = video.mark(path)
    assert usual is not None
    assert len(usual) == 16
    os.utime(path, (1, 1))
    assert video.mark(shutil.copy(path, tmp_path / "b")) == video.mark(path) == usual
    seen = {usual}
    for place in sorted({0, size // 2, size - 1} if size else set()):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        seen.add(video.mark(path))
    path.write_bytes(data + b"\0")
    seen.add(video.mark(path))
    assert len(seen) == 2 + len({0, size // 2, size - 1} if size else set())
    os.mkfifo(tmp_path / "pipe")
    assert video.marks([tmp_path, tmp_path / "gone", tmp_path / "pipe", tmp_path / "b", "a\0b"]) == [
        None, None, None, usual, None]


# --------------------------------------------------------------------------------------------- real files


def manifest() -> list[dict[str, str]]:
    file = SHARED / "MANIFEST.csv"
    if not file.exists():
        return []
    with open(file, newline="") as f:
        rows = [r for r in csv.DictReader(f) if r["file"].startswith("videos/edge/") and r["sha256"]]
    return [r | {"name": r["file"].removeprefix("videos/edge/")} for r in rows if not r["file"].endswith(".json")]


ABSENT = [pytest.param(None, marks=pytest.mark.skip("real data not here: ../shared/data/MANIFEST.csv"))]
LONG = "androidx_long_180p_av1.mp4"
USABLE = [pytest.param(r, id=r["name"]) for r in manifest() if r["decoded_frames"] not in ("", "0")] or ABSENT
UNUSABLE = [pytest.param(r, id=r["name"]) for r in manifest() if r["decoded_frames"] in ("", "0")] or ABSENT
READ = [p for p in USABLE if p.id != LONG]

# Where the manifest, made by another program, says something else, and why it is not what we mean.
EXCEPTIONS: dict[str, dict[str, object]] = {
    "torchcodec_nasa_13013.mp4": {  # the manifest describes the first of two video streams; the best is the other
        "frames": 390, "size": (480, 270), "fps": 30000 / 1001},
    LONG: {"frames": 21766},  # the manifest's program stopped at 20,001
    "decord_corrupted.mp4": {"frames": 50, "served": 49},  # stopped at the first error; there is one bad packet
    "androidx_sample_with_invalid_nalu.mp4": {"frames": 30, "served": 29},  # likewise
    "jcodec_cat_avc_clip.mp4": {  # pictures 4, 3, 5, …, 62, 62, …: those that do not go forward are dropped
        "frames": 177, "served": 173},
    "te[s]t_ video ' _ .flv": {"fps": 10 / 1.833},  # ten pictures with holes between them, not 24 a second
    "streamio_weird_aspect.small.mpg": {"fps": 36 / 1.48},  # 36 pictures at 25 fps, with one missing
    "small_webm.webm": {"fps": 1.0},  # one picture; the container says that it stays for a second
}


@cache
def read_through(name: str) -> tuple[list[float], np.ndarray]:
    times, images = zip(*video.frames(shared("videos/edge") / name, size=(24, 32)), strict=True)
    return list(times), np.stack(images)


@pytest.mark.parametrize("row", USABLE)
def test_real_file_is_measured_as_the_manifest_says(row: dict[str, str]) -> None:
    other = EXCEPTIONS.get(row["name"], {})
    info = video.probe(shared(row["file"]))
    frames = int(other.get("frames", row["decoded_frames"]))  # type: ignore[call-overload]
    fps = float(other.get("fps", row["fps"] or "nan"))  # type: ignore[arg-type]
    size = other.get("size", tuple(map(int, row["resolution"].split("x"))))
    turned = row["note"].endswith(("rotation -90", "rotation 90"))
    assert info.path == shared(row["file"])
    assert info.frames == frames
    assert (info.height, info.width) if turned else (info.width, info.height) == size
    assert info.start == pytest.approx(float(row["first_pts"]), abs=1e-3)
    assert info.fps == pytest.approx(fps, rel=0.01)
    assert info.duration == pytest.approx(frames / fps, rel=0.01)
    assert info.codec == row["codec"].replace("libdav1d", "av1")
    counterclockwise = int(row["note"].rpartition("rotation ")[2]) if turned or "rotation -180" in row["note"] else 0
    assert info.rotation == -counterclockwise % 360


@pytest.mark.parametrize("row", READ)
def test_real_file_is_read_through(row: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    other = EXCEPTIONS.get(row["name"], {})
    info = video.probe(shared(row["file"]))
    times, images = read_through(row["name"])
    assert times[0] == 0
    assert times == sorted(set(times))
    assert times[-1] < info.duration
    assert len(times) == other.get("served", info.frames)
    assert images.shape == (len(times), 24, 32, 3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("row", READ)
def test_real_file_random_access_equals_reading_through(row: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "SKIP", 1.0)
    path = shared(row["file"])
    times, images = read_through(row["name"])
    rng = np.random.default_rng(len(times))
    # the middle of a picture's stay, so that no rule about rounding matters
    chosen = [*rng.choice(len(times), min(4, len(times)), replace=False).tolist(), len(times) - 1, 0]
    asked = [(times[i] + (times[i + 1] if i + 1 < len(times) else times[i] + 9)) / 2 for i in chosen]
    assert np.array_equal(video.frames_at(path, asked, size=(24, 32)), images[chosen])
    i = chosen[0]
    span = list(video.frames(path, size=(24, 32), start=asked[0], end=asked[0] + 0.2))
    assert [t for t, _ in span] == pytest.approx(times[i:i + len(span)])
    assert np.array_equal(np.stack([x for _, x in span]), images[i:i + len(span)])
    assert i + len(span) == len(times) or times[i + len(span)] >= asked[0] + 0.2 - 1e-3


def test_damage_looks_the_same_whatever_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost reference is covered up differently by threaded decoders; they are not used behind it."""
    times, images = read_through("decord_corrupted.mp4")
    monkeypatch.setattr(video, "THREADS", 1)
    alone = list(video.frames(shared("videos/edge/decord_corrupted.mp4"), size=(24, 32)))
    assert [t for t, _ in alone] == times
    assert np.array_equal(np.stack([x for _, x in alone]), images)


@pytest.mark.parametrize("row", UNUSABLE)
def test_real_file_that_is_broken(row: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    path = shared(row["file"])
    for call in (video.probe, lambda p: next(video.frames(p)), lambda p: video.frames_at(p, [0.5])):
        with pytest.raises(VideoError) as caught:
            call(path)
        assert path.name in str(caught.value)
    if "clearkey" in path.name:
        assert "encrypted" in str(caught.value)
    if "audio_only" in path.name:
        assert "only audio" in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("stream", [0, 3])
def test_each_pictures_time_agrees_with_independent_truth(tmp_path: Path, stream: int) -> None:
    source = shared("videos/edge/torchcodec_nasa_13013.mp4")
    truth = json.loads(shared(f"videos/edge/{source.name}.stream{stream}.all_frames_info.json").read_text())
    path = tmp_path / "v.mp4"
    if stream == 3:
        shutil.copy(source, path)  # the one that is chosen
    else:
        with av.open(str(source)) as old, av.open(str(path), "w") as new:
            target = new.add_stream_from_template(old.streams[0])
            for packet in old.demux(old.streams[0]):
                if packet.size:
                    packet.stream = target
                    new.mux(packet)
    times = [t for t, _ in video.frames(path, size=(8, 8))]
    assert times == pytest.approx([float(f["pts_time"]) for f in truth], abs=1e-6)
    info = video.probe(path)
    assert info.frames == len(truth)
    assert info.duration == pytest.approx(float(truth[-1]["pts_time"]) + float(truth[-1]["duration_time"]), abs=1e-5)


# --------------------------------------------------------------------------------------------- kept open


def looks(rng: np.random.Generator, duration: float, count: int) -> list[np.ndarray]:
    """Moments as readers are asked for them: a few anywhere (also beyond the ends), or a clip; in any order."""
    asked = []
    for turn in range(count):
        n = int(rng.integers(1, 5))
        clip = rng.uniform(0, duration) + rng.permutation(n) / 15
        asked.append(clip if turn % 2 else np.append(rng.uniform(-0.3, duration + 0.3, n), 0.0 if turn % 4 else []))
    return asked


def agrees(path: Path, asked: Sequence[np.ndarray], size: tuple[int, int] | None) -> None:
    with video.Reader(path) as reader:
        for times in asked:
            assert np.array_equal(reader.at(times, size), video.frames_at(path, times, size)), times


@pytest.mark.parametrize("detour", [0.0, 0.3])
@pytest.mark.parametrize("name", [*KINDS, "uneven.mkv", "twice.ts", "damaged.mp4"])
def test_an_open_reader_sees_what_a_new_opening_sees(tmp_path: Path, name: str, detour: float,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    if name in KINDS:
        path = make(tmp_path / name, 120, **KINDS[name])
    elif name == "uneven.mkv":
        path = make(tmp_path / name, [5000 + t for t in UNEVEN], MS)
    elif name == "twice.ts":
        path = make(tmp_path / name, 60, format="mpegts")
        path.write_bytes(path.read_bytes() * 2)
    else:
        path = make(tmp_path / name, 120, options={"bf": "0"})
        with av.open(str(path)) as container:
            packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
        data = bytearray(path.read_bytes())
        for at, size in (packets[50], packets[90]):
            data[at:at + size] = bytes(size)
        path.write_bytes(data)
    if name == "cut.ts":
        path.write_bytes(path.read_bytes()[188 * 20:])
    monkeypatch.setattr(video, "SKIP", 0.9)
    monkeypatch.setattr(video, "DETOUR", detour)
    rng = np.random.default_rng(len(name))
    agrees(path, looks(rng, video.probe(path).duration, 8), None)


@pytest.mark.parametrize("row", READ)
def test_an_open_reader_agrees_on_real_files(row: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = shared(row["file"])
    duration = video.probe(path).duration
    agrees(path, looks(np.random.default_rng(int(duration * 1000)), min(duration, 10.0), 4), (24, 32))


def test_a_reader_opens_once_and_decodes_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "v.mp4", 240)  # a keyframe every 12
    opened, decoded = [], []
    real, timed = av.open, video._timed
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(real(*a, **k)) or opened[-1])
    monkeypatch.setattr(video, "_timed", lambda *a: (decoded.append(p) or p for p in timed(*a)))

    def cost(*numbers: int) -> int:
        decoded.clear()
        assert [number(x) for x in readers[0].at([n / 25 for n in numbers])] == list(numbers)
        return len(decoded)

    readers = [video.Reader(path)]
    with readers[0]:
        assert opened == []
        assert cost(0, 1) == 3  # and the one after, which tells that the second is over
        assert cost(2, 3, 4) == 3  # goes on
        assert cost(4) == 0
        assert 5 <= cost(200) <= 14  # from 192, not from 4
        assert 5 <= cost(100, 103, 30) <= 28  # back, and two keyframes on the way
        assert 228 <= cost(*range(0, 240, 3)) <= 240
        assert cost(239, 239) == 1
        assert cost(239) == 0
        assert len(opened) == 1
    with pytest.raises(AssertionError, match="not open"):
        opened[0].seek(0)
    assert cost(5) > 0  # opens again
    assert len(opened) == 2
    readers.clear()
    with pytest.raises(AssertionError, match="not open"):
        opened[1].seek(0)


def test_a_file_replaced_under_its_reader(tmp_path: Path) -> None:
    path, other = tmp_path / "v.mp4", tmp_path / "other.mp4"
    make(path, 50)
    reader = video.Reader(path)
    assert number(reader.at([1.0])[0]) == 25
    make(other, images=[picture(i) for i in range(100, 200)], times=100)
    data = other.read_bytes()
    os.replace(other, path)
    assert [number(x) for x in reader.at([1.0, 3.96])] == [125, 199]
    path.write_bytes(data[:200])
    with pytest.raises(VideoError, match=r"v\.mp4"):
        reader.at([1.0])
    path.write_bytes(data)
    assert number(reader.at([0.0])[0]) == 100
    path.unlink()
    with pytest.raises(VideoError, match="does not exist"):
        reader.at([0.0])
    make(path, 50)
    assert number(reader.at([1.0])[0]) == 25


def test_a_file_whose_content_vanishes_in_the_middle_of_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                               ) -> None:
    path = make(tmp_path / "v.mkv", 200, images=[np.random.default_rng(i).integers(0, 256, (H, W, 3), np.uint8)
                                                 for i in range(200)])  # larger than what is read ahead
    assert path.stat().st_size > 400_000
    with video.Reader(path) as reader:
        reader.at([0.0])
        same = video._identity(path)
        os.truncate(path, 100_000)
        monkeypatch.setattr(video, "_identity", lambda path: same)  # as if it happened after the look at the file
        late = reader.at([7.0])
    assert np.array_equal(late, video.frames_at(path, [7.0]))


@pytest.mark.parametrize("when", [1, 3, 6, 20])
def test_an_interrupted_look_does_no_harm(tmp_path: Path, when: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "v.mp4", 100)
    with video.Reader(path) as reader:
        reader.at([1.0])
        countdown = iter(range(when, 0, -1))
        step = video._Source.step

        def interrupted(*given):
            if next(countdown, None) == 1:
                raise KeyboardInterrupt
            return step(*given)

        monkeypatch.setattr(video._Source, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reader.at([1.2, 1.4, 1.6, 1.8, 2.0])
        assert [number(x) for x in reader.at([1.2, 2.0, 3.96, 0])] == [30, 50, 99, 0]


def test_a_reader_takes_what_frames_at_takes(tmp_path: Path) -> None:
    with video.Reader(make(tmp_path / "v.mp4", 3)) as reader:
        assert reader.at([]).shape == (0, H, W, 3)
        assert reader.at([], size=(8, 9)).shape == (0, 8, 9, 3)
        assert reader.at([0.0, 9.0], size=(8, 9)).shape == (2, 8, 9, 3)
        assert reader.at(np.array([0.0])).shape == (1, H, W, 3)
        for times in ([float("nan")], [float("inf")], [[0.0]]):
            with pytest.raises(CallError, match="finite"):
                reader.at(times)  # type: ignore[arg-type]
        with pytest.raises(CallError, match="size"):
            reader.at([0], size=(0, 4))
    for row in ("nowhere.mp4", "."):
        with pytest.raises(VideoError):
            video.Reader(tmp_path / row).at([0.0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_opens_for_itself(tmp_path: Path) -> None:
    """Parent and child would move each other's place in the file. In a process of its own, which has no threads."""
    make(tmp_path / "v.mkv", 200, images=[np.random.default_rng(i).integers(0, 256, (H, W, 3), np.uint8)
                                          for i in range(200)])
    script = ("import os\nfrom cuemark import video\n"
              "reader = video.Reader('v.mkv'); reader.at([0.0])\n"
              "child = os.fork()\n"
              "for k in range(40):\n"
              "    t = [(k * 1.7 + (child > 0) * 3.1) % 8]\n"
              "    assert (reader.at(t) == video.frames_at('v.mkv', t)).all()\n"
              "assert not reader._odd\n"
              "if child: assert os.waitpid(child, 0)[1] == 0\n")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
