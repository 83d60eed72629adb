"""Random clips for training: how many a second, read in which way, and what reading several of a video at once costs.

    python benchmarks/clips.py [VIDEO...] [--rounds 5] [--clips 16] [--short-side 128] [--no-mixing]

Reading. A clip is 16 frames at 15 fps from a uniformly random place of a video, at ``--short-side``, as pre-training
takes them. Each video is read as it is ("raw") and as ``cuemark.preparation`` makes it (30 fps, a keyframe every 16
frames), in each of these ways:

    plain           open the file, seek, decode what the clip spans, keep 16 frames, resize each; PyAV and nothing else
    fresh           ``video.frames_at``, which does the same with all of the care that odd files need
    kept open       ``video.Reader``, one call for each clip
    k in one pass   ``video.Reader``, one call for k clips of the video, whose places are drawn independently

All ways read the same ``--clips`` clips of a video in a round, one way after the other, the first of them a different
one each round; a round before the first warms caches up and is not counted. What is printed is the median over the
rounds of clips a second, for each video and over all (all clips by all seconds), and its ratio to *plain* on the raw
file. Wall time, one reading thread (FFmpeg's own, where *plain* and *fresh* have them, come on top), warm file cache.
Files are opened before the clock runs for the readers: they stay open for thousands of clips.

Mixing. The built-in world stands in for a data set. For each ``sampling.clips_per_video``: distinct videos and classes
in a batch of 32, means over an epoch, and the median milliseconds that a batch takes, over eight of each setting made
in turn after a first one (no video kept in memory; no workers, so that a batch's work lies between its two ends). The
world has few videos, so some are met twice in a batch by chance; of a data set with many more, a batch would mix
``32 / clips_per_video``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from cuemark import video
from cuemark.batch import ClipBatch
from cuemark.clips import ClipConfig, ClipSet, Sampling
from cuemark.datasets import world
from cuemark.preparation import prepare
from cuemark.pretraining.data import ClipData

ROOT = Path(__file__).resolve().parents[2] / "shared/data/videos/untrimmed"
TOGETHER = (4, 8, 16)
PER_VIDEO = (1, 2, 4, 8)
BATCH, TIMED = 32, 8

Way = Callable[[np.ndarray], object]
"""Reads clips, given their ``(k, 16)`` seconds."""


def plain(path: Path, times: np.ndarray, height: int, width: int) -> np.ndarray:
    """One clip, as one would write it down; for files whose first picture is at 0 and that do nothing strange."""
    images: list[np.ndarray] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        assert stream.time_base is not None
        container.seek(int(times[0] / stream.time_base), stream=stream)
        before = None
        for picture in container.decode(stream):
            while before is not None and len(images) < len(times) and picture.time > times[len(images)] + 1e-4:
                images.append(before.reformat(width, height, "rgb24").to_ndarray())
            before = picture
            if len(images) == len(times):
                break
        assert before is not None
        while len(images) < len(times):
            images.append(before.reformat(width, height, "rgb24").to_ndarray())
    return np.stack(images)


def ways_of(kind: str, path: Path, size: tuple[int, int], reader: video.Reader) -> dict[tuple[str, str], Way]:
    def together(k: int) -> Way:
        return lambda clips: [reader.at(clips[i : i + k].ravel(), size) for i in range(0, len(clips), k)]

    return {(kind, "plain"): lambda clips: [plain(path, times, *size) for times in clips],
            (kind, "fresh"): lambda clips: [video.frames_at(path, times, size) for times in clips],
            (kind, "kept open"): together(1),
            **{(kind, f"{k} in one pass"): together(k) for k in TOGETHER}}


def seconds_of(raw: Path, prepared: Path, short_side: int, rounds: int, count: int
               ) -> dict[tuple[str, str], list[float]]:
    """Seconds for ``count`` clips, by way and round."""
    clip, info = ClipConfig(short_side=short_side, crop=min(112, short_side)), video.probe(raw)
    length = min(info.duration, video.probe(prepared).duration) - clip.seconds
    rng = np.random.default_rng(0)
    with video.Reader(raw) as first, video.Reader(prepared) as second:
        ways = {**ways_of("raw", raw, clip.size(info.height, info.width), first),
                **ways_of("prepared", prepared, clip.size(info.height, info.width), second)}
        names = list(ways)
        taken: dict[tuple[str, str], list[float]] = {name: [] for name in names}
        for number in range(rounds + 1):
            clips = rng.uniform(0, length, count)[:, None] + clip.times(0.0)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                began = time.perf_counter()
                ways[name](clips)
                if number:
                    taken[name].append(time.perf_counter() - began)
    return taken


def show(title: str, count: int, taken: dict[tuple[str, str], list[float]]) -> None:
    rate = {name: count / statistics.median(seconds) for name, seconds in taken.items()}
    print(f"\n{title}\n{'clips a second':18}{'raw':>8}{'ratio':>7}{'prepared':>10}{'ratio':>7}")
    for way in dict.fromkeys(way for _, way in rate):
        print(f"{way:18}" + "".join(f"{rate[kind, way]:{width}.1f}{rate[kind, way] / rate['raw', 'plain']:7.2f}"
                                    for kind, width in (("raw", 8), ("prepared", 10))), flush=True)


def mixing(folder: Path) -> None:
    made = world.make(world.WorldConfig(trimmed=1, validation=1, testing=1, novel=0), folder)
    truth = {vid: v for vid, v in made.truth.items() if v.subset == "training"}
    classes = sorted({s.label for v in truth.values() for s in v.annotations if s.label})
    clip = ClipConfig()
    sets = {k: ClipSet(truth, made.videos, clip, Sampling(clips_per_video=k), budget_bytes=0) for k in PER_VIDEO}
    print(f"\nbatches of {BATCH} of {len(sets[1])} clips of {len(truth)} videos with {len(classes)} classes\n"
          f"{'clips_per_video':>16}{'videos':>8}{'classes':>9}{'ms a batch':>12}")
    epochs: dict[int, Iterator[ClipBatch]] = {
        k: ClipData(clips, classes, BATCH, workers=0).epoch(0) for k, clips in sets.items()}
    waited: dict[int, list[float]] = {k: [] for k in PER_VIDEO}
    for _ in range(TIMED + 1):
        for k, batches in epochs.items():
            began = time.perf_counter()
            next(batches)
            waited[k].append(1e3 * (time.perf_counter() - began))
    for k, clips in sets.items():
        order = clips.order(0)
        batches = order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
        found = [[clips.regions[n % len(clips.regions)] for n in batch] for batch in batches]
        videos = statistics.mean(len({r.video for r in regions}) for regions in found)
        labels = statistics.mean(len({r.label for r in regions if r.label}) for regions in found)
        print(f"{k:16}{videos:8.1f}{labels:9.1f}{statistics.median(waited[k][1:]):12.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="random clips a second, and how batches mix")
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--short-side", type=int, default=128)
    parser.add_argument("--no-mixing", action="store_true")
    given = parser.parse_args()
    videos = given.videos or [ROOT / "one-by-one-person-detection.mp4", ROOT / "women_long_jump.mp4"]
    total: dict[tuple[str, str], np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "prepared"
        prepare(videos, out, short_side=given.short_side, keyframe_every=16)
        for path in videos:
            taken = seconds_of(path, out / f"{path.stem}.mp4", given.short_side, given.rounds, given.clips)
            info = video.probe(path)
            show(f"{path.name}: {info.codec}, {info.width}x{info.height}, {info.duration:.0f} s, {info.fps:.1f} fps",
                 given.clips, taken)
            for name, seconds in taken.items():
                total[name] = total.get(name, np.zeros(len(seconds))) + seconds
        show(f"all {len(videos)} videos", given.clips * len(videos), {k: v.tolist() for k, v in total.items()})
        if not given.no_mixing:
            mixing(Path(folder) / "world")


if __name__ == "__main__":
    main()
