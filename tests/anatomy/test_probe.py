"""Trials of real blocks: what is built as its family says passes, what is not is refused, with the equation that does not hold."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import transformers as tf
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import gossamer as gm
from gossamer.anatomy import VERBS
from gossamer.anatomy.block import Site
from gossamer.anatomy.seams import Part

from ..contract.backbone import LLAMA
from ..contract.table import BACKBONES, rows

SIZES: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2, "num_classes": 3}
PLACES = {"add": ("attention", "ffn"), "middle": ("middle", "attention", "ffn")}


@pytest.mark.parametrize("row", rows())
def test_every_block_of_the_table_is_as_its_family_says(row: str) -> None:
    anatomy = gm.read(BACKBONES[row].model())
    for block in anatomy:
        row_has = BACKBONES[row]
        for verb in ("add", "replace", *["middle"] * row_has.between, *["insert"] * row_has.grows):
            for branch in PLACES.get(verb, ("attention",)):
                assert anatomy.obstacle(block, verb, branch) is None, (block.name, verb, branch)


class Behind(Block):
    """timm's block with its norms behind the branches, under no name that is known for that."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp(x))


def test_norms_behind_the_branches_are_found_out() -> None:
    """The parts of a pre-norm block in another order: VPT's exact form would be another function."""
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **SIZES).eval()
    for block in model.blocks:
        block.__class__ = Behind
    anatomy = gm.read(model)
    block = anatomy.blocks()[0]
    assert anatomy.obstacle(block, "remember") == "norm1 does not read what enters the branch"
    assert "mlp.fc1 does not read what norm2 gives" in str(anatomy.obstacle(block, "add", "ffn"))
    assert anatomy.obstacle(block, "insert") is None
    with pytest.raises(ValueError, match=r"blocks\.0 \(Behind\) cannot add at its ffn: mlp\.fc1 does not read"):
        gm.adapt(model, gm.Adapter(rank=3, placement="parallel"))
    with pytest.warns(UserWarning, match="the exact form is not possible: norm1 does not read what enters the branch"):
        gm.adapt(model, gm.VPT(prompts=2)).detach()


class Crooked(nn.Module):
    """A ViT block with one thing that is not as it should be."""

    def __init__(self, block: nn.Module, fault: str):
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.fault = fault

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Any:
        x = hidden_states
        seen = x[:, :3] if self.fault == "drops" else x
        y, _ = self.attention(self.layernorm_before(seen), attention_mask)  # type: ignore[operator]
        x = seen + (2 * y if self.fault == "doubles" else y)
        ffn = self.mlp(self.layernorm_after(x))  # type: ignore[operator]
        x = x if self.fault == "forgets" else x + ffn
        return (x,) if self.fault == "wraps" else x


@pytest.mark.parametrize(
    ("fault", "verb", "branch", "reason"),
    [
        ("doubles", "add", "attention", "what follows does not read the sum of the stream and attention.o_proj"),
        ("doubles", "middle", "middle", "what follows does not read the sum"),
        ("forgets", "add", "ffn", "what it returns is not the stream behind its FFN"),
        ("drops", "insert", "attention", "given 7 tokens it returns 3"),
        ("wraps", "replace", "attention", "it returns a tuple, which its family does not say"),
    ],
)
def test_every_equation_is_held(fault: str, verb: str, branch: str, reason: str) -> None:
    model: Any = BACKBONES["vit"].model()
    model.vit.layers[1] = Crooked(model.vit.layers[1], fault)
    anatomy = gm.read(model)
    found = str(anatomy.obstacle(anatomy.blocks()[1], verb, branch))
    assert reason in found, found
    assert anatomy.obstacle(anatomy.blocks()[0], verb, branch) is None


def test_a_block_that_cannot_be_tried_is_refused_with_what_it_said() -> None:
    class Asks(nn.Module):
        def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            raise RuntimeError("I want something else")

    model: Any = BACKBONES["vit"].model()
    other = Asks()
    for name, child in model.vit.layers[0].named_children():
        other.add_module(name, child)
    model.vit.layers[0] = other
    anatomy = gm.read(model)
    reason = anatomy.obstacle(anatomy.blocks()[0], "add", "ffn")
    assert reason == "a trial of it failed (RuntimeError: I want something else)"


def test_nobody_sees_the_trial_and_modes_come_back() -> None:
    model = BACKBONES["vit"].model().train()
    seen: list[Any] = []
    handle = model.vit.layers[0].mlp.register_forward_hook(lambda *_: seen.append(1))  # type: ignore[union-attr, operator]
    modes = {name: module.training for name, module in model.named_modules()}
    anatomy = gm.read(model)
    assert anatomy.obstacle(anatomy.blocks()[0], "middle", "middle") is None
    assert seen == []
    assert modes == {name: module.training for name, module in model.named_modules()}
    model(**BACKBONES["vit"].inputs())
    assert len(seen) == 1
    handle.remove()


def test_a_trial_in_the_middle_of_changes_is_of_the_bare_block() -> None:
    class Shift(Part):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones_like(x)

    anatomy = gm.read(BACKBONES["vit"].model())
    block = anatomy.blocks()[0]
    anatomy.middle(block, Shift(), at="end")
    assert anatomy.obstacle(block, "add", "ffn") is None
    assert len(anatomy.log) == 1


def test_verbs_that_do_not_exist() -> None:
    anatomy = gm.read(BACKBONES["vit"].model())
    with pytest.raises(KeyError, match=f"there are {', '.join(VERBS)}"):
        anatomy.obstacle(anatomy.blocks()[0], "subtract")


def test_layer_scale_may_be_a_parameter() -> None:
    """BEiT's `lambda_1` and the like: the same block with a parameter where timm has a module."""
    model = BACKBONES["timm"].model()
    anatomy = gm.read(model)
    block = anatomy.blocks()[0]
    scale = block.damping("layer_scale1")
    assert isinstance(scale, nn.Module)
    x = torch.randn(2, 3, 12)
    assert torch.equal(block.damped("layer_scale1", x), x * scale.gamma)
    block.module.gamma_1 = nn.Parameter(torch.full((12,), 0.5))
    names = block.attention.__class__(**{**vars(block.attention), "layer_scale": "gamma_1"})
    block.attention = names
    assert torch.equal(block.damped("layer_scale1", x), x * 0.5)
    with pytest.raises(ValueError, match=r"damps its attention in the sum itself \(gamma_1\).*replace whole blocks"):
        anatomy.replace(Site(block, "attention"), Part())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_of_keys_that_no_family_says_are_found_however_small_the_weights(dtype: torch.dtype) -> None:
    """StableLM 2 12B has one for each head: its attention gives hundredths, and would differ by thousandths."""
    torch.default_generator.manual_seed(1)
    model = tf.StableLmModel(tf.StableLmConfig(**{**LLAMA, "hidden_size": 16}, qk_layernorm=True)).to(dtype)
    anatomy = gm.read(model)
    reason = anatomy.obstacle(anatomy.blocks()[0], "remember")
    assert reason is not None
    assert "something is done to its queries or keys" in reason
    model = tf.StableLmModel(tf.StableLmConfig(**{**LLAMA, "hidden_size": 16})).to(dtype)
    anatomy = gm.read(model)
    assert anatomy.obstacle(anatomy.blocks()[0], "remember") is None
