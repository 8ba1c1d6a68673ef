"""Trials of an attention with a memory: does it read one, and make of it what it makes of the same tokens in front of others?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.anatomy import memory
from gossamer.anatomy.block import Block, get
from gossamer.anatomy.call import Arguments
from gossamer.anatomy.probe import made_up, required
from gossamer.anatomy.projection import quantised

PRECISE = (torch.float32, torch.float64)


class _Rows(nn.Module):
    """A memory of fixed keys and values, each [1, p, inner_kv]."""

    def __init__(self, keys: Tensor, values: Tensor):
        super().__init__()
        self.rows = keys, values

    def forward(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.rows


@torch.no_grad()
def remembering(block: Block, branch: str = "attention") -> str | None:
    """Why a block's self- or cross-attention cannot remember, or None where a small probe shows that it can.

    The probe: without a memory our attention equals the family's own; with one, the answer changes, to that which it gives where
    the remembered tokens stand in front of the others, if they can.
    """
    attention, own = block.part(branch), block.stack.own_attention
    if memory.memory_of(attention) is not None:
        return None
    if own is None:
        implementation = getattr(getattr(attention, "config", None), "_attn_implementation", None)
        if implementation not in memory.NAMES:
            return f"its attention implementation is {implementation!r}; load the model with 'sdpa' or 'eager'"
    if hasattr(attention, memory.CHILD):
        return f"{type(attention).__name__} has something of its own called {memory.CHILD!r}"
    out, device, dtype = block.part("out"), block.device, block.dtype
    if device.type == "meta" or not (quantised(out) or type(out.weight.data) is Tensor):
        return (
            None  # no values, or pieces of them (FSDP): nothing to compute with; it was tried when the model was whole
        )
    cross, window = branch == "cross", block.window
    width = block.sizes.cross_inner if cross else block.sizes.inner_kv
    keys = torch.linspace(-1, 1, 2 * width, device=device, dtype=dtype).view(1, 2, width)
    tokens = None if cross else _standing(block)
    rows = _Rows(keys, 1 + keys) if tokens is None else _Rows(*block.keys_values(tokens))
    places: int | tuple[int, int] = block.prefix + 3 if window is None else window[0] * window[1]
    if block.stack.fixed is not None:
        places = block.stack.fixed(block.module)[0]
    shape = (2, *((places,) if isinstance(places, int) else places), block.sizes.width)
    was_training = attention.training
    x = torch.arange(math.prod(shape), device=device).float().sin()
    x = x.to(dtype).view(shape)
    x = x if block.stack.packed is None else x[0] if block.stack.packed == "rows" else x[:1]
    attention.eval()
    try:
        expected = attend(block, attention, x, cross=cross)
        ours = memory.attach(block, branch)
        try:
            block.part(branch).eval()
            found = attend(block, block.part(branch), x, cross=cross)
            ours.parts.append(rows)
            changed = attend(block, block.part(branch), x, cross=cross)
        finally:
            memory.detach(block, branch)
        among = None if tokens is None else _among(block, attention, tokens, x)
    finally:
        attention.train(was_training)
    tolerance = 1e-5 if dtype in PRECISE and not quantised(out) else 2e-2
    error = _apart(found, expected)
    if not error <= tolerance:
        return f"without a memory our attention differs from {type(attention).__name__}'s own by {error:.1e} in a probe"
    if torch.equal(changed, found):
        return f"{type(attention).__name__} does not read a memory (it does not call the attention interface)"
    if among is not None and not (error := _apart(changed, among)) <= tolerance:
        return (
            f"what {type(attention).__name__} makes of a memory differs by {error:.1e} in a probe from what it makes of the same "
            "tokens in front: something is done to its queries or keys that its family does not say"
        )
    return None


def _standing(block: Block) -> Tensor | None:
    """Two tokens [1, 2, d] to be remembered, and to stand in front of others; None where none can stand there in a trial."""
    stack = block.stack
    if (
        stack.fixed
        or stack.windows
        or stack.packed
        or stack.patch_rotary
        or stack.relative_bias
        or block.attention.bias
    ):
        return None
    return made_up((1, 2, block.sizes.width), block.device, block.dtype)


def _among(block: Block, attention: Any, tokens: Tensor, x: Tensor) -> Tensor:
    """What an attention gives x [B, N, d], which is normed, where tokens [1, 2, d], which are not, stand in front: unturned."""
    norm = block.attention.norm
    front = get(block.module, norm).forward(tokens) if norm else tokens
    return attend(block, attention, torch.cat([front.expand(len(x), -1, -1), x], dim=1), unturned=2)[:, 2:]


def _apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest value, however small that is; rounded states are held against 1 at least."""
    floor = torch.finfo(expected.dtype).tiny if expected.dtype in PRECISE else 1
    return float((found - expected).abs().max() / (floor + expected.abs().max()))


def attend(block: Block, attention: Any, x: Tensor, *, cross: bool = False, unturned: int = 0) -> Tensor:
    """One bare call of an attention module: no mask, positions in order; cross-attention reads some states of their width.

    Of x [B, N, d] the first `unturned` have no position.
    """
    takes = Arguments(attention)
    told = {} if block.stack.fixed is None else block.stack.fixed(block.module)[1]
    given: dict[str, Any] = {
        **required(attention),
        **{name: value for name, value in told.items() if name in takes.order},
    }
    if block.attention.adds is not None and not cross:
        given[block.attention.adds] = torch.zeros_like(x)
    call = takes.read((), given)
    call.states, call.context = x, None
    if cross:
        call.context = made_up((*x.shape[:-1], block.sizes.context), x.device, x.dtype)
    if block.alibi:
        call.bias = x.new_zeros(len(x), block.sizes.inner // block.head_width, 1, x.shape[1])
    places = torch.arange(x.shape[-2] - unturned, device=x.device)[None]
    if takes.takes("positions"):
        call.positions = torch.cat([places.new_zeros(1, unturned), places], dim=-1)
    if takes.takes("rotary"):
        cosine, sine = block.tables(x, places)
        still = cosine[..., :unturned, :]
        call.rotary = torch.cat([torch.ones_like(still), cosine], -2), torch.cat([torch.zeros_like(still), sine], -2)
    args, kwargs = takes.write(call, (), given)
    kwargs.pop(takes.names["states"])
    output = attention(x, *args, **kwargs)
    return output[0] if isinstance(output, tuple) else output
