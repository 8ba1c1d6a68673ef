"""Images with a class for every pixel: folders, ADE20K as published, and the data set that every reader gives.

A mask has the image's size; its values are the classes 0, 1, ..., and 255 where nobody labelled the pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch.utils.data import Dataset

from gossamer.data.files import entries, listed, twice
from gossamer.data.folder import SPLIT_NAMES
from gossamer.data.given import SUFFIXES
from gossamer.data.images import every, exif_unremarked, to_rgb
from gossamer.documents import expanded
from gossamer.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

IGNORE = 255
IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"
ADE20K = {"train": "training", "val": "validation"}
Zero = Literal["class", "ignore"]


class MaskSource(Protocol):
    """Where images and masks come from, counted from 0."""

    def open(self, index: int) -> tuple[Image, np.ndarray]:
        """The image in RGB, and its mask [H, W] of uint8 or wider."""
        ...

    def describe(self, index: int) -> str:
        """The file or record, for messages."""
        ...


@dataclass(frozen=True)
class MaskFiles:
    """Images and masks in files.

    With `zero` "ignore", 0 stands for pixels that nobody labelled, and class k for k - 1; 255 stays.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    zero: Zero = "class"

    def open(self, index: int) -> tuple[Image, np.ndarray]:
        """Decoded, the image upright and in RGB."""
        import numpy as np
        from PIL import Image

        with exif_unremarked, Image.open(self.images[index]) as image:
            picture = to_rgb(image)
        with Image.open(self.masks[index]) as mask:
            if mask.mode not in ("L", "P", "I;16", "I", "1"):
                raise UserError(
                    f"its mask {self.masks[index]} has the mode {mask.mode}: colours are no classes; store indices, one channel, "
                    "with a palette or without"
                )
            values = np.asarray(mask).astype(np.int64)
        return picture, reduced(values) if self.zero == "ignore" else values

    def describe(self, index: int) -> str:
        """The path of the image."""
        return str(self.images[index])


def reduced(mask: np.ndarray) -> np.ndarray:
    """Labels k -> k - 1, and 0 -> 255; 255 stays."""
    import numpy as np

    return np.where((mask == 0) | (mask == IGNORE), IGNORE, mask - 1)


@dataclass(frozen=True, kw_only=True)
class MaskDataset(Dataset):
    """Images with masks; item i is {"image": PIL image in RGB, "mask": uint8 [H, W]}.

    An image that cannot be read, a mask of another size, and a value that is neither a class nor 255 are ValueErrors that name the
    file, when the item is asked for.
    """

    name: str
    classes: tuple[str, ...]
    source: MaskSource
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.indices:
            raise UserError(f"{self.name} holds no images")
        if not 1 < len(self.classes) < IGNORE:
            raise UserError(f"{self.name} has {len(self.classes)} classes; 2 to {IGNORE - 1} can be told apart")
        if again := twice(self.classes):
            raise UserError(f"{self.name} has the class {again[0]!r} twice")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> dict[str, Any]:
        import numpy as np

        try:
            image, mask = self.source.open(self.indices[i])
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise UserError(f"{self.describe(i)} cannot be read with its mask: {reason}") from error
        if mask.shape != (image.height, image.width):
            raise UserError(
                f"{self.describe(i)} is {image.height} x {image.width} pixels, and its mask {' x '.join(map(str, mask.shape))}"
            )
        wrong = mask[(mask != IGNORE) & ((mask < 0) | (mask >= len(self.classes)))]
        if wrong.size:
            raise UserError(
                f"the mask of {self.describe(i)} has the value {int(wrong.flat[0])}; there are {len(self.classes)} classes, 0 to "
                f"{len(self.classes) - 1}, and {IGNORE} for pixels without a label"
            )
        return {"image": image, "mask": mask.astype(np.uint8)}

    def describe(self, i: int) -> str:
        """The file or record of item i, for messages."""
        return self.source.describe(self.indices[i])

    def pictured(self) -> Iterator[str]:
        """The file or record of every item."""
        return (self.describe(i) for i in range(len(self)))

    def subset(self, items: Iterable[int]) -> MaskDataset:
        """The data set of some items, in the order given."""
        return replace(self, indices=tuple(self.indices[i] for i in items))

    def check(self) -> None:
        """Reads every image and mask; one error names those that are not as they must be."""
        for _ in every(len(self), self.__getitem__):
            pass


@dataclass(frozen=True)
class JoinedMasks:
    """The images of several sources, one source after the other."""

    parts: tuple[tuple[MaskSource, int], ...]

    def open(self, index: int) -> tuple[Image, np.ndarray]:
        """The image at `index`, and its mask."""
        return self.parts[index][0].open(self.parts[index][1])

    def describe(self, index: int) -> str:
        """The file or record."""
        return self.parts[index][0].describe(self.parts[index][1])


def joined(sets: Sequence[MaskDataset]) -> MaskDataset:
    """The images of several data sets of the same classes as one."""
    if len(sets) == 1:
        return sets[0]
    if len({one.classes for one in sets}) > 1:
        raise UserError(f"{' and '.join(one.name for one in sets)} have different classes")
    parts = tuple((one.source, index) for one in sets for index in one.indices)
    name = " + ".join(one.name for one in sets)
    return MaskDataset(name=name, classes=sets[0].classes, source=JoinedMasks(parts), indices=tuple(range(len(parts))))


def load_mask_folder(root: str | Path, split: str = "train", zero: Zero = "class") -> MaskDataset:
    """A folder of `images/`, `masks/` (a PNG of the same name for each image) and `classes.txt` (a name a line, in order).

    Where it has folders named train, val or test (as in `load_folder`), each holds `images/` and `masks/`; classes.txt is beside
    them. Masks hold indices, with a palette (as Pascal VOC's) or without.

    Args:
        root: the folder.
        split: "train", "val" or "test".
        zero: what 0 means: the first class, or "ignore": no label, and classes are counted from 1.

    Raises:
        FileNotFoundError: a folder, classes.txt, or the mask of an image is not there.
        UserError: an absent split, no image, or a mask without an image.
    """
    root = expanded(root)
    found = mask_splits(root)
    if split not in found:
        raise UserError(f"{root} has no split {split!r}; it has: {', '.join(found) or 'neither images/ nor masks/'}")
    images, masks = pairs(found[split] / IMAGES, found[split] / MASKS)
    return MaskDataset(
        name=f"{root} ({split})", classes=class_names(root / CLASSES), source=MaskFiles(images, masks, zero),
        indices=tuple(range(len(images))),
    )  # fmt: skip


def mask_splits(root: Path) -> dict[str, Path]:
    """The splits of a folder of masks, each with the folder that holds its images and masks; none where it is no such folder."""
    if (root / MASKS).is_dir():
        return {"train": root}
    places = {
        split: [root / name for name in names if (root / name / MASKS).is_dir()] for split, names in SPLIT_NAMES.items()
    }
    return {split: there[0] for split, there in places.items() if there}


def class_names(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line, in order."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; it names the classes, one a line, in the order of the masks' values"
        )
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def pairs(images: Path, masks: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Image files and their masks, by name without ending.

    Raises:
        FileNotFoundError: a folder or a mask is not there.
        UserError: no image, two of one name, or a mask without an image.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(f"no such folder: {folder}")
    files = [path for path in entries(images) if path.suffix.lower() in SUFFIXES]
    by_name = {path.stem: path for path in entries(masks) if path.suffix.lower() == ".png"}
    if not files:
        raise UserError(f"{images} holds no image ({', '.join(SUFFIXES)})")
    if again := twice([path.stem for path in files]):
        raise UserError(f"{images} has two images called {again[0]}")
    if missing := [path.name for path in files if path.stem not in by_name]:
        raise FileNotFoundError(f"{masks} holds no mask (.png) of the same name for {listed(missing)}")
    if extra := sorted(by_name.keys() - {path.stem for path in files}):
        raise UserError(f"{images} holds no image for the masks {listed(extra)}")
    return tuple(files), tuple(by_name[path.stem] for path in files)


def ade20k(folder: Path, split: str) -> MaskDataset:
    """ADE20K's 150 classes from ADEChallengeData2016 (Zhou et al., CVPR 2017): 20,210 images for training, 2,000 for validation.

    `images/training/ADE_train_00000001.jpg` with `annotations/training/ADE_train_00000001.png`, one byte a pixel: 0 for none of
    the 150, which become 0 to 149. The answers of its test split are not published.
    """
    names = resources.files("gossamer.data").joinpath("ade20k_classes.txt").read_text(encoding="utf-8").splitlines()
    part = ADE20K[split]
    images, masks = pairs(folder / IMAGES / part, folder / "annotations" / part)
    return MaskDataset(
        name=f"ade20k ({split})", classes=tuple(names), source=MaskFiles(images, masks, "ignore"),
        indices=tuple(range(len(images))),
    )  # fmt: skip


def palette() -> list[int]:
    """Colours of the values 0 to 255 as Pascal VOC has them: red, green and blue of each in one list."""
    colours = []
    for value in range(256):
        rgb, rest = [0, 0, 0], value
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (rest >> channel & 1) << (7 - bit)
            rest >>= 3
        colours += rgb
    return colours


def picture_of(mask: np.ndarray) -> Image:
    """A mask [H, W] of uint8 as an image with a palette, whose pixels are the indices."""
    from PIL import Image

    image = Image.frombytes("P", (mask.shape[1], mask.shape[0]), mask.tobytes())
    image.putpalette(palette())
    return image


def overlay(image: Image, mask: np.ndarray, strength: float = 0.5) -> Image:
    """An image under the colours of its mask; where nobody labelled it, as it is."""
    import numpy as np
    from PIL import Image

    colours = np.array(palette(), dtype=np.float64).reshape(256, 3)[mask]
    pixels = np.asarray(image).astype(np.float64)
    mixed = np.where((mask == IGNORE)[:, :, None], pixels, (1 - strength) * pixels + strength * colours)
    return Image.fromarray(mixed.round().astype(np.uint8))
