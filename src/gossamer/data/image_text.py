"""Texts about images: questions with answers, statements to be judged, captions. What every vision-language reader gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from gossamer.data.files import SHOWN, listed, require_present, twice
from gossamer.data.images import open_image
from gossamer.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One text about no, one or two images.

    `references` is what people said: the ten answers of VQAv2, the captions of an image, else the one right answer. `scores`
    are (label, score) of the answers that count, a plain label being ((label, 1.0),); empty where the answer is not published
    or not among the classes. `groups` are the kinds a benchmark reports apart. `source` is file and record, for messages.
    """

    id: str
    images: tuple[Path, ...]
    text: str
    references: tuple[str, ...] = ()
    scores: tuple[tuple[int, float], ...] = ()
    groups: tuple[str, ...] = ()
    source: str

    @property
    def label(self) -> int | None:
        """The label with the highest score (the first of equals), if there is any."""
        return max(self.scores, key=lambda pair: pair[1])[0] if self.scores else None


@dataclass(frozen=True, kw_only=True)
class ImageTextDataset(Dataset):
    """Texts about images; item i is {"id", "images": PIL images in RGB, "text", "references", "label"}, label only if known.

    `classes` are the names of the labels 0, 1, ...; empty for captions.
    """

    name: str
    classes: tuple[str, ...]
    examples: tuple[Example, ...]

    def __post_init__(self):
        if not self.examples:
            raise UserError(f"{self.name} holds no examples")
        if again := twice(self.classes):
            raise UserError(f"{self.name} has the answer {again[0]!r} twice among its classes")

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> dict[str, Any]:
        example = self.examples[i]
        item = {
            "id": example.id,
            "images": [open_image(path) for path in example.images],
            "text": example.text,
            "references": example.references,
        }
        return item if example.label is None else {**item, "label": example.label}

    def describe(self, i: int) -> str:
        """File and record of item i, for messages."""
        return self.examples[i].source

    def pictured(self) -> Iterator[str]:
        """The file of every image, for every text that is about it."""
        return (str(path) for example in self.examples for path in example.images)

    def targets(self, items: Iterable[int]) -> Tensor:
        """Soft scores of some items, float32 [items, classes]; a row of zeros where nothing that people said is a class."""
        import torch

        items = list(items)
        targets = torch.zeros(len(items), len(self.classes))
        for row, i in enumerate(items):
            for label, score in self.examples[i].scores:
                targets[row, label] = score
        return targets

    def subjects(self) -> list[int]:
        """For each text a number of the image it is about (the first of two); a text without images stands alone."""
        numbers: dict[Any, int] = {}
        return [numbers.setdefault(e.images[:1] or e.id, len(numbers)) for e in self.examples]

    def subset(self, items: Iterable[int]) -> ImageTextDataset:
        """The data set of some items, in the order given."""
        return replace(self, examples=tuple(self.examples[i] for i in items))

    def with_classes(self, classes: Iterable[str]) -> ImageTextDataset:
        """The same texts with the labels of another list of class names; scores of answers that are not in it are left out."""
        place = {name: label for label, name in enumerate(classes)}
        kept = tuple(
            replace(e, scores=tuple((place[self.classes[i]], s) for i, s in e.scores if self.classes[i] in place))
            for e in self.examples
        )
        return replace(self, classes=tuple(place), examples=kept)

    def check(self) -> None:
        """Nothing, where every text has an id of its own and every image is there; opens none.

        Raises:
            UserError: two records have the same id.
            FileNotFoundError: images are not there.
        """
        if again := twice(example.id for example in self.examples):
            said = [f"{id} ({', '.join(e.source for e in self.examples if e.id == id)})" for id in again[:SHOWN]]
            raise UserError(f"{len(again):,} of the texts of {self.name} are there more than once: {listed(said)}")
        require_present((path, example.source) for example in self.examples for path in example.images)
