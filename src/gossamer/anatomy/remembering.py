"""Whether a block's attention can have a memory: a small trial of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gossamer.anatomy.call import Arguments, Call
from gossamer.anatomy.memory import CHILD, NAMES, attach, detach, memory_of

if TYPE_CHECKING:
    from gossamer.anatomy.block import Block


class _Probe(nn.Module):
    """A memory of two fixed rows, to see whether an attention really reads memories."""

    def __init__(self, width: int, like: Tensor):
        super().__init__()
        self.rows = torch.linspace(-1, 1, 2 * width, device=like.device, dtype=like.dtype).view(1, 2, width)

    def forward(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.rows, 1 + self.rows


@torch.no_grad()
def obstacle(block: Block, branch: str = "attention") -> str | None:
    """Why a block's self- or cross-attention cannot remember, or None where a small probe shows that it can.

    The probe: without a memory our attention equals the family's own; with one, the answer changes.
    """
    attention, own = block.part(branch), block.stack.own_attention
    if memory_of(attention) is not None:
        return None
    if own is None:
        implementation = getattr(getattr(attention, "config", None), "_attn_implementation", None)
        if implementation not in NAMES:
            return f"its attention implementation is {implementation!r}; load the model with 'sdpa' or 'eager'"
    if hasattr(attention, CHILD):
        return f"{type(attention).__name__} has something of its own called {CHILD!r}"
    weight = block.part("out").weight
    if weight.device.type == "meta":
        return None  # nothing to compute with; the structure was checked when the model was read
    cross, window = branch == "cross", block.window
    probe = _Probe(block.sizes.cross_inner if cross else block.sizes.inner_kv, weight)
    was_training, count = attention.training, 3 if window is None else window[0] * window[1]
    x = torch.arange(2 * count * block.sizes.width, device=weight.device).float().sin()
    x = x.to(weight.dtype).view(2, count, -1)
    attention.eval()
    try:
        expected = call(block, attention, x, cross=cross)
        memory = attach(block, branch)
        try:
            block.part(branch).eval()
            found = call(block, block.part(branch), x, cross=cross)
            memory.parts.append(probe)
            changed = call(block, block.part(branch), x, cross=cross)
        finally:
            detach(block, branch)
    finally:
        attention.train(was_training)
    tolerance = 1e-5 if weight.dtype == torch.float32 else 2e-2
    error = float((found - expected).abs().max() / (1 + expected.abs().max()))
    if not error <= tolerance:
        return f"without a memory our attention differs from {type(attention).__name__}'s own by {error:.1e} in a probe"
    if torch.equal(changed, found):
        return f"{type(attention).__name__} does not read a memory (it does not call the attention interface)"
    return None


def call(block: Block, attention: Any, x: Tensor, *, cross: bool = False) -> Tensor:
    """One bare call of an attention module: no mask, no rotation; cross-attention reads the same states."""
    takes = Arguments(attention)
    given = Call(states=x, context=x if cross else None)
    if takes.takes("rotary"):
        ones = torch.ones(1, x.shape[1], block.head_width, dtype=x.dtype, device=x.device)
        given.rotary = ones, torch.zeros_like(ones)
    args, kwargs = takes.write(given, (x,), {})
    output = attention(*args, **kwargs)
    return output[0] if isinstance(output, tuple) else output
