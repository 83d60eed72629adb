"""The two trainings, from a recipe to a checkpoint: an encoder (:func:`pretrain`), a localizer (:func:`train`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cuemark import video
from cuemark.batch import Batch
from cuemark.clips import ClipSet
from cuemark.conversion import truth_of
from cuemark.encoders import weights
from cuemark.encoders.resnet3d import ResNet3D
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import DataError, unknown
from cuemark.extraction import FeatureFolder, global_features
from cuemark.grid import Features
from cuemark.localizers import LOCALIZERS
from cuemark.localizers import build as build_localizer
from cuemark.localizers.trained import TrainedLocalizer, predict
from cuemark.loop import Result, fit
from cuemark.metrics.detection import detection
from cuemark.pretraining import OBJECTIVES
from cuemark.pretraining.data import ClipData
from cuemark.progress import say
from cuemark.recipe import Recipe
from cuemark.segments import Segment, Truth, labels_of, subset
from cuemark.settings import build
from cuemark.text import TextEncoder

ENCODER_FILE = "encoder.safetensors"
LOCALIZER_FILE = "localizer.safetensors"


def pretrain(recipe: Recipe, out: str | Path) -> tuple[VideoEncoder, Result]:
    """Pre-train a video encoder (TAC, TSP or CLAP) and write ``out/encoder.safetensors``.

    An unfinished run in ``out`` is continued.

    Raises:
        CallError, DataError, ModelError, VideoError: the recipe or something it names cannot be used.
    """
    out = Path(out)
    if recipe.system not in OBJECTIVES:
        raise unknown("objective", recipe.system, OBJECTIVES)
    objective, module = OBJECTIVES[recipe.system]
    start = weights.load(recipe.encoder.start) if recipe.encoder.start else None
    clip = start.clip if start else recipe.encoder.clip
    torch.manual_seed(recipe.seed)
    network = start.network if start else ResNet3D(recipe.encoder.network)

    truth = truth_of(recipe.data.truth)
    training = subset(truth, *recipe.data.train)
    classes = labels_of(training)
    options = dict(recipe.options)
    text = None
    if objective.needs_text:
        text = TextEncoder.load(recipe.encoder.text)
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
                            "starts from (data.features), or set options.global_feature = \"none\".")
        features = FeatureFolder.open(recipe.data.features)
        if features.dim != network.dim:
            raise DataError(f"'{features.folder}' has features of width {features.dim} ({features.meta['encoder']}), "
                            f"but the encoder that is trained here has {network.dim}; extract them with the encoder it "
                            "starts from.")
        pooled = global_features(features, model.global_pooling)

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
        validate = _accuracies(validation)
    result = fit(
        model, clip_data(training, learning=True), recipe.optim, out, what=f"pre-training {recipe.system}",
        seed=recipe.seed, validate=validate, validate_every=recipe.validate_every,
        checkpoint_every=recipe.checkpoint_every, tensorboard=recipe.tensorboard,
        identity={"recipe": recipe.identity(), "start": start.weights if start else None},
    )
    head = getattr(model, "class_head", None)
    rest = {k: v for k, v in model.state_dict().items() if not k.startswith(("encoder.", "class_head."))}
    encoder = VideoEncoder(
        network.eval(), clip, f"{recipe.system} {network.config.kind}", tuple(classes) if head is not None else (),
        dict(head.state_dict()) if head is not None else {}, rest,
        {"system": recipe.system, "recipe": recipe.to_json(), "scores": result.best},
    )
    encoder.save(out / ENCODER_FILE)
    return encoder, result


def _accuracies(data: ClipData) -> Callable[[nn.Module], dict[str, float]]:
    """Accuracy of each head, and their mean as the score: the papers' model selection (TSP section 4.1)."""

    def validate(model: nn.Module) -> dict[str, float]:
        right: dict[str, np.ndarray] = {}
        for batch in data.epoch(0):
            for name, pair in model.accuracy(model(batch), batch).items():  # type: ignore[operator]
                right[name] = right.get(name, np.zeros(2)) + np.array(pair)
        shares = {name: float(r / max(n, 1)) for name, (r, n) in right.items()}
        return {**shares, "score": float(np.mean(list(shares.values())))}

    return validate


# ---------------------------------------------------------------------------------------------- localizers


@dataclass
class FeatureData:
    """Batches of feature sequences; every epoch's order depends on (seed, epoch) alone."""

    rows: list[tuple[Features, tuple[Segment, ...]]]
    batch: int
    seed: int = 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng((self.seed, number)).permutation(len(self.rows))
        for i in range(skip, len(self)):
            chosen = [self.rows[j] for j in order[i * self.batch : (i + 1) * self.batch]]
            yield Batch.collate([f for f, _ in chosen], [t for _, t in chosen])


def train(recipe: Recipe, out: str | Path, encoder: VideoEncoder | None = None) -> tuple[TrainedLocalizer, Result]:
    """Train a localizer on a features folder and write ``out/localizer.safetensors``.

    Args:
        encoder: the one that made the features: it travels inside the checkpoint, which then runs on raw video.
            By default the recipe's ``encoder.start`` is loaded, if it is given.

    Raises:
        CallError, DataError, ModelError: the recipe or something it names cannot be used.
    """
    out = Path(out)
    if recipe.system not in LOCALIZERS:
        raise unknown("localizer", recipe.system, LOCALIZERS)
    if recipe.data.features is None:
        raise DataError("a localizer trains on features; name their folder in the recipe: data.features.")
    if encoder is None and recipe.encoder.start:
        encoder = weights.load(recipe.encoder.start)
    features = FeatureFolder.open(recipe.data.features)
    if encoder is not None and encoder.weights != features.meta["weights"]:
        raise DataError(f"'{features.folder}' was made by an encoder with weights {features.meta['weights']}, not by "
                        f"the one named here ({encoder.weights}); extract again, or name the encoder that made them.")

    truth = truth_of(recipe.data.truth)
    training = subset(truth, *recipe.data.train)
    missing = [v for v in training if v not in features]
    if len(missing) == len(training):
        raise DataError(f"'{features.folder}' has features of none of the {len(training)} training videos; "
                        f"'{missing[0]}' is the first that is missing: extract them.")
    torch.manual_seed(recipe.seed)
    network = build_localizer(recipe.system, recipe.options, features.dim, labels_of(training))
    if encoder is not None and encoder.class_head and getattr(network.config, "names", None) == "encoder":
        network.name_by(encoder.class_head["weight"], encoder.class_head["bias"], encoder.classes)
    rows = [(view, training[vid].annotations) for vid in training if vid in features
            for view in network.views(features[vid])]

    validate = None
    if recipe.data.validate:
        validation = subset(truth, *recipe.data.validate)
        held = {vid: features[vid] for vid in validation if vid in features}
        if not held:
            raise DataError(f"'{features.folder}' has features of none of the {len(validation)} validation videos; "
                            "extract them, or set data.validate = [].")
        validate = _average_map({vid: validation[vid] for vid in held}, held)
    result = fit(
        network, FeatureData(rows, recipe.optim.batch, recipe.seed), recipe.optim, out,
        what=f"training {recipe.system}", seed=recipe.seed, validate=validate, validate_every=recipe.validate_every,
        checkpoint_every=recipe.checkpoint_every, tensorboard=recipe.tensorboard,
        identity={"recipe": recipe.identity(), "weights": features.meta["weights"]},
    )
    described = {k: features.meta[k] for k in ("encoder", "weights", "dim", "clip", "precision")}
    trained = TrainedLocalizer(network, recipe.system, described, encoder,
                               {"recipe": recipe.to_json(), "scores": result.best, "missing": len(missing)})
    trained.save(out / LOCALIZER_FILE)
    return trained, result


def _average_map(truth: Truth, features: Mapping[str, Features]) -> Callable[[nn.Module], dict[str, float]]:
    def validate(network: nn.Module) -> dict[str, float]:
        score = detection(truth, predict(network, features))  # type: ignore[arg-type]
        return {"score": score.average, "map50": float(score.map[0])}

    return validate
