"""Stores of vectors: exact search is the obvious one, and an index finds the same."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cuemark import vectors
from cuemark.errors import CallError, DataError
from cuemark.vectors import FileVectors, numbers_of, owners_of


def unit(count: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float16).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def stored(tmp_path) -> tuple[FileVectors, np.ndarray]:
    store, rows = FileVectors(tmp_path, "clips", 16), unit(3000, 16)
    for owner, first in enumerate(range(0, 3000, 100)):
        store.put(owner, first, rows[first : first + 100])
    return store, rows


@pytest.mark.parametrize("spans", [
    [(0, 0, 3000)], [(0, 0, 100), (2, 200, 300), (3, 300, 400)], [(i, 30 * i, 30 * i + 7) for i in range(100)],
    [(5, 500, 501)], []])
def test_exact_search_is_the_obvious_one(stored, spans, monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", 512)
    monkeypatch.setattr(vectors, "FEW", 100)
    store, rows = stored
    asked = unit(3, 16, 1).astype(np.float32)
    spans = np.array(spans, np.int64).reshape(-1, 3)
    scores, numbers = store.nearest(asked, 5, spans, False)
    alive = [n for _, a, b in spans.tolist() for n in range(a, b)]
    assert numbers_of(spans).tolist() == alive
    for query, row, score in zip(asked, numbers, scores):
        products = rows[alive].astype(np.float32) @ query
        best = [alive[i] for i in np.argsort(-products, kind="stable")[:5]]
        assert row.tolist() == best + [-1] * (5 - len(best))
        np.testing.assert_allclose(score[: len(best)], np.sort(products)[::-1][:5], atol=1e-5)
        assert np.isneginf(score[len(best):]).all()


def test_who_owns_a_number():
    spans = np.array([(7, 0, 3), (9, 5, 8)])
    assert owners_of(np.array([-1, 0, 2, 3, 5, 7, 8]), spans).tolist() == [-1, 0, 0, -1, 1, 1, -1]
    assert owners_of(np.array([1]), spans[:0]).tolist() == [-1]


def test_compaction_keeps_what_lives(stored):
    store, rows = stored
    spans = np.array([(1, 100, 200), (4, 400, 500)])
    new, moved = store.compacted(spans)
    assert moved.tolist() == [[1, 0, 100], [4, 100, 200]]
    np.testing.assert_array_equal(new.rows(200), np.concatenate([rows[100:200], rows[400:500]]))
    new.sweep()
    assert [p.name for p in new.folder.iterdir()] == ["clips-1.f16"]


def test_a_file_that_is_too_short_is_told(stored):
    store, _ = stored
    os.truncate(store.path, 1000)
    with pytest.raises(DataError, match="holds 31 vectors, but the library knows 3000"):
        store.nearest(unit(1, 16).astype(np.float32), 5, np.array([(0, 0, 3000)]), True)


@pytest.fixture
def few(monkeypatch):
    """An index for few rows, in pieces of 1,000, with few candidates."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(vectors, "APPROXIMATE_FROM", 100)
    monkeypatch.setattr(vectors, "PIECE", 1000)
    monkeypatch.setattr(vectors, "CANDIDATES", (100, 400))


def found(numbers: np.ndarray, exact: np.ndarray) -> float:
    """Recall."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(numbers, exact)]))


def test_an_index_of_faiss_finds_the_same(stored, few):
    store, rows = stored
    whole = np.array([(0, 0, 3000)])
    told = store.settle(whole, 3000)
    assert told is not None
    assert told["recall"] >= vectors.RECALL
    assert store.settle(whole, 3000) is None  # nothing has come since
    index = store._opened_index()
    assert [piece.ntotal for piece in index.pieces] == [1000, 1000, 1000]
    asked = unit(20, 16, 2).astype(np.float32)
    for spans, all_ in ((whole, True), (np.array([(0, 0, 1000), (2, 1500, 3000)]), True),
                        (np.array([(1, 700, 1900)]), False), (np.array([(1, 2500, 2700)]), False)):
        exact = store.exact(asked, 10, spans)
        scores, numbers = store.nearest(asked, 10, spans, all_)
        assert np.isin(numbers, numbers_of(spans)).all()
        assert found(numbers, exact[1]) >= 0.9
        products = np.einsum("qd,qnd->qn", asked, rows[numbers].astype(np.float32))
        np.testing.assert_allclose(scores, products, atol=1e-5)  # of the rows, not of their codes
        assert (np.diff(scores) <= 0).all()
    one = np.array([(1, 2500, 2505)])
    scores, numbers = store._approximate(index, asked, 10, one, False)
    assert (np.sort(numbers[:, :5]) == np.arange(2500, 2505)).all()
    assert (numbers[:, 5:] == -1).all()
    assert np.isneginf(scores[:, 5:]).all()


def test_what_is_gone_is_not_found_though_the_index_has_it(stored, few):
    store, rows = stored
    store.settle(np.array([(0, 0, 3000)]), 3000)
    for gone, spans in (((2900, 3000), [(0, 0, 2900)]), ((0, 100), [(1, 100, 3000)])):
        asked, spans = rows[slice(*gone)].astype(np.float32), np.array(spans)
        numbers = store.nearest(asked, 3, spans, True)[1]
        assert np.isin(numbers, numbers_of(spans)).all()


def test_an_index_that_goes_while_it_is_opened_is_done_without(stored, few, monkeypatch):
    """Another process has made a smaller file, and swept this one's index away."""
    store, _ = stored
    whole, asked = np.array([(0, 0, 3000)]), unit(5, 16, 2).astype(np.float32)
    store.settle(whole, 3000)
    read = vectors._read
    monkeypatch.setattr(vectors, "_read", lambda faiss, path: (path.unlink(), read(faiss, path)))
    assert store.nearest(asked, 10, whole, True)[1].tolist() == store.exact(asked, 10, whole)[1].tolist()


def test_what_came_after_an_index_is_found_too(stored, few):
    store, _ = stored
    store.settle(np.array([(0, 0, 3000)]), 3000)
    more = unit(200, 16, 3)
    store.put(99, 3000, more)
    spans = np.array([(0, 0, 3000), (99, 3000, 3200)])
    numbers = store.nearest(more[:5].astype(np.float32), 3, spans, True)[1]
    assert numbers[:, 0].tolist() == [3000, 3001, 3002, 3003, 3004]
    assert store.settle(spans, 3140) is None
    assert store.settle(spans, 3200) is not None  # more than a twentieth has come
    assert store._opened_index().count == 3200


@pytest.mark.parametrize("damage", [b"nonsense", b'{"pieces": 3, "candidates": 100}\n', b"{}\n", b'["pieces"]\n', b""])
def test_a_damaged_index_is_told_and_done_without(stored, few, damage, capsys):
    store, _ = stored
    whole, asked = np.array([(0, 0, 3000)]), unit(20, 16, 2).astype(np.float32)
    store.settle(whole, 3000)
    store.index_path.write_bytes(damage)
    assert store.nearest(asked, 10, whole, True)[1].tolist() == store.exact(asked, 10, whole)[1].tolist()
    assert "cannot be read" in capsys.readouterr().err
    assert store.settle(whole, 3000) is not None
    assert store._opened_index().count == 3000


def test_an_index_finds_what_sentences_are_far_from(tmp_path, few):
    rng = np.random.default_rng(0)
    centres = unit(40, 64, 1).astype(np.float32)
    rows = centres[rng.integers(0, 40, 4000)] + 0.06 * rng.standard_normal((4000, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    store = FileVectors(tmp_path, "clips", 64)
    store.put(0, 0, rows)
    whole = np.array([(0, 0, 4000)])
    store.settle(whole, 4000)
    gap = unit(1, 64, 2).astype(np.float32)
    asked = 0.3 * rows[:50].astype(np.float32) + 0.95 * gap
    assert found(store.nearest(asked, 20, whole, True)[1], store.exact(asked, 20, whole)[1]) >= 0.95


def test_rows_that_codes_cannot_tell_apart_have_more_candidates(tmp_path, few):
    rng = np.random.default_rng(0)
    rows = (unit(2, 16, 1).astype(np.float32)[rng.integers(0, 2, 3000)] + 1e-3 * rng.standard_normal((3000, 16)))
    store = FileVectors(tmp_path, "clips", 16)
    store.put(0, 0, rows.astype(np.float16))
    told = store.settle(np.array([(0, 0, 3000)]), 3000)
    assert told is not None
    assert told["candidates"] == 400
    assert store._opened_index().candidates == 400


@pytest.mark.filterwarnings("ignore")
def test_a_qdrant_store_keeps_the_promise(stored):
    pytest.importorskip("qdrant_client")
    _, rows = stored
    server = vectors.opened("qdrant::memory:", Path(), "clips", 16, 0)
    for owner in range(3):
        server.put(owner, 100 * owner, rows[100 * owner : 100 * owner + 100])
    asked = unit(2, 16, 1).astype(np.float32)
    whole = np.array([(i, 100 * i, 100 * i + 100) for i in range(3)])
    for spans, all_ in ((whole, True), (whole[1:2], False)):
        scores, numbers = server.nearest(asked, 4, spans, all_)
        exact = stored[0].exact(asked, 4, spans)
        assert numbers.tolist() == exact[1].tolist()
        np.testing.assert_allclose(scores, exact[0], atol=1e-3)
    server.drop([0])
    assert (server.nearest(asked, 4, whole, True)[1] >= 100).all()


def test_stores_that_are_none(tmp_path):
    with pytest.raises(CallError, match="is no store of vectors"):
        vectors.opened("redis:localhost", tmp_path, "clips", 16, 0)
