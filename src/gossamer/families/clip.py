"""CLIP vision and text towers, and those with the same blocks: SigLIP, MetaCLIP 2, GIT, OWL-ViT, the towers of Idefics and SmolVLM.

What they differ in: a class token or none, causal text or not, a convolution of patches or (NaFlex) a Linear.
"""

import dataclasses

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_ATTENTION = AttentionNames(
    module="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    out="self_attn.out_proj",
    norm="layer_norm1",
    scaling="scale",
)
_FFN = (FfnNames(up="mlp.fc1", down="mlp.fc2", norm="layer_norm2"),)


def _vision(owners: tuple[str, ...], prefix: int, *, pooled: bool = True, naflex: bool = False) -> Stack:
    return Stack(
        name="vision",
        owners=owners,
        blocks="encoder.layers",
        attention=(_ATTENTION,),
        ffn=_FFN,
        patch_convolution=() if naflex else ("embeddings.patch_embedding",),
        final_norm=("post_layernorm",),
        prefix=prefix,
        readout="pooled" if pooled else "mean",
        masked_pool=naflex,
    )


def _text(owners: tuple[str, ...], *, causal: bool) -> Stack:
    return Stack(
        name="text",
        owners=owners,
        blocks="encoder.layers",
        attention=(_ATTENTION,),
        ffn=_FFN,
        causal=causal,
        whole=causal,
        readout="pooled",
        modality="text",
        patch_convolution=(),
        final_norm=("final_layer_norm",),
    )


STACKS = (
    _vision(
        (
            "clip_vision_model",
            "metaclip_2_vision_model",
            "chinese_clip_vision_model",
            "altclip_vision_model",
            "clipseg_vision_model",
            "owlvit_vision_model",
            "owlv2_vision_model",
        ),
        1,
    ),
    _vision(("git_vision_model",), 1, pooled=False),
    _vision(("siglip_vision_model",), 0),
    _vision(("siglip2_vision_model",), 0, naflex=True),
    _vision(("idefics2_vision", "idefics3_vision", "smolvlm_vision"), 0, pooled=False),
    _text(
        ("clip_text_model", "metaclip_2_text_model", "clipseg_text_model", "owlvit_text_model", "owlv2_text_model"),
        causal=True,
    ),
    _text(("siglip_text_model", "siglip2_text_model"), causal=False),
    dataclasses.replace(_text(("tipsv2_text_model",), causal=False), masked_pool=True, readout="mean"),
)
