"""What is asked of every kind of host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutput

from gossamer.anatomy import Anatomy
from gossamer.anatomy.session import Session
from gossamer.anatomy.stack import Stack
from gossamer.errors import UserError
from gossamer.hosts import heads


class ReadOut(NamedTuple):
    """Where a head that is built reads: the stack, whether the model has an encoder beside it, and what knows of each pass."""

    stack: Stack
    two_sided: bool
    session: Session

    @classmethod
    def of(cls, anatomy: Anatomy) -> ReadOut:
        """That of a model."""
        return cls(anatomy.readout, "encoder" in anatomy.stacks, anatomy.session)

    def answer(self, logits: Tensor, labels: Tensor | None = None) -> Any:
        """Logits as the output of a classifier of transformers, with `loss` where labels are given."""
        kind = ImageClassifierOutput if self.stack.modality == "vision" else SequenceClassifierOutput
        return kind(loss=None if labels is None else heads.loss(logits, labels), logits=logits)  # type: ignore[arg-type]


class Host(ABC):
    """One kind of models. Without state: every method is given the model."""

    kind: str
    """Its name for people."""

    @abstractmethod
    def knows(self, model: nn.Module) -> bool:
        """Whether a model is of this kind."""

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """The pre-trained models that a model consists of, by name: one, called "backbone", or the halves of a composed one."""
        return {"backbone": model}

    # ---- inputs and outputs ----

    @abstractmethod
    def run(self, model: Any, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Any:
        """What the model itself returns for inputs under the names that transformers uses."""

    @abstractmethod
    def respond(
        self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any], labels: Tensor | None
    ) -> Any:
        """What a model that brings its head, or has none, answers: with `loss` where labels are given."""

    @abstractmethod
    def features(self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Tensor:
        """What a head that is built reads for these inputs, [B, width]."""

    @abstractmethod
    def accepts_loss_kwargs(self, model: Any) -> bool:
        """Whether the loss of the model's own head averages over accumulated batches by itself."""

    # ---- heads and labels ----

    @abstractmethod
    def heads(self, model: Any, anatomy: Anatomy) -> dict[str, nn.Module]:
        """Task heads that a model brings, by name; none for a bare backbone or a language model."""

    @abstractmethod
    def output_embeddings(self, model: Any) -> nn.Module | None:
        """The output layer of a language model; None where the model is none."""

    @abstractmethod
    def width(self, anatomy: Anatomy) -> int:
        """Width of the states that a model gives, before any pooling."""

    @abstractmethod
    def labels(self, model: Any) -> dict[str, Any]:
        """What a model says about its labels, for `tell_labels`."""

    @abstractmethod
    def tell_labels(self, model: Any, said: Mapping[str, Any]) -> None:
        """Gives a model back what it said about its labels."""

    @abstractmethod
    def tell_outputs(self, model: Any, num_labels: int) -> None:
        """Tells a model how many outputs its head now has."""

    def tell_untied(self, model: Any) -> None:
        """Tells a finished model that weights which it shared are two by now. Default: it says nothing of that."""
        return

    def place_head(
        self, anatomy: Anatomy, num_labels: int, make: Callable[[int, int], nn.Module] = nn.Linear
    ) -> nn.Module | None:
        """Gives a model a head with `num_labels` outputs: its own is resized in place, else make(width, outputs) is returned.

        Raises:
            ValueError: the model is a language model, whose output layer is no classifier, or there would be no outputs.
        """
        model = anatomy.model
        if num_labels < 1:
            raise UserError(f"num_labels must be at least 1, got {num_labels}")
        if not anatomy.heads:
            if self.output_embeddings(model) is not None:
                raise UserError(
                    f"{type(model).__name__} is a language model; num_labels={num_labels} asks for a classifier: "
                    "load the bare encoder, or the ...ForSequenceClassification class"
                )
            first, stack = next(model.parameters()), anatomy.blocks()[-1].stack
            width = self.width(anatomy) * (stack.pooled if stack.readout == "pooled" else 1)
            return make(width, num_labels).to(device=first.device, dtype=first.dtype)
        for name, head in anatomy.heads.items():
            if heads.outputs(head) != num_labels:
                anatomy.swap(name, heads.resized(head, num_labels))
        anatomy.heads = {name: model.get_submodule(name) for name in anatomy.heads}
        self.tell_outputs(model, num_labels)
        return None

    # ---- checkpointing ----

    @abstractmethod
    def checkpoint(self, model: Any, kwargs: dict[str, Any] | None, **options: Any) -> None:
        """Blocks compute their activations again in the backward pass.

        Raises:
            ValueError: re-entrant checkpointing was asked for.
        """

    @abstractmethod
    def keep_activations(self, model: Any) -> None:
        """Blocks keep their activations again."""

    # ---- where it came from ----

    @abstractmethod
    def name(self, model: Any) -> str | None:
        """The name it was loaded by; None where there was none."""

    @abstractmethod
    def revision(self, model: Any) -> str | None:
        """The commit of the hub that it was loaded from; None where it is not known."""

    @abstractmethod
    def options(self, model: Any) -> dict[str, Any]:
        """What it takes, beside the name, to build the same model again, as JSON."""

    def structure(self, model: Any, heads: Iterable[str]) -> dict[str, str]:
        """Its modules without the heads, where the options do not say everything that changes its function. Default: they do."""
        return {}

    @abstractmethod
    def restoring(self, model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """What has to be said beside the name to get a model of these options, the name alone having given `model`.

        Raises:
            UserError: the options ask for what the published weights cannot be.
        """
