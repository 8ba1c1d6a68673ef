"""The race against simple rules and the bandit: which 4 or 6 of DINOv2-S's 12 blocks give way to bridges, on desk tasks.

    python benchmarks/racing.py                               # 8 tasks, 3 seeds; some nine hours of one core
    python benchmarks/racing.py --tasks location --sizes 6    # some
    python benchmarks/racing.py --table                       # the table of what has been run

LoRA of rank 8 at its usual rate, 6 epochs, one bridge for a run of skipped blocks from its closed-form start, no teacher. Choices:
what a race of 16 candidates finds; the deepest blocks; the deepest but the last; what the bandit finds with shortcuts (by
desk_das_search.yaml); five subsets drawn at random, which no one chooses among. Race and bandit see training images alone, once
(seed 0); then every choice is trained with three seeds, random ones with one each, and scored on test images. One row of JSON for
each run goes to benchmarks/results/racing.jsonl; a run that is there is not made again. `search_epochs`: of training, that
choosing took; a run of the race passes over the training items about twice more, for its start and its head.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path

import rows
import torch
from shrinking import LORA, TASKS

from gossamer.racing.race import race
from gossamer.runs.run import Data, Images, Model, Run, Search, Training
from gossamer.searching.run import search_run
from gossamer.training.train import train

RESULTS = Path(__file__).parent / "results" / "racing.jsonl"
RUNS = Path("runs/racing")
BLOCKS, SIZES, SEEDS, RANDOM = 12, (4, 6), (0, 1, 2), 5
BRIDGED = {"method": "das", "rank": 0, "bridge": "per-run", "bridge_start": "closed"}
BANDIT = Search(
    epochs=24,
    hold_out=0.2,
    reward_batch=200,
    rules={"candidates": 6, "eta": 5, "interval": 4, "warmup": 8, "ramp": True},
)  # as desk_das_search.yaml
FIXED = ("deepest", "deepest but the last")


def planned(task: str, skip: int | list[int], output: Path, seed: int = 0) -> Run:
    """One run."""
    return Run(
        model=Model(name="dinov2-small", head="plain"),
        data=Data(name=f"desk/{task}", validation=0.0),
        images=Images(size=56, resize="direct"),
        methods=[LORA, {**BRIDGED, "skip": skip}],
        training=Training(epochs=6, batch=32, bf16="auto"),
        search=Search(by="race"),
        output=str(output),
        seed=seed,
    )


def drawn(size: int) -> dict[str, list[int]]:
    """The random choices, the same for every task."""
    generator = torch.Generator().manual_seed(size)
    return {
        f"random {i + 1}": sorted(torch.randperm(BLOCKS, generator=generator)[:size].tolist()) for i in range(RANDOM)
    }


def chosen(task: str, size: int, choice: str) -> tuple[list[int], int]:
    """The blocks of a choice, and the epochs of training that finding them took."""
    folder = RUNS / f"{task}-{size}" / choice.replace(" ", "-")
    if choice == "race":
        raced = race(planned(task, size, folder), resume=True)
        return list(raced.chosen), sum(row["epochs"] for row in raced.rows)
    if choice == "bandit":
        shortcuts = {"method": "das", "skip": size, "rank": 16, "init": "zero_up"}
        run = dataclasses.replace(planned(task, size, folder), methods=[LORA, shortcuts], search=BANDIT)
        training = dataclasses.replace(run.training, lr=2e-3, head_lr=5e-3, schedule="cosine")
        return list(search_run(dataclasses.replace(run, training=training), resume=True).chosen), BANDIT.epochs
    if choice in FIXED:
        last = BLOCKS - FIXED.index(choice)
        return list(range(last - size, last)), 0
    return drawn(size)[choice], 0


def perform(tasks: list[str], sizes: list[int], seeds: list[int]) -> None:
    """Makes the runs that are missing."""
    for task, size in [(t, m) for t in tasks for m in sizes]:
        for choice in ("race", *FIXED, "bandit", *drawn(size)):
            wanted = seeds if choice not in drawn(size) else [0]
            key = {"task": task, "skipped": size, "choice": choice}
            missing = [s for s in wanted if rows.there(RESULTS, key | {"seed": s}) is None]
            if not missing:
                continue
            blocks, epochs = chosen(task, size, choice)
            for seed in missing:
                folder = RUNS / f"{task}-{size}" / "-".join(map(str, blocks)) / f"seed-{seed}"  # whoever chose them
                metrics = train(planned(task, blocks, folder, seed), resume=folder.is_dir())
                row = {**key, "blocks": blocks, **rows.describe(seed), "search_epochs": epochs}
                row |= {name: metrics["test"][name] for name in ("accuracy", "balanced_accuracy")}
                rows.append(RESULTS, [row | {"seconds": metrics["seconds"]}])


def shown() -> str:
    """Mean and standard deviation over seeds, of random choices over these; what the race is ahead of the best other."""
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in rows.known(RESULTS):
        name = "random" if row["choice"].startswith("random") else row["choice"]
        found.setdefault((row["task"], row["skipped"]), {}).setdefault(name, []).append(row["accuracy"])
    names = ("race", *FIXED, "bandit", "random")
    lines = [f"{'task':<14}{'skipped':>8}" + "".join(f"{name:>22}" for name in names) + f"{'race ahead by':>15}"]
    for (task, size), of in sorted(found.items()):
        shown = "".join(f"{rows.spread(of[name]) if name in of else '-':>22}" for name in names)
        others = [statistics.fmean(of[name]) for name in names[1:] if name in of]
        ahead = f"{100 * (statistics.fmean(of['race']) - max(others)):+.1f}" if "race" in of and others else "-"
        lines.append(f"{task:<14}{size:>8}{shown}{ahead:>15}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="blocks that are skipped")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="print what has been run")
    given = parser.parse_args()
    if not given.table:
        perform(given.tasks, given.sizes, given.seeds)
    print(shown())
