"""A trained localizer as it is used: network, class names, what its features are, and what makes them.

A checkpoint of kind ``localizer`` holds ``network.*``; when it was made with an encoder at hand, ``encoder.*``: then it
loads and runs on a raw video with nothing beside it; and when it judges the proposals of another, that one whole as
``proposer.*``. What reads its sentences is frozen and public, and goes by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cuemark import checkpoint
from cuemark.batch import Localizer
from cuemark.clips import ClipConfig
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, ModelError, unknown
from cuemark.extraction import ExtractConfig
from cuemark.feature_folder import USUAL, FeatureFolder
from cuemark.grid import Features
from cuemark.localizers import LOCALIZERS, RELEASED, build
from cuemark.localizers.frames import Footage, Inputs, house, towers_in
from cuemark.localizers.layout import weights_in
from cuemark.localizers.questions import PLAIN, Question, Words, predict, reading
from cuemark.localizers.unloc import UnLoc
from cuemark.segments import Predictions, Segment
from cuemark.text import ACTION_PROMPTS, TextEncoder, prompted, words_of

Ensemble = Literal["first", "outputs", "embeddings"]
_TOGETHER = 256
"""Classes and sentences that go through a network together which is asked for many."""


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

    @property
    def classes(self) -> tuple[str, ...]:
        """Names it can give; empty for class-agnostic proposals."""
        return self.network.classes

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

    def predict(self, features: Mapping[str, Features], questions: Mapping[str, Sequence[Question]] | None = None,
                proposals: Mapping[str, Sequence[Segment]] | None = None, footage: Footage | None = None
                ) -> Predictions:
        """:func:`cuemark.localizers.questions.predict`, with what reads sentences and who proposes.

        Args:
            features: of each video; with an image tower inside, its clock (:meth:`Footage.clocks`).
            proposals: of each video; by default those of ``proposer``.
            footage: the videos themselves, for an image tower inside.

        Raises:
            CallError: :attr:`ensemble` asks for embeddings where there is none of a whole sentence.
        """
        if self.network.judges and proposals is None and self.proposer is not None:
            proposals = self.proposer.predict(features)
        words, prompts = reading(self.network, self.text)
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
                       proposals=proposals, look=look)

    @property
    def _reads(self) -> bool:
        """Whether a text tower is inside."""
        return isinstance(self.network, UnLoc) and self.network.text is not None

    def _embedded(self, questions: Mapping[str, Sequence[Question]]) -> Words:
        """What reads classes as the mean of their prompts' embeddings, and sentences as they are."""
        reader = words_of(self.text or "")
        whole = isinstance(reader, TextEncoder) and self.network.config.tokens == "one" and not self._reads
        if not whole:
            raise CallError("prompts are averaged as embeddings only where one frozen vector stands for a sentence; "
                            "average the outputs instead (--prompts outputs).")
        assert isinstance(reader, TextEncoder)
        classes = {question.label for asked in questions.values() for question in asked if question.named}

        words, _ = reading(self.network, self.text)
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
            "encoder": None, "proposer": None, "towers": None}
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
                 classes: Sequence[str] = (), text: str | None = None) -> TrainedLocalizer:
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
            text: what reads sentences, for one that is asked any; see :attr:`text`.

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
                return cls(network.eval(), name, described(folder), None, {"released": Path(path).name},
                           text if network.asked in ("sentence", "text") else None)
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
        return cls(network.eval(), meta["name"], meta["features"], encoder, meta["made"], meta.get("text"), proposer,
                   clip)


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
