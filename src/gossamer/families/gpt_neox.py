"""GPT-NeoX and Pythia: attention and FFN beside each other, each behind a norm of its own, q, k and v of each head side by side."""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

STACKS = (
    Stack(
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
        ffn=(
            FfnNames(up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", norm="post_attention_layernorm", act="mlp.act"),
        ),
        causal=True,
        parallel="use_parallel_residual",
        readout="last",
        modality="text",
        patch_convolution=(),
        final_norm=("final_layer_norm",),
        rotary="rotary_emb",
    ),
)
