"""EViT: the tokens that the class token attends to least become one, in a few blocks.

Y. Liang, C. Ge, Z. Tong, Y. Song, J. Wang, P. Xie: Not All Patches are What You Need: Expediting Vision Transformers via Token
Reorganizations, arXiv 2202.07800.

Attentiveness a_j = mean over heads of softmax(q_cls k_j). The ceil(kappa n) of the n patches with the largest stay, and the others
become one token behind them, sum a_j x_j.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Block
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method
from gossamer.methods.parts.merging import Attended, kept


@method
@dataclass(frozen=True, kw_only=True)
class EViT(Method):
    """Inattentive tokens become one (Liang et al., arXiv 2202.07800). Trains nothing; needs a class token.

    Args:
        keep: kappa, the share of patches that stay in each of `blocks`. 1: all.
        blocks: which (0 is the first). None: those at a quarter, half and three quarters of the depth, the published 3, 6, 9 of 12.
    """

    keep: float = 0.7
    blocks: tuple[int, ...] | None = None

    name = "evit"
    turn = 2

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise UserError(f"keep must be above 0 and at most 1, got {self.keep}")

    def targets(self, anatomy: Anatomy) -> list[Block]:
        """The blocks in which tokens become one.

        Raises:
            UserError: there is no class token, or queries and keys are normalised.
        """
        standing = anatomy.blocks()
        if self.blocks is None:
            depth = len(anatomy.stacks[anatomy.main])
            chosen = {depth * i // 4 for i in (1, 2, 3)}
            blocks = [block for block in standing if block.index in chosen]
        else:
            blocks = anatomy.blocks(None, self.blocks)
        able = anatomy.obstacle(standing[0], "shorten") is None  # else `shorten` says what is in its way
        if able and standing[0].prefix == 0:
            raise UserError(f"EViT asks what the class token attends to, and {type(anatomy.model).__name__} has none")
        if able and any(block.active("q_norm") is not None for block in blocks):
            raise UserError(
                "EViT reads queries and keys as they are projected, and this model normalises them behind that"
            )
        return blocks if self.keep < 1 else []

    def attach(self, anatomy: Anatomy) -> Part:
        """Places one part without weights in each block."""
        tree = Part()
        for block in self.targets(anatomy):
            part = Attended(self.keep)
            grow(tree, block.key, part)
            anatomy.shorten(block, part)
        return tree

    def parameters(self, anatomy: Anatomy) -> int:
        """0."""
        return 0

    def foresee(self, plan: Plan) -> None:
        """Blocks behind see fewer tokens."""
        for block in self.targets(plan.anatomy):
            plan.shorten(block, partial(_left, self.keep))

    def finished_macs(self, plan: Plan) -> int:
        """(n + p) h d_h a block: what the class token attends to, p prompts in their exact form included."""
        blocks = [b for b in self.targets(plan.anatomy) if plan.seen(b, "ffn") < plan.tokens(b)]
        return sum(plan.keys(b) * b.sizes.inner for b in blocks)


def _left(share: float, rows: int, protected: int) -> int:
    stay = kept(rows, protected, share)
    return rows if stay == rows - protected else protected + stay + 1
