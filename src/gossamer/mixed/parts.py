"""One part at each place for all adapters that placed something there: every adapter's own acts on its rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy.rewritten import Wrapped
from gossamer.anatomy.seams import Part
from gossamer.mixed.rows import Rows


class Answers(Part):
    """part(x, ...) of every adapter for its rows; where an adapter has none, nothing is added, or (`passes`) x stays as it is.

    Args:
        rows: whose rows there are.
        parts: by adapter. They belong to the adapters, and are no children.
        passes: what stands for a part that an adapter does not have: the identity, not 0.
    """

    rows: Rows
    parts: Mapping[str, nn.Module]

    def __init__(self, rows: Rows, parts: Mapping[str, nn.Module], *, passes: bool = False):
        super().__init__()
        self.borrow(rows=rows, parts=parts)
        self.passes = passes

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """x [B, N, d], others with as many samples -> [B, N, d]."""
        found = []
        for share in self.rows.shares:
            own, part = self.rows.take(x, share), self.parts.get(share.name)
            if part is None:
                found.append(own if self.passes else own.new_zeros(()).expand(own.shape))
            else:
                found.append(part(own, *(self.rows.take(t, share) for t in others)).expand(own.shape))
        return torch.cat(found).view(x.shape) if len(found) > 1 else found[0]


class Tokens(Part):
    """Tokens [B, p, d] of every adapter for its rows x [B, N, d]; all have one, of as many tokens."""

    rows: Rows
    parts: Mapping[str, nn.Module]

    def __init__(self, rows: Rows, parts: Mapping[str, nn.Module]):
        super().__init__()
        self.borrow(rows=rows, parts=parts)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, d] -> [B, p, d]."""
        return torch.cat([self.parts[share.name](self.rows.take(x, share)) for share in self.rows.shares])


class Memories(Part):
    """Keys and values that every adapter remembers, computed once; the shorter ones are padded, and masked.

    Args:
        rows: whose rows there are.
        parts: by adapter, as the verb `remember` takes them.
    """

    keys: Tensor
    values: Tensor
    rows: Rows

    def __init__(self, rows: Rows, parts: Mapping[str, nn.Module]):
        super().__init__()
        self.borrow(rows=rows)
        found = {name: [t[0] for t in part(1)[:2]] for name, part in parts.items()}
        self.counts = {name: len(found[name][0]) if name in found else 0 for name in rows.numbers}
        some, most = next(iter(found.values())), max(self.counts.values())
        for i, kind in enumerate(("keys", "values")):
            empty = some[i].new_zeros(0, some[i].shape[1])
            each = [found[name][i] if name in found else empty for name in rows.numbers]
            self.register_buffer(
                kind, torch.stack([F.pad(t, (0, 0, 0, most - len(t))) for t in each]), persistent=False
            )

    def forward(self, batch: int) -> tuple[Tensor, ...]:
        """Rows -> keys and values [batch, p, inner_kv] and, where not all have as many, which each sees [batch, p]."""
        index, counts = self.rows.index(batch, self.keys.device), [self.counts[s.name] for s in self.rows.shares]
        most = max(counts)
        keys, values = self.keys[:, :most][index], self.values[:, :most][index]
        if min(counts) == most:
            return keys, values
        numbers = torch.tensor(list(self.counts.values()), device=keys.device)[index]
        return keys, values, torch.arange(most, device=keys.device) < numbers[:, None]


class Modules(Wrapped):
    """A module of every adapter in place of another, each for its rows; those without one have the module that stood there.

    What several adapters compute alike is computed by groups, in as many pieces as there are adapters.

    Args:
        rows: whose rows there are.
        inner: the module that stands there.
        parts: by adapter: such as hold a module (`Wrapped`) hold this one's here.
    """

    rows: Rows
    parts: Mapping[str, Any]

    def __init__(self, rows: Rows, inner: nn.Module, parts: Mapping[str, Any]):
        super().__init__(inner)
        self.borrow(rows=rows, parts=parts)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B, ...] -> [B, ...]."""
        return joined([self._own(share, self.rows.take(x, share), args, kwargs) for share in self.rows.shares])

    def _own(self, share: Any, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        part = self.parts.get(share.name)
        if part is not None and not isinstance(part, Wrapped):
            return part.forward(
                x, *args, **kwargs
            )  # what listens to it where its adapter stands alone is no part of it
        assert self.inner is not None, "nothing is merged in a mixture"
        with self.rows.only(share):  # type: ignore[attr-defined]
            y = self.inner(x, *args, **kwargs)
        return y if part is None else part.behind(y)


class Behind(Modules):
    """The same of such as only make something of what the module gives that stood there: that is computed once for all."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B, ...] -> [B, ...]."""
        assert self.inner is not None, "nothing is merged in a mixture"
        y = self.inner(x, *args, **kwargs)
        found = []
        for share in self.rows.shares:
            own, part = self.rows.take(y, share), self.parts.get(share.name)
            found.append(own if part is None else part.behind(own))
        return joined(found).view(y.shape)


class LowRank(Wrapped):
    """W x + U D x, with the D [r, in] and U [out, r] of each sample's adapter: one batched product for all of them.

    Args:
        rows: whose rows there are.
        inner: W x.
        updates: D and U by adapter, of any ranks.
    """

    rows: Rows
    down: Tensor
    up: Tensor

    def __init__(self, rows: Rows, inner: nn.Module, updates: Mapping[str, tuple[Tensor, Tensor]]):
        super().__init__(inner)
        self.borrow(rows=rows)
        some, rank = next(iter(updates.values())), max(len(down) for down, _ in updates.values())
        nothing = some[0].new_zeros(0, some[0].shape[1]), some[1].new_zeros(some[1].shape[0], 0)
        each = [updates.get(name, nothing) for name in rows.numbers]
        down = torch.stack([F.pad(d.T, (0, rank - len(d))) for d, _ in each])
        up = torch.stack([F.pad(u.T, (0, 0, 0, rank - u.shape[1])) for _, u in each])
        self.register_buffer("down", down, persistent=False)
        self.register_buffer("up", up, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ..., in] -> [B, ..., out]."""
        assert self.inner is not None, "nothing is merged in a mixture"
        y, size = self.inner(x), self.rows.size
        index = self.rows.index(size, x.device)
        rows = self.rows.by_sample(x).reshape(size, -1, x.shape[-1])
        hidden, given = torch.bmm(rows.to(self.down.dtype), self.down[index]), y.reshape(size, -1, y.shape[-1])
        if given.dtype == hidden.dtype:  # in place: what a projection gives is nobody else's
            return given.baddbmm_(hidden, self.up[index]).view(y.shape)
        return (given + torch.bmm(hidden, self.up[index])).to(y.dtype).view(y.shape)


class Heads(nn.Module):
    """Every adapter's head for its rows; what gives fewer values than another is filled up with -inf."""

    rows: Rows
    heads: Mapping[str, nn.Module]

    def __init__(self, rows: Rows, heads: Mapping[str, nn.Module]):
        super().__init__()
        self.__dict__.update(rows=rows, heads=heads)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B, ...] -> [B, ...]."""
        rows = self.rows
        return joined([self.heads[s.name].forward(rows.take(x, s), *args, **kwargs) for s in rows.shares])


def joined(answers: Sequence[Tensor]) -> Tensor:
    """Answers [B_i, ...] one after another, each filled up with -inf to the longest."""
    if len({t.shape[1:] for t in answers}) > 1:
        longest = [max(sizes) for sizes in zip(*(t.shape[1:] for t in answers), strict=True)]
        answers = [filled(t, [t.shape[0], *longest], -torch.inf) for t in answers]
    return torch.cat(list(answers)) if len(answers) > 1 else answers[0]


def filled(x: Tensor, sizes: Sequence[int], value: float) -> Tensor:
    """A tensor with more of a value at the end of each dimension."""
    more = [(0, wanted - there) for there, wanted in zip(x.shape, sizes, strict=True)]
    return F.pad(x, [side for pair in reversed(more) for side in pair], value=value)
