"""METER: two uni-modal encoders and a stack of co-attention layers, composed of transformers' own parts.

Z.-Y. Dou et al.: An Empirical Study of Training End-to-End Vision-and-Language Transformers, CVPR 2022, arXiv 2111.02387; the
variant of CLIP-ViT-B/16 and RoBERTa-base, or other towers: whatever configurations of transformers name.

    x = T_x RoBERTa(ids) + type[0]        y = T_y ln_post(CLIP(image)) + type[1]
    (x, y) <- (TextLayer_l(x; y), ImageLayer_l(y; x))        l = 1..L, both read the old x and y
    cls = [tanh(W_x x_0 + b_x); tanh(W_y y_0 + b_y)]
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    BertConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedModel,
    RobertaConfig,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import BertAttention, BertIntermediate, BertOutput, BertPooler
from transformers.utils.generic import ModelOutput

from gossamer.errors import UserError

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
        vision_config: of the vision tower, as values; of a CLIPVisionModel unless they name another `model_type` of transformers,
            such as dinov2. The published one is CLIP-ViT-B/16 without its last block: 11 blocks.
        text_config: of the text tower, likewise; of a RobertaModel unless they name another, such as bert. RoBERTa-base.
        cross_modal_config: of the co-attention layers, as those of a BERT: hidden_size, num_hidden_layers (pairs), ...
            (transformers keeps something else under the name fusion_config).
        image_types: rows of the modality table beside the text's: 1, or 2 for tasks with two images (NLVR2).
        kwargs: of every configuration (num_labels, id2label, ...).

    Raises:
        ValueError: transformers has no model of the kind that a tower names.
    """

    model_type = "meter"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig, "cross_modal_config": BertConfig}  # type: ignore  # noqa: RUF012

    def __init__(
        self,
        vision_config: dict[str, Any] | PreTrainedConfig | None = None,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
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
    """A configuration: as given, or of the published kind with its values where none are given, or of another that is named."""
    if isinstance(given, PreTrainedConfig):
        return given
    values = dict(given or {})
    named = values.get("model_type", kind.model_type)
    if named not in CONFIG_MAPPING:
        raise UserError(f"a part of METER is to be a {named!r}, which transformers {transformers.__version__} has not")
    return kind(**{**published, **values}) if named == kind.model_type else CONFIG_MAPPING[named](**values)


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
        self.vision_model = AutoModel.from_config(vision)
        self.text_model = AutoModel.from_config(text, add_pooling_layer=False)
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
        """Ids and mask [B, n_t] -> the text tower's last layer [B, n_t, d_t]."""
        return self.text_model(input_ids, attention_mask=attention_mask).last_hidden_state

    def encode_image(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Images [B, 3, S, S] -> all tokens of the vision tower behind its last norm, [B, n_v, d_v]."""
        tower = self.vision_model
        asks = "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters  # DINOv2 always does
        states = tower(pixel_values, **({"interpolate_pos_encoding": interpolate_pos_encoding} if asks else {}))
        if not isinstance(tower, CLIPVisionModel):
            return states.last_hidden_state
        inner: Any = getattr(tower, "vision_model", tower)  # transformers before 5.23 wraps the tower once more
        return inner.post_layernorm(states.last_hidden_state)  # which CLIP keeps for the class token

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
            input_ids: [B, n_t], from the text tower's tokenizer, padding on the right.
            pixel_values: [B, 3, S, S], with the vision tower's mean and deviation (CLIP's); S is the configuration's unless
                `interpolate_pos_encoding`.
            attention_mask: [B, n_t], 1 = real; None: no padding.
            image_type: row of the modality table: 1, or 2 for the second image of NLVR2.
            interpolate_pos_encoding: resize the position table to these images.
        """
        if not 1 <= image_type <= self.config.image_types:
            raise UserError(
                f"image_type={image_type}, and this METER has image types 1..{self.config.image_types}; "
                "a model of two images has MeterConfig(image_types=2)"
            )
        text = self.encode_text(input_ids, attention_mask)
        return self.fuse(text, self.encode_image(pixel_values, interpolate_pos_encoding), attention_mask, image_type)
