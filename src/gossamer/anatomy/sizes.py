"""How large a block is: widths of its parts, what it costs by them, and the tokens that its stream and its attention have."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from gossamer.errors import UserError


class Sizes(NamedTuple):
    """Widths of one block: residual stream, attention (queries; keys and values), FFN and number of FFN matrices.

    `cross_inner` is that of its cross-attention, `context` that of the states which that reads; 0 where there is none. Of an FFN
    of routed experts nothing is said: 0 and 0.
    """

    width: int
    inner: int
    inner_kv: int
    ffn: int
    ffn_matrices: int
    cross_inner: int = 0
    context: int = 0

    def read(self, branch: str) -> int:
        """Width of the states that the keys and values of a branch are made of."""
        return self.context if branch == "cross" else self.width

    def macs(self, tokens: int, context: int = 0, *, windows: int = 1, window: int | None = None) -> int:
        """Multiply-adds of the block's Linears and attention products for `tokens` tokens of one sample.

        `context` counts the encoder's states that cross-attention reads, where the block has one. Attention is in `windows` windows
        of `window` tokens each (None: all).
        """
        attention = self.branch_macs("attention", tokens, windows=windows, window=window)
        return attention + self.branch_macs("cross", tokens, context) + self.ffn_macs(tokens)

    def ffn_macs(self, tokens: int) -> int:
        """Those of its FFN alone.

        Raises:
            UserError: it is of experts.
        """
        if self.ffn_matrices == 0:
            raise UserError(
                "there is no closed form of what an FFN of experts multiplies: let it be counted, as cost sheets do"
            )
        return tokens * self.ffn_matrices * self.width * self.ffn

    def branch_macs(
        self, branch: str, tokens: int, context: int = 0, *, windows: int = 1, window: int | None = None
    ) -> int:
        """Those of its "attention" or its "cross"-attention alone."""
        if branch == "cross":
            own, read = tokens * self.width, context * self.context
            return 2 * (own + read) * self.cross_inner + 2 * tokens * context * self.cross_inner
        window = tokens if window is None else window
        return windows * window * (2 * self.width * (self.inner + self.inner_kv) + 2 * window * self.inner)


class Hollow(nn.Module):
    """What is left in a block whose weights are gone, because something else stands in its place: what they were."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes


def hollowed(block: nn.Module) -> Hollow | None:
    """What was left in a block; None where its weights are there."""
    return next((child for child in block.children() if isinstance(child, Hollow)), None)


class Extent(NamedTuple):
    """Tokens of one sample in a block: in its stream, and windows of attention with the tokens of each, padding included."""

    tokens: int
    windows: int
    window: int

    @property
    def attending(self) -> int:
        """Tokens that the attention's Linears see."""
        return self.windows * self.window
