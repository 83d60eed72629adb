"""The only training loop: any :class:`~cuemark.batch.Trainable`, any data that can be asked for an epoch.

A run lives in one folder: ``log.jsonl`` (one line per log point), ``last.safetensors`` (everything needed to go on) and
``best.safetensors`` (weights of the best validation). Killed at any moment and started again, it ends with the same
weights as an undisturbed run: data draws depend on (seed, epoch, sample), the model's own draws on (seed, step), and
the checkpoint holds model, optimiser and guard.

Steps are guarded: gradients that are not finite, or far above their running median, are thrown away, counted and
reported. They do occur: bf16 gradients of some CPU convolutions are garbage (``benchmarks/bf16_conv3d.py``), and often
finite garbage.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from cuemark import checkpoint
from cuemark.errors import CallError, ModelError, within
from cuemark.progress import Bar, say
from cuemark.segments import replacing


@dataclass(frozen=True)
class Optim:
    """How a model is optimised. Shares of the run keep one schedule meaningful for any number of updates."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 1e-4
    """Of the encoder; of everything where there is no encoder inside."""
    lr_heads: float = 2e-3
    """Of what sits on the encoder."""
    momentum: float = 0.9
    """SGD's."""
    weight_decay: float = 0.005
    frozen: tuple[str, ...] = ()
    """Parameters whose name starts with one of these keep their values (TSP's release: ``encoder.stem``)."""
    batch: int = 32
    epochs: float = 8
    steps: int | None = None
    """Number of updates, in place of ``epochs``."""
    warmup: float = 0.0
    """Share of the run over which the rate rises linearly from 1e-5 of itself (TSP: 2 of 8 epochs)."""
    decay_at: tuple[float, ...] = ()
    """Shares of the run at which the rate is multiplied by ``gamma``."""
    gamma: float = 0.1
    cosine: bool = False
    """Let the rate fall to 0 along a half cosine after the warm-up."""
    clip_norm: float | None = None
    """Largest gradient norm; larger gradients are scaled down to it."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """auto: bf16 autocast where the hardware computes in it."""
    guard: float = 30.0
    """A step whose gradient norm is this many times the running median is skipped."""

    def __post_init__(self) -> None:
        for name, low, high in (("lr", 0, None), ("lr_heads", 0, None), ("momentum", 0, 1), ("weight_decay", 0, None),
                                ("batch", 1, None), ("warmup", 0, 1), ("gamma", 0, 1), ("guard", 1, None)):
            within(f"optim.{name}", getattr(self, name), low, high)
        if not (self.steps is None or self.steps >= 1) or not 0 < self.epochs < math.inf:
            raise CallError(f"optim.steps and optim.epochs must be positive, got {self.steps} and {self.epochs}.")

    def factor(self, step: int, steps: int) -> float:
        """What the rates are multiplied by at update ``step`` of ``steps``."""
        done = step / steps
        if done < self.warmup:
            return 1e-5 + (1 - 1e-5) * done / self.warmup
        decayed = self.gamma ** sum(done >= at for at in self.decay_at)
        if self.cosine:
            decayed *= 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))
        return decayed


class Data(Protocol):
    """What the loop reads: batches by epoch, the same ones every time it asks."""

    def __len__(self) -> int: ...
    def epoch(self, number: int, skip: int = 0) -> Iterator[Any]: ...


@dataclass
class Result:
    """What a run came to."""

    steps: int
    losses: dict[str, float]
    """Means over the last log interval."""
    best: dict[str, float] | None
    """Scores of the validation whose weights the model now has; None without validation."""
    skipped: int
    """Updates thrown away by the guard."""
    seconds: float
    """Spent in this call."""


WINDOW = 101
"""Gradient norms whose median the guard compares with."""
ENOUGH = 10
"""Norms it wants to have seen before it compares."""


def sane(norm: float, history: list[float], factor: float) -> bool:
    """Whether a gradient norm may be stepped with; remembers it if it is finite."""
    usual = statistics.median(history) if len(history) >= ENOUGH else 0.0
    ok = math.isfinite(norm) and (usual == 0 or norm <= factor * usual)
    if math.isfinite(norm):
        history.append(norm)
        del history[:-WINDOW]
    return ok


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bf16 under autocast."""
    if precision == "auto":
        return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return precision == "bf16"


def fit(
    model: nn.Module,
    data: Data,
    optim: Optim,
    folder: str | Path,
    *,
    what: str = "training",
    seed: int = 0,
    device: torch.device | str = "cpu",
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    validate_every: int | None = None,
    best_by: str = "score",
    checkpoint_every: int = 100,
    log_every: int = 10,
    tensorboard: bool = False,
    identity: Mapping[str, Any] | None = None,
) -> Result:
    """Train ``model`` in place; it ends with the best validated weights, or the last ones without ``validate``.

    Args:
        data: training batches.
        folder: of the run; an unfinished run found there is continued.
        validate: scores of the model in eval mode; called every ``validate_every`` updates (default: each epoch)
            and at the end; the highest ``best_by`` wins.
        identity: what makes this run this run; a folder whose checkpoint says otherwise is refused.

    Raises:
        CallError: there is not one full batch.
        ModelError: the folder holds another run, or every gradient is garbage.
    """
    device, folder = torch.device(device), Path(folder)
    per_epoch = len(data)
    if per_epoch == 0:
        raise CallError("there are fewer training samples than one batch; lower optim.batch or bring more data.")
    steps = optim.steps if optim.steps is not None else max(1, round(optim.epochs * per_epoch))
    model.to(device)
    optimiser, base_rates = _optimiser(model, optim)
    bf16 = use_bf16(optim.precision, device)
    for left in (*folder.glob(".*.safetensors.*.tmp"), *folder.glob(".log.jsonl.*.tmp")):  # of a kill inside a save
        left.unlink(missing_ok=True)
    who = {"optim": asdict(optim), "seed": seed, **(identity or {})}
    state = _State.resume(folder, model, optimiser, who)
    log = _Log(folder / "log.jsonl", state.step, tensorboard)
    running = _running(model)
    began = since = time.monotonic()
    clips, sums = 0, state.sums
    losses: dict[str, float] = {}

    # ---------------------------------------------------------------------------------------------
    with Bar(what, steps, state.step) as bar:
        for batch in _from(data, state.step, steps):
            # -------------------------------------------------------------------------------------
            # the step
            batch = batch.to(device)
            for group, rate in zip(optimiser.param_groups, base_rates, strict=True):
                group["lr"] = rate * optim.factor(state.step, steps)
            torch.manual_seed(seed * 1_000_003 + state.step)
            before = [b.clone() for b in running]
            model.train()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                parts = model.loss(model(batch), batch)  # type: ignore[operator]
            loss = torch.stack([v.float() for v in parts.values()]).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            trained = [p for g in optimiser.param_groups for p in g["params"] if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
            if sane(norm, state.norms, optim.guard):
                if optim.clip_norm is not None:
                    torch.nn.utils.clip_grads_with_norm_(trained, optim.clip_norm, torch.tensor(norm))
                optimiser.step()
            else:
                state.skipped += 1
                for statistic, value in zip(running, before, strict=True):  # batch norm has seen the bad batch too
                    statistic.copy_(value)
                if state.skipped > steps / 2:
                    raise ModelError(f"{what}: {state.skipped} of {state.step + 1} updates had unusable gradients; "
                                     "lower the learning rate or train with optim.precision = \"fp32\".")
            state.step += 1
            # -------------------------------------------------------------------------------------

            # once in a while: log
            clips += _size(batch)
            for name, value in (("loss", loss), *parts.items()):
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            state.logged += 1
            if state.step % log_every == 0 or state.step == steps:
                rate = clips / (time.monotonic() - since)
                losses = {k: v / state.logged for k, v in sums.items()}
                log.write(state.step, **losses, gradient=norm, lr=optimiser.param_groups[0]["lr"],
                          skipped=state.skipped, per_second=round(rate, 1))
                bar.advance(0, f"loss {losses['loss']:.3f}, {rate:.0f}/s" +
                            (f", {state.skipped} skipped" if state.skipped else ""))
                clips, state.logged, since = 0, 0, time.monotonic()
                sums.clear()
            bar.advance()

            # once in a while: validate, keep the best
            if validate is not None and (state.step % (validate_every or per_epoch) == 0 or state.step == steps):
                model.eval()
                with torch.no_grad():
                    scores = dict(validate(model))
                log.write(state.step, **{f"valid_{k}": v for k, v in scores.items()})
                if not math.isnan(scores[best_by]) and (state.best is None or scores[best_by] > state.best[best_by]):
                    state.best = scores | {"step": state.step}
                    checkpoint.save(folder / "best.safetensors", model.state_dict(), {"kind": "weights"})
                since = time.monotonic()

            # once in a while: save everything
            if state.step % checkpoint_every == 0 or state.step == steps:
                state.save(folder, model, optimiser, who)
    # ---------------------------------------------------------------------------------------------

    if state.best is not None:
        model.load_state_dict(checkpoint.load(folder / "best.safetensors")[0])
    model.eval()
    if state.skipped:
        say(f"{what}: {state.skipped} of {steps} updates were skipped for unusable gradients")
    return Result(steps, losses, state.best, state.skipped, time.monotonic() - began)


def _from(data: Data, step: int, steps: int) -> Iterator[Any]:
    """The batches of updates ``step`` to ``steps``, epoch after epoch."""
    while step < steps:
        epoch, skip = divmod(step, len(data))
        for batch in data.epoch(epoch, skip):
            yield batch
            step += 1
            if step == steps:
                return


def _running(model: nn.Module) -> list[torch.Tensor]:
    """The statistics a forward pass changes: buffers that checkpoints keep."""
    kept = model.state_dict().keys()
    return [buffer for name, buffer in model.named_buffers() if name in kept]


def _size(batch: Any) -> int:
    return len(batch.clips) if hasattr(batch, "clips") else len(batch.features)


def _optimiser(model: nn.Module, optim: Optim) -> tuple[torch.optim.Optimizer, list[float]]:
    """The optimiser and the base rate of each of its groups: the encoder's, and everything else's."""
    names = [name for name, _ in model.named_parameters()]
    for prefix in optim.frozen:
        if not any(name.startswith(prefix) for name in names):
            raise CallError(f"optim.frozen names '{prefix}', but no parameter begins so; the first is '{names[0]}'.")
    encoder = getattr(model, "encoder", model)
    inside = {id(p) for p in encoder.parameters()}
    backbone: list[nn.Parameter] = []
    heads: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or name.startswith(optim.frozen or ("\0",)):
            continue
        (backbone if id(parameter) in inside else heads).append(parameter)
    if not backbone and not heads:
        raise CallError("optim.frozen freezes every parameter: there is nothing to train; leave something out of it.")
    groups = [(p, lr) for p, lr in ((backbone, optim.lr), (heads, optim.lr_heads)) if p]
    described: list[dict[str, Any]] = [{"params": p, "lr": lr} for p, lr in groups]
    if optim.name == "sgd":
        made: torch.optim.Optimizer = torch.optim.SGD(
            described, momentum=optim.momentum, weight_decay=optim.weight_decay)
    else:
        kind = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
        made = kind(described, weight_decay=optim.weight_decay)
    return made, [lr for _, lr in groups]


@dataclass
class _State:
    """What a run must remember beside its weights."""

    step: int
    skipped: int
    norms: list[float]
    best: dict[str, float] | None
    logged: int = 0
    """Updates since the last log point, and their sums."""
    sums: dict[str, float] = field(default_factory=dict)

    @classmethod
    def resume(cls, folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, who: Mapping[str, Any]) -> _State:
        path = folder / "last.safetensors"
        if not path.exists():
            return cls(0, 0, [], None)
        tensors, meta = checkpoint.load(path, "training")
        if meta["who"] != json.loads(json.dumps(who)):
            raise ModelError(f"'{folder}' holds a run with other settings; give another folder, or remove this one.")
        try:
            model.load_state_dict(checkpoint.section(tensors, "model"))
        except RuntimeError:
            raise ModelError(f"'{folder}' holds a run of another model; give another folder, "
                             "or remove this one.") from None
        memory = checkpoint.section(tensors, "optimiser")
        groups = optimiser.state_dict()["param_groups"]
        state: dict[int, dict[str, Any]] = {}
        for name, value in memory.items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
        optimiser.load_state_dict({"state": state, "param_groups": groups})
        return cls(meta["step"], meta["skipped"], meta["norms"], meta["best"], meta["logged"], meta["sums"])

    def save(self, folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, who: Mapping[str, Any]) -> None:
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"optimiser.{k}": v for k, v in checkpoint.flatten(optimiser.state_dict()["state"])}
        checkpoint.save(folder / "last.safetensors", tensors, {
            "kind": "training", "who": dict(who), "step": self.step, "skipped": self.skipped, "norms": self.norms,
            "best": self.best, "logged": self.logged, "sums": self.sums})


class _Log:
    """JSON lines, and TensorBoard beside them when asked for; lines past a resumed step are dropped first."""

    def __init__(self, path: Path, step: int, tensorboard: bool) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= step]
            with replacing(path) as file:
                file.writelines(line + "\n" for line in kept)
        self.board = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise CallError("TensorBoard is not installed; pip install \"cuemark[track]\".") from None
            self.board = SummaryWriter(str(path.parent))

    def write(self, step: int, **values: float) -> None:
        told = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **told}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
            self.board.flush()


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the line a kill cut short
        return math.inf
