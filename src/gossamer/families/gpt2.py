"""GPT-2: pre-norm, projections as transposed Linears, q, k and v fused; as a decoder of images or texts with cross-attention."""

import dataclasses

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_PLAIN = Stack(
    name="decoder",
    owners=("gpt2",),
    blocks="h",
    attention=(
        AttentionNames(
            module="attn",
            q="attn.c_attn.q",
            k="attn.c_attn.k",
            v="attn.c_attn.v",
            fused="attn.c_attn",
            out="attn.c_proj",
            norm="ln_1",
        ),
    ),
    ffn=(FfnNames(up="mlp.c_fc", down="mlp.c_proj", norm="ln_2", act="mlp.act"),),
    patch_convolution=(),
    final_norm=("ln_f",),
    causal=True,
    readout="last",
    modality="text",
)
_CROSS = AttentionNames(  # one Linear for keys and values
    module="crossattention",
    q="crossattention.q_attn",
    k="crossattention.c_attn.k",
    v="crossattention.c_attn.v",
    fused="crossattention.c_attn",
    out="crossattention.c_proj",
    norm="ln_cross_attn",
)

STACKS = (dataclasses.replace(_PLAIN, cross=_CROSS, context=("encoder", "vision", "text")), _PLAIN)
