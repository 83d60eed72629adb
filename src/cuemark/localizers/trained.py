"""A trained localizer as it is used: network, class names, what its features are, and what makes them.

A checkpoint of kind ``localizer`` holds ``network.*``; when it was made with an encoder at hand, ``encoder.*``: then it
loads and runs on a raw video with nothing beside it; and when it judges the proposals of another, that one whole as
``proposer.*``. What reads its sentences is frozen and public, and goes by its name.

:meth:`TrainedLocalizer.localize` is the library's verb.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cuemark import checkpoint
from cuemark.batch import Localizer
from cuemark.clips import ClipConfig
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, ModelError, unknown, within
from cuemark.extraction import ExtractConfig, features_of, growing
from cuemark.feature_folder import USUAL, FeatureFolder
from cuemark.grid import Features
from cuemark.localizers import LOCALIZERS, RELEASED, build
from cuemark.localizers.answers import Answer, Videos, asking, in_turn, sorted_out
from cuemark.localizers.calibration import Calibration
from cuemark.localizers.classify import name_predictions
from cuemark.localizers.frames import Footage, Inputs, house, towers_in
from cuemark.localizers.layout import weights_in
from cuemark.localizers.questions import PLAIN, Example, Question, Words, predict, reading, retrieves
from cuemark.localizers.unloc import UnLoc
from cuemark.nn.spans import Lengths
from cuemark.saliency import Heard
from cuemark.segments import Predictions, Segment
from cuemark.settings import build as build_settings
from cuemark.text import ACTION_PROMPTS, TextEncoder, folder_of, model_kind, prompted, words_of

Ensemble = Literal["first", "outputs", "embeddings"]
Names = Callable[[Mapping[str, Features]], Mapping[str, Mapping[str, float]]]
"""Features of videos to the score of each label for each video."""
_TOGETHER = 256
"""Classes and sentences that go through a network together which is asked for many."""
_SHOWN = re.compile(r"(?P<file>.+):(?P<start>\d+(?:\.\d+)?)-(?P<end>\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Shown:
    """An example of what to find: where it is in a video file, in seconds."""

    file: Path
    start: float
    end: float

    @classmethod
    def parse(cls, text: str) -> Shown:
        """``FILE:START-END``, such as ``clip.mp4:3-7.5``.

        Raises:
            CallError: it is not that, or it ends before it starts.
        """
        found = _SHOWN.fullmatch(text)
        if not found or not float(found["start"]) < float(found["end"]):
            raise CallError(f"'{text}' is no example; write FILE:START-END in seconds, such as clip.mp4:3-7.5.")
        return cls(Path(found["file"]), float(found["start"]), float(found["end"]))


@dataclass
class TrainedLocalizer:
    """Features, or raw video when the encoder is inside, to segments."""

    network: Localizer
    name: str
    """Key in :data:`cuemark.localizers.LOCALIZERS`."""
    features: dict[str, Any]
    """What ``features.json`` said of the features it was trained on: encoder, weights, clip, dim."""
    encoder: VideoEncoder | None = None
    made: dict[str, Any] = field(default_factory=dict)
    """Recipe and scores."""
    text: str | None = None
    """What reads sentences (:func:`cuemark.text.words_of`), for one that is asked any."""
    proposer: TrainedLocalizer | None = None
    """The one whose proposals it judges, on the same features."""
    clip: ClipConfig | None = None
    """How an image tower that stayed inside the network looks at frames."""
    ensemble: Ensemble = "first"
    """What is said for a class that is asked for by its name: the ``"first"`` of :data:`cuemark.text.ACTION_PROMPTS`,
    or all of them, with the network's ``"outputs"`` averaged (28 times the work, UnLoc's release) or their
    ``"embeddings"`` (no more work, CLIP's way)."""
    calibration: Calibration | None = None
    """From its scores to probabilities; None where it was trained without validation videos."""
    lengths: Lengths | None = None
    """Of the videos that it was trained to see as a whole; longer ones it sees piece by piece
    (:func:`cuemark.nn.spans.pieces`). None: it sees windows of any video, or nobody knows."""
    max_tokens: int | None = None
    """How many tokens of a sentence are read; None: all that ``text`` can."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names it can give; empty for class-agnostic proposals."""
        return self.network.classes

    @property
    def likens(self) -> bool:
        """Whether it knows which questions a video looks like (:attr:`cuemark.localizers.unloc.Config.top`): it learned
        that, or a CLIP reads.

        Raises:
            ModelError: what reads is not here.
        """
        if not isinstance(self.network, UnLoc):
            return False
        return self.network.config.similarity_weight > 0 or (
            self.text is not None and not self.text.endswith(".txt") and model_kind(folder_of(self.text)) == "clip")

    @property
    def salient(self) -> bool:
        """Whether it says how well each frame answers (:attr:`Answer.saliency`)."""
        return isinstance(self.network, UnLoc) and self.network.config.task != "classify"

    @property
    def extraction(self) -> ExtractConfig:
        """How the features it was trained on were made; those of a raw video are made so too."""
        return ExtractConfig.of(self.features)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self._module.parameters()).device

    @property
    def _module(self) -> nn.Module:
        assert isinstance(self.network, nn.Module)
        return self.network

    def to(self, device: torch.device | str) -> TrainedLocalizer:
        """The same, computing there from now on."""
        self._module.to(device)
        if self.proposer is not None:
            self.proposer.to(device)
        return self

    def fits(self, folder: FeatureFolder) -> None:
        """Refuse features that are not the ones it was trained on (they would give 0 mAP, silently).

        Raises:
            ModelError: naming both sides.
        """
        for key in ("weights", "clip", "crops", "pooling", "dim"):
            if self.features.get(key, USUAL.get(key)) != folder.meta.get(key, USUAL.get(key)):
                raise ModelError(
                    f"'{folder.folder}' has features with {key} {folder.meta.get(key)} ({folder.meta.get('encoder')}), "
                    f"but this localizer was trained on {self.features.get(key)} ({self.features.get('encoder')}); "
                    "extract with the encoder it was trained on, or train again on these features.")

    # ------------------------------------------------------------------ the verb

    def localize(self, videos: Videos, queries: Sequence[str] | Mapping[str, Sequence[str]] = (),
                 classes: Sequence[str] = (), examples: Sequence[str | Shown] = (), *, least: float = 0.0,
                 early: bool = False, urls: bool = False, names: Names | None = None, every: float | None = None
                 ) -> Iterator[Answer]:
        """When does it happen in these videos?

        >>> for answer in model.localize("films/", queries=["a dog jumps"], least=0.1):  # doctest: +SKIP
        ...     print(answer.video, answer.asked, answer.segments or "not found")

        Answers come video by video, those of the first before the second is opened, and in each question by question,
        all of them from one pass over the video, however long it is. (Memory holds a row of features for each clip: 30
        MB for four hours of 512 numbers a second.) What is best in its last minute may rule out what was found in its
        first, so the answers to keep are those about the whole video; ``early`` ones come before, while it is read.

        Args:
            videos: files, folders of them (at any depth), or both; files under names of one's own; addresses.
            queries: sentences, to a localizer that is asked any; or of each video, by its name, its own.
            classes: names of what to find, to one with an open vocabulary; by default those it was trained on.
            examples: ``"clip.mp4:3-7"``: what to find more of, to one that is shown examples.
            least: how likely a segment has to be right for it to be said, 0 to 1.
            early: answer before all of a video has been looked at, again and again (:attr:`Answer.until` says how much
                of it has), from the first second of waiting on. Looking takes a tenth of the time meanwhile. An
                image tower inside looks at frames itself, and answers once.
            urls: addresses (http, https) are allowed; a video is fetched into a temporary folder.
            names: what names the segments of one that names none (:func:`cuemark.localization.names_by`).
            every: say, too, how well each stretch of so many seconds answers (:attr:`Answer.saliency`): of one that has
                scores of frames (UnLoc).

        Returns:
            Segments in seconds, best first. Their ``score`` is the probability that the segment is right, as far as
            footage is like that of the validation (:mod:`cuemark.localizers.calibration`), where the localizer is
            calibrated, and is asked what it learned (:meth:`link`); otherwise it only ranks.

        Raises:
            ModelError: the checkpoint holds no encoder.
            CallError: it cannot be asked that, or was asked nothing; ``least`` without a calibration; an address that
                is not allowed. All of these before the first answer is asked for.
            VideoError: a path or an example that cannot be used. Later: the one video that was asked about cannot be;
                of several, its answer says so, and the rest goes on.
        """
        self._looks()
        asked, own = asking(self.asks, queries, classes, examples)
        for questions in (asked, *own.values()):
            self._ranks(least, names, questions)
        self._heard(every)

        def look(name: str, path: Path) -> Iterator[Answer]:
            if self.clip is not None:  # an image tower inside looks at the frames itself
                footage = Footage({name: path}, self.clip)
                yield from self.answers(footage.clocks(), {name: own.get(name, asked)}, footage=footage,
                                        least=least, every=every)[name]
                return
            assert self.encoder is not None
            for seen, whole in growing(path, self.encoder, self.extraction, early=early, device=self.device):
                for answer in self.answers({name: seen}, {name: own.get(name, asked)}, names=names, least=least,
                                           every=every)[name]:
                    yield answer if whole else replace(answer, until=seen.duration)

        return in_turn(videos, look, urls)

    def asks(self, queries: Sequence[str] = (), classes: Sequence[str] = (), examples: Sequence[str | Shown] = ()
             ) -> list[Question]:
        """What it is asked, checked against what it can answer; videos of examples are looked at once.

        Raises:
            CallError: it is asked what it cannot answer, or nothing where it needs a question.
            VideoError: an example's file cannot be used.
            ModelError: the checkpoint holds no encoder to look at examples.
        """
        kind = self.network.asked
        if kind == "text" and not examples:
            queries, classes = [q for q in queries if q.strip()], [c for c in classes if c.strip()]
            if not queries and not classes and retrieves(self.network):
                raise CallError(f"this {self.name} was trained to find sentences; ask it one (--query), or for classes "
                                "(--classes).")
            return [*(Question(label=name) for name in dict.fromkeys(classes or (() if queries else self.classes))),
                    *(Question(query) for query in dict.fromkeys(queries))]
        if classes:
            raise CallError(f"this {self.name} cannot be asked for classes by their names; train an unloc for that.")
        if queries and kind != "sentence":
            raise CallError(f"this {self.name} cannot be asked sentences; " + (
                f"it finds its classes: {', '.join(self.classes[:5]) or 'any action'}{' …' * (len(self.classes) > 5)}."
                if kind == "classes" else "show it examples of what to find (--examples)."))
        if examples and kind != "examples":
            raise CallError(f"this {self.name} cannot be shown examples; train a qat for that.")
        if kind == "sentence":
            if not [query for query in queries if query.strip()]:
                raise CallError(f"this {self.name} answers sentences; ask it one (--query).")
            return [Question(query) for query in dict.fromkeys(queries)]
        if kind == "classes":
            return []
        if not examples:
            raise CallError(f"this {self.name} finds more of what it is shown; show it examples (--examples "
                            "clip.mp4:3-7).")
        told = [Shown.parse(example) if isinstance(example, str) else example for example in examples]
        seen: dict[Path, Features] = {}
        marked: dict[Path, list[Segment]] = {}
        for example in told:
            if example.file not in seen:
                seen[example.file] = self._seen(example.file)
            if example.start >= seen[example.file].duration:
                raise CallError(f"the example {example.file}:{example.start:g}-{example.end:g} begins after its video "
                                f"has ended ({seen[example.file].duration:.1f} s).")
            marked.setdefault(example.file, []).append(Segment(example.start, example.end))
        return [Question(examples=tuple(Example(seen[file], tuple(spans)) for file, spans in marked.items()))]

    def answers(self, features: Mapping[str, Features], asked: Mapping[str, Sequence[Question]], *,
                proposals: Mapping[str, Sequence[Segment]] | None = None, names: Names | None = None,
                footage: Footage | None = None, least: float = 0.0, every: float | None = None
                ) -> dict[str, list[Answer]]:
        """What each video answers to its questions: :meth:`predict`, named by ``names``, calibrated, sorted out.

        Args:
            features, proposals, footage: see :meth:`predict`.
            asked: of each video (:meth:`asks`).
            names, least, every: see :meth:`localize`.

        Raises:
            CallError, DataError, ModelError: see :meth:`predict`, :meth:`localize` and ``names``.
        """
        for questions in asked.values():
            self._ranks(least, names, questions)
        heard = self._heard(every)
        found = self.predict(features, asked, proposals, footage, heard)
        if names is not None:
            found = name_predictions(found, names(features))
        answers = {}
        for vid, segments in found.items():
            questions = asked.get(vid, ())
            link = self.link(names, questions)
            answers[vid] = sorted_out(
                vid, questions, segments if link is None else link.applied(segments), link is not None, least,
                None if heard is None or not questions else heard.of(vid, [question.said() for question in questions]))
        return answers

    def _heard(self, every: float | None) -> Heard | None:
        """What gathers scores of frames, where they are wanted.

        Raises:
            CallError: it has none, or ``every`` is no length.
        """
        if every is not None and not self.salient:
            raise CallError(f"this {self.name} does not say how well each stretch of a video answers; leave saliency "
                            "out, or ask an unloc that was not trained to classify, or an encoder without training.")
        return None if every is None else Heard(every)

    def link(self, names: Names | None = None, asked: Sequence[Question] = ()) -> Calibration | None:
        """What makes probabilities of its scores, where they are made as those of the validation were: it is asked what
        it learned, the names of its classes or sentences of any kind, and says its own names in its first words."""
        own = names is None and self.ensemble == "first"
        if self.network.asked == "text":
            sentences = retrieves(self.network)
            own = own and all(q.named != sentences and (sentences or q.label in self.classes) for q in asked)
        return self.calibration if own else None

    def _ranks(self, least: float, names: Names | None, asked: Sequence[Question]) -> None:
        within("least", least, 0, 1)
        if least and self.link(names, asked) is None:
            other = " for other names, questions or prompts than its own" if self.calibration is not None else ""
            raise CallError(f"this {self.name} is not calibrated{other}, so its scores only rank, and none of them is "
                            "too low; leave least (--least) out.")

    def _looks(self) -> None:
        if self.encoder is None and self.clip is None:
            raise ModelError("this localizer was trained without an encoder at hand, so it cannot look at a raw video; "
                             "train it with encoder.start, or localize on extracted features.")

    def _seen(self, path: str | Path) -> Features:
        self._looks()
        assert self.encoder is not None
        return features_of(path, self.encoder, self.extraction, device=self.device)[0]

    # ------------------------------------------------------------------ features to segments

    def predict(self, features: Mapping[str, Features], questions: Mapping[str, Sequence[Question]] | None = None,
                proposals: Mapping[str, Sequence[Segment]] | None = None, footage: Footage | None = None,
                heard: Heard | None = None) -> Predictions:
        """:func:`cuemark.localizers.questions.predict`, with what reads sentences and who proposes; not calibrated.

        Args:
            features: of each video; with an image tower inside, its clock (:meth:`Footage.clocks`).
            proposals: of each video; by default those of ``proposer``.
            footage: the videos themselves, for an image tower inside.
            heard: gathers scores of frames.

        Raises:
            CallError: :attr:`ensemble` asks for embeddings where there is none of a whole sentence.
        """
        if self.network.judges and proposals is None and self.proposer is not None:
            proposals = self.proposer.predict(features)
        words, prompts = reading(self.network, self.text, self.max_tokens)
        batch, look = 16, None
        if self.network.asked == "text":
            batch = _TOGETHER if footage is None else 16
            if footage is not None or self._reads:
                look = Inputs(footage, tokens=self._reads)
            if self.ensemble == "outputs" and prompts != PLAIN:
                prompts = ACTION_PROMPTS
            if self.ensemble == "embeddings" and prompts != PLAIN:
                words, prompts = self._embedded(questions or {}), PLAIN
        return predict(self.network, features, batch, questions=questions, words=words, prompts=prompts,
                       proposals=proposals, look=look, lengths=self.lengths, heard=heard)

    @property
    def _reads(self) -> bool:
        """Whether a text tower is inside."""
        return isinstance(self.network, UnLoc) and self.network.text is not None

    def _embedded(self, questions: Mapping[str, Sequence[Question]]) -> Words:
        """What reads classes as the mean of their prompts' embeddings, and sentences as they are."""
        reader = words_of(self.text or "", self.max_tokens)
        whole = isinstance(reader, TextEncoder) and self.network.config.tokens == "one" and not self._reads
        if not whole:
            raise CallError("prompts are averaged as embeddings only where one frozen vector stands for a sentence; "
                            "average the outputs instead (--prompts outputs).")
        assert isinstance(reader, TextEncoder)
        classes = {question.label for asked in questions.values() for question in asked if question.named}

        words, _ = reading(self.network, self.text, self.max_tokens)
        assert words is not None

        def read(said: Sequence[str]) -> list[Tensor]:
            """Means are brought back to the length that one sentence has in training."""
            named = [text for text in said if text in classes]
            means = dict(zip(named, prompted(named, reader.encode))) if named else {}
            alone = words([ACTION_PROMPTS[0].format(text) if text in means else text for text in said])
            return [means[text][None] * one.norm() if text in means else one for text, one in zip(said, alone)]

        return read

    def save(self, path: str | Path) -> None:
        """Write a localizer checkpoint, atomically."""
        checkpoint.save(path, *self._parts())

    def _parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"network.{k}": v for k, v in self._module.state_dict().items()}
        meta: dict[str, Any] = {
            "kind": "localizer", "name": self.name, "config": asdict(self.network.config),
            "classes": list(self.classes), "features": self.features, "made": self.made, "text": self.text,
            "max_tokens": self.max_tokens,
            "encoder": None, "proposer": None, "towers": None, "lengths": self.lengths,
            "calibration": None if self.calibration is None else asdict(self.calibration)}
        if isinstance(self.network, UnLoc):
            meta["towers"] = towers_in(self.network, self.clip)
        if self.encoder is not None:
            tensors |= {f"encoder.{k}": v for k, v in self.encoder.to_tensors().items()}
            meta["encoder"] = self.encoder.to_meta()
        if self.proposer is not None:
            rest, meta["proposer"] = replace(self.proposer, encoder=None)._parts()
            tensors |= {f"proposer.{k}": v for k, v in rest.items()}
        return tensors, meta

    @classmethod
    def load(cls, path: str | Path) -> TrainedLocalizer:
        """Read a localizer checkpoint.

        Raises:
            ModelError: see :func:`cuemark.checkpoint.load`.
        """
        return cls._of(*checkpoint.load(path, "localizer"), f"'{path}'")

    @classmethod
    def released(cls, path: str | Path, name: str, config: Mapping[str, Any], folder: FeatureFolder,
                 classes: Sequence[str] = (), text: str | None = None, max_tokens: int | None = None
                 ) -> TrainedLocalizer:
        """From a checkpoint of the paper's own code, which holds nothing but weights.

        Where the released network names nothing (BMN, G-TAD, ActionFormer on ActivityNet), ``names`` is ``"none"``
        whatever ``config`` says: its proposals are named by another classifier
        (:func:`cuemark.localizers.classify.fuse`).

        Args:
            path: ``….pth.tar``; nothing in it is executed.
            name: key in :data:`cuemark.localizers.RELEASED`.
            config: as in :func:`cuemark.localizers.build`: the settings that it was trained with.
            folder: features that it works on.
            classes: what its outputs stand for, in their order.
            text, max_tokens: what reads sentences, for one that is asked any, and how many tokens of each.

        Raises:
            CallError: no such localizer or setting.
            ModelError: the file cannot be read, or its weights are not those of such a localizer.
        """
        if name not in RELEASED:
            raise unknown("localizer with released weights", name, RELEASED)
        weights = RELEASED[name](weights_in(checkpoint.foreign(path)))
        nameless = any(f.name == "names" for f in fields(LOCALIZERS[name].config_type))  # some can be
        attempts = [dict(config)] if classes or not nameless else []
        attempts += [{**config, "names": "none"}] if nameless else []
        problems = []
        for settings in attempts:
            network = build(name, settings, folder.dim, classes)
            problem = _misfit(network, weights)
            if problem is None:
                network.load_state_dict(weights, strict=False)  # but for buffers that a release does not keep
                asked = network.asked in ("sentence", "text")
                return cls(network.eval(), name, described(folder), None, {"released": Path(path).name},
                           text if asked else None, max_tokens=max_tokens if asked else None)
            problems.append(problem)
        raise ModelError(f"the weights in '{path}' are not those of a {name} for features of width {folder.dim} and "
                         f"{len(classes)} classes with these settings ({problems[0]}); give the settings, the features "
                         "and the classes that it was trained with.")

    @classmethod
    def _of(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], where: str) -> TrainedLocalizer:
        network = build(meta["name"], meta["config"], int(meta["features"]["dim"]), meta["classes"])
        clip = house(network, meta.get("towers"), where) if isinstance(network, UnLoc) else None
        try:
            network.load_state_dict(checkpoint.section(tensors, "network"))
        except RuntimeError as error:
            raise ModelError(f"the weights in {where} do not fit the {meta['name']} it describes "
                             f"({str(error).splitlines()[-1].strip()}).") from None
        encoder = proposer = None
        if meta["encoder"] is not None:
            encoder = VideoEncoder.from_parts(checkpoint.section(tensors, "encoder"), meta["encoder"], where)
        if meta.get("proposer") is not None:
            proposer = cls._of(checkpoint.section(tensors, "proposer"), meta["proposer"], where)
        link = meta.get("calibration")
        return cls(network.eval(), meta["name"], meta["features"], encoder, meta["made"], meta.get("text"), proposer,
                   clip, calibration=None if link is None else build_settings(Calibration, link, where, "calibration"),
                   lengths=None if meta.get("lengths") is None else Lengths(*meta["lengths"]),
                   max_tokens=meta.get("max_tokens"))


def described(folder: FeatureFolder) -> dict[str, Any]:
    """What a localizer remembers of the features that it works on."""
    told = {k: folder.meta[k] for k in ("encoder", "weights", "dim", "clip", "precision")}
    return told | {k: folder.meta.get(k, usual) for k, usual in USUAL.items()}


def _misfit(network: nn.Module, weights: Mapping[str, Tensor]) -> str | None:
    """The first weight that is not as the network has it; buffers may be missing."""
    own, buffers = network.state_dict(), dict(network.named_buffers())
    for name, tensor in own.items():
        if name not in weights and name not in buffers:
            return f"they have no '{name}'"
        if name in weights and weights[name].shape != tensor.shape:
            return f"'{name}' has shape {tuple(weights[name].shape)}, not {tuple(tensor.shape)}"
    return next((f"they have a '{name}' more" for name in weights if name not in own), None)
