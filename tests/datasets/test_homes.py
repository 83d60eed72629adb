"""What formats share has a home of its own: none borrows from another, unless it is a variation of that."""

from __future__ import annotations

import ast
from pathlib import Path

import cuemark.datasets

FOLDER = Path(cuemark.datasets.__file__).parent
HOMES = {"format", "rows", "files", "markup", "notes", "sentences", "timecode", "timeline"}
VARIATIONS = {("multithumos", "thumos"), ("video_scores", "thumos")}


def borrowed(name: str) -> set[str]:
    """The modules of the folder that a module of it imports."""
    found = set()
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "cuemark.datasets":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cuemark.datasets."):
            found.add(str(node.module).split(".")[2])
    return found


def test_formats_borrow_from_homes_alone():
    formats = {path.stem for path in FOLDER.glob("*.py")} - HOMES - {"__init__", "world", "splits"}
    assert len(formats) > 20
    assert {(name, other) for name in formats for other in borrowed(name) - HOMES} == VARIATIONS


def test_homes_know_no_format():
    for name in HOMES:
        assert borrowed(name) <= HOMES, name
