"""`gossamer demo`: DINOv2-S learns to find defective solar cells, in minutes: linear probe, VPT-deep, and VPT-deep shrunk.

The shrunk model has one bridge in place of half of its blocks, and is taught by the whole one. Settings of probe and VPT were
chosen on held-out parts of the 1,000 training images, and which blocks give way on another task; the 1,000 test images only give
the final scores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.arguments import natural, positive
from gossamer.runs.run import Data, Images, Model, Run, Training

if TYPE_CHECKING:
    from gossamer.adapting import Adapted

VPT = {"method": "vpt", "prompts": 10, "deep": True}
# Half of the blocks, the deepest but the last. The bridge learns at 3 % of the rate of prompts.
BRIDGE = {
    "method": "das", "rank": 0, "skip": [5, 6, 7, 8, 9, 10], "bridge": "per-run", "bridge_start": "closed", "shortcut_lr": 0.03,
}  # fmt: skip
METHODS = {"linear": [{"method": "linear_probe"}], "vpt": [VPT], "shrunk": [VPT, BRIDGE]}
TEACHERS = {"shrunk": "vpt"}
EPOCHS = 8
REPEATS = {1: 20, 32: 3}  # images of a batch -> how often its time is measured


def settings(name: str, output: str | Path, *, seed: int = 0, epochs: int = EPOCHS, images: int | None = None) -> Run:
    """The run of one method of the demo, "linear", "vpt" or "shrunk": same images, same head input (the class token), same seed.

    In bfloat16 where the machine has it, which with plain attention takes half the time.
    """
    from gossamer.cost import machine

    fast: dict[str, Any] = {"bf16": True, "attention": "plain"} if machine.bfloat16() else {}
    teacher = str(Path(output) / TEACHERS[name]) if name in TEACHERS else None
    return Run(
        model=Model(name="dinov2-small", head="plain"),
        data=Data(name="elpv", validation=0, limit=images),
        images=Images(size=84, resize="direct"),
        methods=METHODS[name],
        training=Training(
            epochs=epochs,
            batch=32,
            lr=3e-3,  # chosen on held-out training images of the same task (docs/desk.md), from the solved head itself
            head_lr=1e-3,
            schedule="one-cycle",
            clip=1.0,
            warm_start=True,
            teacher=teacher,
            **fast,
        ),
        output=str(Path(output) / name),
        seed=seed,
    )


def demo(
    output: str | Path = "runs/demo", *, seed: int = 0, epochs: int = EPOCHS, images: int | None = None
) -> dict[str, Any]:
    """Trains all methods, measures them, writes report.json and accuracy.png; returns the report.

    Args:
        output: folder; all runs lie in it. Earlier ones are removed.
        seed: of prompts, order of the images and held-out parts.
        epochs: of VPT, whole and shrunk; the linear probe is solved, not trained by epochs.
        images: train and test on this many images only. None: on 1,000 each.
    """
    from gossamer import report
    from gossamer.training.train import train

    runs = {name: settings(name, output, seed=seed, epochs=epochs, images=images) for name in METHODS}
    metrics = {name: train(run, overwrite=True) for name, run in runs.items()}
    found = {
        "dataset": "elpv: photographs of solar cells, functional or defective",
        "backbone": "dinov2-small: DINOv2 ViT-S/14, frozen",
        "protocol": _protocol(runs["vpt"], metrics["vpt"]["images"]),
        "methods": {name: {**_row(of), **latencies(runs[name])} for name, of in metrics.items()},
    }
    Path(output, "report.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if report.available():
        title = "defective solar cells (elpv)"
        report.accuracy_against_compute(found["methods"], Path(output) / "accuracy.png", title=title)
    return found


def latencies(run: Run) -> dict[str, float]:
    """Time of a run's finished model and its ratio to the bare backbone's with a head, in turns, for one image and for many."""
    from gossamer import tasks
    from gossamer.comparison.timing import passes
    from gossamer.runs.sets import load_sets
    from gossamer.runs.trained import load_adapter

    images, found = load_sets(run)["train"], {}
    for count, repeats in REPEATS.items():
        adapted = load_adapter(run.output)
        taken = passes(adapted, tasks.of(adapted), images.subset(list(range(min(count, len(images))))), repeats=repeats)
        found |= {f"latency_ms_at_{count}": taken["latency_ms"], f"latency_ratio_at_{count}": taken["latency_ratio"]}
    return found


def _protocol(run: Run, images: dict[str, int]) -> str:
    from gossamer.cost import machine

    chosen, size = run.training, run.images.size
    return (
        f"fixed split of {images['train']:,} training and {images['test']:,} test images, {size} x {size} pixels. "
        "linear: logistic regression on the class token, its strength chosen on held-out training images. "
        f"vpt: {run.methods[0]['prompts']} prompts in every block, head started from such a probe, epochs {chosen.epochs}, "
        f"batch {chosen.batch}, AdamW, one-cycle to {chosen.lr:g} on prompts and {chosen.head_lr:g} on the head, "
        f"gradients clipped at {chosen.clip:g}, {machine.precision(chosen.bfloat16)}. "
        f"shrunk: the same with blocks {', '.join(map(str, BRIDGE['skip']))} behind one bridge that starts in closed form, "
        f"and with vpt as teacher. seed {run.seed}"
    )


def _row(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "accuracy": metrics["test"]["accuracy"],
        "balanced_accuracy": metrics["test"]["balanced_accuracy"],
        "trainable_parameters": metrics["trainable_parameters"],
        "gmacs": metrics["macs"]["finished"] / 1e9,
        "bare_gmacs": metrics["macs"]["bare"] / 1e9,
        "seconds": round(metrics["seconds"], 1),
    }


def table(methods: dict[str, dict[str, Any]]) -> str:
    """The methods of a report as a table."""
    lines = [
        f"{'':<8}{'accuracy':>10}{'balanced':>10}{'trained':>12}{'GMACs':>8}{'time, bare = 1':>16}{'training':>10}"
    ]
    for name, row in methods.items():
        shares = f"{row['accuracy']:>10.1%}{row['balanced_accuracy']:>10.1%}"
        times = " / ".join(f"{row[f'latency_ratio_at_{count}']:.2f}" for count in REPEATS)
        lines.append(
            f"{name:<8}{shares}{row['trainable_parameters']:>12,}{row['gmacs']:>8.3f}{times:>16}{row['seconds']:>8.0f} s"
        )
    return "\n".join([*lines, f"time: of the finished model, one image / {max(REPEATS)} at once"])


def try_out(folder: str | Path) -> str:
    """Loads the shrunk model's adapter again and lets it classify the first test image; one sentence."""
    from gossamer import data, tasks
    from gossamer.runs.trained import load_adapter
    from gossamer.tasks.classifying_images import classify, probabilities

    adapted: Adapted = load_adapter(Path(folder) / "shrunk")
    images = data.load("elpv", "test")
    task: Any = tasks.of(adapted)
    item = images[0]
    logits = classify(adapted, task.prepare(images.subset([0])))
    label, share = next(iter(probabilities(logits, task.labels)[0].items()))
    return f"{Path(images.describe(0)).name}: {label} ({share:.1%}); it is {images.classes[item['label']]}"


def command(arguments: Sequence[str]) -> None:
    """`gossamer demo`: trains, prints the table, reloads and predicts."""
    parser = argparse.ArgumentParser(
        prog="gossamer demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", default="runs/demo", help="folder for everything (default: %(default)s)")
    parser.add_argument("--seed", type=natural, default=0, help="default: %(default)s")
    parser.add_argument(
        "--epochs", type=natural, default=EPOCHS, help="of VPT, whole and shrunk (default: %(default)s)"
    )
    parser.add_argument(
        "--images", type=positive, help="train and test on this many images only, for a quick try (default: 1,000 each)"
    )
    asked = parser.parse_args(arguments)
    found = demo(asked.output, seed=asked.seed, epochs=asked.epochs, images=asked.images)
    print(f"\n{found['dataset']}\n{found['protocol']}\n\n{table(found['methods'])}\n")
    print(f"saved, loaded again, and tried on a test image: {try_out(asked.output)}")
    print(f"report.json, accuracy.png and all runs are in {asked.output}")
