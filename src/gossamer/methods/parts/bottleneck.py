"""The bottleneck of two matrices that Adapter, DAS, DVP and MemVP place: s (U phi(D x + b_D) + b_U), D [r, d], U [d, r]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy.seams import Part

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


def bottleneck(
    x: Tensor, down: Tensor, down_bias: Tensor | None, up: Tensor, up_bias: Tensor | None, activation: str = "relu"
) -> Tensor:
    """A(x) = U phi(D x + b_D) + b_U for x [..., d], D [r, d], U [d, r]."""
    return F.linear(ACTIVATIONS[activation](F.linear(x, down, down_bias)), up, up_bias)


def parameters(width: int, rank: int, *, bias: bool = True, norm: bool = False) -> int:
    """2 d r, + r + d with biases, + 2 d with a norm of its own."""
    return 2 * width * rank + (rank + width if bias else 0) + (2 * width if norm else 0)


class Bottleneck(Part):
    """s A(LN(x)): owner of D, U, their biases and, where there is one, the LayerNorm in front.

    D starts as a Linear does (Kaiming uniform, a = sqrt 5), U and the biases at zero, so nothing is added at first; see `start`.

    Args:
        width: d.
        rank: r.
        activation: phi, of `ACTIVATIONS`.
        scale: s.
        dropout: rate on the r hidden units in training.
        norm: a LayerNorm of its own in front.
        bias: whether D and U have biases.
        reads: "input": what the branch beside which it stands reads, "output": what that branch gives.
        device: where its weights are made.
    """

    def __init__(
        self,
        width: int,
        rank: int,
        *,
        activation: str = "relu",
        scale: float = 1.0,
        dropout: float = 0.0,
        norm: bool = False,
        bias: bool = True,
        reads: str = "input",
        device: torch.device | None = None,
    ):
        super().__init__()
        self.down = nn.Linear(width, rank, bias=bias, device=device)
        self.up = nn.Linear(rank, width, bias=bias, device=device)
        self.norm = nn.LayerNorm(width, device=device) if norm else None
        self.activation, self.scale, self.dropout, self.reads = activation, scale, dropout, reads
        self.start()

    @torch.no_grad()
    def start(
        self, down: Callable[[Tensor], Any] | None = None, up: Callable[[Tensor], Any] = nn.init.zeros_
    ) -> Bottleneck:
        """Draws D (None: as it is) and U in place, sets the biases to zero, and returns itself."""
        if down is not None:
            down(self.down.weight)
        up(self.up.weight)
        for linear in (self.down, self.up):
            if linear.bias is not None:
                linear.bias.zero_()
        return self

    def forward(self, x: Tensor, output: Tensor | None = None) -> Tensor:
        """x, output [..., d]: what a branch reads and, where it stands beside one, gives -> what is added, [..., d]."""
        given = x if output is None else output
        states = (given if self.reads == "output" else x).to(self.down.weight.dtype)
        states = states if self.norm is None else self.norm(states)
        hidden = F.dropout(ACTIVATIONS[self.activation](self.down(states)), self.dropout, self.training)
        return (self.scale * self.up(hidden)).to(given.dtype)
