"""ViLT-S and METER-S before they have seen a pair: put together from DINOv2-S and MiniLM, which share the width 384.

W. Kim, B. Son, I. Kim: ViLT, arXiv 2102.03334; Z.-Y. Dou et al.: METER, arXiv 2111.02387; M. Oquab et al.: DINOv2, arXiv
2304.07193; W. Wang et al.: MiniLM, arXiv 2002.10957.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import BertModel, Dinov2Model, ViltConfig, ViltModel

from gossamer import reading
from gossamer.anatomy.block import Block
from gossamer.errors import UserError
from gossamer.models.meter import MeterConfig, MeterModel

_FOLDED = {"out": "layer_scale1", "down": "layer_scale2"}  # a Linear, and the LayerScale behind it


@torch.no_grad()
def vilt(vision: Dinov2Model, words: BertModel, image_size: int) -> ViltModel:
    """A ViLT whose blocks, patches and positions are DINOv2's, and whose words are those of a BERT of the same width.

    Where no text is seen, its image tokens are DINOv2's: each LayerScale is folded into the Linear before it, and the table of
    modalities starts at zero. The pooler starts fresh, from torch's generator.

    Args:
        vision: without registers, its FFN not gated.
        words: gives the embeddings of words, positions and segments with their norm; its blocks are not used.
        image_size: pixels a side; DINOv2's positions are resized to it as DINOv2 does.

    Raises:
        ValueError: the two have different widths.
    """
    seen, read = vision.config, words.config
    if seen.hidden_size != read.hidden_size:
        raise UserError(
            f"one stack has one width, but the vision model's is {seen.hidden_size} and the text model's {read.hidden_size}"
        )
    copied = ("hidden_size", "num_hidden_layers", "num_attention_heads", "layer_norm_eps", "patch_size", "qkv_bias")
    config = ViltConfig(
        **{name: getattr(seen, name) for name in copied},
        **{name: getattr(read, name) for name in ("vocab_size", "max_position_embeddings", "type_vocab_size")},
        intermediate_size=seen.hidden_size * seen.mlp_ratio,
        image_size=image_size,
        pad_token_id=read.pad_token_id,
    )
    model: Any = ViltModel(config)
    entry = model.embeddings
    entry.text_embeddings.load_state_dict(words.embeddings.state_dict())
    entry.patch_embeddings.load_state_dict(vision.embeddings.patch_embeddings.state_dict())
    entry.cls_token.copy_(vision.embeddings.cls_token)
    entry.position_embeddings.copy_(_positions(vision, image_size))
    nn.init.zeros_(entry.token_type_embeddings.weight)
    for ours, theirs in zip(reading.read(model).blocks(), reading.read(vision).blocks(), strict=True):
        _copy_block(ours, theirs)
    model.layernorm.load_state_dict(vision.layernorm.state_dict())
    return model.eval()


def meter(vision: Dinov2Model, words: BertModel, layers: int = 3) -> MeterModel:
    """A METER whose towers are DINOv2 and a BERT as they are, and whose fusion starts fresh, from torch's generator.

    Args:
        vision: its width, heads and shape of FFN are those of the fusion too.
        words: its pooler is left out.
        layers: of each stream.
    """
    seen = vision.config
    fusion = {
        "hidden_size": seen.hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": seen.num_attention_heads,
        "intermediate_size": seen.hidden_size * seen.mlp_ratio,
    }
    model: Any = MeterModel(MeterConfig(seen.to_dict(), words.config.to_dict(), fusion))
    model.vision_model.load_state_dict(vision.state_dict())
    kept = {name: tensor for name, tensor in words.state_dict().items() if not name.startswith("pooler.")}
    model.text_model.load_state_dict(kept)
    return model.eval()


def _positions(vision: Any, image_size: int) -> torch.Tensor:
    """DINOv2's table [1, 1 + patches, d] for images of this size."""
    patches = (image_size // vision.config.patch_size) ** 2
    like = vision.embeddings.cls_token.expand(1, 1 + patches, -1)
    return vision.embeddings.interpolate_pos_encoding(like, image_size, image_size)


def _copy_block(ours: Block, theirs: Block) -> None:
    """The weights of one block become another's that scales its branches; ours does not."""
    for role in ("norm1", "q", "k", "v", "out", "norm2", "up", "down"):
        target, source = ours.part(role), theirs.part(role)
        target.load_state_dict(source.state_dict())
        if role in _FOLDED:
            scale = theirs.part(_FOLDED[role])
            target.weight.copy_(scale(source.weight.T).T)
            target.bias.copy_(scale(source.bias))
