"""Tokens inserted before a block that leave after the same or a later one: masks, positions and caches that see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gossamer.anatomy import call as calls
from gossamer.anatomy.call import Call
from gossamer.anatomy.seams import Change
from gossamer.anatomy.session import Session, View
from gossamer.anatomy.states import states, with_states
from gossamer.anatomy.tokens import Ledger, cut, pad

if TYPE_CHECKING:
    from gossamer.anatomy.block import Block


class Counted(Change):
    """The tokens of a column of blocks are counted: a pass through it begins a ledger."""

    def __init__(self, first: Block, session: Session):
        super().__init__()
        self.first, self.session = first, session

    def apply(self) -> None:
        """Hooks into the column's first block."""
        self.handles = [self.first.module.register_forward_pre_hook(self.begin, with_kwargs=True)]

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A pass begins."""
        x = self.first.arguments.read(args, kwargs).states
        own = x.shape[1] if x.dim() == 3 else x[0, ..., 0].numel()
        self.session.begin(self.first.stack, self.first.prefix, own)


class Inserted(Change):
    """Tokens enter before the first block of a span, behind the prefix tokens, and leave after its last, or stay.

    The model goes on passing masks, rotary tables, biases and caches made for the sequence without them, so these are widened
    before the blocks of the span, once for all of them.
    """

    def __init__(
        self,
        span: list[Block],
        part: nn.Module,
        session: Session,
        stay: bool = False,
        *,
        beside: Sequence[Block] = (),  # whose cross-attention reads the span's stream
        read: bool = False,  # whether that sees the tokens
    ):
        super().__init__()
        self.span, self.part, self.session, self.stay = span, part, session, stay
        self.beside, self.read = beside, read

    def apply(self) -> None:
        """Hooks into every block of the span."""
        for i, block in enumerate(self.span):
            leaves = i == len(self.span) - 1 and not self.stay
            widened = self.widened(block, enters=i == 0, leaves=leaves)
            self.handles += [
                block.module.register_forward_pre_hook(widened.before, with_kwargs=True),
                block.module.register_forward_hook(widened.after),
            ]
        for i, block in enumerate(self.beside):
            context = WidenedContext(self, block, enters=i == 0)
            self.handles.append(block.module.register_forward_pre_hook(context.before, with_kwargs=True))

    def widened(self, block: Block, *, enters: bool, leaves: bool) -> WidenedBlock:
        """What hooks onto one block of the span."""
        return WidenedBlock(self, block, enters=enters, leaves=leaves)

    def ledger(self, rows: int | None = None) -> Ledger:
        """The tokens of the present pass; a block of `rows` rows that is called on its own begins one.

        Where these tokens entered before, in this pass, the block runs again: some checkpoint it together with its hooks.
        """
        found, first = self.session.ledger(self.span[0].stack), self.span[0]
        again = found is not None and self in found.entered
        if rows is not None and not again and (found is None or found.length != rows):
            return self.session.begin(first.stack, first.prefix, rows)
        assert found is not None, "the first block of the span has run"
        return found


class WidenedBlock:
    """One block of a span: widens what enters besides the states, and gives back what the model had made."""

    def __init__(self, inserted: Inserted, block: Block, *, enters: bool, leaves: bool):
        self.inserted, self.enters, self.leaves = inserted, enters, leaves
        self.at, self.causal, self.takes = block.prefix, block.stack.causal, block.arguments
        self.attention = block.part("attention")
        self.relative_bias, self.patch_rotary = block.stack.relative_bias, block.stack.patch_rotary
        self.block = block
        self.present = True  # whether the tokens are in the sequence now; in decoding they are in the cache only
        self.count = 0

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The block's arguments with the tokens in the states and room for them everywhere else."""
        call = self.takes.read(args, kwargs)
        owner, cache, length = self.inserted, call.cache, call.states.shape[1]
        ledger = owner.ledger(length if self.enters else None)
        stored = owner.session.beside(cache).prompts.setdefault(owner, {})
        place = None if cache is None else calls.number(self.attention)
        self.present = place not in stored
        if place in stored:
            self.count = stored[place][0].shape[2]
        elif self.enters:
            self._enter(call, ledger)
        else:
            self.count = ledger.entered[owner]
            length -= self.count
        self._widen(call, ledger, length)
        if cache is not None:
            call.cache = calls.with_own(cache, PromptCache(calls.own(cache), stored, self.count))
        return self.takes.write(call, args, kwargs)

    def _enter(self, call: Call, ledger: Ledger) -> None:
        x = call.states
        tokens = self.tokens(x, call).to(x.dtype)
        self.count = tokens.shape[1]
        ledger.enter(self.inserted, self.count)
        call.states = torch.cat([x[:, : self.at], tokens, x[:, self.at :]], dim=1)

    def _widen(self, call: Call, ledger: Ledger, length: int) -> None:
        """Room in masks, biases and rotary tables, for `length` tokens without these."""
        seen, like = calls.past(call.cache, self.attention), call.states
        call.mask = ledger.wide(self.key("mask"), call.mask, lambda m: self.mask(m, like, seen, length))
        if self.relative_bias and call.bias is None:
            call.bias = calls.relative_bias(self.attention, length, seen + length, seen)
        if call.bias is not None:
            call.bias = ledger.wide(self.key("bias"), call.bias, lambda b: self.bias(b, length, seen))
        if self.present:
            if call.rotary is not None:
                call.rotary = ledger.wide(self.key("rotary"), call.rotary, lambda tables: self.rotation(*tables))
                call.positions = None
            call.context_mask = ledger.wide(self.key("context mask"), call.context_mask, self._more_rows)
            call.context_bias = ledger.wide(self.key("context bias"), call.context_bias, self._more_rows)

    def key(self, what: str) -> tuple[Any, ...]:
        """What decides how this is widened: spans of as many tokens at one place do it alike."""
        return what, self.at, self.count, self.causal, self.present

    def _more_rows(self, side: Tensor | None) -> Tensor | None:
        """A mask or bias of cross-attention with the first row again for each token, where rows differ at all."""
        if side is None or side.dim() != 4 or side.shape[-2] == 1:
            return side
        return torch.cat([side, side[..., :1, :].expand(*side.shape[:-2], self.count, -1)], dim=-2)

    def tokens(self, x: Tensor, call: Call) -> Tensor:
        """The tokens [B, p, d] for states x [B, N, d] and the block's other arguments."""
        return self.inserted.part(x)

    def mask(self, mask: Tensor | None, x: Tensor, past: int, length: int) -> Tensor | None:
        """A mask made for the sequence without the tokens, with room for them; `x` is like the states."""
        if mask is None:
            return None
        return widen_mask(mask, self.at, self.count, causal=self.causal, rows=self.present)

    def bias(self, bias: Tensor, length: int, past: int) -> Tensor:
        """The relative bias with zeros for the tokens."""
        wide = pad(bias, self.at, self.count, -1)
        return pad(wide, self.at, self.count, -2) if self.present and bias.shape[-2] > 1 else wide

    def rotation(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """The rotary tables with rows that rotate by nothing: cosine 1, sine 0. Those for patches begin behind the prefix."""
        at = 0 if self.patch_rotary else self.at
        return pad(cos, at, self.count, -2, value=1.0), pad(sin, at, self.count, -2)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The block's output without the tokens where they leave, and with biases as the model made them."""
        ledger = self.inserted.ledger()
        if self.relative_bias:
            output = (output[0], *(self._narrow(ledger, bias) for bias in output[1:]))
        if self.leaves and self.present:
            ledger.leave(self.inserted)
            output = with_states(output, cut(states(output), self.at, self.count, 1))
        return output

    def _narrow(self, ledger: Ledger, bias: Tensor | None) -> Tensor | None:
        """A bias that the block returns as the model made it; one that the block has made itself, without rows for the tokens."""
        if bias is None or ledger.knows(bias):
            return ledger.root(bias)
        if not self.present or bias.shape[-2] == 1:
            return bias
        return bias[..., : bias.shape[-2] - self.count, :]


class WidenedContext:
    """A block beside a span, whose cross-attention reads the span's stream: it sees the tokens too, unmasked, or sees none of them.

    The first one reads the stream as it was before the span: to be seen, the tokens are put in there.
    """

    def __init__(self, inserted: Inserted, block: Block, *, enters: bool):
        self.inserted, self.enters, self.at = inserted, enters, inserted.span[0].prefix
        self.takes = block.arguments

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The block's arguments with the tokens in the states of the other stream, and room for them in their mask."""
        call = self.takes.read(args, kwargs)
        x, count = call.context, 0
        assert x is not None, "the family says that these blocks read another stream"
        if not self.enters:
            count = self.inserted.ledger().entered[self.inserted]
        elif self.inserted.read:
            tokens = self.inserted.part(x).to(x.dtype)
            count = tokens.shape[1]
            call.context = torch.cat([x[:, : self.at], tokens, x[:, self.at :]], dim=1)
        if not self.inserted.read:
            call.context = cut(x, self.at, count, 1)
        elif call.context_mask is not None:
            call.context_mask = widen_mask(call.context_mask, self.at, count, causal=False, rows=False)
        return self.takes.write(call, args, kwargs)


class PromptCache(View):
    """A key/value cache as an attention layer sees it while tokens are inserted: the tokens' entries in front of the real ones.

    The model's own cache never holds the tokens, so its length, positions and masks stay those of the real sequence.
    """

    def __init__(self, cache: Any, stored: dict[int, tuple[Tensor, Tensor]], count: int):
        super().__init__(cache)
        self.stored, self.count = stored, count

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Stores what is new and returns everything there is to attend to, inserted tokens first."""
        if layer_idx not in self.stored:
            p = self.count
            self.stored[layer_idx] = (keys[:, :, :p], values[:, :, :p])
            keys, values = keys[:, :, p:], values[:, :, p:]
        keys, values = self.cache.update(keys, values, layer_idx, *args, **kwargs)
        own_keys, own_values = self.stored[layer_idx]
        return torch.cat([own_keys, keys], dim=2), torch.cat([own_values, values], dim=2)


def contains(outer: list[Block], inner: list[Block]) -> bool:
    """Whether one span of blocks lies within another."""
    return outer[0].stack is inner[0].stack and outer[0].index <= inner[0].index and inner[-1].index <= outer[-1].index


def overlap(one: list[Block], two: list[Block]) -> bool:
    """Whether two spans share blocks."""
    return one[0].stack is two[0].stack and one[0].index <= two[-1].index and two[0].index <= one[-1].index


def widen_mask(mask: Tensor, at: int, count: int, *, causal: bool, rows: bool) -> Tensor:
    """An attention mask with `count` visible keys at position `at` and, where the tokens also ask (`rows`), their rows.

    2-D [B, N] of ones and zeros, 4-D boolean (True: visible) and 4-D additive (0: visible). In causal stacks inserted tokens
    stand in front and see each other in order, and nothing behind them; elsewhere they see all that any token sees.
    """
    additive = mask.dtype.is_floating_point and mask.dim() > 2
    visible, hidden = (0.0, torch.finfo(mask.dtype).min) if additive else (1, 0)
    mask = pad(mask, at, count, -1, value=visible)
    if mask.dim() == 2 or not rows or (mask.shape[-2] == 1 and not causal):
        return mask
    shape = (*mask.shape[:-2], count, mask.shape[-1])
    if causal:
        own = mask.new_full(shape, hidden)
        own[..., :count] = torch.where(
            torch.ones(count, count, dtype=torch.bool, device=mask.device).tril(),
            mask.new_tensor(visible),
            mask.new_tensor(hidden),
        )
    else:
        own = (
            (mask.amax(dim=-2, keepdim=True) if additive else mask.any(dim=-2, keepdim=True))
            .to(mask.dtype)
            .expand(shape)
        )
    return torch.cat([mask[..., :at, :], own, mask[..., at:, :]], dim=-2)
