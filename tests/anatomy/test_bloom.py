"""BLOOM: an attention that adds the stream by itself, and a bias by the places of keys, which prompts have none of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gossamer as gm
from gossamer.anatomy.block import Site

from ..contract.table import BACKBONES


class Third(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 3


@torch.no_grad()
def test_what_takes_the_place_of_its_attention_is_added_to_the_stream() -> None:
    model = BACKBONES["bloom"].model()
    anatomy, inputs = gm.read(model), BACKBONES["bloom"].inputs()
    block, seen = anatomy.blocks()[1], list[Tensor]()
    block.module.register_forward_hook(lambda module, args, output: seen.extend((args[0], output[0])))
    anatomy.replace(Site(block, "attention"), Third())  # type: ignore[arg-type]
    model(**inputs)
    x, y = seen
    x = x + x / 3
    fed = nn.functional.gelu(
        block.part("up")(block.module.post_attention_layernorm(x)),  # type: ignore[operator]
        approximate="tanh",
    )
    torch.testing.assert_close(y, x + block.part("down")(fed))


@torch.no_grad()
def test_prompts_are_one_function_in_both_forms_and_have_no_place() -> None:
    inputs = BACKBONES["bloom"].inputs()
    found = []
    for form in ("exact", "sequence"):
        torch.manual_seed(3)
        adapted = gm.adapt(BACKBONES["bloom"].model(), gm.VPT(prompts=4, form=form)).eval()  # type: ignore[arg-type]
        for parameter in adapted.trainable().values():
            parameter.copy_(torch.linspace(-2, 2, parameter.numel()).sin().view(parameter.shape))
        found.append(adapted(**inputs).logits[inputs["attention_mask"].bool()])
    torch.testing.assert_close(*found)
    assert not torch.allclose(found[0], BACKBONES["bloom"].model()(**inputs).logits[inputs["attention_mask"].bool()])
