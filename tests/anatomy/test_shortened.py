"""Masks of blocks behind merged tokens are looked at once in a pass; what merges is compiled in one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import gossamer as gm
from gossamer import hosts
from gossamer.anatomy import shortened
from gossamer.anatomy.session import Session
from gossamer.anatomy.shortened import Narrowed
from gossamer.errors import UserError
from gossamer.export import Logits

from ..contract.table import BACKBONES, METHODS, adapt, disturb


def narrowed() -> tuple[Callable[[Tensor, Tensor], Tensor], Session, Any]:
    """Two CLIP blocks one after the other, which a mask of 7 tokens reaches while 5 rows are left; how a pass begins."""
    blocks = hosts.read(BACKBONES["clip-vision"].build().eval()).blocks()[:2]
    session = Session()
    for block in blocks:
        Narrowed(block, session).apply()

    def run(x: Tensor, mask: Tensor) -> Tensor:
        for block in blocks:
            x = block.module(x, attention_mask=mask)
        return x

    return run, session, blocks


def test_a_mask_is_looked_at_once_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    run, session, blocks = narrowed()
    looked: list[Tensor] = []
    require = shortened._require_visible
    monkeypatch.setattr(shortened, "_require_visible", lambda mask: (looked.append(mask), require(mask)))
    x, mask = torch.randn(2, 5, blocks[0].sizes.width), torch.zeros(2, 1, 7, 7)
    for passes in (1, 2):
        session.begin(blocks[0].stack, 1, 7)
        torch.testing.assert_close(run(x, mask), run(x, mask[..., :5, :5]), rtol=0, atol=0)
        assert len(looked) == passes
    session.begin(blocks[0].stack, 1, 7)
    mask[1, 0, :, 6] = -torch.inf
    with pytest.raises(UserError, match="a mask hides some of the tokens"):
        run(x, mask)


def test_a_compiled_pass_looks_too() -> None:
    """It breaks no graph, and a hidden token ends the pass."""
    run, session, blocks = narrowed()
    x, mask = torch.randn(2, 5, blocks[0].sizes.width), torch.zeros(2, 1, 7, 7)

    def whole(x: Tensor, mask: Tensor) -> Tensor:
        session.begin(blocks[0].stack, 1, 7)
        return run(x, mask)

    torch.compiler.reset()
    compiled = torch.compile(whole, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, mask), whole(x, mask), rtol=0, atol=0)
    mask[1, 0, :, 6] = -torch.inf
    with pytest.raises(RuntimeError, match="a mask hides some of the tokens"):
        compiled(x, mask)


PAIRS = [
    ("vit", "tome+lora"), ("timm", "evit+vpt"), ("dinov2-registers", "tome+vpt"), ("clip-vision", "tome+sequence+das"),
    ("dinov2", "das-bridge"), ("timm-avg", "tome+cvpt+apt"),
]  # fmt: skip
ALL = [(b, m) for b in ("vit", "dinov2", "timm") for m in ("tome+lora", "tome+vpt", "evit+vpt", "das-bridge")]


@pytest.mark.parametrize(
    ("backbone", "method"),
    [
        *PAIRS[:2],
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [*PAIRS[2:], *ALL] if pair not in PAIRS[:2]),
    ],
)
def test_a_finished_model_has_no_break(backbone: str, method: str) -> None:
    """Breaks are counted; what one graph gives is what the model gives."""
    row = BACKBONES[backbone]
    adapted, inputs = disturb(adapt(row, METHODS[method])), row.inputs()
    model: nn.Module = Logits(adapted.finalize(), list(inputs)).eval()
    torch.compiler.reset()
    count = CompileCounter()
    with torch.no_grad():
        found = torch.compile(model, backend=count)(*inputs.values())
        torch.testing.assert_close(found, model(*inputs.values()), rtol=0, atol=1e-6)
    assert count.frame_count == 1


def test_a_model_with_merging_and_a_bridge_has_no_break() -> None:
    """Blocks 1 and 2 of four behind one bridge, tokens merged in the two that stand; gradients or none."""
    torch.default_generator.manual_seed(0)
    row = BACKBONES["vit"]
    adapted = disturb(gm.adapt(row.build(), [gm.DAS(skip=(0,), rank=0, bridge="per-run"), gm.ToMe(r=1)], num_labels=3))
    inputs = row.inputs()
    model = Logits(adapted.finalize(), list(inputs)).eval()
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs.values()), model(*inputs.values()), rtol=0, atol=1e-6)
