"""The live table of a race: candidates down, rungs across."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


class Board:
    """A table on the terminal that is kept up to date while it is entered as a context: held-out losses by candidate and rung."""

    def __init__(self, names: Sequence[str], console: Console):
        self.names = names
        self.rungs: list[int] = []  # epochs of each
        self.losses: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
        self.progress = Progress(
            TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self.bar = self.progress.add_task("runs", total=0)
        self.live = Live(self, console=console, refresh_per_second=4)

    def __enter__(self) -> Board:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()
        if not self.live.console.is_terminal:
            self.live.console.line()

    def begin(self, rung: int, epochs: int, runs: int) -> None:
        """A rung of so many runs begins."""
        self.rungs = [*self.rungs[:rung], epochs]
        self.progress.reset(self.bar, total=runs)

    def end(self, name: str, rung: int, seed: int, loss: float) -> None:
        """A run of a candidate has ended; one that was told before is not told again."""
        if seed not in self.losses[name, rung]:
            self.progress.advance(self.bar)
        self.losses[name, rung][seed] = loss

    def __rich__(self) -> Group:
        table = Table("", box=None, padding=(0, 2, 0, 0))
        for epochs in self.rungs:
            table.add_column(f"{epochs} epoch{'s' if epochs > 1 else ''}", justify="right")
        for name in self.names:
            fields = [list(self.losses[name, rung].values()) for rung in range(len(self.rungs))]
            table.add_row(escape(name), *(f"{statistics.fmean(f):.4f}" if f else "[dim]·[/]" for f in fields))
        return Group(table, self.progress)
