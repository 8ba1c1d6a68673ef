"""A tiny random vision transformer, a tiny task in files, and one run that was trained on them; each is made once."""

from __future__ import annotations

import atexit
import functools
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils import logging

from gossamer.runs.run import Data, Images, Model, Run, Training

SIZE = 16
COLOURS = {"red": (220, 40, 40), "blue": (40, 40, 220)}
VPT = {"method": "vpt", "prompts": 10}


@functools.cache
def home() -> Path:
    """A folder for all that is made here, removed at the end."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def backbone() -> Path:
    """A ViT of 3 blocks, width 24, patches of 4 x 4, in the Hugging Face layout."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(5)
        config = ViTConfig(
            hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, image_size=SIZE,
            patch_size=4, initializer_range=0.2, num_labels=7,
        )  # fmt: skip
        logging.disable_progress_bar()
        ViTForImageClassification(config).save_pretrained(home() / "vit")
    return home() / "vit"


@functools.cache
def images() -> Path:
    """300 training and 120 test images."""
    return save_images(home() / "images", train=150, test=60)


def save_images(folder: Path, *, train: int, test: int, seed: int = 3) -> Path:
    """Images train/CLASS/n.png and test/CLASS/n.png: two squares of the same colour, or of different ones, at random places.

    `train` and `test` are images of each class. Colours alone do not tell the classes apart, only their combination does.
    """
    draw = random.Random(seed)
    for split, count in (("train", train), ("test", test)):
        for name in ("different", "same"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                _image(draw, same=name == "same").save(folder / split / name / f"{i:03}.png")
    return folder


def _image(draw: random.Random, *, same: bool) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), (draw.randrange(90, 110),) * 3)
    first = draw.choice(sorted(COLOURS))
    second = first if same else next(c for c in COLOURS if c != first)
    for side, colour in ((0, first), (1, second)):
        left, top = side * 8 + draw.randrange(0, 4), draw.randrange(0, 11)
        noisy = tuple(max(0, min(255, c + draw.randrange(-15, 16))) for c in COLOURS[colour])
        image.paste(noisy, (left, top, left + 5, top + 5))
    return image


def run(output: Path, method: dict[str, Any] = VPT, *, data: Path | None = None, seed: int = 0, **training: Any) -> Run:
    """A run on the tiny task; `validation` and `limit` go to its data, the rest to its training."""
    of_data = {name: training.pop(name) for name in ("validation", "limit") if name in training}
    return Run(
        model=Model(name=str(backbone())),
        data=Data(name=str(data or images()), **of_data),
        images=Images(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        methods=[method],
        training=Training(**training),
        output=str(output),
        seed=seed,
    )


@functools.cache
def trained() -> Path:
    """The folder of a finished run: VPT, 2 epochs, validation part of 0.2."""
    from gossamer.training.train import train

    train(run(home() / "trained", epochs=2, lr=0.03))
    return home() / "trained"
