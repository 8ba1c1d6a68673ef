"""What a task shows of a model after every epoch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from gossamer.runs import processes
from gossamer.tasks.base import Task

if TYPE_CHECKING:
    from gossamer.adapting import Adapted


class Watching(TrainerCallback):
    """Asks a task for its pictures at the end of each epoch, before its checkpoint; of several processes the first."""

    def __init__(self, adapted: Adapted, task: Task, folder: Path):
        self.adapted, self.task, self.folder = adapted, task, folder

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draws."""
        if not processes.first():
            return
        training = self.adapted.training
        self.adapted.eval()
        self.task.watch(self.adapted, self.folder, round(state.epoch))
        self.adapted.train(training)
