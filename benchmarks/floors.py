"""Floors and ceilings of every benchmark whose truth is at hand: writes docs/floors.md.

    python benchmarks/floors.py [--data ../shared/data] [--out docs/floors.md]

For each benchmark its test truth is scored twice: with what a predictor says that never looks (learnt from training
truth, see cuemark.floors), and with the truth itself. Beside them, where a floor was measured before with
the released evaluators, its figures; its predictor need not be ours, so they are a check of size, not of digits.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cuemark import conversion
from cuemark.datasets import splits
from cuemark.datasets.format import Reading
from cuemark.evaluation import Evaluation, evaluate
from cuemark.segments import Segment, Truth, VideoTruth, times, tiou


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    benchmark: str
    result: Evaluation
    figures: Sequence[str]
    known: dict[str, float] = field(default_factory=dict)
    """Figure -> a floor of the same kind, measured before with the released evaluator."""
    ceiling: dict[str, float] = field(default_factory=dict)
    drawn: dict[str, float] = field(default_factory=dict)
    """Of one that finds all moments of a video, and draws which it answers with."""


def read(path: Path, name: str, subset: str = "training", **options: Any) -> Truth:
    truth = conversion.read(path, name, Reading(subset=subset, **options)).truth
    assert truth is not None
    return truth


def nothing(truth: Truth) -> dict[str, list[Segment]]:
    """No answers: only floor and ceiling are wanted."""
    return {vid: [] for vid in truth}


def detection_rows(data: Path) -> list[Row]:
    tsp = data / "annotations/tsp"
    rows = []
    train = read(tsp / "activitynet/activitynet_v1-3_train_tsp_groundtruth.csv", "tsp")
    test = read(tsp / "activitynet/activitynet_v1-3_valid_tsp_groundtruth.csv", "tsp", "validation")
    test = {vid: replace(v, subset="validation") for vid, v in test.items()}
    names = ("mAP@0.50", "mAP@0.75", "mAP@0.95", "average mAP")
    rows.append(Row("ActivityNet 1.3, training to validation", evaluate(
        "detection", test, nothing(test), train=train), names))
    thumos_train = read(data / "annotations/thumos14/temporal_annotations_validation", "thumos",
                        meta=data / "annotations/thumos14/th14_val_durations.txt")
    thumos_test = read(data / "annotations/thumos14/temporal_annotations_test", "thumos", "testing",
                       meta=data / "annotations/thumos14/th14_test_durations.txt")
    thumos_train = {vid: replace(v, subset="training") for vid, v in thumos_train.items()}
    levels = (0.3, 0.4, 0.5, 0.6, 0.7)
    names = ("mAP@0.30", "mAP@0.50", "mAP@0.70", "average mAP")
    for title, style in (("THUMOS14, ActivityNet's way", "activitynet"), ("THUMOS14, TH14evalDet's way", "thumos14")):
        rows.append(Row(title, evaluate("detection", thumos_test, nothing(thumos_test), train=thumos_train,
                                        style=style, tious=levels), names))
    multi = read(data / "annotations/multithumos.json", "multithumos")
    rows.append(Row("MultiTHUMOS", evaluate("detection", multi, nothing(multi), tious=tuple(np.linspace(.1, .9, 9))),
                    ("mAP@0.20", "mAP@0.50", "mAP@0.70", "average mAP")))
    for share in ("50", "75"):
        folder = next((data / "annotations/zero_shot_splits").glob(f"train{share}*")) / "ActivityNet1.3"
        unseen = [second for _, second in splits.zero_shot(folder)]
        rows.append(Row(f"ActivityNet 1.3, zero-shot {share} / {100 - int(share)}, ten splits", evaluate(
            "detection", test, nothing(test), train=train, splits=unseen), ("mAP@0.50", "average mAP")))
    rows.append(Row("ActivityNet 1.3, proposals", evaluate(
        "proposals", test, nothing(test), train=train), ("AR@1", "AR@10", "AR@100", "AUC"),
        {"AUC": 44.38, "AR@1": 5.57, "AR@10": 28.71, "AR@100": 55.64}))
    return rows


def few_shot(data: Path) -> list[Row]:
    truth = read(data / "annotations/bmn", "bmn")
    classes = splits.few_shot(data / "annotations/activitynet_few_shot_classes.json")
    base = splits.classes({v: t for v, t in truth.items() if t.subset == "training"}, classes["base"])
    novel = splits.classes({v: t for v, t in truth.items() if t.subset == "validation"}, classes["novel"])
    single = {vid: v for vid, v in novel.items() if len(v.annotations) == 1}
    said = {vid: [Segment(0, v.duration, v.annotations[0].label, 1.0)] for vid, v in single.items()}
    names = ("mAP@0.50", "mAP@0.75", "mAP@0.95", "average mAP")
    return [Row("ActivityNet 1.3, QAT's scoring (it tells the label), videos of one instance", evaluate(
        "episodes", single, said, train=base), names,
        {"mAP@0.50": 68.15, "mAP@0.75": 45.02, "mAP@0.95": 3.35, "average mAP": 43.24})]


def sparse_map(cells: int, layers: Sequence[int]) -> np.ndarray:
    """2D-TAN's candidates as fractions of a video, ``(n, 2)``: language.md section 1.2."""
    mask = np.zeros((cells, cells), bool)
    mask[np.arange(cells), np.arange(cells)] = True
    stride, offset = 1, 0
    for scale, count in enumerate(layers):
        for _ in range(count - 1 if scale == 0 else count):  # offsets 0 … 15, 17, 19 … 31, 35, 39 … 63, 71, 79 … 127
            offset += stride
            begin = np.arange(0, cells - offset, stride)
            mask[begin, begin + offset] = True
        stride *= 2
    first, last = np.nonzero(mask)
    return np.stack([first, last + 1], axis=1) / cells


def on_grid(truth: Truth, candidates: np.ndarray, levels: Sequence[float]) -> dict[str, float]:
    """The best that any method can do whose answers are these candidates: R@1 and mean tIoU, in percent."""
    real = np.array([(s.start / v.duration, s.end / v.duration) for v in truth.values() for s in v.annotations])
    best = np.concatenate([tiou(candidates, part).max(0) for part in np.array_split(real, max(1, len(real) // 2000))])
    return {f"R@1,IoU={t:g}": 100 * float((best > t).mean()) for t in levels} | {"mIoU": 100 * float(best.mean())}


def drawn(videos: Truth, levels: Sequence[float]) -> dict[str, float]:
    """What is to be expected of one of the video's moments, whatever was asked."""
    spans = [times([s for s in v.annotations if s.sentence is not None]) for v in videos.values()]
    each = [row for moments in spans for row in tiou(moments, moments)]
    return {f"R@1,IoU={t:g}": 100 * float(np.mean([(row > t).mean() for row in each])) for t in levels} | {
        "mIoU": 100 * float(np.mean([row.mean() for row in each]))}


def grounding_rows(data: Path) -> list[Row]:
    folder = data / "annotations/2d-tan"
    rows = []
    usual = (0.3, 0.5, 0.7)
    jobs: list[tuple[str, str, Path, Path, tuple[float, ...], dict[str, float], int, tuple[int, ...]]] = [
        ("Charades-STA, test", "charades-sta", folder / "Charades-STA/charades_sta_train.txt",
         folder / "Charades-STA/charades_sta_test.txt", usual,
         {"R@1,IoU=0.3": 41.26, "R@1,IoU=0.5": 30.70, "R@1,IoU=0.7": 16.18, "R@5,IoU=0.5": 80.67,
          "R@5,IoU=0.7": 44.87, "mIoU": 28.53}, 16, (16,)),
        ("ActivityNet Captions, val_2", "activitynet-captions", folder / "ActivityNet/train.json",
         folder / "ActivityNet/test.json", usual,
         {"R@1,IoU=0.3": 49.10, "R@1,IoU=0.5": 27.15, "R@1,IoU=0.7": 13.78, "R@5,IoU=0.5": 65.08,
          "R@5,IoU=0.7": 45.85, "mIoU": 33.71}, 64, (16, 8, 8)),
        ("TACoS, test", "tacos", folder / "TACoS/train.json", folder / "TACoS/test.json", (0.1, 0.3, 0.5, 0.7),
         {"R@1,IoU=0.3": 8.97, "R@1,IoU=0.5": 3.85, "R@1,IoU=0.7": 1.22, "R@5,IoU=0.5": 17.50,
          "R@5,IoU=0.7": 5.15, "mIoU": 7.05}, 128, (16, 8, 8, 8)),
    ]
    names = ("R@1,IoU=0.3", "R@1,IoU=0.5", "R@1,IoU=0.7", "R@5,IoU=0.5", "R@5,IoU=0.7", "mIoU")
    for title, form, train, test, levels, known, cells, layers in jobs:
        videos = read(test, form, "testing")
        result = evaluate("grounding", videos, nothing(videos), train=read(train, form), tious=levels, strict=True)
        rows.append(Row(title, result, names, known, on_grid(videos, sparse_map(cells, layers), levels),
                        drawn(videos, levels)))
    return rows


def caption_row(data: Path) -> list[Row]:
    folder = data / "annotations/2d-tan/ActivityNet"
    first, second = (read(folder / name, "activitynet-captions", "validation") for name in ("val.json", "test.json"))
    train = read(folder / "train.json", "activitynet-captions")
    known = conversion.read(data / "annotations/bmt_val_1_no_missings.json", "activitynet-captions",
                             Reading(subset="validation")).truth
    assert known is not None
    names = ("BLEU@3", "BLEU@4", "METEOR", "CIDEr", "SODA_c")
    said = {vid: [replace(s, score=1.0) for s in v.annotations] for vid, v in known.items()}
    return [
        Row("ActivityNet Captions, learnt proposals, val_1 and val_2",
            evaluate("captions", first, nothing(first), train=train, more=[second]), names),
        Row("ActivityNet Captions, the truth's segments, val_1 (BMT's 4,483 videos)",
            evaluate("captions", known, said, train=train), names),
    ]


def highlight_row(data: Path) -> list[Row]:
    from cuemark.datasets import qvhighlights

    rows = qvhighlights.moments(data / "annotations/qvhighlights/highlight_val_release.jsonl")
    result = evaluate("highlights", rows, [replace(m, windows=(), saliency=None) for m in rows])
    names = ["MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mAP", "HL-min-VeryGood-mAP", "HL-min-VeryGood-Hit1"]
    return [Row("QVHighlights, val", result, names, {
        "MR-full-mAP": 5.58, "MR-full-R1@0.5": 9.03, "MR-full-R1@0.7": 6.06, "HL-min-VeryGood-mAP": 11.04,
        "HL-min-VeryGood-Hit1": 14.97})]


def frame_rows(data: Path) -> list[Row]:
    """The test videos of TCN's splits; what is trained on are those of the other splits (a video is in one only)."""
    from scipy.io import loadmat

    rows = []
    for title, folder, fps in (("50Salads, mid, split 1", "50Salads/mid/mid_video_SVM", 30.0),
                               ("GTEA, split 1", "GTEA/video_SVM", 15.0)):
        truths = []
        for file in sorted((data / "predictions/segmentation_tcn" / folder).glob("*.mat")):
            videos = {}
            for i, labels in enumerate(loadmat(file, squeeze_me=True)["Y"]):
                cuts = np.flatnonzero(np.diff(labels)) + 1
                edges = [0, *cuts.tolist(), len(labels)]
                videos[f"{file.stem}_{i}"] = VideoTruth(len(labels) / fps, tuple(
                    Segment(a / fps, b / fps, str(int(labels[a]))) for a, b in itertools.pairwise(edges)),
                    "testing", fps)
            truths.append(videos)
        test, *others = truths
        train = {vid: replace(v, subset="training") for videos in others for vid, v in videos.items()}
        background = "0"
        rows.append(Row(title, evaluate("frames", test, nothing(test), train=train, background=(background,)),
                        ("accuracy", "edit", "F1@10", "F1@25", "F1@50")))
    return rows


def page(parts: Sequence[tuple[str, str, Sequence[Row]]]) -> str:
    lines = ["# Floors and ceilings", "",
             "Made by `python benchmarks/floors.py`. **Floor**: what a predictor gets that never looks at a video; "
             "where training truth is at hand it learns from that, and for every figure the one of several that is "
             "best at it on training truth is taken. **Ceiling**: what the truth itself gets as predictions. "
             "*Recorded*: a floor of the same kind measured before with the released evaluator; its predictor is "
             "another, so digits may differ.", ""]
    for title, text, rows in parts:
        lines += [f"## {title}", "", text, ""]
        for row in rows:
            names = [name for name in row.figures if name in row.result.figures]
            videos = len(row.result.score.videos)
            lines += [f"**{row.benchmark}**: {videos:,} videos; floor: {row.result.floor_of}.", "",
                      "| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
            for name, column in (("floor", row.result.floor), ("recorded floor", row.known),
                                 ("a moment of the video, drawn", row.drawn),
                                 ("ceiling", row.result.ceiling), ("ceiling of 2D-TAN's map", row.ceiling)):
                if column:
                    cells = (f"{column[n]:.2f}" if n in column and column[n] == column[n] else "–" for n in names)
                    lines.append(f"| {name} | " + " | ".join(cells) + " |")
            lines.append("")
    return "\n".join(lines)


PARTS = (
    ("Detection and proposals", """Where the class must be named, a list that never looks gets next to nothing; where it
need not be, it gets most of what is published (BMN on TSP features: AR@100 76.63, AUC 69.04). At AR@1 the ceiling is
one instance a video.""", detection_rows),
    ("Few-shot", """The released scoring gives a method the label of every video it is asked about. Published with it:
QAT 37.37, CLAP 40.25 average mAP.""", few_shot),
    ("Sentence to moment", """Thresholds are strict, as in 2D-TAN's code. R@5 is within reach of five stretches that are
the same for every video and sentence: 2D-TAN has 80.54 at 0.5 on Charades-STA and 77.13 on ActivityNet Captions. Where
a sentence is asked twice of a video with different answers (TACoS), no answer to the sentence alone can be right both
times: that is its ceiling. *Drawn*: what is to be expected of one that sees where moments are and
never reads. On Charades-STA that is more than what is published (UnLoc-L: 60.8 at 0.5, 38.4 at 0.7), so a figure there
does not say that a system reads; `cuemark evaluate` tells where the sentence makes no difference.""", grounding_rows),
    ("Moments and highlights", "Training truth is not at hand.", highlight_row),
    ("Action segmentation", "The training videos are the test videos of the other splits.", frame_rows),
    ("Dense captioning", """Means over tIoU 0.3, 0.5, 0.7, 0.9. Published METEOR: TSP 8.75 with learnt proposals, BMT
10.90 at the truth's segments. With two references the ceiling is below 100, for the truth is the first and is scored
against the second too.""", caption_row),
)


def main() -> None:
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=root / "docs" / "floors.md")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"the annotations are not at '{arguments.data}'; name their folder with --data.")
    parts = []
    for title, text, make in PARTS:
        began = time.perf_counter()
        parts.append((title, text.replace("\n", " "), make(arguments.data)))
        print(f"{title}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    arguments.out.write_text(page(parts), encoding="utf-8")
    print(arguments.out)


if __name__ == "__main__":
    main()
