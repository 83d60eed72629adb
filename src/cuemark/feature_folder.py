"""A features folder: one array for each video, a description of them all, and what could not be read.

``<video_id>.npy`` ``(T, C)`` each, readable by ActionFormer and OpenTAD as it is; :data:`MANIFEST`: the encoder and the
digest of its weights, how it looked, each video's grid; :data:`FAILED`: why videos are not there. A video is there when
the description lists it, and the folder is complete when that says so. Nothing in it says when, where or from which
folder it was made: the same work gives the same bytes.
"""

from __future__ import annotations

import time
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cuemark.errors import CuemarkError, DataError, ModelError
from cuemark.grid import Features, Grid
from cuemark.progress import say
from cuemark.segments import plain, read_json, write_json

MANIFEST = "features.json"
FAILED = "failed.json"
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


def failures(folder: Path) -> dict[str, str]:
    """Why videos are not in a features folder, by id: its :data:`FAILED`.

    Raises:
        DataError: the file is malformed.
    """
    if not (folder / FAILED).exists():
        return {}
    told = read_json(folder / FAILED, "failures")
    if not isinstance(told, dict):
        raise DataError(f"'{folder / FAILED}' does not say what failed; remove it.")
    return {str(vid): str(why) for vid, why in told.items()}


@dataclass
class Book:
    """What a features folder says of itself while it grows: :data:`MANIFEST` and :data:`FAILED`."""

    out: Path
    head: dict[str, Any]
    entries: dict[str, Any]
    failed: dict[str, str]
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
        return cls(out, head, dict(old["videos"]), failed)

    def holds(self, vid: str, path: Path) -> bool:
        """Whether the features of a video are there, and from a file of this size."""
        entry = self.entries.get(vid)
        if not isinstance(entry, dict) or not (self.out / f"{vid}.npy").exists():
            return False
        size = state(path)[0]
        return not size or entry.get("bytes", size) == size  # where its file is away, its features stay

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
        if self.failed:
            write_json(self.out / FAILED, dict(sorted(self.failed.items())))
        else:
            (self.out / FAILED).unlink(missing_ok=True)
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
