"""LLaMA and those that derive from it: RMS norms, rotary positions, gated FFN, grouped keys and values.

What they differ in: norms of queries and keys (Qwen 3, Gemma 3, OLMo 2), norms behind branches, with others before them (Gemma 2
and 3, GLM 4) or alone (OLMo 2), fused projections (Phi 3, GLM), a number that damps branches (Granite), an FFN without a gate
(StarCoder 2, Nemotron, Arcee, Apertus), one that stands beside the attention (Cohere, StableLM), experts in place of an FFN, in
some of the blocks or in all (Qwen 3 MoE, Mixtral, gpt-oss).
"""

import dataclasses

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_ATTENTION = AttentionNames(
    module="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    out="self_attn.o_proj",
    norm="input_layernorm",
)
_NORMED = dataclasses.replace(_ATTENTION, q_norm="self_attn.q_norm", k_norm="self_attn.k_norm")
_FFN = FfnNames(
    up="mlp.up_proj",
    gate="mlp.gate_proj",
    down="mlp.down_proj",
    norm="post_attention_layernorm",
    act="mlp.act_fn",
)
_UNGATED = dataclasses.replace(_FFN, gate=None)
_ROUTED = FfnNames(up="mlp", down="mlp", experts="mlp.experts", norm="post_attention_layernorm")
_FUSED = dataclasses.replace(_FFN, up="mlp.gate_up_proj", gate=None, act=None)
_BEHIND = {"norm": "pre_feedforward_layernorm", "closing": "post_feedforward_layernorm"}


def _stack(
    owners: tuple[str, ...],
    attention: AttentionNames | tuple[AttentionNames, ...],
    *ffn: FfnNames,
    parallel: bool | str = False,
    closed: bool = True,
) -> Stack:
    return Stack(
        name="decoder",
        owners=owners,
        blocks="layers",
        attention=attention if isinstance(attention, tuple) else (attention,),
        ffn=ffn or (_FFN,),
        causal=True,
        parallel=parallel,
        closed=closed,
        readout="last",
        modality="text",
        patch_convolution=(),
        final_norm=("norm",),
        rotary="rotary_emb",
    )


STACKS = (
    _stack(
        (
            *(
                "llama",
                "mistral",
                "ministral",
                "qwen2",
                "qwen2_vl_text",
                "qwen2_5_vl_text",
                "gemma",
                "smollm3",
                "seed_oss",
            ),
            *("helium", "bitnet", "cwm", "ernie4_5", "exaone", "internlm3", "ministral3"),
        ),
        _ATTENTION,
    ),
    dataclasses.replace(_stack(("eurobert",), _ATTENTION), name="text", causal=False, readout="mean"),
    _stack(("qwen3", "qwen3_vl_text"), _NORMED),
    _stack(
        ("hunyuan_v1_dense",),
        dataclasses.replace(_ATTENTION, q_norm="self_attn.query_layernorm", k_norm="self_attn.key_layernorm"),
    ),
    *(
        _stack(owners, attention, _FFN, _ROUTED, closed=False)  # how many tokens an expert gets is known when they come
        for owners, attention in (
            (("qwen3_moe", "qwen3_vl_moe_text"), _NORMED),
            (("olmoe",), _NORMED),
            (("mixtral", "qwen2_moe", "ernie4_5_moe", "phimoe", "minimax_m2", "solar_open", "gpt_oss"), _ATTENTION),
            (("glm4_moe",), (_NORMED, _ATTENTION)),
        )
    ),
    _stack(
        ("granite", "granite_swa"),
        dataclasses.replace(_ATTENTION, layer_scale="residual_multiplier"),
        dataclasses.replace(_FFN, layer_scale="residual_multiplier"),
    ),
    _stack(
        ("hyperclovax",),
        dataclasses.replace(_ATTENTION, closing="post_norm1", layer_scale="residual_multiplier"),
        dataclasses.replace(_FFN, closing="post_norm2", layer_scale="residual_multiplier"),
    ),
    _stack(
        ("gemma2",),
        dataclasses.replace(_ATTENTION, closing="post_attention_layernorm"),
        dataclasses.replace(_FFN, **_BEHIND),
    ),
    _stack(
        ("gemma3_text",),
        dataclasses.replace(_NORMED, closing="post_attention_layernorm"),
        dataclasses.replace(_FFN, **_BEHIND),
    ),
    _stack(
        ("olmo2", "olmo3", "exaone4"),
        dataclasses.replace(_NORMED, norm=None, closing="post_attention_layernorm"),
        dataclasses.replace(_FFN, norm=None, closing="post_feedforward_layernorm"),
    ),
    _stack(
        ("phi3",),
        dataclasses.replace(
            _ATTENTION,
            q="self_attn.qkv_proj.q",
            k="self_attn.qkv_proj.k",
            v="self_attn.qkv_proj.v",
            fused="self_attn.qkv_proj",
        ),
        _FUSED,
    ),
    _stack(("olmo",), dataclasses.replace(_ATTENTION, clamp="config.clip_qkv")),
    _stack(("arcee", "nemotron", "jais2"), _ATTENTION, _UNGATED),
    _stack(("starcoder2",), _ATTENTION, dataclasses.replace(_UNGATED, up="mlp.c_fc", down="mlp.c_proj", act="mlp.act")),
    _stack(
        ("apertus",),
        dataclasses.replace(_NORMED, norm="attention_layernorm"),
        dataclasses.replace(_UNGATED, norm="feedforward_layernorm"),
    ),
    _stack(("glm",), _ATTENTION, _FUSED),
    _stack(
        ("glm4",),
        dataclasses.replace(_ATTENTION, closing="post_self_attn_layernorm"),
        dataclasses.replace(_FUSED, closing="post_mlp_layernorm"),
    ),
    _stack(
        ("stablelm",),
        _ATTENTION,
        *(_FFN, dataclasses.replace(_FFN, norm=_ATTENTION.norm)),
        parallel="use_parallel_residual",
    ),
    _stack(
        ("cohere", "cohere2"), (_NORMED, _ATTENTION), dataclasses.replace(_FFN, norm=_ATTENTION.norm), parallel=True
    ),
)
