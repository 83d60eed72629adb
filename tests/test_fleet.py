"""Preparation and extraction on Ray: the bytes of one process, whoever is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_encoder

from cuemark import extraction, fleet, folders, preparation, video
from cuemark.checkpoint import software
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, CuemarkError, DataError, ModelError
from cuemark.extraction import ExtractConfig
from cuemark.folders import locked

pytestmark = pytest.mark.timeout(120)
CONFIG = ExtractConfig(stride=4)


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    """Ray on this machine, with two places."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Nine videos of 1.4 to 4 s, all different, and two that nobody can read."""
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    found = {}
    for i in range(9):
        blocks = rng.integers(0, 256, (42 + 10 * i, 4, 5, 3), dtype=np.uint8)
        found[f"v{i}"] = folder / f"v{i}.mp4"
        video.write(found[f"v{i}"], (b.repeat(12, 0).repeat(12, 1) for b in blocks), fps=30, quality=10)
    (folder / "broken.mp4").write_bytes(b"no video")
    return {"broken": folder / "broken.mp4", **found, "absent": folder / "absent.mp4"}


@pytest.fixture(scope="module")
def plain(films: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process extracts from them."""
    out = tmp_path_factory.mktemp("plain")
    extraction.extract(films, make_encoder(0), out, CONFIG, workers=1)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, hidden or not."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def hooked(hook) -> VideoEncoder:
    """The encoder of :func:`plain`, that calls ``hook`` with each batch, in whatever process that is."""
    encoder = make_encoder(0)
    encoder.network.register_forward_pre_hook(hook)
    return encoder


# ---------------------------------------------------------------------------------------------- the same bytes


def test_extraction_gives_the_bytes_and_the_answers_of_one_process(ray, films, plain, tmp_path):
    result = fleet.extract(films, make_encoder(0), tmp_path, CONFIG, address="local")
    assert contents(tmp_path) == contents(plain)
    assert set(contents(plain)) == {*(f"v{i}.npy" for i in range(9)), "features.json", "failed.json", folders.LOCK}
    again = extraction.extract(films, make_encoder(0), tmp_path, CONFIG)
    assert again.skipped == result.done == [f"v{i}" for i in range(9)]  # in the order they were given
    assert again.failed == result.failed
    assert list(result.failed) == ["broken", "absent"]
    assert result.clips == sum(len(np.load(p)) for p in tmp_path.glob("*.npy"))


def test_paths_from_here_are_the_same_files_for_workers(ray, films, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(films["v0"].parent)  # where workers are not
    videos = {vid: Path(path.name) for vid, path in films.items()}
    result = fleet.extract(videos, make_encoder(0), os.path.relpath(tmp_path), CONFIG, address="local")
    assert contents(tmp_path) == contents(plain)
    assert result.failed["absent"].startswith("video 'absent.mp4' ")


def test_what_is_there_is_skipped_and_needs_no_ray(ray, films, plain, tmp_path, monkeypatch):
    videos = {vid: films[vid] for vid in ("v0", "v1")}
    extraction.extract(videos, make_encoder(0), tmp_path, CONFIG)
    before = contents(tmp_path)
    monkeypatch.setattr(fleet, "_connected", lambda *a: pytest.fail("connected"))
    result = fleet.extract(videos, make_encoder(0), tmp_path, CONFIG, address="127.0.0.1:1")
    assert (result.skipped, result.done, result.failed) == (["v0", "v1"], [], {})
    assert contents(tmp_path) == before


def test_a_run_goes_on_where_one_process_stopped(ray, films, plain, tmp_path):
    extraction.extract({vid: films[vid] for vid in ("v3", "v4")}, make_encoder(0), tmp_path, CONFIG)
    result = fleet.extract(films, make_encoder(0), tmp_path, CONFIG, address="local")
    assert result.skipped == ["v3", "v4"]
    assert contents(tmp_path) == contents(plain)


def test_another_encoder_is_not_taken_for_the_last_one(ray, films, tmp_path):
    videos = {"v0": films["v0"]}
    for seed in (1, 2):
        fleet.extract(videos, make_encoder(seed), tmp_path / "fleet" / str(seed), CONFIG, address="local")
        extraction.extract(videos, make_encoder(seed), tmp_path / "plain" / str(seed), CONFIG)
        assert contents(tmp_path / "fleet" / str(seed)) == contents(tmp_path / "plain" / str(seed))


def test_preparation_gives_the_bytes_and_the_answers_of_one_process(ray, films, tmp_path):
    videos = list(films.values())
    result = fleet.prepare(videos, tmp_path / "fleet", address="local", fps=15, short_side=32, quality=30)
    expected = preparation.prepare(videos, tmp_path / "plain", fps=15, short_side=32, quality=30, workers=0)
    assert contents(tmp_path / "fleet") == contents(tmp_path / "plain")
    assert (result.done, result.failed) == (expected.done, expected.failed)
    assert (result.videos, result.frames) == (expected.videos, expected.frames)
    assert set(result.failed) == {"broken", "absent"}
    again = fleet.prepare(videos, tmp_path / "fleet", address="local", fps=15, short_side=32, quality=30)
    assert (again.skipped, again.failed) == (result.done, result.failed)


# ---------------------------------------------------------------------------------------------- kills


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(ray, films, plain, tmp_path):
    killed = tmp_path / "killed"

    def once(*_: object) -> None:  # a function within a function travels whole
        with suppress(FileExistsError):
            killed.touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)

    result = fleet.extract(films, hooked(once), tmp_path / "out", CONFIG, address="local")
    assert killed.exists()
    assert list(result.failed) == ["broken", "absent"]
    assert contents(tmp_path / "out") == contents(plain)


def test_a_video_that_kills_every_process_is_left_out_alone(ray, films, plain, tmp_path, monkeypatch):
    white = tmp_path / "white.mp4"
    video.write(white, (np.full((48, 60, 3), 255, np.uint8) for _ in range(40)), fps=30)
    monkeypatch.setattr(fleet, "RETRIES", 0)
    monkeypatch.setattr(fleet, "TASKS_OF_A_PLACE", 1)  # the first task has two videos
    videos = {"v0": films["v0"], "white": white, "v1": films["v1"], "v2": films["v2"]}

    def deadly(module: object, inputs: tuple) -> None:
        if (inputs[0].amin((1, 2, 3, 4)) > 1).any():
            os.kill(os.getpid(), signal.SIGKILL)

    out = tmp_path / "out"
    result = fleet.extract(videos, hooked(deadly), out, CONFIG, address="local")
    assert result.done == ["v0", "v1", "v2"]
    assert "all 1 processes that tried have died" in result.failed["white"]
    assert json.loads((out / "failed.json").read_text())["white"].startswith("video 'white.mp4' cannot be read")
    assert set(contents(out)) == {"v0.npy", "v1.npy", "v2.npy", "features.json", "failed.json", folders.LOCK}
    assert all((out / f"{vid}.npy").read_bytes() == (plain / f"{vid}.npy").read_bytes() for vid in result.done)


def test_a_worker_that_is_killed_while_it_transcodes_loses_nothing(ray, tmp_path):
    if not Path("/proc/self/fd").exists():
        pytest.skip("finds who writes a file in /proc")
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (200, 12, 16, 3), dtype=np.uint8)
    video.write(tmp_path / "long.mp4", (b.repeat(16, 0).repeat(16, 1) for b in blocks), fps=30)
    out = tmp_path / "out"
    ended = threading.Thread(target=lambda: fleet.prepare([tmp_path / "long.mp4"], out, address="local",
                                                          short_side=None))
    ended.start()
    killed = 0
    while ended.is_alive() and not killed:
        if killed := writing(out, ".mp4.tmp"):
            os.kill(killed, signal.SIGKILL)
        time.sleep(0.005)
    ended.join()
    assert killed not in (0, os.getpid())
    preparation.prepare([tmp_path / "long.mp4"], tmp_path / "plain", short_side=None, workers=0)
    assert contents(out) == contents(tmp_path / "plain")


def writing(folder: Path, suffix: str) -> int:
    """The process that has such a file of a folder open; 0: none."""
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            path = os.readlink(handle)
            if path.startswith(f"{folder}/") and path.endswith(suffix):
                return int(handle.parts[2])
    return 0


def test_a_driver_that_is_killed_loses_nothing_that_the_manifest_has(ray, films, plain, tmp_path):
    code = f"""
import sys, time
sys.path[:] = {sys.path!r}
from pathlib import Path
from conftest import make_encoder
from cuemark import extraction, feature_folder, fleet
feature_folder.SECONDS_BETWEEN_MANIFESTS = 0
encoder = make_encoder(0)
def slowly(*_):
    time.sleep(0.3)
encoder.network.register_forward_pre_hook(slowly)
videos = {{vid: Path(path) for vid, path in {({v: str(p) for v, p in films.items()})!r}.items()}}
fleet.extract(videos, encoder, {str(tmp_path)!r}, extraction.ExtractConfig(stride=4),
              address={ray.get_runtime_context().gcs_address!r})
"""
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, stdout=subprocess.PIPE)
    manifest, until = tmp_path / "features.json", time.monotonic() + 100
    try:  # a worker's file is there before the driver has entered it in the manifest
        while driver.poll() is None and time.monotonic() < until and not (
                manifest.exists() and json.loads(manifest.read_text())["videos"]):
            time.sleep(0.01)
    finally:
        driver.kill()
        said, _ = driver.communicate()
    assert said == b""
    there = json.loads(manifest.read_text())
    assert there["videos"]
    assert not there["complete"]
    result = fleet.extract(films, make_encoder(0), tmp_path, CONFIG, address="local")
    assert set(there["videos"]) <= set(result.skipped)
    assert len(result.skipped) + len(result.done) == 9
    assert result.done
    assert contents(tmp_path) == contents(plain)


# ---------------------------------------------------------------------------------------------- errors


def test_one_run_at_a_time(ray, films, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE", 0.1)
    with locked(tmp_path):
        with pytest.raises(CuemarkError, match="another run is at work"):
            fleet.extract(films, make_encoder(0), tmp_path, CONFIG, address="local")
        with pytest.raises(CuemarkError, match="another run is at work"):
            fleet.prepare(list(films.values()), tmp_path, address="local")


def test_features_of_another_encoder_are_refused_as_in_one_process(ray, films, plain):
    with pytest.raises(ModelError, match="holds features with encoder tiny 0"):
        fleet.extract(films, make_encoder(1), plain, CONFIG, address="local")


def test_a_machine_that_does_not_see_the_folder_stops_the_run(ray, films, tmp_path, monkeypatch):
    @contextmanager
    def elsewhere(out: Path) -> Iterator[tuple[str, str]]:
        yield str(tmp_path / "elsewhere" / "mark"), software()

    monkeypatch.setattr(fleet, "_announced", elsewhere)
    with pytest.raises(CuemarkError, match=r"does not see '.*elsewhere' as it is here; give a folder .* share\.$"):
        fleet.extract(films, make_encoder(0), tmp_path / "out", CONFIG, address="local")
    with pytest.raises(CuemarkError, match="does not see"):
        fleet.prepare(list(films.values()), tmp_path / "prepared", address="local")
    assert set(contents(tmp_path / "out")) == {folders.LOCK}


def test_a_machine_with_another_cuemark_stops_the_run(tmp_path):
    with fleet._announced(tmp_path) as (mark, version):
        fleet._met((mark, version))
        with pytest.raises(CuemarkError, match=r"this machine has cuemark 99; install the same"):
            fleet._met((mark, "cuemark 99"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_on_a_worker_is_what_it_is_here(ray, films, tmp_path):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); free some space"):
        fleet.extract(films, hooked(full), tmp_path, CONFIG, address="local")
    assert not list(tmp_path.glob("*.npy"))
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_ray_of_this_machine_that_does_not_start(ray, films, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)

    def fail(*_, **__):
        raise RuntimeError("no space left.\nand much more")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(CuemarkError, match=r"^a Ray of this machine alone cannot be started \(no space left\); free "
                                           r"some memory .* do without Ray: one process uses all cores too\.$"):
        fleet.extract(films, make_encoder(0), tmp_path, CONFIG, address="local")
    assert set(contents(tmp_path)) == {folders.LOCK}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_there(ray, films, tmp_path, monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(CuemarkError, match=rf"^Ray at '{address}' cannot be used \(.*\); check that .* use local\.$"):
        fleet.extract(films, make_encoder(0), tmp_path, CONFIG, address=address)


def test_ray_is_not_installed(films, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CallError, match=r'pip install "cuemark\[ray\]"\.$'):
        fleet.extract(films, make_encoder(0), tmp_path / "out", CONFIG, address="local")
    with pytest.raises(CallError, match=r'pip install "cuemark\[ray\]"\.$'):
        fleet.prepare(list(films.values()), tmp_path / "out", address="local")
    assert not (tmp_path / "out").exists()


def test_ray_is_imported_by_who_asks_for_it_only():
    code = f"import sys; sys.path[:] = {sys.path!r}; import cuemark.fleet; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------------------------------------- places and groups


def cluster(*machines: dict[str, float]) -> SimpleNamespace:
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": have} for have in machines])


def test_a_worker_takes_a_core_or_a_gpu_with_its_share_of_cores():
    assert fleet._place(cluster({"CPU": 4.0}), "auto") == {"CPU": 1}
    mixed = cluster({"CPU": 32.0}, {"CPU": 24.0, "GPU": 2.0}, {"CPU": 50.0, "GPU": 4.0})
    assert fleet._place(mixed, "auto") == fleet._place(mixed, "cuda") == {"CPU": 12, "GPU": 1}  # fits on both
    assert fleet._place(mixed, "cpu") == {"CPU": 1}
    assert fleet._place(cluster({"CPU": 2.0, "GPU": 4.0}), "auto") == {"CPU": 1, "GPU": 1}


def test_devices_a_cluster_cannot_give(ray, films, tmp_path):
    with pytest.raises(CallError, match="'cuda' is nowhere in the Ray cluster"):
        fleet.extract(films, make_encoder(0), tmp_path, CONFIG, address="local", device="cuda")
    with pytest.raises(CallError, match="'cuda:1' cannot be asked of a cluster"):
        fleet.extract(films, make_encoder(0), tmp_path, CONFIG, address="local", device="cuda:1")


def test_small_videos_share_a_task_and_large_ones_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "BYTES_OF_A_TASK", 10)
    sizes = {"a": 4, "b": 4, "c": 4, "d": 11, "e": 0, "f": 1, "g": 1, "h": 8, "absent": None}
    jobs = {vid: tmp_path / vid for vid in sizes}
    for vid, size in sizes.items():
        if size is not None:
            jobs[vid].write_bytes(bytes(size))

    def groups(shares: int) -> list[str]:
        return [" ".join(vid for vid, _ in group) for group in fleet._grouped(jobs, shares)]

    assert groups(1) == ["a b", "c", "d", "e f g h absent"]
    assert groups(2) == ["a b", "c", "d", "e f", "g", "h", "absent"]  # fewer and fewer, so that all end together
    assert groups(9) == list(sizes)
    assert dict(pair for group in fleet._grouped(jobs, 1) for pair in group) == {v: str(p) for v, p in jobs.items()}
    monkeypatch.setattr(fleet, "VIDEOS_OF_A_TASK", 3)
    assert groups(1) == ["a b", "c", "d", "e f g", "h absent"]
