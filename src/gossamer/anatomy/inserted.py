"""Tokens inserted before a block that leave after the same or a later one: masks, positions and caches that see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gossamer.anatomy.seams import Change
from gossamer.anatomy.states import argument_names, states, with_states

if TYPE_CHECKING:
    from gossamer.anatomy.block import Block


class Inserted(Change):
    """Tokens enter before the first block of a span, behind the prefix tokens, and leave after its last, or stay.

    The model goes on passing masks, rotary tables, biases and caches made for the sequence without them, so these are widened
    before every block of the span and narrowed after it.
    """

    def __init__(
        self,
        span: list[Block],
        part: nn.Module,
        stay: bool = False,
        *,
        beside: Sequence[Block] = (),  # whose cross-attention reads the span's stream
        read: bool = False,  # whether that sees the tokens
    ):
        super().__init__()
        self.span, self.part, self.stay = span, part, stay
        self.beside, self.read = beside, read
        self.count = 0

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


class WidenedBlock:
    """One block of a span: widens what enters besides the states, narrows what leaves."""

    def __init__(self, inserted: Inserted, block: Block, *, enters: bool, leaves: bool):
        self.inserted, self.enters, self.leaves = inserted, enters, leaves
        self.at, self.causal = block.prefix, block.stack.causal
        self.attention = block.part("attention")
        self.relative_bias = block.stack.relative_bias
        self.names = argument_names(block.module)
        self.present = True  # whether the tokens are in the sequence now; in decoding they are in the cache only

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The block's arguments with the tokens in the states and room for them everywhere else."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        x = given[self.names[0]]
        cache = given.get("past_key_values")
        stored = None if cache is None else cached_prompts(cache, self.inserted)
        self.present = not stored or self.attention.layer_idx not in stored
        past, length = past_length(cache, self.attention), x.shape[1]
        if self.enters and self.present:
            tokens = self.tokens(x, given).to(x.dtype)
            self.inserted.count = tokens.shape[1]
            given[self.names[0]] = torch.cat([x[:, : self.at], tokens, x[:, self.at :]], dim=1)
        elif self.present:
            length -= self.inserted.count
        p = self.inserted.count
        if given.get("attn_mask") is not None and given["attn_mask"].dim() == 2:
            given["attn_mask"] = given["attn_mask"][None, None]  # timm's: [N, N], for all samples
        for name in ("attention_mask", "attn_mask", "mask"):
            if name in given:
                given[name] = self.mask(given[name], x, past, length)
        if self.relative_bias:
            given["position_bias"] = self.bias(given.get("position_bias"), length, past)
        if self.present:
            self._widen_rows(given, p)
        if cache is not None:
            given["past_key_values"] = PromptCache.over(cache, self.inserted, p)
        return tuple(given.pop(n) for n in self.names[: len(args)]), given

    def _widen_rows(self, given: dict[str, Any], p: int) -> None:
        if given.get("position_embeddings") is not None:
            given["position_embeddings"] = self.rotation(*given["position_embeddings"])
            given["position_ids"] = None
        for name in ("encoder_decoder_position_bias", "encoder_attention_mask"):
            side = given.get(name)
            if isinstance(side, Tensor) and side.dim() == 4 and side.shape[-2] > 1:
                given[name] = torch.cat([side, side[..., :1, :].expand(*side.shape[:-2], p, -1)], dim=-2)

    def tokens(self, x: Tensor, given: dict[str, Any]) -> Tensor:
        """The tokens [B, p, d] for states x [B, N, d] and the block's other arguments."""
        return self.inserted.part(x)

    def mask(self, mask: Tensor | None, x: Tensor, past: int, length: int) -> Tensor | None:
        """A mask made for the sequence without the tokens, with room for them; `x` are the states that entered."""
        if mask is None:
            return None
        return widen_mask(mask, self.at, self.inserted.count, causal=self.causal, rows=self.present)

    def bias(self, bias: Tensor | None, length: int, past: int) -> Tensor:
        """The relative bias with zeros for the tokens."""
        bias, p = first_bias(self.attention, bias, length, past), self.inserted.count
        return pad(pad(bias, self.at, p, -1), self.at, p if self.present else 0, -2)

    def rotation(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """The rotary tables with rows that rotate by nothing: cosine 1, sine 0."""
        p = self.inserted.count
        return pad(cos, self.at, p, -2, value=1.0), pad(sin, self.at, p, -2)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The block's output without the tokens where they leave, and with biases as the model made them."""
        p = self.inserted.count
        if self.relative_bias:
            own, cross = output[1], output[2] if len(output) > 2 else None
            own = cut(cut(own, self.at, p, -1), self.at, p if self.present else 0, -2)
            if cross is not None and self.present and cross.shape[-2] == output[0].shape[1]:  # one row serves all
                cross = cross[..., : cross.shape[-2] - p, :]
            output = (output[0], own, cross, *output[3:])[: len(output)]
        if self.leaves and self.present:
            output = with_states(output, cut(states(output), self.at, p, 1))
        return output


class WidenedContext:
    """A block beside a span, whose cross-attention reads the span's stream: it sees the tokens too, unmasked, or sees none of them.

    The first one reads the stream as it was before the span: to be seen, the tokens are put in there.
    """

    def __init__(self, inserted: Inserted, block: Block, *, enters: bool):
        self.inserted, self.enters, self.at = inserted, enters, inserted.span[0].prefix
        self.names = argument_names(block.module)

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The block's arguments with the tokens in the states of the other stream, and room for them in their mask."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        x, count = given["encoder_hidden_states"], self.inserted.count
        if not self.inserted.read:
            given["encoder_hidden_states"] = x if self.enters else cut(x, self.at, count, 1)
            return tuple(given.pop(n) for n in self.names[: len(args)]), given
        if self.enters:
            tokens = self.inserted.part(x).to(x.dtype)
            count = tokens.shape[1]
            given["encoder_hidden_states"] = torch.cat([x[:, : self.at], tokens, x[:, self.at :]], dim=1)
        mask = given.get("encoder_attention_mask")
        if mask is not None:
            given["encoder_attention_mask"] = widen_mask(mask, self.at, count, causal=False, rows=False)
        return tuple(given.pop(n) for n in self.names[: len(args)]), given


class PromptCache:
    """A key/value cache as an attention layer sees it while tokens are inserted: the tokens' entries in front of the real ones.

    The model's own cache never holds the tokens, so its length, positions and masks stay those of the real sequence.
    """

    def __init__(self, cache: Any, stored: dict[int, tuple[Tensor, Tensor]], count: int):
        self.cache, self.stored, self.count = cache, stored, count

    @classmethod
    def over(cls, cache: Any, inserted: Inserted, count: int) -> Any:
        """A view on `cache`; in encoder-decoder caches only self-attention is concerned."""
        import copy

        stored = cached_prompts(cache, inserted)
        if not hasattr(cache, "self_attention_cache"):
            return cls(cache, stored, count)
        view = copy.copy(cache)
        view.self_attention_cache = cls(cache.self_attention_cache, stored, count)
        return view

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Stores what is new and returns everything there is to attend to, inserted tokens first."""
        if layer_idx not in self.stored:
            p = self.count
            self.stored[layer_idx] = (keys[:, :, :p], values[:, :, :p])
            keys, values = keys[:, :, p:], values[:, :, p:]
        keys, values = self.cache.update(keys, values, layer_idx, *args, **kwargs)
        own_keys, own_values = self.stored[layer_idx]
        return torch.cat([own_keys, keys], dim=2), torch.cat([own_values, values], dim=2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["cache"], name)


def cached_prompts(cache: Any, inserted: Inserted) -> dict[int, tuple[Tensor, Tensor]]:
    """layer -> keys and values of the tokens, kept beside the cache they belong to and gone with it."""
    while isinstance(cache, PromptCache):
        cache = cache.cache
    return cache.__dict__.setdefault("inserted_tokens", {}).setdefault(id(inserted), {})


def past_length(cache: Any, attention: Any) -> int:
    """Number of real tokens that a cache already holds for this attention layer."""
    return 0 if cache is None else int(cache.get_seq_length(attention.layer_idx))


def first_bias(attention: Any, bias: Tensor | None, length: int, past: int) -> Tensor:
    """The relative bias [1, heads, length, past + length] that a block received, or that the first block computes."""
    if bias is not None:
        return bias
    return attention.compute_bias(length, past + length, past_seen_tokens=past)


def contains(outer: list[Block], inner: list[Block]) -> bool:
    """Whether one span of blocks lies within another."""
    return outer[0].stack is inner[0].stack and outer[0].index <= inner[0].index and inner[-1].index <= outer[-1].index


def overlap(one: list[Block], two: list[Block]) -> bool:
    """Whether two spans share blocks."""
    return one[0].stack is two[0].stack and one[0].index <= two[-1].index and two[0].index <= one[-1].index


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
