"""Epoch 0: what a run starts from, the solved head, is scored like every epoch, so that none ends below it without a word."""

from __future__ import annotations

import json
from typing import Any

from gossamer.adapting import Adapted
from gossamer.documents import write_whole
from gossamer.runs import processes
from gossamer.runs.folder import START, START_WEIGHTS, RunFolder
from gossamer.runs.prepared import PreparedSet
from gossamer.storage import pack, unpack
from gossamer.tasks.base import Scores, Task


def begin(
    adapted: Adapted, task: Task, held: PreparedSet | None, folder: RunFolder, *, workers: int, keep: bool
) -> list[dict[str, Any]]:
    """Epoch 0 as a record of the history, as `progress.epochs` makes them; none without validation items.

    Args:
        held: the validation items.
        keep: also put the adapter aside, for `restore`.
    """
    found: list[dict[str, Any]] = []
    if held is not None:
        scores = processes.agreed(lambda: told(task.score(adapted, held, workers=workers)))
        found = [{"step": 0, "epoch": 0, **{f"val_{name}": value for name, value in scores.items()}}]
    if keep and processes.first():
        write_whole(folder / START_WEIGHTS, pack(adapted.state_dict()))
    folder.write(START, json.dumps(found))
    return found


def told(scores: Scores) -> dict[str, Any]:
    """What a history says of scores: the loss and the headline."""
    return {"loss": scores.loss, **scores.headline()}


def restore(adapted: Adapted, folder: RunFolder) -> None:
    """The adapter that `begin` put aside takes the place of the trained one."""
    path = folder / START_WEIGHTS
    adapted.load_state_dict(unpack(path.read_bytes(), path))


def preferred(history: list[dict[str, Any]], keep: str, items: int, measure: str) -> str | None:
    """Why the start is kept in place of what was trained, as a sentence; None where it is not.

    With keep=best every epoch is beside the start. With keep=better only the last one is, whose rates have fallen to nothing, and
    it must be above the start by more than one standard error of an accuracy on so many validation items: of 10, 20 or 30 one
    more is right in some epoch whatever is trained, and test images then say less than the start did.

    Args:
        history: epoch 0 and the trained ones.
        keep: `Training.keep`.
        items: for validation.
        measure: what the task calls the accuracy.
    """
    before, *after = (record["val_accuracy"] for record in history)
    said = f"{measure} {before:.2%}"
    if keep == "best" and max(after) <= before:
        return f"no epoch was better than the start, {said}: that is kept"
    error = standard_error(before, items)
    if keep == "better" and after[-1] <= before + error:
        return (
            f"the start (epoch 0) is kept, {said} on {items:,} validation items: the last epoch, {after[-1]:.2%}, is "
            f"not better by more than one standard error, {error:.2%}"
        )
    return None


def standard_error(accuracy: float, items: int) -> float:
    """Of an accuracy on so many items."""
    return (accuracy * (1 - accuracy) / items) ** 0.5


def warning(before: float, now: float, measure: str, keep: str) -> str | None:
    """That a run ends below its start, on the same validation items, and what to do; None where it does not."""
    if now >= before:
        return None
    best = "set training.keep=better, which keeps the start unless training helped; or " if keep == "last" else ""
    return (
        f"training made it worse: {measure} {now:.2%} on validation items, and {before:.2%} before the first step (epoch 0). "
        f"What helps: {best}a lower training.lr and training.head_lr, fewer training.epochs, more data"
    )
