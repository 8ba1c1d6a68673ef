"""Images and masks, prepared and changed together: size, crop and flip alike, colours of the image alone.

The changes are mmsegmentation's: scale, a crop that no class fills, flip, colours. Numbers are drawn by torch's generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.data.masks import IGNORE
from gossamer.data.preprocess import Preprocessing

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

LONGEST = 4  # a side is at most so many times the shorter one that is asked for: ADE20K's (2048, 512)
TRIES = 10  # crops that are drawn until no class fills too much of one
FILLED = 0.75  # of the labelled pixels of a crop, by one class
BRIGHTER, CONTRAST, HUE = 32, (0.5, 1.5), 18 / 180  # of 255; factors, of saturation too; of the circle


def shorter_side(image: Image, side: float) -> tuple[int, int]:
    """Width and height of an image whose shorter side is to be `side`, the longer one at most four times as long."""
    scale = min(side / min(image.size), LONGEST * side / max(image.size))
    return max(1, int(image.width * scale + 0.5)), max(1, int(image.height * scale + 0.5))


def resized(image: Image, mask: np.ndarray | None, size: tuple[int, int]) -> tuple[Image, np.ndarray | None]:
    """Both at (width, height): the image bilinear, the mask by the nearest pixel."""
    import numpy as np
    from PIL import Image as PIL

    if image.size == size:
        return image, mask
    small = None if mask is None else np.asarray(PIL.fromarray(mask).resize(size, PIL.Resampling.NEAREST))
    return image.resize(size, PIL.Resampling.BILINEAR), small


@dataclass(frozen=True, kw_only=True)
class Paired:
    """An image and its mask -> [3, S, S] and [S, S], for training.

    Args:
        preprocessing: S, and the mean and spread of pixels.
        scale: the shorter side becomes S times a factor between these.
        filled: a crop is drawn anew, up to ten times, while one class fills more of its labelled part; 1: never.
        flip: whether every second image is mirrored.
        colours: whether brightness, contrast, saturation and hue change, each in every second image.
    """

    preprocessing: Preprocessing
    scale: tuple[float, float] = (1.0, 1.0)
    filled: float = FILLED
    flip: bool = False
    colours: bool = False

    def __call__(self, image: Image, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """Both, cut to S; what is missing on the right and below is 0 in the image, behind its mean, and 255 in the mask.

        The image is float32 for that: 8 bits have no value for the mean.
        """
        side = self.preprocessing.size
        size = shorter_side(image, side * _between(*self.scale))
        image, changed = resized(image, mask, size)
        assert changed is not None, "a mask was given"
        left, top = self._place(changed)
        image = image.crop((left, top, min(left + side, image.width), min(top + side, image.height)))
        mask = changed[top : top + side, left : left + side]
        if self.flip and _half():
            from PIL.Image import Transpose

            image, mask = image.transpose(Transpose.FLIP_LEFT_RIGHT), mask[:, ::-1]
        pixels = self.preprocessing.of(recoloured(image) if self.colours else image).to("cpu")
        missing = (0, side - mask.shape[1], 0, side - mask.shape[0])
        return F.pad(pixels, missing), F.pad(torch.from_numpy(mask.copy()), missing, value=IGNORE)

    def _place(self, mask: np.ndarray) -> tuple[int, int]:
        """Where the crop begins: left and top."""
        side = self.preprocessing.size
        left = top = 0
        for _ in range(TRIES):
            top, left = (int(torch.randint(max(length - side, 0) + 1, ())) for length in mask.shape)
            if self.filled >= 1:
                break
            seen = torch.from_numpy(mask[top : top + side, left : left + side].copy())
            counts = seen[seen != IGNORE].long().bincount()
            if len(counts.nonzero()) > 1 and int(counts.max()) < self.filled * int(counts.sum()):
                break
        return left, top


def recoloured(image: Image) -> Image:
    """Brightness, contrast, saturation and hue, each changed with a chance of a half; contrast before or after the last two."""
    import numpy as np
    from PIL import Image as PIL

    pixels = np.asarray(image).astype(np.float64)
    if _half():
        pixels = (pixels + _between(-BRIGHTER, BRIGHTER)).clip(0, 255)
    first = _half()
    if first and _half():
        pixels = (pixels * _between(*CONTRAST)).clip(0, 255)
    hsv = np.asarray(PIL.fromarray(pixels.round().astype(np.uint8)).convert("HSV")).astype(np.float64)
    if _half():
        hsv[..., 1] = (hsv[..., 1] * _between(*CONTRAST)).clip(0, 255)
    if _half():
        hsv[..., 0] = (hsv[..., 0] + 256 * _between(-HUE, HUE)) % 256
    pixels = np.asarray(PIL.frombytes("HSV", image.size, hsv.astype(np.uint8).tobytes()).convert("RGB")).astype(float)
    if not first and _half():
        pixels = (pixels * _between(*CONTRAST)).clip(0, 255)
    return PIL.fromarray(pixels.round().astype(np.uint8))


def _half() -> bool:
    return bool(torch.rand(()) < 0.5)


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
