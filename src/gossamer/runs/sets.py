"""The images of a run, or its texts about images: which are for training, which for choosing, which for the final score."""

from __future__ import annotations

from typing import Any

import torch

from gossamer import data, zoo
from gossamer.data import CaptionedImages, ImageDataset, ImageTextDataset, MaskDataset, Preprocessing, fewshot
from gossamer.data.files import listed
from gossamer.data.masks import joined as mask_joined
from gossamer.documents import expanded
from gossamer.errors import UserError
from gossamer.runs.run import Run

VALIDATED = 4  # images of each class for validation, where few are trained on


def load_sets(run: Run) -> dict[str, Any]:
    """The splits of a run by name, of labelled images (`load_images`), texts about images (`load_texts`) or masks (`load_masks`).

    Raises:
        UserError: an image is in two of them.
    """
    if run.drawing.prompt is not None or data.has_captions(run.data.name):
        sets = load_drawn(run)
        data.require_apart(sets)
        return sets
    masks = data.has_masks(run.data.name)
    sets = load_texts(run) if run.data.name in data.IMAGE_TEXT_SETS else load_masks(run) if masks else load_images(run)
    data.require_apart(sets)
    return sets


def unscored(sets: dict[str, Any]) -> list[str]:
    """Sentences about splits of labelled images that are scored and lack classes of the training images."""
    said = []
    for name, images in sets.items():
        if name == "train" or not isinstance(images, ImageDataset):
            continue
        lacking = [c for c, count in zip(images.classes, images.counts(), strict=True) if not count]
        if lacking:
            said.append(
                f"no {name} image is of {len(lacking):,} of {len(images.classes):,} classes, so its scores say nothing of them: "
                f"{listed(lacking)}"
            )
    return said


def load_images(run: Run) -> dict[str, ImageDataset]:
    """The splits of a run by name: "train"; "val" unless there is none and none is to be held out; "test" if there is one to score.

    With data.train=trainval, validation images are among those of "train", and there is no "val".

    Depends on nothing but the run, so that a later evaluation finds the same images. All have the classes of the training images.
    """
    chosen = run.data
    where = {"path": chosen.path, "image": chosen.image, "label": chosen.label, "subset": chosen.subset}
    every = _half(data.load(chosen.name, chosen.train, **where), run)
    sets = {"train": _limited(every, chosen.limit, run.seed)}
    data.keep_classes(every, sets["train"], f"data.limit={chosen.limit}")
    present = data.splits(chosen.name, chosen.subset)
    for split in ("val", "test") if chosen.test else ("val",):
        if split in present and not (split == "val" and chosen.train == "trainval"):
            images = _half(data.load(chosen.name, split, **where), run).with_classes(every.classes)
            sets[split] = _limited(images, chosen.limit_of(split), run.seed)
    if "val" not in sets and chosen.validation > 0 and chosen.train == "train":
        train, held = data.split(sets["train"], chosen.validation, run.seed)
        sets = {"train": train, "val": held, **{k: v for k, v in sets.items() if k == "test"}}
    if chosen.shots is not None:
        sets["train"] = fewshot.few(sets["train"], chosen.shots, run.seed)
        if "val" in sets:
            sets["val"] = fewshot.few(sets["val"], min(chosen.shots, VALIDATED), run.seed)
    return sets


def load_drawn(run: Run) -> dict[str, CaptionedImages]:
    """Images with captions, or of a subject, by split: "val" is published, or held out of "train" where an image can be.

    Raises:
        UserError: no captions are of training images.
    """
    chosen = run.data
    if run.drawing.prompt is not None:
        sets = {"train": data.load_subject(chosen.name, run.drawing.prompt)}
    else:
        parts = [s for s in data.caption_splits(expanded(chosen.name)) if s != "test" or chosen.test]
        if "train" not in parts:
            raise UserError(f"{chosen.name} has captions of {', '.join(parts)} and none of train")
        sets = {split: data.load_captions(chosen.name, split) for split in parts}
    order = {
        name: torch.randperm(len(s), generator=torch.Generator().manual_seed(run.seed)) for name, s in sets.items()
    }
    sets = {name: s.subset(sorted(order[name][: chosen.limit_of(name)].tolist())) for name, s in sets.items()}
    held = round(chosen.validation * len(sets["train"])) if "val" not in sets else 0
    if held:
        drawn = torch.randperm(len(sets["train"]), generator=torch.Generator().manual_seed(run.seed)).tolist()
        train, val = (sets["train"].subset(sorted(part)) for part in (drawn[held:], drawn[:held]))
        sets = {"train": train, "val": val, **{name: s for name, s in sets.items() if name == "test"}}
    return sets


def _half(images: ImageDataset, run: Run) -> ImageDataset:
    return images if run.data.classes == "all" else fewshot.half(images, run.data.classes)


def load_texts(run: Run) -> dict[str, ImageTextDataset]:
    """The splits of a run on texts about images, by the same names and rules; "test" has published answers, or is left out.

    What is held out for validation is a part of the images with every text about them: no image of "val" is seen in training.
    """
    chosen, source = run.data, data.IMAGE_TEXT_SETS[run.data.name]
    parts = {"train": chosen.train}
    if "val" in source.splits and chosen.train == "train":
        parts["val"] = "val"
    if source.test is not None and chosen.test:
        parts["test"] = source.test
    sets = {name: data.load_image_text(chosen.name, part, path=chosen.path) for name, part in parts.items()}
    sets = {name: _drawn(texts, chosen.limit_of(name), run.seed) for name, texts in sets.items()}
    if "val" not in sets and chosen.validation > 0 and chosen.train == "train":
        train, held = _apart(sets["train"], chosen.validation, run.seed)
        sets = {"train": train, "val": held, **{k: v for k, v in sets.items() if k == "test"}}
    return sets


def load_masks(run: Run) -> dict[str, MaskDataset]:
    """The splits of a run on images with masks, by the same names; what is held out for validation is drawn evenly."""
    chosen = run.data
    present = data.mask_set_splits(chosen.name)
    parts = {"train": [chosen.train] if chosen.train == "train" else ["train", *({"val"} & {*present})]}
    if "val" in present and chosen.train == "train":
        parts["val"] = ["val"]
    if "test" in present and chosen.test:
        parts["test"] = ["test"]
    sets = {}
    for name, splits in parts.items():
        read = [data.load_masks(chosen.name, split, path=chosen.path, zero=run.masks.zero) for split in splits]
        sets[name] = _some(mask_joined(read), chosen.limit_of(name), run.seed)
    if "val" not in sets and chosen.validation > 0 and chosen.train == "train":
        train, held = apart(sets["train"], chosen.validation, run.seed)
        sets = {"train": train, "val": held, **{k: v for k, v in sets.items() if k == "test"}}
    return sets


def _some(items: MaskDataset, limit: int | None, seed: int) -> MaskDataset:
    """`limit` items in their order, drawn evenly."""
    if limit is None or limit >= len(items):
        return items
    drawn = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:limit]
    return items.subset(sorted(drawn.tolist()))


def apart(items: Any, fraction: float, seed: int) -> tuple[Any, Any]:
    """Training and held-out items of a training set: images with every class in proportion, texts by the images they are about."""
    if isinstance(items, ImageDataset):
        return data.split(items, fraction, seed)
    if isinstance(items, MaskDataset):
        held = _some(items, round(fraction * len(items)), seed)
        if len(held) in (0, len(items)) or round(fraction * len(items)) == 0:
            raise UserError(
                f"holding out {fraction:g} of the {len(items)} images of {items.name} leaves one part empty"
            )
        return items.subset(i for i, place in enumerate(items.indices) if place not in held.indices), held
    return _apart(items, fraction, seed)


def _drawn(texts: ImageTextDataset, limit: int | None, seed: int) -> ImageTextDataset:
    """`limit` texts in their order, drawn evenly."""
    if limit is None or limit >= len(texts):
        return texts
    drawn = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))[:limit]
    return texts.subset(sorted(drawn.tolist()))


def _apart(texts: ImageTextDataset, fraction: float, seed: int) -> tuple[ImageTextDataset, ImageTextDataset]:
    """Training and held-out texts: those about `fraction` of the images (of the first where a text has two) are held out."""
    subjects = texts.subjects()
    count = 1 + max(subjects)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held = set(order[: round(fraction * count)])
    items = {
        True: [i for i, s in enumerate(subjects) if s in held],
        False: [i for i, s in enumerate(subjects) if s not in held],
    }
    if not items[True] or not items[False]:
        raise UserError(
            f"data.validation={fraction} of the {count} images of {texts.name} leaves no text for "
            f"{'training' if items[True] else 'validation'}; choose another part, or 0 for no validation"
        )
    return texts.subset(items[False]), texts.subset(items[True])


def preprocessing(run: Run) -> Preprocessing:
    """How the run prepares images: what it says itself, else what the model (or its vision tower) was published with.

    Raises:
        ValueError: the model does not say how, and the run not enough.
    """
    images = run.images
    said: dict[str, Any] = {"resize": images.resize, "mean": images.mean, "std": images.std}
    said = {name: value for name, value in said.items() if value is not None}
    model = run.model
    name, revision = (model.vision, model.vision_revision) if model.vision else (model.name, model.revision)
    zoo.resolve(name, revision)  # an unknown model is another mistake than a silent one
    try:
        published = zoo.preprocessing(name, size=images.size, revision=revision).to_dict()
    except ValueError as error:
        if images.size is None or images.mean is None or images.std is None:
            raise UserError(f"{error}; give images.size, images.mean and images.std") from error
        published = {"size": images.size}
    if said.get("resize") == "direct":
        said["crop"] = 1.0
    return Preprocessing.from_dict({**published, **said})


def _limited(images: ImageDataset, limit: int | None, seed: int) -> ImageDataset:
    if limit is None or limit >= len(images):
        return images
    return images.subset(data.stratified(images.labels, limit, seed))
