"""`gossamer demo`: DINOv2-S learns to find defective solar cells, with the linear probe and with VPT-deep, in minutes.

Settings were chosen on held-out parts of the 1,000 training images; the 1,000 test images only give the final scores.
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

METHODS = {"linear": {"method": "linear_probe"}, "vpt": {"method": "vpt", "prompts": 10, "deep": True}}
EPOCHS = 8


def settings(name: str, output: str | Path, *, seed: int = 0, epochs: int = EPOCHS, images: int | None = None) -> Run:
    """The run of one method of the demo, "linear" or "vpt": same images, same head input (the class token), same seed.

    In bfloat16 where the machine has it, which with plain attention takes half the time.
    """
    from gossamer.cost import machine

    fast: dict[str, Any] = {"bf16": True, "attention": "plain"} if machine.bfloat16() else {}
    return Run(
        model=Model(name="dinov2-small", head="plain"),
        data=Data(name="elpv", validation=0, limit=images),
        images=Images(size=84, resize="direct"),
        methods=[METHODS[name]],
        training=Training(
            epochs=epochs, batch=32, lr=1e-2, head_lr=1e-3, schedule="one-cycle", clip=1.0, warm_start=True, **fast
        ),
        output=str(Path(output) / name),
        seed=seed,
    )


def demo(
    output: str | Path = "runs/demo", *, seed: int = 0, epochs: int = EPOCHS, images: int | None = None
) -> dict[str, Any]:
    """Trains both methods, writes report.json and accuracy.png, tries the saved adapter on a test image; returns the report.

    Args:
        output: folder; both runs lie in it. Earlier ones are removed.
        seed: of prompts, order of the images and held-out parts.
        epochs: of VPT; the linear probe is solved, not trained by epochs.
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
        "methods": {name: _row(of) for name, of in metrics.items()},
    }
    Path(output, "report.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if report.available():
        report.accuracy_against_compute(
            found["methods"], Path(output) / "accuracy.png", title="defective solar cells (elpv)"
        )
    return found


def _protocol(run: Run, images: dict[str, int]) -> str:
    from gossamer.cost import machine

    chosen, size = run.training, run.images.size
    return (
        f"fixed split of {images['train']:,} training and {images['test']:,} test images, {size} x {size} pixels. "
        "linear: logistic regression on the class token, its strength chosen on held-out training images. "
        f"vpt: {run.methods[0]['prompts']} prompts in every block, head started from such a probe, epochs {chosen.epochs}, "
        f"batch {chosen.batch}, AdamW, one-cycle to {chosen.lr:g} on prompts and {chosen.head_lr:g} on the head, "
        f"gradients clipped at {chosen.clip:g}, {machine.precision(chosen.bfloat16)}. seed {run.seed}"
    )


def _row(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "accuracy": metrics["test"]["accuracy"],
        "balanced_accuracy": metrics["test"]["balanced_accuracy"],
        "trainable_parameters": metrics["trainable_parameters"],
        "gmacs": metrics["macs"]["finished"] / 1e9,
        "seconds": round(metrics["seconds"], 1),
    }


def table(methods: dict[str, dict[str, Any]]) -> str:
    """The methods of a report as a table."""
    lines = [f"{'':<8}{'accuracy':>10}{'balanced':>10}{'trained':>12}{'GMACs':>8}{'training':>10}"]
    for name, row in methods.items():
        shares = f"{row['accuracy']:>10.1%}{row['balanced_accuracy']:>10.1%}"
        lines.append(f"{name:<8}{shares}{row['trainable_parameters']:>12,}{row['gmacs']:>8.3f}{row['seconds']:>8.0f} s")
    return "\n".join(lines)


def try_out(folder: str | Path) -> str:
    """Loads the saved VPT adapter again and lets it classify the first test image; one sentence."""
    from gossamer import data
    from gossamer.runs.trained import load_adapter
    from gossamer.tasks.classifying_images import probabilities
    from gossamer.tasks.recorded import preprocessing_of

    adapted: Adapted = load_adapter(Path(folder) / "vpt")
    images = data.load("elpv", "test")
    item = images[0]
    found = probabilities(adapted, preprocessing_of(adapted)(item["image"])[None])[0]
    label, share = next(iter(found.items()))
    return f"{Path(images.describe(0)).name}: {label} ({share:.1%}); it is {images.classes[item['label']]}"


def command(arguments: Sequence[str]) -> None:
    """`gossamer demo`: trains, prints the table, reloads and predicts."""
    parser = argparse.ArgumentParser(
        prog="gossamer demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", default="runs/demo", help="folder for everything (default: %(default)s)")
    parser.add_argument("--seed", type=natural, default=0, help="default: %(default)s")
    parser.add_argument("--epochs", type=natural, default=EPOCHS, help="of VPT (default: %(default)s)")
    parser.add_argument(
        "--images", type=positive, help="train and test on this many images only, for a quick try (default: 1,000 each)"
    )
    asked = parser.parse_args(arguments)
    found = demo(asked.output, seed=asked.seed, epochs=asked.epochs, images=asked.images)
    print(f"\n{found['dataset']}\n{found['protocol']}\n\n{table(found['methods'])}\n")
    print(f"saved, loaded again, and tried on a test image: {try_out(asked.output)}")
    print(f"report.json, accuracy.png and both runs are in {asked.output}")
