"""From videos to a localizer and its answers: demo, world, prepare, pretrain, recipes, gvf, train, extract … report."""

from __future__ import annotations

import json as jsonlib
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from cuemark.cli.shell import Fps_, From_, SetOption, Several, app, examples, named, screen, tabulated
from cuemark.errors import CallError, DataError
from cuemark.progress import say, silent

if TYPE_CHECKING:
    from cuemark.localizers.answers import Answer
    from cuemark.loop import Result
    from cuemark.own_data import Own
    from cuemark.recipe import Recipe

SHOWN = 20
"""Videos whose tables are still printed when a file has all answers."""


@app.command(help_epilogue=examples(
    "cuemark demo",
    "cuemark demo /tmp/story --seed 1",
))
def demo(out: Path = Path("demo"), *, seed: int = 0, open_report: bool = True) -> None:
    """The whole story on the built-in world, in minutes, on a CPU: TAC, TSP and CLAP, G-TAD on each, a report.

    Parameters
    ----------
    out
        Folder for videos, checkpoints and report.html; run again to go on where it stopped.
    seed
        Of the world and of every training.
    open_report
        Open the report in a browser where there is a display.
    """
    from cuemark.demo import tell

    tell(out, seed=seed, open_report=open_report)


@app.command(help_epilogue=examples(
    "cuemark world world --training 160 --testing 80",
    "cuemark world sentences --seed 1 --trimmed 0 --training 640 --two-classes 1",
))
def world(out: Path, *, seed: int = 0, trimmed: int = 160, training: int = 160, validation: int = 40,
          testing: int = 80, novel: int = 40, two_classes: float = 0.15, workers: int = 2) -> None:
    """Make the built-in world: real encoded videos with known segments, sentences and captions.

    Parameters
    ----------
    out
        Folder for videos/, truth.json, captions.json and world.json.
    seed
        Of everything in it.
    trimmed
        Clips that one action fills, for TAC.
    training
        Untrimmed videos to train on.
    validation
        Untrimmed videos that choose the weights.
    testing
        Untrimmed videos nothing sees before the score; held-out combinations are among them.
    novel
        Untrimmed videos of actions that are in no other subset.
    two_classes
        Share of untrimmed videos with several actions that show two classes; 1 where a sentence has to be read to tell
        them apart.
    workers
        Processes that draw and encode.
    """
    from cuemark.datasets.world import WorldConfig, make
    from cuemark.progress import Bar

    config = WorldConfig(seed=seed, trimmed=trimmed, training=training, validation=validation, testing=testing,
                         novel=novel, two_classes=two_classes)
    with Bar("drawing videos", trimmed + training + validation + testing + novel) as bar:
        made = make(config, out, workers=workers, on_progress=lambda done, total: bar.advance(done - bar.done))
    print(f"{len(made.videos)} videos in {out / 'videos'}, truth in {out / 'truth.json'}, "
          f"captions in {out / 'captions.json'}")


@app.command(help_epilogue=examples(
    "cuemark prepare videos/ --out prepared",
    "cuemark prepare a.mkv b.webm --out prepared --short-side 256 --audio --keyframe-every 32",
    "cuemark prepare videos/ --out prepared --ray auto",
))
def prepare(videos: list[Path], *, out: Path, fps: float = 30, short_side: int = 128, keep_size: bool = False,
            enlarge: bool = False, keyframe_every: int = 16, audio: bool = False, quality: int = 23,
            workers: int | None = None, ray: str | None = None, json: bool = False) -> int:
    """Videos of any kind to ones that are quick to read and show everybody the same frames. Goes on when stopped.

    Parameters
    ----------
    videos
        Files, or folders of them, at any depth.
    out
        Folder for the videos, prepared.json (lengths and frames), metadata.csv (as TSP's), and failed.json where some
        could not be prepared.
    fps
        Frames a second.
    short_side
        Pixels of the shorter side.
    keep_size
        Keep the size that a video has.
    enlarge
        Scale smaller videos up too.
    keyframe_every
        Frames from one keyframe to the next: few for quick random clips, more for small files.
    audio
        Keep the sound.
    quality
        x264's constant rate factor: 6 more halves the file.
    workers
        Videos at a time; by default one for each core.
    ray
        Work on this Ray cluster (its address, or auto), or on a Ray of this machine alone (local).
    json
        Print what became of each as JSON.
    """
    from cuemark import fleet, preparation, video
    from cuemark.folders import FAILED

    _one_who_decides(ray, workers)
    files = video.expand(videos, leave_out=out)
    if not files:
        raise CallError(f"no video found in {', '.join(map(str, videos))}.")
    work = partial(preparation.prepare, workers=workers) if ray is None else partial(fleet.prepare, address=ray)
    result = work(files, out, fps=fps, short_side=None if keep_size else short_side, enlarge=enlarge,
                  keyframe_every=keyframe_every, audio=audio, quality=quality)
    if json:
        print(jsonlib.dumps({"done": result.done, "skipped": result.skipped, "failed": result.failed,
                             "frames": result.frames, "seconds": round(result.seconds, 2)}))
    else:
        for title, columns, rows in result.tables():
            screen().print(tabulated(columns, rows, title))
        print(f"{out}: {len(result.done)} videos prepared, {len(result.skipped)} were there, "
              f"{len(result.failed)} failed{f' (see {out / FAILED})' if result.failed else ''}")
    return 1 if result.failed else 0


def _one_who_decides(ray: str | None, workers: int | None) -> None:
    if ray is not None and workers is not None:
        raise CallError("--workers is for this machine alone; with --ray, Ray decides how many work at once: leave one "
                        "of the two out.")


@app.command(help_epilogue=examples(
    "cuemark pretrain world_tac --out runs/tac",
    "cuemark pretrain world_clap --out runs/clap --set optim.steps=400 --set seed=1",
    "cuemark pretrain --videos videos/ --annotations labels.csv --objective clap --out runs/own",
    "torchrun --nproc-per-node 2 -m cuemark pretrain world_clap --out runs/clap",
    "cuemark pretrain world_tsp --out runs/tsp --sweep head_lr=0.002,0.02,0.2",
))
def pretrain(recipe: Path | None = None, *, out: Path, set: SetOption = [], sweep: str | None = None,  # noqa: B006
             videos: Path | None = None, annotations: Path | None = None,
             objective: Literal["tac", "tsp", "clap"] | None = None, captions: Path | None = None,
             encoder: str | None = None, text: str | None = None, features: Path | None = None,
             from_: From_ = None, fps: Fps_ = None, device: str = "auto", json: bool = False) -> None:
    """Pre-train a video encoder: TAC, TSP or CLAP. A run that was stopped goes on.

    By a recipe; or, for own data, with --videos and --annotations: then a recipe is made, said and kept in OUT.
    Started by torchrun, several processes train one encoder.

    Parameters
    ----------
    recipe
        A TOML file, or the name of one that ships with cuemark (`cuemark recipes`).
    out
        Folder of the run; the encoder becomes encoder.safetensors in it.
    set
        Change a field of the recipe.
    sweep
        FIELD=V1,V2,… (head_lr is short for optim.lr_heads): a run with each value, in a folder of its name. The best
        by validation becomes encoder.safetensors, and sweep.json has all.
    videos
        Own data: the folder of the videos.
    annotations
        Own data: a file in any format that `cuemark convert` reads.
    objective
        Own data: what to train; clap by default.
    captions
        Own data: dense captions, where the annotations have none.
    encoder
        Own data: checkpoint or name of `cuemark weights list` to start from; by default a small network from nothing.
    text
        Own data: text encoder of CLAP.
    features
        Own data: features folder or file of `cuemark gvf`, for TSP's global video features.
    device
        cpu, cuda, cuda:1 …; auto takes a GPU where there is one.
    json
        Print the scores as JSON.
    """
    from cuemark.extraction import chosen
    from cuemark.own_data import own_recipe
    from cuemark.recipe import load_recipe
    from cuemark.training import ENCODER_FILE
    from cuemark.training import pretrain as run
    from cuemark.training import sweep as run_sweep

    own = {"videos": videos, "annotations": annotations, "objective": objective, "captions": captions,
           "encoder": encoder, "text": text, "features": features, "from": from_, "fps": fps}
    if recipe is not None:
        if (extra := next((name for name, value in own.items() if value is not None), None)):
            raise CallError(f"--{extra} is for own data without a recipe; name the recipe alone and change it with "
                            "--set, or leave it out.")
        made = load_recipe(recipe, set)
    elif videos is None or annotations is None:
        raise CallError("name a recipe (cuemark recipes lists them), or your own data with --videos and "
                        "--annotations.")
    else:
        made = _decided(own_recipe(videos, annotations, objective or "clap", out=out, captions=captions,
                                   encoder=encoder, text=text, features=features, format=from_, fps=fps,
                                   changes=set))
    if sweep is not None:
        field, values = _values(sweep)
        found = run_sweep(made, field, values, out, chosen(device))
        if json:
            print(jsonlib.dumps(found.to_json()))
            return
        scores = [name for name in found.best.scores if name not in ("score", "step")]
        screen().print(tabulated((found.field, *scores, "score", "update", "epoch"), [
            (str(run.value), *(f"{run.scores[k]:.3f}" if k in run.scores else None for k in (*scores, "score")),
             str(run.scores["step"]) if run.scores else None, None if run.epoch is None else f"{run.epoch:g}")
            for run in found.runs]))
        print(f"{out / ENCODER_FILE}: {found.field}={found.best.value}")
        return
    trained, result = run(made, out, chosen(device))
    _trained(out / ENCODER_FILE, result, json, trained.classes)


def _values(text: str) -> tuple[str, list[Any]]:
    """FIELD=V1,V2,… as the field and its values: TOML's, or plain texts where they are none."""
    field, equals, listed = text.partition("=")
    if not equals or not field.strip() or not listed.strip():
        raise CallError(f"--sweep '{text}' is none; write FIELD=V1,V2, such as head_lr=0.002,0.004.")
    try:
        return field.strip(), tomllib.loads(f"values = [{listed}]")["values"]
    except tomllib.TOMLDecodeError:
        return field.strip(), [value.strip() for value in listed.split(",")]


@app.command(help_epilogue=examples(
    "cuemark recipes",
    "cuemark recipes activitynet_tsp_r2plus1d_18",
))
def recipes(recipe: Path | None = None, *, json: bool = False) -> None:
    """The recipes that ship with cuemark, with cost and score; or one of them, or a file, in full.

    Parameters
    ----------
    recipe
        Print this one as TOML that needs no other file: its header, and every setting it has.
    json
        Print as JSON: the list, or the one.
    """
    from dataclasses import asdict

    from cuemark.recipe import shipped, tables, whole

    if recipe is not None:
        text = whole(recipe)
        print(jsonlib.dumps(tables(recipe), default=str) if json else text, end="\n" if json else "")
        return
    found = shipped()
    if json:
        print(jsonlib.dumps({name: asdict(head) for name, head in found.items()}))
        return
    for name, head in found.items():
        print("\n".join([name, *(textwrap.fill(line, 80, initial_indent="    ", subsequent_indent="    ") for line in (
            head.title, f"Cost: {head.cost}", f"Score: {head.score}"))]))


@app.command(help_epilogue=examples(
    "cuemark extract videos/ --encoder tac-kinetics-r2plus1d_18 --out features/tac",
    "cuemark gvf features/tac --out gvf.h5",
    "cuemark pretrain activitynet_tsp_r2plus1d_18 --out runs/tsp --set data.features=gvf.h5",
))
def gvf(features: Path, *, out: Path, pooling: Literal["max", "mean"] = "max") -> None:
    """Global video features of a features folder, for TSP's region head: one vector for each video, in HDF5.

    Parameters
    ----------
    features
        Features folder, made by `cuemark extract` with the encoder that TSP will start from.
    out
        HDF5 file in the layout of TSP's release; data.features of a recipe names it.
    pooling
        Over time; the recipe's options.global_feature says the same.
    """
    from cuemark.feature_files import HDF5_ENDINGS, write_global
    from cuemark.feature_folder import FeatureFolder, global_features

    if out.suffix.lower() not in HDF5_ENDINGS:
        raise CallError(f"'{out}' would not be known as HDF5 by training; give it a name that ends in .h5.")
    folder = FeatureFolder.open(features)
    write_global(out, global_features(folder, pooling))
    print(f"{out}: {len(folder)} videos, {folder.dim} numbers each ({pooling} over time)")


@app.command(help_epilogue=examples(
    "cuemark train world_gtad --out runs/gtad --set data.features=features/clap",
    "cuemark train actionformer --features features/own --annotations labels.csv --encoder runs/own/encoder.safetensors"
    " --out runs/actionformer",
    "cuemark train pgcn --features features/own --annotations labels.csv --proposals runs/bmn/localizer.safetensors"
    " --out runs/pgcn",
))
def train(recipe: Path, *, out: Path, set: SetOption = [], features: Path | None = None,  # noqa: B006
          annotations: Path | None = None, encoder: str | None = None, proposals: Path | None = None,
          text: str | None = None, from_: From_ = None, fps: Fps_ = None, device: str = "auto",
          json: bool = False) -> None:
    """Train a localizer on extracted features. A run that was stopped goes on.

    By a recipe; or, for own data, by the localizer's name with --features and --annotations: then a recipe is made,
    said and kept in OUT.

    Parameters
    ----------
    recipe
        A TOML file, or the name of one that ships with cuemark (`cuemark recipes`); for own data the localizer's name.
    out
        Folder of the run; the localizer becomes localizer.safetensors in it.
    set
        Change a field of the recipe.
    features
        Own data: features folder of the videos (`cuemark extract`).
    annotations
        Own data: a file in any format that `cuemark convert` reads.
    encoder
        Own data: the checkpoint that made the features; with it inside, the localizer answers on raw video.
    proposals
        Own data: checkpoint of the localizer whose proposals this one judges, or a file of them.
    text
        Own data: what reads sentences, a text encoder or a file of GloVe's vectors.
    device
        cpu, cuda, cuda:1 …; auto takes a GPU where there is one.
    json
        Print the scores as JSON.
    """
    from cuemark.extraction import chosen
    from cuemark.own_data import own_localizer
    from cuemark.recipe import load_recipe
    from cuemark.training import LOCALIZER_FILE
    from cuemark.training import train as run

    own = {"features": features, "annotations": annotations, "encoder": encoder, "proposals": proposals, "text": text,
           "from": from_, "fps": fps}
    if features is not None and annotations is not None:
        made = _decided(own_localizer(str(recipe), features, annotations, out=out, encoder=encoder,
                                      proposals=proposals, text=text, format=from_, fps=fps, changes=set))
    elif (extra := next((name for name, value in own.items() if value is not None), None)):
        raise CallError(f"--{extra} is for own data, which needs both --features and --annotations; give both, or name "
                        "a recipe alone and change it with --set.")
    else:
        made = load_recipe(recipe, set)
    trained, result = run(made, out, device=chosen(device))
    _trained(out / LOCALIZER_FILE, result, json, trained.classes)


def _decided(own: Own) -> Recipe:
    """Say what was made of somebody's data."""
    for note in own.notes:
        say(note)
    for warning in own.warnings:
        say(f"warning: {warning}")
    say(f"the recipe is {own.file}")
    return own.recipe


def _trained(path: Path, result: Result, json: bool, classes: Sequence[str]) -> None:
    if silent():
        return
    if json:
        print(jsonlib.dumps({"checkpoint": str(path), "steps": result.steps, "losses": result.losses,
                             "validation": result.best, "skipped_updates": result.skipped, "classes": list(classes),
                             "seconds": round(result.seconds, 1)}))
        return
    from cuemark.loop import validations

    if judged := validations(path.parent):
        names = [name for name in judged[0] if name != "step"]
        kept = (result.best or {}).get("step")
        screen().print(tabulated(("update", *names, ""), [
            (str(row["step"]), *(None if row[n] is None else f"{row[n]:.3f}" for n in names),
             "kept" if row["step"] == kept else "") for row in judged], "Validation"))
    shown = ", ".join(f"{k} {v:.3f}" if k != "step" else f"update {v:g}"
                      for k, v in (result.best or result.losses).items())
    told = f"{'validation' if result.best else 'losses'}: {shown}" if shown else "finished already; nothing to train"
    print(f"{path}: {result.steps} updates, {told}")


@app.command(help_epilogue=examples(
    "cuemark extract videos/ --encoder runs/clap/encoder.safetensors --out features/clap",
    "cuemark extract a.mp4 b.mkv --encoder runs/clap/encoder.safetensors --out features/clap --stride 4",
    "cuemark extract videos/ --encoder tsp-activitynet-r2plus1d_34 --out features/tsp --bf16",
    "cuemark extract videos/ --encoder tsp-activitynet-r2plus1d_34 --out features/tsp --ray local",
))
def extract(videos: list[Path], *, encoder: str, out: Path, stride: int | None = None, fps: float | None = None,
            crops: Literal[1, 3] = 1, pooling: Literal["mean", "max"] = "mean", bf16: bool = False,
            backend: Literal["eager", "compile", "onnx", "openvino"] = "eager", half: bool = False,
            batch: int | None = None, truth: Path | None = None, workers: int | None = None, device: str = "auto",
            ray: str | None = None, json: bool = False) -> int:
    """Extract the features of whole videos into a folder. A run that was stopped goes on; what is done is skipped.

    Parameters
    ----------
    videos
        Files, or folders of them, at any depth.
    encoder
        Encoder checkpoint, a .pth of TSP's or torchvision's, a name of `cuemark weights list`, or a CLIP's folder.
    out
        Features folder: one .npy for each video, features.json, and failed.json where some could not be read.
    stride
        Frames (at the encoder's rate, 15 a second in the papers) between the starts of clips; by default a clip's own
        length (16; 1 for a CLIP).
    fps
        Frames a second that clips are made of; by default what the encoder was trained with.
    crops
        Squares of each frame: the centre, or three along its longer side, whose features are averaged.
    pooling
        Over time and space of the network's last layer.
    bf16
        Compute in bf16, where the hardware does.
    backend
        What computes the network: PyTorch as it is or compiled, ONNX Runtime, OpenVINO.
    half
        Write float16 instead of float32.
    batch
        Clips encoded at a time by each thread; by default what suits their size.
    truth
        Take the videos of this truth file, under the names it has for them.
    workers
        Threads that encode, on a CPU; by default one for each core.
    device
        cpu, cuda, cuda:1 …; auto takes a GPU where there is one.
    ray
        Work on this Ray cluster (its address, or auto), or on a Ray of this machine alone (local).
    json
        Print what became of each video as JSON.
    """
    from cuemark import extraction, fleet, video
    from cuemark.conversion import truth_of
    from cuemark.encoders import weights
    from cuemark.folders import FAILED
    from cuemark.localization import by_name

    _one_who_decides(ray, workers)
    config = extraction.ExtractConfig(stride, fps, crops, pooling, bf16, backend, "float16" if half else "float32",
                                      batch)
    model = weights.load(encoder)
    files: dict[str, Path]
    if truth is not None:
        files, known = {}, truth_of(truth)
        for folder in videos:
            files |= video.find_videos(folder, known)
        if absent := [vid for vid in known if vid not in files]:
            named = ", ".join(f"'{vid}'" for vid in absent[:3]) + (", …" if len(absent) > 3 else "")
            say(f"{len(absent)} of {len(known)} videos of the truth have no file in {', '.join(map(str, videos))}: "
                f"{named}")
    else:
        files = by_name(video.expand(videos, leave_out=out))
    if not files:
        raise CallError(f"no video found in {', '.join(map(str, videos))}.")
    if ray is not None:
        result = fleet.extract(files, model, out, config, address=ray, device=device)
    else:
        result = extraction.extract(files, model, out, config, workers=workers, device=extraction.chosen(device))
    if json:
        print(jsonlib.dumps({"done": result.done, "skipped": result.skipped, "failed": result.failed,
                             "clips": result.clips, "seconds": round(result.seconds, 2)}))
    else:
        print(f"{out}: {len(result.done)} videos extracted, {len(result.skipped)} were there, "
              f"{len(result.failed)} failed{f' (see {out / FAILED})' if result.failed else ''}")
    return 1 if result.failed else 0


@app.command(help_epilogue=examples(
    "cuemark localize match.mp4 --model runs/gtad/localizer.safetensors",
    "cuemark localize videos/ --model runs/gtad/localizer.safetensors --out predictions.json",
    "cuemark localize match.mp4 --model runs/tan2d/localizer.safetensors --query 'the red star spins' --least 0.1",
    "cuemark localize match.mp4 --model runs/qat/localizer.safetensors --examples clip1.mp4:3-7 clip2.mp4:10-12",
    "cuemark localize match.mp4 --model runs/unloc/localizer.safetensors --classes 'long jump','high jump',hurdles",
    "cuemark localize videos/ --model runs/unloc/localizer.safetensors --classes @zero50/test/split_0.list,hurdles"
    " --out answers.json",
    "cuemark localize match.mp4 --model clip-b16 --query 'a dog jumps' --least 0.95",
    "cuemark localize features/clap --model runs/tan2d/localizer.safetensors --truth test.json --out answers.json",
    "cuemark localize videos/ --model clip-b16 --truth highlight_val_release.jsonl --out submission.jsonl",
    "cuemark localize videos/ --model runs/unloc/localizer.safetensors --out p.json --saliency scores.npz --every 0.1",
))
def localize(videos: list[str], *, model: str, query: Several = None,
             examples_: Annotated[Several, Parameter(name="--examples")] = None, classes: Several = None,
             prompts: Literal["first", "outputs", "embeddings"] = "first", shortlist: int | None = None,
             truth: Path | None = None,
             subset: list[str] | None = None, proposals: Path | None = None, names: str | None = None,
             labels: Several = None, least: float = 0.0, text: str | None = None, early: bool | None = None,
             urls: bool = False, top: int = 10, out: Path | None = None, saliency: Path | None = None,
             every: float | None = None, device: str = "auto", json: bool = False) -> int:
    """Find moments in raw videos, or in extracted features, in seconds: classes, sentences, or more of what is shown.

    The tables of a video are printed before the next one is opened, unless --out takes them all. On a terminal one long
    video shows what is found so far while it is being looked at.

    Parameters
    ----------
    videos
        Files, or folders of them; or one features folder.
    model
        Localizer checkpoint (the encoder travels inside it). Or, without training, an encoder checkpoint of CLAP, a
        CLIP's folder or its name (clip-b16): how like a sentence each clip is, grouped into moments.
    query
        A sentence to find, for a localizer that is asked sentences; may be repeated.
    examples_
        FILE:START-END in seconds, what to find more of, for a localizer that is shown examples; may be repeated.
    classes
        Names of what to find, with commas between them, for a localizer with an open vocabulary (unloc); names that it
        was never trained on too. @FILE takes those of a file: one a line, or a JSON list, where a name may have a
        comma. By default those that it was trained on.
    prompts
        In which words it is asked for a class: the first of 28 prompts, or all, averaging the outputs (28 times the
        work) or the embeddings (no more work).
    shortlist
        Ask only for the so many classes and sentences that each video looks most like, of a localizer that learned
        which these are (options.similarity_weight=0.3 in training) or that has the two towers of a CLIP.
    truth
        Of a features folder, or a folder of videos: take those of this truth file, and ask each its own sentences.
    subset
        Take only these splits of the truth.
    proposals
        Of a features folder: proposals to judge, for a localizer that has no proposer inside.
    names
        What names the segments of a localizer that names none: a file of video-level scores (CUHK's, UntrimmedNet's,
        a table, JSON), or `encoder`, the class head of its video encoder.
    labels
        Or any labels, which a CLAP encoder compares with what it sees.
    least
        How likely a segment has to be right to be said, 0 to 1, for a calibrated localizer; without training, the share
        of sentences about nothing that a video has to be less like than the one asked. What has no segment left is said
        not to be found. By default everything is said.
    text
        Without training: what reads sentences, where the encoder does not say it.
    early
        Say what is found of a video while it is being looked at, again and again: it may change as more is seen. Such
        answers are lines of their own with --json, with the seconds looked at as `until`; what counts is the last line.
        By default for one video on a terminal. (A localizer with an image tower inside answers once.)
    urls
        Allow addresses (http, https) for videos; each is fetched into a temporary folder.
    top
        Show this many of each video and query; --out and --json hold all.
    out
        Write all segments to this file, in cuemark's (and ActivityNet's) prediction format; to a .jsonl, answers to
        sentences as QVHighlights has them, of an unloc or without training with the saliency of every 2 s.
    saliency
        Write how well each stretch of a video answers, for every sentence or class, to this .npz (numpy.load opens it):
        of an unloc, 0 to 1; without training, a cosine.
    every
        Seconds of such a stretch; by default 0.5.
    device
        cpu, cuda, cuda:1 …; auto takes a GPU where there is one.
    json
        Print all segments as JSON instead of a table.
    """
    from dataclasses import asdict, replace

    from cuemark.conversion import predictions_of, recognised, truth_of
    from cuemark.datasets import qvhighlights
    from cuemark.extraction import chosen
    from cuemark.feature_folder import MANIFEST, FeatureFolder
    from cuemark.localization import (
        Similarity,
        TrainedLocalizer,
        answer_features,
        load,
        localize_truth,
        names_by,
        reads,
    )
    from cuemark.saliency import writing
    from cuemark.segments import Predictions, predictions_json, write_predictions
    from cuemark.segments import subset as part

    if subset and truth is None:
        raise CallError("--subset takes splits of a truth; name it with --truth.")
    console = screen()
    board = console.is_terminal and not json and out is None and len(videos) == 1 and Path(videos[0]).is_file()
    for path in (out, saliency):
        _writable(path)
    asked_for = [name for words in classes or () for word in words.split(",") for name in _names(word.strip())]
    if classes and not asked_for:
        raise CallError("--classes names no class; write their names with commas between them.")
    trained = load(model, chosen(device), prompts, shortlist, text)
    if names is not None and labels:
        raise CallError("--names and --labels both name what is found; give one of them.")
    told_by = None if names is None and not labels else names_by(names or labels or "", trained)
    asked: dict[str, Any] = {"queries": query or (), "examples": examples_ or (), "classes": asked_for, "least": least}
    if told_by is not None:
        asked["names"] = told_by
    known = None
    if truth is not None:
        moments = any(form.name == qvhighlights.FORMAT.name for form, _ in recognised(truth))
        known = qvhighlights.queries(truth) if moments else truth_of(truth)
    if known is not None and subset:
        known = part(known, *subset)
    rows = out is not None and out.suffix.lower() == ".jsonl"
    if rows and (asked_for or not (query or (known is not None and reads(trained)))):
        raise CallError("a .jsonl holds answers to sentences; ask some (--query, --truth), or write the segments of "
                        "classes to a .json.")
    if every is not None and saliency is None:
        raise CallError("--every is about --saliency; give that, too, or leave it out.")
    if every is not None and rows and every != qvhighlights.STEP:
        raise CallError("the saliency of a .jsonl is of every 2 s; leave --every out, or write the answers to a .json.")
    if saliency is not None or (rows and trained.salient):
        asked["every"] = every if every is not None else qvhighlights.STEP if rows else 0.5
    answers: Iterable[Answer]
    if len(videos) == 1 and (Path(videos[0]) / MANIFEST).is_file():
        if early:
            raise CallError("--early goes with videos; features are looked at at once.")
        answers = answer_features(FeatureFolder.open(videos[0]), trained, None if known is None else list(known),
                                  truth=known, proposals=None if proposals is None else predictions_of(proposals),
                                  **asked)
    else:
        if proposals is not None:
            raise CallError("--proposals goes with a features folder; these are videos.")
        if known is None:
            answers = trained.localize(videos[0] if board else videos, urls=urls,
                                       early=board if early is None else early, **asked)
        elif len(videos) > 1:
            raise CallError("--truth finds its videos in one folder; give that alone.")
        else:
            answers = localize_truth(videos[0], trained, known, early=bool(early), **asked)
    told: dict[str, Any] = {}
    if isinstance(trained, Similarity):
        told["without_training"] = trained.name
        say(f"training-free, by what {trained.name} finds alike: no localizer was trained; a score is how much more "
            "like the sentence a stretch is than the rest of its video, and ranks the answers to one sentence")
    found: Predictions = {}
    failed: dict[str, str] = {}
    absent: dict[str, list[str]] = {}
    link = trained.calibration if isinstance(trained, TrainedLocalizer) else None
    shown = partial(_shown, top=top, likely=link is not None)
    held: list[Answer] = []
    curves: dict[tuple[str, str], Any] = {}
    with nullcontext() if saliency is None else writing(saliency) as kept:
        for answer in _whole(answers, console, shown, board, json):
            if answer.failed is not None:
                failed[answer.video] = answer.failed
                continue
            found.setdefault(answer.video, []).extend(answer.segments)
            if link is not None and answer.sure is not None:
                told["calibration"] = asdict(link)
            if answer.absent:
                absent.setdefault(answer.video, []).extend(answer.absent)
            if answer.saliency is not None:
                if kept is not None:
                    kept.add(answer.video, answer.saliency)
                if rows:
                    curves[answer.video, answer.asked[0]] = answer.saliency.data[:, 0]
            if out is not None:
                held.append(replace(answer, saliency=None))
            elif not json:
                console.print(shown(answer))
    told |= {name: value for name, value in (("failed", failed), ("not_found", absent)) if value}
    if out is not None and found:
        if rows:
            qvhighlights.write_predictions(out, found, known or {}, curves)
        else:
            write_predictions(out, found, told)
    if json:
        print(jsonlib.dumps(predictions_json(found, told)))
    elif out is not None:
        for answer in held if len(found) <= SHOWN else ():  # nobody reads so many tables; the file has all
            console.print(shown(answer))
        print(f"{sum(map(len, found.values()))} segments of {len(found)} videos in {out}")
    return 1 if failed else 0


def _writable(path: Path | None) -> None:
    """Refuse a file that could not be written, before anything is done for it."""
    if path is None:
        return
    if path.is_dir():
        raise CallError(f"'{path}' is a folder; name a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise DataError(f"'{path}' cannot be written ({error.strerror}); name another file.") from None


def _names(word: str) -> list[str]:
    """The classes that a word of --classes means: itself, or those of ``@FILE``."""
    from cuemark.datasets.splits import read_classes

    return read_classes(Path(word[1:])) if word.startswith("@") else [word] if word else []


def _whole(answers: Iterable[Answer], console: Console, shown: Callable[[Answer], Group], board: bool, json: bool
           ) -> Iterator[Answer]:
    """The answers about whole videos. What comes before is said at once; with ``board`` in one place, until they do."""
    from cuemark import video
    from cuemark.segments import predictions_json

    so_far: dict[tuple[str, ...], Answer] = {}
    length = ""
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False,
              redirect_stderr=False) if board else nullcontext() as live:
        for answer in answers:
            if answer.until is None:
                if live is not None:
                    live.update("", refresh=True)
                yield answer
            elif json:
                told = {"asked": answer.asked, "until": answer.until}
                print(jsonlib.dumps(predictions_json({answer.video: list(answer.segments)}, told)), flush=True)
            elif live is None:
                console.print(f"{answer.video}: {_clock(answer.until)} looked at, so far:", shown(answer), sep="\n")
            else:
                so_far[answer.asked] = answer
                length = length or _clock(video.probe(str(answer.path)).duration)
                live.update(Group(f"{answer.video}: {_clock(answer.until)} of {length} looked at, so far:",
                                  *map(shown, so_far.values())), refresh=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _shown(answer: Answer, top: int, likely: bool) -> Group:
    """What a person reads of it; ``likely``: what is sure in it is a probability, not how far it stands out."""
    from cuemark.segments import UNLABELLED

    calibrated = likely and answer.sure is not None
    sentence = answer.asked[0] if len(answer.asked) == 1 else None
    title = answer.video if sentence is None else f"{answer.video}: {sentence}"
    sure = "" if answer.sure is None else f"the best is {100 * answer.sure:.0f} % likely right" if calibrated else (
        f"it is more like this than {100 * answer.sure:.0f} % of sentences about nothing")
    parts: list[str | Table] = []
    if answer.segments:
        table = Table("start", "end", "what", "probability" if calibrated else "score", header_style="bold")
        for s in answer.segments[:top]:
            table.add_row(f"{s.start:.2f} s", f"{s.end:.2f} s", s.label or ("" if s.query else UNLABELLED),
                          f"{s.score or 0:.3f}")
        parts += [f"{title} ({sure})" if sure and not calibrated else title, table]
    if answer.absent:
        parts.append(f"{answer.video}: {', '.join(answer.absent)}: not found" + (
            f" ({sure})" if sure and not answer.segments else ""))
    elif not answer.segments:
        parts.append(f"{title}: nothing found")
    return Group(*parts)


@app.command(help_epilogue=examples(
    "cuemark report --truth truth.json --predictions tsp=a.json --predictions clap=b.json --videos videos/",
))
def report(*, truth: Path, predictions: list[str], out: Path = Path("report.html"), videos: Path | None = None,
           subset: list[str] | None = None, features: list[str] | None = None, show: int = 4) -> None:
    """One HTML page: scores, timelines with thumbnails, what the features know.

    Parameters
    ----------
    truth
        Truth file.
    predictions
        NAME=FILE for each run.
    out
        The page.
    videos
        Folder of the videos, for thumbnails.
    subset
        Splits to score; by default those that have predictions, training left out.
    features
        NAME=FOLDER of a run's features, for similarity matrices and distances.
    show
        How many videos get a timeline.
    """
    from cuemark.report import report_files

    report_files(truth, named(predictions, "--predictions"), out, videos, tuple(subset) if subset else None,
                 named(features or [], "--features"), show)
    print(out)
