"""MemVP: properties of its specification, on whole tiny models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer as gm
from gossamer import architectures
from gossamer.anatomy.seams import Added
from gossamer.methods.memvp import MemoryRead, memory_read, visual_memory

from ..models.seeing import CLASSIFIED, SPOKEN, adapted, close, composed, images, texts

SMALL = {"rank": 5, "vision_rank": 2, "scale": 0.7, "visual_scale": 0.5}
PIXELS = torch.stack(images(16, 16))


def read(slots: int = 6, samples: int = 2, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(samples, 5, width), torch.randn(samples, slots, width), torch.randn(samples, slots, width)


# ---- the mathematics ----


@pytest.mark.parametrize("activation", [F.relu, F.gelu, F.silu])
@pytest.mark.parametrize("gated", [False, True])
def test_beside_the_ffn_is_joined_to_the_ffn(activation: Any, gated: bool) -> None:
    """Keys as rows of the first matrix, values as columns of the second; new units of a gated FFN bypass the up branch."""
    x, keys, values = read()
    first, up, second, scale = torch.randn(9, 4), torch.randn(9, 4), torch.randn(4, 9), 0.3
    for i in range(2):
        units = activation(x[i] @ torch.cat([first, keys[i]]).T)
        if gated:
            units = units * torch.cat([x[i] @ up.T, torch.ones(5, 6)], dim=1)
        joined = units @ torch.cat([second, scale * values[i].T], dim=1).T
        own = activation(x[i] @ first.T) * (x[i] @ up.T if gated else 1) @ second.T
        beside = own + scale * memory_read(x[i : i + 1], keys[i : i + 1], values[i : i + 1], activation)[0]
        close(beside, joined)


def test_slots_have_no_order_but_image_tokens_do() -> None:
    x, keys, values = read()
    order = torch.randperm(6)
    close(memory_read(x, keys[:, order], values[:, order], F.gelu), memory_read(x, keys, values, F.gelu))
    tokens = visual_memory(torch.randn(2, 6, 4), 6, 0.5)
    turned = memory_read(x, tokens[:, order] + keys, tokens[:, order] + values, F.gelu)
    assert not torch.allclose(turned, memory_read(x, tokens + keys, tokens + values, F.gelu))


def test_slots_without_values_and_rescaled_relu_slots_change_nothing() -> None:
    x, keys, values = read()
    more_keys, no_values = torch.cat([keys, torch.randn(2, 3, 4)], 1), torch.cat([values, torch.zeros(2, 3, 4)], 1)
    close(memory_read(x, more_keys, no_values, F.silu), memory_read(x, keys, values, F.silu))
    close(memory_read(x, 3 * keys, values / 3, F.relu), memory_read(x, keys, values, F.relu))


def test_memory_beyond_the_image_is_zero_also_where_an_image_has_fewer_tokens() -> None:
    projected, exists = torch.randn(2, 3, 4), torch.tensor([[True, True, True], [True, False, False]])
    memory = visual_memory(projected, 5, 0.5, exists)
    assert torch.equal(memory[0, :3], 0.5 * projected[0])
    assert torch.equal(memory[1, :1], 0.5 * projected[1, :1])
    assert not memory[0, 3:].any()
    assert not memory[1, 1:].any()


def test_rows_of_a_sample_stand_together() -> None:
    x, keys, values = read()
    beams = x.repeat_interleave(3, dim=0) + torch.randn(6, 5, 4)
    found = memory_read(beams, keys, values, F.gelu)
    close(found, memory_read(beams, keys.repeat_interleave(3, 0), values.repeat_interleave(3, 0), F.gelu))


def test_without_an_image_the_memory_is_a_parallel_adapter() -> None:
    x, _, _ = read()
    keys, values = torch.randn(6, 4), torch.randn(6, 4)
    close(memory_read(x, keys[None], values[None], F.silu), F.linear(F.silu(F.linear(x, keys)), values.T))


# ---- in whole models ----


class WideUp(nn.Module):
    """[W_1 x + b_1 | x K^T]: a first Linear widened by the memory's keys."""

    def __init__(self, old: nn.Linear, read: MemoryRead):
        super().__init__()
        self.old, self.read = old, read
        self.weight = old.weight  # T5 asks for its dtype

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.old(x), x @ self.read.memory.now()[0].transpose(1, 2)], dim=-1)


class Bypass(WideUp):
    """[W_up x | 1]: an up branch that leaves the new units alone."""

    def forward(self, x: Tensor) -> Tensor:
        slots = self.read.memory.now()[0].shape[1]
        return torch.cat([self.old(x), x.new_ones(*x.shape[:-1], slots)], dim=-1)


class WideDown(WideUp):
    """W_2 u + b_2 + v (s U) of widened units [u | v]."""

    def forward(self, x: Tensor) -> Tensor:
        values = self.read.memory.now()[1]
        own, new = x[..., : self.old.in_features], x[..., self.old.in_features :]
        return self.old(own) + new @ values


@pytest.mark.parametrize("language", ["t5", "flan", "bart", "llama"])
def test_hooks_are_widened_linears(language: str) -> None:
    """The same answers where the FFN's own Linears are widened and its own activation runs over the new units."""
    model = adapted("clip", SPOKEN[language], gm.MemVP(**SMALL))
    given = texts(6, 6)
    given |= {} if language == "llama" else {"decoder_input_ids": texts(3, 3)["input_ids"]}
    expected = model(**given, pixel_values=PIXELS).logits
    reads = [c for c in model.anatomy.log if isinstance(c, Added) and isinstance(c.part, MemoryRead)]
    for change in reads:
        change.revert()
    assert not torch.allclose(model(**given, pixel_values=PIXELS).logits, expected)
    for block, change in zip([b for s in model.anatomy.adapted for b in model.anatomy.blocks(s)], reads, strict=True):
        gated = block.path("gate") is not None
        model.anatomy.rewrite(
            block, "gate" if gated else "up", WideUp(block.part("gate" if gated else "up"), change.part)
        )
        if gated:
            model.anatomy.rewrite(block, "up", Bypass(block.part("up"), change.part))
        model.anatomy.rewrite(block, "down", WideDown(block.part("down"), change.part))
    close(model(**given, pixel_values=PIXELS).logits, expected)


@pytest.mark.parametrize("language", ["t5", "bart", "llama"])
def test_without_slots_or_scale_the_model_is_the_frozen_one(language: str) -> None:
    given = texts(6, 5) | ({} if language == "llama" else {"decoder_input_ids": texts(3, 3)["input_ids"]})
    bare = composed("clip", SPOKEN[language]).requires_grad_(False)(**given).logits
    silent = adapted("clip", SPOKEN[language], gm.MemVP(**{**SMALL, "scale": 0.0}))
    assert torch.equal(silent(**given, pixel_values=PIXELS).logits, bare)
    empty = adapted("clip", SPOKEN[language], gm.MemVP(**SMALL, image_tokens=0))
    assert torch.equal(empty(**given).logits, bare)


def test_the_start_is_the_frozen_model_without_an_image_and_close_to_it_with_one() -> None:
    model, given = composed("clip", SPOKEN["llama"]), texts(6, 6)
    bare = model(**given).logits
    states = model.states(PIXELS)
    start = gm.adapt(model, gm.MemVP()).eval()
    assert torch.equal(start(**given).logits, bare)
    difference = float((start(**given, pixel_values=PIXELS).logits - bare).detach().abs().max())
    assert 0 < difference < 0.1 * 0.01 * 10  # of the order s lambda
    adapters = gm.adapt(composed("clip", SPOKEN["llama"]), gm.MemVP(vision_rank=3)).eval()
    without = gm.adapt(composed("clip", SPOKEN["llama"]), gm.MemVP(vision_rank=0)).eval()
    assert torch.equal(adapters.backbone.states(PIXELS), without.backbone.states(PIXELS))
    assert not torch.equal(without.backbone.states(PIXELS), states)  # the last block is not run


def test_the_cache_holds_the_text_alone() -> None:
    model = adapted("clip", SPOKEN["llama"], gm.MemVP(**SMALL))
    given = texts(6, 6)
    answer = model.generate(
        **given,
        pixel_values=PIXELS,
        max_new_tokens=4,
        min_new_tokens=4,
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert answer.past_key_values.get_seq_length() == 6 + 4 - 1
    plain = model.generate(
        **given, pixel_values=PIXELS, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True, output_logits=True,
        use_cache=False,
    )  # fmt: skip
    for cached, computed in zip(answer.logits, plain.logits, strict=True):
        close(cached, computed)


def test_a_position_is_read_on_its_own() -> None:
    model = adapted("clip", SPOKEN["llama"], gm.MemVP(**SMALL))
    given = texts(7, 7)
    whole = model(**given, pixel_values=PIXELS).logits
    short = model(**{k: v[:, :4] for k, v in given.items()}, pixel_values=PIXELS).logits
    close(short, whole[:, :4])


def test_memory_is_read_where_it_is_asked_for() -> None:
    for options, expected in (
        ({}, ["encoder.blocks.0", "encoder.blocks.1", "encoder.blocks.2", "decoder.blocks.0", "decoder.blocks.1"]),
        ({"stacks": ("decoder",)}, ["decoder.blocks.0", "decoder.blocks.1"]),
        ({"stacks": ("encoder",), "layers": (2, 0)}, ["encoder.blocks.0", "encoder.blocks.2"]),
    ):
        method = gm.MemVP(**SMALL, **options)  # type: ignore[arg-type]
        assert [b.key for b in method.read_by(gm.read(composed("clip", SPOKEN["t5"])))] == expected
    with pytest.raises(KeyError, match="no stack 'text'"):
        gm.adapt(composed("clip", SPOKEN["t5"]), gm.MemVP(stacks=("text",)))
    with pytest.raises(ValueError, match="read by the language model, not by the vision tower"):
        gm.adapt(composed("clip", SPOKEN["t5"]), gm.MemVP(stacks=("vision",)))


def test_every_trained_tensor_learns_and_no_other_moves() -> None:
    """P_K learns from the first step on, because values are not zero where there is an image."""
    model = gm.adapt(composed("clip", SPOKEN["llama"]), gm.MemVP(rank=4, extra_slots=2, vision_rank=2)).train()
    assert set(model.trainable()) == {
        *(f"memvp.memory.{n}" for n in ("keys", "values", "down.weight", "down.bias", "up.weight", "up.bias")),
        *(f"memvp.vision.blocks.{i}.ffn.{n}.weight" for i in (0, 1) for n in ("down", "up")),
    }
    optimizer = torch.optim.SGD(model.trainable().values(), lr=0.5)
    given = texts(6, 6)
    for _ in range(2):
        optimizer.zero_grad()
        model(**given, pixel_values=PIXELS, labels=given["input_ids"]).loss.backward()
        optimizer.step()
    for name, parameter in model.trainable().items():
        assert parameter.grad is not None
        assert math.isfinite(float(parameter.grad.norm()))
        assert float(parameter.grad.norm()) > 0, name


@pytest.mark.parametrize(("language", "slots", "formula"), [("7b", 320, 3_870_848), ("13b", 400, 5_477_504)])
def test_parameters_of_the_authors_models(language: str, slots: int, formula: int) -> None:
    """The formula of the paper's table counts the adapter of the vision block that is never run, 24,576 parameters."""
    sizes = {} if language == "7b" else {
        "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 40,
        "intermediate_size": 13824,
    }  # fmt: skip
    model = gm.VisionLanguage(architectures.build("clip-vit-l14"), architectures.build("llama-7b", **sizes))
    method = gm.MemVP(extra_slots=slots - 256)
    assert method.parameters(gm.read(model)) == formula - 24_576
    trained = sum(p.numel() for p in gm.adapt(model, method).trainable().values())
    assert trained == formula - 24_576


def test_the_activation_is_the_ffns_own() -> None:
    for name, kind in (("t5", nn.ReLU), ("bart", nn.GELU), ("llama", nn.SiLU)):
        model = gm.adapt(composed("clip", SPOKEN[name]), gm.MemVP(**SMALL))
        found = {
            type(c.part.activation)
            for c in model.anatomy.log
            if isinstance(c, Added) and isinstance(c.part, MemoryRead)
        }
        assert {torch.equal(f()(torch.linspace(-3, 3, 9)), kind()(torch.linspace(-3, 3, 9))) for f in found} == {True}


def test_post_norm_memory_is_inside_the_normalised_sum() -> None:
    model = adapted("clip", CLASSIFIED["bert"], gm.MemVP(**SMALL), labels=3)
    layer = model.backbone.language.encoder.layer[0]
    kept: dict[str, Tensor] = {}
    layer.attention.register_forward_hook(lambda m, a, o: kept.update(h=o[0]))
    layer.register_forward_hook(lambda m, a, o: kept.update(y=o if isinstance(o, Tensor) else o[0]))
    model(**texts(6, 6), pixel_values=PIXELS)
    (keys, values), h = model.see(PIXELS).kept[0], kept["h"]
    for change in model.anatomy.log:
        if isinstance(change, Added) and isinstance(change.part, MemoryRead):
            change.revert()
    ffn = layer.output.dense(F.gelu(layer.intermediate.dense(h)))
    close(kept["y"], layer.output.LayerNorm(h + ffn + memory_read(h, keys, values, F.gelu)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"extra_slots": -1}, "extra_slots must be 0 or more, got -1"),
        ({"vision_rank": -2}, "vision_rank must be 0 or more, got -2"),
        ({"image_tokens": -1}, "image_tokens must be 0 or more"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gm.MemVP(**settings)


def test_an_image_with_too_many_tokens_says_what_to_do() -> None:
    model = adapted("clip", SPOKEN["llama"], gm.MemVP(**SMALL))
    with pytest.raises(
        ValueError, match=r"25 patch tokens and the memory 16 slots: use smaller images, or MemVP\(image_tokens=25\)"
    ):
        model(**texts(5), pixel_values=images(20))
