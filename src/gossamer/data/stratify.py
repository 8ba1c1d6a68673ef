"""Parts of a data set in which every class keeps its share."""

from __future__ import annotations

import random
from collections.abc import Sequence

from gossamer.data.images import ImageDataset
from gossamer.errors import UserError


def stratified(labels: Sequence[int], count: int, seed: int = 0, *, left: int = 0) -> list[int]:
    """`count` places of `labels`, sorted, drawn at random so that every class keeps its share as nearly as possible.

    At least `left` places of every class are not drawn; fewer than `count` are, where there are no others.

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
    taken = {label: min(n, max(0, len(places[label]) - left)) for label, n in taken.items()}
    roomy = [label for label in by_remainder if taken[label] < len(places[label]) - left]
    for label in roomy[: max(0, count - sum(taken.values()))]:
        taken[label] += 1
    draw = random.Random(seed)
    return sorted(place for label in shares for place in draw.sample(places[label], taken[label]))


def split(dataset: ImageDataset, fraction: float, seed: int = 0) -> tuple[ImageDataset, ImageDataset]:
    """(rest, held): `fraction` of the images held out for validation, stratified by class, and the rest.

    Meant for the training images, so that choosing settings never touches test images. Every class keeps an image in
    the rest, so of a class with a single one none is held out. ValueError if nothing is held out, or all.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the fraction held out must be between 0 and 1, got {fraction}")
    held = set(stratified(dataset.labels, round(fraction * len(dataset)), seed, left=1))
    if not held or round(fraction * len(dataset)) == len(dataset):
        raise UserError(
            f"holding out {fraction:g} of the {len(dataset)} images of {dataset.name} leaves one part empty; give more images, "
            "or hold none out: data.validation=0 with training.keep=last"
        )
    kept = dataset.subset(i for i in range(len(dataset)) if i not in held)
    return kept, dataset.subset(sorted(held))


def keep_classes(before: ImageDataset, after: ImageDataset, change: str) -> None:
    """ValueError if a class with images in `before` has none in `after`, the same data after the `change` to it."""
    lost = [
        name for name, had, has in zip(before.classes, before.counts(), after.counts(), strict=True) if had and not has
    ]
    if lost:
        raise UserError(f"{change} of {before.name} leaves no training image of: {', '.join(lost)}")
