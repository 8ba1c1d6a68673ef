"""What the tasks on texts about images share: images prepared once, batches of texts with their images, scores of answers."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from gossamer import batches, metrics, zoo
from gossamer.anatomy.session import Layout
from gossamer.batches import Pixels
from gossamer.data import Example, ImageTextDataset, Preprocessing, open_image
from gossamer.errors import UserError
from gossamer.runs.prepared import BATCH, MEMORY, kept
from gossamer.runs.run import Run
from gossamer.tasks.base import Task
from gossamer.tasks.recorded import preprocessing_of, recorded

if TYPE_CHECKING:
    from gossamer.adapting import Adapted

READS = (
    "model.revision", "model.vision", "model.vision_revision", "images.resize", "images.mean", "images.std", "data.path",
    "data.train", "texts",
)  # fmt: skip
"""What tasks on texts about images read of a run beside what all do."""


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """How many of n texts are answered rightly.

    `accuracy` is the mean of what `measure` gives each answer, `groups` that of each group of the set, `loss` the training loss
    (None where no text has the label that it needs).
    """

    n: int
    accuracy: float
    measure: str
    loss: float | None
    groups: dict[str, float]

    def headline(self) -> dict[str, float]:
        """Accuracy alone."""
        return {"accuracy": self.accuracy}

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON."""
        return dataclasses.asdict(self)


def score_answers(answers: Sequence[str], texts: ImageTextDataset, loss: float | None) -> AnswerScores:
    """The scores of one answer for each text: VQA's soft accuracy where several people answered, else exact match.

    Raises:
        ValueError: a text's right answer is not published.
    """
    for example in texts.examples:
        if not example.references:
            raise UserError(
                f"{texts.name} cannot be scored: the answer of {example.source} is not published; gossamer evaluate --results "
                "FILE writes the answers for the benchmark's server"
            )
    several = any(len(example.references) > 1 for example in texts.examples)
    measure = metrics.vqa_accuracy if several else metrics.exact_match
    shares = [measure(a, example.references) for a, example in zip(answers, texts.examples, strict=True)]
    groups = metrics.by_group(shares, [example.groups for example in texts.examples])
    accuracy = groups.pop("all")
    name = "VQA accuracy" if several else "exact match"
    return AnswerScores(n=len(texts), accuracy=accuracy, measure=name, loss=loss, groups=groups)


class Pictures:
    """Images by their files, each prepared once where all fit into `memory` bytes, else whenever it is asked for.

    After `look` it holds what a frozen vision tower makes of them instead; `kind` says which of the two, as the model's input.
    """

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing, memory: int = MEMORY):
        self.rows = {path: row for row, path in enumerate(dict.fromkeys(paths))}
        self.preprocessing, self.memory, self.kind = preprocessing, memory, "pixel_values"
        files = list(self.rows)
        self.kept: Pixels | Tensor | None = kept(len(files), lambda i: self._prepared(files[i]), preprocessing, memory)

    def __getitem__(self, path: Path) -> Pixels | Tensor:
        return self._prepared(path) if self.kept is None else self.kept[self.rows[path]]

    def _prepared(self, path: Path) -> Pixels:
        return self.preprocessing.pixels(open_image(path))

    def look(self, model: Any, batch: int = BATCH) -> None:
        """Keeps the states of the tower of a `VisionLanguage` for every image, if training leaves them as they are and they fit."""
        paths, device = list(self.rows), model.device
        if not paths or self.kind == "states":
            return
        with torch.enable_grad():
            first = model.states(self[paths[0]].to(device)[None])
        if first.requires_grad or first.numel() * first.element_size() * len(paths) > self.memory:
            return
        states = torch.empty(len(paths), *first.shape[1:], dtype=first.dtype)
        with torch.no_grad():
            for start in range(0, len(paths), batch):
                pixels = default_collate([self[path] for path in paths[start : start + batch]])
                states[start : start + batch] = model.states(pixels.to(device)).cpu()
        self.kept, self.kind = states, "states"


class PreparedTexts(Dataset):
    """Texts about images as a model reads them: tokens once for each text, images once for each file.

    `labels` are the classes of the texts, where a linear probe could be solved for them, else None; `subjects` numbers of the
    images that they are about.
    """

    def __init__(self, texts: ImageTextDataset, task: TextTask):
        self.texts, self.task = texts, task
        self.tokens = task.tokenized(texts)
        self.labels = task.classes_of(texts)
        self.subjects = torch.tensor(texts.subjects())
        files = [path for example in texts.examples for path in example.images]
        self.pictures = Pictures(files, task.preprocessing)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, i: int) -> dict[str, Any]:
        paths = self.texts.examples[i].images
        seen = {"images": [(path, self.pictures[path]) for path in paths], "kind": self.pictures.kind}
        return {**seen, "target": self.task.target(self.texts, i), **self.tokens[i]}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch for training: tokens, images and labels. Items may come from another set of the task."""
        return {**self._batch(items, answering=False), "labels": self.task.targets(items)}

    def questions(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch for answering: tokens and images alone."""
        return self._batch(items, answering=True)

    def _batch(self, items: Sequence[dict[str, Any]], *, answering: bool) -> dict[str, Any]:
        """With what a composed model would else have to look up in the masks, which by then are on its device."""
        batch = {**self.task.padded(items, answering=answering), **self._seen(items)}
        if self.task.images is not None:
            return batch
        return {**batch, "layout": Layout.of(batch["attention_mask"], batch.get("image_index"))}

    def _seen(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Images as the model takes them: one or two for each text, or each image of the batch once and whose it is."""
        if self.task.images is not None:
            each = [default_collate([picture for _, picture in item["images"]]) for item in items]
            return {"pixel_values": default_collate(each if self.task.images > 1 else [one[0] for one in each])}
        found = {path: picture for item in items for path, picture in item["images"]}
        place = {path: i for i, path in enumerate(found)}
        if not found:
            return {}
        index = [place[item["images"][0][0]] if item["images"] else -1 for item in items]
        kind = next(item["kind"] for item in items if item["images"])
        seen = {kind: default_collate(list(found.values()))}
        own = index == list(range(len(found)))  # each text has an image of its own: nothing to be picked
        return seen if own else {**seen, "image_index": torch.tensor(index)}

    def settle(self, adapted: Adapted) -> None:
        """Lets the vision tower of a composed model look at every image once, where nothing in it is trained."""
        if self.task.images is None:
            self.pictures.look(adapted.backbone)

    def batches(
        self, adapted: Adapted, *, answering: bool, batch: int, workers: int, places: Sequence[int] | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Every text, or those at `places`, in order, in batches where the adapter is."""
        device = next(adapted.parameters()).device
        collate: Any = self.questions if answering else self.collate
        texts = self if places is None else Subset(self, places)
        pinned = device.type == "cuda"
        for found in DataLoader(texts, batch_size=batch, num_workers=workers, collate_fn=collate, pin_memory=pinned):
            yield batches.on(device, found)


class TextTask(Task):
    """A task on texts about images.

    `images` is how many images a fusion model reads with a text; None for a composed model, whose texts have one or none.
    `tokenizer_of` is name and revision of the model whose tokenizer it is.
    """

    images: int | None
    tokenizer_of: tuple[str, str | None]
    unit: ClassVar[str] = "texts"

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the language model."""
        return zoo.tokenizer(*self.tokenizer_of)

    @abstractmethod
    def tokenized(self, texts: ImageTextDataset) -> list[dict[str, list[int]]]:
        """Tokens of every text, by name of the input."""

    @abstractmethod
    def padded(self, items: Sequence[dict[str, Any]], *, answering: bool = False) -> dict[str, Tensor]:
        """Tokens of a batch, padded, with their mask; for training or for answering."""

    def target(self, texts: ImageTextDataset, i: int) -> Any:
        """What is right for text i, beside its tokens."""
        return None

    @abstractmethod
    def targets(self, items: Sequence[dict[str, Any]]) -> Tensor:
        """The labels of a batch, from what the items hold."""

    def classes_of(self, texts: ImageTextDataset) -> Tensor | None:
        """[n], the class of each text, if it has exactly one and is answered by a head."""
        return None

    @abstractmethod
    def answers(
        self, adapted: Adapted, prepared: PreparedTexts, *, batch: int = BATCH, workers: int = 0
    ) -> tuple[list[str], float | None]:
        """An answer for each text, and the mean loss (None without labels)."""

    @abstractmethod
    def ask(self, adapted: Adapted, prepared: PreparedTexts) -> Iterator[dict[str, Any]]:
        """For each text {"answer": ...}; with probabilities where there are classes."""

    def prepare(self, items: ImageTextDataset) -> PreparedTexts:
        """Texts with their images; ValueError for labelled images and captions, and for other numbers of images than are read."""
        if not isinstance(items, ImageTextDataset):
            raise UserError(f"this adapter answers texts about images, and {items.name} has labelled images")
        for example in items.examples:
            if not example.text:
                raise UserError(f"this adapter answers texts about images, and {example.source} has no text to answer")
            found = len(example.images)
            if found > 1 if self.images is None else found != self.images:
                reads = "at most one image" if self.images is None else f"{self.images} image(s)"
                raise UserError(f"{example.source} has {found} images, and the model reads {reads} with a text")
        return PreparedTexts(items, self)

    def score(self, adapted: Adapted, prepared: PreparedTexts, *, batch: int = BATCH, workers: int = 0) -> AnswerScores:
        """Accuracy of the answers, by group too; see `score_answers`."""
        answers, loss = self.answers(adapted, prepared, batch=batch, workers=workers)
        return score_answers(answers, prepared.texts, loss)

    def predict(self, adapted: Adapted, files: Sequence[str | Path], text: str) -> dict[str, Any]:
        """{"images", "text", "answer"} for one text about image files, with "probability" and "probabilities" of classes.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file cannot be read, or the model reads another number of images.
        """
        paths = tuple(map(Path, files))
        asked = Example(id="0", images=paths, text=text, source=f"the text {text!r}")
        prepared = self.prepare(ImageTextDataset(name="a text", classes=(), examples=(asked,)))
        found = next(iter(self.ask(adapted.eval(), prepared)))
        return {"images": [str(path) for path in paths], "text": text, **found}

    def asked(self, prepared: PreparedTexts) -> dict[str, Tensor]:
        """Texts and images."""
        return batches.on(torch.device("cpu"), prepared.questions([prepared[i] for i in range(len(prepared))]))

    def texts_alone(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Of a composed model: the texts' embeddings, which take a gradient, so that it passes through every block."""
        if self.images is not None:
            return None
        kept = {name: batch[name] for name in ("attention_mask", "labels")}
        return {"inputs_embeds": model.language.get_input_embeddings()(batch["input_ids"]).requires_grad_(), **kept}

    @property
    def together(self) -> int:
        """As many as the model reads with a text."""
        return self.images or 1

    def named(self, given: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        """The last one is the text."""
        return given[:-1], given[-1:]

    def replies(self, adapted: Adapted, files: Sequence[Path], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Answers to the text."""
        (text,) = texts
        return self.answer(adapted, files, text)

    def answer(self, adapted: Adapted, files: Sequence[str | Path], text: str) -> list[dict[str, Any]]:
        """`predict` for every image file, or for as many at a time as the model reads with a text; ValueError where they do not
        come out even."""
        each = self.together
        if len(files) % each or (not files and self.images is not None):
            raise UserError(f"the model reads {each} image(s) with a text, and there are {len(files)} image files")
        groups = [files[start : start + each] for start in range(0, len(files), each)] or [[]]
        return [self.predict(adapted, group, text) for group in groups]

    @staticmethod
    def table(scores: dict[str, Any]) -> str:
        """Accuracy, that of groups, and loss."""
        lines = [f"{'texts':<20}{scores['n']:>9,}", f"{scores['measure']:<20}{scores['accuracy']:>9.2%}"]
        lines += [f"  {name:<18}{value:>9.2%}" for name, value in scores["groups"].items()]
        return "\n".join([*lines, *([] if scores["loss"] is None else [f"{'loss':<20}{scores['loss']:>9.4f}"])])


def padded(rows: Sequence[Sequence[int]], value: int, side: str = "right") -> Tensor:
    """Rows of numbers as one tensor [B, n], filled up with `value`."""
    return pad_sequence([torch.tensor(row) for row in rows], True, value, side)


def padded_inputs(rows: Sequence[Sequence[int]], tokenizer: Any) -> dict[str, Tensor]:
    """Tokens of texts as one tensor [B, n], padded on the right, and their mask."""
    pad = tokenizer.pad_token_id
    return {
        "input_ids": padded(rows, 0 if pad is None else pad),
        "attention_mask": padded([[1] * len(row) for row in rows], 0),
    }


def begun(run: Run, texts: ImageTextDataset) -> dict[str, Any]:
    """What both tasks on texts take from a run: preprocessing, tokenizer, images to a text.

    Raises:
        ValueError: a text has no published answer.
    """
    from gossamer.runs.sets import preprocessing

    for example in texts.examples:
        if not example.references:
            raise UserError(f"{example.source} has no published answer, so it cannot be trained on")
    return {
        "preprocessing": preprocessing(run),
        "tokenizer_of": (run.model.name, run.model.revision),
        "images": None if run.model.vision else max(len(example.images) for example in texts.examples),
    }


def remembered(adapted: Adapted) -> dict[str, Any]:
    """What both tasks on texts read from an adapter's metadata."""
    tokenizer = recorded(adapted, "tokenizer")
    return {
        "preprocessing": preprocessing_of(adapted),
        "tokenizer_of": (tokenizer["name"], tokenizer["revision"]),
        "images": recorded(adapted, "images"),
    }
