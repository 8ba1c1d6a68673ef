"""timm's SwinTransformer: as Swin, with a fused qkv, states in a grid [B, h, w, d], and patches merged first in a stage."""

from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack, WindowNames
from gossamer.anatomy.window_attention import WindowAttention


class TimmWindowAttention(WindowAttention):
    """timm's WindowAttention with a memory, and with tokens in front of a window."""

    qkv: nn.Module
    attn_drop: nn.Dropout
    proj: nn.Module
    proj_drop: nn.Module
    relative_position_index: Tensor

    def __init__(self, original: Any):
        super().__init__(original)
        self.num_heads: int = original.num_heads
        self.scale: float = original.scale
        self.relative_position_bias_table = original.relative_position_bias_table
        self.register_buffer("relative_position_index", original.relative_position_index, persistent=False)

    def bias(self) -> Tensor:
        """The bias by relative position, [1, heads, w^2, w^2]."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B windows, N, d] and [windows, w^2, w^2] -> [B windows, N, d]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        options: Any = {"scale": self.scale, "dropout": self.attn_drop.p}
        attended = self.attend_in_windows(q, k, v, bias=self.bias(), mask=mask, **options)
        return self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))


STACKS = (
    Stack(
        name="vision",
        owners=("timm.SwinTransformer",),
        blocks="layers.*.blocks",
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
                bias="attn.relative_position_bias_table",
            ),
        ),
        ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2"),),
        patch_convolution=("patch_embed.proj",),
        final_norm=("norm",),
        own_attention=TimmWindowAttention,
        windows=WindowNames(size="window_size", merging="layers.*.downsample", merges_first=True),
    ),
)
