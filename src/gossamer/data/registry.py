"""Every set that has a name: what reads it, which splits it has, and where its files are looked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from gossamer.data.desk import DESK
from gossamer.data.easy_vqa import easy_vqa
from gossamer.data.fewshot import SETS as FEW
from gossamer.data.fewshot import fewshot
from gossamer.data.fgvc import FOLDERS, fgvc
from gossamer.data.garments import garments
from gossamer.data.gqa import PARTS as GQA_PARTS
from gossamer.data.gqa import gqa
from gossamer.data.image_text import ImageTextDataset
from gossamer.data.images import ImageDataset
from gossamer.data.karpathy import IMAGES as CAPTIONED
from gossamer.data.karpathy import karpathy
from gossamer.data.masks import ADE20K, MaskDataset, Zero, ade20k, load_mask_folder, mask_splits
from gossamer.data.nlvr2 import nlvr2
from gossamer.data.offline import OFFLINE
from gossamer.data.scienceqa import SPLITS as SCIENCEQA_SPLITS
from gossamer.data.scienceqa import scienceqa
from gossamer.data.snli_ve import snli_ve
from gossamer.data.tints import tints
from gossamer.data.vqav2 import PARTS as VQAV2_PARTS
from gossamer.data.vqav2 import vqav2
from gossamer.data.vtab import CLASSES, LISTS, vtab
from gossamer.documents import expanded
from gossamer.errors import UserError

T = TypeVar("T", ImageDataset, ImageTextDataset, MaskDataset)
USUAL = ("train", "val", "test")


@dataclass(frozen=True)
class Source(Generic[T]):
    """What reads a set, and its splits.

    `folder` is the usual name of the folder with the files of a published set, whose reader is called with folder and split; a set
    without one comes with a package or is drawn, and its reader is called with the split. `test` is the split with published
    answers that final scores are of; None where there is none.
    """

    read: Callable[..., T]
    splits: tuple[str, ...] = ("train", "test")
    folder: str | None = None
    test: str | None = "test"

    def load(self, name: str, split: str, path: str | os.PathLike[str] | None = None) -> T:
        """One split. `path` is the folder of the files; without it they are looked for in $GOSSAMER_DATA.

        ValueError for an absent split, and for a path to a set that needs none; FileNotFoundError where the files are not there.
        """
        if split not in self.splits:
            raise UserError(f"{name} has no split {split!r}; it has: {', '.join(self.splits)}")
        if self.folder is None:
            if path is not None:
                raise UserError(f"{name} needs no files, so data.path={os.fspath(path)} would be ignored; leave it out")
            return self.read(split)
        return self.read(self._folder(name, self.folder, path), split)

    def _folder(self, name: str, usual: str, path: str | os.PathLike[str] | None) -> Path:
        own = os.environ.get("GOSSAMER_DATA")
        if path is None and own is None:
            raise FileNotFoundError(
                f"{name} is read from its published files, and none are named: set data.path to their folder, or put them in "
                f"$GOSSAMER_DATA/{usual}"
            )
        folder = expanded(path) if path is not None else expanded(str(own)) / usual
        if not folder.is_dir():
            raise FileNotFoundError(f"{name}: no such folder: {folder}")
        return folder


IMAGE_SETS: dict[str, Source[ImageDataset]] = {
    **{name: Source(read) for name, read in (OFFLINE | DESK).items()},
    "tints": Source(tints),
    **{f"vtab/{task}": Source(partial(vtab, task=task), tuple(LISTS), "vtab-1k") for task in CLASSES},
    **{f"fgvc/{task}": Source(partial(fgvc, task=task), USUAL, "fgvc") for task in FOLDERS},
    **{f"fewshot/{task}": Source(partial(fewshot, task=task), of.splits, of.folder) for task, of in FEW.items()},
}
"""Labelled images, by name."""

IMAGE_TEXT_SETS: dict[str, Source[ImageTextDataset]] = {
    "easy-vqa": Source(easy_vqa),
    "vqav2": Source(vqav2, tuple(VQAV2_PARTS), "vqav2", test=None),
    "gqa": Source(gqa, tuple(GQA_PARTS), "gqa", test="testdev"),
    "nlvr2": Source(nlvr2, USUAL, "nlvr2"),
    "snli-ve": Source(snli_ve, USUAL, "snli-ve"),
    "scienceqa": Source(scienceqa, SCIENCEQA_SPLITS, "scienceqa"),
    "coco": Source(partial(karpathy, benchmark="coco"), USUAL, "coco"),
    "flickr30k": Source(partial(karpathy, benchmark="flickr30k"), USUAL, "flickr30k"),
}
"""Texts about images, by name."""
CAPTION_SETS = tuple(CAPTIONED)
"""Those of them that are images with captions."""

MASK_SETS: dict[str, Source[MaskDataset]] = {
    "desk/garments": Source(garments),
    "ade20k": Source(ade20k, tuple(ADE20K), "ADEChallengeData2016", test=None),
}
"""Images with a class for every pixel, by name."""


def has_masks(name: str | os.PathLike[str]) -> bool:
    """Whether a set is one of masks: by name, or a folder of `images/` and `masks/`."""
    return os.fspath(name) in MASK_SETS or bool(mask_splits(expanded(name)))


def mask_set_splits(name: str | os.PathLike[str]) -> tuple[str, ...]:
    """Its splits."""
    known = MASK_SETS.get(os.fspath(name))
    return tuple(mask_splits(expanded(name))) if known is None else known.splits


def load_masks(
    name: str | os.PathLike[str],
    split: str = "train",
    *,
    path: str | os.PathLike[str] | None = None,
    zero: Zero | None = None,
) -> MaskDataset:
    """One split of images with masks: one of `MASK_SETS`, or a folder as in `gossamer.data.masks.load_mask_folder`.

    Args:
        name: of the set, or the folder.
        split: one of `mask_set_splits`.
        path: folder of the files of a published set.
        zero: for a folder, what 0 means: "class" (None), or "ignore".

    Raises:
        UserError: an unknown name or split, or `zero` for a set that says itself what 0 is.
        FileNotFoundError: files are not there.
    """
    known = MASK_SETS.get(os.fspath(name))
    if known is None:
        if not mask_splits(expanded(name)):
            raise UserError(
                f"{name} is no set of masks: neither one of {', '.join(MASK_SETS)}, nor a folder that holds masks/"
            )
        if path is not None:
            raise UserError(f"data.path is for published sets; {name} is a folder itself")
        return load_mask_folder(os.fspath(name), split, zero or "class")
    if zero is not None:
        raise UserError(f"{name} says itself what 0 is in its masks; leave out masks.zero")
    return known.load(os.fspath(name), split, path)


def load_image_text(name: str, split: str = "train", *, path: str | os.PathLike[str] | None = None) -> ImageTextDataset:
    """One split of the vision-language set `name`, one of `IMAGE_TEXT_SETS`, from its published files in the folder `path`.

    Without a path the files are looked for in $GOSSAMER_DATA, in a folder of the set's name. Every image must be there.

    ValueError for an unknown name or split and for a record that is not as published; FileNotFoundError for absent files. Both name
    file and record.
    """
    if name not in IMAGE_TEXT_SETS:
        kind = " (it has labelled images; data.load reads it)" if name in IMAGE_SETS else ""
        raise UserError(f"no set of texts about images {name!r}{kind}; there are: {', '.join(IMAGE_TEXT_SETS)}")
    found = IMAGE_TEXT_SETS[name].load(name, split, path)
    found.check()
    return found
