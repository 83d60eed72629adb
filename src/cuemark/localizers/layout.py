"""Checkpoints of the papers' own code: weights taken by the names that they have there.

A localizer's file ends with ``released``, which says where each of its weights is in such a checkpoint. Every name must
be there, and none may be left over: a network of another shape would answer, and be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cuemark.errors import ModelError

_KEYS = ("state_dict_ema", "state_dict", "model_state_dict", "model")
"""Where a release keeps its weights; the averaged ones first, which are what it evaluates."""
_BESIDE = ("reg_stats",)
"""What a release keeps beside its weights and its network needs: P-GCN's mean and deviation of regression targets."""
_ELSE = "it seems to be one of another localizer, or of a variant that is not known here"


class Layout:
    """The weights of a released checkpoint, each to be taken once.

    Args:
        state: the weights by name; ``module.``, which DataParallel puts in front, is no part of a name.
        whose: the localizer, for errors.
    """

    def __init__(self, state: Mapping[str, Tensor], whose: str) -> None:
        self.whose = whose
        self._left = {name.removeprefix("module."): tensor for name, tensor in state.items()}

    def take(self, name: str, dims: int | None = None) -> Tensor:
        """The weights of that name.

        Args:
            dims: how many dimensions they have.

        Raises:
            ModelError: there are none, or they have another number of dimensions.
        """
        if name not in self._left:
            raise ModelError(f"the checkpoint has no '{name}', which {self.whose}'s released ones have; {_ELSE}.")
        tensor = self._left.pop(name)
        if dims is not None and tensor.ndim != dims:
            raise ModelError(f"'{name}' in the checkpoint has shape {tuple(tensor.shape)}, but {dims} dimensions in "
                             f"{self.whose}'s released ones; {_ELSE}.")
        return tensor

    def pair(self, theirs: str, ours: str) -> dict[str, Tensor]:
        """Weight and bias of a layer, as they are.

        Raises:
            ModelError: see :meth:`take`.
        """
        return {f"{ours}.{part}": self.take(f"{theirs}.{part}") for part in ("weight", "bias")}

    def flat(self, theirs: str, ours: str) -> dict[str, Tensor]:
        """Weight and bias of a 1x1 convolution ``(O, C, 1 …)`` as those of a linear layer ``(O, C)``.

        Raises:
            ModelError: see :meth:`take`; the kernel is larger.
        """
        found = self.pair(theirs, ours)
        weight = found[f"{ours}.weight"]
        if weight.ndim < 2 or weight[0, 0].numel() != 1:
            raise ModelError(f"'{theirs}.weight' in the checkpoint has shape {tuple(weight.shape)}, but is a 1x1 "
                             f"convolution in {self.whose}'s released ones; {_ELSE}.")
        return {**found, f"{ours}.weight": weight.flatten(1)}

    def count(self, name: str) -> int:
        """How many of a row of layers there are: ``name`` with ``{}`` for 0, 1, 2 …."""
        found = 0
        while name.format(found) in self._left:
            found += 1
        return found

    def end(self) -> None:
        """Refuse what is left.

        Raises:
            ModelError: naming one.
        """
        if self._left:
            raise ModelError(f"the checkpoint has '{min(self._left)}', which {self.whose}'s released ones have not "
                             f"({len(self._left)} of that kind); {_ELSE}.")


def weights_in(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in the content of a released file: its averaged ones where it has any.

    Raises:
        ModelError: there are none.
    """
    found: Any = next((content[key] for key in _KEYS if isinstance(content.get(key), Mapping)), content)
    weights = {str(name): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    if len(weights) != len(found) or not weights:
        raise ModelError(f"the file holds no weights by name, neither as a whole nor under {', '.join(_KEYS)}.")
    beside = {} if found is content else {name: torch.as_tensor(content[name]) for name in _BESIDE if name in content}
    return weights | beside
