"""Objectives that teach a video encoder. Each is a module with ``forward``, ``loss`` and ``.encoder``."""

from __future__ import annotations

from types import ModuleType

from cuemark.pretraining import clap, tac, tsp

OBJECTIVES: dict[str, tuple[type[tac.TAC] | type[tsp.TSP] | type[clap.CLAP], ModuleType]] = {
    "tac": (tac.TAC, tac),
    "tsp": (tsp.TSP, tsp),
    "clap": (clap.CLAP, clap),
}
"""Name -> the objective, and its module, whose ``Config`` holds the options."""
