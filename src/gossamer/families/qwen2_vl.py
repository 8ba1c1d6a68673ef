"""The vision tower of Qwen2-VL: the patches of all images are rows of one sequence, rotated by their places in their image."""

from typing import Any

import torch

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


def lone(block: Any) -> tuple[int, dict[str, Any]]:
    """A block alone is told that its rows are one image."""
    device = next(block.parameters()).device
    return 4, {"cu_seqlens": torch.tensor([0, 4], dtype=torch.int32, device=device)}


STACKS = (
    Stack(
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
        packed=True,
        fixed=lone,
        readout="mean",
    ),
)
