"""What is said of blocks that no family describes: which known ones they are like, and what they differ in."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers as tf

import gossamer as gm

from ..contract.backbones import LLAMA, VISION


def test_a_new_name_for_known_blocks_is_one_row() -> None:
    model = tf.LlamaModel(tf.LlamaConfig(**LLAMA))
    model.config.model_type = "llama_next"
    with pytest.raises(
        TypeError,
        match=r"LlamaDecoderLayer at layers is built like the blocks of llama, mistral, .*: say family='llama'",
    ):
        _read_as_nobodys(model)


def _read_as_nobodys(model: torch.nn.Module) -> None:
    model.__class__ = type("Nobodys", (torch.nn.Module,), {})
    gm.read(model)


def test_what_is_lacking_is_named() -> None:
    model = tf.NanoChatForCausalLM(tf.NanoChatConfig(**LLAMA))
    with pytest.raises(TypeError, match=r"NanoChatDecoderLayer at model\.layers is like .*lacks self_attn\.dense"):
        gm.read(model)


def test_the_same_parts_in_another_order_are_tried() -> None:
    model = tf.ViTModel(tf.ViTConfig(**VISION))
    model.config.model_type = "vit_next"
    for block in model.layers:
        block.forward = lambda hidden_states, *args, **kwargs: hidden_states
    with pytest.raises(
        TypeError, match=r"ViTLayer at layers has all parts of the blocks of \w+.*, and .*does not read"
    ):
        gm.read(model)


def test_blocks_that_are_like_nothing() -> None:
    with pytest.raises(TypeError) as error:
        gm.read(timm.create_model("convnext_atto"))
    assert "like the blocks" not in str(error.value)
