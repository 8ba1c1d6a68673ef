"""BLIP-2 and InstructBLIP: a ViT with fused qkv, and the Q-Former that connects it with a language model, whose family is its own.

The Q-Former is post-norm; every second of its blocks reads the image, and queries have an FFN of their own.
"""

from typing import Any

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


def _attention(path: str) -> AttentionNames:
    return AttentionNames(
        module=f"{path}.attention",
        q=f"{path}.attention.query",
        k=f"{path}.attention.key",
        v=f"{path}.attention.value",
        out=f"{path}.output.dense",
        norm=None,
        after=f"{path}.output.LayerNorm",
        head_width="attention_head_size",
    )


def lone(block: Any) -> tuple[int, dict[str, Any]]:
    """A block alone is told how many of its tokens are queries: all."""
    return 5, {"query_length": 5}


STACKS = (
    Stack(
        name="vision",
        owners=("blip_2_vision_model", "instructblip_vision_model"),
        blocks="encoder.layers",
        attention=(
            AttentionNames(
                module="self_attn",
                q="self_attn.qkv.q",
                k="self_attn.qkv.k",
                v="self_attn.qkv.v",
                fused="self_attn.qkv",
                out="self_attn.projection",
                norm="layer_norm1",
                scaling="scale",
            ),
        ),
        ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="layer_norm2"),),
        patch_convolution=("embeddings.patch_embedding",),
        final_norm=("post_layernorm",),
        prefix=1,
        readout="pooled",
    ),
    Stack(
        name="connector",
        owners=("blip_2_qformer", "instructblip_qformer"),
        closed=False,  # it runs on queries of its own, whatever the text
        blocks="encoder.layer",
        attention=(_attention("attention"),),
        cross=_attention("crossattention"),
        context=("vision",),
        ffn=(
            FfnNames(
                up="intermediate_query.dense",
                down="output_query.dense",
                norm=None,
                after="output_query.LayerNorm",
                act="intermediate_query.intermediate_act_fn",
            ),
        ),
        patch_convolution=(),
        final_norm=(),
        modality="text",
        fixed=lone,
    ),
)
