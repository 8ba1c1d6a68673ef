"""Transformer blocks computed by hand from their weights, as the definition that the verbs are held against.

Written from the papers' formulas; `tests.twins` says which modules a kind of block has.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer as gm

from .contract.table import BACKBONES, run
from .twins import Names

Function = Callable[..., Tensor]
KINDS: dict[tuple[str, str], Names] = {
    (row, stack): names
    for row, backbone in BACKBONES.items()
    if not isinstance(backbone.kinds, str)
    for stack, names in backbone.kinds.items()
}
"""Every stack of every backbone whose blocks are computed here."""


@dataclass
class Changes:
    """What verbs did to a block: functions of (x, branch(x)) by branch, and so on."""

    add: dict[str, Function] = field(default_factory=dict)
    normed: bool = True
    damped: bool = True
    middle: Function | None = None
    ffn_reads: Function | None = None
    memory: tuple[Tensor, Tensor] | None = None  # keys, values [1 or B, p, inner_kv]


@dataclass
class Call:
    """One block of an untouched model in one forward pass: its weights, and its arguments by what they mean."""

    names: Names
    module: nn.Module
    x: Tensor
    mask: Tensor | None = None  # [B or 1, 1, N, M]: boolean (True: visible) or additive
    bias: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    side: Tensor | None = None
    side_mask: Tensor | None = None
    given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    output: Any = None

    @property
    def states(self) -> Tensor:
        return self.output[0] if isinstance(self.output, tuple) else self.output


def block(call: Call, changes: Changes | None = None) -> Tensor:
    """The block's states [B, N, d], from the weights alone."""
    names, module, changes = call.names, call.module, changes or Changes()
    get = module.get_submodule
    scales = [attrgetter(n)(module) for n in names.layer_scale] if names.layer_scale else [1.0, 1.0]
    closing = [get(n) for n in names.closing] if names.closing else [nn.Identity(), nn.Identity()]

    def branch(name: str, norm: nn.Module, compute: Function, x: Tensor, scale: Function) -> Tensor:
        entering = x if names.post else norm(x)
        if name == "ffn" and changes.ffn_reads is not None:
            entering = entering + changes.ffn_reads(x)
        y = compute(entering) if changes.damped else scale(compute(entering))
        if name in changes.add:
            y = y + changes.add[name](entering if changes.normed else x, y)
        y = scale(y) if changes.damped else y
        return norm(x + y) if names.post else x + y

    norms = [get(n) for n in names.norms] or [nn.Identity()]
    attention = partial(_attention, call, changes)
    x = branch("attention", norms[0], attention, call.x, lambda y: scales[0] * closing[0](y))
    if names.cross is not None:
        x = branch("cross", norms[1], partial(_cross, call), x, lambda y: y)
    if changes.middle is not None:
        x = x + changes.middle(x)
    return branch("ffn", norms[-1], partial(_ffn, names, module), x, lambda y: scales[1] * closing[1](y))


def _ffn(names: Names, module: nn.Module, x: Tensor) -> Tensor:
    *gate, up, down = (module.get_submodule(n) for n in names.ffn)
    if not gate and up.out_features == 2 * down.in_features:
        gated, entering = up(x).chunk(2, dim=-1)[:: -1 if names.gate_last else 1]
        return down(names.act(gated) * entering)
    return down(names.act(gate[0](x)) * up(x) if gate else names.act(up(x)))


def _cross(call: Call, x: Tensor) -> Tensor:
    names = call.names
    assert names.cross is not None
    assert call.side is not None
    q, k, v, out = (call.module.get_submodule(n) for n in names.cross)
    heads = [_split(t, names.heads) for t in (q(x), k(call.side), v(call.side))]
    return out(_softmax(names, *heads, call.side_mask, None))


def _attention(call: Call, changes: Changes, x: Tensor) -> Tensor:
    names, get = call.names, call.module.get_submodule
    out = get(names.attention[3])
    queries, keys, values = projected(names, call.module, x, normed=not names.norms_last)
    width = queries.shape[-1] // names.heads
    queries, keys, values = (_split(t, t.shape[-1] // width) for t in (queries, keys, values))
    if call.rotary is not None:
        queries, keys = (_rotate(t, *call.rotary, pairs=names.pairs) for t in (queries, keys))
    if names.norm_qk and names.norms_last:
        queries, keys = (get(n)(t) for n, t in zip(names.norm_qk, (queries, keys), strict=True))
    mask, bias = call.mask, call.bias
    if changes.memory is not None:
        own_keys, own_values = (_split(t.expand(len(x), -1, -1), t.shape[-1] // width) for t in changes.memory)
        keys, values = torch.cat([own_keys, keys], 2), torch.cat([own_values, values], 2)
        p = own_keys.shape[2]
        mask = None if mask is None else F.pad(mask, (p, 0), value=True if mask.dtype == torch.bool else 0.0)
        bias = None if bias is None else F.pad(bias, (p, 0))
    return out(_softmax(names, queries, keys, values, mask, bias))


def projected(names: Names, module: nn.Module, x: Tensor, *, normed: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of states that are normalised already, [B, N, inner], queries and keys behind their norms."""
    q, k, v, out = (module.get_submodule(n) for n in names.attention)
    if q is k:
        d = out.in_features
        rest = (q.out_features - d) // 2
        groups = names.heads if names.grouped else 1
        parts = q(x).unflatten(-1, (groups, -1)).split([d // groups, rest // groups, rest // groups], dim=-1)
        queries, keys, values = (part.flatten(-2) for part in parts)
    else:
        queries, keys, values = q(x), k(x), v(x)
    if names.apart:
        queries, values = (t + attrgetter(n)(module) for n, t in zip(names.apart, (queries, values), strict=True))
    if names.norm_qk and normed:
        width = queries.shape[-1] // names.heads
        norms = [module.get_submodule(n) for n in names.norm_qk]
        if norms[0].weight.numel() == width:
            split = [t.unflatten(-1, (-1, width)) for t in (queries, keys)]
            queries, keys = (norm(t).flatten(-2) for norm, t in zip(norms, split, strict=True))
        else:
            queries, keys = norms[0](queries), norms[1](keys)
    return queries, keys, values


def _split(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor, *, pairs: bool) -> Tensor:
    """The last rows of x [B, heads, N, d_h], as many as there are in the tables [1, n, d_h]."""
    half, front = x.shape[-1] // 2, x.shape[2] - cosine.shape[-2]
    still, turned = x[:, :, :front], x[:, :, front:]
    across = torch.cat([-turned[..., half:], turned[..., :half]], -1)
    if pairs:
        across = torch.stack([-turned[..., 1::2], turned[..., ::2]], -1).flatten(-2)
    return torch.cat([still, turned * cosine[:, None] + across * sine[:, None]], 2)


def _softmax(names: Names, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    k, v = (t.repeat_interleave(names.heads // t.shape[1], 1) for t in (k, v))
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if names.scale is None else names.scale)
    scores = scores if bias is None else scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e30) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def record(row: str, stack: str, attention: str = "sdpa") -> list[Call]:
    """What every block of a stack is given, and answers, in one forward pass of the row's model."""
    calls: dict[nn.Module, Call] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls[module] = _understood(row, stack, module, args, kwargs, output)

    model = BACKBONES[row].model(attention)
    model.requires_grad_(False)
    blocks = gm.read(model).blocks(stack)
    handles = [b.module.register_forward_hook(keep, with_kwargs=True) for b in blocks]
    run(model, BACKBONES[row].inputs())
    for handle in handles:
        handle.remove()
    return [calls[b.module] for b in blocks]


def _understood(row: str, stack: str, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Call:
    names = KINDS[row, stack]
    meanings = {
        "hidden_states": "x", "x": "x", "attention_mask": "mask", "attn_mask": "mask", "position_bias": "bias",
        "position_embeddings": "rotary", "rope": "rotary", "encoder_hidden_states": "side", "encoder_attention_mask": "side_mask",
        "alibi": "bias",
    }  # fmt: skip
    order = list(inspect.signature(type(module).forward).parameters)[1:]
    given = {**dict(zip(order, args, strict=False)), **kwargs}
    found = {meanings[k]: v for k, v in given.items() if k in meanings}
    if row.startswith("t5"):
        found["bias"] = output[1]
    elif names.bias is not None:
        found["bias"] = names.bias(module, found["x"].shape[1])
    if row == "bloom":  # one for each head of each sample, the same for all queries
        found["bias"] = found["bias"].unflatten(0, (-1, names.heads))
    if row == "mpnet":  # it repeats one for all samples
        found["bias"] = found["bias"][:1]
    found |= {n: found[n][:, None] for n in ("mask", "side_mask") if found.get(n) is not None and found[n].dim() == 3}
    if isinstance(tables := found.get("rotary"), Tensor):  # timm's, the sine in front
        found["rotary"] = tables[None].chunk(2, dim=-1)[::-1]
    elif tables is not None and tables[0].dim() == 2:
        found["rotary"] = tuple(t[None] for t in tables)
    if found.get("mask") is None and stack == "decoder":  # left out: every token sees those up to itself
        length = found["x"].shape[1]
        found["mask"] = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    # A cache would be filled a second time when the block is called again.
    kwargs = {k: v for k, v in kwargs.items() if k not in ("cache", "past_key_values", "layer_past", "use_cache")}
    return Call(names, module, **found, given=(args, kwargs), output=output)
