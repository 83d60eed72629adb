"""Annotation formats, one per file: each only parses to, and writes from, the types of :mod:`cuemark.segments`."""

from __future__ import annotations

from cuemark.datasets import (
    activitynet,
    audacity,
    bmn,
    boris,
    captions,
    charades,
    coin,
    cvat,
    detad,
    didemo,
    editing,
    ego4d,
    elan,
    epic,
    fiftyone,
    framelabels,
    kinetics,
    labelstudio,
    markers,
    multithumos,
    proposal_list,
    qvhighlights,
    subtitles,
    tables,
    tacos,
    thumos,
    tsp,
    via,
)
from cuemark.datasets.format import Format

FORMATS: dict[str, Format] = {form.name: form for form in (
    # of benchmarks
    *activitynet.FORMATS, tsp.FORMAT, bmn.FORMAT, *thumos.FORMATS, multithumos.FORMAT, *epic.FORMATS, ego4d.FORMAT,
    coin.FORMAT, kinetics.FORMAT, charades.FORMAT, tacos.FORMAT, captions.FORMAT, qvhighlights.FORMAT, didemo.FORMAT,
    framelabels.FORMAT, detad.FORMAT, proposal_list.FORMAT,
    # of tools
    *tables.FORMATS, labelstudio.FORMAT, cvat.FORMAT, via.FORMAT, elan.FORMAT, boris.FORMAT, audacity.FORMAT,
    fiftyone.FORMAT,
    # of players and editing programs
    *subtitles.FORMATS, *editing.FORMATS, *markers.FORMATS,
)}
"""Name on the command line -> format."""
