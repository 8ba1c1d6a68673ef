"""Hiera, of transformers and of timm, and SAM 2's encoder: stages whose first block pools tokens and widens them.

Such a block stands between two stages: its states enter with one width and number and leave with another, so nothing is placed in
it. Those behind it are pre-norm blocks of one width. Hiera's tokens are ordered so that the windows (mask units) of an image lie
interleaved in one row; SAM 2 holds a map, out of which its blocks cut padded windows.
"""

import math
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, FfnNames, MapNames, Stack, WindowNames
from gossamer.errors import UserError


class UnitAttention(OwnAttention):
    """HieraMaskUnitAttention with a memory: in the units of a sample, or in all of it; returns (states, None) as the original."""

    qkv: nn.Module
    proj: nn.Module

    def __init__(self, original: Any):
        super().__init__(original)
        self.num_heads: int = original.num_heads
        self._sized(original)

    def _sized(self, original: Any) -> None:
        self.scale: float = original.scale
        self.window_size: int = original.window_size
        self.use_mask_unit_attn: bool = original.use_mask_unit_attn

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """[B, N, d] -> ([B, N, d], None)."""
        if any(args) or any(kwargs.values()):
            raise UserError("Hiera with prompts does not return attention weights: detach the adapter first")
        return self.attended(hidden_states, self.num_heads), None

    def attended(self, x: Tensor, heads: int) -> Tensor:
        """x [B, N, d], where token i of unit j stands at i n + j of n units -> the same."""
        units = x.shape[1] // self.window_size if self.use_mask_unit_attn else 1
        split = self.qkv(x).unflatten(1, (-1, units)).unflatten(-1, (3, heads, -1))
        q, k, v = split.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # [B n, heads, tokens of a unit, d_h]
        found = self.attend(q, k, v, mask=None, scale=self.scale, dropout=0.0)
        return self.proj(found.unflatten(0, (-1, units)).permute(0, 3, 1, 2, 4).flatten(3).flatten(1, 2))


class TimmUnitAttention(UnitAttention):
    """timm's MaskUnitAttention with a memory; [B, N, d] -> the same."""

    def __init__(self, original: Any):
        OwnAttention.__init__(self, original)
        self.heads: int = original.heads
        self.q_stride: int = original.q_stride
        self._sized(original)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """[B, N, d]."""
        return self.attended(x, self.heads)


def pools(block: Any) -> bool:
    """Whether a block makes fewer or wider tokens of those that enter it."""
    stride = block.query_stride if hasattr(block, "query_stride") else block.attn.q_stride
    widens = block.dim != block.dim_out if hasattr(block, "dim") else block.hidden_size != block.hidden_size_output
    return widens or stride not in (None, 1)


def halved(owner: Any, name: str) -> int:
    """How often the map was halved before a block: once for each block before it that pools."""
    lists = [stage.layers for stage in owner.encoder.stages] if hasattr(owner, "encoder") else [owner.blocks]
    blocks = [block for some in lists for block in some]
    place = next(i for i, block in enumerate(blocks) if block is owner.get_submodule(name))
    return sum(map(pools, blocks[:place]))


def unit(block: Any) -> tuple[int, int] | None:
    """Height and width of Hiera's mask units in a block; None where it attends to all."""
    side = math.isqrt(block.attn.window_size)
    return (side, side) if block.attn.use_mask_unit_attn else None


def lone(block: Any) -> tuple[int, dict[str, Any]]:
    """A block alone takes two units, or six tokens."""
    return (2 * block.attn.window_size if block.attn.use_mask_unit_attn else 6), {}


def lone_map(block: Any) -> tuple[tuple[int, int], dict[str, Any]]:
    """A block of SAM 2 alone takes a map of 2 x 3."""
    return (2, 3), {}


def _attention(norm: str, heads: str) -> AttentionNames:
    return AttentionNames(
        module="attn",
        q="attn.qkv.q",
        k="attn.qkv.k",
        v="attn.qkv.v",
        fused="attn.qkv",
        out="attn.proj",
        norm=norm,
        scaling="scale",
        heads=heads,
    )


STACKS = (
    Stack(
        name="vision",
        owners=("hiera",),
        blocks="encoder.stages.*.layers",
        between=pools,
        level=halved,
        attention=(_attention("layernorm_before", "num_heads"),),
        ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="layernorm_after", act="mlp.activation_fn"),),
        patch_convolution=("embeddings.patch_embeddings.projection",),
        final_norm=(),
        readout="pooled",
        own_attention=UnitAttention,
        returns_tuple=2,
        fixed=lone,
        windows=WindowNames(size=unit),
        closed=False,
    ),
    Stack(
        name="vision",
        owners=("timm.Hiera",),
        blocks="blocks",
        between=pools,
        level=halved,
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
                heads="heads",
                layer_scale="ls1",
            ),
        ),
        ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2", layer_scale="ls2", act="mlp.act"),),
        patch_convolution=("patch_embed.proj",),
        final_norm=(),
        readout="mean",
        own_attention=TimmUnitAttention,
        fixed=lone,
        windows=WindowNames(size=unit),
        closed=False,
    ),
    Stack(
        name="vision",
        owners=("sam2_hiera_det_model",),
        blocks="blocks",
        between=pools,
        level=halved,
        attention=(_attention("layer_norm1", "num_attention_heads"),),
        ffn=(FfnNames(up="mlp.proj_in", down="mlp.proj_out", norm="layer_norm2", act="mlp.activation"),),
        patch_convolution=("patch_embed.projection",),
        final_norm=(),
        readout="mean",
        gives=MapNames(width=lambda config: config.embed_dim_per_stage[-1], channels_last=True),
        fixed=lone_map,
        windows=WindowNames(size="window_size"),
        closed=False,
    ),
)
