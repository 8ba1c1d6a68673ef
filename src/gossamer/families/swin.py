"""Swin of transformers: pre-norm, attention in shifted windows, stages of growing width with patches merged between them."""

from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack, WindowNames
from gossamer.anatomy.window_attention import WindowAttention
from gossamer.errors import UserError


class SwinAttention(WindowAttention):
    """SwinAttention with a memory, and with tokens in front of a window; returns (states, None) as the original."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    o_proj: nn.Module
    relative_position_bias: nn.Module

    def __init__(self, original: nn.Module):
        super().__init__(original)
        self.head_dim: int = original.head_dim  # type: ignore[assignment]
        self.scaling: float = original.scaling  # type: ignore[assignment]
        self.num_attention_heads: int = original.num_attention_heads  # type: ignore[assignment]
        self.attention_dropout: float = original.attention_dropout  # type: ignore[assignment]

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """[B windows, N, d] and [windows, w^2, w^2] -> ([B windows, N, d], None)."""
        if kwargs.get("output_attentions"):
            raise UserError("Swin with prompts does not return attention weights: detach the adapter first")
        split = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (f(hidden_states).view(split).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        bias = self.relative_position_bias()
        options: Any = {"scale": self.scaling, "dropout": self.attention_dropout}
        attended = self.attend_in_windows(q, k, v, bias=bias, mask=attention_mask, **options)
        return self.o_proj(attended.transpose(1, 2).flatten(2)), None


STACKS = (
    Stack(
        name="vision",
        owners=("swin",),
        blocks="encoder.layers.*.blocks",
        attention=(
            AttentionNames(
                module="attention",
                q="attention.q_proj",
                k="attention.k_proj",
                v="attention.v_proj",
                out="attention.o_proj",
                norm="layernorm_before",
                bias="attention.relative_position_bias",
            ),
        ),
        ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="layernorm_after"),),
        patch_convolution=("embeddings.patch_embeddings.projection",),
        final_norm=("layernorm",),
        readout="mean",
        own_attention=SwinAttention,
        returns_tuple=2,
        windows=WindowNames(
            size="window_size",
            merging="encoder.layers.*.downsample",
            dimensions="input_dimensions",
        ),
    ),
)
