"""What MemVP and visual tokens take from a vision tower: its patch tokens."""

from __future__ import annotations

from torch import Tensor, nn

from gossamer.anatomy import Anatomy
from gossamer.anatomy.seams import Part


class Patches(Part):
    """The patch tokens of a vision tower, behind its last norm, without the class-like tokens in front."""

    model: nn.Module

    def __init__(self, anatomy: Anatomy):
        super().__init__()
        self.prefix, self.norm = anatomy.blocks("vision")[0].prefix, anatomy.around("vision").get("norm")
        self.borrow(
            model=anatomy.model
        )  # the tower's own norm is looked up at every use: a method may have wrapped it since

    def forward(self, states: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """States [I, N, d_v] behind a block, and which exist [I, N] -> the same of the patch tokens."""
        states = states[:, self.prefix :]
        mask = None if mask is None else mask[:, self.prefix :]
        return states if self.norm is None else self.model.get_submodule(self.norm)(states), mask
