"""The cheapest model within a tolerance of a finished run: blocks give way to bridges, the run itself teaches (ours).

    reference   the run, if it held images out; else it is trained again with some of its training images held out
    search      by halves over m, the number of blocks that are skipped: for each m a race over which, then the winner is trained
                whole; it is within where the mean of its accuracy over three draws of held-out items >= the reference's - tolerance
                (after one draw it is given up where it is not even so with one standard error more)
    tokens      from 65 on and where blocks can merge some: of r = 3/4, 1/2, 1/4 of what merging can take the first that is within
    numbers     the cheapest of those within, its weights in 8 bits, where time is what counts and onnxruntime is there
    final       the cheapest that was within, trained on all that the run was trained on, and only then scored on test images

Every step is in a folder of its own: the same call goes on where it was.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import time
from typing import Any

import torch

from gossamer import report
from gossamer.cost import machine
from gossamer.documents import read_json, write_whole
from gossamer.errors import UserError
from gossamer.racing.costs import Costs
from gossamer.racing.final import final, probe
from gossamer.racing.pictures import frontier
from gossamer.racing.race import passes
from gossamer.racing.trials import DRAWS, Trials
from gossamer.racing.whole import Shrink, Smaller, Whole
from gossamer.runs.lock import alone
from gossamer.runs.progress import Journal
from gossamer.tasks.classifying_images import ClassifyingImages

REPORT, SETTINGS, RATIOS, JOURNAL, PICTURE = (
    "report.json", "shrink.json", "ratios.json", "shrink.log", "frontier.png",
)  # fmt: skip
SHARES = (0.75, 0.5, 0.25)  # of all patches, that are merged in the end
EXPORTS = ("onnx", "onnxruntime", "onnxscript")  # the packages of the extra that 8 bits need


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
    """One shrinking: which ways of being smaller are tried, in which order, and which is chosen."""

    def __init__(self, asked: Shrink):
        self.asked, self.folder, self.began = asked, asked.folder, time.monotonic()
        self.whole = Whole(asked)
        self.costs = Costs(self.whole, self.folder / RATIOS)
        self.trials = Trials(self.whole, self.costs, self.folder, Journal(self.folder / JOURNAL))

    def report(self) -> dict[str, Any]:
        """Everything, step by step."""
        asked, trials = self.asked, self.trials
        trials.journal.say(self._ahead())
        least = None if asked.faster is None else self.costs.least(asked.faster)
        self._fewer_blocks(least)
        self._fewer_tokens()
        self._fewer_bits()
        chosen = self._cheapest(asked.faster or 0.0)
        end = self.folder / "final"
        found = {
            "run": asked.run, "asked": dataclasses.asdict(asked), "reference": trials.reference, "tried": trials.tried,
            "chosen": None if chosen is None else chosen.record(), "why": self._why(chosen, least),
            "final": [] if chosen is None else final(self.whole, chosen, end), "teacher": _scores(self.whole.metrics),
            "probe": probe(self.whole, end / "probe"), "versions": machine.versions(), "hardware": machine.hardware(),
        }  # fmt: skip
        write_whole(self.folder / REPORT, json.dumps(found, indent=2) + "\n")
        if report.available() and trials.tried:
            frontier(trials.tried, asked.within, asked.cost, self.folder / PICTURE)
        return found

    def _ahead(self) -> str:
        """How long it may take, at the speed at which the run was trained."""
        epochs, sizes = self.whole.run.training.epochs, math.ceil(math.log2(self.whole.blocks))
        whole, again = 1 + epochs, DRAWS * (1 + epochs)
        each = passes(self.asked.candidates, epochs) + again
        minutes = (sizes * each + again) * self.whole.metrics["seconds"] / whole / 60
        return (
            f"up to {sizes} sizes are tried, each by a race and {DRAWS} whole runs, some {each} passes over the training "
            f"{self.whole.kind.unit}: {minutes:,.0f} minutes at the speed of this run, less the more is skipped. Stopped, the same "
            "command goes on; --budget-minutes ends it with what was found by then"
        )

    def _fewer_blocks(self, least: int | None) -> None:
        """By halves the largest number of blocks that is within; where a speed was asked for, first the least that has it."""
        low, high, forced = 0 if least is None else least - 1, self.whole.blocks - 1, least is not None
        while low < high and not self._late():
            size = low + 1 if forced else (low + high + 1) // 2
            within = self.trials.raced(size)
            low, high = (size, high) if within else (low, size - 1)
            if forced and not within:
                break
            forced = False

    def _fewer_tokens(self) -> None:
        """Merging on top of the most blocks that were within, from much to little, until that is within too."""
        found = [smaller for smaller, _ in self.trials.within]
        base = max(found, key=lambda s: s.blocks, default=Smaller())
        for share in SHARES if self.whole.patches else ():
            count = round(share * self.whole.patches / (self.whole.blocks - base.blocks))
            if count == 0 or self._late() or self.trials.merged(dataclasses.replace(base, merged=count)):
                return

    def _fewer_bits(self) -> None:
        """The weights of the cheapest that was within in 8 bits, which only pays in time on a processor."""
        ready = (
            self.asked.cost == "latency"
            and self.whole.kind is ClassifyingImages
            and not torch.accelerator.is_available()
        )
        cheapest = min(self.trials.within, key=lambda pair: pair[1]["cost"], default=None)
        if ready and cheapest is not None and not self._late() and all(map(importlib.util.find_spec, EXPORTS)):
            self.trials.in_eight_bits(cheapest[0], cheapest[1]["runs"])

    def _cheapest(self, faster: float) -> Smaller | None:
        fitting = [(s, t) for s, t in self.trials.within if t["cost"] * faster <= 1]
        return min(fitting, key=lambda pair: pair[1]["cost"], default=(None,))[0]

    def _late(self) -> bool:
        """Whether the budget of time is used up; something is always tried."""
        limit = self.asked.budget_minutes
        return bool(self.trials.tried) and limit is not None and time.monotonic() - self.began > 60 * limit

    def _why(self, chosen: Smaller | None, least: int | None) -> str:
        reference, tried = self.trials.reference, self.trials.tried
        asked = f"within {self.asked.within:g} points of {reference['accuracy']:.2%}"
        late = " (the budget of time was used up)" if self._late() else ""
        if chosen is not None:
            what = chosen.described(self.whole.blocks)
            draws = f"{len(reference['runs'])} draws of {reference['items']:,} held-out items"
            return f"{what}: the cheapest that was {asked} on {draws}{late}"
        nearest = min(tried, key=lambda t: t["blocks"], default=None)
        lost = "" if nearest is None else (
            f"; with {nearest['blocks']} blocks skipped {100 * nearest['lost']:.1f} points are lost"
        )  # fmt: skip
        speed = "" if least is None else f" and {self.asked.faster:g} times as fast"
        return f"nothing that is cheaper was {asked}{speed}{lost}{late}"


def _scores(metrics: dict[str, Any]) -> dict[str, Any]:
    split = "test" if "test" in metrics else "val"
    found = metrics.get(split, {})
    return {"split": split, "accuracy": found.get("accuracy"), "balanced_accuracy": found.get("balanced_accuracy")}
