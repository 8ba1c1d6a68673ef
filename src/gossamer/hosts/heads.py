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

Logits = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
"""What gives logits: one Linear for a sample or a token, one convolution for every place of a map."""


def given(layer: Logits) -> int:
    """Values that a layer gives for a sample, or a place of it."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def logits_of(head: nn.Module, labels: int | None = None) -> tuple[str, Logits] | None:
    """Path and layer that gives a head's logits; None where it has none.

    It is the last that gives as many values as the model says it has `labels`. Where none does, or the model does not say, it is
    the last Linear: a convolution may as well give pixels.
    """
    layers = [(n, m) for n, m in head.named_modules() if isinstance(m, Logits)]
    fitting = [pair for pair in layers if given(pair[1]) == labels]
    linears = [pair for pair in layers if isinstance(pair[1], nn.Linear)]
    return next(reversed(fitting or linears), None)


def last_linear(head: nn.Module) -> nn.Linear:
    """The Linear that gives the logits.

    Raises:
        TypeError: the head has none.
    """
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise WrongKind(f"the head {type(head).__name__} has no Linear that gives logits")
    return linears[-1]


def outputs(head: nn.Module, labels: int | None = None) -> int | None:
    """Number of values a head gives for a sample, or a place of it; None where no layer gives logits. `labels`: see `logits_of`."""
    found = logits_of(head, labels)
    return None if found is None else given(found[1])


def resized(head: nn.Module, num_labels: int, labels: int | None = None) -> nn.Module:
    """A copy of a head whose layer of logits is a fresh one that gives `num_labels` values; `labels` as in `logits_of`.

    Raises:
        TypeError: the head has none.
    """
    found = logits_of(head, labels)
    if found is None:
        raise WrongKind(f"the head {type(head).__name__} has no Linear and no convolution that gives logits")
    path, last = found
    options: dict[str, Any] = {"bias": last.bias is not None, "device": last.weight.device, "dtype": last.weight.dtype}
    if isinstance(last, nn.Linear):
        fresh: nn.Module = nn.Linear(last.in_features, num_labels, **options)
    else:
        shape = (last.kernel_size, last.stride, last.padding, last.dilation)
        fresh = type(last)(last.in_channels, num_labels, *shape, **options)  # type: ignore[arg-type]
    if not path:
        return fresh
    new = copy.deepcopy(head)
    parent, _, child = path.rpartition(".")
    setattr(new.get_submodule(parent), child, fresh)
    return new


def named(model: nn.Module, asked: Any) -> dict[str, nn.Module]:
    """The modules of a model that are asked for as its heads, by name: a name, a module of it, or several; () are none.

    Raises:
        UserError: there is no such module, it has no parameters, it lies in another one, or shares parameters with the rest.
    """
    several = [asked] if isinstance(asked, str | nn.Module) else list(asked)
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, nn.Module] = {}
    for one in several:
        name = names.get(id(one)) if isinstance(one, nn.Module) else one
        if not isinstance(name, str) or not name or name not in names.values():
            known = ", ".join(n for n, _ in model.named_children())
            raise UserError(
                f"head={_said(one)}: no such module in {type(model).__name__}; it has {known}, and what is inside these"
            )
        found[name] = model.get_submodule(name)
    for name, module in found.items():
        inside = {id(p) for p in module.parameters()}
        if not inside:
            raise UserError(f"head={name!r}: this {type(module).__name__} has no parameters to train")
        if any(name.startswith(f"{other}.") for other in found):
            raise UserError(f"head={tuple(found)}: {name} lies in another one of them; leave it out")
        rest = [n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in inside]
        shared = next((n for n in rest if not any(n.startswith(f"{other}.") for other in found)), None)
        if shared is not None:
            raise UserError(
                f"head={name!r} shares {shared} with the pre-trained model, which would be trained with it: name what is its own, "
                f"such as {', '.join(f'{name}.{n}' for n, _ in module.named_children()) or 'another module'}"
            )
    return found


def _said(one: Any) -> str:
    return repr(one) if isinstance(one, str) else type(one).__name__


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
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            raise WrongKind("the model was made without its pooler, so there is no pooled output to put a head on")
        return pooled
    states = output if isinstance(output, Tensor) else getattr(output, "last_hidden_state", None)
    if states is None:
        raise WrongKind(
            f"{type(output).__name__} has no last_hidden_state that a head could read; give a model that has"
        )
    if states.dim() == 4:  # a map
        return states.mean(dim=(1, 2) if stack.gives is not None and stack.gives.channels_last else (2, 3))
    if kind == "first":
        return states[:, 0]
    weights = _weights(stack, states, inputs, two_sided, ledger)
    if kind == "mean":
        return (states * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)
    steps = torch.arange(states.shape[1], device=states.device)
    return states[torch.arange(states.shape[0], device=states.device), (steps * (weights > 0)).argmax(dim=1)]


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
