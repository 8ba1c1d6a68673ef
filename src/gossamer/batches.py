"""A batch on its way to the model: tensors go where the model is, what is known beside them stays as it is.

Images travel in 8 bits, a quarter of what a model reads, and become float32 on the device, here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map


@dataclass(frozen=True)
class Pixels:
    """Images in 8 bits, which a device makes what a model reads: (values / 255 - mean) / std, one mean and std a channel.

    Resized and cropped images have 8 bits anyway, so nothing is lost. A DataLoader stacks and pins them like tensors.

    Args:
        values: uint8 [..., 3, H, W].
        mean, std: of red, green and blue.
    """

    values: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __getitem__(self, i: Any) -> Pixels:
        """Some of them, as a tensor is asked for rows."""
        return replace(self, values=self.values[i])

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Tensor:
        """float32 [..., 3, H, W] on a device, the same numbers on every one."""
        values = self.values.to(device, non_blocking=non_blocking)
        # 255 as a tensor: by a number CUDA multiplies with 1 / 255, which is another float now and then
        told = torch.tensor([(255.0,) * 3, self.mean, self.std]).to(values.device)
        full, mean, std = told[:, :, None, None]
        return (values.float() / full - mean) / std

    def pin_memory(self, device: Any = None) -> Pixels:
        """The same in memory from which an accelerator reads while others compute; a DataLoader calls it."""
        return replace(self, values=self.values.pin_memory())


def _stacked(some: Sequence[Pixels], *, collate_fn_map: Any = None) -> Pixels:
    return replace(some[0], values=default_collate([one.values for one in some]))


default_collate_fn_map[Pixels] = _stacked  # torch's way to say how items of a kind become a batch


def on(device: torch.device, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with its tensors and images on a device; those in pinned memory travel while the caller goes on."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor | Pixels) else v for k, v in batch.items()}
