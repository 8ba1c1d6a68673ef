"""ModernBERT: pre-norm, fused qkv, gate and up in one Linear, rotary positions; most blocks see a window of the text."""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

STACKS = (
    Stack(
        name="text",
        owners=("modernbert",),
        blocks="layers",
        attention=(
            AttentionNames(
                module="attn",
                q="attn.Wqkv.q",
                k="attn.Wqkv.k",
                v="attn.Wqkv.v",
                fused="attn.Wqkv",
                out="attn.Wo",
                norm="attn_norm",  # nothing in the first block: the embeddings end with one
                scaling=None,
            ),
        ),
        ffn=(FfnNames(up="mlp.Wi", down="mlp.Wo", norm="mlp_norm"),),
        patch_convolution=(),
        final_norm=("final_norm",),
        prefix=1,
        modality="text",
        rotary="rotary_emb",
    ),
)
