"""Frames and tokens in place of features: what a localizer with towers inside learns from, and answers raw video with.

A localizer sees features as rows, views, windows and batches, and so do the questions that it is asked. To train its
image tower too, all that stays as it is, but for what travels in it: in place of a video's features goes its *clock*,
``(T, 2)`` numbers that say which frame each row is. In place of a sentence's vectors go the *ids* of its tokens. At the
end, :class:`Inputs` reads the frames and takes the ids as they are::

    clocks {id: (T, 2)} -> rows_of, views, FeatureData, collate -> Batch of clocks (B, T, 2), ids (Q, W, 1)
      -> Inputs: decode, scale, crop -> Batch with frames (B, T, 3, side, side) uint8 and tokens (Q, W) int64

Which frames a row has is decided where it is for features: N evenly spaced ones of the whole, ``int(linspace(0, T - 1,
N))``, or windows of N that follow each other (``UnLoc.views``). A clock ticks as :func:`cuemark.extraction.extract`
looks, so a tower that was tuned on frames sees the same ones, bit for bit, when it makes features later. Frames are
found by presentation time; no frame rate of a file is trusted.

In training (:class:`FrameData`), each row is changed by one draw, the same for all of its frames (UnLoc's release)::

    frames with their shorter side scaled -> jitter of the scale -> random crop -> mirrored or not
      -> RandAugment (Cubuk et al., NeurIPS 2020): operations on colours and a square cut out

Where a tower is frozen and a row is not changed, its frames are decoded ahead and encoded once, and what the tower said
is kept (:class:`Seen`): batches then have features in place of frames.

RandAugment's operations are those that UnLoc's release leaves for video: autocontrast, equalize, invert, posterize,
solarize, solarize-add, colour, contrast, brightness, sharpness, cut-out; one draw in twelve does nothing. They are
Pillow's, on all frames of a row below each other as one picture, so that what depends on a histogram does not flicker.
At magnitude 10, posterize keeps 4 bits, solarize inverts nothing, and the blends are at 1.9.

Where it differs from the release: crop and jitter are one resampling, which smooths what becomes smaller; the reach of
the cut-out, 40 of 224 pixels there, is that share of the side; a small magnitude posterizes to 1 bit at the least,
where 0 would be black.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn

from cuemark import checkpoint, folders, video
from cuemark.batch import Batch
from cuemark.clips import ClipConfig, FrameReader, ahead, clip_count, cut
from cuemark.encoders.clip import Config as ImageConfig
from cuemark.encoders.clip import Folder, Frames, ImageTower, TextConfig, TextTower, text_tower
from cuemark.encoders.t5 import Config as T5Config
from cuemark.encoders.t5 import T5Tower
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, DataError, ModelError, VideoError, within
from cuemark.extraction import ExtractConfig
from cuemark.feature_folder import damage
from cuemark.grid import Features, Grid
from cuemark.nn.spans import Window
from cuemark.segments import Truth, replacing
from cuemark.settings import build
from cuemark.text import GloVe, TextEncoder, folder_of, model_kind

# ---------------------------------------------------------------------------------------------- augmentation


@dataclass(frozen=True)
class Augment:
    """How the frames of a row are changed in training; the defaults are UnLoc's for localization and segmentation.

    Raises:
        CallError: an impossible value.
    """

    scale: tuple[float, float] = (0.9, 1.33)
    """Frames are scaled by a factor between these before they are cropped; never below the crop."""
    flip: float = 0.5
    """Probability of mirrored frames."""
    layers: int = 3
    """RandAugment's operations in a row; 0: none."""
    magnitude: float = 10.0
    """Of each, from 0 to 10."""

    def __post_init__(self) -> None:
        low, high = self.scale
        for name, value, least, most in (("scale", low, 0.01, high), ("flip", self.flip, 0, 1),
                                         ("layers", self.layers, 0, None), ("magnitude", self.magnitude, 0, 10)):
            within(f"augment.{name}", value, least, most)

    @classmethod
    def plain(cls) -> Augment:
        """Random crop and mirror alone: UnLoc's for moment retrieval and highlights."""
        return cls(scale=(1.0, 1.0), layers=0)


def augmented(frames: np.ndarray, side: int, config: Augment, rng: np.random.Generator) -> np.ndarray:
    """``(T, H, W, 3)`` uint8 frames to ``(T, side, side, 3)``, all changed alike."""
    height, width = frames.shape[1:3]
    factor = rng.uniform(*config.scale)
    tall, wide = max(side, round(height * factor)), max(side, round(width * factor))
    top, left = int(rng.integers(tall - side + 1)), int(rng.integers(wide - side + 1))
    down, across = height / tall, width / wide
    box = left * across, top * down, (left + side) * across, (top + side) * down
    found = np.stack([np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BILINEAR, box))
                      for frame in frames])
    if rng.random() < config.flip:
        found = found[:, :, ::-1]
    return rand_augment(found, config.layers, config.magnitude, rng)


def rand_augment(frames: np.ndarray, layers: int, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """``(T, H, W, 3)`` uint8 through ``layers`` drawn operations in a row: those above, a cut-out, or none."""
    share, drawn = magnitude / 10, list(OPERATIONS.values())
    for number in rng.integers(len(drawn) + 2, size=layers):
        if number < len(drawn):
            whole = Image.fromarray(np.ascontiguousarray(frames).reshape(-1, *frames.shape[2:]))
            frames = np.asarray(drawn[number](whole, share)).reshape(frames.shape)
        elif number == len(drawn):
            frames = cut_out(frames, round(share * frames.shape[1] * 40 / 224), rng)
    return frames


def cut_out(frames: np.ndarray, reach: int, rng: np.random.Generator) -> np.ndarray:
    """Black in a square of twice ``reach`` around a point of the frame, as far as it is inside."""
    y, x = (int(rng.integers(side)) for side in frames.shape[1:3])
    frames = frames.copy()
    frames[:, max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = 0
    return frames


def _blend(kind: Callable[[Image.Image], Any]) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, share: kind(image).enhance(0.1 + 1.8 * share)


def _solarize_add(image: Image.Image, share: float) -> Image.Image:
    added = int(share * 110)
    return image.point([min(255, v + added) if v < 128 else v for v in range(256)] * 3)


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda image, share: ImageOps.autocontrast(image),
    "equalize": lambda image, share: ImageOps.equalize(image),
    "invert": lambda image, share: ImageOps.invert(image),
    "posterize": lambda image, share: ImageOps.posterize(image, max(1, int(share * 4))),
    "solarize": lambda image, share: ImageOps.solarize(image, int(share * 256)),
    "colour": _blend(ImageEnhance.Color), "contrast": _blend(ImageEnhance.Contrast),
    "brightness": _blend(ImageEnhance.Brightness), "sharpness": _blend(ImageEnhance.Sharpness),
    "solarize_add": _solarize_add,
}
"""What RandAugment draws from: a picture and the magnitude, as a share of 10, to a picture."""


# ---------------------------------------------------------------------------------------------- videos


@dataclass
class Footage:
    """Video files, and how their frames are looked at.

    Args:
        videos: id -> file.
        clip: one frame is a clip here; ``fps`` is what the clocks tick.
        budget_bytes: decoded videos are kept up to this many; see :class:`cuemark.clips.FrameReader`.
    """

    videos: Mapping[str, Path]
    clip: ClipConfig
    budget_bytes: float = 2e9

    def __post_init__(self) -> None:
        if self.clip.frames != 1:
            raise CallError(f"an image tower looks at single frames, but the clips here have {self.clip.frames}; set "
                            "clip.frames = 1.")
        self._files = [Path(path) for path in self.videos.values()]
        self._reader = FrameReader(self.clip, self.budget_bytes)

    def clocks(self, truth: Truth | None = None, workers: int = 2) -> dict[str, Features]:
        """Each video's clock: which video, and which tick of ``fps`` from 0 s on; its grid is that of features.

        Args:
            truth: whose durations are taken where they are told, as measuring hundreds of thousands of files takes
                hours; frames behind the end of a file are its last. None: every file is measured.

        Raises:
            VideoError: a file cannot be used.
        """
        def length(vid: str) -> float:
            known = truth[vid].duration if truth is not None and vid in truth else 0.0
            return known if known > 0 else video.probe(self.videos[vid]).duration

        found = {}
        for number, (vid, duration) in enumerate(zip(self.videos, ahead(length, list(self.videos), workers))):
            _, count = clip_count(duration, self.clip, 1)
            data = np.stack([np.full(count, number), np.arange(count)], axis=1).astype(np.float32)
            found[vid] = Features(data, Grid.of_clips(count, 1, 1, self.clip.fps), duration)
        return found

    def file(self, clock: np.ndarray) -> Path:
        """The video file that the rows of a clock are of."""
        return self._files[round(float(clock[0, 0]))]

    def read(self, clock: np.ndarray, augment: Augment | None = None, rng: np.random.Generator | None = None
             ) -> np.ndarray:
        """The frames that the rows of a clock stand for.

        Args:
            clock: ``(T, 2)``, of one video.
            augment: with ``rng``, how they are changed; None: their centres.

        Returns:
            ``(T, 3, crop, crop)`` uint8.

        Raises:
            VideoError: the file cannot be read.
        """
        seconds = clock[:, 1].astype(np.float64) / self.clip.fps
        frames = self._reader.read(self.file(clock), seconds)
        if augment is None or rng is None:
            frames = cut(frames, self.clip.crop)
        else:
            frames = augmented(frames, self.clip.crop, augment, rng)
        return frames.transpose(0, 3, 1, 2)


@dataclass
class Seen:
    """What a frozen image tower says of rows of frames, looked at once and kept in a folder.

    A row whose frames are cut from the centre looks the same in every epoch, validation and run: the folder has a
    ``.npy`` of ``(T, dim)`` float32 for each, under a digest of all that decides it: the tower's weights and pooling,
    how frames are cut, the file (its path, size and time of change) and the ticks. One that is damaged is made again.
    The numbers are the tower's to the row alone, in float32 whatever the training computes in: what answers are made
    from later.

    Args:
        footage: what reads the frames.
        tower: frozen, with the weights that it keeps; it computes where it is.
        folder: made where it is missing. It holds 4 T dim bytes a row (0.4 MB of 128 frames of ViT-B), and nothing
            needs it after the training: delete it at will. It is left, as the same run called again, or one whose
            checkpoint was removed, would look at every video again.
    """

    footage: Footage
    tower: Frames
    folder: Path

    def __post_init__(self) -> None:
        told = (checkpoint.digest(self.tower.state_dict()), self.tower.tower.config, self.footage.clip)
        self._who = repr(told).encode()

    def kept(self, clock: np.ndarray) -> np.ndarray | None:
        """``(T, dim)`` of a clock's rows; None where they have not been looked at.

        Raises:
            VideoError: the video file is gone.
        """
        path = self._path(clock)
        return np.load(path) if damage(path, len(clock), self.tower.dim, "float32") is None else None

    def said(self, clock: np.ndarray, found: np.ndarray) -> np.ndarray:
        """``(T, dim)`` of a clock's rows, kept from now on.

        Args:
            found: the rows' frames ``(T, 3, crop, crop)`` uint8, or what :meth:`kept` gave.

        Raises:
            DataError: the folder cannot be written.
        """
        if found.ndim == 2:
            return found
        kept = self.kept(clock)  # one batch may have a row twice, asked two sentences
        if kept is not None:
            return kept
        device = next(self.tower.parameters()).device
        with torch.no_grad():
            told = self.tower(torch.from_numpy(np.ascontiguousarray(found))[None].to(device))[0].float().cpu().numpy()
        try:
            with replacing(self._path(clock), "wb") as file:
                np.save(file, told)
        except OSError as error:
            raise folders.unwritable(self.folder, error) from None
        return told

    def _path(self, clock: np.ndarray) -> Path:
        file = self.footage.file(clock)
        try:
            state = file.stat()
        except OSError as error:
            raise VideoError(f"video '{file}' cannot be read: {error.strerror}.") from None
        name = hashlib.sha256(self._who)
        name.update(repr((str(file.resolve()), state.st_size, state.st_mtime_ns, clock[:, 1].tolist())).encode())
        return self.folder / f"{name.hexdigest()[:32]}.npy"


def ids_of(reader: TextEncoder) -> Callable[[Sequence[str]], list[Tensor]]:
    """What reads sentences for a text tower inside: the ids of the tokens, in the place of their vectors.

    Returns:
        A function of n sentences to n times ``(W, 1)`` float32, which holds ids up to 16 million.
    """
    return lambda sentences: [ids[:, None].float() for ids in reader.tokens(sentences)]


@dataclass
class Inputs:
    """Batches of clocks and ids made into what the towers inside a localizer are fed.

    Called with a batch, for answers: frames are cut from the centre.
    """

    footage: Footage | None = None
    """Of an image tower; None: ``features`` are features."""
    tokens: bool = False
    """Whether the words of ``sentences`` are ids (:func:`ids_of`), for a text tower."""
    seen: Seen | None = None
    """Of a frozen image tower: rows that are cut from the centre become ``features``, which it gave once, in place of
    frames."""

    def __call__(self, batch: Batch) -> Batch:
        """The batch with ``frames`` (or their ``features``) and ``tokens``, where it was."""
        if self.footage is not None:
            batch = self.with_rows(batch, [self.look(clock) for clock in clocks_in(batch)])
        return self.with_tokens(batch)

    def look(self, clock: np.ndarray) -> np.ndarray:
        """What :meth:`with_rows` makes of a clock: the rows' frames, or what the tower said of them; for a thread."""
        assert self.footage is not None
        kept = None if self.seen is None else self.seen.kept(clock)
        return self.footage.read(clock) if kept is None else kept

    def with_rows(self, batch: Batch, rows: Sequence[np.ndarray]) -> Batch:
        """The batch with what :meth:`look` gave of each row: frames, or the tower's features where it keeps them."""
        if self.seen is None:
            return self.with_frames(batch, rows)
        features = torch.zeros(*batch.mask.shape, self.seen.tower.dim)
        for row, clock, found in zip(features, clocks_in(batch), rows, strict=True):
            row[: len(found)] = torch.from_numpy(self.seen.said(clock, found))
        return replace(batch, features=features.to(batch.mask.device))

    def with_tokens(self, batch: Batch) -> Batch:
        """The batch with ``tokens``, if there are any."""
        if not self.tokens or batch.sentences is None:
            return batch
        return replace(batch, tokens=batch.sentences.words[..., 0].long())

    def with_frames(self, batch: Batch, rows: Sequence[np.ndarray]) -> Batch:
        """The batch with ``frames``: those of each row, padded with black."""
        assert self.footage is not None
        side = self.footage.clip.crop
        frames = torch.zeros(*batch.mask.shape, 3, side, side, dtype=torch.uint8)
        for row, found in zip(frames, rows, strict=True):
            row[: len(found)] = torch.from_numpy(np.ascontiguousarray(found))
        return replace(batch, frames=frames.to(batch.mask.device))


def clocks_in(batch: Batch) -> list[np.ndarray]:
    """The ``(T, 2)`` clock of each row, without padding."""
    return [row[: int(count)] for row, count in zip(batch.features.cpu().numpy(), batch.mask.sum(1).tolist())]


class _Batches(Protocol):
    def __len__(self) -> int: ...
    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]: ...


@dataclass
class FrameData:
    """Batches with frames and tokens for :mod:`cuemark.loop`, decoded ahead in threads.

    Every batch depends on (seed, epoch, its number) alone, not on ``workers``. At most one batch, and two rows for each
    thread, are held beside the one that is trained on.
    """

    data: _Batches
    """Batches of clocks and ids, such as :class:`cuemark.localizers.questions.FeatureData` of rows of clocks."""
    inputs: Inputs
    augment: Augment | None = field(default_factory=Augment)
    """None: frames are cut from the centre."""
    shift: bool = False
    """Move each row that is a window of its video by up to half its length, within the video: windows that follow each
    other become as many at random places (COIN)."""
    seed: int = 0
    workers: int = 2

    def __len__(self) -> int:
        return len(self.data)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, leaving out the first ``skip``."""
        if self.inputs.footage is None:
            yield from map(self.inputs, self.data.epoch(number, skip))
            return
        inputs, footage = self.inputs, self.inputs.footage
        waiting: deque[tuple[Batch, list[Future[np.ndarray]]]] = deque()
        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            try:
                for i, batch in enumerate(self.data.epoch(number, skip), skip):
                    rngs = [np.random.default_rng((self.seed, number, i, row)) for row in range(len(batch.mask))]
                    if self.shift:
                        batch = self._shifted(batch, rngs)
                    waiting.append((batch, [pool.submit(inputs.look, clock) if self._still else
                                            pool.submit(footage.read, clock, self.augment, rng)
                                            for clock, rng in zip(clocks_in(batch), rngs)]))
                    while len(waiting) > 1 and sum(len(rows) for _, rows in waiting) > 2 * self.workers:
                        yield self._finished(*waiting.popleft())
                while waiting:
                    yield self._finished(*waiting.popleft())
            finally:
                for _, rows in waiting:
                    for row in rows:
                        row.cancel()

    @property
    def _still(self) -> bool:
        """Whether a row looks the same in every epoch."""
        return self.augment is None and not self.shift

    def _finished(self, batch: Batch, rows: Sequence[Future[np.ndarray]]) -> Batch:
        give = self.inputs.with_rows if self._still else self.inputs.with_frames
        return self.inputs.with_tokens(give(batch, [row.result() for row in rows]))

    def _shifted(self, batch: Batch, rngs: Sequence[np.random.Generator]) -> Batch:
        assert self.inputs.footage is not None
        clip = self.inputs.footage.clip
        features, grids = batch.features.clone(), list(batch.grids)
        for row, (clock, rng) in enumerate(zip(clocks_in(batch), rngs)):
            _, count = clip_count(batch.durations[row], clip, 1)
            first, last = clock[0, 1], clock[-1, 1]
            step = grids[row].step * clip.fps  # ticks
            low, high = max(-len(clock) // 2, -int(first / step)), min(len(clock) // 2, int((count - 1 - last) / step))
            by = int(rng.integers(low, high + 1)) if high >= low else 0
            features[row, : len(clock), 1] += by * step
            grid = replace(grids[row], start=grids[row].start + by * grids[row].step)
            if isinstance(grid, Window):  # one that leaves an end of its video cuts there
                grid = replace(grid, first=grid.first if first + by * step == 0 else max(grid.first, 1),
                               stop=grid.stop if last + by * step == count - 1 else min(grid.stop, len(clock) - 1))
            grids[row] = grid
        return replace(batch, features=features, grids=grids)


# ---------------------------------------------------------------------------------------------- how towers travel


class _Housing(Protocol):
    image: nn.Module | None
    text: nn.Module | None


def tower_of(reader: TextEncoder | GloVe) -> TextTower | T5Tower:
    """A text tower to be trained inside a localizer, which begins by saying what ``reader`` does.

    What stands for a whole sentence is the localizer's to say: :func:`cuemark.text.pooling_of`.

    Raises:
        ModelError: it is neither a CLIP nor a T5, or does more than such a tower (sentence-transformers' files may ask
            for sentences of length 1, or for a CLIP's tokens without their projection).
    """
    kind = model_kind(folder_of(reader.name)) if isinstance(reader, TextEncoder) else None
    if not isinstance(reader, TextEncoder) or kind not in ("clip", "t5"):
        raise ModelError(f"'{reader.name}' is neither a CLIP nor a T5, whose text towers alone can be trained; name "
                         "one in encoder.text, or set options.freeze_text = true.")
    if reader.normalize or (kind == "clip" and reader.pooling != "eos"):
        raise ModelError(f"modules.json in '{reader.name}' asks for "
                         f"{'sentences of length 1' if reader.normalize else 'another pooling than CLIP has'}, which a "
                         "text tower that is trained does not give; set options.freeze_text = true.")
    return text_tower(Folder.read(reader.name)) if kind == "clip" else T5Tower.like(reader.model)


def towers_in(network: _Housing, clip: ClipConfig | None = None) -> dict[str, Any] | None:
    """What a checkpoint says of the towers inside a localizer, whose weights are among its own; None: there are none.

    Args:
        clip: how the image tower looks at frames.
    """
    if network.image is None and network.text is None:
        return None
    told: dict[str, Any] = {"image": None, "text": None}
    if network.image is not None:
        assert isinstance(network.image, Frames)
        assert clip is not None
        told["image"] = {"network": asdict(network.image.tower.config), "clip": asdict(clip)}
    if network.text is not None:
        assert isinstance(network.text, TextTower | T5Tower)
        told["text"] = asdict(network.text.config)
    return told


def house(network: _Housing, told: Mapping[str, Any] | None, where: str) -> ClipConfig | None:
    """Put towers of such a description into a localizer, without their weights; gives how frames are looked at.

    Args:
        told: what :func:`towers_in` said.
        where: the file, for messages.

    Raises:
        ModelError: the description is not one.
    """
    clip = None
    try:
        if told and told["image"]:
            clip = build(ClipConfig, told["image"]["clip"], where)
            tower = ImageTower(build(ImageConfig, told["image"]["network"], where))
            network.image = Frames(tower.eval(), clip.mean, clip.std)
        if told and told["text"]:
            of_t5 = told["text"].get("kind") == "t5"
            network.text = (T5Tower(build(T5Config, told["text"], where)) if of_t5 else
                            TextTower(build(TextConfig, told["text"], where))).eval()
    except (CallError, DataError, KeyError, TypeError) as error:
        raise ModelError(f"{where} does not describe the towers inside its localizer ({error}); was the copy complete?"
                         ) from None
    return clip


def let_out(network: _Housing, clip: ClipConfig, start: VideoEncoder) -> tuple[VideoEncoder, dict[str, Any]]:
    """Take the image tower out of a localizer again, as the encoder that makes its features from now on.

    A tower of ``"frame"`` pooling stays inside: its features hang on a frame's place in the row.

    Args:
        clip: how it looked at frames in training; features are made at the same rate.
        start: the encoder that it began as.

    Returns:
        The encoder, and what a localizer remembers of such features (``TrainedLocalizer.features``).

    Raises:
        CallError: there is no image tower inside, or one of ``"frame"`` pooling.
    """
    if not isinstance(network.image, Frames) or network.image.tower.config.pooling == "frame":
        raise CallError("this localizer has no image tower inside whose features would be a video's own.")
    tower = network.image.tower.requires_grad_(True).eval()
    network.image = None
    encoder = VideoEncoder(tower, clip, f"tuned {start.name}", extra=start.extra, made=start.made | {"tuned": True})
    return encoder, features_described(encoder)


def features_described(encoder: VideoEncoder) -> dict[str, Any]:
    """What a localizer remembers of the features that an image tower makes: one of each frame, at its own rate."""
    told = ExtractConfig(stride=1).described(encoder)
    return {k: told[k] for k in ("encoder", "weights", "dim", "clip", "precision", "crops", "pooling", "backend")}
