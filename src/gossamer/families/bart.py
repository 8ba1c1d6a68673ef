"""BART encoder and decoder: post-norm, the FFN's two Linears stand in the block itself."""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


def _attention(path: str) -> AttentionNames:
    return AttentionNames(
        module=path,
        q=f"{path}.q_proj",
        k=f"{path}.k_proj",
        v=f"{path}.v_proj",
        out=f"{path}.out_proj",
        norm=None,
        after=f"{path}_layer_norm",
    )


_FFN = (FfnNames(up="fc1", down="fc2", norm=None, after="final_layer_norm", act="activation_fn"),)

STACKS = (
    Stack(
        name="encoder",
        owners=("bart",),
        blocks="encoder.layers",
        attention=(_attention("self_attn"),),
        ffn=_FFN,
        patch_convolution=(),
        final_norm=(),
        prefix=1,
        readout="mean",
        modality="text",
    ),
    Stack(
        name="decoder",
        owners=("bart",),
        blocks="decoder.layers",
        attention=(_attention("self_attn"),),
        cross=_attention("encoder_attn"),
        context="encoder",
        ffn=_FFN,
        patch_convolution=(),
        final_norm=(),
        causal=True,
        readout="last",
        modality="text",
    ),
)
