"""The module that Trainer trains: forward pass, state dict, modes, and what is asked of a model beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.utils.generic import ModelOutput

from gossamer import hosts, state, storage
from gossamer.adapted.placement import Placement, occupant, occupy
from gossamer.errors import UserError, WrongKind
from gossamer.hosts import checkpointing, heads
from gossamer.methods.base import Method

if TYPE_CHECKING:
    from typing_extensions import Self


class AdaptedModule(nn.Module):
    """A frozen backbone with methods and a head, as one module; what users hold is `gossamer.Adapted`, with the same arguments."""

    def __init__(
        self,
        backbone: nn.Module,
        applied: Sequence[Method],
        *,
        num_labels: int | None = None,
        train_head: bool = True,
        head: Any = None,
        family: str | None = None,
    ):
        super().__init__()
        hosts.check_plain(backbone)
        self.backbone, self.host = backbone, hosts.of(backbone)
        self.applied = tuple(sorted(applied, key=lambda m: m.turn))
        self.num_labels, self.train_head = num_labels, train_head
        self.head_named = None if head is None else tuple(heads.named(backbone, head))
        self.family_named = family
        self.metadata: dict[str, Any] = {}
        self.methods = nn.ModuleDict()
        self.head_built: nn.Module | None = None
        self.placement: Placement | None = None
        self.kept: dict[str, Tensor] | None = None
        self.kept_labels: dict[str, Any] | None = None
        self.checkpointing = False
        self.attach()

    # ---- attaching and detaching ----

    def attach(self) -> Self:
        """Places the methods in the backbone; another adapter that sits there steps aside, and can be attached again later.

        Parameters are made anew with the values they had: give an optimizer the new ones.
        """
        other = occupant(self.backbone)
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
        placed = Placement(
            self.backbone, self.applied, num_labels=self.num_labels, train_head=self.train_head, head=self.head_named,
            family=self.family_named,
        )  # fmt: skip
        self.placement, self.anatomy, self.readout = placed, placed.anatomy, placed.readout
        self.methods, self.head_built = placed.methods, placed.head
        if self.kept is None:  # else what the kept tensors were trained on
            self.fingerprints = {name: origin.fingerprint for name, origin in placed.origins.items()}
        self.applied = placed.applied
        self.displaced = placed.anatomy.displaced
        occupy(self.backbone, self)
        kept = self.kept
        try:
            if kept is not None:
                self.load_state_dict(kept)
                self.host.tell_labels(self.backbone, self.kept_labels or {})
        except BaseException:
            self.detach()
            self.kept = kept
            raise
        self.kept = None
        self.anatomy.session.turn()
        self.train(self.training)

    def detach(self) -> nn.Module:
        """Takes everything off the backbone and returns it, bit for bit as it was. `attach` puts it back."""
        if self.placement is None:
            return self.backbone
        self.activation_checkpointing_disable()
        self.kept = {k: v.detach().clone() for k, v in self.tensors().items()}
        self.kept_labels = self.host.labels(self.backbone)
        self.placement.remove()
        self.placement, self.methods, self.head_built = None, nn.ModuleDict(), None
        occupy(self.backbone, None)
        return self.backbone

    @property
    def fingerprint(self) -> str | None:
        """The identity of the weights it was trained on (of both halves, where there are two); None on the meta device."""
        found = list(self.fingerprints.values())
        return None if None in found else found[0] if len(found) == 1 else storage.combined(self.fingerprints)

    @property
    def attached(self) -> bool:
        """Whether the methods are in the backbone now."""
        return self.placement is not None

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

        In training a loss that nothing trained had a part in is an error, which names both.
        The named inputs are those of the models in use; others pass through. A timm model answers `pixel_values=` or labels with
        an ImageClassifierOutput, and a positional image tensor alone with its own logits.
        """
        self._must_be_attached()
        self.host.check_called(self.backbone)
        named = {
            "input_ids": input_ids, "pixel_values": pixel_values, "attention_mask": attention_mask,
            "token_type_ids": token_type_ids, "pixel_mask": pixel_mask, "position_ids": position_ids,
            "inputs_embeds": inputs_embeds, "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
        }  # fmt: skip
        inputs = {k: v for k, v in named.items() if v is not None} | kwargs
        if self.head_built is None:
            return self._reached(self.host.respond(self.backbone, self.readout, args, inputs, labels), inputs)
        as_tuple, inputs = self.host.wants_tuple(self.backbone, inputs)
        logits = self.head_built(self.host.features(self.backbone, self.readout, args, inputs))
        answer = self.readout.answer(logits, labels)
        return answer.to_tuple() if as_tuple else answer

    def _reached(self, answer: Any, inputs: dict[str, Any]) -> Any:
        """An answer whose loss, while it is trained on, depends on something that is trained.

        Raises:
            UserError: it does not; torch would say so in the backward pass, and not of what.
        """
        loss = answer.get("loss") if isinstance(answer, ModelOutput) else None
        if self.training and torch.is_grad_enabled() and loss is not None and not loss.requires_grad:
            places = sorted({".".join(name.split(".")[:2]) for name in self.trainable()})
            raise UserError(
                f"nothing that is trained ({', '.join(places)}) had a part in this loss: with the inputs {', '.join(inputs)} "
                f"{type(self.backbone).__name__} does not run what it stands in. Give the inputs that do (of an image tower: "
                f"images), or place the method elsewhere: stack= names one of {', '.join(self.anatomy.stacks)}"
            )
        return answer

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether Trainer may leave the average over accumulated batches to the loss: never where the loss is ours."""
        return self.head_built is None and self.host.accepts_loss_kwargs(self.backbone)

    def features(self, *args: Any, **inputs: Any) -> Tensor:
        """What the head's last Linear reads for these inputs, [B, width]."""
        self._must_be_attached()
        if self.head is None:
            raise WrongKind(f"{type(self.backbone).__name__} has no head; adapt it with num_labels=...")
        probe = _Input()
        found = heads.logits_of(self.head, self.host.outputs(self.backbone))
        if found is None:
            raise WrongKind(f"the head {type(self.head).__name__} has no layer that gives logits")
        handle = found[1].register_forward_pre_hook(probe.keep)
        try:
            self(*args, **inputs)
        finally:
            handle.remove()
        return probe.x

    def _must_be_attached(self) -> None:
        if not self.attached:
            raise RuntimeError("this adapter is detached from its backbone: call attach() first")

    def train(self, mode: bool = True) -> Self:
        """Training mode for methods and head. The frozen backbone stays in evaluation mode, its dropout off, but for the parts
        that a method trains themselves (full fine-tuning, BitFit, the language model of DVP).
        """
        super().train(mode)
        if not self.attached:
            return self
        self.backbone.train(False)
        for part in [part for method in self.applied for part in method.trained_parts(self.anatomy)]:
            part.train(mode)
        self.methods.train(mode)
        for head in self.head_modules().values():
            head.train(mode and self.train_head)
        for block in self.anatomy if mode else ():
            if not block.module.training:
                checkpointing.prepare(block.module, block.owner)
        return self

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Trades time for memory: blocks compute their activations again in the backward pass. Never re-entrant, because
        methods reach blocks from outside their arguments. `options` are those of transformers (`every_n_layers`, `offload`).
        """
        self.host.checkpoint(self.backbone, activation_checkpointing_kwargs, **options)
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
            self.host.keep_activations(self.backbone)
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

    def _head_tensors(self) -> dict[str, Tensor]:
        several = len(self.head_modules()) > 1
        return {
            f"head.{name}.{leaf}" if several else f"head.{leaf}": tensor
            for name, head in self.head_modules().items()
            for leaf, tensor in head.state_dict(keep_vars=True).items()
        }

    def _statistics(self) -> dict[str, Tensor]:
        """What batch normalisation counts in the parts of the backbone that are in training mode with a method."""
        heads = {m for head in self.head_modules().values() for m in head.modules()}
        trained = {m for method in self.applied for part in method.trained_parts(self.anatomy) for m in part.modules()}
        return {
            f"statistics.{name}.{leaf}": buffer
            for name, module in self.backbone.named_modules()
            if isinstance(module, _BatchNorm) and module in trained - heads
            for leaf, buffer in module.named_buffers(recurse=False)
        }

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of everything that is trained."""
        own = {k: v for k, v in self.tensors().items() if isinstance(v, nn.Parameter)}
        return {k: v for k, v in own.items() if v.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor of everything that is saved: what is trained, the head, and buffers of methods."""
        tensors: dict[str, Tensor] = {}
        for name, tree in self.methods.items():
            tensors |= {f"{name}.{k}": v for k, v in tree.state_dict(keep_vars=True).items()}
        return tensors | self._statistics() | self._head_tensors()

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Only what belongs to the adapter: `<method>.<stack>.blocks.<i>....` and `head....`; never the frozen backbone.

        Beside them `_extra_state`, where this class has one: torch's name for what a module has to say beyond its tensors.
        """
        own = {prefix + k: v if keep_vars else v.detach() for k, v in self.tensors().items()}
        if type(self).get_extra_state is not nn.Module.get_extra_state:
            own[prefix + state.EXTRA] = self.get_extra_state()
        if destination is not None:
            destination.update(own)
            return destination
        return own

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Copies tensors into place, in the dtype and on the device they have here; where one is refused, none.

        Returns: the names that were missing and those that were not expected (both are errors where strict).

        Raises:
            AdapterError: names differ from what this adapter has (strict), a shape does, or a value is not finite.
            UserError: assign=True.
        """
        if assign:
            raise UserError(
                "the tensors of an adapter stand in its backbone and in optimizers, so values are copied into them: load without "
                "assign=True, after .to(dtype) where another dtype is meant"
            )
        given, own = {k: v for k, v in state_dict.items() if k != state.EXTRA}, self.tensors()
        missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        if not strict:
            given = {k: v for k, v in given.items() if k in own}
            own = {k: v for k, v in own.items() if k in given}
        storage.check_tensors(given, own)
        for name, tensor in given.items():
            storage.check_finite(name, tensor, "cannot load", "such an adapter answers nothing; take an earlier state")
        if state.EXTRA in state_dict:
            self.set_extra_state(state_dict[state.EXTRA])
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(given[name])
        self.anatomy.session.turn()
        return nn.modules.module._IncompatibleKeys(missing, unexpected)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing_keys: Any, unexpected_keys: Any,
        error_msgs: Any,
    ) -> None:  # fmt: skip
        """The same for a module around this one, which lets each of its children take what is theirs.

        Our own children come next, the frozen backbone among them: they find what they have, and nothing else.
        """
        given = {k.removeprefix(prefix): state_dict.pop(k) for k in list(state_dict) if k.startswith(prefix)}
        for name, child in self.named_children():
            state_dict.update(child.state_dict(prefix=f"{prefix}{name}.", keep_vars=True))
        try:
            found = self.load_state_dict(given, False, bool(local_metadata.get("assign_to_params_buffers")))
        except UserError as error:
            error_msgs.append(str(error))
            return
        missing_keys.extend(prefix + name for name in found.missing_keys)
        unexpected_keys.extend(prefix + name for name in found.unexpected_keys)


class _Input:
    """Keeps the input of the module it hooks."""

    x: Tensor

    def keep(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.x = args[0]
