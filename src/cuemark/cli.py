"""The command line: parsing and presentation only; the work of each command is one public function elsewhere.

Exit status 0, 1 (failed), 2 (bad call), 130 (stopped). Errors are one sentence on standard error; results go to
standard output, progress to standard error.
"""

from __future__ import annotations

import json as jsonlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table

from cuemark.errors import CallError, CuemarkError

if TYPE_CHECKING:
    from cuemark.loop import Result

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


def _examples(*lines: str) -> str:
    return "\n".join(("Examples:", *(f"  {line}" for line in lines), ""))


SetOption = Annotated[list[str], Parameter(name="--set", negative="", help="section.field=value; may be repeated.")]
JSON_WITH_FILE = ("evaluate",)
"""Commands whose --json may be followed by a file; elsewhere it could swallow a video's name."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in JSON_WITH_FILE:
        for i, word in enumerate(arguments):
            if word == "--json" and (i + 1 == len(arguments) or arguments[i + 1].startswith("-")):
                arguments[i] = "--json=-"
    try:
        status = app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(" ".join(str(error).split()), 2)
    except CallError as error:
        _fail(str(error), 2)
    except CuemarkError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on from here.", 130)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        _fail(f"{error.strerror or error}{f': {error.filename!r}' if error.filename else ''}; "
              "check the path, its permissions and the free space.", 1)
    sys.exit(status if isinstance(status, int) else 0)


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
))
def extract(videos: list[Path], *, encoder: Path, out: Path, stride: int = 16, truth: Path | None = None,
            batch: int = 16, bf16: bool = False, json: bool = False) -> int:
    """Extract the features of whole videos into a folder. A run that was stopped goes on; what is done is skipped.

    Parameters
    ----------
    videos
        Files, or folders of them.
    encoder
        Encoder checkpoint.
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
    from cuemark.encoders.video_encoder import VideoEncoder
    from cuemark.localization import by_name
    from cuemark.segments import read_truth

    model = VideoEncoder.load(encoder)
    files: dict[str, Path]
    if truth is not None:
        files = {}
        for folder in videos:
            files |= video.find_videos(folder, read_truth(truth))
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


@evaluate_app.command(help_epilogue=_examples(
    "cuemark evaluate detection --truth truth.json --predictions predictions.json",
    "cuemark evaluate detection --truth truth.json --predictions predictions.json --subset testing --json",
))
def detection(*, truth: Path, predictions: Path, subset: list[str] | None = None, json: str | None = None) -> None:
    """ActivityNet mAP at tIoU 0.5 to 0.95, with its floor.

    Parameters
    ----------
    truth
        Truth file (cuemark's, ActivityNet's, or any in that layout).
    predictions
        Prediction file (cuemark's or ActivityNet's).
    subset
        Splits to score; by default those that have predictions, training left out.
    json
        Print JSON, or write it to the file that follows.
    """
    from cuemark.evaluation import evaluate_detection
    from cuemark.segments import write_json

    result = evaluate_detection(truth, predictions, tuple(subset) if subset else None)
    if json == "-":
        print(jsonlib.dumps(result.to_json()))
        return
    if json is not None:
        write_json(json, result.to_json())
    scores = [s for s in (result.score, result.floor) if s is not None]
    # thresholds below each other: beside each other they do not fit into 80 columns
    table = Table("mAP at tIoU", *("predictions", "floor (never looks)")[:len(scores)], header_style="bold")
    for i, tiou in enumerate(result.score.tious):
        table.add_row(f"{tiou:.2f}", *(f"{100 * score.map[i]:.2f}" for score in scores))
    table.add_row("average", *(f"{100 * score.average:.2f}" for score in scores), style="bold")
    _console().print(table)
    if result.missing:
        print(f"{len(result.missing)} videos have no prediction, '{result.missing[0]}' first; theirs count as missed.")


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
    from cuemark.evaluation import report_files

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
