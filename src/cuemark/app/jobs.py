"""What takes long: one thing after another in the background, each with a state that can be watched."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from cuemark.app.answers import JobState, State
from cuemark.errors import CallError, CuemarkError

KEPT = 100
"""Jobs that are remembered when they have ended."""
WAITING = 50
"""Jobs that may wait."""
ENDED = ("done", "failed", "cancelled")
"""States after which nothing more happens."""
_log = logging.getLogger("cuemark")


@dataclass
class Job:
    """Something that is being done."""

    number: int
    kind: str
    about: str
    state: JobState = "waiting"
    done: int = 0
    """Videos that are done with."""
    total: int | None = None
    """Of ``done``; None: nobody knows."""
    share: float | None = None
    """How much of it is done, 0 to 1; None: nobody knows."""
    note: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.time)
    unwanted: bool = False
    """Whether somebody has cancelled it."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    def progress(self, done: int, total: int, share: float) -> bool:
        """So many videos of ``total`` are done with, and so much of the work; whether to go on."""
        self.done, self.total, self.share = done, total, round(share, 3)
        return not self.unwanted

    def to_json(self) -> State:
        """As it is answered."""
        return {"number": self.number, "kind": self.kind, "about": self.about, "state": self.state, "done": self.done,
                "total": self.total, "share": self.share, "note": self.note, "result": self.result,
                "began": round(self.began, 3)}


class Jobs:
    """Runs jobs one at a time: they are heavy, and people are waiting for answers meanwhile."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # a daemon: what it does can be stopped at any moment, and whoever ends the server does not wait for hours
        self._worker = threading.Thread(target=self._work, name="cuemark-job", daemon=True)
        self._jobs: dict[int, Job] = {}
        self._guard = threading.Lock()
        self._next = 1
        self._closed = False
        self._worker.start()

    def start(self, kind: str, about: str, work: Callable[[Job], dict[str, Any] | None],
              hidden: Callable[[str], str] = str) -> Job:
        """Do ``work`` when it is its turn; where the same is waiting or running already, that one.

        Args:
            work: is given the job, to write its progress into; what it returns is the result.
            hidden: what becomes of a reason before anybody sees it.

        Raises:
            CallError: too many are waiting.
        """
        with self._guard:
            for job in self._jobs.values():
                if not (job.ended or job.unwanted) and (job.kind, job.about) == (kind, about):
                    return job
            if sum(not job.ended for job in self._jobs.values()) >= WAITING:
                raise CallError(f"{WAITING} jobs are waiting already; try again when some have ended.")
            job = self._jobs[self._next] = Job(self._next, kind, about)
            self._next += 1
            for number in [n for n, old in self._jobs.items() if old.ended][:-KEPT]:
                del self._jobs[number]

        def run() -> None:
            with self._guard:
                if job.ended:  # cancelled while it waited
                    return
                job.state = "running"
            try:
                job.result = work(job) or {}
                job.state = "cancelled" if job.result.pop("stopped", False) else "done"
            except CuemarkError as error:
                job.note, job.state = hidden(str(error)), "failed"
            except Exception:
                _log.exception("job %d (%s) failed", job.number, job.kind)
                job.note = "something went wrong that nobody thought of; the server's log says what."
                job.state = "failed"

        self._waiting.put(run)
        return job

    def cancel(self, job: Job) -> None:
        """Want no more of a job: one that waits ends at once, one that runs when its work looks, which may be never."""
        with self._guard:
            job.unwanted = True
            if job.state == "waiting":
                job.state = "cancelled"

    def get(self, number: int) -> Job | None:
        """A job, while it is remembered."""
        return self._jobs.get(number)

    def all(self) -> list[Job]:
        """Those that are remembered, the newest first."""
        with self._guard:
            return sorted(self._jobs.values(), key=lambda job: -job.number)

    async def events(self, job: Job, every: float = 0.2) -> AsyncIterator[State]:
        """Its states, whenever they change, until it has ended."""
        before: State | None = None
        while True:
            now = job.to_json()
            if now != before:
                yield now
                before = now
            if now["state"] in ENDED:
                return
            await asyncio.sleep(every)

    def _work(self) -> None:
        while (run := self._waiting.get()) is not None:
            if not self._closed:
                run()

    def close(self, patience: float = 1.0) -> bool:
        """Begin nothing more; whether what was running has ended within so many seconds."""
        self._closed = True
        self._waiting.put(None)
        self._worker.join(patience)
        return not self._worker.is_alive()
