"""The program itself: its commands' common words, how it ends, and how it prints."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter, validators
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from cuemark.errors import CallError, CuemarkError

_WORD = re.compile(r"--\S+(?: (?!-)(?:'[^']*'|\S)+)+|(?:'[^']*'|\S)+")
"""A word of a command line, or an option with its values."""

app = App(
    name="cuemark",
    help="When does this happen in the video? Pre-train video encoders, train localizers, find the moments.",
    version_flags=["--version"],
    result_action="return_value",
    help_format="plaintext",
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,  # main() says what it means
)
evaluate_app = App(name="evaluate", help="Score predictions against truth.")
app.command(evaluate_app)
features_app = App(name="features", help="Features folders, and other people's features.")
app.command(features_app)
weights_app = App(name="weights", help="Released weights of video encoders and localizers.")
app.command(weights_app)


def examples(*lines: str) -> str:
    """Calls to copy: one that is wider than a terminal of 80 columns goes on after a backslash."""
    shown = []
    for line in lines:
        rows = [" "]
        for word in _WORD.findall(line):
            if len(rows[-1]) + 1 + len(word) > 77:
                rows[-1] += " \\"
                rows.append("     ")
            rows[-1] += f" {word}"
        shown += rows
    return "\n".join(("Examples:", *shown, ""))


SetOption = Annotated[list[str], Parameter(
    name="--set", negative="", help="section.field=value, or section.field= for its default; may be repeated.")]
Several = Annotated[list[str] | None, Parameter(consume_multiple=True)]
"""An option with as many values as follow it."""
GOES_ON = ("demo", "world", "prepare", "pretrain", "train", "extract", "index")
"""Commands that keep what they have done when they are stopped."""
JSON_WITH_FILE = ("evaluate", "compare", "diagnose", "check")
"""Commands whose --json may be followed by a file; elsewhere it could swallow a video's name."""
_NUMBER = re.compile(r"[-+]?[0-9.,]+ ?%?")
UNBOUNDED = 100_000
"""Columns of a screen that is none."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    arguments = with_json(sys.argv[1:] if argv is None else argv)
    try:
        status = app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(_one_sentence(str(error)), 2)
    except CallError as error:
        _fail(str(error), 2)
    except CuemarkError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        goes_on = bool(arguments) and arguments[0] in GOES_ON
        _fail(f"stopped; the same command {'goes on from here' if goes_on else 'begins anew'}.", 130)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        path = error.filename2 or error.filename  # of a renaming, the name that people know
        _fail(f"{error.strerror or error}{f': {path!r}' if path else ''}; "
              "check the path, its permissions and the free space.", 1)
    sys.exit(status if isinstance(status, int) else 0)


def with_json(words: Sequence[str]) -> list[str]:
    """The same, where a ``--json`` that no file follows says that it means standard output."""
    words = list(words)
    if words and words[0] in JSON_WITH_FILE:
        for i in reversed([i for i, word in enumerate(words) if word == "--json"]):
            following = words[i + 1] if i + 1 < len(words) else "--"
            if following.startswith("-"):
                words[i:i + 1 + (following == "-")] = ["--json=-"]
    return words


def _one_sentence(text: str) -> str:
    text = re.sub(r"[.;]? Did you mean (.+)\?$", r" (did you mean \1?).", " ".join(text.split()))
    return re.sub(r"\. ([A-Z])", lambda match: f"; {match[1].lower()}", text)


def _fail(message: str, status: int) -> None:
    print(f"cuemark: {message}", file=sys.stderr)
    sys.exit(status)


Truth_ = Annotated[Path, Parameter(name="--truth", help="Truth file or folder, in any format of docs/formats.md.")]
Predictions_ = Annotated[Path, Parameter(name="--predictions", help="Prediction file, in any format.")]
Train_ = Annotated[Path | None, Parameter(name="--train", help="Training truth in a file of its own: floors learn from "
                                          "it. By default the training videos of --truth.")]
Subset_ = Annotated[list[str] | None, Parameter(name="--subset", help="Splits to score; by default those that have "
                                                "predictions, training left out.")]
Bootstrap_ = Annotated[int, Parameter(name="--bootstrap", help="Draws of videos for a 95 % interval; 0: none.")]
Seed_ = Annotated[int, Parameter(name="--seed", help="Of the draws.", validator=validators.Number(gte=0))]
Json_ = Annotated[str | None, Parameter(name="--json", help="Print JSON, or write it to the file that follows.")]
Tious_ = Annotated[list[float] | None, Parameter(name="--tiou", help="Thresholds; by default the benchmark's.")]
Fps_ = Annotated[float | None, Parameter(name="--fps", help="Frames a second, where a file counts frames and does not "
                                         "say.")]
From_ = Annotated[str | None, Parameter(name="--from", help="The format; by default it is guessed, and said.")]
Videos_ = Annotated[Path | None, Parameter(name="--videos", help="Folder of the videos, for lengths and rates.")]


def tabulated(columns: Sequence[str], rows: Sequence[Sequence[str | float | None]], title: str | None = None
              ) -> Tabulated:
    """Numbers to the right, words to the left, and nothing cut short, however narrow the screen."""
    return Tabulated(list(columns), [[_cell(cell) for cell in row] for row in rows], title)


@dataclass(frozen=True)
class Tabulated:
    """A table as wide as its screen allows: words that do not fit go to the next line, but none is ever broken.

    Where that is impossible, each row becomes lines of its own, ``column: value``.
    """

    columns: list[str]
    rows: list[list[str]]
    title: str | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        numbers = [bool(self.rows) and all(row[i] == "–" or _NUMBER.fullmatch(row[i]) for row in self.rows)
                   for i in range(len(self.columns))]
        room = options.max_width - 3 * len(self.columns) - 1  # of the lines between them
        heads = self.columns
        if sum(map(cell_len, heads)) > room:
            heads = [name.replace(" ", "\n") for name in heads]
        widths = []
        for i, head in enumerate(heads):
            cells = [row[i] for row in self.rows]
            words = [word for cell in cells for word in ([cell] if numbers[i] else cell.split())] + head.split()
            widths.append((max(map(cell_len, words), default=0),
                           max(cell_len(line) for cell in [*cells, head] for line in cell.split("\n"))))
        if (fitted := _fitted(widths, room)) is None:
            yield from self._stacked()
            return
        table = Table(title=self.title, title_justify="left", header_style="bold")
        for head, number, width in zip(heads, numbers, fitted):
            table.add_column(head, justify="right" if number else "left", width=width, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        yield table

    def _stacked(self) -> RenderResult:
        """Lines that may be longer than the screen, which then breaks them: nothing is lost."""
        if self.title:
            yield Text(self.title, style="italic")
        for row in self.rows:
            for name, cell in zip(self.columns, row):
                yield Text(f"{name}: {cell}" if name else cell, overflow="fold")
            yield Text("")


def _fitted(widths: Sequence[tuple[int, int]], room: int) -> list[int] | None:
    """Widths of columns, given the least and the most of each: what the least of all leave goes to those that can do
    with little first. None: they do not fit."""
    given = [least for least, _ in widths]
    spare = room - sum(given)
    if spare < 0:
        return None
    order = sorted(range(len(widths)), key=lambda i: widths[i][1] - widths[i][0])
    for left, i in zip(range(len(order), 0, -1), order):
        more = min(widths[i][1] - widths[i][0], spare // left)
        given[i] += more
        spare -= more
    return given


def _cell(value: str | float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, str | int) else printed(value)


def printed(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


def screen() -> Console:
    """Standard output as it is written: names of files and labels may look like rich's markup.

    A file or another program gets tables as wide as they are, unless ``COLUMNS`` says otherwise.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = UNBOUNDED
    return console


def named(words: Sequence[str], option: str) -> dict[str, Path]:
    """NAME=FILE words of an option; a word without a name goes by its file's stem."""
    found = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals:
            name, path = Path(word).stem, word
        if name in found:
            raise CallError(f"{option} names '{name}' twice; write NAME=FILE with different names.")
        found[name] = Path(path)
    return found
