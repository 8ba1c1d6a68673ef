"""Whether a smaller model is within the tolerance: it is trained on a part of the training items and scored on those held out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gossamer.comparison import engines
from gossamer.comparison.cell import ROW, finished
from gossamer.comparison.plan import Cell
from gossamer.documents import read_json, write_whole
from gossamer.errors import UserError
from gossamer.racing.costs import Costs
from gossamer.racing.race import race
from gossamer.racing.whole import Shrink, Smaller, Whole
from gossamer.runs.folder import METRICS
from gossamer.runs.progress import Journal
from gossamer.runs.run import Search

EIGHT_BITS = "int8.json"


def perform(cells: Sequence[Cell], asked: Shrink) -> None:
    """Makes the runs that are missing.

    Raises:
        UserError: one failed.
    """
    missing = [cell for cell in cells if not finished(cell)]
    for cell, ended, error in engines.perform(missing, asked.engine, asked.workers):
        if ended and error is not None:
            raise UserError(f"{cell} failed: {error}; the same command goes on once that is mended")


class Trials:
    """What was tried so far, each in a folder of its own: what is there already is not made again.

    Attributes:
        teacher: folder of the run that teaches here; it has not seen the held-out items.
        reference: what the teacher reaches on them.
        tried: a record for each way of being smaller.
    """

    def __init__(self, whole: Whole, costs: Costs, folder: Path, journal: Journal):
        self.whole, self.costs, self.folder, self.journal = whole, costs, folder, journal
        self.tried: list[dict[str, Any]] = []
        self.found: list[Smaller] = []
        self.teacher, self.reference = self._reference()

    @property
    def within(self) -> list[tuple[Smaller, dict[str, Any]]]:
        """Those within the tolerance."""
        return [(s, t) for s, t in zip(self.found, self.tried, strict=True) if t["within"]]

    def raced(self, size: int) -> bool:
        """Races for so many blocks, and tries the winner; whether it is within."""
        where = self.folder / f"skip-{size}"
        self.journal.say(f"skipping {size} of {self.whole.blocks} blocks")
        raced = race(self.whole.planned(Smaller(skipped=size), self.teacher, where), resume=True)
        arms = tuple(raced.arms[i] for i in raced.chosen)
        return self.trained(Smaller(skipped=tuple(raced.chosen), arms=arms, candidate=raced.name), where)

    def merged(self, smaller: Smaller) -> bool:
        """Tries one that merges tokens; whether it is within."""
        standing = self.whole.blocks - smaller.blocks
        self.journal.say(f"merging {smaller.merged} tokens in each of {standing} blocks")
        return self.trained(smaller, self.folder / f"skip-{smaller.blocks}-merge-{smaller.merged}")

    def trained(self, smaller: Smaller, where: Path) -> bool:
        """Trains one in `where` and records it; whether it is within."""
        run = self.whole.planned(smaller, self.teacher, where / "trained")
        data = dataclasses.replace(run.data, train="train", validation=run.search.held_out, test=False)
        run = dataclasses.replace(run, data=data, search=Search())
        perform([Cell(method=where.name, task=run.data.name, run=run, choosing=True)], self.whole.asked)
        row = read_json(where / "trained" / ROW)
        return self._record(smaller, row["validation_accuracy"] or 0.0, self.costs.of(smaller), run.output, row)

    def in_eight_bits(self, smaller: Smaller, run: str) -> bool:
        """Tries the weights of a trained one in 8 bits; whether it is within."""
        from gossamer.export import export_run, file_of

        self.journal.say(f"{smaller.described(self.whole.blocks)}: with weights in 8 bits")
        file, kept = file_of(run, "onnx", int8=True), Path(run) / EIGHT_BITS
        if not kept.is_file():
            write_whole(
                kept, f'{{"accuracy": {export_run(run, file, format="onnx", int8=True)["accuracy"]["exported"]}}}\n'
            )
        small = dataclasses.replace(smaller, int8=True)
        return self._record(small, read_json(kept)["accuracy"], self.costs.of_file(small, file), run, {})

    def _record(self, smaller: Smaller, accuracy: float, cost: float, run: str, row: dict[str, Any]) -> bool:
        asked, reference = self.whole.asked, self.reference
        items = reference["items"]
        error = math.sqrt(max(accuracy * (1 - accuracy), 0.25 / items) / items)
        within = accuracy >= reference["accuracy"] - asked.within / 100 - error
        self.found.append(smaller)
        self.tried.append(
            {
                "blocks": smaller.blocks, **smaller.record(), "arms": list(smaller.arms), "candidate": smaller.candidate,
                "accuracy": accuracy, "loss": row.get("validation_loss"), "standard_error": error, "cost": cost,
                "macs": row.get("macs"), "within": within, "run": run,
            }
        )  # fmt: skip
        self.journal.say(
            f"{accuracy:.2%} of held-out items where the run has {reference['accuracy']:.2%}, at {cost:.2f} of the bare backbone's "
            f"{asked.cost}: {'within' if within else 'not within'} {asked.within:g} points and the standard error of "
            f"{100 * error:.1f} points that {items:,} items leave"
        )
        return within

    def _reference(self) -> tuple[Path, dict[str, Any]]:
        whole = self.whole
        if "val" in whole.metrics:
            return Path(whole.asked.run), {**self._held_out(whole.metrics), "run": whole.asked.run}
        self.journal.say(f"the run held out no {whole.kind.unit}: it is trained again with some held out")
        data = dataclasses.replace(whole.run.data, train="train", validation=whole.asked.hold_out, test=False)
        where = self.folder / "reference"
        run = dataclasses.replace(whole.run, data=data, output=str(where), condense=None)
        perform([Cell(method="reference", task=run.data.name, run=run, choosing=True)], whole.asked)
        return where, {**self._held_out(read_json(where / METRICS)), "run": str(where)}

    def _held_out(self, metrics: dict[str, Any]) -> dict[str, Any]:
        number = metrics[self.whole.kind.unit]["val"]
        return {"accuracy": metrics["val"]["accuracy"], "loss": metrics["val"]["loss"], "items": number}
