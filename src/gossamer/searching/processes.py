"""Several processes that do one job: who writes, which rows of a batch are whose, and how they come to agree.

Started by `accelerate launch` or torchrun; a process on its own is the only one. A batch is the same whatever the number of
processes: each takes its share of the rows, and sums over all rows are the sums of the shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")


def begin() -> None:
    """Joins the other processes, where this one was started as one of several."""
    from accelerate import PartialState

    PartialState()


def number() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def first() -> bool:
    """Whether this one writes files and draws."""
    return number() == 1 or distributed.get_rank() == 0


def share(rows: Sequence[T]) -> Sequence[T]:
    """The rows of a batch that are this process's."""
    return rows if number() == 1 else rows[distributed.get_rank() :: number()]


def agreed(decide: Callable[[], T]) -> T:
    """What the first process decides."""
    if number() == 1:
        return decide()
    box = [decide() if first() else None]
    distributed.broadcast_object_list(box)
    return box[0]  # type: ignore[return-value]


def total(values: Sequence[float]) -> list[float]:
    """Sums of numbers over the processes, in double precision."""
    if number() == 1:
        return list(values)
    device = torch.device("cuda") if distributed.get_backend() == "nccl" else torch.device("cpu")
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(summed)
    return summed.tolist()


def same_start(parameters: Iterable[Tensor]) -> None:
    """Gives every process the first one's values."""
    for parameter in parameters if number() > 1 else ():
        distributed.broadcast(parameter.data, src=0)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sums gradients over the processes; those that took no part in this step have none anywhere."""
    if number() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
