"""Files and folders: what a video is called by its file, formats with one file a video, folders to be written.

Where a file holds one video, several videos are a folder of such files. A folder is taken for one of them by its first
file, and only if nothing else but films and sound lies in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Truth, VideoTruth

_MEDIA = frozenset(("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "mts", "m2ts", "wmv", "flv", "ogv", "3gp",
                    "mp3", "m4a", "wav", "ogg", "oga", "flac"))


# ---------------------------------------------------------------------------------------------- names


def file_id(name: str) -> str:
    """Video id from the path of its file: the last part, without the extension of a media file.

    >>> file_id("C:/videos/day.1/cam_2.MP4"), file_id("cam_2.v1")
    ('cam_2', 'cam_2.v1')
    """
    last = re.split(r"[/\\]", name.strip())[-1]
    stem, _, extension = last.rpartition(".")
    return stem if stem and extension.lower() in _MEDIA else last


def file_name(video: str) -> str:
    """What a tool should call the file of a video: its id with ``.mp4``, unless it ends like a media file."""
    return video if file_id(video) != re.split(r"[/\\]", video.strip())[-1] else f"{video}.mp4"


def bare_ids(names: Iterable[str]) -> dict[str, str]:
    """ActivityNet's names in a file -> video ids: without ``v_`` when every name of the file has one.

    A rule for the whole file, because a YouTube id may itself begin with ``v_`` (two of ActivityNet's do).
    """
    names = list(names)
    prefixed = all(name.startswith("v_") for name in names)
    return {name: name[2:] if prefixed else name for name in names}


# ---------------------------------------------------------------------------------------------- recognising


def head_of(file: Path) -> str:
    """The first 64 KiB of a file, as ``looks`` functions get them; "" of one that cannot be read."""
    try:
        with open(file, "rb") as opened:
            return opened.read(1 << 16).decode("utf-8", "replace")
    except OSError:
        return ""


def first_of(path: Path, head: str, suffix: str) -> tuple[Path, str]:
    """What a ``looks`` function of a format with one file a video is to judge by: of a folder its first file.

    The head is "" when the folder holds anything with another ending, hidden files and media aside.
    """
    if head or not path.is_dir():
        return path, head
    files = sorted(p for p in path.iterdir() if p.name[0] != "." and p.suffix.lower().removeprefix(".") not in _MEDIA)
    ours = bool(files) and all(p.suffix.lower() == suffix and p.is_file() for p in files)
    return (files[0], head_of(files[0])) if ours else (path, "")


# ---------------------------------------------------------------------------------------------- reading and writing


def parse_each(path: Path, reading: Reading, suffix: str, one: Callable[[Path, Reading], VideoTruth]) -> Truth:
    """Read a format whose file holds one video, called as the file: a file, or every such file of a folder.

    Raises:
        DataError: as :func:`parse_all`.
    """
    return parse_all(path, suffix, lambda file: {file.stem: one(file, reading)})


def parse_all(path: Path, suffix: str, one: Callable[[Path], Truth]) -> Truth:
    """Read a file that says itself which videos it holds, or every such file of a folder (not of its subfolders).

    Raises:
        DataError: the path does not exist, the folder has no such file, or a video is in two of them.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() == suffix and not p.name.startswith("."))
        if not files:
            raise DataError(f"folder '{path}' holds no {suffix} file; name the folder that does.")
    elif path.is_file():
        files = [path]
    else:
        raise DataError(f"'{path}' does not exist; check the path.")
    truth: Truth = {}
    for file in files:
        for vid, video in one(file).items():
            if vid in truth:
                raise DataError(f"'{file}': video '{vid}' is also in another file of the folder; keep one of them.")
            truth[vid] = video
    return truth


def write_each(path: Path, truth: Truth, suffix: str, one: Callable[[Path, str, VideoTruth], None]) -> None:
    """Write a format whose file holds one video: a file for one video, a folder of files otherwise.

    Raises:
        DataError: a file is named for several videos, or a video's id cannot be the name of a file.
    """
    if path.suffix.lower() == suffix:
        if len(truth) != 1:
            raise DataError(f"'{path}' can hold one video and there are {len(truth)}; name a folder instead.")
        (vid, video), = truth.items()
        one(path, vid, video)
        return
    for vid in truth:
        if not vid or vid in (".", "..") or "/" in vid or "\\" in vid or "\0" in vid:
            raise DataError(f"video '{vid}' cannot be the name of a file in '{path}'; rename it.")
    for vid, video in truth.items():
        one(path / f"{vid}{suffix}", vid, video)


def new_folder(path: Path, what: str, patterns: Sequence[str] = (), names: Sequence[str] = ()) -> None:
    """Make sure that several files can be written into the folder ``path`` and will be all that is read from it.

    Args:
        patterns: what a reader looks for there.
        names: the files to be written.

    Raises:
        DataError: it is, or is called like, a file; or it holds files of another truth, that would be read too.
    """
    if path.is_file() or path.suffix.lower() in (".csv", ".json", ".txt"):
        raise DataError(f"'{path}' cannot be written: {what} is several files; name a folder.")
    others = sorted(p.name for pattern in patterns for p in path.glob(pattern) if p.name not in names)
    if others:
        raise DataError(f"'{path}' cannot be written: it holds '{others[0]}', which would be read as a part of it; "
                        "name an empty folder.")
