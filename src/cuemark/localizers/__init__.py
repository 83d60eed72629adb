"""Features to segments: one localizer per file, each with its own ``Config``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cuemark.errors import unknown
from cuemark.localizers.actionformer import ActionFormer
from cuemark.localizers.bmn import BMN
from cuemark.localizers.gtad import GTAD
from cuemark.settings import build as settings

LOCALIZERS: dict[str, type[ActionFormer] | type[BMN] | type[GTAD]] = {
    "actionformer": ActionFormer, "bmn": BMN, "gtad": GTAD}
"""File name -> class, made as ``GTAD(GTAD.config_type(…), dim, classes)``."""


def build(name: str, config: Mapping[str, Any], dim: int, classes: Sequence[str]) -> ActionFormer | BMN | GTAD:
    """A localizer by name, with the paper's settings except those given.

    Args:
        name: a key of :data:`LOCALIZERS`.
        config: settings of its ``Config`` that differ from the defaults.
        dim: width of the features.
        classes: the labels it can name.

    Raises:
        CallError: an unknown localizer or setting (the known ones are listed), or an impossible value.
        DataError: a value of the wrong type.
    """
    if name not in LOCALIZERS:
        raise unknown("localizer", name, LOCALIZERS)
    make = LOCALIZERS[name]
    made: Any = settings(make.config_type, config, f"localizer '{name}'", "options")  # its own kind of Config
    return make(made, dim, classes)
