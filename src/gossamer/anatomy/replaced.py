"""Blocks, and attentions inside them, that give their place to a part; and what is left of them in a finished model.

The module that gives way stays where it is, so that the model's own loop, hooks and recorders find what they know; only its
`forward` is another. Taking the change back is to forget that one attribute.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.anatomy import call as calls
from gossamer.anatomy.block import Site
from gossamer.anatomy.call import Arguments, Call
from gossamer.anatomy.seams import Change
from gossamer.anatomy.session import Session
from gossamer.anatomy.sizes import Hollow, hollowed
from gossamer.anatomy.states import as_states, tokens_of


class Replaced(Change):
    """A site gives its place to a part: x -> part(x) for a block, branch(x) = part(x) for an attention.

    Args:
        site: what gives way.
        part: what takes the place.
        first: the part also gets the first token of each sequence, part(x, first).
        active: whether this is so from the start; `switch` changes it.
        log: the changes of the model, of which those in an attention that gives way pause.
        session: keeps first tokens beside a cache.
    """

    def __init__(
        self,
        site: Site,
        part: nn.Module,
        log: list[Change],
        session: Session,
        *,
        first: bool = False,
        active: bool = True,
    ):
        super().__init__()
        self.site, self.log, self.active = site, log, active
        self.stand_in = (BlockStandIn if site.branch is None else AttentionStandIn)(site, part, session, first)
        self.placed: list[nn.Module] = []

    def apply(self) -> None:
        """Puts the stand-ins where their modules are, if the change is active."""
        if self.active:
            front, *others = self.placed = self.site.modules()
            front.forward = self.stand_in.forward  # type: ignore[method-assign]
            for module in others:
                module.forward = Passed().forward  # type: ignore[method-assign]
            self._suspend(True)

    def revert(self) -> None:
        """Gives the modules their own forward back."""
        for module in self.placed:
            del module.__dict__["forward"]
        if self.placed:
            self._suspend(False)
        self.placed = []

    def _suspend(self, suspended: bool) -> None:
        for change in self.log:
            if change.place == (self.site.block, self.site.branch):
                change.suspended = suspended

    def switch(self, active: bool) -> None:
        """From now on the part runs (`active`), or what it stands for."""
        self.revert()
        self.active = active
        self.apply()

    def prune(self) -> None:
        """Lets the weights of what gave way go, for good."""
        block, stay = self.site.block, self.site.kept()
        attention = block.part("attention")
        if block.stack.relative_bias:
            stay += [m for m in attention.modules() if isinstance(m, nn.Embedding)]  # all blocks read the first's
        sizes, known = block.sizes, hollowed(block.module)
        for module in self.placed:
            hollow(module, stay)
        if known is None:
            block.module.add_module("hollow", Hollow(sizes))


class Passed:
    """Stands in for a norm, a projection or a LayerScale around what gave way: what comes is passed on."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x -> x."""
        return x


class StandIn:
    """What every stand-in knows: the part, how it is called, and the attention, for its number and its relative bias."""

    def __init__(self, site: Site, part: nn.Module, session: Session, first: bool):
        self.part, self.first, self.site, self.session = part, first, site, session
        self.takes = Arguments(site.modules()[0])
        self.attention = site.block.part("attention")
        self.relative_bias = site.block.stack.relative_bias and site.branch != "cross"

    def answer(self, call: Call) -> Tensor:
        """The part's, in the shape of the states that it is for."""
        if not self.first:
            return as_states(self.part(tokens_of(call.states)), call.states)
        rows, packed = tokens_of(call.states), self.site.block.stack.packed is not None
        return as_states(self.part(rows, first_token(rows, call, self.part, self.session, packed)), call.states)

    def bias(self, x: Tensor, call: Call) -> Tensor | None:
        """The relative bias that goes on to the next block, where the family has one."""
        if not self.relative_bias or call.bias is not None:
            return call.bias
        past = calls.past(call.cache, self.attention)
        return calls.relative_bias(self.attention, x.shape[1], past + x.shape[1], past)

    def count(self, x: Tensor, call: Call) -> None:
        """Models count their tokens in the cache: rows of one number stand for them."""
        if call.cache is not None:
            rows = x.new_zeros(x.shape[0], 1, x.shape[1], 1)
            calls.own(call.cache).update(rows, rows, calls.number(self.attention))


class BlockStandIn(StandIn):
    """Stands where a block stood: the states become part(x); what the block would have passed on is passed on."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The part's answer, in the shape in which the block returned its own."""
        call = self.takes.read(args, kwargs)
        output = self.answer(call)
        bias = self.bias(output, call)
        self.count(output, call)
        if self.relative_bias:
            return output, bias, call.context_bias
        count = self.site.block.stack.returns_tuple
        return (output, *[None] * (count - 1)) if count else output


class AttentionStandIn(StandIn):
    """Stands where an attention stood: what it adds to the states becomes part(x)."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The part's answer, in the shape in which the attention returned its own."""
        call = self.takes.read(args, kwargs)
        output, names = self.answer(call), self.site.names
        bias = self.bias(call.states, call)
        if self.site.branch == "attention":
            self.count(call.states, call)
        assert names is not None, "an attention has names"
        if names.adds is not None:
            output = output + call.others[names.adds]
        return (output, bias, None)[: names.returns] if names.returns else output


def first_token(x: Tensor, call: Call, asker: nn.Module, session: Session, packed: bool = False) -> Tensor:
    """The first token of each sequence of x [B, N, d] that is no padding, [B, d].

    Where several samples may stand in one row (`packed` stacks; texts with bounds, or with a mask of N x N), for each token that of
    its own sample, [B, N, d]. With a key/value cache it is that of the prompt, kept beside the cache: what decoding sees later are
    other tokens.
    """
    if packed or (call.cache is None and _divided(call, x.shape[1])):
        return x.gather(1, _begins(call, x)[..., None].expand(len(x), -1, x.shape[-1]))
    kept = session.beside(call.cache).firsts
    if asker in kept:
        return kept[asker]
    found, mask = x[:, 0], call.mask
    if mask is not None:
        seen = mask if mask.dim() == 2 else mask[:, 0]
        if seen.dim() == 3:  # a token that is no padding sees itself; the last one may see the first in no window
            seen = seen[:, 0] if seen.shape[1] == 1 else seen.diagonal(dim1=1, dim2=2)
        places = _visible(seen, additive=mask.dim() == 4).int().argmax(dim=-1).expand(x.shape[0])
        found = x[torch.arange(x.shape[0], device=x.device), places]
    kept[asker] = found
    return found


def _divided(call: Call, tokens: int) -> bool:
    """Whether a call may say where samples begin in its rows."""
    return call.bounds is not None or (call.mask is not None and call.mask.shape[2:] == (tokens, tokens))


def _begins(call: Call, x: Tensor) -> Tensor:
    """For each token of rows x [B, N, d] the place of the first one of its sample [1 or B, N]; without a mask a row is one sample.

    A sample begins with a token that sees itself and none before it. Padding does not see itself; it counts to the sample before
    it, or to the first.
    """
    tokens = torch.arange(x.shape[1], device=x.device)[None]
    if call.bounds is not None:
        return call.bounds[torch.searchsorted(call.bounds, tokens, right=True) - 1].long()
    if call.mask is None:
        return torch.zeros_like(tokens)
    seen = _visible(call.mask[:, 0], additive=True)
    starts = seen.diagonal(dim1=1, dim2=2) & (seen.int().argmax(dim=2) == tokens)
    last = torch.where(starts[:, None] & (tokens <= tokens.mT), tokens, -1).amax(dim=2)  # ONNX has no running maximum
    return torch.where(last < 0, starts.int().argmax(dim=1, keepdim=True), last)


def _visible(mask: Tensor, *, additive: bool) -> Tensor:
    """A mask as booleans; of numbers all but very low ones are visible where it is added to scores, and else all but 0."""
    return mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() and additive else mask.bool()


def hollow(module: nn.Module, stay: list[nn.Module]) -> None:
    """Removes every parameter, buffer and child of a module but the modules that `stay` and the way to them."""
    module._parameters.clear()
    module._buffers.clear()
    for name, child in list(module.named_children()):
        if isinstance(child, Hollow) or any(child is kept for kept in stay):
            continue
        if any(inner is kept for inner in child.modules() for kept in stay):
            hollow(child, stay)
        else:
            del module._modules[name]
