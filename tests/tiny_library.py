"""A small library that answers sentences: what the server's tests and its browser's share."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from conftest import make_encoder

from cuemark.extraction import ExtractConfig
from cuemark.library import Filter, Library
from cuemark.nn.heads import Projection
from cuemark.segments import Segment, VideoTruth
from cuemark.similarity import Space

HOSTILE = "<img src=x onerror=alert(1)> & ' \"; rm -rf $(x)"
"""A name and a caption that must never be more than text."""
SENTENCE = "the star turns red"
"""What leads to the middle of video ``a``."""


def clap_encoder(text: Path):
    """The tiny encoder with CLAP's projections into 12 numbers, and a head of two classes."""
    encoder, extra = make_encoder(0), {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, dim in (("project_video", 32), ("project_text", 24)):
            extra |= {f"{name}.{k}": v for k, v in Projection(dim, 12).state_dict().items()}
    head = {"weight": torch.randn(2, 32, generator=torch.Generator().manual_seed(0)), "bias": torch.zeros(2)}
    return replace(encoder, extra=extra, classes=("bouncing", "rocking"), class_head=head,
                   made={"recipe": {"encoder": {"text": str(text)}}})


def strange(path: Path, seconds: float = 4.0) -> None:
    """A film that no browser plays: MPEG-4 part 2 in AVI."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(round(25 * seconds)):
            picture = np.full((64, 96, 3), (number * 5 % 250, 80, 120), np.uint8)
            picture[:, : number % 96] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


def make_library(base: Path, world, text: Path) -> Path:
    """Footage, and a library of it, in a folder; the library."""
    footage = base / "footage"
    (footage / "sub").mkdir(parents=True)
    for vid, place in (("training_0000", "a.mp4"), ("training_0001", "b.mp4"), ("testing_0000", "sub/c d.mp4")):
        shutil.copy(world.videos[vid], footage / place)
    shutil.copy(world.videos["training_0002"], footage / f"{HOSTILE}.mp4")
    strange(footage / "old.avi")
    truth = {vid: VideoTruth(told.duration, told.annotations) for vid, told in (
        ("a", world.truth["training_0000"]), ("b", world.truth["training_0001"]))}
    truth["b"] = replace(truth["b"], annotations=(
        *truth["b"].annotations, Segment(1.0, 2.0, HOSTILE, None, f"someone says {HOSTILE}")))
    with Library.create(base / "library", clap_encoder(text), config=ExtractConfig(stride=4)) as library:
        made = library.index([footage], truth=truth)
        assert not made.failed
        assert len(made.done) == 5
    return base / "library"


def pointing(library: Library, sentence: str = SENTENCE, vid: str = "a") -> float:
    """Make the library read a sentence as the middle clip of a video, and any other as one far from all.

    Returns:
        Seconds of that clip's centre.
    """
    seen = library.space
    assert seen is not None
    rows = seen.see(library.features(vid).data)
    middle = len(rows) // 2
    far = -np.concatenate([seen.see(library.features(v.id).data) for v in library.videos(Filter())]).mean(0)
    far /= np.linalg.norm(far)

    def read(sentences):
        noise = np.random.default_rng(len(sentences[0]))
        out = []
        for one in sentences:
            vague = far + 0.05 * noise.standard_normal(len(far))
            out.append(rows[middle] if one == sentence else vague / np.linalg.norm(vague))
        return np.array(out, np.float32)

    library.space = Space(seen.see, read, seen.dim)
    return float(library.features(vid).grid.centres[middle])


@contextmanager
def listening(app) -> Iterator[str]:
    """Serve an application to other programs of this machine; its address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.05)
    try:
        yield f"http://localhost:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
