"""desk/garments: real garments of Fashion-MNIST pasted on drawn grounds, with exact masks.

One to three garments, enlarged to 36 to 64 pixels and tinted, at random places of a grainy ramp of two colours. A pixel above 8 %
grey belongs to its garment; later ones hide earlier ones. Training images have garments of the 60,000, test images of the 10,000:
none is in both. Image i of a split is made from the seed "garments/split/i" with Python's own generator.
"""

from __future__ import annotations

import colorsys
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gossamer.data.masks import MaskDataset
from gossamer.data.offline import FASHION_CLASSES, fashion_mnist

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SIDE = 112
IMAGES = 1000  # of each split
MOST, SMALLEST, LARGEST = 3, 36, 64  # garments, and their sides in pixels
THRESHOLD = 0.08 * 255
GRAIN = 12  # grey levels
CLASSES = ("ground", *FASHION_CLASSES)


@dataclass(frozen=True)
class Garments:
    """The compositions of one split, made when they are asked for."""

    split: str
    pieces: np.ndarray  # [n, 28, 28], grey
    kinds: tuple[int, ...]  # class of each piece

    def open(self, index: int) -> tuple[Image, np.ndarray]:
        """An image of 112 x 112, and its mask: 0 the ground, 1 to 10 the garments."""
        import numpy as np
        from PIL import Image

        draw = random.Random(f"garments/{self.split}/{index}")
        image, mask = _ground(draw), np.zeros((SIDE, SIDE), dtype=np.int64)
        for _ in range(1 + int(draw.random() * MOST)):
            place = int(draw.random() * len(self.pieces))
            side = SMALLEST + int(draw.random() * (LARGEST - SMALLEST + 1))
            left, top = (int(draw.random() * (SIDE - side + 1)) for _ in range(2))
            grey = Image.fromarray(self.pieces[place]).resize((side, side), Image.Resampling.BILINEAR)
            shades = np.asarray(grey).astype(np.float64)
            tint = np.array(colorsys.hsv_to_rgb(draw.random(), 0.8 * draw.random(), 0.6 + 0.4 * draw.random()))
            seen = shades > THRESHOLD
            box = (slice(top, top + side), slice(left, left + side))
            image[box][seen] = (shades[:, :, None] * tint)[seen]
            mask[box][seen] = 1 + self.kinds[place]
        return Image.fromarray(image.round().astype(np.uint8)), mask

    def describe(self, index: int) -> str:
        """The split and the place in it."""
        return f"image {index} of desk/garments ({self.split})"


def garments(split: str = "train") -> MaskDataset:
    """1,000 training or 1,000 test images, 112 x 112, of 10 classes of garments and the ground."""
    pieces = fashion_mnist(split)
    source: Any = pieces.source  # one array
    return MaskDataset(
        name=f"garments ({split})", classes=CLASSES, source=Garments(split, source.array, pieces.labels),
        indices=tuple(range(IMAGES)),
    )  # fmt: skip


def _ground(draw: random.Random) -> np.ndarray:
    """A ramp of two colours in a random direction with a grain, [112, 112, 3]."""
    import numpy as np

    first, second = (
        255 * np.array(colorsys.hsv_to_rgb(draw.random(), 0.5 * draw.random(), 0.2 + 0.7 * draw.random()))
        for _ in range(2)
    )
    angle = 2 * math.pi * draw.random()
    rows, columns = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
    share = ((math.cos(angle) * columns + math.sin(angle) * rows) / math.sqrt(2) + 0.5)[:, :, None]
    grain = np.frombuffer(draw.randbytes(SIDE * SIDE), dtype=np.uint8).reshape(SIDE, SIDE, 1)
    noise = (grain / 255 - 0.5) * 2 * GRAIN
    return (first * (1 - share) + second * share + noise).clip(0, 255)
