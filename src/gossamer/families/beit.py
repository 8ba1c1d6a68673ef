"""BEiT, BEiT v2, Data2Vec-vision: bare LayerScale, a bias in every block; InternViT and Qianfan-OCR, which have no bias."""

import dataclasses
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack
from gossamer.errors import UserError


class Data2VecAttention(OwnAttention):
    """Data2VecVisionSelfAttention with a memory; returns (states [B, N, d], None)."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    dropout: nn.Dropout
    relative_position_bias: nn.Module

    def __init__(self, original: Any):
        super().__init__(original)
        self.attention_head_size: int = original.attention_head_size
        self.config = original.config
        self.biased: bool = original.has_relative_position_bias

    def forward(
        self,
        hidden_states: Tensor,
        output_attentions: bool = False,
        relative_position_bias: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        resolution: tuple[int, int] | None = None,
    ) -> tuple[Tensor, None]:
        """[B, N, d], a bias that all blocks share, and the image's height and width -> ([B, N, d], None)."""
        if output_attentions:
            raise UserError("Data2Vec with prompts does not return attention weights: detach the adapter first")
        split = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        q, k, v = (f(hidden_states).view(split).transpose(1, 2) for f in (self.query, self.key, self.value))
        bias = relative_position_bias
        if self.biased:
            assert resolution is not None, "a block with a bias is told how large the image is"
            grid = tuple(side // self.config.patch_size for side in resolution)
            table: Any = (
                self.relative_position_bias
            )  # a module of transformers', by a name that torch's stubs know otherwise
            own = table(grid, interpolate_pos_encoding, dim_size=hidden_states.shape[1])
            bias = own if bias is None else own + bias
        scale = self.attention_head_size**-0.5
        attended = self.attend(q, k, v, mask=bias, scale=scale, dropout=self.dropout.p)
        return attended.transpose(1, 2).flatten(2), None


def lone(block: Any) -> tuple[int, dict[str, Any]]:
    """A block alone takes a class token and the patches of an image of 2 x 3."""
    attention = block.get_submodule("attention.attention") if hasattr(block.attention, "attention") else block.attention
    side = attention.config.patch_size
    return 7, {"resolution": (2 * side, 3 * side)}


_BEIT = AttentionNames(
    module="attention",
    q="attention.q_proj",
    k="attention.k_proj",
    v="attention.v_proj",
    out="attention.o_proj",
    norm="layernorm_before",
    layer_scale="lambda_1",
    bias="relative_position_bias",
)
_DATA2VEC = AttentionNames(
    module="attention.attention",
    q="attention.attention.query",
    k="attention.attention.key",
    v="attention.attention.value",
    out="attention.output.dense",
    norm="layernorm_before",
    head_width="attention_head_size",
    scaling=None,
    layer_scale="lambda_1",
    bias="attention.attention.relative_position_bias",
)


def _stack(owner: str, blocks: str, attention: AttentionNames, ffn: FfnNames, **more: Any) -> Stack:
    return Stack(
        name="vision",
        owners=(owner,),
        blocks=blocks,
        attention=(attention, dataclasses.replace(attention, bias=None)),
        ffn=(ffn,),
        prefix=1,
        readout="pooled",
        patch_convolution=("embeddings.patch_embeddings.projection",),
        final_norm=("layernorm", "pooler.layernorm"),  # before or behind the mean over patches
        fixed=lone,
        **more,
    )


_INTERN = dataclasses.replace(
    _BEIT,
    out="attention.projection_layer",
    scaling="scale",
    q_norm="attention.q_norm",
    k_norm="attention.k_norm",
    bias=None,
)

STACKS = (
    _stack(
        "beit",
        "layers",
        _BEIT,
        FfnNames(up="mlp.fc1", down="mlp.fc2", norm="layernorm_after", layer_scale="lambda_2", act="mlp.activation_fn"),
        patches="embeddings.patch_embeddings",  # Data2Vec's gives more beside the tokens
    ),
    *(
        dataclasses.replace(
            _stack(
                owner,
                blocks,
                _INTERN,
                FfnNames(
                    up="mlp.fc1",
                    down="mlp.fc2",
                    norm="layernorm_after",
                    layer_scale="lambda_2",
                    act="mlp.activation_fn",
                ),
            ),
            final_norm=("layernorm",),
            fixed=None,
            readout="first",
        )
        for owner, blocks in (("internvl_vision", "encoder.layer"), ("qianfan_ocr_vision", "layers"))
    ),
    _stack(
        "data2vec-vision",
        "encoder.layer",
        _DATA2VEC,
        FfnNames(up="intermediate.dense", down="output.dense", norm="layernorm_after", layer_scale="lambda_2"),
        own_attention=Data2VecAttention,
        returns_tuple=2,
    ),
)
