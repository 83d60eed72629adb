"""The page: it is whole, safe with hostile words, always the same, and says what the metric says.

``sample`` makes what the pictures in the documentation are made of; to look at it:

    PYTHONPATH=tests python -c "import test_report as t; t.write_report('page.html', *t.sample(), **t.extras())"
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import av
import matplotlib
import numpy as np
import pytest

from cuemark.analysis import contrast, counted, side_by_side, tabled
from cuemark.errors import CallError, DataError
from cuemark.grid import Features, Grid
from cuemark.localizers.calibration import Calibration
from cuemark.metrics.detection import detection
from cuemark.metrics.reliability import judged, reliability
from cuemark.report import Run, Table, report_files, write_report
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, write_predictions, write_truth

CLASSES = ("wave", "jump rope", "kneel", "throw discus", "spin", "long jump", "fall", "walk the dog")


def sample(seed: int = 0, videos: int = 24) -> tuple[Truth, list[Run]]:
    """A small world: videos of 10 to 30 s with 1 to 5 instances of 8 classes, three systems, two encoders, a floor."""
    rng = np.random.default_rng(seed)
    truth: Truth = {}
    for i in range(videos):
        duration = round(float(rng.uniform(10, 30)), 1)
        edges = np.sort(rng.uniform(0.5, duration - 0.5, 2 * (1 + i % 5))).round(1)
        truth[f"video_{i:03d}"] = VideoTruth(duration, tuple(
            Segment(a, max(b, a + 0.3), str(rng.choice(CLASSES))) for a, b in edges.reshape(-1, 2).tolist()
        ), "testing", 15.0)

    def system(noise: float, right: float) -> Predictions:
        found: Predictions = {}
        for vid, video in truth.items():
            segments = []
            for s in video.annotations:
                for k in range(4):
                    a, b = np.sort(np.clip(rng.normal([s.start, s.end], noise * (1 + k)), 0, video.duration)).tolist()
                    label = s.label if rng.random() < right else str(rng.choice(CLASSES))
                    segments.append(Segment(a, b, label, float(rng.beta(6, 2 + 3 * k))))
            found[vid] = sorted(segments, key=lambda s: -(s.score or 0))
        return found

    def encoder(sharpness: float) -> dict[str, Features]:
        directions, features = rng.normal(size=(len(CLASSES) + 1, 64)), {}
        for vid, video in truth.items():
            count = int(video.duration * 15 - 16) // 8 + 1
            grid = Grid.of_clips(count, stride=8, frames=16, fps=15)
            data = np.abs(rng.normal(size=64)) * 2 + 0.5 * rng.normal(size=(count, 64))
            for t, middle in enumerate(grid.centres):
                inside = [CLASSES.index(s.label or "") for s in video.annotations if s.start <= middle <= s.end]
                data[t] += sharpness * directions[inside[0] if inside else -1]
            features[vid] = Features(data.astype(np.float32), grid, video.duration)
        return features

    clap, tsp = encoder(1.2), encoder(0.35)
    floor = {vid: [Segment(0, v.duration, v.annotations[0].label, 0.5)] for vid, v in truth.items()}
    return truth, [
        Run("G-TAD on CLAP", system(0.25, 0.9), "masked contrastive pre-training", seconds=184, features=clap),
        Run("G-TAD on TSP", system(0.5, 0.8), "temporally sensitive pre-training", seconds=176, features=tsp),
        Run("BMN on TSP", system(0.9, 0.75), seconds=97, features=tsp),
        Run("whole video", floor, "one segment with the right label", floor=True),
    ]


def extras() -> dict:
    """Everything else that a page can hold."""
    return {
        "title": "When does it happen?",
        "summary": "Three systems and one floor on the built-in world: twenty-four short videos in which actions "
                   "happen inside scenes. A controlled experiment, not a result on real footage.",
        "tables": [Table("Few-shot transfer", ("pre-training", "videos", "avg mAP", "note"),
                         [("TAC", 40, 24.25, "trimmed clips"), ("TSP", 40, 31.0, ""), ("CLAP", 40, None, "not run")],
                         "Five videos for each unseen class.")],
        "notes": [("How it was made", "Features every 8 frames at 15 frames per second; each localizer trained once "
                   "with seed 0."), ("What to keep in mind", "Differences below two points are within the noise.")],
        "steps": [("generate videos", 12.4), ("pre-train CLAP", 341.0), ("extract features", 48.2), ("train", 184.0)],
        "commands": ["cuemark extract videos/ --encoder clap.safetensors --out features/clap",
                     "cuemark evaluate detection --truth truth.json --predictions predictions.json --report page.html"],
    }


def film(path: Path, seconds: float, fps: int = 8, size: tuple[int, int] = (96, 160), seed: int = 0) -> None:
    """A real video: a disc on its way over a coloured field."""
    rng = np.random.default_rng(seed)
    sky, disc = rng.integers(60, 220, 3), rng.integers(0, 255, 3)
    height, width = size
    y, x = np.mgrid[:height, :width]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        count = round(seconds * fps)
        for i in range(count):
            image = (sky * (0.6 + 0.4 * np.stack([y] * 3, axis=-1) / height)).astype(np.uint8)
            at = width * i / count, height * (0.5 + 0.3 * np.sin(6 * i / count))
            image[(x - at[0]) ** 2 + (y - at[1]) ** 2 < (height / 6) ** 2] = disc
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        out.mux(stream.encode(None))


class Reader(HTMLParser):
    """What is on the page: tags, attributes, and whether the tags are balanced."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def page(tmp_path: Path, *args, **kwargs) -> str:
    write_report(tmp_path / "page.html", *args, **kwargs)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def table_of_runs(text: str) -> list[list[str]]:
    """The cells of the first table, as words."""
    body = re.search(r'<table class="runs">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert body is not None
    strip = re.compile(r"<[^>]*>")
    return [[strip.sub("", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
            for row in re.findall(r"<tr>(.*?)</tr>", body[1])]


def test_the_page_is_whole_and_asks_nothing_of_a_network(tmp_path):
    truth, runs = sample()
    text = page(tmp_path, truth, runs, **extras())
    assert not re.search(r"https?:|[\"'(=\s]//|@import|url\((?!#)", text)
    reader = Reader(text)
    names = {tag for tag, _ in reader.tags}
    assert names.isdisjoint({"script", "iframe", "object", "embed", "form", "base", "audio", "video"})
    assert {"header", "main", "section", "article", "nav", "table", "svg"} <= names
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in reader.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "xlink:href"):
            if (target := attrs.get(name)) is not None:
                assert re.match("data:|#", target), (tag, target)
                assert not target.startswith("#") or target[1:] in ids, target
        assert tag != "img" or "alt" in attrs
    policy = next(attrs["content"] for _, attrs in reader.tags if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    for title in ("Scores", "Timelines", "Features", "Tables", "Notes"):
        assert f"<h2>{title}</h2>" in text


def test_charts_follow_the_theme(tmp_path):
    text = page(tmp_path, *sample(), show=0)
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 6  # three charts, for a wide and a narrow page
    for chart in charts:
        assert not re.search("#[0-9a-f]{6}|font-family|DejaVu", chart.replace("#ffffff", ""))
        assert "var(--r1)" in chart
        assert "<text" in chart


def luminance(colour: np.ndarray) -> float:
    """Relative luminance of an sRGB colour in 0..1 (WCAG 2)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def between(a: np.ndarray, b: np.ndarray) -> float:
    """Contrast of two colours (WCAG 2), 1 to 21."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_enough_by_day_and_by_night(tmp_path):
    text = page(tmp_path, *sample(), show=0)
    themes = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colours = {name: np.array([int(h, 16) for h in re.findall("..", value if len(value) == 6 else
                                                                  "".join(2 * c for c in value))]) / 255
                   for name, value in re.findall(r"--(\w+): #([0-9a-f]+);", theme)}
        for ground in ("page", "card"):
            for words in ("ink", "soft"):
                assert between(colours[words], colours[ground]) >= 4.5, (words, ground)
            for i in range(7):
                assert between(colours[f"r{i}"], colours[ground]) >= 3, (i, ground)
        assert between(colours["card"], colours["truth"]) >= 4.5
        for i in range(7):  # a label on the strongest bar: 40 % of the run's colour
            bar = 0.4 * colours[f"r{i}"] + 0.6 * colours["card"]
            assert between(colours["ink"], bar) >= 4.5, i


def test_the_same_input_gives_the_same_bytes(tmp_path):
    truth, runs = sample()
    first = page(tmp_path, truth, runs, **extras())
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "path"}):
        assert page(tmp_path, *sample(), **extras()) == first
        assert matplotlib.rcParams["font.size"] == 30


def test_the_table_says_what_the_metric_says(tmp_path):
    truth, runs = sample()
    rows = table_of_runs(page(tmp_path, truth, runs))
    assert [row[0].removesuffix(run.note) for row, run in zip(rows, runs, strict=True)] == [
        "G-TAD on CLAP", "G-TAD on TSP", "BMN on TSP", "whole video floor"]
    for row, run in zip(rows, runs):
        score = detection(truth, run.predictions)
        want = [score.average, score.map[0], score.map[5], score.map[9]]
        assert row[1:5] == [f"{100 * x:.1f}" for x in want]
    assert [row[5] for row in rows] == ["3 min", "3 min", "97 s", "–"]


def test_the_best_of_each_column_is_marked_and_ties_share_the_mark(tmp_path):
    truth, runs = sample()
    runs = [runs[0], Run("the same", runs[0].predictions), runs[-1]]
    text = page(tmp_path, truth, runs)
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', re.search(r'<table class="runs">.*?</table>', text)[0])
    assert [row.count('class="best"') for row in rows] == [4, 4, 0]


def test_thresholds_can_be_chosen(tmp_path):
    truth, runs = sample()
    levels = [0.3, 0.4, 0.5, 0.6, 0.7]
    rows = table_of_runs(page(tmp_path, truth, runs, tious=levels))
    score = detection(truth, runs[0].predictions, levels)
    assert rows[0][1:7] == [f"{100 * x:.1f}" for x in (score.average, *score.map)]


def test_words_are_only_words(tmp_path):
    evil = '<script>alert("1")</script>\'"><img src=x onerror=alert(2)> & {0} $x^$ \ud800 %s'
    truth = {evil: VideoTruth(9.0, (Segment(1, 4, evil),), evil)}
    grid = Grid.over(0, 9, 9)
    features = {evil: Features(np.random.default_rng(0).normal(size=(9, 4)), grid, 9.0)}
    runs = [Run(evil, {evil: [Segment(1, 4, evil, 0.9, query=evil)]}, evil, features=features)]
    with pytest.raises(AssertionError):
        Reader("<p>" + evil)  # the reader would notice
    text = page(tmp_path, truth, runs, title=evil, summary=evil, videos={evil: tmp_path / "<b>"},
                tables=[Table(evil, (evil, evil), [(evil, evil)], evil)], notes=[(evil, evil)], steps=[(evil, 1.0)],
                commands=[evil])
    reader = Reader(text)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert "<img src=x" not in text
    assert all(attrs.get("src", "data:").startswith("data:") for _, attrs in reader.tags)
    assert "".join(reader.words).count(evil.replace("\ud800", "?")) > 10


def test_bars_stand_where_the_segments_are(tmp_path):
    truth = {"v": VideoTruth(20.0, (Segment(5, 10, "a"),))}
    runs = [Run("one", {"v": [Segment(4, 9, "a", 0.8), Segment(15, 40, "b", 0.4)]})]
    text = page(tmp_path, truth, runs)
    bars = re.findall(r'title="([^"]*)" style="left:([\d.]+)%;width:([\d.]+)%;--row:(\d);--o:([\d.]+)', text)
    assert bars == [
        ("a: 5.0 to 10.0 s", "25.000", "25.000", "0", "1.00"),
        ("a: 4.0 to 9.0 s, score 0.800", "20.000", "25.000", "0", "1.00"),
        ("b: 15.0 to 40.0 s, score 0.400", "75.000", "25.000", "0", "0.50"),
    ]
    listing = re.search(r'class="listing">.*?</table>', text)[0]
    assert [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall("<tr>.*?</tr>", listing)][1:] == [
        ["a", "5.0", "10.0", "", ""], ["a", "4.0", "9.0", "0.800", "0.67"], ["b", "15.0", "40.0", "0.400", "0.00"]]


def test_bars_of_a_lane_never_overlap(tmp_path):
    rng = np.random.default_rng(0)
    many = [Segment(a, a + 4, "x", float(s)) for a, s in zip(rng.uniform(0, 16, 40).tolist(), rng.random(40))]
    truth = {"v": VideoTruth(20.0, tuple(Segment(i, i + 6, "x") for i in range(14)))}
    text = page(tmp_path, truth, [Run("one", {"v": many})])
    lanes = re.findall(r'<div class="who"[^>]*>(.*?)</div><div class="lane .*?--rows:(\d)">(.*?)</div>', text)
    assert len(lanes) == 2
    for (who, rows, lane), given in zip(lanes, (14, 28)):
        bars = [(int(row), float(left), float(left) + float(width)) for left, width, row in
                re.findall(r"left:([\d.]+)%;width:([\d.]+)%;--row:(\d)", lane)]
        assert {row for row, _, _ in bars} == set(range(int(rows)))
        for (i, a, b), (j, c, d) in itertools.combinations(bars, 2):
            assert i != j or b <= c + 1e-2 or d <= a + 1e-2
        hidden = re.search(r"\+(\d+)", who)
        assert len(bars) + (int(hidden[1]) if hidden else 0) == given


def test_thumbnails_are_in_the_page(tmp_path):
    truth, runs = sample()
    film(tmp_path / "a.mp4", truth["video_000"].duration)
    film(tmp_path / "tall.mp4", truth["video_001"].duration, size=(160, 96))
    text = page(tmp_path, truth, runs, videos={"video_000": tmp_path / "a.mp4", "video_001": tmp_path / "tall.mp4"})
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(pictures) == 24  # the two that have a file were chosen
    assert len(set(pictures)) == 24
    sizes = []
    for picture in (pictures[0], pictures[-1]):
        with av.open(io.BytesIO(base64.b64decode(picture))) as image:
            frame = next(image.decode(video=0))
            sizes.append((frame.height, frame.width))
    assert sizes == [(96, 160), (96, 58)]
    assert "No thumbnails" not in text


def test_missing_and_broken_files_cost_only_the_thumbnails(tmp_path):
    truth, runs = sample()
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    show = ["video_000", "video_001", "video_002"]
    text = page(tmp_path, truth, runs, show=show,
                videos={"video_000": tmp_path / "broken.mp4", "video_001": tmp_path / "absent.mp4"})
    assert re.findall(r"No thumbnails: (?:[^<]*(broken.mp4|absent.mp4)|no file was given)", text) == [
        "broken.mp4", "absent.mp4", ""]
    assert text.count('<article class="video">') == 3
    assert "image/jpeg" not in text


def test_no_predictions_score_zero(tmp_path):
    truth, _ = sample()
    text = page(tmp_path, truth, [Run("nothing", {}), Run("empty lists", {vid: [] for vid in truth})])
    assert [row[1:] for row in table_of_runs(text)] == [["0.0"] * 4] * 2
    assert 'class="best"' not in text
    assert text.count('<article class="video">') == 4
    Reader(text)


def test_a_page_of_truth_alone(tmp_path):
    truth, _ = sample()
    text = page(tmp_path, truth, [])
    assert "<h2>Scores</h2>" not in text
    assert "<h2>Timelines</h2>" in text
    Reader(text)
    assert "<h2>" not in page(tmp_path, {}, [])


def test_videos_are_spread_over_the_number_of_instances(tmp_path):
    truth, _ = sample()

    def shown(truth: Truth, **kwargs) -> list[str]:
        return re.findall(r"<article class=\"video\"><h3><bdi>(.*?)</bdi>", page(tmp_path, truth, [], **kwargs))

    counts = [len(truth[vid].annotations) for vid in shown(truth, show=5)]
    assert counts == [1, 2, 3, 4, 5]
    assert shown(dict(reversed(truth.items()))) == shown(truth)
    assert shown(truth, show=["video_004", "video_000"]) == ["video_004", "video_000"]
    assert shown(truth, show=0) == []
    assert len(shown(truth, show=99)) == len(truth)
    with pytest.raises(CallError, match="show names the video 'video_04', which the truth lacks"):
        shown(truth, show=["video_04"])


def test_runs_that_share_features_share_a_picture(tmp_path):
    text = page(tmp_path, *sample())
    assert text.count('<div class="matrix">') == 2
    assert "<bdi>G-TAD on TSP, BMN on TSP</bdi>" in text


def test_the_probe_says_what_the_analysis_says(tmp_path):
    truth, runs = sample()
    del truth["video_000"]  # features of a video that does not count are not asked
    text = page(tmp_path, truth, runs)
    for run in runs[:2]:
        assert run.features is not None
        here = {vid: run.features[vid] for vid in truth}
        found = contrast(here, truth, per_video=10, normalised=True)
        assert f"{100 * found.share:.0f} % above 0, mean {found.mean:+.2f}" in text
    assert f"10 draws in each of {found.videos} videos" in text


@pytest.mark.parametrize(("count", "side"), [(57, 57), (1000, 192)])
def test_matrices_are_drawn_cell_by_cell_until_they_are_large(tmp_path, count, side):
    data = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    features = {"v": Features(data, Grid.over(0, 100, count), 100.0)}
    truth = {"v": VideoTruth(100.0, (Segment(25, 50, "a"),))}
    text = page(tmp_path, truth, [Run("r", {}, features=features)])
    picture = re.search(r'src="data:image/png;base64,([^"]+)"', text)
    with av.open(io.BytesIO(base64.b64decode(picture[1]))) as image:
        pixels = next(image.decode(video=0)).to_ndarray(format="rgb24")
    assert pixels.shape == (side, side, 3)
    brightest = pixels[0, 0]
    assert (pixels[np.arange(side), np.arange(side)] == brightest).all()  # every clip is like itself
    assert np.array_equal(pixels, pixels.transpose(1, 0, 2))
    assert 'class="top"><i style="left:25.00%;width:25.00%"' in text
    assert 'class="side"><i style="top:25.00%;height:25.00%"' in text


def test_odd_videos_are_drawn(tmp_path):
    truth = {
        "no length": VideoTruth(0.0, (Segment(2, 8, "a"),)),
        "point": VideoTruth(5.0, (Segment(5, 5, "a"), Segment(7, 9, "a"))),
        "nothing known": VideoTruth(0.0),
        "hours": VideoTruth(200_000.0, (Segment(90_000, 90_001, "a"),)),
    }
    predictions = {vid: [Segment(1, 3, None, 0.0), Segment(50, 60, "b", 0.0)] for vid in truth}
    text = page(tmp_path, truth, [Run("r", predictions)], show=list(truth))
    Reader(text)
    assert all(0 <= float(x) <= 100 for x in re.findall(r"left:([\d.]+)%", text))
    assert "nan" not in text.lower()


def test_predictions_left_out_are_counted(tmp_path):
    truth = {"v": VideoTruth(9.0, (Segment(1, 4, "a"),))}
    text = page(tmp_path, truth, [Run("r", {"v": [Segment(1, 4, "b", 0.5), Segment(1, 4, "a", 0.4)]})])
    assert "Left out: 1 prediction of r whose label the truth lacks." in text


def test_a_failed_page_leaves_the_old_one(tmp_path):
    (tmp_path / "page.html").write_text("old")
    truth, _ = sample()
    with pytest.raises(DataError, match="no score"):
        write_report(tmp_path / "page.html", truth, [Run("r", {"video_000": [Segment(0, 1, "spin")]})])
    assert (tmp_path / "page.html").read_text() == "old"


def test_tables_must_be_rectangular():
    with pytest.raises(CallError, match="table 't', row 1: 1 cells for 2 columns"):
        Table("t", ("a", "b"), [("x", 1), ("y",)])


# ---------------------------------------------------------------------------------------------- from files


def halves(seed: int = 0) -> Truth:
    """Training and testing videos with two actions each, for a page that has a floor."""
    rng = np.random.default_rng(seed)
    truth = {}
    for name, count in (("training", 12), ("testing", 6)):
        for i in range(count):
            cuts = np.sort(rng.uniform(0, 60, 4))
            actions = Segment(cuts[0], cuts[1], "run"), Segment(cuts[2], cuts[3], "swim")
            truth[f"{name}_{i}"] = VideoTruth(60.0, actions, name)
    return truth


def perfect(truth: Truth, name: str) -> Predictions:
    return {vid: [replace(s, score=0.9) for s in v.annotations] for vid, v in truth.items() if v.subset == name}


@pytest.fixture
def on_disk(tmp_path):
    truth = halves()
    write_truth(tmp_path / "truth.json", truth)
    good = perfect(truth, "testing")
    write_predictions(tmp_path / "good.json", good)
    write_predictions(tmp_path / "poor.json", {v: [replace(s, end=s.end + 5) for s in row] for v, row in good.items()})
    return tmp_path


def test_the_page_names_the_runs_and_the_floor(on_disk):
    out = on_disk / "pages" / "report.html"
    report_files(on_disk / "truth.json", {"my tsp": on_disk / "good.json", "my clap": on_disk / "poor.json"}, out)
    page = out.read_text()
    assert page.lstrip().lower().startswith("<!doctype html")
    for text in ("my tsp", "my clap", "never looks", "100.0"):
        assert text in page
    report_files(on_disk / "truth.json", {"my tsp": on_disk / "good.json"}, out, show=0)
    assert "my clap" not in out.read_text()


def test_the_page_has_no_floor_without_training_videos(on_disk):
    truth = {v: t for v, t in halves().items() if t.subset != "training"}
    write_truth(on_disk / "truth.json", truth)
    report_files(on_disk / "truth.json", {"tsp": on_disk / "good.json"}, on_disk / "report.html")
    assert "never looks" not in (on_disk / "report.html").read_text()


def test_the_page_with_thumbnails_and_features(tiny_world, tiny_features, tmp_path):
    write_predictions(tmp_path / "a.json", perfect(tiny_world.truth, "testing"))
    report_files(tiny_world.folder / "truth.json", {"tsp": tmp_path / "a.json"}, tmp_path / "report.html",
                 tiny_world.folder / "videos", features={"tsp": tiny_features.folder}, show=1)
    page = (tmp_path / "report.html").read_text()
    assert "data:image/jpeg;base64" in page
    report_files(tiny_world.folder / "truth.json", {"tsp": tmp_path / "a.json"}, tmp_path / "less.html", show=1)
    assert len((tmp_path / "less.html").read_text()) < len(page)


def test_runs_with_features_stand_side_by_side(tiny_world, tiny_features, tmp_path):
    double = {vid: Features(2 * f.data, f.grid, f.duration) for vid, f in tiny_features.items()}
    runs = [Run("tsp", perfect(tiny_world.truth, "testing"), features=tiny_features),
            Run("clap", perfect(tiny_world.truth, "testing"), features=double)]
    truth, training = ({vid: v for vid, v in tiny_world.truth.items() if v.subset == name}
                       for name in ("testing", "training"))
    text = page(tmp_path, truth, runs, training=training)
    table = text.partition("What the features know")[2].partition("</table>")[0]
    assert re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table) == ["figure", "floor", "tsp", "clap"]
    found = side_by_side({"tsp": tiny_features, "clap": double}, tiny_world.truth, test=("testing",))
    for title, *cells in tabled(found)[1]:
        row = table.partition(html.escape(title))[2].partition("</tr>")[0]
        assert re.findall(r"<td[^>]*>(.*?)</td>", row) == cells
    assert counted(found)[0] in text
    assert "What the features know" not in page(tmp_path, truth, runs)


def test_figures_that_cannot_be_had_cost_only_themselves(tmp_path):
    truth, runs = sample()
    training = {vid: v for vid, v in halves().items() if v.subset == "training"}
    text = page(tmp_path, truth, runs, training=training)
    assert "No figures: &#x27;G-TAD on CLAP&#x27;: " in text
    assert '<div class="matrix">' in text


def test_features_of_a_run_that_is_not_there(on_disk, tiny_features):
    with pytest.raises(CallError, match=r"tpf.* did you mean 'tsp'"):
        report_files(on_disk / "truth.json", {"tsp": on_disk / "good.json"}, on_disk / "report.html",
                     features={"tpf": tiny_features.folder})
    with pytest.raises(DataError, match=r"nowhere\.json"):
        report_files(on_disk / "truth.json", {"tsp": on_disk / "nowhere.json"}, on_disk / "report.html")
    assert not (on_disk / "report.html").exists()


# ---------------------------------------------------------------------------------------------- reliability


def test_answers_are_held_to_what_they_say(tmp_path):
    """A calibrated file tells how, so that the page shows both errors; other scores, and no floor's."""
    truth, (first, second, *_) = sample()
    link = Calibration(1.0, 2.0, 0.5, 100, 20)
    write_truth(tmp_path / "truth.json", truth)
    sure = {vid: link.applied(row) for vid, row in first.predictions.items()}
    write_predictions(tmp_path / "sure.json", sure, {"calibration": asdict(link)})
    write_predictions(tmp_path / "plain.json", second.predictions)
    report_files(tmp_path / "truth.json", {"sure": tmp_path / "sure.json", "plain": tmp_path / "plain.json"},
                 tmp_path / "page.html", show=0)
    text = (tmp_path / "page.html").read_text()
    errors = [100 * reliability(*judged(truth, found)).error for found in (sure, first.predictions, second.predictions)]
    assert f"ECE {errors[0]:.1f} %, {errors[1]:.1f} % before calibration" in text
    assert f"ECE {errors[2]:.1f} %, not calibrated" in text
    assert abs(errors[0] - errors[1]) > 0.1
    found = reliability(*judged(truth, sure))
    for right, count in zip(found.right, found.count):
        assert not count or f"<td>{100 * right:.0f} % of {count:,}</td>" in re.sub(' class="word"', "", text)
    write_predictions(tmp_path / "sure.json", sure, {"calibration": {"a": 1.0}})
    with pytest.raises(DataError, match=r"sure\.json.*calibration\.b"):
        report_files(tmp_path / "truth.json", {"sure": tmp_path / "sure.json"}, tmp_path / "page.html", show=0)


def test_scores_that_are_no_shares_are_not_held_to_them(tmp_path):
    truth, (first, *_) = sample()
    far = {vid: [replace(s, score=10 * s.score) for s in row] for vid, row in first.predictions.items()}
    for runs, said in (([replace(first, predictions=far)], False), ([first], True),
                       ([replace(first, floor=True)], False)):
        write_report(tmp_path / "page.html", truth, runs, show=0)
        assert ("Are answers as often right" in (tmp_path / "page.html").read_text()) == said
