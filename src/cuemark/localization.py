"""Checkpoint and video to segments: the main job, on raw files of any length or on features that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cuemark.errors import CuemarkError, ModelError
from cuemark.extraction import features_of
from cuemark.feature_folder import FeatureFolder
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.progress import Bar, say
from cuemark.segments import Predictions, Segment


def load(path: str | Path) -> TrainedLocalizer:
    """Read a localizer checkpoint.

    Raises:
        ModelError: no such file, or not a localizer's.
    """
    return TrainedLocalizer.load(path)


def localize(video: str | Path, model: TrainedLocalizer) -> list[Segment]:
    """When does what the model knows happen in this video? Segments in seconds, best first.

    Raises:
        VideoError: the file cannot be used.
        ModelError: the checkpoint holds no encoder.
    """
    if model.encoder is None:
        raise ModelError("this localizer was trained without an encoder at hand, so it cannot look at a raw video; "
                         "train it with encoder.start, or localize on extracted features.")
    features, _ = features_of(video, model.encoder, model.extraction)
    return model.predict({"": features})[""]


def localize_all(videos: Mapping[str, str | Path] | Sequence[str | Path], model: TrainedLocalizer
                 ) -> tuple[Predictions, dict[str, str]]:
    """Many videos: the segments of each, and why the others could not be looked at. One bad file ends nothing."""
    files = dict(videos) if isinstance(videos, Mapping) else by_name(videos)
    found: Predictions = {}
    failed: dict[str, str] = {}
    if model.encoder is None:
        localize(next(iter(files.values()), ""), model)  # says why not
    with Bar("localizing", len(files)) as bar:
        for name, path in files.items():
            try:
                found[name] = localize(path, model)
            except CuemarkError as error:
                failed[name] = str(error)
                say(f"left out: {error}")
            bar.advance()
    return found, failed


def by_name(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Files under the names they are reported by: the stem, or the path where two stems are the same."""
    stems = [Path(p).stem for p in paths]
    return {stem if stems.count(stem) == 1 else str(p): Path(p) for stem, p in zip(stems, paths, strict=True)}


def localize_features(folder: FeatureFolder, model: TrainedLocalizer, only: Sequence[str] | None = None) -> Predictions:
    """Segments of the videos of a features folder.

    Raises:
        ModelError: the features are not the ones the localizer was trained on.
    """
    model.fits(folder)
    chosen = list(folder) if only is None else [v for v in only if v in folder]
    return model.predict({vid: folder[vid] for vid in chosen})
