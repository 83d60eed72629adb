"""Real footage through the same commands: a smoke test of the whole road, with floors beside the scores.

Two sets from the project's real data (never shipped; the folder is an argument):

``gmdcsa24``: short clips of four people at home, with a sentence and labelled intervals. Split by person: subjects 1
and 2 train, 3 and 4 test. Eighteen clips: the score means little; that every step runs on real files is the result.
Its floor never looks at a video.

``fight``: untrimmed videos made by joining surveillance clips, fights among ordinary ones (background), in random
order, re-encoded to one size; joined clips are split by clip before joining, so no pixel is in two subsets. A scene
cut stands at every joint, so a detector of cuts knows every boundary: the floor beside the score is exactly that, the
stretches between histogram cuts, the longest first, beside the one that never looks.

Then every localizer is trained on CLAP's features by its world recipe, and asked as it is asked: classes; the names of
classes as sentences (2D-TAN: which stretch is "fight"?); or more of what training clips show (QAT). A floor that never
looks stands beside each.

    python benchmarks/real_footage.py OUT --data FOLDER [--only gmdcsa24 fight] [--set optim.steps=200]
                                      [--encoders tac clap] [--localizers gtad bmn …]

Prints tables for each set and writes OUT/<set>/report.html. Asserts nothing. About 8 minutes on two cores for the
encoders, and as much for the localizers.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from world_localizers import by_classes, by_sentences, few_shot, floor_name

from cuemark import video
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import VideoError
from cuemark.extraction import ExtractConfig, extract
from cuemark.feature_folder import FeatureFolder
from cuemark.floors import blind
from cuemark.localization import load, localize, localize_features
from cuemark.localizers import LOCALIZERS
from cuemark.metrics.detection import detection
from cuemark.recipe import load_recipe
from cuemark.report import Run, write_report
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, subset, write_predictions, write_truth
from cuemark.training import ENCODER_FILE, LOCALIZER_FILE, pretrain, train

SYSTEMS = ("tac", "tsp", "clap")
RATE = 25
"""Frames per second of the joined videos."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds videos/")
    parser.add_argument("--only", nargs="+", default=["gmdcsa24", "fight"], choices=["gmdcsa24", "fight"])
    parser.add_argument("--set", action="append", default=[], help="change of every pre-training recipe")
    parser.add_argument("--encoders", nargs="+", default=list(SYSTEMS), choices=SYSTEMS, help="tac is among them")
    parser.add_argument("--localizers", nargs="*", default=sorted(LOCALIZERS), choices=sorted(LOCALIZERS))
    arguments = parser.parse_args()
    for name in arguments.only:
        out = arguments.out / name
        truth, videos, captions = (gmdcsa24 if name == "gmdcsa24" else fights)(arguments.data / "videos", out)
        run(name, out, truth, videos, captions, arguments.set, arguments.encoders)
        if "clap" in arguments.encoders and arguments.localizers:
            every_localizer(name, out, truth, arguments.localizers)


def run(name: str, out: Path, truth: Truth, videos: dict[str, Path], captions: Path | None, changes: list[str],
        systems: Sequence[str]) -> None:
    """Pre-train three ways, extract, localize, score: the commands of the README, as functions."""
    write_truth(out / "truth.json", truth)
    folder = out / "files"
    folder.mkdir(parents=True, exist_ok=True)
    for vid, path in videos.items():
        if not (folder / f"{vid}{path.suffix}").exists():
            (folder / f"{vid}{path.suffix}").symlink_to(path.resolve())
    testing = subset(truth, "testing")
    found: dict[str, Predictions] = {}
    folders: dict[str, FeatureFolder] = {}
    for system in (s for s in SYSTEMS if s in systems):
        paths: dict[str, Path | str] = {"data.truth": out / "truth.json", "data.videos": folder}
        extra = ['data.train=["training"]', "data.validate=[]", 'encoder.sampling.short="centre"', *changes]
        if system != "tac":
            paths["encoder.start"] = out / "tac" / ENCODER_FILE
        if system == "tsp":
            paths["data.features"] = out / "tac/features"
        if system == "clap":  # without captions every clip carries its prompt
            paths["data.captions"] = captions or ""
        told = [f"{k}={json.dumps(str(v))}" for k, v in paths.items()] + extra
        if not (out / system / ENCODER_FILE).exists():
            pretrain(load_recipe(f"world_{system}", told), out / system)
        encoder = VideoEncoder.load(out / system / ENCODER_FILE)
        files = {v: folder / f"{v}{p.suffix}" for v, p in videos.items()}
        extract(files, encoder, out / system / "features", ExtractConfig(stride=4))
        folders[system] = FeatureFolder.open(out / system / "features")
        if not (out / system / "gtad" / LOCALIZER_FILE).exists():
            train(load_recipe("world_gtad", [
                f"data.truth={json.dumps(str(out / 'truth.json'))}", "data.validate=[]",
                f"data.features={json.dumps(str(out / system / 'features'))}"]), out / system / "gtad", encoder)
        model = load(out / system / "gtad" / LOCALIZER_FILE)
        found[system] = localize_features(folders[system], model, list(testing))
        write_predictions(out / f"{system}.json", found[system])
        vid = next(iter(testing))
        raw = localize(folder / f"{vid}{videos[vid].suffix}", model)
        print(f"{name}, {system}: '{vid}' from the raw file: " + "; ".join(
            f"{s.start:.1f}-{s.end:.1f} s {s.label} {s.score:.2f}" for s in raw[:3]))

    floors = {"floor: never looks": blind(subset(truth, "training"), testing)}
    if name == "fight":
        floors["floor: scene cuts"] = {v: between_cuts(videos[v], testing[v].duration) for v in testing}
    instances = sum(len(v.annotations) for v in testing.values())
    print(f"\n{name}: {len(subset(truth, 'training'))} training videos, {len(testing)} testing videos, "
          f"{instances} instances")
    print(f"{'':24}{'avg mAP':>10}{'@0.5':>10}{'@0.75':>10}{'@0.95':>10}")
    for row, predictions in {**{s.upper(): p for s, p in found.items()}, **floors}.items():
        score = detection(testing, predictions)
        cells = (score.average, score.map[0], score.map[5], score.map[9])
        print(f"{row:24}" + "".join(f"{100 * c:>10.2f}" for c in cells))
    runs = [Run(s.upper(), p, features=folders[s]) for s, p in found.items()]
    runs += [Run(row.removeprefix("floor: "), p, floor=True) for row, p in floors.items()]
    write_report(out / "report.html", testing, runs, title=f"Real footage: {name}", videos=videos,
                 summary="A smoke test on few real videos; the score means little.")
    print(f"{out / 'report.html'}\n")


# ---------------------------------------------------------------------------------------------- every localizer


def every_localizer(name: str, out: Path, truth: Truth, localizers: Sequence[str]) -> None:
    """Each on CLAP's features, trained and asked in its own way, beside the floor of what it is asked."""
    features, encoder = FeatureFolder.open(out / "clap/features"), VideoEncoder.load(out / "clap" / ENCODER_FILE)
    said = {vid: replace(v, annotations=tuple(replace(s, sentence=s.label) for s in v.annotations))
            for vid, v in truth.items()}
    write_truth(out / "said.json", said)
    seen = {vid: features[vid] for vid in truth if vid in features}
    training, testing = subset(truth, "training"), subset(truth, "testing")
    print(f"{name}: localizers on CLAP's features, percent")
    for localizer in localizers:
        asked, folder = LOCALIZERS[localizer].asked, out / "localizers" / localizer
        paths: dict[str, Path] = {"data.truth": out / ("said.json" if asked == "sentence" else "truth.json"),
                                  "data.features": out / "clap/features"}
        if LOCALIZERS[localizer].judges:
            paths["data.proposals"] = out / "clap/gtad" / LOCALIZER_FILE
        if not (folder / LOCALIZER_FILE).exists():
            train(load_recipe(f"world_{localizer}", [*(f"{k}={json.dumps(str(v))}" for k, v in paths.items()),
                                                     "data.validate=[]"]), folder, encoder)
        model = load(folder / LOCALIZER_FILE)
        if asked in ("classes", "text"):
            scores, _ = by_classes(model, seen, training, testing, {}, 0, 0)
        elif asked == "sentence":
            scores, _ = by_sentences(model, seen, subset(said, "training"), subset(said, "testing"), {}, 0, 0)
        else:
            scores, _, _ = few_shot(model, seen, training, training, testing, 20, 0)
        print(f"{localizer:14}" + ", ".join(
            f"{key} {value:.2f}" + (f" (floor {scores[floor_name(key)]:.2f})" if floor_name(key) in scores else "")
            for key, value in scores.items() if "floor" not in key), flush=True)


# ---------------------------------------------------------------------------------------------- the two sets


def gmdcsa24(videos: Path, out: Path) -> tuple[Truth, dict[str, Path], Path]:
    """Four people's clips; rows of the CSV whose file is there. Sentences become captions of the whole clip."""
    truth: Truth = {}
    files: dict[str, Path] = {}
    said: dict[str, dict] = {}
    for table in sorted((videos / "gmdcsa24").glob("Subject */*.csv")):
        person, kind = table.parent.name, table.stem
        with open(table, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, skipinitialspace=True))[1:]
        for row in rows:
            path = table.parent / kind / row[0].strip() if row and row[0].strip() else None
            if path is None or not path.is_file():
                continue
            try:
                duration = video.probe(path).duration
            except VideoError as error:
                print(error)
                continue
            vid = f"{person.replace(' ', '')}_{kind}_{path.stem}"
            found = re.findall(r"([\w ()]+?)\s*\[\s*([\d.]+)\s*to\s*([\d.]+)\s*\]", row[-1])
            segments = tuple(Segment(float(a), min(float(b), duration), label.strip())
                             for label, a, b in found if float(a) < min(float(b), duration))
            part = "training" if person in ("Subject 1", "Subject 2") else "testing"
            truth[vid] = VideoTruth(duration, segments, part)
            files[vid] = path
            said[f"v_{vid}"] = {"duration": duration, "timestamps": [[0, duration]], "sentences": [row[-2].strip()]}
    (out).mkdir(parents=True, exist_ok=True)
    (out / "captions.json").write_text(json.dumps(said))
    return truth, files, out / "captions.json"


def fights(videos: Path, out: Path, seed: int = 0) -> tuple[Truth, dict[str, Path], None]:
    """Surveillance clips joined into untrimmed videos of six, of which one to three are fights."""
    folders = {k: sorted((videos / "fight_surveillance" / k).glob("*.mp4")) for k in ("fight", "noFight")}
    truth: Truth = {}
    files: dict[str, Path] = {}
    rng = np.random.default_rng(seed)
    pools = {k: [clips[i] for i in rng.permutation(len(clips))] for k, clips in folders.items()}
    for part, share in (("training", (0.0, 0.65)), ("testing", (0.65, 1.0))):
        pool = {k: clips[int(share[0] * len(clips)) : int(share[1] * len(clips))] for k, clips in pools.items()}
        for number in range(24 if part == "training" else 12):
            n = int(rng.integers(1, 4))
            chosen = [("fight", pool["fight"][i]) for i in rng.choice(len(pool["fight"]), n, replace=False)]
            chosen += [("noFight", pool["noFight"][i]) for i in rng.choice(len(pool["noFight"]), 6 - n, replace=False)]
            order = [chosen[i] for i in rng.permutation(len(chosen))]
            vid = f"{part}_{number:02d}"
            path = out / "joined" / f"{vid}.mp4"
            stamps: list[float] = []
            counts: list[int] = []
            if not path.exists():
                video.write(path, joined([p for _, p in order], counts), fps=RATE)
            else:
                for _, p in order:
                    counts.append(len(range(*frame_range(p))))
            ends = np.cumsum(counts) / RATE
            stamps = [0.0, *ends.tolist()]
            segments = tuple(Segment(stamps[i], stamps[i + 1], "fight")
                             for i, (kind, _) in enumerate(order) if kind == "fight")
            truth[vid] = VideoTruth(stamps[-1], segments, part)
            files[vid] = path
    return truth, files, None


def frame_range(path: Path) -> tuple[int, int]:
    """The frames of a clip at that rate."""
    return 0, max(1, int(video.probe(path).duration * RATE))


def joined(paths: list[Path], counts: list[int]) -> Iterator[np.ndarray]:
    """Clips one after the other at one rate and 96 x 128 pixels; how many of each goes into ``counts``."""
    for path in paths:
        times = np.arange(*frame_range(path)) / RATE
        counts.append(len(times))
        yield from video.frames_at(path, times.tolist(), (96, 128))


def between_cuts(path: Path, duration: float) -> list[Segment]:
    """Every stretch between two scene cuts, longest first, as a fight: what a cut detector knows.

    A cut is where the colour histograms of neighbouring frames differ by more than six times their median difference.
    """
    stamps, before, jumps = [], None, []
    for stamp, image in video.frames(path, (48, 64)):
        counts = [np.histogram(image[..., c], 32, (0, 256))[0] for c in range(3)]
        histogram = np.concatenate(counts) / image[..., 0].size
        jumps.append(0.0 if before is None else float(np.abs(histogram - before).sum()))
        stamps.append(stamp)
        before = histogram
    level = max(0.3, 6 * float(np.median(jumps)))
    cuts = [0.0, *(t for t, j in zip(stamps, jumps, strict=True) if j > level), duration]
    found = [Segment(a, b, "fight", (b - a) / duration) for a, b in itertools.pairwise(cuts) if b > a]
    return sorted(found, key=lambda s: -s.duration)


if __name__ == "__main__":
    main()
