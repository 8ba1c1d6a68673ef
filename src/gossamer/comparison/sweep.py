"""`gossamer compare`: performs the cells of a comparison, again from where it was killed, and writes rows and report."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gossamer import saving
from gossamer.comparison import engines, plan
from gossamer.comparison.board import Board
from gossamer.comparison.cell import COLUMNS, ROW, finished
from gossamer.comparison.plan import Cell
from gossamer.comparison.settings import Comparison
from gossamer.comparison.statistics import spread
from gossamer.cost import machine
from gossamer.documents import read_json, write_whole
from gossamer.errors import MissingPackage, UserError
from gossamer.runs import run_file
from gossamer.runs.folder import RunFolder
from gossamer.runs.lock import alone
from gossamer.runs.progress import Journal

ROWS, TABLE, REPORT, JOURNAL = "rows.jsonl", "rows.csv", "report.html", "compare.log"


def compare(comparison: Comparison, *, engine: str = "local", workers: int = 1) -> list[dict[str, Any]]:
    """Performs every cell that is not finished, writes rows.jsonl, rows.csv and report.html, and returns the rows.

    A cell that fails leaves a row with its error and stops no other. Called again with the same comparison it performs what is
    missing: what failed, and what a kill interrupted, from its last epoch. Methods, tasks and seeds may have been added since.

    Args:
        comparison: methods, tasks, seeds, and what they have in common.
        engine: where the cells' processes run, "local" or "ray".
        workers: cells at a time, on each machine.

    Raises:
        ValueError: the settings make no run, or a cell was begun with other settings.
        BlockingIOError: another process works in the output folder; the message names it.
        ImportError: the report or the engine needs a package that is not installed.
    """
    from gossamer.comparison import page

    if engine not in engines.ENGINES or workers < 1:
        known = ", ".join(engines.ENGINES)
        raise UserError(f"engine must be one of {known} and workers 1 or more, got {engine!r} and {workers}")
    if not page.available():
        raise MissingPackage("the report of a comparison needs scipy: pip install 'gossamer[report]'")
    offered = plan.candidates(comparison)
    plan.cells(comparison, {})  # every mistake in the settings is found before anything runs
    output = Path(comparison.output)
    with alone(output):
        write_whole(output / plan.SETTINGS_FILE, yaml.safe_dump(dataclasses.asdict(comparison), sort_keys=False))
        rows = _Sweep(comparison, engine, workers).rows(offered)
        _write(output, rows)
        write_whole(output / REPORT, page.render(rows, baseline=comparison.reference))
        shutil.rmtree(output / plan.SHARED, ignore_errors=True)
    return rows


class _Sweep:
    """One pass over a comparison: which settings are chosen, which cells performed, what failed."""

    def __init__(self, comparison: Comparison, engine: str, workers: int):
        self.comparison, self.engine, self.workers = comparison, engine, workers
        self.journal = Journal(Path(comparison.output, JOURNAL))
        self.board = Board(comparison, self.journal.console)
        self.errors: dict[Path, str] = {}
        self.undecided: dict[tuple[str, str], str] = {}

    def rows(self, offered: dict[tuple[str, str], list[Cell]]) -> list[dict[str, Any]]:
        """The rows of all cells, after every candidate and then every cell has been performed."""
        fields = len(self.comparison.methods) * len(self.comparison.tasks)
        tries = [cell for cells in offered.values() for cell in cells]
        self.board.plan(len(tries) + fields * len(self.comparison.seeds))
        for place, cells in offered.items():
            self.board.offer(*place, len(cells))
        with self.board:
            self._perform(tries)
            selections = {place: _selection(cells) for place, cells in offered.items()}
            chosen = {place: best for place, cells in offered.items() if (best := self._choose(place, cells))}
            cells = plan.cells(self.comparison, chosen)
            self.board.plan(len(tries) + len(cells))
            self._perform(cells)
        for place in offered:
            _tell([cell for cell in cells if (cell.method, cell.task) == place and finished(cell)])
        done = {(cell.method, cell.task, cell.run.seed): cell for cell in cells}
        places = itertools.product(self.comparison.tasks, self.comparison.methods, self.comparison.seeds)
        return [
            dict.fromkeys(COLUMNS)
            | {"method": method, "task": task, "seed": seed, "selection": selections.get((method, task))}
            | self._result(done.get((method, task, seed)), self.undecided.get((method, task)))
            for task, method, seed in places
        ]

    def _perform(self, cells: Sequence[Cell]) -> None:
        _require_same(cells)
        missing = []
        for cell in cells:
            if finished(cell):
                self.board.end(cell, _accuracy(cell))
            else:
                missing.append(cell)
        for bf16 in sorted({cell.run.training.bfloat16 for cell in missing}):
            self.journal.say(machine.precision(bf16))
        for cell, ended, error in engines.perform(missing, self.engine, self.workers):
            if not ended:
                self.board.start(cell)
                continue
            if error is not None:
                self.errors[cell.folder] = error
            accuracy = _accuracy(cell)
            self.board.end(cell, accuracy)
            result = f"failed: {error}" if error else "done" if accuracy is None else f"accuracy {accuracy:.2%}"
            self.journal.say(f"{cell}: {result}")

    def _choose(self, place: tuple[str, str], cells: Sequence[Cell]) -> dict[str, Any] | None:
        """The settings with the best mean validation accuracy, the first of those where several have it.

        None, and a reason in `undecided`, where a candidate has failed or all have diverged.
        """
        failed = [cell for cell in cells if not finished(cell)]
        scored = [c for c in _selection(cells) if c["validation_accuracy"] is not None]
        if failed:
            self.undecided[place] = f"nothing was chosen from its grid: {failed[0]}: {self.errors[failed[0].folder]}"
        elif not scored:
            self.undecided[place] = "nothing was chosen from its grid: training diverged with every candidate"
        else:
            return max(scored, key=lambda candidate: candidate["validation_accuracy"])["settings"]
        return None

    def _result(self, cell: Cell | None, why_not: str | None) -> dict[str, Any]:
        """What a cell left, or the error where it has no result, or why it was never performed."""
        if cell is None:
            return {"error": why_not}
        return _read(cell.folder / ROW) or {"error": self.errors[cell.folder]}


def _selection(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The candidates of a grid with their validation accuracies, averaged over seeds; None for one that has none with some seed."""
    tried: dict[str, list[Cell]] = {}
    for cell in cells:
        tried.setdefault(plan.spelled(cell.settings), []).append(cell)
    found = []
    for same in tried.values():
        scores = [(_read(cell.folder / ROW) or {}).get("validation_accuracy") for cell in same]
        known = [score for score in scores if score is not None]
        mean = statistics.fmean(known) if len(known) == len(same) else None
        found.append({"settings": same[0].settings, "validation_accuracy": mean})
    return found


def _tell(cells: Sequence[Cell]) -> None:
    """Tells the adapters of one method on one task, for their cards, what its seeds came to and what was measured."""
    rows = [(cell, dict.fromkeys(COLUMNS) | _read(cell.folder / ROW)) for cell in cells]
    of_seeds = spread([row["accuracy"] for _, row in rows])
    for cell, row in rows:
        assert of_seeds is not None, "there is a row"
        found = {
            **dataclasses.asdict(of_seeds),
            "split": row["split"],
            "seeds": [cell.run.seed for cell in cells],
            "latency_ms": row["latency_ms"],
            "bare_latency_ms": row["bare_latency_ms"],
            "processor": row["hardware"]["gpu"] or row["hardware"]["processor"],
        }
        if (cell.folder / "adapter").is_dir():  # it may have been taken away: the row is what a comparison needs
            saving.note(cell.folder / "adapter", compared=found)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a heading; what has parts is JSON in its field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(json.dumps(v) if isinstance(v, dict | list) else v for v in (row[name] for name in COLUMNS))
    return text.getvalue()


def _write(output: Path, rows: list[dict[str, Any]]) -> None:
    write_whole(output / ROWS, "".join(json.dumps(row) + "\n" for row in rows))
    write_whole(output / TABLE, to_csv(rows))


def _require_same(cells: Sequence[Cell]) -> None:
    """ValueError if a cell was begun with other settings."""
    for cell in cells:
        if (cell.folder / run_file.RUN_FILE).is_file():
            RunFolder(cell.run, resume=True)


def _accuracy(cell: Cell) -> float | None:
    return None if cell.choosing else (_read(cell.folder / ROW) or {}).get("accuracy")


def _read(path: Path) -> Any:
    return read_json(path) if path.is_file() else None
