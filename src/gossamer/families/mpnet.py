"""MPNet: BERT's blocks under names of its own, with a bias by relative position that the encoder gives to all of them."""

from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, Stack
from gossamer.errors import UserError
from gossamer.families.bert import STACKS as BERT


class MPNetAttention(OwnAttention):
    """MPNetSelfAttention with a memory; returns (states [B, N, d],) as the original."""

    q: nn.Module
    k: nn.Module
    v: nn.Module
    o: nn.Module
    dropout: nn.Dropout

    def __init__(self, original: Any):
        super().__init__(original)
        self.attention_head_size: int = original.attention_head_size

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor]:
        """[B, N, d], an additive mask and a bias [B, heads, N, N] -> ([B, N, d],)."""
        if output_attentions:
            raise UserError("MPNet with prompts does not return attention weights: detach the adapter first")
        split = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        q, k, v = (f(hidden_states).view(split).transpose(1, 2) for f in (self.q, self.k, self.v))
        both = [m for m in (position_bias, attention_mask) if m is not None]
        mask = sum(both[1:], both[0]) if both else None
        scale = self.attention_head_size**-0.5
        attended = self.attend(q, k, v, mask=mask, scale=scale, dropout=self.dropout.p)
        return (self.o(attended.transpose(1, 2).flatten(2)),)


_FFN = BERT[1].ffn

STACKS = (
    Stack(
        name="text",
        owners=("mpnet",),
        blocks="encoder.layer",
        attention=(
            AttentionNames(
                module="attention.attn",
                q="attention.attn.q",
                k="attention.attn.k",
                v="attention.attn.v",
                out="attention.attn.o",
                norm=None,
                after="attention.LayerNorm",
                head_width="attention_head_size",
                scaling=None,
                returns=1,
            ),
        ),
        ffn=_FFN,
        patch_convolution=(),
        final_norm=(),
        prefix=1,
        modality="text",
        own_attention=MPNetAttention,
        returns_tuple=1,
    ),
)
