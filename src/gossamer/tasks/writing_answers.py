"""Answers written by a language model that sees: LLaMA, T5 or BART composed with a vision tower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gossamer.data import Example, ImageTextDataset, Preprocessing
from gossamer.errors import UserError
from gossamer.runs.prepared import BATCH
from gossamer.runs.run import Run
from gossamer.tasks import texts as shared
from gossamer.tasks.recorded import recorded
from gossamer.tasks.texts import PreparedTexts, TextTask

if TYPE_CHECKING:
    from typing_extensions import Self

    from gossamer.adapting import Adapted

IGNORED = -100  # label of tokens that are not to be predicted


@dataclass(frozen=True)
class WritingAnswers(TextTask):
    """The answer as text behind a prompt; the loss is cross-entropy on the answer's tokens and the end token alone.

    `form` is causal for a model that goes on where the prompt ends, seq2seq for one that reads the prompt and writes elsewhere.
    """

    form: Literal["causal", "seq2seq"]
    prompt: str
    answer_tokens: int
    preprocessing: Preprocessing
    tokenizer_of: tuple[str, str | None]
    images: int | None

    name: ClassVar[str] = "answer-generation"
    reads: ClassVar[tuple[str, ...]] = shared.READS
    usual_prompt: ClassVar[str] = "Question: {text}\nAnswer:"

    @staticmethod
    def asked_for(run: Run) -> bool:
        """Whether a run's answers are written: if it says so, or if it says nothing and its language model writes."""
        from gossamer.zoo.composed import writes

        if run.texts.answers is not None or run.model.vision is None:
            return run.texts.answers == "text" and run.model.vision is not None
        return writes(run.model.name, run.model.revision) is not None

    @classmethod
    def begin(cls, run: Run, train: ImageTextDataset) -> Self:
        """With the run's prompt, or the usual one."""
        from gossamer.zoo.composed import WRITERS, writes

        form = writes(run.model.name, run.model.revision)
        if form is None:
            raise UserError(
                f"{run.model.name} was not published as a model that writes (its class ends in neither "
                f"{' nor '.join(WRITERS)}); choose another model.name, or for questions texts.answers=classes"
            )
        prompt = cls.usual_prompt if run.texts.prompt is None else run.texts.prompt
        cls.check_prompt(prompt)
        return cls(form, prompt, run.texts.answer_tokens, **shared.begun(run, train))

    @classmethod
    def check_prompt(cls, prompt: str) -> None:
        """ValueError for a prompt without a place for the text."""
        if "{text}" not in prompt:
            raise UserError(f"texts.prompt must hold {{text}}, where the text goes; got {prompt!r}")

    @classmethod
    def of(cls, adapted: Adapted) -> Self:
        """From the adapter's metadata."""
        own = {name: recorded(adapted, name) for name in ("form", "prompt", "answer_tokens")}
        return cls(**own, **shared.remembered(adapted))

    def record(self) -> dict[str, Any]:
        """Preprocessing, prompt, and how texts are read."""
        name, revision = self.tokenizer_of
        return {
            "form": self.form,
            "prompt": self.prompt,
            "answer_tokens": self.answer_tokens,
            "preprocessing": self.preprocessing.to_dict(),
            "tokenizer": {"name": name, "revision": revision},
            "images": self.images,
        }

    @property
    def outputs(self) -> None:
        """None: the language model has its own output layer."""
        return

    def backbone(self, run: Run) -> nn.Module:
        """Language model and vision tower."""
        from gossamer.zoo.composed import compose

        model = run.model
        assert model.vision is not None, "only a composed model writes"
        revisions = {"revision": model.revision, "vision_revision": model.vision_revision}
        return compose(model.name, model.vision, writing=True, **revisions)

    @property
    def pad(self) -> int:
        """The padding token; the end token for a tokenizer without one."""
        tokenizer = self.tokenizer
        return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def tokenized(self, texts: ImageTextDataset) -> list[dict[str, list[int]]]:
        """Prompts, and the answers where they are known."""
        prompts = [self.prompt.replace("{text}", example.text) for example in texts.examples]
        asked = self.tokenizer(prompts)["input_ids"]
        if not all(example.references for example in texts.examples):
            return [{"prompt": ids} for ids in asked]
        return [
            {"prompt": ids, "answer": self._answer(prompt, ids, example)}
            for prompt, ids, example in zip(prompts, asked, texts.examples, strict=True)
        ]

    def _answer(self, prompt: str, ids: list[int], example: Example) -> list[int]:
        """Tokens of what most people answered (the first of equals), and the end token."""
        answer = Counter(example.references).most_common(1)[0][0]
        if self.form == "seq2seq":
            return self.tokenizer(text_target=answer)["input_ids"]
        whole = self.tokenizer(f"{prompt} {answer}")["input_ids"]
        if whole[: len(ids)] != ids or len(whole) == len(ids):
            raise UserError(
                f"the tokens of texts.prompt change when an answer follows ({example.source}), so the model could not be asked as "
                f"it was trained: let the prompt end in a character such as ':'; it is {self.prompt!r}"
            )
        return [*whole[len(ids) :], self.tokenizer.eos_token_id]

    def padded(self, items: Sequence[dict[str, Any]], *, answering: bool = False) -> dict[str, Tensor]:
        """Prompts with answers for training, prompts alone for answering; these end together where writing goes on."""
        goes_on = self.form == "causal"
        rows = [item["prompt"] + (item["answer"] if goes_on and not answering else []) for item in items]
        side = "left" if goes_on and answering else "right"
        return {
            "input_ids": shared.padded(rows, self.pad, side),
            "attention_mask": shared.padded([[1] * len(row) for row in rows], 0, side),
        }

    def targets(self, items: Sequence[dict[str, Any]]) -> Tensor:
        """Tokens of the answers; nothing is asked for at prompts and padding."""
        before = [len(item["prompt"]) if self.form == "causal" else 0 for item in items]
        return shared.padded([[IGNORED] * n + item["answer"] for n, item in zip(before, items, strict=True)], IGNORED)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The language model's own: the mean over the batch's answer tokens."""
        return model(**batch).loss

    @torch.no_grad()
    def answers(
        self, adapted: Adapted, prepared: PreparedTexts, *, batch: int = BATCH, workers: int = 0
    ) -> tuple[list[str], float | None]:
        """Answers written greedily, and the mean loss of an answer token."""
        adapted.eval()
        prepared.settle(adapted)
        found = [record["answer"] for record in self.ask(adapted, prepared, batch=batch, workers=workers)]
        if "answer" not in prepared.tokens[0]:
            return found, None
        return found, self.token_loss(adapted, prepared, batch=batch, workers=workers)

    @torch.no_grad()
    def token_loss(self, adapted: Adapted, prepared: PreparedTexts, *, batch: int = BATCH, workers: int = 0) -> float:
        """Mean cross-entropy of a token of the right answers."""
        total, counted = 0.0, 0
        for given in prepared.batches(adapted, answering=False, batch=batch, workers=workers):
            asked = given["labels"] if self.form == "seq2seq" else given["labels"][:, 1:]
            tokens = int((asked != IGNORED).sum())
            total, counted = total + tokens * float(adapted(**given).loss), counted + tokens
        return total / counted

    @torch.no_grad()
    def ask(
        self,
        adapted: Adapted,
        prepared: PreparedTexts,
        *,
        places: Sequence[int] | None = None,
        batch: int = BATCH,
        workers: int = 0,
    ) -> Iterator[dict[str, Any]]:
        """Answers written greedily, to all texts or to those at `places`."""
        for given in prepared.batches(adapted, answering=True, places=places, batch=batch, workers=workers):
            written = self.write(adapted, given, most=self.answer_tokens)
            start = given["input_ids"].shape[1] if self.form == "causal" else 0
            for answer in self.tokenizer.batch_decode(written[:, start:], skip_special_tokens=True):
                yield {"answer": answer.strip()}

    def write(self, model: Any, inputs: dict[str, Tensor], *, most: int, least: int = 0) -> Tensor:
        """Tokens [B, ...] written greedily, `least` to `most` of them, behind those of the prompt where writing goes on."""
        options = {"do_sample": False, "num_beams": 1, "pad_token_id": self.pad}
        options["eos_token_id"] = self.tokenizer.eos_token_id
        return model.generate(**inputs, max_new_tokens=most, min_new_tokens=least, **options)

    def timed(self, model: Any, inputs: dict[str, Tensor]) -> dict[str, Callable[[], Any]]:
        """Up to the first token ("latency"), and an answer of `answer_tokens` tokens ("answer")."""
        n = self.answer_tokens
        return {
            "latency": lambda: self.write(model, inputs, most=1, least=1),
            "answer": lambda: self.write(model, inputs, most=n, least=n),
        }
