"""Task heads: found in the model that is adapted, or built on what its family reads out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy import Anatomy


def find(model: nn.Module, anatomy: Anatomy) -> dict[str, nn.Module]:
    """Task heads that a model brings, by name; none for a bare backbone or a language model.

    In a Hugging Face task model (`...For...`), every child with parameters that neither runs blocks nor embeds tokens. The output
    embeddings of a language model are part of what was pre-trained, not a task head. timm: its classifier.
    """
    if hasattr(model, "get_classifier"):
        classifier = model.get_classifier()
        return {n: m for n, m in model.named_modules() if m is classifier and next(m.parameters(), None) is not None}
    if "For" not in type(model).__name__:
        return {}
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    heads = {}
    for name, child in model.named_children():
        runs_blocks = any(owner == name or owner.startswith(f"{name}.") for owner in anatomy.owners.values())
        runs_blocks = runs_blocks or any(b.name.startswith(f"{name}.") for b in anatomy)
        if not (runs_blocks or child is output or isinstance(child, nn.Embedding) or next(child.parameters(), None) is None):
            heads[name] = child
    return heads


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
        raise TypeError(f"the head {type(head).__name__} has no Linear that gives logits")
    return linears[-1]


def read_out(kind: str, output: Any, mask: Tensor | None, patches: bool) -> Tensor:
    """One vector a sample [B, d] from a backbone's output, as `Stack.readout` says."""
    if kind == "pooled":
        pooled = output.pooler_output
        if pooled is None:
            raise TypeError("the model was made without its pooler, so there is no pooled output to put a head on")
        return pooled
    states = output if isinstance(output, Tensor) else output.last_hidden_state
    if mask is None or patches or mask.shape[1] != states.shape[1]:
        mask = states.new_ones(states.shape[:2])
    if kind == "mean":
        weights = mask.to(states.dtype)[:, :, None]
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    if kind == "last":
        steps = torch.arange(states.shape[1], device=states.device)
        return states[torch.arange(len(states), device=states.device), (steps * mask.long()).argmax(dim=1)]
    return states[:, 0]


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy for class indices [B], binary cross-entropy for scores [B, C], squared error for one output."""
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype).view(-1))
    if labels.dim() == logits.dim() and labels.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)
