"""The models of images and texts that users of this field bring, tiny and with random weights."""

# ruff: noqa: C408
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as tf
from brought_text import DECODER, ENCODER, T5, WORDS
from torch import nn

TOWER = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8
)
SEEING: dict[str, Callable[[], nn.Module]] = {}


def row(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Adds a model under the name of the function that builds it."""
    SEEING[build.__name__] = build
    return build


# decoder-only LMs
def clipv() -> Any:
    return tf.CLIPVisionConfig(**TOWER)


@row
def clip() -> nn.Module:
    return tf.CLIPModel(
        tf.CLIPConfig(
            text_config=dict(**{**ENCODER, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 1}),
            vision_config=TOWER,
            projection_dim=16,
        )
    )


@row
def siglip() -> nn.Module:
    return tf.SiglipModel(tf.SiglipConfig(text_config=dict(**{**ENCODER, "projection_size": 32}), vision_config=TOWER))


@row
def siglip2() -> nn.Module:
    return tf.Siglip2Model(
        tf.Siglip2Config(
            text_config=dict(**{**ENCODER, "projection_size": 32}), vision_config={**TOWER, "num_patches": 16}
        )
    )


@row
def blip_vqa() -> nn.Module:
    return tf.BlipForQuestionAnswering(
        tf.BlipConfig(
            text_config=dict(
                **{**ENCODER, "encoder_hidden_size": 32, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
            ),
            vision_config=TOWER,
            projection_dim=16,
        )
    )


@row
def blip_cap() -> nn.Module:
    return tf.BlipForConditionalGeneration(
        tf.BlipConfig(
            text_config=dict(
                **{**ENCODER, "encoder_hidden_size": 32, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
            ),
            vision_config=TOWER,
            projection_dim=16,
        )
    )


@row
def blip2_opt() -> nn.Module:
    return tf.Blip2ForConditionalGeneration(
        tf.Blip2Config(
            vision_config=TOWER,
            qformer_config=dict(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                encoder_hidden_size=32,
                vocab_size=WORDS,
            ),
            text_config=tf.OPTConfig(
                hidden_size=32,
                num_hidden_layers=3,
                num_attention_heads=4,
                ffn_dim=48,
                vocab_size=WORDS,
                max_position_embeddings=64,
                word_embed_proj_dim=32,
            ).to_dict(),
            num_query_tokens=4,
            image_token_index=WORDS - 1,
        )
    )


@row
def instructblip_t5() -> nn.Module:
    return tf.InstructBlipForConditionalGeneration(
        tf.InstructBlipConfig(
            vision_config=TOWER,
            qformer_config=dict(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                encoder_hidden_size=32,
                vocab_size=WORDS,
            ),
            text_config=tf.T5Config(**T5).to_dict(),
            num_query_tokens=4,
            image_token_index=WORDS - 1,
        )
    )


@row
def instructblip_llama() -> nn.Module:
    return tf.InstructBlipForConditionalGeneration(
        tf.InstructBlipConfig(
            vision_config=TOWER,
            qformer_config=dict(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                encoder_hidden_size=32,
                vocab_size=WORDS,
            ),
            text_config=tf.LlamaConfig(**DECODER).to_dict(),
            num_query_tokens=4,
            image_token_index=WORDS - 1,
        )
    )


@row
def llava() -> nn.Module:
    return tf.LlavaForConditionalGeneration(
        tf.LlavaConfig(
            vision_config=clipv(),
            text_config=tf.LlamaConfig(**DECODER),
            image_token_id=WORDS - 1,
            image_token_index=WORDS - 1,
            vision_feature_layer=-2,
            image_seq_length=16,
        )
    )


@row
def llava_qwen() -> nn.Module:
    return tf.LlavaForConditionalGeneration(
        tf.LlavaConfig(
            vision_config=tf.SiglipVisionConfig(**TOWER),
            text_config=tf.Qwen2Config(**DECODER),
            image_token_id=WORDS - 1,
            image_token_index=WORDS - 1,
            vision_feature_layer=-2,
            vision_feature_select_strategy="full",
            image_seq_length=16,
        )
    )


@row
def llava_next() -> nn.Module:
    return tf.LlavaNextForConditionalGeneration(
        tf.LlavaNextConfig(
            vision_config=clipv(),
            text_config=tf.LlamaConfig(**DECODER),
            image_token_id=WORDS - 1,
            image_token_index=WORDS - 1,
            image_grid_pinpoints=[[32, 32]],
        )
    )


@row
def paligemma() -> nn.Module:
    return tf.PaliGemmaForConditionalGeneration(
        tf.PaliGemmaConfig(
            vision_config=dict(**TOWER, projection_dim=32, model_type="siglip_vision_model"),
            text_config=dict(**DECODER, head_dim=8, model_type="gemma"),
            image_token_index=WORDS - 1,
            projection_dim=32,
        )
    )


@row
def qwen2_vl() -> nn.Module:
    return tf.Qwen2VLForConditionalGeneration(
        tf.Qwen2VLConfig(
            text_config=dict(
                **DECODER, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
            ),
            vision_config=dict(depth=2, embed_dim=32, hidden_size=32, num_heads=4, patch_size=8, mlp_ratio=2),
            image_token_id=WORDS - 1,
            video_token_id=WORDS - 2,
            vision_start_token_id=WORDS - 3,
        )
    )


@row
def idefics3() -> nn.Module:
    return tf.Idefics3ForConditionalGeneration(
        tf.Idefics3Config(
            vision_config=TOWER, text_config=tf.LlamaConfig(**DECODER), image_token_id=WORDS - 1, scale_factor=2
        )
    )


@row
def smolvlm() -> nn.Module:
    return tf.SmolVLMForConditionalGeneration(
        tf.SmolVLMConfig(
            vision_config=TOWER, text_config=tf.LlamaConfig(**DECODER), image_token_id=WORDS - 1, scale_factor=2
        )
    )


@row
def git() -> nn.Module:
    return tf.GitForCausalLM(tf.GitConfig(**{**ENCODER, "bos_token_id": 1, "eos_token_id": 2}, vision_config=TOWER))


@row
def vit_gpt2() -> nn.Module:
    return tf.VisionEncoderDecoderModel(
        tf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
            tf.ViTConfig(**TOWER),
            tf.GPT2Config(
                n_embd=32, n_layer=3, n_head=4, vocab_size=WORDS, n_positions=64, bos_token_id=1, eos_token_id=2
            ),
        )
    )


@row
def trocr_like_bert_decoder() -> nn.Module:
    c = tf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        tf.ViTConfig(**TOWER), tf.BertConfig(**ENCODER, is_decoder=True, add_cross_attention=True)
    )
    c.decoder_start_token_id = 1
    c.pad_token_id = 0
    return tf.VisionEncoderDecoderModel(c)


@row
def bert2bert() -> nn.Module:
    c = tf.EncoderDecoderConfig.from_encoder_decoder_configs(
        tf.BertConfig(**ENCODER), tf.BertConfig(**ENCODER, is_decoder=True, add_cross_attention=True)
    )
    c.decoder_start_token_id = 1
    c.pad_token_id = 0
    return tf.EncoderDecoderModel(c)


@row
def vision_text_dual() -> nn.Module:
    return tf.VisionTextDualEncoderModel(
        tf.VisionTextDualEncoderConfig.from_vision_text_configs(
            tf.ViTConfig(**TOWER), tf.BertConfig(**ENCODER), projection_dim=16
        )
    )


@row
def flava() -> nn.Module:
    return tf.FlavaModel(
        tf.FlavaConfig(
            image_config=TOWER,
            text_config=ENCODER,
            multimodal_config=dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48),
            projection_dim=16,
            hidden_size=32,
        )
    )


@row
def bridgetower() -> nn.Module:
    return tf.BridgeTowerModel(
        tf.BridgeTowerConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            text_config=ENCODER,
            vision_config=dict(hidden_size=64, num_hidden_layers=3, patch_size=8, image_size=32),
        )
    )


@row
def visualbert() -> nn.Module:
    return tf.VisualBertForQuestionAnswering(tf.VisualBertConfig(**ENCODER, visual_embedding_dim=16, num_labels=5))


@row
def lxmert() -> nn.Module:
    return tf.LxmertForQuestionAnswering(
        tf.LxmertConfig(
            hidden_size=32,
            num_attention_heads=4,
            intermediate_size=48,
            vocab_size=WORDS,
            l_layers=2,
            x_layers=2,
            r_layers=2,
            visual_feat_dim=16,
            num_qa_labels=5,
        )
    )


@row
def vilt() -> nn.Module:
    return tf.ViltForQuestionAnswering(tf.ViltConfig(**ENCODER, image_size=32, patch_size=8, num_labels=5))


@row
def vilt_mlm() -> nn.Module:
    return tf.ViltForMaskedLM(tf.ViltConfig(**ENCODER, image_size=32, patch_size=8))


@row
def vilt_nlvr() -> nn.Module:
    return tf.ViltForImagesAndTextClassification(
        tf.ViltConfig(**ENCODER, image_size=32, patch_size=8, num_labels=2, num_images=2, modality_type_vocab_size=3)
    )


@row
def mllama() -> nn.Module:
    return tf.MllamaForConditionalGeneration(
        tf.MllamaConfig(
            vision_config=dict(
                hidden_size=32,
                num_hidden_layers=2,
                num_global_layers=1,
                attention_heads=4,
                intermediate_size=48,
                vision_output_dim=64,
                image_size=32,
                patch_size=8,
                intermediate_layers_indices=[0],
                max_num_tiles=1,
                supported_aspect_ratios=[[1, 1]],
            ),
            text_config=dict(**{**DECODER, "vocab_size": WORDS}, cross_attention_layers=[1]),
        )
    )


@row
def blip2_t5() -> nn.Module:
    return tf.Blip2ForConditionalGeneration(
        tf.Blip2Config(
            vision_config=TOWER,
            qformer_config=dict(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                encoder_hidden_size=32,
                vocab_size=WORDS,
            ),
            text_config=tf.T5Config(**T5).to_dict(),
            num_query_tokens=4,
            image_token_index=WORDS - 1,
        )
    )
