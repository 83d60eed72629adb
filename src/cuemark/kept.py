"""Arrays that take long to make, in a file that processes share: what one has made, the next need not.

A cache and nothing else: where the file cannot be read or written, everything is made anew and nobody is told. It is
SQLite, which several processes may write at once.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

MOST = 2_000_000_000
"""Bytes, after which the older half is forgotten."""
_PATIENCE = 5.0
"""Seconds to wait for another process that writes."""


def cache() -> Path:
    """The folder for what is fetched or made once: ``$CUEMARK_CACHE``, or ``~/.cache/cuemark``."""
    return Path(os.environ.get("CUEMARK_CACHE") or "~/.cache/cuemark").expanduser()


class Kept:
    """Bytes under keys (digests of all that decides them)."""

    def __init__(self, path: Path, most: int = MOST) -> None:
        self.path, self.most = path, most

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those of ``keys`` that are there."""
        found: dict[bytes, bytes] = {}
        try:
            if keys and self.path.exists():
                with self._open() as file:
                    for first in range(0, len(keys), 500):
                        some = keys[first : first + 500]
                        marks = ", ".join("?" * len(some))
                        found |= file.execute(f"SELECT key, value FROM kept WHERE key IN ({marks})", some)
        except (sqlite3.Error, OSError):
            return {}
        return found

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep these from now on; what is there already stays."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as file:
                file.execute("BEGIN IMMEDIATE")  # waits for others, which a transaction that began by reading does not
                file.execute("CREATE TABLE IF NOT EXISTS kept (key BLOB UNIQUE, value BLOB)")
                file.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?)", values.items())
                size, pages, free = (file.execute(f"PRAGMA {name}").fetchone()[0] for name in (
                    "page_size", "page_count", "freelist_count"))
                if size * (pages - free) > self.most:
                    file.execute("DELETE FROM kept WHERE rowid IN (SELECT rowid FROM kept ORDER BY rowid LIMIT "
                                 "(SELECT (count(*) + 1) / 2 FROM kept))")
        except (sqlite3.Error, OSError):
            return

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as file, file:
            yield file
