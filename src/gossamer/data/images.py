"""Labelled images: where they are read from, and the data set that every reader gives."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import torch
from torch.utils.data import Dataset

from gossamer.data.files import listed, twice
from gossamer.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

T = TypeVar("T")
AHEAD = 4  # images that each thread may have read before they are taken
ORIENTATION = 0x0112  # of EXIF: how an image is stored


class ImageSource(Protocol):
    """Where images come from, counted from 0."""

    def open(self, index: int) -> Image:
        """The image, which PIL may not have decoded yet."""
        ...

    def describe(self, index: int) -> str:
        """The file or record of the image, for messages."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Images in files."""

    paths: tuple[Path, ...]

    def open(self, index: int) -> Image:
        """The image of the file, not decoded."""
        from PIL import Image

        return Image.open(self.paths[index])

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.paths[index])


@dataclass(frozen=True)
class ImageArray:
    """Images in one array of grey values [images, height, width], uint8."""

    name: str
    array: np.ndarray

    def open(self, index: int) -> Image:
        """The image at `index`, grey."""
        from PIL import Image

        return Image.fromarray(self.array[index])

    def describe(self, index: int) -> str:
        """The set and the place in it."""
        return f"image {index} of {self.name}"


@dataclass(frozen=True)
class JoinedImages:
    """The images of several sources, one source after the other."""

    parts: tuple[tuple[ImageSource, int], ...]

    def open(self, index: int) -> Image:
        """The image at `index`."""
        return self.parts[index][0].open(self.parts[index][1])

    def describe(self, index: int) -> str:
        """The file or record."""
        return self.parts[index][0].describe(self.parts[index][1])


@dataclass(frozen=True, kw_only=True)
class ImageDataset(Dataset):
    """Images with one label each; item i is {"image": PIL image in RGB, "label": int}.

    `classes` are the names of the labels 0, 1, ...; `labels` has the label of every item, read without opening an
    image; `indices` are the places of the items in `source`. A label outside the classes is a ValueError at once, an
    image that cannot be read one when it is asked for (or by `check`); both name the file or record. No class is named twice.
    """

    name: str
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    source: ImageSource
    indices: tuple[int, ...]

    def __post_init__(self):
        if len(self.labels) != len(self.indices):
            raise UserError(f"{self.name}: {len(self.indices)} images, but {len(self.labels)} labels")
        if not self.labels:
            raise UserError(f"{self.name} holds no images")
        if again := twice(self.classes):
            raise UserError(f"{self.name} has the class {again[0]!r} twice")
        for i, label in enumerate(self.labels):
            if not 0 <= label < len(self.classes):
                raise UserError(
                    f"{self.describe(i)} has label {label}, but the {len(self.classes)} classes are numbered from 0 to "
                    f"{len(self.classes) - 1}" + ("; -1 usually marks images without labels" if label == -1 else "")
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        index = self.indices[i]
        try:
            with exif_unremarked, self.source.open(index) as image:
                return {"image": to_rgb(image), "label": self.labels[i]}
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise UserError(f"{self.describe(i)} cannot be read as an image: {reason}") from error

    def describe(self, i: int) -> str:
        """The file or record of item i, for messages."""
        return self.source.describe(self.indices[i])

    def pictured(self) -> Iterator[str]:
        """The file or record of every item."""
        return (self.describe(i) for i in range(len(self)))

    def counts(self) -> tuple[int, ...]:
        """Number of images of each class."""
        of = Counter(self.labels)
        return tuple(of[label] for label in range(len(self.classes)))

    def subset(self, items: Iterable[int]) -> ImageDataset:
        """The data set of some items, in the order given."""
        items = list(items)
        return replace(self, labels=tuple(self.labels[i] for i in items), indices=tuple(self.indices[i] for i in items))

    def with_classes(self, classes: Sequence[str]) -> ImageDataset:
        """The same images with the labels of another list of class names, such as those of a trained adapter.

        ValueError if an image's class is not in that list.
        """
        place = {name: label for label, name in enumerate(classes)}
        for i, label in enumerate(self.labels):
            if self.classes[label] not in place:
                raise UserError(
                    f"{self.describe(i)} is of class {self.classes[label]!r}, which is not among the expected classes "
                    f"{', '.join(classes)}"
                )
        return replace(self, classes=tuple(classes), labels=tuple(place[self.classes[label]] for label in self.labels))

    def check(self) -> None:
        """Open the head of every image; one error names those that cannot be read (`every`). Decodes no pixels."""
        for _ in every(len(self), self._opened):
            pass

    def _opened(self, i: int) -> None:
        try:
            with exif_unremarked:
                self.source.open(self.indices[i]).close()
        except Exception as error:
            raise UserError(f"{self.describe(i)} ({error})") from error

    def require_every_class(self) -> None:
        """ValueError if a class has no image here, as training needs at least one of each."""
        empty = [name for name, count in zip(self.classes, self.counts(), strict=True) if not count]
        if empty:
            raise UserError(f"{self.name} has no training image of: {', '.join(empty)}")


def every(count: int, read: Callable[[int], T]) -> Iterator[T]:
    """read(0), read(1), ...; of images that cannot be read one UserError names the first twenty, after all were tried.

    As many threads as torch computes with read at a time (PIL decodes and resizes outside of Python's lock), a few images ahead of
    what was taken. Order, results and errors do not depend on their number.
    """

    def tried(i: int) -> tuple[T, None] | tuple[None, str]:
        try:
            return read(i), None
        except UserError as error:
            return None, str(error)

    faults: list[str] = []
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, threads * AHEAD):
            for found, fault in pool.map(tried, range(start, min(start + threads * AHEAD, count))):
                if fault is not None:
                    faults.append(fault)
                elif not faults:
                    yield cast(T, found)
    if faults:
        raise UserError(f"{len(faults):,} of {count:,} images cannot be read: {listed(faults)}")


def joined(first: ImageDataset, second: ImageDataset) -> ImageDataset:
    """The images of two data sets of the same classes, those of `first` in front."""
    if first.classes != second.classes:
        raise UserError(f"{first.name} and {second.name} have different classes")
    parts = tuple((part.source, index) for part in (first, second) for index in part.indices)
    return ImageDataset(
        name=f"{first.name} + {second.name}",
        classes=first.classes,
        labels=first.labels + second.labels,
        source=JoinedImages(parts),
        indices=tuple(range(len(parts))),
    )


def open_image(path: str | Path) -> Image:
    """The image of a file in RGB; FileNotFoundError without a file, ValueError for one that cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such image file: {path}")
    files = ImageFiles((path,))
    return ImageDataset(name=str(path), classes=("",), labels=(0,), source=files, indices=(0,))[0]["image"]


def to_rgb(image: Image) -> Image:
    """The image as 8-bit RGB, turned upright as its EXIF orientation says.

    Grey becomes three equal channels, transparency is dropped, and 16-bit grey (modes I;16 and I) is scaled from
    0..65535 to 0..255. ValueError where the scale cannot be known: floating-point pixels, integers above 16 bits.
    """
    image = _upright(image)
    if image.mode == "F":
        raise UserError("its pixels are floating-point numbers, whose scale is unknown; store it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if image.mode in ("P", "PA", "LA"):
        image = image.convert("RGBA")  # straight to RGB, PIL warns of a palette with transparency
    image = image.convert("RGB")  # decodes, which may still find the file damaged
    image.info = {}  # its EXIF has been heeded
    return image


def _upright(image: Image) -> Image:
    """The image turned as its EXIF says; one whose EXIF is damaged as it is stored, as every viewer shows it."""
    from PIL.Image import Transpose as To

    turns = {2: To.FLIP_LEFT_RIGHT, 3: To.ROTATE_180, 4: To.FLIP_TOP_BOTTOM, 5: To.TRANSPOSE, 6: To.ROTATE_270}
    turns |= {7: To.TRANSVERSE, 8: To.ROTATE_90}
    try:
        with exif_unremarked:
            turn = turns.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever PIL stumbles over in bytes that are no EXIF
        return image
    return image if turn is None else image.transpose(turn)


class _Unremarked:
    """Within the block PIL does not warn of damaged EXIF, which is no damage of the image.

    Filters of warnings belong to the whole process: of threads that are inside together the first one sets the filter, and the
    last one takes it away.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.filters = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.filters = warnings.catch_warnings()
                self.filters.__enter__()
                warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.filters.__exit__(None, None, None)


exif_unremarked = _Unremarked()


def _to_8_bits(image: Image) -> Image:
    """16-bit grey -> 8-bit grey, 65535 becoming 255."""
    import numpy as np
    from PIL import Image

    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise UserError(f"its integer pixels reach from {grey.min()} to {grey.max()}, beyond 16 bits")
    return Image.fromarray((grey / 257).round().astype(np.uint8))
