"""Falcon: attention and FFN beside each other, behind one norm or one each, or one behind the other (RW); shared keys."""

import dataclasses
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention, causal_mask
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack
from gossamer.errors import UserError


class FalconAttention(OwnAttention):
    """FalconAttention with a memory; returns (states [B, N, d], None)."""

    query_key_value: nn.Module
    dense: nn.Module
    attention_dropout: nn.Dropout

    def __init__(self, original: Any):
        # here, so that whoever has no Falcon does not wait for it
        from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

        super().__init__(original)
        self.turned = apply_rotary_pos_emb
        self.head_dim: int = original.head_dim
        self.num_kv_heads: int = original.num_kv_heads
        self.inv_norm_factor: float = original.inv_norm_factor
        self.layer_idx: int = original.layer_idx
        self.fast: bool = original.config._attn_implementation == "sdpa"

    def forward(
        self,
        hidden_states: Tensor,
        alibi: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None = None,
        layer_past: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, None]:
        """[B, N, d], a bias by place that the mask has too, an additive mask and rotary tables -> ([B, N, d], None)."""
        if output_attentions:
            raise UserError("Falcon with prompts does not return attention weights: detach the adapter first")
        fused = self.query_key_value(hidden_states).unflatten(-1, (self.num_kv_heads, -1, self.head_dim))
        q = fused[..., :-2, :].flatten(2, 3).transpose(1, 2)
        k, v = (fused[..., i, :].transpose(1, 2) for i in (-2, -1))
        if alibi is None and position_embeddings is not None:
            q, k = self.turned(q, k, *position_embeddings)
        if layer_past is not None:
            k, v = layer_past.update(k, v, self.layer_idx)
        length, mask = q.shape[2], attention_mask
        if mask is None and length > 1:
            mask = causal_mask(length, 0, q.device)
        if alibi is not None and not self.fast:  # upstream's eager attention adds it a second time
            slopes = alibi.view(len(q), q.shape[1], 1, -1) * self.inv_norm_factor
            mask = slopes if mask is None else slopes + mask
        rate = 0.0 if alibi is None else self.attention_dropout.p
        attended = self.attend(q, k, v, mask=mask, scale=self.inv_norm_factor, dropout=rate)
        return self.dense(attended.transpose(1, 2).flatten(2)), None


_ONE = AttentionNames(
    module="self_attention",
    q="self_attention.query_key_value.q",
    k="self_attention.query_key_value.k",
    v="self_attention.query_key_value.v",
    fused="self_attention.query_key_value",
    grouped=True,
    out="self_attention.dense",
    norm="input_layernorm",
    scaling="inv_norm_factor",
)
_FFN = FfnNames(up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", norm="input_layernorm", act="mlp.act")

STACKS = (
    Stack(
        name="decoder",
        owners=("falcon",),
        blocks="h",
        attention=(dataclasses.replace(_ONE, norm="ln_attn"), _ONE),
        ffn=(
            dataclasses.replace(_FFN, norm="ln_mlp"),
            dataclasses.replace(_FFN, norm="post_attention_layernorm"),
            _FFN,
        ),
        causal=True,
        parallel="config.parallel_attn",
        alibi="config.alibi",
        readout="last",
        modality="text",
        patch_convolution=(),
        final_norm=("ln_f",),
        rotary="rotary_emb",
        own_attention=FalconAttention,
        returns_tuple=2,
    ),
)
