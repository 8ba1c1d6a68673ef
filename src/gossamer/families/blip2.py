"""BLIP, BLIP-2, InstructBLIP: a ViT with fused qkv, and the Q-Former that connects it with a language model of another family.

The Q-Former is post-norm; every second of its blocks reads the image, and queries have an FFN of their own.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


def _attention(path: str) -> AttentionNames:
    return AttentionNames(
        module=f"{path}.attention",
        q=f"{path}.attention.query",
        k=f"{path}.attention.key",
        v=f"{path}.attention.value",
        out=f"{path}.output.dense",
        norm=None,
        after=f"{path}.output.LayerNorm",
        head_width="attention_head_size",
    )


def lone(block: Any) -> tuple[int, dict[str, Any]]:
    """A block alone is told how many of its tokens are queries: all."""
    return 5, {"query_length": 5}


class BlipAttention(OwnAttention):
    """The first BLIP's attention, which has no public seam, with a memory; returns (states [B, N, d], None)."""

    qkv: nn.Module
    projection: nn.Module
    dropout: nn.Dropout

    def __init__(self, original: nn.Module):
        super().__init__(original)
        self.num_heads: int = original.num_heads  # type: ignore[assignment]
        self.head_dim: int = original.head_dim  # type: ignore[assignment]
        self.scale: float = original.scale  # type: ignore[assignment]

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        """[B, N, d] -> [B, N, d]."""
        q, k, v = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = self.attend(q, k, v, mask=None, scale=self.scale, dropout=self.dropout.p)
        return self.projection(attended.transpose(1, 2).flatten(2)), None


VISION = Stack(
    name="vision",
    owners=("blip_2_vision_model", "instructblip_vision_model"),
    blocks="encoder.layers",
    attention=(
        AttentionNames(
            module="self_attn",
            q="self_attn.qkv.q",
            k="self_attn.qkv.k",
            v="self_attn.qkv.v",
            fused="self_attn.qkv",
            out="self_attn.projection",
            norm="layer_norm1",
            scaling="scale",
        ),
    ),
    ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="layer_norm2"),),
    patch_convolution=("embeddings.patch_embedding",),
    final_norm=("post_layernorm",),
    prefix=1,
    readout="pooled",
)
STACKS = (
    VISION,
    replace(VISION, owners=("blip_vision_model",), own_attention=BlipAttention),
    Stack(
        name="connector",
        owners=("blip_2_qformer", "instructblip_qformer"),
        closed=False,  # it runs on queries of its own, whatever the text
        blocks="encoder.layer",
        attention=(_attention("attention"),),
        cross=_attention("crossattention"),
        context=("vision",),
        ffn=(
            FfnNames(
                up="intermediate_query.dense",
                down="output_query.dense",
                norm=None,
                after="output_query.LayerNorm",
                act="intermediate_query.intermediate_act_fn",
            ),
        ),
        patch_convolution=(),
        final_norm=(),
        modality="text",
        fixed=lone,
    ),
)
