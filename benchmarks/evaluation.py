"""How fast predictions become scores, beside what the official evaluators took.

    python benchmarks/evaluation.py [--data ../shared/data]

1. The files whose official time is on record (two cores; recorded, not run here: the programs are Python 2 or need a
   pool of processes): ours, read and scored, in this process.
2. A million detections over 4,926 videos and 200 classes: scored once read, and `cuemark evaluate detection` as a whole
   process with floor and ceiling, its wall time and its largest memory.
3. A sweep of sizes: time must grow as n log n. Printed is the time divided by n log n, against the first row's.

Best of three for 1 and 3, so that other load on the machine counts little.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cuemark.datasets import qvhighlights
from cuemark.metrics.detection import detection
from cuemark.metrics.highlights import highlights
from cuemark.metrics.proposals import proposals
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, read_predictions, write_truth


def best(work: Callable[[], Any], times: int = 3) -> float:
    """Seconds of the fastest of some runs."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


def validation(data: Path) -> Truth:
    """ActivityNet 1.3's validation truth, in the order of the file."""
    rows: dict[str, list[Segment]] = {}
    lengths = {}
    name = "annotations/tsp/activitynet/activitynet_v1-3_valid_tsp_groundtruth.csv"
    with open(data / name, encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["temporal-region-label"] == "Action":
                lengths[row["video-name"]] = float(row["video-duration"])
                rows.setdefault(row["video-name"], []).append(
                    Segment(float(row["t-start"]), float(row["t-end"]), row["action-label"]))
    return {vid: VideoTruth(lengths[vid], tuple(found), "validation") for vid, found in rows.items()}


def random(truth: Truth, count: int, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """``count`` detections at random places of random videos and classes, as a prediction file has them."""
    rng = np.random.default_rng(seed)
    videos, names = list(truth), sorted({str(s.label) for v in truth.values() for s in v.annotations})
    which = rng.integers(0, len(videos), count)
    spans = np.sort(rng.random((count, 2)), axis=1) * np.array([truth[v].duration for v in videos])[which, None]
    labels, scores = rng.integers(0, len(names), count), rng.random(count)
    found: dict[str, list[dict[str, Any]]] = {vid: [] for vid in videos}
    for i in range(count):
        found[videos[which[i]]].append({"segment": spans[i].tolist(), "label": names[labels[i]],
                                        "score": float(scores[i])})
    return found


def segments(found: dict[str, list[dict[str, Any]]]) -> Predictions:
    return {vid: [Segment(*r["segment"], r["label"], r["score"]) for r in rows] for vid, rows in found.items()}


def recorded(data: Path, truth: Truth, folder: Path) -> None:
    """Part 1."""
    synthetic = folder / "synthetic.json"
    synthetic.write_bytes(gzip.decompress((data / "golden/synthetic_detection_seed0.json.gz").read_bytes()))
    perfect = data / "predictions/activitynet/sample_detection_prediction.json"
    rng = np.random.default_rng(42)
    many = {vid: [Segment(*sorted(rng.random(2) * v.duration), score=float(rng.random())) for _ in range(100)]
            for vid, v in truth.items()}
    rated = data / "annotations/qvhighlights/highlight_val_release.jsonl"

    def asked(file: Path) -> Callable[[], object]:
        return lambda: highlights(qvhighlights.moments(rated), qvhighlights.moments(file))

    jobs: list[tuple[str, float, Callable[[], object]]] = [
        ("detection, 7,654 predictions", 41.6, lambda: detection(truth, read_predictions(perfect))),
        ("detection, 25,160 predictions", 51.1, lambda: detection(truth, read_predictions(synthetic))),
        ("proposals, 25,160 predictions", 22.0, lambda: proposals(truth, read_predictions(synthetic))),
        ("proposals, 492,600 (once read)", 89.0, lambda: proposals(truth, many)),
        ("QVHighlights, Moment-DETR", 37.0,
         asked(data / "predictions/qvhighlights/moment_detr/sample_val_preds.jsonl")),
        ("QVHighlights, QD-DETR", 37.0,
         asked(data / "predictions/qvhighlights/qddetr_QDDETR_onlyclip_best_hl_val_preds.jsonl")),
    ]
    print(f"{'':36}{'ours, s':>10}{'official, s':>13}{'ratio':>8}")
    for name, official, work in jobs:
        ours = best(work)
        print(f"{name:36}{ours:>10.2f}{official:>13.1f}{official / ours:>8.0f}")


def million(truth: Truth, folder: Path) -> None:
    """Part 2."""
    found = random(truth, 1_000_000)
    (folder / "predictions.json").write_text(json.dumps({"results": found}))
    write_truth(folder / "truth.json", truth)
    once_read = segments(found)
    print(f"\na million detections: scored in {best(lambda: detection(truth, once_read)):.2f} s once read")
    command = [sys.executable, "-m", "cuemark", "evaluate", "detection", "--truth", str(folder / "truth.json"),
               "--predictions", str(folder / "predictions.json")]
    began = time.perf_counter()
    subprocess.run([*command, "--json"], check=True, capture_output=True)
    took = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"cuemark evaluate detection, as a process: {took:.1f} s, {memory:.2f} GiB")


def sweep(truth: Truth) -> None:
    """Part 3."""
    print(f"\n{'detections':>12}{'s':>8}{'s / (n log n), first = 1':>28}")
    first = 0.0
    for count in (15_625, 31_250, 62_500, 125_000, 250_000, 500_000, 1_000_000):
        found = segments(random(truth, count))
        took = best(lambda: detection(truth, found))  # noqa: B023
        rate = took / (count * math.log(count))
        first = first or rate
        print(f"{count:>12,}{took:>8.3f}{rate / first:>28.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    data = parser.parse_args().data
    if not data.is_dir():
        sys.exit(f"the annotations are not at '{data}'; name their folder with --data.")
    truth = validation(data)
    with tempfile.TemporaryDirectory() as folder:
        recorded(data, truth, Path(folder))
        million(truth, Path(folder))
    sweep(truth)


if __name__ == "__main__":
    main()
