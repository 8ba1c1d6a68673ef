"""Images as the tensors a backbone reads, decoded once where they fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from gossamer import batches
from gossamer.data import ImageDataset, Preprocessing
from gossamer.data.images import every, to_rgb
from gossamer.errors import UserError
from gossamer.runs.run import BATCH as BATCH

if TYPE_CHECKING:
    from PIL.Image import Image

    from gossamer.adapting import Adapted

AUGMENTATIONS = ("random-crop", "horizontal-flip", "vertical-flip")
MEMORY = 2**30  # bytes that one set of prepared images may take


class PreparedSet(Protocol):
    """A set as a model reads it."""

    @property
    def labels(self) -> Tensor | None:
        """[n], the class of each item; None where items have no single class."""
        ...

    @property
    def subjects(self) -> Tensor | None:
        """[n], equal for items about the same image, which a choice on held-out items must not tear apart; None: all differ."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict[str, Any]: ...

    def collate(self, items: Any) -> dict[str, Tensor]:
        """Items -> a batch of the model's inputs, and "labels"."""
        ...

    def settle(self, adapted: Adapted) -> None:
        """Computes once what the training of this adapter leaves as it is."""
        ...


class Prepared(Dataset):
    """The images of a data set as tensors; item i is {"pixel_values": float32 [3, S, S], "labels": int}.

    Up to `memory` bytes every image is decoded at once and kept. Above it images are decoded each time they are asked for, and
    only the heads of the files are read now.

    Raises:
        UserError: images cannot be read; the message names them.
    """

    def __init__(self, images: ImageDataset, preprocessing: Preprocessing, memory: int = MEMORY):
        self.images, self.preprocessing = images, preprocessing
        self.labels = torch.tensor(images.labels)
        self.subjects = None
        self.kept: Tensor | None = None
        size = preprocessing.size
        if len(images) * 3 * size * size * 4 <= memory:
            kept = torch.empty(len(images), 3, size, size)
            for i, pixels in enumerate(every(len(images), self._decoded)):
                kept[i] = pixels
            self.kept = kept
        else:
            images.check()

    def __len__(self) -> int:
        return len(self.images)

    def collate(self, items: Any) -> dict[str, Tensor]:
        """{"pixel_values": [B, 3, S, S], "labels": [B]}."""
        return default_collate(items)

    def settle(self, adapted: Adapted) -> None:
        """Nothing: images are decoded already where they fit."""

    def __getitem__(self, i: int) -> dict[str, Tensor | int]:
        pixels = self._decoded(i) if self.kept is None else self.kept[i]
        return {"pixel_values": pixels, "labels": self.images.labels[i]}

    def _decoded(self, i: int) -> Tensor:
        return self.preprocessing(self.images[i]["image"])


class Augmented(Dataset):
    """The images of a prepared set, each changed at random whenever it is asked for, and then prepared as they are.

    Args:
        prepared: the set.
        names: of `AUGMENTATIONS`, applied in that order: random-crop cuts out 8 % to 100 % of the area at an aspect ratio of 3/4
            to 4/3 (torchvision's defaults) and stretches it to the size that is read; the flips happen to every second image.

    Raises:
        ValueError: an unknown name, or one twice.
    """

    def __init__(self, prepared: Prepared, names: Sequence[str]):
        from torchvision.transforms import v2

        if set(names) - set(AUGMENTATIONS) or len(set(names)) < len(names):
            raise UserError(f"images.augment may name {', '.join(AUGMENTATIONS)}, each once; got {', '.join(names)}")
        size = prepared.preprocessing.size
        steps: dict[str, Any] = {
            "random-crop": v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC),
            "horizontal-flip": v2.RandomHorizontalFlip(),
            "vertical-flip": v2.RandomVerticalFlip(),
        }
        self.prepared = prepared
        self.change = v2.Compose([step for name, step in steps.items() if name in names])

    def __len__(self) -> int:
        return len(self.prepared)

    def __getitem__(self, i: int) -> dict[str, Tensor | int]:
        image: Image = self.prepared.images[i]["image"]
        pixels = self.prepared.preprocessing(self.change(to_rgb(image)))
        return {"pixel_values": pixels, "labels": self.prepared.images.labels[i]}


@torch.no_grad()
def outputs(
    of: Callable[..., Tensor], items: PreparedSet, *, device: torch.device, batch: int = BATCH, workers: int = 0
) -> Tensor:
    """What `of(pixel_values=..., ...)` gives for every item, [n, ...] on the CPU in float32."""
    pinned = device.type == "cuda"
    loader: Any = DataLoader(
        items,  # type: ignore[arg-type]
        batch_size=batch, num_workers=workers, collate_fn=items.collate, pin_memory=pinned,
    )  # fmt: skip
    inputs = (batches.on(device, {name: value for name, value in b.items() if name != "labels"}) for b in loader)
    return torch.cat([of(**given).float().cpu() for given in inputs])
