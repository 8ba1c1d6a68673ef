"""`gossamer shrink --within 1` on desk tasks: DINOv2-S with LoRA, the cheapest model within a point of it, beside the probe.

    python benchmarks/shrinking.py                                # all 8 tasks at 56 px; hours on two cores
    python benchmarks/shrinking.py --tasks location --size 112    # some, at 112 px: 65 tokens, so merging is tried as well
    python benchmarks/shrinking.py --only-runs                    # no rows yet: time needs a machine that does nothing else
    python benchmarks/shrinking.py --table                        # the table of what has been run

One row of JSON for each model that was trained in the end goes to benchmarks/results/shrinking.jsonl; tasks that are there are not
made again. What is chosen is chosen on a quarter of the training images; test images are scored once, at the end. Times are taken
when rows are written, of one image and of 32, in turns with the bare backbone's. Rates are the usual ones of LoRA and of bridges.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import rows

from gossamer import tasks
from gossamer.comparison.timing import passes
from gossamer.documents import read_json
from gossamer.racing.final import file_share
from gossamer.racing.shrink import REPORT, shrink
from gossamer.racing.whole import Shrink, Whole
from gossamer.runs.run import Data, Images, Model, Run, Training
from gossamer.runs.trained import load_adapter
from gossamer.training.train import train

RESULTS = Path(__file__).parent / "results" / "shrinking.jsonl"
RUNS = Path("runs/shrinking")
LORA = {"method": "peft", "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q", "v"]}
TASKS = ("location", "defects", "count", "cells", "digits", "fashion", "grades", "orientation")
SEEDS = 3  # of the chosen model and of the whole one


def folder(task: str, size: int) -> Path:
    """Of everything about a task."""
    return RUNS / f"{task}-{size}"


def planned(task: str, size: int, seed: int) -> Run:
    """The run that is shrunk, or the same with another seed."""
    return Run(
        model=Model(name="dinov2-small", head="plain"),
        data=Data(name=f"desk/{task}", validation=0.0),
        images=Images(size=size, resize="direct"),
        methods=[LORA],
        training=Training(epochs=6, batch=32, bf16="auto"),
        output=str(folder(task, size) / f"seed-{seed}"),
        seed=seed,
    )


def perform(task: str, size: int) -> Shrink:
    """Trains the whole model with every seed, and shrinks the first; what is there already is not made again."""
    for seed in range(SEEDS):
        run = planned(task, size, seed)
        if not (Path(run.output) / "metrics.json").is_file():
            train(run, resume=Path(run.output).is_dir())
    asked = Shrink(run=planned(task, size, 0).output, within=1.0, seeds=SEEDS)
    if not (asked.folder / REPORT).is_file():
        shrink(asked)
    return asked


def measured(task: str, size: int, asked: Shrink) -> list[dict[str, Any]]:
    """A row for each final model, the whole one of its seed beside it."""
    whole, report = Whole(asked), read_json(asked.folder / REPORT)
    found = []
    for one in report["final"]:
        of_whole = read_json(Path(planned(task, size, one["seed"]).output) / "metrics.json")
        row = {"task": task, "size": size, **rows.describe(one["seed"]), **report["chosen"], "why": report["why"]}
        row |= {"accuracy": one["accuracy"], "balanced_accuracy": one["balanced_accuracy"]}
        row |= {"whole_accuracy": of_whole["test"]["accuracy"], "probe_accuracy": report["probe"]["accuracy"]}
        row |= {
            "gmacs": one["gmacs"],
            "bare_gmacs": one["bare_gmacs"],
            "trainable_parameters": one["trainable_parameters"],
        }
        row |= {f"latency_ratio_at_{count}": _share(whole, one, count) for count in (1, 32)}
        found.append(row)
    return found


def _share(whole: Whole, one: dict[str, Any], count: int) -> float:
    if "file" in one:
        return file_share(whole, Path(one["file"]), count)
    adapted = load_adapter(one["run"])
    return passes(adapted, tasks.of(adapted), whole.items(count))["latency_ratio"]


def shown() -> str:
    """Means over seeds, a line a task and size."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows.known(RESULTS):
        found.setdefault((row["task"], row["size"]), []).append(row)
    heads = f"{'probe':>8}{'whole':>14}{'shrunk':>14}  {'skipped, merged, int8':<24}{'x at 1':>7}{'x at 32':>8}"
    lines = [f"{'task':<14}{'px':>4}{heads}"]
    for (task, size), own in sorted(found.items()):
        chosen = f"{len(own[0]['skipped'])}, {own[0]['merged']}, {'yes' if own[0]['int8'] else 'no'}"
        times = [1 / statistics.fmean(row[f"latency_ratio_at_{count}"] for row in own) for count in (1, 32)]
        lines.append(
            f"{task:<14}{size:>4}{100 * own[0]['probe_accuracy']:>8.1f}{rows.spread([row['whole_accuracy'] for row in own]):>14}"
            f"{rows.spread([row['accuracy'] for row in own]):>14}  {chosen:<24}{times[0]:>7.2f}{times[1]:>8.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--size", type=int, default=56, help="side of the images in px (default: %(default)s)")
    parser.add_argument("--only-runs", action="store_true", help="make what is missing and write no rows")
    parser.add_argument("--table", action="store_true", help="print what has been run")
    given = parser.parse_args()
    for name in [] if given.table else given.tasks:
        if (name, given.size) not in {(row["task"], row["size"]) for row in rows.known(RESULTS)}:
            of_task = perform(name, given.size)
            if not given.only_runs:
                rows.append(RESULTS, measured(name, given.size, of_task))
    print(shown())
