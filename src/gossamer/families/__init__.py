"""Backbone families: where parts sit. One file a family, one line here to make it known."""

from gossamer.anatomy.stack import Stack
from gossamer.families import bart, bert, clip, dinov2, llama, meter, swin, t5, timm_swin, timm_vit, vilt, vit

FAMILIES: tuple[Stack, ...] = (
    *vit.STACKS,
    *dinov2.STACKS,
    *clip.STACKS,
    *timm_vit.STACKS,
    *swin.STACKS,
    *timm_swin.STACKS,
    *bert.STACKS,
    *vilt.STACKS,
    *meter.STACKS,
    *t5.STACKS,
    *bart.STACKS,
    *llama.STACKS,
)
