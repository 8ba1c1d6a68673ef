"""Images with a caption each: a folder with `metadata.jsonl` (Hugging Face's imagefolder), or a folder and one prompt for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from gossamer.data import files
from gossamer.data.given import image_files
from gossamer.data.images import open_image
from gossamer.documents import expanded
from gossamer.errors import UserError

CAPTIONS = "metadata.jsonl"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CaptionedImages:
    """Image files, and what is said of each."""

    name: str
    files: tuple[Path, ...]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def open(self, i: int) -> Image:
        """The image at a place; UserError where it cannot be read."""
        return open_image(self.files[i])

    def pictured(self) -> Iterator[str]:
        """The files, for `require_apart`."""
        return map(str, self.files)

    def subset(self, items: Iterable[int]) -> CaptionedImages:
        """Some of them, in this order."""
        chosen = list(items)
        return dataclasses.replace(
            self, files=tuple(self.files[i] for i in chosen), texts=tuple(self.texts[i] for i in chosen)
        )


def has_captions(name: str) -> bool:
    """Whether a set is a folder of images with `metadata.jsonl`."""
    return bool(caption_splits(expanded(name)))


def caption_splits(folder: Path) -> dict[str, Path]:
    """Split -> its folder: those of train/, val/, test/ that hold `metadata.jsonl`, or the folder itself as "train"."""
    inside = {split: folder / split for split in SPLITS if (folder / split / CAPTIONS).is_file()}
    return inside or ({"train": folder} if (folder / CAPTIONS).is_file() else {})


def load_captions(name: str, split: str) -> CaptionedImages:
    """The images of one split with their captions, `file_name` and `text` of each line.

    Raises:
        UserError: a line is malformed or leads out of the folder; there is none.
        FileNotFoundError: an image is not there.
    """
    folder, found = caption_splits(expanded(name))[split], list[tuple[Path, str]]()
    places = []
    for place, record in files.read_json_lines(folder / CAPTIONS):
        named = files.field(record, "file_name", str, place)
        found.append((files.inside(folder, named, place), files.field(record, "text", str, place)))
        places.append((found[-1][0], place))
    if not found:
        raise UserError(f"{folder / CAPTIONS} has no line: each image is one, {{'file_name': ..., 'text': ...}}")
    files.require_present(places)
    return CaptionedImages(f"{name} ({split})", tuple(path for path, _ in found), tuple(text for _, text in found))


def load_subject(name: str, prompt: str) -> CaptionedImages:
    """The images of a folder, of each of which the prompt is said.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
    """
    found = tuple(image_files([expanded(name)]))
    return CaptionedImages(name, found, (prompt,) * len(found))
