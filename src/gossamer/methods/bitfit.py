"""BitFit: the biases of the backbone are trained.

E. Ben Zaken, S. Ravfogel, Y. Goldberg: BitFit: Simple Parameter-efficient Fine-tuning, arXiv 2106.10199.
"""

from dataclasses import dataclass

from torch import nn

from gossamer.anatomy import Anatomy
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, method, share


@method
@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """All bias vectors of the backbone are trained, those of its norms included; ViT-B/16 has 102,912 of them."""

    name = "bitfit"
    reads_blocks = False

    def attach(self, anatomy: Anatomy) -> Part:
        """Makes the biases trainable.

        Raises:
            ValueError: the backbone has no biases (T5 and LLaMA have none).
        """
        biases = _biases(anatomy)
        if not biases:
            raise UserError(
                f"{type(anatomy.model).__name__} has no bias vectors, so BitFit would train nothing but the head"
            )
        return share(anatomy, biases)

    def trained_parts(self, anatomy: Anatomy) -> list[nn.Module]:
        """The whole backbone."""
        return [anatomy.model]

    def parameters(self, anatomy: Anatomy) -> int:
        """The sum of the biases' lengths."""
        return sum(p.numel() for p in _biases(anatomy).values())


def _biases(anatomy: Anatomy) -> dict[str, nn.Parameter]:
    return {name: p for name, p in anatomy.backbone_parameters() if name.rpartition(".")[2] == "bias"}
