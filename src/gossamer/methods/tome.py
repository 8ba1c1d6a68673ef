"""ToMe: token merging. In every block the most alike tokens become one, so that later blocks have fewer of them.

D. Bolya, C.-Y. Fu, X. Dai, P. Zhang, C. Feichtenhofer, J. Hoffman: Token Merging: Your ViT But Faster, arXiv 2210.09461.

Between attention and FFN tokens 0, 2, 4, ... are compared with tokens 1, 3, 5, ... by the mean of their keys over heads, and the
r pairs with the largest cosine become one token each, weighted by how many tokens each stands for already.
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
from gossamer.methods.parts.merging import Pairs, merged


@method
@dataclass(frozen=True, kw_only=True)
class ToMe(Method):
    """Alike tokens become one (Bolya et al., arXiv 2210.09461). Trains nothing; in training steps are cheaper too.

    Args:
        r: pairs that become one in each block, or one number for each of `blocks`. Fewer where fewer than 2 r tokens are left that
            are no class tokens, registers or prompts, which are never merged. 0: nothing.
        proportional: in attention a key counts as often as it stands for tokens. False: as once, which leaves fused kernels their
            fast way and costs accuracy where much is merged.
        blocks: which (0 is the first). None: all that stand.
    """

    r: int | tuple[int, ...] = 8
    proportional: bool = True
    blocks: tuple[int, ...] | None = None

    name = "tome"
    turn = 2

    def __post_init__(self) -> None:
        numbers = (self.r,) if isinstance(self.r, int) else self.r
        if min(numbers, default=0) < 0:
            raise UserError(f"r must not be negative, got {self.r}")

    def counts(self, anatomy: Anatomy) -> list[tuple[Block, int]]:
        """The blocks in which tokens become one, and how many pairs.

        Raises:
            UserError: there are more or fewer blocks than numbers.
        """
        blocks = anatomy.blocks(None, self.blocks)
        numbers = (self.r,) * len(blocks) if isinstance(self.r, int) else self.r
        if len(numbers) != len(blocks):
            raise UserError(f"r={self.r} has {len(numbers)} numbers for {len(blocks)} blocks")
        return [(block, count) for block, count in zip(blocks, numbers, strict=True) if count]

    def attach(self, anatomy: Anatomy) -> Part:
        """Places one part without weights in each block."""
        tree = Part()
        for block, count in self.counts(anatomy):
            part = Pairs(count, self.proportional)
            grow(tree, block.key, part)
            anatomy.shorten(block, part)
        return tree

    def parameters(self, anatomy: Anatomy) -> int:
        """0."""
        return 0

    def foresee(self, plan: Plan) -> None:
        """Blocks behind see fewer tokens."""
        for block, count in self.counts(plan.anatomy):
            plan.shorten(block, partial(_left, count))

    def finished_macs(self, plan: Plan) -> int:
        """ceil(n / 2) floor(n / 2) d_h a block: the cosines."""
        total = 0
        for block, _ in self.counts(plan.anatomy):
            n = plan.tokens(block)
            if plan.seen(block, "ffn") < n:
                total += -(-n // 2) * (n // 2) * block.head_width
        return total


def _left(count: int, rows: int, protected: int) -> int:
    return rows - merged(rows, protected, count)
