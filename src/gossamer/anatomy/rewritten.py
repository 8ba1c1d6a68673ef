"""Modules that give their place to others: projections that a method rewrites, heads of another size, thirds of a fused Linear.

What a module is replaced by may hold it (`Wrapped`), and amounts to a plain module again in a finished model: the innermost is
merged first, so that everyone merges with what it stood on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gossamer.anatomy.displaced import Displaced
from gossamer.anatomy.projection import Rows, matrix
from gossamer.anatomy.seams import Change, Part

Merge = Callable[[nn.Module], "nn.Module | None"]


class Wrapped(Part):
    """A module in place of another of the same inputs and outputs, which it holds as `inner`."""

    inner: nn.Module | None  # None once it is merged

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the inner module gives, and `behind` makes of it."""
        assert self.inner is not None, "a wrapper that was merged is in no model"
        return self.behind(self.inner(*args, **kwargs))

    def behind(self, y: Tensor) -> Tensor:
        """What becomes of what the inner module gives, sample by sample."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """The inner module's, for code that asks for its shape and type."""
        return self.inner.weight  # type: ignore[union-attr, return-value]

    @property
    def bias(self) -> Tensor | None:
        """The inner module's."""
        return self.inner.bias  # type: ignore[union-attr, return-value]

    def merged(self) -> nn.Module | None:
        """A plain module that equals this in evaluation, on the inner one, which is plain by then; None: there is none."""
        raise NotImplementedError

    def release(self) -> None:
        """Once it is merged, everything."""
        if self.inner is None:
            self._parameters.clear()
            self._buffers.clear()
            self._modules.clear()

    def linear(self) -> nn.Linear:
        """The Linear that this amounts to now.

        Raises:
            TypeError: it is none.
        """
        found = self.merged()
        if type(found) is not nn.Linear:
            raise TypeError(f"{type(self).__name__} on {type(self.inner).__name__} amounts to no Linear")
        return found


def merged(module: nn.Module) -> nn.Module | None:
    """What a Wrapped amounts to."""
    assert isinstance(module, Wrapped), "only what can be merged is asked"
    return module.merged()


class Swapped(Change):
    """The module called `name` gives its place to another, and is kept until it gets it back.

    Args:
        model: that has the module.
        name: of the module.
        module: that takes its place.
        displaced: keeps the old one.
        merge: the plain module that the new one amounts to; None: it stays in a finished model as it is.
    """

    def __init__(
        self, model: nn.Module, name: str, module: nn.Module, displaced: Displaced, *, merge: Merge | None = None
    ):
        super().__init__()
        self.path, _, self.child = name.rpartition(".")
        self.model, self.parent = model, model.get_submodule(self.path)
        self.old, self.new, self.displaced, self.merge = getattr(self.parent, self.child), module, displaced, merge

    def apply(self) -> None:
        """Puts the new module in place; what it stands in may have been put in place anew itself."""
        self.parent = self.model.get_submodule(self.path)
        setattr(self.parent, self.child, self.new)
        self.displaced.held.append(self.old)

    def revert(self) -> None:
        """Puts the old module back."""
        setattr(self.parent, self.child, self.old)
        self.displaced.held = [module for module in self.displaced.held if module is not self.old]

    def settle(self, plain: nn.Module, later: Iterable[Change]) -> None:
        """Puts a plain module where the new one is: in its place, or inside of what was wrapped around it since.

        Raises:
            TypeError: somebody took its place without holding it.
        """
        hand_over(self.new, plain)
        if getattr(self.parent, self.child) is self.new:
            setattr(self.parent, self.child, plain)
            return
        for change in later:
            if isinstance(change, Swapped) and isinstance(change.new, Wrapped) and change.new.inner is self.new:
                change.new.inner = plain
                return
        raise TypeError(f"{type(self.new).__name__} at {self.child} is not where it was put")


class SplitLinear(nn.Module):
    """A fused qkv Linear as three Linears `q`, `k`, `v` over views of its weights (same storage, same values).

    Where its rows come in several groups, over copies.

    Args:
        fused: the Linear, or GPT-2's transposed one.
        rows: those of q, k and v.
    """

    q: nn.Module
    k: nn.Module
    v: nn.Module

    def __init__(self, fused: nn.Linear | Conv1D, rows: Sequence[Rows]):
        super().__init__()
        self.transposed = isinstance(fused, Conv1D)
        self.groups = len(matrix(fused)) // rows[0].each
        for name, own in zip("qkv", rows, strict=True):
            bias = None if fused.bias is None else own.of(fused.bias.data)
            self.add_module(name, linear_of(own.of(matrix(fused).data), bias))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, d] -> [B, N, q + k + v], as the fused Linear."""
        return self._joined([self.q(x), self.k(x), self.v(x)], -1)

    def _joined(self, parts: list[Tensor], dim: int) -> Tensor:
        """What q, k and v have along a dimension, in the order of the fused Linear."""
        if self.groups == 1:
            return torch.cat(parts, dim)
        grouped = [part.movedim(dim, 0).unflatten(0, (self.groups, -1)) for part in parts]
        return torch.cat(grouped, dim=1).flatten(0, 1).movedim(0, dim)

    @property
    def plain(self) -> bool:
        """Whether no part is rewritten."""
        return all(type(part) is nn.Linear for part in (self.q, self.k, self.v))

    def fused(self) -> nn.Module:
        """The three as one Linear, as it was, with weights of its own; a part without a bias gets zeros where another has one."""
        parts = [part for part in (self.q, self.k, self.v) if isinstance(part, nn.Linear)]
        biases = [p.weight.new_zeros(p.out_features) if p.bias is None else p.bias.data for p in parts]
        biased = any(part.bias is not None for part in parts)
        weight = self._joined([p.weight.data for p in parts], 0)
        bias = self._joined(biases, 0) if biased else None
        if not self.transposed:
            return linear_of(weight, bias)
        found = Conv1D(*weight.shape)
        found.weight, found.bias = (
            nn.Parameter(t, requires_grad=False) for t in (weight.T.contiguous(), self._joined(biases, 0))
        )
        return found


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear over a frozen weight [out, in] and bias [out]."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def finish(model: nn.Module, log: list[Change]) -> bool:
    """Merges in a copy of a model what was swapped, innermost first, and fuses what was split; what was tied gets its own weights.

    Returns:
        Whether something was untied.
    """
    untied = False
    for place, change in enumerate(log):
        if not isinstance(change, Swapped):
            continue
        new, inner = change.new, change.new.inner if isinstance(change.new, Wrapped) else None
        if change.merge is None or (inner is not None and inner._forward_hooks):
            continue  # thirds are rewritten later; and what somebody makes of the inner one's output is no part of a matrix
        untied |= untie(model, new)
        plain = change.merge(new)
        if plain is None:
            continue
        if inner is not None:
            hand_over(inner, plain)
        change.settle(plain, log[place + 1 :])
        if isinstance(new, Wrapped):
            new.inner = None
    for change in log:
        if isinstance(change, Swapped) and isinstance(change.new, SplitLinear) and change.new.plain:
            whole = change.new.fused()
            hand_over(change.new, whole)
            setattr(change.parent, change.child, whole)
    return untied


def untie(model: nn.Module, module: nn.Module) -> bool:
    """Gives a module of a model its own copy of every parameter that it shares with others; whether there was any."""
    inside = Counter(id(p) for _, _, p in _held(module))
    outside = Counter(id(p) for _, _, p in _held(model)) - inside
    shared = [(holder, name, p) for holder, name, p in _held(module) if outside[id(p)]]
    for holder, name, parameter in shared:
        setattr(holder, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
    return bool(shared)


def _held(root: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for module in root.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield module, name, parameter


def hand_over(old: nn.Module, new: nn.Module) -> None:
    """The forward hooks of a module go on working on the one that takes its place, behind those it has."""
    for name, hooks in vars(old).items():
        if name.startswith(("_forward_hooks", "_forward_pre_hooks")):
            vars(new)[name].update(hooks)
