"""AIMv2, and the tower of Ovis 2: RMS norms before attention and a gated FFN, no class token."""

import dataclasses

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_AIMV2 = Stack(
    name="vision",
    owners=("aimv2_vision_model",),
    blocks="encoder.layers",
    attention=(
        AttentionNames(
            module="attention",
            q="attention.q_proj",
            k="attention.k_proj",
            v="attention.v_proj",
            out="attention.out_proj",
            norm="rms_norm1",
            scaling="scale",
        ),
    ),
    ffn=(FfnNames(up="ffn.up_proj", gate="ffn.gate_proj", down="ffn.down_proj", norm="rms_norm2", act="ffn.act_fn"),),
    patch_convolution=("embeddings.patch_embed",),
    final_norm=("rms_norm",),
    readout="mean",  # its pooling head is an option
)

STACKS = (
    _AIMV2,
    dataclasses.replace(
        _AIMV2,
        owners=("ovis2_vision",),
        blocks="transformer.encoder.layers",
        patch_convolution=("transformer.embeddings.patch_embedding",),
        final_norm=("transformer.rms_norm",),
    ),
)
