"""T5's encoder as a text tower: what it says, what it learns, what a checkpoint holds of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny_t5 import save_t5

from cuemark import checkpoint
from cuemark.batch import Sentences
from cuemark.encoders.t5 import Config, T5Tower
from cuemark.errors import CallError
from cuemark.text import TextEncoder

SAID = ["a person jumps", "run", "a photo of a long jump."]


@pytest.fixture(scope="module", params=["relu", "gated-gelu"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder: Path = tmp_path_factory.mktemp(request.param)
    save_t5(folder, feed_forward_proj=request.param)
    return TextEncoder.load(folder)


def fed(reader: TextEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    """``(Q, W)`` ids and where there are any."""
    ids = Sentences.collate([ids[:, None] for ids in reader.tokens(SAID)])
    return ids.words[..., 0], ids.mask


@torch.no_grad()
def test_it_says_what_the_frozen_one_says_whatever_is_behind_the_end(reader):
    tower = T5Tower.like(reader.model)
    tokens, mask = fed(reader)
    assert not mask.all()
    frozen = Sentences.collate(reader.words(SAID))
    said = tower(tokens, mask)
    assert said.shape == (3, tokens.shape[1], tower.dim) == (*mask.shape, 24)
    torch.testing.assert_close(said[mask], frozen.words[mask], atol=1e-5, rtol=0)
    other = tower(torch.where(mask, tokens, 7), mask)
    assert torch.equal(other[mask], said[mask])
    assert not torch.allclose(tower(tokens, torch.ones_like(mask))[mask], said[mask], atol=1e-2)  # it sees all around


def test_it_learns_and_the_frozen_one_stays(reader):
    tower, before = T5Tower.like(reader.model), {k: v.clone() for k, v in reader.model.state_dict().items()}
    optimiser = torch.optim.SGD(tower.parameters(), lr=0.1)
    tower(*fed(reader)).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in tower.parameters())
    optimiser.step()
    assert all(torch.equal(v, before[k]) for k, v in reader.model.state_dict().items())
    assert not any(p.requires_grad for p in reader.model.parameters())


def test_activations_are_computed_again_with_the_same_draws(reader):
    tower = T5Tower.like(reader.model).train()
    assert tower.config.dropout_rate == 0.1
    gradients, kept = [], []
    for tower.recompute in (False, True):
        count = [0]

        def pack(tensor: torch.Tensor, count: list[int] = count) -> torch.Tensor:
            count[0] += 1
            return tensor

        torch.manual_seed(0)
        tower.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            said = tower(*fed(reader)).square().mean()
        kept.append(count[0])
        said.backward()
        gradients.append({name: p.grad.clone() for name, p in tower.named_parameters()})
    assert kept[1] < kept[0] / 5
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


def test_every_weight_is_saved_once_and_the_shape_is_plain_numbers(reader, tmp_path):
    tower = T5Tower.like(reader.model)
    state = tower.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    checkpoint.save(tmp_path / "tower.safetensors", state, {"kind": "weights", "shape": asdict(tower.config)})
    tensors, told = checkpoint.load(tmp_path / "tower.safetensors")
    again = T5Tower(Config(**told["shape"])).eval()
    again.load_state_dict(tensors)
    with torch.no_grad():
        assert torch.equal(again(*fed(reader)), tower(*fed(reader)))


def test_it_computes_in_bf16_under_autocast(reader):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.isfinite(T5Tower.like(reader.model)(*fed(reader))).all()


def test_numbers_that_make_no_network():
    with pytest.raises(CallError, match="num_layers must be a number at least 1"):
        Config(num_layers=0)


def test_sizes_are_t5s_own():
    """Google's t5-small and t5-base, and their versions 1.1: encoders, with the embedding."""
    wide = {"d_model": 768, "num_layers": 12, "num_heads": 12}
    gated = {"feed_forward_proj": "gated-gelu"}
    with torch.device("meta"):
        counts = [sum(p.numel() for p in T5Tower(Config(**shape)).parameters()) for shape in (
            {}, {**wide, "d_ff": 3072}, {**gated, "num_layers": 8, "num_heads": 6, "d_ff": 1024},
            {**wide, **gated, "d_ff": 2048})]
    assert counts == [35_330_816, 109_628_544, 35_332_800, 109_628_544]
