"""What blocks are given and give back, whatever their family: states alone or first of a tuple, tokens flat or in a grid."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def tokens_of(x: Tensor) -> Tensor:
    """States as tokens [B, N, d], where a family holds them as a grid [B, h, w, d], or as rows of all samples [N, d]."""
    return x[None] if x.dim() == 2 else x.flatten(1, -2)


def as_states(tokens: Tensor, x: Tensor) -> Tensor:
    """Tokens [B, N, d], or what stands for equal ones, in the shape of the states x they came from."""
    if tokens.dim() == 0 or x.dim() == tokens.dim() == 3:  # nothing to add is one number
        return tokens
    if tokens.numel() != x.numel():
        tokens = tokens.expand(x.shape[0], x[0, ..., 0].numel(), -1)
    return tokens.reshape(x.shape)


def answer(part: Any, *given: Tensor) -> Tensor:
    """A part's answer to what it is given, of one shape; rows of all samples [N, d] are to it one sample [1, N, d]."""
    if given[0].dim() > 2:
        return part(*given)
    return as_states(part(*(x[None] for x in given)), given[0])


def states(output: Any) -> Tensor:
    """The hidden states in what a block returned."""
    return output[0] if isinstance(output, tuple) else output


def with_states(output: Any, new: Tensor) -> Any:
    """What a block returned, with other hidden states."""
    return (new, *output[1:]) if isinstance(output, tuple) else new
