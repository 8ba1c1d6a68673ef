"""The module in which `gossamer.peft` holds its adapters, and which peft takes for the one layer that they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from gossamer import hosts
from gossamer.adapted.finishing import fold, leave
from gossamer.adapted.placement import Placement
from gossamer.errors import UserError
from gossamer.methods.base import Method

LAYER = "gossamer"  # name of the module that holds all adapters, in the backbone
PREFIX = f"{LAYER}.trees."


class Adapters(nn.Module, BaseTunerLayer):
    """Every adapter of a backbone by name, in peft's eyes its one tuner layer; at most one of them stands in the backbone.

    Attributes:
        trees: what each trains and saves.
        displaced: what gave its place to parts of each, so that it moves with the model.
    """

    adapter_layer_names = ("trees",)
    other_param_names = ("displaced",)
    model: nn.Module

    def __init__(self, model: nn.Module):
        super().__init__()
        object.__setattr__(self, "model", model)  # no child: this is a child of it
        self.trees, self.displaced = nn.ModuleDict(), nn.ModuleDict()
        self.placements: dict[str, Placement] = {}
        self.standing: str | None = None
        self._active_adapter, self.merged_adapters = [], []

    def get_base_layer(self) -> nn.Module:
        """The backbone."""
        return self.model

    def place(self, name: str, method: Method) -> None:
        """Takes up an adapter, which does not stand in the backbone yet.

        Raises:
            UserError: the method does not fit the backbone, or trains weights of the backbone's own.
        """
        with self._away():
            own = {id(p): name for name, p in self.model.named_parameters()}
            placed = Placement(self.model, [method], train_head=False, head=())
            shared = [own[id(p)] for p in placed.methods.parameters() if id(p) in own]
            if shared:
                placed.remove()
                raise UserError(
                    f"{method.name} trains weights of the backbone's own ({shared[0]}), of which there is one set for "
                    "all adapters of a peft model: use gossamer.adapt, which keeps a set for each"
                )
            placed.anatomy.suspend()
        self.placements[name], self.trees[name], self.displaced[name] = placed, placed.methods, placed.anatomy.displaced

    @contextmanager
    def _away(self) -> Iterator[None]:
        """The backbone as it was before any adapter came, while the context lasts."""
        inner, standing = hosts.of(self.model).inner(self.model), self.standing
        self._show(None)
        inner._modules.pop(LAYER, None)
        try:
            yield
        finally:
            inner.add_module(LAYER, self)
            self._show(standing)

    def _show(self, name: str | None) -> None:
        """Lets this adapter stand in the backbone, and no other."""
        if name == self.standing:
            return
        if self.standing is not None:
            self.placements[self.standing].anatomy.suspend()
        if name is not None:
            self.placements[name].anatomy.resume()
        self.standing = name

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Lets an adapter stand in the backbone from now on, and be trained unless `inference_mode`."""
        super().set_adapter(adapter_names, inference_mode)
        if not self.disable_adapters:
            self._show(next(iter(self.active_adapters), None))

    def enable_adapters(self, enabled: bool) -> None:
        """Lets the active adapter stand in the backbone, or none."""
        super().enable_adapters(enabled)
        self._show(next(iter(self.active_adapters), None) if enabled else None)

    def delete_adapter(self, adapter_name: str) -> None:
        """Lets an adapter go; if it was the active one, another one is."""
        if self.standing == adapter_name:
            self._show(None)
        super().delete_adapter(adapter_name)
        self.placements.pop(adapter_name, None)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """No: what is folded stays folded.

        Raises:
            UserError: always.
        """
        raise UserError(
            "merge_adapter() would have to be undone by unmerge_adapter(), and methods of ours are folded for good: "
            "merge_and_unload() gives the model that is left"
        )

    def unmerge(self) -> None:
        """Nothing was merged."""

    def leave(self, name: str | None) -> Placement | None:
        """Goes out of the backbone with every adapter but one, which is folded into it; None: with all."""
        self._show(name)
        del hosts.of(self.model).inner(self.model)._modules[LAYER]
        if name is None:
            return None
        placed = self.placements[name]
        leave(placed, fold(placed))
        placed.methods.requires_grad_(False)
        return placed
