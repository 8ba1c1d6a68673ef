"""Nothing is trained: what a model answers as it is, in the place of a method."""

from dataclasses import dataclass

from torch import nn

from gossamer.anatomy import Anatomy
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, method


@method
@dataclass(frozen=True, kw_only=True)
class Untrained(Method):
    """A model that answers by itself, as it is: a pair that classifies by words (zero-shot), a denoiser, one that writes."""

    name = "untrained"
    reads_blocks = False
    trains = False

    def attach(self, anatomy: Anatomy) -> Part:
        """Places nothing.

        Raises:
            UserError: there is a head, which every method trains.
        """
        if anatomy.heads:
            raise UserError(self._headed(f"{type(anatomy.model).__name__} has ({', '.join(anatomy.heads)})"))
        return Part()

    def head(self, anatomy: Anatomy, width: int, outputs: int) -> nn.Module:
        """UserError: one that is new has to be trained."""
        raise UserError(self._headed(f"num_labels={outputs} asks for"))

    def _headed(self, found: str) -> str:
        return (
            f"{self.name} trains nothing, and would train the head that {found}: take LinearProbe, which trains the head alone, "
            "or a model that answers without one (gossamer.ZeroShot, a denoiser, a language model)"
        )

    def parameters(self, anatomy: Anatomy) -> int:
        """0."""
        return 0
