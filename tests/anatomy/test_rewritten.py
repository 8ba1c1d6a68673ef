"""Modules that take others' places: merged innermost first, untied where they were tied, and displaced ones that move along."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig
from torch import Tensor, nn

import gossamer as gm
from gossamer.anatomy.displaced import Displaced
from gossamer.anatomy.projection import Rows
from gossamer.anatomy.rewritten import SplitLinear, Wrapped, linear_of

from ..contract.table import BACKBONES, disturb, run


class Scaled(Wrapped):
    """y = c y(x)."""

    def __init__(self, inner: nn.Module, factor: float):
        super().__init__(inner)
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.inner(x)  # type: ignore[misc]

    def merged(self) -> nn.Module:
        inner: Any = self.inner
        return linear_of((self.factor * inner.weight).detach(), (self.factor * inner.bias).detach())


@pytest.mark.parametrize("row", ["vit", "timm"])
def test_what_is_wrapped_twice_is_merged_from_the_inside(row: str) -> None:
    anatomy = gm.read(BACKBONES[row].model())
    block, inputs = anatomy.blocks()[1], BACKBONES[row].inputs()
    anatomy.split(block)
    one = Scaled(block.part("q"), 0.5)
    anatomy.rewrite(block, "q", one)
    two = Scaled(block.part("q"), 3.0)
    anatomy.rewrite(block, "q", two)
    anatomy.rewrite(block, "down", Scaled(block.part("down"), -2.0))
    assert torch.allclose(one.linear().weight, 0.5 * one.inner.weight)  # type: ignore[union-attr, operator]
    before = run(anatomy.model, inputs)
    assert not anatomy.finish()
    assert torch.allclose(run(anatomy.model, inputs), before, atol=1e-6)
    assert not any(isinstance(m, Wrapped | SplitLinear) for m in anatomy.model.modules())
    assert two.inner is None


def test_thirds_cannot_be_split_off_a_projection_that_is_wrapped() -> None:
    anatomy = gm.read(BACKBONES["timm"].model())
    block = anatomy.blocks()[1]
    anatomy.rewrite(block, "qkv", Scaled(block.part("qkv"), 2.0))
    with pytest.raises(
        ValueError, match=r"blocks\.1\.attn\.qkv is a Scaled by now, no Linear that could be split into thirds"
    ):
        anatomy.split(block)


def test_a_hook_of_somebody_else_goes_on_working_after_the_merge() -> None:
    class Plus(gm.anatomy.seams.Part):  # type: ignore[name-defined]
        def forward(self, x: Tensor, output: Tensor) -> Tensor:
            return torch.ones_like(output)

    anatomy = gm.read(BACKBONES["vit"].model())
    block, inputs = anatomy.blocks()[0], BACKBONES["vit"].inputs()
    anatomy.rewrite(block, "down", Scaled(block.part("down"), 2.0))
    anatomy.add(block, "ffn", Plus())
    before = run(anatomy.model, inputs)
    anatomy.finish()
    assert type(block.part("down")) is nn.Linear
    assert torch.allclose(run(anatomy.model, inputs), before, atol=1e-6)


@pytest.mark.parametrize("normed", [True, False])
def test_what_somebody_made_of_the_inner_output_is_kept(normed: bool) -> None:
    """An adapter beside a Linear that is wrapped later: c (W x + A(x)) is no matrix, so the wrapper stays."""
    adapted = disturb(gm.adapt(BACKBONES["vit"].model(), gm.Adapter(rank=3, placement="parallel", scale=0.5)))
    anatomy, inputs = adapted.anatomy, BACKBONES["vit"].inputs()
    block = anatomy.blocks()[0]
    anatomy.rewrite(block, "down" if normed else "up", Scaled(block.part("down" if normed else "up"), 2.0))
    before = run(adapted, inputs)
    anatomy.finish()
    assert torch.allclose(run(adapted, inputs), before, atol=1e-6)
    assert isinstance(block.part("down"), Scaled) is normed


TIED: list[Any] = [
    ("llama", "lm_head"),
    ("llama", "embed_tokens"),
    ("t5", "shared"),
    ("t5", "lm_head"),
]


def tied(kind: str) -> nn.Module:
    torch.default_generator.manual_seed(0)
    sizes = {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "vocab_size": 50,
    }
    if kind == "llama":
        return tf.LlamaForCausalLM(tf.LlamaConfig(**sizes, tie_word_embeddings=True)).eval()
    return BACKBONES["t5"].model()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(("kind", "target"), TIED, ids=["-".join(pair) for pair in TIED])
def test_lora_on_a_tied_layer_is_finished_to_the_same_function(kind: str, target: str) -> None:
    """Merging in place would change the twin as well."""
    adapted = disturb(gm.adapt(tied(kind), LoraConfig(r=3, target_modules=[target]), train_head=False))
    ids = torch.tensor([[5, 9, 3, 7]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if kind == "t5" else {})
    with torch.no_grad():
        expected = adapted(**inputs).logits
        finished: Any = adapted.finalize()
        assert float((finished(**inputs).logits - expected).abs().max()) <= 1e-5
    assert not finished.config.tie_word_embeddings
    own: Any = adapted.detach()
    assert own.get_output_embeddings().weight is own.get_input_embeddings().weight  # the copy is untied, not the model


def test_thirds_of_which_only_some_have_a_bias_are_fused() -> None:
    split = SplitLinear(nn.Linear(5, 12), (Rows(0, 4, 12), Rows(4, 8, 12), Rows(8, 12, 12)))
    split.k = nn.Linear(5, 4, bias=False)
    x = torch.randn(3, 5)
    fused = split.fused()
    assert torch.allclose(fused(x), split(x), atol=1e-6)
    assert torch.equal(fused.bias[4:8], torch.zeros(4))


def test_what_is_displaced_moves_with_the_model_and_is_no_part_of_its_state() -> None:
    held = nn.Linear(3, 2)
    outer = nn.Sequential(Displaced(held))
    assert dict(outer.named_parameters()) == {}
    assert outer.state_dict() == {}
    outer.double()
    assert held.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("row", "method"),
    [
        ("vit", gm.VPT(prompts=2)),
        ("timm", LoraConfig(r=2)),
        ("timm-swin", gm.VPT(prompts=2)),
        ("bert", gm.DAS(skip=1, rank=3)),
    ],
)
def test_a_model_that_was_cast_while_adapted_is_whole_when_it_is_detached(row: str, method: Any) -> None:
    model = BACKBONES[row].model()
    names = list(model.state_dict())
    adapted = gm.adapt(model, method, num_labels=7).double()  # another head than its own, which is displaced
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in BACKBONES[row].inputs().items()}
    expected = run(adapted.eval(), inputs)
    assert torch.allclose(run(adapted.finalize(), inputs), expected, atol=1e-12)
    bare = adapted.detach()
    assert list(bare.state_dict()) == names
    assert {v.dtype for v in bare.state_dict().values() if v.is_floating_point()} == {torch.float64}
    run(bare, inputs)
