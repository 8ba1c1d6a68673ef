"""What kinds of blocks there are, by hand: names of modules and the few facts in which kinds differ, for `tests.hand`.

Names of modules stand here a second time, on purpose: nothing is shared with `gossamer.families`. A backbone's row in
`tests/contract/backbones.py` says which kind each of its stacks is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Names:
    """One kind of block: its modules, and the few facts in which kinds differ."""

    attention: tuple[str, str, str, str]  # q, k, v, out; timm: the fused projection three times, out
    ffn: tuple[str, ...]  # up, down, or gate, up, down
    norms: tuple[str, ...]  # around attention, around cross-attention where there is one, around the FFN; (): nowhere
    act: Function = F.gelu
    cross: tuple[str, str, str, str] | None = None
    post: bool = False  # norms stand behind the sums
    layer_scale: tuple[str, str] | None = None  # parameters, or numbers
    heads: int = 2
    scale: float | None = None  # of q k^T; None: 1 / sqrt of a head's width
    norm_qk: tuple[str, str] | None = None  # of each head, or of all heads at once
    norms_last: bool = False  # those stand behind the rotation
    closing: tuple[str, str] | None = None  # norms of what attention and FFN give, before the sums
    apart: tuple[str, str] | None = None  # biases of q and v that a fused projection lacks
    pairs: bool = False  # rotary positions turn neighbours, not halves
    bias: Callable[[Any, int], Tensor] | None = None  # what the block adds to the scores of so many tokens
    grouped: bool = False  # a fused projection has q, k and v of one head after those of another
    gate_last: bool = False  # of gate and up in one Linear, up stands first


def _under(path: str, *names: str) -> Any:
    return tuple(f"{path}.{name}" for name in names)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


gelu_tanh = partial(F.gelu, approximate="tanh")
PROJECTIONS = ("q_proj", "k_proj", "v_proj")
VIT = Names(
    _under("attention", *PROJECTIONS, "o_proj"), _under("mlp", "fc1", "fc2"), ("layernorm_before", "layernorm_after")
)
DINO = Names(VIT.attention, VIT.ffn, ("norm1", "norm2"), layer_scale=("layer_scale1.lambda1", "layer_scale2.lambda1"))
SWIGLU = Names(
    VIT.attention, _under("mlp", "gate_proj", "up_proj", "down_proj"), DINO.norms, F.silu, layer_scale=DINO.layer_scale
)
CLIP = Names(_under("self_attn", *PROJECTIONS, "out_proj"), VIT.ffn, ("layer_norm1", "layer_norm2"), quick_gelu)
SIGLIP = Names(CLIP.attention, CLIP.ffn, CLIP.norms, gelu_tanh)
BLIP = Names((*["self_attn.qkv"] * 3, "self_attn.projection"), CLIP.ffn, CLIP.norms)
BERT = Names(
    (*_under("attention.self", "query", "key", "value"), "attention.output.dense"),
    ("intermediate.dense", "output.dense"),
    ("attention.output.LayerNorm", "output.LayerNorm"),
    post=True,
)
ROBERTA_PRE = Names(BERT.attention, BERT.ffn, ("attention.LayerNorm", "intermediate.LayerNorm"))
MEGATRON = Names(BERT.attention, BERT.ffn, ("attention.ln", "ln"))
_INSIDE = ("attention.self_attn_layer_norm", "LayerNorm")
XLM_R_XL = Names(BERT.attention, BERT.ffn, _INSIDE)
VILT = Names((*_under("attention.attention", "query", "key", "value"), "attention.output.dense"), BERT.ffn, VIT.norms)
T5 = Names(
    _under("layer.0.SelfAttention", "q", "k", "v", "o"),
    _under("layer.1.DenseReluDense", "wi", "wo"),
    ("layer.0.layer_norm", "layer.1.layer_norm"),
    F.relu,
    scale=1.0,
)
T5_GATED = Names(T5.attention, _under("layer.1.DenseReluDense", "wi_0", "wi_1", "wo"), T5.norms, gelu_tanh, scale=1.0)
T5_DECODER = Names(
    T5.attention,
    _under("layer.2.DenseReluDense", "wi", "wo"),
    (*T5.norms[:1], "layer.1.layer_norm", "layer.2.layer_norm"),
    F.relu,
    cross=_under("layer.1.EncDecAttention", "q", "k", "v", "o"),
    scale=1.0,
)
METER = Names(
    BERT.attention,
    BERT.ffn,
    (BERT.norms[0], "crossattention.output.LayerNorm", BERT.norms[1]),
    cross=(*_under("crossattention.self", "query", "key", "value"), "crossattention.output.dense"),
    post=True,
    heads=3,
)
BART = Names(CLIP.attention, ("fc1", "fc2"), ("self_attn_layer_norm", "final_layer_norm"), post=True)
BART_DECODER = Names(
    CLIP.attention,
    BART.ffn,
    ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    cross=_under("encoder_attn", *PROJECTIONS, "out_proj"),
    post=True,
    heads=3,
)
LLAMA = Names(
    _under("self_attn", *PROJECTIONS, "o_proj"),
    SWIGLU.ffn,
    ("input_layernorm", "post_attention_layernorm"),
    F.silu,
)
_TIMM = (("attn.qkv", "attn.qkv", "attn.qkv", "attn.proj"), VIT.ffn, ("norm1", "norm2"))
TIMM = Names(*_TIMM, layer_scale=("ls1.gamma", "ls2.gamma"))
TIMM_PLAIN = Names(*_TIMM)
TIMM_NORMED = Names(*_TIMM, norm_qk=("attn.q_norm", "attn.k_norm"))
QWEN3 = replace(LLAMA, norm_qk=("self_attn.q_norm", "self_attn.k_norm"))
GRANITE = replace(LLAMA, layer_scale=("residual_multiplier", "residual_multiplier"), scale=1.0)
NOMIC = replace(LLAMA, norms=("post_attention_layernorm", "post_mlp_layernorm"), post=True)
GTE = replace(NOMIC, act=F.gelu)
JINA = replace(NOMIC, ffn=VIT.ffn, act=F.gelu)
TIPS_TEXT = replace(CLIP, act=F.relu)
HYPERCLOVAX = replace(GRANITE, closing=("post_norm1", "post_norm2"))
_BEHIND = ("post_attention_layernorm", "post_feedforward_layernorm")
GEMMA = replace(LLAMA, act=gelu_tanh)
GEMMA2 = replace(GEMMA, norms=("input_layernorm", "pre_feedforward_layernorm"), closing=_BEHIND, scale=7**-0.5)
GEMMA3 = replace(GEMMA2, norm_qk=QWEN3.norm_qk)
HUNYUAN = replace(LLAMA, norm_qk=("self_attn.query_layernorm", "self_attn.key_layernorm"), norms_last=True)
OLMO2 = replace(QWEN3, norms=(), closing=_BEHIND)
PHI3 = replace(
    LLAMA, attention=(*["self_attn.qkv_proj"] * 3, "self_attn.o_proj"), ffn=("mlp.gate_up_proj", "mlp.down_proj")
)


def relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


ARCEE = replace(LLAMA, ffn=_under("mlp", "up_proj", "down_proj"), act=relu2)
STARCODER2 = replace(LLAMA, ffn=_under("mlp", "c_fc", "c_proj"), act=gelu_tanh)
APERTUS = replace(ARCEE, norms=("attention_layernorm", "feedforward_layernorm"), norm_qk=QWEN3.norm_qk)
MBART = replace(BART, post=False)
MBART_DECODER = replace(BART_DECODER, post=False)


def _t5_bias(block: Any, length: int) -> Tensor:
    return block.layer[0].SelfAttention.compute_bias(length, length)


UMT5 = replace(T5_GATED, bias=_t5_bias)
UMT5_DECODER = replace(
    T5_DECODER, ffn=_under("layer.2.DenseReluDense", "wi_0", "wi_1", "wo"), act=gelu_tanh, bias=_t5_bias
)
DISTILBERT = Names(
    _under("attention", "q_lin", "k_lin", "v_lin", "out_lin"),
    _under("ffn", "lin1", "lin2"),
    ("sa_layer_norm", "output_layer_norm"),
    post=True,
)
DINOV3 = replace(DINO, ffn=_under("mlp", "up_proj", "down_proj"), heads=3)
DINOV3_GATED = replace(DINOV3, ffn=SWIGLU.ffn, act=F.silu)
BEIT = replace(VIT, layer_scale=("lambda_1", "lambda_2"), bias=lambda block, n: block.relative_position_bias((4, 4)))
DATA2VEC = replace(
    VILT, layer_scale=BEIT.layer_scale, bias=lambda block, n: block.attention.attention.relative_position_bias((4, 4))
)
AIMV2 = Names(
    _under("attention", *PROJECTIONS, "out_proj"),
    _under("ffn", "gate_proj", "up_proj", "down_proj"),
    ("rms_norm1", "rms_norm2"),
    F.silu,
)
INTERN = replace(
    BEIT,
    bias=None,
    attention=_under("attention", *PROJECTIONS, "projection_layer"),
    norm_qk=("attention.q_norm", "attention.k_norm"),
)
EVA = replace(TIMM_PLAIN, layer_scale=("gamma_1", "gamma_2"), apart=("attn.q_bias", "attn.v_bias"), pairs=True, heads=3)
EVA_GATED = replace(EVA, ffn=VIT.ffn, act=F.silu, layer_scale=None)
DEEPSEEK_VIT = replace(TIMM_PLAIN, act=F.silu)
TIMM_BEIT = replace(
    TIMM_PLAIN,
    layer_scale=("gamma_1", "gamma_2"),
    apart=EVA.apart,
    bias=lambda block, n: block.attn._get_rel_pos_bias(),
)
TIMM_BEHIND = replace(TIMM_PLAIN, norms=(), closing=("norm1", "norm2"))
TIMM_RELPOS = replace(TIMM, bias=lambda block, n: block.attn.rel_pos.get_bias())
OPT = replace(MBART, attention=CLIP.attention, act=F.relu)
MODERNBERT = Names((*["attn.Wqkv"] * 3, "attn.Wo"), _under("mlp", "Wi", "Wo"), ("attn_norm", "mlp_norm"))


BLOOM = Names(
    (*["self_attention.query_key_value"] * 3, "self_attention.dense"),
    _under("mlp", "dense_h_to_4h", "dense_4h_to_h"),
    LLAMA.norms,
    gelu_tanh,
    grouped=True,
)


MPNET = replace(
    BERT,
    attention=_under("attention.attn", "q", "k", "v", "o"),
    norms=("attention.LayerNorm", "output.LayerNorm"),
)
DENOISER = Names(
    _under("attn1", "to_q", "to_k", "to_v", "to_out.0"),
    ("ff.net.0.proj", "ff.net.2"),
    ("norm1", "norm2", "norm3"),
    cross=_under("attn2", "to_q", "to_k", "to_v", "to_out.0"),
    gate_last=True,
)
