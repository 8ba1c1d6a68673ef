"""The finished run that is shrunk, and one way of being smaller than it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gossamer import methods, tasks
from gossamer.cost.counting import Sample
from gossamer.errors import UserError
from gossamer.methods.das import DAS
from gossamer.methods.tome import ToMe
from gossamer.runs import run_file
from gossamer.runs.folder import read_metrics
from gossamer.runs.run import Run, Search
from gossamer.runs.sets import load_sets
from gossamer.runs.trained import load_adapter

MANY = 65  # tokens, from which on merging some can pay


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


@dataclass(frozen=True, kw_only=True)
class Smaller:
    """One way of being smaller than a run.

    Attributes:
        skipped: indices of the blocks that give way to bridges, or how many, where a race is to find which.
        arms: their names.
        candidate: which of the race's candidates they were.
        merged: tokens that are merged in each block that stands.
        int8: weights in 8 bits, as `gossamer export --int8` writes them, computed by onnxruntime.
    """

    skipped: int | tuple[int, ...] = ()
    arms: tuple[str, ...] = ()
    candidate: str = ""
    merged: int = 0
    int8: bool = False

    @property
    def blocks(self) -> int:
        """How many are skipped."""
        return self.skipped if isinstance(self.skipped, int) else len(self.skipped)

    def methods(self, applied: Sequence[methods.Method]) -> list[methods.Method]:
        """Those of the run, and what makes it smaller."""
        das = [DAS(skip=self.skipped, rank=0, bridge="per-run", bridge_start="closed")] if self.blocks else []
        return [*applied, *das, *([ToMe(r=self.merged)] if self.merged else [])]

    def described(self, blocks: int) -> str:
        """In words, of so many blocks."""
        merged = f" and {self.merged} tokens merged in each other" if self.merged else ""
        return f"{self.blocks} of {blocks} blocks skipped{merged}{', in 8 bits' if self.int8 else ''}"

    def record(self) -> dict[str, Any]:
        """As JSON, in a report."""
        skipped = [] if isinstance(self.skipped, int) else list(self.skipped)
        return {"skipped": skipped, "merged": self.merged, "int8": self.int8}


class Whole:
    """What a finished run is.

    Attributes:
        run, metrics, applied: its settings, what came of it, its methods.
        blocks: that may be skipped.
        patches: tokens that can be merged; 0 where they are few, or merging is refused.
        kind: of its task.

    Raises:
        FileNotFoundError: the run is not there, or has not finished.
        UserError: blocks of it are skipped already.
    """

    def __init__(self, asked: Shrink):
        self.asked = asked
        self.run, self.metrics = run_file.read(asked.run), read_metrics(Path(asked.run))
        self.applied = [methods.from_dict(values) for values in self.run.methods]
        if any(hasattr(m, "arms") for m in self.applied):
            names = ", ".join(m.name for m in self.applied)
            raise UserError(f"the run in {asked.run} skips or searches already ({names})")
        self.kind = tasks.kind(self.run)
        adapted = load_adapter(asked.run)
        self.blocks = len(DAS(skip=1, rank=1).candidates(adapted.anatomy))
        self.patches = _patches(adapted, tasks.of(adapted).preprocessing.size)

    def planned(self, smaller: Smaller, teacher: Path, output: Path) -> Run:
        """The run that is so much smaller, taught by another; its search is the race over what is not decided."""
        share = self.run.data.validation if "val" in self.metrics else self.asked.hold_out
        search = Search(
            by="race",
            candidates=self.asked.candidates,
            hold_out=share or self.asked.hold_out,  # not read where the set has a validation split
            engine=self.asked.engine,
            workers=self.asked.workers,
        )
        return dataclasses.replace(
            self.run, methods=[methods.to_dict(m) for m in smaller.methods(self.applied)], output=str(output), search=search,
            condense=None, training=dataclasses.replace(self.run.training, teacher=str(teacher)),
        )  # fmt: skip

    def items(self, count: int) -> Any:
        """The first of the training items."""
        data = dataclasses.replace(self.run.data, test=False)
        train = load_sets(dataclasses.replace(self.run, data=data))["train"]
        return train.subset(list(range(min(count, len(train)))))


def _patches(adapted: Any, size: int) -> int:
    block = adapted.anatomy.blocks()[0]
    if adapted.anatomy.obstacle(block, "shorten") is not None:
        return 0
    sample = Sample.of(adapted.backbone, size)
    own = block.tokens(sample.tokens(adapted.anatomy))
    return own - block.prefix if own >= MANY else 0
