"""The first run on a folder of images: the file that `gossamer init` writes, and what `gossamer train FOLDER` means."""

from __future__ import annotations

import json
from pathlib import Path

STEPS = 400  # of tuning, about
EPOCHS = (8, 40)  # at least, at most
BATCH = 32


def text(folder: str | Path, images: int, classes: int, *, validated: bool) -> str:
    """A run file in YAML, with comments.

    Args:
        folder: of the images, as the file names it.
        images: for training, those that will be held out among them.
        classes: how many.
        validated: whether the folder has images for validation of its own.
    """
    name, tuned = Path(folder).resolve().name, images if validated else images - images // 5
    epochs = min(max(round(STEPS * BATCH / tuned), EPOCHS[0]), EPOCHS[1])
    held_out = "with validation images of their own" if validated else "of which a fifth is held out for validation"
    lines = {
        "model: dinov2-small": "or a folder, or a model of the Hugging Face hub",
        f"data: {_quoted(str(folder))}": f"{images:,} training images of {classes} classes, {held_out}",
        "methods: [{method: vpt, prompts: 10}]": "or [{method: peft, peft_type: LORA, r: 8}], or [{method: linear_probe}]",
        f"output: {_quoted(f'runs/{name}')}": "trained adapter, scores, pictures, log",
        "images:": None,
        "  size: 224": "pixels; fewer are faster",
        "  augment: [horizontal-flip]": "[] where left and right matter",
        "training:": None,
        f"  epochs: {epochs}": f"about {STEPS} steps",
        "  lr: 0.003": None,
        "  keep: best": "the epoch with the best validation accuracy; the linear probe at the start is one of them",
    }
    width = max(len(setting) for setting, comment in lines.items() if comment)
    told = [setting if comment is None else f"{setting:<{width}}  # {comment}" for setting, comment in lines.items()]
    return "\n".join([f"# gossamer train {name}.yaml; every setting: gossamer train --help", *told]) + "\n"


def _quoted(value: str) -> str:
    """A string of YAML that no reader takes for anything else."""
    return json.dumps(value, ensure_ascii=False)
