"""The plain module that is left of an adapted one: equal in evaluation, without anything that only training needs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from gossamer.adapted.module import AdaptedModule
from gossamer.adapted.placement import occupy
from gossamer.errors import UserError
from gossamer.hosts import Host, ReadOut


@torch.no_grad()
def finish(adapted: AdaptedModule) -> nn.Module:
    """A plain module, equal to an adapted model in evaluation: its backbone where the head is the backbone's own, else `Finished`.

    Prompt keys and values are stored, projections folded, peft's layers merged. A copy: the adapted model stays as it is.
    """
    model = copy.deepcopy(adapted).eval()
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
    # The hooks call the methods' parts; as children of the model these move and save with it.
    placed = nn.ModuleDict({n: t for n, t in model.methods.items() if any(True for _ in t.state_dict())})
    if model.head_built is None:
        if placed:
            backbone.add_module("gossamer", placed)
        if isinstance(backbone, PreTrainedModel):
            backbone.save_pretrained = Whole(backbone)  # type: ignore[method-assign]
        return backbone
    return Finished(backbone, model.head_built, placed, model.host, model.readout)


class Whole:
    """`save_pretrained` of a finished model of transformers: as ever where `from_pretrained` would give this model again.

    That makes the plain class from its configuration: what a method left in it beside merged weights would be gone, and a block
    that it took away would be random.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Saves the model.

        Raises:
            UserError: something of it would be lost.
        """
        kind = type(self.model)
        with torch.device("meta"):
            plain = kind(copy.deepcopy(self.model.config))
        theirs, ours = ({n: t.shape for n, t in m.state_dict().items()} for m in (plain, self.model))
        apart = sorted(n for n in {*theirs, *ours} if theirs.get(n) != ours.get(n))
        apart += [n for n, m in self.model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
        if apart:
            raise UserError(
                f"{kind.__name__}.from_pretrained would not give this finished model again: {apart[0]} is what a method made of "
                "it. Keep the adapter instead (adapted.save_pretrained; then gm.load and finalize()), or export it: gossamer export"
            )
        return kind.save_pretrained(self.model, *args, **options)


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
        return self.readout.answer(self.head(self.host.features(self.backbone, self.readout, args, inputs)))
