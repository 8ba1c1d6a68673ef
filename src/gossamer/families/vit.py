"""ViT, DeiT, ViT-MSN, I-JEPA and the ViT-MAE encoder of transformers 5: pre-norm, separate q, k, v.

A ViTMAEModel drops patches while `config.mask_ratio` is above 0; its weights can also be loaded into ViTModel.
"""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_ATTENTION = AttentionNames(
    module="attention",
    q="attention.q_proj",
    k="attention.k_proj",
    v="attention.v_proj",
    out="attention.o_proj",
    norm="layernorm_before",
)
_FFN = (FfnNames(up="mlp.fc1", down="mlp.fc2", norm="layernorm_after"),)


def _stack(owners: tuple[str, ...], prefix: int | tuple[str, ...], needs_zero: str | None = None) -> Stack:
    return Stack(
        name="vision",
        owners=owners,
        blocks="layers",
        attention=(_ATTENTION,),
        ffn=_FFN,
        prefix=prefix,
        readout="first" if prefix else "mean",
        patches="embeddings.patch_embeddings",
        patch_convolution=("embeddings.patch_embeddings.projection",),
        final_norm=("layernorm",),
        needs_zero=needs_zero,
    )


STACKS = (
    _stack(("vit", "vit_msn"), 1),
    _stack(("vit_mae",), 1, "config.mask_ratio"),
    _stack(("deit",), 2),
    _stack(("ijepa",), 0),
)
