"""The training loop: killed runs end as undisturbed ones, garbage is skipped, schedules and groups are as written.

Run as a program it is the killer: it forks runs of every scenario, kills them with SIGKILL and starts them again.
"""

from __future__ import annotations

import errno
import json
import math
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cuemark import checkpoint, loop
from cuemark.batch import ClipBatch
from cuemark.encoders.resnet3d import Config as ResNetConfig
from cuemark.encoders.resnet3d import ResNet3D
from cuemark.errors import CallError, DataError, ModelError
from cuemark.loop import ENOUGH, WINDOW, Optim, Result, fit, gradients, sane, still
from cuemark.pretraining import clap, tac, tsp

torch.set_num_threads(1)

TIMING = {"per_second", "data_wait", "memory_mb"}
PLAIN = Optim(name="sgd", lr=0.05, lr_heads=0.05, momentum=0.0, weight_decay=0.0, steps=12)


# ------------------------------------------------------------------------------------- the toy


@dataclass
class Rows:
    features: Tensor
    target: Tensor
    spoil: float = 1.0
    """What the gradients of this batch are multiplied by; its loss stays ordinary."""

    def to(self, device: torch.device | str) -> Rows:
        return replace(self, features=self.features.to(device), target=self.target.to(device))


class Toy(nn.Module):
    """An encoder of two layers and a head; it remembers what it was at each training step."""

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.encoder = nn.ModuleDict({"stem": nn.Linear(6, 8), "body": nn.Linear(8, 8)})
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 1)
        self.past: list[dict[str, Tensor]] = []
        self.kinds: set[torch.dtype] = set()

    def forward(self, batch: Rows) -> dict[str, Tensor]:
        if self.training:
            self.past.append({k: v.clone() for k, v in self.state_dict().items()})
        x = self.encoder["body"](torch.tanh(self.encoder["stem"](batch.features)))
        y = self.head(self.dropout(torch.tanh(self.norm(x))))
        self.kinds.add(y.dtype)
        return {"y": y[:, 0]}

    def loss(self, out: dict[str, Tensor], batch: Rows) -> dict[str, Tensor]:
        y = out["y"]
        if y.requires_grad and batch.spoil != 1:
            y.register_hook(lambda gradient: gradient * batch.spoil)
        return {"fit": (y - batch.target).square().mean(), "size": 0.1 * y.square().mean()}


class Ones(nn.Module):
    """Every gradient is one, or what the batch is spoiled by: an update without momentum is the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 1, bias=False).double()
        self.head = nn.Linear(1, 1, bias=False).double()
        nn.init.zeros_(self.encoder.weight)
        nn.init.zeros_(self.head.weight)
        self.past: list[tuple[float, float]] = []

    def now(self) -> tuple[float, float]:
        return self.encoder.weight.item(), self.head.weight.item()

    def forward(self, batch: Rows) -> dict[str, Tensor]:
        self.past.append(self.now())
        return {"sum": self.encoder.weight.sum() + self.head.weight.sum()}

    def loss(self, out: dict[str, Tensor], batch: Rows) -> dict[str, Tensor]:
        out["sum"].register_hook(lambda gradient: gradient * batch.spoil)
        return out


class Data:
    """Batches that depend on (epoch, number) alone; ``spoil`` says which updates get which garbage."""

    def __init__(self, batches: int = 5, spoil: dict[int, float] | None = None,
                 tick: Callable[[int], None] = lambda step: None) -> None:
        self.batches, self.spoil, self.tick = batches, spoil or {}, tick

    def __len__(self) -> int:
        return self.batches

    def at(self, step: int) -> Rows:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 6, generator=generator)
        return Rows(x, x[:, 0] - x[:, 1], self.spoil.get(step, 1.0))

    def epoch(self, number: int, skip: int = 0) -> Iterator[Rows]:
        for step in range(number * self.batches + skip, (number + 1) * self.batches):
            self.tick(step)
            yield self.at(step)


class Broken(Data):
    """One batch whose clips are garbage: so are its loss, and what batch norm sees of it."""

    def __init__(self, broken: int, **how: Any) -> None:
        super().__init__(**how)
        self.broken = broken

    def at(self, step: int) -> Rows:
        rows = super().at(step)
        return replace(rows, features=rows.features * math.nan) if step == self.broken else rows


def error_of(model: nn.Module) -> dict[str, float]:
    with torch.no_grad():
        batch = Data().at(10**6)
        return {"score": -float((model(batch)["y"] - batch.target).square().mean())}


def log_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMING} for line in lines]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here outlives the machine; the killer's runs do wait, and are killed while they do."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# ------------------------------------------------------------------------------------- killed

VALIDATED = {"validate": error_of, "validate_every": 4}
SCENARIOS: dict[str, tuple[Optim, dict[str, Any], dict[str, Any]]] = {  # optim, of the model, of fit
    "sgd": (Optim(name="sgd", lr=0.02, lr_heads=0.05, momentum=0.9, steps=60, warmup=0.2, cosine=True), {}, {}),
    "sgd, best, batch norm": (Optim(name="sgd", lr=0.01, lr_heads=0.03, momentum=0.9, steps=60), {"norm": True},
                              VALIDATED),
    "adam, dropout": (Optim(name="adam", lr=0.01, lr_heads=0.02, steps=60, decay_at=(0.5,)), {"dropout": 0.4}, {}),
    "adamw, dropout, best, garbage": (Optim(name="adamw", lr=0.01, lr_heads=0.05, epochs=12, clip_norm=1.0),
                                      {"dropout": 0.4, "norm": True}, VALIDATED),
}
GARBAGE = {3: math.nan, 14: math.inf, 17: 1e6, 31: math.nan, 44: -1e6}


def perform(name: str, folder: Path, tick: Callable[[int], None] = lambda step: None) -> tuple[Toy, Result]:
    optim, of_model, of_fit = SCENARIOS[name]
    model, data = Toy(**of_model), Data(spoil=GARBAGE if "garbage" in name else None, tick=tick)
    return model, fit(model, data, optim, folder, seed=3, log_every=3, checkpoint_every=3, **of_fit)


LIVES = ["before", "time", "after", "time", "time", "before", "time", "end"]


def killer(out: Path) -> None:
    """Fork runs, kill each a while after it has begun some updates, or just before or after one of its renames."""
    torch.optim.SGD([torch.zeros(1)])  # its first use imports for seconds; this process must not run a backward pass
    moments = random.Random(0)
    report: dict[str, list[str]] = {name: [] for name in SCENARIOS}
    for name in SCENARIOS:
        for how in LIVES:
            listen, tell = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(listen)
                if how in ("before", "after"):
                    _fatal_rename(how, moments.randint(1, 4))
                model, _ = perform(name, out / name, lambda step: (os.write(tell, b"."), None)[1])  # noqa: B023
                checkpoint.save(out / name / "final.safetensors", model.state_dict(), {})
                os._exit(0)
            os.close(tell)
            if how == "time":
                for _ in range(moments.randint(1, 6)):
                    os.read(listen, 1)
                time.sleep(moments.uniform(0, 0.004))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            os.close(listen)
            if os.WIFSIGNALED(status):
                report[name].append(how)
            else:
                assert os.WEXITSTATUS(status) == 0, f"{name}: a run failed by itself"
                break
    print(json.dumps(report))


def _fatal_rename(how: str, number: int) -> None:
    rename, left = os.replace, [number]

    def replace_and_die(*paths: Any) -> None:
        left[0] -= 1
        if how == "after" or left[0]:
            rename(*paths)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_and_die  # type: ignore[assignment]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    out = tmp_path_factory.mktemp("killed")
    done = subprocess.run([sys.executable, __file__, str(out)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_killed_run_ends_like_an_undisturbed_one(killed, tmp_path: Path, name: str):
    out, report = killed
    assert report[name][:3] == LIVES[:3], "it was hardly killed at all"
    model, result = perform(name, tmp_path)
    assert result.skipped == (len(GARBAGE) if "garbage" in name else 0)
    assert same(model.state_dict(), checkpoint.load(out / name / "final.safetensors")[0])
    assert (tmp_path / "last.safetensors").read_bytes() == (out / name / "last.safetensors").read_bytes()
    if "best" in name:
        assert (tmp_path / "best.safetensors").read_bytes() == (out / name / "best.safetensors").read_bytes()
        assert result.best is not None
        assert 4 <= result.best["step"] <= 60
    assert log_of(tmp_path) == log_of(out / name)
    assert len(log_of(tmp_path)) == 20 + (15 if "best" in name else 0)


def test_killed_runs_leave_nothing_behind(killed):
    """A kill inside a save leaves the save's temporary file, as large as the run's state; the next life removes it."""
    for name in SCENARIOS:
        best = ["best.safetensors"] if "best" in name else []
        assert sorted(os.listdir(killed[0] / name)) == [*best, "final.safetensors", "last.safetensors", "log.jsonl"]


def test_only_its_own_leftovers_are_removed(tmp_path: Path):
    for name in (".last.safetensors.k3_x.tmp", ".best.safetensors.a.tmp", ".log.jsonl.b.tmp", "notes.tmp", ".notes",
                 ".features.npz.c.tmp", "old.safetensors"):
        (tmp_path / name).write_bytes(b"half")
    fit(Toy(), Data(), PLAIN, tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        ".features.npz.c.tmp", ".notes", "last.safetensors", "log.jsonl", "notes.tmp", "old.safetensors"]


class Stop(Exception):
    pass


@pytest.mark.parametrize(("log_every", "checkpoint_every"), [(2, 4), (1, 3), (5, 3), (4, 1)])
def test_wherever_it_is_stopped_the_log_is_the_same(tmp_path: Path, log_every: int, checkpoint_every: int):
    for part, (folder, _, result, expected) in _stopped(tmp_path, log_every, checkpoint_every):
        assert log_of(folder) == log_of(part)
        assert result.losses == expected.losses


@pytest.mark.parametrize(("log_every", "checkpoint_every"), [(1, 1), (5, 3)])
def test_wherever_it_is_stopped_the_weights_are_the_same(tmp_path: Path, log_every: int, checkpoint_every: int):
    whole = Toy(dropout=0.3, norm=True)
    fit(whole, Data(), replace(PLAIN, momentum=0.9), tmp_path / "other", validate=error_of, validate_every=3)
    for at, (_, (_, model, result, expected)) in enumerate(_stopped(tmp_path, log_every, checkpoint_every)):
        assert same(model.state_dict(), whole.state_dict())
        assert len(model.past) == 12 - at // checkpoint_every * checkpoint_every
        assert (result.steps, result.best, result.skipped) == (12, expected.best, 0)


def _stopped(tmp_path: Path, log_every: int, checkpoint_every: int
             ) -> Iterator[tuple[Path, tuple[Path, Toy, Result, Result]]]:
    """Runs that were stopped before each of their updates and started again, beside an undisturbed one."""
    how: dict[str, Any] = {"optim": replace(PLAIN, momentum=0.9), "log_every": log_every, "validate": error_of,
                           "checkpoint_every": checkpoint_every, "validate_every": 3}
    expected = fit(Toy(dropout=0.3, norm=True), Data(), folder=tmp_path / "whole", **how)

    def stop(step: int) -> None:
        if step == at:
            raise Stop

    for at in range(12):
        folder = tmp_path / str(at)
        with pytest.raises(Stop):
            fit(Toy(dropout=0.3, norm=True), Data(tick=stop), folder=folder, **how)
        model = Toy(dropout=0.3, norm=True)
        result = fit(model, Data(), folder=folder, **how)
        yield tmp_path / "whole", (folder, model, result, expected)


def test_a_loss_of_nan_survives_a_stop_too(tmp_path: Path):
    """It is in the sums of an unfinished interval when the checkpoint is written."""
    how: dict[str, Any] = {"optim": PLAIN, "log_every": 4, "checkpoint_every": 1}
    fit(Toy(norm=True), Broken(5), folder=tmp_path / "whole", **how)

    def stop(step: int) -> None:
        if step == 7:
            raise Stop

    with pytest.raises(Stop):
        fit(Toy(norm=True), Broken(5, tick=stop), folder=tmp_path / "part", **how)
    fit(Toy(norm=True), Broken(5), folder=tmp_path / "part", **how)
    assert log_of(tmp_path / "part") == log_of(tmp_path / "whole")
    assert [line["loss"] is None for line in log_of(tmp_path / "whole")] == [False, True, False]


def test_a_finished_run_is_not_trained_again(tmp_path: Path):
    first = Toy()
    done = fit(first, Data(), PLAIN, tmp_path, validate=error_of)
    content = {name: (tmp_path / name).read_bytes() for name in sorted(os.listdir(tmp_path))}
    second = Toy()
    again = fit(second, Data(), PLAIN, tmp_path, validate=error_of)
    assert second.past == []
    assert same(first.state_dict(), second.state_dict())
    assert (again.steps, again.best, again.skipped) == (done.steps, done.best, done.skipped)
    assert content == {name: (tmp_path / name).read_bytes() for name in sorted(os.listdir(tmp_path))}


def test_seeds_matter_to_a_model_that_draws(tmp_path: Path):
    ends = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        model = Toy(dropout=0.5)
        fit(model, Data(), PLAIN, tmp_path / folder, seed=seed)
        ends.append(model.state_dict())
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


# ------------------------------------------------------------------------------------- against the obvious


@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_it_is_the_obvious_loop(tmp_path: Path, name: str, clip_norm: float | None):
    """Garbage leaves no trace: neither in the weights nor in momentum."""
    spoil = {1: math.nan, 7: -math.inf, 16: 1e6, 17: math.nan, 23: -1e6}
    optim = Optim(name=name, lr=0.01, lr_heads=0.03, momentum=0.8, weight_decay=0.02,  # type: ignore[arg-type]
                  epochs=5.6, clip_norm=clip_norm, warmup=0.25, decay_at=(0.5, 0.75), gamma=0.2)
    steps = 28
    model = Toy()
    result = fit(model, Data(spoil=spoil), optim, tmp_path, log_every=1)

    mine = Toy()
    groups = [{"params": list(mine.encoder.parameters())}, {"params": list(mine.head.parameters())}]
    optimiser: torch.optim.Optimizer
    if name == "sgd":
        optimiser = torch.optim.SGD(groups, lr=1.0, momentum=0.8, weight_decay=0.02)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
        optimiser = kind(groups, lr=1.0, weight_decay=0.02)
    data, mine_rates = Data(), []
    for step in range(steps):
        done = step / steps
        share = 1e-5 + (1 - 1e-5) * done / 0.25 if done < 0.25 else 0.2 ** ((done >= 0.5) + (done >= 0.75))
        mine_rates.append(0.01 * share)
        if step in spoil:
            continue
        optimiser.param_groups[0]["lr"], optimiser.param_groups[1]["lr"] = 0.01 * share, 0.03 * share
        batch = data.at(step)
        optimiser.zero_grad()
        sum(mine.loss(mine(batch), batch).values()).backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(mine.parameters(), clip_norm)
        optimiser.step()
    for key, value in mine.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    assert (result.steps, result.skipped) == (steps, len(spoil))
    assert [line["lr"] for line in log_of(tmp_path)] == pytest.approx(mine_rates, rel=1e-12)


# ------------------------------------------------------------------------------------- the guard


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e6, -1e6])
def test_garbage_is_skipped_counted_logged_and_told(tmp_path: Path, capsys, garbage: float):
    model = Toy()
    result = fit(model, Data(spoil={12: garbage, 20: garbage}), replace(PLAIN, steps=30), tmp_path, log_every=1)
    assert result.skipped == 2
    unchanged = [same(a, b) for a, b in zip(model.past, [*model.past[1:], dict(model.state_dict())])]
    assert [step for step in range(30) if unchanged[step]] == [12, 20]
    assert [line["skipped"] for line in log_of(tmp_path)] == [0] * 12 + [1] * 8 + [2] * 10
    assert "2 of 30 updates were skipped" in capsys.readouterr().err


def test_a_batch_of_garbage_spoils_no_statistics(tmp_path: Path):
    """Batch norm has averaged over it before its gradients are known."""
    model = Toy(norm=True)
    assert fit(model, Broken(12), replace(PLAIN, steps=20), tmp_path).skipped == 1
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert same(model.past[12], model.past[13])  # running mean, variance and count included
    assert int(model.state_dict()["norm.num_batches_tracked"]) == 19
    assert not torch.equal(model.past[13]["norm.running_mean"], model.past[14]["norm.running_mean"])


def test_finite_garbage_spoils_no_statistics(tmp_path: Path):
    model = Toy(norm=True)
    fit(model, Data(spoil={12: 1e6}), replace(PLAIN, steps=20), tmp_path)
    assert same(model.past[12], model.past[13])


@pytest.mark.parametrize(("factor", "guard", "skipped"), [
    (1.0, 30.0, 0), (3.0, 30.0, 0), (-29.0, 30.0, 0), (31.0, 30.0, 15), (4.9, 5.0, 0), (5.1, 5.0, 15)])
def test_ordinary_growth_is_not_garbage(tmp_path: Path, capsys, factor: float, guard: float, skipped: int):
    """Here all at once, and for good."""
    model = Ones()
    data = Data(spoil=dict.fromkeys(range(15, 30), factor))
    assert fit(model, data, replace(PLAIN, steps=30, guard=guard), tmp_path).skipped == skipped
    assert len({*model.past, model.now()}) == 31 - skipped
    assert ("updates were skipped" in capsys.readouterr().err) == (skipped > 0)


@pytest.mark.parametrize(("at", "skipped"), [(ENOUGH - 1, 0), (ENOUGH, 1)])
def test_the_first_norms_are_not_compared(tmp_path: Path, at: int, skipped: int):
    """There is nothing yet to compare with."""
    assert fit(Ones(), Data(spoil={at: 1e6}), replace(PLAIN, steps=20), tmp_path).skipped == skipped


def test_sane_compares_with_the_running_median():
    generator = random.Random(0)
    history: list[float] = []
    finite: list[float] = []
    for _ in range(3 * WINDOW):
        norm = generator.choice([generator.lognormvariate(0, 1.5), math.nan, math.inf])
        expected = math.isfinite(norm) and (len(finite) < ENOUGH or norm <= 4 * statistics.median(finite[-WINDOW:]))
        assert sane(norm, history, 4.0) == expected
        if math.isfinite(norm):
            finite.append(norm)
        assert history == finite[-WINDOW:]


@pytest.mark.parametrize("rise", [0.01, 0.05])
def test_steady_growth_over_hundreds_of_steps_is_followed(rise: float):
    history: list[float] = []
    assert all(sane((1 + rise) ** step, history, 30.0) for step in range(300))


def test_a_new_level_is_accepted_in_the_end():
    history = [1.0] * WINDOW
    refused = [sane(1000.0, history, 30.0) for _ in range(WINDOW)].count(False)
    assert 0 < refused <= WINDOW // 2 + 1


def test_quiet_batches_do_not_lock_the_others_out():
    """A batch without anything to learn from has gradients of zero; most batches may be like that."""
    history: list[float] = []
    assert all(sane(1.0 if step % 3 == 0 else 0.0, history, 30.0) for step in range(60))


def test_a_median_of_zero_still_refuses_what_is_not_finite():
    history = [0.0] * WINDOW
    assert [sane(norm, history, 30.0) for norm in (math.nan, math.inf, 1e30)] == [False, False, True]


@pytest.mark.parametrize("steps", [60, 300, 12, 1])
def test_nothing_but_garbage_is_an_error(tmp_path: Path, steps: int):
    with pytest.raises(ModelError, match=r"of \d+ updates had unusable gradients; lower the learning rate"):
        fit(Toy(), Data(spoil=dict.fromkeys(range(steps), math.nan)), replace(PLAIN, steps=steps), tmp_path)


@pytest.mark.parametrize(("garbage", "enough"), [(6, True), (7, False), (12, False)])
def test_more_than_half_of_all_updates_garbage_is_an_error(tmp_path: Path, garbage: int, enough: bool):
    data = Data(spoil=dict.fromkeys(range(12 - garbage, 12), math.nan))
    if enough:
        assert fit(Toy(), data, PLAIN, tmp_path).skipped == garbage
    else:
        with pytest.raises(ModelError, match=rf": 7 of {12 - garbage + 7} updates had unusable gradients"):
            fit(Toy(), data, PLAIN, tmp_path)


def test_the_log_is_json(tmp_path: Path):
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    fit(Toy(), Data(spoil={12: math.nan, 15: math.inf}), replace(PLAIN, steps=20), tmp_path, log_every=1,
        validate=scripted([0.5, math.nan, -math.inf, 0.25]))
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    lines = log_of(tmp_path)
    gradients = [line["gradient"] for line in lines if "gradient" in line]
    assert [step for step, gradient in enumerate(gradients) if gradient is None] == [12, 15]
    assert [line["valid_score"] for line in lines if "valid_score" in line] == [0.5, None, None, 0.25]


# ------------------------------------------------------------------------------------- schedules


def test_warm_up():
    optim = Optim(warmup=0.25)
    assert [optim.factor(step, 8) for step in range(8)] == pytest.approx([1e-5, (1 + 1e-5) / 2, *[1] * 6], rel=1e-12)
    assert [Optim().factor(step, 8) for step in range(8)] == [1] * 8


@pytest.mark.parametrize("steps", [10, 30, 70, 1000])
def test_decay_begins_at_its_share(steps: int):
    optim = Optim(decay_at=(0.3, 0.7, 0.9), gamma=0.5)
    for step in range(steps):
        passed = sum(step * 10 >= tenths * steps for tenths in (3, 7, 9))  # in whole numbers
        assert optim.factor(step, steps) == 0.5**passed


def test_cosine():
    for steps in (1, 2, 7, 100):
        for step in range(steps):
            expected = math.cos(math.pi / 2 * step / steps) ** 2
            assert Optim(cosine=True).factor(step, steps) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    warm = Optim(cosine=True, warmup=0.2, decay_at=(0.6,), gamma=0.1)
    assert [warm.factor(step, 10) for step in (0, 2, 6, 9)] == pytest.approx(
        [1e-5, 1.0, 0.1 * 0.5, 0.1 * math.cos(math.pi / 2 * 7 / 8) ** 2], rel=1e-9)


@pytest.mark.parametrize("optim", [
    Optim(warmup=0.3, cosine=True), Optim(decay_at=(0.25, 0.5)), Optim(warmup=0.5, decay_at=(0.8,), gamma=0.3)])
def test_each_group_moves_by_its_own_scheduled_rate(tmp_path: Path, optim: Optim):
    model = Ones()
    optim = replace(optim, lr=0.25, lr_heads=2.0, momentum=0.0, weight_decay=0.0, steps=20)
    fit(model, Data(), optim, tmp_path)
    ends = [*model.past, model.now()]
    for step in range(20):
        for group, rate in enumerate((0.25, 2.0)):
            moved = ends[step][group] - ends[step + 1][group]
            assert moved == pytest.approx(rate * optim.factor(step, 20), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("change", [
    {"lr": -1e-3}, {"lr": math.nan}, {"lr": math.inf}, {"lr_heads": -1.0}, {"momentum": -0.1}, {"momentum": 1.1},
    {"weight_decay": -0.1}, {"batch": 0}, {"warmup": -0.1}, {"warmup": 1.5}, {"gamma": 1.5}, {"gamma": math.nan},
    {"guard": 0.5}, {"steps": 0}, {"steps": -5}, {"epochs": 0.0}, {"epochs": -1.0}, {"epochs": math.nan},
    {"epochs": math.inf}], ids=str)
def test_an_impossible_value_is_refused(change: dict[str, Any]):
    with pytest.raises(CallError, match=rf"optim\.{next(iter(change))}\b"):
        Optim(**change)


# ------------------------------------------------------------------------------------- groups


def test_heads_have_their_own_rate(tmp_path: Path):
    for optim, moving in ((replace(PLAIN, lr_heads=0.0), "encoder."), (replace(PLAIN, lr=0.0), "head.")):
        model, start = Toy(), Toy().state_dict()
        fit(model, Data(), optim, tmp_path / moving)
        for name, value in model.state_dict().items():
            assert torch.equal(value, start[name]) != name.startswith(moving), name


def test_without_an_encoder_inside_everything_has_the_encoders_rate(tmp_path: Path):
    class Whole(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.layers = self.encoder
            del self.encoder

        def forward(self, batch: Rows) -> dict[str, Tensor]:
            return {"y": self.head(torch.tanh(self.layers["stem"](batch.features)))[:, 0]}

    model, start = Whole(), Whole().state_dict()
    fit(model, Data(), replace(PLAIN, lr_heads=0.0), tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, start[name]) == name.startswith("layers.body"), name  # the one that is not used


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(("frozen", "kept"), [
    (("encoder.stem",), {"encoder.stem.weight", "encoder.stem.bias"}),
    (("encoder.body.b", "head"), {"encoder.body.bias", "head.weight", "head.bias"}),
    (("encoder",), {"encoder.stem.weight", "encoder.stem.bias", "encoder.body.weight", "encoder.body.bias"}),
])
def test_frozen_parameters_keep_their_values(tmp_path: Path, kind: Any, frozen: tuple[str, ...], kept: set[str]):
    model, start = Toy(), Toy().state_dict()
    fit(model, Data(), replace(PLAIN, name=kind, weight_decay=0.1, frozen=frozen), tmp_path)
    assert {name for name, value in model.state_dict().items() if torch.equal(value, start[name])} == kept


def test_a_parameter_that_wants_no_gradient_keeps_its_value(tmp_path: Path):
    model, start = Toy(), Toy().state_dict()
    model.encoder["body"].weight.requires_grad_(False)
    fit(model, Data(), replace(PLAIN, weight_decay=0.1), tmp_path)
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, start[name])}
    assert kept == {"encoder.body.weight"}


@pytest.mark.parametrize(("frozen", "message"), [
    (("encoder.stm",), r"optim\.frozen names 'encoder\.stm', but no parameter begins so; the first is 'encoder\.stem"),
    (("encoder.stem", "haed"), r"optim\.frozen names 'haed'"),
    (("",), r"optim\.frozen freezes every parameter"), (("encoder", "head"), r"optim\.frozen freezes every parameter")])
def test_freezing_nothing_or_everything_is_refused(tmp_path: Path, frozen: tuple[str, ...], message: str):
    with pytest.raises(CallError, match=message):
        fit(Toy(), Data(), replace(PLAIN, frozen=frozen), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("change", [
    {"optim": replace(PLAIN, lr=0.06)}, {"optim": replace(PLAIN, steps=13)}, {"seed": 1},
    {"identity": {"recipe": "other", "list": (1, 2)}}, {"identity": None}])
def test_another_run_in_the_folder_is_refused(tmp_path: Path, change: dict[str, Any]):
    folder = tmp_path / "runs" / "tac"
    mine: dict[str, Any] = {"optim": PLAIN, "seed": 0, "identity": {"recipe": "mine", "list": (1, 2)}}
    fit(Toy(), Data(), **mine, folder=folder)
    content = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    with pytest.raises(ModelError) as error:
        fit(Toy(), Data(), **(mine | change), folder=folder)
    assert str(error.value).startswith(f"'{folder}' holds a run with other settings (")
    assert content == {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    fit(Toy(), Data(), **mine, folder=folder)


def test_another_model_in_the_folder_is_refused(tmp_path: Path):
    fit(Toy(), Data(), PLAIN, tmp_path)
    content = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    with pytest.raises(ModelError) as error:
        fit(Toy(norm=True), Data(), PLAIN, tmp_path)
    assert str(error.value).startswith(f"'{tmp_path}' holds a run of another model; ")
    assert content == {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, share: float):
    fit(Toy(), Data(), PLAIN, tmp_path)
    path = tmp_path / "last.safetensors"
    whole, log = path.read_bytes(), (tmp_path / "log.jsonl").read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"last\.safetensors' is not a readable cuemark checkpoint"):
        fit(Toy(), Data(), PLAIN, tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path):
    checkpoint.save(tmp_path / "last.safetensors", Toy().state_dict(), {"kind": "encoder"})
    with pytest.raises(ModelError, match="of kind 'encoder'"):
        fit(Toy(), Data(), PLAIN, tmp_path)


@pytest.mark.parametrize("cut", [
    '{"step": 9, "lo', '{"step": 1, "loss": 1', "{", "null", "9", '{"loss": 1.0}', '{"step": "nine"}', "[]", "\0\0\0"])
def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path, cut: str):
    whole, part = tmp_path / "whole", tmp_path / "part"
    fit(Toy(), Data(), PLAIN, whole, log_every=2)

    def stop(step: int) -> None:
        if step == 8:
            raise Stop

    with pytest.raises(Stop):
        fit(Toy(), Data(tick=stop), PLAIN, part, log_every=2, checkpoint_every=6)
    assert [line["step"] for line in log_of(part)] == [2, 4, 6, 8]
    with open(part / "log.jsonl", "a") as file:
        file.write(cut)
    fit(Toy(), Data(), PLAIN, part, log_every=2)
    assert log_of(part) == log_of(whole)
    assert [line["step"] for line in log_of(part)] == [2, 4, 6, 8, 10, 12]


def test_fewer_samples_than_a_batch_are_refused(tmp_path: Path):
    with pytest.raises(CallError, match=r"fewer training samples than one batch; lower optim\.batch"):
        fit(Toy(), Data(batches=0), PLAIN, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensorboard_is_asked_for_by_its_package(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(CallError, match=r"pip install \"cuemark\[track\]\""):
        fit(Toy(), Data(), PLAIN, tmp_path, tensorboard=True)


# ------------------------------------------------------------------------------------- validation


def scripted(scores: list[float]) -> Callable[[nn.Module], dict[str, float]]:
    """Validation with a given outcome; it checks the mode it is called in."""
    left = iter(scores)

    def validate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"score": next(left), "other": -1.0}

    return validate


@pytest.mark.parametrize(("scores", "best"), [
    ([0.1, 0.9, 0.3, 0.2], 1), ([0.9, 0.1, 0.2, 0.3], 0), ([0.1, 0.2, 0.3, 0.4], 3), ([-5, -3, -4, -3], 1),
    ([0.5, 0.5, 0.5, 0.5], 0), ([0.2, math.nan, 0.1, math.nan], 0),
    ([math.nan, 0.2, 0.5, 0.3], 2), ([math.nan, math.nan, -0.1, math.nan], 2),
])
def test_the_model_ends_with_its_best_weights(tmp_path: Path, scores: list[float], best: int):
    model = Toy()
    result = fit(model, Data(), PLAIN, tmp_path, validate=scripted(scores), validate_every=3)
    at = 3 * (best + 1)
    assert result.best == {"score": scores[best], "other": -1.0, "step": at}
    plain = Toy()
    fit(plain, Data(), PLAIN, tmp_path / "plain")
    after = [*plain.past, plain.state_dict()]  # after[n]: the weights after n updates
    assert same(model.state_dict(), after[at])
    assert same(checkpoint.load(tmp_path / "best.safetensors")[0], after[at])
    assert not model.training


def test_scores_of_nan_are_never_the_best(tmp_path: Path):
    model, plain = Toy(), Toy()
    result = fit(model, Data(), PLAIN, tmp_path / "a", validate=scripted([math.nan] * 4), validate_every=3)
    assert result.best is None
    fit(plain, Data(), PLAIN, tmp_path / "b")
    assert same(model.state_dict(), plain.state_dict())  # the last ones
    assert not (tmp_path / "a" / "best.safetensors").exists()


def test_the_score_that_decides_has_a_name(tmp_path: Path):
    def validate(model: nn.Module) -> dict[str, float]:
        return {"score": float(len(calls)), "map": -float(calls.append(1) or len(calls))}

    calls: list[int] = []
    result = fit(Toy(), Data(), PLAIN, tmp_path, validate=validate, validate_every=4, best_by="map")
    assert result.best is not None
    assert result.best["step"] == 4


@pytest.mark.parametrize(("every", "steps", "expected"), [
    (None, 12, [5, 10, 12]), (4, 12, [4, 8, 12]), (100, 12, [12]), (None, 10, [5, 10]), (1, 3, [1, 2, 3])])
def test_when_it_validates(tmp_path: Path, every: int | None, steps: int, expected: list[int]):
    result = fit(Toy(), Data(), replace(PLAIN, steps=steps), tmp_path, validate=error_of, validate_every=every)
    logged = [line for line in log_of(tmp_path) if "valid_score" in line]
    assert [line["step"] for line in logged] == expected
    assert result.best is not None
    assert result.best["score"] == max(line["valid_score"] for line in logged)


def test_without_validation_the_last_weights_stay(tmp_path: Path):
    model = Toy()
    result = fit(model, Data(), PLAIN, tmp_path)
    assert result.best is None
    tensors, meta = checkpoint.load(tmp_path / "last.safetensors", "training")
    assert same(model.state_dict(), checkpoint.section(tensors, "model"))
    assert meta["step"] == 12
    assert sorted(os.listdir(tmp_path)) == ["last.safetensors", "log.jsonl"]


# ------------------------------------------------------------------------------------- length, precision, clipping


@pytest.mark.parametrize(("steps", "epochs", "expected"), [
    (None, 1.0, 5), (None, 2.0, 10), (None, 0.4, 2), (None, 0.01, 1), (7, 100.0, 7), (1, 1.0, 1)])
def test_steps_go_before_epochs(tmp_path: Path, steps: int | None, epochs: float, expected: int):
    asked: list[int] = []
    model = Toy()
    result = fit(model, Data(tick=asked.append), replace(PLAIN, steps=steps, epochs=epochs), tmp_path)
    assert result.steps == len(model.past) == expected
    assert asked[:expected] == list(range(expected))


def test_losses_are_means_over_the_last_interval(tmp_path: Path):
    model = Toy()
    result = fit(model, Data(), PLAIN, tmp_path, log_every=5)
    expected = []
    for step, past in enumerate(model.past):
        then = Toy()
        then.load_state_dict(past)
        batch = Data().at(step)
        expected.append({k: float(v.detach()) for k, v in then.loss(then(batch), batch).items()})
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == [5, 10, 12]
    for line, (a, b) in zip(lines, ((0, 5), (5, 10), (10, 12)), strict=True):
        for name in ("fit", "size"):
            assert line[name] == pytest.approx(statistics.fmean(e[name] for e in expected[a:b]), rel=1e-5)
        assert line["loss"] == pytest.approx(line["fit"] + line["size"], rel=1e-5)
    assert result.losses == {k: lines[-1][k] for k in ("loss", "fit", "size")}


@pytest.mark.parametrize(("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision(tmp_path: Path, precision: Any, kind: torch.dtype):
    model = Toy()
    result = fit(model, Data(), replace(PLAIN, precision=precision, steps=40), tmp_path)
    assert model.kinds == {kind}
    assert {v.dtype for v in model.state_dict().values()} == {torch.float32}
    assert result.losses["fit"] < log_of(tmp_path)[0]["fit"]


def test_the_losses_too_are_under_autocast(tmp_path: Path):
    class Asks(Toy):
        def loss(self, out: dict[str, Tensor], batch: Rows) -> dict[str, Tensor]:
            asked.append(torch.is_autocast_enabled("cpu"))
            return super().loss(out, batch)

    asked: list[bool] = []
    fit(Asks(), Data(), replace(PLAIN, precision="bf16"), tmp_path)
    assert asked == [True] * 12


def test_clipped_gradients_have_the_norm_asked_for(tmp_path: Path):
    model = Toy()
    fit(model, Data(), replace(PLAIN, lr=1.0, lr_heads=1.0, clip_norm=0.01, steps=5), tmp_path, log_every=1)
    ends = [*model.past, model.state_dict()]
    for before, after, line in zip(ends, ends[1:], log_of(tmp_path), strict=False):
        moved = math.sqrt(sum(float((after[k] - before[k]).double().square().sum()) for k in before))
        assert moved == pytest.approx(0.01, rel=1e-3)
        assert line["gradient"] > 0.02  # logged as it was


def test_small_gradients_are_not_clipped(tmp_path: Path):
    ends = []
    for clip_norm in (None, 1e3):
        model = Toy()
        fit(model, Data(), replace(PLAIN, clip_norm=clip_norm), tmp_path / str(clip_norm))
        ends.append(model.state_dict())
    assert same(*ends)


def test_standard_output_is_for_results(tmp_path: Path, capsys):
    fit(Toy(), Data(), PLAIN, tmp_path, what="training toys")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "training toys: 12/12 loss " in printed.err


# ------------------------------------------------------------------------------------- gradient caching

CLASSES = ("jump", "run", "swim")
LABELS = [0, -1, 2, 1, -1, 0, -1]
OBJECTIVES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "tac": lambda encoder: tac.TAC(tac.Config(), encoder, CLASSES),
    "tsp": lambda encoder: tsp.TSP(tsp.Config(), encoder, CLASSES),
    **{f"clap {name}": lambda encoder, v=v: clap.CLAP(clap.Config(text_dim=5, projection=6, **v), encoder, CLASSES)
       for name, v in {**clap.VARIANTS, "learnt": {"learn_temperature": True}, "sum": {"reduction": "sum"},
                       "positive": {"same_text": "positive"}}.items()}}
objectives = pytest.mark.parametrize("name", OBJECTIVES)


def clip_batch(rows: int = 7) -> ClipBatch:
    """Two clips with one sentence among them."""
    draw = torch.Generator().manual_seed(0)
    label, told = torch.tensor(LABELS[:rows]), torch.tensor([0, 1, 2, 0, 3, 4, 5][:rows])
    return ClipBatch(torch.randn(rows, 3, 4, 16, 16, generator=draw), label, label >= 0,
                     torch.randn(rows, 32, generator=draw), torch.randn(6, 5, generator=draw)[told], told)


class Forgetting(ResNet3D):
    """With dropout, as no shipped encoder has it."""

    def forward(self, clips: Tensor, pooling: Any = "mean") -> Tensor:
        seen = nn.functional.dropout(super().forward(clips, pooling), 0.5, self.training)
        self.past.append(seen.detach().clone())
        return seen


def objective(name: str, dropout: bool = False, frozen: bool = True) -> Any:
    """Ready to train; its running statistics are those of some clips."""
    torch.manual_seed(0)
    encoder = (Forgetting if dropout else ResNet3D)(ResNetConfig("r2plus1d", (1, 1, 1, 1), 4))
    encoder.past = []  # type: ignore[assignment]
    model = OBJECTIVES[name](encoder).train()
    with torch.no_grad():
        for _ in range(10):
            model(clip_batch())
    encoder.past.clear()  # type: ignore[operator]
    if frozen:
        still(model)
    return model


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@objectives
@pytest.mark.parametrize("chunk", [1, 3, 6])
def test_chunks_have_the_gradient_of_the_whole_batch(name: str, chunk: int):
    """With frozen statistics; one chunk has fewer rows than the others."""
    plain, cached = objective(name), objective(name)
    told = gradients(plain, clip_batch()), gradients(cached, clip_batch(), chunk)
    assert told[1] == pytest.approx(told[0], rel=1e-5)
    assert told[0].keys() > {"loss"}
    for (key, p), (_, q) in zip(plain.named_parameters(), cached.named_parameters(), strict=True):
        assert p.grad is not None, key
        assert q.grad is not None, key
        assert p.grad.norm() > 0, key
        assert (p.grad - q.grad).norm() < 1e-5 * max(p.grad.norm(), 0.01 * gradient(plain).norm()), key
    assert same(plain.state_dict(), cached.state_dict())  # frozen statistics stay as they are
    if "learnt" in name:
        assert abs(float(plain.log_scale.grad)) > 1e-3


def test_a_chunk_as_large_as_the_batch_is_the_plain_step():
    for chunk in (7, 8, 100):
        plain, cached = objective("clap full", frozen=False), objective("clap full", frozen=False)
        assert gradients(plain, clip_batch()) == gradients(cached, clip_batch(), chunk)
        assert torch.equal(gradient(plain), gradient(cached))


@objectives
def test_with_live_statistics_chunks_have_another_gradient(name: str):
    """As ``Optim.chunk`` says: by a lot."""
    plain, cached = objective(name, frozen=False), objective(name, frozen=False)
    gradients(plain, clip_batch())
    gradients(cached, clip_batch(), 4)
    assert (gradient(plain) - gradient(cached)).norm() > 0.3 * gradient(plain).norm()


@objectives
def test_chunks_are_chunks_of_one_graph(name: str):
    """With live statistics and dropout: the obvious way, which holds all chunks in memory at once, draws the same."""
    cached, obvious = (objective(name, dropout=True, frozen=False) for _ in range(2))
    gradients(cached, clip_batch(), 4, seed=5)
    pieces = []
    for piece in clip_batch().split(4):
        torch.manual_seed(5)
        pieces.append(obvious(piece))
    out = {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}
    sum(obvious.loss(out, clip_batch()).values()).backward()
    assert (gradient(cached) - gradient(obvious)).norm() < 1e-5 * gradient(obvious).norm()
    # the statistics are moved by one of the two passes alone, a chunk at a time
    assert same(cached.state_dict(), obvious.state_dict())
    assert int(cached.state_dict()["encoder.stem.1.num_batches_tracked"]) == 10 + 2


def test_both_passes_draw_the_same():
    model = objective("clap full", dropout=True)
    gradients(model, clip_batch(), 3, seed=5)
    first, second = model.encoder.past[:3], model.encoder.past[3:]
    assert [len(rows) for rows in first] == [3, 2, 2]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert 0.2 < float((torch.cat(first) == 0).float().mean()) < 0.8
    model.encoder.past.clear()
    gradients(model, clip_batch(), 3, seed=6)
    assert not torch.equal(model.encoder.past[0], first[0])


def test_chunks_are_for_clips(tmp_path: Path):
    with pytest.raises(CallError, match=r"optim\.chunk is for batches of clips; leave it out here\."):
        fit(Toy(), Data(), replace(PLAIN, chunk=2), tmp_path)


class Clips(Data):
    """Batches of clips; those of ``background`` updates show no action."""

    def __init__(self, background: tuple[int, ...] = (), **how: Any) -> None:
        super().__init__(**how)
        self.background = background

    def at(self, step: int) -> Any:
        batch = clip_batch(4)
        batch.clips = batch.clips + 0.1 * step
        if step in self.background:
            batch.label = torch.full((4,), -1)
            batch.foreground = batch.label >= 0
        return batch


def test_frozen_statistics_and_recomputing_reach_the_encoder(tmp_path: Path):
    ends = {}
    for name, change in (("plain", {}), ("frozen", {"frozen_statistics": True}), ("recompute", {"recompute": True})):
        model = objective("tsp", frozen=False)
        ends[name] = {k: v.clone() for k, v in model.state_dict().items()}, model
        fit(model, Clips(), replace(PLAIN, lr=1e-3, lr_heads=1e-3, steps=3, **change), tmp_path / name)
    memories = [k for k in ends["plain"][0] if "running" in k or "tracked" in k]
    start, model = ends["frozen"]
    assert all(torch.equal(start[k], model.state_dict()[k]) for k in memories)
    assert not torch.equal(start["encoder.stem.0.weight"], model.state_dict()["encoder.stem.0.weight"])
    assert ends["recompute"][1].encoder.recompute
    assert same(ends["recompute"][1].state_dict(), ends["plain"][1].state_dict())
    assert not any(torch.equal(start[k], ends["plain"][1].state_dict()[k]) for k in memories)
    with pytest.raises(CallError, match=r"optim\.recompute: ModuleDict cannot compute its activations again"):
        fit(Toy(), Data(), replace(PLAIN, recompute=True), tmp_path / "toy")
    with pytest.raises(CallError, match=r"optim\.recompute and optim\.compile do not go together"):
        replace(PLAIN, recompute=True, compile=True)


def test_the_log_has_accuracies_of_the_batches_that_have_any(tmp_path: Path, capsys):
    """The class head learns from foreground alone: a batch without it is not counted as wrong."""
    model = objective("tsp")
    optim = replace(PLAIN, lr=0.0, lr_heads=0.0, steps=4, frozen_statistics=True)
    fit(model, Clips(background=(0, 2, 3)), optim, tmp_path, log_every=2)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    right, counted = model.accuracy(model(Clips().at(1)), Clips().at(1))["class"]
    assert lines[0]["class_accuracy"] == pytest.approx(right / counted)
    assert "class_accuracy" not in lines[1]
    regions = [model.accuracy(model(Clips((0,)).at(k)), Clips((0,)).at(k))["region"] for k in (0, 1)]
    assert lines[0]["region_accuracy"] == pytest.approx(sum(r / n for r, n in regions) / 2)
    for line in lines:
        assert 0 <= line["data_wait"] <= 1
        assert 50 < line["memory_mb"] < 1e6
        assert line["per_second"] > 0
    assert "right: region " in capsys.readouterr().err


def test_a_validation_between_two_lines_of_the_log_is_no_part_of_an_update(tmp_path: Path):
    """What was waited for is divided by the time of the same updates."""

    class Slow(Clips):
        def at(self, step: int) -> Any:
            time.sleep(0.1)
            return super().at(step)

    optim = replace(PLAIN, lr=0.0, lr_heads=0.0, steps=6, frozen_statistics=True)
    fit(objective("tac"), Slow(), optim, tmp_path, validate=lambda _: {"score": 0.0}, validate_every=3, log_every=4)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    waits = [line["data_wait"] for line in lines if "data_wait" in line]
    assert len(waits) == 2
    assert all(0 < wait <= 1 for wait in waits)


# ------------------------------------------------------------------------------------- average, fp16, compiled


def test_the_average_is_validated_and_kept(tmp_path: Path):
    """It begins at the weights after the first update; a skipped update does not move it."""
    judged: list[dict[str, Tensor]] = []

    def validate(model: nn.Module) -> dict[str, float]:
        judged.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"score": -len(judged)}

    model, optim = Toy(norm=True), replace(PLAIN, ema=0.8, steps=13)
    fit(model, Data(spoil={11: math.inf}), optim, tmp_path / "a", validate=validate, validate_every=3)
    plain = Toy(norm=True)
    fit(plain, Data(spoil={11: math.inf}), replace(optim, ema=0.0), tmp_path / "b")
    after = [*plain.past[1:], plain.state_dict()]  # the updates themselves are the same
    means = []
    for step, now in enumerate(after):
        old = means[-1] if means else now
        means.append(old if step == 11 else {k: 0.8 * old[k] + 0.2 * v if v.is_floating_point() else v
                                             for k, v in now.items()})
    assert len(judged) == 5
    for found, mean in zip(judged, [means[k] for k in (2, 5, 8, 11, 12)], strict=True):
        for key in mean:
            if mean[key].is_floating_point():
                torch.testing.assert_close(found[key], mean[key], rtol=1e-5, atol=1e-7)
    assert same(model.state_dict(), judged[0])  # the best
    assert same(checkpoint.load(tmp_path / "a" / "best.safetensors")[0], judged[0])
    last = Toy(norm=True)
    fit(last, Data(spoil={11: math.inf}), optim, tmp_path / "c")
    assert same(last.state_dict(), judged[-1])  # without validation


def stopped_and_whole(tmp_path: Path, make: Callable[[], nn.Module], at: int, **how: Any) -> list[nn.Module]:
    """A run in ``part`` that was stopped before update ``at`` and started again, and one in ``whole``."""

    def stop(step: int) -> None:
        if step == at:
            raise Stop

    spoil = how.pop("spoil", None)
    with pytest.raises(Stop):
        fit(make(), Data(spoil=spoil, tick=stop), folder=tmp_path / "part", **how)
    models = []
    for folder in ("part", "whole"):
        models.append(make())
        fit(models[-1], Data(spoil=spoil), folder=tmp_path / folder, **how)
    assert same(models[0].state_dict(), models[1].state_dict())
    assert (tmp_path / "part" / "last.safetensors").read_bytes() == (
        tmp_path / "whole" / "last.safetensors").read_bytes()
    assert log_of(tmp_path / "part") == log_of(tmp_path / "whole")
    return models


@pytest.mark.parametrize("at", [1, 5, 11])
def test_an_average_goes_on_after_a_stop(tmp_path: Path, at: int):
    stopped_and_whole(tmp_path, lambda: Toy(dropout=0.3, norm=True), at, optim=replace(PLAIN, ema=0.9),
                      checkpoint_every=2, validate=error_of, validate_every=3)


def test_fp16_scales_its_loss_and_halves_the_scale_after_an_overflow(tmp_path: Path):
    how: dict[str, Any] = {"optim": replace(PLAIN, precision="fp16", steps=20), "checkpoint_every": 1, "log_every": 1}
    model = stopped_and_whole(tmp_path, lambda: Toy(norm=True), 10, spoil={4: math.inf, 6: math.inf}, **how)[1]
    assert isinstance(model, Toy)
    assert model.kinds == {torch.float16}
    skipped = [step for step, (a, b) in enumerate(zip(model.past, model.past[1:])) if same(a, b)]
    assert set(skipped) >= {4, 6}
    assert len(skipped) < 8  # the scale begins high on purpose
    meta = checkpoint.load(tmp_path / "whole" / "last.safetensors", "training")[1]
    assert meta["scaler"]["scale"] == 65536 / 2 ** len(skipped)
    assert meta["skipped"] == len(skipped)
    # gradients are scaled back before the guard sees them and the optimiser takes them
    plain = Toy(norm=True)
    fit(plain, Data(spoil=dict.fromkeys(skipped, math.inf)), folder=tmp_path / "fp32",
        **how | {"optim": replace(PLAIN, steps=20)})
    for line, other in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "fp32"), strict=True):
        assert (line["gradient"] is None) == (other["gradient"] is None) == (line["step"] - 1 in skipped)
        assert line["gradient"] is None or line["gradient"] == pytest.approx(other["gradient"], rel=0.05)
        assert line["fit"] == pytest.approx(other["fit"], rel=0.05)


class Layers(nn.Sequential):
    """Of our own: the compiler passes over PyTorch's containers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self[1](self[0](x)))


class Compiled(nn.Module):
    """A model whose encoder is called as a whole."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.encoder = Layers(nn.Linear(6, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 1)

    def forward(self, batch: Rows) -> dict[str, Tensor]:
        return {"y": self.head(self.encoder(batch.features))[:, 0]}

    def loss(self, out: dict[str, Tensor], batch: Rows) -> dict[str, Tensor]:
        return {"fit": (out["y"] - batch.target).square().mean()}


@pytest.mark.filterwarnings("ignore")  # of the compiler's
def test_a_compiled_encoder_is_the_same_encoder(tmp_path: Path):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    models = stopped_and_whole(tmp_path, Compiled, 7, optim=replace(PLAIN, compile=True), checkpoint_every=3,
                               validate=error_of)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > counted
    plain = Compiled()
    fit(plain, Data(), PLAIN, tmp_path / "plain", validate=error_of)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(models[0].state_dict()[key], value, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------- what stays on the disk


@pytest.mark.parametrize(("keep", "expected"), [(1, []), (2, [8]), (3, [6, 8]), (9, [2, 4, 6, 8])])
def test_checkpoints_before_the_last_stay(tmp_path: Path, keep: int, expected: list[int]):
    """A run may go on from any of them, under the last one's name, and ends the same."""
    how: dict[str, Any] = {"optim": replace(PLAIN, steps=10, momentum=0.9), "checkpoint_every": 2, "log_every": 3,
                           "validate": error_of, "validate_every": 3}
    model = Toy(dropout=0.3, norm=True)
    fit(model, Data(), folder=tmp_path / "run", keep=keep, **how)
    names = [f"step-{n}.safetensors" for n in expected]
    assert sorted(os.listdir(tmp_path / "run")) == ["best.safetensors", "last.safetensors", "log.jsonl", *names]
    end, log = (tmp_path / "run" / "last.safetensors").read_bytes(), log_of(tmp_path / "run")
    for step, name in zip(expected, names, strict=True):
        assert checkpoint.load(tmp_path / "run" / name, "training")[1]["step"] == step
        (tmp_path / "again").mkdir(exist_ok=True)
        for file in (tmp_path / "run").iterdir():
            shutil.copy(file, tmp_path / "again" / file.name)
        os.replace(tmp_path / "again" / name, tmp_path / "again" / "last.safetensors")
        again = Toy(dropout=0.3, norm=True)
        fit(again, Data(), folder=tmp_path / "again", **how)  # and keep=1: the older ones go
        assert same(again.state_dict(), model.state_dict())
        assert (tmp_path / "again" / "last.safetensors").read_bytes() == end
        assert log_of(tmp_path / "again") == log
        if step < 8:
            assert not list((tmp_path / "again").glob("step-*"))


def test_a_stopped_run_keeps_what_an_undisturbed_one_keeps(tmp_path: Path):
    stopped_and_whole(tmp_path, lambda: Toy(norm=True), 7, optim=PLAIN, checkpoint_every=2, keep=3)
    kept = ["last.safetensors", "log.jsonl", "step-10.safetensors", "step-8.safetensors"]
    assert sorted(os.listdir(tmp_path / "part")) == sorted(os.listdir(tmp_path / "whole")) == kept
    for name in (kept[0], *kept[2:]):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(("keep", "advice"), [
    (1, "remove it to begin anew"), (3, r"rename 'step-9\.safetensors' to it to go on from there")])
def test_what_to_do_about_a_truncated_checkpoint(tmp_path: Path, keep: int, advice: str):
    fit(Toy(), Data(), PLAIN, tmp_path, checkpoint_every=3, keep=keep)
    end = (tmp_path / "last.safetensors").read_bytes()
    (tmp_path / "last.safetensors").write_bytes(end[: len(end) // 2])
    with pytest.raises(ModelError, match=rf"last\.safetensors' is not a readable .*; {advice}\.$") as error:
        fit(Toy(), Data(), PLAIN, tmp_path, checkpoint_every=3, keep=keep)
    assert "\n" not in str(error.value)
    if keep == 1:
        (tmp_path / "last.safetensors").unlink()
    else:
        (tmp_path / "step-9.safetensors").replace(tmp_path / "last.safetensors")
    fit(Toy(), Data(), PLAIN, tmp_path, checkpoint_every=3, keep=keep)
    assert (tmp_path / "last.safetensors").read_bytes() == end


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors", "log.jsonl"])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch, name: str, keep: int):
    how: dict[str, Any] = {"optim": replace(PLAIN, momentum=0.9), "checkpoint_every": 2, "validate": error_of,
                           "validate_every": 3, "log_every": 2, "keep": keep}
    fit(Toy(norm=True), Data(), folder=tmp_path / "whole", **how)
    real_replace, real_open, opened = os.replace, open, []

    def full(source: Any, target: Any) -> None:
        if Path(target).name == name and (tmp_path / "run" / "last.safetensors").exists() and name != "log.jsonl":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        real_replace(source, target)

    def no_room(path: Any, mode: str = "r", **rest: Any) -> Any:
        if Path(path).name == name == "log.jsonl" and mode == "a":
            opened.append(path)
            if len(opened) == 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real_open(path, mode, **rest)

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(loop, "open", no_room, raising=False)
    with pytest.raises(DataError) as error:
        fit(Toy(norm=True), Data(), folder=tmp_path / "run", **how)
    assert str(error.value) == (f"'{tmp_path / 'run'}' cannot be written (No space left on device); free some space "
                                "and run the same again: it goes on with what is missing.")
    step = checkpoint.load(tmp_path / "run" / "last.safetensors", "training")[1]["step"]
    assert step in (2, 4)
    assert not list((tmp_path / "run").glob(".*"))
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    fit(Toy(norm=True), Data(), folder=tmp_path / "run", **how)
    for file in (tmp_path / "whole").glob("*.safetensors"):
        assert (tmp_path / "run" / file.name).read_bytes() == file.read_bytes()
    assert sorted(os.listdir(tmp_path / "run")) == sorted(os.listdir(tmp_path / "whole"))
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")


def test_the_kernel_refuses_to_write_more(tmp_path: Path):
    """Files may have 3 kB: the description of a longer run, with its gradient norms, does not fit."""
    fit(Toy(), Data(), replace(PLAIN, steps=120), tmp_path / "whole", checkpoint_every=5, log_every=60)
    size = (tmp_path / "whole" / "last.safetensors").stat().st_size

    def limited(handle: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 500, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        limited(0)
        with pytest.raises(DataError, match=r"run' cannot be written \(File too large\); mend that and run the same"):
            fit(Toy(), Data(), replace(PLAIN, steps=120), tmp_path / "run", checkpoint_every=5, log_every=60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(os.listdir(tmp_path / "run")) == ["last.safetensors", "log.jsonl"]
    assert 5 <= checkpoint.load(tmp_path / "run" / "last.safetensors", "training")[1]["step"] < 120
    fit(Toy(), Data(), replace(PLAIN, steps=120), tmp_path / "run", checkpoint_every=5, log_every=60)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == (
        tmp_path / "whole" / "last.safetensors").read_bytes()


@pytest.mark.parametrize("change", [{"chunk": 0}, {"ema": -0.1}, {"ema": 1.5}], ids=str)
def test_an_impossible_way_to_scale_is_refused(change: dict[str, Any]):
    with pytest.raises(CallError, match=rf"optim\.{next(iter(change))}\b"):
        Optim(**change)


if __name__ == "__main__":
    killer(Path(sys.argv[1]))
