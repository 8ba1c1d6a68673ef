"""T5 encoder and decoder: RMS pre-norm, no biases, no scale, a relative position bias that the first block computes."""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


def _attention(place: int, name: str) -> AttentionNames:
    path = f"layer.{place}.{name}"
    return AttentionNames(
        module=path,
        q=f"{path}.q",
        k=f"{path}.k",
        v=f"{path}.v",
        out=f"{path}.o",
        norm=f"layer.{place}.layer_norm",
        head_width="key_value_proj_dim",
        returns=3,
    )


def _ffn(place: int) -> tuple[FfnNames, ...]:
    path, norm = f"layer.{place}.DenseReluDense", f"layer.{place}.layer_norm"
    return (
        FfnNames(up=f"{path}.wi", down=f"{path}.wo", norm=norm, act=f"{path}.act"),
        FfnNames(up=f"{path}.wi_1", gate=f"{path}.wi_0", down=f"{path}.wo", norm=norm, act=f"{path}.act"),
    )


STACKS = (
    Stack(
        name="encoder",
        owners=("t5",),
        blocks="encoder.block",
        attention=(_attention(0, "SelfAttention"),),
        ffn=_ffn(1),
        patch_convolution=(),
        final_norm=("encoder.final_layer_norm",),
        readout="mean",
        modality="text",
        relative_bias=True,
        returns_tuple=True,
    ),
    Stack(
        name="decoder",
        owners=("t5",),
        blocks="decoder.block",
        attention=(_attention(0, "SelfAttention"),),
        cross=_attention(1, "EncDecAttention"),
        context="encoder",
        ffn=_ffn(2),
        patch_convolution=(),
        final_norm=("decoder.final_layer_norm",),
        causal=True,
        readout="last",
        modality="text",
        relative_bias=True,
        returns_tuple=True,
    ),
)
