"""The vision towers of Qwen-VL: the patches of all images are rows of one sequence, rotated by their places in their image.

Qwen 2.5 (EXAONE 4.5, HyperCLOVA X) attends in windows: in most blocks a window is what an image is in the others. Qwen 3 gives its
text what some of its blocks gave, too.
"""

import dataclasses
from typing import Any

import torch

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


def lone(block: Any) -> tuple[int, dict[str, Any]]:
    """A block alone is told that its rows are one image."""
    device = next(block.parameters()).device
    return 4, {"cu_seqlens": torch.tensor([0, 4], dtype=torch.int32, device=device)}


_QWEN2 = Stack(
    name="vision",
    owners=("qwen2_vl_vision",),
    blocks="blocks",
    attention=(
        AttentionNames(
            module="attn",
            q="attn.qkv.q",
            k="attn.qkv.k",
            v="attn.qkv.v",
            fused="attn.qkv",
            out="attn.proj",
            norm="norm1",
            returns=0,
        ),
    ),
    ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2"),),
    patch_convolution=(),  # a convolution over frames
    final_norm=("merger.ln_q",),
    patch_rotary=True,
    packed="rows",
    fixed=lone,
    readout="mean",
)

STACKS = (
    _QWEN2,
    dataclasses.replace(
        _QWEN2,
        owners=("qwen2_5_vl_vision", "exaone4_5_vision"),
        ffn=(FfnNames(up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj", norm="norm2", act="mlp.act_fn"),),
    ),
    dataclasses.replace(
        _QWEN2,
        owners=("qwen3_vl_vision", "qwen3_vl_moe_vision", "qwen3_5_vision", "qwen3_5_moe_vision"),
        aside=("deepstack_merger_list",),
        ffn=(FfnNames(up="mlp.linear_fc1", down="mlp.linear_fc2", norm="norm2", act="mlp.act_fn"),),
        final_norm=("merger.norm",),
    ),
)
