"""DINOv3 of transformers: as DINOv2, with registers, and with rotary positions of patches in place of a table."""

import dataclasses

from gossamer.anatomy.stack import Stack
from gossamer.families.dinov2 import STACKS as DINOV2

_GATED = DINOV2[1].ffn[1]

STACKS: tuple[Stack, ...] = (
    dataclasses.replace(
        DINOV2[1],
        owners=("dinov3_vit",),
        blocks="model.layer",
        patch_convolution=("embeddings.patch_embeddings",),
        patches=None,  # its convolution gives a map
        final_norm=("norm",),
        patch_rotary=True,
        ffn=tuple(dataclasses.replace(_GATED, gate=gate) for gate in (_GATED.gate, None)),
    ),
)
