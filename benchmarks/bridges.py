"""Bridges and teachers, each with and without the other: DINOv2-S with LoRA on desk tasks, 6 and 8 of 12 blocks skipped.

    python benchmarks/bridges.py                                  # all: 4 tasks, 3 seeds; hours on two cores
    python benchmarks/bridges.py --tasks location --seeds 0       # some
    python benchmarks/bridges.py --table                          # the table of what has been run

One row of JSON for each run goes to benchmarks/results/bridges.jsonl; a run that is there is not made again. "none": nothing is
skipped, and it is the teacher of its seed. "shortcuts": DAS's own, rank 16, from zero. "zero", "closed": one bridge for the run of
skipped blocks, which starts at nothing or in closed form. "+ teacher": a = 0.5, T = 2. Which blocks are skipped was decided
beforehand (5 to 10, 3 to 10), so nothing is chosen here; test images are scored once at the end of every run. Rates are those of
the other desk tables, 3e-3 and for bridges 3e-4.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import rows

from gossamer.runs.run import Data, Images, Model, Run, Training
from gossamer.training.train import train

RESULTS = Path(__file__).parent / "results" / "bridges.jsonl"
RUNS = Path("runs/bridges")
TASKS, SEEDS = ("location", "defects", "count", "cells"), (0, 1, 2)
SKIPPED = {6: list(range(5, 11)), 8: list(range(3, 11))}
LORA = {"method": "peft", "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q", "v"]}
FORMS: dict[str, dict[str, Any]] = {
    "shortcuts": {"shortcut_rank": 16, "init": "zero_up"},
    "zero": {"bridge": "per-run", "shortcut_lr": 0.1},
    "closed": {"bridge": "per-run", "bridge_start": "closed", "shortcut_lr": 0.1},
}


def planned(task: str, form: str, count: int, taught: bool, seed: int) -> Run:
    """One run."""
    das = [] if form == "none" else [{"method": "das", "rank": 0, "skip": SKIPPED[count], **FORMS[form]}]
    teacher = str(folder(task, "none", 0, False, seed)) if taught else None
    return Run(
        model=Model(name="dinov2-small", head="plain"),
        data=Data(name=f"desk/{task}", validation=0.0),
        images=Images(size=56, resize="direct"),
        methods=[LORA, *das],
        training=Training(epochs=6, batch=32, bf16="auto", lr=3e-3, teacher=teacher),
        output=str(folder(task, form, count, taught, seed)),
        seed=seed,
    )


def folder(task: str, form: str, count: int, taught: bool, seed: int) -> Path:
    """Of a run."""
    return RUNS / task / f"{form}-{count}{'-taught' if taught else ''}" / f"seed-{seed}"


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells rows apart."""
    return tuple(row[name] for name in ("task", "form", "skipped", "teacher", "seed"))


def perform(tasks: list[str], seeds: list[int], most: int | None) -> None:
    """Makes the runs that are missing, at most so many; the teachers of a seed first."""
    made = 0
    wanted = [(t, "none", 0, False, s) for s in seeds for t in tasks]
    kinds = [("closed", False), ("shortcuts", False), ("closed", True), ("zero", False), ("shortcuts", True)]
    wanted += [(t, f, m, h, s) for s, t, m, (f, h) in itertools.product(seeds, tasks, SKIPPED, kinds)]
    for one in sorted(wanted, key=lambda w: (seeds.index(w[4]), tasks.index(w[0]), w[1] != "none")):
        task, form, count, taught, seed = one
        row = {"task": task, "form": form, "skipped": count, "teacher": taught, **rows.describe(seed)}
        if key(row) in {key(r) for r in rows.known(RESULTS)}:
            continue
        if made == most:
            return
        made += 1
        of_teacher = folder(task, "none", 0, False, seed)
        if taught and not of_teacher.is_dir():  # its row is of another machine: the same run again
            train(planned(task, "none", 0, False, seed))
        metrics = train(planned(*one), resume=folder(*one).is_dir())
        ratio = metrics["macs"]["finished"] / metrics["macs"]["bare"]
        row |= {"accuracy": metrics["test"]["accuracy"], "balanced_accuracy": metrics["test"]["balanced_accuracy"]}
        row |= {
            "macs_ratio": ratio,
            "trainable_parameters": metrics["trainable_parameters"],
            "seconds": metrics["seconds"],
        }
        rows.append(RESULTS, [row])


def shown() -> str:
    """Mean and standard deviation over seeds."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows.known(RESULTS):
        found.setdefault((row["task"], row["skipped"], row["form"], row["teacher"]), []).append(row["accuracy"])
    lines = [f"{'task':<10}{'skipped':>8}  {'form':<22}{'accuracy, %':>14}{'seeds':>7}"]
    for (task, count, form, taught), values in sorted(found.items()):
        name = form + (" + teacher" if taught else "")
        lines.append(f"{task:<10}{count:>8}  {name:<22}{rows.spread(values):>14}{len(values):>7}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--at-most", type=int, help="make no more runs than this")
    parser.add_argument("--table", action="store_true", help="print what has been run")
    asked = parser.parse_args()
    if not asked.table:
        perform(asked.tasks, asked.seeds, asked.at_most)
    print(shown())
