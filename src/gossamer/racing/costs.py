"""What a smaller model costs, as a share of the bare backbone's cost; measured once and kept, since no second time is the same."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from gossamer import tasks
from gossamer.adapting import adapt
from gossamer.comparison.timing import REPEATS, bare, passes
from gossamer.cost.measure import measure
from gossamer.documents import read_json, write_whole
from gossamer.errors import UserError
from gossamer.racing.whole import Smaller, Whole
from gossamer.runs.trained import load_adapter


class Costs:
    """Shares by how many blocks are skipped and tokens merged; `path` holds what was measured."""

    def __init__(self, whole: Whole, path: Path):
        self.whole, self.path = whole, path
        self.known: dict[str, float] = read_json(path) if path.is_file() else {}

    def of(self, smaller: Smaller) -> float:
        """Of an untrained model of this size."""
        name = f"{smaller.blocks} skipped, {smaller.merged} merged"
        return self.known[name] if name in self.known else self._keep(name, self._of(smaller))

    def of_file(self, smaller: Smaller, file: Path) -> float:
        """Of an exported model, one item."""
        name = f"{smaller.blocks} skipped, {smaller.merged} merged, in 8 bits"
        return self.known[name] if name in self.known else self._keep(name, file_share(self.whole, file, 1))

    def least(self, faster: float) -> int:
        """The smallest number of skipped blocks with which a model is so many times as fast as the bare backbone.

        Raises:
            UserError: there is none.
        """
        most = self.whole.blocks - 1
        found = next((m for m in range(1, most + 1) if self.of(Smaller(skipped=m)) * faster <= 1), None)
        if found is None:
            raise UserError(
                f"faster={faster}: with {most} of {self.whole.blocks} blocks skipped the model still costs "
                f"{self.of(Smaller(skipped=most)):.2f} times the bare backbone"
            )
        return found

    def _keep(self, name: str, share: float) -> float:
        self.known[name] = share
        write_whole(self.path, json.dumps(self.known) + "\n")
        return share

    def _of(self, smaller: Smaller) -> float:
        whole = self.whole
        task = tasks.of(load_adapter(whole.asked.run))
        adapted = adapt(task.backbone(whole.run), smaller.methods(whole.applied), num_labels=task.outputs)
        for one in (m for m in adapted.applied if m.learns_from != "nothing"):
            one.prepare(adapted, task.prepare(whole.items(32)))
        if whole.asked.cost == "macs":
            return adapted.cost(**task.sizes()).ratios["finished"]
        if torch.accelerator.is_available():
            adapted.to(torch.accelerator.current_accelerator())
        return passes(adapted.eval(), task, whole.items(1))["latency_ratio"]


def file_share(whole: Whole, file: Path, count: int) -> float:
    """Time of so many items through an exported file, as a share of the bare backbone's."""
    from gossamer.export import answers

    adapted = load_adapter(whole.asked.run).eval()
    task = tasks.of(adapted)
    inputs, answer = task.asked(task.prepare(whole.items(count))), answers(file)
    with torch.no_grad():
        of_bare = next(iter(task.timed(bare(adapted), inputs).values()))
        taken = measure({"bare": of_bare, "file": lambda: answer(inputs)}, repeats=REPEATS)
    return taken["file"].ratio(taken["bare"])
