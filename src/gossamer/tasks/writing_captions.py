"""Captions written by a language model that sees: one an image, learned from all that people wrote of it (COCO, Flickr30K)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from gossamer import metrics
from gossamer.data import Example, ImageTextDataset
from gossamer.errors import UserError
from gossamer.runs.prepared import BATCH
from gossamer.runs.run import Run
from gossamer.tasks.texts import PreparedTexts
from gossamer.tasks.writing_answers import WritingAnswers

if TYPE_CHECKING:
    from typing_extensions import Self

    from gossamer.adapting import Adapted


@dataclass(frozen=True, kw_only=True)
class CaptionScores:
    """How close the captions of n images are to those that people wrote.

    `scores` are BLEU-1 to BLEU-4, METEOR, ROUGE-L and CIDEr as fractions (papers print them times 100), `accuracy` is CIDEr, which
    may exceed 1, and `loss` the mean of a token of people's captions.
    """

    n: int
    accuracy: float
    scores: dict[str, float]
    loss: float

    def headline(self) -> dict[str, float]:
        """CIDEr, and all scores."""
        return {"accuracy": self.accuracy, **self.scores}

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class WritingCaptions(WritingAnswers):
    """A caption behind a prompt that is the same for every image; item i of a set is caption i with its image."""

    name: ClassVar[str] = "captioning"
    unit: ClassVar[str] = "captions"
    measure: ClassVar[str] = "CIDEr"
    usual_prompt: ClassVar[str] = "caption:"

    @classmethod
    def begin(cls, run: Run, train: ImageTextDataset) -> Self:
        """With the run's prompt, or the usual one; ImportError or FileNotFoundError where the scorers are not there."""
        if run.texts.answers == "classes":
            raise UserError(f"captions are written, and {run.data.name} has no classes: leave out texts.answers")
        metrics.require_caption_scorers()
        return super().begin(run, train)

    @classmethod
    def check_prompt(cls, prompt: str) -> None:
        """ValueError for a prompt with a place for a text."""
        if "{text}" in prompt:
            raise UserError(f"images with captions have no text to put in place of {{text}} of texts.prompt {prompt!r}")

    def prepare(self, items: ImageTextDataset) -> PreparedTexts:
        """Every caption with its image; an image without captions once. ValueError for other sets."""
        if not isinstance(items, ImageTextDataset):
            raise UserError(f"this adapter writes captions, and {items.name} has labelled images")
        captions: list[Example] = []
        for example in items.examples:
            if example.text or len(example.images) != 1:
                raise UserError(f"this adapter writes captions, and {example.source} is no image with captions")
            captions += [dataclasses.replace(example, references=(said,)) for said in example.references] or [example]
        return PreparedTexts(dataclasses.replace(items, examples=tuple(captions)), self)

    @torch.no_grad()
    def score(
        self, adapted: Adapted, prepared: PreparedTexts, *, batch: int = BATCH, workers: int = 0
    ) -> CaptionScores:
        """Scores of one caption an image, written greedily, by COCO's evaluation code."""
        adapted.eval()
        prepared.settle(adapted)
        said: dict[str, list[str]] = {}
        first: list[int] = []
        for place, example in enumerate(prepared.texts.examples):
            if not example.references:
                raise UserError(f"{prepared.texts.name} cannot be scored: {example.source} has no caption")
            image = str(example.images[0])
            first += [] if image in said else [place]
            said.setdefault(image, []).append(example.references[0])
        written = self.ask(adapted, prepared, places=first, batch=batch, workers=workers)
        captions = {image: record["answer"] for image, record in zip(said, written, strict=True)}
        scores = metrics.caption_scores(captions, said)
        loss = self.token_loss(adapted, prepared, batch=batch, workers=workers)
        return CaptionScores(n=len(said), accuracy=scores["CIDEr"], scores=scores, loss=loss)

    def caption(self, adapted: Adapted, files: Sequence[str | Path]) -> list[dict[str, Any]]:
        """{"images", "answer"} for every image file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: no file, or one cannot be read.
        """
        if not files:
            raise UserError("there is no image to write a caption for")
        examples = [Example(id=str(i), images=(Path(f),), text="", source=str(f)) for i, f in enumerate(files)]
        prepared = self.prepare(ImageTextDataset(name="images", classes=(), examples=tuple(examples)))
        with torch.no_grad():
            written = self.ask(adapted.eval(), prepared)
            return [{"images": [str(file)], **record} for file, record in zip(files, written, strict=True)]

    def named(self, given: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        """Images, and no text."""
        return given, ()

    def replies(self, adapted: Adapted, files: Sequence[Path], texts: Sequence[str]) -> list[dict[str, Any]]:
        """A caption for each."""
        return self.caption(adapted, files)

    @staticmethod
    def table(scores: dict[str, Any]) -> str:
        """Number of images, scores, and loss."""
        lines = [f"{'images':<20}{scores['n']:>9,}"]
        lines += [f"{name:<20}{value:>9.4f}" for name, value in scores["scores"].items()]
        return "\n".join([*lines, f"{'loss':<20}{scores['loss']:>9.4f}"])
