"""The language models that users of this field bring, tiny and with random weights."""

# ruff: noqa: C408
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as tf
from torch import nn

WORDS = 64  # the last ones stand for images
DECODER = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    vocab_size=WORDS,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
ENCODER = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    vocab_size=WORDS,
    max_position_embeddings=64,
    pad_token_id=0,
)


TEXT: dict[str, Callable[[], nn.Module]] = {}


def add(name: str, config: str, model: str, **sizes: Any) -> None:
    """Adds a model of one configuration."""
    TEXT[name] = lambda: getattr(tf, model)(getattr(tf, config)(**sizes))


add("llama", "LlamaConfig", "LlamaForCausalLM", **DECODER)
add("llama_tied", "LlamaConfig", "LlamaForCausalLM", **DECODER, tie_word_embeddings=True)
add("qwen2", "Qwen2Config", "Qwen2ForCausalLM", **DECODER)
add("qwen3", "Qwen3Config", "Qwen3ForCausalLM", **DECODER, head_dim=8)
add("mistral", "MistralConfig", "MistralForCausalLM", **DECODER, sliding_window=None)
add("gemma", "GemmaConfig", "GemmaForCausalLM", **DECODER, head_dim=8)
add("gemma2", "Gemma2Config", "Gemma2ForCausalLM", **DECODER, head_dim=8, sliding_window=16)
add("gemma3", "Gemma3TextConfig", "Gemma3ForCausalLM", **DECODER, head_dim=8, sliding_window=16)
add("phi3", "Phi3Config", "Phi3ForCausalLM", **DECODER)
add("phi", "PhiConfig", "PhiForCausalLM", **DECODER)
add(
    "gpt2",
    "GPT2Config",
    "GPT2LMHeadModel",
    n_embd=32,
    n_layer=3,
    n_head=4,
    vocab_size=WORDS,
    n_positions=64,
    bos_token_id=1,
    eos_token_id=2,
)
add(
    "gpt_neox",
    "GPTNeoXConfig",
    "GPTNeoXForCausalLM",
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    vocab_size=WORDS,
    max_position_embeddings=64,
)
add(
    "opt",
    "OPTConfig",
    "OPTForCausalLM",
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    ffn_dim=48,
    vocab_size=WORDS,
    max_position_embeddings=64,
    word_embed_proj_dim=32,
)
add("bloom", "BloomConfig", "BloomForCausalLM", hidden_size=32, n_layer=3, n_head=4, vocab_size=WORDS)
add(
    "falcon",
    "FalconConfig",
    "FalconForCausalLM",
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    vocab_size=WORDS,
)
add("olmo2", "Olmo2Config", "Olmo2ForCausalLM", **DECODER)
add("smollm3", "SmolLM3Config", "SmolLM3ForCausalLM", **DECODER)
add("granite", "GraniteConfig", "GraniteForCausalLM", **DECODER)
# encoders
add("bert_cls", "BertConfig", "BertForSequenceClassification", **ENCODER)
add("bert_mlm", "BertConfig", "BertForMaskedLM", **ENCODER)
add("bert", "BertConfig", "BertModel", **ENCODER)
add("roberta_mlm", "RobertaConfig", "RobertaForMaskedLM", **ENCODER)
add("xlm_roberta", "XLMRobertaConfig", "XLMRobertaModel", **ENCODER)
add("camembert", "CamembertConfig", "CamembertModel", **ENCODER)
add(
    "distilbert",
    "DistilBertConfig",
    "DistilBertModel",
    dim=32,
    n_layers=3,
    n_heads=4,
    hidden_dim=48,
    vocab_size=WORDS,
    max_position_embeddings=64,
)
add("electra", "ElectraConfig", "ElectraModel", **ENCODER, embedding_size=32)
add("albert", "AlbertConfig", "AlbertModel", **ENCODER, embedding_size=16)
add(
    "deberta_v3",
    "DebertaV2Config",
    "DebertaV2Model",
    **ENCODER,
    relative_attention=True,
    pos_att_type=["p2c", "c2p"],
    max_relative_positions=-1,
    position_buckets=16,
    norm_rel_ebd="layer_norm",
    share_att_key=True,
    position_biased_input=False,
)
add("mpnet", "MPNetConfig", "MPNetModel", **ENCODER)
add(
    "modernbert",
    "ModernBertConfig",
    "ModernBertModel",
    **{**ENCODER, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
)
# seq2seq
T5 = dict(
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_layers=3,
    num_decoder_layers=3,
    num_heads=4,
    vocab_size=WORDS,
    decoder_start_token_id=0,
)
add("t5", "T5Config", "T5ForConditionalGeneration", **T5)
add(
    "t5_v1_1", "T5Config", "T5ForConditionalGeneration", **T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False
)
add("mt5", "MT5Config", "MT5ForConditionalGeneration", **T5)
add("umt5", "UMT5Config", "UMT5ForConditionalGeneration", **T5)
add("longt5", "LongT5Config", "LongT5ForConditionalGeneration", **T5)
BART = dict(
    d_model=32,
    encoder_layers=3,
    decoder_layers=3,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    vocab_size=WORDS,
    max_position_embeddings=64,
    pad_token_id=1,
    bos_token_id=0,
    eos_token_id=2,
    decoder_start_token_id=2,
    forced_eos_token_id=2,
)
add("bart", "BartConfig", "BartForConditionalGeneration", **BART)
add("mbart", "MBartConfig", "MBartForConditionalGeneration", **BART)
add("pegasus", "PegasusConfig", "PegasusForConditionalGeneration", **{**BART, "forced_eos_token_id": 1})
add("blenderbot_small", "BlenderbotSmallConfig", "BlenderbotSmallForConditionalGeneration", **BART)
add("marian", "MarianConfig", "MarianMTModel", **{**BART, "decoder_start_token_id": 1})
