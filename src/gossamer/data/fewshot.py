"""Few images of each class: nested draws, and the sets of the few-shot protocol by their published split files.

A file split_zhou_NAME.json (Zhou et al., arXiv 2109.01134) says of "train", "val" and "test" which images they hold: [path, label,
class name] each, paths relative to a folder of images beside it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gossamer.data.files import inside, listed, read_json
from gossamer.data.images import ImageDataset, ImageFiles
from gossamer.errors import UserError

# set: its folder, the folder of its images in that, its usual template. ImageNet and FGVC-Aircraft have no such file.
SETS: dict[str, tuple[str, str, str]] = {
    "caltech101": ("caltech-101", "101_ObjectCategories", "a photo of a {}."),
    "oxford_pets": ("oxford_pets", "images", "a photo of a {}, a type of pet."),
    "stanford_cars": ("stanford_cars", "", "a photo of a {}."),
    "oxford_flowers": ("oxford_flowers", "jpg", "a photo of a {}, a type of flower."),
    "food101": ("food-101", "images", "a photo of {}, a type of food."),
    "sun397": ("sun397", "SUN397", "a photo of a {}."),
    "dtd": ("dtd", "images", "{} texture."),
    "eurosat": ("eurosat", "2750", "a centered satellite photo of {}."),
    "ucf101": ("ucf101", "UCF-101-midframes", "a photo of a person doing {}."),
}
SPLITS = ("train", "val", "test")


def fewshot(folder: Path, split: str, *, task: str) -> ImageDataset:
    """One split of a set of the few-shot protocol, from its split_zhou_*.json; underscores of class names become spaces.

    Raises:
        FileNotFoundError: the file, the folder of images, or an image is not there.
        UserError: the file is not as published; the message names the place in it.
    """
    files = sorted(folder.glob("split_zhou_*.json"))
    if len(files) != 1:
        raise FileNotFoundError(
            f"{folder} holds {len(files) or 'no'} split_zhou_*.json; it takes the one published for {task}"
        )
    table, root = read_json(files[0]), folder / SETS[task][1]
    if not isinstance(table, dict) or set(table) != {*SPLITS}:
        raise UserError(f"{files[0]} must name the images of {', '.join(SPLITS)}, and no more")
    names: dict[int, str] = {}
    found: dict[str, list[tuple[Path, int]]] = {}
    for part in SPLITS:
        records = table[part]
        if not isinstance(records, list):
            raise UserError(f"{files[0]}, {part} is no list of images")
        found[part] = [_record(record, f"{files[0]}, {part}[{i}]", root, names) for i, record in enumerate(records)]
    if sorted(names) != list(range(len(names))):
        raise UserError(f"{files[0]} has labels {min(names)} to {max(names)}, but {len(names)} classes")
    missing = [str(path) for path, _ in found[split] if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{files[0]} names images that are not there: {listed(missing)}")
    return ImageDataset(
        name=f"fewshot/{task} ({split})", classes=tuple(names[label] for label in sorted(names)),
        labels=tuple(label for _, label in found[split]), source=ImageFiles(tuple(path for path, _ in found[split])),
        indices=tuple(range(len(found[split]))),
    )  # fmt: skip


def _record(record: Any, place: str, root: Path, names: dict[int, str]) -> tuple[Path, int]:
    kinds = [type(value) for value in record] if isinstance(record, list) else []
    if kinds != [str, int, str]:
        raise UserError(f"{place} is not [path, label, class name]")
    path, label, name = record
    name = name.replace("_", " ")
    if names.setdefault(label, name) != name:
        raise UserError(f"{place} calls the class {label} {name!r}, which was {names[label]!r} before")
    return inside(root, path, place), label


def few(images: ImageDataset, shots: int, seed: int) -> ImageDataset:
    """`shots` images of each class, drawn by seed and class: those of a smaller number are among those of a larger one.

    A class with fewer images gives them again, in the same order.
    """
    chosen: list[int] = []
    for label in range(len(images.classes)):
        places = [i for i, of in enumerate(images.labels) if of == label]
        if not places:
            raise UserError(f"{images.name} has no image of {images.classes[label]}, of which {shots} are asked for")
        random.Random(f"{seed}/{label}").shuffle(places)
        chosen += [places[i % len(places)] for i in range(shots)]
    return images.subset(chosen)


def half(images: ImageDataset, which: str) -> ImageDataset:
    """The images of the first half of the classes ("base", the larger one), or of the others ("new"), by the order of labels."""
    middle = -(-len(images.classes) // 2)
    kept = range(middle) if which == "base" else range(middle, len(images.classes))
    items = [i for i, label in enumerate(images.labels) if label in kept]
    if not items:
        raise UserError(f"{images.name} has no image of the {which} half of its classes")
    return images.subset(items).with_classes([images.classes[label] for label in kept])


def in_words(classes: Sequence[str], names: dict[str, str]) -> list[str]:
    """Classes as words: what `names` says, else the class with spaces for underscores.

    Raises:
        UserError: `names` has a class that is not there.
    """
    if unknown := [name for name in names if name not in classes]:
        raise UserError(f"data.names has {listed(unknown)}, and the classes are {listed(list(classes))}")
    return [names.get(name, name.replace("_", " ")) for name in classes]
