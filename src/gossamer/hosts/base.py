"""What is asked of every kind of host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutput

from gossamer.anatomy import Anatomy
from gossamer.anatomy.session import Session
from gossamer.anatomy.stack import Modality, Stack
from gossamer.errors import UserError, WrongKind
from gossamer.hosts import heads


class ReadOut(NamedTuple):
    """Where a head that is built reads: the stack, whether the model has an encoder beside it, and what knows of each pass."""

    stack: Stack
    two_sided: bool
    session: Session

    def answer(self, logits: Tensor, labels: Tensor | None = None) -> Any:
        """Logits as the output of a classifier of transformers, with `loss` where labels are given."""
        kind = ImageClassifierOutput if self.stack.modality == "vision" else SequenceClassifierOutput
        return kind(loss=None if labels is None else heads.loss(logits, labels), logits=logits)  # type: ignore[arg-type]


class Latent(NamedTuple):
    """What a denoiser reads of one sample: a noised map of the size that it was made for, and states of a text."""

    channels: int
    side: tuple[int, int] | None  # height and width of the map; None: it does not say
    text_width: int | None  # of each token; None: it reads no text


def unread(modality: Modality) -> Stack:
    """What is known of the states of a model that no family describes: what they stand for; a head reads their mean."""
    name = "vision" if modality == "vision" else "text"
    return Stack(
        name=name, owners=(), blocks="", attention=(), ffn=(), patch_convolution=(), final_norm=(), modality=modality,
        readout="mean",
    )  # fmt: skip


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

    def inner(self, model: Any) -> nn.Module:
        """The pre-trained model that reads the inputs: the model, or the one inside a module of the user's."""
        return model

    def check_called(self, model: Any) -> None:  # noqa: B027 most models have no way of running without their parts
        """Nothing, where the modules that methods are placed at are called when the model runs.

        Raises:
            UserError: a switch of the library lets the model run past them.
        """

    # ---- inputs and outputs ----

    def read_out(self, anatomy: Anatomy) -> ReadOut:
        """Where a head that is built reads: the last states of the family's, or what the model gives that no family knows."""
        stack = anatomy.readout if anatomy.stacks else unread(self.modality(anatomy.model))
        return ReadOut(stack, "encoder" in anatomy.stacks, anatomy.session)

    @abstractmethod
    def modality(self, model: Any) -> Modality:
        """What a model reads."""

    def latent(self, model: Any) -> Latent | None:
        """What a model reads, where it is noised maps that it reads; None: other inputs. Default: others."""
        return None

    def denoising(self, model: Any, batch: int, side: tuple[int, int], text: int | None) -> dict[str, Any]:
        """Inputs of a denoiser, zeros on its device: maps of height and width `side`, a text of so many tokens.

        Raises:
            TypeError: the model is no denoiser.
        """
        raise WrongKind(f"{type(model).__name__} reads no noised maps")

    def check_readable(self, model: Any, readout: ReadOut) -> None:  # noqa: B027 what a model does not say shows when it runs
        """Nothing, where a head that is built could read what the model gives.

        Raises:
            TypeError: it could not; the message says what the model gives.
        """

    def wants_tuple(self, model: Any, inputs: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Whether a tuple is asked for in place of named outputs, as transformers asks (`return_dict`), and the other inputs."""
        asked = inputs.get("return_dict")
        named = self.names_outputs(model) if asked is None else bool(asked)
        return not named, {k: v for k, v in inputs.items() if k != "return_dict"}

    def names_outputs(self, model: Any) -> bool:
        """Whether the model itself answers with named outputs unless told otherwise."""
        return True

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

    def finish(self, model: Any) -> None:
        """Lets a model go of what it does not need once it is finished. Default: nothing."""
        return

    # ---- heads and labels ----

    @abstractmethod
    def heads(self, model: Any, anatomy: Anatomy) -> dict[str, nn.Module]:
        """Task heads that a model brings, by name; none for a bare backbone or a language model."""

    def unclaimed(self, model: Any) -> list[str]:
        """Modules with parameters of which nothing says whether they are pre-trained or a head. Default: none."""
        return []

    @abstractmethod
    def outputs(self, model: Any) -> int | None:
        """How many labels a model says that it has; None where it does not say."""

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
        """Gives a model a head with `num_labels` outputs: its own are resized in place, else make(width, outputs) is returned.

        Raises:
            ValueError: the model is a language model, whose output layer is no classifier, there would be no outputs, or of several
                heads none has as many as the model says.
        """
        model = anatomy.model
        if num_labels < 1:
            raise UserError(f"num_labels must be at least 1, got {num_labels}")
        if not anatomy.heads:
            return self._built(anatomy, num_labels, make)
        said, found = self.outputs(model), anatomy.heads
        sizes = {name: size for name, head in found.items() if (size := heads.outputs(head, said)) is not None}
        chosen = [n for n in sizes if len(set(sizes.values())) == 1 or sizes[n] == said]
        if not sizes:
            raise WrongKind(
                f"{', '.join(found)} of {type(model).__name__} has no layer that gives logits, so it cannot be resized"
            )
        if not chosen:
            raise UserError(
                f"num_labels={num_labels}: the heads of {type(model).__name__} give {_listed(sizes)} values and it says that it "
                f"has {said} labels, so which of them to resize is not known; resize them yourself, and leave num_labels out"
            )
        for name in chosen:
            if sizes[name] != num_labels:
                anatomy.swap(name, heads.resized(found[name], num_labels, said))
        anatomy.heads = {name: model.get_submodule(name) for name in found}
        self.tell_outputs(model, num_labels)
        return None

    def _built(self, anatomy: Anatomy, num_labels: int, make: Callable[[int, int], nn.Module]) -> nn.Module:
        model = anatomy.model
        if self.output_embeddings(model) is not None:
            raise UserError(
                f"{type(model).__name__} is a language model; num_labels={num_labels} asks for a classifier: "
                "load the bare encoder, or the ...ForSequenceClassification class"
            )
        readout = self.read_out(anatomy)
        if readout.stack.packed:
            raise WrongKind(
                f"{type(model).__name__} gives the patches of all images in one row, so there is no vector of each image that a "
                "head could read: adapt the vision-language model that it is a part of, or leave num_labels out"
            )
        self.check_readable(model, readout)
        first, stack = next(model.parameters()), readout.stack
        width = self.width(anatomy) * (stack.pooled if stack.readout == "pooled" else 1)
        return make(width, num_labels).to(device=first.device, dtype=first.dtype)

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


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size} ({name})" for name, size in sizes.items())
