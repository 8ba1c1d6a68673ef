"""Bottleneck adapters: Houlsby, Pfeiffer, and the parallel ones (AdaptFormer, scaled parallel adapter).

N. Houlsby et al.: Parameter-Efficient Transfer Learning for NLP, arXiv 1902.00751. J. Pfeiffer et al.: AdapterFusion, arXiv
2005.00247. S. Chen et al.: AdaptFormer, arXiv 2205.13535. J. He et al.: Towards a Unified View, arXiv 2110.04366.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gossamer.anatomy import Anatomy, Branch
from gossamer.anatomy.block import Block
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method
from gossamer.methods.parts import bottleneck
from gossamer.methods.parts.bottleneck import ACTIVATIONS, Bottleneck

# placement -> (branches, what the bottleneck reads)
PLACEMENTS: dict[str, tuple[tuple[Branch, ...], Literal["output", "input", "stream"]]] = {
    "houlsby": (("attention", "cross", "ffn"), "output"),
    "pfeiffer": (("ffn",), "output"),
    "parallel": (("ffn",), "stream"),
    "parallel-normed": (("ffn",), "input"),
    "parallel-attention": (("attention", "cross"), "input"),
}


@method
@dataclass(frozen=True, kw_only=True)
class Adapter(Method):
    """A bottleneck of two Linears at each block; an identity at the start, because U and both biases are zero.

    Args:
        rank: r, width of the bottleneck. 64 is AdaptFormer's.
        placement: "houlsby": behind attention, cross-attention where a block has one, and FFN, x + A(x) of the branch output;
            "pfeiffer": behind the FFN only;
            "parallel": beside the FFN, reading the residual stream before its norm (AdaptFormer as its code has it);
            "parallel-normed": the same, reading the FFN's normalised input (AdaptFormer's equation);
            "parallel-attention": beside every attention, reading what its queries read (scaled PA of the APT comparison).
        scale: s in y + s A(x). AdaptFormer 0.1, scaled PA 4; sequential adapters 1.
        activation: "relu" (AdaptFormer, scaled PA), "gelu" or "silu".
        dropout: rate inside the bottleneck in training; AdaptFormer uses 0.1.
        norm: an own LayerNorm in front of the bottleneck (+2d parameters; scaled PA of the APT comparison has one).
        blocks: indices, None: all.
        stack: one, several, or "both" towers of a pair (CLIP); None: the model's main stack.
    """

    rank: int = 64
    placement: Literal["houlsby", "pfeiffer", "parallel", "parallel-normed", "parallel-attention"] = "pfeiffer"
    scale: float = 1.0
    activation: Literal["relu", "gelu", "silu"] = "relu"
    dropout: float = 0.0
    norm: bool = False
    blocks: tuple[int, ...] | None = None
    stack: str | tuple[str, ...] | None = None

    name = "adapter"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"rank must be at least 1, got {self.rank}")
        if self.placement not in PLACEMENTS:
            raise UserError(f"placement must be one of {', '.join(PLACEMENTS)}, got {self.placement!r}")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), got {self.dropout}")

    def attach(self, anatomy: Anatomy) -> Part:
        """Places bottlenecks; their tree is `<stack>.blocks.<i>.<branch>.{down,up,norm}`."""
        tree = Part()
        reads = PLACEMENTS[self.placement][1]
        for block in anatomy.blocks(self.stack, self.blocks):
            for branch in self._branches(block):
                part = self._part(block, reads)
                grow(tree, f"{block.key}.{branch}", part)
                anatomy.add(block, branch, part, normed=reads != "stream")
        return tree

    def _part(self, block: Block, reads: str) -> Bottleneck:
        return Bottleneck(
            block.sizes.width,
            self.rank,
            activation=self.activation,
            scale=self.scale,
            dropout=self.dropout,
            norm=self.norm,
            reads="output" if reads == "output" else "input",
            device=block.device,
        )

    def _branches(self, block: Block) -> list[Branch]:
        return [branch for branch in PLACEMENTS[self.placement][0] if branch != "cross" or block.cross]

    def _per_block(self, block: Block) -> int:
        return len(self._branches(block)) * bottleneck.parameters(block.sizes.width, self.rank, norm=self.norm)

    def parameters(self, anatomy: Anatomy) -> int:
        """2 d r + r + d for each bottleneck, + 2 d with its own norm."""
        return sum(self._per_block(b) for b in anatomy.blocks(self.stack, self.blocks))

    def finished_macs(self, plan: Plan) -> int:
        """2 d r for each bottleneck and token that it sees."""
        blocks = plan.anatomy.blocks(self.stack, self.blocks)
        return sum(2 * plan.seen(b, w) * b.sizes.width * self.rank for b in blocks for w in self._branches(b))
