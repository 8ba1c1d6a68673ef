"""The ledger of tokens: in one pass through one column of blocks, what each row of the stream is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import UnknownName


class Ledger:
    """Which rows of a stream [B, N, d] are the model's own tokens, which were inserted, and which of its own were merged.

    Inserted rows stand together behind the first `at` rows, who entered last first. The model's own rows keep
    their order; `shorten` says where each token of theirs is found since some were merged.

    Args:
        at: own rows in front of inserted ones: class tokens and the like, which nobody merges.
        own: the model's own tokens.
    """

    def __init__(self, at: int, own: int):
        self.at, self.own = at, own
        self.inserted: list[tuple[Any, int]] = []  # owner and number of those that are there, last in first
        self.entered: dict[Any, int] = {}  # of all that entered in this pass
        self.places: Tensor | None = (
            None  # [B, own tokens as they were]: the own row that holds each now; None: its own
        )
        self.sizes: Tensor | None = None  # [B, own rows]: tokens that each row stands for; None: one
        self.shows: Any = None  # the mask of the pass, once it is known to hide no token
        self._wide: dict[tuple[Any, ...], list[tuple[Any, Any]]] = {}

    # ---- longer ----

    @property
    def count(self) -> int:
        """Rows that were inserted."""
        return sum(number for _, number in self.inserted)

    @property
    def length(self) -> int:
        """Rows of the stream."""
        return self.own + self.count

    def enter(self, owner: Any, number: int) -> None:
        """From now on `number` rows of an owner stand behind the first `at`."""
        self.inserted.insert(0, (owner, number))
        self.entered[owner] = number

    def leave(self, owner: Any) -> None:
        """Takes note that an owner's rows are gone."""
        self.inserted = [(other, number) for other, number in self.inserted if other is not owner]

    def rows_of(self, owner: Any) -> slice:
        """Where an owner's rows stand in the stream now.

        Raises:
            UnknownName: it has none there.
        """
        start = self.at
        for other, number in self.inserted:
            if other is owner:
                return slice(start, start + number)
            start += number
        raise UnknownName(f"{type(owner).__name__} has no rows in this stream now")

    def behind(self, rows: Tensor) -> Tensor:
        """Rows [B, length, d] -> those of the model's own tokens behind the first `at`, [B, tokens as they were - at, d]."""
        return self.spread(self.without_inserted(rows))[:, self.at :]

    def without_inserted(self, rows: Tensor) -> Tensor:
        """Rows [B, length, ...] -> the model's own [B, own, ...]."""
        return cut(rows, self.at, self.count, 1)

    def widen(self, mask: Tensor) -> Tensor:
        """A mask of the model's own tokens [B, own] with a one for every inserted row, [B, length]."""
        return pad(mask, self.at, self.count, -1, value=1)

    def wide(self, key: tuple[Any, ...], tensor: Any, make: Callable[[Any], Any]) -> Any:
        """make(tensor), made once in a pass: models give every block the same mask, bias and rotary tables.

        Args:
            key: what decides how it is widened.
            tensor: a tensor, a pair of them, or None.
            make: tensor -> the wide one.
        """
        made = self._wide.setdefault(key, [])
        for source, wide in made:
            if _same(source, tensor):
                return wide
        made.append((tensor, make(tensor)))
        return made[-1][1]

    def root(self, tensor: Any) -> Any:
        """What a tensor was before it was widened, however often; itself where it was not."""
        for source, wide in [pair for made in self._wide.values() for pair in made]:
            if wide is tensor and source is not wide:
                return self.root(source)
        return tensor

    def knows(self, tensor: Any) -> bool:
        """Whether it was widened, or made by widening."""
        return any(tensor is one for made in self._wide.values() for pair in made for one in pair)

    # ---- shorter ----

    def shorten(self, rows: Tensor, length: int) -> None:
        """Takes note that some of the model's own rows were merged.

        Args:
            rows: [B, own], for each own row the one that holds it from now on, 0 to length - 1; -1: dropped.
            length: own rows from now on.

        Raises:
            ValueError: a row in front (before `at`) moves, or rows are numbered past `length`.
        """
        self._check(rows, length)
        sizes = rows.new_ones(rows.shape) if self.sizes is None else self.sizes
        kept = rows.clamp(min=0)
        self.sizes = sizes.new_zeros(rows.shape[0], length).scatter_add(1, kept, sizes * (rows >= 0))
        if self.places is None:
            self.places = rows
        else:
            found = rows.gather(1, self.places.clamp(min=0))
            self.places = torch.where(self.places < 0, self.places, found)
        self.own = length

    def _check(self, rows: Tensor, length: int) -> None:
        if rows.shape[-1] != self.own:
            raise ValueError(f"{list(rows.shape)} places up to {length - 1} for {self.own} rows")
        if rows.is_meta or type(rows) is not Tensor or torch.compiler.is_compiling():
            return  # nothing to look at
        if int(rows.max()) >= length:
            raise ValueError(
                f"{list(rows.shape)} places up to {int(rows.max())} for {self.own} rows that become {length}"
            )
        front = torch.arange(self.at, device=rows.device)
        if not torch.equal(rows[:, : self.at], front.expand(len(rows), -1)):
            raise ValueError(f"the first {self.at} rows are no tokens to be merged")

    def restore(self) -> None:
        """Takes note that every token has a row of its own again (see `spread`)."""
        if self.places is not None:
            self.own = self.places.shape[1]
        self.places = self.sizes = None

    def spread(self, rows: Tensor) -> Tensor:
        """The model's own rows [B, own, d], merged ones given to every token they stand for -> [B, tokens as they were, d].

        A token that was dropped gets zeros.
        """
        if self.places is None:
            return rows
        return taken(rows, self.places.clamp(min=0)) * (self.places >= 0)[:, :, None]

    def weights(self, like: Tensor) -> Tensor:
        """How many tokens each row of a stream [B, length, d] stands for, [B, length]; an inserted one for itself."""
        own = like.new_ones(like.shape[0], self.own) if self.sizes is None else self.sizes.to(like.dtype)
        return self.widen(own)


def taken(rows: Tensor, places: Tensor) -> Tensor:
    """Rows [B, n, d] at places [B, N], each 0 to n - 1 -> [B, N, d]."""
    return rows.flatten(0, 1).index_select(0, _flat(places, rows.shape[1])).unflatten(0, places.shape)


def summed(rows: Tensor, places: Tensor, length: int) -> Tensor:
    """Rows [B, N, d] that go to places [B, N], each 0 to length - 1 -> their sums [B, length, d]."""
    whole = rows.new_zeros(rows.shape[0] * length, rows.shape[2])
    return whole.index_add(0, _flat(places, length), rows.flatten(0, 1)).unflatten(0, (rows.shape[0], length))


def _flat(places: Tensor, length: int) -> Tensor:
    """Places in rows [B, length, d] as places in all rows one after another: rows are then moved whole, ten times as fast."""
    first = torch.arange(places.shape[0], device=places.device) * length
    return (places + first[:, None]).flatten()


def _same(one: Any, two: Any) -> bool:
    """Whether two values are the same object, or pairs of the same objects."""
    if isinstance(one, tuple) and isinstance(two, tuple):
        return all(a is b for a, b in zip(one, two, strict=True))
    return one is two


def pad(x: Tensor, at: int, count: int, dim: int, value: float = 0.0) -> Tensor:
    """`count` slices of a constant inserted at position `at` of a dimension."""
    if count == 0:
        return x
    shape = list(x.shape)
    shape[dim] = count
    return torch.cat([x.narrow(dim, 0, at), x.new_full(shape, value), x.narrow(dim, at, x.shape[dim] - at)], dim=dim)


def cut(x: Tensor, at: int, count: int, dim: int) -> Tensor:
    """A tensor without `count` slices from position `at` of a dimension."""
    if count == 0:
        return x
    end = at + count
    return torch.cat([x.narrow(dim, 0, at), x.narrow(dim, end, x.shape[dim] - end)], dim=dim)
