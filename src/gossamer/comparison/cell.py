"""What the process of one cell does: train, measure, and leave what came of it beside the run.

An error is left there too, so that whoever started the process can read it.
"""

from __future__ import annotations

import dataclasses
import json
import traceback
from typing import Any

from gossamer.comparison.plan import Cell
from gossamer.cost import machine
from gossamer.documents import read_json_lines
from gossamer.errors import UserError, told
from gossamer.runs.folder import RunFolder
from gossamer.runs.lock import alone

ROW, ERROR = "row.json", "error.txt"
COLUMNS = (
    "method", "task", "seed", "split", "accuracy", "balanced_accuracy", "trainable_parameters", "gmacs", "bare_gmacs",
    "training_gmacs", "latency_ms", "bare_latency_ms", "latency_ratio", "answer_ms", "bare_answer_ms", "answer_ratio",
    "step_ms", "text_step_ms", "step_ratio", "step_mib", "text_step_mib", "seconds", "probe", "images", "settings", "selection",
    "protocol", "curve", "versions", "hardware", "error",
)  # fmt: skip
"""Of every row, see docs/compare.md."""


def finished(cell: Cell) -> bool:
    """Whether the cell needs no more work."""
    return (cell.folder / ROW).is_file()


def attempt(cell: Cell, threads: int) -> str | None:
    """Performs a cell with so many threads; None, or what went wrong in one sentence, which is then in its folder too.

    A process that was killed may still be dying: its lock is waited for.
    """
    import torch

    torch.set_num_threads(threads)
    with alone(cell.folder, wait=True):
        (cell.folder / ERROR).unlink(missing_ok=True)
        try:
            perform(cell)
        except Exception as error:
            sentence = told(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
            (cell.folder / ERROR).write_text(f"{sentence}\n\n{traceback.format_exc()}", encoding="utf-8")
            return sentence
    return None


def perform(cell: Cell) -> None:
    """Trains the cell, or goes on where it was killed, and writes what came of it.

    Settings that make training diverge are an outcome where settings are being chosen, and an error elsewhere.

    Raises:
        ValueError: there is nothing to score; and whatever `gossamer.condensation.run.train` raises.
    """
    from gossamer.condensation.run import train

    try:
        metrics = train(cell.run, resume=True, shared=cell.shared)
        found = _tried(cell, metrics) if cell.choosing else row(cell, metrics)
    except FloatingPointError as error:
        if not cell.choosing:
            raise
        found = {"validation_accuracy": None, "validation_loss": None, "error": str(error)}
    RunFolder(cell.run, resume=True).write(ROW, json.dumps(found) + "\n")


def _tried(cell: Cell, metrics: dict[str, Any]) -> dict[str, Any]:
    if "val" not in metrics:
        raise UserError(f"{cell.run.data.name} has no validation split to choose on: set selection.validation above 0")
    return {
        "validation_accuracy": metrics["val"]["accuracy"],
        "validation_loss": metrics["val"]["loss"],
        "macs": metrics["macs"]["finished"],
        "seconds": metrics["seconds"],
        "curve": _history(cell),
        "error": None,
    }


def row(cell: Cell, metrics: dict[str, Any]) -> dict[str, Any]:
    """The row of a trained cell, with the values of `COLUMNS` that the cell itself can know; times are measured now.

    Raises:
        ValueError: the data have neither a test nor a validation split.
    """
    from gossamer import tasks
    from gossamer.comparison.timing import timed
    from gossamer.runs.trained import load_adapter

    split = next((name for name in ("test", "val") if name in metrics), None)
    if split is None:
        raise UserError(
            f"{cell.run.data.name} has neither a test nor a validation split to score: set data.validation above 0"
        )
    protocol = {n: v for n, v in dataclasses.asdict(cell.run).items() if n not in ("output", "seed")}
    training = metrics["training_flops"]
    return {
        "method": cell.method,
        "task": cell.task,
        "seed": cell.run.seed,
        "split": split,
        "accuracy": metrics[split]["accuracy"],
        "balanced_accuracy": metrics[split].get("balanced_accuracy"),
        "trainable_parameters": metrics["trainable_parameters"],
        "gmacs": metrics["macs"]["finished"] / 1e9,
        "bare_gmacs": metrics["macs"]["bare"] / 1e9,
        "training_gmacs": None if training is None else training / 2e9,
        **timed(load_adapter(cell.folder), cell.run, split, tuned=training is not None),
        "seconds": metrics["seconds"],
        "probe": (metrics["warm_start"] or {}).get("probe"),
        "images": metrics[tasks.kind(cell.run).unit],
        "settings": cell.settings,
        "protocol": protocol,
        "curve": _history(cell),
        "versions": machine.versions(),
        "hardware": machine.hardware(),
    }


def _history(cell: Cell) -> list[dict[str, Any]]:
    """One record an epoch; none where the head was solved and nothing tuned."""
    path = cell.folder / "history.jsonl"
    return [record for _, record in read_json_lines(path)] if path.is_file() else []
