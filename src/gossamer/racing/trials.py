"""Whether a smaller model is within the tolerance: it is trained on a part of the training items and scored on those held out.

One draw of held-out items does not tell: of many sizes that are tried the boldest passes by luck. So it only says which sizes are
hopeless, those that lose more than the tolerance and one standard error. What passes is trained anew with other items held out, the
run too, and on the mean over all draws it may lose what was asked for and no more.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
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
from gossamer.runs.run import Run, Search

EIGHT_BITS = "int8.json"
DRAWS = 3  # of held-out items
EXACT = 1e-9  # sums of accuracies are rounded


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
        references: for each draw of held-out items what the run reaches on them, and the folder of a run that has not seen them.
        tried: a record for each way of being smaller.
    """

    def __init__(self, whole: Whole, costs: Costs, folder: Path, journal: Journal):
        self.whole, self.costs, self.folder, self.journal = whole, costs, folder, journal
        self.tried: list[dict[str, Any]] = []
        self.found: list[Smaller] = []
        self.references = [self._first()]

    @property
    def within(self) -> list[tuple[Smaller, dict[str, Any]]]:
        """Those within the tolerance."""
        return [(s, t) for s, t in zip(self.found, self.tried, strict=True) if t["within"]]

    @property
    def reference(self) -> dict[str, Any]:
        """What the run reaches on held-out items, mean and each draw; how many items a draw has; and the runs."""
        reached = [r["accuracy"] for r in self.references]
        said = {"accuracy": statistics.fmean(reached), "accuracies": reached, "items": self.references[0]["items"]}
        return {**said, "runs": [r["run"] for r in self.references]}

    def raced(self, size: int) -> bool:
        """Races for so many blocks, and tries the winner; whether it is within."""
        where = self.folder / f"skip-{size}"
        self.journal.say(f"skipping {size} of {self.whole.blocks} blocks")
        teacher = Path(self.references[0]["run"])
        raced = race(self.whole.planned(Smaller(skipped=size), teacher, where), resume=True)
        arms = tuple(raced.arms[i] for i in raced.chosen)
        return self.trained(Smaller(skipped=tuple(raced.chosen), arms=arms, candidate=raced.name), where)

    def merged(self, smaller: Smaller) -> bool:
        """Tries one that merges tokens; whether it is within."""
        standing = self.whole.blocks - smaller.blocks
        self.journal.say(f"merging {smaller.merged} tokens in each of {standing} blocks")
        return self.trained(smaller, self.folder / f"skip-{smaller.blocks}-merge-{smaller.merged}")

    def trained(self, smaller: Smaller, where: Path) -> bool:
        """Trains one in `where` and records it; whether it is within."""
        cells = [self._cell(smaller, where, 0)]
        perform(cells, self.whole.asked)
        if self._promises(_reached(cells[0])):
            self._refer()
            cells += [self._cell(smaller, where, draw) for draw in range(1, DRAWS)]
            perform(cells, self.whole.asked)
        row = read_json(cells[0].folder / ROW)
        more = {"loss": row["validation_loss"], "macs": row["macs"], "runs": [str(cell.folder) for cell in cells]}
        return self._record(smaller, [_reached(cell) for cell in cells], self.costs.of(smaller), more)

    def in_eight_bits(self, smaller: Smaller, runs: Sequence[str]) -> bool:
        """Tries the weights of what was trained in 8 bits; whether it is within."""
        from gossamer.export import export_run, file_of

        self.journal.say(f"{smaller.described(self.whole.blocks)}: with weights in 8 bits")
        reached, files = [], [file_of(run, "onnx", int8=True) for run in runs]
        for run, file in zip(runs, files, strict=True):
            kept = Path(run) / EIGHT_BITS
            if not kept.is_file():
                accuracy = export_run(run, file, format="onnx", int8=True)["accuracy"]["exported"]
                write_whole(kept, json.dumps({"accuracy": accuracy}) + "\n")
            reached.append(read_json(kept)["accuracy"])
        small = dataclasses.replace(smaller, int8=True)
        cost = self.costs.of_file(small, files[0])
        return self._record(small, reached, cost, {"loss": None, "macs": None, "runs": list(runs)})

    def _cell(self, smaller: Smaller, where: Path, draw: int) -> Cell:
        """The run that trains one, taught by the run of this draw, and scored on what both have not seen."""
        output = where / ("trained" if draw == 0 else f"trained-{draw}")
        run = self.whole.planned(smaller, Path(self.references[draw]["run"]), output)
        return self._scored(where.name, run, run.search.held_out, draw)

    def _scored(self, name: str, run: Run, share: float, draw: int) -> Cell:
        data = dataclasses.replace(run.data, train="train", validation=share, test=False)
        run = dataclasses.replace(run, data=data, search=Search(), seed=self.whole.run.seed + draw)
        return Cell(method=name, task=run.data.name, run=run, choosing=True)

    def _promises(self, accuracy: float) -> bool:
        """Whether an accuracy on the first draw is within the tolerance and one standard error."""
        first = self.references[0]
        return accuracy >= first["accuracy"] - self.whole.asked.within / 100 - _error(accuracy, first["items"])

    def _record(self, smaller: Smaller, reached: Sequence[float], cost: float, more: dict[str, Any]) -> bool:
        asked, draws, items = self.whole.asked, len(reached), self.references[0]["items"]
        accuracy = statistics.fmean(reached)
        level = statistics.fmean(r["accuracy"] for r in self.references[:draws])
        within = draws == DRAWS and accuracy >= level - asked.within / 100 - EXACT
        error = _error(accuracy, draws * items)
        self.found.append(smaller)
        self.tried.append(
            {
                "blocks": smaller.blocks, **smaller.record(), "arms": list(smaller.arms), "candidate": smaller.candidate,
                "accuracy": accuracy, "accuracies": list(reached), "lost": level - accuracy, "standard_error": error,
                "cost": cost, "within": within, **more,
            }
        )  # fmt: skip
        self.journal.say(
            f"{accuracy:.2%} of held-out items where the run has {level:.2%}, at {cost:.2f} of the bare backbone's {asked.cost}: "
            f"{'within' if within else 'not within'} {asked.within:g} points; {items:,} items, drawn {draws} times, leave a "
            f"standard error of {100 * error:.1f} points"
        )
        return within

    def _first(self) -> dict[str, Any]:
        whole = self.whole
        if "val" in whole.metrics:
            return {**self._held_out(whole.metrics), "run": whole.asked.run}
        self.journal.say(f"the run held out no {whole.kind.unit}: it is trained again with some held out")
        cell = self._again(0)
        perform([cell], whole.asked)
        return {**self._held_out(read_json(cell.folder / METRICS)), "run": str(cell.folder)}

    def _refer(self) -> None:
        """The run with other items held out, trained as often as there are draws."""
        cells = [self._again(draw) for draw in range(len(self.references), DRAWS)]
        if cells:
            self.journal.say(f"the run is trained again with other {self.whole.kind.unit} held out")
        perform(cells, self.whole.asked)
        items = self.references[0]["items"]
        self.references += [{"accuracy": _reached(c), "items": items, "run": str(c.folder)} for c in cells]

    def _again(self, draw: int) -> Cell:
        whole = self.whole
        share = whole.run.data.validation if "val" in whole.metrics else whole.asked.hold_out
        where = self.folder / ("reference" if draw == 0 else f"reference-{draw}")
        run = dataclasses.replace(whole.run, output=str(where), condense=None)
        return self._scored("reference", run, share, draw)

    def _held_out(self, metrics: dict[str, Any]) -> dict[str, Any]:
        return {"accuracy": metrics["val"]["accuracy"], "items": metrics[self.whole.kind.unit]["val"]}


def _reached(cell: Cell) -> float:
    """The accuracy of a run on held-out items; nothing where it diverged."""
    return read_json(cell.folder / ROW)["validation_accuracy"] or 0.0


def _error(accuracy: float, items: int) -> float:
    """Standard error of an accuracy on so many items, of which at least half of one is wrong."""
    return math.sqrt(max(accuracy * (1 - accuracy), 0.25 / items) / items)
