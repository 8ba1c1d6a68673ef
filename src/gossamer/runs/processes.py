"""Several processes that do one job: who writes, which rows of a batch are whose, and how they come to agree.

Started by `accelerate launch` or torchrun; a process on its own is the only one. A batch is the same whatever the number of
processes: each takes its share of the rows, and sums over all rows are the sums of the shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")
FOREVER = timedelta(days=30)  # the first process may score a large set while the others wait


def begin() -> None:
    """Joins the other processes, where this one was started as one of several. They wait for each other as long as it takes."""
    from accelerate import PartialState

    PartialState(cpu=not torch.accelerator.is_available(), timeout=FOREVER)


def number() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, counted from 0."""
    return 0 if number() == 1 else distributed.get_rank()


def first() -> bool:
    """Whether this one writes files, scores and draws."""
    return rank() == 0


def share(rows: Sequence[T]) -> Sequence[T]:
    """The rows of a batch that are this process's."""
    return rows[rank() :: number()]


def agreed(decide: Callable[[], T]) -> T:
    """What the first process decides, in every process; where it decides by an error, that."""
    if number() == 1:
        return decide()
    box: list[Any] = [None, None]
    if first():
        try:
            box[0] = decide()
        except Exception as error:
            box[1] = error
    distributed.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]


def gathered(value: T) -> list[T]:
    """What every process has, in the order of the processes."""
    if number() == 1:
        return [value]
    box: list[Any] = [None] * number()
    distributed.all_gather_object(box, value)
    return box


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


def averaged(loss: Tensor, weight: float) -> Tensor:
    """A loss whose mean over the processes is the mean over all rows, of which this one's weigh `weight`."""
    return loss if number() == 1 else loss * (weight * number() / total([weight])[0])


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sums gradients over the processes; those that took no part in this step have none anywhere."""
    if number() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
