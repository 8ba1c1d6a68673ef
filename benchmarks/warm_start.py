"""How tuning starts: from the solved head, an eased one, or as it is; DINOv2-S on desk tasks, whole and behind a bridge.

    python benchmarks/warm_start.py                                    # LoRA: 4 tasks, 3 seeds; hours on two cores
    python benchmarks/warm_start.py --methods VPT SPT --skipped 0 --tasks location count --starts solved eased
    python benchmarks/warm_start.py --table                            # the table of what has been run

One row of JSON for each run goes to benchmarks/results/warm_start.jsonl; a run that is there is not made again. Runs are those of
bridges.py: blocks 5 to 10, or 3 to 10, of 12 give way to one bridge in closed form. Rates are theirs for LoRA, else the
usual ones of a first run. Test images are scored once at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path

import rows
from bridges import LORA, SEEDS, TASKS, planned
from small_data import METHODS, usual

from gossamer.training.train import train

RESULTS = Path(__file__).parent / "results" / "warm_start.jsonl"
RUNS = Path("runs/warm_start")
STARTS = {"solved": True, "eased": "eased", "as it is": False}
SKIPPED = (8, 0, 6)
LORA_LR = 3e-3  # that of bridges.py
KEY = ("method", "lr", "task", "skipped", "start", "seed")


def perform(method: str, lr: float, task: str, skipped: int, start: str, seed: int) -> None:
    """Makes one run, unless its row is there."""
    row = {"method": method, "lr": lr, "task": task, "skipped": skipped, "start": start, **rows.describe(seed)}
    if rows.there(RESULTS, {name: row[name] for name in KEY}) is not None:
        return
    run = planned(task, "closed" if skipped else "none", skipped, False, seed)
    training = dataclasses.replace(run.training, warm_start=STARTS[start], lr=lr)
    placed = [METHODS[method] if one is LORA else one for one in run.methods]
    output = str(RUNS / f"{method}-{lr:g}" / task / f"{skipped}-{start.replace(' ', '-')}" / f"seed-{seed}")
    metrics = train(dataclasses.replace(run, methods=placed, training=training, output=output), overwrite=True)
    row |= {name: metrics["test"][name] for name in ("accuracy", "balanced_accuracy", "loss")}
    row |= {"l2": (metrics["warm_start"] or {}).get("l2"), "seconds": metrics["seconds"]}
    rows.append(RESULTS, [row])


def shown() -> str:
    """Mean and standard deviation over seeds."""
    found: dict[tuple[str, float, str, int], dict[str, list[float]]] = {}
    for row in rows.known(RESULTS):
        found.setdefault((row["method"], row["lr"], row["task"], row["skipped"]), {}).setdefault(
            row["start"], []
        ).append(row["accuracy"])
    lines = [
        f"{'method':<10}{'rate':<8}{'task':<10}{'skipped':>8}" + "".join(f"{start + ', %':>20}" for start in STARTS)
    ]
    for (method, lr, task, skipped), own in sorted(found.items()):
        cells = [rows.spread(own[start]) if start in own else "-" for start in STARTS]
        lines.append(f"{method:<10}{lr:<8g}{task:<10}{skipped:>8}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["LoRA"], choices=METHODS)
    parser.add_argument("--lr", type=float, help="the rate of the methods")
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--skipped", nargs="+", type=int, default=list(SKIPPED), choices=SKIPPED)
    parser.add_argument("--table", action="store_true", help="print what has been run")
    given = parser.parse_args()
    wanted = itertools.product(given.seeds, given.methods, given.skipped, given.tasks, given.starts)
    for seed, method, skipped, task, start in [] if given.table else wanted:
        lr = given.lr or (LORA_LR if method == "LoRA" else usual(method))
        perform(method, lr, task, skipped, start, seed)
    print(shown())
