"""A T5 of two layers that reads letter by letter, saved as transformers saves one."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

MARKS = ("<pad>", "</s>", "<unk>")


def save_t5(folder: Path, seed: int = 0, **settings: Any) -> T5EncoderModel:
    """Random weights, far enough from their initial values that every one of them matters."""
    known = {sign: i for i, sign in enumerate((*MARKS, *string.ascii_lowercase, " ", ".", ","))}
    letters = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    letters.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64,
        model_input_names=["input_ids", "attention_mask"]).save_pretrained(folder)
    shape = {"vocab_size": len(known), "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5EncoderModel(T5Config(**shape, **settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model
