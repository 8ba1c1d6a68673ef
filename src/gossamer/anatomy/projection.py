"""Matrices of a block, whatever module holds them: Linears, GPT-2's transposed ones, some rows of one that is fused."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D  # a Linear with its matrix transposed


def matrix(linear: Any) -> Tensor:
    """The weight [out, in] of a Linear, or of what stands for one, wrapped or not."""
    plain = linear
    while hasattr(plain, "base_layer") or getattr(plain, "inner", None) is not None:
        plain = plain.base_layer if hasattr(plain, "base_layer") else plain.inner
    return linear.weight.T if isinstance(plain, Conv1D) else linear.weight


class Projection(NamedTuple):
    """One projection of a block as a function of states [..., d], or some rows of a fused one; always the current weights.

    What methods hooked onto the module does not act: its weights are used, wrapped or quantised as they may be. `apart` is a
    bias [out] that the block keeps elsewhere.
    """

    linear: Any
    rows: slice | None = None
    apart: Tensor | None = None

    def __call__(self, states: Tensor) -> Tensor:
        """States [..., d] -> [..., out]."""
        if self.rows is not None and self.plain:
            return nn.functional.linear(states, *self.weights())
        found = self.linear.forward(states)
        found = found if self.rows is None else found[..., self.rows]
        return found if self.apart is None else found + self.apart

    @property
    def plain(self) -> bool:
        """Whether there is a matrix to read: neither wrapped nor quantised."""
        return type(self.linear) in (nn.Linear, Conv1D)

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """Matrix [out, in] and bias of a plain projection."""
        rows = self.rows or slice(None)
        biases = [
            b for b in (None if self.linear.bias is None else self.linear.bias[rows], self.apart) if b is not None
        ]
        return matrix(self.linear)[rows], sum(biases) if biases else None  # type: ignore[return-value]
