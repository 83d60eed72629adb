"""Several processes train one model as one process does on the same batch, and go on after a kill.

Run as a program it is ``torchrun``: it forks the ranks of every scenario with torchrun's environment variables, so that
torch is imported once for all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cuemark import checkpoint, ranks, video
from cuemark.batch import ClipBatch
from cuemark.clips import ClipConfig, ClipSet
from cuemark.errors import CallError, CuemarkError
from cuemark.loop import Optim, fit
from cuemark.pretraining.clap import CLAP
from cuemark.pretraining.clap import Config as CLAPConfig
from cuemark.pretraining.data import ClipData
from cuemark.pretraining.tsp import TSP
from cuemark.pretraining.tsp import Config as TSPConfig
from cuemark.segments import Segment, Truth, VideoTruth
from cuemark.training import _accuracies

# ------------------------------------------------------------------------------------- what is trained

CLASSES = ("jump", "run", "swim")
B = 8


class Encoder(nn.Module):
    """Clips to 6 numbers, with a batch norm."""

    dim = 6

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv3d(3, 4, (2, 3, 3)), nn.BatchNorm3d(4)
        self.dropout, self.last = nn.Dropout(dropout), nn.Linear(16, 6)

    def forward(self, clips: Tensor) -> Tensor:
        x = F.adaptive_avg_pool3d(torch.tanh(self.norm(self.stem(clips))), (1, 2, 2))
        return torch.tanh(self.last(self.dropout(x.flatten(1))))


def make(name: str) -> Any:
    torch.manual_seed(0)
    if name.startswith("tsp"):
        return TSP(TSPConfig(), Encoder(), CLASSES)
    config = CLAPConfig(text_dim=5, projection=4, learn_temperature="learnt" in name, classify="no-cls" not in name)
    return CLAP(config, Encoder(0.3 if "dropout" in name else 0.0), CLASSES)


class Memory:
    """Batches that depend on the update alone; a rank has its own rows of each."""

    def __init__(self, tick: Callable[[int], None] = lambda step: None) -> None:
        self.tick = tick

    def __len__(self) -> int:
        return 4

    def at(self, step: int, rows: Sequence[int]) -> ClipBatch:
        draw = torch.Generator().manual_seed(step)
        label = torch.randint(-1, 3, (B,), generator=draw)
        told = torch.randint(0, 6, (B,), generator=draw)
        batch = ClipBatch(torch.randn(B, 3, 2, 4, 4, generator=draw), label, label >= 0,
                          torch.randn(B, 6, generator=draw), torch.randn(6, 5, generator=draw)[told], told)
        return replace(batch, **{k: v[list(rows)] for k, v in vars(batch).items()})

    def epoch(self, number: int, skip: int = 0) -> Iterator[ClipBatch]:
        for step in range(4 * number + skip, 4 * number + 4):
            self.tick(step)
            yield self.at(step, ranks.mine(range(B)))


FROZEN = Optim(lr=0.05, lr_heads=0.05, steps=5, frozen_statistics=True)
LEARNT = replace(FROZEN, name="adamw", lr=0.003, lr_heads=0.01)
TRAINED: dict[str, Optim] = {
    "clap": FROZEN, "clap, chunks": replace(FROZEN, chunk=1), "clap learnt": LEARNT,
    "clap learnt, chunks": replace(LEARNT, chunk=3), "clap no-cls": replace(FROZEN, clip_norm=1),
    "tsp": FROZEN, "tsp, chunks": replace(FROZEN, chunk=3), "clap, live": replace(FROZEN, frozen_statistics=False)}
KILLED = Optim(name="adamw", lr=0.01, lr_heads=0.01, steps=10, chunk=3, ema=0.5)
"""With live batch norms, dropout and an average."""


def score(model: nn.Module) -> dict[str, float]:
    batch = Memory().at(10**6, range(B))
    return {"score": -float(model.loss(model(batch), batch)["contrast"])}  # type: ignore[operator]


def killed(folder: Path, tick: Callable[[int], None] = lambda step: None) -> None:
    fit(make("clap dropout"), Memory(tick), KILLED, folder, seed=3, validate=score, validate_every=2, log_every=3,
        checkpoint_every=3)


# ------------------------------------------------------------------------------------- what it reads

TRUTH: Truth = {
    "a": VideoTruth(2.0, (Segment(0.4, 1.0, "run"), Segment(1.2, 1.8, "jump"))),
    "b": VideoTruth(1.0, (Segment(0.0, 1.0, "swim"),)),
}
CLIPS = 5 * 4
"""Of three actions and a background that is long enough."""


class Reader:
    """Stands in for a TextEncoder."""

    dim = 5

    def encode(self, sentences: Sequence[str]) -> Tensor:
        return torch.stack([torch.full((5,), float(sum(s.encode()) % 89)) for s in sentences])


def read(videos: Path, training: bool, workers: int = 0, batch: int = B) -> ClipData:
    clip = ClipConfig(frames=4, fps=10.0, short_side=20, crop=16)
    clips = ClipSet(TRUTH, {name: videos / f"{name}.mp4" for name in TRUTH}, clip, training=training)
    return ClipData(clips, CLASSES, batch, Reader(), workers=workers,  # type: ignore[arg-type]
                    global_features={name: np.full(6, k, np.float32) for k, name in enumerate(TRUTH)})


@dataclass
class Look:
    """A model that answers from the first pixel, and sees every clip by its bytes."""

    seen: list[str]

    def __call__(self, batch: ClipBatch) -> dict[str, Tensor]:
        self.seen += [hashlib.sha256(clip.numpy().tobytes()).hexdigest() for clip in batch.clips]
        return {"class": batch.clips[:, :, 0, 0, 0]}

    def accuracy(self, out: dict[str, Tensor], batch: ClipBatch) -> dict[str, tuple[int, int]]:
        known = batch.label >= 0
        right = int(((out["class"].argmax(1) == batch.label) & known).sum())
        return {"class": (right, int(known.sum())), "first": (int(batch.foreground[0]), 1)}


# ------------------------------------------------------------------------------------- the ranks


def crowd(count: int, work: Callable[[], None], err: Path | None = None) -> list[int]:
    """The statuses of ``count`` forked ranks that did ``work``; one alone has no environment of torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            if count > 1:
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
                               "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
            if err is not None:
                os.dup2(os.open(f"{err}.{rank}.err", os.O_CREAT | os.O_WRONLY), 2)
            try:
                with ranks.together("cpu"):
                    work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    return [os.waitpid(child, 0)[1] for child in children]


def everything(out: Path, videos: Path) -> None:
    """What every rank does beside each other, and what it leaves in ``out``."""
    mine = f"{ranks.count()}.{ranks.rank()}"
    told: dict[str, Any] = {"errors": {}, "valid": {}}
    for name, optim in TRAINED.items():
        if ranks.count() == 4 and "chunks" not in name:
            continue
        model = make(name)
        result = fit(model, Memory(), optim, out / "folders" / f"{name} {mine}", what=name)
        checkpoint.save(out / f"{name} {mine}.safetensors", model.state_dict(), {"losses": result.losses})
    for workers in (0, 2):
        for i, batch in enumerate(read(videos, training=True, workers=workers).epoch(1)):
            checkpoint.save(out / f"batch {workers} {i} {mine}.safetensors", {
                k: v for k, v in vars(batch).items() if v is not None}, {})
    look = Look([])
    told["scores"] = _accuracies(read(videos, training=False, batch=4), torch.device("cpu"))(look)  # type: ignore[arg-type]
    told["seen"] = look.seen
    tests: dict[str, Callable[[], Any]] = {
        "uneven": lambda: fit(make("tsp"), read(videos, training=True, batch=7), FROZEN,
                              out / f"uneven {mine}"),
        "other ranks": lambda: (ranks.wait(), fit(make("clap"), Memory(), FROZEN, out / "once")),
    }
    for name, test in tests.items():
        try:
            test()
        except CuemarkError as error:
            told["errors"][name] = [type(error).__name__, str(error)]
    (out / f"told {mine}.json").write_text(json.dumps(told))


def main(out: Path, videos: Path) -> None:
    torch.optim.SGD([torch.zeros(1)])  # its first use imports for seconds; this process must not run a backward pass
    torch.set_num_threads(1)
    os.fsync = lambda handle: None  # type: ignore[assignment]

    def life(step: int) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    for count in (1, 2, 4):  # the first makes out/once, which the others may not go on with
        assert crowd(count, lambda: everything(out, videos), out / f"{count}") == [0] * count, count
    assert crowd(2, lambda: killed(out / "whole")) == [0, 0]
    for at in (2, 5, 5, 9):
        assert crowd(2, lambda: killed(out / "killed", life)) == [signal.SIGKILL] * 2, at
    assert crowd(2, lambda: killed(out / "killed")) == [0, 0]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all the ranks left."""
    out, videos = tmp_path_factory.mktemp("ranks"), tmp_path_factory.mktemp("videos")
    for k, (name, truth) in enumerate(TRUTH.items()):
        images = np.random.default_rng(k).integers(0, 255, (int(10 * truth.duration), 24, 32, 3), np.uint8)
        video.write(videos / f"{name}.mp4", images, fps=10)
    plain = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run([sys.executable, __file__, str(out), str(videos)], capture_output=True, text=True,
                          timeout=300, env=plain | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr + "".join(p.read_text() for p in out.glob("*.err"))
    return out


def weights(out: Path, name: str, count: int, rank: int = 0) -> dict[str, Tensor]:
    return checkpoint.load(out / f"{name} {count}.{rank}.safetensors")[0]


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Distance of two models."""
    return sum(float((a[k] - b[k]).double().square().sum()) for k in a) ** 0.5


def told(out: Path, count: int) -> list[dict[str, Any]]:
    return [json.loads((out / f"told {count}.{rank}.json").read_text()) for rank in range(count)]


# ------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(("name", "count"), [
    (name, count) for name in TRAINED for count in (2, 4) if "live" not in name and (count == 2 or "chunks" in name)])
def test_more_ranks_reach_the_weights_of_one(out: Path, name: str, count: int):
    """With frozen statistics; after five updates, to rounding. Gathered negatives have gradients."""
    start, one, more = make(name).state_dict(), weights(out, name, 1), weights(out, name, count)
    assert apart(start, one) > 0.01
    assert apart(one, more) < 1e-5 * apart(start, one)
    losses = [checkpoint.load(out / f"{name} {n}.0.safetensors")[1]["losses"] for n in (1, count)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("name", [name for name in TRAINED if "chunks" in name])
def test_chunks_reach_the_weights_of_whole_batches(out: Path, name: str):
    for count in (1, 2):
        whole, chunks = weights(out, name.removesuffix(", chunks"), count), weights(out, name, count)
        assert apart(whole, chunks) < 1e-5 * apart(make(name).state_dict(), whole)


@pytest.mark.parametrize(("name", "count"), [(name, n) for name in TRAINED for n in (2, 4) if n == 2 or "chun" in name])
def test_all_ranks_have_the_same_weights(out: Path, name: str, count: int):
    first = weights(out, name, count)
    for rank in range(1, count):
        other = weights(out, name, count, rank)
        assert all(torch.equal(first[k], other[k]) for k in first)


def test_live_statistics_are_of_each_ranks_own_rows(out: Path):
    """What ``ranks`` says of batch norm: one process does not reach these weights. What is remembered is the mean."""
    one, two = weights(out, "clap, live", 1), weights(out, "clap, live", 2)
    start = make("clap").state_dict()
    key = "encoder.stem.weight"
    assert (one[key] - two[key]).norm() > 0.05 * (one[key] - start[key]).norm()
    assert int(one["encoder.norm.num_batches_tracked"]) == int(two["encoder.norm.num_batches_tracked"]) == 5
    assert not torch.equal(two["encoder.norm.running_mean"], start["encoder.norm.running_mean"])


# ------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_ranks_rows_make_the_batch_of_one_process(out: Path, workers: int, count: int):
    expected = sorted(out.glob("batch 0 ? 1.0.safetensors"))
    assert len(expected) == CLIPS // B == 2
    for i, path in enumerate(expected):
        alone = checkpoint.load(path)[0]
        parts = [checkpoint.load(out / f"batch {workers} {i} {count}.{rank}.safetensors")[0] for rank in range(count)]
        assert alone.keys() == {"clips", "label", "foreground", "text", "text_id", "global_feature"}
        assert {len(part["clips"]) for part in parts} == {B // count}
        for key, value in alone.items():
            assert torch.equal(torch.cat([part[key] for part in parts]), value), key


@pytest.mark.parametrize("count", [2, 4])
def test_validation_sees_every_clip_once(out: Path, count: int):
    (alone,), crowd = told(out, 1), told(out, count)
    assert len(alone["seen"]) == CLIPS
    assert sorted(clip for one in crowd for clip in one["seen"]) == sorted(alone["seen"])
    assert all(one["scores"] == alone["scores"] for one in crowd)
    assert 0 < alone["scores"]["class"] < 1


@pytest.mark.parametrize("count", [2, 4])
def test_an_uneven_batch_is_one_sentence(out: Path, count: int):
    for one in told(out, count):
        kind, message = one["errors"]["uneven"]
        assert kind == "CallError"
        assert message == f"a batch of 7 cannot be shared evenly by {count} processes; change optim.batch."
    assert "uneven" not in told(out, 1)[0]["errors"]


# ------------------------------------------------------------------------------------- one folder


@pytest.mark.parametrize("count", [2, 4])
def test_the_first_rank_alone_writes_and_speaks(out: Path, count: int):
    """Each rank was given a folder of its own."""
    for name in (name for name in TRAINED if count == 2 or "chunks" in name):
        assert sorted(os.listdir(out / "folders" / f"{name} {count}.0")) == ["last.safetensors", "log.jsonl"]
        assert not any((out / "folders" / f"{name} {count}.{rank}").exists() for rank in range(1, count))
        assert f"{name}: 5/5 loss" in (out / f"{count}.0.err").read_text()
    assert "loss" not in "".join((out / f"{count}.{rank}.err").read_text() for rank in range(1, count))


@pytest.mark.parametrize("count", [2, 4])
def test_another_number_of_ranks_does_not_go_on(out: Path, count: int):
    for one in told(out, count):
        kind, message = one["errors"]["other ranks"]
        assert kind == "ModelError"
        assert f"holds a run with other settings (ranks was 1, is {count}); give another folder" in message
        assert "\n" not in message
    assert "other ranks" not in told(out, 1)[0]["errors"]


def test_killed_ranks_end_like_undisturbed_ones(out: Path):
    for name in ("last.safetensors", "best.safetensors"):
        assert (out / "killed" / name).read_bytes() == (out / "whole" / name).read_bytes()
    timing = {"per_second", "data_wait", "memory_mb"}
    logs = [[{k: v for k, v in json.loads(line).items() if k not in timing}
             for line in (out / folder / "log.jsonl").read_text().splitlines()] for folder in ("killed", "whole")]
    assert logs[0] == logs[1]
    assert sorted(os.listdir(out / "killed")) == ["best.safetensors", "last.safetensors", "log.jsonl"]


# ------------------------------------------------------------------------------------- alone


def test_alone_everything_is_the_identity(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ranks.together("cpu") as device:
        assert (device, ranks.rank(), ranks.count()) == (torch.device("cpu"), 0, 1)
    rows = torch.randn(3, 2, requires_grad=True)
    assert ranks.gathered(rows) is rows
    assert ranks.mine([1, 2, 3]) == [1, 2, 3]
    counts = {"class": np.array([1.0, 2.0])}
    assert ranks.summed(counts) == counts
    before = rows.detach().clone()
    ranks.average([rows])
    ranks.wait()
    assert torch.equal(rows, before)


def test_rows_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranks, "count", lambda: 3)
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    assert ranks.mine(list(range(6))) == [2, 3]
    with pytest.raises(CallError, match=r"a batch of 8 cannot be shared evenly by 3 processes; change optim\.batch\."):
        ranks.mine(range(8))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
