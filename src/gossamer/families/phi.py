"""Phi 1 to 2: attention and FFN stand beside each other behind one norm, and are added at once."""

import dataclasses

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_PHI = Stack(
    name="decoder",
    owners=("phi",),
    blocks="layers",
    attention=(
        AttentionNames(
            module="self_attn",
            q="self_attn.q_proj",
            k="self_attn.k_proj",
            v="self_attn.v_proj",
            out="self_attn.dense",
            norm="input_layernorm",
        ),
    ),
    ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="input_layernorm", act="mlp.activation_fn"),),
    causal=True,
    parallel=True,
    readout="last",
    modality="text",
    patch_convolution=(),
    final_norm=("final_layernorm",),
    rotary="rotary_emb",
)
_NORMED = dataclasses.replace(_PHI.attention[0], q_norm="self_attn.q_layernorm", k_norm="self_attn.k_layernorm")

STACKS = (dataclasses.replace(_PHI, attention=(_NORMED, *_PHI.attention)),)
