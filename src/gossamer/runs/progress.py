"""What a run tells while it works: lines in its log and on the terminal, and a bar that moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from gossamer.documents import naming
from gossamer.runs import processes


class Journal:
    """Lines for people, on the terminal (stderr) and with the time in a file; of several processes only the first speaks."""

    def __init__(self, path: Path):
        self.path, self.console = path, Console(stderr=True, highlight=False, quiet=not processes.first())

    def say(self, text: str) -> None:
        """Writes one line to both."""
        if not processes.first():
            return
        with naming(self.path), self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self.console.print(text, markup=False, soft_wrap=True)


TIMED = 3  # steps behind the first, which warms up, by which it is said how long the others will take
LONG = 120  # seconds that are worth a word


class Bar(TrainerCallback):
    """A bar over the steps of training, and after each epoch one line and `after_epoch(log_history)`.

    After a few steps it says how long the others will take, if that is minutes. `measure` is what the task calls the accuracy.
    """

    def __init__(
        self, journal: Journal, after_epoch: Callable[[list[dict[str, Any]]], None], measure: str = "accuracy"
    ):
        self.journal, self.after_epoch, self.measure = journal, after_epoch, measure
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
        )
        hidden = not journal.console.is_terminal
        self.progress = Progress(*columns, console=journal.console, transient=True, disable=hidden)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the bar where training starts."""
        self.task = self.progress.add_task("training", total=state.max_steps, completed=state.global_step)
        self.progress.start()
        self.ends: list[float] = []  # of the first steps here

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves the bar, and foresees the end."""
        self.progress.update(self.task, completed=state.global_step)
        if len(self.ends) > TIMED:
            return
        self.ends.append(time.monotonic())
        if len(self.ends) > TIMED:
            self.foresee(state.max_steps - state.global_step, (self.ends[-1] - self.ends[0]) / TIMED)

    def foresee(self, steps: int, seconds: float) -> None:
        """Says how long these steps will take, of so many seconds each, where that is long."""
        if steps * seconds >= LONG:
            self.journal.say(
                f"{steps:,} steps to go, some {seconds:.1f} s each: about {steps * seconds / 60:.0f} minutes, and validation"
            )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tells of the epoch, which ends with its checkpoint."""
        self.after_epoch(state.log_history)
        self.journal.say(line(epochs(state.log_history)[-1], args.num_train_epochs, self.measure))

    @contextmanager
    def away(self) -> Iterator[None]:
        """Takes the bar off the terminal for a while, where another is shown."""
        self.progress.stop()
        yield
        self.progress.start()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Removes the bar."""
        self.progress.stop()


def epochs(log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record an epoch from the Trainer's log: step, epoch, loss, learning_rate, grad_norm, seconds, val_loss, val_accuracy, ...

    seconds are those of training alone; what the clock says of validation is left out.
    """
    merged: dict[int, dict[str, Any]] = {}
    for entry in log_history:
        if "loss" not in entry and "eval_loss" not in entry:
            continue
        record = merged.setdefault(entry["step"], {"step": entry["step"], "epoch": round(entry["epoch"], 3)})
        for name, value in entry.items():
            if name not in record and not name.endswith(("_runtime", "_per_second")):
                record[name.replace("eval_", "val_")] = value
    return [merged[step] for step in sorted(merged)]


def line(record: dict[str, Any], total: float, measure: str) -> str:
    """What is told of an epoch; of epoch 0, before the first step, its scores."""
    shown = {"loss": "loss {:.4f}", "val_loss": "validation loss {:.4f}", "val_accuracy": f"{measure} {{:.2%}}"}
    parts = [text.format(record[name]) for name, text in shown.items() if record.get(name) is not None]
    end = f" ({record['seconds']:.0f} s)" if "seconds" in record else ""
    return f"epoch {record['epoch']:g}/{total:g}: {', '.join(parts)}{end}"
