"""The denoisers of the contract: maps of odd, unequal sides, levels of several widths, a text that no block makes."""

from __future__ import annotations

import diffusers
import torch
from torch import Tensor, nn

from .. import twins
from .backbone import Backbone

UNET = {
    "sample_size": 5, "block_out_channels": (12, 18), "layers_per_block": 2, "attention_head_dim": 2, "norm_num_groups": 3,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 10,
}  # fmt: skip


def _unet() -> nn.Module:
    return diffusers.UNet2DConditionModel(**UNET)


def _noised(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A latent of 5 x 7 places, a timestep for each sample, and states of a text with padding."""
    batch, generator = len(inputs["pixel_values"]), torch.Generator().manual_seed(6)
    sample, text = (torch.randn(3, *shape, generator=generator) for shape in ((4, 5, 7), (6, 10)))
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[1, 4:] = 0
    given = {"sample": sample, "timestep": torch.tensor([3, 510, 999]), "encoder_hidden_states": text}
    return {name: value[:batch] for name, value in {**given, "encoder_attention_mask": mask}.items()}


DENOISERS: dict[str, Backbone] = {
    "unet": Backbone(
        _unet, {"denoiser": twins.DENOISER}, eager=False, headless=True, crosses=True, grows=False, classed=False,
        gives=_noised, map=True,
    ),
}  # fmt: skip
