"""Preparation and extraction on many machines, with Ray: the same folders, with the same bytes.

Dataflow::

    driver: the folder's lock and its manifest, what is missing -> tasks, a few for each place in the cluster
         -> Ray: where and when each runs, and again where its process or its machine died
         -> worker: reads videos, writes each result aside in the shared folder and renames it -> entries
         -> driver: entries to the manifest

The manifest is all the state there is, and the driver alone writes it. So a worker may die at any moment, and so may
the driver: what is in the manifest stays, the rest is done again by the next run, with the same bytes.

Work is Ray *tasks*, not actors. Ray retries a task wherever there is room, uses machines that join in the middle, and
gives the places of lost ones to nobody; a pool of actors has a size of its own that somebody must mend. What actors
would keep, the encoder, a worker's process keeps too: Ray uses a process for many tasks, and the first one that needs
the encoder takes it from Ray's object store. A task extracts one video, or several small ones, so that their clips fill
whole batches; when a task kills each process that tries it, its videos are tried one by one, and one that still does is
left out like any other broken video.

All machines must see the videos and the output folder under the same paths (NFS or its like, with locks), and have the
same cuemark. A video that a machine does not see is reported as missing. The encoder's file is needed by the driver
only.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, TypeVar

from cuemark import extraction, preparation
from cuemark.checkpoint import software
from cuemark.encoders.backends import Run
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, CuemarkError, VideoError
from cuemark.extraction import ExtractConfig, Extraction, Outcomes
from cuemark.folders import sweep
from cuemark.preparation import Answers, Job, Preparation

Group = TypeVar("Group", bound=Sequence[Any])

RETRIES = 3
"""How often Ray runs a task again whose process or machine died."""
AHEAD = 2
"""Tasks submitted for each place in the cluster: none waits for the driver, and an autoscaler sees there is more."""
VIDEOS_OF_A_TASK, BYTES_OF_A_TASK = 8, 32 << 20
"""At most so many small videos are one task; a larger one is a task alone."""
TASKS_OF_A_PLACE = 2
"""What is left at any time is at least so many tasks for each place, so that all places end at about one time."""
PATIENCE = 5.0
"""Seconds for a connection, and between two looks at how large the cluster is."""


def extract(videos: Mapping[str, str | Path], encoder: VideoEncoder, out: str | Path,
            config: ExtractConfig | None = None, *, address: str, device: str = "auto") -> Extraction:
    """:func:`cuemark.extraction.extract` on Ray: the same folder, results and errors.

    Each worker takes a core and encodes on one thread, or a GPU with its share of its machine's cores to decode.

    Args:
        address: of a Ray cluster (``"auto"``, ``"host:port"``, ``"ray://host:port"``); ``"local"``: a Ray of this
            machine alone, which ends with the call. A Ray that this program is connected to already is used as it is.
        device: ``"cpu"``; ``"cuda"``: Ray gives each worker a GPU; ``"auto"``: the same, where the cluster has any.

    Raises:
        CallError: Ray is not installed, or an impossible ``device``.
        CuemarkError: the cluster cannot be reached, or broke down; or one of its machines has another cuemark, or
            does not see ``out``.
    """
    ray, out, config = _ray(), Path(out), config or ExtractConfig()
    if device not in ("auto", "cpu", "cuda"):
        raise CallError(f"device '{device}' cannot be asked of a cluster; use auto, cpu or cuda: Ray chooses one.")

    def work(jobs: Mapping[str, Path]) -> Outcomes:
        if not jobs:
            return
        with _connected(ray, address), _announced(out) as token:
            place = _place(ray, device)
            kind = "cuda" if "GPU" in place else "cpu"
            packed = [ray.put(encoder)]  # in a list, it is fetched by who needs it, not with every task
            task = _task(ray, _extract, place)

            def start(group: Sequence[tuple[str, str]]) -> Any:
                return task.remote(token, packed, config, kind, int(place["CPU"]), os.path.abspath(out), group)

            groups = _grouped(jobs, TASKS_OF_A_PLACE * max(1, _places(ray, place)))
            with closing(_settled(ray, start, groups, place)) as settled:
                for group, answers in settled:
                    for vid, full in group:
                        outcome = _died(jobs[vid]) if answers is None else answers[vid]
                        # as they were given, not as the machines of the cluster know them
                        yield vid, (outcome if isinstance(outcome, dict) else
                                    VideoError(outcome.replace(full, str(jobs[vid]))))

    return extraction.fill(videos, encoder, out, config, work)


def prepare(videos: Sequence[str | Path], out: str | Path, *, address: str, fps: float = 30,
            short_side: int | None = 128, enlarge: bool = False, keyframe_every: int = 16, audio: bool = False,
            quality: int = 23) -> Preparation:
    """:func:`cuemark.preparation.prepare` on Ray, a core for each video: the same folder, results and errors.

    Args:
        address: see :func:`extract`.

    Raises:
        CallError: Ray is not installed.
        CuemarkError: see :func:`extract`.
    """
    ray, out = _ray(), Path(out)

    def work(jobs: Mapping[str, Job], lock: int) -> Answers:
        if not jobs:
            return
        with _connected(ray, address), _announced(out) as token:
            place = {"CPU": 1.0}
            task = _task(ray, _prepare, place)

            def start(group: Sequence[str]) -> Any:
                job = jobs[group[0]]
                return task.remote(token, {**job, **{key: os.path.abspath(job[key]) for key in ("source", "target")}})

            with closing(_settled(ray, start, ([stem] for stem in jobs), place)) as settled:
                for (stem,), answer in settled:
                    yield stem, answer or {"broken": _died(Path(Path(jobs[stem]["source"]).name))}

    return preparation.fill(videos, out, work, fps=fps, short_side=short_side, enlarge=enlarge,
                            keyframe_every=keyframe_every, audio=audio, quality=quality)


# ---------------------------------------------------------------------------------------------- workers


def _extract(token: tuple[str, str], packed: Sequence[Any], config: ExtractConfig, device: str, cores: int, out: str,
             group: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any] | str]:
    """A task: id -> what the manifest says of it, or why it could not be read."""
    _met(token)
    encoder, run = _at_hand(packed[0], config, device)
    jobs = {vid: Path(path) for vid, path in group}
    with closing(extraction.extracted(jobs, encoder, Path(out), config, cores, device, run)) as outcomes:
        return {vid: str(outcome) if isinstance(outcome, CuemarkError) else outcome for vid, outcome in outcomes}


def _prepare(token: tuple[str, str], job: Job) -> dict[str, Any]:
    """A task: see :func:`cuemark.preparation.attempt`."""
    _met(token)
    return preparation.attempt(job)


@lru_cache(maxsize=1)
def _at_hand(packed: Any, config: ExtractConfig, device: str) -> tuple[VideoEncoder, Run]:
    """The encoder of a run, and its network made ready: once in each process, on its first task."""
    encoder = _ray().get(packed)
    return encoder, extraction.runner(encoder, config, device)


@contextmanager
def _announced(out: Path) -> Iterator[tuple[str, str]]:
    """A file that every machine must see beside what it writes; and what it must have installed.

    The next run sweeps the file away, so a task that outlives its driver ends before it has begun.
    """
    mark = out / f".{uuid.uuid4().hex[:12]}.fleet.tmp"
    mark.touch()
    try:
        yield os.path.abspath(mark), software()
    finally:
        sweep(out)  # with what killed workers have left


def _met(token: tuple[str, str]) -> None:
    mark, version = token
    if software() != version:
        raise CuemarkError(f"'{platform.node()}' has {software()}, and this machine has {version}; install the same on "
                           "all machines of the cluster.")
    if not os.path.exists(mark):
        raise CuemarkError(f"'{platform.node()}' does not see '{os.path.dirname(mark)}' as it is here; give a folder "
                           "with --out that all machines of the cluster share.")


# ---------------------------------------------------------------------------------------------- driver


def _grouped(jobs: Mapping[str, Path], shares: int) -> Iterator[list[tuple[str, str]]]:
    """Videos of one task each, ids and full paths: of what is left, at most one share of so many."""
    group: list[tuple[str, str]] = []
    most = total = 0
    for number, (vid, path) in enumerate(jobs.items()):
        size = path.stat().st_size if path.is_file() else 0
        if group and (len(group) >= most or total + size > BYTES_OF_A_TASK):
            yield group
            group, total = [], 0
        if not group:
            most = min(VIDEOS_OF_A_TASK, (len(jobs) - number) // shares)
        group.append((vid, os.path.abspath(path)))
        total += size
    yield group


def _settled(ray: ModuleType, start: Callable[[Group], Any], groups: Iterable[Group], place: Mapping[str, float]
             ) -> Generator[tuple[Group, Any], None, None]:
    """Each group with its task's answer; None for one whose every process died. Closing it ends all tasks.

    Raises:
        CuemarkError, OSError: what a task raised.
    """
    errors = ray.exceptions
    rest = iter(groups)
    apart: deque[Any] = deque()  # of groups that died, each video alone
    flying: dict[Any, Group] = {}
    try:
        while True:
            while len(flying) < AHEAD * max(1, _places(ray, place)):
                group = apart.popleft() if apart else next(rest, None)
                if group is None:
                    break
                flying[start(group)] = group
            if not flying:
                return
            ray.wait(list(flying), timeout=PATIENCE)
            ready, _ = ray.wait(list(flying), num_returns=len(flying), timeout=0)
            for ref in ready:
                group = flying.pop(ref)
                try:
                    answer = ray.get(ref)
                except errors.RayTaskError as error:
                    if isinstance(error.cause, CuemarkError | OSError):
                        raise error.cause from None
                    raise
                except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError,
                        errors.ObjectLostError):
                    if len(group) > 1:
                        apart.extend([one] for one in group)
                        continue
                    answer = None
                yield group, answer
    finally:
        for ref in flying:
            ray.cancel(ref, force=True)
        if flying:  # so that none writes after this
            ray.wait(list(flying), num_returns=len(flying), timeout=PATIENCE)


def _died(path: Path) -> str:
    return (f"video '{path}' cannot be read: all {RETRIES + 1} processes that tried have died (crashed, out of memory, "
            "or with their machines); run the same again, or re-encode it with another program.")


def _task(ray: ModuleType, work: Callable[..., Any], place: Mapping[str, float]) -> Any:
    gpus = {"num_gpus": place["GPU"]} if "GPU" in place else {}
    return ray.remote(num_cpus=place["CPU"], max_retries=RETRIES, **gpus)(work)


def _place(ray: ModuleType, device: str) -> dict[str, float]:
    """What one worker takes, in Ray's resources.

    Raises:
        CallError: GPUs are asked of a cluster that has none.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    if device == "cpu" or (device == "auto" and not machines):
        return {"CPU": 1.0}
    if not machines:
        raise CallError("device 'cuda' is nowhere in the Ray cluster; use cpu, or add machines with GPUs.")
    return {"CPU": max(1.0, min(have.get("CPU", 0) // have["GPU"] for have in machines)), "GPU": 1.0}


def _places(ray: ModuleType, place: Mapping[str, float]) -> int:
    """How many workers there is room for, now."""
    have = ray.cluster_resources()
    return int(min(have.get(kind, 0) // amount for kind, amount in place.items()))


# ---------------------------------------------------------------------------------------------- Ray


def _ray() -> ModuleType:
    try:
        return import_module("ray")
    except ImportError:
        raise CallError('work on a cluster needs ray; pip install "cuemark[ray]".') from None


@contextmanager
def _connected(ray: ModuleType, address: str) -> Iterator[None]:
    """A connection to Ray, which ends with the block; one that is there already is taken, and stays."""
    with ExitStack() as stack:
        if not ray.is_initialized():
            try:
                if address == "local":
                    # not in Ray's usual folder: nothing is left, and no other program's "auto" finds this Ray
                    folder = stack.enter_context(TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True))
                    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                    options = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False,
                               "_temp_dir": folder}
                else:
                    _reach(address)
                    options = {}
                stack.callback(ray.shutdown)
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
            except Exception as error:  # Ray's own, of gRPC, of the system
                reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
                raise CuemarkError(
                    f"a Ray of this machine alone cannot be started ({reason}); free some memory and space for "
                    "temporary files, or do without Ray: one process uses all cores too." if address == "local" else
                    f"Ray at '{address}' cannot be used ({reason}); check that it runs, with the same Ray and Python "
                    "as here, or use local.") from None
        try:
            yield
        except ray.exceptions.RayTaskError:
            raise  # a bug, with the worker's traceback
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise CuemarkError(f"the Ray cluster at '{address}' broke down ({reason}); run the same again when it is "
                               "mended: it goes on with what is missing.") from None


def _reach(address: str) -> None:
    """Ray waits two minutes for a machine that is not there, and says so in many lines; the system knows at once.

    Raises:
        OSError: nobody listens at ``host:port``.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), PATIENCE).close()
