"""Few images of each class: nested draws, and the eleven sets of the few-shot protocol of Zhou et al. (arXiv 2109.01134).

Nine of them have a published file split_zhou_NAME.json, which says of "train", "val" and "test" which images they hold: [path,
label, class name] each, paths relative to a folder of images beside it. FGVC-Aircraft has its own authors' lists, and ImageNet
folders of classes, whose words a file classnames.txt gives.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.data.files import entries, find, inside, listed, read_json, require_present, twice
from gossamer.data.images import ImageDataset, ImageFiles
from gossamer.documents import read_lines
from gossamer.errors import UserError

SPLITS = ("train", "val", "test")
Found = tuple[tuple[str, ...], list[tuple[Path, int]]]
"""Class names, and path and label of every image of a split."""


def split_zhou(folder: Path, split: str, images: str) -> Found:
    """By the one split_zhou_*.json in `folder`."""
    files = sorted(folder.glob("split_zhou_*.json"))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder} holds {len(files) or 'no'} split_zhou_*.json; it takes the one published")
    table, root = read_json(files[0]), folder / images
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
    require_present((path, str(files[0])) for path, _ in found[split])
    return tuple(names[label] for label in sorted(names)), found[split]


def variants(folder: Path, split: str, images: str) -> Found:
    """By the lists of FGVC-Aircraft: variants.txt has the classes, images_variant_SPLIT.txt an image and its class a line."""
    known = find(folder, "variants.txt", "data/variants.txt")
    classes = tuple(line for _, line in _lines(known))
    found: list[tuple[Path, int]] = []
    path = find(known.parent, f"images_variant_{split}.txt")
    for place, line in _lines(path):
        image, _, name = line.partition(" ")
        if name not in classes:
            raise UserError(f"{place} is no image and one of the {len(classes)} classes of {known}: {line!r:.200}")
        found.append((inside(known.parent / images, f"{image}.jpg", place), classes.index(name)))
    require_present((image, str(path)) for image, _ in found)
    return classes, found


def synsets(folder: Path, split: str, images: str) -> Found:
    """By folders of classes, of train/ and val/, and classnames.txt, which has such a folder and its words a line.

    The published validation images are the test of this protocol; it holds none out for validation. Where two classes have the
    same words (crane, maillot), which no text could tell apart, their folders stand behind them (ours).
    """
    words: dict[str, str] = {}
    path = find(folder, "classnames.txt")
    for place, line in _lines(path):
        synset, _, name = line.partition(" ")
        if not name.strip() or synset in words:
            raise UserError(f"{place} is no folder of a new class and its words: {line!r:.200}")
        words[synset] = name.strip()
    root = find(folder, f"{images}/{'val' if split == 'test' else split}")
    order = sorted(words)
    if unknown := [below.name for below in entries(root) if below.is_dir() and below.name not in words]:
        raise UserError(f"{root} has folders that {path} does not name: {listed(unknown)}")
    if missing := [synset for synset in order if not (root / synset).is_dir()]:
        raise FileNotFoundError(f"{root} has no folder of {listed(missing)}, which {path} names")
    found = [(image, label) for label, synset in enumerate(order) for image in entries(root / synset)]
    alike = twice(words.values())
    return tuple(f"{words[s]} ({s})" if words[s] in alike else words[s] for s in order), found


@dataclass(frozen=True)
class FewShot:
    """One of the sets: its folder, the folder of its images in that, its usual template, what reads it, and its splits."""

    folder: str
    images: str
    template: str
    read: Callable[[Path, str, str], Found] = split_zhou
    splits: tuple[str, ...] = SPLITS


SETS: dict[str, FewShot] = {
    "imagenet": FewShot("imagenet", "images", "a photo of a {}.", synsets, ("train", "test")),
    "caltech101": FewShot("caltech-101", "101_ObjectCategories", "a photo of a {}."),
    "oxford_pets": FewShot("oxford_pets", "images", "a photo of a {}, a type of pet."),
    "stanford_cars": FewShot("stanford_cars", "", "a photo of a {}."),
    "oxford_flowers": FewShot("oxford_flowers", "jpg", "a photo of a {}, a type of flower."),
    "food101": FewShot("food-101", "images", "a photo of {}, a type of food."),
    "fgvc_aircraft": FewShot("fgvc_aircraft", "images", "a photo of a {}, a type of aircraft.", variants),
    "sun397": FewShot("sun397", "SUN397", "a photo of a {}."),
    "dtd": FewShot("dtd", "images", "{} texture."),
    "eurosat": FewShot("eurosat", "2750", "a centered satellite photo of {}."),
    "ucf101": FewShot("ucf101", "UCF-101-midframes", "a photo of a person doing {}."),
}


def fewshot(folder: Path, split: str, *, task: str) -> ImageDataset:
    """One split of a set of the few-shot protocol; underscores of class names become spaces.

    Raises:
        FileNotFoundError: a file of the set, a folder of images, or an image is not there.
        UserError: a file is not as published; the message names the place in it.
    """
    classes, found = SETS[task].read(folder, split, SETS[task].images)
    return ImageDataset(
        name=f"fewshot/{task} ({split})", classes=tuple(name.replace("_", " ") for name in classes),
        labels=tuple(label for _, label in found), source=ImageFiles(tuple(path for path, _ in found)),
        indices=tuple(range(len(found))),
    )  # fmt: skip


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(place, text) of every line that is not empty."""
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()


def _record(record: Any, place: str, root: Path, names: dict[int, str]) -> tuple[Path, int]:
    kinds = [type(value) for value in record] if isinstance(record, list) else []
    if kinds != [str, int, str]:
        raise UserError(f"{place} is not [path, label, class name]")
    path, label, name = record
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
