"""Whole videos to features: end to end against its parts, against the plain way, and in memory.

Method. On the same files, in one run, round after round (medians are shown):

- decode only: the reader threads of ``cuemark.extraction`` cutting all clips, nothing encoding them;
- model only: its encoder threads on clips that are there already, as many as the files have;
- together: ``extraction.extract`` into a new folder; where decode and model share the cores, nothing can be faster than
  1 / (1 / decode + 1 / model), and the share of that is printed;
- the plain way: for each clip open the file, seek, decode what it spans, keep 16 frames, resize and crop each; encode
  batches with PyTorch's own threads; one after the other.

On a GPU (``--device cuda``; written without one at hand, and not run yet) decode and model share nothing: the model's
two threads copy clips from pinned memory in streams of their own, as the extraction's do; end to end is compared with
the slower of the two; and 2 · multiply-adds · clips/s with ``--peak``, the TFLOP/s that the maker promises in the
precision that is measured (of NVIDIA's, without sparsity). The plain way is left out there.

Memory: the peak of a process that extracts ten minutes, and of one that extracts hours, of the same small film (its
packets copied again and again with later times); and of a long file if one is given with --long.

    python benchmarks/extract.py VIDEO… [--kind r2plus1d_tiny|r2plus1d_18] [--bf16] [--stride 16] [--seconds 20]
    python benchmarks/extract.py VIDEO… --device cuda --bf16 --peak 990 [--kind r2plus1d_34]
    python benchmarks/extract.py --memory [--hours 3] [--long FILE]

Prints tables. Asserts nothing.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import median

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from torch.utils.flop_counter import FlopCounterMode

from cuemark import video
from cuemark.batch import normalised
from cuemark.clips import ClipConfig, clip_count
from cuemark.encoders import ENCODERS
from cuemark.encoders.backends import Run
from cuemark.encoders.resnet3d import ResNet3D
from cuemark.encoders.video_encoder import VideoEncoder, encode
from cuemark.extraction import ExtractConfig, chosen, clips_of, extract, runner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, nargs="*")
    parser.add_argument("--kind", default="r2plus1d_18", choices=list(ENCODERS))
    parser.add_argument("--pixels", type=int, default=112, help="side of the square")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each video")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-plain", action="store_true")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, in the precision that is measured")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--long", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(peak_of(arguments.one))
    elif arguments.memory:
        memory(arguments.hours, arguments.long)
    else:
        speed(arguments)


def encoder_of(kind: str, pixels: int) -> VideoEncoder:
    torch.manual_seed(0)
    clip = ClipConfig(short_side=round(pixels * 8 / 7), crop=pixels)
    return VideoEncoder(ResNet3D(ENCODERS[kind]).eval(), clip, kind)


# ---------------------------------------------------------------------------------------------- speed


def speed(arguments: argparse.Namespace) -> None:
    encoder, device = encoder_of(arguments.kind, arguments.pixels), chosen(arguments.device)
    config = ExtractConfig(stride=arguments.stride, bf16=arguments.bf16)
    cores, rows = torch.get_num_threads(), config.rows(encoder, device)
    with tempfile.TemporaryDirectory() as folder:
        files = {p.stem: cut_short(p, Path(folder) / p.name, arguments.seconds) for p in arguments.videos}
        infos = [video.probe(path) for path in files.values()]
        clips = sum(clip_count(i.duration, encoder.clip, config.stride)[1] for i in infos)
        one = next(clips_of(infos[0], encoder.clip, config.stride, 1))
        batches = -(-clips // rows)
        network = runner(encoder, config, device)
        ways: dict[str, Callable[[], None]] = {
            "decode only": lambda: together(cores, [lambda i=i: drain(i, encoder.clip, config) for i in infos]),
            "model only": (lambda: together(cores, [lambda: run(encoder, one, config)] * batches))
            if device.type == "cpu" else lambda: on_gpu(network, one, encoder.clip, rows, batches, device),
            "end to end": lambda: extract_anew(files, encoder, config, Path(folder), device),
        }
        if not arguments.no_plain and device.type == "cpu":
            ways["the plain way"] = lambda: plain(infos, encoder, config)
        took: dict[str, list[float]] = {name: [] for name in ways}
        if device.type != "cpu":  # it chooses its algorithms when it sees a shape for the first time
            ways["model only"]()
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                began = time.monotonic()
                way()
                took[name].append(time.monotonic() - began)
    rates = {name: clips / median(times) for name, times in took.items()}
    print(f"{arguments.kind}, {arguments.pixels} pixels, {'bf16' if arguments.bf16 else 'fp32'}, "
          f"stride {config.stride}, {clips} clips of {len(files)} videos, {cores} threads, {device}")
    for name, rate in rates.items():
        print(f"  {name:16}{rate:9.2f} clips/s")
    if device.type == "cpu":
        best, what = 1 / (1 / rates["decode only"] + 1 / rates["model only"]), "1 / (1 / decode + 1 / model)"
    else:
        best, what = min(rates["decode only"], rates["model only"]), "the slower of decode and model"
    print(f"  end to end is {rates['end to end'] / best:.2f} of {what}"
          + (f" and {rates['end to end'] / rates['the plain way']:.1f} times the plain way" if "the plain way" in rates
             else ""))
    if arguments.peak:
        adds = multiply_adds(encoder)
        for name in ("model only", "end to end"):
            reached = 2 * adds * rates[name] / 1e12
            print(f"  {name}: 2 · {adds / 1e9:.2f} G · {rates[name]:.1f} clips/s = {reached:.2f} TFLOP/s, "
                  f"{reached / arguments.peak:.3f} of {arguments.peak:g}")


def multiply_adds(encoder: VideoEncoder) -> float:
    """Of one clip, by PyTorch's counter."""
    clip = encoder.clip
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.network(torch.zeros(1, 3, clip.frames, clip.crop, clip.crop))
    return counter.get_total_flops() / 2


def on_gpu(network: Run, one: np.ndarray, clip: ClipConfig, rows: int, batches: int, device: torch.device) -> None:
    """Two threads, each with a stream: batches from pinned memory to features in ours."""
    held = torch.from_numpy(np.concatenate([one] * rows)).pin_memory()
    streams = threading.local()

    def work() -> None:
        if not hasattr(streams, "mine"):
            streams.mine = torch.cuda.Stream(device)
        with torch.cuda.stream(streams.mine):
            network(normalised(held.to(device, non_blocking=True), clip.mean, clip.std)).float().cpu().numpy()

    together(2, [work] * batches)


def together(threads: int, jobs: list[Callable[[], None]]) -> None:
    """Run jobs in threads, each computing on one core."""
    waiting = list(reversed(jobs))

    def work() -> None:
        torch.set_num_threads(1)
        while True:
            try:
                job = waiting.pop()
            except IndexError:
                return
            job()

    usual = torch.get_num_threads()
    team = [threading.Thread(target=work) for _ in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    torch.set_num_threads(usual)


def drain(info: video.VideoInfo, clip: ClipConfig, config: ExtractConfig) -> None:
    for _ in clips_of(video.probe(info.path), clip, config.stride, 1):
        pass


def run(encoder: VideoEncoder, one: np.ndarray, config: ExtractConfig) -> None:
    batch = np.concatenate([one] * config.rows(encoder, torch.device("cpu")))
    encode(encoder.network, normalised(batch, encoder.clip.mean, encoder.clip.std), config.bf16).numpy()


def extract_anew(files: dict[str, Path], encoder: VideoEncoder, config: ExtractConfig, folder: Path,
                 device: torch.device) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        extract(files, encoder, out, config, device=device)


def plain(infos: list[video.VideoInfo], encoder: VideoEncoder, config: ExtractConfig) -> None:
    clip, waiting = encoder.clip, []
    for info in infos:
        height, width = clip.size(info.height, info.width)
        for i in range(clip_count(info.duration, clip, config.stride)[1]):
            waiting.append(plain_clip(info.path, i * config.stride / clip.fps, clip, height, width))
            if len(waiting) == 16:
                run_plain(encoder, waiting, config)
    if waiting:
        run_plain(encoder, waiting, config)


def run_plain(encoder: VideoEncoder, waiting: list[np.ndarray], config: ExtractConfig) -> None:
    encode(encoder.network, normalised(np.stack(waiting), encoder.clip.mean, encoder.clip.std), config.bf16).numpy()
    waiting.clear()


def plain_clip(path: Path, start: float, clip: ClipConfig, height: int, width: int) -> np.ndarray:
    """Open, seek, decode what the clip spans, keep every so-manieth frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        begin = stream.start_time or 0
        container.seek(begin + int(start / stream.time_base), stream=stream)
        found: list[VideoFrame] = []
        for frame in container.decode(stream):
            at = float((frame.pts - begin) * stream.time_base)
            if at >= start - 1e-3:
                found.append(frame)
            if at >= start + clip.seconds:
                break
    kept = [found[min(len(found) - 1, k * len(found) // clip.frames)] for k in range(clip.frames)]
    pictures = [f.reformat(width=width, height=height, format="rgb24").to_ndarray() for f in kept]
    top, left = (height - clip.crop) // 2, (width - clip.crop) // 2
    return np.stack(pictures)[:, top:top + clip.crop, left:left + clip.crop]


def cut_short(source: Path, target: Path, seconds: float) -> Path:
    """The packets of the first seconds, copied."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        begin = None
        for packet in old.demux(stream):
            if packet.dts is None:
                continue
            begin = packet.dts if begin is None else begin
            if float((packet.dts - begin) * stream.time_base) >= seconds:
                break
            packet.stream = copy
            new.mux(packet)
    return target


# ---------------------------------------------------------------------------------------------- memory


def memory(hours: float, long: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base.mp4"
        rng = np.random.default_rng(0)
        pictures = rng.integers(0, 256, (60, 12, 16, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        video.write(base, pictures, fps=30)
        lengths = [("ten minutes", 600.0), (f"{hours:g} hours", 3600 * hours)]
        films = [(name, again(base, Path(folder) / f"{i}.mp4", seconds)) for i, (name, seconds) in enumerate(lengths)]
        for name, path in films + ([(long.name, long)] if long else []):
            began = time.monotonic()
            said = subprocess.run([sys.executable, __file__, "--one", str(path)], capture_output=True, text=True,
                                  check=True).stdout
            print(f"{name:24} {said.strip()}, {time.monotonic() - began:.0f} s")


def again(source: Path, target: Path, seconds: float) -> Path:
    """The same packets with later times, until the film is as long as asked for."""
    with av.open(str(source)) as old:
        stream = old.streams.video[0]
        packets = [p for p in old.demux(stream) if p.dts is not None]
        tick = stream.time_base
        length = max(p.pts + (p.duration or 0) for p in packets) - min(p.pts for p in packets)
        kept = [(bytes(p), p.pts, p.dts, p.duration, p.is_keyframe) for p in packets]
        with av.open(str(target), "w") as new:
            copy = new.add_stream_from_template(stream)
            for turn in range(round(seconds / float(length * tick))):
                for data, pts, dts, duration, key in kept:
                    packet = av.Packet(data)
                    packet.stream, packet.time_base = copy, Fraction(tick)
                    packet.pts, packet.dts, packet.duration = pts + turn * length, dts + turn * length, duration
                    packet.is_keyframe = key
                    new.mux(packet)
    return target


def peak_of(path: Path) -> str:
    encoder = encoder_of("r2plus1d_tiny", 32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as out:
        result = extract({"film": path}, encoder, out, ExtractConfig(bf16=torch.cpu._is_avx512_bf16_supported()))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{result.clips} clips, peak {after:.0f} MiB ({before:.0f} before the work began)"


if __name__ == "__main__":
    main()
