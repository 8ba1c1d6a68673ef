"""Swin v2 by hand: x + n1(attention(x)), then x + n2(ffn(x)), with cosines times a scale of each head in windows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer as gm
from gossamer.anatomy.seams import Part
from gossamer.anatomy.windows import WindowInserted, merge

from ..contract.table import BACKBONES, run


def _built(row: str) -> bool:
    try:
        return BACKBONES[row].model() is not None
    except RuntimeError as error:
        if "is invalid for input of size" not in str(error):
            raise
        return False


PADS = pytest.mark.skipif(
    not _built("timm-swin-v2"), reason="Swin v2 of this timm has no windows that reach over the edge"
)
BOTH = pytest.mark.parametrize("row", ["swin-v2", pytest.param("timm-swin-v2", marks=PADS)])


class Rows(Part):
    """Tokens to be inserted, or keys and values to be remembered."""

    def __init__(self, *rows: Tensor):
        super().__init__()
        self.rows = rows

    def forward(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self.rows[0].expand(x.shape[0], -1, -1)
        return self.rows


def named(block: nn.Module) -> tuple[nn.Module, Any, Any, Any]:
    """The attention, what projects to queries, keys and values, what leaves it, and the bias of distances [heads, 9, 9]."""
    if hasattr(block, "attn"):
        a: Any = block.attn
        bias = torch.cat([a.q_bias, torch.zeros_like(a.q_bias), a.v_bias])
        qkv = lambda x: F.linear(x, a.qkv.weight, bias).chunk(3, dim=-1)  # noqa: E731
        return a, qkv, a.proj, a.cpb_mlp
    a = block.attention.self  # type: ignore[union-attr]
    qkv = lambda x: (a.query(x), a.key(x), a.value(x))  # noqa: E731
    return a, qkv, block.attention.output.dense, a.continuous_position_bias_mlp  # type: ignore[union-attr]


def attention(block: nn.Module, windows: Tensor, mask: Tensor | None, front: Tensor | None = None) -> Tensor:
    """Windows [n, 9, d] -> the same; `front` [p, d] are tokens that every window sees besides, without a distance."""
    a, qkv, out, mlp = named(block)
    heads = a.logit_scale.shape[0]
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv(windows))
    table = 16 * torch.sigmoid(mlp(a.relative_coords_table).view(-1, heads)[a.relative_position_index].permute(2, 0, 1))
    logits = torch.zeros(len(windows), heads, 9, 9) + table
    logits = logits if mask is None else logits + mask.repeat(len(windows) // len(mask), 1, 1)[:, None]
    if front is not None:
        _, more_k, more_v = (
            t.unflatten(-1, (heads, -1)).transpose(0, 1).expand(len(windows), -1, -1, -1) for t in qkv(front)
        )
        k, v, logits = torch.cat([more_k, k], 2), torch.cat([more_v, v], 2), F.pad(logits, (len(front), 0))
    cosines = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(2, 3)
    logits = logits + cosines * a.logit_scale.clamp(max=math.log(100)).exp()
    return out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


def watched(module: nn.Module) -> list[tuple[Any, Any]]:
    calls: list[tuple[Any, Any]] = []
    module.register_forward_hook(lambda m, args, y: calls.append((args, y)))
    return calls


@BOTH
@torch.no_grad()
def test_a_memory_is_seen_by_its_cosines(row: str) -> None:
    model = BACKBONES[row].model()
    anatomy = gm.read(model)
    for block in anatomy.blocks():
        tokens = torch.randn(2, block.sizes.width)
        keys, values = block.keys_values(tokens[None])
        anatomy.remember(block, Rows(keys, values))
        calls = watched(block.part("attention"))
        run(model, BACKBONES[row].inputs())
        (args, found) = calls[-1]
        mask = args[1] if len(args) > 1 else getattr(block.module, "attn_mask", None)
        found = found[0] if isinstance(found, tuple) else found
        expected = attention(block.module, args[0], mask, tokens)
        if row == "swin-v2":  # its output layer stands outside of what is called the attention
            found = block.part("out")(found)
        torch.testing.assert_close(found, expected)
        anatomy.undo()


@BOTH
@torch.no_grad()
def test_tokens_in_windows_go_through_what_patches_go_through(row: str) -> None:
    model = BACKBONES[row].model()
    anatomy = gm.read(model)
    first, second, third = anatomy.blocks()
    rows = torch.randn(1, 2, 12)
    anatomy.insert(first, Rows(rows), last=third, stay=True)
    run(model, BACKBONES[row].inputs())
    (change,) = [c for c in anatomy.log if isinstance(c, WindowInserted)]
    for walked, following in zip(change.walked, [*change.walked[1:], None], strict=True):
        block, module = walked.block, walked.block.module
        assert walked.tokens is not None
        assert walked.middle is not None
        assert walked.left is not None
        norms = [block.part(role) for role in ("closing1", "closing2")]
        normed = (walked.middle - walked.tokens - norms[0].bias) / norms[0].weight
        torch.testing.assert_close(normed.std(-1, correction=0), torch.ones(3, 2), rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(normed.mean(-1), torch.zeros(3, 2), rtol=1e-3, atol=1e-3)
        middle = walked.middle
        fed = module.mlp(middle) if row == "timm-swin-v2" else module.output(module.intermediate(middle))  # type: ignore[operator]
        torch.testing.assert_close(walked.left, middle + norms[1](fed))
        if following is not None:
            merging = following.block.merging
            expected = walked.left if merging is None else merge(walked.left, merging, norms_last=True)
            torch.testing.assert_close(following.tokens, expected)
    merging = third.merging
    token, patches = torch.randn(3, 1, 12), None
    grid = token[:, :, None].expand(3, 2, 2, 12)
    patches = merging(grid) if row == "timm-swin-v2" else merging(grid.flatten(1, 2), (2, 2))  # type: ignore[misc]
    torch.testing.assert_close(merge(token, merging, norms_last=True), patches.reshape(3, 1, 24))
    assert [b.window for b in (first, second, third)] == [(3, 3)] * 3
