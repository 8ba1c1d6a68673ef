"""Attention with a memory: extra keys and values that every query may attend to, in one joint softmax.

Two seams carry it. Families of transformers that follow its `AttentionInterface` keep their own attention module and call the
functions registered here, which join the module's memory to its keys and values and widen mask and bias. Families without a
public seam name a class (`Stack.own_attention`) that computes the same attention from the block's own Linears.

A memory is a part: part(batch) = keys, values, each [1 or batch, p, inner_kv], and, where samples remember different numbers of
them, which of these each sample sees, [batch, p].
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from gossamer.anatomy.displaced import Displaced
from gossamer.errors import UnknownName

if TYPE_CHECKING:
    from gossamer.anatomy.block import Block

NAMES = {"sdpa": "gossamer_sdpa", "eager": "gossamer_eager"}
CHILD = "remembered"  # the name of a Memory in its attention


class Memory(Displaced):
    """What an attention does beside its own work, as a child of it for as long as somebody wants something of it.

    Attributes:
        parts: whose keys and values it remembers. They belong to the trees of methods, so they are no children.
        users: how many want the attention to be ours.
        config: the attention's own configuration, where it has a copy of it meanwhile.
        log_weights: first key and logits [p] that are added for it and those behind it; None: nothing.
        log_sizes: [B, N], logits that are added for the attention's own keys; None: nothing.
        kept: keys [1 or B, heads, p, d_h] that were remembered in the last call, where `keeps` asks for them.
        watched: gets the weights of every call; None: nobody watches.
    """

    def __init__(self, config: Any = None, *displaced: nn.Module):
        super().__init__(*displaced)
        self.parts: list[nn.Module] = []
        self.users = 0
        self.config = config
        self.log_weights: tuple[int, Tensor] | None = None
        self.log_sizes: Tensor | None = None
        self.keeps = False
        self.kept: Tensor | None = None
        self.watched: list[Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"log_sizes": None, "kept": None}  # of the last pass: no state

    @property
    def looked_at(self) -> bool:
        """Whether somebody needs the mask as a tensor."""
        return self.log_weights is not None or self.log_sizes is not None or self.watched is not None


def memory_of(attention: nn.Module) -> Memory | None:
    """The memory of an attention; None while nobody wants one."""
    found = attention._modules.get(CHILD)
    return found if isinstance(found, Memory) else None


class Joined(NamedTuple):
    """Keys and values [B, heads_kv, p + N, d_h] with a module's memories in front.

    Attributes:
        keys, values: all of them.
        count: p, how many were remembered.
        visible: [B, p], which of these each sample sees; None: all.
    """

    keys: Tensor
    values: Tensor
    count: int
    visible: Tensor | None


def join(module: nn.Module, keys: Tensor, values: Tensor) -> Joined:
    """Keys and values [B, heads_kv, N, d_h] with the module's memories in front."""
    memory, found = memory_of(module), remembered(module, keys)
    if memory is not None and memory.keeps:
        memory.kept = None if found is None else found[0].detach().expand(keys.shape[0], -1, -1, -1)
    if found is None:
        return Joined(keys, values, 0, None)
    own_keys, own_values = (rows.expand(keys.shape[0], -1, -1, -1) for rows in found[:2])
    both = torch.cat([own_keys, keys], dim=2), torch.cat([own_values, values], dim=2)
    return Joined(*both, own_keys.shape[2], found[2])


def remembered(module: nn.Module, like: Tensor) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Keys and values [1 or B, heads_kv, p, d_h] that a module remembers beside keys `like` [B, heads_kv, N, d_h]; None: nothing.

    The part that came last stands first. The third are those that each sample sees, as in `Joined`.
    """
    batch, heads, _, width = like.shape
    memory = memory_of(module)
    parts = [] if memory is None else memory.parts
    supplied = [part(batch) for part in reversed(parts)]
    found = [[r.to(like.dtype).unflatten(-1, (heads, width)).transpose(1, 2) for r in s[:2]] for s in supplied]
    seen = [s[2] if len(s) > 2 else None for s in supplied]
    if len(found) < 2:
        return (found[0][0], found[0][1], seen[0]) if found else None
    most = max(keys.shape[0] for keys, _ in found)
    keys, values = (torch.cat([pair[i].expand(most, -1, -1, -1) for pair in found], dim=2) for i in (0, 1))
    if all(s is None for s in seen):
        return keys, values, None
    rows = [
        like.new_ones(batch, pair[0].shape[2], dtype=torch.bool) if s is None else s
        for s, pair in zip(seen, found, strict=True)
    ]
    return keys, values, torch.cat(rows, dim=1)


def columns_of(attention: nn.Module, part: nn.Module) -> slice:
    """Which of an attention's keys are those that a part supplies: the part that came last stands first.

    Raises:
        UnknownName: the attention does not remember it.
    """
    memory, start = memory_of(attention), 0
    for other in reversed([] if memory is None else memory.parts):
        count = other(1)[0].shape[1]
        if other is part:
            return slice(start, start + count)
        start += count
    raise UnknownName(f"{type(attention).__name__} does not remember what this {type(part).__name__} supplies")


def widen(mask: Tensor | None, count: int) -> Tensor | None:
    """A mask [..., N_k] with `count` visible keys in front; boolean (True: visible) or additive (0: visible)."""
    if mask is None or count == 0:
        return mask
    return torch.cat([mask.new_full((*mask.shape[:-1], count), mask.dtype == torch.bool), mask], dim=-1)


def weigh(module: nn.Module, mask: Tensor | None, keys: Tensor) -> Tensor | None:
    """A mask for keys [..., N_k, d_h], with what was set for columns of this module added; then additive."""
    memory = memory_of(module)
    if memory is None or (memory.log_weights is None and memory.log_sizes is None):
        return mask
    count, precise = keys.shape[-2], torch.promote_types(keys.dtype, torch.float32)
    columns = keys.new_zeros(1, count, dtype=precise)
    if memory.log_weights is not None:
        start, logits = memory.log_weights
        columns = columns + F.pad(logits, (start, count - start - len(logits)))
    if memory.log_sizes is not None:
        columns = columns + F.pad(memory.log_sizes, (count - memory.log_sizes.shape[1], 0))
    columns = columns.to(keys.dtype)[:, None, None]
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=keys.dtype).masked_fill(~mask, torch.finfo(keys.dtype).min)
    return columns if mask is None else mask + columns


def hide(mask: Tensor | None, visible: Tensor | None, count: int) -> Tensor | None:
    """A mask for `count` keys that also hides those of the first p that are not `visible` [B, p] (None: all are)."""
    if visible is None:
        return mask
    shown = F.pad(visible, (0, count - visible.shape[1]), value=True)[:, None, None]
    if mask is None:
        return shown
    return mask & shown if mask.dtype == torch.bool else mask.masked_fill(~shown, torch.finfo(mask.dtype).min)


def causal_mask(length: int, count: int, device: torch.device) -> Tensor:
    """Boolean [1, 1, length, count + length]: every query sees the memory, and of the others those up to itself."""
    own = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return widen(own, count)[None, None]  # type: ignore[index]


def sdpa_with_memory(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' own sdpa attention over joined keys and values; [B, N, heads, d_h]."""
    key, value, mask, bias, causal = _joined(module, query, key, value, attention_mask, position_bias, is_causal)
    show(module, query, key, mask, bias, kwargs.get("scaling"))
    attend = AttentionInterface()["sdpa"]
    if bias is not None:
        attend = partial(attend, position_bias=bias)  # only T5's takes one
    return attend(module, query, key, value, mask, is_causal=causal, **kwargs)


def eager_with_memory(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T s + bias + mask) v over joined keys and values, with the weights [B, heads, N, p + N].

    With `softcap` c the logits q k^T s become c tanh(q k^T s / c) (Gemma 2). `s_aux` [heads] are logits of attention sinks, one
    more column without a value (gpt-oss).

    As in transformers' eager attentions, causality is in the mask and nowhere else.
    """
    key, value, mask, bias, _ = _joined(module, query, key, value, attention_mask, position_bias, False)
    show(module, query, key, mask, bias, scaling, softcap, s_aux)
    weights = softmax(query, key, mask, bias, scaling, softcap, s_aux)
    value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def softmax(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scaling: float | None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T s + bias + mask) [B, heads, N, M], for keys that several heads may share; without what sinks [heads] take."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        least = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, least) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return weights if sinks is None else weights[..., :-1]


def show(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scaling: float | None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> None:
    """Keeps the weights of attention for whoever watches this module."""
    memory = memory_of(module)
    if memory is not None and memory.watched is not None:
        memory.watched.append(softmax(query, key, mask, bias, scaling, softcap, sinks).detach())


def _joined(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    causal: bool | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, bool]:
    length = query.shape[2]
    causal = _is_causal(module, length, mask, causal)
    if causal and key.shape[2] > length:  # an unfilled static cache: only the first `length` keys exist
        key, value = key[:, :, :length], value[:, :, :length]
        bias = None if bias is None else bias[..., :length]
    key, value, count, visible = join(module, key, value)
    memory = memory_of(module)
    if causal and (count or (memory is not None and memory.looked_at)):
        mask, causal = causal_mask(length, count, query.device), False
    else:
        mask = widen(mask, count)
    mask = hide(weigh(module, mask, key), visible, key.shape[2])
    if bias is not None and count:
        bias = torch.cat([bias.new_zeros((*bias.shape[:-1], count)), bias], dim=-1)
    return key, value, mask, bias, causal


def _is_causal(module: nn.Module, length: int, mask: Tensor | None, said: bool | None) -> bool:
    """Whether each of `length` queries sees what stands before it alone, as a flag and not in a mask."""
    said = bool(getattr(module, "is_causal", False)) if said is None else bool(said)
    return said and mask is None and length > 1


AttentionInterface.register(NAMES["sdpa"], sdpa_with_memory)
AttentionInterface.register(NAMES["eager"], eager_with_memory)


class OwnAttention(nn.Module):
    """Base of the attentions that families build from a block's Linears; takes over the original's children and their names."""

    def __init__(self, original: nn.Module):
        super().__init__()
        for name, child in original.named_children():
            self.add_module(name, child)
        self.train(original.training)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, scale: float, dropout: float, unit: bool = False
    ) -> Tensor:
        """softmax(q k^T s + mask) v over this module's memory and the given keys; [B, heads, N, d_h] -> the same.

        With `unit` keys, those of the memory too, are made of length 1.
        """
        k, v, count, visible = join(self, k, v)
        k = F.normalize(k, dim=-1) if unit else k
        mask = hide(weigh(self, widen(mask, count), k), visible, k.shape[2])
        show(self, q, k, mask, None, scale)
        shared = q.shape[1] != k.shape[1]
        dropout = dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale, enable_gqa=shared)


def attach(block: Block, branch: str = "attention") -> Memory:
    """Makes a block's self- or cross-attention ours, for one more user; its memory, which may get parts."""
    attention = block.part(branch)
    memory = memory_of(attention)
    if memory is None and block.stack.own_attention is not None:
        memory = Memory(None, attention)
        ours = block.stack.own_attention(attention)
        for name, hooks in vars(attention).items():
            if name.startswith(("_forward_hooks", "_forward_pre_hooks")):
                vars(ours)[name] = hooks  # whoever listens to one of them, now or later, hears both
        ours.add_module(CHILD, memory)
        _set(block, branch, ours)
    elif memory is None:
        # A copy of the configuration for this one module: masks are still built for the original implementation.
        memory = Memory(attention.config)
        attention.add_module(CHILD, memory)
        attention.config = with_memory(attention.config)
    memory.users += 1
    return memory


def detach(block: Block, branch: str = "attention") -> None:
    """Takes back what `attach` did for one user."""
    attention = block.part(branch)
    memory = memory_of(attention)
    assert memory is not None, "it was attached"
    memory.users -= 1
    if memory.users:
        return
    if memory.held:
        _set(block, branch, memory.held[0])
    else:
        del attention._modules[CHILD]
        attention.config = memory.config


@contextmanager
def weighted(block: Block, start: int, log_weights: Tensor) -> Iterator[None]:
    """While the context lasts, log_weights [p] are added to the attention logits of the keys from `start` on, whoever asks."""
    memory = attach(block)
    memory.log_weights = start, log_weights
    try:
        yield
    finally:
        memory.log_weights = None
        detach(block)


@contextmanager
def watched(block: Block) -> Iterator[list[Tensor]]:
    """While the context lasts, the list gets the weights [B, heads, N, p + N] of every call of a block's self-attention.

    Keys that are remembered come first. In windows B counts windows.
    """
    memory = attach(block)
    memory.watched = seen = []
    try:
        yield seen
    finally:
        memory.watched = None
        detach(block)


def with_memory(config: Any) -> Any:
    """A copy of a configuration whose attention implementation looks for memories."""
    config = copy.copy(config)
    config._attn_implementation = NAMES[config._attn_implementation]
    return config


def _set(block: Block, branch: str, attention: nn.Module) -> None:
    parent, _, child = (block.path(branch) or "").rpartition(".")
    setattr(block.module.get_submodule(parent), child, attention)
