"""Task heads: found in the model that is adapted, or built on what its family reads out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy import Anatomy
from gossamer.anatomy.stack import Stack
from gossamer.errors import UserError, WrongKind


def find(model: Any, anatomy: Anatomy) -> dict[str, nn.Module]:
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
        if not (
            runs_blocks or child is output or isinstance(child, nn.Embedding) or next(child.parameters(), None) is None
        ):
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
        raise WrongKind(f"the head {type(head).__name__} has no Linear that gives logits")
    return linears[-1]


def place(anatomy: Anatomy, num_labels: int, make: Callable[[int, int], nn.Module] = nn.Linear) -> nn.Module | None:
    """Gives a model a head with `num_labels` outputs: one that it has is resized in place, else make(width, outputs) is returned.

    Raises:
        ValueError: the model is a language model, whose output layer is no classifier, or there would be no outputs.
    """
    model: Any = anatomy.model
    if num_labels < 1:
        raise UserError(f"num_labels must be at least 1, got {num_labels}")
    if not anatomy.heads:
        if getattr(model, "get_output_embeddings", lambda: None)() is not None:
            raise UserError(
                f"{type(model).__name__} is a language model; num_labels={num_labels} asks for a classifier: "
                "load the bare encoder, or the ...ForSequenceClassification class"
            )
        first = next(model.parameters())
        stack, own = anatomy.blocks()[-1].stack, anatomy.blocks()[-1].sizes.width
        width = getattr(getattr(anatomy.owner(), "config", None), "hidden_size", own)
        width *= stack.pooled if stack.readout == "pooled" else 1
        return make(width, num_labels).to(device=first.device, dtype=first.dtype)
    for name, head in anatomy.heads.items():
        if outputs(head) != num_labels:
            anatomy.swap(name, _resized(head, num_labels))
    anatomy.heads = {name: model.get_submodule(name) for name in anatomy.heads}
    for holder, attribute in (
        (getattr(model, "config", None), "num_labels"),
        (model, "num_labels"),
        (model, "num_classes"),
    ):
        if hasattr(holder, attribute):
            setattr(holder, attribute, num_labels)
    return None


def _resized(head: nn.Module, num_labels: int) -> nn.Module:
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


def label_counts(model: Any) -> dict[str, Any]:
    """What a model says about its labels, for `restore_label_counts`."""
    config = getattr(model, "config", None)
    known = {} if config is None or "id2label" not in config.__dict__ else config.__dict__
    return {
        "model": {n: model.__dict__[n] for n in ("num_labels", "num_classes") if n in model.__dict__},
        "config": {n: dict(known[n]) for n in ("id2label", "label2id") if known.get(n) is not None},
    }


def restore_label_counts(model: Any, counts: dict[str, Any]) -> None:
    """Gives a model back what it said about its labels."""
    for name, value in counts["model"].items():
        setattr(model, name, value)
    for name, value in counts["config"].items():
        setattr(model.config, name, value)


def read_out(stack: Stack, output: Any, inputs: dict[str, Any], *, two_sided: bool) -> Tensor:
    """One vector a sample [B, d] from a backbone's output, as `Stack.readout` says; `inputs` hold the mask of padding.

    `two_sided`: the model has an encoder, so that a decoder's mask has a name of its own.
    """
    kind, patches = stack.readout, stack.modality == "vision"
    mask = inputs.get("decoder_attention_mask" if two_sided and stack.name == "decoder" else "attention_mask")
    mask = None if mask is None or mask.dim() != 2 else mask
    if kind == "pooled":
        pooled = output.pooler_output
        if pooled is None:
            raise WrongKind("the model was made without its pooler, so there is no pooled output to put a head on")
        return pooled
    states = output if isinstance(output, Tensor) else output.last_hidden_state
    if mask is None or patches or mask.shape[1] != states.shape[1]:
        seen = states.new_ones(states.shape[:2])
    else:
        seen = mask.to(states.dtype)
    if kind == "mean":
        weights = seen[:, :, None]
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    if kind == "last":
        steps = torch.arange(states.shape[1], device=states.device)
        return states[torch.arange(len(states), device=states.device), (steps * seen.long()).argmax(dim=1)]
    return states[:, 0]


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy for class indices [B], binary cross-entropy for scores [B, C], squared error for one output."""
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype).view(-1))
    if labels.dim() == logits.dim() and labels.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)
