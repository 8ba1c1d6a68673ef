"""The live table of a comparison: methods down, tasks across, and how far each is."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from gossamer.comparison.plan import Cell
from gossamer.comparison.settings import Comparison


class Board:
    """A table on the terminal that is kept up to date while it is entered as a context.

    A field shows the mean accuracy of the seeds that are done, how many they are, and what runs now; while settings are chosen,
    how many candidates have been tried.
    """

    def __init__(self, comparison: Comparison, console: Console):
        self.comparison = comparison
        self.scores: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.failed: dict[tuple[str, str], int] = defaultdict(int)
        self.tried: dict[tuple[str, str], int] = defaultdict(int)
        self.offered: dict[tuple[str, str], int] = defaultdict(int)
        self.running: dict[Path, Cell] = {}
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("runs"), TimeElapsedColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console)
        self.bar = self.progress.add_task("runs", total=0)
        self.live = Live(self, console=console, refresh_per_second=4)

    def __enter__(self) -> Board:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()
        if not self.live.console.is_terminal:
            self.live.console.line()  # rich ends its last table without one

    def plan(self, total: int) -> None:
        """How many runs there will be, finished ones included."""
        self.progress.update(self.bar, total=total)

    def offer(self, method: str, task: str, count: int) -> None:
        """How many candidates will be tried for a field."""
        self.offered[method, task] = count

    def start(self, cell: Cell) -> None:
        """A cell runs."""
        self.running[cell.folder] = cell

    def end(self, cell: Cell, accuracy: float | None) -> None:
        """A cell has ended, with this accuracy if it gives a result and none if it failed or only tried settings."""
        self.running.pop(cell.folder, None)
        self.progress.advance(self.bar)
        place = cell.method, cell.task
        if cell.choosing:
            self.tried[place] += 1
        elif accuracy is None:
            self.failed[place] += 1
        else:
            self.scores[place].append(accuracy)

    def __rich__(self) -> Group:
        table = Table("", box=None, padding=(0, 2, 0, 0))
        for task in self.comparison.tasks:
            table.add_column(escape(task), justify="right")
        for method in self.comparison.methods:
            table.add_row(escape(method), *(self._field(method, task) for task in self.comparison.tasks))
        return Group(table, self.progress)

    def _field(self, method: str, task: str) -> str:
        place, parts = (method, task), []
        if self.scores[place]:
            parts.append(f"[bold]{100 * statistics.mean(self.scores[place]):.1f}[/] %")
        running = [c for c in self.running.values() if (c.method, c.task) == place]
        done = len(self.scores[place])
        if done or any(not c.choosing for c in running):
            parts.append(f"[dim]{done}/{len(self.comparison.seeds)}[/]")
        elif self.offered[place]:
            parts.append(f"[dim]grid {self.tried[place]}/{self.offered[place]}[/]")
        if running:
            parts.append("[cyan]●[/]")
        if self.failed[place]:
            parts.append(f"[red]{self.failed[place]} failed[/]")
        return " ".join(parts) or "[dim]·[/]"
