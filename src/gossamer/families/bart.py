"""BART, Marian and Blenderbot-small, encoder and decoder: post-norm, the FFN's two Linears stand in the block itself.

mBART and Pegasus have the same blocks with the norms in front of the branches, OPT the decoder's alone, without cross-attention.
"""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


def _attention(path: str, *, pre: bool) -> AttentionNames:
    return AttentionNames(
        module=path,
        q=f"{path}.q_proj",
        k=f"{path}.k_proj",
        v=f"{path}.v_proj",
        out=f"{path}.out_proj",
        norm=f"{path}_layer_norm" if pre else None,
        after=None if pre else f"{path}_layer_norm",
    )


def _ffn(*, pre: bool) -> tuple[FfnNames, ...]:
    norm = "final_layer_norm"
    return (
        FfnNames(up="fc1", down="fc2", norm=norm if pre else None, after=None if pre else norm, act="activation_fn"),
    )


def _stacks(owners: tuple[str, ...], *, pre: bool, prefix: int = 0) -> tuple[Stack, Stack]:
    """Encoder and decoder with norms before their branches, or behind the sums."""
    encoder = Stack(
        name="encoder",
        owners=owners,
        blocks="encoder.layers",
        attention=(_attention("self_attn", pre=pre),),
        ffn=_ffn(pre=pre),
        patch_convolution=(),
        final_norm=("encoder.layer_norm",) if pre else (),
        prefix=prefix,
        readout="mean",
        modality="text",
    )
    decoder = Stack(
        name="decoder",
        owners=owners,
        blocks="decoder.layers",
        attention=(_attention("self_attn", pre=pre),),
        cross=_attention("encoder_attn", pre=pre),
        context=("encoder",),
        ffn=_ffn(pre=pre),
        patch_convolution=(),
        final_norm=("decoder.layer_norm",) if pre else (),
        causal=True,
        readout="last",
        modality="text",
    )
    return encoder, decoder


STACKS = (
    *_stacks(("bart", "plbart"), pre=False, prefix=1),
    *_stacks(("marian", "blenderbot-small"), pre=False),
    *_stacks(("mbart", "pegasus", "blenderbot", "m2m_100"), pre=True),
    Stack(
        name="decoder",
        owners=("opt",),
        blocks="decoder.layers",
        attention=(_attention("self_attn", pre=True),),
        ffn=_ffn(pre=True),
        patch_convolution=(),
        final_norm=("decoder.final_layer_norm",),
        passed=("decoder.project_in", "decoder.project_out"),  # of embeddings that are narrower
        causal=True,
        readout="last",
        modality="text",
    ),
)
