"""Image files as people name them: one by one, or by their folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gossamer.data.files import entries
from gossamer.data.images import open_image
from gossamer.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def names_images(given: str) -> bool:
    """Whether an argument names a file or folder that is there, or looks like an image file."""
    return Path(given).exists() or Path(given).suffix.lower() in SUFFIXES


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `paths` name: files as they are, and the images of folders and of the folders in them, sorted, without junk.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.is_file():
                raise FileNotFoundError(f"no such image file or folder: {path}")
            found.append(path)
            continue
        inside = _images_in(path, (path.resolve(),))
        if not inside:
            raise FileNotFoundError(f"{path} holds no image ({', '.join(SUFFIXES)})")
        found += inside
    return found


def readable(files: Sequence[Path], each: int = 1) -> tuple[list[Path], list[str]]:
    """The files that can be read as images, and what is wrong with the others; of every `each` files in turn all or none."""
    kept: list[Path] = []
    faults: list[str] = []
    for start in range(0, len(files), each):
        group = files[start : start + each]
        found = [fault for file in group if (fault := _fault(file)) is not None]
        kept += [] if found else group
        faults += found
    return kept, faults


def _images_in(folder: Path, above: tuple[Path, ...]) -> list[Path]:
    """Linked folders are entered, unless the link leads back to one of those `above`; a link to no file is an image as well."""
    found: list[Path] = []
    for path in entries(folder):
        if path.is_dir():
            real = path.resolve()
            found += [] if real in above else _images_in(path, (*above, real))
        elif path.suffix.lower() in SUFFIXES:
            found.append(path)
    return found


def _fault(file: Path) -> str | None:
    try:
        open_image(file)
    except (UserError, FileNotFoundError) as error:
        return str(error)
    return None
