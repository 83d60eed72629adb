"""Checkpoint and video to segments: the main job, on raw files of any length or on features that are there.

:func:`load` gives what answers, a trained localizer or, where there is none, an encoder that shares a space with
sentences (:class:`Similarity`); ``.localize`` asks it. What is asked depends on the localizer: nothing where it knows
its classes, sentences, or examples of what to find.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from cuemark import checkpoint
from cuemark.datasets.video_scores import read_video_scores
from cuemark.encoders import weights
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, DataError, ModelError, VideoError, within
from cuemark.extraction import ExtractConfig, growing
from cuemark.feature_folder import FeatureFolder
from cuemark.grid import Features
from cuemark.localizers.answers import Answer, Videos, asking, by_name, in_turn
from cuemark.localizers.classify import encoder_scores, text_scores
from cuemark.localizers.questions import Question, questions_of, retrieves, shown
from cuemark.localizers.trained import Ensemble, Names, Shown, TrainedLocalizer
from cuemark.metrics.episodes import Episode
from cuemark.progress import Bar, say
from cuemark.saliency import Heard
from cuemark.segments import Predictions, Segment, Truth
from cuemark.similarity import NOTHING, Config, Floats, Space, boundaries, chance, cuts, moments, space_of
from cuemark.video import find_videos

__all__ = ["Answer", "Names", "Shown", "Similarity", "answer_episodes", "answer_features", "by_name", "load",
           "localize", "localize_all", "localize_features", "localize_truth", "names_by", "reads"]


_TOGETHER = 64
"""Videos whose features are looked at together, so that memory does not grow with their number."""


@dataclass
class Similarity:
    """Localizing without training: where a video is more like a sentence than elsewhere in the same video.

    What :mod:`cuemark.similarity` says holds: nothing here has learned where an action begins, a floor with eyes. In a
    raw video no segment crosses a change of shot (:func:`cuemark.similarity.cuts`); where there are only features, none
    crosses what they show of one (:func:`cuemark.similarity.boundaries`).

    **How sure.** A sentence that nothing in the video is like has a best place, too. So the video is also asked
    :data:`cuemark.similarity.NOTHING`, sentences about what no picture shows; how sure it is of a sentence is the share
    of a normal distribution, of their best cosines, below its own. 0.95 says that of twenty sentences about nothing one
    is more like this video. That bounds how often nonsense is answered, not how often an answer is right.
    """

    encoder: VideoEncoder
    space: Space
    config: Config
    device: torch.device | str = "cpu"

    salient: ClassVar[bool] = True
    """It says how well each frame answers (:attr:`Answer.saliency`)."""

    @property
    def name(self) -> str:
        """The encoder's."""
        return self.encoder.name

    @property
    def extraction(self) -> ExtractConfig:
        """How it looks at raw videos: clips that overlap by three quarters; every frame, where a clip is one."""
        return ExtractConfig(stride=max(1, self.encoder.clip.frames // 4))

    def fits(self, folder: FeatureFolder) -> None:
        """Refuse features of another encoder.

        Raises:
            ModelError: naming both.
        """
        if folder.meta.get("weights") != self.encoder.weights:
            raise ModelError(f"'{folder.folder}' has features of {folder.meta.get('encoder')} with weights "
                             f"{folder.meta.get('weights')}, not of {self.name} ({self.encoder.weights}); name the "
                             "encoder that made them.")

    def localize(self, videos: Videos, queries: Sequence[str] | Mapping[str, Sequence[str]] = (),
                 classes: Sequence[str] = (), examples: Sequence[str | Shown] = (), *, least: float = 0.0,
                 early: bool = False, urls: bool = False, every: float | None = None) -> Iterator[Answer]:
        """When is a video most like these sentences? As :meth:`cuemark.localizers.trained.TrainedLocalizer.localize`.

        Args:
            videos, early, urls: see there. Early answers know changes of shot only from what features show of them.
            queries: sentences; or of each video, by its name, its own.
            classes: names, which are asked for in the words the encoder was trained with; segments carry them as
                ``label``.
            examples: none.
            least: how sure (see the class) it has to be of a sentence to answer it, 0 to 1.
            every: say, too, how like each sentence each stretch of so many seconds is, as a cosine
                (:attr:`Answer.saliency`).

        Returns:
            Of each sentence its segments in seconds, best first; ``score`` is the contrast of
            :mod:`cuemark.similarity`, -1 to 1, which ranks them and is no probability.

        Raises:
            CallError: there is nothing to look for, or an example; an address that is not allowed.
            ModelError: what reads sentences is not here.
            VideoError: see there.
        """
        asked, own = asking(self.asks, queries, classes, examples)
        within("least", least, 0, 1)
        if every is not None:
            Heard(every)

        def look(name: str, path: Path) -> Iterator[Answer]:
            for seen, whole in growing(path, self.encoder, self.extraction, early=early, device=self.device):
                shots = {name: cuts(path)} if whole else None
                for answer in self.answers({name: seen}, {name: own.get(name, asked)}, shots, least, every)[name]:
                    yield answer if whole else replace(answer, until=seen.duration)

        return in_turn(videos, look, urls)

    def asks(self, queries: Sequence[str] = (), classes: Sequence[str] = (), examples: Sequence[str | Shown] = ()
             ) -> list[Question]:
        """What it is asked.

        Raises:
            CallError: nothing, or examples.
        """
        if examples:
            raise CallError(f"'{self.name}' is no trained localizer and cannot be shown examples; ask it a sentence "
                            "(--query), or index the videos and search (cuemark search --like).")
        asked = [Question(label=name) for name in dict.fromkeys(classes) if name.strip()]
        asked += [Question(query) for query in dict.fromkeys(queries) if query.strip()]
        if not asked:
            raise CallError(f"'{self.name}' is no trained localizer and knows no classes of its own; ask it a sentence "
                            "(--query), or for classes by their names (--classes).")
        return asked

    def answers(self, features: Mapping[str, Features], asked: Mapping[str, Sequence[Question]],
                shots: Mapping[str, np.ndarray] | None = None, least: float = 0.0, every: float | None = None
                ) -> dict[str, list[Answer]]:
        """What each video answers to its questions.

        Args:
            features: of each video, made by the encoder.
            asked: of each video (:meth:`asks`).
            shots: seconds of the changes of shot in each; by default what features show of them.
            least, every: see :meth:`localize`.

        Raises:
            ModelError: what reads sentences is not here, or the features are of another width.
        """
        said = list(dict.fromkeys(q.said(self.space.prompt) for questions in asked.values() for q in questions))
        vectors = dict(zip(said, self.space.read(said))) if said else {}
        found: dict[str, list[Answer]] = {}
        for vid, seen in features.items():
            rows, questions = self.space.see(seen.data), asked.get(vid, ())
            if not questions:
                found[vid] = [Answer(vid)]
                continue
            cosines = rows @ np.stack([vectors[q.said(self.space.prompt)] for q in questions]).T
            where = seen.grid.seconds(boundaries(rows).astype(float)) if shots is None else shots[vid]
            sure = self._sure(rows, cosines)
            segments = moments(cosines, seen.grid, seen.duration, self.config, where)
            curves = None
            if every is not None:
                heard = Heard(every)
                heard.begin(vid, seen.duration, len(questions))
                heard.add(vid, 0, seen.grid.centres, cosines.T)
                curves = heard.of(vid, [q.said() for q in questions])
            found[vid] = [
                Answer(vid, (q.said(),), tuple(replace(s, label=q.label, query=q.query) for s in row if share >= least),
                       share, saliency=None if curves is None else curves.only([i]))
                for i, (q, row, share) in enumerate(zip(questions, segments, sure, strict=True))]
        return found

    @cached_property
    def _nothing(self) -> Floats:
        return self.space.read(NOTHING)

    def _sure(self, rows: Floats, cosines: Floats) -> list[float]:
        """Of each column of ``(T, Q)`` cosines, how sure its best is."""
        if not len(rows):
            return [0.0] * cosines.shape[1]
        nonsense = chance((rows @ self._nothing.T).max(axis=0))
        return [nonsense.cdf(float(value)) for value in cosines.max(axis=0)]


Model = TrainedLocalizer | Similarity


def load(source: str | Path, device: torch.device | str = "cpu", ensemble: Ensemble = "first",
         shortlist: int | None = None, text: str | None = None) -> Model:
    """What localizes: a localizer's checkpoint; or, without training, what an encoder shares with sentences.

    Args:
        source: a localizer's checkpoint; an encoder's that CLAP has trained; a CLIP's folder in transformers' layout,
            or its name (``clip-b16``, ``clip:`` and a model of the hub: :func:`cuemark.encoders.weights.load`).
        ensemble: see :attr:`TrainedLocalizer.ensemble`.
        shortlist: of the classes and sentences that one with an open vocabulary is asked for, it is asked only for the
            so many that a video looks most like (:attr:`cuemark.localizers.unloc.Config.top`); it says so where the
            localizer did not learn that.
        text: without training: what reads sentences, where the encoder does not say it
            (:func:`cuemark.similarity.space_of`).

    Raises:
        ModelError: no such file, one that holds neither, or an encoder that shares no space with sentences.
        CallError: no such name, or a setting that is for another kind.
    """
    path = Path(source)
    if path.is_file() and checkpoint.kind_of(path) not in ("encoder", None):
        model = TrainedLocalizer.load(path).to(device)
        if text is not None:
            raise CallError(f"this {model.name} says itself what reads sentences; leave text (--text) out.")
        model.ensemble = ensemble
        if shortlist is not None:
            if model.network.asked != "text":
                raise CallError(f"this {model.name} is not asked for classes by their names, so there is nothing to "
                                "make a shortlist of.")
            if not model.likens:
                say(f"a shortlist of this {model.name} is little better than drawn: it did not learn which classes a "
                    "video looks like; train it with options.similarity_weight=0.3, or leave the shortlist out")
            model.network.config = replace(model.network.config, top=shortlist)
        if ensemble == "outputs" and model.network.asked == "text" and model.network.config.top:
            raise CallError("each of the 28 prompts would make another shortlist; average their embeddings with it "
                            "(--prompts embeddings), or leave the shortlist out.")
        return model
    encoder = weights.load(source)
    if ensemble != "first" or shortlist is not None:
        raise CallError(f"'{source}' is an encoder, no localizer, and has neither other prompts nor a shortlist; leave "
                        "them out.")
    try:
        return Similarity(encoder, space_of(encoder, text), Config(), device)
    except ModelError as error:
        raise ModelError(f"'{source}' is of kind 'encoder', no localizer, and cannot be asked without training either: "
                         f"{error}") from None


def names_by(source: str | Path | Sequence[str], model: Model) -> Names:
    """What names the proposals of a localizer that names none, video by video (:mod:`cuemark.localizers.classify`).

    Args:
        source: ``"encoder"``, the class head of the localizer's video encoder; a file of video-level scores
            (:func:`cuemark.datasets.video_scores.read_video_scores`); or labels, which a CLAP encoder compares with
            what it sees.

    Raises:
        CallError: there is no trained localizer.
        DataError: the file cannot be read.
        ModelError: the checkpoint holds no encoder, or one that cannot name.
    """
    if isinstance(model, Similarity):
        raise CallError(f"'{model.name}' is no trained localizer, and what it finds is named as it was asked; leave "
                        "names and labels out.")
    if isinstance(source, Path) or (isinstance(source, str) and source != "encoder"):
        scores = read_video_scores(source)
        return lambda _: scores
    if model.encoder is None:
        raise ModelError("this localizer was trained without an encoder at hand, so nothing in it can name what it "
                         "finds; train it with encoder.start, or bring a file of video-level scores.")
    encoder = model.encoder
    if isinstance(source, str):
        return lambda features: encoder_scores(features, encoder)
    return lambda features: text_scores(features, encoder, source)


def localize(video: str | Path, model: Model, queries: Sequence[str] = (), examples: Sequence[str | Shown] = (),
             classes: Sequence[str] = ()) -> list[Segment]:
    """All segments of one video, best first, of each query: ``model.localize`` in one list.

    Raises:
        VideoError, ModelError, CallError: see :meth:`TrainedLocalizer.localize` and :meth:`Similarity.localize`.
    """
    return [segment for answer in model.localize(video, queries, classes, examples) for segment in answer.segments]


def localize_all(videos: Mapping[str, str | Path] | Sequence[str | Path], model: TrainedLocalizer,
                 queries: Sequence[str] = (), examples: Sequence[str | Shown] = (), names: Names | None = None,
                 classes: Sequence[str] = ()) -> tuple[Predictions, dict[str, str]]:
    """Many videos at once: the segments of each, and why the others could not be looked at.

    Args:
        names: what names the segments of a localizer that names none (:func:`names_by`).
        queries, examples, classes: see :meth:`TrainedLocalizer.localize`.

    Raises:
        ModelError, CallError, VideoError: see there.
    """
    found: Predictions = {}
    failed: dict[str, str] = {}
    for answer in model.localize(videos, queries, classes, examples, names=names):
        if answer.failed is not None:
            failed[answer.video] = answer.failed
        else:
            found.setdefault(answer.video, []).extend(answer.segments)
    return found, failed


def answer_features(folder: FeatureFolder, model: Model, only: Sequence[str] | None = None, *,
                    queries: Sequence[str] = (), examples: Sequence[str | Shown] = (), classes: Sequence[str] = (),
                    truth: Truth | None = None, proposals: Predictions | None = None, names: Names | None = None,
                    least: float = 0.0, every: float | None = None) -> list[Answer]:
    """``model.localize`` on the videos of a features folder, many of them together.

    Args:
        only: these videos, where they are there.
        queries: see :meth:`TrainedLocalizer.localize`; the same sentences of every video.
        examples, classes, least, every: see there.
        truth: to what is asked sentences: each video is asked its own of these (of raw videos: :func:`localize_truth`).
        proposals: to a localizer that judges them, where it has no proposer inside.
        names: what names the segments of a localizer that names none (:func:`names_by`).

    Raises:
        ModelError: the features are not the ones the model goes with.
        CallError, VideoError: see :meth:`TrainedLocalizer.localize`.
    """
    model.fits(folder)
    chosen = list(folder) if only is None else [v for v in only if v in folder]
    asked: Mapping[str, Sequence[Question]]
    if truth is not None and reads(model) and not queries and not classes:
        chosen = [vid for vid in chosen if vid in truth]
        asked = {vid: list(dict.fromkeys(question for question, _ in questions_of(truth[vid].annotations)))
                 for vid in chosen}
    else:
        asked = dict.fromkeys(chosen, model.asks(queries, classes, examples))
    if isinstance(model, Similarity):
        within("least", least, 0, 1)
        if proposals is not None:
            raise CallError(f"'{model.name}' is no trained localizer and judges no proposals; leave them out.")
    found: list[Answer] = []
    for first in range(0, max(len(chosen), 1), _TOGETHER):
        features = {vid: folder[vid] for vid in chosen[first : first + _TOGETHER]}
        told = (model.answers(features, asked, least=least, every=every) if isinstance(model, Similarity) else
                model.answers(features, asked, proposals=proposals, names=names, least=least, every=every))
        found += [answer for answers in told.values() for answer in answers]
    return found


def localize_truth(videos: str | Path, model: Model, truth: Truth, queries: Sequence[str] = (),
                   classes: Sequence[str] = (), examples: Sequence[str | Shown] = (), **how: Any) -> Iterator[Answer]:
    """``model.localize`` on the videos of a truth, which lie in a folder: each is asked its own sentences, if any are.

    Args:
        videos: the folder; files are found by their names (:func:`cuemark.video.find_videos`).
        queries, classes, examples, how: see :meth:`TrainedLocalizer.localize`; where there are sentences or classes,
            every video is asked these.

    Raises:
        VideoError: there is no such folder, or no video of the truth in it.
        ModelError, CallError: see :meth:`TrainedLocalizer.localize`.
    """
    own = {vid: [str(question.query) for question, _ in questions_of(v.annotations)] for vid, v in truth.items()}
    apart = reads(model) and not queries and not classes
    found = find_videos(videos, [vid for vid in truth if own[vid] or not apart])
    if not found:
        raise VideoError(f"'{videos}' holds none of the truth's videos{' that have sentences' * apart}; name the "
                         "folder whose files are called as they are.")
    return model.localize(found, {vid: own[vid] for vid in found} if apart else queries, classes, examples, **how)


def reads(model: Model) -> bool:
    """Whether it is asked sentences."""
    return isinstance(model, Similarity) or retrieves(model.network)


def localize_features(folder: FeatureFolder, model: Model, only: Sequence[str] | None = None, *,
                      queries: Sequence[str] = (), examples: Sequence[str | Shown] = (), classes: Sequence[str] = (),
                      truth: Truth | None = None,
                      proposals: Predictions | None = None, names: Names | None = None) -> Predictions:
    """Segments of the videos of a features folder: :func:`answer_features`, which says what is what, by video.

    Raises:
        ModelError, CallError, VideoError: see there.
    """
    found: Predictions = {}
    for answer in answer_features(folder, model, only, queries=queries, examples=examples, classes=classes,
                                  truth=truth, proposals=proposals, names=names):
        found.setdefault(answer.video, []).extend(answer.segments)
    return found


def answer_episodes(folder: FeatureFolder, model: Model, drawn: Sequence[Episode]) -> list[Predictions]:
    """The answers to few-shot episodes, as :func:`cuemark.metrics.episodes.episodes` scores them.

    Every query is asked about each class of its episode; each class answers for itself, and the scores compete.

    Raises:
        ModelError: the features are not the ones the localizer was trained on.
        CallError: the localizer cannot be shown examples.
        DataError: a video of an episode has no features.
    """
    model.fits(folder)
    if isinstance(model, Similarity) or model.network.asked != "examples":
        raise CallError(f"this {model.name} cannot be shown examples; train a qat for that.")
    answers = []
    with Bar("answering episodes", len(drawn)) as bar:
        for episode in drawn:
            absent = next((vid for vid in episode.queries if vid not in folder), None)
            if absent is not None:
                raise DataError(f"'{folder.folder}' has no features of '{absent}', which an episode asks about; "
                                "extract them, or draw from videos that have some.")
            features = {vid: folder[vid] for vid in episode.queries}
            examples = {vid: folder[vid] for vid in {vid for vid, _ in episode.support} if vid in folder}
            answers.append(model.predict(features, dict.fromkeys(episode.queries, shown(episode.support, examples))))
            bar.advance()
    return answers
