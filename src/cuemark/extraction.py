"""Encoder over whole videos: clips to features, in a folder that says what it holds.

Every frame is decoded once; overlapping clips are windows over that stream. Clip ``i`` starts ``i · stride`` frames
(at the encoder's ``fps``) into the video, as in TSP's extraction; what is left at the end is dropped, and a video
shorter than one clip is padded by repeating its last frame, and says so.

Dataflow::

    files -> reader threads: probe, decode, scale, crop, cut clips (crops, T, h, w, 3) uint8
          -> batches of one size, of whatever videos are being read (a bounded queue)
          -> encoder threads: normalise, network -> rows (C,) -> their place in their video's file

On a CPU there are as many encoder threads as cores, each computing on one of them: that is faster than one batch on all
cores, and a feature's bytes then depend neither on their number nor on the clip's neighbours. On a GPU there are two,
each with a stream of its own, so that copies hide behind the network.

What comes of it is a features folder (:mod:`cuemark.feature_folder`). Files are written to a temporary name and
renamed; a run that was killed goes on where it was and ends with the same bytes.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from cuemark import video
from cuemark.batch import normalised
from cuemark.checkpoint import software
from cuemark.clips import ClipConfig, clip_count, cut
from cuemark.encoders import backends
from cuemark.encoders.backends import Backend, Run
from cuemark.encoders.clip import ImageTower
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, CuemarkError, VideoError, unknown, within
from cuemark.feature_folder import Book, state
from cuemark.folders import locked, sweep, unwritable
from cuemark.grid import Features, Grid
from cuemark.progress import Bar

T = TypeVar("T")
IDLE = 0.5
"""Seconds without news after which whoever waits is told how far it is."""
PAUSE = 1.0
"""Seconds between two looks at what has been read of a video, at least (:func:`growing`)."""

@dataclass(frozen=True)
class ExtractConfig:
    """How videos become features; all of it is written into the folder."""

    stride: int | None = None
    """Frames between the starts of clips; None: one clip length (:meth:`step`)."""
    fps: float | None = None
    """Frames a second that clips are made of; None: what the encoder was trained with."""
    crops: Literal[1, 3] = 1
    """Squares of each frame: the centre, or three along its longer side, whose features are averaged."""
    pooling: Literal["mean", "max"] = "mean"
    """Over time and space of the encoder's last layer."""
    bf16: bool = False
    """Compute in bf16 where the hardware does."""
    backend: Backend = "eager"
    """What computes the network."""
    dtype: Literal["float16", "float32"] = "float32"
    """On disk."""
    batch: int | None = None
    """Clips encoded at a time by each thread; None: :meth:`rows`. No feature depends on it by more than rounding."""

    def __post_init__(self) -> None:
        if self.stride is not None:
            within("stride", self.stride, 1)
        if self.batch is not None:
            within("batch", self.batch, 1)
        if self.fps is not None:
            within("fps", self.fps, 1e-3, 1000)
        if self.crops not in (1, 3):
            raise CallError(f"crops must be 1 or 3, got {self.crops}.")
        for name, known in (("pooling", ("mean", "max")), ("dtype", ("float16", "float32"))):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)

    def clip(self, encoder: VideoEncoder) -> ClipConfig:
        """How clips are looked at."""
        return encoder.clip if self.fps is None else replace(encoder.clip, fps=float(self.fps))

    def step(self, encoder: VideoEncoder) -> int:
        """Frames between the starts of clips."""
        return encoder.clip.frames if self.stride is None else self.stride

    def rows(self, encoder: VideoEncoder, device: torch.device) -> int:
        """Clips of a batch. A thread on one core is fastest with about 400,000 pixels at a time, 2 clips of 112 x 112
        or 24 of 32 x 32 (``docs/notes.md``); a GPU wants more."""
        if self.batch is not None:
            return max(1, self.batch // self.crops)
        clip = self.clip(encoder)
        pixels = clip.frames * clip.crop**2 * self.crops
        return max(1, min(32, 400_000 // pixels)) if device.type == "cpu" else max(1, 64 // self.crops)

    def described(self, encoder: VideoEncoder) -> dict[str, Any]:
        """What tells these features from others, as :data:`MANIFEST` says it."""
        return {
            "software": software(), "encoder": encoder.name, "weights": encoder.weights, "dim": encoder.dim,
            "clip": {**asdict(self.clip(encoder)), "stride": self.step(encoder)}, "crops": self.crops,
            "pooling": self.pooling, "dtype": self.dtype, "scaling": video.SCALING,
            "precision": "bf16" if self.bf16 else "fp32", "backend": self.backend,
        }

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> ExtractConfig:
        """The inverse of :meth:`described`, for raw videos that a localizer shall see as it saw others in training.

        What computes the network, and what it is written as, is no part of that.
        """
        clip = described["clip"]
        return cls(stride=int(clip["stride"]), fps=float(clip["fps"]), crops=described.get("crops", 1),
                   pooling=described.get("pooling", "mean"), bf16=described.get("precision") == "bf16")


def chosen(device: str) -> torch.device:
    """A device by its name; ``"auto"`` is a GPU where there is one.

    Raises:
        CallError: there is no such device here.
    """
    try:
        found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError:
        raise CallError(f"'{device}' is no device; use auto, cpu, cuda or cuda:1.") from None
    if found.type not in ("cpu", "cuda") or (found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count()):
        raise CallError(f"device '{device}' is not here; PyTorch sees {torch.cuda.device_count()} CUDA devices: use "
                        "cpu, or install a CUDA build of PyTorch.")
    return found


# ---------------------------------------------------------------------------------------------- one video


def features_of(path: str | Path, encoder: VideoEncoder, config: ExtractConfig | None = None, *,
                workers: int | None = None, device: torch.device | str = "cpu") -> tuple[Features, bool]:
    """Features of one video in float32, and whether it was shorter than a clip and padded.

    Args:
        workers: threads that encode on a CPU; None: as many as PyTorch would use cores.

    Raises:
        VideoError: the file cannot be used.
    """
    pipeline = _Pipeline({"": (Path(path), None)}, encoder, config or ExtractConfig(), workers, device)
    with closing(pipeline.settled()) as settled:
        outcome = next(event[1] for event in settled if event is not None)
    if isinstance(outcome, CuemarkError):
        raise outcome
    return outcome.features(), outcome.padded


def growing(path: str | Path, encoder: VideoEncoder, config: ExtractConfig | None = None, *, early: bool = True,
            workers: int | None = None, device: torch.device | str = "cpu") -> Iterator[tuple[Features, bool]]:
    """Features of one video while it is read, and whether of all of it: of its beginning, of more of it, of all.

    A part's ``duration`` is where it ends, as if the video did. Reading goes on while somebody looks at a part; the
    next comes after nine times as long as that took, or a second: a tenth of the time goes into looking, and what is
    under way when the reading ends.

    Args:
        early: False: only of all of it.
        workers: see :func:`features_of`.

    Raises:
        VideoError: the file cannot be used, which may show after some of its parts have come.
    """
    pipeline = _Pipeline({"": (Path(path), None)}, encoder, config or ExtractConfig(), workers, device)
    outcome: _Video | CuemarkError | None = None
    due, count = time.monotonic() + PAUSE, 0
    with closing(pipeline.settled()) as settled:
        for event in settled:
            if event is not None:
                outcome = event[1]
            elif early and (now := time.monotonic()) >= due and (one := pipeline.begun.get("")) is not None and (
                    more := one.leading()) > count:
                count = more
                yield one.features(count), False
                due = time.monotonic() + max(PAUSE, 9 * (time.monotonic() - now))
    if isinstance(outcome, CuemarkError):
        raise outcome
    assert outcome is not None
    yield outcome.features(), True


def clips_of(info: video.VideoInfo, clip: ClipConfig, stride: int, crops: int) -> Iterator[np.ndarray]:
    """The clips of a video that start every ``stride`` frames: ``(crops, T, crop, crop, 3)`` uint8.

    The last frame is repeated where the video is shorter than a clip.
    """
    frames, count = clip_count(info.duration, clip, stride)
    needed = (count - 1) * stride + clip.frames
    pictures = video.frames_every(info.path, 1 / clip.fps, min(frames, needed), clip.size(info.height, info.width))
    window: list[np.ndarray] = []
    skip = 0  # frames between two clips, when the stride is longer than a clip
    picture: np.ndarray | None = None
    for _ in range(needed):
        picture = next(pictures, picture)
        assert picture is not None
        if skip:
            skip -= 1
            continue
        window.append(_squares(picture, clip.crop, crops))
        if len(window) == clip.frames:
            yield np.stack(window, axis=1)
            skip = max(0, stride - clip.frames)
            window = window[stride:]


def _squares(picture: np.ndarray, side: int, crops: int) -> np.ndarray:
    """``(crops, side, side, 3)`` of ``(H, W, 3)``: the centre; or both ends and the centre of the longer side."""
    centre = cut(picture[None], side)
    if crops == 1:
        return centre
    height, width = picture.shape[:2]
    top, left = round((height - side) / 2), round((width - side) / 2)
    first, last = (((top, 0), (top, width - side)) if width >= height else ((0, left), (height - side, left)))
    ends = [picture[y : y + side, x : x + side] for y, x in (first, last)]
    return np.stack([ends[0], centre[0], ends[1]])


# ---------------------------------------------------------------------------------------------- many videos


class _Video:
    """A video on its way: what is known of it, where its rows go, and how many are missing."""

    def __init__(self, path: Path, target: Path | None, encoder: VideoEncoder, config: ExtractConfig) -> None:
        self.path, self.target = path, target
        self.before, self.mark = state(path), video.mark(path)
        self.info = video.probe(path)
        self.duration = self.info.duration
        clip = config.clip(encoder)
        frames, self.count = clip_count(self.duration, clip, config.step(encoder))
        self.padded = frames < clip.frames
        self.grid = Grid.of_clips(self.count, config.step(encoder), clip.frames, clip.fps)
        self.missing = self.count
        self.broken = False
        self.lock = threading.Lock()
        self.dtype = np.dtype(config.dtype if target is not None else np.float32)
        self.rows = np.empty((self.count, encoder.dim), self.dtype) if target is None else None
        self.there = np.zeros(self.count, bool)
        self.handle, self.temporary, self.offset = -1, "", 0
        if target is not None:
            self.handle, self.temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
            with open(self.handle, "wb", closefd=False) as file:
                np.lib.format.write_array_header_1_0(file, {
                    "descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False,
                    "shape": (self.count, encoder.dim)})
                self.offset = file.tell()

    def put(self, number: int, row: np.ndarray) -> bool:
        """Place a row; whether it was the last one missing. Rows come in any order."""
        if self.rows is not None:
            self.rows[number] = row
        else:
            data = np.ascontiguousarray(row, self.dtype).tobytes()
            with self.lock:
                if self.broken:
                    return False
                if os.pwrite(self.handle, data, self.offset + number * len(data)) != len(data):
                    raise OSError(28, os.strerror(28))  # a short write is a full disk
        with self.lock:
            self.there[number] = True
            self.missing -= 1
            return self.missing == 0 and not self.broken

    def leading(self) -> int:
        """How many rows there are from the first to the first that is missing."""
        return int(np.append(self.there, False).argmin())

    def features(self, count: int | None = None) -> Features:
        """Its rows in memory; the first ``count`` as if the video ended with them."""
        assert self.rows is not None
        if count is None:
            return Features(self.rows, self.grid, self.duration)
        grid = replace(self.grid, count=count)
        return Features(self.rows[:count], grid, min(self.duration, float(grid.windows[-1, 1])))

    def finish(self) -> None:
        """All rows are there: under the final name with them."""
        if self.before != state(self.path):
            self.discard()
            raise VideoError(f"video '{self.path}' changed while it was being read; run the same again.")
        if self.target is not None:
            os.fchmod(self.handle, 0o644)
            os.fsync(self.handle)
            os.close(self.handle)
            self.handle = -1
            os.replace(self.temporary, self.target)

    def discard(self) -> None:
        """Nothing comes of it: rows that are still on their way are dropped."""
        with self.lock:
            self.broken = True
            if self.handle >= 0:
                os.close(self.handle)
                Path(self.temporary).unlink(missing_ok=True)
                self.handle = -1

    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"grid": self.grid.to_json(), "duration": self.duration, "padded": self.padded, "mark": self.mark}


Item = tuple[str, _Video, int, np.ndarray]
"""Id, video, and a clip of it: its number and its squares."""


class _Stopped(Exception):
    """Somebody ended the run; threads leave."""


def runner(encoder: VideoEncoder, config: ExtractConfig, device: torch.device | str) -> Run:
    """The network made ready for batches of ``config``; a program that has many pipelines makes it once.

    Raises:
        CallError: see :func:`cuemark.encoders.backends.ready`; a backend that does not compute on ``device``; or an
            image tower whose features depend on a frame's place in a row of them.
    """
    device, clip = torch.device(device), config.clip(encoder)
    if isinstance(encoder.network, ImageTower) and encoder.network.config.pooling == "frame":
        raise CallError("this image tower has a token for each frame of a row of them, so that a video has no features "
                        "of its own; localize with the model that it was trained in.")
    if device.type != "cpu" and config.backend not in ("eager", "compile"):
        raise CallError(f"backend {config.backend} computes on the CPU; use --device cpu, or the eager backend.")
    network = encoder.network if device.type == "cpu" else deepcopy(encoder.network).to(device)
    shape = (config.rows(encoder, device) * config.crops, 3, clip.frames, clip.crop, clip.crop)
    return backends.ready(network, config.backend, shape, pooling=config.pooling, bf16=config.bf16)


class _Pipeline:
    """Threads that read videos and threads that encode their clips, in batches across videos.

    Args:
        jobs: id -> (file, where its features go; None: into memory).
        workers: threads that encode on a CPU; None: as many as PyTorch would use cores.
        run: what :func:`runner` makes of the same encoder, configuration and device; None: made here.
    """

    def __init__(self, jobs: Mapping[str, tuple[Path, Path | None]], encoder: VideoEncoder, config: ExtractConfig,
                 workers: int | None, device: torch.device | str, run: Run | None = None) -> None:
        self.encoder, self.config, self.device = encoder, config, torch.device(device)
        cores = torch.get_num_threads() if workers is None else workers
        within("workers", cores, 1)
        self.jobs = jobs
        self.todo: queue.SimpleQueue[str] = queue.SimpleQueue()
        for name in jobs:
            self.todo.put(name)
        self.encoders = cores if self.device.type == "cpu" else 2
        readers = min(len(jobs), max(2, cores))
        self.pending: list[Item] = []
        self.batches: queue.Queue[list[Item] | None] = queue.Queue(self.encoders)
        self.events: queue.SimpleQueue[tuple[str, _Video | BaseException]] = queue.SimpleQueue()
        self.begun: dict[str, _Video] = {}
        self.reading, self.guard = readers, threading.Lock()
        self.stop = threading.Event()
        self.per_batch = config.rows(encoder, self.device)
        clip = config.clip(encoder)
        self.shape = (self.per_batch * config.crops, clip.frames, clip.crop, clip.crop, 3)
        self.run = run or runner(encoder, config, self.device)
        self.threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True)
                        for work in (self._read,) * readers + (self._encode,) * self.encoders]

    def settled(self) -> Generator[tuple[str, _Video | CuemarkError] | None, None, None]:
        """Each video as it is finished, or why it could not be; closing the generator ends all work.

        None: nothing has been for :data:`IDLE`.

        Raises:
            OSError: a file cannot be written.
        """
        usual = torch.get_num_threads()
        for thread in self.threads:
            thread.start()
        try:
            left = len(self.jobs)
            while left:
                try:
                    name, outcome = self.events.get(timeout=IDLE)
                except queue.Empty:
                    yield None
                    continue
                self.begun.pop(name, None)
                if isinstance(outcome, BaseException) and not isinstance(outcome, CuemarkError):
                    raise outcome
                left -= 1
                yield name, outcome
        finally:
            self.stop.set()
            for thread in self.threads:
                thread.join()
            for unfinished in self.begun.values():
                unfinished.discard()
            torch.set_num_threads(usual)  # new threads begin with what the last one set

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Stopped:
            pass
        except BaseException as error:
            self.events.put(("", error))

    def _read(self) -> None:
        """A reader: videos to clips to batches, one video after the other."""
        while not self.stop.is_set():
            try:
                name = self.todo.get_nowait()
            except queue.Empty:
                break
            path, target = self.jobs[name]
            found: _Video | None = None
            try:
                found = self.begun[name] = _Video(path, target, self.encoder, self.config)
                clips = clips_of(found.info, self.config.clip(self.encoder), self.config.step(self.encoder),
                                 self.config.crops)
                for number, clip in enumerate(clips):
                    self._add((name, found, number, clip))
            except CuemarkError as error:
                if found is not None:
                    found.discard()
                self.events.put((name, error))
            except BaseException:
                if found is not None:
                    found.discard()
                raise
        with self.guard:
            self.reading -= 1
            last = self.reading == 0
            rest, self.pending = (self.pending, []) if last else ([], self.pending)
        if last:
            if rest:
                self._put(rest)
            for _ in range(self.encoders):
                self._put(None)

    def _add(self, item: Item) -> None:
        with self.guard:
            self.pending.append(item)
            full, self.pending = ((self.pending, []) if len(self.pending) == self.per_batch else ([], self.pending))
        if full:
            self._put(full)

    def _put(self, batch: list[Item] | None) -> None:
        while not self.stop.is_set():
            try:
                return self.batches.put(batch, timeout=0.1)
            except queue.Full:
                continue
        raise _Stopped

    def _take(self) -> list[Item] | None:
        while not self.stop.is_set():
            try:
                return self.batches.get(timeout=0.1)
            except queue.Empty:
                continue
        raise _Stopped

    def _encode(self) -> None:
        """An encoder: batches to rows in their places."""
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # of this thread
        else:
            torch.cuda.set_stream(torch.cuda.Stream(self.device))
        clip, crops = self.encoder.clip, self.config.crops
        buffer = torch.zeros(self.shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        while (batch := self._take()) is not None:
            filled = buffer.numpy()
            filled[len(batch) * crops :] = 0
            for i, (_, _, _, squares) in enumerate(batch):
                filled[i * crops : (i + 1) * crops] = squares
            tensor = normalised(buffer.to(self.device, non_blocking=True), clip.mean, clip.std)
            rows = self.run(tensor).float().cpu().numpy()
            rows = rows.reshape(self.per_batch, crops, -1).mean(1, dtype=np.float32)
            for (name, found, number, _), row in zip(batch, rows):
                try:
                    if found.put(number, row):
                        found.finish()
                        self.events.put((name, found))
                except CuemarkError as error:
                    self.events.put((name, error))


# ---------------------------------------------------------------------------------------------- folders


@dataclass
class Extraction:
    """What became of each video."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Were there already."""
    failed: dict[str, str] = field(default_factory=dict)
    """Video id -> why not."""
    clips: int = 0
    seconds: float = 0.0


Outcomes = Generator[tuple[str, dict[str, Any] | CuemarkError], None, None]
"""Each video's id, as it is finished: what :data:`MANIFEST` says of it, or why it could not be read."""


def extract(videos: Mapping[str, str | Path], encoder: VideoEncoder, out: str | Path,
            config: ExtractConfig | None = None, *, workers: int | None = None, device: torch.device | str = "cpu"
            ) -> Extraction:
    """Write the features of ``videos`` (id -> file) into the folder ``out``; what is there already is skipped.

    A video is read again when its array is damaged, or its file is not what it was (:func:`cuemark.video.mark`). A
    broken video is named in ``failed.json``, with its reason, and the rest goes on; what an earlier state of it gave is
    then removed.

    Args:
        workers: threads that encode on a CPU; None: as many as PyTorch would use cores. No feature depends on it.
        device: ``"cpu"``, ``"cuda"`` …

    Raises:
        ModelError: ``out`` holds features of another encoder, or that were made in another way.
        DataError: ``out`` holds a ``features.json`` that is none, or cannot be written; what was finished stays.
        CallError: an id that cannot be a file's name, or an impossible setting.
        CuemarkError: another run is at work in ``out``.
    """
    out, config = Path(out), config or ExtractConfig()
    return fill(videos, encoder, out, config, lambda jobs: extracted(jobs, encoder, out, config, workers, device))


def extracted(jobs: Mapping[str, Path], encoder: VideoEncoder, out: Path, config: ExtractConfig, workers: int | None,
              device: torch.device | str, run: Run | None = None, tick: Callable[[float], None] | None = None
              ) -> Outcomes:
    """Features of ``jobs`` (id -> file) to their files in ``out``, in any order; its description is not touched.

    Args:
        tick: called twice a second while nothing is finished, with how much of the videos that have begun is: 1.5 is
            one and a half of them. What it raises ends the work.

    Raises:
        CallError: an impossible setting.
        OSError: a file cannot be written.
    """
    pipeline = _Pipeline({vid: (path, out / f"{vid}.npy") for vid, path in jobs.items()}, encoder, config, workers,
                         device, run)
    with closing(pipeline.settled()) as settled:
        for event in settled:
            if event is not None:
                vid, outcome = event
                yield vid, outcome if isinstance(outcome, CuemarkError) else outcome.entry()
            elif tick is not None:
                tick(sum(1 - one.missing / one.count for one in list(pipeline.begun.values())))


def fill(videos: Mapping[str, str | Path], encoder: VideoEncoder, out: Path, config: ExtractConfig,
         work: Callable[[Mapping[str, Path]], Outcomes]) -> Extraction:
    """What :func:`extract` does, whoever does the work: that gets what is missing, and puts files in their place."""
    began = time.monotonic()
    for vid in videos:
        if not vid or Path(vid).name != vid or "\0" in vid or vid != vid.encode(errors="ignore").decode():
            raise CallError(f"'{vid}' cannot be the name of a file in '{out}'; give each video a name of its own, in "
                            "UTF-8 and without slashes.")
    Book.open(out, config.described(encoder))  # refuses before anything is written
    result = Extraction()
    try:
        with locked(out):
            book = Book.open(out, config.described(encoder))
            sweep(out)
            files = {vid: Path(path) for vid, path in videos.items()}
            held = dict(zip(files, book.holds(files)))
            result.skipped = [vid for vid in files if held[vid]]
            jobs = {vid: path for vid, path in files.items() if not held[vid]}
            # what is replaced is described anew, and what a kill leaves behind is known not to be all
            stale = [vid for vid in jobs if book.entries.pop(vid, None) is not None]
            began_complete = book.complete and bool(jobs)
            if stale or began_complete:
                book.write(complete=False)
            try:
                with Bar("extracting", len(videos), len(result.skipped)) as bar, closing(work(jobs)) as outcomes:
                    for vid, outcome in outcomes:
                        if isinstance(outcome, CuemarkError):
                            result.failed[vid] = str(outcome)
                            book.leave_out(vid, Path(videos[vid]), outcome)
                        else:
                            book.enter(vid, outcome)
                            result.done.append(vid)
                            result.clips += outcome["grid"]["count"]
                        bar.advance(1, f"{result.clips / (time.monotonic() - began):.0f} clips/s")
            except BaseException as error:
                sweep(out)
                if result.done or result.failed:
                    book.write(complete=False)
                elif began_complete and not stale and isinstance(error, CuemarkError):
                    book.write(complete=True)  # nothing was begun: a setting, or a cluster that is not there
                raise
            book.write(complete=True)
    except OSError as error:
        raise unwritable(out, error) from None
    order = {vid: i for i, vid in enumerate(videos)}
    result.done.sort(key=order.__getitem__)
    result.failed = dict(sorted(result.failed.items(), key=lambda item: order[item[0]]))
    result.seconds = time.monotonic() - began
    return result
