"""Features folders as files: what one holds, whether it is whole, several into one, and other people's features.

Other people's layouts, as their releases have them:

    tsp      HDF5, one dataset ``(T, C)`` float32 for each video (gzip 9); TSP's releases, and THUMOS14 of G-TAD
    gtad     HDF5, one dataset ``v_<id>`` ``(100, C)`` for each video, rescaled to cover it (``csv_mean_100.hdf5``);
             or a file ``v_<id>.h5`` with one dataset ``v_<id>`` for each
    groups   HDF5, a group for each video with one dataset inside (``<id>/c3d_features``, ActivityNet's C3D)
    npy      one ``<id>.npy`` ``(T, C)`` for each video (ActionFormer, OpenTAD)
    global   HDF5, one dataset ``(C,)`` for each video: TSP's global video features

None of them says when its rows are. An import therefore needs the stride, the rate and the length of a clip, or to be
told that the rows cover the video evenly, and the videos' durations; rows that do not fit them are refused with both
numbers. What is imported says that its encoder is ``foreign`` and has the digest of its source in place of that of
weights. What :func:`export` wrote says all that itself, in attributes that other readers pass over.

Nothing is written under its final name before it is whole; what was killed goes on when it is called again. Who writes
into a folder holds its lock, as an extraction does, so that two never sweep away what the other writes. One video is in
memory at a time, of those that are imported or verified a block of one. HDF5 needs h5py, which is an extra.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from cuemark.checkpoint import software
from cuemark.clips import ClipConfig, clip_count
from cuemark.errors import CallError, DataError, unknown, within
from cuemark.extraction import Extraction
from cuemark.feature_folder import (
    DTYPES,
    LARGEST,
    MANIFEST,
    USUAL,
    Book,
    FeatureFolder,
    damage,
    failures,
    mapped,
    shown,
)
from cuemark.folders import FAILED, LOCK, locked, sweep
from cuemark.grid import Grid
from cuemark.progress import Bar, say
from cuemark.segments import read_json, read_truth, replacing

BLOCK = 1 << 22
"""Numbers that are looked at or copied at a time."""
WIDEST = 1 << 20
"""Numbers in one feature."""
HEAD = ("software", "encoder", "weights", "dim", "clip", "crops", "pooling", "dtype", "scaling", "precision", "backend")
"""What a description says of all its videos, in this order; what :data:`USUAL` has may be left unsaid."""
CLIP = ("frames", "fps", "stride")
HDF5_ENDINGS = (".h5", ".hdf5")
ATTRIBUTE = "cuemark"
"""Where an exported HDF5 file keeps what ``features.json`` says of all videos."""
CLOSE = 1e-6
"""Seconds that are no difference between two grids."""


# ---------------------------------------------------------------------------------------------- what one holds


@dataclass(frozen=True, slots=True)
class Info:
    """What a features folder says of itself; None where it does not say."""

    folder: str
    complete: bool
    software: str | None
    encoder: str | None
    weights: str | None
    """Digest of the encoder's weights; of a foreign encoder, of the file that was imported."""
    foreign: bool
    """Whether these are other people's features."""
    dim: int | None
    dtype: str | None
    precision: str | None
    clip_frames: int | None
    stride: int | None
    """Frames between the starts of clips."""
    fps: float | None
    """Of the frames that were looked at; None also where each video has its own."""
    window: float | None
    """Seconds that a feature was seen through."""
    step: float | None
    """Seconds from one feature to the next."""
    even: bool
    """Whether the rows cover each video evenly, whatever its length."""
    videos: int
    clips: int
    hours: float
    """Of video."""
    bytes: int
    """Of the listed ``.npy`` files that are there."""
    padded: tuple[str, ...]
    """Videos shorter than a clip."""
    failed: dict[str, str]
    """Videos that have no features -> why not."""


def info(folder: str | Path) -> Info:
    """What a features folder holds, by its description; also of an extraction that has not finished.

    Raises:
        DataError: no such folder, no description, or one that is malformed.
    """
    folder = Path(folder)
    meta = _describe(folder)
    clip = meta.get("clip")
    clip = clip if isinstance(clip, dict) else {}
    frames, fps, stride = (_number(clip.get(key)) for key in CLIP)
    own = not clip.get("even")
    dim = _number(meta.get("dim"))
    clips, seconds, size, padded = 0, 0.0, 0, []
    for vid, entry in meta["videos"].items():
        try:
            grid, duration = _entry(vid, entry)
        except ValueError as error:
            where = f"'{folder / MANIFEST}', video {_quoted(vid)}"
            raise DataError(f"{where}: {error}; cuemark features verify names all that is wrong.") from None
        clips, seconds = clips + grid.count, seconds + duration
        if entry.get("padded"):
            padded.append(vid)
        with suppress(OSError):
            size += (folder / f"{vid}.npy").stat().st_size
    return Info(
        str(folder), bool(meta.get("complete")), _text(meta.get("software")), _text(meta.get("encoder")),
        _text(meta.get("weights")), bool(meta.get("foreign")), None if dim is None else int(dim),
        _text(meta.get("dtype")), _text(meta.get("precision")), None if frames is None else int(frames),
        None if stride is None else int(stride), fps, frames / fps if own and frames and fps else None,
        stride / fps if own and stride and fps else None, not own, len(meta["videos"]), clips, seconds / 3600, size,
        tuple(padded), failures(folder))


def actionformer(folder: str | Path) -> dict[str, Any]:
    """The ``dataset`` settings with which ActionFormer and OpenTAD read a features folder's ``.npy`` as they are.

    To ActionFormer row ``i`` is the ``num_frames`` frames from ``i · feat_stride`` on, at ``default_fps``. Of rows that
    cover a video evenly it is told ``feat_stride = -1`` and computes the rest from the duration (``num_frames`` then
    counts rows). ``default_fps`` is None where each video has its own rate: the truth file then has to say ``fps``.

    Raises:
        DataError: see :meth:`~cuemark.feature_folder.FeatureFolder.open`; or the description lacks something.
    """
    opened = FeatureFolder.open(folder)
    _required(opened.folder, opened.meta)
    clip = opened.meta["clip"]
    stride, frames, fps = (-1, 1, 30.0) if clip.get("even") else (clip["stride"], clip["frames"], clip["fps"])
    return {"feat_folder": str(opened.folder), "file_prefix": None, "file_ext": ".npy", "input_dim": opened.dim,
            "feat_stride": stride, "num_frames": frames, "default_fps": fps, "downsample_rate": 1}


def _describe(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise DataError(f"features folder '{folder}' does not exist; check the path.")
    if not (folder / MANIFEST).exists():
        raise DataError(f"'{folder}' has no {MANIFEST}; it is not a features folder, or its extraction was never "
                        "finished: run cuemark extract again, or cuemark features import for other people's.")
    meta = read_json(folder / MANIFEST, "features")
    if not isinstance(meta, dict) or not isinstance(meta.get("videos"), dict):
        raise DataError(f"'{folder / MANIFEST}' does not describe features; run cuemark extract again.")
    return meta


def _lacking(meta: Mapping[str, Any]) -> list[str]:
    """Keys that a description has to have and has not, or has as something else."""
    lacking = [key for key in HEAD if key not in meta and key not in USUAL]
    clip = meta.get("clip")
    clip = clip if isinstance(clip, dict) else {}
    for key in CLIP if "clip" in meta else ():
        untold = key in clip and clip[key] is None and (clip.get("even") or key == "fps")  # foreign features
        if _number(clip.get(key)) is None and not untold:
            lacking.append(f"clip.{key}")
    if "dim" in meta and (type(meta["dim"]) is not int or meta["dim"] < 1):
        lacking.append("dim (a number of columns)")
    if "dtype" in meta and meta["dtype"] not in DTYPES:
        lacking.append("dtype (float16 or float32)")
    return lacking


def _required(folder: Path, meta: Mapping[str, Any]) -> None:
    if lacking := _lacking(meta):
        raise DataError(f"'{folder / MANIFEST}' lacks {', '.join(lacking)}; add what is missing, or make the features "
                        "again.")


def _entry(vid: str, entry: Any) -> tuple[Grid, float]:
    """Grid and duration (seconds) of a video of a description; ValueError says what is wrong."""
    if why := _unusable(vid):
        raise ValueError(why)
    try:
        grid, duration = Grid.from_json(entry["grid"]), float(entry["duration"])
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"its grid or duration is missing or no number ({error})") from None
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"a duration of {duration} s")
    return grid, duration


def _unusable(vid: str) -> str | None:
    """Why a name cannot be that of a file in a folder."""
    try:
        length = len(vid.encode())
    except UnicodeEncodeError:
        return "its name is not text"
    if vid in ("", ".", "..") or "/" in vid or "\\" in vid or "\0" in vid:
        return "its name would be a path, not a file in the folder"
    return "its name is too long for a file" if length > 200 else None


def _quoted(name: str | bytes) -> str:
    """A name as a message shows it, whatever is in it."""
    text = _clean(name) if isinstance(name, str) else name.decode(errors="backslashreplace")
    return f"'{text if len(text) <= 80 else text[:77] + '…'}'"


def _number(value: Any) -> float | None:
    """A count or a rate, or None for what cannot be one."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 1e-3 <= value <= 1e9 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _clean(text: str) -> str:
    """Text that can be written, of what may have come from the bytes of a file name."""
    return text.encode(errors="backslashreplace").decode()


# ---------------------------------------------------------------------------------------------- is it whole?


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as ``features.json`` says."""

    where: str
    """The file, or the key of the description."""
    what: str
    serious: bool = True
    """False: the folder can be used all the same."""


def verify(folder: str | Path, finite: bool = True) -> list[Problem]:
    """Everything in a features folder that is not as its description says; nothing is changed.

    Of each array the header is read first, and then, a block at a time and memory-mapped, its numbers.

    Args:
        finite: look for NaN and infinity too, which reads every byte.

    Raises:
        DataError: there is no description to verify against.
    """
    folder = Path(folder)
    meta = _describe(folder)
    manifest = str(folder / MANIFEST)
    problems = [Problem(manifest, f"lacks {key}") for key in _lacking(meta)]
    if not meta.get("complete"):
        problems.append(Problem(manifest, "says that the extraction has not finished"))
    if (made := meta.get("software")) is not None and made != software():
        problems.append(Problem(manifest, f"was written by {made}; this is {software()}", serious=False))
    with Bar("verifying", len(meta["videos"])) as bar:
        for vid, entry in meta["videos"].items():
            where = f"{manifest}, video {_quoted(vid)}"
            try:
                grid, duration = _entry(vid, entry)
            except ValueError as error:
                problems.append(Problem(where, str(error)))
            else:
                if why := _off(grid, duration, meta.get("clip")):
                    problems.append(Problem(where, why))
                if why := _damage(folder / f"{vid}.npy", grid.count, meta.get("dim"), meta.get("dtype"), finite):
                    problems.append(Problem(str(folder / f"{vid}.npy"), why))
            bar.advance()
    try:
        failures(folder)
    except DataError:
        problems.append(Problem(str(folder / FAILED), "does not say what failed; it can be deleted", serious=False))
    listed = {MANIFEST, FAILED, LOCK, *(f"{vid}.npy" for vid in meta["videos"])}
    for name in sorted(set(os.listdir(folder)) - listed):
        left = name.startswith(".") and name.endswith(".tmp")
        what = "is what a killed run left; it can be deleted" if left else f"is not listed in {MANIFEST}"
        problems.append(Problem(f"{folder}/{_quoted(name)[1:-1]}", what, serious=False))
    return problems


def _off(grid: Grid, duration: float, clip: Any) -> str | None:
    """How a video's grid differs from what the clips of its folder make of it."""
    if not isinstance(clip, dict):
        return None
    frames, fps, stride = (_number(clip.get(key)) for key in CLIP)
    try:
        if clip.get("even"):
            right = Grid.over(0.0, duration, grid.count)
        elif frames is None or fps is None or stride is None:  # each video has its own rate
            return None
        else:
            right = Grid.of_clips(grid.count, int(stride), int(frames), fps)
    except ValueError:
        return "the clips that are described make no grid"
    for key in ("start", "step", "window"):
        told, meant = getattr(grid, key), getattr(right, key)
        if abs(told - meant) > CLOSE:
            return f"its grid has {key} {told:g} s, but the clips make it {meant:g} s"
    if frames is None or fps is None or stride is None or clip.get("even"):
        return None
    return _misfit(grid.count, duration, fps, int(stride), int(frames))


def _misfit(count: int, duration: float, fps: float, stride: int, frames: int) -> str | None:
    """Why ``count`` features cannot be those of a video of ``duration`` seconds.

    They may end up to one clip (or stride, the longer) early or late: extractors differ in what they do with the last.
    """
    right = clip_count(duration, ClipConfig(frames=frames, fps=fps), stride)[1]
    if abs(count - right) * stride <= max(frames, stride):
        return None
    return (f"{count} features, but {duration:g} s at {fps:g} fps, in clips of {frames} frames every {stride}, "
            f"make {right}")


def _damage(path: Path, count: int, dim: Any, dtype: Any, finite: bool = True) -> str | None:
    """What is wrong with an array file, or None; ``finite``: with its numbers too."""
    why = damage(path, count, dim, dtype)
    if why is None and finite:
        try:
            for block in _blocks(mapped(path)):
                _ = _finite(*block)
        except DataError as error:
            return str(error)
    return why


def _blocks(array: Any) -> Iterator[tuple[int, np.ndarray]]:
    """First row and rows of ``(T, C)``, a block at a time."""
    rows = max(1, BLOCK // max(1, array.shape[1]))
    for start in range(0, array.shape[0], rows):
        yield start, array[start : start + rows]


def _finite(start: int, block: np.ndarray) -> np.ndarray:
    """``block``, whose first row is number ``start``; DataError where it holds NaN or infinity."""
    right = np.isfinite(block)
    if not right.all():
        row, column = np.unravel_index(int(np.argmin(right)), right.shape)
        raise DataError(f"holds {block[row, column]} in row {start + int(row)}, column {int(column)}")
    return block


# ---------------------------------------------------------------------------------------------- several into one


def merge(folders: Sequence[str | Path], out: str | Path, *, copy: bool = False) -> Extraction:
    """Put the features of several folders, made by one encoder in one way, into the folder ``out``.

    Files are hard links where the file system has them (cuemark never writes into a file), or copies. A video may be
    in two folders when it is the same in both. If ``out`` is a features folder already, it is one of them. The
    description is written last: a merge that was killed goes on when it is called again, and ends with the same bytes.

    Args:
        copy: copy always.

    Returns:
        ``done`` and ``skipped`` (were in ``out`` already); ``failed`` in every folder.

    Raises:
        CallError: no folder is given.
        DataError: a folder is incomplete or damaged, two differ (naming key and both values), or hold different
            features of a video; or ``out`` has a file under a name that is needed.
    """
    out, began = Path(out), time.monotonic()
    if not folders:
        raise CallError("merge needs at least one features folder.")
    with ExitStack() as stack:
        if there := out.is_dir():
            stack.enter_context(locked(out))
        sources, owner, result = _gathered(folders, out)  # all is looked at before anything is written
        if not there:
            stack.enter_context(locked(out))
            if (out / MANIFEST).exists():  # of another run, meanwhile
                sources, owner, result = _gathered(folders, out)
        sweep(out)
        with Bar("merging", len(owner)) as bar:
            for vid, source in owner.items():
                placed = _place(source.folder / f"{vid}.npy", out / f"{vid}.npy", copy)
                (result.done if placed else result.skipped).append(vid)
                bar.advance()
        made = sorted({part for s in sources for part in str(s.meta["software"]).split(", ")})
        head = {key: value for key, value in sources[0].meta.items() if key not in ("complete", "videos")
                and all(key in s.meta and s.meta[key] == value for s in sources)}
        _write_manifest(out, {**head, "software": ", ".join(made)}, {v: owner[v].meta["videos"][v] for v in owner},
                        result.failed)
    result.seconds = time.monotonic() - began
    return result


def _gathered(folders: Sequence[str | Path], out: Path
              ) -> tuple[list[FeatureFolder], dict[str, FeatureFolder], Extraction]:
    """The folders to merge, which of them each video is taken from, and the result as far as it is known."""
    sources = [FeatureFolder.open(f) for f in ([out] if (out / MANIFEST).exists() else []) + [Path(f) for f in folders]]
    first = sources[0]
    for source in sources:
        _required(source.folder, source.meta)
        for key in HEAD[1:]:
            here, there = (s.meta.get(key, USUAL.get(key)) for s in (source, first))
            if here == there:
                continue
            if isinstance(here, dict) and isinstance(there, dict):  # which of the clip's settings
                name = next(k for k in (*here, *there) if here.get(k) != there.get(k) or (k in here) != (k in there))
                key, here, there = f"{key}.{name}", here.get(name), there.get(name)
            raise DataError(f"'{source.folder}' has features with {key} {here}, but '{first.folder}' with {there}; "
                            "only features made in one way can be merged.")
    result = Extraction()
    owner: dict[str, FeatureFolder] = {}
    for source in sources:
        for vid, entry in source.meta["videos"].items():
            path = source.folder / f"{vid}.npy"
            try:
                grid, _ = _entry(vid, entry)
            except ValueError as error:
                raise DataError(f"'{source.folder / MANIFEST}', video {_quoted(vid)}: {error}; correct it.") from None
            if why := _damage(path, grid.count, source.meta["dim"], source.meta["dtype"], finite=False):
                raise DataError(f"'{path}' {why}; make it again, then merge.")
            if vid not in owner:
                owner[vid] = source
                result.clips += grid.count
                continue
            other = owner[vid]
            if not _agree(entry, other.meta["videos"][vid]) or not _same(path, other.folder / path.name):
                raise DataError(f"'{other.folder}' and '{source.folder}' have different features of video "
                                f"{_quoted(vid)}; keep it in one of them.")
        result.failed |= failures(source.folder)
    for vid in owner:
        result.failed.pop(vid, None)
    return sources, owner, result


def _agree(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two descriptions of a video say the same, in all that both say of it: older ones knew no marks."""
    return all(entry[key] == other[key] for key in entry.keys() & other.keys())


def _write_manifest(out: Path, head: Mapping[str, Any], entries: Mapping[str, Any], failed: Mapping[str, str],
                    complete: bool = True) -> None:
    first = {key: head[key] for key in HEAD if key in head}  # the same order whatever order they came in
    rest = {key: head[key] for key in sorted(head) if key not in HEAD}
    Book(out, {**first, **rest}, dict(entries), dict(failed)).write(complete)


def _same(a: Path, b: Path) -> bool:
    """Whether two files have the same bytes."""
    if os.path.samefile(a, b):
        return True
    if a.stat().st_size != b.stat().st_size:
        return False
    with open(a, "rb") as one, open(b, "rb") as other:
        return all(x == y for x, y in zip(iter(lambda: one.read(BLOCK), b""), iter(lambda: other.read(BLOCK), b"")))


def _place(path: Path, target: Path, copy: bool) -> bool:
    """``path`` under the name ``target``; False: it was there."""
    if target.exists():
        if not _same(path, target):
            raise DataError(f"'{target}' is there and is not '{path}'; remove it, or merge into another folder.")
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        with suppress(OSError):  # another file system, or one without links
            os.link(path.resolve(), target)  # of a symbolic link, what it means
            return True
    with open(path, "rb") as source, replacing(target, "wb") as file:
        shutil.copyfileobj(source, file, BLOCK)
    return True


# ---------------------------------------------------------------------------------------------- one grid, one array


def match(folder: str | Path, to: str | Path, out: str | Path) -> Extraction:
    """Map the features of a folder to the rows of another one: each video's are interpolated linearly in time.

    So TSP puts its features under localizers that were made for others, G-TAD and P-GCN on THUMOS14 (section 4.1;
    issues 5, 8 and 9 of its repository). There the rows are stretched to the other's number, as
    ``interpolate(mode="linear", align_corners=False)`` does; here each row of the other folder gets what its centre, in
    seconds, lies between, and beyond the first and the last centre the nearest row. Both are the same where two grids
    have the same extent.

    The folder that is written is described by the other's clips, and its weights are named after both: an encoder alone
    does not make such features.

    Returns:
        ``done``, ``skipped`` (were there) and ``failed``: videos that ``to`` lacks.

    Raises:
        DataError: a folder is incomplete or damaged, or they have no video in common; or ``out`` holds other features.
    """
    ours, other = _whole(folder), _whole(to)
    head = {**{key: ours.meta[key] for key in (*HEAD, "foreign", *USUAL) if key in ours.meta}, "software": software(),
            "clip": other.meta["clip"], "weights": f"{ours.meta['weights']} on the grid of {other.meta['weights']}",
            "source": {"matched": {"clip": ours.meta["clip"], "to": other.meta["encoder"]}}}

    def rows(vid: str) -> tuple[Grid, np.ndarray]:
        grid, _ = _entry(vid, other.meta["videos"][vid])
        features = ours[vid]
        if not features.grid.count or not grid.count:
            where = ours.folder if not features.grid.count else other.folder
            raise DataError(f"'{where / f'{vid}.npy'}' holds no feature; there is nothing to interpolate.")
        return grid, features.resample(grid.count, (grid.start, grid.end)).data

    return _derived([ours, other], Path(out), head, rows, "matching")


def concat(folders: Sequence[str | Path], out: str | Path) -> Extraction:
    """Put the features of several folders side by side, such as RGB and flow: ``(T, C1 + C2)``.

    Rows must be of one grid. The description is the first folder's, with encoders, weights and widths added up.

    Returns:
        ``done``, ``skipped`` (were there) and ``failed``: videos that one of the folders lacks.

    Raises:
        CallError: fewer than two folders.
        DataError: a folder is incomplete or damaged, two have a video's rows at different times, or no video is in
            all; or ``out`` holds other features.
    """
    if len(folders) < 2:
        raise CallError("concat needs two features folders or more.")
    sources = [_whole(folder) for folder in folders]
    first = sources[0]
    for source in sources[1:]:
        for vid in source:
            if vid not in first:
                continue
            (a, _), (b, _) = _entry(vid, first.meta["videos"][vid]), _entry(vid, source.meta["videos"][vid])
            if a.count != b.count or max(abs(a.start - b.start), abs(a.end - b.end)) > CLOSE * max(1, a.count):
                raise DataError(f"video {_quoted(vid)} has {a.count} rows from {a.start:g} to {a.end:g} s in "
                                f"'{first.folder}', but {b.count} from {b.start:g} to {b.end:g} s in "
                                f"'{source.folder}'; bring one to the other's with cuemark features match.")

    def all_of(key: str) -> Any:
        values = [source.meta.get(key, USUAL.get(key)) for source in sources]
        return values[0] if all(v == values[0] for v in values) else " + ".join(map(str, values))

    head = {
        "software": software(), "encoder": " + ".join(str(s.meta["encoder"]) for s in sources),
        "weights": " + ".join(str(s.meta["weights"]) for s in sources), "dim": sum(s.dim for s in sources),
        "clip": first.meta["clip"], **{key: all_of(key) for key in ("pooling", "scaling", "precision", *USUAL)},
        "dtype": "float32" if any(s.meta["dtype"] == "float32" for s in sources) else "float16",
        "foreign": any(bool(s.meta.get("foreign")) for s in sources),
    }

    def rows(vid: str) -> tuple[Grid, np.ndarray]:
        return first[vid].grid, np.concatenate([source[vid].data for source in sources], axis=1)

    return _derived(sources, Path(out), head, rows, "putting side by side")


def _whole(folder: str | Path) -> FeatureFolder:
    """A complete folder whose description lacks nothing and whose arrays are as it says, by their headers."""
    opened = FeatureFolder.open(folder)
    _required(opened.folder, opened.meta)
    for vid, entry in opened.meta["videos"].items():
        try:
            grid, _ = _entry(vid, entry)
        except ValueError as error:
            raise DataError(f"'{opened.folder / MANIFEST}', video {_quoted(vid)}: {error}; correct it.") from None
        path = opened.folder / f"{vid}.npy"
        if why := _damage(path, grid.count, opened.dim, opened.meta["dtype"], finite=False):
            raise DataError(f"'{path}' {why}; make it again.")
    return opened


def _derived(sources: Sequence[FeatureFolder], out: Path, head: dict[str, Any],
             rows: Callable[[str], tuple[Grid, np.ndarray]], what: str) -> Extraction:
    """Write what ``rows`` makes of every video of the first of ``sources`` that all of them have."""
    began, result, first = time.monotonic(), Extraction(), sources[0]
    for vid in first:
        if lacking := [s.folder for s in sources if vid not in s]:
            result.failed[vid] = f"'{lacking[0].name}' has no features of it"
    common = [vid for vid in first if vid not in result.failed]
    if not common:
        raise DataError(f"'{first.folder}' and '{sources[1].folder}' have no video in common; "
                        "check that they are of one dataset.")
    if out.resolve() in [s.folder.resolve() for s in sources]:
        raise DataError(f"'{out}' is one of the folders that are read; write to another one.")
    with locked(out), Bar(what, len(common)) as bar:
        entries = _begin(out, head, common)
        for vid in common:
            path = out / f"{vid}.npy"
            grid, data = rows(vid)
            if vid in entries and _damage(path, grid.count, head["dim"], head["dtype"], finite=False) is None:
                result.skipped.append(vid)
            else:
                _store(path, data, head["dtype"], f"'{first.folder}', video {_quoted(vid)}")
                result.done.append(vid)
            entry = first.meta["videos"][vid]
            entries[vid] = {"grid": grid.to_json(), "duration": entry["duration"],
                            "padded": bool(entry.get("padded"))}
            result.clips += grid.count
            bar.advance()
        _write_manifest(out, head, entries, result.failed)
    for vid, why in result.failed.items():
        say(f"left out: {_quoted(vid)}: {why}")
    result.seconds = time.monotonic() - began
    return result


# ---------------------------------------------------------------------------------------------- HDF5


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise DataError('HDF5 needs h5py; pip install "cuemark[hdf5]".') from None
    return h5py


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Whatever h5py makes of a file that is damaged or not meant for it becomes one sentence."""
    try:
        yield
    except DataError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{where} cannot be read as HDF5 features ({why}); was the copy complete?") from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    h5py = _h5py()
    if not path.is_file():
        raise DataError(f"HDF5 file '{path}' does not exist; check the path.")
    with _reading(f"'{path}'"):
        file = h5py.File(path, "r", locking="best-effort")
    try:
        yield file
    finally:
        file.close()


def _node(group: Any, name: str | bytes, where: str) -> Any:
    """The dataset or group under ``name``, of what is in the file itself: nothing that leads elsewhere is followed."""
    h5py = _h5py()
    if isinstance(name, bytes):  # which h5py gives, but does not take
        raise DataError(f"{where}: its name is not text.")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"{where} is a link to something else; it is not followed.")
    node = group[name]
    if isinstance(node, h5py.Dataset) and (node.is_virtual or node.external):
        raise DataError(f"{where} keeps its numbers in another file; it is not followed.")
    if not isinstance(node, h5py.Dataset | h5py.Group):
        raise DataError(f"{where} is neither a dataset nor a group.")
    return node


def _leaf(file: Any, name: str | bytes, dataset: str | None, where: str) -> tuple[str, Any]:
    """Where the features of a video are, flat or in a group of their own, and the dataset."""
    h5py = _h5py()
    node, key = _node(file, name, where), str(name)
    if isinstance(node, h5py.Group):
        inside = list(itertools.islice(node, 100))
        inner = dataset if dataset is not None else inside[0] if len(inside) == 1 else key
        if inner not in inside:
            holds = ", ".join(map(_quoted, inside[:5])) or "nothing"
            raise DataError(f"{where} is a group that holds {holds}; name the one that is meant (dataset).")
        node, key = _node(node, inner, where), f"{key}/{inner}"
        if not isinstance(node, h5py.Dataset):
            raise DataError(f"{where} has groups within groups; features are at most one group deep.")
    return key, node


def _write_hdf5(out: Path, head: Mapping[str, Any] | None, rows: Iterable[tuple[str, np.ndarray, Mapping[str, Any]]]
                ) -> int:
    """Float32 datasets with gzip 9, as TSP writes them; atomically. Returns how many."""
    h5py = _h5py()
    if out.is_dir():
        raise CallError(f"'{out}' is a folder; give the name of an HDF5 file.")
    count = 0
    # no times are stored, and the oldest layout is used: the same bytes each time, for readers of any age
    with (_unswept(out.parent), replacing(out, "w+b") as raw,
          h5py.File(raw, "w", libver=("earliest", "v110")) as file):
        if head is not None:
            file.attrs[ATTRIBUTE] = json.dumps(head, sort_keys=True)
        for name, data, told in rows:
            node = file.create_dataset(name, data=np.ascontiguousarray(data, np.float32),
                                       chunks=data.shape if data.ndim == 1 else True, compression="gzip",
                                       compression_opts=9)
            for key, value in told.items():
                node.attrs[key] = value
            count += 1
    return count


@contextmanager
def _unswept(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that others fill and sweep; any other folder is left as it is."""
    if (folder / LOCK).exists() or (folder / MANIFEST).exists():
        with locked(folder):
            yield
    else:
        yield


def export(folder: str | Path, out: str | Path, to: Literal["tsp", "gtad"] = "tsp", *, positions: int = 100
           ) -> Extraction:
    """Write a features folder as one HDF5 file, as other people's code reads it; atomically.

    Args:
        to: ``tsp``: a dataset ``<id>`` ``(T, C)`` float32 for each video, chunks, gzip 9, as TSP's release. ``gtad``: a
            dataset ``v_<id>`` ``(positions, C)``, interpolated to equal cells over the whole video, as BMN and G-TAD
            read on ActivityNet; ids that all begin with ``v_`` keep their names.
        positions: of ``gtad``.

    Attributes carry the description of the folder and of each video, so that :func:`import_` needs nothing more.

    Raises:
        CallError: an unknown layout.
        DataError: the folder is incomplete or damaged, or h5py is not installed.
    """
    if to not in ("tsp", "gtad"):
        raise unknown("layout", to, ("tsp", "gtad"))
    within("positions", positions, 1)
    began, opened = time.monotonic(), FeatureFolder.open(folder)
    _required(opened.folder, opened.meta)
    if not len(opened):
        raise DataError(f"'{opened.folder}' holds no features; there is nothing to export.")
    head = {key: opened.meta[key] for key in (*HEAD, "foreign") if key in opened.meta}
    prefix = ""
    if to == "gtad":
        head["clip"] = {**head["clip"], "even": positions}
        prefix = "" if all(vid.startswith("v_") for vid in opened) else "v_"
    result = Extraction()

    def rows() -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
        with Bar("exporting", len(opened)) as bar:
            for vid in opened:
                entry, path = opened.meta["videos"][vid], opened.folder / f"{vid}.npy"
                try:
                    grid, _ = _entry(vid, entry)
                except ValueError as error:
                    raise DataError(f"'{opened.folder / MANIFEST}', video {_quoted(vid)}: {error}.") from None
                if why := _damage(path, grid.count, opened.dim, opened.meta["dtype"]):
                    raise DataError(f"'{path}' {why}; make it again, then export.")
                features = opened[vid]
                if to == "gtad":
                    if not grid.count:
                        raise DataError(f"'{path}' holds no feature; there is nothing to interpolate.")
                    features = features.resample(positions)
                yield prefix + vid, features.data, {
                    "video": vid, "duration": features.duration, "padded": bool(entry.get("padded")),
                    "grid": json.dumps(features.grid.to_json())}
                result.done.append(vid)
                result.clips += features.grid.count
                bar.advance()

    _write_hdf5(Path(out), head, rows())
    result.seconds = time.monotonic() - began
    return result


# ---------------------------------------------------------------------------------------------- global features


def read_global(path: str | Path) -> dict[str, np.ndarray]:
    """TSP's global video features: video -> ``(C,)`` float32.

    Names are those of the file: of a video's file, up to its first dot (``video_test_0000004``, ``v_sJFgo9H6zNo``).

    Raises:
        DataError: no such file, not HDF5, or something in it is not a vector of finite numbers as wide as the others.
    """
    h5py, path = _h5py(), Path(path)
    found: dict[str, np.ndarray] = {}
    dim = 0
    with _opened(path) as file, _reading(f"'{path}'"):
        for name in file:
            where = f"'{path}', video {_quoted(name)}"
            with _reading(where):
                node = _node(file, name, where)
                if not isinstance(node, h5py.Dataset) or node.shape is None or len(node.shape) != 1:
                    shape = getattr(node, "shape", None)
                    told = "is no array" if shape is None else f"has shape {shown(shape)}"
                    raise DataError(f"{where} {told}; global video features are one vector (C,) for each video.")
                dim = dim or node.shape[0]
                if node.dtype.kind != "f" or not 0 < node.shape[0] == dim or dim > WIDEST:
                    raise DataError(f"{where} has {node.shape[0]} numbers of type {node.dtype}; expected "
                                    f"{dim if 0 < dim <= WIDEST else 'some'} of a floating type.")
                with np.errstate(over="ignore"):
                    found[name] = node[()].astype(np.float32)
            if not np.isfinite(found[name]).all():
                raise DataError(f"{where} holds NaN or infinity; pool its features again.")
    if not found:
        raise DataError(f"'{path}' holds no dataset; expected global video features.")
    return found


def write_global(path: str | Path, features: Mapping[str, np.ndarray]) -> None:
    """Write global video features as TSP's region head reads them: ``(C,)`` float32, gzip 9; atomically.

    Args:
        features: video, or its file's name, -> ``(C,)``, such as :func:`~cuemark.feature_folder.global_features` gives.
            The key in the file is the name without folders, up to its first dot.

    Raises:
        DataError: nothing to write, two videos with one key, vectors of different widths, or NaN.
    """
    rows: dict[str, np.ndarray] = {}
    for name, vector in features.items():
        key, vector = os.path.basename(name).split(".")[0], np.asarray(vector)
        if (why := _unusable(key)) is not None:
            raise DataError(f"video {_quoted(name)} cannot be written: {why}.")
        if key in rows:
            raise DataError(f"two videos would have the key {_quoted(key)} (the name up to its first dot); rename one.")
        width = len(next(iter(rows.values()))) if rows else None
        if vector.ndim != 1 or not len(vector) or (width is not None and len(vector) != width):
            raise DataError(f"video {_quoted(name)} has features of shape {shown(vector.shape)}; expected "
                            f"({width or 'C'},).")
        if vector.dtype.kind != "f" or not np.isfinite(vector.astype(np.float32)).all():
            raise DataError(f"video {_quoted(name)} has features that are not finite numbers.")
        rows[key] = vector
    if not rows:
        raise DataError("there are no global video features to write.")
    _write_hdf5(Path(path), None, ((key, vector, {}) for key, vector in rows.items()))


# ---------------------------------------------------------------------------------------------- other people's


@dataclass(frozen=True, slots=True)
class _Item:
    """The features of one video in a foreign file."""

    name: str
    """What the file calls it."""
    file: Path
    key: str | None
    """Of the dataset in an HDF5 file."""
    shape: tuple[int, ...]
    told: dict[str, Any] | None = None
    """What :func:`export` wrote beside it."""
    wrong: str | None = None
    """Why it cannot be used, where its header says so already."""

    @property
    def where(self) -> str:
        return f"'{self.file}'" if self.key is None else f"'{self.file}', video {_quoted(self.name)}"


def read_times(path: str | Path) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of videos, and their frames per second where told, for :func:`import_`.

    Args:
        path: a truth file (``duration``, ``fps``), or a table with a header, as TSP's ``*_metadata.csv`` (``filename``,
            ``video-duration``, ``fps``) and ground truth, and BMN's ``video_info_new.csv`` (``video``, ``seconds``).

    Raises:
        DataError: no such file, or it tells no duration.
    """
    path = Path(path)
    durations: dict[str, float] = {}
    rates: dict[str, float] = {}
    if path.suffix.lower() != ".csv":
        for vid, video in read_truth(path, length=lambda *_: 0.0).items():
            if video.duration > 0:
                durations[vid] = video.duration
                if video.fps:
                    rates[vid] = video.fps
    else:
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                table = csv.DictReader(file)
                columns = table.fieldnames or []
                name = next((c for c in ("video-name", "video", "filename") if c in columns), None)
                length = next((c for c in ("video-duration", "seconds", "duration") if c in columns), None)
                rate = next((c for c in ("fps", "frame-rate") if c in columns), None)
                if name is None or length is None:
                    raise DataError(f"'{path}' has the columns {', '.join(map(str, columns))}; expected a name "
                                    "(video-name, video, filename) and a duration (video-duration, seconds, "
                                    "duration).")
                for row in table:
                    vid = os.path.basename(row[name]).split(".")[0] if name == "filename" else row[name]
                    seconds = float(row[length])
                    if abs(durations.setdefault(vid, seconds) - seconds) > 1e-3 or not 0 < seconds < math.inf:
                        raise DataError(f"'{path}', line {table.line_num}: video {_quoted(vid)} has a duration of "
                                        f"{seconds:g} s, and of {durations[vid]:g} s before; correct it.")
                    if rate is not None and row[rate] and 0 < float(row[rate]) < math.inf:
                        rates[vid] = float(row[rate])
        except FileNotFoundError:
            raise DataError(f"'{path}' does not exist; check the path.") from None
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise DataError(f"'{path}' cannot be read as a table of durations ({error}).") from None
    if not durations:
        raise DataError(f"'{path}' tells the duration of no video; give a file that does.")
    return durations, rates


def import_(path: str | Path, out: str | Path, *, durations: Mapping[str, float] | None = None,
            fps: float | Mapping[str, float] | None = None, stride: int | None = None, clip_frames: int | None = None,
            even: bool = False, encoder: str | None = None, weights: str | None = None,
            dtype: Literal["float16", "float32"] = "float32", dataset: str | None = None, lenient: bool = False
            ) -> Extraction:
    """Other people's features into a features folder that training and localizing read.

    Every shape is looked at before anything is written.

    Args:
        path: an HDF5 file in one of the layouts above, or a folder of ``.npy`` or HDF5 files.
        durations: video -> seconds (:func:`read_times`). A video is known by the name it has here: ``v_<id>`` of the
            file is ``<id>`` if that is listed, and the other way round.
        fps: frames per second that were looked at; a mapping where each video has its own rate.
        stride: frames between the starts of clips.
        clip_frames: frames of a clip. Row ``i`` is frames ``[i · stride, i · stride + clip_frames)``.
        even: the rows cover each video evenly, however many they are (``csv_mean_100.hdf5``), in place of the three.
        encoder: what to call the encoder; by default ``foreign`` and the source's name.
        weights: says which encoder it is; by default the digest of the source, so that a localizer that was trained on
            one file refuses features from another. Give several files of one encoder (training, validation) the same.
        dtype: to store.
        dataset: which dataset of each video's group.
        lenient: leave out the videos that do not fit, name them in ``failed.json``, and go on.

    What :func:`export` wrote tells all this itself, and needs no more than ``path`` and ``out``.

    Returns:
        ``done``, ``skipped`` (were there) and, if lenient, ``failed``.

    Raises:
        CallError: the stride, rate or clip length is missing or impossible.
        DataError: the source cannot be read; features do not fit the duration (naming both numbers); there is none, or
            a name, shape, type or number that cannot be meant; or ``out`` holds other features.
    """
    path, out, began = Path(path), Path(out), time.monotonic()
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    files = _files(path)
    told = None if path.is_dir() else _told(path)
    if told is None:
        if durations is None:
            raise CallError(f"'{path}' does not tell how long its videos are; give their durations.")
        clip = _clip(path, fps, stride, clip_frames, even)
    else:
        clip = told["clip"]
        if even or encoder is not None or weights is not None:
            raise CallError(f"'{path}' tells itself what it holds; leave out even, encoder and weights.")
        for key, given in (("fps", fps), ("stride", stride), ("frames", clip_frames)):
            if given is not None and given != clip[key]:
                raise DataError(f"'{path}' tells that its {key} is {clip[key]}, but {given} was given; leave it out, "
                                "or mend the one that is wrong.")
    items = [item for file in files for item in _items(file, dataset, told is not None)]
    if not items:
        raise DataError(f"'{path}' holds no features; expected datasets in it, or .npy or HDF5 files.")
    chosen: dict[str, tuple[_Item, dict[str, Any]]] = {}
    result = Extraction()
    widths = Counter(item.shape[1] for item in items if item.wrong is None and len(item.shape) == 2)
    dim = told["dim"] if told is not None else widths.most_common(1)[0][0] if widths else 0
    for item in items:
        name = item.name
        try:
            name, entry = _fitted(item, dim, durations, fps, clip)
            if name in chosen:
                raise DataError(f"{item.where} and {chosen[name][0].where} are both features of video {_quoted(name)}.")
            chosen[name] = item, entry
        except DataError as error:
            result.failed[_clean(name)] = _clean(str(error))
    if result.failed and not lenient:
        why = next(iter(result.failed.values())).rstrip(".?")
        raise DataError(f"{why}; {len(result.failed)} of {len(items)} videos do not fit: mend what was given, or leave "
                        "out what does not fit (lenient).")
    if not chosen:
        raise DataError(f"none of the {len(items)} videos fits: {next(iter(result.failed.values()))}")
    if clip.get("even") is True and len(counts := {item.shape[0] for item, _ in chosen.values()}) == 1:
        clip = {**clip, "even": counts.pop()}

    digest = _digest(files, path.is_dir())
    head: dict[str, Any] = {
        "software": software(), "encoder": encoder or f"foreign: {_clean(path.name)}",
        "weights": weights or digest[:16], "dim": dim, "clip": clip, "pooling": "unknown", "dtype": dtype,
        "scaling": "unknown", "precision": "unknown", "foreign": True}
    if told is not None:
        head = {"foreign": False, **told}
        dtype = told["dtype"]
    head["source"] = {"name": _clean(path.name), "sha256": digest}
    with locked(out), Bar("importing", len(chosen)) as bar:
        entries = _begin(out, head, chosen)
        # every file is opened once
        for file, group in itertools.groupby(chosen.items(), key=lambda pair: pair[1][0].file):
            with _source(file) as source:
                for vid, (item, entry) in group:
                    target, count = out / f"{vid}.npy", item.shape[0]
                    try:
                        if _damage(target, count, dim, dtype, finite=False) is None:  # a file is whole or not there
                            result.skipped.append(vid)
                        else:
                            _store(target, source if item.key is None else source[item.key], dtype, item.where)
                            result.done.append(vid)
                        entries[vid] = entry
                        result.clips += count
                    except DataError as error:
                        if not lenient:
                            raise
                        result.failed[vid] = _clean(str(error))
                    bar.advance()
        for why in result.failed.values():
            say(f"left out: {why}")
        if not entries:
            raise DataError(f"none of the {len(items)} videos could be imported: {next(iter(result.failed.values()))}")
        _write_manifest(out, head, entries, result.failed)
    result.seconds = time.monotonic() - began
    return result


def _clip(path: Path, fps: float | Mapping[str, float] | None, stride: int | None, frames: int | None, even: bool
          ) -> dict[str, Any]:
    """What the description of foreign features says of clips."""
    given = {"fps": fps, "stride": stride, "clip_frames": frames}
    if even:
        if known := [key for key, value in given.items() if value is not None]:
            raise CallError(f"features that cover a video evenly have no {' or '.join(known)}; leave it out, or even.")
        return {"frames": None, "fps": None, "stride": None, "even": True}
    if fps is None or stride is None or frames is None:
        lacking = [key for key, value in given.items() if value is None]
        raise CallError(f"'{path}' does not tell when its rows are; give {', '.join(lacking)}, or even if they cover "
                        "each video evenly.")
    for key, value in (("stride", stride), ("clip_frames", frames)):
        if type(value) is not int:
            raise CallError(f"{key} must be a whole number of frames, got {value}.")
        within(key, value, 1)
    if not isinstance(fps, Mapping):
        within("fps", fps, 1e-3)
    return {"frames": frames, "fps": None if isinstance(fps, Mapping) else float(fps), "stride": stride}


def _told(path: Path) -> dict[str, Any] | None:
    """What :func:`export` wrote of all the videos of a file."""
    with _opened(path) as file, _reading(f"'{path}'"):
        if ATTRIBUTE not in file.attrs:
            return None
        try:
            head = json.loads(file.attrs[ATTRIBUTE])
        except RecursionError:
            head = None
        if not isinstance(head, dict) or (lacking := _lacking(head)):
            raise DataError(f"'{path}' has an attribute '{ATTRIBUTE}' that does not describe features"
                            f"{' (' + ', '.join(lacking) + ')' if isinstance(head, dict) else ''}; export it again.")
        return {key: head[key] for key in (*HEAD, "foreign") if key in head}


def _files(path: Path) -> list[Path]:
    """The files of a source, in an order that does not change."""
    if not path.exists():
        raise DataError(f"'{path}' does not exist; check the path.")
    if path.suffix.lower() == ".npy" and not path.is_dir():
        raise DataError(f"'{path}' is one array; name the folder it is in.")
    if path.is_dir() and (path / MANIFEST).exists():
        raise DataError(f"'{path}' is a features folder already; use it as it is, or merge it with others.")
    return sorted(f for f in path.iterdir() if f.suffix.lower() in (".npy", *HDF5_ENDINGS)) if path.is_dir() else [path]


def _items(file: Path, dataset: str | None, told: bool) -> Iterator[_Item]:
    """The features in a file, by their headers."""
    if file.suffix.lower() == ".npy":
        try:
            array = mapped(file)
            wrong = None if array.dtype.kind == "f" else f"'{file}' holds {array.dtype}, not floating-point numbers."
            yield _Item(file.stem, file, None, array.shape, wrong=wrong)
        except DataError as error:
            yield _Item(file.stem, file, None, (), wrong=f"'{file}' {error}.")
        return
    with _opened(file) as h5, _reading(f"'{file}'"):
        for name in h5:
            where = f"'{file}', video {_quoted(name)}"
            try:
                with _reading(where):
                    key, node = _leaf(h5, name, dataset, where)
                    if node.dtype.kind != "f":
                        raise DataError(f"{where} holds {node.dtype}, not floating-point numbers.")
                    attributes = {k: node.attrs[k] for k in ("video", "duration", "padded", "grid")} if told else None
                    item = _Item(name, file, key, () if node.shape is None else tuple(node.shape), attributes)
            except DataError as error:
                item = _Item(_quoted(name)[1:-1], file, "", (), wrong=str(error))
            yield item


def _fitted(item: _Item, dim: int, durations: Mapping[str, float] | None, fps: float | Mapping[str, float] | None,
            clip: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The video's name, and its entry in the description; DataError where it does not fit."""
    where, shape = item.where, item.shape
    if item.wrong is not None:
        raise DataError(item.wrong)
    if len(shape) != 2 or not math.prod(shape) or math.prod(shape) > LARGEST:
        hint = " (global video features are read by read_global)" if len(shape) == 1 else ""
        raise DataError(f"{where} has shape {shown(shape)}; expected rows of features, (T, C){hint}.")
    if shape[1] != dim:
        others = "the description says" if item.told else "most here are"
        raise DataError(f"{where} has features {shape[1]} wide, but {others} {dim}.")
    count = shape[0]
    if item.told is not None:
        try:
            vid, grid = str(item.told["video"]), json.loads(item.told["grid"])
            entry = {"grid": grid, "duration": float(item.told["duration"]), "padded": bool(item.told["padded"])}
            found, _ = _entry(vid, entry)
            if found.count != count:
                raise ValueError(f"{count} features, but a grid of {found.count}")
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{where}: {error}; export it again.") from None
        return vid, {**entry, "grid": found.to_json()}
    assert durations is not None
    short = item.name.split(".")[0]
    names = [n for full in (item.name, short) for n in (full, full.removeprefix("v_"), f"v_{full}")]
    vid = next((n for n in names if n in durations), item.name)
    if why := _unusable(vid):
        raise DataError(f"{where}: {why}.")
    try:
        duration = float(durations[vid])
        if not 0 < duration < math.inf:
            raise ValueError
    except (KeyError, ValueError, TypeError):
        raise DataError(f"{where}: the durations that were given have none for it.") from None
    if clip.get("even"):
        return vid, {"grid": Grid.over(0.0, duration, count).to_json(), "duration": duration, "padded": False}
    rate = fps.get(vid) if isinstance(fps, Mapping) else fps
    if rate is None or not 1e-3 <= rate < math.inf:
        raise DataError(f"{where}: the rates that were given have none for it.")
    stride, frames = clip["stride"], clip["frames"]
    if why := _misfit(count, duration, rate, stride, frames):
        raise DataError(f"{where}: {why}.")
    padded = clip_count(duration, ClipConfig(frames=frames, fps=rate), stride)[0] < frames
    grid = Grid.of_clips(count, stride, frames, rate)
    return vid, {"grid": grid.to_json(), "duration": duration, "padded": padded}


def _digest(files: Sequence[Path], folder: bool) -> str:
    """sha256 of a file, or of the names and digests of the files in a folder."""
    digests = []
    for path in files:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if not folder:
        return digests[0]
    lines = "".join(f"{path.name} {digest};" for path, digest in zip(files, digests, strict=True))
    return hashlib.sha256(_clean(lines).encode()).hexdigest()


def _begin(out: Path, head: dict[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """Describe what is to come, so that a killed import can go on; a folder of other features is refused.

    A folder that lacks some of the ``wanted`` videos is not complete from here on. Whoever calls holds the folder's
    lock. Returns the entries of what was imported from the same source before.
    """
    if (out / MANIFEST).exists():
        old, new = _describe(out), json.loads(json.dumps(head))
        for key in (*HEAD[1:], "foreign", "source"):
            there, here = (told.get(key, USUAL.get(key)) for told in (old, new))
            if there != here:
                raise DataError(f"'{out}' holds features with {key} {there}, but these have {here}; import into "
                                "another folder, and merge them.")
        sweep(out)
        if old.get("complete") and not old["videos"].keys() >= set(wanted):
            _write_manifest(out, head, old["videos"], failures(out), complete=False)
        return dict(old["videos"])
    if out.is_dir() and any(out.glob("*.npy")):
        raise DataError(f"'{out}' holds .npy files that no {MANIFEST} describes; import into another folder.")
    _write_manifest(out, head, {}, {}, complete=False)
    return {}


@contextmanager
def _source(file: Path) -> Iterator[Any]:
    """An open HDF5 file, or a mapped array."""
    if file.suffix.lower() == ".npy":
        yield mapped(file)
    else:
        with _opened(file) as h5:
            yield h5


def _store(target: Path, array: Any, dtype: str, where: str) -> None:
    """Write ``(T, C)`` numbers as :func:`numpy.save` does, a block at a time, if they are all finite."""
    with replacing(target, "wb") as out:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(out, {**header, "shape": tuple(array.shape)})
        blocks = _blocks(array)
        while True:
            with _reading(where):
                block = next(blocks, None)
            if block is None:
                return
            start, rows = block
            try:
                with np.errstate(over="ignore"):
                    out.write(_finite(start, np.ascontiguousarray(rows, dtype)).tobytes())
            except DataError as error:
                raise DataError(f"{where} {error}; leave it out, or make it again.") from None
