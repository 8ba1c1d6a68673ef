"""timm's Beit: pre-norm, fused qkv with biases apart, a bias by relative position in every block, or one for all."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


class BiasedApart(OwnAttention):
    """Base of timm's attentions whose fused qkv has no bias: those of q and v are parameters beside it."""

    qkv: nn.Module
    attn_drop: nn.Dropout
    proj: nn.Module
    proj_drop: nn.Module
    k_bias: Tensor | None

    def __init__(self, original: Any):
        super().__init__(original)
        self.num_heads: int = original.num_heads
        apart = (
            getattr(original, "q_bias", None) is not None
        )  # attentions without biases, or with others, have no such names
        self.q_bias: nn.Parameter | None = original.q_bias if apart else None
        self.v_bias: nn.Parameter | None = original.v_bias if apart else None
        self.register_buffer("k_bias", original.k_bias if apart else None, persistent=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, heads, N, d_h] of x [B, N, d]; the Linear is called."""
        qkv = self.qkv(x)
        if self.q_bias is not None and self.v_bias is not None and self.k_bias is not None:
            qkv = qkv + torch.cat([self.q_bias, self.k_bias, self.v_bias])
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v


class BeitAttention(BiasedApart):
    """timm's attention of BEiT with a memory."""

    relative_position_index: Tensor | None

    def __init__(self, original: Any):
        super().__init__(original)
        self.scale: float = original.scale
        self.window_size = original.window_size
        self.relative_position_bias_table: nn.Parameter | None = original.relative_position_bias_table
        self.register_buffer("relative_position_index", original.relative_position_index, persistent=False)

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        """[B, N, d], and a bias [1, heads, N, N] that all blocks share -> [B, N, d]."""
        q, k, v = self.project(x)
        bias = shared_rel_pos_bias
        if self.relative_position_bias_table is not None and self.relative_position_index is not None:
            own = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
            bias = own if bias is None else own + bias
        attended = self.attend(q, k, v, mask=bias, scale=self.scale, dropout=self.attn_drop.p)
        return self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))


def lone(block: Any) -> tuple[int, dict[str, Any]]:
    """A block alone takes a class token and the patches that its bias has places for; one without takes any number."""
    window = getattr(block.attn, "window_size", None)
    return (7 if window is None else 1 + window[0] * window[1]), {}


_ATTENTION = AttentionNames(
    module="attn",
    q="attn.qkv.q",
    k="attn.qkv.k",
    v="attn.qkv.v",
    fused="attn.qkv",
    apart=("attn.q_bias", "attn.k_bias", "attn.v_bias"),
    bypassed=True,
    out="attn.proj",
    norm="norm1",
    scaling="scale",
    heads="num_heads",
    layer_scale="gamma_1",
    bias="attn.relative_position_bias_table",
    returns=0,
)

STACKS = (
    Stack(
        name="vision",
        owners=("timm.Beit",),
        blocks="blocks",
        attention=(_ATTENTION, dataclasses.replace(_ATTENTION, bias=None)),
        ffn=(
            FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2", layer_scale="gamma_2"),
            FfnNames(up="mlp.fc1_x", gate="mlp.fc1_g", down="mlp.fc2", norm="norm2", layer_scale="gamma_2"),
        ),
        prefix=("num_prefix_tokens",),
        patches="patch_embed",
        patch_convolution=("patch_embed.proj",),
        final_norm=("norm", "fc_norm"),
        own_attention=BeitAttention,
        fixed=lone,
    ),
)
