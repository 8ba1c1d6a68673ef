"""A finished model as a folder, backbone included: made again from its description, without anything that only training needs.

The description is that of the adapter and of the architecture of its backbone. From it the model is made without values, adapted
and finished; every tensor then comes from the file, those that are computed when a model is made among them. Whether that gives the
same model is seen when it is saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gossamer import card, saving, storage
from gossamer.adapted import AdaptedModule, settle
from gossamer.adapted.rebuilding import held
from gossamer.architectures import records
from gossamer.errors import AdapterError, UserError

FIELDS = {"adapter": dict, "architecture": dict, "shared": dict}


def save(adapted: AdaptedModule, finished: nn.Module, folder: str | Path) -> None:
    """Writes what is left of an adapter when it is finished; the three files and their safety are those of `saving.save`.

    Raises:
        UserError: what was written would not be read as this model again; the message says what is in the way.
    """
    try:
        told = {"adapter": saving.describe(adapted), "architecture": records.described(adapted.backbone)}
        again = _made(told)
    except Exception as error:  # of a model of any kind
        raise _refusal(finished, str(error)) from error
    found, made = held(finished), held(again)
    differ = min((n for n in {*found, *made} if found.get(n) != made.get(n)), default=None)
    if differ is not None:
        raise _refusal(finished, f"{differ} is {found.get(differ, 'absent')} and would be {made.get(differ, 'absent')}")
    here = dict(_places(finished))
    first: dict[int, str] = {}
    told["shared"] = {n: first[id(t)] for n, t in here.items() if first.setdefault(id(t), n) != n}
    adapter = told["adapter"]
    text = card.text({**adapter, "cost": saving.counted(adapted)}, call="load_finished")
    storage.write(folder, {saving.FINISHED: told}, {n: t for n, t in here.items() if n not in told["shared"]}, text)


def load(folder: str | Path) -> nn.Module:
    """The finished model that `finalize(save=folder)` wrote, on the CPU, in evaluation mode.

    Its call is that of the adapted model. `metadata` holds what was recorded of its training: labels, preprocessing, task.

    Raises:
        AdapterError: it holds something else, or not all of it.
    """
    config, tensors = storage.read(saving.local(folder))
    if saving.FINISHED not in config:
        raise AdapterError(f"{folder} holds an adapter, not a finished model: gm.load reads it")
    storage.check_types(config, {saving.FINISHED: dict}, "adapter_config.json")
    told = config[saving.FINISHED]
    storage.check_types(told, FIELDS, f"adapter_config.json, {saving.FINISHED}")
    try:
        model: Any = _made(told)
        tensors |= {n: tensors[other] for n, other in told["shared"].items()}
    except Exception as error:  # of a description that came from a file: of any kind
        raise AdapterError(f"{folder}: nothing can be made of its description: {error!r:.300}") from error
    places = dict(_places(model))
    storage.check_tensors(tensors, places)
    kept: dict[int, nn.Parameter] = {}
    for name, place in places.items():
        path, _, leaf = name.rpartition(".")
        owner, value = model.get_submodule(path), tensors[name]
        if isinstance(place, nn.Parameter):
            owner._parameters[leaf] = kept.setdefault(id(value), nn.Parameter(value, requires_grad=False))
        else:
            owner._buffers[leaf] = value
    model.metadata = told["adapter"]["metadata"]
    return model.eval()


def _made(told: Mapping[str, Any]) -> nn.Module:
    """The finished model of a description, on the meta device."""
    section, head = told["adapter"], told["adapter"]["head"]
    backbone = records.made(told["architecture"])
    with torch.device("meta"):
        applied = saving.methods_of(section["methods"])
        adapted = AdaptedModule(
            backbone,
            applied,
            num_labels=head["outputs"],
            train_head=head["trained"],
            head=head["modules"],
            family=section["family"],
        )
        return settle(adapted.eval())


def _places(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer by every name that it has, those that no state dict holds among them."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _refusal(finished: nn.Module, why: str) -> UserError:
    return UserError(
        f"this finished {type(finished).__name__} would not be the same when it is loaded again: {why:.300}. Keep the adapter "
        "(save_pretrained; then gm.load and finalize()), or export it"
    )
