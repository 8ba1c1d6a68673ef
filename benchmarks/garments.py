"""A class for every pixel of `desk/garments`: linear and SETR heads on the frozen backbone, and methods under a linear head.

    python benchmarks/garments.py                               # rates, then all: 7 methods, 3 seeds; some hours on one core
    python benchmarks/garments.py --methods linear CVPT --seeds 0
    python benchmarks/garments.py --times                       # then, with nothing else on the machine: steps and passes, in turns
    python benchmarks/garments.py --table                       # the table of what has been run
    python benchmarks/garments.py --picture docs/pictures/garments.png    # what the runs of seed 0 find

DINOv2-S at 112 pixels on 1,000 training images, 4 epochs. Rates are chosen once for each method, at seed 0 on 800 of the training
images by the other 200; test images are scored at the end of the other runs alone. The SETR head is the naive one with 48 channels
and no auxiliary heads. One row of JSON for each run goes to benchmarks/results/garments.jsonl, and none is made twice. Needs
Fashion-MNIST and the carriers (docs/data.md).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import rows
import torch
from PIL import Image

from gossamer import report, tasks
from gossamer.comparison.timing import step
from gossamer.cost.measure import measure
from gossamer.data.masks import overlay
from gossamer.runs.run import Data, Images, Masks, Model, Run, Training
from gossamer.runs.sets import load_sets
from gossamer.runs.trained import load_adapter
from gossamer.training.attention import settled
from gossamer.training.train import train
from gossamer.training.trainer import optimizer

RESULTS = Path(__file__).parent / "results" / "garments.jsonl"
TIMES = RESULTS.with_stem("garments_times")
RUNS = Path("runs/garments")
SEEDS = (0, 1, 2)
EPOCHS, BATCH, HEAD_LR = 4, 16, 2e-3
LINEAR = Masks(scale=(0.75, 1.5))
SETR = Masks(decoder="setr-naive", channels=48, auxiliary=False, scale=(0.75, 1.5))
LORA = {"method": "peft", "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q", "v"]}
Settings = dict[str, Any]
METHODS: dict[
    str, tuple[Settings, Masks, str, list[float]]
] = {  # what is placed, the head, which rate is chosen, and among what
    "linear": ({"method": "linear_probe"}, LINEAR, "head_lr", [2e-3, 1e-2]),
    "SETR": ({"method": "linear_probe"}, SETR, "head_lr", [2e-3, 1e-2]),
    "VPT-deep": ({"method": "vpt", "prompts": 10}, LINEAR, "lr", [3e-3, 1e-2]),
    "CVPT": ({"method": "cvpt", "prompts": 10}, LINEAR, "lr", [3e-2, 3e-1]),
    "LoRA": (LORA, LINEAR, "lr", [1e-3, 3e-3]),
    "full": ({"method": "full"}, LINEAR, "lr", [3e-5, 1e-4]),
}


def planned(method: str, seed: int, rate: float, *, choosing: bool) -> Run:
    """One run."""
    settings, masks, name, _ = METHODS[method]
    lr, head_lr = (None, rate) if name == "head_lr" else (rate, HEAD_LR)
    return Run(
        model=Model(name="dinov2-small"),
        data=Data(name="desk/garments", validation=0.2 if choosing else 0.0, test=not choosing),
        images=Images(size=112, augment=["random-crop", "horizontal-flip"]),
        masks=masks,
        methods=[settings],
        training=Training(epochs=EPOCHS, batch=BATCH, bf16="auto", lr=lr, head_lr=head_lr),
        output=str(RUNS / method / f"{'choosing' if choosing else 'final'}-{rate:g}-{seed}"),
        seed=seed,
    )


def perform(method: str, seed: int, rate: float, *, choosing: bool) -> dict[str, Any]:
    """The row of a run, which is made where it is not there."""
    row: dict[str, Any] = {"method": method, "rate": rate, "choosing": choosing}
    if (there := rows.there(RESULTS, row | {"seed": seed})) is not None:
        return there
    metrics = train(planned(method, seed, rate, choosing=choosing), overwrite=True)
    found = metrics["val" if choosing else "test"]
    row |= {
        "miou": found["accuracy"], "mean_accuracy": found["mean_accuracy"], "pixel_accuracy": found["pixel_accuracy"],
        "iou": found["iou"], "trainable_parameters": metrics["trainable_parameters"], "macs": metrics["macs"],
        "seconds": metrics["seconds"],
    }  # fmt: skip
    row |= rows.describe(seed)
    rows.append(RESULTS, [row])
    return row


def best(method: str) -> float:
    """The rate of a method with the best mean IoU on held-out training images."""
    found = [perform(method, 0, rate, choosing=True) for rate in METHODS[method][3]]
    return max(found, key=lambda row: row["miou"])["rate"]


def finals() -> list[dict[str, Any]]:
    """Rows of the runs that were scored on test images."""
    return [row for row in rows.known(RESULTS) if not row["choosing"]]


def first() -> dict[str, tuple[Run, Any]]:
    """Of every method that was run with seed 0 that run, and the model it left."""
    runs = {
        row["method"]: planned(row["method"], 0, row["rate"], choosing=False) for row in finals() if not row["seed"]
    }
    return {m: (runs[m], load_adapter(Path(runs[m].output) / "adapter")) for m in METHODS if m in runs}


def times() -> None:
    """A row for each method: a step of training, and a pass of one image and of a batch when finished, beside the linear head's."""
    steps: dict[str, Callable[[], None]] = {}
    passes: dict[int, dict[str, Callable[[], Any]]] = {1: {}, BATCH: {}}
    for method, (run, adapted) in first().items():
        task, items = tasks.of(adapted), load_sets(run)["train"].subset(range(BATCH))
        prepared: Any = task.prepare(items)
        batch = prepared.collate([prepared[i] for i in range(BATCH)])
        training = settled(run.training, adapted.anatomy, task.sizes())
        steps[method] = partial(step, adapted.train(), task, batch, training, optimizer(adapted, training))
        finished = load_adapter(Path(run.output) / "adapter").finalize().eval()
        for count, called in passes.items():
            called[method] = partial(finished, pixel_values=batch["pixel_values"][:count])
    taken = {"step": measure(steps, repeats=7)}
    with torch.inference_mode():
        taken |= {f"pass_{count}": measure(called, repeats=21) for count, called in passes.items()}
    for method in steps:
        row: dict[str, Any] = {"method": method, "batch": BATCH}
        for name, found in taken.items():
            row[f"{name}_ms"] = 1000 * found[method].seconds
            row[f"{name}_ratio"] = found[method].ratio(found["linear"])
        rows.append(TIMES, [row | rows.describe(0)])


def draw(file: Path) -> None:
    """Four test images, their truth, and what each method finds at seed 0, a row each; in 256 colours, to be small."""
    runs = first()
    examples = load_sets(next(iter(runs.values()))[0])["test"].subset(range(4))
    sheet = [[item["image"], overlay(item["image"], item["mask"])] for item in examples]
    for _, adapted in runs.values():
        task: Any = tasks.of(adapted)
        with torch.inference_mode():
            for line, item in zip(sheet, examples, strict=True):
                found = task.logits(adapted.eval(), item["image"]).argmax(0).byte().numpy()
                line.append(overlay(item["image"], found))
    report.beside(sheet, ("image", "truth", *runs), file, title="Garments on drawn grounds: what each method finds")
    with Image.open(file) as drawn:
        drawn.convert("RGB").quantize(256).save(file, optimize=True)


def shown() -> str:
    """Mean and standard deviation over seeds, and times as ratios to the linear head's where they were taken."""
    taken = {row["method"]: row for row in rows.known(TIMES)}
    lines = [
        f"{'method':<10}{'rate':>8}{'parameters':>13}{'GMACs':>8}{'mIoU, %':>15}{'pixels, %':>15}{'seeds':>7}"
        f"{'step x':>8}{'pass x':>8}{f'{BATCH} x':>8}"
    ]
    for method in METHODS:
        some = [row for row in finals() if row["method"] == method]
        if some:
            scores = "".join(f"{rows.spread([row[name] for row in some]):>15}" for name in ("miou", "pixel_accuracy"))
            clock = (
                [taken[method][f"{name}_ratio"] for name in ("step", "pass_1", f"pass_{BATCH}")]
                if method in taken
                else []
            )
            lines.append(
                f"{method:<10}{some[0]['rate']:>8g}{some[0]['trainable_parameters']:>13,}"
                f"{some[0]['macs']['finished'] / 1e9:>8.2f}{scores}{len(some):>7}"
                + "".join(f"{ratio:>8.2f}" for ratio in clock)
            )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="print what has been run")
    parser.add_argument("--times", action="store_true", help="time what has been run with seed 0")
    parser.add_argument("--picture", type=Path, help="draw what the runs of seed 0 find to this file")
    given = parser.parse_args()
    if given.picture is not None:
        draw(given.picture)
    if given.times:
        times()
    idle = given.table or given.times or given.picture is not None
    for seed, method in [] if idle else itertools.product(given.seeds, given.methods):
        perform(method, seed, best(method), choosing=False)
    print(shown())
