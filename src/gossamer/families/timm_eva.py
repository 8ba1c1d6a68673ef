"""timm's Eva (EVA-02, DINOv3, PE, ViTs with rotary positions), DeepSeek's ViT: patches are rotated, tokens in front of them not.

Its attention keeps the biases of q and v beside a fused qkv, or has three Linears, of which keys and values may be shared by heads.
"""

import dataclasses
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.anatomy.stack import AttentionNames, FfnNames, MapNames, Stack
from gossamer.errors import UserError
from gossamer.families.timm_beit import BiasedApart


def rotated(x: Tensor, tables: Tensor, front: int, *, halves: bool) -> Tensor:
    """x [B, heads, N, d_h] with the rows behind the first `front` rotated by [.., N - front, 2 d_h], sines before cosines.

    A coordinate is paired with its neighbour, or (`halves`) with the one half a width further.
    """
    sine, cosine = tables.chunk(2, dim=-1)
    still, turned = x[..., :front, :], x[..., front:, :]
    if halves:
        one, two = turned.chunk(2, dim=-1)
        across = torch.cat([-two, one], dim=-1)
    else:
        across = torch.stack([-turned[..., 1::2], turned[..., ::2]], dim=-1).flatten(-2)
    return torch.cat([still, (turned * cosine + across * sine).to(x.dtype)], dim=-2)


class EvaAttention(BiasedApart):
    """timm's EvaAttention and AttentionRope with a memory, whose keys are not rotated."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    norm: nn.Module

    def __init__(self, original: Any):
        super().__init__(original)
        self.scale: float = original.scale
        self.head_dim: int = original.proj.in_features // self.num_heads  # timm 1.0.25 keeps no head_dim
        self.front: int = original.num_prefix_tokens
        self.halves: bool = getattr(original, "rotate_half", False)  # newer timm only, as the next
        self.gate: nn.Module | None = getattr(original, "gate", None)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x [B, N, d]; there may be fewer heads of the latter."""
        if "qkv" in self._modules:
            return super().project(x)
        split = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (f(x).view(split).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        return q, k, v

    def forward(
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """[B, N, d], tables of the patches, a mask -> [B, N, d]."""
        if is_causal:
            raise UserError("timm attention with remembered keys takes masks, not is_causal")
        q, k, v = self.project(x)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = (rotated(t, rope, self.front, halves=self.halves).to(v.dtype) for t in (q, k))
        attended = self.attend(q, k, v, mask=attn_mask, scale=self.scale, dropout=self.attn_drop.p)
        y = self.norm(attended.transpose(1, 2).flatten(2))
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(y))


_APART = AttentionNames(
    module="attn",
    q="attn.q_proj",
    k="attn.k_proj",
    v="attn.v_proj",
    out="attn.proj",
    norm="norm1",
    heads="num_heads",
    scaling="scale",
    q_norm="attn.q_norm",
    k_norm="attn.k_norm",
    layer_scale="gamma_1",
    returns=0,
)
_FUSED = dataclasses.replace(
    _APART,
    q="attn.qkv.q",
    k="attn.qkv.k",
    v="attn.qkv.v",
    fused="attn.qkv",
    apart=("attn.q_bias", "attn.k_bias", "attn.v_bias"),
    bypassed=True,
)

_EVA = Stack(
    name="vision",
    owners=("timm.Eva",),
    blocks="blocks",
    attention=(_FUSED, _APART),
    ffn=(
        FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2", layer_scale="gamma_2"),
        FfnNames(up="mlp.fc1_x", gate="mlp.fc1_g", down="mlp.fc2", norm="norm2", layer_scale="gamma_2"),
    ),
    prefix=("num_prefix_tokens",),
    patches="patch_embed",
    patches_norm="norm_pre",
    patch_convolution=("patch_embed.proj",),
    final_norm=("norm", "fc_norm"),
    own_attention=EvaAttention,
    patch_rotary=True,
)

STACKS = (
    _EVA,
    dataclasses.replace(
        _EVA,
        owners=("timm.DeepseekVitEncoder",),
        attention=(dataclasses.replace(_FUSED, layer_scale=None, apart=None, bypassed=False),),
        ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2"),),
        prefix=0,
        readout="mean",
        final_norm=("norm",),
        gives=MapNames(width=attrgetter("embed_dim"), channels_last=True),
    ),
)
