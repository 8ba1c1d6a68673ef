"""ViLT: one pre-norm stack over text and image tokens. Its attention has no public seam, so it is built from the Linears.

FLAVA has such blocks three times, for texts, images and both; VisualBERT's and GIT's are post-norm, as BERT's.
"""

from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack
from gossamer.errors import UserError


class ViltAttention(OwnAttention):
    """ViltSelfAttention with a memory, and those of its kind; returns (states [B, N, d],) as the originals."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    dropout: nn.Dropout

    def __init__(self, original: nn.Module):
        super().__init__(original)
        self.attention_head_size: int = original.attention_head_size  # type: ignore[assignment]

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> Any:
        """[B, N, d] and an additive mask -> ([B, N, d],)."""
        if output_attentions:
            raise UserError("this attention with remembered keys does not return weights: detach the adapter first")
        split = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        q, k, v = (f(hidden_states).view(split).transpose(1, 2) for f in (self.query, self.key, self.value))
        scale = self.attention_head_size**-0.5
        attended = self.attend(q, k, v, mask=attention_mask, scale=scale, dropout=self.dropout.p)
        return (attended.transpose(1, 2).flatten(2),)


STACKS = (
    Stack(
        name="fusion",
        owners=("vilt",),
        blocks="encoder.layer",
        attention=(
            AttentionNames(
                module="attention.attention",
                q="attention.attention.query",
                k="attention.attention.key",
                v="attention.attention.value",
                out="attention.output.dense",
                norm="layernorm_before",
                head_width="attention_head_size",
                scaling=None,
                returns=1,
            ),
        ),
        ffn=(FfnNames(up="intermediate.dense", down="output.dense", norm="layernorm_after"),),
        prefix=1,
        visual_prefix=1,
        readout="pooled",
        modality="both",
        patch_convolution=("embeddings.patch_embeddings.projection",),
        final_norm=("layernorm",),
        entrance="embeddings.text_embeddings",
        words="embeddings.text_embeddings",
        own_attention=ViltAttention,
        returns_tuple=True,
    ),
)
