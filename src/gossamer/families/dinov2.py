"""DINOv2 with and without registers, TIPS 2, RADIO: pre-norm, LayerScale behind both branches, SwiGLU in the giant size."""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_ATTENTION = AttentionNames(
    module="attention",
    q="attention.q_proj",
    k="attention.k_proj",
    v="attention.v_proj",
    out="attention.o_proj",
    norm="norm1",
    layer_scale="layer_scale1",
)
_FFN = (
    FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2", layer_scale="layer_scale2"),
    FfnNames(up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj", norm="norm2", layer_scale="layer_scale2"),
)

STACKS = (
    Stack(
        name="vision",
        owners=("dinov2",),
        blocks="encoder.layer",
        attention=(_ATTENTION,),
        ffn=_FFN,
        patch_convolution=("embeddings.patch_embeddings.projection",),
        final_norm=("layernorm",),
        prefix=1,
        patches="embeddings.patch_embeddings",
    ),
    Stack(
        name="vision",
        owners=("dinov2_with_registers", "tipsv2_vision_model"),
        blocks="encoder.layer",
        attention=(_ATTENTION,),
        ffn=_FFN,
        patch_convolution=("embeddings.patch_embeddings.projection",),
        final_norm=("layernorm",),
        prefix=("config.num_register_tokens",),
        extra_prefix=1,
        patches="embeddings.patch_embeddings",
    ),
    Stack(
        name="vision",
        owners=("radio",),
        blocks="encoder.layer",
        attention=(_ATTENTION,),
        ffn=_FFN,
        patch_convolution=(),  # a Linear makes tokens of patches, of images of any size
        final_norm=(),  # its states are read as they leave the last block
        prefix=("config.num_summary_tokens",),
        patches="embeddings.patch_projection",
        patch_side="config.patch_size",
    ),
)
