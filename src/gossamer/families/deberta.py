"""DeBERTa-v2 and v3: BERT's blocks, with attention that adds how contents and distances match, in every block anew."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack
from gossamer.errors import UserError


class DebertaAttention(OwnAttention):
    """DisentangledSelfAttention with a memory, which is at no distance; returns (states [B, N, d], None)."""

    query_proj: nn.Module
    key_proj: nn.Module
    value_proj: nn.Module
    dropout: nn.Dropout

    def __init__(self, original: Any):
        super().__init__(original)
        self.disentangled = type(original).disentangled_attention_bias
        own = {"training", *vars(self)}
        vars(self).update(
            {n: v for n, v in vars(original).items() if n not in own}
        )  # numbers, which that function reads

    def transpose_for_scores(self, x: Tensor, heads: int) -> Tensor:
        """[B, N, heads d_h] -> [B heads, N, d_h]."""
        return x.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """[B, N, d] and what may be seen [B, 1, N, N] -> ([B, N, d], None)."""
        if output_attentions:
            raise UserError("DeBERTa with prompts does not return attention weights: detach the adapter first")
        own: Any = self
        heads, samples = own.num_attention_heads, hidden_states.shape[0]
        asking = hidden_states if query_states is None else query_states
        flat = [
            self.transpose_for_scores(f(x), heads)
            for f, x in ((self.query_proj, asking), (self.key_proj, hidden_states), (self.value_proj, hidden_states))
        ]
        kinds = 1 + ("c2p" in own.pos_att_type) + ("p2c" in own.pos_att_type)
        bias: Any = 0.0
        if own.relative_attention:
            distances = own.pos_dropout(rel_embeddings)
            bias = own.disentangled(self, flat[0], flat[1], relative_pos, distances, kinds).unflatten(
                0, (samples, heads)
            )
        q, k, v = (t.unflatten(0, (samples, heads)) for t in flat)
        hidden = torch.zeros_like(attention_mask, dtype=q.dtype)
        mask = bias + hidden.masked_fill(~attention_mask.bool(), torch.finfo(q.dtype).min)
        scale = 1 / math.sqrt(q.shape[-1] * kinds)
        attended = self.attend(q, k, v, mask=mask, scale=scale, dropout=self.dropout.p)
        return attended.transpose(1, 2).flatten(2), None


def lone(block: Any) -> tuple[int, dict[str, Any]]:
    """A block alone is given embeddings of distances, and may see everything."""
    attention = block.attention.get_submodule("self")
    like = next(attention.parameters())
    count = 2 * attention.pos_ebd_size * like.shape[1]
    distances = torch.linspace(-1, 1, count, device=like.device, dtype=like.dtype)
    return 5, {
        "attention_mask": torch.ones(2, 1, 5, 5, device=like.device),
        "rel_embeddings": distances.view(-1, like.shape[1]),
    }


STACKS = (
    Stack(
        name="text",
        owners=("deberta-v2",),
        closed=False,  # embeddings of distances are projected in every block
        blocks="encoder.layer",
        attention=(
            AttentionNames(
                module="attention.self",
                q="attention.self.query_proj",
                entry="attention",  # what the queries' projection reads besides are embeddings of distances
                k="attention.self.key_proj",
                v="attention.self.value_proj",
                out="attention.output.dense",
                norm=None,
                after="attention.output.LayerNorm",
                head_width="attention_head_size",
                scaling=None,
                bias="attention.self.pos_dropout",
            ),
        ),
        ffn=(
            FfnNames(
                up="intermediate.dense",
                down="output.dense",
                norm=None,
                after="output.LayerNorm",
                act="intermediate.intermediate_act_fn",
            ),
        ),
        patch_convolution=(),
        final_norm=(),
        prefix=1,
        modality="text",
        own_attention=DebertaAttention,
        returns_tuple=2,
        fixed=lone,
    ),
)
