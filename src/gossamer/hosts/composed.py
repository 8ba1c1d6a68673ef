"""Pre-trained models in one: called like a model of transformers, identified by what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from gossamer.anatomy import Anatomy
from gossamer.hosts.hugging_face import HuggingFace


class Halves(nn.Module):
    """What a composed model inherits from, in order to be known as one. It is made of its halves, and `fields`, by name."""

    halves: ClassVar[tuple[str, ...]]
    fields: ClassVar[dict[str, type]] = {}

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The halves by name; an adapter refers to each."""
        raise NotImplementedError(f"{type(self).__name__} must say what its halves are")

    def said(self) -> dict[str, Any]:
        """The fields that it takes beside the halves to make it again, as JSON. Default: none."""
        return {}

    def apart(self, said: Mapping[str, Any]) -> list[str]:
        """What of its fields, as a folder says them, makes it another model than this one, a sentence each. Default: nothing."""
        return []

    @property
    def names_outputs(self) -> bool:
        """Whether it answers with named outputs unless told otherwise. Default: yes."""
        return True

    def classifies(self, num_labels: int) -> bool:
        """Whether it gives so many logits by itself and needs no head; UserError where it gives others. Default: it needs one."""
        return False

    def own_heads(self) -> dict[str, nn.Module]:
        """Task heads that it brings, by name. Default: none."""
        return {}

    def once(self) -> tuple[list[nn.Module], dict[str, Any]]:
        """Modules that are computed once for all samples, and inputs that stand for what they give. Default: none."""
        return [], {}

    def own_macs(self, image: tuple[int, int] | None) -> int:
        """Multiply-adds of what it adds to its halves, for one image of (height, width), when deployed, by closed formula."""
        return 0

    def finish(self) -> None:
        """Lets go of what a finished model does not need. Default: nothing."""


class Composed(HuggingFace):
    """A model of one or two others, each with weights, a name and an identity of its own."""

    kind = "composed models"

    def knows(self, model: nn.Module) -> bool:
        """Whether it is `Halves`."""
        return isinstance(model, Halves)

    def options(self, model: Any) -> dict[str, Any]:
        """What it is made of beside its halves: each of them has its own."""
        return model.said()

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """The halves."""
        return model.parts

    def names_outputs(self, model: Any) -> bool:
        """As it says."""
        return model.names_outputs

    def finish(self, model: Any) -> None:
        """As it knows."""
        model.finish()

    def place_head(
        self, anatomy: Anatomy, num_labels: int, make: Callable[[int, int], nn.Module] = nn.Linear
    ) -> nn.Module | None:
        """As of other models; none where it classifies by itself."""
        model: Any = anatomy.model
        return None if model.classifies(num_labels) else super().place_head(anatomy, num_labels, make)

    def heads(self, model: Any, anatomy: Anatomy) -> dict[str, nn.Module]:
        """Those that it brings beside its halves, which have none."""
        found: Any = model
        return found.own_heads()

    def unclaimed(self, model: Any) -> list[str]:
        """None: there is nothing but the halves."""
        return []
