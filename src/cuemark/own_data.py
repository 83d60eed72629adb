"""Own data in one command: a folder of videos and an annotation file in any format become a recipe that runs.

:func:`own_recipe` reads the annotations (:mod:`cuemark.conversion`), finds and measures the videos, and decides what a
recipe has to say: classes, captions, background, which videos validate, the encoder, the text encoder and the length of
the training. It writes three files: the truth as it is trained on, the captions, and the recipe, which does the same
again with ``cuemark pretrain FILE``. What it decided, and what looks wrong with the data, it says in plain sentences.
:func:`own_localizer` does so for a localizer on features that are there already.

**Classes** are the labels; what is labelled "background" and the like is no class but the background it says.
**Captions** are the sentences of the annotations and those of a file of their own. Annotations with sentences alone
serve CLAP: each described stretch is foreground, of one class :data:`EVENT`, and always carries its sentence.
**Background** is what no action covers, as everywhere (:class:`cuemark.clips.Sampling`).
**Validation** is the subset of that name where the annotations have one. Otherwise some videos are held out, with each
class's share of them as near as whole videos allow.
**Schedules** are those of the papers' recipes for an encoder that is given, and the built-in world's for one that
starts from nothing, both for the papers' 8 epochs; on little data for more, until there are :data:`UPDATES`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cuemark import text as texts
from cuemark import video
from cuemark.clips import ClipConfig, ClipSet, regions
from cuemark.conversion import CLOSE, check, truth_of
from cuemark.datasets.format import Reading
from cuemark.encoders import weights
from cuemark.errors import DataError, ModelError, VideoError, unknown, within
from cuemark.feature_folder import FeatureFolder
from cuemark.localizers import LOCALIZERS
from cuemark.pretraining import OBJECTIVES
from cuemark.progress import Bar
from cuemark.recipe import Recipe, tables, toml_lines
from cuemark.segments import Segment, Truth, VideoTruth, labels_of, replacing, write_truth
from cuemark.settings import build, override

TRUTH_FILE = "truth.json"
CAPTIONS_FILE = "captions.json"
RECIPE_FILE = "recipe.toml"

EVENT = "event"
"""The class of everything that is described where nothing has a label."""
BACKGROUND = frozenset({"background", "bg", "none", "no action", "nothing", "sil"})
"""Labels, in small letters and without underscores, of what is no action."""
EPOCHS = 8
"""TSP and CLAP, sections 4.1."""
WEIGHED = ("weight_class", "weight_contrast", "temperature")
"""Options of the built-in world's recipes without which a small network does not find motion (docs/notes.md)."""
UPDATES = 400
"""Fewest updates, our choice: those of ``world_tac``, where a small network learns ten motions from nothing."""
FEW = 5
"""Instances of a class below which it is named."""
NAMED = 5
"""How many of a kind are named; the others are counted."""
FEWEST_VIDEOS = 5
"""With fewer, none is held out."""
UNEVEN = 10
"""Times that one class is as frequent as another, from which that is said."""

ENGLISH = frozenset((
    "the", "and", "with", "his", "her", "their", "they", "them", "he", "she", "it", "it's", "are", "that", "this",
    "from", "into", "while", "then", "of", "to", "is", "being", "by", "up", "out", "has", "who", "which", "there",
    "some", "other", "each", "him", "its", "on", "another"))
"""Words that make up much of any English text, and little of one in another language."""
ENGLISH_SHARE = 0.1
"""Least share of :data:`ENGLISH` among the words of English captions; see :func:`english`."""
ENGLISH_READERS = ("bert", "minilm", "bert-base-uncased")
"""Text encoders that read English only."""


@dataclass(frozen=True)
class Own:
    """What :func:`own_recipe` made of somebody's data."""

    recipe: Recipe
    file: Path
    """The recipe as TOML: ``cuemark pretrain FILE`` runs it again."""
    notes: tuple[str, ...]
    """What was done, a sentence each."""
    warnings: tuple[str, ...]
    """What looks wrong with the data, or will not work well, a sentence each."""


def own_recipe(videos: str | Path, annotations: str | Path, objective: str, *, out: str | Path,
               captions: str | Path | None = None, encoder: str | Path | None = None, text: str | None = None,
               features: str | Path | None = None, seed: int = 0, validation_share: float = 0.1,
               format: str | None = None, fps: float | None = None, changes: Sequence[str] = ()) -> Own:
    """A recipe for own videos, everything it needs decided and written down; trains nothing.

    The same call writes the same files, so that a run in ``out`` that was stopped goes on.

    Args:
        videos: folder of video files, named by the ids of the annotations (:func:`cuemark.video.find_videos`).
        annotations: a file or folder in any format of :data:`cuemark.datasets.FORMATS`.
        objective: in :data:`cuemark.pretraining.OBJECTIVES`.
        out: folder for truth.json, captions.json and recipe.toml; it may be the folder of the run.
        captions: dense captions of the same videos, in any format, beside the sentences that ``annotations`` has.
        encoder: checkpoint or released weights to start from; None: a small network from nothing.
        text: text encoder; None: "minilm" where its package is installed, else "bert".
        features: for TSP's global video features (``data.features`` of a recipe); None: it trains without.
        seed: of the held-out videos and of the training.
        validation_share: part of the videos to hold out where the annotations name no validation subset; 0: none.
        format: of ``annotations``; None: recognise it.
        fps: frames a second, where ``annotations`` counts frames and does not say.
        changes: ``section.field=value``, as ``--set`` takes them; they win over what is decided here.

    Raises:
        CallError: no such objective, format or setting, or an impossible share.
        DataError: a file is malformed or holds predictions; no annotated video has a usable file; there are no labels,
            or no sentences either; no action is as long as a clip.
        ModelError: the encoder cannot be loaded.
        VideoError: there is no such folder of videos.
    """
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    within("validation_share", validation_share, 0, 0.5)
    out, kind = Path(out), OBJECTIVES[objective][0]
    notes: list[str] = []
    warnings: list[str] = []
    truth = _read(annotations, format, fps, notes, warnings)
    told = _told(truth)
    truth = _used(truth, notes)
    truth, described = _actions(truth, objective, str(annotations), notes)
    truth, files = _filmed(truth, videos, notes, warnings)
    said = _sentences(truth, captions, fps, notes, warnings) if kind.needs_text else {}

    plan = _plan(objective, videos, out, encoder, text, features, seed, said, described, notes)
    recipe = build(Recipe, _changed(plan, changes), "recipe")
    clip = _clip(recipe)
    usable = {vid: v for vid, v in truth.items()
              if any(r.foreground for r in regions(vid, v, clip.seconds, recipe.encoder.sampling, False))}
    truth = _split(truth, usable, told, validation_share, recipe.seed, notes)
    training = {vid: v for vid, v in truth.items() if v.subset == "training"}
    plan["data"]["validate"] = ["validation"] if len(training) < len(truth) else []
    clips = ClipSet(training, files, clip, recipe.encoder.sampling, kind.needs_background, seed=seed)
    _schedule(plan, changes, recipe, clips, notes)
    recipe = build(Recipe, _changed(plan, changes), "recipe")

    warnings += _wrong_labels(truth, training, recipe)
    warnings += _wrong_times(training, clips, recipe)
    if kind.needs_text and recipe.encoder.text in ENGLISH_READERS:
        for what, texts_ in (("captions", _texts(said)), ("labels", labels_of(truth))):
            if english(texts_) is False:
                warnings.append(f"the {what} do not read like English, which the text encoder "
                                f"'{recipe.encoder.text}' was trained on; name one of their language (--text).")

    write_truth(out / TRUTH_FILE, truth)
    if said:
        write_truth(out / CAPTIONS_FILE, {vid: replace(truth[vid], annotations=tuple(s)) for vid, s in said.items()})
    _write(out, _header(f"{objective.upper()} on the videos in '{videos}'", annotations, "pretrain", out, notes), plan,
           changes)
    return Own(recipe, out / RECIPE_FILE, tuple(notes), tuple(warnings))


def own_localizer(system: str, features: str | Path, annotations: str | Path, *, out: str | Path,
                  encoder: str | Path | None = None, proposals: str | Path | None = None, text: str | None = None,
                  seed: int = 0, validation_share: float = 0.1, format: str | None = None, fps: float | None = None,
                  changes: Sequence[str] = ()) -> Own:
    """A recipe for a localizer on features of own videos, decided and written down; trains nothing.

    Its size and rates are those of the built-in world's recipe, which trains on a CPU in minutes; ``changes`` make it
    larger.

    Args:
        system: in :data:`cuemark.localizers.LOCALIZERS`.
        features: features folder of the videos.
        annotations: a file or folder in any format of :data:`cuemark.datasets.FORMATS`. To a localizer that is asked
            sentences, labels are sentences where there are no others. One with an open vocabulary learns what
            ``options.task`` says among the changes; else classes where there are any, or sentences.
        out: folder for truth.json and recipe.toml; it may be the folder of the run.
        encoder: what made the features; with it the localizer answers on raw video.
        proposals: for a localizer that judges them (``data.proposals`` of a recipe).
        text: what reads sentences; None: "minilm" where its package is installed, else "bert".
        seed: of the held-out videos and of the training.
        validation_share: see :func:`own_recipe`.
        format: of ``annotations``; None: recognise it.
        fps: frames a second, where ``annotations`` counts frames and does not say.
        changes: ``section.field=value``, as ``--set`` takes them; they win over what is decided here.

    Raises:
        CallError: no such localizer, format or setting, or an impossible share.
        DataError: a file is malformed or holds predictions; no annotated video has features; there is nothing to learn.
    """
    if system not in LOCALIZERS:
        raise unknown("localizer", system, LOCALIZERS)
    within("validation_share", validation_share, 0, 0.5)
    out, asked = Path(out), LOCALIZERS[system].asked
    notes: list[str] = []
    warnings: list[str] = []
    folder = FeatureFolder.open(features)
    truth = _read(annotations, format, fps, notes, warnings)
    told = _told(truth)
    truth = _used(truth, notes)
    # one with an open vocabulary learns what it is told to: else classes where there are any, or sentences
    task = None
    if asked == "text":
        task = _changed({"options": {}}, changes)["options"].get("task", None if labels_of(truth) else "retrieve")
    sentences = asked == "sentence" or task == "retrieve"
    truth = _asked(truth, str(annotations), notes) if sentences else _actions(
        truth, system, str(annotations), notes)[0]
    absent = [vid for vid in truth if vid not in folder]
    if len(absent) == len(truth):
        raise DataError(f"'{folder.folder}' has features of none of the {len(truth)} annotated videos, such as "
                        f"'{absent[0]}'; extract them under the annotations' names (cuemark extract --truth).")
    if absent:
        warnings.append(f"{len(absent)} of {len(truth)} annotated videos have no features and are left out: "
                        f"{_listed(absent)}.")
    truth = {vid: replace(v, duration=folder[vid].duration) for vid, v in truth.items() if vid in folder}
    shipped = f"world_{system}_{task}" if task in ("retrieve", "segment") else f"world_{system}"
    plan = tables(shipped)
    plan |= {"system": system, "seed": seed, "data": {"truth": str(out / TRUTH_FILE)}}
    seed = build(Recipe, _changed(plan, changes), "recipe").seed
    truth = _split(truth, truth, told, validation_share, seed, notes)
    training = {vid: v for vid, v in truth.items() if v.subset == "training"}
    plan["data"] = {"truth": str(out / TRUTH_FILE), "features": str(features), "train": ["training"],
                    "validate": ["validation"] if len(training) < len(truth) else []}
    plan["encoder"] = {"start": str(encoder)} if encoder is not None else {}
    if asked in ("sentence", "text"):
        plan["encoder"]["text"] = text or _reader()
        notes.append(f"{'sentences' if sentences else 'names'} are read by '{plan['encoder']['text']}'.")
    if proposals is not None:
        plan["data"]["proposals"] = str(proposals)
    rows = sum(len(v.annotations) for v in training.values()) if sentences else len(training)
    plan["optim"]["steps"] = max(plan["optim"]["steps"], math.ceil(EPOCHS * rows / plan["optim"]["batch"]))
    recipe = build(Recipe, _changed(plan, changes), "recipe")
    notes.append(f"the training has {_many(recipe.optim.steps or 0, 'update')} of {recipe.optim.batch} "
                 f"{'questions' if sentences else 'videos'}; size and rates are those of {shipped}.")
    warnings += [] if sentences else _wrong_labels(truth, training, recipe)
    write_truth(out / TRUTH_FILE, truth)
    _write(out, _header(f"{system} on the features in '{features}'", annotations, "train", out, notes), plan, changes)
    return Own(recipe, out / RECIPE_FILE, tuple(notes), tuple(warnings))


def _write(out: Path, header: Sequence[str], plan: Mapping[str, Any], changes: Sequence[str]) -> None:
    with replacing(out / RECIPE_FILE) as file:
        file.write("\n".join([*header, "", *toml_lines(_changed(plan, changes))]) + "\n")


# ---------------------------------------------------------------------------------------------- what there is


def _read(path: str | Path, format: str | None, fps: float | None, notes: list[str], warnings: list[str]) -> Truth:
    report = check(path, format, reading=Reading(fps=fps))
    truth = report.read.truth
    if truth is None:
        raise DataError(f"'{path}' holds predictions (format {report.read.format.name}); name the annotations to train "
                        "on.")
    if not report.annotations:
        raise DataError(f"'{path}' holds no annotation; annotate some actions first.")
    notes.append(f"'{path}' is in format {report.read.format.name}: {_many(len(truth), 'video')}, "
                 f"{_many(report.annotations, 'annotation')}.")
    warnings += [f"{line}." for line in report.read.losses(path)]
    counts = report.counts()
    said = {"duplicate": "that repeat another", "no length": "of no length"}
    odd = [f"{counts[kind]} {what}" for kind, what in said.items() if kind in counts]
    if odd:
        warnings.append(f"there are annotations {' and '.join(odd)}; cuemark check lists them.")
    return truth


def _used(truth: Truth, notes: list[str]) -> Truth:
    """Without the videos of subsets that neither train nor validate.

    Where no subset is called training, all but a test set may be trained on: they are called by something else.
    """
    names = {v.subset for v in truth.values()}
    kept = {"training", "validation"} if "training" in names else names - {"testing"}
    if not kept:
        raise DataError("all annotated videos are of the subset 'testing'; call those to train on 'training'.")
    for name in sorted(names - kept):
        count = sum(v.subset == name for v in truth.values())
        notes.append(f"{_many(count, 'video')} of the subset '{name}' {'are' if count > 1 else 'is'} left aside.")
    return {vid: v for vid, v in truth.items() if v.subset in kept}


def _actions(truth: Truth, objective: str, path: str, notes: list[str]) -> tuple[Truth, bool]:
    """The videos with an action, each action labelled; whether their label is :data:`EVENT`."""
    names = [name for name in labels_of(truth) if _plain(name) in BACKGROUND]
    if names:
        notes.append(f"what is labelled {_listed(names)} is background, and no class.")
        truth = {vid: replace(v, annotations=tuple(replace(s, label=None) if s.label in names else s
                                                   for s in v.annotations)) for vid, v in truth.items()}
    classes = labels_of(truth)
    described = not classes
    if described:
        if not any(_sentence(s) for v in truth.values() for s in v.annotations):
            raise DataError(f"'{path}' has neither labels nor sentences to train on; label its annotations.")
        if objective != "clap":
            raise DataError(f"'{path}' has sentences and no labels, and {objective} learns labels; use the objective "
                            "clap, or label the annotations.")
        truth = {vid: replace(v, annotations=tuple(replace(s, label=EVENT) if _sentence(s) else s
                                                   for s in v.annotations)) for vid, v in truth.items()}
        notes.append(f"there are sentences and no labels: every described stretch is foreground, of one class "
                     f"'{EVENT}', and carries its sentence.")
    else:
        notes.append(f"{'the class is' if len(classes) == 1 else f'the {len(classes)} classes are'} "
                     f"{_listed(classes)}.")
    kept = {vid: v for vid, v in truth.items() if any(s.label is not None for s in v.annotations)}
    if len(kept) < len(truth):
        notes.append(f"{_many(len(truth) - len(kept), 'video')} without any action {_are(len(truth) - len(kept))} left "
                     "out.")
    return kept, described


def _asked(truth: Truth, path: str, notes: list[str]) -> Truth:
    """The videos with a sentence; labels are sentences where there are no others."""
    said = any(_sentence(s) for v in truth.values() for s in v.annotations)
    found = {vid: replace(v, annotations=tuple(replace(s, sentence=sentence, label=EVENT) for s in v.annotations
                                               if (sentence := _sentence(s) if said else s.label)))
             for vid, v in truth.items()}
    kept = {vid: v for vid, v in found.items() if v.annotations}
    if not kept:
        raise DataError(f"'{path}' has neither sentences nor labels to train on; describe its annotations.")
    count = sum(len(v.annotations) for v in kept.values())
    notes.append(f"{_many(count, 'sentence')} of {_many(len(kept), 'video')} are asked." if said else
                 f"there are no sentences: the labels of {_many(count, 'annotation')} are asked as such.")
    if len(kept) < len(truth):
        notes.append(f"{_many(len(truth) - len(kept), 'video')} without any {_are(len(truth) - len(kept))} left out.")
    return kept


def _filmed(truth: Truth, folder: str | Path, notes: list[str], warnings: list[str]) -> tuple[Truth, dict[str, Path]]:
    """The videos that can be read, as long as their files are."""
    files = video.find_videos(folder, truth)
    absent = [vid for vid in truth if vid not in files]
    if not files:
        raise DataError(f"none of the {len(truth)} annotated videos has a file in '{folder}'; name the files by the "
                        f"annotations' ids, such as '{absent[0]}.mp4'.")
    if absent:
        warnings.append(f"{len(absent)} of {len(truth)} annotated videos have no file in '{folder}' and are left out: "
                        f"{_listed(absent)}.")
    kept: Truth = {}
    broken: list[str] = []
    other: list[str] = []
    with Bar("measuring videos", len(files)) as bar:
        for vid, file in files.items():
            told = truth[vid].duration
            try:
                length = video.probe(file).duration
            except VideoError as error:
                broken.append(str(error).rstrip("."))
            else:
                last = max(s.end for s in truth[vid].annotations)
                if abs(told - length) > max(1.0, 0.02 * length) and (told != last or told > length):
                    other.append(vid)
                kept[vid] = replace(truth[vid], duration=length)
            bar.advance()
    if broken:
        warnings.append(f"{_many(len(broken), 'video')} cannot be read and {_are(len(broken))} left out: {broken[0]}.")
    if not kept:
        raise DataError(f"none of the {len(files)} annotated videos in '{folder}' can be read; {broken[0]}.")
    if other:
        warnings.append(f"the annotations give {_many(len(other), 'video')} another length than the file has, "
                        f"{_listed(other)}; look whether they were made on the same cut.")
    beyond = [vid for vid, v in kept.items() if any(s.start >= v.duration for s in v.annotations)]
    if beyond:
        warnings.append(f"{_many(len(beyond), 'video')} {'have' if len(beyond) > 1 else 'has'} annotations that begin "
                        f"after the end: {_listed(beyond)}.")
    notes.append(f"{_many(len(kept), 'video')} of {sum(v.duration for v in kept.values()) / 60:.1f} minutes in all "
                 "were found and measured.")
    return kept, {vid: file for vid, file in files.items() if vid in kept}


def _sentences(truth: Truth, captions: str | Path | None, fps: float | None, notes: list[str], warnings: list[str]
               ) -> dict[str, list[Segment]]:
    """The captions of each video that has any."""
    sources: list[Mapping[str, VideoTruth]] = [truth]
    if captions is not None:
        told = truth_of(captions, fps=fps, notes=warnings)
        if not any(_sentence(s) for vid in truth if vid in told for s in told[vid].annotations):
            raise DataError(f"'{captions}' has no sentence for any of the {len(truth)} videos that are trained on, "
                            f"such as '{next(iter(truth))}'; it is about {_listed(list(told)) or 'no video'}.")
        sources.append(told)
    found: dict[str, list[Segment]] = defaultdict(list)
    for source in sources:
        for vid in truth:
            found[vid] += [Segment(s.start, s.end, sentence=sentence) for s in
                           (source[vid].annotations if vid in source else ()) if (sentence := _sentence(s))]
    kept = {vid: segments for vid, segments in found.items() if segments}
    if kept:
        notes.append(f"{_many(sum(map(len, kept.values())), 'sentence')} of {_many(len(kept), 'video')} serve as dense "
                     "captions.")
    else:
        notes.append("there are no sentences: every clip carries its prompt.")
    return kept


def _sentence(segment: Segment) -> str | None:
    """What is said about a segment; a query that it answers says something, too."""
    return segment.sentence or segment.query or None


def _texts(said: Mapping[str, Iterable[Segment]]) -> list[str]:
    return [s.sentence for segments in said.values() for s in segments if s.sentence]


# ---------------------------------------------------------------------------------------------- what is decided


def _plan(objective: str, videos: str | Path, out: Path, encoder: str | Path | None, text: str | None,
          features: str | Path | None, seed: int, said: Mapping[str, Any], described: bool, notes: list[str]
          ) -> dict[str, Any]:
    """The tables of the recipe, but for what depends on how many clips there are."""
    plan: dict[str, Any] = {"system": objective, "seed": seed}
    plan["data"] = {"truth": str(out / TRUTH_FILE), "videos": str(videos), "train": ["training"]}
    plan["encoder"], plan["options"] = {}, {}
    shipped = f"activitynet_{objective}_r2plus1d_18" if encoder is not None else f"world_{objective}"
    plan["optim"] = {k: v for k, v in tables(shipped)["optim"].items() if k not in ("steps", "epochs")}
    if encoder is not None:
        plan["encoder"]["start"] = str(encoder)
        notes.append(f"the encoder starts from '{encoder}', with the rates of {objective} in its paper.")
    else:
        small = tables("world_tac")["encoder"]
        plan["encoder"] |= {"network": small["network"], "clip": small["clip"]}
        notes.append(f"the encoder starts from nothing: a small network for a CPU, at {small['clip']['crop']} x "
                     f"{small['clip']['crop']} pixels (cuemark weights lists trained ones to start from).")
        weighed = {k: v for k, v in tables(shipped).get("options", {}).items() if k in WEIGHED}
        if weighed:
            plan["options"] |= weighed
            notes.append("such a network learns motion only where the region head weighs most: "
                         f"{', '.join(f'{k} = {v:g}' for k, v in weighed.items())} (the papers: weights of 1).")
    if OBJECTIVES[objective][0].needs_text:
        plan["encoder"]["text"] = text or _reader()
        notes.append(f"the text encoder is '{plan['encoder']['text']}'.")
        if said:
            plan["data"]["captions"] = str(out / CAPTIONS_FILE)
        else:
            plan["options"]["captions"] = False
        if described:
            plan["encoder"]["sampling"] = {"p_caption": 1.0}
            plan["options"]["classify"] = False
    if objective == "tsp":
        if features is not None:
            plan["data"]["features"] = str(features)
        else:
            plan["options"]["global_feature"] = "none"
            notes.append("the region head sees no global video feature; cuemark extract and cuemark gvf, with the "
                         "encoder that it starts from, make them for --features.")
    return plan


def _reader() -> str:
    try:
        texts.minilm()
    except ModelError:
        return "bert"
    return "minilm"


def _changed(plan: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    data = deepcopy(dict(plan))
    for change in changes:
        override(data, change)
    return data


def _clip(recipe: Recipe) -> ClipConfig:
    """How the encoder looks at video; of released weights it is known before they are fetched."""
    start = recipe.encoder.start
    if start is None:
        return recipe.encoder.clip
    entry = weights.WEIGHTS.get(start)
    return entry.clip if entry is not None and entry.clip is not None else weights.load(start).clip


def _told(truth: Truth) -> bool:
    """Whether the annotations say which videos train and which validate."""
    return {"training", "validation"} <= {v.subset for v in truth.values()}


def _split(truth: Truth, usable: Truth, told: bool, share: float, seed: int, notes: list[str]) -> Truth:
    """The videos that train and those that validate, in the subsets "training" and "validation"."""
    subsets = _subsets(truth, usable, told, share, seed, notes)
    return {vid: replace(truth[vid], subset=subset) for vid, subset in subsets.items()}


def _subsets(truth: Truth, usable: Truth, told: bool, share: float, seed: int, notes: list[str]) -> dict[str, str]:
    """Video id -> "training" or "validation"."""
    everyone = dict.fromkeys(truth, "training")
    if told:
        held = {vid for vid in usable if truth[vid].subset == "validation"}
        learning = {vid: v for vid, v in truth.items() if v.subset == "training"}
        if not learning:
            raise DataError("no video of the subset 'training' has a file and an action; bring some, or give the "
                            "annotations without subsets.")
        if held:
            notes.append(f"as the annotations say, {_many(len(learning), 'video')} train and {len(held)} validate.")
        else:
            notes.append("no video of the subset 'validation' can be used: the last weights are kept.")
        return dict.fromkeys(learning, "training") | dict.fromkeys(sorted(held), "validation")
    if share == 0:
        notes.append("no video is held out, as was asked: the last weights are kept.")
        return everyone
    if len(usable) < FEWEST_VIDEOS:
        notes.append(f"{_many(len(usable), 'video')} {_are(len(usable))} too few to hold any out: the last weights are "
                     "kept.")
        return everyone
    held = hold_out(usable, share, seed)
    if not held:
        notes.append("no video is held out, since each has a class's only examples: the last weights are kept.")
        return everyone
    notes.append(f"{_many(len(held), 'video')} of {len(truth)} {_are(len(held))} held out to choose the weights by "
                 f"(seed {seed}); every class stays in training.")
    return everyone | dict.fromkeys(sorted(held), "validation")


def hold_out(truth: Truth, share: float, seed: int = 0) -> set[str]:
    """Videos with labels to hold out, so that each class has about ``share`` of its videos among them.

    Greedy: the next video is the one whose classes, on their mean, it brings nearest to their shares, the first of
    several in an order that ``seed`` gives. None that has the last training example of a class is taken.

    Args:
        share: part of the videos, 0 to 1.
    """
    ids, classes = sorted(vid for vid, v in truth.items() if labels_of({vid: v})), labels_of(truth)
    ids = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
    column = {name: i for i, name in enumerate(classes)}
    shows = np.zeros((len(ids), len(classes)))
    for row, vid in enumerate(ids):
        shows[row, [column[s.label] for s in truth[vid].annotations if s.label is not None]] = 1
    wanted, held = share * shows.sum(0), np.zeros(len(classes))
    left, chosen = shows.sum(0), np.zeros(len(ids), bool)
    for _ in range(max(1, round(share * len(ids))) if share else 0):
        cost = shows @ (np.abs(wanted - held - 1) - np.abs(wanted - held)) / shows.sum(1)
        cost[chosen | (shows @ (left <= 1) > 0)] = np.inf
        best = int(cost.argmin())
        if np.isinf(cost[best]):
            break
        chosen[best] = True
        held, left = held + shows[best], left - shows[best]
    return {vid for vid, taken in zip(ids, chosen, strict=True) if taken}


def _schedule(plan: dict[str, Any], changes: Sequence[str], recipe: Recipe, clips: ClipSet, notes: list[str]) -> None:
    """Epochs, and when to validate; ``recipe`` has the batch size."""
    batch = min(recipe.optim.batch, len(clips))
    each = len(clips) // batch
    changed = {change.partition("=")[0].strip() for change in changes}
    if changed & {"optim.steps", "optim.epochs"}:
        steps = recipe.optim.steps or max(1, round(recipe.optim.epochs * each))
    else:
        plan["optim"]["epochs"] = max(EPOCHS, math.ceil(UPDATES / each))
        steps = plan["optim"]["epochs"] * each
        if plan["optim"]["epochs"] > EPOCHS and plan["data"]["validate"]:
            plan["validate_every"] = math.ceil(steps / EPOCHS)
    actions = sum(r.foreground for r in clips.regions)
    if clips.with_background:
        notes.append(f"clips are taken from {_many(actions, 'action')} and from {len(clips.regions) - actions:,} "
                     "stretches of background beside them, which no action covers.")
    notes.append(f"an epoch has {_many(len(clips), 'clip')} of {clips.clip.seconds:.2f} s in {_many(each, 'batch')}, "
                 f"and the training {_many(steps, 'update')}.")


def _header(title: str, annotations: str | Path, command: str, out: Path, notes: Iterable[str]) -> list[str]:
    """The comment at the top of the recipe, as all recipes have one."""
    lines = [f"{title}, annotated in '{annotations}'.", "", f"  cuemark {command} {out / RECIPE_FILE} --out {out}", "",
             "Cost: not measured. Score: none known. Settings: decided by cuemark, as follows.",
             *(f"- {note}" for note in notes)]
    return [f"# {' '.join(line.split()) if not line.startswith('  ') else line}".rstrip() for line in lines]


# ---------------------------------------------------------------------------------------------- what looks wrong


def _wrong_labels(truth: Truth, training: Truth, recipe: Recipe) -> list[str]:
    found = []
    counts = Counter(s.label for v in training.values() for s in v.annotations if s.label is not None)
    few = sorted((name for name, n in counts.items() if n < FEW), key=lambda name: (counts[name], name))
    if few:
        named = [f"'{name}' ({counts[name]})" for name in few]
        found.append(f"{_many(len(few), 'class')} {'have' if len(few) > 1 else 'has'} fewer than {FEW} instances in "
                     f"training: {_listed(named, quoted=False)}.")
    if unseen := sorted(set(labels_of(truth)) - set(counts)):
        found.append(f"{_many(len(unseen), 'class')} {_are(len(unseen))} in validation only and cannot be learnt: "
                     f"{_listed(unseen)}.")
    if len(counts) == 1 and recipe.options.get("classify") is not False:
        found.append(f"'{next(iter(counts))}' is the only class: a classifier of actions has nothing to learn.")
    often, rare = (choose(counts, key=lambda name: counts[name]) for choose in (max, min))
    if counts[often] >= UNEVEN * counts[rare] and recipe.encoder.sampling.balance == "regions":
        found.append(f"'{often}' has {counts[often]} instances in training and '{rare}' {counts[rare]}; "
                     "encoder.sampling.balance = \"classes\" shows all classes equally often.")
    alike: dict[str, list[str]] = defaultdict(list)
    for name in labels_of(truth):
        alike[_plain(name)].append(name)
    same = [" and ".join(f"'{name}'" for name in names) for names in alike.values() if len(names) > 1]
    if same:
        found.append(f"some labels differ only in case or spaces and count as classes of their own: "
                     f"{_listed(same, quoted=False)}.")
    return found


def _wrong_times(training: Truth, clips: ClipSet, recipe: Recipe) -> list[str]:
    found = []
    seconds, sampling = clips.clip.seconds, recipe.encoder.sampling
    actions = [(s, v.duration) for v in training.values() for s in v.annotations if s.label is not None]
    short = sum(min(s.end, length) - max(s.start, 0.0) < seconds - 1e-9 for s, length in actions)
    if short and sampling.short == "drop":
        found.append(f"{short} of {len(actions)} actions in training ({short / len(actions):.0%}) {_are(short)} "
                     f"shorter than a clip ({seconds:.2f} s) and left out; encoder.sampling.short = \"centre\" takes a "
                     "clip around each.")
    overlapping = sum(_overlapping(v.annotations) for v in training.values())
    if overlapping:
        begin = "begins" if overlapping == 1 else "begin"
        found.append(f"{overlapping} of {len(actions)} actions in training {begin} before an earlier one of the "
                     "video has ended: a clip there shows both and counts for one.")
    if clips.with_background:
        bare = set(training) - {r.video for r in clips.regions if not r.foreground}
        if bare:
            least = sampling.min_background * seconds
            found.append(f"{len(bare)} of {len(training)} training videos ({len(bare) / len(training):.0%}) have no "
                         f"background of at least {least:.2f} s: {_listed(sorted(bare))}.")
        covered = sum(r.end - r.start for r in clips.regions if r.foreground)
        total = sum(v.duration for v in training.values())
        if covered < 0.05 * total and sampling.reach is None:
            found.append(f"actions cover {covered / total:.1%} of the training videos; where not all was annotated, "
                         "encoder.sampling.reach = 10 takes background within 10 s of an action only.")
    return found


def _overlapping(annotations: Iterable[Segment]) -> int:
    """How many actions begin before an earlier one has ended."""
    count, until = 0, -math.inf
    for s in sorted((s for s in annotations if s.label is not None), key=lambda s: (s.start, s.end)):
        count += s.start < until - CLOSE
        until = max(until, s.end)
    return count


def english(sentences: Iterable[str]) -> bool | None:
    """Whether texts read like English, taken together; None where they are too short to tell.

    Two shares decide: of letters, those that are not Latin (above one half: not English), and of words, those in
    :data:`ENGLISH` (below :data:`ENGLISH_SHARE`: not English). "A" is not among them, being a word in half of Europe.
    Limits: it tells English from not English and nothing else; a minority of foreign sentences goes unnoticed; English
    in headlines ("man opens red door quickly") is taken for foreign; fewer than 30 words in all, or labels in place of
    sentences (fewer than 4 words each), are not judged unless their letters are foreign.
    """
    letters = foreign = 0
    words: list[str] = []
    count = 0
    for sentence in sentences:
        count += 1
        plain = [c for c in sentence if c.isalpha()]
        letters += len(plain)
        foreign += sum(not unicodedata.name(c, "").startswith(("LATIN", "FULLWIDTH LATIN")) for c in plain)
        words += re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", sentence.lower())
    if letters and foreign > letters / 2:
        return False
    if len(words) < 30 or len(words) < 4 * count:
        return None
    return sum(word in ENGLISH for word in words) >= ENGLISH_SHARE * len(words)


# ---------------------------------------------------------------------------------------------- words


def _plain(label: str) -> str:
    """A label without what people write differently: case, spaces, underscores, hyphens."""
    return " ".join(re.split(r"[\s_-]+", label.casefold())).strip()


def _many(count: int, what: str) -> str:
    plural = what + ("es" if what.endswith(("s", "ch")) else "s")
    return f"{count:,} {what if count == 1 else plural}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(names: Sequence[str], quoted: bool = True) -> str:
    """The first few of some names, and how many more there are."""
    shown = [f"'{name}'" if quoted else name for name in names[:NAMED]]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(shown) + more
