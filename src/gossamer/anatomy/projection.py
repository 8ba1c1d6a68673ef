"""Matrices of a block, whatever module holds them: Linears, GPT-2's transposed ones, some rows of one that is fused."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D  # a Linear with its matrix transposed

from gossamer.fingerprint import of_torchao

FALCON = "FalconLinear"  # transformers' own, a Linear that multiplies before it adds; not imported, since few have one


def matrix(linear: Any) -> Tensor:
    """The weight [out, in] of a Linear, or of what stands for one, wrapped or not."""
    return linear.weight.T if isinstance(_bare(linear), Conv1D) else linear.weight


def _bare(linear: Any) -> Any:
    """What stands inside of what wraps it."""
    while hasattr(linear, "base_layer") or getattr(linear, "inner", None) is not None:
        linear = linear.base_layer if hasattr(linear, "base_layer") else linear.inner
    return linear


def quantised(module: Any) -> bool:
    """Whether a module has a weight that is no matrix to read or change: whole numbers, packed ones, torchao's, torch's own."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor):
        return not weight.is_floating_point() or of_torchao(weight)
    return callable(weight)  # of torch's dynamically quantised Linears


def shape_of(linear: Any) -> tuple[int, int]:
    """(out, in) of a Linear or of what stands for one; of quantised ones as they say it, since their weight may be packed."""
    if quantised(linear):
        return _bare(linear).out_features, _bare(linear).in_features
    rows, columns = matrix(linear).shape
    return rows, columns


class Rows(NamedTuple):
    """Some of the rows of a matrix that come in groups of `each`: of every group those from `start` to `end`."""

    start: int
    end: int
    each: int

    def of(self, rows: Tensor) -> Tensor:
        """Of a matrix [out, in] or a bias [out]; of a single group a view."""
        return rows.unflatten(0, (-1, self.each))[:, self.start : self.end].flatten(0, 1)

    def among(self, y: Tensor) -> Tensor:
        """Of what a matrix gives, y [..., out]."""
        return y.unflatten(-1, (-1, self.each))[..., self.start : self.end].flatten(-2)


class Projection(NamedTuple):
    """One projection of a block as a function of states [..., d], or some rows of a fused one; always the current weights.

    What methods hooked onto the module does not act: its weights are used, wrapped or quantised as they may be. `apart` is a
    bias [out] that the block keeps elsewhere.
    """

    linear: Any
    rows: Rows | None = None
    apart: Tensor | None = None

    def __call__(self, states: Tensor) -> Tensor:
        """States [..., d] -> [..., out]."""
        if self.rows is not None and self.plain:
            return nn.functional.linear(states, *self.weights())
        found = self.linear.forward(states)
        found = found if self.rows is None else self.rows.among(found)
        return found if self.apart is None else found + self.apart

    @property
    def plain(self) -> bool:
        """Whether there is a matrix to read: neither wrapped nor quantised."""
        known = type(self.linear) in (nn.Linear, Conv1D) or type(self.linear).__name__ == FALCON
        return known and not quantised(self.linear)

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """Matrix [out, in] and bias of a plain projection."""
        weight, bias = matrix(self.linear), self.linear.bias
        if self.rows is not None:
            weight, bias = self.rows.of(weight), None if bias is None else self.rows.of(bias)
        biases = [b for b in (bias, self.apart) if b is not None]
        return weight, sum(biases) if biases else None  # type: ignore[return-value]
