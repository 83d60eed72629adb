"""The program itself: its commands' common words, how it ends, and how it prints."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter, validators
from rich.console import Console
from rich.table import Table

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
weights_app = App(name="weights", help="Released weights of video encoders, by name.")
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


SetOption = Annotated[list[str], Parameter(name="--set", negative="", help="section.field=value; may be repeated.")]
Several = Annotated[list[str] | None, Parameter(consume_multiple=True)]
"""An option with as many values as follow it."""
GOES_ON = ("demo", "world", "prepare", "pretrain", "train", "extract")
"""Commands that keep what they have done when they are stopped."""
JSON_WITH_FILE = ("evaluate", "compare", "diagnose", "check")
"""Commands whose --json may be followed by a file; elsewhere it could swallow a video's name."""
_NUMBER = re.compile(r"[-+]?[0-9.,]+ ?%?")


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


def tabulated(columns: Sequence[str], rows: Sequence[Sequence[str | float | None]], title: str | None = None) -> Table:
    """Numbers to the right, words to the left, and nothing cut short."""
    table = Table(title=title, title_justify="left", header_style="bold")
    cells = [[_cell(cell) for cell in row] for row in rows]
    wide = sum(len(name) + 3 for name in columns) >= 80
    for i, name in enumerate(columns):
        numbers = bool(cells) and all(row[i] == "–" or _NUMBER.fullmatch(row[i]) for row in cells)
        longest = max((len(word) for row in cells for word in ([row[i]] if numbers else row[i].split())), default=0)
        table.add_column(name.replace(" ", "\n") if wide else name, justify="right" if numbers else "left",
                         overflow="fold", min_width=min(longest, 20))
    for row in cells:
        table.add_row(*row)
    return table


def _cell(value: str | float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, str | int) else printed(value)


def printed(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


def screen() -> Console:
    """Standard output as it is written: names of files and labels may look like rich's markup."""
    return Console(markup=False, emoji=False, highlight=False)


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
