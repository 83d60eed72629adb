"""Folders that fill up over a long run: one run at a time, nothing half-written left, a full disk said plainly.

What such a folder has of some videos and not of others is told in it, by video: :data:`FAILED`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cuemark.errors import CuemarkError, DataError
from cuemark.segments import read_json, write_json

LOCK = ".cuemark.lock"
FAILED = "failed.json"
"""Why some videos are not there."""
PATIENCE = 3.0
"""Seconds to wait for another run's lock: after a kill, its processes need a moment to notice."""


@contextmanager
def locked(out: Path) -> Iterator[int]:
    """Make the folder, hold its lock, and give the lock's handle. The kernel lets go however the processes end.

    Raises:
        CuemarkError: another run holds it.
        OSError: the folder cannot be made or written.
    """
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - began > PATIENCE:
                    raise CuemarkError(f"another run is at work in '{out}'; wait until it has finished, or give "
                                       "another folder with --out.") from None
                time.sleep(0.05)
        yield handle
    finally:
        os.close(handle)


def sweep(out: Path) -> None:
    """Remove what was being written when a process ended."""
    for left in out.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def bounded(folder: Path, pattern: str, most: int, keep: int = 0) -> None:
    """Remove the files that were written or touched longest ago, until those of a pattern take ``most`` bytes together.

    Args:
        keep: the last so many stay, however large.
    """
    found = []
    for path in folder.glob(pattern):
        with suppress(OSError):  # another may have removed it
            told = path.stat()
            found.append((told.st_mtime, told.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found)[: len(found) - keep]:
        if total <= most:
            break
        path.unlink(missing_ok=True)
        total -= size


def unwritable(path: Path, error: Exception) -> DataError:
    """The error for a folder that takes no more: what the system says, and what to do."""
    reason = getattr(error, "strerror", None) or str(error)
    advice = "free some space" if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT) else "mend that"
    return DataError(f"'{path}' cannot be written ({reason}); {advice} and run the same again: it goes on with what "
                     "is missing.")


def failures(folder: Path) -> dict[str, str]:
    """Why videos are not in a folder of prepared videos or of features, by id: its :data:`FAILED`.

    Raises:
        DataError: the file is malformed.
    """
    if not (folder / FAILED).exists():
        return {}
    told = read_json(folder / FAILED, "failures")
    if not isinstance(told, dict):
        raise DataError(f"'{folder / FAILED}' does not say what failed; remove it.")
    return {str(vid): str(why) for vid, why in told.items()}


def write_failures(folder: Path, failed: Mapping[str, str]) -> None:
    """Write :data:`FAILED`, atomically; no such file where nothing failed."""
    if failed:
        write_json(folder / FAILED, dict(sorted(failed.items())))
    else:
        (folder / FAILED).unlink(missing_ok=True)
