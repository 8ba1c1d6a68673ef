"""One way to name any set of labelled images."""

from __future__ import annotations

import os
from pathlib import Path

from gossamer.data import records
from gossamer.data.desk import DESK
from gossamer.data.folder import load_folder, split_folders
from gossamer.data.images import ImageDataset
from gossamer.data.offline import OFFLINE

NAMED = {**OFFLINE, **DESK}


def offline_names() -> tuple[str, ...]:
    """Names of the sets that come with packages or are drawn, such as elpv, digits and desk/location."""
    return tuple(NAMED)


def load(
    spec: str | os.PathLike[str],
    split: str = "train",
    *,
    image: str | None = None,
    label: str | None = None,
    subset: str | None = None,
) -> ImageDataset:
    """The images of one split ("train", "val", "test", or a name of the set's own) of the set `spec`.

    `spec` is, in this order: one of `offline_names()` (write "./digits" for a folder of that name), a folder of images
    (`load_folder`), a parquet or arrow file or a folder of them, or a data set of the Hugging Face hub
    (`load_records`, which `image`, `label` and `subset` are for).

    ValueError if a class has no image in split "train"; see the readers for what else is refused.
    """
    spec = os.fspath(spec)
    choices = {"image": image, "label": label, "subset": subset}
    if (kind := _kind(spec)) == "records":
        dataset = records.load_records(spec, split, **choices)
    elif given := [name for name, value in choices.items() if value is not None]:
        raise ValueError(f"{', '.join(given)} can only be named for parquet, arrow and hub data, and {spec} is neither")
    elif kind == "folder":
        dataset = load_folder(spec, split)
    else:
        if split not in splits(spec):
            raise ValueError(f"{spec} has no split {split!r}; it has: {', '.join(splits(spec))}")
        dataset = NAMED[spec](split)
    if split == "train":
        dataset.require_every_class()
    return dataset


def splits(spec: str | os.PathLike[str], subset: str | None = None) -> tuple[str, ...]:
    """The splits of the set `spec` among "train", "val" and "test", as `load` takes them."""
    spec = os.fspath(spec)
    kind = _kind(spec)
    if kind == "offline":
        return ("train", "test")
    if kind == "folder":
        return tuple(split_folders(Path(spec).expanduser()))
    present = records.open_splits(spec, subset)
    return tuple(split for split in ("train", "val", "test") if records.split_key(present, split))


def _kind(spec: str) -> str:
    """Which reader a set is for: "offline", "folder" or "records"."""
    if spec in NAMED:
        return "offline"
    path = Path(spec).expanduser()
    if path.is_dir() and not records.is_records(path):
        return "folder"
    if path.is_file() and not records.is_records(path):
        raise ValueError(f"{path} is a file, but neither .parquet nor .arrow")
    if not path.exists() and (spec.startswith((".", "/", "~")) or spec.count("/") > 1):
        raise ValueError(f"no such file or folder: {path}")
    if not path.exists() and (":" in spec or spec.split("/")[0] in {name.split("/")[0] for name in NAMED}):
        raise ValueError(f"no set of images {spec!r}; those that need no hub: {', '.join(NAMED)}")
    return "records"
