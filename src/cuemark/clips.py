"""Which windows of a video become clips, and how a clip is looked at.

Sampling follows TSP and CLAP (TSP section 4.1, CLAP section 4.1): a video is split into temporally contiguous
segments, *regions* here, that are foreground (an action) or background (none); a clip is 16 frames at 15 fps, 16/15 s;
five clips are taken from each region, at random places in training and at evenly spaced ones in testing.

Times are seconds of the video; frame ``k`` of a clip that starts at ``t`` is the frame shown at ``t + k / fps``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from cuemark import video
from cuemark.errors import CallError, DataError, within
from cuemark.segments import Truth, VideoTruth, times

T = TypeVar("T")
R = TypeVar("R")

TOLERANCE = 1e-4
"""Seconds by which a time may miss a frame's stamp and still mean it (stamps are rounded to the time base)."""
OPEN = 32
"""Videos kept open between two looks. Each holds a file and a decoder with its last frames: next to nothing for a
prepared video, some 30 MB for one in full HD, which makes a GB for all of them."""


@dataclass(frozen=True)
class ClipConfig:
    """How an encoder looks at video; it travels inside every encoder checkpoint."""

    frames: int = 16
    """Frames in a clip."""
    fps: float = 15.0
    """Frames per second of video time, whatever the file's rate (30 fps with a stride of 2 in the papers)."""
    short_side: int = 128
    """Frames are resized, aspect kept, until their shorter side has this many pixels (the papers)."""
    fixed_size: tuple[int, int] | None = None
    """(height, width) to resize to instead, aspect lost: (128, 171) is what TSP's release does."""
    crop: int = 112
    """Side of the square that is cut: at random in training, from the centre otherwise."""
    mean: tuple[float, float, float] = (0.43216, 0.394666, 0.37645)
    """RGB means of the release's normalisation, on a 0-1 scale."""
    std: tuple[float, float, float] = (0.22803, 0.22145, 0.216989)

    def __post_init__(self) -> None:
        for name, low in (("frames", 1), ("fps", 1e-3), ("short_side", 1), ("crop", 1)):
            within(f"clip.{name}", getattr(self, name), low)

    @property
    def seconds(self) -> float:
        """Length of a clip."""
        return self.frames / self.fps

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that frames of this size are resized to."""
        if self.fixed_size is not None:
            return self.fixed_size
        scale = self.short_side / min(height, width)
        return max(self.crop, round(height * scale)), max(self.crop, round(width * scale))

    def times(self, start: float) -> np.ndarray:
        """``(frames,)`` seconds at which a clip that starts at ``start`` is looked at."""
        return start + np.arange(self.frames) / self.fps


# ---------------------------------------------------------------------------------------------- regions


@dataclass(frozen=True, slots=True)
class Region:
    """A contiguous stretch of a video that is one action, or none."""

    video: str
    start: float
    end: float
    label: str | None
    """The action; None for background."""
    near: str | None
    """The action a background region is the background *of*: the nearest in time, the earlier of two (CLAP leaves it
    open: our choice)."""
    beside: tuple[bool, bool] = (False, False)
    """Whether an action lies before the start, and behind the end, of a background region."""

    @property
    def foreground(self) -> bool:
        return self.label is not None


@dataclass(frozen=True)
class Sampling:
    """How regions and clips are taken from annotated videos."""

    clips_per_region: int = 5
    """TSP section 4.1."""
    rule: Literal["union", "tsp"] = "union"
    """``union``: background is what no action covers. ``tsp``: the release's rule, which restarts the background at
    the end of the *last-started* action, so that it overlaps actions that contain others."""
    min_background: float = 1.0
    """Shortest background region, in clips (TSP's files: 5 on ActivityNet, 1 on THUMOS14)."""
    short: Literal["drop", "centre"] = "drop"
    """Regions shorter than a clip: dropped as in TSP, or given one clip around their middle."""
    flip: float = 0.5
    """Probability of a mirrored clip in training (TSP's release)."""
    p_caption: float = 0.5
    """Probability of the closest dense caption in place of the prompt (CLAP section 3.2)."""
    prompts: int = 1
    """Prompts that are drawn from, of those in :data:`cuemark.text.PROMPTS`; the paper has one."""
    clips_per_video: int = 1
    """Clips of one video that follow each other in an epoch's order. 1 mixes freely; more lets a batch read a video
    once for several clips, at the price of batches with fewer videos."""
    balance: Literal["regions", "classes"] = "regions"
    """``classes``, beyond the papers: an epoch of training shows every class equally often. Clips of rare classes are
    drawn more often and those of frequent ones less, each epoch others; background and the number of clips stay.
    ``regions``: every region equally often, so that a class counts as often as it was annotated."""
    ignore: float = 0.0
    """Seconds on either side of an action that are not taken for background, as annotators' borders are not exact.
    0, the papers: background begins where an action ends."""
    reach: float | None = None
    """Seconds from an action up to which unlabelled time is taken for background; None, the papers: the whole video.
    For footage that is annotated in part: whoever set an action's border has watched what lies beside it, but far from
    any annotation nobody may have looked."""
    near: float = 0.0
    """Probability, beyond the papers, that a clip of background is taken right beside an action: it lies at most its
    own length from a border of its region behind which an action lies. In training only. 0: anywhere in the region."""

    def __post_init__(self) -> None:
        for name, low, high in (("clips_per_region", 1, None), ("min_background", 0, None), ("flip", 0, 1),
                                ("p_caption", 0, 1), ("prompts", 1, None), ("clips_per_video", 1, None),
                                ("ignore", 0, None), ("near", 0, 1)):
            within(f"sampling.{name}", getattr(self, name), low, high)
        if self.reach is not None:
            within("sampling.reach", self.reach, 0)
            if self.reach <= self.ignore:
                raise CallError(f"sampling.reach = {self.reach} leaves no background beside sampling.ignore = "
                                f"{self.ignore}; make reach the larger of the two.")


def background(actions: np.ndarray, duration: float, shortest: float, rule: Literal["union", "tsp"] = "union"
               ) -> np.ndarray:
    """The background intervals of a video.

    Args:
        actions: ``(n, 2)`` starts and ends in seconds.
        duration: of the video, in seconds.
        shortest: intervals shorter than this many seconds are left out.
        rule: see :attr:`Sampling.rule`. ``tsp`` reproduces the background rows of the release's CSV files.

    Returns:
        ``(m, 2)`` seconds, in order.
    """
    found, current = [], 0.0
    for start, end in actions[np.argsort(actions[:, 0], kind="stable")]:
        if start - current >= shortest:
            found.append((current, start))
        current = end if rule == "tsp" else max(current, end)
    if duration - current >= shortest:
        found.append((current, duration))
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def regions(video_id: str, truth: VideoTruth, clip_seconds: float, sampling: Sampling, with_background: bool = True
            ) -> list[Region]:
    """The foreground regions of a video, then its background ones.

    Times are clipped to the video first; what is then shorter than a clip is dropped (``sampling.short``). Background
    is what ``sampling`` takes for it: its ``rule``, ``min_background``, ``ignore`` and ``reach``.
    """
    actions = [s for s in truth.annotations if s.label is not None]
    found = [Region(video_id, s.start, s.end, s.label, s.label) for s in actions]
    if with_background and actions:
        shortest = sampling.min_background * clip_seconds
        taken = times(actions) + np.array([-1.0, 1.0]) * sampling.ignore
        unseen = np.zeros((0, 2))
        if sampling.reach is not None:
            watched = times(actions) + np.array([-1.0, 1.0]) * sampling.reach
            unseen = background(watched, truth.duration, 0.0)
            unseen = unseen[unseen[:, 1] > unseen[:, 0]]
        for start, end in background(np.concatenate([taken, unseen]), truth.duration, shortest, sampling.rule):
            nearest = min(actions, key=lambda s: (max(s.start - end, start - s.end), s.start))
            beside = bool((taken[:, 1] == start).any()), bool((taken[:, 0] == end).any())
            found.append(Region(video_id, float(start), float(end), None, nearest.label, beside))
    kept = []
    for r in found:
        start, end = max(r.start, 0.0), min(r.end, truth.duration)
        if end - start >= clip_seconds - 1e-9 or (sampling.short == "centre" and end > start):
            kept.append(replace(r, start=start, end=end))
    return kept


def clip_start(region: Region, clip_seconds: float, duration: float, place: float) -> float:
    """Where a clip of a region starts, in seconds.

    ``place`` in [0, 1] slides it from the region's start to its end: uniform random numbers in training, evenly
    spaced ones in testing. A clip longer than its region is centred on it, inside the video where that is possible.
    """
    slack = region.end - region.start - clip_seconds
    if slack >= 0:
        return region.start + place * slack
    return max(0.0, min(region.start + slack / 2, duration - clip_seconds))


def place_beside(region: Region, clip_seconds: float, place: float) -> float:
    """The ``place`` of :func:`clip_start` that puts a clip right beside an action.

    Of the clips of a background region that are at most a clip's length from an action, before and behind, ``place`` in
    [0, 1] chooses one. With no action beside it, or no room to choose, ``place`` stays what it is.
    """
    slack = region.end - region.start - clip_seconds
    sides = [side for side, there in enumerate(region.beside) if there]
    if slack <= 0 or not sides:
        return place
    part = place * len(sides)
    number = min(int(part), len(sides) - 1)
    away = (part - number) * min(1.0, clip_seconds / slack)
    return 1 - away if sides[number] else away


# ---------------------------------------------------------------------------------------------- frames of clips


class FrameReader:
    """Resized frames of many videos by time.

    Videos that fit a memory budget are decoded once and kept; of the others, the :data:`OPEN` last used stay open. All
    ways return the frame shown at a time, so what a clip looks like does not depend on the budget. Safe to call from
    several threads.
    """

    def __init__(self, clip: ClipConfig, budget_bytes: float = 2e9) -> None:
        self.clip = clip
        self._left = budget_bytes
        self._lock = threading.Lock()
        self._locks: dict[Path, threading.Lock] = {}
        self._infos: dict[Path, video.VideoInfo] = {}
        self._kept: dict[Path, tuple[np.ndarray, np.ndarray]] = {}
        self._idle: dict[Path, video.Reader] = {}  # the last used last; who reads with one takes it out meanwhile

    def read(self, path: Path, seconds: np.ndarray) -> np.ndarray:
        """The frames shown at ``seconds``; the first or last one beyond the video's ends.

        Args:
            seconds: of any shape, for example ``(k, n)`` for k clips of n frames: they are read in one pass.

        Returns:
            ``(*seconds.shape, H, W, 3)`` uint8.
        """
        with self._lock:
            lock = self._locks.setdefault(path, threading.Lock())
        with lock:
            if path not in self._kept and path not in self._infos:
                self._open(path)
        if path in self._kept:
            stamps, images = self._kept[path]
            return images[(np.searchsorted(stamps, seconds + TOLERANCE, side="right") - 1).clip(0)]
        info = self._infos[path]
        with self._reader(path) as reader:
            images = reader.at(seconds.ravel(), self.clip.size(info.height, info.width))
        return images.reshape(*seconds.shape, *images.shape[1:])

    def close(self) -> None:
        """Let go of the files that are open; another :meth:`read` opens them again."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for reader in idle.values():
            reader.close()

    @contextmanager
    def _reader(self, path: Path) -> Iterator[video.Reader]:
        """An open reader for this thread alone; where others use that of the video, another one."""
        with self._lock:
            reader = self._idle.pop(path, None) or video.Reader(path)
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        with self._lock:
            surplus = [self._idle.pop(path)] if path in self._idle else []
            self._idle[path] = reader
            surplus += [self._idle.pop(oldest) for oldest in list(self._idle)[:-OPEN]]
        for other in surplus:
            other.close()

    def _open(self, path: Path) -> None:
        info = video.probe(path)
        height, width = self.clip.size(info.height, info.width)
        cost = info.frames * height * width * 3
        with self._lock:
            keep = cost <= self._left
            self._left -= cost if keep else 0
        if keep:
            stamps, images = zip(*video.frames(path, (height, width)), strict=True)
            self._kept[path] = np.array(stamps), np.stack(images)
        self._infos[path] = info


def cut(frames: np.ndarray, crop: int, rng: np.random.Generator | None = None, flip: float = 0.0) -> np.ndarray:
    """Cut a ``crop`` x ``crop`` square from ``(T, H, W, 3)`` frames: centred, or at random when ``rng`` is given."""
    height, width = frames.shape[1:3]
    if rng is None:
        top, left = round((height - crop) / 2), round((width - crop) / 2)
    else:
        top, left = int(rng.integers(height - crop + 1)), int(rng.integers(width - crop + 1))
    square = frames[:, top : top + crop, left : left + crop]
    if rng is not None and rng.random() < flip:
        square = square[:, :, ::-1]
    return square


# ---------------------------------------------------------------------------------------------- a set of clips


@dataclass(frozen=True)
class Clip:
    """One drawn clip, before any tensor: its pixels and what is known about it."""

    frames: np.ndarray
    """``(T, crop, crop, 3)`` uint8."""
    region: Region
    start: float
    end: float


@dataclass
class ClipSet:
    """All clips of annotated videos, drawn by number; every draw depends on (seed, epoch, number) alone.

    Raises:
        DataError: a video of the truth has no file, or no region is left to sample from.
    """

    truth: Truth
    videos: Mapping[str, Path]
    clip: ClipConfig
    sampling: Sampling = field(default_factory=Sampling)
    with_background: bool = True
    training: bool = True
    seed: int = 0
    budget_bytes: float = 2e9

    def __post_init__(self) -> None:
        missing = [v for v in self.truth if v not in self.videos]
        if missing:
            raise DataError(f"{len(missing)} of {len(self.truth)} annotated videos have no file, '{missing[0]}' first; "
                            "check the videos folder, or leave them out of the truth.")
        self.regions = [r for vid, v in self.truth.items()
                        for r in regions(vid, v, self.clip.seconds, self.sampling, self.with_background)]
        if not any(r.foreground for r in self.regions):
            raise DataError(f"no annotated action of these {len(self.truth)} videos is as long as one clip "
                            f"({self.clip.seconds:.2f} s); annotate longer ones or use sampling.short = \"centre\".")
        self.reader = FrameReader(self.clip, self.budget_bytes)

    def __len__(self) -> int:
        return len(self.regions) * self.sampling.clips_per_region

    def draw(self, number: int, epoch: int = 0) -> tuple[Clip, np.random.Generator]:
        """Clip ``number`` of an epoch, and the generator that drew it (for draws that depend on it)."""
        (drawn,) = self.draw_together([number], epoch)
        return drawn

    def draw_together(self, numbers: Sequence[int], epoch: int = 0) -> list[tuple[Clip, np.random.Generator]]:
        """What :meth:`draw` gives for each of some clips of *one* video, which is read in one pass."""
        n = self.sampling.clips_per_region
        rngs = [np.random.default_rng((self.seed, epoch, number)) for number in numbers]
        chosen = [self.regions[number % len(self.regions)] for number in numbers]
        (name,) = {region.video for region in chosen}
        starts = []
        for number, region, rng in zip(numbers, chosen, rngs, strict=True):
            even = (number // len(self.regions)) / (n - 1) if n > 1 else 0.5
            place = rng.random() if self.training else even
            near = self.sampling.near if self.training and not region.foreground else 0.0
            if near and rng.random() < near:  # no draw where it is off: clips stay those they were
                place = place_beside(region, self.clip.seconds, place)
            starts.append(clip_start(region, self.clip.seconds, self.truth[name].duration, place))
        frames = self.reader.read(self.videos[name], np.stack([self.clip.times(start) for start in starts]))
        drawn = []
        for seen, region, start, rng in zip(frames, chosen, starts, rngs, strict=True):
            square = cut(seen, self.clip.crop, rng if self.training else None, self.sampling.flip)
            drawn.append((Clip(square.copy(), region, start, start + self.clip.seconds), rng))
        return drawn

    def by_video(self, numbers: Iterable[int]) -> list[list[int]]:
        """The numbers of each video's clips, both in the order in which they are met."""
        found: dict[str, list[int]] = {}
        for number in numbers:
            found.setdefault(self.regions[number % len(self.regions)].video, []).append(number)
        return list(found.values())

    def order(self, epoch: int) -> np.ndarray:
        """The numbers of an epoch in the order they are drawn: shuffled in training.

        Clip ``number`` is of region ``number % len(regions)``. With ``sampling.balance = "classes"`` an epoch has
        other numbers of foreground, as many, of every class equally many (where that leaves a remainder, chance says
        in each epoch which classes get one more). With ``sampling.clips_per_video`` above 1, groups of so many clips
        of one video, drawn together at random, are shuffled; a video's last group may be smaller.
        """
        if not self.training:
            return np.arange(len(self))
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self) if self.sampling.balance == "regions" else self._balanced(rng))
        size = self.sampling.clips_per_video
        if size == 1:
            return order
        groups = [own[i : i + size] for own in self.by_video(order.tolist()) for i in range(0, len(own), size)]
        return np.concatenate([groups[i] for i in rng.permutation(len(groups))])

    def _balanced(self, rng: np.random.Generator) -> np.ndarray:
        """As many numbers as there are clips: all of background, and of every class equally many.

        A region's numbers are its index plus multiples of the number of regions. One that is drawn more often than
        ``clips_per_region`` says goes on counting: no number comes twice, and every clip is another.
        """
        each, count = self.sampling.clips_per_region, len(self.regions)
        classes: dict[str, list[int]] = {}
        numbers = []
        for i, region in enumerate(self.regions):
            if region.label is not None:
                classes.setdefault(region.label, []).append(i)
            else:
                numbers += [i + count * time for time in range(each)]
        share, more = divmod(count * each - len(numbers), len(classes))
        favoured = set(rng.permutation(len(classes))[:more].tolist())
        for k, members in enumerate(classes.values()):
            turn = rng.permutation(members).tolist()
            numbers += [turn[j % len(turn)] + count * (j // len(turn)) for j in range(share + (k in favoured))]
        return np.array(numbers)


def ahead(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """``map`` that works a few items ahead in threads (decoding lets go of the interpreter); order is kept."""
    if workers <= 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting = []
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def clip_count(duration: float, clip: ClipConfig, stride: int) -> tuple[int, int]:
    """How many frames at ``clip.fps`` a video of ``duration`` seconds has, and how many clips every ``stride`` frames.

    TSP's extraction: ``F' = ceil(duration · fps)``, ``N = floor((F' - frames) / stride) + 1``; a video shorter than a
    clip gives one clip, padded by repeating its last frame.
    """
    frames = max(1, math.ceil(duration * clip.fps - 1e-6))
    return frames, max(0, (frames - clip.frames) // stride) + 1
