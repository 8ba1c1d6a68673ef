"""The adapters of DAS (arXiv 2309.01479) in their three published forms, and the shortcut that one is in place of a block.

`config` is the method itself, `gossamer.DAS`, of which `init`, `scale`, `dropout`, `groups` and `temperature` are read.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.parts import bottleneck
from gossamer.methods.parts.bottleneck import Bottleneck

STD = 0.02  # of the random matrices of parallel adapters


def grouped(z: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """W z + b for z [..., r] in G groups: output c of d reads the r / G hidden units of group floor(c G / d); W [d, r / G]."""
    parts = z.unflatten(-1, (groups, 1, -1)) @ weight.unflatten(0, (groups, -1)).transpose(1, 2)
    return parts.flatten(-3) + bias


def mixture(first: Tensor, weight: Tensor, bias: Tensor, temperature: float) -> Tensor:
    """alpha = softmax((W_e u_0 + b_e) / t), [B, 2] in float32, of the first token u_0 [B, d]."""
    return F.linear(first.float(), weight.float(), bias.float()).div(temperature).softmax(dim=-1)


def parameters(form: str, width: int, rank: int, groups: int) -> int:
    """Parameters of one adapter of rank r: 2 d r + r + 3 d, of a router, or 2 d r + r + d."""
    if form == "router":
        return width * rank + rank + 2 * (width * (rank // groups) + width) + 2 * width + 2
    return bottleneck.parameters(width, rank, norm=form == "parallel")


def macs(form: str, tokens: int, width: int, rank: int, groups: int) -> int:
    """Multiply-adds of one adapter for some tokens; a router looks at one of them."""
    if form == "router":
        return tokens * width * rank + 2 * tokens * width * (rank // groups) + 2 * width
    return 2 * tokens * width * rank


class Shortcut(Part):
    """x -> x + S(x); or x + S(u) with u = norm(x), the frozen norm of the block's attention, which the block keeps."""

    norm: nn.Module | None

    def __init__(self, adapter: Part, norm: nn.Module | None, plus_input: bool):
        super().__init__()
        self.adapter, self.plus_input = adapter, plus_input
        self.borrow(norm=norm)  # the backbone's, so no child

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """[B, N, d], and where asked for the first token of each sequence [B, d] -> [B, N, d]."""
        if self.norm is None:
            return x + self.adapter(x)
        u = self.norm.forward(x)
        y = self.adapter(u) if first is None else self.adapter(u, self.norm.forward(first))
        return x + u + y if self.plus_input else x + y


def _parallel(width: int, rank: int, config: Any, device: torch.device) -> Bottleneck:
    """A(x) = s (W_up ReLU(W_dn LN_A(x) + b_dn) + b_up): beside a branch, or behind x + in place of a block."""
    drawn = partial(nn.init.normal_, std=STD)
    part = Bottleneck(width, rank, norm=True, scale=config.scale, dropout=config.dropout, device=device)
    return part.start(drawn, nn.init.zeros_ if config.init == "zero_up" else drawn)


def _bottleneck(width: int, rank: int, config: Any, device: torch.device) -> Bottleneck:
    """R(u) = s (W_up ReLU(W_dn u + b_dn) + b_up) before a branch; W_dn Xavier, the rest zero."""
    part = Bottleneck(width, rank, scale=config.scale, dropout=config.dropout, device=device)
    return part.start(nn.init.xavier_uniform_)


class RouterAdapter(Part):
    """R(u) = s (alpha_0 (W_B z + b_B) + alpha_1 (W_D z + b_D)), z = W_A u + b_A, alpha from the first token; see `grouped`."""

    def __init__(self, width: int, rank: int, config: Any, device: torch.device):
        super().__init__()
        groups = config.groups
        if rank % groups or width % groups:
            raise UserError(f"groups={groups} must divide the rank, {rank}, and the width, {width}")
        self.down, self.router = nn.Linear(width, rank, device=device), nn.Linear(width, 2, device=device)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.down.bias)
        bound = 0.0 if config.init == "zero_up" else 1 / math.sqrt(rank // groups)  # that of a linear layer
        for name in "BD":
            weight = torch.empty(width, rank // groups, device=device).uniform_(-bound, bound)
            bias = torch.empty(width, device=device).uniform_(-bound, bound)
            self.register_parameter(f"up_{name}", nn.Parameter(weight))
            self.register_parameter(f"bias_{name}", nn.Parameter(bias))
        self.groups, self.temperature = groups, config.temperature
        self.scale, self.dropout = config.scale, config.dropout

    def forward(self, u: Tensor, first: Tensor) -> Tensor:
        """u [B, N, d], first token [B, d], or of the sample of each token [B, N, d] -> [B, N, d]."""
        z = F.dropout(self.down(u.to(self.down.weight.dtype)), self.dropout, self.training)
        alpha = mixture(first, self.router.weight, self.router.bias, self.temperature).to(z.dtype)
        alpha = (alpha if first.dim() == 3 else alpha[:, None])[..., None, :]
        branches = [grouped(z, getattr(self, f"up_{n}"), getattr(self, f"bias_{n}"), self.groups) for n in "BD"]
        return (self.scale * (alpha[..., 0] * branches[0] + alpha[..., 1] * branches[1])).to(u.dtype)


FORMS: dict[str, Any] = {"parallel": _parallel, "router": RouterAdapter, "bottleneck": _bottleneck}
