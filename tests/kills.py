"""Runs of a command that are killed at random moments, each followed by one that is not: nothing may be lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

SERVER = """
import json, os, signal, sys, time, traceback
from cuemark import folders
{setup}
folders.PATIENCE = 0  # a kill frees the lock at once
for line in sys.stdin:
    out, delay, told = json.loads(line)
    began = time.monotonic()
    child = os.fork()
    if not child:
        status = 1
        try:
            work(out, told)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended:
        if delay is not None and time.monotonic() > began + delay:
            os.kill(child, signal.SIGKILL)
            delay = None
        time.sleep(0.001)
        ended, status = os.waitpid(child, os.WNOHANG)
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began]), flush=True)
"""


def files(folder: Path) -> dict[str, bytes]:
    """Every file, hidden or not."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def kill_at_random(tmp_path: Path, setup: str, whole: Callable[[Path, dict[str, bytes]], None], made: str,
                   finished: int, *, told: tuple[object, object] = (None, None), kills: int = 20) -> dict[str, bytes]:
    """Kill runs at seeded random moments; go on until one ends by itself; compare with a run that nobody disturbed.

    Processes that have imported everything are forked, so that all of their time is work.

    Args:
        setup: source that defines ``work(out, told)``.
        whole: looks at a folder after each kill, with the undisturbed folder's files.
        made: pattern of the files that work is for; of them, an undisturbed run leaves ``finished``.
        told: what work is told, in turns.

    Returns:
        The files of the undisturbed folder.
    """
    command = [sys.executable, "-c", SERVER.replace("{setup}", setup)]
    log = tmp_path / "log"
    with (open(log, "w") as file,
          subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
                           env={**os.environ, "OMP_NUM_THREADS": "1"}) as server):
        assert server.stdin is not None
        assert server.stdout is not None

        def run(out: Path, which: int, delay: float | None) -> tuple[int, float]:
            print(json.dumps([str(out), delay, told[which]]), file=server.stdin, flush=True)
            answer = server.stdout.readline()
            assert answer, log.read_text()
            return tuple(json.loads(answer))

        calm = [run(tmp_path / name, 0, None) for name in ("undisturbed", "twice")]
        duration = min(seconds for _, seconds in calm)  # on a busy machine one may take long
        assert [status for status, _ in calm] == [0, 0], log.read_text()
        undisturbed = files(tmp_path / "undisturbed")
        assert files(tmp_path / "twice") == undisturbed
        assert len(list((tmp_path / "undisturbed").glob(made))) == finished
        rng = np.random.default_rng(0)
        killed = partial = number = 0
        while killed < kills:
            out, which = tmp_path / f"out{number}", number % 2
            number += 1
            for _ in range(rng.integers(2, 6)):
                status, _ = run(out, which, rng.uniform(0, duration))
                whole(out, undisturbed)
                if status == 0:  # it was faster
                    break
                assert status == -signal.SIGKILL, log.read_text()
                killed += 1
                partial += bool(list(out.glob(".*.tmp"))) or 0 < len(list(out.glob(made))) < finished
            status, _ = run(out, which, None)
            assert status == 0, log.read_text()
            assert files(out) == undisturbed
        server.stdin.close()
        assert server.wait() == 0
    assert partial > 2  # or no moment was one
    return undisturbed
