"""The pictures of a diagnosis and of features: what they show is what was found, and the same every time."""

from __future__ import annotations

import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from cuemark import pictures
from cuemark.errors import CallError
from cuemark.grid import Grid
from cuemark.metrics.diagnosis import ACTIVITYNET, KINDS, Diagnosis, Scale, diagnose
from cuemark.pictures import plot_diagnosis, plot_distances, plot_similarity
from cuemark.segments import Segment, Truth, VideoTruth

PARTS = ("false_positives", "sensitivity", "false_negatives")


def sample(seed: int = 0, scales=ACTIVITYNET, predicted: bool = True) -> Diagnosis:
    """Of 20 videos, with detections that are sometimes right."""
    rng = np.random.default_rng(seed)
    truth: Truth = {}
    found = {}
    for v in range(20):
        starts = np.sort(rng.uniform(0, 150, rng.integers(1, 7)))
        rows = [Segment(a, a + rng.uniform(3, 50), str(rng.choice(["jump", "run"]))) for a in starts.tolist()]
        truth[f"v{v}"] = VideoTruth(200.0, tuple(rows))
        found[f"v{v}"] = [
            Segment(a, b, str(rng.choice(["jump", "run"])), float(rng.uniform()))
            for s in rows for _ in range(rng.integers(0, 5))
            for a, b in [np.sort(rng.normal([s.start, s.end], 3)).tolist()]] if predicted else []
    return diagnose(truth, found, [0.5, 0.7], scales)


@pytest.fixture(scope="module")
def diagnosis() -> Diagnosis:
    return sample()


def words(axes: Axes) -> Iterator[str]:
    """Everything written into and around axes."""
    for text in (*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.title):
        yield text.get_text()


def only(figure: Figure) -> Axes:
    axes, = figure.axes
    return axes


# ------------------------------------------------------------------------------------- what is drawn


def test_the_stacked_bars_are_the_profile(diagnosis):
    profile, gains = pictures._false_positives(diagnosis).axes
    drawn = np.array([[bar.get_height() for bar in row] for row in profile.containers])
    np.testing.assert_allclose(drawn.T, 100 * np.nan_to_num(diagnosis.profile), rtol=0, atol=1e-12)
    below = np.array([[bar.get_y() for bar in row] for row in profile.containers])
    np.testing.assert_allclose(below[1:], drawn.cumsum(axis=0)[:-1], rtol=0, atol=1e-9)
    assert [text.get_text() for text in profile.get_legend().get_texts()] == list(KINDS)
    empty = int(np.isnan(diagnosis.profile[:, 0]).sum())
    assert 0 < empty < 10
    assert sum(text.get_text() == "–" for text in profile.texts) == empty

    bars, = gains.containers
    assert [bar.get_width() for bar in bars] == pytest.approx([100 * x for x in diagnosis.gains.values()])
    assert [text.get_text() for text in gains.texts] == [f"{100 * x:+.1f}" for x in diagnosis.gains.values()]
    assert [label.get_text() for label in gains.get_yticklabels()] == list(KINDS[1:])
    assert f"{100 * diagnosis.map_n_top:.1f} %" in gains.get_xlabel()


@pytest.mark.parametrize(("draw", "value"), [("_sensitivity", "map_n"), ("_false_negatives", "missed")])
def test_every_bucket_has_a_bar_and_its_number(diagnosis, draw, value):
    axes = only(getattr(pictures, draw)(diagnosis))
    bars, = axes.containers
    widths = iter(bar.get_width() for bar in bars)
    labels = iter(label.get_text() for label in axes.get_yticklabels())
    written = list(words(axes))
    for row in diagnosis.buckets.values():
        assert next(widths) == 0  # the characteristic's name
        assert next(labels) == ""
        for bucket in row:
            number = getattr(bucket, value)
            assert next(widths) == pytest.approx(0 if math.isnan(number) else 100 * number)
            assert next(labels) == bucket.name
            assert bucket.range in written
            assert ("–" if math.isnan(number) else f"{100 * number:.1f}") in written
    assert next(widths, None) is None
    assert {"Coverage of the video", "Length", "Instances in the video"} <= set(written)
    assert "mean over tIoU 0.5 to 0.7" in axes.get_xlabel()


def test_the_dashed_line_is_at_the_figure_of_all(diagnosis):
    axes = only(pictures._sensitivity(diagnosis))
    assert len(axes.lines) == len(diagnosis.buckets)
    for line in axes.lines:
        assert list(line.get_xdata()) == [100 * diagnosis.map_n] * 2
    assert f"{100 * diagnosis.map_n:.1f} of all" in axes.get_xlabel()


def test_nothing_lies_over_anything_or_outside(diagnosis):
    """Words keep clear of each other and of the edges, also where names are long."""
    long = {"length": Scale(("quite short", "MMMMMM", "rather long"), (0, 10, 20, math.inf), "seconds"),
            "num-instances": ACTIVITYNET["num-instances"]}
    for found in (diagnosis, sample(scales=long), sample(predicted=False)):
        for draw in (pictures._false_positives, pictures._sensitivity, pictures._false_negatives):
            with style.context(["default", pictures._STYLE]):
                figure = draw(found)
                canvas = FigureCanvasAgg(figure)
                canvas.draw()
            renderer = canvas.get_renderer()
            for axes in figure.axes:
                low, high = axes.get_xlim()
                ticks = [t for t in axes.get_xticklabels() if low <= t.get_position()[0] <= high]  # others are hidden
                texts = [t for t in (*axes.texts, *ticks, *axes.get_yticklabels(), axes.xaxis.label,
                                     axes.yaxis.label, axes.title, axes.xaxis.get_offset_text()) if t.get_text()]
                boxes = [t.get_window_extent(renderer) for t in texts]
                for i, box in enumerate(boxes):
                    at = texts[i].get_text()
                    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, at  # noqa: PT018
                    assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, at  # noqa: PT018
                    for j in range(i):
                        overlap = (min(box.x1, boxes[j].x1) - max(box.x0, boxes[j].x0),
                                   min(box.y1, boxes[j].y1) - max(box.y0, boxes[j].y0))
                        assert min(overlap) <= 1, (at, texts[j].get_text())


def test_words_read_on_white_and_on_dark():
    def luminance(colour: str) -> float:
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ink = luminance(pictures.INK)
    assert 1.05 / (ink + 0.05) > 4.5
    assert (ink + 0.05) / (luminance("#0d1117") + 0.05) > 4
    for colour in pictures.COLOURS:
        assert 1.05 / (luminance(colour) + 0.05) > 2
        assert (luminance(colour) + 0.05) / (luminance("#0d1117") + 0.05) > 3
    assert len(set(pictures.COLOURS)) == len(KINDS)


# ------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_three_files_the_same_every_time(diagnosis, tmp_path, suffix):
    one = plot_diagnosis(diagnosis, tmp_path / "one" / f"errors{suffix}")
    assert [path.name for path in one] == [f"errors_{part}{suffix}" for part in PARTS]
    two = plot_diagnosis(sample(), str(tmp_path / "two" / f"errors{suffix}"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert len({path.read_bytes() for path in one}) == 3
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(path.name for path in one)
    for path in one:
        begins = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix]
        assert path.read_bytes().startswith(begins)
    if suffix == ".svg":
        for path in one:
            text = path.read_text()
            assert ET.fromstring(text).tag.endswith("svg")
            assert "date" not in text.lower()
            assert "http" not in "".join(line for line in text.splitlines() if "xmlns" not in line and "DTD" not in line
                                         and "purl.org" not in line and "w3.org" not in line)
    if suffix == ".png":
        pixels = imread(one[0])
        assert pixels[0, 0, 3] == 0  # nothing behind
        assert pixels.shape[1] == 900  # a phone's width, twice as fine


def test_an_unknown_ending(diagnosis, tmp_path):
    for name in ("errors", "errors.jpg"):
        with pytest.raises(CallError, match=r"must end in \.svg, \.png, \.pdf"):
            plot_diagnosis(diagnosis, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_drawing_that_fails_leaves_what_was(diagnosis, tmp_path, monkeypatch):
    first = plot_diagnosis(diagnosis, tmp_path / "e.svg")
    before = [path.read_bytes() for path in first]

    def fails(self, file, **how):
        file.write(b"half")
        raise RuntimeError("full")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(RuntimeError, match="full"):
        plot_diagnosis(sample(1), tmp_path / "e.svg")
    assert [path.read_bytes() for path in first] == before
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("found", [
    sample(predicted=False),
    sample(scales={}),
    sample(scales={"length": Scale(("$x_$", "<b>&", "a\\"), (0, 20, 40, 1000), "$"),
                   "num-instances": Scale(("$",), (0, 9))}),
], ids=["nothing predicted", "no characteristics", "odd names"])
def test_odd_diagnoses_are_drawn(found, tmp_path):
    for path in plot_diagnosis(found, tmp_path / "e.svg"):
        assert ET.fromstring(path.read_text()).tag.endswith("svg")


def test_matplotlib_is_left_as_it_was(diagnosis, tmp_path):
    with matplotlib.rc_context({"font.size": 33, "axes.facecolor": "red", "svg.hashsalt": "mine"}):
        before = {name: matplotlib.rcParams[name] for name in matplotlib.rcParams}
        strange = plot_diagnosis(diagnosis, tmp_path / "strange" / "e.svg")
        assert {name: matplotlib.rcParams[name] for name in matplotlib.rcParams} == before
    usual = plot_diagnosis(diagnosis, tmp_path / "usual" / "e.svg")
    assert [path.read_bytes() for path in strange] == [path.read_bytes() for path in usual]


def test_pyplot_is_not_needed(tmp_path):
    code = "import sys, cuemark.pictures; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


# ---------------------------------------------------------------------------------------------- features


def matrix(count: int = 20, seed: int = 0) -> tuple[np.ndarray, Grid]:
    unit = np.random.default_rng(seed).normal(size=(count, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit @ unit.T, Grid(0.5, 0.4, count, 1.0)


ACTIONS = (Segment(-1.0, 2.0, "run"), Segment(3.0, 5.0, "jump"))


def test_truth_lines_are_at_the_seconds_of_the_actions():
    with style.context(["default", pictures._STYLE]):
        first, second = pictures._similarity("v1", ACTIONS, {"tac": matrix(), "tsp": matrix(30, 1)}).axes[:2]
    for axes, end in ((first, 8.5), (second, 12.5)):
        assert axes.get_xlim() == pytest.approx((0.5, end))
        assert axes.get_ylim() == pytest.approx((end, 0.5))  # time runs down
        image, = axes.get_images()
        assert image.get_extent() == pytest.approx([0.5, end, end, 0.5])
        assert image.get_clim()[1] == 1
        across = sorted(line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1])
        down = sorted(line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1])
        assert across == down == [2, 3, 5]  # the first begins before the first clip
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("tac", "tsp")
    assert first.get_images()[0].get_clim() == second.get_images()[0].get_clim()


def test_the_histogram_is_of_all_draws():
    values = {"tac": np.array([-1.0, 0.5, 0.5, 2.0]), "tsp": np.array([0.1]), "_none": np.zeros(0)}
    figure = pictures._distances(values)
    axes = only(figure)
    _, first, _, second, _, third = (patch.get_data() for patch in axes.patches)
    assert first.values.sum() == second.values.sum() == pytest.approx(100)
    assert third.values.sum() == 0
    assert first.edges[16] == 0
    assert first.values[:16].sum() == 25
    legend, = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "tac: 75 % above 0, mean +0.50", "tsp: 100 % above 0, mean +0.10", "_none: no draw"]


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_pictures_of_features_are_the_same_every_time(tmp_path, suffix):
    for folder in ("one", "two"):
        plot_similarity(tmp_path / folder / f"s{suffix}", "a $b$ _c", ACTIONS,
                        {f"encoder ${i}$": matrix(seed=i) for i in range(4)})
        plot_distances(tmp_path / folder / f"d{suffix}", {"_a_$b$": np.array([0.5, -0.2])})
    for name in ("s", "d"):
        one, two = (tmp_path / folder / f"{name}{suffix}" for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert len(list((tmp_path / "one").iterdir())) == 2


def test_odd_matrices_are_drawn(tmp_path):
    plot_similarity(tmp_path / "one.png", "v", (), {"a": (np.ones((1, 1)), Grid(0, 1, 1, 1))})
    plot_similarity(tmp_path / "same.png", "v", (Segment(0, 2),), {"a": (np.ones((2, 2)), Grid(0, 1, 2, 1))})
    plot_distances(tmp_path / "none.png", {})
    for draw in (lambda path: plot_similarity(path, "v", (), {"a": matrix()}), lambda path: plot_distances(path, {})):
        with pytest.raises(CallError, match=r"errors\.jpg' must end in \.svg, \.png, \.pdf"):
            draw(tmp_path / "errors.jpg")
