"""GroupViT's text tower: CLIP's blocks, with attention that has no public seam. Its images become groups, which is refused."""

import dataclasses
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import Stack
from gossamer.families.clip import STACKS as CLIP


class GroupAttention(OwnAttention):
    """GroupViTAttention with a memory, on texts; returns (states [B, N, d], None)."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    out_proj: nn.Module

    def __init__(self, original: Any):
        super().__init__(original)
        self.head_dim: int = original.head_dim
        self.scale: float = original.scale
        self.dropout: float = original.dropout

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """[B, N, d] and an additive mask -> ([B, N, d], None)."""
        split = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (f(hidden_states).view(split).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        attended = self.attend(q, k, v, mask=attention_mask, scale=self.scale, dropout=self.dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


_TEXT = next(stack for stack in CLIP if "clip_text_model" in stack.owners)

STACKS: tuple[Stack, ...] = (dataclasses.replace(_TEXT, owners=("groupvit_text_model",), own_attention=GroupAttention),)
