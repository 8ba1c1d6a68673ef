"""One of several answers to a text about images, by a head: ViLT, METER, or a language model composed with a vision tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer import zoo
from gossamer.data import ImageTextDataset, Preprocessing
from gossamer.errors import UserError
from gossamer.runs.prepared import BATCH
from gossamer.runs.run import Run
from gossamer.tasks import texts as shared
from gossamer.tasks.recorded import labels_of, recorded
from gossamer.tasks.texts import PreparedTexts, TextTask

if TYPE_CHECKING:
    from typing_extensions import Self

    from gossamer.adapting import Adapted

UNKNOWN = -100  # label of a text whose answer is none of the classes; torch's cross-entropy passes over it


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy for classes [B]; for scores [B, C] binary cross-entropy, summed over answers, averaged over texts."""
    if labels.is_floating_point():
        scores = labels.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, scores, reduction="none").sum(1).mean()
    return F.cross_entropy(logits, labels)


@dataclass(frozen=True)
class ClassifyingAnswers(TextTask):
    """An answer that the training set knows.

    `soft` is whether several people answered each question, so that answers have scores (VQAv2); else a text has one class.
    `tokens` is the length that texts are cut to.
    """

    labels: tuple[str, ...]
    soft: bool
    tokens: int
    preprocessing: Preprocessing
    tokenizer_of: tuple[str, str | None]
    images: int | None

    name: ClassVar[str] = "answer-classification"
    reads: ClassVar[tuple[str, ...]] = shared.READS

    @classmethod
    def begin(cls, run: Run, train: ImageTextDataset) -> Self:
        """With the classes of the training set."""
        if run.texts.answers == "text":
            raise UserError(
                "texts.answers=text needs a language model that writes and a vision tower: set model.vision"
            )
        soft = any(len(example.references) > 1 for example in train.examples)
        for example in train.examples:
            if not soft and example.label is None:
                raise UserError(f"the answer of {example.source} is none of the {len(train.classes)} classes")
        return cls(train.classes, soft, run.texts.tokens, **shared.begun(run, train))

    @classmethod
    def of(cls, adapted: Adapted) -> Self:
        """From the adapter's metadata."""
        soft, tokens = recorded(adapted, "soft"), recorded(adapted, "tokens")
        return cls(tuple(labels_of(adapted)), soft, tokens, **shared.remembered(adapted))

    def record(self) -> dict[str, Any]:
        """Answers, preprocessing, and how texts are read."""
        name, revision = self.tokenizer_of
        return {
            "labels": list(self.labels),
            "soft": self.soft,
            "tokens": self.tokens,
            "preprocessing": self.preprocessing.to_dict(),
            "tokenizer": {"name": name, "revision": revision},
            "images": self.images,
        }

    @property
    def outputs(self) -> int:
        """One for each answer."""
        return len(self.labels)

    def backbone(self, run: Run) -> nn.Module:
        """A fusion model with its head for one or two images, or a bare language model with a vision tower."""
        from gossamer.zoo.composed import compose

        model = run.model
        if model.vision is not None:
            revisions = {"revision": model.revision, "vision_revision": model.vision_revision}
            return compose(model.name, model.vision, writing=False, **revisions)
        task = "two-image-classification" if self.images == 2 else "visual-question-answering"
        try:
            return zoo.load(model.name, revision=model.revision, task=task, num_labels=self.outputs)
        except ValueError as error:
            raise UserError(f"{error}; a language model reads images with a tower: set model.vision") from error

    def tokenized(self, texts: ImageTextDataset) -> list[dict[str, list[int]]]:
        """Texts cut to `tokens`."""
        length = min(self.tokens, self.tokenizer.model_max_length)
        found = self.tokenizer([e.text for e in texts.examples], truncation=True, max_length=length)
        return [{"input_ids": ids} for ids in found["input_ids"]]

    def padded(self, items: Sequence[dict[str, Any]], *, answering: bool = False) -> dict[str, Tensor]:
        """Padding on the right."""
        return shared.padded_inputs([item["input_ids"] for item in items], self.tokenizer)

    def target(self, texts: ImageTextDataset, i: int) -> Tensor:
        """Scores [C] or the class."""
        if self.soft:
            return texts.targets([i])[0]
        label = texts.examples[i].label
        return torch.tensor(UNKNOWN if label is None else label)

    def targets(self, items: Sequence[dict[str, Any]]) -> Tensor:
        """Scores [B, C] or classes [B]."""
        return torch.stack([item["target"] for item in items])

    def classes_of(self, texts: ImageTextDataset) -> Tensor | None:
        """Classes, unless answers have scores."""
        return None if self.soft else torch.stack([self.target(texts, i) for i in range(len(texts))])

    def prepare(self, items: ImageTextDataset) -> PreparedTexts:
        """Answers are matched by name; those that the training set does not know cannot be given."""
        return super().prepare(items.with_classes(self.labels) if isinstance(items, ImageTextDataset) else items)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """See `answer_loss`."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return answer_loss(model(**inputs).logits, batch["labels"])

    @torch.no_grad()
    def answers(
        self, adapted: Adapted, prepared: PreparedTexts, *, batch: int = BATCH, workers: int = 0
    ) -> tuple[list[str], float | None]:
        """The likeliest answers."""
        adapted.eval()
        prepared.settle(adapted)
        found: list[str] = []
        total, counted = 0.0, 0
        for given in prepared.batches(adapted, answering=False, batch=batch, workers=workers):
            labels = given.pop("labels")
            logits = adapted(**given).logits.float()
            found += [self.labels[i] for i in logits.argmax(1).tolist()]
            known = len(labels) if self.soft else int((labels != UNKNOWN).sum())
            if known:
                total, counted = total + known * float(answer_loss(logits, labels)), counted + known
        return found, total / counted if counted else None

    @torch.no_grad()
    def ask(self, adapted: Adapted, prepared: PreparedTexts) -> Iterator[dict[str, Any]]:
        """Answers with probabilities, likeliest first: they sum to 1, but for soft scores, where each answer has its own."""
        for given in prepared.batches(adapted, answering=True, batch=BATCH, workers=0):
            logits = adapted(**given).logits.double()
            for row in (logits.sigmoid() if self.soft else logits.softmax(1)).tolist():
                ranked = dict(sorted(zip(self.labels, row, strict=True), key=lambda pair: -pair[1]))
                answer, share = next(iter(ranked.items()))
                yield {"answer": answer, "probability": share, "probabilities": ranked}
