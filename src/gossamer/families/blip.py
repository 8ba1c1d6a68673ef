"""BLIP: the ViT of BLIP-2, and BERT's blocks that read an image by cross-attention, an encoder or a decoder. No public seam."""

import dataclasses
from typing import Any

from torch import Tensor, nn
from transformers import EncoderDecoderCache

from gossamer.anatomy.call import number
from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import Stack
from gossamer.families.bert import STACKS as BERT
from gossamer.families.blip2 import STACKS as BLIP2


class TowerAttention(OwnAttention):
    """BlipAttention with a memory; returns (states [B, N, d], None)."""

    qkv: nn.Module
    projection: nn.Module
    dropout: nn.Dropout

    def __init__(self, original: Any):
        super().__init__(original)
        self.num_heads: int = original.num_heads
        self.head_dim: int = original.head_dim
        self.scale: float = original.scale

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        """[B, N, d] -> ([B, N, d], None)."""
        q, k, v = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = self.attend(q, k, v, mask=None, scale=self.scale, dropout=self.dropout.p)
        return self.projection(attended.transpose(1, 2).flatten(2)), None


class TextAttention(OwnAttention):
    """BlipTextSelfAttention, of a text or across to an image, with a memory; returns (states [B, N, d], None)."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    dropout: nn.Dropout

    def __init__(self, original: Any):
        super().__init__(original)
        self.attention_head_size: int = original.attention_head_size
        self.layer_idx: int = original.layer_idx

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """[B, N, d], an additive mask, what is read besides [B, M, e] and a cache of keys and values -> ([B, N, d], None)."""
        crosses = encoder_hidden_states is not None
        mask = encoder_attention_mask if crosses else attention_mask  # upstream hides nothing of an image either
        q = self._heads(self.query(hidden_states))
        k, v = self._remembered(
            hidden_states if encoder_hidden_states is None else encoder_hidden_states, cache, crosses
        )
        attended = self.attend(q, k, v, mask=mask, scale=self.attention_head_size**-0.5, dropout=self.dropout.p)
        return attended.transpose(1, 2).flatten(2), None

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.attention_head_size)).transpose(1, 2)

    def _remembered(self, states: Tensor, cache: Any, crosses: bool) -> tuple[Tensor, Tensor]:
        """Keys and values; those of an image are computed once in a generation."""
        place, both = number(self), isinstance(cache, EncoderDecoderCache)
        held = cache if not both else cache.cross_attention_cache if crosses else cache.self_attention_cache
        if both and crosses and cache.is_updated.get(place):
            return held.layers[place].keys, held.layers[place].values
        k, v = self._heads(self.key(states)), self._heads(self.value(states))
        if held is not None:
            k, v = held.update(k, v, place)
        if both and crosses:
            cache.is_updated[place] = True
        return k, v


_BERT = next(stack for stack in BERT if stack.cross is not None)
assert _BERT.cross is not None
_DECODER = dataclasses.replace(
    _BERT,
    owners=("transformers.BlipTextLMHeadModel",),
    blocks="bert.encoder.layer",
    attention=(dataclasses.replace(_BERT.attention[0], scaling=None),),
    cross=dataclasses.replace(_BERT.cross, scaling=None),
    context=("text", "vision"),  # answers are written from a text that has read the image
    closed=False,  # alone it reads no image, and runs without its cross-attention
    own_attention=TextAttention,
)

_TOWER = next(stack for stack in BLIP2 if stack.name == "vision")

STACKS: tuple[Stack, ...] = (
    dataclasses.replace(_TOWER, owners=("blip_vision_model",), own_attention=TowerAttention),
    _DECODER,
    dataclasses.replace(
        _DECODER,
        name="text",
        owners=("blip_text_model",),
        blocks="encoder.layer",
        context=("vision",),
        causal=False,
        prefix=1,
        readout="first",
    ),
)
