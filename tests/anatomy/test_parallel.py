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
@pytest.mark.parametrize(("row", "attention", "norms"), [
    ("phi", "self_attn", ("input_layernorm",)),
    ("falcon", "self_attention", ("input_layernorm",)),
    ("gpt-neox", "attention", ("input_layernorm", "post_attention_layernorm")),
])  # fmt: skip
def test_additions_reach_their_branches_and_nothing_is_between(
    row: str, attention: str, norms: tuple[str, ...]
) -> None:
    anatomy = gm.read(BACKBONES[row].model())
    block = anatomy.blocks()[1]
    x = torch.randn(2, 5, block.sizes.width)
    module, tables = block.module, block.tables(x, torch.arange(5)[None])
    given = {"position_embeddings": tables, "attention_mask": None} | ({"alibi": None} if row == "falcon" else {})

    def run() -> Tensor:
        output = module(x, **given)
        return output[0] if isinstance(output, tuple) else output

    def hand(attend: nn.Module | None, feed: nn.Module | None, *, normed: bool) -> Tensor:
        u, w = (module.get_submodule(norm)(x) for norm in (norms[0], norms[-1]))
        y, _ = module.get_submodule(attention)(u, **given)
        z = module.mlp(w)  # type: ignore[operator]
        y = y if attend is None else y + attend(u if normed else x, y)
        return x + y + (z if feed is None else z + feed(w if normed else x, z))

    torch.testing.assert_close(run(), hand(None, None, normed=True))
    for normed in (True, False):
        width = block.sizes.width
        parts = Linear(width, width), Linear(width, width)
        expected = hand(*parts, normed=normed)
        for branch, part in zip(("attention", "ffn"), parts, strict=True):
            anatomy.add(block, branch, part, normed=normed)  # type: ignore[arg-type]
        torch.testing.assert_close(run(), expected)
        anatomy.undo()
    with pytest.raises(ValueError, match="stands beside its attention, so there is no place between them"):
        anatomy.middle(block, nn.Identity())  # type: ignore[arg-type]
    if len(norms) == 2:
        return
    with pytest.raises(
        ValueError, match="both read what input_layernorm gives, so that of one cannot be changed alone"
    ):
        anatomy.middle(block, nn.Identity(), at="ffn")  # type: ignore[arg-type]
