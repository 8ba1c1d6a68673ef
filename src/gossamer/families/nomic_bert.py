"""NomicBERT, GTE and Jina's embeddings: BERT's order of norms, LLaMA's names and its rotary positions, gated or not."""

import dataclasses

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_GATED = Stack(
    name="text",
    owners=("nomic_bert", "gte"),
    blocks="layers",
    attention=(
        AttentionNames(
            module="self_attn",
            q="self_attn.q_proj",
            k="self_attn.k_proj",
            v="self_attn.v_proj",
            out="self_attn.o_proj",
            norm=None,
            after="post_attention_layernorm",
        ),
    ),
    ffn=(
        FfnNames(
            up="mlp.up_proj",
            gate="mlp.gate_proj",
            down="mlp.down_proj",
            norm=None,
            after="post_mlp_layernorm",
            act="mlp.act_fn",
        ),
    ),
    patch_convolution=(),
    final_norm=(),
    prefix=1,
    modality="text",
    rotary="rotary_emb",
)

STACKS = (
    _GATED,
    dataclasses.replace(
        _GATED,
        owners=("jina_embeddings_v3",),
        ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm=None, after="post_mlp_layernorm", act="mlp.activation_fn"),),
    ),
)
