"""SAM's ViT, of transformers (SAM-HQ's too) and of timm: blocks on a map [B, h, w, d] that cut windows out of it by themselves.

Windows are padded, some blocks attend to all of the map, and positions are added to scores as the query sees them:
q . R_h[row of the query - row of the key] + q . R_w[the same of columns].
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, FfnNames, MapNames, Stack, WindowNames
from gossamer.errors import UserError


def distances(table: Tensor, side: int) -> Tensor:
    """Vectors [side, side, d_h] for the distance of each query to each key along one side, of a table [L, d_h].

    A table for another side is interpolated linearly.
    """
    count = 2 * side - 1
    if table.shape[0] != count:
        table = F.interpolate(table.T[None], size=count, mode="linear")[0].T
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places[None, :] + side - 1]


def decomposed_bias(q: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """q [B, heads, h, w, d_h] and vectors [h, h, d_h], [w, w, d_h] of distances -> logits [B, heads, h w, h w]."""
    rows, columns = torch.einsum("bnhwc,hkc->bnhwk", q, down), torch.einsum("bnhwc,wkc->bnhwk", q, across)
    return (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)


class OnMap(OwnAttention):
    """SAM's attention with a memory, which has no position."""

    qkv: nn.Module
    proj: nn.Module

    def __init__(self, original: Any):
        super().__init__(original)
        self.scale: float = original.scale
        self.positioned: bool = original.use_rel_pos
        if self.positioned:
            self.rel_pos_h, self.rel_pos_w = original.rel_pos_h, original.rel_pos_w

    def normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys as they are."""
        return q, k

    def attended(self, x: Tensor, heads: int, dropout: float) -> Tensor:
        """A whole map or its windows, [B, h, w, d] -> the same."""
        q, k, v = self.qkv(x.flatten(1, 2)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.normed(q, k)
        bias = None
        if self.positioned:
            h, w = x.shape[1:3]
            down, across = distances(self.rel_pos_h, h), distances(self.rel_pos_w, w)
            bias = decomposed_bias(q.unflatten(2, (h, w)), down, across)
        found = self.attend(q, k, v, mask=bias, scale=self.scale, dropout=dropout)
        return self.proj(found.transpose(1, 2).flatten(2)).view(x.shape)


class SamAttention(OnMap):
    """SamVisionAttention with a memory; returns (states, None) as the original."""

    def __init__(self, original: Any):
        super().__init__(original)
        self.num_attention_heads: int = original.num_attention_heads
        self.dropout: float = original.dropout

    def forward(self, hidden_states: Tensor, output_attentions: bool | None = None) -> tuple[Tensor, None]:
        """[B, h, w, d] -> ([B, h, w, d], None)."""
        if output_attentions:
            raise UserError("SAM with prompts does not return attention weights: detach the adapter first")
        return self.attended(hidden_states, self.num_attention_heads, self.dropout), None


class TimmSamAttention(OnMap):
    """The attention of timm's VisionTransformerSAM with a memory.

    Raises:
        UserError: it turns queries and keys by their places.
    """

    q_norm: nn.Module
    k_norm: nn.Module
    attn_drop: nn.Dropout
    proj_drop: nn.Module

    def __init__(self, original: Any):
        super().__init__(original)
        self.num_heads: int = original.num_heads
        if original.rope is not None:
            raise UserError(
                "this SAM turns queries and keys by their places (use_rope=True), which no memory can follow"
            )

    def normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Each head by norms of its own, where there are any."""
        return self.q_norm(q), self.k_norm(k)

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, d] -> the same."""
        return self.proj_drop(self.attended(x, self.num_heads, self.attn_drop.p))


def lone_map(block: Any) -> tuple[tuple[int, int], dict[str, Any]]:
    """A block alone takes a map of 2 x 3."""
    return (2, 3), {}


SAM_ATTENTION = AttentionNames(
    module="attn",
    q="attn.qkv.q",
    k="attn.qkv.k",
    v="attn.qkv.v",
    fused="attn.qkv",
    out="attn.proj",
    norm="layer_norm1",
    scaling="scale",
    heads="num_attention_heads",
)
_TIMM = dataclasses.replace(
    SAM_ATTENTION, norm="norm1", heads="num_heads", q_norm="attn.q_norm", k_norm="attn.k_norm", layer_scale="ls1"
)


def _stack(owners: tuple[str, ...], blocks: str, attention: AttentionNames, ffn: FfnNames, **more: Any) -> Stack:
    return Stack(
        name="vision", owners=owners, blocks=blocks, attention=(attention,), ffn=(ffn,), final_norm=(), readout="mean",
        fixed=lone_map, windows=WindowNames(size="window_size"), closed=False, **more,
    )  # fmt: skip


STACKS = (
    _stack(
        ("sam_vision_model", "sam_hq_vision_model"),
        "layers",
        SAM_ATTENTION,
        FfnNames(up="mlp.lin1", down="mlp.lin2", norm="layer_norm2", act="mlp.act"),
        patch_convolution=("patch_embed.projection",),
        gives=MapNames(width=lambda config: config.output_channels),
        own_attention=SamAttention,
    ),
    _stack(
        ("timm.VisionTransformerSAM",),
        "blocks",
        _TIMM,
        FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2", layer_scale="ls2", act="mlp.act"),
        patch_convolution=("patch_embed.proj",),
        own_attention=TimmSamAttention,
    ),
)
