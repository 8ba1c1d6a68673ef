"""One of several classes for an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer import hosts, zoo
from gossamer.data import ImageDataset, Preprocessing, open_image
from gossamer.errors import UserError, out_of_memory
from gossamer.hosts import heads
from gossamer.runs.prepared import BATCH, Augmented, Prepared, outputs
from gossamer.runs.run import Run
from gossamer.runs.sets import preprocessing
from gossamer.tasks.base import Task
from gossamer.tasks.recorded import labels_of, preprocessing_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from gossamer.adapting import Adapted


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a classifier gets right on n images.

    `accuracy` is the share of all images, `recall` that of each class (None for a class without images), `balanced_accuracy` the
    mean of the recalls, `loss` the mean cross-entropy, `confusion` [true][predicted] the number of images.
    """

    n: int
    accuracy: float
    balanced_accuracy: float
    loss: float
    recall: dict[str, float | None]
    confusion: list[list[int]]

    def headline(self) -> dict[str, float]:
        """Accuracy and balanced accuracy."""
        return {"accuracy": self.accuracy, "balanced_accuracy": self.balanced_accuracy}

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON."""
        return dataclasses.asdict(self)


def score(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Scores:
    """The scores of logits [n, C] for true labels [n]; C names in `classes`."""
    count = len(classes)
    confusion = torch.bincount(labels * count + logits.argmax(1), minlength=count * count).view(count, count)
    of_class, right = confusion.sum(1), confusion.diagonal()
    recalls = [r / n if n else None for r, n in zip(right.tolist(), of_class.tolist(), strict=True)]
    present = [r for r in recalls if r is not None]
    return Scores(
        n=len(labels),
        accuracy=int(right.sum()) / len(labels),
        balanced_accuracy=sum(present) / len(present),
        loss=float(F.cross_entropy(logits.double(), labels)),
        recall=dict(zip(classes, recalls, strict=True)),
        confusion=confusion.tolist(),
    )


def classify(adapted: Adapted, images: Prepared, *, batch: int = BATCH, workers: int = 0) -> Tensor:
    """Logits [n, C] of every image, in evaluation mode."""
    adapted.eval()
    device = next(adapted.parameters()).device
    return outputs(lambda **x: adapted(**x).logits, images, device=device, batch=batch, workers=workers)


def probabilities(logits: Tensor, labels: Sequence[str]) -> list[dict[str, float]]:
    """For each row of logits [B, C] the probability of every label, likeliest first."""
    rows = logits.double().softmax(1).tolist()
    return [dict(sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1])) for row in rows]


@dataclass(frozen=True)
class ClassifyingImages(Task):
    """The class of an image, by a head on what a vision model reads out."""

    labels: tuple[str, ...]
    preprocessing: Preprocessing

    name: ClassVar[str] = "image-classification"
    reads: ClassVar[tuple[str, ...]] = (
        "model.revision", "model.head", "images", "data.path", "data.image", "data.label", "data.subset", "data.train",
        "data.shots",
    )  # fmt: skip
    unit: ClassVar[str] = "images"

    @classmethod
    def begin(cls, run: Run, train: ImageDataset) -> Self:
        """With the classes of the training images."""
        return cls(train.classes, preprocessing(run))

    @classmethod
    def of(cls, adapted: Adapted) -> Self:
        """From `labels` and `preprocessing`."""
        return cls(tuple(labels_of(adapted)), preprocessing_of(adapted))

    def record(self) -> dict[str, Any]:
        """Labels and preprocessing."""
        return {"labels": list(self.labels), "preprocessing": self.preprocessing.to_dict()}

    @property
    def outputs(self) -> int:
        """One for each class."""
        return len(self.labels)

    def backbone(self, run: Run) -> nn.Module:
        """With the published kind of head, or bare, as `model.head` says."""
        published = run.model.head == "published"
        task = {"task": self.name, "num_labels": self.outputs} if published else {}
        model: Any = zoo.load(run.model.name, revision=run.model.revision, **task)
        self._try(model, run.model.name)
        return model

    @torch.no_grad()
    def _try(self, model: nn.Module, name: str) -> None:
        """UserError where the published model cannot read images of the size that is asked for."""
        size = self.preprocessing.size
        try:
            with torch.random.fork_rng(devices=[]):
                hosts.of(model).run(model, (), {"pixel_values": torch.zeros(1, 3, size, size)})
        except (RuntimeError, ValueError, AssertionError) as error:
            if out_of_memory(error):
                raise
            raise UserError(f"images.size={size}: {name} cannot read such images: {error}") from error

    def prepare(self, items: ImageDataset) -> Prepared:
        """Classes are matched by name."""
        if not isinstance(items, ImageDataset):
            raise UserError(f"this adapter classifies images, and {items.name} has texts about images")
        return Prepared(items.with_classes(self.labels), self.preprocessing)

    def varied(self, prepared: Any, run: Run) -> Any:
        """Augmented where the run says so."""
        return Augmented(prepared, run.images.augment) if run.images.augment else prepared

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy."""
        return heads.loss(model(pixel_values=batch["pixel_values"]).logits, batch["labels"])

    def score(self, adapted: Adapted, prepared: Prepared, *, batch: int = BATCH, workers: int = 0) -> Scores:
        """Accuracy, balanced accuracy, recalls and confusion."""
        logits = classify(adapted, prepared, batch=batch, workers=workers)
        return score(logits, prepared.labels, self.labels)

    def asked(self, prepared: Prepared) -> dict[str, Tensor]:
        """The images."""
        return {"pixel_values": torch.stack([prepared[i]["pixel_values"].to("cpu") for i in range(len(prepared))])}

    def replies(self, adapted: Adapted, files: Sequence[Path], texts: Sequence[str]) -> list[dict[str, Any]]:
        """A label for each."""
        return list(self.predict(adapted, files))

    def predict(self, adapted: Adapted, files: Sequence[str | Path], *, batch: int = BATCH) -> Iterator[dict[str, Any]]:
        """For every image file {"file", "label", "probability", "probabilities": {label: p}}, likeliest first."""
        adapted.eval()
        device = next(adapted.parameters()).device
        return self.told(files, lambda pixels: adapted(pixel_values=pixels.to(device)).logits, batch=batch)

    @torch.no_grad()
    def told(
        self, files: Sequence[str | Path], logits: Callable[[Tensor], Tensor], *, batch: int = BATCH
    ) -> Iterator[dict[str, Any]]:
        """The same by any function from prepared images [B, 3, S, S] to logits [B, C]."""
        for start in range(0, len(files), batch):
            some = files[start : start + batch]
            pixels = torch.stack([self.preprocessing(open_image(file)) for file in some])
            for file, found in zip(some, probabilities(logits(pixels), self.labels), strict=True):
                label, share = next(iter(found.items()))
                yield {"file": str(file), "label": label, "probability": share, "probabilities": found}

    @staticmethod
    def table(scores: dict[str, Any]) -> str:
        """Shares, loss and every recall."""
        of = Scores(**scores)
        lines = [f"{'images':<20}{of.n:>9,}"]
        lines += [
            f"{name:<20}{v:>9.2%}"
            for name, v in (("accuracy", of.accuracy), ("balanced accuracy", of.balanced_accuracy))
        ]
        lines += [f"{'loss':<20}{of.loss:>9.4f}", "recall"]
        lines += [f"  {name:<18}{'-' if r is None else f'{r:.2%}':>9}" for name, r in of.recall.items()]
        return "\n".join(lines)

    def draw(self, scores: Scores, folder: Path, split: str) -> None:
        """The confusion matrix."""
        from gossamer import report

        title = f"{split}: {scores.accuracy:.1%} of {scores.n:,} images"
        report.confusion(scores.confusion, list(scores.recall), folder / "confusion.png", title=title)
