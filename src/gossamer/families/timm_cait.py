"""timm's CaiT: heads mix scores before the softmax and weights behind it; a class token enters behind the last block."""

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention, hide, join, memory_of, weigh
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


class TalkingAttention(OwnAttention):
    """timm's TalkingHeadAttn with a memory: remembered keys are scored by all heads, and mixed, as the others are."""

    qkv: nn.Module
    attn_drop: nn.Module
    proj: nn.Module
    proj_l: nn.Module
    proj_w: nn.Module
    proj_drop: nn.Module

    def __init__(self, original: Any):
        super().__init__(original)
        self.num_heads: int = original.num_heads
        self.scale: float = original.scale

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, d] -> [B, N, d]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        k, v, _, visible = join(self, k, v)
        scores = mixed(self.proj_l, self.scale * q @ k.transpose(-2, -1))
        mask = hide(weigh(self, None, k), visible, k.shape[2])
        if mask is not None:
            least = torch.finfo(scores.dtype).min
            scores = scores.masked_fill(~mask, least) if mask.dtype == torch.bool else scores + mask
        weights = scores.softmax(dim=-1)
        memory = memory_of(self)
        if memory is not None and memory.watched is not None:
            memory.watched.append(weights.detach())
        weights = self.attn_drop(mixed(self.proj_w, weights))
        return self.proj_drop(self.proj((weights @ v).transpose(1, 2).flatten(2)))


def mixed(heads: nn.Module, scores: Tensor) -> Tensor:
    """Scores or weights [B, heads, N, M], each of them a mixture of those of all heads."""
    return heads(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


STACKS = (
    Stack(
        name="vision",
        owners=("timm.Cait",),
        blocks="blocks",
        aside=("blocks_token_only",),
        attention=(
            AttentionNames(
                module="attn",
                q="attn.qkv.q",
                k="attn.qkv.k",
                v="attn.qkv.v",
                fused="attn.qkv",
                out="attn.proj",
                norm="norm1",
                scaling="scale",
                heads="num_heads",
                layer_scale="gamma_1",
                returns=0,
            ),
        ),
        ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2", layer_scale="gamma_2"),),
        patches="patch_embed",
        patch_convolution=("patch_embed.proj",),
        final_norm=("norm",),
        own_attention=TalkingAttention,
        closed=False,  # what reads the class token at the end
    ),
)
