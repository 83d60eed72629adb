"""What people see while they wait: a bar on a terminal, a plain line now and then everywhere else.

Both go to standard error, so that standard output stays for results.
"""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 15.0


class Bar:
    """Progress over ``total`` things; use as a context manager and call :meth:`advance`.

    >>> with Bar("extracting", 3) as bar:  # doctest: +SKIP
    ...     bar.advance(1, "12 clips/s")
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done = what, total, done
        self._rich: Progress | None = None
        self._note = ""
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if silent():
            return self
        if sys.stderr.isatty():
            self._rich = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[note]}"), console=Console(stderr=True), transient=True,
            )
            self._rich.start()
            self._task = self._rich.add_task(self.what, total=self.total, completed=self.done, note="")
        return self

    def advance(self, n: int = 1, note: str = "") -> None:
        """``n`` more are done; ``note`` says what to show beside the count (a loss, a rate)."""
        self.done += n
        self._note = note or self._note
        if self._rich is not None:
            self._rich.update(self._task, completed=self.done, note=self._note)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            say(f"{self.what}: {self.done}/{self.total} {self._note}".rstrip())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        if self._rich is not None:
            self._rich.stop()
        if error is None and self.done:
            say(f"{self.what}: {self.done}/{self.total} {self._note}".rstrip())


def silent() -> bool:
    """Whether another process speaks for this one: of those that torchrun starts, the first does."""
    return os.environ.get("RANK", "0") != "0"


def say(line: str) -> None:
    """One plain line for a person, on standard error."""
    if silent():
        return
    print(line, file=sys.stderr, flush=True)
