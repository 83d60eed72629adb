"""How quick and how exact searches are, what indexing costs, and what moments without training are worth.

    python benchmarks/search.py --sizes 100000x512 1000000x512 [--queries 300] [--folder TMP]
    python benchmarks/search.py --library 1000000 [--queries 200] [--folder TMP]
    python benchmarks/search.py --videos FOLDER --encoder CLAP [--rounds 2]
    python benchmarks/search.py --world WORLD --encoder CLAP [--subset testing]

**Searches**: vectors with the structure of footage: ``count / 100`` centres on the unit sphere, around each of them
rows that have a cosine of about 0.9 with it, in float16. Queries are *near* (a new row around a centre), *between* (the
sum of two of them), *far* (a cosine of 0.3 with a row, and the rest in a direction of their own, as sentences are) or
*noise* (a direction of its own, like nothing). Each of the store's ways is asked for the 20 nearest, one query at a
time: *exact*, and *faiss*, where it is installed. Recall is the share of the exact 20; p50 and p95 are milliseconds of
single queries after 20 to warm up, core ms the mean time of a core; MB are on disk, and in memory once they have been
read. Cores: as many as the process may use (``taskset -c 0,1`` for two).

**Whole searches**: a library of so many clips of 512 numbers, 225 a video (four minutes), in shots of 3 to 20 clips
around a centre each, written into the library's own tables without decoding anything. Its sentences are the first three
queries above, by their vectors: reading a sentence is not in the time. :meth:`Library.search` as a whole, top 20, with
the usual floor and without one: milliseconds of the clock and of a core, those of the nearest clips alone, the share of
the answers that the same library gives without an index, bytes on disk, and the process's peak of memory, which counts
the pages of mapped files.

**Indexing**: the same videos through :func:`cuemark.extraction.extract` and through a new library, in turns, after one
of each to warm up; seconds of the clock and of cores, and the ratio of the fastest rounds of each.

**Moments**: sentences of a world's truth, each asked of its own video: moments without training, beside the whole video
and the stretches that are commonest in training, which never look (:func:`cuemark.floors.covering`); R@1 and R@5 at a
tIoU of 0.5, and mean tIoU.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

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
    asked = kinds(centres, queries, rng)
    asked["noise"] = unit(rng.standard_normal((queries, dim), np.float32))

    def timed(name: str, built: float, size_: int, ask: Callable[[np.ndarray], np.ndarray]) -> None:
        for query in asked["near"][:20]:
            ask(query[None])
        for kind, rows in asked.items():
            taken, used, found = [], [], []
            for query in rows[: max(20, min(len(rows), 40_000_000 // count))] if name == "exact" else rows:
                start, cpu = time.perf_counter(), time.process_time()
                found.append(ask(query[None])[0])
                taken.append(1000 * (time.perf_counter() - start))
                used.append(1000 * (time.process_time() - cpu))
            recall = np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, truth[kind])])
            table.add_row(size, name, f"{built:.0f}", f"{size_ / 1e6:.0f}", kind, f"{recall:.3f}",
                          *(f"{np.percentile(taken, p):.1f}" for p in (50, 95)), f"{np.mean(used):.1f}")

    truth = {kind: store.exact(rows, 20, spans)[1] for kind, rows in asked.items()}
    timed("exact", written, store.path.stat().st_size, lambda query: store.exact(query, 20, spans)[1])
    try:
        import faiss
    except ImportError:
        return
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    began = time.perf_counter()
    told = store.build_index(spans, count)
    built = time.perf_counter() - began
    index = store._opened_index()
    assert index is not None
    timed(f"faiss, {told['candidates']:.0f} scored again", built, store.index_path.stat().st_size,
          lambda query: store._approximate(index, query, 20, spans, True)[1])


def kinds(centres: np.ndarray, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Queries that are like something."""
    near, one, other, some = (around(centres, rng.integers(0, len(centres), count), rng) for _ in range(4))
    gap = unit(rng.standard_normal((1, centres.shape[1]), np.float32))
    return {"near": near, "between": unit(one + other), "far": unit(0.3 * some + 0.95 * gap)}


def whole(count: int, queries: int, folder: Path, console: Console) -> None:
    """Searches through a library."""
    from cuemark.clips import ClipConfig
    from cuemark.encoders.resnet3d import Config, ResNet3D
    from cuemark.encoders.video_encoder import VideoEncoder
    from cuemark.library import Indexed, Library
    from cuemark.similarity import Space

    rng, dim, many = np.random.default_rng(0), 512, 225
    centres = unit(rng.standard_normal((max(1, count // 100), dim), np.float32))
    library = Library.create(folder / "library", VideoEncoder(ResNet3D(Config()).eval(), ClipConfig(), "none"))
    videos = count // many
    store = library._store("clips", 0)
    began = time.perf_counter()
    for first in range(0, videos, 200):
        clips = many * min(200, videos - first)
        which = np.repeat(rng.integers(0, len(centres), clips), rng.integers(3, 21, clips))[:clips]
        store.put(0, first * many, around(centres, which, rng).astype(np.float16))
    with library._writing() as db:
        db.executemany(
            "INSERT INTO videos (number, id, path, size, modified, state, duration, start, step, window, clip, clips) "
            "VALUES (?, ?, ?, 1, 0, 'ok', ?, 0, ?, ?, ?, ?)",
            [(i + 1, f"v{i:07d}", f"/nowhere/v{i:07d}.mp4", many * 16 / 15, 16 / 15, 16 / 15, i * many, many)
             for i in range(videos)])
        db.execute("UPDATE meta SET value = ? WHERE key = 'clip'", (videos * many,))
        db.execute("INSERT INTO meta VALUES ('compared', ?)", (videos * many,))
    written = time.perf_counter() - began
    began = time.perf_counter()
    library._settle(made := Indexed())
    built = time.perf_counter() - began
    queried = kinds(centres, queries + 20, rng)
    asked = {f"{kind} {i}": row for kind, rows in queried.items() for i, row in enumerate(rows)}
    gap = unit(queried["far"].mean(0, keepdims=True))
    nothing = unit(0.3 * unit(rng.standard_normal((32, dim), np.float32)) + 0.95 * gap)

    def read(sentences: Sequence[str]) -> np.ndarray:
        return np.stack([asked.get(sentence, nothing[i % len(nothing)]) for i, sentence in enumerate(sentences)])

    library.space = Space(lambda rows: rows, read, dim)
    table = Table("sentences", "floor", "p50 ms", "p95 ms", "core ms, mean", "p95", "nearest alone, p95 ms", "answers",
                  "as without index")
    for kind in queried:
        for floor in (0.95, None):
            taken, alone, used, answers = [], [], [], []
            for i in range(queries + 20):
                start, cpu = time.perf_counter(), time.process_time()
                found = library.search(f"{kind} {i}", 20, floor=floor)
                taken.append(1000 * (time.perf_counter() - start))
                used.append(1000 * (time.process_time() - cpu))
                answers.append([(hit.video, hit.segment.start) for hit in found.hits])
                start = time.perf_counter()
                store.nearest(asked[f"{kind} {i}"][None], 250, library._alive().clips, True)
                alone.append(1000 * (time.perf_counter() - start))
            same = []
            with patch("cuemark.vectors.APPROXIMATE_FROM", 10**12):
                for i in range(20, 40):
                    exact = [(hit.video, hit.segment.start)
                             for hit in library.search(f"{kind} {i}", 20, floor=floor).hits]
                    same.append(len(set(exact) & set(answers[i])) / len(exact) if exact else float(not answers[i]))
            table.add_row(kind, str(floor), *(f"{np.percentile(taken[20:], p):.1f}" for p in (50, 95)),
                          f"{np.mean(used[20:]):.1f}", f"{np.percentile(used[20:], 95):.1f}",
                          f"{np.percentile(alone[20:], 95):.1f}", f"{np.mean([len(a) for a in answers]):.1f}",
                          f"{np.mean(same):.3f}")
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sizes = {path.name: path.stat().st_size / 1e6 for path in sorted(library.folder.iterdir()) if path.is_file()}
    console.print(f"{videos} videos, {videos * many} clips; {written:.0f} s to write, {built:.0f} s to index "
                  f"({made.index}); peak of memory {peak:.1f} GB; MB on disk: "
                  f"{ {name: round(size, 1) for name, size in sizes.items()} }")
    library.close()


def indexing(videos: Path, encoder: str, rounds: int, folder: Path, console: Console) -> None:
    """The same videos, extracted and indexed."""
    from cuemark import video
    from cuemark.encoders.weights import load
    from cuemark.extraction import ExtractConfig, extract
    from cuemark.library import Library

    eyes = load(encoder)
    config = ExtractConfig(stride=eyes.clip.frames, dtype="float16")
    files = video.expand([videos])
    taken: dict[str, list[tuple[float, float]]] = {"extract": [], "index": []}

    def timed(what: str, work: Callable[[], object]) -> None:
        begun, cpu = time.perf_counter(), time.process_time()
        work()
        taken[what].append((time.perf_counter() - begun, time.process_time() - cpu))

    for number in range(rounds + 1):
        timed("extract", partial(extract, {f"{i}": path for i, path in enumerate(files)}, eyes,
                                 folder / f"features{number}", config))
        with Library.create(folder / f"library{number}", eyes, config=config) as library:
            assert library.encoder.dim == eyes.dim  # it is loaded, as extraction's is
            timed("index", partial(library.index, [videos]))
            clips = sum(v.clips for v in library.videos())
    table = Table("what", "s", "core s", "fastest s", "fewest core s")
    least = {}
    for what, rows in taken.items():
        wall, cpu = np.array(rows[1:]).T
        least[what] = wall.min(), cpu.min()
        table.add_row(what, *(" ".join(f"{v:.2f}" for v in part) for part in (wall, cpu)),
                      *(f"{v:.2f}" for v in least[what]))
    console.print(table)
    ratios = [a / b for a, b in zip(least["extract"], least["index"])]
    console.print(f"{len(files)} videos, {clips} clips; indexing has {ratios[0]:.3f} of extraction's throughput by the "
                  f"clock, {ratios[1]:.3f} by the core")


def training_free(world: Path, encoder: str, name: str, folder: Path, table: Table) -> None:
    """Moments of the sentences of a world's truth."""
    from cuemark import floors
    from cuemark.extraction import extract
    from cuemark.feature_folder import FeatureFolder
    from cuemark.localization import Similarity, load, localize_features
    from cuemark.localizers.questions import questions_of
    from cuemark.metrics.grounding import grounding
    from cuemark.segments import Segment, read_truth, subset

    model, truth = load(encoder), read_truth(world / "truth.json")
    assert isinstance(model, Similarity)
    chosen = {vid: v for vid, v in subset(truth, name).items() if any(s.sentence for s in v.annotations)}
    extract({vid: world / "videos" / f"{vid}.mp4" for vid in chosen}, model.encoder, folder / "moments",
            model.extraction)
    features = FeatureFolder.open(folder / "moments")
    asked = {vid: [str(q.query) for q, _ in questions_of(v.annotations)] for vid, v in chosen.items()}
    common = floors.covering(floors.relative(subset(truth, "training"), lambda s: s.sentence is not None)[0], 5)
    for way, found in (
            ("whole video", {vid: [Segment(0.0, v.duration, None, 1.0, query=q) for q in asked[vid]]
                             for vid, v in chosen.items()}),
            ("never looks", floors.answers(common, chosen)),
            ("training-free", localize_features(features, model, truth=chosen))):
        figures = grounding(chosen, found).figures()
        table.add_row(way, *(f"{figures[k]:.1f}" for k in ("R@1,IoU=0.5", "R@5,IoU=0.5", "mIoU")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=[])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--library", type=int, help="clips")
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
                table = Table("vectors", "way", "s to make", "MB", "queries", "recall@20", "p50 ms", "p95 ms",
                              "core ms")
                searches(size, given.queries, folder, table)
                console.print(table)
                shutil.rmtree(folder)
                folder.mkdir()
        if given.library:
            whole(given.library, given.queries, folder, console)
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
