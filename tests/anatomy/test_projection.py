"""Matrices in other modules than Linears: GPT-2's, which are transposed, and parts of fused ones, with biases kept apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as tf
from torch import nn
from transformers.pytorch_utils import Conv1D

import gossamer as gm
from gossamer.anatomy.projection import Projection, Rows, matrix
from gossamer.anatomy.rewritten import SplitLinear

from ..contract.backbone import VISION


def transposed() -> Conv1D:
    found = Conv1D(12, 5)
    nn.init.normal_(found.bias)
    return found.requires_grad_(False)


def test_the_matrix_is_that_of_a_linear() -> None:
    whole, x = transposed(), torch.randn(3, 5)
    assert matrix(whole).shape == (12, 5)
    torch.testing.assert_close(nn.functional.linear(x, matrix(whole), whole.bias), whole(x))


def test_rows_of_it_and_a_bias_apart() -> None:
    whole, x, apart = transposed(), torch.randn(2, 3, 5), torch.randn(4)
    one = Projection(whole, Rows(6, 10, 12), apart)
    assert one.plain
    torch.testing.assert_close(one(x), whole(x)[..., 6:10] + apart)
    weight, bias = one.weights()
    assert bias is not None
    torch.testing.assert_close(nn.functional.linear(x, weight, bias), one(x))
    assert Projection(nn.Linear(5, 4, bias=False)).weights()[1] is None


def test_uneven_parts_are_split_and_fused_in_the_kind_they_were() -> None:
    """Queries of 6, keys and values of 3 each; what is fused again is no Linear where it was none."""
    x = torch.randn(2, 3, 5)
    for whole in (transposed(), nn.Linear(5, 12).requires_grad_(False)):
        split = SplitLinear(whole, (Rows(0, 6, 12), Rows(6, 9, 12), Rows(9, 12, 12)))
        assert [len(part.weight) for part in (split.q, split.k, split.v)] == [6, 3, 3]
        torch.testing.assert_close(split(x), whole(x))
        again = split.fused()
        assert type(again) is type(whole)
        torch.testing.assert_close(again(x), whole(x))
        split.v = nn.Linear(5, 3).requires_grad_(False)
        torch.testing.assert_close(split.fused()(x), torch.cat([whole(x)[..., :9], split.v(x)], dim=-1))


def test_rows_that_come_in_groups() -> None:
    """Two heads of keys, each with three rows of queries in front of it and two of its value behind."""
    x, rows = torch.randn(2, 3, 5), (Rows(0, 3, 6), Rows(3, 4, 6), Rows(4, 6, 6))
    places = [0, 1, 2, 6, 7, 8], [3, 9], [4, 5, 10, 11]
    for whole in (transposed(), nn.Linear(5, 12).requires_grad_(False)):
        for own, expected in zip(rows, places, strict=True):
            torch.testing.assert_close(Projection(whole, own)(x), whole(x)[..., expected])
        split = SplitLinear(whole, rows)
        torch.testing.assert_close(split(x), whole(x))
        split.k = nn.Linear(5, 2).requires_grad_(False)
        changed = whole(x).clone()
        changed[..., places[1]] = split.k(x)
        torch.testing.assert_close(split(x), changed)
        again = split.fused()
        assert type(again) is type(whole)
        torch.testing.assert_close(again(x), changed)


def _captioner() -> torch.nn.Module:
    """ViT and GPT-2, whose cross-attention has its keys and values in one matrix."""
    config = tf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        tf.ViTConfig(**VISION), tf.GPT2Config(n_embd=10, n_layer=2, n_head=2, n_positions=20, vocab_size=50, n_inner=14)
    )
    torch.default_generator.manual_seed(1)
    model = tf.VisionEncoderDecoderModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def test_keys_and_values_of_a_context_in_one_matrix() -> None:
    model = _captioner()
    block = gm.read(model).stacks["decoder"][0]
    context = torch.randn(3, 5, 10)
    keys, values = model.decoder.transformer.h[0].crossattention.c_attn(context).split(10, dim=-1)
    for found, expected in zip(block.keys_values(context, "cross"), (keys, values), strict=True):
        torch.testing.assert_close(found, expected)
    assert block.sizes.context == block.sizes.cross_inner == 10
    assert block.roles()["cross.kv"] == "decoder.transformer.h.0.crossattention.c_attn"


@pytest.mark.parametrize("method", [gm.APT(prompts=3, where="cross", stack="decoder"), gm.VPT(prompts=3)])
@pytest.mark.usefixtures("uncounted")
def test_a_captioner_lives(method: gm.Method, tmp_path: Path) -> None:
    """What is placed beside cross-attention reads the text's states, not the image's; adapted, saved, loaded, finished."""
    inputs = {"pixel_values": torch.randn(3, 3, 16, 16), "decoder_input_ids": torch.randint(0, 50, (3, 7))}
    adapted = gm.adapt(_captioner(), method).eval()
    with torch.no_grad():
        before = adapted(**inputs).logits
        for parameter in adapted.trainable().values():
            parameter.add_(0.1)
        trained = adapted(**inputs).logits
        assert not torch.allclose(trained, before)
        adapted.save_pretrained(tmp_path)
        assert torch.equal(gm.load(tmp_path, _captioner()).eval()(**inputs).logits, trained)
        torch.testing.assert_close(adapted.finalize()(**inputs).logits, trained)
