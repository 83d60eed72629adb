"""Many unit vectors and the nearest of them: a file that is searched exactly, faiss where there are many, or Qdrant.

A store knows vectors by *number*. Who gives the numbers, and which of them live, is in a database elsewhere
(:mod:`cuemark.library`): a number is used once, and rises. So a store may hold vectors that nobody knows (a process was
killed between the two) or that are gone, and answers only with those that it is told are alive: *spans*, ``(n, 3)``
int64 rows of an owner and its numbers, first and one past the last, by rising first number.

========  ===================================================  ======================================================
store     what is on disk                                      search
========  ===================================================  ======================================================
file      ``NAME-GENERATION.f16``, rows of float16, mapped     products in float32, block by block: exact
+ faiss   ``NAME-GENERATION.faiss``: 2 bits a number, for the  all codes are looked through, and the best of them scored
          rows there were when it was made                     again on the rows; what came later is searched exactly
Qdrant    a collection on a server                             the server's
========  ===================================================  ======================================================

The promise is three functions, ``put``, ``nearest`` and ``drop``; :func:`opened` chooses.

The index is a product quantizer (Jégou et al., TPAMI 2011): 4 bits for each two numbers of a row, whose tables fit into
registers (André et al., "Cache locality is not enough", VLDB 2015; faiss' ``PQFastScan``). It has no lists to choose
among: a sentence is far from all clips (a cosine of 0.3, say), so the lists nearest to it are not those of the clips
nearest to it, and looking into a few of them loses half of the answers (``docs/scale.md``). Looking through everything
costs 13 ms of a core for a million rows of 512 numbers.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cuemark.errors import CallError, CuemarkError, DataError
from cuemark.progress import say
from cuemark.segments import replacing

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLOCK = 1 << 14
"""Rows that a thread answers for at a time."""
FEW = 1 << 10
"""Of them, so many are widened and multiplied together: they fit into a cache, which halves the time."""
APPROXIMATE_FROM = 100_000
"""Vectors from which faiss is worth an index: exact search of so many takes about 25 ms on two cores."""
TAIL = 0.05
"""Share of rows that may have come since an index was made before another is."""
PIECE = 1 << 19
"""Rows of an index that a thread looks through at a time."""
RECALL = 0.97
"""Share of the exact 20 nearest that an index shall find when it is made."""
CANDIDATES = (1000, 4000, 16000)
"""Of an index, so many rows are scored again: the first of these that reaches :data:`RECALL`, or the last."""
RESCORED = 5
"""Candidates for each answer at least: 2 bits a number misjudge their order."""


class Vectors(Protocol):
    """What a store promises."""

    def put(self, owner: int, first: int, rows: NDArray[np.float16]) -> None:
        """Keep ``(n, D)`` rows under the numbers from ``first`` on, for good when this returns."""
        ...

    def nearest(self, queries: Floats, top: int, spans: Ints, all_: bool) -> tuple[Floats, Ints]:
        """The ``top`` numbers in ``spans`` with the largest products, best first.

        Args:
            queries: ``(Q, D)`` float32 of length 1.
            all_: whether ``spans`` are all that live, and not a choice among them.

        Returns:
            Products and numbers ``(Q, top)``; -inf and -1 where there are no more.
        """
        ...

    def drop(self, owners: Sequence[int]) -> None:
        """What belongs to these may be forgotten."""
        ...


def opened(where: str, folder: Path, name: str, dim: int, generation: int) -> FileVectors | QdrantVectors:
    """A store by its address: ``"file"``, or ``"qdrant:"`` and a server's URL or a folder.

    Raises:
        CallError: neither, or what is needed for it is not installed.
        CuemarkError: the server does not answer.
    """
    kind, _, address = where.partition(":")
    if where == "file":
        return FileVectors(folder, name, dim, generation)
    if kind == "qdrant" and address:
        return QdrantVectors(address, name, dim)
    raise CallError(f"'{where}' is no store of vectors; write file, or qdrant:http://HOST:6333.")


def numbers_of(spans: Ints) -> Ints:
    """The numbers in spans, one after the other."""
    if not len(spans):
        return np.zeros(0, np.int64)
    lengths = spans[:, 2] - spans[:, 1]
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(spans[:, 1] - before, lengths)


def owners_of(numbers: Ints, spans: Ints) -> Ints:
    """Which row of ``spans`` each number is in; -1: none."""
    if not len(spans):
        return np.full(numbers.shape, -1)
    at = np.searchsorted(spans[:, 1], numbers, side="right") - 1
    return np.where((at >= 0) & (numbers < spans[at, 2]), at, -1)


# ---------------------------------------------------------------------------------------------- a file


@dataclass(frozen=True)
class _Index:
    """Codes of the first rows, in pieces of :data:`PIECE`, the last one smaller."""

    pieces: list[Any]
    candidates: int

    @property
    def count(self) -> int:
        """Rows that it has codes of."""
        return sum(int(piece.ntotal) for piece in self.pieces)


class FileVectors:
    """Rows of float16 in one file, and an index of them where there are many and faiss is installed."""

    def __init__(self, folder: Path, name: str, dim: int, generation: int = 0) -> None:
        self.folder, self.name, self.dim, self.generation = folder, name, dim, generation
        self._lock = threading.Lock()
        self._rows: np.ndarray | None = None
        self._index: _Index | None = None
        self._indexed: tuple[int, int] | None = None  # of the index's file: when it was written, and its size

    @property
    def path(self) -> Path:
        """Where the rows are."""
        return self.folder / f"{self.name}-{self.generation}.f16"

    @property
    def index_path(self) -> Path:
        """Where their index is, if there is one."""
        return self.path.with_suffix(".faiss")

    def put(self, owner: int, first: int, rows: NDArray[np.float16]) -> None:
        """See :class:`Vectors`."""
        data = np.ascontiguousarray(rows, np.float16).tobytes()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            at = first * self.dim * 2
            while data:  # a full disk may take a part first, and then says what it is
                written = os.pwrite(handle, data, at)
                data, at = data[written:], at + written
            os.fsync(handle)
        finally:
            os.close(handle)

    def drop(self, owners: Sequence[int]) -> None:
        """Nothing to do: rows that nobody knows are left out of answers, and of the file by :meth:`compacted`."""

    def rows(self, count: int) -> np.ndarray:
        """The first ``count`` rows, mapped.

        Raises:
            DataError: the file has fewer.
        """
        with self._lock:
            if self._rows is None or len(self._rows) < count:
                size = self.path.stat().st_size // (2 * self.dim) if self.path.exists() else 0
                if size < count:
                    raise DataError(f"'{self.path}' holds {size} vectors, but the library knows {count}; remove the "
                                    "library's folder and index again.")
                # copy on write, for torch takes no array that is read only; nothing is written
                self._rows = (np.memmap(self.path, np.float16, "c", shape=(size, self.dim)) if size
                              else np.zeros((0, self.dim), np.float16))
            return self._rows

    def nearest(self, queries: Floats, top: int, spans: Ints, all_: bool = False) -> tuple[Floats, Ints]:
        """See :class:`Vectors`."""
        queries = np.ascontiguousarray(queries, np.float32)
        if not len(spans):
            return _best([], len(queries), top)
        alive = int((spans[:, 2] - spans[:, 1]).sum())
        index = self._opened_index() if alive > APPROXIMATE_FROM else None
        if index is None:
            return self.exact(queries, top, spans)
        covered = index.count
        late = spans[spans[:, 2] > covered].copy()
        late[:, 1] = np.maximum(late[:, 1], covered)
        return _best([self._approximate(index, queries, top, spans, all_), self.exact(queries, top, late)],
                     len(queries), top)

    def exact(self, queries: Floats, top: int, spans: Ints) -> tuple[Floats, Ints]:
        """:meth:`nearest` without an index."""
        if not len(spans):
            return _best([], len(queries), top)
        rows, asked = self.rows(int(spans[:, 2].max())), torch.from_numpy(queries).T.contiguous()

        def best(numbers: slice | Ints) -> tuple[Floats, Ints]:
            count = numbers.stop - numbers.start if isinstance(numbers, slice) else len(numbers)
            products = torch.empty(count, asked.shape[1])
            for first in range(0, count, FEW):
                last = min(first + FEW, count)
                some = (rows[numbers.start + first : numbers.start + last] if isinstance(numbers, slice)
                        else np.take(rows, numbers[first:last], axis=0))
                torch.mm(torch.from_numpy(some).float(), asked, out=products[first:last])
            scores, at = products.topk(min(top, count), dim=0)
            where = at.T.numpy()
            return scores.T.numpy(), where + numbers.start if isinstance(numbers, slice) else numbers[where]

        return _best(list(threads().map(best, _blocks(spans))), len(queries), top)

    def _approximate(self, index: _Index, queries: Floats, top: int, spans: Ints, all_: bool) -> tuple[Floats, Ints]:
        faiss, covered = _faiss(), index.count
        wanted = min(max(RESCORED * top, index.candidates), covered)
        bits = None
        known = max(covered, int(spans[-1, 2]))
        if not all_ or int((spans[:, 2] - spans[:, 1]).sum()) < known:  # a choice, or some are gone
            edges = np.zeros(known + 1, np.int8)
            edges[spans[:, 1]] += 1
            edges[spans[:, 2]] -= 1
            bits = np.packbits(np.cumsum(edges[:covered], dtype=np.int8).view(bool), bitorder="little")

        def look(which: int) -> tuple[Floats, Ints]:
            faiss.omp_set_num_threads(1)  # of this thread alone
            options, first = None, which * PIECE
            if bits is not None:
                mine = bits[first // 8 : (first + PIECE) // 8]
                options = faiss.SearchParametersIVF(sel=faiss.IDSelectorBitmap(mine))
            scores, found = index.pieces[which].search(queries, wanted, params=options)
            return scores, np.where(found >= 0, found + first, -1)

        scores, numbers = (np.concatenate(part, axis=1)
                           for part in zip(*threads().map(look, range(len(index.pieces)))))
        rows, found = self.rows(covered), []
        for query, score, near in zip(torch.from_numpy(queries), scores, numbers):
            if len(near) > wanted:
                near = near[np.argpartition(-score, wanted)[:wanted]]
            near = np.sort(near[near >= 0])  # in the order of the file
            products = torch.mv(torch.from_numpy(np.take(rows, near, axis=0)).float(), query).numpy()
            found.append(_best([(products[None], near[None])], 1, top))
        return np.concatenate([s for s, _ in found]), np.concatenate([n for _, n in found])

    def _opened_index(self) -> _Index | None:
        """The index as it is on disk now; None without one, or without faiss."""
        try:
            found = self.index_path.stat()
            faiss = _faiss()
        except (OSError, ImportError):
            return None
        with self._lock:
            if self._indexed != (found.st_mtime_ns, found.st_size):
                try:
                    self._index = _read(faiss, self.index_path)
                except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:  # then exact, until made anew
                    say(f"'{self.index_path}' cannot be read ({str(error).splitlines()[0]}); index again.")
                    self._index = None
                self._indexed = (found.st_mtime_ns, found.st_size)
            return self._index

    def settle(self, spans: Ints, end: int) -> dict[str, float] | None:
        """Make the index, or make it anew, where that is worth it; the caller alone is writing.

        Args:
            end: one past the last number that was ever given.

        Returns:
            What was made (:meth:`build_index`); None: nothing was.
        """
        alive = int((spans[:, 2] - spans[:, 1]).sum())
        if alive <= APPROXIMATE_FROM:
            return None
        try:
            _faiss()
        except ImportError:
            say(f"{alive} vectors are searched exactly; pip install \"cuemark[search]\" makes that quicker.")
            return None
        old = self._opened_index()
        if old is not None and end - old.count <= TAIL * old.count:
            return None
        return self.build_index(spans, end)

    def build_index(self, spans: Ints, end: int) -> dict[str, float]:
        """Make an index of the first ``end`` rows.

        As many candidates are scored again as it takes to find :data:`RECALL` of the exact 20 nearest of 64 queries: a
        half of them sums of two rows, which lie between what is there; the other half 0.3 of a row and 0.95 of some
        direction, which is as far from it as sentences are from clips.

        Returns:
            ``"candidates"``, and the ``"recall"`` with them.
        """
        faiss = _faiss()
        rows, rng, alive = self.rows(end), np.random.default_rng(0), numbers_of(spans)

        def drawn(count: int) -> Floats:
            return np.take(rows, np.sort(rng.choice(alive, count)), axis=0).astype(np.float32)

        # one inverted list, of everything: as quick as none, and it takes a choice of numbers, which none does not
        parts = self.dim // 2 if self.dim % 2 == 0 else self.dim
        empty = faiss.IndexIVFPQFastScan(faiss.IndexFlatIP(self.dim), self.dim, 1, parts, 4, faiss.METRIC_INNER_PRODUCT)
        empty.by_residual = False
        empty.train(drawn(min(len(alive), 20_000)))
        pieces = []
        for begin in range(0, end, PIECE):
            pieces.append(faiss.clone_index(empty))
            for first in range(begin, min(begin + PIECE, end), BLOCK):
                pieces[-1].add(rows[first : min(first + BLOCK, begin + PIECE, end)].astype(np.float32))
        asked = np.concatenate([drawn(32) + rng.permutation(drawn(32)),
                                0.3 * drawn(32) + 0.95 * unit(rng.standard_normal((32, self.dim), np.float32))])
        asked = unit(asked)
        exact, recall = self.exact(asked, 20, spans)[1], 0.0
        for candidates in CANDIDATES:
            found = self._approximate(_Index(pieces, candidates), asked, 20, spans, True)[1]
            recall = float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(exact, found)]))
            if recall >= RECALL:
                break
        with replacing(self.index_path, "wb") as file:
            file.write(json.dumps({"pieces": len(pieces), "candidates": candidates}).encode() + b"\n")
            for piece in pieces:
                faiss.write_index(piece, faiss.PyCallbackIOWriter(file.write))
        return {"candidates": candidates, "recall": recall}

    def compacted(self, spans: Ints) -> tuple[FileVectors, Ints]:
        """The rows that live, in a file of the next generation; the spans there. The old file stays until it is not
        needed (:meth:`sweep`)."""
        new = FileVectors(self.folder, self.name, self.dim, self.generation + 1)
        lengths = spans[:, 2] - spans[:, 1]
        moved = np.stack([spans[:, 0], np.cumsum(lengths) - lengths, np.cumsum(lengths)], axis=1)
        rows = self.rows(int(spans[:, 2].max(initial=0)))
        with replacing(new.path, "wb") as file:
            for numbers in _blocks(spans):
                file.write(np.ascontiguousarray(rows[numbers]).tobytes())
        return new, moved

    def sweep(self) -> None:
        """Remove files of other generations, and what a killed process has left."""
        for path in [*self.folder.glob(f"{self.name}-*.f16"), *self.folder.glob(f"{self.name}-*.faiss"),
                     *self.folder.glob(f".{self.name}-*.tmp")]:
            if path not in (self.path, self.index_path):
                path.unlink(missing_ok=True)


def _read(faiss: Any, path: Path) -> _Index:
    """What :meth:`FileVectors.build_index` wrote."""
    with open(path, "rb") as file:
        told = json.loads(file.readline(1000))
        reader = faiss.PyCallbackIOReader(file.read)
        return _Index([faiss.read_index(reader) for _ in range(told["pieces"])], int(told["candidates"]))


def unit(rows: np.ndarray) -> np.ndarray:
    """``(T, D)`` rows at length 1; zeros stay."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


@lru_cache(maxsize=1)
def _faiss() -> Any:
    """The module, untyped: its own types are wrong about keyword arguments.

    Raises:
        ImportError: it is not installed.
    """
    return import_module("faiss")


@lru_cache(maxsize=1)
def threads() -> ThreadPoolExecutor:
    """A thread for each core, for all searches; each computes on one: products of a few rows lose more than they win in
    a team, and where other programs compute too, a team waits for its last (200,000 rows of 512 on two busy cores:
    0.7 s against 0.07 s)."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "cuemark-search", lambda: torch.set_num_threads(1))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=threads.cache_clear)  # threads do not follow into a child


def _blocks(spans: Ints) -> Iterator[slice | Ints]:
    """The numbers in spans, :data:`BLOCK` at a time: slices where spans touch."""
    runs = np.flatnonzero(np.r_[True, spans[1:, 1] != spans[:-1, 2]])
    first, last = spans[runs, 1], spans[np.r_[runs[1:] - 1, len(spans) - 1], 2]
    if len(runs) <= 64 or (last - first).mean() >= BLOCK:
        for a, b in zip(first.tolist(), last.tolist()):
            for start in range(a, b, BLOCK):
                yield slice(start, min(start + BLOCK, b))
        return
    numbers = numbers_of(spans)
    for start in range(0, len(numbers), BLOCK):
        yield numbers[start : start + BLOCK]


def _best(found: Sequence[tuple[Floats, Ints]], queries: int, top: int) -> tuple[Floats, Ints]:
    """The best of several answers, padded to ``top``; of equal products the smaller number first."""
    scores = np.concatenate([np.full((queries, top), -np.inf, np.float32), *(s for s, _ in found)], axis=1)
    numbers = np.concatenate([np.full((queries, top), -1, np.int64), *(n for _, n in found)], axis=1)
    order = np.lexsort((numbers, -scores))[:, :top]
    scores, numbers = np.take_along_axis(scores, order, 1), np.take_along_axis(numbers, order, 1)
    return scores, np.where(np.isneginf(scores), -1, numbers)


# ---------------------------------------------------------------------------------------------- a server


class QdrantVectors:
    """A collection of a Qdrant server (1.10 or later); points are named by their numbers and carry their owner."""

    def __init__(self, address: str, name: str, dim: int) -> None:
        try:
            from qdrant_client import QdrantClient, models
        except ImportError:
            raise CallError("a Qdrant store needs its client; pip install \"cuemark[qdrant]\".") from None
        self.name, self.dim, self.models = f"cuemark-{name}", dim, models
        self.client = (QdrantClient(url=address, timeout=60) if "://" in address
                       else QdrantClient(address) if address == ":memory:" else QdrantClient(path=address))
        try:
            if not self.client.collection_exists(self.name):
                self.client.create_collection(self.name, models.VectorParams(
                    size=dim, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16, on_disk=True))
                if "://" in address:
                    self.client.create_payload_index(self.name, "owner", models.PayloadSchemaType.INTEGER)
            found = self.client.get_collection(self.name).config.params.vectors
        except Exception as error:  # whatever its transports raise
            raise CuemarkError(f"the Qdrant store at {address} does not answer "
                               f"({(str(error).splitlines() or [type(error).__name__])[0]}); start it, or check the "
                               "address.") from None
        if getattr(found, "size", dim) != dim:
            raise DataError(f"the collection '{self.name}' at {address} holds vectors of {getattr(found, 'size', '?')} "
                            f"numbers, not {dim}; remove it, or name another library.")

    def put(self, owner: int, first: int, rows: NDArray[np.float16]) -> None:
        """See :class:`Vectors`."""
        models = self.models
        for start in range(0, len(rows), 256):
            some = rows[start : start + 256].astype(np.float32)
            self.client.upsert(self.name, [models.PointStruct(id=first + start + i, vector=row.tolist(),
                                                              payload={"owner": owner})
                                           for i, row in enumerate(some)], wait=True)

    def nearest(self, queries: Floats, top: int, spans: Ints, all_: bool = False) -> tuple[Floats, Ints]:
        """See :class:`Vectors`."""
        models = self.models
        wanted = None if all_ else models.Filter(must=[models.FieldCondition(
            key="owner", match=models.MatchAny(any=np.unique(spans[:, 0]).tolist()))])
        scores = np.full((len(queries), top), -np.inf, np.float32)
        numbers = np.full((len(queries), top), -1, np.int64)
        if not len(spans):
            return scores, numbers
        for i, query in enumerate(queries):
            points = self.client.query_points(self.name, query=query.tolist(), query_filter=wanted, limit=top,
                                              with_payload=False).points
            known = np.array([int(p.id) for p in points], np.int64)
            kept = owners_of(known, spans) >= 0 if len(known) else np.zeros(0, bool)
            scores[i, : kept.sum()] = np.array([p.score for p in points], np.float32)[kept]
            numbers[i, : kept.sum()] = known[kept]
        return scores, numbers

    def drop(self, owners: Sequence[int]) -> None:
        """See :class:`Vectors`."""
        models = self.models
        if owners:
            self.client.delete(self.name, models.FilterSelector(filter=models.Filter(must=[models.FieldCondition(
                key="owner", match=models.MatchAny(any=list(owners)))])), wait=True)
