"""The end of shrinking: what was chosen is trained on all items, and only then scored on test items, beside run and probe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from gossamer import tasks
from gossamer.comparison.cell import ROW
from gossamer.comparison.plan import Cell
from gossamer.comparison.timing import passes
from gossamer.documents import read_json, write_whole
from gossamer.racing.costs import file_share
from gossamer.racing.trials import perform
from gossamer.racing.whole import Smaller, Whole
from gossamer.runs.run import Search
from gossamer.runs.trained import load_adapter

BATCHES = (1, 32)  # of which the time is measured
LATENCY = "latency_ratio_at_"
EXPORTED = "exported.json"
KEPT = (
    "split", "accuracy", "balanced_accuracy", "trainable_parameters", "gmacs", "bare_gmacs", "latency_ms", "bare_latency_ms",
    "latency_ratio", "seconds",
)  # fmt: skip
"""Of the row of a run."""


def final(whole: Whole, chosen: Smaller, folder: Path) -> list[dict[str, Any]]:
    """The chosen model, trained on all that the run was trained on; its scores and times, one record a seed.

    In 8 bits accuracy and times are those of the exported file.
    """
    cells = []
    for i in range(whole.asked.seeds):
        seed = whole.run.seed + i
        run = whole.planned(chosen, Path(whole.asked.run), folder / f"seed-{seed}")
        cells.append(
            Cell(method="shrunk", task=run.data.name, run=dataclasses.replace(run, seed=seed, search=Search()))
        )
    perform(cells, whole.asked)
    found = []
    for cell in cells:
        of_run = {"seed": cell.run.seed, "run": str(cell.folder), **_kept(cell)}
        found.append(of_run | (_exported(whole, cell) if chosen.int8 else latencies(whole, cell)))
    return found


def latencies(whole: Whole, cell: Cell) -> dict[str, Any]:
    """Time against the bare backbone's, of one item and of many."""
    adapted = load_adapter(cell.folder)
    task = tasks.of(adapted)
    return {f"{LATENCY}{count}": passes(adapted, task, whole.items(count))["latency_ratio"] for count in BATCHES}


def probe(whole: Whole, folder: Path) -> dict[str, Any]:
    """The linear probe on the same items."""
    run = dataclasses.replace(whole.run, methods=[{"method": "linear_probe"}], output=str(folder), condense=None)
    cell = Cell(method="probe", task=run.data.name, run=run)
    perform([cell], whole.asked)
    return _kept(cell)


def _kept(cell: Cell) -> dict[str, Any]:
    row = read_json(cell.folder / ROW)
    return {name: row[name] for name in KEPT}


def _exported(whole: Whole, cell: Cell) -> dict[str, Any]:
    from gossamer.export import export_run, file_of

    file, kept = file_of(cell.folder, "onnx", int8=True), cell.folder / EXPORTED
    if not kept.is_file():
        said = export_run(cell.folder, file, format="onnx", int8=True)
        of_file = {name: said[name]["exported"] for name in ("accuracy", "balanced_accuracy")}
        of_file["float_accuracy"] = said["accuracy"]["adapter"]
        times = {f"{LATENCY}{count}": file_share(whole, file, count) for count in BATCHES}
        write_whole(kept, json.dumps({"file": str(file), **of_file, **times}) + "\n")
    return read_json(kept)
