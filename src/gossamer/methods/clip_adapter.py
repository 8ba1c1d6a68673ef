"""CLIP-Adapter: two small layers on the image vector.

P. Gao, S. Geng, R. Zhang, T. Ma, R. Fang, Y. Zhang, H. Li, Y. Qiao: CLIP-Adapter: Better Vision-Language Models with Feature
Adapters, arXiv 2110.04544. The visual form, as their code has it.

    u' = ratio ReLU(W_2 ReLU(W_1 u)) + (1 - ratio) u          W_1 [e / 4, e], W_2 [e, e / 4], no bias
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy import Anatomy
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, method
from gossamer.methods.parts.words import COMPARE, vector_width, worded


def mixed(u: Tensor, down: Tensor, up: Tensor, ratio: float) -> Tensor:
    """u' of image vectors [B, e], not normalised."""
    return ratio * F.relu(F.linear(F.relu(F.linear(u, down)), up)) + (1 - ratio) * u


@method
@dataclass(frozen=True, kw_only=True)
class ClipAdapter(Method):
    """Two small layers on the image vector of a pair that classifies by words (Gao et al., arXiv 2110.04544).

    Args:
        ratio: share of what they give. The authors' code: 0.2.
        reduction: e is that many times their width. The authors': 4.
    """

    ratio: float = 0.2
    reduction: int = 4

    name = "clip_adapter"
    reads_blocks = False

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise UserError(f"ratio must be 0 to 1, got {self.ratio}")
        if self.reduction < 1:
            raise UserError(f"reduction must be 1 or more, got {self.reduction}")

    def attach(self, anatomy: Anatomy) -> Part:
        """Stands before the comparison; its tree is `down`, `up`."""
        model = worded(anatomy, self.name)
        part = Mixing(vector_width(model), self, model.get_submodule(COMPARE))
        part.to(next(model.parameters()).device)
        anatomy.swap(COMPARE, part)
        return part

    def parameters(self, anatomy: Anatomy) -> int:
        """2 e (e / reduction)."""
        e = vector_width(worded(anatomy, self.name))
        return 2 * e * (e // self.reduction)


class Mixing(Part):
    """Owner of W_1 and W_2, before a comparison that is somebody else's."""

    before: nn.Module

    def __init__(self, width: int, config: ClipAdapter, before: nn.Module):
        super().__init__()
        inner = width // config.reduction
        self.down = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(inner, width, bias=False)
        self.ratio = config.ratio
        self.borrow(before=before)

    def forward(self, u: Tensor, h: Tensor, scale: Tensor) -> Tensor:
        """Image vectors [B, e] and class vectors [C, e] -> logits [B, C]."""
        return self.before(mixed(u, self.down.weight, self.up.weight, self.ratio), h, scale)
