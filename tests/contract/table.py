"""The rows of the contract: backbones and methods. A new family or method adds a row here, and every promise is tested on it.

Tiny random models with odd, unequal sizes: 3 samples, 2 or 3 blocks, 7 tokens, so that a swapped axis cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import transformers as tf
from peft import IA3Config, LoraConfig, OFTConfig
from torch import Tensor, nn

import gossamer as gm
from gossamer.methods import spt
from gossamer.models.meter import MeterConfig, MeterModel
from gossamer.models.meter_heads import MeterForQuestionAnswering

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
MADE_FOR_METER = ("apt", "das", "vpt-cross")  # of its methods, those that run by default


@dataclass(frozen=True)
class Backbone:
    """A row: how the model is built and what it reads."""

    build: Callable[..., nn.Module]
    reads: str = "image"  # "image", "text", "both", "seq2seq", "all"
    num_labels: int | None = None  # for models without a head of their own
    eager: bool = True  # whether attn_implementation can be chosen
    generates: bool = False
    biases: bool = True
    post_norm: bool = False
    crosses: bool = False  # its main stack has cross-attention
    headless: bool = False  # a language model: nothing but a method can be trained
    sees: bool = False  # composed of a vision tower and a language model
    windows: bool = False  # its attention is in windows

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

BACKBONES: dict[str, Backbone] = {
    "vit": Backbone(_of(tf.ViTForImageClassification, tf.ViTConfig, VISION, num_labels=LABELS)),
    "vit-bare": Backbone(_of(tf.ViTModel, tf.ViTConfig, VISION), num_labels=LABELS),
    "deit": Backbone(_of(tf.DeiTForImageClassification, tf.DeiTConfig, VISION, num_labels=LABELS)),
    "deit-distilled": Backbone(_of(tf.DeiTForImageClassificationWithTeacher, tf.DeiTConfig, VISION, num_labels=LABELS)),
    "dinov2": Backbone(_of(tf.Dinov2ForImageClassification, tf.Dinov2Config, DINO, mlp_ratio=2, num_labels=LABELS)),
    "dinov2-swiglu": Backbone(_of(tf.Dinov2Model, tf.Dinov2Config, DINO, use_swiglu_ffn=True), num_labels=LABELS),
    "dinov2-registers": Backbone(
        _of(
            tf.Dinov2WithRegistersForImageClassification,
            tf.Dinov2WithRegistersConfig,
            DINO,
            mlp_ratio=2,
            num_labels=LABELS,
        )
    ),
    "clip-vision": Backbone(_of(tf.CLIPForImageClassification, _clip_config, {})),
    "clip-text": Backbone(
        _of(tf.CLIPTextModel, tf.CLIPTextConfig, {**TEXT, "bos_token_id": 0, "eos_token_id": 49}), "text", LABELS
    ),
    "siglip": Backbone(_of(tf.SiglipVisionModel, tf.SiglipVisionConfig, VISION), num_labels=LABELS),
    "vit-mae": Backbone(_mae, num_labels=LABELS),
    "bert": Backbone(
        _of(tf.BertForSequenceClassification, tf.BertConfig, TEXT, num_labels=LABELS), "text", post_norm=True
    ),
    "roberta": Backbone(
        _of(tf.RobertaForSequenceClassification, tf.RobertaConfig, TEXT, num_labels=LABELS, max_position_embeddings=40),
        "text",
        post_norm=True,
    ),
    "vilt": Backbone(
        _of(tf.ViltForQuestionAnswering, tf.ViltConfig, {**VISION, "vocab_size": 50}, num_labels=LABELS),
        "both",
        eager=False,
    ),
    "t5": Backbone(
        _of(tf.T5ForConditionalGeneration, tf.T5Config, T5, **T5_IDS),
        "seq2seq",
        generates=True,
        biases=False,
        headless=True,
    ),
    "t5-gated-encoder": Backbone(
        _of(tf.T5EncoderModel, tf.T5Config, T5, feed_forward_proj="gated-gelu", **T5_IDS), "text", LABELS, biases=False
    ),
    "bart": Backbone(
        _of(tf.BartForConditionalGeneration, tf.BartConfig, BART, dropout=0.0, **BART_IDS),
        "seq2seq",
        generates=True,
        headless=True,
        post_norm=True,
    ),
    "llama": Backbone(
        _of(tf.LlamaForCausalLM, tf.LlamaConfig, LLAMA), "text", generates=True, biases=False, headless=True
    ),
    "llama-classifier": Backbone(
        _of(tf.LlamaForSequenceClassification, tf.LlamaConfig, LLAMA, num_labels=LABELS), "text", biases=False
    ),
    "swin": Backbone(_of(tf.SwinForImageClassification, tf.SwinConfig, SWIN, num_labels=LABELS), windows=True),
    "swin-bare": Backbone(_of(tf.SwinModel, tf.SwinConfig, SWIN), num_labels=LABELS, windows=True),
    "timm-swin": Backbone(_timm_swin, eager=False, windows=True),
    "timm": Backbone(_timm(num_classes=LABELS, init_values=0.2), eager=False),
    "timm-avg": Backbone(_timm(num_classes=LABELS, global_pool="avg", reg_tokens=2, qk_norm=True), eager=False),
    "timm-bare": Backbone(_timm(num_classes=0), num_labels=LABELS, eager=False),
    "clip+bert": Backbone(
        _seeing(_of(tf.CLIPVisionModel, tf.CLIPVisionConfig, TOWER), _of(tf.BertModel, tf.BertConfig, TEXT)),
        "both",
        LABELS,
        sees=True,
    ),
    "dinov2+llama": Backbone(
        _seeing(
            _of(tf.Dinov2Model, tf.Dinov2Config, {**DINO, "hidden_size": 10}, mlp_ratio=2),
            _of(tf.LlamaForCausalLM, tf.LlamaConfig, LLAMA),
        ),
        "both",
        generates=True,
        headless=True,
        sees=True,
    ),
    "vit+t5": Backbone(
        _seeing(
            _of(tf.ViTModel, tf.ViTConfig, TOWER),
            _of(tf.T5ForConditionalGeneration, tf.T5Config, T5, feed_forward_proj="gated-gelu", **T5_IDS),
        ),
        "all",
        generates=True,
        headless=True,
        sees=True,
    ),
}


BACKBONES["clip+roberta"] = Backbone(
    _seeing(
        _of(tf.CLIPVisionModel, tf.CLIPVisionConfig, TOWER),
        _of(tf.RobertaModel, tf.RobertaConfig, TEXT, max_position_embeddings=40),
    ),
    "both",
    LABELS,
    sees=True,
)
BACKBONES["siglip+bart"] = Backbone(
    _seeing(
        _of(tf.SiglipVisionModel, tf.SiglipVisionConfig, TOWER),
        _of(tf.BartForConditionalGeneration, tf.BartConfig, BART, dropout=0.0, **BART_IDS),
    ),
    "all",
    generates=True,
    headless=True,
    sees=True,
)

METER = {
    "vision_config": {**VISION, "num_hidden_layers": 2},
    "text_config": {**TEXT, "num_hidden_layers": 2, "max_position_embeddings": 40},
    "cross_modal_config": {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
    },
}
BACKBONES["meter"] = Backbone(
    _of(MeterForQuestionAnswering, MeterConfig, METER, num_labels=LABELS), "both", crosses=True, post_norm=True
)
BACKBONES["meter-bare"] = Backbone(
    _of(MeterModel, MeterConfig, METER), "both", num_labels=LABELS, crosses=True, post_norm=True
)


@dataclass(frozen=True)
class Row:
    """A method as a row: what to pass to `adapt`, and what it promises."""

    method: Any
    identity: bool = False  # leaves the outputs unchanged at the start
    exact: bool = True  # finalize() equals the trained model to 1e-6
    sees: bool = False  # for composed models only


METHODS: dict[str, Row] = {
    "vpt": Row(gm.VPT(prompts=5)),
    "vpt-sequence": Row(gm.VPT(prompts=5, form="sequence")),
    "vpt-shallow": Row(gm.VPT(prompts=4, deep=False)),
    "vpt-cross": Row(gm.VPT(prompts=4, attention="both")),
    "vpt-none": Row(gm.VPT(prompts=0), identity=True),
    "vpt-uneven": Row(gm.VPT(prompts=(3, 0, 2), blocks=(0, 1, 2))),
    "vpt-projected": Row(gm.VPT(prompts=3, project=7, blocks=(0, 2))),
    "vpt-dropout": Row(gm.VPT(prompts=3, dropout=0.3)),
    "linear-probe": Row(gm.LinearProbe(), identity=True),
    "full": Row(gm.FullFineTuning(), identity=True),
    "bitfit": Row(gm.BitFit(), identity=True),
    "houlsby": Row(gm.Adapter(rank=5, placement="houlsby"), identity=True),
    "pfeiffer": Row(gm.Adapter(rank=5, placement="pfeiffer", activation="gelu"), identity=True),
    "adaptformer": Row(gm.Adapter(rank=5, placement="parallel", scale=0.1, dropout=0.1), identity=True),
    "parallel-normed": Row(gm.Adapter(rank=5, placement="parallel-normed"), identity=True),
    "scaled-pa": Row(
        gm.Adapter(rank=5, placement="parallel-attention", scale=4.0, norm=True, blocks=(1,)), identity=True
    ),
    "lora": Row(LoraConfig(r=2, lora_alpha=6), identity=True),
    "lora-roles": Row(LoraConfig(r=2, target_modules=["k", "down"]), identity=True),
    "ia3": Row(IA3Config(), identity=True),
    "oft": Row(OFTConfig(r=0, oft_block_size=2), identity=True),
    "cvpt": Row(gm.CVPT(prompts=3)),
    "cvpt-projected": Row(gm.CVPT(prompts=4, placement=2, form="projected", dropout=0.2)),
    "cvpt-learnt": Row(gm.CVPT(prompts=2, placement=4, learnable=True, start="identity"), identity=True),
    "cvpt-one": Row(gm.CVPT(prompts=1, placement=5, layer_scale=False, start="published")),
    "apt": Row(gm.APT(prompts=5, rank=2)),
    "apt-ffn": Row(gm.APT(prompts=3, rank=0, where="all", activation="softmax", gate="learned", start="declared")),
    "apt-none": Row(gm.APT(prompts=0), identity=True),
    "spt": Row(gm.SPT(prompts=5)),
    "spt-shallow": Row(gm.SPT(prompts=3, deep=False, strategy="mean_pooling", images=2)),
    "das": Row(gm.DAS(skip=(0,), rank=4)),
    "das-attention": Row(gm.DAS(skip=(0, 2), rank=3, modules="attention", init="zero_up", dropout=0.2)),
    "das-router": Row(gm.DAS(skip=(0,), rank=4, form="router", shortcut_rank=6, before_ffn=True)),
    "das-bottleneck": Row(gm.DAS(skip=0, rank=4, form="bottleneck"), identity=True),
    "apt+cvpt+lora": Row([gm.CVPT(prompts=2, placement=2), gm.APT(prompts=4, rank=1), LoraConfig(r=2)]),
    "vpt+lora": Row([gm.VPT(prompts=3), LoraConfig(r=2)]),
    "cvpt+spt+lora": Row([gm.CVPT(prompts=3, placement=1), gm.SPT(prompts=2, strategy="kmeans"), LoraConfig(r=2)]),
    "vpt+das+lora": Row([gm.VPT(prompts=3), gm.DAS(skip=(0,), rank=3), LoraConfig(r=2), gm.CVPT(prompts=2)]),
    "dvp": Row(gm.DVP(block=1, heads=3, rank=2), sees=True),
    "dvp-all": Row(gm.DVP(block=1, query="all", width=8, heads=2, train="prompt"), sees=True),
    "dvp-search": Row(gm.DVP(block=1, heads=3, train="language", super_network=True), sees=True),
    "memvp": Row(gm.MemVP(rank=5, extra_slots=3, vision_rank=2, scale=0.7, visual_scale=0.3), sees=True),
    "visual-tokens": Row(gm.VisualTokens(), sees=True),
    "visual-tokens+lora": Row([gm.VisualTokens(tokens="patches", rank=3, block=1), LoraConfig(r=2)], sees=True),
    "vpt+adapter": Row([gm.VPT(prompts=3, deep=False), gm.VPT(prompts=2, form="sequence"), gm.Adapter(rank=3)]),
}


def unfit(backbone: Backbone, row: Row) -> str | None:
    """Why a pair is not in the table; `test_contract.py` sees that such a pair is refused."""
    if row.sees and not backbone.sees:
        return "does not see"
    if getattr(row.method, "attention", "self") != "self" and not backbone.crosses:
        return "no cross-attention"
    if isinstance(row.method, gm.BitFit) and not backbone.biases:
        return "no bias vectors"
    for method in row.method if isinstance(row.method, list) else [row.method]:
        if backbone.windows and isinstance(method, gm.SPT) and method.deep:
            return "SPT harvests tokens of one width"
        if backbone.windows and isinstance(method, gm.VPT) and method.project is not None:
            return "project=7 maps to one width"
        if backbone.windows and isinstance(method, gm.CVPT) and method.placement == 2:
            return "attends in windows"
        if isinstance(method, gm.DAS) and backbone.windows:
            return "attends in windows"
        if isinstance(method, gm.DAS) and method.form != "parallel" and backbone.post_norm:
            return "a post-norm block"
    nothing = isinstance(row.method, gm.LinearProbe) or (isinstance(row.method, gm.VPT) and row.method.prompts == 0)
    return "nothing would be trained" if nothing and backbone.headless else None


def adapt(backbone: Backbone, row: Row, attention: str = "sdpa") -> gm.Adapted:
    """The pair, adapted and in evaluation mode."""
    torch.manual_seed(3)
    options = {} if backbone.num_labels is None else {"num_labels": backbone.num_labels}
    return prepared(gm.adapt(backbone.model(attention), row.method, **options).eval(), backbone)


def prepared(adapted: gm.Adapted, backbone: Backbone) -> gm.Adapted:
    """The adapter with what it needs to see of the training data."""
    if spt.unharvested(adapted):
        inputs = backbone.inputs()
        spt.harvest(adapted, [{k: v[i] for k, v in inputs.items()} for i in range(3)], batch_size=2)
    return adapted


def disturb(adapted: gm.Adapted) -> gm.Adapted:
    """As after training: everything trainable moves, so that no zero start hides a mistake."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return adapted


def run(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits, or states where there is no head. ViLT and MAE shuffle patches: the seed makes runs comparable."""
    torch.manual_seed(5)
    if "timm" in type(model).__module__:
        return model(inputs["pixel_values"])
    output = model(**inputs)
    if isinstance(output, Tensor):
        return output
    return output.logits if "logits" in output else output.last_hidden_state
