"""GPT-NeoX and Pythia: attention and FFN beside each other, each behind a norm of its own, q, k and v of each head side by side.

Persimmon has such projections one behind the other, and norms of queries and keys.
"""

import dataclasses

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_NEOX = Stack(
    name="decoder",
    owners=("gpt_neox",),
    blocks="layers",
    attention=(
        AttentionNames(
            module="attention",
            q="attention.query_key_value.q",
            k="attention.query_key_value.k",
            v="attention.query_key_value.v",
            fused="attention.query_key_value",
            grouped=True,
            out="attention.dense",
            norm="input_layernorm",
            head_width="head_size",
        ),
    ),
    ffn=(FfnNames(up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", norm="post_attention_layernorm", act="mlp.act"),),
    causal=True,
    parallel="use_parallel_residual",
    readout="last",
    modality="text",
    patch_convolution=(),
    final_norm=("final_layer_norm",),
    rotary="rotary_emb",
)
_PLAIN = AttentionNames(
    module="self_attn",
    q="self_attn.query_key_value.q",
    k="self_attn.query_key_value.k",
    v="self_attn.query_key_value.v",
    fused="self_attn.query_key_value",
    grouped=True,
    out="self_attn.dense",
    norm="input_layernorm",
)

STACKS = (
    _NEOX,
    dataclasses.replace(
        _NEOX,
        owners=("persimmon",),
        attention=(
            dataclasses.replace(_PLAIN, q_norm="self_attn.q_layernorm", k_norm="self_attn.k_layernorm"),
            _PLAIN,  # `qk_layernorm` is a setting
        ),
        parallel=False,
        final_norm=("final_layernorm",),
    ),
)
