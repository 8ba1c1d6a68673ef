"""Linear probe: only the head is trained."""

from dataclasses import dataclass

from gossamer.anatomy import Anatomy
from gossamer.anatomy.seams import Part
from gossamer.methods.base import Method, method


@method
@dataclass(frozen=True, kw_only=True)
class LinearProbe(Method):
    """Nothing but the head is trained; the backbone is a fixed feature extractor, in evaluation mode."""

    name = "linear_probe"
    reads_blocks = False

    def attach(self, anatomy: Anatomy) -> Part:
        """Places nothing."""
        return Part()

    def parameters(self, anatomy: Anatomy) -> int:
        """0: the head is counted apart."""
        return 0
