"""A race for the best arms of a method: successive halving over runs of the very thing that is trained afterwards (ours).

    rung k: train every survivor for 1, 2, 4, ... epochs, each its own whole schedule; score the cross-entropy of held-out training
            items; keep the better half
    last rung: two survivors and the simple rules, two seeds each; the smaller mean loss wins, the cheaper within one standard error

After Jamieson and Talwalkar, arXiv 1502.07943. All candidates of a rung have the same held-out items, order of the data, random
changes and seeds. Runs are cells of a comparison: any number of workers comes to the same end, also after a kill.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gossamer import hosts, methods, tasks
from gossamer.comparison import engines
from gossamer.comparison.cell import ROW, finished
from gossamer.comparison.plan import Cell
from gossamer.documents import read_json, write_whole
from gossamer.errors import UserError
from gossamer.methods import Method
from gossamer.racing.board import Board
from gossamer.racing.candidates import RULES, Choice, candidates, survivors, winner
from gossamer.racing.pictures import draw
from gossamer.runs import run_file
from gossamer.runs.progress import Journal
from gossamer.runs.run import Run, Search
from gossamer.runs.sets import load_sets
from gossamer.searching import depth
from gossamer.searching.folder import FOUND, SearchFolder
from gossamer.searching.folder import RESULT as BANDITS

FOLDER, RUNGS, ROWS, PICTURE, SCAN, JOURNAL = "race", "rungs", "rows.jsonl", "race.png", "scan.json", "race.log"
SEEDS = 2  # with which the last ones are trained


@dataclass(frozen=True, kw_only=True)
class Raced:
    """What a race came to.

    Attributes:
        methods: of the run, the searched one with its arms; ready for `adapt`.
        arms: names of all arms.
        chosen: indices of the arms that won.
        name: of the candidate that won.
        rows: one record for each run: rung, epochs, candidate, chosen, seed, loss, accuracy, macs, seconds, curve.
    """

    methods: tuple[Method, ...]
    arms: tuple[str, ...]
    chosen: tuple[int, ...]
    name: str
    rows: tuple[dict[str, Any], ...]


def race(run: Run, *, resume: bool = False, overwrite: bool = False) -> Raced:
    """Races as `run.search` says, in the folder `race` of the run's output, and writes the run with the winner as found.yaml there.

    Candidates are scored on items that none of them trains on: the set's validation split where it has one, else `hold_out` of the
    training items. Test items are not opened.

    Raises:
        FileExistsError: the folder holds a race and neither `resume` nor `overwrite` was asked for.
        UserError: settings, data or model do not fit, or a candidate failed; the message says which.
    """
    folder = Path(run.output) / FOLDER
    applied = [methods.from_dict(values) for values in run.methods]
    place = raced_of(applied)
    kept = SearchFolder(folder, _described(run), resume=resume, overwrite=overwrite)
    if overwrite:
        shutil.rmtree(folder / RUNGS, ignore_errors=True)
        (folder / SCAN).unlink(missing_ok=True)
    kept.begin()
    result = kept.result()
    arms, entered = _entered(run, applied, place, folder)
    if result is None:
        result = _Race(run, applied, place, entered, folder).run()
        kept.finish(result)
    found: Any = applied[place]
    chosen = tuple(entered[result["name"]])
    new = tuple(found.found(chosen) if i == place else m for i, m in enumerate(applied))
    named = dataclasses.replace(run, methods=[methods.to_dict(m) for m in new])
    write_whole(folder / FOUND, run_file.to_yaml(named))
    rows = tuple(result["rows"])
    write_whole(folder / ROWS, "".join(json.dumps(row) + "\n" for row in rows))
    _draw(rows, result["name"], folder / PICTURE)
    return Raced(methods=new, arms=tuple(arms), chosen=chosen, name=result["name"], rows=rows)


def passes(candidates: int, epochs: int) -> int:
    """About how often at most a race of runs of so many epochs passes over the training items.

    Each run begins with about one pass, for the start of bridges, the head, and its score.
    """
    found, rung, left = 0, 0, candidates
    while left > 2:
        found += left * (1 + _epochs(rung, epochs))
        left, rung = max(2, -(-left // 2)), rung + 1
    return found + (2 + len(RULES)) * SEEDS * (1 + _epochs(rung, epochs))


def _epochs(rung: int, whole: int) -> int:
    """Of a run of a rung, where one of the run that is raced for has so many."""
    return min(2**rung, max(1, whole))


def raced_of(applied: Sequence[Method]) -> int:
    """Which of some methods has arms.

    Raises:
        UserError: none or several.
    """
    places = [i for i, m in enumerate(applied) if hasattr(m, "arms")]
    if len(places) != 1:
        names = ", ".join(m.name for m in applied)
        raise UserError(
            f"a race needs exactly one method with something to choose, such as DAS(skip=3), and got {names}"
        )
    return places[0]


def _described(run: Run) -> dict[str, Any]:
    """All that the result depends on: not where the runs are, nor how many at a time."""
    values = dataclasses.asdict(run)
    of_search = {k: v for k, v in values["search"].items() if k not in ("engine", "workers")}
    return {k: v for k, v in values.items() if k != "output"} | {"search": of_search}


def _entered(run: Run, applied: Sequence[Method], place: int, folder: Path) -> tuple[list[str], dict[str, Choice]]:
    """Names of the arms, and the candidates; found once, and read again after a kill."""
    known = folder / SCAN
    if known.is_file():
        record = read_json(known)
        return record["arms"], {name: tuple(choice) for name, choice in record["candidates"].items()}
    kind = tasks.kind(run)
    train = load_sets(_trial(run, applied, 1, run.seed, folder))["train"]
    task = kind.begin(run, train)
    model = task.backbone(run)
    anatomy, found = hosts.read(model), cast(Any, applied[place])
    arms = found.arms(anatomy)
    look: list[depth.Depth] = []
    if all(arm.block is not None for arm in arms):
        items = task.prepare(train)
        look = depth.scan_bare(model, items, seed=run.seed) if items.labels is not None else []
    bandits = Path(run.output) / "search" / BANDITS
    chosen = candidates(
        arms, found.picks(anatomy), run.search.candidates, benefit=depth.benefits(look), change=depth.changes(look),
        found=read_json(bandits)["chosen"] if bandits.is_file() else None, seed=run.seed,
    )  # fmt: skip
    names = [arm.name for arm in arms]
    record = {"arms": names, "candidates": chosen, "depth": [dataclasses.asdict(d) for d in look]}
    write_whole(known, json.dumps(record, indent=2) + "\n")
    return names, chosen


def _trial(run: Run, applied: Sequence[Method], epochs: int, seed: int, output: Path) -> Run:
    """A short run that is scored on held-out training items, and never sees a test item."""
    data = dataclasses.replace(run.data, train="train", validation=run.search.held_out, test=False)
    training = dataclasses.replace(run.training, epochs=epochs)
    values = [methods.to_dict(m) for m in applied]
    return dataclasses.replace(
        run, methods=values, data=data, training=training, seed=seed, output=str(output), search=Search()
    )


class _Race:
    """One race: rungs of cells, from all candidates to the winner."""

    def __init__(self, run: Run, applied: Sequence[Method], place: int, entered: dict[str, Choice], folder: Path):
        self.chosen, self.applied, self.place, self.entered, self.folder = run, applied, place, entered, folder
        self.journal = Journal(folder / JOURNAL)
        self.board = Board(list(entered), self.journal.console)
        self.rows: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """The name of the winner, and the rows of all runs."""
        names, rung = list(self.entered), 0
        with self.board:
            while len(names) > 2:
                scores = self._scored(rung, names, [self.chosen.seed])
                losses = {name: (scores[name][0]["loss"], scores[name][0]["macs"]) for name in names}
                names, rung = survivors(losses, max(2, -(-len(names) // 2))), rung + 1
                self.journal.say(f"rung {rung}: {', '.join(names)} stay")
            # Runs of an epoch or two, which say who learns fast, do not put the simple rules out.
            names = [name for name in self.entered if name in names or name in RULES]
            seeds = [self.chosen.seed + i for i in range(SEEDS)]
            scores = self._scored(rung, names, seeds)
        losses = {name: [row["loss"] for row in rows] for name, rows in scores.items()}
        best = winner(losses, {name: rows[0]["macs"] for name, rows in scores.items()})
        self.journal.say(f"{best} wins, with a loss of {statistics.fmean(losses[best]):.4f}")
        return {"name": best, "rows": self.rows}

    def _scored(self, rung: int, names: Sequence[str], seeds: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
        """The rows of a rung by candidate, one a seed; a run that diverged has a loss of infinity.

        Raises:
            UserError: a run failed.
        """
        epochs = _epochs(rung, self.chosen.training.epochs)
        cells = [self._cell(rung, name, epochs, seed) for name in names for seed in seeds]
        self.board.begin(rung, epochs, len(cells))
        errors: dict[Path, str] = {}
        missing = [cell for cell in cells if not finished(cell)]
        for cell, ended, error in engines.perform(missing, self.chosen.search.engine, self.chosen.search.workers):
            if ended and error is not None:
                errors[cell.folder] = error
            elif ended:
                self.board.end(cell.method, rung, cell.run.seed, _row(cell)["loss"])
        if errors:
            where, why = next(iter(errors.items()))
            raise UserError(f"a run of the race failed ({where}): {why}; --resume goes on once that is mended")
        for cell in cells:
            row = {"rung": rung, "epochs": epochs, "candidate": cell.method, "chosen": list(self.entered[cell.method])}
            self.rows.append({**row, "seed": cell.run.seed, **_row(cell)})
            self.board.end(cell.method, rung, cell.run.seed, self.rows[-1]["loss"])
        return {name: [r for r in self.rows if r["rung"] == rung and r["candidate"] == name] for name in names}

    def _cell(self, rung: int, name: str, epochs: int, seed: int) -> Cell:
        found: Any = self.applied[self.place]
        method = found.found(self.entered[name])
        new = [method if i == self.place else m for i, m in enumerate(self.applied)]
        output = self.folder / RUNGS / str(rung) / name.replace(" ", "-") / f"seed-{seed}"
        trial = _trial(self.chosen, new, epochs, seed, output)
        return Cell(method=name, task=self.chosen.data.name, run=trial, choosing=True)


def _row(cell: Cell) -> dict[str, Any]:
    found = read_json(cell.folder / ROW)
    if found["error"] is not None:  # it diverged, and there is nothing else to know of it
        worst = float("inf")
        return {"loss": worst, "accuracy": None, "macs": worst, "seconds": None, "curve": [], "error": found["error"]}
    own = {name: found[name] for name in ("macs", "seconds", "curve", "error")}
    return {"loss": found["validation_loss"], "accuracy": found["validation_accuracy"], **own}


def _draw(rows: Sequence[dict[str, Any]], best: str, path: Path) -> None:
    from gossamer import report

    if report.available():
        draw(rows, best, path)
