"""Few images: what methods make of 50 to 1,000, against the probe that they start from, and which epoch to keep.

    python benchmarks/small_data.py                                 # the defaults; other --rates, --head-lr, --epochs are rows too
    python benchmarks/small_data.py --table                             # what the rows say

DINOv2-S at 56 pixels; a fifth of the training images is held out for validation, as `gossamer train FOLDER` does. One row of
benchmarks/results/small_data.jsonl for each run, and none is made twice: validation accuracy and loss after every epoch (0 is the
solved head), with the images that the epoch got right and the start did not (`won`) and the reverse (`lost`; of the last epoch by
class as well, and against the bare backbone's probe), and test accuracy of the start, of the last epoch, and (`run`) of what a
first run ends with: by keep=better one of these, or the linear probe of the bare backbone (`bare`) where methods change the
features before they are trained and are no better. Those are chosen by validation images alone; of the test images each run sees
up to `tested`, drawn by its seed (in the first rows 200). The steps are those of gossamer.training (groups, schedule, clipping,
AdamW, bfloat16 where the machine has it) without the Trainer around them, which takes seconds a run. The first rows also kept
epochs by other rules.

Tasks are those of `desk` and the folders of other kinds that `python benchmarks/kinds.py` draws.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any, cast

import rows
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer as gm
from gossamer import methods, tasks
from gossamer.hosts import heads
from gossamer.runs import first
from gossamer.runs.prepared import outputs
from gossamer.runs.run import Data, Images, Model, Run, Training
from gossamer.runs.sets import load_sets
from gossamer.training import probe, solving
from gossamer.training.attention import attention
from gossamer.training.starting import preferred, standard_error
from gossamer.training.trainer import groups, optimizer, schedule

RESULTS = Path(__file__).parent / "results" / "small_data.jsonl"
FOLDERS = tuple(f"build/kinds/{kind}" for kind in ("drawings", "letters", "nodules"))  # by kinds.py
TASKS = tuple(
    f"desk/{task}" for task in ("defects", "location", "digits", "fashion", "count", "cells", "grades", "orientation")
)
SIZES = (50, 150, 500, 1000)
METHODS: dict[str, dict[str, Any]] = {
    "VPT": {"method": "vpt", "prompts": 10},
    "CVPT": {"method": "cvpt", "prompts": 10},
    "SPT": {"method": "spt", "prompts": 10},
    "LoRA": {"method": "peft", "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q", "v"]},
    "adapters": {"method": "adapter", "rank": 64},
}
TESTED = 1000
KEY = ("task", "images", "method", "lr", "head_lr", "tuned_epochs", "tuned_from", "tested")
STARTS = {"solved": True, "eased": "eased"}  # Training.warm_start
Epochs = list[dict[str, Any]]


def better(epochs: Epochs) -> int:
    """training.keep=better."""
    return 0 if preferred(epochs, "better", epochs[0]["val_images"], "accuracy") else len(epochs) - 1


def settings(
    task: str,
    images: int,
    method: str,
    seed: int,
    lr: float,
    head_lr: float,
    tuned_epochs: int,
    tuned_from: str,
    tested: int,
) -> Run:
    """The run."""
    return Run(
        model=Model(name="dinov2-small", head="plain"),
        data=Data(name=task, limit=images, score_limit=tested, validation=0.2),
        images=Images(size=56, resize="direct"),
        methods=[METHODS[method]],
        training=Training(
            epochs=tuned_epochs,
            batch=first.BATCH,
            lr=lr,
            head_lr=head_lr,
            bf16="auto",
            attention="plain",
            warm_start=STARTS[tuned_from],
        ),
        output="unused",
        seed=seed,
    )


def usual(method: str) -> float:
    """The rate of a run that names none."""
    return methods.METHODS.get(METHODS[method]["method"], methods.Method).learning_rate


def perform(run: Run) -> dict[str, Any]:
    """Trains; what a row says of it. Epoch 0 is the solved head, also where tuning begins from a fresh one."""
    began, cpu = time.monotonic(), time.process_time()
    sets = load_sets(run)
    task: Any = tasks.kind(run).begin(run, sets["train"])
    items = {name: task.prepare(split) for name, split in sets.items()}
    torch.manual_seed(run.seed)
    applied = [methods.from_dict(values) for values in run.methods]
    adapted = gm.adapt(task.backbone(run), applied, num_labels=task.outputs)
    for method in applied:
        if method.learns_from == "images":
            method.prepare(adapted, items["train"], items["train"].collate)
    x, y = items["train"].kept, items["train"].labels
    changed = solving.changed(adapted, items["train"])
    features = outputs(adapted.features, items["train"], device=torch.device("cpu"))
    linear = heads.last_linear(cast(nn.Module, adapted.head))
    fresh = copy.deepcopy(linear.state_dict())
    solved = probe.fit(features, y, task.outputs, seed=run.seed)
    solved.put_into(linear)
    start = logits(adapted, items["val"])
    epochs, began_with = [_epoch(start, start, items["val"].labels)], copy.deepcopy(adapted.state_dict())
    if run.training.warm_start == "eased":
        probe.eased(features, y, solved).put_into(linear)
    elif not run.training.warm_start:
        linear.load_state_dict(fresh)
    steps = run.training.epochs * math.ceil(len(y) / run.training.batch)
    rule = optimizer(adapted, run.training)
    falls, order = schedule(run.training.schedule, rule, steps), torch.Generator().manual_seed(run.seed)
    for _ in range(run.training.epochs):
        adapted.train()
        losses = []
        for batch in torch.randperm(len(y), generator=order).split(run.training.batch):
            losses.append(_step(adapted, run.training, rule, x[batch].to("cpu"), y[batch]) * len(batch))
            falls.step()
        now = _epoch(logits(adapted, items["val"]), start, items["val"].labels)
        epochs.append({**now, "loss": sum(losses) / len(y)})
    last = logits(adapted, items["val"])
    ended = _accuracy(logits(adapted, items["test"]), items["test"].labels)
    bare, of_bare = _bare(adapted, items, task.outputs, run)
    adapted.load_state_dict(began_with)
    before = _accuracy(logits(adapted, items["test"]), items["test"].labels) if changed else bare["test"]
    return {
        "split": {name: len(split) for name, split in items.items()},
        "steps": steps,
        "l2": solved.l2,
        "epochs": epochs,
        "start": before,
        "test": {"last": ended},
        "bare": bare,
        "changed": changed,
        "by_class": {
            "start": by_class(last, start, items["val"].labels),
            "bare": by_class(last, of_bare, items["val"].labels),
        },
        "run": ends(epochs, before, ended, bare, changed=changed),
        "rates": sorted({group["lr"] for group in groups(adapted, run.training)}),
        "seconds": time.monotonic() - began,
        "processor_seconds": time.process_time() - cpu,
    }


def ends(epochs: Epochs, start: float, last: float, bare: dict[str, float], *, changed: bool) -> float:
    """Test accuracy of what a first run ends with, by today's rule: the accuracies of a row decide it."""
    kept, items = better(epochs), epochs[0]["val_images"]
    if changed and epochs[kept]["val_accuracy"] <= bare["val"] + standard_error(bare["val"], items):
        return bare["test"]
    return last if kept else start


BARE: dict[tuple[Any, ...], tuple[dict[str, float], Tensor]] = {}


def _bare(adapted: Any, items: dict[str, Any], classes: int, run: Run) -> tuple[dict[str, float], Tensor]:
    """The linear probe of the bare backbone, which is that of every method: its accuracies, and its logits of validation images.

    It may stay in the head.
    """
    key = (run.data.name, run.data.limit, run.data.score_limit, run.seed)
    if key not in BARE:
        with adapted.anatomy.bare():
            features = outputs(adapted.features, items["train"], device=torch.device("cpu"))
            solved = probe.fit(features, items["train"].labels, classes, seed=run.seed)
            solved.put_into(heads.last_linear(adapted.head))
            found = {split: logits(adapted, items[split]) for split in ("val", "test")}
        BARE[key] = {split: _accuracy(of, items[split].labels) for split, of in found.items()}, found["val"]
    return BARE[key]


def _step(adapted: Any, chosen: Training, rule: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    adapted.zero_grad()
    with attention(chosen), torch.autocast("cpu", torch.bfloat16, enabled=chosen.bfloat16):
        loss = F.cross_entropy(adapted(pixel_values=x).logits.float(), y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(adapted.trainable().values(), chosen.clip)
    rule.step()
    return loss.item()


def logits(adapted: Any, items: Any) -> Tensor:
    """Of every item, [n, C]."""
    adapted.eval()
    return outputs(lambda **batch: adapted(**batch).logits, items, device=torch.device("cpu"))


def _epoch(now: Tensor, start: Tensor, labels: Tensor) -> dict[str, Any]:
    right, before = now.argmax(1) == labels, start.argmax(1) == labels
    return {
        "val_accuracy": right.double().mean().item(), "val_loss": F.cross_entropy(now.double(), labels).item(),
        "val_images": len(labels),
        "won": int((right & ~before).sum()), "lost": int((before & ~right).sum()),
    }  # fmt: skip


def by_class(now: Tensor, start: Tensor, labels: Tensor) -> dict[int, tuple[int, int, int]]:
    """Validation images of each class that has some, and those among them that are won over the start, and lost."""
    right, before = now.argmax(1) == labels, start.argmax(1) == labels

    return {
        label: (int(here.sum()), int((here & right & ~before).sum()), int((here & before & ~right).sum()))
        for label in labels.unique().tolist() for here in [labels == label]
    }  # fmt: skip


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).double().mean().item()


def table(found: list[dict[str, Any]]) -> str:
    """Points against the start on test images, means over seeds."""
    lines = []
    keys = dict.fromkeys(tuple(row[name] for name in KEY) for row in found)
    for key in sorted(keys):
        some = [row for row in found if tuple(row[name] for name in KEY) == key]
        start = sum(row["start"] for row in some) / len(some)
        line = dict(zip(KEY, map(str, key), strict=True))
        line |= {"seeds": str(len(some)), "probe": f"{start:.1%}"}
        ended = [
            row for row in some if "run" in row
        ]  # rows from before a run was held to the bare backbone's probe lack it
        for name in ("bare", "run"):
            of = [(row["run"] if name == "run" else row["bare"]["test"]) - row["start"] for row in ended]
            line[name] = f"{100 * sum(of) / len(of):+.1f}" if ended else "-"
        line["last"] = f"{100 * (sum(row['test']['last'] for row in some) / len(some) - start):+.1f}"
        lines.append(line)
    return rows.table(lines, {name: "{" + name + "}" for name in lines[0]}) if lines else "no rows"


def summary(found: list[dict[str, Any]]) -> str:
    """Points against the bare backbone's probe, by method and images, at the default settings: mean over tasks, and the least."""
    lines = []
    usually = [
        row
        for row in found
        if row["tested"] == TESTED and row["tuned_from"] == "eased" and row["lr"] == usual(row["method"])
    ]
    for method in METHODS:
        line = {"method": method}
        for images in SIZES:
            of_task: dict[str, list[tuple[float, float]]] = {}
            for row in (row for row in usually if (row["method"], row["images"]) == (method, images)):
                points = tuple(100 * (value - row["bare"]["test"]) for value in (row["run"], row["test"]["last"]))
                of_task.setdefault(row["task"], []).append(cast(tuple[float, float], points))
            for i, name in enumerate(("run", "last")):
                means = [statistics.fmean(points[i] for points in some) for some in of_task.values()]
                told = f"{statistics.fmean(means):+.1f}, least {min(means):+.1f} ({len(means)} tasks)" if means else "-"
                line[f"{name}, {images} images"] = told
        lines.append(line)
    return rows.table(lines, {name: "{" + name + "}" for name in lines[0]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[*TASKS, *FOLDERS])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rates", nargs="+", type=float, help="of the methods; default: the usual one of each")
    parser.add_argument("--head-lr", type=float, default=Training.head_lr)
    parser.add_argument("--epochs", type=int, help="default: those of a first run on so many images")
    parser.add_argument("--tuned-from", choices=STARTS, default="eased", help="the head after epoch 0")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print what the rows say")
    asked = parser.parse_args()
    if not asked.table and (absent := [task for task in asked.tasks if task in FOLDERS and not Path(task).is_dir()]):
        parser.error(
            f"{', '.join(absent)}: drawn by python benchmarks/kinds.py, in the folder where this is run; or name --tasks"
        )
    found = [json.loads(line) for line in asked.results.read_text().splitlines()] if asked.results.is_file() else []
    found = [{"tested": 200, **row} for row in found]
    for row in (row for row in found if "bare" in row):
        changed = row.get("changed", row["start"] != row["bare"]["test"])
        row["run"] = ends(row["epochs"], row["start"], row["test"]["last"], row["bare"], changed=changed)
    wanted = [
        {"task": task, "images": images, "method": method, "lr": lr, "head_lr": asked.head_lr, "seed": seed,
         "tuned_from": asked.tuned_from, "tested": TESTED}
        for seed in asked.seeds for images in asked.sizes for task in asked.tasks
        for method in asked.methods for lr in asked.rates or [usual(method)]
    ]  # fmt: skip
    for key in [] if asked.table else wanted:
        epochs = asked.epochs or first.epochs(key["images"] - round(0.2 * key["images"]))
        key["tuned_epochs"] = epochs
        if any(all(row[name] == value for name, value in key.items()) for row in found):
            continue
        row = {**key, **perform(settings(**key)), **rows.describe(key["seed"])}
        rows.append(asked.results, [row])
        found.append(row)
        print({name: row[name] for name in (*key, "start", "test", "run", "seconds")}, flush=True)
    print(table(found), summary(found), sep="\n\n")


if __name__ == "__main__":
    main()
