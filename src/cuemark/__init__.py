"""cuemark: when does this happen in the video?

The public names, each loaded when it is first asked for (``import cuemark`` alone costs no torch)::

    model = cuemark.load("gtad/localizer.safetensors")       # or a CLIP, or a CLAP encoder: without training
    for answer in model.localize("videos/", least=0.1):      # one video after the other
        print(answer.video, answer.segments or "not found")  # in seconds, best first
    segments = cuemark.localize("video.mp4", model)          # the same of one video, in one list
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cuemark.conversion import convert
    from cuemark.encoders.video_encoder import VideoEncoder
    from cuemark.errors import CuemarkError
    from cuemark.evaluation import compare, evaluate
    from cuemark.extraction import extract
    from cuemark.feature_folder import FeatureFolder
    from cuemark.grid import Features, Grid
    from cuemark.library import Library
    from cuemark.localization import load, localize, localize_all
    from cuemark.recipe import load_recipe
    from cuemark.report import write_report
    from cuemark.segments import (
        Predictions,
        Segment,
        Truth,
        VideoTruth,
        read_predictions,
        read_truth,
        write_predictions,
        write_truth,
    )
    from cuemark.training import pretrain, train

_HOME = {
    "convert": "conversion",
    "VideoEncoder": "encoders.video_encoder",
    "CuemarkError": "errors",
    "compare": "evaluation", "evaluate": "evaluation",
    "FeatureFolder": "feature_folder", "extract": "extraction",
    "Features": "grid", "Grid": "grid",
    "Library": "library",
    "load": "localization", "localize": "localization", "localize_all": "localization",
    "load_recipe": "recipe",
    "write_report": "report",
    "Predictions": "segments", "Segment": "segments", "Truth": "segments", "VideoTruth": "segments",
    "read_predictions": "segments", "read_truth": "segments",
    "write_predictions": "segments", "write_truth": "segments",
    "pretrain": "training", "train": "training",
}

__all__ = [
    "CuemarkError", "FeatureFolder", "Features", "Grid", "Library", "Predictions", "Segment", "Truth", "VideoEncoder",
    "VideoTruth", "compare", "convert", "evaluate", "extract", "load", "load_recipe", "localize", "localize_all",
    "pretrain", "read_predictions", "read_truth", "train", "write_predictions", "write_report", "write_truth",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cuemark' has no attribute '{name}'")
    return getattr(import_module(f"cuemark.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("_"))})
