"""The comparison file: a base run, named methods and tasks that change it, seeds; and the cells that follow from them.

Every method and every task is a piece of a run file. A cell's run is the base, changed by the task, then by the method, then by
what was chosen from the method's grid.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossamer import methods as registry
from gossamer.comparison.settings import Comparison, folder_of
from gossamer.documents import parse_yaml
from gossamer.errors import UserError
from gossamer.runs import run_file
from gossamer.runs.run import Run

SETTINGS_FILE, SHARED = "compare.yaml", "shared"
MOST = 10_000  # combinations of a grid
OURS = ("output", "seed")  # of a run: set for every cell here


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a comparison: a method on a task with a seed.

    `settings` are those from the method's grid; `choosing` says that the run tries them on validation images, and is no result;
    `shared` is the folder of the heads that cells have in common.
    """

    method: str
    task: str
    run: Run
    settings: dict[str, Any] = field(default_factory=dict)
    choosing: bool = False
    shared: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder of its run."""
        return Path(self.run.output)

    def __str__(self) -> str:
        tried = f", trying {spelled(self.settings)}" if self.choosing else ""
        return f"{self.method} on {self.task}, seed {self.run.seed}{tried}"


def read(path: str | Path, overrides: Sequence[str] = ()) -> Comparison:
    """The comparison of a YAML file, changed by `overrides` such as "run.training.epochs=3".

    Raises:
        FileNotFoundError: no such file.
        ValueError: a name or value in it does not fit; the message says which.
    """
    values = run_file.settings(path, Comparison, "comparison file")
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"{override!r} is no setting; settings are NAME=VALUE, such as run.training.epochs=3")
        values = changed(values, name, parse_yaml(value, override))
    return run_file.build(Comparison, values)


def candidates(comparison: Comparison) -> dict[tuple[str, str], list[Cell]]:
    """(method, task) -> the runs among which its settings are chosen, for the methods that have a grid.

    Raises:
        ValueError: a grid or a setting in it does not fit.
    """
    chosen = comparison.selection
    hold_out = {"data": {"train": "train", "validation": chosen.validation, "test": False}}
    found = {}
    for method, task in itertools.product(comparison.methods, comparison.tasks):
        grid = _grid(comparison, method)
        if grid:
            found[method, task] = [
                _cell(comparison, method, task, seed, settings, extra=hold_out)
                for settings in grid
                for seed in chosen.seeds
            ]
    return found


def cells(comparison: Comparison, chosen: Mapping[tuple[str, str], dict[str, Any]]) -> list[Cell]:
    """The runs that give the results, task by task; `chosen` maps (method, task) to settings from the method's grid.

    A method with a grid has no cells on a task for which nothing was chosen.

    Raises:
        ValueError: the settings make no run; the message names method and task.
    """
    return [
        _cell(comparison, method, task, seed, chosen.get((method, task), {}))
        for task, method in itertools.product(comparison.tasks, comparison.methods)
        if (method, task) in chosen or not comparison.methods[method].get("grid")
        for seed in comparison.seeds
    ]


def changed(values: Any, name: str, value: Any) -> Any:
    """A copy of nested settings with one of them set, named by its path: training.lr, or methods.0.prompts for one in a list.

    Raises:
        ValueError: the path leads into a value that has no parts.
    """
    first, _, rest = name.partition(".")
    if isinstance(values, list):
        if not first.isdecimal() or int(first) >= len(values):
            raise UserError(f"{first!r} is no place in a list of {len(values)}; places count from 0")
        place = int(first)
        return [*values[:place], changed(values[place], rest, value) if rest else value, *values[place + 1 :]]
    if not isinstance(values, dict):
        raise UserError(f"cannot set {name!r} inside {values!r}")
    return {**values, first: changed(values.get(first, {}), rest, value) if rest else value}


def spelled(settings: Mapping[str, Any]) -> str:
    """Settings on one line: training.lr=0.01, methods.0.prompts=5."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _cell(
    comparison: Comparison,
    method: str,
    task: str,
    seed: int,
    settings: dict[str, Any],
    extra: dict[str, Any] | None = None,
) -> Cell:
    """One run; with `extra` settings it is one that tries what a grid offers."""
    of_method = {name: value for name, value in comparison.methods[method].items() if name != "grid"}
    folder = Path(comparison.output, "runs", folder_of(task), folder_of(method), f"seed-{seed}")
    if extra is not None:
        folder = folder.parent / "grid" / folder_of(spelled(settings)) / folder.name
    values = comparison.run
    try:
        for change in (comparison.tasks[task], of_method):
            _require_free(values, change)
            values = run_file.merged(values, change)
        for name, value in settings.items():
            values = changed(values, name, value)
        values = run_file.merged(values, {**(extra or {}), "output": str(folder), "seed": seed})
        run = run_file.build(Run, values)
        # As a run's folder records them, so that it is known again.
        applied = [registry.to_dict(registry.from_dict(applied)) for applied in run.methods]
    except UserError as error:
        raise UserError(f"method {method!r} on task {task!r}: {error}") from error
    run = dataclasses.replace(run, methods=applied)
    shared = Path(comparison.output, SHARED)
    return Cell(method=method, task=task, run=run, settings=settings, choosing=extra is not None, shared=shared)


def _grid(comparison: Comparison, method: str) -> list[dict[str, Any]]:
    """Every combination of the settings that a method's grid offers; none where there is no grid."""
    grid = comparison.methods[method].get("grid") or {}
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise UserError(f"grid of method {method!r} must map settings to lists of values, got {grid!r}")
    if not grid:
        return []
    if math.prod(map(len, grid.values())) > MOST:
        raise UserError(f"the grid of method {method!r} has more than {MOST:,} combinations; offer fewer values")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _require_free(*pieces: dict[str, Any]) -> None:
    taken = [name for piece in pieces for name in OURS if name in piece]
    if taken:
        raise UserError(f"{taken[0]} of a run is set by the comparison itself; use its own output and seeds")
