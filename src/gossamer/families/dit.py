"""Transformer denoisers of diffusers, DiT and PixArt: blocks of one width over the patches of a latent, modulated by the timestep.

DiT has self-attention alone, behind a norm that is modulated; PixArt also reads a text, with what leaves that, unnormed.
"""

import dataclasses

from gossamer.anatomy.stack import FfnNames, Stack
from gossamer.families.unet import attention

_DIT = Stack(
    name="denoiser",
    owners=("diffusers.DiTTransformer2DModel",),
    blocks="transformer_blocks",
    kinds=("BasicTransformerBlock",),
    attention=(attention("attn1", "norm1"),),
    ffn=(FfnNames(up="ff.net.0.proj", down="ff.net.2", norm="norm3"),),
    patch_convolution=("pos_embed.proj",),
    final_norm=("norm_out",),
    modality="latent",
    readout=None,
    modulated=True,
    closed=False,
)
STACKS = (
    _DIT,
    dataclasses.replace(
        _DIT,
        owners=("diffusers.PixArtTransformer2DModel",),
        cross=attention("attn2", None),
        context=("text",),
        ffn=(FfnNames(up="ff.net.0.proj", down="ff.net.2", norm="norm2"),),
    ),
)
