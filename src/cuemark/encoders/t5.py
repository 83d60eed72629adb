"""T5's encoder as a text tower that is trained: tokens to a vector of each.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (JMLR 2020); beside
CLIP's image tower in UnLoc (Yan et al., ICCV 2023, section 4.2 and table 2)::

    tokens (Q, W), mask -> embeddings (Q, W, d) -> blocks that see all tokens, and how far apart they are -> (Q, W, d)

The network is transformers', without the decoder and with its embedding once, so that a checkpoint holds every weight
once. In training it drops out what T5's own description says (0.1 in Google's); UnLoc's paper does not say.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from cuemark.errors import within


@dataclass(frozen=True)
class Config:
    """T5's encoder, under transformers' names; the defaults are T5-S's.

    Raises:
        CallError: numbers that make no network.
    """

    kind: Literal["t5"] = "t5"
    """Tells it from a CLIP's in a checkpoint."""
    vocab_size: int = 32128
    d_model: int = 512
    """Width of a token, before and after."""
    num_layers: int = 6
    num_heads: int = 8
    d_kv: int = 64
    """Width of a head."""
    d_ff: int = 2048
    """Width inside a block's perceptron."""
    feed_forward_proj: str = "relu"
    """That perceptron: ``"relu"``, or ``"gated-gelu"`` (T5 v1.1)."""
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.1
    """In training."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "num_layers", "num_heads", "d_kv", "d_ff"):
            within(name, getattr(self, name), 1)

    @classmethod
    def of(cls, told: Any) -> Config:
        """From transformers' ``T5Config``."""
        return cls(**{f.name: getattr(told, f.name) for f in fields(cls) if f.name != "kind"})


class T5Tower(nn.Module):
    """What :class:`cuemark.text.TextEncoder` reads with a T5, to be trained; random until weights are loaded."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        from transformers import T5Config, T5EncoderModel  # a second to import: only who needs it pays

        self.config = config
        self.dim = config.d_model
        shape = asdict(config)
        del shape["kind"]
        self.stack = T5EncoderModel(T5Config(**shape)).encoder
        self.recompute = False
        """Whether it keeps no activations but computes them again in the backward pass."""

    @classmethod
    def like(cls, model: Any) -> T5Tower:
        """A copy of the encoder of a ``T5EncoderModel``, in evaluation."""
        tower = cls(Config.of(model.config))
        tower.stack.load_state_dict(model.encoder.state_dict())
        return tower.eval()

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """``(Q, W)`` int64 and bool to ``(Q, W, dim)``; what is said where ``mask`` is False means nothing."""
        if self.recompute and torch.is_grad_enabled():
            found: Tensor = recomputed(self._states, tokens, mask, use_reentrant=False)
            return found
        return self._states(tokens, mask)

    def _states(self, tokens: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.stack(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return states
