"""What a trained model takes on this machine: one item, a written answer, a training step; beside the bare backbone, in turns."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gossamer import batches, tasks
from gossamer.adapting import adapt
from gossamer.cost.measure import Measured, measure
from gossamer.methods.linear_probe import LinearProbe
from gossamer.runs.sets import load_sets
from gossamer.training.attention import attention, settled
from gossamer.training.trainer import optimizer

if TYPE_CHECKING:
    from gossamer.adapting import Adapted
    from gossamer.runs.run import Run, Training
    from gossamer.tasks.base import Task

REPEATS, STEP_REPEATS = 20, 5
MIB = 2**20


def timed(adapted: Adapted, run: Run, split: str, *, tuned: bool) -> dict[str, float]:
    """The columns of a row that are measured; the adapter is taken off its backbone.

    `latency` and, for written answers, `answer` are of the first item of the split: through the finished model and through the
    bare backbone with a head of the same size. `step` is a training step of the run, on its first batch; for composed models the
    text step beside it is that of the bare language model on the same texts without images, its gradient passing through every
    block. Milliseconds are medians, ratios the medians of those within each turn, MiB what one step makes and holds at most.

    Args:
        adapted: the trained model.
        run: its run.
        split: whose first item is timed.
        tuned: whether steps of training are part of the run.
    """
    task, sets = tasks.of(adapted), load_sets(run)
    taken = steps(adapted, task, sets["train"], run) if tuned else {}
    return passes(adapted, task, sets[split].subset([0])) | taken


def passes(adapted: Adapted, task: Task, items: Any, *, repeats: int = REPEATS) -> dict[str, float]:
    """`latency`, `answer` and their like of a batch of items, as in `timed`; the adapter is taken off its backbone."""
    inputs = _on(adapted, task.asked(task.prepare(items)))
    finished = adapted.attach().finalize()
    others = {f"bare_{name}": call for name, call in task.timed(bare(adapted), inputs).items()}
    with torch.no_grad():
        return _columns(measure({**others, **task.timed(finished, inputs)}, repeats=repeats), "bare_")


def steps(adapted: Adapted, task: Task, train: Any, run: Run, *, repeats: int = STEP_REPEATS) -> dict[str, float]:
    """`step`, `text_step` and their like of a training set's first batch, as in `timed`; the adapter is taken off its backbone."""
    prepared: Any = task.prepare(train.subset(range(min(run.training.batch, len(train)))))
    prepared.settle(adapted)
    batch = _on(adapted, prepared.collate([prepared[i] for i in range(len(prepared))]))
    trained = copy.deepcopy(adapted).train()
    if run.training.gradient_checkpointing:
        trained.activation_checkpointing_enable()
    training = settled(run.training, adapted.anatomy, task.sizes())
    rule = optimizer(trained, training)
    calls = {"step": functools.partial(step, trained, task, batch, training, rule)}
    frozen = _frozen(adapted)
    alone = task.texts_alone(frozen, batch)
    if alone is not None:
        calls["text_step"] = functools.partial(step, frozen, task, alone, training)
    taken = measure(calls, repeats=repeats)
    return _columns(taken, "text_") | {f"{name}_mib": of.peak_bytes / MIB for name, of in taken.items()}


def bare(adapted: Adapted) -> Any:
    """The backbone without the adapter, which is taken off, as a finished model with a head of its size where it has one."""
    found = _frozen(adapted)
    return found if adapted.num_labels is None else found.finalize()


def _frozen(adapted: Adapted) -> Any:
    """The frozen backbone without the adapter, with a head of its size where it has one."""
    device, model = next(adapted.parameters()).device, adapted.detach().requires_grad_(False)
    return (
        model if adapted.num_labels is None else adapt(model, LinearProbe(), num_labels=adapted.num_labels).to(device)
    )


def step(
    model: torch.nn.Module,
    task: Task,
    batch: dict[str, Tensor],
    training: Training,
    rule: torch.optim.Optimizer | None = None,
) -> None:
    """One step of training on a batch, by the run's precision and attention; without `rule` nothing is updated."""
    model.zero_grad()
    with attention(training):
        with torch.autocast(next(iter(batch.values())).device.type, torch.bfloat16, enabled=training.bfloat16):
            loss = task.loss(model, batch)
        loss.backward()
    if rule is not None:
        rule.step()


def _columns(taken: Mapping[str, Measured], other: str) -> dict[str, float]:
    """Milliseconds of each, and the ratio of each to the one whose name begins with `other`."""
    ratios = {f"{n}_ratio": of.ratio(taken[other + n]) for n, of in taken.items() if other + n in taken}
    return {f"{name}_ms": 1000 * of.seconds for name, of in taken.items()} | ratios


def _on(adapted: Adapted, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch where the model is."""
    return batches.on(next(adapted.parameters()).device, batch)
