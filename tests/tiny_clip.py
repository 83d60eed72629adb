"""A CLIP of two layers a tower, saved as transformers saves one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz.,"
MERGES = [("r", "u"), ("ru", "n</w>"), ("o", "f</w>"), ("j", "u"), ("m", "p</w>"), ("ju", "mp</w>")]


def vocabulary() -> dict[str, int]:
    """As CLIP's: letters, letters that end a word, merges, and the two marks last."""
    parts = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *(a + b for a, b in MERGES),
             "<|startoftext|>", "<|endoftext|>"]
    return {part: i for i, part in enumerate(parts)}


def save_clip(folder: Path, seed: int = 0, activation: str = "quick_gelu", old_eos: bool = False,
              **vision: Any) -> CLIPModel:
    """Random weights, far enough from their initial values that every one of them matters."""
    words = vocabulary()
    eos = words["<|endoftext|>"]
    CLIPTokenizer(vocab=words, merges=MERGES, model_max_length=24).save_pretrained(folder)
    text = {"vocab_size": len(words), "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 24, "hidden_act": activation,
            "bos_token_id": eos - 1, "eos_token_id": 2 if old_eos else eos, "pad_token_id": eos}
    pictures = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                "image_size": 32, "patch_size": 16, "hidden_act": activation, **vision}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=pictures, projection_dim=20)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model
