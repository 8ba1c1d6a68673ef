"""VTAB-1k (Zhai et al., arXiv 1910.04867): 19 tasks with 1,000 training images each, from the list files that the field shares.

Every task is a folder with train800.txt, val200.txt, train800val200.txt and test.txt; a line is "path label", the path relative to
the folder. A task can also be a folder of parquet files or one that `datasets` saved.
"""

from __future__ import annotations

from pathlib import Path

from gossamer.data import records
from gossamer.data.files import find, inside, require_present
from gossamer.data.images import ImageDataset, ImageFiles, joined
from gossamer.documents import read_lines
from gossamer.errors import UserError

CLASSES = {
    "cifar": 100, "caltech101": 102, "dtd": 47, "oxford_flowers102": 102, "oxford_iiit_pet": 37, "svhn": 10, "sun397": 397,
    "patch_camelyon": 2, "eurosat": 10, "resisc45": 45, "diabetic_retinopathy": 5,
    "clevr_count": 8, "clevr_dist": 6, "dmlab": 6, "kitti": 4, "dsprites_loc": 16, "dsprites_ori": 16,
    "smallnorb_azi": 18, "smallnorb_ele": 9,
}  # fmt: skip
"""Every task, by the name of its folder, with its number of classes: natural, specialised, structured (one line each above)."""
LISTS = {"train": "train800", "val": "val200", "trainval": "train800val200", "test": "test"}
"""Every split and the list file, or split of `datasets`, that holds it."""


def vtab(folder: Path, split: str, task: str) -> ImageDataset:
    """One split of one task: train (800 images), val (200), trainval (both, for the final training) or test.

    `folder` is that of the benchmark, which holds one folder for each task, or that of the task. Classes are numbers: the list
    files have no names. Few tasks have an image of every class in train.
    """
    source = find(folder, f"{task}/{LISTS[split]}.txt", f"{LISTS[split]}.txt", task, "")
    if source.is_file():
        paths, labels = read_list(source, CLASSES[task])
        return ImageDataset(
            name=f"vtab/{task} ({split})",
            classes=tuple(map(str, range(CLASSES[task]))),
            labels=tuple(labels),
            source=ImageFiles(tuple(paths)),
            indices=tuple(range(len(paths))),
        )
    if split == "trainval" and LISTS[split] not in records.open_splits(_records(source, split)):
        return joined(_from_records(source, "train", task), _from_records(source, "val", task))
    return _from_records(source, split, task)


def read_list(path: Path, classes: int) -> tuple[list[Path], list[int]]:
    """Images and labels of a list file: a line is "path label", the path relative to the file.

    UserError with the line for one of another form, an image that is named twice or outside the folder, or a label outside the
    classes; FileNotFoundError for absent images.
    """
    lines: dict[Path, int] = {}
    labels = []
    for number, line in enumerate(read_lines(path), start=1):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal():
            raise UserError(f"line {number} of {path} is {line!r}; it should be an image's path, a space and its label")
        if int(label) >= classes:
            raise UserError(f"line {number} of {path} has label {label}; the {classes} classes are numbered from 0")
        image = inside(path.parent, name, f"line {number} of {path}")
        if image in lines:
            raise UserError(f"line {number} of {path} names {name}, as line {lines[image]} does")
        lines[image] = number
        labels.append(int(label))
    require_present((image, f"line {number} of {path}") for image, number in lines.items())
    return list(lines), labels


def _from_records(folder: Path, split: str, task: str) -> ImageDataset:
    """A split of a data set of the `datasets` library, under the list file's name for it or the usual one."""
    own = LISTS[split] in records.open_splits(_records(folder, split))
    images = records.load_records(folder, LISTS[split] if own else split)
    numbers = tuple(map(str, range(CLASSES[task])))
    if set(images.classes) <= set(numbers):
        return images.with_classes(numbers)
    if len(images.classes) != CLASSES[task]:
        raise UserError(f"{images.name} has {len(images.classes)} classes; vtab/{task} has {CLASSES[task]}")
    return images


def _records(folder: Path, split: str) -> Path:
    """`folder`, if the `datasets` library can read it."""
    if not records.is_records(folder):
        raise FileNotFoundError(f"{folder} holds neither {LISTS[split]}.txt nor parquet or arrow files")
    return folder
