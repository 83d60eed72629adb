"""The pages that are made from the code say what the code says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from cuemark.datasets import FORMATS
from cuemark.metrics import METRICS
from cuemark.recipe import shipped

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = runpy.run_path(str(DOCS / "tables.py"))["PAGES"]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_made_pages_are_current(name):
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), "run: python docs/tables.py"


def test_every_format_and_metric_has_its_line_source_and_words():
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    for name, form in FORMATS.items():
        assert f"| `{name}` |" in page
        assert name == form.name
        assert min(map(len, (form.title, form.source, form.layout))) > 3
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page and f"## {metric.title}" in page for name, metric in METRICS.items())


def test_every_recipe_has_its_line_with_cost_and_score():
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    for name, head in shipped().items():
        (line,) = [row for row in page.splitlines() if row.startswith(f"| [`{name}`](")]
        link = re.search(r"\]\((.*?)\)", line)
        assert (DOCS / link[1]).is_file()
        for words in (head.title, head.cost, head.score):
            assert words.replace("|", "\\|") in line


@pytest.mark.parametrize("page", ["formats.md", "metrics.md", "floors.md", "recipes.md"])
def test_tables_are_tables(page):
    """Every row has as many cells as the row above it; no role of reStructuredText is left."""
    text = (DOCS / page).read_text(encoding="utf-8")
    cells = None
    for line in text.splitlines():
        found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert cells is None or found is None or found == cells, line
        cells = found
    assert not re.search(r":(class|func|mod|data):`", text)
