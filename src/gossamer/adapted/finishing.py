"""The plain module that is left of an adapted one: equal in evaluation, without anything that only training needs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from gossamer.adapted.module import AdaptedModule
from gossamer.adapted.placement import occupy
from gossamer.hosts import Host, ReadOut


@torch.no_grad()
def finish(adapted: AdaptedModule) -> nn.Module:
    """A plain module, equal to an adapted model in evaluation: its backbone where the head is the backbone's own, else `Finished`.

    Prompt keys and values are stored, projections folded, peft's layers merged. A copy: the adapted model stays as it is.
    """
    return settle(copy.deepcopy(adapted).eval())


@torch.no_grad()
def settle(model: AdaptedModule) -> nn.Module:
    """The same of an adapted model itself, which is used up."""
    backbone = model.backbone
    # The last placed first, while what it was placed on is as it was.
    for tree in reversed(list(model.methods.values())):
        tree.finalize()  # type: ignore[operator]
    if model.anatomy.finish():
        model.host.tell_untied(backbone)
    for tree in model.methods.values():
        tree.release()  # type: ignore[operator]
    model.anatomy.prune()
    occupy(backbone, None)
    for parameter in [*model.parameters(), *backbone.parameters()]:
        parameter.requires_grad_(False)
    model.host.changed(backbone)
    model.host.finish(backbone)
    # The hooks call the methods' parts; as children of the model these move and save with it.
    placed = nn.ModuleDict({n: t for n, t in model.methods.items() if any(True for _ in t.state_dict())})
    if model.head_built is None:
        if placed:
            model.host.inner(backbone).add_module("gossamer", placed)
        return backbone
    return Finished(backbone, model.head_built, placed, model.host, model.readout)


class Finished(nn.Module):
    """A finished model whose head was built: backbone, read-out and head, called like the adapter was."""

    def __init__(self, backbone: Any, head: nn.Module, placed: nn.ModuleDict, host: Host, readout: ReadOut):
        super().__init__()
        self.backbone, self.head = backbone, head
        if placed:
            self.gossamer = placed
        self.host, self.readout = host, readout
        if readout.stack.readout in ("first", "mean", "last") and getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # never read

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """The logits for the backbone's inputs, in `.logits`."""
        as_tuple, inputs = self.host.wants_tuple(self.backbone, inputs)
        answer = self.readout.answer(self.head(self.host.features(self.backbone, self.readout, args, inputs)))
        return answer.to_tuple() if as_tuple else answer
