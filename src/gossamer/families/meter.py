"""METER's fusion: two columns of post-norm co-attention blocks, text first. Its encoders are CLIP's and RoBERTa's."""

import dataclasses

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


def _attention(path: str) -> AttentionNames:
    return AttentionNames(
        module=f"{path}.self",
        q=f"{path}.self.query",
        k=f"{path}.self.key",
        v=f"{path}.self.value",
        out=f"{path}.output.dense",
        norm=None,
        after=f"{path}.output.LayerNorm",
        head_width="attention_head_size",
    )


_FFN = (FfnNames(up="intermediate.dense", down="output.dense", norm=None, after="output.LayerNorm"),)

_TEXT = Stack(
    name="fusion",
    owners=("meter",),
    blocks="text_layers",
    attention=(_attention("attention"),),
    cross=_attention("crossattention"),
    ffn=_FFN,
    patch_convolution=(  # of a tower of CLIP, ViT or DINOv2
        "vision_model.embeddings.patch_embedding",
        "vision_model.embeddings.patch_embeddings.projection",
    ),
    final_norm=(),
    prefix=1,
    readout="pooled",
    pooled=2,
    modality="text",
    counts_as="text",
    context=("vision",),
    entrance="text_transform",
    words="text_model.embeddings",
)
_IMAGE = dataclasses.replace(
    _TEXT,
    blocks="image_layers",
    modality="vision",
    counts_as="vision",
    context=("text",),
    entrance="image_transform",
    words=None,
)
STACKS = (_TEXT, _IMAGE)
