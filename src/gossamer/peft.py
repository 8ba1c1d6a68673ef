"""Our methods in the peft library: `peft.get_peft_model(model, VPTConfig(prompts=20))`, and whatever a script does then.

Importing this module makes them known to peft, each under a configuration of its own: `VPT` has `VPTConfig`, with the same
settings, and what configurations of peft have besides (`task_type`, `modules_to_save`, `inference_mode`, ...). Several adapters of
one method belong to one backbone by name, one of them at a time; another one is put in its place, or none, without any parameter
being made anew, so that optimizers hold. Folders, cards and switching are peft's own.

What peft does otherwise than `gossamer.adapt`: the model's head is frozen unless `modules_to_save` names it, `train()` turns the
frozen backbone's dropout on, and a folder says nothing about the backbone's weights.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from peft import PeftConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import set_additional_trainable_modules
from torch import Tensor, nn
from transformers import PreTrainedModel

from gossamer import hosts, methods, storage, tested_versions
from gossamer.adapted import AdaptedModule, occupant
from gossamer.adapted.placement import Placement
from gossamer.adapted.rebuilding import Keeping
from gossamer.errors import UserError
from gossamer.methods.base import METHODS, Method
from gossamer.peft_layer import LAYER, PREFIX, Adapters

LEFT_OUT = frozenset((
    *("bitfit", "full", "linear_probe", "unfreeze", "untrained"),  # train the backbone's own weights, or none
    *("evit", "tome"),  # have no tensors, and peft saves nothing else
    *("clip_adapter", "coop", "tip_adapter"),  # stand behind both towers of a pair, in a model class of ours
))  # fmt: skip
"""Methods that are none of peft's kind."""

Kind: Any = enum.Enum("Kind", {n: n for n in (f"GOSSAMER_{m}".upper() for m in METHODS if m not in LEFT_OUT)}, type=str)
"""As peft's own `PeftType`, whose members are equal to their names."""


@dataclasses.dataclass
class MethodConfig(PeftConfig):
    """A method of ours as a configuration of peft; its settings are the fields of `kind`.

    Args:
        modules_to_save: names of modules that are trained and saved whole beside the method, such as the head.
    """

    kind: ClassVar[type[Method]]
    modules_to_save: list[str] | None = None

    if TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None: ...

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = _type_of(self.kind)
        self.method()

    def method(self) -> Method:
        """The method with these settings.

        Raises:
            UserError: they do not go together; the message says why.
        """
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self.kind)}  # type: ignore[arg-type]
        return methods.from_dict({"method": self.kind.name, **told})


def _type_of(kind: type[Method]) -> Any:
    return Kind[f"GOSSAMER_{kind.name}".upper()]


class Seen:
    """One adapter as `Method.prepare` looks at an adapted model."""

    def __init__(self, placed: Placement):
        self.backbone, self.anatomy, self.methods, self.applied = (
            placed.backbone, placed.anatomy, placed.methods, placed.applied,
        )  # fmt: skip

    @property
    def training(self) -> bool:
        """Whether the backbone is in training mode."""
        return self.backbone.training

    def train(self, mode: bool = True) -> None:
        """Puts the backbone in training mode, or in evaluation mode."""
        self.backbone.train(mode)

    def eval(self) -> None:
        """Puts the backbone in evaluation mode."""
        self.backbone.eval()

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """What the backbone gives, with whatever stands in it."""
        return self.backbone(*args, **inputs)


def prepare(model: PeftModel, data: Any, collate: Callable[[list[Any]], Any] | None = None) -> None:
    """What the active adapter takes from training data before its training: SPT's prompts, the closed-form start of bridges.

    A run of ours, or `gossamer.methods.spt.harvest`, does this for an adapted model; most methods take nothing.

    Args:
        model: from `peft.get_peft_model` with a configuration of this module.
        data: has a length, and items by index, dictionaries of the model's inputs.
        collate: makes a batch of a list of items. None: torch's.

    Raises:
        UserError: the model is adapted by something else, or no adapter stands in it.
    """
    tuner = model.base_model
    if not isinstance(tuner, Tuner) or tuner.layer.standing is None:
        raise UserError(
            f"this PeftModel ({type(tuner).__name__}) has no adapter of ours in place that could be prepared"
        )
    seen = Seen(tuner.layer.placements[tuner.layer.standing])
    for method in seen.applied:
        method.prepare(seen, data, collate)


class Tuner(BaseTuner):
    """Between peft's names for what is done to adapters and `Adapters`, which does it."""

    prefix = PREFIX
    tuner_layer_cls = Adapters
    uses_shared_state = True
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    @property
    def layer(self) -> Adapters:
        """The backbone's adapters."""
        return hosts.of(self.model).inner(self.model).get_submodule(LAYER)  # type: ignore[return-value]

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Places the adapter whose configuration is in `peft_config`; see `BaseTuner`.

        Raises:
            UserError: the method does not fit, or `low_cpu_mem_usage`.
        """
        tested_versions.warn_outside()
        config: Any = self.peft_config[adapter_name]
        first = len(self.peft_config) == 1
        if first:
            hosts.check_plain(model)
            if isinstance(model, AdaptedModule) or occupant(model) is not None:
                raise UserError(
                    "this model is adapted by gossamer.adapt already: detach() that, and give peft the bare model"
                )
        kept, there = config.modules_to_save or [], [name for name, _ in model.named_modules()]
        if kept and not any(
            path.endswith(name) for path in there for name in kept
        ):  # peft names some that may be missing
            raise UserError(
                f"modules_to_save names {', '.join(kept)}, and no module of this {type(model).__name__} is called so; its head is "
                f"{', '.join(hosts.read(model).heads) or 'none'}"
            )
        flags = {} if first else {p: p.requires_grad for p in model.parameters()}
        layer = Adapters(model) if first else self.layer
        layer.place(adapter_name, config.method())
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        active = adapter_name in self.active_adapters
        if active:
            layer.set_adapter(adapter_name, inference_mode=config.inference_mode)
        else:
            layer.set_requires_grad(adapter_name, False)
        set_additional_trainable_modules(
            model, config, self.get_model_config(model), adapter_name, activate_adapter=active
        )

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Lets an adapter stand in the backbone, with the modules that were saved with it.

        Raises:
            UserError: several are asked for.
        """
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise UserError(
                f"one adapter of ours stands in a backbone at a time, and {', '.join(adapter_name)} were asked for: set one; "
                "gossamer.adapt(model, [...]) combines methods, and gossamer.Mixed answers each row of a batch by an adapter of "
                "its own"
            )
        super().set_adapter(adapter_name, inference_mode)

    def add_weighted_adapter(self, *args: Any, **options: Any) -> None:
        """No: parts that are not linear in their tensors have no weighted sum.

        Raises:
            UserError: always.
        """
        raise UserError(
            "add_weighted_adapter() is for low-rank updates: what methods of ours compute is not linear in their tensors, so a "
            "weighted sum of two adapters is neither; gossamer.Mixed answers each row of a batch by an adapter of its own"
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **inputs: Any) -> Iterator[None]:
        """Peft's place for what a single call asks for.

        Raises:
            UserError: adapters are named for each row.
        """
        if inputs.get("adapter_names") is not None:
            raise UserError(
                "adapter_names: one adapter of ours stands in a peft model at a time, so all rows are answered by it; "
                "gossamer.Mixed answers each row by the adapter that it names"
            )
        yield

    def _create_and_replace(self, *args: Any, **options: Any) -> None:
        """Never called: `inject_adapter` replaces no module by another."""
        raise NotImplementedError

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        names = self.active_adapters if adapter_names is None else adapter_names
        if merge and len(names) != 1:
            raise UserError(
                f"one adapter can be folded into a backbone, not {len(names)} ({', '.join(names)}): name one"
            )
        if merge:
            self.set_adapter(
                names[0], inference_mode=True
            )  # so that what `modules_to_save` names is of the same adapter
            self.model.eval()
        placed = self.layer.leave(names[0] if merge else None)
        model: Any = super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
        if placed is not None and isinstance(model, PreTrainedModel):
            model.save_pretrained = Keeping(model, [methods.to_dict(m) for m in placed.applied])
        return model

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """As `Adapted.activation_checkpointing_enable`: never re-entrant, since methods reach blocks beside their arguments."""
        hosts.of(self.model).checkpoint(self.model, gradient_checkpointing_kwargs, **options)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key.replace(f"{PREFIX}{adapter_name}.", PREFIX, 1)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """As peft's, and strict as `gossamer.load` is.

        Raises:
            AdapterError: the tensors are not those that the configuration calls for, or one is not finite.
        """
        given = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        own = {n: t for n, t in model.state_dict().items() if f"{PREFIX}{adapter_name}." in n}
        ours = {n: t for n, t in given.items() if PREFIX in n}
        storage.check_tensors(ours, own)
        for name, tensor in ours.items():
            storage.check_finite(name, tensor, "cannot load", "such an adapter answers nothing; take an earlier state")
        return given


def _configuration(kind: type[Method]) -> type[MethodConfig]:
    """The configuration class of a method, made known to peft."""
    told = [(f.name, f.type, dataclasses.field(default=f.default)) for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    made = dataclasses.make_dataclass(
        f"{kind.__name__}Config",
        told,
        bases=(MethodConfig,),
        namespace={"kind": kind, "__doc__": kind.__doc__},
        kw_only=True,
    )
    made.__module__ = __name__
    name = _type_of(kind)
    PEFT_TYPE_TO_CONFIG_MAPPING[name], PEFT_TYPE_TO_TUNER_MAPPING[name] = made, Tuner
    PEFT_TYPE_TO_PREFIX_MAPPING[name] = PREFIX
    return made


CONFIGURATIONS = {f"{kind.__name__}Config": _configuration(kind) for n, kind in METHODS.items() if n not in LEFT_OUT}
"""Every configuration class by its name, each also a name of this module."""
globals().update(CONFIGURATIONS)

if TYPE_CHECKING:

    def __getattr__(name: str) -> type[MethodConfig]: ...
