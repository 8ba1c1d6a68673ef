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
        match=r"LlamaDecoderLayer at layers is built like the blocks of llama, mistral, .*: say family='llama'.* owners, if what "
        "blocks alone do not show holds here too: a token sees only those before it",
    ):
        _read_as_nobodys(model)


def test_what_blocks_do_not_show_is_said() -> None:
    model = tf.ViTModel(tf.ViTConfig(**VISION))
    model.config.model_type = "vit_next"
    with pytest.raises(TypeError, match="every token sees all others; tokens in front of the patches: 1"):
        _read_as_nobodys(model)


def _read_as_nobodys(model: torch.nn.Module) -> None:
    model.__class__ = type("Nobodys", (torch.nn.Module,), {})
    gm.read(model)


def test_what_is_lacking_is_named() -> None:
    model = tf.NanoChatForCausalLM(tf.NanoChatConfig(**LLAMA))
    with pytest.raises(
        TypeError,
        match=r"NanoChatDecoderLayer at model\.layers is like .*jina_embeddings_v3, and lacks post_mlp_layernorm",
    ):
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


def test_blocks_that_are_refused_among_a_known_family() -> None:
    """timm builds its ViT of other blocks too, by name."""
    model = timm.create_model("vit_base_patch16_xp_224", img_size=16, patch_size=4, embed_dim=12, depth=2, num_heads=2)
    with pytest.raises(
        TypeError,
        match=r"blocks\.0 \(ParallelScalingBlock\) is of a kind that is refused: one Linear makes .*LoRA and the other tuners",
    ):
        gm.read(model)


def test_the_text_of_mllama_is_refused_with_the_reason() -> None:
    sizes = {**LLAMA, "num_hidden_layers": 3, "cross_attention_layers": [1]}
    rotary = {"rope_type": "default", "rope_theta": 1e4}
    model = tf.MllamaForCausalLM(tf.MllamaTextConfig(**sizes, rope_parameters=rotary))
    with pytest.raises(TypeError, match=r"mllama_text_model: every few of its blocks read the image"):
        gm.read(model)
