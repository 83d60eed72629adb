"""The public names: what ``cuemark.__all__`` promises, and what importing them costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import cuemark


def test_every_name_resolves_to_what_its_module_has():
    assert cuemark.__all__ == sorted(cuemark.__all__)
    assert set(cuemark.__all__) == set(cuemark._HOME)
    for name in cuemark.__all__:
        assert getattr(cuemark, name) is getattr(importlib.import_module(f"cuemark.{cuemark._HOME[name]}"), name)


def test_dir_promises_the_same():
    assert [name for name in dir(cuemark) if not name.startswith("_")] == cuemark.__all__
    assert len(dir(cuemark)) == len(set(dir(cuemark)))


def test_type_checkers_are_told_the_same():
    tree = ast.parse(Path(cuemark.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module.removeprefix("cuemark.") for node in block.body for alias in node.names}
    assert told == cuemark._HOME


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'cuemark' has no attribute 'localise'"):
        cuemark.localise  # noqa: B018
    with pytest.raises(ImportError):
        exec("from cuemark import localise")


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_cuemark_costs_no_torch():
    heavy = "[m for m in ('torch', 'numpy', 'av', 'transformers', 'matplotlib') if m in sys.modules]"
    assert fresh(f"import sys, cuemark, cuemark.cli; dir(cuemark); print({heavy})") == "[]"
    assert fresh("import sys, cuemark; cuemark.read_truth; cuemark.Grid; print('torch' in sys.modules)") == "False"


def test_localize_is_callable_after_its_module_was_imported():
    """The module is ``cuemark.localization``: the names do not collide."""
    assert fresh("import cuemark.localization, cuemark; from cuemark import localize, load, train, extract; "
                 "print(all(map(callable, (cuemark.localize, localize, load, train, extract))))") == "True"


def test_star_import():
    names: dict[str, object] = {}
    exec("from cuemark import *", names)
    assert set(cuemark.__all__) <= names.keys()
