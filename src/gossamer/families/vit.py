"""ViT, DeiT and the ViT-MAE encoder of transformers 5: pre-norm, separate q, k, v.

A ViTMAEModel drops patches while `config.mask_ratio` is above 0; its weights can also be loaded into ViTModel.
"""

from gossamer.stack import AttentionNames, FfnNames, Stack

_ATTENTION = AttentionNames(
    module="attention",
    q="attention.q_proj",
    k="attention.k_proj",
    v="attention.v_proj",
    out="attention.o_proj",
    norm="layernorm_before",
)
_FFN = (FfnNames(up="mlp.fc1", down="mlp.fc2", norm="layernorm_after"),)
_PATCHES = "embeddings.patch_embeddings"

STACKS = (
    Stack(name="vision", owners=("vit",), blocks="layers", attention=_ATTENTION, ffn=_FFN, prefix=1, patches=_PATCHES),
    Stack(
        name="vision",
        owners=("vit_mae",),
        blocks="layers",
        attention=_ATTENTION,
        ffn=_FFN,
        prefix=1,
        patches=_PATCHES,
        needs_zero="config.mask_ratio",
    ),
    Stack(name="vision", owners=("deit",), blocks="layers", attention=_ATTENTION, ffn=_FFN, prefix=2, patches=_PATCHES),
)
