"""Several processes that train one model together (``torchrun``): who I am, and what we tell each other.

Alone, everything here is the identity. Each process, a *rank*, encodes its own rows of a batch. The rows' outputs are
gathered before the loss, so that every rank computes the loss of the whole batch, and a clip's negatives are those of
all ranks; gradients of the parameters are averaged afterwards. That way the gradient is the one that a single process
would have on the same batch, for any loss of the rows' outputs. (Batch norm with live statistics sees the rows of its
rank alone, as in ``DistributedDataParallel``.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from cuemark.errors import CallError


def rank() -> int:
    """My number among the processes, from 0; 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes train together; 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def together(device: torch.device | str) -> Iterator[torch.device]:
    """Meet the other processes where ``torchrun`` started several; gives this one's device.

    Processes on GPUs talk through NCCL and take the GPU of their local rank, others through gloo.
    """
    device = torch.device(device)
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def mine(rows: Sequence[Any] | np.ndarray) -> Any:
    """My share of the rows of a batch: a contiguous slice, so that gathering restores the order.

    Raises:
        CallError: the rows cannot be shared evenly.
    """
    if len(rows) % count():
        raise CallError(f"a batch of {len(rows)} cannot be shared evenly by {count()} processes; change optim.batch.")
    each = len(rows) // count()
    return rows[rank() * each : (rank() + 1) * each]


class _Gather(torch.autograd.Function):
    """Rows of all ranks. Each rank computes one and the same loss of them, and averages its gradients with the others
    afterwards: a rank's rows get their gradient times the number of ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(count())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].chunk(count())[rank()] * count()


def gathered(rows: Tensor) -> Tensor:
    """``(B / ranks, …)`` of each rank to ``(B, …)``, with gradients."""
    if count() == 1:
        return rows
    if rows.dtype == torch.bool:  # gloo knows no bool
        return gathered(rows.to(torch.uint8)).bool()
    return _Gather.apply(rows)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks; one message for all of a kind."""
    if count() == 1:
        return
    for dtype in {t.dtype for t in tensors}:
        of_kind = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.reshape(-1) for t in of_kind])
        dist.all_reduce(flat)
        flat /= count()
        for tensor, part in zip(of_kind, flat.split([t.numel() for t in of_kind]), strict=True):
            tensor.copy_(part.view_as(tensor))


def summed(counts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sums of named arrays over the ranks; a rank may lack some of them."""
    if count() == 1:
        return dict(counts)
    told: list[Any] = [None] * count()
    dist.all_gather_object(told, dict(counts))
    names = dict.fromkeys(name for one in told for name in one)
    return {name: sum(one[name] for one in told if name in one) for name in names}


def wait() -> None:
    """Until every rank is here."""
    if count() > 1:
        dist.barrier()
