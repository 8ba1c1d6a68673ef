"""Bottleneck adapters: the formula, where it is placed, what it starts as, and the counts of the papers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gossamer as gm
from gossamer import architectures
from gossamer.methods.adapter import PLACEMENTS
from gossamer.methods.parts.bottleneck import bottleneck

from .. import hand
from ..contract.table import BACKBONES, disturb, run
from ..hand import Changes

HOUSES = [
    ("vit", "vision"),
    ("dinov2", "vision"),
    ("timm", "vision"),
    ("bert", "text"),
    ("t5", "encoder"),
    ("llama", "decoder"),
]
EVERY = pytest.mark.parametrize(("row", "stack"), HOUSES, ids=[r for r, _ in HOUSES])


def adapted_model(row: str, **options: Any) -> gm.Adapted:
    backbone = BACKBONES[row]
    torch.default_generator.manual_seed(3)
    return gm.adapt(backbone.model(), gm.Adapter(**{"rank": 5, **options})).eval()


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_the_formula(activation: str) -> None:
    x, down, down_bias, up, up_bias = (
        torch.randn(3, 7, 12),
        torch.randn(5, 12),
        torch.randn(5),
        torch.randn(12, 5),
        torch.randn(12),
    )
    phi = {"relu": lambda t: t.clamp(min=0), "silu": lambda t: t * t.sigmoid()}
    phi["gelu"] = lambda t: t * 0.5 * (1 + torch.erf(t / 2**0.5))
    expected = torch.stack(
        [torch.stack([up @ phi[activation](down @ row + down_bias) + up_bias for row in sample]) for sample in x]
    )
    torch.testing.assert_close(bottleneck(x, down, down_bias, up, up_bias, activation), expected)


@EVERY
@pytest.mark.parametrize("placement", list(PLACEMENTS))
def test_placements_against_blocks_by_hand(row: str, stack: str, placement: str) -> None:
    branches, reads = {
        "houlsby": (("attention", "ffn"), "output"),
        "pfeiffer": (("ffn",), "output"),
        "parallel": (("ffn",), "stream"),
        "parallel-normed": (("ffn",), "input"),
        "parallel-attention": (("attention",), "input"),
    }[placement]
    adapted = disturb(adapted_model(row, placement=placement, scale=0.7, activation="gelu", norm=True))
    adapted.requires_grad_(False)
    block, call = adapted.anatomy.blocks(stack)[1], hand.record(row, stack)[1]

    def addition(part: Any) -> Any:
        def add(x: Tensor, y: Tensor) -> Tensor:
            x = nn.functional.layer_norm(y if reads == "output" else x, (12,), part.norm.weight, part.norm.bias)
            return 0.7 * part.up(nn.functional.gelu(part.down(x)))

        return add

    tree = adapted.methods["adapter"].get_submodule(block.key)
    assert {n for n, _ in tree.named_children()} == set(branches)
    changes = Changes(add={b: addition(getattr(tree, b)) for b in branches}, normed=reads != "stream")
    expected = hand.block(call, changes)
    args, kwargs = call.given
    found = block.module(*args, **kwargs)
    found = found[0] if isinstance(found, tuple) else found
    assert float((found - expected).abs().max()) < 1e-5 * (1 + float(expected.abs().max()))
    assert not torch.equal(found, call.states)


@EVERY
@pytest.mark.parametrize("placement", list(PLACEMENTS))
def test_identity_at_the_start_in_training_mode_too(row: str, stack: str, placement: str) -> None:
    inputs = BACKBONES[row].inputs()
    bare = run(BACKBONES[row].model().requires_grad_(False), inputs)
    adapted = adapted_model(row, placement=placement, scale=4.0, dropout=0.4)
    assert torch.equal(run(adapted, inputs), bare)
    assert torch.equal(run(adapted.train(), inputs), bare)


def test_every_part_learns() -> None:
    """D, U and both biases move within two steps: no zero start that nothing can leave."""
    adapted = adapted_model("vit", placement="houlsby").train()
    own = {n: p for n, p in adapted.trainable().items() if not n.startswith("head")}
    before = {n: p.detach().clone() for n, p in own.items()}
    optimizer = torch.optim.SGD(own.values(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        run(adapted, BACKBONES["vit"].inputs()).square().sum().backward()
        optimizer.step()
    assert all(not torch.equal(before[n], p) for n, p in own.items())


def test_dropout_acts_in_training_only_and_for_each_value() -> None:
    adapted = disturb(adapted_model("vit", dropout=0.5))
    inputs = BACKBONES["vit"].inputs()
    assert torch.equal(adapted(**inputs).logits, adapted(**inputs).logits)
    adapted.train()
    assert not torch.equal(adapted(**inputs).logits, adapted(**inputs).logits)


def test_start_of_the_down_projection() -> None:
    """Kaiming uniform with a = sqrt 5: within 1 / sqrt(d)."""
    adapted = adapted_model("vit", rank=300)
    downs = [p.detach() for n, p in adapted.trainable().items() if n.endswith("down.weight")]
    assert len(downs) == 3
    for down in downs:
        assert float(down.abs().max()) <= 12**-0.5
        assert abs(float(down.std()) / (12**-0.5 / 3**0.5) - 1) < 0.05
    zeros = [p for n, p in adapted.trainable().items() if n.endswith(("up.weight", "up.bias", "down.bias"))]
    assert len(zeros) == 9
    assert not any(p.any() for p in zeros)


COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("vit-b16", {"rank": 8}, 156_768),
    ("vit-b16", {"rank": 64}, 1_189_632),
    ("vit-b16", {"rank": 96, "activation": "gelu"}, 1_779_840),
    ("vit-b16", {"rank": 96, "placement": "houlsby"}, 3_559_680),
    ("vilt-b32", {"rank": 96, "placement": "houlsby"}, 3_559_680),
    ("vit-b16", {"rank": 64, "placement": "parallel", "scale": 0.1, "dropout": 0.1}, 1_189_632),
    ("vit-b16", {"rank": 64, "placement": "parallel-normed"}, 1_189_632),
    ("vilt-b32", {"rank": 96, "placement": "parallel-attention", "scale": 4.0, "norm": True}, 1_798_272),
    ("vit-b16", {"rank": 8, "blocks": (0, 11)}, 26_128),
]


@pytest.mark.parametrize(("model", "options", "count"), COUNTS)
def test_counts_of_the_papers(model: str, options: dict[str, Any], count: int) -> None:
    method = gm.Adapter(**options)
    assert method.parameters(gm.read(architectures.build(model))) == count
    adapted = gm.adapt(architectures.build(model), method)
    assert sum(p.numel() for n, p in adapted.trainable().items() if not n.startswith("head")) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        (
            {"placement": "serial"},
            "placement must be one of houlsby, pfeiffer, parallel, parallel-normed, parallel-attention, got 'serial'",
        ),
        ({"activation": "tanh"}, "activation must be one of relu, gelu, silu, got 'tanh'"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0\.1"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gm.Adapter(**options)
