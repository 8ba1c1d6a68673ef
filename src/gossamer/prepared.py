"""Images as the tensors a backbone reads, decoded once where they fit in memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gossamer.data import ImageDataset, Preprocessing

MEMORY = 2**30  # bytes that one set of prepared images may take


class Prepared(Dataset):
    """The images of a data set as tensors; item i is {"pixel_values": float32 [3, S, S], "labels": int}.

    Up to `memory` bytes every image is decoded at once and kept. Above it images are decoded each time they are asked for, and
    only the heads of the files are read now.

    Raises:
        ValueError: an image cannot be read; the message names the file.
    """

    def __init__(self, images: ImageDataset, preprocessing: Preprocessing, memory: int = MEMORY):
        self.images, self.preprocessing = images, preprocessing
        self.labels = torch.tensor(images.labels)
        self.kept: Tensor | None = None
        size = preprocessing.size
        if len(images) * 3 * size * size * 4 <= memory:
            kept = torch.empty(len(images), 3, size, size)
            for i in range(len(images)):
                kept[i] = self._decoded(i)
            self.kept = kept
        else:
            images.check()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Tensor | int]:
        pixels = self._decoded(i) if self.kept is None else self.kept[i]
        return {"pixel_values": pixels, "labels": self.images.labels[i]}

    def _decoded(self, i: int) -> Tensor:
        return self.preprocessing(self.images[i]["image"])
