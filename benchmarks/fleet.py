"""Videos through Ray with two workers, beside two plain processes with half of the videos each.

    chrt -r 20 python benchmarks/fleet.py [--encoder r2plus1d_tiny] [--videos 24] [--seconds 24] [--rounds 3]
                                          [--crop 112] [--stride 16]

Each side extracts the same videos (H.264, 240x180, blocks that drift) with the same random weights. *fleet* is
``cuemark.fleet.extract`` on a Ray of this machine with two places; *plain* is two processes that each call
``cuemark.extraction.extract(..., workers=1)`` on every other video, and the time is that of the slower one.

What happens once is measured apart and is in no ratio: Ray's start, and the imports and first videos of its workers and
of the plain processes. Then the sides take turns, ``--rounds`` times; the ratio is of the medians of clips a second. At
the end, the files of the last round are compared byte by byte.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cuemark import extraction, fleet, video
from cuemark.clips import ClipConfig
from cuemark.encoders import build
from cuemark.encoders.video_encoder import VideoEncoder

PLAIN = """
import json, sys, time
began = time.perf_counter()
from pathlib import Path
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.extraction import ExtractConfig, extract
given = json.loads(sys.stdin.readline())
encoder, config = VideoEncoder.load(given["encoder"]), ExtractConfig(stride=given["stride"])
extract({"warm": given["warm"]}, encoder, given["out"] + "/warm", config, workers=1)
print(time.perf_counter() - began, flush=True)
for line in sys.stdin:
    job = json.loads(line)
    extract(job["videos"], encoder, job["out"], config, workers=1)
    print("done", flush=True)
"""


def film(path: Path, seconds: float, seed: int) -> Path:
    """Blocks that drift: little to compress, as in real footage."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(0, 256, (12, 200, 3), dtype=np.uint8).repeat(15, 0).repeat(15, 1)
    video.write(path, (wide[:, 4 * i % 2700 : 4 * i % 2700 + 240] for i in range(int(30 * seconds))), fps=30)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="r2plus1d_tiny")
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--stride", type=int, default=16)
    args = parser.parse_args()
    import ray

    with tempfile.TemporaryDirectory(prefix="fleet") as name:
        folder = Path(name)
        torch.manual_seed(0)
        clip = replace(ClipConfig(), crop=args.crop, short_side=round(args.crop * 8 / 7))
        encoder = VideoEncoder(build(args.encoder).eval(), clip, args.encoder)
        encoder.save(folder / "encoder.safetensors")
        videos = {f"v{i:03d}": film(folder / f"v{i:03d}.mp4", args.seconds * (0.5 + i % 5 / 4), i)
                  for i in range(args.videos)}
        warm = film(folder / "warm.mp4", 6, 99)
        config = extraction.ExtractConfig(stride=args.stride)

        began = time.perf_counter()
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        print(f"Ray's start: {time.perf_counter() - began:.1f} s")
        began = time.perf_counter()
        fleet.extract({f"warm{i}": warm for i in range(8)}, encoder, folder / "warm", config, address="local")
        print(f"two workers' imports and first videos: {time.perf_counter() - began:.1f} s")

        team = []
        for i in range(2):
            process = subprocess.Popen([sys.executable, "-c", PLAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            assert process.stdin is not None
            tell(process, {"encoder": str(folder / "encoder.safetensors"), "stride": args.stride, "warm": str(warm),
                           "out": str(folder / f"plain{i}")})
            team.append(process)
        print("plain processes' imports and first videos: "
              + ", ".join(f"{float(heard(process)):.1f} s" for process in team))

        rates: dict[str, list[float]] = {"fleet": [], "plain": []}
        for number in range(args.rounds):
            for side in ("fleet", "plain") if number % 2 else ("plain", "fleet"):
                out, began = folder / f"{side}_{number}", time.perf_counter()
                if side == "fleet":
                    fleet.extract(videos, encoder, out, config, address="local")
                else:
                    for i, process in enumerate(team):
                        tell(process, {"out": str(out / str(i)),
                                       "videos": {vid: str(videos[vid]) for vid in list(videos)[i::2]}})
                    for process in team:
                        heard(process)
                seconds = time.perf_counter() - began
                clips = sum(len(np.load(path)) for path in out.rglob("*.npy"))
                rates[side].append(clips / seconds)
                print(f"{side}: {clips} clips, {seconds:.1f} s, {clips / seconds:.1f} clips/s", flush=True)
        for process in team:
            process.communicate()
        ray.shutdown()
        last = args.rounds - 1
        same = all(path.read_bytes() == (folder / f"fleet_{last}" / path.name).read_bytes()
                   for path in (folder / f"plain_{last}").rglob("*.npy"))
        fast = {side: statistics.median(found) for side, found in rates.items()}
        print(f"fleet {fast['fleet']:.1f}, plain {fast['plain']:.1f} clips/s: ratio "
              f"{fast['fleet'] / fast['plain']:.2f}; files {'the same' if same else 'DIFFER'}")


def tell(process: subprocess.Popen[str], what: object) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(what) + "\n")
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a plain process has ended")
    return line


if __name__ == "__main__":
    main()
