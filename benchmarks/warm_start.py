"""How the head starts: solved, evenly solved, or as it is; DINOv2-S with LoRA on desk tasks, whole and behind a bridge.

    python benchmarks/warm_start.py                                    # all: 4 tasks, 3 seeds; hours on two cores
    python benchmarks/warm_start.py --tasks location count --seeds 0   # some
    python benchmarks/warm_start.py --table                            # the table of what has been run

One row of JSON for each run goes to benchmarks/results/warm_start.jsonl; a run that is there is not made again. Runs are those of
bridges.py: blocks 5 to 10, or 3 to 10, of 12 give way to one bridge in closed form. Test images are scored once at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import rows
from bridges import SEEDS, TASKS, planned

from gossamer.training.train import train

RESULTS = Path(__file__).parent / "results" / "warm_start.jsonl"
RUNS = Path("runs/warm_start")
STARTS = {"solved": True, "even": "even", "as it is": False}
SKIPPED = (8, 0, 6)


def perform(task: str, skipped: int, start: str, seed: int) -> None:
    """Makes one run, unless its row is there."""
    row = {"task": task, "skipped": skipped, "start": start, **rows.describe(seed)}
    if any(all(r[name] == row[name] for name in ("task", "skipped", "start", "seed")) for r in rows.known(RESULTS)):
        return
    run = planned(task, "closed" if skipped else "none", skipped, False, seed)
    training = dataclasses.replace(run.training, warm_start=STARTS[start])
    output = str(RUNS / task / f"{skipped}-{start.replace(' ', '-')}" / f"seed-{seed}")
    metrics = train(dataclasses.replace(run, training=training, output=output), overwrite=True)
    row |= {name: metrics["test"][name] for name in ("accuracy", "balanced_accuracy", "loss")}
    row |= {"l2": (metrics["warm_start"] or {}).get("l2"), "seconds": metrics["seconds"]}
    rows.append(RESULTS, [row])


def shown() -> str:
    """Mean and standard deviation over seeds."""
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in rows.known(RESULTS):
        found.setdefault((row["task"], row["skipped"]), {}).setdefault(row["start"], []).append(row["accuracy"])
    lines = [f"{'task':<10}{'skipped':>8}" + "".join(f"{start + ', %':>20}" for start in STARTS)]
    for (task, skipped), own in sorted(found.items()):
        cells = [rows.spread(own[start]) if start in own else "-" for start in STARTS]
        lines.append(f"{task:<10}{skipped:>8}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--skipped", nargs="+", type=int, default=list(SKIPPED), choices=SKIPPED)
    parser.add_argument("--table", action="store_true", help="print what has been run")
    given = parser.parse_args()
    cells = [(s, m, t, h) for s in given.seeds for m in given.skipped for t in given.tasks for h in STARTS]
    for seed, skipped, task, start in [] if given.table else cells:
        perform(task, skipped, start, seed)
    print(shown())
