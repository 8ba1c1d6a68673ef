"""The images of a run: which are for training, which for choosing, which for the final score."""

from __future__ import annotations

from typing import Any

from gossamer import data, zoo
from gossamer.data import ImageDataset, Preprocessing
from gossamer.run import Run


def load_sets(run: Run) -> dict[str, ImageDataset]:
    """The splits of a run by name: "train"; "val" unless there is none and none is to be held out; "test" if there is one to score.

    With data.train=trainval, validation images are among those of "train", and there is no "val".

    Depends on nothing but the run, so that a later evaluation finds the same images. All have the classes of the training images.
    """
    chosen = run.data
    where = {"path": chosen.path, "image": chosen.image, "label": chosen.label, "subset": chosen.subset}
    every = data.load(chosen.name, chosen.train, **where)
    sets = {"train": _limited(every, run)}
    data.keep_classes(every, sets["train"], f"data.limit={chosen.limit}")
    present = data.splits(chosen.name, chosen.subset)
    for split in ("val", "test") if chosen.test else ("val",):
        if split in present and not (split == "val" and chosen.train == "trainval"):
            sets[split] = _limited(data.load(chosen.name, split, **where).with_classes(every.classes), run)
    if "val" not in sets and chosen.validation > 0 and chosen.train == "train":
        train, held = data.split(sets["train"], chosen.validation, run.seed)
        sets = {"train": train, "val": held, **{k: v for k, v in sets.items() if k == "test"}}
    return sets


def preprocessing(run: Run) -> Preprocessing:
    """How the run prepares images: what it says itself, else what the model was published with.

    Raises:
        ValueError: the model does not say how, and the run not enough.
    """
    images = run.images
    said: dict[str, Any] = {"resize": images.resize, "mean": images.mean, "std": images.std}
    said = {name: value for name, value in said.items() if value is not None}
    zoo.resolve(run.model.name, run.model.revision)  # an unknown model is another mistake than a silent one
    try:
        published = zoo.preprocessing(run.model.name, size=images.size, revision=run.model.revision).to_dict()
    except ValueError as error:
        if images.size is None or images.mean is None or images.std is None:
            raise ValueError(f"{error}; give images.size, images.mean and images.std") from error
        published = {"size": images.size}
    if said.get("resize") == "direct":
        said["crop"] = 1.0
    return Preprocessing.from_dict({**published, **said})


def _limited(images: ImageDataset, run: Run) -> ImageDataset:
    limit = run.data.limit
    if limit is None or limit >= len(images):
        return images
    return images.subset(data.stratified(images.labels, limit, run.seed))
