"""A batch on its way to the model: tensors go where the model is, what is known beside them stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def on(device: torch.device, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with its tensors on a device; those in pinned memory travel while the caller goes on."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
