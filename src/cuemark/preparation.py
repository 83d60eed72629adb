"""Videos of any kind to ones that are quick to read and that show everybody the same frames.

``prepare`` transcodes files into a folder: H.264 (yuv420p) in MP4, a constant rate, a keyframe every few frames and
nowhere else, the index of the file at its front so that a browser plays while it loads.

- Frame ``k`` is the picture that the source shows at ``k / fps`` seconds, by the rules of :func:`cuemark.video.frames`
  (time since the first picture; variable rates, edit lists, odd clocks, damage). The number of frames is the source's
  duration times ``fps``, rounded: the length is kept to half a frame.
- Pictures are turned as they are displayed, and scaled with the filter that reading scales with. They stay YUV all the
  way: colour matrix, range and primaries are kept and written into the file. Where the source does not say, BT.601 in
  limited range is written, which is how this package reads such a source. Pixels are square, here as there.
- Sides become even, which this form of H.264 needs: a scaled one is rounded; at the source's own size the last row or
  column is repeated.
- Sound is dropped, or encoded again to AAC: copying would be exact to 21 ms only, and few sources have what MP4 holds.

The folder: ``<stem>.mp4`` each; ``prepared.json`` with the settings, and what each video is and was; ``failed.json``,
where some could not be prepared, with the reasons; ``metadata.csv`` as TSP's release has it
(``filename,video-duration,fps,video-frames``, where video-duration is frames / fps). None of them says when or from
which folder. Files are written to a temporary name and renamed. A run that was killed goes on where it was and ends
with the same bytes, given the same FFmpeg; x264 encodes on one thread, without its macroblock tree, to be repeatable.
"""

from __future__ import annotations

import errno
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from cuemark import video
from cuemark.datasets.format import rounded
from cuemark.datasets.rows import holdable, write_table
from cuemark.errors import CallError, CuemarkError, DataError, VideoError, within
from cuemark.folders import failures, locked, sweep, unwritable, write_failures
from cuemark.progress import Bar, say
from cuemark.segments import read_json, write_json
from cuemark.video import VideoInfo

MANIFEST = "prepared.json"
TABLE = "metadata.csv"
COLUMNS = ("filename", "video-duration", "fps", "video-frames")
SECONDS_BETWEEN_MANIFESTS = 5.0
LONGEST_NAME = 220
"""Bytes of a stem; temporary names are a little longer, and file systems stop at 255."""
TARGET_BROKEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT}
"""Errors of writing that the next video would meet too."""

BT601 = 5
LIMITED, FULL = 1, 2
SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
"""What reading scales with; exact, so that every processor gives the same pixels."""
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
GAP = 0.05
"""Seconds by which sound may stray from its timestamps before silence is put in or samples are left out."""


@dataclass
class Preparation:
    """What became of each video, by the stem of its file."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Were there already."""
    failed: dict[str, str] = field(default_factory=dict)
    """Stem -> why not."""
    videos: dict[str, dict[str, Any]] = field(default_factory=dict)
    """All that the folder holds: what ``prepared.json`` says about each."""
    frames: int = 0
    """Written by this run."""
    seconds: float = 0.0

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str | float]]]]:
        """Title, columns and rows of what there is to tell."""
        rows: list[list[str | float]] = []
        for stem in sorted([*self.done, *self.skipped]):
            entry = self.videos[stem]
            source = entry["source"]
            rows.append([entry["file"], round(entry["duration"], 2), str(entry["frames"]),
                         f"{entry['width']}x{entry['height']}", source["codec"], round(source["fps"], 2),
                         f"{source['width']}x{source['height']}"])
        if rows:
            yield "Prepared", ["file", "seconds", "frames", "size", "was", "at fps", "of size"], rows
        if self.failed:
            yield "Not prepared", ["video", "why"], [[stem, reason] for stem, reason in sorted(self.failed.items())]


def prepare(videos: Sequence[str | Path], out: str | Path, *, fps: float = 30, short_side: int | None = 128,
            enlarge: bool = False, keyframe_every: int = 16, audio: bool = False, quality: int = 23,
            workers: int | None = None) -> Preparation:
    """Transcode files into the folder ``out``; what is there already, from an unchanged source, is skipped.

    A source of other content (:func:`cuemark.video.mark`) is prepared again; touching or copying it changes nothing. A
    broken one is named in :data:`FAILED`, with its reason, and the rest goes on; what an earlier state of it gave is
    then removed.

    Args:
        videos: files.
        fps: frames a second; 29.97 and its like are taken as the fraction they mean (30000/1001).
        short_side: pixels of the shorter side, rounded to an even number; the aspect is kept. None: the source's size.
        enlarge: whether a smaller video is scaled up to ``short_side``.
        keyframe_every: frames from each keyframe to the next. Small: quick random access, larger files.
        audio: keep the sound, as AAC.
        quality: x264's constant rate factor, 1 to 51; 6 more halves the file.
        workers: videos at a time, each in a process of its own, which may crash alone; None: as many as there are
            cores; 0: one, in this process.

    Raises:
        CallError: an impossible setting or name; two files of one stem; a file that would replace its own source, or
            one that is not ours; or ``out`` holds videos that were prepared with other settings.
        DataError: ``out`` holds a ``prepared.json`` that is none.
        DataError: ``out`` cannot be written, for example because the disk is full. What was finished stays.
        CuemarkError: another run is at work in ``out``.
    """
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    within("workers", workers, 0)
    return fill(videos, Path(out), lambda jobs, lock: _answers(jobs, workers, lock), fps=fps, short_side=short_side,
                enlarge=enlarge, keyframe_every=keyframe_every, audio=audio, quality=quality)


Job = dict[str, Any]
"""What :func:`attempt` needs to know."""
Answers = Generator[tuple[str, dict[str, Any]], None, None]
"""Each job's stem, as it is finished, and what :func:`attempt` said of it."""


def fill(videos: Sequence[str | Path], out: Path, work: Callable[[Mapping[str, Job], int], Answers], *, fps: float,
         short_side: int | None, enlarge: bool, keyframe_every: int, audio: bool, quality: int) -> Preparation:
    """What :func:`prepare` does, whoever does the work: that gets the jobs by stem, and the handle of the lock."""
    for name, value, low, high in (("fps", fps, 0.01, 1000),
                                   ("short_side", 2 if short_side is None else short_side, 2, 8192),
                                   ("keyframe_every", keyframe_every, 1, None), ("quality", quality, 1, 51)):
        within(name, value, low, high)
    rate = video.fraction_of(fps)
    settings = {"fps": _plain(rate), "short_side": short_side, "enlarge": enlarge, "keyframe_every": keyframe_every,
                "audio": audio, "quality": quality}
    sources = _by_stem(videos, out)
    began = saved = time.monotonic()
    try:
        with locked(out) as lock:
            entries, failed = _resume(out, settings, sources)
            result = Preparation(videos=entries)

            def describe(complete: bool) -> None:
                _describe(out, settings, complete, entries, failed)

            jobs: dict[str, Job] = {}
            sweep(out)
            for (stem, path), mark in zip(sources.items(), video.marks(sources.values())):
                state = {"name": path.name, "mark": mark}
                if stem in entries and _is_done(out, entries[stem], path, mark):
                    result.skipped.append(stem)
                else:
                    jobs[stem] = {"source": str(path), "target": str(out / f"{stem}.mp4"), "rate": str(rate),
                                  "settings": settings, "state": state}
            if jobs:
                describe(complete=False)  # first, so that what a kill leaves behind is known to be ours
            try:
                with Bar("preparing", len(sources), len(result.skipped)) as bar, \
                        closing(work(jobs, lock)) as answers:
                    for stem, answer in answers:
                        if "entry" in answer:
                            entries[stem] = answer["entry"]
                            failed.pop(stem, None)
                            result.done.append(stem)
                            result.frames += answer["entry"]["frames"]
                        elif "stop" in answer:
                            raise DataError(answer["stop"])
                        else:
                            result.failed[stem] = failed[stem] = answer["broken"]
                            if jobs[stem]["state"]["mark"] is not None:  # else only its drive is away, perhaps
                                entries.pop(stem, None)
                                (out / f"{stem}.mp4").unlink(missing_ok=True)
                            say(f"left out: {answer['broken']}")
                        if time.monotonic() - saved > SECONDS_BETWEEN_MANIFESTS:
                            describe(complete=False)
                            saved = time.monotonic()
                        bar.advance(1, f"{result.frames / (time.monotonic() - began):.0f} frames/s")
            except BaseException:
                sweep(out)
                describe(complete=False)
                raise
            describe(complete=True)
            result.done.sort()
            result.videos = dict(sorted(entries.items()))
    except OSError as error:
        raise unwritable(out, error) from None
    result.seconds = time.monotonic() - began
    return result


# ---------------------------------------------------------------------------------------------- the folder


def _plain(rate: Fraction) -> float | int:
    return rate.numerator if rate.denominator == 1 else rounded(float(rate))


def _by_stem(videos: Sequence[str | Path], out: Path) -> dict[str, Path]:
    """Stem -> file, sorted; whatever could make two videos meet in one place is refused."""
    found: dict[str, Path] = {}
    for path in map(Path, videos):
        stem, other = path.stem, found.get(path.stem)
        if other is not None and os.path.abspath(other) != os.path.abspath(path):
            raise CallError(f"'{other}' and '{path}' would both become '{stem}.mp4'; rename one of them.")
        holdable(stem, out / TABLE)
        if not stem or len(os.fsencode(stem)) > LONGEST_NAME:
            raise CallError(f"'{path}' has no name, or one that is too long, for a file made from it; rename it.")
        if os.path.realpath(path) == os.path.realpath(out / f"{stem}.mp4"):
            raise CallError(f"'{path}' would be replaced by what is made from it; give another folder with --out.")
        found[stem] = path
    if not found:
        raise CallError("no videos to prepare; name video files, or a folder of them.")
    return dict(sorted(found.items()))


def _resume(out: Path, settings: dict[str, Any], sources: Mapping[str, Path]
            ) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What the folder holds and what failed before; a folder of anything else is refused."""
    if not (out / MANIFEST).exists():
        for stem in sources:
            if (out / f"{stem}.mp4").exists():
                raise CallError(f"'{out / stem}.mp4' exists, and no {MANIFEST} says where it is from; give another "
                                "folder with --out, or remove it.")
        return {}, {}
    old = read_json(out / MANIFEST, "preparation")
    try:
        was, entries, failed = dict(old["settings"]), dict(old["videos"]), dict(old.get("failed", {}))
        for entry in entries.values():
            for key in ("file", "duration", "frames", "width", "height", "bytes", "source"):
                entry[key]
            for key in ("name", "codec", "fps", "width", "height"):
                entry["source"][key]
    except (TypeError, KeyError, ValueError, AttributeError):
        raise DataError(f"'{out / MANIFEST}' does not describe prepared videos; remove it and the videos beside it, or "
                        "give another folder with --out.") from None
    for key, mine in settings.items():
        if was.get(key) != mine:
            raise CallError(f"'{out}' holds videos prepared with {key} {was.get(key)}, and these would have {mine}; "
                            "give another folder with --out, or remove this one.")
    for stem, path in sources.items():
        if stem in entries and entries[stem]["source"]["name"] != path.name:
            raise CallError(f"'{out / stem}.mp4' was made from '{entries[stem]['source']['name']}', and '{path}' would "
                            "replace it; rename one of them, or give another folder with --out.")
    return entries, failed | failures(out)  # they were in the former before they had a file of their own


def _is_done(out: Path, entry: dict[str, Any], path: Path, mark: str | None) -> bool:
    """Whether a video is there whole, and from what its source is now."""
    was = entry["source"]
    try:
        if "mark" not in was:  # of before there were any
            found = path.stat()
            if (was.get("bytes"), was.get("modified")) != (found.st_size, found.st_mtime_ns):
                return False
        elif was["mark"] != mark:
            return False
        return (out / entry["file"]).stat().st_size == entry["bytes"]
    except OSError:
        return False


def _describe(out: Path, settings: dict[str, Any], complete: bool, entries: dict[str, dict[str, Any]],
              failed: dict[str, str]) -> None:
    listed = dict(sorted(entries.items()))
    write_table(out / TABLE, COLUMNS, [(e["file"], e["duration"], settings["fps"], e["frames"])
                                       for e in listed.values()])
    write_failures(out, failed)
    write_json(out / MANIFEST, {"settings": settings, "complete": complete, "videos": listed})


# ---------------------------------------------------------------------------------------------- processes


def _answers(jobs: Mapping[str, Job], workers: int, lock: int) -> Answers:
    """What became of each job, as they finish; ending the generator early ends all that is still at work."""
    if workers == 0:
        for stem, job in jobs.items():
            yield stem, attempt(job)
        return
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    team = [_Worker(lock) for _ in range(min(workers, len(jobs)))]
    for worker in team:
        idle.put(worker)

    def attempted(job: Job) -> dict[str, Any]:
        worker = idle.get()
        try:
            return worker.attempt(job)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(max(1, len(team)))
    try:
        stems = {pool.submit(attempted, job): stem for stem, job in jobs.items()}
        for future in as_completed(stems):
            yield stems[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in team:
            worker.end()
        pool.shutdown()
        for worker in team:
            worker.close()


class _Worker:
    """A process that transcodes one video after the other; where one kills it, the next starts another.

    Not ``multiprocessing``: its pools break as a whole when a process dies, its processes outlive a parent that was
    killed, and they run the caller's main module again. The process holds the folder's lock too, and ends when its
    standard input does, that is, with its parent.
    """

    def __init__(self, lock: int) -> None:
        self.lock = lock
        self.ended = False
        self.guard = threading.Lock()
        self.process: subprocess.Popen[str] | None = None

    def attempt(self, job: dict[str, Any]) -> dict[str, Any]:
        with self.guard:
            if self.ended:
                return {"broken": "not reached"}
            if self.process is None:
                code = f"import sys; sys.path[:] = {sys.path!r}; from cuemark import preparation; preparation._serve()"
                self.process = subprocess.Popen(
                    [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    pass_fds=(self.lock,), start_new_session=True)  # Ctrl-C is for the parent
            process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # it died between two jobs
            line = ""
        if line.endswith("\n"):
            return json.loads(line)
        with self.guard:
            status = self.close()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return {"broken": f"video '{Path(job['source']).name}' cannot be read: the process that tried crashed ({how}); "
                          "re-encode it with another program."}

    def end(self) -> None:
        """Kill the process; whoever waits for its answer is told that there is none."""
        with self.guard:
            self.ended = True
            if self.process is not None:
                self.process.kill()

    def close(self) -> int:
        """Forget the process, which has ended or is about to; its exit status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        return process.wait()


def _serve() -> None:
    """A worker's side: jobs from standard input, one line each, answers to standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            jobs.put(json.loads(line))
        os._exit(0)  # in the middle of a video, if the parent was killed

    threading.Thread(target=listen, daemon=True).start()
    while True:
        answers.write(json.dumps(attempt(jobs.get())) + "\n")
        answers.flush()


def attempt(job: Job) -> dict[str, Any]:
    """Transcode one video: ``entry`` of the manifest, or why it is ``broken``, or why to ``stop`` altogether."""
    source, target = Path(job["source"]), Path(job["target"])
    try:
        return {"entry": _transcoded(source, target, Fraction(job["rate"]), job["settings"], job["state"])}
    except CuemarkError as error:
        return {"broken": str(error).replace(str(source), source.name)}
    except (av.FFmpegError, OSError, ValueError) as error:
        if getattr(error, "errno", None) in TARGET_BROKEN:
            return {"stop": str(unwritable(target, error))}
        reason = getattr(error, "strerror", None) or str(error)
        return {"broken": f"video '{source.name}' cannot be encoded ({reason})."}


# ---------------------------------------------------------------------------------------------- one video


def _transcoded(source: Path, target: Path, rate: Fraction, settings: dict[str, Any], state: dict[str, Any]
                ) -> dict[str, Any]:
    info = video.probe(source)
    size = _scaled(info.height, info.width, settings["short_side"], settings["enlarge"])
    count = max(1, round(info.duration * rate))
    sound = _Sound(source, info.start, count / rate) if settings["audio"] else None
    with _placed(target) as temporary:
        options = {"movflags": "+faststart", "fflags": "bitexact"}
        with av.open(f"file:{temporary}", "w", format="mp4", options=options) as container, \
                closing(_shown(source, count, rate)) as pictures:
            height, width = _encode(container, pictures, _Easel(source, info, size), rate, settings, sound)
    was: dict[str, Any] = {**state, "codec": info.codec, "duration": info.duration, "frames": info.frames,
                           "fps": info.fps, "width": info.width, "height": info.height}
    if sound is not None:
        was["audio"] = sound.codec
    return {"file": target.name, "duration": float(count / rate), "frames": count, "width": width, "height": height,
            "bytes": target.stat().st_size, "source": was}


@contextmanager
def _placed(target: Path) -> Iterator[Path]:
    """A name to write to, renamed to ``target`` when the block ends well.

    As ``segments.replacing``, by name: to move the index to the front, FFmpeg opens the file a second time. No two
    attempts share a name: in a fleet, one whose node was given up for dead may still be writing.
    """
    temporary = target.with_name(f".{uuid.uuid4().hex[:12]}.{target.name}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _scaled(height: int, width: int, short_side: int | None, enlarge: bool) -> tuple[int, int] | None:
    """Even height and width to scale to; None: as it is."""
    scale = short_side / min(height, width) if short_side else 1
    if scale == 1 or (scale > 1 and not enlarge):
        return None
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


def _shown(path: Path, count: int, rate: Fraction) -> Generator[VideoFrame, None, None]:
    """The pictures shown at 0, 1/rate, 2/rate … seconds; the last one is held where the video ends early."""
    number, shown = 0, None
    with closing(video.pictures_from(path)) as pictures:
        for stamp, picture in pictures:
            late = stamp - video.tolerance(picture)
            while shown is not None and number < count and number / rate < late:
                yield shown
                number += 1
            if number == count:
                return
            shown = picture
    for _ in range(number, count):
        assert shown is not None  # video raises where there is none
        yield shown


class _Easel:
    """Pictures of any kind to yuv420p of one size and one description of colour, turned as they are displayed."""

    def __init__(self, path: Path, info: VideoInfo, size: tuple[int, int] | None) -> None:
        self.path = path
        self.size = size or (info.height, info.width)
        self.matrix: tuple[int, int, int, int] | None = None
        self.colours = (BT601, LIMITED)
        self.primaries: ColorPrimaries | None = None
        self.transfer: ColorTrc | None = None
        self.scaler = VideoReformatter()

    def __call__(self, picture: VideoFrame) -> VideoFrame:
        colours = _describe_colours(picture)
        if self.matrix is None:  # the first picture decides for all
            self.matrix = video.display_matrix(picture)
            self.colours = colours or self.colours
            self.primaries = _known(ColorPrimaries, picture.color_primaries)
            self.transfer = _known(ColorTrc, picture.color_trc)
        a, b, c, d = self.matrix
        sideways = abs(b) > abs(a)
        height, width = self.size[::-1] if sideways else self.size
        matrix, span = self.colours
        try:
            scaled = self.scaler.reformat(picture, width, height, "yuv420p", dst_colorspace=matrix,
                                          dst_color_range=span, interpolation=SCALING, threads=1)
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise VideoError(f"video '{self.path}' cannot be converted to YUV 4:2:0 ({reason}).") from None
        planes = []
        for number, plane in enumerate(scaled.planes):
            h, w = (height, width) if number == 0 else (-(-height // 2), -(-width // 2))
            pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:h, :w]
            # as in video's reading: a stored pixel (x, y) goes to the displayed (a x + c y, b x + d y)
            across, down = (c, b) if sideways else (a, d)
            pixels = (pixels.T if sideways else pixels)[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
            if number == 0:  # an odd side; those of the chroma planes are rounded up already
                pixels = np.pad(pixels, [(0, n % 2) for n in pixels.shape], "edge")
                shape = pixels.shape
            planes.append(pixels.ravel())
        # a new picture: one that was decoded drags its kind (I, P, B), captions and turning into the encoder
        return VideoFrame.from_ndarray(np.concatenate(planes).reshape(shape[0] * 3 // 2, shape[1]), format="yuv420p")


def _describe_colours(picture: VideoFrame) -> tuple[int, int] | None:
    """Matrix and range of a YUV picture, after writing into it what it leaves out; None for RGB."""
    form = picture.format
    if form.is_rgb or form.has_palette:
        return None
    matrix, span = int(picture.colorspace), int(picture.color_range)
    if matrix not in video.COLOURSPACES or matrix in (0, 2):
        matrix = BT601
    if matrix == 6:  # BT.601 has two numbers
        matrix = BT601
    if form.name.startswith("yuvj"):
        span = FULL
    elif span not in (LIMITED, FULL):
        span = LIMITED
    picture.colorspace, picture.color_range = matrix, span
    return matrix, span


def _known(kind: Callable[[int], Any], value: int) -> Any:
    """A colour description that the standard names, or None: cameras write reserved numbers."""
    try:
        return kind(int(value))
    except ValueError:
        return None


def _encode(container: OutputContainer, pictures: Iterator[VideoFrame], easel: _Easel, rate: Fraction,
            settings: dict[str, Any], sound: _Sound | None) -> tuple[int, int]:
    """Write all pictures, and the sound between them; height and width of what was written."""
    stream, voice = None, None
    before, drawn = None, None
    height = width = 0
    for number, picture in enumerate(pictures):
        if picture is not before:
            before, drawn = picture, easel(picture)
        assert drawn is not None
        if stream is None:
            height, width = drawn.height, drawn.width
            stream = _video_stream(container, rate, settings, easel, drawn, picture)
            voice = sound.stream(container) if sound is not None else None
        drawn.pts, drawn.time_base = number, 1 / rate
        container.mux(stream.encode(drawn))
        if voice is not None and sound is not None:
            sound.mux(container, voice, until=(number + 1) / rate)
    assert stream is not None
    container.mux(stream.encode(None))
    if voice is not None and sound is not None:
        sound.mux(container, voice, until=None)
    return height, width


def _video_stream(container: OutputContainer, rate: Fraction, settings: dict[str, Any], easel: _Easel,
                  drawn: VideoFrame, first: VideoFrame) -> VideoStream:
    every = str(settings["keyframe_every"])
    # scenecut=0: keyframes nowhere else; for the rest see video.write
    options = {"crf": str(settings["quality"]), "preset": "veryfast", "threads": "1", "g": every,
               "x264-params": "mbtree=0:scenecut=0:open-gop=0:keyint=" + every}
    stream: VideoStream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = drawn.width, drawn.height, "yuv420p"
    context = stream.codec_context
    context.colorspace, context.color_range = easel.colours
    if easel.primaries is not None:
        context.color_primaries = easel.primaries
    if easel.transfer is not None:
        context.color_trc = easel.transfer
    return stream


# ---------------------------------------------------------------------------------------------- its sound


class _Sound:
    """The sound of a file as AAC, from the first picture to the end of the last."""

    def __init__(self, path: Path, start: float, length: Fraction) -> None:
        self.path, self.start, self.length = path, start, length
        self.codec: str | None = None
        self.rate = 48000
        self.layout = "stereo"
        self.at = 0
        self.waiting: AudioFrame | None = None
        self.frames = self._frames()

    def stream(self, container: OutputContainer) -> Any:
        """A stream for it; None where the file has no sound that can be decoded."""
        self.waiting = next(self.frames, None)
        if self.waiting is None:
            self.codec = None
            return None
        stream: Any = container.add_stream("aac", rate=self.rate, layout=self.layout, options={"flags": "+bitexact"})
        stream.codec_context.bit_rate = 64000 * (1 if self.layout == "mono" else 2)
        return stream

    def mux(self, container: OutputContainer, stream: Any, until: Fraction | None) -> None:
        """Encode what comes before ``until`` seconds; None: all that is left."""
        while self.waiting is not None and (until is None or (self.waiting.pts or 0) < until * self.rate):
            container.mux(stream.encode(self.waiting))
            self.waiting = next(self.frames, None)
        if until is None:
            container.mux(stream.encode(None))

    def _frames(self) -> Iterator[AudioFrame]:
        """Samples without gap or overlap: silence where there is none, what is there twice left out."""
        for samples in self._in_place():
            left = math.floor(self.length * self.rate) - self.at
            if left <= 0:
                return
            samples = samples[:, :left]
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.at, Fraction(1, self.rate)
            self.at += samples.shape[1]
            yield frame

    def _in_place(self) -> Iterator[np.ndarray]:
        for moment, samples in self._decoded():
            if moment is not None:
                stray = round((moment - self.start) * self.rate) - self.at
                if self.at == 0 or abs(stray) > GAP * self.rate:
                    stray = min(stray, math.floor(self.length * self.rate))
                    for _ in range(stray // self.rate):  # a second at a time: there may be hours of it
                        yield np.zeros((len(samples), self.rate), np.float32)
                        stray -= self.rate
                    if stray > 0:
                        yield np.zeros((len(samples), stray), np.float32)
                    samples = samples[:, max(0, -stray):]
            if samples.shape[1]:
                yield samples

    def _decoded(self) -> Iterator[tuple[float | None, np.ndarray]]:
        """Seconds on the container's clock, where told, and ``(channels, n)`` float samples of one rate."""
        try:
            with av.open(f"file:{self.path}", metadata_errors="replace", container_options=video.LIMITS) as container:
                stream: Any = container.streams.best("audio")
                if stream is None or stream.codec_context is None:
                    return
                self.codec = stream.codec_context.codec.canonical_name
                resampler: AudioResampler | None = None
                kind = None
                for frame in _sounds(container, stream):
                    if frame.sample_rate <= 0:
                        continue
                    if resampler is None:
                        self.rate = frame.sample_rate if frame.sample_rate in AAC_RATES else 48000
                        self.layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
                    if kind != (now := (frame.format.name, frame.layout.name, frame.sample_rate)):
                        if resampler is not None:
                            yield from _taken(resampler, None)
                        resampler, kind = AudioResampler("fltp", self.layout, self.rate), now
                    assert resampler is not None
                    yield from _taken(resampler, frame)
                if resampler is not None:
                    yield from _taken(resampler, None)
        except (av.FFmpegError, ValueError):  # sound is no reason to lose the pictures
            return


def _sounds(container: Any, stream: Any) -> Iterator[AudioFrame]:
    """Decode; what cannot be is skipped."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, IndexError, av.FFmpegError):
            return
        try:
            yield from stream.decode(packet)
        except av.FFmpegError:
            continue


def _taken(resampler: AudioResampler, frame: AudioFrame | None) -> Iterator[tuple[float | None, np.ndarray]]:
    for taken in resampler.resample(frame):
        yield taken.time, taken.to_ndarray()
