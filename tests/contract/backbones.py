"""The backbones of the contract: one row each, and every method meets it. A new family adds a row here.

Tiny random models with odd, unequal sizes: 3 samples, 2 or 3 blocks, 7 tokens, so that a swapped axis cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import timm
import transformers as tf
from torch import nn

import gossamer as gm
from gossamer.models.meter import MeterConfig, MeterModel
from gossamer.models.meter_heads import MeterForQuestionAnswering

from .. import twins
from .backbone import (
    BART,
    BART_IDS,
    DINO,
    HALVES,
    LABELS,
    LLAMA,
    T5,
    T5_IDS,
    TEXT,
    TOWER,
    VISION,
    Backbone,
    bare,
    of,
    vision,
)  # fmt: skip
from .decoders import DECODERS
from .denoisers import DENOISERS
from .maps import MAPS
from .newer import NEWER


def _clip_config(**options: Any) -> tf.CLIPConfig:
    vision, text = {**VISION, "projection_dim": 8}, {**TEXT, "bos_token_id": 0, "eos_token_id": 49, "projection_dim": 8}
    return tf.CLIPConfig(vision_config=vision, text_config=text, num_labels=LABELS, projection_dim=8, **options)


def _mae(**options: Any) -> nn.Module:
    return tf.ViTMAEModel(tf.ViTMAEConfig(**VISION, mask_ratio=0.0, **options))


def _timm(**options: Any) -> Callable[..., nn.Module]:
    def build() -> nn.Module:
        return timm.create_model(
            "vit_tiny_patch16_224",
            img_size=16,
            patch_size=4,
            embed_dim=12,
            depth=3,
            num_heads=2,
            mlp_ratio=2,
            **options,
        )

    return build


def _seeing(vision: Callable[..., nn.Module], language: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A composed model; the tower has another width than the language model."""

    def build(**options: Any) -> nn.Module:
        return gm.VisionLanguage(vision(**options), language(**options))

    return build


def _segmenter(**options: Any) -> nn.Module:
    tower = tf.Dinov2Model(tf.Dinov2Config(**DINO, mlp_ratio=2, **options))
    return gm.Segmenter(tower, gm.Decoder(outputs=LABELS, kind="setr-naive", channels=6))


def _by_words(**options: Any) -> nn.Module:
    """A classifier of images by the names of classes, which it has read already."""
    names, templates = ["a coat", "a shoe", "a bag"], ["a photo of {}."]
    return gm.ZeroShot.of(tf.CLIPModel(_clip_config(**options)), names, _letters, templates)


def _letters(texts: Sequence[str], **options: Any) -> dict[str, list[list[int]]]:
    return {"input_ids": [[0, *(4 + ord(letter) % 40 for letter in text[-9:]), 49] for text in texts]}


SWIN = {  # windows of 3 x 3 in grids of 8 x 8 and 4 x 4: shifted ones, and padding
    "embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 3, "image_size": 16, "patch_size": 2,
    "mlp_ratio": 2.0,
}  # fmt: skip


def _timm_swin() -> nn.Module:
    sizes = {("img_size" if k == "image_size" else k): v for k, v in SWIN.items()}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=LABELS, **sizes)


def _timm_swin_v2() -> nn.Module:
    sizes = {("img_size" if k == "image_size" else k): v for k, v in SWIN.items()}
    return timm.create_model("swinv2_tiny_window8_256", num_classes=LABELS, **sizes)


METER = {
    "vision_config": {**VISION, "num_hidden_layers": 2},
    "text_config": {**TEXT, "num_hidden_layers": 2, "max_position_embeddings": 40},
    "cross_modal_config": {
        "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    },
}  # fmt: skip
METER_KINDS = {"fusion": twins.METER, "vision": twins.CLIP, "text": twins.BERT}
STAGES = "windows and stages are computed by hand in tests/anatomy/test_windows.py"
BACKBONES: dict[str, Backbone] = {
    "vit": replace(vision(tf.ViTForImageClassification, tf.ViTConfig, twins.VIT), meets_all=True),
    "vit-bare": bare(tf.ViTModel, tf.ViTConfig, twins.VIT),
    "deit": vision(tf.DeiTForImageClassification, tf.DeiTConfig, twins.VIT),
    "deit-distilled": vision(tf.DeiTForImageClassificationWithTeacher, tf.DeiTConfig, twins.VIT),
    "dinov2": vision(tf.Dinov2ForImageClassification, tf.Dinov2Config, twins.DINO, DINO, mlp_ratio=2),
    "dinov2-swiglu": bare(tf.Dinov2Model, tf.Dinov2Config, twins.SWIGLU, DINO, use_swiglu_ffn=True),
    "dinov2-registers": vision(
        *(tf.Dinov2WithRegistersForImageClassification, tf.Dinov2WithRegistersConfig, twins.DINO, DINO), mlp_ratio=2
    ),
    "clip-vision": Backbone(of(tf.CLIPForImageClassification, _clip_config, {}), {"vision": twins.CLIP}),
    "clip-text": Backbone(
        of(tf.CLIPTextModel, tf.CLIPTextConfig, {**TEXT, "bos_token_id": 0, "eos_token_id": 49}),
        {"text": twins.CLIP},
        reads="text",
        causal=True,
        num_labels=LABELS,
    ),
    "siglip": replace(bare(tf.SiglipVisionModel, tf.SiglipVisionConfig, twins.SIGLIP), classed=False),
    "vit-mae": Backbone(_mae, {"vision": twins.VIT}, num_labels=LABELS),
    "bert": Backbone(
        of(tf.BertForSequenceClassification, tf.BertConfig, TEXT, num_labels=LABELS),
        {"text": twins.BERT},
        reads="text",
        post_norm=True,
        meets_all=True,
    ),
    "roberta": Backbone(
        of(tf.RobertaForSequenceClassification, tf.RobertaConfig, TEXT, num_labels=LABELS, max_position_embeddings=40),
        {"text": twins.BERT},
        reads="text",
        post_norm=True,
    ),
    "vilt": Backbone(
        of(tf.ViltForQuestionAnswering, tf.ViltConfig, {**VISION, "vocab_size": 50}, num_labels=LABELS),
        {"fusion": twins.VILT},
        reads="both",
        eager=False,
        looks=True,
    ),
    "t5": Backbone(
        of(tf.T5ForConditionalGeneration, tf.T5Config, T5, **T5_IDS),
        {"encoder": twins.T5, "decoder": twins.T5_DECODER},
        reads="seq2seq",
        generates=True,
        biases=False,
        headless=True,
        meets_all=True,
    ),
    "t5-gated-encoder": Backbone(
        of(tf.T5EncoderModel, tf.T5Config, T5, feed_forward_proj="gated-gelu", **T5_IDS),
        {"encoder": twins.T5_GATED},
        reads="text",
        num_labels=LABELS,
        biases=False,
    ),
    "bart": Backbone(
        of(tf.BartForConditionalGeneration, tf.BartConfig, BART, dropout=0.0, **BART_IDS),
        {"encoder": twins.BART, "decoder": twins.BART_DECODER},
        reads="seq2seq",
        generates=True,
        headless=True,
        post_norm=True,
    ),
    "llama": Backbone(
        of(tf.LlamaForCausalLM, tf.LlamaConfig, LLAMA),
        {"decoder": twins.LLAMA},
        reads="text",
        causal=True,
        generates=True,
        biases=False,
        headless=True,
        meets_all=True,
    ),
    "llama-classifier": Backbone(
        of(tf.LlamaForSequenceClassification, tf.LlamaConfig, LLAMA, num_labels=LABELS),
        {"decoder": twins.LLAMA},
        reads="text",
        causal=True,
        biases=False,
    ),
    "swin": Backbone(
        of(tf.SwinForImageClassification, tf.SwinConfig, SWIN, num_labels=LABELS), STAGES, windows=True, meets_all=True
    ),
    "swin-bare": Backbone(of(tf.SwinModel, tf.SwinConfig, SWIN), STAGES, num_labels=LABELS, windows=True),
    "timm-swin": Backbone(_timm_swin, STAGES, eager=False, windows=True),
    "swin-v2": Backbone(
        of(tf.Swinv2ForImageClassification, tf.Swinv2Config, SWIN, num_labels=LABELS),
        STAGES,
        eager=False,
        windows=True,
        post_norm=True,
    ),
    "timm-swin-v2": Backbone(_timm_swin_v2, STAGES, eager=False, windows=True, post_norm=True, like="swin-v2"),
    "timm": Backbone(_timm(num_classes=LABELS, init_values=0.2), {"vision": twins.TIMM}, eager=False, meets_all=True),
    "timm-avg": Backbone(
        _timm(num_classes=LABELS, global_pool="avg", reg_tokens=2, qk_norm=True),
        {"vision": twins.TIMM_NORMED},
        projected=False,
        eager=False,
    ),
    "timm-bare": Backbone(_timm(num_classes=0), {"vision": twins.TIMM_PLAIN}, num_labels=LABELS, eager=False),
    "clip+bert": Backbone(
        _seeing(of(tf.CLIPVisionModel, tf.CLIPVisionConfig, TOWER), of(tf.BertModel, tf.BertConfig, TEXT)),
        HALVES,
        reads="both",
        num_labels=LABELS,
        post_norm=True,
        sees=True,
    ),
    "dinov2+llama": Backbone(
        _seeing(
            of(tf.Dinov2Model, tf.Dinov2Config, {**DINO, "hidden_size": 10}, mlp_ratio=2),
            of(tf.LlamaForCausalLM, tf.LlamaConfig, LLAMA),
        ),
        HALVES,
        reads="both",
        generates=True,
        biases=False,
        headless=True,
        sees=True,
        meets_all=True,
    ),
    "vit+t5": Backbone(
        _seeing(
            of(tf.ViTModel, tf.ViTConfig, TOWER),
            of(tf.T5ForConditionalGeneration, tf.T5Config, T5, feed_forward_proj="gated-gelu", **T5_IDS),
        ),
        HALVES,
        reads="all",
        generates=True,
        biases=False,
        headless=True,
        sees=True,
    ),
    "clip+roberta": Backbone(
        _seeing(
            of(tf.CLIPVisionModel, tf.CLIPVisionConfig, TOWER),
            of(tf.RobertaModel, tf.RobertaConfig, TEXT, max_position_embeddings=40),
        ),
        HALVES,
        reads="both",
        num_labels=LABELS,
        post_norm=True,
        sees=True,
    ),
    "siglip+bart": Backbone(
        _seeing(
            of(tf.SiglipVisionModel, tf.SiglipVisionConfig, TOWER),
            of(tf.BartForConditionalGeneration, tf.BartConfig, BART, dropout=0.0, **BART_IDS),
        ),
        HALVES,
        reads="all",
        generates=True,
        headless=True,
        post_norm=True,
        sees=True,
    ),
    "meter": Backbone(
        of(MeterForQuestionAnswering, MeterConfig, METER, num_labels=LABELS),
        METER_KINDS,
        reads="both",
        crosses=True,
        post_norm=True,
    ),
    "meter-bare": Backbone(
        of(MeterModel, MeterConfig, METER),
        METER_KINDS,
        reads="both",
        num_labels=LABELS,
        crosses=True,
        post_norm=True,
    ),
    "segmenter": Backbone(_segmenter, HALVES, like="dinov2"),
    "by-words": Backbone(_by_words, HALVES, headless=True, precise=True, like="clip-vision"),
    **DECODERS,
    **NEWER,
    **MAPS,
    **DENOISERS,
}
