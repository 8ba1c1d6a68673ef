"""By what the strength of a linear probe should be chosen: held-out accuracy or loss, the best or one standard error from it.

    python benchmarks/probes.py                   # half an hour on one core; rows that are there are not made again
    python benchmarks/probes.py --table           # what the rows say

DINOv2-S at 56 pixels on tasks of `desk`; 50 to 1,000 training images, three seeds. A row of benchmarks/results/probes.jsonl has for
every strength of the penalty what five held-out fifths of the training images say (accuracy, loss, and the standard error of each),
and beside it, not for choosing, loss on the training images and accuracy and loss on the test images of the probe of all of them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rows
import torch
from torch import Tensor
from torch.nn import functional as F

import gossamer as gm
from gossamer import data, tasks
from gossamer.data.stratify import stratified
from gossamer.runs.prepared import outputs
from gossamer.runs.run import Data, Images, Model, Run
from gossamer.training import probe

RESULTS = Path(__file__).parent / "results" / "probes.jsonl"
TASKS = ("desk/defects", "desk/location", "desk/count", "desk/digits", "desk/fashion")
SIZES = (50, 150, 500, 1000)


def features(name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """What a head of the class token reads of all training and test images, and their labels."""
    run = Run(
        model=Model(name="dinov2-small", head="plain"), data=Data(name=name), images=Images(size=56, resize="direct"),
        methods=[{"method": "linear_probe"}], output="unused",
    )  # fmt: skip
    sets = {split: data.load(name, split) for split in ("train", "test")}
    task: Any = tasks.kind(run).begin(run, sets["train"])
    adapted = gm.adapt(task.backbone(run), gm.LinearProbe(), num_labels=task.outputs).eval()
    items = {split: task.prepare(images) for split, images in sets.items()}
    return {
        split: (outputs(adapted.features, of, device=torch.device("cpu")), of.labels) for split, of in items.items()
    }


def curve(x: Tensor, y: Tensor, test: tuple[Tensor, Tensor], classes: int, seed: int) -> list[dict[str, float]]:
    """One record for every strength."""
    x = x.double()
    right, loss = torch.zeros(2, len(probe.STRENGTHS), len(y), dtype=torch.float64)
    for held in probe.folds(y, seed):
        kept = torch.ones(len(y), dtype=torch.bool)
        kept[held] = False
        for i, (w, b) in enumerate(probe._solve(x[kept], y[kept], probe.STRENGTHS, classes, probe.CHOOSING)):
            logits = x[held] @ w.T + b
            right[i, held] = (logits.argmax(1) == y[held]).double()
            loss[i, held] = F.cross_entropy(logits, y[held], reduction="none")
    found = []
    for i, (w, b) in enumerate(probe._solve(x, y, probe.STRENGTHS, classes, probe.CHOOSING)):
        logits = test[0].double() @ w.T + b
        found.append(
            {
                "l2": probe.STRENGTHS[i],
                "held_accuracy": right[i].mean().item(),
                "held_accuracy_error": right[i].std().item() / math.sqrt(len(y)),
                "held_loss": loss[i].mean().item(),
                "held_loss_error": loss[i].std().item() / math.sqrt(len(y)),
                "train_loss": F.cross_entropy(x @ w.T + b, y).item(),
                "test_accuracy": (logits.argmax(1) == test[1]).double().mean().item(),
                "test_loss": F.cross_entropy(logits, test[1]).item(),
            }
        )
    return found


def by_accuracy(curve: list[dict[str, float]]) -> int:
    """The best accuracy; of equal ones the strongest penalty."""
    return max(range(len(curve)), key=lambda i: (curve[i]["held_accuracy"], -i))


def by_loss(curve: list[dict[str, float]]) -> int:
    """The least loss."""
    return min(range(len(curve)), key=lambda i: curve[i]["held_loss"])


def near(
    best: Callable[[list[dict[str, float]]], int], name: str, sign: int
) -> Callable[[list[dict[str, float]]], int]:
    """The strongest penalty within one standard error of the best."""

    def rule(curve: list[dict[str, float]]) -> int:
        at = curve[best(curve)]
        return next(i for i, of in enumerate(curve) if sign * (of[name] - at[name]) <= at[f"{name}_error"])

    return rule


def within(curve: list[dict[str, float]]) -> int:
    """The best accuracy among those within one standard error of the least loss: what `gossamer.training.probe` does."""
    at = curve[by_loss(curve)]
    fit = [i for i, of in enumerate(curve) if of["held_loss"] <= at["held_loss"] + at["held_loss_error"]]
    return max(fit, key=lambda i: (curve[i]["held_accuracy"], -i))


RULES = {
    "accuracy": by_accuracy,
    "accuracy, one error": near(by_accuracy, "held_accuracy", -1),
    "loss": by_loss,
    "loss, one error": near(by_loss, "held_loss", 1),
    "accuracy, loss within one error": within,
}


def table(found: list[dict[str, Any]]) -> str:
    """Means over seeds, by task, images and rule."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in found):
        for images in dict.fromkeys(row["images"] for row in found if row["task"] == task):
            some = [row["curve"] for row in found if (row["task"], row["images"]) == (task, images)]
            line = {"task": task, "images": str(images)}
            for name, rule in RULES.items():
                at = [curve[rule(curve)] for curve in some]
                mean = {key: sum(of[key] for of in at) / len(at) for key in ("test_accuracy", "test_loss")}
                least = min(at, key=lambda of: of["train_loss"])
                line[name] = (
                    f"{mean['test_accuracy']:6.1%} {mean['test_loss']:.3f}, {least['train_loss']:.3f} at {least['l2']:.1e}"
                )
            lines.append(line)
    head = "test accuracy and loss, means over seeds; least training loss of a seed, and its strength\n"
    return head + rows.table(lines, {name: "{" + name + "}" for name in lines[0]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print what the rows say")
    asked = parser.parse_args()
    found = [json.loads(line) for line in asked.results.read_text().splitlines()] if asked.results.is_file() else []
    if not asked.table:
        for task in asked.tasks:
            of = features(task)
            classes = int(of["train"][1].max()) + 1
            for images in asked.sizes:
                for seed in asked.seeds:
                    if any((row["task"], row["images"], row["seed"]) == (task, images, seed) for row in found):
                        continue
                    drawn = stratified(of["train"][1].tolist(), images, seed)
                    x, y = (tensor[drawn] for tensor in of["train"])
                    row = {"task": task, "images": images, "curve": curve(x, y, of["test"], classes, seed)}
                    rows.append(asked.results, [{**row, **rows.describe(seed)}])
                    found.append({**row, "seed": seed})
                    print(f"{task} {images} {seed}", flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
