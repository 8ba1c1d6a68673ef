"""Folders that the peft library saved, read as adapters of ours, and adapters of ours written as such folders.

Both hold the same tensors under other names. Which name of peft's is which of ours is asked of peft itself, in a copy of the
backbone without values that the configuration is placed in; so no tuner's naming is written down here.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from gossamer import hosts, methods, origin, storage
from gossamer.adapted import AdaptedModule
from gossamer.cost.counting import on_meta
from gossamer.errors import AdapterError, UserError
from gossamer.methods.parts import peft_settings
from gossamer.methods.peft import ADAPTER, Peft

A = TypeVar("A", bound=AdaptedModule)

PREFIX = "base_model.model."  # of every tensor's name in peft's files
PICKLED = "adapter_model.bin"
OURS = "GOSSAMER_"  # how kinds begin that `gossamer.peft` makes known to peft


def found(folder: Path) -> bool:
    """Whether a folder is one of peft's, by its configuration; one that cannot be read is none."""
    path = folder / storage.CONFIG
    try:
        return path.is_file() and "peft_type" in storage.parse(path.read_bytes(), path)
    except AdapterError:
        return False


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of a folder of peft's.

    Raises:
        AdapterError: there are no tensors, or only pickled ones, or they are not finite.
    """
    path = folder / storage.TENSORS
    if not path.is_file():
        why = (
            f"only {PICKLED}, a pickle, which may run code: save it"
            if (folder / PICKLED).is_file()
            else "none: save it"
        )
        raise AdapterError(f"{folder} should hold {storage.TENSORS} and holds {why} again with safe_serialization=True")
    config = folder / storage.CONFIG
    return storage.parse(config.read_bytes(), config), storage.unpack(path.read_bytes(), path)


def method_of(told: dict[str, Any], heads: Collection[str] = ()) -> Peft:
    """The method that a configuration of peft's asks for, over a backbone with these heads.

    Raises:
        AdapterError: it is of a kind that no folder may ask for, or that one of peft's cannot say, or its settings are not plain.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    kind: Any = told["peft_type"]
    if isinstance(kind, str) and kind.startswith(OURS):
        raise AdapterError(
            f"a {kind} was saved inside peft: peft.PeftModel.from_pretrained reads it, after `import gossamer.peft`"
        )
    try:
        peft_settings.check_plain({"peft_type": kind})
        known: dict[Any, Any] = PEFT_TYPE_TO_CONFIG_MAPPING
        defaults = dataclasses.asdict(known[kind]())
        apart = {
            n: v for n, v in told.items() if n not in peft_settings.ASIDE and not (n in defaults and v == defaults[n])
        }
        peft_settings.check_plain({"peft_type": kind, **apart})
        if "target_modules" in apart:  # peft targets nothing that is saved whole
            apart["target_modules"] = [n for n in apart["target_modules"] if n.rpartition(".")[2] not in heads]
        method = methods.peft.from_dict({"peft_type": kind, **apart})
        _check_apart(method.config)
    except UserError as error:
        raise AdapterError(f"{storage.CONFIG}: {error}") from error
    return method


def _check_apart(config: Any) -> None:
    """Nothing, where each layer has its tensors to itself.

    Raises:
        UserError: all share some, which peft keeps beside the model, where nothing that is placed in one can find them.
    """
    from peft import PEFT_TYPE_TO_TUNER_MAPPING

    if PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type].uses_shared_state:
        raise UserError(
            f"the layers of {config.peft_type.value} share tensors, which folders of peft and of ours hold in different ways: "
            "train with gossamer.adapt and save_pretrained, or with peft alone"
        )


def backbone_of(told: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The backbone that a configuration of peft's names, from the zoo.

    Raises:
        AdapterError: it does not say which, or it is not to be had.
    """
    kind, name = told.get("auto_mapping"), told.get("base_model_name_or_path")
    if not isinstance(kind, dict) or not isinstance(kind.get("base_model_class"), str) or not isinstance(name, str):
        raise AdapterError("the folder does not say of which class its backbone is and where it is; give backbone=...")
    library = str(kind.get("parent_library")).partition(".")[0]
    section = {
        "library": library, "class": kind["base_model_class"], "name": name, "revision": told.get("revision"),
    }  # fmt: skip
    saved = set(told.get("modules_to_save") or ())
    heads = [t for n, t in tensors.items() if t.dim() == 2 and saved & set(n.split("."))]
    try:
        return origin.published(section, {"outputs": heads[-1].shape[0] if heads else None, "built": False}, {})
    except (ValueError, TypeError, OSError) as error:
        raise AdapterError(f"its backbone {name!r:.80} could not be loaded: {error}; give backbone=...") from error


def place(backbone: nn.Module, told: dict[str, Any], tensors: dict[str, Tensor], make: Callable[..., A]) -> A:
    """The adapter of a folder of peft's on a bare backbone, in evaluation mode; `make` as in `gossamer.saving.load`.

    Raises:
        AdapterError: it does not fit. The backbone is then as it was.
    """
    saved, heads = set(told.get("modules_to_save") or ()), hosts.read(backbone).heads
    trained = {name.rpartition(".")[2] for name in heads if saved & {name, name.rpartition(".")[2]}}
    method = method_of(told, trained)
    twin = on_meta(backbone)
    try:
        with torch.device("meta"):
            empty = AdaptedModule(twin, [method], train_head=bool(trained))
        names = names_of(empty)
        own = empty.tensors()
        storage.check_tensors(tensors, {theirs: own[ours] for theirs, ours in names.items()})
        adapted = make(backbone, [method], train_head=bool(trained))
    except AdapterError:
        raise
    except Exception as error:  # whatever a tuner says about settings that came from a file
        raise AdapterError(f"its {told['peft_type']} does not fit {type(backbone).__name__}: {error}") from error
    values = {ours: tensors[theirs] for theirs, ours in names.items()}
    adapted.load_state_dict({**adapted.tensors(), **values})
    return adapted.eval()


def names_of(adapted: AdaptedModule) -> dict[str, str]:
    """peft's name -> ours, of every tensor that peft would save of an adapted model.

    Raises:
        UserError: a folder of peft's cannot hold the adapter; the message says why.
    """
    from peft import get_peft_model_state_dict

    method, model = _only(adapted), adapted.backbone
    _check_apart(method.config)
    config = method.resolved(adapted.anatomy)
    ours = {id(tensor): name for name, tensor in adapted.tensors().items()}
    model.peft_config = {ADAPTER: config}  # type: ignore[assignment]  # where peft looks for it in a plain model
    try:
        state = model.state_dict(keep_vars=True)
        theirs = get_peft_model_state_dict(model, state, adapter_name=ADAPTER, save_embedding_layers=False)
    finally:
        del model.peft_config
    if adapted.train_head:
        theirs |= {
            f"{n}.{leaf}": t
            for n, m in adapted.head_modules().items()
            for leaf, t in m.state_dict(keep_vars=True).items()
        }
    lost = [name for name, tensor in theirs.items() if id(tensor) not in ours]
    if lost:
        raise UserError(
            f"{type(config).__name__} saves {lost[0]}, which is none of this adapter's tensors: peft reads it alone"
        )
    return {f"{PREFIX}{name}": ours[id(tensor)] for name, tensor in theirs.items()}


def write(adapted: AdaptedModule, folder: str | Path) -> None:
    """Writes an adapter as peft would: `PeftModel.from_pretrained(backbone, folder)` gives the same outputs.

    Raises:
        UserError: peft cannot hold it (another method, several, a head that was built here), or the folder holds something else.
    """
    names, method = names_of(adapted), _only(adapted)
    config = method.resolved(adapted.anatomy)
    with adapted.anatomy.bare():
        plain = {name for name, _ in adapted.backbone.named_modules()}
    _check_targets(config, plain)
    heads = [name.rpartition(".")[2] for name in adapted.head_modules()] if adapted.train_head else []
    config.modules_to_save = [*(config.modules_to_save or ()), *heads] or None
    config.inference_mode, config.base_model_name_or_path = True, adapted.host.name(adapted.backbone)
    own = adapted.tensors()
    tensors = {theirs: own[ours].detach().cpu().contiguous().clone() for theirs, ours in names.items()}
    kind = type(adapted.backbone)
    mapping = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    with tempfile.TemporaryDirectory() as made:
        config.save_pretrained(made, auto_mapping_dict=mapping)
        settings = (Path(made) / storage.CONFIG).read_bytes()
    packed = safetensors.torch.save(tensors, metadata={"format": "pt"})
    storage.put(folder, {storage.TENSORS: packed, storage.CONFIG: settings}, _check_peft)


def _check_peft(folder: Path) -> None:
    """Nothing, where the folder holds no adapter, or one of peft's, which may be replaced."""
    if (folder / storage.CONFIG).exists() and not found(folder):
        raise UserError(f"{folder} holds an adapter of ours, which would be lost: name another folder for peft's")


def _only(adapted: AdaptedModule) -> Peft:
    others = [method.name for method in adapted.applied if not isinstance(method, Peft)]
    if others or len(adapted.applied) != 1:
        raise UserError(
            f"a folder of peft's holds one configuration of peft, and this is {', '.join(m.name for m in adapted.applied)}: "
            "save_pretrained keeps it whole, and gossamer.peft brings our methods into peft's scripts"
        )
    if adapted.head_built is not None:
        raise UserError(
            f"the head was built here (num_labels=...), and {type(adapted.backbone).__name__} has no place for one in peft's eyes: "
            "adapt a class that has a head, such as AutoModelForImageClassification"
        )
    return adapted.applied[0]  # type: ignore[return-value]


def _check_targets(config: Any, plain: set[str]) -> None:
    targets = config.target_modules
    unknown = [t for t in targets or () if not any(f".{name}".endswith(f".{t}") for name in plain)]
    if not isinstance(targets, str) and unknown:
        raise UserError(
            f"{unknown[0]} is a third of a fused projection, which peft does not split: name whole modules as target_modules"
        )
