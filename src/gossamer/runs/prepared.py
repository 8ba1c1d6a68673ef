"""Images at the size that a backbone reads, decoded once where they fit in memory, in 8 bits until they are on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from gossamer import batches
from gossamer.batches import Pixels
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

    def collate(self, items: Any) -> dict[str, Any]:
        """Items -> a batch of the model's inputs, and "labels"; on its device after `gossamer.batches.on`."""
        ...

    def settle(self, adapted: Adapted) -> None:
        """Computes once what the training of this adapter leaves as it is."""
        ...


class Prepared(Dataset):
    """The images of a data set at one size; item i is {"pixel_values": Pixels [3, S, S], "labels": int}.

    Up to `memory` bytes, three a pixel, every image is decoded at once and kept. Above it images are decoded each time they are
    asked for, and only the heads of the files are read now.

    Raises:
        UserError: images cannot be read; the message names them.
    """

    def __init__(self, images: ImageDataset, preprocessing: Preprocessing, memory: int = MEMORY):
        self.images, self.preprocessing = images, preprocessing
        self.labels = torch.tensor(images.labels)
        self.subjects = None
        self.kept = kept(len(images), self._decoded, preprocessing, memory)
        if self.kept is None:
            images.check()

    def __len__(self) -> int:
        return len(self.images)

    def collate(self, items: Any) -> dict[str, Any]:
        """{"pixel_values": Pixels [B, 3, S, S], "labels": [B]}."""
        return default_collate(items)

    def settle(self, adapted: Adapted) -> None:
        """Nothing: images are decoded already where they fit."""

    def __getitem__(self, i: int) -> dict[str, Any]:
        pixels = self._decoded(i) if self.kept is None else self.kept[i]
        return {"pixel_values": pixels, "labels": self.images.labels[i]}

    def _decoded(self, i: int) -> Pixels:
        return self.preprocessing.pixels(self.images[i]["image"])


def kept(
    count: int, read: Callable[[int], Pixels], preprocessing: Preprocessing, memory: int = MEMORY
) -> Pixels | None:
    """read(0), read(1), ... as one, [count, 3, S, S]; None where that is above `memory` bytes. Errors as `every`."""
    size = preprocessing.size
    if count * 3 * size * size > memory:
        return None
    values = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for i, pixels in enumerate(every(count, read)):
        values[i] = pixels.values
    return Pixels(values, preprocessing.mean, preprocessing.std)


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

    def collate(self, items: Any) -> dict[str, Any]:
        """As the set."""
        return self.prepared.collate(items)

    def __getitem__(self, i: int) -> dict[str, Any]:
        image: Image = self.prepared.images[i]["image"]
        pixels = self.prepared.preprocessing.pixels(self.change(to_rgb(image)))
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
