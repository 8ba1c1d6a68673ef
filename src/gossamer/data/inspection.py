"""What a folder of images holds, before anything is trained on it: counts, sizes, damage, and the same image twice."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gossamer.data.folder import load_folder, split_folders
from gossamer.data.images import open_image
from gossamer.documents import expanded
from gossamer.errors import UserError


@dataclass(frozen=True)
class Inspection:
    """Of a folder of images.

    Args:
        folder: it.
        counts: images of each class of each split, the splits in the order train, val, test.
        sizes: width and height of the smallest, the middle and the largest image by area; None where none can be read.
        damaged: files that cannot be read as images, and why.
        twins: groups of files with the same bytes.
    """

    folder: Path
    counts: dict[str, dict[str, int]]
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None
    damaged: dict[Path, str]
    twins: list[list[Path]]

    @property
    def skew(self) -> float:
        """How many times the images of the smallest class the largest has, among those to train on."""
        counts = next(iter(self.counts.values())).values()
        return max(counts) / max(1, min(counts))

    @property
    def torn(self) -> list[list[Path]]:
        """Twins whose files do not all lie in one folder: of two classes, or of two splits."""
        return [group for group in self.twins if len({path.parent for path in group}) > 1]


def inspect(folder: str | Path, shown: Callable[[Sequence[Path]], Iterable[Path]] = iter) -> Inspection:
    """Reads every image of a folder, as `load_folder` has it, once.

    Args:
        folder: root/class/image.jpg, or root/train/class/image.jpg with val and test beside train.
        shown: is given the files and gives them back one by one, for a bar of progress.

    Raises:
        UserError: it is no such folder; see `load_folder`.
        FileNotFoundError: there is no such folder.
    """
    root = expanded(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder of images: {root}")
    sets = {split: load_folder(root, split) for split in split_folders(root)}
    counts = {split: dict(zip(images.classes, images.counts(), strict=True)) for split, images in sets.items()}
    files = [Path(images.describe(i)) for images in sets.values() for i in range(len(images))]
    sizes: list[tuple[int, int]] = []
    damaged: dict[Path, str] = {}
    same: dict[str, list[Path]] = defaultdict(list)
    for file in shown(files):
        try:
            same[hashlib.sha256(file.read_bytes()).hexdigest()].append(file)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what PIL has to say of an image that it can read
                sizes.append(open_image(file).size)
        except (OSError, UserError) as error:
            damaged[file] = str(error)
    sizes.sort(key=lambda size: size[0] * size[1])
    some = (sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else None
    return Inspection(root, counts, some, damaged, [group for group in same.values() if len(group) > 1])
