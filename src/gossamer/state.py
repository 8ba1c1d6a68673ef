"""What a state dict says of an adapter beyond its tensors, so that weights which another program saved can be loaded alone.

The Hugging Face Trainer writes `model.state_dict()` into `model.safetensors` and nothing about methods. torch's place for what a
module has to say beyond its tensors is an entry `_extra_state`; ours is JSON as bytes, since safetensors holds tensors only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossamer.storage import CONFIG, AdapterError, parse, unpack

EXTRA = "_extra_state"  # torch's name
WEIGHTS = "model.safetensors"  # transformers' name


def packed(config: dict[str, Any]) -> Tensor:
    """JSON as a tensor of bytes [n]."""
    return torch.tensor(list(json.dumps(config, allow_nan=False, sort_keys=True).encode()), dtype=torch.uint8)


def unpacked(said: Tensor, where: str | Path) -> dict[str, Any]:
    """What `packed` made a tensor of, be it that a whole state dict was cast since; AdapterError for any other tensor."""
    values = said.tolist() if said.dim() == 1 else []
    if not values or not all(0 <= value < 256 and value == int(value) for value in values):
        raise AdapterError(f"{where}, {EXTRA}: expected bytes of JSON, found {said.dtype} of shape {tuple(said.shape)}")
    return parse(bytes(map(int, values)), Path(where))


def found(folder: str | Path) -> bool:
    """Whether this is a folder of weights that a Trainer wrote (`save_model`, `checkpoint-N`), and not one of ours."""
    return (Path(folder) / WEIGHTS).is_file() and not (Path(folder) / CONFIG).exists()


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of the one adapter in such a folder, whatever modules are around it.

    Raises:
        AdapterError: there is none, or several, or what it says of itself is no JSON.
    """
    path = Path(folder) / WEIGHTS
    tensors = unpack(path.read_bytes(), path)
    extras = [name for name in sorted(tensors) if name == EXTRA or name.endswith(f".{EXTRA}")]
    if len(extras) != 1:
        raise AdapterError(
            f"{path} holds {len(extras) or 'no'} adapters{': ' if extras else ''}{', '.join(extras[:5])}; a folder to load has "
            "one: save each with its own save_pretrained"
        )
    config, prefix = unpacked(tensors.pop(extras[0]), path), extras[0].removesuffix(EXTRA)
    return config, {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
