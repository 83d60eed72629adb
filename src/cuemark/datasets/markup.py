"""XML files: read without what could blow up, written whole."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from cuemark.datasets.rows import read_text
from cuemark.errors import DataError
from cuemark.segments import replacing

_DECLARED = re.compile(r"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def parse_xml(text: str) -> ElementTree.Element:
    """The root of a document.

    Raises:
        ValueError: it declares a document type or an entity, which could stand for gigabytes.
        ElementTree.ParseError: it is not well formed.
    """
    if _DECLARED.search(text):
        raise ValueError("declares a document type or an entity")
    return ElementTree.fromstring(text)


def read_xml(path: Path, what: str, root: str, bare: bool = False) -> ElementTree.Element:
    """The root of a file.

    Args:
        bare: pass over a document type that only names the root.

    Raises:
        DataError: not well formed, another root, or a document type or entity.
    """
    text = read_text(path, what)
    if bare:
        text = re.sub(rf"<!DOCTYPE\s+{root}\s*>", "", text, count=1)
    try:
        element = parse_xml(text)
    except ElementTree.ParseError as error:
        line, column = error.position
        raise DataError(f"'{path}' is not valid XML at line {line}, column {column + 1}; expected a file of {what}."
                        ) from None
    except ValueError as error:
        raise DataError(f"'{path}' {error}, which no file of {what} needs; remove the declaration.") from None
    if element.tag != root:
        raise DataError(f"'{path}' is no file of {what}: its root is <{str(element.tag)[:40]}>, expected <{root}>.")
    return element


def write_xml(path: Path, root: ElementTree.Element) -> None:
    """Write a file atomically."""
    ElementTree.indent(root)
    with replacing(path, "wb") as file:
        file.write(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def xml_text(text: str, where: str) -> str:
    """The same text.

    Raises:
        DataError: it has a character that XML cannot hold.
    """
    if found := _NOT_XML.search(text):
        raise DataError(f"{where}: {text[:60]!r} has the character {found[0]!r}, which XML cannot hold; remove it.")
    return text
