"""Folders of images: root/class/image.jpg, or root/train/class/image.jpg with val and test beside train."""

from __future__ import annotations

from pathlib import Path

from gossamer.data.files import entries, listed
from gossamer.data.given import SUFFIXES
from gossamer.data.images import ImageDataset, ImageFiles
from gossamer.documents import expanded
from gossamer.errors import UserError

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Each split and the names its folder may have."""


def load_folder(root: str | Path, split: str = "train") -> ImageDataset:
    """The images of one split of the folder `root`; classes are the names of the class folders, sorted.

    Where `root` has folders named train, val or test (see `SPLIT_NAMES`) that hold class folders, they are the splits
    and the classes are those of train, if there is one. Otherwise the folders of `root` are the classes, and everything
    is split "train". Junk (`gossamer.data.files.is_junk`) is passed over.

    ValueError for: an absent split, a class folder without images, a file in a class folder that is no image (by its
    name), a folder inside a class folder, images outside class folders, fewer than two classes, and a class of val or
    test that train has not.
    """
    root = expanded(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder of images: {root}")
    found = split_folders(root)
    if split not in found:
        raise UserError(f"{root} has no split {split!r}; it has: {', '.join(found)}")
    classes = _class_names(found.get("train", found[split]))
    if len(classes) < 2:
        raise UserError(
            f"{found.get('train', found[split])} holds {len(classes)} class folder(s) ({', '.join(classes)}); "
            "a classifier needs two or more, laid out as root/class/image.jpg"
        )
    paths, labels = [], []
    for name in _class_names(found[split]):
        if name not in classes:
            raise UserError(f"{found[split] / name}: class {name!r} has no training images in {found['train']}")
        files = _image_files(found[split] / name)
        paths += files
        labels += [classes.index(name)] * len(files)
    return ImageDataset(
        name=f"{root} ({split})",
        classes=tuple(classes),
        labels=tuple(labels),
        source=ImageFiles(tuple(paths)),
        indices=tuple(range(len(paths))),
    )


def split_folders(root: Path) -> dict[str, Path]:
    """The splits of an image folder, in the order train, val, test, each with its folder."""
    folders = {path.name.lower(): path for path in _folders(root)}
    found: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        present = [folders[name] for name in names if name in folders and _folders(folders[name])]
        if len(present) > 1:
            raise UserError(f"{root} has two folders for split {split!r}: {present[0].name} and {present[1].name}")
        if present:
            found[split] = present[0]
    if not found:
        return {"train": root}
    if others := [path for path in _folders(root) if path not in found.values()]:
        raise UserError(
            f"{root} mixes splits ({', '.join(path.name for path in found.values())}) with other folders: "
            f"{', '.join(path.name for path in others)}"
        )
    return found


def _folders(root: Path) -> list[Path]:
    return [path for path in entries(root) if path.is_dir()]


def _class_names(folder: Path) -> list[str]:
    """Names of the class folders; an image beside them is an error."""
    for path in entries(folder):
        if path.is_file() and path.suffix.lower() in SUFFIXES:
            raise UserError(f"{path} is an image outside any class folder; the layout is root/class/image.jpg")
    return [path.name for path in _folders(folder)]


def _of_a_phone(path: str) -> bool:
    return path.lower().endswith((".heic", ".heif"))


def _image_files(folder: Path) -> list[Path]:
    """The image files of one class, sorted."""
    files = entries(folder)
    for path in files:
        if path.is_dir():
            raise UserError(f"{path} is a folder inside the class folder {folder}, which may only hold images")
    if others := [str(path) for path in files if path.suffix.lower() not in SUFFIXES]:
        what = "is not an image file" if len(others) == 1 else f"are not image files ({len(others)} of {len(files)})"
        phones = " (what phones write as .heic must be converted, to JPEG)" if any(map(_of_a_phone, others)) else ""
        raise UserError(f"{listed(others)} {what}; known: {', '.join(sorted(SUFFIXES))}; move it elsewhere{phones}")
    if not files:
        raise UserError(f"the class folder {folder} is empty")
    return files
