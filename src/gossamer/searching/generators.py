"""The generators of random numbers of this process, as tensors that a saved state can hold: torch's, numpy's and Python's."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def state() -> dict[str, Tensor]:
    """Where every generator is."""
    of_numpy: dict[str, Any] = np.random.get_state(legacy=False)  # type: ignore[assignment]
    key = {**of_numpy["state"], "key": of_numpy["state"]["key"].tolist()}
    found = {
        "torch": torch.get_rng_state(),
        "python": _packed(random.getstate()),
        "numpy": _packed({**of_numpy, "state": key}),
    }
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return found | {f"cuda.{i}": generator for i, generator in enumerate(devices)}


def restore(found: dict[str, Tensor]) -> None:
    """Puts the generators where `state` found them; devices that are not here any more are passed over."""
    torch.set_rng_state(found["torch"])
    version, numbers, gauss = _unpacked(found["python"])
    random.setstate((version, tuple(numbers), gauss))
    of_numpy = _unpacked(found["numpy"])
    of_numpy["state"]["key"] = np.array(of_numpy["state"]["key"], dtype=np.uint32)
    np.random.set_state(of_numpy)
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in found:
            torch.cuda.set_rng_state(found[f"cuda.{i}"], i)


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Behind the block the generators are where they were before it."""
    before = state()
    try:
        yield
    finally:
        restore(before)


def _packed(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _unpacked(tensor: Tensor) -> Any:
    return json.loads(bytes(tensor.tolist()))
