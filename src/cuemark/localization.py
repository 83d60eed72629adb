"""Checkpoint and video to segments: the main job, on raw files of any length or on features that are there.

What is asked depends on the localizer: nothing where it knows its classes, sentences, or examples of what to find.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cuemark.datasets.video_scores import read_video_scores
from cuemark.errors import CallError, CuemarkError, DataError, ModelError
from cuemark.extraction import features_of
from cuemark.feature_folder import FeatureFolder
from cuemark.grid import Features
from cuemark.localizers.classify import encoder_scores, name_predictions, text_scores
from cuemark.localizers.frames import Footage
from cuemark.localizers.questions import Example, Question, questions_of, retrieves, shown
from cuemark.localizers.trained import Ensemble, TrainedLocalizer
from cuemark.metrics.episodes import Episode
from cuemark.progress import Bar, say
from cuemark.segments import Predictions, Segment, Truth

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


def load(path: str | Path, device: torch.device | str = "cpu", ensemble: Ensemble = "first",
         shortlist: int | None = None) -> TrainedLocalizer:
    """Read a localizer checkpoint.

    Args:
        ensemble: see :attr:`TrainedLocalizer.ensemble`.
        shortlist: of the classes that one with an open vocabulary is asked for by their names, it is asked only for the
            so many that a video looks most like (:attr:`cuemark.localizers.unloc.Config.top`).

    Raises:
        ModelError: no such file, or not a localizer's.
    """
    model = TrainedLocalizer.load(path).to(device)
    model.ensemble = ensemble
    if shortlist is not None:
        if model.network.asked != "text":
            raise CallError(f"this {model.name} is not asked for classes by their names, so there is nothing to make a "
                            "shortlist of.")
        model.network.config = replace(model.network.config, top=shortlist)
    return model


Names = Callable[[Mapping[str, Features]], Mapping[str, Mapping[str, float]]]
"""Features of videos to the score of each label for each video."""


def names_by(source: str | Path | Sequence[str], model: TrainedLocalizer) -> Names:
    """What names the proposals of a localizer that names none, video by video (:mod:`cuemark.localizers.classify`).

    Args:
        source: ``"encoder"``, the class head of the localizer's video encoder; a file of video-level scores
            (:func:`cuemark.datasets.video_scores.read_video_scores`); or labels, which a CLAP encoder compares with
            what it sees.

    Raises:
        DataError: the file cannot be read.
        ModelError: the checkpoint holds no encoder, or one that cannot name.
    """
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


def localize(video: str | Path, model: TrainedLocalizer, queries: Sequence[str] = (),
             examples: Sequence[str | Shown] = (), classes: Sequence[str] = ()) -> list[Segment]:
    """When does it happen in this video? Segments in seconds; best first, of each query.

    Args:
        queries: sentences, to a localizer that is asked any; the answers carry them.
        examples: ``"clip.mp4:3-7"``: what to find more of, to a localizer that is shown examples.
        classes: names of what to find, to a localizer with an open vocabulary; by default those that it was trained on.

    Raises:
        VideoError: a file cannot be used.
        ModelError: the checkpoint holds no encoder.
        CallError: the localizer cannot be asked that, or was asked nothing.
    """
    return _answer(video, model, asked_of(model, queries, examples, classes))


def localize_all(videos: Mapping[str, str | Path] | Sequence[str | Path], model: TrainedLocalizer,
                 queries: Sequence[str] = (), examples: Sequence[str | Shown] = (), names: Names | None = None,
                 classes: Sequence[str] = ()) -> tuple[Predictions, dict[str, str]]:
    """Many videos: the segments of each, and why the others could not be looked at. One bad file ends nothing.

    Args:
        names: what names the segments of a localizer that names none (:func:`names_by`).
        queries, examples, classes: see :func:`localize`.

    Raises:
        ModelError, CallError: see :func:`localize`.
        VideoError: an example cannot be used.
    """
    files = dict(videos) if isinstance(videos, Mapping) else by_name(videos)
    found: Predictions = {}
    failed: dict[str, str] = {}
    _eyes(model)
    questions = asked_of(model, queries, examples, classes)
    with Bar("localizing", len(files)) as bar:
        for name, path in files.items():
            try:
                found[name] = _answer(path, model, questions, name, names)
            except CuemarkError as error:
                failed[name] = str(error)
                say(f"left out: {error}")
            bar.advance()
    return found, failed


def localize_features(folder: FeatureFolder, model: TrainedLocalizer, only: Sequence[str] | None = None, *,
                      queries: Sequence[str] = (), examples: Sequence[str | Shown] = (), classes: Sequence[str] = (),
                      truth: Truth | None = None,
                      proposals: Predictions | None = None, names: Names | None = None) -> Predictions:
    """Segments of the videos of a features folder.

    Args:
        only: these videos, where they are there.
        queries: see :func:`localize`; the same sentences of every video.
        examples: see :func:`localize`.
        classes: see :func:`localize`.
        truth: to a localizer that is asked sentences: each video is asked its own of these.
        proposals: to a localizer that judges them, where it has no proposer inside.
        names: what names the segments of a localizer that names none (:func:`names_by`).

    Raises:
        ModelError: the features are not the ones the localizer was trained on.
        CallError: see :func:`localize`.
        VideoError: an example cannot be used.
    """
    model.fits(folder)
    chosen = list(folder) if only is None else [v for v in only if v in folder]
    if truth is not None and retrieves(model.network) and not queries and not classes:
        chosen = [vid for vid in chosen if vid in truth]
        asked = {vid: [question for question, _ in questions_of(truth[vid].annotations)] for vid in chosen}
    else:
        asked = dict.fromkeys(chosen, asked_of(model, queries, examples, classes))
    features = {vid: folder[vid] for vid in chosen}
    found = model.predict(features, asked, proposals)
    return found if names is None else name_predictions(found, names(features))


def answer_episodes(folder: FeatureFolder, model: TrainedLocalizer, drawn: Sequence[Episode]) -> list[Predictions]:
    """The answers to few-shot episodes, as :func:`cuemark.metrics.episodes.episodes` scores them.

    Every query is asked about each class of its episode; each class answers for itself, and the scores compete.

    Raises:
        ModelError: the features are not the ones the localizer was trained on.
        CallError: the localizer cannot be shown examples.
        DataError: a video of an episode has no features.
    """
    model.fits(folder)
    if model.network.asked != "examples":
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


def asked_of(model: TrainedLocalizer, queries: Sequence[str] = (), examples: Sequence[str | Shown] = (),
             classes: Sequence[str] = ()) -> list[Question]:
    """What a localizer is asked, checked against what it can answer; videos of examples are looked at once.

    Raises:
        CallError: it is asked what it cannot answer, or nothing where it needs a question.
        VideoError: an example's file cannot be used.
        ModelError: the checkpoint holds no encoder to look at examples.
    """
    kind = model.network.asked
    if kind == "text" and not examples:
        queries, classes = [q for q in queries if q.strip()], [c for c in classes if c.strip()]
        if not queries and not classes and retrieves(model.network):
            raise CallError(f"this {model.name} was trained to find sentences; ask it one (--query), or for classes "
                            "(--classes).")
        return [*(Question(label=name) for name in classes or (() if queries else model.classes)),
                *(Question(query) for query in queries)]
    if classes:
        raise CallError(f"this {model.name} cannot be asked for classes by their names; train an unloc for that.")
    if queries and kind != "sentence":
        raise CallError(f"this {model.name} cannot be asked sentences; " + (
            f"it finds its classes: {', '.join(model.classes[:5]) or 'any action'}{' …' * (len(model.classes) > 5)}."
            if kind == "classes" else "show it examples of what to find (--examples)."))
    if examples and kind != "examples":
        raise CallError(f"this {model.name} cannot be shown examples; train a qat for that.")
    if kind == "sentence":
        if not [query for query in queries if query.strip()]:
            raise CallError(f"this {model.name} answers sentences; ask it one (--query).")
        return [Question(query) for query in queries]
    if kind == "classes":
        return []
    if not examples:
        raise CallError(f"this {model.name} finds more of what it is shown; show it examples (--examples "
                        "clip.mp4:3-7).")
    told = [Shown.parse(example) if isinstance(example, str) else example for example in examples]
    seen: dict[Path, Features] = {}
    marked: dict[Path, list[Segment]] = {}
    for example in told:
        if example.file not in seen:
            seen[example.file] = _seen(example.file, model)
        if example.start >= seen[example.file].duration:
            raise CallError(f"the example {example.file}:{example.start:g}-{example.end:g} begins after its video has "
                            f"ended ({seen[example.file].duration:.1f} s).")
        marked.setdefault(example.file, []).append(Segment(example.start, example.end))
    return [Question(examples=tuple(Example(seen[file], tuple(spans)) for file, spans in marked.items()))]


def by_name(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Files under the names they are reported by: the stem, or the path where two stems are the same."""
    stems = [Path(p).stem for p in paths]
    return {stem if stems.count(stem) == 1 else str(p): Path(p) for stem, p in zip(stems, paths, strict=True)}


def _answer(video: str | Path, model: TrainedLocalizer, questions: Sequence[Question], name: str = "",
            names: Names | None = None) -> list[Segment]:
    if model.clip is not None:  # an image tower inside looks at the frames itself
        footage = Footage({name: Path(video)}, model.clip)
        return model.predict(footage.clocks(), {name: questions}, footage=footage)[name]
    features = {name: _seen(video, model)}
    found = model.predict(features, {name: questions})
    return (found if names is None else name_predictions(found, names(features)))[name]


def _eyes(model: TrainedLocalizer) -> None:
    if model.encoder is None and model.clip is None:
        raise ModelError("this localizer was trained without an encoder at hand, so it cannot look at a raw video; "
                         "train it with encoder.start, or localize on extracted features.")


def _seen(video: str | Path, model: TrainedLocalizer) -> Features:
    _eyes(model)
    assert model.encoder is not None
    return features_of(video, model.encoder, model.extraction, device=model.device)[0]
