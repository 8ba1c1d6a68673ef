"""The backbones of the last years, and older ones that share their descriptions: rows of the contract, as in `backbones.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import timm
import torch
import transformers as tf
from torch import Tensor, nn

from .. import twins
from .backbone import (
    BART,
    BART_IDS,
    DINO,
    DISTANCES,
    HALVES,
    LABELS,
    LLAMA,
    T5,
    T5_IDS,
    TALKING,
    TEXT,
    VISION,
    Backbone,
    bare,
    of,
    vision,
)  # fmt: skip


def _reader(
    model: Any, config: Any, kind: twins.Names | str, like: str | None, values: dict[str, Any], **more: Any
) -> Backbone:
    """A text encoder without a head."""
    facts: dict[str, Any] = {"reads": "text", "num_labels": LABELS, "like": like}
    if isinstance(kind, str):
        return Backbone(of(model, config, values, **more), kind, **facts)
    return Backbone(of(model, config, values, **more), {"text": kind}, **facts, post_norm=kind.post)


def _translator(
    model: Any, config: Any, kinds: tuple[twins.Names, twins.Names], like: str | None, **more: Any
) -> Backbone:
    """Encoder and decoder of BART's making."""
    return Backbone(
        of(model, config, BART, dropout=0.0, **{**BART_IDS, **more}), dict(zip(("encoder", "decoder"), kinds, strict=True)),
        reads="seq2seq", generates=True, headless=True, post_norm=kinds[0].post, like=like,
    )  # fmt: skip


FACTS = ("grows", "damps_apart", "post_norm", "rotary", "classed", "counted", "rounds")


def _timm_of(name: str, kind: twins.Names | str, like: str | None, **more: Any) -> Backbone:
    """A classifier of timm's, three heads of an even width."""
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2, "num_classes": LABELS}
    facts = {name: more.pop(name) for name in (*FACTS, "masks") if name in more}

    def build() -> nn.Module:
        return timm.create_model(name, **{**sizes, **more})

    return Backbone(build, kind if isinstance(kind, str) else {"vision": kind}, eager=False, like=like, **facts)


def _llava(**options: Any) -> nn.Module:
    """Its tower's fourth block, the last, is not read."""
    vision, language = tf.CLIPVisionConfig(**{**VISION, "num_hidden_layers": 4}), tf.LlamaConfig(**LLAMA)
    options |= {"image_token_index": 48, "vision_feature_layer": -2, "image_seq_length": 16}
    return tf.LlavaForConditionalGeneration(tf.LlavaConfig(vision_config=vision, text_config=language, **options))


def _blip2(**options: Any) -> nn.Module:
    """A tower, a Q-Former of two blocks, of which one reads the image, and OPT."""
    asks = {**TEXT, "num_hidden_layers": 2, "encoder_hidden_size": 12}
    language = tf.OPTConfig(**LLAMA, ffn_dim=20, word_embed_proj_dim=12, dropout=0.0, max_position_embeddings=40)
    config = tf.Blip2Config(
        vision_config=VISION, qformer_config=asks, text_config=language.to_dict(), num_query_tokens=4, image_token_index=48,
        **options,
    )  # fmt: skip
    return tf.Blip2ForConditionalGeneration(config)


def _blip(**options: Any) -> nn.Module:
    """A tower, and a decoder that reads it in each of its blocks."""
    return tf.BlipForConditionalGeneration(tf.BlipConfig(vision_config=VISION, text_config=BLIP_TEXT, **options))


def _paligemma(**options: Any) -> nn.Module:
    """A tower without a class token, and Gemma."""
    vision, language = {**VISION, "model_type": "siglip_vision_model"}, {**LLAMA, "head_dim": 6, "model_type": "gemma"}
    more = {"image_token_index": 48, "projection_dim": 12, **options}
    return tf.PaliGemmaForConditionalGeneration(tf.PaliGemmaConfig(vision_config=vision, text_config=language, **more))


def _idefics3(**options: Any) -> nn.Module:
    """Four tokens of the tower become one of the text."""
    config = tf.Idefics3Config(
        vision_config=VISION, text_config=tf.LlamaConfig(**LLAMA), image_token_id=48, scale_factor=2, **options
    )
    return tf.Idefics3ForConditionalGeneration(config)


def _internvl(**options: Any) -> nn.Module:
    """InternViT, four tokens of which become one of Qwen's text."""
    vision = {**VISION, "image_size": [16, 16], "patch_size": [4, 4], "use_mean_pooling": False}
    language = tf.Qwen2Config(**LLAMA).to_dict()
    config = tf.InternVLConfig(
        vision_config=vision, text_config=language, image_token_id=48, image_seq_length=4, **options
    )
    return tf.InternVLForConditionalGeneration(config)


def _qwen_vl(kind: str, vision: dict[str, Any], language: dict[str, Any], **options: Any) -> nn.Module:
    """Patches of two frames as rows, four of which become one token of the text."""
    rotary = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 1]}
    tokens = {"image_token_id": 48, "video_token_id": 47, "vision_start_token_id": 46, "vision_end_token_id": 45}
    config = getattr(tf, f"{kind}Config")(
        text_config={**LLAMA, **language, "rope_parameters": rotary},
        vision_config={"depth": 3, "num_heads": 3, "hidden_size": 12, "patch_size": 4, **vision},
        **tokens,
        **options,
    )
    return getattr(tf, f"{kind}ForConditionalGeneration")(config)


def _qwen2_vl(**options: Any) -> nn.Module:
    return _qwen_vl("Qwen2VL", {"embed_dim": 12, "mlp_ratio": 2}, {}, **options)


def _qwen25_vl(**options: Any) -> nn.Module:
    """Windows of 2 x 2 patches in all blocks but the second."""
    vision = {"out_hidden_size": 12, "intermediate_size": 20, "fullatt_block_indexes": [1], "window_size": 8}
    return _qwen_vl("Qwen2_5_VL", vision, {}, **options)


def _qwen3_vl(**options: Any) -> nn.Module:
    """What its tower's first block gives is added to the text behind the first block there."""
    vision = {
        "out_hidden_size": 12, "intermediate_size": 20, "deepstack_visual_indexes": [0], "num_position_embeddings": 16
    }  # fmt: skip
    return _qwen_vl("Qwen3VL", vision, {"head_dim": 6}, **options)


def _mistral3(**options: Any) -> nn.Module:
    """Patches of all images in one sequence, four of which become one token of the text."""
    vision, language = tf.PixtralVisionConfig(**VISION), tf.MistralConfig(**LLAMA)
    options = {"image_token_index": 48, "spatial_merge_size": 2, "vision_feature_layer": -1, **options}
    return tf.Mistral3ForConditionalGeneration(tf.Mistral3Config(vision_config=vision, text_config=language, **options))


def _sized(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Images of 16 x 16, as one says to Pixtral."""
    return {**inputs, "image_sizes": torch.tensor([[16, 16]]).repeat(len(inputs["input_ids"]), 1)}


def _patches(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """NaFlex: patches as rows, of images of 3 x 4, 4 x 3 and 2 x 6."""
    rows = torch.randn(3, 12, 48, generator=torch.Generator().manual_seed(6))[: len(inputs["pixel_values"])]
    grids = torch.tensor([[3, 4], [4, 3], [2, 6]])[: len(rows)]
    mask = (torch.arange(12) < grids.prod(dim=1, keepdim=True)).long()
    return {"pixel_values": rows, "pixel_attention_mask": mask, "spatial_shapes": grids}


def _as_tiles(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """One tile an image."""
    return {**inputs, "pixel_values": inputs["pixel_values"][:, None]}


def _as_video(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two frames, the second darker."""
    return {"pixel_values": torch.stack([inputs["pixel_values"], inputs["pixel_values"] / 2], dim=1)}


def _as_clip(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Four frames, each darker than the one before it."""
    pixels = inputs["pixel_values"]
    return {"pixel_values_videos": torch.stack([pixels / k for k in (1, 2, 3, 4)], dim=1)}


def _with_an_image(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a tower makes of an image, five states."""
    states = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(6))
    return {**inputs, "encoder_hidden_states": states[: len(inputs["input_ids"])]}


def _told_apart(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Which tokens are text."""
    return {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}


def _as_frames(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Patches of two frames as rows, of images of 4 x 4."""
    count = len(inputs["input_ids"])
    rows = torch.randn(3, 16, 96, generator=torch.Generator().manual_seed(6))[:count]
    kinds = (inputs["input_ids"] == 48).int()
    grids = torch.tensor([[1, 4, 4]]).repeat(count, 1)
    return {**inputs, "pixel_values": rows, "image_grid_thw": grids, "mm_token_type_ids": kinds}


DINOV3 = {**VISION, "num_attention_heads": 3, "num_register_tokens": 2, "layerscale_value": 0.3}
BEIT = {**VISION, "layer_scale_init_value": 0.3, "use_relative_position_bias": True, "drop_path_rate": 0.0}
NAFLEX = {**{k: v for k, v in VISION.items() if k != "image_size"}, "num_patches": 16}
TEXTS = {**TEXT, "max_position_embeddings": 40, "pad_token_id": 1}
CLIPS = {
    "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 4, "crop_size": 16,
    "frames_per_clip": 4, "tubelet_size": 2, "pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 2,
    "num_pooler_layers": 2,
}  # fmt: skip
BLIP_TEXT = {
    **TEXT, "encoder_hidden_size": 12, "max_position_embeddings": 40, "pad_token_id": 1, "bos_token_id": 2, "sep_token_id": 3,
    "eos_token_id": 3,
}  # fmt: skip
RADIO = {name: value for name, value in DINO.items() if name != "image_size"}
COUNTED = "its places are counted inside of its attention: it is computed by hand in tests/anatomy/test_vjepa2.py"
IN_SUM = {"damps_apart": False}
FIXED = {"grows": False}
PLACES = {**FIXED, "keeps_places": True}

NEWER: dict[str, Backbone] = {
    "modernbert": replace(
        _reader(
            *(tf.ModernBertModel, tf.ModernBertConfig, twins.MODERNBERT, "phi3", TEXTS),
            bos_token_id=2,
            eos_token_id=3,
            cls_token_id=2,
            sep_token_id=3,
            local_attention=6,
        ),
        biases=False,
    ),
    "deberta": replace(
        _reader(
            *(tf.DebertaV2Model, tf.DebertaV2Config, DISTANCES, "timm-beit", TEXTS),
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=4,
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            position_biased_input=False,
        ),
        eager=False,
        grows=False,
        post_norm=True,
    ),
    "llava": Backbone(
        _llava,
        HALVES,
        reads="both",
        headless=True,
        looks=True,
        biases=True,
        images_in_text=16,
        pickles=False,
        tapped=True,
        sampled=False,
        like="clip-vision",
    ),
    "paligemma": Backbone(
        _paligemma,
        HALVES,
        reads="both",
        headless=True,
        looks=True,
        classed=False,
        images_in_text=16,
        gives=_told_apart,
        counted=True,
        sampled=False,
        like="siglip",
    ),
    "idefics3": Backbone(
        _idefics3,
        HALVES,
        reads="both",
        headless=True,
        looks=True,
        classed=False,
        images_in_text=4,
        gives=_as_tiles,
        counted=True,
        sampled=False,
        like="siglip",
    ),
    "internvl": Backbone(
        _internvl,
        HALVES,
        reads="both",
        headless=True,
        looks=True,
        images_in_text=4,
        counted=True,
        pickles=False,
        damps_apart=False,
        sampled=False,
        like="intern-vit",
    ),
    "qwen2-vl": Backbone(
        _qwen2_vl,
        HALVES,
        reads="both",
        headless=True,
        classed=False,
        grows=False,
        images_in_text=4,
        gives=_as_frames,
        looks=True,
        packed=True,
        counted=True,
        sampled=False,
        like="timm-beit",
    ),
    **{
        name: Backbone(
            build,
            HALVES,
            reads="both",
            headless=True,
            classed=False,
            grows=False,
            images_in_text=4,
            gives=_as_frames,
            looks=True,
            packed=True,
            counted=True,
            sampled=False,
            like="qwen2-vl",
        )
        for name, build in (("qwen2.5-vl", _qwen25_vl), ("qwen3-vl", _qwen3_vl))
    },
    "mistral3": Backbone(
        _mistral3,
        HALVES,
        reads="both",
        headless=True,
        classed=False,
        grows=False,
        images_in_text=4,
        gives=_sized,
        counted=True,
        biases=False,
        pickles=False,
        looks=True,
        packed=True,
        sampled=False,
        like="qwen2-vl",
    ),
    "siglip2": replace(
        bare(tf.Siglip2VisionModel, tf.Siglip2VisionConfig, twins.SIGLIP, NAFLEX),
        gives=_patches,
        looks=True,
        counted=True,
        classed=False,
        sampled=False,
        like="siglip",
    ),
    "blip2": Backbone(_blip2, HALVES, reads="both", headless=True, images_in_text=4, like="clip-vision"),
    "blip-captions": Backbone(_blip, HALVES, reads="both", headless=True, eager=False, like="blip"),
    "blip-text": Backbone(
        of(tf.BlipTextLMHeadModel, tf.BlipTextConfig, BLIP_TEXT),
        {"decoder": replace(twins.METER, heads=2)},
        reads="text",
        causal=True,
        generates=True,
        headless=True,
        eager=False,
        masks=("additive",),
        crosses=True,
        post_norm=True,
        gives=_with_an_image,
        runs_again=False,
        like="bart",
    ),
    "visual-bert": Backbone(
        of(tf.VisualBertModel, tf.VisualBertConfig, TEXTS),
        {"fusion": twins.BERT},
        reads="text",
        num_labels=LABELS,
        eager=False,
        post_norm=True,
        masks=("additive", "none"),
        like="vilt",
    ),
    "git": Backbone(
        of(tf.GitForCausalLM, tf.GitConfig, {**TEXT, "max_position_embeddings": 40}, vision_config=VISION),
        HALVES,
        reads="both",
        headless=True,
        eager=False,
        runs_again=False,
        like="vilt",
    ),
    "flava-text": replace(
        _reader(tf.FlavaTextModel, tf.FlavaTextConfig, twins.VILT, "vilt", TEXTS),
        eager=False,
        masks=("additive", "none"),
    ),
    "flava-image": replace(
        bare(tf.FlavaImageModel, tf.FlavaImageConfig, twins.VILT), eager=False, masks=("additive", "none"), like="vilt"
    ),
    "mpnet": replace(
        _reader(tf.MPNetModel, tf.MPNetConfig, twins.MPNET, "visual-bert", TEXTS),
        eager=False,
        runs_again=False,
        masks=("additive", "none"),
    ),
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
    "mbart": _translator(tf.MBartForConditionalGeneration, tf.MBartConfig, (twins.MBART, twins.MBART_DECODER), "t5"),
    "pegasus": _translator(
        tf.PegasusForConditionalGeneration, tf.PegasusConfig, (twins.MBART, twins.MBART_DECODER), "mbart"
    ),
    "marian": _translator(tf.MarianMTModel, tf.MarianConfig, (twins.BART, twins.BART_DECODER), "bart"),
    "t5-mt5": Backbone(
        of(tf.MT5ForConditionalGeneration, tf.MT5Config, T5, **T5_IDS),
        {"encoder": twins.T5_GATED, "decoder": replace(twins.UMT5_DECODER, bias=None)},
        reads="seq2seq",
        generates=True,
        biases=False,
        headless=True,
        like="t5",
    ),
    "umt5": Backbone(
        of(tf.UMT5ForConditionalGeneration, tf.UMT5Config, {**T5, "d_kv": 6}, **T5_IDS),
        {"encoder": twins.UMT5, "decoder": twins.UMT5_DECODER},
        reads="seq2seq",
        generates=True,
        biases=False,
        headless=True,
        grows=False,
        like="beit",
    ),
    "vit-msn": replace(vision(tf.ViTMSNForImageClassification, tf.ViTMSNConfig, twins.VIT), like="vit"),
    "ijepa": replace(vision(tf.IJepaForImageClassification, tf.IJepaConfig, twins.VIT), like="vit", classed=False),
    "tipsv2": replace(
        bare(tf.Tipsv2VisionModel, tf.Tipsv2VisionConfig, twins.DINO, DINO, mlp_ratio=2, num_register_tokens=1),
        like="dinov2-registers",
    ),
    "owlvit": replace(bare(tf.OwlViTVisionModel, tf.OwlViTVisionConfig, twins.CLIP), like="clip-vision"),
    "altclip": replace(bare(tf.AltCLIPVisionModel, tf.AltCLIPVisionConfig, twins.CLIP), like="clip-vision"),
    "clipseg": replace(bare(tf.CLIPSegVisionModel, tf.CLIPSegVisionConfig, twins.CLIP), like="clip-vision"),
    "blip": replace(
        bare(tf.BlipVisionModel, tf.BlipVisionConfig, twins.BLIP), like="clip-vision", eager=False, masks=("none",)
    ),
    "metaclip2": replace(bare(tf.MetaClip2VisionModel, tf.MetaClip2VisionConfig, twins.CLIP), like="clip-vision"),
    "dinov3": replace(bare(tf.DINOv3ViTModel, tf.DINOv3ViTConfig, twins.DINOV3, DINOV3), rotary=True),
    "dinov3-gated": replace(
        bare(tf.DINOv3ViTModel, tf.DINOv3ViTConfig, twins.DINOV3_GATED, DINOV3, use_gated_mlp=True, hidden_act="silu"),
        like="dinov3",
        rotary=True,
    ),
    "beit": replace(
        vision(tf.BeitForImageClassification, tf.BeitConfig, twins.BEIT, BEIT),
        **PLACES,
        **IN_SUM,
        masks=("additive", "none"),
    ),
    "data2vec": replace(
        vision(tf.Data2VecVisionForImageClassification, tf.Data2VecVisionConfig, twins.DATA2VEC, BEIT),
        **PLACES,
        **IN_SUM,
        masks=("none",),
        like="beit",
    ),
    "aimv2": replace(bare(tf.Aimv2VisionModel, tf.Aimv2VisionConfig, twins.AIMV2), classed=False, like="siglip"),
    "intern-vit": replace(
        bare(
            *(tf.InternVLVisionModel, tf.InternVLVisionConfig, twins.INTERN),
            layer_scale_init_value=0.3,
            use_qk_norm=True,
            use_mean_pooling=False,
        ),
        **IN_SUM,
        projected=False,
        masks=("none",),
        like="timm-eva",
    ),
    "videomae": replace(
        bare(
            *(tf.VideoMAEModel, tf.VideoMAEConfig, twins.VILT),
            use_mean_pooling=False,
            num_frames=2,
        ),
        classed=False,
        gives=_as_video,
        keeps_places=True,
        masks=("none",),
        sampled=False,
        like="siglip",
    ),
    "dpt": replace(
        bare(tf.DPTModel, tf.DPTConfig, twins.VILT, is_hybrid=False),
        eager=False,
        masks=("none",),
        like="clip-vision",
    ),
    "vjepa2": Backbone(
        of(tf.VJEPA2ForVideoClassification, tf.VJEPA2Config, CLIPS, num_labels=LABELS),
        COUNTED,
        **FIXED,
        classed=False,
        gives=_as_clip,
        masks=("none",),
        sampled=False,
        like="timm-beit",
    ),
    "radio": replace(
        bare(
            tf.RadioModel,
            tf.RadioConfig,
            twins.DINO,
            RADIO,
            image_size=16,
            max_img_size=32,
            num_registers=2,
            mlp_ratio=2.0,
        ),
        like="dinov2-registers",
    ),
    "clipseg-text": replace(
        _reader(
            tf.CLIPSegTextModel, tf.CLIPSegTextConfig, twins.CLIP, "clip-text", TEXTS, bos_token_id=0, eos_token_id=49
        ),
        causal=True,
    ),
    "tipsv2-text": replace(
        _reader(tf.Tipsv2TextModel, tf.Tipsv2TextConfig, twins.TIPS_TEXT, "clip-text", TEXTS), counted=True
    ),
    "altclip-text": _reader(tf.AltCLIPTextModel, tf.AltCLIPTextConfig, twins.BERT, "bert", TEXTS, project_dim=12),
    "chinese-clip-text": _reader(tf.ChineseCLIPTextModel, tf.ChineseCLIPTextConfig, twins.BERT, "bert", TEXTS),
    "xlm-roberta-xl": _reader(tf.XLMRobertaXLModel, tf.XLMRobertaXLConfig, twins.XLM_R_XL, "clip-text", TEXTS),
    "roberta-prelayernorm": _reader(
        *(tf.RobertaPreLayerNormModel, tf.RobertaPreLayerNormConfig, twins.ROBERTA_PRE, "clip-text", TEXTS)
    ),
    "rembert": replace(
        _reader(tf.RemBertModel, tf.RemBertConfig, twins.BERT, "visual-bert", TEXTS, input_embedding_size=9),
        eager=False,
        masks=("additive", "none"),
    ),
    "megatron-bert": replace(
        _reader(tf.MegatronBertModel, tf.MegatronBertConfig, twins.MEGATRON, "visual-bert", TEXTS),
        eager=False,
        masks=("additive", "none"),
    ),
    "eurobert": replace(
        _reader(tf.EuroBertModel, tf.EuroBertConfig, twins.LLAMA, "modernbert", {**TEXTS, "num_key_value_heads": 1}),
        biases=False,
    ),
    "nomic-bert": _reader(tf.NomicBertModel, tf.NomicBertConfig, twins.NOMIC, "bert", TEXTS),
    "gte": _reader(tf.GteModel, tf.GteConfig, twins.GTE, "bert", TEXTS),
    "jina-embeddings-v3": _reader(tf.JinaEmbeddingsV3Model, tf.JinaEmbeddingsV3Config, twins.JINA, "bert", TEXTS),
    "groupvit-text": replace(
        _reader(
            tf.GroupViTTextModel, tf.GroupViTTextConfig, twins.CLIP, "clip-text", TEXTS, bos_token_id=0, eos_token_id=49
        ),
        eager=False,
        causal=True,
        masks=("additive",),
    ),
    "timm-eva": _timm_of(
        "eva02_tiny_patch14_224", twins.EVA, None, num_heads=3, init_values=0.3, swiglu_mlp=False, rotary=True, **IN_SUM
    ),
    "timm-eva-gated": _timm_of("eva02_tiny_patch14_224", twins.EVA_GATED, "timm-eva", num_heads=3, rotary=True),
    "deepseek-vit": _timm_of(
        *("deepseek_vit_412m", twins.DEEPSEEK_VIT, "timm-eva"),
        num_heads=1,
        classed=False,
        rotary=True,
        counted=True,
        rounds=True,
    ),
    "timm-beit": _timm_of("beit_base_patch16_224", twins.TIMM_BEIT, "beit", **FIXED, **IN_SUM, masks=("none",)),
    "timm-behind": _timm_of("vit_base_patch16_rpn_224", twins.TIMM_BEHIND, None, post_norm=True),
    "timm-cait": _timm_of(
        *("cait_xxs24_224", TALKING, "timm-eva"),
        init_values=0.3,
        mlp_ratio=2,
        depth_token_only=2,
        classed=False,
        counted=True,
        **IN_SUM,
    ),
    "timm-relpos": _timm_of(
        *("vit_relpos_small_patch16_224", twins.TIMM_RELPOS, "timm-beit"), rel_pos_type="bias", **FIXED, masks=("none",)
    ),
}
"""Backbones of the last years, and older ones that share their descriptions."""
