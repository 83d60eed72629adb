"""CLIP's towers: against transformers', against a slow re-derivation, as encoders of videos, and to be trained."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_encoder
from tiny_clip import save_clip
from transformers import CLIPModel

from cuemark import checkpoint, video
from cuemark.clips import ClipConfig
from cuemark.encoders import backends, clip, weights
from cuemark.encoders.clip import Config, Folder, Frames, ImageTower, TextConfig, TextTower, image_tower, text_tower
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, ModelError
from cuemark.extraction import ExtractConfig, extract, features_of
from cuemark.feature_folder import FeatureFolder
from cuemark.text import TextEncoder

FRAMES = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (2, 3, 3, 32, 32)).astype(np.float32))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CLIPModel]:
    folder = tmp_path_factory.mktemp("clip")
    return folder, save_clip(folder)


@pytest.fixture
def folder(saved: tuple[Path, CLIPModel]) -> Folder:
    return Folder.read(saved[0])


# ---------------------------------------------------------------------------------------------- slowly


def slow_norm(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean()
    return centred / math.sqrt((centred**2).mean() + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]


def slow_blocks(tokens: list[np.ndarray], state: dict[str, np.ndarray], side: str, heads: int, causal: bool
                ) -> list[np.ndarray]:
    """Two blocks, token by token and head by head, in float64."""
    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return state[f"{name}.weight"] @ x + state[f"{name}.bias"]

    for i in range(2):
        at = f"{side}.encoder.layers.{i}"
        seen = [slow_norm(x, state, f"{at}.layer_norm1") for x in tokens]
        query, key, value = ([linear(x, f"{at}.self_attn.{part}_proj") for x in seen] for part in "qkv")
        wide = len(tokens[0]) // heads
        after = []
        for t, x in enumerate(tokens):
            found = np.zeros_like(x)
            for h in range(heads):
                own = slice(h * wide, (h + 1) * wide)
                others = range(t + 1) if causal else range(len(tokens))
                logits = np.array([query[t][own] @ key[s][own] / math.sqrt(wide) for s in others])
                share = np.exp(logits) / np.exp(logits).sum()
                found[own] = sum(p * value[s][own] for p, s in zip(share, others))
            x = x + linear(found, f"{at}.self_attn.out_proj")
            inner = linear(slow_norm(x, state, f"{at}.layer_norm2"), f"{at}.mlp.fc1")
            after.append(x + linear(inner / (1 + np.exp(-1.702 * inner)), f"{at}.mlp.fc2"))  # quick GELU
        tokens = after
    return tokens


def slow_feature(frame: np.ndarray, state: dict[str, np.ndarray], first: np.ndarray | None) -> np.ndarray:
    """A ``(3, 32, 32)`` frame to its feature; ``first`` is the token before the patches, None without one."""
    at = "vision_model.embeddings"
    position = state[f"{at}.position_embedding.weight"]
    tokens = [] if first is None else [first + position[0]]
    for i, (y, x) in enumerate([(0, 0), (0, 16), (16, 0), (16, 16)]):
        patch = frame[:, y : y + 16, x : x + 16]
        seen = np.array([(kernel * patch).sum() for kernel in state[f"{at}.patch_embedding.weight"]])
        tokens.append(seen + position[1 + i])
    tokens = [slow_norm(x, state, "vision_model.pre_layrnorm") for x in tokens]
    tokens = slow_blocks(tokens, state, "vision_model", 4, causal=False)
    normed = [slow_norm(x, state, "vision_model.post_layernorm") for x in tokens]
    return np.mean(normed, axis=0) if first is None else normed[0]


@pytest.fixture
def state(folder: Folder) -> dict[str, np.ndarray]:
    return {k: v.double().numpy() for k, v in folder.weights.items()}


@pytest.mark.parametrize("pooling", ["cls", "frame", "gap"])
def test_features_are_the_slow_ones(folder, state, pooling):
    tower = image_tower(folder, pooling, 3 if pooling == "frame" else 0)
    own = state["vision_model.embeddings.class_embedding"]
    firsts = [None if pooling == "gap" else own] * 3
    if pooling == "frame":
        tower.cls.data += torch.randn(3, 32)
        firsts = list(tower.cls.detach().double().numpy())
    with torch.no_grad():
        found = tower.frames(FRAMES)
    assert found.shape == (2, 3, 32)
    for row in range(2):
        for t in range(3):
            expected = slow_feature(FRAMES[row, t].double().numpy(), state, firsts[t])
            np.testing.assert_allclose(found[row, t].numpy(), expected, atol=1e-5)


def test_words_are_the_slow_ones(folder, state):
    tower = text_tower(folder)
    tokens = torch.tensor([[62, 3, 30, 56, 63], [62, 40, 63, 9, 9]])
    with torch.no_grad():
        found = tower(tokens)
    for row, count in ((0, 5), (1, 3)):
        at = "text_model.embeddings"
        slow = [state[f"{at}.token_embedding.weight"][i] + state[f"{at}.position_embedding.weight"][t]
                for t, i in enumerate(tokens[row, :count].tolist())]
        slow = slow_blocks(slow, state, "text_model", 2, causal=True)
        slow = [state["text_projection.weight"] @ slow_norm(x, state, "text_model.final_layer_norm") for x in slow]
        np.testing.assert_allclose(found[row, :count].numpy(), np.stack(slow), atol=1e-5)


# ---------------------------------------------------------------------------------------------- transformers


@torch.no_grad()
def test_the_image_tower_is_that_of_transformers(saved, folder):
    expected = saved[1].vision_model(FRAMES.flatten(0, 1)).pooler_output.view(2, 3, -1)
    torch.testing.assert_close(image_tower(folder).frames(FRAMES), expected, atol=1e-5, rtol=0)
    # a token for each frame begins as the same for all
    torch.testing.assert_close(image_tower(folder, "frame", 3).frames(FRAMES), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_mean_of_patches_needs_neither_token_nor_its_position(saved, folder):
    own = saved[1].vision_model
    patches = own.embeddings.patch_embedding(FRAMES.flatten(0, 1)).flatten(2).transpose(1, 2)
    hidden = own.pre_layrnorm(patches + own.embeddings.position_embedding.weight[1:])
    expected = own.post_layernorm(own.encoder(inputs_embeds=hidden).last_hidden_state).mean(1).view(2, 3, -1)
    tower = image_tower(folder, "gap")
    torch.testing.assert_close(tower.frames(FRAMES), expected, atol=1e-5, rtol=0)
    assert tower.cls is None
    assert tower.position.shape == (4, 32)


@torch.no_grad()
def test_the_text_tower_is_that_of_transformers_whatever_is_behind_the_end(saved, folder):
    tokens = torch.tensor([[62, 3, 30, 56, 63]])
    out = saved[1].text_model(tokens)
    expected = saved[1].text_projection(out.last_hidden_state)
    tower = text_tower(folder)
    torch.testing.assert_close(tower(tokens), expected, atol=1e-5, rtol=0)
    for behind in (0, 63, 7):
        padded = F.pad(tokens, (0, 3), value=behind)
        torch.testing.assert_close(tower(padded, padded > 0)[:, :5], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(tower(tokens)[:, -1], saved[1].text_projection(out.pooler_output), atol=1e-5, rtol=0)


@torch.no_grad()
def test_images_and_texts_meet_where_clip_compares_them(saved):
    encoder = weights.load(saved[0])
    reader = TextEncoder.load(saved[0])
    sentences = ["a person jumps", "run of"]
    rows = encoder.network.frames(FRAMES)[0]
    seen = F.normalize(rows @ encoder.extra["projection"].T, dim=1)
    said = F.normalize(reader.encode(sentences), dim=1)
    ids = torch.nn.utils.rnn.pad_sequence(reader.tokens(sentences), batch_first=True, padding_value=63)
    expected = saved[1](input_ids=ids, pixel_values=FRAMES[0]).logits_per_image
    torch.testing.assert_close(encoder.extra["log_scale"].exp() * seen @ said.T, expected, atol=1e-4, rtol=0)
    assert encoder.made["text"] == str(saved[0])


def test_sizes_are_clips_own():
    def count(*towers: torch.nn.Module) -> int:
        return sum(p.numel() for tower in towers for p in tower.parameters())

    with torch.device("meta"):
        base = count(ImageTower(Config()), TextTower(TextConfig()))
        assert base + 768 * 512 + 1 == 149_620_737  # and the projection of images, and the temperature
        large = count(ImageTower(Config(patch=14, width=1024, layers=24, heads=16, hidden=4096)),
                      TextTower(TextConfig(width=768, heads=12, hidden=3072, dim=768)))
        assert large + 1024 * 768 + 1 == 427_616_513
        assert count(ImageTower(Config(pooling="frame", frames=128))) - count(ImageTower(Config())) == 127 * 768
        assert count(ImageTower(Config())) - count(ImageTower(Config(pooling="gap"))) == 2 * 768


# ---------------------------------------------------------------------------------------------- frames' tokens


@torch.no_grad()
def test_a_frames_token_is_its_own(folder):
    tower = image_tower(folder, "frame", 3)
    before = tower.frames(FRAMES)
    tower.cls[1] += torch.randn(32)
    moved = (tower.frames(FRAMES) - before).abs().amax((0, 2))
    assert moved[1] > 0.01
    assert moved[[0, 2]].max() == 0


def slow_interpolation(tokens: np.ndarray, count: int) -> np.ndarray:
    found = []
    for i in range(count):
        at = min(max((i + 0.5) * len(tokens) / count - 0.5, 0), len(tokens) - 1)
        low = int(at)
        high = min(low + 1, len(tokens) - 1)
        found.append(tokens[low] * (1 - at + low) + tokens[high] * (at - low))
    return np.stack(found)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@torch.no_grad()
def test_tokens_are_interpolated_to_another_number_of_frames(folder, count):
    tower = image_tower(folder, "frame", 3)
    tower.cls += torch.randn(3, 32)
    expected = slow_interpolation(tower.cls.numpy(), count)
    other = clip.refitted(tower, count)
    assert other.config.frames == count
    np.testing.assert_allclose(other.cls.numpy(), expected, atol=1e-6)
    if count > 3:  # more than it has tokens for
        frames = torch.randn(1, count, 3, 32, 32)
        torch.testing.assert_close(tower.frames(frames), other.frames(frames))


@torch.no_grad()
def test_a_short_row_has_the_first_tokens_whoever_is_beside_it(folder):
    tower = image_tower(folder, "frame", 3)
    tower.cls += torch.randn(3, 32)
    row = torch.randn(1, 2, 3, 32, 32)
    filled = torch.cat([row, torch.zeros(1, 1, 3, 32, 32)], dim=1)
    torch.testing.assert_close(tower.frames(row), tower.frames(filled)[:, :2])


@torch.no_grad()
def test_a_plain_tower_becomes_one_with_tokens_of_frames(folder):
    plain = image_tower(folder)
    torch.testing.assert_close(clip.refitted(plain, 3).frames(FRAMES), plain.frames(FRAMES))
    with pytest.raises(CallError, match="has no token that frames could begin with"):
        clip.refitted(image_tower(folder, "gap"), 5)


# ---------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("pooling", ["cls", "frame", "gap"])
def test_every_parameter_learns_and_memory_can_be_saved(folder, pooling):
    found = []
    for recompute in (False, True):
        tower = image_tower(folder, pooling, 3 if pooling == "frame" else 0).train()
        tower.recompute = recompute
        tower.frames(FRAMES).square().sum().backward()
        # what is added to all keys alike changes no softmax
        assert all(p.grad.abs().max() > 0 for name, p in tower.named_parameters() if not name.endswith("key.bias"))
        found.append({name: p.grad for name, p in tower.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-5)


def test_the_text_tower_learns(folder):
    tower = text_tower(folder)
    tower(torch.tensor([[62, 3, 63]])).square().sum().backward()
    assert all(p.grad is not None for p in tower.parameters())
    assert tower.token.weight.grad[[62, 3, 63]].abs().amax(1).min() > 0
    assert tower.token.weight.grad[5].abs().max() == 0


def test_frames_are_taken_as_they_are_decoded(folder):
    pixels = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    inside = Frames(image_tower(folder))
    mean, std = torch.tensor(clip.MEAN).view(3, 1, 1), torch.tensor(clip.STD).view(3, 1, 1)
    scaled = (pixels / 255 - mean) / std
    torch.testing.assert_close(inside(pixels), inside.tower.frames(scaled), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(inside(scaled), inside.tower.frames(scaled))
    assert inside(pixels).requires_grad
    expected = inside(pixels)
    assert not inside.frozen()(pixels).requires_grad
    torch.testing.assert_close(inside(pixels), expected)  # row by row
    assert [name for name, _ in inside.named_buffers()] == ["mean", "std"]
    assert not any(name in ("mean", "std") for name in inside.state_dict())
    with pytest.raises(ValueError, match="frames of shape"):
        inside(pixels[..., :16])


def test_towers_compute_in_bf16_under_autocast(folder):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        seen = image_tower(folder, "frame", 3)(FRAMES.transpose(1, 2))
        said = text_tower(folder)(torch.tensor([[62, 3, 63]]))
    assert seen.dtype == torch.float32
    assert torch.isfinite(said).all()


# ---------------------------------------------------------------------------------------------- an encoder of videos


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    rng = np.random.default_rng(1)
    shades = rng.integers(0, 256, (12, 4, 6, 3), dtype=np.uint8)
    video.write(path, (shade.repeat(12, 0).repeat(12, 1) for shade in shades), fps=6)
    return path


def test_a_video_is_one_feature_a_frame(saved, film, tmp_path):
    encoder = weights.load(f"clip:{saved[0]}")
    assert encoder.clip == ClipConfig(frames=1, fps=2.0, short_side=32, crop=32, mean=clip.MEAN, std=clip.STD)
    assert encoder.dim == 32
    found, padded = features_of(film, encoder, workers=1)
    assert (found.grid.count, found.grid.step, padded) == (4, 0.5, False)
    frames = video.frames_at(film, [0, 0.5, 1, 1.5], (32, 48))[:, :, 8:40]
    scaled = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - torch.tensor(clip.MEAN).view(3, 1, 1))
    scaled = scaled / torch.tensor(clip.STD).view(3, 1, 1)
    with torch.no_grad():
        expected = saved[1].vision_model(scaled).pooler_output
    np.testing.assert_allclose(found.data, expected.numpy(), atol=1e-4)

    result = extract({"film": film}, encoder, tmp_path / "out", ExtractConfig(fps=6, dtype="float16"), workers=1)
    made = FeatureFolder.open(tmp_path / "out")
    assert result.done == ["film"]
    assert made["film"].data.shape == (12, 32)
    assert made["film"].data.dtype == np.float16
    assert made.meta["weights"] == encoder.weights
    assert made.meta["clip"] | {"stride": 1, "fps": 6.0, "frames": 1} == made.meta["clip"]
    np.testing.assert_allclose(made["film"].data[::3], found.data, atol=0.01)
    again = extract({"film": film}, encoder, tmp_path / "out", ExtractConfig(fps=6, dtype="float16"), workers=1)
    assert again.skipped == ["film"]  # encoded once, ever


def test_a_stride_is_one_clip_unless_it_is_told():
    resnet = make_encoder(0)
    assert ExtractConfig().step(resnet) == ExtractConfig(16).step(resnet) == 16
    assert ExtractConfig().described(resnet)["clip"]["stride"] == 16


@pytest.mark.parametrize("pooling", ["cls", "frame", "gap"])
def test_it_is_saved_and_loaded_as_any_encoder(saved, tmp_path, pooling):
    encoder = weights.clip_encoder(saved[0], pooling, 3 if pooling == "frame" else 0, short_side=36)
    encoder.save(tmp_path / "a.safetensors")
    loaded = VideoEncoder.load(tmp_path / "a.safetensors")
    assert loaded.network.config == encoder.network.config
    assert (loaded.weights, loaded.clip, loaded.name, loaded.made) == (
        encoder.weights, encoder.clip, encoder.name, encoder.made)
    assert torch.equal(loaded.extra["projection"], encoder.extra["projection"])
    assert torch.equal(loaded.network.frames(FRAMES), encoder.network.frames(FRAMES))
    assert loaded.clip.short_side == 36
    tensors, meta = checkpoint.load(tmp_path / "a.safetensors")
    del tensors["network.patch.weight"]
    checkpoint.save(tmp_path / "b.safetensors", tensors, meta)
    with pytest.raises(ModelError, match="do not fit the encoder it describes"):
        VideoEncoder.load(tmp_path / "b.safetensors")


def test_poolings_make_other_weights(saved):
    digests = {weights.load(f"{prefix}{saved[0]}").weights for prefix in ("", "clip:", "clip-gap:")}
    assert len(digests) == 2
    assert weights.load(f"clip-gap:{saved[0]}").network.config.pooling == "gap"


def test_a_tower_with_tokens_of_frames_makes_no_features(saved, film):
    encoder = weights.clip_encoder(saved[0], "frame", 4)
    with pytest.raises(CallError, match=r"token for each frame.*localize with the model"):
        features_of(film, encoder)


def test_other_backends_are_for_resnets(saved):
    with pytest.raises(CallError, match=r"'compile' computes video ResNets; use eager"):
        backends.ready(weights.load(saved[0]).network, "compile", (1, 3, 1, 32, 32))


def test_a_clip_of_several_frames_is_pooled(folder):
    tower, clips = image_tower(folder), FRAMES.transpose(1, 2)
    with torch.no_grad():
        each = tower.frames(FRAMES)
        torch.testing.assert_close(tower(clips), each.mean(1))
        torch.testing.assert_close(tower(clips, "max"), each.amax(1))


# ---------------------------------------------------------------------------------------------- names and faults


def test_openais_are_known_by_name(saved, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(saved[0]))
    for name in ("clip-b16", "clip-vit-b16", "clip:clip-b16"):
        encoder = weights.load(name)
        assert asked.pop() == "openai/clip-vit-base-patch16"
        assert encoder.made["url"] == "openai/clip-vit-base-patch16"
        assert encoder.made["licence"] == "MIT"
    assert encoder.name == "clip clip-b16"


def test_quick_gelu_is_a_matter_of_the_description(tmp_path, monkeypatch, capsys):
    save_clip(tmp_path, activation="gelu")
    encoder = weights.load(tmp_path)
    assert "computes with gelu, as its config.json says" in capsys.readouterr().err
    quick = ImageTower(Config(**{**vars(encoder.network.config), "activation": "quick_gelu"})).eval()
    quick.load_state_dict(encoder.network.state_dict())
    with torch.no_grad():
        assert (quick.frames(FRAMES) - encoder.network.frames(FRAMES)).abs().max() > 1e-3
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path))
    with pytest.raises(ModelError, match=r"'clip-l14' computes with quick_gelu, but .* says 'gelu'"):
        weights.load("clip-l14")
    told = json.loads((tmp_path / "config.json").read_text())
    told["vision_config"]["hidden_act"] = "relu"
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match=r"vision tower .* computes with 'relu'"):
        weights.load(tmp_path)


def test_the_pixels_are_normalised_as_the_folder_says(tmp_path):
    save_clip(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.3, 0.4]}')
    encoder = weights.load(tmp_path)
    assert (encoder.clip.mean, encoder.clip.std) == ((0.5, 0.5, 0.5), (0.2, 0.3, 0.4))
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5]}')
    with pytest.raises(ModelError, match="does not say image_mean of three colours"):
        weights.load(tmp_path)


def test_weights_that_are_no_safetensors_are_read_and_not_run(saved, tmp_path):
    for file in saved[0].iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(saved[1].state_dict(), tmp_path / "pytorch_model.bin")
    assert weights.load(tmp_path).weights == weights.load(saved[0]).weights
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        weights.load(tmp_path)


def test_what_is_damaged_or_no_clip_is_refused(tmp_path, tiny_text):
    save_clip(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:5000])
    with pytest.raises(ModelError, match="cannot be read"):
        weights.load(tmp_path)
    from safetensors.torch import load, save_file

    tensors = load(whole)
    del tensors["vision_model.pre_layrnorm.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks the weights 'vision_model\.pre_layrnorm\.bias'"):
        weights.load(tmp_path)
    tensors["vision_model.pre_layrnorm.bias"] = torch.zeros(5)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"do not fit its config\.json"):
        weights.load(tmp_path)
    with pytest.raises(ModelError, match="does not hold a CLIP"):
        weights.load(f"clip:{tiny_text}")


@pytest.mark.parametrize(("setting", "said"), [
    ({"pooling": "max"}, "unknown pooling"), ({"activation": "relu"}, "unknown activation"),
    ({"heads": 5}, "5 heads do not share"), ({"patch": 15}, "do not tile"), ({"pooling": "frame"}, "frames must be"),
    ({"frames": 3}, "frames must be"), ({"layers": 0}, "layers must be")])
def test_impossible_settings(setting, said):
    with pytest.raises(CallError, match=said):
        Config(**setting)
