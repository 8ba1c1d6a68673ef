"""Towers that are read before their end: nothing is placed in blocks that run for nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf

import gossamer as gm
from gossamer.errors import UserError

from ..contract.backbone import LLAMA, VISION

TEXT = {"input_ids": torch.tensor([[2, *[48] * 16, 5, 6]]), "attention_mask": torch.ones(1, 19, dtype=torch.long)}


def seeing(kind: Any, config: Any, taps: Any) -> Any:
    torch.default_generator.manual_seed(1)
    vision = tf.CLIPVisionConfig(**{**VISION, "num_hidden_layers": 5})
    return kind(
        config(
            vision_config=vision,
            text_config=tf.LlamaConfig(**LLAMA),
            image_token_index=48,
            image_seq_length=16,
            **{"vision_feature_layers" if isinstance(taps, list) else "vision_feature_layer": taps},
        )
    )


@pytest.mark.parametrize(("taps", "read"), [(-2, 4), (-1, 5), (3, 3), ([-3, -4], 3), ([1, -2], 4)])
def test_a_methods_blocks_are_those_that_something_reads(taps: Any, read: int) -> None:
    several = isinstance(taps, list)
    model = seeing(
        tf.VipLlavaForConditionalGeneration if several else tf.LlavaForConditionalGeneration,
        tf.VipLlavaConfig if several else tf.LlavaConfig,
        taps,
    )
    adapted = gm.adapt(model, gm.VPT(prompts=2, stack="vision"))
    places = [name for name in adapted.trainable() if name.startswith("vpt.vision")]
    assert places == [f"vpt.vision.blocks.{i}.prompts" for i in range(read)]
    adapted(**TEXT, pixel_values=torch.randn(1, 3, 16, 16)).logits.square().sum().backward()
    assert all(adapted.trainable()[name].grad.abs().sum() > 0 for name in places)


def test_a_block_that_nothing_reads_can_be_no_place() -> None:
    model = seeing(tf.LlavaForConditionalGeneration, tf.LlavaConfig, -2)
    with pytest.raises(UserError, match=r"block 4 runs for nothing.*blocks=\(1, 4\)"):
        gm.adapt(model, gm.CVPT(prompts=2, stack="vision", blocks=(1, 4)))
