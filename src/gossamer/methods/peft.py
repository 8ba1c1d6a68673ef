"""Any tuner of the peft library as a method: LoRA and the rest.

Besides names of modules, `target_modules` may name parts by role ("q", "k", "v", "out", "up", "gate", "down"), which mean the
same in every family, in all stacks or in one ("fusion.q"), in self- and cross-attention or in the latter alone ("cross.q",
"decoder.cross.q"); in a fused qkv, thirds. Left out, LoRA-like tuners get the queries and values, IA3 keys, values and the FFN; in
a model that no family knows, or a part of which none does, LoRA-like ones all Linears. "all-linear" is every Linear but those of
heads and output embeddings, and those by class that compute something else, such as routers.

An adapter's folder holds plain settings alone (`parts/peft_settings.py`), and names of modules or roles. A pattern that asks for
modules is written out in names when the model is adapted (`settled`); in a folder it is refused, since a pattern can take for ever.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.anatomy import Anatomy
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.projection import quantised
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow
from gossamer.methods.parts import peft_settings as settings

ADAPTER = "default"
WHOLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # of weights that any device can multiply with
HOOKS = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs")
ROLES = ("q", "k", "v", "out", "up", "gate", "down", "cross.q", "cross.k", "cross.v", "cross.out")
CHANGING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")  # values of init_lora_weights, or their beginnings


@dataclass(frozen=True, kw_only=True)
class Peft(Method):
    """A peft configuration (LoraConfig and the rest that put modules into a model) as a method."""

    config: Any

    name = "peft"
    reads_blocks = False
    turn = 0

    def __post_init__(self) -> None:
        if self.config.is_prompt_learning:
            kind = type(self.config).__name__
            raise UserError(
                f"{kind} feeds its prompts through peft's own model class and can neither be combined nor put on vision models; "
                f"use gossamer's VPT(deep=False, prompts={self.config.num_virtual_tokens}) for soft prompts on any family, "
                "VPT(deep=True) for prompts in every layer"
            )
        if getattr(self.config, "layer_replication", None):
            raise UserError("layer_replication adds layers to the backbone, which stays as it is here")
        start = getattr(self.config, "init_lora_weights", True)
        if isinstance(start, str) and start.lower().startswith(CHANGING_STARTS):
            raise UserError(
                f"init_lora_weights={start!r} subtracts LoRA's start from the backbone's own weights, which stay as they are here, "
                "so that adapters can share a backbone; use True, 'gaussian' or 'orthogonal'"
            )
        settings.check(self.config)

    def settled(self, anatomy: Anatomy) -> Method:
        """With names of modules in place of patterns: of targets, of those left out, of ranks by module."""
        config = copy.deepcopy(self.config)
        with anatomy.tentatively():
            resolved = self.resolved(anatomy)
            with anatomy.without_sites():
                hit = set(settings.targeted(resolved, anatomy.model))
                if hit and (settings.patterned(config) or self._unguided(anatomy)):
                    settings.write_out(config, hit)
                    more = set(settings.targeted(config, anatomy.model)) - hit
                    if more:
                        raise UserError(
                            f"names of modules are compared by their ends, and those that this {type(config).__name__} asks for by "
                            f"a pattern would mean {min(more)} as well; give target_modules as a list of names"
                        )
            for field in settings.BY_NAME & vars(config).keys():
                settings.write_out_keys(config, field, hit)
        settings.check_plain(to_dict(config))
        return self if config == self.config else Peft(config=config)

    def attach(self, anatomy: Anatomy) -> Part:
        """Injects the tuner; its tree holds peft's parameters under our names (`vision.blocks.3.q.lora_A.weight`)."""
        config = self.resolved(anatomy)
        with anatomy.without_sites():
            hit = set(settings.targeted(config, anatomy.model))
            _check_linears({name: anatomy.model.get_submodule(name) for name in hit})
            for block in anatomy.standing():
                if f"{block.name}.{block.attention.fused}" in hit:
                    anatomy.own(block)  # peft's layer in its place would not be called
                if config.peft_type == "OFT" and block.on_map and any(n.startswith(f"{block.name}.") for n in hit):
                    raise UserError(
                        f"{block.name} reads a map [B, h, w, d], which peft's OFT takes for the input of a convolution: take "
                        "another tuner, such as LoRA"
                    )
            return self._inject(anatomy, config)

    def _inject(self, anatomy: Anatomy, config: Any) -> Part:
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

        model = anatomy.model
        before = dict(model.named_modules())
        known = {id(t): name for name, t in _tensors(model)}
        flags = {p: p.requires_grad for p in model.parameters()}
        swapped: dict[str, nn.Module] = {}
        asked = set(getattr(config, "target_parameters", None) or ())
        try:
            with warnings.catch_warnings():  # it sees GPT-2's transposed matrices by itself, and says so of each
                warnings.filterwarnings("ignore", "fan_in_fan_out is set to (False|True) but the target module is")
                warnings.filterwarnings(
                    "ignore", "TorchaoLoraLinear was instantiated"
                )  # that it cannot merge, which nobody asks for
                tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, adapter_name=ADAPTER)
        except (
            ValueError,
            TypeError,
            NotImplementedError,
        ) as error:  # what peft says of settings that do not fit the model
            raise UserError(f"peft ({config.peft_type.value}): {error}") from error
        finally:
            model.__dict__.pop("peft_config", None)
            changed = {n: m for n, m in model.named_modules() if n in before and before[n] is not m}
            swapped |= _outermost(changed)
            for name in swapped:  # put back, and handed to the verb, so that detaching knows the way back
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, before[name])
        if moved := set(getattr(config, "target_parameters", None) or ()) - asked:
            warnings.warn(
                f"peft takes names of an FFN in this {type(model).__name__} for its experts: {', '.join(sorted(moved))} are "
                "adapted, and Linears of these names, in blocks without experts or in shared ones, are not",
                stacklevel=2,
            )
        for name, module in swapped.items():
            anatomy.swap(name, module, merge=_merged)
        lost = known.keys() - {id(t) for _, t in _tensors(model)}
        if lost:
            raise UserError(
                f"this {type(self.config).__name__} and another configuration of peft both target "
                f"{min(known[i] for i in lost).partition('.lora_')[0]}; give each its own target_modules"
            )
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag or (parameter.requires_grad and _biased(config)))
        heads = {id(p) for head in anatomy.heads.values() for p in head.parameters()}  # trained anyway
        trained = {id(p) for p, flag in flags.items() if p.requires_grad and not flag} - heads
        tree = PeftTree()
        _collect(tree, tuner, known.keys() - trained, anatomy.keys())
        tree.borrow(model=model, layers=list(swapped.values()))
        return tree

    def resolved(self, anatomy: Anatomy) -> Any:
        """The configuration with roles turned into this model's module names."""
        config = copy.deepcopy(self.config)
        config.inference_mode = False  # as peft saves configurations
        settings.check_counts(config, anatomy.model)
        if getattr(config, "modules_to_save", None):  # heads are trained and saved anyway
            heads = [n.rpartition(".")[2] for n in anatomy.heads]
            config.modules_to_save = [m for m in config.modules_to_save if m.rpartition(".")[2] not in heads] or None
        targets = config.target_modules
        if self._unguided(anatomy):
            targets = self._without_roles(anatomy)
        if targets == "all-linear":
            config.target_modules = _linears(anatomy)
        elif targets is None and not hasattr(config, "token_indices"):
            feedforward = hasattr(config, "feedforward_modules")
            config.target_modules = _names(anatomy, ("k", "v", "down") if feedforward else ("q", "v"))
            if feedforward and config.feedforward_modules is None:
                config.feedforward_modules = _names(anatomy, ("down",))
        elif targets is not None and not isinstance(targets, str) and _roles(anatomy, targets):
            config.target_modules = _names(anatomy, tuple(targets))
        return config

    def _unguided(self, anatomy: Anatomy) -> bool:
        """Whether it goes to queries and values by default, and nobody knows which modules these are."""
        config = self.config
        return config.target_modules is None and not hasattr(config, "token_indices") and not anatomy.whole

    def _without_roles(self, anatomy: Anatomy) -> str:
        """What stands for queries and values where nobody knows which modules these are: all Linears."""
        kind, model = type(self.config).__name__, type(anatomy.model).__name__
        if hasattr(self.config, "feedforward_modules"):
            raise UserError(
                f"{kind} goes to keys, values and the FFN, and which these are in {model} is not known: name target_modules and "
                "feedforward_modules"
            )
        unread = ", ".join(f"{path} ({blocks})" for path, blocks in anatomy.unread.items()) or model
        warnings.warn(
            f"this {kind} names no target_modules, and no family knows the queries and values of {unread}: all Linears of {model} "
            "are adapted ('all-linear'); name target_modules to choose",
            stacklevel=2,
        )
        return "all-linear"

    def parameters(self, anatomy: Anatomy) -> int:
        """r (in + out) for each matrix that LoRA rewrites; other tuners have no formula here and count their tensors."""
        with anatomy.tentatively():
            return sum(self.config.r * sum(shape) for shape in self._shapes(anatomy).values())

    def training_macs(self, plan: Plan) -> tuple[int, int]:
        """r (in + out) for each token that a rewritten matrix sees, of remembered prompts once per batch; nothing once merged."""
        anatomy = plan.anatomy
        with anatomy.tentatively():
            shapes, seen, remembered = self._shapes(anatomy), {}, {}
            for block in anatomy:
                for role, name in block.roles().items():
                    own = plan.seen(block, "attention" if role in ("q", "k", "v", "qkv", "out") else role)
                    seen[name] = plan.context(block) if role in ("cross.k", "cross.v", "cross.kv") else own
                    times = {"k": 1, "v": 1, "qkv": 2}.get(role, 0)  # keys and values are asked for one by one
                    remembered[name] = times * plan.remembered(block)
        each = sum(seen.get(name, 1) * self.config.r * sum(shape) for name, shape in shapes.items())
        return each, sum(remembered.get(name, 0) * self.config.r * sum(shape) for name, shape in shapes.items())

    def _shapes(self, anatomy: Anatomy) -> dict[str, tuple[int, int]]:
        """Name -> (out, in) of every Linear that plain LoRA rewrites.

        Raises:
            ValueError: another tuner, or settings of LoRA that change more than single matrices of one rank.
        """
        config, kind = self.resolved(anatomy), type(self.config).__name__
        special = ("use_dora", "rank_pattern", "layers_to_transform", "exclude_modules", "modules_to_save")
        if kind != "LoraConfig" or _biased(config) or any(getattr(config, name, None) for name in special):
            raise UserError(f"no closed formula for this {kind}: count its tensors")
        targets = config.target_modules
        if isinstance(targets, str):
            raise UserError(f"no closed formula for target_modules={targets!r}: count its tensors")
        with anatomy.without_sites():
            linears = {n: m.weight for n, m in anatomy.model.named_modules() if isinstance(m, nn.Linear)}
        hit = {n: w.shape for n, w in linears.items() if any(n == t or n.endswith(f".{t}") for t in targets)}
        return {n: (shape[0], shape[1]) for n, shape in hit.items()}


class PeftTree(Part):
    """What peft trains; its layers are merged into the weights when the model is finished."""

    model: nn.Module | None
    layers: list[nn.Module]

    def train(self, mode: bool = True) -> PeftTree:
        """Training mode for what peft added, its dropout included, wherever it sits in the frozen backbone."""
        super().train(mode)
        for path, module in [named for layer in self.layers for named in layer.named_modules()]:
            if not {"base_layer", "original_module"} & set(path.split(".")):
                module.training = mode
        return self

    def release(self) -> None:
        """What was merged is let go; what cannot be merged goes on running."""
        standing = {id(m) for m in self.model.modules()} if self.model is not None else set()
        if not any(id(layer) in standing for layer in self.layers):
            self._modules.clear()
        self.borrow(model=None, layers=[])


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Everything of a model that peft may keep, move or lose, by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _merged(layer: Any) -> nn.Module | None:
    """The plain module that a layer of peft amounts to.

    None where what it adds is no matrix (LILY), or would be rounded with a quantised one: it has to go on running.
    """
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    if isinstance(layer, ModulesToSaveWrapper):
        return layer.modules_to_save[ADAPTER]
    if isinstance(layer, TrainableTokensWrapper):
        layer = layer.token_adapter
    if quantised(layer.get_base_layer()):
        return None
    try:
        layer.merge(safe_merge=not next(layer.parameters()).is_meta)  # on meta there is no value to check
    except NotImplementedError:
        return None
    return layer.get_base_layer()


def low_rank(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """D [r, in] and U [out, r], with its scale, of what a layer of peft adds to a Linear, U D x; None where it does more."""
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or layer.use_dora.get(ADAPTER) or layer.lora_bias.get(ADAPTER) or layer.lora_variant:
        return None
    if list(layer.lora_A) != [ADAPTER]:
        return None
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight * layer.scaling[ADAPTER]  # type: ignore[return-value]


def to_dict(config: Any) -> dict[str, Any]:
    """A peft configuration as JSON; the inverse of `from_dict`."""
    values = {n: v for n, v in vars(config).items() if n in settings.PLAIN}
    listed = {n: sorted(v) if isinstance(v, set) else v for n, v in values.items()}
    return {"method": "peft", "peft_type": config.peft_type.value, **listed}


def from_dict(values: dict[str, Any]) -> Peft:
    """The configuration that `to_dict` wrote.

    Raises:
        ValueError: `peft_type` is missing or is none that peft knows.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    values = {k: v for k, v in values.items() if k not in ("method", "auto_mapping", "peft_version")}
    kind = values.pop("peft_type", None)
    if kind not in {t.value for t in PeftType}:
        raise UserError(f"peft_type is {kind!r}; peft knows {', '.join(sorted(t.value for t in PeftType))}")
    try:
        return Peft(config=PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)](**values))
    except (ValueError, TypeError) as error:  # an unknown field, or a value that peft refuses
        raise UserError(f"peft ({kind}): {error}") from error


def _biased(config: Any) -> bool:
    return getattr(config, "bias", "none") not in ("none", None, False)


def _roles(anatomy: Anatomy, targets: Any) -> bool:
    """Whether the names are roles, and not (as T5's q and v are) module names of this model, for which peft's own rule holds."""
    ends = {name.rpartition(".")[2] for name, _ in anatomy.model.named_modules()}
    known = {*ROLES, *(f"{stack}.{role}" for stack in anatomy.stacks for role in ROLES)}
    return set(targets) <= known and not set(targets) <= ends


def _names(anatomy: Anatomy, roles: tuple[str, ...]) -> list[str]:
    """Names of the modules that play any of the roles.

    Raises:
        ValueError: no module plays one of them (LLaMA has a "gate", ViT has none).
    """
    anatomy.check_known()
    if anatomy.unread and not all(role.partition(".")[0] in anatomy.stacks for role in roles):
        unread = ", ".join(f"{path} ({kind})" for path, kind in anatomy.unread.items())
        raise UserError(
            f"no family knows {unread} of this {type(anatomy.model).__name__}, so {', '.join(sorted(roles))} would be found in "
            f"{', '.join(anatomy.stacks)} alone: say so ({anatomy.main}.{min(roles)}), or name modules, or 'all-linear'"
        )
    names, missing = [], set(roles)
    for block in [block for stack in anatomy.adapted for block in anatomy.blocks(stack)]:
        wanted = {role: role.removeprefix(f"{block.stack.name}.") for role in roles}
        if {role.removeprefix("cross.") for role in wanted.values()} & {"q", "k", "v"}:
            anatomy.split(block)
        for role, name in block.roles().items():
            meant = {asked for asked, own in wanted.items() if own in (role, role.removeprefix("cross."))}
            missing -= meant
            names += [name] if meant else []
    if missing:
        found = sorted({role for block in anatomy for role in block.roles()})
        raise UserError(
            f"{type(anatomy.model).__name__} has no {' or '.join(sorted(missing))}; its blocks have {', '.join(found)}"
        )
    return names


def _linears(anatomy: Anatomy) -> list[str]:
    """Names of all Linears outside of heads and output embeddings. (Those that nn.MultiheadAttention holds are never called.)"""
    model, left_out = anatomy.model, set(anatomy.heads.values()) | ({anatomy.output} if anatomy.output else set())
    left_out = {inner for module in left_out for inner in module.modules()}
    left_out |= {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    found = [n for n, m in model.named_modules() if m not in left_out and _is_linear(m)]
    if not found:
        raise UserError(
            f"{type(model).__name__} has no Linear outside of its head: name target_modules, such as convolutions"
        )
    return found


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is a Linear, or one by another name, and computes no more than a Linear does."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D) or (isinstance(module, nn.Linear) and _maps(module))


@torch.no_grad()
def _maps(linear: nn.Linear) -> bool:
    """Whether a Linear gives each row one of its outputs: a router by the same class gives a choice, one of groups reads several.

    Only a forward of its own can differ. What stands beside weights in few bits, which may need a device to run, peft knows.
    """
    if type(linear).forward is nn.Linear.forward or linear.weight.dtype not in WHOLE:
        return True
    rows = linear.weight.new_zeros(2, 3, linear.in_features)
    try:
        given = type(linear).forward(linear, rows)
    except Exception:  # whatever it says of rows that are not what it reads
        return False
    return isinstance(given, torch.Tensor) and given.shape == (2, 3, linear.out_features)


def _check_linears(modules: dict[str, nn.Module]) -> None:
    """That peft can stand beside them.

    Raises:
        UserError: one is a Linear by its class, and computes something else.
    """
    for name, module in modules.items():
        if isinstance(module, nn.Linear) and not _maps(module):
            raise UserError(
                f"{name} is a {type(module).__name__}, a Linear that computes more than one, so nothing can be added to it: name "
                "target_modules without it ('all-linear' leaves it out)"
            )


def _outermost(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return {n: m for n, m in modules.items() if not any(n.startswith(f"{other}.") for other in modules)}


def _collect(tree: PeftTree, tuner: nn.Module, known: set[int], keys: dict[str, str]) -> None:
    """Puts every tensor of the tuner (in the model, or shared by its layers) that is not `known` into the tree."""
    for path, module in tuner.named_modules():
        name = path.removeprefix("model.")
        tensors = {n: t for n, t in module._parameters.items() if t is not None}
        buffers = {
            n: t for n, t in module._buffers.items() if t is not None and n not in module._non_persistent_buffers_set
        }
        for leaf, tensor in {**tensors, **buffers}.items():
            if id(tensor) in known:
                continue
            place = _own_name(name, keys)
            holder = dict(tree.named_modules()).get(place)
            if holder is None:
                holder = Part()
                grow(tree, place, holder)
            if isinstance(tensor, nn.Parameter):
                holder.register_parameter(leaf, tensor)
            else:
                holder.register_buffer(leaf, tensor)


def _own_name(name: str, keys: dict[str, str]) -> str:
    """`vit.layers.3.attention.q_proj.lora_A.default` -> `vision.blocks.3.q.lora_A`."""
    for module, key in keys.items():
        if name == module or name.startswith(f"{module}."):
            name = key + name[len(module) :]
            break
    return ".".join(part for part in name.split(".") if part not in (ADAPTER, "base_layer"))
