"""METER: two uni-modal encoders and a stack of co-attention layers, composed of transformers' own parts.

Z.-Y. Dou et al.: An Empirical Study of Training End-to-End Vision-and-Language Transformers, CVPR 2022, arXiv 2111.02387; the
variant of CLIP-ViT-B/16 and RoBERTa-base.

    x = T_x RoBERTa(ids) + type[0]        y = T_y ln_post(CLIP(image)) + type[1]
    (x, y) <- (TextLayer_l(x; y), ImageLayer_l(y; x))        l = 1..L, both read the old x and y
    cls = [tanh(W_x x_0 + b_x); tanh(W_y y_0 + b_y)]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, CLIPVisionConfig, CLIPVisionModel, PreTrainedModel, RobertaConfig, RobertaModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import BertAttention, BertIntermediate, BertOutput, BertPooler
from transformers.utils.generic import ModelOutput

VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 11, "num_attention_heads": 12, "patch_size": 16,
    "image_size": 288, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
TEXT = {
    "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1,
    "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
FUSION = {
    "hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
}  # fmt: skip


class MeterConfig(PreTrainedConfig):
    """Sizes of a METER; what is left out is as in the published base model at 288 pixels.

    Args:
        vision_config: of a CLIPVisionModel, as values. The published one is CLIP-ViT-B/16 without its last block: 11 blocks.
        text_config: of a RobertaModel. RoBERTa-base.
        cross_modal_config: of the co-attention layers, as those of a BERT: hidden_size, num_hidden_layers (pairs), ...
            (transformers keeps something else under the name fusion_config).
        image_types: rows of the modality table beside the text's: 1, or 2 for tasks with two images (NLVR2).
        kwargs: of every configuration (num_labels, id2label, ...).
    """

    model_type = "meter"
    sub_configs = {"vision_config": CLIPVisionConfig, "text_config": RobertaConfig, "cross_modal_config": BertConfig}  # type: ignore  # noqa: RUF012

    def __init__(
        self,
        vision_config: dict[str, Any] | CLIPVisionConfig | None = None,
        text_config: dict[str, Any] | RobertaConfig | None = None,
        cross_modal_config: dict[str, Any] | BertConfig | None = None,
        image_types: int = 1,
        **kwargs: Any,
    ):
        self.vision_config = _part(CLIPVisionConfig, VISION, vision_config)
        self.text_config = _part(RobertaConfig, TEXT, text_config)
        self.cross_modal_config = _part(BertConfig, FUSION, cross_modal_config)
        self.image_types = image_types
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """d, the width of both fusion streams."""
        return self.cross_modal_config.hidden_size


def _part(kind: Any, published: dict[str, Any], given: Any) -> Any:
    """A configuration with the published values where none are given."""
    return given if isinstance(given, kind) else kind(**{**published, **(given or {})})


@dataclass
class MeterOutput(ModelOutput):
    """What a MeterModel returns.

    `last_hidden_state` [B, n_t, d] is the text stream and `image_hidden_state` [B, n_v, d] the image stream behind the last fusion
    layer, `pooler_output` [B, 2d] both poolers, text first; `encoded_text` [B, n_t, d_t] and `encoded_image` [B, n_v, d_v] are what
    the encoders gave, before fusion.
    """

    last_hidden_state: Tensor | None = None
    image_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    encoded_text: Tensor | None = None
    encoded_image: Tensor | None = None


class MeterLayer(GradientCheckpointingLayer):
    """A co-attention layer of one stream: self-attention, attention to the other stream, FFN, each added and normalised.

    BertLayer with cross-attention would make self-attention causal, so its parts are put together here.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = BertAttention(config, is_causal=False)
        self.crossattention = BertAttention(config, is_causal=False, is_cross_attention=True)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None,
    ) -> Tensor:
        """Own stream [B, n, d] and other stream [B, m, d], each with a mask of its keys -> own stream [B, n, d]."""
        x = self.attention(hidden_states, attention_mask)[0]
        x = self.crossattention(x, None, encoder_hidden_states, encoder_attention_mask)[0]
        return self.output(self.intermediate(x), x)


class MeterPreTrainedModel(PreTrainedModel):
    """Base of METER's classes: loading, saving, and the start of new weights, N(0, 0.02^2) with zero biases."""

    config_class = MeterConfig
    base_model_prefix = "meter"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MeterLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True


class MeterModel(MeterPreTrainedModel):
    """METER without a task head."""

    def __init__(self, config: MeterConfig):
        super().__init__(config)
        vision, text, fusion = config.vision_config, config.text_config, config.cross_modal_config
        fusion._attn_implementation = fusion._attn_implementation or config._attn_implementation
        self.vision_model = CLIPVisionModel(vision)
        self.text_model = RobertaModel(text, add_pooling_layer=False)
        self.text_transform = nn.Linear(text.hidden_size, fusion.hidden_size)
        self.image_transform = nn.Linear(vision.hidden_size, fusion.hidden_size)
        self.token_type_embeddings = nn.Embedding(1 + config.image_types, fusion.hidden_size)
        self.text_layers = nn.ModuleList(MeterLayer(fusion) for _ in range(fusion.num_hidden_layers))
        self.image_layers = nn.ModuleList(MeterLayer(fusion) for _ in range(fusion.num_hidden_layers))
        self.text_pooler, self.image_pooler = BertPooler(fusion), BertPooler(fusion)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Other word embeddings."""
        self.text_model.set_input_embeddings(value)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Ids and mask [B, n_t] -> RoBERTa's last layer [B, n_t, d_t]."""
        return self.text_model(input_ids, attention_mask=attention_mask).last_hidden_state

    def encode_image(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Images [B, 3, S, S] -> all tokens of the CLIP tower behind its last norm, [B, n_v, d_v]."""
        tower = self.vision_model
        norm = getattr(
            tower, "vision_model", tower
        ).post_layernorm  # transformers before 5.23 wraps the tower once more
        return norm(tower(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding).last_hidden_state)

    def fuse(
        self, encoded_text: Tensor, encoded_image: Tensor, attention_mask: Tensor | None = None, image_type: int = 1
    ) -> MeterOutput:
        """What the encoders gave [B, n_t, d_t] and [B, n_v, d_v], with the text's mask [B, n_t] -> both streams and poolers."""
        types = self.token_type_embeddings.weight
        x = self.text_transform(encoded_text) + types[0]
        y = self.image_transform(encoded_image) + types[image_type]
        fusion = self.config.cross_modal_config
        mask = create_bidirectional_mask(fusion, x, attention_mask)
        image_mask = create_bidirectional_mask(fusion, y, attention_mask, encoder_hidden_states=x)
        for text_layer, image_layer in zip(self.text_layers, self.image_layers, strict=True):
            x, y = text_layer(x, mask, y, None), image_layer(y, None, x, image_mask)
        pooled = torch.cat([self.text_pooler(x), self.image_pooler(y)], dim=-1)
        return MeterOutput(x, y, pooled, encoded_text, encoded_image)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        image_type: int = 1,
        interpolate_pos_encoding: bool = False,
    ) -> MeterOutput:
        """Texts and images, a pair each -> fused streams and pooled vectors.

        Args:
            input_ids: [B, n_t], from RoBERTa's tokenizer, padding on the right.
            pixel_values: [B, 3, S, S], with CLIP's mean and deviation; S is the configuration's unless `interpolate_pos_encoding`.
            attention_mask: [B, n_t], 1 = real; None: no padding.
            image_type: row of the modality table: 1, or 2 for the second image of NLVR2.
            interpolate_pos_encoding: resize the position table to these images.
        """
        if not 1 <= image_type <= self.config.image_types:
            raise ValueError(
                f"image_type={image_type}, and this METER has image types 1..{self.config.image_types}; "
                "a model of two images has MeterConfig(image_types=2)"
            )
        text = self.encode_text(input_ids, attention_mask)
        return self.fuse(text, self.encode_image(pixel_values, interpolate_pos_encoding), attention_mask, image_type)
