"""How fast a whole video becomes small RGB pictures, beside decoding alone and the ffmpeg program.

    python benchmarks/decode.py VIDEO... [--ffmpeg PROGRAM] [--short-side 128] [--seconds 20]

The first seconds of each video are encoded as H.264, HEVC, VP9 and AV1 at its own size (and as H.264 at 1080 lines), so
that codecs are compared on the same pictures. For each file, best of three, pictures a second of

    decode     PyAV decodes and throws away
    ours       cuemark.video.frames at --short-side: decode, scale, RGB, times
    obvious    frame.reformat of every picture, which builds a scaler each time
    ffmpeg     the ffmpeg program doing the same into a pipe (--ffmpeg, or what is on the PATH; left out without one)

and ours as a share of decode and of ffmpeg. Below: how far pictures are from a slow reference (all of a picture to RGB
with exact rounding and full colour, then Pillow's antialiased bilinear scaling in floating point), mean of 255.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from cuemark import video

CODECS = {"h264": ("libx264", {"preset": "veryfast"}),
          "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}),
          "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}), "av1": ("libsvtav1", {"preset": "12"})}


def best(work: Callable[[], int]) -> float:
    """Pictures a second of the fastest of three runs."""
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        count = work()
        rates.append(count / (time.perf_counter() - began))
    return max(rates)


def encode(source: Path, target: Path, codec: str, height: int | None, seconds: float) -> None:
    """The first ``seconds`` of a video in another codec, and of another height."""
    name, options = CODECS[codec]
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        out = made.add_stream(name, rate=Fraction(stream.average_rate or 30), options=options)
        factor = height / stream.height if height else 1
        out.width, out.height = (2 * round(n * factor / 2) for n in (stream.width, stream.height))
        out.pix_fmt = "yuv420p"
        scale = VideoReformatter()
        for i, picture in enumerate(given.decode(stream)):
            if i >= seconds * float(stream.average_rate or 30):
                break
            picture = scale.reformat(picture, out.width, out.height, "yuv420p", interpolation="BICUBIC")
            picture.pts, picture.time_base = i, 1 / Fraction(stream.average_rate or 30)
            made.mux(out.encode(picture))
        made.mux(out.encode(None))


def decode_only(path: Path) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "AUTO", video.THREADS
        return sum(1 for _ in container.decode(stream))


def obvious(path: Path, height: int, width: int) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        return sum(1 for picture in container.decode(stream)
                   if picture.reformat(width, height, "rgb24").to_ndarray() is not None)


def ffmpeg(program: str, path: Path, height: int, width: int) -> int:
    command = [program, "-v", "error", "-i", str(path), "-vf", f"scale={width}:{height}:flags=bilinear", "-pix_fmt",
               "rgb24", "-f", "rawvideo", "-"]
    count, size = 0, height * width * 3
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=1 << 22) as process:
        assert process.stdout is not None
        while len(data := process.stdout.read(size)) == size:
            np.frombuffer(data, np.uint8)
            count += 1
    return count


def error(path: Path, height: int, width: int) -> float:
    """Mean distance of every 40th picture from the slow reference."""
    exact = (Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
             | Interpolation.FULL_CHR_H_INP)
    ours = [image for i, (_, image) in enumerate(video.frames(path, (height, width))) if i % 40 == 0]
    off = []
    with av.open(str(path)) as container:
        for i, picture in enumerate(container.decode(video=0)):
            if i % 40 == 0 and i // 40 < len(ours):
                full = VideoReformatter().reformat(picture, picture.width, picture.height, "rgb24", interpolation=exact)
                planes = [Image.fromarray(full.to_ndarray()[..., k].astype(np.float32)).resize(
                    (width, height), Image.Resampling.BILINEAR) for k in range(3)]
                off.append(np.abs(ours[i // 40] - np.stack([np.asarray(p) for p in planes], -1)).mean())
    return float(np.mean(off))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--ffmpeg", default=shutil.which("ffmpeg"))
    parser.add_argument("--short-side", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    print(f"{'':38}{'decode':>8}{'ours':>8}{'obvious':>9}{'ffmpeg':>8}{'of decode':>11}{'of ffmpeg':>11}{'error':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for source in given.videos:
            for codec, lines in (("h264", None), ("h264", 1080), ("hevc", None), ("vp9", None), ("av1", None)):
                path = Path(folder) / f"{source.stem}_{codec}_{lines or 'own'}.mkv"
                encode(source, path, codec, lines, given.seconds)
                info = video.probe(path)
                factor = given.short_side / min(info.height, info.width)
                height, width = (2 * round(n * factor / 2) for n in (info.height, info.width))
                alone = best(lambda: decode_only(path))  # noqa: B023
                ours = best(lambda: sum(1 for _ in video.frames(path, (height, width))))  # noqa: B023
                plain = best(lambda: obvious(path, height, width))  # noqa: B023
                other = best(lambda: ffmpeg(given.ffmpeg, path, height, width)) if given.ffmpeg else float("nan")  # noqa: B023
                name = f"{source.stem[:14]} {codec} {info.width}x{info.height}"
                print(f"{name:38}{alone:>8.0f}{ours:>8.0f}{plain:>9.0f}{other:>8.0f}{ours / alone:>11.2f}"
                      f"{ours / other:>11.2f}{error(path, height, width):>7.2f}", flush=True)


if __name__ == "__main__":
    main()
