"""Decoders of one column: rows of the contract, as in `backbones.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers as tf

from .. import twins
from .backbone import BESIDE, IN_MASK, LLAMA, TRANSPOSED, TURNED, Backbone, of


def writer(model: Any, config: Any, kind: twins.Names | str, like: str | None, **more: Any) -> Backbone:
    """A decoder of one column."""
    facts = {"reads": "text", "causal": True, "generates": True, "biases": False, "headless": True, "like": like}
    if isinstance(kind, str):
        return Backbone(of(model, config, {**LLAMA, **more}), kind, **facts)
    return Backbone(of(model, config, {**LLAMA, **more}), {"decoder": kind}, **facts, post_norm=not kind.norms)


GEMMA = {"head_dim": 6, "query_pre_attn_scalar": 7, "sliding_window": 5}
IN_SUM = {"damps_apart": False}
UNDROPPED = {"residual_dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0}
EXPERTS = {
    "intermediate_size": 20,
    "moe_intermediate_size": 10,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "head_dim": 6,
}
ANY = {"experts_implementation": "batched_mm"}  # the grouped kernel takes no odd sizes and no double precision
MINISTRAL = {
    "head_dim": 6,
    "max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 2.0,
        "original_max_position_embeddings": 32,
        "llama_4_scaling_beta": 0.1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "max_position_embeddings": 64,
    },
}
SENT = "each token is sent to experts of its own: both forms of prompts are one function on it"
BOUNDED = "queries, keys and values stay within bounds: both forms of prompts are one function on it"

DECODERS: dict[str, Backbone] = {
    "qwen3": replace(writer(tf.Qwen3ForCausalLM, tf.Qwen3Config, twins.QWEN3, None, head_dim=6), projected=False),
    "gemma3": replace(writer(tf.Gemma3ForCausalLM, tf.Gemma3TextConfig, twins.GEMMA3, None, **GEMMA), projected=False),
    "olmo2": replace(writer(tf.Olmo2ForCausalLM, tf.Olmo2Config, twins.OLMO2, None), projected=False),
    "phi3": writer(tf.Phi3ForCausalLM, tf.Phi3Config, twins.PHI3, None),
    "granite": replace(
        writer(tf.GraniteForCausalLM, tf.GraniteConfig, twins.GRANITE, "timm-eva", residual_multiplier=0.4), **IN_SUM
    ),
    "qwen3-moe": replace(
        writer(*(tf.Qwen3MoeForCausalLM, tf.Qwen3MoeConfig, SENT, None), **EXPERTS, **ANY),
        projected=False,
        dense=False,
    ),
    "mixtral": replace(
        writer(*(tf.MixtralForCausalLM, tf.MixtralConfig, SENT, "qwen3-moe"), num_local_experts=4, **ANY), dense=False
    ),
    "gpt-oss": replace(
        writer(
            *(tf.GptOssForCausalLM, tf.GptOssConfig, SENT, "qwen3-moe"),
            num_local_experts=4,
            num_experts_per_tok=2,
            head_dim=6,
            sliding_window=4,
            **ANY,
        ),
        dense=False,
        eager=False,
        biases=True,
        masks=("additive",),
    ),
    "ministral3": replace(
        writer(*(tf.Ministral3ForCausalLM, tf.Ministral3Config, twins.LLAMA, "llama"), **MINISTRAL),
        grows=False,
    ),
    "qwen2": writer(tf.Qwen2ForCausalLM, tf.Qwen2Config, twins.LLAMA, "llama"),
    "mistral": writer(tf.MistralForCausalLM, tf.MistralConfig, twins.LLAMA, "llama", sliding_window=4),
    "gemma": writer(tf.GemmaForCausalLM, tf.GemmaConfig, twins.GEMMA, "llama", head_dim=6),
    "gemma2": replace(
        writer(tf.Gemma2ForCausalLM, tf.Gemma2Config, twins.GEMMA2, "gemma3", **GEMMA),
        eager=False,
        masks=("additive",),
    ),
    "olmo3": replace(
        writer(tf.Olmo3ForCausalLM, tf.Olmo3Config, twins.OLMO2, "olmo2", sliding_window=4), projected=False
    ),
    "seed-oss": replace(writer(tf.SeedOssForCausalLM, tf.SeedOssConfig, twins.LLAMA, "llama", head_dim=6), biases=True),
    "smollm3": writer(tf.SmolLM3ForCausalLM, tf.SmolLM3Config, twins.LLAMA, "llama"),
    "opt": replace(
        writer(
            *(tf.OPTForCausalLM, tf.OPTConfig, twins.OPT, "llama"),
            ffn_dim=20,
            word_embed_proj_dim=12,
            dropout=0.0,
            max_position_embeddings=40,
        ),
        biases=True,
    ),
    "phi": replace(
        writer(tf.PhiForCausalLM, tf.PhiConfig, BESIDE, "llama", partial_rotary_factor=0.5, head_dim=8),
        biases=True,
        between=False,
        alone=False,
    ),
    "gpt-neox": replace(
        writer(tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig, BESIDE, "llama", attention_dropout=0.0),
        biases=True,
        between=False,
    ),
    "persimmon": replace(
        writer(
            *(tf.PersimmonForCausalLM, tf.PersimmonConfig, TURNED, "hunyuan"),
            num_attention_heads=3,
            attention_dropout=0.0,
            max_position_embeddings=40,
        ),
        biases=True,
        projected=False,
    ),
    "falcon": replace(
        writer(tf.FalconForCausalLM, tf.FalconConfig, BESIDE, "llama", ffn_hidden_size=20),
        biases=True,
        between=False,
        alone=False,
        eager=False,
        masks=("additive",),
    ),
    "falcon-groups": replace(
        writer(
            *(tf.FalconForCausalLM, tf.FalconConfig, BESIDE, "llama"),
            hidden_size=24,
            num_attention_heads=4,
            num_kv_heads=2,
            new_decoder_architecture=True,
        ),
        biases=True,
        between=False,
        eager=False,
        masks=("additive",),
    ),
    "falcon-rw": replace(
        writer(
            *(tf.FalconForCausalLM, tf.FalconConfig, IN_MASK, "llama"),
            multi_query=False,
            alibi=True,
            parallel_attn=False,
            bias=True,
        ),
        biases=True,
        eager=False,
        masks=("additive",),
    ),
    "bloom": replace(
        writer(tf.BloomForCausalLM, tf.BloomConfig, twins.BLOOM, "gpt2"), biases=True, eager=False, masks=("additive",)
    ),
    "gpt2": replace(
        writer(tf.GPT2LMHeadModel, tf.GPT2Config, TRANSPOSED, None, n_inner=20, max_position_embeddings=40),
        biases=True,
    ),
    "hunyuan": replace(
        writer(tf.HunYuanDenseV1ForCausalLM, tf.HunYuanDenseV1Config, twins.HUNYUAN, "qwen3", head_dim=6),
        projected=False,
    ),
    "exaone4": replace(
        writer(tf.Exaone4ForCausalLM, tf.Exaone4Config, twins.OLMO2, "olmo2", head_dim=6, sliding_window=4),
        projected=False,
    ),
    "olmo": replace(writer(tf.OlmoForCausalLM, tf.OlmoConfig, BOUNDED, "llama", clip_qkv=0.3), weighed=False),
    "starcoder2": replace(
        writer(*(tf.Starcoder2ForCausalLM, tf.Starcoder2Config, twins.STARCODER2, "llama"), **UNDROPPED), biases=True
    ),
    "hyperclovax": replace(
        writer(
            *(tf.HyperCLOVAXForCausalLM, tf.HyperCLOVAXConfig, twins.HYPERCLOVAX, "granite"),
            residual_multiplier=0.4,
            use_post_norm=True,
        ),
        **IN_SUM,
    ),
    "arcee": writer(tf.ArceeForCausalLM, tf.ArceeConfig, twins.ARCEE, "llama"),
    "nemotron": replace(
        writer(tf.NemotronForCausalLM, tf.NemotronConfig, twins.ARCEE, "llama", partial_rotary_factor=1.0), biases=True
    ),
    "apertus": replace(
        writer(tf.ApertusForCausalLM, tf.ApertusConfig, twins.APERTUS, "qwen3", hidden_act="relu2"),
        projected=False,
        rounds=True,
    ),
    "glm": writer(tf.GlmForCausalLM, tf.GlmConfig, TURNED, "phi3", head_dim=8),
    "glm4": writer(tf.Glm4ForCausalLM, tf.Glm4Config, TURNED, "gemma3", head_dim=8),
    "stablelm": replace(
        writer(tf.StableLmForCausalLM, tf.StableLmConfig, TURNED, "llama", hidden_size=16), biases=True
    ),
    "stablelm-beside": replace(
        writer(*(tf.StableLmForCausalLM, tf.StableLmConfig, BESIDE, "phi"), use_parallel_residual=True, hidden_size=16),
        biases=True,
        between=False,
        alone=False,
    ),
    "cohere": replace(
        writer(tf.CohereForCausalLM, tf.CohereConfig, BESIDE, "phi", use_qk_norm=True),
        between=False,
        alone=False,
        projected=False,
        rounds=True,
    ),
    "cohere2": replace(
        writer(*(tf.Cohere2ForCausalLM, tf.Cohere2Config, BESIDE, "phi"), sliding_window=4, head_dim=6),
        between=False,
        alone=False,
        rounds=True,
    ),
}
