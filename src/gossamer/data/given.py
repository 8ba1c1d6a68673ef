"""Image files as people name them: one by one, or by their folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def names_images(given: str) -> bool:
    """Whether an argument names a file or folder that is there, or looks like an image file."""
    return Path(given).exists() or Path(given).suffix.lower() in SUFFIXES


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `paths` name: files as they are, and the images of folders and of the folders in them, sorted.

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
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise FileNotFoundError(f"{path} holds no image ({', '.join(SUFFIXES)})")
        found += inside
    return found
