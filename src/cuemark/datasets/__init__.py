"""Annotation formats, one per file: each only parses to, and writes from, the types of :mod:`cuemark.segments`."""

from __future__ import annotations

from types import ModuleType

from cuemark.datasets import activitynet, captions

FORMATS: dict[str, ModuleType] = {"activitynet": activitynet, "captions": captions}
