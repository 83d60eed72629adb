"""Typed settings from files and command lines: nested dictionaries to dataclasses, every fault named.

:func:`build` checks whatever comes out of a TOML recipe, a checkpoint's header or ``--set section.field=value`` against
our configuration dataclasses. Types are pydantic's business; names that are no field, which it lets pass on plain
dataclasses, are ours.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cuemark.errors import CallError, DataError, unknown

T = TypeVar("T")


def build(kind: type[T], data: Mapping[str, Any], where: str, path: str = "") -> T:
    """An instance of the dataclass ``kind`` from ``data``.

    Args:
        where: the file, for messages.
        path: the section inside it, for messages.

    Raises:
        CallError: a name that is no field (it answers with the known ones).
        DataError: a value of the wrong type, or a field that is missing.
    """
    for name, known in _strangers(kind, data, path):
        raise CallError(f"{where}: {unknown('setting', name, known)}")
    try:
        # through JSON, strictly: true is no number, "3" is no number, and a list is a tuple
        return TypeAdapter(kind).validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in (path, *first["loc"]) if part != "")
        if first["type"] == "missing":
            raise DataError(f"{where}: '{at}' is missing; add it.") from None
        shown = "" if isinstance(first["input"], Mapping) else f" {first['input']!r}"
        raise DataError(f"{where}: {at}{shown} is wrong: {first['msg'].lower()}.") from None


def _strangers(kind: Any, data: Mapping[str, Any], path: str) -> Iterator[tuple[str, list[str]]]:
    """Names in ``data`` that are no field of the dataclass, at any depth, each with the names that are."""
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind) if f.init]
    for name, value in data.items():
        at = f"{path}.{name}" if path else name
        if name not in known:
            yield at, [f"{path}.{k}" if path else k for k in known]
        elif isinstance(value, Mapping):
            inner = [a for a in (hints[name], *typing.get_args(hints[name])) if dataclasses.is_dataclass(a)]
            if inner:
                yield from _strangers(inner[0], value, at)


def override(data: dict[str, Any], assignment: str) -> None:
    """Apply ``section.field=value`` to nested dictionaries, in place; :func:`build` checks it afterwards.

    The value is read as TOML (``200``, ``true``, ``[0.5, 0.75]``), and as plain text where it is none. Without a value
    (``data.features=``) the field is taken out: it has its default.

    Raises:
        CallError: it is not of that form.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not all(part.strip() for part in path.split(".")):
        raise CallError(f"'{assignment}' is not a setting; write section.field=value, such as optim.steps=200.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, name = (part.strip() for part in path.split("."))
    for part in sections:
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            raise CallError(f"'{part}' in '{assignment}' is a value, not a section.")
        data = inner
    if text.strip():
        data[name] = value
    else:
        data.pop(name, None)
