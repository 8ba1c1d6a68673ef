"""CaiT by hand: scores and weights that heads mix, damped branches, and a memory among the keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer as gm

from ..contract.table import BACKBONES


class Memory(nn.Module):
    def __init__(self, keys: Tensor, values: Tensor):
        super().__init__()
        self.rows = keys, values

    def forward(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.rows


def by_hand(block: Any, x: Tensor, memory: tuple[Tensor, Tensor] | None) -> Tensor:
    """x + g1 W_o (sum_h' w[h, h'] softmax_h'(sum_h'' l[h', h''] q k / sqrt(d_h)) v) + g2 ffn, two heads."""
    attention, u = block.attn, block.norm1(x)
    q, k, v = attention.qkv(u).chunk(3, dim=-1)
    if memory is not None:
        k, v = (torch.cat([rows.expand(len(x), -1, -1), own], 1) for rows, own in zip(memory, (k, v), strict=True))
    q, k, v = (t.unflatten(-1, (2, 6)) for t in (q, k, v))
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / 6**0.5
    scores = torch.einsum("gh,bhnm->bgnm", attention.proj_l.weight, scores) + attention.proj_l.bias[:, None, None]
    weights = scores.softmax(-1)
    weights = torch.einsum("gh,bhnm->bgnm", attention.proj_w.weight, weights) + attention.proj_w.bias[:, None, None]
    attended = torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)
    x = x + block.gamma_1 * attention.proj(attended)
    return x + block.gamma_2 * block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))


@torch.no_grad()
def test_its_blocks_with_and_without_a_memory() -> None:
    anatomy = gm.read(BACKBONES["timm-cait"].model())
    block, x = anatomy.blocks()[1], torch.randn(3, 5, 12)
    torch.testing.assert_close(block.module(x), by_hand(block.module, x, None))
    rows = torch.randn(1, 4, 12), torch.randn(1, 4, 12)
    anatomy.remember(block, Memory(*rows))  # type: ignore[arg-type]
    torch.testing.assert_close(block.module(x), by_hand(block.module, x, rows))


def test_the_blocks_of_its_class_token_are_left_aside() -> None:
    model: Any = BACKBONES["timm-cait"].model()
    anatomy = gm.read(model)
    assert anatomy.unread == {}
    assert len(anatomy.blocks()) == 3
    assert len(model.blocks_token_only) == 2
