"""Adapters as folders: what `save_pretrained` writes and `load` checks, field by field (see docs/saving.md)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gossamer import card, hosts, methods, origin, peft_folder, state, storage
from gossamer.adapted import AdaptedModule, occupant
from gossamer.anatomy import Anatomy
from gossamer.cost import CostSheet, cost
from gossamer.cost.counting import on_meta
from gossamer.hosts import heads
from gossamer.storage import AdapterError

A = TypeVar("A", bound=AdaptedModule)

FIELDS = {
    "methods": list, "family": str | None, "stacks": dict, "backbone": dict, "head": dict, "metadata": dict, "cost": dict,
    "versions": dict,
}  # fmt: skip
FINISHED = "finished"  # the one field of a finished model's folder, see `gossamer.finished`
HEAD_FIELDS = {"outputs": int | None, "built": bool, "trained": bool, "modules": list | None}
STATE = f"state dict, {state.EXTRA}"
_NAMED = 2**16  # outputs of a head that cost nothing to name
PACKAGES = ("torch", "transformers", "peft", "timm")


def save(adapted: AdaptedModule, folder: str | Path, sheet: CostSheet | None = None, *, place: str = ".") -> None:
    """Writes adapter_config.json, adapter_model.safetensors and README.md; the old folder or the new one survives any kill.

    Args:
        adapted: what is saved.
        folder: where.
        sheet: its cost, where that is known already; None: it is counted.
        place: what its card calls the folder; see `card.text`.

    Raises:
        AdapterError: the adapter is detached, the backbone was changed under it, or a tensor is not finite.
    """
    if not adapted.attached:
        raise AdapterError("this adapter is detached from its backbone, so it cannot be saved: call attach() first")
    changed = adapted.placement.changed()  # type: ignore[union-attr]
    if changed:
        raise AdapterError(
            f"the backbone was changed after adapt(), and a folder holds the adapter alone: {changed}; detach(), change the "
            "backbone, keep it under a name of its own, and adapt that"
        )
    config = describe(adapted) | {"cost": counted(adapted) if sheet is None else sheet.to_dict()}
    origin.warn(adapted, config["backbone"])
    storage.write(folder, config, adapted.tensors(), card.text(config, place=place, pictures=_pictures(folder)))


def note(folder: str | Path, *, pictures: Sequence[Path] = (), **facts: Any) -> None:
    """Adds facts to the metadata of an adapter that was saved, and pictures to its folder, and writes its card anew.

    Args:
        folder: that of the adapter.
        pictures: image files; those that a card shows (`card.PICTURES`) are copied.
        facts: what is known only after it was saved, as JSON.
    """
    config, tensors = storage.read(folder)
    for picture in pictures:
        if picture.name in card.PICTURES:
            shutil.copyfile(picture, Path(folder) / picture.name)
    config["metadata"] = {**config["metadata"], **facts}
    storage.write(folder, config, tensors, card.text(config, pictures=_pictures(folder)))


def _pictures(folder: str | Path) -> list[str]:
    return [name for name in card.PICTURES if (Path(folder) / name).is_file()]


def describe(adapted: AdaptedModule) -> dict[str, Any]:
    """Everything about an adapter but its tensors, as JSON; its cost not counted."""
    return {
        "methods": [methods.to_dict(m) for m in adapted.applied],
        "family": adapted.family_named,
        "stacks": _stacks(adapted.anatomy),
        "backbone": origin.reference(adapted),
        "head": {
            "outputs": _outputs(adapted),
            "built": adapted.head_built is not None,
            "trained": adapted.train_head,
            "modules": None if adapted.head_named is None else list(adapted.head_named),
        },
        "metadata": dict(adapted.metadata),
        "cost": {},
        "versions": {p: origin.version(p) for p in PACKAGES},
    }


def adopt(adapted: AdaptedModule, config: dict[str, Any]) -> None:
    """Lets an adapter that takes over tensors say what their `describe` said that they were trained on; see `origin.adopt`."""
    storage.check_types(config, FIELDS, STATE)
    origin.adopt(adapted, config["backbone"], f"{STATE}, backbone")


def counted(adapted: AdaptedModule) -> dict[str, Any]:
    """The cost sheet; for a model that cannot be counted why not, since an adapter is worth more than a figure about it."""
    try:
        size = adapted.metadata.get("preprocessing", {}).get("size")
        return cost(adapted, **({} if size is None else {"image_size": size})).to_dict()
    except Exception as error:  # of a model that runs on samples of its own making, so of any kind
        return {"not_counted": f"{type(error).__name__}: {error}"[:500]}


def load(folder: str | Path, backbone: nn.Module | None = None, *, make: Callable[..., A]) -> A:
    """See `gossamer.load`; `make` builds the adapted model from backbone and methods."""
    folder = local(folder)
    if isinstance(backbone, AdaptedModule):
        backbone = backbone.backbone
    if peft_folder.found(folder):
        told, tensors = peft_folder.read(folder)
        backbone = peft_folder.backbone_of(told, tensors) if backbone is None else backbone
        with _freed(backbone, folder):
            return peft_folder.place(backbone, told, tensors, make)
    config, tensors = state.read(folder) if state.found(folder) else storage.read(folder)
    if FINISHED in config:
        raise AdapterError(
            f"{folder} holds a finished model, not an adapter: gm.load_finished reads it (gm.load and gm.Mixed take what "
            "save_pretrained wrote)"
        )
    storage.check_types(config, FIELDS, "adapter_config.json")
    storage.check_types(config["head"], HEAD_FIELDS, "adapter_config.json, head")
    origin.check(config["backbone"])
    applied = methods_of(config["methods"])
    if backbone is None:
        backbone = origin.load(config["backbone"], config["head"])
    origin.check_class(backbone, config["backbone"])
    with _freed(backbone, folder):
        return _place(backbone, applied, config, tensors, make)


@contextmanager
def _freed(backbone: nn.Module, folder: Path) -> Iterator[None]:
    """The backbone without the adapter that sits on it, which comes back where something fails; errors name the folder."""
    other = occupant(backbone)
    if other is not None:
        other.detach()
    try:
        yield
    except BaseException as error:
        if other is not None:
            other.attach()
        if isinstance(error, AdapterError):
            raise AdapterError(f"{folder}: {error}") from error.__cause__
        raise


def transfer(adapted: AdaptedModule, backbone: nn.Module, *, make: Callable[..., A]) -> A:
    """The same adapter on another copy of its backbone, in evaluation mode; `make` as in `load`.

    Raises:
        AdapterError: it does not fit, or the backbone has other weights than those that it was trained on.
    """
    tensors = {name: tensor.detach() for name, tensor in adapted.tensors().items()}
    return _place(backbone, list(adapted.applied), describe(adapted), tensors, make)


def _place(
    backbone: nn.Module,
    applied: list[methods.Method],
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    make: Callable[..., A],
) -> A:
    """The adapter on a bare backbone, which stays as it is where anything does not fit."""
    _check_stacks(backbone, config)
    origin.check_settings(backbone, config["backbone"], config["versions"], config["head"]["modules"])
    section = config["head"]
    told = {"num_labels": section["outputs"], "train_head": section["trained"], "head": section["modules"]}
    told["family"] = config["family"]
    longest = max((max(t.shape, default=1) for t in tensors.values()), default=1)
    if (told["num_labels"] or 0) > max(longest, _NAMED):  # a name is made for each, before any tensor
        raise AdapterError(
            f"its head is said to have {told['num_labels']:,} outputs, and no tensor of it is longer than {longest:,}"
        )
    try:
        _rehearse(backbone, applied, told, tensors)
        adapted = make(backbone, applied, **told)
    except AdapterError:
        raise
    except Exception as error:  # whatever a method says about settings that came from a file
        raise AdapterError(f"its methods do not fit {type(backbone).__name__}: {error}") from error
    try:
        origin.check_weights(adapted, config["backbone"])
        adapted.load_state_dict(tensors)
    except AdapterError:
        adapted.detach()
        raise
    adapted.metadata = config["metadata"]
    return adapted.eval()


def _rehearse(
    backbone: nn.Module, applied: list[methods.Method], told: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """The adapter on a copy of the backbone without values, compared with the tensors of the file.

    So whatever a file asks for, nothing is allocated and the backbone is not touched before every shape is known to be right.
    """
    twin = on_meta(backbone)
    with torch.device("meta"):
        storage.check_tensors(tensors, AdaptedModule(twin, applied, **told).tensors())


def push_to_hub(adapted: AdaptedModule, repository: str, **options: Any) -> str:
    """Saves an adapter and uploads its folder to `repository` ("user/name") of the Hugging Face hub; returns the address.

    `options` go to `huggingface_hub.HfApi.create_repo` (private, token, ...).
    """
    from huggingface_hub import HfApi

    api = HfApi(token=options.pop("token", None))
    with tempfile.TemporaryDirectory() as folder:
        save(adapted, Path(folder) / "adapter", place=repository)
        api.create_repo(repository, exist_ok=True, **options)
        return str(api.upload_folder(repo_id=repository, folder_path=Path(folder) / "adapter"))


def methods_of(section: Any) -> list[methods.Method]:
    """The methods that a file describes; AdapterError where it describes none, or wrongly."""
    if not isinstance(section, list) or not section or not all(isinstance(m, dict) for m in section):
        raise AdapterError(
            f"adapter_config.json, methods: expected a list of methods with their settings, found {section!r:.80}"
        )
    applied = []
    for i, values in enumerate(section):
        try:
            if values.get("method") == "peft":
                methods.peft.settings.check_plain(values)
            applied.append(methods.from_dict(values))
        except (ValueError, TypeError, KeyError) as error:
            raise AdapterError(f"adapter_config.json, methods[{i}]: {error}") from error
        if applied[-1].name != "peft":
            storage.check_fields(values, methods.to_dict(applied[-1]), f"adapter_config.json, methods[{i}]")
    return applied


def _check_stacks(backbone: nn.Module, config: dict[str, Any]) -> None:
    """As many blocks of the same width: cheap, and said before anything is placed."""
    try:
        found = _stacks(hosts.read(backbone, config["head"]["modules"], config["family"]))
    except ValueError as error:
        raise AdapterError(f"adapter_config.json, head or family: {error}") from error
    if found != config["stacks"]:
        raise AdapterError(
            f"this adapter is for a {config['backbone']['class']} with {_sizes(config['stacks'])}; the given one has "
            f"{_sizes(found)}"
        )


def _outputs(adapted: AdaptedModule) -> int | None:
    """Number of outputs of the head, so that loading can build it; None where there is none, or several that differ."""
    said = adapted.host.outputs(adapted.backbone)
    found = {heads.outputs(head, said) for head in adapted.head_modules().values()}
    return found.pop() if len(found) == 1 else adapted.num_labels


def _stacks(anatomy: Anatomy) -> dict[str, Any]:
    return {n: {"blocks": len(b), "width": b[0].sizes.width} for n, b in anatomy.stacks.items()}


def _sizes(stacks: Any) -> str:
    if not isinstance(stacks, dict):
        return repr(stacks)[:80]
    return ", ".join(
        f"{s.get('blocks')} {n} blocks of width {s.get('width')}" for n, s in stacks.items() if isinstance(s, dict)
    )


def local(folder: str | Path) -> Path:
    """A folder by its path, or that of a repository of the hub ("user/name"), which is fetched where there is no such path.

    Raises:
        AdapterError: the hub does not give it.
    """
    path = Path(folder)
    if path.exists() or isinstance(folder, Path) or str(folder).count("/") != 1 or str(folder).startswith(("/", ".")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = [storage.CONFIG, storage.TENSORS, storage.CARD]
    try:
        return Path(snapshot_download(str(folder), allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise AdapterError(
            f"there is no folder {folder}, and the hub did not give a repository of that name: {error}"
        ) from error
