"""The ledger of tokens: longer, shorter, and what is widened once."""

from __future__ import annotations

import pytest
import torch

import gossamer as gm
from gossamer.anatomy.tokens import Ledger, cut, pad

from ..contract.table import BACKBONES, run


def test_rows_enter_behind_the_prefix_and_leave() -> None:
    ledger, one, two = Ledger(1, 5), object(), object()
    ledger.enter(one, 2)
    ledger.enter(two, 3)
    assert (ledger.count, ledger.length) == (5, 10)
    assert ledger.inserted == [(two, 3), (one, 2)]
    rows = torch.arange(10).expand(2, 10)
    assert ledger.without_inserted(rows)[0].tolist() == [0, 6, 7, 8, 9]
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    assert ledger.widen(mask)[1].tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert (ledger.rows_of(two), ledger.rows_of(one)) == (slice(1, 4), slice(4, 6))
    assert ledger.behind(rows[:, :, None])[1, :, 0].tolist() == [6, 7, 8, 9]
    ledger.leave(one)
    with pytest.raises(KeyError, match="object has no rows in this stream now"):
        ledger.rows_of(one)
    assert (ledger.count, ledger.entered) == (3, {one: 2, two: 3})


def test_the_same_tensor_is_widened_once_and_leads_back_to_its_root() -> None:
    ledger, calls = Ledger(0, 3), []

    def make(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return pad(x, 0, 2, -1)

    mask, other = torch.ones(1, 3), torch.ones(1, 3)
    wide = ledger.wide(("mask", 2), mask, make)
    assert ledger.wide(("mask", 2), mask, make) is wide
    assert ledger.wide(("mask", 2), other, make) is not wide
    wider = ledger.wide(("mask", 3), wide, make)
    assert len(calls) == 3
    assert ledger.root(wider) is mask
    assert ledger.root(calls) is calls
    assert ledger.knows(wide)
    assert ledger.knows(mask)
    assert not ledger.knows(calls)
    pair = (mask, other)
    tables = ledger.wide(("rotary",), pair, lambda both: tuple(pad(t, 0, 2, -1) for t in both))
    assert ledger.wide(("rotary",), (mask, other), make) is tables  # the same two tensors in another tuple


def test_merged_rows_are_spread_again_and_weighed() -> None:
    """Six tokens, the first a class token: 2 and 4 become one row, then that row and 5; 3 is dropped at last."""
    ledger = Ledger(1, 6)
    ledger.shorten(torch.tensor([[0, 1, 2, 3, 2, 4]]), 5)
    assert ledger.sizes.tolist() == [[1, 1, 2, 1, 1]]  # type: ignore[union-attr]
    ledger.shorten(torch.tensor([[0, 1, 2, -1, 2]]), 3)
    assert ledger.places.tolist() == [[0, 1, 2, -1, 2, 2]]  # type: ignore[union-attr]
    assert ledger.sizes.tolist() == [[1, 1, 3]]  # type: ignore[union-attr]
    ledger.enter(self := object(), 2)
    rows = torch.tensor([10.0, -1.0, -1.0, 11.0, 12.0])[None, :, None]
    own = ledger.without_inserted(rows)
    assert ledger.spread(own)[0, :, 0].tolist() == [10, 11, 12, 0, 12, 12]
    assert ledger.weights(rows).tolist() == [[1, 1, 1, 1, 3]]
    assert ledger.entered == {self: 2}


@pytest.mark.parametrize("rows", [[[1, 0, 2, 3]], [[0, 1, 2]], [[0, 1, 2, 5]]])
def test_what_cannot_have_been_merged(rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"no tokens to be merged|places up to"):
        Ledger(1, 4).shorten(torch.tensor(rows), 3 if rows[0][-1] != 3 else 4)


def test_pad_and_cut_are_inverse() -> None:
    x = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(cut(pad(x, 2, 3, 1, value=7.0), 2, 3, 1), x)


def test_blocks_that_are_checkpointed_with_their_hooks_find_their_tokens_again() -> None:
    """timm, and transformers before 5.23: in the backward pass blocks run again, hooks and all, the last first."""
    inputs = BACKBONES["timm"].inputs()
    gradients = []
    for saving in (False, True):
        torch.default_generator.manual_seed(3)
        methods = [gm.VPT(prompts=3, deep=False), gm.VPT(prompts=2, form="sequence")]
        adapted = gm.adapt(BACKBONES["timm"].model(), methods)
        if saving:
            adapted.gradient_checkpointing_enable()
        adapted.train()
        run(adapted, inputs).square().sum().backward()
        gradients.append([p.grad for p in adapted.trainable().values()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)
