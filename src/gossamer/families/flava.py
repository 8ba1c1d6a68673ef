"""FLAVA: ViLT's blocks in three stacks, of texts, of images and of both."""

import dataclasses

from gossamer.anatomy.stack import Stack
from gossamer.families.vilt import STACKS as VILT

_PLAIN = dataclasses.replace(
    VILT[0], entrance=None, words=None, visual_prefix=0, readout="first", final_norm=("layernorm",)
)

STACKS: tuple[Stack, ...] = (
    dataclasses.replace(_PLAIN, name="text", owners=("flava_text_model",), modality="text", patch_convolution=()),
    dataclasses.replace(_PLAIN, name="vision", owners=("flava_image_model",), modality="vision"),
    dataclasses.replace(
        _PLAIN, name="fusion", owners=("flava_multimodal_model",), modality="vision", patch_convolution=()
    ),
)
