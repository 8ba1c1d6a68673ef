"""Attention in windows, built from the Linears, as families of windowed backbones derive it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from gossamer.anatomy.memory import OwnAttention


class WindowAttention(OwnAttention):
    """Base of the attentions in windows: a bias by relative position, and a mask in windows of parts that do not touch.

    Tokens in front of a window's own (x has more rows than the bias) have no position: no bias, and no mask.
    """

    def attend_in_windows(
        self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor, mask: Tensor | None, **options: Any
    ) -> Tensor:
        """q, k, v [B windows, heads, p + w^2, d_h], bias [1, heads, w^2, w^2], mask [windows, w^2, w^2] -> as q.

        `options` are those of `attend`.
        """
        front = q.shape[2] - bias.shape[-1]
        both = bias
        if mask is not None:
            both = bias + mask.repeat(q.shape[0] // mask.shape[0], 1, 1)[:, None]
        return self.attend(q, k, v, mask=F.pad(both, (front, 0, front, 0)).to(q.dtype), **options)
