"""Encoder over whole videos: clips to features, in a folder that says what it holds.

Every frame is decoded once; overlapping clips are windows over that stream. Clip ``i`` starts ``i · stride`` frames
(at the encoder's ``fps``) into the video, as in TSP's extraction; what is left at the end is dropped, and a video
shorter than one clip is padded by repeating its last frame, and says so.

The folder: one ``<video_id>.npy`` ``(T, C)`` each, readable by ActionFormer and OpenTAD as it is, and
``features.json``: the encoder and the digest of its weights, clip length, stride, rate, each video's grid. Files are
written to a temporary name and renamed; a video is there when ``features.json`` lists it, and the folder is complete
when that says so. A run that was killed goes on where it was and ends with the same bytes.

A clip's bytes do not depend on its neighbours: batches have one shape, the last padded, and never mix videos.
"""

from __future__ import annotations

import time
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cuemark import video
from cuemark.batch import normalised
from cuemark.checkpoint import software
from cuemark.clips import TOLERANCE, clip_count, cut
from cuemark.encoders.video_encoder import VideoEncoder, encode
from cuemark.errors import CallError, CuemarkError, DataError, ModelError, within
from cuemark.grid import Features, Grid
from cuemark.progress import Bar, say
from cuemark.segments import read_json, replacing, write_json

MANIFEST = "features.json"
SECONDS_BETWEEN_MANIFESTS = 5.0


def sampled(path: str | Path, encoder: VideoEncoder, count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """The ``count`` frames shown at 0, 1/fps, 2/fps … seconds, resized and centre-cropped: ``(crop, crop, 3)`` uint8.

    The last frame is repeated where the video ends early.
    """
    clip = encoder.clip
    number, shown = 0, None
    for stamp, image in video.frames(path, clip.size(height, width)):
        while shown is not None and number < count and number / clip.fps + TOLERANCE < stamp:
            yield shown
            number += 1
        if number == count:
            return
        shown = cut(image[None], clip.crop)[0]
    assert shown is not None  # video.frames raises where there is none
    for _ in range(number, count):
        yield shown


def features_of(path: str | Path, encoder: VideoEncoder, stride: int = 16, batch: int = 16, bf16: bool = False
                ) -> tuple[Features, bool]:
    """Features of one video, and whether it was shorter than a clip and padded.

    Args:
        stride: frames at ``encoder.clip.fps`` between the starts of clips; 16 is one clip length.
        batch: clips encoded at a time.
        bf16: compute under bf16 autocast.

    Raises:
        VideoError: the file cannot be used.
    """
    info, clip = video.probe(path), encoder.clip
    frames, clips = clip_count(info.duration, clip, stride)
    needed = (clips - 1) * stride + clip.frames
    rows: list[np.ndarray] = []
    window: list[np.ndarray] = []
    waiting: list[np.ndarray] = []
    skip = 0  # frames between two clips, when the stride is longer than a clip
    last = None
    stream = sampled(path, encoder, min(frames, needed), info.height, info.width)
    for number in range(needed):
        last = next(stream, last)
        assert last is not None
        if skip:
            skip -= 1
            continue
        window.append(last)
        if len(window) == clip.frames:
            waiting.append(np.stack(window))
            skip = max(0, stride - clip.frames)
            window = window[stride:]
            if len(waiting) == batch or number == needed - 1:
                rows.append(_encode(encoder, waiting, batch, bf16))
                waiting = []
    grid = Grid.of_clips(clips, stride, clip.frames, clip.fps)
    return Features(np.concatenate(rows), grid, info.duration), frames < clip.frames


def _encode(encoder: VideoEncoder, clips: list[np.ndarray], batch: int, bf16: bool) -> np.ndarray:
    padded = clips + [np.zeros_like(clips[0])] * (batch - len(clips))
    tensor = normalised(np.stack(padded), encoder.clip.mean, encoder.clip.std)
    return encode(encoder.network, tensor, bf16)[: len(clips)].numpy()


# ---------------------------------------------------------------------------------------------- folders


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


def extract(videos: Mapping[str, str | Path], encoder: VideoEncoder, out: str | Path, *, stride: int = 16,
            batch: int = 16, bf16: bool = False, dtype: Literal["float16", "float32"] = "float32") -> Extraction:
    """Write the features of ``videos`` (id -> file) into the folder ``out``; what is there already is skipped.

    A broken video is named and counted, and the rest goes on.

    Raises:
        ModelError: ``out`` holds features of another encoder, stride or precision.
        DataError: ``out`` holds a ``features.json`` that is none.
        CallError: an id that cannot be a file's name, or a stride or batch below 1.
    """
    out, clip = Path(out), encoder.clip
    within("stride", stride, 1)
    within("batch", batch, 1)
    for vid in videos:
        if not vid or Path(vid).name != vid:
            raise CallError(f"'{vid}' cannot be the name of a file in '{out}'; give each video a name of its own, "
                            "without slashes.")
    head = {
        "software": software(), "encoder": encoder.name, "weights": encoder.weights, "dim": encoder.dim,
        "clip": {**asdict(clip), "stride": stride}, "pooling": "mean", "dtype": dtype, "scaling": video.SCALING,
        "precision": "bf16" if bf16 else "fp32",
    }
    entries, result, began = _resume(out, head), Extraction(), time.monotonic()
    for left in out.glob(".*.tmp"):  # what a kill inside a write leaves behind
        left.unlink(missing_ok=True)
    saved = time.monotonic()

    def describe(complete: bool) -> None:
        write_json(out / MANIFEST, {**head, "complete": complete, "videos": dict(sorted(entries.items())),
                                    "failed": dict(sorted(result.failed.items()))})

    with Bar("extracting", len(videos)) as bar:
        for vid, path in videos.items():
            if vid in entries and (out / f"{vid}.npy").exists():
                result.skipped.append(vid)
                bar.advance()
                continue
            try:
                features, padded = features_of(path, encoder, stride, batch, bf16)
            except CuemarkError as error:
                result.failed[vid] = str(error)
                say(f"left out: {error}")
                bar.advance()
                continue
            with replacing(out / f"{vid}.npy", "wb") as file:
                np.save(file, np.ascontiguousarray(features.data, dtype=dtype), allow_pickle=False)
            entries[vid] = {"grid": features.grid.to_json(), "duration": features.duration, "padded": padded}
            result.done.append(vid)
            result.clips += features.grid.count
            if time.monotonic() - saved > SECONDS_BETWEEN_MANIFESTS:
                describe(complete=False)
                saved = time.monotonic()
            bar.advance(1, f"{result.clips / (time.monotonic() - began):.0f} clips/s")
    if entries:  # a folder of nothing is not described
        describe(complete=True)
    result.seconds = time.monotonic() - began
    return result


def _resume(out: Path, head: dict[str, Any]) -> dict[str, Any]:
    """The entries of videos that are already there; a folder of other features is refused."""
    if not (out / MANIFEST).exists():
        return {}
    old = read_json(out / MANIFEST, "features")
    if not isinstance(old, dict) or not isinstance(old.get("videos"), dict):
        raise DataError(f"'{out / MANIFEST}' does not describe features; remove it, or give another folder with --out.")
    for key in ("encoder", "weights", "clip", "dtype", "precision"):
        mine = read_back(head[key])
        if old.get(key) != mine:
            raise ModelError(f"'{out}' holds features with {key} {old.get(key)}, but these would have {mine}; "
                             "give another folder with --out, or remove this one.")
    return dict(old["videos"])


def read_back(value: Any) -> Any:
    """``value`` as it looks after a trip through JSON (tuples become lists)."""
    if isinstance(value, Mapping):
        return {k: read_back(v) for k, v in value.items()}
    return [read_back(v) for v in value] if isinstance(value, (list, tuple)) else value


def global_features(features: Mapping[str, Features], pooling: Literal["max", "mean"] = "max") -> dict[str, np.ndarray]:
    """TSP's global video features: each video's clip features pooled over time, ``(C,)`` (section 3.3)."""
    pool = np.max if pooling == "max" else np.mean
    return {vid: np.asarray(pool(features[vid].data.astype(np.float32), axis=0)) for vid in features}
