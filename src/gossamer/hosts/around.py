"""A module of the user's around a pre-trained model: called as it is written; its head is what the user says it is."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy import Anatomy
from gossamer.anatomy.stack import Modality
from gossamer.errors import UserError, WrongKind
from gossamer.hosts.base import Host, ReadOut
from gossamer.hosts.diffusers import Diffusers
from gossamer.hosts.hugging_face import HuggingFace
from gossamer.hosts.timm import Timm
from gossamer.hosts.timm_wrapper import TimmWrapper

INSIDE: tuple[Host, ...] = (TimmWrapper(), Timm(), HuggingFace(), Diffusers())


class Around(Host):
    """Any module that holds one model of transformers or timm."""

    kind = "modules around one of these"

    def knows(self, model: nn.Module) -> bool:
        """Whether one is in it.

        Raises:
            TypeError: there are several.
        """
        found = _models(model)
        if len(found) > 1:
            raise WrongKind(
                f"{type(model).__name__} holds {len(found)} pre-trained models ({', '.join(found)}); adapt each of them by itself, "
                "or compose a vision tower and a language model with VisionLanguage"
            )
        return bool(found)

    def inner(self, model: Any) -> nn.Module:
        """The model in it."""
        return _of(model)[1]

    def check_called(self, model: Any) -> None:
        """Of the model in it."""
        host, inside = _of(model)
        host.check_called(inside)

    # ---- inputs and outputs ----

    def modality(self, model: Any) -> Modality:
        """That of the model in it."""
        host, inside = _of(model)
        return host.modality(inside)

    def run(self, model: Any, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Any:
        """Inputs by name, but images by position where the module has another name for them."""
        if "pixel_values" in inputs and "pixel_values" not in inspect.signature(model.forward).parameters:
            others = {name: value for name, value in inputs.items() if name != "pixel_values"}
            return model(*args, inputs["pixel_values"], **others)
        return model(*args, **inputs)

    def respond(
        self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any], labels: Tensor | None
    ) -> Any:
        """What the module gives. Of labels: its own loss, where it takes them, else ours of its logits."""
        if labels is None:
            return self.run(model, args, inputs)
        if "labels" in inspect.signature(model.forward).parameters:
            return self.run(model, args, {**inputs, "labels": labels})
        as_tuple, inputs = self.wants_tuple(model, inputs)
        output = self.run(model, args, inputs)
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if logits is None:
            raise WrongKind(
                f"{type(model).__name__} gives {type(output).__name__}, and labels are compared with a tensor of logits or with "
                "`.logits`: let it return one, or take `labels` and return a loss"
            )
        answer = readout.answer(logits, labels)
        return answer.to_tuple() if as_tuple else answer

    def features(self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Tensor:
        """Nothing: no head is built on it."""
        raise WrongKind(f"{type(model).__name__} is a module of your own: no head is built on it")

    def accepts_loss_kwargs(self, model: Any) -> bool:
        """Never: the loss is ours, or the module's own."""
        return False

    # ---- heads and labels ----

    def heads(self, model: Any, anatomy: Anatomy) -> dict[str, nn.Module]:
        """None that we could know of."""
        return {}

    def unclaimed(self, model: Any) -> list[str]:
        """Everything with parameters on the way to the model in it."""
        path, owner, found = next(iter(_models(model))), model, list[str]()
        for depth, step in enumerate(path.split(".")):
            above = ".".join([*path.split(".")[:depth], ""])
            children = [n for n, c in owner.named_children() if n != step and next(c.parameters(), None) is not None]
            found += [f"{above}{n}" for n in [*children, *(n for n, _ in owner.named_parameters(recurse=False))]]
            owner = owner.get_submodule(step)
        return found

    def check_readable(self, model: Any, readout: ReadOut) -> None:
        """No head is built on a module of the user's.

        Raises:
            ValueError: always.
        """
        raise UserError(
            f"num_labels asks for a head, and {type(model).__name__} is a module of your own, of which nobody knows where one "
            'would read: name its own head (head="fc"), or adapt the model in it'
        )

    def outputs(self, model: Any) -> int | None:
        """None: it does not say."""
        return None

    def output_embeddings(self, model: Any) -> nn.Module | None:
        """As the model in it says."""
        host, inside = _of(model)
        return host.output_embeddings(inside)

    def width(self, anatomy: Anatomy) -> int:
        """Not known."""
        raise WrongKind(f"{type(anatomy.model).__name__} does not say how wide its states are")

    def labels(self, model: Any) -> dict[str, Any]:
        """What the model in it says."""
        host, inside = _of(model)
        return host.labels(inside)

    def tell_labels(self, model: Any, said: Mapping[str, Any]) -> None:
        """The model in it."""
        host, inside = _of(model)
        host.tell_labels(inside, said)

    def tell_outputs(self, model: Any, num_labels: int) -> None:
        """Nobody: the head is not that of the model in it."""

    # ---- checkpointing ----

    def checkpoint(self, model: Any, kwargs: dict[str, Any] | None, **options: Any) -> None:
        """By the model in it."""
        host, inside = _of(model)
        host.checkpoint(inside, kwargs, **options)

    def keep_activations(self, model: Any) -> None:
        """By the model in it."""
        host, inside = _of(model)
        host.keep_activations(inside)

    # ---- where it came from ----

    def name(self, model: Any) -> str | None:
        """None: nobody but the user can make the module again."""
        return None

    def revision(self, model: Any) -> str | None:
        """None."""
        return None

    def options(self, model: Any) -> dict[str, Any]:
        """Those of the model in it."""
        host, inside = _of(model)
        return host.options(inside)

    def structure(self, model: Any, heads: Iterable[str]) -> dict[str, str]:
        """That of the model in it."""
        host, inside = _of(model)
        return host.structure(inside, ())

    def restoring(self, model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing: it has no name to be loaded by."""
        return {}


def _models(module: nn.Module, path: str = "") -> dict[str, nn.Module]:
    """The outermost models of transformers or timm inside of a module, by their paths."""
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        place = f"{path}.{name}" if path else name
        known = any(host.knows(child) for host in INSIDE)
        found |= {place: child} if known else _models(child, place)
    return found


def _of(model: nn.Module) -> tuple[Host, nn.Module]:
    """The model in a module, and its host."""
    inside = next(iter(_models(model).values()))
    return next(host for host in INSIDE if host.knows(inside)), inside
