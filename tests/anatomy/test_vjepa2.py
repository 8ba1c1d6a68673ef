"""V-JEPA 2 by hand: places of frame, row and column turn queries and keys; what is remembered has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer as gm

from ..contract.newer import CLIPS
from ..contract.table import BACKBONES


class Memory(nn.Module):
    def __init__(self, keys: Tensor, values: Tensor):
        super().__init__()
        self.rows = keys, values

    def forward(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.rows


def turned(x: Tensor, places: Tensor) -> Tensor:
    """[B, N, h, 6], of each head a pair of numbers for the frame, one for the row and one for the column, by angle place * 1."""
    found = []
    for axis, pair in enumerate(x.split(2, dim=-1)):
        angle = places[:, axis].float()[:, None]
        cos, sin = angle.cos(), angle.sin()
        found += [pair[..., 0] * cos - pair[..., 1] * sin, pair[..., 1] * cos + pair[..., 0] * sin]
    return torch.stack(found, dim=-1)


def by_hand(block: Any, x: Tensor, places: Tensor, memory: tuple[Tensor, Tensor] | None) -> Tensor:
    attention, u = block.attention, block.norm1(x)
    q, k, v = (f(u).unflatten(-1, (2, 6)) for f in (attention.query, attention.key, attention.value))
    q, k = turned(q, places), turned(k, places)
    if memory is not None:
        rows = [r.expand(len(x), -1, -1).unflatten(-1, (2, 6)) for r in memory]
        k, v = (torch.cat([row, own], 1) for row, own in zip(rows, (k, v), strict=True))
    weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) / 6**0.5).softmax(-1)
    x = x + attention.proj(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))
    return x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))


@torch.no_grad()
def test_its_blocks_with_and_without_a_memory() -> None:
    anatomy = gm.read(BACKBONES["vjepa2"].model())
    block, x = anatomy.blocks()[1], torch.randn(3, 32, 12)
    places = torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(4))
    torch.testing.assert_close(block.module(x)[0], by_hand(block.module, x, places, None), rtol=1e-4, atol=1e-5)
    rows = torch.randn(1, 5, 12), torch.randn(1, 5, 12)
    anatomy.remember(block, Memory(*rows))  # type: ignore[arg-type]
    torch.testing.assert_close(block.module(x)[0], by_hand(block.module, x, places, rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [tf.VJEPA2Model, tf.VJEPA2ForVideoClassification])
def test_predictor_and_pooler_are_left_aside(kind: Any) -> None:
    anatomy = gm.read(kind(tf.VJEPA2Config(**CLIPS)))
    assert anatomy.unread == {}
    assert len(anatomy.blocks()) == 3
