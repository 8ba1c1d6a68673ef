"""FGVC: five fine-grained tasks in the splits of visual prompt tuning (Jia et al., arXiv 2203.12119).

Every task is a folder with train.json, val.json and test.json as those authors published them, {"path of the image": class id},
beside the images as the data set's own authors published them.
"""

from __future__ import annotations

from pathlib import Path

from gossamer.data.files import find, inside, mapping, read_json, require_present
from gossamer.data.images import ImageDataset, ImageFiles
from gossamer.errors import UserError

FOLDERS = {
    "cub": ("CUB_200_2011", "images"),
    "nabirds": ("nabirds", "images"),
    "flowers": ("OxfordFlowers", ""),
    "dogs": ("StanfordDogs", "Images"),
    "cars": ("StanfordCars", ""),
}
"""Every task with the usual name of its folder, and where in it the paths of the split files start."""
CLASSES = {"cub": 200, "nabirds": 555, "flowers": 102, "dogs": 120, "cars": 196}


def fgvc(folder: Path, split: str, task: str) -> ImageDataset:
    """One split, train, val or test, of one task.

    `folder` is that of the benchmark, which holds one folder for each task, or that of the task. Class ids, which need not be
    consecutive, are numbered in their order, and are the names of the classes.
    """
    usual, below = FOLDERS[task]
    path = find(folder, f"{usual}/{split}.json", f"{task}/{split}.json", f"{split}.json")
    ids = _read(path)
    known = ids if split == "train" else _read(path.with_name("train.json"))
    if len(set(known.values())) != CLASSES[task]:
        raise UserError(
            f"{path.with_name('train.json')} has {len(set(known.values()))} classes; fgvc/{task} has {CLASSES[task]}"
        )
    numbers = {id: label for label, id in enumerate(sorted(set(known.values())))}
    images, labels = [], []
    for name, id in ids.items():
        if id not in numbers:
            raise UserError(f"{path} has class id {id} for {name}; no image of train.json is of that class")
        images.append(inside(path.parent / below, name, str(path)))
        labels.append(numbers[id])
    require_present((image, str(path)) for image in images)
    return ImageDataset(
        name=f"fgvc/{task} ({split})",
        classes=tuple(map(str, numbers)),
        labels=tuple(labels),
        source=ImageFiles(tuple(images)),
        indices=tuple(range(len(images))),
    )


def _read(path: Path) -> dict[str, int]:
    """Class id of every image of a split file."""
    ids = mapping(read_json(find(path.parent, path.name)), str(path))
    for name, id in ids.items():
        if not isinstance(id, int) or isinstance(id, bool):
            raise UserError(f"{path} has {id!r} for {name}; it should be a class id, a whole number")
    return ids
