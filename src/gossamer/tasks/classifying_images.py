"""One of several classes for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from gossamer import evaluate, heads, zoo
from gossamer.data import ImageDataset, Preprocessing
from gossamer.evaluate import Scores
from gossamer.tasks.base import BATCH, Task
from gossamer.training.prepared import Augmented, Prepared
from gossamer.training.run import Run
from gossamer.training.sets import preprocessing

if TYPE_CHECKING:
    from typing_extensions import Self

    from gossamer.adapted import Adapted


@dataclass(frozen=True)
class ClassifyingImages(Task):
    """The class of an image, by a head on what a vision model reads out."""

    labels: tuple[str, ...]
    preprocessing: Preprocessing

    name: ClassVar[str] = "image-classification"
    unit: ClassVar[str] = "images"

    @classmethod
    def begin(cls, run: Run, train: ImageDataset) -> Self:
        """With the classes of the training images."""
        return cls(train.classes, preprocessing(run))

    @classmethod
    def of(cls, adapted: Adapted) -> Self:
        """From `labels` and `preprocessing`."""
        return cls(tuple(evaluate.labels_of(adapted)), evaluate.preprocessing_of(adapted))

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
        return zoo.load(run.model.name, revision=run.model.revision, **task)

    def prepare(self, items: ImageDataset) -> Prepared:
        """Classes are matched by name."""
        if not isinstance(items, ImageDataset):
            raise ValueError(f"this adapter classifies images, and {items.name} has texts about images")
        return Prepared(items.with_classes(self.labels), self.preprocessing)

    def varied(self, prepared: Any, run: Run) -> Any:
        """Augmented where the run says so."""
        return Augmented(prepared, run.images.augment) if run.images.augment else prepared

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy."""
        return heads.loss(model(pixel_values=batch["pixel_values"]).logits, batch["labels"])

    def score(self, adapted: Adapted, prepared: Prepared, *, batch: int = BATCH, workers: int = 0) -> Scores:
        """Accuracy, balanced accuracy, recalls and confusion."""
        logits = evaluate.classify(adapted, prepared, batch=batch, workers=workers)
        return evaluate.score(logits, prepared.labels, self.labels)

    def asked(self, prepared: Prepared) -> dict[str, Tensor]:
        """The images."""
        return {"pixel_values": prepared.collate([prepared[i] for i in range(len(prepared))])["pixel_values"]}

    def replies(self, adapted: Adapted, given: Sequence[str]) -> list[dict[str, Any]]:
        """Image files and folders, and nothing else."""
        from gossamer import predict

        return list(predict.predict(adapted, predict.image_files(given)))

    @staticmethod
    def table(scores: dict[str, Any]) -> str:
        """Shares, loss and every recall."""
        return evaluate.table(Scores(**scores))

    def draw(self, scores: Scores, folder: Path, split: str) -> None:
        """The confusion matrix."""
        from gossamer import report

        title = f"{split}: {scores.accuracy:.1%} of {scores.n:,} images"
        report.confusion(scores, folder / "confusion.png", title=title)
