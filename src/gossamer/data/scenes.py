"""Drawn scenes of coloured objects: where an object is, which way it points, how many there are.

In the spirit of dSprites and CLEVR, for tasks that need the layout of an image rather than what is in it. Image i of a split is
drawn from the seed "task/split/i" with Python's own generator, whose numbers are the same on every machine; edges may differ by a
grey level between versions of Pillow.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gossamer.data.images import ImageDataset
from gossamer.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Points = tuple[tuple[float, float], ...]
"""Corners of an object around (0, 0), the furthest about 1 away; its head, if it has one, looks along x."""

SIDE = 128  # pixels
IMAGES = 1000  # of each split
FINE = 4  # objects are drawn this much larger, so that their edges are smooth
CONTRAST = 100  # least distance of an object's colour from those of the background, where black to white is 441
GRID = 4  # rows and columns of places
DIRECTIONS = 16
COUNTS = range(3, 11)  # as CLEVR has
MARGIN = 0.1  # of a bin on either side is left out, so that no image lies between two classes


def _ring(corners: int, *radii: float) -> Points:
    """A star or a regular polygon: `corners` points at the given radii in turn."""
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return tuple((r * math.cos(a), r * math.sin(a)) for a, r in zip(angles, radii * corners, strict=False))


OBJECTS: dict[str, Points] = {
    "disc": _ring(24, 1.0),
    "triangle": _ring(3, 1.0),
    "square": _ring(4, 1.0),
    "hexagon": _ring(6, 1.0),
    "star": _ring(10, 1.0, 0.45),
    "bar": ((1.0, 0.3), (1.0, -0.3), (-1.0, -0.3), (-1.0, 0.3)),
}
POINTERS: dict[str, Points] = {
    "arrow": ((1.0, 0.0), (0.2, 0.7), (0.2, 0.25), (-1.0, 0.25), (-1.0, -0.25), (0.2, -0.25), (0.2, -0.7)),
    "kite": ((1.0, 0.0), (-0.5, 0.6), (-0.85, 0.0), (-0.5, -0.6)),
    "dart": ((1.0, 0.0), (-0.9, 0.65), (-0.4, 0.0), (-0.9, -0.65)),
    "house": ((1.0, 0.0), (0.3, 0.6), (-0.8, 0.6), (-0.8, -0.6), (0.3, -0.6)),
}


@dataclass(frozen=True)
class Scene:
    """A drawn task: the names of its classes, and the image of one class, drawn with a generator."""

    classes: tuple[str, ...]
    draw: Callable[[int, random.Random], Image]


@dataclass(frozen=True)
class SceneImages:
    """The images of one split, drawn when they are asked for. The label of image i is i modulo the number of classes."""

    task: str
    split: str

    def open(self, index: int) -> Image:
        """The image at `index`."""
        scene = SCENES[self.task]
        return scene.draw(index % len(scene.classes), random.Random(f"{self.task}/{self.split}/{index}"))

    def describe(self, index: int) -> str:
        """The task, the split and the place in it."""
        return f"image {index} of {self.task} ({self.split})"


def scenes(task: str, split: str = "train") -> ImageDataset:
    """1,000 training or 1,000 test images of a task, 128 x 128, every class equally often (the first ones once more).

    location: one of six objects, 12 to 24 pixels in radius, its centre in one of 4 x 4 cells.
    orientation: one of four objects with a head, 18 to 30 pixels, anywhere; in which 16th of the circle its head looks,
    counted from the right, clockwise.
    count: 3 to 10 objects of 6 to 11 pixels that do not touch, each of its own kind.
    In all of them kind, size, turn, colour and place within the class are random, as are the two colours and the grain of the
    background.
    """
    if task not in SCENES:
        raise UserError(f"no drawn task {task!r}; known: {', '.join(SCENES)}")
    classes = SCENES[task].classes
    return ImageDataset(
        name=f"{task} ({split})",
        classes=classes,
        labels=tuple(i % len(classes) for i in range(IMAGES)),
        source=SceneImages(task, split),
        indices=tuple(range(IMAGES)),
    )


def _location(label: int, draw: random.Random) -> Image:
    row, column = divmod(label, GRID)
    image, ground = _background(draw)
    centre = (SIDE / GRID * (column + _within(draw)), SIDE / GRID * (row + _within(draw)))
    _place(image, _any(OBJECTS, draw), centre, _between(draw, 12, 24), _turn(draw), _colour(ground, draw))
    return image


def _orientation(label: int, draw: random.Random) -> Image:
    image, ground = _background(draw)
    radius = _between(draw, 18, 30)
    centre = (_between(draw, radius, SIDE - radius), _between(draw, radius, SIDE - radius))
    angle = 2 * math.pi / DIRECTIONS * (label + _within(draw))
    _place(image, _any(POINTERS, draw), centre, radius, angle, _colour(ground, draw))
    return image


def _count(label: int, draw: random.Random) -> Image:
    image, ground = _background(draw)
    placed: list[tuple[float, float, float]] = []
    while len(placed) < COUNTS[label]:
        radius = _between(draw, 6, 11)
        x, y = _between(draw, radius, SIDE - radius), _between(draw, radius, SIDE - radius)
        if all(math.hypot(x - u, y - v) > radius + r + 2 for u, v, r in placed):
            placed.append((x, y, radius))
            _place(image, _any(OBJECTS, draw), (x, y), radius, _turn(draw), _colour(ground, draw))
    return image


SCENES = {
    "location": Scene(tuple(f"row {i // GRID + 1}, column {i % GRID + 1}" for i in range(GRID**2)), _location),
    "orientation": Scene(
        tuple(f"{360 / DIRECTIONS * i:g} to {360 / DIRECTIONS * (i + 1):g} degrees" for i in range(DIRECTIONS)),
        _orientation,
    ),
    "count": Scene(tuple(f"{n} objects" for n in COUNTS), _count),
}
"""The drawn tasks by name."""


def _background(draw: random.Random) -> tuple[Image, list[tuple[float, ...]]]:
    """Pale clouds of two colours with a grain; those colours and the one between them."""
    from PIL import Image
    from PIL.Image import Resampling

    first, second = (_rgb(draw.random(), _between(draw, 0, 0.5), _between(draw, 0.1, 0.9)) for _ in range(2))
    clouds = Image.frombytes("L", (4, 4), draw.randbytes(16)).resize((SIDE, SIDE), Resampling.BICUBIC)
    flat = [Image.new("RGB", (SIDE, SIDE), _whole(colour)) for colour in (first, second)]
    image = Image.composite(flat[0], flat[1], clouds)
    grain = Image.frombytes("L", (SIDE // 2, SIDE // 2), draw.randbytes(SIDE**2 // 4)).resize((SIDE, SIDE))
    between = tuple((a + b) / 2 for a, b in zip(first, second, strict=True))
    return Image.blend(image, grain.convert("RGB"), 0.12), [first, second, between]


def _place(
    image: Image, points: Points, centre: tuple[float, float], radius: float, angle: float, colour: tuple[int, ...]
) -> None:
    """Draws the object into the image, turned by `angle` (clockwise, as y grows downwards)."""
    from PIL import Image, ImageDraw

    left, top = (math.floor(c - radius) for c in centre)
    side = math.ceil(2 * radius) + 2
    cos, sin = radius * math.cos(angle), radius * math.sin(angle)
    corners = [
        (FINE * (centre[0] - left + x * cos - y * sin), FINE * (centre[1] - top + x * sin + y * cos)) for x, y in points
    ]
    mask = Image.new("L", (FINE * side, FINE * side))
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    image.paste(colour, (left, top, left + side, top + side), mask.reduce(FINE))


def _colour(ground: list[tuple[float, ...]], draw: random.Random) -> tuple[int, ...]:
    """A strong colour that stands out from the background."""
    while True:
        colour = _rgb(draw.random(), _between(draw, 0.5, 1), _between(draw, 0.3, 1))
        if all(math.dist(colour, other) > CONTRAST for other in ground):
            return _whole(colour)


def _rgb(hue: float, saturation: float, value: float) -> tuple[float, ...]:
    return tuple(255 * c for c in colorsys.hsv_to_rgb(hue, saturation, value))


def _whole(colour: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(round(c) for c in colour)


def _any(objects: dict[str, Points], draw: random.Random) -> Points:
    return list(objects.values())[int(draw.random() * len(objects))]


def _turn(draw: random.Random) -> float:
    return 2 * math.pi * draw.random()


def _between(draw: random.Random, low: float, high: float) -> float:
    return low + (high - low) * draw.random()


def _within(draw: random.Random) -> float:
    """A place in a bin of width 1."""
    return _between(draw, MARGIN, 1 - MARGIN)
