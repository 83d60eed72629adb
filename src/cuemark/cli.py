"""The command line: parsing and presentation only; the work of each command is one public function elsewhere.

Exit status 0, 1 (failed), 2 (bad call), 130 (stopped). Errors are one sentence on standard error; results go to
standard output, progress to standard error.
"""

from __future__ import annotations

import json as jsonlib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, validators
from rich.console import Console
from rich.table import Table

from cuemark.errors import CallError, CuemarkError

if TYPE_CHECKING:
    from cuemark.conversion import Annotations
    from cuemark.evaluation import Evaluation
    from cuemark.loop import Result

TaskName = Literal["detection", "proposals", "grounding", "highlights", "frames", "captions", "episodes", "diagnosis"]

_WORD = re.compile(r"--\S+(?: (?!-)(?:'[^']*'|\S)+)+|(?:'[^']*'|\S)+")
"""A word of a command line, or an option with its values."""

app = App(
    name="cuemark",
    help="When does this happen in the video? Pre-train video encoders, train localizers, find the moments.",
    version_flags=["--version"],
    result_action="return_value",
    help_format="plaintext",
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,  # main() says what it means
)
evaluate_app = App(name="evaluate", help="Score predictions against truth.")
app.command(evaluate_app)
features_app = App(name="features", help="Features folders, and other people's features.")
app.command(features_app)
weights_app = App(name="weights", help="Released weights of video encoders, by name.")
app.command(weights_app)


def _examples(*lines: str) -> str:
    """Calls to copy: one that is wider than a terminal of 80 columns goes on after a backslash."""
    shown = []
    for line in lines:
        rows = [" "]
        for word in _WORD.findall(line):
            if len(rows[-1]) + 1 + len(word) > 77:
                rows[-1] += " \\"
                rows.append("     ")
            rows[-1] += f" {word}"
        shown += rows
    return "\n".join(("Examples:", *shown, ""))


SetOption = Annotated[list[str], Parameter(name="--set", negative="", help="section.field=value; may be repeated.")]
GOES_ON = ("demo", "world", "prepare", "pretrain", "train", "extract")
"""Commands that keep what they have done when they are stopped."""
JSON_WITH_FILE = ("evaluate", "compare", "diagnose", "check")
"""Commands whose --json may be followed by a file; elsewhere it could swallow a video's name."""
_NUMBER = re.compile(r"[-+]?[0-9.,]+ ?%?")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    arguments = with_json(sys.argv[1:] if argv is None else argv)
    try:
        status = app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(_one_sentence(str(error)), 2)
    except CallError as error:
        _fail(str(error), 2)
    except CuemarkError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        goes_on = bool(arguments) and arguments[0] in GOES_ON
        _fail(f"stopped; the same command {'goes on from here' if goes_on else 'begins anew'}.", 130)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        path = error.filename2 or error.filename  # of a renaming, the name that people know
        _fail(f"{error.strerror or error}{f': {path!r}' if path else ''}; "
              "check the path, its permissions and the free space.", 1)
    sys.exit(status if isinstance(status, int) else 0)


def with_json(words: Sequence[str]) -> list[str]:
    """The same, where a ``--json`` that no file follows says that it means standard output."""
    words = list(words)
    if words and words[0] in JSON_WITH_FILE:
        for i in reversed([i for i, word in enumerate(words) if word == "--json"]):
            following = words[i + 1] if i + 1 < len(words) else "--"
            if following.startswith("-"):
                words[i:i + 1 + (following == "-")] = ["--json=-"]
    return words


def _one_sentence(text: str) -> str:
    text = re.sub(r"[.;]? Did you mean (.+)\?$", r" (did you mean \1?).", " ".join(text.split()))
    return re.sub(r"\. ([A-Z])", lambda match: f"; {match[1].lower()}", text)


def _fail(message: str, status: int) -> None:
    print(f"cuemark: {message}", file=sys.stderr)
    sys.exit(status)


@app.command(help_epilogue=_examples(
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


@app.command(help_epilogue=_examples(
    "cuemark world world --training 160 --testing 80",
))
def world(out: Path, *, seed: int = 0, trimmed: int = 160, training: int = 160, validation: int = 40,
          testing: int = 80, novel: int = 40, workers: int = 2) -> None:
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
    workers
        Processes that draw and encode.
    """
    from cuemark.datasets.world import WorldConfig, make
    from cuemark.progress import Bar

    config = WorldConfig(seed=seed, trimmed=trimmed, training=training, validation=validation, testing=testing,
                         novel=novel)
    with Bar("drawing videos", trimmed + training + validation + testing + novel) as bar:
        made = make(config, out, workers=workers, on_progress=lambda done, total: bar.advance(done - bar.done))
    print(f"{len(made.videos)} videos in {out / 'videos'}, truth in {out / 'truth.json'}, "
          f"captions in {out / 'captions.json'}")


@app.command(help_epilogue=_examples(
    "cuemark prepare videos/ --out prepared",
    "cuemark prepare a.mkv b.webm --out prepared --short-side 256 --audio --keyframe-every 32",
))
def prepare(videos: list[Path], *, out: Path, fps: float = 30, short_side: int = 128, keep_size: bool = False,
            enlarge: bool = False, keyframe_every: int = 16, audio: bool = False, quality: int = 23, workers: int = 2,
            json: bool = False) -> int:
    """Videos of any kind to ones that are quick to read and show everybody the same frames. Goes on when stopped.

    Parameters
    ----------
    videos
        Files, or folders of them.
    out
        Folder for the videos, prepared.json (lengths and frames, what was broken) and metadata.csv (as TSP's).
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
        Videos at a time.
    json
        Print what became of each as JSON.
    """
    from cuemark import preparation, video

    files = video.expand(videos)
    if not files:
        raise CallError(f"no video found in {', '.join(map(str, videos))}.")
    result = preparation.prepare(files, out, fps=fps, short_side=None if keep_size else short_side, enlarge=enlarge,
                                 keyframe_every=keyframe_every, audio=audio, quality=quality, workers=workers)
    if json:
        print(jsonlib.dumps({"done": result.done, "skipped": result.skipped, "failed": result.failed,
                             "frames": result.frames, "seconds": round(result.seconds, 2)}))
    else:
        for title, columns, rows in result.tables():
            _console().print(_table(columns, rows, title))
        print(f"{out}: {len(result.done)} videos prepared, {len(result.skipped)} were there, "
              f"{len(result.failed)} failed")
    return 1 if result.failed else 0


@app.command(help_epilogue=_examples(
    "cuemark pretrain world_tac --out runs/tac",
    "cuemark pretrain world_clap --out runs/clap --set optim.steps=400 --set seed=1",
))
def pretrain(recipe: Path, *, out: Path, set: SetOption = [], json: bool = False) -> None:  # noqa: B006
    """Pre-train a video encoder: TAC, TSP or CLAP. A run that was stopped goes on.

    Parameters
    ----------
    recipe
        A TOML file, or the name of one that ships with cuemark.
    out
        Folder of the run; the encoder becomes encoder.safetensors in it.
    set
        Change a field of the recipe.
    json
        Print the scores as JSON.
    """
    from cuemark.recipe import load_recipe
    from cuemark.training import ENCODER_FILE
    from cuemark.training import pretrain as run

    encoder, result = run(load_recipe(recipe, set), out)
    _trained(out / ENCODER_FILE, result, json, encoder.classes)


@app.command(help_epilogue=_examples(
    "cuemark train world_gtad --out runs/gtad --set data.features=features/clap",
))
def train(recipe: Path, *, out: Path, set: SetOption = [], json: bool = False) -> None:  # noqa: B006
    """Train a localizer on extracted features. A run that was stopped goes on.

    Parameters
    ----------
    recipe
        A TOML file, or the name of one that ships with cuemark.
    out
        Folder of the run; the localizer becomes localizer.safetensors in it.
    set
        Change a field of the recipe.
    json
        Print the scores as JSON.
    """
    from cuemark.recipe import load_recipe
    from cuemark.training import LOCALIZER_FILE
    from cuemark.training import train as run

    trained, result = run(load_recipe(recipe, set), out)
    _trained(out / LOCALIZER_FILE, result, json, trained.classes)


def _trained(path: Path, result: Result, json: bool, classes: Sequence[str]) -> None:
    if json:
        print(jsonlib.dumps({"checkpoint": str(path), "steps": result.steps, "losses": result.losses,
                             "validation": result.best, "skipped_updates": result.skipped, "classes": list(classes),
                             "seconds": round(result.seconds, 1)}))
        return
    shown = ", ".join(f"{k} {v:.3f}" for k, v in (result.best or result.losses).items())
    print(f"{path}: {result.steps} updates, {'validation' if result.best else 'losses'}: {shown}")


@app.command(help_epilogue=_examples(
    "cuemark extract videos/ --encoder runs/clap/encoder.safetensors --out features/clap",
    "cuemark extract a.mp4 b.mkv --encoder runs/clap/encoder.safetensors --out features/clap --stride 4",
    "cuemark extract videos/ --encoder tsp-activitynet-r2plus1d_34 --out features/tsp",
))
def extract(videos: list[Path], *, encoder: str, out: Path, stride: int = 16, truth: Path | None = None,
            batch: int = 16, bf16: bool = False, json: bool = False) -> int:
    """Extract the features of whole videos into a folder. A run that was stopped goes on; what is done is skipped.

    Parameters
    ----------
    videos
        Files, or folders of them.
    encoder
        Encoder checkpoint, a .pth of TSP's or torchvision's, or a name of `cuemark weights list`.
    out
        Features folder: one .npy for each video, and features.json.
    stride
        Frames (at the encoder's rate, 15 a second in the papers) between the starts of clips.
    truth
        Take the videos of this truth file, under the names it has for them.
    batch
        Clips encoded at a time.
    bf16
        Compute in bf16, where the hardware does.
    json
        Print what became of each video as JSON.
    """
    from cuemark import extraction, video
    from cuemark.conversion import truth_of
    from cuemark.encoders import weights
    from cuemark.localization import by_name

    model = weights.load(encoder)
    files: dict[str, Path]
    if truth is not None:
        files = {}
        for folder in videos:
            files |= video.find_videos(folder, truth_of(truth))
    else:
        files = by_name(video.expand(videos))
    if not files:
        raise CallError(f"no video found in {', '.join(map(str, videos))}.")
    result = extraction.extract(files, model, out, stride=stride, batch=batch, bf16=bf16)
    if json:
        print(jsonlib.dumps({"done": result.done, "skipped": result.skipped, "failed": result.failed,
                             "clips": result.clips, "seconds": round(result.seconds, 2)}))
    else:
        print(f"{out}: {len(result.done)} videos extracted, {len(result.skipped)} were there, "
              f"{len(result.failed)} failed")
    return 1 if result.failed else 0


@weights_app.command(name="list", help_epilogue=_examples(
    "cuemark weights list",
    "cuemark weights list --json",
))
def list_weights(*, json: bool = False) -> None:
    """Which weights are known by name, and which are on this machine.

    Parameters
    ----------
    json
        Print them as JSON, with their addresses and licences.
    """
    from dataclasses import asdict

    from cuemark.encoders.weights import listing

    rows = listing()
    if json:
        print(jsonlib.dumps([asdict(row) | {"path": str(row.path) if row.path else None} for row in rows]))
        return
    _console().print(_table(("name", "network", "licence", "here"), [
        (row.name, row.encoder or "CLIP", row.licence, "yes" if row.path else "no") for row in rows]))


@weights_app.command(name="fetch", help_epilogue=_examples(
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


@weights_app.command(name="convert", help_epilogue=_examples(
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


@features_app.command(name="info", help_epilogue=_examples("cuemark features info features/tsp"))
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
    _console().print(_table(("what", "value"), rows))


@features_app.command(name="verify", help_epilogue=_examples("cuemark features verify features/tsp"))
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
        _console().print(_table(("where", "what", ""), [
            (p.where, p.what, "serious" if p.serious else "") for p in found]))
    else:
        print(f"{folder}: whole")
    return 1 if any(problem.serious for problem in found) else 0


@features_app.command(name="merge", help_epilogue=_examples("cuemark features merge shard0 shard1 --out features"))
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


@features_app.command(name="export", help_epilogue=_examples(
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


@features_app.command(name="import", help_epilogue=_examples(
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


@app.command(help_epilogue=_examples(
    "cuemark localize match.mp4 --model runs/gtad/localizer.safetensors",
    "cuemark localize videos/ --model runs/gtad/localizer.safetensors --out predictions.json",
))
def localize(videos: list[Path], *, model: Path, top: int = 10, out: Path | None = None, json: bool = False) -> int:
    """Find the moments a trained localizer knows in raw videos, in seconds.

    Parameters
    ----------
    videos
        Files, or folders of them.
    model
        Localizer checkpoint (the encoder travels inside it).
    top
        Show this many of each video; --out and --json hold all.
    out
        Write all segments to this file, in cuemark's (and ActivityNet's) prediction format.
    json
        Print all segments as JSON instead of a table.
    """
    from cuemark import video
    from cuemark.localization import load, localize_all
    from cuemark.segments import UNLABELLED, predictions_json, write_predictions

    trained = load(model)
    files = video.expand(videos)
    if not files:
        raise CallError(f"no video found in {', '.join(map(str, videos))}.")
    found, failed = localize_all(files, trained)
    told = {"failed": failed} if failed else {}
    if out is not None and found:
        write_predictions(out, found, told)
    if json:
        print(jsonlib.dumps(predictions_json(found, told)))
        return 1 if failed else 0
    console = _console()
    for name, segments in found.items():
        table = Table("start", "end", "what", "score", title=name, title_justify="left", header_style="bold")
        for s in segments[:top]:
            table.add_row(f"{s.start:.2f} s", f"{s.end:.2f} s", s.label or UNLABELLED, f"{s.score or 0:.3f}")
        console.print(table)
    if out is not None:
        print(f"{sum(map(len, found.values()))} segments of {len(found)} videos in {out}")
    return 1 if failed else 0


Truth_ = Annotated[Path, Parameter(name="--truth", help="Truth file or folder, in any format of docs/formats.md.")]
Predictions_ = Annotated[Path, Parameter(name="--predictions", help="Prediction file, in any format.")]
Train_ = Annotated[Path | None, Parameter(name="--train", help="Training truth in a file of its own: floors learn from "
                                          "it. By default the training videos of --truth.")]
Subset_ = Annotated[list[str] | None, Parameter(name="--subset", help="Splits to score; by default those that have "
                                                "predictions, training left out.")]
Bootstrap_ = Annotated[int, Parameter(name="--bootstrap", help="Draws of videos for a 95 % interval; 0: none.")]
Seed_ = Annotated[int, Parameter(name="--seed", help="Of the draws.", validator=validators.Number(gte=0))]
Json_ = Annotated[str | None, Parameter(name="--json", help="Print JSON, or write it to the file that follows.")]
Tious_ = Annotated[list[float] | None, Parameter(name="--tiou", help="Thresholds; by default the benchmark's.")]
Fps_ = Annotated[float | None, Parameter(name="--fps", help="Frames a second, where a file counts frames and does not "
                                         "say.")]


@evaluate_app.command(help_epilogue=_examples(
    "cuemark evaluate detection --truth truth.json --predictions predictions.json",
    "cuemark evaluate detection --truth thumos/test --train thumos/validation --predictions p.json --style thumos14",
    "cuemark evaluate detection --truth truth.json --predictions p.json --bootstrap 1000 --json scores.json",
    "cuemark evaluate detection --truth truth.json --predictions p.json --zero-shot 'splits/train50%; test50%'",
))
def detection(*, truth: Truth_, predictions: Predictions_, train: Train_ = None, subset: Subset_ = None,
              style: Literal["activitynet", "thumos14"] = "activitynet", tiou: Tious_ = None, official: bool = True,
              recall: list[int] | None = None, zero_shot: Path | None = None, classes: bool = False, fps: Fps_ = None,
              bootstrap: Bootstrap_ = 0, seed: Seed_ = 0, json: Json_ = None) -> None:
    """Mean average precision of labelled segments, with its floor and its ceiling.

    Parameters
    ----------
    style
        activitynet, or thumos14: as TH14evalDet counts (Ambiguous ignored, no interpolation).
    official
        Ties, NaN and zero length as the released evaluator has them; --no-official: by a rule one would choose.
    recall
        Recall at this many times as many answers as there are instances (Ego4D's Recall@kx); may be repeated.
    zero_shot
        Folder of class splits: the mean over their unseen classes.
    classes
        Show the average precision of every class too.
    """
    from cuemark.datasets import splits

    if classes and (recall or zero_shot is not None):
        raise CallError("--classes shows average precision, which --recall and --zero-shot do not give for each class.")
    unseen = [second for _, second in splits.zero_shot(zero_shot)] if zero_shot is not None else None
    result = _evaluated("detection", truth, predictions, train, subset, fps, bootstrap, seed, json, style=style,
                        tious=tiou, official=official, recall=tuple(recall or ()), splits=unseen)
    if classes and json != "-" and (ap := getattr(result.score, "ap", None)) is not None:
        rows = sorted(zip(result.score.classes, ap.mean(axis=1)), key=lambda row: -row[1])  # type: ignore[attr-defined]
        _console().print(_table(["class", "average AP"], [[name, float(100 * value)] for name, value in rows]))


@evaluate_app.command(help_epilogue=_examples(
    "cuemark evaluate proposals --truth truth.json --predictions proposals.json",
    "cuemark evaluate proposals --truth truth.json --predictions proposals.json --max-number 1000 --no-official",
))
def proposals(*, truth: Truth_, predictions: Predictions_, train: Train_ = None, subset: Subset_ = None,
              max_number: int = 100, official: bool = True, tiou: Tious_ = None, fps: Fps_ = None,
              bootstrap: Bootstrap_ = 0, seed: Seed_ = 0, json: Json_ = None) -> None:
    """Average recall of class-agnostic segments over how many are looked at (AR@AN), and the area under it.

    Parameters
    ----------
    max_number
        Look at up to this many proposals a video, on average.
    official
        Proposals are allotted in proportion to how many a video has, as ActivityNet's evaluator does;
        --no-official: the best k of every video.
    """
    _evaluated("proposals", truth, predictions, train, subset, fps, bootstrap, seed, json, max_number=max_number,
               official=official, tious=tiou)


@evaluate_app.command(help_epilogue=_examples(
    "cuemark evaluate grounding --truth charades_sta_test.txt --train charades_sta_train.txt --predictions p.json",
    "cuemark evaluate grounding --truth test.json --predictions p.jsonl --tiou 0.5 --tiou 0.7 --strict",
))
def grounding(*, truth: Truth_, predictions: Predictions_, train: Train_ = None, subset: Subset_ = None,
              tiou: Tious_ = None, top: list[int] | None = None, strict: bool = False, fps: Fps_ = None,
              bootstrap: Bootstrap_ = 0, seed: Seed_ = 0, json: Json_ = None) -> None:
    """Sentence to moment: recall of the first answers at tIoU (R@n, IoU=m) and mean tIoU.

    Parameters
    ----------
    top
        The n of R@n; by default 1 and 5.
    strict
        The tIoU must be above m, as in 2D-TAN's code for Charades-STA, ActivityNet Captions and TACoS; otherwise it
        must reach m.
    """
    _evaluated("grounding", truth, predictions, train, subset, fps, bootstrap, seed, json, strict=strict,
               tious=tuple(tiou or (0.3, 0.5, 0.7)), ns=tuple(top or (1, 5)))


@evaluate_app.command(help_epilogue=_examples(
    "cuemark evaluate highlights --truth highlight_val_release.jsonl --predictions hl_val_submission.jsonl",
))
def highlights(*, truth: Truth_, predictions: Predictions_, train: Train_ = None, bootstrap: Bootstrap_ = 0,
               seed: Seed_ = 0, json: Json_ = None) -> None:
    """QVHighlights: moments (MR-R1, MR-mAP by length) and highlights (HL-mAP, HIT@1)."""
    _evaluated("highlights", truth, predictions, train, None, None, bootstrap, seed, json)


@evaluate_app.command(help_epilogue=_examples(
    "cuemark evaluate frames --truth groundTruth --predictions results --fps 15",
    "cuemark evaluate frames --truth COIN.json --predictions p.json --fps 2 --background background",
))
def frames(*, truth: Truth_, predictions: Predictions_, train: Train_ = None, subset: Subset_ = None,
           fps: float | None = None, background: list[str] | None = None, bootstrap: Bootstrap_ = 0, seed: Seed_ = 0,
           json: Json_ = None) -> None:
    """Action segmentation: frame accuracy with and without background, frame mAP, edit score, F1@{10,25,50}.

    Parameters
    ----------
    fps
        Frames a second to count at, and those of files that do not say; by default the truth's own.
    background
        Labels that are no action; by default "background". Time without a label is the first of them.
    """
    _evaluated("frames", truth, predictions, train, subset, fps, bootstrap, seed, json,
               background=tuple(background or ("background",)))


@evaluate_app.command(help_epilogue=_examples(
    "cuemark evaluate captions --truth val_1.json --more val_2.json --predictions captions.json --train train.json",
    "cuemark evaluate captions --truth val_1.json --predictions captions.json --no-meteor",
))
def captions(*, truth: Truth_, predictions: Predictions_, more: list[Path] | None = None, train: Train_ = None,
             subset: Subset_ = None, tiou: Tious_ = None, meteor: bool | None = None, fps: Fps_ = None,
             bootstrap: Bootstrap_ = 0, seed: Seed_ = 0, json: Json_ = None) -> None:
    """Dense captions: BLEU, METEOR, ROUGE-L, CIDEr over tIoU 0.3, 0.5, 0.7, 0.9, and SODA.

    Parameters
    ----------
    more
        Further reference files of the same videos; may be repeated.
    meteor
        Ask for METEOR's official program (needs Java and pip install "cuemark[captions]"), or leave it out; by
        default it is used where it is there.
    """
    from cuemark.conversion import truth_of

    _evaluated("captions", truth, predictions, train, subset, fps, bootstrap, seed, json,
               tious=tuple(tiou or (0.3, 0.5, 0.7, 0.9)), meteor=meteor,
               more=[truth_of(path, fps=fps) for path in more or []])


@evaluate_app.command(help_epilogue=_examples(
    "cuemark evaluate episodes --truth truth.json --predictions p.json --subset validation",
    "cuemark evaluate episodes --truth truth.json --episodes episodes.json --predictions draw0.json draw1.json",
))
def episodes(*, truth: Truth_, predictions: Annotated[list[Path], Parameter(consume_multiple=True)],
             episodes: Path | None = None, train: Train_ = None, subset: Subset_ = None, tiou: Tious_ = None,
             fps: Fps_ = None, bootstrap: Bootstrap_ = 0, seed: Seed_ = 0, json: Json_ = None) -> None:
    """Few-shot: QAT's scoring as released, or a true N-way K-shot protocol over draws.

    Parameters
    ----------
    predictions
        With --episodes one file for each draw, in their order; without it one file.
    episodes
        Draws made by `cuemark episodes`; without it the released scoring, which tells a method the label.
    """
    from cuemark.metrics.episodes import read_episodes

    if episodes is None and len(predictions) != 1:
        raise CallError(f"{len(predictions)} prediction files need --episodes to say which draw each answers.")
    drawn = read_episodes(episodes) if episodes is not None else None
    if drawn is not None and len(predictions) != len(drawn):
        raise CallError(f"{episodes} holds {len(drawn)} draws and there are {len(predictions)} prediction files; "
                        "give one for each.")
    _evaluated("episodes", truth, predictions if drawn is not None else predictions[0], train, subset, fps, bootstrap,
               seed, json, draws=drawn, tious=tiou)


def _evaluated(task: TaskName, truth: Path, predictions: Any, train: Path | None, subset: list[str] | None,
               fps: float | None, bootstrap: int, seed: int, json: str | None,
               draw: Callable[[Evaluation], None] = lambda result: None, **options: Any) -> Evaluation:
    """Evaluate, draw and show: a table on a terminal, JSON for programs."""
    from cuemark.evaluation import evaluate
    from cuemark.metrics.diagnosis import Diagnosis
    from cuemark.progress import Bar
    from cuemark.segments import write_json

    with Bar("drawing videos", bootstrap) as bar:
        result = evaluate(task, truth, predictions, train=train, subsets=subset, fps=fps, bootstrap=bootstrap,
                          seed=seed, on_draw=lambda: bar.advance(1), **options)
    draw(result)
    told = result.to_json()
    if isinstance(result.score, Diagnosis):
        told["diagnosis"] = result.score.to_json()
    if json == "-":
        print(jsonlib.dumps(told))
        return result
    if json is not None:
        write_json(json, told)
    console = _console()
    shown = result.figures
    if isinstance(result.score, Diagnosis):
        for title, heads, rows in result.score.tables():
            console.print(_table(heads, rows, title))
        if not bootstrap:  # the rest is in the tables above
            shown = dict(list(shown.items())[:2])
    columns = ["predictions"] + (["95 %"] if result.interval else []) + (["floor"] if result.floor else [])
    table = Table(task, *columns, *(["ceiling"] if result.ceiling else []), header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in shown.items():
        row = [_figure(value)]
        if result.interval:
            row.append("{} – {}".format(*map(_figure, result.interval[name])))
        row += [_figure(given.get(name, float("nan"))) for given in (result.floor, result.ceiling) if given]
        table.add_row(name, *row, style="bold" if name.startswith("average") else None)
    console.print(table)
    lost = ([f"{len(result.missing)} videos have no prediction, '{result.missing[0]}' first; theirs count as missed."]
            if result.missing else [])
    for line in (f"{len(result.score.videos)} videos. The floor never looks at a video; the ceiling is handed the "
                 "truth.", f"floor: {'' if result.floor else 'none, it '}{result.floor_of}.",
                 f"ceiling: {result.ceiling_of}.", *lost, *result.notes):
        console.print(line)
    return result


def _table(columns: Sequence[str], rows: Sequence[Sequence[str | float | None]], title: str | None = None) -> Table:
    """Numbers to the right, words to the left, and nothing cut short."""
    table = Table(title=title, title_justify="left", header_style="bold")
    cells = [[_cell(cell) for cell in row] for row in rows]
    wide = sum(len(name) + 3 for name in columns) >= 80
    for i, name in enumerate(columns):
        numbers = bool(cells) and all(row[i] == "–" or _NUMBER.fullmatch(row[i]) for row in cells)
        longest = max((len(word) for row in cells for word in ([row[i]] if numbers else row[i].split())), default=0)
        table.add_column(name.replace(" ", "\n") if wide else name, justify="right" if numbers else "left",
                         overflow="fold", min_width=min(longest, 20))
    for row in cells:
        table.add_row(*row)
    return table


def _cell(value: str | float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, str | int) else _figure(value)


def _figure(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


@app.command(help_epilogue=_examples(
    "cuemark compare detection tsp.json clap.json --truth truth.json",
    "cuemark compare grounding a.json b.json --truth charades_sta_test.txt --bootstrap 5000 --json",
))
def compare(task: TaskName, first: Path, second: Path, *, truth: Truth_, subset: Subset_ = None,
            bootstrap: int = 1000, seed: Seed_ = 0, tiou: Tious_ = None, fps: Fps_ = None,
            strict: bool = False, json: Json_ = None) -> None:
    """Is the difference between two systems real? Paired bootstrap over videos.

    Parameters
    ----------
    task
        What is measured.
    first, second
        Prediction files of the two.
    bootstrap
        Draws of videos.
    strict
        Of grounding: the tIoU must be above the threshold.
    """
    from cuemark.evaluation import compare as run
    from cuemark.progress import Bar
    from cuemark.segments import write_json

    options: dict[str, Any] = {}
    if tiou:
        options["tious"] = tuple(tiou)
    if strict:
        options["strict"] = True
    with Bar("drawing videos", bootstrap) as bar:
        found = run(task, truth, first, second, bootstrap=bootstrap, seed=seed, subsets=subset, fps=fps,
                    on_draw=lambda: bar.advance(1), **options)
    told = {"task": task, "draws": bootstrap, "figures": {
        name: {"first": d.first, "second": d.second, "difference": d.second - d.first, "low": d.low, "high": d.high,
               "p": d.p, "real": d.real} for name, d in found.items() if d.first == d.first and d.second == d.second}}
    if json == "-":
        print(jsonlib.dumps(told))
        return
    if json is not None:
        write_json(json, told)
    table = Table(header_style="bold")
    table.add_column(task, overflow="fold")
    for name in ("first", "second", "difference", "95 %", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("real")
    for name, d in found.items():
        table.add_row(name, _figure(d.first), _figure(d.second), f"{d.second - d.first:+.2f}",
                      f"{d.low:+.2f} – {d.high:+.2f}", f"{d.p:.3f}", "yes" if d.real else "no")
    console = _console()
    console.print(table)
    for line in (f"first: {first}", f"second: {second}",
                 "real: the 95 % interval of the difference leaves out 0; no: chance alone could do it."):
        console.print(line)


@app.command(help_epilogue=_examples(
    "cuemark diagnose --truth truth.json --predictions predictions.json --plots errors.png",
    "cuemark diagnose --truth thumos/test --predictions p.json --buckets thumos14 --json",
))
def diagnose(*, truth: Truth_, predictions: Predictions_, train: Train_ = None, subset: Subset_ = None,
             buckets: Literal["activitynet", "thumos14"] = "activitynet", characteristics: Path | None = None,
             tiou: Tious_ = None, official: bool = True, fps: Fps_ = None, bootstrap: Bootstrap_ = 0, seed: Seed_ = 0,
             plots: Path | None = None, json: Json_ = None) -> None:
    """Where a detector's errors are (DETAD): kinds of false positives, sensitivity, what is missed.

    Parameters
    ----------
    buckets
        Bounds of short and long, few and many.
    characteristics
        DETAD's file of further characteristics of each instance (context, agreement).
    official
        The released tool's filter over thresholds; --no-official: each threshold on its own.
    plots
        Draw the same: errors.png gives errors_false_positives.png and two more (.svg and .pdf likewise).
    """
    from cuemark.datasets import detad
    from cuemark.pictures import plot_diagnosis

    extra = detad.characteristics(characteristics) if characteristics is not None else None

    def draw(result: Evaluation) -> None:
        if plots is not None:
            plot_diagnosis(result.score, plots)  # type: ignore[arg-type]

    _evaluated("diagnosis", truth, predictions, train, subset, fps, bootstrap, seed, json, draw, buckets=buckets,
               characteristics=extra, tious=tiou, official=official)


@app.command(name="episodes", help_epilogue=_examples(
    "cuemark episodes --support truth.json --classes novel.txt --ways 5 --shots 5 --draws 10 --out episodes.json",
))
def episodes_command(*, support: Path, classes: Path, out: Path, query: Path | None = None, ways: int = 5,
                     shots: int = 5, draws: int = 10, seed: Seed_ = 0) -> None:
    """Draw few-shot episodes: which instances are shown, which videos are asked; the two never share a video.

    Parameters
    ----------
    support
        Truth that examples are drawn from: its training videos, where it has any.
    classes
        The novel classes: one a line, or a JSON list, or a few-shot split file, whose "novel" list they are.
    out
        The draws, as JSON; `cuemark evaluate episodes` scores answers to them.
    query
        Truth of the videos that are asked; by default the validation or testing videos of --support.
    ways
        Classes of an episode.
    shots
        Examples of a class.
    draws
        How many episodes.
    """
    from cuemark.evaluation import draw_episodes

    drawn = draw_episodes(support, classes, out, query=query, ways=ways, shots=shots, draws=draws, seed=seed)
    print(f"{len(drawn)} draws of {ways} classes with {shots} examples each in {out}")


From_ = Annotated[str | None, Parameter(name="--from", help="The format; by default it is guessed, and said.")]
Videos_ = Annotated[Path | None, Parameter(name="--videos", help="Folder of the videos, for lengths and rates.")]


@app.command(help_epilogue=_examples(
    "cuemark convert thumos_gt.json --to csv --out thumos.csv",
    "cuemark convert project-12.json --from label-studio --fps 25 --to cuemark --out truth.json",
    "cuemark convert predictions.json --to srt --out subtitles/",
))
def convert(file: Path, *, to: str, out: Path, from_: From_ = None, fps: Fps_ = None, videos: Videos_ = None,
            truth: Path | None = None, meta: Path | None = None, subset: str = "training") -> None:
    """Annotations or predictions from one format to another.

    Parameters
    ----------
    file
        What to convert: a file, or a folder of them.
    to
        The format to write, such as csv, cuemark, label-studio, srt; a name that is none is answered with all.
    out
        The file, or for formats of one video the folder, to write.
    truth
        Of predictions: truth of their videos, for lengths, rates and queries.
    meta
        The file beside it that some formats need (lengths, label names), where it is not where its authors put it.
    subset
        The split of videos whose file names none.
    """
    from cuemark import conversion
    from cuemark.datasets.format import Reading

    read = conversion.convert(file, out, to, from_=from_, videos=videos, fps=fps, truth=truth,
                               reading=Reading(fps=fps, meta=meta, subset=subset))
    _said(read, file)
    rows = [len(v.annotations) for v in read.truth.values()] if read.truth is not None else [
        len(row) for row in (read.predictions or {}).values()]
    print(f"{sum(rows)} segments of {len(rows)} videos in {out}")


def _said(read: Annotations, file: Path) -> None:
    """Which format was guessed, and what was dropped or clipped."""
    if read.guessed:
        print(f"'{file}' looks like {read.format.name} ({read.format.title}); --from names another format",
              file=sys.stderr)
    for line in read.losses(file):
        print(line, file=sys.stderr)


@app.command(help_epilogue=_examples(
    "cuemark check truth.json",
    "cuemark check charades_sta_train.txt --videos Charades_v1 --json",
))
def check(file: Path, *, from_: From_ = None, videos: Videos_ = None, classes: Path | None = None, fps: Fps_ = None,
          meta: Path | None = None, show: int = 20, json: Json_ = None) -> int:
    """What is wrong in an annotation file, and what is in it. Status 1 when something is wrong.

    Parameters
    ----------
    classes
        The labels there may be: one a line, or a JSON list.
    meta
        The file beside it that some formats need.
    show
        Show this many findings of a kind.
    """
    if show < 0:
        raise CallError(f"--show must be 0 or more, got {show}.")
    from cuemark import conversion
    from cuemark.datasets.format import Reading
    from cuemark.datasets.splits import read_classes
    from cuemark.segments import write_json

    labels = read_classes(classes) if classes is not None else None
    report = conversion.check(file, from_, videos=videos, labels=labels, reading=Reading(fps=fps, meta=meta))
    if json == "-":
        print(jsonlib.dumps(report.to_json()))
        return 1 if report.findings else 0
    if json is not None:
        write_json(json, report.to_json())
    _said(report.read, file)
    console = _console()
    for title, columns, rows in report.tables(show):
        console.print(_table(columns, rows, title))
    print(f"{len(report.findings)} findings" if report.findings else "nothing is wrong")
    return 1 if report.findings else 0


@app.command(help_epilogue=_examples(
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

    report_files(truth, _named(predictions, "--predictions"), out, videos, tuple(subset) if subset else None,
                 _named(features or [], "--features"), show)
    print(out)


def _console() -> Console:
    """Standard output as it is written: names of files and labels may look like rich's markup."""
    return Console(markup=False, emoji=False, highlight=False)


def _named(words: Sequence[str], option: str) -> dict[str, Path]:
    named = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals:
            name, path = Path(word).stem, word
        if name in named:
            raise CallError(f"{option} names '{name}' twice; write NAME=FILE with different names.")
        named[name] = Path(path)
    return named


if __name__ == "__main__":
    main()
