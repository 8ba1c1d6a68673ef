"""The plain module that is left of an adapted one: equal in evaluation, without anything that only training needs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from gossamer.adapted.module import AdaptedModule
from gossamer.adapted.placement import Placement, occupy
from gossamer.hosts import Host, ReadOut

LEFT = "gossamer"  # name of the module that goes on running in a finished model


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
    occupy(backbone, None)
    assert model.placement is not None, "it is attached"
    placed = fold(model.placement)
    for parameter in [*model.parameters(), *backbone.parameters()]:
        parameter.requires_grad_(False)
    if model.head_built is None:
        leave(model.placement, placed)
        return backbone
    return Finished(backbone, model.head_built, placed, model.host, model.readout)


@torch.no_grad()
def fold(placement: Placement) -> nn.ModuleDict:
    """Folds methods into the backbone that they stand in, for good; what of them goes on running, by name."""
    anatomy, host, trees = placement.anatomy, placement.host, placement.methods
    # The last placed first, while what it was placed on is as it was.
    for tree in reversed(list(trees.values())):
        tree.finalize()  # type: ignore[operator]
    if anatomy.finish():
        host.tell_untied(placement.backbone)
    for tree in trees.values():
        tree.release()  # type: ignore[operator]
    anatomy.prune()
    anatomy.session.turn()
    host.finish(placement.backbone)
    return nn.ModuleDict({n: t for n, t in trees.items() if any(True for _ in t.state_dict())})


def leave(placement: Placement, placed: nn.ModuleDict) -> None:
    """What goes on running becomes a child of the model: the hooks call it, and so it moves and saves with the model."""
    if placed:
        placement.host.inner(placement.backbone).add_module(LEFT, placed)


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
