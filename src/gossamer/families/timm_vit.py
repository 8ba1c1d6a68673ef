"""timm's VisionTransformer: pre-norm, fused qkv, LayerScale and norms of queries and keys where the model has them.

Others of its kind: with norms behind the branches, with a bias by relative position, with images of any size (NaFlex). timm's
attention has no public seam, so it is built from the Linears.
"""

import dataclasses
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack
from gossamer.errors import UserError


class TimmAttention(OwnAttention):
    """timm's Attention with a memory."""

    qkv: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    attn_drop: nn.Dropout
    norm: nn.Module
    proj: nn.Module
    proj_drop: nn.Module

    def __init__(self, original: nn.Module):
        super().__init__(original)
        self.num_heads: int = original.num_heads  # type: ignore[assignment]
        self.head_dim: int = original.head_dim  # type: ignore[assignment]
        self.scale: float = original.scale  # type: ignore[assignment]
        self.gate: nn.Module | None = getattr(original, "gate", None)  # newer timm only

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """[B, N, d] -> [B, N, d]."""
        if is_causal:
            raise UserError("timm attention with remembered keys takes masks, not is_causal")
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        attended = self.attend(q, k, v, mask=attn_mask, scale=self.scale, dropout=self.attn_drop.p)
        y = self.norm(attended.transpose(1, 2).flatten(2))
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(y))


class RelPosAttention(OwnAttention):
    """timm's RelPosAttention with a memory."""

    qkv: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    attn_drop: nn.Dropout
    proj: nn.Module
    proj_drop: nn.Module

    def __init__(self, original: Any):
        super().__init__(original)
        self.num_heads: int = original.num_heads
        self.head_dim: int = original.head_dim
        self.scale: float = original.scale

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        """[B, N, d], and a bias by relative position that all blocks share -> [B, N, d]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        own: Any = self._modules.get("rel_pos")
        bias = shared_rel_pos if own is None else own.get_bias()
        attended = self.attend(self.q_norm(q), self.k_norm(k), v, mask=bias, scale=self.scale, dropout=self.attn_drop.p)
        return self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))


def lone(block: Any) -> tuple[int, dict[str, Any]]:
    """A block alone takes as many tokens as its bias has places for; one without takes any number."""
    bias = block.attn._modules.get("rel_pos")
    return (7 if bias is None else bias.prefix_tokens + bias.window_size[0] * bias.window_size[1]), {}


_ATTENTION = AttentionNames(
    module="attn",
    q="attn.qkv.q",
    k="attn.qkv.k",
    v="attn.qkv.v",
    fused="attn.qkv",
    out="attn.proj",
    norm="norm1",
    scaling="scale",
    q_norm="attn.q_norm",
    k_norm="attn.k_norm",
    layer_scale="ls1",
    returns=0,
)
_FFN = (
    FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2", layer_scale="ls2"),
    FfnNames(up="mlp.fc1_x", gate="mlp.fc1_g", down="mlp.fc2", norm="norm2", layer_scale="ls2"),
)
_BEHIND: dict[str, Any] = {  # the norms stand behind the branches, and no LayerScale
    "attention": (dataclasses.replace(_ATTENTION, norm=None, closing="norm1", layer_scale=None),),
    "ffn": tuple(dataclasses.replace(names, norm=None, closing="norm2", layer_scale=None) for names in _FFN),
}
_VIT = Stack(
    name="vision",
    owners=("timm.VisionTransformer",),
    blocks="blocks",
    attention=(_ATTENTION,),
    ffn=_FFN,
    prefix=("num_prefix_tokens",),
    patches="patch_embed",
    patches_norm="norm_pre",
    patch_convolution=("patch_embed.proj",),
    final_norm=("norm", "fc_norm"),  # before or behind the mean over tokens
    own_attention=TimmAttention,
)
_RELPOS = dataclasses.replace(
    _VIT,
    owners=("timm.VisionTransformerRelPos",),
    attention=(dataclasses.replace(_ATTENTION, bias="attn.rel_pos"), _ATTENTION),
    own_attention=RelPosAttention,
    fixed=lone,
    patches_norm=None,
)
_BIASED_BEHIND = tuple(
    dataclasses.replace(a, bias=bias) for a in _BEHIND["attention"] for bias in ("attn.rel_pos", None)
)

STACKS = (
    dataclasses.replace(_VIT, kinds=("ResPostBlock",), **_BEHIND),
    _VIT,
    dataclasses.replace(_RELPOS, kinds=("ResPostRelPosBlock",), **{**_BEHIND, "attention": _BIASED_BEHIND}),
    _RELPOS,
    dataclasses.replace(_VIT, owners=("timm.NaFlexVit",), kinds=("Block",), patches=None, patch_convolution=()),
)
