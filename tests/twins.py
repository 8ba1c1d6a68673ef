"""What kinds of blocks there are, by hand: names of modules and the few facts in which kinds differ, for `tests.hand`.

Names of modules stand here a second time, on purpose: nothing is shared with `gossamer.families`. A backbone's row in
`tests/contract/backbones.py` says which kind each of its stacks is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    norms: tuple[str, ...]  # around attention, around cross-attention where there is one, around the FFN
    act: Function = F.gelu
    cross: tuple[str, str, str, str] | None = None
    post: bool = False  # norms stand behind the sums
    layer_scale: tuple[str, str] | None = None
    heads: int = 2
    unscaled: bool = False
    norm_qk: tuple[str, str] | None = None


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
BERT = Names(
    (*_under("attention.self", "query", "key", "value"), "attention.output.dense"),
    ("intermediate.dense", "output.dense"),
    ("attention.output.LayerNorm", "output.LayerNorm"),
    post=True,
)
VILT = Names((*_under("attention.attention", "query", "key", "value"), "attention.output.dense"), BERT.ffn, VIT.norms)
T5 = Names(
    _under("layer.0.SelfAttention", "q", "k", "v", "o"),
    _under("layer.1.DenseReluDense", "wi", "wo"),
    ("layer.0.layer_norm", "layer.1.layer_norm"),
    F.relu,
    unscaled=True,
)
T5_GATED = Names(
    T5.attention, _under("layer.1.DenseReluDense", "wi_0", "wi_1", "wo"), T5.norms, gelu_tanh, unscaled=True
)
T5_DECODER = Names(
    T5.attention,
    _under("layer.2.DenseReluDense", "wi", "wo"),
    (*T5.norms[:1], "layer.1.layer_norm", "layer.2.layer_norm"),
    F.relu,
    cross=_under("layer.1.EncDecAttention", "q", "k", "v", "o"),
    unscaled=True,
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
