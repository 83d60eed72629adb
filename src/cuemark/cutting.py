"""Moments as files of their own: packets copied as they are, or pictures and sound encoded again, exactly.

**Copy** is quick and loses nothing. A decoder has to begin at a keyframe, so the copy holds the packets from the last
keyframe before the moment on. In MP4 an edit list then hides what comes before the moment: players that know edit
lists (browsers, FFmpeg and all built on it, QuickTime) begin with the picture that is shown then, others up to a
keyframe interval early. Matroska and WebM know no edit lists; there the clip begins at the keyframe, and :class:`Clip`
says when that is. Packets end in decoding order: a few pictures behind the end, from which earlier ones are decoded,
are held, too.

**Exact** encodes the pictures that are shown within the moment, at their own times (H.264, constant quality), and the
sound to the sample (AAC), and plays everywhere.

Seconds are cuemark's: since the presentation of the first picture (:mod:`cuemark.video`). FFmpeg's libraries do the
work, in this process: no program is called and no shell sees a name.
"""

from __future__ import annotations

import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from cuemark import video
from cuemark.errors import CallError, VideoError, within
from cuemark.folders import unwritable
from cuemark.progress import Bar
from cuemark.segments import Segment

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""What clips may be called, and FFmpeg's names of the containers."""
EDITED = ("mp4", "mov")
"""Containers with edit lists."""
AHEAD = 512
"""Packets of sound that are kept until the first one of pictures has come."""
TICK, RATE = Fraction(1, 90000), 25


@dataclass(frozen=True)
class Clip:
    """What was cut."""

    path: Path
    start: float
    """Seconds of the video at which the file's pictures begin, where edit lists are not obeyed."""
    end: float
    exact: bool


# ---------------------------------------------------------------------------------------------- one moment


def cut(source: str | Path, moment: Segment, out: str | Path, exact: bool = False, quality: int = 18) -> Clip:
    """Write a moment of a video to a file; all of it or nothing.

    Args:
        moment: in seconds; what reaches beyond the video is left out.
        out: ``.mp4``, ``.mov``, ``.m4v``, ``.mkv`` or ``.webm``; exact clips are ``.mp4``.
        exact: encode again; else packets are copied.
        quality: of exact clips: x264's constant rate factor, 0 to 51.

    Raises:
        CallError: an ending that is none of these, a moment without length, or ``out`` is the source.
        VideoError: the source cannot be read, or its packets do not fit into this container.
        DataError: the file cannot be written.
    """
    source, out = Path(source), Path(out)
    within("quality", quality, 0, 51)
    form = CONTAINERS.get(out.suffix.lower())
    if form is None or (exact and form not in EDITED):
        raise CallError(f"'{out}' must end in {'.mp4' if exact else ', '.join(CONTAINERS)}; name another file.")
    if out.exists() and source.exists() and out.samefile(source):
        raise CallError(f"'{out}' is the source itself; write to another path.")
    if moment.end <= moment.start or moment.end <= 0:
        raise CallError(f"the moment [{moment.start:g}, {moment.end:g}] of '{source}' has no length; give another.")
    moment = Segment(max(moment.start, 0.0), moment.end)
    try:
        with _placed(out) as temporary:
            work = _encoded if exact else _copied
            begins, ends = work(source, moment, temporary, form, quality)
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"a clip of '{source}' cannot be written as '{out.suffix}' ({reason}); take .mkv or an exact "
                         "one.") from None
    except OSError as error:
        raise unwritable(out, error) from None
    return Clip(out, begins, ends, exact)


@contextmanager
def _placed(out: Path) -> Iterator[Path]:
    """A name to write to, renamed to ``out`` when the block ends well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{uuid.uuid4().hex[:12]}{out.suffix}.tmp")
    try:
        yield temporary
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _opened(source: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        container = av.open(f"file:{source}", metadata_errors="replace", container_options=video.LIMITS)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"video '{source}' cannot be opened ({getattr(error, 'strerror', None) or error}): it is "
                         "damaged, cut off or not a video.") from None
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise VideoError(f"'{source}' has no video in it; name another file.")
        yield container, stream


def _ends(source: Path, moment: Segment) -> video.VideoInfo:
    info = video.probe(source)
    if moment.start >= info.duration:
        raise CallError(f"the moment [{moment.start:g}, {moment.end:g}] begins after the end of '{source}' "
                        f"({info.duration:.2f} s); give another.")
    return info


# ---------------------------------------------------------------------------------------------- copying


def _copied(source: Path, moment: Segment, out: Path, form: str, _: int) -> tuple[float, float]:
    """Packets from the keyframe before; when pictures begin and end."""
    info = _ends(source, moment)
    with closing(video.pictures_from(source, moment.start)) as shown_first:
        begin = max(next(shown_first)[0], 0.0)  # of the picture that is shown then
    # that picture at least: the last packet is found to a microsecond
    first, last = info.start + begin, info.start + max(min(moment.end, info.duration), begin + 1e-5)
    with _opened(source) as (container, pictures):
        sound = container.streams.best("audio")
        streams = [pictures, *([sound] if sound is not None else [])]
        clock = pictures.time_base or TICK
        key, there = _keyframe(source, container, pictures, math.floor(Fraction(first) / clock + Fraction(1, 2)))
        container.seek(there, stream=pictures)
        options = {"fflags": "bitexact"} | ({"movflags": "+faststart"} if form in EDITED else {})
        with av.open(f"file:{out}", "w", format=form, options=options) as target:
            outs: dict[int, Any] = {s.index: target.add_stream_from_template(s) for s in streams}
            begins: float | None = None
            shown = -math.inf
            over: set[int] = set()
            waiting: list[Any] = []
            for packet in _ordered(container.demux(*streams), pictures):
                stream = packet.stream
                tick = float(packet.time_base or TICK)
                if packet.size == 0 or packet.dts is None or packet.pts is None or stream.index in over:
                    continue
                at = packet.pts * tick
                if packet.is_discard:
                    continue
                if stream is pictures:
                    if begins is None:
                        if not packet.is_keyframe or packet.pts != key:
                            continue
                        begins = at
                    if packet.dts * tick >= last - 1e-6:  # in decoding order, all that follow are shown later still
                        over.add(stream.index)
                        if len(over) == len(streams):
                            break
                        continue
                    if at >= last - 1e-6 and not packet.is_keyframe and _unneeded(packet):
                        continue
                    shown = max(shown, min(at + (packet.duration or 0) * tick, last))
                else:
                    if at >= last:
                        over.add(stream.index)
                        if len(over) == len(streams):
                            break
                        continue
                    if at + (packet.duration or 0) * tick <= first:
                        continue
                # the clip's clock begins at the moment in MP4 (what is before is negative, and hidden by an edit
                # list), and at the keyframe elsewhere
                if begins is None:
                    waiting.append(packet)
                    waiting = waiting[-AHEAD:]
                    continue
                zero = first if form in EDITED else min(begins, first)
                for held in [*waiting, packet]:
                    step = held.time_base or TICK
                    shift = round(zero / float(step))
                    held.pts, held.dts = held.pts - shift, held.dts - shift
                    held.stream = outs[held.stream.index]
                    target.mux(held)
                waiting = []
            if begins is None:
                raise _unfit(source, moment.start)
    return max(begins - info.start, 0.0), max(shown, first) - info.start


def _ordered(packets: Iterable[Any], pictures: VideoStream) -> Iterator[Any]:
    """Packets with decoding times, which Matroska does not tell of the first pictures after a seek: those are counted
    back from the first that is told."""
    held: list[Any] = []
    for packet in packets:
        held.append(packet)
        if packet.size and packet.stream is pictures and packet.dts is not None:
            unknown = [one for one in held if one.stream is pictures and one.size and one.dts is None]
            step = round(1 / (pictures.average_rate or RATE) / (packet.time_base or TICK))
            for back, one in enumerate(reversed(unknown)):
                one.dts = packet.dts - (back + 1) * max(step, 1)
            yield from held
            held = []
            yield from packets
    yield from held


def _keyframe(source: Path, container: InputContainer, pictures: VideoStream, target: int) -> tuple[int, int]:
    """The last keyframe that is shown at ``target`` ticks or before, and where to seek to find it: some formats land
    behind what was asked for."""
    clock = pictures.time_base or TICK
    for back in (*video.BACK, math.inf):
        there = target - round(back / clock) if back < math.inf else min(pictures.start_time or 0, 0)
        with suppress(av.FFmpegError):
            container.seek(there, stream=pictures)
            key = None
            for packet in container.demux(pictures):
                if packet.pts is None or packet.is_discard:
                    continue
                if packet.is_keyframe and packet.pts <= target:
                    key = packet.pts
                if packet.dts is not None and packet.dts > target:
                    break
            if key is not None:
                return key, there
    raise _unfit(source, float(target * clock))


def _unfit(source: Path, at: float) -> VideoError:
    return VideoError(f"video '{source}' has no keyframe from which its second {at:.2f} could be shown; cut it "
                      "exactly.")


def _unneeded(packet: Any) -> bool:
    """Whether nothing else is decoded from it."""
    return bool(getattr(packet, "is_disposable", False))


# ---------------------------------------------------------------------------------------------- encoding


def _encoded(source: Path, moment: Segment, out: Path, form: str, quality: int) -> tuple[float, float]:
    """The pictures that are shown within the moment, and its sound; when they begin and end."""
    info = _ends(source, moment)
    end = min(moment.end, info.duration)
    options = {"movflags": "+faststart", "fflags": "bitexact"}
    with av.open(f"file:{out}", "w", format=form, options=options) as target:
        stream: Any = None
        voice: Any = None
        sound = _sound(source, info.start + moment.start, end - moment.start)
        held = next(sound, None)
        for at, image in video.frames(source, start=moment.start, end=end):
            if stream is None:
                height, width = (n + n % 2 for n in image.shape[:2])
                stream = target.add_stream("libx264", rate=video.fraction_of(max(info.fps, 1.0)), options={
                    "crf": str(quality), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"})
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.codec_context.time_base = TICK
                # what the conversion from RGB does; unsaid, players assume otherwise for large pictures
                stream.codec_context.colorspace = Colorspace.SMPTE170M
                stream.codec_context.color_range = ColorRange.MPEG
                if held is not None:
                    voice = target.add_stream("aac", rate=held.sample_rate, layout=held.layout.name,
                                              options={"flags": "+bitexact"})
            padded = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), "edge")
            picture = VideoFrame.from_ndarray(padded, format="rgb24")
            picture.pts, picture.time_base = round(max(at - moment.start, 0.0) / TICK), TICK
            target.mux(stream.encode(picture))
            while voice is not None and held is not None and (held.time or 0.0) <= at - moment.start:
                target.mux(voice.encode(held))
                held = next(sound, None)
        if stream is None:
            raise VideoError(f"video '{source}' shows nothing within [{moment.start:g}, {moment.end:g}]; give another "
                             "moment.")
        target.mux(stream.encode(None))
        while voice is not None and held is not None:
            target.mux(voice.encode(held))
            held = next(sound, None)
        if voice is not None:
            target.mux(voice.encode(None))
    return moment.start, end


def _sound(source: Path, first: float, length: float) -> Iterator[AudioFrame]:
    """Samples of ``length`` seconds from ``first`` on the container's clock; none where there is no sound.

    Silence where there is none; what cannot be decoded is skipped: sound is no reason to lose the pictures.
    """
    with suppress(av.FFmpegError, ValueError, IndexError), _opened(source) as (container, _):
        stream: Any = container.streams.best("audio")
        if stream is None or stream.codec_context is None:
            return
        container.seek(max(0, int((first - 1.0) * av.time_base)))
        layout, rate, written = "stereo", 48000, 0
        total = round(length * rate)
        resampler = AudioResampler("fltp", layout, rate)
        for frame in container.decode(stream):
            if frame.time is None or frame.time >= first + length:
                break
            for taken in resampler.resample(frame):
                begin = round(((taken.time if taken.time is not None else frame.time) - first) * rate)
                samples = taken.to_ndarray()
                if abs(begin - written) > rate // 20 or written == 0:
                    if begin > written:
                        yield _heard(np.zeros((2, min(begin, total) - written), np.float32), written, rate)
                        written = min(begin, total)
                    samples = samples[:, max(0, written - begin):]
                samples = samples[:, : total - written]
                if samples.shape[1]:
                    yield _heard(samples, written, rate)
                    written += samples.shape[1]


def _heard(samples: np.ndarray, at: int, rate: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
    return frame


# ---------------------------------------------------------------------------------------------- many


@dataclass
class Cut:
    """What became of many moments."""

    clips: list[Clip]
    failed: dict[str, str]
    """Video id -> why nothing, or not all, was cut from it."""


def cut_all(moments: Mapping[str, Sequence[Segment]], videos: str | Path, out: str | Path, exact: bool = False,
            least: float | None = None, top: int | None = None) -> Cut:
    """Cut moments out of the videos of a folder: ``<video>_<number>_<label>.<ending>`` each, in the order given.

    Args:
        moments: video id -> its segments.
        videos: folder with their files (:func:`cuemark.video.find_videos`).
        out: folder to write to; clips of the same name are replaced.
        exact: see :func:`cut`.
        least: only segments with at least this score.
        top: of each video the so many first ones.

    Raises:
        CallError: impossible settings.
        VideoError: there is no such folder of videos.
        DataError: nothing can be written there.
    """
    if top is not None:
        within("top", top, 1)
    out = Path(out)
    chosen = {vid: [s for s in segments if least is None or (s.score or 0.0) >= least][:top]
              for vid, segments in moments.items()}
    chosen = {vid: segments for vid, segments in chosen.items() if segments}
    files = video.find_videos(videos, chosen)
    result = Cut([], {vid: f"no file of this name in '{videos}'." for vid in chosen if vid not in files})
    with Bar("cutting", sum(len(chosen[vid]) for vid in files)) as bar:
        for vid, path in files.items():
            ending = ".mp4" if exact or path.suffix.lower() not in CONTAINERS else path.suffix.lower()
            for number, segment in enumerate(chosen[vid]):
                name = "_".join(part for part in (
                    _safe(vid), f"{number + 1:03d}", _safe(segment.label or segment.query or "")) if part)
                try:
                    result.clips.append(cut(path, segment, out / f"{name}{ending}", exact))
                except (CallError, VideoError) as error:
                    result.failed.setdefault(vid, str(error))
                bar.advance()
    return result


def _safe(name: str) -> str:
    """A part of a file's name that every file system takes."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")[:80]


