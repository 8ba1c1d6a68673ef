"""What a family says stands around its blocks really stands there: every backbone is run, and what passes is looked at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gossamer import hosts
from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Block
from gossamer.anatomy.states import states, tokens_of
from gossamer.families import FAMILIES

from .table import BACKBONES, rows, run


class Watched:
    """What a module read and gave in its one call."""

    def __init__(self, module: nn.Module):
        self.read: list[Tensor] = []
        self.gave: list[Tensor] = []
        module.register_forward_hook(self.after, with_kwargs=True)

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.read.append(states((args or tuple(kwargs.values()))[0]).detach())
        self.gave.append((output if isinstance(output, Tensor) else output[0]).detach())


def check_norm(anatomy: Anatomy, last: Block, inputs: dict[str, Tensor], *, weighed: bool) -> None:
    """It reads what leaves the last block, or its first token, or their mean; without one, blocks end with a norm."""
    name = anatomy.around(last.stack.name).get("norm")
    assert (name is None) == (last.stack.final_norm == ())
    if name is None:
        stack = last.stack
        if stack.modality == "latent" or stack.windows is not None or stack.readout == "pooled":
            return  # a map follows, or what the owner pools
        if last.ffn.after is None:  # nothing follows
            left, owner = Watched(last.module), Watched(anatomy.owner(last.stack.name))
            run(anatomy.model, inputs)
            assert torch.equal(owner.gave[0], left.gave[0])
            return
        left, norm = Watched(last.module), Watched(last.part("norm2"))
        run(anatomy.model, inputs)
        assert torch.equal(left.gave[0], norm.gave[0])
        return
    module = anatomy.model.get_submodule(name)
    assert "Norm" in type(module).__name__
    assert [p.shape for n, p in module.named_parameters() if n == "weight"] == [(last.sizes.width,)] * weighed
    left, norm = Watched(last.module), Watched(module)
    run(anatomy.model, inputs)
    given = left.gave[0] if last.stack.packed else tokens_of(left.gave[0])
    read = norm.read[0] if norm.read[0].dim() == 2 else tokens_of(norm.read[0])
    means = given[:, last.prefix :].mean(dim=1)
    if last.stack.aside and read.shape[1] > given.shape[1]:  # a class token has come in front
        assert torch.equal(read[:, 1:], given)
        return
    assert any(read.shape == of.shape and torch.allclose(read, of, atol=1e-6) for of in (given, given[:, 0], means))


def check_patches(anatomy: Anatomy, first: Block, inputs: dict[str, Tensor]) -> None:
    """A convolution makes as many patches as enter the first block behind its class-like tokens; text has none."""
    stack, name = first.stack, anatomy.around(first.stack.name).get("patches")
    assert (name is None) == (stack.patch_convolution == ())
    if name is None:
        images = inputs.get("pixel_values")  # or rows of patches, or frames, or a Linear makes tokens of patches
        assert stack.modality == "text" or images is None or images.dim() != 4 or stack.patches is not None
        others = {m for other in anatomy.stacks if other != stack.name for m in anatomy.owner(other).modules()}
        own = set(anatomy.owner(stack.name).modules()) - others
        assert not any(isinstance(module, nn.Conv2d) for module in own)
        return
    convolution = anatomy.patch_convolution(stack.name)
    assert convolution is anatomy.model.get_submodule(name)
    made, enters = Watched(convolution), Watched(first.module)
    run(anatomy.model, inputs)
    assert (
        made.read[0].numel() == inputs["sample" if stack.modality == "latent" else "pixel_values"].numel()
    )  # of all tiles
    high, wide = made.gave[0].shape[-2:]
    if stack.counts_as is None and stack.modality in ("vision", "latent"):
        images = len(made.gave[0]) if stack.packed else 1
        assert tokens_of(enters.read[0]).shape[1] == first.prefix + images * high * wide
    if stack.modality == "both":
        assert enters.read[0].shape[1] == inputs["input_ids"].shape[1] + stack.visual_prefix + high * wide


@pytest.mark.parametrize("row", rows())
def test_what_stands_around_the_blocks(row: str) -> None:
    backbone = BACKBONES[row]
    inputs = backbone.inputs()
    anatomy = hosts.read(backbone.model())
    for name in anatomy.stacks:
        for column in anatomy.columns(name):
            with torch.no_grad():
                check_norm(anatomy, column[-1], inputs, weighed=backbone.weighed)
                check_patches(anatomy, column[0], inputs)


def test_no_family_leaves_it_out() -> None:
    """A Stack without them cannot be made: a family that has none says so."""
    needed = {"patch_convolution", "final_norm"}
    for stack in FAMILIES:
        said = {name: value for name, value in vars(stack).items() if name not in needed}
        with pytest.raises(
            TypeError, match="missing 2 required keyword-only arguments: 'patch_convolution' and 'final_norm'"
        ):
            type(stack)(**said)


@pytest.mark.parametrize(("row", "gone", "message"), [
    ("vit", "layernorm", "vit has no layernorm"),
    ("vit", "embeddings.patch_embeddings.projection", "vit has no embeddings.patch_embeddings.projection"),
    ("timm", "norm", None),
])  # fmt: skip
def test_a_model_that_lacks_what_its_family_names_is_not_read(row: str, gone: str, message: str | None) -> None:
    model = BACKBONES[row].model()
    owner = hosts.read(model).owner()
    parent, _, child = gone.rpartition(".")
    delattr(owner.get_submodule(parent), child)
    if message is None:  # there is another, where timm puts it for models that average
        assert hosts.read(model).around()["norm"] == "fc_norm"
        return
    with pytest.raises(TypeError, match=message):
        hosts.read(model).check_known()
