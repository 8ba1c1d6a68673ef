"""Tiny towers and language models to compose, and what they read. Odd unequal sizes throughout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

import gossamer as gm

from ..contract.backbones import BART, BART_IDS, DINO, LLAMA, T5, T5_IDS, TEXT, TOWER

TOWERS: dict[str, Callable[[], nn.Module]] = {
    "clip": lambda: tf.CLIPVisionModel(tf.CLIPVisionConfig(**TOWER)),
    "siglip": lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**TOWER)),
    "vit": lambda: tf.ViTModel(tf.ViTConfig(**TOWER)),
    "dinov2": lambda: tf.Dinov2Model(tf.Dinov2Config(**{**DINO, "hidden_size": 10}, mlp_ratio=2)),
    "registers": lambda: tf.Dinov2WithRegistersModel(
        tf.Dinov2WithRegistersConfig(**{**DINO, "hidden_size": 10}, mlp_ratio=2, num_register_tokens=3)
    ),
}
GATED = {**T5, **T5_IDS, "feed_forward_proj": "gated-gelu"}
CLASSIFIED: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: tf.BertModel(tf.BertConfig(**TEXT)),
    "roberta": lambda: tf.RobertaModel(tf.RobertaConfig(**TEXT, max_position_embeddings=40)),
    "t5": lambda: tf.T5Model(tf.T5Config(**T5, **T5_IDS)),
    "flan": lambda: tf.T5Model(tf.T5Config(**GATED)),
    "bart": lambda: tf.BartModel(tf.BartConfig(**BART, **BART_IDS, dropout=0.0)),
    "llama": lambda: tf.LlamaModel(tf.LlamaConfig(**{**LLAMA, "hidden_size": 48})),
}
SPOKEN: dict[str, Callable[[], nn.Module]] = {
    "t5": lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5, **T5_IDS)),
    "flan": lambda: tf.T5ForConditionalGeneration(tf.T5Config(**GATED)),
    "bart": lambda: tf.BartForConditionalGeneration(tf.BartConfig(**BART, **BART_IDS, dropout=0.0)),
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA)),
}
METHODS: dict[str, Any] = {
    "dvp": gm.DVP(block=1, heads=3, rank=2, init_std=0.5),
    "dvp-all": gm.DVP(block=1, heads=2, width=8, query="all", train="prompt"),
    "memvp": gm.MemVP(rank=5, image_tokens=25, extra_slots=3, vision_rank=2, scale=0.7, visual_scale=0.5),
    "tokens": gm.VisualTokens(),
    "patches": gm.VisualTokens(block=1, tokens="patches", rank=3),
}
DEPTH = 3


def composed(tower: str, language: Callable[[], nn.Module]) -> gm.VisionLanguage:
    """Frozen halves whose parameters all matter."""
    torch.default_generator.manual_seed(1)
    model = gm.VisionLanguage(TOWERS[tower](), language()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def adapted(tower: str, language: Callable[[], nn.Module], method: Any, labels: int | None = None) -> Any:
    """An adapter as after training."""
    model = gm.adapt(composed(tower, language), method, num_labels=labels).eval()
    torch.default_generator.manual_seed(2)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def texts(*lengths: int, left: bool = False) -> dict[str, Tensor]:
    """Random texts of these lengths, padded."""
    generator = torch.Generator().manual_seed(sum(lengths))
    width = max(lengths)
    ids, mask = torch.ones(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if left else slice(0, length)
        ids[row, place] = torch.randint(4, 49, (length,), generator=generator)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def images(*sizes: int) -> list[Tensor]:
    """Random square images."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(3, size, size, generator=generator) for size in sizes]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    error = float((found - expected).detach().abs().max()) / (1 + float(expected.detach().abs().max()))
    assert error <= tolerance, f"{error:.1e}"
