"""The backbones of the contract: one row each, and every method meets it. A new family adds a row here.

Tiny random models with odd, unequal sizes: 3 samples, 2 or 3 blocks, 7 tokens, so that a swapped axis cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
import transformers as tf
from torch import Tensor, nn

import gossamer as gm
from gossamer.models.meter import MeterConfig, MeterModel
from gossamer.models.meter_heads import MeterForQuestionAnswering

from .. import twins

VISION = {
    "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
DINO = {
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "layerscale_value": 0.3,
}
TEXT = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20, "vocab_size": 50}
LABELS = 3


@dataclass(frozen=True)
class Backbone:
    """A row: how the model is built, what its blocks are by hand, what it reads, and the facts that methods ask for.

    `kinds` has the by-hand twin of every stack, or says in words where the twin is; there is no row without one.
    """

    build: Callable[..., nn.Module]
    kinds: Mapping[str, twins.Names] | str
    reads: str = "image"  # "image", "text", "both", "seq2seq", "all"
    num_labels: int | None = None  # for models without a head of their own
    eager: bool = True  # whether attn_implementation can be chosen
    generates: bool = False
    biases: bool = True
    post_norm: bool = False
    crosses: bool = False  # its main stack has cross-attention
    looks: bool = False  # its forward pass looks at values
    headless: bool = False  # a language model: nothing but a method can be trained
    causal: bool = False  # its main stack sees only what stands before
    sees: bool = False  # composed of a vision tower and a language model
    windows: bool = False  # its attention is in windows
    rotary: bool = False  # a vision model whose patches have rotary positions
    classed: bool = True  # the main stack, if tokens can become one there, has a class token
    grows: bool = True  # tokens can be let in
    damps_apart: bool = True  # what damps its branches is a module, not a factor in the sum
    masks: tuple[str, ...] | None = None  # kinds of mask that its attention takes; None: all
    like: str | None = None  # the row that is built as this one is: all tests of this one are slow
    meets_all: bool = False  # every method meets it by default; the others' full table is slow

    @property
    def merges(self) -> bool:
        """Whether its tokens have no order, so that some can become one."""
        return self.reads == "image" and self.grows and self.pre_norm and not (self.windows or self.rotary)

    @property
    def pre_norm(self) -> bool:
        return not self.post_norm

    @property
    def headed(self) -> bool:
        return not self.headless

    @property
    def takes_more(self) -> bool:
        """Whether its output may be longer than its input."""
        return not (self.generates or self.causal)

    @property
    def unwindowed(self) -> bool:
        return not self.windows

    @property
    def but(self) -> dict[str, str]:
        """Promises of the contract that mean nothing here, and why."""
        reasons = {
            "kernels": None if self.eager else "its attention has one kernel",
            "padding": "it reads no text" if self.reads == "image" else None,
            "generation": None if self.generates else "it does not write",
            "forms": None if self.grows else "tokens cannot be let in",
            "device": "it chooses patches by looking at values" if self.looks else None,
        }
        return {promise: reason for promise, reason in reasons.items() if reason is not None}

    def model(self, attention: str = "sdpa") -> nn.Module:
        torch.manual_seed(1)
        model = self.build(**({"attn_implementation": attention} if self.eager else {}))
        with torch.no_grad():
            for parameter in model.parameters():  # zero biases and unit norms would hide mistakes
                parameter.add_(0.05 * torch.randn(parameter.shape))
        return model.eval()

    def inputs(self, batch: int = 3) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(2)
        pixels = torch.randn(3, 3, 16, 16, generator=generator)[:batch]
        ids = torch.randint(4, 49, (3, 7), generator=generator)
        ids[:, -1] = 49
        mask = torch.ones(3, 7, dtype=torch.long)
        ids[1, 5:], mask[1, 5:] = 1, 0
        text = {"input_ids": ids[:batch], "attention_mask": mask[:batch]}
        if self.reads == "image":
            return {"pixel_values": pixels}
        if self.reads in ("seq2seq", "all"):
            text["decoder_input_ids"] = torch.randint(4, 49, (3, 4), generator=generator)[:batch]
        return {**text, "pixel_values": pixels} if self.reads in ("both", "all") else text


def _of(model: Any, config: Any, values: dict[str, Any], **more: Any) -> Callable[..., nn.Module]:
    def build(**options: Any) -> nn.Module:
        return model(config(**values, **more, **options))

    return build


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


SWIN = {  # windows of 3 x 3 in grids of 8 x 8 and 4 x 4: shifted ones, and padding
    "embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 3, "image_size": 16, "patch_size": 2,
    "mlp_ratio": 2.0,
}  # fmt: skip


def _timm_swin() -> nn.Module:
    sizes = {("img_size" if k == "image_size" else k): v for k, v in SWIN.items()}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=LABELS, **sizes)


T5 = {"d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2, "vocab_size": 50}
T5_IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
BART = {
    "d_model": 12, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 3,
    "encoder_ffn_dim": 20, "decoder_ffn_dim": 28, "vocab_size": 50, "max_position_embeddings": 40,
}  # fmt: skip
BART_IDS = {
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
TOWER = {**VISION, "hidden_size": 10}
LLAMA = {**TEXT, "num_key_value_heads": 1, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}

METER = {
    "vision_config": {**VISION, "num_hidden_layers": 2},
    "text_config": {**TEXT, "num_hidden_layers": 2, "max_position_embeddings": 40},
    "cross_modal_config": {
        "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    },
}  # fmt: skip
METER_KINDS = {"fusion": twins.METER, "vision": twins.CLIP, "text": twins.BERT}
STAGES = "windows and stages are computed by hand in tests/anatomy/test_windows.py"
HALVES = "each half has a row of its own"


def _vision(model: Any, config: Any, kind: twins.Names, values: dict[str, Any] = VISION, **more: Any) -> Backbone:
    """An image classifier that brings its head."""
    return Backbone(_of(model, config, values, num_labels=LABELS, **more), {"vision": kind})


def _bare(model: Any, config: Any, kind: twins.Names, values: dict[str, Any] = VISION, **more: Any) -> Backbone:
    """An image encoder without a head."""
    return Backbone(_of(model, config, values, **more), {"vision": kind}, num_labels=LABELS)


def _writer(model: Any, config: Any, kind: twins.Names, like: str | None, **more: Any) -> Backbone:
    """A decoder of one column."""
    return Backbone(
        _of(model, config, {**LLAMA, **more}), {"decoder": kind}, reads="text", causal=True, generates=True, biases=False,
        headless=True, like=like, post_norm=not kind.norms,
    )  # fmt: skip


def _reader(
    model: Any, config: Any, kind: twins.Names, like: str | None, values: dict[str, Any], **more: Any
) -> Backbone:
    """A text encoder without a head."""
    return Backbone(
        _of(model, config, values, **more),
        {"text": kind},
        reads="text",
        num_labels=LABELS,
        post_norm=kind.post,
        like=like,
    )


def _translator(
    model: Any, config: Any, kinds: tuple[twins.Names, twins.Names], like: str | None, **more: Any
) -> Backbone:
    """Encoder and decoder of BART's making."""
    return Backbone(
        _of(model, config, BART, dropout=0.0, **{**BART_IDS, **more}), dict(zip(("encoder", "decoder"), kinds, strict=True)),
        reads="seq2seq", generates=True, headless=True, post_norm=kinds[0].post, like=like,
    )  # fmt: skip


def _timm_of(name: str, kind: twins.Names, like: str | None, **more: Any) -> Backbone:
    """A classifier of timm's, three heads of an even width."""
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2, "num_classes": LABELS}
    facts = {name: more.pop(name) for name in ("grows", "damps_apart", "masks", "post_norm", "rotary") if name in more}

    def build() -> nn.Module:
        return timm.create_model(name, **{**sizes, **more})

    return Backbone(build, {"vision": kind}, eager=False, like=like, **facts)


GEMMA = {"head_dim": 6, "query_pre_attn_scalar": 7, "sliding_window": 5}
DINOV3 = {**VISION, "num_attention_heads": 3, "num_register_tokens": 2, "layerscale_value": 0.3}
BEIT = {**VISION, "layer_scale_init_value": 0.3, "use_relative_position_bias": True, "drop_path_rate": 0.0}
TEXTS = {**TEXT, "max_position_embeddings": 40, "pad_token_id": 1}
IN_SUM = {"damps_apart": False}
FIXED = {"grows": False}

NEWER: dict[str, Backbone] = {
    "qwen3": _writer(tf.Qwen3ForCausalLM, tf.Qwen3Config, twins.QWEN3, None, head_dim=6),
    "gemma3": _writer(tf.Gemma3ForCausalLM, tf.Gemma3TextConfig, twins.GEMMA3, None, **GEMMA),
    "olmo2": _writer(tf.Olmo2ForCausalLM, tf.Olmo2Config, twins.OLMO2, None),
    "phi3": _writer(tf.Phi3ForCausalLM, tf.Phi3Config, twins.PHI3, None),
    "granite": replace(
        _writer(tf.GraniteForCausalLM, tf.GraniteConfig, twins.GRANITE, None, residual_multiplier=0.4), **IN_SUM
    ),
    "qwen2": _writer(tf.Qwen2ForCausalLM, tf.Qwen2Config, twins.LLAMA, "llama"),
    "mistral": _writer(tf.MistralForCausalLM, tf.MistralConfig, twins.LLAMA, "llama", sliding_window=4),
    "gemma": _writer(tf.GemmaForCausalLM, tf.GemmaConfig, twins.GEMMA, "llama", head_dim=6),
    "gemma2": replace(
        _writer(tf.Gemma2ForCausalLM, tf.Gemma2Config, twins.GEMMA2, "gemma3", **GEMMA),
        eager=False,
        masks=("additive",),
    ),
    "smollm3": _writer(tf.SmolLM3ForCausalLM, tf.SmolLM3Config, twins.LLAMA, "llama"),
    "xlm-roberta": _reader(tf.XLMRobertaModel, tf.XLMRobertaConfig, twins.BERT, "bert", TEXTS),
    "camembert": _reader(tf.CamembertModel, tf.CamembertConfig, twins.BERT, "bert", TEXTS),
    "electra": _reader(tf.ElectraModel, tf.ElectraConfig, twins.BERT, "bert", TEXTS, embedding_size=9),
    "distilbert": _reader(
        tf.DistilBertModel,
        tf.DistilBertConfig,
        twins.DISTILBERT,
        "bert",
        {"dim": 12, "n_layers": 3, "n_heads": 2, "hidden_dim": 20, "vocab_size": 50, "max_position_embeddings": 40},
    ),
    "mbart": _translator(tf.MBartForConditionalGeneration, tf.MBartConfig, (twins.MBART, twins.MBART_DECODER), None),
    "pegasus": _translator(
        tf.PegasusForConditionalGeneration, tf.PegasusConfig, (twins.MBART, twins.MBART_DECODER), "mbart"
    ),
    "marian": _translator(tf.MarianMTModel, tf.MarianConfig, (twins.BART, twins.BART_DECODER), "bart"),
    "t5-mt5": Backbone(
        _of(tf.MT5ForConditionalGeneration, tf.MT5Config, T5, **T5_IDS),
        {"encoder": twins.T5_GATED, "decoder": replace(twins.UMT5_DECODER, bias=None)},
        reads="seq2seq",
        generates=True,
        biases=False,
        headless=True,
        like="t5",
    ),
    "umt5": Backbone(
        _of(tf.UMT5ForConditionalGeneration, tf.UMT5Config, {**T5, "d_kv": 6}, **T5_IDS),
        {"encoder": twins.UMT5, "decoder": twins.UMT5_DECODER},
        reads="seq2seq",
        generates=True,
        biases=False,
        headless=True,
        grows=False,
    ),
    "vit-msn": replace(_vision(tf.ViTMSNForImageClassification, tf.ViTMSNConfig, twins.VIT), like="vit"),
    "ijepa": replace(_vision(tf.IJepaForImageClassification, tf.IJepaConfig, twins.VIT), like="vit", classed=False),
    "metaclip2": replace(_bare(tf.MetaClip2VisionModel, tf.MetaClip2VisionConfig, twins.CLIP), like="clip-vision"),
    "dinov3": replace(_bare(tf.DINOv3ViTModel, tf.DINOv3ViTConfig, twins.DINOV3, DINOV3), rotary=True),
    "dinov3-gated": replace(
        _bare(tf.DINOv3ViTModel, tf.DINOv3ViTConfig, twins.DINOV3_GATED, DINOV3, use_gated_mlp=True, hidden_act="silu"),
        like="dinov3",
        rotary=True,
    ),
    "beit": replace(
        _vision(tf.BeitForImageClassification, tf.BeitConfig, twins.BEIT, BEIT),
        **FIXED,
        **IN_SUM,
        masks=("additive", "none"),
    ),
    "data2vec": replace(
        _vision(tf.Data2VecVisionForImageClassification, tf.Data2VecVisionConfig, twins.DATA2VEC, BEIT),
        **FIXED,
        **IN_SUM,
        masks=("none",),
        like="beit",
    ),
    "timm-eva": _timm_of(
        "eva02_tiny_patch14_224", twins.EVA, None, num_heads=3, init_values=0.3, swiglu_mlp=False, rotary=True, **IN_SUM
    ),
    "timm-eva-gated": _timm_of("eva02_tiny_patch14_224", twins.EVA_GATED, "timm-eva", num_heads=3, rotary=True),
    "timm-beit": _timm_of("beit_base_patch16_224", twins.TIMM_BEIT, None, **FIXED, **IN_SUM, masks=("none",)),
    "timm-behind": _timm_of("vit_base_patch16_rpn_224", twins.TIMM_BEHIND, None, post_norm=True),
    "timm-relpos": _timm_of(
        *("vit_relpos_small_patch16_224", twins.TIMM_RELPOS, "timm-beit"), rel_pos_type="bias", **FIXED, masks=("none",)
    ),
}
"""Backbones of the last years, and older ones that share their descriptions."""

BACKBONES: dict[str, Backbone] = {
    "vit": replace(_vision(tf.ViTForImageClassification, tf.ViTConfig, twins.VIT), meets_all=True),
    "vit-bare": _bare(tf.ViTModel, tf.ViTConfig, twins.VIT),
    "deit": _vision(tf.DeiTForImageClassification, tf.DeiTConfig, twins.VIT),
    "deit-distilled": _vision(tf.DeiTForImageClassificationWithTeacher, tf.DeiTConfig, twins.VIT),
    "dinov2": _vision(tf.Dinov2ForImageClassification, tf.Dinov2Config, twins.DINO, DINO, mlp_ratio=2),
    "dinov2-swiglu": _bare(tf.Dinov2Model, tf.Dinov2Config, twins.SWIGLU, DINO, use_swiglu_ffn=True),
    "dinov2-registers": _vision(
        *(tf.Dinov2WithRegistersForImageClassification, tf.Dinov2WithRegistersConfig, twins.DINO, DINO), mlp_ratio=2
    ),
    "clip-vision": Backbone(_of(tf.CLIPForImageClassification, _clip_config, {}), {"vision": twins.CLIP}),
    "clip-text": Backbone(
        _of(tf.CLIPTextModel, tf.CLIPTextConfig, {**TEXT, "bos_token_id": 0, "eos_token_id": 49}),
        {"text": twins.CLIP},
        reads="text",
        causal=True,
        num_labels=LABELS,
    ),
    "siglip": replace(_bare(tf.SiglipVisionModel, tf.SiglipVisionConfig, twins.SIGLIP), classed=False),
    "vit-mae": Backbone(_mae, {"vision": twins.VIT}, num_labels=LABELS),
    "bert": Backbone(
        _of(tf.BertForSequenceClassification, tf.BertConfig, TEXT, num_labels=LABELS),
        {"text": twins.BERT},
        reads="text",
        post_norm=True,
        meets_all=True,
    ),
    "roberta": Backbone(
        _of(tf.RobertaForSequenceClassification, tf.RobertaConfig, TEXT, num_labels=LABELS, max_position_embeddings=40),
        {"text": twins.BERT},
        reads="text",
        post_norm=True,
    ),
    "vilt": Backbone(
        _of(tf.ViltForQuestionAnswering, tf.ViltConfig, {**VISION, "vocab_size": 50}, num_labels=LABELS),
        {"fusion": twins.VILT},
        reads="both",
        eager=False,
        looks=True,
    ),
    "t5": Backbone(
        _of(tf.T5ForConditionalGeneration, tf.T5Config, T5, **T5_IDS),
        {"encoder": twins.T5, "decoder": twins.T5_DECODER},
        reads="seq2seq",
        generates=True,
        biases=False,
        headless=True,
        meets_all=True,
    ),
    "t5-gated-encoder": Backbone(
        _of(tf.T5EncoderModel, tf.T5Config, T5, feed_forward_proj="gated-gelu", **T5_IDS),
        {"encoder": twins.T5_GATED},
        reads="text",
        num_labels=LABELS,
        biases=False,
    ),
    "bart": Backbone(
        _of(tf.BartForConditionalGeneration, tf.BartConfig, BART, dropout=0.0, **BART_IDS),
        {"encoder": twins.BART, "decoder": twins.BART_DECODER},
        reads="seq2seq",
        generates=True,
        headless=True,
        post_norm=True,
    ),
    "llama": Backbone(
        _of(tf.LlamaForCausalLM, tf.LlamaConfig, LLAMA),
        {"decoder": twins.LLAMA},
        reads="text",
        causal=True,
        generates=True,
        biases=False,
        headless=True,
        meets_all=True,
    ),
    "llama-classifier": Backbone(
        _of(tf.LlamaForSequenceClassification, tf.LlamaConfig, LLAMA, num_labels=LABELS),
        {"decoder": twins.LLAMA},
        reads="text",
        causal=True,
        biases=False,
    ),
    "swin": Backbone(
        _of(tf.SwinForImageClassification, tf.SwinConfig, SWIN, num_labels=LABELS), STAGES, windows=True, meets_all=True
    ),
    "swin-bare": Backbone(_of(tf.SwinModel, tf.SwinConfig, SWIN), STAGES, num_labels=LABELS, windows=True),
    "timm-swin": Backbone(_timm_swin, STAGES, eager=False, windows=True),
    "timm": Backbone(_timm(num_classes=LABELS, init_values=0.2), {"vision": twins.TIMM}, eager=False, meets_all=True),
    "timm-avg": Backbone(
        _timm(num_classes=LABELS, global_pool="avg", reg_tokens=2, qk_norm=True),
        {"vision": twins.TIMM_NORMED},
        eager=False,
    ),
    "timm-bare": Backbone(_timm(num_classes=0), {"vision": twins.TIMM_PLAIN}, num_labels=LABELS, eager=False),
    "clip+bert": Backbone(
        _seeing(_of(tf.CLIPVisionModel, tf.CLIPVisionConfig, TOWER), _of(tf.BertModel, tf.BertConfig, TEXT)),
        HALVES,
        reads="both",
        num_labels=LABELS,
        post_norm=True,
        sees=True,
    ),
    "dinov2+llama": Backbone(
        _seeing(
            _of(tf.Dinov2Model, tf.Dinov2Config, {**DINO, "hidden_size": 10}, mlp_ratio=2),
            _of(tf.LlamaForCausalLM, tf.LlamaConfig, LLAMA),
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
            _of(tf.ViTModel, tf.ViTConfig, TOWER),
            _of(tf.T5ForConditionalGeneration, tf.T5Config, T5, feed_forward_proj="gated-gelu", **T5_IDS),
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
            _of(tf.CLIPVisionModel, tf.CLIPVisionConfig, TOWER),
            _of(tf.RobertaModel, tf.RobertaConfig, TEXT, max_position_embeddings=40),
        ),
        HALVES,
        reads="both",
        num_labels=LABELS,
        post_norm=True,
        sees=True,
    ),
    "siglip+bart": Backbone(
        _seeing(
            _of(tf.SiglipVisionModel, tf.SiglipVisionConfig, TOWER),
            _of(tf.BartForConditionalGeneration, tf.BartConfig, BART, dropout=0.0, **BART_IDS),
        ),
        HALVES,
        reads="all",
        generates=True,
        headless=True,
        post_norm=True,
        sees=True,
    ),
    "meter": Backbone(
        _of(MeterForQuestionAnswering, MeterConfig, METER, num_labels=LABELS),
        METER_KINDS,
        reads="both",
        crosses=True,
        post_norm=True,
    ),
    "meter-bare": Backbone(
        _of(MeterModel, MeterConfig, METER),
        METER_KINDS,
        reads="both",
        num_labels=LABELS,
        crosses=True,
        post_norm=True,
    ),
    **NEWER,
}
