"""Full fine-tuning: everything is trained."""

from dataclasses import dataclass

from torch import nn

from gossamer.anatomy import Anatomy
from gossamer.anatomy.projection import quantised
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, method, share


@method
@dataclass(frozen=True, kw_only=True)
class FullFineTuning(Method):
    """Every parameter of the backbone is trained, its dropout is on in training, and all of it is saved."""

    name = "full"
    reads_blocks = False
    learning_rate = 1e-4

    def attach(self, anatomy: Anatomy) -> Part:
        """Makes every parameter of the backbone trainable."""
        if (name := next((n for n, m in anatomy.model.named_modules() if quantised(m)), None)) is not None:
            raise UserError(
                f"full fine-tuning changes every weight, and that of {name} is quantised; load the model in floating point, or use "
                "a method that leaves weights as they are, such as LoRA or VPT"
            )
        return share(anatomy, dict(anatomy.backbone_parameters()))

    def trained_parts(self, anatomy: Anatomy) -> list[nn.Module]:
        """The whole backbone."""
        return [anatomy.model]

    def parameters(self, anatomy: Anatomy) -> int:
        """All of the backbone's; parameters tied to each other count once."""
        return sum(p.numel() for p in {id(p): p for _, p in anatomy.backbone_parameters()}.values())
