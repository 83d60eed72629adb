"""Write the pages that are made from the code: `python docs/tables.py`; a test keeps them current."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from cuemark.datasets import FORMATS
from cuemark.localizers import LOCALIZERS
from cuemark.metrics import METRICS
from cuemark.pretraining import OBJECTIVES
from cuemark.recipe import SHIPPED, shipped


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


GROUPS = (
    ("kinetics", "Trimmed clips", "What TSP and CLAP start from."),
    ("activitynet", "ActivityNet", "A name without a system's variant is the paper's main one."),
    ("qvhighlights", "QVHighlights", "Sentences and the moments that they describe."),
    ("coin", "COIN", "A class, or none, for every frame."),
    ("activitynet160", "Few-shot: the base classes of ActivityNet", "Videos that show another class are left out "
     "whole (`data.classes`)."),
    ("anetcaptions", "ActivityNet Captions", "Sentences and the moments that they describe."),
    ("charades", "Charades-STA", "Likewise."),
    ("tacos", "TACoS", "Likewise."),
    ("thumos14", "THUMOS14", "Trained on its validation videos, chosen on its test videos, as TSP's release does."),
    ("world", "The built-in world", "Made by `cuemark world`; minutes on a CPU."),
)
"""How the names of recipes begin, and what they have in common."""


def recipes() -> str:
    """The page of recipes."""
    found, parts = shipped(), []
    for prefix, title, words in GROUPS:
        rows = [f"| [`{name}`](../{SHIPPED.relative_to(SHIPPED.parents[2]).as_posix()}/{name}.toml) | "
                f"{_cell(head.title)} | {_cell(head.cost)} | {_cell(head.score)} |"
                for name, head in found.items() if name.partition("_")[0] == prefix]
        parts += [f"## {title}", "", words, "", "| recipe | what | cost | score to expect |", "|---|---|---|---|",
                  *rows, ""]
    return "\n".join([
        "# Recipes", "",
        "Made by `python docs/tables.py` from the headers of `src/cuemark/recipes`. `cuemark recipes` lists them, "
        "`cuemark recipes NAME` prints one in full. Clips are those of TSP's ground truth; FLOPs and GPU hours are "
        "computed from them, not measured: a backward pass counts as two forward ones, and a multiplication with its "
        "addition as two. Scores are the papers'.", "",
        "A recipe with `base = \"other\"` says only what is different from that one: a file beside it, or a name from "
        "here. Fields are replaced one by one, lists whole. So a recipe of your own can be", "",
        "```toml", "base = \"activitynet_tsp_r2plus1d_18\"", "", "[data]", "truth = \"mine.json\"",
        "videos = \"my_videos\"", "```", "",
        "`cuemark pretrain NAME --out OUT --sweep head_lr=0.002,0.004,0.006,0.008,0.01` trains once with each value, "
        "in a folder of its own, and keeps the encoder with the highest validation score, the mean accuracy of the two "
        "heads, over values and epochs: how TSP's paper chose. TSP's region head reads global video features from a "
        "file that `cuemark gvf` writes, from TSP's own, or from a features folder (`data.features`).", "",
        "Not here, as what it needs is not in the house yet: BMT on these features. The "
        "encoders of other groups (LoFi, VideoCLIP, XDC) are features folders that you bring (`cuemark features "
        "import`).", "", *parts])


SETTINGS = (
    ("Of a recipe", "", "recipe", "Recipe"),
    ("Data", "data", "recipe", "Data"),
    ("The encoder", "encoder", "recipe", "Encoder"),
    ("Its network", "encoder.network", "encoders.resnet3d", "Config"),
    ("Its clips", "encoder.clip", "clips", "ClipConfig"),
    ("Which clips it learns from", "encoder.sampling", "clips", "Sampling"),
    ("How a localizer looks at frames", "towers", "recipe", "Towers"),
    ("An image tower of random weights", "towers.network", "encoders.clip", "Config"),
    ("The training", "optim", "loop", "Optim"),
    *((f"Options of {name}", "options", f"pretraining.{name}", "Config") for name in OBJECTIVES),
    *((f"Options of {name}", "options", f"localizers.{name}", "Config") for name in LOCALIZERS),
)
"""Title, section of a recipe, and the dataclass that it becomes."""


def settings() -> str:
    """The page of settings."""
    parts = []
    for title, section, module, kind in SETTINGS:
        rows = [f"| `{f'{section}.' if section else ''}{name}` | `{_cell(value)}` | {_cell(_plain(told))} |"
                for name, value, told in _fields(module, kind)]
        parts += [f"## {title}", "", "| setting | default | what |", "|---|---|---|", *rows, ""]
    return "\n".join([
        "# Settings", "",
        "Made by `python docs/tables.py` from the dataclasses that recipes become: every setting there is, with its "
        "default. A recipe sets them in its tables, and `--set section.field=value` changes one for a run: "
        "`cuemark pretrain world_clap --out runs/clap --set optim.chunk=64 --set encoder.sampling.balance=classes`. "
        "`options.variant` names other settings that a localizer was released with.", "", *parts])


def _fields(module: str, kind: str) -> Iterator[tuple[str, str, str]]:
    """Name, default and docstring of a dataclass's settings, as its source has them; sections are passed over."""
    source = inspect.getsource(getattr(import_module(f"cuemark.{module}"), kind))
    body = ast.parse(textwrap.dedent(source)).body[0].body
    for node, after in itertools.zip_longest(body, body[1:]):
        if isinstance(node, ast.AnnAssign) and "field(default_factory" not in (value := ast.unparse(node.value)
                                                                              if node.value else "–"):
            told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            if "ClassVar" not in ast.unparse(node.annotation):
                yield ast.unparse(node.target), value, " ".join(told.split())


def _docstring(module: str) -> str:
    return import_module(f"cuemark.{module}").__doc__ or ""


def _plain(text: str) -> str:
    """Without the roles of reStructuredText."""
    return re.sub(r":\w+:`~?([\w.]+)`", lambda m: f"`{m[1].removeprefix('cuemark.errors.')}`", text).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


PAGES = {"formats.md": formats, "metrics.md": metrics, "recipes.md": recipes, "settings.md": settings}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(__file__).parent / name).write_text(page(), encoding="utf-8")
        print(name, file=sys.stderr)
