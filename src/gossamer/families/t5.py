"""T5 and mT5, encoder and decoder: RMS pre-norm, no biases, no scale, a relative position bias that the first block computes.

In UMT5 every block computes its own.
"""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


def _attention(place: int, name: str, returns: int, bias: str | None) -> AttentionNames:
    path = f"layer.{place}.{name}"
    return AttentionNames(
        module=path,
        q=f"{path}.q",
        k=f"{path}.k",
        v=f"{path}.v",
        out=f"{path}.o",
        norm=f"layer.{place}.layer_norm",
        head_width="key_value_proj_dim",
        bias=None if bias is None else f"{path}.{bias}",
        returns=returns,
    )


def _ffn(place: int) -> tuple[FfnNames, ...]:
    path, norm = f"layer.{place}.DenseReluDense", f"layer.{place}.layer_norm"
    return (
        FfnNames(up=f"{path}.wi", down=f"{path}.wo", norm=norm, act=f"{path}.act"),
        FfnNames(up=f"{path}.wi_1", gate=f"{path}.wi_0", down=f"{path}.wo", norm=norm, act=f"{path}.act"),
    )


def _stacks(owners: tuple[str, ...], *, shared: bool) -> tuple[Stack, Stack]:
    """Encoder and decoder of models whose blocks share the bias of the first, or have their own."""
    returns, bias = (3, None) if shared else (2, "relative_attention_bias")
    encoder = Stack(
        name="encoder",
        owners=owners,
        blocks="encoder.block",
        attention=(_attention(0, "SelfAttention", returns, bias),),
        ffn=_ffn(1),
        patch_convolution=(),
        final_norm=("encoder.final_layer_norm",),
        readout="mean",
        modality="text",
        relative_bias=shared,
        returns_tuple=shared,
    )
    decoder = Stack(
        name="decoder",
        owners=owners,
        blocks="decoder.block",
        attention=(_attention(0, "SelfAttention", returns, bias),),
        cross=_attention(1, "EncDecAttention", returns, None),
        context=("encoder",),
        ffn=_ffn(2),
        patch_convolution=(),
        final_norm=("decoder.final_layer_norm",),
        causal=True,
        readout="last",
        modality="text",
        relative_bias=shared,
        returns_tuple=shared,
    )
    return encoder, decoder


STACKS = (*_stacks(("t5", "mt5"), shared=True), *_stacks(("umt5",), shared=False))
