"""The vision backbones that users of this field bring, tiny and with random weights: 56 of timm, transformers and torchvision."""

# ruff: noqa: C408
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torchvision
import transformers as tf
from torch import nn

SIZES = dict(
    hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=8
)


def of_timm(name: str, **more: Any) -> Callable[[], nn.Module]:
    """Builds a model of timm's at a small size."""
    sizes: dict[str, Any] = dict(img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=4)
    return lambda: timm.create_model(name, pretrained=False, **{**sizes, **more})


VISION: dict[str, Callable[[], nn.Module]] = {
    "timm vit_tiny (cls)": of_timm("vit_tiny_patch16_224"),
    "timm vit num_classes=0": of_timm("vit_tiny_patch16_224", num_classes=0),
    "timm vit global_pool='' num_classes=0": of_timm("vit_tiny_patch16_224", num_classes=0, global_pool=""),
    "timm vit dynamic_img_size": of_timm("vit_tiny_patch16_224", dynamic_img_size=True),
    "timm vit gap class_token=False": of_timm("vit_base_patch16_siglip_gap_224", patch_size=8),
    "timm siglip map pool": of_timm("vit_base_patch16_siglip_224"),
    "timm siglip2 map (num_classes=0)": of_timm("vit_base_patch16_siglip_224", num_classes=0),
    "timm reg4 gap (mediumd reg4)": of_timm("vit_mediumd_patch16_reg4_gap_256"),
    "timm dinov2 reg4": of_timm("vit_small_patch14_reg4_dinov2"),
    "timm giant dinov2 swiglu": of_timm("vit_giant_patch14_dinov2", mlp_ratio=4.0),
    "timm deit3": of_timm("deit3_small_patch16_224"),
    "timm deit distilled": of_timm("deit_tiny_distilled_patch16_224"),
    "timm clip norm_pre": of_timm("vit_base_patch32_clip_224"),
    "timm clip quickgelu": of_timm("vit_base_patch32_clip_quickgelu_224"),
    "timm rpn ResPostBlock": of_timm("vit_base_patch16_rpn_224"),
    "timm xp ParallelScaling": of_timm("vit_base_patch16_xp_224"),
    "timm relpos": of_timm("vit_relpos_small_patch16_224"),
    "timm srelpos": of_timm("vit_srelpos_small_patch16_224"),
    "timm vit r26 hybrid": lambda: timm.create_model(
        "vit_tiny_r_s16_p8_224", pretrained=False, img_size=32, embed_dim=16, depth=3, num_heads=2, num_classes=4
    ),
    "timm flexivit": of_timm("flexivit_small"),
    "timm beit": of_timm("beit_base_patch16_224"),
    "timm beitv2": of_timm("beitv2_base_patch16_224"),
    "timm eva02": of_timm("eva02_tiny_patch14_224"),
    "timm dinov3 vit": of_timm("vit_small_patch16_dinov3"),
    "timm vit rope": of_timm("vit_small_patch16_rope_224"),
    "timm PE core": of_timm("vit_pe_core_tiny_patch16_384"),
    "timm naflexvit": lambda: timm.create_model(
        "naflexvit_base_patch16_gap", pretrained=False, embed_dim=16, depth=3, num_heads=2, patch_size=8, num_classes=4
    ),
    "timm cait": of_timm("cait_xxs24_224"),
    "timm xcit": of_timm("xcit_nano_12_p8_224", patch_size=8),
    "timm volo": lambda: timm.create_model("volo_d1_224", pretrained=False, num_classes=4),
    "timm tiny_vit": lambda: timm.create_model("tiny_vit_5m_224", pretrained=False, num_classes=4),
    "timm swinv2": lambda: timm.create_model(
        "swinv2_tiny_window8_256",
        pretrained=False,
        num_classes=4,
        img_size=64,
        embed_dim=16,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 2, 2),
        window_size=4,
    ),
    "timm swin_s3": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        pretrained=False,
        num_classes=4,
        img_size=32,
        patch_size=2,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 2),
        window_size=4,
    ),
    "timm hiera": lambda: timm.create_model("hiera_tiny_224", pretrained=False, num_classes=4),
    "timm samvit": lambda: timm.create_model(
        "samvit_base_patch16_224",
        pretrained=False,
        img_size=32,
        patch_size=8,
        embed_dim=16,
        depth=3,
        num_heads=2,
        num_classes=4,
    ),
    "timm convnext": lambda: timm.create_model("convnext_atto", pretrained=False, num_classes=4),
    "timm features_only": lambda: timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, features_only=True, img_size=32
    ),
    "hf ViT": lambda: tf.ViTForImageClassification(tf.ViTConfig(**SIZES, num_labels=4)),
    "hf ViTMSN": lambda: tf.ViTMSNForImageClassification(tf.ViTMSNConfig(**SIZES, num_labels=4)),
    "hf IJEPA": lambda: tf.IJepaForImageClassification(tf.IJepaConfig(**SIZES, num_labels=4)),
    "hf BEiT": lambda: tf.BeitForImageClassification(tf.BeitConfig(**SIZES, num_labels=4, use_mean_pooling=True)),
    "hf Data2VecVision": lambda: tf.Data2VecVisionForImageClassification(
        tf.Data2VecVisionConfig(**SIZES, num_labels=4)
    ),
    "hf DINOv2+reg": lambda: tf.Dinov2WithRegistersForImageClassification(
        tf.Dinov2WithRegistersConfig(**{**SIZES, "image_size": 32}, num_labels=4, num_register_tokens=2, mlp_ratio=2)
    ),
    "hf DINOv3ViT": lambda: tf.DINOv3ViTModel(tf.DINOv3ViTConfig(**SIZES, num_register_tokens=2)),
    "hf DeiT": lambda: tf.DeiTForImageClassification(tf.DeiTConfig(**SIZES, num_labels=4)),
    "hf DeiT teacher": lambda: tf.DeiTForImageClassificationWithTeacher(tf.DeiTConfig(**SIZES, num_labels=4)),
    "hf SigLIP cls": lambda: tf.SiglipForImageClassification(
        tf.SiglipConfig(
            vision_config=SIZES,
            text_config=dict(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
            ),
            num_labels=4,
        )
    ),
    "hf SigLIP2 vision": lambda: tf.Siglip2VisionModel(
        tf.Siglip2VisionConfig(**{k: v for k, v in SIZES.items() if k != "image_size"}, num_patches=16)
    ),
    "hf CLIP cls": lambda: tf.CLIPForImageClassification(
        tf.CLIPConfig(
            vision_config=SIZES,
            text_config=dict(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
            ),
            num_labels=4,
        )
    ),
    "hf CLIP vision proj": lambda: tf.CLIPVisionModelWithProjection(tf.CLIPVisionConfig(**SIZES, projection_dim=10)),
    "hf Swin": lambda: tf.SwinForImageClassification(
        tf.SwinConfig(
            image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4, num_labels=4
        )
    ),
    "hf Swinv2": lambda: tf.Swinv2ForImageClassification(
        tf.Swinv2Config(
            image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4, num_labels=4
        )
    ),
    "hf PVT": lambda: tf.PvtForImageClassification(
        tf.PvtConfig(
            image_size=32,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
            num_labels=4,
        )
    ),
    "hf SegFormer": lambda: tf.SegformerForImageClassification(
        tf.SegformerConfig(
            hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], num_labels=4
        )
    ),
    "hf Hiera": lambda: tf.HieraForImageClassification(
        tf.HieraConfig(
            image_size=[32, 32],
            embed_dim=8,
            depths=[1, 1, 1],
            num_heads=[1, 1, 2],
            patch_size=[3, 3],
            patch_stride=[4, 4],
            patch_padding=[1, 1],
            query_stride=[2, 2],
            masked_unit_size=[4, 4],
            num_query_pool=2,
            num_labels=4,
        )
    ),
    "hf VideoMAE": lambda: tf.VideoMAEForVideoClassification(tf.VideoMAEConfig(**SIZES, num_frames=4, num_labels=4)),
    "hf ViTMAE": lambda: tf.ViTMAEModel(tf.ViTMAEConfig(**SIZES, mask_ratio=0.0)),
    "hf ViTMAE pretrain": lambda: tf.ViTMAEForPreTraining(tf.ViTMAEConfig(**SIZES)),
    "hf TimmWrapper": lambda: tf.TimmWrapperForImageClassification(
        tf.TimmWrapperConfig(
            architecture="vit_tiny_patch16_224",
            num_labels=4,
            model_args=dict(img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2),
        )
    ),
    "torchvision vit_b_16": lambda: torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=4
    ),
}
