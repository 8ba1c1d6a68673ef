"""VideoMAE, over the patches of a video without a class token, and DPT's own ViT: ViLT's names around ViT's blocks."""

import dataclasses

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_VIDEO = Stack(
    name="vision",
    owners=("videomae",),
    blocks="encoder.layer",
    attention=(
        AttentionNames(
            module="attention.attention",
            q="attention.attention.query",
            k="attention.attention.key",
            v="attention.attention.value",
            out="attention.output.dense",
            norm="layernorm_before",
            head_width="attention_head_size",
        ),
    ),
    ffn=(
        FfnNames(
            up="intermediate.dense",
            down="output.dense",
            norm="layernorm_after",
            act="intermediate.intermediate_act_fn",
        ),
    ),
    patch_convolution=(),  # a convolution over frames
    final_norm=("layernorm",),
    readout="mean",
    closed=False,
)

_DPT = dataclasses.replace(
    _VIDEO,
    owners=("dpt",),
    prefix=1,
    patches="embeddings.patch_embeddings",
    patch_convolution=("embeddings.patch_embeddings.projection",),
    readout="first",
    closed=True,
)

# Where a mean is read, the norm belongs to the head.
STACKS = (_VIDEO, dataclasses.replace(_VIDEO, final_norm=()), _DPT)
