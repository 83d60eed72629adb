"""What dense keyframes cost (bytes) and give (quicker random clips).

    python benchmarks/keyframes.py [VIDEO…] [--short-side 128] [--clips 100]

Method. Each video is prepared (``cuemark.preparation``, 30 fps, quality 23) with a keyframe every 8, 16, 32, 64 and 250
frames; 250 is x264's own choice, and the ratios are against it. Then the same random clips, 16 frames at 15 fps as the
papers take them, are read from each by ``cuemark.video.frames_at``, one call per clip, as training does: open, seek,
decode, convert. All files are read in turn for every clip, three times, and a clip counts with its fastest reading, so
that a busy machine and the order change little. Milliseconds of wall time on a warm file cache; "p90" is what nine of
ten clips stay below. By default: the two longest real videos beside the checkout (../shared/data/videos/untrimmed).

Found on two cores of an AMD EPYC with PyAV 18.1: a keyframe every 16 frames makes a clip 2.0 and 2.4 times as quick as
250 (7 against 15 and 18 ms at 128 pixels; the same ratios at 360) for 1.9 and 1.3 times the bytes (1.6 and 1.2 at 360);
every 8 is no quicker and costs up to 2.6 times. Every 32 is 4 to 10 % slower than 16 and 9 to 20 % smaller.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from cuemark import video
from cuemark.clips import ClipConfig
from cuemark.preparation import prepare

EVERY = (8, 16, 32, 64, 250)
ROOT = Path(__file__).resolve().parents[2] / "shared/data/videos/untrimmed"


def latencies(files: list[Path], clips: int) -> np.ndarray:
    """``(files, clips)`` milliseconds."""
    clip, length = ClipConfig(), video.probe(files[0]).duration
    starts = np.random.default_rng(0).uniform(0, length - clip.seconds, clips)
    taken = np.full((len(files), clips), np.inf)
    for _ in range(3):
        for number, start in enumerate(starts):
            for row, file in enumerate(files):
                began = time.perf_counter()
                video.frames_at(file, clip.times(start))
                taken[row, number] = min(taken[row, number], 1e3 * (time.perf_counter() - began))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description="cost and gain of dense keyframes")
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--short-side", type=int, default=128)
    parser.add_argument("--clips", type=int, default=100)
    options = parser.parse_args()
    videos = options.videos or [ROOT / "one-by-one-person-detection.mp4", ROOT / "women_long_jump.mp4"]
    with tempfile.TemporaryDirectory() as folder:
        for path in videos:
            files = []
            for every in EVERY:
                out = Path(folder) / str(every)
                prepare([path], out, short_side=options.short_side, keyframe_every=every, workers=1)
                files.append(out / f"{path.stem}.mp4")
            info = video.probe(files[0])
            sizes = np.array([file.stat().st_size for file in files])
            taken = latencies(files, options.clips)
            mean = taken.mean(1)
            print(f"\n{path.name}: {info.width}x{info.height}, {info.duration:.0f} s; "
                  f"{options.clips} clips of 16 frames at 15 fps")
            print(f"{'keyframe every':>14} {'kB':>8} {'ratio':>6} {'ms a clip':>10} {'p90':>6} {'ratio':>6}")
            for row, every in enumerate(EVERY):
                print(f"{every:14} {sizes[row] / 1e3:8.0f} {sizes[row] / sizes[-1]:6.2f} {mean[row]:10.1f} "
                      f"{np.quantile(taken[row], 0.9):6.1f} {mean[row] / mean[-1]:6.2f}", flush=True)


if __name__ == "__main__":
    main()
