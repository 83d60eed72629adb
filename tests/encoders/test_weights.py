"""Released weights: every name is what it says; downloads survive what happens to downloads; loading by name."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from cuemark.clips import ClipConfig
from cuemark.encoders import ENCODERS, weights
from cuemark.encoders.published import load_weights
from cuemark.encoders.resnet3d import Config, ResNet3D
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, ModelError
from cuemark.settings import build as build_settings

NAME = "tsp-activitynet-r3d_18"
TSP_NAMES = [name for name, entry in weights.WEIGHTS.items() if entry.source.startswith("TSP")]
SMALL = Config("r3d", (1, 1, 1, 1), 3)
BYTES = bytes(range(256)) * 1024  # 256 KiB


# ---------------------------------------------------------------------------------------------- a server of our own


class Server:
    """Serves ``files``. ``plan`` says what becomes of the next requests, one entry each; then all goes well."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.plan: list[Any] = []
        self.ranges = True
        self.lengths = True
        self.asked: list[str | None] = []  # the Range of every request for a file
        self.hold = threading.Event()
        self.hold.set()
        self.over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=partial(self.http.serve_forever, poll_interval=0.01))
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/moved/"):  # as GitHub's releases do
            request.send_response(302)
            request.send_header("Location", f"{self.address}/{request.path[7:]}")
            request.end_headers()
            return
        wanted = request.headers["Range"]
        self.asked.append(wanted)
        what = self.plan.pop(0) if self.plan else None
        body = self.files.get(request.path[1:])
        if isinstance(what, int) and what >= 100:
            return request.send_error(what)
        if body is None:
            return request.send_error(404)
        start = int(wanted[6:-1]) if wanted and self.ranges else 0
        if start and start >= len(body):
            return request.send_error(416)
        request.send_response(206 if start else 200)
        if self.lengths:
            request.send_header("Content-Length", str(len(body) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.end_headers()
        if isinstance(what, tuple):  # so much of it, then the line is dead, or just silent
            how, part = what
            request.wfile.write(body[start: start + part])
            if how == "silence":
                self.over.wait(5)
        else:
            half = (start + len(body)) // 2
            request.wfile.write(body[start: half])
            self.hold.wait(10)
            request.wfile.write(body[half:])

    def close(self) -> None:
        self.hold.set()
        self.over.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("CUEMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(weights, "PAUSE", 0.0)
    made = Server()
    yield made
    made.close()


@pytest.fixture
def release(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts bytes on the server as the weights called NAME; the answer is where they must end up."""
    def put(content: bytes = BYTES, prefix: str = "") -> Path:
        digest = hashlib.sha256(content).hexdigest()[:8]
        file = f"r3d_18-tsp_on_activitynet-{digest}.pth"
        server.files[file] = content
        entry = replace(weights.WEIGHTS[NAME], url=f"{server.address}/{prefix}{file}", sha256=digest)
        monkeypatch.setitem(weights.WEIGHTS, NAME, entry)
        return weights.cache() / "weights" / file
    return put


def part_of(place: Path) -> Path:
    return place.with_name(place.name + ".part")


def left(place: Path) -> list[str]:
    return sorted(p.name for p in place.parent.iterdir())


def refused(name: str = NAME) -> str:
    with pytest.raises(ModelError) as caught:
        weights.fetch(name, lambda done, total: None)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


# ---------------------------------------------------------------------------------------------- the table


def test_there_are_thirteen_of_tsp_two_of_torchvision_and_three_clips():
    assert len(TSP_NAMES) == 13
    assert len(weights.WEIGHTS) == 18
    files = [e.file for e in weights.WEIGHTS.values() if e.url]
    digests = [e.sha256 for e in weights.WEIGHTS.values() if e.url]
    assert len(set(files)) == len(set(digests)) == 15


@pytest.mark.parametrize("name", [n for n, e in weights.WEIGHTS.items() if e.url])
def test_every_released_name_parses_to_its_encoder(name):
    entry = weights.WEIGHTS[name]
    assert re.fullmatch(r"https://[\w./-]+", entry.url)
    assert entry.file == entry.url.split("/")[-1]
    found = re.fullmatch(r"(r3d_18|r2plus1d_18|r2plus1d_34)-(?:(tsp|tac)_on_(\w+?)(?:-(max|avg|no)_gvf)?"
                         r"(?:-backbone_lr_[\d.]+-fc_lr_[\d.]+-epoch_\d)?-)?([0-9a-f]{8})\.pth", entry.file)
    encoder, objective, dataset, pooling, digest = found.groups()
    assert encoder == entry.encoder
    assert encoder in ENCODERS
    assert digest == entry.sha256
    spelt = [objective or "torchvision", dataset, f"{pooling}_gvf" if pooling in ("avg", "no") else None, encoder]
    assert name == "-".join(s for s in spelt if s)
    assert (objective == "tsp") == (pooling is not None)
    assert entry.licence
    assert entry.note


def test_what_they_look_at_is_what_tsp_released():
    for entry in weights.WEIGHTS.values():
        assert (entry.clip is None) == (entry.encoder is None) == (entry.hub is not None)
        if clip := entry.clip:
            assert (clip.frames, clip.fps, clip.crop) == (16, 15, 112)
            assert clip.size(240, 320) == clip.size(1080, 608) == (128, 171)
            assert clip.mean == (0.43216, 0.394666, 0.37645)
            assert clip.std == (0.22803, 0.22145, 0.216989)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("CUEMARK_CACHE", str(tmp_path))
    assert weights.cache() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", None):
        monkeypatch.setenv("CUEMARK_CACHE", value) if value is not None else monkeypatch.delenv("CUEMARK_CACHE")
        assert weights.cache() == tmp_path / "home" / ".cache" / "cuemark"


def test_unknown_names_are_answered_with_the_known():
    for call in (weights.fetch, weights.cached, weights.load):
        with pytest.raises(CallError, match="unknown weights 'tsp-activitynet'; did you mean 'tsp-activitynet-"):
            call("tsp-activitynet")


# ---------------------------------------------------------------------------------------------- fetching


def test_fetched_once(server, release):
    place = release()
    assert weights.cached(NAME) is None
    seen: list[tuple[int, int]] = []
    assert weights.fetch(NAME, lambda done, total: seen.append((done, total))) == place
    assert place.read_bytes() == BYTES
    assert left(place) == [place.name]
    assert seen[0] == (0, len(BYTES))
    assert seen[-1] == (len(BYTES), len(BYTES))
    assert seen == sorted(seen)
    assert weights.cached(NAME) == place
    assert weights.fetch(NAME) == place
    assert server.asked == [None]


def test_people_see_megabytes(server, release, capsys):
    release(bytes(3_500_000))
    weights.fetch(NAME)
    assert capsys.readouterr().err == f"fetching {NAME} (MB): 3/3\n"


@pytest.mark.parametrize("prefix", ["", "moved/"])
def test_an_interrupted_download_goes_on_where_it_ended(server, release, prefix):
    place = release(prefix=prefix)
    server.plan = [("cut", 100_000), ("cut", 50_000), 503]
    assert weights.fetch(NAME).read_bytes() == BYTES
    assert server.asked == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert left(place) == [place.name]


def test_so_does_the_one_of_an_earlier_process(server, release):
    place = release()
    place.parent.mkdir(parents=True)
    part_of(place).write_bytes(BYTES[:70_000])
    seen: list[int] = []
    weights.fetch(NAME, lambda done, total: seen.append(done))
    assert server.asked == ["bytes=70000-"]
    assert seen[0] == 70_000
    assert place.read_bytes() == BYTES


def test_nothing_is_missing_but_the_new_name(server, release):
    place = release()
    place.parent.mkdir(parents=True)
    part_of(place).write_bytes(BYTES)
    assert weights.fetch(NAME).read_bytes() == BYTES  # the server answered 416
    assert server.asked == [f"bytes={len(BYTES)}-"]


def test_a_server_without_ranges_begins_again(server, release):
    place = release()
    server.ranges = False
    server.plan = [("cut", 100_000), ("cut", 90_000), ("cut", 120_000)]
    assert weights.fetch(NAME).read_bytes() == BYTES
    assert len(server.asked) == 4
    assert left(place) == [place.name]


def test_a_server_that_does_not_tell_lengths(server, release):
    release()
    server.lengths = False
    seen: list[tuple[int, int]] = []
    assert weights.fetch(NAME, lambda done, total: seen.append((done, total))).read_bytes() == BYTES
    assert seen[-1] == (len(BYTES), 0)


def test_a_silent_line_is_given_up_and_taken_up_again(server, release, monkeypatch):
    release()
    monkeypatch.setattr(weights, "TIMEOUT", 0.1)
    server.plan = [("silence", 1000), ("silence", 0)]
    start = time.monotonic()
    assert weights.fetch(NAME).read_bytes() == BYTES
    assert time.monotonic() - start < 4  # each silence would last 5
    assert server.asked == [None, "bytes=1000-", "bytes=1000-"]


def test_lines_that_bring_nothing_end_it_and_what_came_is_kept(server, release):
    place = release()
    server.plan = [("cut", 1000), 503, ("cut", 0), 502]
    message = refused()
    assert "the server answers 502 Bad Gateway" in message
    assert part_of(place).stat().st_size == 1000
    assert not place.exists()
    assert weights.fetch(NAME).read_bytes() == BYTES


@pytest.mark.parametrize("code", [404, 403])
def test_what_is_not_there(server, release, code):
    place = release()
    server.plan = [code]
    message = refused()
    assert f"the server answers {code}" in message
    assert weights.WEIGHTS[NAME].url in message
    assert f"put the file by hand at '{place}'" in message
    assert len(server.asked) == 1  # nobody asks again for what is not there
    assert left(place) == []


@pytest.mark.parametrize("before", [0, 1000])
def test_another_file_is_removed_and_said(server, release, before):
    place = release()
    place.parent.mkdir(parents=True)
    part_of(place).write_bytes(bytes(before))
    server.files[place.name] = wrong = b"x" * 5000
    found = hashlib.sha256(bytes(before) + wrong[before:]).hexdigest()[:8]
    message = refused()
    assert f"its sha256 begins {found}, not {weights.WEIGHTS[NAME].sha256}" in message
    assert "removed" in message
    assert left(place) == []


def test_offline_says_where_to_put_the_file(server, release, monkeypatch):
    place = release()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/{place.name}"
    monkeypatch.setitem(weights.WEIGHTS, NAME, replace(weights.WEIGHTS[NAME], url=url))
    message = refused()
    assert message == (f"{NAME} could not be fetched from {url} (Connection refused); run again with a connection, or "
                       f"put the file by hand at '{place}'.")
    assert left(place) == []


def test_a_file_put_there_by_hand(server, release, capsys):
    place = release()
    place.parent.mkdir(parents=True)
    place.write_bytes(BYTES)
    assert weights.cached(NAME) == weights.fetch(NAME) == place
    assert server.asked == []

    place.write_bytes(BYTES[:-1])  # the copy was not complete
    assert weights.cached(NAME) is None
    server.plan = [404]
    refused()
    assert place.read_bytes() == BYTES[:-1]  # not ours to remove
    assert weights.fetch(NAME, lambda done, total: None).read_bytes() == BYTES
    assert f"'{place}' is not what was released as {NAME}" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- two at once


def test_two_that_want_one_file(server, release, capsys):
    place = release()
    server.hold.clear()
    with ThreadPoolExecutor(3) as pool:
        # file locks belong to open files, so that threads with files of their own are as good as processes
        asked = [pool.submit(weights.fetch, NAME) for _ in range(3)]
        said = ""
        while said.count("waiting for another process") < 2:
            time.sleep(0.01)
            said += capsys.readouterr().err
        server.hold.set()
        assert {a.result() for a in asked} == {place}
    assert place.read_bytes() == BYTES
    assert server.asked == [None]
    assert left(place) == [place.name]


def test_one_that_waited_for_another_that_failed(server, release, capsys):
    place = release()
    place.parent.mkdir(parents=True)
    part_of(place).write_bytes(bytes(1000))  # wrong: whoever completes it will remove it
    server.hold.clear()
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(weights.fetch, NAME) for _ in range(2)]
        said = ""
        while "waiting for another process" not in said:
            time.sleep(0.01)
            said += capsys.readouterr().err
        server.hold.set()
        outcomes = [a.exception() or a.result() for a in asked]
    assert place in outcomes
    assert sum("removed" in str(o) for o in outcomes) == 1
    assert server.asked == ["bytes=1000-", None]
    assert left(place) == [place.name]


def test_another_process_that_dies_leaves_its_part(server, release):
    place = release()
    place.parent.mkdir(parents=True)
    program = ("import fcntl, sys\nfile = open(sys.argv[1], 'ab')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
               "print('locked', flush=True)\nsys.stdin.read(1)\nfile.write(bytes(range(200)))\nfile.flush()\n"
               "sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", program, str(part_of(place))], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other, ThreadPoolExecutor(1) as pool:
        assert other.stdout.readline() == b"locked\n"
        asked = pool.submit(weights.fetch, NAME)
        other.stdin.write(b".")
        other.stdin.flush()
        while part_of(place).stat().st_size < 200:
            time.sleep(0.01)
        assert server.asked == []
        other.kill()
        assert asked.result() == place
    assert server.asked == ["bytes=200-"]
    assert place.read_bytes() == BYTES


# ---------------------------------------------------------------------------------------------- no room


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk(server, release):
    place = release()
    place.parent.mkdir(parents=True)
    part_of(place).symlink_to("/dev/full")
    message = refused()
    assert message.startswith(f"'{place.name}' cannot be kept in '{place.parent}' (No space left on device); make room")
    assert "CUEMARK_CACHE" in message
    assert len(server.asked) == 1
    assert left(place) == []
    assert weights.fetch(NAME).read_bytes() == BYTES


def test_what_fitted_is_kept(server, release):
    place = release()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        message = refused()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in message
    assert part_of(place).read_bytes() == BYTES[:200_000]
    assert weights.fetch(NAME).read_bytes() == BYTES
    assert server.asked == [None, "bytes=200000-"]


def test_a_cache_that_cannot_be_written(server, release, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CUEMARK_CACHE", str(tmp_path / "file"))
    release()
    assert f"cannot be kept in '{tmp_path / 'file' / 'weights'}' (Not a directory)" in refused()


# ---------------------------------------------------------------------------------------------- loading


def saved(path: Path, config: Config, heads: dict[str, int]) -> bytes:
    """A file as TSP released it: random weights of ``config``, heads of so many classes."""
    torch.manual_seed(0)
    network = ResNet3D(config)
    state = {f"features.{k}": v for k, v in network.state_dict().items()}
    for head, classes in heads.items():
        state |= {f"{head}.weight": torch.randn(classes, network.dim), f"{head}.bias": torch.randn(classes)}
    torch.save({"model": state, "epoch": 5}, path)
    return path.read_bytes()


@pytest.fixture
def small(release: Callable[..., Path], tmp_path: Path) -> Path:
    """Small weights on the server; a copy of them elsewhere."""
    release(saved(tmp_path / "mine.pth", SMALL, {"fc1": 200, "fc2": 2}))
    return tmp_path / "mine.pth"


def test_by_name_equals_the_file(server, small, tmp_path):
    named = weights.load(NAME)
    of_file = VideoEncoder.load(small)
    assert named.weights == of_file.weights
    assert named.network.config == SMALL
    assert not named.network.training
    clips = torch.randn(1, 3, 8, 16, 16)
    with torch.no_grad():
        assert torch.equal(named.network(clips), of_file.network(clips))
    again = weights.load(small)  # known by its digest, whatever it is called
    assert (again.name, again.clip, again.made, again.weights) == (named.name, named.clip, named.made, named.weights)
    assert (named.name, named.clip) == (NAME, weights.TSP_CLIP)
    assert named.made["sha256"] == hashlib.sha256(small.read_bytes()).hexdigest()
    assert named.made["published"] == weights.WEIGHTS[NAME].file
    assert named.made["url"] == weights.WEIGHTS[NAME].url
    assert weights.load(NAME).made == named.made
    assert server.asked == [None]  # it was here


def test_converted_once_loaded_anywhere(small, tmp_path):
    by_name = weights.convert(NAME, tmp_path / "a" / "name.safetensors")
    weights.convert(small, tmp_path / "file.safetensors")
    assert (tmp_path / "a" / "name.safetensors").read_bytes() == (tmp_path / "file.safetensors").read_bytes()
    own = weights.load(tmp_path / "file.safetensors")
    assert (own.name, own.clip, own.made, own.weights) == (NAME, weights.TSP_CLIP, by_name.made, by_name.weights)
    weights.convert(tmp_path / "file.safetensors", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "file.safetensors").read_bytes()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".tar"])
def test_what_would_not_be_read_again_is_not_written(small, tmp_path, suffix):
    with pytest.raises(CallError, match=r"name it out\.safetensors"):
        weights.convert(small, tmp_path / f"out{suffix}")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        weights.convert(small, tmp_path / "file" / "out.safetensors")


def test_other_peoples_files_look_at_video_by_default(tmp_path):
    content = saved(tmp_path / "own.pth", SMALL, {"fc": 5})
    own = weights.load(tmp_path / "own.pth")
    assert own.clip == ClipConfig()
    assert own.made == {"published": "own.pth", "sha256": hashlib.sha256(content).hexdigest()}


def test_a_released_name_on_another_file(tmp_path):
    path = tmp_path / weights.WEIGHTS[NAME].file
    saved(path, SMALL, {"fc": 5})
    with pytest.raises(ModelError, match=rf"has the name of {NAME} but is another file"):
        weights.load(path)


def test_paths_that_lead_nowhere(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path / "absent.safetensors", tmp_path / "absent"):
        with pytest.raises(ModelError, match=f"'{path}' does not exist"):
            weights.load(path)


@pytest.mark.parametrize("encoder", ["r3d_18", "r2plus1d_18", "r2plus1d_34"])
def test_the_exact_files_of_tsp(tmp_path, encoder):
    """Exact names and shapes: what is told from the shapes is what the name says."""
    one = torch.zeros(())
    with torch.device("meta"):
        network = ResNet3D(ENCODERS[encoder])
    state = {f"features.{k}": one.expand(v.shape) for k, v in network.state_dict().items()}
    state |= {"fc1.weight": one.expand(200, 512), "fc1.bias": one.expand(200),
              "fc2.weight": one.expand(2, 1024), "fc2.bias": one.expand(2)}
    for entry in (weights.WEIGHTS[name] for name in TSP_NAMES if name.endswith(encoder)):
        torch.save({"model": state, "epoch": 5}, tmp_path / entry.file)
        found = load_weights(tmp_path / entry.file)
        assert found.name == entry.encoder == encoder


def test_a_whole_r3d_18_from_the_server(server, release, tmp_path):
    one = torch.ones(())
    with torch.device("meta"):
        network = ResNet3D(ENCODERS["r3d_18"])
    state = {f"features.{k}": one.expand(v.shape) for k, v in network.state_dict().items()}
    torch.save({"model": state, "epoch": 6}, tmp_path / "w.pth")
    release((tmp_path / "w.pth").read_bytes())
    encoder = weights.load(NAME)
    assert encoder.network.config == ENCODERS[weights.WEIGHTS[NAME].encoder]
    assert encoder.dim == 512
    assert build_settings(ClipConfig, encoder.to_meta()["clip"], "it") == weights.TSP_CLIP


# ---------------------------------------------------------------------------------------------- listing, and the hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[list[str]]]:
    """A hub that has the files it is told to have; what it was asked for comes back."""
    real = huggingface_hub.snapshot_download

    def have(*files: str) -> list[list[str]]:
        asked: list[list[str]] = []

        def download(model: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
            folder = tmp_path / "hub" / f"models--{model.replace('/', '--')}"
            if not local_files_only:
                if not files:
                    raise OSError("no connection\nand more about it")
                asked.append(allow_patterns)
                (folder / "refs").mkdir(parents=True, exist_ok=True)
                (folder / "refs" / "main").write_text("0" * 40)
                at = folder / "snapshots" / ("0" * 40)
                at.mkdir(parents=True, exist_ok=True)
                for file in files:
                    if any(Path(file).match(pattern) for pattern in allow_patterns):
                        (at / file).write_text(file)
            return real(model, allow_patterns=allow_patterns, local_files_only=True, cache_dir=tmp_path / "hub")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        return asked
    return have


def test_clip_comes_from_the_hub(hub):
    asked = hub("config.json", "merges.txt", "model.safetensors", "pytorch_model.bin", "flax_model.msgpack")
    assert weights.cached("clip-b32") is None
    folder = weights.fetch("clip-b32")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "merges.txt", "model.safetensors"]
    assert len(asked) == 1
    assert weights.cached("clip-b32") == folder
    assert weights.cached("clip-l14") is None


def test_a_model_of_the_hub_without_safetensors(hub):
    hub("config.json", "pytorch_model.bin")
    folder = weights.fetch("clip-b16")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "pytorch_model.bin"]
    assert weights.cached("clip-b16") == folder


def test_a_hub_that_has_it_not(hub):
    hub("config.json")
    assert "'openai/clip-vit-large-patch14' could not be had from the hub (it has neither model.safetensors nor" in (
        refused("clip-l14"))
    assert weights.cached("clip-l14") is None  # the description alone is nothing
    hub()
    assert "(no connection)" in refused("clip-b32")


def test_a_clip_that_cannot_be_had_is_no_encoder(hub):
    hub()
    with pytest.raises(ModelError, match=r"'openai/clip-vit-base-patch32' could not be had from the hub"):
        weights.load("clip-b32")


def test_the_list_says_what_is_here(server, release, hub):
    place = release()
    hub("config.json", "model.safetensors")
    rows = weights.listing()
    assert [row.name for row in rows] == list(weights.WEIGHTS)
    assert [row.path for row in rows] == [None] * len(rows)
    weights.fetch(NAME)
    folder = weights.fetch("clip-b32")
    here = {row.name: row for row in weights.listing() if row.path}
    assert {name: row.path for name, row in here.items()} == {NAME: place, "clip-b32": folder}
    assert here[NAME].size == len(BYTES)
    assert here[NAME].origin == weights.WEIGHTS[NAME].url
    assert here["clip-b32"].origin == "openai/clip-vit-base-patch32"
    assert server.asked == [None]
