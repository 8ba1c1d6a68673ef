"""timm's VisionTransformer: pre-norm, fused qkv, LayerScale and norms of queries and keys where the model has them.

timm's attention has no public seam, so it is built from the Linears.
"""

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

    def normalise_keys(self, keys: Tensor) -> Tensor:
        """The norm of keys, in models that have one."""
        return self.k_norm(keys)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """[B, N, d] -> [B, N, d]."""
        if is_causal:
            raise UserError("timm attention with remembered keys takes masks, not is_causal")
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.normalise_keys(k)
        attended = self.attend(q, k, v, mask=attn_mask, scale=self.scale, dropout=self.attn_drop.p)
        y = self.norm(attended.transpose(1, 2).flatten(2))
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(y))


STACKS = (
    Stack(
        name="vision",
        owners=("timm.VisionTransformer",),
        blocks="blocks",
        attention=(
            AttentionNames(
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
            ),
        ),
        ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2", layer_scale="ls2"),),
        prefix=("num_prefix_tokens",),
        patches="patch_embed",
        patches_norm="norm_pre",
        patch_convolution=("patch_embed.proj",),
        final_norm=("norm", "fc_norm"),  # before or behind the mean over tokens
        own_attention=TimmAttention,
    ),
)
