"""Text towers inside an UnLoc, and how much of a text is read: in training, asked later, and out of a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_text import as_sentence_transformer
from tiny_clip import save_clip
from tiny_t5 import save_t5

from cuemark import checkpoint, training
from cuemark.encoders.clip import TextTower
from cuemark.encoders.t5 import T5Tower
from cuemark.errors import CallError, ModelError
from cuemark.feature_folder import FeatureFolder
from cuemark.grid import Features, Grid
from cuemark.localization import localize_features
from cuemark.localizers import build
from cuemark.localizers.classify import text_scores
from cuemark.localizers.frames import house, tower_of, towers_in
from cuemark.localizers.trained import TrainedLocalizer, described
from cuemark.localizers.unloc import POOLINGS, UnLoc
from cuemark.loop import Optim
from cuemark.nn.heads import Projection
from cuemark.recipe import Data, Encoder, Recipe
from cuemark.segments import Predictions, write_truth
from cuemark.similarity import space_of
from cuemark.text import ACTION_PROMPTS, pooling_of, words_of
from cuemark.training import LOCALIZER_FILE, pretrain, train

SMALL = {"frames": 16, "width": 20, "heads": 2, "layers": 1, "head_layers": 1, "threshold": 0.0,
         "ranges": [[0.0, 8.0], [8.0, 10000.0]]}
STILL = Optim(batch=2, steps=1, lr=0.0, lr_heads=0.0, weight_decay=0.0)
VIDEO = "testing_0000"
ASKED = ("a man runs, of jumps", "of")  # of different lengths: one is padded; T5's mean and last shortlist another
SAVE: dict[str, Callable[..., Any]] = {"clip": save_clip, "t5": save_t5}


@pytest.fixture(scope="module", params=["clip", "t5"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Its kind and its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    SAVE[request.param](folder)
    return request.param, str(folder)


@pytest.fixture
def learn(tiny_features, tiny_world, tmp_path) -> Callable[..., TrainedLocalizer]:
    """Train a small UnLoc with a text encoder, and load what was saved."""
    write_truth(tmp_path / "truth.json", tiny_world.truth)

    def run(text: str, optim: Optim = STILL, max_tokens: int | None = None, **options: Any) -> TrainedLocalizer:
        data = Data(str(tmp_path / "truth.json"), features=str(tiny_features.folder), validate=())
        out = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        train(Recipe("unloc", data, Encoder(text=text, max_tokens=max_tokens), SMALL | options, optim=optim), out)
        return TrainedLocalizer.load(out / LOCALIZER_FILE)

    return run


def untrained(features: FeatureFolder, text: str, inside: bool = False, **options: Any) -> TrainedLocalizer:
    """Of random weights, always the same, with or without a text tower."""
    reader = words_of(text, None)
    settings = SMALL | {"text_dim": reader.dim, "pooling": pooling_of(reader)} | options
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build("unloc", settings, features.dim, ["run"]).eval()
    if inside:
        network.text = tower_of(reader)
    return TrainedLocalizer(network, "unloc", described(features), text=text)


def answers(features: FeatureFolder, model: TrainedLocalizer, *classes: str) -> np.ndarray:
    """What is said of one video: rows of start, end and score."""
    found: Predictions = localize_features(features, model, [VIDEO], classes=list(classes))
    assert {s.label for s in found[VIDEO]} <= set(classes)
    return np.array([(s.start, s.end, s.score) for s in found[VIDEO]])


# ---------------------------------------------------------------------------------------------- towers


@pytest.mark.parametrize("options", [
    {"tokens": "one"}, {"tokens": "all"}, {"tokens": "one", "top": 1}, {"tokens": "all", "top": 1},
    {"tokens": "one", "fusion": "late"}, {"tokens": "all", "fusion": "late"},
], ids=lambda options: " ".join(map(str, options.values())))
def test_an_untuned_tower_inside_answers_as_frozen_reading_does(tiny_features, reader, options):
    _, text = reader
    frozen, inside = (untrained(tiny_features, text, inside, **options) for inside in (False, True))
    np.testing.assert_allclose(answers(tiny_features, inside, *ASKED), answers(tiny_features, frozen, *ASKED),
                               rtol=0, atol=1e-4)


def test_training_at_rate_0_leaves_the_tower_as_the_frozen_one(tiny_features, reader, learn):
    kind, text = reader
    frozen, inside = learn(text), learn(text, freeze_text=False)
    assert frozen.network.text is None
    assert isinstance(inside.network.text, TextTower if kind == "clip" else T5Tower)
    np.testing.assert_allclose(answers(tiny_features, inside, "run"), answers(tiny_features, frozen, "run"),
                               rtol=0, atol=1e-4)


def test_a_tuned_tower_travels_in_the_checkpoint(tiny_features, reader, learn):
    _, text = reader
    tuned = learn(text, Optim(batch=2, steps=2, lr=0.02, lr_heads=0.0, recompute=True), freeze_text=False)
    before = tower_of(words_of(text, None)).state_dict()
    after = tuned.network.text.state_dict()
    assert after.keys() == before.keys()
    assert all(not torch.equal(after[name], value) for name, value in before.items() if not name.endswith("key.bias"))
    found = answers(tiny_features, tuned, "run")
    tuned.network.text.load_state_dict(before)
    assert not np.array_equal(answers(tiny_features, tuned, "run"), found)


def test_towers_are_described_and_made_again_without_weights(reader):
    kind, text = reader
    network, other = (UnLoc(UnLoc.config_type(**SMALL), 8, ["a"]) for _ in range(2))
    network.text = tower_of(words_of(text, None))
    told = towers_in(network)
    assert (told["image"], told["text"].get("kind")) == (None, "t5" if kind == "t5" else None)
    house(other, told, "'x.safetensors'")
    assert type(other.text) is type(network.text)
    other.load_state_dict(network.state_dict())
    tokens, mask = torch.tensor([[5, 4, 1]]), torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(other.text(tokens, mask), network.text(tokens, mask))
    for wrong in ({"d_model" if kind == "t5" else "width": "wide"}, {"strange": 1}):
        with pytest.raises(ModelError, match=r"'x\.safetensors' does not describe the towers"):
            house(other, {"image": None, "text": told["text"] | wrong}, "'x.safetensors'")


def test_other_readers_are_read_frozen_only(tiny_text, tmp_path, learn):
    (tmp_path / "glove.txt").write_text("a 1.0 2.0\nrun 0.5 1.0\n")
    for text in (str(tiny_text), str(tmp_path / "glove.txt")):
        with pytest.raises(ModelError, match="neither a CLIP nor a T5, whose text towers alone can be trained"):
            learn(text, freeze_text=False, tokens="all")
    assert learn(str(tiny_text), freeze_text=False, fusion="none").network.text is None  # nothing is read


# ---------------------------------------------------------------------------------------------- pooling

POOLED = {"clip": "last", "t5": "mean", "bert": "first", "minilm": "mean"}


@pytest.fixture(scope="module", params=list(POOLED))
def pooled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_text: Path
           ) -> tuple[str, str]:
    """A kind of reader and its folder; as MiniLM, a BERT whose mean is scaled to length 1."""
    folder = tmp_path_factory.mktemp(request.param) / "reader"
    if request.param in SAVE:
        SAVE[request.param](folder)
    else:
        shutil.copytree(tiny_text, folder)
    if request.param == "minilm":
        as_sentence_transformer(folder, kinds=("Transformer", "Pooling", "Normalize"))
    return request.param, str(folder)


def test_training_pools_as_what_reads_does_unless_told(pooled, learn):
    kind, text = pooled
    assert learn(text, tokens="all").network.config.pooling == POOLED[kind]
    told = next(pooling for pooling in POOLINGS if pooling != POOLED[kind])
    assert learn(text, tokens="all", pooling=told).network.config.pooling == told


def test_vectors_of_words_are_averaged(tmp_path, learn):
    (tmp_path / "glove.txt").write_text("a 1.0 2.0\nrun 0.5 1.0\n")
    assert learn(str(tmp_path / "glove.txt"), tokens="all").network.config.pooling == "mean"


@pytest.mark.parametrize("options", [{}, {"top": 1}], ids=["late", "top"])
def test_words_are_compared_by_what_their_reader_makes_of_a_sentence(tiny_features, pooled, options):
    """Late fusion and the shortlist know the whole question alone, be it read at once or word by word."""
    options = {"fusion": "late", **options}
    one, words = (untrained(tiny_features, pooled[1], tokens=tokens, **options) for tokens in ("one", "all"))
    expected = answers(tiny_features, one, *ASKED)
    np.testing.assert_allclose(answers(tiny_features, words, *ASKED), expected, rtol=0, atol=1e-4)
    for pooling in (pooling for pooling in POOLINGS if pooling != POOLED[pooled[0]]):
        other = untrained(tiny_features, pooled[1], tokens="all", pooling=pooling, **options)
        assert not np.allclose(answers(tiny_features, other, *ASKED)[:, 2], expected[:, 2], rtol=0, atol=1e-4)


def test_a_tower_pools_as_its_folder_says_or_is_read_frozen(tiny_features, tmp_path):
    save_t5(tmp_path / "first")
    as_sentence_transformer(tmp_path / "first", "cls_token")
    frozen, inside = (untrained(tiny_features, str(tmp_path / "first"), inside) for inside in (False, True))
    assert inside.network.config.pooling == "first"
    np.testing.assert_allclose(answers(tiny_features, inside, *ASKED), answers(tiny_features, frozen, *ASKED),
                               rtol=0, atol=1e-4)
    save_t5(tmp_path / "scaled")
    as_sentence_transformer(tmp_path / "scaled", kinds=("Transformer", "Pooling", "Normalize"))
    save_clip(tmp_path / "clip")
    as_sentence_transformer(tmp_path / "clip")
    for name, what in (("scaled", "sentences of length 1"), ("clip", "another pooling than CLIP has")):
        with pytest.raises(ModelError, match=rf"asks for {what}, which .* set options\.freeze_text = true\."):
            untrained(tiny_features, str(tmp_path / name), inside=True)


# ---------------------------------------------------------------------------------------------- tokens

LONG = ("run of jumps and", "run of a man a man")  # alike in their first letters, and in their first words


@pytest.mark.parametrize("freeze_text", [True, False])
def test_a_long_text_is_cut_in_training_and_in_asking_alike(tiny_features, reader, learn, monkeypatch, freeze_text):
    kind, text = reader
    batches, fit, most = [], training.fit, 16 if kind == "t5" else 8  # letters, or about as much of a word

    def watched(network: Any, data: Any, *args: Any, **named: Any) -> Any:
        batches.extend(data.epoch(0))
        return fit(network, data, *args, **named)

    monkeypatch.setattr(training, "fit", watched)
    model = learn(text, max_tokens=most, tokens="all", freeze_text=freeze_text)
    said = [prompt.format(name) for prompt in ACTION_PROMPTS for name in model.classes]
    assert all(len(ids) > most for ids in words_of(text, None).tokens(said))
    assert {batch.sentences.words.shape[1] for batch in batches} == {most}
    assert model.max_tokens == most
    same = [answers(tiny_features, model, name) for name in LONG]
    assert np.array_equal(*same)
    model.max_tokens = None
    assert not np.array_equal(*(answers(tiny_features, model, name) for name in LONG))


def test_prompts_as_embeddings_are_cut_too(tiny_features, reader):
    model = replace(untrained(tiny_features, reader[1]), ensemble="embeddings")
    for model.max_tokens, same in ((4, True), (None, False)):
        assert np.array_equal(*(answers(tiny_features, model, name) for name in ("run", "jump"))) == same


def test_checkpoints_from_before_read_all(tmp_path):
    network = UnLoc(UnLoc.config_type(**SMALL), 4, ["run"])
    TrainedLocalizer(network, "unloc", {"dim": 4}, max_tokens=8).save(tmp_path / "new.safetensors")
    tensors, meta = checkpoint.load(tmp_path / "new.safetensors")
    assert meta.pop("max_tokens") == 8
    checkpoint.save(tmp_path / "old.safetensors", tensors, meta)
    assert TrainedLocalizer.load(tmp_path / "old.safetensors").max_tokens is None


def test_pre_training_cuts_texts_too(tiny_world, tiny_text, tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    seen = []

    def watched(model: Any, data: Any, *args: Any, **named: Any) -> Any:
        seen.append(data.text.max_tokens)
        raise Enough

    monkeypatch.setattr(training, "fit", watched)
    data = Data(str(tiny_world.folder / "truth.json"), str(tiny_world.folder / "videos"), validate=())
    for most in (4, None):
        with pytest.raises(Enough):
            pretrain(Recipe("clap", data, Encoder(text=str(tiny_text), max_tokens=most)), tmp_path / str(most))
    assert seen == [4, 64]


def test_an_encoder_is_compared_with_as_much_of_a_text_as_it_learned(tiny_encoder, tiny_text):
    sides = {"project_video": Projection(32, 8), "project_text": Projection(24, 8)}
    parts = {f"{name}.{k}": v for name, side in sides.items() for k, v in side.state_dict().items()}
    rows = {"v": Features(np.ones((2, 32), np.float32), Grid.over(0.0, 1.0, 2), 1.0)}
    for most, same in ((4, True), (None, False)):  # the last word is cut, or not
        made = {"recipe": {"encoder": {"text": str(tiny_text), "max_tokens": most}}}
        encoder = replace(tiny_encoder, extra=parts, made=made)
        assert np.array_equal(*space_of(encoder).read(["foreground of a", "foreground of red"])) == same
        scores = text_scores(rows, encoder, {"one": "foreground of a", "two": "foreground of red"})["v"]
        assert (scores["one"] == scores["two"]) == same


def test_what_cannot_be_cut_is_said(tmp_path, reader, learn):
    for wrong in (0, 2):
        with pytest.raises(CallError, match=r"encoder\.max_tokens must be a number at least 3"):
            Encoder(max_tokens=wrong)
    with pytest.raises(CallError, match="max_tokens must be a number from 3 to "):
        learn(reader[1], max_tokens=1000)
    glove = Path(tmp_path / "glove.txt")
    glove.write_text("a 1.0 2.0\nrun 0.5 1.0\n")
    with pytest.raises(CallError, match="all words of a sentence are read; leave max_tokens out"):
        learn(str(glove), max_tokens=16, tokens="all")
