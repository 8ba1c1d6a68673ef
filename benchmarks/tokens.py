"""Fewer tokens, fewer blocks, both: what DINOv2-S with LoRA keeps at which time, by the number of tokens.

    python benchmarks/tokens.py                                        # location and count at 56, 112 and 224 px; hours
    python benchmarks/tokens.py --tasks location --sizes 112 --seeds 0    # some
    python benchmarks/tokens.py --table
    python benchmarks/tokens.py --picture docs/pictures/tokens.png        # accuracy over time, a panel for each task and size

ToMe merges a share of all patches, the same number in each block that stands; the blocks in front of the last one give way to one
bridge from its closed-form start. Nothing is chosen here, and test images are scored once, at the end of every run. LoRA of rank 8
at its usual rate; 6 epochs, at 224 px 2. One row of JSON for each run goes to benchmarks/results/tokens.jsonl; a run that is there
is not made again. Times are taken in turns: of the finished model against the bare backbone, one image and 32; of a training step
against that of LoRA alone.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from pathlib import Path
from typing import Any

import rows
from shrinking import LORA

from gossamer import batches, methods, tasks
from gossamer.adapting import adapt
from gossamer.comparison.timing import passes, step
from gossamer.cost.measure import measure
from gossamer.report import figure_of, save_figure
from gossamer.runs.run import Data, Images, Model, Run, Training
from gossamer.runs.sets import load_sets
from gossamer.runs.trained import load_adapter
from gossamer.training.attention import settled
from gossamer.training.train import train
from gossamer.training.trainer import optimizer

RESULTS = Path(__file__).parent / "results" / "tokens.jsonl"
RUNS = Path("runs/tokens")
TASKS, SIZES, SEEDS, BLOCKS, PATCH = ("location", "count"), (56, 112, 224), (0, 1, 2), 12, 14
WAYS = [(0, 0.0), (4, 0.0), (6, 0.0), (8, 0.0), (0, 0.25), (0, 0.5), (0, 0.75), (4, 0.5), (6, 0.5), (6, 0.75)]
"""Blocks that are skipped, and the share of patches that is merged."""
KEY = ("task", "size", "skipped", "merged", "seed")
REPEATS = 7


def planned(task: str, size: int, way: tuple[int, float], seed: int) -> Run:
    """One run."""
    skipped, share = way
    blocks = list(range(BLOCKS - 1 - skipped, BLOCKS - 1))
    das = [{"method": "das", "rank": 0, "bridge": "per-run", "bridge_start": "closed", "skip": blocks}]
    pairs = round(share * (size // PATCH) ** 2 / (BLOCKS - skipped))
    return Run(
        model=Model(name="dinov2-small", head="plain"),
        data=Data(name=f"desk/{task}", validation=0.0),
        images=Images(size=size, resize="direct"),
        methods=[LORA, *(das if skipped else []), *([{"method": "tome", "r": pairs}] if pairs else [])],
        training=Training(epochs=2 if size == 224 else 6, batch=32, bf16="auto"),
        output=str(RUNS / f"{task}-{size}" / f"{skipped}-{share:g}-seed-{seed}"),
        seed=seed,
    )


def times(run: Run) -> dict[str, float]:
    """Of the finished model as a share of the bare one's, and of a step as a share of that of LoRA alone."""
    adapted, items = load_adapter(run.output), load_sets(run)["train"]
    task: Any = tasks.of(adapted)
    found = {
        f"latency_ratio_at_{count}": passes(adapted, task, items.subset(range(count)))["latency_ratio"]
        for count in (1, 32)
    }
    prepared = task.prepare(items.subset(range(run.training.batch)))
    collated = prepared.collate([prepared[i] for i in range(len(prepared))])
    batch = batches.on(next(adapted.parameters()).device, collated)
    alone = adapt(task.backbone(run), methods.from_dict(LORA), num_labels=task.outputs)
    training = settled(run.training, alone.anatomy, task.sizes())
    calls = {
        name: functools.partial(step, model.train(), task, batch, training, optimizer(model, training))
        for name, model in (("own", load_adapter(run.output)), ("lora", alone))
    }
    taken = measure(calls, repeats=REPEATS)
    return found | {"step_ratio": taken["own"].ratio(taken["lora"])}


def perform(wanted: list[tuple[str, int, int]]) -> None:
    """Makes the runs that are missing."""
    for task, size, seed in wanted:
        for way in WAYS:
            row = dict(zip(KEY, (task, size, *way, seed), strict=True))
            run = planned(task, size, way, seed)
            nothing = way[1] > 0 and run.methods[-1]["method"] != "tome"  # too few tokens for that share
            if nothing or rows.there(RESULTS, row) is not None:
                continue
            metrics = train(run, resume=Path(run.output).is_dir())
            row |= rows.describe(seed) | {"accuracy": metrics["test"]["accuracy"], "macs": metrics["macs"]}
            rows.append(RESULTS, [row | times(run)])


def groups() -> dict[tuple[str, int], dict[tuple[int, float], list[dict[str, Any]]]]:
    """Rows by task and size, then by way."""
    found: dict[tuple[str, int], dict[tuple[int, float], list[dict[str, Any]]]] = {}
    for row in rows.known(RESULTS):
        of = found.setdefault((row["task"], row["size"]), {})
        of.setdefault((row["skipped"], row["merged"]), []).append(row)
    return dict(sorted(found.items()))


def shown() -> str:
    """Means over seeds, a line a task, size and way."""
    heads = f"{'accuracy, %':>14}{'x at 1':>8}{'x at 32':>9}{'step / LoRA':>13}{'seeds':>7}"
    lines = [f"{'task':<10}{'px':>4}{'skipped':>9}{'merged':>8}{heads}"]
    for (task, size), of in groups().items():
        for (skipped, share), some in sorted(of.items()):
            speeds = [1 / _mean(some, f"latency_ratio_at_{count}") for count in (1, 32)]
            lines.append(
                f"{task:<10}{size:>4}{skipped:>9}{share:>8.2f}{rows.spread([r['accuracy'] for r in some]):>14}"
                f"{speeds[0]:>8.2f}{speeds[1]:>9.2f}{_mean(some, 'step_ratio'):>13.2f}{len(some):>7}"
            )
    return "\n".join(lines)


def _mean(some: list[dict[str, Any]], name: str) -> float:
    return statistics.fmean(row[name] for row in some)


def draw(path: Path) -> None:
    """Accuracy over the time of 32 images: depth, tokens, both."""
    found = groups()
    figure, panels = figure_of(3.6 * len(found), 3.2, columns=len(found))
    kinds = {"depth": "o", "tokens": "s", "both": "^", "all": "D"}
    for ((task, size), of), axes in zip(found.items(), panels, strict=True):
        for place, (kind, marker) in enumerate(kinds.items()):
            some = [of[way] for way in of if _kind(way) == kind]
            points = [(_mean(r, "latency_ratio_at_32"), 100 * _mean(r, "accuracy")) for r in some]
            axes.plot(
                *zip(*sorted(points), strict=True) if points else ([], []), marker=marker, color=f"C{place}", label=kind
            )
        axes.set(title=f"{task}, {size} px", xlabel="time of 32 images, bare = 1")
    panels[0].set(ylabel="accuracy, %")
    panels[0].legend(fontsize=8)
    save_figure(figure, path)


def _kind(way: tuple[int, float]) -> str:
    return {(False, False): "all", (True, False): "depth", (False, True): "tokens", (True, True): "both"}[
        way[0] > 0, way[1] > 0
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="pixels a side")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="print what has been run")
    parser.add_argument("--picture", type=Path, help="draw what has been run to this file")
    given = parser.parse_args()
    if given.picture is not None:
        draw(given.picture)
    elif not given.table:
        perform([(t, p, s) for s in given.seeds for t in given.tasks for p in given.sizes])
    print(shown())
