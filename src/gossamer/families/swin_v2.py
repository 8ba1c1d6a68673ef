"""Swin v2 of transformers and of timm: cosine attention in windows, with a scale for each head, and norms behind the branches."""

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack, WindowNames
from gossamer.anatomy.window_attention import WindowAttention
from gossamer.errors import UserError
from gossamer.families.timm_beit import BiasedApart


def continuous_bias(table: Tensor, index: Tensor) -> Tensor:
    """16 sigmoid of what a small MLP gives for distances, table [.., heads] -> [1, heads, w^2, w^2]."""
    return 16 * table.flatten(0, -2)[index].permute(2, 0, 1)[None].sigmoid()


def scaled(q: Tensor, logit_scale: Tensor) -> Tensor:
    """Queries [.., heads, N, d_h] of length 1, times the scale of their head [heads, 1, 1], at most 100."""
    return F.normalize(q, dim=-1) * logit_scale.clamp(max=math.log(100)).exp()


class Swinv2Attention(WindowAttention):
    """Swinv2SelfAttention with a memory, and with tokens in front of a window; returns (states,) as the original."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    dropout: nn.Dropout
    continuous_position_bias_mlp: nn.Module
    relative_coords_table: Tensor
    relative_position_index: Tensor

    def __init__(self, original: Any):
        super().__init__(original)
        self.attention_head_size: int = original.attention_head_size
        self.num_attention_heads: int = original.num_attention_heads
        self.logit_scale = original.logit_scale
        self.register_buffer("relative_coords_table", original.relative_coords_table, persistent=False)
        self.register_buffer("relative_position_index", original.relative_position_index, persistent=False)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool | None = False
    ) -> tuple[Tensor]:
        """[B windows, N, d] and [windows, w^2, w^2] -> ([B windows, N, d],)."""
        if output_attentions:
            raise UserError("Swin with prompts does not return attention weights: detach the adapter first")
        split = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        q, k, v = (f(hidden_states).view(split).transpose(1, 2) for f in (self.query, self.key, self.value))
        bias = continuous_bias(
            self.continuous_position_bias_mlp(self.relative_coords_table), self.relative_position_index
        )
        options: Any = {"scale": 1.0, "dropout": self.dropout.p, "unit": True}
        attended = self.attend_in_windows(scaled(q, self.logit_scale), k, v, bias=bias, mask=attention_mask, **options)
        return (attended.transpose(1, 2).flatten(2),)


class TimmSwinv2Attention(BiasedApart, WindowAttention):
    """timm's WindowAttention of Swin v2 with a memory, and with tokens in front of a window."""

    cpb_mlp: nn.Module
    relative_coords_table: Tensor
    relative_position_index: Tensor

    def __init__(self, original: Any):
        super().__init__(original)
        self.logit_scale = original.logit_scale
        self.register_buffer("relative_coords_table", original.relative_coords_table, persistent=False)
        self.register_buffer("relative_position_index", original.relative_position_index, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B windows, N, d] and [windows, w^2, w^2] -> [B windows, N, d]."""
        q, k, v = self.project(x)
        bias = continuous_bias(self.cpb_mlp(self.relative_coords_table), self.relative_position_index)
        options: Any = {"scale": 1.0, "dropout": self.attn_drop.p, "unit": True}
        attended = self.attend_in_windows(scaled(q, self.logit_scale), k, v, bias=bias, mask=mask, **options)
        return self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))


STACKS = (
    Stack(
        name="vision",
        owners=("swinv2",),
        blocks="encoder.layers.*.blocks",
        attention=(
            AttentionNames(
                module="attention.self",
                q="attention.self.query",
                k="attention.self.key",
                v="attention.self.value",
                out="attention.output.dense",
                norm=None,
                closing="layernorm_before",
                head_width="attention_head_size",
                scaling=None,
                bias="attention.self.continuous_position_bias_mlp",
                returns=1,
            ),
        ),
        ffn=(
            FfnNames(
                up="intermediate.dense",
                down="output.dense",
                norm=None,
                closing="layernorm_after",
                act="intermediate.intermediate_act_fn",
            ),
        ),
        patch_convolution=("embeddings.patch_embeddings.projection",),
        final_norm=("layernorm",),
        readout="mean",
        own_attention=Swinv2Attention,
        returns_tuple=1,
        closed=False,  # the MLP of the bias
        windows=WindowNames(
            size="window_size",
            merging="encoder.layers.*.downsample",
            dimensions="input_dimensions",
            norms_last=True,
        ),
    ),
    Stack(
        name="vision",
        owners=("timm.SwinTransformerV2",),
        blocks="layers.*.blocks",
        attention=(
            AttentionNames(
                module="attn",
                q="attn.qkv.q",
                k="attn.qkv.k",
                v="attn.qkv.v",
                fused="attn.qkv",
                apart=("attn.q_bias", "attn.k_bias", "attn.v_bias"),
                bypassed=True,
                out="attn.proj",
                norm=None,
                closing="norm1",
                scaling=None,
                heads="num_heads",
                bias="attn.cpb_mlp",
                returns=0,
            ),
        ),
        ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm=None, closing="norm2"),),
        patch_convolution=("patch_embed.proj",),
        final_norm=("norm",),
        own_attention=TimmSwinv2Attention,
        closed=False,
        windows=WindowNames(size="window_size", merging="layers.*.downsample", merges_first=True, norms_last=True),
    ),
)
