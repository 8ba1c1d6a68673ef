"""Task heads as modules: what they give, another size of one, what a built one reads, and its loss."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy.stack import Stack
from gossamer.anatomy.tokens import Ledger
from gossamer.errors import UserError, WrongKind


def outputs(head: nn.Module) -> int | None:
    """Number of values a head gives for a sample: its last Linear's rows; None if it has no Linear."""
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    return linears[-1].out_features if linears else None


def last_linear(head: nn.Module) -> nn.Linear:
    """The Linear that gives the logits.

    Raises:
        TypeError: the head has none.
    """
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise WrongKind(f"the head {type(head).__name__} has no Linear that gives logits")
    return linears[-1]


def resized(head: nn.Module, num_labels: int) -> nn.Module:
    """A copy of a head whose last Linear is a fresh one with `num_labels` rows."""
    last = last_linear(head)
    options = {"bias": last.bias is not None, "device": last.weight.device, "dtype": last.weight.dtype}
    linear = nn.Linear(last.in_features, num_labels, **options)
    path = next(name for name, module in head.named_modules() if module is last)
    if not path:
        return linear
    new = copy.deepcopy(head)
    parent, _, child = path.rpartition(".")
    setattr(new.get_submodule(parent), child, linear)
    return new


def read_out(
    stack: Stack, output: Any, inputs: Mapping[str, Any], *, two_sided: bool, ledger: Ledger | None = None
) -> Tensor:
    """One vector a sample [B, d] from a backbone's output, as `Stack.readout` says; `inputs` hold the mask of padding.

    Args:
        stack: whose states the output is.
        output: of the backbone.
        inputs: that it was called with.
        two_sided: the model has an encoder, so that a decoder's mask has a name of its own.
        ledger: which rows of the output were inserted, or stand for several tokens; None: all are the model's own tokens.
    """
    kind = stack.readout
    if kind == "pooled":
        pooled = output.pooler_output
        if pooled is None:
            raise WrongKind("the model was made without its pooler, so there is no pooled output to put a head on")
        return pooled
    states = output if isinstance(output, Tensor) else output.last_hidden_state
    if kind == "first":
        return states[:, 0]
    weights = _weights(stack, states, inputs, two_sided, ledger)
    if kind == "mean":
        return (states * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)
    steps = torch.arange(states.shape[1], device=states.device)
    return states[torch.arange(len(states), device=states.device), (steps * (weights > 0)).argmax(dim=1)]


def _weights(stack: Stack, states: Tensor, inputs: Mapping[str, Any], two_sided: bool, ledger: Ledger | None) -> Tensor:
    """How many tokens each row of states [B, N, d] counts for [B, N]: 0 where padding stands.

    Raises:
        ValueError: the mask of padding is for another number of tokens, so that nobody knows which rows it hides.
    """
    weights = states.new_ones(states.shape[:2]) if ledger is None else ledger.weights(states)
    mask = inputs.get("decoder_attention_mask" if two_sided and stack.name == "decoder" else "attention_mask")
    if mask is None or mask.dim() != 2 or stack.modality == "vision":
        return weights
    seen = mask if ledger is None else ledger.widen(mask)
    if seen.shape[1] != states.shape[1]:
        raise UserError(
            f"a mask of {mask.shape[1]} tokens for states of {states.shape[1]}: give the mask of the whole text"
        )
    return weights * seen.to(states.dtype)


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy for class indices [B], binary cross-entropy for scores [B, C], squared error for one output."""
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype).view(-1))
    if labels.dim() == logits.dim() and labels.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)
