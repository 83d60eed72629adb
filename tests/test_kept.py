"""What one process made, the next need not make; whatever happens to the file, everything goes on."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cuemark.kept import Kept, cache
from cuemark.text import TextEncoder

KEYS = [bytes([i, 1]) for i in range(200)]


def test_what_is_kept_is_there_and_the_first_counts(tmp_path):
    kept = Kept(tmp_path / "deep" / "k.sqlite")
    assert kept.get(KEYS) == {}
    kept.put({KEYS[0]: b"a", KEYS[1]: b""})
    kept.put({KEYS[0]: b"other", KEYS[2]: b"c"})
    assert Kept(kept.path).get(KEYS * 6) == {KEYS[0]: b"a", KEYS[1]: b"", KEYS[2]: b"c"}


def test_the_older_half_is_forgotten(tmp_path):
    kept = Kept(tmp_path / "k.sqlite", most=600_000)
    for i in range(0, 200, 10):
        kept.put({key: bytes(5000) for key in KEYS[i : i + 10]})
    found = kept.get(KEYS)
    assert KEYS[-1] in found
    assert KEYS[0] not in found
    assert 40 < len(found) < 130
    assert kept.path.stat().st_size < 1_000_000


@pytest.mark.parametrize("damage", ["text", "folder", "other table"])
def test_a_file_that_is_none_is_no_matter(tmp_path, damage):
    kept = Kept(tmp_path / "k.sqlite")
    if damage == "text":
        kept.path.write_text("no database at all, but long enough to be looked at as one")
    elif damage == "folder":
        kept.path.mkdir()
    else:
        with sqlite3.connect(kept.path) as file:
            file.execute("CREATE TABLE kept (x)")
    kept.put({KEYS[0]: b"a"})
    assert kept.get(KEYS) == {}


def test_many_may_write_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: Kept(tmp_path / "k.sqlite").put({key: key}), KEYS[:40]))
    assert Kept(tmp_path / "k.sqlite").get(KEYS) == {key: key for key in KEYS[:40]}


# ---------------------------------------------------------------------------------------------- texts


def counted(reader: TextEncoder) -> list[int]:
    """Rows that go through its network from now on."""
    rows: list[int] = []
    reader.model.register_forward_pre_hook(
        lambda module, args, told: rows.append(len(told["input_ids"])), with_kwargs=True)
    return rows


def test_a_text_is_read_once_by_whoever(tiny_text, tmp_path, monkeypatch):
    monkeypatch.setenv("CUEMARK_CACHE", str(tmp_path))
    said = ["a red star", "of a", "star"]
    first = TextEncoder.load(tiny_text)
    vectors, words = first.encode(said), first.words(said)
    again = TextEncoder.load(tiny_text)
    rows = counted(again)
    assert torch.equal(again.encode(said), vectors)
    assert all(torch.equal(a, b) for a, b in zip(again.words(said), words, strict=True))
    assert rows == []
    again.encode(["a star"])
    assert rows == [16]
    # as many tokens as are read decide; so does whatever the folder holds
    cut = TextEncoder.load(tiny_text, max_tokens=3)
    assert cut.words(["a red star"])[0].shape == (3, 24)
    config = tiny_text / "config.json"
    before = config.stat()
    try:
        os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        other = TextEncoder.load(tiny_text)
        rows = counted(other)
        assert torch.equal(other.encode(said), vectors)
        assert rows
    finally:
        os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_damaged_memory_changes_no_vector(tiny_text, tmp_path, monkeypatch):
    monkeypatch.setenv("CUEMARK_CACHE", str(tmp_path))
    vectors = TextEncoder.load(tiny_text).encode(["a red star"])
    (cache() / "texts.sqlite").write_bytes(b"x" * 5000)
    assert torch.equal(TextEncoder.load(tiny_text).encode(["a red star"]), vectors)


def test_another_process_has_the_same_bytes(tiny_text, tmp_path, monkeypatch):
    monkeypatch.setenv("CUEMARK_CACHE", str(tmp_path))
    vectors = TextEncoder.load(tiny_text).encode(["a red star"])
    program = (f"from cuemark.text import TextEncoder as T; r = T.load({str(tiny_text)!r}); r.model = None; "
               "print(r.encode(['a red star']).numpy().tobytes().hex())")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == vectors.numpy().tobytes().hex()
