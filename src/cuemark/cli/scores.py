"""What answers and features are worth: evaluate, compare, diagnose, few-shot episodes, analyze."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from cuemark.cli.shell import (
    Bootstrap_,
    Fps_,
    Json_,
    Predictions_,
    Seed_,
    Subset_,
    Tious_,
    Train_,
    Truth_,
    app,
    evaluate_app,
    examples,
    named,
    printed,
    screen,
    tabulated,
)
from cuemark.errors import CallError, DataError
from cuemark.metrics import TaskName

if TYPE_CHECKING:
    from cuemark.evaluation import Evaluation


@evaluate_app.command(help_epilogue=examples(
    "cuemark evaluate detection --truth truth.json --predictions predictions.json",
    "cuemark evaluate detection --truth thumos/test --train thumos/validation --predictions p.json --style thumos14",
    "cuemark evaluate detection --truth truth.json --predictions p.json --bootstrap 1000 --json scores.json",
    "cuemark evaluate detection --truth truth.json --predictions 'answers/{split}.json'"
    " --zero-shot 'train50%; test50%/ActivityNet1.3'",
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
        Folder of class splits: mean and standard deviation over splits, each scored on its unseen classes. {split} in
        the name of --predictions is the number of a split, 0, 1 …, for each has its own model; one plain file answers
        all.
    classes
        Show the average precision of every class too.
    """
    from cuemark.metrics.detection import DetectionScore

    if classes and (recall or zero_shot is not None):
        raise CallError("--classes shows average precision, which --recall and --zero-shot do not give for each class.")
    unseen = _unseen(zero_shot)
    result = _evaluated("detection", truth, _of_splits(predictions, unseen), train, subset, fps, bootstrap, seed, json,
                        style=style, tious=tiou, official=official, recall=tuple(recall or ()), splits=unseen)
    if classes and json != "-" and isinstance(result.score, DetectionScore):
        rows = sorted(zip(result.score.classes, result.score.ap.mean(axis=1)), key=lambda row: -row[1])
        screen().print(tabulated(["class", "average AP"], [[name, float(100 * value)] for name, value in rows]))


def _unseen(folder: Path | None) -> list[list[str]] | None:
    """The unseen classes of each zero-shot split."""
    from cuemark.datasets import splits

    return None if folder is None else [unseen for _, unseen in splits.zero_shot(folder)]


def _of_splits(predictions: Path, splits: Sequence[object] | None) -> Path | list[Path]:
    """The file that is named, or, where ``{split}`` is in its name, that of each split in turn."""
    if "{split}" not in str(predictions):
        if splits is not None and not predictions.exists():
            raise DataError(f"'{predictions}' does not exist, and has no {{split}} in it to name the file of each "
                            "split; check the path.")
        return predictions
    if splits is None:
        raise CallError(f"{{split}} in '{predictions}' is the number of a zero-shot split; name their folder with "
                        "--zero-shot.")
    files = [Path(str(predictions).replace("{split}", str(n))) for n in range(len(splits))]
    if absent := [file for file in files if not file.exists()]:
        raise DataError(f"'{absent[0]}' does not exist, and each of the {len(files)} splits needs its file; check the "
                        "path, or answer that split, too.")
    return files


@evaluate_app.command(help_epilogue=examples(
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


@evaluate_app.command(help_epilogue=examples(
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


@evaluate_app.command(help_epilogue=examples(
    "cuemark evaluate highlights --truth highlight_val_release.jsonl --predictions hl_val_submission.jsonl",
))
def highlights(*, truth: Truth_, predictions: Predictions_, train: Train_ = None, bootstrap: Bootstrap_ = 0,
               seed: Seed_ = 0, json: Json_ = None) -> None:
    """QVHighlights: moments (MR-R1, MR-mAP by length) and highlights (HL-mAP, HIT@1)."""
    _evaluated("highlights", truth, predictions, train, None, None, bootstrap, seed, json)


@evaluate_app.command(help_epilogue=examples(
    "cuemark evaluate frames --truth groundTruth --predictions results --fps 15",
    "cuemark evaluate frames --truth COIN.json --predictions p.json --fps 2 --saliency scores.npz",
))
def frames(*, truth: Truth_, predictions: Predictions_, train: Train_ = None, subset: Subset_ = None,
           fps: float | None = None, background: list[str] | None = None, saliency: Path | None = None,
           bootstrap: Bootstrap_ = 0, seed: Seed_ = 0, json: Json_ = None) -> None:
    """Action segmentation: frame accuracy with and without background, frame mAP, edit score, F1@{10,25,50}.

    Parameters
    ----------
    fps
        Frames a second to count at, and those of files that do not say; by default the truth's own.
    background
        Labels that are no action; by default "background". Time without a label is the first of them.
    saliency
        What `cuemark localize --saliency` wrote: frame mAP then ranks every class at every frame by it, as UnLoc does,
        instead of the segments by their scores.
    """
    _evaluated("frames", truth, predictions, train, subset, fps, bootstrap, seed, json,
               background=tuple(background or ("background",)), saliency=saliency)


@evaluate_app.command(help_epilogue=examples(
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


@evaluate_app.command(help_epilogue=examples(
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
    from cuemark.metrics.detection import ZeroShotScore
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
    console = screen()
    shown = result.figures
    if isinstance(result.score, Diagnosis):
        for title, heads, rows in result.score.tables():
            console.print(tabulated(heads, rows, title))
        if not bootstrap:  # the rest is in the tables above
            shown = dict(list(shown.items())[:2])
    columns = ["predictions"] + (["95 %"] if result.interval else []) + (["floor"] if result.floor else [])
    columns[1:1] = ["± splits"] if result.spread else []
    table = Table(task, *columns, *(["ceiling"] if result.ceiling else []), header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in shown.items():
        row = [printed(value), *([printed(result.spread[name])] if result.spread else [])]
        if result.interval:
            row.append("{} – {}".format(*map(printed, result.interval[name])))
        row += [printed(given.get(name, float("nan"))) for given in (result.floor, result.ceiling) if given]
        table.add_row(name, *row, style="bold" if name.startswith("average") else None)
    console.print(table)
    lost = ([f"{len(result.missing)} videos have no prediction, '{result.missing[0]}' first; theirs count as missed."]
            if result.missing else [])
    spread = ([f"± splits: standard deviation between the {len(result.score.splits)} splits."]
              if isinstance(result.score, ZeroShotScore) else [])
    for line in (f"{len(result.score.videos)} videos. The floor never looks at a video; the ceiling is handed the "
                 "truth.", *spread, f"floor: {'' if result.floor else 'none, it '}{result.floor_of}.",
                 f"ceiling: {result.ceiling_of}.", *lost, *result.notes):
        console.print(line)
    return result


@app.command(help_epilogue=examples(
    "cuemark compare detection tsp.json clap.json --truth truth.json",
    "cuemark compare grounding a.json b.json --truth charades_sta_test.txt --bootstrap 5000 --json",
    "cuemark compare detection 'b/{split}.json' 'l/{split}.json' --truth truth.json --zero-shot zero50",
))
def compare(task: TaskName, first: Path, second: Path, *, truth: Truth_, subset: Subset_ = None,
            bootstrap: int = 1000, seed: Seed_ = 0, tiou: Tious_ = None, fps: Fps_ = None,
            strict: bool = False, zero_shot: Path | None = None, json: Json_ = None) -> None:
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
    zero_shot
        Of detection: folder of class splits, as of `cuemark evaluate detection`; {split} as there.
    """
    from cuemark.evaluation import compare as run
    from cuemark.progress import Bar
    from cuemark.segments import write_json

    options: dict[str, Any] = {}
    if tiou:
        options["tious"] = tuple(tiou)
    if strict:
        options["strict"] = True
    if (unseen := _unseen(zero_shot)) is not None:
        options["splits"] = unseen
    with Bar("drawing videos", bootstrap) as bar:
        found = run(task, truth, _of_splits(first, unseen), _of_splits(second, unseen), bootstrap=bootstrap, seed=seed,
                    subsets=subset, fps=fps, on_draw=lambda: bar.advance(1), **options)
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
        table.add_row(name, printed(d.first), printed(d.second), f"{d.second - d.first:+.2f}",
                      f"{d.low:+.2f} – {d.high:+.2f}", f"{d.p:.3f}", "yes" if d.real else "no")
    console = screen()
    console.print(table)
    for line in (f"first: {first}", f"second: {second}",
                 "real: the 95 % interval of the difference leaves out 0; no: chance alone could do it."):
        console.print(line)


@app.command(help_epilogue=examples(
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
    from cuemark.metrics.diagnosis import Diagnosis
    from cuemark.pictures import plot_diagnosis

    extra = detad.characteristics(characteristics) if characteristics is not None else None

    def draw(result: Evaluation) -> None:
        if plots is not None and isinstance(result.score, Diagnosis):
            plot_diagnosis(result.score, plots)

    _evaluated("diagnosis", truth, predictions, train, subset, fps, bootstrap, seed, json, draw, buckets=buckets,
               characteristics=extra, tious=tiou, official=official)


@app.command(name="episodes", help_epilogue=examples(
    "cuemark episodes --support truth.json --classes novel.txt --ways 5 --shots 5 --draws 10 --out episodes.json",
    "cuemark episodes --support truth.json --classes novel.txt --out e.json --model qat.safetensors --features f/clap",
))
def episodes_command(*, support: Path, classes: Path, out: Path, query: Path | None = None, ways: int = 5,
                     shots: int = 5, draws: int = 10, seed: Seed_ = 0, model: Path | None = None,
                     features: Path | None = None, answers: Path | None = None, device: str = "auto",
                     json: bool = False) -> None:
    """Draw few-shot episodes: which instances are shown, which videos are asked; the two never share a video.

    With a localizer that is shown examples, answer and score them too.

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
    model
        Localizer checkpoint that answers them.
    features
        Folder of the features it looks at, of the examples and of the videos that are asked.
    answers
        Folder for its answers, draw0.json and so on, as `cuemark evaluate episodes` reads them.
    device
        cpu, cuda, cuda:1 …; auto takes a GPU where there is one.
    json
        Print the scores as JSON.
    """
    from cuemark.evaluation import draw_episodes

    if (model is None) != (features is None):
        raise CallError("--model and --features go together: what answers, and what it looks at.")
    if model is None and (answers is not None or json):
        raise CallError(f"--{'answers' if answers is not None else 'json'} goes with --model: without one nothing is "
                        "answered.")
    drawn = draw_episodes(support, classes, out, query=query, ways=ways, shots=shots, draws=draws, seed=seed)
    if not json:
        print(f"{len(drawn)} draws of {ways} classes with {shots} examples each in {out}")
    if model is None or features is None:
        return

    from cuemark.extraction import chosen
    from cuemark.feature_folder import FeatureFolder
    from cuemark.localization import answer_episodes, load
    from cuemark.segments import write_predictions

    found = answer_episodes(FeatureFolder.open(features), load(model, chosen(device)), drawn)
    for number, one in enumerate(found if answers is not None else ()):
        write_predictions(Path(answers or ".") / f"draw{number}.json", one)
    _evaluated("episodes", query or support, found, None, None, None, 0, seed, "-" if json else None,
               draws=drawn)


@app.command(help_epilogue=examples(
    "cuemark analyze features/tsp --truth truth.json",
    "cuemark analyze tac=features/tac clap=features/clap --truth truth.json --test testing --out analysis",
))
def analyze(features: list[str], *, truth: Truth_, train: list[str] | None = None, test: list[str] | None = None,
            out: Path | None = None, show: int = 4, clips: int | None = None, seed: Seed_ = 0, fps: Fps_ = None,
            json: bool = False) -> None:
    """What features know of actions: similarity, distances, retrieval, linear probes; encoders side by side.

    Parameters
    ----------
    features
        NAME=FOLDER for each encoder, or the folder alone.
    train
        Splits that probes learn from; by default training. May be repeated.
    test
        Splits that every figure is taken on; by default validation. May be repeated.
    out
        Folder for pictures (similarity_VIDEO.png, distances.png) and analysis.json.
    show
        How many videos get a picture of similarities.
    clips
        Look at this many clips of each side at most, drawn evenly over its videos; by default 20000.
    json
        Print the figures as JSON.
    """
    from cuemark import analysis
    from cuemark.conversion import truth_of
    from cuemark.feature_folder import FeatureFolder
    from cuemark.pictures import plot_distances, plot_similarity
    from cuemark.progress import Bar
    from cuemark.segments import subset, write_json

    known = truth_of(truth, fps=fps)
    encoders = {name: FeatureFolder.open(folder) for name, folder in named(features, "analyze").items()}
    learn, ask = tuple(train or ("training",)), tuple(test or ("validation",))
    with Bar("analysing", len(encoders)) as bar:
        found = analysis.side_by_side(encoders, known, learn, ask, seed,
                                      analysis.CLIPS if clips is None else clips, lambda name: bar.advance(1, name))
    told = {name: each.to_json() for name, each in found.items()}
    if out is not None:
        for vid in analysis.examples(encoders, subset(known, *ask), show):
            looked = {name: analysis.thinned(each[vid], 800) for name, each in encoders.items()}
            plot_similarity(out / f"similarity_{vid}.png", vid, known[vid].annotations,
                            {name: (analysis.similarity(f), f.grid) for name, f in looked.items()})
        plot_distances(out / "distances.png", {name: each.contrast.values for name, each in found.items()})
        write_json(out / "analysis.json", told)
    if json:
        print(jsonlib.dumps(told))
        return
    heads, rows = analysis.tabled(found)
    table = Table(header_style="bold")
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = screen()
    console.print(table)
    for line in (*analysis.counted(found), analysis.EXPLAINED):
        console.print(line)
