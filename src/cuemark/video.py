"""Video files in and out: probe, pictures by presentation time, random access, writing. All through PyAV.

**Time** is seconds since the presentation time of the first picture that decodes. That is what an annotation made in
a player or on a re-encoded copy means; a container's own clock may start at 10 s or at hours, and
:attr:`VideoInfo.start` keeps that offset. Frame rates and frame counts in headers are never used as time: pictures are
found by their timestamps, so variable frame rates need nothing special.

What is done where files disagree with themselves:

- Timestamps that run backwards: times are served strictly increasing, and a picture that is not later than the one
  before it is dropped (and counted in a warning).
- No timestamps (raw H.264): each picture lasts as long as the stream says, else 1/25 s.
- AVI knows only decoding times; the decoder's output order with those times is the right clock there.
- Pictures an edit list hides, and pictures before the first one that can be decoded, do not exist.
- Damage in the middle: unreadable packets are skipped, as players do, with one warning per file. Which pictures survive
  does not depend on the number of threads.
- Pixels are taken as square: a picture is served as stored, only turned or mirrored as its display matrix says.
- Where pictures change their size, the first one that a call returns sets it, and later ones are scaled to it.

Everything that keeps a file from being read is a :class:`~cuemark.errors.VideoError`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from cuemark.errors import CallError, VideoError
from cuemark.progress import say
from cuemark.segments import replacing

Pictures = Generator[tuple[float, VideoFrame], None, None]
"""Seconds since the first picture, and the picture as decoded."""

log = logging.getLogger("cuemark")
av.logging.set_level(None)  # FFmpeg's chatter about odd files is not for the user's terminal

EXTENSIONS = (
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".flv", ".wmv", ".3gp",
    ".ogv", ".vob", ".gif", ".3g2", ".f4v", ".qt", ".mj2", ".ismv", ".mk3d", ".divx", ".xvid", ".asf", ".wm", ".dvr-ms",
    ".ogm", ".rm", ".rmvb", ".mxf", ".gxf", ".m1v", ".m2v", ".mpe", ".mpv", ".m2p", ".m2t", ".trp", ".mod", ".tod",
    ".dv", ".dif", ".dav", ".nut", ".nuv", ".wtv", ".ty", ".swf", ".viv", ".kux", ".lrv", ".insv", ".y4m", ".ivf",
    ".obu", ".mjpg", ".mjpeg", ".h261", ".h263", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".h266", ".266",
    ".vvc", ".vc1")
"""What a video file may be called, of the containers in :data:`FORMATS`; of two files with the same stem, the earlier
extension wins."""

THREADS = 4  # decoding threads per open file; more only pays for itself where one file is read at a time
SKIP = 10.0  # seconds: times further apart than this are reached by another seek instead of decoding in between
DETOUR = 0.3  # seconds: a keyframe that spares an open file's reader less than this is not worth a seek
BACK = (0.0, 2.0, 10.0, 60.0)  # seconds to aim earlier, each in turn, when a seek lands behind its target

FORMATS = ("asf,av1,avi,avs2,avs3,cavsvideo,dhav,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,kux,live_flv,m4v,matroska,"
           "mjpeg,mov,mpeg,mpegts,mpegtsraw,mpegvideo,mxf,nut,nuv,obu,ogg,rm,swf,ty,vc1,vivo,vvc,wtv,yuv4mpegpipe")
"""FFmpeg's names of the containers read. It also "plays" text files, pictures, and playlists that name other places."""

EXACT_BILINEAR = Interpolation.BILINEAR | Interpolation.ACCURATE_RND
SCALING = "bilinear, exact rounding, full colour"
"""How pictures become RGB of another size, as features folders record it."""
MARKED = 64 << 10
"""Bytes that :func:`mark` reads in each of three places."""
COLOURSPACES = {0, 1, 2, 4, 5, 6, 7, 9}  # those of ISO/IEC 23091-2 that the scaler converts; 2: not said
LIMITS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
_warned: set[Path] = set()


@dataclass(frozen=True)
class VideoInfo:
    """What a video file really holds, measured on its packets."""

    path: Path
    width: int
    """Pixels as displayed (after rotation), taken as square."""
    height: int
    duration: float
    """Seconds from the beginning of the first picture to the end of the last."""
    frames: int
    """Pictures between the two; packets that turn out to be unreadable are counted."""
    fps: float
    """``frames / duration``: an average, meaningless as a clock."""
    start: float
    """Presentation time of the first picture on the container's own clock, in seconds."""
    rotation: int
    """Degrees (0, 90, 180, 270) by which stored pictures are turned clockwise to be displayed."""
    codec: str
    """FFmpeg's name of the format: ``"h264"``, ``"hevc"``, ``"av1"`` …"""


# --------------------------------------------------------------------------------------------- opening


class _Broken(Exception):
    """Something in the file is unreadable, and whoever is reading it would rather begin again with more care."""


@dataclass
class _Source:
    """An open file: its best video stream, and what has gone wrong in it so far."""

    path: Path
    container: InputContainer
    stream: VideoStream
    strict: bool
    """Raise :class:`_Broken` at the first thing that cannot be read: with threads, others would get lost, too."""
    unreadable: int = 0
    backwards: int = 0

    def stamp(self, item: Packet | VideoFrame) -> int | None:
        """Position of a packet or picture on the stream's clock, in ticks."""
        return item.dts if self.container.format.name == "avi" else item.pts

    def seconds(self, ticks: int) -> float:
        tick = self.stream.time_base or Fraction(1)
        return ticks * tick.numerator / tick.denominator

    def step(self, item: Packet | VideoFrame) -> float:
        """How long something without a successor lasts, in seconds, as far as its stream says."""
        return self.seconds(item.duration) if item.duration else 1 / float(self.stream.average_rate or 25)

    def packets(self) -> Iterator[Packet]:
        """From the current position to the end, or to where reading fails; last, the empty one that drains decoders."""
        try:
            yield from self.container.demux(self.stream)
        except IndexError:  # PyAV, after the last packet of a file in which another stream began late
            return
        except av.FFmpegError:
            self._count_unreadable()
            yield Packet()

    def pictures(self, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
        """Decode; packets that cannot be are counted and skipped."""
        fed = seen = -math.inf
        for packet in packets:
            if packet.pts is not None and not packet.is_discard:
                fed = max(fed, packet.pts)
            try:
                pictures = self.stream.decode(packet)
            except av.FFmpegError:
                self._count_unreadable()
                continue
            for picture in pictures:
                seen = max(seen, picture.pts if picture.pts is not None else seen)
                yield picture
        if self.strict and fed > seen:  # an error among the last packets makes threads drop the rest silently
            raise _Broken

    def _count_unreadable(self) -> None:
        if self.strict:
            raise _Broken
        self.unreadable += 1

    def from_keyframe_before(self, target: int) -> Iterator[VideoFrame] | None:
        """Pictures from a keyframe at or before ``target`` ticks on, or None if this seek does not lead to one.

        Some formats land on any packet, or behind the target. What comes before the first keyframe is not decoded: it
        would be made up from missing references.
        """
        try:
            self.container.seek(target, stream=self.stream)
        except av.FFmpegError:
            return None
        packets = self.packets()
        key = None
        for packet in packets:
            if packet.is_keyframe and (key := self.stamp(packet)) is not None:
                break
        if key is None or key > target:
            return None
        pictures = self.pictures(chain([packet], packets))
        first = next(pictures, None)
        if first is None or (at := self.stamp(first)) is None or at > target:
            return None
        return chain([first], pictures)


@contextmanager
def _opened(path: Path, threaded: bool = True) -> Iterator[_Source]:
    """Open a file for reading and close it whatever happens; all failures become :class:`VideoError`."""
    _check_file(path)
    try:
        # "file:" so that a name such as "http:x.mp4" is a file
        container = av.open(f"file:{path}", metadata_errors="replace", container_options=LIMITS)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _unusable(path, f"cannot be opened ({_reason(error)}): it is damaged, cut off or not a video") from None
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            kinds = ", ".join(sorted({s.type for s in container.streams if s is not stream}))
            raise _unusable(path, f"has no video in it ({f'only {kinds}' if kinds else 'no streams at all'})")
        if stream.codec_context is None:
            raise _unusable(path, "is in a format that this FFmpeg cannot decode; convert it to H.264")
        stream.thread_type = "AUTO" if threaded else "NONE"
        stream.thread_count = THREADS if threaded else 1
        try:
            yield _Source(path, container, stream, threaded)
        except (av.FFmpegError, OSError, EOFError, ValueError) as error:
            raise _unusable(path, f"cannot be read ({_reason(error)})") from error


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise VideoError(f"video '{path}' does not exist; check the path.") from None
    except (OSError, ValueError) as error:
        raise VideoError(f"video '{path}' cannot be read: {_reason(error)}.") from None
    if path.is_dir():
        raise VideoError(f"'{path}' is a folder, not a video; name a file inside it.")
    if not path.is_file():
        raise VideoError(f"'{path}' is a device or a pipe, not a video file; copy its content to a file first.")
    if size == 0:
        raise VideoError(f"video '{path}' is empty (0 bytes); copy or download it again.")


def _unusable(path: Path, reason: str) -> VideoError:
    try:  # an encrypted MP4 fails in many ways, but says so in its header
        with open(path, "rb") as file:
            if b"encv" in file.read(1 << 20):
                reason = "is encrypted (DRM); get a copy without protection"
    except OSError:
        pass
    return VideoError(f"video '{path}' {reason}.")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _warn(source: _Source) -> None:
    """Once per file and process: what was skipped in it."""
    if (source.unreadable or source.backwards) and source.path not in _warned:
        _warned.add(source.path)
        log.warning("video '%s' is damaged; skipped so far: %d unreadable packets, %d pictures that go back in time.",
                    source.path, source.unreadable, source.backwards)


# --------------------------------------------------------------------------------------------- pictures in time


def pictures_from(path: Path, start: float = 0.0) -> Pictures:
    """Seconds and picture, strictly increasing, beginning with the one shown at ``start`` (clamped to the video).

    At an error, a decoder with threads also loses good pictures; how many depends on their number. So at the first
    one the file is opened again with a single thread, which carries on after the last picture that was served.
    """
    last = -math.inf
    for threaded in (True, False):
        try:
            with closing(_shown_from(path, max(start, last), threaded)) as pictures:
                for time, picture in pictures:
                    if time > last:
                        yield time, picture
                        last = time
            return
        except _Broken:
            continue


def _shown_from(path: Path, start: float, threaded: bool) -> Pictures:
    for seek in (True, False) if start > 0 else (False,):
        with _opened(path, threaded) as source:
            pictures = source.pictures(source.packets())
            first = next(pictures, None)
            if first is None:
                raise _unusable(path, "has no picture that can be decoded "
                                f"({source.unreadable} unreadable packets): it is damaged or was cut off")
            origin = source.stamp(first)
            found = _sought(source, origin, start) if seek else chain([first], pictures)
            if found is None:
                continue  # this file cannot be entered in the middle: from its beginning, then
            try:
                shown = None
                for time, picture in _timed(source, origin, found, start):
                    if start > 0 and time <= start + tolerance(picture):
                        shown = time, picture  # unless the next one is, too
                        continue
                    if shown is not None:
                        yield shown
                        shown = None
                    yield time, picture
                if shown is not None:
                    yield shown
            finally:
                _warn(source)
        return


def _sought(source: _Source, origin: int | None, start: float) -> Iterator[VideoFrame] | None:
    """Pictures from somewhere before the one shown at ``start`` on, or None if seeking does not work."""
    if origin is None or source.stream.time_base is None:
        return None
    # an MPEG program stream dates only some packets (at least every 0.7 s); the dates in between are wrong after a seek
    for back in BACK[1:] if source.container.format.name == "mpeg" else BACK:
        target = origin + math.floor((start - back) / source.stream.time_base)
        if target < origin:
            break
        if (pictures := source.from_keyframe_before(target)) is not None:
            return pictures
    return None


def _timed(source: _Source, origin: int | None, pictures: Iterable[VideoFrame], start: float) -> Pictures:
    time, until = -math.inf, 0.0
    for picture in pictures:
        at = source.stamp(picture)
        # the last pictures of an AVI have no times either: one without follows the one before it
        now = until if at is None or origin is None else source.seconds(at - origin)
        if now <= time:
            source.backwards += now > start  # what is before is a seek's run-up
            continue
        time, until = now, now + source.step(picture)
        yield time, picture


def tolerance(picture: VideoFrame) -> float:
    """Seconds by which a rounded timestamp may lie behind the moment that was meant.

    Matroska, WebM and FLV count whole milliseconds: at 30 fps, picture 2 stands at 0.067 s and is meant by 2/30 s.
    A little less than a tick, since pictures may be a tick apart.
    """
    return max(1e-4, min(0.9 * float(picture.time_base or 0), 1e-3))


class _Painter:
    """Pictures to ``(H, W, 3)`` uint8 RGB arrays of one size: scaled in native code, then turned for display.

    One scaler for all of them: building one per picture halves the speed. Bilinear: the fast variant moves pixels.
    Planes of red, green and blue rather than pixels of the three: the scaler then interpolates colour in full and has
    vector code for it, so that it is 0.3 of 255 from the exact answer in place of up to 1.7, and faster
    (``benchmarks/decode.py``). Accurate rounding costs nothing measurable, and without it the conversion of pictures
    that keep their size leaves the last columns of planes undone.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None) -> None:
        self.path = path
        self.size = size
        self.matrix: tuple[int, int, int, int] | None = None
        self.scaler = VideoReformatter()

    def __call__(self, picture: VideoFrame) -> np.ndarray:
        if self.matrix is None:  # the first picture decides for all
            self.matrix = display_matrix(picture)
        if self.size is None:
            self.size = _displayed_size(picture)
        a, b, c, d = self.matrix
        sideways = abs(b) > abs(a)
        height, width = self.size[::-1] if sideways else self.size
        if picture.colorspace not in COLOURSPACES:  # cameras write reserved numbers
            picture.colorspace = 2
        try:
            rgb = self.scaler.reformat(picture, width, height, "gbrp", interpolation=EXACT_BILINEAR, threads=1)
            pixels = rgb.to_ndarray()
        except (av.FFmpegError, ValueError) as error:
            raise _unusable(self.path, f"cannot be converted to RGB ({_reason(error)})") from error
        # the matrix sends a stored pixel (x, y) to the displayed (a x + c y, b x + d y)
        if sideways:
            pixels, a, d = pixels.transpose(1, 0, 2), c, b
        return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def display_matrix(picture: VideoFrame) -> tuple[int, int, int, int]:
    """``a, b, c, d`` of the display matrix (its upper left 2 x 2, by rows)."""
    data: Any = picture.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(data, np.int32).tolist()
    return a, b, c, d


def _displayed_size(picture: VideoFrame) -> tuple[int, int]:
    a, b, *_ = display_matrix(picture)
    return (picture.width, picture.height) if abs(b) > abs(a) else (picture.height, picture.width)


# --------------------------------------------------------------------------------------------- reading


def probe(path: str | Path) -> VideoInfo:
    """Measure a video: every packet's time is read, and one picture is decoded to be sure that it can be.

    Raises:
        VideoError: the file is missing, empty, not a video, encrypted, without video, or nothing in it decodes.
    """
    path = Path(path)
    with closing(pictures_from(path)) as pictures:
        _, picture = next(pictures)
    with _opened(path, threaded=False) as source:
        # two numbers a packet, in arrays, so that hours of video do not fill the memory
        packets, stamps, lengths = 0, array("q"), array("q")  # in ticks; a length of 0: the packet does not say
        for packet in source.packets():
            if packet.size and not packet.is_discard:
                packets += 1
                if (at := source.stamp(packet)) is not None:
                    stamps.append(at)
                    lengths.append(packet.duration or 0)
        ticks, last = np.unique(np.array(stamps)[::-1], return_index=True)  # of packets at one time, the last counts
        # an AVI's decoding times run ahead of its pictures by the same delay from beginning to end
        start = source.stamp(picture) if source.container.format.name != "avi" else ticks[0] if len(ticks) else None
        known = ticks >= start if start is not None else np.zeros(len(ticks), bool)
        ticks, last = ticks[known], last[known]
        count, begin = len(ticks) or packets, source.seconds(int(start or 0))
        if len(ticks):
            length = lengths[len(lengths) - 1 - last[-1]] or float(np.median(np.diff(ticks) if len(ticks) > 1 else 0))
            duration = source.seconds(int(ticks[-1])) - begin + source.seconds(1) * length
        else:  # a raw stream without times
            duration = count * source.step(picture)
        if duration <= 0:  # a single picture that does not say how long it stays
            rate, whole = source.stream.average_rate, source.container.duration
            duration = 1 / float(rate) if rate else whole / av.time_base if whole else 1 / 25
        codec = source.stream.codec_context.codec.canonical_name
    height, width = _displayed_size(picture)
    a, b, *_ = display_matrix(picture)
    rotation = round(math.degrees(math.atan2(b, a)) / 90) % 4 * 90
    return VideoInfo(path, width, height, duration, count, count / duration, begin, rotation, codec)


def frames(path: str | Path, size: tuple[int, int] | None = None, start: float = 0.0, end: float | None = None
           ) -> Iterator[tuple[float, np.ndarray]]:
    """Decode the pictures shown in ``[start, end)``, in order.

    Args:
        size: height and width of what is returned; the displayed size by default.
        start: seconds since the first picture. The first one returned is the one being *shown* then, so it may be
            older than ``start``; after the last picture, that is the last.
        end: seconds; None for all the rest.

    Yields:
        Seconds since the first picture, strictly increasing, and ``(H, W, 3)`` uint8 RGB.

    Raises:
        VideoError: at the first picture asked for, if the file cannot be used (see :func:`probe`).
        CallError: ``size``, ``start`` or ``end`` is not possible.
    """
    _check_size(size)
    if not math.isfinite(start) or (end is not None and math.isnan(end)):
        raise CallError(f"start and end must be numbers of seconds, got {start} and {end}.")
    return _frames(Path(path), size, start, math.inf if end is None else end)


def _frames(path: Path, size: tuple[int, int] | None, start: float, end: float) -> Iterator[tuple[float, np.ndarray]]:
    paint = _Painter(path, size)
    with closing(pictures_from(path, start)) as pictures:
        for i, (time, picture) in enumerate(pictures):
            if end <= max(start, 0) or (i and time >= end - tolerance(picture)):
                return
            yield time, paint(picture)


def frames_every(path: str | Path, step: float, count: int, size: tuple[int, int] | None = None
                 ) -> Iterator[np.ndarray]:
    """The pictures shown at 0, ``step``, 2 ``step`` … seconds: ``count`` arrays ``(H, W, 3)`` uint8 RGB.

    As :func:`frames_at`, for a whole video in one pass: every picture is decoded once, and only those that are shown
    at one of the moments are converted. Where the video ends early, its last picture is repeated. The same array may
    be yielded several times.

    Raises:
        VideoError: at the first picture asked for, if the file cannot be used (see :func:`probe`).
        CallError: ``size`` is not possible.
    """
    _check_size(size)
    return _frames_every(Path(path), step, count, size)


def _frames_every(path: Path, step: float, count: int, size: tuple[int, int] | None) -> Iterator[np.ndarray]:
    paint, number = _Painter(path, size), 0
    shown: VideoFrame | None = None
    painted: np.ndarray | None = None
    with closing(pictures_from(path)) as pictures:
        for time, picture in pictures:
            while shown is not None and number < count and number * step < time - tolerance(picture):
                painted = paint(shown) if painted is None else painted
                yield painted
                number += 1
            if number == count:
                return
            shown, painted = picture, None
    assert shown is not None  # pictures_from raises where there is none
    painted = paint(shown) if painted is None else painted
    for _ in range(number, count):
        yield painted


def frames_at(path: str | Path, times: Sequence[float] | np.ndarray, size: tuple[int, int] | None = None
              ) -> np.ndarray:
    """The pictures shown at some moments.

    A picture is shown from its own time until the next one's. The moment may lie up to a tick of the file's clock (at
    least 0.1 ms, at most 1 ms) before a picture's time and still mean it, since files round their times.
    Moments close to each other are reached by one seek and one pass.

    Args:
        times: n seconds since the first picture, in any order, repeated or not; clamped to the video.
        size: height and width of what is returned; the displayed size by default.

    Returns:
        ``(n, H, W, 3)`` uint8 RGB.

    Raises:
        VideoError: the file cannot be used (see :func:`probe`).
        CallError: a time is not a finite number, or ``size`` is not possible.
    """
    path = Path(path)
    _check_size(size)
    asked = _moments(times)
    paint = _Painter(path, size)
    if not len(asked):
        with closing(pictures_from(path)) as pictures:
            return np.zeros((0, *paint(next(pictures)[1]).shape), np.uint8)
    order = np.argsort(asked, kind="stable")
    out: np.ndarray | None = None
    for run in np.split(order, np.flatnonzero(np.diff(asked[order]) > SKIP) + 1):
        for row, image in _shown_at(path, asked, run, paint):
            if out is None:
                out = np.empty((len(asked), *image.shape), np.uint8)
            out[row] = image
    assert out is not None
    return out


def _shown_at(path: Path, asked: np.ndarray, rows: np.ndarray, paint: _Painter) -> Iterator[tuple[int, np.ndarray]]:
    """Each row and what is shown at its moment, in one pass; ``rows`` are in the order of their moments."""
    with closing(pictures_from(path, asked[rows[0]])) as pictures:
        _, shown = next(pictures)
        image = None
        waiting = iter(rows.tolist())
        row = next(waiting)
        for time, picture in chain(pictures, [(math.inf, shown)]):
            while time > asked[row] + tolerance(picture):
                if image is None:
                    image = paint(shown)
                yield row, image
                if (row := next(waiting, -1)) < 0:
                    return
            shown, image = picture, None


class Reader:
    """A video that is kept open, for many short looks at it: the pictures of :func:`frames_at`, bit for bit.

    What a single call spends on opening the file and on finding its first picture is spent once. A call goes on from
    where the last one ended if that is near, else from the keyframe before; so moments asked for together, in any
    order, are one way forward through the file. It decodes with one thread: several would have to be filled after
    each seek; read several videos at a time instead.

    Where a file turns out damaged or strange, and whenever it is replaced, all is left to :func:`frames_at` or to a
    new opening. The file is opened by the first call, and again by one after :meth:`close`. One thread at a time.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._held = ExitStack()
        self._file: tuple[int, ...] | None = None  # which file it was, when it was last looked at
        self._odd = False  # left to frames_at
        self._source: _Source | None = None
        self._origin: int | None = None
        self._pictures: Pictures
        self._shown: tuple[float, VideoFrame]  # where it stands
        self._next: tuple[float, VideoFrame] | None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._source = None
        self._held.close()

    def at(self, times: Sequence[float] | np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """The pictures shown at some moments; arguments, result and errors are those of :func:`frames_at`."""
        _check_size(size)
        asked = _moments(times)
        if (file := _identity(self.path)) != self._file:
            self.close()
            self._file, self._odd = file, False
        if len(asked) and not self._odd:
            try:
                return self._at(asked, size)
            except (_Broken, VideoError, av.FFmpegError, OSError, EOFError, ValueError):
                self.close()
                self._odd = True
            except BaseException:  # interrupted, who knows where
                self.close()
                raise
        return frames_at(self.path, asked, size)

    def _at(self, asked: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
        paint = _Painter(self.path, size)
        out = painted = None
        for row in np.argsort(asked, kind="stable").tolist():
            picture = self._picture(max(float(asked[row]), 0.0))
            if picture is not painted:
                painted, image = picture, paint(picture)
            if out is None:
                out = np.empty((len(asked), *image.shape), np.uint8)
            out[row] = image
        assert out is not None
        return out

    def _picture(self, time: float) -> VideoFrame:
        """What is shown at ``time``; from here on, or from the keyframe before."""
        source = self._source or self._open()
        if not self._is_ahead(source, time):
            if (found := _sought(source, self._origin, time)) is not None:
                self._stand(source, found, time)
            else:
                source = self._open()
        while self._next is not None and self._next[0] <= time + tolerance(self._next[1]):
            self._shown, self._next = self._next, next(self._pictures, None)
        if source.backwards:  # what is served may depend on where one came from
            raise _Broken
        return self._shown[1]

    def _open(self) -> _Source:
        """Open the file, and stand at its beginning."""
        self.close()
        source = self._held.enter_context(_opened(self.path, threaded=False))
        source.strict = True
        pictures = source.pictures(source.packets())
        first = next(pictures, None)
        if first is None:
            raise _Broken
        self._origin = source.stamp(first)
        self._stand(source, chain([first], pictures), 0.0)
        self._source = source
        return source

    def _stand(self, source: _Source, pictures: Iterator[VideoFrame], start: float) -> None:
        self._pictures = _timed(source, self._origin, pictures, start)
        self._shown, self._next = next(self._pictures), next(self._pictures, None)

    def _is_ahead(self, source: _Source, time: float) -> bool:
        """Whether decoding on is the way to ``time``: it is not behind, and no keyframe is much nearer."""
        at, picture = self._shown
        if at > time + tolerance(picture):
            return False
        if self._next is None:  # the last one stays
            return True
        here = self._next[0]
        if self._origin is None or source.stream.time_base is None:
            return time - here <= SKIP
        # as far as the file has told: MP4 lists all of its keyframes, MPEG-TS none
        entries = source.stream.index_entries
        number = entries.search_timestamp(self._origin + math.floor(time / source.stream.time_base))
        nearest = source.seconds(entries[number].timestamp - self._origin) if number >= 0 else -math.inf
        return time - here <= SKIP and nearest - here <= DETOUR


def _identity(path: Path) -> tuple[int, ...] | None:
    """Changes when a file is replaced or written to, and in a fork, which shares its parent's place in an open file.

    None: it is not there.
    """
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return os.getpid(), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _moments(times: Sequence[float] | np.ndarray) -> np.ndarray:
    asked = np.asarray(times, np.float64)
    if asked.ndim != 1 or not np.isfinite(asked).all():
        raise CallError(f"times must be a list of finite numbers of seconds, got {times!r:.80}.")
    return asked


def _check_size(size: tuple[int, int] | None) -> None:
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise CallError(f"size must be (height, width) in pixels, got {size}.")


# --------------------------------------------------------------------------------------------- writing


def fraction_of(fps: float) -> Fraction:
    """30000/1001 for 29.97, and so on for television's other rates; else the fraction that a person meant."""
    broadcast = Fraction(round(fps) * 1000, 1001)
    return broadcast if abs(fps - broadcast) < 1e-4 else Fraction(fps).limit_denominator(1001)


def write(path: str | Path, images: Iterable[np.ndarray], fps: float = 30, quality: int = 23, keyframe_every: int = 16
          ) -> None:
    """Write an MP4 (H.264, yuv420p) that every browser plays; all of it or nothing, and the same bytes every time.

    Args:
        images: ``(H, W, 3)`` uint8 RGB, all of one size. H.264 in this form needs even sizes: an odd one is padded
            by repeating the last row or column.
        fps: pictures per second; 29.97 and the like are taken as the fraction they mean.
        quality: x264's constant rate factor, 0 (lossless) to 51; 6 more halves the file.
        keyframe_every: at most so many pictures from one keyframe to the next. Small: cheap random access.

    Raises:
        CallError: no images, or one that is not such an array, or an ``fps`` that is not positive.
        VideoError: the file cannot be written there.
    """
    path = Path(path)
    rate = fraction_of(fps) if math.isfinite(fps) else Fraction(0)
    if rate <= 0:
        raise CallError(f"fps must be a positive number, got {fps}.")
    if not (0 <= quality <= 51 and keyframe_every >= 1):
        raise CallError(f"quality must be 0 to 51 and keyframe_every at least 1, got {quality} and {keyframe_every}.")
    images = iter(images)
    first = next(images, None)
    if first is None:
        raise CallError(f"no images to write to '{path}'.")
    _check_image(first, first, 0)
    height, width = (n + n % 2 for n in first.shape[:2])
    # one thread, no version strings from the muxer, and not x264's macroblock tree (25 encodings of the same pictures
    # with it gave up to 25 different files): the same bytes every time
    options = {"crf": str(quality), "g": str(keyframe_every), "preset": "veryfast", "threads": "1",
               "x264-params": "mbtree=0"}
    try:
        with replacing(path, "wb") as file, av.open(file, "w", format="mp4", options={"fflags": "bitexact"}) as target:
            stream = target.add_stream("libx264", rate=rate, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            # what the conversion from RGB below does; unsaid, browsers assume otherwise for large pictures
            stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.SMPTE170M, ColorRange.MPEG
            for i, image in enumerate(chain([first], images)):
                _check_image(image, first, i)
                padded = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), "edge")
                picture = VideoFrame.from_ndarray(padded, format="rgb24")
                picture.pts = i
                target.mux(stream.encode(picture))
            target.mux(stream.encode(None))
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"video '{path}' cannot be written: {_reason(error)}.") from error


def _check_image(image: np.ndarray, first: np.ndarray, i: int) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise CallError(f"image {i} must be a (height, width, 3) uint8 array, got "
                        f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}.")
    if image.shape != first.shape or 0 in image.shape:
        raise CallError(f"image {i} is {image.shape[1]}x{image.shape[0]}, but image 0 is "
                        f"{first.shape[1]}x{first.shape[0]}; all must have one size, and it must not be empty.")


def jpeg(image: np.ndarray, quality: int = 85) -> bytes:
    """A ``(H, W, 3)`` uint8 RGB image as a JPEG file, for thumbnails and reports.

    Through Pillow (matplotlib brings it): ``quality`` then means what everybody knows, 1 to 95; FFmpeg's JPEG
    encoder speaks in quantiser steps.
    """
    from PIL import Image  # here: nothing else in this file needs it

    _check_image(image, image, 0)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


# --------------------------------------------------------------------------------------------- finding


def expand(paths: Iterable[str | Path], leave_out: str | Path | None = None) -> list[Path]:
    """The files among ``paths`` as they are, and the video files at any depth of the folders among them, by name.

    What is hidden (a name that begins with a dot, as those of our temporary files do) is passed over. Files with other
    extensions are not looked at either, and one line says how many those are. A file that is not there is kept if its
    name is a video's: whoever reads it names it among those that failed.

    Args:
        leave_out: a folder that is not walked into, such as the one that is written to.

    Raises:
        VideoError: a path that is neither there nor the name of a video.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if path.suffix.lower() not in EXTENSIONS and not os.path.lexists(path):
                raise VideoError(f"'{path}' does not exist; check the path.")
            found.append(path)
            continue
        inside = list(_walked(path, leave_out))
        videos = sorted(p for p in inside if p.suffix.lower() in EXTENSIONS)
        if len(videos) < len(inside):
            endings = sorted({p.suffix.lower() or "none" for p in inside} - set(EXTENSIONS))
            named = ", ".join(endings[:5]) + (", …" if len(endings) > 5 else "")
            say(f"'{path}': videos: {len(videos)}; files not looked at, by their extensions ({named}): "
                f"{len(inside) - len(videos)}")
        found.extend(videos)
    return found


def _walked(folder: Path, leave_out: str | Path | None = None) -> Iterator[Path]:
    """Every file at any depth that is not hidden. Links to folders are not followed: they may lead in circles."""
    without = None if leave_out is None else os.path.realpath(leave_out)
    for root, folders, names in os.walk(folder):
        folders[:] = [f for f in folders
                      if not f.startswith(".") and (without is None or os.path.realpath(f"{root}/{f}") != without)]
        yield from (Path(root, name) for name in names if not name.startswith("."))


def find_videos(folder: str | Path, ids: Iterable[str]) -> dict[str, Path]:
    """The file of each video id, at any depth: ``<id>.<ext>`` or, as ActivityNet's users name them, ``v_<id>.<ext>``.

    Hidden files are passed over. Ids without a file are left out: whoever calls knows whether that is an error. Of
    several files for one id, the plain name wins, then the earlier of :data:`EXTENSIONS`, then the first path in
    alphabetical order.

    Raises:
        VideoError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise VideoError(f"video folder '{folder}' does not exist; check the path.")
    by_stem: dict[str, Path] = {}
    rank = {extension: i for i, extension in enumerate(EXTENSIONS)}
    ranked = [(rank[p.suffix.lower()], p) for p in _walked(folder) if p.suffix.lower() in rank]
    for _, path in sorted(ranked):
        by_stem.setdefault(path.stem, path)
    paths = ((i, by_stem.get(i) or by_stem.get(f"v_{i}")) for i in ids)
    return {i: path for i, path in paths if path is not None}


# --------------------------------------------------------------------------------------------- telling apart


def mark(path: str | Path) -> str | None:
    """What tells one file's content from another's at little cost, wherever and whenever it was written.

    A digest (16 hex digits) of its size and of its first, middle and last :data:`MARKED` bytes; a smaller file is read
    whole. A change elsewhere that keeps the size goes unnoticed: encoding a video again, cutting or damaging its end
    does not. None: it cannot be read, or is no plain file.
    """
    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            return None
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(f"{size} ".encode(), digest_size=8)
            if size <= 3 * MARKED:
                digest.update(file.read(size))
            else:
                for start in (0, (size - MARKED) // 2, size - MARKED):
                    file.seek(start)
                    digest.update(file.read(MARKED))
    except (OSError, ValueError):  # reading it as a video will say why
        return None
    return digest.hexdigest()


def marks(paths: Iterable[str | Path]) -> list[str | None]:
    """:func:`mark` of many files; several at a time, since a file system may be far away."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(mark, paths))
