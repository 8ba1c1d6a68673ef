"""Why SPT is below VPT here: its protocol, one thing at a time, on two tasks of `desk`.

    python benchmarks/self_prompts.py                               # all; some two hours of one core
    python benchmarks/self_prompts.py --variants "SPT" "VPT"            # some
    python benchmarks/self_prompts.py --table                           # the table of what has been run

DINOv2-S at 56 pixels, 150 training images of which 30 are held out, batch 32, the last epoch, accuracy on 500 test images; nothing
is chosen. `SPT` and `VPT` are a first run as `gossamer train` makes it: 10 prompts a block, 12 epochs (48 steps), one-cycle, rates
of 0.01 and 0.003, bfloat16 where the machine has it, the head from the eased probe. Every other variant is one of these
but for what it is called by. "100 epochs" is the authors' schedule: a rise over a tenth of the steps and a cosine. Their
augmentation, weight decays and choice of the best epoch on test images are left out. One row of
benchmarks/results/self_prompts.jsonl for each run, as in small_data.py; a run that is there is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import rows
import small_data

from gossamer.runs.run import Run

RESULTS = Path(__file__).parent / "results" / "self_prompts.jsonl"
TASKS = ("desk/location", "desk/count")
IMAGES, TESTED = 150, 500
RATES = {"VPT": 3e-3, "SPT": 1e-2}  # the usual ones when this was asked; SPT's is 0.03 since, by these rows
LONG = {"epochs": 100, "schedule": "cosine"}
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: method, what is other in it, what is other in training
    "VPT": ("VPT", {}, {}),
    "SPT": ("SPT", {}, {}),
    "VPT, rate 0.01": ("VPT", {}, {"lr": 0.01}),
    "SPT, rate 0.03": ("SPT", {}, {"lr": 0.03}),
    "SPT, rate 0.1": ("SPT", {}, {"lr": 0.1}),
    "SPT, rate 0.3": ("SPT", {}, {"lr": 0.3}),
    "SPT, k-means": ("SPT", {"strategy": "kmeans"}, {}),
    "SPT, mean pooling": ("SPT", {"strategy": "mean_pooling"}, {}),
    "SPT, 20 prompts": ("SPT", {"prompts": 20}, {}),
    "SPT, float32": ("SPT", {}, {"bf16": False}),
    "SPT, fresh head": ("SPT", {}, {"warm_start": False}),
    "VPT, fresh head": ("VPT", {}, {"warm_start": False}),
    "VPT, 100 epochs": ("VPT", {}, LONG),
    "SPT, 100 epochs": ("SPT", {}, LONG),
    "SPT, 100 epochs, rate 0.1": ("SPT", {}, {**LONG, "lr": 0.1}),
    "SPT, 100 epochs, fresh head": ("SPT", {}, {**LONG, "warm_start": False}),
    "VPT, 100 epochs, fresh head": ("VPT", {}, {**LONG, "warm_start": False}),
}


def settings(task: str, variant: str, seed: int) -> Run:
    """The run."""
    method, inside, training = VARIANTS[variant]
    usual = small_data.settings(task, IMAGES, method, seed, RATES[method], 1e-3, 12, tuned_from="eased", tested=TESTED)
    return dataclasses.replace(
        usual,
        methods=[{**usual.methods[0], **inside}],
        training=dataclasses.replace(usual.training, **training),
    )


def table(found: list[dict[str, Any]]) -> str:
    """Test accuracy of the last epoch, mean and standard deviation over seeds; at the start, of the solved head, in brackets."""
    lines = []
    for variant in VARIANTS:
        line = {"variant": variant}
        for task in TASKS:
            some = [row for row in found if (row["task"], row["variant"]) == (task, variant)]
            last = [100 * row["test"]["last"] for row in some]
            spread = f" ± {statistics.stdev(last):.1f}" if len(last) > 1 else ""
            start = 100 * statistics.fmean(row["start"] for row in some) if some else 0
            line[task] = f"{statistics.fmean(last):.1f}{spread} ({start:.1f}, {len(last)})" if some else "-"
        lines.append(line)
    return rows.table(lines, {name: "{" + name + "}" for name in lines[0]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print what has been run")
    asked = parser.parse_args()
    found = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []
    wanted = [
        {"task": task, "variant": variant, "seed": seed}
        for seed in asked.seeds for variant in asked.variants for task in asked.tasks
    ]  # fmt: skip
    for key in [] if asked.table else wanted:
        if any(all(row[name] == value for name, value in key.items()) for row in found):
            continue
        row = {**key, **small_data.perform(settings(**key)), **rows.describe(key["seed"])}
        rows.append(RESULTS, [row])
        found.append(row)
        print({name: row[name] for name in (*key, "start", "test", "bare", "seconds")}, flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
