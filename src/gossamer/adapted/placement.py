"""Methods and a head in a backbone: how they get there, who sits there now, and how the backbone becomes what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gossamer import hosts, storage
from gossamer.anatomy import Anatomy
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError, WrongKind
from gossamer.methods.base import Method

OCCUPIED = "occupied"  # name of the module that says so, in a backbone that an adapter is attached to


class Occupied(Part):
    """In a backbone: which adapter is attached to it. No child of this: the backbone is a child of the adapter."""

    adapter: nn.Module

    def __init__(self, adapter: nn.Module):
        super().__init__()
        self.borrow(adapter=adapter)


def occupant(backbone: nn.Module) -> Any:
    """The adapter that is attached to a backbone, or to a model in it; None where there is none."""
    return next((module.adapter for module in backbone.modules() if isinstance(module, Occupied)), None)


def occupy(backbone: nn.Module, adapter: nn.Module | None) -> None:
    """Notes which adapter is attached to a backbone; a copy of both is attached to its own copy.

    The note is in the pre-trained model, since a module of the user's around it may run all its children (nn.Sequential).
    """
    model = hosts.of(backbone).inner(backbone)
    if adapter is not None:
        model.add_module(OCCUPIED, Occupied(adapter))
    elif OCCUPIED in model._modules:
        delattr(model, OCCUPIED)


class Placement:
    """Methods and a head as they sit in a backbone, and what it takes to have the backbone again as it was.

    Args:
        backbone: the model.
        applied: the methods.
        num_labels: outputs of the head; None keeps the head that was found.
        train_head: whether the head is trained.
        head: the modules that are the head, as in `gossamer.adapt`; None: those that the model itself declares.
        family: of blocks that no family describes, as in `gossamer.read`.

    Attributes:
        anatomy: of the backbone with everything in place.
        applied: the methods, settled.
        readout: where a head that was built reads.
        methods: the trees of the methods, by name.
        head: one that was built beside the backbone; None where it brings its own, or has none.
        originals: values of the trained parameters that are the backbone's own.
        origins: what the pre-trained weights were, by part of the backbone.

    Raises:
        TypeError: a method needs blocks, and no family knows the backbone, or only a part of it.
        UserError: its weights are offloaded, or nothing says what a part of it is.
        ValueError: a method does not fit, or nothing would be trained. The backbone is then as it was.
    """

    def __init__(
        self,
        backbone: nn.Module,
        applied: Sequence[Method],
        *,
        num_labels: int | None = None,
        train_head: bool = True,
        head: tuple[str, ...] | None = None,
        family: str | None = None,
    ):
        _require_present(backbone)
        self.backbone, self.host, self.anatomy = backbone, hosts.of(backbone), hosts.read(backbone, head, family)
        self.host.check_called(backbone)
        if head is None:
            self._check_claimed()
        self._check_read(applied)
        self.anatomy.check_whole_input()
        self.readout = self.host.read_out(self.anatomy)
        parts = self.host.parts(backbone).items()
        self.origins = {n: Origin.of(self.anatomy if part is backbone else self._part(part)) for n, part in parts}
        self.methods, self.head, self.applied = nn.ModuleDict(), None, tuple(applied)
        self._flags = {n: p.requires_grad for n, p in backbone.named_parameters()}
        self._modes = {n: m.training for n, m in backbone.named_modules()}
        self._labels = self.host.labels(backbone)
        self.originals: dict[str, Tensor] = {}
        self._statistics = {n: b.clone() for n, b in _statistics(backbone).items()}
        try:
            self._place(applied, num_labels, train_head)
        except BaseException:
            self.remove()
            raise

    def _place(self, applied: Sequence[Method], num_labels: int | None, train_head: bool) -> None:
        if num_labels is not None:
            self.head = self.host.place_head(self.anatomy, num_labels, lambda *sizes: self._new_head(applied, *sizes))
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(False)
        self.anatomy.sites = [site for method in applied for site in method.skipped(self.anatomy)]
        self.applied = tuple(method.settled(self.anatomy) for method in applied)
        for method in self.applied:
            self.methods[_unique(method.name, self.methods)] = method.attach(self.anatomy)
        heads = list(self.anatomy.heads.values()) if self.head is None else [self.head]
        for head in heads:
            head.requires_grad_(train_head)
        self._check_owners(heads)
        ours = {id(p): p for tree in (*self.methods.values(), *heads) for p in tree.parameters()}
        self.originals = {n: p.detach().clone() for n, p in self.backbone.named_parameters() if id(p) in ours}
        if not any(p.requires_grad for p in ours.values()) and any(method.trains for method in applied):
            raise UserError(
                f"nothing would be trained: {', '.join(m.name for m in applied) or 'no method'} trains no part of "
                f"{type(self.backbone).__name__} and there is no head; give num_labels=... for a head, or a method such as VPT()"
            )

    def _check_claimed(self) -> None:
        names = self.host.unclaimed(self.backbone)
        if names:
            raise UserError(
                f"nothing says what these parts of {type(self.backbone).__name__} are, and they would be frozen: "
                f"{', '.join(names)}. Name those that are its head, to be trained and saved: head=({names[0]!r},), or head=()"
            )

    def _check_read(self, applied: Sequence[Method]) -> None:
        """TypeError where a method needs blocks that no family knows, or would reach only those that one knows unasked."""
        for method in (m for m in applied if m.reads_blocks):
            self.anatomy.check_known()
            if self.anatomy.unread and not any(getattr(method, field, None) for field in ("stack", "stacks")):
                raise WrongKind(self._partly(method))

    def _partly(self, method: Method) -> str:
        known = ", ".join(f"{n} ({len(b)} blocks, {b[0].name} ...)" for n, b in self.anatomy.stacks.items())
        unread = ", ".join(f"{path} ({kind})" for path, kind in self.anatomy.unread.items())
        way = "it does not fit this model"
        for field, value in (("stack", self.anatomy.main), ("stacks", (self.anatomy.main,))):
            if hasattr(method, field):
                way = f"say {field}={value!r} if that is meant"
        return (
            f"{type(self.backbone).__name__} is read in part: {known}; no family knows {unread}. {method.name} would reach what "
            f"is read alone: {way}. Configurations of peft, BitFit and FullFineTuning reach every part"
        )

    def _new_head(self, applied: Sequence[Method], width: int, outputs: int) -> nn.Module:
        """The head of the first method that comes with one, else a Linear."""
        offered = (method.head(self.anatomy, width, outputs) for method in applied)
        found = next((head for head in offered if head is not None), None)
        return nn.Linear(width, outputs) if found is None else found

    def _check_owners(self, heads: Sequence[nn.Module]) -> None:
        owners: dict[int, str] = {}
        for name, tree in [*self.methods.items(), *(("the head", head) for head in heads)]:
            for parameter in tree.parameters():
                other = owners.setdefault(id(parameter), name)
                if other != name:
                    raise UserError(f"{other} and {name} would both train the same parameters: leave one of them out")

    def _part(self, part: nn.Module) -> Anatomy:
        """The anatomy of a part as it is now, of the backbone with the same heads."""
        return hosts.read(part, tuple(self.anatomy.heads) if part is self.backbone else None)

    def changed(self) -> str | None:
        """What of the backbone's own weights is no more as it was when the methods came, in words; None where all is."""
        own = {id(p): self.originals[n] for n, p in self.backbone.named_parameters() if n in self.originals}
        with self.anatomy.bare():
            found = [
                origin.against(self._part(part), own)
                for origin, part in zip(self.origins.values(), self.host.parts(self.backbone).values(), strict=True)
            ]
        return next((words for words in found if words), None)

    def remove(self) -> None:
        """Takes everything out of the backbone, which is then bit for bit as it was."""
        named, moved = dict(self.backbone.named_parameters()), _statistics(self.backbone)
        with torch.no_grad():
            for name, value in self.originals.items():
                named[name].copy_(value)
            for name, value in self._statistics.items():
                if name in moved:
                    moved[name].copy_(value)
        self.anatomy.undo()
        for name, flag in self._flags.items():
            self.backbone.get_parameter(name).requires_grad_(flag)
        for name, mode in self._modes.items():
            self.backbone.get_submodule(name).training = mode
        self.host.tell_labels(self.backbone, self._labels)


def _unique(name: str, taken: Any) -> str:
    names = [name, *(f"{name}_{i}" for i in range(2, 99))]
    return next(n for n in names if n not in taken)


def _require_present(backbone: nn.Module) -> None:
    """UserError for a backbone whose parameters accelerate keeps elsewhere than it computes with them (offloading).

    What a method places would be made where the parameters are kept, and what it reads of them would have no values.
    """
    hooked = {n: m for n, m in backbone.named_modules() if hasattr(m, "_hf_hook")}  # what accelerate calls it
    if not hooked:
        return
    from accelerate.hooks import CpuOffload  # moves a whole model; the other hooks each the module that they are on

    elsewhere = []
    for name, module in hooked.items():
        for one in getattr(module._hf_hook, "hooks", [module._hf_hook]):
            device = getattr(one, "execution_device", None)
            moved = module.parameters(recurse=isinstance(one, CpuOffload))
            if device is not None and any(not _same(p.device, torch.device(device)) for p in moved):
                elsewhere.append(name or type(module).__name__)
    if elsewhere:
        raise UserError(
            f"{len(elsewhere)} modules of this {type(backbone).__name__} are offloaded ({', '.join(elsewhere[:3])}, ...): their "
            "weights lie elsewhere and come for each call only, so nothing can be placed beside them; load the model onto its "
            'device, without offloading (device_map={"": 0}, or a smaller dtype where it does not fit)'
        )


def _same(one: torch.device, other: torch.device) -> bool:
    return one.type == other.type and (None in (one.index, other.index) or one.index == other.index)


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """What batch normalisation counts while it trains, by name."""
    return {
        f"{name}.{leaf}": buffer
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for leaf, buffer in module.named_buffers(recurse=False)
    }


class Origin(NamedTuple):
    """The pre-trained weights of a model at one moment: what they are, their type, and their shapes by name."""

    fingerprint: str | None
    dtype: str
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, anatomy: Anatomy, instead: Mapping[int, Tensor] = MappingProxyType({})) -> Origin:
        """That of a model as it is, with other values `instead` of some parameters, by their id."""
        tensors = [(n, instead.get(id(p), p)) for n, p in _identifying(anatomy)]
        meta = any(p.device.type == "meta" for _, p in tensors)  # no values
        shapes = {n: tuple(p.shape) for n, p in tensors}
        dtype = str(next(anatomy.model.parameters()).dtype).removeprefix("torch.")
        return cls(None if meta else storage.fingerprint(tensors), dtype, shapes)

    def against(self, anatomy: Anatomy, instead: Mapping[int, Tensor]) -> str | None:
        """How the weights of a model are no more these, in words; None where they are, be it in another type."""
        model, now = anatomy.model, Origin.of(anatomy, instead)
        for name in sorted({*self.shapes, *now.shapes}):
            if self.shapes.get(name) != now.shapes.get(name):
                return f"{name} of {type(model).__name__} was {self.shapes.get(name)} and is {now.shapes.get(name)}"
        if now.dtype == self.dtype and now.fingerprint != self.fingerprint:
            return f"the frozen weights of {type(model).__name__} have other values"
        return None


def _identifying(anatomy: Anatomy) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters by which a pre-trained model is known: those outside its heads.

    A pooler that nothing reads does not count: where a checkpoint has none, each loading makes a random one.
    """
    owner = anatomy.owner() if anatomy.stacks else anatomy.model
    read = anatomy.heads or (anatomy.stacks and anatomy.blocks()[0].stack.readout == "pooled")
    pooler = None if read else getattr(owner, "pooler", None)
    unread = {id(p) for p in pooler.parameters()} if isinstance(pooler, nn.Module) else set()
    return [(n, p) for n, p in anatomy.backbone_parameters() if id(p) not in unread]
