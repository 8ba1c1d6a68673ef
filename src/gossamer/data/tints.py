"""tints: real garments of Fashion-MNIST in six colours, for classes that are combinations of two words.

7 garments x 6 colours. Image i of a split is made from the seed "tints/split/i" with Python's own generator; training images have
garments of the 60,000, test images of the 10,000. 30 of the 42 combinations are `SEEN`: `clip-small-desk` is aligned on them alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gossamer.data.images import ImageDataset
from gossamer.data.offline import FASHION_CLASSES, fashion_mnist

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SIDE = 56
EACH = {"train": 16, "test": 10}  # images of each combination
COLOURS = {
    "red": (225, 45, 45), "green": (45, 170, 60), "blue": (55, 80, 225), "yellow": (230, 210, 40), "purple": (150, 50, 190),
    "white": (240, 240, 240),
}  # fmt: skip
GARMENTS = {"Trouser": "trousers", "Dress": "dress", "Coat": "coat", "Sandal": "sandal", "Sneaker": "sneaker", "Bag": "bag",
            "Ankle boot": "boot"}  # fmt: skip
CLASSES = tuple(f"{colour} {garment}" for garment in GARMENTS.values() for colour in COLOURS)
UNSEEN = tuple(sorted(random.Random("tints").sample(CLASSES, 12)))
SEEN = tuple(name for name in CLASSES if name not in UNSEEN)


@dataclass(frozen=True)
class Tinted:
    """The images of one split, made when they are asked for."""

    split: str
    pieces: np.ndarray  # [n, 28, 28], grey
    places: tuple[tuple[int, ...], ...]  # of each garment, in `pieces`

    def open(self, index: int) -> Image:
        """The image at `index`: its combination is that number divided by the images of each."""
        import numpy as np
        from PIL import Image

        draw, label = random.Random(f"tints/{self.split}/{index}"), index // EACH[self.split]
        garment, colour = divmod(label, len(COLOURS))
        places = self.places[garment]
        grey = Image.fromarray(self.pieces[places[int(draw.random() * len(places))]]).resize(
            (SIDE, SIDE), Image.Resampling.BILINEAR
        )
        strength = 0.85 + 0.15 * draw.random()
        tint = np.array(list(COLOURS.values())[colour]) * strength
        return Image.fromarray((np.asarray(grey)[:, :, None] / 255 * tint).round().astype(np.uint8))

    def describe(self, index: int) -> str:
        """The split and the place in it."""
        return f"image {index} of tints ({self.split})"


def tints(split: str = "train") -> ImageDataset:
    """672 training or 420 test images, 56 x 56, of 42 combinations of a colour and a garment."""
    pieces = fashion_mnist(split)
    source: Any = pieces.source  # one array
    kinds = [FASHION_CLASSES.index(name) for name in GARMENTS]
    places = tuple(tuple(i for i, label in enumerate(pieces.labels) if label == kind) for kind in kinds)
    labels = tuple(label for label in range(len(CLASSES)) for _ in range(EACH[split]))
    return ImageDataset(
        name=f"tints ({split})", classes=CLASSES, labels=labels, source=Tinted(split, source.array, places),
        indices=tuple(range(len(labels))),
    )  # fmt: skip
