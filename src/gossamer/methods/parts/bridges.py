"""Bridges: affine maps in place of runs of skipped blocks, and their closed-form start on training data.

    x -> x + x A + b     A = (X'X + lambda I)^-1 X'D,  b = mean(D) - mean(X) A,  lambda a share of the mean eigenvalue of X'X

X are the tokens that enter the first block of a run, D what the run adds to them in the model as it was pre-trained, both
centred. The start is that of ReplaceMe (arXiv 2505.02819) and TOAST (arXiv 2410.04941); that it is trained further is ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from gossamer import batches
from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Block
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.parts.bank import Enough, bare, present

ITEMS = 1024  # of the training set that a start is computed from, at most
BATCH = 32


class Moments:
    """Sums over tokens x [n, d] and what is added to them, [n, d], in float64: all that a closed-form start depends on."""

    def __init__(self, width: int, device: torch.device | None = None):
        zeros = {"dtype": torch.float64, "device": device}
        self.count = 0
        self.x, self.added = torch.zeros(width, **zeros), torch.zeros(width, **zeros)
        self.xx, self.x_added = torch.zeros(width, width, **zeros), torch.zeros(width, width, **zeros)

    def add(self, x: Tensor, added: Tensor) -> None:
        """Counts some tokens in."""
        x, added = x.double(), added.double()
        self.count += len(x)
        self.x += x.sum(0)
        self.added += added.sum(0)
        self.xx += x.T @ x
        self.x_added += x.T @ added

    def affine(self, ridge: float, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """A [d, d] and b [d] of the best x -> x A + b, in float64.

        Args:
            ridge: lambda, as a share of the mean eigenvalue of X'X. 0: least squares, of least norm where tokens span less than d.
            rank: of A: the best fit of that rank to X A. None: full.
        """
        mean, of_added = self.x / self.count, self.added / self.count
        xx = self.xx - self.count * mean.outer(mean)
        x_added = self.x_added - self.count * mean.outer(of_added)
        values, vectors = torch.linalg.eigh(xx)
        values = values.clamp(min=0) + ridge * values.clamp(min=0).mean()
        kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
        inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
        a = (vectors * inverse) @ (vectors.T @ x_added)
        if rank is not None and rank < len(a):
            main = torch.linalg.eigh(a.T @ xx @ a).eigenvectors[:, -rank:]  # right singular vectors of X A
            a = a @ main @ main.T
        return a, of_added - mean @ a


class Bridge(Part):
    """x -> x + x A + b: A whole [d, d], or of rank r in two factors. It begins as the identity.

    Args:
        width: d.
        rank: r. None: A is whole.
        span: our names of the first and the last block that it stands for.
        closed: it refuses to run until `set` or loading has given it its start.
        device: where its weights are made.
    """

    started: Tensor | None

    def __init__(self, width: int, rank: int | None, span: tuple[str, str], closed: bool, device: torch.device):
        super().__init__()
        self.rank, self.span, self.ready = rank, span, not closed
        self.down = None if rank is None else nn.Linear(width, rank, bias=False, device=device)
        self.up = nn.Linear(width if rank is None else rank, width, device=device)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.register_buffer("started", torch.tensor(False, device=device) if closed else None)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        self.check()
        states = x.to(self.up.weight.dtype)
        if self.down is not None:
            states = self.down(states)
        return x + self.up(states).to(x.dtype)

    def check(self) -> None:
        """Nothing, where the bridge has its start.

        Raises:
            RuntimeError: it has not.
        """
        if self.ready:
            return
        if self.started is not None and not self.started.is_meta and not bool(self.started):
            raise RuntimeError(
                "the bridges of DAS have no start yet: call gossamer.methods.das.start(adapted, training_data) once before "
                "training (a saved adapter has them)"
            )
        self.ready = True

    @torch.no_grad()
    def set(self, a: Tensor, b: Tensor) -> None:
        """Takes a start A [d, d], of the bridge's rank at most, and b [d]."""
        if self.down is None:
            self.up.weight.copy_(a.T)
        else:
            u, s, v = torch.linalg.svd(a)
            rank, root = len(self.down.weight), s.sqrt()
            count = min(rank, len(s))
            self.down.weight[:count].copy_((u * root)[:, :count].T)
            self.up.weight[:, :count].copy_((root[:, None] * v)[:count].T)
        self.up.bias.copy_(b)
        assert self.started is not None, "it asked for a start"
        self.started.fill_(True)
        self.ready = True

    def finalize(self) -> None:
        """Nothing is left to check."""
        self.check()
        self.ready, self.started = True, None


class Identity(Part):
    """x -> x, where the bridge of a run has stood in for a block already."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, d] -> [B, N, d]."""
        return x


def parameters(width: int, rank: int | None) -> int:
    """d² + d, or 2 d r + d."""
    return width * width + width if rank is None else 2 * width * rank + width


def macs(tokens: int, width: int, rank: int | None) -> int:
    """n d², or 2 n d r."""
    return tokens * width * width if rank is None else 2 * tokens * width * rank


def runs(blocks: Sequence[Block], anatomy: Anatomy) -> list[list[Block]]:
    """Some blocks by runs of neighbours, those of one list that follow one another with nothing between them."""
    chosen, found = {block.key for block in blocks}, []
    for column in (c for name in anatomy.stacks for c in anatomy.columns(name)):
        for i, block in enumerate(column):
            if block.key not in chosen:
                continue
            before = column[i - 1] if i else block
            if before is not block and before.key in chosen and _listed_in(before) == _listed_in(block):
                found[-1].append(block)
            else:
                found.append([block])
    return found


def _listed_in(block: Block) -> str:
    return block.name.rpartition(".")[0]


def unstarted(adapted: Any) -> list[Bridge]:
    """The bridges of an adapted model that wait for their start."""
    found = (m for tree in adapted.methods.values() for m in tree.modules() if isinstance(m, Bridge))
    return [m for m in found if m.started is not None and not bool(m.started)]


def start(
    adapted: Any, data: Any, ridge: float, *, collate: Callable[[list[Any]], Any] | None = None, seed: int = 0
) -> None:
    """Gives every bridge of an adapted model that waits for one its closed-form start.

    Args:
        adapted: the model; the backbone runs as it was before anything was placed in it.
        data: training set: a length, and items by index, as the model is called with. At most `ITEMS` are drawn.
        ridge: see `Moments.affine`.
        collate: makes a batch of a list of items. None: torch's.
        seed: of the items that are drawn.

    Raises:
        UserError: there is no item.
    """
    waiting = unstarted(adapted)
    if not waiting:
        return
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:ITEMS].sort().values.tolist()
    if not order:
        raise UserError("bridges start from training data, and the training set is empty")
    with bare(adapted) as anatomy:
        blocks = {block.key: block for block in anatomy}
        spans = [(blocks[bridge.span[0]], blocks[bridge.span[1]]) for bridge in waiting]
        found = [Moments(first.sizes.width, first.device) for first, _ in spans]
        for place in range(0, len(order), BATCH):
            items = [data[i] for i in order[place : place + BATCH]]
            inputs = _inputs((collate or default_collate)(items), anatomy)
            for moments, (first, _), (x, y) in zip(found, spans, _passed(adapted, anatomy, spans, inputs), strict=True):
                keep = present(x, first, inputs)
                moments.add(x[keep], (y - x)[keep])
        for bridge, moments in zip(waiting, found, strict=True):
            bridge.set(*moments.affine(ridge, bridge.rank))


def _inputs(batch: Any, anatomy: Anatomy) -> dict[str, Any]:
    """A batch as the model is called with, on its device; of labels only those of a decoder, which reads them."""
    if not hasattr(batch, "keys"):
        batch = {"pixel_values": batch[0] if isinstance(batch, list | tuple) else batch}
    drop = () if anatomy.readout.name == "decoder" else ("label", "labels")
    device = next(anatomy.model.parameters()).device
    return batches.on(device, {k: v for k, v in batch.items() if k not in drop})


class Ends:
    """What enters and leaves some spans of blocks in one pass, which ends when all was seen."""

    def __init__(self, count: int):
        self.seen: dict[tuple[int, str], Tensor] = {}
        self.count = 2 * count

    def keep(self, place: int, at: str, states: Tensor) -> None:
        """Keeps the states of the first time."""
        self.seen.setdefault((place, at), states)
        if len(self.seen) == self.count:
            raise Enough


class End(nn.Module):
    """One end of a span."""

    def __init__(self, ends: Ends, place: int, at: str):
        super().__init__()
        self.ends, self.place, self.at = ends, place, at

    def forward(self, states: Tensor) -> None:
        """Keeps the states."""
        self.ends.keep(self.place, self.at, states)


def _passed(
    adapted: Any, anatomy: Anatomy, spans: Sequence[tuple[Block, Block]], inputs: dict[str, Any]
) -> list[tuple[Tensor, Tensor]]:
    """For each span the states [B, N, d] that enter its first block and that leave its last."""
    ends = Ends(len(spans))
    with anatomy.tentatively():
        for place, (first, last) in enumerate(spans):
            anatomy.observe(first, End(ends, place, "start"))
            anatomy.observe(last, End(ends, place, "end"), at="end")
        with contextlib.suppress(Enough):
            adapted(**inputs)
    return [(ends.seen[place, "start"], ends.seen[place, "end"]) for place in range(len(spans))]
