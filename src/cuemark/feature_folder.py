"""A features folder: one array for each video, a description of them all, and what could not be read.

``<video_id>.npy`` ``(T, C)`` each, readable by ActionFormer and OpenTAD as it is; :data:`MANIFEST`: the encoder and the
digest of its weights, how it looked, each video's grid; ``failed.json``: why videos are not there. A video is there
when the description lists it, and the folder is complete when that says so. Nothing in it says when, where or from
which folder it was made: the same work gives the same bytes.
"""

from __future__ import annotations

import math
import time
import tokenize
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cuemark.errors import CuemarkError, DataError, ModelError
from cuemark.folders import failures, write_failures
from cuemark.grid import Features, Grid
from cuemark.progress import say
from cuemark.segments import plain, read_json, write_json
from cuemark.video import marks

MANIFEST = "features.json"
DTYPES = ("float16", "float32")
LARGEST = 1 << 31
"""Numbers in the features of one video; a file that claims more is refused before anything is allocated."""
SECONDS_BETWEEN_MANIFESTS = 5.0
USUAL = {"crops": 1, "pooling": "mean", "backend": "eager"}
"""What a description means that does not say it: of folders from before it could be chosen, or of other people's."""


@dataclass(frozen=True)
class FeatureFolder(Mapping[str, Features]):
    """A features folder: video id -> :class:`~cuemark.grid.Features`, read when asked for."""

    folder: Path
    meta: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> FeatureFolder:
        """Read a folder's description.

        Raises:
            DataError: no such folder, no or a malformed ``features.json``, or an extraction that never finished.
        """
        folder = Path(folder)
        if folder.is_dir() and not (folder / MANIFEST).exists():
            raise DataError(f"'{folder}' has no {MANIFEST}; it is not a features folder, or its extraction was never "
                            "finished: run cuemark extract again.")
        meta = read_json(folder / MANIFEST, "features")
        if not isinstance(meta, dict) or not isinstance(meta.get("videos"), dict):
            raise DataError(f"'{folder / MANIFEST}' does not describe features; run cuemark extract again.")
        if not meta.get("complete"):
            raise DataError(f"the extraction into '{folder}' has not finished; run the same cuemark extract again.")
        return cls(folder, meta)

    @property
    def dim(self) -> int:
        """Width of a feature.

        Raises:
            DataError: the description does not say.
        """
        if not isinstance(self.meta.get("dim"), int):
            raise DataError(f"'{self.folder / MANIFEST}' does not say how wide a feature is (dim); cuemark features "
                            "verify names all that is wrong.")
        return int(self.meta["dim"])

    def __getitem__(self, vid: str) -> Features:
        entry = self.meta["videos"][vid]
        path = self.folder / f"{vid}.npy"
        if path.parent != self.folder:
            raise DataError(f"'{self.folder / MANIFEST}' lists a video '{vid}', which cannot be the name of a file.")
        try:
            data = np.load(path, allow_pickle=False)
            return Features(data, Grid.from_json(entry["grid"]), float(entry["duration"]))
        except (OSError, ValueError, EOFError, KeyError, TypeError, tokenize.TokenError) as error:
            raise DataError(f"'{path}' is not the features that {MANIFEST} describes ({error}); "
                            "delete it and run cuemark extract again.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.meta["videos"])

    def __len__(self) -> int:
        return len(self.meta["videos"])

    def __contains__(self, vid: object) -> bool:
        return vid in self.meta["videos"]


# ---------------------------------------------------------------------------------------------- its arrays


def damage(path: Path, count: int, dim: Any, dtype: Any) -> str | None:
    """What is wrong with the header or the length of an array file, or None: its numbers are not looked at.

    Args:
        count: rows that it has to have.
        dim: and columns; anything but a number: any.
        dtype: one of :data:`DTYPES`; anything else: any of them.
    """
    try:
        array = mapped(path)
    except DataError as error:
        return str(error)
    if array.ndim != 2 or len(array) != count or (type(dim) is int and array.shape[1] != dim):
        told = f"({count}, {dim if type(dim) is int else 'C'})"
        return f"has shape {shown(array.shape)}, not {told}"
    if array.dtype.name not in DTYPES or (dtype in DTYPES and array.dtype.name != dtype):
        return f"holds {array.dtype.name}, not {dtype if dtype in DTYPES else 'float16 or float32'}"
    if not array.flags.c_contiguous:
        return "is in Fortran order; ActionFormer and OpenTAD read it, slowly, and cuemark writes C order"
    return None


def mapped(path: Path) -> np.ndarray:
    """A ``.npy`` file as a memory map, its header and length checked; DataError says what it is instead, unnamed."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise DataError("is not there" if not path.exists() else "is not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # files of Python 2 are read all the same
            with open(path, "rb") as file:
                version = np.lib.format.read_magic(file)
                reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran, dtype = reader[version](file)
                start = file.tell()
        if dtype.hasobject:
            raise DataError("holds Python objects, which are never unpickled")
        if math.prod(shape) > LARGEST:
            raise DataError(f"claims the shape {shown(shape)}, which is too large for the features of one video")
        told, size = start + math.prod(shape) * dtype.itemsize, path.stat().st_size
        if told != size:
            raise DataError(f"has {size} bytes, but its header tells of {told}; it is "
                            f"{'cut short' if size < told else 'followed by something else'}")
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
    except (OSError, ValueError, KeyError, TypeError, EOFError, OverflowError, RecursionError, MemoryError,
            SyntaxError, tokenize.TokenError):  # NumPy parses a header as Python
        raise DataError("is not a NumPy array file") from None


def shown(shape: Sequence[int]) -> str:
    """A shape as messages show it."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


# ---------------------------------------------------------------------------------------------- while it grows


@dataclass
class Book:
    """What a features folder says of itself while it grows: :data:`MANIFEST` and ``failed.json``."""

    out: Path
    head: dict[str, Any]
    entries: dict[str, Any]
    failed: dict[str, str]
    complete: bool = False
    """Whether it was when it was opened."""
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, out: Path, head: dict[str, Any]) -> Book:
        """What is there already; nothing is written.

        Raises:
            ModelError: features that were made in another way than ``head`` says.
            DataError: a description that is none.
        """
        failed = failures(out)
        if not (out / MANIFEST).exists():
            return cls(out, head, {}, failed)
        old = read_json(out / MANIFEST, "features")
        if not isinstance(old, dict) or not isinstance(old.get("videos"), dict):
            raise DataError(f"'{out / MANIFEST}' does not describe features; remove it, or give another folder with "
                            "--out.")
        for key in ("encoder", "weights", "clip", "crops", "pooling", "dtype", "precision", "backend", "scaling"):
            mine = plain(head[key])
            if old.get(key, USUAL.get(key)) != mine:
                raise ModelError(f"'{out}' holds features with {key} {old.get(key)}, but these would have {mine}; "
                                 "give another folder with --out, or remove this one.")
        return cls(out, head, dict(old["videos"]), failed, bool(old.get("complete")))

    def holds(self, videos: Mapping[str, Path]) -> list[bool]:
        """Of each video (id -> file), whether its features are there, whole, and from what its file is now.

        Headers and lengths of arrays are read, and a little of each video: see :func:`cuemark.video.mark`.
        """
        kept = {vid: path for vid, path in videos.items() if self._is_whole(vid)}
        seen = dict(zip(kept, marks(kept.values())))
        return [vid in seen and self._is_from(vid, path, seen[vid]) for vid, path in videos.items()]

    def _is_whole(self, vid: str) -> bool:
        entry = self.entries.get(vid)
        if not isinstance(entry, dict) or not isinstance(entry.get("grid"), dict):
            return False
        count = entry["grid"].get("count")
        return damage(self.out / f"{vid}.npy", count, self.head["dim"], self.head["dtype"]) is None

    def _is_from(self, vid: str, path: Path, seen: str | None) -> bool:
        entry = self.entries[vid]
        if seen is None:  # where its file is away, its features stay
            return True
        if "mark" in entry:
            return bool(entry["mark"] == seen)
        size = state(path)[0]
        return bool(entry.get("bytes", size) == size)  # of before there were marks; or somebody else's

    def enter(self, vid: str, entry: dict[str, Any]) -> None:
        """The features of a video are in their place."""
        self.entries[vid] = entry
        self.failed.pop(vid, None)
        if time.monotonic() - self.saved > SECONDS_BETWEEN_MANIFESTS:
            self.write(complete=False)

    def leave_out(self, vid: str, path: Path, error: CuemarkError) -> None:
        """A video that cannot be read; the folder names its file without saying where that was."""
        say(f"left out: {error}")
        reason = str(error).replace(str(path), path.name)
        self.failed[vid] = reason.encode(errors="backslashreplace").decode()  # of a file's name that is no text
        self.entries.pop(vid, None)
        (self.out / f"{vid}.npy").unlink(missing_ok=True)

    def write(self, complete: bool) -> None:
        """Both files, or none of a folder that holds nothing; no times, hosts or paths are in them."""
        self.saved = time.monotonic()
        write_failures(self.out, self.failed)
        if self.entries or not complete:  # a folder of nothing is not described
            write_json(self.out / MANIFEST, {**self.head, "complete": complete,
                                             "videos": dict(sorted(self.entries.items()))})
        else:
            (self.out / MANIFEST).unlink(missing_ok=True)


def global_features(features: Mapping[str, Features], pooling: Literal["max", "mean"] = "max") -> dict[str, np.ndarray]:
    """TSP's global video features: each video's clip features pooled over time, ``(C,)`` (section 3.3)."""
    pool = np.max if pooling == "max" else np.mean
    return {vid: np.asarray(pool(features[vid].data.astype(np.float32), axis=0)) for vid in features}


def state(path: Path) -> tuple[int, int, int]:
    """What tells that a file has changed."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # reading it will say why
        return 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ino
