"""The tokens that every block will have, foreseen: the model's own, those that methods let in, and what methods take away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from gossamer.anatomy.anatomy import Anatomy
from gossamer.anatomy.block import Block, Site


class Plan:
    """One sample's tokens in every block of a model. Methods write into it what they will do; closed forms of cost read it.

    Args:
        anatomy: of a model without changes.
        counts: the model's own tokens by stack, and rows of windowed ones ("vision.rows"; none: a square).
    """

    def __init__(self, anatomy: Anatomy, counts: Mapping[str, int]):
        self.anatomy, self.counts = anatomy, counts
        self._more: Counter[str] = Counter()  # rows let in, by block
        self._passing: Counter[str] = Counter()  # of these, such as were there in the block before
        self._read: Counter[str] = Counter()  # rows let in that cross-attention reads
        self._remembered: Counter[str] = Counter()
        self._attended: Counter[str] = Counter()
        self._gone: dict[str, Site] = {}
        self._shorter: dict[str, Callable[[int, int], int]] = {}

    # ---- what methods do ----

    def insert(self, first: Block, count: int, *, last: Block | None = None, read: bool = False) -> None:
        """`count` rows more from block `first` to `last` (default: `first`); with `read` blocks beside them read these too."""
        column = self.anatomy.column(first)
        start, end = column.index(first), column.index(last or first) + 1
        for block in column[start:end]:
            self._more[block.key] += count
            self._passing[block.key] += 0 if block is first else count
        others = [c for c in self.anatomy.columns(first.stack.name) if c[0].stack is not first.stack]
        for block in [b for other in others for b in other[start:end]] if read else []:
            self._read[block.key] += count

    def remember(self, block: Block, count: int) -> None:
        """Keys and values of `count` rows more are computed by a block's own projections, in training and once per batch."""
        self._remembered[block.key] += count

    def attend(self, block: Block, count: int) -> None:
        """Keys of `count` rows that are in no stream stand beside those of a block's attention."""
        self._attended[block.key] += count

    def skip(self, site: Site) -> None:
        """A block, or an attention of it, is not computed."""
        self._gone[site.key] = site

    def shorten(self, block: Block, become: Callable[[int, int], int]) -> None:
        """Between a block's attention and FFN become(rows, protected) of its rows are left; those in front are protected."""
        self._shorter[block.key] = become

    # ---- what comes of it ----

    def tokens(self, block: Block) -> int:
        """Rows of the stream that enters a block's attention."""
        return self._own(block) + self._more[block.key]

    def seen(self, block: Block, branch: str) -> int:
        """Rows that the Linears of a branch see.

        In windows attention sees padding, and inserted rows in each; the FFN sees what is left where tokens became one.
        """
        extent, more = block.extent(self.counts), self._more[block.key]
        if branch == "attention":
            return extent.windows * (extent.window + more) if block.window is not None else self.tokens(block)
        return self._left(block, self._own(block)) + more

    def _own(self, block: Block) -> int:
        """The model's own rows that enter a block."""
        own = block.tokens(self.counts)
        if self._shorter:
            for before in self.anatomy.column(block):
                if before is block:
                    break
                own = self._left(before, own)
        return own

    def _left(self, block: Block, own: int) -> int:
        """Of the model's own rows that enter a block those that leave it."""
        become, more = self._shorter.get(block.key), self._more[block.key]
        return own if become is None else become(own + more, block.prefix + more) - more

    def remembered(self, block: Block) -> int:
        """Rows whose keys and values alone are computed, once per batch."""
        return self._remembered[block.key]

    def keys(self, block: Block) -> int:
        """Keys of a block's self-attention."""
        return self.tokens(block) + self._attended[block.key]

    def context(self, block: Block) -> int:
        """Rows that its cross-attention reads; 0 where it has none."""
        return block.context(self.counts) + self._read[block.key]

    def macs(self) -> int:
        """Multiply-adds of all blocks and of what merges patches between them."""
        return sum(self._block_macs(block) for block in self.anatomy)

    def _block_macs(self, block: Block) -> int:
        if block.key in self._gone:
            return 0
        extent, more = block.extent(self.counts), self._more[block.key]
        tokens = self.tokens(block)
        window = tokens if block.window is None else extent.window + more
        total = block.sizes.macs(tokens, self.context(block), windows=extent.windows, window=window)
        total += block.sizes.ffn_macs(self.seen(block, "ffn")) - block.sizes.ffn_macs(tokens)
        for branch in ("attention", "cross"):
            if f"{block.key}.{branch}" in self._gone:
                total -= block.sizes.branch_macs(
                    branch, tokens, self.context(block), windows=extent.windows, window=window
                )
        if block.merging is not None:
            merged = extent.tokens + self._passing[block.key]
            total += block.merging.reduction.weight.numel() * merged  # type: ignore[union-attr,operator]
        return total
