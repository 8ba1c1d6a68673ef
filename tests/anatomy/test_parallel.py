"""Blocks whose FFN stands beside their attention, behind one norm: x + attention(n(x)) + ffn(n(x)), by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gossamer as gm

from ..contract.table import BACKBONES


class Linear(nn.Linear):
    """A part of both that a branch reads and gives."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x) + 0.5 * y


@torch.no_grad()
def test_additions_reach_their_branches_and_nothing_is_between() -> None:
    anatomy = gm.read(BACKBONES["phi"].model())
    block, x = anatomy.blocks()[1], torch.randn(2, 5, 12)
    module, tables = block.module, block.tables(x, torch.arange(5)[None])
    given = {"position_embeddings": tables, "attention_mask": None}

    def hand(attend: nn.Module | None, feed: nn.Module | None, *, normed: bool) -> Tensor:
        u = module.input_layernorm(x)  # type: ignore[operator]
        y, _ = module.self_attn(u, **given)  # type: ignore[operator]
        z = module.mlp(u)  # type: ignore[operator]
        y = y if attend is None else y + attend(u if normed else x, y)
        return x + y + (z if feed is None else z + feed(u if normed else x, z))

    torch.testing.assert_close(module(x, **given), hand(None, None, normed=True))
    for normed in (True, False):
        parts = Linear(12, 12), Linear(12, 12)
        expected = hand(*parts, normed=normed)
        for branch, part in zip(("attention", "ffn"), parts, strict=True):
            anatomy.add(block, branch, part, normed=normed)  # type: ignore[arg-type]
        torch.testing.assert_close(module(x, **given), expected)
        anatomy.undo()
    with pytest.raises(ValueError, match="stands beside its attention, so there is no place between them"):
        anatomy.middle(block, nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="both read what input_layernorm gives, so that of one cannot be changed alone"
    ):
        anatomy.middle(block, nn.Identity(), at="ffn")  # type: ignore[arg-type]
