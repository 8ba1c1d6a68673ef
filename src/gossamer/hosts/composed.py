"""Two pre-trained models as one: called like a model of transformers, identified by its halves."""

from __future__ import annotations

from typing import Any

from torch import nn

from gossamer.anatomy import Anatomy
from gossamer.hosts.hugging_face import HuggingFace


class Halves(nn.Module):
    """What a composed model inherits from, in order to be known as one."""

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The halves by name; an adapter refers to each."""
        raise NotImplementedError(f"{type(self).__name__} must say what its halves are")


class Composed(HuggingFace):
    """A model of two halves, each with weights, a name and an identity of its own."""

    kind = "composed models"

    def knows(self, model: nn.Module) -> bool:
        """Whether it is `Halves`."""
        return isinstance(model, Halves)

    def options(self, model: Any) -> dict[str, Any]:
        """Nothing: each half has its own."""
        return {}

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """The halves."""
        return model.parts

    def names_outputs(self, model: Any) -> bool:
        """As the language model's configuration says, whose outputs they are."""
        return bool(model.language.config.return_dict)

    def heads(self, model: Any, anatomy: Anatomy) -> dict[str, nn.Module]:
        """None: the halves have none."""
        return {}

    def unclaimed(self, model: Any) -> list[str]:
        """None: there is nothing but the halves."""
        return []
