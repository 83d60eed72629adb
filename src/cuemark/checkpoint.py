"""One file that loads with nothing beside it: tensors as safetensors, everything else as JSON in its header.

No pickle is ever executed: our own files hold none, and foreign ``.pth`` / ``.pth.tar`` files are read with
``weights_only=True``. Files are written to a temporary name and renamed, so a half-written one is never read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from cuemark.errors import ModelError
from cuemark.segments import replacing

_KEY = "cuemark"


def software() -> str:
    """``"cuemark 0.1.0"``: written into every checkpoint and features folder."""
    try:
        return f"cuemark {version('cuemark')}"
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "cuemark (not installed)"


def save(path: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically. The same tensors and ``meta`` always give the same bytes."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in sorted(tensors.items())}
    header = {_KEY: json.dumps({"software": software(), **meta}, sort_keys=True)}
    with replacing(path, "wb") as file:
        file.write(to_bytes(plain, metadata=header))


def load(path: str | Path, kind: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: its tensors (on the CPU) and its description.

    Args:
        kind: what it must be (``"encoder"``, ``"localizer"``, ``"training"``), or None for any.

    Raises:
        ModelError: no such file, not a cuemark checkpoint, truncated, or of another kind.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if _KEY not in header:
                raise ModelError(f"'{path}' is a safetensors file but not a cuemark checkpoint.")
            meta = json.loads(header[_KEY])
            if not isinstance(meta, dict):
                raise ValueError("its description is no object")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise ModelError(f"checkpoint '{path}' does not exist; check the path.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"'{path}' is not a readable cuemark checkpoint ({error}); was the copy complete?") from None
    if kind is not None and meta.get("kind") != kind:
        raise ModelError(f"'{path}' is of kind '{meta.get('kind')}', but a checkpoint of kind '{kind}' is needed here.")
    return tensors, meta


def kind_of(path: str | Path) -> str | None:
    """What :func:`load` would read, from the file's first bytes; None: nothing."""
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get(_KEY, "null"))
    except (SafetensorError, OSError, ValueError):
        return None
    return str(meta.get("kind")) if isinstance(meta, dict) else None


def section(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under ``prefix.``, without it."""
    return {k[len(prefix) + 1:]: v for k, v in tensors.items() if k.startswith(prefix + ".")}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of the sha256 over names, shapes and bytes: says which weights made a features folder."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def flatten(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested dictionaries (an optimiser's state), each under its path."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flatten(value, f"{name}/{key}" if name else str(key))


def foreign(path: str | Path) -> dict[str, Any]:
    """Read someone else's ``.pth`` without executing anything in it.

    ``argparse.Namespace`` is the one class allowed beside tensors and plain containers: TSP's released files
    carry their command line in one.

    Raises:
        ModelError: no such file, or one that holds anything else.
    """
    if not Path(path).is_file():
        raise ModelError(f"weights file '{path}' does not exist; check the path.")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's readers make of bytes that are not theirs
        raise ModelError(f"'{path}' cannot be read as plain weights ({type(error).__name__}); it is damaged, or holds "
                         "more than tensors, plain containers and argparse.Namespace.") from None
    if not isinstance(content, dict):
        raise ModelError(f"'{path}' holds a {type(content).__name__}, not a dictionary of weights.")
    return content
