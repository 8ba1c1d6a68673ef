"""Parts of a data set in which every class keeps its share."""

from __future__ import annotations

import random
from collections.abc import Sequence

from gossamer.data.images import ImageDataset
from gossamer.errors import UserError


def stratified(labels: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """`count` places of `labels`, sorted, drawn at random so that every class keeps its share as nearly as possible.

    The shares are rounded by largest remainder, ties going to the lower label. Python's own generator is used, whose
    numbers are the same on every machine.
    """
    if not 0 <= count <= len(labels):
        raise UserError(f"cannot draw {count} of {len(labels)} items")
    places: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    shares = {label: count * len(of) / len(labels) for label, of in sorted(places.items())}
    taken = {label: int(share) for label, share in shares.items()}
    by_remainder = sorted(shares, key=lambda label: (taken[label] - shares[label], label))
    for label in by_remainder[: count - sum(taken.values())]:
        taken[label] += 1
    draw = random.Random(seed)
    return sorted(place for label in shares for place in draw.sample(places[label], taken[label]))


def split(dataset: ImageDataset, fraction: float, seed: int = 0) -> tuple[ImageDataset, ImageDataset]:
    """(rest, held): `fraction` of the images held out for validation, stratified by class, and the rest.

    Meant for the training images, so that choosing settings never touches test images. Every class keeps an image in
    the rest; ValueError if the fraction leaves one of the two parts empty or a class without a training image.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the fraction held out must be between 0 and 1, got {fraction}")
    held = set(stratified(dataset.labels, round(fraction * len(dataset)), seed))
    if not held or len(held) == len(dataset):
        raise UserError(
            f"holding out {fraction:g} of the {len(dataset)} images of {dataset.name} leaves one part empty"
        )
    kept = dataset.subset(i for i in range(len(dataset)) if i not in held)
    keep_classes(dataset, kept, f"holding out {fraction:g}")
    return kept, dataset.subset(sorted(held))


def keep_classes(before: ImageDataset, after: ImageDataset, change: str) -> None:
    """ValueError if a class with images in `before` has none in `after`, the same data after the `change` to it."""
    lost = [
        name for name, had, has in zip(before.classes, before.counts(), after.counts(), strict=True) if had and not has
    ]
    if lost:
        raise UserError(f"{change} of {before.name} leaves no training image of: {', '.join(lost)}")
