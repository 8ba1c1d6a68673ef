"""Hiera, of transformers and of timm, and SAM 2's encoder: stages whose first block pools tokens and widens them.

Such a block stands between two stages: its states enter with one width and number and leave with another, so nothing is placed in
it. Those behind it are pre-norm blocks of one width. Hiera's tokens are ordered so that the windows (mask units) of an image lie
interleaved in one row; SAM 2 holds a map, out of which its blocks cut padded windows.
"""

import dataclasses
import math
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, FfnNames, MapNames, Stack, WindowNames
from gossamer.errors import UserError
from gossamer.families.sam import SAM_ATTENTION, lone_map


class InUnits(OwnAttention):
    """Hiera's attention with a memory: in the units of a sample, or in all of it."""

    qkv: nn.Module
    proj: nn.Module

    def __init__(self, original: Any):
        super().__init__(original)
        self.scale: float = original.scale
        self.window_size: int = original.window_size
        self.use_mask_unit_attn: bool = original.use_mask_unit_attn

    def attended(self, x: Tensor, heads: int) -> Tensor:
        """x [B, N, d], where token i of unit j stands at i n + j of n units -> the same."""
        units = x.shape[1] // self.window_size if self.use_mask_unit_attn else 1
        split = self.qkv(x).unflatten(1, (-1, units)).unflatten(-1, (3, heads, -1))
        q, k, v = split.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # [B n, heads, tokens of a unit, d_h]
        found = self.attend(q, k, v, mask=None, scale=self.scale, dropout=0.0)
        return self.proj(found.unflatten(0, (-1, units)).permute(0, 3, 1, 2, 4).flatten(3).flatten(1, 2))


class UnitAttention(InUnits):
    """HieraMaskUnitAttention with a memory; returns (states, None) as the original."""

    def __init__(self, original: Any):
        super().__init__(original)
        self.num_heads: int = original.num_heads

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """[B, N, d] -> ([B, N, d], None)."""
        if any(args) or any(kwargs.values()):
            raise UserError("Hiera with prompts does not return attention weights: detach the adapter first")
        return self.attended(hidden_states, self.num_heads), None


class TimmUnitAttention(InUnits):
    """timm's MaskUnitAttention with a memory."""

    def __init__(self, original: Any):
        super().__init__(original)
        self.heads: int = original.heads
        self.q_stride: int = original.q_stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, d] -> the same."""
        return self.attended(x, self.heads)


def pools(block: Any) -> int | None:
    """Of a block of transformers' Hiera: None, or how often it halves the map where it pools tokens or widens them."""
    return _halves(block.hidden_size != block.hidden_size_output, block.query_stride != 1)


def timm_pools(block: Any) -> int | None:
    """The same of one of timm's."""
    return _halves(block.dim != block.dim_out, block.attn.q_stride != 1)


def sam2_pools(block: Any) -> int | None:
    """The same of one of SAM 2's encoder."""
    return _halves(block.dim != block.dim_out, block.query_stride is not None)


def _halves(widens: bool, strides: bool) -> int | None:
    return int(strides) if widens or strides else None


def unit(block: Any) -> tuple[int, int] | None:
    """Height and width of Hiera's mask units in a block; None where it attends to all."""
    side = math.isqrt(block.attn.window_size)
    return (side, side) if block.attn.use_mask_unit_attn else None


def lone(block: Any) -> tuple[int, dict[str, Any]]:
    """A block alone takes two units, or six tokens."""
    return (2 * block.attn.window_size if block.attn.use_mask_unit_attn else 6), {}


_HIERA = dataclasses.replace(SAM_ATTENTION, norm="layernorm_before", heads="num_heads")


def _stack(owner: str, blocks: str, attention: AttentionNames, ffn: FfnNames, **more: Any) -> Stack:
    return Stack(
        name="vision",
        owners=(owner,),
        blocks=blocks,
        attention=(attention,),
        ffn=(ffn,),
        final_norm=(),
        closed=False,
        **more,
    )


STACKS = (
    _stack(
        "hiera",
        "encoder.stages.*.layers",
        _HIERA,
        FfnNames(up="mlp.fc1", down="mlp.fc2", norm="layernorm_after", act="mlp.activation_fn"),
        between=pools,
        patch_convolution=("embeddings.patch_embeddings.projection",),
        readout="pooled",
        own_attention=UnitAttention,
        returns_tuple=2,
        fixed=lone,
        windows=WindowNames(size=unit),
    ),
    _stack(
        "timm.Hiera",
        "blocks",
        dataclasses.replace(_HIERA, norm="norm1", heads="heads", layer_scale="ls1"),
        FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2", layer_scale="ls2", act="mlp.act"),
        between=timm_pools,
        patch_convolution=("patch_embed.proj",),
        readout="mean",
        own_attention=TimmUnitAttention,
        fixed=lone,
        windows=WindowNames(size=unit),
    ),
    _stack(
        "sam2_hiera_det_model",
        "blocks",
        SAM_ATTENTION,
        FfnNames(up="mlp.proj_in", down="mlp.proj_out", norm="layer_norm2", act="mlp.activation"),
        between=sam2_pools,
        patch_convolution=("patch_embed.projection",),
        readout="mean",
        gives=MapNames(width=lambda config: config.embed_dim_per_stage[-1], channels_last=True),
        fixed=lone_map,
        windows=WindowNames(size="window_size"),
    ),
)
