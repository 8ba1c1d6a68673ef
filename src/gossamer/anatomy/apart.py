"""Attention to a memory apart from a sequence, and the two merged: what one joint softmax gives, with nothing concatenated.

    o, l = attention over the sequence,  o_m, l_m = over the memory         l: log of the sum of exponentials, for every query
    softmax([q K_m^T; q K^T]) [V_m; V] = (e^l o + e^l_m o_m) / (e^l + e^l_m)

Keys and values of a sequence stay where they are, masks and flags stay what they are, and a memory that is the same for all
samples is read once for all of their queries instead of being copied for each. The backward pass calls the kernel's own for each
part with the merged output and logarithm, which are all that it needs to know of the other part.

torch gives the logarithm, and takes one in the backward pass, through the kernels beneath `scaled_dot_product_attention`. Used is
that of the CPU. Those of GPUs differ by type and generation and have not been measured here: there, under torch.compile, in
exports, with dropout of weights and where heads share keys the joined form is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

forward_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
backward_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def fits(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> bool:
    """Whether attention of queries [B, heads, N, d_h] over a sequence's keys and values is to be merged with that over a memory."""
    here = type(query) is Tensor and query.device.type == "cpu" and not torch.compiler.is_compiling()
    here = here and torch.backends.cuda.flash_sdp_enabled()  # torch's switch of such kernels, on processors too
    alike = query.shape[1] == key.shape[1] and query.shape[-1] == value.shape[-1] and query.dtype == key.dtype
    takes = mask is None or (mask.dim() == 4 and mask.shape[-1] == key.shape[2] and not mask.requires_grad)
    return here and alike and takes and dropout == 0


def merged(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    memory: tuple[Tensor, Tensor],
    *,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> Tensor:
    """softmax([q K_m^T s; q K^T s + mask]) [V_m; V].

    Args:
        query: [B, heads, N, d_h].
        key, value: of the sequence [B, heads, M, d_h].
        memory: keys and values that every query sees, [1 or B, heads, p, d_h].
        mask: of the sequence [B or 1, heads or 1, N or 1, M], boolean (True: visible) or additive; without a gradient.
        causal: each query sees the keys of the sequence up to its own; then without a mask.
        scale: s.

    Returns: [B, heads, N, d_h].
    """
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
        # Of a query that sees nothing of the sequence the kernel would give no number.
        mask = mask.to(query.dtype).clamp(min=torch.finfo(query.dtype).min)
    return _Merged.apply(query, key, value, *memory, mask, causal, scale)  # type: ignore[return-value]


def _folded(x: Tensor, samples: int) -> Tensor:
    """Rows [B, heads, N, d] -> [B / samples, heads, samples N, d]; of what a Linear gave, a view."""
    if samples == 1:
        return x
    batch, heads, length, width = x.shape
    return x.transpose(1, 2).reshape(batch // samples, samples * length, heads, width).transpose(1, 2)


def _unfolded(x: Tensor, samples: int) -> Tensor:
    """The inverse of `_folded`."""
    if samples == 1:
        return x
    batch, heads, length, width = x.shape
    return x.transpose(1, 2).reshape(batch * samples, length // samples, heads, width).transpose(1, 2)


class _Merged(torch.autograd.Function):
    """See `merged`."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool,
        scale: float,
    ) -> Tensor:  # fmt: skip
        """Both attentions, merged."""
        samples = query.shape[0] // keys.shape[0]
        output, log = forward_kernel(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)
        other, other_log = forward_kernel(_folded(query, samples), keys, values, 0.0, False, scale=scale)
        other_log = _unfolded(other_log[..., None], samples)[..., 0]
        share = torch.sigmoid(other_log - log).to(query.dtype)[..., None]
        output = torch.lerp(output, _unfolded(other, samples), share)
        ctx.save_for_backward(query, key, value, keys, values, mask, output, torch.logaddexp(log, other_log))
        ctx.causal, ctx.scale, ctx.samples = causal, scale, samples
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Those of queries, keys and values, and of the memory's keys and values, as far as they are asked for."""
        query, key, value, keys, values, mask, output, log = ctx.saved_tensors
        of_query, of_sequence, of_memory = (
            ctx.needs_input_grad[0],
            any(ctx.needs_input_grad[1:3]),
            any(ctx.needs_input_grad[3:5]),
        )
        found: list[Tensor | None] = [None] * 5
        if of_query or of_sequence:
            found[:3] = backward_kernel(
                gradient, query, key, value, output, log, 0.0, ctx.causal, attn_mask=mask, scale=ctx.scale
            )
        if of_query or of_memory:
            samples = ctx.samples
            rows = [_folded(x, samples) for x in (gradient, query, output, log[..., None])]
            to_query, *found[3:] = backward_kernel(
                rows[0], rows[1], keys, values, rows[2], rows[3][..., 0], 0.0, False, scale=ctx.scale
            )
            if of_query:
                found[0] = found[0] + _unfolded(to_query, samples)  # type: ignore[operator]
        return (*found, None, None, None)
