"""FFNs of experts: what goes around them works, what would be inside is refused, and what they multiply is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig
from torch.nn import functional as F

import gossamer as gm
from gossamer.searching.savings import measured

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 50,
    "intermediate_size": 32, "moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2, "pad_token_id": 1,
}  # fmt: skip
TOKENS = 7


def routed(**options: Any) -> tf.Qwen3MoeForCausalLM:
    torch.manual_seed(1)
    return tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(**SIZES, **options)).eval()


def ids() -> torch.Tensor:
    return torch.randint(2, 50, (3, TOKENS), generator=torch.Generator().manual_seed(2))


def test_an_adapter_reads_and_joins_what_the_experts_give() -> None:
    model = routed()
    layer = model.model.layers[1]
    states = torch.randn(2, TOKENS, 16, generator=torch.Generator().manual_seed(3))
    expected = layer.mlp(states)
    adapted = gm.adapt(model, gm.Adapter(rank=3, placement="pfeiffer"))
    part: Any = adapted.methods["adapter"].get_submodule("decoder.blocks.1.ffn")
    with torch.no_grad():
        part.up.weight.normal_()
        found = layer.mlp(states)
        read = expected if part.reads == "output" else states
        by_hand = expected + part.scale * part.up(F.relu(part.down(read)))
    torch.testing.assert_close(found, by_hand)


def test_blocks_of_both_kinds_stand_beside_each_other() -> None:
    anatomy = gm.read(routed(mlp_only_layers=[1]))
    first, dense, last = anatomy.stacks["decoder"]
    assert (dense.sizes.ffn, dense.sizes.ffn_matrices) == (32, 3)
    assert first.sizes.ffn == last.sizes.ffn_matrices == 0
    assert "down" in dense.roles()
    assert "down" not in first.roles()


def test_what_would_be_inside_is_refused() -> None:
    with pytest.raises(KeyError, match=r"no part 'down': mlp sends each token to some of its experts"):
        gm.read(routed()).stacks["decoder"][0].part("down")
    with pytest.raises(ValueError, match="Qwen3MoeForCausalLM has no down; its blocks have"):
        gm.adapt(routed(), LoraConfig(r=2, target_modules=["q", "down"]))


def test_what_peft_does_with_the_names_of_an_ffn_is_said() -> None:
    """It takes them for parts of the experts, and leaves the Linears of those names alone."""
    with pytest.warns(
        UserWarning, match=r"names of an FFN in this Qwen3MoeForCausalLM for its experts: .*down_proj are adapted"
    ):
        adapted = gm.adapt(routed(mlp_only_layers=[1]), LoraConfig(r=2, target_modules=["q", "down"]))
    assert sum("experts" in name for name in adapted.trainable()) == 2 * 2


def test_multiplications_are_those_of_the_experts_that_a_token_is_sent_to() -> None:
    """By hand: projections, both products of attention, the router, and two experts of three matrices a token."""
    sheet = gm.adapt(routed(), gm.DAS(skip=(1,), rank=0, bridge="per-run")).cost(tokens=TOKENS)
    block = TOKENS * 16 * (2 * 16 + 2 * 8) + 2 * TOKENS**2 * 16 + TOKENS * (16 * 4 + 2 * 3 * 16 * 8)
    rest = TOKENS * 16 * 50
    assert sheet.bare.counted == 3 * block + rest
    assert sheet.finished.counted == 2 * block + TOKENS * 16 * 16 + rest


def test_counting_leaves_the_model_as_it_was() -> None:
    model = routed()
    before = model.get_experts_implementation()
    gm.adapt(model, gm.VPT(prompts=2)).cost(tokens=TOKENS)
    assert model.get_experts_implementation() == before


def test_the_kernel_of_experts_makes_no_difference() -> None:
    """What runs by default computes what the plain loop over experts computes."""
    answers = []
    for kind in ("grouped_mm", "batched_mm", "eager"):
        model = routed()
        model.set_experts_implementation(kind)
        torch.manual_seed(4)
        adapted = gm.adapt(model, [gm.VPT(prompts=3), LoraConfig(r=2)]).eval()
        answers.append(adapted(input_ids=ids()).logits)
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], atol=1e-5, rtol=1e-4)


def test_a_search_counts_experts_too() -> None:
    model = routed()
    given = {"input_ids": ids()[:1]}
    block = TOKENS * 16 * (2 * 16 + 2 * 8) + 2 * TOKENS**2 * 16 + TOKENS * (16 * 4 + 2 * 3 * 16 * 8)
    found = measured(model, lambda: model(**given), lambda: model(**given), [lambda: model.model.layers], "macs")
    assert found.bare == 3 * block + TOKENS * 16 * 50


def test_no_closed_form_is_said_where_there_is_none() -> None:
    anatomy = gm.read(routed())
    with pytest.raises(ValueError, match="no closed form of what an FFN of experts multiplies"):
        gm.VPT(prompts=2).macs(anatomy, {"decoder": TOKENS})
