"""The first run on a folder of images: the file that `gossamer init` writes, and what `gossamer train FOLDER` means."""

from __future__ import annotations

import json
from pathlib import Path

# What is kept, and the method, follow from benchmarks/results/small_data.jsonl; epochs were not compared: docs/few_images.md. The
# rate is the usual one of each method, `learning_rate` of its class; it rises over 30 % of the steps and falls to nearly nothing.
STEPS = 200  # of tuning, about
EPOCHS = (5, 12)  # at least, at most
BATCH = 32


def epochs(tuned: int) -> int:
    """Passes over so many images, those that are held out not counted: about `STEPS` steps, within `EPOCHS`."""
    return min(max(round(STEPS * BATCH / tuned), EPOCHS[0]), EPOCHS[1])


def text(folder: str | Path, images: int, classes: int, *, validated: bool) -> str:
    """A run file in YAML, with comments.

    Args:
        folder: of the images, as the file names it.
        images: for training, those that will be held out among them.
        classes: how many.
        validated: whether the folder has images for validation of its own.
    """
    name, tuned = Path(folder).resolve().name, images if validated else images - images // 5
    held_out = "with validation images of their own" if validated else "of which a fifth is held out for validation"
    lines = {
        "model: dinov2-small": "or a folder, or a model of the Hugging Face hub",
        f"data: {_quoted(str(folder))}": f"{images:,} training images of {classes} classes, {held_out}",
        "methods: [{method: peft, peft_type: LORA, r: 8}]": "or [{method: vpt, prompts: 10}], or [{method: linear_probe}]",
        f"output: {_quoted(f'runs/{name}')}": "trained adapter, scores, pictures, log",
        "images:": None,
        "  size: 224": "pixels; fewer are faster",
        "  augment: []": "[horizontal-flip] where left and right do not matter",
        "training:": None,
        f"  epochs: {epochs(tuned)}": f"{epochs(tuned) * -(-tuned // BATCH):,} steps",
        "  keep: better": "the linear probe at the start, unless training is better on validation images beyond chance",
    }
    width = max(len(setting) for setting, comment in lines.items() if comment)
    told = [setting if comment is None else f"{setting:<{width}}  # {comment}" for setting, comment in lines.items()]
    return "\n".join([f"# gossamer train {name}.yaml; every setting: gossamer train --help", *told]) + "\n"


def _quoted(value: str) -> str:
    """A string of YAML that no reader takes for anything else."""
    return json.dumps(value, ensure_ascii=False)
