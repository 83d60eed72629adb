"""What lies on the disk: released weights, features folders."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Literal

from cuemark.cli.shell import SetOption, examples, features_app, screen, tabulated, weights_app
from cuemark.errors import CallError


@weights_app.command(name="list", help_epilogue=examples(
    "cuemark weights list",
    "cuemark weights list --json",
))
def list_weights(*, json: bool = False) -> None:
    """Which weights are known by name, how large they are, and which are on this machine and where.

    CLIP's image towers are encoders of single frames; their text towers read sentences (`encoder.text`).

    Parameters
    ----------
    json
        Print them as JSON, with their addresses and licences.
    """
    from dataclasses import asdict

    from cuemark.encoders.weights import cache, listing

    rows = listing()
    if json:
        print(jsonlib.dumps([asdict(row) | {"path": str(row.path) if row.path else None} for row in rows]))
        return
    screen().print(tabulated(("name", "licence", "MB", "here"), [
        (row.name, row.licence,
         None if row.size is None else f"{row.size / 1e6:.0f}", "yes" if row.path else "no") for row in rows]))
    print(f"kept in {cache() / 'weights'}; CLIP's in the cache of Hugging Face's hub")


@weights_app.command(name="fetch", help_epilogue=examples(
    "cuemark weights fetch tsp-activitynet-r2plus1d_34",
))
def fetch_weights(names: list[str]) -> None:
    """Download released weights; a download that was stopped goes on, and what comes is checked.

    Parameters
    ----------
    names
        Names of `cuemark weights list`.
    """
    from cuemark.encoders.weights import fetch

    for name in names:
        print(fetch(name))


@weights_app.command(name="convert", help_epilogue=examples(
    "cuemark weights convert r2plus1d_34-tsp_on_activitynet.pth --out tsp.safetensors",
    "cuemark weights convert torchvision-r3d_18 --out r3d.safetensors",
))
def convert_weights(source: str, *, out: Path) -> None:
    """Released weights, or a .pth in their layout, as a cuemark encoder checkpoint.

    Parameters
    ----------
    source
        A file, or a name of `cuemark weights list`.
    out
        The checkpoint.
    """
    from cuemark.encoders.weights import convert

    encoder = convert(source, out)
    print(f"{out}: {encoder.name}, features of {encoder.dim} numbers, clips of {encoder.clip.frames} frames at "
          f"{encoder.clip.fps:g} a second")


@weights_app.command(name="localizer", help_epilogue=examples(
    "cuemark weights localizer BMN_best.pth.tar --recipe activitynet_bmn --features features/tsn --out bmn.safetensors",
    "cuemark weights localizer epoch_035.pth.tar --recipe thumos14_actionformer --features features/i3d"
    " --classes thumos.txt --out actionformer.safetensors",
))
def convert_localizer(source: Path, *, recipe: Path, features: Path, out: Path, classes: Path | None = None,
                      set: SetOption = []) -> None:  # noqa: B006
    """A checkpoint of a paper's own code as a cuemark localizer checkpoint.

    Parameters
    ----------
    source
        The .pth.tar file; nothing in it is executed.
    recipe
        A TOML file, or the name of a recipe: which localizer it is, and its settings.
    features
        Features folder that it works on.
    out
        The checkpoint.
    classes
        File of the names of its classes, in the order of its outputs; by default those of the recipe's training
        videos in alphabetical order, where their truth is there.
    """
    from cuemark.conversion import truth_of
    from cuemark.datasets.splits import read_classes
    from cuemark.feature_folder import FeatureFolder
    from cuemark.localizers.trained import TrainedLocalizer
    from cuemark.recipe import load_recipe
    from cuemark.segments import labels_of, subset

    made = load_recipe(recipe, set)
    names: list[str] = []
    if classes is not None:
        names = read_classes(classes)
    elif Path(made.data.truth).exists():
        names = labels_of(subset(truth_of(made.data.truth), *made.data.train))
    trained = TrainedLocalizer.released(source, made.system, made.options, FeatureFolder.open(features), names,
                                        made.encoder.text, made.encoder.max_tokens)
    trained.save(out)
    named = getattr(trained.network.config, "names", None) != "none"
    print(f"{out}: {trained.name}, {f'{len(names)} classes' if named else 'proposals without names'}")


@features_app.command(name="info", help_epilogue=examples("cuemark features info features/tsp"))
def features_info(folder: Path, *, json: bool = False) -> None:
    """What a features folder holds: encoder, clips, rate, how many.

    Parameters
    ----------
    folder
        Features folder.
    json
        Print it as JSON.
    """
    from dataclasses import asdict

    from cuemark.feature_files import info

    told = asdict(info(folder))
    if json:
        print(jsonlib.dumps(told))
        return
    told["padded"], told["failed"] = len(told["padded"]), len(told["failed"])
    told["hours"] = round(told["hours"], 3)
    rows = [(name, "–" if value is None else str(value)) for name, value in told.items()]
    screen().print(tabulated(("what", "value"), rows))


@features_app.command(name="verify", help_epilogue=examples("cuemark features verify features/tsp"))
def features_verify(folder: Path, *, quick: bool = False, json: bool = False) -> int:
    """Is every listed file there, whole and finite? Status 1 when something is missing or damaged.

    Parameters
    ----------
    folder
        Features folder.
    quick
        Look at headers only, not at every number.
    json
        Print what was found as JSON.
    """
    from dataclasses import asdict

    from cuemark.feature_files import verify

    found = verify(folder, finite=not quick)
    if json:
        print(jsonlib.dumps([asdict(problem) for problem in found]))
    elif found:
        screen().print(tabulated(("where", "what", ""), [
            (p.where, p.what, "serious" if p.serious else "") for p in found]))
    else:
        print(f"{folder}: whole")
    return 1 if any(problem.serious for problem in found) else 0


@features_app.command(name="merge", help_epilogue=examples("cuemark features merge shard0 shard1 --out features"))
def features_merge(folders: list[Path], *, out: Path, copy: bool = False) -> None:
    """Several features folders of one encoder, stride and precision into one.

    Parameters
    ----------
    folders
        Features folders.
    out
        The folder of all; it may hold some already.
    copy
        Copy files instead of linking them.
    """
    from cuemark.feature_files import merge

    result = merge(folders, out, copy=copy)
    print(f"{out}: {len(result.done)} videos, {len(result.skipped)} were there")


@features_app.command(name="match", help_epilogue=examples(
    "cuemark features match features/tsp --to features/tsn --out features/tsp_on_tsn",
))
def features_match(folder: Path, *, to: Path, out: Path) -> int:
    """Features interpolated in time to the rows of another folder. Status 1 when it lacks some of the videos.

    Parameters
    ----------
    folder
        Features folder.
    to
        The folder whose rows, and their times, are wanted.
    out
        Features folder to write.
    """
    from cuemark.feature_files import match

    result = match(folder, to, out)
    print(f"{out}: {len(result.done)} videos, {len(result.skipped)} were there, {len(result.failed)} left out")
    return 1 if result.failed else 0


@features_app.command(name="concat", help_epilogue=examples(
    "cuemark features concat features/rgb features/flow --out features/both",
))
def features_concat(folders: list[Path], *, out: Path) -> int:
    """Features of several folders side by side, row by row. Status 1 when some videos are not in all.

    Parameters
    ----------
    folders
        Features folders on one grid; `cuemark features match` brings them to one.
    out
        Features folder to write.
    """
    from cuemark.feature_files import concat

    result = concat(folders, out)
    print(f"{out}: {len(result.done)} videos, {len(result.skipped)} were there, {len(result.failed)} left out")
    return 1 if result.failed else 0


@features_app.command(name="export", help_epilogue=examples(
    "cuemark features export features/tsp --to tsp --out tsp.hdf5",
    "cuemark features export features/tsp --to gtad --out csv_mean_100.hdf5",
    "cuemark features export features/tsp --to actionformer",
))
def features_export(folder: Path, *, to: Literal["tsp", "gtad", "actionformer"], out: Path | None = None,
                    positions: int = 100) -> None:
    """A features folder as one HDF5 file in another release's layout, or the settings that read it as it is.

    Parameters
    ----------
    folder
        Features folder.
    to
        tsp: (T, C) for each video; gtad: resampled to --positions rows; actionformer: ActionFormer and OpenTAD read
        the folder as it is, with the settings that are printed.
    out
        The HDF5 file.
    positions
        Rows of a video in G-TAD's layout.
    """
    from cuemark.feature_files import actionformer, export

    if to == "actionformer":
        print(jsonlib.dumps(actionformer(folder), indent=2))
        return
    if out is None:
        raise CallError(f"--to {to} writes a file; name it with --out.")
    print(f"{out}: {len(export(folder, out, to, positions=positions).done)} videos")


@features_app.command(name="import", help_epilogue=examples(
    "cuemark features import train_features.h5 --out features/tsp --durations train_metadata.csv \\",
    "    --fps 15 --stride 16 --clip-frames 16",
    "cuemark features import csv_mean_100.hdf5 --out features/tsn --durations video_info_new.csv --even",
    "cuemark features import tsp.hdf5 --out features/tsp",
))
def features_import(path: Path, *, out: Path, durations: Path | None = None, fps: float | None = None,
                    own_fps: bool = False, stride: int | None = None, clip_frames: int | None = None,
                    even: bool = False, encoder: str | None = None, weights: str | None = None,
                    dataset: str | None = None, dtype: Literal["float16", "float32"] = "float32",
                    lenient: bool = False) -> int:
    """Other people's features (HDF5, or a folder of .npy) into a features folder that training reads.

    Parameters
    ----------
    path
        HDF5 file, or folder; a file that `cuemark features export` wrote needs nothing else.
    out
        Features folder to write.
    durations
        File that tells how long the videos are: truth, or TSP's or BMN's table of videos.
    fps
        Frames a second that were looked at.
    own_fps
        Each video has its own rate, which --durations tells.
    stride
        Frames from one row to the next.
    clip_frames
        Frames that a row was seen through.
    even
        The rows cover each video evenly, however many they are; in place of the three.
    encoder
        What to call the encoder.
    weights
        Which encoder it is: the same word for training and testing files of one encoder.
    dataset
        Which dataset of each video's group.
    dtype
        To store.
    lenient
        Leave out videos that do not fit, name them, and go on; the status is then 1.
    """
    from cuemark.feature_files import import_, read_times

    lengths, rates = read_times(durations) if durations is not None else (None, None)
    if own_fps and (rates is None or fps is not None):
        raise CallError("--own-fps takes the rates of --durations in place of --fps.")
    result = import_(path, out, durations=lengths, fps=rates if own_fps else fps, stride=stride,
                     clip_frames=clip_frames, even=even, encoder=encoder, weights=weights, dataset=dataset,
                     dtype=dtype, lenient=lenient)
    print(f"{out}: {len(result.done)} videos, {len(result.skipped)} were there, {len(result.failed)} left out")
    for name, why in list(result.failed.items())[:10]:
        print(f"{name}: {why}", file=sys.stderr)
    return 1 if result.failed else 0
