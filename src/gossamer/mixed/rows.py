"""Whose rows a batch holds while it passes through a backbone: sorted by adapter, so that everyone's stand together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from gossamer.errors import UserError

NOBODY = "__base__"  # peft's name for the backbone as it is


class Share(NamedTuple):
    """The samples `start` to `stop` of a batch are an adapter's."""

    name: str
    start: int
    stop: int


def shares_of(names: Sequence[str]) -> list[Share]:
    """The shares of a batch whose samples are sorted by adapter."""
    found: list[Share] = []
    for place, name in enumerate(names):
        if found and found[-1].name == name:
            found[-1] = Share(name, found[-1].start, place + 1)
        else:
            found.append(Share(name, place, place + 1))
    return found


class Rows:
    """What the parts of a mixture know of the pass that runs now: one pass at a time. Outside of one, rows are nobody's.

    Args:
        names: of all adapters that may have a share.

    Attributes:
        numbers: of the adapters, and of nobody, in the order in which their tensors are stacked.
        shares: of the pass.
        size: samples of the pass.
    """

    def __init__(self, names: Sequence[str]):
        self.numbers = {name: number for number, name in enumerate([*names, NOBODY])}
        self.shares: tuple[Share, ...] = (Share(NOBODY, 0, 1),)
        self.size = 1
        self._indices: dict[tuple[int, torch.device], Tensor] = {}

    @contextmanager
    def showing(self, shares: Sequence[Share]) -> Iterator[None]:
        """These are the shares while the context lasts."""
        before = self.shares, self.size, self._indices
        self.shares, self.size, self._indices = tuple(shares), shares[-1].stop, {}
        try:
            yield
        finally:
            self.shares, self.size, self._indices = before

    def only(self, share: Share) -> object:
        """A context in which one adapter's rows are the whole batch."""
        return self.showing([Share(share.name, 0, share.stop - share.start)])

    def by_sample(self, x: Tensor) -> Tensor:
        """Rows x [B k, ...] as [B, k, ...]: beams, windows and the like of one sample stand together.

        Rows of all samples in one, [1, B N, d], become [B, 1, N, d].
        """
        if x.shape[0] == 1 and self.size > 1 and x.dim() == 3 and x.shape[1] % self.size == 0:
            return x.reshape(self.size, 1, -1, x.shape[2])
        if x.shape[0] % self.size:
            raise UserError(
                f"something with {x.shape[0]} rows passes between adapters in a batch of {self.size} samples, so nobody "
                "knows whose rows these are: run these adapters in batches of their own"
            )
        return x.unflatten(0, (self.size, -1))

    def take(self, x: Tensor, share: Share) -> Tensor:
        """The rows of a share, a view of x."""
        return x if len(self.shares) == 1 else self.by_sample(x)[share.start : share.stop].flatten(0, 1)

    def index(self, batch: int, device: torch.device) -> Tensor:
        """The number of the adapter of each of `batch` rows, [batch]."""
        key = batch, device
        if key not in self._indices:
            each = torch.tensor([s.stop - s.start for s in self.shares]) * (batch // self.size)
            numbers = torch.tensor([self.numbers[s.name] for s in self.shares]).repeat_interleave(each)
            self._indices[key] = numbers.to(device)
        return self._indices[key]
