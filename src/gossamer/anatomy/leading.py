"""Tokens in front of a sequence: like inserted ones, but with positions of their own, and hidden where a sample has none.

Inserted tokens (`inserted.Inserted`) have no position. These have the positions -p .. -1, in rotary tables and relative biases, so
that text keeps 0, 1, 2, ... whatever stands in front of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gossamer.anatomy import call as calls
from gossamer.anatomy.call import Call
from gossamer.anatomy.inserted import Inserted, WidenedBlock, widen_mask
from gossamer.anatomy.seams import Part
from gossamer.anatomy.session import Session

if TYPE_CHECKING:
    from gossamer.anatomy.block import Block


class Lead(Part):
    """Owner of tokens that lead a sequence."""

    def forward(self, x: Tensor, side: Tensor | None) -> Tensor:
        """States x [B, N, d] and, in decoders, the encoder's states [B, n, d] -> tokens [B, p, d]."""
        raise NotImplementedError

    def visible(self, batch: int) -> Tensor | None:
        """Which tokens [batch, p or 1] may be seen (True), the last of each row; None: all."""
        return None


class Leading(Inserted):
    """A `Lead` enters before the first block of a span and leaves after its last.

    Args:
        owner: runs the stack.
        span: from the block before which the tokens enter to the last.
        part: gives the tokens.
        both_ways: in causal stacks: the tokens also see what stands behind them.
    """

    part: Lead

    def __init__(self, owner: nn.Module, span: list[Block], part: Lead, session: Session, *, both_ways: bool):
        super().__init__(span, part, session)
        stack = span[0].stack
        blocks = owner.get_submodule(stack.paths[0])
        self.first_attention: Any = (
            blocks.get_submodule(f"0.{span[0].attention.module}") if stack.relative_bias else None
        )
        self.both_ways = both_ways

    def widened(self, block: Block, *, enters: bool, leaves: bool) -> WidenedBlock:
        """What hooks onto one block of the span."""
        return LedBlock(self, block, enters=enters, leaves=leaves)


class LedBlock(WidenedBlock):
    """One block of such a span."""

    inserted: Leading

    def tokens(self, x: Tensor, call: Call) -> Tensor:
        """The tokens [B, p, d]."""
        return self.inserted.part(x, call.context)

    def key(self, what: str) -> tuple[Any, ...]:
        """Which of them may be seen differs by who gives them."""
        return *super().key(what), self.inserted

    def mask(self, mask: Tensor | None, x: Tensor, past: int, length: int) -> Tensor | None:
        """The widened mask, tokens hidden from all but themselves where they may not be seen."""
        p, causal = self.count, self.causal and not self.inserted.both_ways
        if p == 0:
            return mask
        visible = self.inserted.part.visible(x.shape[0])
        if mask is None and visible is None and causal == self.causal:
            return None
        if mask is None:
            mask = open_mask(x, past, length, causal=self.causal)
        mask = widen_mask(mask, self.at, p, causal=causal, rows=self.present)
        return mask if visible is None else hide(mask, visible, self.at, p, rows=self.present)

    def bias(self, bias: Tensor, length: int, past: int) -> Tensor:
        """The relative bias as the first block computes it for a sequence that begins p tokens earlier."""
        p, attention = self.count, self.inserted.first_attention
        if p == 0:
            return bias
        assert attention is not None, "a stack with a relative bias has a block that computes it"
        queries, before = (length + p, past) if self.present else (length, past + p)
        return calls.relative_bias(attention, queries, p + past + length, before)

    def rotation(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """The rotary tables with rows for the positions -p .. -1 in front."""
        if self.patch_rotary:
            return super().rotation(cos, sin)
        if self.count == 0:
            return cos, sin
        positions = torch.arange(-self.count, 0, device=cos.device)[None]
        own = [t.expand(len(cos), -1, -1) for t in self.block.tables(cos, positions)]
        return torch.cat([own[0], cos], dim=-2), torch.cat([own[1], sin], dim=-2)


def open_mask(x: Tensor, past: int, length: int, *, causal: bool) -> Tensor:
    """The additive mask [B, 1, N or 1, past + N] of a sequence without padding, which models leave out."""
    if not causal:
        return x.new_zeros(x.shape[0], 1, 1, past + length)
    later = torch.ones(length, past + length, dtype=torch.bool, device=x.device).triu(past + 1)
    return x.new_zeros(later.shape).masked_fill(later, torch.finfo(x.dtype).min).expand(x.shape[0], 1, -1, -1)


def hide(mask: Tensor, visible: Tensor, at: int, p: int, *, rows: bool) -> Tensor:
    """A mask [B or 1, 1, N or 1, M] that also hides those of the p tokens at `at` that are not visible [B, p or 1].

    A token goes on seeing itself, where the tokens ask (`rows`).
    """
    hidden = (~visible)[:, None, None].expand(-1, -1, mask.shape[-2], -1)
    if rows and mask.shape[-2] > 1:
        itself = torch.zeros(mask.shape[-2], p, dtype=torch.bool, device=mask.device)
        itself[at : at + p] = torch.eye(p, dtype=torch.bool, device=mask.device)
        hidden = hidden & ~itself
    mask = mask.expand(len(visible), -1, -1, -1)
    own = mask[..., at : at + p]
    own = own & ~hidden if mask.dtype == torch.bool else own.masked_fill(hidden, torch.finfo(mask.dtype).min)
    return torch.cat([mask[..., :at], own, mask[..., at + p :]], dim=-1)
