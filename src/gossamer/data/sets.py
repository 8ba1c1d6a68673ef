"""One way to name any set of labelled images."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from gossamer.data import records
from gossamer.data.files import listed
from gossamer.data.folder import load_folder, split_folders
from gossamer.data.images import ImageDataset, joined
from gossamer.data.registry import IMAGE_SETS, IMAGE_TEXT_SETS
from gossamer.documents import expanded
from gossamer.errors import UserError


def names(suite: str = "") -> tuple[str, ...]:
    """Names of the sets of labelled images that `load` knows, or of one suite: desk, vtab, fgvc."""
    return tuple(name for name in IMAGE_SETS if not suite or name.startswith(f"{suite}/"))


def offline_names() -> tuple[str, ...]:
    """Names of the sets that need no files: they come with packages or are drawn, such as elpv and desk/location."""
    return tuple(name for name, source in IMAGE_SETS.items() if source.folder is None)


def load(
    spec: str | os.PathLike[str],
    split: str = "train",
    *,
    path: str | os.PathLike[str] | None = None,
    image: str | None = None,
    label: str | None = None,
    subset: str | None = None,
) -> ImageDataset:
    """The images of one split ("train", "val", "test", "trainval", or a name of the set's own) of the set `spec`.

    `spec` is, in this order: one of `names()` (write "./digits" for a folder of that name), with `path` as the folder of its files
    where it is a published benchmark; a folder of images (`load_folder`); a parquet or arrow file or a folder of them, or a data
    set of the Hugging Face hub (`load_records`, which `image`, `label` and `subset` are for). "trainval" is "train" and "val"
    together, for a last training with settings that were chosen on "val".

    ValueError if a class has no image in split "train", published benchmarks apart; see the readers for what else is refused.
    """
    spec = os.fspath(spec)
    choices = {"image": image, "label": label, "subset": subset}
    kind = _kind(spec)
    if kind != "named" and path is not None:
        published = ", ".join(name for name, source in IMAGE_SETS.items() if source.folder)
        raise UserError(f"data.path is for published benchmarks, and {spec} is none of them: {published}")
    if kind != "records" and (given := [name for name, value in choices.items() if value is not None]):
        raise UserError(f"{', '.join(given)} can only be named for parquet, arrow and hub data, and {spec} is neither")
    own = IMAGE_SETS[spec].splits if kind == "named" else ()
    if split == "trainval" and split not in own and {"train", "val"} <= set(splits(spec, subset)):
        train, val = (load(spec, part, path=path, **choices) for part in ("train", "val"))
        return joined(train, val.with_classes(train.classes))
    if kind == "named":
        dataset = IMAGE_SETS[spec].load(spec, split, path)
    else:
        dataset = load_folder(spec, split) if kind == "folder" else records.load_records(spec, split, **choices)
    if split == "train" and not (kind == "named" and IMAGE_SETS[spec].folder):
        dataset.require_every_class()
    return dataset


def require_apart(sets: Mapping[str, Any]) -> None:
    """Nothing, where no image is in two of the splits; UserError that names those which are, links to one file among them."""
    first: dict[str, str] = {}
    both: list[str] = []
    for split, items in sets.items():
        names = {os.path.realpath(name) if os.path.exists(name) else name: name for name in items.pictured()}
        both += [f"{name} (in {first[key]} and {split})" for key, name in names.items() if key in first]
        first |= dict.fromkeys(names, split)
    if both:
        raise UserError(f"{len(both):,} images are in two splits, so scores would say nothing: {listed(both)}")


def splits(spec: str | os.PathLike[str], subset: str | None = None) -> tuple[str, ...]:
    """The splits of the set `spec` among "train", "val" and "test", as `load` takes them."""
    spec = os.fspath(spec)
    kind = _kind(spec)
    if kind == "named":
        return tuple(split for split in ("train", "val", "test") if split in IMAGE_SETS[spec].splits)
    if kind == "folder":
        return tuple(split_folders(expanded(spec)))
    present = records.open_splits(spec, subset)
    return tuple(split for split in ("train", "val", "test") if records.split_key(present, split))


def _kind(spec: str) -> str:
    """Which reader a set is for: "named", "folder" or "records"."""
    if spec in IMAGE_SETS:
        return "named"
    if spec in IMAGE_TEXT_SETS:
        raise UserError(f"{spec} has texts about images, not images with labels; data.load_image_text reads it")
    path = expanded(spec)
    if path.is_dir() and not records.is_records(path):
        return "folder"
    if path.is_file() and not records.is_records(path):
        raise UserError(f"{path} is a file, but neither .parquet nor .arrow")
    if not path.exists() and (spec.startswith((".", "/", "~")) or spec.count("/") > 1):
        raise UserError(f"no such file or folder: {path}")
    family = re.split("[:/]", spec)[0]
    near = [name for name in IMAGE_SETS if name != family and re.split("[:/]", name)[0] == family]
    if near and spec != family and not path.exists():
        raise UserError(f"no set of images {spec!r}; there are: {', '.join(near)}")
    return "records"
