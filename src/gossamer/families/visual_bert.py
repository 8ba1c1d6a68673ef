"""BERT's blocks with attention that has no public seam: VisualBERT and GIT, which read an image as well, RemBERT, Megatron-BERT.

GIT writes: images stand in front of its text, and each of its tokens sees these and what it has written.
"""

import dataclasses
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.call import number
from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import Stack
from gossamer.families.bert import STACKS as BERT
from gossamer.families.vilt import ViltAttention


class GitAttention(OwnAttention):
    """GitSelfAttention with a memory, and those of its kind on a text; returns (states [B, N, d], None)."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    dropout: nn.Dropout

    def __init__(self, original: Any):
        super().__init__(original)
        self.attention_head_size: int = original.attention_head_size
        self.layer_idx: int = original.layer_idx

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, cache: Any = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """[B, N, d], an additive mask and a cache of keys and values -> ([B, N, d], None)."""
        split = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        q, k, v = (f(hidden_states).view(split).transpose(1, 2) for f in (self.query, self.key, self.value))
        if cache is not None:
            k, v = cache.update(k, v, number(self))
        scale = self.attention_head_size**-0.5
        attended = self.attend(q, k, v, mask=attention_mask, scale=scale, dropout=self.dropout.p)
        return attended.transpose(1, 2).flatten(2), None


_TEXT = next(stack for stack in BERT if "ernie" in stack.owners)
_ATTENTION = dataclasses.replace(_TEXT.attention[0], scaling=None, returns=1)

STACKS: tuple[Stack, ...] = (
    dataclasses.replace(
        _TEXT,
        name="fusion",
        owners=("visual_bert",),
        closed=False,  # features of an image stand behind the text where there is one
        attention=(_ATTENTION,),
        own_attention=ViltAttention,
        returns_tuple=True,
    ),
    dataclasses.replace(
        _TEXT,
        owners=("rembert",),
        attention=(dataclasses.replace(_ATTENTION, returns=2),),
        own_attention=GitAttention,
        returns_tuple=True,
        passed=("encoder.embedding_hidden_mapping_in",),  # embeddings are narrower
    ),
    dataclasses.replace(
        _TEXT,
        owners=("megatron-bert",),
        attention=(dataclasses.replace(_ATTENTION, returns=2, norm="attention.ln", after=None),),
        ffn=(dataclasses.replace(_TEXT.ffn[0], norm="ln", after=None),),
        own_attention=GitAttention,
        returns_tuple=True,
        final_norm=("encoder.ln",),
    ),
    dataclasses.replace(
        _TEXT,
        name="decoder",
        owners=("git",),
        closed=False,  # the image stands in front of the text
        prefix=0,
        attention=(dataclasses.replace(_ATTENTION, returns=2),),
        own_attention=GitAttention,
        causal=True,
        readout="last",
    ),
)
