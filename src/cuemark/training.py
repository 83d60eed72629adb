"""The two trainings, from a recipe to a checkpoint: an encoder (:func:`pretrain`), a localizer (:func:`train`).

:func:`sweep` pre-trains once for each value of a setting and keeps the best encoder, as TSP's paper chose the rate of
its heads.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from cuemark import ranks, video
from cuemark.batch import Localizer
from cuemark.clips import ClipSet
from cuemark.conversion import predictions_of, truth_of
from cuemark.datasets.splits import few_shot, read_classes
from cuemark.encoders import weights
from cuemark.encoders.clip import Frames, ImageTower, refitted
from cuemark.encoders.resnet3d import ResNet3D
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, DataError, ModelError, unknown
from cuemark.feature_files import HDF5_ENDINGS, read_global
from cuemark.feature_folder import FeatureFolder, global_features
from cuemark.folders import locked
from cuemark.grid import Features
from cuemark.localizers import LOCALIZERS, calibration
from cuemark.localizers import build as build_localizer
from cuemark.localizers.calibration import Calibration
from cuemark.localizers.frames import (
    Augment,
    Footage,
    FrameData,
    Inputs,
    Seen,
    features_described,
    let_out,
    tower_of,
)
from cuemark.localizers.questions import (
    PLAIN,
    EpisodeData,
    FeatureData,
    Question,
    Words,
    predict,
    questions_of,
    reading,
    retrieves,
    rows_of,
    shown,
)
from cuemark.localizers.trained import TrainedLocalizer, described
from cuemark.localizers.unloc import UnLoc
from cuemark.loop import LAST, Result, fit
from cuemark.metrics.detection import detection
from cuemark.metrics.episodes import Episode, draw, episodes
from cuemark.metrics.frames import frames
from cuemark.metrics.grounding import grounding
from cuemark.metrics.proposals import proposals
from cuemark.metrics.reliability import judged
from cuemark.nn.spans import Lengths
from cuemark.pretraining import OBJECTIVES
from cuemark.pretraining.data import ClipData
from cuemark.progress import say
from cuemark.recipe import Data, Recipe
from cuemark.segments import Predictions, Segment, Truth, labels_of, read_json, replacing, subset, write_json
from cuemark.settings import build, override
from cuemark.text import ACTION_PROMPTS, TextEncoder, pooling_of, words_of

ENCODER_FILE = "encoder.safetensors"
LOCALIZER_FILE = "localizer.safetensors"
SEEN = "seen"
"""Folder of a run for what its frozen image tower said of the videos (:class:`cuemark.localizers.frames.Seen`)."""
SWEEP_FILE = "sweep.json"
VALIDATION_FPS = 10.0
"""Frames a second that are looked at to choose the weights of what labels frames."""
SHORT = {"head_lr": "optim.lr_heads"}
"""Short names of settings that are swept."""


def pretrain(recipe: Recipe, out: str | Path, device: torch.device | str = "cpu") -> tuple[VideoEncoder, Result]:
    """Pre-train a video encoder (TAC, TSP or CLAP) and write ``out/encoder.safetensors``.

    An unfinished run in ``out`` is continued. Processes that ``torchrun`` started train one encoder together.

    Raises:
        CallError, DataError, ModelError, VideoError: the recipe or something it names cannot be used.
    """
    with ranks.together(device) as mine:
        return _pretrain(recipe, Path(out), mine)


def _pretrain(recipe: Recipe, out: Path, device: torch.device) -> tuple[VideoEncoder, Result]:
    if recipe.system not in OBJECTIVES:
        raise unknown("objective", recipe.system, OBJECTIVES)
    objective, module = OBJECTIVES[recipe.system]
    start = weights.load(recipe.encoder.start) if recipe.encoder.start else None
    if start is not None and not isinstance(start.network, ResNet3D):
        raise ModelError(f"'{recipe.encoder.start}' is no video ResNet; name one in encoder.start.")
    clip = start.clip if start else recipe.encoder.clip
    torch.manual_seed(recipe.seed)
    network = start.network if start and isinstance(start.network, ResNet3D) else ResNet3D(recipe.encoder.network)

    truth = _truth(recipe.data)
    training = subset(truth, *recipe.data.train)
    classes = labels_of(training)
    options = dict(recipe.options)
    text = None
    if objective.needs_text:
        text = TextEncoder.load(recipe.encoder.text, max_tokens=recipe.encoder.max_tokens)
        options["text_dim"] = text.dim
    config = build(module.Config, options, "recipe", "options")
    model = objective(config, network, classes)

    folder = recipe.data.videos
    if folder is None:
        raise DataError("pre-training reads videos; name their folder in the recipe: data.videos.")
    captions: Mapping[str, Sequence[Segment]] = {}
    if recipe.data.captions and getattr(config, "captions", False):
        captions = {vid: video.annotations for vid, video in truth_of(recipe.data.captions).items()}
    elif getattr(config, "captions", False):
        say("no dense captions are given (data.captions): every clip carries its prompt")
    pooled = None
    if model.global_pooling:
        if recipe.data.features is None:
            raise DataError("TSP's region head needs global video features; name a features folder of the encoder it "
                            "starts from, or a file of cuemark gvf (data.features), or set options.global_feature = "
                            "\"none\".")
        pooled = _global_features(recipe.data.features, model.global_pooling, network.dim, truth)

    def clip_data(part: Truth, learning: bool) -> ClipData:
        files = video.find_videos(folder, part)
        sampling = recipe.encoder.sampling
        if not getattr(config, "captions", True):
            sampling = replace(sampling, p_caption=0.0)
        clips = ClipSet(part, files, clip, sampling, model.needs_background, learning, recipe.seed,
                        recipe.budget_gb * 1e9 / (1 if learning else 4))
        return ClipData(clips, classes, recipe.optim.batch, text, captions,
                        getattr(config, "background_captions", True), pooled, recipe.workers)

    validate = None
    if recipe.data.validate:
        validation = clip_data(subset(truth, *recipe.data.validate), learning=False)
        validate = _accuracies(validation, device)
    identity = {"recipe": recipe.identity(), "start": start.weights if start else None,
                "annotations": _digest(training), "captions": _digest(captions) if captions else None,
                "global_features": None if pooled is None else _digest({k: v.tobytes() for k, v in pooled.items()})}
    with _alone(out):
        result = fit(
            model, clip_data(training, learning=True), recipe.optim, out, what=f"pre-training {recipe.system}",
            seed=recipe.seed, device=device, keep=recipe.keep, validate=validate,
            validate_every=recipe.validate_every, checkpoint_every=recipe.checkpoint_every,
            tensorboard=recipe.tensorboard, identity=identity,
        )
    model.to("cpu")
    head = getattr(model, "class_head", None)
    rest = {k: v for k, v in model.state_dict().items() if not k.startswith(("encoder.", "class_head."))}
    encoder = VideoEncoder(
        network.eval(), clip, f"{recipe.system} {network.config.kind}", tuple(classes) if head is not None else (),
        dict(head.state_dict()) if head is not None else {}, rest,
        {"system": recipe.system, "recipe": recipe.to_json(), "scores": result.best},
    )
    if ranks.rank() == 0:
        encoder.save(out / ENCODER_FILE)
    ranks.wait()
    return encoder, result


def _truth(data: Data, part: Literal["base", "validation"] = "base") -> Truth:
    """The truth of a recipe; with ``data.classes``, of the videos that show these classes and no other.

    Of a few-shot split, the classes of ``part``.

    Taking the other annotations away alone would turn them into background: a new class would be seen after all.
    """
    truth = truth_of(data.truth)
    if data.classes is None:
        return truth
    names = _classes(Path(data.classes), part) if isinstance(data.classes, str) else list(data.classes)
    absent = sorted(set(names) - set(labels_of(truth)))
    kept = {vid: v for vid, v in truth.items()
            if v.annotations and {s.label for s in v.annotations} <= set(names)}
    if not kept:
        raise DataError(f"'{data.truth}' has no video that shows only classes of data.classes ({', '.join(names[:3])} "
                        f"…); its labels are {', '.join(labels_of(truth)[:5]) or 'none'} ….")
    if absent:
        say(f"{len(absent)} of the {len(names)} classes of data.classes are not in '{data.truth}', '{absent[0]}' first")
    return kept


def _digest(told: Mapping[str, Any]) -> str:
    """Of what is trained on: a recipe names its file, which may change between two calls."""
    return hashlib.sha256(repr(sorted(told.items())).encode()).hexdigest()[:16]


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One run at a time in a folder; of processes that train together, the first holds it for all.

    Raises:
        CuemarkError: another run is at work there.
    """
    with locked(out) if ranks.rank() == 0 else nullcontext():
        yield


def _classes(path: Path, part: str = "base") -> list[str]:
    """The classes that a file names; of a few-shot split, those of ``part``."""
    if path.suffix.lower() == ".json" and isinstance(read_json(path, "class"), dict):
        return few_shot(path)[part]
    return read_classes(path)


def _global_features(source: str, pooling: Literal["max", "mean"], dim: int, videos: Collection[str]
                     ) -> dict[str, np.ndarray]:
    """The global video features of ``videos``, of a features folder or an HDF5 file such as TSP's release has."""
    path = Path(source)
    if path.suffix.lower() not in HDF5_ENDINGS:
        features = FeatureFolder.open(path)
        if features.dim != dim:
            raise DataError(f"'{features.folder}' has features of width {features.dim} ({features.meta['encoder']}), "
                            f"but the encoder that is trained here has {dim}; extract them with the encoder it "
                            "starts from.")
        return global_features(features, pooling)
    found = read_global(path)
    width = len(next(iter(found.values())))
    if width != dim:
        raise DataError(f"'{path}' has global video features of width {width}, but the encoder that is trained here "
                        f"has {dim}; make them with the encoder it starts from (cuemark extract, then cuemark gvf).")
    told = {"mean" if word == "avg" else word for word in re.findall(r"(?<![a-z])(?:avg|mean|max)(?![a-z])",
                                                                    path.stem.lower())}
    if len(told) == 1 and pooling not in told:
        say(f"'{path}' is called {told.pop()}, but the recipe says options.global_feature = \"{pooling}\"; the file is "
            "taken as it is")
    # the file has the names of videos' files, up to their first dot: ActivityNet's begin with v_
    keys = {vid: next((k for k in (vid, vid.split(".")[0], f"v_{vid}", vid.removeprefix("v_")) if k in found), None)
            for vid in videos}
    return {vid: found[key] for vid, key in keys.items() if key is not None}


def _accuracies(data: ClipData, device: torch.device) -> Callable[[nn.Module], dict[str, float]]:
    """Accuracy of each head, and their mean as the score: the papers' model selection (TSP section 4.1)."""

    def validate(model: nn.Module) -> dict[str, float]:
        right: dict[str, np.ndarray] = {}
        for batch in data.epoch(0):
            batch = batch.to(device)
            for name, pair in model.accuracy(model(batch), batch).items():  # type: ignore[operator]
                right[name] = right.get(name, np.zeros(2)) + np.array(pair)
        shares = {name: float(r / max(n, 1)) for name, (r, n) in ranks.summed(right).items()}
        return {**shares, "score": float(np.mean(list(shares.values())))}

    return validate


# ---------------------------------------------------------------------------------------------- sweeps


@dataclass(frozen=True)
class Swept:
    """The run with one value of a sweep."""

    value: Any
    folder: str
    """In the sweep's."""
    steps: int
    scores: dict[str, float]
    """Of the validation whose weights were kept; ``step`` says when."""
    epoch: float | None
    """When that was, in epochs done; None for a recipe that counts updates."""


@dataclass(frozen=True)
class Sweep:
    """What each value of a setting came to."""

    field: str
    runs: tuple[Swept, ...]
    best: Swept

    def to_json(self) -> dict[str, Any]:
        return {"field": self.field, "best": self.best.value, "runs": [vars(run) for run in self.runs]}


def sweep(recipe: Recipe, field: str, values: Sequence[Any], out: str | Path, device: torch.device | str = "cpu"
          ) -> Sweep:
    """Pre-train with each of ``values`` for ``field``, each in ``out/<field>=<value>``, and keep the best encoder.

    The best has the highest score of the validation, which is the mean accuracy of the heads (TSP section 4.1), over
    all values and epochs; of two with one score, the first. Its encoder becomes ``out/encoder.safetensors``, and what
    all came to ``out/sweep.json``. Runs that are finished are not trained again, and one that was stopped goes on.

    Args:
        field: a setting of a recipe, ``section.field``, or a name of :data:`SHORT` (``head_lr``).
        values: numbers, texts, lists: what the setting takes.

    Raises:
        CallError: no value, one that cannot be the name of a folder, or no such setting; before anything is trained.
        DataError: a value of the wrong type, a recipe without validation, or ``out`` holds a run of its own.
        CallError, DataError, ModelError, VideoError: see :func:`pretrain`.
    """
    out, field = Path(out), SHORT.get(field, field)
    if not values:
        raise CallError(f"a sweep of {field} needs values, such as head_lr=0.002,0.004.")
    recipes: dict[str, tuple[Any, Recipe]] = {}
    for value in values:
        text = value if isinstance(value, str) else json.dumps(value)
        if "/" in text or "\\" in text or len(text.encode()) > 100:
            raise CallError(f"the value '{text}' of {field} cannot be the name of a folder; run it by itself.")
        data = recipe.to_json()
        override(data, f"{field}={text}")
        recipes[f"{field}={text}"] = value, build(Recipe, data, "recipe")
    for _, one in recipes.values():
        if not one.data.validate:
            raise DataError("a sweep chooses by the validation, and this recipe has none; name its subset in "
                            "data.validate.")
    if (out / LAST).exists():
        raise DataError(f"'{out}' holds a run of its own; give the sweep another folder.")

    runs: list[Swept] = []
    with ranks.together(device) as mine:
        for folder, (value, one) in recipes.items():
            say(f"{folder} ({len(runs) + 1} of {len(recipes)})")
            _, result = pretrain(one, out / folder, mine)
            scores = result.best or {}
            epoch = None
            if scores and one.optim.steps is None:
                epoch = round(scores["step"] / result.steps * one.optim.epochs, 3)
            runs.append(Swept(value, folder, result.steps, dict(scores), epoch))
        judged = [run for run in runs if run.scores]
        if not judged:
            raise ModelError(f"no run of the sweep of {field} has a score; look into the logs in '{out}'.")
        found = Sweep(field, tuple(runs), max(judged, key=lambda run: run.scores["score"]))
        if ranks.rank() == 0:
            best = out / found.best.folder / ENCODER_FILE
            with open(best, "rb") as source, replacing(out / ENCODER_FILE, "wb") as file:
                shutil.copyfileobj(source, file)
            write_json(out / SWEEP_FILE, found.to_json())
    return found


# ---------------------------------------------------------------------------------------------- localizers


@dataclass
class _Seen:
    """What a localizer learns from: features, or the clocks of videos whose frames it looks at itself."""

    features: Mapping[str, Features]
    dim: int
    where: str
    weights: str
    """Of what made, or will make, the features."""
    encoder: VideoEncoder | None
    folder: FeatureFolder | None = None
    footage: Footage | None = None


def train(recipe: Recipe, out: str | Path, encoder: VideoEncoder | None = None, device: torch.device | str = "cpu"
          ) -> tuple[TrainedLocalizer, Result]:
    """Train a localizer on a features folder, or on videos, and write ``out/localizer.safetensors``.

    What was right of its answers to the validation videos then makes probabilities of its scores
    (:mod:`cuemark.localizers.calibration`). What a frozen image tower says of a row of frames that looks the same again
    (``towers.augment = "none"`` without ``towers.shift``; in validation always) is kept in ``out/seen`` or the recipe's
    ``seen``, so that it looks once; the folder can be deleted afterwards.

    Args:
        encoder: the one that made the features: it travels inside the checkpoint, which then runs on raw video.
            By default the recipe's ``encoder.start`` is loaded, if it is given.

    Raises:
        CallError, DataError, ModelError, VideoError: the recipe or something it names cannot be used.
    """
    out = Path(out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CallError("a localizer trains in one process; start it without torchrun.")
    if recipe.system not in LOCALIZERS:
        raise unknown("localizer", recipe.system, LOCALIZERS)
    asked, judges = LOCALIZERS[recipe.system].asked, LOCALIZERS[recipe.system].judges
    seen = _features(recipe, encoder) if recipe.data.features is not None else None
    truth = _truth(recipe.data)
    seen = seen or _videos(recipe, truth, encoder)
    features = seen.features
    training = subset(truth, *recipe.data.train)
    missing = [v for v in training if v not in features]
    if len(missing) == len(training):
        raise DataError(f"{seen.where} has none of the {len(training)} training videos; '{missing[0]}' is the first "
                        "that is missing" + (": extract them." if seen.folder is not None else "."))
    # one that is shown examples is chosen by classes that it was not trained on, where there is a split of classes
    chooses = _truth(recipe.data, "validation") if asked == "examples" and recipe.data.validate else truth
    validation = subset(chooses, *recipe.data.validate) if recipe.data.validate else {}
    held = {vid: video for vid, video in validation.items() if vid in features}
    if validation and not held:
        raise DataError(f"{seen.where} has none of the {len(validation)} validation videos; " + (
            "extract them, or " if seen.folder is not None else "") + "set data.validate = [].")

    options = dict(recipe.options)
    text = recipe.encoder.text if asked in ("sentence", "text") else None
    if text is not None and options.get("fusion") != "none":
        reader = words_of(text, recipe.encoder.max_tokens)
        options["text_dim"] = reader.dim
        if recipe.system == "unloc":
            options.setdefault("pooling", pooling_of(reader))
    torch.manual_seed(recipe.seed)
    network = build_localizer(recipe.system, options, seen.dim, labels_of(training))
    inputs = _towers(network, recipe, seen, text) if isinstance(network, UnLoc) else None
    words, prompts = reading(network, text, recipe.encoder.max_tokens)
    if seen.encoder is not None and seen.encoder.class_head and getattr(network.config, "names", None) == "encoder":
        name_by = getattr(network, "name_by")  # noqa: B009 (of those that have such names)
        name_by(seen.encoder.class_head["weight"], seen.encoder.class_head["bias"], seen.encoder.classes)
    begun = {} if recipe.start is None else _begin(network, recipe.system, recipe.start, seen.folder)
    if isinstance(network, UnLoc) and isinstance(network.image, Frames) and network.config.freeze_image:
        assert inputs is not None
        assert inputs.footage is not None
        inputs.seen = Seen(inputs.footage, network.image, Path(recipe.seen) if recipe.seen else out / SEEN)
    drawn = _draws(network, chooses, held, features, recipe) if asked == "examples" and held else []
    used = {vid: features[vid] for vid in dict.fromkeys((*training, *held, *(v for e in drawn for v, _ in e.support)))
            if vid in features}
    proposer, proposed = None, None
    if judges and seen.folder is not None:
        proposer, proposed = _proposals(recipe.data.proposals, seen.folder, used)
    data: EpisodeData | FeatureData | FrameData
    if asked == "examples":
        data = EpisodeData.of(network, used, training, recipe.optim.batch, recipe.seed)
        absent, needs = "class that two of the training videos show", "classes, each in several videos"
    else:
        data = FeatureData(rows_of(network, used, training, proposed), recipe.optim.batch, recipe.seed, words)
        if isinstance(network, UnLoc) and not retrieves(network):
            data.classes, data.negatives = network.classes, network.config.negatives
            data.prompts = PLAIN if prompts == PLAIN else ACTION_PROMPTS
        absent, needs = "sentence with a moment in any of the training videos", "annotations that have a sentence"
    if not len(data):
        raise DataError(f"'{recipe.data.truth}' has no {absent}; a {recipe.system} learns from {needs}.")
    if inputs is not None:
        augment = {"full": Augment(), "plain": Augment.plain(), "none": None}[recipe.towers.augment]
        data = FrameData(data, inputs, augment, recipe.towers.shift, recipe.seed, recipe.workers)
    lengths = lengths_of({vid: video for vid, video in training.items() if vid in used}, used
                       ) if _sees_all(network) else None
    validate = None
    if held:
        validate = (_answered(held, used, drawn, lengths) if asked == "examples" else
                    _score(held, used, words, prompts, proposed, inputs, lengths))

    identity = {"recipe": recipe.identity(), "weights": seen.weights, "annotations": _digest(training),
                "proposals": None if proposed is None else _digest(proposed), **begun}
    optim = recipe.optim
    if isinstance(network, UnLoc) and not network.towers:  # it is said of towers, and on features there is none
        optim = replace(optim, recompute=False)
    with _alone(out):
        result = fit(
            network, data, optim, out, what=f"training {recipe.system}", seed=recipe.seed, device=device,
            validate=validate, validate_every=recipe.validate_every, checkpoint_every=recipe.checkpoint_every,
            tensorboard=recipe.tensorboard, identity=identity,
        )
    link = _calibrated(network, held, used, words, prompts, proposed, inputs, lengths) if held else None
    if not held:
        say("no validation videos: scores are not calibrated")
    network.to("cpu")
    eyes, clip, told = seen.encoder, None, {} if seen.folder is None else described(seen.folder)
    if seen.footage is not None and eyes is not None and isinstance(network, UnLoc):
        clip = seen.footage.clip
        if recipe.towers.pooling == "frame":  # its features hang on a frame's place in the row: it stays inside
            told, eyes = features_described(replace(eyes, clip=clip)), None
        else:
            eyes, told = let_out(network, clip, eyes)
            clip = None
    trained = TrainedLocalizer(network, recipe.system, told, eyes,
                               {"recipe": recipe.to_json(), "scores": result.best, "missing": len(missing)}, text,
                               proposer, clip, calibration=link, lengths=lengths,
                               max_tokens=recipe.encoder.max_tokens)
    trained.save(out / LOCALIZER_FILE)
    return trained, result


def _features(recipe: Recipe, encoder: VideoEncoder | None) -> _Seen:
    """The features folder of a recipe, and what made it."""
    if encoder is None and recipe.encoder.start:
        encoder = weights.load(recipe.encoder.start)
    assert recipe.data.features is not None
    folder = FeatureFolder.open(recipe.data.features)
    if encoder is not None and encoder.weights != folder.meta["weights"]:
        raise DataError(f"'{folder.folder}' was made by an encoder with weights {folder.meta['weights']}, not by "
                        f"the one named here ({encoder.weights}); extract again, or name the encoder that made them.")
    return _Seen(folder, folder.dim, f"'{folder.folder}'", folder.meta["weights"], encoder, folder)


def _videos(recipe: Recipe, truth: Truth, encoder: VideoEncoder | None) -> _Seen:
    """The videos of a recipe as clocks, and the image tower that is to look at their frames."""
    if recipe.system != "unloc" or recipe.data.videos is None:
        raise DataError("a localizer trains on features; name their folder in the recipe: data.features." + (
            " (unloc can train its image tower from data.videos.)" if recipe.system == "unloc" else ""))
    shape = recipe.towers.network
    if shape is not None and (encoder is not None or recipe.encoder.start is not None):
        raise CallError("an image tower begins either as that of a CLIP (encoder.start) or with random weights "
                        "(towers.network), and both are given; leave one out.")
    if shape is not None:  # a frame's own token begins as that of all (refitted)
        gap = recipe.towers.pooling == "gap"
        encoder = weights.random_tower(replace(shape, pooling="gap") if gap else shape, recipe.seed)
    if encoder is None:
        if recipe.encoder.start is None:
            raise DataError("training from videos tunes an image tower; name it in the recipe: encoder.start, such as "
                            "\"clip-b16\", or its shape: towers.network, or extract features and name their folder: "
                            "data.features.")
        encoder = weights.load(recipe.encoder.start)
    if not isinstance(encoder.network, ImageTower):
        raise DataError(f"training a localizer from videos needs the image tower of a CLIP in encoder.start, and "
                        f"'{encoder.name}' is none; extract features with it, and name their folder: data.features.")
    parts = subset(truth, *recipe.data.train, *recipe.data.validate)
    clip = replace(encoder.clip, fps=recipe.towers.fps)
    if recipe.towers.short_side is not None:
        clip = replace(clip, short_side=recipe.towers.short_side)
    footage = Footage(video.find_videos(recipe.data.videos, parts), clip, recipe.budget_gb * 1e9)
    return _Seen(footage.clocks(parts, recipe.workers), encoder.dim, f"'{recipe.data.videos}'", encoder.weights,
                 encoder, footage=footage)


def _towers(network: UnLoc, recipe: Recipe, seen: _Seen, text: str | None) -> Inputs | None:
    """Put the towers that are to be trained into the network; gives what feeds them, None where there are none."""
    if seen.footage is not None and seen.encoder is not None:
        assert isinstance(seen.encoder.network, ImageTower)
        clip = seen.footage.clip
        tower = seen.encoder.network
        if recipe.towers.pooling == "frame":
            tower = refitted(tower, network.config.frames)
        elif recipe.towers.pooling != tower.config.pooling:
            raise CallError(f"towers.pooling is \"{recipe.towers.pooling}\", but '{recipe.encoder.start}' has "
                            f"\"{tower.config.pooling}\"; a CLIP's name behind clip: or clip-gap: gives either.")
        network.image = Frames(tower, clip.mean, clip.std)
        if network.config.freeze_image:
            network.image.frozen()
        projection = seen.encoder.extra.get("projection")
        if projection is not None and projection.shape == network.video.weight.shape:
            network.video.weight.data.copy_(projection)
    if text is not None and network.config.fusion != "none" and not network.config.freeze_text:
        network.text = tower_of(words_of(text, recipe.encoder.max_tokens))
    if not network.towers:
        return None
    return Inputs(seen.footage, tokens=network.text is not None)


def _begin(network: nn.Module, system: str, path: str, folder: FeatureFolder | None) -> dict[str, str]:
    """Take over the weights of a localizer; gives which they were, for the run's identity."""
    first = TrainedLocalizer.load(path)
    if folder is not None:
        first.fits(folder)
    assert isinstance(first.network, nn.Module)
    if isinstance(network, UnLoc) and isinstance(network.image, Frames) and isinstance(first.network, UnLoc):
        there = first.network.image.tower if isinstance(first.network.image, Frames) else (
            first.encoder.network if first.encoder is not None else None)  # inside, or let out
        if isinstance(there, ImageTower):
            ours = network.image.tower.config
            fits = ours.pooling == "frame" and there.cls is not None
            first.network.image = Frames(refitted(there, ours.frames) if fits else there)
    begin: Callable[[nn.Module], None] | None = getattr(network, "begin", None)
    if begin is not None:
        begin(first.network)
    elif first.name != system:
        raise ModelError(f"'{path}' is a {first.name}, and a {system} cannot begin with its weights; name one of the "
                         "same kind in the recipe: start.")
    else:
        try:
            network.load_state_dict(first.network.state_dict())
        except RuntimeError as error:
            raise ModelError(f"the weights in '{path}' do not fit this {system} "
                             f"({str(error).splitlines()[-1].strip()}); give it the settings and the classes that they "
                             "were trained with.") from None
    return {"start": hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}


def _draws(network: Localizer, truth: Truth, held: Truth, folder: Collection[str], recipe: Recipe) -> list[Episode]:
    """What chooses the best weights: every class of the validation videos asked once, of all that show it.

    Examples come from training videos, where the class is in any that has features, otherwise from validation videos.
    """
    first = {vid: v for vid, v in truth.items() if v.subset in recipe.data.train and vid in folder}
    drawn: list[Episode] = []
    for label in labels_of(held):
        for support, spare in ((first, 0), (held, 1)):
            count = sum(any(s.label == label for s in v.annotations) for v in support.values())
            if count > spare:
                drawn += draw(support, held, [label], 1, min(network.config.shots, count - spare), 1, recipe.seed)
                break
    if not drawn:
        raise DataError(f"'{recipe.data.truth}' has no class of the validation videos that another video shows, from "
                        "which an example could be taken; set data.validate = [].")
    return drawn


def _answered(truth: Truth, features: Mapping[str, Features], drawn: Sequence[Episode], lengths: Lengths | None
              ) -> Callable[[nn.Module], dict[str, float]]:
    """Average mAP of answers to episodes of one class, mean over classes."""

    def validate(network: Any) -> dict[str, float]:
        found = [predict(network, {vid: features[vid] for vid in episode.queries},
                         questions=dict.fromkeys(episode.queries, shown(episode.support, features)), lengths=lengths)
                 for episode in drawn]
        score = episodes(truth, drawn, found)
        return {"score": score.average, "map50": float(score.map[0])}

    return validate


def _proposals(source: str | None, folder: FeatureFolder, features: Mapping[str, Features]
               ) -> tuple[TrainedLocalizer | None, Predictions]:
    """What is proposed in each video: by a localizer's checkpoint, or in a file of predictions or proposals."""
    if source is None:
        raise DataError("this localizer judges the proposals of another; name a localizer's checkpoint or a file of "
                        "predictions in the recipe: data.proposals.")
    if Path(source).suffix == ".safetensors":
        proposer = TrainedLocalizer.load(source)
        proposer.fits(folder)
        return proposer, proposer.predict(features)
    found = predictions_of(source)
    if not any(vid in found for vid in features):
        raise DataError(f"'{source}' has proposals for none of the videos; the first is '{next(iter(features))}'.")
    return None, found


def _score(truth: Truth, features: Mapping[str, Features], words: Words | None, prompts: Sequence[str],
           proposed: Predictions | None, inputs: Inputs | None, lengths: Lengths | None
           ) -> Callable[[nn.Module], dict[str, float]]:
    """Average mAP; the area under AR@AN of a localizer that gives no names; mean tIoU of answers to sentences; of one
    that labels frames, the share that it labels right."""

    def validate(network: Any) -> dict[str, float]:
        found = _found(network, truth, features, words, prompts, proposed, inputs, lengths)
        if retrieves(network):
            answered = grounding(truth, found, tious=(0.5, 0.7))
            return {"score": answered.miou, "r1_05": float(answered.recall[0, 0])}
        if _labels_frames(network):
            labelled = frames(truth, found, VALIDATION_FPS)
            return {"score": labelled.accuracy, "map": labelled.map}
        if not network.classes:
            return {"score": proposals(truth, found).auc}
        score = detection(truth, found)
        return {"score": score.average, "map50": float(score.map[0])}

    return validate


def _found(network: Any, truth: Truth, features: Mapping[str, Features], words: Words | None, prompts: Sequence[str],
           proposed: Predictions | None, inputs: Inputs | None, lengths: Lengths | None, strange: bool = False
           ) -> Predictions:
    """What a localizer answers to validation videos.

    Args:
        strange: ask each video as many sentences of others as it has of its own, too.
    """
    by_name = [Question(label=name) for name in network.classes]
    sentences = {vid: list(dict.fromkeys(question for question, _ in questions_of(video.annotations)))
                 for vid, video in truth.items()}
    if strange:
        sentences = _with_strange(sentences)
    asked = (None if network.asked == "classes" else sentences if retrieves(network) else
             dict.fromkeys(truth, by_name))
    return predict(network, {vid: features[vid] for vid in truth}, questions=asked, words=words, prompts=prompts,
                   proposals=proposed, look=inputs, lengths=lengths)


def _with_strange(sentences: Mapping[str, list[Question]]) -> dict[str, list[Question]]:
    """To the sentences of each video, as many of those after it that it has not itself."""
    every = [question for questions in sentences.values() for question in questions]
    found, place = {}, 0
    for vid, own in sentences.items():
        place += len(own)
        known = {question.query for question in own}
        others = {q.query: q for q in every[place:] + every[:place] if q.query not in known}
        found[vid] = [*own, *list(others.values())[: len(own)]]
    return found


def _sees_all(network: Any) -> bool:
    """Whether it brings whole videos to one size, and says where in them something is."""
    return bool(getattr(network.config, "span", None) == "video" and getattr(network.config, "boxes", True))


def lengths_of(truth: Truth, features: Mapping[str, Features]) -> Lengths:
    """Of training videos: pieces are as long as the usual one, or longer, so that most moments fit into half of one."""
    durations = [features[vid].duration for vid in truth]
    moments = [s.duration for video in truth.values() for s in video.annotations]
    piece = max(float(np.median(durations)), 2 * float(np.quantile(moments, 0.95)) if moments else 0.0)
    return Lengths(min(piece, max(durations)), max(durations))


def _labels_frames(network: Any) -> bool:
    return bool(network.asked == "text" and network.config.task == "segment")


def _calibrated(network: Any, truth: Truth, features: Mapping[str, Features], words: Words | None,
                prompts: Sequence[str], proposed: Predictions | None, inputs: Inputs | None, lengths: Lengths | None
                ) -> Calibration | None:
    """The link from its scores to probabilities, by its answers to the validation videos.

    One that is asked sentences is asked as many again that others' videos are about: a sentence that is always there
    would teach it to be sure of any. None where answers are not right or wrong: of one that labels frames, and of one
    that is shown examples, whose episodes ask only for what is there. Where it seems not to read them, that is said.
    """
    if network.asked == "examples" or _labels_frames(network):
        return None
    found = _found(network, truth, features, words, prompts, proposed, inputs, lengths, strange=True)
    if retrieves(network) and (doubt := grounding(truth, found).doubt):
        say(f"on the validation videos, {doubt} More sentences or more updates may teach it to read.")
    score, right = judged(truth, found)
    link = calibration.fit(score, right)
    if link is None:
        say(f"scores are not calibrated: {int(right.sum())} answers to validation videos are right, which is too few "
            f"(that takes {calibration.FEWEST}), or scores do not tell which")
    return link
