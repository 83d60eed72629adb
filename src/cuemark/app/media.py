"""What a browser can play, and a copy that it can play of what it cannot.

Every browser of today plays H.264, VP9 or AV1 in MP4 and VP8, VP9 or AV1 in WebM, with eight bits in 4:2:0, and sound
as AAC, MP3, Opus or Vorbis. Everything else gets a proxy, made once in the background and kept under the digest of the
file's content: copied packet by packet where only the container is strange (:mod:`cuemark.cutting`), else encoded again
(:mod:`cuemark.preparation`). In a proxy the first picture is at 0 s, which is what cuemark's seconds mean; a file whose
own clock starts elsewhere gets one, too, or every jump would miss.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.video.stream import VideoStream

from cuemark import cutting, preparation, video
from cuemark.errors import CuemarkError, VideoError
from cuemark.folders import bounded
from cuemark.segments import Segment

PIXELS = 64 << 20
"""Of a picture, at most: more is a decompression bomb, or no video."""
LONGEST = 48 * 3600.0
"""Seconds."""
FASTEST, SHORT_SIDE = 60, 720
"""Frames a second and pixels of the shorter side of a proxy, at most."""
PROXIES = 20 << 30
"""Bytes that proxies may take together."""
LATE = 0.05
"""Seconds from the container's beginning to the first picture that a jump may be off."""
MP4 = ({"h264", "vp9", "av1"}, {None, "aac", "mp3", "opus", "flac"})
WEBM = ({"vp8", "vp9", "av1"}, {None, "opus", "vorbis"})


@dataclass(frozen=True)
class Look:
    """What the header of a file says; no picture has been decoded."""

    container: str
    codec: str
    audio: str | None
    width: int
    height: int
    pixels: str
    """FFmpeg's name of the pixel format."""
    fps: float
    late: float
    """Seconds on the container's clock at which pictures begin."""
    suffix: str

    @property
    def type(self) -> str | None:
        """The media type under which a browser plays the file as it is; None: it does not."""
        if self.late > LATE or self.pixels not in ("yuv420p", "yuvj420p"):
            return None
        if "mp4" in self.container and self.suffix in (".mp4", ".m4v"):
            return "video/mp4" if self._is(MP4) else None
        if "webm" in self.container and self.suffix == ".webm":
            return "video/webm" if self._is(WEBM) else None
        return None

    @property
    def copies(self) -> bool:
        """Whether its packets fit into an MP4 that plays."""
        return self.pixels in ("yuv420p", "yuvj420p") and self._is(({"h264"}, {None, "aac", "mp3"}))

    def _is(self, kind: tuple[set[str], set[str | None]]) -> bool:
        return self.codec in kind[0] and self.audio in kind[1]


def look(path: Path) -> Look:
    """Read the header of a file.

    Raises:
        VideoError: it is not there, is no video, or claims a size that nothing real has.
    """
    try:
        with av.open(f"file:{path}", metadata_errors="replace", container_options=video.LIMITS) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.codec_context is None:
                raise VideoError(f"'{path}' has no video that can be decoded; give another file.")
            sound = container.streams.best("audio")
            context = stream.codec_context
            seconds = (container.duration or 0) / av.time_base
            begins = float((stream.start_time or 0) * (stream.time_base or Fraction(1)))
            found = Look(container.format.name, context.codec.canonical_name,
                         None if sound is None or sound.codec_context is None
                         else sound.codec_context.codec.canonical_name,
                         context.width, context.height, context.pix_fmt or "", float(stream.average_rate or 25),
                         abs(begins), path.suffix.lower())
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"video '{path}' cannot be opened ({getattr(error, 'strerror', None) or error}); "
                         "it is damaged, cut off or not a video.") from None
    if found.width * found.height > PIXELS:
        raise VideoError(f"video '{path}' claims pictures of {found.width}x{found.height}; {PIXELS >> 20} million "
                         "pixels are taken at most.")
    if seconds > LONGEST:
        raise VideoError(f"video '{path}' claims to last {seconds / 3600:.0f} hours; {LONGEST / 3600:.0f} are taken "
                         "at most.")
    return found


def place(folder: Path, path: Path) -> Path:
    """Where the proxy of a file is, or will be: named by the file's content.

    Raises:
        VideoError: the file cannot be read.
    """
    mark = video.mark(path)
    if mark is None:
        raise VideoError(f"video '{path}' cannot be read; check it and its permissions.")
    return folder / f"{mark}.mp4"


def make(path: Path, proxy: Path) -> None:
    """Make the proxy of a file.

    Raises:
        VideoError: the file cannot be used, or nothing can be written.
    """
    told = look(path)
    proxy.parent.mkdir(parents=True, exist_ok=True)
    if told.copies:
        with suppress(CuemarkError):  # what cannot be copied is encoded
            length = video.probe(path).duration
            cutting.cut(path, Segment(0.0, length), proxy)
            bounded(proxy.parent, "*.mp4", PROXIES, keep=1)
            return
    rate = video.fraction_of(min(max(told.fps, 1.0), FASTEST))
    settings = {"short_side": min(SHORT_SIDE, told.width, told.height), "enlarge": False, "keyframe_every": 30,
                "audio": True, "quality": 23}
    answer = preparation.attempt({"source": str(path), "target": str(proxy), "rate": str(rate), "settings": settings,
                                  "state": {}})
    if "entry" not in answer:
        raise VideoError(str(answer.get("broken") or answer.get("stop")))
    bounded(proxy.parent, "*.mp4", PROXIES, keep=1)


def touched(path: Path) -> bool:
    """Whether a proxy is there; it counts as used now."""
    try:
        os.utime(path)
        return path.is_file()
    except OSError:
        return False
