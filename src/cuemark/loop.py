"""The only training loop: any :class:`~cuemark.batch.Trainable`, any data that can be asked for an epoch.

A run lives in one folder: ``log.jsonl`` (one line per log point), ``last.safetensors`` (everything needed to go on) and
``best.safetensors`` (weights of the best validation). Killed at any moment and started again, it ends with the same
weights as an undisturbed run: data draws depend on (seed, epoch, sample), the model's own draws on (seed, step), and
the checkpoint holds model, optimiser, guard, scaler and average. Started by ``torchrun``, several processes train one
model (:mod:`cuemark.ranks`); a run goes on with the number of processes it began with.

One update, whatever the size of the batch (``Optim.chunk``), and however many processes share it::

    rows of this process -> model -> outputs (b, …)      in chunks without gradients, if the batch is too large
    outputs and targets of all processes -> loss         every clip of the batch is a negative of every other
    gradients of the outputs -> chunk by chunk through the model once more (gradient caching, Gao et al.,
      "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021)
    mean over processes -> guard -> optimiser

Steps are guarded: gradients that are not finite, or far above their running median, are thrown away, counted and
reported. They do occur: bf16 gradients of some CPU convolutions are garbage (``benchmarks/bf16_conv3d.py``), and often
finite garbage.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cuemark import checkpoint, ranks
from cuemark.errors import CallError, ModelError, within
from cuemark.folders import unwritable
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
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """auto: bf16 autocast where the hardware computes in it. fp16 scales its losses."""
    guard: float = 30.0
    """A step whose gradient norm is this many times the running median is skipped."""
    chunk: int | None = None
    """Rows of a batch that go through the model at a time (gradient caching). The loss still sees the whole batch,
    which accumulating gradients over small batches would not do for a contrast; the price is a second forward pass.
    With ``frozen_statistics`` the gradients are those of the whole batch at once. With live batch norm every chunk is
    normalised by its own statistics, and the gradients are others, by a lot where chunks are small."""
    frozen_statistics: bool = False
    """Batch norms normalise by their running statistics and leave them as they are."""
    recompute: bool = False
    """Keep no activations inside the encoder's layers, but compute them again in the backward pass."""
    ema: float = 0.0
    """Validate and keep an exponential moving average of the weights, with this decay; 0: the weights themselves."""
    compile: bool = False
    """Compile the encoder (``torch.compile``)."""

    def __post_init__(self) -> None:
        for name, low, high in (("lr", 0, None), ("lr_heads", 0, None), ("momentum", 0, 1), ("weight_decay", 0, None),
                                ("batch", 1, None), ("warmup", 0, 1), ("gamma", 0, 1), ("guard", 1, None),
                                ("clip_norm", 0, None), ("chunk", 1, None), ("ema", 0, 1)):
            if getattr(self, name) is not None:
                within(f"optim.{name}", getattr(self, name), low, high)
        for at in self.decay_at:
            within("optim.decay_at", at, 0, 1)
        if not (self.steps is None or self.steps >= 1) or not 0 < self.epochs < math.inf:
            raise CallError(f"optim.steps and optim.epochs must be positive, got {self.steps} and {self.epochs}.")
        if self.recompute and self.compile:  # PyTorch compiles no checkpoint that leaves batch norms' memories alone
            raise CallError("optim.recompute and optim.compile do not go together; leave one of them out.")

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


LAST = "last.safetensors"
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


def _autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """What to compute in under autocast; None: float32."""
    if precision == "auto":
        here = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if here else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


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
    keep: int = 1,
) -> Result:
    """Train ``model`` in place; it ends with the best validated weights, or the last ones without ``validate``.

    Args:
        data: training batches.
        folder: of the run; an unfinished run found there is continued.
        validate: scores of the model in eval mode; called every ``validate_every`` updates (default: each epoch)
            and at the end; the highest ``best_by`` wins.
        identity: what makes this run this run; a folder whose checkpoint says otherwise is refused.
        keep: checkpoints to go on from that stay in the folder: the last one, and ``step-<n>.safetensors`` before it.

    Raises:
        CallError: there is not one full batch, or it cannot be shared by the processes.
        ModelError: the folder holds another run, or every gradient is garbage.
        DataError: the folder cannot be written, for example because the disk is full; the last checkpoint stays.
    """
    device, folder = torch.device(device), Path(folder)
    per_epoch = len(data)
    if per_epoch == 0:
        raise CallError("there are fewer training samples than one batch; lower optim.batch or bring more data.")
    steps = optim.steps if optim.steps is not None else max(1, round(optim.epochs * per_epoch))
    model.to(device)
    optimiser, base_rates = _optimiser(model, optim)
    dtype = _autocast(optim.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    averaged = None
    if optim.ema:
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(optim.ema), use_buffers=True)
    for encoder in encoders(model):
        if optim.recompute:
            if not hasattr(encoder, "recompute"):
                raise CallError(f"optim.recompute: {type(encoder).__name__} cannot compute its activations again.")
            setattr(encoder, "recompute", True)  # noqa: B010 (a module's attribute of its own)
        if optim.compile:
            encoder.compile()
    first = ranks.rank() == 0
    if first:
        for left in (*folder.glob(".*.safetensors.*.tmp"), *folder.glob(".log.jsonl.*.tmp")):  # of a kill inside a save
            left.unlink(missing_ok=True)
    who = {"optim": asdict(optim), "seed": seed, "ranks": ranks.count(), **(identity or {})}
    state = _State.resume(folder, model, optimiser, scaler, averaged, who)
    ranks.wait()  # all have read before one writes
    with _writing(folder):
        log = _Log(folder / "log.jsonl", state.step, tensorboard) if first else None
    running = _running(model)
    began = since = time.monotonic()
    clips, waited, sums = 0, 0.0, state.sums
    losses: dict[str, float] = {}
    batches = _from(data, state.step, steps)

    # ---------------------------------------------------------------------------------------------
    with Bar(what, steps, state.step) as bar:
        while state.step < steps:
            asked = time.monotonic()
            batch = next(batches).to(device)
            waited += time.monotonic() - asked
            # -------------------------------------------------------------------------------------
            # the step
            for group, rate in zip(optimiser.param_groups, base_rates, strict=True):
                group["lr"] = rate * optim.factor(state.step, steps)
            before = [b.clone() for b in running]
            model.train()
            if optim.frozen_statistics:
                still(model)
            optimiser.zero_grad(set_to_none=True)
            parts = gradients(model, batch, optim.chunk, seed * 1_000_003 + state.step, dtype, scaler)
            trained = [p for g in optimiser.param_groups for p in g["params"] if p.grad is not None]
            ranks.average([p.grad for p in trained if p.grad is not None])
            ranks.average([b for b in running if b.is_floating_point()])
            scaler.unscale_(optimiser)
            norm = float(torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
            if sane(norm, state.norms, optim.guard):
                if optim.clip_norm is not None:
                    torch.nn.utils.clip_grads_with_norm_(trained, optim.clip_norm, torch.tensor(norm))
                scaler.step(optimiser)
                if averaged is not None:
                    averaged.update_parameters(model)
            else:
                state.skipped += 1
                for statistic, value in zip(running, before, strict=True):  # batch norm has seen the bad batch too
                    statistic.copy_(value)
                still_scaling = scaler.is_enabled() and scaler.get_scale() > 1  # fp16 begins with a few overflows
                if state.skipped > steps / 2 and not still_scaling:
                    raise ModelError(f"{what}: {state.skipped} of {state.step + 1} updates had unusable gradients; "
                                     "lower the learning rate or train with optim.precision = \"fp32\".")
            scaler.update()
            state.step += 1
            # -------------------------------------------------------------------------------------

            # once in a while: log
            clips += _size(batch) * ranks.count()
            for name, part in parts.items():
                total, times = sums.get(name, (0.0, 0))
                sums[name] = total + part, times + 1
            if state.step % log_every == 0 or state.step == steps:
                spent = time.monotonic() - since
                losses = {name: total / times for name, (total, times) in sums.items()}
                if log is not None:
                    with _writing(folder):
                        log.write(state.step, **losses, gradient=norm, lr=optimiser.param_groups[0]["lr"],
                                  skipped=state.skipped, per_second=round(clips / spent, 1),
                                  data_wait=round(waited / spent, 3), memory_mb=_memory(device))
                bar.advance(0, _line(losses, clips / spent, waited / spent, _memory(device), state.skipped))
                clips, waited, since = 0, 0.0, time.monotonic()
                sums.clear()
            bar.advance()

            stopped = time.monotonic()  # what follows is no part of an update
            # once in a while: validate, keep the best
            if validate is not None and (state.step % (validate_every or per_epoch) == 0 or state.step == steps):
                judged = model if averaged is None else averaged.module
                judged.eval()
                with torch.no_grad():
                    scores = dict(validate(judged))
                if log is not None:
                    with _writing(folder):
                        log.write(state.step, **{f"valid_{k}": v for k, v in scores.items()})
                if not math.isnan(scores[best_by]) and (state.best is None or scores[best_by] > state.best[best_by]):
                    state.best = scores | {"step": state.step}
                    if first:
                        with _writing(folder):
                            checkpoint.save(folder / "best.safetensors", judged.state_dict(), {"kind": "weights"})

            # once in a while: save everything
            if first and (state.step % checkpoint_every == 0 or state.step == steps):
                with _writing(folder):
                    state.save(folder, model, optimiser, scaler, averaged, who, keep)
            since += time.monotonic() - stopped
    # ---------------------------------------------------------------------------------------------

    ranks.wait()
    if state.best is not None:
        model.load_state_dict(checkpoint.load(folder / "best.safetensors")[0])
    elif averaged is not None:
        model.load_state_dict(averaged.module.state_dict())
    model.eval()
    if state.skipped:
        say(f"{what}: {state.skipped} of {steps} updates were skipped for unusable gradients")
    return Result(steps, losses, state.best, state.skipped, time.monotonic() - began)


def gradients(model: nn.Module, batch: Any, chunk: int | None = None, seed: int = 0,
              dtype: torch.dtype | None = None, scaler: torch.amp.GradScaler | None = None) -> dict[str, float]:
    """Add the gradient of a batch's loss to the parameters'; gives the loss, its parts and the accuracies.

    Args:
        batch: my rows. Where it can be ``gathered``, the loss is of the rows of all ranks.
        chunk: see :attr:`Optim.chunk`.
        seed: of what the model draws; every rank draws the same.
        dtype: of autocast; None: none.
        scaler: scales the loss.
    """
    kind = next(model.parameters()).device.type
    running = _running(model)

    def forward(rows: Any) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        with torch.autocast(kind, dtype, enabled=dtype is not None):
            out: dict[str, Tensor] = model(rows)
            return out

    if chunk is not None and not hasattr(batch, "split"):
        raise CallError("optim.chunk is for batches of clips; leave it out here.")
    pieces = batch.split(chunk) if chunk is not None and chunk < _size(batch) else [batch]
    if len(pieces) == 1:
        out = forward(batch)
    else:
        before = [b.clone() for b in running]
        with torch.no_grad():
            outs = [forward(piece) for piece in pieces]
        for statistic, value in zip(running, before, strict=True):  # the second pass moves them
            statistic.copy_(value)
        out = {name: torch.cat([o[name] for o in outs]) for name in outs[0]}
        out = {name: rows.requires_grad_(rows.is_floating_point()) for name, rows in out.items()}
    joined, whole = out, batch
    if ranks.count() > 1 and hasattr(batch, "gathered"):
        joined, whole = {name: ranks.gathered(rows) for name, rows in out.items()}, batch.gathered()
    with torch.autocast(kind, dtype, enabled=dtype is not None):
        parts = model.loss(joined, whole)  # type: ignore[operator]
    loss = torch.stack([v.float() for v in parts.values()]).sum()
    (scaler.scale(loss) if scaler is not None else loss).backward()
    if len(pieces) > 1:
        done = 0
        for piece in pieces:
            again, size = forward(piece), _size(piece)
            used = {name: rows.grad for name, rows in out.items()
                    if rows.grad is not None and again[name].requires_grad}
            torch.autograd.backward([again[name] for name in used], [g[done : done + size] for g in used.values()])
            done += size
    told = {"loss": float(loss.detach()), **{name: float(v.detach()) for name, v in parts.items()}}
    if hasattr(model, "accuracy"):
        with torch.no_grad():
            right = model.accuracy(joined, whole)  # type: ignore[operator]
        told |= {f"{name}_accuracy": r / n for name, (r, n) in right.items() if n}
    return told


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What the disk says, in one sentence; what was written before stays."""
    try:
        yield
    except OSError as error:
        raise unwritable(folder, error) from None


def still(model: nn.Module) -> None:
    """Batch norms that normalise by their running statistics, in a model that is trained."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _line(losses: Mapping[str, float], rate: float, waiting: float, memory: int, skipped: int) -> str:
    """What matters, in one line."""
    right = ", ".join(f"{k.removesuffix('_accuracy')} {100 * v:.0f} %" for k, v in losses.items()
                      if k.endswith("_accuracy"))
    parts = " + ".join(f"{k} {v:.3f}" for k, v in losses.items() if k != "loss" and not k.endswith("_accuracy"))
    return (f"loss {losses['loss']:.3f}" + (f" = {parts}" if "+" in parts else "")
            + (f", right: {right}" if right else "")
            + f", {rate:.0f}/s, {100 * waiting:.0f} % waiting, {memory / 1000:.1f} GB"
            + (f", {skipped} skipped" if skipped else ""))


def _memory(device: torch.device) -> int:
    """Most memory used so far, in megabytes: the GPU's, or this process's."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


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


def encoders(model: nn.Module) -> list[nn.Module]:
    """What a model has inside that was trained before: its towers, or its encoder; itself where there is none."""
    towers: list[nn.Module] = getattr(model, "towers", [])
    return towers or [getattr(model, "encoder", model)]


def _optimiser(model: nn.Module, optim: Optim) -> tuple[torch.optim.Optimizer, list[float]]:
    """The optimiser and the base rate of each of its groups: the encoders', and everything else's."""
    names = [name for name, _ in model.named_parameters()]
    for prefix in optim.frozen:
        if not any(name.startswith(prefix) for name in names):
            raise CallError(f"optim.frozen names '{prefix}', but no parameter begins so; the first is '{names[0]}'.")
    paced: list[nn.Module] = getattr(model, "paced", []) or encoders(model)
    inside = {id(p) for part in paced for p in part.parameters()}
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
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Since the last log point: the sum of each value, and how many updates had it."""

    @classmethod
    def resume(cls, folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
               averaged: AveragedModel | None, who: Mapping[str, Any]) -> _State:
        path = folder / LAST
        if not path.exists():
            return cls(0, 0, [], None)
        try:
            tensors, meta = checkpoint.load(path, "training")
        except ModelError as error:
            older = _older(folder)
            advice = f"rename '{older[-1].name}' to it to go on from there" if older else "remove it to begin anew"
            what = str(error).removesuffix("; was the copy complete?").removesuffix(".")
            raise ModelError(f"{what}; {advice}.") from None
        if meta["who"] != json.loads(json.dumps(who)):
            raise ModelError(f"'{folder}' holds a run with other settings{_difference(meta['who'], who)}; give another "
                             "folder, or remove this one.")
        try:
            model.load_state_dict(checkpoint.section(tensors, "model"))
            if averaged is not None:
                averaged.load_state_dict(checkpoint.section(tensors, "averaged"))
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
        if meta.get("scaler"):
            scaler.load_state_dict(meta["scaler"])
        return cls(meta["step"], meta["skipped"], meta["norms"], meta["best"],
                   {name: tuple(value) for name, value in meta["sums"].items()})

    def save(self, folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
             averaged: AveragedModel | None, who: Mapping[str, Any], keep: int) -> None:
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        if averaged is not None:
            tensors |= {f"averaged.{k}": v for k, v in averaged.state_dict().items()}
        tensors |= {f"optimiser.{k}": v for k, v in checkpoint.flatten(optimiser.state_dict()["state"])}
        if keep > 1 and (folder / LAST).exists():
            step = checkpoint.load(folder / LAST, "training")[1]["step"]
            (folder / f"step-{step}.safetensors").unlink(missing_ok=True)
            try:  # under both names until the new one is there
                os.link(folder / LAST, folder / f"step-{step}.safetensors")
            except OSError:  # a file system without second names
                shutil.copyfile(folder / LAST, folder / f"step-{step}.safetensors")
        checkpoint.save(folder / LAST, tensors, {
            "kind": "training", "who": dict(who), "step": self.step, "skipped": self.skipped, "norms": self.norms,
            "best": self.best, "sums": self.sums, "scaler": scaler.state_dict()})
        older = _older(folder)
        for path in older[: max(0, len(older) - keep + 1)]:
            path.unlink()


def _older(folder: Path) -> list[Path]:
    """Checkpoints before the last one, the oldest first."""
    found = [p for p in folder.glob("step-*.safetensors") if p.stem.removeprefix("step-").isdigit()]
    return sorted(found, key=lambda p: int(p.stem.removeprefix("step-")))


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], name: str = "") -> str:
    """The first setting in which two runs differ, for people."""
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), json.loads(json.dumps(new.get(key)))
        if a != b:
            where = f"{name}.{key}" if name else key
            if isinstance(a, Mapping) and isinstance(b, Mapping):
                return _difference(a, b, where)
            return f" ({where} was {a}, is {b})"
    return ""


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


def validations(folder: str | Path) -> list[dict[str, float | None]]:
    """The scores of every validation of a run, with their ``step``, in order; none without validation."""
    path = Path(folder) / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    told = [json.loads(line) for line in lines if _step(line) < math.inf]
    return [{"step": line["step"], **{k.removeprefix("valid_"): v for k, v in line.items() if k.startswith("valid_")}}
            for line in told if any(k.startswith("valid_") for k in line)]


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the line a kill cut short
        return math.inf
