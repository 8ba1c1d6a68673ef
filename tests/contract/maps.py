"""Encoders whose blocks cut windows out of a map by themselves: SAM, SAM 2, Hiera; rows of the contract, as in `backbones.py`.

Maps of 8 x 8, windows of 3 (the map is padded) or units of 4 x 4, blocks that attend to all, and blocks that pool.
"""

from __future__ import annotations

from typing import Any

import timm.models.hiera
import timm.models.vision_transformer_sam
import transformers as tf
from torch import nn
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

from .backbone import LABELS, Backbone, of

BY_HAND = "blocks on maps are computed by hand in tests/anatomy/test_maps.py"
FIXED: dict[str, Any] = {"windows": True, "grows": False, "masks": ("none",)}
ONE = {**FIXED, "flat": False, "stages": False}
SAM = {
    "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_dim": 20, "image_size": 16, "patch_size": 2,
    "window_size": 3, "global_attn_indexes": [1], "output_channels": 10,
}  # fmt: skip
HIERA = {
    "embed_dim": 12, "image_size": [16, 16], "patch_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1],
    "depths": [2, 3, 1], "num_heads": [2, 3, 4], "num_query_pool": 2, "masked_unit_size": [4, 4], "mlp_ratio": 2.0,
    "masked_unit_attention": [True, True, False],
}  # fmt: skip
SAM2 = {
    "hidden_size": 12, "num_attention_heads": 2, "image_size": [16, 16], "patch_kernel_size": [3, 3], "patch_stride": [2, 2],
    "patch_padding": [1, 1], "blocks_per_stage": [2, 3, 1, 1], "embed_dim_per_stage": [12, 24, 48, 96], "mlp_ratio": 2.0,
    "num_attention_heads_per_stage": [2, 3, 4, 6], "window_size_per_stage": [4, 3, 2, 1], "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [2, 2],
}  # fmt: skip


def _timm_sam() -> nn.Module:
    return timm.models.vision_transformer_sam.VisionTransformerSAM(
        img_size=16, patch_size=2, embed_dim=12, depth=3, num_heads=2, mlp_ratio=2, window_size=3, global_attn_indexes=(1,),
        use_rel_pos=True, qk_norm=True, init_values=0.3, neck_chans=10, num_classes=LABELS,
    )  # fmt: skip


def _timm_hiera() -> nn.Module:
    return timm.models.hiera.Hiera(
        img_size=(16, 16), embed_dim=12, num_heads=2, stages=(2, 3, 1), q_pool=2, mask_unit_size=(4, 4), mlp_ratio=2,
        mask_unit_attn=(True, True, False), patch_kernel=(3, 3), patch_stride=(2, 2), patch_padding=(1, 1), init_values=0.3,
        num_classes=LABELS,
    )  # fmt: skip


MAPS: dict[str, Backbone] = {
    "sam": Backbone(of(tf.SamVisionModel, tf.SamVisionConfig, SAM), BY_HAND, num_labels=LABELS, pickles=False, **ONE),
    "sam-hq": Backbone(
        of(tf.SamHQVisionModel, tf.SamHQVisionConfig, SAM),
        BY_HAND,
        num_labels=LABELS,
        like="sam",
        pickles=False,
        **ONE,
    ),
    "timm-sam": Backbone(_timm_sam, BY_HAND, eager=False, projected=False, like="sam", **ONE),
    "hiera": Backbone(
        of(tf.HieraForImageClassification, tf.HieraConfig, HIERA, num_labels=LABELS), BY_HAND, eager=False, **FIXED
    ),
    "timm-hiera": Backbone(_timm_hiera, BY_HAND, eager=False, like="hiera", **FIXED),
    "sam2": Backbone(
        of(Sam2HieraDetModel, Sam2HieraDetConfig, SAM2),
        BY_HAND,
        num_labels=LABELS,
        pickles=False,
        runs_again=False,
        flat=False,
        **FIXED,
    ),
}
"""Encoders on maps."""
