"""LLaMA: RMS pre-norm decoder with rotary positions, gated FFN, grouped keys and values."""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

STACKS = (
    Stack(
        name="decoder",
        owners=("llama",),
        blocks="layers",
        attention=(
            AttentionNames(
                module="self_attn",
                q="self_attn.q_proj",
                k="self_attn.k_proj",
                v="self_attn.v_proj",
                out="self_attn.o_proj",
                norm="input_layernorm",
            ),
        ),
        ffn=(
            FfnNames(
                up="mlp.up_proj",
                gate="mlp.gate_proj",
                down="mlp.down_proj",
                norm="post_attention_layernorm",
                act="mlp.act_fn",
            ),
        ),
        causal=True,
        readout="last",
        modality="text",
        patch_convolution=(),
        final_norm=("norm",),
        rotary="rotary_emb",
    ),
)
