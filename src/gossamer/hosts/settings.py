"""What changes the function of a model and is no weight, as plain values that a folder can hold and compare."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from gossamer.anatomy.seams import Part

NEUTRAL = frozenset((
    "_commit_hash", "_name_or_path", "architectures", "attn_implementation", "auto_map", "dtype", "experts_implementation",
    "finetuning_task", "gradient_checkpointing", "id2label", "label2id", "label_names", "name_or_path", "num_classes", "num_labels",
    "num_qa_labels", "output_attentions",
    "output_hidden_states", "problem_type", "quantization_config", "return_dict", "task_specific_params", "tokenizer_class",
    "torch_dtype", "torchscript", "training", "transformers_version", "use_cache",
))  # fmt: skip
"""Settings of transformers that say nothing about what the backbone computes; those of the head are the adapter's."""
_IN_TRAINING_ALONE = re.compile(
    r"drop(out|_path|_rate|out_prob)?(_prob|_rate)?$|pdrop$|layerdrop$|drop_rate$|^init|_init(_std)?$|^loss|_loss_"
)
_OF_TIMM = frozenset(
    ("num_classes", "num_labels", "grad_checkpointing", "fused_attn", "name_or_path", "default_cfg", "pretrained_cfg")
)
_PASSING = (  # nothing in evaluation; the last is ours, and says who is attached
    *("Identity", "DropPath", "Dropout", "Dropout1d", "Dropout2d", "PatchDropout", "Occupied"),
)


def difference(config: PreTrainedConfig) -> dict[str, Any]:
    """The settings of a configuration that change what is computed and differ from the defaults of its class."""
    return _difference(_told(config), _defaults(config))


def _told(config: PreTrainedConfig) -> dict[str, Any]:
    return plain(config.to_dict())


def _defaults(config: PreTrainedConfig) -> dict[str, Any]:
    try:
        return _told(type(config)())
    except Exception:  # of a class that has none, which says so in ways of its own: then every setting differs
        return {}


def plain(values: Any) -> Any:
    """As JSON gives it back, without what is neutral."""
    if isinstance(values, Mapping):
        return {
            str(k): plain(v) for k, v in values.items() if k not in NEUTRAL and not _IN_TRAINING_ALONE.search(str(k))
        }
    if isinstance(values, list | tuple | set | frozenset):
        return [plain(v) for v in (sorted(values) if isinstance(values, set | frozenset) else values)]
    return values if isinstance(values, str | int | float | bool) or values is None else str(values)


def _difference(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        default = defaults.get(name)
        if (
            isinstance(value, dict)
            and isinstance(default, dict)
            and value.get("model_type") == default.get("model_type")
        ):
            if inner := _difference(value, default):
                found[name] = inner
        elif name not in defaults or value != default:
            found[name] = value
    return found


def whole(config: PreTrainedConfig, differing: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from those of a configuration where its class, so changed from its defaults, says something else.

    Only settings that the configuration has are among them.
    """
    mine, wanted = _told(config), _merged(_defaults(config), differing)
    return {name: wanted.get(name) for name in mine if mine[name] != wanted.get(name)}


def _merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    inside = {
        k: _merged(values[k], v)
        for k, v in over.items()
        if isinstance(v, Mapping) and isinstance(values.get(k), Mapping) and _same_kind(values[k], v)
    }
    return {**values, **over, **inside}


def _same_kind(values: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    """Whether both are of one kind of configuration, where the second says of which: of another one, nothing stays."""
    return over.get("model_type", values.get("model_type")) == values.get("model_type")


def structure(model: nn.Module, without: Iterable[str] = ()) -> dict[str, str]:
    """Every module of a model by its name: class, sizes and plain attributes; a number in a name is * where all of these are alike.

    Modules that do nothing in evaluation and ours are left out, and those named in `without`, with what is in them.
    """
    skipped = tuple(without)
    found: dict[str, dict[str, str]] = {}
    for name, module in model.named_modules():
        if (
            isinstance(module, Part)
            or type(module).__name__ in _PASSING
            or any(name == s or name.startswith(f"{s}.") for s in skipped)
        ):
            continue
        found.setdefault(re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name), {})[name] = _described(module)
    alike = {k: next(iter(v.values())) for k, v in found.items() if len(set(v.values())) == 1}
    return alike | {n: text for k, v in found.items() if k not in alike for n, text in v.items()}


def _described(module: nn.Module) -> str:
    kind, sizes = type(module), module.extra_repr()
    told = {} if kind.__module__.startswith("torch.") else {n: v for n, v in vars(module).items() if _telling(n, v)}
    return f"{kind.__qualname__}({', '.join([sizes] * bool(sizes) + [f'{n}={_named(v)}' for n, v in sorted(told.items())])})"


def _telling(name: str, value: Any) -> bool:
    if name.startswith("_") or name in NEUTRAL or name in _OF_TIMM or _IN_TRAINING_ALONE.search(name):
        return False
    if isinstance(value, tuple | list):
        return all(isinstance(v, str | int | float | bool) for v in value)
    return isinstance(value, str | int | float | bool | types.FunctionType | types.BuiltinFunctionType) or value is None


def _named(value: Any) -> str:
    return value.__qualname__ if isinstance(value, types.FunctionType | types.BuiltinFunctionType) else repr(value)


def apart(there: Mapping[str, Any], here: Mapping[str, Any], missing: Any = "the default") -> list[str]:
    """What differs between two records, one sentence each."""
    found = []
    for name in sorted({*there, *here}):
        one, other = there.get(name, missing), here.get(name, missing)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += [f"{name}.{inner}" for inner in apart(one, other, missing)]
        elif one != other:
            found.append(f"{name or 'the model'} was {one!s:.120} and is {other!s:.120}")
    return found
