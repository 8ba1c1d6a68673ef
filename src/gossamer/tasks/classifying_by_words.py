"""One of several classes for an image, each described in words: the class whose words lie nearest to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from gossamer import zoo
from gossamer.data import ImageDataset
from gossamer.data.fewshot import SETS, in_words
from gossamer.errors import UserError
from gossamer.models.words import TEMPLATES, Words
from gossamer.models.zero_shot import Tokens, ZeroShot
from gossamer.runs.run import Run
from gossamer.runs.sets import preprocessing
from gossamer.tasks.classifying_images import ClassifyingImages
from gossamer.tasks.recorded import labels_of, preprocessing_of, recorded

if TYPE_CHECKING:
    from typing_extensions import Self

    from gossamer.adapting import Adapted

TIED = "tip_adapter"  # the method that knows its classes by more than their words


@dataclass(frozen=True)
class ClassifyingByWords(ClassifyingImages):
    """The class of an image by words, in a pair of towers; `words` are those of the labels, in order."""

    words: tuple[str, ...]
    templates: tuple[str, ...]
    drawn: tuple[int, ...] = ()

    name: ClassVar[str] = "classification-by-words"
    reads: ClassVar[tuple[str, ...]] = (*ClassifyingImages.reads, "data.classes", "data.names", "data.templates")

    @classmethod
    def begin(cls, run: Run, train: ImageDataset) -> Self:
        """With the classes of the training images in words."""
        usual = next((of.template for task, of in SETS.items() if run.data.name == f"fewshot/{task}"), TEMPLATES[0])
        halved = run.data.classes != "all"  # names may be those of both halves
        names = {n: w for n, w in run.data.names.items() if not halved or n in train.classes}
        words = in_words(train.classes, names)
        return cls(
            train.classes, preprocessing(run), tuple(words), tuple(run.data.templates or (usual,)),
            train.indices if run.data.shots is not None else (),
        )  # fmt: skip

    @classmethod
    def of(cls, adapted: Adapted) -> Self:
        """From `labels`, `preprocessing`, `words`."""
        told = recorded(adapted, "words")
        return cls(
            tuple(labels_of(adapted)), preprocessing_of(adapted), tuple(told["names"]), tuple(told["templates"]),
            tuple(told["drawn"]),
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        """Labels, preprocessing, words, and which training images were drawn."""
        told = {"names": list(self.words), "templates": list(self.templates), "drawn": list(self.drawn)}
        return {**super().record(), "words": told}

    @property
    def outputs(self) -> None:  # type: ignore[override]
        """The model needs no head."""
        return

    def backbone(self, run: Run) -> nn.Module:
        """The pair, with the classes in words."""
        pair: Any = zoo.load(run.model.name, revision=run.model.revision)
        tokenizer = zoo.tokenizer(run.model.name, run.model.revision)
        model = ZeroShot.of(pair, self.words, tokenizer, self.templates)
        self._try(model, run.model.name)
        return model

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy over the classes."""
        return F.cross_entropy(model(pixel_values=batch["pixel_values"]).logits, batch["labels"])

    def with_words(self, adapted: Adapted, words: Sequence[str], labels: Sequence[str] | None = None) -> None:
        """Gives an adapter other words; `labels` are those of data, in the same order (None: the words).

        Raises:
            UserError: a method of it knows its classes by more than their words.
        """
        if any(method.name == TIED for method in adapted.applied):
            raise UserError("tip_adapter knows its classes by their training images: it takes no other words")
        model: Any = adapted.backbone
        tokenizer = zoo.tokenizer(model.pair.name_or_path)
        model.tell(Words.of(words, self.templates, Tokens(model.pair, tokenizer)))
        told = {**adapted.metadata["words"], "names": list(words)}
        adapted.metadata = {**adapted.metadata, "labels": list(labels or words), "words": told}

    def replies(self, adapted: Adapted, files: Sequence[Path], texts: Sequence[str]) -> list[dict[str, Any]]:
        """A label for each, of the words behind the images where there are any."""
        if texts:
            self.with_words(adapted, texts)
        return list(type(self).of(adapted).predict(adapted, files))
