"""Nothing is trained: what a model answers as it is, in the place of a method."""

from dataclasses import dataclass

from gossamer.anatomy import Anatomy
from gossamer.anatomy.seams import Part
from gossamer.methods.base import Method, method
from gossamer.methods.parts.words import worded


@method
@dataclass(frozen=True, kw_only=True)
class Untrained(Method):
    """A pair that classifies by words as it is: zero-shot."""

    name = "untrained"
    reads_blocks = False
    trains = False

    def attach(self, anatomy: Anatomy) -> Part:
        """Places nothing."""
        worded(anatomy, self.name)
        return Part()

    def parameters(self, anatomy: Anatomy) -> int:
        """0."""
        return 0
