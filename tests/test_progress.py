"""What people see while they wait: on standard error, sparse where nobody watches."""

from __future__ import annotations

import inspect
import sys

import pytest

from cuemark import progress
from cuemark.progress import SECONDS_BETWEEN_LINES, Bar, say


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_say_is_one_line_on_standard_error(capsys):
    say("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_a_line_at_the_end(capsys, clock: Clock):
    with Bar("extracting", 3) as bar:
        for i in range(3):
            bar.advance(1, f"{i} clips/s")
    assert capsys.readouterr() == ("", "extracting: 3/3 2 clips/s\n")


def test_a_line_now_and_then(capsys, clock: Clock):
    with Bar("extracting", 100) as bar:
        for _ in range(100):
            clock.now += 1.0
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    every = int(SECONDS_BETWEEN_LINES) + 1
    assert lines == [f"extracting: {n}/100" for n in range(every, 101, every)] + ["extracting: 100/100"]


def test_the_last_note_stays(capsys, clock: Clock):
    with Bar("training", 4) as bar:
        bar.advance(0, "loss 2")
        bar.advance(3)
    assert capsys.readouterr().err == "training: 3/4 loss 2\n"


def test_a_run_goes_on_where_it_was(capsys, clock: Clock):
    with Bar("training", 10, done=7) as bar:
        bar.advance(2)
    assert capsys.readouterr().err == "training: 9/10\n"


def test_nothing_done_nothing_said(capsys):
    with Bar("extracting", 0):
        pass
    assert capsys.readouterr() == ("", "")


def test_an_error_is_not_progress(capsys):
    def break_off() -> None:
        with Bar("extracting", 3) as bar:
            bar.advance()
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        break_off()
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_and_a_line_at_the_end(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Bar("extracting [x]", 2) as bar:
        bar.advance(1, "1 clips/s")
        bar.advance(1, "[/] odd notes [bold")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("extracting [x]: 2/2 [/] odd notes [bold\n")


def test_a_bar_on_a_terminal_ends_with_its_error(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = Bar("extracting", 2)
    with pytest.raises(RuntimeError), bar:
        raise RuntimeError
    assert bar._rich is not None
    assert not bar._rich.live.is_started


def test_the_example_can_be_called():
    example = inspect.getdoc(Bar) or ""
    assert "bar.advance(" in example
    names: dict[str, object] = {"Bar": Bar}
    lines = [line.split(" ", 1)[1] for line in example.splitlines() if line.startswith((">>>", "..."))]
    exec("\n".join(line.split("  # doctest")[0] for line in lines), names)
