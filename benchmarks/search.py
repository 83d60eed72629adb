"""How quick and how exact searches are, what indexing costs, and what moments without training are worth.

    python benchmarks/search.py --sizes 100000x512 1000000x512 [--queries 300] [--folder TMP]
    python benchmarks/search.py --videos FOLDER --encoder CLAP [--rounds 2]
    python benchmarks/search.py --world WORLD --encoder CLAP [--subset testing]

**Searches**: vectors with the structure of footage: ``count / 100`` centres on the unit sphere, around each of them
rows that have a cosine of about 0.9 with it, in float16. Queries are *near* (a new row around a centre), *between* (the
sum of two of them, which no list is the home of) or *far* (a cosine of 0.3 with a row, and the rest in a direction of
their own, as sentences are from clips). Each of the store's ways is asked for the 20 nearest, one query at a time:
*flat*, exact, and *faiss*, where it is installed. Recall is the share of the exact 20; p50 and p95 are milliseconds of
single queries after 20 to warm up; MB are on disk, and in memory once they have been read. Cores: as many as the
process may use (``taskset -c 0,1`` for two).

**Indexing**: the same videos through :func:`cuemark.extraction.extract` and through a new library, in turns; the ratio
is of the fastest rounds, and of each pair.

**Moments**: sentences of a world's truth, each asked of its own video: moments without training, beside the whole video
and the stretches that are commonest in training, which never look (:func:`cuemark.floors.covering`); R@1 and R@5 at a
tIoU of 0.5, and mean tIoU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cuemark.vectors import FileVectors


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def around(centres: np.ndarray, which: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal((len(which), centres.shape[1]), np.float32) / np.sqrt(centres.shape[1])
    return unit(centres[which] + 0.48 * noise)


def searches(size: str, queries: int, folder: Path, table: Table) -> None:
    """One size of the first table."""
    count, dim = map(int, size.split("x"))
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((max(1, count // 100), dim), np.float32))
    store = FileVectors(folder, f"bench{count}", dim)
    began = time.perf_counter()
    for first in range(0, count, 50_000):
        which = rng.integers(0, len(centres), min(50_000, count - first))
        store.put(0, first, around(centres, which, rng).astype(np.float16))
    written = time.perf_counter() - began
    spans = np.array([(0, 0, count)])
    near = around(centres, rng.integers(0, len(centres), queries), rng)
    gap = unit(rng.standard_normal((1, dim), np.float32))
    far = unit(0.3 * around(centres, rng.integers(0, len(centres), queries), rng) + 0.95 * gap)
    between = unit(around(centres, rng.integers(0, len(centres), queries), rng)
                   + around(centres, rng.integers(0, len(centres), queries), rng))

    def timed(name: str, built: float, size_: int, ask: Callable[[np.ndarray], np.ndarray]) -> None:
        for query in near[:20]:
            ask(query[None])
        row = []
        for asked in (near, between, far):
            taken, found = [], []
            for query in asked[: max(20, min(len(asked), 40_000_000 // count))] if name == "flat" else asked:
                start = time.perf_counter()
                found.append(ask(query[None])[0])
                taken.append(1000 * (time.perf_counter() - start))
            exact = truth[id(asked)][: len(found)]
            recall = np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, exact)])
            row += [f"{recall:.3f}", f"{np.percentile(taken, 50):.1f}", f"{np.percentile(taken, 95):.1f}"]
        table.add_row(size, name, f"{built:.0f}", f"{size_ / 1e6:.0f}", *row)

    truth = {id(asked): store.exact(asked, 20, spans)[1] for asked in (near, between, far)}
    timed("flat", written, store.path.stat().st_size, lambda query: store.exact(query, 20, spans)[1])
    try:
        import faiss
    except ImportError:
        return
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    began = time.perf_counter()
    told = store.build_index(spans, count)
    built = time.perf_counter() - began
    index = store._opened_index()
    timed(f"faiss, {told['probes']} of {told['lists']} lists", built, store.index_path.stat().st_size,
          lambda query: store._approximate(index, query, 20, spans, count, True)[1])


def indexing(videos: Path, encoder: str, rounds: int, folder: Path, console: Console) -> None:
    """The same videos, extracted and indexed."""
    from cuemark import video
    from cuemark.encoders.weights import load
    from cuemark.extraction import ExtractConfig, extract
    from cuemark.library import Library

    eyes = load(encoder)
    config = ExtractConfig(stride=eyes.clip.frames, dtype="float16")
    files = video.expand([videos])
    seconds: dict[str, list[float]] = {"extract": [], "index": []}
    for number in range(rounds):
        begun = time.perf_counter()
        result = extract({f"{i}": path for i, path in enumerate(files)}, eyes, folder / f"features{number}", config)
        seconds["extract"].append(time.perf_counter() - begun)
        with Library.create(folder / f"library{number}", eyes, config=config) as library:
            begun = time.perf_counter()
            library.index([videos])
            seconds["index"].append(time.perf_counter() - begun)
    console.print(f"{len(files)} videos, {result.clips} clips; seconds to extract {seconds['extract']}, to index "
                  f"{seconds['index']}: {min(seconds['extract']) / min(seconds['index']):.2f} of the throughput, by "
                  f"pairs {[round(a / b, 2) for a, b in zip(seconds['extract'], seconds['index'])]}")


def training_free(world: Path, encoder: str, name: str, folder: Path, table: Table) -> None:
    """Moments of the sentences of a world's truth."""
    from cuemark import floors
    from cuemark.encoders.weights import load
    from cuemark.extraction import ExtractConfig, extract
    from cuemark.feature_folder import FeatureFolder
    from cuemark.localizers.questions import questions_of
    from cuemark.metrics.grounding import grounding
    from cuemark.segments import Segment, read_truth, subset
    from cuemark.similarity import find, space_of

    eyes, truth = load(encoder), read_truth(world / "truth.json")
    chosen = {vid: v for vid, v in subset(truth, name).items() if any(s.sentence for s in v.annotations)}
    extract({vid: world / "videos" / f"{vid}.mp4" for vid in chosen}, eyes, folder / "moments", ExtractConfig(stride=4))
    features, space = FeatureFolder.open(folder / "moments"), space_of(eyes)
    asked = {vid: [str(q.query) for q, _ in questions_of(v.annotations)] for vid, v in chosen.items()}
    common = floors.covering(floors.relative(subset(truth, "training"), lambda s: s.sentence is not None)[0], 5)
    for way, found in (
            ("whole video", {vid: [Segment(0.0, v.duration, None, 1.0, query=q) for q in asked[vid]]
                             for vid, v in chosen.items()}),
            ("never looks", floors.answers(common, chosen)),
            ("training-free", {vid: find(features[vid], space, list(dict.fromkeys(asked[vid]))) for vid in chosen})):
        figures = grounding(chosen, found).figures()
        table.add_row(way, *(f"{figures[k]:.1f}" for k in ("R@1,IoU=0.5", "R@5,IoU=0.5", "mIoU")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=[])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--world", type=Path)
    parser.add_argument("--subset", default="testing")
    parser.add_argument("--encoder")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder, console = Path(tempfile.mkdtemp(dir=given.folder)), Console(width=160)
    try:
        if given.sizes:
            for size in given.sizes:
                table = Table("vectors", "way", "s to make", "MB", *(f"{of} {what}" for of in ("near", "between", "far")
                                                                   for what in ("recall", "p50", "p95")))
                searches(size, given.queries, folder, table)
                console.print(table)
                shutil.rmtree(folder)
                folder.mkdir()
        if given.videos:
            indexing(given.videos, given.encoder, given.rounds, folder, console)
        if given.world:
            table = Table("sentences of a world", "R@1,IoU=0.5", "R@5,IoU=0.5", "mIoU")
            training_free(given.world, given.encoder, given.subset, folder, table)
            console.print(table)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
