"""Write docs/formats.md and docs/metrics.md from the code: `python docs/tables.py`; a test keeps them current."""

from __future__ import annotations

import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path

from cuemark.datasets import FORMATS
from cuemark.metrics import METRICS


def formats() -> str:
    """The page of formats."""
    rows = ["| `--from`, `--to` | what | layout | truth | predictions | a file holds |", "|---|---|---|---|---|---|"]
    for form in FORMATS.values():
        def ways(read: object, write: object) -> str:
            return ", ".join(word for word, it in (("read", read), ("write", write)) if it) or "–"

        own = form.parse_predictions or form.write_predictions
        cells = (f"`{form.name}`", _cell(form.title), f"`{_cell(form.layout)}`", ways(form.parse, form.write),
                 ways(form.parse_predictions, form.write_predictions) if own else "like truth",
                 "many videos" if form.several else "one video")
        rows.append(f"| {' | '.join(cells)} |")
    notes = [f"- **`{form.name}`** ({form.source}): {form.traps or 'none known.'}" for form in FORMATS.values()]
    return "\n".join([
        "# Formats", "",
        "Made by `python docs/tables.py` from `cuemark.datasets`. `cuemark convert FILE --to NAME --out OUT` converts "
        "between any two that can hold it; `cuemark check FILE` says what is wrong in a file. Predictions *like truth* "
        "are its segments; their scores travel where the layout has a place for them. `otio` needs "
        "`pip install \"cuemark[formats]\"`.", "",
        _plain(textwrap.dedent(_docstring("datasets.format").split("\n\n", 1)[1])).replace("\n    * ", "\n* ")
        .replace("\n      ", "\n  "), "",
        *rows, "", "## Sources and traps", "", *notes, ""])


def metrics() -> str:
    """The page of metrics."""
    rows = ["| `cuemark evaluate` | what | figures | source | traps |", "|---|---|---|---|---|"]
    rows += [f"| `{name}` | {_cell(m.title)} | {_cell(m.figures)} | {_cell(m.source)} | {_cell(m.traps)} |"
             for name, m in METRICS.items()]
    parts = []
    for name, m in METRICS.items():
        parts += [f"## {m.title}", "", "```text", _plain(_docstring(f"metrics.{name}")), "```", ""]
    return "\n".join([
        "# Metrics", "",
        "Made by `python docs/tables.py` from `cuemark.metrics`; what follows the table is each module's docstring, "
        "which is its specification. Every score has a floor and a ceiling beside it ([floors.md](floors.md)), and "
        "with `--bootstrap N` a 95 % interval over videos. `diagnosis` is `cuemark diagnose`.", "",
        *rows, "", *parts])


def _docstring(module: str) -> str:
    return import_module(f"cuemark.{module}").__doc__ or ""


def _plain(text: str) -> str:
    """Without the roles of reStructuredText."""
    return re.sub(r":\w+:`~?([\w.]+)`", lambda m: f"`{m[1].removeprefix('cuemark.errors.')}`", text).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


PAGES = {"formats.md": formats, "metrics.md": metrics}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(__file__).parent / name).write_text(page(), encoding="utf-8")
        print(name, file=sys.stderr)
