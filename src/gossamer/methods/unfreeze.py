"""Parts of the backbone that are trained beside a method: poolers, type embeddings, norms."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import get, has
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, method, share


@method
@dataclass(frozen=True, kw_only=True)
class Unfreeze(Method):
    """These modules of the backbone are trained, from their pre-trained values, in evaluation mode like the rest of it.

    Args:
        modules: names of modules, from the one that owns the main stack: ("pooler", "embeddings.token_type_embeddings") in ViLT.
    """

    modules: tuple[str, ...]

    name = "unfreeze"

    def __post_init__(self) -> None:
        if not self.modules:
            raise UserError("modules=() would train nothing: name at least one")

    def _parameters(self, anatomy: Anatomy) -> dict[str, nn.Parameter]:
        owner, found = anatomy.owner(), {}
        names = {id(p): name for name, p in anatomy.model.named_parameters()}
        for path in self.modules:
            if not has(owner, path):
                known = ", ".join(name for name, _ in owner.named_children())
                raise UserError(
                    f"no module {path!r} in {type(owner).__name__}; it has {known}, and what is inside these"
                )
            found |= {names[id(p)]: p for p in get(owner, path).parameters()}
        return found

    def attach(self, anatomy: Anatomy) -> Part:
        """Makes the parameters trainable; their tree has the names of `gossamer.methods.base.share`.

        Raises:
            ValueError: there is no such module.
        """
        return share(anatomy, self._parameters(anatomy))

    def parameters(self, anatomy: Anatomy) -> int:
        """The modules' own numbers."""
        return sum(p.numel() for p in self._parameters(anatomy).values())
