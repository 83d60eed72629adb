"""Checkpoints: what is saved comes back, the same bytes each time; what is broken or hostile is refused."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cuemark import checkpoint
from cuemark.errors import ModelError

META = {"kind": "encoder", "config": {"depth": 34, "name": "ü", "none": None}, "classes": ["run", "jump"], "lr": 1e-4}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 4, generator=generator)
    return {
        "net.weight": base, "net.turned": base.T, "net.shared": base, "net.scalar": torch.tensor(3.5),
        "net.empty": torch.zeros(0, 4), "half": base.half(), "brain": base.bfloat16(), "double": base.double(),
        "steps": torch.arange(5), "flags": torch.tensor([True, False]),
        "learnt": torch.nn.Parameter(base[0].clone()), "part": base[:, 1:3],
    }


class Hostile:
    """Unpickled, it would leave a file behind."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return (open, (str(self.victim), "w"))


# ------------------------------------------------------------------------------------- our own files


def test_round_trip(tmp_path: Path):
    path = tmp_path / "new folder" / "c.safetensors"
    checkpoint.save(path, tensors(), META)
    loaded, meta = checkpoint.load(path)
    assert set(loaded) == set(tensors())
    for name, value in tensors().items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)
        assert not loaded[name].requires_grad
    assert meta == {**META, "software": f"cuemark {version('cuemark')}"}


def test_the_same_bytes_twice(tmp_path: Path):
    checkpoint.save(tmp_path / "one", tensors(), META)
    checkpoint.save(tmp_path / "two", dict(reversed(tensors().items())), dict(reversed(META.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    changed = tensors()
    changed["net.scalar"] += 1
    checkpoint.save(tmp_path / "three", changed, META)
    assert (tmp_path / "one").read_bytes() != (tmp_path / "three").read_bytes()


def test_saving_leaves_the_model_alone(tmp_path: Path):
    model = torch.nn.Linear(3, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    checkpoint.save(tmp_path / "c", model.state_dict(), {})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.weight.requires_grad


def test_a_failing_save_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "c"
    checkpoint.save(path, tensors(), META)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoint.save(path, tensors(), {"not json": object()})
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        checkpoint.save(path, {"sparse": torch.eye(3).to_sparse()}, META)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c"]


def test_kind(tmp_path: Path):
    path = tmp_path / "c"
    checkpoint.save(path, {}, META)
    assert checkpoint.load(path, "encoder")[1]["kind"] == "encoder"
    with pytest.raises(ModelError, match=r"c' is of kind 'encoder', but a .* of kind 'localizer' is needed here\."):
        checkpoint.load(path, "localizer")
    checkpoint.save(path, {}, {})
    with pytest.raises(ModelError, match=r"c' is of kind 'None', but a .* of kind 'localizer' is needed"):
        checkpoint.load(path, "localizer")


def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path: Path):
    path = tmp_path / "cut"
    checkpoint.save(path, tensors(), META)
    whole = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 50, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"cut' is not a readable cuemark checkpoint .* was the copy complete\?"):
            checkpoint.load(path)


def test_files_that_are_no_checkpoint(tmp_path: Path):
    with pytest.raises(ModelError, match=r"checkpoint '.*missing' does not exist; check the path\."):
        checkpoint.load(tmp_path / "missing")
    with pytest.raises(ModelError, match="is not a readable cuemark checkpoint"):
        checkpoint.load(tmp_path)
    path = tmp_path / "other"
    path.write_text("a text file, longer than a header" * 10)
    with pytest.raises(ModelError, match="is not a readable cuemark checkpoint"):
        checkpoint.load(path)
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="is not a readable cuemark checkpoint"):
        checkpoint.load(path)
    for metadata in (None, {"format": "pt"}):
        save_file({"w": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(ModelError, match="other' is a safetensors file but not a cuemark checkpoint"):
            checkpoint.load(path)
    save_file({"w": torch.zeros(2)}, path, metadata={"cuemark": "{half"})
    with pytest.raises(ModelError, match="is not a readable cuemark checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize("description", ["[]", "null", "3", '"encoder"'])
def test_a_description_is_an_object(tmp_path: Path, description: str):
    save_file({"w": torch.zeros(2)}, tmp_path / "c", metadata={"cuemark": description})
    with pytest.raises(ModelError, match=r"c' is not a readable cuemark checkpoint \(its description is no object\)"):
        checkpoint.load(tmp_path / "c", "encoder")


def test_the_file_is_plain_safetensors(tmp_path: Path):
    """Eight bytes of length, a JSON header, then numbers: nothing in it can run."""
    checkpoint.save(tmp_path / "c", tensors(), META)
    content = (tmp_path / "c").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert json.loads(header["__metadata__"]["cuemark"])["classes"] == ["run", "jump"]
    assert set(header) - {"__metadata__"} == set(tensors())


# ------------------------------------------------------------------------------------- small helpers


def test_section():
    named = tensors() | {"network.x": torch.zeros(1), "net": torch.zeros(1)}
    part = checkpoint.section(named, "net")
    assert set(part) == {"weight", "turned", "shared", "scalar", "empty"}
    assert torch.equal(part["weight"], named["net.weight"])
    assert checkpoint.section(named, "absent") == {}


def test_digest_says_which_weights():
    first = checkpoint.digest(tensors())
    assert first == checkpoint.digest(dict(reversed(tensors().items())))
    assert len(first) == 16
    assert int(first, 16) >= 0
    others = []
    for change in ("value", "name", "shape", "dtype", "missing"):
        changed = tensors()
        weight = changed.pop("net.weight")
        if change == "value":
            weight = weight.clone()
            weight[0, 0] += 1
        elif change == "shape":
            weight = weight.reshape(4, 3)
        elif change == "dtype":
            weight = weight.view(torch.int32)
        if change != "missing":
            changed["net.other" if change == "name" else "net.weight"] = weight
        others.append(checkpoint.digest(changed))
    assert len({first, *others}) == 6


def test_flatten_names_the_path():
    tree = {"state": {0: {"step": torch.tensor(1.0)}, 1: {"step": torch.tensor(2.0)}}, "lr": 0.1}
    assert [(name, float(value)) for name, value in checkpoint.flatten(tree)] == [
        ("state/0/step", 1.0), ("state/1/step", 2.0)]


def test_flatten_walks_nested_dictionaries_only():
    tree = {"a": OrderedDict(b={"c": torch.tensor(1.0)}, d={}), "list": [torch.zeros(1), {"e": torch.zeros(1)}],
            "none": None, "tuple": (torch.zeros(1),)}
    assert [(name, float(value)) for name, value in checkpoint.flatten(tree)] == [("a/b/c", 1.0)]
    assert [name for name, _ in checkpoint.flatten(torch.zeros(1), "w")] == ["w"]


# ------------------------------------------------------------------------------------- other people's files


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_weights_are_read(tmp_path: Path, zipped: bool):
    path = tmp_path / "w.pth.tar"
    content = {"state_dict": OrderedDict(w=torch.arange(3.0)), "epoch": 8, "best": None, "names": ["a", ("b", 1.5)]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    loaded = checkpoint.foreign(path)
    assert torch.equal(loaded["state_dict"]["w"], torch.arange(3.0))
    assert loaded["names"] == ["a", ("b", 1.5)]
    assert loaded["epoch"] == 8


@pytest.mark.parametrize("zipped", [True, False])
def test_a_command_line_is_allowed(tmp_path: Path, zipped: bool):
    """TSP's released files hold ``args``, an argparse.Namespace."""
    path = tmp_path / "tsp.pth"
    torch.save({"model": {"w": torch.ones(2)}, "args": argparse.Namespace(backbone="r2plus1d_34", lr=[0.1, 0.2])}, path,
               _use_new_zipfile_serialization=zipped)
    loaded = checkpoint.foreign(path)
    assert loaded["args"] == argparse.Namespace(backbone="r2plus1d_34", lr=[0.1, 0.2])
    assert torch.equal(loaded["model"]["w"], torch.ones(2))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_code_is_refused_and_not_run(tmp_path: Path, zipped: bool, wrapped: bool):
    path, victim = tmp_path / "w.pth", tmp_path / "it ran"
    hostile = Hostile(victim)
    content = {"w": torch.zeros(1), "x": argparse.Namespace(a=hostile) if wrapped else hostile}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"w\.pth' cannot be read as plain weights") as error:
        checkpoint.foreign(path)
    assert "\n" not in str(error.value)
    assert not victim.exists()
    with open(path, "wb") as file:
        pickle.dump(hostile, file, protocol=2)
    with pytest.raises(ModelError):
        checkpoint.foreign(path)
    assert not victim.exists()
    with open(path, "rb") as file:
        pickle.load(file).close()  # the trap does work: an ordinary reader runs it
    assert victim.exists()


def test_a_whole_module_is_refused(tmp_path: Path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"m\.pth' .* more than tensors, plain containers and argparse\.Namespace\."):
        checkpoint.foreign(tmp_path / "m.pth")


def test_weights_are_a_dictionary(tmp_path: Path):
    torch.save([torch.zeros(1)], tmp_path / "l.pth")
    with pytest.raises(ModelError, match=r"l\.pth' holds a list, not a dictionary of weights\."):
        checkpoint.foreign(tmp_path / "l.pth")


def test_foreign_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ModelError, match=r"weights file '.*missing' does not exist; check the path\."):
        checkpoint.foreign(tmp_path / "missing")
    with pytest.raises(ModelError, match=f"weights file '{tmp_path}' does not exist"):
        checkpoint.foreign(tmp_path)  # a folder
    path = tmp_path / "w.pth"
    path.write_text("<html>404</html>")
    with pytest.raises(ModelError, match=r"w\.pth' cannot be read as plain weights"):
        checkpoint.foreign(path)


def test_a_truncated_foreign_file_is_refused(tmp_path: Path):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.randn(400)}, path)
    whole = path.read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"w\.pth' cannot be read as plain weights"):
            checkpoint.foreign(path)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_truncated_file_of_the_older_format_is_refused(tmp_path: Path, share: float):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.randn(400)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError):
        checkpoint.foreign(path)


@pytest.mark.parametrize("size", [0, 10, 40, 60, 100])
def test_a_beginning_of_a_file_of_the_older_format_is_refused(tmp_path: Path, size: int):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.randn(400)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"w\.pth' cannot be read as plain weights \(\w+\); it is damaged"):
        checkpoint.foreign(path)


def test_nobody_is_told_to_run_the_code(tmp_path: Path):
    torch.save({"x": Hostile(tmp_path / "it ran")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth' cannot be read as plain weights") as error:
        checkpoint.foreign(tmp_path / "w.pth")
    assert not any(part in str(error.value) for part in ("can still be loaded", "weights_only", "\x1b"))


def test_an_ordinary_pickle_raises_no_warning(tmp_path: Path):
    with open(tmp_path / "p.pth", "wb") as file:
        pickle.dump({"a": Hostile(tmp_path / "it ran")}, file)
    with pytest.raises(ModelError, match=r"p\.pth' cannot be read as plain weights"):
        checkpoint.foreign(tmp_path / "p.pth")
    assert not (tmp_path / "it ran").exists()
