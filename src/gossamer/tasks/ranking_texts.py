"""Which text belongs to an image, and which image to a text: ViLT and METER with a head that ranks (Flickr30K, COCO).

Trained as ViLT's and METER's authors fine-tune for retrieval (arXiv 2102.03334, 2111.02387): every caption of an image is told
from texts of other images, drawn anew each time. Scored on every image with every text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from gossamer import metrics, zoo
from gossamer.data import Example, ImageTextDataset, Preprocessing
from gossamer.data.given import names_images
from gossamer.errors import UserError
from gossamer.runs.prepared import BATCH, MEMORY
from gossamer.runs.run import Run
from gossamer.runs.shown import shown
from gossamer.tasks import texts as shared
from gossamer.tasks.base import Task
from gossamer.tasks.recorded import preprocessing_of, recorded

if TYPE_CHECKING:
    from typing_extensions import Self

    from gossamer.adapting import Adapted


@dataclass(frozen=True, kw_only=True)
class RecallScores:
    """How well `texts` texts and n images find each other.

    `recalls` are TR@k, the share of images with one of their texts among the k best, and IR@k, the share of texts with their image
    among the k best, for k of 1, 5 and 10; `accuracy` is the mean of the six, `loss` that of `loss_among_all`.
    """

    n: int
    texts: int
    accuracy: float
    recalls: dict[str, float]
    loss: float

    def headline(self) -> dict[str, float]:
        """The mean recall, and all six."""
        return {"accuracy": self.accuracy, **self.recalls}

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON."""
        return dataclasses.asdict(self)


def loss_among_all(similarity: Tensor, owner: Tensor) -> float:
    """Cross-entropy of telling each text from all texts of other images; in training from a few of them.

    Args:
        similarity: [images, texts].
        owner: [texts], the image of each text.
    """
    own = owner == torch.arange(len(similarity))[:, None]
    others = similarity.masked_fill(own, -torch.inf).logsumexp(1)[owner]
    return float(F.softplus(others - similarity[owner, torch.arange(len(owner))]).mean())


class PreparedCaptions(Dataset):
    """Captions as a model reads them; item i is caption i with its image, and `task.negatives` captions of other images.

    Those are drawn from torch's generator whenever the item is asked for. `owner` [texts] is the image of each caption.
    """

    labels = subjects = None

    def __init__(self, captions: ImageTextDataset, task: RankingTexts):
        self.captions, self.task = captions, task
        counts = torch.tensor([len(example.references) for example in captions.examples])
        self.owner = torch.arange(len(counts)).repeat_interleave(counts)
        self.first = (counts.cumsum(0) - counts).tolist()
        self.tokens = task.tokenized([text for example in captions.examples for text in example.references])
        self.paths = [example.images[0] for example in captions.examples]
        self.pictures = shared.Pictures(self.paths, task.preprocessing)

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, i: int) -> dict[str, Any]:
        image = int(self.owner[i])
        first, own = self.first[image], len(self.captions.examples[image].references)
        drawn = torch.randint(len(self) - own, (self.task.negatives,)).tolist()
        texts = [i, *(place if place < first else place + own for place in drawn)]
        return {"pixel_values": self.pictures[self.paths[image]], "texts": [self.tokens[place] for place in texts]}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Images [B, 3, S, S], texts and their masks [B, 1 + negatives, n], and labels [B]: the true text is number 0."""
        padded = self.task.padded([ids for item in items for ids in item["texts"]])
        texts = {name: tensor.unflatten(0, (len(items), -1)) for name, tensor in padded.items()}
        pixels = default_collate([item["pixel_values"] for item in items])
        return {**texts, "pixel_values": pixels, "labels": torch.zeros(len(items), dtype=torch.long)}

    def settle(self, adapted: Adapted) -> None:
        """Nothing: images are decoded already where they fit."""


@dataclass(frozen=True)
class RankingTexts(Task):
    """Texts ranked for images, and images for texts.

    `negatives` false texts are compared with the true one in training; `tokens` is the length that texts are cut to, `tokenizer_of`
    name and revision of the model whose tokenizer it is.
    """

    negatives: int
    tokens: int
    preprocessing: Preprocessing
    tokenizer_of: tuple[str, str | None]

    name: ClassVar[str] = "image-text-retrieval"
    unit: ClassVar[str] = "captions"
    measure: ClassVar[str] = "mean recall"
    reads: ClassVar[tuple[str, ...]] = shared.READS

    @classmethod
    def begin(cls, run: Run, train: ImageTextDataset) -> Self:
        """With the run's numbers."""
        from gossamer.runs.sets import preprocessing

        if run.texts.answers is not None:
            raise UserError(
                f"{run.data.name} has captions: ViLT and METER rank them, without texts.answers; a language model writes them, "
                "with a tower: set model.vision"
            )
        if len(train) < 2:
            raise UserError(f"{train.name} has one image, and a text is told from texts of other images")
        return cls(run.texts.negatives, run.texts.tokens, preprocessing(run), (run.model.name, run.model.revision))

    @classmethod
    def of(cls, adapted: Adapted) -> Self:
        """From the adapter's metadata."""
        named = recorded(adapted, "tokenizer")
        own = (recorded(adapted, "negatives"), recorded(adapted, "tokens"))
        return cls(*own, preprocessing_of(adapted), (named["name"], named["revision"]))

    def record(self) -> dict[str, Any]:
        """Preprocessing, and how texts are read."""
        name, revision = self.tokenizer_of
        return {
            "negatives": self.negatives,
            "tokens": self.tokens,
            "preprocessing": self.preprocessing.to_dict(),
            "tokenizer": {"name": name, "revision": revision},
        }

    @property
    def outputs(self) -> int:
        """One score for a pair."""
        return 1

    def backbone(self, run: Run) -> nn.Module:
        """A fusion model with its rank head."""
        return zoo.load(run.model.name, revision=run.model.revision, task=self.name)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the model."""
        return zoo.tokenizer(*self.tokenizer_of)

    def tokenized(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts cut to `tokens`."""
        length = min(self.tokens, self.tokenizer.model_max_length)
        return self.tokenizer(list(texts), truncation=True, max_length=length)["input_ids"]

    def padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Padding on the right."""
        return shared.padded_inputs(rows, self.tokenizer)

    def prepare(self, items: ImageTextDataset) -> PreparedCaptions:
        """Captions with their images; ValueError for other sets."""
        if not isinstance(items, ImageTextDataset):
            raise UserError(f"this adapter ranks texts for images, and {items.name} has labelled images")
        for example in items.examples:
            if example.text or not example.references or len(example.images) != 1:
                raise UserError(f"this adapter ranks captions, and {example.source} is no image with captions")
        return PreparedCaptions(items, self)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The model's own: cross-entropy of the ranking, and of the frozen matching head where that was pre-trained."""
        return model(**batch).loss

    def score(
        self, adapted: Adapted, prepared: PreparedCaptions, *, batch: int = BATCH, workers: int = 0
    ) -> RecallScores:
        """Recalls among all images and texts of the set."""
        similarity = self.similarity(adapted, prepared, batch=batch)
        recalls = metrics.recall_at_k(similarity, prepared.owner)
        accuracy, loss = sum(recalls.values()) / len(recalls), loss_among_all(similarity, prepared.owner)
        return RecallScores(n=len(prepared.paths), texts=len(prepared), accuracy=accuracy, recalls=recalls, loss=loss)

    @torch.no_grad()
    def similarity(self, adapted: Adapted, prepared: PreparedCaptions, *, batch: int = BATCH) -> Tensor:
        """The score of every image with every text, [images, texts], `batch` texts at a time.

        What the model computes of a text alone is computed once; what it computes of an image alone once, and again for every GiB
        that is kept of texts.
        """
        adapted.eval()
        device = next(adapted.parameters()).device
        found = torch.empty(len(prepared.paths), len(prepared))
        for part in self._encoded(adapted, prepared, batch, device):
            for row, path in enumerate(shown(prepared.paths, "images ranked with texts")):
                image = adapted.encode_image(prepared.pictures[path].to(device)[None])
                for start, text, mask in part:
                    scores = adapted.rank(text, image.expand(len(text), *image.shape[1:]), mask)
                    found[row, start : start + len(text)] = scores.float().cpu()
        return found

    def _encoded(
        self, adapted: Adapted, prepared: PreparedCaptions, batch: int, device: torch.device
    ) -> Iterator[list[tuple[int, Tensor, Tensor]]]:
        """Batches of encoded texts (place of the first, what the model made of them, mask), as many at once as fit in `MEMORY`."""
        part: list[tuple[int, Tensor, Tensor]] = []
        for start in range(0, len(prepared), batch):
            given = {k: v.to(device) for k, v in self.padded(prepared.tokens[start : start + batch]).items()}
            text = adapted.encode_text(**given)
            if part and sum(t.nbytes for _, t, _ in part) + text.nbytes > MEMORY:
                yield part
                part = []
            part.append((start, text, given["attention_mask"]))
        yield part

    def predict(self, adapted: Adapted, file: str | Path, texts: Sequence[str]) -> dict[str, Any]:
        """{"images", "answer", "probability", "probabilities"}: texts for an image file, best first.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be read, or there is no text.
        """
        if not texts or not all(texts):
            raise UserError(f"texts to rank for {file} must be one or more, and none empty; got {list(texts)}")
        asked = Example(id="0", images=(Path(file),), text="", references=tuple(texts), source=f"the texts for {file}")
        prepared = self.prepare(ImageTextDataset(name="texts", classes=(), examples=(asked,)))
        shares = self.similarity(adapted, prepared)[0].double().softmax(0).tolist()
        ranked = dict(sorted(zip(texts, shares, strict=True), key=lambda pair: -pair[1]))
        answer, share = next(iter(ranked.items()))
        return {"images": [str(file)], "answer": answer, "probability": share, "probabilities": ranked}

    def asked(self, prepared: PreparedCaptions) -> dict[str, Tensor]:
        """Every image with its first text."""
        texts = self.padded([prepared.tokens[first] for first in prepared.first])
        pixels = torch.stack([prepared.pictures[path].to("cpu") for path in prepared.paths])
        return {name: tensor[:, None] for name, tensor in texts.items()} | {"pixel_values": pixels}

    def named(self, given: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        """Texts begin where an argument looks like no image."""
        named = next((i for i, one in enumerate(given) if not names_images(one)), len(given))
        return given[:named], given[named:]

    def replies(self, adapted: Adapted, files: Sequence[Path], texts: Sequence[str]) -> list[dict[str, Any]]:
        """The texts ranked for each."""
        return self.rank(adapted, files, texts)

    def rank(self, adapted: Adapted, files: Sequence[str | Path], texts: Sequence[str]) -> list[dict[str, Any]]:
        """`predict` for every image file; ValueError without any."""
        if not files:
            raise UserError(
                f"there is no image to rank {len(texts)} text(s) for: name image files first, then the texts"
            )
        return [self.predict(adapted, file, texts) for file in files]

    @staticmethod
    def table(scores: dict[str, Any]) -> str:
        """Numbers of images and texts, and recalls."""
        lines = [f"{'images':<20}{scores['n']:>9,}", f"{'texts':<20}{scores['texts']:>9,}"]
        lines += [f"{name:<20}{value:>9.2%}" for name, value in scores["recalls"].items()]
        return "\n".join(
            [*lines, f"{'mean recall':<20}{scores['accuracy']:>9.2%}", f"{'loss':<20}{scores['loss']:>9.4f}"]
        )
