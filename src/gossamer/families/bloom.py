"""BLOOM: pre-norm, q, k and v of each head side by side, a bias by the keys' places; its attention adds the stream by itself."""

from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack
from gossamer.errors import UserError


class BloomAttention(OwnAttention):
    """BloomAttention with a memory; returns (stream [B, N, d], None)."""

    query_key_value: nn.Module
    dense: nn.Module
    attention_dropout: nn.Dropout

    def __init__(self, original: Any):
        super().__init__(original)
        self.head_dim: int = original.head_dim
        self.inv_norm_factor: float = original.inv_norm_factor
        self.hidden_dropout: float = original.hidden_dropout
        self.layer_idx: int = original.layer_idx

    def forward(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        alibi: Tensor | None,
        attention_mask: Tensor | None,
        layer_past: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
    ) -> tuple[Tensor, None]:
        """States and stream [B, N, d], a bias by place [B heads, 1, M] and an additive mask -> ([B, N, d], None)."""
        if output_attentions:
            raise UserError("BLOOM with prompts does not return attention weights: detach the adapter first")
        heads = self.query_key_value(hidden_states).unflatten(-1, (-1, 3, self.head_dim)).transpose(1, 2)
        q, k, v = heads.unbind(3)
        if layer_past is not None:
            k, v = layer_past.update(k, v, self.layer_idx)
        bias = None if alibi is None else alibi.unflatten(0, (len(q), -1))
        both = [m for m in (bias, attention_mask) if m is not None]
        mask = sum(both[1:], both[0]) if both else None
        rate = self.attention_dropout.p
        attended = self.attend(q, k, v, mask=mask, scale=self.inv_norm_factor, dropout=rate)
        y = self.dense(attended.transpose(1, 2).flatten(2))
        return residual + nn.functional.dropout(y, self.hidden_dropout, self.training), None


STACKS = (
    Stack(
        name="decoder",
        owners=("bloom",),
        blocks="h",
        attention=(
            AttentionNames(
                module="self_attention",
                q="self_attention.query_key_value.q",
                k="self_attention.query_key_value.k",
                v="self_attention.query_key_value.v",
                fused="self_attention.query_key_value",
                grouped=True,
                out="self_attention.dense",
                norm="input_layernorm",
                scaling="inv_norm_factor",
                adds="residual",
            ),
        ),
        ffn=(
            FfnNames(
                up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", norm="post_attention_layernorm", act="mlp.gelu_impl"
            ),
        ),
        causal=True,
        alibi=True,
        readout="last",
        modality="text",
        patch_convolution=(),
        final_norm=("ln_f",),
        own_attention=BloomAttention,
        returns_tuple=2,
    ),
)
