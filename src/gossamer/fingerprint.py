"""Fingerprints: one set of weights told from another by a short text, on every device and in any order."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import AdapterError

_SAMPLES = 4096  # words of each tensor whose order enters the fingerprint


def combined(fingerprints: dict[str, Any]) -> str:
    """One fingerprint of several named ones."""
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 (64 hex digits) that tells one set of weights from another, whatever their order, device or strides.

    For each tensor it covers name, dtype, shape, the sum of all its bytes taken as 64-bit words (modulo 2^64), the
    bytes left over, and at most 4096 words spaced evenly. Any single changed value shows; a rearrangement that keeps
    the sum and misses the sample does not: this guards against mistakes, not against attacks. Each value is read once:
    22 M float32 parameters take some 5 ms, 7 billion in 16 bits about half a second once in memory (2-core CPU).

    Raises AdapterError for a meta tensor.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted((part for pair in tensors for part in _pieces(*pair)), key=lambda pair: pair[0]):
        if tensor.is_meta:
            raise AdapterError(
                f"cannot take the fingerprint of a backbone without values: {name!r} is on the meta device; "
                "load the weights first"
            )
        data = tensor.detach().reshape(-1).view(torch.uint8)
        if data.storage_offset() % 8:
            data = data.clone()  # words can only be read from an aligned start
        tail = data.numel() % 8
        words = data[: data.numel() - tail].view(torch.int64)
        step = math.ceil(words.numel() / _SAMPLES) | 1  # odd, so that it does not keep to a few columns of a matrix
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape), int(words.sum())]).encode())
        digest.update(words[::step].cpu().numpy().tobytes())
        digest.update(data[data.numel() - tail :].cpu().numpy().tobytes())
    return digest.hexdigest()


def _pieces(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """A tensor by its name, or those that torchao's quantised ones are made of."""
    data: Any = tensor.detach()
    if not of_torchao(tensor):
        return [(name, tensor)]
    return [(f"{name}.{inner}", getattr(data, inner)) for inner in data.__tensor_flatten__()[0]]


def of_torchao(tensor: Tensor) -> bool:
    """Whether a tensor is one of torchao's, which stand for numbers that they keep in another form."""
    return type(tensor.data).__module__.startswith("torchao.")
