"""Pictures for papers and pages: of a diagnosis, and of what features know.

A diagnosis: what false positives are, which instances are found, which are missed. One narrow, tall picture for each
part, so that a phone shows it at full width and its words stay readable. Nothing is behind the bars: words are of a
grey that reads on white paper and on a dark page alike, bars have the colours of Okabe and Ito ("Color Universal
Design", 2008), which people with any kind of colour vision tell apart, and every bar of which the height matters has
its number beside it. The same diagnosis gives the same bytes.

Features: similarity matrices of one video for several encoders side by side (TSP, Figure 2), and the histogram of how
much farther background is than action (CLAP, Figure 2a). Both take arrays, so that nothing here needs torch.

Drawn by matplotlib alone: no LaTeX, no pyplot, no fonts but its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from cuemark.errors import CallError
from cuemark.grid import Grid
from cuemark.metrics.diagnosis import KINDS, Bucket, Diagnosis
from cuemark.segments import Segment, replacing

INK = "#757575"
"""Of words and lines: 4.6 : 1 against white, 4.1 : 1 against the dark grey of night pages (#0d1117)."""
COLOURS = ("#009E73", "#56B4E9", "#0072B2", "#E69F00", "#D55E00", "#999999")
"""Of :data:`~cuemark.metrics.diagnosis.KINDS`: Okabe and Ito's green, sky blue, blue, orange and vermilion; grey."""
_FOUND, _MISSED = COLOURS[2], COLOURS[4]
_LINES = (COLOURS[2], COLOURS[4], COLOURS[0], COLOURS[3], COLOURS[1], COLOURS[5])
"""Of encoders: those that are easiest to tell apart first."""
_TRUTH = COLOURS[4]
"""Of annotated actions over similarities, which go from blue to yellow."""
_EDGE = 0.025
"""Of a matrix's side, between it and the bars of actions."""
_WIDTH = 4.5
"""Inches."""
_ROW = 0.27
"""Inches of height for a bar and its words."""
_COLUMN = 46
"""Points of width for a column of numbers."""
_LETTER = 8
"""Points that no letter is wider than."""
_METADATA: dict[str, dict[str, Any]] = {  # nothing of when and by which version
    ".svg": {"Date": None, "Creator": None}, ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_STYLE = {
    "svg.hashsalt": "cuemark", "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.titlepad": 10, "axes.labelsize": 10, "legend.fontsize": 9.5,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "grid.color": INK, "grid.alpha": 0.3, "grid.linewidth": 0.6,
}
_NAMES = {
    "coverage": "Coverage of the video",
    "length": "Length",
    "num-instances": "Instances in the video",
    "context-size": "Context size",
    "context-distance": "Context distance",
    "agreement": "Agreement of annotators",
}


def plot_diagnosis(diagnosis: Diagnosis, path: str | Path) -> tuple[Path, ...]:
    """Draw a diagnosis, each part into a file of its own, atomically.

    Args:
        diagnosis: what :func:`cuemark.metrics.diagnosis.diagnose` found.
        path: where to; ``errors.svg`` becomes ``errors_false_positives.svg``, ``errors_sensitivity.svg`` and
            ``errors_false_negatives.svg``. Its ending, ``.svg``, ``.png`` or ``.pdf``, says what is drawn.

    Returns:
        The three files.

    Raises:
        CallError: the ending is none of the three.
    """
    path = _drawable(path)
    files = tuple(path.with_name(f"{path.stem}_{part}{path.suffix}")
                  for part in ("false_positives", "sensitivity", "false_negatives"))
    for file, draw in zip(files, (_false_positives, _sensitivity, _false_negatives), strict=True):
        _save(file, partial(draw, diagnosis))
    return files


def plot_similarity(path: str | Path, video: str, annotations: Sequence[Segment],
                    encoders: Mapping[str, tuple[np.ndarray, Grid]]) -> None:
    """Draw similarity matrices of one video, an encoder beside the other, with the truth as lines (TSP, Figure 2).

    All have one scale of colours, whose dark end is the second percentile of the encoder that reaches lowest: the few
    darkest cells do not dull all others. Both axes are seconds. Each annotated action is a bar at the upper and the
    left edge, and its start and end are lines across.

    Args:
        path: where to; its ending, ``.svg``, ``.png`` or ``.pdf``, says what is drawn.
        video: its name, for the title.
        annotations: of the video; seconds.
        encoders: name -> ``(T, T)`` similarities of its clips and their grid; one or more.

    Raises:
        CallError: the ending is none of the three.
    """
    _save(_drawable(path), partial(_similarity, video, annotations, encoders))


def plot_distances(path: str | Path, values: Mapping[str, np.ndarray]) -> None:
    """Draw how much farther background is than action, all encoders over each other (CLAP, Figure 2a).

    Args:
        path: where to; its ending, ``.svg``, ``.png`` or ``.pdf``, says what is drawn.
        values: name of an encoder -> ``(n,)`` draws of L2(fg, bg) - L2(fg, fg), in units of its mean distance.

    Raises:
        CallError: the ending is none of the three.
    """
    _save(_drawable(path), partial(_distances, values))


def _drawable(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() not in _METADATA:
        raise CallError(f"'{path}' must end in {', '.join(_METADATA)}, which says what to draw.")
    return path


def _save(path: Path, draw: Callable[[], Figure]) -> None:
    with style.context(["default", _STYLE]):  # whatever the user's matplotlibrc says; restored afterwards
        figure = draw()
        suffix = path.suffix.lower()
        with replacing(path, "wb") as file:
            figure.savefig(file, format=suffix[1:], transparent=True, dpi=200, metadata=_METADATA[suffix])


def _over(diagnosis: Diagnosis) -> str:
    low, high = diagnosis.tious.min(), diagnosis.tious.max()
    return f"tIoU {low:.4g}" if low == high else f"mean over tIoU {low:.4g} to {high:.4g}"


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


# ------------------------------------------------------------------------------------------------ false positives


def _false_positives(diagnosis: Diagnosis) -> Figure:
    figure = _figure(6.6)
    profile, gains = figure.subplots(2, 1, height_ratios=(3.2, 2))

    slices = np.arange(1, len(diagnosis.profile) + 1)
    below = np.zeros(len(slices))
    for kind, colour, share in zip(KINDS, COLOURS, 100 * np.nan_to_num(diagnosis.profile.T), strict=True):
        profile.bar(slices, share, bottom=below, width=0.82, color=colour, label=kind)
        below += share
    for i in slices[np.isnan(diagnosis.profile[:, 0])]:
        profile.text(i, 1, "–", ha="center", va="bottom")
    profile.set_xticks(slices, [f"{i}G" for i in slices])
    profile.set_xlim(0.4, len(slices) + 0.6)
    profile.set_ylim(0, 100)
    profile.tick_params(length=0)
    profile.set_ylabel("share of predictions, %")
    profile.set_xlabel(f"best first, in slices as large as the truth (G)\n{_over(diagnosis)}")
    profile.set_title("What the predictions are")
    profile.legend(*profile.get_legend_handles_labels(), ncols=2, loc="upper left", bbox_to_anchor=(-0.02, -0.25),
                   frameon=False, handlelength=1, handleheight=1, columnspacing=1.5, borderaxespad=0)

    values = [100 * gain for gain in diagnosis.gains.values()]
    _bars(gains, list(diagnosis.gains), values, COLOURS[1:])
    for y, x in enumerate(values):
        gains.annotate("–" if math.isnan(x) else f"{x:+.1f}", (max(np.nan_to_num(x), 0), y), xytext=(4, 0),
                       textcoords="offset points", va="center_baseline")
    gains.set_xlabel(f"points of mAP$_N$, which is {_percent(diagnosis.map_n_top)} % now")
    gains.set_title("What removing an error gains")
    return figure


# ------------------------------------------------------------------------------------------------ by characteristic


def _sensitivity(diagnosis: Diagnosis) -> Figure:
    figure, axes = _by_characteristic(
        diagnosis, lambda bucket: bucket.map_n, _FOUND,
        {"mAP$_N$": lambda bucket: _percent(bucket.map_n),
         "relative": lambda bucket: "–" if math.isnan(bucket.relative) else f"×{bucket.relative:.2f}"})
    level, y = 100 * diagnosis.map_n, 0
    for buckets in diagnosis.buckets.values():  # beside the bars only, not through the names above them
        axes.plot([level, level], [y + 0.5, y + len(buckets) + 0.5], color=COLOURS[3], linewidth=1.6, linestyle="--")
        y += 1 + len(buckets)
    axes.set_title("Which instances are found")
    axes.set_xlabel(f"mAP$_N$, %; dashed: {level:.1f} of all\n{_over(diagnosis)}")
    return figure


def _false_negatives(diagnosis: Diagnosis) -> Figure:
    figure, axes = _by_characteristic(
        diagnosis, lambda bucket: bucket.missed, _MISSED,
        {"missed": lambda bucket: _percent(bucket.missed), "of": lambda bucket: f"{bucket.instances:,}"})
    axes.set_title("Which instances are missed")
    axes.set_xlabel(f"missed, % of instances\n{_over(diagnosis)}")
    return figure


def _by_characteristic(diagnosis: Diagnosis, value: Callable[[Bucket], float], colour: str,
                       columns: Mapping[str, Callable[[Bucket], str]]) -> tuple[Figure, Axes]:
    """A row for every bucket, under the name of its characteristic: bars at the left, columns of words at the right."""
    rows: list[Bucket | str] = []
    for name, buckets in diagnosis.buckets.items():
        rows += [_NAMES.get(name, name), *buckets]
    buckets = tuple(row for row in rows if isinstance(row, Bucket))
    beside = 9 + _LETTER * max((len(b.name) for b in buckets), default=0)
    left = beside + _LETTER * max((len(b.range) for b in buckets), default=0)
    figure = _figure(1.35 + _ROW * max(1, len(rows)), more=max(0, left - 14 * _LETTER) / 72)
    axes = figure.subplots()
    _bars(axes, [_literal(row.name) if isinstance(row, Bucket) else "" for row in rows],
          [100 * value(row) if isinstance(row, Bucket) else math.nan for row in rows], [colour] * len(rows))
    axes.set_ylim(top=-1)

    def put(text: str, x: float, y: float, points: float, align: str = "right", weight: str = "normal") -> None:
        axes.annotate(text, (x, y), (points, 0), ("axes fraction", "data"), "offset points", va="center_baseline",
                      ha=align, fontweight=weight)

    for y, row in enumerate(rows):
        if isinstance(row, str):
            put(_literal(row), 0, y + 0.12, 0, "left", "bold")
            continue
        if row.range != row.name:
            put(_literal(row.range), 0, y, -beside)
        for i, words in enumerate(columns.values()):
            put(words(row), 1, y, _COLUMN * (i + 1))
    for i, head in enumerate(columns):
        put(head, 1, -0.55, _COLUMN * (i + 1))  # above the first name, which may be long
    return figure, axes


# ------------------------------------------------------------------------------------------------ features


def _similarity(video: str, annotations: Sequence[Segment], encoders: Mapping[str, tuple[np.ndarray, Grid]]) -> Figure:
    low = min(float(np.percentile(matrix, 2)) for matrix, _ in encoders.values())
    low = math.floor(low * 20) / 20 if low < 1 else 0.0
    columns = min(len(encoders), 3)
    rows = -(-len(encoders) // columns)
    figure = _figure(3.2 * rows + 0.55, more=3.0 * columns + 1.2 - _WIDTH)
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in panels[len(encoders):]:
        axes.set_visible(False)
    panels = panels[:len(encoders)]
    for axes, (name, (matrix, grid)) in zip(panels, encoders.items(), strict=True):
        drawn = axes.imshow(matrix, cmap="cividis", vmin=low, vmax=1, interpolation="nearest",
                            extent=(grid.start, grid.end, grid.end, grid.start))
        for s in annotations:
            a, b = (min(max(t, grid.start), grid.end) for t in (s.start, s.end))
            for t in {a, b} - {grid.start, grid.end}:
                axes.axvline(t, color=_TRUTH, linewidth=0.9)
                axes.axhline(t, color=_TRUTH, linewidth=0.9)
            for across, x, y in ((axes.get_xaxis_transform(), (a, b), (_EDGE + 1, _EDGE + 1)),
                                 (axes.get_yaxis_transform(), (-_EDGE, -_EDGE), (a, b))):
                axes.plot(x, y, transform=across, color=_TRUTH, linewidth=3.5, solid_capstyle="butt", clip_on=False)
        axes.set_xlim(grid.start, grid.end)
        axes.set_ylim(grid.end, grid.start)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_title(_literal(fill(name, 32)), fontsize=10)
        axes.set_xlabel("time, s")
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(axis="y", length=0, pad=9)  # clear of the bars
    for axes in panels[::columns]:
        axes.set_ylabel("time, s")
    bar = figure.colorbar(drawn, ax=list(panels), shrink=0.85, aspect=28, pad=0.02,
                          extend="min" if low > -1 else "neither")
    bar.set_label("cosine similarity of clips")
    bar.outline.set_visible(False)
    figure.suptitle(_literal(fill(f"Video {video}", 34 * columns)), x=0.02, ha="left", fontsize=11, fontweight="bold")
    return figure


def _distances(values: Mapping[str, np.ndarray]) -> Figure:
    figure = _figure(3.6 + 0.24 * len(values), more=1.5)
    axes = figure.subplots()
    reach = max([float(abs(v).max()) for v in values.values() if len(v)], default=0) or 1.0
    edges = np.linspace(-reach, reach, 33)  # zero is an edge: no bar stands on both sides
    handles, words = [], []
    for i, (name, found) in enumerate(values.items()):
        colour, line = _LINES[i % len(_LINES)], ("-", "--", ":", "-.")[i // len(_LINES) % 4]
        share = 100 * np.histogram(found, edges)[0] / max(1, len(found))
        told = f"{100 * (found > 0).mean():.0f} % above 0, mean {found.mean():+.2f}" if len(found) else "no draw"
        axes.stairs(share, edges, color=colour, alpha=0.15, fill=True)
        handles.append(axes.stairs(share, edges, color=colour, linewidth=1.8, linestyle=line))
        words.append(_literal(f"{name}: {told}"))
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.set_title("Is background farther away than action?")
    axes.set_xlabel("L2(action, background) − L2(action, action)\nin units of the encoder's mean distance")
    axes.set_ylabel("draws, %")
    figure.legend(handles, words, loc="outside lower left", frameon=False, handlelength=1.6, borderaxespad=0.4)
    return figure


# ------------------------------------------------------------------------------------------------ all


def _figure(height: float, more: float = 0) -> Figure:
    return Figure(figsize=(_WIDTH + more, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def _bars(axes: Axes, names: Sequence[str], values: Sequence[float], colours: Sequence[str]) -> None:
    """Bars from left to right, the first at the top."""
    places = np.arange(len(names))
    lengths = np.nan_to_num(np.array(values, np.float64))
    axes.barh(places, lengths, height=0.72, color=list(colours))
    low, high = lengths.min(initial=0), lengths.max(initial=1)  # from 0 to 1 % at least
    axes.set_yticks(places, names)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.6)
    axes.set_xlim(low * 1.05, high * 1.16)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _literal(text: str) -> str:
    """Words that hold no formula."""
    return text.replace("$", r"\$")
