"""Images, and folders of images."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gossamer import data
from gossamer.data import open_image
from gossamer.data.preprocess import Preprocessing

from ..data.published import image
from . import Case


def jpeg(exif: bytes | None = None, cut: int | None = None, size: tuple[int, int] = (40, 30)) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    content = file.getvalue()
    if exif is not None:
        content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]
    return content[:cut]


def png(array: np.ndarray | None = None, cut: int | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((5, 7, 3), 90, np.uint8) if array is None else array).save(file, "PNG", **options)
    return file.getvalue()[:cut]


def saved(mode: str, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (7, 5), (200, 100, 0)).convert(mode).save(file, kind, **options)
    return file.getvalue()


TIFF = b"Exif\0\0II*\0\x08\0\0\0"
IMAGES: dict[str, tuple[bytes, bool]] = {
    "empty": (b"", False),
    "one byte": (b"\xff", False),
    "text": (b"this is no image", False),
    "a page": (b"<!doctype html><html>404</html>", False),
    "JSON": (b'{"error": "not found"}', False),
    "zeros": (bytes(4096), False),
    "a resource fork of macOS": (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", False),
    "an archive": (b"PK\x03\x04" + bytes(100), False),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", False),
    "a vector drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', False),
    "a JPEG's head": (jpeg(cut=4), False),
    "half a JPEG": (jpeg(cut=900), False),
    "a PNG's head": (png(cut=8), False),
    "half a PNG": (png(np.random.default_rng(1).integers(0, 255, (40, 30, 3), dtype=np.uint8), cut=900), False),
    "a PNG with a damaged part": (png()[:40] + b"\xff\xff\xff\xff" + png()[44:], False),
    "a GIF's head": (b"GIF89a", False),
    "a TIFF's head": (b"II*\0", False),
    "a WebP's head": (b"RIFF\x10\0\0\0WEBPVP8 ", False),
    "a PPM without pixels": (b"P6 4 4 255\n", False),
    "a PPM of a size without end": (b"P6 99999999 99999999 255\n", False),
    "floating-point pixels": (saved("F", "TIFF"), False),
    "garbage as EXIF": (jpeg(b"Exif\0\0garbage"), True),
    "EXIF that ends early": (jpeg(TIFF), True),
    "EXIF with an entry out of reach": (jpeg(TIFF + struct.pack("<HHHIII", 1, 0x0112, 3, 99999, 0xFFFFFF, 0)), True),
    "EXIF with an orientation that is none": (jpeg(TIFF + struct.pack("<HHHIII", 1, 0x0112, 3, 1, 77, 0)), True),
    "EXIF with an orientation that is a text": (
        jpeg(TIFF + struct.pack("<HHHI4sI", 1, 0x0112, 2, 4, b"up!\0", 0)),
        True,
    ),
    "EXIF that is empty": (jpeg(b""), True),
    "EXIF of random bytes": (jpeg(b"Exif\0\0" + np.random.default_rng(2).bytes(300)), True),
    "16 bits": (png(np.arange(35, dtype=np.uint16).reshape(5, 7)), True),
    "grey": (saved("L", "PNG"), True),
    "one bit": (saved("1", "PNG"), True),
    "a palette": (saved("P", "GIF"), True),
    "a palette with transparency": (saved("P", "PNG", transparency=b"\0\x80"), True),
    "transparency": (saved("RGBA", "PNG"), True),
    "print colours": (saved("CMYK", "JPEG"), True),
    "one pixel": (png(np.zeros((1, 1, 3), np.uint8)), True),
    "one line": (png(np.zeros((1, 300, 3), np.uint8)), True),
    "junk behind the end": (jpeg() + b"junk" * 99, True),
}


def images() -> Iterator[Case]:
    for name, (content, fine) in IMAGES.items():

        def made(folder: Path, content: bytes = content) -> Any:
            (folder / "3.jpg").write_bytes(content)
            pixels = Preprocessing(size=8)(open_image(folder / "3.jpg"))
            assert pixels.shape == (3, 8, 8)
            assert torch.isfinite(pixels).all()
            return pixels

        yield f"image, {name}", made, None if fine else "3.jpg"


# ---- folders of images ----

JUNK = (".DS_Store", "._1.png", "Thumbs.db", "desktop.ini", "__MACOSX/1.png", ".ipynb_checkpoints/1.png", ".git/1.png")
FOLDERS: dict[str, tuple[list[str], str | None]] = {
    "empty": ([], "class folder"),
    "one class": (["a/1.png"], "class folder"),
    "images without classes": (["1.png", "2.png"], "1.png|2.png"),
    "an image beside the classes": (["a/1.png", "b/1.png", "3.png"], "3.png"),
    "a class without images": (["a/1.png", "b/.DS_Store"], "b is empty|b.* is empty"),
    "files that are no images": (["a/1.png", "b/1.png", "b/x.txt", "b/y.pdf"], "x.txt; .*y.pdf"),
    "a folder in a class": (["a/1.png", "b/c/1.png"], "b/c"),
    "splits and classes": (["train/a/1.png", "train/b/1.png", "c/1.png"], "c"),
    "a split twice": (["train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/a/1.png"], "val and valid"),
    "junk everywhere": (["a/1.png", "b/1.png", *JUNK, *(f"{c}/{junk}" for c in "ab" for junk in JUNK)], None),
    "junk beside splits": (["train/a/1.png", "train/b/1.png", *JUNK, *(f"train/{junk}" for junk in JUNK)], None),
}


def folders() -> Iterator[Case]:
    for name, (tree, message) in FOLDERS.items():

        def made(folder: Path, tree: list[str] = tree, fine: bool = message is None) -> Any:
            for place in tree:
                if any(part in place for part in JUNK) or place.endswith((".txt", ".pdf")):
                    (folder / place).parent.mkdir(parents=True, exist_ok=True)
                    (folder / place).write_bytes(b"junk")
                else:
                    image(folder / place)
            found = data.load(folder, "train")
            assert not fine or (found.classes, len(found)) == (("a", "b"), 2)
            return found

        yield f"folder, {name}", made, message
