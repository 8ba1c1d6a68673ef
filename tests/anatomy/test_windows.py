"""Stages and windows: Swin's anatomy, and tokens that stand in every window. Numbers are held in tests/reference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gossamer as gm
from gossamer.anatomy.seams import Part
from gossamer.anatomy.sizes import Extent
from gossamer.anatomy.windows import WindowInserted, into_windows, merge, out_of_windows

from ..contract.table import BACKBONES, run

BOTH = pytest.mark.parametrize("row", ["swin", "timm-swin"])


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) <= tolerance * (1 + float(expected.detach().abs().max()))


class Rows(Part):
    """Tokens to be inserted."""

    def __init__(self, width: int, count: int = 2):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(1, count, width), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.expand(x.shape[0], -1, -1)


class Mix(Part):
    """Mixes whatever it is given, [B, N, d]."""

    def __init__(self, width: int):
        super().__init__()
        self.map = nn.Linear(width, width).requires_grad_(False)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return self.map(x)


def opened(row: str) -> tuple[nn.Module, Any, Any]:
    model = BACKBONES[row].model()
    return model, gm.read(model), BACKBONES[row].inputs()


# ---- anatomy ----


@BOTH
def test_stages_windows_and_merging_are_found(row: str) -> None:
    model, anatomy, _ = opened(row)
    blocks = anatomy.blocks()
    assert [(b.stage, b.sizes.width, b.sizes.ffn, b.window) for b in blocks] == [
        (0, 12, 24, (3, 3)), (0, 12, 24, (3, 3)), (1, 24, 48, (3, 3)),
    ]  # fmt: skip
    assert [b.head_width for b in blocks] == [6, 6, 8]
    assert [b.merging is None for b in blocks] == [True, True, False]
    reduction = next(m for n, m in model.named_modules() if n.endswith("downsample.reduction"))
    assert blocks[2].merging.reduction is reduction
    assert all(model.get_submodule(b.name) is b.module for b in blocks)
    assert [b.key for b in blocks] == [f"vision.blocks.{i}" for i in range(3)]


def test_extent_of_blocks_pads_windows_and_halves_stages() -> None:
    blocks = opened("swin")[1].blocks()
    assert [b.extent({"vision": 64}) for b in blocks] == [Extent(64, 9, 9), Extent(64, 9, 9), Extent(16, 4, 9)]
    assert blocks[2].extent({"vision": 7 * 5, "vision.rows": 7}) == Extent(4 * 3, 2, 9)
    assert blocks[0].extent({"vision": 7 * 5, "vision.rows": 7}).attending == 3 * 2 * 9
    assert gm.read(BACKBONES["vit"].model()).blocks()[0].extent({"vision": 17}) == Extent(17, 1, 17)


# ---- the mathematics ----


def test_windows_of_a_sample_share_its_tokens_and_no_others() -> None:
    tokens, windows = torch.randn(2, 3, 4), torch.randn(10, 6, 4)
    joined = into_windows(tokens, windows)
    for i in range(10):
        assert torch.equal(joined[i], torch.cat([tokens[i // 5], windows[i]]))
    means, rest = out_of_windows(joined, 2, 3)
    close(means, tokens)
    assert torch.equal(rest, windows)
    apart, _ = out_of_windows(torch.arange(10.0).view(10, 1, 1).expand(10, 4, 4), 2, 1)
    assert apart.flatten().unique().tolist() == [2.0, 7.0]


def test_a_merged_token_is_one_of_four_equal_patches() -> None:
    merging = opened("timm-swin")[1].blocks()[2].merging
    token = torch.randn(3, 1, 12)
    patches = merging(token[:, :, None].expand(3, 2, 2, 12))
    close(merge(token, merging), patches.flatten(1, 2))


# ---- verbs ----


@BOTH
def test_tokens_read_out_with_the_patches(row: str) -> None:
    """The read-out is the mean over p tokens and 16 patches; tokens that leave are not in it."""
    means = {}
    for stay in (True, False):
        model, anatomy, inputs = opened(row)
        last, seen = anatomy.blocks()[-1], []
        norm = model.swin.layernorm if row == "swin" else model.norm  # type: ignore[union-attr]
        anatomy.insert(last, Rows(24), stay=stay)
        norm.register_forward_hook(lambda m, a, y, seen=seen: seen.append(y.flatten(1, -2)))
        run(model, inputs)
        assert seen[0].shape == (3, (2 if stay else 0) + 16, 24)
        means[stay] = seen[0]
    close(means[True][:, 2:], means[False])


@BOTH
def test_the_middle_reaches_the_tokens_whatever_the_order(row: str) -> None:
    results = []
    for order in ((0, 1), (1, 0)):
        torch.default_generator.manual_seed(8)
        model, anatomy, inputs = opened(row)
        block, part, tokens = anatomy.blocks()[1], Mix(12), Rows(12)
        verbs = [lambda: anatomy.middle(block, part), lambda: anatomy.insert(block, tokens)]  # noqa: B023
        for i in order:
            verbs[i]()
        results.append(run(model, inputs))
        (change,) = [c for c in anatomy.log if isinstance(c, WindowInserted)]
        (walked,) = change.walked
        assert walked.middle is not None
        stream = walked.middle + part(walked.middle)
        mlp = block.module.mlp
        close(walked.left, stream + mlp(block.part("norm2").forward(stream)))  # type: ignore[arg-type]
    close(results[0], results[1])


@BOTH
def test_verbs_see_tokens_and_leave_no_trace(row: str) -> None:
    model, anatomy, inputs = opened(row)
    bare, state = run(model, inputs), copy.deepcopy(model.state_dict())
    for verb in ("start", "middle", "end", "ffn", "observe", "ffn-add", "attention-add", "replace"):
        block, part = anatomy.blocks()[1], Mix(12)
        if verb == "observe":
            anatomy.observe(block, part)
        elif verb == "replace":
            anatomy.replace(block, part)
        elif verb.endswith("-add"):
            anatomy.add(block, verb.removesuffix("-add"), part)
        else:
            anatomy.middle(block, part, at=verb)
        changed = run(model, inputs)
        assert part.seen == [(27, 9, 12) if verb == "attention-add" else (3, 64, 12)]
        assert torch.equal(changed, bare) == (verb == "observe")
        anatomy.undo()
        assert torch.equal(run(model, inputs), bare)
    anatomy.insert(anatomy.blocks()[0], Rows(12), stay=True)
    assert not torch.equal(run(model, inputs), bare)
    assert list(model.state_dict()) == list(state)
    anatomy.undo()
    assert torch.equal(run(model, inputs), bare)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_what_windows_do_not_allow() -> None:
    _, anatomy, _ = opened("swin")
    first, second, _ = anatomy.blocks()
    with pytest.raises(ValueError, match="attends in windows: what enters its norm has other tokens than what leaves"):
        anatomy.add(first, "attention", Mix(12), normed=False)
    with anatomy.tentatively():
        anatomy.replace(second, Mix(12))
        with pytest.raises(ValueError, match=r"tokens cannot pass .*blocks\.1: it was replaced"):
            anatomy.insert(first, Rows(12), stay=True)
    with anatomy.tentatively():
        anatomy.insert(first, Rows(12), last=second)
        with pytest.raises(
            ValueError, match=r"vision\.blocks\.1 cannot be replaced: tokens were inserted that cannot pass it"
        ):
            anatomy.replace(second, Mix(12))
    with pytest.raises(ValueError, match="project=4 maps to one width, and the blocks have 12 to 24"):
        gm.adapt(BACKBONES["swin"].model(), gm.VPT(prompts=2, project=4))
    with pytest.raises(ValueError, match=r"SPT harvests tokens of one width, and these blocks have \[12, 24\]"):
        gm.adapt(BACKBONES["swin"].model(), gm.SPT(prompts=2))
    adapted = gm.adapt(BACKBONES["swin"].model(), gm.VPT(prompts=2)).eval()
    with pytest.raises(ValueError, match="Swin with prompts does not return attention weights"):
        adapted(**BACKBONES["swin"].inputs(), output_attentions=True)


@BOTH
def test_dropout_masks_are_of_samples_and_not_of_windows(row: str) -> None:
    adapted = gm.adapt(BACKBONES[row].model(), gm.VPT(prompts=2, dropout=0.5)).train()
    with torch.no_grad():
        for name, parameter in adapted.trainable().items():
            if name.endswith("prompts"):
                parameter.fill_(1.0)
    run(adapted, BACKBONES[row].inputs())
    entered = [c.walked[0].tokens for c in adapted.anatomy.log if isinstance(c, WindowInserted)]
    assert [tuple(t.shape) for t in entered] == [(3, 2, 12), (3, 2, 12), (3, 2, 24)]
    assert all(set(t.unique().tolist()) == {0.0, 2.0} for t in entered)
    assert not torch.equal(entered[0][0], entered[0][1])
    assert not torch.equal(entered[0], entered[1])


@BOTH
def test_the_last_blocks_prompts_count_in_the_mean_only_if_there_are_any(row: str) -> None:
    """49 + k_last of pc.md: with none in the last block the divisor is that of the patches."""
    inputs = BACKBONES[row].inputs()
    adapted = gm.adapt(BACKBONES[row].model(), gm.VPT(prompts=(2, 3, 0))).eval()
    assert not any(isinstance(change, WindowInserted) for change in adapted.anatomy.log)
    dropped = gm.adapt(BACKBONES[row].model(), gm.VPT(prompts=(2, 3, 4), stay=False)).eval()
    stays = gm.adapt(BACKBONES[row].model(), gm.VPT(prompts=(2, 3, 4))).eval()
    assert len([c for c in stays.anatomy.log if isinstance(c, WindowInserted)]) == 1
    stays.load_state_dict(dropped.state_dict())
    assert not torch.allclose(run(stays, inputs), run(dropped, inputs))
