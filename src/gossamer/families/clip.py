"""CLIP vision and text towers, and SigLIP's, which have the same blocks."""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_ATTENTION = AttentionNames(
    module="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    out="self_attn.out_proj",
    norm="layer_norm1",
    scaling="scale",
)
_FFN = (FfnNames(up="mlp.fc1", down="mlp.fc2", norm="layer_norm2"),)

STACKS = (
    Stack(
        name="vision",
        owners=("clip_vision_model",),
        blocks="encoder.layers",
        attention=(_ATTENTION,),
        ffn=_FFN,
        patch_convolution=("embeddings.patch_embedding",),
        final_norm=("post_layernorm",),
        prefix=1,
        readout="pooled",
    ),
    Stack(
        name="text",
        owners=("clip_text_model",),
        blocks="encoder.layers",
        attention=(_ATTENTION,),
        ffn=_FFN,
        causal=True,
        whole=True,
        readout="pooled",
        modality="text",
        patch_convolution=(),
        final_norm=("final_layer_norm",),
    ),
    Stack(
        name="vision",
        owners=("siglip_vision_model",),
        blocks="encoder.layers",
        attention=(_ATTENTION,),
        ffn=_FFN,
        patch_convolution=("embeddings.patch_embedding",),
        final_norm=("post_layernorm",),
        readout="pooled",
    ),
    Stack(
        name="text",
        owners=("siglip_text_model",),
        blocks="encoder.layers",
        attention=(_ATTENTION,),
        ffn=_FFN,
        readout="pooled",
        modality="text",
        patch_convolution=(),
        final_norm=("final_layer_norm",),
    ),
)
