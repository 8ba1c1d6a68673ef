"""A backbone, the methods that adapt it, and its head: what `adapt` makes, Trainer trains and `load` brings back."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutput

from gossamer import anatomy as anatomy_module
from gossamer import checkpointing, heads, methods, storage, versions
from gossamer.methods.base import Method
from gossamer.models.vision_language import VisionLanguage

if TYPE_CHECKING:
    from gossamer.cost import CostSheet

OCCUPANT = "gossamer_occupant"  # set on a backbone while an Adapted is attached to it


class Adapted(nn.Module):
    """A frozen backbone with methods and a head, as one module.

    Called like the backbone. Its state dict holds only what adapting adds or trains, under names of our own, so checkpoints are
    small. What the backbone offers besides (`config`, `generate`, `device`, ...) is found here too.

    Args:
        backbone: a model of transformers or timm that a known family describes.
        applied: the methods, in the order in which they are placed (peft's first, since they wrap modules).
        num_labels: outputs of the head; None keeps the head that was found.
        train_head: whether the head is trained. It is saved either way.
    """

    def __init__(
        self, backbone: nn.Module, applied: Sequence[Method], *, num_labels: int | None = None, train_head: bool = True
    ):
        super().__init__()
        self.backbone = backbone
        self.applied = tuple(sorted(applied, key=lambda m: m.name != "peft"))
        self.num_labels, self.train_head = num_labels, train_head
        self.metadata: dict[str, Any] = {}
        self.methods = nn.ModuleDict()
        self.head_built: nn.Module | None = None
        self.kept: dict[str, Tensor] | None = None
        self.checkpointing = False
        self.attach()

    # ---- attaching and detaching ----

    def attach(self) -> Adapted:
        """Places the methods in the backbone; another adapter that sits there steps aside, and can be attached again later.

        Parameters are made anew with the values they had: give an optimizer the new ones.
        """
        other = self.backbone.__dict__.get(OCCUPANT)
        if other is self:
            return self
        if other is not None:
            other.detach()
        try:
            self._attach()
        except BaseException:
            if other is not None:
                other.attach()
            raise
        return self

    def _attach(self) -> None:
        self.anatomy = anatomy_module.read(self.backbone)
        self.anatomy.check_whole_input()
        self.anatomy.heads = heads.find(self.backbone, self.anatomy)
        self._before = {
            "grad": {n: p.requires_grad for n, p in self.backbone.named_parameters()},
            "train": {n: m.training for n, m in self.backbone.named_modules()},
            "labels": heads.label_counts(self.backbone),
        }
        self.fingerprints = {name: _fingerprint(part) for name, part in parts(self.backbone).items()}
        self._originals: dict[str, Tensor] = {}
        kept = self.kept
        self.backbone.__dict__[OCCUPANT] = self
        try:
            self._place()
            if kept is not None:
                self.load_state_dict(kept)
        except BaseException:
            self.detach()
            self.kept = kept
            raise
        self.kept = None
        self.train(self.training)

    def _place(self) -> None:
        if self.num_labels is not None:
            self.head_built = heads.place(self.anatomy, self.num_labels, self._new_head)
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(False)
        self.anatomy.sites = [site for method in self.applied for site in method.skipped(self.anatomy)]
        for method in self.applied:
            self.methods[_unique(method.name, self.methods)] = method.attach(self.anatomy)
        for head in self.head_modules().values():
            head.requires_grad_(self.train_head)
        self._check_owners()
        shared = {id(p) for p in [*self.methods.parameters(), *self._head_parameters().values()]}
        self._originals = {n: p.detach().clone() for n, p in self.backbone.named_parameters() if id(p) in shared}
        if not self.trainable():
            raise ValueError(
                f"nothing would be trained: {', '.join(m.name for m in self.applied) or 'no method'} trains no part of "
                f"{type(self.backbone).__name__} and there is no head; give num_labels=... for a head, or a method such as VPT()"
            )

    def _new_head(self, width: int, outputs: int) -> nn.Module:
        """The head of the first method that comes with one, else a Linear."""
        offered = (method.head(self.anatomy, width, outputs) for method in self.applied)
        found = next((head for head in offered if head is not None), None)
        return nn.Linear(width, outputs) if found is None else found

    def _check_owners(self) -> None:
        owners: dict[int, str] = {}
        for name, tree in [*self.methods.items(), *(("the head", head) for head in self.head_modules().values())]:
            for parameter in tree.parameters():
                other = owners.setdefault(id(parameter), name)
                if other != name:
                    raise ValueError(f"{other} and {name} would both train the same parameters: leave one of them out")

    def detach(self) -> nn.Module:
        """Takes everything off the backbone and returns it, bit for bit as it was. `attach` puts it back."""
        if self.backbone.__dict__.get(OCCUPANT) is not self:
            return self.backbone
        self.activation_checkpointing_disable()
        self.kept = {k: v.detach().clone() for k, v in self.state_dict().items()}
        named = dict(self.backbone.named_parameters())
        with torch.no_grad():
            for name, value in self._originals.items():
                named[name].copy_(value)
        self.anatomy.undo()
        for name, flag in self._before["grad"].items():
            self.backbone.get_parameter(name).requires_grad_(flag)
        for name, mode in self._before["train"].items():
            self.backbone.get_submodule(name).training = mode
        heads.restore_label_counts(self.backbone, self._before["labels"])
        self.methods, self.head_built = nn.ModuleDict(), None
        del self.backbone.__dict__[OCCUPANT]
        return self.backbone

    @property
    def fingerprint(self) -> str | None:
        """The identity of the pre-trained weights (of both halves, where there are two); None on the meta device."""
        found = list(self.fingerprints.values())
        return None if None in found else found[0] if len(found) == 1 else storage.combined(self.fingerprints)

    @property
    def attached(self) -> bool:
        """Whether the methods are in the backbone now."""
        return self.backbone.__dict__.get(OCCUPANT) is self

    # ---- being a module ----

    def forward(
        self,
        *args: Any,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """What the backbone returns for these inputs, with `loss` where labels are given and `logits` where there is a head.

        The named inputs are those of the models in use; others pass through. A timm model answers `pixel_values=` or labels with
        an ImageClassifierOutput, and a positional image tensor alone with its own logits.
        """
        self._must_be_attached()
        named = {
            "input_ids": input_ids, "pixel_values": pixel_values, "attention_mask": attention_mask,
            "token_type_ids": token_type_ids, "pixel_mask": pixel_mask, "position_ids": position_ids,
            "inputs_embeds": inputs_embeds, "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
        }  # fmt: skip
        inputs = {k: v for k, v in named.items() if v is not None} | kwargs
        if self.head_built is not None:
            logits = self.head_built(self._read_out(*args, **inputs))
            return self._answer(logits, labels)
        if hasattr(self.backbone, "config"):
            return self.backbone(*args, **inputs, **({} if labels is None else {"labels": labels}))
        logits = self.backbone(*args, **timm_inputs(inputs))
        return logits if args and labels is None else self._answer(logits, labels)

    def _answer(self, logits: Tensor, labels: Tensor | None) -> Any:
        vision = self.anatomy.readout.modality == "vision"
        answer = ImageClassifierOutput if vision else SequenceClassifierOutput
        return answer(loss=None if labels is None else heads.loss(logits, labels), logits=logits)  # type: ignore[arg-type]

    def _read_out(self, *args: Any, **inputs: Any) -> Tensor:
        stack = self.anatomy.readout
        if not hasattr(self.backbone, "config"):
            states = self.backbone.forward_features(*args, **timm_inputs(inputs))  # type: ignore[operator]
            return self.backbone.forward_head(states, pre_logits=True)  # type: ignore[operator]
        if "input_ids" not in inputs and not args and stack.modality == "text" and "inputs_embeds" not in inputs:
            raise ValueError("a text model needs input_ids")
        output = self.backbone(*args, **inputs)
        return heads.read_out(stack, output, inputs, two_sided="encoder" in self.anatomy.stacks)

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether Trainer may leave the average over accumulated batches to the loss: never where the loss is ours."""
        if self.head_built is not None or not hasattr(self.backbone, "config"):
            return False
        parameters = inspect.signature(self.backbone.forward).parameters.values()
        return getattr(self.backbone, "accepts_loss_kwargs", any(p.kind is p.VAR_KEYWORD for p in parameters))

    def features(self, *args: Any, **inputs: Any) -> Tensor:
        """What the head's last Linear reads for these inputs, [B, width]."""
        self._must_be_attached()
        if self.head is None:
            raise TypeError(f"{type(self.backbone).__name__} has no head; adapt it with num_labels=...")
        probe = _Input()
        handle = heads.last_linear(self.head).register_forward_pre_hook(probe.keep)
        try:
            self(*args, **inputs)
        finally:
            handle.remove()
        return probe.x

    def _must_be_attached(self) -> None:
        if not self.attached:
            raise RuntimeError("this adapter is detached from its backbone: call attach() first")

    def train(self, mode: bool = True) -> Adapted:
        """Training mode for methods and head. The frozen backbone stays in evaluation mode, its dropout off, unless a method
        trains the backbone itself (full fine-tuning, BitFit).
        """
        super().train(mode)
        if not any(m.trains_backbone for m in self.applied) and self.attached:
            self.backbone.train(False)
            self.methods.train(mode)
            for head in self.head_modules().values():
                head.train(mode and self.train_head)
            for block in self.anatomy if mode else ():
                checkpointing.prepare(block.module)
        return self

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Trades time for memory: blocks compute their activations again in the backward pass. Never re-entrant, because
        methods reach blocks from outside their arguments. `options` are those of transformers (`every_n_layers`, `offload`).
        """
        checkpointing.enable(self.backbone, activation_checkpointing_kwargs, **options)
        self.checkpointing = True
        self.train(self.training)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """The older name of `activation_checkpointing_enable`, under which earlier Trainers look for it."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self) -> None:
        """Keeps activations again."""
        if self.checkpointing:
            checkpointing.disable(self.backbone)
            self.checkpointing = False
            self.train(self.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "backbone":
                raise
            return getattr(self.backbone, name)

    # ---- what is trained and saved ----

    @property
    def head(self) -> nn.Module | None:
        """The task head (the first, where a model has several), or None for a model without."""
        return next(iter(self.head_modules().values()), None)

    def head_modules(self) -> dict[str, nn.Module]:
        """Every task head by its name: "head" for one that was built."""
        return {"head": self.head_built} if self.head_built is not None else dict(self.anatomy.heads)

    def _head_parameters(self) -> dict[str, nn.Parameter]:
        several = len(self.head_modules()) > 1
        return {
            f"head.{name}.{leaf}" if several else f"head.{leaf}": parameter
            for name, head in self.head_modules().items()
            for leaf, parameter in head.named_parameters()
        }

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of everything that is trained."""
        own = {k: v for k, v in self._own().items() if isinstance(v, nn.Parameter)}
        return {k: v for k, v in own.items() if v.requires_grad}

    def _own(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, tree in self.methods.items():
            tensors |= {f"{name}.{k}": v for k, v in tree.state_dict(keep_vars=True).items()}
        return tensors | self._head_parameters()

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Only what belongs to the adapter: `<method>.<stack>.blocks.<i>....` and `head....`; never the frozen backbone."""
        own = {prefix + k: v if keep_vars else v.detach() for k, v in self._own().items()}
        if destination is not None:
            destination.update(own)
            return destination
        return own

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Copies tensors into place.

        Raises:
            AdapterError: names or shapes differ from what this adapter has (strict), or a value is not finite.
        """
        own = self._own()
        storage.check_tensors(dict(state_dict), own)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state_dict[name])
        return nn.modules.module._IncompatibleKeys([], [])

    # ---- cost, saving, finishing ----

    def cost(self, **sizes: Any) -> CostSheet:
        """Parameters and multiply-adds against the bare backbone; see `gossamer.cost.cost`."""
        from gossamer import cost

        self._must_be_attached()
        return cost.cost(self, **sizes)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes adapter_config.json, adapter_model.safetensors and README.md, atomically; see docs/saving.md."""
        from gossamer import saving

        saving.save(self, folder)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Uploads what `save_pretrained` writes to "user/name" of the Hugging Face hub; returns the address."""
        from gossamer import saving

        return saving.push_to_hub(self, repository, **options)

    @torch.no_grad()
    def finalize(self) -> nn.Module:
        """A plain module, equal to this one in evaluation, without anything that only training needs.

        Prompt keys and values are stored, projections folded, peft's layers merged. A copy: this adapter stays as it is.
        """
        self._must_be_attached()
        model = copy.deepcopy(self).eval()
        # The last placed first, while what it was placed on is as it was.
        for tree in reversed(list(model.methods.values())):
            tree.finalize()  # type: ignore[operator]
        model.anatomy.fuse()
        model.anatomy.prune()
        backbone = model.backbone
        del backbone.__dict__[OCCUPANT]
        for parameter in [*model.parameters(), *backbone.parameters()]:
            parameter.requires_grad_(False)
        # The hooks call the methods' parts; as children of the model these move and save with it.
        placed = nn.ModuleDict({n: t for n, t in model.methods.items() if any(True for _ in t.state_dict())})
        if model.head_built is None:
            if placed:
                backbone.add_module("gossamer", placed)
            return backbone
        return Finished(model, placed)


class Finished(nn.Module):
    """A finished model whose head was built: backbone, read-out and head, called like the adapter was."""

    def __init__(self, adapted: Adapted, placed: nn.ModuleDict):
        super().__init__()
        self.backbone: Any = adapted.backbone
        self.head = adapted.head_built
        if placed:
            self.gossamer = placed
        self.stack, self.two_sided = adapted.anatomy.readout, "encoder" in adapted.anatomy.stacks
        if self.stack.readout in ("first", "mean", "last") and getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # never read

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """The logits for the backbone's inputs, in `.logits`."""
        if hasattr(self.backbone, "config"):
            output = self.backbone(*args, **inputs)
            features = heads.read_out(self.stack, output, inputs, two_sided=self.two_sided)
        else:
            features = self.backbone.forward_head(
                self.backbone.forward_features(*args, **timm_inputs(inputs)), pre_logits=True
            )
        answer = ImageClassifierOutput if self.stack.modality == "vision" else SequenceClassifierOutput
        return answer(logits=self.head(features))  # type: ignore[misc]


def timm_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs under the names that timm's models use."""
    return {"x" if name == "pixel_values" else name: value for name, value in inputs.items()}


class _Input:
    """Keeps the input of the module it hooks."""

    x: Tensor

    def keep(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.x = args[0]


def adapt(model: nn.Module, applied: Any, *, num_labels: int | None = None, train_head: bool = True) -> Adapted:
    """A model adapted by one method or a list of them: backbone frozen, methods and head trainable.

    Args:
        model: of transformers or timm, with or without a task head. It is changed in place; `detach()` restores it.
        applied: a method (VPT, Adapter, LinearProbe, ...), a configuration of peft, or a list of both.
        num_labels: outputs of the head. A head of another size is replaced; where there is none, one is built on what the family
            reads out (for ViT the class token after the last norm). None: keep the model's head as it is.
        train_head: whether the head is trained.

    Raises:
        TypeError: no family knows the model, or something in the list is no method.
        ValueError: the model is adapted already, or nothing would be trained.
    """
    versions.warn_outside()
    if isinstance(model, Adapted):
        raise ValueError("this model is adapted already: list all methods in one adapt(), or detach() first")
    if model.__dict__.get(OCCUPANT) is not None:
        raise ValueError(f"this {type(model).__name__} is adapted already; detach() that adapter first")
    applied = list(applied) if isinstance(applied, list | tuple) else [applied]
    if not applied:
        raise ValueError("no method given; LinearProbe() trains the head alone")
    return Adapted(model, [methods.as_method(m) for m in applied], num_labels=num_labels, train_head=train_head)


def _unique(name: str, taken: Any) -> str:
    names = [name, *(f"{name}_{i}" for i in range(2, 99))]
    return next(n for n in names if n not in taken)


def parts(backbone: nn.Module) -> dict[str, nn.Module]:
    """The pre-trained models that a backbone consists of, by name: one, called "backbone", or the halves of a composed one."""
    return backbone.parts if isinstance(backbone, VisionLanguage) else {"backbone": backbone}


def _fingerprint(model: nn.Module) -> str | None:
    """The identity of the pre-trained weights; None on the meta device, where there are none.

    A pooler that nothing reads does not count: where a checkpoint has none, each loading makes a random one.
    """
    anatomy = anatomy_module.read(model)
    anatomy.heads = heads.find(model, anatomy)
    pooler = (
        None
        if anatomy.heads or anatomy.blocks()[0].stack.readout == "pooled"
        else getattr(anatomy.owner(), "pooler", None)
    )
    unread = {id(p) for p in pooler.parameters()} if isinstance(pooler, nn.Module) else set()
    tensors = [(n, p) for n, p in anatomy.backbone_parameters() if id(p) not in unread]
    if any(p.device.type == "meta" for _, p in tensors):
        return None
    return storage.fingerprint(tensors)
