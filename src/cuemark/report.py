"""Truth + predictions -> one HTML page: scores, timelines, and what the features know.

The page is a single file that needs nothing beside it and asks nothing of a network: styles, charts (SVG) and
pictures (JPEG, PNG) are inside, there is no script, and its own content policy forbids loading anything. The same
input gives the same bytes. It reads on a phone and on a desk, by day and by night (``prefers-color-scheme``), and
without colour: every run has a shape beside its colour, every timeline a table beside its picture.

What it shows, each part only if there is something to show: key figures; the table of runs (mAP of
``metrics.detection``); mAP over tIoU; how often answers are right against what they say (``metrics.reliability``);
timelines of some videos (CLAP Figure 2b, UnLoc Figure 3); similarity matrices of one video (TSP Figure 2); the
foreground/background probe (CLAP Figure 2a); retrieval and linear probes, encoders side by side; further tables; notes,
timings, commands.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import ArrayLike

from cuemark import analysis, floors
from cuemark.conversion import predictions_of, truth_of
from cuemark.errors import CallError, CuemarkError, unknown
from cuemark.evaluation import split
from cuemark.feature_folder import FeatureFolder
from cuemark.grid import Features
from cuemark.localizers.calibration import Calibration
from cuemark.metrics.detection import TIOUS, DetectionScore, detection
from cuemark.metrics.reliability import BINS, Reliability, judged, reliability
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, labels_of, read_json, replacing, times, tiou
from cuemark.settings import build
from cuemark.video import find_videos, frames_at, jpeg

_THUMBNAILS = 12
"""In a timeline's strip. A phone shows every third: the middles of four equal parts, as these are of twelve."""
_THUMBNAIL_HEIGHT = 96
"""Pixels; twice what a desk shows."""
_ROWS = 3
"""Of overlapping segments in one lane; what fits in none of them is in the table below the timeline only."""
_MATRIX = 192
"""Rows and columns of a similarity matrix at most; longer videos are thinned evenly."""


@dataclass(frozen=True)
class Run:
    """One system (or one floor to stand on): what it predicted, and what is worth telling about it."""

    name: str
    predictions: Predictions
    note: str = ""
    """A few words, shown under the name."""
    floor: bool = False
    """It marks what can be had for nothing; drawn grey, tagged "floor"."""
    seconds: float | None = None
    """What it took, in seconds."""
    features: Mapping[str, Features] | None = None
    """Video id -> the features it localized on. Runs that share one mapping share one picture."""
    calibration: Calibration | None = None
    """What made probabilities of its scores."""


@dataclass(frozen=True)
class Table:
    """Any further table. The first column is text; columns of numbers are set flush right; None is a dash.

    Raises:
        CallError: a row has more or fewer cells than there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    """Floats are shown with two decimals, ints and strings as they are."""
    caption: str = ""

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise CallError(f"table '{self.title}', row {i}: {len(row)} cells for {len(self.columns)} columns.")


def write_report(
    path: str | Path,
    truth: Truth,
    runs: Sequence[Run],
    *,
    title: str = "Temporal action localization",
    summary: str = "",
    videos: Mapping[str, str | Path] | None = None,
    show: Sequence[str] | int = 4,
    tables: Sequence[Table] = (),
    notes: Sequence[tuple[str, str]] = (),
    steps: Sequence[tuple[str, float]] = (),
    commands: Sequence[str] = (),
    tious: ArrayLike = TIOUS,
    training: Truth | None = None,
) -> None:
    """Write the page, atomically.

    Args:
        path: of the HTML file.
        truth: the videos that count, usually one subset.
        runs: systems and floors, in the order they are to be shown.
        title: of the page.
        summary: one paragraph under it.
        videos: video id -> file, for the strips of thumbnails. A file that is missing or cannot be decoded costs its
            timeline the thumbnails, and the page says so.
        show: ids of the videos to draw, or how many to choose: evenly over the annotated videos (those with a file,
            if any have one) sorted by number of instances, then id.
        tables: further tables.
        notes: (title, text) paragraphs.
        steps: (what, seconds) of the work behind the page.
        commands: that made it, one line each.
        tious: thresholds of mAP.
        training: videos that linear probes of the runs' features learn from, of other subsets than ``truth``; None:
            no probes.

    Raises:
        CallError: ``show`` names a video that the truth lacks.
        DataError: the truth has no labelled segment, or a prediction has no score.
    """
    scores = [detection(truth, run.predictions, tious) for run in runs]
    looks = _looks(runs)
    shown = _choose(truth, show, videos)
    sections = [
        ("Scores", _scores(runs, scores, looks) + _reliable(truth, runs, looks) if runs else ""),
        ("Timelines", "".join(_timeline(vid, truth[vid], runs, looks, videos) for vid in shown)),
        ("Features", _features(truth, runs, looks, shown, training or {})),
        ("Tables", "".join(_table(table) for table in tables)),
        ("Notes", _notes(notes, steps, commands)),
    ]
    sections = [(name, body) for name, body in sections if body]
    lead = {"Timelines": _TIMELINES_LEAD if runs else ""}
    page = _PAGE.format(
        title=_text(title),
        css=_CSS,
        summary=f'<p class="summary">{_text(summary)}</p>' if summary else "",
        nav="".join(f'<a href="#{name.lower()}">{name}</a>' for name, _ in sections),
        figures=_figures(truth, runs, scores),
        sections="".join(
            f'<section id="{name.lower()}"><h2>{name}</h2>{lead.get(name, "")}{body}</section>\n'
            for name, body in sections
        ),
    )
    with replacing(path) as file:
        file.write(page)


# ------------------------------------------------------------------------------------------------ words


def report_files(truth: str | Path, predictions: Mapping[str, str | Path], out: str | Path,
                 videos: str | Path | None = None, subsets: tuple[str, ...] | None = None,
                 features: Mapping[str, str | Path] | None = None, show: int = 4) -> None:
    """Prediction files against a truth file as one HTML page, with the floor as a run of its own.

    Args:
        predictions: name of a run -> its file.
        videos: folder of the videos, for thumbnails.
        subsets: see :func:`evaluate`; by default those that any run has predictions for.
        features: name of a run -> its features folder.

    Raises:
        DataError: a file is malformed, or no video of these splits is in the truth.
        CallError: features are named for a run that is not there.
    """
    everything = truth_of(truth)
    found = {name: predictions_of(path) for name, path in predictions.items()}
    folders = {name: FeatureFolder.open(path) for name, path in (features or {}).items()}
    for name in folders:
        if name not in found:
            raise unknown("run among --features", name, found)
    merged: Predictions = {vid: [] for run in found.values() for vid in run}
    scored, learn = split(everything, merged, subsets, ("training",))
    runs = [Run(name, {v: s for v, s in run.items() if v in scored or v not in everything}, features=folders.get(name),
                calibration=_calibration_of(predictions[name])) for name, run in found.items()]
    if labels_of(learn):
        runs.append(Run("never looks", floors.blind(learn, scored), floor=True,
                        note="the most common stretches and classes of training"))
    files = find_videos(videos, scored) if videos is not None else {}
    write_report(out, scored, runs, videos=files, show=show, training=learn)


def _calibration_of(path: str | Path) -> Calibration | None:
    """The calibration that a prediction file of ``cuemark localize`` tells of; None in any other."""
    if Path(path).suffix.lower() != ".json":
        return None
    data = read_json(path, "prediction")
    told = data.get("external_data") if isinstance(data, dict) else None
    told = told.get("calibration") if isinstance(told, dict) else None
    return build(Calibration, told, f"'{path}'", "calibration") if isinstance(told, dict) else None


def _text(value: object) -> str:
    """Escaped for HTML, in elements and in attributes; half a surrogate pair (JSON can hold one) becomes "?"."""
    return html.escape(str(value).encode("utf-8", "replace").decode(), quote=True)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _span(seconds: float) -> str:
    """A length of time in the unit a person would use."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# ------------------------------------------------------------------------------------------------ how a run looks


@dataclass(frozen=True)
class _Look:
    colour: int
    """0 is the grey of floors, 1 to 6 the palette."""
    shape: int
    """Index into ``_SHAPES``."""

    @property
    def mark(self) -> str:
        return f'<i class="mark s{self.shape}" style="{self.style}"></i>'

    @property
    def style(self) -> str:
        return f"--c:var(--r{self.colour})"


_SHAPES = "osD^v"
"""matplotlib's names; the style sheet draws the same five, and a dash for floors. Six colours and five shapes meet
again after thirty runs."""


def _looks(runs: Sequence[Run]) -> list[_Look]:
    looks, systems = [], 0
    for run in runs:
        if run.floor:
            looks.append(_Look(0, len(_SHAPES)))
        else:
            looks.append(_Look(1 + systems % 6, systems % len(_SHAPES)))
            systems += 1
    return looks


# ------------------------------------------------------------------------------------------------ scores


def _figures(truth: Truth, runs: Sequence[Run], scores: Sequence[DetectionScore]) -> str:
    """The key numbers, as a description list."""
    segments = [s for video in truth.values() for s in video.annotations]
    labels = {s.label for s in segments if s.label is not None}
    items = []
    systems = [(score.average, run) for run, score in zip(runs, scores) if not run.floor]
    floors = [score.average for run, score in zip(runs, scores) if run.floor]
    if systems:
        best, run = max(systems, key=lambda pair: pair[0])
        items.append(("best average mAP", f"{_percent(best)}<small> %</small>", _text(run.name)))
        if floors:
            items.append(("above the floor", f"{100 * (best - max(floors)):+.1f}<small> points</small>",
                          f"floor {_percent(max(floors))} %"))
    hours = _span(sum(video.duration for video in truth.values()))
    items.append(("videos", f"{len(truth):,}", hours))
    items.append(("segments", f"{len(segments):,}", f"of {_count(len(labels), 'label')}"))
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd><dd>{under}</dd></div>" for name, value, under in items)


def _scores(runs: Sequence[Run], scores: Sequence[DetectionScore], looks: Sequence[_Look]) -> str:
    levels = scores[0].tious
    picked = [i for i, level in enumerate(levels) if len(levels) <= 5 or np.isclose(level, (0.5, 0.75, 0.95)).any()]
    columns = ["avg mAP", *(f"@{levels[i]:g}" for i in picked)]
    cells = [[_percent(x) for x in (score.average, *score.map[picked])] for score in scores]
    best = [max(column, key=float) for column in zip(*cells)]  # as shown: what reads the same is marked the same
    timed = any(run.seconds is not None for run in runs)
    rows = []
    for run, look, row in zip(runs, looks, cells):
        tag = ' <span class="tag">floor</span>' if run.floor else ""
        note = f"<small>{_text(run.note)}</small>" if run.note else ""
        numbers = "".join(
            f'<td class="best"><b>{cell}</b></td>' if len(runs) > 1 and cell == top != "0.0" else f"<td>{cell}</td>"
            for cell, top in zip(row, best)
        )
        if timed:
            numbers += f"<td>{'–' if run.seconds is None else _span(run.seconds)}</td>"
        rows.append(f'<tr><th scope="row"><div>{look.mark}<div><bdi>{_text(run.name)}</bdi>{tag}{note}</div></div></th>'
                    f"{numbers}</tr>")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("run", *columns, *(["time"] if timed else [])))
    out = [sum(score.ignored.values()) for score in scores]
    left_out = "".join(f" Left out: {_count(n, 'prediction')} of {_text(run.name)} whose label the truth lacks."
                       for run, n in zip(runs, out) if n)
    table = (
        f'<div class="scroll"><table class="runs"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'</div><p class="caption">Mean average precision in %: over tIoU {levels[0]:g} to {levels[-1]:g}, and at '
        f"single thresholds.{' The best of each column is bold and underlined.' * (len(runs) > 1)}{left_out}</p>"
    )
    return table + (_curves(runs, scores, looks) if len(levels) > 1 else "")


def _curves(runs: Sequence[Run], scores: Sequence[DetectionScore], looks: Sequence[_Look]) -> str:
    def draw(axes: Axes) -> None:
        for run, score, look in zip(runs, scores, looks):
            axes.plot(score.tious, 100 * score.map, color=_CHART_COLOURS[look.colour], linewidth=2,
                      linestyle=(0, (4, 3)) if run.floor else "-", marker="" if run.floor else _SHAPES[look.shape],
                      markersize=5.5, clip_on=False)
        axes.set_ylim(bottom=0, top=None if any(score.map.any() for score in scores) else 100)
        axes.margins(x=0.02)
        axes.set_xlabel("tIoU")
        axes.set_ylabel("mAP, %")

    legend = [(look, _text(run.name), f"{_percent(score.average)} %") for run, score, look in zip(runs, scores, looks)]
    return f"<h3>mAP over tIoU</h3>{_chart('map', 'Line chart: mAP of each run over tIoU', draw, legend)}"


def _reliable(truth: Truth, runs: Sequence[Run], looks: Sequence[_Look]) -> str:
    """What answers say against how often they are right; floors say nothing, and other scores are no shares."""
    drawn: list[tuple[_Look, Run, Reliability, Reliability | None]] = []
    for run, look in zip(runs, looks):
        said, right = judged(truth, run.predictions)
        if run.floor or not len(said) or said.min() < 0 or said.max() > 1:
            continue
        before = None if run.calibration is None else reliability(run.calibration.score(said), right)
        drawn.append((look, run, reliability(said, right), before))
    if not drawn:
        return ""

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=_CHART_LINE, linewidth=1.2)
        for look, _, found, _ in drawn:
            some = found.count > 0
            axes.plot(100 * found.said[some], 100 * found.right[some], color=_CHART_COLOURS[look.colour], linewidth=2,
                      marker=_SHAPES[look.shape], markersize=5.5, clip_on=False)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("score, %")
        axes.set_ylabel("right, %")

    legend = [(look, _text(run.name), f"ECE {_percent(found.error)} %" + (
        ", not calibrated" if before is None else f", {_percent(before.error)} % before calibration"))
        for look, run, found, before in drawn]
    rows = [(f"{100 * i // BINS}–{100 * (i + 1) // BINS}", *(
        f"{100 * found.right[i]:.0f} % of {found.count[i]:,}" if found.count[i] else None for *_, found, _ in drawn))
        for i in range(BINS)]
    table = Table("Right answers by score", ("score, %", *(run.name for _, run, _, _ in drawn)), rows,
                  "How many of the answers with such a score are right. An answer is right with "
                  "a tIoU of 0.5 or more with a segment of its label that no better answer has taken. Were scores "
                  "probabilities, each share would lie between the two; most answers of a detector have hardly any "
                  "score, are wrong and say so, which makes the expected calibration error (ECE) over all small.")
    return (f"<h3>Are answers as often right as they say?</h3>"
            f"{_chart('reliability', 'Reliability diagram: share of right answers over their score', draw, legend)}"
            + _table(table))


# ------------------------------------------------------------------------------------------------ charts

_CHART_COLOURS = [f"#0a0b{i:02x}" for i in range(7)]
"""What matplotlib draws in place of the page's colours; they become style variables, which follow the theme."""
_CHART_INK, _CHART_LINE = "#0a0bfe", "#0a0bff"


def _chart(name: str, words: str, draw: Callable[[Axes], None], legend: Sequence[tuple[_Look, str, str]]) -> str:
    """A chart drawn twice, for a wide and for a narrow page (text keeps its size), and its legend beside or below."""
    items = "".join(f'<li>{look.mark}<bdi>{who}</bdi><span class="value">{value}</span></li>'
                    for look, who, value in legend)
    return (f'<figure class="chart"><div class="wide">{_svg(f"{name} wide", words, (720, 320), draw)}</div>'
            f'<div class="narrow">{_svg(f"{name} narrow", words, (340, 250), draw)}</div>'
            f'<ul class="legend">{items}</ul></figure>')


def _svg(name: str, words: str, size: tuple[int, int], draw: Callable[[Axes], None]) -> str:
    """Draw on axes of ``size`` CSS pixels; inline SVG in the page's fonts and colours. ``name`` must be unique."""
    settings = {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 12, "axes.linewidth": 1,
        "axes.edgecolor": _CHART_LINE, "axes.labelcolor": _CHART_INK, "text.color": _CHART_INK,
        "xtick.color": _CHART_LINE, "ytick.color": _CHART_LINE,
        "xtick.labelcolor": _CHART_INK, "ytick.labelcolor": _CHART_INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
        "ytick.major.size": 0, "axes.grid": True, "axes.grid.axis": "y", "grid.color": _CHART_LINE,
        "axes.axisbelow": True,
    }
    with style.context(["default", settings]):  # whatever the user's matplotlibrc says; restored afterwards
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index(">", svg.index("<svg")):],
                  flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r"#(\w+)", body))  # the other ids are the same in every chart, and a page has several
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r" font-family: [^;\"]*;?", "", re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body))
    for i, colour in enumerate(_CHART_COLOURS):
        body = body.replace(colour, f"var(--r{i})")
    body = body.replace(_CHART_INK, "var(--soft)").replace(_CHART_LINE, "var(--line)")
    return f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{_text(words)}"{body.strip()}'


# ------------------------------------------------------------------------------------------------ timelines

_TIMELINES_LEAD = (
    '<p class="caption">What was annotated, and under it the best predictions of each run: the stronger the colour, '
    "the higher the score within its lane. Hover for the figures, or open the table below each timeline.</p>"
)


def _choose(truth: Truth, show: Sequence[str] | int, videos: Mapping[str, str | Path] | None) -> list[str]:
    """The ids to draw: those named, or a spread over the number of instances."""
    if not isinstance(show, int):
        for vid in show:
            if vid not in truth:
                raise CallError(f"show names the video '{vid}', which the truth lacks; check the id and the subset.")
        return list(dict.fromkeys(show))
    annotated = [vid for vid in truth if truth[vid].annotations]
    ranked = sorted([vid for vid in annotated if vid in (videos or {})] or annotated,
                    key=lambda vid: (len(truth[vid].annotations), vid))
    spread = np.linspace(0, len(ranked) - 1, max(0, min(show, len(ranked))))
    return [ranked[i] for i in spread.round().astype(int)]


def _timeline(vid: str, video: VideoTruth, runs: Sequence[Run], looks: Sequence[_Look],
              videos: Mapping[str, str | Path] | None) -> str:
    annotations = sorted(video.annotations, key=lambda s: (s.start, s.end))
    best = [_best(run.predictions.get(vid, []), max(5, 2 * len(annotations))) for run in runs]
    ends = [s.end for segments in (annotations, *best) for s in segments]
    extent = video.duration or max([0.0, *ends]) or 1.0
    step = next((s for s in _STEPS if extent / s <= (7 if extent < 600 else 5)), extent / 5)

    strip, missing = "", ""
    if videos is not None and vid not in videos:
        missing = "no file was given for this video."
    elif videos is not None:
        try:
            strip = _strip(videos[vid], extent)
        except CuemarkError as error:
            missing = str(error)
    lanes = _lane("truth", "", "truth", annotations, extent, 2 * _ROWS)
    for run, look, segments in zip(runs, looks, best):
        lanes += _lane(f"{look.mark}<bdi>{_text(run.name)}</bdi>", look.style, "run", segments, extent, _ROWS)
    ticks = ""
    for t in np.arange(math.floor(extent / step + 1e-9) + 1) * step:
        last = ' class="last"' if t > 0.97 * extent else ""
        ticks += f'<span{last} style="left:{100 * t / extent:.3f}%">{t:g} s</span>'
    about = " · ".join([_span(extent), _count(len(annotations), "segment"), _text(video.subset)])
    return (
        f'<article class="video"><h3><bdi>{_text(vid)}</bdi> <small>{about}</small></h3>'
        + (f'<p class="missing">No thumbnails: {_text(missing)}</p>' if missing else "")
        + f'<div class="timeline" style="--step:{100 * step / extent:.4f}%">{strip}{lanes}'
        f'<div class="axis" aria-hidden="true">{ticks}</div></div>{_listing(annotations, runs, looks, best)}</article>'
    )


_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
"""Seconds between the ticks of a time axis: few enough for a phone, where long times have wide labels."""


def _best(segments: Sequence[Segment], count: int) -> list[Segment]:
    """The ``count`` of highest score; equal scores and none keep their order."""
    return sorted(segments, key=lambda s: -(s.score or 0.0))[:count]


def _strip(file: str | Path, extent: float) -> str:
    """Frames at the middles of equal parts of the video."""
    at = (np.arange(_THUMBNAILS) + 0.5) / _THUMBNAILS * extent
    height, width, _ = frames_at(file, at[:1])[0].shape
    shape = min(max(width / height, 0.75), 1.8)  # cells of a very long or tall video are cropped
    images = frames_at(file, at, size=(_THUMBNAIL_HEIGHT, max(1, round(_THUMBNAIL_HEIGHT * width / height))))
    pictures = "".join(f'<img alt="" title="{t:.1f} s" src="data:image/jpeg;base64,{_base64(jpeg(image))}">'
                       for t, image in zip(at, images))
    return (f'<div class="strip" style="--shape:{shape:.3f}" role="img" '
            f'aria-label="Frames at equal distances">{pictures}</div>')


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _lane(who: str, look: str, kind: str, segments: Sequence[Segment], extent: float, most: int) -> str:
    """A row of bars (rows, where segments overlap), each a percentage of the width, so the page may be any width."""
    top = max((s.score or 0.0 for s in segments), default=0.0)
    bars, hidden = [], 0
    placed: list[tuple[int, float, float, Segment]] = []
    taken: list[list[tuple[float, float]]] = []
    for s in segments:
        left, right = (100 * min(max(t / extent, 0.0), 1.0) for t in (s.start, s.end))
        left = min(left, 99.7)
        right = max(right, left + 0.3)
        row = next((i for i, spans in enumerate(taken) if all(right <= a or left >= b for a, b in spans)), len(taken))
        if s.start > extent or s.end < 0 or row == most:
            hidden += 1
            continue
        if row == len(taken):
            taken.append([])
        taken[row].append((left, right))
        placed.append((row, left, right, s))
    for row, left, right, s in placed:
        label = _what(s)
        strength = 1.0 if s.score is None or top <= 0 else max(0.15, s.score / top)
        bars.append(
            f'<span class="bar" title="{_text(_told(s))}" style="left:{left:.3f}%;width:{right - left:.3f}%;'
            f'--row:{row};--o:{strength:.2f}"><span style="--w:{min(len(label), 4)}ch">{_text(label)}</span></span>'
        )
    words = _count(len(segments), "segment") + (f", {hidden} not drawn" if hidden else "")
    more = f' <span class="more" title="without room here">+{hidden}</span>' if hidden else ""
    rows = f"{look}{';' if look else ''}--rows:{max(1, len(taken))}"
    return (f'<div class="who" style="{look}">{who}{more}</div>'
            f'<div class="lane {kind}" role="img" aria-label="{words}" style="{rows}">{"".join(bars)}</div>')


def _what(s: Segment) -> str:
    return s.label or s.query or s.sentence or ""


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:#.3g}".rstrip(".")


def _told(s: Segment) -> str:
    """One segment in a line of text."""
    score = "" if s.score is None else f", score {_score(s.score)}"
    return f"{_what(s) or 'segment'}: {s.start:.1f} to {s.end:.1f} s{score}"


def _listing(annotations: Sequence[Segment], runs: Sequence[Run], looks: Sequence[_Look],
             best: Sequence[Sequence[Segment]]) -> str:
    """All that a timeline shows as a table, folded away: for touch screens, screen readers and searching."""
    lanes: list[tuple[str, list[tuple[Segment, str]]]] = [("truth", [(s, "") for s in annotations])]
    for run, look, segments in zip(runs, looks, best):
        overlap = tiou(times(segments), times(annotations))
        same = np.array([[s.label == a.label for a in annotations] for s in segments]).reshape(overlap.shape)
        found = np.where(same, overlap, 0).max(axis=1, initial=0)
        lanes.append((f"{look.mark}<bdi>{_text(run.name)}</bdi>", [(s, f"{x:.2f}") for s, x in zip(segments, found)]))
    rows = ""
    for who, lane in lanes:
        for i, (s, reached) in enumerate(lane):
            first = f'<th scope="rowgroup" rowspan="{len(lane)}">{who}</th>' if i == 0 else ""
            rows += (f'<tr>{first}<td class="word">{_text(_what(s) or "–")}</td><td>{s.start:.1f}</td>'
                     f"<td>{s.end:.1f}</td><td>{_score(s.score)}</td><td>{reached}</td></tr>")
    if not rows:
        return ""
    head = "".join(f'<th scope="col"{" class=word" if name == "label" else ""}>{name}</th>'
                   for name in ("lane", "label", "start", "end", "score", "tIoU"))
    return (f'<details><summary>These segments as a table</summary><div class="scroll"><table class="listing">'
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
            f'<p class="caption">Seconds; tIoU with the nearest annotation of the same label.</p></details>')


# ------------------------------------------------------------------------------------------------ features


def _features(truth: Truth, runs: Sequence[Run], looks: Sequence[_Look], shown: Sequence[str], training: Truth) -> str:
    encoders: list[tuple[list[str], _Look, Mapping[str, Features]]] = []
    for run, look in zip(runs, looks):
        if run.features is None:
            continue
        known = next((names for names, _, features in encoders if features is run.features), None)
        if known is not None:
            known.append(run.name)
        else:
            encoders.append(([run.name], look, run.features))
    named = [(", ".join(names), look, features) for names, look, features in encoders]
    return _matrices(truth, named, shown) + _probe(truth, named) + _known(truth, training, named)


def _matrices(truth: Truth, encoders: Sequence[tuple[str, _Look, Mapping[str, Features]]], shown: Sequence[str]) -> str:
    def usable(vid: str) -> bool:
        return bool(truth[vid].annotations) and all(vid in f and f[vid].grid.count > 1 for _, _, f in encoders)

    vid = next((vid for vid in (*shown, *sorted(truth)) if usable(vid)), None)
    if vid is None or not encoders:
        return ""
    annotations = truth[vid].annotations
    matrices = [analysis.similarity(features[vid]) for _, _, features in encoders]
    low = min(float(np.percentile(m, 2)) for m in matrices)  # the few darkest cells may not dull all the others
    low = math.floor(low * 20) / 20 if low < 1 else 0.0
    pictures = []
    for (name, look, features), matrix in zip(encoders, matrices):
        grid = features[vid].grid
        spans = []
        for s in annotations:
            a, b = (100 * min(max(grid.position(t) / grid.count, 0.0), 1.0) for t in (s.start, s.end))
            spans.append((a, max(b - a, 0.5), _text(_told(s))))
        top = "".join(f'<i style="left:{a:.2f}%;width:{w:.2f}%" title="{words}"></i>' for a, w, words in spans)
        side = "".join(f'<i style="top:{a:.2f}%;height:{w:.2f}%" title="{words}"></i>' for a, w, words in spans)
        foreground, background = analysis.clip_kinds(features[vid], annotations)
        inner, across = matrix[np.ix_(foreground, foreground)], matrix[np.ix_(foreground, background)]
        means = ""
        if inner.size and across.size:
            means = f"<small>in the action {inner.mean():.2f}, action to background {across.mean():.2f}</small>"
        pictures.append(
            f'<figure><div class="matrix"><div class="top">{top}</div><div class="side">{side}</div>'
            f'<img alt="Cosine similarity of {grid.count} clips" src="data:image/png;base64,{_heatmap(matrix, low)}">'
            f"</div><figcaption>{look.mark}<div><bdi>{_text(name)}</bdi>{means}</div></figcaption></figure>"
        )
    return (
        f'<h3>Similarity of the clips of <bdi>{_text(vid)}</bdi></h3><div class="matrices">{"".join(pictures)}</div>'
        f'<div class="scale"><span>{low:.2f}{"" if low <= -1 else " or less"}</span><i></i><span>1</span></div>'
        '<p class="caption">Cosine similarity of every clip (down) with every clip (across) of one video, time '
        "running right and down; the bars at the edges are the annotated actions. Good features show one bright block "
        "for each action, with sharp edges.</p>"
    )


def _heatmap(matrix: np.ndarray, low: float) -> str:
    keep = np.linspace(0, len(matrix) - 1, min(len(matrix), _MATRIX)).round().astype(int)
    buffer = io.BytesIO()
    imsave(buffer, matrix[np.ix_(keep, keep)], vmin=low, vmax=1, cmap="cividis", format="png", origin="upper")
    return _base64(buffer.getvalue())


def _probe(truth: Truth, encoders: Sequence[tuple[str, _Look, Mapping[str, Features]]]) -> str:
    drawn = []
    for name, look, features in encoders:
        here = {vid: f for vid, f in features.items() if vid in truth}
        found = analysis.contrast(here, truth, per_video=analysis.DRAWS, normalised=True)
        if found.videos:
            drawn.append((name, look, found))
    if not drawn:
        return ""
    reach = max(float(np.abs(found.values).max()) for _, _, found in drawn) or 1.0

    def draw(axes: Axes) -> None:
        edges = np.linspace(-reach, reach, 33)  # zero is an edge: no bar stands on both sides
        for _, look, found in drawn:
            counts, _ = np.histogram(found.values, edges)
            a, b = np.flatnonzero(counts)[[0, -1]]  # no line along the floor where there is nothing
            share = 100 * counts[a:b + 1] / counts.sum()
            colour = _CHART_COLOURS[look.colour]
            axes.stairs(share, edges[a:b + 2], color=colour, alpha=0.16, fill=True)
            axes.stairs(share, edges[a:b + 2], color=colour, linewidth=2)
        axes.axvline(0, color=_CHART_INK, linewidth=1.2)
        axes.set_xlim(-1.02 * reach, 1.02 * reach)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("background farther  →")
        axes.set_ylabel("draws, %")

    legend = [(look, _text(name), f"{100 * found.share:.0f} % above 0, mean {found.mean:+.2f}")
              for name, look, found in drawn]
    counted = ", ".join(sorted({_count(found.videos, "video") for _, _, found in drawn}))
    skipped = max(found.skipped for _, _, found in drawn)
    return (
        "<h3>Is background farther away than action?</h3>"
        + _chart("probe", "Histogram of distance differences of each encoder", draw, legend)
        + f'<p class="caption">L2(action, background) − L2(action, action) of random clips of one video, in units of '
        f"the encoder's mean distance; right of zero is desired. {analysis.DRAWS} draws in each of {counted}"
        + (f"; {_count(skipped, 'video')} without two clips inside an action and one outside left out" if skipped
           else "") + ".</p>"
    )


def _known(truth: Truth, training: Truth, encoders: Sequence[tuple[str, _Look, Mapping[str, Features]]]) -> str:
    """All figures of all encoders in one table, or the sentence that says why there is none."""
    if not encoders or not training:
        return ""
    title = "What the features know"
    try:
        found = analysis.side_by_side({name: features for name, _, features in encoders}, {**training, **truth},
                                      {v.subset for v in training.values()}, {v.subset for v in truth.values()})
    except CuemarkError as error:
        return f'<h3>{title}</h3><p class="missing">No figures: {_text(error)}</p>'
    return _table(Table(title, *analysis.tabled(found), " ".join((*analysis.counted(found), analysis.EXPLAINED))))


# ------------------------------------------------------------------------------------------------ tables and notes


def _table(table: Table) -> str:
    def cell(value: str | float | None) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "–"
        return f"{value:.2f}" if isinstance(value, float) else _text(value)

    def worded(value: str | float | None) -> bool:  # "88.9 ± 2.7" is a number that must not be broken
        return isinstance(value, str) and any(c.isalpha() for c in value)

    word = [i == 0 or any(worded(row[i]) for row in table.rows) for i in range(len(table.columns))]
    kind = [' class="word"' if w else "" for w in word]
    head = "".join(f'<th scope="col"{k}>{_text(name)}</th>' for name, k in zip(table.columns, kind))
    rows = "".join(
        f'<tr><th scope="row">{cell(row[0])}</th>'
        + "".join(f"<td{k}>{cell(value)}</td>" for value, k in zip(row[1:], kind[1:])) + "</tr>"
        for row in table.rows
    )
    caption = f'<p class="caption">{_text(table.caption)}</p>' if table.caption else ""
    return (f'<h3>{_text(table.title)}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>{caption}")


def _notes(notes: Sequence[tuple[str, str]], steps: Sequence[tuple[str, float]], commands: Sequence[str]) -> str:
    body = "".join(f"<h3>{_text(title)}</h3><p>{_text(text)}</p>" for title, text in notes)
    if steps:
        total = sum(seconds for _, seconds in steps)
        longest = max(seconds for _, seconds in steps) or 1.0
        rows = "".join(
            f'<tr><th scope="row">{_text(name)}</th><td class="meter"><i style="width:{100 * seconds / longest:.1f}%">'
            f"</i></td><td>{_span(seconds)}</td></tr>" for name, seconds in steps
        )
        body += (f'<h3>Time taken</h3><div class="scroll"><table class="steps"><tbody>{rows}</tbody><tfoot><tr>'
                 f'<th scope="row">together</th><td></td><td>{_span(total)}</td></tr></tfoot></table></div>')
    if commands:
        lines = "\n".join(_text(command) for command in commands)
        body += f"<h3>Commands</h3><pre><code>{lines}</code></pre>"
    return body


# ------------------------------------------------------------------------------------------------ the page

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{summary}
<dl class="figures">{figures}</dl>
<nav aria-label="Parts of this page">{nav}</nav>
</header>
<main>
{sections}</main>
<footer>Made by cuemark. This page is one file and loads nothing.</footer>
</body>
</html>
"""

# Colours: r1 to r6 are after Okabe & Ito's palette for all kinds of colour vision, darkened by day and lightened by
# night until each stands at 3:1 or more against the page (WCAG 1.4.11); words at 4.5:1 or more.
_CSS = """
:root {
  --page: #fafaf8; --card: #fff; --ink: #1d2126; --soft: #5a626b; --line: #dfe2e5; --truth: #414a55;
  --r0: #7b848e; --r1: #0067a5; --r2: #c74a00; --r3: #00805b; --r4: #a8457f; --r5: #94690a; --r6: #2383b8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131519; --card: #1a1d22; --ink: #e9ebee; --soft: #a0a8b2; --line: #343a42; --truth: #c3cad2;
    --r0: #868f99; --r1: #58aeea; --r2: #f48a4b; --r3: #35c79e; --r4: #e49cc8; --r5: #ecba45; --r6: #9ad4f5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 68rem; padding: clamp(1.25rem, 4vw, 3.5rem) clamp(1rem, 4vw, 2.5rem);
  background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums;
}
h1 { margin: 0; font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; letter-spacing: -.02em; text-wrap: balance; }
h2 { margin: 0 0 1rem; font-size: 1.45rem; line-height: 1.2; letter-spacing: -.01em; }
h3 { margin: 2rem 0 .6rem; font-size: 1.05rem; line-height: 1.3; }
h3 small { color: var(--soft); font-weight: 400; font-size: .88rem; white-space: nowrap; }
p { margin: 0 0 1rem; max-width: 44rem; }
section { margin-top: clamp(2.5rem, 6vw, 4rem); }
section > h2 + h3 { margin-top: 0; }
a { color: inherit; }
.summary { margin-top: 1rem; font-size: 1.1rem; color: var(--soft); }
.caption, .missing { margin: .6rem 0 0; font-size: .86rem; line-height: 1.45; color: var(--soft); }
.missing { margin: 0 0 .6rem; }
footer { margin-top: 4rem; font-size: .82rem; color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; font-size: .92rem; }
nav a { color: var(--soft); text-underline-offset: .25em; text-decoration-color: var(--line); padding: .2rem 0; }
nav a:hover { color: var(--ink); text-decoration-color: currentColor; }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1.75rem 0; }
.figures div { padding: .9rem 1rem; border: 1px solid var(--line); border-radius: .75rem; background: var(--card); }
.figures dt { font-size: .8rem; color: var(--soft); }
.figures dd { margin: 0; font-size: .8rem; line-height: 1.35; color: var(--soft); }
.figures dt + dd { font-size: 1.7rem; line-height: 1.3; font-weight: 600; letter-spacing: -.02em; color: var(--ink); }
.figures dd small { font-size: .55em; font-weight: 500; letter-spacing: 0; color: var(--soft); }

.mark { flex: none; display: inline-block; width: .7em; height: .7em; background: var(--c); }
.s0 { border-radius: 50%; }
.s2 { clip-path: polygon(50% -5%, 105% 50%, 50% 105%, -5% 50%); }
.s3 { clip-path: polygon(50% 0, 105% 100%, -5% 100%); }
.s4 { clip-path: polygon(-5% 0, 105% 0, 50% 100%); }
.s5 { height: .2em; transform: translateY(-.25em); }
.tag { padding: .05em .5em; border: 1px solid var(--line); border-radius: 1em; font-size: .75rem; font-weight: 400;
  color: var(--soft); white-space: nowrap; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .94rem; }
th, td { padding: .5rem .8rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
thead th { overflow-wrap: normal; padding-block: .3rem; font-size: .8rem; font-weight: 500;
  color: var(--soft); vertical-align: bottom; }
tbody th, tfoot th, th:first-child, .word { text-align: left; font-weight: 400; white-space: normal; }
th:first-child { padding-left: 0; }
tr > :last-child { padding-right: 0; }
.runs { width: 100%; }
.runs thead th { white-space: nowrap; }
.runs th[scope=row] { width: 100%; }
.runs th > div { display: flex; gap: .6rem; align-items: baseline; }
.runs th small { display: block; font-size: .82rem; line-height: 1.4; color: var(--soft); }
.best b { font-weight: 700; text-decoration: underline; text-decoration-thickness: 2px; text-underline-offset: .3em; }

.chart { display: grid; grid-template-columns: minmax(0, 1fr) 15rem; gap: 1.5rem; align-items: start; margin: 0; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; }
.chart svg * { stroke-linejoin: round; }
.narrow { display: none; }
.legend { margin: 0; padding: 0; list-style: none; font-size: .9rem; }
.legend li { display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; align-items: baseline; padding: .35rem 0; }
.legend .value { grid-column: 2; font-size: .84rem; color: var(--soft); }

.video { margin-top: 1.25rem; padding: 1.1rem 1.25rem 1rem; border: 1px solid var(--line); border-radius: .75rem;
  background: var(--card); }
.video h3 { margin: 0 0 .75rem; }
.timeline { display: grid; grid-template-columns: 9rem minmax(0, 1fr); gap: .4rem .9rem; align-items: center; }
.strip, .axis { grid-column: 2; }
.strip { display: grid; grid-template-columns: repeat(12, 1fr); gap: 1px; overflow: hidden; border-radius: .3rem; }
.strip img { display: block; width: 100%; aspect-ratio: var(--shape); object-fit: cover; background: var(--line); }
.who { display: flex; gap: .5rem; align-items: baseline; font-size: .86rem; line-height: 1.25; }
.more { margin-left: auto; white-space: nowrap; font-size: .75rem; color: var(--soft); }
.lane { position: relative; height: calc(var(--rows) * 1.6rem + .15rem); border-radius: .25rem;
  background-color: color-mix(in srgb, var(--line) 28%, transparent);
  background-image: linear-gradient(90deg, var(--line) 1px, transparent 1px); background-size: var(--step) 100%; }
.bar { position: absolute; top: calc(var(--row) * 1.6rem + .15rem); height: 1.45rem; min-width: 3px;
  display: flex; flex-wrap: wrap; align-content: flex-start; overflow: hidden; border-radius: .25rem;
  background: color-mix(in srgb, var(--c) calc(5% + 35% * var(--o)), var(--card));
  font-size: .78rem; line-height: 1.35rem; }
.bar::after { content: ""; position: absolute; inset: auto 0 0; height: 3px; background: var(--c);
  opacity: calc(.15 + .85 * var(--o)); }
/* Beside this strut of no width the label needs room for its first letters, or drops to a second, hidden line. */
.bar::before { content: ""; height: 1.45rem; }
.bar > span { flex: 1 0 calc(var(--w) + .7rem); width: 0; padding: 0 .35rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; unicode-bidi: isolate; }
.truth .bar { background: var(--truth); color: var(--card); }
.truth .bar::after { content: none; }
.axis { position: relative; height: 1.2rem; font-size: .75rem; color: var(--soft); }
.axis > span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.axis > span:first-child { transform: none; }
.axis > .last { transform: translateX(-100%); }
details { margin-top: .5rem; font-size: .86rem; }
summary { width: fit-content; padding: .25rem 0; color: var(--soft); cursor: pointer; }
.listing { font-size: .84rem; }
.listing th, .listing td { padding-block: .25rem; }
.listing .mark { margin-right: .5rem; }

.matrices { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 45%), 1fr)); gap: 1.25rem; }
.matrices figure { margin: 0; max-width: 20rem; }
.matrix { display: grid; grid-template-columns: .5rem 1fr; grid-template-rows: .5rem auto; gap: 3px; }
.matrix img { display: block; grid-area: 2 / 2; width: 100%; aspect-ratio: 1; image-rendering: pixelated; }
.top, .side { position: relative; }
.top { grid-area: 1 / 2; }
.side { grid-area: 2 / 1; }
.top i, .side i { position: absolute; border-radius: 2px; background: var(--truth); }
.top i { height: 100%; }
.side i { width: 100%; }
figcaption { display: flex; gap: .5rem; align-items: baseline; margin: .5rem 0 0 .7rem; font-size: .9rem;
  line-height: 1.35; }
figcaption small { display: block; font-size: .8rem; color: var(--soft); }
.scale { display: flex; gap: .6rem; align-items: center; margin-top: 1rem; font-size: .8rem; color: var(--soft); }
.scale i { width: 9rem; height: .6rem; border-radius: .3rem;
  background: linear-gradient(90deg, #00224e, #35456c, #666970, #948e77, #c8b866, #fee838); }

.steps { width: 100%; max-width: 44rem; }
.steps .meter { width: 50%; vertical-align: middle; }
.meter i { display: block; height: .5rem; min-width: 2px; border-radius: .25rem; background: var(--r1); opacity: .7; }
.steps tfoot > tr > * { border: 0; color: var(--soft); }
pre { margin: 0; padding: .9rem 1.1rem; overflow-x: auto; border: 1px solid var(--line); border-radius: .75rem;
  background: var(--card); font: .86rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: normal; }

@media (max-width: 46rem) {
  .figures { grid-template-columns: 1fr 1fr; }
  .wide { display: none; }
  .narrow { display: block; }
  .chart { grid-template-columns: minmax(0, 1fr); gap: .75rem; }
  .legend li { grid-template-columns: auto 1fr auto; padding: .2rem 0; }
  .legend .value { grid-column: 3; }
  th, td { padding-inline: .35rem; }
  .runs { font-size: .88rem; }
  .runs thead th { white-space: normal; }
  .runs th > div { gap: .45rem; }
  nav { gap: .3rem 1rem; }
  .video { padding: .9rem .9rem .75rem; }
  .timeline { grid-template-columns: minmax(0, 1fr); gap: .3rem; }
  .strip, .axis { grid-column: 1; }
  .strip { grid-template-columns: repeat(4, 1fr); margin-bottom: .2rem; }
  .strip img:not(:nth-child(3n + 2)) { display: none; }
  .who { margin-top: .3rem; font-size: .82rem; }
}
@media print {
  body { max-width: none; padding: 0; }
  .video, .chart, figure, tr { break-inside: avoid; }
  .bar::before, .bar::after, .mark, .top i, .side i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
