"""Inputs of a batch by samples, and answers of several passes as those of one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import UserError
from gossamer.mixed.parts import filled


def samples(args: Sequence[Any], inputs: Mapping[str, Any]) -> int:
    """How many samples a batch has: the rows of its first tensor.

    Raises:
        UserError: there is no tensor, one has other numbers of rows, or none.
    """
    found = {f"input {i}": t for i, t in enumerate(args) if isinstance(t, Tensor)}
    found |= {name: t for name, t in inputs.items() if isinstance(t, Tensor)}
    if not found:
        raise UserError("no tensor is given, so there are no samples to answer")
    sizes = {name: t.shape[0] for name, t in found.items() if t.dim()}
    size = max(sizes.values(), default=0)
    if size == 0:
        raise UserError(f"there are no samples to answer: {', '.join(sizes) or 'no input'} has no rows")
    for name, rows in sizes.items():
        if rows not in (1, size):
            raise UserError(
                f"{name} has {rows} rows and others {size}: every input has one for each sample, or one for all"
            )
    return size


def rows_of(given: Any, rows: Sequence[int], size: int) -> Any:
    """Some samples of inputs."""
    if isinstance(given, Mapping):
        return {name: rows_of(value, rows, size) for name, value in given.items()}
    if isinstance(given, tuple):
        return tuple(rows_of(value, rows, size) for value in given)
    if not isinstance(given, Tensor) or not given.dim() or given.shape[0] != size or rows == list(range(size)):
        return given
    return given[torch.tensor(rows, device=given.device)]


def together(parts: Sequence[tuple[Sequence[int], Any]], size: int, padding: int | None) -> Any:
    """Answers for some samples each, as one for all samples in their order.

    Args:
        parts: numbers of the samples, and the answer for them: a tensor, a tuple, or an output of transformers or diffusers.
        size: samples.
        padding: fills up integers, of texts; None: there is none to be filled.
    """
    if len(parts) == 1 and list(parts[0][0]) == list(range(size)):
        return parts[0][1]
    found = [answer for _, answer in parts]
    order = torch.tensor([row for rows, _ in parts for row in rows]).argsort()
    first = found[0]
    if isinstance(first, Tensor):
        return _tensor(found, [len(rows) for rows, _ in parts], order, padding)
    if isinstance(first, OrderedDict):  # of transformers, and of diffusers
        fields = {name: _value([answer.get(name) for answer in found], parts, order, padding) for name in first}
        return type(first)(**{name: value for name, value in fields.items() if value is not None})
    return tuple(_value([answer[i] for answer in found], parts, order, padding) for i in range(len(first)))


def _value(
    values: Sequence[Any], parts: Sequence[tuple[Sequence[int], Any]], order: Tensor, padding: int | None
) -> Any:
    """One value of all passes; None where it is none of tensors with a row for each sample."""
    sizes = [len(rows) for rows, _ in parts]
    if all(isinstance(v, tuple) for v in values):
        inner = [_value(each, parts, order, padding) for each in zip(*values, strict=False)]
        return None if any(v is None for v in inner) else tuple(inner)
    fitting = all(isinstance(v, Tensor) and v.dim() and v.shape[0] % n == 0 for v, n in zip(values, sizes, strict=True))
    if not fitting or len({v.dim() for v in values}) > 1:
        return None
    return _tensor(values, sizes, order, padding)


def _tensor(values: Sequence[Tensor], sizes: Sequence[int], order: Tensor, padding: int | None) -> Tensor:
    """Tensors [B_i k, ...] as one [B k, ...], in order, each filled up to the longest."""
    longest = [max(each) for each in zip(*(v.shape[1:] for v in values), strict=True)]
    if any(list(v.shape[1:]) != longest for v in values):
        value = -torch.inf if values[0].is_floating_point() else padding
        if value is None:
            raise UserError(
                "texts of different lengths come together here, and nothing says what fills them up: give pad_token_id"
            )
        values = [filled(v, [v.shape[0], *longest], value) for v in values]
    rows = torch.cat([v.unflatten(0, (n, -1)) for v, n in zip(values, sizes, strict=True)])
    return rows[order.to(rows.device)].flatten(0, 1)
