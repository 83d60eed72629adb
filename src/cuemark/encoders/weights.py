"""Released weights by name: listed, fetched once, checked, loaded.

:data:`WEIGHTS` has the thirteen encoders of TSP (Alwassel et al., ICCVW 2021; release ``model_weights`` of
github.com/HumamAlwassel/TSP), torchvision's two of Kinetics-400 that fit our networks, and three CLIP models, whose
image towers are encoders of single frames. All file names of TSP are as the release's own table has them; none is
derived from a pattern. What our names say: ``objective-dataset-encoder``, with the pooling of the global video feature
before the encoder where it is not the paper's (max).

Files ``….pth`` lie in ``$CUEMARK_CACHE/weights`` (``~/.cache/cuemark/weights``), CLIP's in the cache of Hugging Face's
hub. The name of every file ends in the first 8 hex digits of its sha256: that is the check after a download, for a file
that someone put into the folder by hand, and how a released file is known again under any other name.

A download goes to ``….pth.part``, which is locked, continued where it ended (also by the next process), and renamed
when its digest fits.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch

from cuemark import checkpoint
from cuemark.clips import ClipConfig
from cuemark.encoders import clip
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, ModelError, unknown
from cuemark.kept import cache
from cuemark.progress import Bar, say
from cuemark.text import check_activation, clip_name, from_hub, model_kind

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""
ATTEMPTS = 3
"""How often in a row a connection may bring nothing new before we give up."""
PAUSE = 1.0
"""Seconds before the second attempt; doubled before each further one."""

_BUSY = (408, 425, 429, 500, 502, 503, 504)  # a server says so when another attempt may do
_CHUNK = 1 << 20
_FOREIGN = (".pth", ".pt", ".tar")

TSP_CLIP = ClipConfig(fixed_size=(128, 171))
"""How TSP's and torchvision's released encoders look at video: 16 frames at 15 fps, resized to 128 x 171 whatever their
aspect, 112 x 112 from the centre (TSP's released transforms; torchvision's presets are the same)."""


@dataclass(frozen=True)
class Published:
    """Weights that someone released: one file at ``url``, or a model of the hub."""

    source: str
    """Whose they are."""
    licence: str
    url: str | None = None
    sha256: str = ""
    """First 8 hex digits; empty for the hub's, which checks its files itself."""
    hub: str | None = None
    """Name on Hugging Face's hub, as transformers takes it."""
    encoder: str | None = None
    """Name in :data:`cuemark.encoders.ENCODERS`; None for CLIP."""
    clip: ClipConfig | None = None
    """How it looks at video; None likewise."""
    size: int | None = None
    """Bytes, where whoever released them says so: torchvision does to a thousandth of a MiB."""
    note: str = ""

    @property
    def file(self) -> str:
        """Name of the file; empty for the hub's."""
        return self.url.rpartition("/")[2] if self.url else ""


def _tsp(encoder: str, trained: str, digest: str, note: str) -> Published:
    url = f"https://github.com/HumamAlwassel/TSP/releases/download/model_weights/{encoder}-{trained}-{digest}.pth"
    return Published("TSP (Alwassel et al. 2021), github.com/HumamAlwassel/TSP", "MIT", url, digest, encoder=encoder,
                     clip=TSP_CLIP, note=note)


def _torchvision(encoder: str, digest: str, mebibytes: float, note: str) -> Published:
    url = f"https://download.pytorch.org/models/{encoder}-{digest}.pth"
    return Published("torchvision", "BSD-3-Clause", url, digest, encoder=encoder, clip=TSP_CLIP,
                     size=round(mebibytes * 2**20), note=note)


def _clip(model: str, size: int, note: str) -> Published:
    return Published("CLIP (Radford et al. 2021), github.com/openai/CLIP", "MIT", hub=f"openai/{model}", size=size,
                     note=note)


WEIGHTS: dict[str, Published] = {
    "tsp-activitynet-r2plus1d_34": _tsp(
        "r2plus1d_34", "tsp_on_activitynet-max_gvf-backbone_lr_0.0001-fc_lr_0.002-epoch_5", "0d2cf854",
        "TSP on ActivityNet, the paper's main encoder: G-TAD 35.81 average mAP, BMN 35.67"),
    "tsp-activitynet-avg_gvf-r2plus1d_34": _tsp(
        "r2plus1d_34", "tsp_on_activitynet-avg_gvf-backbone_lr_0.0001-fc_lr_0.004-epoch_5", "8b74eaa2",
        "TSP on ActivityNet, global video feature averaged"),
    "tsp-activitynet-no_gvf-r2plus1d_34": _tsp(
        "r2plus1d_34", "tsp_on_activitynet-no_gvf-backbone_lr_0.0001-fc_lr_0.004-epoch_5", "fb38fdd2",
        "TSP on ActivityNet without a global video feature: G-TAD 35.75 average mAP"),
    "tac-activitynet-r2plus1d_34": _tsp(
        "r2plus1d_34", "tac_on_activitynet-backbone_lr_0.0001-fc_lr_0.002-epoch_5", "98ccac94",
        "classification on ActivityNet: G-TAD 34.08 average mAP"),
    "tac-kinetics-r2plus1d_34": _tsp(
        "r2plus1d_34", "tac_on_kinetics", "0547130e",
        "65 million Instagram videos, then classification on Kinetics-400: G-TAD 33.32 average mAP"),
    "tsp-thumos14-r2plus1d_34": _tsp(
        "r2plus1d_34", "tsp_on_thumos14-max_gvf-backbone_lr_0.0001-fc_lr_0.004-epoch_4", "e6a30b2f",
        "TSP on THUMOS14: G-TAD mAP@0.5 43.2"),
    "tac-thumos14-r2plus1d_34": _tsp(
        "r2plus1d_34", "tac_on_thumos14-backbone_lr_0.00001-fc_lr_0.002-epoch_3", "54b5c8aa",
        "classification on THUMOS14"),
    "tsp-activitynet-r2plus1d_18": _tsp(
        "r2plus1d_18", "tsp_on_activitynet-max_gvf-backbone_lr_0.0001-fc_lr_0.002-epoch_6", "22835b73",
        "TSP on ActivityNet: G-TAD 34.71 average mAP"),
    "tac-activitynet-r2plus1d_18": _tsp(
        "r2plus1d_18", "tac_on_activitynet-backbone_lr_0.0001-fc_lr_0.004-epoch_5", "9f56941a",
        "classification on ActivityNet"),
    "tac-kinetics-r2plus1d_18": _tsp(
        "r2plus1d_18", "tac_on_kinetics", "76ce975c", "classification on Kinetics-400, as TSP starts from it"),
    "tsp-activitynet-r3d_18": _tsp(
        "r3d_18", "tsp_on_activitynet-max_gvf-backbone_lr_0.0001-fc_lr_0.002-epoch_6", "85584422",
        "TSP on ActivityNet: G-TAD 34.10 average mAP"),
    "tac-activitynet-r3d_18": _tsp(
        "r3d_18", "tac_on_activitynet-backbone_lr_0.001-fc_lr_0.01-epoch_5", "31fd6e95",
        "classification on ActivityNet"),
    "tac-kinetics-r3d_18": _tsp(
        "r3d_18", "tac_on_kinetics", "dcd952c6", "classification on Kinetics-400, as TSP starts from it"),
    "torchvision-r2plus1d_18": _torchvision("r2plus1d_18", "91a641e6", 120.318, "classification on Kinetics-400"),
    "torchvision-r3d_18": _torchvision("r3d_18", "b3b3357e", 127.359, "classification on Kinetics-400"),
    "clip-b32": _clip("clip-vit-base-patch32", 605_157_884, "images and text, ViT-B/32 at 224 pixels"),
    "clip-b16": _clip("clip-vit-base-patch16", 598_641_023, "images and text, ViT-B/16 at 224 pixels"),
    "clip-l14": _clip("clip-vit-large-patch14", 1_710_540_580, "images and text, ViT-L/14 at 224 pixels"),
}
"""Name -> what was released under it."""


# ---------------------------------------------------------------------------------------------- what is here


def _released(name: str) -> Published:
    if name not in WEIGHTS:
        raise unknown("weights", name, WEIGHTS)
    return WEIGHTS[name]


def _place(entry: Published) -> Path:
    return cache() / "weights" / entry.file


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached(name: str) -> Path | None:
    """The file of these weights (the folder, of the hub's) if it is on this machine and is what was released.

    Raises:
        CallError: no such name; the message lists the names there are.
    """
    entry = _released(name)
    if entry.hub:
        return from_hub(entry.hub, here=True)
    place = _place(entry)
    return place if place.is_file() and _digest(place).startswith(entry.sha256) else None


@dataclass(frozen=True)
class Listed:
    """A row for people: released weights, and whether they are here."""

    name: str
    encoder: str | None
    source: str
    licence: str
    origin: str
    """Address, or name on the hub."""
    size: int | None
    """Bytes; None where nobody says so before they are here."""
    path: Path | None
    """Where it lies on this machine; None for what is not here. Its digest is not checked: :func:`fetch` does."""
    note: str


def listing() -> list[Listed]:
    """All of :data:`WEIGHTS`, in its order. Reads no file and asks no server."""
    rows = []
    for name, entry in WEIGHTS.items():
        size = entry.size
        if entry.hub:
            path = from_hub(entry.hub, here=True)
        else:
            path = _place(entry) if _place(entry).is_file() else None
            size = path.stat().st_size if path else size
        rows.append(Listed(name, entry.encoder, entry.source, entry.licence, entry.url or entry.hub or "", size,
                           path, entry.note))
    return rows


# ---------------------------------------------------------------------------------------------- fetching


def fetch(name: str, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """The file of these weights (the folder, of the hub's); downloaded unless it is here already.

    An interrupted download goes on where it ended. Two processes that want one file do not disturb each other: the
    second waits.

    Args:
        name: in :data:`WEIGHTS`.
        on_progress: called as (bytes here, bytes in all or 0 where the server does not tell); None shows a
            :class:`~cuemark.progress.Bar`. The hub shows its own.

    Raises:
        CallError: no such name.
        ModelError: it cannot be had (no connection, no such file, another file than was released) or not be written;
            the message says what to do.
    """
    entry = _released(name)
    if entry.hub:
        folder = from_hub(entry.hub)
        assert folder is not None
        return folder
    place = _place(entry)
    try:
        if found := cached(name):
            return found
        if place.is_file():
            say(f"'{place}' is not what was released as {name}, and is fetched again")
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(place.name + ".part")
        with _alone(part) as file:
            if found := cached(name):  # another process was quicker
                return found
            with ExitStack() as stack:
                _download(name, entry, file, on_progress or _bar(name, stack))
            os.fsync(file.fileno())
            if not (digest := _digest(part)).startswith(entry.sha256):
                part.unlink()
                raise ModelError(f"what came from {entry.url} is not what was released (its sha256 begins "
                                 f"{digest[:8]}, not {entry.sha256}) and was removed; run again, or {_by_hand(entry)}.")
            os.replace(part, place)
    except OSError as error:
        raise _unwritable(entry, error) from None
    return place


def _bar(name: str, stack: ExitStack) -> Callable[[int, int], None]:
    """Shows megabytes in a bar that lives as long as ``stack``."""
    bars: list[Bar] = []

    def report(done: int, total: int) -> None:
        if not bars:
            bars.append(stack.enter_context(Bar(f"fetching {name} (MB)", 0)))
        bars[0].total = total // 10**6
        bars[0].advance(done // 10**6 - bars[0].done)
    return report


def _download(name: str, entry: Published, file: FileIO, report: Callable[[int, int], None]) -> None:
    """Bring ``file`` to its end, over as many connections as it takes."""
    assert entry.url
    failures, most = 0, _size(file)
    while True:
        try:
            if _receive(entry, file, report):
                return
            problem = "the connection ended early"
        except HTTPError as error:
            error.close()
            if error.code == 416 and _size(file):  # nothing after what we have: its digest decides
                return
            problem = f"the server answers {error.code} {error.reason}".rstrip()
            if error.code not in _BUSY:
                raise ModelError(f"{name} cannot be had from {entry.url} ({problem}); {_by_hand(entry)}.") from None
        except URLError as error:
            problem = _reason(error.reason)
        except (OSError, http.client.HTTPException) as error:
            problem = _reason(error)
        if _size(file) > most:  # a connection that brings something is worth another one
            failures, most = 0, _size(file)
        else:
            failures += 1
        if failures == ATTEMPTS:
            raise ModelError(f"{name} could not be fetched from {entry.url} ({problem}); run again with a connection, "
                             f"or {_by_hand(entry)}.")
        time.sleep(PAUSE * 2 ** max(0, failures - 1))


def _receive(entry: Published, file: FileIO, report: Callable[[int, int], None]) -> bool:
    """Append what one connection brings; whether that was all of it."""
    assert entry.url
    have = _size(file)
    request = Request(entry.url, headers={"User-Agent": checkpoint.software()})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urlopen(request, timeout=TIMEOUT) as response:
        if have and response.status != 206:  # no ranges here: from the beginning
            file.truncate(0)
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else 0
        report(have, total)
        while chunk := response.read1(_CHUNK):
            rest = memoryview(chunk)
            while rest:
                try:
                    rest = rest[file.write(rest):]
                except OSError as error:  # ours, not the connection's
                    raise _unwritable(entry, error) from None
            have += len(chunk)
            report(have, total)
    return not total or have >= total


@contextmanager
def _alone(part: Path) -> Iterator[FileIO]:
    """Open ``part`` for appending while no other process or thread does; leaves no empty file behind."""
    while True:
        file = FileIO(part, "a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that fetches {part.stem}")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        # whoever had the lock may have renamed the file that we opened
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
                break
        file.close()
    try:
        yield file
    finally:
        with suppress(OSError):
            if not _size(file) and os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
                part.unlink()
        file.close()


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _reason(error: BaseException | str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _by_hand(entry: Published) -> str:
    return f"put the file by hand at '{_place(entry)}'"


def _unwritable(entry: Published, error: OSError) -> ModelError:
    place = _place(entry)
    return ModelError(f"'{place.name}' cannot be kept in '{place.parent}' ({_reason(error)}); make room there, or set "
                      "CUEMARK_CACHE to another folder, and run again: what has come so far is kept.")


# ---------------------------------------------------------------------------------------------- using


_CLIPS: dict[str, Literal["cls", "gap"]] = {"clip": "cls", "clip-gap": "gap"}
FRAMES = 2.0
"""Frames a second that a CLIP looks at unless it is told otherwise: UnLoc's rate on COIN (section 4.1). Short videos of
fast things want more (``--fps``)."""


def load(name_or_path: str | Path) -> VideoEncoder:
    """A video encoder: released weights by name, a ``.pth`` of TSP's or torchvision's kind, or a cuemark checkpoint.

    A CLIP's image tower (:func:`clip_encoder`) goes by its name (``clip-b16``), by its folder, or as ``clip:`` and
    anything that transformers knows it by, a model of the hub among them; ``clip-gap:`` averages its patches.

    Released weights are known by their digest, whatever their file is called: they get the way of looking at video that
    they were trained with, and ``made`` says where they are from. Other ``.pth`` files look at video as
    :class:`~cuemark.clips.ClipConfig` does by default.

    Raises:
        CallError: neither a name nor a path.
        ModelError: see :func:`fetch` and :meth:`VideoEncoder.load`; a file with a released name that is another file;
            weights that are no video encoder's.
    """
    name = str(name_or_path)
    prefix, _, rest = name.partition(":")
    if prefix in _CLIPS and rest:
        return clip_encoder(rest, _CLIPS[prefix])
    entry = WEIGHTS.get(clip_name(name))
    if entry is not None:
        return clip_encoder(name) if entry.hub else _foreign(fetch(name))
    path = Path(name_or_path)
    if path.is_dir() and model_kind(path) == "clip":
        return clip_encoder(path)
    if path.suffix in _FOREIGN and path.is_file():
        return _foreign(path)
    if path.suffix or path.exists() or len(path.parts) > 1:
        return VideoEncoder.load(path)
    raise unknown("weights", str(name_or_path), WEIGHTS)


def clip_encoder(source: str | Path, pooling: Literal["cls", "frame", "gap"] = "cls", frames: int = 0,
                 fps: float = FRAMES, short_side: int | None = None) -> VideoEncoder:
    """The image tower of a CLIP as an encoder of clips of one frame.

    Its ``extra`` has ``projection`` ``(P, dim)``, with which features of ``"cls"`` are compared with the vectors of the
    :class:`~cuemark.text.TextEncoder` of the same name, and ``log_scale``, CLIP's temperature.

    Args:
        source: a name of :data:`WEIGHTS`, a folder in transformers' layout, or a model of the hub.
        pooling: see :class:`cuemark.encoders.clip.Config`.
        frames: N, for ``"frame"``.
        fps: frames a second.
        short_side: pixels that a frame's shorter side is brought to before its centre is cut; None: those of the centre
            (CLIP's own way). UnLoc's release has 256 for 224.

    Raises:
        ModelError: there is no such CLIP, or its files are damaged.
    """
    folder = clip.Folder.read(source)
    tower = clip.image_tower(folder, pooling, frames)
    side = tower.config.image
    name = str(source)
    known = WEIGHTS.get(clip_name(name))
    made: dict[str, Any] = {"text": name}
    check_activation(name, tower.config.activation)
    if known is not None:
        made |= {"name": name, "url": known.hub, "source": known.source, "licence": known.licence}
    look = ClipConfig(frames=1, fps=fps, short_side=side if short_side is None else short_side, crop=side,
                      mean=folder.mean, std=folder.std)
    extra = {"projection": folder.projection}
    if "logit_scale" in folder.weights:
        extra["log_scale"] = folder.weights["logit_scale"].float()
    title = "clip" if pooling == "cls" else f"clip {pooling}"
    return VideoEncoder(tower, look, f"{title} {name if known else Path(name).name}", extra=extra, made=made)


def random_tower(config: clip.Config, seed: int) -> VideoEncoder:
    """An image tower that has learned nothing, as an encoder of clips of one frame in CLIP's colours.

    Args:
        config: its shape.
        seed: of its weights, which are drawn as CLIP's were.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tower = clip.ImageTower(config)
    look = ClipConfig(frames=1, fps=FRAMES, short_side=config.image, crop=config.image, mean=clip.MEAN, std=clip.STD)
    return VideoEncoder(tower.eval(), look, "image tower of random weights", made={"seed": seed})


def _foreign(path: Path) -> VideoEncoder:
    digest = _digest(path)
    for name, entry in WEIGHTS.items():
        if not entry.sha256 or not digest.startswith(entry.sha256):
            continue
        encoder = VideoEncoder.load(path)
        encoder.name = name
        encoder.clip = entry.clip or encoder.clip
        encoder.made = {"published": entry.file, "name": name, "sha256": digest, "url": entry.url,
                        "source": entry.source, "licence": entry.licence}
        return encoder
    for name, entry in WEIGHTS.items():
        if entry.file == path.name:
            raise ModelError(f"'{path}' has the name of {name} but is another file (its sha256 begins {digest[:8]}, "
                             f"not {entry.sha256}); copy or fetch it again, or rename it if it is your own.")
    encoder = VideoEncoder.load(path)
    encoder.made["sha256"] = digest
    return encoder


def convert(source: str | Path, out: str | Path) -> VideoEncoder:
    """Write what :func:`load` makes of ``source`` as a cuemark encoder checkpoint, and return it.

    Raises:
        CallError: ``out`` has a name that stands for a foreign file, or ``source`` is neither a name nor a path.
        ModelError: see :func:`load`; ``out`` cannot be written.
    """
    out = Path(out)
    if out.suffix in _FOREIGN:
        raise CallError(f"'{out}' would be taken for a foreign file of weights; name it {out.stem}.safetensors.")
    encoder = load(source)
    try:
        encoder.save(out)
    except OSError as error:
        raise ModelError(f"'{out}' cannot be written ({_reason(error)}); choose another place.") from None
    return encoder
