"""desk: eight classification tasks of 1,000 training images each that need no hub, natural, specialised and structured.

A small counterpart of VTAB-1k. Every task has a fixed training and a fixed test split; choose settings on a part held out from the
training split.
"""

from __future__ import annotations

from collections.abc import Callable

from gossamer.data.images import ImageDataset
from gossamer.data.offline import digits, elpv, fashion_mnist
from gossamer.data.scenes import scenes
from gossamer.data.stratify import stratified

IMAGES = 1000
SPLIT_SEED = 0


def fashion(split: str = "train") -> ImageDataset:
    """1,000 training and 1,000 test images of Fashion-MNIST, drawn from its own splits with a fixed seed, every class alike."""
    images = fashion_mnist(split)
    return images.subset(stratified(images.labels, min(IMAGES, len(images)), SPLIT_SEED))


DESK: dict[str, Callable[[str], ImageDataset]] = {
    "desk/fashion": fashion,
    "desk/digits": digits,
    "desk/defects": elpv,
    "desk/grades": lambda split: elpv(split, task="grade"),
    "desk/cells": lambda split: elpv(split, task="type"),
    "desk/location": lambda split: scenes("location", split),
    "desk/orientation": lambda split: scenes("orientation", split),
    "desk/count": lambda split: scenes("count", split),
}
"""Names of the tasks, as `gossamer.data.load` takes them; each has the splits train and test."""
