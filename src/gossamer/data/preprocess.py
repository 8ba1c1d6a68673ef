"""Images -> the tensor a backbone reads, described by a small record that is stored with the adapter.

The same record prepares images for training, evaluation and prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from gossamer.errors import UserError
from gossamer.pixels import IMAGENET_MEAN, IMAGENET_STD, MAX_SIZE

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from gossamer.batches import Pixels

RESIZES = ("shorter-side", "direct")
INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, crop to a square of `size` pixels, scale to 0..1, subtract `mean`, divide by `std` (one value a channel).

    `resize="shorter-side"` keeps the proportions: the shorter side becomes size / crop pixels, and the centre is cut
    out. `resize="direct"` stretches the whole image to the square. Called on a PIL image it gives a float32 tensor
    [3, size, size]. Defaults: ImageNet statistics and bicubic interpolation, as DINOv2 was trained with.
    """

    size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: str = "shorter-side"
    crop: float = 1.0  # part of the resized shorter side that is kept
    interpolation: str = "bicubic"

    def __post_init__(self):
        if not isinstance(self.size, int) or isinstance(self.size, bool) or not 1 <= self.size <= MAX_SIZE:
            raise UserError(f"Preprocessing.size must be a whole number of pixels, 1 to {MAX_SIZE}, got {self.size!r}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three(name, getattr(self, name)))
        if min(self.std) <= 0:
            raise UserError(f"Preprocessing.std must be above 0, got {self.std}")
        if self.resize not in RESIZES:
            raise UserError(f"Preprocessing.resize must be one of {', '.join(RESIZES)}, got {self.resize!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(
                f"Preprocessing.interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )
        if not _is_number(self.crop) or not 0 < self.crop <= 1:
            raise UserError(f"Preprocessing.crop must be above 0 and at most 1, got {self.crop!r}")
        if self.resize == "direct" and self.crop != 1:
            raise UserError(
                f"Preprocessing.crop={self.crop} needs resize='shorter-side': 'direct' keeps all of the image"
            )

    def __call__(self, image: Image) -> torch.Tensor:
        """The prepared image, float32 [3, size, size]; modes other than RGB go through `to_rgb`."""
        return self.pixels(image).to("cpu")

    def pixels(self, image: Image) -> Pixels:
        """The image resized and cropped, [3, size, size] in 8 bits; `mean` and `std` wait until it is on a device."""
        from gossamer.data.images import to_rgb

        return self.of(self._square(to_rgb(image)))

    def of(self, image: Image) -> Pixels:
        """An RGB image of any size as it is, [3, H, W] in 8 bits."""
        import numpy as np
        import torch

        from gossamer.batches import Pixels

        return Pixels(torch.from_numpy(np.array(image)).permute(2, 0, 1), self.mean, self.std)

    def _square(self, image: Image) -> Image:
        """The image resized and cropped to size x size, with torchvision's rounding."""
        from PIL.Image import Resampling

        filter = Resampling.BICUBIC if self.interpolation == "bicubic" else Resampling.BILINEAR
        if self.resize == "direct":
            return image.resize((self.size, self.size), filter)
        short = round(self.size / self.crop)
        width, height = (int(short * side / min(image.size)) for side in image.size)
        image = image.resize((width, height), filter)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-able values; `from_dict` is the inverse."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing that `to_dict` described; ValueError for unknown or absent fields and bad values."""
        if not isinstance(record, Mapping):
            raise UserError(f"the preprocessing must be a record of named fields, got {record!r}")
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in record if name not in known]:
            raise UserError(f"the preprocessing has unknown fields {unknown}; known: {', '.join(known)}")
        if "size" not in record:
            raise UserError("the preprocessing has no size")
        return cls(**record)

    @classmethod
    def from_processor(cls, config: Mapping[str, Any], size: int | None = None) -> Preprocessing:
        """From the preprocessor_config.json of a Hugging Face model, at `size` instead of its own if that is given."""
        resized, cropped = _side(config.get("size")), _side(config.get("crop_size"))
        crops = bool(config.get("do_center_crop")) and cropped is not None
        own = cropped if crops else resized
        if own is None:
            raise UserError(f"the image processor names no single size: size={config.get('size')!r}")
        keeps = _keeps_proportions(config.get("size"))
        return cls(
            size=size or own,
            mean=config.get("image_mean", IMAGENET_MEAN),
            std=config.get("image_std", IMAGENET_STD),
            resize="shorter-side" if crops or keeps else "direct",
            crop=min(1.0, cropped / resized) if crops and cropped and resized else 1.0,
            interpolation="bilinear" if config.get("resample", 3) == 2 else "bicubic",
        )

    @classmethod
    def from_timm(cls, config: Mapping[str, Any], size: int | None = None) -> Preprocessing:
        """From the `pretrained_cfg` of a timm model, at `size` instead of its own if that is given."""
        _, height, width = config.get("input_size", (3, 224, 224))
        if height != width:
            raise UserError(f"only square images are prepared here, and this model reads {height} x {width}")
        return cls(
            size=size or height,
            mean=config.get("mean", IMAGENET_MEAN),
            std=config.get("std", IMAGENET_STD),
            crop=config.get("crop_pct") or 1.0,
            interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        )


@dataclass(frozen=True)
class Collate:
    """Items {"image": PIL, "label": int} -> {"pixel_values": float32 [B, 3, H, W], "labels": int64 [B]}.

    Items without a label give a batch without labels.
    """

    preprocessing: Preprocessing

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of `items`."""
        import torch

        batch = {"pixel_values": torch.stack([self.preprocessing(item["image"]) for item in items])}
        if all("label" in item for item in items):
            batch["labels"] = torch.tensor([item["label"] for item in items], dtype=torch.long)
        return batch


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _three(name: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)) or len(values) != 3 or not all(map(_is_number, values)):
        raise UserError(f"Preprocessing.{name} must be three numbers (red, green, blue), got {values!r}")
    return tuple(float(value) for value in values)


def _side(size: object) -> int | None:
    """The one number of pixels in an image processor's size, or None."""
    if isinstance(size, Mapping):
        sides = {size[key] for key in ("shortest_edge", "height", "width") if size.get(key) is not None}
        size = sides.pop() if len(sides) == 1 else None
    return size if isinstance(size, int) else None


def _keeps_proportions(size: object) -> bool:
    return isinstance(size, int) or (isinstance(size, Mapping) and "shortest_edge" in size)
