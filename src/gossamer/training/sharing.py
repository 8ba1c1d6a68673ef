"""The batches of a run that several processes train: those of one process, in its order, each process with its rows of each."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler
from transformers import TrainingArguments
from transformers.trainer_utils import seed_worker

from gossamer.runs import processes

NOTHING = -100  # label of what is not to be predicted, in every task


class Shares(Sampler[list[int]]):
    """This process's rows of every batch; where a batch has none for it, the first row, whose `weight` is then 0."""

    def __init__(self, batch_sampler: BatchSampler):
        self.batch_sampler, self.sampler = (
            batch_sampler,
            batch_sampler.sampler,
        )  # accelerate gives both its seeded order

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batch_sampler:
            yield list(processes.share(batch)) or batch[:1]

    def __len__(self) -> int:
        return len(self.batch_sampler)


def loader(items: Any, collate: Any, arguments: TrainingArguments) -> Any:
    """The training batches, of which this process reads its rows."""
    batches = BatchSampler(RandomSampler(items), arguments.train_batch_size, drop_last=False)
    start = functools.partial(seed_worker, num_workers=arguments.dataloader_num_workers, rank=arguments.process_index)
    shares: DataLoader[Any] = DataLoader(
        items,
        batch_sampler=Shares(batches),
        collate_fn=collate,
        num_workers=arguments.dataloader_num_workers,
        pin_memory=arguments.dataloader_pin_memory,
        worker_init_fn=start,
    )
    # As if for one process: shared out they are already. The order is then that of accelerate, which Trainer's own loaders have.
    return prepare_data_loader(
        shares, arguments.device, num_processes=1, process_index=0, put_on_device=True, use_seedable_sampler=True
    )


def weight(labels: Tensor, step: int, items: int, batch: int) -> int:
    """What this process's rows of a step count among those of all: the labels that are to be predicted.

    Args:
        labels: classes [B], tokens [B, n] or scores [B, C].
        step: of training, counted from 0.
        items: in an epoch.
        batch: in a step, the last one of an epoch having fewer.
    """
    left, last = items % batch, (step + 1) % -(-items // batch) == 0
    if last and 0 < left <= processes.rank():
        return 0
    return len(labels) if labels.is_floating_point() else int((labels != NOTHING).sum())
