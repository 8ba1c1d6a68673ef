"""The cheapest model within a tolerance of a finished run: blocks give way to bridges, the run itself teaches (ours).

    reference   the run, if it held images out; else it is trained again with some of its training images held out
    search      by halves over m, the number of blocks that are skipped: for each m a race over which, then the winner is trained
                whole; it is within where its held-out accuracy >= the reference's - tolerance - one standard error
    tokens      from 65 on and where blocks can merge some: of r = 3/4, 1/2, 1/4 of what merging can take the first that is within
    final       the cheapest that was within, trained on all that the run was trained on, and only then scored on test images

Every step is in a folder of its own: the same call goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gossamer import methods, tasks
from gossamer.adapting import adapt
from gossamer.comparison import engines
from gossamer.comparison.cell import ROW, finished
from gossamer.comparison.plan import Cell
from gossamer.comparison.timing import passes
from gossamer.cost import machine
from gossamer.cost.counting import Sample
from gossamer.documents import read_json, write_whole
from gossamer.errors import UserError
from gossamer.methods.das import DAS
from gossamer.methods.tome import ToMe
from gossamer.racing.race import race
from gossamer.runs import run_file
from gossamer.runs.folder import METRICS, read_metrics
from gossamer.runs.lock import alone
from gossamer.runs.progress import Journal
from gossamer.runs.run import Run, Search
from gossamer.runs.sets import load_sets
from gossamer.runs.trained import load_adapter

REPORT, SETTINGS, RATIOS, JOURNAL, PICTURE = (
    "report.json", "shrink.json", "ratios.json", "shrink.log", "frontier.png",
)  # fmt: skip
BATCHES = (1, 32)  # of which the latency of what was chosen is measured
MANY = 65  # tokens, from which on merging some can pay
SHARES = (0.75, 0.5, 0.25)  # of all patches, that are merged in the end


@dataclass(frozen=True, kw_only=True)
class Shrink:
    """What is asked of `shrink`.

    Args:
        run: folder of a finished run, in which no block is skipped.
        output: folder of everything that is made. "": RUN-shrunk.
        within: points of accuracy that may be lost.
        faster: the cost must also be at most the bare backbone's divided by this. None: whatever it comes to.
        cost: what that is measured in: the time of one item on this machine, in turns with the bare model, or multiply-adds.
        seeds: with which the chosen model is trained in the end.
        candidates: of each race.
        hold_out: part of the training items held out, where the run held out none.
        budget_minutes: no further number of blocks is tried once so many minutes are over. None: as long as it takes.
        engine, workers: of the runs, as in a comparison.
    """

    run: str
    output: str = ""
    within: float = 1.0
    faster: float | None = None
    cost: Literal["latency", "macs"] = "latency"
    seeds: int = 1
    candidates: int = 8
    hold_out: float = 0.25
    budget_minutes: float | None = None
    engine: Literal["local", "ray"] = "local"
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("within", "faster", "budget_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{name} must not be negative, got {value}")
        if self.seeds < 1 or self.candidates < 2 or not 0 < self.hold_out < 1:
            raise UserError(
                "seeds must be 1 or more, candidates 2 or more and hold_out between 0 and 1, got "
                f"{self.seeds}, {self.candidates} and {self.hold_out}"
            )

    @property
    def folder(self) -> Path:
        """Of everything that is made."""
        return Path(self.output or f"{Path(self.run)}-shrunk")


def shrink(asked: Shrink) -> dict[str, Any]:
    """Finds, trains and reports the cheapest model within the tolerance; what is in report.json.

    Raises:
        FileNotFoundError: the run is not there, or has not finished.
        UserError: blocks of it are skipped already, the folder holds what something else was asked of, or a run failed.
    """
    folder = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        said = {
            k: v
            for k, v in dataclasses.asdict(asked).items()
            if k not in ("output", "engine", "workers", "budget_minutes")
        }
        before = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else said
        if before != said:
            differing = next(k for k in said if before.get(k) != said[k])
            raise UserError(
                f"{folder} was begun with other settings ({differing}={before.get(differing)!r}, now {said[differing]!r}): use "
                "them, or choose another output"
            )
        write_whole(folder / SETTINGS, json.dumps(said, indent=2) + "\n")
        return _Shrinking(asked).report()


class _Shrinking:
    """One shrinking, from a finished run to its report."""

    def __init__(self, asked: Shrink):
        self.asked, self.folder, self.began = asked, asked.folder, time.monotonic()
        self.source, self.metrics = run_file.read(asked.run), read_metrics(Path(asked.run))
        self.journal = Journal(self.folder / JOURNAL)
        self.applied = [methods.from_dict(values) for values in self.source.methods]
        if any(hasattr(m, "arms") for m in self.applied):
            raise UserError(
                f"the run in {asked.run} skips or searches already ({', '.join(m.name for m in self.applied)})"
            )
        adapted = load_adapter(asked.run)
        self.blocks = len(DAS(skip=1, rank=1).candidates(adapted.anatomy))
        self.patches = self._patches(adapted)
        self.tried: list[dict[str, Any]] = []
        self.ratios: dict[str, float] = read_json(self.folder / RATIOS) if (self.folder / RATIOS).is_file() else {}

    def report(self) -> dict[str, Any]:
        """Everything, step by step."""
        teacher, reference = self._reference()
        least = self._fast_enough()
        low, high, forced = 0 if least is None else least - 1, self.blocks - 1, least is not None
        while low < high and not (self.tried and self._late()):
            size = low + 1 if forced else (low + high + 1) // 2
            within = self._trial(size, teacher, reference)
            low, high = (size, high) if within else (low, size - 1)
            if forced and not within:
                break
            forced = False
        self._fewer_tokens(teacher, reference)
        fast = self.asked.faster or 0.0
        fitting = [t for t in self.tried if t["within"] and t["cost"] * fast <= 1]
        chosen = min(fitting, key=lambda t: t["cost"], default=None)
        found = {
            "run": self.asked.run, "asked": dataclasses.asdict(self.asked), "reference": reference, "tried": self.tried,
            "chosen": None if chosen is None else {"skipped": chosen["skipped"], "merged": chosen["merged"]},
            "why": self._why(chosen, reference, least),
            "final": [] if chosen is None else self._final(chosen), "teacher": self._scores(self.metrics),
            "probe": self._probe(), "versions": machine.versions(), "hardware": machine.hardware(),
        }  # fmt: skip
        write_whole(self.folder / REPORT, json.dumps(found, indent=2) + "\n")
        self._draw(found)
        return found

    # ---- what is compared with ----

    def _reference(self) -> tuple[Path, dict[str, Any]]:
        """The teacher of the search, and what it reaches on held-out items, which it has not seen."""
        if "val" in self.metrics:
            return Path(self.asked.run), {**self._held_out(self.metrics), "run": self.asked.run}
        self.journal.say(f"the run held out no {tasks.kind(self.source).unit}: it is trained again with some held out")
        data = dataclasses.replace(self.source.data, train="train", validation=self.asked.hold_out, test=False)
        where = self.folder / "reference"
        run = dataclasses.replace(self.source, data=data, output=str(where), condense=None)
        self._perform([Cell(method="reference", task=run.data.name, run=run, choosing=True)])
        return where, {**self._held_out(read_json(where / METRICS)), "run": str(where)}

    def _held_out(self, metrics: dict[str, Any]) -> dict[str, Any]:
        number = metrics[tasks.kind(self.source).unit]["val"]
        return {"accuracy": metrics["val"]["accuracy"], "loss": metrics["val"]["loss"], "items": number}

    # ---- the search ----

    def _methods(self, size: int, skipped: Sequence[int] | None = None, merged: int = 0) -> list[methods.Method]:
        """Those of the run, with blocks skipped (None: as many, to be raced) and r tokens merged in each that stands."""
        skip = size if skipped is None else tuple(skipped)
        das = [DAS(skip=skip, rank=0, bridge="per-run", bridge_start="closed")] if size else []
        return [*self.applied, *das, *([ToMe(r=merged)] if merged else [])]

    def _patches(self, adapted: Any) -> int:
        """Tokens that can be merged; 0 where there are few, or merging is refused."""
        block = adapted.anatomy.blocks()[0]
        if adapted.anatomy.obstacle(block, "shorten") is not None:
            return 0
        sample = Sample.of(adapted.backbone, adapted.metadata["preprocessing"]["size"])
        own = block.tokens(sample.tokens(adapted.anatomy))
        return own - block.prefix if own >= MANY else 0

    def _fewer_tokens(self, teacher: Path, reference: dict[str, Any]) -> None:
        """Merging on top of the most blocks that were within, from much to little, until that is within too."""
        best = max((t for t in self.tried if t["within"]), key=lambda t: t["blocks"], default=None)
        size, skipped = (0, []) if best is None else (best["blocks"], best["skipped"])
        for share in SHARES if self.patches else ():
            count = round(share * self.patches / (self.blocks - size))
            if count == 0 or (self.tried and self._late()):
                return
            self.journal.say(f"merging {count} tokens in each of {self.blocks - size} blocks")
            where = self.folder / f"skip-{size}-merge-{count}"
            arms = [] if best is None else best["arms"]
            if self._tried(
                where, teacher, reference, self._methods(size, skipped, count), size, skipped, arms, "merging", count
            ):
                return

    def _planned(self, applied: Sequence[methods.Method], teacher: Path, output: Path) -> Run:
        run = self.source
        share = run.data.validation if "val" in self.metrics else self.asked.hold_out
        share = share or self.asked.hold_out  # not read where the set has a validation split
        search = Search(
            by="race",
            candidates=self.asked.candidates,
            hold_out=share,
            engine=self.asked.engine,
            workers=self.asked.workers,
        )
        return dataclasses.replace(
            run, methods=[methods.to_dict(m) for m in applied], output=str(output), search=search, condense=None,
            training=dataclasses.replace(run.training, teacher=str(teacher)),
        )  # fmt: skip

    def _fast_enough(self) -> int | None:
        """The least number of blocks whose model costs little enough; None where nothing was asked.

        Raises:
            UserError: none does.
        """
        if self.asked.faster is None:
            return None
        found = next((m for m in range(1, self.blocks) if self._ratio(m) * self.asked.faster <= 1), None)
        if found is None:
            raise UserError(
                f"faster={self.asked.faster}: with {self.blocks - 1} of {self.blocks} blocks skipped the model still costs "
                f"{self._ratio(self.blocks - 1):.2f} times the bare backbone"
            )
        return found

    def _ratio(self, size: int, merged: int = 0) -> float:
        """What an untrained model with so many blocks skipped and tokens merged costs, as a share of the bare backbone's cost."""
        name = f"{size} skipped, {merged} merged"
        if name not in self.ratios:
            task = tasks.of(load_adapter(self.asked.run))
            applied = self._methods(size, merged=merged)
            adapted = adapt(task.backbone(self.source), applied, num_labels=task.outputs)
            for one in (m for m in adapted.applied if m.learns_from != "nothing"):
                one.prepare(adapted, task.prepare(self._items(32)))
            if self.asked.cost == "macs":
                self.ratios[name] = adapted.cost(image_size=task.preprocessing.size).ratios["finished"]
            else:
                if torch.accelerator.is_available():
                    adapted.to(torch.accelerator.current_accelerator())
                self.ratios[name] = passes(adapted.eval(), task, self._items(1))["latency_ratio"]
            write_whole(self.folder / RATIOS, json.dumps(self.ratios) + "\n")  # a second measurement would be another
        return self.ratios[name]

    def _items(self, count: int) -> Any:
        train = load_sets(dataclasses.replace(self.source, data=dataclasses.replace(self.source.data, test=False)))[
            "train"
        ]
        return train.subset(list(range(min(count, len(train)))))

    def _trial(self, size: int, teacher: Path, reference: dict[str, Any]) -> bool:
        """Races and trains a number of skipped blocks; whether the winner is within the tolerance."""
        where = self.folder / f"skip-{size}"
        self.journal.say(f"skipping {size} of {self.blocks} blocks")
        found = race(self._planned(self._methods(size), teacher, where), resume=True)
        arms = [found.arms[i] for i in found.chosen]
        return self._tried(where, teacher, reference, found.methods, size, found.chosen, arms, found.name, 0)

    def _tried(
        self, where: Path, teacher: Path, reference: dict[str, Any], applied: Sequence[methods.Method], size: int,
        skipped: Sequence[int], arms: Sequence[str], name: str, merged: int,
    ) -> bool:  # fmt: skip
        """Trains one choice whole; whether it is within the tolerance."""
        run = self._planned(applied, teacher, where / "trained")
        data = dataclasses.replace(run.data, train="train", validation=run.search.held_out, test=False)
        run = dataclasses.replace(run, data=data, search=Search())
        self._perform([Cell(method=where.name, task=run.data.name, run=run, choosing=True)])
        row = read_json(where / "trained" / ROW)
        accuracy, items = row["validation_accuracy"] or 0.0, reference["items"]
        error = math.sqrt(max(accuracy * (1 - accuracy), 0.25 / items) / items)
        within = accuracy >= reference["accuracy"] - self.asked.within / 100 - error
        self.tried.append(
            {
                "blocks": size, "skipped": list(skipped), "arms": list(arms), "merged": merged, "candidate": name,
                "accuracy": accuracy, "loss": row["validation_loss"], "standard_error": error,
                "cost": self._ratio(size, merged), "macs": row.get("macs"), "within": within, "run": str(where / "trained"),
            }
        )  # fmt: skip
        self.journal.say(
            f"{accuracy:.2%} of held-out items where the run has {reference['accuracy']:.2%}, at "
            f"{self._ratio(size, merged):.2f} of the bare backbone's "
            f"{self.asked.cost}: {'within' if within else 'not within'} {self.asked.within:g} points"
        )
        return within

    def _late(self) -> bool:
        limit = self.asked.budget_minutes
        return limit is not None and time.monotonic() - self.began > 60 * limit

    def _why(self, chosen: dict[str, Any] | None, reference: dict[str, Any], least: int | None) -> str:
        asked = f"within {self.asked.within:g} points of {reference['accuracy']:.2%}"
        late = " (the budget of time was used up)" if self._late() else ""
        if chosen is not None:
            merged = f" and {chosen['merged']} tokens merged in each other" if chosen["merged"] else ""
            return (
                f"{chosen['blocks']} of {self.blocks} blocks skipped{merged}: the cheapest that was {asked} on "
                f"{reference['items']} held-out items{late}"
            )
        nearest = min(self.tried, key=lambda t: t["blocks"], default=None)
        lost = "" if nearest is None else (
            f"; with {nearest['blocks']} blocks skipped {100 * (reference['accuracy'] - nearest['accuracy']):.1f} points are lost"
        )  # fmt: skip
        speed = "" if least is None else f" and {self.asked.faster:g} times as fast"
        return f"nothing that is cheaper was {asked}{speed}{lost}{late}"

    # ---- the end ----

    def _final(self, chosen: dict[str, Any]) -> list[dict[str, Any]]:
        """The chosen model, trained on all that the run was trained on; its scores and times, one record a seed."""
        applied, cells = self._methods(chosen["blocks"], chosen["skipped"], chosen["merged"]), []
        for i in range(self.asked.seeds):
            where = self.folder / "final" / f"seed-{self.source.seed + i}"
            run = self._planned(applied, Path(self.asked.run), where)
            run = dataclasses.replace(run, seed=self.source.seed + i, search=Search())
            cells.append(Cell(method="shrunk", task=run.data.name, run=run))
        self._perform(cells)
        return [
            {"seed": c.run.seed, "run": str(c.folder), **self._latency(c), **_kept(read_json(c.folder / ROW))}
            for c in cells
        ]

    def _latency(self, cell: Cell) -> dict[str, Any]:
        """Time against the bare backbone's, of one item and of many."""
        adapted = load_adapter(cell.folder)
        task = tasks.of(adapted)
        taken = {count: passes(adapted, task, self._items(count)) for count in BATCHES}
        return {f"latency_ratio_at_{count}": found["latency_ratio"] for count, found in taken.items()}

    def _probe(self) -> dict[str, Any]:
        run = dataclasses.replace(
            self.source,
            methods=[{"method": "linear_probe"}],
            output=str(self.folder / "final" / "probe"),
            condense=None,
        )
        cell = Cell(method="probe", task=run.data.name, run=run)
        self._perform([cell])
        return _kept(read_json(cell.folder / ROW))

    def _scores(self, metrics: dict[str, Any]) -> dict[str, Any]:
        split = "test" if "test" in metrics else "val"
        found = metrics.get(split, {})
        return {"split": split, "accuracy": found.get("accuracy"), "balanced_accuracy": found.get("balanced_accuracy")}

    def _perform(self, cells: Sequence[Cell]) -> None:
        missing = [cell for cell in cells if not finished(cell)]
        for cell, ended, error in engines.perform(missing, self.asked.engine, self.asked.workers):
            if ended and error is not None:
                raise UserError(f"{cell} failed: {error}; the same command goes on once that is mended")

    def _draw(self, found: dict[str, Any]) -> None:
        from gossamer import report

        if report.available() and self.tried:
            from gossamer.racing.pictures import frontier

            frontier(found["tried"], found["reference"], self.asked.within, self.asked.cost, self.folder / PICTURE)


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    names = (
        "split", "accuracy", "balanced_accuracy", "trainable_parameters", "gmacs", "bare_gmacs", "latency_ms", "bare_latency_ms",
        "latency_ratio", "seconds",
    )  # fmt: skip
    return {name: row[name] for name in names}
