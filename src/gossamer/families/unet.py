"""The denoising UNet of diffusers (Stable Diffusion 1, 2 and XL): blocks on maps of several widths and levels that read a text."""

from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.memory import OwnAttention
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack


class DenoiserAttention(OwnAttention):
    """Attention of diffusers with a memory, of one stream or of two; returns the states [B, N, d] alone, as the original."""

    to_q: nn.Module
    to_k: nn.Module
    to_v: nn.Module
    to_out: nn.ModuleList

    def __init__(self, original: Any):
        super().__init__(original)
        self.heads: int = original.heads
        self.scale: float = original.scale

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        """[B, N, d], what is read [B, L, d_c] (None: itself) and an additive mask [B, 1, L] -> [B, N, d]."""
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = self.to_q(hidden_states), self.to_k(read), self.to_v(read)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in projected)
        mask = None if attention_mask is None else attention_mask[:, None]
        attended = self.attend(q, k, v, mask=mask, scale=self.scale, dropout=0.0)
        return self.to_out[1](self.to_out[0](attended.transpose(1, 2).flatten(2)))


def attention(name: str, norm: str | None) -> AttentionNames:
    """An attention of diffusers' `BasicTransformerBlock`."""
    return AttentionNames(
        module=name,
        q=f"{name}.to_q",
        k=f"{name}.to_k",
        v=f"{name}.to_v",
        out=f"{name}.to_out.0",
        norm=norm,
        heads="heads",
        scaling="scale",
        returns=0,
    )


def _level(owner: Any, name: str) -> int:
    """Maps are halved behind every level but the last, on which the middle stands, and doubled on the way up."""
    part, place = name.split(".")[:2]
    last = len(owner.down_blocks) - 1
    if part == "mid_block":
        return last
    return int(place) if part == "down_blocks" else last - int(place)


STACKS = (
    Stack(
        name="denoiser",
        owners=("diffusers.UNet2DConditionModel",),
        blocks=(
            "down_blocks.*.attentions.*.transformer_blocks",
            "mid_block.attentions.*.transformer_blocks",
            "up_blocks.*.attentions.*.transformer_blocks",
        ),
        level=_level,
        kinds=("BasicTransformerBlock",),
        attention=(attention("attn1", "norm1"),),
        cross=attention("attn2", "norm2"),
        context=("text",),
        ffn=(FfnNames(up="ff.net.0.proj", down="ff.net.2", norm="norm3"),),
        patch_convolution=("conv_in",),
        final_norm=(),
        modality="latent",
        readout=None,
        own_attention=DenoiserAttention,
        closed=False,
    ),
)
