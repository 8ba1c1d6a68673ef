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


def warning(before: float, now: float, measure: str, keep: str) -> str | None:
    """That a run ends below its start, on the same validation items, and what to do; None where it does not."""
    if now >= before:
        return None
    best = "set training.keep=best, which counts the start among the epochs; or " if keep == "last" else ""
    return (
        f"training made it worse: {measure} {now:.2%} on validation items, and {before:.2%} before the first step (epoch 0). "
        f"What helps: {best}a lower training.lr and training.head_lr, fewer training.epochs, more data"
    )
