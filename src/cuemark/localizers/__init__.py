"""Features to segments: one localizer per file, each with its own ``Config``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from cuemark.errors import unknown
from cuemark.localizers import actionformer, bmn, gtad, pgcn, qat, tan2d, unloc
from cuemark.localizers.actionformer import ActionFormer
from cuemark.localizers.bmn import BMN
from cuemark.localizers.gtad import GTAD
from cuemark.localizers.pgcn import PGCN
from cuemark.localizers.qat import QAT
from cuemark.localizers.tan2d import TAN2D
from cuemark.localizers.unloc import UnLoc
from cuemark.settings import build as settings

LOCALIZERS: dict[str, type[ActionFormer] | type[BMN] | type[GTAD] | type[PGCN] | type[QAT] | type[TAN2D] | type[UnLoc]
                 ] = {
    "actionformer": ActionFormer, "bmn": BMN, "gtad": GTAD, "pgcn": PGCN, "qat": QAT, "tan2d": TAN2D, "unloc": UnLoc}
"""File name -> class, made as ``GTAD(GTAD.config_type(…), dim, classes)``."""
RELEASED: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "actionformer": actionformer.released, "bmn": bmn.released, "gtad": gtad.released,
    "pgcn": pgcn.released, "qat": qat.released, "tan2d": tan2d.released, "unloc": unloc.released}
"""File name -> what makes the weights in the papers' own checkpoints ours."""


def build(name: str, config: Mapping[str, Any], dim: int, classes: Sequence[str]
          ) -> ActionFormer | BMN | GTAD | PGCN | QAT | TAN2D | UnLoc:
    """A localizer by name, with the paper's settings except those given.

    Args:
        name: a key of :data:`LOCALIZERS`.
        config: settings of its ``Config`` that differ from the defaults; or from those of a ``"variant"``, another
            dataset's settings (``{"variant": "thumos", "keep": 100}`` for those of ``Config.thumos()``).
        dim: width of the features.
        classes: the labels it can name.

    Raises:
        CallError: an unknown localizer or setting (the known ones are listed), or an impossible value.
        DataError: a value of the wrong type.
    """
    if name not in LOCALIZERS:
        raise unknown("localizer", name, LOCALIZERS)
    make = LOCALIZERS[name]
    chosen = dict(config)
    if (variant := chosen.pop("variant", None)) is not None:
        known = variants(name)
        if variant not in known:
            raise unknown(f"variant of localizer '{name}'", str(variant), known)
        chosen = asdict(getattr(make.config_type, variant)()) | chosen
    made: Any = settings(make.config_type, chosen, f"localizer '{name}'", "options")  # its own kind of Config
    return make(made, dim, classes)


def variants(name: str) -> list[str]:
    """The other settings that a localizer was released with: the class methods of its ``Config``."""
    return [made for made, method in vars(LOCALIZERS[name].config_type).items() if isinstance(method, classmethod)]
